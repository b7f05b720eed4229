/* bytes -> pointer: open addressing, linear probing, at most three quarters full; removal shifts back what follows, so
 * there are no tombstones to clean up. */
#include "base/base.h"

static uint64_t hash_of(const struct map *m, str key) { return m->fold ? str_ihash(key) : str_hash(key); }

/* The slot of `key`, or the free one where it would go. */
static struct map_slot *find(const struct map *m, str key, uint64_t hash)
{
    for (size_t i = hash & (m->cap - 1);; i = (i + 1) & (m->cap - 1)) {
        struct map_slot *s = &m->slot[i];
        if (!s->key.p || (s->hash == hash && (m->fold ? str_ieq(s->key, key) : str_eq(s->key, key))))
            return s;
    }
}

void *map_get(const struct map *m, str key)
{
    return m->n ? find(m, key, hash_of(m, key))->value : NULL;
}

static void grow(struct map *m)
{
    struct map old = *m;

    m->cap = old.cap ? old.cap * 2 : 8;
    m->slot = mem_new(m->cap * sizeof *m->slot);
    for (size_t i = 0; i < old.cap; i++)
        if (old.slot[i].key.p)
            *find(m, old.slot[i].key, old.slot[i].hash) = old.slot[i];
    mem_free(old.slot);
}

void *map_put(struct map *m, str key, void *value)
{
    must(value);
    if (!key.p)
        key = S("");
    if ((m->n + 1) * 4 > m->cap * 3)
        grow(m);
    uint64_t hash = hash_of(m, key);
    struct map_slot *s = find(m, key, hash);
    void *before = s->key.p ? s->value : NULL;
    m->n += !before;
    *s = (struct map_slot){ key, value, hash }; /* the new key too: the old one may end with the old value */
    return before;
}

void *map_del(struct map *m, str key)
{
    if (m->n == 0)
        return NULL;
    struct map_slot *s = find(m, key, hash_of(m, key));
    if (!s->key.p)
        return NULL;
    void *value = s->value;

    size_t mask = m->cap - 1, hole = (size_t)(s - m->slot);
    for (size_t i = (hole + 1) & mask; m->slot[i].key.p; i = (i + 1) & mask) {
        size_t home = m->slot[i].hash & mask;
        if (((i - home) & mask) >= ((i - hole) & mask)) { /* its home is not behind the hole: it may move there */
            m->slot[hole] = m->slot[i];
            hole = i;
        }
    }
    m->slot[hole] = (struct map_slot){ .key = { 0 } };
    m->n--;
    return value;
}

void map_free(struct map *m)
{
    mem_free(m->slot);
    *m = (struct map){ .fold = m->fold };
}

void *map_next(const struct map *m, size_t *i)
{
    while (*i < m->cap) {
        struct map_slot *s = &m->slot[(*i)++];
        if (s->key.p)
            return s->value;
    }
    return NULL;
}
