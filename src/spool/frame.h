/* frame: the bytes on disk, and nothing but the bytes. No files, no threads. doc/spool.md draws every one of them. */
#ifndef SPOOL_FRAME_H
#define SPOOL_FRAME_H

#include "spool/spool.h"

#define PAGE 4096u                      /* batches begin on one; the segment's head has the first to itself */
#define FRAME_HEAD 40u
#define FRAME_MAX (32u << 20)           /* octets in one record; half a segment */

static inline uint32_t le16(const uint8_t *p) { return (uint32_t)p[0] | (uint32_t)p[1] << 8; }
static inline uint32_t le32(const uint8_t *p) { uint32_t v; memcpy(&v, p, 4); return v; } /* every machine of ours is little-endian */
static inline uint64_t le64(const uint8_t *p) { uint64_t v; memcpy(&v, p, 8); return v; }
static inline void put16(uint8_t *p, uint32_t v) { p[0] = (uint8_t)v; p[1] = (uint8_t)(v >> 8); }
static inline void put32(uint8_t *p, uint32_t v) { memcpy(p, &v, 4); }
static inline void put64(uint8_t *p, uint64_t v) { memcpy(p, &v, 8); }
static inline uint32_t round8(uint32_t n) { return (n + 7) & ~7u; }
static inline uint32_t round_page(uint32_t n) { return (n + PAGE - 1) & ~(PAGE - 1); }

/* ---- frames -------------------------------------------------------------------------------------------------------- */

enum frame_type {
    FRAME_BATCH = 1,                    /* begins each batch */
    FRAME_BODY,                         /* the octets of a message */
    FRAME_CHUNK,                        /* a piece of a large body */
    FRAME_MESSAGE,                      /* all but the octets */
    FRAME_OUTCOME,                      /* what happened to recipients */
    FRAME_END,                          /* the same, and none of them waits any more */
    FRAME_ABORT,                        /* the message was stored but never acknowledged: as if it were not there */
};
#define FRAME_IGNORABLE 0x8000u         /* in a type: a reader that does not know it may pass over it */
static inline bool frame_known(unsigned type) { return type >= FRAME_BATCH && type <= FRAME_ABORT; }
static inline bool frame_is_note(unsigned type) { return type >= FRAME_OUTCOME && type <= FRAME_ABORT; }
static inline bool frame_is_octets(unsigned type) { return type == FRAME_BODY || type == FRAME_CHUNK; }

struct frame {
    unsigned type;
    uint32_t segment, life, offset;     /* where it says it is */
    uint32_t n;                         /* octets of `body` */
    ulid id;
    const uint8_t *body;
};
/* On disk a frame takes its head, its octets, and zeros up to a multiple of 8. */
static inline uint32_t frame_size(uint32_t n) { return FRAME_HEAD + round8(n); }

/* Write the head at `p`, its `n` octets lie behind it already; zeros follow them up to frame_size(n). Where it will lie is not known
 * yet: frame_place() completes it, and may be repeated (somewhere else) after frame_again(). */
void frame_begin(uint8_t *p, unsigned type, ulid id, uint32_t n);
void frame_place(uint8_t *p, uint32_t segment, uint32_t life, uint32_t offset);
void frame_again(uint8_t *p);           /* back to the state after frame_begin(), also after a change of its octets */
static inline uint32_t frame_length(const uint8_t *p) { return le32(p + 4); }
static inline unsigned frame_type_of(const uint8_t *p) { return le16(p + 8); }

/* Is there a frame of this segment and life at `p`, where `have` octets can be read, that says it lies at `offset` and whose
 * checksum is right? E_NOTFOUND: it is of another place or life, or none. E_LIMIT: it has more octets than `have`;
 * E_DAMAGED: its head is of this place, its checksum is not. No text is set: this is asked of every 8th octet. */
err frame_check(const uint8_t *p, uint64_t have, uint32_t segment, uint32_t life, uint32_t offset, struct frame *ret);

/* ---- segment head: the first page ------------------------------------------------------------------------------- */

#define HEAD_SIZE 64u                   /* of one sector: it is written whole or not at all */
struct head {
    uint32_t format, needs, may;        /* feature bits: a reader must know all of `needs` */
    uint32_t segment, life;
    uint32_t size;                      /* of the file */
    when made;                          /* wall clock */
};
void head_write(uint8_t p[PAGE], const struct head *h);
err head_read(const uint8_t *p, struct head *ret); /* E_NOTFOUND not a head; E_DAMAGED; E_UNKNOWN newer than us */

/* ---- batch ------------------------------------------------------------------------------------------------------------ */

#define BATCH_BODY 40u
struct batch {
    uint64_t seq;
    uint32_t length;                    /* of the whole batch, from its first page to its last */
    uint32_t count;                     /* frames in it besides this one */
    /* Everything acknowledged before this batch lies before this place, in the order of segment numbers and offsets. */
    struct spool_ref durable;
    uint32_t torn_from;                 /* in durable.segment: a crash was recovered there; what is bad behind here was never whole */
    bool abandoned;                     /* behind `durable` lie bytes of batches that failed: they do not count */
};
void batch_write(uint8_t p[FRAME_HEAD + BATCH_BODY], const struct batch *b); /* frame_place() it */
err batch_read(const struct frame *f, struct batch *ret);

/* ---- records --------------------------------------------------------------------------------------------------------- */

/* A message as stored. A piece with segment 0 lies `offset` octets before the message record's own frame. `state` are what was known of
 * recipients when it was copied forward, from `was` (segment 0: it was not). */
struct stored {
    const struct message *m;
    struct spool_ref was;
    const struct rcpt_state *state;
    size_t nstate;
};
/* Append the body of a message record. */
void stored_write(struct buf *out, const struct stored *s);
uint32_t stored_guess(const struct stored *s); /* at least what stored_write() appends */
/* Read one. Strings borrow from f->body, arrays are in `a`; pieces are resolved to where they lie. E_DAMAGED. */
struct stored_read { struct message *m; struct spool_ref was; struct rcpt_state *state; size_t nstate; };
err stored_read(const struct frame *f, arena *a, struct stored_read *ret);
/* Only the first look: where it was, and its pieces (bare refs, resolved), without an arena. */
struct stored_piece { struct spool_ref at; uint32_t n; };
err stored_was(const struct frame *f, struct spool_ref *was, uint32_t *npiece);
struct stored_piece stored_piece(const struct frame *f, uint32_t i);

/* A note: FRAME_OUTCOME, FRAME_END, FRAME_ABORT. */
#define NOTE_BODY 16u
void note_write(struct buf *out, struct spool_ref home, const struct rcpt_state *state, size_t n);
err note_home(const struct frame *f, struct spool_ref *ret, uint32_t *n);
/* Merge into state[0..nrcpt) what is newer, by version. Strings are borrowed. */
err note_merge(const struct frame *f, struct rcpt_state *state, size_t nrcpt);

/* ---- walk: what lies in a segment ------------------------------------------------------------------------------- */

struct walk {
    /* given */
    const uint8_t *p;                   /* the whole segment */
    uint32_t size, segment, life;
    /* A good frame that lies in a batch, in order. `sure`: it lies before the start of the last batch. */
    err (*frame)(void *ctx, const struct frame *f);
    /* Bytes [from, to) that hold no good frame though some should be there. Everything from `walk.last` on may be torn. */
    void (*bad)(void *ctx, uint32_t from, uint32_t to);
    void *ctx;
    /* found */
    uint32_t last;                      /* where the last good batch begins: all before it was acknowledged. 0: there is none */
    uint32_t end;                       /* where it ends; at least PAGE */
    uint64_t seq;                       /* its number */
    uint32_t batches, frames;
    bool has_first;                     /* the batch at PAGE is good, and this it says: */
    struct batch first;
};
/* Find every frame. Bytes that should be a frame and are none are stepped over by 8 until one is found: it harms no other. What lies
 * behind the last good batch never was acknowledged. An error is that of a callback. */
err walk_segment(struct walk *w);

#endif
