/* What people read: tables, times, sizes. */
#include "cli/cli.h"

#include <stdio.h>
#include <time.h>

str tell_text(arena *a, str s)
{
    uint32_t cp;

    for (str rest = s; rest.n; ) {
        size_t n = utf8_head(rest, &cp);
        if (n == 0 || utf8_control(cp))
            return str_printable(a, s);
        rest = str_from(rest, n);
    }
    return s;
}

/* ---- columns ---- */

/* Cells are cut here: a reason of a page would push all else off the screen. The last column may be as long as it likes. */
#define CELL_MOST 60

static void make_room(struct columns *c)
{
    if (c->nrow * c->n + c->n > c->cap) {
        size_t cap = MAX(c->cap * 2, c->n * 16);
        str *more = NEW_ARRAY(c->a, str, cap);
        if (c->cap)
            memcpy(more, c->cell, c->cap * sizeof *more);
        c->cell = more;
        c->cap = cap;
    }
}

struct columns columns_of(arena *a, const char *titles)
{
    struct columns c = { .a = a };
    str rest = str_z(titles), word;
    str title[COLUMNS_MOST];

    while (str_word(&rest, &word)) {
        must(c.n < COLUMNS_MOST);
        c.right[c.n] = str_starts(word, S(">"));
        title[c.n] = c.right[c.n] ? str_from(word, 1) : word;
        c.n++;
    }
    make_room(&c);
    memcpy(c.cell, title, c.n * sizeof *title);
    c.nrow = 1;
    return c;
}

/* Characters; marks and wide ones are rare in what we print. */
static size_t width(str s)
{
    uint32_t cp;
    size_t n = 0;

    for (size_t at; s.n; s = str_from(s, at), n++)
        at = MAX(utf8_head(s, &cp), 1);
    return n;
}

static str shorten(arena *a, str s)
{
    uint32_t cp;
    size_t at = 0;

    if (width(s) <= CELL_MOST)
        return s;
    for (size_t i = 0; i < CELL_MOST - 3; i++)
        at += MAX(utf8_head(str_from(s, at), &cp), 1);
    return str_printf(a, "%.*s...", STR(str_head(s, at)));
}

void columns_add(struct columns *c, ...)
{
    va_list ap;

    make_room(c);
    va_start(ap, c);
    for (size_t i = 0; i < c->n; i++) {
        str s = str_dup(c->a, tell_text(c->a, va_arg(ap, str))); /* the caller reuses what it got it from */
        c->cell[c->nrow * c->n + i] = i + 1 < c->n ? shorten(c->a, s) : s;
    }
    va_end(ap);
    c->nrow++;
}

static void print_cell(str s, size_t wide, bool right, bool last)
{
    int pad = (int)(wide - MIN(wide, width(s)));

    if (last && !right)
        printf("%.*s\n", STR(s));
    else if (right)
        printf("%*s%.*s%s", pad, "", STR(s), last ? "\n" : "  ");
    else
        printf("%.*s%*s  ", STR(s), pad, "");
}

void columns_print(struct columns *c)
{
    size_t wide[COLUMNS_MOST] = { 0 };

    for (size_t i = 0; i < c->nrow * c->n; i++)
        wide[i % c->n] = MAX(wide[i % c->n], width(c->cell[i]));
    for (size_t i = 0; i < c->nrow * c->n; i++)
        print_cell(c->cell[i], wide[i % c->n], c->right[i % c->n], i % c->n + 1 == c->n);
}

/* ---- times ---- */

static bool digits(str s, size_t at, size_t n, int *ret)
{
    uint64_t v;

    if (at + n > s.n || !str_u64(str_of(s.p + at, n), 9999, &v))
        return false;
    *ret = (int)v;
    return true;
}

bool time_read(str s, when *ret)
{
    struct tm tm = { 0 };
    when fraction = 0, unit = SECOND;

    if (s.n < 20 || s.p[4] != '-' || s.p[7] != '-' || s.p[10] != 'T' || s.p[13] != ':' || s.p[16] != ':' || s.p[s.n - 1] != 'Z')
        return false;
    if (!digits(s, 0, 4, &tm.tm_year) || !digits(s, 5, 2, &tm.tm_mon) || !digits(s, 8, 2, &tm.tm_mday) ||
        !digits(s, 11, 2, &tm.tm_hour) || !digits(s, 14, 2, &tm.tm_min) || !digits(s, 17, 2, &tm.tm_sec))
        return false;
    if (s.n > 20 && s.p[19] != '.')
        return false;
    for (size_t i = 20; i + 1 < s.n; i++) {
        if (!ascii_digit(s.p[i]))
            return false;
        unit /= 10;
        fraction += (s.p[i] - '0') * unit;
    }
    tm.tm_year -= 1900;
    tm.tm_mon -= 1;
    *ret = (when)timegm(&tm) * SECOND + fraction;
    return true;
}

str tell_time(arena *a, when wall)
{
    char text[TIME_TEXT];
    str t = time_rfc3339(text, wall);

    return str_printf(a, "%.10s %.8s", t.p, t.p + 11);
}

str tell_ago(arena *a, when wall, when now)
{
    char text[TIME_TEXT];

    if (!wall)
        return S("-");
    when span = now - wall;
    if (span > SECOND || span < -SECOND)
        span -= span % SECOND; /* nobody wants "1s 3ms" */
    return str_dup(a, time_span(text, span));
}

/* ---- numbers ---- */

str tell_size(arena *a, int64_t n)
{
    static const char *const units[] = { "KiB", "MiB", "GiB", "TiB" };
    double v = (double)n / 1024;
    size_t i = 0;

    if (n < 1024)
        return str_printf(a, "%lld B", (long long)n);
    for (; v >= 1024 && i + 1 < COUNT(units); i++)
        v /= 1024;
    return str_printf(a, v < 10 ? "%.1f %s" : "%.0f %s", v, units[i]);
}

str tell_us(arena *a, int64_t us)
{
    if (us < 1000)
        return str_printf(a, "%lld us", (long long)us);
    if (us < 1000000)
        return str_printf(a, us < 10000 ? "%.1f ms" : "%.0f ms", (double)us / 1000);
    return tell_ago(a, 1, 1 + us);
}

str tell_count(arena *a, int64_t n)
{
    char raw[24], out[32];
    int length = snprintf(raw, sizeof raw, "%lld", (long long)(n < 0 ? -n : n)), at = 0;

    if (n < 0)
        out[at++] = '-';
    for (int i = 0; i < length; i++) {
        if (i && (length - i) % 3 == 0)
            out[at++] = ' ';
        out[at++] = raw[i];
    }
    return str_dup(a, str_of(out, (size_t)at));
}
