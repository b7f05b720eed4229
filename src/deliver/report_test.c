/* Who is told what became of mail, and of its delay. */
#include "deliver/scene_test.h"

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
        struct got before = scene_counts(&s);
        s.f.env.rcpt[0].notify = c->notify;
        s.f.peer_dsn = c->peer_dsn;
        scene_answer(&s, 0, c->code, STAGE_DOT);
        flight_settle(s.d, &s.f, FLIGHT_ANSWERED, S("no answer"), S("hop"));
        struct got g = scene_since(&s, &before);
        CHECK_INT((int64_t)g.reports, (int64_t)c->reports, c->sender);
        CHECK_INT((int64_t)g.dropped, (int64_t)c->dropped, c->sender);
        if (g.reports) { /* a mail like any other: from <>, to the sender, and its own failure makes none */
            struct ticket *t = lane_take(scene_lane(&s));
            CHECK(t && t->mail && t->mail->m->report && t->mail->m->env.sender.n == 0);
            CHECK_STR(t->mail->m->env.rcpt[0].to, c->sender);
            CHECK_ERR(flight_load(s.d, t, &s.f), OK);
            scene_answer(&s, 0, 550, STAGE_RCPT);
            flight_settle(s.d, &s.f, FLIGHT_ANSWERED, S("no answer"), S("hop"));
            CHECK_INT((int64_t)scene_since(&s, &before).reports, 1);
            CHECK_INT((int64_t)scene_counts(&s).messages, 0);
        }
        scene_close(&s);
    }
}

TASK_TEST(outcome_deleted_tells_the_sender_when_told_to)
{
    struct scene s;

    for (int quiet = 0; quiet < 2; quiet++) {
        scene_open(&s, S("ann@a.example"), 2);
        struct got before = scene_counts(&s);
        flight_settle(s.d, &s.f, quiet ? FLIGHT_DELETED_QUIETLY : FLIGHT_DELETED, S("by an operator"), S(""));
        CHECK_INT((int64_t)scene_since(&s, &before).reports, !quiet);
        str text;
        if (!quiet) {
            struct ticket *t = scene_report(&s, &text);
            CHECK(str_has(text, S("In detail: an administrator of")) && !str_has(text, S("Last-Attempt-Date")) && !str_has(text, S("next mail server")), text);
            ticket_return(t);
        }
        CHECK_INT((int64_t)scene_counts(&s).messages, !quiet);
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
        struct got before = scene_counts(&s);
        for (size_t i = 0; i < 3; i++) {
            s.f.env.rcpt[i].notify = c->notify;
            scene_answer(&s, i, c->code, STAGE_DOT);
        }
        flight_settle(s.d, &s.f, FLIGHT_ANSWERED, S("no answer"), S("hop"));
        struct got g = scene_since(&s, &before);
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
    struct got before = scene_counts(&s);
    s.f.mail->m->origin.ehlo = S("there.example");
    s.f.mail->m->origin.client = S("203.0.113.9");
    s.f.env.envid = S("QQ314159");
    for (size_t i = 0; i < 3; i++)
        scene_answer(&s, i, 550, STAGE_RCPT);
    flight_settle(s.d, &s.f, FLIGHT_ANSWERED, S("no answer"), S("hop"));
    CHECK_INT((int64_t)scene_since(&s, &before).reports, 1);
    CHECK_INT((int64_t)scene_since(&s, &before).dropped, 1);
    struct ticket *t = scene_report(&s, &text);
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
        scene_answer(&s, 0, c->code, STAGE_DOT);
        flight_settle(s.d, &s.f, FLIGHT_ANSWERED, S("no answer"), S("hop"));
        struct ticket *t = scene_report(&s, &text);
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
        scene_answer(&s, i, 250, STAGE_DOT);
    }
    struct got before = scene_counts(&s);
    flight_settle(s.d, &s.f, FLIGHT_ANSWERED, S("no answer"), S("hop"));
    CHECK_INT((int64_t)scene_since(&s, &before).reports, 1);
    struct ticket *t = scene_report(&s, &text);
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
        struct got before = scene_counts(&s);
        s.f.env.rcpt[0].notify = c->notify;
        scene_answer(&s, 0, c->code, STAGE_DOT);
        flight_settle(s.d, &s.f, FLIGHT_ANSWERED, S("no answer"), S("hop"));
        for (uint64_t i = 1; i <= c->reports; i++) {
            struct ticket *t = scene_report(&s, &text);
            CHECK_INT((int64_t)scene_since(&s, &before).reports, (int64_t)i);
            CHECK_STR(t->mail->m->env.rcpt[0].to, i == 1 ? c->sender : S("postmaster@example.net"));
            if (i == 2)
                CHECK(str_has(text, S("so you get it")) && str_has(text, S("Final-Recipient: rfc822; ann@a.example")) && str_has(text, S("message/rfc822")), text);
            CHECK_ERR(flight_load(s.d, t, &s.f), OK);
            scene_answer(&s, 0, 550, STAGE_RCPT);
            flight_settle(s.d, &s.f, FLIGHT_ANSWERED, S("no answer"), S("hop"));
            CHECK_INT((int64_t)scene_since(&s, &before).dropped, (int64_t)i); /* whoever is told now: this one reached nobody */
        }
        CHECK_INT((int64_t)scene_counts(&s).messages, 0);
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
                before = scene_counts(&s);
            } else
                CHECK_ERR(flight_load(s.d, queue_find(s.d->setup.queue, s.id), &s.f), OK);
            s.f.mail->m->origin.client = c->client;
            for (size_t k = 0; k < s.f.env.nrcpt; k++)
                scene_answer(&s, k, k ? 452 : 550, STAGE_RCPT);
            if (s.f.env.nrcpt > 1) { /* one fails, the others are tried again later: and that is now */
                flight_settle(s.d, &s.f, FLIGHT_ANSWERED, S("no answer"), S("hop"));
                CHECK(ticket_remove(queue_find(s.d->setup.queue, s.id)));
            } else
                flight_settle(s.d, &s.f, FLIGHT_ANSWERED, S("no answer"), S("hop"));
        }
        struct got g = scene_since(&s, &before);
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
        struct got before = scene_counts(&s);
        for (int round = 0; round < 3; round++) {
            for (size_t i = 0; i < 2; i++) {
                s.f.env.rcpt[i].notify = c->notify;
                scene_answer(&s, i, 451, STAGE_RCPT);
            }
            struct mail *m = s.f.mail;
            m->holders++; /* as it is, with its age, for the next round */
            flight_settle(s.d, &s.f, FLIGHT_ANSWERED, S("no answer"), S("hop"));
            CHECK_INT((int64_t)scene_since(&s, &before).reports, (int64_t)c->reports, c->sender);
            CHECK_INT((int64_t)scene_since(&s, &before).dropped, 0, c->sender);
            struct ticket *t = queue_find(s.d->setup.queue, s.id);
            CHECK(ticket_remove(t));
            t->mail = m;
            CHECK_ERR(flight_load(s.d, t, &s.f), OK);
        }
        CHECK_INT(scene_state(&s, a, home, 1).warned, s.f.t->warned);
        if (c->reports) {
            struct ticket *t = scene_report(&s, &text);
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
    struct got before = scene_counts(&s);
    flight_free(&s.f);
    mail_drop(take(t->mail));
    ticket_return(t);
    lane_down(scene_lane(&s), S("hop[203.0.113.1]:25: nobody listens there"), clock_now() + HOUR);

    for (int hours = 0; hours <= 6 * 24; hours++) {
        t->accepted = accepted - hours * HOUR; /* time went by: nothing here looks at more than the difference */
        CHECK_ERR(warn_sweep(s.d, s.snap.reports.delay_warning), OK);
        CHECK_INT((int64_t)scene_since(&s, &before).reports, hours >= 4);
        CHECK(t->state == TICKET_READY && t->attempts == 0);
        if (hours != 5)
            continue;
        struct ticket *report = lane_after(lane_first(scene_lane(&s))) == NULL ? NULL : lane_first(scene_lane(&s)) == t ? lane_after(t) : lane_first(scene_lane(&s));
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
                                                               .ready = scene_ready, .expired = went_expired, .unroutable = scene_nobody, .ctx = &s });
        s.d->setup.reception = reception_new(&(struct reception_setup){ .newest = scene_newest, .ctx = &s, .queue = q, .spool = s.spool, .port = s.port, .threads = 1 });
        queue_load(q, m, state);
        t = queue_find(q, s.id);
        lane_down(scene_lane(&s), S("hop[203.0.113.1]:25: nobody listens there"), clock_now() + HOUR);
    }
    /* The attempt: the lane opens, nobody is there, it goes down again and what is too old is handed out. */
    lane_open(scene_lane(&s));
    scene_lane(&s)->swept = 0;
    lane_down(scene_lane(&s), S("hop[203.0.113.1]:25: nobody listens there"), clock_now() + HOUR);
    CHECK(t->state == TICKET_FLYING);
    CHECK_ERR(flight_load(s.d, t, &s.f), OK);
    flight_settle(s.d, &s.f, FLIGHT_EXPIRED, S("its lifetime is over"), S(""));
    CHECK_INT((int64_t)scene_since(&s, &before).reports, 2);
    CHECK_INT((int64_t)scene_since(&s, &before).expired, 2);
    scene_end(&s);
}
