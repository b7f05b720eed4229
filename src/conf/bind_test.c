#include "kit/kit.h"
#include "conf/conf.h"

#include <string.h>

/* A small relay, with one setting of each kind. */
struct server { str addr; uint64_t priority; };
struct backend { str name; uint64_t connections; when idle; struct server server[4]; size_t nserver; bool checked; };
struct relay {
    str hostname, motto;
    uint64_t size, most;
    double part;
    bool tls;
    int level;
    struct rate rate;
    struct times retry;
    struct strs names;
    str key;
    struct spool { str dir; when sync; } spool;
    struct backend backend[4];
    size_t nbackend;
};

static void take_server(struct binder *b, const struct node *n, void *into)
{
    static const char *const words[] = { "priority", NULL };
    const struct token *value[1];
    struct backend *backend = into;
    struct server s = { .priority = 10 };

    if (!conf_args(b, n, 1, 3) || !conf_str(b, &n->arg[0], &s.addr) || !conf_keywords(b, n, 1, words, value))
        return;
    if (value[0] && !conf_int(b, value[0], 1, 100, &s.priority))
        return;
    backend->server[backend->nserver++] = s;
}

static void *make_backend(struct binder *b, const struct node *n, void *into)
{
    struct relay *r = into;
    struct backend *backend = &r->backend[r->nbackend];

    if (!conf_args(b, n, 1, 1) || !conf_str(b, &n->arg[0], &backend->name))
        return NULL;
    r->nbackend++;
    return backend;
}

static void backend_done(struct binder *b, const struct node *n, void *block)
{
    struct backend *backend = block;
    struct place at = conf_whole(n);
    if (backend->nserver == 0)
        conf_error(b, &at, CONF_E_MISSING, "backend %.*s has no server", STR(backend->name));
    backend->checked = true;
}

static const char *const levels[] = { "low", "high", NULL };
#define AT(member) .offset = offsetof(struct relay, member)
static const struct setting spool_table[] = {
    { .name = "dir", .type = CONF_PATH, .offset = offsetof(struct spool, dir), .preset = "/var/spool/waypost" },
    { .name = "sync", .type = CONF_TIME, .offset = offsetof(struct spool, sync), .preset = "5ms" },
    { 0 },
};
static const struct setting backend_table[] = {
    { .name = "server", .type = CONF_OWN, .take = take_server, .repeats = true, .form = "ADDRESS:PORT [priority N]" },
    { .name = "max_connections", .type = CONF_INT, .offset = offsetof(struct backend, connections), .preset = "20",
      .least = 1, .most = 1000 },
    { .name = "idle", .type = CONF_TIME, .offset = offsetof(struct backend, idle), .preset = "30s", .most = 3600 },
    { 0 },
};
static const struct setting relay_table[] = {
    { .name = "hostname", .type = CONF_DOMAIN, AT(hostname), .required = true, .form = "NAME" },
    { .name = "motto", .type = CONF_STR, AT(motto), .preset = "\"all is well\"" },
    { .name = "size", .type = CONF_BYTES, AT(size), .preset = "25MB", .least = 1000, .most = 1e9 },
    { .name = "most", .type = CONF_INT, AT(most) },
    { .name = "part", .type = CONF_PERCENT, AT(part), .preset = "10%", .most = 0.5 },
    { .name = "tls", .type = CONF_BOOL, AT(tls), .preset = "on" },
    { .name = "level", .type = CONF_ENUM, AT(level), .preset = "high", .words = levels },
    { .name = "rate", .type = CONF_RATE, AT(rate), .preset = "200/min" },
    { .name = "retry", .type = CONF_TIMES, AT(retry), .preset = "[ 1m 5m ]", .least = 1, .most = 86400 },
    { .name = "names", .type = CONF_STRS, AT(names), .preset = "a b", .repeats = true },
    { .name = "key", .type = CONF_PATH, AT(key) },
    { .name = "spool", .type = CONF_BLOCK, AT(spool), .sub = spool_table },
    { .name = "backend", .type = CONF_BLOCK, .make = make_backend, .sub = backend_table, .done = backend_done,
      .repeats = true },
    { 0 },
};

static bool bound(arena *a, str text, struct relay *r, struct buf *told)
{
    struct diags d = { .a = a };
    struct binder b = { .a = a, .diags = &d };
    struct node root;

    text = str_printf(a, "waypost 1\n%.*s", STR(text));
    CHECK_ERR(conf_parse(a, S("/etc/r.conf"), &text, &root, &d), OK);
    memset(r, 0, sizeof *r);
    bool understood = conf_bind(&b, relay_table, &root, r);
    diags_print(&d, told);
    return understood;
}

TEST(conf_bind_presets_then_values)
{
    AUTO_ARENA a = arena_new();
    AUTO_BUF told = { 0 };
    struct relay r;

    CHECK(bound(a, S("hostname MX.example"), &r, &told));
    CHECK_STR(buf_str(&told), S(""));
    CHECK_STR(r.hostname, S("mx.example"));
    CHECK_STR(r.motto, S("all is well"));
    CHECK_INT(r.size, 25000000);
    CHECK_INT(r.level, 1);
    CHECK(r.tls);
    CHECK_INT(r.rate.n, 200);
    CHECK_INT(r.retry.n, 2);
    CHECK_INT(r.retry.p[1], 5 * MINUTE);
    CHECK_INT(r.names.n, 2);
    CHECK_STR(r.spool.dir, S("/var/spool/waypost"));
    CHECK_INT(r.spool.sync, 5 * MILLISECOND);

    CHECK(bound(a, S("hostname x; motto \"so so\"; size 1MiB; most 3; part 20%; tls off; level low; rate 1/s\n"
                     "retry [ 1s\n2s 3s ]; names c [ d e ]; names f; key k.pem; spool { dir s }\n"
                     "backend one { server a:25; server b:25 priority 20; max_connections 7 }\n"
                     "backend two { server c:25 }"),
                &r, &told));
    CHECK_STR(buf_str(&told), S(""));
    CHECK_STR(r.motto, S("so so"));
    CHECK_INT(r.size, 1 << 20);
    CHECK_INT(r.most, 3);
    CHECK(!r.tls && r.part > 0.19 && r.part < 0.21);
    CHECK_INT(r.level, 0);
    CHECK_INT(r.retry.n, 3);
    CHECK_INT(r.names.n, 4);
    CHECK_STR(r.names.p[3], S("f"));
    CHECK_STR(r.key, S("/etc/k.pem"));
    CHECK_STR(r.spool.dir, S("/etc/s"));
    CHECK_INT(r.nbackend, 2);
    CHECK_INT(r.backend[0].nserver, 2);
    CHECK_INT(r.backend[0].server[1].priority, 20);
    CHECK_INT(r.backend[0].connections, 7);
    CHECK_INT(r.backend[1].connections, 20);
    CHECK(r.backend[0].checked && r.backend[1].checked);
}

TEST(conf_presets_alone)
{
    AUTO_ARENA a = arena_new();
    struct diags d = { .a = a };
    struct binder b = { .a = a, .diags = &d };
    struct relay r = { 0 };

    conf_presets(&b, relay_table, &r);
    CHECK_INT(d.n, 0);
    CHECK_STR(r.motto, S("all is well"));
    CHECK_INT(r.spool.sync, 5 * MILLISECOND);
}

TEST(conf_bind_suggests)
{
    static const struct { str in, want; } cases[] = {
        { S("hostname x\nbackend b {\n    max_conections 20 per server\n    server a:25\n}"),
          S("/etc/r.conf:4:5: error[E021]: unknown directive \"max_conections\" in backend\n"
            "    4 |     max_conections 20 per server\n"
            "      |     ^~~~~~~~~~~~~~ did you mean \"max_connections\"?  (waypost.conf(5), BACKEND)\n") },
        { S("hostnam x"), /* misspelt, not missing as well */
          S("/etc/r.conf:2:1: error[E021]: unknown directive \"hostnam\"\n"
            "    2 | hostnam x\n"
            "      | ^~~~~~~ did you mean \"hostname\"?  (waypost.conf(5))\n") },
        { S("hostname x; server a:25"),
          S("/etc/r.conf:2:13: error[E021]: unknown directive \"server\"\n"
            "    2 | hostname x; server a:25\n"
            "      |             ^~~~~~ that belongs in block backend  (waypost.conf(5), BACKEND)\n") },
        { S("hostname x; spool { size 1MB }"),
          S("/etc/r.conf:2:21: error[E021]: unknown directive \"size\" in spool\n"
            "    2 | hostname x; spool { size 1MB }\n"
            "      |                     ^~~~ that belongs outside of any block  (waypost.conf(5))\n") },
        { S("hostname x; spool { sever a:25 }"),
          S("/etc/r.conf:2:21: error[E021]: unknown directive \"sever\" in spool\n"
            "    2 | hostname x; spool { sever a:25 }\n"
            "      |                     ^~~~~ did you mean \"server\"? that belongs in block backend  "
            "(waypost.conf(5), BACKEND)\n") },
        { S("hostname x; quux"),
          S("/etc/r.conf:2:13: error[E021]: unknown directive \"quux\"\n"
            "    2 | hostname x; quux\n"
            "      |             ^~~~ (waypost.conf(5))\n") },
    };
    AUTO_ARENA a = arena_new();
    EACH(cases, c) {
        AUTO_BUF told = { 0 };
        struct relay r;
        CHECK(!bound(a, c->in, &r, &told), c->in);
        CHECK_STR(buf_str(&told), c->want, c->in);
    }
}

TEST(conf_bind_tells_wrong_values)
{
    static const struct { str in, want; } cases[] = {
        { S("size 1MB"), S("/etc/r.conf: error[E023]: there is no \"hostname\"\n      write: hostname NAME\n") },
        { S("hostname a\nhostname b"),
          S("/etc/r.conf:3:1: error[E022]: hostname is given twice, first at /etc/r.conf:2\n"
            "    3 | hostname b\n      | ^~~~~~~~ it may stand once\n") },
        { S("hostname a; size 1"),
          S("/etc/r.conf:2:18: error[E036]: size 1 is out of range: 1KB to 1GB\n"
            "    2 | hostname a; size 1\n      |                  ^\n") },
        { S("hostname a; part 60%"),
          S("/etc/r.conf:2:18: error[E036]: part 60% is out of range: 0% to 50%\n"
            "    2 | hostname a; part 60%\n      |                  ^~~\n") },
        { S("hostname a; retry [ 1s 2d ]"),
          S("/etc/r.conf:2:24: error[E036]: retry 2d is out of range: 1s to 1d\n"
            "    2 | hostname a; retry [ 1s 2d ]\n      |                        ^~\n") },
        { S("hostname a; retry []"),
          S("/etc/r.conf:2:19: error[E037]: the list is empty\n"
            "    2 | hostname a; retry []\n      |                   ^ write: retry\n") },
        { S("hostname a; level medium"),
          S("/etc/r.conf:2:19: error[E035]: \"medium\" is not known here\n"
            "    2 | hostname a; level medium\n      |                   ^~~~~~ one of: low, high\n") },
        { S("hostname a b"),
          S("/etc/r.conf:2:12: error[E025]: hostname takes 1 argument, here are 2\n"
            "    2 | hostname a b\n      |            ^ write: hostname NAME\n") },
        { S("hostname"),
          S("/etc/r.conf:2:1: error[E025]: hostname takes 1 argument, here are 0\n"
            "    2 | hostname\n      | ^~~~~~~~ write: hostname NAME\n") },
        { S("hostname [ a ]"),
          S("/etc/r.conf:2:10: error[E027]: one value is expected here, not a list\n"
            "    2 | hostname [ a ]\n      |          ^ write: hostname NAME\n") },
        { S("hostname a { b }"),
          S("/etc/r.conf:2:1: error[E024]: hostname takes no block\n"
            "    2 | hostname a { b }\n      | ^~~~~~~~ write: hostname NAME\n") },
        { S("hostname a; spool x { }"),
          S("/etc/r.conf:2:19: error[E025]: spool takes no argument, here are 1\n"
            "    2 | hostname a; spool x { }\n      |                   ^ write: spool\n") },
        { S("hostname a; backend b"), S("/etc/r.conf:2:13: error[E023]: backend b has no server\n") },
        { S("hostname a; backend b { sever x:25 }"), /* misspelt: the check of the whole says nothing */
          S("/etc/r.conf:2:25: error[E021]: unknown directive \"sever\" in backend\n"
            "    2 | hostname a; backend b { sever x:25 }\n"
            "      |                         ^~~~~ did you mean \"server\"?  (waypost.conf(5), BACKEND)\n") },
        { S("hostname a; backend b { server"), /* the block was not understood: nothing is missing from it */
          S("/etc/r.conf:2:23: error[E011]: this block is never closed\n"
            "    2 | hostname a; backend b { server\n      |                       ^ close it with }\n") },
        { S("hostname 1.2.3.4; tls maybe; rate x"), /* all in one run */
          S("/etc/r.conf:2:10: error[E034]: \"1.2.3.4\" is not a domain\n"
            "    2 | hostname 1.2.3.4; tls maybe; rate x\n"
            "      |          ^~~~~~~ as in example.com, or *.example.com for all below it\n"
            "/etc/r.conf:2:23: error[E028]: \"maybe\" is not on or off\n"
            "    2 | hostname 1.2.3.4; tls maybe; rate x\n"
            "      |                       ^~~~~\n"
            "/etc/r.conf:2:35: error[E032]: \"x\" is not a rate\n"
            "    2 | hostname 1.2.3.4; tls maybe; rate x\n"
            "      |                                   ^ as in 200/min, 10/s, 5k/hour, 1M/day\n") },
    };
    AUTO_ARENA a = arena_new();
    EACH(cases, c) {
        AUTO_BUF told = { 0 };
        struct relay r;
        bound(a, c->in, &r, &told);
        CHECK_STR(buf_str(&told), c->want, c->in);
    }
}
