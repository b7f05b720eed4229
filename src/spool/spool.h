/* spool: the append-only log where mail lies safely. doc/spool.md describes every byte on disk.
 *
 * A message is on stable storage when spool_accept() returns OK, and not before. What happened to its recipients is noted
 * by spool_outcome(), which does not wait: notes are durable with the next commit, at the latest after 50 ms or 128 notes.
 * One committer thread writes and syncs for all; a keeper thread makes zeroed segments ahead of need and recycles them.
 *
 * A reference names a record by segment and offset and is good until its message has ended, or `moved` said otherwise. What still waits
 * in old segments is copied forward when too little else is in them (compaction). */
#ifndef SPOOL_H
#define SPOOL_H

#include "mail/mail.h"
#include "task/task.h"

#include <stdatomic.h>

#define SPOOL_FORMAT 1                          /* what this release writes; it reads this one and the one before */
#define SPOOL_SEGMENT (64u << 20)
#define SPOOL_CHUNK (256u << 10)                /* larger bodies go in chunks of this size */

struct spool;
struct spool_port;                              /* one thread's way into the spool */

struct spool_ref { uint32_t segment, offset; }; /* segment 0: none */
struct spool_piece { struct spool_ref at; uint32_t n; }; /* octets of a body or chunk record */

/* A change to the body as received, applied on the way out. Offsets are of the body as received. */
struct edit { enum { EDIT_PREPEND, EDIT_DELETE_FIELD, EDIT_REPLACE } kind; uint32_t at, n; str text; };

enum rcpt_status {
    RCPT_WAITING,
    RCPT_DELIVERED,         /* 2xx to the final dot */
    RCPT_FAILED,            /* 5xx, or a failure of ours that no retry mends */
    RCPT_EXPIRED,           /* the lifetime ended while waiting */
    RCPT_DELETED,           /* by an operator */
};
/* What is known of one recipient. The highest version wins, whatever the order on disk. */
struct rcpt_state {
    uint32_t index;         /* in envelope.rcpt */
    enum rcpt_status status;
    uint32_t version;       /* grows with each note about this recipient */
    uint16_t attempts;
    bool unknown;           /* an attempt ended without the answer to the final dot */
    bool warned;            /* a delay report was sent, or it was found that nobody is to have one */
    uint16_t excused;       /* minutes that do not count against the message's lifetime; read back as at most a quarter more */
    when last, next;        /* wall clock: when this was noted, as a rule after an attempt; the next one, while waiting; 0: none */
    str reply;              /* last reply or reason, one printable line */
    str remote;             /* who gave it */
};

/* The stored form of a message: everything but its octets. */
struct message {
    ulid id;
    struct envelope env;
    struct origin origin;
    struct scan scan;
    struct edit *edit; size_t nedit;
    struct spool_piece *piece; size_t npiece;   /* the body, in order */
    struct spool_ref at;                        /* where the message record is; set by spool_accept() and by reading */
    bool report;                                /* one of our own: may use the reserve, expires into nothing */
    when not_before;                            /* wall clock: first attempt, of one that is paced; not stored. 0: at once */
};

/* A message that was copied forward, so that its old segment can be given back. Lives until the last holder has let go of it. */
struct spool_move {
    ulid id;
    struct spool_ref from, to;
    _Atomic uint32_t holders;       /* one when it is told of; who gives it to several adds theirs */
    /* spool's own */
    struct spool *spool;
    struct spool_move *next;
};
/* One holder less, from any thread. With the last, nobody notes or reads `from` any more, and what was noted about it has been flushed
 * (spool_flush() of that thread's port). */
void spool_move_done(struct spool_move *m);

struct spool_setup {
    str dir;                        /* made when absent, mode 0700, locked against a second process */
    unsigned reserve;               /* ready segments kept for notes and reports; default 4 */
    unsigned ahead;                 /* ready segments made ahead of need; default 2 beyond the reserve */
    uint32_t segment;               /* size of one; default SPOOL_SEGMENT. Tests make them small */
    uint64_t max_bytes;             /* of all segments; 0: what the file system has */
    uint64_t min_free;              /* bytes left free on the file system */
    when compact_after;             /* a segment sealed for so long may be compacted; default 1 minute */
    unsigned compact_slack;         /* segments that may be in use beyond twice what waits; default 4 */
    /* Messages were copied forward: the record of each now lies at `to`, and its pieces with it; `from` stays readable until the move is
     * done. Called on the keeper's thread; must not wait. NULL: nothing is ever moved. */
    void (*moved)(void *ctx, struct spool_move *const *moves, size_t n);
    void *ctx;
};

/* Open: segment heads are read, a new segment is begun, the threads are started; the backlog is not loaded yet. Served at once.
 * A full disk is no error: what waits goes out, and intake resumes when there is room.
 * E_EXISTS another process has it; E_UNKNOWN a newer format; E_IO. */
WAITS err spool_open(const struct spool_setup *setup, struct spool **ret);
/* Notes are made durable, threads ended. Every port must be closed before. */
WAITS void spool_close(struct spool *s);

struct spool_port *spool_port_open(struct spool *s);    /* by the thread that will use it */
WAITS void spool_port_close(struct spool_port *p);

/* Load the backlog: `each` is called on the calling thread for every message that has not ended, oldest segment first, with the
 * newest state of each of its recipients (state[i] is of recipient i). Both live until `each` returns. May wait inside;
 * new mail is accepted meanwhile and not reported here. An error of `each` ends the load. */
struct spool_loaded { uint64_t messages, ended, damaged, torn_bytes; };
WAITS err spool_load(struct spool *s, err (*each)(void *ctx, const struct message *m, const struct rcpt_state *state), void *ctx,
                     struct spool_loaded *ret);

/* From now on (or no more) messages may be copied forward: everybody who was told of one by spool_load() can be told that it moved. */
void spool_may_move(struct spool *s, bool may);

/* Is there room for mail from outside? E_NOSPACE (text says what is short) when only the reserve is left. No wait. */
err spool_room(struct spool *s);

/* Memory for a body of up to `cap` octets, with room for the frames around it, so that the octets are received where they are
 * written from. Fill with buf_add()/data_feed() up to cap; ends with spool_slab_free() (also after spool_accept()). */
struct spool_slab { struct buf body; char *base; size_t cap; uint32_t shares; };
struct spool_slab *spool_slab_new(size_t cap);
void spool_slab_free(struct spool_slab *b);
AUTO_DEFINE(spool_slab)

/* Write the message, with `slab` as its whole body (NULL: the body is in m->piece already, by spool_chunk()), and wait until it is on
 * stable storage. Fills m->at and m->piece (allocated in `a`). On any error the message is not stored and was not acknowledged;
 * E_NOSPACE, E_IO: answer 452, 451. */
WAITS err spool_accept(struct spool_port *p, arena *a, struct message *m, struct spool_slab *slab);
/* Write one chunk of a large body and wait until it is on stable storage. */
WAITS err spool_chunk(struct spool_port *p, ulid id, str octets, struct spool_piece *ret);
/* The chunks of `id` will have no message. Does not wait. */
void spool_abort(struct spool_port *p, ulid id, const struct spool_piece *piece, size_t n);

/* Note what happened to n recipients of the message at `home`; `end`: none of its recipients waits any more, and the message
 * with its body may go. Does not wait and does not fail: what cannot be written is kept in memory and tried again. */
void spool_outcome(struct spool_port *p, ulid id, struct spool_ref home, const struct rcpt_state *state, size_t n, bool end);
/* Wait until every task of this thread whose entry was answered has gone on with it. */
WAITS void spool_catch_up(struct spool_port *p);
/* Wait until every note made so far through this port is durable. */
WAITS err spool_flush(struct spool_port *p);
/* Are so many of this port's notes not durable yet that nothing more should be begun that will need one? A crash brings back what they say. */
bool spool_behind(const struct spool_port *p);
/* Wait until it is not. E_TIMEOUT at `deadline`: the spool cannot be written just now, or is very slow. */
WAITS err spool_keep_up(struct spool_port *p, when deadline);

/* Read back. From memory when the pages are there, else on the disk pool. All in `a`. E_DAMAGED, E_NOTFOUND (ended), E_IO. */
WAITS err spool_read(struct spool_port *p, struct spool_ref at, arena *a, struct message **ret);
WAITS err spool_read_piece(struct spool_port *p, struct spool_piece piece, arena *a, str *ret);
/* The newest states of a waiting message's recipients from the log, for people who ask: state[0..env.nrcpt). */
WAITS err spool_read_states(struct spool_port *p, ulid id, struct spool_ref home, arena *a, struct rcpt_state **ret, size_t *n);

struct spool_stats {
    uint64_t commits, syncs, sync_us_total, sync_us_max, bytes, messages, chunks, notes;
    uint64_t segments, ready, condemned, compacted, notes_waiting;
    bool intake_stopped;
};
struct spool_stats spool_stats(const struct spool *s);  /* from any thread */
/* How long syncs took: n[i] of them less than end[i] microseconds and not less than end[i - 1]; what took longer is in none. From any thread. */
#define SPOOL_SYNCS 24
struct spool_syncs { uint64_t n[SPOOL_SYNCS], end[SPOOL_SYNCS]; };
struct spool_syncs spool_syncs(const struct spool *s);

/* ---- for tools, on a spool that is not running -------------------------------------------------------------------------- */

/* Read every record of every segment and check it; a line per finding and a summary on `out`. OK when nothing acknowledged is damaged. */
WAITS err spool_verify(str dir, struct buf *out);
/* All that waits, as one stream for spool_import(); `n`: messages. Both are for a task. */
WAITS err spool_export(str dir, err (*write)(void *ctx, str octets), void *ctx, uint64_t *n);
/* `read` gives exactly n octets, or sets *end when there are none left. What came in before an error stays in. */
WAITS err spool_import(str dir, err (*read)(void *ctx, void *p, size_t n, bool *end), void *ctx, uint64_t *n);

#endif
