/* What tasks cost, in nanoseconds: ninja -C build bench_task && build/bench_task */
#include "net/net.h"

#include <stdio.h>

static unsigned rounds;

static void say(const char *what, when began, double n)
{
    printf("%-44s %8.1f ns\n", what, (double)(clock_now() - began) * 1000 / n);
}

static err yield_much(void *arg)
{
    (void)arg;
    for (unsigned i = 0; i < rounds; i++)
        TRY(task_yield());
    return OK;
}

static void yields(unsigned tasks, unsigned all)
{
    char what[64];
    AUTO_GROUP g = group_open(NEVER);

    rounds = all / tasks;
    for (unsigned i = 0; i < tasks; i++)
        group_spawn(&g, "yield", yield_much, NULL);
    task_yield();
    when began = clock_now();
    group_wait(&g);
    snprintf(what, sizeof what, "task_yield, %u tasks", tasks);
    say(what, began, (double)rounds * tasks);
}

/* Two tasks that wake each other: a wait with a deadline, as in a session. */
static struct waiters side[2];

static err wake_in_turn(void *arg)
{
    size_t me = (size_t)arg;
    when deadline = clock_now() + HOUR;
    for (unsigned i = 0; i < rounds; i++) {
        waiters_wake_one(&side[!me]);
        TRY(waiters_wait(&side[me], deadline));
    }
    waiters_wake_one(&side[!me]);
    return OK;
}

static void wakes(void)
{
    rounds = 2000000;
    when began = clock_now();
    AUTO_GROUP g = group_open(NEVER);
    group_spawn(&g, "a", wake_in_turn, (void *)0);
    group_spawn(&g, "b", wake_in_turn, (void *)1);
    group_wait(&g);
    say("waiters_wake_one and waiters_wait", began, 2.0 * rounds);
}

static err nothing(void *arg) { (void)arg; return OK; }

static void spawns(void)
{
    enum { N = 1000000 };
    when began = clock_now();
    for (unsigned i = 0; i < N; i++) {
        AUTO_GROUP g = group_open(NEVER);
        group_spawn(&g, "nothing", nothing, NULL);
        group_wait(&g);
    }
    say("group_open, spawn, wait, close", began, N);
}

static void sleeps(void)
{
    enum { N = 300000 };
    when began = clock_now();
    for (unsigned i = 0; i < N; i++)
        task_sleep(0);
    say("task_sleep, a moment past", began, N);
}

/* A post from a thread that is awake to one that is. */
static struct thread *other;
static unsigned posts_left;
static struct thread *ends[2];
static struct waiters over;
static void bounce(struct post *p)
{
    if (posts_left-- == 0)
        waiters_wake_all(&over);
    else
        thread_post(ends[thread_self() == ends[0]], p);
}

static err idle(void *arg) { (void)arg; return waiters_wait(&over, NEVER); }

static void posts(void)
{
    enum { N = 200000 }; /* even: it ends where it began */
    struct post p = { .run = bounce };
    posts_left = N;
    ends[0] = thread_self();
    ends[1] = other = thread_start("other", idle, NULL);
    when began = clock_now();
    thread_post(other, &p);
    thread_join(other);
    say("thread_post to a sleeping thread", began, N);
}

static void job(void *arg) { (void)arg; }

static void works(void)
{
    enum { N = 100000 };
    struct pool *p = pool_start("bench", 1);
    when began = clock_now();
    for (unsigned i = 0; i < N; i++)
        work_run(p, job, NULL);
    say("work_run of nothing", began, N);
    pool_stop(p);
}

static err answer(void *arg)
{
    struct stream *s = arg;
    for (unsigned i = 0; i < rounds; i++) {
        TRY(stream_fill(s, 1, NEVER));
        stream_consume(s, stream_pending(s).n);
        stream_say(s, S("250 2.0.0 OK\r\n"));
    }
    stream_flush(s);
    return OK;
}

static void lines(void)
{
    struct addr none = { 0 };
    int fd[2];

    rounds = 200000;
    must(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fd) == 0);
    struct stream *a = stream_new(fd[0], &none), *b = stream_new(fd[1], &none);
    {
        AUTO_GROUP g = group_open(NEVER);
        group_spawn(&g, "answer", answer, b);
        when began = clock_now();
        for (unsigned i = 0; i < rounds; i++) {
            stream_say(a, S("NOOP\r\n"));
            must(stream_fill(a, 1, clock_now() + 5 * MINUTE) == OK);
            stream_consume(a, stream_pending(a).n);
        }
        say("a line and its answer, socketpair, both ends", began, rounds);
    }
    stream_free(a);
    stream_free(b);
}

static err bench(void *arg)
{
    (void)arg;
    yields(1, 5000000);
    yields(2, 5000000);
    yields(100, 5000000);
    yields(10000, 5000000);
    wakes();
    sleeps();
    spawns();
    posts();
    works();
    lines();
    return OK;
}

int main(void) { return task_main(bench, NULL); }
