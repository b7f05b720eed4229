/* Waits that need no descriptor. */
#include "task/inside.h"

err task_yield(void)
{
    struct task *me = task_self();

    if (me->canceled)
        return task_told(E_CANCELED, "yielding");
    task_pause(me);
    if (me->canceled)
        return task_told(E_CANCELED, "yielding");
    /* For who works long and never waits; the moment of this round will do. */
    if (me->group->deadline < me->thread->now)
        return task_told(E_TIMEOUT, "yielding");
    return OK;
}

err task_sleep(when until)
{
    struct task *me = task_self();

    if (until <= me->thread->now)
        return task_yield();
    err e = task_wait(me, until);
    if (e == E_TIMEOUT && until <= me->group->deadline)
        return OK;
    return task_told(e, "sleeping");
}

err waiters_wait(struct waiters *w, when deadline)
{
    struct task *me = task_self();

    if (!w->tasks.next)
        list_init(&w->tasks);
    list_add(&w->tasks, &me->link);
    return task_told(task_wait(me, deadline), "waiting for a turn");
}

void waiters_wait_steady(struct waiters *w)
{
    struct task *me = task_self();

    if (!w->tasks.next)
        list_init(&w->tasks);
    list_add(&w->tasks, &me->link);
    task_wait_steady(me);
}

bool waiters_wake_one(struct waiters *w)
{
    if (list_empty(&w->tasks))
        return false;
    task_wake(AROUND(w->tasks.next, struct task, link), OK);
    return true;
}

void waiters_wake_all(struct waiters *w)
{
    while (waiters_wake_one(w))
        ;
}
