#include "kit/kit.h"
#include "net/net.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define SOON (clock_now() + KIT_SLOW * 5 * SECOND) /* must not pass */

/* ---- pairs of connected streams ---- */

struct pair { struct stream *a, *b; };

static struct addr bound(int fd)
{
    struct sockaddr_storage sa;
    socklen_t n;
    must(machine->sock_name(fd, false, &sa, &n) == 0);
    return addr_of(&sa, n);
}

/* Over loopback TCP. The kernel connects without us; the accept can come later. */
static struct pair pair_tcp(void)
{
    struct pair p = { 0 };
    struct addr at, peer;
    struct io io;
    int listener, fd;

    must(addr_parse(S("127.0.0.1:0"), 0, &at) == OK);
    must(listen_open(&at, &listener) == OK);
    at = bound(listener);
    CHECK_ERR(stream_connect(&at, NULL, SOON, &p.a), OK);
    must(io_add_shared(&io, listener) == OK);
    CHECK_ERR(listen_accept(&io, SOON, &fd, &peer), OK);
    io_del(&io);
    machine->close(listener);
    p.b = stream_new(fd, &peer);
    CHECK(addr_eq(&p.a->peer, &p.b->local));
    CHECK(addr_eq(&p.b->peer, &p.a->local));
    return p;
}

static struct pair pair_unix(void)
{
    struct pair p;
    struct addr none = { 0 };
    int fd[2];
    must(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fd) == 0);
    p.a = stream_new(fd[0], &none);
    p.b = stream_new(fd[1], &none);
    return p;
}

static void pair_free(struct pair *p)
{
    stream_free(p->a);
    stream_free(p->b);
}

/* Hear exactly what is wanted, then consume it. */
static void hear(struct stream *s, str want)
{
    while (stream_pending(s).n < want.n)
        if (!CHECK_ERR(stream_fill(s, 1, SOON), OK, want))
            return;
    CHECK_STR(str_head(stream_pending(s), want.n), want);
    stream_consume(s, MIN(want.n, stream_pending(s).n));
}

static void say_now(struct stream *s, str bytes)
{
    stream_say(s, bytes);
    stream_flush(s);
}

static void hang_up(struct stream *s) { must(machine->sock_shutdown(s->io.fd, SHUT_WR) == 0); }

/* ---- hearing and saying ---- */

static err echo(void *arg)
{
    struct stream *s = arg;
    for (;;) {
        err e = stream_fill(s, 1, SOON);
        if (e == E_CLOSED)
            return OK;
        TRY(e);
        str got = stream_pending(s);
        stream_say(s, got); /* sent by the next fill, before it waits */
        stream_consume(s, got.n);
    }
}

/* The real machine, counted. */
static unsigned recvs, empty_recvs, sends;

static ssize_t counted_recv(int fd, void *p, size_t n)
{
    ssize_t got = machine_linux.sock_recv(fd, p, n);
    recvs++;
    empty_recvs += got == -EAGAIN;
    return got;
}

static ssize_t counted_send(int fd, const struct iovec *iov, int n)
{
    sends++;
    return machine_linux.sock_send(fd, iov, n);
}

static void echo_over(struct pair p)
{
    enum { ROUNDS = 200 };
    struct machine counted = machine_linux;

    counted.sock_recv = counted_recv;
    counted.sock_send = counted_send;
    machine = &counted;
    recvs = empty_recvs = sends = 0;
    {
        AUTO_GROUP g = group_open(NEVER);
        group_spawn(&g, "echo", echo, p.b);
        for (int i = 0; i < ROUNDS; i++) {
            stream_say(p.a, S("EHLO "));
            stream_say(p.a, S("there.example\r\n"));
            hear(p.a, S("EHLO there.example\r\n"));
        }
        hang_up(p.a);
        CHECK_ERR(group_wait(&g), OK);
    }
    machine = &machine_linux;
    CHECK_INT(p.a->bytes_in, ROUNDS * 20);
    CHECK_INT(p.a->bytes_out, ROUNDS * 20);
    /* One call a turn and none for nothing: the bytes lie there when epoll says so. */
    CHECK_INT(sends, 2 * ROUNDS);
    CHECK(recvs <= 2 * ROUNDS + 1 + empty_recvs);
    CHECK(empty_recvs <= 4);
    pair_free(&p);
}

TASK_TEST(stream_answers_over_tcp_with_one_call_a_turn) { echo_over(pair_tcp()); }
TASK_TEST(stream_answers_over_unix_with_one_call_a_turn) { echo_over(pair_unix()); }

TASK_TEST(stream_fill_flushes_before_it_waits_not_before_it_tries)
{
    struct pair p = pair_tcp();
    say_now(p.b, S("one"));
    hear(p.a, S("one"));
    p.a->io.readable = true;
    say_now(p.b, S("two"));
    task_sleep(clock_now() + MILLISECOND);
    stream_say(p.a, S("answer"));
    CHECK_ERR(stream_fill(p.a, 1, SOON), OK); /* it lay there */
    CHECK_INT(p.a->bytes_out, 0);
    CHECK_ERR(stream_fill(p.a, 1, clock_now() + MILLISECOND), E_TIMEOUT);
    CHECK_INT(p.a->bytes_out, 6);
    hear(p.b, S("answer"));
    pair_free(&p);
}

TASK_TEST(stream_times_out_and_stays_whole)
{
    struct pair p = pair_tcp();
    when began = clock_now();
    CHECK_ERR(stream_fill(p.a, 1, began + 5 * MILLISECOND), E_TIMEOUT);
    CHECK(clock_now() - began >= 5 * MILLISECOND);
    CHECK_ERR(stream_wait(p.a, clock_now() + MILLISECOND), E_TIMEOUT);
    say_now(p.a, S("421 too slow"));
    hear(p.b, S("421 too slow"));
    say_now(p.b, S("QUIT"));
    CHECK_ERR(stream_wait(p.a, SOON), OK);
    CHECK_ERR(stream_wait(p.a, SOON), OK);
    CHECK_INT(stream_pending(p.a).n, 0);
    hear(p.a, S("QUIT"));
    pair_free(&p);
}

/* ---- the end of the line ---- */

static void half_close(struct pair p, bool waiting)
{
    say_now(p.a, S("QUIT\r\n"));
    hang_up(p.a);
    if (!waiting)
        task_sleep(clock_now() + 2 * MILLISECOND); /* bytes and end are told as one event */
    hear(p.b, S("QUIT\r\n"));
    stream_say(p.b, S("250 ok\r\n"));
    CHECK_ERR(stream_fill(p.b, 1, SOON), E_CLOSED);
    hear(p.a, S("250 ok\r\n"));
    CHECK_ERR(stream_fill(p.b, 1, SOON), E_CLOSED);
    CHECK_ERR(stream_wait(p.b, SOON), OK);
    CHECK(p.b->io.hangup);
    say_now(p.b, S("221 bye\r\n"));
    CHECK_INT(p.b->broken, OK);
    hear(p.a, S("221 bye\r\n"));
    pair_free(&p);
}

TASK_TEST(stream_half_closed_is_heard_to_its_end)
{
    half_close(pair_tcp(), false);
    half_close(pair_tcp(), true);
    half_close(pair_unix(), false);
    half_close(pair_unix(), true);
}

/* More than one buffer is pending when the end is told. */
TASK_TEST(stream_half_closed_with_much_pending)
{
    struct pair p = pair_tcp();
    static char many[100000];
    size_t got = 0;
    say_now(p.a, str_of(many, sizeof many));
    hang_up(p.a);
    task_sleep(clock_now() + 2 * MILLISECOND);
    while (stream_fill(p.b, 1, SOON) == OK) {
        got += stream_pending(p.b).n;
        stream_consume(p.b, stream_pending(p.b).n);
    }
    CHECK_INT(got, sizeof many);
    pair_free(&p);
}

static void reset(struct stream **s)
{
    struct linger now = { .l_onoff = 1 };
    must(setsockopt((*s)->io.fd, SOL_SOCKET, SO_LINGER, &now, sizeof now) == 0);
    stream_free(take(*s));
}

TASK_TEST(stream_reset_is_remembered)
{
    struct pair p = pair_tcp();
    reset(&p.a);
    CHECK_ERR(stream_fill(p.b, 1, SOON), E_CLOSED);
    CHECK_INT(p.b->broken, E_CLOSED);
    fail(E_IO, "something else");
    stream_say(p.b, S("anybody there?"));
    stream_write(p.b, S("no"));
    stream_flush(p.b);
    CHECK_INT(p.b->bytes_out, 0);
    CHECK_ERR(stream_fill(p.b, 1, SOON), E_CLOSED);
    CHECK(str_has(err_text(), S("reset by peer")));
    CHECK_ERR(stream_wait(p.b, SOON), E_CLOSED);
    pair_free(&p);
}

TASK_TEST(stream_broken_while_saying_is_told_when_hearing)
{
    struct pair p = pair_tcp();
    stream_free(take(p.a));
    for (int i = 0; i < 100 && p.b->broken == OK; i++) {
        say_now(p.b, S("DATA\r\n"));
        task_sleep(clock_now() + MILLISECOND);
    }
    CHECK_INT(p.b->broken, E_CLOSED);
    CHECK_ERR(stream_fill(p.b, 1, SOON), E_CLOSED);
    pair_free(&p);
}

/* ---- slow and stuck readers ---- */

static char pattern(uint64_t at) { return (char)(at * 2654435761u >> 16); }

struct slow { struct stream *s; uint64_t got; when pause; };

static err read_slowly(void *arg)
{
    struct slow *r = arg;
    for (;;) {
        err e = stream_fill(r->s, 1, SOON);
        if (e == E_CLOSED)
            return OK;
        TRY(e);
        str got = stream_pending(r->s);
        bool same = true;
        for (size_t i = 0; i < got.n; i++)
            same &= got.p[i] == pattern(r->got + i);
        if (!CHECK(same))
            return E_DAMAGED;
        r->got += got.n;
        stream_consume(r->s, got.n);
        if (random_below(8) == 0)
            TRY(task_sleep(clock_now() + r->pause));
    }
}

static void small_buffers(struct stream *s)
{
    machine->sock_option(s->io.fd, SOL_SOCKET, SO_SNDBUF, 16 * 1024);
    machine->sock_option(s->io.fd, SOL_SOCKET, SO_RCVBUF, 16 * 1024);
}

static void to_slow_reader(struct pair p)
{
    enum { ALL = 2 * 1024 * 1024 };
    struct slow r = { p.b, 0, 300 };
    AUTO_BUF all = buf_in(NULL, ALL);

    for (uint64_t i = 0; i < ALL; i++)
        all.p[i] = pattern(i);
    small_buffers(p.a);
    small_buffers(p.b);
    p.a->write_wait = KIT_SLOW * SECOND;
    AUTO_GROUP g = group_open(NEVER);
    group_spawn(&g, "slow", read_slowly, &r);
    for (size_t at = 0, n; at < ALL; at += n) {
        n = random_below(3) ? 1 + random_below(5000) : random_below(200 * 1024);
        n = MIN(n, ALL - at);
        (random_below(2) ? stream_say : stream_write)(p.a, str_of(all.p + at, n));
    }
    stream_flush(p.a);
    CHECK_INT(p.a->broken, OK);
    CHECK_INT(p.a->bytes_out, ALL);
    hang_up(p.a);
    CHECK_ERR(group_wait(&g), OK);
    CHECK_INT(r.got, ALL);
    pair_free(&p);
}

TASK_TEST(stream_says_all_to_a_slow_reader_over_tcp) { to_slow_reader(pair_tcp()); }
TASK_TEST(stream_says_all_to_a_slow_reader_over_unix) { to_slow_reader(pair_unix()); }

TASK_TEST(stream_gives_up_a_reader_that_stands_still)
{
    struct pair p = pair_tcp();
    static char many[8 * 1024 * 1024];
    when began = clock_now();

    p.a->write_wait = 20 * MILLISECOND;
    stream_write(p.a, str_of(many, sizeof many));
    CHECK_INT(p.a->broken, E_TIMEOUT);
    CHECK(clock_now() - began >= 20 * MILLISECOND);
    fail(E_IO, "something else");
    CHECK_ERR(stream_fill(p.a, 1, SOON), E_TIMEOUT);
    CHECK(str_has(err_text(), S("took nothing")));
    pair_free(&p);
}

/* A byte now and then is progress: the wait is for progress, not for the whole. */
static err sip(void *arg)
{
    struct stream *s = arg;
    for (int i = 0; i < 12; i++) {
        TRY(task_sleep(clock_now() + 10 * KIT_SLOW * MILLISECOND));
        for (int j = 0; j < 20; j++) {
            TRY(stream_fill(s, 1, SOON));
            stream_consume(s, stream_pending(s).n);
        }
    }
    while (stream_fill(s, 1, SOON) == OK)
        stream_consume(s, stream_pending(s).n);
    return OK;
}

TASK_TEST(stream_waits_for_progress_not_for_the_whole)
{
    struct pair p = pair_unix();
    static char many[16 * 1024 * 1024];
    when began = clock_now();

    p.a->write_wait = 50 * KIT_SLOW * MILLISECOND;
    AUTO_GROUP g = group_open(NEVER);
    group_spawn(&g, "sip", sip, p.b);
    stream_write(p.a, str_of(many, sizeof many));
    CHECK_INT(p.a->broken, OK);
    CHECK(clock_now() - began > p.a->write_wait);
    hang_up(p.a);
    CHECK_ERR(group_wait(&g), OK);
    pair_free(&p);
}

TASK_TEST(attack_12_stream_gives_up_a_reader_that_sips)
{
    struct pair p = pair_unix();
    static char many[16 * 1024 * 1024];

    p.a->write_wait = 50 * KIT_SLOW * MILLISECOND;
    p.a->write_least = UINT64_C(1) << 30; /* by then it has to be over, though there is progress all the time */
    AUTO_GROUP g = group_open(NEVER);
    group_spawn(&g, "sip", sip, p.b);
    stream_write(p.a, str_of(many, sizeof many));
    CHECK_INT(p.a->broken, E_TIMEOUT);
    CHECK(p.a->bytes_out < sizeof many);
    hang_up(p.a);
    group_wait(&g);
    pair_free(&p);
}

/* ---- cancellation ---- */

struct in_stream { struct stream *s; err got; };

static err fill_forever(void *arg)
{
    struct in_stream *i = arg;
    i->got = stream_fill(i->s, 1, NEVER);
    return OK;
}

static err write_forever(void *arg)
{
    struct in_stream *i = arg;
    static char many[8 * 1024 * 1024];
    stream_write(i->s, str_of(many, sizeof many));
    i->got = i->s->broken;
    return OK;
}

TASK_TEST(stream_waits_end_by_cancellation)
{
    struct pair p = pair_tcp();
    struct in_stream r = { p.a, OK }, w = { p.b, OK }, late = { p.a, OK };
    AUTO_GROUP g = group_open(NEVER);
    group_spawn(&g, "read", fill_forever, &r);
    group_spawn(&g, "write", write_forever, &w);
    task_sleep(clock_now() + MILLISECOND);
    group_cancel(&g);
    CHECK_ERR(group_wait(&g), OK);
    /* The writer's bytes came to the reader: it had no reason to wait. */
    CHECK_INT(w.got, E_CANCELED);
    group_spawn(&g, "late", fill_forever, &late);
    group_wait(&g);
    CHECK_INT(late.got, E_CANCELED);
    pair_free(&p);
}

/* ---- buffers ---- */

TASK_TEST(stream_buffers_begin_small_and_grow_with_need)
{
    struct pair p = pair_unix();
    static char many[150000];

    CHECK_INT(p.b->in.cap, 0);
    say_now(p.a, S("hello"));
    CHECK_ERR(stream_fill(p.b, 1, SOON), OK);
    CHECK_INT(p.b->in.cap, 4096);
    stream_release(p.b);        /* not while something is pending */
    CHECK_STR(stream_pending(p.b), S("hello"));
    stream_consume(p.b, 2);
    CHECK_INT(p.b->in.n, 5);    /* what is consumed stays until the next fill */
    stream_consume(p.b, 3);
    stream_release(p.b);
    CHECK_INT(p.b->in.cap, 0);
    CHECK(p.a->out.cap > 0);
    stream_release(p.a);
    CHECK_INT(p.a->out.cap, 0);

    say_now(p.a, str_of(many, sizeof many));
    for (size_t got = 0; got < sizeof many; ) {
        CHECK_ERR(stream_fill(p.b, 1, SOON), OK);
        got += stream_pending(p.b).n;
        stream_consume(p.b, stream_pending(p.b).n);
    }
    CHECK_INT(p.b->in.cap, 65536);
    say_now(p.a, S("x"));
    CHECK_ERR(stream_fill(p.b, 200000, SOON), OK);
    CHECK(p.b->in.cap >= 200000);
    hear(p.b, S("x"));
    CHECK_ERR(stream_fill(p.b, 1024 * 1024 + 1, SOON), E_LIMIT);
    CHECK_ERR(stream_fill(p.b, SIZE_MAX, SOON), E_LIMIT);
    pair_free(&p);
}

struct flood { struct stream *s; uint64_t n; };

static err flood(void *arg)
{
    struct flood *f = arg;
    static char bytes[50000];
    while (f->s->broken == OK && !task_canceled()) {
        stream_say(f->s, str_of(bytes, sizeof bytes));
        f->n += sizeof bytes;
    }
    return f->s->broken;
}

TASK_TEST(stream_holds_a_mebibyte_pending_at_most)
{
    struct pair p = pair_unix();
    struct flood f = { p.a, 0 };
    AUTO_GROUP g = group_open(NEVER);
    group_spawn(&g, "flood", flood, &f);
    err e;
    while ((e = stream_fill(p.b, 4096, SOON)) == OK)
        CHECK(stream_pending(p.b).n <= 1024 * 1024);
    CHECK_INT(e, E_LIMIT);
    CHECK(stream_pending(p.b).n > 1024 * 1024 - 4096);
    CHECK(p.b->in.cap <= 2 * 1024 * 1024);
    group_close(&g);
    pair_free(&p);
}

/* ---- other lines than sockets ---- */

struct fake { unsigned recvs; bool pending; };

static ssize_t fake_recv(void *ctx, struct io *io, void *p, size_t n)
{
    struct fake *f = ctx;
    (void)io, (void)n;
    f->recvs++;
    f->pending = false;
    *(char *)p = 'x';
    return 1;
}

static bool fake_pending(void *ctx) { return ((struct fake *)ctx)->pending; }
static void fake_close(void *ctx, struct io *io) { (void)ctx, machine->close(io->fd); }
static const struct stream_ops fake_ops = { .recv = fake_recv, .pending = fake_pending, .close = fake_close };

static err count_turns(void *arg)
{
    for (;;) {
        TRY(task_yield());
        ++*(unsigned *)arg;
    }
}

TASK_TEST(stream_that_never_ends_leaves_others_their_turn)
{
    struct pair p = pair_unix();
    struct fake f = { 0 };
    unsigned turns = 0;

    p.a->ops = &fake_ops;
    p.a->ctx = &f;
    p.a->io.readable = true;    /* and nobody clears it */
    AUTO_GROUP g = group_open(NEVER);
    group_spawn(&g, "others", count_turns, &turns);
    for (int i = 0; i < 1000; i++) {
        CHECK_ERR(stream_fill(p.a, 1, SOON), OK);
        stream_consume(p.a, 1);
    }
    CHECK(turns >= 20);
    when late = clock_now() - 1;
    err e = OK;
    for (int i = 0; i < 100 && e == OK; i++)
        e = stream_fill(p.a, 1, late);
    CHECK_INT(e, E_TIMEOUT);
    group_close(&g);
    pair_free(&p);
}

TASK_TEST(stream_asks_what_lies_behind_the_descriptor)
{
    struct pair p = pair_unix();
    struct fake f = { .pending = true };
    p.a->ops = &fake_ops;
    p.a->ctx = &f;
    CHECK_ERR(stream_wait(p.a, SOON), OK);
    CHECK_ERR(stream_fill(p.a, 1, SOON), OK);
    CHECK_INT(f.recvs, 1);
    CHECK_ERR(stream_wait(p.a, clock_now() + MILLISECOND), E_TIMEOUT);
    pair_free(&p);
}

/* ---- connecting ---- */

TASK_TEST(stream_connect_refused)
{
    struct addr at;
    struct stream *s = NULL;
    int fd;
    must(addr_parse(S("127.0.0.1:0"), 0, &at) == OK);
    must(listen_open(&at, &fd) == OK);
    at = bound(fd);
    machine->close(fd);
    CHECK_ERR(stream_connect(&at, NULL, SOON, &s), E_REFUSED);
    CHECK(str_has(err_text(), S("127.0.0.1:")));
    CHECK(!s);
    must(addr_parse(S("unix:/nonexistent/x.sock"), 0, &at) == OK);
    CHECK_ERR(stream_connect(&at, NULL, SOON, &s), E_NOTFOUND);
}

struct connecting { struct addr to; when deadline; err got; };

static err connect_one(void *arg)
{
    struct connecting *c = arg;
    struct stream *s = NULL;
    c->got = stream_connect(&c->to, NULL, c->deadline, &s);
    stream_free(s);
    return OK;
}

TASK_TEST(stream_connect_times_out_and_is_cancelled)
{
    struct addr at;
    struct stream *queued[4] = { 0 };
    int fd = machine->sock_open(AF_INET, SOCK_STREAM);

    must(addr_parse(S("127.0.0.1:0"), 0, &at) == OK);
    must(machine->sock_bind(fd, &at.sa, at.n) == 0 && machine->sock_listen(fd, 0) == 0);
    at = bound(fd);
    size_t n = 0;
    err e = OK;
    while (n < COUNT(queued) && (e = stream_connect(&at, NULL, clock_now() + 50 * MILLISECOND, &queued[n])) == OK)
        n++; /* until the queue is full */
    CHECK_ERR(e, E_TIMEOUT);
    struct connecting c = { at, NEVER, OK };
    AUTO_GROUP g = group_open(NEVER);
    group_spawn(&g, "connect", connect_one, &c);
    task_sleep(clock_now() + MILLISECOND);
    group_close(&g);
    CHECK_INT(c.got, E_CANCELED);
    EACH(queued, s)
        stream_free(*s);
    machine->close(fd);
}

TASK_TEST(stream_connect_from_an_address)
{
    struct addr at, from, peer;
    struct stream *s = NULL;
    struct io io;
    int listener, fd;
    char text[ADDR_TEXT];

    must(addr_parse(S("127.0.0.1:0"), 0, &at) == OK && addr_parse(S("127.0.0.2:0"), 0, &from) == OK);
    must(listen_open(&at, &listener) == OK && io_add_shared(&io, listener) == OK);
    at = bound(listener);
    CHECK_ERR(stream_connect(&at, &from, SOON, &s), OK);
    CHECK_ERR(listen_accept(&io, SOON, &fd, &peer), OK);
    CHECK_STR(addr_print_ip(&peer, text), S("127.0.0.2"));
    CHECK(addr_eq(&peer, &s->local));
    machine->close(fd);
    stream_free(take(s));
    must(addr_parse(S("192.0.2.7:0"), 0, &from) == OK);
    CHECK_ERR(stream_connect(&at, &from, SOON, &s), E_NOWAY); /* no address of ours */
    io_del(&io);
    machine->close(listener);
}

/* ---- an idle session ---- */

#ifndef WAYPOST_SANITIZED
static err idle(void *arg)
{
    struct stream *s = arg;
    say_now(s, S("220 mx.example.net\r\n"));
    hear(s, S("EHLO\r\n"));
    say_now(s, S("250 mx.example.net\r\n"));
    stream_release(s);
    task_trim();
    return stream_wait(s, clock_now() + HOUR);
}

static size_t resident(void)
{
    unsigned long all, here;
    char text[64] = { 0 };
    int fd = open("/proc/self/statm", O_RDONLY);
    must(read(fd, text, sizeof text - 1) > 0 && sscanf(text, "%lu %lu", &all, &here) == 2);
    close(fd);
    return here * 4096;
}

TASK_TEST(stream_idle_session_costs_little)
{
    enum { MANY = 500 };
    static struct pair p[MANY];
    static int far[MANY];
    char heard[64];

    size_t before = resident();
    AUTO_GROUP g = group_open(NEVER);
    for (int i = 0; i < MANY; i++) {
        struct addr none = { 0 };
        int fd[2];
        must(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fd) == 0);
        far[i] = fd[1];
        p[i].a = stream_new(fd[0], &none);
        group_spawn(&g, "idle", idle, p[i].a);
    }
    task_sleep(clock_now() + 10 * MILLISECOND);
    for (int i = 0; i < MANY; i++)
        must(read(far[i], heard, sizeof heard) > 0 && write(far[i], "EHLO\r\n", 6) == 6);
    task_sleep(clock_now() + 20 * MILLISECOND);
    size_t each = (resident() - before) / MANY;
    if (getenv("KIT_VERBOSE"))
        printf("an idle session: %zu bytes, struct stream %zu\n", each, sizeof(struct stream));
    CHECK(each <= 12 * 1024);
    group_close(&g);
    for (int i = 0; i < MANY; i++) {
        stream_free(p[i].a);
        close(far[i]);
    }
}
#endif
