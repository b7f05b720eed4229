/* What was there: the scan of a segment, the start of a spool, the load of its backlog. */
#include "spool/spool_inside.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>

/* ---- one segment ---- */

/* A disk that cannot be read may be back in a moment, and what is passed over now reaches nobody until the next start. So the first
 * failure begins a time in which reading is tried again; what cannot be read behind it is damage. */
#define READ_PATIENCE (20 * SECOND)
#define READ_AGAIN (SECOND / 4)

WAITS static ssize_t read_patiently(struct spool *s, int fd, void *p, size_t n, uint64_t at)
{
    for (;;) {
        ssize_t got = machine->file_read(fd, p, n, at);
        if (got == -EINTR)
            continue;
        if (got != -EIO || !s)
            return got;
        if (!s->patience) {
            s->patience = clock_now() + READ_PATIENCE;
            log_error("spool_unreadable", LOG_STR("reason", S("reading fails; it is tried again for a while")));
        }
        if (clock_now() >= s->patience || task_sleep(clock_now() + READ_AGAIN) != OK)
            return got;
    }
}

err segment_slurp(struct spool *s, struct segment *g, uint32_t size, uint8_t **ret)
{
    uint8_t *p = mem_grow(NULL, size);

    for (size_t at = 0; at < size;) {
        ssize_t got = read_patiently(s, g->fd, p + at, MIN(size - at, 1u << 20), at);
        if (got == -EIO) { /* a bad place on the disk harms what lies there and nothing else: it is found page by page */
            size_t n = MIN(size - at, PAGE);
            got = read_patiently(s, g->fd, p + at, n, at);
            if (got == -EIO) {
                memset(p + at, 0, n);
                g->unread = true;
                got = (ssize_t)n;
            }
        }
        if (got > 0) {
            at += (size_t)got;
            continue;
        }
        if (got < 0) {
            mem_free(p);
            return fail_errno((int)-got, "reading a segment");
        }
        if (got == 0) {
            memset(p + at, 0, size - at);
            break;
        }
    }
    *ret = p;
    return OK;
}

/* What a scan must remember until it knows where the last batch begins: before it all was acknowledged, in it nothing need have been. */
struct range { uint32_t from, to; };
struct scan_ctx {
    struct scanned *out;
    struct segment *g;
    struct range *bad; size_t nbad, bad_cap;
    struct range *octets; size_t noctets, octets_cap; /* good bodies and chunks: offset and how many */
    uint32_t *half; size_t nhalf, half_cap; /* message records whose octets here are not all good, by number in the index */
};

#define APPEND(p, n, cap, ...) \
    do { \
        if ((n) == (cap)) { \
            (cap) = (cap) ? (cap) * 2 : 64; \
            (p) = mem_grow((p), (cap) * sizeof *(p)); \
        } \
        (p)[(n)++] = __VA_ARGS__; \
    } while (0)

static bool octets_good(const struct scan_ctx *c, struct stored_piece piece)
{
    size_t low = 0, high = c->noctets;

    while (low < high) {
        size_t mid = low + (high - low) / 2;
        if (c->octets[mid].from < piece.at.offset)
            low = mid + 1;
        else
            high = mid;
    }
    return low < c->noctets && c->octets[low].from == piece.at.offset && c->octets[low].to == piece.n;
}

static bool is_whole(const struct scan_ctx *c, const struct frame *f)
{
    struct spool_ref was;
    uint32_t npiece;

    if (stored_was(f, &was, &npiece) != OK)
        return false;
    for (uint32_t i = 0; i < npiece; i++) {
        struct stored_piece piece = stored_piece(f, i);
        if (piece.at.segment == f->segment && !octets_good(c, piece))
            return false;
    }
    return true;
}

static err scan_frame(void *ctx, const struct frame *f)
{
    struct scan_ctx *c = ctx;

    if (!frame_known(f->type)) {
        if (!(f->type & FRAME_IGNORABLE))
            return fail(E_UNKNOWN, "segment %u holds a record of type %u: it was written by a newer waypost", c->g->number, f->type);
        return OK;
    }
    if (frame_is_octets(f->type))
        APPEND(c->octets, c->noctets, c->octets_cap, (struct range){ f->offset, f->n });
    if (index_add(c->out->index, f) != OK)
        c->out->damaged++;
    else if (f->type == FRAME_MESSAGE && !is_whole(c, f))
        APPEND(c->half, c->nhalf, c->half_cap, c->out->index->nmessage - 1);
    return OK;
}

static void scan_bad(void *ctx, uint32_t from, uint32_t to)
{
    struct scan_ctx *c = ctx;
    APPEND(c->bad, c->nbad, c->bad_cap, (struct range){ from, to });
}

/* Leave the messages out that never were whole. */
static void drop_halves(struct scan_ctx *c, uint32_t torn)
{
    struct index *old = c->out->index, *x = index_new();
    size_t half = 0;
    uint32_t nth = 0;

    for (uint32_t at = 0; at < old->frames.n;) {
        struct frame f = index_frame(old, at);
        bool drop = false;
        if (f.type == FRAME_MESSAGE) {
            while (half < c->nhalf && c->half[half] < nth)
                half++;
            drop = half < c->nhalf && c->half[half] == nth && f.offset >= torn;
            nth++;
        }
        if (!drop)
            must(index_add(x, &f) == OK);
        at += frame_size(f.n);
    }
    index_free(old);
    c->out->index = x;
}

static void judge(struct scan_ctx *c)
{
    struct scanned *out = c->out;
    uint32_t torn = c->g->torn_from ? c->g->torn_from : out->walk.last;
    bool drop = false;

    for (size_t i = 0; i < c->nbad; i++) {
        if (c->bad[i].from >= torn) {
            out->torn_bytes += c->bad[i].to - c->bad[i].from;
            continue;
        }
        out->damaged++;
        if (out->findings)
            buf_addf(out->findings, "%08x.seg  octets %u to %u are damaged\n", c->g->number, c->bad[i].from, c->bad[i].to);
        else
            log_error("spool_damage", LOG_INT("segment", c->g->number), LOG_INT("from", c->bad[i].from), LOG_INT("to", c->bad[i].to));
    }
    for (size_t i = 0; i < c->nhalf; i++)
        drop |= out->index->message[c->half[i]].offset >= torn;
    if (drop)
        drop_halves(c, torn);
}

err segment_scan(struct segment *g, struct scanned *ret)
{
    struct scan_ctx c = { .out = ret, .g = g };
    uint32_t size = g->cut ? MIN(g->cut, g->size) : g->size;
    uint8_t *p;

    *ret = (struct scanned){ .s = ret->s, .findings = ret->findings };
    TRY(segment_slurp(ret->s, g, size, &p));
    ret->index = index_new();
    ret->walk = (struct walk){ .p = p, .size = size, .segment = g->number, .life = g->life, .frame = scan_frame, .bad = scan_bad, .ctx = &c };
    err e = walk_segment(&ret->walk);
    if (e == OK)
        judge(&c);
    mem_free(p);
    mem_free(c.bad);
    mem_free(c.octets);
    mem_free(c.half);
    ret->walk.p = NULL;
    if (e != OK) {
        index_free(ret->index);
        ret->index = NULL;
        return e;
    }
    g->end = ret->walk.end;
    return OK;
}

void segment_learn(struct spool *s, struct segment *g, const struct index *x)
{
    uint32_t foreign = 0;

    for (uint32_t i = 0; i < x->nmessage; i++) {
        const struct index_message *m = &x->message[i];
        uint32_t first = foreign;
        foreign += m->nforeign;
        if (g->n && g->offset[g->n - 1] >= m->offset)
            continue;
        segment_add(g, m->offset, m->bytes);
        for (uint32_t k = first; k < foreign; k++)
            segment_add_foreign(s, g, m->offset, x->foreign[k].segment, x->foreign[k].bytes);
        if (m->was_segment && m->was_segment <= g->number) { /* in the same one: it was copied away from a piece of its body */
            struct segment *old = segment_find(s, m->was_segment);
            if (old != g)
                segment_depend(g, m->was_segment, 0, true);
            uint32_t slot = old ? segment_slot(old, m->was_offset) : NO_SLOT;
            if (slot != NO_SLOT)
                segment_gone(s, old, slot, SLOT_MOVED);
        }
    }
    for (uint32_t i = 0; i < x->nnote; i++) {
        const struct index_note *n = &x->note[i];
        if (n->segment <= g->number)
            segment_note(s, g, n->type, (struct spool_ref){ n->segment, n->offset });
    }
    g->known = true;
}

/* ---- the start ---- */

struct listing { struct spool *s; uint32_t *segment; size_t nsegment; uint32_t *spare; size_t nspare; uint32_t *index; size_t nindex; uint32_t most; };

static int list_entry(void *ctx, const char *name)
{
    struct listing *l = ctx;
    char *end;
    unsigned long n = strtoul(name, &end, 16);

    if (end != name + 8 || n == 0 || n > UINT32_MAX)
        return 0;
    if (strcmp(end, ".seg") == 0) {
        l->segment = mem_grow(l->segment, (l->nsegment + 1) * sizeof *l->segment);
        l->segment[l->nsegment++] = (uint32_t)n;
    } else if (strcmp(end, ".old") == 0) {
        l->spare = mem_grow(l->spare, (l->nspare + 1) * sizeof *l->spare);
        l->spare[l->nspare++] = (uint32_t)n;
    } else if (strcmp(end, ".idx") == 0) {
        l->index = mem_grow(l->index, (l->nindex + 1) * sizeof *l->index);
        l->index[l->nindex++] = (uint32_t)n;
    } else if (strcmp(end, ".new") == 0) { /* half made: zeros may be missing */
        machine->file_unlink(l->s->dir, name);
    } else if (strcmp(end, ".bad") != 0) {
        return 0;
    }
    l->most = MAX(l->most, (uint32_t)n);
    return 0;
}

static int by_number(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return x < y ? -1 : x > y;
}

/* The head is gone; but the first batch says which life this is, and vouches for it by its checksum. */
static bool head_guess(const uint8_t *page, uint32_t number, struct head *ret)
{
    struct frame f;
    struct batch b;

    *ret = (struct head){ .format = SPOOL_FORMAT, .segment = number, .life = le32(page + PAGE + 16) };
    return frame_check(page + PAGE, PAGE, number, ret->life, PAGE, &f) == OK && batch_read(&f, &b) == OK;
}

err segment_open(struct spool *s, uint32_t number, struct segment **ret, bool *used)
{
    AUTO_BUF room = { 0 };
    struct head h = { 0 };
    struct frame f;
    struct batch first;

    *ret = NULL;
    int fd = machine->file_open(s->dir, file_name(number, "seg").z, O_RDWR, 0);
    if (fd < 0)
        return fail_errno(-fd, "segment %u", number);
    buf_reserve(&room, 2 * PAGE);
    uint8_t *page = (uint8_t *)room.p;
    memset(page, 0, 2 * PAGE);
    bool unread[2];
    for (int i = 0; i < 2; i++) /* one that cannot be read is as bad as one that is wrong */
        unread[i] = read_patiently(s, fd, page + i * PAGE, PAGE, (uint64_t)i * PAGE) < 0;
    int64_t size = machine->file_size(fd);
    err e = size < 2 * (int64_t)PAGE ? fail(E_DAMAGED, "it is too short") : head_read(page, &h);
    if (e == OK && h.segment != number)
        e = fail(E_DAMAGED, "it says it is %u", h.segment);
    if ((e == E_DAMAGED || e == E_NOTFOUND) && size >= 2 * (int64_t)PAGE && head_guess(page, number, &h)) {
        log_error("spool_damage", LOG_INT("segment", number), LOG_INT("from", 0), LOG_INT("to", PAGE));
        h.size = (uint32_t)MIN(size, (int64_t)UINT32_MAX) & ~(PAGE - 1);
        e = OK;
    }
    if (e != OK) {
        machine->close(fd);
        return during(e, "segment %u", number);
    }
    struct segment *g = segment_new(s, number, h.life, fd);
    g->size = (uint32_t)MIN((int64_t)h.size, size) & ~(PAGE - 1);
    g->recovered = true;
    *used = frame_check(page + PAGE, PAGE, number, h.life, PAGE, &f) == OK && batch_read(&f, &first) == OK;
    if (*used)
        g->first = first;
    *used |= unread[1]; /* it may be, and then it is no spare */
    g->unread = unread[0] || unread[1];
    *ret = g;
    return OK;
}

void segment_verdicts(struct spool *s)
{
    for (size_t i = 0; i < s->nsegment; i++) {
        struct segment *g = s->segment[i];
        const struct batch *b = &g->first;
        if (!b->seq || b->durable.segment >= g->number)
            continue;
        struct segment *d = segment_find(s, b->durable.segment);
        if (d)
            d->torn_from = b->torn_from;
        if (!b->abandoned)
            continue;
        for (size_t k = 0; k < i; k++) {
            struct segment *lost = s->segment[k];
            if (lost->number < b->durable.segment)
                continue;
            lost->cut = lost == d ? MAX(b->durable.offset, PAGE) : PAGE;
            segment_depend(g, lost->number, 0, true);
        }
    }
}

/* Open every segment; find the last one in use. Those behind it were made ready and never written. */
static err open_segments(struct spool *s, struct listing *l)
{
    struct segment *last = NULL, **ready = mem_new(MAX(l->nsegment, 1) * sizeof(struct segment *));
    size_t nready = 0;
    bool renamed = false;
    err e = OK;

    if (l->nsegment) /* an empty list has no address to give */
        qsort(l->segment, l->nsegment, sizeof *l->segment, by_number);
    for (size_t i = 0; i < l->nsegment && e == OK; i++) {
        struct segment *g;
        bool used = false;
        e = segment_open(s, l->segment[i], &g, &used);
        if (e == E_DAMAGED || e == E_NOTFOUND) { /* set aside, harms no other */
            log_error("spool_segment_set_aside", LOG_INT("segment", l->segment[i]), LOG_STR("reason", err_text()));
            machine->file_rename(s->dir, file_name(l->segment[i], "seg").z, file_name(l->segment[i], "bad").z);
            e = OK;
            continue;
        }
        if (e != OK)
            break;
        if (used) {
            for (size_t k = 0; k < nready; k++) { /* damaged at its first batch, but in use */
                ready[k]->state = SEGMENT_SEALED;
                segment_insert(s, ready[k]);
            }
            nready = 0;
            g->state = SEGMENT_SEALED;
            segment_insert(s, g);
            last = g;
        } else
            ready[nready++] = g;
    }
    for (size_t k = 0; k < nready && e == OK; k++) {
        struct segment *g = ready[k];
        struct scanned sc = { .s = s };
        if (k == 0) { /* the next in turn: perhaps only its first batch is torn or bad */
            e = segment_scan(g, &sc);
            index_free(sc.index);
            if (e == OK && sc.walk.batches) {
                g->state = SEGMENT_SEALED;
                segment_insert(s, g);
                last = g;
                continue;
            }
        }
        struct spare *spare = mem_new(sizeof *spare);
        *spare = (struct spare){ .next = s->spare, .number = g->number, .fd = g->fd };
        s->spare = spare;
        machine->file_rename(s->dir, file_name(g->number, "seg").z, file_name(g->number, "old").z);
        renamed = true;
        segment_free(g);
    }
    mem_free(ready);
    if (e == OK && last) {
        last->tail = true;
        s->tail = last->number;
    }
    segment_verdicts(s);
    /* Before one is given another head: it must not come back under its old name. */
    if (e == OK && renamed)
        e = sync_dir(s);
    return e;
}

static err open_spares(struct spool *s, struct listing *l)
{
    for (size_t i = 0; i < l->nspare; i++) {
        int fd = machine->file_open(s->dir, file_name(l->spare[i], "old").z, O_RDWR, 0);
        if (fd < 0)
            continue;
        if (machine->file_size(fd) != s->size) {
            machine->close(fd);
            machine->file_unlink(s->dir, file_name(l->spare[i], "old").z);
            continue;
        }
        struct spare *spare = mem_new(sizeof *spare);
        *spare = (struct spare){ .next = s->spare, .number = l->spare[i], .fd = fd };
        s->spare = spare;
    }
    for (size_t i = 0; i < l->nindex; i++)
        if (!segment_find(s, l->index[i]))
            index_drop(s, l->index[i]);
    return OK;
}

/* The name of the spool itself must be on the disk before anything in it is acknowledged. It may have been made just now by us, or by
 * one of us that was killed before this. Who may not look into the directory above did not make it. */
static err sync_above(struct spool *s)
{
    size_t n = strlen(s->dir_text);

    while (n > 1 && s->dir_text[n - 1] == '/')
        n--;
    while (n > 0 && s->dir_text[n - 1] != '/')
        n--;
    char *above = mem_new(n + 2);
    memcpy(above, s->dir_text, n);
    if (!n)
        above[0] = '.';
    int fd = machine->file_open(-100, above, O_RDONLY | O_DIRECTORY, 0);
    mem_free(above);
    if (fd < 0)
        return OK;
    int got = machine->file_sync_all(fd);
    machine->close(fd);
    return got < 0 ? fail_errno(-got, "syncing the directory above %s", s->dir_text) : OK;
}

static err open_dir(struct spool *s)
{
    int parent = machine->file_open(-100 /* AT_FDCWD */, s->dir_text, O_RDONLY | O_DIRECTORY, 0);

    if (parent == -ENOENT) {
        int made = machine->file_make_dir(-100, s->dir_text, 0700);
        if (made < 0 && made != -EEXIST)
            return fail_errno(-made, "%s", s->dir_text);
        parent = machine->file_open(-100, s->dir_text, O_RDONLY | O_DIRECTORY, 0);
    }
    if (parent < 0)
        return fail_errno(-parent, "%s", s->dir_text);
    s->dir = parent;
    TRY(sync_above(s));
    s->lock_fd = machine->file_open(s->dir, "lock", O_RDWR | O_CREAT, 0600);
    if (s->lock_fd < 0)
        return fail_errno(-s->lock_fd, "%s/lock", s->dir_text);
    int got = machine->file_lock(s->lock_fd);
    if (got < 0)
        return got == -EWOULDBLOCK ? fail(E_EXISTS, "%s is in use by another process", s->dir_text) : fail_errno(-got, "%s/lock", s->dir_text);
    return OK;
}

static void spool_drop(struct spool *s)
{
    for (size_t i = 0; i < s->nsegment; i++) {
        machine->close(s->segment[i]->fd);
        segment_free(s->segment[i]);
    }
    while (s->spare) {
        struct spare *sp = s->spare;
        s->spare = sp->next;
        machine->close(sp->fd);
        mem_free(sp);
    }
    if (s->lock_fd > 0)
        machine->close(s->lock_fd);
    if (s->dir > 0)
        machine->close(s->dir);
    mem_free(s->segment);
    mem_free(s->chunks.slot);
    mem_free(s->dir_text);
    pthread_mutex_destroy(&s->lock);
    mem_free(s);
}

err spool_open(const struct spool_setup *setup, struct spool **ret)
{
    struct spool *s = mem_new(sizeof *s);
    struct listing l = { .s = s };
    struct spool_ref durable = { 0 };
    uint32_t torn_from = 0;
    uint64_t seq = 0;

    s->setup = *setup;
    s->setup.reserve = setup->reserve ? setup->reserve : 4;
    s->setup.ahead = setup->ahead ? setup->ahead : 2;
    s->setup.compact_slack = setup->compact_slack ? setup->compact_slack : 4;
    s->setup.compact_after = setup->compact_after ? setup->compact_after : MINUTE;
    s->size = setup->segment ? setup->segment : SPOOL_SEGMENT;
    s->dir_text = mem_new(setup->dir.n + 1);
    memcpy(s->dir_text, setup->dir.p, setup->dir.n);
    pthread_mutex_init(&s->lock, NULL);
    list_init(&s->ports);
    err e = open_dir(s);
    if (e == OK) {
        int got = machine->file_list(s->dir, list_entry, &l);
        if (got < 0) /* what is not listed would be taken for ended */
            e = fail_errno(-got, "listing %s", s->dir_text);
    }
    if (e == OK)
        e = open_segments(s, &l);
    if (e == OK)
        e = open_spares(s, &l);
    mem_free(l.segment);
    mem_free(l.spare);
    mem_free(l.index);
    s->next_number = l.most + 1;
    if (e == OK && s->tail) {
        struct segment *tail = segment_find(s, s->tail);
        struct scanned sc = { .s = s };
        e = segment_scan(tail, &sc);
        if (e == OK) {
            /* After a kill, what we just read may be in memory only, and it is about to be acted upon. */
            int synced = machine->file_sync(tail->fd);
            if (synced < 0)
                e = fail_errno(-synced, "syncing segment %u", tail->number);
            /* All that is good in the last batch counts from now on; what is bad in it never was acknowledged. */
            durable = (struct spool_ref){ tail->number, sc.walk.end };
            torn_from = MAX(sc.walk.last, PAGE);
            seq = sc.walk.seq;
            tail->index = sc.index;
        }
    }
    if (e == OK) {
        s->disk = pool_start("spool-disk", 4);
        s->loaded = s->nsegment == 0;
        e = keeper_first(s);
    }
    if (e == OK)
        e = commit_start(s, seq, durable, torn_from);
    if (e != OK) {
        struct err_note note = *err_note;
        if (s->disk)
            pool_stop(s->disk);
        spool_drop(s);
        *err_note = note;
        return e;
    }
    keeper_start(s);
    *ret = s;
    return OK;
}

void spool_close(struct spool *s)
{
    keeper_stop(s);
    commit_stop(s);
    pool_stop(s->disk);
    spool_drop(s);
}

/* ---- the backlog ---- */

static err load_index(struct spool *s, struct segment *g, struct index **ret, struct spool_loaded *count)
{
    if (!g->tail && index_read(s, g, ret) == OK) {
        g->indexed = true;
        return OK;
    }
    struct scanned sc = { .s = s };
    TRY(segment_scan(g, &sc));
    *ret = sc.index;
    count->damaged += sc.damaged;
    count->torn_bytes += sc.torn_bytes;
    return OK;
}

/* Moves that a crash cut short: what was noted about the originals since they were copied. */
struct late { struct spool *s; struct spool_port *port; struct index *notes; uint32_t about; };

/* Merge it into the state of the copy, and note it about that: its original is to be given back. */
static err load_late(struct late *l, const struct stored_read *st, struct rcpt_state *state, arena *a, bool *ended)
{
    struct spool *s = l->s;
    size_t n = st->m->env.nrcpt;
    bool late_end = false;

    pthread_mutex_lock(&s->lock);
    struct segment *old = segment_find(s, st->was.segment);
    uint32_t slot = old ? segment_slot(old, st->was.offset) : NO_SLOT;
    bool noted = slot != NO_SLOT && old->flag[slot] & (SLOT_NOTED | SLOT_ENDED);
    pthread_mutex_unlock(&s->lock);
    if (!noted)
        return OK;
    if (l->about != st->was.segment) {
        index_free(take(l->notes));
        l->notes = index_new();
        TRY(gather_notes(s, st->was.segment, l->notes));
        l->about = st->was.segment;
    }
    struct rcpt_state *known = NEW_ARRAY(a, struct rcpt_state, n);
    memcpy(known, state, n * sizeof *known);
    TRY(merge_notes(l->notes, st->was, state, n, &late_end));
    if (!l->port)
        l->port = port_open(s, RANK_RESERVE);
    fold_late(l->port, st, known, state, late_end);
    *ended |= late_end;
    return OK;
}

/* What was noted must be durable before an original is given back. */
static err late_end(struct late *l)
{
    err e = OK;

    index_free(l->notes);
    if (!l->port)
        return OK;
    while ((e = spool_flush(l->port)) != OK && e != E_CANCELED)
        TRY(task_sleep(clock_now() + SECOND));
    spool_port_close(l->port);
    return e;
}

/* The messages of one segment that still wait, with all notes about them. */
static err load_segment(struct spool *s, struct segment *g, const struct index *x, struct late *late,
                        err (*each)(void *ctx, const struct message *m, const struct rcpt_state *state), void *ctx, struct spool_loaded *count)
{
    AUTO(index) notes = index_new();
    AUTO_ARENA a = arena_new();
    bool noted = false;

    pthread_mutex_lock(&s->lock);
    uint8_t *flag = mem_new(MAX(x->nmessage, 1));
    for (uint32_t i = 0; i < x->nmessage; i++) {
        uint32_t slot = segment_slot(g, x->message[i].offset);
        flag[i] = slot == NO_SLOT ? SLOT_ENDED : g->flag[slot];
    }
    pthread_mutex_unlock(&s->lock);
    for (uint32_t i = 0; i < x->nmessage; i++)
        noted |= flag[i] & SLOT_NOTED;
    err e = noted ? gather_notes(s, g->number, notes) : OK;
    for (uint32_t i = 0; i < x->nmessage && e == OK; i++) {
        struct stored_read st;
        bool ended = false;
        if (flag[i] & (SLOT_ENDED | SLOT_MOVED)) {
            count->ended++;
            continue;
        }
        struct frame f = index_frame(x, x->message[i].at);
        arena_reset(a);
        if (stored_read(&f, a, &st) != OK) {
            count->damaged++;
            log_error("spool_damage", LOG_INT("segment", g->number), LOG_STR("reason", err_text()));
            continue;
        }
        struct rcpt_state *state = NEW_ARRAY(a, struct rcpt_state, st.m->env.nrcpt);
        for (uint32_t k = 0; k < st.m->env.nrcpt; k++)
            state[k].index = k;
        for (size_t k = 0; k < st.nstate; k++)
            state[st.state[k].index] = st.state[k];
        if ((flag[i] & SLOT_NOTED) && merge_notes(notes, st.m->at, state, st.m->env.nrcpt, &ended) != OK) {
            count->damaged++;           /* what it said is lost: its recipients may get a second copy, never none */
            log_error("spool_damage", LOG_INT("segment", g->number), LOG_STR("reason", err_text()));
        }
        if (st.was.segment && !ended)
            e = load_late(late, &st, state, a, &ended);
        if (e == E_DAMAGED) {
            count->damaged++;
            log_error("spool_damage", LOG_INT("segment", g->number), LOG_STR("reason", err_text()));
            e = OK;
        }
        if (ended || e != OK) {
            count->ended += ended;
            continue;
        }
        count->messages++;
        if (each)
            e = each(ctx, st.m, state);
    }
    mem_free(flag);
    return e;
}

err spool_load(struct spool *s, err (*each)(void *ctx, const struct message *m, const struct rcpt_state *state), void *ctx,
               struct spool_loaded *ret)
{
    struct late late = { .s = s };
    err e = OK;
    size_t n = 0;

    *ret = (struct spool_loaded){ 0 };
    pthread_mutex_lock(&s->lock);
    struct segment **all = mem_new(MAX(s->nsegment, 1) * sizeof *all);
    for (size_t i = 0; i < s->nsegment; i++)
        if (s->segment[i]->recovered)
            all[n++] = s->segment[i];
    pthread_mutex_unlock(&s->lock);

    /* First what every segment says of every other, then the messages: nothing is freed before all is known. */
    for (size_t i = 0; i < n && e == OK; i++) {
        struct index *x = NULL;
        if (all[i]->known)
            continue;
        e = load_index(s, all[i], &x, ret);
        if (e != OK)
            break;
        pthread_mutex_lock(&s->lock);
        segment_learn(s, all[i], x);
        if (!all[i]->indexed && !all[i]->index)
            all[i]->index = take(x); /* kept until the keeper has written its file */
        pthread_mutex_unlock(&s->lock);
        index_free(x);
    }
    bool all_known = e == OK;
    for (size_t i = 0; i < n && e == OK; i++) {
        struct index *x = all[i]->index, *mine = NULL;
        if (!x) {
            e = index_read(s, all[i], &mine);
            if (e != OK) {
                struct scanned sc = { .s = s };
                e = segment_scan(all[i], &sc);
                mine = sc.index;
            }
            x = mine;
        }
        if (e == OK)
            e = load_segment(s, all[i], x, &late, each, ctx, ret);
        index_free(mine);
    }
    mem_free(all);
    err noted = late_end(&late);
    e = e != OK ? e : noted;
    if (all_known && noted == OK) { /* else nothing may be given back: one that we could not read may need what looks free */
        store_release(&s->loaded, true);
        keeper_poke(s);
    }
    return e;
}

struct spool_stats spool_stats(const struct spool *s)
{
    const struct spool_stats *now = &s->stats;
    struct spool_stats r = { 0 };

#define READ(field) r.field = __atomic_load_n(&now->field, __ATOMIC_RELAXED)
    READ(commits), READ(syncs), READ(sync_us_total), READ(sync_us_max), READ(bytes), READ(messages), READ(chunks), READ(notes);
    READ(segments), READ(condemned), READ(compacted), READ(notes_waiting);
#undef READ
    r.ready = load_acquire(&s->ready);
    /* With just the reserve left, what still fits in the open segment is taken: until something did not. */
    r.intake_stopped = load_acquire(&s->full) && (r.ready < s->setup.reserve || (r.ready <= s->setup.reserve && load_acquire(&s->refusing)));
    return r;
}

/* From 64 us up in powers of two: ours are finer. */
struct spool_syncs spool_syncs(const struct spool *s)
{
    struct spool_syncs r = { 0 };

    for (unsigned i = 0; i < SPOOL_SYNCS; i++)
        r.end[i] = UINT64_C(64) << i;
    for (unsigned b = 0, i = 0; b < SYNC_BUCKETS; b++) {
        while (i < SPOOL_SYNCS && sync_bucket_us(b) >= r.end[i])
            i++;
        if (i < SPOOL_SYNCS)
            r.n[i] += __atomic_load_n(&s->sync_took[b], __ATOMIC_RELAXED);
    }
    return r;
}
