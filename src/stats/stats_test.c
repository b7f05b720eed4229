#include "kit/kit.h"
#include "stats/stats.h"

#include <stdio.h>

TEST(histogram_gives_percentiles_within_a_bucket)
{
    struct histogram h = { 0 };

    CHECK_INT(histogram_at(&h, 0.5), 0);
    for (when v = 1; v <= 1000; v++)
        histogram_add(&h, v * MILLISECOND);
    when median = histogram_at(&h, 0.5), p99 = histogram_at(&h, 0.99);
    CHECK(median > 400 * MILLISECOND && median < 600 * MILLISECOND);
    CHECK(p99 > 900 * MILLISECOND && p99 < 1100 * MILLISECOND);
    CHECK_INT((int64_t)h.n, 1000);
}

TEST(histogram_takes_the_ends_of_time)
{
    struct histogram h = { 0 };

    histogram_add(&h, -5);
    histogram_add(&h, 100 * DAY);
    CHECK_INT((int64_t)h.n, 2);
    CHECK(histogram_at(&h, 1.0) > HOUR);
}

struct seen { size_t n; ulid last; when at; bool sorted; };

static void see(void *ctx, const struct event *e)
{
    struct seen *s = ctx;
    s->sorted = s->n == 0 || (s->sorted && e->at >= s->at);
    s->at = e->at;
    s->last = e->id;
    s->n++;
}

TEST(events_are_found_by_id_and_by_address_until_the_ring_forgets)
{
    AUTO_ARENA a = arena_new();
    ulid first = ulid_new(), last = first;
    char reply[300];
    struct seen s = { 0 };

    memset(reply, 'r', sizeof reply);
    event_keep(&(struct event){ .kind = EVENT_ACCEPTED, .id = first, .at = 1, .from = S("ann@first.example"), .rcpt = S("bob@x.example") });
    event_find(a, first, S(""), see, &s);
    CHECK_INT((int64_t)s.n, 1);
    s = (struct seen){ 0 };
    event_find(a, (ulid){ { 0 } }, S("first.example"), see, &s);
    CHECK_INT((int64_t)s.n, 1);

    /* Three rings' worth of events of odd sizes: only the newest third is left, in order, and whole. */
    for (size_t i = 0; i < 3 * STATS_RING / 250; i++) {
        last = ulid_new();
        event_keep(&(struct event){ .kind = EVENT_DELIVERED, .id = last, .at = (when)i + 2, .rcpt = S("x@second.example"),
                                    .reply = str_of(reply, i % sizeof reply) });
    }
    s = (struct seen){ 0 };
    event_find(a, first, S(""), see, &s);
    CHECK_INT((int64_t)s.n, 0);
    event_find(a, (ulid){ { 0 } }, S("second.example"), see, &s);
    CHECK(s.n > STATS_RING / 500 && s.n < STATS_RING / 100);
    CHECK(s.sorted);
    CHECK(ulid_eq(s.last, last));
}

TEST(labels_are_bounded_and_their_sums_are_not)
{
    static struct label_count l[LABELS_MOST + 1];
    char name[32];
    uint64_t all = 0;

    for (int round = 0; round < 2; round++)
        for (int i = 0; i < 3 * LABELS_MOST; i++) {
            snprintf(name, sizeof name, "label-%d", i);
            stats_label(FAMILY_RECEIVED, str_z(name), 1);
        }
    size_t n = stats_labels(FAMILY_RECEIVED, l, COUNT(l));
    CHECK(n <= COUNT(l));
    for (size_t i = 0; i < n; i++)
        if (strncmp(l[i].name, "label-", 6) == 0 || strcmp(l[i].name, LABEL_OTHER) == 0)
            all += l[i].n[1];
    CHECK(all >= 6 * LABELS_MOST);
    CHECK_STR(str_z(l[n - 1].name), S(LABEL_OTHER));
    n = stats_labels(FAMILY_RECEIVED, l, 3);
    CHECK_INT((int64_t)n, 3);
}
