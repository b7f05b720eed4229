/* Limits that all threads share: messages in a time, and connections.
 *
 * A rate is a row of turns, and a lane takes the next one as soon as it has mail and none; then it sleeps until that comes. So nobody polls, nobody is woken in vain,
 * and lanes come in the order in which they asked, each with one message at a time: none has more of the rate than another that wants as much.
 * Where there are two rates, the source's is asked for when the backend's turn has come. */
#include "deliver/inside.h"

#define WANTED (2 * SECOND)     /* a wish for a connection is older than that: nobody has it any more */

/* ---- rates ---- */

static bool take_turns(struct lane *lane, const struct backend *b)
{
    struct pacing *p = &lane->sending->pacing;
    when now = clock_now();

    for (; p->had < b->nlimit; p->had++) {
        struct limit_state *s = b->limit[p->had].state;
        when every = b->limit[p->had].rate.n ? atomic_load_explicit(&s->every, memory_order_relaxed) : 0;
        if (!every)
            continue;
        when at = limiter_next(&s->clock, every, now);
        if (at <= now)
            continue;
        p->had++;
        p->until = at;
        p->of = s;
        p->changed = atomic_load(&s->changed);
        atomic_fetch_add_explicit(&s->waited, 1, memory_order_relaxed);
        stats_add(COUNT_rate_waits, 1);
        return false;
    }
    p->had = 0;
    return p->mine = true;
}

/* Is what it waits for still a limit of its, and the same? */
static bool still_holds(const struct lane *lane)
{
    const struct pacing *p = &lane->sending->pacing;

    for (unsigned i = 0; lane->backend && i < lane->backend->nlimit; i++)
        if (lane->backend->limit[i].state == p->of)
            return lane->backend->limit[i].rate.n && atomic_load(&p->of->changed) == p->changed;
    return false;
}

/* Its turn came, or what it waits for is void: on to the next rate, or to work. */
static void go_on(struct dispatch *d, struct lane *lane)
{
    struct pacing *p = &lane->sending->pacing;

    if (!still_holds(lane))
        p->had = 0;
    p->until = 0;
    if (!lane->backend || !lane->nready || lane->state != LANE_OPEN)
        return;
    if (lane_may_send(d, lane, lane->backend))
        dispatch_ready(d, lane);
}

/* One task for all lanes: a source's rate may be shared by a hundred thousand. */
err pace_run(void *dispatch)
{
    struct dispatch *d = dispatch;

    for (;;) {
        struct heap_entry *next = heap_least(&d->paced);
        if (next && next->key <= clock_now()) {
            heap_del(&d->paced, next);
            go_on(d, AROUND(next, struct pacing, turn)->lane);
            continue;
        }
        err e = waiters_wait(&d->paced_wait, next ? next->key : NEVER);
        if (e != OK && e != E_TIMEOUT)
            return e;
    }
}

static void pace_later(struct dispatch *d, struct lane *lane, when at)
{
    bool sooner = !heap_least(&d->paced) || at < heap_least(&d->paced)->key;

    heap_put(&d->paced, &lane->sending->pacing.turn, at);
    if (sooner)
        waiters_wake_one(&d->paced_wait);
}

bool lane_may_send(struct dispatch *d, struct lane *lane, const struct backend *b)
{
    struct pacing *p = &lane->sending->pacing;

    if (p->mine)
        return true;
    if (p->until)
        return false;
    if (take_turns(lane, b))
        return true;
    pace_later(d, lane, p->until);
    return false;
}

void lanes_pace_anew(struct dispatch *d)
{
    struct lane *lane;

    for (size_t i = 0; (lane = queue_lane(d->setup.queue, i)); i++)
        if (lane->sending->pacing.until && !still_holds(lane))
            pace_later(d, lane, clock_now());
}

/* ---- connections ---- */

static bool wanted(const struct limit_state *s, when now)
{
    when at = atomic_load_explicit(&s->wanted, memory_order_relaxed);
    return at && now - at < WANTED;
}

bool lane_may_connect(struct lane *lane, const struct backend *b)
{
    when now;

    if (!b->nlimit)
        return true;
    now = clock_now();
    for (unsigned i = 0; i < b->nlimit; i++) {
        struct limit_state *s = b->limit[i].state;
        if (!b->limit[i].connections)
            continue;
        /* Who has one leaves the next to who has none. */
        if (lane->sending->connections && wanted(s, now))
            return false;
        if (now < lane->sending->yields_until && wanted(s, now))
            return false;
        if (atomic_load_explicit(&s->used, memory_order_relaxed) < b->limit[i].connections)
            continue;
        if (!lane->sending->connections) {
            if (lane->sending->full != s)
                atomic_fetch_add_explicit(&s->full, 1, memory_order_relaxed);
            lane->sending->full = s;
            atomic_store_explicit(&s->wanted, now, memory_order_relaxed);
        }
        return false;
    }
    return true;
}

bool slots_take(struct slots *s, const struct backend *b)
{
    for (unsigned i = 0; i < b->nlimit; i++) {
        struct limit_state *st = b->limit[i].state;
        uint32_t used = atomic_load(&st->used);
        if (!b->limit[i].connections)
            continue;
        do
            if (used >= b->limit[i].connections) { /* another thread was faster */
                slots_give(s);
                return false;
            }
        while (!atomic_compare_exchange_weak(&st->used, &used, used + 1));
        s->of[i] = st;
    }
    return true;
}

void slots_give(struct slots *s)
{
    for (size_t i = 0; i < COUNT(s->of); i++)
        if (s->of[i])
            atomic_fetch_sub(&s->of[i]->used, 1);
    *s = (struct slots){ { NULL } };
}

bool slots_wanted(const struct slots *s)
{
    for (size_t i = 0; i < COUNT(s->of); i++)
        if (s->of[i] && wanted(s->of[i], clock_now()))
            return true;
    return false;
}
