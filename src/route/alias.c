/* Addresses that stand for others: looked up before anything else is asked of a recipient, again and again until none is left. */
#include "route/inside.h"

#define DEEP_MOST 10            /* one leads to another, and that to another, ... */
#define BOUNCE "bounce:"        /* before what is said to who writes there; no local part has a colon */
#define TARGETS_MOST 1000       /* that one address may stand for in the end */

/* ---- settings ---- */

static void take_file(struct binder *b, const struct node *node, void *into)
{
    struct aliases *al = &((struct routes *)into)->aliases;
    str path;
    struct table *t;

    if (!conf_args(b, node, 1, 1) || !conf_path(b, &node->arg[0], &path))
        return;
    if (table_file_open(path, '+', 20000000, &t) != OK) {
        conf_error(b, &node->arg[0].at, CONF_E_BAD_LIST, "%.*s", STR(err_text()));
        return;
    }
    list_kept_warn(b, node, t);
    struct table **all = NEW_ARRAY(b->a, struct table *, al->ntable + 1);
    str *paths = NEW_ARRAY(b->a, str, al->ntable + 1);
    if (al->ntable) {
        memcpy(all, al->table, al->ntable * sizeof *all);
        memcpy(paths, al->path, al->ntable * sizeof *paths);
    }
    all[al->ntable] = t;
    paths[al->ntable++] = path;
    al->table = all;
    al->path = paths;
}

const struct setting alias_settings[] = {
    { .name = "file", .type = CONF_OWN, .take = take_file, .repeats = true, .form = "PATH",
      .help = "A list of addresses and what each stands for: \"sales@example.com ann@example.com, bob@example.net\". On the left an address, @domain (all of "
              "it), a pattern with * or a bare local part (at any relay domain); on the right addresses with commas or blanks between, @domain for the "
              "same local part there, or a bare local part of the same domain. What stands on the right is looked up in turn, except where it stands for itself. "
              "\"old@example.com bounce:TEXT\" refuses mail for it with that text, which may begin with a status code: bounce:5.1.6 moved to ann@example.net." },
    { .name = NULL },
};

void aliases_free(struct aliases *al)
{
    for (size_t i = 0; i < al->ntable; i++)
        table_free(al->table[i]);
}

/* ---- expanding ---- */

struct expansion {
    const struct aliases *al;
    arena *a;
    struct target { str address; unsigned deep; bool final; } *todo; size_t n, cap; /* all ever met: those done stay, to be known again */
    struct map met;             /* their addresses: a stranger's RCPT may be for a list of a thousand */
};

static err add_target(struct expansion *x, str address, unsigned deep)
{
    if (map_get(&x->met, address))
        return OK;
    if (deep > DEEP_MOST)
        return fail(E_LIMIT, "aliases lead on for more than %d steps", DEEP_MOST);
    if (x->n == TARGETS_MOST)
        return fail(E_LIMIT, "an alias stands for more than %d addresses", TARGETS_MOST);
    if (x->n == x->cap) {
        struct target *more = NEW_ARRAY(x->a, struct target, x->cap ? 4 * x->cap : 8);
        if (x->n)
            memcpy(more, x->todo, x->n * sizeof *more);
        x->todo = more;
        x->cap = x->cap ? 4 * x->cap : 8;
    }
    x->todo[x->n++] = (struct target){ address, deep, false };
    map_put(&x->met, address, x);
    return OK;
}

static enum found find(const struct aliases *al, const struct path *who, str *value)
{
    bool undecided = false;

    for (size_t i = 0; i < al->ntable; i++)
        switch (table_find(al->table[i], who, value)) {
        case FOUND:
            return FOUND;
        case UNDECIDED:
            undecided = true;
            break;
        case ABSENT:
            break;
        }
    return undecided ? UNDECIDED : ABSENT;
}

/* One word of the right side, as an address. */
static err target_of(struct expansion *x, str word, const struct path *from, str *ret)
{
    struct path p;

    if (word.p[0] == '@')
        word = str_printf(x->a, "%.*s%.*s", STR(from->local), STR(word));
    else if (str_findc(word, '@') == STR_NONE)
        word = str_printf(x->a, "%.*s@%.*s", STR(word), STR(from->domain));
    TRY(address_parse(word, &p));
    *ret = str_dup(x->a, word);
    return OK;
}

static err add_value(struct expansion *x, str value, const struct path *from, unsigned deep)
{
    char *blanks = str_cz(x->a, value);
    str rest = str_of(blanks, value.n), word;

    for (size_t i = 0; i < value.n; i++)
        if (blanks[i] == ',')
            blanks[i] = ' ';
    while (str_word(&rest, &word)) {
        str to;
        TRY(during(target_of(x, word, from, &to), "alias \"%.*s\"", STR(word)));
        TRY(add_target(x, to, deep));
    }
    return OK;
}

/* All that `who` leads to, as x->todo[...].final (x->n 0: nowhere), and what is said where mail is refused. */
static err follow(struct expansion *x, const struct path *who, str *closed)
{
    TRY(add_target(x, who->text, 0));
    for (size_t i = 0; i < x->n; i++) {
        struct target t = x->todo[i];
        struct path p;
        str value = { 0 };
        TRY(address_parse(t.address, &p));
        enum found found = find(x->al, &p, &value);
        if (found == UNDECIDED)
            return fail(E_AGAIN, "what %.*s stands for cannot be told just now", STR(t.address));
        if (found == ABSENT || value.n == 0) {
            x->todo[i].final = true;
            if (i > 0)
                continue;
            x->n = 0;           /* it stands for nothing but itself */
            return OK;
        }
        if (str_istarts(value, S(BOUNCE))) {
            if (!closed->p)
                *closed = str_trim(str_from(value, sizeof BOUNCE - 1));
            continue;
        }
        TRY(add_value(x, value, &p, t.deep + 1));
        bool itself = false;
        str rest = value, part;
        while (!itself && str_cut(&rest, S(","), &part))
            itself = str_ieq(str_trim(part), t.address);
        x->todo[i].final = itself;
    }
    return OK;
}

err alias_expand(const struct aliases *al, arena *a, const struct path *who, struct strs *ret, str *closed)
{
    struct expansion x = { .al = al, .a = a, .met.fold = true };

    *ret = (struct strs){ 0 };
    *closed = (str){ 0 };
    if (al->ntable == 0)
        return OK;
    err e = follow(&x, who, closed);
    map_free(&x.met);
    TRY(e);
    if (x.n == 0)
        return OK;
    ret->p = NEW_ARRAY(a, str, x.n);
    for (size_t i = 0; i < x.n; i++)
        if (x.todo[i].final)
            ret->p[ret->n++] = x.todo[i].address;
    if (ret->n)
        *closed = (str){ 0 }; /* the others get it */
    return ret->n || closed->p ? OK : fail(E_LIMIT, "aliases lead round and round");
}

/* ---- what is wrong with them ---- */

#define CHECKED_MOST 200000     /* entries of a list: more would make a check wait */
#define TOLD_MOST 5

struct checking { const struct routes *r; str hostname, file; struct diags *d; size_t seen, told; };

static void tell_alias(struct checking *k, str key, str what)
{
    if (k->told++ < TOLD_MOST)
        diag_add(k->d, CONF_WARNING, CONF_E_BAD_LIST, &(struct place){ .file = str_dup(k->d->a, k->file) }, S(""), "\"%.*s\": %.*s", STR(key), STR(what));
}

static bool check_alias(void *ctx, str key)
{
    struct checking *k = ctx;
    size_t at = str_findc(key, '@');
    AUTO_ARENA a = arena_new();
    struct strs all;
    struct path who;
    str closed;

    if (++k->seen > CHECKED_MOST)
        return false;
    if (at == STR_NONE)
        return true; /* at whichever domain */
    key = str_dup(a, key);
    if (!route_domain(k->r, str_from(key, at + 1)) && !str_ieq(str_from(key, at + 1), k->hostname))
        tell_alias(k, key, S("its domain is no relay_domain, so nobody will ask for it"));
    else if (at && address_parse(key, &who) == OK && alias_expand(&k->r->aliases, a, &who, &all, &closed) != OK)
        tell_alias(k, key, str_printf(a, "%.*s: mail for it will be put off with 451", STR(err_text())));
    return true;
}

void aliases_check(const struct routes *r, str hostname, struct diags *d)
{
    for (size_t i = 0; i < r->aliases.ntable; i++) {
        struct checking k = { .r = r, .hostname = hostname, .file = r->aliases.path[i], .d = d };
        table_each(r->aliases.table[i], check_alias, &k);
        if (k.told > TOLD_MOST)
            diag_add(d, CONF_WARNING, CONF_E_BAD_LIST, &(struct place){ .file = str_dup(d->a, k.file) }, S(""), "and so are %zu more of its aliases", k.told - TOLD_MOST);
    }
}
