/* Where a domain's mail goes by its MX records (RFC 5321 5.1), and where it must not go: to ourselves. */
#include "route/route.h"

#include <ifaddrs.h>
#include <stdio.h>
#include <stdlib.h>

/* ---- ourselves ---- */

static bool own_name(const struct own *own, str host)
{
    for (size_t i = 0; i < own->name.n; i++)
        if (str_ieq(own->name.p[i], host))
            return true;
    return false;
}

bool own_address(const struct own *own, const struct addr *a)
{
    struct addr any = *a;

    addr_set_port(&any, 0);
    for (size_t i = 0; i < own->addr.n; i++)
        if (addr_eq(&own->addr.p[i], &any))
            return true;
    return false;
}

/* Attack class 51: an MX may name anything. */
bool addr_is_nowhere(const struct addr *a)
{
    if (a->sa.sa_family == AF_INET) {
        uint32_t ip = ntohl(a->v4.sin_addr.s_addr);
        return ip >> 24 == 0 || ip >> 24 == 127 || ip >> 16 == 0xa9fe || ip >> 28 >= 0xe; /* this host, loopback, link-local, multicast and beyond */
    }
    if (a->sa.sa_family == AF_INET6) {
        const struct in6_addr *ip = &a->v6.sin6_addr;
        return IN6_IS_ADDR_UNSPECIFIED(ip) || IN6_IS_ADDR_LOOPBACK(ip) || IN6_IS_ADDR_LINKLOCAL(ip) || IN6_IS_ADDR_MULTICAST(ip);
    }
    return true;
}

void own_interfaces(struct own *own, arena *a)
{
    struct ifaddrs *all = NULL;
    size_t n = own->addr.n;

    if (getifaddrs(&all) != 0)
        return;
    for (struct ifaddrs *i = all; i; i = i->ifa_next)
        n += i->ifa_addr && (i->ifa_addr->sa_family == AF_INET || i->ifa_addr->sa_family == AF_INET6);
    struct addr *p = NEW_ARRAY(a, struct addr, n);
    if (own->addr.n)
        memcpy(p, own->addr.p, own->addr.n * sizeof *p);
    own->addr.p = p;
    for (struct ifaddrs *i = all; i; i = i->ifa_next) {
        struct sockaddr_storage sa = { 0 };
        if (!i->ifa_addr || (i->ifa_addr->sa_family != AF_INET && i->ifa_addr->sa_family != AF_INET6))
            continue;
        socklen_t size = i->ifa_addr->sa_family == AF_INET ? sizeof(struct sockaddr_in) : sizeof(struct sockaddr_in6);
        memcpy(&sa, i->ifa_addr, size);
        p[own->addr.n] = addr_of(&sa, size);
        addr_set_port(&p[own->addr.n++], 0);
    }
    freeifaddrs(all);
}

/* ---- the question ---- */

static int by_preference(const void *a, const void *b)
{
    const struct site_host *x = a, *y = b;

    return x->preference != y->preference ? (x->preference > y->preference) - (x->preference < y->preference) : str_cmp(x->host, y->host);
}

/* Do any of a host's addresses belong to us? Who cannot be looked up just now is not us. */
static err is_own(struct resolver *r, arena *a, const struct own *own, str host, when deadline, bool *ret)
{
    struct dns_addresses found;

    *ret = own_name(own, host);
    if (*ret || own->addr.n == 0)
        return OK;
    err e = dns_addresses(r, a, host, 25, deadline, &found);
    if (e == E_CANCELED)
        return e;
    for (size_t i = 0; e == OK && i < found.all.n && !*ret; i++)
        *ret = own_address(own, &found.all.p[i]);
    return OK;
}

/* RFC 5321 5.1: of the hosts only those are tried that are preferred to ourselves. */
static err cut_own(struct resolver *r, arena *a, const struct own *own, when deadline, struct site *s)
{
    uint32_t limit = UINT32_MAX;
    size_t n = 0;

    for (size_t i = 0; i < s->n && s->host[i].preference < limit; i++) {
        bool mine;
        TRY(is_own(r, a, own, s->host[i].host, deadline, &mine));
        if (mine)
            limit = s->host[i].preference;
    }
    while (n < s->n && s->host[n].preference < limit)
        n++;
    s->n = n;
    if (n == 0)
        s->kind = SITE_OURSELVES;
    return OK;
}

err route_mx(struct resolver *r, arena *a, str domain, const struct own *own, when deadline, struct site *ret)
{
    struct dns_mx mx;
    struct site s = { .kind = SITE_HOSTS };
    str name;

    if (domain.n && domain.p[0] == '[')
        return fail(E_SYNTAX, "address literals are not delivered to");
    err e = dns_mx(r, a, domain, deadline, &mx);
    if (e == E_NONAME || e == E_SYNTAX) {
        *ret = (struct site){ .kind = SITE_NO_DOMAIN, .ttl = 300 };
        return OK;
    }
    TRY(e);
    s.ttl = mx.about.ttl;
    s.secure = mx.about.secure;
    if (mx.null) {
        *ret = (struct site){ .kind = SITE_NULL_MX, .ttl = s.ttl };
        return OK;
    }
    s.host = NEW_ARRAY(a, struct site_host, MIN(mx.n, SITE_HOSTS_MOST) + 1);
    for (size_t i = 0; i < mx.n && s.n < SITE_HOSTS_MOST; i++)
        s.host[s.n++] = (struct site_host){ mx.p[i].host, mx.p[i].preference };
    if (mx.records == 0) { /* RFC 5321 5.1: no MX at all: the domain's own address, as with preference 0 */
        struct dns_addresses found;
        TRY(dns_name(a, domain, &name));
        e = dns_addresses(r, a, name, 25, deadline, &found);
        if (e == E_NONAME || (e == OK && found.all.n == 0)) {
            *ret = (struct site){ .kind = SITE_NO_DOMAIN, .ttl = s.ttl };
            return OK;
        }
        TRY(e);
        s.host[s.n++] = (struct site_host){ name, 0 };
    }
    if (s.n == 0) { /* records, but none with a host that could be one */
        *ret = (struct site){ .kind = SITE_NO_DOMAIN, .ttl = s.ttl };
        return OK;
    }
    qsort(s.host, s.n, sizeof *s.host, by_preference);
    TRY(cut_own(r, a, own, deadline, &s));
    *ret = s;
    return OK;
}

/* ---- the site as a backend ---- */

struct backend *site_backend(const struct site *s, const struct backend *like, str name)
{
    struct backend *b;
    size_t text = name.n + 1;

    for (size_t i = 0; i < s->n; i++)
        text += s->host[i].host.n + 1;
    b = mem_new(sizeof *b + s->n * sizeof(struct next_hop) + text);
    *b = *like;
    b->server = (struct next_hop *)(void *)(b + 1);
    b->nserver = s->n;
    b->holders = 1;
    b->relay = site_is_relay(name);
    b->brake = NULL;
    char *p = (char *)(b->server + s->n);
    b->name = str_of(memcpy(p, name.p, name.n), name.n);
    p += name.n + 1;
    for (size_t i = 0; i < s->n; i++) {
        str host = s->host[i].host;
        b->server[i] = (struct next_hop){ .host = str_of(memcpy(p, host.p, host.n), host.n), .port = 25, .priority = s->host[i].preference, .weight = 10 };
        b->server[i].state = server_state_hold(like->outlet ? like->name : S("mx"), b->server[i].host, 25);
        p += host.n + 1;
    }
    if (b->relay)
        backend_brake_look(b);
    return b;
}

struct backend *site_like(const struct backend *b, const struct backend *like)
{
    struct site_host host[SITE_HOSTS_MOST];
    struct site s = { .kind = SITE_HOSTS, .host = host, .n = MIN(b->nserver, COUNT(host)) };

    for (size_t i = 0; i < s.n; i++)
        host[i] = (struct site_host){ b->server[i].host, (uint16_t)b->server[i].priority };
    struct backend *same = site_backend(&s, like, b->name);
    if (!same->brake)
        same->took = b->took;
    return same;
}

struct backend *backend_hold(struct backend *b)
{
    if (b && b->holders)
        b->holders++;
    return b;
}

void backend_drop(struct backend *b)
{
    if (!b || !b->holders || --b->holders)
        return;
    for (size_t i = 0; i < b->nserver; i++)
        server_state_drop(b->server[i].state);
    brake_drop(b->brake);
    mem_free(b);
}

bool site_is(const struct site *s, const struct backend *b)
{
    if (s->n != b->nserver)
        return false;
    for (size_t i = 0; i < s->n; i++)
        if (!str_eq(s->host[i].host, b->server[i].host) || s->host[i].preference != b->server[i].priority)
            return false;
    return true;
}

bool site_meets(const struct site *s, const struct backend *b)
{
    for (size_t i = 0; i < s->n; i++)
        for (size_t k = 0; k < b->nserver; k++)
            if (str_eq(s->host[i].host, b->server[k].host))
                return true;
    return false;
}

str site_name(const struct site *s, arena *a)
{
    uint32_t crc = 0;

    for (size_t i = 0; i < s->n; i++) {
        crc = crc32c(crc, s->host[i].host.p, s->host[i].host.n);
        crc = crc32c(crc, &s->host[i].preference, sizeof s->host[i].preference);
    }
    return s->n == 1 ? str_printf(a, "mx:%.*s", STR(s->host[0].host)) : str_printf(a, "mx:%.*s+%zu/%08x", STR(s->host[0].host), s->n - 1, crc);
}

static const char relay_word[] = SITE_RELAY;

static str without_source(str lane) { return str_head(lane, MIN(str_findc(lane, '@'), lane.n)); }

bool site_is_relay(str lane) { return str_starts(lane, S("mx:")) && str_ends(without_source(lane), str_z(relay_word)); }

str site_subject(str lane)
{
    bool relay = site_is_relay(lane);

    lane = without_source(lane);
    return relay ? str_head(lane, lane.n - (sizeof relay_word - 1)) : lane;
}
