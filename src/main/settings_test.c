#include "kit/kit.h"
#include "main/main.h"

/* ---- what the configuration may say ---- */

#define HEAD "waypost 1\nhostname mx.example\npostmaster pm@a.example\nlisten smtp 127.0.0.1:2599\nspool { dir /nowhere }\n"
#define BACKEND "backend b { server 127.0.0.1:2600 }\n"
#define DOMAIN "relay_domain a.example { backend b; recipients any }\n"

/* The number of the first error, 0 when it loads. */
static int load_error(str text, struct settings **ret)
{
    struct diags d = { .a = arena_new() };
    struct settings *s = settings_load(S("test.conf"), &text, &d);
    int number = 0;

    for (size_t i = 0; i < d.n && !number; i++)
        if (d.p[i].severity == CONF_ERROR)
            number = d.p[i].number;
    CHECK_INT(s == NULL, number != 0);
    if (ret)
        *ret = s;
    else if (s)
        snapshot_drop(&s->snapshot);
    if (!s)
        arena_free(d.a);
    return number;
}

TEST(settings_refuse_what_would_be_wrong)
{
    static const struct { str text; int want; } cases[] = {
        { S(HEAD BACKEND DOMAIN), 0 },
        { S(HEAD BACKEND "relay_domain a.example { backend b }\n"), CONF_E_RECIPIENTS },
        { S(HEAD BACKEND "relay_domain a.example { backend bb; recipients any }\n"), CONF_E_NO_BACKEND },
        { S(HEAD "backend b { }\n" DOMAIN), CONF_E_NO_SERVER },
        { S(HEAD BACKEND BACKEND DOMAIN), CONF_E_DUPLICATE },
        { S(HEAD BACKEND DOMAIN DOMAIN), CONF_E_DUPLICATE },
        { S(HEAD BACKEND DOMAIN "route default { via b }\nnetwork all 0.0.0.0/0 { relay_from a.example }\n"), CONF_E_OPEN_RELAY },
        { S(HEAD BACKEND DOMAIN "route default { via b }\nnetwork all ::/0 { relay_from a.example }\n"), CONF_E_OPEN_RELAY },
        { S(HEAD BACKEND DOMAIN "route default { via b }\nnetwork n 10.0.0.0/8 { relay_from * }\n"), CONF_E_OPEN_RELAY },
        { S(HEAD BACKEND DOMAIN "network n 10.0.0.0/8 { }\n"), CONF_E_MISSING },
        { S(HEAD BACKEND DOMAIN "route default { via b }\nnetwork n 0.0.0.0/1 128.0.0.0/1 { relay_from a.example }\n"), CONF_E_OPEN_RELAY },
        { S(HEAD BACKEND DOMAIN "route default { via b }\nnetwork n 2000::/2 4000::/2 { relay_from a.example }\n"), CONF_E_BAD_ADDRESS },
        { S(HEAD BACKEND DOMAIN "route default { via b }\nnetwork n ::/2 { relay_from a.example }\nnetwork m 4000::/2 { relay_from a.example }\n"), CONF_E_OPEN_RELAY },
        { S(HEAD BACKEND DOMAIN "route default { via b }\nnetwork n 0.0.0.0/2 { relay_from a.example }\n"), 0 },
        { S(HEAD BACKEND DOMAIN "listen smtp 127.0.0.1:2599\n"), CONF_E_DUPLICATE },
        { S(HEAD BACKEND DOMAIN "listen smtp 127.0.0.1:2598 127.0.0.1:2598\n"), CONF_E_DUPLICATE },
        { S(HEAD BACKEND "relay_domain a.example { backend b; via mx; recipients any }\n"), CONF_E_TWICE },
        { S(HEAD "backend b { server 127.0.0.1:0 }\n" DOMAIN), CONF_E_BAD_ADDRESS },
        { S(HEAD "backend b { server a.example:25 priority 10; server A.example priority 20 }\n" DOMAIN), CONF_E_DUPLICATE },
        { S(HEAD "backend b { server a.example:25; server a.example:26 }\n" DOMAIN), 0 },
        { S(HEAD BACKEND DOMAIN "hostname other.example\n"), CONF_E_TWICE },
        { S(HEAD BACKEND "relay_domain b.example { backend b; recipients any }\n"), CONF_E_POSTMASTER },
        { S(HEAD BACKEND DOMAIN "retry [ 1m ]\n"), CONF_E_BAD_RETRY },
        { S(HEAD BACKEND DOMAIN "stream bulk { weight 1; from news.a.example <>; field Precedence bulk list; field List-Id; retry [ 1h ] for 3d }\n"
            "route slow { stream bulk; via b }\n"), 0 },
        { S(HEAD BACKEND DOMAIN "stream bulk { weight 1 }\n"), CONF_E_MISSING },
        { S(HEAD BACKEND DOMAIN "stream bulk { from a.example; weight 0 }\n"), CONF_E_RANGE },
        { S(HEAD BACKEND DOMAIN "stream bulk { from a..example }\n"), CONF_E_BAD_ADDRESS },
        { S(HEAD BACKEND DOMAIN "stream bulk { field \"A b\" }\n"), CONF_E_BAD_ADDRESS },
        { S(HEAD BACKEND DOMAIN "stream bulk { network nobody }\n"), CONF_E_UNKNOWN },
        { S(HEAD BACKEND DOMAIN "stream bulk { from a.example; retry [ 1h ] }\n"), CONF_E_BAD_RETRY },
        { S(HEAD BACKEND DOMAIN "stream bulk { from a.example }\nstream bulk { from b.example }\n"), CONF_E_TWICE },
        { S(HEAD BACKEND DOMAIN "route slow { stream bulk; via b }\n"), CONF_E_UNKNOWN },
        { S(HEAD "backend b { server 127.0.0.1:99999 }\n" DOMAIN), CONF_E_BAD_ADDRESS },
        { S(HEAD BACKEND DOMAIN "relay_domain c.example { backend b; recipients { file /does/not/exist } }\n"), CONF_E_BAD_LIST },
        { S("waypost 1\nhostname mx.example\nlisten smtp 127.0.0.1:2599\nspool { dir /nowhere }\n" BACKEND DOMAIN), CONF_E_MISSING },
        { S("waypost 1\nhostname mx.example\npostmaster pm@a.example\nspool { dir /nowhere }\n" BACKEND DOMAIN), CONF_E_LISTENER },
        { S(HEAD BACKEND DOMAIN "dns { server 127.0.0.1 192.0.2.53:5353 [::1]:53; stub corp.example 10.0.0.1; stub other.example [2001:db8::1]\n"
            "insecure a.example b.example; hosts off; resolv_conf /run/resolv.conf; dnssec on;  timeout 5s; cache 4MiB }\n"), 0 },
        { S(HEAD BACKEND DOMAIN "dns { server ns.example }\n"), CONF_E_BAD_ADDRESS },
        { S(HEAD BACKEND DOMAIN "dns { server unix:/run/x }\n"), CONF_E_BAD_ADDRESS },
        { S(HEAD BACKEND DOMAIN "dns { server 127.0.0.1:0 }\n"), CONF_E_BAD_ADDRESS },
        { S(HEAD BACKEND DOMAIN "dns { server }\n"), CONF_E_ARGUMENTS },
        { S(HEAD BACKEND DOMAIN "dns { stub a..example 10.0.0.1 }\n"), CONF_E_DOMAIN },
        { S(HEAD BACKEND DOMAIN "dns { stub corp.example }\n"), CONF_E_ARGUMENTS },
        { S(HEAD BACKEND DOMAIN "dns { stub corp.example 10.0.0.1; stub Corp.example 10.0.0.2 }\n"), CONF_E_DUPLICATE },
        { S(HEAD BACKEND DOMAIN "dns { insecure * }\n"), CONF_E_DOMAIN },
        { S(HEAD BACKEND DOMAIN "dns { trust_anchor /does/not/exist }\n"), CONF_E_BAD_ANCHOR },
        { S(HEAD BACKEND DOMAIN "dns { trust_anchor /dev/null }\n"), CONF_E_BAD_ANCHOR },
        { S(HEAD BACKEND DOMAIN "dns { hosts maybe }\n"), CONF_E_SWITCH },
        { S(HEAD BACKEND DOMAIN "dns { dnssec never }\n"), CONF_E_WORD },
        { S(HEAD BACKEND DOMAIN "dns { timeout 0s }\n"), CONF_E_RANGE },
        { S(HEAD BACKEND DOMAIN "dns { cache 1k }\n"), CONF_E_RANGE },
    };
    EACH(cases, c)
        CHECK_INT(load_error(c->text, NULL), c->want, c->text);
}

TEST(settings_say_how_names_are_looked_up)
{
    struct settings *s;
    char text[ADDR_TEXT];

    CHECK_INT(load_error(S(HEAD BACKEND DOMAIN), &s), 0);
    CHECK(s->dns.server.n == 0 && s->dns.nstub == 0 && s->dns.dnssec == DNSSEC_AUTO && s->dns.timeout == 20 * SECOND && s->dns.cache == 16 << 20);
    CHECK_STR(s->dns.hosts, S("/etc/hosts"));
    CHECK_STR(s->dns.resolv, S("/etc/resolv.conf"));
    CHECK_STR(s->dns.anchor, S(""));
    snapshot_drop(&s->snapshot);
    CHECK_INT(load_error(S(HEAD BACKEND DOMAIN "dns { server 192.0.2.53 [::1]:5353; stub Corp.Example. 10.0.0.1 10.0.0.2; stub x.example 10.0.0.3\n"
                           "insecure a.example; insecure b.example c.example; hosts /etc/other; resolv_conf off; dnssec off }\n"), &s), 0);
    CHECK(s->dns.server.n == 2 && s->dns.nstub == 2 && s->dns.insecure.n == 3 && s->dns.dnssec == DNSSEC_OFF);
    if (s->dns.server.n == 2 && s->dns.nstub == 2 && s->dns.insecure.n == 3) {
        CHECK_STR(addr_print(&s->dns.server.p[0], text), S("192.0.2.53:53"));
        CHECK_STR(addr_print(&s->dns.server.p[1], text), S("[::1]:5353"));
        CHECK_STR(s->dns.stub[0].zone, S("corp.example"));
        CHECK_INT(s->dns.stub[0].server.n, 2);
        CHECK_STR(s->dns.insecure.p[2], S("c.example"));
    }
    CHECK_STR(s->dns.hosts, S("/etc/other"));
    CHECK_STR(s->dns.resolv, S(""));
    snapshot_drop(&s->snapshot);
}

TEST(settings_say_who_is_told_what)
{
    struct settings *s;

    CHECK_INT(load_error(S(HEAD BACKEND DOMAIN), &s), 0);
    CHECK(s->snapshot.reports.delay_warning == 4 * HOUR && s->snapshot.reports.double_bounce == DOUBLE_BOUNCE_POSTMASTER);
    CHECK(s->snapshot.reports.rate.n == 600 && s->snapshot.reports.rate_per_address.n == 60 && s->snapshot.reports.rate_per_address.per == HOUR);
    CHECK(s->snapshot.routes.domain[0]->bounce == BOUNCE_ALL && s->snapshot.routes.fallback_bounce == BOUNCE_ALL);
    snapshot_drop(&s->snapshot);
    CHECK_INT(load_error(S(HEAD BACKEND DOMAIN "delay_warning 0\ndouble_bounce drop\nreport_rate 0/min\nreport_rate_per_address 5/day\n"
                           "relay_domain b.example { backend b; recipients any; bounce none }\nroute default { via b; bounce own }\n"), &s), 0);
    CHECK(s->snapshot.reports.delay_warning == 0 && s->snapshot.reports.double_bounce == DOUBLE_BOUNCE_DROP && s->snapshot.reports.rate.n == 0);
    CHECK(s->snapshot.reports.rate_per_address.n == 5 && s->snapshot.reports.rate_per_address.per == DAY);
    CHECK(route_domain(&s->snapshot.routes, S("b.example"))->bounce == BOUNCE_NONE && s->snapshot.routes.fallback_bounce == BOUNCE_OWN);
    CHECK(s->snapshot.routes.fallback && str_eq(s->snapshot.routes.fallback->name, S("b")));
    snapshot_drop(&s->snapshot);
    CHECK_INT(load_error(S(HEAD BACKEND DOMAIN "route default { via b; bounce some }\n"), NULL), CONF_E_WORD);
}

TEST(routes_find_domains_networks_and_the_way)
{
    struct settings *s;
    when expire;
    struct addr client;

    CHECK_INT(load_error(S(HEAD BACKEND DOMAIN "backend out { server 127.0.0.1:2601 }\nroute default { via out }\n"
                           "relay_domain *.a.example { backend b; recipients any; expire 2d }\n"
                           "network wide 10.0.0.0/8 { relay_from a.example }\nnetwork narrow 10.1.0.0/16 { relay_from *.a.example }\n"), &s), 0);
    if (!s)
        return;
    const struct routes *r = &s->snapshot.routes;
    CHECK_STR(route_for(r, S("A.Example"), &expire)->name, S("b"));
    CHECK_INT(expire, 0);
    CHECK_STR(route_for(r, S("x.y.a.example"), &expire)->name, S("b"));
    CHECK_INT(expire, 2 * DAY);
    CHECK_STR(route_for(r, S("elsewhere.example"), &expire)->name, S("out"));
    CHECK(route_domain(r, S("example")) == NULL);
    CHECK(route_domain(r, S("ba.example")) == NULL);
    CHECK_ERR(addr_parse(S("10.1.2.3:5"), 0, &client), OK);
    const struct network *n = route_network(r, &client);
    CHECK(n && str_eq(n->name, S("narrow")));
    CHECK(network_may_send(n, S("b.a.example")) && !network_may_send(n, S("a.example")));
    CHECK_ERR(addr_parse(S("192.0.2.1:5"), 0, &client), OK);
    CHECK(route_network(r, &client) == NULL);
    snapshot_drop(&s->snapshot);
}

TEST(settings_dev_loads_with_all_its_defaults)
{
    struct settings *s;

    CHECK_INT(load_error(str_z(settings_dev), &s), 0);
    if (!s)
        return;
    CHECK_INT((int64_t)s->snapshot.receive.limits.message_size, 50 << 20);
    CHECK_INT(s->snapshot.receive.timeouts.command, 5 * MINUTE);
    CHECK_INT((int64_t)s->snapshot.routes.backend[0]->max_connections, 16);
    CHECK_INT(s->spool.reserve, 4);
    snapshot_drop(&s->snapshot);
}
