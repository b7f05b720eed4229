/* Borrowed strings: comparing, searching, cutting, escaping. Hashing is in hash.c. */
#include "base/base.h"
#include "base/utf8.h"

#include <stdio.h>

static bool same_folded(const char *a, const char *b, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (ascii_lower(a[i]) != ascii_lower(b[i]))
            return false;
    return true;
}

bool str_ieq(str a, str b) { return a.n == b.n && same_folded(a.p, b.p, a.n); }
bool str_starts(str s, str head) { return s.n >= head.n && str_eq(str_head(s, head.n), head); }
bool str_istarts(str s, str head) { return s.n >= head.n && same_folded(s.p, head.p, head.n); }
bool str_ends(str s, str tail) { return s.n >= tail.n && str_eq(str_from(s, s.n - tail.n), tail); }
bool str_iends(str s, str tail) { return s.n >= tail.n && str_ieq(str_from(s, s.n - tail.n), tail); }

size_t str_find(str s, str what)
{
    if (what.n == 0)
        return 0;
    if (s.n < what.n)
        return STR_NONE;
    const char *at = memmem(s.p, s.n, what.p, what.n);
    return at ? (size_t)(at - s.p) : STR_NONE;
}

size_t str_findc(str s, char c)
{
    const char *at = s.n ? memchr(s.p, c, s.n) : NULL;
    return at ? (size_t)(at - s.p) : STR_NONE;
}

static bool is_blank(char c) { return c == ' ' || c == '\t'; }
static bool is_space(char c) { return is_blank(c) || c == '\r' || c == '\n'; }

str str_trim(str s)
{
    while (s.n && is_space(s.p[0]))
        s = str_from(s, 1);
    while (s.n && is_space(s.p[s.n - 1]))
        s.n--;
    return s;
}

bool str_cut(str *rest, str sep, str *part)
{
    must(sep.n > 0);
    if (!rest->p)
        return false;
    size_t at = str_find(*rest, sep);
    if (at == STR_NONE) {
        *part = *rest;
        *rest = (str){ 0 };
    } else {
        *part = str_head(*rest, at);
        *rest = str_from(*rest, at + sep.n);
    }
    return true;
}

bool str_word(str *rest, str *word)
{
    while (rest->n && is_blank(rest->p[0]))
        *rest = str_from(*rest, 1);
    size_t n = 0;
    while (n < rest->n && !is_blank(rest->p[n]))
        n++;
    if (n == 0)
        return false;
    *word = str_head(*rest, n);
    *rest = str_from(*rest, n);
    return true;
}

bool str_u64(str s, uint64_t max, uint64_t *ret)
{
    uint64_t value = 0;

    if (s.n == 0)
        return false;
    for (size_t i = 0; i < s.n; i++) {
        if (!ascii_digit(s.p[i]))
            return false;
        if (__builtin_mul_overflow(value, 10, &value) ||
            __builtin_add_overflow(value, (uint64_t)(s.p[i] - '0'), &value) || value > max)
            return false;
    }
    *ret = value;
    return true;
}

int str_cmp(str a, str b)
{
    size_t n = MIN(a.n, b.n);
    int order = n ? memcmp(a.p, b.p, n) : 0;
    return order ? order : (a.n > b.n) - (a.n < b.n);
}

size_t str_distance(str a, str b)
{
    size_t row[64]; /* row[j]: the distance of a's first i bytes from b's first j */

    a = str_head(a, 63);
    b = str_head(b, 63);
    for (size_t j = 0; j <= b.n; j++)
        row[j] = j;
    for (size_t i = 1; i <= a.n; i++) {
        size_t diagonal = row[0];
        row[0] = i;
        for (size_t j = 1; j <= b.n; j++) {
            size_t changed = diagonal + (a.p[i - 1] != b.p[j - 1]);
            diagonal = row[j];
            row[j] = MIN(changed, MIN(row[j], row[j - 1]) + 1);
        }
    }
    return row[b.n];
}

str str_dup(arena *a, str s)
{
    char *p = arena_alloc(a, s.n);
    if (s.n)
        memcpy(p, s.p, s.n);
    return (str){ p, s.n };
}

str str_lower(arena *a, str s)
{
    char *p = arena_alloc(a, s.n);
    for (size_t i = 0; i < s.n; i++)
        p[i] = ascii_lower(s.p[i]);
    return (str){ p, s.n };
}

char *str_cz(arena *a, str s)
{
    char *p = arena_alloc(a, s.n + 1);
    if (s.n)
        memcpy(p, s.p, s.n);
    return p;
}

str str_printf(arena *a, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    must(n >= 0);

    char *p = arena_alloc(a, (size_t)n + 1);
    va_start(ap, fmt);
    vsnprintf(p, (size_t)n + 1, fmt, ap);
    va_end(ap);
    return (str){ p, (size_t)n };
}

static bool is_plain(str s)
{
    uint32_t cp;
    for (size_t n; s.n; s = str_from(s, n)) {
        n = utf8_head(s, &cp);
        if (n == 0 || utf8_control(cp) || cp == '"' || cp == '\\')
            return false;
    }
    return true;
}

/* A byte that is not UTF-8 is written like the character of its number, U+0080 to U+00FF: the one form that JSON knows
 * and that still tells the byte. */
str str_printable(arena *a, str s)
{
    uint32_t cp;

    if (is_plain(s))
        return s;
    struct buf out = buf_in(a, s.n + 32);
    for (size_t n; s.n; s = str_from(s, n)) {
        n = utf8_head(s, &cp);
        if (n == 0) {
            n = 1;
            buf_addf(&out, "\\u%04x", (unsigned char)s.p[0]);
        } else if (cp == '"' || cp == '\\') {
            buf_addc(&out, '\\');
            buf_addc(&out, (char)cp);
        } else if (cp == '\n' || cp == '\r' || cp == '\t') {
            buf_addc(&out, '\\');
            buf_addc(&out, cp == '\n' ? 'n' : cp == '\r' ? 'r' : 't');
        } else if (utf8_control(cp)) {
            buf_addf(&out, "\\u%04x", cp);
        } else {
            buf_add(&out, str_head(s, n));
        }
    }
    return buf_str(&out);
}
