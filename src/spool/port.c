/* A thread's way into the spool: entries are built here, on the worker, checksums and all, and waited for. */
#include "spool/spool_inside.h"

#include <stdio.h>

#define SLAB_BEHIND 1024                /* room behind a body: most message records fit */
#define STATES_MAX 1000                 /* in one note record */
#define NOTES_AGAIN (SECOND / 4)        /* they cannot be written: not asked again before */

struct spool_slab *spool_slab_new(size_t cap)
{
    must(cap <= FRAME_MAX);
    struct spool_slab *b = mem_grow(NULL, sizeof *b);
    *b = (struct spool_slab){ .base = mem_grow(NULL, FRAME_HEAD + round8((uint32_t)cap) + SLAB_BEHIND), .cap = cap, .shares = 1 };
    b->body = (struct buf){ .p = b->base + FRAME_HEAD, .cap = cap };
    return b;
}

void spool_slab_free(struct spool_slab *b)
{
    if (!b || --b->shares)
        return;
    mem_free(b->base);
    mem_free(b);
}

/* ---- entries ---- */

struct entry *entry_new(struct spool_port *p, enum entry_kind kind)
{
    struct entry *e = mem_new(sizeof *e);
    e->kind = kind;
    e->rank = p->rank;
    e->port = p;
    return e;
}

/* The slab's share belongs to the port's thread: port_done() has given it back by now. */
void entry_free(struct entry *e)
{
    must(!e->slab);
    buf_free(&e->memory);
    mem_free(e->piece);
    mem_free(e);
}

/* Begin a frame in a heap buffer: its body is to be appended, then frame_close(). */
static size_t frame_open(struct buf *b)
{
    size_t at = b->n;
    buf_reserve(b, FRAME_HEAD);
    b->n += FRAME_HEAD;
    return at;
}

static void frame_close(struct buf *b, size_t at, unsigned type, ulid id)
{
    uint32_t n = (uint32_t)(b->n - at - FRAME_HEAD);
    buf_reserve(b, 8);
    frame_begin((uint8_t *)b->p + at, type, id, n);
    b->n = at + frame_size(n);
}

struct entry *entry_chunk(struct spool_port *p, unsigned type, ulid id, str octets)
{
    struct entry *e = entry_new(p, ENTRY_CHUNK);

    buf_reserve(&e->memory, frame_size((uint32_t)octets.n));
    size_t at = frame_open(&e->memory);
    buf_add(&e->memory, octets);
    frame_close(&e->memory, at, type, id);
    e->id = id;
    e->bytes = (uint32_t)e->memory.n;
    e->part[0] = (struct iovec){ e->memory.p, e->memory.n };
    e->nparts = 1;
    return e;
}

/* ---- answers ---- */

static void port_note_one(struct spool_port *p, unsigned type, ulid id, struct spool_ref home, const struct rcpt_state *state,
                          size_t n);

/* Its task was cancelled while it waited, so nobody was told and nobody owns what was stored. */
static void unwanted(struct spool_port *p, struct entry *e)
{
    if (e->result == OK && e->kind == ENTRY_MESSAGE)
        port_note(p, FRAME_ABORT, e->id, (struct spool_ref){ e->at.segment, e->at.offset + e->message_at }, NULL, 0);
    if (e->result == OK && e->kind == ENTRY_CHUNK) {
        struct spool_piece piece = { .at = e->at };
        spool_abort(p, e->id, &piece, 1);
    }
    entry_free(e);
}

static void port_done(struct post *post)
{
    struct spool_port *p = AROUND(post, struct spool_port, post);

    __atomic_store_n(&p->posted, false, __ATOMIC_SEQ_CST);
    struct entry *list = __atomic_exchange_n(&p->done, NULL, __ATOMIC_SEQ_CST);
    while (list) {
        struct entry *e = list;
        list = e->next;
        e->done = true;
        p->in_flight--;
        spool_slab_free(take(e->slab));
        if (e->abandoned)
            unwanted(p, e);
        else {
            e->odd = p->odd;
            p->unseen[p->odd]++;
            waiters_wake_one(&e->waiter);
        }
    }
    waiters_wake_all(&p->closer);
}

static void port_gone(struct post *post)
{
    struct spool_port *p = AROUND(post, struct spool_port, gone_post);
    p->gone = true;
    waiters_wake_all(&p->closer);
}

static void notes_push(struct spool_port *p, struct entry *then)
{
    struct entry *notes = take(p->notes);

    if (!notes) {
        if (then)
            commit_push(p->s, then, then);
        return;
    }
    notes->bytes = (uint32_t)notes->memory.n;
    notes->part[0] = (struct iovec){ notes->memory.p, notes->memory.n };
    notes->nparts = 1;
    if (then) {
        then->next = notes;             /* the list is last come, first */
        commit_push(p->s, then, notes);
    } else {
        commit_push(p->s, notes, notes);
    }
}

void port_push(struct spool_port *p, struct entry *e)
{
    p->in_flight++;
    notes_push(p, e);
}

WAITS static err entry_wait(struct entry *e)
{
    while (!e->done) {
        err cut = waiters_wait(&e->waiter, NEVER);
        if (cut != OK && !e->done) {
            e->abandoned = true;
            return during(cut, "waiting for the spool");
        }
    }
    e->port->unseen[e->odd]--;
    return e->result == OK ? OK : fail(e->result, "%s", e->why);
}

err port_wait(struct entry *e, struct spool_ref *ret)
{
    err got = entry_wait(e);
    if (e->abandoned)
        return got;
    if (ret)
        *ret = e->at;
    entry_free(e);
    return got;
}

err port_commit(struct spool_port *p, struct entry *e, struct spool_ref *ret)
{
    port_push(p, e);
    return port_wait(e, ret);
}

/* ---- mail ---- */

err spool_room(struct spool *s)
{
    if (load_acquire(&s->broken))
        return fail(E_IO, "the spool cannot be written just now");
    if (load_acquire(&s->full) && load_acquire(&s->ready) < s->setup.reserve)
        return fail(E_NOSPACE, "the spool is full: only its reserve is left");
    return OK;
}

/* Pieces that are no fresh chunks of ours belong to another message too: they must stay until the committer has noted us. */
static err pieces_pin(struct spool *s, struct entry *e)
{
    err got = OK;

    pthread_mutex_lock(&s->lock);
    for (size_t i = 0; i < e->npiece && got == OK; i++) {
        struct segment *g = segment_find(s, e->piece[i].at.segment);
        if (!g)
            got = fail(E_NOTFOUND, "a piece of the body is gone");
        else if (!chunks_has(&s->chunks, e->piece[i].at)) {
            g->pins++;
            e->piece[i].shared = true;
        }
    }
    pthread_mutex_unlock(&s->lock);
    return got;
}

void pieces_unpin(struct spool *s, struct entry *e)
{
    pthread_mutex_lock(&s->lock);
    for (size_t i = 0; i < e->npiece; i++) {
        struct segment *g = e->piece[i].shared ? segment_find(s, e->piece[i].at.segment) : NULL;
        if (g) {
            must(g->pins > 0);
            g->pins--;
        }
        e->piece[i].shared = false;
    }
    pthread_mutex_unlock(&s->lock);
}

/* Lay the message record behind the body, in the slab if there is room, else in memory of the entry's own. */
err entry_message(struct spool_port *p, const struct stored *st, struct spool_slab *slab, struct entry **ret)
{
    const struct message *m = st->m;
    uint32_t guess = stored_guess(st), body = slab ? frame_size((uint32_t)slab->body.n) : 0;

    if (guess == UINT32_MAX || (uint64_t)guess + body + FRAME_HEAD + 8 > p->s->size - 4 * PAGE)
        return fail(E_LIMIT, "the message does not fit in a segment of the spool");

    struct entry *e = entry_new(p, ENTRY_MESSAGE);
    e->id = m->id;
    e->was = st->was;
    e->message_at = body;
    if (m->report && e->rank == RANK_INTAKE)
        e->rank = RANK_RESERVE;
    struct buf *record = &e->memory, behind;
    if (slab) {
        must(slab->body.p == slab->base + FRAME_HEAD && slab->body.n <= slab->cap);
        frame_begin((uint8_t *)slab->base, FRAME_BODY, m->id, (uint32_t)slab->body.n);
        e->part[e->nparts++] = (struct iovec){ slab->base, body };
        e->slab = slab;
        slab->shares++;
        behind = (struct buf){ .p = slab->base + body, .cap = FRAME_HEAD + round8((uint32_t)slab->cap) + SLAB_BEHIND - body };
        if (FRAME_HEAD + guess + 8 <= behind.cap)
            record = &behind;
    }
    size_t at = frame_open(record);
    stored_write(record, st);
    must(record->n - at - FRAME_HEAD <= guess);
    frame_close(record, at, FRAME_MESSAGE, m->id);
    if (record == &behind)
        e->part[0].iov_len += behind.n;
    else
        e->part[e->nparts++] = (struct iovec){ record->p, record->n };
    e->bytes = body + (uint32_t)record->n;
    for (size_t i = 0; i < m->npiece; i++) {
        if (m->piece[i].at.segment == 0)
            continue;
        if (!e->piece)
            e->piece = mem_new(m->npiece * sizeof *e->piece);
        e->piece[e->npiece++] = (struct entry_piece){ .at = m->piece[i].at, .n = m->piece[i].n };
    }
    *ret = e;
    return OK;
}

err spool_accept(struct spool_port *p, arena *a, struct message *m, struct spool_slab *slab)
{
    struct entry *e;

    if (!m->report)
        TRY(spool_room(p->s));
    if (slab) {
        m->npiece = 1;
        m->piece = NEW(a, struct spool_piece);
        m->piece[0] = (struct spool_piece){ { 0, frame_size((uint32_t)slab->body.n) }, (uint32_t)slab->body.n };
    }
    TRY(entry_message(p, &(struct stored){ .m = m }, slab, &e));
    if (e->npiece) {
        err got = pieces_pin(p->s, e);
        if (got != OK) {
            pieces_unpin(p->s, e);
            spool_slab_free(take(e->slab));
            entry_free(e);
            return got;
        }
    }
    port_push(p, e);
    err got = entry_wait(e);
    if (e->abandoned)
        return got;
    m->at = (struct spool_ref){ e->at.segment, e->at.offset + e->message_at };
    if (slab)
        m->piece[0].at = e->at;
    if (got != OK && e->npiece)
        pieces_unpin(p->s, e);
    entry_free(e);
    return got;
}

err spool_chunk(struct spool_port *p, ulid id, str octets, struct spool_piece *ret)
{
    must(octets.n <= FRAME_MAX);
    if (p->rank == RANK_INTAKE)
        TRY(spool_room(p->s));
    ret->n = (uint32_t)octets.n;
    return port_commit(p, entry_chunk(p, FRAME_CHUNK, id, octets), &ret->at);
}

void spool_abort(struct spool_port *p, ulid id, const struct spool_piece *piece, size_t n)
{
    struct spool *s = p->s;

    (void)id;                           /* chunks without a message need no record: recovery passes over them */
    pthread_mutex_lock(&s->lock);
    for (size_t i = 0; i < n; i++) {
        struct segment *g = segment_find(s, piece[i].at.segment);
        if (g && chunks_take(&s->chunks, piece[i].at)) {
            must(g->pins > 0);
            g->pins--;
        }
    }
    pthread_mutex_unlock(&s->lock);
}

/* ---- notes ---- */

static struct buf *notes_begin(struct spool_port *p)
{
    if (!p->notes) {
        p->notes = entry_new(p, ENTRY_NOTES);
        p->notes_since = clock_now();
        if (p->timer_idle) {
            p->timer_idle = false;
            waiters_wake_one(&p->timer);
        }
    }
    return &p->notes->memory;
}

static void notes_end(struct spool_port *p)
{
    p->notes->notes++;
    if (++p->noted - p->safe == NOTES_MAX)
        waiters_wake_one(&p->timer);
    add_stat(p->s, notes_waiting, 1);
    if (p->notes->notes >= NOTES_MAX || p->notes->memory.n >= NOTES_BYTES)
        notes_push(p, NULL);
}

static void port_note_one(struct spool_port *p, unsigned type, ulid id, struct spool_ref home, const struct rcpt_state *state,
                          size_t n)
{
    struct buf *b = notes_begin(p);
    size_t at = frame_open(b);
    note_write(b, home, state, n);
    frame_close(b, at, type, id);
    notes_end(p);
}

void port_note(struct spool_port *p, unsigned type, ulid id, struct spool_ref home, const struct rcpt_state *state, size_t n)
{
    must(home.segment);
    for (; n > STATES_MAX; state += STATES_MAX, n -= STATES_MAX)
        port_note_one(p, FRAME_OUTCOME, id, home, state, STATES_MAX);
    port_note_one(p, type, id, home, state, n);
}

void port_note_again(struct spool_port *p, const struct frame *f)
{
    struct buf *b = notes_begin(p);
    size_t at = frame_open(b);

    buf_add(b, str_of((const char *)f->body, f->n));
    frame_close(b, at, f->type, f->id);
    notes_end(p);
}

void spool_outcome(struct spool_port *p, ulid id, struct spool_ref home, const struct rcpt_state *state, size_t n, bool end)
{
    port_note(p, end ? FRAME_END : FRAME_OUTCOME, id, home, state, n);
}

err spool_flush(struct spool_port *p)
{
    return port_commit(p, entry_new(p, ENTRY_FLUSH), NULL);
}

void spool_catch_up(struct spool_port *p)
{
    bool odd = p->odd;

    p->odd = !odd; /* what is answered from now on is counted elsewhere */
    while (p->unseen[odd] && task_yield() == OK)
        ;
}

bool spool_behind(const struct spool_port *p)
{
    return p->noted - p->safe >= NOTES_LATE && p->timers; /* who else would find out? */
}

err spool_keep_up(struct spool_port *p, when deadline)
{
    while (spool_behind(p))
        TRY(waiters_wait(&p->late, deadline));
    return OK;
}

/* Half of what may be late is: find out what is durable, while the other half comes. */
static void notes_settle(struct spool_port *p)
{
    uint64_t noted = p->noted;

    if (spool_flush(p) == OK)
        p->safe = noted;
    else
        waiters_wait(&p->timer, clock_now() + NOTES_AGAIN);
    waiters_wake_all(&p->late);
}

/* Notes wait at most NOTES_WAIT for a message to travel with. */
static err notes_timer(void *arg)
{
    struct spool_port *p = arg;

    task_favour();                      /* deliveries wait for it when too many of their notes are not durable yet */
    while (!p->closing && !task_canceled()) {
        when due = p->notes ? p->notes_since + NOTES_WAIT : NEVER;
        if (p->notes && clock_now() >= due) {
            notes_push(p, NULL);
            continue;
        }
        if (p->noted - p->safe >= NOTES_MAX) {
            notes_settle(p);
            continue;
        }
        p->timer_idle = !p->notes;
        waiters_wait(&p->timer, due);
        p->timer_idle = false;
    }
    p->timers--;
    waiters_wake_all(&p->closer);
    return OK;
}

/* ---- the port ---- */

struct spool_port *port_open(struct spool *s, enum entry_rank rank)
{
    struct spool_port *p = mem_new(sizeof *p);

    *p = (struct spool_port){
        .s = s, .thread = thread_self(), .rank = rank, .post = { .run = port_done }, .gone_post = { .run = port_gone },
    };
    pthread_mutex_lock(&s->lock);
    list_add(&s->ports, &p->link);
    pthread_mutex_unlock(&s->lock);
    p->timers = 1;
    if (group_spawn(thread_group(), "spool notes", notes_timer, p) != OK)
        p->timers = 0;                  /* notes then wait for the next message or a flush */
    return p;
}

struct spool_port *spool_port_open(struct spool *s) { return port_open(s, RANK_INTAKE); }

/* A closing port must be sure that the committer has let go of it, cancelled or not. */
void spool_port_close(struct spool_port *p)
{
    struct spool *s = p->s;

    if (!p)
        return;
    p->closing = true;
    waiters_wake_all(&p->timer);
    struct entry *last = entry_new(p, ENTRY_CLOSE);
    port_push(p, last);
    while (!p->gone || p->in_flight || p->timers)
        waiters_wait_steady(&p->closer);
    pthread_mutex_lock(&s->lock);
    list_del(&p->link);
    pthread_mutex_unlock(&s->lock);
    entry_free(last);
    mem_free(p);
}
