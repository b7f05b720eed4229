/* The seam of threads: how a simulator owns every scheduler, pool and wake-up of the process.
 *
 * With machine->threads set, nothing in task/ makes a pthread, an epoll or an eventfd. thread_start() and pool_start() only
 * register; the simulator, itself outside any task, on one pthread, steps what it chooses:
 *
 *   for (;;) {
 *       pick a thread t and one bit of sched_can(t):  sched_step(t, bit);
 *       or a pool p with pool_pending(p) > 0:         pool_step(p, any index below that);
 *       or an event of its own network or disk:       sched_io_ready(io, ...);
 *       or, when nothing can run:                     move the clock to the least sched_next_timer()
 *   }
 *
 * While a thread is stepped, thread_self() and the error note are its own, as they would be on a pthread. What is
 * _Thread_local elsewhere is shared by all simulated threads: keep such state out of code that is to be simulated. */
#ifndef TASK_SEAM_H
#define TASK_SEAM_H

#include "task/task.h"

/* What the simulator hears. All are required; they may be called from within a task, so they must not wait. */
struct machine_threads {
    void (*thread_started)(struct thread *t);
    void (*thread_freed)(struct thread *t);         /* joined or dropped: never step it again */
    void (*pool_started)(struct pool *p);
    void (*pool_stopped)(struct pool *p);
    /* Tell sched_io_ready() what is ready already, now or at a later step. For a shared io tell it whenever a client
     * comes, to whom of those that share is the simulator's choice. */
    void (*io_added)(struct io *io);
    void (*io_deleted)(struct io *io);
};

/* Put a simulated machine in place; before the first thread, or when all are gone. NULL: back to Linux. The clock is
 * base_seam's. */
void sim_install(const struct machine *m);

enum sched_can {
    SCHED_TASK = 1,     /* the first ready task, until it waits or ends */
    SCHED_POST = 2,     /* the oldest post */
    SCHED_TIMER = 4,    /* the earliest expired timer; this may turn out to be a stale one */
};

unsigned sched_can(struct thread *t);               /* the bits a step may be asked for now */
when sched_next_timer(struct thread *t);            /* NEVER: none. May be earlier than any real deadline: timers are lazy */
void sched_step(struct thread *t, enum sched_can what);
bool sched_ended(struct thread *t);                 /* no task is left; thread_join() would not wait */
const char *sched_name(const struct thread *t);
/* The crash of a machine: end a thread where it stands. Its tasks' stacks are freed, none of their AUTO clean-ups run and
 * what they had on the heap is lost. Nobody may wait for it, and posts on their way to it are forgotten. */
void sched_drop(struct thread *t);

/* What epoll would report. Flags given as false leave what is known untouched. From any step, for an io of any thread. */
void sched_io_ready(struct io *io, bool readable, bool writable, bool hangup);
/* A signal for who waits in signals_wait() on `t`, now or later. */
void sched_signal(struct thread *t, int number);

size_t pool_pending(const struct pool *p);
void pool_step(struct pool *p, size_t which);       /* run this one of the pending calls; its caller's thread gets a post */
const char *pool_name(const struct pool *p);

#endif
