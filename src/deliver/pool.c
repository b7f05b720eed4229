/* The connections of a lane: how many, to which servers, for how long. */
#include "deliver/inside.h"

#define DRAIN (20 * MILLISECOND) /* one more connection where what waits would take those that there are longer; */
#define TICKETS_A_CONNECTION 4  /* or, of servers that never answered yet, for each so many that wait */
#define PROBE_LEAST SECOND      /* a lane that is down is tried again no sooner */
#define PROGRESS (10 * SECOND)  /* who answered nothing for so long gets no further connections */
#define TURN_MAILS 20           /* then a connection is given up, when others wait for one that is all there may be */
#define PROVEN (10 * MINUTE)    /* who answered within that is let in before strangers when connections run short */

struct connection {
    struct dispatch *d;
    struct lane *lane;
    struct backend *backend;    /* of `snap` */
    struct snapshot *snap;
    struct next_hop *server;
    size_t server_at;
    struct ticket *first;       /* in flight already, bound to `server_at`; NULL: takes what comes */
    bool trial;                 /* `first`, to any server, is to show whether a frozen backend is well again, and nothing else goes over it */
    enum brake_said said;       /* what it showed */
    struct client *client;
    struct remote remote;
    struct slots slots;         /* of its limits on connections */
    bool unfit;                 /* it failed by its source's fault */
};

static err connection_run(void *connection);

/* ---- which server ---- */

static uint32_t quota(const struct dispatch *d, const struct backend *b)
{
    return (uint32_t)MAX(b->max_connections / d->setup.threads, 1);
}

/* Of the servers not tried yet: first those of which this lane has fewest connections for their weight, so that they share the mail
 * even when there is little of it; then any with a connection to spare. */
static struct next_hop *choose(struct connection *k, const bool *tried, when *retry_at)
{
    const struct backend *b = k->backend;
    const struct lane_server *have = lane_servers(k->lane, b);
    bool avoid[64] = { 0 };

    for (size_t i = 0; i < b->nserver; i++) {
        const struct next_hop *me = &b->server[i];
        bool most = have[i].connections >= quota(k->d, b);
        for (size_t j = 0; j < b->nserver && !most; j++)
            most = b->server[j].priority == me->priority && !tried[j] && server_in(&b->server[j])
                   && have[i].connections * b->server[j].weight > have[j].connections * me->weight;
        avoid[i] = tried[i] || most;
    }
    return backend_pick(b, avoid, clock_now(), retry_at);
}

/* ---- opening ---- */

/* For a ticket whose last outcome is unknown: the server that may have it already might know it again, another cannot. */
static struct next_hop *choose_bound(struct connection *k, const bool *tried)
{
    struct next_hop *s = &k->backend->server[k->server_at];

    if (k->server_at >= k->backend->nserver) /* a configuration with fewer came between */
        return NULL;
    /* Asked again here: others may have gone there since this connection was decided on. */
    if (tried[k->server_at] || lane_servers(k->lane, k->backend)[k->server_at].connections >= quota(k->d, k->backend))
        return NULL;
    return server_in(s) ? s : NULL;
}

/* Try servers until one answers as it should. Says in *reason why the last one did not, and in *why by which error it could not be reached; OK: it was, or
 * none was tried. */
static err open_any(struct connection *k, str *reason, arena *a, when *retry_at, err *why)
{
    bool tried[64] = { 0 }, reason_given = false;

    for (;;) {
        k->server = k->first && !k->trial ? choose_bound(k, tried) : choose(k, tried, retry_at);
        if (!k->server) {
            const struct outlet *o = k->backend->outlet;
            if (o && !reason_given && atomic_load(&o->state->out_until) > clock_now()) { /* found out by a probe, or another lane */
                k->unfit = true;
                *reason = str_printf(a, "source %.*s: it has no address of this machine", STR(o->name));
            }
            return fail(E_REFUSED, "no server of %.*s is there", STR(k->backend->name));
        }
        reason_given = true;
        k->server_at = (size_t)(k->server - k->backend->server);
        k->lane->sending->server[k->server_at].connections++;
        atomic_fetch_add(&k->server->state->connections, 1);
        stats_add(COUNT_connections, 1);
        struct leaving by = { .outlet = k->backend->outlet };
        err e = hop_connect(k->d, k->server, k->backend->holders ? &k->snap->routes.own : NULL, hop_ehlo(by.outlet, k->snap->receive.hostname),
                            k->backend->connect_timeout, &by, &k->remote, &k->client);
        if (e == OK || k->client)
            fault_reached(k->d, k->lane);
        if (e == OK) {
            server_works(k->server->state, clock_now());
            return OK;
        }
        *why = k->client ? OK : e;
        atomic_fetch_sub(&k->server->state->connections, 1);
        k->lane->sending->server[k->server_at].connections--;
        server_failed(k->server->state, clock_now());
        *reason = remote_failed(&k->remote, a);
        server_said(k->server->state, *reason);
        client_free(take(k->client)); /* it may have come as far as that */
        if (e == E_CANCELED)
            return e;
        stats_add(COUNT_connections_failed, 1);
        log_warn(by.failed ? "source_failed" : "server_failed", LOG_STR("backend", k->backend->name), LOG_Z("server", k->remote.z), LOG_STR("reason", *reason));
        k->unfit |= by.failed;
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
    k->lane->sending->server[k->server_at].connections--;
}

/* ---- a lane that is down ---- */

void lane_wake_later(struct dispatch *d, struct lane *lane)
{
    bool sooner = !heap_least(&d->down) || lane->retry_at < heap_least(&d->down)->key;

    heap_put(&d->down, &lane->wake, lane->retry_at);
    if (sooner)
        waiters_wake_one(&d->down_wait);
}

/* One task for all of them: there may be a hundred thousand. */
static err wake_run(void *dispatch)
{
    struct dispatch *d = dispatch;

    for (;;) {
        struct heap_entry *next = heap_least(&d->down);
        if (!next || next->key > clock_now()) {
            err e = waiters_wait(&d->down_wait, next ? next->key : NEVER);
            if (e != OK && e != E_TIMEOUT)
                return e;
            continue;
        }
        struct lane *lane = AROUND(next, struct lane, wake);
        heap_del(&d->down, next);
        if (lane->state != LANE_DOWN)
            continue;
        if (clock_now() >= lane->retry_at)
            lane_open(lane);
        else
            lane_wake_later(d, lane);
    }
}

void dispatch_suspended(void *ctx, struct lane *lane)
{
    lane_wake_later(ctx, lane);
}

static void lane_is_down(struct connection *k, str reason, when retry_at, err why)
{
    struct lane *lane = k->lane;

    retry_at = MAX(retry_at, clock_now() + PROBE_LEAST);
    if (!lane->backend->outlet && fault_unreached(k->d, lane, why, reason, retry_at)) /* else it may be the source's, and others of its pool are asked */
        return;
    if (lane->state == LANE_OPEN)
        log_warn("lane_down", LOG_STR("lane", lane->name), LOG_STR("reason", reason), LOG_INT("waiting", lane->nready));
    lane->unfit = k->unfit;
    lane_down(lane, reason, retry_at);
    lane_wake_later(k->d, lane);
    if (lane->backend->outlet && lane_leave(lane, !k->unfit))
        group_spawn(thread_group(), "leave", queue_leave, lane->queue); /* else it is asked for again when this lane next fails */
}

/* ---- how many there may be ---- */

/* A lane grows as its servers answer: no more connections are being opened than have come as far as EHLO, and none where nothing was answered lately.
 * So one that is slow on purpose holds few, and one that came back is not run over. `want`: that many are had without asking. */
static bool may_grow(const struct lane *lane, size_t want)
{
    size_t opening = lane->sending->connections - lane->sending->talking;

    return lane->sending->connections < want || (opening < want + lane->sending->talking && clock_now() - lane->sending->answered < PROGRESS);
}

/* Has this thread room for one more in all? The last quarter is for lanes that are known to answer, and its half for those that have none yet: a
 * thousand tarpits shut nobody out. */
static bool has_room(const struct dispatch *d, const struct lane *lane)
{
    size_t most = d->setup.most_connections;
    bool proven = lane->sending->answered && clock_now() - lane->sending->answered < PROVEN;

    return d->connections < (!proven ? most - most / 4 : lane->sending->connections ? most - most / 8 : most);
}

/* ---- idle connections ---- */

static bool in_turn(const struct backend *b) { return b->balance != BALANCE_LEAST_BUSY; }

static void wake_takers(struct lane *lane)
{
    if (lane->kind == LANE_DOMAIN) /* nobody sends from there */
        return;
    lane->sending->idle = 0;
    waiters_wake_all(&lane->sending->takers);
}

#define BRISK MILLISECOND

/* A connection that goes on without a pause says the next envelope with the last dot: half the system calls, and no wake-up. So where as many are busy as
 * tickets wait, what came is left to them for a moment. */
static bool left_to_the_busy(const struct lane *lane) { return lane->nready + lane->sending->idle <= lane->sending->talking; }

static void withhold(struct dispatch *d, struct lane *lane)
{
    if (lane->sending->withheld)
        return;
    lane->sending->withheld = true;
    lane->sending->next_withheld = d->withheld;
    if (!d->withheld)
        waiters_wake_one(&d->withheld_wait);
    d->withheld = lane;
}

static void wake_taker(struct lane *lane)
{
    lane->sending->idle--;
    waiters_wake_one(&lane->sending->takers);
}

/* Mail is ready, and connections are idle: one that takes some calls the next, as long as there is more. */
static void call_idle(struct dispatch *d, struct lane *lane, const struct backend *b)
{
    if (in_turn(b)) /* it is only one server's turn, and it knows */
        wake_takers(lane);
    else if (left_to_the_busy(lane))
        withhold(d, lane);
    else
        wake_taker(lane);
}

/* ---- the messages of a connection ---- */

static void open_connection(struct dispatch *d, struct lane *lane, struct ticket *first, size_t server_at, bool trial)
{
    struct connection *k = mem_new(sizeof *k);

    *k = (struct connection){ .d = d, .lane = lane, .first = first, .server_at = server_at, .trial = trial, .said = BRAKE_UNCLEAR };
    if (!slots_take(&k->slots, lane->backend)) {
        mem_free(k);
        if (first)
            ticket_return(first);
        if (trial)
            brake_said(d, lane, BRAKE_UNCLEAR);
        return;
    }
    lane->sending->connections++;
    lane->sending->crowded = false;
    lane->sending->full = NULL;
    d->connections++;
    if (group_spawn(thread_group(), "deliver", connection_run, k) == OK)
        return;
    slots_give(&k->slots);
    lane->sending->connections--;
    d->connections--;
    mem_free(k);
    log_error("no_connection", LOG_STR("lane", lane->name), LOG_STR("reason", err_text()));
    if (first)
        ticket_return(first);
    if (trial)
        brake_said(d, lane, BRAKE_UNCLEAR);
}

void lane_try(struct dispatch *d, struct lane *lane, struct ticket *t) { open_connection(d, lane, t, 0, true); }

/* Does this ticket belong on another server than ours first? Then a connection of its own goes there, if one may be opened. */
static bool sent_elsewhere(struct connection *k, struct ticket *t)
{
    size_t at = t->server - 1u;

    if (!t->server || at == k->server_at || at >= k->backend->nserver || k->lane->sending->server[at].connections >= quota(k->d, k->backend)
        || !server_in(&k->backend->server[at]) || !lane_may_connect(k->lane, k->backend))
        return false;
    open_connection(k->d, k->lane, t, at, false);
    return true;
}

/* A server of a better priority is there again: this connection was only its stand-in. */
static bool better_is_in(const struct connection *k)
{
    const struct backend *b = k->backend;

    for (size_t i = 0; i < b->nserver && b->server[i].priority < k->server->priority; i++)
        if (server_in(&b->server[i]))
            return true;
    return false;
}

/* May nothing more go over this connection? */
static bool is_over(const struct connection *k)
{
    uint64_t most = k->backend->messages_per_connection, theirs = k->client->mail_max;

    if ((most && k->client->mails >= most) || (theirs && k->client->mails >= theirs))
        return true;
    if (k->trial)
        return k->d->draining || !k->first || k->client->mails;
    if (slots_wanted(&k->slots) && (k->client->mails >= TURN_MAILS || !k->lane->nready)) {
        k->lane->sending->yields_until = clock_now() + 2 * SECOND; /* or we would have it again before the others look */
        return true;
    }
    if (k->d->draining || k->lane->state != LANE_OPEN || k->lane->backend != k->backend || lane_braked(k->lane))
        return true;
    return !k->server->weight || atomic_load_explicit(&k->server->state->drained, memory_order_relaxed) || (!k->first && better_is_in(k));
}

/* The next ticket for this connection, in flight; NULL: there is none for it just now. Behind a body that is still in the buffer
 * (`behind`) only what is in memory is offered: nothing may hold that body up. */
static struct ticket *next_ticket(struct connection *k, bool behind)
{
    struct lane *lane = k->lane;
    struct ticket *t, *other = NULL;
    size_t at;

    if (k->first)                       /* its turn in a rate was taken with it */
        return take(k->first);
    if (lane->sending->giver)
        steal_more(k->d, lane);
    if (k->backend->nlimit && lane->nready && !lane_may_send(k->d, lane, k->backend))
        return NULL;
    if (in_turn(k->backend))
        t = share_next(lane, k->backend, k->server_at, behind, &other, &at);
    else
        t = lane->nready && (!behind || lane_first(lane)->mail) ? lane_take(lane) : NULL;
    if (other && !behind && lane_may_connect(lane, k->backend)) {
        lane->sending->pacing.mine = false;
        open_connection(k->d, lane, lane_take_this(other), at, false);
    }
    lane->sending->pacing.mine &= !t;
    if (t && lane->nready && lane->sending->idle && (!k->backend->nlimit || lane_may_send(k->d, lane, k->backend)))
        call_idle(k->d, lane, k->backend);
    return t;
}

/* Until there may be one. False: the connection has idled enough. */
static bool await_ticket(struct connection *k)
{
    struct lane *lane = k->lane;
    bool others = lane->nready > 0 && !lane->sending->pacing.until;  /* it is their turn, and they may never take it */

    bool counted = k->slots.of[0] || k->slots.of[1] || k->slots.of[2];
    when until = clock_now() + (others ? MIN(k->backend->idle_timeout, SHARE_PATIENCE) : k->backend->idle_timeout);
    err e;

    lane->sending->idle++;
    do                                  /* another thread may want it, and cannot wake us */
        e = waiters_wait(&lane->sending->takers, counted ? MIN(until, clock_now() + SECOND) : until);
    while (e == E_TIMEOUT && clock_now() < until && !slots_wanted(&k->slots));
    if (e == OK)                        /* who wakes us counts us out */
        return true;
    lane->sending->idle--;
    return e == E_TIMEOUT && others;
}

/* The next ticket as a flight, offered. `wait`: until one comes or the connection has idled enough. False: there is none. */
static bool next_flight(struct connection *k, struct flight *f, bool wait)
{
    *f = (struct flight){ 0 };
    for (;;) {
        if (is_over(k))
            return false;
        /* What is delivered before its outcome is noted, a crash brings back: there is a limit to that. */
        if (spool_behind(k->d->setup.port)) {
            if (!wait || spool_keep_up(k->d->setup.port, clock_now() + k->backend->idle_timeout) != OK)
                return false;
            continue;
        }
        struct ticket *t = next_ticket(k, !wait);
        if (!t) {
            if (!wait || !await_ticket(k))
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

    if (k->client->mails <= 1) {
        server_failed(k->server->state, clock_now());
        server_said(k->server->state, str_printf(a, "%s: %.*s", k->remote.z, STR(reason)));
    }
    log_info("connection_lost", LOG_Z("remote", k->remote.z), LOG_STR("reason", reason));
    if (next->a)
        flight_settle(k->d, next, FLIGHT_NOT_TRIED, S(""), str_z(k->remote.z));
    if (cur->a)
        flight_settle(k->d, cur, broken_end(k, e), reason, str_z(k->remote.z));
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
            if (e == OK) {
                k->lane->sending->answered = clock_now();
                server_answered(st, k->lane->sending->answered - said);
            }
        }
        atomic_fetch_sub_explicit(&st->busy, 1, memory_order_relaxed);
        if (e != OK) {
            broken(k, &cur, &next, e);
            close_connection(k, false);
            return;
        }
        if (any)
            atomic_fetch_add_explicit(&st->delivered, 1, memory_order_relaxed);
        if (next.a)
            k->lane->sending->passed = k->lane->sending->answered;
        if (k->trial)
            k->said = brake_heard(&cur);
        flight_settle(k->d, &cur, FLIGHT_ANSWERED, S("no answer"), str_z(k->remote.z));
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
    str reason = S("");         /* where none is tried: what is known of them */
    when retry_at;
    bool talked = false;
    err why = OK;

    mem_free(arg);
    if (lane->reason && lane_opened_lately(lane))
        reason = str_dup(a, lane_reason(lane));
    task_favour(); /* thousands of sessions would leave a few connections no time, and what they took in would only pile up */
    k.snap = k.d->setup.newest(k.d->setup.ctx);
    k.backend = backend_hold(lane->backend);
    if (k.backend && !k.d->draining && (k.trial || !lane_braked(lane))) {
        err e = open_any(&k, &reason, a, &retry_at, &why);
        if (e != OK && !reason.n)
            reason = backend_no_server(k.backend, a);
        talked = e == OK;
        if (talked) {
            lane->sending->talking++;
            lane->sending->answered = clock_now();
            if (lane->nready > 1) /* there may be more of us now */
                dispatch_ready(k.d, lane);
            talk(&k);
            lane->sending->talking--;
        }
        else if (e != E_CANCELED && !k.first && lane->sending->connections == 1 && lane->backend == k.backend)
            lane_is_down(&k, reason, retry_at, why);
    }
    slots_give(&k.slots);
    lane->sending->connections--;
    k.d->connections--;
    backend_drop(k.backend);
    snapshot_drop(k.snap);
    if (k.first) { /* its server is not to be had: any other will do now, and when we were the last a new connection looks for one */
        k.first->server = 0;
        ticket_return(k.first);
    }
    if (k.trial)
        brake_said(k.d, lane, k.said);
    /* Who could not connect starts nobody: the last of them to fail closes the lane. */
    if (talked && lane->nready && lane->state == LANE_OPEN)
        dispatch_ready(k.d, lane);
    return OK;
}

/* ---- who takes it ---- */

/* The moment is over: where the busy ones do not go on, others do. */
static void withheld_look(struct dispatch *d)
{
    for (struct lane *lane = take(d->withheld), *next; lane; lane = next) {
        next = take(lane->sending->next_withheld);
        lane->sending->withheld = false;
        if (lane->nready && left_to_the_busy(lane) && clock_now() - lane->sending->passed < BRISK)
            withhold(d, lane);
        else
            for (size_t n = lane->nready; n && lane->sending->idle; n--)
                wake_taker(lane);
    }
}

static err withheld_run(void *dispatch)
{
    struct dispatch *d = dispatch;

    for (;;) {
        while (!d->withheld)
            TRY(waiters_wait(&d->withheld_wait, NEVER));
        TRY(task_sleep(clock_now() + BRISK));
        withheld_look(d);
    }
}

/* ---- how many ---- */

/* What a lane sees of its backend: servers of the best priority that has any in, and how many of them it has no connection to. */
struct sight { size_t in, without; when latency /* the mean; 0: unknown */; bool due /* some server that was out, of that or a better priority, is to be tried now */; };

static struct sight look(struct lane *lane, const struct backend *b, when now)
{
    const struct lane_server *have = lane_servers(lane, b);
    struct sight s = { 0 };
    size_t opening = lane->sending->connections;

    for (size_t i = 0; i < b->nserver; i++) {
        const struct server_state *st = b->server[i].state;
        when out = atomic_load_explicit(&st->out_until, memory_order_relaxed);
        opening -= MIN(opening, have[i].connections);
        if (s.in && b->server[i].priority != b->server[i - 1].priority)
            continue;
        if (server_in(&b->server[i])) {
            s.in++;
            s.latency += atomic_load_explicit(&st->latency_us, memory_order_relaxed);
            s.without += !have[i].connections;
        }
        s.due |= out && out <= now && b->server[i].weight && !atomic_load_explicit(&st->probing, memory_order_relaxed);
    }
    s.in = MAX(s.in, 1);
    s.latency /= (when)s.in;
    s.without -= MIN(s.without, opening); /* those will go there */
    return s;
}

void dispatch_ready(void *ctx, struct lane *lane)
{
    struct dispatch *d = ctx;
    const struct backend *b = lane->backend;

    if (!b || d->draining)
        return;
    if (b->discard || b->closed.is) {
        dispatch_discard(d, lane);
        return;
    }
    if (brake_holds(d, lane) || lane->sending->pacing.until) /* it comes again when that is */
        return;
    if (d->patient) {
        d->patient = false;
        waiters_wake_one(&d->impatient);
    }
    bool woken = lane->sending->idle; /* or about to be */
    struct sight s = look(lane, b, clock_now());
    if (woken)
        call_idle(d, lane, b);
    if (lane->sending->connections >= MIN(quota(d, b) * s.in + s.due, lane_ramp(lane, clock_now())))
        return;
    /* One for each server, as soon as there is more than one message; then one more for each few that wait. */
    bool many = s.latency ? (when)lane->nready * s.latency > lane->sending->connections * DRAIN : lane->nready > lane->sending->connections * TICKETS_A_CONNECTION;
    if ((s.due || lane->sending->connections < s.in || (s.without && lane->nready > woken) || (!woken && many)) && may_grow(lane, s.in + s.due) && has_room(d, lane)
        && lane_may_connect(lane, b))
        open_connection(d, lane, NULL, 0, false);
}

static when waited(const struct ticket *t)
{
    return t->attempts ? clock_now() - (when)t->since * SECOND : wall_now() - t->accepted;
}

/* Mail came faster than it goes, and no more comes: where some has been ready for a second although more connections may be had, half as
 * many again are opened. True: something is ready somewhere. */
static bool look_for_waiting(struct dispatch *d)
{
    struct lane *lane;
    bool any = false;

    d->offers = 0;
    for (size_t i = 0; (lane = queue_lane(d->setup.queue, i)); i++) {
        if (!lane->nready || lane->state != LANE_OPEN || !lane->backend || lane->sending->idle || lane->sending->pacing.until || brake_holds(d, lane))
            continue;
        any = true;
        if (waited(lane_first(lane)) < SECOND)
            continue;
        steal_offer(d, lane);
        size_t in = look(lane, lane->backend, clock_now()).in, most = MIN(quota(d, lane->backend) * in, lane_ramp(lane, clock_now()));
        for (size_t more = lane->sending->connections / 2 + 1; more && lane->sending->connections < most && may_grow(lane, in) && has_room(d, lane) && lane_may_connect(lane, lane->backend); more--)
            open_connection(d, lane, NULL, 0, false);
        lane->sending->crowded = !lane->sending->connections;
    }
    return any;
}

static err impatience(void *dispatch)
{
    struct dispatch *d = dispatch;

    for (;;) {
        d->patient = true;
        while (d->patient)
            TRY(waiters_wait(&d->impatient, NEVER));
        do
            TRY(task_sleep(clock_now() + SECOND));
        while (!d->draining && look_for_waiting(d));
    }
}

struct dispatch *dispatch_new(const struct dispatch_setup *setup)
{
    struct dispatch *d = mem_new(sizeof *d);

    d->setup = *setup;
    list_init(&d->settle);
    d->to_ask_end = &d->to_ask;
    d->works = pool_start("recode", 1);
    callout_begin(setup->resolver);
    group_spawn(thread_group(), "settle", settle_run, d);
    group_spawn(thread_group(), "impatience", impatience, d);
    group_spawn(thread_group(), "lane-wake", wake_run, d);
    group_spawn(thread_group(), "withheld", withheld_run, d);
    group_spawn(thread_group(), "pace", pace_run, d);
    group_spawn(thread_group(), "warn", warn_run, d);
    return d;
}

void dispatch_free(struct dispatch *d)
{
    pool_stop(d->works);
    heap_free(&d->down);
    heap_free(&d->paced);
    mem_free(d);
}

void dispatch_drain(struct dispatch *d)
{
    struct lane *lane;

    d->draining = true;
    for (size_t i = 0; (lane = queue_lane(d->setup.queue, i)); i++)
        wake_takers(lane);
}

void dispatch_look(struct lane *lane)
{
    wake_takers(lane);
}

size_t dispatch_connections(const struct dispatch *d)
{
    return d->connections;
}
