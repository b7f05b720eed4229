#include "kit/kit.h"
#include "smtp/smtp.h"

static struct command parse(arena *a, str line)
{
    struct command c;
    command_parse(a, line, &c);
    return c;
}

TEST(command_parse_knows_the_verbs)
{
    static const struct { str line; enum verb verb; str argument; int refuse; } cases[] = {
        { S("HELO mx.example.org"), VERB_HELO, S("mx.example.org"), 0 },
        { S("ehlo [192.0.2.7]"), VERB_EHLO, S("[192.0.2.7]"), 0 },
        { S("EHLO  mx  "), VERB_EHLO, S("mx"), 0 },
        { S("EHLO"), VERB_EHLO, S(""), 501 },
        { S("EHLO two words"), VERB_EHLO, S("two"), 501 },
        { S("EHLO m\xc3\xb6.example"), VERB_EHLO, S("m\xc3\xb6.example"), 501 },
        { S("DATA"), VERB_DATA, S(""), 0 },
        { S("data  "), VERB_DATA, S(""), 0 },
        { S("DATA now"), VERB_DATA, S(""), 501 },
        { S("RSET"), VERB_RSET, S(""), 0 },
        { S("QUIT x"), VERB_QUIT, S(""), 501 },
        { S("STARTTLS"), VERB_STARTTLS, S(""), 0 },
        { S("STARTTLS x"), VERB_STARTTLS, S(""), 501 },
        { S("NOOP what ever"), VERB_NOOP, S("what ever"), 0 },
        { S("VRFY ann"), VERB_VRFY, S("ann"), 0 },
        { S("EXPN list"), VERB_EXPN, S("list"), 0 },
        { S("HELP"), VERB_HELP, S(""), 0 },
        { S("ETRN example.org'; drop table"), VERB_ETRN, S("example.org'; drop table"), 0 },
        { S("AUTH PLAIN AGEAYg=="), VERB_AUTH, S("PLAIN AGEAYg=="), 0 },
        { S("AUTH"), VERB_AUTH, S(""), 501 },
        { S("XCLIENT ADDR=192.0.2.7"), VERB_XCLIENT, S("ADDR=192.0.2.7"), 0 },
        { S("xforward NAME=x"), VERB_XFORWARD, S("NAME=x"), 0 },
        { S(""), VERB_UNKNOWN, S(""), 500 },
        { S("DAT"), VERB_UNKNOWN, S(""), 500 },
        { S("DATAX"), VERB_UNKNOWN, S(""), 500 },
        { S("DATA\tx"), VERB_UNKNOWN, S(""), 500 },
        { S("DATA\0"), VERB_UNKNOWN, S(""), 500 },
        { S(" DATA"), VERB_UNKNOWN, S(""), 500 },
        /* attack class 11 */
        { S("GET / HTTP/1.1"), VERB_HTTP, S(""), 500 },
        { S("post /x HTTP/1.0"), VERB_HTTP, S(""), 500 },
        { S("Host: mx.example.org:25"), VERB_HTTP, S(""), 500 },
    };
    AUTO_ARENA a = arena_new();
    EACH(cases, c) {
        struct command got = parse(a, c->line);
        CHECK_INT(got.verb, c->verb, c->line);
        CHECK_STR(got.argument, c->argument, c->line);
        CHECK_INT(got.refuse.code, c->refuse, c->line);
        CHECK_STR(got.line, c->line);
    }
}

TEST(command_parse_reads_mail)
{
    AUTO_ARENA a = arena_new();
    struct command c = parse(a, S("MAIL FROM:<ann@example.org> SIZE=1000 BODY=8BITMIME SMTPUTF8 RET=HDRS ENVID=a+2Bb AUTH=ann+40example.org"));
    CHECK_INT(c.refuse.code, 0);
    CHECK_INT(c.verb, VERB_MAIL);
    CHECK_STR(c.path.text, S("ann@example.org"));
    CHECK(c.has_size && c.size == 1000 && c.body == BODY_8BIT && c.smtputf8 && c.ret == RET_HDRS && c.has_auth);
    CHECK_STR(c.envid, S("a+b"));
    CHECK_STR(c.auth, S("ann@example.org"));

    c = parse(a, S("mail from: <> body=BinaryMIME ret=full auth=<>")); /* the blank that so many say */
    CHECK_INT(c.refuse.code, 0);
    CHECK_STR(c.path.text, S(""));
    CHECK(c.body == BODY_BINARY && c.ret == RET_FULL && c.has_auth && c.auth.n == 0 && !c.has_size && !c.smtputf8);

    c = parse(a, S("MAIL FROM:<j\xc3\xb6rg@example.org>"));
    CHECK(c.refuse.code == 0 && c.path.utf8);
}

TEST(command_parse_reads_rcpt)
{
    AUTO_ARENA a = arena_new();
    struct command c = parse(a, S("RCPT TO:<bob@example.org> NOTIFY=success,FAILURE ORCPT=rfc822;Bob+2Bx@example.org"));
    CHECK_INT(c.refuse.code, 0);
    CHECK_STR(c.path.text, S("bob@example.org"));
    CHECK_INT(c.notify, NOTIFY_SUCCESS | NOTIFY_FAILURE);
    CHECK_STR(c.orcpt, S("rfc822;Bob+x@example.org"));
    c = parse(a, S("RCPT TO:<Postmaster> NOTIFY=NEVER"));
    CHECK(c.refuse.code == 0 && c.notify == NOTIFY_NEVER && c.path.domain.n == 0);
    c = parse(a, S("RCPT TO:<b@example.org> ORCPT=utf-8;j\xc3\xb6rg@example.org"));
    CHECK_STR(c.orcpt, S("utf-8;j\xc3\xb6rg@example.org"));
    /* RFC 6533 3: the same in ASCII, and what only looks like it in an address of another type */
    c = parse(a, S("RCPT TO:<b@example.org> ORCPT=utf-8;j\\x{F6}rg@example.org"));
    CHECK_STR(c.orcpt, S("utf-8;j\xc3\xb6rg@example.org"));
    c = parse(a, S("RCPT TO:<b@example.org> ORCPT=rfc822;j\\x{F6}rg@example.org"));
    CHECK_STR(c.orcpt, S("rfc822;j\\x{F6}rg@example.org"));
    CHECK_INT(parse(a, S("RCPT TO:<b@example.org> ORCPT=utf-8;j\\x{0A}Bcc:@example.org")).refuse.code, 501); /* attack class 17 */
}

TEST(command_parse_reads_bdat)
{
    static const struct { str line; uint64_t chunk; bool last; int refuse; } cases[] = {
        { S("BDAT 0"), 0, false, 0 },
        { S("BDAT 86 LAST"), 86, true, 0 },
        { S("bdat 0 last"), 0, true, 0 },
        { S("BDAT 18446744073709551615"), UINT64_MAX, false, 0 },
        { S("BDAT 18446744073709551616"), 0, false, 501 },
        { S("BDAT"), 0, false, 501 },
        { S("BDAT -1"), 0, false, 501 },
        { S("BDAT 0x10"), 0, false, 501 },
        { S("BDAT 1 LAST LAST"), 1, true, 501 },
        { S("BDAT 1 FIRST"), 1, true, 501 },
        { S("BDAT LAST"), 0, false, 501 },
    };
    AUTO_ARENA a = arena_new();
    EACH(cases, c) { /* attack class 6 */
        struct command got = parse(a, c->line);
        CHECK_INT(got.refuse.code, c->refuse, c->line);
        CHECK(got.chunk == c->chunk, c->line);
        CHECK_INT(got.last, c->last, c->line);
    }
}

TEST(command_parse_refuses_with_a_reason)
{
    static const struct { str line; int code; struct enhanced e; const char *says; } cases[] = {
        { S("MAIL"), 501, ENH(5, 5, 4), "MAIL FROM" },
        { S("MAIL <ann@example.org>"), 501, ENH(5, 5, 4), "MAIL FROM" },
        { S("MAIL FROM <ann@example.org>"), 501, ENH(5, 5, 4), "MAIL FROM" },
        { S("MAIL TO:<ann@example.org>"), 501, ENH(5, 5, 4), "MAIL FROM" },
        { S("RCPT FROM:<ann@example.org>"), 501, ENH(5, 5, 4), "RCPT TO" },
        { S("MAIL FROM:ann@example.org"), 501, ENH(5, 1, 7), "in <>" },
        { S("MAIL FROM:<;id;>"), 501, ENH(5, 1, 7), "" }, /* attack class 22 */
        { S("RCPT TO:<>"), 501, ENH(5, 1, 3), "empty" },
        { S("MAIL FROM:<postmaster>"), 501, ENH(5, 1, 7), "domain is missing" },
        { S("RCPT TO:<bob@example.org>NOTIFY=NEVER"), 501, ENH(5, 5, 4), "blank" },
        { S("RCPT TO:<bob@example.org>\tNOTIFY=NEVER"), 501, ENH(5, 5, 4), "blank" },
        { S("MAIL FROM:<a@b> SIZE"), 501, ENH(5, 5, 4), "SIZE" },
        { S("MAIL FROM:<a@b> SIZE=-1"), 501, ENH(5, 5, 4), "SIZE" },
        { S("MAIL FROM:<a@b> SIZE="), 501, ENH(5, 5, 4), "SIZE" },
        { S("MAIL FROM:<a@b> SIZE=1 SIZE=1"), 501, ENH(5, 5, 4), "twice" },
        { S("MAIL FROM:<a@b> BODY=9BIT"), 501, ENH(5, 5, 4), "BODY" },
        { S("MAIL FROM:<a@b> BODY"), 501, ENH(5, 5, 4), "BODY" },
        { S("MAIL FROM:<a@b> SMTPUTF8=1"), 501, ENH(5, 5, 4), "SMTPUTF8" },
        { S("MAIL FROM:<a@b> RET=SOME"), 501, ENH(5, 5, 4), "RET" },
        { S("MAIL FROM:<a@b> ENVID=a+0D+0Ab"), 501, ENH(5, 5, 4), "ENVID" }, /* attack class 17 */
        { S("MAIL FROM:<a@b> ENVID=\xc3\xb6"), 501, ENH(5, 5, 4), "ENVID" },
        { S("MAIL FROM:<a@b> ENVID="), 501, ENH(5, 5, 4), "ENVID" },
        { S("MAIL FROM:<a@b> AUTH=a+0Ab"), 501, ENH(5, 5, 4), "AUTH" },
        { S("MAIL FROM:<a@b> AUTH="), 501, ENH(5, 5, 4), "AUTH" },
        { S("MAIL FROM:<a@b> NOTIFY=NEVER"), 555, ENH(5, 5, 4), "NOTIFY" },
        { S("RCPT TO:<a@b> SIZE=1"), 555, ENH(5, 5, 4), "SIZE" },
        { S("RCPT TO:<a@b> X\x1b=1"), 555, ENH(5, 5, 4), "X\\u001b" },
        { S("RCPT TO:<a@b> =1"), 555, ENH(5, 5, 4), "" },
        { S("RCPT TO:<a@b> NOTIFY="), 501, ENH(5, 5, 4), "NOTIFY" },
        { S("RCPT TO:<a@b> NOTIFY"), 501, ENH(5, 5, 4), "NOTIFY" },
        { S("RCPT TO:<a@b> NOTIFY=NEVER,DELAY"), 501, ENH(5, 5, 4), "NOTIFY" },
        { S("RCPT TO:<a@b> NOTIFY=SOON"), 501, ENH(5, 5, 4), "NOTIFY" },
        { S("RCPT TO:<a@b> ORCPT=a@b"), 501, ENH(5, 5, 4), "ORCPT" },
        { S("RCPT TO:<a@b> ORCPT=;a@b"), 501, ENH(5, 5, 4), "ORCPT" },
        { S("RCPT TO:<a@b> ORCPT=rfc822;"), 501, ENH(5, 5, 4), "ORCPT" },
        { S("RCPT TO:<a@b> ORCPT=rfc822;a+0Db"), 501, ENH(5, 5, 4), "ORCPT" },
        { S("RCPT TO:<a@b> ORCPT=rfc822;\xc3\xb6@b"), 501, ENH(5, 5, 4), "ORCPT" },
        { S("RCPT TO:<a@b> ORCPT=rf(822;a@b"), 501, ENH(5, 5, 4), "ORCPT" },
    };
    AUTO_ARENA a = arena_new();
    EACH(cases, c) {
        struct command got = parse(a, c->line);
        CHECK_INT(got.refuse.code, c->code, c->line);
        CHECK(memcmp(&got.refuse.enhanced, &c->e, sizeof c->e) == 0, c->line);
        CHECK(str_has(got.refuse.text, str_z(c->says)), got.refuse.text);
    }
}

TEST(attack_19_command_parse_bounds_numbers_and_lengths)
{
    AUTO_ARENA a = arena_new();
    char long_text[600];

    memset(long_text, 'x', sizeof long_text);
    CHECK(parse(a, S("MAIL FROM:<a@b> SIZE=9223372036854775808")).size == UINT64_C(1) << 63);
    CHECK(parse(a, S("MAIL FROM:<a@b> SIZE=99999999999999999999")).size == UINT64_MAX);
    CHECK_INT(parse(a, S("MAIL FROM:<a@b> SIZE=99999999999999999999")).refuse.code, 0);
    CHECK_INT(parse(a, str_printf(a, "MAIL FROM:<a@b> ENVID=%.100s", long_text)).refuse.code, 0);
    CHECK_INT(parse(a, str_printf(a, "MAIL FROM:<a@b> ENVID=%.101s", long_text)).refuse.code, 501);
    CHECK_INT(parse(a, str_printf(a, "RCPT TO:<a@b> ORCPT=rfc822;%.493s", long_text)).refuse.code, 0);
    CHECK_INT(parse(a, str_printf(a, "RCPT TO:<a@b> ORCPT=rfc822;%.494s", long_text)).refuse.code, 501);
    CHECK_INT(parse(a, str_printf(a, "EHLO %.255s", long_text)).refuse.code, 0);
    CHECK_INT(parse(a, str_printf(a, "EHLO %.256s", long_text)).refuse.code, 501);
    CHECK(parse(a, str_printf(a, "RCPT TO:<a@b> %.600s", long_text)).refuse.text.n < 120);
}

TEST(command_parse_reads_xclient_and_xforward)
{
    static const struct { str line; int code; enum attr attr; str want; } cases[] = {
        { S("XCLIENT NAME=host.example ADDR=192.0.2.7 LOGIN=ann+2Bbob"), 0, ATTR_LOGIN, S("ann+bob") },
        { S("xclient addr=ipv6:2001:db8::7"), 0, ATTR_ADDR, S("ipv6:2001:db8::7") },
        { S("XCLIENT NAME=[UNAVAILABLE]"), 0, ATTR_NAME, S("") },
        { S("XFORWARD SOURCE=LOCAL IDENT=4F2"), 0, ATTR_IDENT, S("4F2") },
        { S("XFORWARD PORT=25"), 0, ATTR_PORT, S("25") },
        { S("XFORWARD LOGIN=ann"), 501 },
        { S("XCLIENT IDENT=4F2"), 501 },
        { S("XCLIENT"), 501 },
        { S("XCLIENT ADDR"), 501 },
        { S("XCLIENT ADDR=unix:/x"), 501 },
        { S("XCLIENT ADDR=192.0.2.7 ADDR=192.0.2.8"), 501 },
        { S("XCLIENT PORT=65536"), 501 },
        { S("XCLIENT HELO=a+20b"), 501 },
        { S("XCLIENT HELO=a+0D+0Ab"), 501 }, /* attack class 17 */
        { S("XCLIENT NAME=no_(comment)"), 501 },
        { S("XFORWARD PROTO=HTTP"), 501 },
    };
    AUTO_ARENA a = arena_new();

    EACH(cases, c) {
        struct command got;
        command_parse(a, c->line, &got);
        CHECK_INT(got.refuse.code, c->code, c->line);
        if (c->code)
            continue;
        CHECK(got.attrs & 1u << c->attr);
        CHECK_STR(got.attr[c->attr], c->want);
    }
}
