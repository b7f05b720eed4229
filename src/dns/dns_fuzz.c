/* Whatever comes in: names have one spelling, records stay within themselves, the system's files are read to their end. */
#include "dns/inside.h"
#include "kit/kit.h"

static void name(arena *a, str s)
{
    str got, again;

    if (dns_name(a, s, &got) != OK)
        return;
    must(got.n && got.n <= DNS_NAME_MAX && name_plain(got));
    must(dns_name(a, got, &again) == OK && str_eq(got, again));
}

static void record(arena *a, str s)
{
    struct mx mx;
    struct srv srv;
    struct tlsa tlsa;
    struct addr at;
    bool host;
    str text;

    rdata_address(s, DNS_A, 25, &at);
    rdata_address(s, DNS_AAAA, 25, &at);
    if (rdata_mx(a, s, &mx, &host))
        must(host ? name_plain(mx.host) : !mx.host.n || str_eq(mx.host, S(".")));
    if (rdata_srv(a, s, &srv, &host))
        must(host ? name_plain(srv.host) : !srv.host.n || str_eq(srv.host, S(".")));
    if (rdata_ptr(a, s, &text, &host))
        must(!host || (name_plain(text) && text.n + 2 <= s.n));
    if (rdata_tlsa(a, s, &tlsa))
        must(tlsa.data.n == s.n - 3);
    if (rdata_txt(a, s, &text))
        must(text.n < s.n);
}

FUZZ(data, size)
{
    AUTO_ARENA a = arena_new();
    str s = str_of((const char *)data + (size > 0), size - (size > 0));

    switch (size ? data[0] : 0) {
    case 'n': name(a, s); break;
    case 'r': record(a, s); break;
    case 'h': hosts_free(hosts_parse(s)); break;
    case 's': must(resolv_parse(a, s).n <= 8); break;
    default: break;
    }
}
