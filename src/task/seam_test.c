/* A world in miniature: a clock, one seeded chooser, a pipe; schedulers and a pool that move only when chosen. */
#include "kit/kit.h"
#include "task/seam.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>

static struct world {
    when now;
    uint64_t seed;
    struct thread *thread[4];
    struct pool *pool[2];
    struct pipe { struct io *io; char bytes[64]; size_t n; bool told; } pipe[2]; /* fd 1000 + i */
    struct buf trace;
    unsigned steps;
} world;

static when world_clock(void) { return world.now; }

static uint64_t choose(uint64_t n) /* splitmix64 */
{
    uint64_t z = world.seed += UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return (z ^ (z >> 31)) % n;
}

static void put(void **slot, size_t n, void *old, void *new)
{
    for (size_t i = 0; i < n; i++)
        if (slot[i] == old) {
            slot[i] = new;
            return;
        }
    must(!"room in the world");
}

static void thread_started(struct thread *t) { put((void **)world.thread, COUNT(world.thread), NULL, t); }
static void thread_freed(struct thread *t) { put((void **)world.thread, COUNT(world.thread), t, NULL); }
static void pool_started(struct pool *p) { put((void **)world.pool, COUNT(world.pool), NULL, p); }
static void pool_stopped(struct pool *p) { put((void **)world.pool, COUNT(world.pool), p, NULL); }
static void io_added(struct io *io) { world.pipe[io->fd - 1000].io = io; }
static void io_deleted(struct io *io) { world.pipe[io->fd - 1000].io = NULL; }

static ssize_t pipe_send(int fd, const struct iovec *iov, int n)
{
    struct pipe *p = &world.pipe[fd - 1000];
    must(n == 1 && p->n + iov->iov_len <= sizeof p->bytes);
    memcpy(p->bytes + p->n, iov->iov_base, iov->iov_len);
    p->n += iov->iov_len;
    p->told = false;
    return (ssize_t)iov->iov_len;
}

static ssize_t pipe_recv(int fd, void *to, size_t n)
{
    struct pipe *p = &world.pipe[fd - 1000];
    n = MIN(n, p->n);
    if (!n)
        return -EAGAIN;
    memcpy(to, p->bytes, n);
    memmove(p->bytes, p->bytes + n, p->n -= n);
    return (ssize_t)n;
}

static const struct machine_threads world_threads = {
    thread_started, thread_freed, pool_started, pool_stopped, io_added, io_deleted,
};
static const struct machine world_machine = { .sock_send = pipe_send, .sock_recv = pipe_recv, .threads = &world_threads };

/* One step of whatever can move; false when nothing can, ever. */
static bool step(void)
{
    struct { int kind; size_t i; unsigned what; } can[64];
    size_t n = 0;
    when next = NEVER;

    for (size_t i = 0; i < COUNT(world.thread); i++) {
        struct thread *t = world.thread[i];
        if (!t || sched_ended(t))
            continue;
        for (unsigned bit = SCHED_TASK; bit <= SCHED_TIMER; bit <<= 1)
            if (sched_can(t) & bit)
                can[n].kind = 0, can[n].i = i, can[n++].what = bit;
        next = MIN(next, sched_next_timer(t));
    }
    for (size_t i = 0; i < COUNT(world.pool); i++)
        for (unsigned j = 0; world.pool[i] && j < pool_pending(world.pool[i]) && j < 8; j++)
            can[n].kind = 1, can[n].i = i, can[n++].what = j;
    for (size_t i = 0; i < COUNT(world.pipe); i++)
        if (world.pipe[i].io && world.pipe[i].n && !world.pipe[i].told)
            can[n].kind = 2, can[n++].i = i;
    if (!n) {
        if (next == NEVER)
            return false;
        must(next > world.now);
        world.now = next;
        return true;
    }
    size_t c = choose(n);
    world.steps++;
    buf_addf(&world.trace, "%d.%zu.%u ", can[c].kind, can[c].i, can[c].what);
    switch (can[c].kind) {
    case 0: sched_step(world.thread[can[c].i], can[c].what); break;
    case 1: pool_step(world.pool[can[c].i], can[c].what); break;
    case 2:
        world.pipe[can[c].i].told = true;
        sched_io_ready(world.pipe[can[c].i].io, true, false, false);
        break;
    }
    CHECK(!task_running() && !thread_self());
    return true;
}

static void world_begin(uint64_t seed)
{
    world = (struct world){ .now = HOUR, .seed = seed };
    sim_install(&world_machine);
    base_seam.now = world_clock;
}

static when (*real_clock)(void);
__attribute__((constructor)) static void keep_clock(void) { real_clock = base_seam.now; }

static void world_end(void)
{
    sim_install(NULL);
    base_seam.now = real_clock;
    buf_free(&world.trace);
}

/* ---- the play: `left` asks the pool and writes to `right` through a pipe; `right` answers with posts ---- */

struct play {
    struct thread *left, *right;
    struct pool *pool;
    int worked, answered, order[8], norder;
    struct waiters answers;
    err text;
    bool slept, signalled;
};

struct task_of_play { struct play *play; int i; };

static void pool_work(void *arg)
{
    struct task_of_play *t = arg;
    CHECK(!task_running());
    t->play->worked++;
    if (t->i == 3)
        t->play->text = fail(E_DAMAGED, "job 3");
}

static err ask(void *arg)
{
    struct task_of_play *t = arg;
    CHECK(thread_self() == t->play->left);
    work_run(t->play->pool, pool_work, t);
    CHECK(thread_self() == t->play->left);
    t->play->order[t->play->norder++] = t->i;
    if (t->i == 3) {
        CHECK_STR(err_text(), S("job 3"));
    }
    struct iovec iov = { (char[]){ (char)('0' + t->i) }, 1 };
    machine->sock_send(1000, &iov, 1);
    return OK;
}

struct answer { struct post post; struct play *play; };

static void answer_arrives(struct post *p)
{
    struct answer *a = AROUND(p, struct answer, post);
    CHECK(thread_self() == a->play->left);
    if (++a->play->answered == 5)
        waiters_wake_all(&a->play->answers);
    mem_free(a);
}

static err left(void *arg)
{
    struct play *p = arg;
    struct task_of_play t[5];
    when began = clock_now();
    AUTO_GROUP g = group_open(NEVER);

    for (int i = 0; i < 5; i++) {
        t[i] = (struct task_of_play){ p, i };
        group_spawn(&g, "ask", ask, &t[i]);
    }
    TRY(group_wait(&g));
    if (p->answered < 5)
        TRY(waiters_wait(&p->answers, NEVER));
    CHECK_ERR(task_sleep(clock_now() + HOUR), OK);
    CHECK_ERR(waiters_wait(&p->answers, clock_now() + HOUR), E_TIMEOUT);
    CHECK_INT(clock_now() - began, 2 * HOUR);
    p->slept = true;
    return thread_join(p->right);
}

static err right(void *arg)
{
    struct play *p = arg;
    struct io io;
    char c;

    CHECK(thread_self() == p->right);
    TRY(io_add(&io, 1000));
    for (int got = 0; got < 5; ) {
        TRY(io_wait_readable(&io, NEVER));
        if (machine->sock_recv(io.fd, &c, 1) < 0) {
            io.readable = false;
            continue;
        }
        got++;
        struct answer *a = mem_new(sizeof *a);
        *a = (struct answer){ { .run = answer_arrives }, p };
        thread_post(p->left, &a->post);
    }
    io_del(&io);
    int number;
    TRY(signals_wait((int[]){ SIGTERM }, 1, NEVER, &number));
    p->signalled = number == SIGTERM;
    return fail(E_DAMAGED, "right's word");
}

static void play(uint64_t seed, struct play *p)
{
    *p = (struct play){ 0 };
    world_begin(seed);
    p->pool = pool_start("pool", 3);
    p->right = thread_start("right", right, p);
    p->left = thread_start("left", left, p);
    CHECK(!thread_self());
    while (step())
        if (p->slept && !p->signalled)
            sched_signal(p->right, SIGTERM);
    CHECK(sched_ended(p->left));
    CHECK_ERR(thread_join(p->left), E_DAMAGED);
    CHECK_STR(err_text(), S("right's word"));
    pool_stop(p->pool);
    CHECK_INT(p->worked, 5);
    CHECK_INT(p->answered, 5);
    CHECK_INT(p->text, E_DAMAGED);
    CHECK(p->signalled);
    for (size_t i = 0; i < COUNT(world.thread); i++)
        CHECK(!world.thread[i]);
}

TEST(seam_runs_threads_pools_and_time_by_one_chooser)
{
    unsigned orders = 0, seen[5 * 5] = { 0 };
    for (uint64_t seed = 1; seed <= 100; seed++) {
        struct play p;
        play(seed, &p);
        orders += !seen[p.order[0] * 5 + p.order[4]]++;
        world_end();
    }
    CHECK(orders >= 10);        /* calls of a pool end in any order */
}

TEST(seam_repeats_a_seed)
{
    struct play p;
    AUTO_BUF first = { 0 };
    play(7, &p);
    buf_add(&first, buf_str(&world.trace));
    world_end();
    play(7, &p);
    CHECK(first.n > 50);
    CHECK_STR(buf_str(&world.trace), buf_str(&first));
    world_end();
    play(8, &p);
    CHECK(!str_eq(buf_str(&world.trace), buf_str(&first)));
    world_end();
}

/* ---- a crash ---- */

static err forever(void *arg)
{
    AUTO_GROUP g = group_open(NEVER);
    if (*(int *)arg > 0) {
        --*(int *)arg;
        group_spawn(&g, "deeper", forever, arg);
    }
    task_sleep(clock_now() + SECOND);
    return task_sleep(NEVER);
}

TEST(seam_drops_a_thread_where_it_stands)
{
    static int depth;
    depth = 10;
    world_begin(1);
    struct thread *t = thread_start("doomed", forever, &depth);
    while (step())
        ;
    CHECK_INT(depth, 0);
    CHECK(!sched_ended(t));
    CHECK_STR(str_z(sched_name(t)), S("doomed"));
    sched_drop(t);
    CHECK(!world.thread[0]);
    world_end();
}
