/* The tables as waypost.conf(5), in mdoc(7). */
#include "conf/conf.h"

#include <stdio.h>

#define TABLES_DEEP 8

/* Text where macros are not looked for. */
static void add_text(struct buf *out, str s)
{
    for (size_t i = 0; i < s.n; i++) {
        if (s.p[i] == '\\')
            buf_add(out, S("\\e"));
        else if (s.p[i] == '-')
            buf_add(out, S("\\-"));
        else if (s.p[i] == '"')
            buf_add(out, S("\\(dq"));
        else if (s.p[i] == '\n')
            buf_addc(out, ' ');
        else
            buf_addc(out, s.p[i]);
    }
}

/* A paragraph: each sentence on a line of its own, as mdoc wants it. */
static void add_sentences(struct buf *out, str s)
{
    str rest = s, sentence;
    while (str_cut(&rest, S(". "), &sentence)) {
        if (!sentence.n)
            continue;
        if (sentence.p[0] == '.' || sentence.p[0] == '\'')
            buf_add(out, S("\\&"));
        add_text(out, sentence);
        buf_add(out, rest.p ? S(".\n") : S("\n"));
    }
}

/* " Ar ADDRESS:PORT Cm priority Ar N": capitals are what the reader fills in. */
static void add_form(struct buf *out, const char *form)
{
    str rest = str_z(form), word;
    while (str_word(&rest, &word)) {
        bool capital = false, small = false;
        for (size_t i = 0; i < word.n; i++) {
            capital |= word.p[i] >= 'A' && word.p[i] <= 'Z';
            small |= word.p[i] >= 'a' && word.p[i] <= 'z';
        }
        buf_add(out, capital && !small ? S(" Ar \\&") : small ? S(" Cm \\&") : S(" No \\&"));
        add_text(out, word);
    }
}

/* What the type itself says of the arguments, for settings without a form of their own. */
static const char *type_form(const struct setting *s)
{
    switch (s->type) {
    case CONF_BOOL: return "on | off";
    case CONF_INT: return "NUMBER";
    case CONF_TIME: return "TIME";
    case CONF_BYTES: return "SIZE";
    case CONF_RATE: return "NUMBER/UNIT";
    case CONF_PERCENT: return "NUMBER%";
    case CONF_STR: return "WORD";
    case CONF_PATH: return "PATH";
    case CONF_DOMAIN: return "DOMAIN";
    case CONF_TIMES: return "[ TIME ... ]";
    case CONF_STRS: return "WORD ...";
    case CONF_ENUM: case CONF_OWN: case CONF_BLOCK: break;
    }
    return "";
}

static void add_range(struct buf *out, const struct setting *s)
{
    AUTO_ARENA a = arena_new();

    if (s->least == 0 && s->most == 0)
        return;
    switch (s->type) {
    case CONF_TIME: case CONF_TIMES:
        buf_addf(out, "From %.*s to %.*s.\n", STR(conf_print_time(a, (when)(s->least * SECOND))),
                 STR(conf_print_time(a, (when)(s->most * SECOND))));
        break;
    case CONF_BYTES:
        buf_addf(out, "From %.*s to %.*s.\n", STR(conf_print_bytes(a, (uint64_t)s->least)),
                 STR(conf_print_bytes(a, (uint64_t)s->most)));
        break;
    case CONF_PERCENT:
        buf_addf(out, "From %g%% to %g%%.\n", s->least * 100, s->most * 100);
        break;
    default:
        buf_addf(out, "From %.0f to %.0f.\n", s->least, s->most);
        break;
    }
}

static void add_setting(struct buf *out, const struct setting *s)
{
    buf_add(out, S(".It Ic \\&"));
    add_text(out, str_z(s->name));
    if (s->form) {
        add_form(out, s->form);
    } else if (s->type == CONF_ENUM) {
        for (int i = 0; s->words[i]; i++) {
            buf_add(out, i ? S(" | Cm \\&") : S(" Cm \\&"));
            add_text(out, str_z(s->words[i]));
        }
    } else {
        add_form(out, type_form(s));
    }
    if (s->sub)
        buf_add(out, S(" No { ... }"));
    buf_addc(out, '\n');
    if (s->help)
        add_sentences(out, str_z(s->help));
    add_range(out, s);
    if (s->required)
        buf_add(out, S("Required.\n"));
    if (s->repeats)
        buf_add(out, S("May be repeated.\n"));
    if (s->preset) {
        str preset = *s->preset ? str_z(s->preset) : str_z(s->name);
        bool words = str_has(preset, S(" ")); /* in quotes: brackets by themselves are punctuation to mdoc */
        buf_add(out, words ? S("Default:\n.Ql \"") : S("Default:\n.Ql "));
        add_text(out, preset);
        buf_add(out, words ? S("\" .\n") : S(" .\n"));
    }
}

/* The blocks come behind the list that they stand in, each with a heading of its own. */
static void add_table(struct buf *out, const struct setting *table, unsigned deep)
{
    buf_add(out, S(".Bl -tag -width Ds\n"));
    for (const struct setting *s = table; s->name; s++)
        add_setting(out, s);
    buf_add(out, S(".El\n"));
    for (const struct setting *s = table; s->name && deep < TABLES_DEEP; s++) {
        if (!s->sub || !s->sub->name)
            continue;
        buf_add(out, S(".Ss "));
        for (const char *p = s->name; *p; p++)
            buf_addc(out, *p >= 'a' && *p <= 'z' ? (char)(*p - 32) : *p);
        buf_addf(out, "\nInside of\n.Ic \\&%s No { ... } :\n", s->name);
        add_table(out, s->sub, deep + 1);
    }
}

void conf_manual(const struct setting *table, struct buf *out) { add_table(out, table, 0); }

void conf_manual_numbers(struct buf *out)
{
    buf_add(out, S(".Bl -tag -width E000x -compact\n"));
    for (uint16_t i = 1; i < 1000; i++) {
        if (!conf_number(i))
            continue;
        buf_addf(out, ".It E%03u\n", i);
        add_sentences(out, str_z(conf_number(i)));
    }
    buf_add(out, S(".El\n"));
}
