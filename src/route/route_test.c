#include "kit/kit.h"
#include "main/main.h"

/* ---- which server ---- */

struct four { struct next_hop server[4]; struct backend b; bool avoid[4]; when retry_at; };

static void four_open(struct four *f, str name)
{
    *f = (struct four){ .b = { .name = name, .server = f->server, .nserver = 4 } };
    for (uint16_t i = 0; i < 4; i++) {
        f->server[i] = (struct next_hop){ .host = S("x"), .port = i, .priority = i < 2 ? 10 : i == 2 ? 20 : 30 };
        f->server[i].state = server_state(name, S("x"), i);
    }
}

static struct next_hop *four_pick(struct four *f, when now)
{
    return backend_pick(&f->b, f->avoid, now, &f->retry_at);
}

TEST(balance_shares_among_equals_and_keeps_the_others_in_reserve)
{
    struct four f;
    int first = 0;

    four_open(&f, S("share"));
    for (int i = 0; i < 1000; i++) {
        struct next_hop *s = four_pick(&f, HOUR);
        CHECK(s && s->priority == 10);
        first += s == &f.server[0];
    }
    CHECK(first > 300 && first < 700);
    atomic_store(&f.server[0].state->busy, 50);
    for (int i = 0; i < 100; i++)
        CHECK(four_pick(&f, HOUR) == &f.server[1]); /* the less busy of two */
}

TEST(balance_goes_down_the_priorities_and_back_up_by_one_probe)
{
    struct four f;

    four_open(&f, S("fail"));
    server_failed(f.server[0].state, HOUR);
    CHECK(four_pick(&f, HOUR) == &f.server[1]);
    server_failed(f.server[1].state, HOUR);
    CHECK(four_pick(&f, HOUR) == &f.server[2]);
    server_failed(f.server[2].state, HOUR);
    CHECK(four_pick(&f, HOUR) == &f.server[3]);
    server_failed(f.server[3].state, HOUR);
    CHECK(four_pick(&f, HOUR) == NULL);
    CHECK(f.retry_at > HOUR && f.retry_at <= HOUR + 2 * SECOND);

    /* After its time one caller tries a server; the others do not wait for what it finds. */
    struct next_hop *probe = four_pick(&f, HOUR + 2 * SECOND);
    CHECK(probe == &f.server[0]);
    CHECK(four_pick(&f, HOUR + 2 * SECOND) == &f.server[1]);
    server_works(probe->state, HOUR + 2 * SECOND);
    CHECK(four_pick(&f, HOUR + 2 * SECOND) == &f.server[0]);
    CHECK_INT(atomic_load(&f.server[0].state->failures), 0);
}

TEST(balance_ejects_for_longer_each_time_up_to_a_minute)
{
    struct four f;
    when last = 0;

    four_open(&f, S("eject"));
    for (int i = 0; i < 12; i++) {
        server_failed(f.server[0].state, HOUR);
        when out = atomic_load(&f.server[0].state->out_until) - HOUR;
        CHECK(out >= MIN(SECOND << i, MINUTE) && out <= MINUTE + MINUTE / 4);
        CHECK(out >= last || out >= MINUTE);
        last = out;
    }
}

TEST(balance_gives_a_returning_server_little_at_first)
{
    struct four f;
    int first = 0;

    four_open(&f, S("ramp"));
    server_failed(f.server[0].state, HOUR);
    server_works(f.server[0].state, HOUR + MINUTE);
    atomic_store(&f.server[1].state->busy, 3); /* busier, but long in */
    for (int i = 0; i < 100; i++)
        first += four_pick(&f, HOUR + MINUTE) == &f.server[0];
    CHECK_INT(first, 0);
    for (int i = 0; i < 100; i++)
        first += four_pick(&f, HOUR + 2 * MINUTE) == &f.server[0];
    CHECK_INT(first, 100);
}

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
        { S(HEAD BACKEND DOMAIN "hostname other.example\n"), CONF_E_TWICE },
        { S(HEAD BACKEND "relay_domain b.example { backend b; recipients any }\n"), CONF_E_POSTMASTER },
        { S(HEAD BACKEND DOMAIN "retry [ 1m ]\n"), CONF_E_BAD_RETRY },
        { S(HEAD "backend b { server 127.0.0.1:99999 }\n" DOMAIN), CONF_E_BAD_ADDRESS },
        { S(HEAD BACKEND DOMAIN "relay_domain c.example { backend b; recipients { file /does/not/exist } }\n"), CONF_E_BAD_LIST },
        { S("waypost 1\nhostname mx.example\nlisten smtp 127.0.0.1:2599\nspool { dir /nowhere }\n" BACKEND DOMAIN), CONF_E_MISSING },
        { S("waypost 1\nhostname mx.example\npostmaster pm@a.example\nspool { dir /nowhere }\n" BACKEND DOMAIN), CONF_E_LISTENER },
    };
    EACH(cases, c)
        CHECK_INT(load_error(c->text, NULL), c->want, c->text);
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
