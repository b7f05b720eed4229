/* What each answer means, and what happens to the ticket. With a real queue, spool and acceptance of reports. */
#include "deliver/inside.h"
#include "kit/kit.h"

/* ---- a relay of one backend, without a network ---- */

struct scene {
    struct backend one;
    struct backend *backends[1];
    when steps[1];
    struct snapshot snap;
    struct spool *spool;
    struct spool_port *port;
    struct dispatch *d;
    struct flight f;
    ulid id;
    unsigned returned;          /* into the open lane */
};
static struct snapshot *newest(void *ctx) { return snapshot_hold(&((struct scene *)ctx)->snap); }
static void snap_end(struct snapshot *s) { (void)s; }
static void lane_ready(void *ctx, struct lane *lane) { (void)lane; ((struct scene *)ctx)->returned++; }
static void nobody(void *ctx, struct ticket *t) { (void)ctx, (void)t; }

/* A flight of mail from `sender` to n recipients u0@a.example ..., as it is when a connection has it. */
static void scene_open(struct scene *s, str sender, size_t n)
{
    *s = (struct scene){ .one = { .name = S("one"), .max_connections = 1 }, .steps = { MINUTE } };
    s->backends[0] = &s->one;
    s->snap = (struct snapshot){ .holders = 1, .end = snap_end, .retry = { .step = { s->steps, 1 }, .lifetime = HOUR },
                                 .routes = { .backend = s->backends, .nbackend = 1, .fallback = &s->one },
                                 .receive = { .hostname = S("mx.example.net"), .postmaster = S("postmaster@example.net") } };
    must(spool_open(&(struct spool_setup){ .dir = str_z(kit_dir()), .segment = 1 << 20 }, &s->spool) == OK);
    s->port = spool_port_open(s->spool);
    struct queue *q = queue_new(&(struct queue_setup){ .port = s->port, .retry = &s->snap.retry, .routes = &s->snap.routes, .body_budget = 1 << 20,
                                                      .ready = lane_ready, .expired = nobody, .unroutable = nobody, .ctx = s });
    s->d = mem_new(sizeof *s->d);
    s->d->setup = (struct dispatch_setup){ .newest = newest, .ctx = s, .queue = q, .port = s->port, .threads = 1, .most_connections = 64 };
    list_init(&s->d->settle);
    s->d->setup.reception = reception_new(&(struct reception_setup){ .newest = newest, .ctx = s, .queue = q, .spool = s->spool, .port = s->port,
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

static void scene_close(struct scene *s)
{
    flight_free(&s->f);
    queue_free(s->d->setup.queue);
    reception_free(s->d->setup.reception);
    mem_free(s->d);
    spool_port_close(s->port);
    spool_close(s->spool);
}

static struct lane *lane_of(struct scene *s) { return queue_lane(s->d->setup.queue, 0); }

static void answer(struct scene *s, size_t i, unsigned code, enum answer_stage stage)
{
    s->f.out[i] = (struct answer){ .reply = { .code = (uint16_t)code, .text = S("so") }, .stage = stage, .settled = true };
}

/* RCPT was accepted, and nothing is settled. */
static void offered(struct scene *s, size_t i)
{
    s->f.out[i] = (struct answer){ .reply = { .code = 250, .text = S("rcpt fine") }, .stage = STAGE_RCPT, .offered = true };
}

struct got { size_t ready, waiting, messages; uint64_t delivered, failed, deferred, unknown, expired, dropped, reports; };

static struct got counts(struct scene *s)
{
    const uint64_t *c = stats_mine()->counter;
    struct queue_totals t = queue_totals(s->d->setup.queue);

    return (struct got){ t.ready, t.waiting, t.messages, c[COUNT_delivered], c[COUNT_failed], c[COUNT_deferred], c[COUNT_unknown], c[COUNT_expired],
                         c[COUNT_reports_dropped], c[COUNT_reports] };
}

static struct got since(struct scene *s, const struct got *b)
{
    struct got g = counts(s);

    g.delivered -= b->delivered;
    g.failed -= b->failed;
    g.deferred -= b->deferred;
    g.unknown -= b->unknown;
    g.expired -= b->expired;
    g.dropped -= b->dropped;
    g.reports -= b->reports;
    return g;
}

/* What the spool was told of recipient i, as text in `a`: after all notes are on disk. */
static struct rcpt_state state_of(struct scene *s, arena *a, struct spool_ref home, size_t i)
{
    struct rcpt_state *st = NULL;
    size_t n = 0;

    CHECK_ERR(spool_flush(s->port), OK);
    if (spool_read_states(s->port, s->id, home, a, &st, &n) != OK || i >= n)
        return (struct rcpt_state){ 0 };
    return st[i];
}

/* The report that lies in the queue, taken from it: its text, in the arena of what it returns. */
static struct ticket *report_of(struct scene *s, str *text)
{
    struct ticket *t = lane_take(lane_of(s));

    *text = t && t->mail && t->mail->m->report && t->mail->slab ? buf_str(&t->mail->slab->body) : S("");
    return t;
}

/* ---- one recipient: each code at each stage ---- */

TASK_TEST(outcome_is_what_the_code_says_at_every_stage)
{
    static const enum answer_stage stages[] = { STAGE_MAIL, STAGE_RCPT, STAGE_DATA, STAGE_DOT };
    static const struct { unsigned code; bool failed; } codes[] = {
        { 421 }, { 450 }, { 451 }, { 452 }, { 499 }, { 500, true }, { 550, true }, { 552, true }, { 554, true },
    };
    EACH(stages, stage) {
        EACH(codes, c) {
            struct scene s;
            scene_open(&s, S(""), 1);
            struct got before = counts(&s);
            answer(&s, 0, c->code, *stage);
            flight_settle(s.d, &s.f, FLIGHT_ANSWERED, S("no answer"), S("hop"));
            struct got g = since(&s, &before);
            CHECK_INT((int64_t)g.failed, c->failed);
            CHECK_INT((int64_t)g.deferred, !c->failed);
            CHECK_INT((int64_t)g.waiting, !c->failed);
            CHECK_INT((int64_t)g.messages, !c->failed);
            CHECK_INT((int64_t)g.ready, 0);
            CHECK_INT((int64_t)(g.delivered + g.unknown + g.expired + g.reports), 0);
            CHECK_INT((int64_t)g.dropped, c->failed); /* the null sender is told nothing */
            scene_close(&s);
        }
    }
}

TASK_TEST(outcome_of_2xx_to_the_dot_is_the_end)
{
    struct scene s;

    scene_open(&s, S("ann@a.example"), 1);
    struct got before = counts(&s);
    answer(&s, 0, 250, STAGE_DOT);
    flight_settle(s.d, &s.f, FLIGHT_ANSWERED, S("no answer"), S("hop"));
    struct got g = since(&s, &before);
    CHECK_INT((int64_t)g.delivered, 1);
    CHECK_INT((int64_t)g.messages, 0);
    CHECK_INT((int64_t)g.reports, 0);
    scene_close(&s);
}

/* RFC 5321 4.5.3.1.10: 452 (and 552 of old) to a later RCPT means the next transaction, but only when this one took somebody. */
TASK_TEST(outcome_of_too_many_recipients_is_another_transaction_at_once)
{
    static const struct { unsigned code, first; size_t ready, waiting, messages; } cases[] = {
        { 452, 250, 1, 0, 1 }, { 552, 250, 1, 0, 1 }, { 451, 250, 0, 1, 1 }, { 550, 250, 0, 0, 0 },
        { 452, 451, 0, 1, 1 }, { 552, 550, 0, 0, 0 },
    };
    EACH(cases, c) {
        struct scene s;
        scene_open(&s, S(""), 3);
        answer(&s, 0, c->first, STAGE_DOT);
        answer(&s, 1, c->code, STAGE_RCPT);
        answer(&s, 2, c->code, STAGE_RCPT);
        flight_settle(s.d, &s.f, FLIGHT_ANSWERED, S("no answer"), S("hop"));
        struct got g = counts(&s);
        CHECK_INT((int64_t)g.ready, (int64_t)c->ready);
        CHECK_INT((int64_t)g.waiting, (int64_t)c->waiting);
        CHECK_INT((int64_t)g.messages, (int64_t)c->messages);
        if (g.ready) {
            struct ticket *t = lane_take(lane_of(&s));
            CHECK_INT(ticket_count(t), 2);
            CHECK(!ticket_has(t, 0));
            CHECK_INT(t->attempts, 0); /* it was none for them */
            ticket_done(t);
        }
        scene_close(&s);
    }
}

TASK_TEST(outcome_splits_a_ticket_by_what_became_of_each)
{
    struct scene s;
    AUTO_ARENA a = arena_new();

    scene_open(&s, S(""), 5);
    struct got before = counts(&s);
    struct spool_ref home = s.f.t->home;
    answer(&s, 0, 250, STAGE_DOT);
    answer(&s, 1, 550, STAGE_RCPT);
    answer(&s, 2, 450, STAGE_RCPT);
    answer(&s, 3, 452, STAGE_RCPT);
    answer(&s, 4, 250, STAGE_DOT);
    flight_settle(s.d, &s.f, FLIGHT_ANSWERED, S("no answer"), S("hop"));
    struct got g = since(&s, &before);
    CHECK_INT((int64_t)g.delivered, 2);
    CHECK_INT((int64_t)g.failed, 1);
    CHECK_INT((int64_t)g.deferred, 1);
    CHECK_INT((int64_t)g.ready, 1);
    CHECK_INT((int64_t)g.waiting, 1);
    CHECK_INT((int64_t)g.messages, 1);
    static const enum rcpt_status want[] = { RCPT_DELIVERED, RCPT_FAILED, RCPT_WAITING, RCPT_WAITING, RCPT_DELIVERED };
    for (size_t i = 0; i < COUNT(want); i++)
        CHECK_INT(state_of(&s, a, home, i).status, want[i]);
    struct ticket *t = lane_take(lane_of(&s));
    CHECK(ticket_count(t) == 1 && ticket_has(t, 3));
    CHECK(t->sibling != t && ticket_has(t->sibling, 2) && ticket_count(t->sibling) == 1);
    ticket_done(t);
    scene_close(&s);
}

/* ---- the line broke ---- */

TASK_TEST(attack_53_outcome_of_a_line_that_died)
{
    static const struct { enum flight_end end; bool offered; uint64_t unknown, deferred; size_t ready, waiting; } cases[] = {
        { FLIGHT_UNKNOWN, true, 1, 0, 0, 1 },       /* it may have it */
        { FLIGHT_UNKNOWN, false, 0, 1, 0, 1 },      /* it cannot have it */
        { FLIGHT_BROKEN, true, 0, 1, 0, 1 },
        { FLIGHT_NOT_TRIED, false, 0, 0, 1, 0 },
    };
    AUTO_ARENA a = arena_new();
    EACH(cases, c) {
        struct scene s;
        scene_open(&s, S(""), 1);
        struct got before = counts(&s);
        struct spool_ref home = s.f.t->home;
        s.f.server_at = 2;
        if (c->offered)
            offered(&s, 0);
        flight_settle(s.d, &s.f, c->end, S("the line died"), S("hop"));
        struct got g = since(&s, &before);
        CHECK_INT((int64_t)g.unknown, (int64_t)c->unknown);
        CHECK_INT((int64_t)g.deferred, (int64_t)c->deferred);
        CHECK_INT((int64_t)g.ready, (int64_t)c->ready);
        CHECK_INT((int64_t)g.waiting, (int64_t)c->waiting);
        CHECK_INT((int64_t)(g.delivered + g.failed + g.expired), 0);
        struct ticket *t = queue_find(s.d->setup.queue, s.id);
        CHECK(t && t->unknown == c->unknown && t->server == (c->unknown ? 3 : 0));
        if (c->unknown) /* late: the peer may still be at work on it, and a second copy is the worse evil */
            CHECK(ticket_why(t).next >= wall_now() + 14 * MINUTE);
        if (c->waiting) {
            struct rcpt_state st = state_of(&s, a, home, 0);
            CHECK_STR(st.reply, S("the line died")); /* and not the 250 to RCPT, which decided nothing */
            CHECK_INT(st.unknown, c->unknown);
            CHECK_INT(st.attempts, 1);
        }
        scene_close(&s);
    }
}

TASK_TEST(outcome_past_the_lifetime_is_expired)
{
    static const struct { enum flight_end end; unsigned code; bool offered; uint64_t expired, delivered, failed; } cases[] = {
        { FLIGHT_ANSWERED, 451, false, 1, 0, 0 }, { FLIGHT_ANSWERED, 250, false, 0, 1, 0 }, { FLIGHT_ANSWERED, 550, false, 0, 0, 1 },
        { FLIGHT_BROKEN, 0, false, 1, 0, 0 }, { FLIGHT_UNKNOWN, 0, true, 1, 0, 0 }, { FLIGHT_EXPIRED, 0, false, 1, 0, 0 },
    };
    EACH(cases, c) {
        struct scene s;
        scene_open(&s, S("ann@a.example"), 1);
        struct got before = counts(&s);
        s.f.mail->m->origin.accepted -= 2 * HOUR;
        if (c->code)
            answer(&s, 0, c->code, STAGE_DOT);
        else if (c->offered)
            offered(&s, 0);
        flight_settle(s.d, &s.f, c->end, S("why"), S("hop"));
        struct got g = since(&s, &before);
        CHECK_INT((int64_t)g.expired, (int64_t)c->expired);
        CHECK_INT((int64_t)g.delivered, (int64_t)c->delivered);
        CHECK_INT((int64_t)g.failed, (int64_t)c->failed);
        CHECK_INT((int64_t)g.reports, c->delivered ? 0 : 1);
        CHECK_INT((int64_t)g.messages, c->delivered ? 0 : 1); /* the report */
        scene_close(&s);
    }
}

/* ---- who is told ---- */

TASK_TEST(attack_30_reports_go_to_who_asked)
{
    static const struct { str sender; uint8_t notify; unsigned code; bool peer_dsn; uint64_t reports, dropped; } cases[] = {
        { S("ann@a.example"), 0, 550, false, 1, 0 },
        { S("ann@a.example"), NOTIFY_FAILURE, 550, false, 1, 0 },
        { S("ann@a.example"), NOTIFY_FAILURE, 550, true, 1, 0 },
        { S("ann@a.example"), NOTIFY_NEVER, 550, false, 0, 0 },
        { S("ann@a.example"), NOTIFY_SUCCESS | NOTIFY_DELAY, 550, false, 0, 0 },
        { S(""), 0, 550, false, 0, 1 },
        { S(""), NOTIFY_FAILURE, 550, false, 0, 1 },
        { S("ann@a.example"), 0, 250, false, 0, 0 },
        { S("ann@a.example"), NOTIFY_SUCCESS, 250, false, 1, 0 },   /* RFC 3461 5.2.2: "relayed" */
        { S("ann@a.example"), NOTIFY_SUCCESS, 250, true, 0, 0 },    /* the peer took the duty over */
        { S("ann@a.example"), NOTIFY_FAILURE, 250, false, 0, 0 },
        { S("ann@a.example"), 0, 451, false, 0, 0 },
    };
    EACH(cases, c) {
        struct scene s;
        scene_open(&s, c->sender, 1);
        struct got before = counts(&s);
        s.f.env.rcpt[0].notify = c->notify;
        s.f.peer_dsn = c->peer_dsn;
        answer(&s, 0, c->code, STAGE_DOT);
        flight_settle(s.d, &s.f, FLIGHT_ANSWERED, S("no answer"), S("hop"));
        struct got g = since(&s, &before);
        CHECK_INT((int64_t)g.reports, (int64_t)c->reports, c->sender);
        CHECK_INT((int64_t)g.dropped, (int64_t)c->dropped, c->sender);
        if (g.reports) { /* a mail like any other: from <>, to the sender, and its own failure makes none */
            struct ticket *t = lane_take(lane_of(&s));
            CHECK(t && t->mail && t->mail->m->report && t->mail->m->env.sender.n == 0);
            CHECK_STR(t->mail->m->env.rcpt[0].to, c->sender);
            CHECK_ERR(flight_load(s.d, t, &s.f), OK);
            answer(&s, 0, 550, STAGE_RCPT);
            flight_settle(s.d, &s.f, FLIGHT_ANSWERED, S("no answer"), S("hop"));
            CHECK_INT((int64_t)since(&s, &before).reports, 1);
            CHECK_INT((int64_t)counts(&s).messages, 0);
        }
        scene_close(&s);
    }
}

TASK_TEST(outcome_deleted_tells_the_sender_when_told_to)
{
    struct scene s;

    for (int quiet = 0; quiet < 2; quiet++) {
        scene_open(&s, S("ann@a.example"), 2);
        struct got before = counts(&s);
        flight_settle(s.d, &s.f, quiet ? FLIGHT_DELETED_QUIETLY : FLIGHT_DELETED, S("by an operator"), S(""));
        CHECK_INT((int64_t)since(&s, &before).reports, !quiet);
        str text;
        if (!quiet) {
            struct ticket *t = report_of(&s, &text);
            CHECK(str_has(text, S("In detail: an administrator of")) && !str_has(text, S("Last-Attempt-Date")) && !str_has(text, S("next mail server")), text);
            ticket_return(t);
        }
        CHECK_INT((int64_t)counts(&s).messages, !quiet);
        scene_close(&s);
    }
}

/* ---- reports as they are ---- */

/* A relay that knows own senders: those in own.example, and clients of 192.0.2.0/24. */
static void scene_has_own(struct scene *s)
{
    static struct relay_domain own = { .bounce = BOUNCE_ALL };
    static struct cidr cidr;
    static struct network net = { .name = S("office"), .cidr = &cidr, .ncidr = 1 }, *nets[] = { &net };

    must(cidr_parse(S("192.0.2.0/24"), &cidr) == OK);
    own.backend = &s->one;
    map_put(&s->snap.routes.exact, S("own.example"), &own);
    s->snap.routes.network = nets;
    s->snap.routes.nnetwork = 1;
}

static void scene_end(struct scene *s)
{
    map_free(&s->snap.routes.exact);
    scene_close(s);
}

TASK_TEST(attack_30_bounce_says_who_is_told)
{
    static const struct { str sender, client; int bounce; unsigned code; uint8_t notify; bool told; } cases[] = {
        { S("ann@there.example"), S("203.0.113.9"), BOUNCE_ALL, 550, 0, true },
        { S("ann@there.example"), S("203.0.113.9"), BOUNCE_OWN, 550, 0, false },
        { S("ann@there.example"), S("203.0.113.9"), BOUNCE_OWN, 250, NOTIFY_SUCCESS, false },
        { S("ann@there.example"), S("192.0.2.7"), BOUNCE_OWN, 550, 0, true },     /* by its client */
        { S("ann@own.example"), S("203.0.113.9"), BOUNCE_OWN, 550, 0, true },     /* by its domain */
        { S("ann@own.example"), S("192.0.2.7"), BOUNCE_NONE, 550, 0, false },
        { S("ann@own.example"), S("192.0.2.7"), BOUNCE_NONE, 250, NOTIFY_SUCCESS, false },
        { S(""), S("192.0.2.7"), BOUNCE_ALL, 550, 0, false },
    };
    EACH(cases, c) {
        struct scene s;
        scene_open(&s, c->sender, 3);
        scene_has_own(&s);
        s.snap.routes.fallback_bounce = c->bounce;
        s.f.mail->m->origin.client = c->client;
        struct got before = counts(&s);
        for (size_t i = 0; i < 3; i++) {
            s.f.env.rcpt[i].notify = c->notify;
            answer(&s, i, c->code, STAGE_DOT);
        }
        flight_settle(s.d, &s.f, FLIGHT_ANSWERED, S("no answer"), S("hop"));
        struct got g = since(&s, &before);
        CHECK_INT((int64_t)g.reports, c->told, c->sender);
        CHECK_INT((int64_t)g.dropped, !c->told, c->sender);
        scene_end(&s);
    }
}

/* Of one attempt there is one report; who stands in a relay domain that tells nobody is not in it. */
TASK_TEST(report_is_one_an_attempt)
{
    struct scene s;
    str text;

    scene_open(&s, S("ann@there.example"), 3);
    scene_has_own(&s);
    struct relay_domain quiet = { .backend = &s.one, .bounce = BOUNCE_NONE };
    map_put(&s.snap.routes.exact, S("quiet.example"), &quiet);
    s.f.env.rcpt[1].to = s.f.env.rcpt[1].given = S("u@quiet.example");
    struct got before = counts(&s);
    s.f.mail->m->origin.ehlo = S("there.example");
    s.f.mail->m->origin.client = S("203.0.113.9");
    s.f.env.envid = S("QQ314159");
    for (size_t i = 0; i < 3; i++)
        answer(&s, i, 550, STAGE_RCPT);
    flight_settle(s.d, &s.f, FLIGHT_ANSWERED, S("no answer"), S("hop"));
    CHECK_INT((int64_t)since(&s, &before).reports, 1);
    CHECK_INT((int64_t)since(&s, &before).dropped, 1);
    struct ticket *t = report_of(&s, &text);
    CHECK(str_has(text, S("<u0@a.example>")) && str_has(text, S("<u2@a.example>")) && !str_has(text, S("quiet.example")), text);
    CHECK(str_has(text, S("Received-From-MTA: dns; there.example ([203.0.113.9])\r\n")), text);
    CHECK(str_has(text, S("Original-Envelope-Id: QQ314159\r\n")) && str_has(text, S("refused the message for good")) && !str_has(text, S("no answer")), text);
    ticket_done(t);
    scene_end(&s);
}

TASK_TEST(report_of_a_success_returns_the_header_only)
{
    static const struct { unsigned code; bool whole; } cases[] = { { 250, false }, { 550, true } };
    EACH(cases, c) {
        struct scene s;
        str text;
        scene_open(&s, S("ann@there.example"), 1);
        s.f.env.ret = RET_FULL;
        s.f.env.rcpt[0].notify = NOTIFY_SUCCESS | NOTIFY_FAILURE;
        answer(&s, 0, c->code, STAGE_DOT);
        flight_settle(s.d, &s.f, FLIGHT_ANSWERED, S("no answer"), S("hop"));
        struct ticket *t = report_of(&s, &text);
        CHECK_INT(str_has(text, S("\r\nhello\r\n")), c->whole); /* RFC 3461 4.3 */
        CHECK(str_has(text, c->whole ? S("message/rfc822") : S("text/rfc822-headers")), text);
        ticket_done(t);
        scene_close(&s);
    }
}

/* RFC 3461 5.2.7.3: of an alias that stands for several the sender hears once that it was expanded, by the name that he wrote. */
TASK_TEST(report_of_an_alias_is_expanded)
{
    struct scene s;
    str text;

    scene_open(&s, S("ann@there.example"), 4);
    struct rcpt *rcpt = s.f.mail->m->env.rcpt;
    for (size_t i = 0; i < 4; i++) {
        if (i < 3)
            rcpt[i].given = S("list@a.example");
        rcpt[i].notify = i == 0 ? NOTIFY_NEVER /* a copy for the archive */ : NOTIFY_SUCCESS;
        answer(&s, i, 250, STAGE_DOT);
    }
    struct got before = counts(&s);
    flight_settle(s.d, &s.f, FLIGHT_ANSWERED, S("no answer"), S("hop"));
    CHECK_INT((int64_t)since(&s, &before).reports, 1);
    struct ticket *t = report_of(&s, &text);
    size_t first = str_find(text, S("Final-Recipient: rfc822; list@a.example\r\nAction: expanded\r\nStatus: 2.0.0\r\n"));
    CHECK(first != STR_NONE && !str_has(str_from(text, first + 40), S("list@a.example")) && !str_has(text, S("u1@a.example")), text);
    CHECK(str_has(text, S("Final-Recipient: rfc822; u3@a.example\r\nAction: relayed\r\n")), text);
    ticket_done(t);
    scene_close(&s);
}

/* A report that fails goes to the postmaster, once; a notice, a double bounce and one that was the postmaster's already end. */
TASK_TEST(attack_30_double_bounce_goes_to_the_postmaster_once)
{
    static const struct { int setting; uint8_t notify; unsigned code; str sender; uint64_t reports; } cases[] = {
        { DOUBLE_BOUNCE_POSTMASTER, 0, 550, S("ann@a.example"), 2 },
        { DOUBLE_BOUNCE_DROP, 0, 550, S("ann@a.example"), 1 },
        { DOUBLE_BOUNCE_POSTMASTER, NOTIFY_SUCCESS, 250, S("ann@a.example"), 1 },
        { DOUBLE_BOUNCE_POSTMASTER, 0, 550, S("postmaster@example.net"), 1 },
    };
    EACH(cases, c) {
        struct scene s;
        str text;
        scene_open(&s, c->sender, 1);
        s.snap.reports.double_bounce = c->setting;
        struct got before = counts(&s);
        s.f.env.rcpt[0].notify = c->notify;
        answer(&s, 0, c->code, STAGE_DOT);
        flight_settle(s.d, &s.f, FLIGHT_ANSWERED, S("no answer"), S("hop"));
        for (uint64_t i = 1; i <= c->reports; i++) {
            struct ticket *t = report_of(&s, &text);
            CHECK_INT((int64_t)since(&s, &before).reports, (int64_t)i);
            CHECK_STR(t->mail->m->env.rcpt[0].to, i == 1 ? c->sender : S("postmaster@example.net"));
            if (i == 2)
                CHECK(str_has(text, S("so you get it")) && str_has(text, S("Final-Recipient: rfc822; ann@a.example")) && str_has(text, S("message/rfc822")), text);
            CHECK_ERR(flight_load(s.d, t, &s.f), OK);
            answer(&s, 0, 550, STAGE_RCPT);
            flight_settle(s.d, &s.f, FLIGHT_ANSWERED, S("no answer"), S("hop"));
            CHECK_INT((int64_t)since(&s, &before).dropped, (int64_t)i); /* whoever is told now: this one reached nobody */
        }
        CHECK_INT((int64_t)counts(&s).messages, 0);
        scene_close(&s);
    }
}

/* A flood of failures is no flood to who is said to have sent it; a client of ours is trusted to be who it says. */
TASK_TEST(attack_30_reports_to_one_address_are_paced)
{
    static const struct { str client; struct rate all; size_t ready, waiting; uint64_t dropped; } cases[] = {
        { S("203.0.113.9"), { 0 }, 2, 2, 2 }, /* two at once, two within the hour */
        { S("192.0.2.7"), { 0 }, 6, 0, 0 },
        { S("192.0.2.7"), { 4, MINUTE }, 4, 2, 0 }, /* after an incident all are paced, and none is dropped */
    };
    EACH(cases, c) {
        struct got before;
        struct scene s;
        for (int i = 0; i < 6; i++) {
            if (i == 0) {
                scene_open(&s, S("victim@there.example"), 6);
                scene_has_own(&s);
                s.snap.reports.rate_per_address = (struct rate){ 2, HOUR };
                s.snap.reports.rate = c->all;
                before = counts(&s);
            } else
                CHECK_ERR(flight_load(s.d, queue_find(s.d->setup.queue, s.id), &s.f), OK);
            s.f.mail->m->origin.client = c->client;
            for (size_t k = 0; k < s.f.env.nrcpt; k++)
                answer(&s, k, k ? 452 : 550, STAGE_RCPT);
            if (s.f.env.nrcpt > 1) { /* one fails, the others are tried again later: and that is now */
                flight_settle(s.d, &s.f, FLIGHT_ANSWERED, S("no answer"), S("hop"));
                CHECK(ticket_remove(queue_find(s.d->setup.queue, s.id)));
            } else
                flight_settle(s.d, &s.f, FLIGHT_ANSWERED, S("no answer"), S("hop"));
        }
        struct got g = since(&s, &before);
        CHECK_INT((int64_t)g.failed, 6);
        CHECK_INT((int64_t)g.ready, (int64_t)c->ready, c->client);
        CHECK_INT((int64_t)g.waiting, (int64_t)c->waiting, c->client);
        CHECK_INT((int64_t)g.dropped, (int64_t)c->dropped, c->client);
        struct ticket *t;
        for (size_t at = 0; queue_walk(s.d->setup.queue, &at, &t, 1);)
            if (t->state == TICKET_WAITING) {
                CHECK_STR(ticket_why(t).reason, S("reports are paced: its turn comes"));
                CHECK(ticket_why(t).next > wall_now() && ticket_why(t).next <= wall_now() + HOUR + MINUTE);
            }
        scene_end(&s);
    }
}

/* ---- delay warnings ---- */

TASK_TEST(delay_is_told_once_to_own_senders)
{
    static const struct { str sender, client; uint8_t notify; when delay, age; uint64_t reports; } cases[] = {
        { S("ann@own.example"), S("203.0.113.9"), 0, 4 * HOUR, 5 * HOUR, 1 },
        { S("ann@there.example"), S("192.0.2.7"), NOTIFY_DELAY, 4 * HOUR, 5 * HOUR, 1 },
        { S("ann@there.example"), S("203.0.113.9"), NOTIFY_DELAY, 4 * HOUR, 5 * HOUR, 0 },
        { S("ann@own.example"), S(""), NOTIFY_NEVER, 4 * HOUR, 5 * HOUR, 0 },
        { S("ann@own.example"), S(""), NOTIFY_FAILURE | NOTIFY_SUCCESS, 4 * HOUR, 5 * HOUR, 0 },
        { S("ann@own.example"), S(""), 0, 4 * HOUR, 3 * HOUR, 0 },
        { S("ann@own.example"), S(""), 0, 0, 5 * HOUR, 0 },
        { S(""), S("192.0.2.7"), 0, 4 * HOUR, 5 * HOUR, 0 },
    };
    AUTO_ARENA a = arena_new();
    EACH(cases, c) {
        struct scene s;
        str text;
        scene_open(&s, c->sender, 2);
        scene_has_own(&s);
        struct spool_ref home = s.f.t->home;
        s.snap.reports.delay_warning = c->delay;
        s.f.t->lifetime = 5 * DAY / SECOND;
        s.f.mail->m->origin.client = c->client;
        s.f.mail->m->origin.accepted -= c->age;
        struct got before = counts(&s);
        for (int round = 0; round < 3; round++) {
            for (size_t i = 0; i < 2; i++) {
                s.f.env.rcpt[i].notify = c->notify;
                answer(&s, i, 451, STAGE_RCPT);
            }
            struct mail *m = s.f.mail;
            m->holders++; /* as it is, with its age, for the next round */
            flight_settle(s.d, &s.f, FLIGHT_ANSWERED, S("no answer"), S("hop"));
            CHECK_INT((int64_t)since(&s, &before).reports, (int64_t)c->reports, c->sender);
            CHECK_INT((int64_t)since(&s, &before).dropped, 0, c->sender);
            struct ticket *t = queue_find(s.d->setup.queue, s.id);
            CHECK(ticket_remove(t));
            t->mail = m;
            CHECK_ERR(flight_load(s.d, t, &s.f), OK);
        }
        CHECK_INT(state_of(&s, a, home, 1).warned, s.f.t->warned);
        if (c->reports) {
            struct ticket *t = report_of(&s, &text);
            CHECK(str_has(text, S("Action: delayed\r\nStatus: 4.0.0\r\n")) && str_has(text, S("Will-Retry-Until:")) && str_has(text, S("Last-Attempt-Date:")), text);
            CHECK(str_has(text, S("Diagnostic-Code: smtp; 451 so\r\n")) && str_has(text, S("Remote-MTA: dns; hop\r\n")), text);
            CHECK(!str_has(text, S("failed")), text);
            ticket_done(t);
        }
        ticket_done(s.f.t);
        scene_end(&s);
    }
}

static void went_expired(void *ctx, struct ticket *t) { (void)ctx; (void)t; }

/* A lane that is down for six days: one warning, also over a restart, and nothing else until an attempt was made; then one failure. */
TASK_TEST(six_days_down_are_one_warning_and_one_report)
{
    struct scene s;
    AUTO_ARENA a = arena_new();
    str text;

    scene_open(&s, S("ann@own.example"), 2);
    scene_has_own(&s);
    s.snap.reports.delay_warning = 4 * HOUR;
    s.snap.retry.lifetime = 5 * DAY;
    s.f.t->lifetime = 5 * DAY / SECOND;
    struct queue *q = s.d->setup.queue;
    struct ticket *t = s.f.t;
    struct spool_ref home = t->home;
    when accepted = t->accepted;
    struct got before = counts(&s);
    flight_free(&s.f);
    mail_drop(take(t->mail));
    ticket_return(t);
    lane_down(lane_of(&s), S("hop[203.0.113.1]:25: nobody listens there"), clock_now() + HOUR);

    for (int hours = 0; hours <= 6 * 24; hours++) {
        t->accepted = accepted - hours * HOUR; /* time went by: nothing here looks at more than the difference */
        CHECK_ERR(warn_sweep(s.d, s.snap.reports.delay_warning), OK);
        CHECK_INT((int64_t)since(&s, &before).reports, hours >= 4);
        CHECK(t->state == TICKET_READY && t->attempts == 0);
        if (hours != 5)
            continue;
        struct ticket *report = lane_after(lane_first(lane_of(&s))) == NULL ? NULL : lane_first(lane_of(&s)) == t ? lane_after(t) : lane_first(lane_of(&s));
        CHECK(report && report->report);
        CHECK(lane_take_this(report) == report);
        CHECK_ERR(flight_load(s.d, report, &s.f), OK);
        CHECK_ERR(spool_read_piece(s.port, s.f.mail->m->piece[0], a, &text), OK);
        CHECK(str_has(text, S("Action: delayed\r\nStatus: 4.4.1\r\n")) && str_has(text, S("nobody listens there")) && !str_has(text, S("Last-Attempt-Date:")), text);
        flight_free(&s.f);
        ticket_done(report);
        /* A restart: all that is known is what the spool knows. */
        struct message *m;
        struct rcpt_state *state;
        size_t n;
        CHECK_ERR(spool_flush(s.port), OK);
        CHECK_ERR(spool_read(s.port, home, a, &m), OK);
        CHECK_ERR(spool_read_states(s.port, s.id, home, a, &state, &n), OK);
        CHECK(n == 2 && state[0].warned && state[1].warned && state[0].status == RCPT_WAITING && state[0].attempts == 0);
        queue_free(q);
        reception_free(s.d->setup.reception);
        q = s.d->setup.queue = queue_new(&(struct queue_setup){ .port = s.port, .retry = &s.snap.retry, .routes = &s.snap.routes, .body_budget = 1 << 20,
                                                               .ready = lane_ready, .expired = went_expired, .unroutable = nobody, .ctx = &s });
        s.d->setup.reception = reception_new(&(struct reception_setup){ .newest = newest, .ctx = &s, .queue = q, .spool = s.spool, .port = s.port, .threads = 1 });
        queue_load(q, m, state);
        t = queue_find(q, s.id);
        lane_down(lane_of(&s), S("hop[203.0.113.1]:25: nobody listens there"), clock_now() + HOUR);
    }
    /* The attempt: the lane opens, nobody is there, it goes down again and what is too old is handed out. */
    lane_open(lane_of(&s));
    lane_of(&s)->swept = 0;
    lane_down(lane_of(&s), S("hop[203.0.113.1]:25: nobody listens there"), clock_now() + HOUR);
    CHECK(t->state == TICKET_FLYING);
    CHECK_ERR(flight_load(s.d, t, &s.f), OK);
    flight_settle(s.d, &s.f, FLIGHT_EXPIRED, S("its lifetime is over"), S(""));
    CHECK_INT((int64_t)since(&s, &before).reports, 2);
    CHECK_INT((int64_t)since(&s, &before).expired, 2);
    scene_end(&s);
}

/* ---- what the peer can take ---- */

#define FULL (CAP_EHLO | CAP_8BITMIME | CAP_SMTPUTF8 | CAP_BINARYMIME | CAP_CHUNKING)

TASK_TEST(attack_28_flight_fits_what_the_peer_offers)
{
    static const struct { unsigned caps; bool header8, body8, utf8; str to; bool fits; unsigned detail; enum body_kind body; bool says_utf8; } cases[] = {
        { FULL, false, false, false, S("b@a.example"), true, 0, BODY_7BIT, false },
        { 0, false, false, false, S("b@a.example"), true, 0, BODY_7BIT, false },
        { 0, false, false, true, S("b@a.example"), true, 0, BODY_7BIT, false },     /* merely flagged */
        { FULL, false, false, true, S("b\u00f6@a.example"), true, 0, BODY_7BIT, true },
        { CAP_8BITMIME, false, false, true, S("b\u00f6@a.example"), false, 7, BODY_7BIT, false },
        { CAP_8BITMIME, true, false, true, S("b@a.example"), false, 7, BODY_7BIT, false },
        { CAP_8BITMIME, false, true, false, S("b@a.example"), true, 0, BODY_8BIT, false },
        { CAP_8BITMIME | CAP_SMTPUTF8, true, true, true, S("b@a.example"), true, 0, BODY_8BIT, true },
    };
    EACH(cases, c) {
        struct scene s;
        struct client peer = { .caps = c->caps };
        scene_open(&s, S("ann@a.example"), 1);
        s.f.mail->m->scan.eight_bit_header = c->header8;
        s.f.mail->m->scan.eight_bit_body = c->body8;
        s.f.env.smtputf8 = c->utf8;
        s.f.env.rcpt[0].to = c->to;
        CHECK_INT(flight_fit(&s.f, &peer), c->fits, c->to);
        if (!c->fits) {
            CHECK(s.f.out[0].settled && s.f.out[0].reply.code == 554);
            CHECK(s.f.out[0].reply.enhanced.subject == 6 && s.f.out[0].reply.enhanced.detail == c->detail, c->to);
        } else {
            CHECK_INT(s.f.env.body, c->body, c->to);
            CHECK_INT(s.f.env.smtputf8, c->says_utf8, c->to);
        }
        ticket_done(s.f.t);
        scene_close(&s);
    }
}

TASK_TEST(flight_fits_the_size_and_number_the_peer_says)
{
    struct scene s;
    struct client small = { .caps = FULL | CAP_SIZE, .size_max = 19 }, just = { .caps = FULL | CAP_SIZE, .size_max = 21 },
                  few = { .caps = FULL | CAP_LIMITS, .rcpt_max = 2 };

    scene_open(&s, S("ann@a.example"), 5);
    CHECK_INT((int64_t)s.f.body.size, 21);
    CHECK(!flight_fit(&s.f, &small));
    for (size_t i = 0; i < 5; i++)
        CHECK(s.f.out[i].settled && s.f.out[i].reply.enhanced.subject == 3 && s.f.out[i].reply.enhanced.detail == 4);
    CHECK(flight_fit(&s.f, &just));
    CHECK_INT((int64_t)s.f.env.nrcpt, 5);
    CHECK(flight_fit(&s.f, &few));
    CHECK_INT((int64_t)s.f.env.nrcpt, 2);
    CHECK_INT(ticket_count(s.f.t), 2);
    struct ticket *rest = lane_take(lane_of(&s));
    CHECK(rest && ticket_count(rest) == 3 && ticket_has(rest, 2) && !ticket_has(rest, 1) && rest->attempts == 0);
    ticket_done(rest);
    ticket_done(s.f.t);
    scene_close(&s);
}

/* ---- other ways ---- */

static struct backend other_hop = { .name = S("two"), .max_connections = 1 };

/* As it is where the domain's way has another for what it does not take. */
static void scene_with_another_way(struct scene *s, struct backend *both[2], size_t n, struct elsewhere other)
{
    scene_open(s, S("ann@a.example"), n);
    both[0] = &s->one;
    both[1] = &other_hop;
    s->snap.routes.backend = both;
    s->snap.routes.nbackend = 2;
    s->snap.routes.other = other;
    s->snap.routes.hands_on = s->f.t->hand_on = true;
}

static struct lane *lane_named_two(struct scene *s)
{
    for (size_t i = 0; queue_lane(s->d->setup.queue, i); i++)
        if (str_eq(queue_lane(s->d->setup.queue, i)->name, S("two")))
            return queue_lane(s->d->setup.queue, i);
    return NULL;
}

TASK_TEST(outcome_of_who_is_unknown_here_is_another_backend)
{
    struct scene s;
    struct backend *both[2];

    scene_with_another_way(&s, both, 6, (struct elsewhere){ .unknown = &other_hop });
    struct got before = counts(&s);
    uint64_t handed_on = stats_mine()->counter[COUNT_handed_on];
    answer(&s, 0, 250, STAGE_DOT);
    answer(&s, 1, 550, STAGE_RCPT);
    answer(&s, 2, 554, STAGE_RCPT); /* for another reason */
    answer(&s, 3, 550, STAGE_DOT);  /* not of the recipient */
    answer(&s, 4, 450, STAGE_RCPT);
    answer(&s, 5, 553, STAGE_RCPT);
    flight_settle(s.d, &s.f, FLIGHT_ANSWERED, S("no answer"), S("hop"));
    struct got g = since(&s, &before);
    CHECK_INT((int64_t)g.delivered, 1);
    CHECK_INT((int64_t)g.failed, 2);
    CHECK_INT((int64_t)g.deferred, 1);
    CHECK_INT((int64_t)(stats_mine()->counter[COUNT_handed_on] - handed_on), 2);
    struct ticket *t = lane_take(lane_named_two(&s));
    CHECK(t && ticket_count(t) == 2 && ticket_has(t, 1) && ticket_has(t, 5));
    CHECK(t && !t->hand_on); /* what is said there holds */
    ticket_return(t);
    scene_close(&s);
}

TASK_TEST(outcome_of_what_fails_for_too_long_is_the_fallback)
{
    static const struct { when after; enum flight_end end; unsigned code; size_t handed_on; } cases[] = {
        { 0, FLIGHT_ANSWERED, 451, 1 }, { 0, FLIGHT_BROKEN, 0, 1 }, { HOUR, FLIGHT_ANSWERED, 451, 0 }, { 0, FLIGHT_ANSWERED, 550, 0 },
        { 0, FLIGHT_UNKNOWN, 0, 0 }, { 0, FLIGHT_FAILED, 0, 0 },
    };
    EACH(cases, c) {
        struct scene s;
        struct backend *both[2];
        scene_with_another_way(&s, both, 1, (struct elsewhere){ .fallback = &other_hop, .after = c->after });
        if (c->code)
            answer(&s, 0, c->code, STAGE_DOT);
        else
            offered(&s, 0);
        flight_settle(s.d, &s.f, c->end, S("no answer"), S("hop"));
        CHECK_INT(lane_named_two(&s) ? (int64_t)lane_named_two(&s)->nready : 0, (int64_t)c->handed_on);
        scene_close(&s);
    }
}

static bool client_gone;

TASK_TEST(outcome_is_told_to_a_client_whose_answer_waits)
{
    static const struct { unsigned code[2]; enum flight_end end; bool refused; size_t reports; } cases[] = {
        { { 554, 550 }, FLIGHT_ANSWERED, true, 0 }, { { 554, 250 }, FLIGHT_ANSWERED, false, 1 }, { { 250, 250 }, FLIGHT_ANSWERED, false, 0 },
        { { 451, 550 }, FLIGHT_ANSWERED, false, 1 }, { { 0, 0 }, FLIGHT_UNKNOWN, false, 0 }, { { 0, 0 }, FLIGHT_FAILED, false, 1 },
    };
    EACH(cases, c) {
        AUTO_ARENA a = arena_new();
        struct scene s;
        struct reply r = { 0 };
        scene_open(&s, S("ann@a.example"), 2);
        struct vigil *v = s.f.mail->vigil = vigil_new(&client_gone);
        struct got before = counts(&s);
        for (size_t i = 0; i < 2; i++) {
            if (c->code[i])
                answer(&s, i, c->code[i], STAGE_DOT);
            else
                offered(&s, i);
        }
        flight_settle(s.d, &s.f, c->end, S("no answer"), S("hop"));
        CHECK_INT(vigil_wait(v, clock_now() + KIT_SLOW * SECOND, a, &r), c->refused);
        CHECK_INT(r.code, c->refused ? 554 : 0);
        struct got g = since(&s, &before);
        CHECK_INT((int64_t)g.reports, (int64_t)c->reports);
        CHECK_INT((int64_t)g.dropped, 0);
        if (c->refused)
            CHECK_INT((int64_t)g.messages, 0);
        scene_close(&s);
    }
}
