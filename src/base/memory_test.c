#include "kit/kit.h"

TEST(arena_gives_zeroed_aligned_memory)
{
    AUTO_ARENA a = arena_new();
    for (int turn = 0; turn < 3; turn++) {
        for (size_t n = 0; n < 3000; n += 7) {
            char *p = arena_alloc(a, n);
            CHECK_INT((uintptr_t)p % 16, 0);
            for (size_t i = 0; i < n; i++)
                if (p[i])
                    CHECK(!"zeroed");
            if (n)
                memset(p, 0xaa, n);
        }
        arena_reset(a);
    }
    char *big = arena_alloc(a, 1 << 20);
    CHECK(big[0] == 0 && big[(1 << 20) - 1] == 0);
}

TEST(arena_size_counts_and_reset_returns)
{
    AUTO_ARENA a = arena_new();
    size_t first = arena_size(a);
    CHECK(first > 0 && first <= 4096);
    arena_alloc(a, 100000);
    CHECK(arena_size(a) >= first + 100000);
    arena_reset(a);
    CHECK_INT(arena_size(a), first);
    arena_free(NULL);
}

TEST(arena_keeps_pieces_apart)
{
    AUTO_ARENA a = arena_new();
    unsigned char *p[500];
    for (size_t i = 0; i < COUNT(p); i++)
        memset(p[i] = arena_alloc(a, i + 1), (int)i & 255, i + 1);
    for (size_t i = 0; i < COUNT(p); i++)
        CHECK(p[i][0] == (i & 255) && p[i][i] == (i & 255));
}

static void grow_and_check(struct buf *b)
{
    for (int i = 0; i < 3000; i++)
        buf_addf(b, "%d,", i);
    str rest = buf_str(b), part = S("");
    for (uint64_t i = 0, got = 0; i < 3000; i++)
        CHECK(str_cut(&rest, S(","), &part) && str_u64(part, 9999, &got) && got == i);
    CHECK_STR(rest, S(""));
}

TEST(buf_grows_on_the_heap_and_in_an_arena)
{
    AUTO_ARENA a = arena_new();
    AUTO_BUF heap = { 0 };
    struct buf in = buf_in(a, 0), other = buf_in(a, 10);
    grow_and_check(&heap);
    grow_and_check(&in);
    grow_and_check(&other);
    CHECK_STR(buf_str(&in), buf_str(&heap));
    buf_free(&in);
    CHECK(in.n == 0 && in.p == NULL);
    buf_add(&in, S("again"));
    CHECK_STR(buf_str(&in), S("again"));
}

TEST(buf_as_the_latest_piece_grows_in_place)
{
    AUTO_ARENA a = arena_new();
    struct buf b = buf_in(a, 64);
    char *p = b.p;
    buf_reserve(&b, 500);
    CHECK(b.p == p);
    arena_alloc(a, 1);
    buf_reserve(&b, 1000);
    CHECK(b.p != p);
}

TEST(buf_adds_parts_of_itself)
{
    AUTO_BUF b = { 0 };
    buf_add(&b, S("0123456789"));
    for (int i = 0; i < 6; i++)
        buf_add(&b, buf_str(&b));
    CHECK_INT(b.n, 640);
    CHECK_STR(str_from(buf_str(&b), 630), S("0123456789"));
}

TEST(buf_drops_and_clears)
{
    AUTO_BUF b = { 0 };
    buf_drop(&b, 0);
    buf_add(&b, S("abcdef"));
    buf_drop(&b, 2);
    CHECK_STR(buf_str(&b), S("cdef"));
    buf_drop(&b, 4);
    CHECK_INT(b.n, 0);
    buf_addc(&b, 'x');
    buf_clear(&b);
    CHECK_STR(buf_str(&b), S(""));
}

TEST(buf_addf_takes_lines_longer_than_its_room)
{
    AUTO_BUF b = { 0 };
    static char many[5001];
    memset(many, 'y', 5000);
    buf_addf(&b, "%s!", many);
    CHECK_INT(b.n, 5001);
    CHECK_INT(b.p[5000], '!');
}

TEST(buf_add_json_quotes_and_escapes)
{
    static const struct { str in, want; } cases[] = {
        { S(""), S("\"\"") },
        { S("a\"b\\c\n\0"), S("\"a\\\"b\\\\c\\n\\u0000\"") },
        { S("\xc3\xbc\xff"), S("\"\xc3\xbc\xef\xbf\xbd\"") },
        { S("\xe2\x80\xa8\x7f"), S("\"\\u2028\\u007f\"") },
    };
    EACH(cases, c) {
        AUTO_BUF b = { 0 };
        buf_add_json(&b, c->in);
        CHECK_STR(buf_str(&b), c->want);
    }
}

TEST(list_keeps_its_order)
{
    struct item { int n; struct link link; } item[3] = { { .n = 0 }, { .n = 1 }, { .n = 2 } };
    struct link head;
    int seen = 0;

    list_init(&head);
    CHECK(list_empty(&head));
    list_add(&head, &item[1].link);
    list_add(&head, &item[2].link);
    list_push(&head, &item[0].link);
    for (struct link *l = head.next; l != &head; l = l->next)
        CHECK_INT(AROUND(l, struct item, link)->n, seen++);
    CHECK_INT(seen, 3);
    list_del(&item[1].link);
    list_del(&item[1].link);
    CHECK(head.next == &item[0].link && head.next->next == &item[2].link);
    list_del(&item[0].link);
    list_del(&item[2].link);
    CHECK(list_empty(&head));
}
