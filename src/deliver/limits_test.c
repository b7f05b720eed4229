/* How a lane waits for its turn in a rate: with a real queue, and nobody to connect to. */
#include "deliver/inside.h"
#include "kit/kit.h"

struct scene {
    arena *a;
    struct backend one, two;
    struct backend *backends[2];
    when steps[1];
    struct retry retry;
    struct routes routes;
    struct dispatch d;
    struct lane *lane[2];
};

static void ready(void *ctx, struct lane *lane) { (void)ctx; (void)lane; }
static void nobody(void *ctx, struct ticket *t) { (void)ctx; ticket_done(t); }

static void add_mail(struct scene *s, str rcpt)
{
    arena *a = arena_new();
    struct message *m = NEW(a, struct message);

    m->id = ulid_new();
    m->origin.accepted = wall_now();
    m->env.rcpt = NEW(a, struct rcpt);
    m->env.rcpt[0].to = rcpt;
    m->env.nrcpt = 1;
    queue_add(s->d.setup.queue, mail_new(a, m, NULL));
}

/* Two backends that share a source with so many messages a second. */
static void scene_open(struct scene *s, const char *source, struct rate rate, uint64_t connections)
{
    static struct relay_domain d1, d2;

    *s = (struct scene){ .a = arena_new(), .steps = { MINUTE }, .one = { .name = S("one"), .max_connections = 9 }, .two = { .name = S("two"), .max_connections = 9 } };
    s->one.limit[0] = s->two.limit[0] = limit_of(s->a, "source", str_z(source), rate, connections);
    s->one.nlimit = s->two.nlimit = 1;
    s->backends[0] = &s->one;
    s->backends[1] = &s->two;
    s->retry = (struct retry){ .step = { s->steps, 1 }, .lifetime = HOUR };
    d1.backend = &s->one;
    d2.backend = &s->two;
    s->routes = (struct routes){ .backend = s->backends, .nbackend = 2 };
    map_put(&s->routes.exact, S("one.example"), &d1);
    map_put(&s->routes.exact, S("two.example"), &d2);
    limits_apply(&s->routes);
    s->d.draining = true;       /* nobody connects */
    s->d.setup = (struct dispatch_setup){ .threads = 1, .most_connections = 64,
                                          .queue = queue_new(&(struct queue_setup){ .retry = &s->retry, .routes = &s->routes, .body_budget = 1 << 20, .ready = ready,
                                                                                    .expired = nobody, .unroutable = nobody, .ctx = s }) };
    for (int i = 0; i < 20; i++) {
        add_mail(s, S("a@one.example"));
        add_mail(s, S("a@two.example"));
    }
    group_spawn(thread_group(), "pace", pace_run, &s->d);
    s->lane[0] = queue_lane(s->d.setup.queue, 0);
    s->lane[1] = queue_lane(s->d.setup.queue, 1);
}

static void scene_close(struct scene *s)
{
    group_close(thread_group());
    heap_free(&s->d.paced);
    queue_free(s->d.setup.queue);
    map_free(&s->routes.exact);
    arena_free(s->a);
}

/* As a connection does. */
static bool send_one(struct scene *s, unsigned i)
{
    if (!lane_may_send(&s->d, s->lane[i], s->lane[i]->backend))
        return false;
    s->lane[i]->sending->pacing.mine = false;
    ticket_done(lane_take(s->lane[i]));
    return true;
}

TASK_TEST(limits_lanes_wait_each_for_one_turn_and_in_order)
{
    struct scene s;
    str reason;
    when until;

    scene_open(&s, "turns", (struct rate){ 60, MINUTE }, 0);
    CHECK(send_one(&s, 0), S("the first goes at once"));
    CHECK(!send_one(&s, 0) && !send_one(&s, 1), S("then each waits"));
    when first = s.lane[0]->sending->pacing.until, second = s.lane[1]->sending->pacing.until;
    CHECK_INT(second - first, SECOND);
    for (int i = 0; i < 10; i++) /* who asks again asks in vain, and takes nothing from others */
        CHECK(!send_one(&s, 0) && s.lane[0]->sending->pacing.until == first);
    CHECK_INT(atomic_load(&s.one.limit[0].state->waited), 2);
    CHECK(lane_delay(s.lane[0], &reason, &until) && until == first);
    CHECK_STR(reason, S("rate of source turns: 60/min"));
    struct why w = ticket_why(lane_first(s.lane[0]));
    CHECK_STR(w.reason, S("rate of source turns: 60/min"));
    CHECK(w.next > wall_now() - SECOND && w.next <= wall_now() + SECOND);
    CHECK_INT(lane_first(s.lane[0])->attempts, 0);
    scene_close(&s);
}

TASK_TEST(limits_a_turn_comes_by_itself_and_not_before_its_time)
{
    struct scene s;

    scene_open(&s, "comes", (struct rate){ 20, SECOND }, 0);
    for (int i = 0; i < 10; i++)
        add_mail(&s, S("a@one.example"));
    when began = clock_now();
    int sent = 0;
    while (send_one(&s, 0)) /* what may go at once */
        sent++;
    when from = s.lane[0]->sending->pacing.until - SECOND / 20;
    for (int i = 0; i < 6; i++) {
        for (int patience = 0; !s.lane[0]->sending->pacing.mine && patience < 2000; patience++)
            CHECK_ERR(task_sleep(clock_now() + 5 * MILLISECOND), OK);
        CHECK(s.lane[0]->sending->pacing.mine && s.lane[0]->sending->pacing.until == 0);
        sent += send_one(&s, 0);
        CHECK(sent <= 20 + (clock_now() - began) / (SECOND / 20) + 1, S("never more than the rate"));
        CHECK(clock_now() >= from + i * SECOND / 20, S("not before its time"));
        sent += send_one(&s, 0); /* it asks for the next */
        CHECK(s.lane[0]->nready > 0);
    }
    scene_close(&s);
}

TASK_TEST(limits_a_new_rate_holds_at_once)
{
    struct scene s;

    scene_open(&s, "changes", (struct rate){ 1, DAY }, 0);
    CHECK(send_one(&s, 0) && !send_one(&s, 0) && !send_one(&s, 1));
    CHECK(s.lane[1]->sending->pacing.until > clock_now() + 40 * HOUR);
    s.one.limit[0].rate = s.two.limit[0].rate = (struct rate){ 100, SECOND };
    limits_apply(&s.routes);
    lanes_pace_anew(&s.d);
    for (int patience = 0; !(s.lane[0]->sending->pacing.mine && s.lane[1]->sending->pacing.mine) && patience < 2000; patience++)
        CHECK_ERR(task_sleep(clock_now() + 5 * MILLISECOND), OK);
    CHECK(send_one(&s, 0) && send_one(&s, 1) && send_one(&s, 0) && send_one(&s, 1));
    s.one.limit[0].rate = s.two.limit[0].rate = (struct rate){ 1, DAY };
    limits_apply(&s.routes);
    CHECK(send_one(&s, 0) && !send_one(&s, 0));
    s.one.nlimit = 0; /* and none at all */
    lanes_pace_anew(&s.d);
    for (int patience = 0; s.lane[0]->sending->pacing.until && patience < 2000; patience++)
        CHECK_ERR(task_sleep(clock_now() + 5 * MILLISECOND), OK);
    CHECK_INT(s.lane[0]->sending->pacing.until, 0);
    scene_close(&s);
}

TASK_TEST(limits_connections_are_shared_and_left_to_who_has_none)
{
    struct scene s;
    struct slots a = { { NULL } }, b = { { NULL } }, c = { { NULL } };
    str reason;
    when until;

    scene_open(&s, "slots", (struct rate){ 0 }, 2);
    CHECK(lane_may_connect(s.lane[0], &s.one) && slots_take(&a, &s.one) && slots_take(&b, &s.one));
    CHECK(!slots_take(&c, &s.two) && !c.of[0], S("two are all"));
    s.lane[0]->sending->connections = 2;
    CHECK(!slots_wanted(&a), S("nobody else wants one"));
    CHECK(!lane_may_connect(s.lane[0], &s.one) && !slots_wanted(&a), S("who has some does not count"));
    CHECK(!lane_may_connect(s.lane[1], &s.two) && slots_wanted(&a), S("who has none is heard"));
    CHECK(lane_delay(s.lane[1], &reason, &until) && until == 0);
    CHECK_STR(reason, S("all 2 connections of source slots are in use"));
    slots_give(&a);
    s.lane[0]->sending->connections = 1;
    CHECK(!lane_may_connect(s.lane[0], &s.one), S("the one that is given up is for the other"));
    CHECK(lane_may_connect(s.lane[1], &s.two) && slots_take(&c, &s.two));
    slots_give(&b);
    slots_give(&c);
    slots_give(&c);
    CHECK_INT(atomic_load(&s.one.limit[0].state->used), 0);
    scene_close(&s);
}
