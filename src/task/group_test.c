#include "kit/kit.h"
#include "task/task.h"

#include <unistd.h>

/* What a child is told to do, and what became of it. */
struct child {
    when until;                 /* sleep */
    err ret;                    /* then return this, when sleeping was OK */
    bool group;                 /* in a group of its own, with a child that sleeps */
    err got;                    /* what sleeping said */
    bool ran, ended;
};

static err sleeper(void *arg)
{
    struct child *c = arg;
    c->ran = true;
    c->got = task_sleep(c->until);
    c->ended = true;
    if (c->got != OK)
        return during(c->got, "child");
    return c->ret ? fail(c->ret, "told to") : OK;
}

static err nester(void *arg)
{
    struct child *c = arg;
    AUTO_GROUP g = group_open(NEVER);
    group_spawn(&g, "inner", sleeper, c);
    return group_wait(&g);
}

TASK_TEST(group_wait_waits_for_all)
{
    struct child c[10] = { 0 };
    AUTO_GROUP g = group_open(NEVER);
    for (size_t i = 0; i < COUNT(c); i++) {
        c[i].until = clock_now() + (when)(i % 3) * MILLISECOND;
        CHECK_ERR(group_spawn(&g, "child", sleeper, &c[i]), OK);
        CHECK(!c[i].ran);
    }
    CHECK_ERR(group_wait(&g), OK);
    EACH(c, one)
        CHECK(one->ended);
    CHECK_INT(g.n, 0);
}

TASK_TEST(group_wait_tells_the_first_error_and_its_text)
{
    struct child c[] = { { .until = 0 }, { .until = clock_now() + 5 * MILLISECOND, .ret = E_IO }, { .ret = E_DAMAGED } };
    AUTO_GROUP g = group_open(NEVER);
    EACH(c, one)
        group_spawn(&g, "child", sleeper, one);
    fail(E_PERM, "something else");
    CHECK_ERR(group_wait(&g), E_DAMAGED);
    CHECK_STR(err_text(), S("told to"));
    CHECK_ERR(group_wait(&g), E_DAMAGED); /* again: the same */
}

TASK_TEST(group_serves_again_after_a_wait)
{
    struct child a = { 0 }, b = { 0 };
    AUTO_GROUP g = group_open(NEVER);
    group_spawn(&g, "a", sleeper, &a);
    CHECK_ERR(group_wait(&g), OK);
    group_spawn(&g, "b", sleeper, &b);
    CHECK_ERR(group_wait(&g), OK);
    CHECK(a.ended && b.ended);
}

TASK_TEST(group_empty_ends_at_once)
{
    AUTO_GROUP g = group_open(clock_now());
    CHECK_ERR(group_wait(&g), OK);
}

TASK_TEST(group_cancel_ends_every_wait)
{
    struct child asleep = { .until = NEVER }, late = { .until = NEVER }, yielding = { 0 };
    AUTO_GROUP g = group_open(NEVER);
    group_spawn(&g, "asleep", sleeper, &asleep);
    CHECK_ERR(task_yield(), OK);
    CHECK(asleep.ran && !asleep.ended);
    group_spawn(&g, "not begun", sleeper, &yielding);
    group_cancel(&g);
    group_spawn(&g, "late", sleeper, &late);
    CHECK_ERR(group_wait(&g), E_CANCELED);
    CHECK_INT(asleep.got, E_CANCELED);
    CHECK_INT(yielding.got, E_CANCELED);
    CHECK_INT(late.got, E_CANCELED);
    CHECK_ERR(task_yield(), OK); /* the opener itself is not meant */
}

TASK_TEST(group_cancel_reaches_groups_in_groups)
{
    struct child c = { .until = NEVER };
    AUTO_GROUP g = group_open(NEVER);
    group_spawn(&g, "outer", nester, &c);
    task_sleep(clock_now() + MILLISECOND);
    CHECK(c.ran && !c.ended);
    group_cancel(&g);
    CHECK_ERR(group_wait(&g), E_CANCELED);
    CHECK_INT(c.got, E_CANCELED);
}

TASK_TEST(group_close_on_leaving_the_block)
{
    struct child c = { .until = NEVER };
    {
        AUTO_GROUP g = group_open(NEVER);
        group_spawn(&g, "child", sleeper, &c);
        task_yield();
    }
    CHECK(c.ended);
    CHECK_INT(c.got, E_CANCELED);
}

/* A cancelled task still waits for its own children when it leaves. */
static err stubborn(void *arg)
{
    struct child *c = arg;
    c->ran = true;
    while (task_sleep(0) == OK)
        ;
    for (int i = 0; i < 10; i++)
        CHECK_ERR(task_yield(), E_CANCELED);
    c->ended = true;
    return OK;
}

struct keeper { struct child child; bool left; };

static err keeper(void *arg)
{
    struct keeper *k = arg;
    {
        AUTO_GROUP g = group_open(NEVER);
        group_spawn(&g, "stubborn", stubborn, &k->child);
        CHECK_ERR(task_sleep(NEVER), E_CANCELED);
    }
    CHECK(k->child.ended);
    k->left = true;
    return OK;
}

TASK_TEST(group_close_in_a_cancelled_task_is_not_cut_short)
{
    struct keeper k = { 0 };
    AUTO_GROUP g = group_open(NEVER);
    group_spawn(&g, "keeper", keeper, &k);
    task_sleep(clock_now() + MILLISECOND);
    group_cancel(&g);
    CHECK_ERR(group_wait(&g), OK);
    CHECK(k.left);
}

/* The opener is cancelled while it waits: group_wait() says so, though no child failed. */
static err polite(void *arg)
{
    (void)arg;
    task_sleep(NEVER);
    return OK;
}

static err waiting(void *arg)
{
    AUTO_GROUP g = group_open(NEVER);
    group_spawn(&g, "polite", polite, NULL);
    *(err *)arg = group_wait(&g);
    return OK;
}

TASK_TEST(group_wait_in_a_cancelled_task)
{
    err got = OK;
    AUTO_GROUP g = group_open(NEVER);
    group_spawn(&g, "waiting", waiting, &got);
    task_sleep(clock_now() + MILLISECOND);
    group_cancel(&g);
    group_wait(&g);
    CHECK_INT(got, E_CANCELED);
}

TASK_TEST(group_deadline_covers_every_wait)
{
    struct child c = { .until = NEVER }, inner = { .until = NEVER }, soon = { .until = 0 };
    when began = clock_now();
    AUTO_GROUP g = group_open(began + 20 * MILLISECOND);
    group_spawn(&g, "child", sleeper, &c);
    group_spawn(&g, "outer", nester, &inner); /* its own group has none, so ours counts */
    group_spawn(&g, "soon", sleeper, &soon);
    CHECK_ERR(group_wait(&g), E_TIMEOUT);
    CHECK_INT(c.got, E_TIMEOUT);
    CHECK_INT(inner.got, E_TIMEOUT);
    CHECK_INT(soon.got, OK);
    CHECK(clock_now() - began >= 20 * MILLISECOND);
}

static err shorter(void *arg)
{
    AUTO_GROUP g = group_open(clock_now() + 5 * MILLISECOND);
    group_spawn(&g, "child", sleeper, arg);
    CHECK_ERR(group_wait(&g), E_TIMEOUT);
    CHECK_ERR(task_sleep(clock_now() + MILLISECOND), OK); /* ours is longer */
    return OK;
}

TASK_TEST(group_deadline_is_the_least_along_the_chain)
{
    struct child c = { .until = NEVER };
    AUTO_GROUP g = group_open(clock_now() + 10 * SECOND);
    group_spawn(&g, "shorter", shorter, &c);
    CHECK_ERR(group_wait(&g), OK);
    CHECK_INT(c.got, E_TIMEOUT);
}

static err spinner(void *arg)
{
    (void)arg;
    for (;;)
        TRY(task_yield());
}

TASK_TEST(group_deadline_ends_who_only_yields)
{
    AUTO_GROUP g = group_open(clock_now() + 5 * MILLISECOND);
    group_spawn(&g, "spinner", spinner, NULL);
    CHECK_ERR(group_wait(&g), E_TIMEOUT);
}

/* A child spawns siblings while the group is waited for. */
struct tree { struct group *g; int depth, leaves; };

static err branch(void *arg)
{
    struct tree *t = arg;
    if (t->depth == 0) {
        t->leaves++;
        return OK;
    }
    t->depth--;
    group_spawn(t->g, "branch", branch, t);
    return task_yield();
}

TASK_TEST(group_grows_while_waited_for)
{
    AUTO_GROUP g = group_open(NEVER);
    struct tree t = { &g, 50, 0 };
    group_spawn(&g, "branch", branch, &t);
    CHECK_ERR(group_wait(&g), OK);
    CHECK_INT(t.leaves, 1);
}

static err of_thread(void *arg)
{
    struct child *c = arg;
    group_spawn(thread_group(), "session", sleeper, c);
    return task_sleep(clock_now() + MILLISECOND);
}

TASK_TEST(thread_group_outlives_its_spawner)
{
    struct child c = { .until = NEVER };
    {
        AUTO_GROUP g = group_open(NEVER);
        group_spawn(&g, "spawner", of_thread, &c);
        CHECK_ERR(group_wait(&g), OK);
    }
    CHECK(c.ran && !c.ended);
    group_close(thread_group());
    CHECK_INT(c.got, E_CANCELED);
}
