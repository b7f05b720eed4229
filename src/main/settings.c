/* All settings together: the tables of the folders joined, the checks that look across them. */
#include "main/main.h"

/* ---- sections of main's own ---- */

static const char *const log_levels[] = { "debug", "info", "warn", "error", NULL };
static const char *const log_forms[] = { "text", "json", NULL };

static const struct setting log_settings[] = {
    { .name = "level", .type = CONF_ENUM, .offset = offsetof(struct settings, log.level), .preset = "info", .words = log_levels,
      .form = "debug | info | warn | error", .help = "The least level that is written." },
    { .name = "form", .type = CONF_ENUM, .offset = offsetof(struct settings, log.form), .preset = "json", .words = log_forms,
      .form = "text | json", .help = "JSON lines, or text for people." },
    { .name = "file", .type = CONF_PATH, .offset = offsetof(struct settings, log.file), .form = "PATH",
      .help = "Where lines go instead of standard error. Opened again on SIGUSR1." },
    { .name = NULL },
};

#define SPOOL(field) .offset = offsetof(struct settings, spool.field)
static void take_reserve(struct binder *b, const struct node *node, void *into)
{
    uint64_t n;

    if (conf_args(b, node, 1, 1) && conf_int(b, &node->arg[0], 2, 64, &n))
        ((struct settings *)into)->spool.reserve = (unsigned)n;
}

static const struct setting spool_settings[] = {
    { .name = "dir", .type = CONF_PATH, SPOOL(dir), .required = true, .form = "PATH", .help = "Where mail lies. Made when it is not there." },
    { .name = "max_bytes", .type = CONF_BYTES, SPOOL(max_bytes), .preset = "0", .help = "Most that the spool may take; 0: what the file system has." },
    { .name = "min_free", .type = CONF_BYTES, SPOOL(min_free), .preset = "256MiB", .help = "Space left free on the file system: new mail is put off with 452 before." },
    { .name = "reserve", .type = CONF_OWN, .take = take_reserve, .preset = "4", .form = "N",
      .help = "Segments of 64 MiB kept for outcomes and reports, so that a full disk drains by itself." },
    { .name = "compact_after", .type = CONF_TIME, SPOOL(compact_after), .preset = "1m", .least = 1, .most = 86400,
      .help = "How long a full segment is left alone before the little that still waits in it is copied forward, so that it can be used again." },
    { .name = NULL },
};

#define TRACE(field) .offset = offsetof(struct settings, trace.field)
static const struct setting trace_settings[] = {
    { .name = "retention", .type = CONF_TIME, TRACE(retention), .preset = "0s", .most = 3660.0 * 86400,
      .help = "How long the story of a message can be told, from its acceptance on; 0s: only what is in memory." },
    { .name = "max_bytes", .type = CONF_BYTES, TRACE(max_bytes), .preset = "2GiB", .least = 4194304, .most = 1e13,
      .help = "Most that the store may take: the oldest stories go first." },
    { .name = "dir", .type = CONF_PATH, TRACE(dir), .form = "PATH",
      .help = "Where the store lies. Made when it is not there. Default: the spool's directory with .trace behind it." },
    { .name = NULL },
};

static const struct setting own_settings[] = {
    { .name = "trace", .type = CONF_BLOCK, .sub = trace_settings, .form = "",
      .help = "A store on disk for what waypost trace tells: each step of each message, with the replies of next hops. It never holds mail up: when it "
              "cannot keep pace, or its disk is full, steps are left out and counted." },
    { .name = "spool", .at_start = true, .type = CONF_BLOCK, .sub = spool_settings, .required = true, .form = "", .help = "Where accepted mail lies safely." },
    { .name = "log", .type = CONF_BLOCK, .sub = log_settings, .form = "", .help = "What happened, an event a line." },
    { .name = "control", .at_start = true, .type = CONF_PATH, .offset = offsetof(struct settings, control), .form = "PATH",
      .help = "Unix socket for waypost(8)'s other verbs. Default: the spool's directory with .sock behind it." },
    { .name = "user", .at_start = true, .type = CONF_STR, .offset = offsetof(struct settings, user), .form = "NAME",
      .help = "Whom the worker becomes when started as root. Default: waypost, when there is such a user." },
    { .name = "threads", .at_start = true, .type = CONF_INT, .offset = offsetof(struct settings, threads), .preset = "0", .most = 256,
      .help = "Worker threads; 0: one a processor." },
    { .name = NULL },
};

/* ---- joined ---- */

#define SETTINGS_MOST 64
static struct setting joined[SETTINGS_MOST];

static size_t join(size_t n, const struct setting *table, size_t base)
{
    for (const struct setting *s = table; s->name; s++) {
        must(n + 1 < SETTINGS_MOST);
        joined[n] = *s;
        joined[n++].base += base;
    }
    return n;
}

const struct setting *settings_table(void)
{
    if (!joined[0].name) {
        size_t n = join(0, receive_settings, offsetof(struct settings, snapshot.receive));
        n = join(n, route_settings, offsetof(struct settings, snapshot.routes));
        n = join(n, dns_settings, offsetof(struct settings, dns));
        n = join(n, retry_settings, offsetof(struct settings, snapshot.retry));
        n = join(n, stream_settings, offsetof(struct settings, snapshot.streams));
        n = join(n, deliver_settings, offsetof(struct settings, snapshot.reports));
        join(n, own_settings, 0);
    }
    return joined;
}

const char settings_dev[] =
    "waypost 1\n"
    "hostname localhost.localdomain\n"
    "postmaster postmaster@example.com\n"
    "listen smtp 127.0.0.1:2525\n"
    "spool { dir ${WAYPOST_DEV_DIR:-/tmp/waypost-dev}/spool; min_free 16MiB }\n"
    "control ${WAYPOST_DEV_DIR:-/tmp/waypost-dev}/control.sock\n"
    "log { form text }\n"
    "backend dev {\n"
    "    server 127.0.0.1:2526\n"
    "    server 127.0.0.1:2527\n"
    "}\n"
    "relay_domain example.com { backend dev; recipients any }\n"
    "network here 127.0.0.0/8 { relay_from example.com }\n"
    "route default { via dev }\n"
    "retry [ 5s 30s 5m ] for 1d\n";

static void settings_end(struct snapshot *snap)
{
    struct settings *s = (struct settings *)(void *)snap;

    routes_free(&s->snapshot.routes);
    map_free(&s->paths);
    arena_free(s->a);
}

/* Besides what `own` names: the hostname, where we listen, and the addresses of this machine. */
static void own_finish(struct settings *s, arena *a)
{
    struct own *own = &s->snapshot.routes.own;
    const struct receive_settings *r = &s->snapshot.receive;
    size_t n = own->addr.n;

    for (size_t i = 0; i < r->nlistener; i++)
        n += r->listener[i].naddr;
    str *name = NEW_ARRAY(a, str, own->name.n + 1);
    struct addr *addr = NEW_ARRAY(a, struct addr, n);
    if (own->name.n)
        memcpy(name, own->name.p, own->name.n * sizeof *name);
    name[own->name.n++] = r->hostname;
    own->name.p = name;
    if (own->addr.n)
        memcpy(addr, own->addr.p, own->addr.n * sizeof *addr);
    for (size_t i = 0; i < r->nlistener; i++)
        for (size_t k = 0; k < r->listener[i].naddr; k++) {
            struct addr at = r->listener[i].addr[k];
            addr_set_port(&at, 0);
            if (at.sa.sa_family != AF_UNIX) /* the wildcards are nobody's next hop either */
                addr[own->addr.n++] = at;
        }
    own->addr.p = addr;
    own_interfaces(own, a);
}

/* Rules name listeners as `listen` does; said in one form they are found by comparing words. */
static void listeners_named(struct binder *b, const struct receive_settings *r, const char *what, const struct route_rule *u)
{
    for (size_t i = 0; i < u->listener.n; i++) {
        str *word = &u->listener.p[i];
        struct addr at;
        bool there = str_eq(*word, S(LISTENER_LOCAL)) && r->local;
        char text[ADDR_TEXT];
        if (!there && addr_parse(*word, 25, &at) == OK)
            for (size_t k = 0; k < r->nlistener && !there; k++)
                for (size_t n = 0; n < r->listener[k].naddr && !there; n++)
                    if (addr_eq(&r->listener[k].addr[n], &at) && listener_takes_mail(r->listener[k].kind)) {
                        *word = str_eq(r->listener[k].kind, S(LISTENER_LOCAL)) ? S(LISTENER_LOCAL) : str_dup(b->a, addr_print(&at, text));
                        there = true;
                    }
        if (!there)
            conf_error(b, &u->at, CONF_E_UNKNOWN, "%s \"%.*s\": no \"listen smtp\" is at %.*s", what, STR(u->name), STR(*word));
    }
}

static void rules_finish(struct binder *b, struct settings *s)
{
    for (size_t i = 0; i < s->snapshot.routes.nrule; i++)
        listeners_named(b, &s->snapshot.receive, "route", s->snapshot.routes.rule[i]);
    for (size_t i = 0; i < s->snapshot.streams.n; i++)
        listeners_named(b, &s->snapshot.receive, "stream", &s->snapshot.streams.p[i]->mail);
}

struct settings *settings_load(str path, const str *text, struct diags *d)
{
    arena *a = d->a;
    struct settings *s = NEW(a, struct settings);
    struct binder b = { .a = a, .diags = d, .paths = &s->paths };
    size_t errors = d->errors;

    s->a = a;
    s->path = str_dup(a, path);
    s->snapshot.end = settings_end;
    atomic_store(&s->snapshot.holders, 1);
    if (conf_parse(a, s->path, text, &s->tree, d) != OK)
        diag_add(d, CONF_ERROR, CONF_E_UNREADABLE, &(struct place){ .file = str_dup(d->a, path) }, S(""), "%.*s", STR(err_text()));
    else {
        bool understood = conf_bind(&b, settings_table(), &s->tree, s);
        if (s->control.n == 0 && s->spool.dir.n)
            s->control = str_printf(a, "%.*s.sock", STR(s->spool.dir));
        if (s->trace.dir.n == 0 && s->spool.dir.n)
            s->trace.dir = str_printf(a, "%.*s.trace", STR(s->spool.dir));
        own_finish(s, a);
        routes_finish(&b, &s->snapshot.routes);
        streams_finish(&b, &s->snapshot.streams, &s->snapshot.routes);
        rules_finish(&b, s);
        if (s->snapshot.reports.soft_bounce)
            conf_warn(&b, &(struct place){ .file = s->path, .line = 1, .column = 1 }, CONF_E_SOFT_BOUNCE, "soft_bounce is on: nothing that a next hop refuses is returned before its lifetime ends");
        if (understood) /* else what is missing may only have been misspelt */
            receive_settings_finish(&b, &s->snapshot.receive, &s->snapshot.routes);
    }
    if (d->errors != errors) {
        map_free(&s->paths);
        routes_free(&s->snapshot.routes); /* the rest is the diagnostics' arena, which the caller still reads */
        return NULL;
    }
    return s;
}
