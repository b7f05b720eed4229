#include "kit/kit.h"
#include "smtp/smtp.h"

#include <unistd.h>

#define SOON (clock_now() + KIT_SLOW * 5 * SECOND) /* must not pass */

/* ---- a peer that follows a script ---- */

/* Wait until exactly `hears` has come, then say `says`. NULL: close. */
struct turn { const char *hears, *says; };

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

/* ---- the test on the other end ---- */

struct play {
    void (*run)(struct client *c, err opened);
    const struct turn *turn;
    size_t n;
    bool drip;
};

static err play_run(void *arg)
{
    const struct play *play = arg;
    struct addr none = { 0 };
    struct client *c = NULL;
    int fd[2];

    must(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fd) == 0);
    struct peer peer = { .s = stream_new(fd[0], &none), .turn = play->turn, .n = play->n, .drip = play->drip };
    AUTO_GROUP g = group_open(SOON);
    group_spawn(&g, "peer", peer_run, &peer);
    err e = client_open(stream_new(fd[1], &none), S("me.example"), &c);
    play->run(c, e);
    client_free(c);
    return group_wait(&g);
}

static void play(void (*run)(struct client *c, err opened), const struct turn *turn, size_t n)
{
    struct play whole = { run, turn, n, false }, drip = { run, turn, n, true };
    CHECK_ERR(task_main(play_run, &whole), OK);
    CHECK_ERR(task_main(play_run, &drip), OK);
}

#define PLAY(run, ...) play(run, (struct turn[]){ __VA_ARGS__ }, COUNT(((struct turn[]){ __VA_ARGS__ })))
#define FULL "220 mx.example ESMTP\r\n", \
    }, { "EHLO me.example\r\n", "250-mx.example\r\n250-PIPELINING\r\n250-SIZE 1000\r\n250-8BITMIME\r\n250-DSN\r\n250 SMTPUTF8\r\n"
#define PLAIN "220 mx.example ESMTP\r\n", }, { "EHLO me.example\r\n", "250 mx.example\r\n"
#define BINARY "220 mx.example ESMTP\r\n", \
    }, { "EHLO me.example\r\n", "250-mx.example\r\n250-PIPELINING\r\n250-CHUNKING\r\n250 BINARYMIME\r\n"

static struct rcpt two_rcpts[] = {
    { .to = S("bob@example.org"), .given = S("bob@example.org") }, { .to = S("eve@example.org"), .given = S("eve@example.org") },
};
static const struct envelope two = { .sender = S("ann@example.net"), .rcpt = two_rcpts, .nrcpt = 2 };
#define TWO_SAID "MAIL FROM:<ann@example.net>\r\nRCPT TO:<bob@example.org>\r\nRCPT TO:<eve@example.org>\r\nDATA\r\n"

struct pieces { struct strs all; err fails; size_t at; };

static err next_piece(void *ctx, size_t i, str *ret)
{
    struct pieces *p = ctx;
    if (p->fails && i == p->at)
        return fail(p->fails, "no more");
    *ret = i < p->all.n ? p->all.p[i] : (str){ 0 };
    return OK;
}

static str hello_pieces[] = { S("A: b\r\n\r\n"), S("hello\r\n") };
static struct pieces hello = { .all = { hello_pieces, 2 } };
static const struct body hello_body = { .size = 15, .piece = next_piece, .ctx = &hello };

static void check_answer(const struct answer *o, int code, const char *text, bool settled, bool offered, enum answer_stage stage)
{
    CHECK_INT(o->reply.code, code);
    CHECK_STR(o->reply.text, str_z(text));
    CHECK_INT(o->settled, settled);
    CHECK_INT(o->offered, offered);
    CHECK_INT(o->stage, stage);
}

/* ---- opening ---- */

static void check_caps(struct client *c, err opened)
{
    CHECK_ERR(opened, OK);
    CHECK_STR(c->greeting_name, S("mx.example"));
    CHECK_INT(c->caps, CAP_EHLO | CAP_PIPELINING | CAP_SIZE | CAP_8BITMIME | CAP_SMTPUTF8 | CAP_CHUNKING | CAP_BINARYMIME | CAP_DSN |
              CAP_ENHANCED | CAP_LIMITS | CAP_STARTTLS | CAP_AUTH);
    CHECK(c->size_max == 10485760 && c->mail_max == 20 && c->rcpt_max == 50 && c->rcptdomain_max == 1);
}

TEST(client_open_learns_what_is_offered)
{
    PLAY(check_caps, { "", "220-mx.example ESMTP\r\n220 be nice\r\n" }, { "EHLO me.example\r\n",
        "250-mx.example greets me\r\n250-PIPELINING\r\n250-size 10485760\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n250-Chunking\r\n"
        "250-BINARYMIME\r\n250-DSN\r\n250-ENHANCEDSTATUSCODES\r\n250-X-OWN\r\n250-STARTTLS\r\n250-AUTH PLAIN\r\n250-\r\n"
        "250 LIMITS MAILMAX=20 RCPTMAX=50 ODD RCPTDOMAINMAX=1 X=y\r\n" });
}

static void check_helo(struct client *c, err opened)
{
    CHECK_ERR(opened, OK);
    CHECK_INT(c->caps, 0);
}

TEST(client_open_falls_back_to_helo)
{
    PLAY(check_helo, { "", "220 mx.example\n" }, { "EHLO me.example\r\n", "502 what?\r\n" }, { "HELO me.example\r\n", "250 mx.example\r\n" });
}

static void check_refused(struct client *c, err opened)
{
    CHECK_ERR(opened, E_REFUSED);
    CHECK_INT(c->last.code, 554);
    CHECK_INT(c->last.enhanced.subject, 7);
    CHECK_STR(c->last.text, S("no\nnever"));
}

static void check_later(struct client *c, err opened)
{
    CHECK_ERR(opened, E_REFUSED);
    CHECK_INT(c->last.code, 421);
}

TEST(client_open_tells_who_refused)
{
    PLAY(check_refused, { "", "554-5.7.1 no\r\n554 5.7.1 never\r\n" }, { "", NULL });
    PLAY(check_refused, { "", "220 mx\r\n" }, { "EHLO me.example\r\n", "554 5.5.1 what\r\n" },
         { "HELO me.example\r\n", "554-5.7.1 no\r\n554 never\r\n" });
    PLAY(check_later, { "", "421 busy\r\n" }, { "", NULL });
    PLAY(check_later, { "", "220 mx\r\n" }, { "EHLO me.example\r\n", "421 busy\r\n" });
}

static void check_syntax(struct client *c, err opened)
{
    (void)c;
    CHECK_ERR(opened, E_SYNTAX);
}

static void check_closed(struct client *c, err opened)
{
    (void)c;
    CHECK_ERR(opened, E_CLOSED);
}

TEST(attack_53_client_open_survives_strange_servers)
{
    AUTO_BUF endless = { 0 }, wide = { 0 };

    for (int i = 0; i < 101; i++)
        buf_add(&endless, S("220-and\r\n"));
    for (int i = 0; i < 70000; i++)
        buf_addc(&wide, 'x');
    buf_addc(&endless, 0);
    buf_addc(&wide, 0);
    PLAY(check_closed, { "", NULL });
    PLAY(check_closed, { "", "220 half a gree" }, { "", NULL });
    PLAY(check_syntax, { "", "SSH-2.0-OpenSSH_9.2\r\n" });
    PLAY(check_syntax, { "", "220-mx\r\n250 mx\r\n" });
    play(check_syntax, (struct turn[]){ { "", endless.p } }, 1);
    struct play once = { check_syntax, (struct turn[]){ { "", wide.p } }, 1, false };
    CHECK_ERR(task_main(play_run, &once), OK);
}

/* ---- transactions ---- */

static void deliver_two(struct client *c, err opened)
{
    AUTO_ARENA a = arena_new();
    struct answer one[2] = { 0 }, other[2] = { 0 };
    bool any;

    CHECK_ERR(opened, OK);
    client_offer(c, &two, 0);
    CHECK_ERR(client_answers(c, &two, a, one, &any), OK);
    CHECK(any);
    check_answer(&one[0], 250, "ok", false, true, STAGE_RCPT);
    check_answer(&one[1], 550, "no such user", true, false, STAGE_RCPT);
    CHECK_ERR(client_body(c, &two, &hello_body, one), OK);
    if (c->caps & CAP_PIPELINING)
        client_offer(c, &two, 15);
    CHECK_ERR(client_settle(c, &two, a, one), OK);
    check_answer(&one[0], 250, "queued as 1", true, true, STAGE_DOT);
    check_answer(&one[1], 550, "no such user", true, false, STAGE_RCPT);
    if (!(c->caps & CAP_PIPELINING))
        client_offer(c, &two, 15);
    CHECK_ERR(client_answers(c, &two, a, other, &any), OK);
    CHECK(any && other[0].offered && other[1].offered);
    CHECK_ERR(client_body(c, &two, &hello_body, other), OK);
    CHECK_ERR(client_settle(c, &two, a, other), OK);
    check_answer(&other[0], 452, "full\nsorry", true, true, STAGE_DOT);
    check_answer(&other[1], 452, "full\nsorry", true, true, STAGE_DOT);
    CHECK_INT(c->mails, 2);
}

TEST(client_delivers_with_the_next_envelope_behind_the_dot)
{
    PLAY(deliver_two, { "", FULL },
        { TWO_SAID, "250 2.1.0 ok\r\n250 2.1.5 ok\r\n550 5.1.1 no such user\r\n354 go\r\n" },
        { "A: b\r\n\r\nhello\r\n.\r\nMAIL FROM:<ann@example.net> SIZE=15\r\nRCPT TO:<bob@example.org>\r\nRCPT TO:<eve@example.org>\r\nDATA\r\n",
          "250 2.0.0 queued as 1\r\n250 2.1.0 ok\r\n250 2.1.5 ok\r\n250 2.1.5 ok\r\n354 go\r\n" },
        { "A: b\r\n\r\nhello\r\n.\r\n", "452-4.3.1 full\r\n452 4.3.1 sorry\r\n" });
}

TEST(client_keeps_step_without_pipelining)
{
    PLAY(deliver_two, { "", PLAIN },
        { "MAIL FROM:<ann@example.net>\r\n", "250 ok\r\n" }, { "RCPT TO:<bob@example.org>\r\n", "250 ok\r\n" },
        { "RCPT TO:<eve@example.org>\r\n", "550 no such user\r\n" }, { "DATA\r\n", "354 go\r\n" },
        { "A: b\r\n\r\nhello\r\n.\r\n", "250 queued as 1\r\n" },
        { "MAIL FROM:<ann@example.net>\r\n", "250 ok\r\n" }, { "RCPT TO:<bob@example.org>\r\n", "250 ok\r\n" },
        { "RCPT TO:<eve@example.org>\r\n", "250 ok\r\n" }, { "DATA\r\n", "354 go\r\n" },
        { "A: b\r\n\r\nhello\r\n.\r\n", "452-full\r\n452 sorry\r\n" });
}

static void offer_nobody(struct client *c, err opened)
{
    AUTO_ARENA a = arena_new();
    struct answer out[2] = { 0 };
    bool any = true;

    CHECK_ERR(opened, OK);
    client_offer(c, &two, 0);
    CHECK_ERR(client_answers(c, &two, a, out, &any), OK);
    CHECK(!any && out[0].settled && out[1].settled && !out[0].offered && !out[1].offered);
    CHECK_INT(out[0].reply.code, 550);
    CHECK_INT(out[1].reply.code, 551);
    client_offer(c, &two, 0);
    CHECK_ERR(client_answers(c, &two, a, out, &any), OK);
    CHECK(!any);
    check_answer(&out[0], 451, "later", true, false, STAGE_MAIL);
    check_answer(&out[1], 451, "later", true, false, STAGE_MAIL);
    CHECK_ERR(client_reset(c), OK);
}

TEST(client_ends_a_transaction_for_nobody)
{
    /* the lone dot, and whatever it is answered */
    PLAY(offer_nobody, { "", FULL },
        { TWO_SAID, "250 ok\r\n550 no\r\n551 no\r\n354 go\r\n" },
        { ".\r\n" TWO_SAID, "554 nobody\r\n451 later\r\n503 no\r\n503 no\r\n354 go\r\n" },
        { ".\r\n", "250 strange\r\n" }, { "RSET\r\n", "250 ok\r\n" });
    /* DATA refused: the transaction is still open, until RSET */
    PLAY(offer_nobody, { "", FULL },
        { TWO_SAID, "250 ok\r\n550 no\r\n551 no\r\n554 nobody\r\n" },
        { "RSET\r\n" TWO_SAID, "250 ok\r\n451 later\r\n503 no\r\n503 no\r\n503 no\r\n" },
        { "RSET\r\n", "250 ok\r\n" });
    PLAY(offer_nobody, { "", PLAIN },
        { "MAIL FROM:<ann@example.net>\r\n", "250 ok\r\n" }, { "RCPT TO:<bob@example.org>\r\n", "550 no\r\n" },
        { "RCPT TO:<eve@example.org>\r\n", "551 no\r\n" }, { "RSET\r\n", "250 ok\r\n" },
        { "MAIL FROM:<ann@example.net>\r\n", "451 later\r\n" }, { "RSET\r\n", "250 ok\r\n" });
}

static void data_refused(struct client *c, err opened)
{
    AUTO_ARENA a = arena_new();
    struct answer out[2] = { 0 };
    bool any = true;

    CHECK_ERR(opened, OK);
    client_offer(c, &two, 0);
    CHECK_ERR(client_answers(c, &two, a, out, &any), OK);
    CHECK(!any);
    check_answer(&out[0], 451, "not now", true, false, STAGE_DATA);
    check_answer(&out[1], 452, "too many", true, false, STAGE_RCPT);
}

TEST(client_takes_a_refusal_of_data)
{
    PLAY(data_refused, { "", FULL }, { TWO_SAID, "250 ok\r\n250 ok\r\n452 too many\r\n451 not now\r\n" });
}

static void everything_said(struct client *c, err opened)
{
    AUTO_ARENA a = arena_new();
    struct rcpt rcpts[] = {
        { .to = S("j\xc3\xb6rg@example.org"), .notify = NOTIFY_SUCCESS | NOTIFY_DELAY, .orcpt = S("rfc822;J+x=\n@example.org") },
        { .to = S("\"a b\"@example.org"), .notify = NOTIFY_NEVER, .orcpt = S("utf-8;j\xc3\xb6rg@example.org") },
        { .to = S("x@example.org"), .orcpt = S("nonsense") },
    };
    struct envelope env = { .sender = S(""), .rcpt = rcpts, .nrcpt = 3, .envid = S("QQ 1"), .ret = RET_HDRS, .body = BODY_8BIT, .smtputf8 = true };
    struct answer out[3] = { 0 };
    bool any;

    CHECK_ERR(opened, OK);
    client_offer(c, &env, 999);
    CHECK_ERR(client_answers(c, &env, a, out, &any), OK);
    CHECK(!any);
}

TEST(client_says_parameters_as_far_as_they_were_offered)
{
    PLAY(everything_said, { "", FULL },
        { "MAIL FROM:<> SIZE=999 BODY=8BITMIME SMTPUTF8 RET=HDRS ENVID=QQ+201\r\n"
          "RCPT TO:<j\xc3\xb6rg@example.org> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;J+2Bx+3D+0A@example.org\r\n"
          "RCPT TO:<\"a b\"@example.org> NOTIFY=NEVER ORCPT=utf-8;j\\x{F6}rg@example.org\r\n"
          "RCPT TO:<x@example.org>\r\nDATA\r\n",
          "250 ok\r\n550 no\r\n550 no\r\n550 no\r\n503 no\r\n" });
    PLAY(everything_said, { "", PLAIN },
        { "MAIL FROM:<>\r\n", "250 ok\r\n" }, { "RCPT TO:<j\xc3\xb6rg@example.org>\r\n", "550 no\r\n" },
        { "RCPT TO:<\"a b\"@example.org>\r\n", "550 no\r\n" }, { "RCPT TO:<x@example.org>\r\n", "550 no\r\n" });
}

static void hostile_address(struct client *c, err opened)
{
    AUTO_ARENA a = arena_new();
    struct rcpt rcpt = { .to = S("a@b>\r\nRCPT TO:<c@d") };
    struct envelope env = { .sender = S("x@y"), .rcpt = &rcpt, .nrcpt = 1 };
    struct answer out = { 0 };
    bool any;

    CHECK_ERR(opened, OK);
    client_offer(c, &env, 0);
    CHECK_ERR(client_answers(c, &env, a, &out, &any), E_SYNTAX);
    CHECK(!out.settled && !any);
}

TEST(attack_23_client_never_says_a_second_command)
{
    PLAY(hostile_address, { "", FULL }, { "", NULL });
}

/* ---- bodies ---- */

static struct pieces *current;
static struct body current_body;

static void deliver_current(struct client *c, err opened)
{
    AUTO_ARENA a = arena_new();
    struct answer out[2] = { 0 };
    bool any;

    CHECK_ERR(opened, OK);
    struct envelope env = two;
    env.body = c->caps & CAP_BINARYMIME ? BODY_BINARY : BODY_7BIT;
    client_offer(c, &env, 0);
    CHECK_ERR(client_answers(c, &env, a, out, &any), OK);
    CHECK(any);
    err e = client_body(c, &env, &current_body, out);
    if (current->fails) {
        CHECK_ERR(e, current->fails);
        CHECK(!out[0].offered && !out[0].settled);
        CHECK_ERR(client_settle(c, &env, a, out), current->fails);
        return;
    }
    CHECK_ERR(e, OK);
    CHECK_ERR(client_settle(c, &env, a, out), OK);
    CHECK(out[0].settled && out[0].reply.code == 250);
}

static void check_body(struct strs all, bool dots, const char *wire)
{
    struct pieces p = { .all = all };
    size_t size = 0;

    for (size_t i = 0; i < all.n; i++)
        size += all.p[i].n;
    current = &p;
    current_body = (struct body){ .size = size, .dots = dots, .piece = next_piece, .ctx = &p };
    PLAY(deliver_current, { "", FULL }, { TWO_SAID, "250 ok\r\n250 ok\r\n250 ok\r\n354 go\r\n" }, { wire, "250 ok\r\n" });
}

TEST(client_ends_every_body)
{
    check_body((struct strs){ (str[]){ S("a\r\n") }, 1 }, false, "a\r\n.\r\n");
    check_body((struct strs){ (str[]){ S("a") }, 1 }, false, "a\r\n.\r\n");
    check_body((struct strs){ NULL, 0 }, false, ".\r\n");
    check_body((struct strs){ (str[]){ S("..a\r"), S("\n.b\r\n"), S(".") }, 3 }, true, "...a\r\n..b\r\n..\r\n.\r\n");
    check_body((struct strs){ (str[]){ S("a\n"), S("."), S("\r") }, 3 }, true, "a\r\n..\r\n.\r\n");
}

TEST(client_sends_binary_in_chunks)
{
    struct pieces p = { .all = { (str[]){ S("a\0\n."), S("\r\n.\r\n") }, 2 } }, none = { 0 };

    current = &p;
    current_body = (struct body){ .size = 9, .piece = next_piece, .ctx = &p };
    /* a NUL in the middle: the peer's script cannot hold it, so that it hears but the beginning */
    PLAY(deliver_current, { "", BINARY },
        { "MAIL FROM:<ann@example.net> BODY=BINARYMIME\r\nRCPT TO:<bob@example.org>\r\nRCPT TO:<eve@example.org>\r\n",
          "250 ok\r\n250 ok\r\n250 ok\r\n" },
        { "BDAT 4\r\na", "250 4 octets\r\n250 9 octets\r\n" });
    current = &none;
    current_body = (struct body){ .piece = next_piece, .ctx = &none };
    PLAY(deliver_current, { "", BINARY },
        { "MAIL FROM:<ann@example.net> BODY=BINARYMIME\r\nRCPT TO:<bob@example.org>\r\nRCPT TO:<eve@example.org>\r\n",
          "250 ok\r\n250 ok\r\n250 ok\r\n" },
        { "BDAT 0 LAST\r\n", "250 ok\r\n" });
}

static void chunk_refused(struct client *c, err opened)
{
    AUTO_ARENA a = arena_new();
    struct pieces p = { .all = { (str[]){ S("one"), S("two"), S("three") }, 3 } };
    struct body body = { .size = 11, .piece = next_piece, .ctx = &p };
    struct envelope env = two;
    struct answer out[2] = { 0 };
    bool any;

    CHECK_ERR(opened, OK);
    env.body = BODY_BINARY;
    client_offer(c, &env, 0);
    CHECK_ERR(client_answers(c, &env, a, out, &any), OK);
    CHECK_ERR(client_body(c, &env, &body, out), OK);
    client_offer(c, &env, 0);
    CHECK_ERR(client_settle(c, &env, a, out), OK);
    check_answer(&out[0], 452, "full", true, true, STAGE_DOT);
    CHECK_ERR(client_answers(c, &env, a, out, &any), E_CLOSED);
}

TEST(client_takes_the_first_refusal_of_a_chunk)
{
    PLAY(chunk_refused, { "", BINARY },
        { "MAIL FROM:<ann@example.net> BODY=BINARYMIME\r\nRCPT TO:<bob@example.org>\r\nRCPT TO:<eve@example.org>\r\n",
          "250 ok\r\n250 ok\r\n250 ok\r\n" },
        { "BDAT 3\r\noneBDAT 3\r\ntwoBDAT 5 LAST\r\nthreeRSET\r\nMAIL FROM:<ann@example.net> BODY=BINARYMIME\r\n"
          "RCPT TO:<bob@example.org>\r\nRCPT TO:<eve@example.org>\r\n",
          "250 ok\r\n452 full\r\n503 no\r\n" }, { "", NULL });
}

TEST(client_never_ends_a_body_that_failed)
{
    struct pieces p = { .all = { (str[]){ S("half of it\r\n"), S("x") }, 2 }, .fails = E_DAMAGED, .at = 1 };

    current = &p;
    current_body = (struct body){ .size = 100, .piece = next_piece, .ctx = &p };
    PLAY(deliver_current, { "", FULL }, { TWO_SAID, "250 ok\r\n250 ok\r\n250 ok\r\n354 go\r\n" }, { "", NULL });
}

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

static err lmtp_run(void *arg)
{
    const struct play *p = arg;
    struct addr none = { 0 };
    struct client *c = NULL;
    int fd[2];

    must(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fd) == 0);
    struct peer peer = { .s = stream_new(fd[0], &none), .turn = p->turn, .n = p->n };
    AUTO_GROUP g = group_open(SOON);
    group_spawn(&g, "peer", peer_run, &peer);
    err e = client_open_lmtp(stream_new(fd[1], &none), S("me.example"), &c);
    lmtp_deliver(c, e);
    client_free(c);
    return group_wait(&g);
}

#define HELLO "A: b\r\n\r\nhello\r\n.\r\n"
#define BOTH "250 2.1.0 ok\r\n250 2.1.5 ok\r\n250 2.1.5 ok\r\n354 go\r\n"
#define NEXT "250 ok\r\n451 later\r\n451 later\r\n503 no\r\n"
#define B_SAID "MAIL FROM:<ann@example.net> BODY=BINARYMIME\r\nRCPT TO:<bob@example.org>\r\nRCPT TO:<eve@example.org>\r\n"
#define TURNS(...) .play = { .turn = (struct turn[]){ __VA_ARGS__ }, .n = COUNT(((struct turn[]){ __VA_ARGS__ })) }

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
        CHECK_ERR(task_main(lmtp_run, (void *)(uintptr_t)&p->play), OK);
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
    struct play p = { deliver_many, turns, COUNT(turns), false };
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
