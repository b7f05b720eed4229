/* A spool that is not running, read from end to end and left as it is. */
#include "spool/spool_inside.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>

struct verify { struct spool s; struct buf *out; uint32_t *number; size_t n; uint64_t damaged, torn, messages, waiting, notes, unused, missing; };

static int listed(void *ctx, const char *name)
{
    struct verify *v = ctx;
    char *end;
    unsigned long n = strtoul(name, &end, 16);

    if (end == name + 8 && n && n <= UINT32_MAX && strcmp(end, ".seg") == 0) {
        v->number = mem_grow(v->number, (v->n + 1) * sizeof *v->number);
        v->number[v->n++] = (uint32_t)n;
    }
    if (end == name + 8 && strcmp(end, ".bad") == 0)
        buf_addf(v->out, "%s  was set aside, because its head could not be read\n", name);
    return 0;
}

static int by_number(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return x < y ? -1 : x > y;
}

static void verify_heads(struct verify *v)
{
    if (v->n)
        qsort(v->number, v->n, sizeof *v->number, by_number);
    for (size_t i = 0; i < v->n; i++) {
        struct segment *g;
        bool used;
        if (segment_open(&v->s, v->number[i], &g, &used) != OK) {
            buf_addf(v->out, "%08x.seg  %.*s\n", v->number[i], STR(err_text()));
            v->damaged++;
        } else {
            segment_insert(&v->s, g);
        }
    }
    segment_verdicts(&v->s);
}

/* Scan one, and keep what it says of itself and others. */
static void verify_segment(struct verify *v, struct segment *g)
{
    struct scanned sc = { .findings = v->out };

    if (segment_scan(g, &sc) != OK) {
        buf_addf(v->out, "%08x.seg  %.*s\n", g->number, STR(err_text()));
        v->damaged++;
        return;
    }
    v->damaged += sc.damaged;
    v->torn += sc.torn_bytes;
    v->messages += sc.index->nmessage;
    v->notes += sc.index->nnote;
    v->unused += sc.walk.batches == 0;
    segment_learn(&v->s, g, sc.index);
    g->index = sc.index;
}

/* A copy whose original ended before all had heard that it moved. */
static bool ended_as(struct spool *s, struct spool_ref was)
{
    struct segment *g = was.segment ? segment_find(s, was.segment) : NULL;
    uint32_t slot = g ? segment_slot(g, was.offset) : NO_SLOT;
    return slot != NO_SLOT && g->flag[slot] & SLOT_ENDED;
}

/* Do the bodies of what waits in `g` lie where they should? */
static void verify_bodies(struct verify *v, struct segment *g)
{
    AUTO_ARENA a = arena_new();
    const struct index *x = g->index;

    for (uint32_t i = 0; x && i < x->nmessage; i++) {
        struct frame f = index_frame(x, x->message[i].at), piece;
        struct stored_read st;
        uint32_t slot = segment_slot(g, f.offset);
        arena_reset(a);
        if (slot == NO_SLOT || g->flag[slot] & (SLOT_ENDED | SLOT_MOVED))
            continue;
        if (stored_read(&f, a, &st) != OK) {
            buf_addf(v->out, "%08x.seg  %.*s\n", g->number, STR(err_text()));
            v->damaged++;
            continue;
        }
        if (ended_as(&v->s, st.was))
            continue;
        v->waiting++;
        for (size_t k = 0; k < st.m->npiece; k++) {
            struct spool_piece want = st.m->piece[k];
            struct segment *there = segment_find(&v->s, want.at.segment);
            struct place at = there ? (struct place){ there->fd, there->number, there->life, there->size } : (struct place){ 0 };
            if (there && place_read(&v->s, &at, want.at.offset, frame_size(want.n), a, false, &piece) == OK && piece.n == want.n)
                continue;
            char id[ULID_TEXT];
            buf_addf(v->out, "%08x.seg  message %.*s waits, and octets of its body at %u:%u are gone\n", g->number, STR(ulid_print(f.id, id)),
                       want.at.segment, want.at.offset);
            v->missing++;
        }
    }
}

static err verify_all(struct verify *v)
{
    struct spool *s = &v->s;
    int lock = machine->file_open(s->dir, "lock", O_RDWR, 0);

    if (lock >= 0 && machine->file_lock(lock) == -EWOULDBLOCK) {
        machine->close(lock);
        return fail(E_EXISTS, "%s is in use by another process", s->dir_text);
    }
    int got = machine->file_list(s->dir, listed, v);
    if (got == 0) {
        verify_heads(v);
        for (size_t i = 0; i < s->nsegment; i++)
            verify_segment(v, s->segment[i]);
        for (size_t i = 0; i < s->nsegment; i++)
            verify_bodies(v, s->segment[i]);
        buf_addf(v->out, "%zu segments, %llu of them unused; %llu messages, %llu of them waiting; %llu notes; %llu octets never acknowledged; "
                           "%llu places damaged; %llu pieces of bodies missing\n",
                   s->nsegment, (unsigned long long)v->unused, (unsigned long long)v->messages, (unsigned long long)v->waiting,
                   (unsigned long long)v->notes, (unsigned long long)v->torn, (unsigned long long)v->damaged, (unsigned long long)v->missing);
    }
    for (size_t i = 0; i < s->nsegment; i++) {
        machine->close(s->segment[i]->fd);
        segment_free(s->segment[i]);
    }
    mem_free(s->segment);
    if (lock >= 0)
        machine->close(lock);
    if (got < 0)
        return fail_errno(-got, "listing %s", s->dir_text);
    return v->damaged || v->missing ? fail(E_DAMAGED, "%s is damaged", s->dir_text) : OK;
}

err spool_verify(str dir, struct buf *out)
{
    struct verify *v = mem_new(sizeof *v);
    struct spool *s = &v->s;

    v->out = out;
    s->dir_text = mem_new(dir.n + 1);
    memcpy(s->dir_text, dir.p, dir.n);
    s->dir = machine->file_open(-100 /* AT_FDCWD */, s->dir_text, O_RDONLY | O_DIRECTORY, 0);
    err e = s->dir < 0 ? fail_errno(-s->dir, "%s", s->dir_text) : verify_all(v);
    if (s->dir >= 0)
        machine->close(s->dir);
    mem_free(v->number);
    mem_free(s->dir_text);
    mem_free(v);
    return e;
}
