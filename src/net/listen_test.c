#include "kit/kit.h"
#include "net/net.h"

#include <netinet/tcp.h>
#include <stdio.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#define SOON (clock_now() + KIT_SLOW * 5 * SECOND)

static struct addr addr(str s)
{
    struct addr a = { 0 };
    CHECK_ERR(addr_parse(s, 0, &a), OK, s);
    return a;
}

static struct addr bound(int fd)
{
    struct sockaddr_storage sa;
    socklen_t n;
    must(machine->sock_name(fd, false, &sa, &n) == 0);
    return addr_of(&sa, n);
}

static struct addr in_dir(const char *name)
{
    char text[200];
    int n = snprintf(text, sizeof text, "unix:%s/%s", kit_dir(), name);
    return addr(str_of(text, (size_t)n));
}

/* ---- TCP ---- */

TASK_TEST(listen_takes_clients_of_both_families)
{
    static const struct { str listen, connect, peer; bool maybe; } cases[] = {
        { S("127.0.0.1:0"), S("127.0.0.1:0"), S("127.0.0.1") },
        { S("0.0.0.0:0"), S("127.0.0.1:0"), S("127.0.0.1") },
        { S("[::1]:0"), S("[::1]:0"), S("::1"), true },
        { S("[::]:0"), S("[::1]:0"), S("::1"), true },
        { S("[::]:0"), S("127.0.0.1:0"), S("127.0.0.1"), true }, /* both, and v4-mapped becomes v4 */
    };
    EACH(cases, c) {
        struct addr at = addr(c->listen), to = addr(c->connect), peer;
        struct stream *s = NULL;
        struct io io;
        char text[ADDR_TEXT];
        int fd, listener;

        err e = listen_open(&at, &listener);
        if (e != OK && c->maybe) /* a machine without IPv6 */
            continue;
        CHECK_ERR(e, OK, c->listen);
        at = bound(listener);
        addr_set_port(&to, addr_port(&at));
        must(io_add_shared(&io, listener) == OK);
        CHECK_ERR(stream_connect(&to, NULL, SOON, &s), OK, c->listen);
        CHECK_ERR(listen_accept(&io, SOON, &fd, &peer), OK, c->listen);
        CHECK_STR(addr_print_ip(&peer, text), c->peer, c->listen);
        int no_delay = 0;
        socklen_t n = sizeof no_delay;
        CHECK(getsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &no_delay, &n) == 0 && no_delay); /* from the listener */
        io_del(&io);
        machine->close(fd);
        machine->close(listener);
        stream_free(s);
    }
}

TASK_TEST(listen_twice_is_an_error_that_names_the_address)
{
    struct addr at = addr(S("127.0.0.1:0"));
    int first, second;
    CHECK_ERR(listen_open(&at, &first), OK);
    at = bound(first);
    CHECK_ERR(listen_open(&at, &second), E_EXISTS);
    CHECK(str_has(err_text(), S("127.0.0.1:")));
    machine->close(first);
}

TASK_TEST(listen_accept_waits_no_longer_than_told)
{
    struct addr at = addr(S("127.0.0.1:0")), peer;
    struct io io;
    int fd, listener;
    must(listen_open(&at, &listener) == OK && io_add_shared(&io, listener) == OK);
    CHECK_ERR(listen_accept(&io, clock_now() + 2 * MILLISECOND, &fd, &peer), E_TIMEOUT);
    io_del(&io);
    machine->close(listener);
}

/* A client waits and nobody takes it: level-triggered, but no reason to spin. */
TASK_TEST(listen_shared_rests_while_nobody_accepts)
{
    struct addr at = addr(S("127.0.0.1:0")), peer;
    struct stream *s[3] = { 0 };
    struct io io;
    int fd, listener;

    must(listen_open(&at, &listener) == OK && io_add_shared(&io, listener) == OK);
    at = bound(listener);
    for (int i = 0; i < 3; i++)
        CHECK_ERR(stream_connect(&at, NULL, SOON, &s[i]), OK);
    uint64_t before = thread_stats().sleeps;
    task_sleep(clock_now() + 20 * MILLISECOND);
    CHECK(thread_stats().sleeps - before < 5);
    for (int i = 0; i < 3; i++) {
        CHECK_ERR(listen_accept(&io, SOON, &fd, &peer), OK);
        CHECK(addr_eq(&peer, &s[i]->local));
        machine->close(fd);
    }
    CHECK_ERR(listen_accept(&io, clock_now() + MILLISECOND, &fd, &peer), E_TIMEOUT);
    EACH(s, one)
        stream_free(*one);
    io_del(&io);
    machine->close(listener);
}

/* Three threads accept from one socket: each client comes to exactly one of them. */
struct taker { int listener; int taken; };

static err take_all(void *arg)
{
    struct taker *t = arg;
    struct addr peer;
    struct io io;
    int fd;
    TRY(io_add_shared(&io, t->listener));
    while (listen_accept(&io, clock_now() + KIT_SLOW * 50 * MILLISECOND, &fd, &peer) == OK) {
        t->taken++;
        machine->close(fd);
    }
    io_del(&io);
    return OK;
}

TASK_TEST(listen_shared_by_threads)
{
    struct addr at = addr(S("127.0.0.1:0"));
    struct thread *thread[3];
    struct taker taker[3];
    int listener, all = 0;

    must(listen_open(&at, &listener) == OK);
    at = bound(listener);
    for (int i = 0; i < 3; i++) {
        taker[i] = (struct taker){ listener, 0 };
        thread[i] = thread_start("taker", take_all, &taker[i]);
    }
    for (int i = 0; i < 100; i++) {
        struct stream *s = NULL;
        CHECK_ERR(stream_connect(&at, NULL, SOON, &s), OK);
        stream_free(s);
    }
    for (int i = 0; i < 3; i++) {
        CHECK_ERR(thread_join(thread[i]), OK);
        all += taker[i].taken;
    }
    CHECK_INT(all, 100);
    machine->close(listener);
}

TASK_TEST(attack_60_listen_out_of_descriptors_keeps_the_client)
{
    struct addr at = addr(S("127.0.0.1:0")), peer;
    struct stream *s = NULL;
    struct io io;
    struct rlimit before, none;
    int fd, listener;

    must(listen_open(&at, &listener) == OK && io_add_shared(&io, listener) == OK);
    at = bound(listener);
    CHECK_ERR(stream_connect(&at, NULL, SOON, &s), OK);
    getrlimit(RLIMIT_NOFILE, &before);
    none = before;
    none.rlim_cur = 3;
    must(setrlimit(RLIMIT_NOFILE, &none) == 0);
    when began = clock_now();
    CHECK_ERR(listen_accept(&io, SOON, &fd, &peer), E_LIMIT);
    CHECK(clock_now() - began >= 50 * MILLISECOND);
    must(setrlimit(RLIMIT_NOFILE, &before) == 0);
    CHECK_ERR(listen_accept(&io, SOON, &fd, &peer), OK);
    machine->close(fd);
    stream_free(s);
    io_del(&io);
    machine->close(listener);
}

/* ---- Unix ---- */

TASK_TEST(listen_unix_has_its_mode_and_takes_clients)
{
    struct addr at = in_dir("x.sock"), peer;
    struct stream *s = NULL;
    struct stat st;
    struct io io;
    char text[ADDR_TEXT];
    int fd, listener;
    mode_t mask = umask(0);

    CHECK_ERR(listen_open(&at, &listener), OK);
    umask(mask);
    CHECK(stat(at.un.sun_path, &st) == 0);
    CHECK_INT(st.st_mode & 07777, 0660);
    must(io_add_shared(&io, listener) == OK);
    CHECK_ERR(stream_connect(&at, NULL, SOON, &s), OK);
    CHECK_ERR(listen_accept(&io, SOON, &fd, &peer), OK);
    CHECK_STR(addr_print_ip(&peer, text), S("unix"));
    CHECK_STR(addr_print(&peer, text), S("unix:"));
    CHECK(addr_is_loopback(&peer));
    machine->close(fd);
    stream_free(s);
    io_del(&io);
    machine->close(listener);
}

TASK_TEST(listen_unix_replaces_what_nobody_listens_to)
{
    struct addr at = in_dir("stale.sock");
    int first, second;
    mode_t mask = umask(077);

    CHECK_ERR(listen_open(&at, &first), OK);
    CHECK_ERR(listen_open(&at, &second), E_EXISTS); /* somebody does */
    machine->close(first);
    CHECK_ERR(listen_open(&at, &second), OK);
    umask(mask);
    struct stat st;
    CHECK(stat(at.un.sun_path, &st) == 0);
    CHECK_INT(st.st_mode & 07777, 0660);
    machine->close(second);

    at = in_dir("file"); /* what is no socket is left alone */
    FILE *f = fopen(at.un.sun_path, "w");
    must(f);
    fclose(f);
    CHECK_ERR(listen_open(&at, &second), E_EXISTS);
    CHECK(access(at.un.sun_path, F_OK) == 0);
    at = in_dir("none/x.sock");
    CHECK_ERR(listen_open(&at, &second), E_NOTFOUND);
}
