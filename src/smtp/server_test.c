#include "kit/kit.h"
#include "smtp/smtp.h"

#include <unistd.h>

#define SOON (clock_now() + KIT_SLOW * 5 * SECOND) /* must not pass */

struct ends { struct server v; struct stream *client; arena *a; };

static void (*running)(struct ends *e);

static err ends_run(void *arg)
{
    struct addr none = { 0 };
    int fd[2];

    (void)arg;
    must(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fd) == 0);
    struct ends e = { .v = { .s = stream_new(fd[0], &none) }, .client = stream_new(fd[1], &none), .a = arena_new() };
    running(&e);
    stream_free(e.v.s);
    stream_free(e.client);
    arena_free(e.a);
    return OK;
}

static void with_ends(void (*run)(struct ends *e))
{
    running = run;
    CHECK_ERR(task_main(ends_run, NULL), OK);
}

static void client_says(struct ends *e, str s)
{
    stream_say(e->client, s);
    stream_flush(e->client);
}

static void check_next(struct ends *e, enum verb verb, int refuse, str line)
{
    struct command c;
    if (!CHECK_ERR(server_hear(&e->v, e->a, SOON, &c), OK, line))
        return;
    CHECK_INT(c.verb, verb, line);
    CHECK_INT(c.refuse.code, refuse, line);
    CHECK_STR(c.line, line);
}

static void hear_lines(struct ends *e)
{
    struct command c;

    client_says(e, S("EHLO mx.example\r\nMAIL FROM:<a@b>\r\nRC"));
    check_next(e, VERB_EHLO, 0, S("EHLO mx.example"));
    CHECK(server_has_more(&e->v));
    check_next(e, VERB_MAIL, 0, S("MAIL FROM:<a@b>"));
    CHECK(!server_has_more(&e->v));
    client_says(e, S("PT TO:<c@d>\r"));
    client_says(e, S("\nwhat\r\n\r\nGET / HTTP/1.1\r\n"));
    check_next(e, VERB_RCPT, 0, S("RCPT TO:<c@d>"));
    CHECK_INT(e->v.nonsense, 0);
    check_next(e, VERB_UNKNOWN, 500, S("what"));
    check_next(e, VERB_UNKNOWN, 500, S(""));
    check_next(e, VERB_HTTP, 500, S("GET / HTTP/1.1"));
    CHECK_INT(e->v.nonsense, 3);
    CHECK_ERR(server_hear(&e->v, e->a, clock_now() + 10 * MILLISECOND, &c), E_TIMEOUT);
    machine->sock_shutdown(e->client->io.fd, SHUT_WR);
    CHECK_ERR(server_hear(&e->v, e->a, SOON, &c), E_CLOSED);
}

TEST(server_hears_lines) { with_ends(hear_lines); }

/* Attack class 1 and its like in commands: a line ends in CRLF, and holds neither CR nor NUL. */
static void hear_bare(struct ends *e)
{
    static const str bad[] = { S("NOOP\n"), S("NO\rOP\r\n"), S("NOOP\r\r\n"), S("NO\0OP\r\n"), S("\n"), S("\r\r\n") };

    EACH(bad, b) {
        struct command c;
        client_says(e, *b);
        client_says(e, S("NOOP\r\n"));
        CHECK_ERR(server_hear(&e->v, e->a, SOON, &c), OK, *b);
        CHECK(c.verb == VERB_UNKNOWN && c.refuse.code == 500 && c.refuse.enhanced.detail == 2, *b);
        check_next(e, VERB_NOOP, 0, S("NOOP"));
    }
}

TEST(attack_01_server_refuses_bare_line_ends) { with_ends(hear_bare); }

static err say_endless(void *arg)
{
    struct stream *s = arg;
    char x[1000];

    memset(x, 'x', sizeof x);
    for (int i = 0; i < 3000; i++)
        stream_say(s, str_of(x, sizeof x));
    stream_say(s, S("\r\nNOOP\r\n"));
    stream_flush(s);
    return OK;
}

static void hear_endless(struct ends *e)
{
    struct command c;
    AUTO_BUF line = { 0 };

    AUTO_GROUP g = group_open(SOON);
    group_spawn(&g, "endless", say_endless, e->client);
    CHECK_ERR(server_hear(&e->v, e->a, SOON, &c), OK);
    CHECK(c.verb == VERB_UNKNOWN && c.refuse.code == 500);
    CHECK(e->v.s->in.cap < 256 * 1024);
    check_next(e, VERB_NOOP, 0, S("NOOP"));

    /* 2048 with its CRLF is the longest, unless more was allowed */
    buf_add(&line, S("NOOP "));
    while (line.n < 2046)
        buf_addc(&line, 'x');
    for (int i = 0; i < 3; i++) {
        e->v.line_max = i == 2 ? 12288 : 0;
        if (i)
            buf_addc(&line, 'x');
        client_says(e, buf_str(&line));
        client_says(e, S("\r\n"));
        CHECK_ERR(server_hear(&e->v, e->a, SOON, &c), OK);
        CHECK_INT(c.refuse.code, i == 1 ? 500 : 0);
    }
    group_wait(&g);
}

TEST(attack_13_server_discards_endless_lines) { with_ends(hear_endless); }

static void client_hears(struct ends *e, str want)
{
    stream_flush(e->v.s);
    while (stream_pending(e->client).n < want.n)
        if (!CHECK_ERR(stream_fill(e->client, 1, SOON), OK))
            return;
    CHECK_STR(stream_pending(e->client), want);
    stream_consume(e->client, stream_pending(e->client).n);
}

static void say_replies(struct ends *e)
{
    char x[600], want[600];

    server_reply(&e->v, 220, ENH(2, 0, 0), "mx.example ESMTP");
    client_hears(e, S("220 mx.example ESMTP\r\n")); /* no enhanced code before EHLO */
    e->v.enhanced = true;
    server_reply(&e->v, 250, ENH(2, 1, 5), "ok");
    server_reply(&e->v, 550, ENH(5, 7, 515), "no %s, %d", "x", 7);
    server_reply(&e->v, 354, ENH(0, 0, 0), "go");
    server_reply(&e->v, 451, ENH(4, 3, 0), "one\ntwo\n");
    server_reply(&e->v, 250, ENH(2, 0, 0), "%s", "");
    client_hears(e, S("250 2.1.5 ok\r\n550 5.7.515 no x, 7\r\n354 go\r\n451-4.3.0 one\r\n451-4.3.0 two\r\n451 4.3.0 \r\n250 2.0.0 \r\n"));
    server_reply_lines(&e->v, 250, ENH(0, 0, 0), (str[]){ S("mx"), S("SIZE 1"), S("DSN") }, 3);
    client_hears(e, S("250-mx\r\n250-SIZE 1\r\n250 DSN\r\n"));

    /* attack class 36: what is quoted stays on its line, and a line within its bounds */
    server_reply(&e->v, 550, ENH(5, 1, 1), "<%s>", "a\r250 fine\x1b\xff\t");
    client_hears(e, S("550 5.1.1 <a?250 fine??" "?>\r\n"));
    memset(x, 'x', sizeof x);
    server_reply(&e->v, 550, ENH(5, 1, 1), "%.600s", x);
    memset(want, 'x', sizeof want);
    memcpy(want, "550 5.1.1 ", 10);
    memcpy(want + 510, "\r\n", 2);
    client_hears(e, str_of(want, 512));
}

TEST(server_says_replies) { with_ends(say_replies); }

static void hear_data(struct ends *e)
{
    AUTO_BUF out = { 0 };
    struct data d = { 0 };
    struct command c;

    client_says(e, S("first\r\n..second\r\n.\r\nQUIT\r\n"));
    while (!d.ended)
        if (!CHECK_ERR(data_hear(&d, e->v.s, &out, 5, SOON), OK))
            return;
    CHECK_STR(buf_str(&out), S("first\r\n.second\r\n"));
    check_next(e, VERB_QUIT, 0, S("QUIT"));

    d = (struct data){ 0 };
    client_says(e, S("half\r\n."));
    CHECK_ERR(data_hear(&d, e->v.s, &out, 100, SOON), OK);
    CHECK(!d.ended);
    CHECK_ERR(data_hear(&d, e->v.s, &out, 100, clock_now() + 10 * MILLISECOND), E_TIMEOUT);
    client_says(e, S("\r\n"));
    CHECK_ERR(data_hear(&d, e->v.s, &out, 100, SOON), OK);
    CHECK(d.ended);
    d = (struct data){ 0 };
    machine->sock_shutdown(e->client->io.fd, SHUT_WR);
    CHECK_ERR(data_hear(&d, e->v.s, &out, 100, SOON), E_CLOSED);
    CHECK_ERR(server_hear(&e->v, e->a, SOON, &c), E_CLOSED);
}

TEST(data_hear_takes_a_message_off_the_stream) { with_ends(hear_data); }
