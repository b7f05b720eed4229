/* Names: as people write them, as they are asked for. */
#include "dns/inside.h"

#include <arpa/inet.h>
#include <idn2.h>
#include <stdio.h>
#include <stdlib.h>

#define TYPED_MAX 1024          /* octets of a name with U-labels, before it is converted */
#define LABEL_MAX 63

static bool letter_digit(char c) { return ascii_alpha(c) || ascii_digit(c) || c == '-' || c == '_'; }

/* Lower and upper case; one label behind the other, no dot at the end. */
static bool name_valid(str s)
{
    str label = { 0 };
    bool number = false;

    if (s.n == 0 || s.n > DNS_NAME_MAX)
        return false;
    while (str_cut(&s, S("."), &label)) {
        if (label.n == 0 || label.n > LABEL_MAX)
            return false;
        number = true;
        for (size_t i = 0; i < label.n; i++) {
            if (!letter_digit(label.p[i]))
                return false;
            number &= ascii_digit(label.p[i]);
        }
    }
    return !number; /* RFC 3696 2: no top-level domain is a number, and an address would look like one */
}

bool name_plain(str s)
{
    for (size_t i = 0; i < s.n; i++)
        if (s.p[i] >= 'A' && s.p[i] <= 'Z')
            return false;
    return name_valid(s);
}

/* Does any label claim to be an A-label? Then it has to be one: what decodes to nothing, to ASCII or to what is spelt otherwise would be a
 * second spelling of some name. */
static bool has_alabel(str s)
{
    str label;

    while (str_cut(&s, S("."), &label))
        if (str_istarts(label, S("xn--")))
            return true;
    return false;
}

static err convert(arena *a, str name, bool beyond, str *ret)
{
    uint8_t *got = NULL;

    if (str_findc(name, 0) != STR_NONE)
        return fail(E_SYNTAX, "a NUL is in the name");
    int code = idn2_lookup_u8((const uint8_t *)str_cz(a, name), &got, IDN2_NFC_INPUT | IDN2_NONTRANSITIONAL | IDN2_ALABEL_ROUNDTRIP);
    if (code == IDN2_DISALLOWED && !beyond)
        return OK; /* well encoded, of characters that IDNA 2008 no longer gives names: some were given before */
    if (code != IDN2_OK)
        return fail(E_SYNTAX, "no domain name: %s", idn2_strerror(code));
    *ret = str_dup(a, str_z((const char *)got));
    idn2_free(got);
    return OK;
}

err dns_name(arena *a, str name, str *ret)
{
    bool beyond = false;

    if (name.n > TYPED_MAX)
        return fail(E_SYNTAX, "a domain name has at most %d octets", DNS_NAME_MAX);
    for (size_t i = 0; i < name.n; i++)
        beyond |= (unsigned char)name.p[i] > 127;
    if (beyond || has_alabel(name))
        TRY(convert(a, name, beyond, &name));
    if (name.n > 1 && name.p[name.n - 1] == '.')
        name.n--;
    if (!name_valid(name))
        return fail(E_SYNTAX, "\"%.*s\" is no domain name", STR(str_printable(a, str_head(name, 64))));
    *ret = name_plain(name) ? name : str_lower(a, name);
    return OK;
}

str name_reverse(arena *a, const struct addr *of)
{
    if (of->n && of->sa.sa_family == AF_INET) {
        const uint8_t *p = (const uint8_t *)&of->v4.sin_addr;
        return str_printf(a, "%u.%u.%u.%u.in-addr.arpa", p[3], p[2], p[1], p[0]);
    }
    if (of->n && of->sa.sa_family == AF_INET6) { /* RFC 3596 2.5 */
        struct buf out = buf_in(a, 80);
        for (size_t i = 16; i-- > 0;)
            buf_addf(&out, "%x.%x.", of->v6.sin6_addr.s6_addr[i] & 15, of->v6.sin6_addr.s6_addr[i] >> 4);
        buf_add(&out, S("ip6.arpa"));
        return buf_str(&out);
    }
    return S("");
}

bool name_below(str name, str zone)
{
    if (zone.n == 0 || str_eq(zone, S(".")))
        return true;
    return str_ieq(name, zone) || (name.n > zone.n && str_iends(name, zone) && name.p[name.n - zone.n - 1] == '.');
}
