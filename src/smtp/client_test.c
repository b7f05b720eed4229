#include "smtp/client_play_test.h"

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
    play_both(check_syntax, (struct turn[]){ { "", endless.p } }, 1);
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
