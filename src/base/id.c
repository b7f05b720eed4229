/* Message ids: ULIDs (github.com/ulid/spec). */
#include "base/base.h"

static const char alphabet[] = "0123456789ABCDEFGHJKMNPQRSTVWXYZ";

/* Within one millisecond, and when the wall clock steps back, the latest plus one: larger, and still unguessable from
 * outside since 80 bits were random once. */
ulid ulid_new(void)
{
    static _Thread_local ulid latest;
    uint64_t ms = (uint64_t)MAX(wall_now(), 0) / 1000;

    if (ms > (uint64_t)ulid_wall(latest) / 1000) {
        for (int i = 5; i >= 0; i--, ms >>= 8)
            latest.b[i] = (uint8_t)ms;
        random_bytes(latest.b + 6, 10);
    } else {
        for (int i = 15; i >= 0 && ++latest.b[i] == 0; i--)
            ;
    }
    return latest;
}

/* 26 digits of 5 bits hold 130: the first carries 3. */
str ulid_print(ulid id, char out[ULID_TEXT])
{
    unsigned bits = 0;
    int have = 2; /* two zeros in front */
    size_t n = 0;

    for (size_t i = 0; i < 16; i++) {
        bits = (bits << 8 | id.b[i]) & 0xffff;
        for (have += 8; have >= 5; have -= 5)
            out[n++] = alphabet[bits >> (have - 5) & 31];
    }
    return (str){ out, n };
}

bool ulid_parse(str s, ulid *ret)
{
    ulid id = { { 0 } };
    unsigned bits = 0;
    int have = -2; /* the two zeros in front fall away */
    size_t n = 0;

    if (s.n != ULID_TEXT || s.p[0] > '7')
        return false;
    for (size_t i = 0; i < ULID_TEXT; i++) {
        char c = ascii_alpha(s.p[i]) ? (char)(s.p[i] & ~32) : s.p[i];
        const char *at = c ? strchr(alphabet, c) : NULL;
        if (!at)
            return false;
        bits = (bits << 5 | (unsigned)(at - alphabet)) & 0xffff;
        have += 5;
        if (have >= 8) {
            have -= 8;
            id.b[n++] = (uint8_t)(bits >> have);
        }
    }
    *ret = id;
    return true;
}

uint64_t ulid_hash(ulid id) { return str_hash((str){ (const char *)id.b, sizeof id.b }); }

when ulid_wall(ulid id)
{
    uint64_t ms = 0;
    for (int i = 0; i < 6; i++)
        ms = ms << 8 | id.b[i];
    return (when)ms * MILLISECOND;
}
