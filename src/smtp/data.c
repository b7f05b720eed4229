/* Message octets on the wire: RFC 5321 4.5.2. Only CRLF.CRLF ends a message, and what leaves has no line end but CRLF
 * (attack classes 1 and 2). Ordinary text is passed over 64 octets at a time. */
#include "smtp/smtp.h"
#include "base/marks.h"

/* Where we are; START is 0, so that a zeroed struct begins right. */
enum { START, MIDDLE, CR, DOT, DOT_CR };    /* DOT, DOT_CR: withheld, for they may be the end */

#define CAREFUL 16  /* octets to take one by one after something odd, before looking ahead again */

/* How many octets at the front of `s` are ordinary: no CR or LF outside CRLF, no dot at a line's start and, when `nul`,
 * no NUL. A CR at the very end is left out, since nobody knows yet. */
static size_t ordinary(str s, bool line_start, bool nul)
{
    char room[64];
    uint64_t after_cr = 0, after_line = line_start;

    for (size_t at = 0; at < s.n; at += 64) {
        size_t n = MIN(s.n - at, 64);
        struct marks m = marks_load_part(s.p + at, n, room);
        uint64_t cr = marks_of(m, '\r'), lf = marks_of(m, '\n');
        uint64_t due = cr << 1 | after_cr, ends = lf & due;
        uint64_t odd = (lf ^ due) | ((ends << 1 | after_line) & marks_of(m, '.'));
        if (nul)
            odd |= marks_of(m, 0);
        odd &= marks_first(n);
        if (odd) {
            at += (size_t)__builtin_ctzll(odd);
            return at && s.p[at - 1] == '\r' ? at - 1 : at;
        }
        after_cr = cr >> (n - 1) & 1;
        after_line = ends >> (n - 1) & 1;
    }
    return s.n - (after_cr ? 1 : 0);
}

/* Take one octet; false when it stays, for the next step in the new state. Appends one at most. */
static bool data_step(struct data *d, char c, struct buf *out)
{
    switch (d->state) {
    case START:
        if (c == '.') {
            d->state = DOT;
            return true;
        }
        d->state = MIDDLE;
        return false;
    case MIDDLE:
        if (c == '\r')
            d->state = CR;
        else if (c == '\n')
            d->bare_lf = true;
        break;
    case CR:
        if (c != '\n') {
            d->bare_cr = true;
            d->state = MIDDLE;
            return false;
        }
        d->state = START;
        break;
    case DOT: /* the dot before anything but CRLF was stuffed in: it goes */
        d->state = c == '\r' ? DOT_CR : MIDDLE;
        return c == '\r';
    case DOT_CR:
        if (c == '\n') {
            d->ended = true;
            d->state = START;
            return true;
        }
        buf_addc(out, '\r');
        d->size++;
        d->state = CR;
        return false;
    }
    buf_addc(out, c);
    d->size++;
    return true;
}

size_t data_feed(struct data *d, str in, struct buf *out, size_t max)
{
    size_t at = 0, began = out->n, careful = 0;

    while (at < in.n && !d->ended) {
        size_t room = max - (out->n - began);
        if (!room)
            break;
        if (!careful && d->state <= MIDDLE) {
            str run = str_head(str_from(in, at), room);
            run.n = ordinary(run, d->state == START, false);
            careful = CAREFUL;
            if (run.n) {
                buf_add(out, run);
                d->size += run.n;
                d->state = run.p[run.n - 1] == '\n' ? START : MIDDLE;
                at += run.n;
                continue;
            }
        }
        careful -= careful > 0;
        at += data_step(d, in.p[at], out);
    }
    return at;
}

err data_hear(struct data *d, struct stream *s, struct buf *out, size_t max, when deadline)
{
    for (;;) {
        size_t before = out->n;
        stream_consume(s, data_feed(d, stream_pending(s), out, max));
        if (d->ended || out->n > before)
            return OK;
        TRY(stream_fill(s, 1, deadline));
    }
}

/* A CR is written as CRLF at once, an LF behind it not again. Behind a NUL at a line's start a dot is doubled too:
 * there are readers who drop the NUL. */
void data_stuff(struct buf *out, str piece, uint8_t *state)
{
    buf_reserve(out, piece.n + piece.n / 64 + 2);
    for (size_t at = 0, careful = 0; at < piece.n;) {
        if (!careful && *state != CR) {
            str run = str_from(piece, at);
            run.n = ordinary(run, *state == START, true);
            careful = CAREFUL;
            if (run.n) {
                buf_add(out, run);
                *state = run.p[run.n - 1] == '\n' ? START : MIDDLE;
                at += run.n;
                continue;
            }
        }
        careful -= careful > 0;
        char c = piece.p[at++];
        if (c == '\r' || (c == '\n' && *state != CR))
            buf_add(out, S("\r\n"));
        else if (c == '.' && *state != MIDDLE)
            buf_add(out, S(".."));
        else if (c != '\n')
            buf_addc(out, c);
        if (c == '\r')
            *state = CR;
        else if (c == '\n')
            *state = START;
        else if (c != 0 || *state == MIDDLE)
            *state = MIDDLE;
        else
            *state = START;
    }
}
