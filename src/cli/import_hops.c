/* Where mail goes: transport(5), relayhost, and the transports of master.cf, as backends. */
#include "cli/import_inside.h"

#include "mail/mail.h"
#include "net/net.h"

#include <netdb.h>

void split_transport(str value, str *transport, str *nexthop)
{
    size_t colon = str_findc(value, ':');

    *transport = str_trim(str_head(value, MIN(colon, value.n)));
    *nexthop = colon == STR_NONE ? S("") : str_trim(str_from(value, colon + 1));
}

/* The program that a transport's service runs: what it can do. */
str service_kind(const struct relay *r, str transport)
{
    static const char *const known[] = { "smtp", "lmtp", "error", "retry", "discard", "local", "virtual", "pipe" };

    for (size_t i = 0; i < r->c->nservice; i++) {
        const struct pf_service *s = &r->c->service[i];
        if (!str_eq(s->name, transport) || str_eq(s->type, S("inet")))
            continue;
        if (str_eq(s->command, S("error")) && str_eq(s->name, S("retry")))
            return S("retry");
        return s->command;
    }
    if (r->c->nservice)
        return (str){ 0 };
    for (size_t i = 0; i < COUNT(known); i++)       /* no master.cf: the names everybody has */
        if (str_eq(transport, str_z(known[i])))
            return str_z(known[i]);
    return str_eq(transport, S("relay")) ? S("smtp") : (str){ 0 };
}

/* "25", "smtp", "submission" */
static bool port_number(str port, uint64_t *ret)
{
    char name[32];

    if (str_u64(port, 65535, ret) && *ret)
        return true;
    if (port.n == 0 || port.n >= sizeof name)
        return false;
    memcpy(name, port.p, port.n);
    name[port.n] = 0;
    const struct servent *s = getservbyname(name, "tcp");
    if (s)
        *ret = be16toh((uint16_t)s->s_port);
    return s != NULL;
}

struct server { str host; uint64_t port; bool bracket, unix_path; };

/* [host]:port, [host], host:port, host, inet:host:port, unix:path */
static bool parse_server(str word, uint64_t port, struct server *ret)
{
    struct server s = { .port = port };

    if (str_istarts(word, S("inet:")))
        word = str_from(word, 5);
    if (str_istarts(word, S("unix:"))) {
        *ret = (struct server){ .host = str_from(word, 5), .unix_path = true };
        for (size_t i = 0; i < ret->host.n; i++)
            if (!ascii_alpha(ret->host.p[i]) && !ascii_digit(ret->host.p[i]) && !strchr("/._-+@", ret->host.p[i]))
                return false;   /* no word of our form */
        return ret->host.n > 0;
    }
    size_t end = word.n && word.p[0] == '[' ? str_findc(word, ']') : STR_NONE;
    s.bracket = end != STR_NONE;
    str rest = s.bracket ? str_from(word, end + 1) : word;
    if (s.bracket)
        s.host = str_of(word.p + 1, end - 1);
    else
        s.host = str_head(word, MIN(str_findc(word, ':'), word.n));
    size_t colon = str_findc(rest, ':');
    if (colon != STR_NONE && !port_number(str_from(rest, colon + 1), &s.port))
        return false;
    if (str_istarts(s.host, S("ipv6:")))
        s.host = str_from(s.host, 5);
    struct addr a;
    bool literal = addr_parse(s.host, 25, &a) == OK || str_findc(s.host, ':') != STR_NONE;
    if (s.host.n == 0 || (!literal && !domain_valid(s.host)))
        return false;
    s.bracket |= literal;
    *ret = s;
    return true;
}

static str backend_name(struct relay *r, str service, const struct server *s, uint64_t usual)
{
    struct buf out = buf_in(r->a, 80);

    if (!str_eq(service, S("smtp")) && !str_eq(service, S("relay")))
        buf_addf(&out, "%.*s-", STR(service));
    for (size_t i = s->unix_path && s->host.p[0] == '/'; i < s->host.n; i++) {
        char c = ascii_lower(s->host.p[i]);
        buf_addc(&out, ascii_alpha(c) || ascii_digit(c) || c == '.' ? c : '-');
    }
    if (!s->unix_path && s->port != usual)
        buf_addf(&out, "-%u", (unsigned)s->port);
    str name = buf_str(&out);
    for (unsigned n = 2, i = 0; i < r->nbackend; i++)
        if (str_eq(r->backend[i].name, name)) {     /* other servers behind the same first one */
            name = str_printf(r->a, "%.*s.%u", STR(buf_str(&out)), n++);
            i = 0;
        }
    return name;
}

/* ---- sources ---- */

static void add_source(struct relay *r, str name, const struct pf_service *s)
{
    static const char *const names[] = { "smtp_bind_address", "smtp_bind_address6" };
    struct buf out = buf_in(r->a, 60);
    str helo = pf_value_of(r->c, s, "smtp_helo_name");
    struct addr a;

    for (size_t i = 0; i < COUNT(names); i++) {
        str value = pf_value_of(r->c, s, names[i]);
        if (value.n == 0)
            continue;
        bool fine = addr_parse(i ? str_printf(r->a, "[%.*s]:25", STR(value)) : value, 25, &a) == OK && a.sa.sa_family == (i ? AF_INET6 : AF_INET);
        if (fine)
            buf_addf(&out, " %.*s", STR(value));
        if (!s)
            pf_find(r->c, names[i], fine ? TRANSLATED : NOT_TRANSLATED, "%s", fine ? "source postfix" : "this is no address");
    }
    GROW(r->a, r->source, r->nsource, r->source_cap);
    r->source[r->nsource++] = (struct source_out){ name, buf_str(&out), out.n && domain_valid(helo) && !str_eq(helo, r->myhostname) ? helo : S("") };
    if (!s && out.n && pf_is_set(r->c, S("smtp_helo_name")))
        pf_find(r->c, "smtp_helo_name", TRANSLATED, "source postfix ... helo");
}

/* The first is what main.cf says for all, the others are services that say otherwise. */
void sources_read(struct relay *r)
{
    add_source(r, S("postfix"), NULL);
    for (size_t i = 0; i < r->c->nservice; i++) {
        const struct pf_service *s = &r->c->service[i];
        bool own = false;
        for (size_t k = 0; k < s->noverride; k++)
            own |= str_starts(s->override[k].name, S("smtp_bind_address")) || str_eq(s->override[k].name, S("smtp_helo_name"));
        if (own && str_eq(s->command, S("smtp")) && !str_eq(s->type, S("inet")))
            add_source(r, s->name, s);
    }
}

static str source_of(const struct relay *r, str service)
{
    for (size_t i = 1; i < r->nsource; i++)
        if (str_eq(r->source[i].name, service))
            return r->source[i].addresses.n ? service : S("");
    return r->nsource && r->source[0].addresses.n ? r->source[0].name : S("");
}

/* The limit of connections to one next hop: the transport's own, or everybody's. */
static uint64_t connections(struct relay *r, str service)
{
    str own = str_printf(r->a, "%.*s_destination_concurrency_limit", STR(service));
    const char *name = pf_is_set(r->c, own) ? str_cz(r->a, own) : "default_destination_concurrency_limit";
    uint64_t n = 20;

    if (!pf_is_set(r->c, str_z(name)) || !str_u64(pf_value(r->c, name), 100000, &n))
        return 0;
    pf_find(r->c, name, TRANSLATED, "max_connections %u per server", (unsigned)MIN(MAX(n, 1), 10000));
    return MIN(MAX(n, 1), 10000);
}

/* A delay after each delivery is a rate; what is not per destination is told so. */
static uint64_t per_hour(struct relay *r, str service)
{
    str own = str_printf(r->a, "%.*s_destination_rate_delay", STR(service));
    const char *name = pf_is_set(r->c, own) ? str_cz(r->a, own) : "default_destination_rate_delay";
    when delay;

    if (!pf_is_set(r->c, str_z(name)) || !pf_time(pf_value(r->c, name), 's', &delay) || delay == 0)
        return 0;
    uint64_t n = (uint64_t)(MAX(HOUR / delay, 1));
    pf_find(r->c, name, PARTLY, "rate %u/h, of all mail for the backend", (unsigned)n);
    return n;
}

static when connect_time(struct relay *r, bool lmtp)
{
    const char *name = lmtp ? "lmtp_connect_timeout" : "smtp_connect_timeout";
    when t;

    if (!pf_is_set(r->c, str_z(name)) || !pf_time(pf_value(r->c, name), 's', &t) || t == 0)
        return 0;
    t = MIN(MAX(t, SECOND), 5 * MINUTE);
    pf_find(r->c, name, TRANSLATED, "connect_timeout %u s", (unsigned)(t / SECOND));
    return t;
}

static struct hop backend_hop(struct relay *r, const char *name, str file, unsigned line, str service, bool lmtp, str nexthop)
{
    str rest = nexthop, word;
    uint64_t usual = lmtp ? 24 : 25;
    unsigned priority = 10;
    struct buf servers = buf_in(r->a, 200);
    struct server s, first = { 0 };
    bool same = str_eq(service, S("relay")) && str_eq(source_of(r, service), source_of(r, S("smtp")));
    str key = str_printf(r->a, "%.*s:%.*s", STR(same ? S("smtp") : service), STR(nexthop));

    for (size_t i = 0; i < r->nbackend; i++)
        if (str_eq(r->backend[i].key, key))
            return (struct hop){ .kind = HOP_BACKEND, .backend = r->backend[i].name };
    while (pf_word(&rest, &word)) {
        if (!parse_server(word, usual, &s)) {
            pf_find_at(r->c, file, line, str_z(name), NOT_TRANSLATED, "\"%.*s\" is no next hop", STR(word));
            continue;
        }
        if (!s.bracket && !s.unix_path)
            pf_find_at(r->c, file, line, str_z(name), PARTLY, "%.*s without brackets: Postfix looks for its MX records, waypost connects to the host itself", STR(s.host));
        if (s.unix_path && s.host.p[0] != '/')          /* lmtp(8): below the queue directory */
            s.host = str_printf(r->a, "%.*s/%.*s", STR(pf_value(r->c, "queue_directory")), STR(s.host));
        buf_addf(&servers, "    server %s", lmtp ? "lmtp:" : "");
        if (s.unix_path)
            buf_addf(&servers, "unix:%.*s", STR(s.host));
        else if (str_findc(s.host, ':') != STR_NONE)
            buf_addf(&servers, "[%.*s]:%u", STR(s.host), (unsigned)s.port);
        else
            buf_addf(&servers, "%.*s:%u", STR(s.host), (unsigned)s.port);
        buf_addf(&servers, priority > 10 || str_has(str_trim(nexthop), S(",")) ? " priority %u\n" : "\n", priority);
        if (priority == 10)
            first = s;
        priority += 10;
    }
    if (servers.n == 0)
        return (struct hop){ .kind = HOP_NONE, .what = S("a next hop that cannot be read") };
    GROW(r->a, r->backend, r->nbackend, r->backend_cap);
    struct backend_out b = { .name = backend_name(r, service, &first, usual), .servers = buf_str(&servers), .key = key, .lmtp = lmtp,
                             .connections = connections(r, service), .per_hour = per_hour(r, service), .connect = connect_time(r, lmtp), .source = lmtp ? S("") : source_of(r, service) };
    r->backend[r->nbackend++] = b;
    return (struct hop){ .kind = HOP_BACKEND, .backend = b.name };
}

/* Relay hosts say where what has no way of its own goes. */
struct hop hop_by_relayhost(struct relay *r, str service)
{
    str host = pf_value(r->c, "relayhost");
    struct pf_param *p = map_get(&r->c->by_name, S("relayhost"));

    if (host.n == 0)
        return (struct hop){ .kind = HOP_MX };
    return backend_hop(r, "relayhost", p ? p->file : S(""), p ? p->line : 0, service, false, host);
}

struct hop hop_of(struct relay *r, const char *name, str file, unsigned line, str transport, str nexthop)
{
    str kind = service_kind(r, transport);

    if (str_eq(kind, S("discard")))
        return (struct hop){ .kind = HOP_DISCARD };
    if (str_eq(kind, S("error")))
        return (struct hop){ .kind = HOP_ERROR, .what = nexthop };
    if (str_eq(kind, S("smtp")) && nexthop.n == 0) {
        if (!str_eq(source_of(r, transport), source_of(r, S("smtp"))))
            pf_find_at(r->c, file, line, str_z(name), PARTLY, "%.*s: by MX it leaves by the same addresses as all mail by MX; a \"route\" can name its source", STR(transport));
        return (struct hop){ .kind = HOP_MX };
    }
    if (str_eq(kind, S("smtp")) || (str_eq(kind, S("lmtp")) && nexthop.n))
        return backend_hop(r, name, file, line, transport, str_eq(kind, S("lmtp")), nexthop);
    if (kind.n == 0)
        return (struct hop){ .kind = HOP_NONE, .what = str_printf(r->a, "the transport \"%.*s\", which master.cf does not know", STR(transport)) };
    return (struct hop){ .kind = HOP_NONE, .what = str_printf(r->a, "the transport \"%.*s\" (%.*s), which waypost has not", STR(transport), STR(kind)) };
}

/* What `name` says, such as "relay" or "lmtp:unix:private/lmtp"; without a next hop the relay host, or MX. */
static struct hop hop_by(struct relay *r, const char *name)
{
    str value = pf_value(r->c, name), transport, nexthop;
    struct pf_param *p = map_get(&r->c->by_name, str_z(name));

    split_transport(value, &transport, &nexthop);
    if (nexthop.n == 0 && str_eq(service_kind(r, transport), S("smtp")))
        return hop_by_relayhost(r, transport);
    struct hop h = hop_of(r, name, p ? p->file : S(""), p ? p->line : 0, transport, nexthop);
    if (p)
        pf_find(r->c, name, h.kind == HOP_NONE ? NOT_TRANSLATED : TRANSLATED, "%.*s", STR(h.kind == HOP_NONE ? h.what : S("where its mail goes")));
    return h;
}

struct hop hop_of_class(struct relay *r, enum domain_class class)
{
    switch (class) {
    case CLASS_LOCAL: {
        str transport, nexthop;
        split_transport(pf_value(r->c, "local_transport"), &transport, &nexthop);
        bool local = str_eq(service_kind(r, transport), S("local"));
        return hop_by(r, local && pf_value(r->c, "mailbox_transport").n ? "mailbox_transport" : "local_transport");
    }
    case CLASS_ALIAS: return (struct hop){ .kind = HOP_ERROR, .what = S("its addresses are aliases only") };
    case CLASS_MAILBOX: return hop_by(r, "virtual_transport");
    default: return hop_by(r, "relay_transport");
    }
}

/* The entry of transport_maps that a domain comes under: itself, ".parent", "*". */
const struct pf_entry *transport_for(const struct relay *r, str name)
{
    bool below = str_starts(name, S("*."));
    str rest = below ? str_from(name, 2) : name;
    const struct pf_entry *e = below ? NULL : pf_look(&r->transport, rest);

    for (bool first = true; !e && rest.n; first = false) {
        if (!first || below) {
            e = r->parents_transport ? pf_look(&r->transport, rest) : NULL;
            if (!e)
                e = pf_look(&r->transport, str_printf(r->a, ".%.*s", STR(rest)));
        }
        size_t dot = str_findc(rest, '.');
        rest = dot == STR_NONE ? S("") : str_from(rest, dot + 1);
    }
    return e ? e : pf_look(&r->transport, S("*"));
}

void hops_default(struct relay *r)
{
    const struct pf_entry *any = pf_look(&r->transport, S("*"));
    str transport, nexthop;

    split_transport(any ? any->value : S(":"), &transport, &nexthop);
    if (transport.n)
        r->fallback = hop_of(r, "transport_maps", any->file, any->line, transport, nexthop);
    else if (nexthop.n)
        r->fallback = hop_of(r, "transport_maps", any->file, any->line, S("smtp"), nexthop);
    else
        r->fallback = hop_by(r, "default_transport");
    str last = pf_value(r->c, "smtp_fallback_relay");
    if (last.n) {               /* "fallback_relay" is its old name */
        const char *name = pf_is_set(r->c, S("smtp_fallback_relay")) ? "smtp_fallback_relay" : "fallback_relay";
        struct hop h = hop_of(r, name, S("main.cf"), 0, S("smtp"), last);
        r->last_resort = h.kind == HOP_BACKEND ? h.backend : S("");
        pf_find(r->c, name, h.kind == HOP_BACKEND ? PARTLY : NOT_TRANSLATED, "fallback %.*s, of relay domains and the default route; not of transport_maps' other entries", STR(r->last_resort));
    }
    if (r->fallback.kind == HOP_NONE)
        decide(r, "mail to other domains went by %.*s: there is no \"route default\" now", STR(r->fallback.what));
    if (pf_value(r->c, "relayhost").n)
        pf_find(r->c, "relayhost", TRANSLATED, "where mail goes that has no other way: route default");
}
