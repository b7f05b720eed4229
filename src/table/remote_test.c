#include "kit/kit.h"
#include "table/inside.h"

#include <stdio.h>

/* A source that says what the test wants, when it wants. */
struct fake {
    struct source source;
    enum said says;
    bool slow;                  /* stands still until `go` */
    struct waiters go;
    size_t asked, most, under_way;
    char last[1100];
    bool *freed;
};

static enum said fake_ask(struct source *s, const struct inquiry *q, when deadline)
{
    struct fake *f = (struct fake *)(void *)s;

    f->asked++;
    f->under_way++;
    f->most = MAX(f->most, f->under_way);
    snprintf(f->last, sizeof f->last, "%.*s|%.*s|%.*s", STR(q->address), STR(q->local), STR(q->domain));
    err e = f->slow ? waiters_wait(&f->go, deadline) : OK;
    f->under_way--;
    fail(E_AGAIN, "no words");
    return e == OK ? f->says : SAID_DOWN;
}

static void fake_free(struct source *s)
{
    struct fake *f = (struct fake *)(void *)s;

    *f->freed = true;
    mem_free(f);
}

static struct fake *fake_new(str key, bool *freed)
{
    struct fake *f = mem_new(sizeof *f);

    *freed = false;
    *f = (struct fake){ .source = { .kind = "fake", .name = key, .key = key, .keep = KEEPING_PRESET, .detail = '+', .at_once = 2,
                                    .ask = fake_ask, .free = fake_free }, .says = SAID_FOUND, .freed = freed };
    return f;
}

static enum found look(struct table *t, str who)
{
    struct path p;
    must(address_parse(who, &p) == OK);
    return table_find(t, &p, NULL);
}

/* A clock that the tests move. */
static when skipped;
static when (*real_now)(void);
static when moved_now(void) { return real_now() + skipped; }
static void clock_mine(void) { real_now = base_seam.now; base_seam.now = moved_now; }
static void clock_theirs(void) { base_seam.now = real_now; }

/* Log lines of one event, counted. */
static size_t downs, ups;
static void tap(void *ctx, enum log_level level, str line)
{
    (void)ctx, (void)level;
    downs += str_has(line, S("source_down"));
    ups += str_has(line, S("source_up"));
}

TASK_TEST(remote_keeps_what_was_said)
{
    bool freed;
    struct fake *f = fake_new(S("keeps"), &freed);
    struct table *t = table_of_source(&f->source);

    clock_mine();
    CHECK_INT(look(t, S("Ann@Example.COM")), FOUND);
    CHECK_STR(str_z(f->last), S("ann@example.com|ann|example.com"));
    CHECK_INT(look(t, S("ann@example.com")), FOUND);
    CHECK_INT(look(t, S("\"ann\"@example.com")), FOUND);
    CHECK_INT(f->asked, 1);
    f->says = SAID_ABSENT;
    CHECK_INT(look(t, S("ann@example.com")), FOUND);
    CHECK_INT(look(t, S("bob@example.com")), ABSENT);
    CHECK_INT(look(t, S("bob@example.com")), ABSENT);
    CHECK_INT(f->asked, 2);
    skipped += 2 * MINUTE; /* "no" is kept a minute, "yes" ten */
    CHECK_INT(look(t, S("bob@example.com")), ABSENT);
    CHECK_INT(look(t, S("ann@example.com")), FOUND);
    CHECK_INT(f->asked, 3);
    skipped += 9 * MINUTE;
    CHECK_INT(look(t, S("ann@example.com")), ABSENT);
    CHECK_INT(f->asked, 4);
    /* With a detail it is asked for as it is, then without. */
    CHECK_INT(look(t, S("carl+x@example.com")), ABSENT);
    CHECK_STR(str_z(f->last), S("carl@example.com|carl|example.com"));
    CHECK_INT(f->asked, 6);
    /* Quotes are undone, controls are nobody's. */
    CHECK_INT(look(t, S("\"a \\\"b\"@example.com")), ABSENT);
    CHECK_STR(str_z(f->last), S("a \"b@example.com|a \"b|example.com"));
    CHECK(!freed);
    table_free(t);
    CHECK(freed);
    clock_theirs();
}

TASK_TEST(remote_outlives_a_reload)
{
    bool freed, freed_too;
    struct fake *f = fake_new(S("same"), &freed), *g = fake_new(S("same"), &freed_too);
    struct table *t = table_of_source(&f->source);

    CHECK_INT(look(t, S("ann@example.com")), FOUND);
    struct table *u = table_of_source(&g->source);
    CHECK(freed_too);
    table_free(t);
    CHECK(!freed);
    CHECK_INT(look(u, S("ann@example.com")), FOUND);
    CHECK_INT(f->asked, 1);
    table_free(u);
    CHECK(freed);
}

struct looker { struct table *t; str who; enum found found; };
static err look_task(void *arg)
{
    struct looker *l = arg;
    l->found = look(l->t, l->who);
    return OK;
}

TASK_TEST(remote_asks_once_for_all_who_wait)
{
    bool freed;
    struct fake *f = fake_new(S("once"), &freed);
    struct table *t = table_of_source(&f->source);
    struct looker l[20];
    char name[20][32];

    f->slow = true;
    {
        AUTO_GROUP g = group_open(NEVER);
        for (size_t i = 0; i < COUNT(l); i++) {
            /* Ten for one address, ten for as many. */
            snprintf(name[i], sizeof name[i], "u%zu@example.com", i < 10 ? 0 : i);
            l[i] = (struct looker){ t, str_z(name[i]), UNDECIDED };
            group_spawn(&g, "look", look_task, &l[i]);
        }
        while (table_counts(t).under_way < 11)
            task_yield();
        while (f->under_way < 2)
            task_yield();
        f->slow = false;
        waiters_wake_all(&f->go);
        group_wait(&g);
    }
    for (size_t i = 0; i < COUNT(l); i++)
        CHECK_INT(l[i].found, FOUND);
    CHECK_INT(f->asked, 11);
    CHECK_INT(f->most, 2); /* at_once */
    CHECK_INT(table_counts(t).joined, 9);
    CHECK_INT(table_counts(t).under_way, 0);
    table_free(t);
}

TASK_TEST(remote_lets_a_session_go)
{
    bool freed;
    struct fake *f = fake_new(S("leaves"), &freed);
    struct table *t = table_of_source(&f->source);
    struct looker gone = { t, S("ann@example.com"), FOUND }, stays = { t, S("ann@example.com"), UNDECIDED };

    f->slow = true;
    {
        AUTO_GROUP g = group_open(NEVER);
        group_spawn(&g, "stays", look_task, &stays);
        {
            AUTO_GROUP h = group_open(NEVER);
            group_spawn(&h, "gone", look_task, &gone);
            while (!f->under_way || table_counts(t).joined < 1)
                task_yield();
        } /* cancelled: the client hung up */
        CHECK_INT(gone.found, UNDECIDED);
        waiters_wake_all(&f->go);
        group_wait(&g);
    }
    CHECK_INT(stays.found, FOUND);
    CHECK_INT(f->asked, 1);

    /* The first to ask leaves, alone: the answer comes all the same, and the source ends with it. */
    gone.who = S("bob@example.com");
    {
        AUTO_GROUP g = group_open(NEVER);
        group_spawn(&g, "gone", look_task, &gone);
        while (!f->under_way)
            task_yield();
    }
    CHECK_INT(gone.found, UNDECIDED);
    CHECK_INT(table_counts(t).under_way, 1);
    table_free(t); /* and the configuration goes too */
    CHECK(!freed);
    waiters_wake_all(&f->go);
    while (!freed)
        task_yield();
}

TASK_TEST(remote_that_is_down_is_left_alone_and_comes_back)
{
    bool freed;
    struct fake *f = fake_new(S("down"), &freed);
    struct table *t = table_of_source(&f->source);

    clock_mine();
    log_start(&(struct log_setup){ .tap = tap, .least = LOG_INFO });
    downs = ups = 0;
    CHECK_INT(look(t, S("ann@example.com")), FOUND);
    skipped += 11 * MINUTE;
    f->says = SAID_DOWN;
    CHECK_INT(look(t, S("ann@example.com")), FOUND); /* the last good answer */
    CHECK_INT(look(t, S("bob@example.com")), UNDECIDED);
    CHECK(table_counts(t).down);
    CHECK_INT(downs, 1);
    size_t asked = f->asked;
    for (int i = 0; i < 100; i++) {
        CHECK_INT(look(t, S("ann@example.com")), FOUND);
        CHECK_INT(look(t, S("bob@example.com")), UNDECIDED);
    }
    CHECK_INT(f->asked, asked); /* within the pause nobody is sent */
    skipped += 2 * SECOND;
    look(t, S("bob@example.com"));
    look(t, S("bob@example.com"));
    CHECK_INT(f->asked, asked + 1);
    CHECK_INT(downs, 1);
    skipped += 20 * SECOND;
    f->says = SAID_ABSENT;
    CHECK_INT(look(t, S("bob@example.com")), ABSENT);
    CHECK(!table_counts(t).down);
    CHECK_INT(ups, 1);
    CHECK_INT(look(t, S("ann@example.com")), ABSENT);

    /* "No" is not believed any longer than said: who came meanwhile would be refused. */
    skipped += 2 * MINUTE;
    f->says = SAID_DOWN;
    CHECK_INT(look(t, S("bob@example.com")), UNDECIDED);
    /* And "yes" not for ever. */
    skipped += 20 * SECOND;
    f->says = SAID_FOUND;
    CHECK_INT(look(t, S("dora@example.com")), FOUND);
    skipped += DAY + 11 * MINUTE;
    f->says = SAID_DOWN;
    CHECK_INT(look(t, S("dora@example.com")), UNDECIDED);
    log_stop();
    table_free(t);
    clock_theirs();
}

/* One address that the source cannot judge is no reason to leave it alone. */
TASK_TEST(remote_doubt_concerns_one_address)
{
    bool freed;
    struct fake *f = fake_new(S("doubt"), &freed);
    struct table *t = table_of_source(&f->source);

    log_start(&(struct log_setup){ .tap = tap, .least = LOG_INFO });
    downs = ups = 0;
    f->says = SAID_UNSURE;
    for (int i = 0; i < 10; i++)
        CHECK_INT(look(t, S("odd@example.com")), UNDECIDED);
    CHECK_INT(f->asked, 10);
    CHECK(!table_counts(t).down);
    CHECK_INT(downs, 1);
    f->says = SAID_FOUND;
    CHECK_INT(look(t, S("ann@example.com")), FOUND);
    CHECK_INT(ups, 1);
    /* Again and again: told once a minute at most. */
    for (int i = 0; i < 10; i++) {
        f->says = SAID_UNSURE;
        for (int k = 0; k < 3; k++)
            look(t, S("odd@example.com"));
        f->says = SAID_FOUND;
        char who[32];
        snprintf(who, sizeof who, "u%d@example.com", i);
        look(t, str_z(who));
    }
    CHECK_INT(downs, 1);
    CHECK_INT(ups, 1);
    log_stop();
    table_free(t);
}

TASK_TEST(remote_keeps_no_more_than_it_may)
{
    bool freed;
    struct fake *f = fake_new(S("bounded"), &freed);
    f->source.keep.entries = 50;
    struct table *t = table_of_source(&f->source);
    char who[32];

    for (int i = 0; i < 500; i++) {
        snprintf(who, sizeof who, "u%d@example.com", i);
        CHECK_INT(look(t, str_z(who)), FOUND);
        CHECK_INT(look(t, S("u0@example.com")), FOUND); /* used all the time: stays */
    }
    CHECK_INT(table_counts(t).entries, 50);
    CHECK_INT(f->asked, 500);
    f->says = SAID_UNSURE;
    for (int i = 0; i < 500; i++) {
        snprintf(who, sizeof who, "x%d@example.com", i);
        look(t, str_z(who));
    }
    CHECK_INT(table_counts(t).entries, 50); /* what was not answered takes no room */
    table_free(t);
}

TASK_TEST(remote_that_never_answers_is_waited_for_so_long)
{
    bool freed;
    struct fake *f = fake_new(S("late"), &freed);
    f->slow = true;
    f->source.keep.timeout = 30 * MILLISECOND;
    struct table *t = table_of_source(&f->source);

    CHECK_INT(look(t, S("ann@example.com")), UNDECIDED);
    while (table_counts(t).under_way)
        task_yield();
    table_free(t);
    while (!freed)
        task_yield();
}

/* Nobody reads lists of a relay by filter; but the library that does the talking gets what was escaped here. */
TEST(template_escapes)
{
    static const struct { str filter, who, want; } cases[] = {
        { S("(proxyAddresses=smtp:%s)"), S("ann@example.com"), S("(proxyAddresses=smtp:ann@example.com)") },
        { S("(&(uid=%u)(d=%d)(c=5%%))"), S("ann@example.com"), S("(&(uid=ann)(d=example.com)(c=5%))") },
        { S("(mail=%s)"), S("*)(uid=*@x"), S("(mail=\\2A\\29\\28uid=\\2A@x)") },
        { S("(mail=%s)"), S("a\\b@x"), S("(mail=a\\5Cb@x)") },
        { S("(mail=%s)"), S("j\xc3\xb6@x"), S("(mail=j\\C3\\B6@x)") },
    };
    EACH(cases, c) {
        AUTO_BUF out = { 0 };
        size_t at = str_findc(c->who, '@');
        struct inquiry q = { c->who, str_head(c->who, at), str_from(c->who, at + 1) };
        CHECK(!filter_wrong(c->filter), c->filter);
        filter_add(&out, c->filter, &q);
        CHECK_STR(buf_str(&out), c->want, c->filter);
    }
    static const str wrong[] = { S(""), S("mail=%s"), S("(mail=x)"), S("(mail=%s"), S("(mail=%s))"), S("(mail=%q)"), S("(mail=%"), S("(mail=%s)(a=b)") };
    EACH(wrong, w)
        CHECK(filter_wrong(*w), *w);

    struct inquiry q = { S("a b/c?d&e#@x"), S("a b/c?d&e#"), S("x") };
    AUTO_BUF url = { 0 };
    CHECK(url_add(&url, S("https://h/{address}?l={local}"), &q));
    CHECK_STR(buf_str(&url), S("https://h/a%20b%2Fc%3Fd%26e%23%40x?l=a%20b%2Fc%3Fd%26e%23"));
    q.local = S("..");
    CHECK(!url_add(&url, S("https://h/{local}"), &q));
    static const str bad[] = { S("ftp://h/{address}"), S("https://h"), S("https:///{address}"), S("https://u:p@h/{address}"), S("https://h/x"), S("https://h/{x}"),
                               S("https://{domain}/{address}"), S("https://h/{address} x"), S("https://h/#{address}"), S("https://h/{domain}") };
    EACH(bad, w)
        CHECK(url_wrong(*w), *w);
    CHECK(!url_wrong(S("https://[::1]:8443/{local}/{domain}")));
}
