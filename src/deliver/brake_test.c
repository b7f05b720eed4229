/* What becomes of mail whose recipients a backend refuses although our own list knows them; and of its lifetime while its lane is frozen. */
#include "deliver/inside.h"
#include "kit/kit.h"

#include <stdio.h>
#include <time.h>

struct scene {
    struct backend one;
    struct backend *backends[1];
    struct relay_domain domain, *domains[1];
    struct table *table[1];
    when steps[1];
    struct snapshot snap;
    struct spool *spool;
    struct spool_port *port;
    struct dispatch *d;
    unsigned expired;
    struct site_host host;      /* where MX records lead */
};
static struct snapshot *newest(void *ctx) { return snapshot_hold(&((struct scene *)ctx)->snap); }
static void snap_end(struct snapshot *s) { (void)s; }
static void lane_ready(void *ctx, struct lane *lane) { (void)ctx, (void)lane; }
static void resolve(void *ctx, struct lane *lane) { (void)ctx, (void)lane; }
static void nobody(void *ctx, struct ticket *t) { (void)ctx, (void)t; }
static void went_expired(void *ctx, struct ticket *t) { (void)t; ((struct scene *)ctx)->expired++; }

/* A backend of its own each time, of a domain with the one list entry known*@a.example. */
static void scene_open(struct scene *s)
{
    static int n;
    static char name[32];
    char path[300];

    snprintf(path, sizeof path, "%s/list", kit_dir());
    FILE *f = fopen(path, "w");
    must(f && fputs("known*@a.example\n", f) >= 0 && fclose(f) == 0);
    snprintf(name, sizeof name, "braked-%d", n++);
    *s = (struct scene){ .one = { .name = str_z(name), .max_connections = 1, .braking = { 20, 5 * MINUTE } }, .steps = { MINUTE } };
    s->one.brake = brake_of(s->one.name);
    s->backends[0] = &s->one;
    s->domains[0] = &s->domain;
    s->domain.backend = &s->one;
    s->domain.recipients.table = s->table;
    s->domain.recipients.ntable = 1;
    must(table_file_open(str_z(path), 0, 100, &s->table[0]) == OK);
    s->snap = (struct snapshot){ .holders = 1, .end = snap_end, .retry = { .step = { s->steps, 1 }, .lifetime = HOUR, .hold_max = 30 * DAY },
                                 .routes = { .backend = s->backends, .nbackend = 1, .fallback = &s->one, .domain = s->domains, .ndomain = 1 },
                                 .receive = { .hostname = S("mx.example.net"), .postmaster = S("postmaster@example.net") } };
    s->snap.routes.exact.fold = true;
    map_put(&s->snap.routes.exact, S("a.example"), &s->domain);
    must(spool_open(&(struct spool_setup){ .dir = str_z(kit_dir()), .segment = 1 << 20 }, &s->spool) == OK);
    s->port = spool_port_open(s->spool);
    struct queue *q = queue_new(&(struct queue_setup){ .port = s->port, .retry = &s->snap.retry, .routes = &s->snap.routes, .body_budget = 1 << 20,
                                                      .ready = lane_ready, .resolve = resolve, .expired = went_expired, .unroutable = nobody, .ctx = s });
    s->d = mem_new(sizeof *s->d);
    s->d->setup = (struct dispatch_setup){ .newest = newest, .ctx = s, .queue = q, .port = s->port, .threads = 1, .most_connections = 64 };
    list_init(&s->d->settle);
    s->d->setup.reception = reception_new(&(struct reception_setup){ .newest = newest, .ctx = s, .queue = q, .spool = s->spool, .port = s->port, .threads = 1 });
}

static void scene_close(struct scene *s)
{
    heap_free(&s->d->down); /* it holds lanes */
    queue_free(s->d->setup.queue);
    reception_free(s->d->setup.reception);
    mem_free(s->d);
    spool_port_close(s->port);
    spool_close(s->spool);
    map_free(&s->snap.routes.exact);
    table_free(s->table[0]);
}

static struct lane *lane_of(struct scene *s) { return queue_lane(s->d->setup.queue, 0); }

/* A mail to one recipient, on its way; its ticket. */
static struct ticket *fly(struct scene *s, struct flight *f, str to)
{
    arena *a = arena_new();
    struct message *m = NEW(a, struct message);

    m->id = ulid_new();
    m->origin.accepted = wall_now();
    m->env.rcpt = NEW_ARRAY(a, struct rcpt, 1);
    m->env.nrcpt = 1;
    m->env.rcpt[0].to = m->env.rcpt[0].given = to;
    struct spool_slab *slab = spool_slab_new(4096);
    buf_add(&slab->body, S("Subject: x\r\n\r\nhello\r\n"));
    scan_init(&m->scan);
    scan_feed(&m->scan, buf_str(&slab->body));
    scan_end(&m->scan);
    must(spool_accept(s->port, a, m, slab) == OK);
    queue_add(s->d->setup.queue, mail_new(a, m, slab));
    struct ticket *t = queue_find(s->d->setup.queue, m->id);
    if (t->lane->kind == LANE_DOMAIN)
        queue_site(t->lane, &(struct site){ .kind = SITE_HOSTS, .host = &s->host, .n = 1, .ttl = 300 });
    CHECK_ERR(flight_load(s->d, lane_take_this(t), f), OK);
    f->offered = true;
    return t;
}

static void answered(struct scene *s, struct flight *f, unsigned code, enum answer_stage stage)
{
    f->out[0] = (struct answer){ .reply = { .code = (uint16_t)code, .text = S("so") }, .stage = stage, .settled = true };
    flight_settle(s->d, f, FLIGHT_ANSWERED, S("no answer"), S("hop"));
}

/* The same for one that was kept. */
static void again(struct scene *s, struct ticket *t, unsigned code)
{
    struct flight f;

    CHECK(ticket_retry(t));
    CHECK_ERR(flight_load(s->d, lane_take_this(t), &f), OK);
    f.offered = true;
    answered(s, &f, code, STAGE_RCPT);
}

static uint64_t failed(void) { return stats_mine()->counter[COUNT_failed]; }

TASK_TEST(refused_though_known_is_kept_and_believed_when_others_are_taken)
{
    struct scene s;
    struct flight f;
    uint64_t before = failed();

    scene_open(&s);
    struct ticket *t = fly(&s, &f, S("known1@a.example"));
    answered(&s, &f, 550, STAGE_RCPT);
    CHECK(t->state == TICKET_WAITING && t->attempts == 0 && t->doubt);
    CHECK(str_has(ticket_why(t).reason, S("our own lists know it")), ticket_why(t).reason);
    again(&s, t, 550);
    CHECK(t->state == TICKET_WAITING); /* nobody else was taken */
    CHECK_INT((int64_t)(failed() - before), 0);
    fly(&s, &f, S("nobody@a.example")); /* our list does not know it: no doubt */
    answered(&s, &f, 550, STAGE_RCPT);
    CHECK_INT((int64_t)(failed() - before), 1);
    t->since -= 10;
    fly(&s, &f, S("known2@a.example"));
    answered(&s, &f, 250, STAGE_DOT);
    again(&s, t, 550);
    CHECK_INT((int64_t)(failed() - before), 2);
    CHECK_INT((int64_t)queue_totals(s.d->setup.queue).messages, 0);
    scene_close(&s);
}

TASK_TEST(refused_by_a_backend_without_a_brake_or_a_list_is_over)
{
    struct scene s;
    struct flight f;
    uint64_t before = failed();

    scene_open(&s);
    s.one.braking.least = 0;
    fly(&s, &f, S("known1@a.example"));
    answered(&s, &f, 550, STAGE_RCPT);
    s.one.braking.least = 20;
    s.domain.recipients.any = true;
    fly(&s, &f, S("known1@a.example"));
    answered(&s, &f, 550, STAGE_RCPT);
    CHECK_INT((int64_t)(failed() - before), 2);
    scene_close(&s);
}

TASK_TEST(soft_bounce_makes_4xx_of_5xx)
{
    for (int which = 0; which < 2; which++) {
        struct scene s;
        struct flight f;
        uint64_t before = failed();
        scene_open(&s);
        s.one.braking.least = 0;
        s.one.soft_bounce = which == 0;
        s.snap.reports.soft_bounce = which == 1;
        struct ticket *t = fly(&s, &f, S("known1@a.example"));
        answered(&s, &f, 550, STAGE_DOT);
        CHECK(t->state == TICKET_WAITING && t->attempts == 1);
        CHECK_INT((int64_t)(failed() - before), 0);
        scene_close(&s);
    }
}

/* The cut-over: nobody is returned, the lane freezes, and the mail goes when the backend is well again. */
TASK_TEST(a_backend_that_refuses_all_is_frozen_and_its_mail_kept)
{
    struct scene s;
    struct flight f;
    struct ticket *t[30];
    uint64_t before = failed();

    scene_open(&s);
    for (int i = 0; i < 30; i++) {
        char to[32];
        snprintf(to, sizeof to, "known%d@a.example", i);
        t[i] = fly(&s, &f, str_z(to));
        answered(&s, &f, 550, STAGE_RCPT);
        CHECK_INT(lane_of(&s)->frozen, i >= 19);
        if (i == 19) {
            CHECK(t[i]->state == TICKET_READY && t[0]->state == TICKET_WAITING);
            break;
        }
    }
    CHECK(lane_of(&s)->frozen && lane_of(&s)->frozen_by == INCIDENT_REFUSES);
    CHECK_INT((int64_t)(failed() - before), 0);
    CHECK_INT((int64_t)queue_totals(s.d->setup.queue).messages, 20);
    for (int i = 0; i < 5000 && !incident_is_open(INCIDENT_REFUSES, s.one.name); i++) /* it is tried, and has no servers */
        task_sleep(clock_now() + MILLISECOND);
    CHECK(incident_is_open(INCIDENT_REFUSES, s.one.name));
    brake_said(s.d, lane_of(&s), BRAKE_TAKEN);
    CHECK(!incident_is_open(INCIDENT_REFUSES, s.one.name) && lane_of(&s)->state == LANE_OPEN && !lane_braked(lane_of(&s)));
    again(&s, t[0], 550);
    CHECK(t[0]->state == TICKET_WAITING); /* whoever was refused before it went off gets the doubt again */
    CHECK_INT((int64_t)(failed() - before), 0);
    scene_close(&s);
}

/* ---- relay_domain { via mx } ---- */

static struct { enum said said; unsigned asked; str host; bool own; } fake;

static enum said fake_probe(const struct backend *b, const struct own *own, str ehlo, const struct inquiry *q, when deadline, bool *refused)
{
    (void)ehlo, (void)q, (void)deadline;
    fake.asked++;
    fake.host = b->server[0].host;
    fake.own = own != NULL;
    *refused = fake.said == SAID_ABSENT;
    return fake.said;
}

static void scene_mx(struct scene *s, const char *host)
{
    scene_open(s);
    s->one.mx = true;
    s->one.brake = NULL;
    s->one.name = S("mx");
    s->host = (struct site_host){ str_z(host), 10 };
    callout_probe = fake_probe;
    fake.asked = 0;
}

static void ask_comes(unsigned n)
{
    for (int i = 0; i < 5000 && fake.asked < n; i++)
        task_sleep(clock_now() + MILLISECOND);
    task_sleep(clock_now() + MILLISECOND); /* and is heard */
    CHECK_INT(fake.asked, n);
}

TASK_TEST(a_site_that_refuses_all_is_frozen_for_relay_domains_alone)
{
    struct scene s;
    struct flight f;
    struct ticket *t = NULL, *first = NULL;
    uint64_t before = failed();
    str subject = S("mx:mx1.b.example");

    scene_mx(&s, "mx1.b.example");
    uint32_t made = brakes_made;
    for (int i = 0; i < 30; i++) { /* strangers' domains, and whom our lists do not know: nobody doubts that */
        fly(&s, &f, i % 2 ? S("known1@elsewhere.example") : S("nobody@a.example"));
        answered(&s, &f, 550, STAGE_RCPT);
    }
    CHECK_INT((int64_t)(failed() - before), 30);
    CHECK(brakes_made == made && !brake_find(subject));
    fake.said = SAID_ABSENT;
    for (int i = 0; i < 20; i++) {
        char to[32];
        snprintf(to, sizeof to, "known%d@a.example", i);
        t = fly(&s, &f, str_z(to));
        first = first ? first : t;
        CHECK_STR(t->lane->name, S("mx:mx1.b.example:relay"));
        answered(&s, &f, 550, STAGE_RCPT);
        CHECK_INT(t->lane->frozen, i >= 19);
    }
    struct lane *lane = t->lane;
    CHECK(lane->frozen && lane->frozen_by == INCIDENT_REFUSES && str_starts(lane_reason(lane), subject), lane_reason(lane));
    CHECK_INT((int64_t)(failed() - before), 30);
    ask_comes(1);
    CHECK(fake.own && str_eq(fake.host, S("mx1.b.example")), S("MX records may name what is ours"));
    CHECK(incident_is_open(INCIDENT_REFUSES, subject));
    CHECK_INT((int64_t)lane->sending->trials, 0);

    /* Others' mail goes to the same hosts meanwhile, and is believed to be refused. */
    t = fly(&s, &f, S("ann@elsewhere.example"));
    CHECK(t->lane->state == LANE_OPEN && !lane_braked(t->lane));
    CHECK_STR(t->lane->name, subject);
    answered(&s, &f, 550, STAGE_RCPT);
    CHECK_INT((int64_t)(failed() - before), 31);

    fake.said = SAID_FOUND;
    brake_said(s.d, lane, BRAKE_TAKEN);
    CHECK(!incident_is_open(INCIDENT_REFUSES, subject) && lane->state == LANE_OPEN && !lane_braked(lane));
    again(&s, first, 550);
    CHECK(first->state == TICKET_WAITING); /* whoever was refused before it went off gets the doubt again */
    CHECK_INT((int64_t)(failed() - before), 31);
    scene_close(&s);
    CHECK(!brake_find(subject));
}

TASK_TEST(refused_at_a_site_is_believed_when_others_are_taken_and_where_too_many_are_doubted)
{
    struct scene s;
    struct flight f;
    uint64_t before = failed();

    scene_mx(&s, "mx2.b.example");
    struct ticket *t = fly(&s, &f, S("known1@a.example"));
    answered(&s, &f, 550, STAGE_RCPT);
    CHECK(t->state == TICKET_WAITING && t->doubt);
    CHECK(str_has(ticket_why(t).reason, S("refused by mx:mx2.b.example although")), ticket_why(t).reason);
    t->since -= 10;
    fly(&s, &f, S("known2@a.example"));
    answered(&s, &f, 250, STAGE_DOT);
    again(&s, t, 550);
    CHECK_INT((int64_t)(failed() - before), 1);
    struct brake *b[BRAKES_EACH];
    char name[32];
    for (size_t i = 0; i < BRAKES_EACH; i++) {
        snprintf(name, sizeof name, "mx:many%zu.example", i);
        b[i] = brake_hold(str_z(name), S("a.example"));
    }
    s.host.host = S("mx3.b.example");
    queue_site(lane_of(&s), &(struct site){ .kind = SITE_HOSTS, .host = &s.host, .n = 1, .ttl = 300 });
    t = fly(&s, &f, S("known3@a.example"));
    CHECK_STR(t->lane->name, S("mx:mx3.b.example:relay"));
    answered(&s, &f, 550, STAGE_RCPT);
    CHECK_INT((int64_t)(failed() - before), 2);
    for (size_t i = 0; i < BRAKES_EACH; i++)
        brake_drop(b[i]);
    scene_close(&s);
}

TASK_TEST(an_operator_ends_a_site_s_brake_and_none_is_made_by_its_name)
{
    struct scene s;
    struct flight f;
    struct ticket *t = NULL;

    scene_mx(&s, "mx4.b.example");
    fake.said = SAID_ABSENT;
    for (int i = 0; i < 20; i++) {
        t = fly(&s, &f, S("known1@a.example"));
        answered(&s, &f, 550, STAGE_RCPT);
    }
    ask_comes(1);
    CHECK(lane_braked(t->lane));
    CHECK(incident_end(INCIDENT_REFUSES, S("mx:mx4.b.example"), S("by an operator")) && !lane_braked(t->lane));
    CHECK(!incident_end(INCIDENT_REFUSES, S("mx:nobody.example"), S("by an operator")) && !brake_find(S("mx:nobody.example")));
    scene_close(&s);
}

/* ---- lifetimes ---- */

/* Six days frozen, by a message that is tried for an hour. Time goes by in that everything began earlier. */
TASK_TEST(six_days_frozen_do_not_count)
{
    static const struct { when hold_max; bool old; } cases[] = { { 30 * DAY, false }, { 6 * DAY, false }, { 5 * DAY, true }, { 0, true } };

    EACH(cases, c) {
        struct scene s;
        struct flight f;
        scene_open(&s);
        s.snap.retry.hold_max = c->hold_max;
        struct ticket *t = fly(&s, &f, S("known1@a.example"));
        flight_free(&f);
        mail_drop(take(t->mail));
        ticket_return(t);
        struct lane *lane = lane_of(&s);
        lane_freeze(lane, INCIDENT_REFUSES, S("it may be in error"), clock_now() + HOUR);
        lane->pauses.p[0].from -= 6 * DAY;
        t->accepted -= 6 * DAY + 10 * MINUTE;
        lane->swept = 0;
        lane_freeze(lane, INCIDENT_REFUSES, S("it may be in error"), clock_now() + HOUR);
        CHECK_INT(s.expired, 0);        /* never without an attempt */
        CHECK_INT((int64_t)lane->pauses.n, 1);
        lane_open(lane);
        CHECK(lane->state == LANE_OPEN && !lane->frozen && lane->pauses.p[0].to);
        CHECK_INT(s.expired, 0);
        CHECK_INT(ticket_too_old(t, t->accepted, wall_now()), c->old);
        lane->swept = 0;
        lane_down(lane, S("nobody listens there"), clock_now() + HOUR); /* the attempt */
        CHECK_INT(s.expired, c->old);
        if (!c->old) { /* and what it has left is what it had left */
            CHECK(ticket_too_old(t, t->accepted - 51 * MINUTE, wall_now()));
            CHECK(!ticket_too_old(t, t->accepted - 49 * MINUTE, wall_now()));
        }
        scene_close(&s);
    }
}

TASK_TEST(a_suspended_lane_lets_no_lifetime_end_and_stays_suspended)
{
    struct scene s;
    struct flight f;

    scene_open(&s);
    struct ticket *t = fly(&s, &f, S("known1@a.example"));
    flight_free(&f);
    ticket_return(t);
    t->accepted -= 2 * HOUR;
    queue_suspend(s.d->setup.queue, s.one.name, clock_now() + HOUR, S("by an operator"));
    CHECK_INT(s.expired, 0);
    lane_down(lane_of(&s), S("a connection that was under way failed"), clock_now());
    lane_open(lane_of(&s));
    CHECK(lane_of(&s)->state == LANE_DOWN && lane_of(&s)->suspended);
    CHECK_STR(lane_reason(lane_of(&s)), S("by an operator"));
    CHECK_INT(s.expired, 0);
    CHECK(queue_resume(s.d->setup.queue, s.one.name));
    CHECK(lane_of(&s)->state == LANE_OPEN);
    scene_close(&s);
}

TASK_TEST(time_held_does_not_count_up_to_hold_max)
{
    struct scene s;
    struct flight f;

    scene_open(&s);
    struct ticket *t = fly(&s, &f, S("known1@a.example"));
    flight_free(&f);
    dispatch_hold(s.d, t, clock_now() + DAY, S("so"));
    t->since -= 3 * HOUR / SECOND; /* as if it had been held for so long */
    CHECK(ticket_remove(t));
    dispatch_release(s.d, t);
    CHECK(!ticket_too_old(t, wall_now() - 3 * HOUR - 30 * MINUTE, wall_now()));
    CHECK(ticket_too_old(t, wall_now() - 4 * HOUR - 2 * MINUTE, wall_now()));
    s.snap.retry.hold_max = HOUR;
    CHECK(ticket_too_old(t, wall_now() - 3 * HOUR, wall_now()));
    scene_close(&s);
}

TASK_TEST(pauses_of_a_lane_are_few_and_those_too_many_become_one)
{
    struct scene s;
    struct flight f;

    scene_open(&s);
    struct ticket *t = fly(&s, &f, S("known1@a.example"));
    flight_free(&f);
    ticket_return(t);
    struct lane *lane = lane_of(&s);
    t->lifetime = (2 * HOUR + 5 * MINUTE) / SECOND;
    for (int i = 0; i < 100; i++) {
        lane_freeze(lane, INCIDENT_NO_WAY, S("so"), clock_now() + HOUR);
        lane_open(lane);
        for (size_t k = 0; k < lane->pauses.n; k++) { /* two hours go by; the pause was one of them */
            lane->pauses.p[k].from -= 2 * HOUR;
            lane->pauses.p[k].to -= 2 * HOUR;
        }
        lane->pauses.p[lane->pauses.n - 1].to += HOUR;
    }
    CHECK(lane->pauses.n <= 16);
    for (size_t k = 1; k < lane->pauses.n; k++)
        CHECK(lane->pauses.p[k - 1].to <= lane->pauses.p[k].from);
    /* The newest are told apart: of the last four hours two were paused, of the last five as many. */
    CHECK(!ticket_too_old(t, wall_now() - 4 * HOUR, wall_now()));
    CHECK(ticket_too_old(t, wall_now() - 5 * HOUR, wall_now()));
    scene_close(&s);
}

TASK_TEST(a_lane_reopens_slowly)
{
    struct scene s;
    struct flight f;

    scene_open(&s);
    struct ticket *t = fly(&s, &f, S("known1@a.example"));
    flight_free(&f);
    ticket_return(t);
    struct lane *lane = lane_of(&s);
    when now = clock_now();
    CHECK(lane_ramp(lane, now) == UINT32_MAX); /* it was never down */
    lane_down(lane, S("so"), now + SECOND);
    lane_open(lane);
    now = lane->opened;
    CHECK_INT(lane_ramp(lane, now), 1);
    CHECK_INT(lane_ramp(lane, now + SECOND), 2);
    CHECK_INT(lane_ramp(lane, now + 5 * SECOND), 32);
    CHECK(lane_ramp(lane, now + MINUTE) == UINT32_MAX);
    scene_close(&s);
}
