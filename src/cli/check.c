/* check: what is wrong with a configuration; and, if asked, whether what it names is there: servers, sources of recipients, names. */
#include "cli/cli.h"

#include <stdio.h>

#define AT_ONCE 32
#define SIDE_BY_SIDE_MOST (2 * MINUTE)  /* for all of them */

/* ---- probes: one thing asked, and what came of it ---- */

enum found_how { PROBE_UNASKED, PROBE_OK, PROBE_NOTE /* not as usual, but it may be meant so */, PROBE_FAILED };
struct probe {
    enum found_how (*ask)(struct probe *p, struct resolver *names);
    const char *kind;
    str what;                           /* "backend exchange: ex01:25" */
    const struct next_hop *server;
    const struct outlet *outlet;        /* how its backend is left for, or NULL */
    struct table *table;
    str name;                           /* a domain or host */
    const struct settings *s;
    when timeout;
    arena *a;
    enum found_how found;
    str text;
};
struct probes { arena *a; struct probe *p; size_t n, next; struct resolver *names; when deadline; };

static enum found_how failed(struct probe *p)
{
    p->text = str_dup(p->a, err_text());
    return PROBE_FAILED;
}

static enum found_how ask_server(struct probe *p, struct resolver *names)
{
    str who = { 0 }, offers = { 0 };
    err e = deliver_probe(names, p->a, p->server, p->outlet, p->s->snapshot.receive.hostname, p->timeout, &who, &offers);

    if (e != OK && !str_starts(err_text(), who))
        during(e, "%.*s", STR(who));
    if (e != OK)
        return failed(p);
    p->text = str_printf(p->a, "%.*s greets, and offers %.*s", STR(who), STR(offers));
    return PROBE_OK;
}

static enum found_how ask_source(struct probe *p, struct resolver *names)
{
    str name;

    (void)names;
    err e = table_probe(p->table, str_printf(p->a, "postmaster@%.*s", STR(p->name)), clock_now() + p->timeout, &name);
    p->what = str_printf(p->a, "%.*s, %.*s", STR(p->what), STR(name));
    if (e != OK)
        return failed(p);
    p->text = S("it answers");
    return PROBE_OK;
}

static str addresses_text(arena *a, const struct addrs *all)
{
    struct buf b = buf_in(a, 80);
    char text[ADDR_TEXT];

    for (size_t i = 0; i < MIN(all->n, 4); i++)
        buf_addf(&b, "%s%.*s", i ? " " : "", STR(addr_print_ip(&all->p[i], text)));
    if (all->n > 4)
        buf_addf(&b, " and %zu more", all->n - 4);
    return buf_str(&b);
}

static enum found_how ask_name(struct probe *p, struct resolver *names)
{
    struct dns_addresses got;

    if (dns_addresses(names, p->a, p->name, 25, clock_now() + p->timeout, &got) != OK)
        return failed(p);
    if (got.all.n == 0) {
        p->text = S("it has no address");
        return PROBE_FAILED;
    }
    p->text = addresses_text(p->a, &got.all);
    return PROBE_OK;
}

static bool is_ours(struct probe *p, struct resolver *names, str host)
{
    const struct own *own = &p->s->snapshot.routes.own;
    struct dns_addresses got;

    for (size_t i = 0; i < own->name.n; i++)
        if (str_ieq(own->name.p[i], host))
            return true;
    if (dns_addresses(names, p->a, host, 25, clock_now() + p->timeout, &got) != OK)
        return false;
    for (size_t i = 0; i < got.all.n; i++)
        if (own_address(own, &got.all.p[i]))
            return true;
    return false;
}

/* Where the world sends mail for a relay domain. That it is not here may be right: another gateway may stand before us. */
static enum found_how ask_mx(struct probe *p, struct resolver *names)
{
    struct dns_mx got;
    struct buf hosts = buf_in(p->a, 80);
    bool ours = false;
    err e = dns_mx(names, p->a, p->name, clock_now() + p->timeout, &got);

    if (e == E_NONAME) {
        p->text = S("no such domain in DNS: nobody out there can write to it");
        return PROBE_NOTE;
    }
    if (e != OK)
        return failed(p);
    if (got.null) {
        p->text = S("a null MX: it says that it takes no mail (RFC 7505)");
        return PROBE_FAILED;
    }
    if (got.records == 0) {
        ours = is_ours(p, names, p->name);
        p->text = ours ? S("no MX, and its own address is this host") : S("no MX: mail goes to the address of that name, which is not this host");
        return ours ? PROBE_OK : PROBE_NOTE;
    }
    for (size_t i = 0; i < got.n; i++) {
        bool mine = is_ours(p, names, got.p[i].host);
        ours |= mine;
        if (i < 10)
            buf_addf(&hosts, "%s%.*s%s", i ? ", " : "", STR(got.p[i].host), mine ? " (this host)" : "");
    }
    p->text = str_printf(p->a, "%s: MX %.*s", ours ? "comes here" : "does not come here (own { names, addresses } say what else this host is known as)",
                         STR(buf_str(&hosts)));
    return ours ? PROBE_OK : PROBE_NOTE;
}

/* ---- which ---- */

static struct probe *probe_new(struct probes *all, const struct settings *s, when timeout, const char *kind, str what,
                               enum found_how (*ask)(struct probe *p, struct resolver *names))
{
    if ((all->n & (all->n - 1)) == 0) { /* a power of two is full */
        struct probe *more = NEW_ARRAY(all->a, struct probe, MAX(2 * all->n, 1));
        if (all->n)
            memcpy(more, all->p, all->n * sizeof *more);
        all->p = more;
    }
    struct probe *p = &all->p[all->n++];
    *p = (struct probe){ .ask = ask, .kind = kind, .what = what, .s = s, .timeout = timeout, .a = all->a, .text = S("there was no time left to ask") };
    return p;
}

static str server_name(arena *a, const struct backend *b, const struct next_hop *server)
{
    if (server->addr.n && server->addr.sa.sa_family == AF_UNIX)
        return str_printf(a, "backend %.*s: %.*s", STR(b->name), STR(server->host));
    return str_printf(a, "backend %.*s: %.*s:%u", STR(b->name), STR(server->host), server->port);
}

static void want_connections(struct probes *all, const struct settings *s, when timeout)
{
    const struct routes *r = &s->snapshot.routes;

    for (size_t i = 0; i < r->nbackend; i++)
        for (size_t k = 0; !backend_is_pattern(r->backend[i]) && k < r->backend[i]->nserver; k++) {
            struct probe *p = probe_new(all, s, timeout, "connect", server_name(all->a, r->backend[i], &r->backend[i]->server[k]), ask_server);
            p->server = &r->backend[i]->server[k];
            p->outlet = r->backend[i]->outlet;
        }
    for (size_t i = 0; i < r->ndomain; i++)
        for (size_t k = 0; k < r->domain[i]->recipients.ntable; k++) {
            const struct relay_domain *d = r->domain[i];
            if (d->recipients.path[k].n)
                continue; /* a list: it was read */
            str name = d->name.p[0];
            struct probe *p = probe_new(all, s, timeout, "source", str_printf(all->a, "recipients of %.*s", STR(name)), ask_source);
            p->table = d->recipients.table[k];
            p->name = str_starts(name, S("*.")) ? str_from(name, 2) : name;
        }
}

static void want_names(struct probes *all, const struct settings *s, when timeout)
{
    const struct routes *r = &s->snapshot.routes;

    probe_new(all, s, timeout, "name", str_printf(all->a, "hostname %.*s", STR(s->snapshot.receive.hostname)), ask_name)->name = s->snapshot.receive.hostname;
    for (size_t i = 0; i < r->nbackend; i++)
        for (size_t k = 0; !backend_is_pattern(r->backend[i]) && k < r->backend[i]->nserver; k++)
            if (r->backend[i]->server[k].addr.n == 0)
                probe_new(all, s, timeout, "name", server_name(all->a, r->backend[i], &r->backend[i]->server[k]), ask_name)->name = r->backend[i]->server[k].host;
    for (size_t i = 0; i < r->ndomain; i++)
        for (size_t k = 0; k < r->domain[i]->name.n; k++) {
            str name = r->domain[i]->name.p[k];
            if (!str_starts(name, S("*.")))
                probe_new(all, s, timeout, "mx", str_printf(all->a, "relay domain %.*s", STR(name)), ask_mx)->name = name;
        }
}

/* ---- asking ---- */

struct asking { struct probe *p; struct resolver *names; };

static err ask_one(void *arg)
{
    struct asking *k = arg;

    k->p->text = S("it took too long");
    k->p->found = PROBE_FAILED;
    k->p->found = k->p->ask(k->p, k->names);
    return OK;
}

/* One after the other; as many of these run as may be asked at once. */
static err ask_next(void *probes)
{
    struct probes *all = probes;

    while (all->next < all->n && clock_now() < all->deadline) {
        struct asking k = { &all->p[all->next++], all->names };
        /* A little more than the question's own patience, whose words tell more. */
        AUTO_GROUP g = group_open(MIN(all->deadline, clock_now() + 2 * k.p->timeout));
        group_spawn(&g, "probe", ask_one, &k);
        group_wait(&g);
    }
    return OK;
}

struct run { struct probes *all; const struct settings *s; };

static err ask_all(void *arg)
{
    struct run *r = arg;
    struct probes *all = r->all;

    TRY(resolver_open(&r->s->dns, &all->names));
    deliver_callouts(all->names);
    all->deadline = clock_now() + SIDE_BY_SIDE_MOST;
    {
        AUTO_GROUP g = group_open(NEVER);
        for (size_t i = 0; i < MIN(all->n, AT_ONCE); i++)
            group_spawn(&g, "probes", ask_next, all);
        group_wait(&g);
    }
    resolver_close(all->names);
    return OK;
}

/* ---- telling ---- */

static const char *const found_name[] = { [PROBE_UNASKED] = "failed", [PROBE_OK] = "ok", [PROBE_NOTE] = "note", [PROBE_FAILED] = "failed" };

static void add_probe_json(struct buf *out, const struct probe *p)
{
    buf_addf(out, "{\"check\":\"%s\",\"what\":", p->kind);
    buf_add_json(out, p->what);
    buf_addf(out, ",\"found\":\"%s\",\"text\":", found_name[p->found]);
    buf_add_json(out, p->text);
    buf_addc(out, '}');
}

static bool any_failed(const struct probes *all)
{
    for (size_t i = 0; i < all->n; i++)
        if (all->p[i].found == PROBE_UNASKED || all->p[i].found == PROBE_FAILED)
            return true;
    return false;
}

static void tell_json(const struct diags *d, const struct probes *all)
{
    AUTO_BUF out = { 0 };

    diags_print_json(d, &out);
    while (out.n && out.p[out.n - 1] != ']')
        out.n--;
    out.n--; /* the probes belong into the same array */
    for (size_t i = 0; i < all->n; i++) {
        if (i || d->n)
            buf_add(&out, S(","));
        add_probe_json(&out, &all->p[i]);
    }
    buf_add(&out, S("]\n"));
    fwrite(out.p, 1, out.n, stdout);
}

static void tell(const char *config, const struct diags *d, bool good, const struct probes *all)
{
    AUTO_BUF out = { 0 };
    size_t warnings = d->n + d->dropped - d->errors;

    diags_print(d, &out);
    if (good)
        buf_addf(&out, "%s: good%s\n", config, warnings ? ", with warnings" : "");
    else
        buf_addf(&out, "%s: %zu error%s; the relay would not run on it\n", config, d->errors, d->errors == 1 ? "" : "s");
    for (size_t i = 0; i < all->n; i++) {
        const struct probe *p = &all->p[i];
        buf_addf(&out, "%-6s %.*s: %.*s\n", found_name[p->found], STR(tell_text(all->a, p->what)), STR(tell_text(all->a, p->text)));
    }
    fwrite(out.p, 1, out.n, stdout);
}

static void forget(struct settings *s, struct diags *d)
{
    if (s)
        snapshot_drop(&s->snapshot); /* with the arena */
    else
        arena_free(d->a);
}

int cli_check(int argc, char **argv)
{
    AUTO_ARENA a = arena_new();
    const char *config = CLI_CONFIG, *span = NULL;
    bool json = false, connect = false, dns = false;
    const struct flag flags[] = {
        { "config", 'c', .text = &config }, { "json", .on = &json }, { "connect", .on = &connect }, { "dns", .on = &dns }, { "timeout", .text = &span }, { NULL },
    };
    struct diags d = { .a = arena_new() };
    struct probes all = { .a = a };
    when timeout = 10 * SECOND;
    int n = cli_flags(argc, argv, flags), code = n < 0 ? CLI_USAGE : CLI_DONE;

    if (n > 1)
        code = cli_usage("check", "one file at a time");
    else if (span && (!cli_span(span, &timeout) || timeout < MILLISECOND || timeout > MINUTE))
        code = cli_usage("check", "--timeout %s: a time such as 5s, at most 1m", span);
    if (code != CLI_DONE) {
        arena_free(d.a);
        return code;
    }
    if (n == 1)
        config = argv[1];
    struct settings *s = settings_load(str_z(config), NULL, &d);
    if (s) {
        files_unreadable(s, &d);
        aliases_check(&s->snapshot.routes, s->snapshot.receive.hostname, &d);
    }
    if (s && connect)
        want_connections(&all, s, timeout);
    if (s && dns)
        want_names(&all, s, timeout);
    if (all.n && task_main(ask_all, &(struct run){ &all, s }) != OK)
        cli_say("nothing could be asked: %.*s", STR(err_text()));
    if (json)
        tell_json(&d, &all);
    else
        tell(config, &d, s != NULL, &all);
    code = !s ? CLI_USAGE : any_failed(&all) ? CLI_NO : CLI_DONE;
    forget(s, &d);
    return code;
}
