/* The keeper: makes segments ahead of need, writes indexes of those that are full, gives back those that hold nothing any more, and has
 * what little waits in the others copied out of them (compact.c). */
#include "spool/spool_inside.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>

#define PIECE (1u << 20)
#define PIECE_BESIDE (256u << 10)   /* while small mail comes: its sync waits behind ours */
#define PACE_MOST (50 * MILLISECOND)
#define MAKE_AGAIN SECOND

/* ---- making ---- */

err sync_dir(struct spool *s)
{
    int got = machine->file_sync_all(s->dir);
    return got < 0 ? fail_errno(-got, "syncing the spool's directory") : OK;
}

/* Is mail held up until this segment is made? Large mail, if nothing small comes; small mail only where the open segment is nearly full. */
static bool pressing(const struct spool *s)
{
    return !load_acquire(&s->ready) && (!small_mail_comes(s) || load_acquire(&s->open_left) < small_end(s) / 2);
}

uint32_t keeper_piece(const struct spool *s) { return small_mail_comes(s) ? PIECE_BESIDE : PIECE; }

/* Commits share the disk with us: after each piece leave it to them. Longer where this segment is not needed soon, and where large mail waits for none but this one: then small
 * mail goes on in the end of the open one, and must not stand behind us. */
void keeper_pace(struct spool *s, when took)
{
    unsigned ready = load_acquire(&s->ready);

    if (!pressing(s) && !load_acquire(&s->keeper_ends))
        task_sleep(clock_now() + MIN(!ready ? 4 * took : ready < s->setup.reserve ? took : 3 * took, PACE_MOST));
}

/* A file of zeros all the way: what is overwritten later needs no new blocks and no metadata. Synced piece by piece, for a commit's
 * sync must not find all of it before itself in the disk's queue. */
static err write_zeros(struct spool *s, int fd, uint32_t size)
{
    void *zeros = mem_new(PIECE);
    err e = OK;

    for (uint32_t at = 0; at < size && e == OK;) {
        when before = clock_now();
        ssize_t got = machine->file_write(fd, &(struct iovec){ zeros, MIN(keeper_piece(s), size - at) }, 1, at);
        if (got < 0 && got != -EINTR)
            e = fail_errno((int)-got, "writing a new segment");
        at += got > 0 ? (uint32_t)got : 0;
        if (got > 0 && at < size) {
            int synced = machine->file_sync(fd);
            if (synced < 0)
                e = fail_errno(-synced, "syncing a new segment");
            keeper_pace(s, clock_now() - before);
        }
    }
    mem_free(zeros);
    return e;
}

/* May so many more files be made? */
static bool room_for(struct spool *s, unsigned n)
{
    int64_t left = machine->file_free(s->dir);
    uint64_t bytes = (uint64_t)n * s->size;

    for (size_t i = 0; i < s->nsegment; i++) /* nobody but us changes the table */
        bytes += s->segment[i]->size;
    if (s->setup.max_bytes && bytes > s->setup.max_bytes)
        return false;
    return left < 0 || (uint64_t)left >= s->setup.min_free + (uint64_t)n * s->size;
}

static err write_head(int fd, const struct head *h)
{
    AUTO_BUF room = { 0 };

    buf_reserve(&room, PAGE);
    head_write((uint8_t *)room.p, h);
    ssize_t got = machine->file_write(fd, &(struct iovec){ room.p, PAGE }, 1, 0);
    if (got != PAGE)
        return fail_errno(got < 0 ? (int)-got : EIO, "writing the head of a segment");
    int synced = machine->file_sync(fd);
    return synced < 0 ? fail_errno(-synced, "syncing the head of a segment") : OK;
}

err keeper_make(struct spool *s)
{
    uint32_t number = s->next_number;
    struct head h = { .format = SPOOL_FORMAT, .segment = number, .life = (uint32_t)random_u64() | 1, .size = s->size, .made = wall_now() };
    struct file_name from, to = file_name(number, "seg");
    struct spare *spare = s->spare;
    int fd;

    if (spare) {
        from = file_name(spare->number, "old");
        fd = spare->fd;
    } else {
        if (!room_for(s, 1))
            return fail(E_NOSPACE, "no room for another segment");
        from = file_name(number, "new");
        fd = machine->file_open(s->dir, from.z, O_RDWR | O_CREAT | O_TRUNC, 0600);
        if (fd < 0)
            return fail_errno(-fd, "making a segment");
    }
    s->next_number++;
    err e = spare ? OK : write_zeros(s, fd, s->size);
    if (e == OK)
        e = write_head(fd, &h);
    int renamed = e == OK ? machine->file_rename(s->dir, from.z, to.z) : 0;
    if (e == OK && renamed < 0)
        e = fail_errno(-renamed, "renaming a segment");
    if (e == OK)
        e = sync_dir(s);
    if (e != OK) {
        if (spare)
            s->spare = spare->next, mem_free(spare);
        machine->close(fd); /* a file that could not be synced once is not trusted again */
        machine->file_unlink(s->dir, from.z);
        machine->file_unlink(s->dir, to.z);
        return e;
    }
    if (spare) {
        s->spare = spare->next;
        mem_free(spare);
    }
    struct segment *g = segment_new(s, number, h.life, fd);
    pthread_mutex_lock(&s->lock);
    segment_insert(s, g);
    s->ready_list[s->ready] = g;
    store_release(&s->ready, s->ready + 1);
    pthread_mutex_unlock(&s->lock);
    commit_poke(s);
    return OK;
}

/* ---- giving back ---- */

/* Under lock. Up to where does it have to be there? What failed counts no more, and nobody reads it. Where there is no room for another segment, neither is needed what an earlier
 * life left unused behind its last batch, be it that what lies there is a torn tail. */
static uint32_t needed(const struct spool *s, const struct segment *g)
{
    uint32_t end = g->size;

    if (g->condemned)
        end = g->cut;
    else if (load_acquire(&s->full) && g->recovered && g->state == SEGMENT_SEALED && g->known && !g->unread)
        end = round_page(MAX(g->end, g->torn_from));
    return MIN(MAX(end, 2 * PAGE), g->size); /* the start takes nothing shorter for a segment */
}

/* Else a disk that fails for a while, or many starts on a full one, would use the reserve up, and there were no way to note what was delivered. */
static void shorten(struct spool *s)
{
    pthread_mutex_lock(&s->lock);
    for (size_t i = 0; i < s->nsegment; i++) { /* nobody but us changes the table */
        struct segment *g = s->segment[i];
        uint32_t size = needed(s, g);
        if (size == g->size)
            continue;
        pthread_mutex_unlock(&s->lock);
        bool done = machine->file_truncate(g->fd, size) >= 0;
        pthread_mutex_lock(&s->lock);
        if (done)
            g->size = size;
    }
    pthread_mutex_unlock(&s->lock);
}

static bool may_free(struct spool *s, struct segment *g)
{
    if (g->state != SEGMENT_SEALED || !g->known || g->live || g->pins || g->number == s->segment[s->nsegment - 1]->number)
        return false;
    for (uint32_t i = 0; i < g->ndepend; i++)
        if (segment_find(s, g->depend[i].segment))
            return false; /* our notes keep its messages from coming back */
    return !g->unread;
}

/* Free one segment: it is durably no segment before anybody forgets that he leans on it. */
static bool free_one(struct spool *s)
{
    struct segment *g = NULL;

    pthread_mutex_lock(&s->lock);
    for (size_t i = 0; i < s->nsegment && !g; i++)
        if (may_free(s, s->segment[i]))
            g = s->segment[i];
    pthread_mutex_unlock(&s->lock);
    if (!g)
        return false;
    struct file_name from = file_name(g->number, "seg"), to = file_name(g->number, g->condemned ? "bad" : "old");
    if (g->leaving)                     /* a sync failed: change the names anew, for a sync to have something to write */
        machine->file_rename(s->dir, to.z, from.z);
    g->leaving = true;
    if (machine->file_rename(s->dir, from.z, to.z) < 0)
        return false;
    index_drop(s, g->number);
    if (sync_dir(s) != OK) {
        log_error("spool_not_freed", LOG_INT("segment", g->number), LOG_STR("reason", err_text()));
        s->free_again = clock_now() + MAKE_AGAIN;
        return false;
    }
    pthread_mutex_lock(&s->lock);
    segment_remove(s, g);
    for (size_t i = 0; i < s->nsegment; i++)
        segment_undepend(s->segment[i], g->number);
    pthread_mutex_unlock(&s->lock);
    if (g->condemned || g->size != s->size) {
        machine->close(g->fd);
        machine->file_unlink(s->dir, to.z);
    } else {
        struct spare *spare = mem_new(sizeof *spare);
        *spare = (struct spare){ .next = s->spare, .number = g->number, .fd = g->fd };
        s->spare = spare;
    }
    segment_free(g);
    return true;
}

/* ---- indexes of what is full ---- */

static bool index_one(struct spool *s)
{
    struct segment *g = NULL;

    if (!load_acquire(&s->loaded)) /* spool_load() reads them */
        return false;
    pthread_mutex_lock(&s->lock);
    for (size_t i = 0; i < s->nsegment && !g; i++)
        if (s->segment[i]->state == SEGMENT_SEALED && s->segment[i]->known && s->segment[i]->index && !s->segment[i]->indexed)
            g = s->segment[i];
    pthread_mutex_unlock(&s->lock);
    if (!g)
        return false;
    if (index_write(s, g, g->index) != OK)
        log_warn("spool_index", LOG_INT("segment", g->number), LOG_STR("reason", err_text()));
    pthread_mutex_lock(&s->lock);
    struct index *x = take(g->index);
    g->indexed = true;
    pthread_mutex_unlock(&s->lock);
    index_free(x);
    return true;
}

/* ---- the thread ---- */

static void keep(struct spool *s)
{
    bool more = true;

    while (more && !load_acquire(&s->keeper_ends)) {
        more = false;
        if (load_acquire(&s->loaded) && clock_now() >= s->free_again)
            while (free_one(s))
                more = true;
        shorten(s);
        unsigned want = s->setup.reserve + s->setup.ahead, have = load_acquire(&s->ready);
        store_release(&s->roomy, have >= want || room_for(s, want - have));
        if (have < want && clock_now() >= s->make_again) {
            err e = keeper_make(s);
            if (e != OK) {
                s->make_again = clock_now() + MAKE_AGAIN;
                if (!load_acquire(&s->full))
                    log_warn("spool_full", LOG_STR("reason", err_text()), LOG_INT("ready", s->ready));
            }
            if (s->full != (e != OK)) {
                store_release(&s->full, e != OK);
                store_release(&s->refusing, false);
                commit_poke(s);         /* who waits for room has an answer */
            }
            more |= e == OK;
        }
        if (load_acquire(&s->ready) >= s->setup.reserve || load_acquire(&s->full)) /* what has no index is not compacted */
            more |= index_one(s);
        if (load_acquire(&s->loaded) && (load_acquire(&s->full) || load_acquire(&s->ready) >= want))
            more |= compact_some(s);
    }
}

/* Without being poked: a disk gets room, a segment gets old. */
static when look_again(struct spool *s)
{
    when now = clock_now();

    if (load_acquire(&s->full) || s->free_again > now)
        return now + MAKE_AGAIN;
    return load_acquire(&s->may_move) ? now + s->setup.compact_after / 4 + MAKE_AGAIN : NEVER;
}

static err keeper(void *arg)
{
    struct spool *s = arg;

    while (!load_acquire(&s->keeper_ends)) {
        s->keeper_poked = false;
        keep(s);
        if (!s->keeper_poked && !load_acquire(&s->keeper_ends))
            waiters_wait(&s->keeper_wake, look_again(s));
    }
    compact_end(s);
    return OK;
}

static void keeper_woken(struct post *p)
{
    struct spool *s = AROUND(p, struct spool, keeper_post);

    __atomic_store_n(&s->keeper_post_busy, false, __ATOMIC_SEQ_CST);
    s->keeper_poked = true;
    waiters_wake_all(&s->keeper_wake);
}

void keeper_poke(struct spool *s)
{
    if (s->keeper && !__atomic_exchange_n(&s->keeper_post_busy, true, __ATOMIC_SEQ_CST))
        thread_post(s->keeper, &s->keeper_post);
}

err keeper_first(struct spool *s)
{
    store_release(&s->roomy, room_for(s, s->setup.reserve + s->setup.ahead));
    /* One segment to begin with; the rest follows behind. On a full disk what waits still goes out. */
    err e = keeper_make(s);
    if (e == E_NOSPACE) {
        log_warn("spool_full", LOG_STR("reason", err_text()), LOG_INT("ready", s->ready));
        s->full = true;
        s->make_again = clock_now() + MAKE_AGAIN;
        e = OK;
    }
    return e;
}

void keeper_start(struct spool *s)
{
    s->keeper_post.run = keeper_woken;
    s->keeper = thread_start("spool-keep", keeper, s);
}

void keeper_stop(struct spool *s)
{
    __atomic_store_n(&s->keeper_ends, true, __ATOMIC_SEQ_CST);
    keeper_poke(s);
    thread_join(s->keeper);
}
