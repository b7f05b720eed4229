/* Between a session whose answer waits, and the delivery that decides it. */
#include "queue/queue.h"

struct vigil *vigil_new(const bool *gone)
{
    struct vigil *w = mem_new(sizeof *w);

    w->gone = gone;
    w->home = thread_self();
    w->holders = 2;
    return w;
}

static void drop(struct vigil *w)
{
    if (atomic_fetch_sub(&w->holders, 1) == 1)
        mem_free(w);
}

static bool decide(struct vigil *w, int as)
{
    int waits = VIGIL_WAITS;

    return atomic_compare_exchange_strong(&w->state, &waits, as);
}

static void told(struct post *p)
{
    struct vigil *w = AROUND(p, struct vigil, post);

    waiters_wake_all(&w->session);
    drop(w);
}

/* The deliverer's holder goes with the word that wakes the session. */
static void tell(struct vigil *w)
{
    if (thread_self() == w->home) {
        told(&w->post);
        return;
    }
    w->post.run = told;
    thread_post(w->home, &w->post);
}

void vigil_end(struct vigil *w)
{
    if (!w)
        return;
    decide(w, VIGIL_SETTLED);
    tell(w);
}

bool vigil_refuse(struct vigil *w, const struct reply *r)
{
    size_t n = MIN(r->text.n, sizeof w->text);

    /* Nobody reads it before the state says so, and nobody else writes it. */
    memcpy(w->text, r->text.p, n);
    w->reply = *r;
    w->reply.text = str_of(w->text, n);
    bool gone = thread_self() == w->home && atomic_load(&w->state) == VIGIL_WAITS && *w->gone;
    bool refused = decide(w, gone ? VIGIL_SETTLED : VIGIL_REFUSED) && !gone;
    tell(w);
    return refused;
}

void vigil_leave(struct vigil *w)
{
    decide(w, VIGIL_SETTLED);
    waiters_wake_all(&w->session);
}

bool vigil_wait(struct vigil *w, when deadline, arena *a, struct reply *ret)
{
    while (atomic_load(&w->state) == VIGIL_WAITS && waiters_wait(&w->session, deadline) == OK)
        ;
    bool refused = !decide(w, VIGIL_SETTLED) && atomic_load(&w->state) == VIGIL_REFUSED;
    if (refused) {
        *ret = w->reply;
        ret->text = str_dup(a, w->reply.text);
    }
    drop(w);
    return refused;
}
