/* Within smtp. */
#ifndef SMTP_INSIDE_H
#define SMTP_INSIDE_H

#include "smtp/smtp.h"

/* `n` in decimal, without the cost of a format: every message has some. Returns how many digits, at most 20. */
static inline size_t number_put(char *p, uint64_t n)
{
    char digits[20];
    size_t count = 0;

    do
        digits[count++] = (char)('0' + n % 10);
    while (n /= 10);
    for (size_t i = 0; i < count; i++)
        p[i] = digits[count - 1 - i];
    return count;
}

static inline void number_add(struct buf *b, uint64_t n)
{
    buf_reserve(b, 20);
    b->n += number_put(b->p + b->n, n);
}

#endif
