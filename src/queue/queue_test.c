#include "kit/kit.h"
#include "queue/inside.h"

TEST(retry_steps_and_their_spread)
{
    when steps[] = { MINUTE, HOUR };
    struct retry r = { .step = { steps, 2 }, .lifetime = 5 * DAY };

    for (int i = 0; i < 1000; i++) {
        when first = retry_after(&r, 1), later = retry_after(&r, 99);
        CHECK(first >= MINUTE - MINUTE / 8 && first <= MINUTE + MINUTE / 8 + 1);
        CHECK(later >= HOUR - HOUR / 8 && later <= HOUR + HOUR / 8 + 1);
    }
}

TEST(limiter_grants_its_rate_and_no_more)
{
    _Atomic int64_t clock = 0;
    struct rate rate = { .n = 10, .per = MINUTE };
    int granted = 0;

    for (int i = 0; i < 100; i++)
        granted += limiter_take(&clock, rate, HOUR);
    CHECK_INT(granted, 10);
    for (int i = 0; i < 100; i++)
        granted += limiter_take(&clock, rate, HOUR + 30 * SECOND);
    CHECK_INT(granted, 15);
    CHECK(!limiter_take(&clock, (struct rate){ 0 }, HOUR));
}

TEST(limiter_promises_turns_in_order)
{
    _Atomic int64_t clock = 0;
    when last = 0;
    int at_once = 0;

    for (int i = 0; i < 30; i++) { /* ten a second: ten at once, then one each 100 ms */
        when at = limiter_next(&clock, SECOND / 10, HOUR);
        at_once += at == HOUR;
        CHECK(at >= last && at >= HOUR);
        last = at;
    }
    CHECK_INT(at_once, 10);
    CHECK_INT(last, HOUR + 2 * SECOND);
    CHECK_INT(limiter_next(&clock, SECOND / 10, HOUR + DAY), HOUR + DAY); /* what nobody took is no more than a second's worth */
    at_once = 1;
    while (limiter_next(&clock, SECOND / 10, HOUR + DAY) == HOUR + DAY)
        at_once++;
    CHECK_INT(at_once, 10);
    atomic_store(&clock, 0); /* slower than one a second: one at a time */
    CHECK_INT(limiter_next(&clock, MINUTE, HOUR), HOUR);
    CHECK_INT(limiter_next(&clock, MINUTE, HOUR), HOUR + MINUTE);
    CHECK_INT(limiter_next(&clock, MINUTE, HOUR + 30 * SECOND), HOUR + 2 * MINUTE);
}

TEST(limiter_says_when)
{
    _Atomic int64_t clock = 0;
    struct rate rate = { .n = 2, .per = MINUTE };

    CHECK(limiter_when(&clock, rate, HOUR) <= HOUR);
    CHECK(limiter_take(&clock, rate, HOUR) && limiter_take(&clock, rate, HOUR) && !limiter_take(&clock, rate, HOUR));
    CHECK_INT(limiter_when(&clock, rate, HOUR), HOUR + 30 * SECOND);
    CHECK(!limiter_take(&clock, rate, HOUR + 30 * SECOND - 1) && limiter_take(&clock, rate, HOUR + 30 * SECOND));
}

TEST(interned_words_are_shared_and_given_back)
{
    struct intern in = { 0 };
    uint32_t a = intern_get(&in, S("connection refused")), b = intern_get(&in, S("connection refused"));

    CHECK_INT(a, b);
    CHECK_INT(intern_get(&in, S("")), 0);
    CHECK_STR(intern_str(&in, a), S("connection refused"));
    intern_put(&in, a);
    CHECK_STR(intern_str(&in, b), S("connection refused"));
    intern_put(&in, b);
    CHECK_INT(intern_get(&in, S("another")), a);
    CHECK_INT((int64_t)in.used, 1);
    intern_free(&in);
}

/* ---- a queue of two backends, without threads or spool ---- */

struct scene {
    struct backend one, two;
    struct backend *backends[2];
    struct relay_domain d1, d2;
    str n1[1], n2[1];
    when steps[1];
    struct retry retry;
    struct routes routes;
    struct queue *q;
    unsigned ready, expired, unroutable;
};

static void scene_ready(void *ctx, struct lane *lane) { (void)lane; ((struct scene *)ctx)->ready++; }
static void scene_expired(void *ctx, struct ticket *t) { ((struct scene *)ctx)->expired++; ticket_done(t); }
static void scene_resolve(void *ctx, struct lane *lane) { (void)ctx; (void)lane; }
static void scene_unroutable(void *ctx, struct ticket *t) { ((struct scene *)ctx)->unroutable++; ticket_done(t); }

static void scene_open(struct scene *s)
{
    *s = (struct scene){ .one = { .name = S("one") }, .two = { .name = S("two"), .mix_domains = true }, .steps = { MINUTE } };
    s->backends[0] = &s->one;
    s->backends[1] = &s->two;
    s->retry = (struct retry){ .step = { s->steps, 1 }, .lifetime = HOUR };
    s->d1.backend = &s->one;
    s->d2.backend = &s->two;
    s->routes = (struct routes){ .backend = s->backends, .nbackend = 2 };
    s->routes.exact.fold = s->routes.below.fold = true;
    map_put(&s->routes.exact, S("a.example"), &s->d1);
    map_put(&s->routes.exact, S("b.example"), &s->d1);
    map_put(&s->routes.below, S("two.example"), &s->d2);
    s->q = queue_new(&(struct queue_setup){ .retry = &s->retry, .routes = &s->routes, .body_budget = 1 << 20, .ready = scene_ready,
                                            .expired = scene_expired, .unroutable = scene_unroutable, .ctx = s });
}

static void scene_close(struct scene *s)
{
    queue_free(s->q);
    map_free(&s->routes.exact);
    map_free(&s->routes.below);
}

static struct mail *scene_mail(const str *rcpt, size_t n)
{
    arena *a = arena_new();
    struct message *m = NEW(a, struct message);

    m->id = ulid_new();
    m->at = (struct spool_ref){ 7, 4096 };
    m->origin.accepted = wall_now();
    m->env.rcpt = NEW_ARRAY(a, struct rcpt, n);
    m->env.nrcpt = n;
    for (size_t i = 0; i < n; i++)
        m->env.rcpt[i].to = rcpt[i];
    return mail_new(a, m, NULL);
}

static struct lane *scene_lane(struct scene *s, str name)
{
    struct lane *lane;

    for (size_t i = 0; (lane = queue_lane(s->q, i)); i++)
        if (str_eq(lane->name, name))
            return lane;
    return NULL;
}

TEST(a_message_becomes_a_ticket_a_domain_unless_the_backend_mixes_them)
{
    struct scene s;
    str rcpt[] = { S("x@a.example"), S("y@b.example"), S("z@A.example"), S("x@u.two.example"), S("y@v.two.example") };

    scene_open(&s);
    struct mail *mail = scene_mail(rcpt, COUNT(rcpt));
    ulid id = mail->m->id;
    queue_add(s.q, mail);
    CHECK_INT((int64_t)queue_totals(s.q).tickets, 3);
    CHECK_INT((int64_t)queue_totals(s.q).messages, 1);
    CHECK_INT(s.ready, 3);
    struct lane *one = scene_lane(&s, S("one")), *two = scene_lane(&s, S("two"));
    struct ticket *t = lane_take(one);
    CHECK_INT(ticket_count(t), 2);
    CHECK(ticket_has(t, 0) && ticket_has(t, 2) && !ticket_has(t, 1));
    CHECK(!ticket_last(t));
    CHECK(!ticket_done(t));
    struct ticket *u = lane_take(two);
    CHECK_INT(ticket_count(u), 2);
    CHECK(!ticket_done(u));
    CHECK(lane_take(two) == NULL);
    t = lane_take(one);
    CHECK(ticket_last(t));
    CHECK(queue_find(s.q, id) == t);
    CHECK(ticket_done(t));
    CHECK(queue_find(s.q, id) == NULL);
    scene_close(&s);
}

TEST(a_ticket_of_many_recipients_splits)
{
    struct scene s;
    AUTO_ARENA a = arena_new();
    size_t n = 200;
    str *rcpt = NEW_ARRAY(a, str, n);

    scene_open(&s);
    for (size_t i = 0; i < n; i++)
        rcpt[i] = str_printf(a, "u%zu@a.example", i);
    queue_add(s.q, scene_mail(rcpt, n));
    struct ticket *t = lane_take(scene_lane(&s, S("one")));
    CHECK_INT(ticket_count(t), 200);
    struct rcpt_set *set = arena_alloc(a, sizeof *set + 4 * sizeof set->bits[0]);
    set->n = 200;
    set->bits[0] = 1;
    set->bits[3] = 1 << 5;
    struct ticket *u = ticket_split(t, set);
    CHECK_INT(ticket_count(t), 198);
    CHECK_INT(ticket_count(u), 2);
    CHECK(ticket_has(u, 0) && ticket_has(u, 197) && !ticket_has(t, 197));
    ticket_defer(t, clock_now() + MINUTE, S("busy"));
    CHECK_STR(ticket_why(t).reason, S("busy"));
    CHECK(ticket_why(t).next > wall_now() + 50 * SECOND);
    CHECK(!ticket_done(u));
    CHECK(ticket_remove(t));
    CHECK(ticket_done(t));
    CHECK_INT((int64_t)queue_totals(s.q).tickets, 0);
    scene_close(&s);
}

TEST(what_was_put_off_comes_back_as_it_was)
{
    struct scene s;
    str rcpt[] = { S("x@a.example"), S("y@a.example"), S("z@b.example") };
    struct rcpt_state state[] = {
        { .index = 0, .status = RCPT_DELIVERED, .version = 1 },
        { .index = 1, .status = RCPT_WAITING, .version = 4, .attempts = 4, .next = wall_now() + HOUR, .reply = S("451 4.3.0 later") },
        { .index = 2, .status = RCPT_WAITING },
    };

    scene_open(&s);
    struct mail *found = scene_mail(rcpt, COUNT(rcpt));
    queue_load(s.q, found->m, state);
    mail_drop(found);
    CHECK_INT((int64_t)queue_totals(s.q).waiting, 1);
    CHECK_INT((int64_t)queue_totals(s.q).ready, 1);
    struct ticket *t[4];
    size_t at = 0;
    CHECK_INT((int64_t)queue_walk(s.q, &at, t, 4), 2);
    struct ticket *w = t[0]->state == TICKET_WAITING ? t[0] : t[1];
    CHECK_INT(w->attempts, 4);
    CHECK_INT(w->version, 5);
    CHECK(ticket_has(w, 1) && !ticket_has(w, 0));
    CHECK(ticket_retry(w));
    CHECK_INT((int64_t)queue_totals(s.q).ready, 2);
    scene_close(&s);
}

TEST(a_lane_that_is_down_keeps_its_mail_and_lets_the_too_old_go)
{
    struct scene s;
    str rcpt[] = { S("x@a.example") };

    scene_open(&s);
    queue_add(s.q, scene_mail(rcpt, 1));
    struct mail *old = scene_mail(rcpt, 1);
    old->m->origin.accepted -= 2 * HOUR;
    queue_add(s.q, old);
    struct lane *one = scene_lane(&s, S("one"));
    lane_down(one, S("connection refused"), clock_now() + SECOND);
    CHECK_INT(s.expired, 1);
    struct ticket *t[2];
    size_t at = 0;
    CHECK_INT((int64_t)queue_walk(s.q, &at, t, 2), 1);
    CHECK_STR(ticket_why(t[0]).reason, S("connection refused"));
    CHECK(t[0]->mail == NULL);
    unsigned before = s.ready;
    queue_add(s.q, scene_mail(rcpt, 1));
    CHECK_INT(s.ready, before);
    lane_open(one);
    CHECK_INT(s.ready, before + 1);
    scene_close(&s);
}

TEST(mail_to_nowhere_is_handed_out_to_fail)
{
    struct scene s;
    str rcpt[] = { S("x@nowhere.example"), S("y@a.example") };

    scene_open(&s);
    queue_add(s.q, scene_mail(rcpt, 2));
    CHECK_INT(s.unroutable, 1);
    CHECK_INT((int64_t)queue_totals(s.q).tickets, 1);
    scene_close(&s);
}

TEST(what_was_in_flight_when_its_backend_went_goes_another_way)
{
    struct scene s;
    str rcpt[] = { S("x@a.example") };

    scene_open(&s);
    queue_add(s.q, scene_mail(rcpt, 1));
    struct ticket *t = lane_take(scene_lane(&s, S("one")));
    CHECK(t != NULL);
    struct routes now = { .backend = s.backends + 1, .nbackend = 1 };
    now.exact.fold = true;
    map_put(&now.exact, S("a.example"), &s.d2);
    queue_configure(s.q, &s.retry, NULL, &now);
    ticket_return(t);
    CHECK_INT(s.unroutable, 0);
    t = lane_take(scene_lane(&s, S("two")));
    CHECK(t != NULL);
    struct routes none = { 0 };
    queue_configure(s.q, &s.retry, NULL, &none);
    ticket_return(t);
    CHECK_INT(s.unroutable, 0); /* not in the middle of ticket_return(), but soon */
    CHECK_INT(t->state, TICKET_WAITING);
    map_free(&now.exact);
    scene_close(&s);
}

TEST(a_new_configuration_moves_what_waits)
{
    struct scene s;
    str rcpt[] = { S("x@a.example") };

    scene_open(&s);
    queue_add(s.q, scene_mail(rcpt, 1));
    struct routes now = { .backend = s.backends, .nbackend = 2 };
    now.exact.fold = true;
    map_put(&now.exact, S("a.example"), &s.d2);
    queue_configure(s.q, &s.retry, NULL, &now);
    CHECK(lane_take(scene_lane(&s, S("one"))) == NULL);
    struct ticket *t = lane_take(scene_lane(&s, S("two")));
    CHECK(t != NULL);
    ticket_done(t);
    map_free(&now.exact);
    scene_close(&s);
}

/* ---- streams ---- */

static struct mail_stream fast = { .name = S("fast"), .number = 3, .weight = 4 }, slow = { .name = S("slow"), .number = 9, .weight = 1 };

static void add_of(struct scene *s, const struct streams *streams, str stream, unsigned n)
{
    str rcpt[] = { S("x@a.example") };

    s->q->setup.streams = streams;
    for (unsigned i = 0; i < n; i++) {
        struct mail *mail = scene_mail(rcpt, 1);
        mail->m->origin.stream = stream;
        queue_add(s->q, mail);
    }
}

/* Takes n, and writes a letter for the stream of each. */
static const char *turns(struct lane *lane, char *z, unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        struct ticket *first = lane_first(lane), *t = lane_take(lane);
        CHECK(first == t); /* who looks is told the truth */
        z[i] = t ? "-..f.....s"[t->stream] : '!';
        if (t)
            ticket_done(t);
    }
    z[n] = '\0';
    return z;
}

TEST(streams_take_turns_by_weight_the_greatest_first)
{
    struct scene s;
    struct mail_stream *both[] = { &slow, &fast };
    struct streams streams = { both, 2 };
    char z[64];

    scene_open(&s);
    add_of(&s, &streams, S("slow"), 8);
    add_of(&s, &streams, S("fast"), 9);
    struct lane *lane = scene_lane(&s, S("one"));
    CHECK_INT((int64_t)lane->nready, 17);
    CHECK_INT((int64_t)queue_totals(s.q).stream[3], 9);
    CHECK_STR(str_z(turns(lane, z, 12)), S("ffffsffffsfs")); /* who has no more leaves its turn to others */
    add_of(&s, &streams, S("fast"), 2);
    CHECK_STR(str_z(turns(lane, z, 3)), S("ffs"));

    /* Mail of no stream has its share, and so has that of a stream that was taken out of the configuration. */
    add_of(&s, &streams, S(""), 22);
    CHECK_STR(str_z(turns(lane, z, 24)), S("--------------------s--s"));
    struct streams none = { 0 };
    add_of(&s, &streams, S("fast"), 3);
    add_of(&s, &streams, S("slow"), 3);
    queue_configure(s.q, &s.retry, &none, &s.routes);
    CHECK_INT((int64_t)lane->nready, 9 - 3 + 2);
    while (lane_first(lane))
        ticket_done(lane_take(lane));
    CHECK_INT((int64_t)queue_totals(s.q).tickets, 0);
    CHECK_INT((int64_t)queue_totals(s.q).stream[3] + (int64_t)queue_totals(s.q).stream[9], 0);
    scene_close(&s);
}

TEST(all_that_is_ready_is_walked_whatever_its_stream)
{
    struct scene s;
    struct mail_stream *both[] = { &slow, &fast };
    struct streams streams = { both, 2 };
    unsigned n = 0;

    scene_open(&s);
    add_of(&s, &streams, S("slow"), 3);
    add_of(&s, &streams, S(""), 3);
    add_of(&s, &streams, S("fast"), 3);
    struct lane *lane = scene_lane(&s, S("one"));
    for (struct ticket *t = lane_first(lane); t; t = lane_after(t))
        n++;
    CHECK_INT(n, 9);
    struct ticket *t = lane_take(lane);
    ticket_return(t); /* to the front of its own line */
    CHECK(lane_first(lane) == t);
    CHECK_INT((int64_t)lane->nready, 9);
    for (t = lane_first(lane); t; t = lane_after(t))
        t->accepted -= 2 * HOUR;
    lane_down(lane, S("out"), clock_now() + MINUTE);
    CHECK_INT(s.expired, 9); /* of every line */
    CHECK_INT((int64_t)lane->nready, 0);
    scene_close(&s);
}

TEST(a_stream_has_its_own_schedule)
{
    when steps[] = { 5 * SECOND };
    struct mail_stream hasty = { .name = S("hasty"), .number = 2, .weight = 1, .retry = { .step = { steps, 1 }, .lifetime = 10 * MINUTE } }, *one[] = { &hasty, &fast };
    struct streams streams = { one, 2 };
    struct scene s;

    scene_open(&s);
    add_of(&s, &streams, S("hasty"), 1);
    add_of(&s, &streams, S("fast"), 1);
    struct lane *lane = scene_lane(&s, S("one"));
    struct ticket *t = lane_take(lane), *other;
    CHECK_INT(t->lifetime, HOUR / SECOND); /* fast has none of its own */
    other = lane_take(lane);
    CHECK_INT(other->lifetime, 600);
    CHECK(stream_retry(&streams, other->stream, &s.retry) == &hasty.retry);
    CHECK(stream_retry(&streams, t->stream, &s.retry) == &s.retry);
    scene_close(&s);
}

/* ---- sources ---- */

/* Mail for a.example leaves by s1 and s2 in turn, by MX where `mx` says so. */
struct fan {
    struct scene s;
    arena *a;
    struct outlet_state state[2];
    struct outlet outlet[2];
    struct outlet_use use[2];
    struct outlet_pool pool;
    struct outlets outlets;
    struct backend by[2];
    struct backend *all[4];
    uint8_t turn[2];
};

static void fan_open(struct fan *f, bool mx)
{
    static const str name[] = { S("s1"), S("s2") }, of_one[] = { S("one@s1"), S("one@s2") }, of_mx[] = { S("mx@s1"), S("mx@s2") };

    *f = (struct fan){ .pool = { .use = f->use, .n = 2 }, .turn = { 0, 1 } };
    scene_open(&f->s);
    f->s.one.mx = mx;
    if (mx)
        f->s.one.name = S("mx");
    f->outlets = (struct outlets){ .of = &f->s.one, .pool = &f->pool, .turn = f->turn, .nturn = 2 };
    for (size_t i = 0; i < 2; i++) {
        f->outlet[i] = (struct outlet){ .name = name[i], .state = &f->state[i] };
        f->use[i] = (struct outlet_use){ .outlet = &f->outlet[i], .weight = 1 };
        f->by[i] = f->s.one;
        f->by[i].name = mx ? of_mx[i] : of_one[i];
        f->by[i].outlet = &f->outlet[i];
        f->by[i].base = &f->s.one;
        f->by[i].among = &f->outlets;
        f->outlets.by[i] = f->all[2 + i] = &f->by[i];
    }
    f->all[0] = &f->s.one;
    f->all[1] = &f->s.two;
    f->s.one.outlets = &f->outlets;
    static struct outlets *list[1];
    list[0] = &f->outlets;
    f->s.routes.backend = f->all;
    f->s.routes.nbackend = 4;
    f->s.routes.outlets = list;
    f->s.routes.noutlets = 1;
}

static void fan_mail(struct fan *f, size_t mails)
{
    str rcpt[] = { S("x@a.example"), S("y@a.example"), S("x@b.example") };

    for (size_t i = 0; i < mails; i++)
        queue_add(f->s.q, scene_mail(rcpt, COUNT(rcpt)));
}

TEST(mail_goes_to_the_lanes_of_its_sources_in_turn)
{
    static struct fan f;

    fan_open(&f, false);
    fan_mail(&f, 6);
    struct lane *one = scene_lane(&f.s, S("one@s1")), *two = scene_lane(&f.s, S("one@s2"));
    if (!CHECK(one && two && !scene_lane(&f.s, S("one"))))
        return;
    CHECK(one->nready == 6 && two->nready == 6); /* two domains each: a message's tickets go together */
    CHECK_STR(lane_outlet(one)->name, S("s1"));
    CHECK_STR(lane_backend_name(one), S("one"));
    scene_close(&f.s);
}

TEST(mail_stays_with_its_source_until_that_is_down)
{
    static struct fan f;

    fan_open(&f, false);
    fan_mail(&f, 2);
    struct lane *one = scene_lane(&f.s, S("one@s1")), *two = scene_lane(&f.s, S("one@s2"));
    struct ticket *t = lane_take(one);
    ticket_defer(t, clock_now(), S("later"));
    CHECK(lane_again(t) == one);
    lane_down(one, S("no route from here"), clock_now() + HOUR);
    CHECK(lane_again(t) == two);
    CHECK(!lane_leave(one, true) && one->nready == 1, S("nobody knows that it is better by s2"));
    two->sending->answered = clock_now() + SECOND;
    CHECK(!lane_leave(one, true) && one->nready == 0, S("it is"));
    fan_mail(&f, 2);
    CHECK(one->nready == 0, S("new mail goes by the one that is open"));
    lane_down(two, S("nor from here"), clock_now() + HOUR);
    CHECK(lane_again(t) == one, S("both are down: it stays"));
    fan_mail(&f, 2);
    CHECK(one->nready == 2 && two->nready == 9);
    scene_close(&f.s);
}

TEST(mail_leaves_a_lane_whose_source_cannot_be_used)
{
    static struct fan f;

    fan_open(&f, false);
    fan_mail(&f, 4);
    struct lane *one = scene_lane(&f.s, S("one@s1")), *two = scene_lane(&f.s, S("one@s2"));
    lane_down(one, S("source s1: no such address"), clock_now() + HOUR);
    one->unfit = true;
    CHECK(!lane_leave(one, false) && one->nready == 0 && two->nready == 8);
    f.by[0].among = f.by[1].among = NULL; /* in several pools: only the message says which */
    lane_open(one);
    lane_down(two, S("source s2: no such address"), clock_now() + HOUR);
    two->unfit = true;
    CHECK(!lane_leave(two, true) && lane_leave(two, false) && two->nready == 8);
    f.s.q->leaving = true; /* somebody reads them already */
    CHECK(!lane_leave(two, false));
    scene_close(&f.s);
}

TEST(mail_by_mx_has_lanes_a_source_too)
{
    static struct fan f;
    struct site_host host = { S("mx1.a.example"), 10 };
    struct site site = { .kind = SITE_HOSTS, .host = &host, .n = 1, .ttl = 300 };

    fan_open(&f, true);
    f.s.q->setup.resolve = scene_resolve;
    fan_mail(&f, 2);
    struct lane *one = scene_lane(&f.s, S("domain:a.example@s1")), *two = scene_lane(&f.s, S("domain:a.example@s2"));
    if (!CHECK(one && two && one->nready == 1 && two->nready == 1 && !scene_lane(&f.s, S("domain:a.example"))))
        return;
    queue_site(one, &site);
    queue_site(two, &site);
    struct lane *to = scene_lane(&f.s, S("mx:mx1.a.example@s1"));
    if (!CHECK(to && scene_lane(&f.s, S("mx:mx1.a.example@s2")) && to->nready == 1))
        return;
    CHECK(to->backend->outlet == &f.outlet[0]);
    CHECK(to->backend->server[0].state != scene_lane(&f.s, S("mx:mx1.a.example@s2"))->backend->server[0].state);
    /* A configuration without that source: what was in flight finds another way, and the old one is not looked at again. */
    struct ticket *t = lane_take(to);
    f.s.routes.nbackend = 2;
    f.s.routes.noutlets = 0;
    f.s.one.outlets = NULL;
    queue_configure(f.s.q, &f.s.retry, NULL, &f.s.routes);
    CHECK(!to->backend && !lane_leads(to));
    ticket_return(t);
    CHECK_STR(t->lane->name, S("domain:a.example"));
    scene_close(&f.s);
}

/* ---- sites of relay domains, which may have a brake ---- */

static struct brake_count refusals(unsigned n) { return (struct brake_count){ .by_rcpt = n, .example = S("ann@a.example"), .reply = S("550 no") }; }

TEST(mail_of_listed_relay_domains_has_lanes_of_its_own_at_a_site)
{
    struct scene s;
    struct site_host host = { S("mx1.shared.example"), 10 }, other = { S("mx2.shared.example"), 10 };
    struct site site = { .kind = SITE_HOSTS, .host = &host, .n = 1, .ttl = 300 }, moved = { .kind = SITE_HOSTS, .host = &other, .n = 1, .ttl = 300 };
    str rcpt[] = { S("x@a.example"), S("y@elsewhere.example"), S("z@b.example") };
    const struct brake_settings on = { 20, MINUTE };

    scene_open(&s);
    s.q->setup.resolve = scene_resolve;
    s.one = (struct backend){ .name = S("mx"), .mx = true, .braking = on };
    s.routes.fallback = &s.one;
    queue_add(s.q, scene_mail(rcpt, 3));
    struct lane *ours = scene_lane(&s, S("domain:a.example")), *theirs = scene_lane(&s, S("domain:elsewhere.example")), *too = scene_lane(&s, S("domain:b.example"));
    if (!CHECK(ours && theirs && too))
        return;
    queue_site(ours, &site);
    queue_site(theirs, &site);
    queue_site(too, &site);
    struct lane *relay = scene_lane(&s, S("mx:mx1.shared.example:relay")), *all = scene_lane(&s, S("mx:mx1.shared.example"));
    if (!CHECK(relay && all && relay->nready == 2 && all->nready == 1 && relay->backend->relay && !all->backend->relay))
        return;
    CHECK_STR(lane_subject(relay), S("mx:mx1.shared.example"));
    CHECK(lane_is_called(relay, S("mx:mx1.shared.example")) && lane_is_called(all, S("mx:mx1.shared.example")) && !lane_is_called(all, relay->name));
    CHECK(!lane_is_called(relay, S("mx")));
    CHECK(!backend_brake_make(all->backend, S("a.example"), clock_now()));

    /* It goes where the domain's MX records lead by now, when its site is frozen; the other domain's stays. */
    struct brake *b = backend_brake_make(relay->backend, S("a.example"), clock_now());
    struct brake_count n = refusals(20);
    CHECK(brake_count(b, &on, &n, clock_now()));
    incident_open(INCIDENT_REFUSES, lane_subject(relay), S("so"), S("later"));
    lane_freeze(relay, INCIDENT_REFUSES, S("so"), clock_now() + HOUR);
    ours->fresh_until = 0;
    lane_ask_again(relay);
    CHECK(ours->asking && !too->asking);
    queue_site(ours, &moved);
    struct lane *now = ours->site;
    CHECK_STR(now->name, S("mx:mx2.shared.example:relay"));
    CHECK(relay->nready == 1 && now->nready == 1 && now->state == LANE_OPEN && !backend_brake(now->backend));

    /* A configuration that takes any recipient, or wants no brake: nothing need be kept apart. */
    s.d1.recipients.any = true;
    queue_configure(s.q, &s.retry, NULL, &s.routes);
    CHECK(!ours->site && ours->nready == 1 && too->nready == 1 && theirs->site == all && !relay->domains);
    queue_site(ours, &site);
    CHECK(ours->site == all && all->nready == 2);
    s.d1.recipients.any = false;
    s.one.braking.least = 0;
    queue_configure(s.q, &s.retry, NULL, &s.routes);
    CHECK(ours->site == all);

    /* A lane that nobody needs gives its brake back, and what that was on for is over. */
    CHECK(brake_on(b) && incident_is_open(INCIDENT_REFUSES, S("mx:mx1.shared.example")));
    relay->since -= 2 * MINUTE;
    s.q->swept = clock_now() - 2 * MINUTE;
    lanes_sweep(s.q);
    CHECK(!scene_lane(&s, S("mx:mx1.shared.example:relay")) && !incident_is_open(INCIDENT_REFUSES, S("mx:mx1.shared.example")));
    CHECK(!brake_find(S("mx:mx1.shared.example")));
    scene_close(&s);
}

/* ---- handed on ---- */

TEST(what_a_way_does_not_take_in_time_goes_to_its_fallback_once)
{
    struct scene s;
    str rcpt[] = { S("x@a.example"), S("y@two.two.example"), S("z@other.two.example") };

    scene_open(&s);
    s.d1.other = (struct elsewhere){ .fallback = &s.two, .after = MINUTE };
    s.routes.hands_on = true;
    struct mail *fresh = scene_mail(rcpt, 1), *old = scene_mail(rcpt, 3);
    old->m->origin.accepted -= 2 * MINUTE;
    ulid id = old->m->id;
    queue_add(s.q, fresh);
    queue_add(s.q, old);
    struct lane *one = scene_lane(&s, S("one")), *two = scene_lane(&s, S("two"));
    CHECK_INT((int64_t)one->nready, 2);
    lane_down(one, S("connection refused"), clock_now() + SECOND);
    CHECK_INT((int64_t)one->nready, 1); /* the fresh one still waits here */
    CHECK_INT((int64_t)two->nready, 2);
    struct ticket *t = lane_take(two);
    CHECK_INT(ticket_count(t), 2); /* recipients of a lane that mixes domains stay together */
    ticket_return(t);
    lane_down(two, S("connection refused"), clock_now() + SECOND);
    CHECK_INT((int64_t)two->nready, 2); /* and from there nothing goes on */
    CHECK(queue_find(s.q, id) != NULL);
    scene_close(&s);
}

TEST(an_operator_who_closes_a_lane_keeps_its_mail_there)
{
    struct scene s;
    str rcpt[] = { S("x@a.example") };

    scene_open(&s);
    s.d1.other = (struct elsewhere){ .fallback = &s.two };
    s.routes.hands_on = true;
    queue_add(s.q, scene_mail(rcpt, 1));
    queue_suspend(s.q, S("one"), clock_now() + HOUR, S("repair"));
    CHECK_INT((int64_t)scene_lane(&s, S("one"))->nready, 1);
    CHECK(scene_lane(&s, S("two")) == NULL);
    scene_close(&s);
}

TEST(mail_that_may_be_handed_on_goes_by_its_domain_alone)
{
    struct scene s;
    str rcpt[] = { S("x@a.two.example"), S("y@b.two.example") };

    scene_open(&s);
    s.d2.other = (struct elsewhere){ .unknown = &s.one };
    s.routes.hands_on = true;
    queue_add(s.q, scene_mail(rcpt, 2));
    struct lane *two = scene_lane(&s, S("two"));
    CHECK_INT((int64_t)two->nready, 2); /* although it mixes domains */
    struct ticket *t = lane_take(two);
    const struct elsewhere *e = ticket_elsewhere(t, S("a.two.example"));
    CHECK(e && e->unknown == &s.one);
    ticket_hand_on(t, e->unknown, S("a.two.example"));
    t = lane_take(scene_lane(&s, S("one")));
    CHECK(t && !ticket_elsewhere(t, S("a.two.example")));
    ticket_return(t);
    /* A new configuration asks the first again: it may know by now. */
    queue_configure(s.q, &s.retry, NULL, &s.routes);
    CHECK_INT((int64_t)two->nready, 2);
    /* Where no rule decides, that is. */
    struct ticket *r = lane_take(two);
    ticket_return(r);
    CHECK(ticket_reroute(r, &s.one));
    CHECK(!ticket_elsewhere(r, S("a.two.example")));
    scene_close(&s);
}
