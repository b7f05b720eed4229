/* What changed between two texts, as their reader would say it. */
#include "conf/conf.h"

struct side { const struct node *n; bool used; size_t pair; /* of `now`: its place in `was` */ };

struct diff {
    arena *a;
    struct buf *out;
};

static void add_words(struct diff *d, struct buf *out, const struct token *t, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (i)
            buf_addc(out, ' ');
        if (t[i].list) {
            buf_add(out, S("[ "));
            add_words(d, out, t[i].item, t[i].nitem);
            buf_add(out, S(" ]"));
        } else if (t[i].quoted) {
            buf_add_json(out, t[i].text);
        } else {
            buf_add(out, str_printable(d->a, t[i].text));
        }
    }
}

/* A directive's arguments as one line. */
static str words_of(struct diff *d, const struct node *n)
{
    struct buf b = buf_in(d->a, 64);
    add_words(d, &b, n->arg, n->narg);
    if (n->block && n->narg)
        buf_addc(&b, ' ');
    if (n->block)
        buf_add(&b, S("{ ... }"));
    return buf_str(&b);
}

/* What tells a directive from its sisters; `whole`: by all its words, else by name and, for a block, its first word. */
static str key_of(struct diff *d, const struct node *n, bool whole)
{
    struct buf b = buf_in(d->a, 64);
    buf_add(&b, n->name.text);
    buf_addc(&b, n->block ? '{' : ' ');
    add_words(d, &b, n->arg, whole ? n->narg : n->block ? MIN(n->narg, 1) : 0);
    return buf_str(&b);
}

static void say(struct diff *d, str where, const struct node *n, str was, str is)
{
    str name = str_printable(d->a, n->name.text);
    buf_addf(d->out, "%.*s%.*s: %.*s -> %.*s  (%.*s:%u)\n", STR(where), STR(name), STR(was), STR(is),
             STR(n->name.at.file), n->name.at.line);
}

static str shown(struct diff *d, const struct node *n) { return n->narg || n->block ? words_of(d, n) : S("set"); }

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
            buf_addf(d->out, "%.*s%.*s: order changed  (%.*s:%u)\n", STR(where), STR(str_printable(d->a, name)),
                     STR(now[i].n->name.at.file), now[i].n->name.at.line);
            map_put(&told, name, d);
        }
        map_put(&last, name, (void *)(uintptr_t)(now[i].pair + 1));
    }
    map_free(&last);
    map_free(&told);
}

static void diff_block(struct diff *d, str where, const struct node *old, const struct node *new)
{
    struct side *was = side_of(d, old), *now = side_of(d, new);

    pair(d, was, old->nchild, now, new->nchild, true);
    pair(d, was, old->nchild, now, new->nchild, false);
    for (size_t i = 0; i < new->nchild; i++) {
        const struct node *n = now[i].n;
        if (!now[i].used) {
            say(d, where, n, S("(not set)"), shown(d, n));
            continue;
        }
        const struct node *o = was[now[i].pair].n;
        str before = shown(d, o), after = shown(d, n);
        if (!str_eq(before, after))
            say(d, where, n, before, after);
        if (n->block) {
            struct buf deeper = buf_in(d->a, 64);
            buf_addf(&deeper, "%.*s%.*s", STR(where), STR(str_printable(d->a, n->name.text)));
            if (n->narg && !n->arg[0].list)
                buf_addf(&deeper, " %.*s", STR(str_printable(d->a, n->arg[0].text)));
            buf_add(&deeper, S(": "));
            diff_block(d, buf_str(&deeper), o, n);
        }
    }
    for (size_t i = 0; i < old->nchild; i++)
        if (!was[i].used)
            say(d, where, was[i].n, shown(d, was[i].n), S("(not set)"));
    diff_order(d, where, now, new->nchild);
}

void conf_diff(arena *a, const struct node *old, const struct node *now, struct buf *out)
{
    struct diff d = { a, out };
    diff_block(&d, S(""), old, now);
}
