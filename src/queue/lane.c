/* Lanes, the calendar, and the queue around them. */
#include "queue/inside.h"

#include <stdlib.h>

/* ---- lanes ---- */

struct lane *lane_for(struct queue *q, str name)
{
    for (size_t i = 0; i < q->nlane; i++)
        if (str_eq(q->lane[i]->name, name))
            return q->lane[i];
    struct lane *lane = mem_new(sizeof *lane);
    char *copy = mem_new(name.n + 1);
    memcpy(copy, name.p, name.n);
    lane->queue = q;
    lane->name = str_of(copy, name.n);
    lane->since = clock_now();
    list_init(&lane->ready);
    for (size_t i = 0; i < q->setup.routes->nbackend; i++)
        if (str_eq(q->setup.routes->backend[i]->name, name))
            lane->backend = q->setup.routes->backend[i];
    q->lane = mem_grow(q->lane, (q->nlane + 1) * sizeof *q->lane);
    q->lane[q->nlane++] = lane;
    return lane;
}

struct lane *queue_lane(struct queue *q, size_t i)
{
    return i < q->nlane ? q->lane[i] : NULL;
}

void lane_put(struct lane *lane, struct ticket *t, bool front)
{
    struct queue *q = lane->queue;

    t->state = TICKET_READY;
    if (front)
        list_push(&lane->ready, &t->place);
    else
        list_add(&lane->ready, &t->place);
    lane->nready++;
    if (lane->state == LANE_OPEN)
        q->setup.ready(q->setup.ctx, lane);
}

static struct ticket *lane_remove(struct ticket *t)
{
    list_del(&t->place);
    t->lane->nready--;
    t->lane->nflying++;
    t->state = TICKET_FLYING;
    return t;
}

struct ticket *lane_take(struct lane *lane)
{
    if (list_empty(&lane->ready))
        return NULL;
    return lane_remove(AROUND(lane->ready.next, struct ticket, place));
}

struct ticket *lane_take_this(struct ticket *t) { return lane_remove(t); }

static struct ticket *ready_at(const struct lane *lane, const struct link *l)
{
    return l == &lane->ready ? NULL : AROUND(l, struct ticket, place);
}
struct ticket *lane_first(const struct lane *lane) { return ready_at(lane, lane->ready.next); }
struct ticket *lane_after(const struct ticket *t) { return ready_at(t->lane, t->place.next); }

void lane_down(struct lane *lane, str reason, when retry_at)
{
    struct queue *q = lane->queue;

    if (lane->state != LANE_DOWN)
        lane->since = clock_now();
    lane->state = LANE_DOWN;
    lane->retry_at = retry_at;
    if (!str_eq(lane->reason, reason)) {
        char *copy = mem_new(reason.n + 1);
        memcpy(copy, reason.p, reason.n);
        mem_free((void *)(uintptr_t)lane->reason.p);
        lane->reason = str_of(copy, reason.n);
    }
    /* What waits for a dead server need not lie in memory, and what is too old has now had its last attempt. */
    when now = clock_now(), wall = wall_now();
    if (lane->swept && now - lane->swept < MINUTE && q->body_bytes < q->setup.body_budget / 2)
        return;
    lane->swept = now;
    for (struct link *l = lane->ready.next, *next; l != &lane->ready; l = next) {
        struct ticket *t = AROUND(l, struct ticket, place);
        next = l->next;
        ticket_forget_mail(t);
        if (t->accepted + (when)t->lifetime * SECOND < wall)
            q->setup.expired(q->setup.ctx, lane_remove(t));
    }
}

void lane_open(struct lane *lane)
{
    if (lane->state == LANE_OPEN)
        return;
    lane->state = LANE_OPEN;
    lane->since = clock_now();
    if (lane->nready)
        lane->queue->setup.ready(lane->queue->setup.ctx, lane);
}

/* ---- calendar ---- */

void calendar_put(struct queue *q, struct ticket *t)
{
    struct calendar *c = &q->calendar;

    t->state = TICKET_WAITING;
    t->due = MAX(t->due, c->at + 1);
    list_add(&c->bucket[t->due % CALENDAR_BUCKETS], &t->place);
    t->lane->nwaiting++;
    if (c->n++ == 0)
        waiters_wake_all(&q->calendar_wait);
}

void calendar_del(struct queue *q, struct ticket *t)
{
    list_del(&t->place);
    t->lane->nwaiting--;
    q->calendar.n--;
}

/* All that is due in one second goes to its lane. What lies in this bucket for a later round stays. */
static void calendar_turn(struct queue *q, uint32_t second)
{
    struct link *head = &q->calendar.bucket[second % CALENDAR_BUCKETS];

    for (struct link *l = head->next, *next; l != head; l = next) {
        struct ticket *t = AROUND(l, struct ticket, place);
        next = l->next;
        if (t->due > second)
            continue;
        calendar_del(q, t);
        if (t->lane->backend) {
            lane_put(t->lane, t, false);
        } else { /* there was no way, and still is none */
            t->state = TICKET_FLYING;
            t->lane->nflying++;
            q->setup.unroutable(q->setup.ctx, t);
        }
    }
}

err queue_run(void *queue)
{
    struct queue *q = queue;
    struct calendar *c = &q->calendar;

    for (;;) {
        if (c->n == 0) {
            TRY(waiters_wait(&q->calendar_wait, NEVER));
            c->at = MAX(c->at, seconds_now() - 1);
        }
        TRY(task_sleep((when)(c->at + 1) * SECOND));
        while (c->n && c->at < seconds_now())
            calendar_turn(q, ++c->at);
    }
}

/* ---- queue ---- */

struct queue *queue_new(const struct queue_setup *setup)
{
    struct queue *q = mem_new(sizeof *q);

    q->setup = *setup;
    for (size_t i = 0; i < CALENDAR_BUCKETS; i++)
        list_init(&q->calendar.bucket[i]);
    q->calendar.at = seconds_now();
    return q;
}

void queue_free(struct queue *q)
{
    struct ticket *t[64];
    size_t at = 0, n;

    while ((n = queue_walk(q, &at, t, COUNT(t))))
        for (size_t i = 0; i < n; i++)
            ticket_free(q, t[i]);
    for (size_t i = 0; i < q->nblock; i++)
        mem_free(q->block[i]);
    mem_free(q->block);
    mem_free(q->hash);
    for (size_t i = 0; i < q->nlane; i++) {
        mem_free((void *)(uintptr_t)q->lane[i]->name.p);
        mem_free((void *)(uintptr_t)q->lane[i]->reason.p);
        mem_free(q->lane[i]->server);
        mem_free(q->lane[i]);
    }
    mem_free(q->lane);
    intern_free(&q->words);
    mem_free(q);
}

/* Does the ticket's domain lead elsewhere since the configuration changed? */
static void ticket_reroute(struct queue *q, struct ticket *t)
{
    when expire;
    struct backend *b = route_for(q->setup.routes, ticket_domain(t), &expire);
    struct lane *to = lane_for(q, b ? b->name : S(""));

    t->lifetime = (uint32_t)((expire ? expire : q->setup.retry->lifetime) / SECOND);
    if (to == t->lane)
        return;
    if (t->state == TICKET_READY) {
        list_del(&t->place);
        t->lane->nready--;
        t->lane = to;
        lane_put(to, t, false);
    } else {
        t->lane->nwaiting--;
        t->lane = to;
        to->nwaiting++;
    }
}

void queue_configure(struct queue *q, const struct retry *retry, struct routes *routes)
{
    struct ticket *t[64];
    size_t at = 0, n;

    q->setup.retry = retry;
    q->setup.routes = routes;
    for (size_t i = 0; i < q->nlane; i++) {
        q->lane[i]->backend = NULL;
        for (size_t k = 0; k < routes->nbackend; k++)
            if (str_eq(routes->backend[k]->name, q->lane[i]->name))
                q->lane[i]->backend = routes->backend[k];
    }
    while ((n = queue_walk(q, &at, t, COUNT(t))))
        for (size_t i = 0; i < n; i++)
            if (t[i]->state != TICKET_FLYING)
                ticket_reroute(q, t[i]);
    for (size_t i = 0; i < q->nlane; i++) {
        struct lane *lane = q->lane[i];
        if (lane->backend)
            lane_open(lane); /* servers may have been added: one try now */
        else
            for (struct ticket *gone; (gone = lane_take(lane));)
                q->setup.unroutable(q->setup.ctx, gone);
    }
}

struct queue_totals queue_totals(const struct queue *q)
{
    struct queue_totals r = { .messages = q->nmessages, .tickets = q->ntickets, .body_bytes = q->body_bytes };

    for (size_t i = 0; i < q->nlane; i++) {
        struct lane *lane = q->lane[i];
        r.ready += lane->nready;
        r.waiting += lane->nwaiting;
        r.flying += lane->nflying;
        if (!list_empty(&lane->ready)) {
            when a = AROUND(lane->ready.next, struct ticket, place)->accepted;
            r.oldest = r.oldest ? MIN(r.oldest, a) : a;
        }
    }
    return r;
}

size_t queue_walk(const struct queue *q, size_t *at, struct ticket **out, size_t n)
{
    size_t found = 0;

    while (found < n && *at / BLOCK_TICKETS < q->nblock) {
        struct ticket *t = &q->block[*at / BLOCK_TICKETS][*at % BLOCK_TICKETS];
        if (t->lane)
            out[found++] = t;
        ++*at;
    }
    return found;
}

bool ticket_retry(struct ticket *t)
{
    struct lane *lane = t->lane;

    if (t->state == TICKET_FLYING)
        return false;
    if (t->state == TICKET_WAITING) {
        calendar_del(lane->queue, t);
        lane_put(lane, t, false);
    }
    if (lane->state == LANE_DOWN && lane->backend)
        backend_try_now(lane->backend, clock_now());
    lane_open(lane);
    return true;
}

bool ticket_remove(struct ticket *t)
{
    switch ((enum ticket_state)t->state) {
    case TICKET_READY:
        lane_remove(t);
        return true;
    case TICKET_WAITING:
        calendar_del(t->lane->queue, t);
        t->lane->nflying++;
        t->state = TICKET_FLYING;
        return true;
    case TICKET_FLYING:
        break;
    }
    return false;
}
