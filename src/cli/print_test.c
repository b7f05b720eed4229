#include "kit/kit.h"
#include "cli/cli.h"

TEST(cli_time_read_is_the_inverse_of_rfc3339)
{
    static const struct { str text; bool ok; when want; } cases[] = {
        { S("1970-01-01T00:00:01Z"), true, SECOND },
        { S("2026-11-23T18:05:40.123456Z"), true, 1795457140123456 },
        { S("2026-11-23T18:05:40.5Z"), true, 1795457140500000 },
        { S("2026-11-23T18:05:40+01:00"), false, 0 },
        { S("2026-11-23 18:05:40.123456Z"), false, 0 },
        { S("2026-11-23T18:05:40.12x456Z"), false, 0 },
        { S("2026-11-23T18:05Z"), false, 0 },
        { S(""), false, 0 },
    };
    EACH(cases, c) {
        when t = 0;
        CHECK_INT(time_read(c->text, &t), c->ok, c->text);
        CHECK_INT(t, c->want, c->text);
    }
    char text[TIME_TEXT];
    when t, now = wall_now();
    CHECK(time_read(time_rfc3339(text, now), &t));
    CHECK_INT(t, now);
}

TEST(cli_numbers_for_people)
{
    AUTO_ARENA a = arena_new();

    CHECK_STR(tell_count(a, 0), S("0"));
    CHECK_STR(tell_count(a, 999), S("999"));
    CHECK_STR(tell_count(a, 1234567), S("1 234 567"));
    CHECK_STR(tell_count(a, -1234), S("-1 234"));
    CHECK_STR(tell_size(a, 1023), S("1023 B"));
    CHECK_STR(tell_size(a, 1536), S("1.5 KiB"));
    CHECK_STR(tell_size(a, 50 << 20), S("50 MiB"));
    CHECK_STR(tell_us(a, 999), S("999 us"));
    CHECK_STR(tell_us(a, 1300), S("1.3 ms"));
    CHECK_STR(tell_us(a, 90 * SECOND), S("1m 30s"));
    CHECK_STR(tell_ago(a, SECOND, 186 * SECOND + 5), S("3m 5s"));
    CHECK_STR(tell_ago(a, 0, SECOND), S("-"));
    CHECK_STR(tell_time(a, 1795457140123456), S("2026-11-23 18:05:40"));
}

TEST(attack_37_text_is_safe_in_a_terminal)
{
    AUTO_ARENA a = arena_new();

    CHECK_STR(tell_text(a, S("a \"b\" \\ \xc3\xbc")), S("a \"b\" \\ \xc3\xbc"));
    CHECK(!str_has(tell_text(a, S("a\x1b[2Jb")), S("\x1b")));
    CHECK(!str_has(tell_text(a, S("a\xff")), S("\xff")));
    CHECK(!str_has(tell_text(a, S("a\nb")), S("\n")));
}
