/* Counters by name: what metrics tell apart. */
#include "stats/inside.h"

#include <stdio.h>

static struct label_count *label_at(struct labels *l, str name)
{
    unsigned used = l->used;

    name = str_head(name, LABEL_TEXT - 1);
    for (unsigned i = 0; i < used; i++)
        if (str_eq(str_z(l->label[i].name), name))
            return &l->label[i];
    if (used == LABELS_MOST)
        return &l->label[LABELS_MOST];
    snprintf(l->label[used].name, LABEL_TEXT, "%.*s", STR(name));
    __atomic_store_n(&l->used, used + 1, __ATOMIC_RELEASE);
    return &l->label[used];
}

void stats_label(enum family f, str label, unsigned way)
{
    uint64_t *cell = &label_at(&cell_mine()->labels[f], label)->n[MIN(way, LABEL_WAYS - 1)];
    __atomic_store_n(cell, *cell + 1, __ATOMIC_RELAXED);
}

static void label_sum(struct label_count *to, const struct label_count *from)
{
    for (size_t i = 0; i < LABEL_WAYS; i++)
        to->n[i] += __atomic_load_n(&from->n[i], __ATOMIC_RELAXED);
}

size_t stats_labels(enum family f, struct label_count *ret, size_t most)
{
    struct label_count other = { .name = LABEL_OTHER };
    size_t n = 0;

    must(most > 0);
    for (struct thread_cell *c = cells_first(); c; c = c->next) {
        const struct labels *l = &c->labels[f];
        unsigned used = __atomic_load_n(&l->used, __ATOMIC_ACQUIRE);
        for (unsigned i = 0; i < used; i++) {
            size_t k = 0;
            while (k < n && strcmp(ret[k].name, l->label[i].name) != 0)
                k++;
            if (k == n && n + 1 < most) {
                ret[n] = (struct label_count){ 0 };
                memcpy(ret[n++].name, l->label[i].name, LABEL_TEXT);
            }
            label_sum(k < n ? &ret[k] : &other, &l->label[i]);
        }
        label_sum(&other, &l->label[LABELS_MOST]);
    }
    for (size_t i = 0; i < LABEL_WAYS; i++)
        if (other.n[i]) {
            ret[n++] = other;
            break;
        }
    return n;
}
