#ifndef STATS_INSIDE_H
#define STATS_INSIDE_H

#include "stats/stats.h"

#include <pthread.h>

struct ring {
    char *p;                /* STATS_RING octets, on first use */
    size_t first, next;     /* oldest event; where the next one goes */
    size_t used;            /* events inside */
};

/* What one thread keeps. Cells are never freed: counters outlive their threads. */
struct thread_cell {
    struct thread_cell *next;
    struct stats stats;
    pthread_mutex_t lock;   /* of the ring: held for a copy, never over a wait */
    struct ring ring;
};

struct thread_cell *cell_mine(void);
struct thread_cell *cells_first(void);

#endif
