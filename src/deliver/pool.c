/* The connections of a lane: how many, to which servers, for how long. */
#include "deliver/inside.h"

#include <stdio.h>

#define TICKETS_A_CONNECTION 4  /* one more connection for each so many that wait */
#define PROBE_LEAST SECOND      /* a lane that is down is tried again no sooner */

struct connection {
    struct dispatch *d;
    struct lane *lane;
    struct backend *backend;    /* of `snap` */
    struct snapshot *snap;
    struct next_hop *server;
    size_t server_at;
    struct ticket *first;       /* in flight already, bound to `server_at`; NULL: takes what comes */
    struct client *client;
    char remote[ADDR_TEXT + 80];
};

static err connection_run(void *connection);

/* ---- which server ---- */

static uint32_t quota(const struct dispatch *d, const struct backend *b)
{
    return (uint32_t)MAX(b->max_connections / d->setup.threads, 1);
}

/* The lane counts its connections per server; a new configuration may have changed their number. */
static uint8_t *per_server(struct lane *lane, const struct backend *b)
{
    if (lane->nper_server < b->nserver) {
        lane->per_server = mem_grow(lane->per_server, b->nserver);
        memset(lane->per_server + lane->nper_server, 0, b->nserver - lane->nper_server);
        lane->nper_server = b->nserver;
    }
    return lane->per_server;
}

/* Of the servers not tried yet: first those of which this lane has fewest connections, so that equals share the mail even when
 * there is little of it; then any with a connection to spare. */
static struct next_hop *choose(struct connection *k, const bool *tried, when *retry_at)
{
    const struct backend *b = k->backend;
    uint8_t *have = per_server(k->lane, b);
    bool avoid[64] = { 0 };
    uint32_t most = MIN(quota(k->d, b), 255u);

    for (size_t i = 0; i < b->nserver; i++) {
        uint32_t least = UINT32_MAX;
        for (size_t j = 0; j < b->nserver; j++)
            if (b->server[j].priority == b->server[i].priority && !tried[j] && atomic_load(&b->server[j].state->out_until) == 0)
                least = MIN(least, have[j]);
        avoid[i] = tried[i] || have[i] >= most || (least != UINT32_MAX && have[i] > least);
    }
    return backend_pick(b, avoid, clock_now(), retry_at);
}

/* ---- opening ---- */

static err connect_server(struct connection *k, struct client **ret)
{
    const struct next_hop *srv = k->server;
    struct addr to = srv->addr;
    AUTO(stream) s = NULL;
    char ip[ADDR_TEXT];

    if (to.n == 0) {
        AUTO_ARENA a = arena_new();
        struct addrs all;
        TRY(addr_lookup(k->d->setup.pool, a, srv->host, srv->port, &all));
        if (all.n == 0)
            return fail(E_NONAME, "%.*s has no address", STR(srv->host));
        to = all.p[random_below(all.n)];
    }
    str address = addr_print(&to, ip);
    if (srv->addr.n)
        snprintf(k->remote, sizeof k->remote, "%.*s", STR(address));
    else
        snprintf(k->remote, sizeof k->remote, "%.*s[%.*s]", (int)MIN(srv->host.n, 64), srv->host.p, STR(address));
    TRY(stream_connect(&to, NULL, clock_now() + k->backend->connect_timeout, &s));
    /* client_open() owns the stream from here, whatever it returns. */
    return client_open(take(s), k->snap->receive.hostname, ret);
}

/* For a ticket whose last outcome is unknown: the server that may have it already might know it again, another cannot. */
static struct next_hop *choose_bound(struct connection *k, const bool *tried)
{
    struct next_hop *s = &k->backend->server[k->server_at];

    if (k->server_at >= k->backend->nserver) /* a configuration with fewer came between */
        return NULL;
    /* Asked again here: others may have gone there since this connection was decided on. */
    if (tried[k->server_at] || per_server(k->lane, k->backend)[k->server_at] >= quota(k->d, k->backend))
        return NULL;
    return atomic_load(&s->state->out_until) ? NULL : s;
}

/* Try servers until one answers as it should. Says in *reason why the last one did not. */
static err open_any(struct connection *k, str *reason, arena *a, when *retry_at)
{
    bool tried[64] = { 0 };

    for (;;) {
        k->server = k->first ? choose_bound(k, tried) : choose(k, tried, retry_at);
        if (!k->server)
            return fail(E_REFUSED, "no server of %.*s is there", STR(k->backend->name));
        k->server_at = (size_t)(k->server - k->backend->server);
        snprintf(k->remote, sizeof k->remote, "%.*s", (int)MIN(k->server->host.n, 64), k->server->host.p);
        k->lane->per_server[k->server_at]++;
        atomic_fetch_add(&k->server->state->connections, 1);
        stats_add(COUNT_connections, 1);
        err e = connect_server(k, &k->client);
        if (e == OK) {
            server_works(k->server->state, clock_now());
            return OK;
        }
        atomic_fetch_sub(&k->server->state->connections, 1);
        k->lane->per_server[k->server_at]--;
        server_failed(k->server->state, clock_now());
        *reason = str_printf(a, "%s: %.*s", k->remote, STR(err_text()));
        client_free(take(k->client)); /* it may have come as far as that */
        if (e == E_CANCELED)
            return e;
        stats_add(COUNT_connections_failed, 1);
        log_warn("server_failed", LOG_STR("backend", k->backend->name), LOG_Z("server", k->remote), LOG_STR("reason", *reason));
        tried[k->server_at] = true;
    }
}

static void close_connection(struct connection *k, bool politely)
{
    if (!k->client)
        return;
    if (politely)
        client_quit(k->client);
    else
        client_free(k->client);
    k->client = NULL;
    atomic_fetch_sub(&k->server->state->connections, 1);
    k->lane->per_server[k->server_at]--;
}

/* ---- a lane that is down ---- */

static err wake_lane(void *arg)
{
    struct lane *lane = arg;

    while (lane->state == LANE_DOWN && task_sleep(lane->retry_at) == OK)
        if (lane->state == LANE_DOWN && clock_now() >= lane->retry_at) {
            lane->waking = false;
            lane_open(lane);
            return OK;
        }
    lane->waking = false;
    return OK;
}

static void lane_is_down(struct connection *k, str reason, when retry_at)
{
    struct lane *lane = k->lane;

    retry_at = MAX(retry_at, clock_now() + PROBE_LEAST);
    if (lane->state == LANE_OPEN)
        log_warn("lane_down", LOG_STR("lane", lane->name), LOG_STR("reason", reason), LOG_INT("waiting", lane->nready));
    lane_down(lane, reason, retry_at);
    if (!lane->waking) {
        lane->waking = true;
        group_spawn(thread_group(), "lane-wake", wake_lane, lane);
    }
}

/* ---- the messages of a connection ---- */

static void open_connection(struct dispatch *d, struct lane *lane, struct ticket *first, size_t server_at)
{
    struct connection *k = mem_new(sizeof *k);

    *k = (struct connection){ .d = d, .lane = lane, .first = first, .server_at = server_at };
    lane->connections++;
    d->connections++;
    if (group_spawn(thread_group(), "deliver", connection_run, k) == OK)
        return;
    lane->connections--;
    d->connections--;
    mem_free(k);
    log_error("no_connection", LOG_STR("lane", lane->name), LOG_STR("reason", err_text()));
    if (first)
        ticket_return(first);
}

/* Does this ticket belong on another server than ours first? Then a connection of its own goes there, if one may be opened. */
static bool sent_elsewhere(struct connection *k, struct ticket *t)
{
    size_t at = t->server - 1u;

    if (!t->server || at == k->server_at || at >= k->backend->nserver || k->lane->per_server[at] >= quota(k->d, k->backend)
        || atomic_load(&k->backend->server[at].state->out_until))
        return false;
    open_connection(k->d, k->lane, t, at);
    return true;
}

/* A server of a better priority is there again: this connection was only its stand-in. */
static bool better_is_in(const struct connection *k)
{
    const struct backend *b = k->backend;

    for (size_t i = 0; i < b->nserver && b->server[i].priority < k->server->priority; i++)
        if (atomic_load_explicit(&b->server[i].state->out_until, memory_order_relaxed) == 0)
            return true;
    return false;
}

/* The next ticket as a flight, offered. `wait`: until one comes or the connection has idled enough. False: there is none. */
static bool next_flight(struct connection *k, struct flight *f, bool wait)
{
    struct lane *lane = k->lane;
    uint64_t most = k->backend->messages_per_connection, theirs = k->client->mail_max;

    *f = (struct flight){ 0 };
    if ((most && k->client->mails >= most) || (theirs && k->client->mails >= theirs))
        return false;
    for (;;) {
        if (k->d->draining || lane->state != LANE_OPEN || lane->backend != k->backend || (!k->first && better_is_in(k)))
            return false;
        /* What is delivered before its outcome is noted, a crash brings back: there is a limit to that. */
        if (spool_behind(k->d->setup.port)) {
            if (!wait || spool_keep_up(k->d->setup.port, clock_now() + k->backend->idle_timeout) != OK)
                return false;
            continue;
        }
        struct ticket *t = take(k->first);
        /* Behind a body that is still in the buffer only what is in memory is offered: nothing may hold that body up. */
        if (!t && lane->nready && (wait || AROUND(lane->ready.next, struct ticket, place)->mail))
            t = lane_take(lane);
        if (!t) {
            if (!wait)
                return false;
            lane->idle++;
            err e = waiters_wait(&lane->takers, clock_now() + k->backend->idle_timeout);
            lane->idle -= e != OK; /* who wakes us counts us out */
            if (e != OK)
                return false;
            continue;
        }
        if (sent_elsewhere(k, t) || flight_load(k->d, t, f) != OK)
            continue;
        f->server_at = k->server_at;
        if (!flight_fit(f, k->client)) {
            flight_settle(k->d, f, FLIGHT_ANSWERED, S(""), S(""));
            continue;
        }
        f->peer_dsn = k->client->caps & CAP_DSN;
        f->offered = true;
        client_offer(k->client, &f->env, f->body.size);
        return true;
    }
}

/* The line broke, or the server closed it. An attempt for a message only when it was the first on this line: later ones may
 * have met a server that counts messages, and go at once on another. */
static enum flight_end broken_end(const struct connection *k, err e)
{
    return e == E_MAYBE ? FLIGHT_UNKNOWN : k->client->mails > 1 ? FLIGHT_NOT_TRIED : FLIGHT_BROKEN;
}

static void broken(struct connection *k, struct flight *cur, struct flight *next, err e)
{
    AUTO_ARENA a = arena_new();
    const struct reply *last = &k->client->last;
    str reason = e == E_CLOSED && last->code == 421 ? reply_print(a, last) : str_printf(a, "connection lost: %.*s", STR(err_text()));

    if (k->client->mails <= 1)
        server_failed(k->server->state, clock_now());
    log_info("connection_lost", LOG_Z("remote", k->remote), LOG_STR("reason", reason));
    if (next->a)
        flight_settle(k->d, next, FLIGHT_NOT_TRIED, S(""), str_z(k->remote));
    if (cur->a)
        flight_settle(k->d, cur, broken_end(k, e), reason, str_z(k->remote));
}

static void talk(struct connection *k)
{
    struct flight cur = { 0 }, next = { 0 };
    struct server_state *st = k->server->state;

    for (;;) {
        bool any;
        err e;
        if (!cur.a && !next_flight(k, &cur, true))
            break;
        atomic_fetch_add_explicit(&st->busy, 1, memory_order_relaxed);
        stats_add(COUNT_attempts, 1);
        e = client_answers(k->client, &cur.env, cur.a, cur.out, &any);
        if (e == OK && any) {
            e = client_body(k->client, &cur.env, &cur.body, cur.out);
            if (e == OK && (k->client->caps & CAP_PIPELINING))
                next_flight(k, &next, false);
            when said = clock_now();
            if (e == OK)
                e = client_settle(k->client, &cur.env, cur.a, cur.out);
            if (e == OK)
                server_answered(st, clock_now() - said);
        }
        atomic_fetch_sub_explicit(&st->busy, 1, memory_order_relaxed);
        if (e != OK) {
            broken(k, &cur, &next, e);
            close_connection(k, false);
            return;
        }
        if (any)
            atomic_fetch_add_explicit(&st->delivered, 1, memory_order_relaxed);
        flight_settle(k->d, &cur, FLIGHT_ANSWERED, S("no answer"), str_z(k->remote));
        cur = next;
        if (cur.a)
            cur.body.ctx = &cur;
        next = (struct flight){ 0 };
    }
    close_connection(k, true);
}

static err connection_run(void *arg)
{
    struct connection k = *(struct connection *)arg;
    struct lane *lane = k.lane;
    AUTO_ARENA a = arena_new();
    str reason = S("all its servers failed lately");
    when retry_at;
    bool talked = false;

    mem_free(arg);
    k.snap = k.d->setup.newest(k.d->setup.ctx);
    k.backend = lane->backend;
    if (k.backend && !k.d->draining) {
        err e = open_any(&k, &reason, a, &retry_at);
        talked = e == OK;
        if (talked)
            talk(&k);
        else if (e != E_CANCELED && !k.first && lane->connections == 1 && lane->backend == k.backend)
            lane_is_down(&k, reason, retry_at);
    }
    lane->connections--;
    k.d->connections--;
    snapshot_drop(k.snap);
    if (k.first) { /* its server is not to be had: any other will do now, and when we were the last a new connection looks for one */
        k.first->server = 0;
        ticket_return(k.first);
    }
    /* Who could not connect starts nobody: the last of them to fail closes the lane. */
    if (talked && lane->nready && lane->state == LANE_OPEN)
        dispatch_ready(k.d, lane);
    return OK;
}

/* ---- how many ---- */

/* Servers of the best priority that has any in; *due: some server that was out, of that or a better one, is to be tried now. */
static size_t servers_in(const struct backend *b, when now, bool *due)
{
    size_t n = 0;

    *due = false;
    for (size_t i = 0; i < b->nserver; i++) {
        when out = atomic_load_explicit(&b->server[i].state->out_until, memory_order_relaxed);
        if (n && b->server[i].priority != b->server[i - 1].priority)
            break;
        n += out == 0;
        *due |= out && out <= now && !atomic_load_explicit(&b->server[i].state->probing, memory_order_relaxed);
    }
    return MAX(n, 1);
}

void dispatch_ready(void *ctx, struct lane *lane)
{
    struct dispatch *d = ctx;
    const struct backend *b = lane->backend;

    if (!b || d->draining)
        return;
    bool due, woken = lane->idle;
    size_t servers = servers_in(b, clock_now(), &due);
    if (woken) {
        lane->idle--;
        waiters_wake_one(&lane->takers);
    }
    if (lane->connections >= quota(d, b) * servers + due)
        return;
    if (due || lane->connections < servers || (!woken && lane->nready > (size_t)lane->connections * TICKETS_A_CONNECTION))
        open_connection(d, lane, NULL, 0);
}

struct dispatch *dispatch_new(const struct dispatch_setup *setup)
{
    struct dispatch *d = mem_new(sizeof *d);

    d->setup = *setup;
    list_init(&d->settle);
    group_spawn(thread_group(), "settle", settle_run, d);
    return d;
}

void dispatch_free(struct dispatch *d)
{
    mem_free(d);
}

void dispatch_drain(struct dispatch *d)
{
    struct lane *lane;

    d->draining = true;
    for (size_t i = 0; (lane = queue_lane(d->setup.queue, i)); i++) {
        lane->idle = 0;
        waiters_wake_all(&lane->takers);
    }
}

size_t dispatch_connections(const struct dispatch *d)
{
    return d->connections;
}
