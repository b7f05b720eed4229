/* Words to values, and back. */
#include "conf/conf.h"
#include "conf/bind.h"

#include <stdlib.h>
#include <unistd.h>

#define YEARS_100 (36500 * DAY)

/* A word as a message may show it. */
static str word(struct binder *b, const struct token *t)
{
    return t->text.n > 64 ? str_printf(b->a, "%.*s...", STR(str_printable(b->a, str_head(t->text, 64))))
                          : str_printable(b->a, t->text);
}

/* Every value begins so: one word, with something in it. */
static bool is_word(struct binder *b, const struct token *t)
{
    if (t->list) {
        diag_add(b->diags, CONF_ERROR, CONF_E_LIST, &t->at, conf_form(b), "one value is expected here, not a list");
        return false;
    }
    if (!t->text.n) {
        diag_add(b->diags, CONF_ERROR, CONF_E_EMPTY, &t->at, conf_form(b), "the value is empty");
        return false;
    }
    return true;
}

static bool refuse(struct binder *b, const struct token *t, uint16_t number, str hint, const char *what)
{
    diag_add(b->diags, CONF_ERROR, number, &t->at, hint, "\"%.*s\" is not %s", STR(word(b, t)), what);
    return false;
}

/* A unit of `s` behind its digits, as a factor. */
struct unit { str name; uint64_t n; };

static bool number_with_unit(str s, const struct unit *units, size_t nunits, bool fold, uint64_t *ret)
{
    size_t n = 0;
    uint64_t number, all;

    while (n < s.n && ascii_digit(s.p[n]))
        n++;
    if (!str_u64(str_head(s, n), UINT64_MAX, &number))
        return false;
    str name = str_from(s, n);
    for (size_t i = 0; i < nunits; i++)
        if (fold ? str_ieq(name, units[i].name) : str_eq(name, units[i].name)) {
            if (__builtin_mul_overflow(number, units[i].n, &all))
                return false;
            *ret = all;
            return true;
        }
    return false;
}

static const struct unit counts[] = {
    { S(""), 1 }, { S("k"), 1000 }, { S("K"), 1000 }, { S("M"), 1000000 }, { S("G"), 1000000000 },
};
static const struct unit lengths[] = {
    { S("ms"), MILLISECOND }, { S("s"), SECOND }, { S("m"), MINUTE }, { S("h"), HOUR }, { S("d"), DAY },
};
static const struct unit sizes[] = {
    { S(""), 1 },              { S("B"), 1 },            { S("K"), 1ull << 10 },   { S("KiB"), 1ull << 10 },
    { S("KB"), 1000 },         { S("M"), 1ull << 20 },   { S("MiB"), 1ull << 20 }, { S("MB"), 1000000 },
    { S("G"), 1ull << 30 },    { S("GiB"), 1ull << 30 }, { S("GB"), 1000000000 },  { S("T"), 1ull << 40 },
    { S("TiB"), 1ull << 40 },  { S("TB"), 1000000000000 },
};

bool conf_bool(struct binder *b, const struct token *t, bool *ret)
{
    if (!is_word(b, t))
        return false;
    if (str_eq(t->text, S("on")) || str_eq(t->text, S("off"))) {
        *ret = t->text.n == 2;
        return true;
    }
    bool yes = str_ieq(t->text, S("yes")) || str_ieq(t->text, S("true")) || str_ieq(t->text, S("1")) ||
               str_ieq(t->text, S("on"));
    bool no = str_ieq(t->text, S("no")) || str_ieq(t->text, S("false")) || str_ieq(t->text, S("0")) ||
              str_ieq(t->text, S("off"));
    return refuse(b, t, CONF_E_SWITCH, yes ? S("write: on") : no ? S("write: off") : S(""), "on or off");
}

bool conf_int(struct binder *b, const struct token *t, uint64_t least, uint64_t most, uint64_t *ret)
{
    uint64_t n;

    if (!is_word(b, t))
        return false;
    if (!number_with_unit(t->text, counts, COUNT(counts), false, &n))
        return refuse(b, t, CONF_E_NUMBER, S("as in 10, 10k, 2M"), "a number");
    if (n < least || n > most) {
        if (most == UINT64_MAX)
            conf_error(b, &t->at, CONF_E_RANGE, "%.*s is too few: at least %ju", STR(word(b, t)), (uintmax_t)least);
        else
            conf_error(b, &t->at, CONF_E_RANGE, "%.*s is out of range: %ju to %ju", STR(word(b, t)), (uintmax_t)least,
                       (uintmax_t)most);
        return false;
    }
    *ret = n;
    return true;
}

bool conf_time(struct binder *b, const struct token *t, when *ret)
{
    uint64_t n;

    if (!is_word(b, t))
        return false;
    if (str_eq(t->text, S("0"))) {
        *ret = 0;
        return true;
    }
    if (str_u64(t->text, UINT64_MAX, &n))
        return refuse(b, t, CONF_E_TIME, str_printf(b->a, "it has no unit: %.*ss is seconds", STR(word(b, t))),
                      "a time");
    if (!number_with_unit(t->text, lengths, COUNT(lengths), false, &n) || n > (uint64_t)YEARS_100)
        return refuse(b, t, CONF_E_TIME, S("as in 500ms, 30s, 5m, 2h, 7d"), "a time");
    *ret = (when)n;
    return true;
}

bool conf_bytes(struct binder *b, const struct token *t, uint64_t *ret)
{
    if (!is_word(b, t))
        return false;
    if (!number_with_unit(t->text, sizes, COUNT(sizes), true, ret))
        return refuse(b, t, CONF_E_BYTES, S("as in 25MB (millions), 25MiB or 25M (of 1,048,576), 64KiB"), "a size");
    return true;
}

bool conf_rate(struct binder *b, const struct token *t, struct rate *ret)
{
    static const struct { str name; when per; } pers[] = {
        { S("s"), SECOND }, { S("sec"), SECOND }, { S("second"), SECOND }, { S("m"), MINUTE }, { S("min"), MINUTE },
        { S("minute"), MINUTE }, { S("h"), HOUR }, { S("hour"), HOUR }, { S("d"), DAY }, { S("day"), DAY },
    };
    str rest = t->text, count;
    uint64_t n;

    if (!is_word(b, t))
        return false;
    if (str_cut(&rest, S("/"), &count) && number_with_unit(count, counts, COUNT(counts), false, &n))
        for (size_t i = 0; i < COUNT(pers); i++)
            if (str_eq(rest, pers[i].name)) {
                *ret = (struct rate){ n, pers[i].per };
                return true;
            }
    return refuse(b, t, CONF_E_RATE, S("as in 200/min, 10/s, 5k/hour, 1M/day"), "a rate");
}

/* Digits with at most one point among them, and a %. By hand: strtod() knows infinities, hex and locales. */
bool conf_percent(struct binder *b, const struct token *t, double *ret)
{
    double n = 0, place = 1;
    size_t digits = 0, points = 0;

    if (!is_word(b, t))
        return false;
    str s = str_head(t->text, t->text.n - 1);
    bool ok = str_ends(t->text, S("%")) && s.n <= 15;
    for (size_t i = 0; ok && i < s.n; i++) {
        if (s.p[i] == '.') {
            ok = points++ == 0;
        } else if (ascii_digit(s.p[i])) {
            digits++;
            n = n * 10 + (s.p[i] - '0');
            place *= points ? 10 : 1;
        } else {
            ok = false;
        }
    }
    if (!ok || digits == 0)
        return refuse(b, t, CONF_E_PERCENT, S("as in 5%, 0.3%"), "a percentage");
    *ret = n / place / 100;
    return true;
}

bool conf_str(struct binder *b, const struct token *t, str *ret)
{
    if (!is_word(b, t))
        return false;
    *ret = t->text;
    return true;
}

bool conf_strs(struct binder *b, const struct node *n, size_t from, struct strs *ret)
{
    size_t count = 0, most = 0;

    for (size_t i = from; i < n->narg; i++)
        most += n->arg[i].list ? n->arg[i].nitem : 1;
    str *p = NEW_ARRAY(b->a, str, most);
    for (size_t i = from; i < n->narg; i++) {
        const struct token *t = &n->arg[i];
        const struct token *item = t->list ? t->item : t;
        for (size_t j = 0; j < (t->list ? t->nitem : 1); j++)
            if (!conf_str(b, &item[j], &p[count++]))
                return false;
    }
    *ret = (struct strs){ p, count };
    return true;
}

bool conf_word(struct binder *b, const struct token *t, const char *const *words, int *ret)
{
    struct buf all = buf_in(b->a, 80);

    if (!is_word(b, t))
        return false;
    for (int i = 0; words[i]; i++) {
        if (str_eq(t->text, str_z(words[i]))) {
            *ret = i;
            return true;
        }
        buf_addf(&all, "%s%s", i == 0 ? "one of: " : ", ", words[i]);
    }
    diag_add(b->diags, CONF_ERROR, CONF_E_WORD, &t->at, buf_str(&all), "\"%.*s\" is not known here", STR(word(b, t)));
    return false;
}

/* Letters, digits and hyphens inside, or an internationalised label as it is written. */
static bool label_ok(str s, bool *digits)
{
    *digits = true;
    for (size_t i = 0; i < s.n; i++) {
        bool letter = ascii_alpha(s.p[i]) || (unsigned char)s.p[i] >= 0x80;
        *digits &= ascii_digit(s.p[i]);
        if (!letter && !ascii_digit(s.p[i]) && s.p[i] != '-')
            return false;
    }
    return s.n >= 1 && s.n <= 63 && s.p[0] != '-' && s.p[s.n - 1] != '-';
}

bool conf_domain(struct binder *b, const struct token *t, str *ret)
{
    if (!is_word(b, t))
        return false;
    str rest = str_starts(t->text, S("*.")) ? str_from(t->text, 2) : t->text, label;
    bool ok = rest.n > 0 && rest.n <= 253, digits = false;
    while (ok && str_cut(&rest, S("."), &label))
        ok = label_ok(label, &digits);
    str hint = str_ends(t->text, S(".")) ? S("without the dot at its end")
             : str_has(t->text, S("@")) ? S("only what stands behind the @")
             : S("as in example.com, or *.example.com for all below it");
    if (!ok || digits) /* the last label: an address is no domain */
        return refuse(b, t, CONF_E_DOMAIN, hint, "a domain");
    *ret = str_lower(b->a, t->text);
    return true;
}

void conf_path_note(struct binder *b, const struct token *t, str path)
{
    if (!b->paths)
        return;
    struct path_of *p = NEW(b->a, struct path_of);
    *p = (struct path_of){ t, path };
    map_put(b->paths, str_of((const char *)&p->t, sizeof p->t), p);
}

bool conf_path(struct binder *b, const struct token *t, str *ret)
{
    if (!is_word(b, t))
        return false;
    if (str_findc(t->text, 0) != STR_NONE)
        return refuse(b, t, CONF_E_INVISIBLE, S(""), "a path");
    if (t->text.p[0] == '/') {
        *ret = t->text;
        return true;
    }
    str dir = t->at.file;
    while (dir.n && dir.p[dir.n - 1] != '/')
        dir.n--;
    char *cwd = str_starts(dir, S("/")) ? NULL : get_current_dir_name();
    *ret = str_printf(b->a, "%s%s%.*s%.*s", cwd ? cwd : "", cwd && strcmp(cwd, "/") != 0 ? "/" : "", STR(dir),
                      STR(t->text));
    free(cwd);
    conf_path_note(b, t, *ret);
    return true;
}

/* ---- back -------------------------------------------------------------------------------------------------------- */

str conf_print_time(arena *a, when t)
{
    static const char *const names[] = { "d", "h", "m", "s", "ms" };
    static const when lengths_down[] = { DAY, HOUR, MINUTE, SECOND, MILLISECOND };

    for (size_t i = 0; i < COUNT(names); i++)
        if (t && t % lengths_down[i] == 0)
            return str_printf(a, "%lld%s", (long long)(t / lengths_down[i]), names[i]);
    return t ? str_printf(a, "%lldus", (long long)t) : S("0s"); /* microseconds: none that the form can write */
}

str conf_print_bytes(arena *a, uint64_t n)
{
    static const struct unit down[] = {
        { S("TiB"), 1ull << 40 }, { S("TB"), 1000000000000 }, { S("GiB"), 1ull << 30 }, { S("GB"), 1000000000 },
        { S("MiB"), 1ull << 20 }, { S("MB"), 1000000 },       { S("KiB"), 1ull << 10 }, { S("KB"), 1000 },
    };
    for (size_t i = 0; i < COUNT(down); i++)
        if (n && n % down[i].n == 0)
            return str_printf(a, "%ju%.*s", (uintmax_t)(n / down[i].n), STR(down[i].name));
    return str_printf(a, "%ju", (uintmax_t)n);
}
