/* All records of one segment but the octets: in memory while it is written, then in a file beside it. The file is a cache: when it is
 * missing, damaged or of another life, the segment is scanned. */
#include "spool/spool_inside.h"

#include <fcntl.h>
#include <stdlib.h>

struct index *index_new(void) { return mem_new(sizeof(struct index)); }

void index_free(struct index *x)
{
    if (!x)
        return;
    buf_free(&x->frames);
    mem_free(x->message);
    mem_free(x->foreign);
    mem_free(x->note);
    mem_free(x);
}

#define GROW(p, n, cap) \
    do { \
        if ((n) == (cap)) { \
            (cap) = (cap) ? (cap) + (cap) / 2 : 64; \
            (p) = mem_grow((p), (cap) * sizeof *(p)); \
        } \
    } while (0)

static err add_message(struct index *x, const struct frame *f, uint32_t at)
{
    struct spool_ref was;
    uint32_t npiece, nforeign = 0, bytes = frame_size(f->n);

    TRY(stored_was(f, &was, &npiece));
    for (uint32_t i = 0; i < npiece; i++) {
        struct stored_piece piece = stored_piece(f, i);
        if (piece.at.segment == f->segment) {
            bytes += frame_size(piece.n);
            continue;
        }
        GROW(x->foreign, x->nforeign, x->foreign_cap);
        x->foreign[x->nforeign++] = (struct index_foreign){ piece.at.segment, frame_size(piece.n) };
        nforeign++;
    }
    GROW(x->message, x->nmessage, x->message_cap);
    x->message[x->nmessage++] = (struct index_message){ f->offset, at, was.segment, was.offset, bytes, nforeign };
    return OK;
}

err index_add(struct index *x, const struct frame *f)
{
    uint32_t at = (uint32_t)x->frames.n;
    struct spool_ref home;
    uint32_t n;

    if (f->type == FRAME_MESSAGE)
        TRY(add_message(x, f, at));
    else if (frame_is_note(f->type)) {
        TRY(note_home(f, &home, &n));
        GROW(x->note, x->nnote, x->note_cap);
        x->note[x->nnote++] = (struct index_note){ home.segment, home.offset, at, f->type };
        x->sorted = false;
    } else
        return OK;
    buf_add(&x->frames, str_of((const char *)f->body - FRAME_HEAD, frame_size(f->n)));
    return OK;
}

static int by_home(const void *a, const void *b)
{
    const struct index_note *x = a, *y = b;

    if (x->segment != y->segment)
        return x->segment < y->segment ? -1 : 1;
    if (x->offset != y->offset)
        return x->offset < y->offset ? -1 : 1;
    return x->at < y->at ? -1 : x->at > y->at;
}

void index_sort(struct index *x)
{
    if (!x->sorted && x->nnote)
        qsort(x->note, x->nnote, sizeof *x->note, by_home);
    x->sorted = true;
}

struct frame index_frame(const struct index *x, uint32_t at)
{
    const uint8_t *p = (const uint8_t *)x->frames.p + at;
    struct frame f = { .type = frame_type_of(p), .segment = le32(p + 12), .life = le32(p + 16), .offset = le32(p + 20), .n = frame_length(p),
                       .body = p + FRAME_HEAD };

    memcpy(f.id.b, p + 24, 16);
    return f;
}

/* ---- the file: this head, the frames, messages, foreign pieces, notes by home ---- */

struct file_head {
    uint8_t magic[8];
    uint32_t crc;               /* of all that follows */
    uint32_t format, segment, life, end, frames, nmessage, nforeign, nnote, zero;
};
static const uint8_t index_magic[8] = "wpindex";

err index_write(struct spool *s, struct segment *g, struct index *x)
{
    index_sort(x);
    struct file_head h = { .format = SPOOL_FORMAT, .segment = g->number, .life = g->life, .end = g->end, .frames = (uint32_t)x->frames.n,
                           .nmessage = x->nmessage, .nforeign = x->nforeign, .nnote = x->nnote };
    struct iovec iov[5] = {
        { &h, sizeof h }, { x->frames.p, x->frames.n }, { x->message, x->nmessage * sizeof *x->message },
        { x->foreign, x->nforeign * sizeof *x->foreign }, { x->note, x->nnote * sizeof *x->note },
    };
    memcpy(h.magic, index_magic, 8);
    h.crc = crc32c(0, (uint8_t *)&h + 12, sizeof h - 12);
    for (int i = 1; i < 5; i++)
        h.crc = crc32c(h.crc, iov[i].iov_base, iov[i].iov_len);
    int fd = machine->file_open(s->dir, file_name(g->number, "idx").z, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    if (fd < 0)
        return fail_errno(-fd, "index of segment %u", g->number);
    uint64_t at = 0;
    err e = OK;
    for (int i = 0; i < 5 && e == OK; i++)
        while (iov[i].iov_len && e == OK) {
            when before = clock_now();
            ssize_t n = machine->file_write(fd, &(struct iovec){ iov[i].iov_base, MIN(iov[i].iov_len, keeper_piece(s)) }, 1, at);
            if (n <= 0) {
                e = fail_errno(n ? (int)-n : 5, "index of segment %u", g->number);
                break;
            }
            /* It may get lost, so nobody syncs it; but the system would write a dozen of them in one go, and commits would stand behind that. */
            machine->file_write_back(fd, at, (size_t)n);
            at += (uint64_t)n;
            iov[i].iov_base = (char *)iov[i].iov_base + n;
            iov[i].iov_len -= (size_t)n;
            if (iov[i].iov_len)
                keeper_pace(s, clock_now() - before);
        }
    machine->close(fd);
    if (e != OK)
        index_drop(s, g->number);
    return e;
}

/* The file, piece by piece into where it is to lie, and the checksum of what was read. */
struct reading { int fd; uint64_t at; uint32_t crc; };

static err read_piece(struct reading *r, void *p, size_t n)
{
    for (size_t done = 0; done < n;) {
        ssize_t got = machine->file_read(r->fd, (char *)p + done, n - done, r->at + done);
        if (got < 0)
            return fail_errno((int)-got, "reading");
        if (got == 0)
            return fail(E_DAMAGED, "shorter than it says");
        done += (size_t)got;
    }
    r->at += n;
    r->crc = crc32c(r->crc, p, n);
    return OK;
}

static err read_table(struct reading *r, void *ret, uint32_t n, size_t each)
{
    void *t = *(void **)ret = mem_grow(NULL, MAX(n, 1) * each);
    return read_piece(r, t, n * each);
}

/* Is there a frame at `at` that may be read? */
static bool frame_in(const struct index *x, uint32_t at, bool note)
{
    if (at % 8 || at > x->frames.n || x->frames.n - at < FRAME_HEAD)
        return false;
    struct frame f = index_frame(x, at);
    return f.n <= FRAME_MAX && frame_size(f.n) <= x->frames.n - at && (note ? frame_is_note(f.type) : f.type == FRAME_MESSAGE);
}

/* A checksum says that we wrote it; this, that it can be used. */
static bool sensible(const struct index *x)
{
    uint64_t nforeign = 0;

    for (uint32_t i = 0; i < x->nmessage; i++) {
        if (!frame_in(x, x->message[i].at, false) || (i && x->message[i].offset <= x->message[i - 1].offset))
            return false;
        nforeign += x->message[i].nforeign;
    }
    for (uint32_t i = 0; i < x->nnote; i++)
        if (!frame_in(x, x->note[i].at, true) || (i && by_home(&x->note[i - 1], &x->note[i]) > 0))
            return false;
    return nforeign == x->nforeign;
}

static err read_head(struct reading *r, uint32_t number, uint32_t life, struct file_head *h)
{
    enum { BEFORE_CRC = 12 };
    int64_t size = machine->file_size(r->fd);

    if (size < (int64_t)sizeof *h || size > INT32_MAX)
        return fail(E_DAMAGED, "its size");
    TRY(read_piece(r, h, sizeof *h));
    r->crc = crc32c(0, (uint8_t *)h + BEFORE_CRC, sizeof *h - BEFORE_CRC);
    uint64_t want = sizeof *h + (uint64_t)h->frames + (uint64_t)h->nmessage * sizeof(struct index_message)
                    + (uint64_t)h->nforeign * sizeof(struct index_foreign) + (uint64_t)h->nnote * sizeof(struct index_note);
    if (memcmp(h->magic, index_magic, 8) != 0 || h->format != SPOOL_FORMAT || h->segment != number || h->life != life || want != (uint64_t)size)
        return fail(E_DAMAGED, "its head");
    return OK;
}

static err read_body(struct reading *r, const struct file_head *h, struct index *x)
{
    buf_reserve(&x->frames, h->frames);
    x->frames.n = h->frames;
    TRY(read_piece(r, x->frames.p, h->frames));
    x->nmessage = x->message_cap = h->nmessage;
    TRY(read_table(r, &x->message, h->nmessage, sizeof *x->message));
    x->nforeign = x->foreign_cap = h->nforeign;
    TRY(read_table(r, &x->foreign, h->nforeign, sizeof *x->foreign));
    x->nnote = x->note_cap = h->nnote;
    TRY(read_table(r, &x->note, h->nnote, sizeof *x->note));
    x->sorted = true;
    return r->crc == h->crc && sensible(x) ? OK : fail(E_DAMAGED, "its checksum, or what it says");
}

static err index_open(struct spool *s, uint32_t number, uint32_t life, struct file_head *ret, struct index **x)
{
    struct reading r = { .fd = machine->file_open(s->dir, file_name(number, "idx").z, O_RDONLY, 0) };

    if (r.fd < 0)
        return fail(E_NOTFOUND, "no index of segment %u", number);
    err e = read_head(&r, number, life, ret);
    if (e == OK) {
        *x = index_new();
        e = read_body(&r, ret, *x);
        if (e != OK)
            index_free(take(*x));
    }
    machine->close(r.fd);
    return e == OK ? OK : during(e, "index of segment %u", number);
}

err index_read(struct spool *s, struct segment *g, struct index **ret)
{
    struct file_head h;

    TRY(index_open(s, g->number, g->life, &h, ret));
    g->end = g->torn_from = h.end;
    return OK;
}

err index_read_notes(struct spool *s, uint32_t number, uint32_t life, uint32_t home, struct index *x)
{
    struct file_head h;
    AUTO(index) from = NULL;

    TRY(index_open(s, number, life, &h, &from));
    for (uint32_t i = 0; i < from->nnote; i++)
        if (from->note[i].segment == home) {
            struct frame f = index_frame(from, from->note[i].at);
            TRY(index_add(x, &f));
        }
    return OK;
}

void index_drop(struct spool *s, uint32_t number)
{
    machine->file_unlink(s->dir, file_name(number, "idx").z);
}
