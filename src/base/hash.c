/* SipHash-1-3 (Aumasson, Bernstein): a keyed hash, so that a peer who chooses the keys of our maps cannot choose where
 * they fall. */
#include "base/base.h"

#include <errno.h>
#include <pthread.h>
#include <sys/random.h>

static uint64_t key[2];
static pthread_once_t key_once = PTHREAD_ONCE_INIT;

/* Not through base_seam: a hash may well be taken before a simulation has set it, and would differ from run to run. */
static void key_draw(void)
{
    ssize_t n;
    do
        n = getrandom(key, sizeof key, 0);
    while (n < 0 && errno == EINTR);
    must(n == sizeof key);
}

static void key_keep(void) { }

void str_hash_seed(uint64_t a, uint64_t b)
{
    pthread_once(&key_once, key_keep);
    key[0] = a;
    key[1] = b;
}

static inline uint64_t rotate(uint64_t x, int by) { return x << by | x >> (64 - by); }

static inline void round_of(uint64_t v[4])
{
    v[0] += v[1]; v[1] = rotate(v[1], 13); v[1] ^= v[0]; v[0] = rotate(v[0], 32);
    v[2] += v[3]; v[3] = rotate(v[3], 16); v[3] ^= v[2];
    v[0] += v[3]; v[3] = rotate(v[3], 21); v[3] ^= v[0];
    v[2] += v[1]; v[1] = rotate(v[1], 17); v[1] ^= v[2]; v[2] = rotate(v[2], 32);
}

/* Eight bytes at once in lower case: the high bit of each byte that is A to Z, moved to bit 5. */
static inline uint64_t lower8(uint64_t x)
{
    const uint64_t ones = 0x0101010101010101u;
    uint64_t low = x & (0x7f * ones);
    uint64_t ge_a = low + (0x80 - 'A') * ones, gt_z = low + (0x7f - 'Z') * ones;
    return x | ((ge_a & ~gt_z & ~x & 0x80 * ones) >> 2);
}

static inline uint64_t siphash(uint64_t a, uint64_t b, str s, bool fold)
{
    uint64_t v[4] = { a ^ 0x736f6d6570736575u, b ^ 0x646f72616e646f6du, a ^ 0x6c7967656e657261u, b ^ 0x7465646279746573u };
    const char *p = s.p;
    size_t left = s.n;
    uint64_t word;

    for (; left >= 8; p += 8, left -= 8) {
        memcpy(&word, p, 8);
        if (fold)
            word = lower8(word);
        v[3] ^= word;
        round_of(v);
        v[0] ^= word;
    }
    word = 0;
    if (left)
        memcpy(&word, p, left);
    if (fold)
        word = lower8(word);
    word |= (uint64_t)s.n << 56;
    v[3] ^= word;
    round_of(v);
    v[0] ^= word;
    v[2] ^= 0xff;
    round_of(v);
    round_of(v);
    round_of(v);
    return v[0] ^ v[1] ^ v[2] ^ v[3];
}

static inline uint64_t by_key(str s, bool fold)
{
    pthread_once(&key_once, key_draw);
    return siphash(key[0], key[1], s, fold);
}

uint64_t str_hash(str s) { return by_key(s, false); }
uint64_t str_ihash(str s) { return by_key(s, true); }
uint64_t str_hash_keyed(uint64_t a, uint64_t b, str s) { return siphash(a, b, s, false); }
