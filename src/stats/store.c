/* The store's thread: what the rings were given goes to disk, a few times a second, one transaction at a time. */
#include "stats/store_db.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/statvfs.h>
#include <time.h>

#define EVERY (250 * MILLISECOND)
#define FLUSH_MOST (2 * SECOND)         /* who asks waits so long for what is on its way */
#define OPEN_AGAIN MINUTE
#define TELL_AGAIN MINUTE
#define PURGE_EVERY (10 * SECOND)
#define PURGE_PIECE 1000
#define PURGE_PIECES 50                 /* at a time: then events have their turn */
#define REFUSED_MOST 100                /* refusals a second: strangers make them, and they shall not push mail's stories out */

struct store {
    char dir[1024], path[1100];
    uint64_t keep_free;
    _Atomic int64_t retention;
    _Atomic uint64_t max_bytes;
    pthread_t thread;
    struct pool *pool;
    pthread_mutex_t lock;               /* of the four below */
    pthread_cond_t poke, done;
    bool ends;
    uint64_t asked, answered;           /* flushes */
    pthread_mutex_t reading;            /* of the handle that questions are put to */
    struct store_db *reader;
    /* the thread's own */
    struct store_db *db;
    when open_again, tell_again, purge_at, refused_since;
    unsigned refused;
    _Atomic uint64_t written, dropped, purged, bytes;
    _Atomic bool broken;
};

/* ---- the file ---- */

static void complain(struct store *st, const char *event)
{
    st->broken = true;
    if (clock_now() < st->tell_again)
        return;
    st->tell_again = clock_now() + TELL_AGAIN;
    log_warn(event, LOG_Z("file", st->path), LOG_STR("reason", err_text()), LOG_INT("dropped", st->dropped));
}

static void set_aside(struct store *st)
{
    static const char *const tails[] = { "", "-wal", "-shm" };
    char from[1200], to[1200];

    log_error("trace_store_damaged", LOG_Z("file", st->path), LOG_STR("reason", err_text()), LOG_Z("what", "set aside as .damaged; a new one is begun"));
    for (size_t i = 0; i < COUNT(tails); i++) {
        snprintf(from, sizeof from, "%s%s", st->path, tails[i]);
        snprintf(to, sizeof to, "%s.damaged%s", st->path, tails[i]);
        rename(from, to);
    }
    pthread_mutex_lock(&st->reading);
    if (st->reader)
        store_db_close(take(st->reader));
    pthread_mutex_unlock(&st->reading);
}

static err open_file(struct store *st)
{
    err e = store_db_open(st->path, false, &st->db);

    if (e == E_DAMAGED) {
        set_aside(st);
        e = store_db_open(st->path, false, &st->db);
    }
    if (e == OK)
        st->bytes = store_db_bytes(st->db);
    return e;
}

/* The disk is the spool's first. */
static err room(const struct store *st)
{
    struct statvfs fs;

    if (statvfs(st->dir, &fs) == 0 && (uint64_t)fs.f_bavail * fs.f_frsize < st->keep_free)
        return fail(E_NOSPACE, "no room on the file system that the spool does not need");
    return OK;
}

/* ---- writing ---- */

struct batch { struct buf *piece; size_t n; uint64_t events; };

static struct batch gather(struct store *st)
{
    struct batch b = { 0 };

    for (struct thread_cell *c = cells_first(); c; c = c->next) {
        struct buf got = { 0 };
        pthread_mutex_lock(&c->lock);
        got = c->pending;
        c->pending = (struct buf){ 0 };
        uint64_t lost = c->lost;
        c->lost = 0;
        pthread_mutex_unlock(&c->lock);
        st->dropped += lost;
        if (got.n) {
            b.piece = mem_grow(b.piece, (b.n + 1) * sizeof *b.piece);
            b.piece[b.n++] = got;
        } else {
            buf_free(&got);
        }
    }
    return b;
}

static bool too_many_refusals(struct store *st, const struct stored *s)
{
    if (s->kind != EVENT_REFUSED)
        return false;
    if (clock_now() - st->refused_since >= SECOND) {
        st->refused_since = clock_now();
        st->refused = 0;
    }
    return ++st->refused > REFUSED_MOST;
}

static err write_batch(struct store *st, const struct batch *b, uint64_t *written)
{
    TRY(room(st));
    TRY(store_db_begin(st->db));
    for (size_t i = 0; i < b->n; i++)
        for (size_t at = 0; at < b->piece[i].n;) {
            const struct stored *s = (const void *)(b->piece[i].p + at);
            at += s->size;
            if (too_many_refusals(st, s))
                continue;
            TRY(store_db_add(st->db, s));
            ++*written;
        }
    return store_db_commit(st->db);
}

static uint64_t count(const struct batch *b)
{
    uint64_t n = 0;

    for (size_t i = 0; i < b->n; i++)
        for (size_t at = 0; at < b->piece[i].n; at += ((const struct stored *)(const void *)(b->piece[i].p + at))->size)
            n++;
    return n;
}

static void file_failed(struct store *st, err e)
{
    if (st->db)
        store_db_rollback(st->db);
    if (e == E_DAMAGED && st->db) {
        store_db_close(take(st->db));
        set_aside(st);
        st->open_again = 0;
    }
}

static bool is_open(struct store *st)
{
    if (st->db || clock_now() < st->open_again)
        return st->db;
    if (open_file(st) == OK)
        return true;
    st->open_again = clock_now() + OPEN_AGAIN;
    complain(st, "trace_store_unusable");
    return false;
}

static void write_some(struct store *st)
{
    struct batch b = gather(st);
    uint64_t n = b.n ? count(&b) : 0, written = 0;

    if (b.n) {
        err e = is_open(st) ? write_batch(st, &b, &written) : E_IO;
        if (e == OK) {
            st->written += written;
            st->dropped += n - written;
            st->broken = false;
        } else {
            st->dropped += n;
            if (st->db)
                complain(st, "trace_not_stored");
            file_failed(st, e);
        }
    }
    for (size_t i = 0; i < b.n; i++)
        buf_free(&b.piece[i]);
    mem_free(b.piece);
}

/* ---- forgetting ---- */

/* One piece of what is too old, or too much; false when there is nothing (more) to do. */
static bool purge_piece(struct store *st)
{
    uint64_t most = st->max_bytes, n = 0;
    when before = st->retention ? wall_now() - st->retention : 0;
    uint64_t bytes = store_db_bytes(st->db);
    bool full = bytes > most - most / 10;

    st->bytes = bytes;
    if (store_db_begin(st->db) != OK || store_db_purge(st->db, full ? NEVER : before, PURGE_PIECE, &n) != OK || store_db_commit(st->db) != OK) {
        complain(st, "trace_not_purged");
        file_failed(st, E_IO);
        return false;
    }
    st->purged += n;
    return n > 0;
}

static void purge(struct store *st)
{
    uint64_t most = st->max_bytes;

    if (!st->db || (clock_now() < st->purge_at && st->bytes <= most - most / 10))
        return;
    st->purge_at = clock_now() + PURGE_EVERY;
    for (int i = 0; i < PURGE_PIECES && purge_piece(st); i++)
        ;
    st->bytes = store_db_bytes(st->db);
}

/* ---- the thread ---- */

static void *writer(void *store)
{
    struct store *st = store;
    bool ends = false;

    pthread_setname_np(pthread_self(), "trace");
    while (!ends) {
        when now = clock_now() + EVERY;
        struct timespec until = { .tv_sec = now / SECOND, .tv_nsec = now % SECOND * 1000 };
        pthread_mutex_lock(&st->lock);
        if (!st->ends && st->asked == st->answered)
            pthread_cond_timedwait(&st->poke, &st->lock, &until);
        uint64_t asked = st->asked;
        ends = st->ends;
        pthread_mutex_unlock(&st->lock);
        write_some(st);
        pthread_mutex_lock(&st->lock);
        st->answered = asked;
        pthread_cond_broadcast(&st->done);
        pthread_mutex_unlock(&st->lock);
        if (st->db)
            st->bytes = store_db_bytes(st->db);
        purge(st);
    }
    return NULL;
}

err store_open(const struct trace_settings *s, uint64_t keep_free, struct store **ret)
{
    struct store *st = mem_new(sizeof *st);
    pthread_condattr_t attr;

    snprintf(st->dir, sizeof st->dir, "%.*s", STR(s->dir));
    snprintf(st->path, sizeof st->path, "%s/trace.db", st->dir);
    st->keep_free = keep_free;
    store_configure(st, s);
    pthread_mutex_init(&st->lock, NULL);
    pthread_mutex_init(&st->reading, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&st->poke, &attr);
    pthread_cond_init(&st->done, &attr);
    pthread_condattr_destroy(&attr);
    err e = open_file(st);
    if (e != OK) { /* it may come to be usable: a disk gets room */
        st->open_again = clock_now() + OPEN_AGAIN;
        complain(st, "trace_store_unusable");
    }
    st->pool = pool_start("trace-find", 1);
    if (pthread_create(&st->thread, NULL, writer, st) != 0) {
        pool_stop(st->pool);
        if (st->db)
            store_db_close(st->db);
        mem_free(st);
        return fail(E_NOSPACE, "no thread for the trace store");
    }
    atomic_store(&events_stored, true);
    *ret = st;
    return OK;
}

void store_configure(struct store *st, const struct trace_settings *s)
{
    st->retention = s->retention;
    st->max_bytes = s->max_bytes;
}

void store_close(struct store *st)
{
    atomic_store(&events_stored, false);
    pthread_mutex_lock(&st->lock);
    st->ends = true;
    pthread_cond_signal(&st->poke);
    pthread_mutex_unlock(&st->lock);
    pthread_join(st->thread, NULL);
    pool_stop(st->pool);
    if (st->reader)
        store_db_close(st->reader);
    if (st->db)
        store_db_close(st->db);
    pthread_cond_destroy(&st->poke);
    pthread_cond_destroy(&st->done);
    pthread_mutex_destroy(&st->lock);
    pthread_mutex_destroy(&st->reading);
    mem_free(st);
}

struct store_counts store_counts(struct store *st)
{
    return (struct store_counts){ .written = st->written, .dropped = st->dropped, .purged = st->purged, .bytes = st->bytes, .broken = st->broken };
}

/* ---- questions: on a thread of their own ---- */

static void flush(struct store *st)
{
    when deadline = clock_now() + FLUSH_MOST;
    struct timespec until = { .tv_sec = deadline / SECOND, .tv_nsec = deadline % SECOND * 1000 };

    pthread_mutex_lock(&st->lock);
    uint64_t mine = ++st->asked;
    pthread_cond_signal(&st->poke);
    while (st->answered < mine && pthread_cond_timedwait(&st->done, &st->lock, &until) == 0)
        ;
    pthread_mutex_unlock(&st->lock);
}

struct question {
    struct store *st;
    arena *a;
    str text;
    size_t most, *n;
    ulid **ids;
    const ulid *id; size_t nid;
    struct event *found; size_t nfound, cap;
    err result;
};

static void keep_event(void *ctx, const struct event *e)
{
    struct question *q = ctx;

    if (q->nfound == q->cap) {
        q->cap = q->cap ? q->cap * 2 : 64;
        q->found = mem_grow(q->found, q->cap * sizeof *q->found);
    }
    q->found[q->nfound++] = *e;
}

static void answer(void *question)
{
    struct question *q = question;
    struct store *st = q->st;

    flush(st);
    pthread_mutex_lock(&st->reading);
    q->result = st->reader ? OK : store_db_open(st->path, true, &st->reader);
    if (q->result == OK && q->ids)
        q->result = store_db_search(st->reader, q->a, q->text, q->most, q->ids, q->n);
    for (size_t i = 0; q->result == OK && i < q->nid; i++)
        q->result = store_db_find(st->reader, q->a, q->id[i], keep_event, q);
    if (q->result != OK && q->result != E_TIMEOUT && st->reader)
        store_db_close(take(st->reader));
    pthread_mutex_unlock(&st->reading);
}

err store_search(struct store *st, arena *a, str text, size_t most, ulid **ret, size_t *n)
{
    struct question q = { .st = st, .a = a, .text = text, .most = most, .ids = ret, .n = n };

    work_run(st->pool, answer, &q);
    return q.result;
}

err store_find(struct store *st, arena *a, const ulid *id, size_t n, void (*each)(void *ctx, const struct event *e), void *ctx)
{
    struct question q = { .st = st, .a = a, .id = id, .nid = n };

    work_run(st->pool, answer, &q);
    for (size_t i = 0; i < q.nfound; i++)
        each(ctx, &q.found[i]);
    mem_free(q.found);
    return q.result;
}
