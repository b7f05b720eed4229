/* A relay of one backend, without a network. */
#include "deliver/scene_test.h"

struct snapshot *scene_newest(void *ctx) { return snapshot_hold(&((struct scene *)ctx)->snap); }
static void snap_end(struct snapshot *s) { (void)s; }
void scene_ready(void *ctx, struct lane *lane) { (void)lane; ((struct scene *)ctx)->returned++; }
void scene_nobody(void *ctx, struct ticket *t) { (void)ctx, (void)t; }

void scene_open(struct scene *s, str sender, size_t n)
{
    *s = (struct scene){ .one = { .name = S("one"), .max_connections = 1 }, .steps = { MINUTE } };
    s->backends[0] = &s->one;
    s->snap = (struct snapshot){ .holders = 1, .end = snap_end, .retry = { .step = { s->steps, 1 }, .lifetime = HOUR },
                                 .routes = { .backend = s->backends, .nbackend = 1, .fallback = &s->one },
                                 .receive = { .hostname = S("mx.example.net"), .postmaster = S("postmaster@example.net") } };
    must(spool_open(&(struct spool_setup){ .dir = str_z(kit_dir()), .segment = 1 << 20 }, &s->spool) == OK);
    s->port = spool_port_open(s->spool);
    struct queue *q = queue_new(&(struct queue_setup){ .port = s->port, .retry = &s->snap.retry, .routes = &s->snap.routes, .body_budget = 1 << 20,
                                                      .ready = scene_ready, .expired = scene_nobody, .unroutable = scene_nobody, .ctx = s });
    s->d = mem_new(sizeof *s->d);
    s->d->setup = (struct dispatch_setup){ .newest = scene_newest, .ctx = s, .queue = q, .port = s->port, .threads = 1, .most_connections = 64 };
    list_init(&s->d->settle);
    s->d->setup.reception = reception_new(&(struct reception_setup){ .newest = scene_newest, .ctx = s, .queue = q, .spool = s->spool, .port = s->port,
                                                                     .threads = 1 });
    arena *a = arena_new();
    struct message *m = NEW(a, struct message);
    m->id = ulid_new();
    s->id = m->id;
    m->origin.accepted = wall_now();
    m->env.sender = sender;
    m->env.rcpt = NEW_ARRAY(a, struct rcpt, n);
    m->env.nrcpt = n;
    for (size_t i = 0; i < n; i++)
        m->env.rcpt[i].to = m->env.rcpt[i].given = str_printf(a, "u%zu@a.example", i);
    struct spool_slab *slab = spool_slab_new(4096);
    buf_add(&slab->body, S("Subject: x\r\n\r\nhello\r\n"));
    scan_init(&m->scan);
    scan_feed(&m->scan, buf_str(&slab->body));
    scan_end(&m->scan);
    must(spool_accept(s->port, a, m, slab) == OK);
    queue_add(q, mail_new(a, m, slab));
    s->returned = 0;
    CHECK_ERR(flight_load(s->d, lane_take(queue_lane(q, 0)), &s->f), OK);
}

void scene_close(struct scene *s)
{
    flight_free(&s->f);
    queue_free(s->d->setup.queue);
    reception_free(s->d->setup.reception);
    mem_free(s->d);
    spool_port_close(s->port);
    spool_close(s->spool);
}

struct lane *scene_lane(struct scene *s) { return queue_lane(s->d->setup.queue, 0); }

void scene_answer(struct scene *s, size_t i, unsigned code, enum answer_stage stage)
{
    s->f.out[i] = (struct answer){ .reply = { .code = (uint16_t)code, .text = S("so") }, .stage = stage, .settled = true };
}

void scene_offered(struct scene *s, size_t i)
{
    s->f.out[i] = (struct answer){ .reply = { .code = 250, .text = S("rcpt fine") }, .stage = STAGE_RCPT, .offered = true };
}

struct got scene_counts(struct scene *s)
{
    const uint64_t *c = stats_mine()->counter;
    struct queue_totals t = queue_totals(s->d->setup.queue);

    return (struct got){ t.ready, t.waiting, t.messages, c[COUNT_delivered], c[COUNT_failed], c[COUNT_deferred], c[COUNT_unknown], c[COUNT_expired],
                         c[COUNT_reports_dropped], c[COUNT_reports] };
}

struct got scene_since(struct scene *s, const struct got *b)
{
    struct got g = scene_counts(s);

    g.delivered -= b->delivered;
    g.failed -= b->failed;
    g.deferred -= b->deferred;
    g.unknown -= b->unknown;
    g.expired -= b->expired;
    g.dropped -= b->dropped;
    g.reports -= b->reports;
    return g;
}

struct rcpt_state scene_state(struct scene *s, arena *a, struct spool_ref home, size_t i)
{
    struct rcpt_state *st = NULL;
    size_t n = 0;

    CHECK_ERR(spool_flush(s->port), OK);
    if (spool_read_states(s->port, s->id, home, a, &st, &n) != OK || i >= n)
        return (struct rcpt_state){ 0 };
    return st[i];
}

struct ticket *scene_report(struct scene *s, str *text)
{
    struct ticket *t = lane_take(scene_lane(s));

    *text = t && t->mail && t->mail->m->report && t->mail->slab ? buf_str(&t->mail->slab->body) : S("");
    return t;
}
