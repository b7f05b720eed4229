/* Events: the ring of each thread, and their log lines. */
#include "stats/inside.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

_Atomic bool events_stored;

const char *const event_name[EVENT_KINDS] = {
    "accepted", "refused", "delivered", "deferred", "failed", "expired", "deleted", "unknown", "report", "dropped", "handed_on", "held", "released", "rerouted",
};

#define PART_MOST 512 /* of one string; more is cut */

static uint32_t stored_size(const struct stored *s)
{
    size_t n = sizeof *s;
    for (size_t i = 0; i < COUNT(s->n); i++)
        n += s->n[i];
    return (uint32_t)((n + 7) & ~(size_t)7);
}

/* Make room at the ring's tail by forgetting the oldest events that stand there. */
static void ring_forget(struct ring *r, size_t upto)
{
    while (r->used && r->first < upto && r->first >= r->next) {
        const struct stored *s = (const void *)(r->p + r->first);
        if (r->first + sizeof *s > STATS_RING || s->size == 0) {
            r->first = 0;
            return;
        }
        r->first += s->size;
        if (r->first >= STATS_RING)
            r->first = 0;
        if (--r->used == 0)
            return;
    }
}

void event_keep(const struct event *e)
{
    struct thread_cell *cell = cell_mine();
    struct ring *r = &cell->ring;
    str part[PARTS] = { e->from, e->rcpt, e->remote, e->reply, e->detail, e->message_id, e->source };
    struct stored s = { .kind = (uint8_t)e->kind, .attempt = e->attempt, .id = e->id, .at = e->at, .took = e->took, .bytes = e->size };

    for (size_t i = 0; i < COUNT(part); i++)
        s.n[i] = (uint16_t)MIN(part[i].n, PART_MOST);
    s.size = stored_size(&s);

    pthread_mutex_lock(&cell->lock);
    if (!r->p)
        r->p = mem_new(STATS_RING);
    if (r->next + s.size > STATS_RING) {
        ring_forget(r, STATS_RING);
        if (r->next + sizeof s <= STATS_RING)
            memset(r->p + r->next, 0, sizeof s);
        r->next = 0;
    }
    if (r->used == 0)
        r->first = r->next;
    else
        ring_forget(r, r->next + s.size);
    if (r->used == 0)
        r->first = r->next;
    char *at = r->p + r->next;
    memcpy(at, &s, sizeof s);
    at += sizeof s;
    for (size_t i = 0; i < COUNT(part); i++) {
        if (s.n[i])
            memcpy(at, part[i].p, s.n[i]);
        at += s.n[i];
    }
    if (atomic_load_explicit(&events_stored, memory_order_relaxed)) {
        if (cell->pending.n + s.size <= PENDING_MOST)
            buf_add(&cell->pending, str_of(r->p + r->next, s.size));
        else
            cell->lost++;
    }
    r->next += s.size;
    r->used++;
    pthread_mutex_unlock(&cell->lock);
}

static const struct { enum log_level level; int counter; } about[EVENT_KINDS] = {
    [EVENT_ACCEPTED] = { LOG_INFO, COUNT_accepted },    [EVENT_REFUSED] = { LOG_INFO, COUNT_refused_rcpts },
    [EVENT_DELIVERED] = { LOG_INFO, COUNT_delivered },  [EVENT_DEFERRED] = { LOG_INFO, COUNT_deferred },
    [EVENT_FAILED] = { LOG_WARN, COUNT_failed },        [EVENT_EXPIRED] = { LOG_WARN, COUNT_expired },
    [EVENT_DELETED] = { LOG_WARN, COUNT_deleted },      [EVENT_UNKNOWN] = { LOG_WARN, COUNT_unknown },
    [EVENT_REPORT] = { LOG_INFO, COUNT_reports },       [EVENT_DROPPED] = { LOG_WARN, COUNT_reports_dropped },
    [EVENT_HANDED_ON] = { LOG_INFO, COUNT_handed_on },
};

void event_emit(const struct event *e)
{
    struct log_field field[13];
    size_t n = 0;

    if (!ulid_zero(e->id))
        field[n++] = (struct log_field)LOG_ID("id", e->id);
    if (e->from.p)
        field[n++] = (struct log_field)LOG_STR("from", e->from);
    if (e->rcpt.n)
        field[n++] = (struct log_field)LOG_STR("rcpt", e->rcpt);
    if (e->size)
        field[n++] = (struct log_field)LOG_INT("size", e->size);
    if (e->remote.n)
        field[n++] = (struct log_field)LOG_STR("remote", e->remote);
    if (e->source.n)
        field[n++] = (struct log_field)LOG_STR("source", e->source);
    if (e->attempt)
        field[n++] = (struct log_field)LOG_INT("attempt", e->attempt);
    if (e->reply.n)
        field[n++] = (struct log_field)LOG_STR("reply", e->reply);
    if (e->detail.n)
        field[n++] = (struct log_field)LOG_STR("detail", e->detail);
    if (e->took)
        field[n++] = (struct log_field)LOG_INT("took_us", e->took);
    field[n] = (struct log_field){ .key = NULL };
    log_write(about[e->kind].level, event_name[e->kind], field);
    stats_add((enum counter)about[e->kind].counter, 1);
    event_keep(e);
}

struct event stored_event(const struct stored *s)
{
    const char *at = (const char *)(s + 1);
    struct event e = { .kind = (enum event_kind)s->kind, .attempt = s->attempt, .id = s->id, .at = s->at, .took = s->took, .size = s->bytes };
    str *part[PARTS] = { &e.from, &e.rcpt, &e.remote, &e.reply, &e.detail, &e.message_id, &e.source };

    for (size_t i = 0; i < PARTS; i++) {
        *part[i] = str_of(at, s->n[i]);
        at += s->n[i];
    }
    return e;
}

struct search {
    arena *a;
    ulid id;
    const struct map *ids;      /* several; NULL: `id` */
    str address;
    struct event *found;
    size_t n, cap;
};

static bool search_wants(const struct search *q, const struct stored *s)
{
    if (q->ids)
        return map_get(q->ids, str_of((const char *)s->id.b, sizeof s->id.b)) != NULL;
    if (!ulid_zero(q->id))
        return ulid_eq(q->id, s->id);
    if (q->address.n == 0)
        return true;
    str text = str_of((const char *)(s + 1), (size_t)s->n[0] + s->n[1]);
    return str_has(text, q->address) || (s->n[5] && str_has(stored_event(s).message_id, q->address));
}

static void search_take(struct search *q, const struct stored *s)
{
    struct event e = stored_event(s);
    str *part[PARTS] = { &e.from, &e.rcpt, &e.remote, &e.reply, &e.detail, &e.message_id, &e.source };

    for (size_t i = 0; i < PARTS; i++)
        *part[i] = str_dup(q->a, *part[i]);
    if (q->n == q->cap) {
        q->cap = q->cap ? q->cap * 2 : 64;
        q->found = mem_grow(q->found, q->cap * sizeof *q->found);
    }
    q->found[q->n++] = e;
}

static void search_ring(struct search *q, const struct ring *r)
{
    size_t at = r->first;

    for (size_t i = 0; i < r->used; i++) {
        const struct stored *s = (const void *)(r->p + at);
        if (at + sizeof *s > STATS_RING || s->size == 0) {
            at = 0;
            s = (const void *)r->p;
        }
        if (search_wants(q, s))
            search_take(q, s);
        at += s->size;
        if (at >= STATS_RING)
            at = 0;
    }
}

static int by_time(const void *a, const void *b)
{
    const struct event *x = a, *y = b;
    return x->at < y->at ? -1 : x->at > y->at;
}

static void search_run(struct search *q, void (*each)(void *ctx, const struct event *e), void *ctx)
{
    for (struct thread_cell *c = cells_first(); c; c = c->next) {
        pthread_mutex_lock(&c->lock);
        search_ring(q, &c->ring);
        pthread_mutex_unlock(&c->lock);
    }
    if (q->n)
        qsort(q->found, q->n, sizeof *q->found, by_time);
    for (size_t i = 0; i < q->n; i++)
        each(ctx, &q->found[i]);
    mem_free(q->found);
}

void event_find(arena *a, ulid id, str address, void (*each)(void *ctx, const struct event *e), void *ctx)
{
    struct search q = { .a = a, .id = id, .address = address };

    search_run(&q, each, ctx);
}

void event_find_all(arena *a, const ulid *id, size_t n, void (*each)(void *ctx, const struct event *e), void *ctx)
{
    struct map ids = { 0 };
    struct search q = { .a = a, .ids = &ids };

    for (size_t i = 0; i < n; i++)
        map_put(&ids, str_of((const char *)id[i].b, sizeof id[i].b), (void *)(uintptr_t)&id[i]);
    search_run(&q, each, ctx);
    map_free(&ids);
}
