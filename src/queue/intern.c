/* Strings that many tickets share. */
#include "queue/inside.h"

uint32_t intern_get(struct intern *in, str s)
{
    if (s.n == 0)
        return 0;
    void *known = map_get(&in->by_text, s);
    if (known) {
        uint32_t number = (uint32_t)(uintptr_t)known;
        in->item[number].refs++;
        return number;
    }
    uint32_t number = in->free;
    if (number)
        in->free = in->item[number].next_free;
    else {
        if (in->n + 1 >= in->cap) {
            in->cap = in->cap ? in->cap * 2 : 64;
            in->item = mem_grow(in->item, in->cap * sizeof *in->item);
        }
        number = ++in->n;
    }
    char *p = mem_new(s.n);
    memcpy(p, s.p, s.n);
    in->item[number] = (struct interned){ .p = p, .n = s.n, .refs = 1 };
    map_put(&in->by_text, str_of(p, s.n), (void *)(uintptr_t)number);
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
    map_del(&in->by_text, str_of(i->p, i->n));
    mem_free(i->p);
    *i = (struct interned){ .next_free = in->free };
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
    map_free(&in->by_text);
}
