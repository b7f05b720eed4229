/* Internal to table. */
#ifndef TABLE_INSIDE_H
#define TABLE_INSIDE_H

#include "table/table.h"

#include <pthread.h>

/* ---- remote.c: what sources said, kept ---- */

struct remote;
struct remote *remote_hold(struct source *s);   /* takes `s` over; the one of the same key, if there is one */
void remote_drop(struct remote *r);
WAITS enum found remote_find(struct remote *r, const struct path *who, bool *mute);
WAITS err remote_probe(struct remote *r, const struct inquiry *q, when deadline, str *name);
struct table_counts remote_counts(struct remote *r);
const char *remote_name(const struct remote *r, str *name); /* its kind */

/* ---- bench.c: pools whose threads may block ---- */

/* A source's pool, started when it is first used: settings are read where there may be no thread. Zeroed is fine. */
struct bench { pthread_mutex_t lock; struct pool *pool; };
#define BENCH_INIT { .lock = PTHREAD_MUTEX_INITIALIZER }
WAITS void bench_run(struct bench *b, const char *name, unsigned threads, void (*fn)(void *arg), void *arg);
void bench_end(struct bench *b);        /* nothing runs on it */
/* Run fn(arg) on a large stack, for libraries that need one: on a thread of its own when this is a task. */
WAITS void bench_once(void (*fn)(void *arg), void *arg);

/* ---- template.c: addresses in other people's languages ---- */

/* NULL, or what is wrong with an LDAP filter as table_ldap_open() takes it. */
const char *filter_wrong(str filter);
void filter_add(struct buf *out, str filter, const struct inquiry *q);
const char *url_wrong(str url);
/* False: it would not mean the address there ("." and ".." are directories). */
bool url_add(struct buf *out, str url, const struct inquiry *q);
/* What an answer says. */
enum said http_answer(long code, str body);

/* ---- shared ---- */

char *copy_z(str s);                    /* on the heap, with a NUL */
str copy_str(str s);                    /* on the heap */
/* Part of a key: the length makes it one-to-one. */
void key_add(struct buf *key, str part);
void key_add_keeping(struct buf *key, const struct keeping *k);

#endif
