#include "kit/kit.h"

TEST(heap_gives_the_least_first)
{
    enum { N = 1000 };
    static struct heap_entry e[N];
    struct heap h = { 0 };

    CHECK(heap_least(&h) == NULL);
    for (size_t i = 0; i < N; i++)
        heap_put(&h, &e[i], (when)random_below(500));
    for (int i = 0; i < 3000; i++) { /* move, remove, put back */
        struct heap_entry *x = &e[random_below(N)];
        if (random_below(3) == 0)
            heap_del(&h, x);
        else
            heap_put(&h, x, (when)random_below(500));
    }
    size_t inside = 0;
    for (size_t i = 0; i < N; i++)
        inside += e[i].at != 0;
    CHECK_INT(h.n, inside);
    when before = INT64_MIN;
    for (struct heap_entry *x; (x = heap_least(&h)); inside--) {
        CHECK(x->key >= before);
        before = x->key;
        heap_del(&h, x);
        heap_del(&h, x);
        CHECK_INT(x->at, 0);
    }
    CHECK_INT(inside, 0);
    heap_put(&h, &e[0], 1);
    heap_free(&h);
    CHECK_INT(e[0].at, 0);
}
