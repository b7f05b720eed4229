/* A tree in the form's own words, with what is not given if wanted; and read back from there. */
#include "conf/conf.h"
#include "conf/parse.h"
#include "conf/show.h"

/* ---- words ---- */

static bool is_bare(const struct token *t)
{
    for (size_t i = 0; i < t->text.n; i++) {
        char c = t->text.p[i];
        if ((unsigned char)c <= ' ' || c == 127 || strchr("\"{};$", c) || (c == '#' && i == 0))
            return false;
        if ((c == '[' || c == ']') && (t->quoted || t->env)) /* else it was an address: [::1]:25 is a word, not a list */
            return false;
    }
    return t->text.n > 0;
}

void conf_add_word(struct buf *out, const struct token *t)
{
    if (t->list) {
        buf_addc(out, '[');
        for (size_t i = 0; i < t->nitem; i++) {
            buf_addc(out, ' ');
            conf_add_word(out, &t->item[i]);
        }
        buf_add(out, S(" ]"));
        return;
    }
    if (is_bare(t)) {
        buf_add(out, t->text);
        return;
    }
    buf_addc(out, '"');
    for (size_t i = 0; i < t->text.n; i++) {
        char c = t->text.p[i];
        if (strchr("\"\\$", c) && c)
            buf_addc(out, '\\');
        buf_addc(out, ascii_control(c) && c != '\t' ? '?' : c); /* no file can hold one */
    }
    buf_addc(out, '"');
}

/* ---- show ---- */

struct shower {
    const struct conf_view *v;
    struct buf where, text;
    bool stopped;
};

static bool has_env(const struct token *t)
{
    bool env = t->env;

    for (size_t i = 0; i < t->nitem; i++)
        env |= t->item[i].env;
    return env;
}

static void say(struct shower *s, unsigned deep, bool end, const struct node *n, bool env)
{
    struct conf_line line = { .where = buf_str(&s->where), .text = buf_str(&s->text), .deep = deep, .end = end, .env = env };

    if (n) {
        line.file = n->name.at.file;
        line.line = n->name.at.line;
    }
    if (!s->stopped)
        s->stopped = !s->v->each(s->v->ctx, &line);
    buf_clear(&s->text);
}

static void show_block(struct shower *s, const struct setting *table, const struct node *block, unsigned deep);

static void add_argument(struct shower *s, arena *a, const struct node *n, size_t arg)
{
    const struct token *t = &n->arg[arg];
    struct token shown = *t;
    const struct path_of *p = s->v->paths ? map_get(s->v->paths, str_of((const char *)&t, sizeof t)) : NULL;

    buf_addc(&s->text, ' ');
    if (p)
        shown.text = p->path;
    else if (!t->list)
        shown.text = conf_public(a, n, arg);
    conf_add_word(&s->text, &shown);
}

/* What tells this block from its sisters. */
static size_t enter(struct shower *s, const struct node *n)
{
    AUTO_ARENA a = arena_new();
    size_t before = s->where.n;

    buf_add(&s->where, str_printable(a, n->name.text));
    if (n->narg && !n->arg[0].list)
        buf_addf(&s->where, " %.*s", STR(str_printable(a, conf_public(a, n, 0))));
    buf_add(&s->where, S(": "));
    return before;
}

static void show_node(struct shower *s, const struct setting *set, const struct node *n, unsigned deep)
{
    AUTO_ARENA a = arena_new();
    bool env = n->name.env;

    conf_add_word(&s->text, &n->name);
    for (size_t i = 0; i < n->narg; i++) {
        add_argument(s, a, n, i);
        env |= has_env(&n->arg[i]);
    }
    if (n->block)
        buf_add(&s->text, S(" {"));
    say(s, deep, false, n, env);
    if (!n->block)
        return;
    size_t before = enter(s, n);
    show_block(s, set ? set->sub : NULL, n, deep + 1);
    s->where.n = before;
    buf_addc(&s->text, '}');
    say(s, deep, true, n, false);
}

static bool has_presets(const struct setting *table)
{
    for (const struct setting *sub = table; sub && sub->name; sub++)
        if (sub->preset)
            return true;
    return false;
}

/* A block that was not given is shown when it is the one of its kind, and its being there means nothing: what stands in it has values all the
 * same. */
static void show_preset(struct shower *s, const struct setting *set, unsigned deep)
{
    if (set->preset) {
        buf_addf(&s->text, *set->preset ? "%s %s" : "%s%s", set->name, set->preset);
        say(s, deep, false, NULL, false);
    } else if (set->type == CONF_BLOCK && !set->repeats && !set->make && has_presets(set->sub)) {
        buf_addf(&s->text, "%s {", set->name);
        say(s, deep, false, NULL, false);
        size_t before = enter(s, &(struct node){ .name.text = str_z(set->name) });
        show_block(s, set->sub, NULL, deep + 1);
        s->where.n = before;
        buf_addc(&s->text, '}');
        say(s, deep, true, NULL, false);
    }
}

static const struct setting *find(const struct setting *table, str name)
{
    for (const struct setting *s = table; s && s->name; s++)
        if (str_eq(name, str_z(s->name)))
            return s;
    return NULL;
}

/* In the order of the table, so that two relays can be compared; then what the table does not know: the block may be read by another one, as that
 * of "route default" is. */
static void show_block(struct shower *s, const struct setting *table, const struct node *block, unsigned deep)
{
    for (const struct setting *set = table; set && set->name && !s->stopped; set++) {
        bool given = false;
        for (size_t i = 0; block && i < block->nchild; i++)
            if (str_eq(block->child[i].name.text, str_z(set->name))) {
                show_node(s, set, &block->child[i], deep);
                given = true;
            }
        if (!given && s->v->presets)
            show_preset(s, set, deep);
    }
    for (size_t i = 0; block && i < block->nchild && !s->stopped; i++)
        if (!find(table, block->child[i].name.text))
            show_node(s, NULL, &block->child[i], deep);
}

void conf_show(const struct setting *table, const struct node *tree, const struct conf_view *v)
{
    struct shower s = { .v = v };

    show_block(&s, table, tree, 0);
    buf_free(&s.where);
    buf_free(&s.text);
}

str conf_origin(arena *a, const struct conf_line *line)
{
    return line->line ? str_printf(a, "%.*s:%u%s", STR(line->file), line->line, line->env ? " and the environment" : "") : S("default");
}

/* ---- read back ---- */

struct origin_of { str file; uint32_t line; bool env; };

void conf_gather(struct gathered *g, const struct conf_line *line)
{
    struct origin_of o = { line->line ? str_dup(g->a, line->file) : S("default"), line->line, line->env };

    if (!g->text.a)
        g->text.a = g->lines.a = g->a;
    buf_add(&g->text, line->text);
    buf_addc(&g->text, '\n');
    buf_add(&g->lines, str_of((const char *)&o, sizeof o));
}

/* "300s" and "5m" are the same. */
static void canonical(arena *a, const struct setting *s, struct node *n)
{
    struct diags d = { .a = a };
    struct binder b = { .a = a, .diags = &d };
    struct token *t = n->arg;
    uint64_t number;
    struct rate rate;
    double share;
    when time;
    bool on;

    if (!s || n->narg != 1 || t->list)
        return;
    if (s->type == CONF_TIME && conf_time(&b, t, &time))
        t->text = conf_print_time(a, time);
    else if (s->type == CONF_BYTES && conf_bytes(&b, t, &number))
        t->text = conf_print_bytes(a, number);
    else if (s->type == CONF_INT && conf_int(&b, t, 0, UINT64_MAX, &number))
        t->text = str_printf(a, "%llu", (unsigned long long)number);
    else if (s->type == CONF_BOOL && conf_bool(&b, t, &on))
        t->text = on ? S("on") : S("off");
    else if (s->type == CONF_PERCENT && conf_percent(&b, t, &share))
        t->text = str_printf(a, "%.17g%%", share * 100);
    else if (s->type == CONF_RATE && conf_rate(&b, t, &rate)) {
        static const struct { when per; const char *unit; } units[] = { { SECOND, "s" }, { MINUTE, "min" }, { HOUR, "h" }, { DAY, "d" } };
        for (size_t i = 0; i < COUNT(units); i++)
            if (rate.per == units[i].per)
                t->text = str_printf(a, "%llu/%s", (unsigned long long)rate.n, units[i].unit);
    } else
        return;
    t->quoted = false;
}

static void place_nodes(const struct gathered *g, const struct setting *table, struct node *block)
{
    const struct origin_of *o = (const struct origin_of *)(const void *)g->lines.p;

    for (size_t i = 0; i < block->nchild; i++) {
        struct node *n = &block->child[i];
        const struct setting *set = find(table, n->name.text);
        must(n->name.at.line >= 2 && n->name.at.line - 2 < g->lines.n / sizeof *o); /* the first line is the version's */
        const struct origin_of *mine = &o[n->name.at.line - 2];
        n->name.at = (struct place){ .file = mine->file, .line = mine->line };
        n->name.env = mine->env;
        canonical(g->a, set, n);
        place_nodes(g, set ? set->sub : NULL, n);
    }
}

err conf_gathered(struct gathered *g, const struct setting *table, struct node *ret)
{
    struct diags d = { .a = g->a };
    str text = str_printf(g->a, "waypost 1\n%.*s", STR(buf_str(&g->text)));
    size_t lines = g->lines.n / sizeof(struct origin_of), ends = 0;

    for (size_t i = 0; i < text.n; i++)
        ends += text.p[i] == '\n';
    TRY(conf_parse_sealed(g->a, S("gathered"), text, ret, &d));
    if (d.errors || ends != lines + 1)
        return fail(E_SYNTAX, "%.*s", STR(d.n ? d.p[0].text : S("a directive of several lines")));
    place_nodes(g, table, ret);
    return OK;
}
