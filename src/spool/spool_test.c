/* The spool on a real directory, with its real threads; and what a flipped bit may harm. */
#include "kit/kit.h"
#include "spool/spool_inside.h"

#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#define SMALL_SEGMENT (256u << 10)

static void quiet(void *ctx, enum log_level level, str line) { (void)ctx, (void)level, (void)line; }

static struct spool *spool_of(const char *dir)
{
    struct spool *s = NULL;

    log_start(&(struct log_setup){ .tap = quiet });
    CHECK_ERR(spool_open(&(struct spool_setup){ .dir = str_z(dir), .segment = SMALL_SEGMENT, .reserve = 1, .ahead = 1 }, &s), OK);
    return s;
}

static void spool_end(struct spool *s)
{
    spool_close(s);
    log_stop();
}

static ulid id_of(unsigned i)
{
    ulid id = { { 0 } };
    put32(id.b + 12, i);
    return id;
}

/* Message `i` with so many recipients and octets. */
static struct message *put(struct spool_port *p, arena *a, unsigned i, unsigned nrcpt, unsigned length)
{
    struct message *m = NEW(a, struct message);
    AUTO(spool_slab) slab = spool_slab_new(length);

    m->id = id_of(i);
    m->env.sender = S("ann@example.org");
    m->env.nrcpt = nrcpt;
    m->env.rcpt = NEW_ARRAY(a, struct rcpt, nrcpt);
    for (unsigned k = 0; k < nrcpt; k++) {
        m->env.rcpt[k].to = str_printf(a, "r%u@example.com", k);
        m->env.rcpt[k].given = k % 2 ? m->env.rcpt[k].to : S("list@example.com");
        m->env.rcpt[k].orcpt = S("rfc822;x@example.com");
    }
    m->origin.tenant = S("acme");
    m->edit = NEW(a, struct edit);
    m->edit[0] = (struct edit){ EDIT_PREPEND, 0, 0, S("Received: here\r\n") };
    m->nedit = 1;
    for (unsigned k = 0; k < length; k++)
        buf_addc(&slab->body, (char)(i + k));
    CHECK_ERR(spool_accept(p, a, m, slab), OK);
    return m;
}

struct seen { unsigned n; ulid id[16]; struct spool_ref at[16]; unsigned nrcpt[16], attempts[16], waiting[16]; struct spool_loaded count; };

static err see(void *ctx, const struct message *m, const struct rcpt_state *state)
{
    struct seen *s = ctx;

    if (s->n == COUNT(s->id))
        return fail(E_LIMIT, "too many");
    s->id[s->n] = m->id;
    s->at[s->n] = m->at;
    s->nrcpt[s->n] = (unsigned)m->env.nrcpt;
    for (size_t i = 0; i < m->env.nrcpt; i++) {
        s->attempts[s->n] += state[i].attempts;
        s->waiting[s->n] += state[i].status == RCPT_WAITING;
    }
    s->n++;
    return OK;
}

static struct seen load(struct spool *s)
{
    struct seen seen = { 0 };
    CHECK_ERR(spool_load(s, see, &seen, &seen.count), OK);
    return seen;
}

TASK_TEST(spool_keeps_what_it_took)
{
    AUTO_ARENA a = arena_new();
    struct spool *s = spool_of(kit_dir());
    struct spool_port *p = spool_port_open(s);
    struct message *one = put(p, a, 1, 1, 100), *two = put(p, a, 2, 3, 0), *three = put(p, a, 3, 2000, 5000), *back;
    str octets;

    CHECK_ERR(spool_read(p, three->at, a, &back), OK);
    CHECK_INT((int64_t)back->env.nrcpt, 2000);
    CHECK_STR(back->env.rcpt[7].to, S("r7@example.com"));
    CHECK_STR(back->env.rcpt[8].given, S("list@example.com"));
    CHECK_STR(back->env.rcpt[8].orcpt, S("rfc822;x@example.com"));
    CHECK_STR(back->origin.tenant, S("acme"));
    CHECK_STR(back->edit[0].text, S("Received: here\r\n"));
    CHECK_ERR(spool_read_piece(p, back->piece[0], a, &octets), OK);
    CHECK_INT((int64_t)octets.n, 5000);
    CHECK_INT((uint8_t)octets.p[300], (3 + 300) & 255);

    /* More states than fit in one note. */
    struct rcpt_state *state = NEW_ARRAY(a, struct rcpt_state, 2000), *states;
    size_t n;
    for (unsigned i = 0; i < 2000; i++)
        state[i] = (struct rcpt_state){ .index = i, .version = 1, .attempts = 1, .status = i % 2 ? RCPT_WAITING : RCPT_DELIVERED, .excused = (uint16_t)(32 * i),
                                          .reply = S("250 ok"), .remote = S("mx") };
    spool_outcome(p, three->id, three->at, state, 2000, false);
    spool_outcome(p, one->id, one->at, &(struct rcpt_state){ .version = 1, .status = RCPT_DELIVERED }, 1, true);
    spool_outcome(p, two->id, two->at, &(struct rcpt_state){ .index = 2, .version = 5, .attempts = 5 }, 1, false);
    spool_outcome(p, two->id, two->at, &(struct rcpt_state){ .index = 2, .version = 4, .attempts = 4 }, 1, false); /* an older one, come late */
    CHECK_ERR(spool_read_states(p, three->id, three->at, a, &states, &n), OK);
    CHECK_INT((int64_t)n, 2000);
    CHECK_INT(states[1998].status, RCPT_DELIVERED);
    CHECK_STR(states[1999].reply, S("250 ok"));
    for (unsigned i = 0; i < n; i++) { /* never less than was noted, at most a quarter more, at most as much as there is room for */
        unsigned most = MIN(32 * i * 5 / 4, (unsigned)UINT16_MAX);
        CHECK(states[i].excused >= MIN(32 * i, most) && states[i].excused <= most);
    }
    CHECK_ERR(spool_read(p, (struct spool_ref){ one->at.segment, 8 }, a, &back), E_NOTFOUND);
    CHECK_ERR(spool_read(p, (struct spool_ref){ 77, 4096 }, a, &back), E_NOTFOUND);
    spool_port_close(p);
    spool_end(s);

    s = spool_of(kit_dir());
    p = spool_port_open(s);
    struct message *four = put(p, a, 4, 1, 10); /* served before the backlog is there */
    struct seen seen = load(s);
    CHECK_INT(seen.n, 2);
    CHECK_INT((int64_t)seen.count.messages, 2);
    CHECK_INT((int64_t)seen.count.ended, 1);
    CHECK_INT(seen.nrcpt[0], 3);
    CHECK_INT(seen.attempts[0], 5);
    CHECK_INT(seen.nrcpt[1], 2000);
    CHECK_INT(seen.waiting[1], 1000);
    CHECK_INT(seen.attempts[1], 2000);
    spool_outcome(p, three->id, three->at, NULL, 0, true);
    spool_outcome(p, four->id, four->at, NULL, 0, true);
    spool_port_close(p);
    spool_end(s);

    s = spool_of(kit_dir());
    seen = load(s);
    CHECK_INT(seen.n, 1);
    CHECK(seen.n && memcmp(seen.id[0].b, two->id.b, 16) == 0);
    spool_end(s);
}

TASK_TEST(spool_takes_large_bodies_in_chunks)
{
    AUTO_ARENA a = arena_new();
    struct spool *s = spool_of(kit_dir());
    struct spool_port *p = spool_port_open(s);
    struct message m = { .id = id_of(9), .env = { .sender = S("a@b.example"), .nrcpt = 1 }, .npiece = 5 };
    struct rcpt rcpt = { .to = S("x@y.example"), .given = S("x@y.example") };
    struct spool_piece lone;

    m.env.rcpt = &rcpt;
    m.piece = NEW_ARRAY(a, struct spool_piece, 5);
    for (unsigned i = 0; i < 5; i++) { /* over three segments */
        AUTO_BUF b = { 0 };
        for (unsigned k = 0; k < 120 << 10; k++)
            buf_addc(&b, (char)('a' + i));
        CHECK_ERR(spool_chunk(p, m.id, buf_str(&b), &m.piece[i]), OK);
    }
    CHECK_ERR(spool_chunk(p, id_of(10), S("of a client that went away"), &lone), OK);
    CHECK_ERR(spool_accept(p, a, &m, NULL), OK);
    spool_abort(p, id_of(10), &lone, 1);
    for (unsigned i = 20; i < 60; i++) { /* and go on, so that those would be given back if they were free */
        struct message *other = put(p, a, i, 1, 30000);
        spool_outcome(p, other->id, other->at, NULL, 0, true);
    }
    CHECK_ERR(spool_flush(p), OK);
    for (int round = 0; round < 2; round++) {
        for (unsigned i = 0; i < 5; i++) {
            str got;
            CHECK_ERR(spool_read_piece(p, m.piece[i], a, &got), OK);
            CHECK(got.n == 120 << 10 && got.p[100] == (char)('a' + i));
        }
        spool_port_close(p);
        spool_end(s);
        s = spool_of(kit_dir());
        p = spool_port_open(s);
        struct seen seen = load(s);
        CHECK_INT(seen.n, 1);
    }
    spool_port_close(p);
    spool_end(s);
}

TASK_TEST(spool_gives_back_what_has_ended)
{
    AUTO_ARENA a = arena_new();
    struct spool *s = spool_of(kit_dir());
    struct spool_port *p = spool_port_open(s);

    for (unsigned i = 1; i <= 200; i++) { /* some 25 segments' worth */
        struct message *m = put(p, a, i, 1, 30000);
        spool_outcome(p, m->id, m->at, NULL, 0, true);
        if (i % 8 == 0) {
            CHECK_ERR(spool_flush(p), OK);
            task_sleep(clock_now() + 2 * MILLISECOND);
        }
    }
    for (unsigned k = 0; k < 2000 && spool_stats(s).segments > 6; k++)
        task_sleep(clock_now() + MILLISECOND);
    CHECK(spool_stats(s).segments <= 6);
    spool_port_close(p);
    spool_end(s);
}

TASK_TEST(spool_is_for_one_process)
{
    struct spool *s = spool_of(kit_dir()), *other;
    CHECK_ERR(spool_open(&(struct spool_setup){ .dir = str_z(kit_dir()), .segment = SMALL_SEGMENT }, &other), E_EXISTS);
    spool_end(s);
}

/* ---- bits that flip ---- */

static void flip(const char *name, uint64_t at)
{
    AUTO_ARENA a = arena_new();
    char c = 0;
    int fd = open(str_printf(a, "%s/%s", kit_dir(), name).p, O_RDWR);

    CHECK(fd >= 0);
    CHECK_INT(pread(fd, &c, 1, (off_t)at), 1);
    c ^= 0x10;
    CHECK_INT(pwrite(fd, &c, 1, (off_t)at), 1);
    close(fd);
}

static void reopened(struct spool **s, struct spool_port **p)
{
    if (*p)
        spool_port_close(*p);
    if (*s)
        spool_end(*s);
    *s = spool_of(kit_dir());
    *p = spool_port_open(*s);
}

TASK_TEST(spool_loses_no_more_than_what_was_damaged)
{
    AUTO_ARENA a = arena_new();
    struct spool *s = NULL;
    struct spool_port *p = NULL;
    struct message *m[8];
    str got;

    reopened(&s, &p);
    for (unsigned i = 0; i < 8; i++)
        m[i] = put(p, a, i + 1, 1, 1000);
    spool_outcome(p, m[7]->id, m[7]->at, NULL, 0, true);
    spool_port_close(p);
    spool_end(s);
    s = NULL, p = NULL;

    struct file_name seg = file_name(m[0]->at.segment, "seg"), idx = file_name(m[0]->at.segment, "idx");
    flip(seg.z, m[2]->at.offset + 100);             /* an envelope of an acknowledged message */
    flip(seg.z, m[3]->piece[0].at.offset + 500);    /* a body */
    flip(seg.z, m[4]->piece[0].at.offset - 60);     /* the head of a batch in the middle */
    reopened(&s, &p);
    struct seen seen = load(s);
    CHECK_INT(seen.n, 6);
    CHECK(seen.count.damaged >= 2);
    CHECK_ERR(spool_read_piece(p, m[3]->piece[0], a, &got), E_DAMAGED);
    CHECK_ERR(spool_read_piece(p, m[4]->piece[0], a, &got), OK);

    /* The same by the index, which is a cache: damaged, it is made again. */
    for (int k = 0; k < 2000 && access(str_printf(a, "%s/%s", kit_dir(), idx.z).p, F_OK) != 0; k++)
        task_sleep(clock_now() + MILLISECOND);
    struct message *later = put(p, a, 30, 1, 10);
    spool_port_close(p), p = NULL;
    spool_end(s), s = NULL;
    reopened(&s, &p);
    CHECK_INT(load(s).n, 7);
    spool_port_close(p), p = NULL;
    spool_end(s), s = NULL;
    flip(idx.z, 200);
    flip(seg.z, 3);                                 /* "waypost" */
    flip(seg.z, 24);                                /* its life */
    reopened(&s, &p);
    seen = load(s);
    CHECK_INT(seen.n, 7);
    CHECK(later->at.segment > m[0]->at.segment);
    spool_port_close(p);
    spool_end(s);
}

TASK_TEST(spool_sets_a_segment_without_any_head_aside)
{
    AUTO_ARENA a = arena_new();
    struct spool *s = NULL;
    struct spool_port *p = NULL;

    reopened(&s, &p);
    struct message *m = put(p, a, 1, 1, 1000);
    reopened(&s, &p);
    load(s);
    struct message *next = put(p, a, 2, 1, 1000);
    spool_port_close(p), p = NULL;
    spool_end(s), s = NULL;
    struct file_name seg = file_name(m->at.segment, "seg");
    flip(seg.z, 3);
    flip(seg.z, PAGE + 50);
    reopened(&s, &p);
    struct seen seen = load(s);
    CHECK_INT(seen.n, 1);
    CHECK(seen.n && memcmp(seen.id[0].b, next->id.b, 16) == 0);
    CHECK_INT(access(str_printf(a, "%s/%s", kit_dir(), file_name(m->at.segment, "bad").z).p, F_OK), 0);
    spool_port_close(p);
    spool_end(s);
}

TEST(frames_are_of_one_place_and_life)
{
    uint8_t p[FRAME_HEAD + 16] = { 0 };
    struct frame f;

    memcpy(p + FRAME_HEAD, "0123456789", 10);
    frame_begin(p, FRAME_BODY, id_of(3), 10);
    frame_place(p, 7, 99, 4096);
    CHECK_INT(frame_check(p, sizeof p, 7, 99, 4096, &f), OK);
    CHECK_INT(f.n, 10);
    CHECK_INT(frame_check(p, sizeof p, 7, 98, 4096, &f), E_NOTFOUND);
    CHECK_INT(frame_check(p, sizeof p, 8, 99, 4096, &f), E_NOTFOUND);
    CHECK_INT(frame_check(p, sizeof p, 7, 99, 4104, &f), E_NOTFOUND);
    CHECK_INT(frame_check(p, sizeof p - 8, 7, 99, 4096, &f), E_LIMIT);
    p[FRAME_HEAD + 3] ^= 1;
    CHECK_INT(frame_check(p, sizeof p, 7, 99, 4096, &f), E_DAMAGED);
    p[FRAME_HEAD + 3] ^= 1;
    frame_again(p);
    frame_place(p, 8, 1, 8192);
    CHECK_INT(frame_check(p, sizeof p, 8, 1, 8192, &f), OK);
}
