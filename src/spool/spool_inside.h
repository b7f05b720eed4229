/* The inside of spool/: what its files share. doc/spool.md tells why it is right.
 *
 * Who owns what. The committer thread alone writes to the open segment and decides where a record lies. The keeper thread alone makes,
 * renames, frees and compacts segments. Worker threads own their port and their entries until these are pushed. What several of them
 * look at (the table of segments, their messages, who depends on whom) is under `lock`, which is never held over a wait. */
#ifndef SPOOL_INSIDE_H
#define SPOOL_INSIDE_H

#include "spool/frame.h"

#include <pthread.h>

#define BATCH_MAX (8u << 20)            /* of small entries in one batch */
#define BATCH_LARGE (1u << 20)          /* of large ones */
#define SMALL_END (8u << 20)            /* of the last segment there is, this end is kept from large ones */
#define LARGE (128u << 10)              /* an entry from this size on is one */
#define BATCH_PARTS 1000                /* of the system's 1024 for one pwritev */
#define NOTES_LATE 256                  /* notes of a port that may be not durable yet: a crash brings back what they say */
#define NOTES_MAX (NOTES_LATE / 2)      /* notes that gather in a port */
#define NOTES_BYTES (64u << 10)
#define NOTES_WAIT (50 * MILLISECOND)

struct file_name { char z[16]; };
struct file_name file_name(uint32_t number, const char *ending); /* "0000002a.seg" */

/* ---- segment.c: segments, and the table of them ----------------------------------------------------------------------- */

/* One message of a segment: eight octets at most (plus array slack). */
enum {
    SLOT_ENDED = 1, SLOT_MOVED = 4, SLOT_NOTED = 8, SLOT_FOREIGN = 16,
    SLOT_MOVING = 32,                   /* it is being copied forward */
    SLOT_LATE = 64,                     /* something was noted about it since that began */
    SLOT_NEW = 128,                     /* it is such a copy, and the move is not over */
};

struct foreign { uint32_t message, segment, bytes; };   /* a live message here has a piece there */
struct depend {                         /* we may not be freed before that earlier segment */
    uint32_t segment;
    uint32_t notes;                     /* because of so many notes here about messages there */
    bool copies;                        /* because messages there have newer copies here */
};

enum segment_state { SEGMENT_READY, SEGMENT_OPEN, SEGMENT_SEALED };

struct segment {
    uint32_t number, life, size;
    int fd;
    enum segment_state state;
    bool condemned;                     /* a write or sync failed: never written again, and not recycled */
    bool known;                         /* its messages and notes are in memory (always, but for old ones before spool_load()) */
    bool recovered;                     /* it was there at spool_open() */
    bool tail;                          /* it was the last one in use then */
    uint32_t end;                       /* behind its last durable batch */
    uint32_t torn_from;                 /* what is bad from here on was never whole; 0: not known */
    uint32_t cut;                       /* what lies from here on failed and does not count; 0: all counts */
    struct batch first;                 /* what its first batch says of those before; seq 0: nothing */
    bool unread;                        /* the disk would not give all of it: it is not given back, and read again at the next start */
    bool leaving;                       /* its file may have been renamed already, its number not yet forgotten */

    uint32_t *offset; uint16_t *bytes; uint8_t *flag; /* its messages by offset; bytes in units of 64 */
    uint32_t n, cap;
    uint32_t live;                      /* neither ended nor moved */
    uint64_t live_bytes;                /* theirs, and pieces here of messages elsewhere */
    struct foreign *foreign; uint32_t nforeign, foreign_cap; /* by message */
    uint32_t pins;                      /* pieces here that messages elsewhere, or unfinished ones, need; and moves from here */
    struct depend *depend; uint32_t ndepend, depend_cap; /* by segment */
    uint32_t notes;                     /* note records in it */

    struct index *index;                /* in memory until its file is written */
    bool indexed;                       /* the file is there */
    when sealed;                        /* clock */
    when compact_again;                 /* not before then */
};

struct segment *segment_new(struct spool *s, uint32_t number, uint32_t life, int fd);
void segment_free(struct segment *g);   /* closes nothing */
AUTO_DEFINE(segment)

/* All of these under lock. */
void segment_insert(struct spool *s, struct segment *g);
void segment_remove(struct spool *s, struct segment *g);
struct segment *segment_find(struct spool *s, uint32_t number); /* NULL: it is none, or freed */
#define NO_SLOT UINT32_MAX
uint32_t segment_slot(const struct segment *g, uint32_t offset);
uint32_t segment_add(struct segment *g, uint32_t offset, uint32_t bytes); /* a message; returns its slot */
void segment_add_foreign(struct spool *s, struct segment *g, uint32_t message, uint32_t segment, uint32_t bytes);
void segment_gone(struct spool *s, struct segment *g, uint32_t slot, unsigned flag); /* it has ended, or moved */
void segment_depend(struct segment *g, uint32_t on, uint32_t notes, bool copies);
struct depend *segment_depends(struct segment *g, uint32_t on); /* NULL: it does not */
void segment_undepend(struct segment *g, uint32_t on);
/* A note in `in` about the message at `home`: sets its flags and the dependence. Returns the slot's flags before, or 0. */
unsigned segment_note(struct spool *s, struct segment *in, unsigned type, struct spool_ref home);

/* ---- index.c: all records of one segment but the octets, in memory and as a file beside the segment ---------------------- */

struct index_message { uint32_t offset, at, was_segment, was_offset, bytes, nforeign; };
struct index_foreign { uint32_t segment, bytes; };
struct index_note { uint32_t segment, offset /* home */, at, type; };

struct index {
    struct buf frames;                  /* copies, in order */
    struct index_message *message; uint32_t nmessage, message_cap;
    struct index_foreign *foreign; uint32_t nforeign, foreign_cap;
    struct index_note *note; uint32_t nnote, note_cap;
    bool sorted;                        /* notes by home, as in the file */
};
struct index *index_new(void);
void index_free(struct index *x);
AUTO_DEFINE(index)
/* Add a message or note as it lies in the segment; others are passed over. */
err index_add(struct index *x, const struct frame *f);
void index_sort(struct index *x);
struct frame index_frame(const struct index *x, uint32_t at); /* its place is not checked: we put it there */
/* The file. Reading checks head and tables; frames are checked when used. E_DAMAGED, E_NOTFOUND: scan the segment. */
WAITS err index_write(struct spool *s, struct segment *g, struct index *x);
uint32_t keeper_piece(const struct spool *s);   /* octets that the keeper writes at once, */
WAITS void keeper_pace(struct spool *s, when took);     /* and how long it then leaves the disk to commits */
WAITS err index_read(struct spool *s, struct segment *g, struct index **ret);  /* frames and all; fills what the head knows of g */
/* Only the notes about messages of `home`, from the file. Appends to x. */
WAITS err index_read_notes(struct spool *s, uint32_t number, uint32_t life, uint32_t home, struct index *x);
void index_drop(struct spool *s, uint32_t number);

/* ---- commit.c ------------------------------------------------------------------------------------------------------------ */

enum entry_kind { ENTRY_MESSAGE, ENTRY_CHUNK, ENTRY_NOTES, ENTRY_FLUSH, ENTRY_CLOSE };
enum entry_rank { RANK_INTAKE, RANK_RESERVE, RANK_KEEPER };    /* who may use the last segments */

struct entry_piece { struct spool_ref at; uint32_t n; bool shared; };

/* A request to the committer: whole frames, written side by side. */
struct entry {
    struct entry *next;
    enum entry_kind kind;
    enum entry_rank rank;
    struct iovec part[2];
    unsigned nparts;
    uint32_t bytes;                     /* of all parts; a multiple of 8 */
    bool placed;                        /* its frames have had a place before */
    uint32_t message_at;                /* ENTRY_MESSAGE: where in the bytes the message record begins */
    struct entry_piece *piece; size_t npiece; /* ENTRY_MESSAGE: pieces written before */
    struct spool_ref was;               /* ENTRY_MESSAGE: a copy of this */
    unsigned notes;                     /* ENTRY_NOTES: how many */
    /* the answer */
    struct spool_ref at;                /* of the first byte */
    err result;
    char why[120];
    bool done;                          /* seen by the port's own thread only */
    bool odd;                           /* in which of port.unseen it was counted */
    bool abandoned;                     /* its task was cancelled and is gone */
    struct spool_port *port;
    struct waiters waiter;
    ulid id;
    struct spool_slab *slab;            /* a share of it is ours */
    struct buf memory;                  /* ours */
};
void entry_free(struct entry *e);
void commit_push(struct spool *s, struct entry *first, struct entry *last); /* linked by next: last is committed first */
err commit_start(struct spool *s, uint64_t seq, struct spool_ref durable, uint32_t torn_from);
WAITS void commit_stop(struct spool *s);
void commit_poke(struct spool *s);      /* something changed: look again */

/* ---- port.c -------------------------------------------------------------------------------------------------------------- */

struct spool_port {
    struct spool *s;
    struct thread *thread;
    struct link link;                   /* in spool.ports; under lock */
    enum entry_rank rank;
    /* the thread's own */
    struct entry *notes;                /* gathering */
    when notes_since;
    bool timer_idle, closing;
    struct waiters timer, closer;
    unsigned in_flight, timers;
    unsigned unseen[2]; bool odd;       /* answered, and their tasks have not run since; the count in use */
    uint64_t noted, safe;               /* notes made, and how many of them are known to be durable */
    struct waiters late;                /* until these come together again */
    bool gone;
    /* shared with the committer */
    struct entry *done;                 /* answered; taken whole by post.run */
    bool posted;
    struct post post, gone_post;
    struct entry *ready; bool touched;  /* the committer's own */
    struct spool_port *touched_next;
};
struct spool_port *port_open(struct spool *s, enum entry_rank rank);
struct stored;
err entry_message(struct spool_port *p, const struct stored *st, struct spool_slab *slab, struct entry **ret);
void pieces_unpin(struct spool *s, struct entry *e);
/* Wait for what was pushed; the entry is freed unless the wait was cancelled (then it is freed later). */
WAITS err port_wait(struct entry *e, struct spool_ref *ret);
WAITS err port_commit(struct spool_port *p, struct entry *e, struct spool_ref *ret); /* push and wait */
struct entry *entry_chunk(struct spool_port *p, unsigned type, ulid id, str octets);
struct entry *entry_new(struct spool_port *p, enum entry_kind kind);
void port_push(struct spool_port *p, struct entry *e);  /* with the notes that wait */
void port_note(struct spool_port *p, unsigned type, ulid id, struct spool_ref home, const struct rcpt_state *state, size_t n);
void port_note_again(struct spool_port *p, const struct frame *f); /* a note that stands elsewhere already */

/* Chunks whose message is not written yet. Under lock. */
struct chunks { struct spool_ref *slot; size_t n, cap; };
void chunks_add(struct chunks *c, struct spool_ref at);
bool chunks_take(struct chunks *c, struct spool_ref at); /* was it in there? */
bool chunks_has(const struct chunks *c, struct spool_ref at);

/* ---- read.c ---------------------------------------------------------------------------------------------------------------- */

struct place { int fd; uint32_t number, life, end; };
err place_find(struct spool *s, uint32_t segment, struct place *ret);
/* Read the frame at `offset`, checked. In `a`. With `pool`, waits there when the disk must be read; else reads on this thread. */
WAITS err place_read(struct spool *s, const struct place *at, uint32_t offset, uint32_t guess, arena *a, bool pool, struct frame *ret);
/* All durable notes about messages of segment `home`: appended to x. */
WAITS err gather_notes(struct spool *s, uint32_t home, struct index *x);
/* Merge all notes in a sorted index about the message at `home` into state. */
err merge_notes(const struct index *x, struct spool_ref home, struct rcpt_state *state, size_t nrcpt, bool *ended);
/* What is known of a message before any note: all wait, but for what a copy carried with it. In `a`, for each recipient. */
struct rcpt_state *states_begin(const struct stored_read *st, arena *a);
/* The message record at `home`. In `a`. */
WAITS err message_read(struct spool *s, struct spool_ref home, arena *a, bool pool, struct stored_read *ret);

/* ---- recover.c ------------------------------------------------------------------------------------------------------------- */

/* The first `size` octets of a segment's file, on the heap. What the disk will not give, with the patience of `s` (NULL: none), is zeros. */
WAITS err segment_slurp(struct spool *s, struct segment *g, uint32_t size, uint8_t **ret);
/* Scan it into an index. `damaged` and `torn` are counted up by records and bytes. */
struct scanned { struct spool *s /* NULL: without patience for the disk */; struct buf *findings /* NULL: they are logged */; struct index *index; struct walk walk; uint64_t damaged, torn_bytes; };
WAITS err segment_scan(struct segment *g, struct scanned *ret);
/* Open a segment's file by its head, or when that is damaged by its first batch. `used`: its first batch is good. */
WAITS err segment_open(struct spool *s, uint32_t number, struct segment **ret, bool *used);
/* What each first batch says of those before it: where a crash was recovered, and what failed and does not count. Who says so must
 * outlive them. */
void segment_verdicts(struct spool *s);
/* Take the messages and notes of an index into the table. Under lock. */
void segment_learn(struct spool *s, struct segment *g, const struct index *x);

/* ---- keep.c: the keeper ---------------------------------------------------------------------------------------------------- */

struct spare { struct spare *next; uint32_t number; int fd; };

WAITS err keeper_first(struct spool *s); /* a segment to begin with */
void keeper_start(struct spool *s);     /* after the committer, whom it pokes */
WAITS void keeper_stop(struct spool *s);
void keeper_poke(struct spool *s);      /* from any thread */
WAITS err keeper_make(struct spool *s); /* one more ready segment */
WAITS err sync_dir(struct spool *s);

/* ---- compact.c: on the keeper's thread ------------------------------------------------------------------------------------- */

struct compaction;
/* One bounded piece of work; false: there is nothing to do now. */
WAITS bool compact_some(struct spool *s);
WAITS void compact_end(struct spool *s);
/* What was noted about a copy's original since it was copied is noted about the copy. `known` is what the copy carries. */
void fold_late(struct spool_port *p, const struct stored_read *copy, const struct rcpt_state *known, const struct rcpt_state *now, bool ended);

/* ---- the whole ------------------------------------------------------------------------------------------------------------- */

/* Four buckets to each power of two. */
#define SYNC_BUCKETS 128
static inline unsigned sync_bucket(uint64_t us)
{
    if (us < 8)
        return (unsigned)us;
    unsigned log = 63 - (unsigned)__builtin_clzll(us);
    return MIN(4 * (log - 1) + (unsigned)(us >> (log - 2) & 3), SYNC_BUCKETS - 1);
}
static inline uint64_t sync_bucket_us(unsigned bucket) /* its lower end */
{
    return bucket < 8 ? bucket : (uint64_t)(4 + bucket % 4) << (bucket / 4 - 1);
}

struct committer;

struct spool {
    struct spool_setup setup;
    char *dir_text;
    int dir, lock_fd;
    uint32_t size;                      /* of a segment */

    pthread_mutex_t lock;
    struct segment **segment; size_t nsegment, segment_cap; /* by number */
    struct link ports;
    struct chunks chunks;

    /* keeper's own */
    struct spare *spare;
    uint32_t next_number;
    bool keeper_waits, keeper_poked, keeper_ends;
    struct waiters keeper_wake;
    struct post keeper_post;
    bool keeper_post_busy;              /* atomic */
    struct thread *keeper;
    when make_again, free_again;
    struct compaction *compaction;
    struct spool_move *moves_done;      /* atomic: the last holder has let go of these */
    bool may_move;                      /* atomic */

    /* between keeper and committer; ready under lock, the counts also read without */
    struct segment *ready_list[64];
    unsigned ready;                     /* atomic */
    bool full;                          /* atomic: no more can be made */
    bool refusing;                      /* atomic: mail was refused for want of room, and there is none yet */
    when small;                         /* atomic: there was small mail last */
    uint32_t open_left;                 /* atomic: octets free in the segment that is written to */
    bool roomy;                         /* atomic: there is room for all that are still to be made */
    bool broken;                        /* atomic: writing fails just now */
    bool loaded;                        /* atomic: all segments are known */
    bool unwritten_index;

    /* committer */
    struct entry *pushed;               /* atomic */
    bool idle;                          /* atomic */
    struct post poke;
    struct thread *committer_thread;
    struct committer *committer;

    struct pool *disk;
    uint64_t sync_took[SYNC_BUCKETS];   /* atomics */
    struct spool_stats stats;           /* atomics */
    uint64_t durable;                   /* atomic: segment << 32 | offset */
    when patience;                      /* until then a read that fails is tried again; 0: none failed yet */
    uint32_t tail;                      /* number of the last segment in use at spool_open(); 0: none */
};

#define add_stat(s, field, by) __atomic_fetch_add(&(s)->stats.field, (uint64_t)(by), __ATOMIC_RELAXED)
#define load_acquire(p) __atomic_load_n((p), __ATOMIC_ACQUIRE)
#define store_release(p, v) __atomic_store_n((p), (v), __ATOMIC_RELEASE)

static inline bool small_mail_comes(const struct spool *s) { return clock_now() - load_acquire(&s->small) < 100 * MILLISECOND; }
static inline uint32_t small_end(const struct spool *s) { return MIN(SMALL_END, s->size / 8); }

#endif
