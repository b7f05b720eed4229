/* Whoever is asked about: a filter keeps its form, a URL its parts, and an answer means one of three things. The input is a template, a NUL,
 * an address, a NUL, and the body of an answer. */
#include "kit/kit.h"
#include "table/inside.h"

static void count(str s, size_t n[4])
{
    for (size_t i = 0; i < s.n; i++) {
        n[0] += s.p[i] == '(';
        n[1] += s.p[i] == ')';
        n[2] += s.p[i] == '*';
        n[3] += s.p[i] == 0;
    }
}

/* RFC 4515 3: nothing of the value stands there as it is that could be taken for the filter's own. */
static void try_filter(str filter, const struct inquiry *q)
{
    AUTO_BUF out = { 0 };
    size_t before[4] = { 0 }, after[4] = { 0 };

    if (filter_wrong(filter))
        return;
    filter_add(&out, filter, q);
    count(filter, before);
    count(buf_str(&out), after);
    must(memcmp(before, after, sizeof before) == 0);
    /* Undone, the value is the address again. */
    AUTO_BUF lone = { 0 }, back = { 0 };
    filter_add(&lone, S("%s"), q);
    for (size_t i = 0; i < lone.n; i++) {
        unsigned octet = 0;
        char c = lone.p[i];
        for (int k = 0; c == '\\' && k < 2; k++) {
            char h = lone.p[i + 1 + (size_t)k];
            octet = octet * 16 + (unsigned)(ascii_digit(h) ? h - '0' : h - 'A' + 10);
        }
        buf_addc(&back, c == '\\' ? (char)octet : c);
        i += c == '\\' ? 2 : 0;
    }
    must(str_eq(buf_str(&back), q->address));
}

static void try_url(str url, const struct inquiry *q)
{
    AUTO_BUF out = { 0 };

    if (url_wrong(url) || !url_add(&out, url, q))
        return;
    str s = buf_str(&out);
    size_t own[3] = { 0 }, now[3] = { 0 };
    for (size_t i = 0; i < url.n; i++)
        for (size_t k = 0; k < 3; k++)
            own[k] += url.p[i] == "/?&"[k];
    for (size_t i = 0; i < s.n; i++) {
        must((unsigned char)s.p[i] > ' ' && s.p[i] != 127 && s.p[i] != '#' && s.p[i] != '{');
        for (size_t k = 0; k < 3; k++)
            now[k] += s.p[i] == "/?&"[k];
    }
    must(memcmp(own, now, sizeof own) == 0);
}

FUZZ(data, size)
{
    str rest = str_of((const char *)data, size), template = { 0 }, address = { 0 };

    str_cut(&rest, S("\0"), &template);
    str_cut(&rest, S("\0"), &address);
    size_t at = MIN(str_findc(address, '@'), address.n);
    struct inquiry q = { .address = address, .local = str_head(address, at), .domain = str_from(address, at + 1) };
    try_filter(template, &q);
    try_url(template, &q);
    enum said said = http_answer(200, rest);
    must(said == SAID_FOUND || said == SAID_ABSENT || said == SAID_UNSURE);
    must(http_answer(404, rest) == SAID_ABSENT && http_answer(302, rest) == SAID_UNSURE);
}
