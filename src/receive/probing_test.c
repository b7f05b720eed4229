#include "kit/kit.h"
#include "receive/inside.h"

#include <stdio.h>

static struct addr at(const char *text)
{
    struct addr a;
    must(addr_parse(str_z(text), 25, &a) == OK);
    return a;
}

static void quiet(void *ctx, enum log_level level, str line) { (void)level; *(size_t *)ctx += str_has(line, S("probing")); }

TEST(probing_slows_then_cuts_then_forgives)
{
    struct rate budget = { 10, HOUR };
    struct addr one = at("192.0.2.1"), other = at("192.0.2.2");
    when now = HOUR, delay, before = 0;
    size_t told = 0;

    probing_forget();
    log_start(&(struct log_setup){ .tap = quiet, .ctx = &told });
    for (int i = 1; i <= 10; i++) {
        CHECK(probing_note(budget, &one, now, &delay));
        CHECK(i <= 5 ? delay == 0 : delay >= SECOND && delay > before && delay <= 10 * SECOND);
        before = delay;
    }
    for (int i = 0; i < 3; i++)
        CHECK(!probing_note(budget, &one, now, &delay));
    CHECK_INT(told, 1);
    CHECK(probing_note(budget, &other, now, &delay) && delay == 0); /* it is nobody else's fault */
    now += HOUR / 10;
    CHECK(probing_note(budget, &one, now, &delay));
    CHECK(!probing_note(budget, &one, now, &delay));
    now += HOUR;
    CHECK(probing_note(budget, &one, now, &delay) && delay == 0);
    CHECK(probing_note((struct rate){ 0, HOUR }, &one, now, &delay) && delay == 0); /* off */
    log_stop();
}

/* Many clients: memory is bounded, and the worst are remembered longest. */
TEST(probing_remembers_the_worst)
{
    struct rate budget = { 10, HOUR };
    struct addr worst = at("192.0.2.1");
    when now = HOUR, delay;

    probing_forget();
    for (int i = 0; i < 10; i++)
        probing_note(budget, &worst, now, &delay);
    for (unsigned i = 0; i < 200000; i++) {
        char text[64];
        snprintf(text, sizeof text, "[2001:db8:%x:%x::1]:25", i >> 8, i & 255);
        struct addr a = at(text);
        probing_note(budget, &a, now, &delay);
    }
    CHECK(!probing_note(budget, &worst, now, &delay));
    probing_forget();
}
