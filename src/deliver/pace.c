/* Reports are paced: a flood of failures is no flood of reports, least of all to one address that somebody forged (attack class 30). */
#include "deliver/inside.h"

#define WAIT_MOST DAY           /* for a turn among all reports */
#define WAIT_MOST_ADDRESS HOUR  /* among those to one address */
#define ADDRESSES 16384         /* two that share a clock share a rate; 128 KiB */

static _Atomic int64_t of_all, of_double, of_address[ADDRESSES];

/* How long until the next turn, which is taken; NEVER: longer than `most`, and none is taken. As limiter_take(), but who is too many waits. */
static when turn(_Atomic int64_t *clock, struct rate r, when now, when most)
{
    if (r.n == 0)
        return 0;
    when one = MAX(r.per / (when)r.n, 1);
    int64_t old = atomic_load(clock);

    for (;;) {
        int64_t even = MAX(old, now) + one;
        when wait = MAX(even - (now + r.per), 0);
        if (wait > most)
            return NEVER;
        if (atomic_compare_exchange_weak(clock, &old, even))
            return wait;
    }
}

when pace_report(const struct report_settings *s, arena *a, str to, bool trusted)
{
    when now = clock_now(), wait = 0;

    if (!trusted)
        wait = turn(&of_address[str_hash(str_lower(a, to)) % ADDRESSES], s->rate_per_address, now, WAIT_MOST_ADDRESS);
    if (wait == NEVER)
        return NEVER;
    when all = turn(&of_all, s->rate, now, WAIT_MOST);
    return MAX(wait, all);
}

bool pace_double(void)
{
    return limiter_take(&of_double, (struct rate){ 60, HOUR }, clock_now());
}
