#include "kit/kit.h"

TEST(time_prints_for_mail_and_logs)
{
    static const struct { when wall; str mail, log; } cases[] = {
        { 0, S("Thu, 1 Jan 1970 00:00:00 +0000"), S("1970-01-01T00:00:00.000000Z") },
        { -1, S("Wed, 31 Dec 1969 23:59:59 +0000"), S("1969-12-31T23:59:59.999999Z") },
        { 1795457140 * SECOND + 123456, S("Mon, 23 Nov 2026 18:05:40 +0000"), S("2026-11-23T18:05:40.123456Z") },
        { 951782400 * SECOND, S("Tue, 29 Feb 2000 00:00:00 +0000"), S("2000-02-29T00:00:00.000000Z") },
        { 4107542400 * SECOND, S("Mon, 1 Mar 2100 00:00:00 +0000"), S("2100-03-01T00:00:00.000000Z") },
        { NEVER, S("Fri, 31 Dec 9999 23:59:59 +0000"), S("9999-12-31T23:59:59.999999Z") },
    };
    char out[TIME_TEXT];
    EACH(cases, c) {
        CHECK_STR(time_rfc5322(out, c->wall), c->mail);
        CHECK_STR(time_rfc3339(out, c->wall), c->log);
    }
}

TEST(time_span_has_two_units)
{
    static const struct { when length; str want; } cases[] = {
        { DAY + 2 * HOUR + 59 * MINUTE, S("1d 2h") }, { 3 * MINUTE + 5 * SECOND, S("3m 5s") },
        { 120 * MILLISECOND, S("120ms") },            { 120 * MILLISECOND + 5, S("120ms") },
        { 7, S("7us") },                              { 0, S("0s") },
        { DAY, S("1d") },                             { DAY + MINUTE, S("1d") },
        { -(5 * MINUTE), S("-5m") },                  { NEVER, S("never") },
        { 1500 * MILLISECOND, S("1s 500ms") },
    };
    char out[TIME_TEXT];
    EACH(cases, c)
        CHECK_STR(time_span(out, c->length), c->want);
    CHECK(time_span(out, INT64_MIN).n < TIME_TEXT);
}

TEST(time_clocks_run)
{
    when a = clock_now(), b = clock_now();
    CHECK(a <= b && a > 0);
    CHECK(wall_now() > 1700000000 * SECOND);
}

TEST(time_random_is_even_and_below)
{
    unsigned seen[7] = { 0 };
    for (int i = 0; i < 7000; i++) {
        uint64_t x = random_below(7);
        must(x < 7);
        seen[x]++;
    }
    for (size_t i = 0; i < 7; i++)
        CHECK(seen[i] > 800 && seen[i] < 1200);
    CHECK_INT(random_below(1), 0);
    CHECK(random_u64() != random_u64());
}

static when frozen(void) { return 42; }

TEST(time_goes_through_the_seam)
{
    struct base_seam real = base_seam;
    base_seam.now = frozen;
    base_seam.wall = frozen;
    CHECK_INT(clock_now(), 42);
    CHECK_INT(wall_now(), 42);
    base_seam = real;
}
