/* The scheduler: a ready queue, timers, posts, and the way from one stack to another.
 *
 * A wait goes from the task to the scheduler, which goes to the next task: two switches of some nanoseconds, and no call of
 * the system while somebody is ready. */
#include "task/inside.h"

#include <errno.h>
#include <stdio.h>

#ifdef TASK_ASAN
#include <sanitizer/common_interface_defs.h>
#endif
#ifdef TASK_TSAN
#include <sanitizer/tsan_interface.h>
#endif

#define TURN 64                 /* tasks run before timers and posts are looked at again */
#define FAVOUR 3                /* times as long as the others the favoured ones run, where both want to */
#define AHEAD_MOST MILLISECOND  /* one kind may get ahead of the other */
#define GLANCE 4                /* tasks run between two looks at the clock */
#define POLL_PATIENCE (50 * MICROSECOND) /* how long tasks may run before epoll is asked, though more are ready */

_Thread_local struct thread *here;

/* ---- from stack to stack ---- */

static void fiber_new(struct task *task)
{
#ifdef TASK_TSAN
    struct thread *t = task->thread;
    task->fiber = t->nspare_fiber ? t->spare_fiber[--t->nspare_fiber] : __tsan_create_fiber(0);
    __tsan_set_fiber_name(task->fiber, task->name);
#else
    (void)task;
#endif
}

static void fiber_free(struct task *task)
{
#ifdef TASK_TSAN
    struct thread *t = task->thread;
    if (t->nspare_fiber < COUNT(t->spare_fiber))
        t->spare_fiber[t->nspare_fiber++] = task->fiber;
    else
        __tsan_destroy_fiber(task->fiber);
#else
    (void)task;
#endif
}

/* From the scheduler into a task, until it waits or ends. */
static void task_enter(struct thread *t, struct task *task)
{
    t->current = task;
    t->stats.switches++;
    task->state = TASK_RUNNING;
    err_note = &task->note;
#ifdef TASK_TSAN
    t->fiber = __tsan_get_current_fiber();
    __tsan_switch_to_fiber(task->fiber, 0);
#endif
#ifdef TASK_ASAN
    __sanitizer_start_switch_fiber(&t->fake_stack, task->stack + STACK_GUARD, STACK_SIZE - STACK_GUARD);
#endif
    switch_stack(&t->sp, task->sp);
#ifdef TASK_ASAN
    __sanitizer_finish_switch_fiber(t->fake_stack, NULL, NULL);
#endif
    err_note = &t->note;
    t->current = NULL;
}

/* From a task back to its scheduler; returns when it is entered again. */
static void task_leave(struct task *me)
{
    struct thread *t = me->thread;
    char *at = __builtin_frame_address(0);

    if (at < me->deepest)
        me->deepest = at;
#ifdef TASK_TSAN
    __tsan_switch_to_fiber(t->fiber, 0);
#endif
#ifdef TASK_ASAN
    __sanitizer_start_switch_fiber(me->state == TASK_DEAD ? NULL : &me->fake_stack, t->stack_bottom, t->stack_size);
#endif
    switch_stack(&me->sp, t->sp);
#ifdef TASK_ASAN
    __sanitizer_finish_switch_fiber(me->fake_stack, &t->stack_bottom, &t->stack_size);
#endif
}

/* The first function on every task's stack. */
static void task_begin(void *arg)
{
    struct task *me = arg;
#ifdef TASK_ASAN
    __sanitizer_finish_switch_fiber(NULL, &me->thread->stack_bottom, &me->thread->stack_size);
#endif
    me->result = me->fn(me->arg);
    must(!me->thread->forbidden);
    must(list_empty(&me->groups));
    group_child_ended(me);
    me->state = TASK_DEAD;
    me->thread->dead = me;
    task_leave(me);
    must(!"a dead task runs");
}

struct task *task_new(struct thread *t, const char *name, task_fn *fn, void *arg)
{
    char *stack = stack_new(&t->stacks);
    if (!stack)
        return NULL;

    /* All stacks end on the same address modulo a page; tops of different height keep 10,000 tasks from meeting in the same
     * few lines of the cache. */
    size_t colour = ((uintptr_t)stack / STACK_SIZE % 16) * 64;
    struct task *task = (struct task *)(void *)((uintptr_t)(stack + STACK_SIZE - colour - sizeof *task) & ~(uintptr_t)63);
    *task = (struct task){
        .thread = t, .name = name, .fn = fn, .arg = arg, .stack = stack, .deepest = (char *)task, .deadline = NEVER,
        .state = TASK_WAITING,
    };

    void **sp = (void **)(void *)task;
#if defined __x86_64__
    *--sp = (void *)switch_entry; /* popped, and the stack is aligned to 16 where it calls */
    *--sp = NULL;               /* rbp */
    *--sp = NULL;               /* rbx */
    *--sp = task;               /* r12 */
    *--sp = (void *)task_begin; /* r13 */
    *--sp = NULL;               /* r14 */
    *--sp = NULL;               /* r15 */
#elif defined __aarch64__
    sp -= 20;
    memset(sp, 0, 160);
    sp[1] = (void *)switch_entry; /* x30 */
    sp[2] = task;               /* x19 */
    sp[3] = (void *)task_begin; /* x20 */
#endif
    task->sp = sp;
    fiber_new(task);

    list_add(&t->all, &task->all);
    t->stats.tasks++;
    t->stats.tasks_peak = MAX(t->stats.tasks_peak, t->stats.tasks);
    task_ready(task);
    return task;
}

static void task_free(struct task *task)
{
    struct thread *t = task->thread;
    char *top = task->stack + STACK_SIZE;

    heap_del(&t->timers, &task->timer);
    list_del(&task->all);
    t->stats.tasks--;
    fiber_free(task);
    stack_free(&t->stacks, task->stack, (size_t)(top - task->deepest));
}

void task_ready(struct task *t)
{
    t->state = TASK_READY;
    list_add(t->favoured ? &t->thread->favoured : &t->thread->ready, &t->link);
    t->thread->nready++;
}

void task_wake(struct task *t, err result)
{
    must(t->thread == here);
    if (t->state != TASK_WAITING)
        return;
    list_del(&t->link);
    t->result = result;
    task_ready(t);
}

struct task *task_self(void)
{
    struct thread *t = here;
    must(t && t->current);      /* only a task may wait */
    must(!t->forbidden);        /* and not inside a library's callback */
    return t->current;
}

static void task_stand(struct task *me)
{
    me->state = TASK_WAITING;
    task_leave(me);
}

void task_pause(struct task *me)
{
    task_ready(me);
    task_leave(me);
}

/* Timers are lazy: one that is there and not too late is left as it is, and looked at again when it expires. */
err task_wait(struct task *me, when deadline)
{
    deadline = MIN(deadline, me->group->deadline);
    if (me->canceled) {
        list_del(&me->link);
        return E_CANCELED;
    }
    me->deadline = deadline;
    me->steady = false;
    if (deadline != NEVER && (!me->timer.at || me->timer.key > deadline))
        heap_put(&me->thread->timers, &me->timer, deadline);
    task_stand(me);
    return me->result;
}

void task_wait_steady(struct task *me)
{
    me->deadline = NEVER;
    me->steady = true;
    task_stand(me);
}

err task_told(err e, const char *what)
{
    switch (e) {
    case E_TIMEOUT: return fail(e, "%s: the deadline passed", what);
    case E_CANCELED: return fail(e, "%s: canceled", what);
    default: return e;
    }
}

/* ---- steps ---- */

/* First come, first served among those of a kind; where both kinds want to run the favoured ones have three quarters of
 * the time. */
static void task_run_one(struct thread *t)
{
    bool both = !list_empty(&t->favoured) && !list_empty(&t->ready);
    bool favour = both ? t->ahead <= 0 : !list_empty(&t->favoured);
    struct task *task = AROUND((favour ? &t->favoured : &t->ready)->next, struct task, link);
    when before = both ? clock_now() : 0;

    list_del(&task->link);
    t->nready--;
    task_enter(t, task);
    if (t->dead)
        task_free(take(t->dead));
    if (both) {
        when ran = clock_now() - before + MICROSECOND; /* a turn costs something, also where the clock does not see it */
        t->ahead += favour ? ran : -FAVOUR * ran;
        t->ahead = MAX(MIN(t->ahead, AHEAD_MOST), -AHEAD_MOST);
    }
}

/* The earliest timer, if it is due: wakes its task, moves it, or drops it. */
static bool timer_run_one(struct thread *t)
{
    struct heap_entry *e = heap_least(&t->timers);
    if (!e || e->key > t->now)
        return false;

    struct task *task = AROUND(e, struct task, timer);
    if (task->state != TASK_WAITING || task->deadline == NEVER) {
        heap_del(&t->timers, e);
    } else if (task->deadline > t->now) {
        heap_put(&t->timers, e, task->deadline);
    } else {
        heap_del(&t->timers, e);
        task_wake(task, E_TIMEOUT);
    }
    return true;
}

static bool post_run_one(struct thread *t)
{
    if (!t->inbox) {
        if (!atomic_load_explicit(&t->posts, memory_order_relaxed))
            return false;
        struct post *p = atomic_exchange_explicit(&t->posts, NULL, memory_order_acquire);
        while (p) { /* they come the newest first */
            struct post *older = p->next;
            p->next = t->inbox;
            t->inbox = p;
            p = older;
        }
    }
    struct post *p = t->inbox;
    t->inbox = p->next;
    p->next = NULL;
    t->stats.posts++;
    p->run(p);
    return true;
}

/* ---- the loop of a real thread ---- */

void sched_enter(struct thread *t)
{
    here = t;
    err_note = t ? &t->note : NULL;
}

static when until_next_timer(struct thread *t)
{
    struct heap_entry *e = heap_least(&t->timers);
    return e ? MAX(e->key - clock_now(), 0) : NEVER;
}

/* Sleep until an event, a post or the next timer. The flag tells posters that they must write to our eventfd; set before
 * the last look at the list, as they push before they look at the flag. */
static void sched_sleep(struct thread *t)
{
    atomic_store(&t->sleeping, true);
    if (atomic_load(&t->posts)) {
        atomic_store(&t->sleeping, false);
        return;
    }
    t->stats.sleeps++;
    io_poll(t, until_next_timer(t));
    atomic_store_explicit(&t->sleeping, false, memory_order_relaxed);
}

void sched_run(struct thread *t)
{
    when polled = NEVER;        /* NEVER: just now */

    for (;;) {
        while (post_run_one(t))
            ;
        t->now = clock_now();
        polled = MIN(polled, t->now);
        while (timer_run_one(t))
            ;
        for (unsigned n = 1; n <= TURN && t->nready; n++) {
            task_run_one(t);
            if (n % GLANCE == 0 && clock_now() - polled > POLL_PATIENCE)
                break; /* one that is favoured may be ready by now, and waits for us to hear of it */
        }
        if (!t->stats.tasks && !atomic_load(&t->posts))
            return;
        if (!t->nready) {
            sched_sleep(t);
            polled = NEVER;
        } else if (clock_now() - polled > POLL_PATIENCE) {
            io_poll(t, 0);
            polled = NEVER;
        }
    }
}

/* ---- the steps of a simulated one ---- */

static struct thread *stepped_in(struct thread *t)
{
    struct thread *outer = here;
    must(!outer || !outer->current); /* the simulator is no task */
    sched_enter(t);
    t->now = clock_now();
    return outer;
}

unsigned sched_can(struct thread *t)
{
    struct heap_entry *e = heap_least(&t->timers);
    return (t->nready ? SCHED_TASK : 0) | (t->inbox || atomic_load(&t->posts) ? SCHED_POST : 0) |
           (e && e->key <= clock_now() ? SCHED_TIMER : 0);
}

when sched_next_timer(struct thread *t)
{
    struct heap_entry *e = heap_least(&t->timers);
    return e ? e->key : NEVER;
}

void sched_step(struct thread *t, enum sched_can what)
{
    must(machine->threads && !t->ended);
    must(sched_can(t) & what);
    struct thread *outer = stepped_in(t);
    switch (what) {
    case SCHED_TASK: task_run_one(t); break;
    case SCHED_POST: post_run_one(t); break;
    case SCHED_TIMER: timer_run_one(t); break;
    }
    if (!t->stats.tasks && !t->inbox && !atomic_load(&t->posts))
        thread_ended(t);
    sched_enter(outer);
}

bool sched_ended(struct thread *t) { return t->ended; }
const char *sched_name(const struct thread *t) { return t->name; }

void sched_drop(struct thread *t)
{
    must(machine->threads && (!here || !here->current));
    sched_close(t);
    thread_spare(t);
}

/* ---- */

/* No task of it runs any more, or ever again. */
void sched_close(struct thread *t)
{
#ifdef TASK_TSAN
    for (struct link *l = t->all.next, *next; l && l != &t->all; l = next) {
        next = l->next;
        fiber_free(AROUND(l, struct task, all));
    }
    while (t->nspare_fiber)
        __tsan_destroy_fiber(t->spare_fiber[--t->nspare_fiber]);
#endif
    stacks_end(&t->stacks);
    mem_free(t->timers.p);      /* not heap_free(): its entries lay on the stacks */
    t->timers = (struct heap){ 0 };
    if (t->signal_io.thread)
        machine_linux.close(t->signal_io.fd);
    if (t->epoll_fd >= 0)
        machine_linux.close(t->epoll_fd);
    t->signal_io = (struct io){ 0 };
    t->epoll_fd = -1;
    t->ended = true;
}

/* ---- what a task asks of itself ---- */

bool task_running(void) { return here && here->current; }
struct task *task_current(void) { return here ? here->current : NULL; }
const char *task_name(void) { return task_running() ? here->current->name : ""; }
bool task_canceled(void) { return task_running() && here->current->canceled; }
size_t task_room(void) { return stack_room(); }
void task_favour(void) { task_self()->favoured = true; }

void task_forbid_wait(void)
{
    if (here)
        here->forbidden++;
}

void task_allow_wait(void)
{
    if (here) {
        must(here->forbidden);
        here->forbidden--;
    }
}

/* Not from the frame itself: the system call's own frames lie below it while the pages go. And never inlined: the caller's
 * variables lie below the caller's frame address. */
__attribute__((noinline)) void task_trim(void)
{
#if !defined TASK_ASAN && !defined TASK_TSAN
    if (task_running())
        stack_trim(here->current->stack, (char *)__builtin_frame_address(0) - 1024);
#endif
}

size_t task_stack_left(void)
{
    must(task_running());
    return (size_t)((char *)__builtin_frame_address(0) - (here->current->stack + STACK_GUARD));
}

struct thread *thread_self(void) { return here; }

struct thread_stats thread_stats(void)
{
    must(here);
    return here->stats;
}
