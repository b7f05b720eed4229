/* marks: which of 64 octets are what, as bit sets (bit i for octet i). For all folders whose scans must run as fast as memory. */
#ifndef BASE_MARKS_H
#define BASE_MARKS_H

#include "base/base.h"

#ifdef __SSE2__
#include <emmintrin.h>

struct marks { __m128i v[4]; };

static inline struct marks marks_load(const char p[64])
{
    const __m128i *v = (const __m128i *)(const void *)p;
    return (struct marks){ { _mm_loadu_si128(v), _mm_loadu_si128(v + 1), _mm_loadu_si128(v + 2), _mm_loadu_si128(v + 3) } };
}

/* The octets above 127. */
static inline uint64_t marks_high(struct marks m)
{
    return (uint64_t)(uint32_t)_mm_movemask_epi8(m.v[0]) | (uint64_t)(uint32_t)_mm_movemask_epi8(m.v[1]) << 16 |
           (uint64_t)(uint32_t)_mm_movemask_epi8(m.v[2]) << 32 | (uint64_t)(uint32_t)_mm_movemask_epi8(m.v[3]) << 48;
}

/* The octets that are `c`. */
static inline uint64_t marks_of(struct marks m, char c)
{
    __m128i all = _mm_set1_epi8(c);
    return marks_high((struct marks){ { _mm_cmpeq_epi8(m.v[0], all), _mm_cmpeq_epi8(m.v[1], all),
                                        _mm_cmpeq_epi8(m.v[2], all), _mm_cmpeq_epi8(m.v[3], all) } });
}

#else

struct marks { const char *p; };

static inline struct marks marks_load(const char p[64]) { return (struct marks){ p }; }

#define marks_gather_(test) \
    uint64_t bits = 0; \
    for (int i = 0; i < 64; i++) \
        bits |= (uint64_t)(test) << i; \
    return bits

static inline uint64_t marks_of(struct marks m, char c) { marks_gather_(m.p[i] == c); }
static inline uint64_t marks_high(struct marks m) { marks_gather_((unsigned char)m.p[i] >> 7); }

#endif

/* The first n bits, 0 < n <= 64. */
static inline uint64_t marks_first(size_t n) { return ~UINT64_C(0) >> (64 - n); }

/* All 64, or the n that are there with blanks behind them in `room`, which must outlive the result. */
static inline struct marks marks_load_part(const char *p, size_t n, char room[64])
{
    if (n >= 64)
        return marks_load(p);
    memset(room, ' ', 64);
    memcpy(room, p, n);
    return marks_load(room);
}

#endif
