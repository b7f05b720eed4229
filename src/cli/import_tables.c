/* Postfix' look-up tables, read from the text they are made of; and findings. */
#include "cli/import.h"

#include <stdio.h>
#include <stdlib.h>

#define TABLES_DEEP 4           /* proxy:, unionmap: within one another */

/* ---- findings ---- */

static void add_finding(struct postfix_conf *c, str file, unsigned line, str name, enum became became, const char *fmt, va_list args)
{
    char text[1024];
    int n = vsnprintf(text, sizeof text, fmt, args);

    GROW(c->a, c->findings.p, c->findings.n, c->findings.cap);
    c->findings.p[c->findings.n] = (struct finding){
        file, line, str_dup(c->a, name), became, str_dup(c->a, str_of(text, MIN((size_t)MAX(n, 0), sizeof text - 1))), c->findings.n,
    };
    c->findings.n++;
}

void pf_find_at(struct postfix_conf *c, str file, unsigned line, str name, enum became became, const char *fmt, ...)
{
    va_list args;

    va_start(args, fmt);
    add_finding(c, file, line, name, became, fmt, args);
    va_end(args);
}

void pf_find(struct postfix_conf *c, const char *name, enum became became, const char *fmt, ...)
{
    struct pf_param *p = map_get(&c->by_name, str_z(name));
    va_list args;

    if (p)
        p->told = true;
    va_start(args, fmt);
    add_finding(c, p ? p->file : S(""), p ? p->line : 0, str_z(name), became, fmt, args);
    va_end(args);
}

/* ---- a table's text ---- */

static bool is_blank(char c) { return c == ' ' || c == '\t'; }

const struct pf_entry *pf_look(const struct pf_table *t, str key)
{
    char low[512];
    size_t from = 0, to = t->n;

    if (key.n > sizeof low)
        return NULL;
    for (size_t i = 0; i < key.n; i++)
        low[i] = ascii_lower(key.p[i]);
    key = str_of(low, key.n);
    while (from < to) {
        size_t middle = from + (to - from) / 2;
        if (str_cmp(t->sorted[middle]->key, key) < 0)
            from = middle + 1;
        else
            to = middle;
    }
    return from < t->n && str_eq(t->sorted[from]->key, key) ? t->sorted[from] : NULL;
}

static void add_entry(struct postfix_conf *c, struct pf_table *t, str key, str value, str file, unsigned line)
{
    if (key.n == 0) {
        pf_find_at(c, file, line, S(""), NOT_TRANSLATED, "an entry without a key");
        return;
    }
    GROW(c->a, t->entry, t->n, t->cap);
    t->entry[t->n++] = (struct pf_entry){ str_lower(c->a, key), value, file, line };
}

static int by_key(const void *a, const void *b)
{
    const struct pf_entry *const *x = a, *const *y = b;
    int order = str_cmp((*x)->key, (*y)->key);
    return order ? order : (*x > *y) - (*x < *y);       /* the first of equals counts */
}

/* Entries move while the table grows, so names are found in it when it is whole. */
static void index_table(struct postfix_conf *c, struct pf_table *t)
{
    t->sorted = NEW_ARRAY(c->a, const struct pf_entry *, MAX(t->n, 1));
    for (size_t i = 0; i < t->n; i++)
        t->sorted[i] = &t->entry[i];
    if (t->n)
        qsort(t->sorted, t->n, sizeof *t->sorted, by_key);
}

/* "key value", "key: value" of aliases(5); a key may be quoted. */
static bool split_entry(str line, enum pf_form form, str *key, str *value)
{
    size_t i = 0;
    bool quoted = line.n && line.p[0] == '"';

    for (i = quoted; i < line.n; i++) {
        if (line.p[i] == '\\' && i + 1 < line.n)
            i++;
        else if (quoted ? line.p[i] == '"' : is_blank(line.p[i]) || (form == PF_ALIASES && line.p[i] == ':'))
            break;
    }
    *key = quoted ? str_of(line.p + 1, i - 1) : str_head(line, i);
    if (quoted && i < line.n) { /* "b b"@example.com: kept as it is written */
        size_t end = i + 1;
        while (end < line.n && !is_blank(line.p[end]) && !(form == PF_ALIASES && line.p[end] == ':'))
            end++;
        if (end > i + 1)
            *key = str_head(line, end);
        i = end;
    }
    *value = str_trim(str_from(line, i));
    if (form == PF_ALIASES && value->n && value->p[0] == ':')
        *value = str_trim(str_from(*value, 1));
    return key->n && value->n;
}

void pf_read_table(struct postfix_conf *c, str file, str text, enum pf_form form, struct pf_table *into)
{
    unsigned number = 0, first = 0;
    str rest = text;
    struct buf logical = { .a = c->a };

    for (bool more = true; more;) {
        str line = { 0 };
        more = rest.p && rest.n;
        if (more) {
            str_cut(&rest, S("\n"), &line);
            number++;
        }
        str trimmed = str_trim(line);
        if (more && (trimmed.n == 0 || trimmed.p[0] == '#'))
            continue;
        if (more && is_blank(line.p[0]) && logical.n) {
            buf_addc(&logical, ' ');
            buf_add(&logical, trimmed);
            continue;
        }
        if (logical.n) {
            str key, value, whole = str_dup(c->a, buf_str(&logical));
            if (form == PF_CIDR && (str_istarts(whole, S("if ")) || str_ieq(whole, S("endif")))) {
                pf_find_at(c, file, first, str_head(whole, 60), NOT_TRANSLATED, "if and endif are not understood: what they enclose is taken as if they were not there");
                into->partial = true;
            } else if (split_entry(whole, form, &key, &value))
                add_entry(c, into, key, value, file, first);
            else
                pf_find_at(c, file, first, str_head(whole, 60), NOT_TRANSLATED, "this is no entry of a table");
        }
        buf_clear(&logical);
        buf_add(&logical, trimmed);
        first = number;
    }
    index_table(c, into);
}

/* ---- what a value names ---- */

static void read_one(struct postfix_conf *c, const char *name, str table, struct pf_table *ret, unsigned deep);

/* inline:{ key = value, { key = text with blanks } } */
static void read_inline(struct postfix_conf *c, const char *name, str text, struct pf_table *ret)
{
    const struct pf_param *p = map_get(&c->by_name, str_z(name));
    str word;

    while (pf_word(&text, &word)) {
        size_t eq = str_findc(word, '=');
        if (eq == STR_NONE)
            pf_find(c, name, NOT_TRANSLATED, "\"%.*s\" in inline: is no key=value", STR(word));
        else
            add_entry(c, ret, str_trim(str_head(word, eq)), str_trim(str_from(word, eq + 1)), p ? p->file : S(""), p ? p->line : 0);
    }
}

static void read_passwd(struct postfix_conf *c, const char *name, struct pf_table *ret)
{
    str text, line, file = pf_path(c, S("/etc/passwd"));
    unsigned number = 0;

    if (pf_text(c, file, &text) != OK) {
        ret->partial = true;
        pf_find(c, name, DECIDE, "the users of that machine are not known (%.*s)", STR(err_text()));
        return;
    }
    while (str_cut(&text, S("\n"), &line)) {
        number++;
        if (line.n && line.p[0] != '#' && str_findc(line, ':') != STR_NONE)
            add_entry(c, ret, str_head(line, str_findc(line, ':')), S("user"), file, number);
    }
    pf_find(c, name, PARTLY, "the users of %.*s as they are now", STR(file));
}

static void not_read(struct postfix_conf *c, const char *name, struct pf_table *ret, str table, const char *why)
{
    ret->partial = true;
    pf_find(c, name, NOT_TRANSLATED, "%.*s: %s", STR(table), why);
}

static void read_text_table(struct postfix_conf *c, const char *name, str table, str path, enum pf_form form, struct pf_table *ret)
{
    str text;
    path = pf_path(c, path);
    if (pf_text(c, path, &text) != OK)
        not_read(c, name, ret, table, str_cz(c->a, str_printf(c->a, "the text it is made of cannot be read (%.*s)", STR(err_text()))));
    else
        pf_read_table(c, path, text, form, ret);
}

static void read_one(struct postfix_conf *c, const char *name, str table, struct pf_table *ret, unsigned deep)
{
    static const char *const texts[] = { "hash", "texthash", "lmdb", "cdb", "btree", "dbm", "sdbm" };
    size_t colon = str_findc(table, ':');
    str type = str_head(table, MIN(colon, table.n)), path = colon == STR_NONE ? S("") : str_from(table, colon + 1), rest, word;

    for (size_t i = 0; i < COUNT(texts); i++)
        if (str_eq(type, str_z(texts[i]))) {
            enum pf_form form = str_eq(str_z(name), S("alias_maps")) || str_has(str_lower(c->a, path), S("aliases")) ? PF_ALIASES : PF_HASH;
            read_text_table(c, name, table, path, form, ret);
            return;
        }
    if (deep > TABLES_DEEP)
        not_read(c, name, ret, table, "tables within tables, too deep");
    else if (str_eq(type, S("proxy")))
        read_one(c, name, path, ret, deep + 1);
    else if (str_eq(type, S("unionmap")) || str_eq(type, S("pipemap"))) {
        not_read(c, name, ret, table, "not translated but for the tables it joins");
        rest = path.n >= 2 && path.p[0] == '{' ? str_of(path.p + 1, path.n - 2) : path;
        while (str_eq(type, S("unionmap")) && pf_word(&rest, &word))
            read_one(c, name, word, ret, deep + 1);
    } else if (str_eq(type, S("inline")))
        read_inline(c, name, path.n >= 2 && path.p[0] == '{' ? str_of(path.p + 1, path.n - 2) : path, ret);
    else if (str_eq(type, S("static")))
        ret->anything = ret->anything.p ? ret->anything : path.n && path.p[0] == '{' ? str_of(path.p + 1, MAX(path.n, 2) - 2) : path;
    else if (str_eq(type, S("cidr")))
        read_text_table(c, name, table, path, PF_CIDR, ret);
    else if (str_eq(type, S("unix")) && str_starts(path, S("passwd")))
        read_passwd(c, name, ret);
    else if (str_eq(type, S("regexp")) || str_eq(type, S("pcre")))
        not_read(c, name, ret, table, "regular expressions are not translated: waypost's lists know addresses, @domain and *");
    else if (str_eq(type, S("ldap")) || str_eq(type, S("mysql")) || str_eq(type, S("pgsql")) || str_eq(type, S("sqlite")) || str_eq(type, S("mongodb")))
        not_read(c, name, ret, table, "not asked; for who exists see ldap, sqlite and http in \"recipients\" (waypost.conf(5))");
    else if (colon == STR_NONE)
        pf_find(c, name, NOT_TRANSLATED, "\"%.*s\" is no table (type:name)", STR(table));
    else
        not_read(c, name, ret, table, "tables of this type are not read");
}

void pf_tables(struct postfix_conf *c, const char *name, str value, struct pf_table *ret)
{
    str rest = value, word;

    *ret = (struct pf_table){ 0 };
    while (pf_word(&rest, &word))
        read_one(c, name, word, ret, 0);
    index_table(c, ret);
}

/* ---- names ---- */

static void names_of(struct postfix_conf *c, const char *name, str value, str file, unsigned line, struct pf_table *ret, unsigned deep)
{
    str rest = value, word, text, one;

    while (pf_word(&rest, &word)) {
        if (word.n == 0)
            continue;
        if (word.p[0] == '/' && deep < TABLES_DEEP) {   /* a file of names (postconf(5), mydestination) */
            unsigned number = 0;
            str path = pf_path(c, word);
            if (pf_text(c, path, &text) != OK) {
                not_read(c, name, ret, word, str_cz(c->a, str_dup(c->a, err_text())));
                continue;
            }
            while (str_cut(&text, S("\n"), &one)) {
                number++;
                size_t hash = str_findc(one, '#');
                names_of(c, name, str_trim(str_head(one, MIN(hash, one.n))), path, number, ret, deep + 1);
            }
            continue;
        }
        size_t colon = str_findc(word, ':');
        bool table = colon != STR_NONE && colon > 0 && word.p[0] != '[' && word.p[0] != '!' && !ascii_digit(word.p[0]) && str_findc(str_from(word, colon + 1), ':') == STR_NONE;
        if (table || str_starts(word, S("inline:")) || str_starts(word, S("proxy:")) || str_starts(word, S("static:")))
            read_one(c, name, word, ret, 0);
        else
            add_entry(c, ret, word, S(""), file, line);
    }
}

void pf_names(struct postfix_conf *c, const char *name, struct pf_table *ret)
{
    const struct pf_param *p = map_get(&c->by_name, str_z(name));

    *ret = (struct pf_table){ 0 };
    names_of(c, name, pf_value(c, name), p ? p->file : S(""), p ? p->line : 0, ret, 0);
    index_table(c, ret);
}
