#include "kit/kit.h"
#include "route/route.h"

/* ---- which server ---- */

struct four { struct next_hop server[4]; struct backend b; bool avoid[4]; when retry_at; };

static void four_open(struct four *f, str name)
{
    *f = (struct four){ .b = { .name = name, .server = f->server, .nserver = 4 } };
    for (uint16_t i = 0; i < 4; i++) {
        f->server[i] = (struct next_hop){ .host = S("x"), .port = i, .priority = i < 2 ? 10 : i == 2 ? 20 : 30, .weight = 10 };
        f->server[i].state = server_state(name, S("x"), i);
    }
}

static struct next_hop *four_pick(struct four *f, when now)
{
    return backend_pick(&f->b, f->avoid, now, &f->retry_at);
}

TEST(balance_shares_among_equals_and_keeps_the_others_in_reserve)
{
    struct four f;
    int first = 0;

    four_open(&f, S("share"));
    for (int i = 0; i < 1000; i++) {
        struct next_hop *s = four_pick(&f, HOUR);
        CHECK(s && s->priority == 10);
        first += s == &f.server[0];
    }
    CHECK(first > 300 && first < 700);
    atomic_store(&f.server[0].state->busy, 50);
    for (int i = 0; i < 100; i++)
        CHECK(four_pick(&f, HOUR) == &f.server[1]); /* the less busy of two */
}

TEST(balance_remembers_why_a_server_failed)
{
    AUTO_ARENA a = arena_new();
    struct four f;

    four_open(&f, S("words"));
    CHECK_STR(backend_no_server(&f.b, a), S("all its servers failed lately"));
    server_failed(f.server[1].state, HOUR);
    server_said(f.server[1].state, S("x:1: connection refused"));
    CHECK_STR(server_last_words(f.server[0].state, a), S(""));
    CHECK_STR(backend_no_server(&f.b, a), S("all its servers failed lately: x:1: connection refused"));
    for (int i = 0; i < 4; i++)
        atomic_store(&f.server[i].state->drained, i != 0);
    CHECK_STR(backend_no_server(&f.b, a), S("all its servers failed lately")); /* of those that may be used */
    atomic_store(&f.server[0].state->drained, true);
    CHECK_STR(backend_no_server(&f.b, a), S("all its servers are drained"));
    server_works(f.server[1].state, HOUR);
    CHECK_STR(server_last_words(f.server[1].state, a), S(""));
}

TEST(balance_goes_down_the_priorities_and_back_up_by_one_probe)
{
    struct four f;

    four_open(&f, S("fail"));
    server_failed(f.server[0].state, HOUR);
    CHECK(four_pick(&f, HOUR) == &f.server[1]);
    server_failed(f.server[1].state, HOUR);
    CHECK(four_pick(&f, HOUR) == &f.server[2]);
    server_failed(f.server[2].state, HOUR);
    CHECK(four_pick(&f, HOUR) == &f.server[3]);
    server_failed(f.server[3].state, HOUR);
    CHECK(four_pick(&f, HOUR) == NULL);
    CHECK(f.retry_at > HOUR && f.retry_at <= HOUR + 2 * SECOND);

    /* After its time one caller tries a server; the others do not wait for what it finds. */
    struct next_hop *probe = four_pick(&f, HOUR + 2 * SECOND);
    CHECK(probe == &f.server[0]);
    CHECK(four_pick(&f, HOUR + 2 * SECOND) == &f.server[1]);
    server_works(probe->state, HOUR + 2 * SECOND);
    CHECK(four_pick(&f, HOUR + 2 * SECOND) == &f.server[0]);
    CHECK_INT(atomic_load(&f.server[0].state->failures), 0);
}

TEST(balance_ejects_for_longer_each_time_up_to_a_minute)
{
    struct four f;
    when last = 0;

    four_open(&f, S("eject"));
    for (int i = 0; i < 12; i++) {
        server_failed(f.server[0].state, HOUR);
        when out = atomic_load(&f.server[0].state->out_until) - HOUR;
        CHECK(out >= MIN(SECOND << i, MINUTE) && out <= MINUTE + MINUTE / 4);
        CHECK(out >= last || out >= MINUTE);
        last = out;
    }
}

TEST(balance_gives_a_returning_server_little_at_first)
{
    struct four f;
    int first = 0;

    four_open(&f, S("ramp"));
    server_failed(f.server[0].state, HOUR);
    server_works(f.server[0].state, HOUR + MINUTE);
    atomic_store(&f.server[1].state->busy, 3); /* busier, but long in */
    for (int i = 0; i < 100; i++)
        first += four_pick(&f, HOUR + MINUTE) == &f.server[0];
    CHECK_INT(first, 0);
    for (int i = 0; i < 100; i++)
        first += four_pick(&f, HOUR + 2 * MINUTE) == &f.server[0];
    CHECK_INT(first, 100);
}

TEST(balance_tries_at_once_when_an_operator_says_so)
{
    struct four f;

    four_open(&f, S("now"));
    for (int i = 0; i < 4; i++)
        server_failed(f.server[i].state, HOUR);
    CHECK(four_pick(&f, HOUR) == NULL);
    backend_try_now(&f.b, HOUR);
    for (int i = 0; i < 4; i++) /* each by one caller */
        CHECK(four_pick(&f, HOUR) == &f.server[i]);
    CHECK(four_pick(&f, HOUR) == NULL);
}

TEST(balance_minds_weights_and_drains)
{
    struct four f;
    int first = 0;

    four_open(&f, S("weights"));
    f.server[0].weight = 30;
    for (int i = 0; i < 1000; i++) { /* equally busy: the heavier one */
        atomic_store(&f.server[0].state->busy, 2);
        atomic_store(&f.server[1].state->busy, 2);
        first += four_pick(&f, HOUR) == &f.server[0];
    }
    CHECK_INT(first, 1000);
    atomic_store(&f.server[0].state->busy, 9); /* (1 + 9) / 30 is more than (1 + 2) / 10 */
    CHECK(four_pick(&f, HOUR) == &f.server[1]);
    atomic_store(&f.server[1].state->drained, true);
    CHECK(four_pick(&f, HOUR) == &f.server[0]);
    f.server[0].weight = 0;
    CHECK(four_pick(&f, HOUR) == &f.server[2]);
    f.server[2].weight = f.server[3].weight = 0;
    CHECK(four_pick(&f, HOUR) == NULL);
}

TEST(balance_sticks_to_a_server_as_long_as_it_is_in)
{
    struct four f;
    static struct next_hop *was[4000];
    unsigned mine = 0, moved = 0;

    four_open(&f, S("stick"));
    f.server[0].weight = 30;
    for (uint32_t k = 0; k < COUNT(was); k++) {
        was[k] = backend_stick(&f.b, k);
        CHECK(was[k] == backend_stick(&f.b, k) && was[k]->priority == 10);
        mine += was[k] == &f.server[0];
    }
    CHECK(mine > 2800 && mine < 3200); /* 30 of 40 */
    server_failed(f.server[1].state, HOUR);
    for (uint32_t k = 0; k < COUNT(was); k++) {
        struct next_hop *now = backend_stick(&f.b, k);
        CHECK(now == &f.server[0]);
        moved += now != was[k];
    }
    CHECK_INT(moved, COUNT(was) - mine); /* only those of the one that is out */
    server_works(f.server[1].state, HOUR);
    for (uint32_t k = 0; k < COUNT(was); k++)
        CHECK(backend_stick(&f.b, k) == was[k]);
    server_failed(f.server[0].state, HOUR);
    server_failed(f.server[1].state, HOUR);
    CHECK(backend_stick(&f.b, 7) == &f.server[2]);
}

TEST(balance_probes_put_a_server_out_and_in)
{
    struct four f;
    const struct health h = { .every = 10 * SECOND, .down_after = 3, .up_after = 2 };
    struct server_state *s;

    four_open(&f, S("probes"));
    s = f.server[0].state;
    CHECK(!server_probed(s, &h, false, HOUR) && !server_probed(s, &h, false, HOUR) && server_in(&f.server[0]));
    CHECK(!server_probed(s, &h, true, HOUR)); /* well in between: counted anew */
    CHECK(!server_probed(s, &h, false, HOUR) && !server_probed(s, &h, false, HOUR));
    CHECK(server_probed(s, &h, false, HOUR) && !server_in(&f.server[0]));
    CHECK(!server_probed(s, &h, false, HOUR)); /* told once */
    server_failed(s, HOUR);                   /* a failed connection does not shorten it */
    CHECK(four_pick(&f, 2 * HOUR) == &f.server[1]);
    CHECK(!server_probed(s, &h, true, 2 * HOUR) && server_probed(s, &h, true, 2 * HOUR) && server_in(&f.server[0]));
    CHECK(!server_probed(s, &h, true, 2 * HOUR));
    /* What a failed connection put out, well probes bring back early. */
    server_failed(s, 3 * HOUR);
    CHECK(!server_in(&f.server[0]));
    CHECK(server_probed(s, &h, true, 3 * HOUR) && server_in(&f.server[0]));
}
