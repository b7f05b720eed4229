#include "kit/kit.h"
#include "mail/mail.h"

TEST(header_next_cuts_fields)
{
    str rest = S("From: a\r\nSubject : b\r\n\tc\r\n  d\r\nX:\r\nEmpty: \r\n\r\nbody: no\r\n");
    static const struct { str name, value, whole; } want[] = {
        { S("From"), S(" a"), S("From: a\r\n") },
        { S("Subject"), S(" b\r\n\tc\r\n  d"), S("Subject : b\r\n\tc\r\n  d\r\n") },
        { S("X"), S(""), S("X:\r\n") },
        { S("Empty"), S(" "), S("Empty: \r\n") },
    };
    struct field f;
    EACH(want, w) {
        CHECK(header_next(&rest, &f));
        CHECK_STR(f.name, w->name);
        CHECK_STR(f.value, w->value);
        CHECK_STR(f.whole, w->whole);
    }
    CHECK(!header_next(&rest, &f));
    CHECK_STR(rest, S("\r\nbody: no\r\n"));
}

TEST(header_next_stops_at_what_is_no_field)
{
    static const str cases[] = {
        S(""), S("\r\n"), S("no colon\r\n"), S(" a: b\r\n"), S(": b\r\n"), S("na me: b\r\n"), S("n\x80: b\r\n"),
        S("n\0: b\r\n"), S("name"), S("name "), S("na\r\nme: b\r\n"),
    };
    EACH(cases, c) {
        struct field f;
        str rest = *c;
        CHECK(!header_next(&rest, &f), *c);
        CHECK_STR(rest, *c);
    }
}

TEST(header_next_takes_a_last_line_without_end)
{
    str rest = S("A: b\r\n c");
    struct field f;
    CHECK(header_next(&rest, &f));
    CHECK_STR(f.value, S(" b\r\n c"));
    CHECK_STR(rest, S(""));
}

TEST(header_unfold_drops_line_ends)
{
    AUTO_ARENA a = arena_new();
    CHECK_STR(header_unfold(a, S(" a\r\n\tb\r\n  c")), S(" a\tb  c"));
    str plain = S(" a b");
    CHECK(header_unfold(a, plain).p == plain.p);
}

TEST(header_get_finds_the_first_of_that_name)
{
    AUTO_ARENA a = arena_new();
    str got = { 0 };
    CHECK(header_get(a, S("A: 1\r\nb:  2\r\n 3 \r\nB: 4\r\n\r\n"), S("B"), &got));
    CHECK_STR(got, S("2 3"));
    CHECK(!header_get(a, S("A: 1\r\n\r\nB: 2\r\n"), S("B"), &got));
}

TEST(header_add_folds_at_blanks)
{
    static const struct { str value, want; } cases[] = {
        { S("b"), S("Name: b\r\n") },
        { S("  b  c  "), S("Name:   b  c\r\n") },
        { S(""), S("Name: \r\n") },
        { S("\t"), S("Name: \r\n") },
        /* 78 columns are fine, the 79th folds */
        { S("12345678901234567890123456789012345 123456789012345678901234567890123456"),
          S("Name: 12345678901234567890123456789012345 123456789012345678901234567890123456\r\n") },
        { S("12345678901234567890123456789012345 1234567890123456789012345678901234567"),
          S("Name: 12345678901234567890123456789012345\r\n 1234567890123456789012345678901234567\r\n") },
        /* a word without blanks stays whole */
        { S("123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890 b"),
          S("Name: 123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890\r\n b\r\n") },
        /* attack class 36 */
        { S("a\r\nBcc: eve@example.net\r\n\r\nbody"), S("Name: a  Bcc: eve@example.net    body\r\n") },
        { S("a\rb\nc\0d"), S("Name: a b c d\r\n") },
    };
    EACH(cases, c) {
        AUTO_BUF out = { 0 };
        header_add(&out, S("Name"), c->value);
        CHECK_STR(buf_str(&out), c->want);
    }
}
