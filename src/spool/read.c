/* Reading back: records by reference, and what is known of a message's recipients. */
#include "spool/spool_inside.h"

#include <errno.h>

err place_find(struct spool *s, uint32_t segment, struct place *ret)
{
    err e = OK;

    pthread_mutex_lock(&s->lock);
    struct segment *g = segment_find(s, segment);
    if (g)
        *ret = (struct place){ g->fd, g->number, g->life, g->size };
    else
        e = fail(E_NOTFOUND, "segment %u is no more", segment);
    pthread_mutex_unlock(&s->lock);
    return e;
}

struct disk_read { int fd; void *p; size_t n; uint64_t at; ssize_t got; };

static void disk_read(void *arg)
{
    struct disk_read *r = arg;

    for (size_t have = 0; have < r->n;) {
        ssize_t got = machine->file_read(r->fd, (char *)r->p + have, r->n - have, r->at + have);
        if (got == -EINTR)
            continue;
        if (got <= 0) {
            r->got = got < 0 ? got : (ssize_t)have;
            return;
        }
        have += (size_t)got;
        r->got = (ssize_t)have;
    }
}

/* From the page cache without waiting, else where waiting disturbs nobody. */
static err read_some(struct spool *s, const struct place *at, uint64_t offset, void *p, size_t n, bool pool)
{
    ssize_t got = machine->file_read_cached(at->fd, p, n, offset);

    if (got != (ssize_t)n) {
        struct disk_read r = { at->fd, p, n, offset, 0 };
        if (pool)
            work_run(s->disk, disk_read, &r);
        else
            disk_read(&r);
        got = r.got;
    }
    if (got < 0)
        return fail_errno((int)-got, "reading segment %u", at->number);
    return (size_t)got == n ? OK : fail(E_DAMAGED, "segment %u ends early", at->number);
}

err place_read(struct spool *s, const struct place *at, uint32_t offset, uint32_t guess, arena *a, bool pool, struct frame *ret)
{
    uint32_t n = MIN(MAX(guess, FRAME_HEAD), at->end - MIN(offset, at->end));
    uint8_t *p = arena_alloc(a, n);

    if (n < FRAME_HEAD)
        return fail(E_NOTFOUND, "nothing lies at %u:%u", at->number, offset);
    TRY(read_some(s, at, offset, p, n, pool));
    uint32_t want = frame_length(p);
    if (want <= FRAME_MAX && frame_size(want) > n && frame_size(want) <= at->end - offset) {
        uint8_t *whole = arena_alloc(a, frame_size(want));
        memcpy(whole, p, n);
        TRY(read_some(s, at, offset + n, whole + n, frame_size(want) - n, pool));
        p = whole;
        n = frame_size(want);
    }
    switch (frame_check(p, n, at->number, at->life, offset, ret)) {
    case OK:
        return OK;
    case E_NOTFOUND:
        return fail(E_NOTFOUND, "no record lies at %u:%u", at->number, offset);
    default:
        return fail(E_DAMAGED, "the record at %u:%u does not match its checksum", at->number, offset);
    }
}

err message_read(struct spool *s, struct spool_ref home, arena *a, bool pool, struct stored_read *ret)
{
    struct place place;
    struct frame f;

    TRY(place_find(s, home.segment, &place));
    TRY(place_read(s, &place, home.offset, 1024, a, pool, &f));
    if (f.type != FRAME_MESSAGE)
        return fail(E_NOTFOUND, "no message lies at %u:%u", home.segment, home.offset);
    return stored_read(&f, a, ret);
}

err spool_read(struct spool_port *p, struct spool_ref at, arena *a, struct message **ret)
{
    struct stored_read st;

    TRY(message_read(p->s, at, a, true, &st));
    *ret = st.m;
    return OK;
}

err spool_read_piece(struct spool_port *p, struct spool_piece piece, arena *a, str *ret)
{
    struct place place;
    struct frame f;

    TRY(place_find(p->s, piece.at.segment, &place));
    TRY(place_read(p->s, &place, piece.at.offset, frame_size(piece.n), a, true, &f));
    if (!frame_is_octets(f.type) || f.n != piece.n)
        return fail(E_DAMAGED, "the body at %u:%u is not what its message says", piece.at.segment, piece.at.offset);
    *ret = str_of((const char *)f.body, f.n);
    return OK;
}

/* ---- notes about the messages of one segment ---- */

static err notes_of(struct spool *s, uint32_t number, uint32_t home, struct index *x)
{
    err e = OK;

    /* The index of a segment in use lies in memory and changes under the lock. */
    pthread_mutex_lock(&s->lock);
    struct segment *g = segment_find(s, number);
    bool in_memory = g && g->index;
    struct segment probe = { .number = number };
    if (g)                              /* it may be freed as soon as we let go */
        probe = (struct segment){ .number = number, .life = g->life, .size = g->size, .fd = g->fd, .cut = g->cut, .torn_from = g->torn_from };
    if (in_memory)
        for (uint32_t i = 0; i < g->index->nnote && e == OK; i++)
            if (g->index->note[i].segment == home) {
                struct frame f = index_frame(g->index, g->index->note[i].at);
                e = index_add(x, &f);
            }
    pthread_mutex_unlock(&s->lock);
    if (!g || in_memory || e != OK)
        return e;
    if (index_read_notes(s, number, probe.life, home, x) == OK)
        return OK;
    struct scanned sc = { 0 };
    TRY(segment_scan(&probe, &sc));
    for (uint32_t i = 0; i < sc.index->nnote && e == OK; i++)
        if (sc.index->note[i].segment == home) {
            struct frame f = index_frame(sc.index, sc.index->note[i].at);
            e = index_add(x, &f);
        }
    index_free(sc.index);
    return e;
}

err gather_notes(struct spool *s, uint32_t home, struct index *x)
{
    size_t n = 0;

    pthread_mutex_lock(&s->lock);
    uint32_t *number = mem_new(MAX(s->nsegment, 1) * sizeof *number);
    for (size_t i = 0; i < s->nsegment; i++) {
        struct segment *g = s->segment[i];
        if (g->number == home || (g->number > home && segment_depends(g, home)))
            number[n++] = g->number;
    }
    pthread_mutex_unlock(&s->lock);
    err e = OK;
    for (size_t i = 0; i < n && e == OK; i++)
        e = notes_of(s, number[i], home, x);
    mem_free(number);
    index_sort(x);
    return e;
}

err merge_notes(const struct index *x, struct spool_ref home, struct rcpt_state *state, size_t nrcpt, bool *ended)
{
    uint32_t low = 0, high = x->nnote;

    while (low < high) {
        uint32_t mid = low + (high - low) / 2;
        const struct index_note *n = &x->note[mid];
        if (n->segment < home.segment || (n->segment == home.segment && n->offset < home.offset))
            low = mid + 1;
        else
            high = mid;
    }
    for (; low < x->nnote && x->note[low].segment == home.segment && x->note[low].offset == home.offset; low++) {
        struct frame f = index_frame(x, x->note[low].at);
        *ended |= f.type == FRAME_END || f.type == FRAME_ABORT;
        TRY(note_merge(&f, state, nrcpt));
    }
    return OK;
}

struct rcpt_state *states_begin(const struct stored_read *st, arena *a)
{
    struct rcpt_state *state = NEW_ARRAY(a, struct rcpt_state, st->m->env.nrcpt);

    for (uint32_t i = 0; i < st->m->env.nrcpt; i++)
        state[i].index = i;
    for (size_t i = 0; i < st->nstate; i++)
        state[st->state[i].index] = st->state[i];
    return state;
}

err spool_read_states(struct spool_port *p, ulid id, struct spool_ref home, arena *a, struct rcpt_state **ret, size_t *n)
{
    struct stored_read st;
    AUTO(index) x = index_new();
    bool ended = false;

    (void)id;
    TRY(spool_flush(p)); /* so that what this thread noted last is among them */
    TRY(message_read(p->s, home, a, true, &st));
    struct rcpt_state *state = states_begin(&st, a);
    /* All before any is merged: their texts lie in the index, which moves as it grows. */
    TRY(gather_notes(p->s, home.segment, x));
    if (st.was.segment) /* as long as the move is not over */
        TRY(gather_notes(p->s, st.was.segment, x));
    TRY(merge_notes(x, home, state, st.m->env.nrcpt, &ended));
    if (st.was.segment)
        TRY(merge_notes(x, st.was, state, st.m->env.nrcpt, &ended));
    for (size_t i = 0; i < st.m->env.nrcpt; i++) { /* their texts lie in the index */
        state[i].reply = str_dup(a, state[i].reply);
        state[i].remote = str_dup(a, state[i].remote);
    }
    *ret = state;
    *n = st.m->env.nrcpt;
    return OK;
}
