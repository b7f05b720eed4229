/* A growing run of bytes, on the heap or in an arena. */
#include "base/base.h"
#include "base/arena.h"
#include "base/utf8.h"

#include <stdio.h>

struct buf buf_in(arena *a, size_t cap)
{
    struct buf b = { .a = a };
    buf_reserve(&b, cap);
    return b;
}

void buf_free(struct buf *b)
{
    if (!b->a)
        mem_free(b->p);
    b->p = NULL;
    b->n = b->cap = 0;
}

void buf_reserve(struct buf *b, size_t more)
{
    if (more <= b->cap - b->n)
        return;
    must(more <= SIZE_MAX / 4 && b->n <= SIZE_MAX / 4);
    size_t cap = MAX(MAX(b->n + more, b->cap * 2), 64);
    b->p = b->a ? arena_grow(b->a, b->p, b->cap, cap) : mem_grow(b->p, cap);
    b->cap = cap;
}

/* `s` may be part of `b` itself: growing moves it along. */
void buf_add(struct buf *b, str s)
{
    if (s.n == 0)
        return;
    bool own = b->p && (uintptr_t)s.p >= (uintptr_t)b->p && (uintptr_t)s.p < (uintptr_t)b->p + b->n;
    size_t at = own ? (size_t)(s.p - b->p) : 0;
    buf_reserve(b, s.n);
    memcpy(b->p + b->n, own ? b->p + at : s.p, s.n);
    b->n += s.n;
}

void buf_addc(struct buf *b, char c)
{
    buf_reserve(b, 1);
    b->p[b->n++] = c;
}

void buf_addf(struct buf *b, const char *fmt, ...)
{
    va_list ap;

    buf_reserve(b, 32);
    va_start(ap, fmt);
    int n = vsnprintf(b->p + b->n, b->cap - b->n, fmt, ap);
    va_end(ap);
    must(n >= 0);
    if ((size_t)n >= b->cap - b->n) { /* it did not fit, with vsnprintf's NUL: once more with room */
        buf_reserve(b, (size_t)n + 1);
        va_start(ap, fmt);
        vsnprintf(b->p + b->n, b->cap - b->n, fmt, ap);
        va_end(ap);
    }
    b->n += (size_t)n;
}

void buf_drop(struct buf *b, size_t n)
{
    must(n <= b->n);
    if (n == 0)
        return;
    b->n -= n;
    memmove(b->p, b->p + n, b->n);
}

/* RFC 8259 7. Beyond what it asks for, characters that move a cursor are escaped: JSON of ours is read in terminals. */
void buf_add_json(struct buf *b, str s)
{
    uint32_t cp;

    buf_reserve(b, s.n + 2);
    buf_addc(b, '"');
    for (size_t n; s.n; s = str_from(s, n)) {
        n = utf8_head(s, &cp);
        if (n == 0) {
            n = 1;
            buf_add(b, S("\xef\xbf\xbd")); /* U+FFFD */
        } else if (cp == '"' || cp == '\\') {
            buf_addc(b, '\\');
            buf_addc(b, (char)cp);
        } else if (cp == '\n' || cp == '\r' || cp == '\t') {
            buf_addc(b, '\\');
            buf_addc(b, cp == '\n' ? 'n' : cp == '\r' ? 'r' : 't');
        } else if (utf8_control(cp)) {
            buf_addf(b, "\\u%04x", cp);
        } else {
            buf_add(b, str_head(s, n));
        }
    }
    buf_addc(b, '"');
}
