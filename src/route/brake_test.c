/* When a backend's refusals are believed, when they are not, and what ends that. */
#include "route/route.h"
#include "kit/kit.h"

#include <stdio.h>

static const struct brake_settings twenty = { 20, 5 * MINUTE };

/* One of its own each time: they are never freed. */
static struct brake *fresh(void)
{
    static int n;
    char name[32];

    snprintf(name, sizeof name, "brake-test-%d", n++);
    return brake_of(str_z(name));
}

static bool count(struct brake *b, unsigned took, unsigned by_rcpt, unsigned by_message, when now)
{
    return brake_count(b, &twenty, &(struct brake_count){ took, by_rcpt, by_message, S("ann@a.example"), S("550 5.1.1 who?") }, now);
}

TEST(brake_comes_on_when_over_half_of_enough_are_refused)
{
    static const struct { unsigned took, by_rcpt, by_message; bool on; } cases[] = {
        { 0, 19, 0, false }, { 0, 20, 0, true }, { 10, 10, 0, false }, { 9, 11, 0, true }, { 100, 100, 0, false }, { 100, 101, 0, true }, { 20, 0, 0, false },
        { 0, 0, 20, true },     /* refused by their final dot: when nothing is taken at all */
        { 1, 0, 200, false },   /* what others send may be what it refuses */
        { 1, 102, 100, true },
    };
    EACH(cases, c) {
        struct brake *b = fresh();
        CHECK(!count(b, c->took, 0, 0, HOUR));
        CHECK_INT(count(b, 0, c->by_rcpt, c->by_message, HOUR + SECOND), c->on);
        CHECK_INT(brake_on(b), c->on);
        CHECK(!count(b, 0, 1000, 0, HOUR + SECOND) || !c->on); /* it comes on once */
    }
    struct brake *b = fresh();
    const struct brake_settings off = { 0, MINUTE };
    CHECK(!brake_count(b, &off, &(struct brake_count){ .by_rcpt = 1000 }, HOUR));
}

TEST(brake_counts_within_its_window)
{
    struct brake *b = fresh();

    for (int i = 0; i < 100; i++) /* one a minute: five in each window */
        CHECK(!count(b, 0, 1, 0, HOUR + i * MINUTE));
    for (int i = 0; i < 14; i++)
        CHECK(!count(b, 0, 1, 0, 3 * HOUR + i * SECOND));
    CHECK(!count(b, 0, 5, 0, 3 * HOUR + 20 * SECOND));
    CHECK(count(b, 0, 1, 0, 3 * HOUR + 21 * SECOND));
}

TEST(brake_believes_who_took_others_afterwards_or_never_took_any)
{
    struct brake *b = fresh();
    uint8_t era = 0;
    when now = HOUR, again = 0;

    CHECK(!brake_believes(b, &twenty, &era, 0, now, &again));      /* the first time: nothing is known yet */
    CHECK_INT(era, brake_era(b));
    CHECK(again > now && again <= now + MINUTE);
    CHECK(!brake_believes(b, &twenty, &era, now, again, &again));
    count(b, 1, 0, 0, now + 30 * SECOND);
    CHECK(brake_believes(b, &twenty, &era, now, again, &again));   /* it took another after that */
    uint8_t late = 0;
    CHECK(!brake_believes(b, &twenty, &late, 0, now + MINUTE, &again)); /* but none after this one */
    CHECK(!brake_believes(b, &twenty, &late, now + MINUTE, now + 5 * MINUTE, &again));
    CHECK(brake_believes(b, &twenty, &late, now + MINUTE, now + 6 * MINUTE, &again)); /* the time for doubt is over */
}

TEST(brake_on_believes_nothing_and_starts_anew_when_it_goes_off)
{
    struct brake *b = fresh();
    char example[BRAKE_EXAMPLE];
    bool by_message;
    uint8_t era = 0;
    when now = HOUR, again = 0;

    CHECK(!brake_believes(b, &twenty, &era, 0, now, &again));
    CHECK(count(b, 0, 20, 0, now));
    CHECK(!brake_believes(b, &twenty, &era, now, now + DAY, &again));
    CHECK_INT(again, 0);
    CHECK(brake_try(b, now, example, &by_message) && !by_message);
    CHECK_STR(str_z(example), S("ann@a.example"));
    CHECK(!brake_try(b, now, example, &by_message));                /* one at a time */
    CHECK_INT(brake_tried(b, BRAKE_REFUSED, now), BRAKE_STAYS_FIRST);
    CHECK(!brake_try(b, now, example, &by_message));                /* not before its time */
    when wait = 30 * SECOND;
    for (int i = 0; i < 10; i++, wait = MIN(2 * wait, 10 * MINUTE)) {
        now += wait;
        CHECK(!brake_try(b, now - SECOND, example, &by_message));
        CHECK(brake_try(b, now, example, &by_message));
        CHECK_INT(brake_tried(b, BRAKE_REFUSED, now), BRAKE_STAYS);
    }
    now += wait;
    CHECK(brake_try(b, now, example, &by_message));
    CHECK_INT(brake_tried(b, BRAKE_TAKEN, now), BRAKE_IS_OFF);
    CHECK(!brake_on(b));
    CHECK(!brake_believes(b, &twenty, &era, now - DAY, now, &again)); /* who was refused before gets the doubt again */
    CHECK(!count(b, 0, 19, 0, now));                                /* and what was counted is forgotten */
}

TEST(brake_is_not_pulled_by_what_the_null_sender_may)
{
    struct brake *b = fresh();
    char example[BRAKE_EXAMPLE];
    bool by_message;
    uint8_t era = 0;
    when now = HOUR, again;

    /* It takes some, and RCPT from the null sender: then it has something against the others' senders. */
    CHECK(!count(b, 5, 0, 0, now) && count(b, 0, 30, 0, now));
    CHECK(brake_try(b, now, example, &by_message));
    CHECK_INT(brake_tried(b, BRAKE_TAKEN, now), BRAKE_MEANT);
    CHECK(!brake_on(b) && brake_believes(b, &twenty, &era, 0, now, &again));
    CHECK(!count(b, 0, 1000, 0, now + MINUTE));

    /* It takes nothing but that question: only a message will tell. */
    b = fresh();
    CHECK(count(b, 0, 30, 0, now));
    CHECK(brake_try(b, now, example, &by_message) && !by_message);
    CHECK_INT(brake_tried(b, BRAKE_TAKEN, now), BRAKE_STAYS_FIRST);
    CHECK(brake_try(b, now + HOUR, example, &by_message) && by_message);
    CHECK_INT(brake_tried(b, BRAKE_NOTHING, now + HOUR), BRAKE_STAYS);
    CHECK(brake_try(b, now + HOUR, example, &by_message) && by_message); /* there was nothing to try it with: at once */
    CHECK(brake_release(b) && !brake_on(b) && !brake_release(b));
    CHECK_INT(brake_tried(b, BRAKE_REFUSED, now + HOUR), BRAKE_STAYS);
    CHECK(!brake_on(b));
}

/* ---- sites ---- */

static struct backend *site_at(const char *host, str name)
{
    struct site_host h = { str_z(host), 10 };
    struct site s = { .kind = SITE_HOSTS, .host = &h, .n = 1 };
    struct backend mx = { .name = S("mx"), .mx = true, .braking = twenty };

    return site_backend(&s, &mx, name);
}

TEST(brake_of_a_site_is_made_when_it_is_needed_and_given_back)
{
    struct backend *one = site_at("h.example", S("mx:h.example:relay")), *two = site_at("h.example", S("mx:h.example:relay@a1")), *no = site_at("h.example", S("mx:h.example"));
    when now = clock_now();

    CHECK(!backend_brake(one) && !backend_brake(two));
    for (int i = 0; i < 25; i++)
        backend_took(two, 1, now); /* nobody counts yet */
    CHECK(!brake_find(S("mx:h.example")));
    struct brake *b = backend_brake_make(one, S("a.example"), now);
    CHECK(b && backend_brake(one) == b && backend_brake(two) == b); /* another thread's, or another source's */
    CHECK(!backend_brake(no) && !backend_brake_make(no, S("a.example"), now));
    CHECK(!count(b, 0, 25, 0, now)); /* what was taken before is not forgotten */
    CHECK(count(b, 0, 1, 0, now));
    uint8_t era = brake_era(b);
    struct backend *again = site_like(one, &(struct backend){ .name = S("mx"), .mx = true, .braking = twenty });
    CHECK(backend_brake(again) == b); /* a new configuration */
    backend_drop(one);
    backend_drop(two);
    CHECK(brake_leave(b) && !brake_on(b) && !brake_leave(b)); /* of the last holder alone */
    backend_drop(again);
    CHECK(!brake_find(S("mx:h.example")));
    one = site_at("h.example", S("mx:h.example:relay"));
    b = backend_brake_make(one, S("a.example"), now);
    CHECK(b && !brake_on(b) && brake_era(b) != era);
    backend_drop(one);
    backend_drop(no);
}

/* Attack: who has the MX records of a relay domain lets them name one site after the other. */
TEST(brakes_of_sites_are_so_many_a_relay_domain)
{
    struct brake *b[BRAKES_EACH];
    char name[32];

    for (size_t i = 0; i < BRAKES_EACH; i++) {
        snprintf(name, sizeof name, "mx:m%zu.example", i);
        CHECK((b[i] = brake_hold(str_z(name), S("theirs.example"))) != NULL);
    }
    CHECK(!brake_hold(S("mx:one.more.example"), S("theirs.example")));
    struct brake *same = brake_hold(S("mx:m0.example"), S("theirs.example")), *ours = brake_hold(S("mx:one.more.example"), S("ours.example"));
    CHECK(same == b[0] && ours);
    brake_drop(same);
    brake_drop(ours);
    brake_drop(b[1]);
    CHECK((b[1] = brake_hold(S("mx:one.more.example"), S("theirs.example"))) != NULL);
    for (size_t i = 0; i < BRAKES_EACH; i++)
        brake_drop(b[i]);
    CHECK(!brake_find(S("mx:m0.example")));
    CHECK(!brake_leave(brake_of(S("brake-test-for-ever"))));
}

TEST(sites_are_called_without_source_and_relay)
{
    static const struct { str lane, subject; bool relay; } cases[] = {
        { S("mx:h.example"), S("mx:h.example"), false }, { S("mx:h.example:relay"), S("mx:h.example"), true }, { S("mx:h.example@a1"), S("mx:h.example"), false },
        { S("mx:h.example+2/1a2b3c4d:relay@a1"), S("mx:h.example+2/1a2b3c4d"), true }, { S("exchange@a1"), S("exchange"), false }, { S("exchange"), S("exchange"), false },
        { S("a:relay"), S("a:relay"), false },
    };
    EACH(cases, c) {
        CHECK_STR(site_subject(c->lane), c->subject);
        CHECK_INT(site_is_relay(c->lane), c->relay);
    }
}
