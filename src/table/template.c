/* Addresses of strangers put into LDAP filters and URLs, so that they can mean nothing else there (attack class 20); and what a web
 * service's answer says. */
#include "table/inside.h"

#include <jansson.h>

static bool plain(char c) { return ascii_alpha(c) || ascii_digit(c) || c == '-' || c == '.' || c == '_'; }

static char hex(unsigned n) { return "0123456789ABCDEF"[n & 15]; }

/* ---- LDAP filters ---- */

const char *filter_wrong(str filter)
{
    size_t depth = 0;
    bool names = false;

    if (filter.n == 0 || filter.p[0] != '(')
        return "it begins with (";
    for (size_t i = 0; i < filter.n; i++) {
        char c = filter.p[i];
        if (ascii_control(c))
            return "it holds a control character";
        if (i && depth == 0)
            return "something follows its last )";
        if (c == '(' && ++depth > 32)
            return "it is nested too deeply";
        if (c == ')')
            depth--;
        if (c == '%') {
            char what = ++i < filter.n ? filter.p[i] : 0;
            if (!what || !strchr("sud%", what))
                return "% is followed by s (address), u (local part), d (domain) or %";
            names |= what == 's' || what == 'u';
        }
    }
    if (depth)
        return "a ( is not closed";
    return names ? NULL : "neither %s nor %u stands in it: it would find the same for everybody";
}

/* RFC 4515 3: NUL ( ) * and \ must be escaped, other octets may. */
static void filter_value(struct buf *out, str s)
{
    for (size_t i = 0; i < s.n; i++) {
        char c = s.p[i];
        if (plain(c) || c == '@' || c == '+' || c == '=') {
            buf_addc(out, c);
            continue;
        }
        buf_addc(out, '\\');
        buf_addc(out, hex((unsigned char)c >> 4));
        buf_addc(out, hex((unsigned char)c));
    }
}

void filter_add(struct buf *out, str filter, const struct inquiry *q)
{
    for (size_t i = 0; i < filter.n; i++) {
        char c = filter.p[i];
        if (c != '%' || i + 1 == filter.n) {
            buf_addc(out, c);
            continue;
        }
        c = filter.p[++i];
        if (c == '%')
            buf_addc(out, '%');
        else
            filter_value(out, c == 's' ? q->address : c == 'u' ? q->local : q->domain);
    }
}

/* ---- URLs ---- */

static const struct { str name; size_t offset; } places[] = {
    { S("{address}"), offsetof(struct inquiry, address) },
    { S("{local}"), offsetof(struct inquiry, local) },
    { S("{domain}"), offsetof(struct inquiry, domain) },
};

/* The place that begins `s`, or NULL. */
static const __typeof__(places[0]) *place_at(str s)
{
    for (size_t i = 0; i < COUNT(places); i++)
        if (str_starts(s, places[i].name))
            return &places[i];
    return NULL;
}

const char *url_wrong(str url)
{
    bool names = false;
    str rest;

    if (str_istarts(url, S("http://")))
        rest = str_from(url, 7);
    else if (str_istarts(url, S("https://")))
        rest = str_from(url, 8);
    else
        return "it begins with http:// or https://";
    size_t host = 0;
    while (host < rest.n && !strchr("/?#", rest.p[host]))
        host++;
    if (host == 0 || host == rest.n)
        return "it has a host and a path";
    for (size_t i = 0; i < host; i++)
        if (!plain(rest.p[i]) && !strchr(":[]", rest.p[i]))
            return "its host is no host: a user, a password or an address in it is not taken";
    for (size_t i = host; i < rest.n; i++) {
        const __typeof__(places[0]) *p = place_at(str_from(rest, i));
        char c = rest.p[i];
        if (p) {
            names |= p->offset != offsetof(struct inquiry, domain);
            i += p->name.n - 1;
        } else if (c <= ' ' || c == 127 || c == '{' || c == '}' || c == '#') {
            return "it holds a blank, a #, or braces that are none of {address} {local} {domain}";
        }
    }
    return names ? NULL : "neither {address} nor {local} stands in it: it would find the same for everybody";
}

bool url_add(struct buf *out, str url, const struct inquiry *q)
{
    for (size_t i = 0; i < url.n; i++) {
        const __typeof__(places[0]) *p = place_at(str_from(url, i));
        if (!p) {
            buf_addc(out, url.p[i]);
            continue;
        }
        str s = *(const str *)(const void *)((const char *)q + p->offset);
        if (str_eq(s, S(".")) || str_eq(s, S("..")))
            return false;
        for (size_t k = 0; k < s.n; k++) { /* RFC 3986 2.3 */
            char c = s.p[k];
            if (plain(c) || c == '~') {
                buf_addc(out, c);
                continue;
            }
            buf_addc(out, '%');
            buf_addc(out, hex((unsigned char)c >> 4));
            buf_addc(out, hex((unsigned char)c));
        }
        i += p->name.n - 1;
    }
    return true;
}

/* ---- answers ---- */

static enum said json_answer(str body)
{
    json_t *root = json_loadb(body.p, body.n, JSON_REJECT_DUPLICATES, NULL);
    const json_t *found = json_object_get(root, "found");
    enum said said = SAID_UNSURE;

    if (json_is_boolean(found))
        said = json_is_true(found) ? SAID_FOUND : SAID_ABSENT;
    else
        fail(E_SYNTAX, "its JSON has no \"found\" that is true or false");
    json_decref(root);
    return said;
}

/* What is meant as JSON, or may be in another encoding than ours, is none of those bodies that say nothing: a "no" in it must not pass for a "yes"
 * (attack class 37). */
static bool is_like_json(str text)
{
    return text.n && (text.p[0] == '{' || text.p[0] == '[' || (unsigned char)text.p[0] < ' ' || (unsigned char)text.p[0] >= 127
                      || str_ieq(text, S("false")) || str_ieq(text, S("null")));
}

enum said http_answer(long code, str body)
{
    if (code == 404)
        return SAID_ABSENT;
    if (code != 200) {
        fail(E_AGAIN, "it answers %ld", code);
        return SAID_UNSURE;
    }
    str text = str_trim(body);
    return is_like_json(text) ? json_answer(text) : SAID_FOUND;
}
