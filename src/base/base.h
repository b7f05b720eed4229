/* base: what C lacks. Strings with a length, buffers, arenas, errors with a text, logs, maps, heaps, time, ids.
 *
 * Everything here is free of waits and of policy. Nothing here is shared between threads unless its comment says so.
 * The three things a machine gives that a simulation must own (clock, wall clock, randomness) go through `base_seam`. */
#ifndef BASE_H
#define BASE_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define PRINTF(fmt, args) __attribute__((format(printf, fmt, args)))
#define COUNT(array) (sizeof(array) / sizeof(array)[0])
#define MIN(a, b) ((a) < (b) ? (a) : (b))
#define MAX(a, b) ((a) > (b) ? (a) : (b))

/* The function may wait: when it returns, shared things may have changed. For the reader; the compiler ignores it. */
#define WAITS

/* What we believe of our own code; never of what a peer sent. Ends the process with file and line, in production too. */
#define must(x) ((x) ? (void)0 : must_failed(__FILE__, __LINE__, #x))
_Noreturn void must_failed(const char *file, int line, const char *what);

/* ---- str: a borrowed, immutable run of bytes. Never assumed to end in NUL; may hold NUL. ------------------------- */

typedef struct {
    const char *p;
    size_t n;
} str;

typedef struct arena arena;

#define S(literal) ((str){ "" literal, sizeof(literal) - 1 })
#define STR(s) (int)(s).n, (s).p /* the two arguments of a %.*s */

static inline str str_of(const char *p, size_t n) { return (str){ p, n }; }
static inline str str_z(const char *z) { return (str){ z, z ? strlen(z) : 0 }; } /* of a C string */
static inline bool str_eq(str a, str b) { return a.n == b.n && (a.n == 0 || memcmp(a.p, b.p, a.n) == 0); }
static inline str str_from(str s, size_t at) { at = MIN(at, s.n); return (str){ at ? s.p + at : s.p, s.n - at }; }
static inline str str_head(str s, size_t n) { return (str){ s.p, MIN(n, s.n) }; }

static inline char ascii_lower(char c) { return c >= 'A' && c <= 'Z' ? (char)(c + 32) : c; }
static inline bool ascii_digit(char c) { return c >= '0' && c <= '9'; }
static inline bool ascii_alpha(char c) { return (c | 32) >= 'a' && (c | 32) <= 'z'; }
static inline bool ascii_control(char c) { return (unsigned char)c < 32 || c == 127; }

bool str_ieq(str a, str b);             /* ASCII letters of either case are the same; no locale anywhere */
bool str_starts(str s, str head);
bool str_istarts(str s, str head);
bool str_ends(str s, str tail);
bool str_iends(str s, str tail);
#define STR_NONE SIZE_MAX
size_t str_find(str s, str what);       /* offset of the first `what`, or STR_NONE */
size_t str_findc(str s, char c);        /* the same for one byte */
static inline bool str_has(str s, str what) { return str_find(s, what) != STR_NONE; }
str str_trim(str s);                    /* without blanks, tabs, CR and LF at both ends */

/* Cut the next part of *rest at `sep` into *part; true while there was one. The last part has no separator behind it;
 * after it *rest is {NULL,0}. "a,b," has the parts "a", "b" and "". A NULL str has none. */
bool str_cut(str *rest, str sep, str *part);
/* Cut the next word (run without blanks and tabs); false when none is left. */
bool str_word(str *rest, str *word);

/* The whole of `s` as a decimal number <= max; false (and *ret untouched) when it is anything else. */
bool str_u64(str s, uint64_t max, uint64_t *ret);

uint64_t str_hash(str s);               /* seeded at start-up (SipHash-1-3): safe against chosen keys */
uint64_t str_ihash(str s);              /* the same, ASCII case ignored */
uint64_t str_hash_keyed(uint64_t a, uint64_t b, str s); /* the same with a key of the caller's: in every process the same */
void str_hash_seed(uint64_t a, uint64_t b); /* for simulations: maps in the same order in every run */
int str_cmp(str a, str b);              /* memcmp order, then length */
size_t str_distance(str a, str b);      /* edit distance, for "did you mean"; both cut at 63 bytes */

struct strs { str *p; size_t n; };

/* Copies in `a`. */
str str_dup(arena *a, str s);
str str_lower(arena *a, str s);
char *str_cz(arena *a, str s);          /* with a NUL behind it, for system calls */
str str_printf(arena *a, const char *fmt, ...) PRINTF(2, 3);
/* `s` with every control byte, quote, backslash and byte that is not UTF-8 escaped: safe in a terminal, a log line,
 * a JSON string. Returns `s` itself when nothing needs it. */
str str_printable(arena *a, str s);

/* ---- arena: a lifetime. All that lives in it ends together. ------------------------------------------------------- */

arena *arena_new(void);
void arena_free(arena *a);              /* NULL is fine */
void arena_reset(arena *a);             /* empties it, keeps its first block */
void *arena_alloc(arena *a, size_t n);  /* zeroed, aligned to 16; never NULL */
size_t arena_size(const arena *a);      /* bytes taken from the system, for budgets */
#define NEW(a, type) ((type *)arena_alloc((a), sizeof(type)))
#define NEW_ARRAY(a, type, n) ((type *)arena_alloc((a), sizeof(type) * (size_t)(n)))

/* From the heap, zeroed; never NULL: limits on sessions and sizes keep allocation from failing (doc/tour.md). */
void *mem_new(size_t n);
void *mem_grow(void *p, size_t n);      /* realloc; the new part is not zeroed */
void mem_free(void *p);

/* ---- buf: a growing run of bytes. --------------------------------------------------------------------------------- */

struct buf {
    char *p;
    size_t n, cap;
    arena *a; /* where it grows; NULL: on the heap, ended by buf_free() */
};

struct buf buf_in(arena *a, size_t cap);
void buf_free(struct buf *b);           /* frees a heap buffer and makes it empty; fine on an arena's */
void buf_reserve(struct buf *b, size_t more); /* room for `more` behind n without moving */
void buf_add(struct buf *b, str s);
void buf_addc(struct buf *b, char c);
void buf_addf(struct buf *b, const char *fmt, ...) PRINTF(2, 3);
void buf_drop(struct buf *b, size_t n); /* remove the first n bytes */
static inline void buf_clear(struct buf *b) { b->n = 0; }
static inline str buf_str(const struct buf *b) { return (str){ b->p, b->n }; }
void buf_add_json(struct buf *b, str s); /* quoted and escaped; bytes that are not UTF-8 become U+FFFD */

/* ---- err: "I could not do it". ------------------------------------------------------------------------------------ */

typedef enum err {
    OK = 0,
    E_SYNTAX,   /* the text is not what the grammar says */
    E_AGAIN,    /* not now: try later */
    E_NONAME,   /* the name does not exist */
    E_NOTFOUND, /* no such file, key, id */
    E_EXISTS,
    E_CANCELED, /* our group was closed */
    E_TIMEOUT,  /* the deadline passed */
    E_CLOSED,   /* the peer ended the connection */
    E_REFUSED,  /* nobody listens there, or no way there */
    E_NOWAY,    /* no way there from here, whatever is there: no route, no network, no address of that family */
    E_LIMIT,    /* a limit of ours is reached; the text names it */
    E_IO,       /* the system failed; the text has its words */
    E_NOSPACE,  /* disk full, quota, no descriptors */
    E_DAMAGED,  /* stored data does not match its checksum */
    E_UNKNOWN,  /* a format or feature newer than this program */
    E_MAYBE,    /* it may have happened: the answer never came */
    E_PERM,     /* not allowed */
    E_BOGUS,    /* signed, and the signature does not hold: DNSSEC */
    E_USAGE,    /* the caller of the command line erred */
    E_COUNT
} err;

const char *err_name(err e);            /* "timeout", ...: stable words for logs */

/* The text belongs to the current task (or thread, outside tasks) and lasts until its next fail(). */
struct err_note { size_t n; char text[320]; };
extern _Thread_local struct err_note *err_note; /* task/ points this at the running task's note */
err fail(err e, const char *fmt, ...) PRINTF(2, 3);   /* begins the text */
err fail_errno(int number, const char *fmt, ...) PRINTF(2, 3); /* E_ by errno, text ends in its words */
err during(err e, const char *fmt, ...) PRINTF(2, 3); /* "where: text"; OK passes untouched */
str err_text(void);

#define TRY(x) do { err try_ = (x); if (try_ != OK) return try_; } while (0)

/* A pointer closed on every return: AUTO(segment) g = segment_new(); needs AUTO_DEFINE(segment) below segment_free's
 * declaration. take(g) hands it over. */
#define AUTO_DEFINE(type) \
    static inline void type##_auto(struct type **p) { if (*p) type##_free(*p); }
#define AUTO(type) __attribute__((cleanup(type##_auto))) struct type *
#define take(p) ({ __typeof__(p) taken_ = (p); (p) = NULL; taken_; })
static inline void arena_auto(arena **a) { arena_free(*a); }
#define AUTO_ARENA __attribute__((cleanup(arena_auto))) arena *
static inline void buf_auto(struct buf *b) { buf_free(b); }
#define AUTO_BUF __attribute__((cleanup(buf_auto))) struct buf

/* ---- time --------------------------------------------------------------------------------------------------------- */

typedef int64_t when;                   /* a moment or a length, in microseconds; moments count from clock_now()'s zero */
#define MICROSECOND ((when)1)
#define MILLISECOND (1000 * MICROSECOND)
#define SECOND (1000 * MILLISECOND)
#define MINUTE (60 * SECOND)
#define HOUR (60 * MINUTE)
#define DAY (24 * HOUR)
#define NEVER INT64_MAX

when clock_now(void);                   /* monotonic */
when wall_now(void);                    /* microseconds since 1970, may jump */
void random_bytes(void *p, size_t n);   /* unguessable */
uint64_t random_u64(void);
uint64_t random_below(uint64_t n);      /* 0 <= result < n, even */

extern struct base_seam {
    when (*now)(void);
    when (*wall)(void);
    void (*random)(void *p, size_t n);
} base_seam;

#define TIME_TEXT 40
str time_rfc5322(char out[TIME_TEXT], when wall); /* "Mon, 23 Nov 2026 18:05:40 +0000", RFC 5322 3.3; always UTC */
str time_rfc3339(char out[TIME_TEXT], when wall); /* "2026-11-23T18:05:40.123456Z" */
str time_span(char out[TIME_TEXT], when length);  /* "1d 2h", "3m 5s", "120ms": two units, for people */

/* ---- id: a ULID, 48 bits of milliseconds and 80 of randomness, sorted by time. ------------------------------------ */

typedef struct { uint8_t b[16]; } ulid;
#define ULID_TEXT 26
ulid ulid_new(void);                    /* ever larger within a thread */
str ulid_print(ulid id, char out[ULID_TEXT]); /* Crockford base 32, upper case */
bool ulid_parse(str s, ulid *ret);      /* either case; exactly 26 digits */
static inline bool ulid_eq(ulid a, ulid b) { return memcmp(a.b, b.b, 16) == 0; }
static inline bool ulid_zero(ulid a) { static const ulid none; return ulid_eq(a, none); }
uint64_t ulid_hash(ulid id);
when ulid_wall(ulid id);                /* the millisecond it was made in */

/* ---- crc: CRC-32C (Castagnoli), by the CPU's instruction where it has one. Chains: crc32c(crc32c(0, a), b). -------- */

uint32_t crc32c(uint32_t crc, const void *p, size_t n);

/* ---- map: bytes -> pointer, seeded against chosen keys. Keys are borrowed: they must outlive the entry. ------------ */

struct map {
    struct map_slot { str key; void *value; uint64_t hash; } *slot; /* heap; key.p NULL: free */
    size_t n, cap;
    bool fold; /* ASCII case of keys ignored */
};

void *map_get(const struct map *m, str key);            /* NULL when absent */
void *map_put(struct map *m, str key, void *value);     /* returns the value replaced, or NULL; value not NULL */
void *map_del(struct map *m, str key);                  /* returns the value removed, or NULL */
void map_free(struct map *m);                           /* the table, not the values */
/* for (size_t i = 0; (v = map_next(&m, &i)); ) ...; no put or del inside */
void *map_next(const struct map *m, size_t *i);

/* ---- heap: the least first. An entry knows its place, so that it can leave from the middle. ------------------------ */

struct heap_entry { when key; size_t at; };             /* at: 1 + index while inside, 0 outside */
struct heap { struct heap_entry **p; size_t n, cap; };

void heap_put(struct heap *h, struct heap_entry *e, when key); /* inserts, or moves what is inside */
void heap_del(struct heap *h, struct heap_entry *e);    /* fine when it is not inside */
static inline struct heap_entry *heap_least(const struct heap *h) { return h->n ? h->p[0] : NULL; }
void heap_free(struct heap *h);

/* The struct around a member. */
#define AROUND(ptr, type, member) ((type *)(void *)((char *)(ptr) - offsetof(type, member)))

/* ---- list: a ring of intrusive links; the head is a link too. ------------------------------------------------------ */

struct link { struct link *prev, *next; };
static inline void list_init(struct link *head) { head->prev = head->next = head; }
static inline bool list_empty(const struct link *head) { return head->next == head || !head->next; }
static inline void list_add(struct link *head, struct link *l) /* at the end */
{
    l->prev = head->prev; l->next = head;
    head->prev->next = l; head->prev = l;
}
static inline void list_push(struct link *head, struct link *l) { list_add(head->next, l); } /* at the front */
static inline void list_del(struct link *l) /* fine when it is in none (zeroed) */
{
    if (l->next) { l->prev->next = l->next; l->next->prev = l->prev; l->next = l->prev = NULL; }
}

/* ---- log: events, not prose. One line an event; never blocks the caller; safe from any thread. --------------------- */

enum log_level { LOG_DEBUG, LOG_INFO, LOG_WARN, LOG_ERROR };
enum log_form { LOG_FORM_TEXT, LOG_FORM_JSON };

/* log_info("delivered", LOG_ID("id", id), LOG_STR("rcpt", rcpt), LOG_INT("size", n)) */
struct log_field { const char *key; enum { LOG_F_STR, LOG_F_INT, LOG_F_ID, LOG_F_BOOL } kind; str s; int64_t i; ulid id; };
#define LOG_STR(k, v) { .key = (k), .kind = LOG_F_STR, .s = (v) }
#define LOG_Z(k, v) { .key = (k), .kind = LOG_F_STR, .s = str_z(v) }
#define LOG_INT(k, v) { .key = (k), .kind = LOG_F_INT, .i = (int64_t)(v) }
#define LOG_ID(k, v) { .key = (k), .kind = LOG_F_ID, .id = (v) }
#define LOG_BOOL(k, v) { .key = (k), .kind = LOG_F_BOOL, .i = (v) }
#define log_fields_(...) ((struct log_field[]){ __VA_ARGS__ __VA_OPT__(,) { .key = NULL } })
#define log_debug(ev, ...) log_write(LOG_DEBUG, (ev), log_fields_(__VA_ARGS__))
#define log_info(ev, ...) log_write(LOG_INFO, (ev), log_fields_(__VA_ARGS__))
#define log_warn(ev, ...) log_write(LOG_WARN, (ev), log_fields_(__VA_ARGS__))
#define log_error(ev, ...) log_write(LOG_ERROR, (ev), log_fields_(__VA_ARGS__))

void log_write(enum log_level level, const char *event, const struct log_field *fields);

struct log_setup {
    int fd;                             /* where lines go; borrowed */
    enum log_form form;
    enum log_level least;
    /* When set, lines go here at once and nowhere else (tests, simulation); the line ends in LF. */
    void (*tap)(void *ctx, enum log_level level, str line);
    void *ctx;
};
/* Start writing. Lines gather in memory and a thread of the log's own writes them every 50 ms, at 64 KiB, and at once
 * from LOG_ERROR up. When the reader of `fd` stands still, up to 4 MiB wait; then lines are dropped and counted
 * in a later line (event "log_dropped"). Before log_start(), and after log_stop(), lines go straight to stderr. */
void log_start(const struct log_setup *setup);
void log_stop(void);                    /* writes what is left; a reader who stands still gets one more second */
void log_flush(void);                   /* for the dying: returns when all is written, or after 200 ms */

#include "base/utf8.h" /* utf8_head(), utf8_control() */

#endif
