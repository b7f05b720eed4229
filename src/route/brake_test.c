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
