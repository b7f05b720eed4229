/* What changed between two texts, as their reader would say it. */
#include "conf/conf.h"
#include "conf/show.h"

struct side { const struct node *n; bool used; size_t pair; /* of `now`: its place in `was` */ };

struct diff {
    arena *a;
    void (*each)(void *ctx, const struct conf_change *c);
    void *ctx;
};

static void add_words(struct buf *out, const struct token *t, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (i)
            buf_addc(out, ' ');
        conf_add_word(out, &t[i]);
    }
}

/* A directive's arguments as one line. */
static str words_of(struct diff *d, const struct node *n)
{
    struct buf b = buf_in(d->a, 64);
    add_words(&b, n->arg, n->narg);
    if (n->block)
        buf_addc(&b, '{');
    return buf_str(&b);
}

str conf_words(arena *a, const struct node *n)
{
    struct buf b = buf_in(a, 64);
    conf_add_word(&b, &n->name);
    if (n->narg)
        buf_addc(&b, ' ');
    add_words(&b, n->arg, n->narg);
    if (n->block)
        buf_add(&b, S(" { ... }"));
    return buf_str(&b);
}

/* What tells a directive from its sisters; `whole`: by all its words, else by name and, for a block, its first word. */
static str key_of(struct diff *d, const struct node *n, bool whole)
{
    struct buf b = buf_in(d->a, 64);
    buf_add(&b, n->name.text);
    buf_addc(&b, n->block ? '{' : ' ');
    add_words(&b, n->arg, whole ? n->narg : n->block ? MIN(n->narg, 1) : 0);
    return buf_str(&b);
}

static void tell(struct diff *d, str where, const struct node *was, const struct node *is, bool at_start)
{
    d->each(d->ctx, &(struct conf_change){ .where = where, .was = was, .is = is, .at_start = at_start });
}

/* Pair the unused of both sides by key; of several with one key the first of `was` goes with the first of `now`. */
static void pair(struct diff *d, struct side *was, size_t nwas, struct side *now, size_t nnow, bool whole)
{
    struct queue { size_t *at, n, next; };
    struct map by_key = { 0 };

    for (size_t i = 0; i < nwas; i++) {
        if (was[i].used)
            continue;
        str key = key_of(d, was[i].n, whole);
        struct queue *q = map_get(&by_key, key);
        if (!q) {
            q = NEW(d->a, struct queue);
            map_put(&by_key, key, q);
        }
        if ((q->n & (q->n - 1)) == 0) { /* full: double it */
            size_t *more = NEW_ARRAY(d->a, size_t, q->n ? q->n * 2 : 1);
            if (q->n)
                memcpy(more, q->at, q->n * sizeof *more);
            q->at = more;
        }
        q->at[q->n++] = i;
    }
    for (size_t i = 0; i < nnow; i++) {
        struct queue *q = now[i].used ? NULL : map_get(&by_key, key_of(d, now[i].n, whole));
        if (!q || q->next == q->n)
            continue;
        now[i].pair = q->at[q->next++];
        now[i].used = was[now[i].pair].used = true;
    }
    map_free(&by_key);
}

static struct side *side_of(struct diff *d, const struct node *n)
{
    struct side *s = NEW_ARRAY(d->a, struct side, n->nchild);
    for (size_t i = 0; i < n->nchild; i++)
        s[i].n = &n->child[i];
    return s;
}

/* Sisters of one name that changed places: the order of rules is part of their meaning. */
static void diff_order(struct diff *d, str where, const struct side *now, size_t n)
{
    struct map last = { 0 }; /* name -> 1 + the largest place so far */
    struct map told = { 0 };

    for (size_t i = 0; i < n; i++) {
        str name = now[i].n->name.text;
        if (!now[i].used || map_get(&told, name))
            continue;
        if ((uintptr_t)map_get(&last, name) > now[i].pair) {
            d->each(d->ctx, &(struct conf_change){ .where = where, .is = now[i].n, .order = true });
            map_put(&told, name, d);
        }
        map_put(&last, name, (void *)(uintptr_t)(now[i].pair + 1));
    }
    map_free(&last);
    map_free(&told);
}

static str deeper(struct diff *d, str where, const struct node *n)
{
    struct buf b = buf_in(d->a, 64);

    buf_addf(&b, "%.*s%.*s", STR(where), STR(str_printable(d->a, n->name.text)));
    if (n->narg && !n->arg[0].list)
        buf_addf(&b, " %.*s", STR(str_printable(d->a, n->arg[0].text)));
    buf_add(&b, S(": "));
    return buf_str(&b);
}

/* One that only one side has, and what stands in it; defaults go without saying. */
static void tell_whole(struct diff *d, str where, const struct node *n, bool gone, bool at_start)
{
    if (!n->name.at.line)
        return;
    tell(d, where, gone ? n : NULL, gone ? NULL : n, at_start);
    str inside = n->nchild ? deeper(d, where, n) : S("");
    for (size_t i = 0; i < n->nchild; i++)
        tell_whole(d, inside, &n->child[i], gone, at_start);
}

static const struct setting *find(const struct setting *table, str name)
{
    for (const struct setting *s = table; s && s->name; s++)
        if (str_eq(name, str_z(s->name)))
            return s;
    return NULL;
}

static void diff_block(struct diff *d, const struct setting *table, str where, const struct node *old, const struct node *new, bool at_start)
{
    struct side *was = side_of(d, old), *now = side_of(d, new);

    pair(d, was, old->nchild, now, new->nchild, true);
    pair(d, was, old->nchild, now, new->nchild, false);
    for (size_t i = 0; i < new->nchild; i++) {
        const struct node *n = now[i].n;
        const struct setting *s = find(table, n->name.text);
        bool later = at_start || (s && s->at_start);
        if (!now[i].used) {
            tell_whole(d, where, n, false, later);
            continue;
        }
        const struct node *o = was[now[i].pair].n;
        if (!str_eq(words_of(d, o), words_of(d, n)))
            tell(d, where, o, n, later);
        if (n->block)
            diff_block(d, s ? s->sub : NULL, deeper(d, where, n), o, n, later);
    }
    for (size_t i = 0; i < old->nchild; i++)
        if (!was[i].used) {
            const struct setting *s = find(table, was[i].n->name.text);
            tell_whole(d, where, was[i].n, true, at_start || (s && s->at_start));
        }
    diff_order(d, where, now, new->nchild);
}

void conf_changes(arena *a, const struct setting *table, const struct node *old, const struct node *now,
                  void (*each)(void *ctx, const struct conf_change *c), void *ctx)
{
    struct diff d = { a, each, ctx };
    diff_block(&d, table, S(""), old, now, false);
}

struct lines { arena *a; struct buf *out; };

static void add_line(struct lines *l, char sign, const struct conf_change *c, const struct node *n)
{
    struct conf_line at = { .file = n->name.at.file, .line = n->name.at.line, .env = n->name.env };

    buf_addf(l->out, "%c %.*s%.*s  # %.*s%s\n", sign, STR(c->where), STR(conf_words(l->a, n)), STR(conf_origin(l->a, &at)),
             c->at_start ? "; at the next start" : "");
}

static void add_change(void *lines, const struct conf_change *c)
{
    struct lines *l = lines;

    if (c->order) {
        buf_addf(l->out, "~ %.*s%.*s: the order changed  # %.*s:%u\n", STR(c->where), STR(str_printable(l->a, c->is->name.text)),
                 STR(c->is->name.at.file), c->is->name.at.line);
        return;
    }
    if (c->was)
        add_line(l, '-', c, c->was);
    if (c->is)
        add_line(l, '+', c, c->is);
}

void conf_diff(arena *a, const struct setting *table, const struct node *old, const struct node *now, struct buf *out)
{
    struct lines l = { a, out };
    conf_changes(a, table, old, now, add_change, &l);
}
