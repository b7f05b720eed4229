#include "kit/kit.h"
#include "mail/mail.h"

#include <stdio.h>
#include <stdlib.h>

#define AT INT64_C(1795000000000000)

static const struct rcpt rcpts[] = {
    { .to = { "secret@inside.example", 21 }, .given = { "bob@example.org", 15 }, .orcpt = { "rfc822;Bob@example.org", 22 } },
    { .to = { "eve@example.org", 15 }, .given = { "eve@example.org", 15 } },
};
static const struct report_rcpt answers[] = {
    { .rcpt = &rcpts[0], .action = REPORT_FAILED, .status = { "5.1.1", 5 }, .diagnostic = { "550 5.1.1 no such user\nreally", 29 },
      .remote = { "mx.example.org", 14 }, .reason = { "There is no such mailbox.", 25 }, .last_attempt = AT, .retry_until = AT },
    { .rcpt = &rcpts[1], .action = REPORT_DELAYED, .status = { "4.4.1", 5 }, .reason = { "Nobody answers.", 15 }, .retry_until = AT + DAY },
};

static struct report report_of(const struct envelope *env, str original, bool whole)
{
    return (struct report){
        .hostname = S("mx.example.net"), .postmaster = S("postmaster@example.net"), .id = { { 1, 2, 3 } }, .about = { { 4, 5, 6 } },
        .env = env, .arrived = AT - HOUR, .now = AT, .rcpt = answers, .nrcpt = COUNT(answers), .original = original, .original_whole = whole,
    };
}

static const struct envelope plain_env = { .sender = { "ann@there.example", 17 }, .envid = { "QQ314159", 8 } };

TEST(report_says_all_of_rfc_3464)
{
    struct report r = report_of(&plain_env, S("Subject: a\r\n\r\nbody\r\n"), false);
    AUTO_BUF out = { 0 };
    report_write(&r, &out);
    CHECK_STR(buf_str(&out), S(
        "From: Mail Delivery System <postmaster@example.net>\r\n"
        "To: <ann@there.example>\r\n"
        "Date: Wed, 18 Nov 2026 11:06:40 +0000\r\n"
        "Subject: Your message could not be delivered\r\n"
        "Message-ID: <01081G00000000000000000000@mx.example.net>\r\n"
        "Auto-Submitted: auto-replied\r\n"
        "MIME-Version: 1.0\r\n"
        "Content-Type: multipart/report; report-type=delivery-status;\r\n"
        " boundary=\"=_01081G00000000000000000000\"\r\n"
        "\r\n"
        "--=_01081G00000000000000000000\r\n"
        "Content-Description: Notification\r\n"
        "Content-Type: text/plain; charset=us-ascii\r\n"
        "Content-Transfer-Encoding: 7bit\r\n"
        "\r\n"
        "This is the mail system at mx.example.net.\r\n"
        "\r\n"
        "Your message of Wed, 18 Nov 2026 10:06:40 +0000 could not be delivered\r\n"
        "to:\r\n"
        "\r\n"
        "  <bob@example.org>\r\n"
        "    There is no such mailbox.\r\n"
        "    mx.example.org answered: 550 5.1.1 no such user really\r\n"
        "\r\n"
        "Your message of Wed, 18 Nov 2026 10:06:40 +0000 could not be delivered\r\n"
        "yet, and will be tried again, to:\r\n"
        "\r\n"
        "  <eve@example.org>\r\n"
        "    Nobody answers.\r\n"
        "    It will be tried until Thu, 19 Nov 2026 11:06:40 +0000. You need not\r\n"
        "    send it again: you will be told if it fails.\r\n"
        "\r\n"
        "If you need help, write to <postmaster@example.net> and quote this\r\n"
        "number: 040M3000000000000000000000\r\n"
        "\r\n"
        "--=_01081G00000000000000000000\r\n"
        "Content-Description: Delivery report\r\n"
        "Content-Type: message/delivery-status\r\n"
        "Content-Transfer-Encoding: 7bit\r\n"
        "\r\n"
        "Original-Envelope-Id: QQ314159\r\n"
        "Reporting-MTA: dns; mx.example.net\r\n"
        "X-Waypost-Id: 040M3000000000000000000000\r\n"
        "Arrival-Date: Wed, 18 Nov 2026 10:06:40 +0000\r\n"
        "\r\n"
        "Original-Recipient: rfc822; Bob@example.org\r\n"
        "Final-Recipient: rfc822; bob@example.org\r\n"
        "Action: failed\r\n"
        "Status: 5.1.1\r\n"
        "Remote-MTA: dns; mx.example.org\r\n"
        "Diagnostic-Code: smtp; 550 5.1.1 no such user really\r\n"
        "Last-Attempt-Date: Wed, 18 Nov 2026 11:06:40 +0000\r\n"
        "\r\n"
        "Final-Recipient: rfc822; eve@example.org\r\n"
        "Action: delayed\r\n"
        "Status: 4.4.1\r\n"
        "Will-Retry-Until: Thu, 19 Nov 2026 11:06:40 +0000\r\n"
        "\r\n"
        "--=_01081G00000000000000000000\r\n"
        "Content-Description: The header of your message\r\n"
        "Content-Type: text/rfc822-headers\r\n"
        "Content-Transfer-Encoding: 7bit\r\n"
        "\r\n"
        "Subject: a\r\n"
        "\r\n"
        "\r\n"
        "--=_01081G00000000000000000000--\r\n"));
}

static bool passes(str s)
{
    struct scan scan;
    scan_init(&scan);
    scan_feed(&scan, s);
    scan_end(&scan);
    return !scan.eight_bit_header && !scan.eight_bit_body && !scan.nul && !scan.bare_cr && !scan.bare_lf && scan.longest_line <= 998;
}

/* What Python's email package makes of them. Arguments, three by three: a file, what its text must say, its third part's type. */
static const char check_script[] =
    "import email, email.policy, sys\n"
    "def check(path, says, kind):\n"
    "    m = email.message_from_bytes(open(path, 'rb').read(), policy=email.policy.default)\n"
    "    assert m.get_content_type() == 'multipart/report' and m.get_param('report-type') == 'delivery-status'\n"
    "    assert m['auto-submitted'] == 'auto-replied' and not m.defects, m.defects\n"
    "    text, status, original = m.get_payload()\n"
    "    assert text.get_content_type() == 'text/plain' and says in text.get_content(), text.get_content()\n"
    "    assert status.get_content_type() == 'message/delivery-status'\n"
    "    mta, *rcpts = status.get_payload()\n"
    "    assert mta['reporting-mta'] == 'dns; mx.example.net' and mta['arrival-date'] and len(rcpts) == 2\n"
    "    for r in rcpts:\n"
    "        assert {'Final-Recipient', 'Action', 'Status'} <= set(r.keys()) and not r.defects\n"
    "    assert original.get_content_type() == kind, original.get_content_type()\n"
    "for i in range(1, len(sys.argv), 3):\n"
    "    check(*sys.argv[i:i + 3])\n";

static void check_later(struct buf *args, const char *name, const char *says, const char *type, str message)
{
    size_t at = args->n;
    buf_addf(args, " %s/%s.eml", kit_dir(), name);
    AUTO_ARENA a = arena_new();
    FILE *f = fopen(str_cz(a, str_from(buf_str(args), at + 1)), "wb");

    must(f && fwrite(message.p, 1, message.n, f) == message.n);
    fclose(f);
    buf_addf(args, " '%s' %s", says, type);
    CHECK(passes(message), str_z(name));
}

static void check_with_python(const struct buf *args)
{
    AUTO_ARENA a = arena_new();
    CHECK_INT(system(str_cz(a, str_printf(a, "python3 -c \"%s\" %.*s", check_script, STR(*args)))), 0);
}

TEST(report_is_read_by_others_whatever_it_reports)
{
    static const struct { const char *name; str original; bool whole; const char *type; } cases[] = {
        { "header", S("Subject: a\r\n\r\n"), false, "text/rfc822-headers" },
        { "cut", S("Subject: a\r\n"), false, "text/rfc822-headers" },
        { "header-utf8", S("Subject: \u00f6\r\n\r\n"), false, "message/global-headers" },
        { "header-latin1", S("Subject: \xf6\r\n\r\n"), false, "text/rfc822-headers" },
        { "whole", S("Subject: a\r\n\r\nb\r\n"), true, "message/rfc822" },
        { "whole-8bit", S("Subject: a\r\n\r\n\xf6 long enough\r\n"), true, "message/rfc822" },
        { "whole-utf8", S("Subject: \u00f6\r\n\r\nb\r\n"), true, "message/global" },
        { "whole-unclear", S("Subject: a\r\nContent-Transfer-Encoding: base64\r\n\r\n\xf6\r\n"), true, "message/global" },
        { "whole-latin1", S("Subject: \xf6\r\n\r\nb\r\n"), true, "text/rfc822-headers" },
        { "whole-nul", S("Subject: \0\r\n\r\nb\r\n"), true, "message/global" },
    };
    AUTO_BUF args = { 0 };
    EACH(cases, c) {
        struct report r = report_of(&plain_env, c->original, c->whole);
        AUTO_BUF out = { 0 };
        report_write(&r, &out);
        check_later(&args, c->name, "bob@example.org", c->type, buf_str(&out));
    }
    check_with_python(&args);
}

TEST(attack_36_report_quotes_strangers_safely)
{
    AUTO_BUF out = { 0 }, endless = { 0 }, args = { 0 };

    for (int i = 0; i < 4000; i++)
        buf_addc(&endless, 'x');
    struct rcpt to[] = {
        { .to = S("j\u00f6rg@example.org"), .given = S("j\u00f6rg@example.org"), .orcpt = S("utf-8;j\u00f6rg@example.org") },
        { .to = S("a@b"), .given = S("a@b"), .orcpt = S("x\r\nBcc: y;z\r\nBcc: y") },
    };
    struct report_rcpt rcpt[] = {
        { .rcpt = &to[0], .action = REPORT_RELAYED, .status = S("2.1.9"), .diagnostic = S("250 ok\r\nBcc: all@example.org\r\n\r\n--x \xff\0\x1b[0m") },
        { .rcpt = &to[1], .action = REPORT_DELIVERED, .status = S("2.0.0\r\nBcc: y"), .diagnostic = buf_str(&endless),
          .remote = S("mx\r\nBcc: y"), .reason = S("so \u2028\r\nBcc: y") },
    };
    struct envelope env = { .sender = S("ann@there.example"), .envid = S("a\r\nBcc: y") };
    struct report r = report_of(&env, S("A: b\r\n\r\n"), false);
    r.rcpt = rcpt;
    r.postmaster = S("");
    report_write(&r, &out);
    check_later(&args, "hostile", "j\u00f6rg@example.org", "text/rfc822-headers", buf_str(&out));
    check_with_python(&args);
    CHECK(!str_has(buf_str(&out), S("\nBcc:")) && !str_has(buf_str(&out), S("\x1b")));
    CHECK(str_has(buf_str(&out), S("Final-Recipient: utf-8; j\\x{F6}rg@example.org\r\n")));
    CHECK(str_has(buf_str(&out), S("Original-Recipient: utf-8; j\\x{F6}rg@example.org\r\n")));
    CHECK(str_has(buf_str(&out), S("From: Mail Delivery System <MAILER-DAEMON@mx.example.net>\r\n")));
    CHECK(str_has(buf_str(&out), S("Subject: Your message was delivered\r\n")));
}

/* ---- what people read ---- */

TEST(report_advice_knows_each_class_of_failure)
{
    static const struct { str status, said, hint; } cases[] = {
        { S("5.1.1"), S("550 5.1.1 no such user"), S("no such mailbox") },
        { S("5.0.0"), S("550 User unknown in virtual table"), S("no such mailbox") },
        { S("5.7.1"), S("550 5.7.1 user unknown"), S("no such mailbox") },
        { S("5.2.2"), S("552 5.2.2 over quota"), S("mailbox is full") },
        { S("5.0.0"), S("552 exceeded storage allocation"), S("mailbox is full") },
        { S("5.0.0"), S("552 message size exceeds limit"), S("larger than") },
        { S("5.3.4"), S("552 5.3.4 no"), S("larger than") },
        { S("5.1.2"), S(""), S("leads nowhere") },
        { S("5.4.4"), S(""), S("leads nowhere") },
        { S("5.1.10"), S(""), S("takes no mail at all") },
        { S("5.7.1"), S("550 5.7.1 refused by policy"), S("a rule of its own") },
        { S("5.7.26"), S("550 5.7.26 unauthenticated"), S("a rule of its own") },
        { S("5.7.1"), S("554 5.7.1 listed in DNSBL x"), S("spam") },
        { S("5.0.0"), S("554 rejected as SPAM"), S("spam") },
        { S("5.7.10"), S("530 5.7.10 encryption needed"), S("only travel encrypted") },
        { S("5.0.0"), S("530 Must issue a STARTTLS command first"), S("only travel encrypted") },
        { S("4.4.7"), S("451 4.3.0 later"), S("in the time that is given") },
        { S("5.4.6"), S(""), S("in circles") },
        { S("5.6.7"), S(""), S("beyond ASCII") },
        { S("5.0.0"), S("550 no"), S("refused the message for good") },
        { S(""), S("550 no"), S("refused the message for good") },
        { S("5.0.0"), S(""), S("could not be sent on from here") },
    };
    EACH(cases, c)
        CHECK(str_has(report_advice(REPORT_FAILED, c->status, c->said), c->hint), c->said);
    CHECK(str_has(report_advice(REPORT_DELAYED, S("4.4.1"), S("")), S("could be reached yet")));
    CHECK(str_has(report_advice(REPORT_DELAYED, S("4.2.2"), S("")), S("full")));
    for (enum report_action action = REPORT_FAILED; action <= REPORT_EXPANDED; action++)
        for (unsigned i = 0; i < COUNT(cases); i++)
            CHECK(report_advice(action, cases[i].status, S("")).n > 20);
}

/* ---- every action, to every reader ---- */

TEST(report_writes_every_action)
{
    static const struct { enum report_action action; str word, title, subject; bool retry; } cases[] = {
        { REPORT_FAILED, S("Action: failed\r\n"), S("could not be delivered\r\nto:"), S("Subject: Your message could not be delivered\r\n"), false },
        { REPORT_DELAYED, S("Action: delayed\r\n"), S("tried again, to:"), S("Subject: Your message is delayed\r\n"), true },
        { REPORT_DELIVERED, S("Action: delivered\r\n"), S("was delivered to:"), S("Subject: Your message was delivered\r\n"), false },
        { REPORT_RELAYED, S("Action: relayed\r\n"), S("was handed on, to a\r\nsystem"), S("Subject: Your message was delivered\r\n"), false },
        { REPORT_EXPANDED, S("Action: expanded\r\n"), S("members of"), S("Subject: Your message was delivered\r\n"), false },
    };
    EACH(cases, c) {
        struct report_rcpt one = { .rcpt = &rcpts[0], .action = c->action, .status = S("2.0.0"), .last_attempt = AT, .retry_until = AT + DAY };
        struct report r = report_of(&plain_env, S("A: b\r\n\r\n"), false);
        AUTO_BUF out = { 0 };
        r.rcpt = &one;
        r.nrcpt = 1;
        report_write(&r, &out);
        CHECK(str_has(buf_str(&out), c->word), c->word);
        CHECK(str_has(buf_str(&out), c->title), buf_str(&out));
        CHECK(str_has(buf_str(&out), c->subject), c->word);
        CHECK(str_has(buf_str(&out), S("Will-Retry-Until:")) == c->retry, c->word);
        CHECK(str_has(buf_str(&out), S("It will be tried until")) == c->retry, c->word);
    }
}

/* RFC 6533: to an address beyond ASCII the report is a global one, with addresses as they are; to any other they are encoded. */
TEST(report_speaks_utf8_where_it_can_be_carried)
{
    static const struct rcpt to[] = {
        { .to = { "j\u00f6rg@b\u00fccher.example", 21 }, .given = { "j\u00f6rg@b\u00fccher.example", 21 }, .orcpt = { "utf-8;\u0416@b\u00fccher.example", 24 } },
    };
    static const struct report_rcpt one = { .rcpt = &to[0], .action = REPORT_FAILED, .status = { "5.1.1", 5 }, .diagnostic = { "550 5.1.1 gibt's nicht, \u00f6", 26 } };
    struct envelope env = { .sender = S("\u00fcte@there.example"), .smtputf8 = true };
    struct report r = report_of(&env, S("A: b\r\n\r\n"), false);
    AUTO_BUF utf8 = { 0 }, ascii = { 0 };

    r.rcpt = &one;
    r.nrcpt = 1;
    report_write(&r, &utf8);
    CHECK(str_has(buf_str(&utf8), S("report-type=global-delivery-status")));
    CHECK(str_has(buf_str(&utf8), S("Content-Type: message/global-delivery-status\r\nContent-Transfer-Encoding: 8bit\r\n")), buf_str(&utf8));
    CHECK(str_has(buf_str(&utf8), S("To: <\u00fcte@there.example>\r\n")));
    CHECK(str_has(buf_str(&utf8), S("Original-Recipient: utf-8; \u0416@b\u00fccher.example\r\n")));
    CHECK(str_has(buf_str(&utf8), S("Final-Recipient: utf-8; j\u00f6rg@b\u00fccher.example\r\n")));
    CHECK(str_has(buf_str(&utf8), S("Diagnostic-Code: smtp; 550 5.1.1 gibt's nicht, \u00f6\r\n")));
    env.sender = S("ute@there.example");
    report_write(&r, &ascii);
    CHECK(passes(buf_str(&ascii)));
    CHECK(str_has(buf_str(&ascii), S("report-type=delivery-status")));
    CHECK(str_has(buf_str(&ascii), S("Original-Recipient: utf-8; \\x{416}@b\\x{FC}cher.example\r\n")));
    CHECK(str_has(buf_str(&ascii), S("Final-Recipient: utf-8; j\\x{F6}rg@b\\x{FC}cher.example\r\n")));
    CHECK(str_has(buf_str(&ascii), S("Diagnostic-Code: smtp; 550 5.1.1 gibt's nicht, ?\r\n")));
}

TEST(report_to_the_postmaster_says_why_it_comes)
{
    struct report r = report_of(&plain_env, S("A: b\r\n\r\n"), true);
    AUTO_BUF out = { 0 };

    r.to = S("postmaster@example.net");
    r.preface = S("It comes to you\r\nBcc: x because nobody else is there.");
    r.received_from = S("there.example\r\nBcc: x ([192.0.2.7])");
    report_write(&r, &out);
    CHECK(str_has(buf_str(&out), S("To: <postmaster@example.net>\r\n")));
    CHECK(str_has(buf_str(&out), S("\r\nIt comes to you Bcc: x because nobody else is there.\r\n")));
    CHECK(str_has(buf_str(&out), S("\r\nThe message of ")) && !str_has(buf_str(&out), S("Your message")));
    CHECK(str_has(buf_str(&out), S("Received-From-MTA: dns; there.example  Bcc: x ([192.0.2.7])\r\n")), buf_str(&out)); /* attack class 36 */
}
