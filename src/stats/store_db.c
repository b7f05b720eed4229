/* The store's file: an SQLite database of events by message, and of what messages are known by. */
#include "stats/store_db.h"

#include <stdio.h>

#define FORMAT 1
#define EVENTS_MOST 2000        /* told of one message */
#define QUERY_MOST (5 * SECOND)

enum { INSERT, KNOW, FORGET_KNOWN, FORGET, OLDEST, BY_HASH, BY_ID, BYTES, STATEMENTS };
/* A message id begins with its time, so both tables grow at their right end, and the oldest are at the left one. */
static const char schema[] =
    "PRAGMA journal_mode=WAL; PRAGMA journal_size_limit=16777216;"
    "CREATE TABLE IF NOT EXISTS event(id BLOB NOT NULL, seq INTEGER NOT NULL, at INTEGER, kind INTEGER, attempt INTEGER, took INTEGER, size INTEGER,"
    " sender BLOB, rcpt BLOB, remote BLOB, reply BLOB, detail BLOB, message_id BLOB, PRIMARY KEY(id, seq)) WITHOUT ROWID;"
    "CREATE TABLE IF NOT EXISTS known(hash INTEGER NOT NULL, id BLOB NOT NULL, PRIMARY KEY(hash, id)) WITHOUT ROWID;"
    "CREATE TABLE IF NOT EXISTS meta(salt INTEGER NOT NULL);"
    "PRAGMA user_version=1;";
static const char *const text_of[STATEMENTS] = {
    [INSERT] = "INSERT OR IGNORE INTO event VALUES(?,?,?,?,?,?,?,?,?,?,?,?,?)",
    [KNOW] = "INSERT OR IGNORE INTO known VALUES(?,?)",
    [FORGET_KNOWN] = "DELETE FROM known WHERE hash=? AND id=?",
    [FORGET] = "DELETE FROM event WHERE id<? OR (id=? AND seq<=?)",
    [OLDEST] = "SELECT id, seq, sender, rcpt, message_id FROM event WHERE id<? ORDER BY id, seq LIMIT ?",
    [BY_HASH] = "SELECT DISTINCT id FROM known WHERE hash IN (?,?,?) ORDER BY id DESC LIMIT ?",
    [BY_ID] = "SELECT id, seq, at, kind, attempt, took, size, sender, rcpt, remote, reply, detail, message_id FROM event WHERE id=? ORDER BY seq LIMIT ?",
    [BYTES] = "SELECT (SELECT page_count FROM pragma_page_count) - (SELECT freelist_count FROM pragma_freelist_count)",
};

struct store_db {
    sqlite3 *sql;
    sqlite3_stmt *st[STATEMENTS];
    uint64_t salt;
    int64_t seq;
    bool read_only;
    when until;                 /* of the query under way */
};

static err sql_fail(struct store_db *db, const char *what)
{
    int code = db->sql ? sqlite3_errcode(db->sql) & 0xff : SQLITE_NOMEM;
    err e = code == SQLITE_FULL ? E_NOSPACE : code == SQLITE_CORRUPT || code == SQLITE_NOTADB ? E_DAMAGED : code == SQLITE_BUSY ? E_AGAIN :
            code == SQLITE_INTERRUPT ? E_TIMEOUT : code == SQLITE_CANTOPEN ? E_NOTFOUND : E_IO;
    return fail(e, "%s: %s", what, db->sql ? sqlite3_errmsg(db->sql) : "out of memory");
}

static err exec(struct store_db *db, const char *text)
{
    return sqlite3_exec(db->sql, text, NULL, NULL, NULL) == SQLITE_OK ? OK : sql_fail(db, "the trace store");
}

static err number(struct store_db *db, const char *text, int64_t *ret, bool *any)
{
    sqlite3_stmt *st;

    if (sqlite3_prepare_v2(db->sql, text, -1, &st, NULL) != SQLITE_OK)
        return sql_fail(db, "the trace store");
    int got = sqlite3_step(st);
    *any = got == SQLITE_ROW;
    if (*any)
        *ret = sqlite3_column_int64(st, 0);
    err e = *any || got == SQLITE_DONE ? OK : sql_fail(db, "the trace store");
    sqlite3_finalize(st);
    return e;
}

static int too_long(void *db)
{
    const struct store_db *d = db;
    return d->until && clock_now() > d->until;
}

static err begin_file(struct store_db *db)
{
    int64_t v = 0;
    bool any;
    char text[80];

    TRY(number(db, "PRAGMA user_version", &v, &any));
    if (v > FORMAT)
        return fail(E_UNKNOWN, "the trace store is of a newer release");
    if (!db->read_only) {
        TRY(exec(db, "PRAGMA synchronous=NORMAL; PRAGMA temp_store=MEMORY; PRAGMA cache_size=-16384; PRAGMA wal_autocheckpoint=2000"));
        TRY(exec(db, schema));
    }
    TRY(number(db, "SELECT salt FROM meta", &v, &any));
    if (!any) { /* so that nobody can choose addresses that are found instead of others */
        random_bytes(&v, sizeof v);
        snprintf(text, sizeof text, "INSERT INTO meta VALUES(%lld)", (long long)v);
        TRY(exec(db, text));
    }
    db->salt = (uint64_t)v;
    db->seq = wall_now();
    for (int i = 0; i < STATEMENTS; i++)
        if (sqlite3_prepare_v3(db->sql, text_of[i], -1, SQLITE_PREPARE_PERSISTENT, &db->st[i], NULL) != SQLITE_OK)
            return sql_fail(db, "the trace store");
    return OK;
}

err store_db_open(const char *path, bool read_only, struct store_db **ret)
{
    struct store_db *db = mem_new(sizeof *db);
    int flags = read_only ? SQLITE_OPEN_READONLY : SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE;
    err e = OK;

    db->read_only = read_only;
    if (sqlite3_open_v2(path, &db->sql, flags | SQLITE_OPEN_NOMUTEX, NULL) != SQLITE_OK)
        e = sql_fail(db, path);
    else {
        sqlite3_busy_timeout(db->sql, 2000);
        sqlite3_progress_handler(db->sql, 10000, read_only ? too_long : NULL, db);
        e = begin_file(db);
    }
    if (e != OK)
        store_db_close(db);
    else
        *ret = db;
    return e;
}

void store_db_close(struct store_db *db)
{
    for (int i = 0; i < STATEMENTS; i++)
        sqlite3_finalize(db->st[i]);
    sqlite3_close(db->sql);
    mem_free(db);
}

err store_db_begin(struct store_db *db) { return exec(db, "BEGIN IMMEDIATE"); }
err store_db_commit(struct store_db *db) { return exec(db, "COMMIT"); }
void store_db_rollback(struct store_db *db)
{
    if (!sqlite3_get_autocommit(db->sql))
        sqlite3_exec(db->sql, "ROLLBACK", NULL, NULL, NULL);
}

/* ---- keys ---- */

/* FNV-1a with a secret beginning and a mixed end. What it finds is looked at again. */
static int64_t hash_of(const struct store_db *db, char kind, str s, bool fold)
{
    uint64_t h = (UINT64_C(0xcbf29ce484222325) ^ db->salt ^ (uint8_t)kind) * UINT64_C(0x100000001b3);

    for (size_t i = 0; i < s.n; i++)
        h = (h ^ (uint8_t)(fold ? ascii_lower(s.p[i]) : s.p[i])) * UINT64_C(0x100000001b3);
    h = (h ^ h >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    h = (h ^ h >> 27) * UINT64_C(0x94d049bb133111eb);
    return (int64_t)(h ^ h >> 31);
}

static str bare(str message_id)
{
    message_id = str_trim(message_id);
    if (message_id.n > 2 && message_id.p[0] == '<' && message_id.p[message_id.n - 1] == '>')
        return str_of(message_id.p + 1, message_id.n - 2);
    return message_id;
}

static str domain_of(str address)
{
    size_t n = address.n;

    while (n && address.p[n - 1] != '@')
        n--;
    return n ? str_from(address, n) : S("");
}

/* What an event's message is known by. */
static size_t keys_of(const struct store_db *db, str sender, str rcpt, str message_id, int64_t key[5])
{
    const str address[] = { sender, rcpt };
    size_t n = 0;

    for (size_t i = 0; i < COUNT(address); i++) {
        if (!address[i].n)
            continue;
        key[n++] = hash_of(db, 'a', address[i], true);
        if (domain_of(address[i]).n)
            key[n++] = hash_of(db, 'd', domain_of(address[i]), true);
    }
    if (message_id.n)
        key[n++] = hash_of(db, 'm', bare(message_id), false);
    return n;
}

/* ---- statements ---- */

static void bind_blob(sqlite3_stmt *st, int at, str s)
{
    if (s.n)
        sqlite3_bind_blob(st, at, s.p, (int)s.n, SQLITE_STATIC);
    else
        sqlite3_bind_null(st, at);
}

static void bind_id(sqlite3_stmt *st, int at, const ulid *id) { sqlite3_bind_blob(st, at, id->b, sizeof id->b, SQLITE_STATIC); }

static str column(sqlite3_stmt *st, int at)
{
    return str_of(sqlite3_column_blob(st, at), (size_t)sqlite3_column_bytes(st, at));
}

static bool column_id(sqlite3_stmt *st, int at, ulid *ret)
{
    str s = column(st, at);

    if (s.n != sizeof ret->b)
        return false;
    memcpy(ret->b, s.p, s.n);
    return true;
}

static err run_once(struct store_db *db, sqlite3_stmt *st)
{
    int got = sqlite3_step(st);
    err e = got == SQLITE_DONE ? OK : sql_fail(db, "the trace store");
    sqlite3_reset(st);
    return e;
}

err store_db_add(struct store_db *db, const struct stored *s)
{
    sqlite3_stmt *st = db->st[INSERT];
    struct event e = stored_event(s);
    AUTO_BUF remote = { 0 };
    int64_t key[5];

    if (e.source.n) { /* in one column, which an earlier release reads and writes too */
        buf_addf(&remote, "%.*s\n%.*s", STR(e.remote), STR(e.source));
        e.remote = buf_str(&remote);
    }
    const str part[] = { e.from, e.rcpt, e.remote, e.reply, e.detail, e.message_id };

    bind_id(st, 1, &s->id);
    sqlite3_bind_int64(st, 2, ++db->seq);
    sqlite3_bind_int64(st, 3, e.at);
    sqlite3_bind_int(st, 4, (int)e.kind);
    sqlite3_bind_int64(st, 5, e.attempt);
    sqlite3_bind_int64(st, 6, e.took);
    sqlite3_bind_int64(st, 7, (int64_t)e.size);
    for (size_t i = 0; i < COUNT(part); i++)
        bind_blob(st, 8 + (int)i, part[i]);
    TRY(run_once(db, st));
    size_t n = keys_of(db, e.from, e.rcpt, e.message_id, key);
    for (size_t i = 0; i < n; i++) {
        sqlite3_bind_int64(db->st[KNOW], 1, key[i]);
        bind_id(db->st[KNOW], 2, &s->id);
        TRY(run_once(db, db->st[KNOW]));
    }
    return OK;
}

uint64_t store_db_bytes(struct store_db *db)
{
    uint64_t pages = sqlite3_step(db->st[BYTES]) == SQLITE_ROW ? (uint64_t)sqlite3_column_int64(db->st[BYTES], 0) : 0;

    sqlite3_reset(db->st[BYTES]);
    return pages * 4096;
}

/* The first id of a moment: what was made before is less. */
static ulid id_at(when wall)
{
    uint64_t ms = (uint64_t)MAX(wall, 0) / MILLISECOND;
    ulid id = { { 0 } };

    if (wall == NEVER)
        memset(id.b, 0xff, sizeof id.b);
    else
        for (int i = 0; i < 6; i++)
            id.b[i] = (uint8_t)(ms >> (40 - 8 * i));
    return id;
}

err store_db_purge(struct store_db *db, when before, unsigned most, uint64_t *ret)
{
    sqlite3_stmt *st = db->st[OLDEST], *out = db->st[FORGET];
    ulid upto = id_at(before), last = { { 0 } };
    int64_t seq = 0, key[5];
    uint64_t n = 0;
    err e = OK;
    int got = SQLITE_DONE;

    bind_id(st, 1, &upto);
    sqlite3_bind_int64(st, 2, most);
    while (e == OK && (got = sqlite3_step(st)) == SQLITE_ROW) {
        if (!column_id(st, 0, &last))
            continue;
        seq = sqlite3_column_int64(st, 1);
        n++;
        size_t keys = keys_of(db, column(st, 2), column(st, 3), column(st, 4), key);
        for (size_t i = 0; i < keys && e == OK; i++) {
            sqlite3_bind_int64(db->st[FORGET_KNOWN], 1, key[i]);
            bind_id(db->st[FORGET_KNOWN], 2, &last);
            e = run_once(db, db->st[FORGET_KNOWN]);
        }
    }
    if (e == OK && got != SQLITE_DONE)
        e = sql_fail(db, "the trace store");
    sqlite3_reset(st);
    if (e == OK && n) {
        bind_id(out, 1, &last);
        bind_id(out, 2, &last);
        sqlite3_bind_int64(out, 3, seq);
        e = run_once(db, out);
    }
    *ret = n;
    return e;
}

/* ---- questions ---- */

static err told(struct store_db *db, sqlite3_stmt *st, int got)
{
    err e = got == SQLITE_DONE || got == SQLITE_ROW ? OK : sql_fail(db, "the trace store");
    sqlite3_reset(st);
    return e;
}

/* A hash may have found another one. */
struct match { str text, domain; bool any; };
static void match_event(void *ctx, const struct event *e)
{
    struct match *m = ctx;

    m->any |= str_ieq(e->from, m->text) || str_ieq(e->rcpt, m->text) || (m->text.n && str_eq(bare(e->message_id), m->text)) ||
              (m->domain.n && (str_ieq(domain_of(e->from), m->domain) || str_ieq(domain_of(e->rcpt), m->domain)));
}

err store_db_search(struct store_db *db, arena *a, str text, size_t most, ulid **ret, size_t *ret_n)
{
    sqlite3_stmt *st = db->st[BY_HASH];
    struct match m = { .text = bare(text) };
    size_t n = 0;
    int got;

    if (m.text.n && m.text.p[0] == '@')
        m.domain = str_from(m.text, 1);
    else if (!str_has(m.text, S("@")))
        m.domain = m.text;
    ulid *id = NEW_ARRAY(a, ulid, most);
    sqlite3_bind_int64(st, 1, hash_of(db, 'a', m.text, true));
    sqlite3_bind_int64(st, 2, hash_of(db, 'd', m.domain, true));
    sqlite3_bind_int64(st, 3, hash_of(db, 'm', m.text, false));
    sqlite3_bind_int64(st, 4, (int64_t)most);
    db->until = clock_now() + QUERY_MOST;
    while ((got = sqlite3_step(st)) == SQLITE_ROW && n < most)
        n += column_id(st, 0, &id[n]);
    TRY(told(db, st, got));
    size_t kept = 0;
    for (size_t i = 0; i < n; i++) {
        AUTO_ARENA scratch = arena_new();
        m.any = false;
        TRY(store_db_find(db, scratch, id[i], match_event, &m));
        if (m.any)
            id[kept++] = id[i];
    }
    *ret = id;
    *ret_n = kept;
    return OK;
}

err store_db_find(struct store_db *db, arena *a, ulid id, void (*each)(void *ctx, const struct event *e), void *ctx)
{
    sqlite3_stmt *st = db->st[BY_ID];
    int got;

    bind_id(st, 1, &id);
    sqlite3_bind_int(st, 2, EVENTS_MOST);
    db->until = clock_now() + QUERY_MOST;
    while ((got = sqlite3_step(st)) == SQLITE_ROW) {
        struct event e = { .id = id, .at = sqlite3_column_int64(st, 2), .attempt = (uint32_t)sqlite3_column_int64(st, 4),
                           .took = sqlite3_column_int64(st, 5), .size = (uint64_t)sqlite3_column_int64(st, 6) };
        str *part[] = { &e.from, &e.rcpt, &e.remote, &e.reply, &e.detail, &e.message_id };
        int64_t kind = sqlite3_column_int64(st, 3);
        if (kind < 0 || kind >= EVENT_KINDS)
            continue; /* of a newer release */
        e.kind = (enum event_kind)kind;
        for (size_t i = 0; i < COUNT(part); i++)
            *part[i] = str_dup(a, column(st, 7 + (int)i));
        str both = e.remote;
        if (str_cut(&both, S("\n"), &e.remote) && both.p)
            e.source = both;
        each(ctx, &e);
    }
    return told(db, st, got);
}
