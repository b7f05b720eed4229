/* What waits in one spool, as a stream of octets, and out of it into another: the same frames as in a segment, one message behind the
 * other, each after the pieces of its body. States are folded into the message records. */
#include "spool/spool_inside.h"

#define STREAM_LIFE 0x57500001u         /* instead of a segment's */

static const char stream_magic[8] = "wpspool";

struct out { struct spool *s; struct spool_port *port; err (*write)(void *ctx, str octets); void *ctx; uint64_t at, n; };

static err out_write(struct out *o, str octets)
{
    o->at += octets.n;
    return o->write(o->ctx, octets);
}

/* The frame in `b`, whose octets follow its head. */
static err out_frame(struct out *o, struct buf *b, unsigned type, ulid id)
{
    uint32_t n = (uint32_t)(b->n - FRAME_HEAD);

    buf_reserve(b, 8);
    frame_begin((uint8_t *)b->p, type, id, n);
    frame_place((uint8_t *)b->p, 1, STREAM_LIFE, (uint32_t)o->at);
    return out_write(o, str_of(b->p, frame_size(n)));
}

static void frame_room(struct buf *b)
{
    b->n = 0;
    buf_reserve(b, FRAME_HEAD);
    b->n = FRAME_HEAD;
}

static err export_one(void *ctx, const struct message *m, const struct rcpt_state *state)
{
    struct out *o = ctx;
    struct message copy = *m;
    AUTO_BUF b = { 0 };
    AUTO_ARENA pieces = arena_new();
    AUTO_ARENA octets = arena_new();

    copy.piece = NEW_ARRAY(pieces, struct spool_piece, MAX(m->npiece, 1));
    for (size_t i = 0; i < m->npiece; i++) {
        str piece;
        arena_reset(octets);
        TRY(spool_read_piece(o->port, m->piece[i], octets, &piece));
        copy.piece[i] = (struct spool_piece){ { 0, (uint32_t)o->at }, m->piece[i].n };
        frame_room(&b);
        buf_add(&b, piece);
        TRY(out_frame(o, &b, FRAME_CHUNK, m->id));
    }
    for (size_t i = 0; i < m->npiece; i++)
        copy.piece[i].at.offset = (uint32_t)o->at - copy.piece[i].at.offset;
    frame_room(&b);
    stored_write(&b, &(struct stored){ .m = &copy, .state = state, .nstate = m->env.nrcpt });
    TRY(out_frame(o, &b, FRAME_MESSAGE, m->id));
    o->n++;
    return OK;
}

err spool_export(str dir, err (*write)(void *ctx, str octets), void *ctx, uint64_t *ret)
{
    struct out o = { .write = write, .ctx = ctx };
    struct spool_loaded loaded;

    TRY(spool_open(&(struct spool_setup){ .dir = dir }, &o.s));
    o.port = spool_port_open(o.s);
    err e = out_write(&o, str_of(stream_magic, 8));
    if (e == OK)
        e = spool_load(o.s, export_one, &o, &loaded);
    spool_port_close(o.port);
    spool_close(o.s);
    *ret = o.n;
    return e;
}

/* ---- and back ---- */

struct in { struct spool_port *port; err (*read)(void *ctx, void *p, size_t n, bool *end); void *ctx; uint64_t at, n; };

static err in_read(struct in *in, void *p, size_t n, bool *end)
{
    TRY(in->read(in->ctx, p, n, end));
    if (!*end)
        in->at += n;
    return OK;
}

/* In `a`; *end at the end of the stream. */
static err in_frame(struct in *in, arena *a, struct frame *ret, bool *end)
{
    uint8_t head[FRAME_HEAD];
    uint32_t at = (uint32_t)in->at;
    bool cut = false;

    TRY(in_read(in, head, sizeof head, end));
    if (*end)
        return OK;
    uint32_t n = frame_length(head);
    if (n > FRAME_MAX)
        return fail(E_DAMAGED, "no record at octet %llu", (unsigned long long)in->at - FRAME_HEAD);
    uint8_t *p = arena_alloc(a, frame_size(n));
    memcpy(p, head, FRAME_HEAD);
    if (n)
        TRY(in_read(in, p + FRAME_HEAD, round8(n), &cut));
    if (cut || frame_check(p, frame_size(n), 1, STREAM_LIFE, at, ret) != OK)
        return fail(E_DAMAGED, cut ? "the stream ends in the middle of a message" : "a record at octet %u does not match its checksum", at);
    return OK;
}

static err import_one(struct in *in, arena *a, const struct frame *f, const struct spool_piece *piece, const str *octets, size_t n)
{
    struct stored_read st;

    TRY(stored_read(f, a, &st));
    struct message *m = st.m;
    if (m->npiece != n)
        return fail(E_DAMAGED, "a message has %zu pieces instead of %zu", n, m->npiece);
    for (size_t i = 0; i < n; i++) {
        if (m->piece[i].at.offset != piece[i].at.offset || m->piece[i].n != piece[i].n)
            return fail(E_DAMAGED, "a piece of a message is another's");
        TRY(spool_chunk(in->port, m->id, octets[i], &m->piece[i]));
    }
    TRY(spool_accept(in->port, a, m, NULL));
    size_t known = 0;
    for (size_t i = 0; i < st.nstate; i++)
        if (st.state[i].version)
            st.state[known++] = st.state[i];
    if (known)
        spool_outcome(in->port, m->id, m->at, st.state, known, false);
    in->n++;
    return OK;
}

static err import_all(struct in *in)
{
    AUTO_ARENA a = arena_new();
    char magic[8];
    bool end = false;
    struct spool_piece *piece = NULL;
    str *octets = NULL;
    size_t n = 0, cap = 0;

    TRY(in_read(in, magic, 8, &end));
    if (end || memcmp(magic, stream_magic, 8) != 0)
        return fail(E_SYNTAX, "this was not written by `waypost spool export`");
    for (;;) {
        struct frame f;
        TRY(in_frame(in, a, &f, &end));
        if (end)
            return n ? fail(E_DAMAGED, "the stream ends in the middle of a message") : OK;
        if (f.type == FRAME_MESSAGE) {
            TRY(import_one(in, a, &f, piece, octets, n));
            arena_reset(a);
            piece = NULL;
            octets = NULL;
            n = cap = 0;
            continue;
        }
        if (f.type != FRAME_CHUNK)
            continue;
        if (n == cap) {
            struct spool_piece *more = NEW_ARRAY(a, struct spool_piece, cap * 2 + 4);
            str *more_octets = NEW_ARRAY(a, str, cap * 2 + 4);
            for (size_t i = 0; i < n; i++)
                more[i] = piece[i], more_octets[i] = octets[i];
            piece = more;
            octets = more_octets;
            cap = cap * 2 + 4;
        }
        piece[n] = (struct spool_piece){ { 1, f.offset }, f.n };
        octets[n++] = str_of((const char *)f.body, f.n);
    }
}

err spool_import(str dir, err (*read)(void *ctx, void *p, size_t n, bool *end), void *ctx, uint64_t *ret)
{
    struct in in = { .read = read, .ctx = ctx };
    struct spool *s;

    TRY(spool_open(&(struct spool_setup){ .dir = dir }, &s));
    in.port = spool_port_open(s);
    err e = import_all(&in);
    err flushed = spool_flush(in.port);
    spool_port_close(in.port);
    spool_close(s);
    *ret = in.n;
    return e != OK ? e : flushed;
}
