/* The worker process: spool, threads, configuration, signals, from start to drain. */
#include "main/relay.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>

/* ---- configuration ---- */

struct settings *relay_newest(struct relay *r)
{
    pthread_mutex_lock(&r->lock);
    struct settings *s = r->newest;
    snapshot_hold(&s->snapshot);
    pthread_mutex_unlock(&r->lock);
    return s;
}

static err add_listener(struct worker *w, void *listener)
{
    worker_listen(w, listener);
    return OK;
}

static err drop_listener(struct worker *w, void *addr)
{
    worker_unlisten(w, addr);
    return OK;
}

static void listener_begin(struct relay *r, struct relay_listener *l)
{
    if (listener_takes_mail(l->name))
        for (unsigned w = 0; w < r->nworker; w++)
            worker_call(&r->worker[w], add_listener, l);
    else if (http_listen(r->http, &l->addr, l->fd) != OK)
        log_error("http_failed", LOG_STR("why", err_text()));
}

/* Does a configuration want what listens there? By its address, or, where a service manager bound it, by its kind. */
static bool setting_has(const struct receive_settings *s, const struct relay_listener *l)
{
    const struct addr *addr = &l->addr;

    for (size_t i = 0; i < s->nlistener; i++)
        for (size_t k = 0; k < s->listener[i].naddr; k++)
            if (addr_eq(&s->listener[i].addr[k], addr))
                return true;
    for (size_t i = 0; l->inherited && i < s->nlistener; i++)
        if (str_eq(s->listener[i].kind, l->name))
            return true;
    return false;
}

static bool listens_at(const struct relay *r, const struct addr *addr)
{
    for (size_t i = 0; i < r->nlistener; i++)
        if (addr_eq(&r->listener[i].addr, addr))
            return true;
    return false;
}

/* Names of listeners live as long as the process, since sessions hold them, and configurations go. */
static str name_keep(struct relay *r, str name)
{
    char *copy = mem_new(name.n + 1);

    memcpy(copy, name.p, name.n);
    r->name = mem_grow(r->name, (r->nname + 1) * sizeof *r->name);
    r->name[r->nname++] = copy;
    return str_of(copy, name.n);
}

/* How rules know it: by its address, or "local". */
static str where_of(struct relay *r, const struct relay_listener *l)
{
    char text[ADDR_TEXT];

    return str_eq(l->name, S(LISTENER_LOCAL)) ? l->name : name_keep(r, addr_print(&l->addr, text));
}

/* New addresses are bound before anything changes: when one cannot be had the old configuration stays. */
static err bind_new(struct relay *r, const struct receive_settings *s, struct relay_listener **ret, size_t *n)
{
    for (size_t i = 0; i < s->nlistener; i++)
        for (size_t k = 0; k < s->listener[i].naddr; k++) {
            const struct addr *addr = &s->listener[i].addr[k];
            if (listens_at(r, addr))
                continue;
            struct relay_listener l = { .addr = *addr };
            char text[ADDR_TEXT];
            str name = addr_print(addr, text);
            TRY(during(parent_listen(r->setup.parent_fd, addr, &l.fd), "%.*s", STR(name)));
            l.name = name_keep(r, s->listener[i].kind);
            l.where = where_of(r, &l);
            *ret = mem_grow(*ret, (*n + 1) * sizeof **ret);
            (*ret)[(*n)++] = l;
        }
    return OK;
}

static void listeners_change(struct relay *r, const struct receive_settings *s, struct relay_listener *fresh, size_t nfresh)
{
    for (size_t i = 0; i < r->nlistener;) {
        struct relay_listener *l = &r->listener[i];
        if (setting_has(s, l)) {
            i++;
            continue;
        }
        if (listener_takes_mail(l->name))
            for (unsigned w = 0; w < r->nworker; w++)
                worker_call(&r->worker[w], drop_listener, &l->addr);
        else
            http_unlisten(r->http, &l->addr);
        parent_unlisten(r->setup.parent_fd, &l->addr);
        machine->close(l->fd);
        *l = r->listener[--r->nlistener];
    }
    if (nfresh)
        r->listener = mem_grow(r->listener, (r->nlistener + nfresh) * sizeof *r->listener);
    for (size_t i = 0; i < nfresh; i++) {
        r->listener[r->nlistener++] = fresh[i];
        listener_begin(r, &fresh[i]);
    }
}

/* Promise 3, looked at from outside. */
static err open_relay_test(struct settings *s)
{
    unsigned asked;
    err e = receive_open_relay_test(&s->snapshot, &asked);

    if (e == OK)
        log_info("open_relay_test", LOG_Z("result", "passed"), LOG_INT("asked", asked));
    else
        log_error("open_relay_test", LOG_Z("result", "failed"), LOG_STR("reason", err_text()));
    return during(e, "this would be an open relay");
}

err relay_reload(struct relay *r, struct buf *text, struct buf *changes)
{
    struct diags d = { .a = arena_new() };
    struct settings *old = relay_newest(r);
    struct relay_listener *fresh = NULL;
    size_t nfresh = 0;

    if (!r->setup.reread) {
        buf_add(text, S("this relay runs on embedded defaults: there is nothing to read again\n"));
        arena_free(d.a);
        snapshot_drop(&old->snapshot);
        return fail(E_PERM, "embedded defaults");
    }
    notify_service("RELOADING=1");
    struct settings *s = settings_load(old->path, NULL, &d);
    diags_print(&d, text);
    err e = s ? bind_new(r, &s->snapshot.receive, &fresh, &nfresh) : fail(E_SYNTAX, "%zu errors", d.errors);
    if (e == OK)
        e = open_relay_test(s);
    if (e == OK)
        e = during(resolver_configure(r->resolver, &s->dns), "looking up names");
    if (e != OK) {
        buf_addf(text, "the configuration in force stays: %.*s\n", STR(err_text()));
        __atomic_fetch_add(&r->reloads_failed, 1, __ATOMIC_RELAXED);
        __atomic_store_n(&r->reload_failed, true, __ATOMIC_RELAXED);
        log_error("reload_failed", LOG_STR("path", old->path), LOG_STR("reason", err_text()));
        for (size_t i = 0; i < nfresh; i++) {
            parent_unlisten(r->setup.parent_fd, &fresh[i].addr);
            machine->close(fresh[i].fd);
        }
        if (s)
            snapshot_drop(&s->snapshot);
        else
            arena_free(d.a);
        mem_free(fresh);
        snapshot_drop(&old->snapshot);
        notify_service("READY=1\nSTATUS=the last reload failed; the configuration before it is in force");
        return e;
    }
    __atomic_store_n(&r->reload_failed, false, __ATOMIC_RELAXED);
    s->snapshot.epoch = old->snapshot.epoch + 1;
    pthread_mutex_lock(&r->lock);
    r->newest = s;
    pthread_mutex_unlock(&r->lock);
    for (unsigned i = 0; i < r->nworker; i++)
        worker_call(&r->worker[i], worker_configure, snapshot_hold(&s->snapshot));
    listeners_change(r, &s->snapshot.receive, fresh, nfresh);
    if (r->store)
        store_configure(r->store, &s->trace);
    mem_free(fresh);
    incidents_configure(r, s);
    log_info("reloaded", LOG_STR("path", s->path), LOG_INT("epoch", s->snapshot.epoch));
    config_changes(old, s, changes);
    snapshot_drop(&old->snapshot); /* ours */
    snapshot_drop(&old->snapshot); /* the relay's */
    notify_service("READY=1\nSTATUS=relaying");
    return OK;
}

/* ---- the backlog ---- */

#define BATCH 256           /* messages handed to a worker at a time */
#define BATCHES_MOST 64     /* under way */

struct batch {
    struct post post;
    struct loader *loader;
    struct worker *w;
    arena *a;
    size_t n;
    struct message *m[BATCH];
    struct rcpt_state *state[BATCH];
};
struct loader {
    struct relay *relay;
    struct settings *settings;
    struct batch **open;        /* a worker's unfinished batch */
    _Atomic unsigned under_way;
    struct thread *thread;
    struct waiters room;
};

static void batch_freed(struct post *p)
{
    struct batch *b = AROUND(p, struct batch, post);

    b->loader->under_way--;
    waiters_wake_all(&b->loader->room);
    mem_free(b);
}

static void batch_arrived(struct post *p)
{
    struct batch *b = AROUND(p, struct batch, post);

    for (size_t i = 0; i < b->n; i++)
        queue_load(b->w->queue, b->m[i], b->state[i]);
    arena_free(b->a);
    b->post.run = batch_freed;
    thread_post(b->loader->thread, &b->post);
}

static err batch_send(struct loader *l, unsigned worker)
{
    struct batch *b = l->open[worker];

    l->open[worker] = NULL;
    if (!b)
        return OK;
    l->under_way++;
    b->post.run = batch_arrived;
    thread_post(b->w->thread, &b->post);
    while (l->under_way > BATCHES_MOST)
        TRY(waiters_wait(&l->room, NEVER));
    return OK;
}

/* Copy what a queue needs of it: the rest is read when it is due. */
static err load_one(void *ctx, const struct message *m, const struct rcpt_state *state)
{
    struct loader *l = ctx;
    unsigned worker = way_is_narrow(&l->settings->snapshot.routes, m, l->relay->nworker) ? 0 : (unsigned)(ulid_hash(m->id) % l->relay->nworker);
    struct batch *b = l->open[worker];

    if (!b) {
        b = l->open[worker] = mem_new(sizeof *b);
        b->loader = l;
        b->w = &l->relay->worker[worker];
        b->a = arena_new();
    }
    struct message *copy = NEW(b->a, struct message);
    struct rcpt_state *states = NEW_ARRAY(b->a, struct rcpt_state, m->env.nrcpt);
    struct rcpt *rcpt = NEW_ARRAY(b->a, struct rcpt, m->env.nrcpt);
    *copy = (struct message){ .id = m->id, .at = m->at, .report = m->report, .origin.accepted = m->origin.accepted };
    copy->env.sender = str_dup(b->a, m->env.sender);
    copy->origin.tenant = str_dup(b->a, m->origin.tenant);
    copy->origin.stream = str_dup(b->a, m->origin.stream);
    copy->origin.login = str_dup(b->a, m->origin.login);
    copy->origin.client = str_dup(b->a, m->origin.client);
    copy->origin.listener = str_dup(b->a, m->origin.listener);
    copy->env.rcpt = rcpt;
    copy->env.nrcpt = m->env.nrcpt;
    for (size_t i = 0; i < m->env.nrcpt; i++) {
        states[i] = state[i];
        states[i].reply = state[i].status == RCPT_WAITING ? str_dup(b->a, state[i].reply) : S("");
        states[i].remote = S("");
        rcpt[i].to = str_dup(b->a, m->env.rcpt[i].to);
    }
    b->m[b->n] = copy;
    b->state[b->n++] = states;
    return b->n == BATCH ? batch_send(l, worker) : OK;
}

static err load_backlog(void *relay)
{
    struct relay *r = relay;
    struct loader l = { .relay = r, .settings = relay_newest(r), .thread = thread_self() };
    when start = clock_now();

    l.open = mem_new(r->nworker * sizeof *l.open);
    err e = spool_load(r->spool, load_one, &l, &r->loaded);
    for (unsigned i = 0; i < r->nworker; i++)
        batch_send(&l, i);
    while (l.under_way)
        waiters_wait_steady(&l.room);   /* `l` is on our stack: they have to come back, cancelled or not */
    mem_free(l.open);
    snapshot_drop(&l.settings->snapshot);
    r->loading = false;
    if (machine == &machine_linux) /* from now on mail goes before what people are told, which is this thread's work */
        setpriority(PRIO_PROCESS, (id_t)gettid(), 10);
    if (e == OK)
        spool_may_move(r->spool, true);
    if (e != OK && e != E_CANCELED)
        log_error("backlog_not_loaded", LOG_STR("reason", err_text()));
    else
        log_info("backlog_loaded", LOG_INT("messages", r->loaded.messages), LOG_INT("ended", r->loaded.ended),
                 LOG_INT("damaged", r->loaded.damaged), LOG_INT("took_us", clock_now() - start));
    return e;
}

/* ---- messages that compaction moved ---- */

/* Every worker looks whether they are its own, twice: what was on its way to a queue in the first round (accepted just now, or handed from
 * one thread to another) is there in the second. After its second look a worker makes durable what it noted before. */
struct moving {
    struct moving *next;        /* in relay.moving, under its lock */
    struct relay *relay;
    size_t n;
    _Atomic unsigned left;      /* workers, of this round */
    unsigned round;
    struct spool_move *move[];
};
struct moving_look { struct post post; struct moving *moving; struct worker *w; };

static void moving_end(struct moving *m)
{
    for (size_t i = 0; i < m->n; i++)
        spool_move_done(m->move[i]);
    mem_free(m);
}

static void moving_forget(struct moving *m)
{
    struct relay *r = m->relay;

    pthread_mutex_lock(&r->lock);
    struct moving **at = &r->moving;
    while (*at != m)
        at = &(*at)->next;
    *at = m->next;
    pthread_mutex_unlock(&r->lock);
    moving_end(m);
}

static void moving_round(struct moving *m);

/* First those that were told of their message's place have their turn, to put it where we look. */
static err moving_look(void *arg)
{
    struct moving_look *l = arg;
    struct moving *m = l->moving;
    struct worker *w = l->w;

    mem_free(l);
    spool_catch_up(w->port);
    for (size_t i = 0; i < m->n; i++)
        queue_moved(w->queue, m->move[i]);
    if (m->round == 2)
        while (spool_flush(w->port) != OK)
            TRY(task_sleep(clock_now() + SECOND)); /* we end: so does the relay, and the moves with it */
    if (atomic_fetch_sub(&m->left, 1) != 1)
        return OK;
    if (m->round == 1)
        moving_round(m);
    else
        moving_forget(m);
    return OK;
}

static void moving_arrived(struct post *p)
{
    struct moving_look *l = AROUND(p, struct moving_look, post);

    /* Without a look the moves are never over: their segments stay pinned until the next start, which does the rest. */
    if (l->w->ending || group_spawn(thread_group(), "moved", moving_look, l) != OK)
        mem_free(l);
}

static void moving_round(struct moving *m)
{
    struct relay *r = m->relay;

    m->round++;
    atomic_store(&m->left, r->nworker);
    for (unsigned i = 0; i < r->nworker; i++) { /* with the last post all may be over: `m` is not ours any more */
        struct moving_look *l = mem_new(sizeof *l);
        struct thread *to = r->worker[i].thread;
        *l = (struct moving_look){ .post.run = moving_arrived, .moving = m, .w = &r->worker[i] };
        thread_post(to, &l->post);
    }
}

static void moved(void *ctx, struct spool_move *const *moves, size_t n)
{
    struct relay *r = ctx;
    struct moving *m = mem_new(sizeof *m + n * sizeof m->move[0]);

    *m = (struct moving){ .relay = r, .n = n };
    memcpy(m->move, moves, n * sizeof m->move[0]);
    pthread_mutex_lock(&r->lock);
    m->next = r->moving;
    r->moving = m;
    pthread_mutex_unlock(&r->lock);
    moving_round(m);
}

/* ---- start and end ---- */

/* A name for this installation that no other has, in the spool's directory: how a message that comes round is known. */
static err instance_load(struct relay *r, str dir)
{
    AUTO_ARENA a = arena_new();
    int d = machine->file_open(AT_FDCWD, str_cz(a, dir), O_RDONLY | O_DIRECTORY, 0);
    uint64_t id = 0;

    if (d < 0)
        return fail_errno(-d, "%.*s", STR(dir));
    int fd = machine->file_open(d, "instance", O_RDWR | O_CREAT, 0600);
    if (fd >= 0) {
        if (machine->file_read(fd, &id, sizeof id, 0) != sizeof id || id == 0) {
            id = random_u64() | 1;
            machine->file_write(fd, &(struct iovec){ &id, sizeof id }, 1, 0);
            machine->file_sync(fd);
            machine->file_sync_all(d);
        }
        machine->close(fd);
    }
    machine->close(d);
    if (fd < 0)
        return fail_errno(-fd, "%.*s/instance", STR(dir));
    r->instance = id;
    return OK;
}

static err serve_control(void *relay)
{
    struct relay *r = relay;

    return control_serve(r->setup.control_fd, r);
}

/* A reload asked for by a signal; its diagnostics go to the log. */
static void reload_by_signal(struct relay *r)
{
    AUTO_BUF text = { 0 };

    relay_reload(r, &text, NULL);
    str rest = buf_str(&text), line;
    while (str_cut(&rest, S("\n"), &line))
        if (line.n)
            log_warn("configuration", LOG_STR("text", line));
}

static err stop_worker(struct worker *w, void *arg)
{
    (void)arg;
    w->stopping = true;
    waiters_wake_all(&w->stop);
    return OK;
}

static err watch_quit(void *relay)
{
    struct relay *r = relay;

    while (!r->quit_asked)
        TRY(waiters_wait(&r->quit, NEVER));
    kill(getpid(), SIGTERM); /* one way down for all who ask */
    return OK;
}

static err watchdog(void *arg)
{
    (void)arg;
    for (when every = notify_watchdog(); every;) {
        notify_service("WATCHDOG=1");
        TRY(task_sleep(clock_now() + every));
    }
    return OK;
}

static err run_until_told(struct relay *r)
{
    static const int signals[] = { SIGTERM, SIGINT, SIGHUP, SIGUSR1 };

    for (;;) {
        int number;
        TRY(signals_wait(signals, COUNT(signals), NEVER, &number));
        if (number == SIGHUP)
            reload_by_signal(r);
        else if (number == SIGUSR1)
            log_reopen();
        else
            return OK;
    }
}

/* ---- what is asked over HTTP ---- */

static void answer_http(void *relay, const struct http_question *q, struct http_answer *ret)
{
    if (str_eq(q->path, S("/metrics")))
        metrics_answer(relay, q, ret);
    else
        health_answer(relay, q, ret);
}

static err tidy_http(void *relay)
{
    for (;;) {
        http_tidy(((struct relay *)relay)->http);
        TRY(task_sleep(clock_now() + SECOND / 2));
    }
}

/* Nobody posts a client or a message to a worker that has not made what they go to. */
static err has_begun(struct worker *w, void *none)
{
    (void)none;
    while (!w->dispatch)
        TRY(task_sleep(clock_now() + MILLISECOND));
    return OK;
}

static void workers_begin(struct relay *r)
{
    struct settings *s = r->newest;

    r->nworker = s->threads ? (unsigned)s->threads : (unsigned)MAX(sysconf(_SC_NPROCESSORS_ONLN), 1);
    r->worker = mem_new(r->nworker * sizeof *r->worker);
    standing_load(r);
    for (unsigned i = 0; i < r->nworker; i++) {
        struct worker *w = &r->worker[i];
        char name[16];
        *w = (struct worker){ .relay = r, .number = i, .snap = snapshot_hold(&s->snapshot) };
        snprintf(name, sizeof name, "worker-%u", i);
        w->thread = thread_start(name, worker_main, w);
    }
    for (unsigned i = 0; i < r->nworker; i++)
        worker_call(&r->worker[i], has_begun, NULL);
}

static void listeners_begin(struct relay *r)
{
    r->listener = mem_new(MAX(r->setup.nlistening, 1) * sizeof *r->listener);
    for (size_t i = 0; i < r->setup.nlistening; i++) {
        struct listening *l = &r->setup.listening[i];
        r->listener[r->nlistener++] = (struct relay_listener){ .addr = l->addr, .name = name_keep(r, l->name), .fd = l->fd, .inherited = l->inherited };
        r->listener[i].where = where_of(r, &r->listener[i]);
        listener_begin(r, &r->listener[i]);
    }
    r->serving = true;
}

/* The relay's own tasks, until it is told to end. */
static void run_tasks(struct relay *r)
{
    AUTO_GROUP g = group_open(NEVER);

    group_spawn(&g, "backlog", load_backlog, r);
    group_spawn(&g, "watchdog", watchdog, r);
    group_spawn(&g, "quit", watch_quit, r);
    group_spawn(&g, "standing", standing_keep, r);
    group_spawn(&g, "http", tidy_http, r);
    if (r->setup.control_fd >= 0)
        group_spawn(&g, "control", serve_control, r);
    notify_service("READY=1\nSTATUS=relaying");
    run_until_told(r);
    notify_service("STOPPING=1\nSTATUS=finishing what is under way");
    log_info("draining");
    r->draining = true;
}

static void workers_end(struct relay *r)
{
    standing_save(r);
    spool_may_move(r->spool, false);
    ask_end(r);
    for (unsigned i = 0; i < r->nworker; i++)
        worker_call(&r->worker[i], stop_worker, NULL);
    for (unsigned i = 0; i < r->nworker; i++)
        thread_join(r->worker[i].thread);
    while (r->moving) { /* nobody is left who would look */
        struct moving *m = r->moving;
        r->moving = m->next;
        moving_end(m);
    }
}

static void relay_free(struct relay *r)
{
    standing_clear(&r->before);
    mem_free(r->worker);
    mem_free(r->listener);
    for (size_t i = 0; i < r->nname; i++)
        mem_free(r->name[i]);
    mem_free(r->name);
    snapshot_drop(&r->newest->snapshot);
}

err relay_run(void *relay_setup)
{
    struct relay r = { .setup = *(struct relay_setup *)relay_setup, .started = clock_now(), .lock = PTHREAD_MUTEX_INITIALIZER, .asking = PTHREAD_MUTEX_INITIALIZER,
                       .thread = thread_self() };
    struct settings *s = r.newest = r.setup.settings;

    s->snapshot.epoch = 1;
    TRY(open_relay_test(s));
    s->spool.moved = moved;
    s->spool.ctx = &r;
    TRY(during(spool_open(&s->spool, &r.spool), "opening the spool"));
    TRY(instance_load(&r, s->spool.dir));
    TRY(during(resolver_open(&s->dns, &r.resolver), "looking up names"));
    r.standing.pool = pool_start("standing", 1);
    workers_begin(&r);
    /* SQLite knows nothing of the machine that a simulation is. */
    if (s->trace.retention && machine == &machine_linux && store_open(&s->trace, s->spool.min_free, &r.store) != OK)
        log_error("trace_store_failed", LOG_STR("why", err_text()));
    r.http = http_new(&(struct http_setup){ .answer = answer_http, .ctx = &r });
    r.loading = true;
    listeners_begin(&r);
    log_info("started", LOG_STR("hostname", s->snapshot.receive.hostname), LOG_INT("threads", r.nworker), LOG_STR("spool", s->spool.dir));
    incidents_configure(&r, s);
    run_tasks(&r);
    workers_end(&r);
    http_free(r.http);
    if (r.store)
        store_close(r.store);
    resolver_close(r.resolver);
    spool_close(r.spool);
    pool_stop(r.standing.pool);
    log_info("stopped");
    relay_free(&r);
    return OK;
}
