/* Frames, segment heads, batch heads: the fixed shapes. */
#include "spool/frame.h"

void frame_begin(uint8_t *p, unsigned type, ulid id, uint32_t n)
{
    must(n <= FRAME_MAX);
    put32(p + 4, n);
    put16(p + 8, type);
    put16(p + 10, 0);
    put32(p + 12, 0);
    put32(p + 16, 0);
    put32(p + 20, 0);
    memcpy(p + 24, id.b, 16);
    memset(p + FRAME_HEAD + n, 0, round8(n) - n);
    frame_again(p);
}

/* Until the frame is placed, the checksum's field holds that of the octets alone: the long part, done by the worker. */
void frame_again(uint8_t *p) { put32(p, crc32c(0, p + FRAME_HEAD, frame_length(p))); }

/* The octets come first in the checksum and the head after them, so that placing costs the head only. */
void frame_place(uint8_t *p, uint32_t segment, uint32_t life, uint32_t offset)
{
    put32(p + 12, segment);
    put32(p + 16, life);
    put32(p + 20, offset);
    put32(p, crc32c(le32(p), p + 4, FRAME_HEAD - 4));
}

err frame_check(const uint8_t *p, uint64_t have, uint32_t segment, uint32_t life, uint32_t offset, struct frame *ret)
{
    if (have < FRAME_HEAD || le32(p + 12) != segment || le32(p + 16) != life || le32(p + 20) != offset)
        return E_NOTFOUND;

    uint32_t n = frame_length(p);
    if (n > FRAME_MAX)
        return E_DAMAGED;
    if (have < frame_size(n))
        return E_LIMIT;
    if (crc32c(crc32c(0, p + FRAME_HEAD, n), p + 4, FRAME_HEAD - 4) != le32(p))
        return E_DAMAGED;
    *ret = (struct frame){
        .type = frame_type_of(p), .segment = segment, .life = life, .offset = offset, .n = n, .body = p + FRAME_HEAD,
    };
    memcpy(ret->id.b, p + 24, 16);
    return OK;
}

static const uint8_t magic[8] = "waypost";

void head_write(uint8_t p[PAGE], const struct head *h)
{
    memset(p, 0, PAGE);
    memcpy(p, magic, 8);
    put32(p + 8, h->format);
    put32(p + 12, h->needs);
    put32(p + 16, h->may);
    put32(p + 20, h->segment);
    put32(p + 24, h->life);
    put32(p + 28, h->size);
    put64(p + 32, (uint64_t)h->made);
    put32(p + 60, crc32c(0, p, 60));
}

err head_read(const uint8_t *p, struct head *ret)
{
    if (memcmp(p, magic, 8) != 0)
        return fail(E_NOTFOUND, "this is no segment of a spool");
    if (crc32c(0, p, 60) != le32(p + 60))
        return fail(E_DAMAGED, "the head does not match its checksum");
    if (le32(p + 8) > SPOOL_FORMAT)
        return fail(E_UNKNOWN, "format %u is newer than this program, which knows %u", le32(p + 8), SPOOL_FORMAT);
    if (le32(p + 12) != 0)
        return fail(E_UNKNOWN, "it needs features that this program does not know (bits %x)", le32(p + 12));
    *ret = (struct head){
        .format = le32(p + 8), .needs = le32(p + 12), .may = le32(p + 16), .segment = le32(p + 20),
        .life = le32(p + 24), .size = le32(p + 28), .made = (when)le64(p + 32),
    };
    if (ret->segment == 0 || ret->size < 2 * PAGE || ret->size % PAGE != 0)
        return fail(E_DAMAGED, "the head makes no sense");
    return OK;
}

void batch_write(uint8_t p[FRAME_HEAD + BATCH_BODY], const struct batch *b)
{
    uint8_t *q = p + FRAME_HEAD;

    put64(q, b->seq);
    put32(q + 8, b->length);
    put32(q + 12, b->count);
    put32(q + 16, b->durable.segment);
    put32(q + 20, b->durable.offset);
    put32(q + 24, b->torn_from);
    put32(q + 28, b->abandoned ? 1 : 0);
    put64(q + 32, 0);
    frame_begin(p, FRAME_BATCH, (ulid){ { 0 } }, BATCH_BODY);
}

err batch_read(const struct frame *f, struct batch *ret)
{
    const uint8_t *q = f->body;

    if (f->type != FRAME_BATCH || f->n < BATCH_BODY)
        return E_DAMAGED;
    *ret = (struct batch){
        .seq = le64(q), .length = le32(q + 8), .count = le32(q + 12),
        .durable = { le32(q + 16), le32(q + 20) }, .torn_from = le32(q + 24), .abandoned = le32(q + 28) & 1,
    };
    return ret->length >= PAGE && ret->length % PAGE == 0 && f->offset % PAGE == 0 ? OK : E_DAMAGED;
}
