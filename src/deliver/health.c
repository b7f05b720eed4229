/* Active probes: each server of a backend that wants it is asked with EHLO now and then, by one thread for all. */
#include "deliver/inside.h"

#define ANSWER_MOST (10 * SECOND)   /* a server that takes longer is as good as down */

struct prober {
    struct dispatch *d;
    struct snapshot *snap;
    const struct backend *backend;
    const struct next_hop *server;
    str why;                        /* the last probe failed; in `a` */
    arena *a;
};

static err ask(void *arg)
{
    struct prober *p = arg;
    struct client *c = NULL;
    struct remote remote;
    struct leaving by = { .outlet = p->backend->outlet };
    err e = hop_connect(p->d, p->server, NULL, hop_ehlo(by.outlet, p->snap->receive.hostname), ANSWER_MOST, &by, &remote, &c);

    if (e == OK)
        client_quit(take(c));
    else
        p->why = remote_failed(&remote, p->a);
    if (e != OK && e != E_CANCELED)
        server_said(p->server->state, p->why);
    client_free(c);
    return e;
}

/* In a group of its own, whose deadline covers every wait of it. */
static err probe(struct prober *p)
{
    AUTO_GROUP g = group_open(clock_now() + MIN(p->backend->health.every, ANSWER_MOST));

    arena_reset(p->a);
    p->why = S("no task to ask it with");
    group_spawn(&g, "probe", ask, p);
    return group_wait(&g);
}

static void tell(const struct prober *p, bool well)
{
    str server = str_z(p->server->state->key + p->backend->name.n + 1);

    if (well)
        log_info("server_up", LOG_STR("backend", p->backend->name), LOG_STR("server", server));
    else
        log_warn("server_down", LOG_STR("backend", p->backend->name), LOG_STR("server", server), LOG_STR("reason", p->why));
    if (well && p->d->setup.server_up)
        p->d->setup.server_up(p->d->setup.ctx, p->backend->name);
}

static err prober_run(void *arg)
{
    struct prober *p = arg;
    const struct health *h = &p->backend->health;
    err e = task_sleep(clock_now() + (when)random_below((uint64_t)h->every)); /* not all at once */

    while (e == OK) {
        when began = clock_now();
        bool well = (e = probe(p)) == OK;
        if (task_canceled())
            break;
        if (server_probed(p->server->state, h, well, clock_now()))
            tell(p, well);
        e = task_sleep(began + h->every - h->every / 16 + (when)random_below((uint64_t)h->every / 8 + 1));
    }
    arena_free(p->a);
    snapshot_drop(p->snap);
    mem_free(p);
    return OK;
}

/* All probers of one configuration; the next one's begin when these have been told to end. */
static err probers_run(void *dispatch)
{
    struct dispatch *d = dispatch;
    struct snapshot *snap = d->setup.newest(d->setup.ctx);
    {
        AUTO_GROUP g = group_open(NEVER);
        d->probers = &g;
        for (size_t i = 0; i < snap->routes.nbackend; i++) {
            const struct backend *b = snap->routes.backend[i];
            for (size_t k = 0; b->health.every && !backend_is_pattern(b) && k < b->nserver; k++) {
                struct prober *p = mem_new(sizeof *p);
                *p = (struct prober){ .d = d, .snap = snapshot_hold(snap), .backend = b, .server = &b->server[k], .a = arena_new() };
                if (group_spawn(&g, "prober", prober_run, p) != OK) {
                    log_error("no_probe", LOG_STR("backend", b->name), LOG_STR("reason", err_text()));
                    arena_free(p->a);
                    snapshot_drop(p->snap);
                    mem_free(p);
                }
            }
        }
        group_wait(&g);
        if (d->probers == &g)
            d->probers = NULL;
    }
    snapshot_drop(snap);
    return OK;
}

void dispatch_configure(struct dispatch *d)
{
    if (d->setup.thread == 0) {
        struct snapshot *snap = d->setup.newest(d->setup.ctx);
        limits_apply(&snap->routes);
        snapshot_drop(snap);
    }
    lanes_pace_anew(d);
    if (d->setup.thread != 0) /* one thread asks for all */
        return;
    if (d->probers)
        group_cancel(take(d->probers));
    group_spawn(thread_group(), "probers", probers_run, d);
}
