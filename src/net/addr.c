/* Addresses: read strictly, printed one way. */
#include "net/net.h"

#include <arpa/inet.h>
#include <stdio.h>

#define MAPPED_BITS 96          /* ::ffff:0:0/96 holds IPv4, RFC 4291 2.5.5.2 */

static struct addr of_v4(const struct in_addr *ip, uint16_t port)
{
    struct addr a = { .n = sizeof a.v4 };
    a.v4 = (struct sockaddr_in){ .sin_family = AF_INET, .sin_addr = *ip, .sin_port = htons(port) };
    return a;
}

static struct addr of_v6(const struct in6_addr *ip, uint16_t port)
{
    struct addr a = { .n = sizeof a.v6 };
    if (IN6_IS_ADDR_V4MAPPED(ip)) {
        struct in_addr v4;
        memcpy(&v4, ip->s6_addr + 12, sizeof v4);
        return of_v4(&v4, port);
    }
    a.v6 = (struct sockaddr_in6){ .sin6_family = AF_INET6, .sin6_addr = *ip, .sin6_port = htons(port) };
    return a;
}

/* inet_pton() is strict enough (no leading zeros, no short forms, no scopes); it only wants a NUL. */
static bool parse_ip(str s, int family, void *ip)
{
    char z[INET6_ADDRSTRLEN];
    if (s.n == 0 || s.n >= sizeof z || str_findc(s, 0) != STR_NONE)
        return false;
    memcpy(z, s.p, s.n);
    z[s.n] = 0;
    return inet_pton(family, z, ip) == 1;
}

static bool parse_port(str s, uint16_t *port)
{
    uint64_t n;
    if (s.n > 5 || (s.n > 1 && s.p[0] == '0') || !str_u64(s, UINT16_MAX, &n))
        return false;
    *port = (uint16_t)n;
    return true;
}

/* Letters, digits, dots, hyphens, underscores; the last label is no number, else it would pass for an address. */
static bool looks_like_name(str s)
{
    bool letter = false;
    if (!s.n)
        return false;
    for (size_t i = 0; i < s.n; i++) {
        char c = s.p[i];
        if (!ascii_alpha(c) && !ascii_digit(c) && c != '.' && c != '-' && c != '_')
            return false;
        letter = c == '.' && i + 1 < s.n ? false : letter || ascii_alpha(c);
    }
    return letter;
}

static err parse_unix(str path, struct addr *ret)
{
    struct addr a = { 0 };
    if (!str_starts(path, S("/")) || path.n >= sizeof a.un.sun_path || str_findc(path, 0) != STR_NONE)
        return fail(E_SYNTAX, "a Unix socket is unix:/path of at most %zu bytes", sizeof a.un.sun_path - 1);
    a.un.sun_family = AF_UNIX;
    memcpy(a.un.sun_path, path.p, path.n);
    a.n = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + path.n + 1);
    *ret = a;
    return OK;
}

err addr_parse(str s, uint16_t default_port, struct addr *ret)
{
    uint16_t port = default_port;
    struct addr got;
    struct in_addr v4;
    struct in6_addr v6;
    bool bracket = str_starts(s, S("[")), has_port = false;
    str host = s, rest = { 0 };

    if (str_starts(s, S("unix:")))
        return parse_unix(str_from(s, 5), ret);
    if (bracket) {
        size_t end = str_findc(s, ']');
        if (end == STR_NONE)
            return fail(E_SYNTAX, "a bracket is not closed");
        host = str_of(s.p + 1, end - 1);
        rest = str_from(s, end + 1);
    } else {
        size_t colon = str_findc(s, ':');
        host = colon == STR_NONE ? s : str_head(s, colon);
        rest = str_from(s, host.n);
    }
    has_port = rest.n > 0;
    if (has_port && (rest.p[0] != ':' || !parse_port(str_from(rest, 1), &port)))
        return fail(E_SYNTAX, "this is no address:port (an IPv6 address wants brackets)");
    if (bracket && parse_ip(host, AF_INET6, &v6))
        got = of_v6(&v6, port);
    else if (!bracket && parse_ip(host, AF_INET, &v4))
        got = of_v4(&v4, port);
    else if (!bracket && looks_like_name(host))
        return fail(E_NONAME, "a name where an address is wanted");
    else
        return fail(E_SYNTAX, "this is no IP address");
    if (!has_port && !default_port)
        return fail(E_SYNTAX, "the port is missing");
    *ret = got;
    return OK;
}

static str print_ip(const struct addr *a, char out[ADDR_TEXT], const char *before6, const char *before4, const char *behind)
{
    char ip[INET6_ADDRSTRLEN] = "";
    const char *before = before4;
    int n = 0;

    if (a->n && a->sa.sa_family == AF_INET) {
        inet_ntop(AF_INET, &a->v4.sin_addr, ip, sizeof ip);
    } else if (a->n && a->sa.sa_family == AF_INET6) {
        inet_ntop(AF_INET6, &a->v6.sin6_addr, ip, sizeof ip);
        before = before6;
    }
    n = snprintf(out, ADDR_TEXT, "%s%s%s", before, ip, behind);
    return str_of(out, (size_t)n);
}

str addr_print(const struct addr *a, char out[ADDR_TEXT])
{
    char port[16];

    if (!a->n)
        return str_of(out, (size_t)snprintf(out, ADDR_TEXT, "none"));
    if (a->sa.sa_family == AF_UNIX) {
        /* A peer's socket seldom has a path. */
        int path = a->n > offsetof(struct sockaddr_un, sun_path) ?
            (int)strnlen(a->un.sun_path, MIN(a->n - offsetof(struct sockaddr_un, sun_path), sizeof a->un.sun_path)) : 0;
        return str_of(out, (size_t)snprintf(out, ADDR_TEXT, "unix:%.*s", path, a->un.sun_path));
    }
    bool v6 = a->sa.sa_family == AF_INET6;
    snprintf(port, sizeof port, "%s:%u", v6 ? "]" : "", addr_port(a));
    return print_ip(a, out, "[", "", port);
}

str addr_print_ip(const struct addr *a, char out[ADDR_TEXT])
{
    if (!a->n || a->sa.sa_family == AF_UNIX)
        return str_of(out, (size_t)snprintf(out, ADDR_TEXT, "%s", a->n ? "unix" : "none"));
    return print_ip(a, out, "", "", "");
}

str addr_print_literal(const struct addr *a, char out[ADDR_TEXT])
{
    if (!a->n || a->sa.sa_family == AF_UNIX) {
        out[0] = 0;
        return str_of(out, 0);
    }
    return print_ip(a, out, "[IPv6:", "[", "]");
}

struct addr addr_of(const struct sockaddr_storage *sa, socklen_t n)
{
    struct addr a = { 0 };

    if (sa->ss_family == AF_INET && n >= sizeof a.v4) {
        memcpy(&a.v4, sa, sizeof a.v4);
        return of_v4(&a.v4.sin_addr, ntohs(a.v4.sin_port));
    }
    if (sa->ss_family == AF_INET6 && n >= sizeof a.v6) {
        memcpy(&a.v6, sa, sizeof a.v6);
        a = of_v6(&a.v6.sin6_addr, ntohs(a.v6.sin6_port));
        if (a.sa.sa_family == AF_INET6) /* a link-local peer is nothing without its link */
            a.v6.sin6_scope_id = ((const struct sockaddr_in6 *)sa)->sin6_scope_id;
        return a;
    }
    if (sa->ss_family == AF_UNIX) {
        a.n = (socklen_t)MIN((size_t)n, sizeof a.un);
        memcpy(&a.un, sa, a.n);
    }
    return a;
}

uint16_t addr_port(const struct addr *a)
{
    if (!a->n)
        return 0;
    return a->sa.sa_family == AF_INET ? ntohs(a->v4.sin_port) : a->sa.sa_family == AF_INET6 ? ntohs(a->v6.sin6_port) : 0;
}

void addr_set_port(struct addr *a, uint16_t port)
{
    if (a->n && a->sa.sa_family == AF_INET)
        a->v4.sin_port = htons(port);
    else if (a->n && a->sa.sa_family == AF_INET6)
        a->v6.sin6_port = htons(port);
}

bool addr_eq(const struct addr *a, const struct addr *b)
{
    if (!a->n || !b->n)
        return a->n == b->n;
    if (a->sa.sa_family != b->sa.sa_family)
        return false;
    switch (a->sa.sa_family) {
    case AF_INET:
        return a->v4.sin_addr.s_addr == b->v4.sin_addr.s_addr && a->v4.sin_port == b->v4.sin_port;
    case AF_INET6:
        return memcmp(&a->v6.sin6_addr, &b->v6.sin6_addr, 16) == 0 && a->v6.sin6_port == b->v6.sin6_port &&
            a->v6.sin6_scope_id == b->v6.sin6_scope_id;
    default:
        return a->n == b->n && memcmp(&a->un, &b->un, a->n) == 0;
    }
}

static bool in_any(const struct addr *a, const char *const *nets, size_t n)
{
    struct cidr c;
    for (size_t i = 0; i < n; i++)
        if (cidr_parse(str_z(nets[i]), &c) == OK && cidr_has(&c, a))
            return true;
    return false;
}

bool addr_is_loopback(const struct addr *a)
{
    static const char *const nets[] = { "127.0.0.0/8", "::1", "unix" };
    return in_any(a, nets, COUNT(nets));
}

bool addr_is_private(const struct addr *a)
{
    static const char *const nets[] = {
        "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", /* RFC 1918 */
        "fc00::/7",                                      /* RFC 4193 */
        "169.254.0.0/16", "fe80::/10",                   /* link-local */
    };
    return addr_is_loopback(a) || in_any(a, nets, COUNT(nets));
}

static uint64_t get64(const uint8_t *p)
{
    uint64_t n = 0;
    for (int i = 0; i < 8; i++)
        n = n << 8 | p[i];
    return n;
}

/* IPv4 lies in ::/64's neighbourhood of /64s, which nobody is given: the three kinds cannot meet. */
uint64_t addr_client_key(const struct addr *a)
{
    if (a->n && a->sa.sa_family == AF_INET)
        return UINT64_C(1) << 32 | ntohl(a->v4.sin_addr.s_addr);
    if (a->n && a->sa.sa_family == AF_INET6)
        return get64(a->v6.sin6_addr.s6_addr);
    return 1;
}

/* ---- networks ---- */

static const uint8_t *ip_bytes(const struct addr *a)
{
    return a->sa.sa_family == AF_INET ? (const uint8_t *)&a->v4.sin_addr : a->v6.sin6_addr.s6_addr;
}

static unsigned ip_bits(const struct addr *a) { return a->sa.sa_family == AF_INET ? 32 : 128; }

/* The bytes agree in their first `bits` bits. */
static bool same_head(const uint8_t *a, const uint8_t *b, unsigned bits)
{
    unsigned whole = bits / 8, part = bits % 8;
    return memcmp(a, b, whole) == 0 && (!part || ((a[whole] ^ b[whole]) >> (8 - part)) == 0);
}

static bool zero_behind(const uint8_t *p, unsigned bits, unsigned of)
{
    for (unsigned i = bits; i < of; i++)
        if (p[i / 8] >> (7 - i % 8) & 1)
            return false;
    return true;
}

err cidr_parse(str s, struct cidr *ret)
{
    size_t slash = str_findc(s, '/');
    str ip = slash == STR_NONE ? s : str_head(s, slash), mask = slash == STR_NONE ? (str){ 0 } : str_from(s, slash + 1);
    struct cidr c = { 0 };
    struct in_addr v4;
    struct in6_addr v6;
    uint64_t bits;

    if (str_eq(s, S("unix"))) {
        c.base.sa.sa_family = AF_UNIX;
        c.base.n = sizeof c.base.sa.sa_family;
        *ret = c;
        return OK;
    }
    bool mapped = false;
    if (parse_ip(ip, AF_INET, &v4)) {
        c.base = of_v4(&v4, 0);
    } else if (parse_ip(ip, AF_INET6, &v6)) {
        c.base = of_v6(&v6, 0);
        mapped = c.base.sa.sa_family == AF_INET;
    } else {
        return fail(E_SYNTAX, "this is no IP address or network");
    }
    unsigned most = mapped ? 128 : ip_bits(&c.base);
    bits = most;
    if (slash != STR_NONE && (mask.n > 3 || (mask.n > 1 && mask.p[0] == '0') || !str_u64(mask, most, &bits)))
        return fail(E_SYNTAX, "behind the / stands a number of bits, at most %u", most);
    if (mapped && bits < MAPPED_BITS)
        return fail(E_SYNTAX, "bits stand behind the mask");
    c.bits = (unsigned)bits - (mapped ? MAPPED_BITS : 0);
    if (!zero_behind(ip_bytes(&c.base), c.bits, ip_bits(&c.base)))
        return fail(E_SYNTAX, "bits stand behind the mask");
    *ret = c;
    return OK;
}

bool cidr_has(const struct cidr *c, const struct addr *a)
{
    if (!c->base.n || !a->n || c->base.sa.sa_family != a->sa.sa_family)
        return false;
    return a->sa.sa_family == AF_UNIX || same_head(ip_bytes(&c->base), ip_bytes(a), c->bits);
}
