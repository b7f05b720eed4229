#ifndef STATS_INSIDE_H
#define STATS_INSIDE_H

#include "stats/stats.h"

#include <pthread.h>

struct ring {
    char *p;                /* STATS_RING octets, on first use */
    size_t first, next;     /* oldest event; where the next one goes */
    size_t used;            /* events inside */
};

/* An event in the ring, and on its way to the store: this head, then the strings one after another, padded to 8. In the ring, a head with
 * size 0 means that the rest up to the ring's end is unused. */
#define PARTS 7
struct stored {
    uint32_t size;
    uint16_t n[PARTS];
    uint8_t kind;
    uint32_t attempt;
    ulid id;
    when at, took;
    uint64_t bytes;
};
/* The event, its strings borrowed. */
struct event stored_event(const struct stored *s);

/* Written by its thread only: `used` grows after a name is there. */
struct labels { unsigned used; struct label_count label[LABELS_MOST + 1]; /* the last one: all others */ };

/* What one thread keeps. Cells are never freed: counters outlive their threads. */
struct thread_cell {
    struct thread_cell *next;
    struct stats stats;
    struct labels labels[FAMILIES];
    pthread_mutex_t lock;   /* of the ring: held for a copy, never over a wait */
    struct ring ring;
    struct buf pending;     /* on its way to the store: heap; under `lock` */
    uint64_t lost;          /* that did not fit; under `lock` */
    struct { char text[LAST_TEXT]; when at; } last[LABELS_MOST + 1];    /* of FAMILY_DELIVERIES' labels; under `lock` */
};

#define PENDING_MOST (4u << 20)
extern _Atomic bool events_stored;      /* there is a store: keep them for it */

struct thread_cell *cell_mine(void);
struct thread_cell *cells_first(void);

#endif
