#include "kit/kit.h"
#include "task/inside.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

/* ---- the guard ---- */

static char *guard_at;          /* of the task that will run into it */

static void hit(int number, siginfo_t *info, void *context)
{
    char *at = info->si_addr;
    (void)context;
    _exit(number == SIGSEGV && at >= guard_at && at < guard_at + STACK_GUARD ? 42 : 1);
}

static unsigned deeper(unsigned n)
{
    volatile char frame[512];
    frame[n % sizeof frame] = (char)n;
    return n == UINT32_MAX ? 0 : deeper(n + 1) + (unsigned)frame[n % sizeof frame];
}

static err overrun(void *arg)
{
    (void)arg;
    guard_at = task_current()->stack;
    return deeper(0) ? OK : E_IO;
}

/* With neighbours above and below, as in life. */
static err neighbours(void *arg)
{
    (void)arg;
    AUTO_GROUP g = group_open(NEVER);
    for (int i = 0; i < 5; i++)
        group_spawn(&g, "overrun", overrun, NULL);
    return group_wait(&g);
}

static int overrun_in_child(enum stack_guard how)
{
    pid_t child = fork();
    if (child == 0) {
        static char own[64 * 1024];
        stack_t alt = { .ss_sp = own, .ss_size = sizeof own };
        struct sigaction act = { .sa_sigaction = hit, .sa_flags = SA_SIGINFO | SA_ONSTACK };
        sigaltstack(&alt, NULL);
        sigaction(SIGSEGV, &act, NULL);
        stack_guard_use(how);
        task_main(neighbours, NULL);
        _exit(0);
    }
    int status;
    must(waitpid(child, &status, 0) == child);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

TEST(stack_guard_is_hit) { CHECK_INT(overrun_in_child(STACK_GUARD_BEST), 42); }
TEST(stack_guard_is_hit_where_it_is_mprotected) { CHECK_INT(overrun_in_child(STACK_GUARD_MPROTECT), 42); }

/* ---- the limit ---- */

static err asleep(void *arg)
{
    ++*(int *)arg;
    return task_sleep(NEVER);
}

static err fill_up(void *arg)
{
    int ran = 0, taken = 0;
    (void)arg;
    {
        AUTO_GROUP g = group_open(NEVER);
        CHECK_INT(task_room(), 9); /* one is ours */
        while (taken < 100 && group_spawn(&g, "asleep", asleep, &ran) == OK)
            taken++;
        CHECK_INT(taken, 9);
        CHECK_INT(task_room(), 0);
        task_sleep(clock_now() + MILLISECOND);
        CHECK_INT(ran, 9);
        group_cancel(&g);
        CHECK_ERR(group_wait(&g), E_LIMIT);
        CHECK(str_has(err_text(), S("no stack is left")));
    }
    {
        AUTO_GROUP g = group_open(NEVER); /* those of before serve again */
        for (int i = 0; i < 9; i++)
            CHECK_ERR(group_spawn(&g, "asleep", asleep, &ran), OK);
    }
    return OK;
}

TEST(stack_limit_is_a_refusal)
{
    stack_guard_use(STACK_GUARD_MPROTECT);
    size_t before = stack_budget_use(10);
    CHECK_ERR(task_main(fill_up, NULL), OK);
    CHECK_INT(stack_room(), 10);
    stack_budget_use(before);
    CHECK(before > 20000 && before < SIZE_MAX / 2);
    stack_guard_use(STACK_GUARD_BEST);
}

/* ---- what a task costs ---- */

static size_t resident(void)
{
    unsigned long all, here_now;
    FILE *f = fopen("/proc/self/statm", "re");
    must(f && fscanf(f, "%lu %lu", &all, &here_now) == 2);
    fclose(f);
    return here_now * 4096;
}

#ifdef WAYPOST_SANITIZED
#define MANY 1000
#else
#define MANY 10000
#endif

/* Bytes for each of so many tasks asleep. */
static size_t cost_of_sleep(void)
{
    int ran = 0;
    size_t before = resident();
    AUTO_GROUP g = group_open(NEVER);
    for (int i = 0; i < MANY; i++)
        must(group_spawn(&g, "asleep", asleep, &ran) == OK);
    task_yield();
    while (ran < MANY)
        task_yield();
    return (resident() - before) / MANY;
}

TASK_TEST(task_asleep_costs_a_page)
{
    size_t first = cost_of_sleep(), second = cost_of_sleep();
    CHECK_INT(thread_stats().tasks, 1);
    CHECK_INT(thread_stats().tasks_peak, MANY + 1);
    if (getenv("KIT_VERBOSE"))
        printf("a task asleep: %zu bytes (%zu when stacks are used again), struct task %zu\n", first, second, sizeof(struct task));
#ifndef WAYPOST_SANITIZED
    CHECK(first <= 4600);
    CHECK(second <= 4600);
#endif
}

/* ---- giving back; what the sanitizers put on stacks would spoil the figures ---- */

#ifndef WAYPOST_SANITIZED

static size_t resident_in(char *from, size_t n)
{
    unsigned char page[STACK_SIZE / 4096];
    size_t count = 0;
    must(mincore(from, n, page) == 0);
    for (size_t i = 0; i < n / 4096; i++)
        count += page[i] & 1;
    return count * 4096;
}

static char *last_stack;

/* Use so many bytes of stack; at the deepest point let the others run, if told. */
static char touch(size_t n, bool yield)
{
    volatile char frame[1024];
    frame[0] = frame[512] = 1;
    if (n > sizeof frame)
        return (char)(touch(n - sizeof frame, yield) + frame[0]);
    if (yield)
        task_yield();
    return frame[512];
}

static err deep(void *arg)
{
    size_t usable = STACK_SIZE - STACK_GUARD;

    (void)arg;
    last_stack = task_current()->stack;
    CHECK(touch(100 * 1024, false));
    CHECK(resident_in(last_stack + STACK_GUARD, usable) >= 100 * 1024);
    task_trim();
    CHECK(resident_in(last_stack + STACK_GUARD, usable) <= 12 * 1024);
    CHECK(touch(100 * 1024, true));
    return OK;
}

TASK_TEST(stack_used_deeply_gives_back)
{
    AUTO_GROUP g = group_open(NEVER);
    group_spawn(&g, "deep", deep, NULL);
    CHECK_ERR(group_wait(&g), OK);
    CHECK(resident_in(last_stack + STACK_GUARD, STACK_SIZE - STACK_GUARD) <= 16 * 1024);
}

TASK_TEST(stack_pool_keeps_few_pages)
{
    int ran = 0;
    size_t before = resident();
    {
        AUTO_GROUP g = group_open(NEVER);
        for (int i = 0; i < 1000; i++)
            group_spawn(&g, "asleep", asleep, &ran);
        while (ran < 1000)
            task_yield();
    }
    CHECK(resident() < before + 100 * 8192);
}

#endif
