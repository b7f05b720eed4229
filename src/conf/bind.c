/* Nodes to structs, by table. */
#include "conf/conf.h"
#include "conf/bind.h"
#include "conf/parse.h"

#include <stdio.h>

#define NEAR 2 /* letters that a misspelt name may differ by */
#define TABLES_DEEP 8

void conf_error(struct binder *b, const struct place *at, uint16_t number, const char *fmt, ...)
{
    va_list ap;
    char text[1024];

    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    diag_add(b->diags, CONF_ERROR, number, at, S(""), "%s", text);
}

void conf_warn(struct binder *b, const struct place *at, uint16_t number, const char *fmt, ...)
{
    va_list ap;
    char text[1024];

    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    diag_add(b->diags, CONF_WARNING, number, at, S(""), "%s", text);
}

struct place conf_whole(const struct node *n)
{
    struct place at = n->name.at;
    at.length = 0;
    return at;
}

str conf_form(struct binder *b)
{
    if (!b->now)
        return S("");
    return str_printf(b->a, "write: %s%s%s", b->now->name, b->now->form ? " " : "", b->now->form ? b->now->form : "");
}

static str upper(arena *a, str s)
{
    char *p = arena_alloc(a, s.n);
    for (size_t i = 0; i < s.n; i++)
        p[i] = s.p[i] >= 'a' && s.p[i] <= 'z' ? (char)(s.p[i] - 32) : s.p[i];
    return str_of(p, s.n);
}

/* ---- unknown names ----------------------------------------------------------------------------------------------- */

static const struct setting *find(const struct setting *table, str name)
{
    for (const struct setting *s = table; s && s->name; s++)
        if (str_eq(name, str_z(s->name)))
            return s;
    return NULL;
}

/* The name of `table` that `name` may have meant, NULL when none is near. Half of a short name is another name. */
static const struct setting *nearest(const struct setting *table, str name, size_t *distance)
{
    const struct setting *best = NULL;

    for (const struct setting *s = table; s && s->name; s++) {
        size_t d = str_distance(name, str_z(s->name));
        if (d <= NEAR && d * 2 < MAX(name.n, strlen(s->name)) && d < *distance) {
            *distance = d;
            best = s;
        }
    }
    return best;
}

/* Where else a name stands. */
struct elsewhere {
    const struct setting *best;
    size_t distance;
    str blocks[3];      /* of those as near as `best`; "": outside of any block */
    size_t nblocks;
};

static void look_elsewhere(const struct setting *table, str block, const struct setting *not_in, str name,
                           unsigned deep, struct elsewhere *e)
{
    size_t distance = find(table, name) ? 0 : NEAR + 1;
    const struct setting *s = distance ? nearest(table, name, &distance) : find(table, name);

    if (s && table != not_in && distance <= e->distance) {
        if (!e->best || distance < e->distance) {
            e->best = s;
            e->distance = distance;
            e->nblocks = 0;
        }
        bool known = !str_eq(str_z(s->name), str_z(e->best->name));
        for (size_t i = 0; i < e->nblocks; i++)
            known |= str_eq(e->blocks[i], block);
        if (!known && e->nblocks < COUNT(e->blocks))
            e->blocks[e->nblocks++] = block;
    }
    for (s = table; deep < TABLES_DEEP && s && s->name; s++)
        if (s->sub)
            look_elsewhere(s->sub, str_z(s->name), not_in, name, deep + 1, e);
}

/* Tell an unknown name, with what it may have meant. Returns the setting of `table` that was meant, or NULL. */
static const struct setting *tell_unknown(struct binder *b, const struct setting *table, const struct node *in,
                                          const struct node *n)
{
    struct elsewhere e = { .distance = NEAR + 1 };
    size_t distance = NEAR + 1;
    const struct setting *here = nearest(table, n->name.text, &distance);
    struct buf hint = buf_in(b->a, 120);
    str block = in->name.text, section = block;

    look_elsewhere(b->root, S(""), table, n->name.text, 0, &e);
    if (here && !(e.best && e.distance == 0)) {
        buf_addf(&hint, "did you mean \"%s\"?", here->name);
    } else if (e.best) {
        section = e.blocks[0];
        if (e.distance)
            buf_addf(&hint, "did you mean \"%s\"? ", e.best->name);
        if (!section.n)
            buf_add(&hint, S("that belongs outside of any block"));
        for (size_t i = 0; section.n && i < e.nblocks; i++)
            if (e.blocks[i].n)
                buf_addf(&hint, "%s%.*s", i == 0 ? "that belongs in block " : " or ", STR(e.blocks[i]));
    }
    buf_addf(&hint, "%s(waypost.conf(5)%s%.*s)", hint.n ? "  " : "", section.n ? ", " : "", STR(upper(b->a, section)));
    diag_add(b->diags, CONF_ERROR, CONF_E_UNKNOWN, &n->name.at, buf_str(&hint), "unknown directive \"%.*s\"%s%.*s",
             STR(str_printable(b->a, str_head(n->name.text, 64))), block.n ? " in " : "", STR(block));
    return e.best && e.distance == 0 ? NULL : here;
}

/* ---- one directive ----------------------------------------------------------------------------------------------- */

bool conf_args(struct binder *b, const struct node *n, size_t least, size_t most)
{
    char count[48];

    if (n->narg >= least && n->narg <= most)
        return true;
    if (most == 0)
        snprintf(count, sizeof count, "no argument");
    else if (least == most)
        snprintf(count, sizeof count, "%zu argument%s", least, least == 1 ? "" : "s");
    else if (most == SIZE_MAX)
        snprintf(count, sizeof count, "at least %zu argument%s", least, least == 1 ? "" : "s");
    else
        snprintf(count, sizeof count, "%zu to %zu arguments", least, most);
    const struct place *at = n->narg > most ? &n->arg[most].at : &n->name.at;
    diag_add(b->diags, CONF_ERROR, CONF_E_ARGUMENTS, at, conf_form(b), "%.*s takes %s, here are %zu",
             STR(n->name.text), count, n->narg);
    return false;
}

bool conf_keywords(struct binder *b, const struct node *n, size_t from, const char *const *words,
                   const struct token **value)
{
    bool ok = true;

    for (size_t i = 0; words[i]; i++)
        value[i] = NULL;
    for (size_t i = from; i < n->narg; i += 2) {
        const struct token *t = &n->arg[i];
        struct buf all = buf_in(b->a, 80);
        size_t at = 0;
        while (words[at] && (t->list || t->quoted || !str_eq(t->text, str_z(words[at])))) {
            buf_addf(&all, "%s%s", at == 0 ? "one of: " : ", ", words[at]);
            at++;
        }
        str shown = t->list ? S("[") : str_printable(b->a, str_head(t->text, 64));
        if (!words[at]) {
            diag_add(b->diags, CONF_ERROR, CONF_E_KEYWORD, &t->at, buf_str(&all), "unknown keyword \"%.*s\" in %.*s",
                     STR(shown), STR(n->name.text));
            ok = false;
        } else if (value[at]) {
            conf_error(b, &t->at, CONF_E_KEYWORD, "\"%.*s\" stands twice", STR(shown));
            ok = false;
        } else if (i + 1 == n->narg) {
            diag_add(b->diags, CONF_ERROR, CONF_E_KEYWORD, &t->at, conf_form(b), "\"%.*s\" has no value", STR(shown));
            ok = false;
        } else {
            value[at] = &n->arg[i + 1];
        }
    }
    return ok;
}

/* Tell it when a number is outside of its setting's range. */
static bool in_range(struct binder *b, const struct setting *s, const struct token *t, double n)
{
    str least, most;

    if ((s->least == 0 && s->most == 0) || (n >= s->least && n <= s->most))
        return true;
    switch (s->type) {
    case CONF_TIME: case CONF_TIMES:
        least = conf_print_time(b->a, (when)(s->least * SECOND));
        most = conf_print_time(b->a, (when)(s->most * SECOND));
        break;
    case CONF_BYTES:
        least = conf_print_bytes(b->a, (uint64_t)s->least);
        most = conf_print_bytes(b->a, (uint64_t)s->most);
        break;
    case CONF_PERCENT:
        least = str_printf(b->a, "%g%%", s->least * 100);
        most = str_printf(b->a, "%g%%", s->most * 100);
        break;
    default:
        least = str_printf(b->a, "%.0f", s->least);
        most = str_printf(b->a, "%.0f", s->most);
        break;
    }
    conf_error(b, &t->at, CONF_E_RANGE, "%s %.*s is out of range: %.*s to %.*s", s->name,
               STR(str_printable(b->a, str_head(t->text, 64))), STR(least), STR(most));
    return false;
}

static bool bind_times(struct binder *b, const struct setting *s, const struct node *n, struct times *ret)
{
    size_t most = 0, count = 0;

    for (size_t i = 0; i < n->narg; i++)
        most += n->arg[i].list ? n->arg[i].nitem : 1;
    when *p = NEW_ARRAY(b->a, when, most);
    for (size_t i = 0; i < n->narg; i++) {
        const struct token *t = &n->arg[i];
        const struct token *item = t->list ? t->item : t;
        for (size_t j = 0; j < (t->list ? t->nitem : 1); j++, count++)
            if (!conf_time(b, &item[j], &p[count]) || !in_range(b, s, &item[j], (double)p[count] / SECOND))
                return false;
    }
    if (count == 0) {
        diag_add(b->diags, CONF_ERROR, CONF_E_EMPTY, &n->arg[0].at, conf_form(b), "the list is empty");
        return false;
    }
    *ret = (struct times){ p, count };
    return true;
}

/* Words behind those that earlier directives of that name gave. */
static void bind_strs(struct binder *b, const struct node *n, bool append, struct strs *ret)
{
    struct strs more, all = *ret;

    if (!conf_strs(b, n, 0, &more))
        return;
    if (append && all.n) {
        str *p = NEW_ARRAY(b->a, str, all.n + more.n);
        memcpy(p, all.p, all.n * sizeof *p);
        if (more.n)
            memcpy(p + all.n, more.p, more.n * sizeof *p);
        more = (struct strs){ p, all.n + more.n };
    }
    *ret = more;
}

static bool bind_table(struct binder *b, const struct setting *table, const struct node *node, void *into);

static bool bind_block(struct binder *b, const struct setting *s, const struct node *n, void *into)
{
    void *block = (char *)into + s->offset;

    if (!s->make && !conf_args(b, n, 0, 0))
        return true;
    if (s->make && !(block = s->make(b, n, into)))
        return true;
    bool understood = bind_table(b, s->sub, n, block);
    if (understood && s->done)
        s->done(b, n, block);
    return understood;
}

/* Bind `n` by `s`. `again`: not the first of its name. A wrong value leaves the preset. False: a block that was not
 * understood. */
static bool bind_one(struct binder *b, const struct setting *s, const struct node *n, bool again, void *into)
{
    into = (char *)into + s->base;
    void *field = (char *)into + s->offset;
    const struct token *t = n->arg;
    uint64_t number;
    when length;
    double fraction;
    struct rate rate;

    if (s->type == CONF_BLOCK)
        return bind_block(b, s, n, into);
    if (n->block && !(s->type == CONF_OWN && s->sub)) {
        diag_add(b->diags, CONF_ERROR, CONF_E_NOBLOCK, &n->name.at, conf_form(b), "%s takes no block", s->name);
        return true;
    }
    if (s->type == CONF_OWN) {
        must(s->take);
        (s->take)(b, n, into); /* in brackets: take() is a macro of base.h */
        return true;
    }
    if (!conf_args(b, n, 1, s->type == CONF_TIMES || s->type == CONF_STRS ? SIZE_MAX : 1))
        return true;
    switch (s->type) {
    case CONF_BOOL:
        conf_bool(b, t, field);
        break;
    case CONF_INT:
        if (conf_int(b, t, 0, UINT64_MAX, &number) && in_range(b, s, t, (double)number))
            *(uint64_t *)field = number;
        break;
    case CONF_BYTES:
        if (conf_bytes(b, t, &number) && in_range(b, s, t, (double)number))
            *(uint64_t *)field = number;
        break;
    case CONF_TIME:
        if (conf_time(b, t, &length) && in_range(b, s, t, (double)length / SECOND))
            *(when *)field = length;
        break;
    case CONF_RATE:
        if (conf_rate(b, t, &rate) && in_range(b, s, t, (double)rate.n))
            *(struct rate *)field = rate;
        break;
    case CONF_PERCENT:
        if (conf_percent(b, t, &fraction) && in_range(b, s, t, fraction))
            *(double *)field = fraction;
        break;
    case CONF_STR: conf_str(b, t, field); break;
    case CONF_PATH: conf_path(b, t, field); break;
    case CONF_DOMAIN: conf_domain(b, t, field); break;
    case CONF_ENUM: conf_word(b, t, s->words, field); break;
    case CONF_TIMES: bind_times(b, s, n, field); break;
    case CONF_STRS: bind_strs(b, n, again, field); break;
    case CONF_OWN: case CONF_BLOCK: break; /* above */
    }
    return true;
}

/* ---- a table ----------------------------------------------------------------------------------------------------- */

static void bind_presets(struct binder *b, const struct setting *table, void *into)
{
    for (const struct setting *s = table; s && s->name; s++) {
        if (s->type == CONF_BLOCK && !s->make && !s->preset)
            bind_presets(b, s->sub, (char *)into + s->base + s->offset);
        if (!s->preset)
            continue;
        struct node n;
        conf_parse_line(b->a, str_printf(b->a, "%s %s", s->name, s->preset), &n);
        size_t errors = b->diags->errors;
        b->now = s;
        bind_one(b, s, &n, false, into);
        must(b->diags->errors == errors); /* a preset is ours */
    }
}

void conf_presets(struct binder *b, const struct setting *table, void *into)
{
    const struct setting *now = b->now;

    bind_presets(b, table, into);
    b->now = now;
}

static void tell_twice(struct binder *b, const struct setting *s, const struct node *first, const struct node *n)
{
    diag_add(b->diags, CONF_ERROR, CONF_E_TWICE, &n->name.at, S("it may stand once"),
             "%s is given twice, first at %.*s:%u", s->name, STR(first->name.at.file), first->name.at.line);
}

static void tell_missing(struct binder *b, const struct setting *s, const struct node *node)
{
    struct place at = conf_whole(node);
    struct buf who = buf_in(b->a, 80);

    if (!node->name.text.n) {
        at.line = 0;
        diag_add(b->diags, CONF_ERROR, CONF_E_MISSING, &at, conf_form(b), "there is no \"%s\"", s->name);
        return;
    }
    buf_add(&who, node->name.text);
    if (node->narg && !node->arg[0].list)
        buf_addf(&who, " %.*s", STR(str_printable(b->a, str_head(node->arg[0].text, 64))));
    diag_add(b->diags, CONF_ERROR, CONF_E_MISSING, &at, conf_form(b), "%.*s has no \"%s\"", STR(buf_str(&who)),
             s->name);
}

static bool bind_table(struct binder *b, const struct setting *table, const struct node *node, void *into)
{
    const struct setting *now = b->now;
    bool understood = !node->partial;
    size_t n = 0;

    conf_presets(b, table, into);
    for (const struct setting *s = table; s && s->name; s++)
        n++;
    const struct node **seen = NEW_ARRAY(b->a, const struct node *, n);
    for (size_t i = 0; i < node->nchild; i++) {
        const struct node *c = &node->child[i];
        const struct setting *s = find(table, c->name.text);
        if (!s) {
            s = tell_unknown(b, table, node, c);
            understood = false;
            if (s) /* misspelt, not missing */
                seen[s - table] = c;
            continue;
        }
        const struct node **first = &seen[s - table];
        if (*first && str_eq((*first)->name.text, c->name.text) && !s->repeats) {
            tell_twice(b, s, *first, c);
            continue;
        }
        b->now = s;
        understood &= bind_one(b, s, c, *first != NULL, into);
        if (!*first)
            *first = c;
    }
    for (const struct setting *s = table; s && s->name; s++) {
        must(!s->repeats || s->type == CONF_OWN || s->type == CONF_BLOCK || s->type == CONF_STRS);
        b->now = s;
        if (s->required && !seen[s - table] && !node->partial)
            tell_missing(b, s, node);
    }
    b->now = now;
    return understood;
}

bool conf_bind(struct binder *b, const struct setting *table, const struct node *node, void *into)
{
    const struct setting *root = b->root;

    if (!root)
        b->root = table;
    bool understood = bind_table(b, table, node, into);
    b->root = root;
    return understood;
}
