#include "kit/kit.h"
#include "task/task.h"

#include <errno.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

/* ---- each kind of wait, ended in each way ---- */

struct scene {
    struct waiters never;       /* nobody is woken from here */
    int silent[2], full[2];     /* socket pairs: one says nothing, one takes nothing */
    struct io silent_io, full_io, shared_io;
    int listener;
};

static void scene_open(struct scene *s)
{
    char junk[1024] = { 0 };
    *s = (struct scene){ 0 };
    must(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, s->silent) == 0);
    must(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, s->full) == 0);
    while (write(s->full[0], junk, sizeof junk) > 0)
        ;
    must(io_add(&s->silent_io, s->silent[0]) == OK);
    must(io_add(&s->full_io, s->full[0]) == OK);
    task_sleep(clock_now() + MILLISECOND); /* what epoll has to say at first */
    s->silent_io.readable = s->full_io.writable = false;
    s->listener = machine->sock_open(AF_INET, SOCK_STREAM);
    must(machine->sock_listen(s->listener, 5) == 0);
    must(io_add_shared(&s->shared_io, s->listener) == OK);
}

static void scene_close(struct scene *s)
{
    io_del(&s->silent_io);
    io_del(&s->full_io);
    io_del(&s->shared_io);
    for (int i = 0; i < 2; i++) {
        close(s->silent[i]);
        close(s->full[i]);
    }
    close(s->listener);
}

static err by_sleep(struct scene *s, when d) { (void)s; return task_sleep(d == NEVER ? d : d + HOUR); }
static err by_waiters(struct scene *s, when d) { return waiters_wait(&s->never, d); }
static err by_reading(struct scene *s, when d) { return io_wait_readable(&s->silent_io, d); }
static err by_writing(struct scene *s, when d) { return io_wait_writable(&s->full_io, d); }
static err by_accepting(struct scene *s, when d) { return io_wait_readable(&s->shared_io, d); }
static err by_signal(struct scene *s, when d)
{
    int got, wanted[] = { SIGUSR2 };
    (void)s;
    return signals_wait(wanted, 1, d, &got);
}

static const struct kind { const char *name; err (*wait)(struct scene *s, when deadline); } kinds[] = {
    { "sleep", by_sleep }, { "waiters", by_waiters }, { "readable", by_reading },
    { "writable", by_writing }, { "shared", by_accepting }, { "signals", by_signal },
};

struct one { const struct kind *kind; struct scene *scene; when deadline; err got, again; };

static err wait_one(void *arg)
{
    struct one *o = arg;
    o->got = o->kind->wait(o->scene, o->deadline);
    o->again = o->kind->wait(o->scene, o->deadline);
    return OK;
}

TASK_TEST(wait_of_each_kind_ends_by_cancellation)
{
    struct scene s;
    scene_open(&s);
    EACH(kinds, k) {
        struct one o = { k, &s, NEVER, OK, OK };
        AUTO_GROUP g = group_open(NEVER);
        group_spawn(&g, k->name, wait_one, &o);
        task_sleep(clock_now() + MILLISECOND);
        CHECK_INT(g.n, 1, str_z(k->name));
        group_cancel(&g);
        group_wait(&g);
        CHECK_INT(o.got, E_CANCELED, str_z(k->name));
        CHECK_INT(o.again, E_CANCELED, str_z(k->name));
    }
    scene_close(&s);
}

TASK_TEST(wait_of_each_kind_ends_by_its_groups_deadline)
{
    struct scene s;
    scene_open(&s);
    EACH(kinds, k) {
        struct one o = { k, &s, NEVER, OK, OK };
        AUTO_GROUP g = group_open(clock_now() + 2 * MILLISECOND);
        group_spawn(&g, k->name, wait_one, &o);
        group_wait(&g);
        CHECK_INT(o.got, E_TIMEOUT, str_z(k->name));
        CHECK_INT(o.again, E_TIMEOUT, str_z(k->name));
    }
    scene_close(&s);
}

TASK_TEST(wait_of_each_kind_ends_by_its_own_deadline)
{
    struct scene s;
    scene_open(&s);
    EACH(kinds, k) {
        if (k->wait == by_sleep)
            continue;
        when began = clock_now();
        CHECK_ERR(k->wait(&s, began + 3 * MILLISECOND), E_TIMEOUT, str_z(k->name));
        CHECK(clock_now() - began >= 3 * MILLISECOND, str_z(k->name));
        CHECK_ERR(k->wait(&s, began), E_TIMEOUT, str_z(k->name)); /* already past */
        CHECK(str_has(err_text(), S("deadline")), str_z(k->name));
    }
    scene_close(&s);
}

/* ---- sleep and timers ---- */

TASK_TEST(task_sleep_sleeps_as_long_as_told)
{
    for (when length = 0; length < 5 * MILLISECOND; length += 700) {
        when began = clock_now();
        CHECK_ERR(task_sleep(began + length), OK);
        CHECK(clock_now() - began >= length);
        CHECK(clock_now() - began < length + KIT_SLOW * 500 * MILLISECOND);
    }
}

struct nap { when until, woke; };

static err nap(void *arg)
{
    struct nap *n = arg;
    /* First long, then short, then what is wanted: the timer left in the heap is always wrong. */
    static struct waiters none;
    CHECK_ERR(waiters_wait(&none, clock_now() + MILLISECOND), E_TIMEOUT);
    TRY(task_sleep(n->until));
    n->woke = clock_now();
    return OK;
}

TASK_TEST(timers_of_many_each_in_time)
{
    static struct nap n[300];
    when began = clock_now();
    AUTO_GROUP g = group_open(NEVER);
    EACH(n, one) {
        *one = (struct nap){ .until = began + (when)random_below(30 * MILLISECOND) };
        group_spawn(&g, "nap", nap, one);
    }
    CHECK_ERR(group_wait(&g), OK);
    EACH(n, one)
        CHECK(one->woke >= one->until);
}

/* Deadlines far off that are armed again and again leave one timer, and it does no harm. */
TASK_TEST(timers_are_lazy)
{
    struct scene s;
    scene_open(&s);
    must(write(s.silent[1], "x", 1) == 1);
    for (int i = 0; i < 1000; i++) {
        s.silent_io.readable = true;
        CHECK_ERR(io_wait_readable(&s.silent_io, clock_now() + HOUR), OK);
    }
    CHECK_ERR(task_sleep(clock_now() + 2 * MILLISECOND), OK);
    CHECK_ERR(waiters_wait(&s.never, clock_now() + 2 * MILLISECOND), E_TIMEOUT);
    scene_close(&s);
}

/* ---- waiters ---- */

struct queue { struct waiters w; int order[8]; size_t n; };
struct standing { struct queue *q; int who; when deadline; err got; };

static err stand(void *arg)
{
    struct standing *s = arg;
    s->got = waiters_wait(&s->q->w, s->deadline);
    if (s->got == OK)
        s->q->order[s->q->n++] = s->who;
    return OK;
}

TASK_TEST(waiters_come_in_the_order_they_came)
{
    struct queue q = { 0 };
    struct standing s[5];
    AUTO_GROUP g = group_open(NEVER);

    CHECK(!waiters_wake_one(&q.w));
    waiters_wake_all(&q.w);
    for (int i = 0; i < 5; i++) {
        s[i] = (struct standing){ &q, i, i == 1 ? clock_now() + MILLISECOND : NEVER, OK };
        group_spawn(&g, "standing", stand, &s[i]);
    }
    task_sleep(clock_now() + 5 * MILLISECOND); /* the second one gives up */
    CHECK_INT(s[1].got, E_TIMEOUT);
    CHECK(waiters_wake_one(&q.w));
    CHECK(waiters_wake_one(&q.w));
    task_yield();
    CHECK_INT(q.n, 2);
    CHECK_INT(q.order[0], 0);
    CHECK_INT(q.order[1], 2);
    waiters_wake_all(&q.w);
    CHECK(!waiters_wake_one(&q.w));
    group_wait(&g);
    CHECK_INT(q.n, 4);
    CHECK_INT(q.order[3], 4);
}

/* Woken and cancelled before it runs: the turn it was given is not lost. */
TASK_TEST(waiters_woken_counts_more_than_cancelled)
{
    struct queue q = { 0 };
    struct standing s = { &q, 7, NEVER, E_IO };
    AUTO_GROUP g = group_open(NEVER);
    group_spawn(&g, "standing", stand, &s);
    task_yield();
    CHECK(waiters_wake_one(&q.w));
    group_cancel(&g);
    group_wait(&g);
    CHECK_INT(s.got, OK);
}

/* ---- the task itself ---- */

static err named(void *arg)
{
    CHECK_STR(str_z(task_name()), S("named"));
    *(err *)arg = fail(E_DAMAGED, "mine");
    task_yield();
    CHECK_STR(err_text(), S("mine"));
    return OK;
}

TASK_TEST(task_has_a_name_and_an_error_text_of_its_own)
{
    err a, b;
    AUTO_GROUP g = group_open(NEVER);
    CHECK(task_running());
    CHECK(task_stack_left() > 100 * 1024);
    fail(E_IO, "the opener's");
    group_spawn(&g, "named", named, &a);
    group_spawn(&g, "named", named, &b);
    task_yield();
    CHECK_STR(err_text(), S("the opener's"));
    task_trim();
    CHECK_STR(err_text(), S("the opener's"));
    CHECK_ERR(group_wait(&g), OK);
}

static when played;             /* a clock that moves only while a task works */
static when played_now(void) { return played; }

struct work { when took[2]; bool end; };
struct runner { struct work *work; bool few; when turn; };

static err run_turns(void *arg)
{
    struct runner *r = arg;
    if (r->few)
        task_favour();
    while (!r->work->end) {
        if (task_yield() != OK)
            break;
        played += r->turn;
        r->work->took[r->few] += r->turn;
        r->work->end |= r->work->took[0] + r->work->took[1] > SECOND;
    }
    return OK;
}

/* However many others there are, and however much longer their turns; and without holding them up either. */
TASK_TEST(task_favour_is_three_quarters_of_the_time)
{
    static const struct { int many, few; when many_turn, few_turn; } cases[] = {
        { 20, 2, 10, 10 }, { 200, 1, 90, 10 }, { 3, 3, 10, 70 }, { 1, 50, 30, 20 },
    };
    EACH(cases, c) {
        struct work w = { 0 };
        struct runner many = { &w, false, c->many_turn }, few = { &w, true, c->few_turn };
        struct base_seam real = base_seam;
        played = clock_now();
        base_seam.now = played_now;
        {
            AUTO_GROUP g = group_open(NEVER);
            for (int i = 0; i < c->many; i++)
                group_spawn(&g, "many", run_turns, &many);
            for (int i = 0; i < c->few; i++)
                group_spawn(&g, "few", run_turns, &few);
            CHECK_ERR(group_wait(&g), OK);
        }
        base_seam = real;
        CHECK(w.took[1] > 700 * MILLISECOND && w.took[1] < 800 * MILLISECOND);
    }
}

TEST(task_outside_there_is_none)
{
    CHECK(!task_running());
    CHECK(!task_current());
    CHECK(!task_canceled());
    CHECK_STR(str_z(task_name()), S(""));
    CHECK(!thread_self());
    task_forbid_wait();
    task_allow_wait();
}

static void in_callback(void)
{
    task_forbid_wait();
    task_forbid_wait();
    task_allow_wait();
    task_yield();
}

TASK_TEST(task_forbid_wait_ends_the_process_that_waits)
{
    pid_t child = fork();
    if (child == 0) {
        signal(SIGABRT, SIG_DFL);
        close(STDERR_FILENO);
        in_callback();
        _exit(0);
    }
    int status;
    must(waitpid(child, &status, 0) == child);
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
    task_forbid_wait();
    task_allow_wait();
    CHECK_ERR(task_yield(), OK);
}

/* ---- signals ---- */

TASK_TEST(signals_wait_tells_which)
{
    int got = 0;
    signals_block((int[]){ SIGUSR1, SIGUSR2 }, 2);
    raise(SIGUSR1);
    CHECK_ERR(signals_wait((int[]){ SIGUSR1, SIGUSR2 }, 2, clock_now() + SECOND, &got), OK);
    CHECK_INT(got, SIGUSR1);
    CHECK_ERR(signals_wait((int[]){ SIGUSR1, SIGUSR2 }, 2, clock_now() + MILLISECOND, &got), E_TIMEOUT);
    raise(SIGUSR2);
    CHECK_ERR(signals_wait((int[]){ SIGUSR1 }, 1, clock_now() + MILLISECOND, &got), E_TIMEOUT);
    CHECK_ERR(signals_wait((int[]){ SIGUSR2 }, 1, clock_now() + SECOND, &got), OK);
    CHECK_INT(got, SIGUSR2);
}

struct steady { struct waiters w; bool came, woken; };

static err wait_steadily(void *arg)
{
    struct steady *s = arg;
    while (!s->came)
        waiters_wait_steady(&s->w);
    s->woken = true;
    return task_canceled() ? E_CANCELED : OK;
}

/* Neither cancellation before the wait nor during it makes it return, and nobody spins. */
TASK_TEST(waiters_wait_steady_is_not_cut_short)
{
    struct steady s = { 0 };
    struct group g = group_open(clock_now() + 5 * MILLISECOND);

    group_spawn(&g, "steady", wait_steadily, &s);
    task_yield();
    group_cancel(&g);
    CHECK_ERR(task_sleep(clock_now() + 10 * MILLISECOND), OK);
    CHECK(!s.woken);
    waiters_wake_all(&s.w); /* for nothing: it waits again, cancelled as it is */
    CHECK_ERR(task_sleep(clock_now() + MILLISECOND), OK);
    CHECK(!s.woken);
    s.came = true;
    waiters_wake_all(&s.w);
    CHECK_ERR(group_wait(&g), E_CANCELED);
    CHECK(s.woken);
}
