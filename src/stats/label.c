/* Counters by name: what metrics tell apart. */
#include "stats/inside.h"

#include <stdio.h>

_Static_assert(EVENT_KINDS <= LABEL_WAYS, "FAMILY_DELIVERIES counts events by kind");

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

void stats_said(str label, str words)
{
    struct thread_cell *cell = cell_mine();
    size_t i = (size_t)(label_at(&cell->labels[FAMILY_DELIVERIES], label) - cell->labels[FAMILY_DELIVERIES].label);

    pthread_mutex_lock(&cell->lock);
    snprintf(cell->last[i].text, LAST_TEXT, "%.*s", STR(str_head(words, LAST_TEXT - 1)));
    cell->last[i].at = wall_now();
    pthread_mutex_unlock(&cell->lock);
}

bool stats_last(str label, char out[LAST_TEXT], when *at)
{
    bool any = false;

    label = str_head(label, LABEL_TEXT - 1);
    for (struct thread_cell *c = cells_first(); c; c = c->next) {
        const struct labels *l = &c->labels[FAMILY_DELIVERIES];
        unsigned used = __atomic_load_n(&l->used, __ATOMIC_ACQUIRE), i = 0;
        while (i < used && !str_eq(str_z(l->label[i].name), label))
            i++;
        if (i == used)
            continue;
        pthread_mutex_lock(&c->lock);
        if (c->last[i].at && (!any || c->last[i].at > *at)) {
            memcpy(out, c->last[i].text, LAST_TEXT);
            *at = c->last[i].at;
            any = true;
        }
        pthread_mutex_unlock(&c->lock);
    }
    return any;
}
