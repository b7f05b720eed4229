/* What the control socket's verbs do: ask every worker on its own thread, never stopping it for long. */
#include "main/relay.h"
#include "main/words.h"

#include <stdio.h>
#include <stdlib.h>

/* ---- trace: what the rings have in memory, and what the store has on disk ---- */

#define STORIES_MOST 200        /* messages told of; the newest */

struct story {
    arena *a;
    struct map seen;            /* events, by what makes them the same; ids */
    struct event *event; size_t n, cap;
    ulid *id; size_t nid;
};

static void story_line(struct control *c, const struct event *e)
{
    AUTO_BUF b = { 0 };

    buf_addc(&b, '{');
    add_time(&b, "at", e->at);
    add_str(&b, "event", str_z(event_name[e->kind]));
    add_id(&b, "id", e->id);
    add_str(&b, "from", e->from);
    add_str(&b, "rcpt", e->rcpt);
    add_str(&b, "remote", e->remote);
    if (e->source.n)
        add_str(&b, "source", e->source);
    add_str(&b, "reply", e->reply);
    add_str(&b, "detail", e->detail);
    add_str(&b, "message_id", e->message_id);
    add_int(&b, "attempt", e->attempt);
    add_int(&b, "size", (int64_t)e->size);
    add_int(&b, "took_us", e->took);
    buf_addc(&b, '}');
    control_line(c, buf_str(&b));
}

/* Most of them are in both. */
static void story_add(void *ctx, const struct event *e)
{
    struct story *s = ctx;
    char id[ULID_TEXT];
    str key = str_printf(s->a, "%.*s %lld %d %u %.*s", STR(ulid_print(e->id, id)), (long long)e->at, (int)e->kind, e->attempt, STR(e->rcpt));

    if (map_get(&s->seen, key))
        return;
    map_put(&s->seen, key, s);
    if (s->n == s->cap) {
        s->cap = s->cap ? s->cap * 2 : 64;
        s->event = mem_grow(s->event, s->cap * sizeof *s->event);
    }
    s->event[s->n++] = *e;
}

static int newest_id_first(const void *a, const void *b) { return -memcmp(a, b, sizeof(ulid)); }

static int by_id_and_time(const void *a, const void *b)
{
    const struct event *x = a, *y = b;
    int way = memcmp(x->id.b, y->id.b, sizeof x->id.b);
    return way ? way : x->at < y->at ? -1 : x->at > y->at;
}

static void story_id(void *ctx, const struct event *e)
{
    struct story *s = ctx;
    str key = str_of((const char *)e->id.b, sizeof e->id.b);

    if (map_get(&s->seen, key))
        return;
    ulid *more = mem_grow(s->id, (s->nid + 1) * sizeof *more);
    s->id = more;
    s->id[s->nid++] = e->id;
    map_put(&s->seen, str_dup(s->a, key), s);
}

/* Which messages? The store is asked for whole addresses and Message-IDs, the rings for a part of them. */
static void story_ids(struct story *s, struct relay *r, str who)
{
    ulid *stored = NULL;
    size_t n = 0;

    event_find(s->a, (ulid){ { 0 } }, who, story_id, s);
    if (r->store && store_search(r->store, s->a, who, STORIES_MOST, &stored, &n) != OK)
        log_warn("trace_store_unreadable", LOG_STR("reason", err_text()));
    for (size_t i = 0; i < n; i++)
        story_id(s, &(struct event){ .id = stored[i] });
    if (s->nid > STORIES_MOST) {
        qsort(s->id, s->nid, sizeof *s->id, newest_id_first);
        s->nid = STORIES_MOST;
    }
    map_free(&s->seen);
    s->seen = (struct map){ 0 };
}

#define WAITING_MOST 10

static void trace(struct control *c, void *relay)
{
    struct relay *r = relay;
    AUTO_ARENA a = arena_new();
    struct story s = { .a = a };
    str who = control_arg(c, "id");
    ulid id = { { 0 } };
    bool by_id = ulid_parse(who, &id);
    size_t told = 0, nwaiting = 0;

    if (!by_id && !who.n)
        who = control_arg(c, "address");
    if (!by_id && who.n < 3) {
        control_fail(c, "usage", "trace needs an id, a Message-ID or at least three letters of an address");
        return;
    }
    if (by_id)
        story_id(&s, &(struct event){ .id = id });
    else
        story_ids(&s, r, who);
    if (!s.nid && str_findc(who, '@') != STR_NONE) { /* of several recipients the first alone is named when it is taken in */
        ulid waiting[WAITING_MOST];
        nwaiting = queue_waiting_for(r, who, waiting, COUNT(waiting));
        for (size_t i = 0; i < nwaiting; i++)
            story_id(&s, &(struct event){ .id = waiting[i] });
        map_free(&s.seen);
        s.seen = (struct map){ 0 };
    }
    if (r->store && s.nid && store_find(r->store, a, s.id, s.nid, story_add, &s) != OK)
        log_warn("trace_store_unreadable", LOG_STR("reason", err_text()));
    if (s.nid)
        event_find_all(a, s.id, s.nid, story_add, &s);
    if (s.n)
        qsort(s.event, s.n, sizeof *s.event, by_id_and_time);
    for (; told < s.n; told++)
        story_line(c, &s.event[told]);
    for (size_t i = 0; i < nwaiting; i++)
        told += queue_show_message(c, r, s.id[i]);
    map_free(&s.seen);
    mem_free(s.event);
    mem_free(s.id);
    if (by_id)
        told += queue_show_message(c, r, id);
    if (told)
        return;
    if (r->store)
        control_fail(c, "notfound", "nothing is known of \"%.*s\" (the store finds whole addresses, @domains and Message-IDs)", STR(who));
    else
        control_fail(c, "notfound", "nothing is known of \"%.*s\": the story of mail is kept in memory, newest first, %u MiB a thread; a block "
                     "\"trace { retention 30d }\" keeps it on disk", STR(who), STATS_RING >> 20);
}

/* ---- stats ---- */

struct worker_stats {
    struct queue_totals q;
    size_t sessions, connections;
    struct lane_stats **lane; size_t nlane, cap;
    struct map by_name;
    struct thread_stats *thread;        /* one a worker */
    arena *a;
};
struct lane_stats { str name, label, reason; size_t ready, waiting, flying, connections; bool down, frozen; when retry_at, oldest; };

static void add_oldest(struct lane_stats *l, const struct lane *lane)
{
    when accepted = lane_oldest(lane);

    if (accepted)
        l->oldest = l->oldest ? MIN(l->oldest, accepted) : accepted;
}

static err stats_one(struct worker *w, void *arg)
{
    struct worker_stats *s = arg;
    struct queue_totals q = queue_totals(w->queue);
    struct lane *lane;
    str reason;
    when until;

    s->q.messages += q.messages;
    s->q.tickets += q.tickets;
    s->q.ready += q.ready;
    s->q.waiting += q.waiting;
    s->q.flying += q.flying;
    s->q.body_bytes += q.body_bytes;
    for (size_t i = 0; i < COUNT(q.stream); i++)
        s->q.stream[i] += q.stream[i];
    s->q.oldest = s->q.oldest && q.oldest ? MIN(s->q.oldest, q.oldest) : MAX(s->q.oldest, q.oldest);
    s->sessions += reception_sessions(w->reception);
    s->connections += dispatch_connections(w->dispatch);
    s->thread[w->number] = thread_stats();
    for (size_t i = 0; (lane = queue_lane(w->queue, i)); i++) {
        struct lane_stats *l = map_get(&s->by_name, lane->name);
        if (!l) {
            if (s->nlane == s->cap) {
                s->cap = s->cap ? s->cap * 2 : 64;
                s->lane = mem_grow(s->lane, s->cap * sizeof *s->lane);
            }
            l = s->lane[s->nlane++] = NEW(s->a, struct lane_stats);
            l->name = str_dup(s->a, lane->name);
            l->label = lane->kind == LANE_BACKEND ? str_dup(s->a, lane_backend_name(lane)) : l->name; /* what was said is kept by backend */
            map_put(&s->by_name, l->name, l);
        }
        add_oldest(l, lane);
        l->ready += lane->nready;
        l->waiting += lane->nwaiting;
        l->flying += lane->nflying;
        l->connections += lane->sending->connections;
        if (lane->state == LANE_DOWN) {
            l->down = true;
            l->frozen |= lane->frozen;
            l->reason = str_dup(s->a, lane_reason(lane));
            l->retry_at = lane->retry_at;
        } else if (!l->down && lane->nready && lane_delay(lane, &reason, &until)) {
            l->reason = str_dup(s->a, reason);
            l->retry_at = until;
        }
    }
    return OK;
}

static void add_times(struct buf *b, const char *key, const struct histogram *h)
{
    add_key(b, key);
    buf_addc(b, '{');
    add_int(b, "p50", histogram_at(h, 0.5));
    add_int(b, "p95", histogram_at(h, 0.95));
    add_int(b, "p99", histogram_at(h, 0.99));
    add_int(b, "n", (int64_t)h->n);
    buf_addc(b, '}');
}

static void add_servers(struct buf *b, const struct settings *s, str lane)
{
    when now = clock_now();

    add_key(b, "servers");
    buf_addc(b, '[');
    for (size_t i = 0; i < s->snapshot.routes.nbackend; i++) {
        const struct backend *be = s->snapshot.routes.backend[i];
        for (size_t k = 0; str_eq(be->name, lane) && k < be->nserver; k++) {
            struct server_state *st = be->server[k].state;
            add_key(b, "");
            buf_addc(b, '{');
            add_str(b, "host", str_z(st->key + be->name.n + 1));
            add_str(b, "state", server_words(&be->server[k], now));
            add_int(b, "priority", be->server[k].priority);
            add_int(b, "weight", be->server[k].weight);
            add_int(b, "connections", atomic_load(&st->connections));
            add_int(b, "latency_us", atomic_load(&st->latency_us));
            add_int(b, "failures", atomic_load(&st->failures));
            add_int(b, "delivered", (int64_t)atomic_load(&st->delivered));
            buf_addc(b, '}');
        }
    }
    buf_addc(b, ']');
}

static int fullest_first(const void *a, const void *b)
{
    const struct lane_stats *x = *(struct lane_stats *const *)a, *y = *(struct lane_stats *const *)b;
    size_t n = x->ready + x->waiting + x->flying, k = y->ready + y->waiting + y->flying;
    return n != k ? (n < k ? 1 : -1) : str_cmp(x->name, y->name);
}

static void add_last(struct buf *b, str lane)
{
    char text[LAST_TEXT];
    when at = 0;

    add_str(b, "last_reply", stats_last(lane, text, &at) ? str_z(text) : S(""));
    add_time(b, "last_reply_at", at);
}

/* At most `limit` of them: then the fullest. */
static void add_lanes(struct buf *b, const struct worker_stats *w, const struct settings *s, size_t limit)
{
    if (limit < w->nlane)
        qsort(w->lane, w->nlane, sizeof *w->lane, fullest_first);
    add_int(b, "lanes_all", (int64_t)w->nlane);
    add_key(b, "lanes");
    buf_addc(b, '[');
    for (size_t i = 0; i < MIN(w->nlane, limit); i++) {
        const struct lane_stats *l = w->lane[i];
        add_key(b, "");
        buf_addc(b, '{');
        add_str(b, "name", l->name);
        add_str(b, "state", l->frozen ? S("frozen") : l->down ? S("down") : S("open"));
        add_int(b, "ready", (int64_t)l->ready);
        add_int(b, "waiting", (int64_t)l->waiting);
        add_int(b, "flying", (int64_t)l->flying);
        add_int(b, "connections", (int64_t)l->connections);
        add_str(b, "reason", l->reason);
        add_time(b, "retry_at", l->retry_at ? wall_now() + l->retry_at - clock_now() : 0);
        add_time(b, "oldest_ready", l->oldest);
        add_last(b, l->label);
        add_servers(b, s, l->name);
        buf_addc(b, '}');
    }
    buf_addc(b, ']');
}

/* By an operator; also those that have no mail. All threads know the same. */
static err suspended_one(struct worker *w, void *arg)
{
    struct buf *b = arg;
    const struct suspension *s;

    for (size_t i = 0; (s = queue_suspension(w->queue, i)); i++) {
        add_key(b, "");
        buf_addc(b, '{');
        add_str(b, "lane", s->lane);
        add_str(b, "reason", s->reason);
        add_time(b, "until", wall_now() + s->until - clock_now());
        buf_addc(b, '}');
    }
    return OK;
}

/* Those that are configured. */
static void add_streams(struct buf *b, const struct worker_stats *w, const struct stats *sum, const struct settings *s)
{
    const struct streams *all = &s->snapshot.streams;

    if (!all->n)
        return;
    add_key(b, "streams");
    buf_addc(b, '[');
    for (size_t i = 0; i < all->n; i++) {
        add_key(b, "");
        buf_addc(b, '{');
        add_str(b, "name", all->p[i]->name);
        add_int(b, "weight", (int64_t)all->p[i]->weight);
        add_int(b, "tickets", (int64_t)w->q.stream[all->p[i]->number]);
        add_times(b, "deliver_us", &sum->stream[all->p[i]->number]);
        buf_addc(b, '}');
    }
    buf_addc(b, ']');
}

static void add_threads(struct buf *b, const struct worker_stats *w, unsigned n)
{
    add_key(b, "threads");
    buf_addc(b, '[');
    for (unsigned i = 0; i < n; i++) {
        const struct thread_stats *t = &w->thread[i];
        add_key(b, "");
        buf_addc(b, '{');
        add_int(b, "posts", (int64_t)t->posts);
        add_int(b, "sleeps", (int64_t)t->sleeps);
        add_int(b, "switches", (int64_t)t->switches);
        add_int(b, "tasks", (int64_t)t->tasks);
        add_int(b, "tasks_peak", (int64_t)t->tasks_peak);
        buf_addc(b, '}');
    }
    buf_addc(b, ']');
}

static void add_spool(struct buf *b, const struct relay *r)
{
    struct spool_stats s = spool_stats(r->spool);

    add_key(b, "spool");
    buf_addc(b, '{');
    add_int(b, "commits", (int64_t)s.commits);
    add_int(b, "syncs", (int64_t)s.syncs);
    add_int(b, "sync_us_total", (int64_t)s.sync_us_total);
    add_int(b, "sync_us_max", (int64_t)s.sync_us_max);
    add_int(b, "bytes", (int64_t)s.bytes);
    add_int(b, "messages", (int64_t)s.messages);
    add_int(b, "chunks", (int64_t)s.chunks);
    add_int(b, "notes", (int64_t)s.notes);
    add_int(b, "segments", (int64_t)s.segments);
    add_int(b, "ready", (int64_t)s.ready);
    add_int(b, "condemned", (int64_t)s.condemned);
    add_int(b, "compacted", (int64_t)s.compacted);
    add_int(b, "intake_stopped", s.intake_stopped);
    buf_addc(b, '}');
}

static void stats(struct control *c, void *relay)
{
    struct relay *r = relay;
    AUTO_ARENA a = arena_new();
    AUTO_BUF b = { 0 };
    struct worker_stats w = { .a = a, .thread = NEW_ARRAY(a, struct thread_stats, r->nworker) };
    struct settings *s = relay_newest(r);
    struct stats *sum = NEW(a, struct stats);

    for (unsigned i = 0; i < r->nworker; i++)
        worker_call(&r->worker[i], stats_one, &w);
    stats_sum(sum);
    buf_addc(&b, '{');
    add_key(&b, "counters");
    buf_addc(&b, '{');
    for (size_t i = 0; i < COUNTERS; i++)
        add_int(&b, counter_name[i], (int64_t)sum->counter[i]);
    buf_addc(&b, '}');
    add_times(&b, "accept_us", &sum->accept);
    add_times(&b, "deliver_us", &sum->deliver);
    add_key(&b, "queue");
    buf_addc(&b, '{');
    add_int(&b, "messages", (int64_t)w.q.messages);
    add_int(&b, "tickets", (int64_t)w.q.tickets);
    add_int(&b, "ready", (int64_t)w.q.ready);
    add_int(&b, "waiting", (int64_t)w.q.waiting);
    add_int(&b, "flying", (int64_t)w.q.flying);
    add_int(&b, "memory_bytes", (int64_t)w.q.body_bytes);
    add_time(&b, "oldest", w.q.oldest);
    add_int(&b, "loading", r->loading);
    buf_addc(&b, '}');
    add_streams(&b, &w, sum, s);
    add_int(&b, "sessions", (int64_t)w.sessions);
    add_int(&b, "connections", (int64_t)w.connections);
    add_threads(&b, &w, r->nworker);
    add_spool(&b, r);
    add_lanes(&b, &w, s, (size_t)MAX(control_int(c, "limit", INT64_MAX), 0));
    add_key(&b, "suspended");
    buf_addc(&b, '[');
    worker_call(&r->worker[0], suspended_one, &b);
    buf_addc(&b, ']');
    incidents_into(&b, r);
    struct gateway_seen gateway;
    add_str(&b, "one_gateway", gateway_found(&gateway) ? str_z(gateway.ip) : S(""));
    add_int(&b, "uptime_s", (clock_now() - r->started) / SECOND);
    add_int(&b, "epoch", (int64_t)s->snapshot.epoch);
    buf_addc(&b, '}');
    control_line(c, buf_str(&b));
    mem_free(w.lane);
    map_free(&w.by_name);
    snapshot_drop(&s->snapshot);
}

/* ---- reload, drain ---- */

static void reload(struct control *c, void *relay)
{
    struct relay *r = relay;
    AUTO_BUF text = { 0 }, changes = { 0 }, line = { 0 };

    err e = relay_reload(r, &text, &changes);
    buf_addc(&line, '{');
    if (text.n)
        add_str(&line, "text", buf_str(&text));
    if (changes.n)
        add_str(&line, "changes", buf_str(&changes));
    struct settings *s = relay_newest(r);
    add_int(&line, "epoch", (int64_t)s->snapshot.epoch);
    snapshot_drop(&s->snapshot);
    buf_addc(&line, '}');
    control_line(c, buf_str(&line));
    if (e != OK)
        control_fail(c, "configuration", "the configuration in force stays");
}

static void drain(struct control *c, void *relay)
{
    struct relay *r = relay;

    control_line(c, S("{\"draining\":true}"));
    r->quit_asked = true;
    waiters_wake_all(&r->quit);
}

const struct control_verb control_verbs[] = {
    { "backend.list", backend_list, false },
    { "backend.drain", backend_drain, true },
    { "backend.undrain", backend_undrain, true },
    { "config.show", config_show, false },
    { "explain.rcpt", explain_rcpt, false },
    { "incident.list", incident_list, false },
    { "incident.close", incident_close_one, true },
    { "queue.list", queue_list, false },
    { "queue.show", queue_show, false },
    { "queue.change", queue_change, true },
    { "queue.suspend", queue_suspend_lane, true },
    { "queue.resume", queue_resume_lane, true },
    { "trace", trace, false },
    { "stats", stats, false },
    { "reload", reload, true },
    { "drain", drain, true },
    { NULL, NULL, false },
};
