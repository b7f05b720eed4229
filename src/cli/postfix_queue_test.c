#include "cli/postfix_queue.h"
#include "kit/kit.h"

#include <stdio.h>

/* Append a record. */
static void rec(struct buf *b, char type, str data)
{
    size_t n = data.n;

    buf_addc(b, type);
    do {
        buf_addc(b, (char)((n & 0x7f) | (n > 0x7f ? 0x80 : 0)));
        n >>= 7;
    } while (n);
    buf_add(b, data);
}

#define SIZE S("             10              20               1               0              10               1")

static struct buf envelope(arena *a)
{
    struct buf b = buf_in(a, 500);

    rec(&b, 'C', SIZE);
    rec(&b, 'T', S("1795779349 462430"));
    rec(&b, 'A', S("envelope_id=a+b"));
    rec(&b, 'A', S("ret_flags=2"));
    rec(&b, 'S', S("a \"b@x.example"));
    rec(&b, 'A', S("log_client_address=192.0.2.7"));
    return b;
}

static void content(struct buf *b)
{
    rec(b, 'M', S(""));
    rec(b, 'N', S("Subject: x"));
    rec(b, 'N', S(""));
    rec(b, 'L', S("ha"));
    rec(b, 'N', S("lf"));
    rec(b, 'L', S("no end"));
    rec(b, 'X', S(""));
    rec(b, 'E', S(""));
}

TEST(postfix_queue_files_are_read)
{
    AUTO_ARENA a = arena_new();
    struct buf b = envelope(a);
    struct postfix_mail m;

    rec(&b, 'A', S("notify_flags=10"));
    rec(&b, 'A', S("dsn_orig_rcpt=rfc822;o@x.example"));
    rec(&b, 'R', S("one@x.example"));
    rec(&b, 'A', S("notify_flags=1"));
    rec(&b, 'D', S("gone@x.example"));
    rec(&b, 'R', S("two words@x.example"));
    content(&b);
    CHECK_ERR(postfix_mail_parse(a, buf_str(&b), &m), OK);
    CHECK_STR(m.env.sender, S("\"a \\\"b\"@x.example"));
    CHECK_STR(m.env.envid, S("a+b"));
    CHECK_INT(m.env.ret, RET_HDRS);
    CHECK(m.env.smtputf8);
    CHECK_STR(m.client, S("192.0.2.7"));
    CHECK_INT(m.arrived, (when)1795779349 * SECOND + 462430);
    CHECK_INT(m.env.nrcpt, 2);
    CHECK_INT(m.settled, 1);
    CHECK_STR(m.env.rcpt[0].to, S("one@x.example"));
    CHECK_STR(m.env.rcpt[0].orcpt, S("rfc822;o@x.example"));
    CHECK_INT(m.env.rcpt[0].notify, NOTIFY_SUCCESS | NOTIFY_DELAY);
    CHECK_STR(m.env.rcpt[1].to, S("\"two words\"@x.example"));
    CHECK_INT(m.env.rcpt[1].notify, 0);                 /* what was said of the one before ended with him */
    CHECK_STR(buf_str(&m.body), S("Subject: x\r\n\r\nhalf\r\nno end\r\n"));
    buf_free(&m.body);
}

TEST(attack_24_torn_postfix_queue_files_are_none)
{
    AUTO_ARENA a = arena_new();
    struct buf b = envelope(a);
    struct postfix_mail m;

    rec(&b, 'R', S("one@x.example"));
    content(&b);
    for (size_t n = 0; n < b.n; n++)
        CHECK_ERR(postfix_mail_parse(a, str_of(b.p, n), &m), E_SYNTAX);
}

TEST(postfix_queue_pointers_are_followed_but_not_for_ever)
{
    AUTO_ARENA a = arena_new();
    struct buf b = envelope(a);
    struct postfix_mail m;
    char to[16];

    rec(&b, 'R', S("one@x.example"));
    rec(&b, 'p', S("              0"));                 /* room that was not needed */
    rec(&b, 'M', S(""));
    size_t jump = b.n;
    rec(&b, 'p', S("000000000000000"));
    rec(&b, 'N', S("old: field"));
    size_t back = b.n;
    rec(&b, 'X', S(""));
    rec(&b, 'E', S(""));
    snprintf(to, sizeof to, "%015zu", b.n);
    memcpy(b.p + jump + 2, to, 15);
    rec(&b, 'N', S("New: field"));
    snprintf(to, sizeof to, "%015zu", back);
    rec(&b, 'p', str_of(to, 15));
    CHECK_ERR(postfix_mail_parse(a, buf_str(&b), &m), OK);
    CHECK_STR(buf_str(&m.body), S("New: field\r\n"));
    buf_free(&m.body);

    snprintf(to, sizeof to, "%015zu", jump);            /* to itself */
    memcpy(b.p + jump + 2, to, 15);
    CHECK_ERR(postfix_mail_parse(a, buf_str(&b), &m), E_SYNTAX);
    memcpy(b.p + jump + 2, "999999999999999", 15);
    CHECK_ERR(postfix_mail_parse(a, buf_str(&b), &m), E_SYNTAX);
}

TEST(postfix_queue_redirects_and_double_bounces_keep_their_meaning)
{
    AUTO_ARENA a = arena_new();
    struct buf b = buf_in(a, 500);
    struct postfix_mail m;

    rec(&b, 'C', SIZE);
    rec(&b, 'T', S("1795779349"));
    rec(&b, 'S', S("double-bounce@x.example"));
    rec(&b, 'R', S("one@x.example"));
    rec(&b, 'R', S("two@x.example"));
    rec(&b, '>', S("all@x.example"));
    rec(&b, 'L', S("scan:[127.0.0.1]:10024"));
    content(&b);
    CHECK_ERR(postfix_mail_parse(a, buf_str(&b), &m), OK);
    CHECK_STR(m.env.sender, S(""));
    CHECK(m.double_bounce);
    CHECK_INT(m.env.nrcpt, 1);
    CHECK_STR(m.env.rcpt[0].to, S("all@x.example"));
    CHECK_STR(m.filter, S("scan:[127.0.0.1]:10024"));
    buf_free(&m.body);
}
