/* Diagnostics: gathering them, and telling them so that the place is seen at once. */
#include "conf/conf.h"

#include <stdio.h>
#include <stdlib.h>

#define TEXT_COLUMNS 105  /* a longer text goes on in the next line */
#define SOURCE_COLUMNS 110 /* of a longer line the part around the caret is shown */

void diag_add(struct diags *d, enum severity s, uint16_t number, const struct place *at, str hint, const char *fmt, ...)
{
    struct buf text = buf_in(d->a, 80);
    char some[512], *all = some;
    va_list ap;

    must(conf_number(number));
    d->errors += s == CONF_ERROR;
    if (d->n == DIAGS_KEPT) {
        d->dropped++;
        return;
    }
    va_start(ap, fmt);
    int n = vsnprintf(some, sizeof some, fmt, ap);
    va_end(ap);
    must(n >= 0);
    if ((size_t)n >= sizeof some) {
        all = arena_alloc(d->a, (size_t)n + 1);
        va_start(ap, fmt);
        vsnprintf(all, (size_t)n + 1, fmt, ap);
        va_end(ap);
    }
    buf_add(&text, str_of(all, (size_t)n));
    if (d->n == d->cap) {
        d->cap = d->cap ? d->cap * 2 : 8;
        struct diag *more = NEW_ARRAY(d->a, struct diag, d->cap);
        if (d->n)
            memcpy(more, d->p, d->n * sizeof *more);
        d->p = more;
    }
    d->p[d->n++] = (struct diag){ s, number, *at, buf_str(&text), str_dup(d->a, hint) };
}

const char *conf_number(uint16_t number)
{
    switch (number) {
#define N(name, number, meaning) case number: return meaning;
        CONF_NUMBERS(N)
#undef N
    }
    return NULL;
}

/* ---- the order of the text --------------------------------------------------------------------------------------- */

static bool stands_before(const struct diag *a, const struct diag *b)
{
    if (a->at.nth != b->at.nth)
        return a->at.nth < b->at.nth;
    if (a->at.line != b->at.line)
        return a->at.line < b->at.line;
    return a->at.column < b->at.column;
}

/* Parsing tells first and binding later; the reader goes down the text once. Equals keep their order. */
static void in_order(const struct diags *d, const struct diag *out[DIAGS_KEPT])
{
    for (size_t i = 0; i < d->n; i++) {
        size_t at = i;
        for (; at > 0 && stands_before(&d->p[i], out[at - 1]); at--)
            out[at] = out[at - 1];
        out[at] = &d->p[i];
    }
}

/* ---- for people -------------------------------------------------------------------------------------------------- */

/* Columns on a terminal: marks that join the character before take none, East Asian wide ones and pictures two. */
static unsigned columns_of(uint32_t cp)
{
    static const struct { uint32_t from, to; unsigned n; } odd[] = {
        { 0x300, 0x36f, 0 },     { 0x1100, 0x115f, 2 },   { 0x200b, 0x200d, 0 },   { 0x2e80, 0xa4cf, 2 },
        { 0xac00, 0xd7a3, 2 },   { 0xf900, 0xfaff, 2 },   { 0xfe00, 0xfe0f, 0 },   { 0xfe30, 0xfe6f, 2 },
        { 0xff00, 0xff60, 2 },   { 0xffe0, 0xffe6, 2 },   { 0x1f300, 0x1faff, 2 }, { 0x20000, 0x3fffd, 2 },
    };
    for (size_t i = 0; i < COUNT(odd); i++)
        if (cp >= odd[i].from && cp <= odd[i].to)
            return odd[i].n;
    return 1;
}

/* Cut the next character off *s as it is shown: what is not UTF-8 or would play with the terminal is U+FFFD. */
static str shown(str *s, unsigned *columns)
{
    uint32_t cp;
    size_t n = utf8_head(*s, &cp);
    str c = str_head(*s, n);

    *columns = n ? columns_of(cp) : 1;
    if (n == 0 || utf8_control(cp)) {
        c = S("\xef\xbf\xbd");
        *columns = 1;
    }
    *s = str_from(*s, MAX(n, 1));
    return c;
}

/* Add `s` at column *at, going on in an indented line at a blank where it grows too long. */
static void add_wrapped(struct buf *out, str s, unsigned *at)
{
    str word;
    for (bool first = true; str_cut(&s, S(" "), &word); first = false) {
        AUTO_BUF clean = { 0 };
        unsigned wide = 0, n;
        while (word.n) {
            buf_add(&clean, shown(&word, &n));
            wide += n;
        }
        if (!first && *at + 1 + wide > TEXT_COLUMNS) {
            buf_add(out, S("\n      "));
            *at = 6;
        } else if (!first) {
            buf_addc(out, ' ');
            ++*at;
        }
        buf_add(out, buf_str(&clean));
        *at += wide;
    }
}

static void add_repeated(struct buf *out, char c, unsigned n)
{
    while (n--)
        buf_addc(out, c);
}

/* The columns that the first `characters` of *s take when the first stands at column `at`; *s goes behind them. */
static unsigned measure(str *s, uint32_t characters, unsigned at)
{
    unsigned begin = at, n;

    for (; characters && s->n; characters--) {
        if (s->p[0] == '\t') {
            *s = str_from(*s, 1);
            at = at / 8 * 8 + 8;
        } else {
            shown(s, &n);
            at += n;
        }
    }
    return at - begin;
}

/* The source line with the caret line below it. */
static void print_source(const struct diag *d, struct buf *out)
{
    str rest = d->at.source;
    unsigned begin = measure(&rest, d->at.column - 1, 0);
    unsigned length = measure(&rest, d->at.length, begin);
    unsigned wide = MIN(MAX(length, 1u), SOURCE_COLUMNS / 2u);
    unsigned skip = begin + wide > SOURCE_COLUMNS ? begin - 40 : 0; /* columns of the line's head left out */

    buf_addf(out, "%5u | ", d->at.line);
    if (skip)
        buf_add(out, S("..."));
    rest = d->at.source;
    for (unsigned at = 0; rest.n; ) {
        bool tab = rest.p[0] == '\t';
        str from = rest;
        unsigned n = measure(&rest, 1, at), ignored;
        if (at >= skip + SOURCE_COLUMNS) {
            buf_add(out, S("..."));
            break;
        }
        if (at >= skip && !tab)
            buf_add(out, shown(&from, &ignored));
        else if (at + n > skip)
            add_repeated(out, ' ', MIN(n, at + n - skip));
        at += n;
    }
    buf_add(out, S("\n      | "));
    add_repeated(out, ' ', begin - skip + (skip ? 3 : 0));
    buf_addc(out, '^');
    add_repeated(out, '~', wide - 1);
    if (d->hint.n) {
        unsigned far = 0;
        buf_addc(out, ' ');
        str hint = d->hint;
        while (hint.n)
            buf_add(out, shown(&hint, &far));
    }
    buf_addc(out, '\n');
}

static void print_one(const struct diag *d, struct buf *out)
{
    bool error = d->severity == CONF_ERROR;
    unsigned at = 0;

    if (d->at.file.n) {
        add_wrapped(out, d->at.file, &at);
        size_t begin = out->n;
        if (d->at.line)
            buf_addf(out, ":%u:%u", d->at.line, d->at.column);
        buf_add(out, S(": "));
        at += (unsigned)(out->n - begin);
    }
    size_t begin = out->n;
    buf_addf(out, "%s[%c%03u]: ", error ? "error" : "warning", error ? 'E' : 'W', d->number);
    at += (unsigned)(out->n - begin);
    add_wrapped(out, d->text, &at);
    buf_addc(out, '\n');
    if (d->at.length) {
        print_source(d, out);
    } else if (d->hint.n) {
        buf_add(out, S("      "));
        at = 6;
        add_wrapped(out, d->hint, &at);
        buf_addc(out, '\n');
    }
}

void diags_print(const struct diags *d, struct buf *out)
{
    const struct diag *sorted[DIAGS_KEPT];

    in_order(d, sorted);
    for (size_t i = 0; i < d->n; i++)
        print_one(sorted[i], out);
    if (d->dropped)
        buf_addf(out, "and %zu more\n", d->dropped);
}

/* ---- for programs ------------------------------------------------------------------------------------------------ */

void diags_print_json(const struct diags *d, struct buf *out)
{
    const struct diag *sorted[DIAGS_KEPT];

    in_order(d, sorted);
    buf_addc(out, '[');
    for (size_t i = 0; i < d->n; i++) {
        const struct diag *one = sorted[i];
        bool error = one->severity == CONF_ERROR;
        buf_addf(out, "%s{\"severity\":\"%s\",\"number\":\"%c%03u\",\"file\":", i ? "," : "",
                 error ? "error" : "warning", error ? 'E' : 'W', one->number);
        buf_add_json(out, one->at.file);
        buf_addf(out, ",\"line\":%u,\"column\":%u,\"length\":%u,\"text\":", one->at.line, one->at.column,
                 one->at.length);
        buf_add_json(out, one->text);
        buf_add(out, S(",\"hint\":"));
        buf_add_json(out, one->hint);
        buf_addc(out, '}');
    }
    buf_add(out, S("]\n"));
}
