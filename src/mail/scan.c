/* The one pass over a body: 64 octets at a time, with the few that matter as bit sets. */
#include "mail/mail.h"
#include "base/marks.h"

enum { AFTER_CR = 1, AFTER_LINE = 2 }; /* scan.state: the last octet was CR; was the end of a line, or there was none */

void scan_init(struct scan *s)
{
    *s = (struct scan){ .header_open = true, .state = AFTER_LINE };
}

/* Keep the start of a header line that may lie in several pieces; s->line of its octets were seen before. */
static void name_keep(struct scan *s, const char *p, size_t n)
{
    if (s->line < sizeof s->name)
        memcpy(s->name + s->line, p, MIN(n, sizeof s->name - s->line));
}

/* A line of the header, `length` octets without its end, begins as s->name says. */
static void header_line(struct scan *s, size_t length)
{
    str name = str_of((const char *)s->name, MIN(length, sizeof s->name));

    if (length == 0 || name.p[0] == ' ' || name.p[0] == '\t')
        return;
    s->fields++;
    if (name.n > 8 && str_istarts(name, S("received")) && (name.p[8] == ':' || name.p[8] == ' ' || name.p[8] == '\t'))
        s->received++;
}

void scan_feed(struct scan *s, str octets)
{
    char room[64];
    size_t begin = 0;           /* of the current line, here; s->line octets of it were in earlier pieces */
    uint64_t after_cr = (s->state & AFTER_CR) != 0, after_line = (s->state & AFTER_LINE) != 0;
    uint64_t high_header = 0, high_body = 0, nul = 0, dots = 0, bare_cr = 0, bare_lf = 0;

    for (size_t at = 0; at < octets.n; at += 64) {
        size_t n = MIN(octets.n - at, 64);
        struct marks m = marks_load_part(octets.p + at, n, room);
        uint64_t cr = marks_of(m, '\r'), lf = marks_of(m, '\n'), high = marks_high(m);
        uint64_t due = cr << 1 | after_cr;      /* where an LF belongs */
        uint64_t ends = lf & due, in_header = s->header_open ? ~UINT64_C(0) : 0;

        bare_lf |= lf & ~due;
        bare_cr |= due & ~lf & marks_first(n);
        nul |= marks_of(m, 0);
        dots |= (ends << 1 | after_line) & marks_of(m, '.');
        for (uint64_t left = ends; left; left &= left - 1) {
            size_t end = at + (size_t)__builtin_ctzll(left) + 1;
            size_t line = s->line + (end - begin) - 2;
            s->longest_line = MAX(s->longest_line, (uint32_t)MIN(line, UINT32_MAX));
            if (s->header_open) {
                name_keep(s, octets.p + begin, end - begin);
                header_line(s, line);
                if (line == 0) {
                    s->header_open = false;
                    s->header_end = s->size + end;
                    in_header = marks_first(end - at);
                }
            }
            begin = end;
            s->line = 0;
        }
        high_header |= high & in_header;
        high_body |= high & ~in_header;
        after_cr = cr >> (n - 1) & 1;
        after_line = ends >> (n - 1) & 1;
    }
    if (octets.n == 0)
        return;
    if (s->header_open)
        name_keep(s, octets.p + begin, octets.n - begin);
    s->line = (uint32_t)MIN(s->line + (octets.n - begin), UINT32_MAX);
    s->state = (after_cr ? AFTER_CR : 0) | (after_line ? AFTER_LINE : 0);
    s->size += octets.n;
    s->eight_bit_header |= high_header != 0;
    s->eight_bit_body |= high_body != 0;
    s->nul |= nul != 0;
    s->bare_cr |= bare_cr != 0;
    s->bare_lf |= bare_lf != 0;
    /* What stands behind a bare CR, a bare LF or a NUL is a line's start to some readers (attack classes 1 and 2). */
    s->dots |= dots || s->nul || s->bare_cr || s->bare_lf;
}

void scan_end(struct scan *s)
{
    s->bare_cr |= (s->state & AFTER_CR) != 0;
    s->dots |= s->bare_cr;
    s->longest_line = MAX(s->longest_line, s->line);
    if (s->header_open) {
        header_line(s, s->line);
        s->header_end = s->size;
    }
    s->header_open = false;
}
