#include "kit/kit.h"

uint32_t crc32c_table(uint32_t crc, const void *p, size_t n);

TEST(crc32c_known_values)
{
    unsigned char p[32] = { 0 };
    CHECK_INT(crc32c(0, "123456789", 9), 0xe3069283);
    CHECK_INT(crc32c(0, p, 32), 0x8a9136aa); /* this and the next two: RFC 3720 B.4 */
    memset(p, 0xff, 32);
    CHECK_INT(crc32c(0, p, 32), 0x62a8ab43);
    for (int i = 0; i < 32; i++)
        p[i] = (unsigned char)i;
    CHECK_INT(crc32c(0, p, 32), 0x46dd794e);
    CHECK_INT(crc32c(0, NULL, 0), 0);
    CHECK_INT(crc32c(7, NULL, 0), 7);
}

TEST(crc32c_instruction_table_and_chains_agree)
{
    static unsigned char p[20000];
    random_bytes(p, sizeof p);
    static const size_t sizes[] = { 1, 7, 8, 9, 63, 1024, 3071, 3072, 3073, 3080, 6144, 9999, 19990 };
    EACH(sizes, n)
        for (size_t at = 0; at < 9; at++) {
            uint32_t whole = crc32c(0, p + at, *n);
            CHECK_INT(crc32c_table(0, p + at, *n), whole);
            size_t half = random_below(*n + 1);
            CHECK_INT(crc32c(crc32c(0, p + at, half), p + at + half, *n - half), whole);
        }
}
