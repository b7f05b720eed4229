/* Lanes, and the queue around them. */
#include "queue/inside.h"

#include <stdlib.h>

/* ---- lanes ---- */

static void lane_suspend(struct lane *lane, const struct suspension *s);

/* What a domain's lane has for `sending`. */
static const struct sending nothing_sent;

str lane_reason(const struct lane *lane) { return intern_str(&lane->queue->words, lane->reason); }

bool name_is(str lane, str name)
{
    return str_eq(lane, name) || (lane.n > name.n && lane.p[name.n] == '@' && str_starts(lane, name)) || (site_is_relay(lane) && str_eq(site_subject(lane), name));
}

bool lane_is_called(const struct lane *lane, str name) { return name_is(lane->name, name); }

/* Where a link to the lane of that name is, or is to be. */
static struct lane **lane_link(const struct queue *q, str name)
{
    struct lane **at = &q->lane_bucket[str_hash(name) & (q->nlane_bucket - 1)];

    while (*at && !str_eq((*at)->name, name))
        at = &(*at)->same_bucket;
    return at;
}

static void more_buckets(struct queue *q)
{
    mem_free(q->lane_bucket);
    q->nlane_bucket = q->nlane_bucket ? q->nlane_bucket * 2 : 16;
    q->lane_bucket = mem_new(q->nlane_bucket * sizeof(struct lane *));
    for (size_t i = 0; i < q->nlane; i++)
        q->lane[i]->same_bucket = NULL;
    for (size_t i = 0; i < q->nlane; i++)
        *lane_link(q, q->lane[i]->name) = q->lane[i];
}

static struct lane *lane_new(struct queue *q, enum lane_kind kind, str name)
{
    struct lane *lane = mem_new(sizeof *lane + name.n);
    char *own = (char *)(lane + 1);

    memcpy(own, name.p, name.n);
    lane->queue = q;
    lane->kind = (uint8_t)kind;
    lane->name = str_of(own, name.n);
    lane->since = clock_now();
    list_init(&lane->line.ready);
    lane->line.weight = STREAM_WEIGHT;
    lane->sending = (struct sending *)(uintptr_t)&nothing_sent;
    if (kind != LANE_DOMAIN) {
        lane->sending = mem_new(sizeof *lane->sending);
        lane->sending->pacing.lane = lane;
    }
    return lane;
}

struct lane *queue_lane_called(const struct queue *q, str name) { return q->nlane_bucket ? *lane_link(q, name) : NULL; }

struct lane *lane_named(struct queue *q, enum lane_kind kind, str name)
{
    struct lane *lane = queue_lane_called(q, name);

    if (lane)
        return lane;
    if (q->nlane == q->lane_cap) {
        q->lane_cap = q->lane_cap ? q->lane_cap * 2 : 16;
        q->lane = mem_grow(q->lane, q->lane_cap * sizeof *q->lane);
    }
    if (q->nlane == q->nlane_bucket)
        more_buckets(q);
    lane = q->lane[q->nlane++] = lane_new(q, kind, name);
    *lane_link(q, name) = lane;
    const struct standing_lane *before = q->setup.standing ? map_get(&q->setup.standing->lane, name) : NULL;
    for (uint32_t i = 0; before && i < before->pauses.n; i++)
        pauses_add(&lane->pauses, before->pauses.p[i]);
    const struct suspension *s = suspension_of(&q->standing, name);
    if (s)
        lane_suspend(lane, s);
    return lane;
}

struct backend *backend_named(const struct routes *r, str name)
{
    for (size_t i = 0; i < r->nbackend; i++)
        if (str_eq(r->backend[i]->name, name))
            return r->backend[i];
    return NULL;
}

void lane_mx(struct lane *lane, const struct backend *b)
{
    struct intern *words = &lane->queue->words;

    if (lane->mx == b)
        return;
    intern_put(words, lane->mx_name);
    lane->mx_name = intern_get(words, b->name);
    lane->mx = b;
}

struct lane *lane_for(struct queue *q, const struct backend *b, str domain)
{
    static const char of_domain[] = "domain:";
    char name[DNS_NAME_MAX + sizeof of_domain + 1 + OUTLET_NAME];
    struct lane *lane;

    if (!b || !b->mx) {
        lane = lane_named(q, LANE_BACKEND, b ? b->name : S(""));
        if (b && !lane->backend)
            lane->backend = backend_named(q->setup.routes, b->name);
        return lane;
    }
    size_t head = sizeof of_domain - 1, n = MIN(domain.n, (size_t)DNS_NAME_MAX);
    memcpy(name, of_domain, head);
    for (size_t i = 0; i < n; i++)
        name[head + i] = ascii_lower(domain.p[i]);
    n += head;
    if (b->outlet) {
        name[n++] = '@';
        memcpy(name + n, b->outlet->name.p, b->outlet->name.n);
        n += b->outlet->name.n;
    }
    lane = lane_named(q, LANE_DOMAIN, str_of(name, n));
    lane_mx(lane, b);
    return lane;
}

/* The backend by whose settings it goes. */
const struct backend *lane_by(const struct lane *lane) { return lane->kind == LANE_BACKEND ? lane->backend : lane->mx; }

const struct outlet *lane_outlet(const struct lane *lane)
{
    const struct backend *b = lane_by(lane);
    return b ? b->outlet : NULL;
}

str lane_backend_name(const struct lane *lane)
{
    const struct backend *b = lane_by(lane);
    return b ? backend_base_name(b) : S("none");
}

str lane_subject(const struct lane *lane) { return lane->kind == LANE_SITE ? site_subject(lane->name) : lane_backend_name(lane); }

static bool lane_fits(const struct lane *lane)
{
    return (lane->kind == LANE_DOMAIN && lane->site ? lane->site : lane)->state == LANE_OPEN;
}

/* The lane for `domain` by the source of `like`, when that is one of these and was not looked at before. */
static struct lane *lane_like(struct queue *q, const struct outlets *o, str domain, const struct lane *like, uint64_t *looked)
{
    size_t i = outlets_find(o, lane_by(like));

    if (i == OUTLETS_NONE || *looked >> i & 1)
        return NULL;
    *looked |= (uint64_t)1 << i;
    return lane_for(q, o->by[i], domain);
}

struct lane *lane_leaving(struct queue *q, const struct backend *b, struct outlets *o, str domain, struct lane *was, struct ticket *first)
{
    struct lane *lane, *best;
    uint64_t looked = 0;
    size_t i;

    if (!o)
        return lane_for(q, b, domain);
    best = was ? lane_like(q, o, domain, was, &looked) : NULL;
    if (best && lane_fits(best))
        return best;
    for (struct ticket *t = first; t; t = t->sibling == first ? NULL : t->sibling) {
        lane = lane_like(q, o, domain, t->lane, &looked);
        if (lane && lane_fits(lane))
            return lane;
        best = best ? best : lane;
    }
    while ((i = outlets_pick(o, looked, clock_now())) != OUTLETS_NONE) {
        looked |= (uint64_t)1 << i;
        lane = lane_for(q, o->by[i], domain);
        if (lane_fits(lane))
            return lane;
        best = best ? best : lane;
    }
    return best ? best : lane_for(q, o->by[0], domain); /* all are down */
}

static void lane_free(struct lane *lane)
{
    if (lane->kind == LANE_SITE)
        backend_drop(lane->backend);
    for (struct lane_line *l = lane->line.next, *next; l; l = next) {
        next = l->next;
        mem_free(l);
    }
    intern_put(&lane->queue->words, lane->mx_name);
    intern_put(&lane->queue->words, lane->reason);
    mem_free(lane->pauses.p);
    if (lane->kind != LANE_DOMAIN) {
        mem_free(lane->sending->server);
        mem_free(lane->sending);
    }
    mem_free(lane);
}

void lane_set_reason(struct lane *lane, str reason)
{
    uint32_t was = lane->reason; /* `reason` may be this very string */

    lane->reason = intern_get(&lane->queue->words, reason);
    intern_put(&lane->queue->words, was);
}

struct lane *queue_lane(struct queue *q, size_t i)
{
    return i < q->nlane ? q->lane[i] : NULL;
}

static struct ticket *lane_remove(struct ticket *t);

/* ---- lines ---- */

static uint32_t weight_of(const struct queue *q, unsigned stream)
{
    const struct mail_stream *s = stream_numbered(q->setup.streams, stream);

    return s ? (uint32_t)s->weight : STREAM_WEIGHT;
}

void lane_weigh(struct lane *lane)
{
    for (struct lane_line *l = &lane->line; l; l = l->next) {
        l->weight = weight_of(lane->queue, l->stream);
        l->credit = MIN(l->credit, l->weight);
    }
}

static struct lane_line *line_of(struct lane *lane, unsigned stream)
{
    struct lane_line *l = &lane->line;

    while (l->stream != stream && l->next)
        l = l->next;
    if (l->stream == stream)
        return l;
    l = l->next = mem_new(sizeof *l);
    l->stream = (uint8_t)stream;
    l->credit = l->weight = weight_of(lane->queue, stream);
    list_init(&l->ready);
    return l;
}

static struct ticket *line_first(const struct lane_line *l)
{
    return list_empty(&l->ready) ? NULL : AROUND(l->ready.next, struct ticket, place);
}

static bool line_goes_before(const struct lane_line *l, const struct lane_line *best)
{
    return l->n && l->credit && (!best || l->weight > best->weight);
}

/* Whose turn it is; NULL: nobody is ready. When nobody who is has any credit left, a round is over. */
static struct lane_line *line_in_turn(struct lane *lane)
{
    struct lane_line *best = NULL;

    if (!lane->nready)
        return NULL;
    if (!lane->line.next)
        return &lane->line;
    while (!best) {
        for (struct lane_line *l = &lane->line; l; l = l->next)
            best = line_goes_before(l, best) ? l : best;
        for (struct lane_line *l = &lane->line; l && !best; l = l->next)
            l->credit = MAX(l->weight, 1u);
    }
    return best;
}

void lane_cut(struct ticket *t)
{
    list_del(&t->place);
    line_of(t->lane, t->stream)->n--;
    t->lane->nready--;
}

when lane_oldest(const struct lane *lane)
{
    when oldest = 0;

    for (const struct lane_line *l = &lane->line; l; l = l->next)
        if (l->n)
            oldest = oldest ? MIN(oldest, line_first(l)->accepted) : line_first(l)->accepted;
    return oldest;
}

/* ---- in, out, down and open ---- */

/* A ticket comes into a domain's lane: on to its site. What is known stays good while it is asked for again. */
static struct lane *lane_onwards(struct lane *lane, struct ticket *t)
{
    if (!lane->asking && lane->state == LANE_OPEN && clock_now() >= lane->fresh_until)
        lane_ask(lane);
    if (!lane->site)
        return lane;
    ticket_go(t, lane->site);
    return lane->site;
}

void lane_put(struct lane *lane, struct ticket *t, bool front)
{
    struct queue *q = lane->queue;

    t->state = TICKET_READY;
    if (lane->kind == LANE_DOMAIN)
        lane = lane_onwards(lane, t);
    struct lane_line *line = line_of(lane, t->stream);
    if (front)
        list_push(&line->ready, &t->place);
    else
        list_add(&line->ready, &t->place);
    line->n++;
    lane->nready++;
    if (lane->kind == LANE_DOMAIN && lane->refusal.class && clock_now() < lane->fresh_until)
        q->setup.unroutable(q->setup.ctx, lane_remove(t));
    else if (lane->state == LANE_OPEN && lane->kind != LANE_DOMAIN)
        q->setup.ready(q->setup.ctx, lane);
}

static struct ticket *lane_remove(struct ticket *t)
{
    lane_cut(t);
    t->lane->nflying++;
    t->state = TICKET_FLYING;
    return t;
}

struct ticket *lane_take(struct lane *lane)
{
    struct lane_line *l = line_in_turn(lane);

    if (!l)
        return NULL;
    l->credit -= MIN(l->credit, 1u);
    return lane_remove(line_first(l));
}

struct ticket *lane_take_this(struct ticket *t)
{
    struct lane_line *l = line_of(t->lane, t->stream);

    l->credit -= MIN(l->credit, 1u);
    return lane_remove(t);
}

struct ticket *lane_first(struct lane *lane)
{
    struct lane_line *l = line_in_turn(lane);

    return l ? line_first(l) : NULL;
}

/* Behind the last of one line come those of the others, whose turn is not looked at. */
struct ticket *lane_after(const struct ticket *t)
{
    struct lane_line *mine = line_of(t->lane, t->stream), *first = line_in_turn(t->lane), *l;

    if (t->place.next != &mine->ready)
        return AROUND(t->place.next, struct ticket, place);
    for (l = mine == first ? &t->lane->line : mine->next; l && (l == first || !l->n);)
        l = l->next;
    return l ? line_first(l) : NULL;
}

#define HAND_ON_SWEEP (5 * SECOND) /* a lane that is tried more often than that is not looked through each time */

/* No server of its own way is there, and for too long. */
static void fall_back(struct ticket *t, struct backend *b, str reason)
{
    AUTO_ARENA a = arena_new();
    str domain = str_dup(a, ticket_domain(t));
    struct event e = { .kind = EVENT_HANDED_ON, .id = t->id, .at = wall_now(), .rcpt = str_printf(a, "@%.*s", STR(domain)), .reply = reason,
                       .detail = str_printf(a, "to the fallback %.*s", STR(b->name)) };

    event_emit(&e);
    stats_label(FAMILY_DELIVERIES, lane_backend_name(t->lane), EVENT_HANDED_ON);
    ticket_hand_on(t, b, domain);
}

/* Not where an operator closed it, where the backend is only doubted, or where it is no fault of its way. A way that nobody can look up or reach is one: the other may
 * need neither. */
static bool other_way_is_open(const struct lane *lane)
{
    return !lane->suspended && !lane->unfit && !(lane->frozen && lane->frozen_by == INCIDENT_REFUSES);
}

/* What waits there need not lie in memory, or goes another way; `expire`: what is too old has now had its last attempt. */
static void lane_shut(struct lane *lane, str reason, when retry_at, bool expire)
{
    struct queue *q = lane->queue;
    when now = clock_now(), wall = wall_now();

    if (lane->state != LANE_DOWN)
        lane->since = now;
    lane->state = LANE_DOWN;
    lane->retry_at = retry_at;
    lane_set_reason(lane, reason);
    when rest = !q->setup.routes->hands_on ? MINUTE : retry_at - now > HAND_ON_SWEEP ? 0 : HAND_ON_SWEEP;
    if (lane->swept && now - lane->swept < rest && q->body_bytes < q->setup.body_budget / 2)
        return;
    lane->swept = now;
    for (struct lane_line *line = &lane->line; line; line = line->next)
        for (struct link *l = line->ready.next, *next; l != &line->ready; l = next) {
            struct ticket *t = AROUND(l, struct ticket, place);
            next = l->next;
            ticket_forget_mail(t);
            const struct elsewhere *other = other_way_is_open(lane) ? ticket_elsewhere(t, ticket_domain(t)) : NULL;
            if (expire && ticket_too_old(t, t->accepted, wall))
                q->setup.expired(q->setup.ctx, lane_remove(t));
            else if (other && other->fallback && t->accepted + other->after <= wall)
                fall_back(lane_remove(t), other->fallback, reason);
        }
}

void lane_down(struct lane *lane, str reason, when retry_at)
{
    if (lane->suspended) /* that ends by an operator's word, and what waits has not been tried */
        return;
    lane_unpause(lane);
    lane->frozen = false;
    lane_shut(lane, reason, retry_at, true);
}

void lane_freeze(struct lane *lane, enum incident_kind by, str reason, when retry_at)
{
    if (lane->suspended)
        return;
    lane_pause(lane);
    lane->frozen = true;
    lane->frozen_by = (uint8_t)by;
    lane_shut(lane, reason, retry_at, false);
}

void lane_open(struct lane *lane)
{
    if (lane->state == LANE_OPEN || (lane->suspended && clock_now() < lane->retry_at))
        return;
    if (lane->suspended) /* an operator's reason ends with it; any other goes on until something else is known */
        lane_set_reason(lane, S(""));
    lane->suspended = lane->frozen = lane->unfit = false;
    lane_unpause(lane);
    lane->state = LANE_OPEN;
    lane->since = lane->opened = clock_now();
    if (lane->kind == LANE_DOMAIN) {
        lane->fresh_until = 0;
        if (lane->nready && !lane->asking)
            lane_ask(lane);
    } else if (lane->nready)
        lane->queue->setup.ready(lane->queue->setup.ctx, lane);
}

/* ---- by an operator ---- */

static void lane_suspend(struct lane *lane, const struct suspension *s)
{
    struct queue *q = lane->queue;

    lane->frozen = false;
    lane->suspended = true;
    lane_pause(lane);
    lane_shut(lane, s->reason, s->until, false);
    if (q->setup.suspended)
        q->setup.suspended(q->setup.ctx, lane);
}

void queue_suspend(struct queue *q, str name, when until, str reason)
{
    queue_resume(q, name);
    standing_suspend(&q->standing, name, until, reason);
    for (size_t i = 0; i < q->nlane; i++)
        if (lane_is_called(q->lane[i], name))
            lane_suspend(q->lane[i], suspension_of(&q->standing, q->lane[i]->name));
}

bool queue_resume(struct queue *q, str name)
{
    bool was = standing_resume(&q->standing, name);

    for (size_t i = 0; i < q->nlane; i++)
        if (lane_is_called(q->lane[i], name) && q->lane[i]->suspended) {
            q->lane[i]->retry_at = clock_now();
            lane_open(q->lane[i]);
        }
    return was;
}

/* ---- given back ---- */

/* Lanes of domains and sites that nobody has needed for a while. */
void lanes_sweep(struct queue *q)
{
    when now = clock_now();

    if (now - q->swept < MINUTE)
        return;
    q->swept = now;
    for (size_t i = 0; i < q->nlane;) {
        struct lane *l = q->lane[i];
        const struct sending *s = l->sending;
        bool sends = s->connections || s->pacing.turn.at || s->withheld || s->trials; /* each of these is a way to it that somebody has */
        bool idle = !l->nready && !l->nwaiting && !l->nflying && !sends && !l->wake.at && !l->asking && now - l->since > MINUTE;
        if (l->kind == LANE_BACKEND || !idle || l->domains || (l->kind == LANE_DOMAIN && now < l->fresh_until)) {
            i++;
            continue;
        }
        site_leave(l);
        if (l->kind == LANE_SITE && l->backend && l->backend->relay && l->backend->brake && brake_leave(l->backend->brake))
            incident_close(INCIDENT_REFUSES, lane_subject(l), S("no mail waits there any more"));
        *lane_link(q, l->name) = l->same_bucket;
        lane_free(l);
        q->lane[i] = q->lane[--q->nlane];
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
    for (size_t i = 0; setup->standing && i < setup->standing->nsuspended; i++) {
        const struct suspension *s = &setup->standing->suspended[i];
        standing_suspend(&q->standing, s->lane, s->until, s->reason);
    }
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
    standing_clear(&q->standing);
    for (size_t i = 0; i < q->nlane; i++)
        lane_free(q->lane[i]);
    mem_free(q->lane);
    mem_free(q->lane_bucket);
    intern_free(&q->words);
    mem_free(q);
}

struct queue_totals queue_totals(const struct queue *q)
{
    struct queue_totals r = { .messages = q->nmessages, .tickets = q->ntickets, .body_bytes = q->body_bytes };

    memcpy(r.stream, q->by_stream, sizeof r.stream);
    for (size_t i = 0; i < q->nlane; i++) {
        struct lane *lane = q->lane[i];
        r.ready += lane->nready;
        r.waiting += lane->nwaiting;
        r.flying += lane->nflying;
        when oldest = lane_oldest(lane);
        if (oldest)
            r.oldest = r.oldest ? MIN(r.oldest, oldest) : oldest;
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
    if (t->held)
        ticket_let_go(t);
    if (t->state == TICKET_WAITING) {
        calendar_del(lane->queue, t);
        ticket_go(t, lane_again(t));
        lane_put(t->lane, t, false);
        lane = t->lane;
        if (t->state == TICKET_FLYING) /* it goes nowhere, and that is settled now */
            return true;
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
