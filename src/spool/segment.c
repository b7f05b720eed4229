/* The table of segments, and what is known of the messages in each. All of it under spool.lock. */
#include "spool/spool_inside.h"

#include <stdio.h>

struct file_name file_name(uint32_t number, const char *ending)
{
    struct file_name n;
    snprintf(n.z, sizeof n.z, "%08x.%s", number, ending);
    return n;
}

struct segment *segment_new(struct spool *s, uint32_t number, uint32_t life, int fd)
{
    struct segment *g = mem_new(sizeof *g);
    *g = (struct segment){ .number = number, .life = life, .fd = fd, .size = s->size, .end = PAGE };
    return g;
}

void segment_free(struct segment *g)
{
    mem_free(g->offset);
    mem_free(g->bytes);
    mem_free(g->flag);
    mem_free(g->foreign);
    mem_free(g->depend);
    if (g->index)
        index_free(g->index);
    mem_free(g);
}

/* Where `number` is in the table, or belongs. */
static size_t table_at(const struct spool *s, uint32_t number)
{
    size_t low = 0, high = s->nsegment;

    while (low < high) {
        size_t mid = low + (high - low) / 2;
        if (s->segment[mid]->number < number)
            low = mid + 1;
        else
            high = mid;
    }
    return low;
}

void segment_insert(struct spool *s, struct segment *g)
{
    size_t at = table_at(s, g->number);

    must(at == s->nsegment || s->segment[at]->number != g->number);
    if (s->nsegment == s->segment_cap) {
        s->segment_cap = MAX(s->segment_cap * 2, 64);
        s->segment = mem_grow(s->segment, s->segment_cap * sizeof *s->segment);
    }
    memmove(s->segment + at + 1, s->segment + at, (s->nsegment - at) * sizeof *s->segment);
    s->segment[at] = g;
    s->nsegment++;
    add_stat(s, segments, 1);
}

void segment_remove(struct spool *s, struct segment *g)
{
    size_t at = table_at(s, g->number);

    must(at < s->nsegment && s->segment[at] == g);
    s->nsegment--;
    memmove(s->segment + at, s->segment + at + 1, (s->nsegment - at) * sizeof *s->segment);
    add_stat(s, segments, -1);
}

struct segment *segment_find(struct spool *s, uint32_t number)
{
    size_t at = table_at(s, number);
    return at < s->nsegment && s->segment[at]->number == number ? s->segment[at] : NULL;
}

uint32_t segment_slot(const struct segment *g, uint32_t offset)
{
    uint32_t low = 0, high = g->n;

    while (low < high) {
        uint32_t mid = low + (high - low) / 2;
        if (g->offset[mid] < offset)
            low = mid + 1;
        else
            high = mid;
    }
    return low < g->n && g->offset[low] == offset ? low : NO_SLOT;
}

uint32_t segment_add(struct segment *g, uint32_t offset, uint32_t bytes)
{
    must(g->n == 0 || g->offset[g->n - 1] < offset);
    if (g->n == g->cap) {
        g->cap = MAX(g->cap + g->cap / 2, 256);
        g->offset = mem_grow(g->offset, g->cap * sizeof *g->offset);
        g->bytes = mem_grow(g->bytes, g->cap * sizeof *g->bytes);
        g->flag = mem_grow(g->flag, g->cap * sizeof *g->flag);
    }
    g->offset[g->n] = offset;
    g->bytes[g->n] = (uint16_t)MIN((bytes + 63) / 64, UINT16_MAX);
    g->flag[g->n] = 0;
    g->live++;
    g->live_bytes += 64u * g->bytes[g->n];
    return g->n++;
}

void segment_add_foreign(struct spool *s, struct segment *g, uint32_t message, uint32_t segment, uint32_t bytes)
{
    struct segment *there = segment_find(s, segment);
    uint32_t slot = segment_slot(g, message);

    must(slot != NO_SLOT && (!g->nforeign || g->foreign[g->nforeign - 1].message <= message));
    if (g->nforeign == g->foreign_cap) {
        g->foreign_cap = MAX(g->foreign_cap * 2, 16);
        g->foreign = mem_grow(g->foreign, g->foreign_cap * sizeof *g->foreign);
    }
    g->foreign[g->nforeign++] = (struct foreign){ message, segment, bytes };
    g->flag[slot] |= SLOT_FOREIGN;
    if (there) {
        there->pins++;
        there->live_bytes += bytes;
    }
}

/* The message in `slot` needs its pieces elsewhere no more. */
static void foreign_release(struct spool *s, struct segment *g, uint32_t message)
{
    uint32_t low = 0, high = g->nforeign;

    while (low < high) {
        uint32_t mid = low + (high - low) / 2;
        if (g->foreign[mid].message < message)
            low = mid + 1;
        else
            high = mid;
    }
    for (; low < g->nforeign && g->foreign[low].message == message; low++) {
        struct segment *there = segment_find(s, g->foreign[low].segment);
        if (!there)
            continue;
        must(there->pins > 0 && there->live_bytes >= g->foreign[low].bytes);
        there->pins--;
        there->live_bytes -= g->foreign[low].bytes;
    }
}

void segment_gone(struct spool *s, struct segment *g, uint32_t slot, unsigned flag)
{
    bool was_live = !(g->flag[slot] & (SLOT_ENDED | SLOT_MOVED));

    g->flag[slot] |= (uint8_t)flag;
    if (!was_live)
        return;
    g->live--;
    g->live_bytes -= 64u * g->bytes[slot];
    if (g->flag[slot] & SLOT_FOREIGN)
        foreign_release(s, g, g->offset[slot]);
}

static uint32_t depend_at(const struct segment *g, uint32_t on)
{
    uint32_t low = 0, high = g->ndepend;

    while (low < high) {
        uint32_t mid = low + (high - low) / 2;
        if (g->depend[mid].segment < on)
            low = mid + 1;
        else
            high = mid;
    }
    return low;
}

struct depend *segment_depends(struct segment *g, uint32_t on)
{
    uint32_t at = depend_at(g, on);
    return at < g->ndepend && g->depend[at].segment == on ? &g->depend[at] : NULL;
}

void segment_depend(struct segment *g, uint32_t on, uint32_t notes, bool copies)
{
    struct depend *d = segment_depends(g, on);

    must(on < g->number); /* so that there is never a circle */
    if (!d) {
        uint32_t at = depend_at(g, on);
        if (g->ndepend == g->depend_cap) {
            g->depend_cap = MAX(g->depend_cap * 2, 8);
            g->depend = mem_grow(g->depend, g->depend_cap * sizeof *g->depend);
        }
        memmove(g->depend + at + 1, g->depend + at, (g->ndepend - at) * sizeof *g->depend);
        g->ndepend++;
        d = &g->depend[at];
        *d = (struct depend){ .segment = on };
    }
    d->notes += notes;
    d->copies |= copies;
}

void segment_undepend(struct segment *g, uint32_t on)
{
    uint32_t at = depend_at(g, on);

    if (at < g->ndepend && g->depend[at].segment == on) {
        g->ndepend--;
        memmove(g->depend + at, g->depend + at + 1, (g->ndepend - at) * sizeof *g->depend);
    }
}

unsigned segment_note(struct spool *s, struct segment *in, unsigned type, struct spool_ref home)
{
    struct segment *h = in->number == home.segment ? in : segment_find(s, home.segment);

    in->notes++;
    if (!h)
        return 0;           /* freed: the note has nothing left to speak of */
    if (h != in && h->number < in->number)
        segment_depend(in, home.segment, 1, false);
    uint32_t slot = segment_slot(h, home.offset);
    if (slot == NO_SLOT)
        return 0;
    unsigned before = h->flag[slot];
    if (before & SLOT_MOVING)
        h->flag[slot] |= SLOT_LATE;
    if (type == FRAME_OUTCOME)
        h->flag[slot] |= SLOT_NOTED;
    else
        segment_gone(s, h, slot, SLOT_ENDED);
    return before;
}

/* ---- chunks without a message ---- */

static size_t chunk_hash(struct spool_ref at) { return (at.segment * 0x9e3779b1u ^ (at.offset >> 3) * 0x85ebca6bu) >> 4; }

static void chunk_put(struct chunks *c, struct spool_ref at)
{
    size_t i = chunk_hash(at) & (c->cap - 1);
    while (c->slot[i].segment)
        i = (i + 1) & (c->cap - 1);
    c->slot[i] = at;
}

void chunks_add(struct chunks *c, struct spool_ref at)
{
    if (2 * (c->n + 1) > c->cap) {
        struct chunks old = *c;
        c->cap = MAX(old.cap * 2, 64);
        c->slot = mem_new(c->cap * sizeof *c->slot);
        for (size_t i = 0; i < old.cap; i++)
            if (old.slot[i].segment)
                chunk_put(c, old.slot[i]);
        mem_free(old.slot);
    }
    chunk_put(c, at);
    c->n++;
}

bool chunks_take(struct chunks *c, struct spool_ref at)
{
    if (c->n == 0)
        return false;
    size_t i = chunk_hash(at) & (c->cap - 1);
    for (;; i = (i + 1) & (c->cap - 1)) {
        if (!c->slot[i].segment)
            return false;
        if (c->slot[i].segment == at.segment && c->slot[i].offset == at.offset)
            break;
    }
    c->slot[i].segment = 0;
    c->n--;
    /* Close the gap: what stands behind it may have wanted its place. */
    for (size_t j = (i + 1) & (c->cap - 1); c->slot[j].segment; j = (j + 1) & (c->cap - 1)) {
        struct spool_ref moving = c->slot[j];
        c->slot[j].segment = 0;
        chunk_put(c, moving);
    }
    return true;
}

bool chunks_has(const struct chunks *c, struct spool_ref at)
{
    if (c->n == 0)
        return false;
    for (size_t i = chunk_hash(at) & (c->cap - 1); c->slot[i].segment; i = (i + 1) & (c->cap - 1))
        if (c->slot[i].segment == at.segment && c->slot[i].offset == at.offset)
            return true;
    return false;
}
