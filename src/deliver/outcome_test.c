/* What each answer means, and what happens to the ticket. */
#include "deliver/scene_test.h"

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
            struct got before = scene_counts(&s);
            scene_answer(&s, 0, c->code, *stage);
            flight_settle(s.d, &s.f, FLIGHT_ANSWERED, S("no answer"), S("hop"));
            struct got g = scene_since(&s, &before);
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
    struct got before = scene_counts(&s);
    scene_answer(&s, 0, 250, STAGE_DOT);
    flight_settle(s.d, &s.f, FLIGHT_ANSWERED, S("no answer"), S("hop"));
    struct got g = scene_since(&s, &before);
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
        scene_answer(&s, 0, c->first, STAGE_DOT);
        scene_answer(&s, 1, c->code, STAGE_RCPT);
        scene_answer(&s, 2, c->code, STAGE_RCPT);
        flight_settle(s.d, &s.f, FLIGHT_ANSWERED, S("no answer"), S("hop"));
        struct got g = scene_counts(&s);
        CHECK_INT((int64_t)g.ready, (int64_t)c->ready);
        CHECK_INT((int64_t)g.waiting, (int64_t)c->waiting);
        CHECK_INT((int64_t)g.messages, (int64_t)c->messages);
        if (g.ready) {
            struct ticket *t = lane_take(scene_lane(&s));
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
    struct got before = scene_counts(&s);
    struct spool_ref home = s.f.t->home;
    scene_answer(&s, 0, 250, STAGE_DOT);
    scene_answer(&s, 1, 550, STAGE_RCPT);
    scene_answer(&s, 2, 450, STAGE_RCPT);
    scene_answer(&s, 3, 452, STAGE_RCPT);
    scene_answer(&s, 4, 250, STAGE_DOT);
    flight_settle(s.d, &s.f, FLIGHT_ANSWERED, S("no answer"), S("hop"));
    struct got g = scene_since(&s, &before);
    CHECK_INT((int64_t)g.delivered, 2);
    CHECK_INT((int64_t)g.failed, 1);
    CHECK_INT((int64_t)g.deferred, 1);
    CHECK_INT((int64_t)g.ready, 1);
    CHECK_INT((int64_t)g.waiting, 1);
    CHECK_INT((int64_t)g.messages, 1);
    static const enum rcpt_status want[] = { RCPT_DELIVERED, RCPT_FAILED, RCPT_WAITING, RCPT_WAITING, RCPT_DELIVERED };
    for (size_t i = 0; i < COUNT(want); i++)
        CHECK_INT(scene_state(&s, a, home, i).status, want[i]);
    struct ticket *t = lane_take(scene_lane(&s));
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
        struct got before = scene_counts(&s);
        struct spool_ref home = s.f.t->home;
        s.f.server_at = 2;
        if (c->offered)
            scene_offered(&s, 0);
        flight_settle(s.d, &s.f, c->end, S("the line died"), S("hop"));
        struct got g = scene_since(&s, &before);
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
            struct rcpt_state st = scene_state(&s, a, home, 0);
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
        struct got before = scene_counts(&s);
        s.f.mail->m->origin.accepted -= 2 * HOUR;
        if (c->code)
            scene_answer(&s, 0, c->code, STAGE_DOT);
        else if (c->offered)
            scene_offered(&s, 0);
        flight_settle(s.d, &s.f, c->end, S("why"), S("hop"));
        struct got g = scene_since(&s, &before);
        CHECK_INT((int64_t)g.expired, (int64_t)c->expired);
        CHECK_INT((int64_t)g.delivered, (int64_t)c->delivered);
        CHECK_INT((int64_t)g.failed, (int64_t)c->failed);
        CHECK_INT((int64_t)g.reports, c->delivered ? 0 : 1);
        CHECK_INT((int64_t)g.messages, c->delivered ? 0 : 1); /* the report */
        scene_close(&s);
    }
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
        { FULL, false, false, false, S("b\u00f6@a.example"), true, 0, BODY_7BIT, true }, /* an alias led there */
        { CAP_8BITMIME, false, false, false, S("b\u00f6@a.example"), false, 7, BODY_7BIT, false },
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
    struct ticket *rest = lane_take(scene_lane(&s));
    CHECK(rest && ticket_count(rest) == 3 && ticket_has(rest, 2) && !ticket_has(rest, 1) && rest->attempts == 0);
    ticket_done(rest);
    ticket_done(s.f.t);
    scene_close(&s);
}

TASK_TEST(attack_28_who_can_be_named_in_ascii_does_not_fail_with_who_cannot)
{
    struct scene s;
    struct client peer = { .caps = CAP_8BITMIME }, other = { .caps = FULL };

    scene_open(&s, S("ann@a.example"), 5);
    struct rcpt *rcpt = s.f.mail->m->env.rcpt;
    rcpt[0].to = S("b\u00f6@a.example");
    rcpt[3].to = S("d\u00f6@a.example");
    CHECK(flight_fit(&s.f, &other) && s.f.env.nrcpt == 5 && s.f.env.smtputf8);
    s.f.env.smtputf8 = false;
    CHECK(flight_fit(&s.f, &peer) && s.f.env.nrcpt == 3 && !s.f.env.smtputf8);
    CHECK(s.f.index[0] == 1 && s.f.index[1] == 2 && s.f.index[2] == 4);
    CHECK_STR(s.f.env.rcpt[2].to, rcpt[4].to);
    CHECK_STR(rcpt[0].to, S("b\u00f6@a.example")); /* the message is others', too */
    struct ticket *rest = lane_take(scene_lane(&s));
    if (CHECK(rest && ticket_count(rest) == 2 && ticket_has(rest, 0) && ticket_has(rest, 3) && rest->attempts == 0)) {
        struct flight f;
        CHECK_ERR(flight_load(s.d, rest, &f), OK);
        CHECK(!flight_fit(&f, &peer) && f.out[1].reply.enhanced.detail == 7);
        flight_free(&f);
        ticket_done(rest);
    }
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
    struct got before = scene_counts(&s);
    uint64_t handed_on = stats_mine()->counter[COUNT_handed_on];
    scene_answer(&s, 0, 250, STAGE_DOT);
    scene_answer(&s, 1, 550, STAGE_RCPT);
    scene_answer(&s, 2, 554, STAGE_RCPT); /* for another reason */
    scene_answer(&s, 3, 550, STAGE_DOT);  /* not of the recipient */
    scene_answer(&s, 4, 450, STAGE_RCPT);
    scene_answer(&s, 5, 553, STAGE_RCPT);
    flight_settle(s.d, &s.f, FLIGHT_ANSWERED, S("no answer"), S("hop"));
    struct got g = scene_since(&s, &before);
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
            scene_answer(&s, 0, c->code, STAGE_DOT);
        else
            scene_offered(&s, 0);
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
        struct got before = scene_counts(&s);
        for (size_t i = 0; i < 2; i++) {
            if (c->code[i])
                scene_answer(&s, i, c->code[i], STAGE_DOT);
            else
                scene_offered(&s, i);
        }
        flight_settle(s.d, &s.f, c->end, S("no answer"), S("hop"));
        CHECK_INT(vigil_wait(v, clock_now() + KIT_SLOW * SECOND, a, &r), c->refused);
        CHECK_INT(r.code, c->refused ? 554 : 0);
        struct got g = scene_since(&s, &before);
        CHECK_INT((int64_t)g.reports, (int64_t)c->reports);
        CHECK_INT((int64_t)g.dropped, 0);
        if (c->refused)
            CHECK_INT((int64_t)g.messages, 0);
        scene_close(&s);
    }
}
