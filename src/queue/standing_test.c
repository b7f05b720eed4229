/* Time that does not count: pauses of lanes, what a ticket takes along when it goes elsewhere, and what the next process knows of it. */
#include "kit/kit.h"
#include "queue/inside.h"

struct life {
    struct backend one, other, mx;
    struct backend *backends[3];
    struct relay_domain a, b;
    when steps[1];
    struct retry retry;
    struct routes routes;
    struct standing before;
    struct queue *q;
};

static void life_lane(void *ctx, struct lane *lane) { (void)ctx, (void)lane; }
static void life_settled(void *ctx, struct ticket *t) { (void)ctx, ticket_done(t); }

static void life_begin(struct life *s)
{
    s->q = queue_new(&(struct queue_setup){ .retry = &s->retry, .routes = &s->routes, .standing = &s->before, .body_budget = 1 << 20, .ready = life_lane,
                                            .resolve = life_lane, .expired = life_settled, .unroutable = life_settled, .ctx = s });
}

static void life_open(struct life *s)
{
    *s = (struct life){ .one = { .name = S("one") }, .other = { .name = S("other") }, .mx = { .name = S("mx"), .mx = true }, .steps = { MINUTE } };
    s->backends[0] = &s->one;
    s->backends[1] = &s->other;
    s->backends[2] = &s->mx;
    s->a.backend = &s->one;
    s->b.backend = &s->mx;
    s->retry = (struct retry){ .step = { s->steps, 1 }, .lifetime = 3 * HOUR, .hold_max = 30 * DAY };
    s->routes = (struct routes){ .backend = s->backends, .nbackend = 3 };
    map_put(&s->routes.exact, S("a.example"), &s->a);
    map_put(&s->routes.exact, S("b.example"), &s->b);
    life_begin(s);
}

/* The process ends, and the next one begins with what this one wrote down. */
static void life_again(struct life *s)
{
    struct standing now = { 0 };

    CHECK_INT(queue_standing(s->q, &now), OK);
    queue_free(s->q);
    standing_clear(&s->before);
    s->before = now;
    life_begin(s);
}

static void life_close(struct life *s)
{
    queue_free(s->q);
    standing_clear(&s->before);
    map_free(&s->routes.exact);
}

static struct message *message_to(arena *a, str rcpt, when age)
{
    struct message *m = NEW(a, struct message);

    m->id = ulid_new();
    m->at = (struct spool_ref){ 7, 4096 };
    m->origin.accepted = wall_now() - age;
    m->env.sender = S("news@sender.example");
    m->env.rcpt = NEW_ARRAY(a, struct rcpt, 1);
    m->env.nrcpt = 1;
    m->env.rcpt[0].to = rcpt;
    return m;
}

/* Mail accepted so long ago, as the spool has it; `state` NULL: nothing was noted. */
static struct ticket *load(struct life *s, str rcpt, when age, const struct rcpt_state *state)
{
    AUTO_ARENA a = arena_new();
    struct message *m = message_to(a, rcpt, age);
    struct rcpt_state waiting = { .status = RCPT_WAITING };

    queue_load(s->q, m, state ? state : &waiting);
    return queue_find(s->q, m->id);
}

static struct lane *lane_in(struct life *s, str name) { return queue_lane_called(s->q, name); }
static bool old_at(const struct ticket *t, when wall) { return ticket_too_old(t, t->accepted, wall); }

/* A pause that lay so many hours ago. */
static void rested(struct lane *lane, when from, when to)
{
    when wall = wall_now();
    pauses_add(&lane->pauses, (struct pause){ wall - from * HOUR, to ? wall - to * HOUR : 0 });
}

TEST(standing_pauses_are_in_order_joined_and_few)
{
    static const struct { struct pause add[4]; struct pause is[4]; } cases[] = {
        { { { HOUR, 2 * HOUR }, { 5 * HOUR, 6 * HOUR } }, { { HOUR, 2 * HOUR }, { 5 * HOUR, 6 * HOUR } } },
        { { { 5 * HOUR, 6 * HOUR }, { HOUR, 2 * HOUR } }, { { HOUR, 2 * HOUR }, { 5 * HOUR, 6 * HOUR } } },
        { { { HOUR, 3 * HOUR }, { 2 * HOUR, 4 * HOUR } }, { { HOUR, 4 * HOUR } } },
        { { { HOUR, 2 * HOUR }, { 2 * HOUR + MINUTE / 2, 3 * HOUR } }, { { HOUR, 3 * HOUR } } },
        { { { HOUR, 2 * HOUR }, { 3 * HOUR, 4 * HOUR }, { 5 * HOUR, 6 * HOUR }, { HOUR + 1, 5 * HOUR + 1 } }, { { HOUR, 6 * HOUR } } },
        { { { HOUR, 0 }, { 5 * HOUR, 6 * HOUR } }, { { HOUR, 0 } } },
        { { { 5 * HOUR, 6 * HOUR }, { HOUR, 0 } }, { { HOUR, 0 } } },
        { { { 5 * HOUR, 0 }, { HOUR, 2 * HOUR }, { 7 * HOUR, 0 } }, { { HOUR, 2 * HOUR }, { 5 * HOUR, 0 } } },
    };
    struct pauses many = { 0 };

    EACH(cases, c) {
        struct pauses p = { 0 };
        uint32_t n = 0;
        for (int i = 0; i < 4 && c->add[i].from; i++)
            pauses_add(&p, c->add[i]);
        while (n < 4 && c->is[n].from)
            n++;
        CHECK_INT(p.n, n);
        for (uint32_t i = 0; i < n && i < p.n; i++)
            CHECK(p.p[i].from == c->is[i].from && p.p[i].to == c->is[i].to);
        mem_free(p.p);
    }
    for (when i = 1; i <= 20; i++)
        pauses_add(&many, (struct pause){ i * DAY, i * DAY + HOUR });
    CHECK_INT(many.n, PAUSES_MOST);
    CHECK(many.p[0].from == DAY && many.p[0].to == 5 * DAY + HOUR && many.p[PAUSES_MOST - 1].from == 20 * DAY);
    mem_free(many.p);
}

TASK_TEST(standing_what_a_lane_rested_before_a_restart_does_not_count_after_it)
{
    static const struct { when from, to; str lane; bool old; } cases[] = {
        { 11, 1, S("one"), false }, { 11, 6, S("one"), true }, { 11, 0, S("one"), false }, { 11, 1, S("other"), true },
    };

    EACH(cases, c) { /* accepted twelve hours ago, to be tried for three */
        struct life s;
        life_open(&s);
        struct ticket *t = load(&s, S("x@a.example"), 12 * HOUR, NULL);
        CHECK(old_at(t, wall_now()));
        if (str_eq(c->lane, S("other")))
            CHECK(ticket_reroute(load(&s, S("y@a.example"), 0, NULL), &s.other));
        rested(lane_in(&s, c->lane), c->from, c->to);
        life_again(&s);
        t = load(&s, S("x@a.example"), 12 * HOUR, NULL);
        CHECK_INT(old_at(t, wall_now()), c->old);
        life_close(&s);
    }
}

TASK_TEST(standing_a_lane_without_mail_is_not_remembered)
{
    struct life s;

    life_open(&s);
    struct ticket *t = load(&s, S("x@a.example"), 0, NULL);
    rested(lane_in(&s, S("one")), 5, 4);
    CHECK(ticket_remove(t) && ticket_done(t));
    life_again(&s);
    CHECK(map_get(&s.before.lane, S("one")) == NULL);
    life_close(&s);
}

TASK_TEST(standing_suspended_lanes_stay_so_and_what_has_ended_does_not)
{
    struct life s;

    life_open(&s);
    queue_suspend(s.q, S("one"), clock_now() + HOUR, S("an operator's words"));
    queue_suspend(s.q, S("other"), clock_now() - SECOND, S("it is over"));
    life_again(&s);
    CHECK_INT((int64_t)s.before.nsuspended, 1);
    struct ticket *t = load(&s, S("x@a.example"), 0, NULL);
    CHECK(t->lane->state == LANE_DOWN && t->lane->suspended);
    CHECK_STR(ticket_reason(t), S("an operator's words"));
    CHECK(ticket_reroute(t, &s.other) && t->lane->state == LANE_OPEN);
    life_again(&s);
    t = load(&s, S("x@a.example"), 0, NULL);
    CHECK(t->lane->suspended && queue_resume(s.q, S("one")) && t->lane->state == LANE_OPEN);
    life_again(&s);
    CHECK_INT((int64_t)s.before.nsuspended, 0);
    CHECK(!load(&s, S("x@a.example"), 0, NULL)->lane->suspended);
    life_close(&s);
}

static struct lane *site_at(struct life *s, str domain, const char *host)
{
    struct site_host h = { str_z(host), 10 };
    struct site site = { .kind = SITE_HOSTS, .host = &h, .n = 1, .ttl = 3600 };

    queue_site(lane_in(s, domain), &site);
    return lane_in(s, domain)->site;
}

TASK_TEST(standing_mail_takes_its_pauses_along_and_counts_them_once)
{
    struct life s;

    life_open(&s);
    struct ticket *t = load(&s, S("x@b.example"), 12 * HOUR, NULL);
    struct lane *domain = lane_in(&s, S("domain:b.example"));
    CHECK(t->lane == domain);
    rested(domain, 12, 2); /* ten hours without a resolver */
    struct lane *site = site_at(&s, S("domain:b.example"), "mx1.b.example");
    CHECK(t->lane == site && t->excused >= 10 * 60 && t->excused <= 10 * 60 + 1);
    rested(site, 11, 8); /* before it came here: not its own */
    CHECK_INT(ticket_excused(t), t->excused);
    CHECK(!old_at(t, wall_now()) && old_at(t, wall_now() + 2 * HOUR));
    /* Twice back to the lane of the domain, as each retry does, nothing is counted again. */
    for (int i = 0; i < 2; i++) {
        CHECK(lane_take(site) == t);
        ticket_defer(t, clock_now() + HOUR, S("451 later"));
        CHECK(ticket_retry(t) && t->lane == site);
        CHECK(t->excused <= 10 * 60 + 1);
    }
    /* A pause of the site while it is there is. */
    when wall = wall_now();
    pauses_add(&site->pauses, (struct pause){ wall, wall + 7 * HOUR });
    CHECK(!old_at(t, wall + 7 * HOUR) && old_at(t, wall + 9 * HOUR));
    life_close(&s);
}

TASK_TEST(standing_what_was_noted_of_a_recipient_is_the_sum_up_to_then)
{
    when wall = wall_now();
    const struct { struct rcpt_state state; when paused_from, paused_to; bool held, old; } cases[] = { /* accepted twelve hours ago, tried for three */
        { { .last = wall - 10 * HOUR, .excused = 60, .reply = S("451 later") }, 0, 0, false, true },
        { { .last = wall - HOUR, .excused = 11 * 60, .reply = S("451 later") }, 0, 0, false, false },
        { { .last = wall - HOUR, .excused = 60, .reply = S("451 later") }, 12, 2, false, true },  /* that pause is in the sum already, and was not the mail's */
        { { .last = wall - 11 * HOUR, .excused = 60, .reply = S("451 later") }, 11, 1, false, false },
        { { .last = wall - 11 * HOUR, .next = wall + HOUR, .reply = S("held: who is that?") }, 0, 0, true, false },
        { { .last = wall - 11 * HOUR, .next = wall - 6 * HOUR, .reply = S("held: for five hours") }, 0, 0, false, true },
        { { .last = wall - 11 * HOUR, .next = wall - HOUR / 2, .reply = S("held: for more than ten") }, 0, 0, false, false },
        { { .next = wall + HOUR, .reply = S("held: an older release says nothing of when") }, 0, 0, true, true },
    };

    EACH(cases, c) {
        struct life s;
        struct rcpt_state state = c->state;
        state.status = RCPT_WAITING;
        life_open(&s);
        load(&s, S("another@a.example"), 0, NULL); /* the lane is there */
        if (c->paused_from)
            rested(lane_in(&s, S("one")), c->paused_from, c->paused_to);
        struct ticket *t = load(&s, S("x@a.example"), 12 * HOUR, &state);
        CHECK_INT(t->held, c->held);
        CHECK_INT(old_at(t, wall_now()), c->old);
        life_close(&s);
    }
}
