#include "smtp/client_play_test.h"

#include <unistd.h>

struct peer {
    struct stream *s;
    const struct turn *turn;
    size_t n;
    bool drip;                  /* say it octet by octet */
};

static bool peer_hears(struct peer *p, str want)
{
    while (stream_pending(p->s).n < want.n) {
        str got = stream_pending(p->s);
        if (!str_starts(want, got) || stream_fill(p->s, 1, SOON) != OK)
            return CHECK_STR(got, want);
    }
    str got = str_head(stream_pending(p->s), want.n);
    bool same = CHECK_STR(got, want);
    stream_consume(p->s, want.n);
    return same;
}

static err peer_run(void *arg)
{
    struct peer *p = arg;

    for (size_t i = 0; i < p->n && p->turn[i].says; i++) {
        if (!peer_hears(p, str_z(p->turn[i].hears)))
            break;
        str says = str_z(p->turn[i].says);
        for (size_t n; says.n; says = str_from(says, n)) {
            n = p->drip ? 1 : says.n;
            stream_say(p->s, str_head(says, n));
            stream_flush(p->s);
            if (p->drip)
                task_yield();
        }
    }
    if (p->n && !p->turn[p->n - 1].says)
        peer_hears(p, str_z(p->turn[p->n - 1].hears));
    else
        stream_fill(p->s, 1, SOON); /* until the client goes */
    stream_free(p->s);
    return OK;
}

err play_run(void *arg)
{
    const struct play *play = arg;
    struct addr none = { 0 };
    struct client *c = NULL;
    int fd[2];

    must(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fd) == 0);
    struct peer peer = { .s = stream_new(fd[0], &none), .turn = play->turn, .n = play->n, .drip = play->drip };
    AUTO_GROUP g = group_open(SOON);
    group_spawn(&g, "peer", peer_run, &peer);
    err e = (play->open ? play->open : client_open)(stream_new(fd[1], &none), S("me.example"), &c);
    play->run(c, e);
    client_free(c);
    return group_wait(&g);
}

void play_both(void (*run)(struct client *c, err opened), const struct turn *turn, size_t n)
{
    struct play whole = { .run = run, .turn = turn, .n = n }, drip = { .run = run, .turn = turn, .n = n, .drip = true };
    CHECK_ERR(task_main(play_run, &whole), OK);
    CHECK_ERR(task_main(play_run, &drip), OK);
}

static struct rcpt two_rcpts[] = {
    { .to = S("bob@example.org"), .given = S("bob@example.org") }, { .to = S("eve@example.org"), .given = S("eve@example.org") },
};
const struct envelope two = { .sender = S("ann@example.net"), .rcpt = two_rcpts, .nrcpt = 2 };

err next_piece(void *ctx, size_t i, str *ret)
{
    struct pieces *p = ctx;
    if (p->fails && i == p->at)
        return fail(p->fails, "no more");
    *ret = i < p->all.n ? p->all.p[i] : (str){ 0 };
    return OK;
}

static str hello_pieces[] = { S("A: b\r\n\r\n"), S("hello\r\n") };
static struct pieces hello = { .all = { hello_pieces, 2 } };
const struct body hello_body = { .size = 15, .piece = next_piece, .ctx = &hello };
