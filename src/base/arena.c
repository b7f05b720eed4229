/* Arenas: a chain of blocks, filled from the front. Under ASan what is not handed out is poisoned, with a gap behind
 * each piece, so that a use after arena_reset() and an overrun are found as they would be on the heap. */
#include "base/base.h"
#include "base/arena.h"

#include <stdlib.h>

#if defined __SANITIZE_ADDRESS__
#define ASAN 1
#elif defined __has_feature
#if __has_feature(address_sanitizer)
#define ASAN 1
#endif
#endif
#ifdef ASAN
#include <sanitizer/asan_interface.h>
#define GAP 16
#else
#define ASAN_POISON_MEMORY_REGION(p, n) ((void)(p), (void)(n))
#define ASAN_UNPOISON_MEMORY_REGION(p, n) ((void)(p), (void)(n))
#define GAP 0
#endif

#define FIRST 2048          /* with the arena itself: most questions and sessions need no second block */
#define LARGEST (64 * 1024) /* blocks double up to this; what is larger gets one of its own */

struct block {
    struct block *prev;
    size_t n, cap; /* bytes of data taken, there */
    _Alignas(16) char data[];
};

struct arena {
    struct block *last; /* where pieces come from; its chain of prev ends in `first` */
    size_t size;
    _Alignas(16) struct block first;
};

static size_t round16(size_t n) { return (n + 15) & ~(size_t)15; }

void *mem_new(size_t n)
{
    void *p = calloc(1, n ? n : 1);
    must(p);
    return p;
}

void *mem_grow(void *p, size_t n)
{
    p = realloc(p, n ? n : 1);
    must(p);
    return p;
}

void mem_free(void *p) { free(p); }

arena *arena_new(void)
{
    arena *a = mem_grow(NULL, FIRST);
    *a = (arena){ .last = &a->first, .size = FIRST };
    a->first.cap = FIRST - sizeof *a;
    ASAN_POISON_MEMORY_REGION(a->first.data, a->first.cap);
    return a;
}

void arena_reset(arena *a)
{
    while (a->last != &a->first) {
        struct block *b = take(a->last);
        a->last = b->prev;
        a->size -= sizeof *b + b->cap;
        ASAN_UNPOISON_MEMORY_REGION(b->data, b->cap);
        mem_free(b);
    }
    a->first.n = 0;
    ASAN_POISON_MEMORY_REGION(a->first.data, a->first.cap);
}

void arena_free(arena *a)
{
    if (!a)
        return;
    arena_reset(a);
    ASAN_UNPOISON_MEMORY_REGION(a->first.data, a->first.cap);
    mem_free(a);
}

static struct block *block_add(arena *a, size_t cap)
{
    struct block *b = mem_grow(NULL, sizeof *b + cap);
    *b = (struct block){ .prev = a->last, .cap = cap };
    ASAN_POISON_MEMORY_REGION(b->data, cap);
    a->size += sizeof *b + cap;
    a->last = b;
    return b;
}

/* Not zeroed. */
static void *piece(arena *a, size_t n)
{
    must(n <= SIZE_MAX / 4);
    size_t whole = round16(n) + GAP;
    struct block *b = a->last;

    if (whole > b->cap - b->n)
        b = block_add(a, MAX(whole, MIN(b->cap * 2, LARGEST)));
    void *p = b->data + b->n;
    b->n += whole;
    ASAN_UNPOISON_MEMORY_REGION(p, n);
    return p;
}

void *arena_alloc(arena *a, size_t n)
{
    return memset(piece(a, n), 0, n);
}

void *arena_grow(arena *a, void *p, size_t old, size_t n)
{
    struct block *b = a->last;

    if (p && (char *)p + round16(old) + GAP == b->data + b->n) {
        size_t before = (size_t)((char *)p - b->data);
        if (round16(n) + GAP <= b->cap - before) {
            b->n = before + round16(n) + GAP;
            ASAN_UNPOISON_MEMORY_REGION(p, n);
            return p;
        }
    }
    void *to = piece(a, n);
    if (p)
        memcpy(to, p, MIN(old, n));
    return to;
}

size_t arena_size(const arena *a) { return a->size; }
