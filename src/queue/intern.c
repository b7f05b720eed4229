/* Strings that many tickets share. */
#include "queue/inside.h"

static uint32_t *bucket_of(const struct intern *in, uint32_t hash) { return &in->bucket[hash & (in->nbucket - 1)]; }

static void grow(struct intern *in)
{
    mem_free(in->bucket);
    in->nbucket = in->nbucket ? in->nbucket * 2 : 64;
    in->bucket = mem_new(in->nbucket * sizeof *in->bucket);
    for (uint32_t i = 1; i <= in->n; i++)
        if (in->item[i].refs) {
            uint32_t *first = bucket_of(in, in->item[i].hash);
            in->item[i].next = *first;
            *first = i;
        }
}

static uint32_t number_new(struct intern *in)
{
    uint32_t number = in->free;

    if (number) {
        in->free = in->item[number].next;
        return number;
    }
    if (in->n + 1 >= in->cap) {
        in->cap = in->cap ? in->cap * 2 : 64;
        in->item = mem_grow(in->item, in->cap * sizeof *in->item);
    }
    return ++in->n;
}

uint32_t intern_get(struct intern *in, str s)
{
    if (s.n == 0)
        return 0;
    must(s.n <= UINT32_MAX);
    uint32_t hash = (uint32_t)str_hash(s);
    for (uint32_t i = in->nbucket ? *bucket_of(in, hash) : 0; i; i = in->item[i].next)
        if (in->item[i].hash == hash && str_eq(intern_str(in, i), s)) {
            in->item[i].refs++;
            return i;
        }
    if (in->used == in->nbucket)
        grow(in);
    uint32_t number = number_new(in), *first = bucket_of(in, hash);
    char *p = mem_new(s.n);
    memcpy(p, s.p, s.n);
    in->item[number] = (struct interned){ .p = p, .n = (uint32_t)s.n, .refs = 1, .hash = hash, .next = *first };
    *first = number;
    in->used++;
    return number;
}

void intern_put(struct intern *in, uint32_t number)
{
    if (number == 0)
        return;
    struct interned *i = &in->item[number];
    must(i->refs > 0);
    if (--i->refs)
        return;
    uint32_t *at = bucket_of(in, i->hash);
    while (*at != number)
        at = &in->item[*at].next;
    *at = i->next;
    in->used--;
    mem_free(i->p);
    *i = (struct interned){ .next = in->free };
    in->free = number;
}

str intern_str(const struct intern *in, uint32_t number)
{
    return number ? str_of(in->item[number].p, in->item[number].n) : S("");
}

void intern_free(struct intern *in)
{
    for (uint32_t i = 1; i <= in->n; i++)
        mem_free(in->item[i].p);
    mem_free(in->item);
    mem_free(in->bucket);
}
