#include "kit/kit.h"
#include "task/task.h"

#include <errno.h>
#include <pthread.h>
#include <sys/wait.h>
#include <unistd.h>

/* ---- threads ---- */

static err answer(void *arg)
{
    task_sleep(clock_now() + MILLISECOND);
    return *(err *)arg ? fail(*(err *)arg, "told to") : OK;
}

TEST(thread_join_tells_the_result)
{
    err good = OK, bad = E_DAMAGED;
    struct thread *t = thread_start("good", answer, &good);
    CHECK_ERR(thread_join(t), OK);
    t = thread_start("bad", answer, &bad);
    CHECK_ERR(thread_join(t), E_DAMAGED);
    CHECK_STR(err_text(), S("told to"));
    CHECK_ERR(task_main(answer, &bad), E_DAMAGED);
    CHECK_STR(err_text(), S("told to"));
}

static err join_in_cancelled_task(void *arg)
{
    CHECK_ERR(task_sleep(NEVER), E_CANCELED);
    CHECK_ERR(thread_join(arg), E_DAMAGED);
    return OK;
}

TASK_TEST(thread_join_from_a_task_is_not_cut_short)
{
    err bad = E_DAMAGED;
    struct thread *a = thread_start("a", answer, &bad), *b = thread_start("b", answer, &bad);
    {
        AUTO_GROUP g = group_open(NEVER);
        group_spawn(&g, "join", join_in_cancelled_task, a);
        task_yield();
    }
    CHECK_ERR(thread_join(b), E_DAMAGED);
    CHECK_STR(err_text(), S("told to"));
}

static err leaves_others(void *arg)
{
    group_spawn(thread_group(), "answer", answer, arg);
    return OK;
}

TEST(thread_ends_when_no_task_is_left)
{
    err good = OK;
    when began = clock_now();
    CHECK_ERR(task_main(leaves_others, &good), OK);
    CHECK(clock_now() - began >= MILLISECOND);
}

static err in_child(void *arg)
{
    (void)arg;
    return task_sleep(clock_now() + MILLISECOND);
}

TASK_TEST(thread_forgotten_in_the_child_of_a_fork)
{
    err good = OK;
    thread_join(thread_start("spare", answer, &good));
    pid_t child = fork();
    if (child == 0) {
        task_forked();
        bool right = !task_running() && !thread_self() && task_main(in_child, NULL) == OK;
#ifndef WAYPOST_SANITIZED /* TSan knows no threads after a fork */
        right = right && thread_join(thread_start("own", answer, &good)) == OK;
#endif
        _exit(right ? 42 : 1);
    }
    int status;
    must(waitpid(child, &status, 0) == child);
    CHECK_INT(WIFEXITED(status) ? WEXITSTATUS(status) : -1, 42);
    CHECK_ERR(task_sleep(clock_now() + MILLISECOND), OK);
}

/* ---- posts ---- */

/* A mailbox of one thread: a task that waits until `want` posts have come. */
struct box { struct waiters w; struct thread *home; unsigned got, want; unsigned last[4]; bool disorder; };
struct note { struct post post; struct box *box; unsigned sender, number; };

static void arrive(struct post *p)
{
    struct note *n = AROUND(p, struct note, post);
    struct box *b = n->box;
    CHECK(thread_self() == b->home);
    CHECK(!task_running());
    if (n->number != b->last[n->sender]++)
        b->disorder = true;
    mem_free(n);
    if (++b->got == b->want)
        waiters_wake_all(&b->w);
}

static void tell(struct box *b, unsigned sender, unsigned number)
{
    struct note *n = mem_new(sizeof *n);
    *n = (struct note){ { .run = arrive }, b, sender, number };
    thread_post(b->home, &n->post);
}

struct sender { struct box *box; unsigned who, n; };

static err send_many(void *arg)
{
    struct sender *s = arg;
    for (unsigned i = 0; i < s->n; i++) {
        tell(s->box, s->who, i);
        if (i % 64 == 0)
            task_sleep(clock_now() + 50); /* now and then the receiver comes to sleep */
    }
    return OK;
}

static void *send_from_plain_thread(void *arg)
{
    struct sender *s = arg;
    for (unsigned i = 0; i < s->n; i++)
        tell(s->box, s->who, i);
    return NULL;
}

TASK_TEST(posts_of_many_senders_all_arrive_in_order)
{
    enum { N = 2000 };
    struct box b = { .home = thread_self(), .want = 4 * N };
    struct sender s[4];
    struct thread *t[3];
    pthread_t plain;

    for (unsigned i = 0; i < 4; i++)
        s[i] = (struct sender){ &b, i, N };
    for (unsigned i = 0; i < 3; i++)
        t[i] = thread_start("sender", send_many, &s[i]);
    must(pthread_create(&plain, NULL, send_from_plain_thread, &s[3]) == 0);
    CHECK_ERR(waiters_wait(&b.w, clock_now() + KIT_SLOW * 10 * SECOND), OK);
    CHECK_INT(b.got, 4 * N);
    CHECK(!b.disorder);
    for (unsigned i = 0; i < 3; i++)
        thread_join(t[i]);
    pthread_join(plain, NULL);
    CHECK_INT(thread_stats().posts >= 4 * N, true);
}

/* Two threads that wake each other in turn: no wake-up may be lost. */
struct ball { struct post post; struct thread *at[2]; unsigned left; bool last; struct waiters over[2]; };

static void bounce(struct post *p)
{
    struct ball *b = AROUND(p, struct ball, post);
    int side = thread_self() == b->at[1];

    if (b->left) {
        b->left--;
    } else {
        waiters_wake_all(&b->over[side]);
        if (b->last)
            return;
        b->last = true;         /* the other side hears it, and that was all */
    }
    thread_post(b->at[!side], p);
}

static err play(void *arg)
{
    struct ball *b = arg;
    return waiters_wait(&b->over[1], clock_now() + KIT_SLOW * 10 * SECOND);
}

TASK_TEST(posts_wake_a_sleeping_thread_every_time)
{
    struct ball b = { .post.run = bounce, .left = 5000 };
    b.at[0] = thread_self();
    b.at[1] = thread_start("player", play, &b);
    thread_post(b.at[0], &b.post);
    CHECK_ERR(waiters_wait(&b.over[0], clock_now() + KIT_SLOW * 10 * SECOND), OK);
    CHECK_ERR(thread_join(b.at[1]), OK);
}

static void post_spawns(struct post *p)
{
    static err good = OK;
    (void)p;
    group_spawn(thread_group(), "posted", answer, &good);
}

TASK_TEST(posts_may_spawn)
{
    struct post p = { .run = post_spawns };
    thread_post(thread_self(), &p);
    task_sleep(clock_now() + MILLISECOND);
    CHECK_INT(thread_group()->n, 1);
    CHECK_ERR(group_wait(thread_group()), OK);
}

/* ---- work ---- */

struct job { when takes; pthread_t ran_on; bool done; err got; };

static void work(void *arg)
{
    struct job *j = arg;
    usleep((useconds_t)j->takes);
    CHECK(!task_running());
    j->ran_on = pthread_self();
    j->got = fail(E_DAMAGED, "found at work");
    j->done = true;
}

static struct pool *pool;

static err run_work(void *arg)
{
    struct job *j = arg;
    work_run(pool, work, j);
    CHECK(j->done);
    CHECK_INT(j->got, E_DAMAGED);
    CHECK_STR(err_text(), S("found at work"));
    return OK;
}

TASK_TEST(work_run_leaves_the_thread_to_others)
{
    struct job j[6] = { 0 };
    pool = pool_start("test", 2);
    {
        AUTO_GROUP g = group_open(NEVER);
        EACH(j, one) {
            one->takes = 2 * MILLISECOND;
            group_spawn(&g, "work", run_work, one);
        }
        task_yield();
        CHECK(!j[5].done);
        CHECK_ERR(group_wait(&g), OK);
    }
    EACH(j, one)
        CHECK(one->done && !pthread_equal(one->ran_on, pthread_self()));
    pool_stop(pool);
}

TASK_TEST(work_run_in_a_cancelled_task_still_waits)
{
    struct job asked_before = { .takes = 5 * MILLISECOND }, asked_after = { .takes = MILLISECOND };
    pool = pool_start("test", 1);
    {
        AUTO_GROUP g = group_open(clock_now() + MILLISECOND);
        group_spawn(&g, "work", run_work, &asked_before);
        task_yield();
        group_cancel(&g);
        group_spawn(&g, "work", run_work, &asked_after);
    }
    CHECK(asked_before.done && asked_after.done);
    pool_stop(pool);
}

static struct job outside;
static void work_outside(void *arg) { ((struct job *)arg)->done = true; }

TEST(work_run_outside_tasks_simply_runs)
{
    pool = pool_start("test", 1);
    work_run(pool, work_outside, &outside);
    CHECK(outside.done);
    pool_stop(pool);
}

/* From several threads at once, and one ends as soon as its last job is done. */
static err work_much(void *arg)
{
    (void)arg;
    for (int i = 0; i < 300; i++) {
        struct job j = { 0 };
        work_run(pool, work_outside, &j);
        CHECK(j.done);
    }
    return OK;
}

TEST(work_run_from_many_threads)
{
    struct thread *t[3];
    pool = pool_start("test", 2);
    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < 3; i++)
            t[i] = thread_start("much", work_much, NULL);
        for (int i = 0; i < 3; i++)
            CHECK_ERR(thread_join(t[i]), OK);
    }
    pool_stop(pool);
}
