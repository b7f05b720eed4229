/* Lines that die, LMTP, and much at once. */
#include "smtp/client_play_test.h"

#include <unistd.h>

/* ---- lines that die ---- */

static err answers_want, settle_want;
static int settled_code;

static void deliver_broken(struct client *c, err opened)
{
    AUTO_ARENA a = arena_new();
    struct answer out[2] = { 0 }, next[2] = { 0 };
    bool any;

    CHECK_ERR(opened, OK);
    client_offer(c, &two, 0);
    CHECK_ERR(client_answers(c, &two, a, out, &any), answers_want);
    if (answers_want != OK) {
        CHECK(!any && !out[1].settled && !out[0].offered && !out[1].offered);
        CHECK_ERR(client_answers(c, &two, a, out, &any), answers_want);
        return;
    }
    client_body(c, &two, &hello_body, out);
    if (c->caps & CAP_PIPELINING)
        client_offer(c, &two, 0);
    CHECK_ERR(client_settle(c, &two, a, out), settle_want);
    CHECK_INT(out[0].settled, settled_code != 0);
    if (settled_code)
        CHECK_INT(out[0].reply.code, settled_code);
    CHECK(client_answers(c, &two, a, next, &any) != OK);
    CHECK(!any && !next[0].settled && !next[1].settled);
}

TEST(attack_53_client_knows_what_a_dying_line_leaves_open)
{
    /* before the dot: nothing is settled but what was said */
    answers_want = E_CLOSED;
    PLAY(deliver_broken, { "", FULL }, { TWO_SAID, "" }, { "", NULL });
    PLAY(deliver_broken, { "", FULL }, { TWO_SAID, "250 ok\r\n250 ok\r\n" }, { "", NULL });
    PLAY(deliver_broken, { "", FULL }, { TWO_SAID, "250 ok\r\n550 no\r\n421 bye\r\n" });
    PLAY(deliver_broken, { "", FULL }, { TWO_SAID, "421 bye\r\n" });
    PLAY(deliver_broken, { "", FULL }, { TWO_SAID, "250 ok\r\n250 ok\r\n250 ok\r\n421 bye\r\n" }, { "", NULL });
    PLAY(deliver_broken, { "", PLAIN }, { "MAIL FROM:<ann@example.net>\r\n", "421 bye\r\n" });
    PLAY(deliver_broken, { "", PLAIN }, { "MAIL FROM:<ann@example.net>\r\n", "250 ok\r\n" }, { "RCPT TO:<bob@example.org>\r\n", NULL });
    answers_want = E_SYNTAX;
    PLAY(deliver_broken, { "", FULL }, { TWO_SAID, "354 go\r\n" });
    PLAY(deliver_broken, { "", FULL }, { TWO_SAID, "250 ok\r\n354 go\r\n" });
    PLAY(deliver_broken, { "", FULL }, { TWO_SAID, "250 ok\r\n250 ok\r\n250 ok\r\n250 ok\r\n" });
    PLAY(deliver_broken, { "", FULL }, { TWO_SAID, "250 ok\r\nwhat\r\n" });
    /* behind the dot: it may have arrived */
    answers_want = OK;
    settle_want = E_MAYBE;
    PLAY(deliver_broken, { "", FULL }, { TWO_SAID, "250 ok\r\n250 ok\r\n250 ok\r\n354 go\r\n" }, { "A: b\r\n\r\nhello\r\n.\r\n", NULL });
    PLAY(deliver_broken, { "", FULL }, { TWO_SAID, "250 ok\r\n250 ok\r\n250 ok\r\n354 go\r\n" }, { "A: b\r\n\r\nhello\r\n.\r\n", "25" }, { "", NULL });
    PLAY(deliver_broken, { "", FULL }, { TWO_SAID, "250 ok\r\n250 ok\r\n250 ok\r\n354 go\r\n" }, { "A: b\r\n\r\nhello\r\n.\r\n", "354 what\r\n" });
    /* an answer is an answer, also when the peer leaves with it */
    settle_want = OK;
    settled_code = 250;
    PLAY(deliver_broken, { "", FULL }, { TWO_SAID, "250 ok\r\n250 ok\r\n250 ok\r\n354 go\r\n" },
        { "A: b\r\n\r\nhello\r\n.\r\n" TWO_SAID, "250 ok\r\n" }, { "", NULL });
    settle_want = E_CLOSED;
    settled_code = 421;
    PLAY(deliver_broken, { "", FULL }, { TWO_SAID, "250 ok\r\n250 ok\r\n250 ok\r\n354 go\r\n" },
        { "A: b\r\n\r\nhello\r\n.\r\n" TWO_SAID, "421 bye\r\n" });
    settled_code = 0;
}

static void farewell(struct client *c, err opened)
{
    AUTO_ARENA a = arena_new();
    struct answer out[2] = { 0 };
    bool any;

    CHECK_ERR(opened, OK);
    stream_fill(c->s, 1, SOON); /* it came while we were idle */
    client_offer(c, &two, 0);
    CHECK_ERR(client_answers(c, &two, a, out, &any), E_CLOSED);
    CHECK_INT(c->last.code, 421);
}

static void babble(struct client *c, err opened)
{
    AUTO_ARENA a = arena_new();
    struct answer out[2] = { 0 };
    bool any;

    CHECK_ERR(opened, OK);
    while (stream_pending(c->s).n < 14)
        stream_fill(c->s, 1, SOON);
    client_offer(c, &two, 0);
    CHECK_ERR(client_answers(c, &two, a, out, &any), E_SYNTAX);
    CHECK(!out[0].settled);
}

TEST(client_hears_what_was_said_while_it_was_idle)
{
    struct play p = { farewell, (struct turn[]){ { "", PLAIN }, { "", "421 idle too long\r\n" }, { "", NULL } }, 4, false };
    CHECK_ERR(task_main(play_run, &p), OK);
    PLAY(babble, { "", PLAIN }, { "", "250 surprise\r\n" });
}

static void too_slow(struct client *c, err opened)
{
    CHECK_ERR(opened, E_TIMEOUT);
    CHECK_ERR(client_reset(c), E_TIMEOUT);
}

static err hurry(void *arg)
{
    AUTO_GROUP g = group_open(clock_now() + 20 * MILLISECOND);
    group_spawn(&g, "play", play_run, arg);
    return group_wait(&g);
}

static void deliver_last(struct client *c, err opened)
{
    AUTO_ARENA a = arena_new();
    struct answer out[2] = { 0 };
    bool any;

    CHECK_ERR(opened, OK);
    client_offer(c, &two, 0);
    CHECK_ERR(client_answers(c, &two, a, out, &any), OK);
    CHECK_ERR(client_body(c, &two, &hello_body, out), OK);
    client_last(c);
    CHECK_ERR(client_settle(c, &two, a, out), OK);
    CHECK_INT(out[0].reply.code, 250);
    CHECK(c->quit_said && c->owed == 1);
}

TEST(client_leaves_with_the_last_dot)
{
    PLAY(deliver_last, { "", FULL }, { TWO_SAID, "250 ok\r\n250 ok\r\n250 ok\r\n354 go\r\n" },
        { "A: b\r\n\r\nhello\r\n.\r\nQUIT\r\n", "250 ok\r\n221 bye\r\n" });
}

TEST(client_ends_with_its_group)
{
    struct play p = { too_slow, (struct turn[]){ { "", "220 mx" } }, 1, false };
    CHECK_ERR(task_main(hurry, &p), OK);
}

/* ---- LMTP ---- */

#define LMTP "220 mx.example LMTP\r\n", }, { "LHLO me.example\r\n", "250-mx.example\r\n250-PIPELINING\r\n250-CHUNKING\r\n250 BINARYMIME\r\n"

struct lmtp_play { struct play play; enum body_kind body; err settled; struct { int code; bool offered, settled; } want[2]; };
static const struct lmtp_play *lmtp_now;

static void lmtp_deliver(struct client *c, err opened)
{
    AUTO_ARENA a = arena_new();
    struct envelope env = two;
    struct answer out[2] = { 0 };
    bool any;

    CHECK_ERR(opened, OK);
    CHECK(c->lmtp);
    env.body = lmtp_now->body;
    client_offer(c, &env, 0);
    CHECK_ERR(client_answers(c, &env, a, out, &any), OK);
    CHECK_ERR(client_body(c, &env, &hello_body, out), OK);
    CHECK_ERR(client_settle(c, &env, a, out), lmtp_now->settled);
    for (size_t i = 0; i < 2; i++) {
        CHECK_INT(out[i].offered, lmtp_now->want[i].offered);
        CHECK_INT(out[i].settled, lmtp_now->want[i].settled);
        if (out[i].settled)
            CHECK_INT(out[i].reply.code, lmtp_now->want[i].code);
    }
    if (lmtp_now->settled != OK)
        return;
    client_offer(c, &env, 0); /* the next message meets its own answers */
    CHECK_ERR(client_answers(c, &env, a, out, &any), OK);
    CHECK(!any && out[0].reply.code == 451);
}

#define HELLO "A: b\r\n\r\nhello\r\n.\r\n"
#define BOTH "250 2.1.0 ok\r\n250 2.1.5 ok\r\n250 2.1.5 ok\r\n354 go\r\n"
#define NEXT "250 ok\r\n451 later\r\n451 later\r\n503 no\r\n"
#define B_SAID "MAIL FROM:<ann@example.net> BODY=BINARYMIME\r\nRCPT TO:<bob@example.org>\r\nRCPT TO:<eve@example.org>\r\n"
#define TURNS(...) .play = { .run = lmtp_deliver, .open = client_open_lmtp, .turn = (struct turn[]){ __VA_ARGS__ }, .n = COUNT(((struct turn[]){ __VA_ARGS__ })) }

TEST(client_hears_an_answer_for_each_recipient_by_lmtp)
{
    const struct lmtp_play plays[] = {
        { TURNS({ "", LMTP }, { TWO_SAID, BOTH }, { HELLO, "250 2.0.0 bob has it\r\n452 4.2.2 eve is full\r\n" }, { TWO_SAID, NEXT }),
          .want = { { 250, true, true }, { 452, true, true } } },
        /* who was refused before gets none */
        { TURNS({ "", LMTP }, { TWO_SAID, "250 ok\r\n550 no bob\r\n250 ok\r\n354 go\r\n" }, { HELLO, "554 5.6.0 no\r\n" }, { TWO_SAID, NEXT }),
          .want = { { 550, false, true }, { 554, true, true } } },
        { TURNS({ "", LMTP }, { TWO_SAID, BOTH }, { HELLO, "250 bob has it\r\n" }, { "", NULL }), .settled = E_MAYBE,
          .want = { { 250, true, true }, { 0, true, false } } },
        { TURNS({ "", LMTP }, { TWO_SAID, BOTH }, { HELLO, "421 going\r\n" }, { "", NULL }), .settled = E_MAYBE,
          .want = { { 421, true, true }, { 0, true, false } } },
        { TURNS({ "", LMTP }, { TWO_SAID, BOTH }, { HELLO, "250 bob has it\r\n421 going\r\n" }, { "", NULL }), .settled = E_CLOSED,
          .want = { { 250, true, true }, { 421, true, true } } },
        { TURNS({ "", LMTP }, { TWO_SAID, BOTH }, { HELLO, "354 what?\r\n" }, { "", NULL }), .settled = E_MAYBE,
          .want = { { 0, true, false }, { 0, true, false } } },
        /* chunks: one answer each, and for each recipient behind the last */
        { TURNS({ "", LMTP }, { B_SAID, "250 ok\r\n250 ok\r\n250 ok\r\n" }, { "BDAT 8\r\nA: b\r\n\r\n", "250 8 octets\r\n" },
                { "BDAT 7 LAST\r\nhello\r\n", "550 not bob\r\n250 eve has it\r\n" }, { "RSET\r\n" B_SAID, "250 ok\r\n250 ok\r\n451 later\r\n451 later\r\n" }),
          .body = BODY_BINARY, .want = { { 550, true, true }, { 250, true, true } } },
        /* a refused chunk is the last */
        { TURNS({ "", LMTP }, { B_SAID, "250 ok\r\n250 ok\r\n250 ok\r\n" }, { "BDAT 8\r\nA: b\r\n\r\n", "452 no room\r\n" },
                { "RSET\r\n" B_SAID, "250 ok\r\n250 ok\r\n451 later\r\n451 later\r\n" }),
          .body = BODY_BINARY, .want = { { 452, true, true }, { 452, true, true } } },
        { TURNS({ "", LMTP }, { B_SAID, "250 ok\r\n250 ok\r\n250 ok\r\n" }, { "BDAT 8\r\nA: b\r\n\r\n", "354 what?\r\n" }, { "", NULL }),
          .body = BODY_BINARY, .settled = E_SYNTAX, .want = { { 0, true, false }, { 0, true, false } } },
    };

    EACH(plays, p) {
        lmtp_now = p;
        CHECK_ERR(task_main(play_run, (void *)(uintptr_t)&p->play), OK);
    }
}

static void lmtp_nobody(struct client *c, err opened)
{
    CHECK_ERR(opened, E_REFUSED);
    CHECK(!c->lmtp);
}

TEST(client_takes_no_lmtp_for_smtp)
{
    PLAY(lmtp_nobody, { "", "220 mx.example LMTP\r\n" }, { "EHLO me.example\r\n", "500 this is LMTP\r\n" }, { "HELO me.example\r\n", "500 this is LMTP\r\n" });
}

/* ---- many ---- */

static unsigned sends;
static const struct machine *real;

static ssize_t counted_send(int fd, const struct iovec *iov, int n)
{
    sends++;
    return real->sock_send(fd, iov, n);
}

enum { MAILS = 20 };

static void deliver_many(struct client *c, err opened)
{
    AUTO_ARENA a = arena_new();
    struct answer out[2][2] = { 0 };
    bool any;

    CHECK_ERR(opened, OK);
    client_offer(c, &two, 0);
    for (size_t i = 0; i < MAILS; i++) {
        memset(out[i & 1], 0, sizeof out[0]);
        CHECK_ERR(client_answers(c, &two, a, out[i & 1], &any), OK);
        CHECK_ERR(client_body(c, &two, &hello_body, out[i & 1]), OK);
        if (i + 1 < MAILS)
            client_offer(c, &two, 0);
        CHECK_ERR(client_settle(c, &two, a, out[i & 1]), OK);
        CHECK(out[i & 1][0].settled && out[i & 1][1].reply.code == 250);
    }
}

TEST(client_sends_once_a_turn)
{
    struct machine counting = *machine;
    struct turn turns[3 + MAILS] = { { "", FULL }, { TWO_SAID, "250 ok\r\n250 ok\r\n250 ok\r\n354 go\r\n" } };

    for (size_t i = 0; i + 1 < MAILS; i++)
        turns[3 + i] = (struct turn){ "A: b\r\n\r\nhello\r\n.\r\n" TWO_SAID, "250 ok\r\n250 ok\r\n250 ok\r\n250 ok\r\n354 go\r\n" };
    turns[2 + MAILS] = (struct turn){ "A: b\r\n\r\nhello\r\n.\r\n", "250 ok\r\n" };
    real = machine;
    counting.sock_send = counted_send;
    machine = &counting;
    sends = 0;
    struct play p = { .run = deliver_many, .turn = turns, .n = COUNT(turns) };
    CHECK_ERR(task_main(play_run, &p), OK);
    machine = real;
    CHECK_INT(sends, 2 * (2 + MAILS) + 1); /* each end: one a turn, and the peer's greeting */
}

static void many_rcpts(struct client *c, err opened)
{
    enum { RCPTS = 5000 };
    AUTO_ARENA a = arena_new();
    struct envelope env = { .sender = S("ann@example.net"), .rcpt = NEW_ARRAY(a, struct rcpt, RCPTS), .nrcpt = RCPTS };
    struct answer *out = NEW_ARRAY(a, struct answer, RCPTS);
    bool any;

    CHECK_ERR(opened, OK);
    for (size_t i = 0; i < RCPTS; i++)
        env.rcpt[i].to = S("somebody.with.a.long.name@a.long.domain.example.org");
    client_offer(c, &env, 0);
    CHECK_ERR(client_answers(c, &env, a, out, &any), OK);
    size_t taken = 0, settled = 0;
    for (size_t i = 0; i < RCPTS; i++)
        taken += out[i].reply.code == (i < 1000 ? 250 : 452) && out[i].offered == (i < 1000);
    CHECK_INT(taken, RCPTS);
    CHECK_ERR(client_body(c, &env, &hello_body, out), OK);
    CHECK_ERR(client_settle(c, &env, a, out), OK);
    for (size_t i = 0; i < RCPTS; i++)
        settled += out[i].settled && out[i].reply.code == (i < 1000 ? 250 : 452);
    CHECK_INT(settled, RCPTS);
}

/* A server that answers each command before it reads the next: with too much said at once, both would wait for ever. */
static err patient_run(void *arg)
{
    AUTO(stream) s = arg;
    struct server v = { .s = s };
    AUTO_ARENA a = arena_new();
    struct command cmd;
    size_t rcpts = 0;

    server_reply(&v, 220, ENH(0, 0, 0), "mx");
    while (server_hear(&v, a, SOON, &cmd) == OK) {
        if (cmd.verb == VERB_EHLO)
            server_reply_lines(&v, 250, ENH(0, 0, 0), (str[]){ S("mx"), S("PIPELINING") }, 2);
        else if (cmd.verb == VERB_RCPT)
            server_reply(&v, rcpts++ < 1000 ? 250 : 452, ENH(0, 0, 0), "this is said of a recipient, at some length to fill the line");
        else
            server_reply(&v, cmd.verb == VERB_DATA ? 354 : 250, ENH(0, 0, 0), "ok");
        stream_flush(s);
        if (cmd.verb == VERB_DATA) {
            AUTO_BUF body = { 0 };
            for (struct data d = { 0 }; !d.ended; )
                TRY(data_hear(&d, s, &body, 65536, SOON));
            CHECK_STR(buf_str(&body), S("A: b\r\n\r\nhello\r\n"));
            server_reply(&v, 250, ENH(0, 0, 0), "ok");
        }
        arena_reset(a);
    }
    return OK;
}

static err many_run(void *arg)
{
    struct addr none = { 0 };
    struct client *c = NULL;
    int fd[2], small = 4096;

    (void)arg;
    must(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fd) == 0);
    setsockopt(fd[0], SOL_SOCKET, SO_SNDBUF, &small, sizeof small);
    AUTO_GROUP g = group_open(SOON);
    group_spawn(&g, "patient", patient_run, stream_new(fd[0], &none));
    err e = client_open(stream_new(fd[1], &none), S("me.example"), &c);
    many_rcpts(c, e);
    client_quit(c);
    return group_wait(&g);
}

TEST(client_and_server_do_not_wait_for_each_other)
{
    CHECK_ERR(task_main(many_run, NULL), OK);
}
