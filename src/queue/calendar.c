/* The calendar: tickets that are put off, by the second in which they are due. */
#include "queue/inside.h"

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

struct lane *lane_again(struct ticket *t)
{
    struct lane *lane = t->lane;
    struct queue *q = lane->queue;
    when expire;

    if (!lane_leads(lane)) { /* a new configuration took its backend away while it was in flight */
        struct backend *b = route_for(q->setup.routes, ticket_domain(t), &expire);
        return lane_leaving(q, b, route_outlets(q->setup.routes, NULL, b, ticket_domain(t)), ticket_domain(t), NULL, NULL);
    }
    const struct backend *by = lane_by(lane);
    if (by && by->among && lane->state == LANE_DOWN) /* another source may be better off */
        return lane_leaving(q, by->base, by->among, ticket_domain(t), lane, NULL);
    if (lane->kind != LANE_SITE || !lane->mx)
        return lane;
    return lane_for(q, lane->mx, ticket_domain(t));
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
        if (t->held)
            ticket_let_go(t);
        ticket_go(t, lane_again(t));
        if (lane_leads(t->lane)) {
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
        lanes_sweep(q);
    }
}
