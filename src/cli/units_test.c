#include "kit/kit.h"
#include "cli/cli.h"

TEST(cli_span_and_size_read_units)
{
    static const struct { const char *in; bool ok; when want;
    } spans[] = {
        { "500us", true, 500 },
        { "200ms", true, 200 * MILLISECOND },
        { "10s", true, 10 * SECOND },
        { "5M", true, 5 * MINUTE },
        { "2h", true, 2 * HOUR },
        { "10", false, 0 },
        { "s", false, 0 },
        { "-1s", false, 0 },
        { "1.5s", false, 0 },
        { "9223372036854775807h", false, 0 },
        { "", false, 0 },
    };
    static const struct { const char *in; bool ok; uint64_t want;
    } sizes[] = {
        { "0", true, 0 },
        { "4096", true, 4096 },
        { "4k", true, 4096 },
        { "1M", true, 1 << 20 },
        { "2g", true, UINT64_C(2) << 30 },
        { "4kb", false, 0 },
        { "k", false, 0 },
        { "9223372036854775807k", false, 0 },
        { "99999999999999999999", false, 0 },
    };
    EACH(spans, c) {
        when got = 0;
        CHECK_INT(cli_span(c->in, &got), c->ok, str_z(c->in));
        if (c->ok)
            CHECK_INT(got, c->want, str_z(c->in));
    }
    EACH(sizes, c) {
        uint64_t got = 0;
        CHECK_INT(cli_size(c->in, &got), c->ok, str_z(c->in));
        if (c->ok)
            CHECK_INT(got, c->want, str_z(c->in));
    }
}

TEST(cli_addr_takes_numbers_and_names)
{
    struct addr at;
    char text[ADDR_TEXT];

    CHECK(cli_addr("test", "192.0.2.7:25", &at));
    CHECK_STR(addr_print(&at, text), S("192.0.2.7:25"));
    CHECK(cli_addr("test", "unix:/run/x.sock", &at));
    CHECK(cli_addr("test", "localhost:2525", &at));
    CHECK_INT(addr_port(&at), 2525);
    CHECK(addr_is_loopback(&at));
}
