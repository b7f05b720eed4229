/* To a server of a backend: its address, a connection, its greeting and what it offers. */
#include "deliver/inside.h"

#include <stdio.h>

#define ADDRESSES_TRIED 8       /* of one host */

/* A connection by the source, if there is one. When that fails it may be the source's fault: then others can be taken. */
static err connect_by(struct leaving *by, const struct addr *to, when deadline, struct stream **ret)
{
    bool cannot = false;
    const struct addr *from = outlet_addr(by ? by->outlet : NULL, to, &cannot);
    char text[ADDR_TEXT];

    if (cannot) {
        by->failed = true;
        return fail(E_REFUSED, "source %.*s has no %s address", STR(by->outlet->name), to->sa.sa_family == AF_INET6 ? "IPv6" : "IPv4");
    }
    err e = stream_connect(to, from, deadline, ret);
    if (e != OK && e != E_CANCELED && e != E_TIMEOUT && from && !outlet_has(from)) {
        by->failed = true;
        outlet_failed(by->outlet, clock_now());
        e = fail(E_REFUSED, "source %.*s: %.*s is no address of this machine", STR(by->outlet->name), STR(addr_print_ip(from, text)));
    } else if (e == OK && by)
        by->failed = false;
    return e;
}

/* Is there an address that may be tried, of a family that has a way out from here? */
static bool other_family(const struct dns_addresses *found, int family, struct leaving *by)
{
    for (size_t i = 0; i < found->all.n; i++) {
        bool cannot;
        outlet_addr(by ? by->outlet : NULL, &found->all.p[i], &cannot);
        if (found->all.p[i].sa.sa_family != family && !cannot)
            return true;
    }
    return false;
}

/* To a host by name: its addresses one after the other, from any of them on, until one takes the connection. `d` may be NULL. */
static err connect_name(struct dispatch *d, struct resolver *names, const struct next_hop *srv, const struct own *own, when timeout, struct leaving *by, struct remote *remote, struct stream **ret)
{
    AUTO_ARENA a = arena_new();
    struct dns_addresses found;
    char ip[ADDR_TEXT];
    err e = OK;
    size_t tried = 0;

    e = dns_addresses(names, a, srv->host, srv->port, clock_now() + timeout, &found);
    if (e == E_TIMEOUT) /* E_TIMEOUT is of who was found and did not answer */
        e = fail(E_AGAIN, "looking up %.*s took too long", STR(srv->host));
    TRY(during(e, "looking up %.*s", STR(srv->host)));
    if (found.all.n == 0)
        return fail(E_NONAME, "%.*s has no address", STR(srv->host));
    size_t from = random_below(found.all.n);
    for (size_t i = 0; i < found.all.n && tried < ADDRESSES_TRIED; i++) {
        const struct addr *to = &found.all.p[(from + i) % found.all.n];
        if (own && (addr_is_nowhere(to) || own_address(own, to))) {
            if (!tried)
                e = fail(E_REFUSED, "%.*s has address %.*s: no mail server is there", STR(srv->host), STR(addr_print_ip(to, ip)));
            continue;
        }
        bool cannot;
        outlet_addr(by ? by->outlet : NULL, to, &cannot);
        if (cannot && (i + 1 < found.all.n || tried)) /* another family, unless there is no other */
            continue;
        int family = to->sa.sa_family;
        if (d && found.n4 && found.n6 && other_family(&found, family, by) && !family_works(family))
            continue;
        tried++;
        snprintf(remote->z, sizeof remote->z, "%.*s[%.*s]", (int)MIN(srv->host.n, 64), srv->host.p, STR(addr_print(to, ip)));
        e = connect_by(by, to, clock_now() + timeout, ret);
        if (d)
            family_tried(d, to, srv->host, e);
        if (e == OK || e == E_CANCELED)
            break;
    }
    return e;
}

static err reach(struct dispatch *d, struct resolver *names, const struct next_hop *srv, const struct own *own, str ehlo_name, when timeout, struct leaving *by,
                 struct remote *remote, struct client **ret)
{
    AUTO(stream) s = NULL;
    char ip[ADDR_TEXT];

    *remote = remote_of(srv);
    if (srv->addr.n == 0) {
        TRY(connect_name(d, names, srv, own, timeout, by, remote, &s));
    } else {
        snprintf(remote->z, sizeof remote->z, "%.*s", STR(addr_print(&srv->addr, ip)));
        TRY(connect_by(by, &srv->addr, clock_now() + timeout, &s));
    }
    /* client_open() owns the stream from here, whatever it returns. */
    return srv->lmtp ? client_open_lmtp(take(s), ehlo_name, ret) : client_open(take(s), ehlo_name, ret);
}

err hop_reach(struct resolver *names, const struct next_hop *srv, const struct own *own, str ehlo_name, when timeout, struct leaving *by, struct remote *remote, struct client **ret)
{
    return reach(NULL, names, srv, own, ehlo_name, timeout, by, remote, ret);
}

err hop_connect(struct dispatch *d, const struct next_hop *srv, const struct own *own, str ehlo_name, when timeout, struct leaving *by, struct remote *remote, struct client **ret)
{
    err e = reach(d, d->setup.resolver, srv, own, ehlo_name, timeout, by, remote, ret);

    if (srv->addr.n == 0 && own && !*ret && (e == E_AGAIN || e == E_BOGUS))
        fault_names(d, srv->host);
    return e;
}

static str offers_of(arena *a, unsigned caps)
{
    static const struct { unsigned cap; const char *name; } known[] = {
        { CAP_PIPELINING, "PIPELINING" }, { CAP_SIZE, "SIZE" }, { CAP_8BITMIME, "8BITMIME" }, { CAP_SMTPUTF8, "SMTPUTF8" }, { CAP_CHUNKING, "CHUNKING" },
        { CAP_DSN, "DSN" }, { CAP_STARTTLS, "STARTTLS" },
    };
    struct buf b = buf_in(a, 80);

    for (size_t i = 0; i < COUNT(known); i++)
        if (caps & known[i].cap)
            buf_addf(&b, "%s%s", b.n ? " " : "", known[i].name);
    return b.n ? buf_str(&b) : S("nothing");
}

err deliver_probe(struct resolver *names, arena *a, const struct next_hop *srv, const struct outlet *by, str ehlo_name, when timeout, str *who, str *offers)
{
    struct leaving leaving = { .outlet = by };
    struct remote remote;
    struct client *c = NULL;
    err e = hop_reach(names, srv, NULL, hop_ehlo(by, ehlo_name), timeout, &leaving, &remote, &c);

    *who = str_dup(a, str_z(remote.z));
    if (e != OK) {
        client_free(c);
        return e;
    }
    *offers = offers_of(a, c->caps);
    client_quit(c);
    return OK;
}

void deliver_callouts(struct resolver *names) { callout_begin(names); }

struct remote remote_of(const struct next_hop *srv)
{
    struct remote r;
    snprintf(r.z, sizeof r.z, "%.*s", (int)MIN(srv->host.n, 64), srv->host.p);
    return r;
}

str remote_failed(const struct remote *r, arena *a)
{
    str text = err_text(), z = str_z(r->z), inner = z;
    size_t open = str_findc(z, '[');

    if (open && open != STR_NONE && str_ends(z, S("]"))) /* host[address] */
        inner = str_of(z.p + open + 1, z.n - open - 2);
    if (inner.n && str_starts(text, inner) && str_starts(str_from(text, inner.n), S(": ")))
        text = str_from(text, inner.n + 2);
    return str_printf(a, "%.*s: %.*s", STR(z), STR(text));
}
