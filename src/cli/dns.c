/* dns: one question, asked as the relay would ask it. */
#include "cli/cli.h"

#include <errno.h>
#include <stdio.h>
#include <unistd.h>

struct question {
    struct dns_settings s;
    str name, type;
    struct addr addr;                   /* for ptr */
    when timeout;
    bool json;
    arena *a;
    struct dns_about about;
    struct strs record;                 /* as people read them */
    str note;                           /* what an empty answer means; or what half an answer lacks */
};

/* ---- asking ---- */

static void add(struct question *q, str record)
{
    if ((q->record.n & (q->record.n - 1)) == 0) { /* a power of two is full */
        str *more = NEW_ARRAY(q->a, str, MAX(q->record.n * 2, 1));
        if (q->record.n)
            memcpy(more, q->record.p, q->record.n * sizeof *more);
        q->record.p = more;
    }
    q->record.p[q->record.n++] = record;
}

static err ask_addresses(struct question *q, struct resolver *r, when deadline)
{
    struct dns_addresses got;
    char text[ADDR_TEXT];

    TRY(dns_addresses(r, q->a, q->name, 25, deadline, &got));
    q->about = got.about;
    for (size_t i = 0; i < got.all.n; i++)
        add(q, str_dup(q->a, addr_print_ip(&got.all.p[i], text)));
    if (got.hosts)
        q->note = S("from this machine, not from DNS");
    else if (got.v4 != OK || got.v6 != OK)
        q->note = str_printf(q->a, "%s: %s", got.v4 != OK ? "A" : "AAAA", err_name(got.v4 != OK ? got.v4 : got.v6));
    return OK;
}

static err ask_mx(struct question *q, struct resolver *r, when deadline)
{
    struct dns_mx got;

    TRY(dns_mx(r, q->a, q->name, deadline, &got));
    q->about = got.about;
    for (size_t i = 0; i < got.n; i++)
        add(q, str_printf(q->a, "%u %.*s", got.p[i].preference, STR(got.p[i].host)));
    if (got.null)
        q->note = S("null MX: no mail is taken there");
    else if (got.records > got.n)
        q->note = str_printf(q->a, "%zu more, of no use", got.records - got.n);
    return OK;
}

static err ask_strs(struct question *q, const struct dns_about *about, const struct strs *all)
{
    q->about = *about;
    for (size_t i = 0; i < all->n; i++)
        add(q, all->p[i]);
    return OK;
}

static err ask_txt(struct question *q, struct resolver *r, when deadline)
{
    struct dns_txt got;

    TRY(dns_txt(r, q->a, q->name, deadline, &got));
    return ask_strs(q, &got.about, &got.all);
}

static err ask_ptr(struct question *q, struct resolver *r, when deadline)
{
    struct dns_ptr got;

    TRY(dns_ptr(r, q->a, &q->addr, deadline, &got));
    return ask_strs(q, &got.about, &got.all);
}

static err ask_tlsa(struct question *q, struct resolver *r, when deadline)
{
    struct dns_tlsa got;

    TRY(dns_tlsa(r, q->a, q->name, deadline, &got));
    q->about = got.about;
    for (size_t i = 0; i < got.n; i++) {
        struct buf out = buf_in(q->a, 160);
        buf_addf(&out, "%u %u %u ", got.p[i].usage, got.p[i].selector, got.p[i].matching);
        for (size_t k = 0; k < got.p[i].data.n; k++)
            buf_addf(&out, "%02x", (uint8_t)got.p[i].data.p[k]);
        add(q, buf_str(&out));
    }
    return OK;
}

static err ask_srv(struct question *q, struct resolver *r, when deadline)
{
    struct dns_srv got;

    TRY(dns_srv(r, q->a, q->name, deadline, &got));
    q->about = got.about;
    for (size_t i = 0; i < got.n; i++)
        add(q, str_printf(q->a, "%u %u %u %.*s", got.p[i].priority, got.p[i].weight, got.p[i].port, STR(got.p[i].host)));
    if (got.none)
        q->note = S("there is no such service");
    return OK;
}

static const struct { str type; err (*ask)(struct question *q, struct resolver *r, when deadline); } asks[] = {
    { S("addresses"), ask_addresses }, { S("mx"), ask_mx }, { S("txt"), ask_txt }, { S("ptr"), ask_ptr }, { S("tlsa"), ask_tlsa }, { S("srv"), ask_srv },
};

static err run(void *arg)
{
    struct question *q = arg;
    struct resolver *r;
    err e = E_USAGE;

    TRY(resolver_open(&q->s, &r));
    for (size_t i = 0; i < COUNT(asks); i++)
        if (str_ieq(q->type, asks[i].type))
            e = asks[i].ask(q, r, clock_now() + q->timeout);
    resolver_close(r);
    return e;
}

/* ---- telling ---- */

static void tell(const struct question *q)
{
    printf("%.*s %.*s: %s, for %u s", STR(tell_text(q->a, q->about.name)), STR(q->type), q->about.secure ? "secure" : "insecure", q->about.ttl);
    if (q->note.n)
        printf(" (%.*s)", STR(q->note));
    printf("\n");
    for (size_t i = 0; i < q->record.n; i++)
        printf("%.*s\n", STR(tell_text(q->a, q->record.p[i])));
}

static void tell_json(const struct question *q, err e, str text)
{
    AUTO_BUF out = { 0 };

    buf_addf(&out, "{\"answer\":\"%s\"", err_name(e));
    if (e == OK) {
        buf_addf(&out, ",\"secure\":%s,\"ttl\":%u,\"name\":", q->about.secure ? "true" : "false", q->about.ttl);
        buf_add_json(&out, q->about.name);
        buf_add(&out, S(",\"records\":["));
        for (size_t i = 0; i < q->record.n; i++) {
            buf_add(&out, i ? S(",") : S(""));
            buf_add_json(&out, q->record.p[i]);
        }
        buf_add(&out, S("],\"note\":"));
        buf_add_json(&out, q->note);
    } else {
        buf_add(&out, S(",\"text\":"));
        buf_add_json(&out, text);
    }
    buf_add(&out, S("}\n"));
    fwrite(out.p, 1, out.n, stdout);
}

/* ---- the verb ---- */

/* The block `dns` of a configuration; without one, what a relay would do that has none. */
static int settings_for(const char *config, struct settings **ret)
{
    static const char none[] = "waypost 1\nhostname localhost.localdomain\npostmaster postmaster@localhost.localdomain\nlisten smtp 127.0.0.1:25\n"
                               "spool { dir /nowhere }\nbackend none { server 127.0.0.1:25 }\nroute default { via none }\n";
    str text = str_z(none);
    struct diags d = { .a = arena_new() }; /* the settings' own, if there will be any */
    AUTO_BUF out = { 0 };

    if (!config && access(CLI_CONFIG, R_OK) == 0)
        config = CLI_CONFIG;
    *ret = settings_load(str_z(config ? config : "built-in"), config ? NULL : &text, &d);
    if (*ret)
        return CLI_DONE;
    diags_print(&d, &out);
    fprintf(stderr, "%.*s", STR(buf_str(&out)));
    arena_free(d.a);
    return CLI_USAGE;
}

static int ask(struct question *q)
{
    err e = task_main(run, q);
    str text = str_dup(q->a, err_text());

    if (q->json)
        tell_json(q, e, text);
    else if (e == OK)
        tell(q);
    else
        cli_say("%s: %.*s", err_name(e), STR(tell_text(q->a, text)));
    return e == OK ? CLI_DONE : CLI_NO;
}

static bool type_known(str type)
{
    for (size_t i = 0; i < COUNT(asks); i++)
        if (str_ieq(type, asks[i].type))
            return true;
    return false;
}

/* What the command line says; the settings come after it. */
static int understand(struct question *q, int n, char **argv, const char *span)
{
    if (n < 1 || n > 2)
        return cli_usage("dns", "what is wanted is a name, and perhaps a type");
    q->name = str_z(argv[1]);
    if (n == 2)
        q->type = str_z(argv[2]);
    if (!type_known(q->type))
        return cli_usage("dns", "\"%s\" is none of addresses, mx, txt, ptr, tlsa, srv", argv[2]);
    if (span && (!cli_span(span, &q->timeout) || q->timeout <= 0))
        return cli_usage("dns", "--timeout %s: a time such as 5s", span);
    if (str_ieq(q->type, S("ptr"))) {
        str text = str_has(q->name, S(":")) ? str_printf(q->a, "[%.*s]", STR(q->name)) : q->name;
        if (addr_parse(text, 25, &q->addr) != OK)
            return cli_usage("dns", "\"%s\" is no address: ptr asks for the names of one", argv[1]);
    }
    return CLI_DONE;
}

int cli_dns(int argc, char **argv)
{
    AUTO_ARENA a = arena_new();
    struct question q = { .a = a, .timeout = 30 * SECOND, .type = S("addresses") };
    struct flag_values servers = { 0 };
    const char *config = NULL, *span = NULL;
    const struct flag flags[] = {
        { "config", 'c', .text = &config }, { "server", .many = &servers }, { "timeout", .text = &span }, { "json", .on = &q.json }, { NULL },
    };
    struct addr server[COUNT(servers.p)];
    struct settings *s;

    int n = cli_flags(argc, argv, flags), code = n < 0 ? CLI_USAGE : understand(&q, n, argv, span);
    for (size_t i = 0; i < servers.n && code == CLI_DONE; i++)
        if (addr_parse(str_z(servers.p[i]), 53, &server[i]) != OK || server[i].sa.sa_family == AF_UNIX)
            code = cli_usage("dns", "--server %s: ADDRESS or ADDRESS:PORT, IPv6 in brackets", servers.p[i]);
    if (code != CLI_DONE || (code = settings_for(config, &s)) != CLI_DONE)
        return code;
    q.s = s->dns;
    if (servers.n)
        q.s.server = (struct addrs){ server, servers.n };
    code = ask(&q);
    snapshot_drop(&s->snapshot);
    return code;
}
