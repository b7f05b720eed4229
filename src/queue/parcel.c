/* Tickets that change threads. */
#include "queue/inside.h"

#define LOOK_EACH 4     /* tickets looked at for each that is wanted */

/* Mail that might be handed on belongs where it was accepted: that other way may live on one thread (way_is_narrow()). */
static bool may_go(const struct ticket *t)
{
    return t->fresh && !t->hand_on && !t->server && !t->many && (!t->mail || t->mail->holders == 1);
}

static void pack(struct parcel *p, struct ticket *t)
{
    struct queue *q = t->lane->queue;
    struct packed *k = NEW(p->a, struct packed);

    lane_take_this(t)->lane->nflying--;
    *k = (struct packed){ .t = *t, .domain = str_dup(p->a, ticket_domain(t)), .from = str_dup(p->a, ticket_sender_domain(t)),
                          .reason = str_dup(p->a, intern_str(&q->words, t->reason)), .next = p->first };
    p->first = k;
    p->n++;
    if (t->mail)
        mail_count(take(t->mail), NULL);
    must(ticket_unlink(q, t));
    ticket_free(q, t);
}

struct parcel *lane_pack(struct lane *lane, size_t most)
{
    const struct backend *by = lane_by(lane);
    struct ticket *t = by ? lane_first(lane) : NULL, *next;
    struct parcel *p = NULL;

    for (size_t looked = 0; t && looked < most * LOOK_EACH && !(p && p->n == most); looked++, t = next) {
        next = lane_after(t);
        if (!may_go(t))
            continue;
        if (!p) {
            arena *a = arena_new();
            p = NEW(a, struct parcel);
            *p = (struct parcel){ .a = a, .by = str_dup(a, by->name) };
        }
        pack(p, t);
    }
    return p;
}

/* The newest packed is the first: to the front one by one, so that the oldest is the first of its line again. */
static void unpack(struct queue *q, struct packed *k, struct backend *b)
{
    struct ticket *t = ticket_new(q, k->t.id);

    *t = k->t;
    t->sibling = t->hash_next = NULL;
    t->place = (struct link){ 0 };
    t->fresh = false;
    t->domain = intern_get(&q->words, k->domain);
    t->from = intern_get(&q->words, k->from);
    t->reason = intern_get(&q->words, k->reason);
    q->by_stream[t->stream]++;
    if (t->mail)
        mail_count(t->mail, q);
    ticket_link(q, t);
    t->lane = lane_for(q, b, k->domain);
    t->state = TICKET_FLYING;
    t->lane->nflying++;
    ticket_return(t);
}

void queue_unpack(struct queue *q, struct parcel *p)
{
    struct backend *b = backend_named(q->setup.routes, p->by);

    for (struct packed *k = p->first; k; k = k->next)
        unpack(q, k, b);
    arena_free(p->a);
}

void parcel_free(struct parcel *p)
{
    if (!p)
        return;
    for (struct packed *k = p->first; k; k = k->next)
        mail_drop(take(k->t.mail));
    arena_free(p->a);
}
