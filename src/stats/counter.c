/* Counters and histograms, a cell a thread. */
#include "stats/inside.h"

#include <stdatomic.h>

const char *const counter_name[COUNTERS] = {
#define X(name, help) #name,
    STATS_COUNTERS(X)
#undef X
};
const char *const counter_help[COUNTERS] = {
#define X(name, help) help,
    STATS_COUNTERS(X)
#undef X
};

static _Atomic(struct thread_cell *) cells;
static _Thread_local struct thread_cell *mine;

struct thread_cell *cell_mine(void)
{
    if (!mine) {
        mine = mem_new(sizeof *mine);
        pthread_mutex_init(&mine->lock, NULL);
        mine->next = atomic_load(&cells);
        while (!atomic_compare_exchange_weak(&cells, &mine->next, mine))
            ;
    }
    return mine;
}

struct thread_cell *cells_first(void)
{
    return atomic_load(&cells);
}

struct stats *stats_mine(void)
{
    return &cell_mine()->stats;
}

/* One writer a cell: a plain add that no reader can see torn. */
static void cell_add(uint64_t *cell, uint64_t n)
{
    __atomic_store_n(cell, __atomic_load_n(cell, __ATOMIC_RELAXED) + n, __ATOMIC_RELAXED);
}

void stats_add(enum counter c, uint64_t n)
{
    cell_add(&stats_mine()->counter[c], n);
}

/* Bucket 0 ends at 64 us; each further one is 1.5 or 4/3 times as wide, two to a power of two. */
static size_t bucket_of(when value)
{
    if (value < 64)
        return 0;
    unsigned log = 63 - (unsigned)__builtin_clzll((uint64_t)value);
    size_t b = (size_t)(log - 6) * 2 + ((value >> (log - 1)) & 1) + 1;
    return MIN(b, COUNT(((struct histogram *)0)->bucket) - 1);
}

when histogram_end(size_t b)
{
    return b == 0 ? 64 : (b & 1) ? ((when)96 << (b / 2)) : ((when)64 << (b / 2));
}

void histogram_add(struct histogram *h, when value)
{
    if (value < 0)
        value = 0;
    cell_add(&h->bucket[bucket_of(value)], 1);
    cell_add(&h->n, 1);
    cell_add(&h->sum, (uint64_t)value);
}

when histogram_at(const struct histogram *h, double share)
{
    double want = share * (double)h->n, seen = 0;

    for (size_t b = 0; h->n && b < COUNT(h->bucket); b++) {
        if (h->bucket[b] && seen + (double)h->bucket[b] >= want) {
            when low = b ? histogram_end(b - 1) : 0, high = histogram_end(b);
            return low + (when)((double)(high - low) * (want - seen) / (double)h->bucket[b]);
        }
        seen += (double)h->bucket[b];
    }
    return 0;
}

static void histogram_sum(struct histogram *to, const struct histogram *from)
{
    for (size_t b = 0; b < COUNT(to->bucket); b++)
        to->bucket[b] += __atomic_load_n(&from->bucket[b], __ATOMIC_RELAXED);
    to->n += __atomic_load_n(&from->n, __ATOMIC_RELAXED);
    to->sum += __atomic_load_n(&from->sum, __ATOMIC_RELAXED);
}

void stats_sum(struct stats *ret)
{
    *ret = (struct stats){ 0 };
    for (struct thread_cell *c = cells_first(); c; c = c->next) {
        for (size_t i = 0; i < COUNTERS; i++)
            ret->counter[i] += __atomic_load_n(&c->stats.counter[i], __ATOMIC_RELAXED);
        histogram_sum(&ret->accept, &c->stats.accept);
        histogram_sum(&ret->deliver, &c->stats.deliver);
        for (size_t i = 1; i < STATS_STREAMS; i++)
            histogram_sum(&ret->stream[i], &c->stats.stream[i]);
    }
}
