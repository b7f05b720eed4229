/* A binary heap whose entries know where they are. */
#include "base/base.h"

static void place(struct heap *h, size_t i, struct heap_entry *e)
{
    h->p[i] = e;
    e->at = i + 1;
}

static void sift_up(struct heap *h, size_t i, struct heap_entry *e)
{
    for (size_t up; i > 0 && h->p[up = (i - 1) / 2]->key > e->key; i = up)
        place(h, i, h->p[up]);
    place(h, i, e);
}

static void sift_down(struct heap *h, size_t i, struct heap_entry *e)
{
    for (size_t down; (down = 2 * i + 1) < h->n; i = down) {
        if (down + 1 < h->n && h->p[down + 1]->key < h->p[down]->key)
            down++;
        if (h->p[down]->key >= e->key)
            break;
        place(h, i, h->p[down]);
    }
    place(h, i, e);
}

static void settle(struct heap *h, size_t i, struct heap_entry *e)
{
    if (i > 0 && h->p[(i - 1) / 2]->key > e->key)
        sift_up(h, i, e);
    else
        sift_down(h, i, e);
}

void heap_put(struct heap *h, struct heap_entry *e, when key)
{
    e->key = key;
    if (!e->at) {
        if (h->n == h->cap) {
            h->cap = h->cap ? h->cap * 2 : 16;
            h->p = mem_grow(h->p, h->cap * sizeof *h->p);
        }
        place(h, h->n++, e);
    }
    must(e->at <= h->n && h->p[e->at - 1] == e);
    settle(h, e->at - 1, e);
}

void heap_del(struct heap *h, struct heap_entry *e)
{
    if (!e->at)
        return;
    size_t i = e->at - 1;
    must(i < h->n && h->p[i] == e);
    struct heap_entry *last = h->p[--h->n];
    e->at = 0;
    if (last != e)
        settle(h, i, last);
}

/* What is still inside counts as outside. */
void heap_free(struct heap *h)
{
    for (size_t i = 0; i < h->n; i++)
        h->p[i]->at = 0;
    mem_free(h->p);
    *h = (struct heap){ 0 };
}
