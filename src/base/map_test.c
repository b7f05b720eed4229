#include "kit/kit.h"

#include <stdio.h>

TEST(map_puts_gets_and_deletes)
{
    struct map m = { 0 };
    int one = 1, two = 2;
    CHECK(map_get(&m, S("a")) == NULL && map_del(&m, S("a")) == NULL);
    CHECK(map_put(&m, S("a"), &one) == NULL);
    CHECK(map_put(&m, S("A"), &two) == NULL);
    CHECK(map_get(&m, S("a")) == &one && map_get(&m, S("A")) == &two && m.n == 2);
    CHECK(map_put(&m, S("a"), &two) == &one && m.n == 2);
    CHECK(map_del(&m, S("a")) == &two && map_get(&m, S("a")) == NULL && m.n == 1);
    CHECK(map_put(&m, (str){ 0 }, &one) == NULL && map_get(&m, S("")) == &one && map_get(&m, (str){ 0 }) == &one);
    map_free(&m);
    CHECK(map_get(&m, S("A")) == NULL);
}

TEST(map_folds_case_when_told)
{
    struct map m = { .fold = true };
    int one = 1;
    map_put(&m, S("Example.ORG"), &one);
    CHECK(map_get(&m, S("eXAMPLE.org")) == &one && map_get(&m, S("example.com")) == NULL);
    map_free(&m);
    CHECK(m.fold);
}

/* Against a plain array, through growth and removals. */
TEST(map_holds_what_an_array_holds)
{
    enum { KEYS = 2000 };
    static char text[KEYS][8];
    static bool in[KEYS];
    struct map m = { 0 };
    size_t n = 0, seen = 0;

    for (int i = 0; i < KEYS; i++)
        snprintf(text[i], sizeof text[i], "k%d", i);
    for (int turn = 0; turn < 40000; turn++) {
        size_t k = random_below(KEYS);
        if (random_below(5) < 3) {
            CHECK(map_put(&m, str_z(text[k]), text[k]) == (in[k] ? text[k] : NULL));
            n += !in[k];
            in[k] = true;
        } else {
            CHECK(map_del(&m, str_z(text[k])) == (in[k] ? text[k] : NULL));
            n -= in[k];
            in[k] = false;
        }
    }
    CHECK_INT(m.n, n);
    for (int i = 0; i < KEYS; i++)
        CHECK(map_get(&m, str_z(text[i])) == (in[i] ? text[i] : NULL));
    char *v;
    for (size_t i = 0; (v = map_next(&m, &i)); seen++)
        CHECK(in[(size_t)(v - text[0]) / sizeof text[0]]);
    CHECK_INT(seen, n);
    map_free(&m);
}
