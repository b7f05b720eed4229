/* CRC-32C (RFC 3720 B.4), reflected polynomial 0x82f63b78. With SSE4.2 the instruction takes 8 bytes in 3 cycles of
 * which it waits 2, so large blocks are done as three strands side by side, joined by "what would so many zeros behind
 * it have made of this CRC", a linear map kept as a table. */
#include "base/base.h"

#include <pthread.h>

#define POLY 0x82f63b78u
#define STRAND 1024 /* bytes */

static uint32_t slice[8][256];
static pthread_once_t once = PTHREAD_ONCE_INIT;

static uint32_t crc_table(uint32_t crc, const unsigned char *p, size_t n)
{
    for (; n >= 8; p += 8, n -= 8) {
        uint64_t word;
        memcpy(&word, p, 8); /* little-endian, as everything here */
        word ^= crc;
        crc = slice[7][word & 255] ^ slice[6][word >> 8 & 255] ^ slice[5][word >> 16 & 255] ^
              slice[4][word >> 24 & 255] ^ slice[3][word >> 32 & 255] ^ slice[2][word >> 40 & 255] ^
              slice[1][word >> 48 & 255] ^ slice[0][word >> 56];
    }
    for (; n; p++, n--)
        crc = crc >> 8 ^ slice[0][(crc ^ *p) & 255];
    return crc;
}

static void slice_fill(void)
{
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t crc = i;
        for (int bit = 0; bit < 8; bit++)
            crc = crc >> 1 ^ (crc & 1 ? POLY : 0);
        slice[0][i] = crc;
    }
    for (uint32_t i = 0; i < 256; i++)
        for (int k = 1; k < 8; k++)
            slice[k][i] = slice[k - 1][i] >> 8 ^ slice[0][slice[k - 1][i] & 255];
}

#ifdef __x86_64__
static uint32_t zeros[4][256]; /* zeros[k][b]: b << 8k after STRAND bytes of zero */
static bool fast;

__attribute__((target("sse4.2")))
static uint32_t crc_sse(uint32_t crc, const unsigned char *p, size_t n)
{
    uint64_t a = crc, b, c, word[3];

    for (; n >= 3 * STRAND; p += 3 * STRAND, n -= 3 * STRAND) {
        b = c = 0;
        for (size_t i = 0; i < STRAND; i += 8) {
            memcpy(&word[0], p + i, 8);
            memcpy(&word[1], p + i + STRAND, 8);
            memcpy(&word[2], p + i + 2 * STRAND, 8);
            a = __builtin_ia32_crc32di(a, word[0]);
            b = __builtin_ia32_crc32di(b, word[1]);
            c = __builtin_ia32_crc32di(c, word[2]);
        }
        for (int join = 0; join < 2; join++) {
            a = zeros[0][a & 255] ^ zeros[1][a >> 8 & 255] ^ zeros[2][a >> 16 & 255] ^ zeros[3][a >> 24];
            a ^= join == 0 ? b : c;
        }
    }
    for (; n >= 8; p += 8, n -= 8) {
        memcpy(&word[0], p, 8);
        a = __builtin_ia32_crc32di(a, word[0]);
    }
    uint32_t last = (uint32_t)a;
    for (; n; p++, n--)
        last = __builtin_ia32_crc32qi(last, *p);
    return last;
}

static void zeros_fill(void)
{
    static const unsigned char none[STRAND];
    uint32_t of_bit[32];

    for (int i = 0; i < 32; i++)
        of_bit[i] = crc_table(1u << i, none, STRAND);
    for (int k = 0; k < 4; k++)
        for (unsigned b = 0; b < 256; b++)
            for (int bit = 0; bit < 8; bit++)
                if (b >> bit & 1)
                    zeros[k][b] ^= of_bit[8 * k + bit];
}
#endif

static void fill(void)
{
    slice_fill();
#ifdef __x86_64__
    zeros_fill();
    fast = __builtin_cpu_supports("sse4.2");
#endif
}

uint32_t crc32c_table(uint32_t crc, const void *p, size_t n); /* for the test: what a CPU without the instruction runs */
uint32_t crc32c_table(uint32_t crc, const void *p, size_t n)
{
    pthread_once(&once, fill);
    return ~crc_table(~crc, p, n);
}

uint32_t crc32c(uint32_t crc, const void *p, size_t n)
{
    pthread_once(&once, fill);
#ifdef __x86_64__
    if (fast)
        return ~crc_sse(~crc, p, n);
#endif
    return ~crc_table(~crc, p, n);
}
