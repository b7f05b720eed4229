#include "kit/kit.h"
#include "conf/conf.h"

#include <stdlib.h>
#include <unistd.h>

static struct token word(str s)
{
    return (struct token){ .text = s, .at = { .file = S("t/relay.conf"), .line = 1, .column = 1 } };
}

TEST(conf_time_and_back)
{
    static const struct { str in; when want; str back; } cases[] = {
        { S("500ms"), 500 * MILLISECOND, S("500ms") }, { S("30s"), 30 * SECOND, S("30s") },
        { S("5m"), 5 * MINUTE, S("5m") },              { S("2h"), 2 * HOUR, S("2h") },
        { S("7d"), 7 * DAY, S("7d") },                 { S("0"), 0, S("0s") },
        { S("0s"), 0, S("0s") },                       { S("90m"), 90 * MINUTE, S("90m") },
        { S("120m"), 2 * HOUR, S("2h") },              { S("36500d"), 36500 * DAY, S("36500d") },
        { S("30"), -1 },    { S("s"), -1 },   { S("1.5h"), -1 },   { S("1h30m"), -1 },  { S("-1s"), -1 },
        { S("36501d"), -1 }, { S("99999999999999999999d"), -1 },   { S("1S"), -1 },     { S(""), -1 },
    };
    AUTO_ARENA a = arena_new();
    EACH(cases, c) {
        struct diags d = { .a = a };
        struct binder b = { .a = a, .diags = &d };
        struct token t = word(c->in);
        when got = -1;
        CHECK_INT(conf_time(&b, &t, &got), c->want >= 0, c->in);
        CHECK_INT(got, c->want, c->in);
        CHECK_INT(d.errors, c->want < 0, c->in);
        if (c->want >= 0)
            CHECK_STR(conf_print_time(a, got), c->back, c->in);
    }
}

TEST(conf_bytes_and_back)
{
    static const struct { str in; int64_t want; str back; } cases[] = {
        { S("0"), 0, S("0") },                       { S("1000"), 1000, S("1KB") },
        { S("1023B"), 1023, S("1023") },             { S("25MB"), 25000000, S("25MB") },
        { S("25MiB"), 26214400, S("25MiB") },        { S("25M"), 26214400, S("25MiB") },
        { S("64k"), 65536, S("64KiB") },             { S("64KiB"), 65536, S("64KiB") },
        { S("64kb"), 64000, S("64KB") },             { S("2G"), 2147483648, S("2GiB") },
        { S("1TB"), 1000000000000, S("1TB") },       { S("1024GiB"), 1099511627776, S("1TiB") },
        { S("MB"), -1 }, { S("1.5MB"), -1 }, { S("1 MB"), -1 }, { S("1P"), -1 }, { S("99999999999T"), -1 },
        { S(""), -1 },
    };
    AUTO_ARENA a = arena_new();
    EACH(cases, c) {
        struct diags d = { .a = a };
        struct binder b = { .a = a, .diags = &d };
        struct token t = word(c->in);
        uint64_t got = (uint64_t)-1;
        CHECK_INT(conf_bytes(&b, &t, &got), c->want >= 0, c->in);
        CHECK_INT(got, c->want, c->in);
        if (c->want >= 0)
            CHECK_STR(conf_print_bytes(a, got), c->back, c->in);
    }
}

TEST(conf_int_bool_rate_percent)
{
    AUTO_ARENA a = arena_new();
    struct diags d = { .a = a };
    struct binder b = { .a = a, .diags = &d };
    uint64_t n = 0;
    bool yes = false;
    struct rate rate = { 0 };
    double part = 0;
#define GOOD(f, text, ...) do { struct token t_ = word(S(text)); CHECK(f(&b, &t_, __VA_ARGS__), S(text)); } while (0)
#define BAD(f, text, ...) do { struct token t_ = word(S(text)); size_t e_ = d.errors; \
        CHECK(!f(&b, &t_, __VA_ARGS__), S(text)); CHECK_INT(d.errors, e_ + 1, S(text)); } while (0)
    GOOD(conf_int, "10k", 1, 10000, &n);
    CHECK_INT(n, 10000);
    GOOD(conf_int, "2M", 1, UINT64_MAX, &n);
    CHECK_INT(n, 2000000);
    BAD(conf_int, "0", 1, 10, &n);
    BAD(conf_int, "11", 1, 10, &n);
    BAD(conf_int, "10m", 1, 10, &n);
    BAD(conf_int, "0x10", 0, 100, &n);
    CHECK_INT(n, 2000000);
    GOOD(conf_bool, "on", &yes);
    CHECK(yes);
    GOOD(conf_bool, "off", &yes);
    CHECK(!yes);
    BAD(conf_bool, "yes", &yes);
    CHECK_STR(d.p[d.n - 1].hint, S("write: on"));
    BAD(conf_bool, "OFF", &yes);
    CHECK_STR(d.p[d.n - 1].hint, S("write: off"));
    GOOD(conf_rate, "200/min", &rate);
    CHECK_INT(rate.n, 200);
    CHECK_INT(rate.per, MINUTE);
    GOOD(conf_rate, "200k/day", &rate);
    CHECK_INT(rate.n, 200000);
    CHECK_INT(rate.per, DAY);
    BAD(conf_rate, "200", &rate);
    BAD(conf_rate, "/s", &rate);
    BAD(conf_rate, "1/fortnight", &rate);
    GOOD(conf_percent, "0.3%", &part);
    CHECK(part > 0.00299999 && part < 0.00300001);
    GOOD(conf_percent, "100%", &part);
    CHECK(part > 0.99999 && part < 1.00001);
    BAD(conf_percent, "0.3", &part);
    BAD(conf_percent, "%", &part);
    BAD(conf_percent, ".%", &part);
    BAD(conf_percent, "1.2.3%", &part);
    BAD(conf_percent, "inf%", &part);
}

TEST(conf_domain_is_lower_case)
{
    static const struct { str in, want; } cases[] = {
        { S("Example.COM"), S("example.com") },   { S("*.Example.com"), S("*.example.com") },
        { S("localhost"), S("localhost") },       { S("b\xc3\xbc" "cher.example"), S("b\xc3\xbc" "cher.example") },
        { S("a-b.1x"), S("a-b.1x") },
        { S("example.com.") }, { S("a..b") }, { S("-a.b") }, { S("a_b.c") }, { S("*") }, { S("*.") }, { S("a.*.b") },
        { S("192.0.2.1") }, { S("[192.0.2.1]") }, { S("ann@example.com") }, { S("") },
        { S("a234567890123456789012345678901234567890123456789012345678901234.example") },
    };
    AUTO_ARENA a = arena_new();
    EACH(cases, c) {
        struct diags d = { .a = a };
        struct binder b = { .a = a, .diags = &d };
        struct token t = word(c->in);
        str got = { 0 };
        CHECK_INT(conf_domain(&b, &t, &got), c->want.n > 0, c->in);
        CHECK_STR(got, c->want, c->in);
        CHECK_INT(d.errors, c->want.n == 0, c->in);
    }
}

TEST(conf_path_is_relative_to_its_file)
{
    AUTO_ARENA a = arena_new();
    struct diags d = { .a = a };
    struct binder b = { .a = a, .diags = &d };
    struct token t = word(S("tls/key.pem"));
    char *cwd = get_current_dir_name();
    str got;

    must(cwd);
    CHECK(conf_path(&b, &t, &got));
    CHECK_STR(got, str_printf(a, "%s/t/tls/key.pem", cwd));
    t.at.file = S("/etc/waypost/relay.conf");
    CHECK(conf_path(&b, &t, &got));
    CHECK_STR(got, S("/etc/waypost/tls/key.pem"));
    t.text = S("/x");
    CHECK(conf_path(&b, &t, &got));
    CHECK_STR(got, S("/x"));
    t.text = S("");
    CHECK(!conf_path(&b, &t, &got));
    free(cwd);
}

TEST(conf_keywords_pairs_them)
{
    static const char *const words[] = { "priority", "weight", NULL };
    static const struct { str in; uint16_t number; str hint; int priority, weight; } cases[] = {
        { S("server h:25"), 0, S(""), 0, 0 },
        { S("server h:25 weight 2 priority 10"), 0, S(""), 10, 2 },
        { S("server h:25 prio 10 weight 2"), CONF_E_KEYWORD, S("one of: priority, weight"), 0, 2 },
        { S("server h:25 weight 2 weight 3"), CONF_E_KEYWORD, S(""), 0, 2 },
        { S("server h:25 weight"), CONF_E_KEYWORD, S(""), 0, 0 },
        { S("server h:25 [ weight ]"), CONF_E_KEYWORD, S("one of: priority, weight"), 0, 0 },
    };
    AUTO_ARENA a = arena_new();
    EACH(cases, c) {
        struct diags d = { .a = a };
        struct binder b = { .a = a, .diags = &d };
        const struct token *value[2];
        struct node root;
        str text = str_printf(a, "waypost 1\n%.*s", STR(c->in));
        must(conf_parse(a, S("r"), &text, &root, &d) == OK && d.n == 0);
        CHECK_INT(conf_keywords(&b, &root.child[0], 1, words, value), c->number == 0, c->in);
        CHECK_INT(d.n, c->number != 0, c->in);
        if (d.n) {
            CHECK_INT(d.p[0].number, c->number, c->in);
            CHECK_STR(d.p[0].hint, c->hint, c->in);
        }
        uint64_t n = 0;
        CHECK_INT(value[0] && conf_int(&b, value[0], 0, 100, &n) ? n : 0, c->priority, c->in);
        CHECK_INT(value[1] && conf_int(&b, value[1], 0, 100, &n) ? n : 0, c->weight, c->in);
    }
}
