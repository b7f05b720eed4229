#include "route/route.h"
#include "kit/kit.h"

#define SOURCES "source a1 127.0.0.1 helo a1.example.com\nsource a2 127.0.0.1\nsource a3 127.0.0.1\n"
#define BACKEND "backend b { server 127.0.0.9:25; pool p }\n"

/* The routes of a configuration, in `a`; NULL: it has errors, told in *told. */
static struct routes *routes_of(arena *a, str text, str *told)
{
    struct diags d = { .a = a };
    struct binder b = { .a = a, .diags = &d };
    struct routes *r = NEW(a, struct routes);
    struct node tree;
    struct buf out = buf_in(a, 1024);

    text = str_printf(a, "waypost 1\n%.*s", STR(text));
    CHECK_ERR(conf_parse(a, S("/test.conf"), &text, &tree, &d), OK);
    conf_bind(&b, route_settings, &tree, r);
    routes_finish(&b, r);
    diags_print(&d, &out);
    *told = buf_str(&out);
    return d.errors ? NULL : r;
}

static struct backend *named(const struct routes *r, str name)
{
    for (size_t i = 0; i < r->nbackend; i++)
        if (str_eq(r->backend[i]->name, name))
            return r->backend[i];
    return NULL;
}

TEST(outlets_make_a_backend_for_each_source)
{
    AUTO_ARENA a = arena_new();
    str told;
    struct routes *r = routes_of(a, S(SOURCES "pool p { use a1; use a2 }\n" BACKEND "backend plain { server 127.0.0.9:25 }\n"), &told);

    if (!CHECK(r != NULL, told))
        return;
    struct backend *one = named(r, S("b@a1")), *two = named(r, S("b@a2"));
    CHECK(one && two && !named(r, S("b@a3")));
    CHECK(one->server[0].state != two->server[0].state, S("what is learnt from one address is not held against another"));
    CHECK_STR(backend_base_name(one), S("b"));
    CHECK_STR(one->outlet->helo, S("a1.example.com"));
    CHECK(backend_is_pattern(named(r, S("b"))) && !backend_is_pattern(one) && !named(r, S("plain"))->outlets);
    CHECK(route_outlets(r, NULL, named(r, S("b")), S("x.example")) == one->among);
    CHECK(!route_outlets(r, NULL, named(r, S("plain")), S("x.example")));
    routes_free(r);
}

TEST(outlets_pick_by_weight_and_evenly)
{
    AUTO_ARENA a = arena_new();
    str told;
    struct routes *r = routes_of(a, S(SOURCES "pool p { use a1 weight 5; use a2; use a3 }\n" BACKEND), &told);
    size_t n[3] = { 0 }, last = OUTLETS_NONE, row = 0, longest = 0;

    if (!CHECK(r != NULL, told))
        return;
    struct outlets *o = named(r, S("b"))->outlets;
    for (int i = 0; i < 700; i++) {
        size_t at = outlets_pick(o, 0, HOUR);
        n[at]++;
        row = at == last ? row + 1 : 1;
        longest = MAX(longest, row);
        last = at;
    }
    CHECK_INT(n[0], 500);
    CHECK_INT(n[1], 100);
    CHECK_INT(n[2], 100);
    CHECK(longest <= 4, S("smooth: never the whole weight at once"));
    routes_free(r);
}

TEST(outlets_pick_without_one_that_is_out)
{
    AUTO_ARENA a = arena_new();
    str told;
    struct routes *r = routes_of(a, S(SOURCES "pool p { use a1 weight 2; use a2 weight 2; use a3 fallback }\n" BACKEND), &told);
    size_t n[3] = { 0 };

    if (!CHECK(r != NULL, told))
        return;
    struct outlets *o = named(r, S("b"))->outlets;
    for (int i = 0; i < 100; i++)
        n[outlets_pick(o, 0, HOUR)]++;
    CHECK(n[0] == 50 && n[1] == 50 && n[2] == 0, S("a fallback waits"));
    outlet_failed(o->pool->use[0].outlet, HOUR);
    for (int i = 0; i < 100; i++)
        CHECK_INT(outlets_pick(o, 0, HOUR), 1);
    CHECK_INT(outlets_pick(o, 2, HOUR), 2); /* nothing goes by a2 either: the fallback */
    outlet_failed(o->pool->use[1].outlet, HOUR);
    outlet_failed(o->pool->use[2].outlet, HOUR);
    CHECK(outlets_pick(o, 0, HOUR) != OUTLETS_NONE, S("all are out: one of them, and mail waits for it"));
    CHECK_INT(outlets_pick(o, 7, HOUR), OUTLETS_NONE);
    CHECK_INT(outlets_pick(o, 6, 2 * HOUR), 0); /* it is looked at again */
    for (size_t i = 0; i < 3; i++)
        atomic_store(&o->pool->use[i].outlet->state->out_until, 0);
    routes_free(r);
}

TEST(outlets_by_rule_and_by_default)
{
    AUTO_ARENA a = arena_new();
    str told;
    struct routes *r = routes_of(a, S(SOURCES "backend b { server 127.0.0.9:25; source a1 }\nrelay_domain x.example { backend b; recipients any }\n"
                                      "route r { from a.example; via b; source a2 }\nroute default { via b; source a3 }\n"), &told);
    when expire;
    const struct route_rule *rule;

    if (!CHECK(r != NULL, told))
        return;
    struct backend *b = route_find(r, &(struct route_key){ .domain = S("x.example"), .sender = S("s@a.example"), .has_sender = true }, &expire, &rule);
    CHECK_STR(route_outlets(r, rule, b, S("x.example"))->by[0]->name, S("b@a2"));
    CHECK_STR(route_outlets(r, NULL, b, S("x.example"))->by[0]->name, S("b@a1"));
    CHECK_STR(route_outlets(r, NULL, b, S("elsewhere.example"))->by[0]->name, S("b@a3"));
    routes_free(r);
}

TEST(outlets_refuse_what_cannot_be)
{
    static const struct { str text; const char *says; } cases[] = {
        { S("source a1 127.0.0.1\nbackend b { server 127.0.0.9:25; source a2 }\n"), "did you mean \"a1\"?" },
        { S("backend b { server 127.0.0.9:25; pool nowhere }\n"), "there is no pool \"nowhere\"" },
        { S("source a1 here\n"), "no IP address" },
        { S("source a1 127.0.0.1 127.0.0.2\n"), "one IPv4 and one IPv6 address" },
        { S("source a1 127.0.0.1 helo -x\n"), "no host name" },
        { S("source a@1 127.0.0.1\n"), "letters, digits" },
        { S("source a1 127.0.0.1\nsource a1 127.0.0.1\n"), "defined twice" },
        { S("pool p { }\n"), "has no \"use SOURCE\"" },
        { S(SOURCES "pool p { use a1; use a1 weight 3 }\n"), "twice" },
        { S(SOURCES "pool p { use a1 weight 0 }\n"), "out of range" },
        { S(SOURCES "backend b { server 127.0.0.9:25; source a1; source a2 }\n"), "twice" },
        { S(SOURCES "backend b { server [::9]:25; source a1 }\n"), "can be reached" },
        { S(SOURCES "route r { from a.example; via discard; source a1 }\n"), "leaves by no source" },
        { S("backend b@c { server 127.0.0.9:25 }\n"), "has no @" },
        { S("backend b { server 127.0.0.9:25; rate 10/s per server }\n"), "per source" },
    };
    EACH(cases, c) {
        AUTO_ARENA a = arena_new();
        str told;
        CHECK(!routes_of(a, c->text, &told), c->text);
        CHECK(str_has(told, str_z(c->says)), told);
    }
}

TEST(outlets_of_another_family_and_of_no_machine_are_told)
{
    AUTO_ARENA a = arena_new();
    str told;
    struct routes *r = routes_of(a, S("source a1 127.0.0.1\nsource a6 [::1]\npool p { use a1; use a6 }\nbackend b { server [::1]:2599; pool p }\n"
                                      "source gone 192.0.2.211\nbackend c { server 127.0.0.9:25; source gone }\n"), &told);
    bool cannot;
    struct addr to;

    if (!CHECK(r != NULL, told))
        return;
    CHECK(str_has(told, S("source \"a1\" has no IPv6 address")), told);
    CHECK(str_has(told, S("this machine has no address 192.0.2.211")), told);
    CHECK_INT(named(r, S("b"))->outlets->pool->n, 1);
    CHECK_STR(named(r, S("b"))->outlets->by[0]->name, S("b@a6"));
    addr_parse(S("192.0.2.1"), 25, &to);
    CHECK(!outlet_addr(named(r, S("b@a6"))->outlet, &to, &cannot) && cannot);
    addr_parse(S("unix:/run/x"), 25, &to);
    CHECK(!outlet_addr(named(r, S("b@a6"))->outlet, &to, &cannot) && !cannot);
    CHECK(!outlet_addr(NULL, &to, &cannot) && !cannot);
    routes_free(r);
}

TEST(limits_of_backends_and_sources)
{
    AUTO_ARENA a = arena_new();
    str told;
    struct routes *r = routes_of(a, S("source a1 127.0.0.1 { rate 5/s }\nsource a2 127.0.0.1\npool p { use a1; use a2 }\n"
                                      "backend b { server 127.0.0.9:25; pool p; rate 300/min; connections 4 }\n"
                                      "backend c { server 127.0.0.9:25; pool p; rate 300/min per source; connections 4 }\n"
                                      "backend plain { server 127.0.0.9:25 }\n"), &told);

    if (!CHECK(r != NULL, told))
        return;
    const struct backend *b1 = named(r, S("b@a1")), *b2 = named(r, S("b@a2")), *c1 = named(r, S("c@a1")), *c2 = named(r, S("c@a2"));
    CHECK_INT(b1->nlimit, 2);
    CHECK(b1->limit[0].state == b2->limit[0].state, S("all sources of a backend together"));
    CHECK_STR(b1->limit[0].slow, S("rate of backend b: 300/min"));
    CHECK_STR(b1->limit[0].full, S("all 4 connections of backend b are in use"));
    CHECK_STR(b1->limit[1].slow, S("rate of source a1: 5/s"));
    CHECK_INT(b2->nlimit, 1);
    CHECK(c1->limit[0].state != c2->limit[0].state && c1->limit[1].state == c2->limit[1].state, S("rate per source, connections together"));
    CHECK(c1->limit[2].state == b1->limit[1].state, S("a source is one, wherever mail goes"));
    CHECK_INT(named(r, S("plain"))->nlimit, 0);
    limits_apply(r);
    CHECK_INT(atomic_load(&b1->limit[0].state->every), MINUTE / 300);
    CHECK(backend_is_narrow(named(r, S("b")), named(r, S("b"))->outlets, 5) && !backend_is_narrow(named(r, S("b")), named(r, S("b"))->outlets, 4));
    routes_free(r);
}
