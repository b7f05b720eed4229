#include "kit/kit.h"
#include "net/net.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

/* A pair of connected streams over real loopback TCP. */
struct pair { int listener; struct stream *a, *b; };

static err accept_one(void *arg)
{
    struct pair *p = arg;
    struct io io;
    struct addr peer;
    int fd;

    TRY(io_add_shared(&io, p->listener));
    err e = listen_accept(&io, clock_now() + 5 * SECOND, &fd, &peer);
    io_del(&io);
    TRY(e);
    p->b = stream_new(fd, &peer);
    return OK;
}

static err pair_open(struct pair *p)
{
    struct addr at, bound;
    struct sockaddr_storage sa;
    socklen_t n;

    TRY(addr_parse(S("127.0.0.1:0"), 0, &at));
    TRY(listen_open(&at, &p->listener));
    must(machine->sock_name(p->listener, false, &sa, &n) == 0);
    bound = addr_of(&sa, n);
    AUTO_GROUP g = group_open(NEVER);
    group_spawn(&g, "accept", accept_one, p);
    TRY(stream_connect(&bound, NULL, clock_now() + 5 * SECOND, &p->a));
    return group_wait(&g);
}

static void pair_close(struct pair *p)
{
    stream_free(p->a);
    stream_free(p->b);
    machine->close(p->listener);
}

static err echo(void *arg)
{
    struct stream *s = arg;
    for (;;) {
        err e = stream_fill(s, 1, clock_now() + 5 * SECOND);
        if (e == E_CLOSED)
            return OK;
        TRY(e);
        str got = stream_pending(s);
        stream_say(s, got);
        stream_consume(s, got.n);
    }
}

static err ping(void *arg)
{
    struct pair p = { 0 };
    (void)arg;
    CHECK_ERR(pair_open(&p), OK);
    {
        AUTO_GROUP g = group_open(NEVER);
        group_spawn(&g, "echo", echo, p.b);
        for (int i = 0; i < 100; i++) {
            stream_say(p.a, S("hello"));
            CHECK_ERR(stream_fill(p.a, 1, clock_now() + 5 * SECOND), OK);
            CHECK_STR(stream_pending(p.a), S("hello"));
            stream_consume(p.a, 5);
        }
        machine->sock_shutdown(p.a->io.fd, SHUT_WR);
        CHECK_ERR(group_wait(&g), OK);
    }
    pair_close(&p);
    return OK;
}

TEST(stream_answers_over_tcp) { CHECK_ERR(task_main(ping, NULL), OK); }
