/* Mail that changes threads: two queues of one backend, without threads or spool. */
#include "kit/kit.h"
#include "queue/inside.h"

struct pair {
    struct backend one;
    struct backend *backends[1];
    struct relay_domain domain;
    when steps[1];
    struct retry retry;
    struct routes routes;
    struct queue *from, *to;
    unsigned ready;
};

static void pair_ready(void *ctx, struct lane *lane) { (void)lane; ((struct pair *)ctx)->ready++; }
static void pair_resolve(void *ctx, struct lane *lane) { (void)ctx; (void)lane; }
static void pair_settled(void *ctx, struct ticket *t) { (void)ctx; ticket_done(t); }

static void pair_open(struct pair *s)
{
    *s = (struct pair){ .one = { .name = S("one") }, .steps = { MINUTE } };
    s->backends[0] = &s->one;
    s->domain.backend = &s->one;
    s->retry = (struct retry){ .step = { s->steps, 1 }, .lifetime = HOUR };
    s->routes = (struct routes){ .backend = s->backends, .nbackend = 1 };
    map_put(&s->routes.exact, S("a.example"), &s->domain);
    map_put(&s->routes.exact, S("b.example"), &s->domain);
    struct queue_setup setup = { .retry = &s->retry, .routes = &s->routes, .body_budget = 1 << 20, .ready = pair_ready, .resolve = pair_resolve,
                                 .expired = pair_settled, .unroutable = pair_settled, .ctx = s };
    s->from = queue_new(&setup);
    s->to = queue_new(&setup);
}

static void pair_close(struct pair *s)
{
    queue_free(s->from);
    queue_free(s->to);
    map_free(&s->routes.exact);
}

static ulid pair_add(struct pair *s, const char *rcpt, const char *other)
{
    arena *a = arena_new();
    struct message *m = NEW(a, struct message);

    m->id = ulid_new();
    m->at = (struct spool_ref){ 7, 4096 };
    m->origin.accepted = wall_now();
    m->env.sender = S("news@sender.example");
    m->env.rcpt = NEW_ARRAY(a, struct rcpt, 2);
    m->env.nrcpt = other ? 2 : 1;
    m->env.rcpt[0].to = str_z(rcpt);
    m->env.rcpt[1].to = other ? str_z(other) : S("");
    queue_add(s->from, mail_new(a, m, NULL));
    return m->id;
}

static struct lane *lane_in(struct queue *q) { return queue_lane_called(q, S("one")); }

TEST(parcel_what_waits_changes_threads_in_its_order_and_with_its_memory)
{
    struct pair s;
    ulid id[10];

    pair_open(&s);
    for (int i = 0; i < 10; i++)
        id[i] = pair_add(&s, "x@a.example", NULL);
    size_t bytes = queue_totals(s.from).body_bytes;
    struct parcel *p = lane_pack(lane_in(s.from), 4);
    CHECK_INT((int64_t)p->n, 4);
    CHECK(!queue_find(s.from, id[0]) && queue_find(s.from, id[4]));
    CHECK_INT((int64_t)queue_totals(s.from).body_bytes, (int64_t)(bytes / 10 * 6));
    CHECK_INT((int64_t)queue_totals(s.from).ready, 6);
    unsigned before = s.ready;
    queue_unpack(s.to, p);
    CHECK_INT(s.ready, before + 4);
    CHECK_INT((int64_t)queue_totals(s.to).body_bytes, (int64_t)(bytes / 10 * 4));
    for (int i = 0; i < 4; i++) {
        struct ticket *t = lane_take(lane_in(s.to));
        CHECK(t && ulid_eq(t->id, id[i]) && t == queue_find(s.to, id[i]) && ticket_last(t) && t->mail);
        CHECK_STR(ticket_domain(t), S("a.example"));
        CHECK_STR(ticket_sender_domain(t), S("sender.example"));
        CHECK(ticket_done(t));
    }
    CHECK_INT((int64_t)(queue_totals(s.to).tickets + queue_totals(s.to).body_bytes), 0);
    pair_close(&s);
}

TEST(parcel_only_mail_that_is_whole_and_untouched_goes_and_only_once)
{
    struct pair s;

    pair_open(&s);
    pair_add(&s, "x@a.example", "y@b.example"); /* two tickets */
    ulid tried = pair_add(&s, "x@a.example", NULL), returned = pair_add(&s, "x@a.example", NULL);
    ticket_defer(lane_take_this(queue_find(s.from, tried)), clock_now(), S("451 busy"));
    ticket_retry(queue_find(s.from, tried));
    ticket_return(lane_take_this(queue_find(s.from, returned))); /* nothing was said about it */
    CHECK_INT(lane_in(s.from)->nready, 4);
    struct parcel *p = lane_pack(lane_in(s.from), 10);
    CHECK(p && p->n == 1 && ulid_eq(p->first->t.id, returned));
    CHECK(!lane_pack(lane_in(s.from), 10), S("nothing else may go"));
    queue_unpack(s.to, p);
    CHECK(!lane_pack(lane_in(s.to), 10), S("nor that a second time"));
    pair_close(&s);
}

TEST(parcel_who_holds_its_mail_keeps_it)
{
    struct pair s;

    pair_open(&s);
    struct ticket *t = queue_find(s.from, pair_add(&s, "x@a.example", NULL));
    struct mail *mail = t->mail;
    mail->holders++;
    CHECK(!lane_pack(t->lane, 10));
    mail_drop(mail);
    struct parcel *p = lane_pack(t->lane, 10);
    CHECK_INT((int64_t)p->n, 1);
    parcel_free(p); /* its thread ended: the spool has it */
    CHECK_INT((int64_t)(queue_totals(s.from).tickets + queue_totals(s.from).body_bytes), 0);
    pair_close(&s);
}

TEST(parcel_a_message_that_moved_is_found_where_it_came)
{
    struct pair s;

    pair_open(&s);
    ulid id = pair_add(&s, "x@a.example", NULL);
    struct spool_move move = { .id = id, .from = { 7, 4096 }, .to = { 9, 512 }, .holders = 3 };
    struct parcel *p = lane_pack(lane_in(s.from), 10);
    queue_moved(s.from, &move); /* the first round: it is on its way */
    queue_moved(s.to, &move);
    queue_unpack(s.to, p);
    queue_moved(s.from, &move);
    queue_moved(s.to, &move);
    CHECK_INT((int64_t)queue_find(s.to, id)->home.segment, 9);
    CHECK_INT((int64_t)queue_find(s.to, id)->mail->m->at.offset, 512);
    CHECK_INT((int64_t)move.holders, 4);
    atomic_fetch_sub(&move.holders, 1);
    queue_find(s.to, id)->mail->move = NULL;
    pair_close(&s);
}

TEST(parcel_of_a_backend_that_went_meanwhile_is_settled_like_all_others)
{
    struct pair s;

    pair_open(&s);
    ulid id = pair_add(&s, "x@a.example", NULL);
    struct parcel *p = lane_pack(lane_in(s.from), 10);
    p->by = S("gone");
    queue_unpack(s.to, p);
    CHECK_INT(queue_find(s.to, id)->state, TICKET_READY); /* by its domain */
    pair_close(&s);
}
