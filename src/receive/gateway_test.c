#include "kit/kit.h"
#include "receive/inside.h"

#include <stdio.h>

static void notes(const char *ip, unsigned n, when now)
{
    struct addr a;

    must(addr_parse(str_z(ip), 25, &a) == OK);
    for (unsigned i = 0; i < n; i++) {
        addr_set_port(&a, (uint16_t)(1024 + i));
        gateway_note(&a, now);
    }
}

static void strangers(unsigned n, when now)
{
    char text[32];

    for (unsigned i = 0; i < n; i++) {
        snprintf(text, sizeof text, "198.51.%u.%u", 100 + i / 200, 1 + i % 200);
        notes(text, 1, now);
    }
}

static void count(void *ctx, enum log_level level, str line) { (void)level; *(size_t *)ctx += str_has(line, S("one_gateway")); }

TEST(gateway_is_found_once_a_day_while_it_lasts)
{
    struct gateway_seen g;
    size_t told = 0;
    when now = HOUR;

    gateway_forget();
    log_start(&(struct log_setup){ .tap = count, .ctx = &told });
    notes("172.17.0.1", 299, now);
    CHECK(!gateway_found(&g));
    notes("172.17.0.1", 1, now);
    CHECK(gateway_found(&g));
    CHECK_STR(str_z(g.ip), S("172.17.0.1"));
    CHECK_INT(g.its, 300);
    CHECK_INT(told, 1);
    notes("172.17.0.1", 1000, now + 23 * HOUR);
    CHECK_INT(told, 1);
    notes("172.17.0.1", 300, now + 24 * HOUR);
    CHECK_INT(told, 2);
    strangers(850, now + 25 * HOUR);
    CHECK(gateway_found(&g));
    strangers(150, now + 25 * HOUR);
    CHECK(!gateway_found(&g));
    log_stop();
    gateway_forget();
}

TEST(gateway_is_more_than_19_of_20_and_private)
{
    static const struct { const char *ip; unsigned of_100; bool found; } cases[] = {
        { "10.0.0.1", 98, true }, { "10.0.0.1", 90, false }, { "10.0.0.1", 50, false }, { "[fd00::1]", 98, true },
        { "192.0.2.1", 100, false }, { "127.0.0.1", 100, false }, { "[::1]", 100, false },
    };
    EACH(cases, c) {
        struct gateway_seen g;
        gateway_forget();
        strangers(100, HOUR);
        for (unsigned i = 0; i < 10; i++)
            for (unsigned k = 0; k < 100; k += 10) { /* spread out, as they come */
                unsigned others = (100 - c->of_100) / 10 + (k / 10 < (100 - c->of_100) % 10);
                strangers(others, HOUR);
                notes(c->ip, 10 - others, HOUR);
            }
        CHECK_INT(gateway_found(&g), c->found, str_z(c->ip));
    }
    gateway_forget();
}
