/* Tables: list files that are shared and outlive a bad moment of theirs, and the sources that are asked. */
#include "table/file.h"
#include "table/inside.h"

/* A list file that is in memory, for all tables of it. */
struct list {
    struct list *next;
    char *path;                 /* NULL: of a text, and shared by nobody */
    char detail;
    size_t max;
    struct roster *roster;
    unsigned holders;           /* under the lock, as the ring itself */
    bool old;                   /* a later reading has taken its place */
};

struct table { struct list *list; struct remote *remote; /* one of them */ char *kept; /* why the list is an old one; NULL: it is not */ };

static pthread_mutex_t lists_lock = PTHREAD_MUTEX_INITIALIZER;
static struct list *lists;

/* ---- list files ---- */

static struct table *table_of_list(struct list *l)
{
    struct table *t = mem_new(sizeof *t);
    t->list = l;
    return t;
}

static struct list *list_known(str path, char detail, size_t max)
{
    for (struct list *l = lists; l; l = l->next)
        if (!l->old && str_eq(str_z(l->path), path) && l->detail == detail && l->max == max)
            return l;
    return NULL;
}

static struct list *list_hold(str path, char detail, size_t max)
{
    pthread_mutex_lock(&lists_lock);
    struct list *l = list_known(path, detail, max);
    if (l)
        l->holders++;
    pthread_mutex_unlock(&lists_lock);
    return l;
}

static void list_drop(struct list *l)
{
    pthread_mutex_lock(&lists_lock);
    bool last = --l->holders == 0;
    for (struct list **at = &lists; last && l->path && *at; at = &(*at)->next)
        if (*at == l) {
            *at = l->next;
            break;
        }
    pthread_mutex_unlock(&lists_lock);
    if (!last)
        return;
    roster_free(l->roster);
    mem_free(l->path);
    mem_free(l);
}

static struct list *list_put(str path, char detail, size_t max, struct roster *roster)
{
    struct list *l = mem_new(sizeof *l);

    *l = (struct list){ .path = copy_z(path), .detail = detail, .max = max, .roster = roster, .holders = 1 };
    pthread_mutex_lock(&lists_lock);
    struct list *before = list_known(path, detail, max);
    if (before)
        before->old = true;
    l->next = lists;
    lists = l;
    pthread_mutex_unlock(&lists_lock);
    return l;
}

err table_file_open(str path, char detail, size_t max, struct table **ret)
{
    struct list *known = list_hold(path, detail, max);
    struct roster *fresh = NULL;
    err e = OK;

    if (known && !roster_stale(known->roster)) {
        *ret = table_of_list(known);
        return OK;
    }
    e = roster_read(path, detail, max, &fresh);
    if (e == OK && known && roster_count(fresh) == 0 && roster_count(known->roster) > 0) {
        roster_free(fresh);
        e = fail(E_SYNTAX, "%.*s: it has become empty; for a list that is to be empty, start anew", STR(path));
    }
    if (e != OK && !known)
        return e;
    if (e == OK) {
        *ret = table_of_list(list_put(path, detail, max, fresh));
        if (known)
            list_drop(known);
        return OK;
    }
    str why = err_text();
    log_warn("list_kept", LOG_STR("file", path), LOG_INT("entries", roster_count(known->roster)), LOG_STR("reason", err_text()));
    *ret = table_of_list(known);
    (*ret)->kept = copy_z(why);
    return OK;
}

str table_kept(const struct table *t) { return t->kept ? str_z(t->kept) : S(""); }

err table_of_text(str name, struct buf *text, char detail, size_t max, struct table **ret)
{
    struct roster *roster;

    TRY(roster_of_text(name, text, detail, max, &roster));
    struct list *l = mem_new(sizeof *l);
    *l = (struct list){ .detail = detail, .max = max, .roster = roster, .holders = 1 };
    *ret = table_of_list(l);
    return OK;
}

/* ---- all ---- */

struct table *table_of_source(struct source *s)
{
    struct table *t = mem_new(sizeof *t);
    t->remote = remote_hold(s);
    return t;
}

void table_free(struct table *t)
{
    if (!t)
        return;
    if (t->remote)
        remote_drop(t->remote);
    else
        list_drop(t->list);
    mem_free(t->kept);
    mem_free(t);
}

enum found table_ask(struct table *t, const struct path *who, str *value, bool *mute)
{
    *mute = false;
    if (t->list)
        return roster_find(t->list->roster, who, value);
    if (value)
        *value = S("");
    return remote_find(t->remote, who, mute);
}

enum found table_find(struct table *t, const struct path *who, str *value)
{
    bool mute;
    return table_ask(t, who, value, &mute);
}

str table_name(const struct table *t, arena *a)
{
    str source;

    if (t->list)
        return t->list->path ? str_printf(a, "file %s", t->list->path) : S("a list");
    const char *kind = remote_name(t->remote, &source);
    return str_printf(a, "%s %.*s", kind, STR(source));
}

void table_each(const struct table *t, bool (*fn)(void *ctx, str key), void *ctx)
{
    if (t->list)
        roster_each(t->list->roster, fn, ctx);
}

size_t table_count(const struct table *t) { return t->list ? roster_count(t->list->roster) : remote_counts(t->remote).entries; }
bool table_stale(const struct table *t) { return t->list && roster_stale(t->list->roster); }

err table_probe(struct table *t, str address, when deadline, str *name)
{
    size_t at = str_findc(address, '@');

    *name = S("");
    if (!t->remote)
        return OK;
    must(at != STR_NONE);
    return remote_probe(t->remote, &(struct inquiry){ address, str_head(address, at), str_from(address, at + 1) }, deadline, name);
}

struct table_counts table_counts(struct table *t)
{
    return t->remote ? remote_counts(t->remote) : (struct table_counts){ .entries = roster_count(t->list->roster) };
}

/* ---- shared by the sources ---- */

char *copy_z(str s)
{
    char *p = mem_new(s.n + 1);

    if (s.n)
        memcpy(p, s.p, s.n);
    return p;
}

str copy_str(str s) { return str_of(copy_z(s), s.n); }

void key_add(struct buf *key, str part)
{
    buf_addf(key, "%zu:", part.n);
    buf_add(key, part);
}

void key_add_keeping(struct buf *key, const struct keeping *k)
{
    buf_addf(key, "%lld/%lld/%lld/%lld/%llu", (long long)k->cache, (long long)k->negative, (long long)k->stale, (long long)k->timeout,
             (unsigned long long)k->entries);
}
