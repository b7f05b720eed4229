/* Whatever a server says, in whatever order: every recipient ends with one answer or none, and no wait lasts. The input
 * is all that the server ever says; NULs divide it into what it says at a time. */
#include "kit/kit.h"
#include "smtp/smtp.h"

#include <sys/socket.h>
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
        if ((c->caps & CAP_PIPELINING) && i < 2) {
            memset(out[~i & 1], 0, sizeof out[0]);
            client_offer(c, &env, 16);
            offered = true;
        }
        e = client_settle(c, &env, a, o);
        check_answers(o, 2, e == OK);
        for (size_t r = 0; r < 2; r++)
            must(e == E_MAYBE ? c->lmtp || !o[r].offered || !o[r].settled : o[r].settled || e != OK);
        TRY(e);
    }
    return client_reset(c);
}

struct talker { int fd; str says; };

#define PATIENCE (20 * MILLISECOND) /* both sides are tasks of this thread: who says nothing for so long waits for us */

/* What it says up to a NUL is said at once, what is behind it when it has heard something, and so on; then it is gone. */
static err serve(void *arg)
{
    struct talker *v = arg;
    when deadline = clock_now() + PATIENCE;
    struct addr none = { 0 };
    AUTO(stream) s = stream_new(v->fd, &none);
    str part;

    while (str_cut(&v->says, str_of("", 1), &part)) {
        stream_say(s, part);
        stream_flush(s);
        if (!v->says.p || stream_fill(s, 1, deadline) != OK)
            break;
        stream_consume(s, stream_pending(s).n);
    }
    return OK;
}

static err talk_as(str says, err (*open)(struct stream *s, str name, struct client **ret))
{
    AUTO_ARENA a = arena_new();
    struct addr none = { 0 };
    struct client *c = NULL;
    int fd[2];
    struct talker v = { .says = says };

    must(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fd) == 0);
    v.fd = fd[0];
    v.says.n = MIN(v.says.n, 100000); /* what the socket holds */
    AUTO_GROUP g = group_open(NEVER);
    group_spawn(&g, "server", serve, &v);
    if (open(stream_new(fd[1], &none), S("me.example"), &c) == OK)
        deliver(c, a);
    must(c->last.text.n <= 4096 && c->greeting_name.n <= 4096);
    client_quit(c);
    return OK;
}

static err talk(void *says)
{
    TRY(talk_as(*(str *)says, client_open));
    return talk_as(*(str *)says, client_open_lmtp);
}

FUZZ(data, size)
{
    str says = str_of((const char *)data, size);
    task_main(talk, &says);
}
