/* Header fields: RFC 5322 2.2, cut out of a block of CRLF lines, and written into one. */
#include "mail/mail.h"

#define FOLD_AT 78  /* RFC 5322 2.1.1: lines should be no longer */

static bool is_blank(char c) { return c == ' ' || c == '\t'; }

/* The length, with its CRLF, of the line that `s` begins with; all of `s` when none ends it. */
static size_t line_length(str s)
{
    size_t at = str_find(s, S("\r\n"));
    return at == STR_NONE ? s.n : at + 2;
}

/* Where the name ends: printable ASCII without a colon, RFC 5322 3.6.8. */
static size_t name_length(str s)
{
    size_t n = 0;
    while (n < s.n && s.p[n] > 32 && s.p[n] < 127 && s.p[n] != ':')
        n++;
    return n;
}

bool header_next(str *rest, struct field *ret)
{
    str s = *rest;
    size_t name = name_length(s), colon = name;

    /* Blanks before the colon are obsolete (4.5.8), yet readers take "From :" for a From; so must we (class 39). */
    while (colon < s.n && is_blank(s.p[colon]))
        colon++;
    if (name == 0 || colon == s.n || s.p[colon] != ':')
        return false;
    size_t end = line_length(s);
    while (end < s.n && is_blank(s.p[end]))
        end += line_length(str_from(s, end));
    ret->whole = str_head(s, end);
    ret->name = str_head(s, name);
    ret->value = str_from(ret->whole, colon + 1);
    if (str_ends(ret->value, S("\r\n")))
        ret->value.n -= 2;
    *rest = str_from(s, end);
    return true;
}

str header_unfold(arena *a, str value)
{
    if (!str_has(value, S("\r\n")))
        return value;
    struct buf out = buf_in(a, value.n);
    str line;
    while (str_cut(&value, S("\r\n"), &line))
        buf_add(&out, line);
    return buf_str(&out);
}

bool header_get(arena *a, str block, str name, str *ret)
{
    struct field f;

    while (header_next(&block, &f)) {
        if (str_ieq(f.name, name)) {
            *ret = str_trim(header_unfold(a, f.value));
            return true;
        }
    }
    return false;
}

/* What separates words, and what must become a blank to pass for one. */
static bool is_gap(char c) { return is_blank(c) || c == '\r' || c == '\n' || c == 0; }

/* RFC 5322 2.2.3: a fold stands before a blank, and leaves no line of blanks alone. */
void header_add(struct buf *out, str name, str value)
{
    size_t column = name.n + 2;

    buf_reserve(out, name.n + value.n + value.n / 16 + 8);
    buf_add(out, name);
    buf_add(out, S(": "));
    while (value.n) {
        /* A word with the blanks before it. */
        size_t blanks = 0, n;
        while (blanks < value.n && is_gap(value.p[blanks]))
            blanks++;
        for (n = blanks; n < value.n && !is_gap(value.p[n]); n++)
            ;
        if (n == blanks)
            break; /* blanks at the end say nothing */
        if (blanks && column + n > FOLD_AT && column > name.n + 2) {
            buf_add(out, S("\r\n"));
            column = 0;
        }
        for (size_t i = 0; i < blanks; i++)
            buf_addc(out, value.p[i] == '\t' ? '\t' : ' '); /* attack class 36: no line begins here */
        buf_add(out, str_from(str_head(value, n), blanks));
        column += n;
        value = str_from(value, n);
    }
    buf_add(out, S("\r\n"));
}
