#include "kit/kit.h"
#include "receive/receive.h"

#define NAME "01ARZ3NDEKTSV4RRFFQ69G5FAV"

static str file_of(arena *a, str mail, struct strs rcpt, str octets)
{
    struct buf out = buf_in(a, 200);
    drop_head(&out, S(NAME), mail, &rcpt, octets);
    buf_add(&out, octets);
    return buf_str(&out);
}

TEST(drop_files_are_read_as_they_are_written)
{
    AUTO_ARENA a = arena_new();
    struct drop d;
    str to[] = { S("<ann@example.org> NOTIFY=NEVER"), S("<\"b b\"@example.org>") }, octets = S("A: b\r\n\r\nRCPT TO:<x@y>\r\nDATA 0 0\r\n");
    str whole = file_of(a, S("<> BODY=8BITMIME RET=HDRS ENVID=a+2Bb"), (struct strs){ to, 2 }, octets);

    CHECK_ERR(drop_parse(a, whole, S(NAME), 2, &d), OK);
    CHECK_INT(d.nrcpt, 2);
    CHECK_STR(d.rcpt[0].path.text, S("ann@example.org"));
    CHECK_INT(d.rcpt[0].notify, NOTIFY_NEVER);
    CHECK_STR(d.rcpt[1].path.text, S("\"b b\"@example.org"));
    CHECK_STR(d.mail.envid, S("a+b"));
    CHECK_INT(d.mail.body, BODY_8BIT);
    CHECK_STR(d.octets, octets);
    CHECK_ERR(drop_parse(a, whole, S(NAME), 1, &d), E_SYNTAX);              /* too many recipients */
    CHECK_ERR(drop_parse(a, whole, S("01ARZ3NDEKTSV4RRFFQ69G5FAW"), 2, &d), E_SYNTAX); /* copied under another name */
    CHECK_ERR(drop_parse(a, file_of(a, S("<>"), (struct strs){ 0 }, octets), S(NAME), 2, &d), E_SYNTAX);
}

TEST(attack_24_drop_files_cut_or_changed_are_none)
{
    AUTO_ARENA a = arena_new();
    struct drop d;
    str to[] = { S("<ann@example.org>") }, whole = file_of(a, S("<bob@example.org>"), (struct strs){ to, 1 }, S("Subject: x\r\n\r\ntext\r\n"));
    char *copy = str_cz(a, whole);

    for (size_t i = 0; i < whole.n; i++)
        CHECK_ERR(drop_parse(a, str_head(whole, i), S(NAME), 100, &d), E_SYNTAX);
    CHECK_ERR(drop_parse(a, str_printf(a, "%.*s.", STR(whole)), S(NAME), 100, &d), E_SYNTAX);
    size_t text = str_find(whole, S("Subject"));
    for (size_t i = text; i < whole.n; i++) {
        copy[i] ^= 1;
        CHECK_ERR(drop_parse(a, str_of(copy, whole.n), S(NAME), 100, &d), E_SYNTAX);
        copy[i] ^= 1;
    }
}
