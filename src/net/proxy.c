/* The PROXY protocol, versions 1 and 2: what a proxy says before all else about the client it speaks for. Read octet for octet as
 * announced: too long, too short or anything odd is no header (attack class 18). */
#include "net/net.h"

#include <stdio.h>

#define V1_MOST 107             /* "PROXY TCP6 ... \r\n" at its longest, section 2.1 */
#define V2_HEAD 16              /* signature, version and command, family, length: section 2.2 */
#define V2_MOST 4096            /* behind the head: addresses and what proxies add in TLVs, certificates' names among them */

static const str v1_start = S("PROXY "), v2_signature = S("\r\n\r\n\0\r\nQUIT\n");

static err wrong(const char *why) { return fail(E_SYNTAX, "PROXY header: %s", why); }

/* ---- version 1 ---- */

/* "192.0.2.7" and "25", of the family that was announced. */
static bool v1_addr(str ip, str port, bool v6, struct addr *ret)
{
    char text[64];
    int n = snprintf(text, sizeof text, v6 ? "[%.*s]:%.*s" : "%.*s:%.*s", STR(ip), STR(port));

    if (ip.n + port.n + 3 >= sizeof text || addr_parse(str_of(text, (size_t)n), 0, ret) != OK)
        return false;
    return ret->sa.sa_family == (v6 ? AF_INET6 : AF_INET) || (v6 && ret->sa.sa_family == AF_INET); /* a v4-mapped one */
}

static err v1_line(str line, struct proxied *ret)
{
    str part[6], rest = line;
    size_t n = 0;

    while (n < COUNT(part) && str_cut(&rest, S(" "), &part[n]))
        n++;
    if (n >= 2 && str_eq(part[1], S("UNKNOWN"))) /* whatever follows is to be ignored */
        return OK;
    bool v6 = n >= 2 && str_eq(part[1], S("TCP6"));
    if (n != 6 || rest.p || (!v6 && !str_eq(part[1], S("TCP4"))))
        return wrong("not \"PROXY TCP4 | TCP6 | UNKNOWN ...\"");
    if (!v1_addr(part[2], part[4], v6, &ret->client) || !v1_addr(part[3], part[5], v6, &ret->server))
        return wrong("an address or port that is none");
    ret->known = true;
    return OK;
}

static err v1_parse(str in, struct proxied *ret, size_t *used)
{
    size_t end = str_find(str_head(in, V1_MOST), S("\r\n"));

    if (end == STR_NONE)
        return in.n < V1_MOST ? E_AGAIN : wrong("no end of line within 107 octets");
    *used = end + 2;
    return v1_line(str_head(in, end), ret);
}

/* ---- version 2 ---- */

static unsigned octet(str s, size_t i) { return (unsigned char)s.p[i]; }
static unsigned number16(str s, size_t i) { return octet(s, i) << 8 | octet(s, i + 1); }

static struct addr v2_addr(str ip, unsigned port)
{
    struct sockaddr_storage sa = { 0 };
    struct sockaddr_in *v4 = (struct sockaddr_in *)&sa;
    struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)&sa;

    if (ip.n == 4) {
        *v4 = (struct sockaddr_in){ .sin_family = AF_INET, .sin_port = htons((uint16_t)port) };
        memcpy(&v4->sin_addr, ip.p, 4);
        return addr_of(&sa, sizeof *v4);
    }
    *v6 = (struct sockaddr_in6){ .sin6_family = AF_INET6, .sin6_port = htons((uint16_t)port) };
    memcpy(&v6->sin6_addr, ip.p, 16);
    return addr_of(&sa, sizeof *v6);
}

/* Nothing of them is used, but each has to end where it says, and the last where the header does. */
static bool v2_tlvs_fit(str rest)
{
    while (rest.n >= 3) {
        size_t n = 3 + number16(rest, 1);
        if (n > rest.n)
            return false;
        rest = str_from(rest, n);
    }
    return rest.n == 0;
}

static err v2_body(unsigned family, str body, struct proxied *ret)
{
    size_t ip = family == 0x11 ? 4 : 16;

    switch (family) {
    case 0x00: /* it does not know either */
        return OK;
    case 0x31: /* its client came by a Unix socket: addresses of 108 octets that say nothing to us */
        return body.n >= 216 && v2_tlvs_fit(str_from(body, 216)) ? OK : wrong("too short for its addresses, or a TLV beyond its end");
    case 0x11:
    case 0x21:
        break;
    default:
        return wrong("neither TCP nor a Unix stream");
    }
    if (body.n < 2 * ip + 4)
        return wrong("too short for its addresses");
    if (!v2_tlvs_fit(str_from(body, 2 * ip + 4)))
        return wrong("a TLV beyond its end");
    ret->client = v2_addr(str_head(body, ip), number16(body, 2 * ip));
    ret->server = v2_addr(str_head(str_from(body, ip), ip), number16(body, 2 * ip + 2));
    ret->known = true;
    return OK;
}

static err v2_parse(str in, struct proxied *ret, size_t *used)
{
    if (in.n < V2_HEAD)
        return E_AGAIN;
    unsigned command = octet(in, 12), n = number16(in, 14);
    if (command != 0x20 && command != 0x21)
        return wrong("neither LOCAL nor PROXY of version 2");
    if (n > V2_MOST)
        return wrong("longer than anything a proxy has to say");
    if (in.n < V2_HEAD + n)
        return E_AGAIN;
    *used = V2_HEAD + n;
    /* LOCAL is the proxy itself, asking whether we live: what else it says is to be ignored. */
    return command == 0x20 ? OK : v2_body(octet(in, 13), str_head(str_from(in, V2_HEAD), n), ret);
}

/* ---- both ---- */

static bool begins(str in, str with) { return str_starts(str_head(in, with.n), str_head(with, in.n)); }

err proxy_parse(str in, struct proxied *ret, size_t *used)
{
    *ret = (struct proxied){ 0 };
    *used = 0;
    if (in.n && begins(in, v1_start))
        return v1_parse(in, ret, used);
    if (in.n && begins(in, v2_signature))
        return v2_parse(in, ret, used);
    return in.n ? wrong("it begins otherwise") : E_AGAIN;
}

err proxy_hear(struct stream *s, when deadline, struct proxied *ret)
{
    size_t used;
    err e;

    while ((e = proxy_parse(stream_pending(s), ret, &used)) == E_AGAIN)
        TRY(during(stream_fill(s, 1, deadline), "waiting for the PROXY header"));
    if (e == OK)
        stream_consume(s, used);
    return e;
}
