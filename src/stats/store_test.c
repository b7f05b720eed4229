#include "kit/kit.h"
#include "stats/store_db.h"

#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

struct seen { size_t n; char last[80], by[80]; };

static void see(void *ctx, const struct event *e)
{
    struct seen *s = ctx;

    s->n++;
    snprintf(s->last, sizeof s->last, "%s %.*s", event_name[e->kind], STR(e->reply));
    snprintf(s->by, sizeof s->by, "%.*s by %.*s", STR(e->remote), STR(e->source));
}

static struct store *store_of(uint64_t keep_free, when retention)
{
    struct store *st = NULL;
    CHECK_ERR(store_open(&(struct trace_settings){ .dir = str_z(kit_dir()), .retention = retention, .max_bytes = 64 << 20 }, keep_free, &st), OK);
    return st;
}

static ulid tell_story(int n)
{
    ulid id = ulid_new();
    char rcpt[64], mid[64];

    snprintf(rcpt, sizeof rcpt, "User%d@Example.com", n);
    snprintf(mid, sizeof mid, "<m%d@there.example>", n);
    event_keep(&(struct event){ .kind = EVENT_ACCEPTED, .id = id, .at = wall_now(), .from = S("ann@there.example"), .rcpt = str_z(rcpt),
                                .message_id = str_z(mid), .size = 100 });
    event_keep(&(struct event){ .kind = EVENT_DELIVERED, .id = id, .at = wall_now(), .from = S("ann@there.example"), .rcpt = str_z(rcpt),
                                .remote = S("mx"), .source = S("a1"), .reply = S("250 2.0.0 ok"), .attempt = 1 });
    return id;
}

static size_t found(struct store *st, str text)
{
    AUTO_ARENA a = arena_new();
    ulid *id;
    size_t n = 0;

    CHECK_ERR(store_search(st, a, text, 200, &id, &n), OK);
    return n;
}

TEST(store_tells_stories_by_id_address_domain_and_message_id_and_again_after_a_restart)
{
    AUTO_ARENA a = arena_new();
    struct store *st = store_of(0, DAY);
    ulid id = { { 0 } };

    for (int i = 0; i < 100; i++) {
        ulid this = tell_story(i);
        if (i == 42)
            id = this;
    }
    for (int round = 0; round < 2; round++) {
        struct seen s = { 0 };
        CHECK_ERR(store_find(st, a, &id, 1, see, &s), OK);
        CHECK_INT((int64_t)s.n, 2);
        CHECK_STR(str_z(s.last), S("delivered 250 2.0.0 ok"));
        CHECK_STR(str_z(s.by), S("mx by a1"));
        CHECK_INT((int64_t)found(st, S("user42@example.COM")), 1);
        CHECK_INT((int64_t)found(st, S("<m42@there.example>")), 1);
        CHECK_INT((int64_t)found(st, S("m42@there.example")), 1);
        CHECK_INT((int64_t)found(st, S("@example.com")), 100);
        CHECK_INT((int64_t)found(st, S("example.com")), 100);
        CHECK_INT((int64_t)found(st, S("ann@there.example")), 100);
        CHECK_INT((int64_t)found(st, S("user4@example")), 0);
        CHECK_INT((int64_t)found(st, S("' OR 1=1 --")), 0); /* attack class 20 */
        store_close(st);
        st = store_of(0, DAY);
    }
    store_close(st);
}

/* Refusals cost a stranger nothing. */
TEST(store_keeps_few_of_many_refusals)
{
    struct store *st = store_of(0, DAY);

    for (int i = 0; i < 2000; i++)
        event_keep(&(struct event){ .kind = EVENT_REFUSED, .id = ulid_new(), .at = wall_now(), .rcpt = S("x@refused.example"), .reply = S("550 no") });
    found(st, S("x@refused.example"));
    struct store_counts c = store_counts(st);
    CHECK_INT((int64_t)(c.written + c.dropped), 2000);
    CHECK(c.written < 1000 && c.dropped > 1000);
    store_close(st);
}

TEST(store_gives_way_to_the_spool_on_a_full_disk)
{
    struct store *st = store_of(UINT64_MAX, DAY);

    tell_story(1);
    CHECK_INT((int64_t)found(st, S("user1@example.com")), 0);
    struct store_counts c = store_counts(st);
    CHECK(c.dropped == 2 && c.broken);
    store_close(st);
}

TEST(store_sets_a_damaged_file_aside)
{
    char path[600];
    struct store *st = store_of(0, DAY);

    tell_story(1);
    store_close(st);
    snprintf(path, sizeof path, "%s/trace.db", kit_dir());
    int fd = open(path, O_WRONLY);
    CHECK_INT(pwrite(fd, "this is no database of ours, is it?", 35, 0), 35);
    close(fd);
    st = store_of(0, DAY);
    tell_story(2);
    CHECK_INT((int64_t)found(st, S("user1@example.com")), 0);
    CHECK_INT((int64_t)found(st, S("user2@example.com")), 1);
    store_close(st);
    snprintf(path, sizeof path, "%s/trace.db.damaged", kit_dir());
    CHECK_INT(access(path, F_OK), 0);
}

/* ---- the file itself ---- */

static void add_old(struct store_db *db, when at, int i)
{
    char room[sizeof(struct stored) + 64] __attribute__((aligned(8))) = { 0 };
    struct stored *s = (void *)room;
    uint64_t ms = (uint64_t)at / MILLISECOND;

    *s = (struct stored){ .kind = EVENT_DELIVERED, .at = at, .n = { [1] = 13 } };
    for (int k = 0; k < 6; k++)
        s->id.b[k] = (uint8_t)(ms >> (40 - 8 * k));
    s->id.b[15] = (uint8_t)i;
    s->id.b[14] = (uint8_t)(i >> 8);
    memcpy(room + sizeof *s, "bob@x.example", 13);
    CHECK_ERR(store_db_add(db, s), OK);
}

TEST(store_forgets_what_is_too_old_and_nothing_else)
{
    AUTO_ARENA a = arena_new();
    char path[600];
    struct store_db *db;
    uint64_t n = 0, all = 0;
    ulid *id;
    size_t found_n = 0;
    when now = wall_now();

    snprintf(path, sizeof path, "%s/trace.db", kit_dir());
    CHECK_ERR(store_db_open(path, false, &db), OK);
    CHECK_ERR(store_db_begin(db), OK);
    for (int i = 0; i < 2500; i++)
        add_old(db, now - 40 * DAY, i);
    for (int i = 0; i < 100; i++)
        add_old(db, now - 20 * DAY, i);
    CHECK_ERR(store_db_commit(db), OK);
    do {
        CHECK_ERR(store_db_begin(db), OK);
        CHECK_ERR(store_db_purge(db, now - 30 * DAY, 1000, &n), OK);
        CHECK_ERR(store_db_commit(db), OK);
        all += n;
    } while (n);
    CHECK_INT((int64_t)all, 2500);
    CHECK_ERR(store_db_search(db, a, S("bob@x.example"), 5000, &id, &found_n), OK);
    CHECK_INT((int64_t)found_n, 100);
    uint64_t before = store_db_bytes(db);
    CHECK_ERR(store_db_begin(db), OK);
    CHECK_ERR(store_db_purge(db, NEVER, 1000, &n), OK);
    CHECK_ERR(store_db_commit(db), OK);
    CHECK_INT((int64_t)n, 100);
    CHECK(store_db_bytes(db) <= before);
    CHECK_ERR(store_db_search(db, a, S("bob@x.example"), 5000, &id, &found_n), OK);
    CHECK_INT((int64_t)found_n, 0);
    store_db_close(db);
}
