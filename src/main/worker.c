/* A worker: one thread that receives, commits and delivers. */
#include "main/relay.h"

#include <sys/resource.h>

/* ---- calls from other threads ---- */

struct call {
    struct post post;
    struct worker *w;
    err (*fn)(struct worker *w, void *arg);
    void *arg;
    err result;
    struct err_note note;
    struct thread *caller;
    struct waiters waiter;
    bool done;
};

static void call_back(struct post *p)
{
    struct call *c = AROUND(p, struct call, post);

    c->done = true;
    waiters_wake_all(&c->waiter);
}

static err call_task(void *arg)
{
    struct call *c = arg;

    c->result = c->fn(c->w, c->arg);
    c->note = *err_note;
    c->post.run = call_back;
    thread_post(c->caller, &c->post);
    return OK;
}

static void call_arrived(struct post *p)
{
    struct call *c = AROUND(p, struct call, post);

    if (group_spawn(thread_group(), "call", call_task, c) != OK) {
        c->result = E_LIMIT;
        c->post.run = call_back;
        thread_post(c->caller, &c->post);
    }
}

err worker_call(struct worker *w, err (*fn)(struct worker *w, void *arg), void *arg)
{
    struct call c = { .w = w, .fn = fn, .arg = arg, .caller = thread_self(), .post.run = call_arrived };

    thread_post(w->thread, &c.post);
    while (!c.done) /* `c` is on our stack: it has to come back, cancelled or not */
        waiters_wait_steady(&c.waiter);
    *err_note = c.note;
    return c.result;
}

/* ---- clients ---- */

struct client_start { struct post post; struct worker *w; struct session_start *session; };

static err serve_client(void *arg)
{
    struct client_start *c = arg;
    struct worker *w = c->w;
    struct session_start *session = c->session;

    mem_free(c);
    session_run(session);
    atomic_fetch_sub(&w->load, 1);
    return OK;
}

/* One line for those that come when no more tasks can be had; never a dropped line. */
static void turn_away(struct client_start *c)
{
    static const char words[] = "421 4.3.2 too many sessions just now\r\n";

    machine->sock_send(c->session->fd, &(struct iovec){ (void *)(uintptr_t)words, sizeof words - 1 }, 1);
    machine->close(c->session->fd);
    atomic_fetch_sub(&c->w->load, 1);
    mem_free(c->session);
    mem_free(c);
}

static void start_client(struct post *p)
{
    struct client_start *c = AROUND(p, struct client_start, post);

    c->session->reception = c->w->reception;
    if (task_room() < 256 || group_spawn(thread_group(), "session", serve_client, c) != OK)
        turn_away(c);
}

/* The thread that took the connection keeps it unless another has clearly less to do. */
static struct worker *least_loaded(struct worker *me)
{
    struct relay *r = me->relay;
    struct worker *best = me;
    uint32_t least = atomic_load_explicit(&me->load, memory_order_relaxed);

    for (unsigned i = 0; i < r->nworker; i++) {
        uint32_t load = atomic_load_explicit(&r->worker[i].load, memory_order_relaxed);
        if (load < least) {
            least = load;
            best = &r->worker[i];
        }
    }
    return best;
}

static err accept_clients(void *arg)
{
    struct acceptor *a = arg;
    struct worker *me = a->w;

    TRY(io_add_shared(&a->io, a->fd));
    for (;;) {
        int fd;
        struct addr peer;
        err e = listen_accept(&a->io, NEVER, &fd, &peer);
        if (e == E_LIMIT) {
            log_warn("accept_paused", LOG_STR("listener", a->name), LOG_STR("reason", err_text()));
            continue;
        }
        if (e != OK)
            break;
        struct worker *to = least_loaded(me);
        struct client_start *c = mem_new(sizeof *c);
        c->session = mem_new(sizeof *c->session);
        *c->session = (struct session_start){ .fd = fd, .peer = peer, .at = a->addr, .listener = a->name, .where = a->where };
        if (peer.sa.sa_family == AF_UNIX)
            c->session->has_uid = machine->sock_peer_uid && machine->sock_peer_uid(fd, &c->session->uid) == 0;
        c->w = to;
        c->post.run = start_client;
        atomic_fetch_add(&to->load, 1);
        if (to == me)
            start_client(&c->post);
        else
            thread_post(to->thread, &c->post);
    }
    io_del(&a->io);
    return OK;
}

/* A group of its own inside a task of the thread's, so that one listener can be ended by itself. */
static err acceptor_run(void *arg)
{
    struct acceptor *a = arg;
    {
        AUTO_GROUP g = group_open(NEVER);
        a->group = &g;
        group_spawn(&g, "accept", accept_clients, a);
        group_wait(&g);
        a->group = NULL;
    }
    waiters_wake_all(&a->end);
    return OK;
}

void worker_listen(struct worker *w, const struct relay_listener *l)
{
    struct acceptor *a = mem_new(sizeof *a);

    *a = (struct acceptor){ .w = w, .addr = l->addr, .name = l->name, .where = l->where, .fd = l->fd, .next = w->acceptor };
    w->acceptor = a;
    group_spawn(thread_group(), "acceptor", acceptor_run, a);
}

void worker_unlisten(struct worker *w, const struct addr *addr)
{
    for (struct acceptor **at = &w->acceptor; *at;) {
        struct acceptor *a = *at;
        if (addr && !addr_eq(&a->addr, addr)) {
            at = &a->next;
            continue;
        }
        *at = a->next;
        if (a->group) {
            group_cancel(a->group);
            while (a->group && waiters_wait(&a->end, NEVER) == OK)
                ;
        }
        mem_free(a);
    }
}

/* ---- the thread ---- */

static struct snapshot *worker_newest(void *ctx)
{
    return snapshot_hold(((struct worker *)ctx)->snap);
}

err worker_configure(struct worker *w, void *snapshot)
{
    struct snapshot *old = w->snap;

    w->snap = snapshot;
    if (queue_configure(w->queue, &w->snap->retry, &w->snap->streams, &w->snap->routes))
        group_spawn(thread_group(), "reroute", queue_reroute, w->queue);
    dispatch_configure(w->dispatch);
    snapshot_drop(old);
    return OK;
}

/* Of a thread that ends: the spool has it. */
static void narrow_arrived(struct post *p)
{
    struct mail *mail = AROUND(p, struct mail, post);
    struct worker *w = mail->to;

    if (w->ending)
        mail_drop(mail);
    else
        queue_add(w->queue, mail);
}

/* Lanes with fewer connections than there are threads live on the first one. */
static void narrow(void *ctx, struct mail *mail)
{
    struct worker *w = ctx;

    mail->to = &w->relay->worker[0];
    mail->post.run = narrow_arrived;
    thread_post(w->relay->worker[0].thread, &mail->post);
}

static void word_arrived(struct post *p)
{
    struct lane_word *word = AROUND(p, struct lane_word, post);
    struct worker *w = word->to;

    if (w->ending || !w->dispatch)
        lane_word_free(word);
    else
        dispatch_hear(w->dispatch, word);
}

static void say(void *ctx, unsigned thread, struct lane_word *word)
{
    struct worker *to = &((struct worker *)ctx)->relay->worker[thread];

    word->to = to;
    word->post.run = word_arrived;
    thread_post(to->thread, &word->post);
}

/* Word that servers of a backend have changed, or that an incident is over, on its way to a worker. */
struct changed { struct post post; struct worker *w; bool thaw; enum incident_kind kind; char backend[]; };

static bool concerns(const struct changed *ch, const struct lane *lane)
{
    bool braked = ch->thaw && ch->kind == INCIDENT_REFUSES && lane->kind == LANE_SITE; /* a site, by its own name */
    bool named = (lane->kind == LANE_BACKEND || braked) && str_eq(lane_subject(lane), str_z(ch->backend));

    if (!ch->thaw || *ch->backend)
        return named && (!ch->thaw || lane->frozen);
    /* Those that failed before it was an incident are down. */
    bool before = lane->state == LANE_DOWN && ((ch->kind == INCIDENT_NO_NAMES && lane->kind == LANE_DOMAIN) || (ch->kind == INCIDENT_NO_WAY && lane->kind == LANE_SITE));
    return before || (lane->frozen && lane->frozen_by == ch->kind);
}

static void changed_arrived(struct post *p)
{
    struct changed *ch = AROUND(p, struct changed, post);
    struct lane *lane;

    for (size_t i = 0; !ch->w->ending && (lane = queue_lane(ch->w->queue, i)); i++)
        if (concerns(ch, lane)) {
            if (ch->thaw && lane->backend)
                backend_try_now(lane->backend, clock_now());
            lane_open(lane);
            dispatch_look(lane);
        }
    mem_free(ch);
}

static void changed_tell(struct relay *r, const struct changed *model, str backend)
{
    for (unsigned i = 0; i < r->nworker; i++) {
        struct changed *ch = mem_new(sizeof *ch + backend.n + 1);
        *ch = *model;
        ch->post.run = changed_arrived;
        ch->w = &r->worker[i];
        memcpy(ch->backend, backend.p, backend.n);
        thread_post(r->worker[i].thread, &ch->post);
    }
}

void relay_lanes_look(struct relay *r, str backend) { changed_tell(r, &(struct changed){ .thaw = false }, backend); }
void relay_thaw(struct relay *r, enum incident_kind kind, str subject) { changed_tell(r, &(struct changed){ .thaw = true, .kind = kind }, subject); }

static void thaw(void *ctx, enum incident_kind kind, str backend) { relay_thaw(((struct worker *)ctx)->relay, kind, backend); }
static void server_up(void *ctx, str backend) { relay_lanes_look(((struct worker *)ctx)->relay, backend); }

static void working_on(void *ctx, ulid id) { crash_note(((struct worker *)ctx)->number, id); }
static bool set_aside(void *ctx, ulid id) { (void)ctx; return crash_set_aside(id); }
static void ready(void *ctx, struct lane *lane) { dispatch_ready(((struct worker *)ctx)->dispatch, lane); }
static void resolve(void *ctx, struct lane *lane) { dispatch_resolve(((struct worker *)ctx)->dispatch, lane); }
static void suspended(void *ctx, struct lane *lane) { dispatch_suspended(((struct worker *)ctx)->dispatch, lane); }
static void expired(void *ctx, struct ticket *t) { dispatch_expired(((struct worker *)ctx)->dispatch, t); }
static void unroutable(void *ctx, struct ticket *t) { dispatch_unroutable(((struct worker *)ctx)->dispatch, t); }

static err finish_sessions(struct worker *w, when deadline)
{
    reception_drain(w->reception);
    while (atomic_load(&w->load) && clock_now() < deadline)
        TRY(task_sleep(clock_now() + 10 * MILLISECOND));
    return OK;
}

static err finish_deliveries(struct worker *w, when deadline)
{
    dispatch_drain(w->dispatch);
    while (dispatch_connections(w->dispatch) && clock_now() < deadline)
        TRY(task_sleep(clock_now() + 10 * MILLISECOND));
    return OK;
}

/* Connections to next hops of one thread: half of the descriptors and tasks there may be are for clients. */
static size_t most_connections(const struct relay *r)
{
    struct rlimit l;
    size_t descriptors = getrlimit(RLIMIT_NOFILE, &l) == 0 ? (size_t)l.rlim_cur : 1024;

    return MAX(MIN(descriptors, task_room()) / 2 / r->nworker, 16);
}

err worker_main(void *worker)
{
    struct worker *w = worker;
    struct relay *r = w->relay;

    crash_thread(w->number);
    w->port = spool_port_open(r->spool);
    w->queue = queue_new(&(struct queue_setup){ .port = w->port, .retry = &w->snap->retry, .streams = &w->snap->streams, .routes = &w->snap->routes, .standing = &r->before,
                                                .body_budget = w->snap->receive.limits.body_memory / r->nworker, .ready = ready, .resolve = resolve, .suspended = suspended,
                                                .expired = expired, .unroutable = unroutable, .ctx = w });
    w->reception = reception_new(&(struct reception_setup){ .newest = worker_newest, .ctx = w, .queue = w->queue, .spool = r->spool,
                                                            .working_on = working_on, .port = w->port, .instance = r->instance, .threads = r->nworker,
                                                            .narrow = w->number ? narrow : NULL });
    w->dispatch = dispatch_new(&(struct dispatch_setup){ .newest = worker_newest, .ctx = w, .queue = w->queue, .port = w->port,
                                                         .working_on = working_on, .set_aside = set_aside, .reception = w->reception, .resolver = r->resolver, .threads = r->nworker,
                                                         .thread = w->number, .most_connections = most_connections(r), .server_up = server_up, .thaw = thaw,
                                                         .say = r->nworker > 1 ? say : NULL });
    group_spawn(thread_group(), "calendar", queue_run, w->queue);
    if (w->number == 0)
        group_spawn(thread_group(), "drop", reception_drop, w->reception);
    dispatch_configure(w->dispatch);
    while (!w->stopping)
        if (waiters_wait(&w->stop, NEVER) != OK)
            break;

    worker_unlisten(w, NULL);
    finish_sessions(w, clock_now() + 30 * SECOND);
    finish_deliveries(w, clock_now() + 30 * SECOND);
    w->ending = true;
    group_close(thread_group());
    spool_flush(w->port);
    dispatch_free(w->dispatch);
    reception_free(w->reception);
    queue_free(w->queue);
    spool_port_close(w->port);
    snapshot_drop(w->snap);
    return OK;
}
