/* Finding the frames of a segment, whatever has become of it. */
#include "spool/frame.h"

static err check(const struct walk *w, uint32_t at, uint32_t end, struct frame *ret)
{
    return frame_check(w->p + at, end - at, w->segment, w->life, at, ret);
}

static bool batch_at(const struct walk *w, uint32_t at, struct batch *ret)
{
    struct frame f;
    return check(w, at, w->size, &f) == OK && batch_read(&f, ret) == OK && ret->length <= w->size - at;
}

/* The frames of [at, end), of which `count` are promised. */
static err frames(struct walk *w, uint32_t at, uint32_t end, uint32_t count)
{
    struct frame f;

    while (at < end && count > 0) {
        uint32_t from = at;
        while (at < end && check(w, at, end, &f) != OK)
            at += 8;
        if (at > from && w->bad)
            w->bad(w->ctx, from, at);
        if (at >= end)
            break;
        w->frames++;
        count--;
        if (f.type != FRAME_BATCH && w->frame)
            TRY(w->frame(w->ctx, &f));
        at += frame_size(f.n);
    }
    return OK;
}

err walk_segment(struct walk *w)
{
    struct batch b;

    w->last = 0;
    w->end = PAGE;
    w->seq = 0;
    w->batches = w->frames = 0;
    w->has_first = false;
    for (uint32_t at = PAGE; at < w->size;) {
        if (!batch_at(w, at, &b)) {
            at += PAGE;
            continue;
        }
        if (at > w->end) /* a batch without a good head was here: the frames in it are as good as any */
            TRY(frames(w, w->end, at, UINT32_MAX));
        if (at == PAGE) {
            w->has_first = true;
            w->first = b;
        }
        w->last = at;
        w->seq = b.seq;
        w->batches++;
        TRY(frames(w, at + FRAME_HEAD + BATCH_BODY, at + b.length, b.count));
        at += b.length;
        w->end = at;
    }
    return OK;
}
