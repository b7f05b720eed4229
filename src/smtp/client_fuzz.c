/* Whatever a server says, in whatever order: every recipient ends with one answer or none, and no wait lasts. The input
 * is all that the server ever says; then it is gone. */
#include "kit/kit.h"
#include "smtp/smtp.h"

#include <unistd.h>

static err piece(void *ctx, size_t i, str *ret)
{
    (void)ctx;
    static const str pieces[] = { S("A: b\r\n\r\n"), S(".hello\r\n") };
    *ret = i < COUNT(pieces) ? pieces[i] : (str){ 0 };
    return OK;
}

static const struct body body = { .size = 16, .dots = true, .piece = piece };

static void check_answers(const struct answer *out, size_t n, bool all)
{
    for (size_t i = 0; i < n; i++) {
        must(!all || out[i].settled || out[i].offered);
        must(!out[i].settled || (out[i].reply.code >= 200 && out[i].reply.code < 600 && out[i].reply.code / 100 != 3));
        must(out[i].reply.text.n <= 4096);
    }
}

static err deliver(struct client *c, arena *a)
{
    struct rcpt rcpts[] = { { .to = S("bob@example.org") }, { .to = S("eve@example.org") } };
    struct envelope env = { .sender = S("ann@example.net"), .rcpt = rcpts, .nrcpt = 2, .body = BODY_BINARY };
    struct answer out[2][2] = { 0 };
    bool any, offered = false;

    for (unsigned i = 0; i < 3; i++) {
        struct answer *o = out[i & 1];
        if (!offered) {
            memset(o, 0, sizeof out[0]);
            client_offer(c, &env, 16);
        }
        offered = false;
        err e = client_answers(c, &env, a, o, &any);
        check_answers(o, 2, e == OK);
        must(e == OK || !any);
        TRY(e);
        if (!any)
            continue;
        TRY(client_body(c, &env, &body, o));
        env.body = BODY_7BIT;
        if (c->caps & CAP_PIPELINING) {
            memset(out[~i & 1], 0, sizeof out[0]);
            client_offer(c, &env, 16);
            offered = true;
        }
        e = client_settle(c, &env, a, o);
        check_answers(o, 2, e == OK);
        for (size_t r = 0; r < 2; r++)
            must(e == E_MAYBE ? !o[r].offered || !o[r].settled : o[r].settled || e != OK);
        TRY(e);
    }
    return client_reset(c);
}

static err talk(void *arg)
{
    AUTO_ARENA a = arena_new();
    struct addr none = { 0 };
    struct client *c = NULL;
    int fd[2];
    str says = *(str *)arg;

    must(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fd) == 0);
    says.n = MIN(says.n, 100000); /* what the socket holds */
    must(says.n == 0 || write(fd[0], says.p, says.n) == (ssize_t)says.n);
    shutdown(fd[0], SHUT_WR);
    if (client_open(stream_new(fd[1], &none), S("me.example"), &c) == OK)
        deliver(c, a);
    must(c->last.text.n <= 4096 && c->greeting_name.n <= 4096);
    client_quit(c);
    close(fd[0]);
    return OK;
}

FUZZ(data, size)
{
    str says = str_of((const char *)data, size);
    task_main(talk, &says);
}
