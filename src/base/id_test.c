#include "kit/kit.h"

TEST(ulid_prints_and_parses)
{
    char out[ULID_TEXT];
    ulid id;
    CHECK(ulid_parse(S("01ARZ3NDEKTSV4RRFFQ69G5FAV"), &id));
    CHECK_STR(ulid_print(id, out), S("01ARZ3NDEKTSV4RRFFQ69G5FAV"));
    CHECK_INT(ulid_wall(id), 1469922850259 * MILLISECOND); /* the example of the ULID specification */
    CHECK(ulid_parse(S("01arz3ndektsv4rrffq69g5fav"), &id));
    CHECK_STR(ulid_print(id, out), S("01ARZ3NDEKTSV4RRFFQ69G5FAV"));
    CHECK(ulid_parse(S("7ZZZZZZZZZZZZZZZZZZZZZZZZZ"), &id));
    for (size_t i = 0; i < 16; i++)
        CHECK_INT(id.b[i], 255);
    CHECK(ulid_parse(S("00000000000000000000000000"), &id) && ulid_zero(id));
}

TEST(ulid_parse_refuses_the_rest)
{
    static const str cases[] = {
        S(""), S("01ARZ3NDEKTSV4RRFFQ69G5FA"), S("01ARZ3NDEKTSV4RRFFQ69G5FAVV"), S("8ZZZZZZZZZZZZZZZZZZZZZZZZZ"),
        S("01ARZ3NDEKTSV4RRFFQ69G5FAI"), S("01ARZ3NDEKTSV4RRFFQ69G5FAL"), S("01ARZ3NDEKTSV4RRFFQ69G5FAO"),
        S("01ARZ3NDEKTSV4RRFFQ69G5FAU"), S("01ARZ3NDEKTSV4RRFFQ69G5F\0V"), S("01ARZ3NDEKTSV4RRFFQ69G5FA@"),
        S("\xff" "1ARZ3NDEKTSV4RRFFQ69G5FAV"),
    };
    ulid id;
    EACH(cases, c)
        CHECK(!ulid_parse(*c, &id), *c);
}

static when stepping(void) { static when t = 5000000 * SECOND; return t -= SECOND; }

TEST(ulid_new_is_ever_larger)
{
    struct base_seam real = base_seam;
    ulid before = ulid_new();
    CHECK(ulid_wall(before) <= wall_now() && ulid_wall(before) > wall_now() - MINUTE);
    for (int i = 0; i < 10000; i++) {
        if (i == 5000)
            base_seam.wall = stepping; /* back in time */
        ulid id = ulid_new();
        CHECK(memcmp(before.b, id.b, 16) < 0);
        CHECK(!ulid_eq(before, id) && ulid_hash(before) != ulid_hash(id));
        before = id;
    }
    base_seam = real;
}
