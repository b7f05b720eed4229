/* A database file, asked by a query with bound parameters: what strangers write is never part of its text (attack class 20). */
#include "table/inside.h"

#include <errno.h>
#include <sqlite3.h>
#include <stdlib.h>
#include <sys/stat.h>

#define THREADS 2
#define STEPS 1000              /* of SQLite's machine between two looks at the clock */

/* A connection; idle ones wait in a list. */
struct db {
    struct db *next;
    sqlite3 *db;
    sqlite3_stmt *query;
    dev_t dev;
    ino_t ino;
    when deadline;
};

struct sqlite {
    struct source source;
    char *path;
    str query;
    struct bench bench;
    pthread_mutex_t lock;
    struct db *idle;
};

static void db_close(struct db *d)
{
    if (!d)
        return;
    sqlite3_finalize(d->query);
    sqlite3_close(d->db);
    mem_free(d);
}

/* Reading, and nothing else: neither another file (ATTACH) nor a library. */
static int may(void *ctx, int action, const char *a, const char *b, const char *c, const char *d)
{
    (void)ctx, (void)a, (void)c, (void)d;
    if (action == SQLITE_FUNCTION)
        return b && sqlite3_stricmp(b, "load_extension") == 0 ? SQLITE_DENY : SQLITE_OK;
    return action == SQLITE_SELECT || action == SQLITE_READ || action == SQLITE_RECURSIVE ? SQLITE_OK : SQLITE_DENY;
}

static int too_long(void *db)
{
    return clock_now() > ((struct db *)db)->deadline;
}

static err told(sqlite3 *db, const char *path) { return fail(E_AGAIN, "%s: %s", path, sqlite3_errmsg(db)); }

static err prepare(struct db *d, const char *path, str query)
{
    const char *rest = NULL;

    if (sqlite3_prepare_v2(d->db, query.p, (int)query.n, &d->query, &rest) != SQLITE_OK || !d->query)
        return d->query ? told(d->db, path) : fail(E_SYNTAX, "%s: %s", path, sqlite3_errmsg(d->db));
    if (str_trim(str_of(rest, query.n - (size_t)(rest - query.p))).n)
        return fail(E_SYNTAX, "more than one statement");
    if (!sqlite3_stmt_readonly(d->query))
        return fail(E_SYNTAX, "the query would write");
    return OK;
}

static err db_open(const char *path, str query, when deadline, struct db **ret)
{
    struct db *d = mem_new(sizeof *d);
    struct stat st = { 0 };
    err e = OK;

    d->deadline = deadline;
    if (stat(path, &st) != 0)
        e = fail_errno(errno, "%s", path);
    d->dev = st.st_dev;
    d->ino = st.st_ino;
    if (e == OK && sqlite3_open_v2(path, &d->db, SQLITE_OPEN_READONLY | SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_PRIVATECACHE, NULL) != SQLITE_OK)
        e = fail(E_AGAIN, "%s: %s", path, d->db ? sqlite3_errmsg(d->db) : "no memory");
    if (e == OK) {
        sqlite3_busy_timeout(d->db, 500);
        sqlite3_progress_handler(d->db, STEPS, too_long, d);
        sqlite3_set_authorizer(d->db, may, NULL);
        sqlite3_db_config(d->db, SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0, NULL);
        e = prepare(d, path, query);
    }
    if (e != OK)
        db_close(d);
    else
        *ret = d;
    return e;
}

static void set(sqlite3_stmt *query, const char *name, str value)
{
    int at = sqlite3_bind_parameter_index(query, name);
    if (at)
        sqlite3_bind_text(query, at, value.p, (int)value.n, SQLITE_STATIC);
}

/* ---- asking ---- */

struct job { struct sqlite *s; const struct inquiry *q; when deadline; enum said said; };

/* An idle connection to what the path means now. */
static struct db *idle_db(struct sqlite *s)
{
    struct stat st;

    pthread_mutex_lock(&s->lock);
    struct db *d = s->idle;
    if (d)
        s->idle = d->next;
    pthread_mutex_unlock(&s->lock);
    if (d && (stat(s->path, &st) != 0 || st.st_ino != d->ino || st.st_dev != d->dev)) {
        db_close(d);
        return NULL;
    }
    return d;
}

static void look(void *arg)
{
    struct job *j = arg;
    struct sqlite *s = j->s;
    struct db *d = idle_db(s);

    j->said = SAID_DOWN;
    if (clock_now() > j->deadline)
        fail(E_TIMEOUT, "%s: no thread was free in time", s->path);
    else if (d || db_open(s->path, s->query, j->deadline, &d) == OK) {
        d->deadline = j->deadline;
        set(d->query, ":address", j->q->address);
        set(d->query, ":local", j->q->local);
        set(d->query, ":domain", j->q->domain);
        int got = sqlite3_step(d->query);
        j->said = got == SQLITE_ROW ? SAID_FOUND : got == SQLITE_DONE ? SAID_ABSENT : SAID_DOWN;
        if (j->said == SAID_DOWN) {
            told(d->db, s->path);
            db_close(d);
            return;
        }
        sqlite3_reset(d->query); /* its lock on the file ends here */
        sqlite3_clear_bindings(d->query);
        pthread_mutex_lock(&s->lock);
        d->next = s->idle;
        s->idle = d;
        pthread_mutex_unlock(&s->lock);
    } else if (d) {
        db_close(d);
    }
}

static enum said sqlite_ask(struct source *source, const struct inquiry *q, when deadline)
{
    struct sqlite *s = (struct sqlite *)(void *)source;
    struct job j = { s, q, deadline, SAID_DOWN };

    bench_run(&s->bench, "sqlite", THREADS, look, &j);
    return j.said;
}

static void sqlite_end(struct source *source)
{
    struct sqlite *s = (struct sqlite *)(void *)source;

    bench_end(&s->bench);
    while (s->idle) {
        struct db *d = s->idle;
        s->idle = d->next;
        db_close(d);
    }
    mem_free((char *)(uintptr_t)source->name.p);
    mem_free((char *)(uintptr_t)source->key.p);
    mem_free((char *)(uintptr_t)s->query.p);
    mem_free(s->path);
    mem_free(s);
}

/* ---- opening ---- */

static err check_parameters(sqlite3_stmt *query)
{
    bool names = false;

    for (int i = 1; i <= sqlite3_bind_parameter_count(query); i++) {
        str name = str_z(sqlite3_bind_parameter_name(query, i));
        bool who = str_eq(name, S(":address")) || str_eq(name, S(":local"));
        if (!who && !str_eq(name, S(":domain")))
            return fail(E_SYNTAX, "the query's parameter \"%.*s\" is none of :address :local :domain", STR(name.n ? name : S("?")));
        names |= who;
    }
    return names ? OK : fail(E_SYNTAX, "neither :address nor :local stands in the query: it would find the same for everybody");
}

struct check { struct sqlite *s; err e; };

static void check(void *arg)
{
    struct check *c = arg;
    struct db *d = NULL;

    c->e = db_open(c->s->path, c->s->query, clock_now() + 5 * SECOND, &d);
    if (c->e == OK)
        c->e = check_parameters(d->query);
    db_close(d);
}

err table_sqlite_open(const struct sqlite_setup *setup, struct table **ret)
{
    AUTO_BUF key = { 0 };
    struct sqlite *s = mem_new(sizeof *s);

    key_add(&key, S("sqlite"));
    key_add(&key, setup->path);
    key_add(&key, setup->query);
    key_add_keeping(&key, &setup->keep);
    *s = (struct sqlite){
        .source = { .kind = "sqlite", .name = copy_str(setup->path), .key = copy_str(buf_str(&key)), .keep = setup->keep, .detail = '+',
                    .at_once = THREADS, .ask = sqlite_ask, .free = sqlite_end },
        .path = copy_z(setup->path), .query = copy_str(setup->query), .bench = BENCH_INIT, .lock = PTHREAD_MUTEX_INITIALIZER,
    };
    struct check c = { s, OK };
    bench_once(check, &c);
    if (c.e != OK) {
        s->source.free(&s->source);
        return c.e;
    }
    *ret = table_of_source(&s->source);
    return OK;
}
