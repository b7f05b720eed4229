/* What is in a record. libunbound found its bounds in the packet and undid the compression; all within is a stranger's. */
#include "dns/inside.h"

static bool cut_u8(str *s, uint8_t *ret)
{
    if (s->n < 1)
        return false;
    *ret = (uint8_t)s->p[0];
    *s = str_from(*s, 1);
    return true;
}

static bool cut_u16(str *s, uint16_t *ret)
{
    uint8_t high, low;

    if (!cut_u8(s, &high) || !cut_u8(s, &low))
        return false;
    *ret = (uint16_t)(high << 8 | low);
    return true;
}

bool rdata_name(arena *a, str *rdata, str *ret, bool *host)
{
    char text[DNS_NAME_MAX + 3];
    size_t n = 0;
    str s = *rdata;
    uint8_t label;

    *rdata = (str){ 0 };
    for (;;) {
        /* Above 63 it would be a pointer, and there is nothing here to point into (RFC 1035 4.1.4). */
        if (!cut_u8(&s, &label) || label > 63 || label > s.n)
            return false;
        if (label == 0)
            break;
        if (n + label + 1 > DNS_NAME_MAX + 1)
            return false;
        for (size_t i = 0; i < label; i++) {
            char c = ascii_lower(s.p[i]);
            text[n++] = c == '.' ? '\\' : c; /* a dot in a label must not make two of it; this makes it no host name */
        }
        text[n++] = '.';
        s = str_from(s, label);
    }
    *rdata = s;
    str name = n ? str_of(text, n - 1) : S(".");
    *host = name_plain(name);
    *ret = *host ? str_dup(a, name) : n ? S("") : S(".");
    return true;
}

bool rdata_address(str rdata, uint16_t type, uint16_t port, struct addr *ret)
{
    struct sockaddr_storage sa = { 0 };

    if (type == DNS_A && rdata.n == 4) {
        struct sockaddr_in *v4 = (struct sockaddr_in *)&sa;
        v4->sin_family = AF_INET;
        memcpy(&v4->sin_addr, rdata.p, 4);
        *ret = addr_of(&sa, sizeof *v4);
    } else if (type == DNS_AAAA && rdata.n == 16) {
        struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)&sa;
        v6->sin6_family = AF_INET6;
        memcpy(&v6->sin6_addr, rdata.p, 16);
        *ret = addr_of(&sa, sizeof *v6); /* ::ffff:127.0.0.1 becomes what it is (attack class 51) */
    } else {
        return false;
    }
    addr_set_port(ret, port);
    return true;
}

bool rdata_mx(arena *a, str rdata, struct mx *ret, bool *host)
{
    return cut_u16(&rdata, &ret->preference) && rdata_name(a, &rdata, &ret->host, host) && rdata.n == 0;
}

bool rdata_txt(arena *a, str rdata, str *ret)
{
    struct buf out = buf_in(a, rdata.n);
    uint8_t n;

    if (rdata.n == 0)
        return false; /* RFC 1035 3.3.14: one string or more */
    while (rdata.n) {
        if (!cut_u8(&rdata, &n) || n > rdata.n)
            return false;
        buf_add(&out, str_head(rdata, n));
        rdata = str_from(rdata, n);
    }
    *ret = buf_str(&out);
    return true;
}

bool rdata_ptr(arena *a, str rdata, str *ret, bool *host)
{
    return rdata_name(a, &rdata, ret, host) && rdata.n == 0;
}

bool rdata_tlsa(arena *a, str rdata, struct tlsa *ret)
{
    if (!cut_u8(&rdata, &ret->usage) || !cut_u8(&rdata, &ret->selector) || !cut_u8(&rdata, &ret->matching) || rdata.n == 0)
        return false;
    ret->data = str_dup(a, rdata);
    return true;
}

bool rdata_srv(arena *a, str rdata, struct srv *ret, bool *host)
{
    return cut_u16(&rdata, &ret->priority) && cut_u16(&rdata, &ret->weight) && cut_u16(&rdata, &ret->port)
        && rdata_name(a, &rdata, &ret->host, host) && rdata.n == 0;
}
