/* The committer: one thread that takes what all others have pushed, writes it as one batch, syncs once, and answers.
 *
 * There is no gathering delay: while one sync runs, the next batch gathers by itself. An entry is answered only after the sync
 * that covers it returned OK. A write or sync that fails condemns the segment: nothing is ever written to it again, since what
 * the kernel holds of it and what the disk holds may differ, and a second sync would not tell. */
#include "spool/spool_inside.h"

#include <errno.h>
#include <stdio.h>
#include <sys/uio.h>

#define BATCH_HEAD (FRAME_HEAD + BATCH_BODY)
#define LARGE_BESIDE (256u << 10)       /* of large pieces in a batch while small mail comes */
#define LARGE_LATEST (4 * MILLISECOND)  /* so long large pieces wait for a batch without small mail */
#define RETRY_FIRST SECOND
#define RETRY_LAST (30 * SECOND)

struct queue { struct entry *first, **end; };

/* Who waits: those who must get through (notes, reports, the keeper, flushes), mail, and large pieces. */
enum { FIRST, SMALL, LARGE_ONES, QUEUES };

struct committer {
    struct spool *s;
    struct waiters wake;
    bool poked;
    bool closing;

    struct queue queue[QUEUES];
    struct segment *open;               /* NULL: a new one must be opened first */
    uint32_t at;                        /* where the next batch goes in it */
    uint64_t seq;                       /* of the last batch */
    struct spool_ref durable;           /* all acknowledged bytes lie before it */
    uint32_t torn_from;
    uint32_t *lost; size_t nlost, lost_cap; /* condemned since the last durable batch */
    struct spool_port *touched;         /* with answers to be told of */
    when large_at;                      /* large pieces were last in a batch */
    unsigned failures;                  /* in a row */
    when retry, patience;               /* writing fails: not before then */

    /* the batch in hand */
    struct queue batch;
    uint32_t bytes;                     /* with its head, without padding */
    uint32_t frames;
    unsigned parts;
    uint8_t head[BATCH_HEAD];
    struct iovec iov[BATCH_PARTS + 2];
};

static const uint8_t zeros[PAGE];

/* In buckets an eighth apart, for spool_stats(). */
static void sync_took(struct spool *s, uint64_t us)
{
    add_stat(s, syncs, 1);
    add_stat(s, sync_us_total, us);
    if (us > s->stats.sync_us_max)
        __atomic_store_n(&s->stats.sync_us_max, us, __ATOMIC_RELAXED);
    __atomic_fetch_add(&s->sync_took[sync_bucket(us)], 1, __ATOMIC_RELAXED);
}

static void queue_init(struct queue *q)
{
    q->first = NULL;
    q->end = &q->first;
}

static void queue_add(struct queue *q, struct entry *e)
{
    e->next = NULL;
    *q->end = e;
    q->end = &e->next;
}

static struct entry *queue_take(struct queue *q)
{
    struct entry *e = q->first;
    q->first = e->next;
    if (!q->first)
        q->end = &q->first;
    return e;
}

/* All of `front` go before all of `q`. */
static void queue_return(struct queue *q, struct queue *front)
{
    if (!front->first)
        return;
    *front->end = q->first;
    if (!q->first)
        q->end = front->end;
    q->first = front->first;
    queue_init(front);
}

static struct queue *queue_of(struct committer *c, const struct entry *e)
{
    if (e->rank == RANK_KEEPER || e->kind >= ENTRY_NOTES)
        return &c->queue[FIRST];
    return &c->queue[e->bytes >= LARGE ? LARGE_ONES : e->rank == RANK_RESERVE ? FIRST : SMALL];
}

static bool queues_empty(const struct committer *c)
{
    return !c->queue[FIRST].first && !c->queue[SMALL].first && !c->queue[LARGE_ONES].first;
}

/* ---- from the others, and back to them ---- */

/* The two flags make a pair: the pusher stores `pushed` and then looks at `idle`, the committer stores `idle` and then looks at
 * `pushed`; so one of them sees the other. Who turns `idle` off sends the post. */
static void poke(struct spool *s)
{
    if (__atomic_load_n(&s->idle, __ATOMIC_SEQ_CST) && __atomic_exchange_n(&s->idle, false, __ATOMIC_SEQ_CST))
        thread_post(s->committer_thread, &s->poke);
}

void commit_push(struct spool *s, struct entry *first, struct entry *last)
{
    struct entry *head = __atomic_load_n(&s->pushed, __ATOMIC_RELAXED);
    do
        last->next = head;
    while (!__atomic_compare_exchange_n(&s->pushed, &head, first, true, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED));
    poke(s);
}

void commit_poke(struct spool *s)
{
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    poke(s);
}

static void poked(struct post *p)
{
    struct spool *s = AROUND(p, struct spool, poke);
    s->committer->poked = true;
    waiters_wake_one(&s->committer->wake);
}

static bool take_pushed(struct committer *c)
{
    struct entry *list = __atomic_exchange_n(&c->s->pushed, NULL, __ATOMIC_SEQ_CST), *in_order = NULL;

    if (!list)
        return false;
    while (list) {
        struct entry *e = list;
        list = e->next;
        e->next = in_order;
        in_order = e;
    }
    while (in_order) {
        struct entry *e = in_order;
        in_order = e->next;
        if (e->kind == ENTRY_CLOSE && !e->port)
            c->closing = true;
        else
            queue_add(queue_of(c, e), e);
    }
    return true;
}

/* Until something is pushed or poked. `ready`: how many segments there were when we last looked; a change since then counts as a poke. */
static void rest(struct committer *c, when until, unsigned ready)
{
    struct spool *s = c->s;

    __atomic_store_n(&s->idle, true, __ATOMIC_SEQ_CST);
    if ((__atomic_load_n(&s->pushed, __ATOMIC_SEQ_CST) || __atomic_load_n(&s->ready, __ATOMIC_SEQ_CST) != ready)
        && __atomic_exchange_n(&s->idle, false, __ATOMIC_SEQ_CST))
        return;
    while (!c->poked) {
        if (waiters_wait(&c->wake, until) == OK || c->poked)
            continue;
        if (__atomic_exchange_n(&s->idle, false, __ATOMIC_SEQ_CST))
            return;
        until = NEVER;                  /* a post is on its way */
    }
    c->poked = false;
}

/* The port's task learns of it when the port is posted, once for the whole batch. */
static void answer(struct committer *c, struct entry *e, err result)
{
    struct spool_port *p = e->port;

    e->result = result;
    if (result != OK)
        snprintf(e->why, sizeof e->why, "%.*s", STR(err_text()));
    if (e->kind == ENTRY_NOTES) {
        must(result == OK);
        add_stat(c->s, notes_waiting, -(int64_t)e->notes);
        entry_free(e);
        return;
    }
    e->next = p->ready;
    p->ready = e;
    if (!p->touched) {
        p->touched = true;
        p->touched_next = c->touched;
        c->touched = p;
    }
}

static void tell_ports(struct committer *c)
{
    while (c->touched) {
        struct spool_port *p = c->touched;
        struct entry *list = p->ready, *last = list;
        bool closes = false;

        c->touched = p->touched_next;
        p->touched = false;
        p->ready = NULL;
        for (;; last = last->next) {
            closes |= last->kind == ENTRY_CLOSE;
            if (!last->next)
                break;
        }
        struct entry *head = __atomic_load_n(&p->done, __ATOMIC_RELAXED);
        do
            last->next = head;
        while (!__atomic_compare_exchange_n(&p->done, &head, list, true, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED));
        if (!__atomic_exchange_n(&p->posted, true, __ATOMIC_SEQ_CST))
            thread_post(p->thread, &p->post);
        if (closes)                     /* our last touch; the port ends when it hears this */
            thread_post(p->thread, &p->gone_post);
    }
}

/* ---- what may be written where ---- */

static bool may_join(const struct spool *s, enum entry_rank rank)
{
    return rank != RANK_INTAKE || load_acquire(&s->ready) >= s->setup.reserve || !load_acquire(&s->full);
}

static bool may_open(const struct spool *s, enum entry_rank rank)
{
    unsigned ready = load_acquire(&s->ready), reserve = s->setup.reserve;

    switch (rank) {
    /* Where the disk has room for the whole reserve, its being made need not be waited for. */
    case RANK_INTAKE: return ready > reserve || (ready && load_acquire(&s->roomy) && !load_acquire(&s->full));
    default: return ready > 0;
    }
}

static err no_room(void) { return fail(E_NOSPACE, "the spool is full: only its reserve is left"); }

/* A segment that is known to hold nothing durable behind its end. */
static void condemn(struct committer *c)
{
    struct spool *s = c->s;
    struct segment *g = c->open;

    log_error("spool_segment_condemned", LOG_INT("segment", g->number), LOG_STR("reason", err_text()));
    add_stat(s, condemned, 1);
    pthread_mutex_lock(&s->lock);
    g->condemned = true;
    g->cut = c->at;                     /* the batch that failed may be there, whole or in part */
    g->state = SEGMENT_SEALED;
    g->sealed = clock_now();
    pthread_mutex_unlock(&s->lock);
    if (c->nlost == c->lost_cap) {
        c->lost_cap = MAX(c->lost_cap * 2, 8);
        c->lost = mem_grow(c->lost, c->lost_cap * sizeof *c->lost);
    }
    c->lost[c->nlost++] = g->number;
    c->open = NULL;
    keeper_poke(s);
}

static bool open_next(struct committer *c, enum entry_rank rank)
{
    struct spool *s = c->s;

    if (!may_open(s, rank))
        return false;
    pthread_mutex_lock(&s->lock);
    struct segment *g = s->ready_list[0];
    unsigned ready = s->ready - 1;
    memmove(s->ready_list, s->ready_list + 1, ready * sizeof s->ready_list[0]);
    store_release(&s->ready, ready);
    if (c->open) {
        c->open->state = SEGMENT_SEALED;
        c->open->sealed = clock_now();
    }
    g->state = SEGMENT_OPEN;
    g->known = true;
    g->index = index_new();
    g->first = (struct batch){ .durable = c->durable, .torn_from = c->torn_from, .abandoned = c->nlost > 0 };
    pthread_mutex_unlock(&s->lock);
    c->open = g;
    c->at = PAGE;
    store_release(&s->open_left, g->size - PAGE);
    keeper_poke(s);
    return true;
}

/* ---- a batch ---- */

static void batch_begin(struct committer *c)
{
    queue_init(&c->batch);
    c->bytes = BATCH_HEAD;
    c->frames = 0;
    c->parts = 0;
}

/* Move entries from `q` into the batch, `most` bytes of them and one, as long as the segment has room. */
static void batch_fill(struct committer *c, struct queue *q, uint32_t most)
{
    for (uint32_t bytes = 0; q->first && bytes < most;) {
        struct entry *e = q->first;
        if (c->parts + e->nparts > BATCH_PARTS)
            return;
        if (e->bytes && (!c->open || round_page(c->at + c->bytes + e->bytes) > c->open->size))
            return;
        queue_add(&c->batch, queue_take(q));
        bytes += e->bytes;
        c->bytes += e->bytes;
        c->parts += e->nparts;
    }
}

/* How much of large pieces may go along with what is in the batch. Small mail waits for what is written with it, so for a while they go without it, and then it is little; and
 * where no segment is ready the end of the open one is small mail's, which would otherwise wait for zeros to be written. */
static uint32_t large_portion(struct committer *c)
{
    const struct spool *s = c->s;

    if (!c->queue[LARGE_ONES].first)
        return 0;
    if (c->open && !load_acquire(&s->ready) && c->open->size - MIN(c->at, c->open->size) < small_end(s))
        return 0;
    if (c->bytes > BATCH_HEAD && clock_now() - c->large_at < LARGE_LATEST)
        return 0;
    c->large_at = clock_now();
    return small_mail_comes(s) ? LARGE_BESIDE : BATCH_LARGE;
}

static void place_frames(struct committer *c, struct entry *e, uint32_t at)
{
    struct segment *g = c->open;

    e->at = (struct spool_ref){ g->number, at };
    for (unsigned i = 0; i < e->nparts; i++) {
        uint8_t *p = e->part[i].iov_base, *end = p + e->part[i].iov_len;
        for (uint32_t size; p < end; p += size, at += size) {
            size = frame_size(frame_length(p));
            if (e->placed)
                frame_again(p);
            frame_place(p, g->number, g->life, at);
            c->frames++;
        }
    }
    e->placed = true;
}

/* Place every frame, and line up what to write. */
static unsigned batch_lay_out(struct committer *c)
{
    struct segment *g = c->open;
    uint32_t at = c->at + BATCH_HEAD, whole = round_page(c->bytes);
    unsigned n = 0;

    c->frames = 0;
    c->iov[n++] = (struct iovec){ c->head, BATCH_HEAD };
    for (struct entry *e = c->batch.first; e; e = e->next) {
        place_frames(c, e, at);
        at += e->bytes;
        for (unsigned i = 0; i < e->nparts; i++)
            c->iov[n++] = e->part[i];
    }
    if (whole > c->bytes)
        c->iov[n++] = (struct iovec){ (void *)zeros, whole - c->bytes };
    struct batch b = {
        .seq = c->seq + 1, .length = whole, .count = c->frames, .durable = c->durable, .torn_from = c->torn_from,
        .abandoned = c->nlost > 0,
    };
    if (g->first.seq == 0 || c->at == PAGE)
        g->first = b;
    batch_write(c->head, &b);
    frame_place(c->head, g->number, g->life, c->at);
    return n;
}

static err write_all(int fd, struct iovec *iov, unsigned n, uint64_t at)
{
    while (n > 0) {
        ssize_t got = machine->file_write(fd, iov, (int)n, at);
        if (got < 0)
            return fail_errno((int)-got, "writing");
        if (got == 0)
            return fail(E_IO, "writing: nothing was taken");
        at += (uint64_t)got;
        while (n > 0 && (size_t)got >= iov->iov_len) {
            got -= (ssize_t)iov->iov_len;
            iov++;
            n--;
        }
        if (got > 0) {
            iov->iov_base = (char *)iov->iov_base + got;
            iov->iov_len -= (size_t)got;
        }
    }
    return OK;
}

static err batch_write_out(struct committer *c)
{
    struct spool *s = c->s;
    unsigned n = batch_lay_out(c);

    TRY(write_all(c->open->fd, c->iov, n, c->at));
    when before = clock_now();
    int got = machine->file_sync(c->open->fd);
    if (got < 0)
        return fail_errno(-got, "syncing");
    sync_took(s, (uint64_t)(clock_now() - before));
    add_stat(s, commits, 1);
    add_stat(s, bytes, round_page(c->bytes));
    return OK;
}

/* ---- after the sync: what is durable becomes known. Under lock. ---- */

static void learn_message(struct committer *c, struct entry *e)
{
    struct spool *s = c->s;
    struct segment *g = c->open;
    uint32_t offset = e->at.offset + e->message_at, own = e->bytes;

    for (size_t i = 0; i < e->npiece; i++)
        if (e->piece[i].at.segment == g->number)
            own += frame_size(e->piece[i].n);
    uint32_t slot = segment_add(g, offset, own);
    if (e->was.segment)
        g->flag[slot] |= SLOT_NEW;
    for (size_t i = 0; i < e->npiece; i++) {
        struct entry_piece *piece = &e->piece[i];
        bool mine = chunks_take(&s->chunks, piece->at);
        struct segment *there = mine || piece->shared ? segment_find(s, piece->at.segment) : NULL;
        if (piece->at.segment != g->number && (mine || piece->shared))
            segment_add_foreign(s, g, offset, piece->at.segment, frame_size(piece->n));
        if (there) {
            must(there->pins > 0);      /* the one of the chunk, or of port.c's */
            there->pins--;
        }
        piece->shared = false;
    }
    if (e->was.segment && e->was.segment != g->number)
        segment_depend(g, e->was.segment, 0, true);
    add_stat(s, messages, 1);
}

static void learn_notes(struct committer *c, struct entry *e)
{
    struct spool *s = c->s;

    for (unsigned i = 0; i < e->nparts; i++) {
        const uint8_t *p = e->part[i].iov_base, *end = p + e->part[i].iov_len;
        for (; p < end; p += frame_size(frame_length(p))) {
            struct spool_ref home = { le32(p + FRAME_HEAD), le32(p + FRAME_HEAD + 4) };
            segment_note(s, c->open, frame_type_of(p), home);
        }
    }
    add_stat(s, notes, e->notes);
}

static void index_entry(struct index *x, const struct entry *e)
{
    uint32_t at = e->at.offset;

    for (unsigned i = 0; i < e->nparts; i++) {
        const uint8_t *p = e->part[i].iov_base, *end = p + e->part[i].iov_len;
        for (uint32_t size; p < end; p += size, at += size) {
            struct frame f = {
                .type = frame_type_of(p), .segment = e->at.segment, .offset = at, .n = frame_length(p), .body = p + FRAME_HEAD,
            };
            size = frame_size(f.n);
            if (!frame_is_octets(f.type))
                must(index_add(x, &f) == OK);
        }
    }
}

static void batch_durable(struct committer *c)
{
    struct spool *s = c->s;
    struct segment *g = c->open;

    c->seq++;
    c->at += round_page(c->bytes);
    store_release(&s->open_left, g->size - c->at);
    pthread_mutex_lock(&s->lock);
    for (size_t i = 0; i < c->nlost; i++) {
        /* Behind the ends of these lie frames that do not count: it is written here, so we must not go before them. */
        if (segment_find(s, c->lost[i]))
            segment_depend(g, c->lost[i], 0, true);
    }
    g->end = g->torn_from = c->at;
    for (struct entry *e = c->batch.first; e; e = e->next) {
        if (e->bytes)
            index_entry(g->index, e);
        if (e->kind == ENTRY_MESSAGE) {
            learn_message(c, e);
        } else if (e->kind == ENTRY_CHUNK) {
            chunks_add(&s->chunks, e->at);
            g->pins++;
            add_stat(s, chunks, 1);
        } else if (e->kind == ENTRY_NOTES) {
            learn_notes(c, e);
        }
    }
    pthread_mutex_unlock(&s->lock);
    c->nlost = 0;
    c->durable = (struct spool_ref){ g->number, c->at };
    c->torn_from = c->at;
    store_release(&s->durable, (uint64_t)g->number << 32 | c->at);
    store_release(&s->broken, false);
    c->patience = 0;
    c->failures = 0;
    while (c->batch.first)
        answer(c, queue_take(&c->batch), OK);
    tell_ports(c);
}

/* The first time all of it is tried again elsewhere; what lies in the condemned segment does not count, and the next batch says so.
 * The second time who waits is answered, notes are kept, and for a while nothing is tried. */
static void batch_failed(struct committer *c)
{
    struct spool *s = c->s;
    struct queue back[QUEUES];

    condemn(c);
    for (int i = 0; i < QUEUES; i++)
        queue_init(&back[i]);
    bool again = ++c->failures < 2;
    while (c->batch.first) {
        struct entry *e = queue_take(&c->batch);
        if (again || e->kind == ENTRY_NOTES)
            queue_add(&back[queue_of(c, e) - c->queue], e);
        else
            answer(c, e, fail(E_IO, "the spool cannot be written"));
    }
    for (int i = 0; i < QUEUES; i++)
        queue_return(&c->queue[i], &back[i]);
    tell_ports(c);
    if (again)
        return;
    c->patience = MIN(c->patience ? c->patience * 2 : RETRY_FIRST, RETRY_LAST);
    c->retry = clock_now() + c->patience;
    c->failures = 0;
    store_release(&s->broken, true);
}

/* Answer what need not wait, with the error just failed. */
static void refuse(struct committer *c, int which, err e)
{
    struct queue keep, *q = &c->queue[which];

    queue_init(&keep);
    while (q->first) {
        struct entry *x = queue_take(q);
        bool patient = x->rank != RANK_KEEPER && e == E_NOSPACE && !load_acquire(&c->s->full);
        if (x->kind == ENTRY_NOTES || patient)
            queue_add(&keep, x);
        else {
            if (x->rank == RANK_INTAKE && e == E_NOSPACE)
                store_release(&c->s->refusing, true);
            answer(c, x, e);
        }
    }
    queue_return(q, &keep);
}

/* Open a segment for who has most right to one. */
static bool open_for_waiting(struct committer *c)
{
    for (int i = 0; i < QUEUES; i++) {
        enum entry_rank rank = RANK_INTAKE;
        if (!c->queue[i].first)
            continue;
        if (i == FIRST)
            rank = RANK_RESERVE;
        for (struct entry *e = c->queue[i].first; e; e = e->next)
            rank = MAX(rank, e->rank);
        if (open_next(c, rank))
            return true;
    }
    return false;
}

static void step(struct committer *c)
{
    struct spool *s = c->s;
    unsigned ready = load_acquire(&s->ready);

    if (!may_join(s, RANK_INTAKE)) {
        refuse(c, SMALL, no_room());
        refuse(c, LARGE_ONES, no_room());
    }
    batch_begin(c);
    batch_fill(c, &c->queue[FIRST], BATCH_MAX);
    if (c->queue[SMALL].first)
        store_release(&s->small, clock_now());
    batch_fill(c, &c->queue[SMALL], BATCH_MAX);
    batch_fill(c, &c->queue[LARGE_ONES], large_portion(c));
    if (c->bytes > BATCH_HEAD) {
        if (batch_write_out(c) == OK)
            batch_durable(c);
        else
            batch_failed(c);
        return;
    }
    while (c->batch.first)
        answer(c, queue_take(&c->batch), OK); /* flushes, with nothing before them */
    if (!queues_empty(c) && !open_for_waiting(c)) {
        /* No segment: the keeper must make one, so it must not wait for us, nor anybody for notes. */
        keeper_poke(s);
        refuse(c, FIRST, no_room());
        if (load_acquire(&s->full)) {
            refuse(c, SMALL, no_room());
            refuse(c, LARGE_ONES, no_room());
        }
        tell_ports(c);
        if (!c->closing && !load_acquire(&s->pushed))
            rest(c, clock_now() + SECOND, ready);
        return;
    }
    tell_ports(c);
    if (queues_empty(c) && !c->closing && !take_pushed(c))
        rest(c, NEVER, load_acquire(&s->ready));
}

/* A last batch with nothing in it vouches for the one before. */
static void vouch(struct committer *c)
{
    batch_begin(c);
    if (c->open && c->at > PAGE && round_page(c->at + c->bytes) <= c->open->size && batch_write_out(c) == OK)
        batch_durable(c);
}

static err committer(void *arg)
{
    struct committer *c = arg;

    while (!c->closing || !queues_empty(c)) {
        take_pushed(c);
        if (c->patience && clock_now() < c->retry) {
            for (int i = 0; i < QUEUES; i++)
                refuse(c, i, fail(E_IO, "the spool cannot be written just now"));
            tell_ports(c);
            if (!c->closing)
                rest(c, c->retry, load_acquire(&c->s->ready));
        } else {
            store_release(&c->s->broken, false); /* who comes now is our next try: without anybody there would be none */
            step(c);
        }
        if (c->closing && !queues_empty(c) && (c->patience || !load_acquire(&c->s->ready))) {
            log_error("spool_notes_lost", LOG_INT("notes", c->s->stats.notes_waiting));
            break;
        }
    }
    vouch(c);
    return OK;
}

err commit_start(struct spool *s, uint64_t seq, struct spool_ref durable, uint32_t torn_from)
{
    struct committer *c = mem_new(sizeof *c);

    *c = (struct committer){ .s = s, .seq = seq, .durable = durable, .torn_from = torn_from };
    for (int i = 0; i < QUEUES; i++)
        queue_init(&c->queue[i]);
    s->committer = c;
    s->poke = (struct post){ .run = poked };
    s->committer_thread = thread_start("spool-commit", committer, c);
    return OK;
}

void commit_stop(struct spool *s)
{
    struct entry last = { .kind = ENTRY_CLOSE };
    struct committer *c = s->committer;

    commit_push(s, &last, &last);
    thread_join(s->committer_thread);
    for (int i = 0; i < QUEUES; i++)
        while (c->queue[i].first)
            entry_free(queue_take(&c->queue[i]));
    mem_free(c->lost);
    mem_free(c);
}
