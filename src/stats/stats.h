/* stats: what happened. One event is one log line, one step of a message's story, and one or more counters.
 *
 * Each thread keeps its own counters and its own ring of recent events; readers add them up. */
#ifndef STATS_H
#define STATS_H

#include "smtp/smtp.h"

/* ---- counters: each cell is written by one thread and read by any. ---------------------------------------------------- */

#define STATS_COUNTERS(X) \
    X(sessions, "SMTP sessions begun") \
    X(sessions_refused, "sessions turned away at a limit") \
    X(proxy_refused, "connections closed for want of a PROXY header from a named proxy") \
    X(accepted, "messages accepted (250)") \
    X(accepted_bytes, "octets of accepted messages") \
    X(accepted_rcpts, "recipients of accepted messages") \
    X(refused_rcpts, "recipients refused, for good or for now") \
    X(probes_slowed, "unknown recipients that were answered late: their client asks for many") \
    X(probes_cut, "sessions ended because their client asks for too many unknown recipients") \
    X(refused_messages, "messages refused after their data") \
    X(attempts, "deliveries attempted") \
    X(delivered, "recipients delivered") \
    X(deferred, "recipients put off after an attempt") \
    X(handed_on, "times that mail was handed on to another backend: unknown_to, fallback") \
    X(failed, "recipients failed for good") \
    X(kept, "recipients kept that a backend refused although our own lists know them") \
    X(expired, "recipients whose lifetime ended") \
    X(deleted, "recipients deleted by an operator") \
    X(unknown, "recipients whose final answer never came (may be delivered twice)") \
    X(repeated, "recipients delivered after an unknown outcome (perhaps a second copy)") \
    X(reports, "delivery reports made") \
    X(reports_dropped, "reports dropped because nobody could get them") \
    X(cut_through_refused, "messages whose client was told a next hop's refusal (cut_through)") \
    X(cut_through_late, "messages taken because their next hop did not answer in time (cut_through)") \
    X(cut_through_full, "messages answered at once because too many waited (cut_through)") \
    X(loops, "messages refused or failed because they loop") \
    X(connections, "connections opened to next hops") \
    X(connections_failed, "connections to next hops that failed before a message") \
    X(reread, "bodies read back from the spool") \
    X(taken_over, "tickets that one thread took from another, which had too many") \
    X(lookups, "look-ups that a source of recipients was asked for") \
    X(lookups_stale, "look-ups answered as before while the source could not say") \
    X(rate_waits, "times a lane waited for its turn in a rate") \
    X(lookups_undecided, "look-ups that no source could answer")

enum counter {
#define X(name, help) COUNT_##name,
    STATS_COUNTERS(X)
#undef X
    COUNTERS
};
extern const char *const counter_name[COUNTERS], *const counter_help[COUNTERS];

/* Times in half powers of two from 64 us to 9 hours, enough for percentiles to within a factor of 1.2 by interpolation. */
struct histogram { uint64_t bucket[60], n, sum; };
void histogram_add(struct histogram *h, when value);
when histogram_at(const struct histogram *h, double share);     /* 0.99: the 99th percentile; 0 when empty */

#define STATS_STREAMS 16
struct stats {
    uint64_t counter[COUNTERS];
    struct histogram accept;        /* end of data to 250 */
    struct histogram deliver;       /* accepted to delivered */
    struct histogram stream[STATS_STREAMS]; /* the same by the number of the stream; 0: of none, not counted apart */
};
void stats_add(enum counter c, uint64_t n);     /* of the calling thread */
struct stats *stats_mine(void);
void stats_sum(struct stats *ret);              /* of all threads, ended ones too; from any thread */

/* What is counted apart, by a short name of the configuration's (a listener's kind, a backend), and by how it ended: labels of metrics. A
 * thread keeps LABELS_MOST names of a family, the first it meets; all others are counted as LABEL_OTHER. */
enum family { FAMILY_SESSIONS, FAMILY_RECEIVED, FAMILY_DELIVERIES, FAMILY_SOURCES, FAMILIES };
enum { SESSION_ENDED, SESSION_LOST, SESSION_REFUSED };  /* of FAMILY_SESSIONS; of FAMILY_DELIVERIES and FAMILY_SOURCES it is the enum event_kind */
#define LABELS_MOST 64
#define LABEL_WAYS 24
#define LABEL_TEXT 64                           /* longer names are cut */
#define LABEL_OTHER "other"
void stats_label(enum family f, str label, unsigned way);
/* The sums of all threads: at most `most` names, then `other`. From any thread. */
struct label_count { char name[LABEL_TEXT]; uint64_t n[LABEL_WAYS]; };
size_t stats_labels(enum family f, struct label_count *ret, size_t most);

/* What was last said against deliveries to a backend, in one line, cut. */
#define LAST_TEXT 160
void stats_said(str label, str words);
bool stats_last(str label, char out[LAST_TEXT], when *at);      /* wall clock; false: nothing yet. From any thread */

/* The upper end of a histogram's bucket; what is in the last one has none. */
when histogram_end(size_t bucket);

/* ---- events -------------------------------------------------------------------------------------------------------------- */

enum event_kind {
    EVENT_ACCEPTED, EVENT_REFUSED, EVENT_DELIVERED, EVENT_DEFERRED, EVENT_FAILED, EVENT_EXPIRED, EVENT_DELETED, EVENT_UNKNOWN,
    EVENT_REPORT, EVENT_DROPPED, EVENT_HANDED_ON,
    EVENT_HELD, EVENT_RELEASED, EVENT_REROUTED,     /* by an operator: kept for the trace, not counted */
    EVENT_KINDS
};
extern const char *const event_name[EVENT_KINDS];

struct event {
    enum event_kind kind;
    ulid id;                        /* zero for what never became a message */
    when at;                        /* wall clock */
    str from, rcpt, remote, reply;  /* as far as they apply; borrowed */
    str detail;                     /* reason, "queued as", ... */
    str source;                     /* by which it left, where one was configured */
    str message_id;                 /* the field of that name, at acceptance */
    uint64_t size;
    when took;                      /* accept: end of data to 250; delivery: since accepted; 0: not told */
    uint32_t attempt;
};
/* Log it, count it, keep it. */
void event_emit(const struct event *e);
/* The same without the log line and counters: only the story. */
void event_keep(const struct event *e);

/* Find what the ring buffers still hold, oldest first. A message's story by id (zero: any), or by a part of sender,
 * recipient or Message-ID (empty: any). Each thread keeps its last `STATS_RING` octets of events. The strings given to `each` are copies
 * in `a`. From any thread. */
#define STATS_RING (4u << 20)
void event_find(arena *a, ulid id, str address, void (*each)(void *ctx, const struct event *e), void *ctx);
/* The same for several messages in one pass. */
void event_find_all(arena *a, const ulid *id, size_t n, void (*each)(void *ctx, const struct event *e), void *ctx);

/* ---- incidents: trouble that concerns more than one message ------------------------------------------------------------------ */

/* One at a time of a kind and subject; the table is the process's, under a lock that nobody waits with. Each is a log line when it begins and one
 * when it ends. An incident tells what others do: freezing mail, and thawing it, is not done here. */
enum incident_kind {
    INCIDENT_REFUSES,               /* a backend refuses recipients that our own lists know: the bounce brake. Subject: the backend */
    INCIDENT_NO_NAMES,              /* names cannot be looked up. Subject: "resolver", or the backend whose servers' names it is about */
    INCIDENT_NO_WAY,                /* there is no way out. Subject: "mail hosts" (those of MX records), or a backend */
    INCIDENT_NO_FAMILY,             /* subject: "IPv4" or "IPv6", which has no way out from here */
    INCIDENT_SOFT_BOUNCE,           /* 5xx counts as 4xx, as the configuration says. Subject: "relay", or a backend */
    INCIDENT_NO_SOURCE,             /* who exists cannot be asked: table/ opens and closes it. Subject: "ldap ldaps://dc1.example.com" */
    INCIDENT_KINDS
};
extern const char *const incident_name[INCIDENT_KINDS];
#define INCIDENTS_MOST 64           /* open at a time; further ones have their log lines only */
#define INCIDENT_SUBJECT 96
struct incident {
    uint64_t id;                    /* grows from 1; none comes twice in a process */
    enum incident_kind kind;
    when since;                     /* wall clock */
    uint64_t affected;              /* recipients kept back, or lanes frozen, so far */
    char subject[INCIDENT_SUBJECT], reason[240], recovery[160];  /* cut */
};
/* True: it began; else one of that kind and subject is open already, and has these words from now on. */
bool incident_open(enum incident_kind k, str subject, str reason, str recovery);
bool incident_close(enum incident_kind k, str subject, str why);       /* false: it was not open */
void incident_affects(enum incident_kind k, str subject, uint64_t n);  /* so many more */
bool incident_is_open(enum incident_kind k, str subject);      /* cheap where nothing of that kind is open */
size_t incidents(struct incident ret[INCIDENTS_MOST]);         /* the oldest first; from any thread */
uint64_t incidents_begun(enum incident_kind k);                /* since start */

/* ---- store: the story of mail on disk, over restarts and long after the ring has forgotten --------------------------------------------
 *
 * One thread writes what the rings were given, a few times a second, into an SQLite file. Mail never waits for it: when the disk or the
 * thread is too slow, events are left out of the store, and counted. */

struct trace_settings {
    str dir;
    when retention;                 /* since a message was accepted; 0: there is no store */
    uint64_t max_bytes;             /* of the file; the oldest go first */
};
struct store;
/* `keep_free`: octets of the file system that are not for us. Starts threads: after a sandbox was entered. A file that is damaged is set aside.
 * There is one store a process. E_IO, E_NOSPACE: it cannot be opened; mail goes on without. */
err store_open(const struct trace_settings *s, uint64_t keep_free, struct store **ret);
void store_configure(struct store *st, const struct trace_settings *s);     /* retention and size; from any thread */
void store_close(struct store *st);     /* writes what is left */

/* Which messages? By address, "@domain" or Message-ID (with or without <>), the newest first, at most `most`. In `a`. */
WAITS err store_search(struct store *st, arena *a, str text, size_t most, ulid **ret, size_t *n);
/* Their stories, one message after the other, as event_find() tells them; all that was kept before the call is in there. */
WAITS err store_find(struct store *st, arena *a, const ulid *id, size_t n, void (*each)(void *ctx, const struct event *e), void *ctx);

struct store_counts { uint64_t written, dropped, purged, bytes; bool broken; };
struct store_counts store_counts(struct store *st);     /* from any thread */

#endif
