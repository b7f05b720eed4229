/* What the files of this folder share. */
#ifndef TASK_INSIDE_H
#define TASK_INSIDE_H

#include "task/seam.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>

#if defined __SANITIZE_ADDRESS__
#define TASK_ASAN 1
#elif defined __has_feature
#if __has_feature(address_sanitizer)
#define TASK_ASAN 1
#endif
#endif
#if defined __SANITIZE_THREAD__
#define TASK_TSAN 1
#elif defined __has_feature
#if __has_feature(thread_sanitizer)
#define TASK_TSAN 1
#endif
#endif

/* ---- switch.S ---- */

/* Save the callee-saved registers on this stack and its pointer in *from; go on where `to` was saved. */
void switch_stack(void **from, void *to);
/* What a new task begins with: calls the function in the second saved register with the first as argument. */
void switch_entry(void);

/* ---- stack.c ---- */

#ifdef WAYPOST_SANITIZED
#define STACK_SIZE ((size_t)512 * 1024) /* the sanitizers' frames are larger */
#else
#define STACK_SIZE ((size_t)256 * 1024)
#endif
#define STACK_GUARD ((size_t)16 * 1024)

/* The stacks of one thread. A stack is named by its lowest address, where its guard is. */
struct stacks {
    char **chunk;               /* what was mapped */
    size_t nchunk, carved;      /* stacks taken out of the last chunk */
    char *warm[64];             /* free, with their pages; the last is the next to go */
    size_t nwarm;
    char **cold;                /* free, without */
    size_t ncold, cold_cap;
    size_t split;               /* guards that cost an entry in the kernel's map */
};

char *stack_new(struct stacks *s);              /* NULL: at the limit */
void stack_free(struct stacks *s, char *stack, size_t depth); /* depth: bytes at the top known to have been used */
void stack_trim(char *stack, char *below);      /* give back all whole pages between the guard and `below` */
void stacks_end(struct stacks *s);              /* all are free by now, or their tasks never run again */
size_t stack_room(void);

enum stack_guard { STACK_GUARD_BEST, STACK_GUARD_MPROTECT };
void stack_guard_use(enum stack_guard how);     /* for tests; from the environment otherwise: WAYPOST_STACK_GUARD=mprotect */
size_t stack_budget_use(size_t splits);         /* for tests: how many mprotect guards there may be; returns what was */

/* ---- sched.c ---- */

enum task_state { TASK_READY, TASK_RUNNING, TASK_WAITING, TASK_DEAD };

/* Lives at the top of its own stack, so that a task that has just begun touches one page. */
struct task {
    void *sp;                   /* where it stands, while it does not run */
    struct thread *thread;
    struct link link;           /* in the ready queue, or in what it waits for */
    struct heap_entry timer;    /* never later than `deadline`; may be earlier, or left over from a wait long ended */
    when deadline;              /* of the current wait */
    err result;                 /* of the wait that ended; at the end, of fn */
    uint8_t state;
    bool canceled;              /* its group was, or one above */
    bool steady;                /* the current wait is not cut short */
    bool favoured;              /* task_favour() */
    struct group *group;
    struct link sibling;        /* in group->tasks */
    struct link groups;         /* those it opened that have children */
    task_fn *fn;
    void *arg;
    const char *name;
    char *stack;
    char *deepest;              /* the lowest stack pointer seen at a wait */
    struct link all;            /* of its thread */
#ifdef TASK_ASAN
    void *fake_stack;
#endif
#ifdef TASK_TSAN
    void *fiber;
#endif
    struct err_note note;
};

/* A scheduler, and the pthread it runs on. Never freed but used again: whoever posted to it a moment ago may still be
 * looking at whether it sleeps. */
struct thread {
    /* Written by other threads. */
    _Alignas(64) _Atomic(struct post *) posts;  /* the newest first */
    atomic_bool sleeping;
    int event_fd;               /* open as long as the process; -1: not yet */
    _Atomic(struct joiner *) joiner;

    /* Its own. */
    _Alignas(64) struct task *current;
    struct link ready, favoured; /* those that are to run; of them the favoured ones */
    size_t nready;              /* both */
    when ahead;                 /* how much longer than their share the favoured ones ran, where both kinds wanted to */
    struct heap timers;
    struct post *inbox;         /* posts taken over, the oldest first */
    when now;                   /* of this round */
    unsigned forbidden;         /* task_forbid_wait() */
    struct link all;
    struct thread_stats stats;
    struct stacks stacks;
    struct task *dead;          /* ended; its stack is freed once we have left it */
    struct group root, group;
    void *sp;                   /* of the scheduler, while a task runs */
    int epoll_fd;
    struct err_note note;       /* of posts and the scheduler */

    struct io signal_io;        /* thread NULL: none yet */
    sigset_t signals;
    struct waiters signal_waiters; /* in a simulation */
    uint64_t signals_pending;

    char name[16];
    task_fn *fn;
    void *arg;
    err result;
    struct err_note result_note;
    pthread_t pthread;
    bool ended;
    struct thread *next_spare;
#ifdef TASK_ASAN
    void *fake_stack;
    const void *stack_bottom;
    size_t stack_size;
#endif
#ifdef TASK_TSAN
    void *fiber;
    void *spare_fiber[16];
    size_t nspare_fiber;
#endif
};

extern _Thread_local struct thread *here; /* the scheduler of this pthread, or the one being stepped */

struct joiner { struct post post; struct task *task; };
#define JOINER_ENDED ((struct joiner *)1)

struct task *task_new(struct thread *t, const char *name, task_fn *fn, void *arg); /* NULL: no stack is left */
void task_ready(struct task *t);
/* End the wait of `t` with `result`; nothing when it does not wait (any more). */
void task_wake(struct task *t, err result);
/* The running task, which may wait; must() otherwise. */
struct task *task_self(void);
/* Stand still until task_wake(): its result, E_TIMEOUT or E_CANCELED, without a text. */
WAITS err task_wait(struct task *me, when deadline);
WAITS void task_wait_steady(struct task *me); /* until task_wake() only */
WAITS void task_pause(struct task *me);       /* behind those that are ready */
/* The text for such a result. */
err task_told(err e, const char *what);

void sched_run(struct thread *t);
void sched_close(struct thread *t);
void sched_enter(struct thread *t);     /* become the current one of this pthread; NULL: none */

/* ---- the others ---- */

void group_child_ended(struct task *t); /* group.c */
int io_poll(struct thread *t, when timeout); /* io.c; NEVER: until something happens. How many events */
void thread_ended(struct thread *t);    /* thread.c: its last task is gone; tell who joins */
void thread_spare(struct thread *t);    /* keep it for the next thread_start() */

#endif
