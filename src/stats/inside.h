#ifndef STATS_INSIDE_H
#define STATS_INSIDE_H

#include "stats/stats.h"

#include <pthread.h>

struct ring {
    char *p;                /* STATS_RING octets, on first use */
    size_t first, next;     /* oldest event; where the next one goes */
    size_t used;            /* events inside */
};

/* Written by its thread only: `used` grows after a name is there. */
struct labels { unsigned used; struct label_count label[LABELS_MOST + 1]; /* the last one: all others */ };

/* What one thread keeps. Cells are never freed: counters outlive their threads. */
struct thread_cell {
    struct thread_cell *next;
    struct stats stats;
    struct labels labels[FAMILIES];
    pthread_mutex_t lock;   /* of the ring: held for a copy, never over a wait */
    struct ring ring;
    struct { char text[LAST_TEXT]; when at; } last[LABELS_MOST + 1];    /* of FAMILY_DELIVERIES' labels; under `lock` */
};

struct thread_cell *cell_mine(void);
struct thread_cell *cells_first(void);

#endif
