/* A rate in one atomic word: the moment at which the debt is paid off (the "virtual scheduling" form of a leaky bucket). */
#include "queue/queue.h"

when limiter_when(const _Atomic int64_t *clock, struct rate rate, when now)
{
    if (rate.n == 0)
        return NEVER;
    return MAX(atomic_load(clock), now) + MAX(rate.per / (when)rate.n, 1) - rate.per;
}

when limiter_next(_Atomic int64_t *clock, when every, when now)
{
    when spare = MAX(SECOND / every, 1) * every - every;
    int64_t old = atomic_load(clock), even;

    do
        even = MAX(old, now);
    while (!atomic_compare_exchange_weak(clock, &old, even + every));
    return MAX(even - spare, now);
}

bool limiter_take(_Atomic int64_t *clock, struct rate rate, when now)
{
    if (rate.n == 0)
        return false;
    when one = MAX(rate.per / (when)rate.n, 1);
    int64_t old = atomic_load(clock);

    for (;;) {
        int64_t even = MAX(old, now);
        if (even + one > now + rate.per)
            return false;
        if (atomic_compare_exchange_weak(clock, &old, even + one))
            return true;
    }
}
