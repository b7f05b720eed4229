#include "kit/kit.h"
#include "mail/mail.h"

static str joined(arena *a, const struct strs *s)
{
    struct buf b = buf_in(a, 100);
    for (size_t i = 0; i < s->n; i++)
        buf_addf(&b, "%s%.*s", i ? " " : "", STR(s->p[i]));
    return buf_str(&b);
}

TEST(address_list_reads_what_programs_write)
{
    static const struct { str in; err want; str got; } cases[] = {
        { S(""), OK, S("") },
        { S(" , ,"), OK, S("") },
        { S("ann@example.org"), OK, S("ann@example.org") },
        { S("ann"), OK, S("ann@host.example") },
        { S("Ann <ann@example.org>, \"Bob, the \\\"other\\\"\" <bob@example.org>, cron"), OK, S("ann@example.org bob@example.org cron@host.example") },
        { S("ann@example.org (Ann, (of all) \\) people), bob (x) @ (y) example . org"), OK, S("ann@example.org bob@example.org") },
        { S("Friends: ann@example.org, Bob <bob@example.org>;, carl@example.org"), OK, S("ann@example.org bob@example.org carl@example.org") },
        { S("undisclosed-recipients:;"), OK, S("") },
        { S("<@a.example,@b.example:ann@example.org>"), OK, S("ann@example.org") },
        { S("\"a b\"@example.org"), OK, S("\"a b\"@example.org") },
        { S("ann@[192.0.2.7], ann@[IPv6:2001:db8::7]"), OK, S("ann@[192.0.2.7] ann@[IPv6:2001:db8::7]") },
        { S("j\xc3\xb6rg@example.org"), OK, S("j\xc3\xb6rg@example.org") },
        { S("ann bob"), E_SYNTAX },
        { S("ann@example.org bob@example.org"), E_SYNTAX },
        { S("<ann@example.org"), E_SYNTAX },
        { S("ann@example.org>"), E_SYNTAX },
        { S("<<ann@example.org>>"), E_SYNTAX },
        { S("ann@example.org (never ends"), E_SYNTAX },
        { S("\"never ends@example.org"), E_SYNTAX },
        { S("ann@[192.0.2.7"), E_SYNTAX },
        { S("a: b: c;"), E_SYNTAX },
        { S("a: b"), E_SYNTAX },
        { S("a;"), E_SYNTAX },
        { S("ann@@example.org"), E_SYNTAX },
        { S("<a b@example.org>"), E_SYNTAX },
    };
    EACH(cases, c) {
        AUTO_ARENA a = arena_new();
        struct strs got = { 0 };
        CHECK_INT(address_list(a, c->in, S("host.example"), &got), c->want, c->in);
        if (c->want == OK)
            CHECK_STR(joined(a, &got), c->got);
    }
}

TEST(attack_26_address_list_decodes_nothing)
{
    AUTO_ARENA a = arena_new();
    struct strs got = { 0 };

    CHECK_ERR(address_list(a, S("=?utf-8?q?eve=40evil.example=3e?=@example.org, =?utf-8?q?eve=40evil.example=2c?= <ann@example.org>"), S("h.example"), &got), OK);
    CHECK_STR(joined(a, &got), S("=?utf-8?q?eve=40evil.example=3e?=@example.org ann@example.org"));
}

TEST(attack_31_address_list_is_bounded)
{
    AUTO_ARENA a = arena_new();
    AUTO_BUF deep = { 0 }, lone = { 0 };
    struct strs got = { 0 };

    for (int i = 0; i < 100000; i++) {
        buf_addc(&deep, '(');
        buf_addc(&lone, 'x');
    }
    CHECK_ERR(address_list(a, buf_str(&deep), S("h.example"), &got), E_SYNTAX);
    CHECK_ERR(address_list(a, buf_str(&lone), S("h.example"), &got), E_SYNTAX);
    CHECK_INT(got.n, 0);
}

static str written(arena *a, struct submit *s, str in, struct strs *rcpt)
{
    struct buf out = buf_in(a, 1000);
    s->host = S("host.example");
    s->author = S("cron@host.example");
    CHECK_ERR(submit_write(a, s, in, &out, rcpt), OK);
    return buf_str(&out);
}

TEST(submission_is_a_message)
{
    static const str headed = S("From: a@x.example\nDate: now\nMessage-ID: <1@x>\n");
    AUTO_ARENA a = arena_new();
    struct submit s = { 0 };
    struct strs rcpt = { 0 };

    /* line ends, a dot that ends, and dots that do not */
    str got = written(a, &s, str_printf(a, "%.*s\none\r\ntwo\rthree\n.\nfour\n", STR(headed)), &rcpt);
    CHECK_STR(got, S("From: a@x.example\r\nDate: now\r\nMessage-ID: <1@x>\r\n\r\none\r\ntwo\r\nthree\r\n"));
    s.dots = true;
    got = written(a, &s, str_printf(a, "%.*s\n.\n..\nlast", STR(headed)), &rcpt);
    CHECK_STR(got, S("From: a@x.example\r\nDate: now\r\nMessage-ID: <1@x>\r\n\r\n.\r\n..\r\nlast\r\n"));

    /* what is missing comes first, what mbox and others left goes */
    s.full_name = S("J\xc3\xb6rg");
    got = written(a, &s, S("From ann Mon Nov 23 18:05:40 2026\nReturn-Path: <x@y>\nSubject: x\nno header\n"), &rcpt);
    CHECK(str_starts(got, S("Date: ")));
    CHECK(str_has(got, S("\r\nMessage-ID: <")));
    CHECK(str_has(got, S("@host.example>\r\nFrom: =?utf-8?B?SsO2cmc=?= <cron@host.example>\r\nSubject: x\r\n\r\nno header\r\n")));
    CHECK(!str_has(got, S("Return-Path")));
    s.full_name = S("A. \"Q\"");
    CHECK(str_has(written(a, &s, S("\nbody\n"), &rcpt), S("From: \"A. \\\"Q\\\"\" <cron@host.example>\r\n\r\nbody\r\n")));
    s.full_name = S("Evil\r\nBcc: x");
    CHECK(!str_has(written(a, &s, S(""), &rcpt), S("Bcc")));
    CHECK_INT(rcpt.n, 0);
    CHECK(!str_has(written(a, &s, S("Subject: x\nBcc: d@x.example\nResent-Bcc: e@x.example\n\n"), &rcpt), S(".example\r\n\r\n")));
    CHECK_INT(rcpt.n, 0);

    /* recipients of the header */
    s.from_header = true;
    got = written(a, &s, str_printf(a, "%.*sTo: Ann <ann@x.example>,\n bob\nCC: c@x.example\nBcc: d@x.example,\n e@x.example\n\nx\n", STR(headed)), &rcpt);
    CHECK_STR(joined(a, &rcpt), S("ann@x.example bob@host.example c@x.example d@x.example e@x.example"));
    CHECK(!str_has(got, S("Bcc")) && !str_has(got, S("e@x.example")) && str_has(got, S("CC: c@x.example\r\n")));

    /* sent again: only those that it is sent to now */
    rcpt.n = 0;
    got = written(a, &s, str_printf(a, "%.*sTo: ann@x.example\nBcc: d@x.example\nResent-To: r@x.example\nResent-Bcc: s@x.example\n\n", STR(headed)), &rcpt);
    CHECK_STR(joined(a, &rcpt), S("r@x.example s@x.example"));
    CHECK(str_has(got, S("Resent-Date: ")) && str_has(got, S("Resent-From: ")) && !str_has(got, S("d@x.example")) && !str_has(got, S("s@x.example")));

    struct buf out = buf_in(a, 100);
    CHECK_ERR(submit_write(a, &s, S("To: a b c\n\n"), &out, &rcpt), E_SYNTAX);
    buf_clear(&out);
    CHECK_ERR(submit_write(a, &s, S("\0Subject: a\0b\n\n\0c\0\0d\0\n\0"), &out, &rcpt), OK);
    CHECK(str_ends(buf_str(&out), S("Subject: ab\r\n\r\ncd\r\n")));
}
