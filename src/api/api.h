/* api: what programs ask over HTTP: metrics and probes. No TLS and no login yet, so it is for loopback and Unix sockets only.
 *
 * libmicrohttpd speaks; a thread of its own for each listening socket calls `answer`, one question after the other. Nothing in here
 * knows what is answered. */
#ifndef API_H
#define API_H

#include "stats/stats.h"

/* ---- http ------------------------------------------------------------------------------------------------------------------------ */

#define HTTP_CONNECTIONS 128            /* at a time on one socket: more wait in the kernel's queue */
#define HTTP_HEAD_MOST (16u << 10)      /* octets of a request line with its header: more is answered 431 or 414 */
#define HTTP_PATIENCE (10 * SECOND)     /* for a whole request and its answer; 1 s when half of all connections are in use */

struct http;
struct http_question { str path, accept; };     /* without what is behind a ? */
struct http_answer { unsigned status; const char *type; struct buf body; /* heap; taken over */ };
struct http_setup {
    /* On a thread without a scheduler; may block, and then whoever else asks on that socket waits. status 0: there is nothing at that path. */
    void (*answer)(void *ctx, const struct http_question *q, struct http_answer *ret);
    void *ctx;
};
struct http *http_new(const struct http_setup *setup);
void http_free(struct http *h);         /* sockets that are left too; waits for the answers under way */
/* Serve a listening socket; a copy of the descriptor is ours, `fd` stays the caller's. E_PERM: strangers could reach it. */
err http_listen(struct http *h, const struct addr *at, int fd);
void http_unlisten(struct http *h, const struct addr *at);
bool http_listens(const struct http *h, const struct addr *at);
/* End the connections that are too old: to be called now and then, from any one thread. */
void http_tidy(struct http *h);

/* ---- metrics: the text that Prometheus reads, 0.0.4, or OpenMetrics 1.0 when its Accept header asks for that -------------------------- */

enum metric_kind { METRIC_COUNTER, METRIC_GAUGE, METRIC_HISTOGRAM };
struct metrics { struct buf out; bool open; const char *name; enum metric_kind kind; };
bool metrics_open(str accept);          /* does it ask for OpenMetrics? */
const char *metrics_type(const struct metrics *m);      /* the media type */
/* Begin a family. A counter's name ends in "_total". */
void metrics_family(struct metrics *m, enum metric_kind kind, const char *name, const char *help);
/* One sample of it: label names and values in turn, NULL behind the last. Values are escaped. */
void metrics_value(struct metrics *m, double value, ...);
/* A histogram of microseconds, told in seconds, with all that lie above its last bucket counted in +Inf. `key`, `value`: a label; NULL: none. */
void metrics_histogram(struct metrics *m, const struct histogram *h, const char *key, const char *value);
/* The same from buckets of another kind: n[i] values up to `end[i]` microseconds, `total` in all, `sum` microseconds. */
void metrics_buckets(struct metrics *m, const uint64_t *n, const uint64_t *end, size_t buckets, uint64_t total, uint64_t sum);
void metrics_end(struct metrics *m);

#endif
