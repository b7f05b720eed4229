/* Groups: who waits for whom, and who is cancelled with whom. */
#include "task/inside.h"

struct group group_open(when deadline)
{
    struct task *owner = here ? here->current : NULL;
    return (struct group){
        .deadline = owner ? MIN(deadline, owner->group->deadline) : deadline,
        .owner = owner,
    };
}

static void ended_with(struct group *g, err e, const struct err_note *note)
{
    if (e == OK || g->first != OK || g->forget)
        return;
    g->first = e;
    if (e == E_CANCELED && g->closed)
        return;                 /* we did that; it needs no words */
    g->note = mem_new(sizeof *g->note);
    *g->note = *note;
}

err group_spawn(struct group *g, const char *name, task_fn *fn, void *arg)
{
    must(here && (!g->owner || g->owner->thread == here));

    struct task *t = task_new(here, name, fn, arg);
    if (!t) {
        err e = fail(E_LIMIT, "task %s: no stack is left (vm.max_map_count or memory)", name);
        ended_with(g, e, err_note);
        return e;
    }
    if (g->n++ == 0) {
        list_init(&g->tasks);
        if (g->owner) {
            if (!g->owner->groups.next)
                list_init(&g->owner->groups);
            list_add(&g->owner->groups, &g->among);
        }
    }
    t->group = g;
    t->canceled = g->closed || (g->owner && g->owner->canceled);
    list_add(&g->tasks, &t->sibling);
    return OK;
}

void group_child_ended(struct task *t)
{
    struct group *g = t->group;

    ended_with(g, t->result, &t->note);
    list_del(&t->sibling);
    if (--g->n > 0)
        return;
    list_del(&g->among);
    if (g->waiter)
        task_wake(g->waiter, OK);
}

/* The depth of this is that of the groups in each other, which is the program's own. */
void group_cancel(struct group *g)
{
    g->closed = true;
    if (!g->n)
        return;
    for (struct link *l = g->tasks.next; l != &g->tasks; l = l->next) {
        struct task *t = AROUND(l, struct task, sibling);
        if (t->canceled)
            continue;           /* and so are its groups */
        t->canceled = true;
        if (t->state == TASK_WAITING && !t->steady)
            task_wake(t, E_CANCELED);
        for (struct link *m = t->groups.next; m && m != &t->groups; m = m->next)
            group_cancel(AROUND(m, struct group, among));
    }
}

static void wait_for_children(struct group *g)
{
    if (!g->n)
        return;
    struct task *me = task_self();
    must(!g->waiter && me->group != g);
    g->waiter = me;
    while (g->n)
        task_wait_steady(me);
    g->waiter = NULL;
}

err group_wait(struct group *g)
{
    wait_for_children(g);
    err first = g->first;
    if (first == OK && task_canceled())
        first = E_CANCELED;
    if (first != OK && g->note)
        *err_note = *g->note;
    else if (first != OK)
        fail(first, "the group was canceled");
    return first;
}

void group_close(struct group *g)
{
    group_cancel(g);
    wait_for_children(g);
    mem_free(g->note);
    g->note = NULL;
}
