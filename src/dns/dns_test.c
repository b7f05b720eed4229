/* The resolver over a source of answers that does what each test says. */
#include "dns/inside.h"
#include "kit/kit.h"

#include <stdio.h>

/* ---- a source under our control ---- */

static struct fake {
    pthread_mutex_t lock;
    struct link asked;                  /* questions, the oldest first */
    unsigned nasked, opens, closes;
    unsigned servers;                   /* that the last open() got */
    bool fails;
    str hosts, resolv;
} fake = { .lock = PTHREAD_MUTEX_INITIALIZER };

static err fake_open(const struct dns_settings *s, void **ret)
{
    if (fake.fails)
        return fail(E_NOTFOUND, "no such keys");
    fake.opens++;
    fake.servers = (unsigned)s->server.n;
    *ret = &fake;
    return OK;
}

static err fake_read(arena *a, str path, size_t most, str *ret)
{
    str text = str_eq(path, S("hosts")) ? fake.hosts : fake.resolv;

    (void)a;
    if (!text.p)
        return fail(E_NOTFOUND, "%.*s", STR(path));
    must(text.n <= most);
    *ret = text;
    return OK;
}

static void fake_ask(void *ctx, struct dns_question *q)
{
    (void)ctx;
    pthread_mutex_lock(&fake.lock);
    list_add(&fake.asked, &q->link);
    fake.nasked++;
    pthread_mutex_unlock(&fake.lock);
}

static struct dns_question *asked(void)
{
    struct dns_question *q = NULL;

    pthread_mutex_lock(&fake.lock);
    if (!list_empty(&fake.asked)) {
        q = AROUND(fake.asked.next, struct dns_question, link);
        list_del(&q->link);
    }
    pthread_mutex_unlock(&fake.lock);
    return q;
}

static void fake_close(void *ctx)
{
    struct dns_question *q;
    struct link mine;

    (void)ctx;
    fake.closes++;
    /* What is answered may come back at once, to the next. */
    pthread_mutex_lock(&fake.lock);
    mine = fake.asked;
    if (list_empty(&fake.asked))
        list_init(&mine);
    else
        mine.next->prev = mine.prev->next = &mine;
    list_init(&fake.asked);
    pthread_mutex_unlock(&fake.lock);
    while (!list_empty(&mine)) {
        q = AROUND(mine.next, struct dns_question, link);
        list_del(&q->link);
        dns_answered(q, &(struct dns_reply){ .e = E_CLOSED });
    }
}

static const struct dns_source fake_source = { .open = fake_open, .read = fake_read, .ask = fake_ask, .close = fake_close };

/* Time goes on when we say so, and never back. */
static when ahead, (*real_now)(void);
static when later_now(void) { return real_now() + __atomic_load_n(&ahead, __ATOMIC_RELAXED); }

static void time_passes(when by)
{
    if (!real_now) {
        real_now = base_seam.now;
        base_seam.now = later_now;
    }
    __atomic_fetch_add(&ahead, by, __ATOMIC_RELAXED);
    task_sleep(clock_now() + MILLISECOND); /* the scheduler sees it */
}

static struct resolver *resolver_of(const struct dns_settings *s)
{
    struct resolver *r;

    fake.nasked = fake.opens = fake.closes = 0;
    fake.fails = false;
    fake.hosts = fake.resolv = (str){ 0 };
    list_init(&fake.asked);
    dns_source = &fake_source;
    must(resolver_open(s, &r) == OK);
    dns_source = &dns_unbound;
    return r;
}

static const struct dns_settings plain = { .timeout = 20 * SECOND, .cache = 1 << 20 };

static bool answer(const struct dns_reply *reply)
{
    struct dns_question *q = asked();

    if (q)
        dns_answered(q, reply);
    return q != NULL;
}

static str mx_data(arena *a, unsigned preference, str host)
{
    struct buf out = buf_in(a, 300);
    str label;

    buf_addc(&out, (char)(preference >> 8));
    buf_addc(&out, (char)preference);
    while (str_cut(&host, S("."), &label)) {
        buf_addc(&out, (char)label.n);
        buf_add(&out, label);
    }
    buf_addc(&out, 0);
    return buf_str(&out);
}

/* One task with one question. */
struct one { struct resolver *r; str name; when deadline; err e; struct dns_txt txt; arena *a; bool done; };

static err ask_one(void *arg)
{
    struct one *o = arg;

    o->e = dns_txt(o->r, o->a, o->name, o->deadline, &o->txt);
    o->done = true;
    return OK;
}

static struct one one(struct resolver *r, arena *a, str name) { return (struct one){ .r = r, .name = name, .a = a, .deadline = NEVER, .e = E_COUNT }; }

static const str abc = { "\3abc", 4 };
#define ABC { .rdata = &abc, .n = 1, .ttl = 300, .secure = true }

/* ---- once for many, and known afterwards ---- */

TASK_TEST(dns_asks_once_for_many)
{
    AUTO_ARENA a = arena_new();
    struct resolver *r = resolver_of(&plain);
    static struct one o[50];
    AUTO_GROUP g = group_open(NEVER);

    EACH(o, k) {
        *k = one(r, a, k == o ? S("Example.ORG.") : S("example.org"));
        group_spawn(&g, "ask", ask_one, k);
    }
    task_sleep(clock_now() + MILLISECOND);
    CHECK_INT(fake.nasked, 1);
    CHECK_INT(resolver_counts(r).waiting, 50);
    CHECK_INT(resolver_counts(r).joined, 49);
    CHECK(answer(&(struct dns_reply)ABC));
    group_wait(&g);
    EACH(o, k) {
        CHECK_ERR(k->e, OK);
        CHECK(k->txt.all.n == 1 && k->txt.about.secure);
        CHECK_STR(k->txt.all.p[0], S("abc"));
        CHECK_STR(k->txt.about.name, S("example.org"));
    }
    struct one again = one(r, a, S("EXAMPLE.org"));
    ask_one(&again);
    CHECK_ERR(again.e, OK);
    CHECK_INT(fake.nasked, 1);
    CHECK_INT(resolver_counts(r).known, 1);
    CHECK_INT(resolver_counts(r).waiting + resolver_counts(r).under_way, 0);
    resolver_close(r);
}

/* How long is it kept? Asked again a moment before and a moment after. */
static void kept(const struct dns_reply *reply, when keep, err want, str which)
{
    AUTO_ARENA a = arena_new();
    struct resolver *r = resolver_of(&plain);
    AUTO_GROUP g = group_open(NEVER);
    struct one first = one(r, a, S("a.example")), before = first, behind = first;

    group_spawn(&g, "ask", ask_one, &first);
    task_yield();
    CHECK(answer(reply), which);
    group_wait(&g);
    CHECK_ERR(first.e, want, which);
    time_passes(keep - 2 * SECOND);
    ask_one(&before);
    CHECK_ERR(before.e, want, which);
    CHECK_INT(fake.nasked, 1, which);
    time_passes(3 * SECOND);
    group_spawn(&g, "ask", ask_one, &behind);
    task_yield();
    CHECK_INT(fake.nasked, 2, which);
    answer(reply);
    group_wait(&g);
    resolver_close(r);
}

TASK_TEST(dns_keeps_answers_as_long_as_they_say)
{
    kept(&(struct dns_reply)ABC, 300 * SECOND, OK, S("as it says"));
    kept(&(struct dns_reply){ .rdata = &abc, .n = 1, .ttl = 0 }, 5 * SECOND, OK, S("at least"));
    kept(&(struct dns_reply){ .rdata = &abc, .n = 1, .ttl = UINT32_MAX }, DAY, OK, S("at most"));
    kept(&(struct dns_reply){ .rcode = RCODE_NXDOMAIN, .ttl = 60 }, 60 * SECOND, E_NONAME, S("no name, as the SOA says"));
    kept(&(struct dns_reply){ .rcode = RCODE_NXDOMAIN, .ttl = 86400 }, 15 * MINUTE, E_NONAME, S("no name, at most"));
    kept(&(struct dns_reply){ .rcode = RCODE_NXDOMAIN }, 30 * SECOND, E_NONAME, S("no name and no SOA"));
    kept(&(struct dns_reply){ .ttl = 60 }, 60 * SECOND, OK, S("no data"));
    kept(&(struct dns_reply){ .rcode = RCODE_SERVFAIL, .ttl = 600 }, 5 * SECOND, E_AGAIN, S("failed"));
    kept(&(struct dns_reply){ .bogus = true, .rcode = RCODE_SERVFAIL }, 5 * SECOND, E_BOGUS, S("bogus"));
}

TASK_TEST(attack_52_only_nxdomain_means_there_is_none)
{
    static const str cut = { "\5abc", 4 };
    static const struct { struct dns_reply reply; err want; } cases[] = {
        { { .rcode = RCODE_NXDOMAIN, .secure = true }, E_NONAME },
        { { .rcode = RCODE_OK }, OK },
        { { .rcode = 1 }, E_AGAIN }, { { .rcode = RCODE_SERVFAIL }, E_AGAIN }, { { .rcode = 4 }, E_AGAIN }, { { .rcode = 5 }, E_AGAIN }, { { .rcode = 16 }, E_AGAIN },
        { { .e = E_IO }, E_AGAIN }, { { .e = E_CLOSED }, E_AGAIN }, { { .e = E_NONAME }, E_AGAIN },
        { { .e = E_IO, .rcode = RCODE_NXDOMAIN }, E_AGAIN },
        { { .rcode = RCODE_NXDOMAIN, .bogus = true }, E_BOGUS },
        { { .rcode = RCODE_SERVFAIL, .bogus = true }, E_BOGUS },
        { { .rdata = &cut, .n = 1 }, E_AGAIN },       /* what cannot be read is no answer either */
    };

    EACH(cases, c) {
        AUTO_ARENA a = arena_new();
        struct resolver *r = resolver_of(&plain);
        AUTO_GROUP g = group_open(NEVER);
        struct one o = one(r, a, S("a.example"));

        group_spawn(&g, "ask", ask_one, &o);
        task_yield();
        CHECK(answer(&c->reply));
        group_wait(&g);
        CHECK_ERR(o.e, c->want, str_printf(a, "case %zu", (size_t)(c - cases)));
        CHECK(o.e == OK ? !o.txt.about.secure : true);
        resolver_close(r);
    }
}

/* ---- bounds ---- */

TASK_TEST(dns_memory_is_bounded_and_the_longest_unused_goes_first)
{
    AUTO_ARENA a = arena_new();
    struct resolver *r = resolver_of(&plain);
    struct buf large = buf_in(a, 3000);
    AUTO_GROUP g = group_open(NEVER);

    while (large.n < 2560) { /* ten strings of 255 */
        buf_addc(&large, (char)255);
        for (int i = 0; i < 255; i++)
            buf_addc(&large, 'x');
    }
    str data = buf_str(&large);
    for (int i = 0; i < 500; i++) {
        struct one o = one(r, a, str_printf(a, "n%d.example", i)), first = one(r, a, S("n0.example"));
        group_spawn(&g, "ask", ask_one, &o);
        task_yield();
        CHECK(answer(&(struct dns_reply){ .rdata = &data, .n = 1, .ttl = 3600 }));
        group_wait(&g);
        CHECK_ERR(o.e, OK);
        ask_one(&first); /* the oldest, but always in use */
        CHECK_ERR(first.e, OK);
    }
    CHECK(resolver_counts(r).octets <= plain.cache / OUR_SHARE);
    CHECK(resolver_counts(r).octets > plain.cache / OUR_SHARE - 4096);
    CHECK_INT(fake.nasked, 500);
    struct one early = one(r, a, S("n3.example")), late = one(r, a, S("n499.example"));
    ask_one(&late);
    CHECK_INT(fake.nasked, 500);
    group_spawn(&g, "ask", ask_one, &early);
    task_yield();
    CHECK_INT(fake.nasked, 501);
    answer(&(struct dns_reply){ .rdata = &data, .n = 1, .ttl = 3600 });
    group_wait(&g);

    /* More than any packet holds. */
    struct buf huge = buf_in(a, 300 * 1024);
    while (huge.n < 270 * 1024)
        buf_add(&huge, data);
    str most = buf_str(&huge);
    struct one o = one(r, a, S("huge.example"));
    group_spawn(&g, "ask", ask_one, &o);
    task_yield();
    CHECK(answer(&(struct dns_reply){ .rdata = &most, .n = 1, .ttl = 3600 }));
    group_wait(&g);
    CHECK_ERR(o.e, E_AGAIN);
    resolver_close(r);
}

TASK_TEST(attack_50_a_flood_of_questions_is_bounded)
{
    AUTO_ARENA a = arena_new();
    struct resolver *r = resolver_of(&plain);
    struct one *o = NEW_ARRAY(a, struct one, 1200);
    AUTO_GROUP g = group_open(NEVER);
    unsigned refused = 0, n = 0;

    for (int i = 0; i < 1200; i++) {
        o[i] = one(r, a, str_printf(a, "n%d.example", i));
        group_spawn(&g, "ask", ask_one, &o[i]);
    }
    task_sleep(clock_now() + MILLISECOND);
    for (int i = 0; i < 1200; i++)
        refused += o[i].done && o[i].e == E_AGAIN;
    CHECK_INT(refused, 200);
    CHECK_INT(fake.nasked, 1000);
    struct one same = one(r, a, S("n7.example")); /* what is under way can be waited for */
    group_spawn(&g, "ask", ask_one, &same);
    task_yield();
    CHECK(!same.done);
    while (answer(&(struct dns_reply)ABC))
        n++;
    group_wait(&g);
    CHECK_INT(n, 1000);
    CHECK_ERR(same.e, OK);
    struct one next = one(r, a, S("n1100.example"));
    group_spawn(&g, "ask", ask_one, &next);
    task_yield();
    CHECK(answer(&(struct dns_reply)ABC));
    group_wait(&g);
    CHECK_ERR(next.e, OK);
    resolver_close(r);
}

/* ---- giving up ---- */

TASK_TEST(dns_waits_end)
{
    AUTO_ARENA a = arena_new();
    struct resolver *r = resolver_of(&plain);
    struct one timely = one(r, a, S("a.example")), patient = timely, grouped = timely, canceled = timely;

    timely.deadline = clock_now() + 2 * SECOND;
    {
        AUTO_GROUP g = group_open(NEVER), short_lived = group_open(clock_now() + 3 * SECOND), doomed = group_open(NEVER);
        group_spawn(&g, "ask", ask_one, &timely);
        group_spawn(&g, "ask", ask_one, &patient);
        group_spawn(&short_lived, "ask", ask_one, &grouped);
        group_spawn(&doomed, "ask", ask_one, &canceled);
        task_yield();
        CHECK_INT(resolver_counts(r).waiting, 4);
        group_cancel(&doomed);
        task_sleep(clock_now() + MILLISECOND);
        CHECK_ERR(canceled.e, E_CANCELED);
        time_passes(2 * SECOND);
        CHECK_ERR(timely.e, E_TIMEOUT);
        time_passes(SECOND);
        CHECK_ERR(grouped.e, E_TIMEOUT);
        CHECK(!patient.done);
        time_passes(17 * SECOND);
        CHECK_ERR(patient.e, E_AGAIN); /* nobody answers: that is no fault of the caller's */
    }
    CHECK_INT(resolver_counts(r).waiting, 0);
    CHECK_INT(resolver_counts(r).under_way, 1);
    CHECK(answer(&(struct dns_reply)ABC)); /* late, and good for the next */
    CHECK_INT(resolver_counts(r).under_way, 0);
    struct one next = one(r, a, S("a.example"));
    ask_one(&next);
    CHECK_ERR(next.e, OK);
    CHECK_INT(fake.nasked, 1);
    resolver_close(r);
}

TASK_TEST(dns_does_not_wait_for_what_was_lost)
{
    AUTO_ARENA a = arena_new();
    struct resolver *r = resolver_of(&plain);
    struct one first = one(r, a, S("a.example")), second = first, third = first;
    AUTO_GROUP g = group_open(NEVER);

    group_spawn(&g, "ask", ask_one, &first);
    task_yield();
    time_passes(MINUTE);
    CHECK_ERR(first.e, E_AGAIN);
    group_spawn(&g, "ask", ask_one, &second); /* it may still come */
    task_yield();
    CHECK_INT(fake.nasked, 1);
    time_passes(3 * MINUTE);
    CHECK_ERR(second.e, E_AGAIN);
    group_spawn(&g, "ask", ask_one, &third);
    task_yield();
    CHECK_INT(fake.nasked, 2);
    CHECK(answer(&(struct dns_reply){ .rcode = RCODE_NXDOMAIN })); /* the lost one, found */
    task_yield();
    CHECK(!third.done && resolver_counts(r).entries == 1);
    CHECK(answer(&(struct dns_reply)ABC));
    group_wait(&g);
    CHECK_ERR(third.e, OK);
    resolver_close(r);
}

/* The answer is on its way to a task that is told to end before it comes. */
TASK_TEST(dns_answers_cross_with_cancellation)
{
    AUTO_ARENA a = arena_new();
    struct resolver *r = resolver_of(&plain);
    struct one o = one(r, a, S("a.example"));
    {
        AUTO_GROUP g = group_open(NEVER);
        group_spawn(&g, "ask", ask_one, &o);
        task_yield();
        group_cancel(&g);
        CHECK(answer(&(struct dns_reply)ABC));
    }
    CHECK(o.done && (o.e == E_CANCELED || o.e == OK));
    struct one p = one(r, a, S("b.example"));
    {
        AUTO_GROUP g = group_open(NEVER);
        group_spawn(&g, "ask", ask_one, &p);
        task_yield();
        CHECK(answer(&(struct dns_reply)ABC));
        group_cancel(&g);
    }
    CHECK(p.done);
    resolver_close(r); /* with the post perhaps still on its way */
    task_yield();
}

/* ---- what the questions make of answers ---- */

struct question { struct resolver *r; arena *a; struct dns_mx mx; struct dns_addresses at; str name; err e; };

static err ask_mx(void *arg)
{
    struct question *q = arg;
    q->e = dns_mx(q->r, q->a, q->name, NEVER, &q->mx);
    return OK;
}

static err ask_addresses(void *arg)
{
    struct question *q = arg;
    q->e = dns_addresses(q->r, q->a, q->name, 25, NEVER, &q->at);
    return OK;
}

TASK_TEST(attack_51_mx_of_every_kind)
{
    AUTO_ARENA a = arena_new();
    struct resolver *r = resolver_of(&plain);
    const str root = S("\0\0\0"), spare = mx_data(a, 20, S("spare.example")), first = mx_data(a, 10, S("first.example")), odd = S("\0\5\3a b\0");
    struct { const char *what; const str *data; size_t n; size_t want, records; bool null; str best; } cases[] = {
        { "null", (const str[]){ root }, 1, 0, 1, true, S("") },
        { "null and others", (const str[]){ root, spare, first }, 3, 2, 3, false, S("first.example") },
        { "two nulls", (const str[]){ root, root }, 2, 0, 2, false, S("") },
        { "one that is no name", (const str[]){ odd }, 1, 0, 1, false, S("") },
        { "none", NULL, 0, 0, 0, false, S("") },
    };
    EACH(cases, c) {
        struct question q = { .r = r, .a = a, .name = str_printf(a, "case%zu.example", (size_t)(c - cases)) };
        AUTO_GROUP g = group_open(NEVER);
        group_spawn(&g, "mx", ask_mx, &q);
        task_yield();
        CHECK(answer(&(struct dns_reply){ .rdata = c->data, .n = c->n, .ttl = 60 }));
        group_wait(&g);
        CHECK_ERR(q.e, OK, str_z(c->what));
        CHECK_INT(q.mx.n, c->want, str_z(c->what));
        CHECK_INT(q.mx.records, c->records, str_z(c->what));
        CHECK_INT(q.mx.null, c->null, str_z(c->what));
        CHECK_STR(q.mx.n ? q.mx.p[0].host : S(""), c->best, str_z(c->what));
    }

    str *many = NEW_ARRAY(a, str, 2000);
    for (unsigned i = 0; i < 2000; i++)
        many[i] = mx_data(a, 5000 - i / 4, str_printf(a, "mx%u.example", i));
    struct question q = { .r = r, .a = a, .name = S("many.example") };
    AUTO_GROUP g = group_open(NEVER);
    group_spawn(&g, "mx", ask_mx, &q);
    task_yield();
    CHECK(answer(&(struct dns_reply){ .rdata = many, .n = 2000, .ttl = 60 }));
    group_wait(&g);
    CHECK_ERR(q.e, OK);
    CHECK(q.mx.n == 100 && q.mx.records == 2000);
    if (q.mx.n == 100) { /* the best, and equals as they came */
        CHECK_STR(q.mx.p[0].host, S("mx1996.example"));
        CHECK_STR(q.mx.p[3].host, S("mx1999.example"));
        CHECK_STR(q.mx.p[4].host, S("mx1992.example"));
        CHECK_INT(q.mx.p[99].preference, 5000 - 1900 / 4);
    }
    resolver_close(r);
}

TASK_TEST(dns_addresses_need_one_kind)
{
    static const str v4 = { "\xc0\0\2\7", 4 }, v6 = { "\x20\1\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\1", 16 }, mapped = { "\0\0\0\0\0\0\0\0\0\0\xff\xff\x7f\0\0\1", 16 };
    static const struct { struct dns_reply six, four; err want; size_t n6, n4; bool secure; } cases[] = {
        { { .rdata = &v6, .n = 1, .secure = true }, { .rdata = &v4, .n = 1, .secure = true }, OK, 1, 1, true },
        { { .rdata = &v6, .n = 1, .secure = true }, { .rdata = &v4, .n = 1 }, OK, 1, 1, false },
        { { .secure = true }, { .rdata = &v4, .n = 1, .secure = true }, OK, 0, 1, true },
        { { .rcode = RCODE_SERVFAIL }, { .rdata = &v4, .n = 1, .secure = true }, OK, 0, 1, false },
        { { .rdata = &v6, .n = 1, .secure = true }, { .rcode = RCODE_SERVFAIL, .bogus = true }, OK, 1, 0, false },
        { { .rcode = RCODE_NXDOMAIN }, { .rcode = RCODE_NXDOMAIN }, E_NONAME, 0, 0, false },
        { { .rcode = RCODE_NXDOMAIN }, { .rcode = RCODE_SERVFAIL }, E_AGAIN, 0, 0, false },
        { { .rcode = RCODE_SERVFAIL }, { .rcode = RCODE_NXDOMAIN }, E_AGAIN, 0, 0, false },
        { { .rcode = RCODE_OK }, { .rcode = RCODE_NXDOMAIN }, OK, 0, 0, false },
        { { .rcode = RCODE_OK }, { .rcode = RCODE_SERVFAIL, .bogus = true }, E_BOGUS, 0, 0, false },
        { { 0 }, { 0 }, OK, 0, 0, false },
        { { .rdata = &v4, .n = 1 }, { 0 }, E_AGAIN, 0, 0, false },          /* four octets are no IPv6 address */
        { { .rdata = &mapped, .n = 1 }, { 0 }, OK, 1, 0, false },
    };
    AUTO_ARENA a = arena_new();
    char text[ADDR_TEXT];

    EACH(cases, c) {
        struct resolver *r = resolver_of(&plain);
        struct question q = { .r = r, .a = a, .name = S("mx.example") };
        AUTO_GROUP g = group_open(NEVER);
        str which = str_printf(a, "case %zu", (size_t)(c - cases));

        group_spawn(&g, "addresses", ask_addresses, &q);
        task_yield();
        CHECK_INT(fake.nasked, 2, which); /* both at once */
        for (struct dns_question *d; (d = asked());)
            dns_answered(d, d->type == DNS_AAAA ? &c->six : &c->four);
        group_wait(&g);
        CHECK_ERR(q.e, c->want, which);
        if (q.e == OK) {
            CHECK_INT(q.at.n6, c->n6, which);
            CHECK_INT(q.at.n4, c->n4, which);
            CHECK_INT(q.at.about.secure, c->secure, which);
            CHECK_INT(q.at.all.n, c->n4 + c->n6, which);
            for (size_t i = 0; i < q.at.all.n; i++)
                CHECK_INT(addr_port(&q.at.all.p[i]), 25, which);
        }
        if (c->six.rdata == &mapped && q.at.all.n)
            CHECK_STR(addr_print_ip(&q.at.all.p[0], text), S("127.0.0.1")); /* for who must not be led there: attack class 51 */
        resolver_close(r);
    }
}

TASK_TEST(dns_names_are_checked_before_anyone_is_asked)
{
    AUTO_ARENA a = arena_new();
    struct resolver *r = resolver_of(&plain);
    struct dns_txt txt;
    struct dns_mx mx;
    struct dns_ptr ptr;
    struct dns_addresses at;
    struct addr path;

    CHECK_ERR(dns_txt(r, a, S("a..example"), NEVER, &txt), E_SYNTAX);
    CHECK_ERR(dns_mx(r, a, S("192.0.2.7"), NEVER, &mx), E_SYNTAX);
    CHECK_ERR(dns_addresses(r, a, S("s=sel._domainkey.attack.example.\0.any"), 25, NEVER, &at), E_SYNTAX);
    must(addr_parse(S("unix:/run/x"), 0, &path) == OK);
    CHECK_ERR(dns_ptr(r, a, &path, NEVER, &ptr), E_SYNTAX);
    CHECK_ERR(dns_addresses(r, a, S("Localhost"), 25, NEVER, &at), OK);
    CHECK(at.hosts && at.n4 == 1 && at.n6 == 1);
    CHECK_ERR(dns_addresses(r, a, S("mail.localhost"), 25, NEVER, &at), OK);
    CHECK_INT(fake.nasked, 0);
    resolver_close(r);
}

/* ---- settings and files that change ---- */

TASK_TEST(dns_new_settings_ask_again)
{
    AUTO_ARENA a = arena_new();
    struct resolver *r = resolver_of(&plain);
    struct one known = one(r, a, S("known.example")), waits = one(r, a, S("waits.example"));
    struct addr server;
    struct dns_settings other = plain;
    AUTO_GROUP g = group_open(NEVER);

    must(addr_parse(S("192.0.2.53"), 53, &server) == OK);
    other.server = (struct addrs){ &server, 1 };
    group_spawn(&g, "ask", ask_one, &known);
    task_yield();
    CHECK(answer(&(struct dns_reply)ABC));
    group_spawn(&g, "ask", ask_one, &waits);
    task_sleep(clock_now() + MILLISECOND);
    CHECK_ERR(known.e, OK);

    fake.fails = true;
    CHECK_ERR(resolver_configure(r, &other), E_NOTFOUND);
    CHECK(fake.closes == 0 && !waits.done);
    fake.fails = false;
    CHECK_ERR(resolver_configure(r, &other), OK);
    CHECK(fake.opens == 2 && fake.closes == 1 && fake.servers == 1);
    task_yield();
    CHECK(!waits.done);
    CHECK_INT(fake.nasked, 3);
    CHECK(answer(&(struct dns_reply)ABC));
    group_wait(&g);
    CHECK_ERR(waits.e, OK);
    struct one again = one(r, a, S("known.example"));
    group_spawn(&g, "ask", ask_one, &again);
    task_yield();
    CHECK_INT(fake.nasked, 4); /* forgotten */
    CHECK(answer(&(struct dns_reply)ABC));
    group_wait(&g);
    resolver_close(r);
    CHECK_INT(fake.closes, 2);
}

TASK_TEST(dns_files_are_read_again_when_they_change)
{
    AUTO_ARENA a = arena_new();
    struct dns_settings s = plain;
    struct dns_addresses at;
    char text[ADDR_TEXT];

    s.hosts = S("hosts");
    s.resolv = S("resolv.conf");
    struct resolver *r = resolver_of(&s);
    CHECK_INT(fake.servers, 0);
    fake.hosts = S("192.0.2.1 box.example\n2001:db8::1 box.example\n192.0.2.2 box.example");
    fake.resolv = S("nameserver 192.0.2.53\nnameserver 192.0.2.54\n");
    time_passes(11 * SECOND);
    CHECK_ERR(dns_addresses(r, a, S("Box.Example"), 26, NEVER, &at), OK);
    CHECK(at.hosts && at.n4 == 2 && at.n6 == 1 && at.all.n == 3 && !at.about.secure);
    CHECK_STR(addr_print(&at.all.p[0], text), S("[2001:db8::1]:26"));
    CHECK(fake.servers == 2 && fake.opens == 2 && fake.closes == 1);
    fake.hosts = S("192.0.2.9 box.example");
    CHECK_ERR(dns_addresses(r, a, S("box.example"), 26, NEVER, &at), OK);
    CHECK_INT(at.all.n, 3); /* not at every question */
    time_passes(11 * SECOND);
    CHECK_ERR(dns_addresses(r, a, S("box.example"), 26, NEVER, &at), OK);
    CHECK_INT(at.all.n, 1);
    CHECK_INT(fake.opens, 2); /* these did not change */
    fake.hosts = (str){ 0 };
    fake.fails = true;
    fake.resolv = S("nameserver 192.0.2.55\n");
    time_passes(11 * SECOND);
    CHECK_ERR(dns_addresses(r, a, S("localhost"), 26, NEVER, &at), OK);
    CHECK_INT(fake.closes, 1); /* what cannot be opened changes nothing */
    fake.fails = false;
    time_passes(11 * SECOND);
    CHECK_ERR(dns_addresses(r, a, S("localhost"), 26, NEVER, &at), OK);
    CHECK(fake.servers == 1 && fake.closes == 2);
    struct question q = { .r = r, .a = a, .name = S("box.example") };
    AUTO_GROUP g = group_open(NEVER);
    group_spawn(&g, "addresses", ask_addresses, &q);
    task_yield();
    CHECK_INT(fake.nasked, 2); /* the file has it no more */
    while (answer(&(struct dns_reply){ .rcode = RCODE_NXDOMAIN }))
        ;
    group_wait(&g);
    CHECK_ERR(q.e, E_NONAME);
    resolver_close(r);
}

/* ---- many threads ---- */

#define THREADS 4
#define ASKERS 20

struct crowd { struct resolver *r; _Atomic unsigned right, wrong, left; };

static err crowd_ask(void *arg)
{
    struct crowd *c = arg;
    AUTO_ARENA a = arena_new();

    for (int i = 0; i < 200; i++) {
        struct dns_txt txt;
        uint64_t n = random_below(40);
        str name = str_printf(a, "n%llu.example", (unsigned long long)n);
        when deadline = random_below(8) ? NEVER : clock_now() + (when)random_below(300);
        err e = dns_txt(c->r, a, name, deadline, &txt);
        bool right = e == OK ? txt.all.n == 1 && str_eq(txt.all.p[0], name) : e == E_TIMEOUT || (e == E_NONAME && n % 5 == 0);
        c->right += right;
        c->wrong += !right;
        if (random_below(16) == 0)
            task_sleep(clock_now() + 100);
    }
    return OK;
}

static err crowd_thread(void *arg)
{
    struct crowd *c = arg;
    {
        AUTO_GROUP g = group_open(NEVER);
        for (int i = 0; i < ASKERS; i++)
            group_spawn(&g, "ask", crowd_ask, c);
        group_wait(&g);
    }
    c->left--;
    return OK;
}

static err crowd_answers(void *arg)
{
    struct crowd *c = arg;
    struct dns_question *q;

    while (c->left) {
        while ((q = asked())) {
            char text[64];
            uint64_t n = 1;
            int length = snprintf(text, sizeof text, "%c%s", (int)strlen(q->name), q->name);
            str data = str_of(text, (size_t)length);
            sscanf(q->name, "n%lu", &n);
            dns_answered(q, n % 5 == 0 ? &(struct dns_reply){ .rcode = RCODE_NXDOMAIN } : &(struct dns_reply){ .rdata = &data, .n = 1 });
            if (random_below(10) == 0) { /* forgotten: it is asked again */
                pthread_mutex_lock(&c->r->lock);
                cache_clear(c->r);
                pthread_mutex_unlock(&c->r->lock);
            }
        }
        task_sleep(clock_now() + 100);
    }
    return OK;
}

TASK_TEST(dns_serves_many_threads)
{
    struct crowd c = { .r = resolver_of(&plain), .left = THREADS };
    struct thread *t[THREADS], *answers = thread_start("answers", crowd_answers, &c);

    for (int i = 0; i < THREADS; i++)
        t[i] = thread_start("asks", crowd_thread, &c);
    for (int i = 0; i < THREADS; i++)
        CHECK_ERR(thread_join(t[i]), OK);
    CHECK_ERR(thread_join(answers), OK);
    CHECK_INT(c.wrong, 0);
    CHECK_INT(c.right, THREADS * ASKERS * 200);
    resolver_close(c.r);
}
