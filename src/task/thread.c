/* Threads, each with a scheduler, and posts between them. */
#include "task/inside.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static struct thread *spares;   /* under the mutex */

void sim_install(const struct machine *m) { machine = m ? m : &machine_linux; }

void thread_spare(struct thread *t)
{
    if (machine->threads)
        machine->threads->thread_freed(t);
    pthread_mutex_lock(&mutex);
    t->next_spare = spares;
    spares = t;
    pthread_mutex_unlock(&mutex);
}

/* The root task of a thread belongs to a group that nobody closes, apart from thread_group(). */
static struct thread *thread_new(const char *name, task_fn *fn, void *arg)
{
    pthread_mutex_lock(&mutex);
    struct thread *t = spares;
    if (t)
        spares = t->next_spare;
    pthread_mutex_unlock(&mutex);

    if (!t) {
        t = aligned_alloc(64, sizeof *t);
        must(t);
        memset(t, 0, sizeof *t);
        t->event_fd = -1;
    }
    /* All behind what other threads may still look at. */
    memset((char *)t + offsetof(struct thread, current), 0, sizeof *t - offsetof(struct thread, current));
    atomic_store(&t->posts, NULL);
    atomic_store(&t->joiner, NULL);
    list_init(&t->ready);
    list_init(&t->favoured);
    list_init(&t->all);
    t->epoll_fd = -1;
    t->root = (struct group){ .deadline = NEVER };
    t->group = (struct group){ .deadline = NEVER, .forget = true };
    snprintf(t->name, sizeof t->name, "%s", name);
    t->fn = fn;
    t->arg = arg;
    return t;
}

static err first_task(void *arg)
{
    struct thread *t = arg;
    t->result = t->fn(t->arg);
    t->result_note = *err_note;
    return t->result;
}

static void thread_begin(struct thread *t)
{
    sched_enter(t);
    if (!machine->threads) {
        struct epoll_event ev = { .events = EPOLLIN | EPOLLET };
        if (t->event_fd < 0)
            t->event_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
        t->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
        must(t->event_fd >= 0 && t->epoll_fd >= 0);
        must(epoll_ctl(t->epoll_fd, EPOLL_CTL_ADD, t->event_fd, &ev) == 0);
    }
    t->now = clock_now();
    must(group_spawn(&t->root, t->name, first_task, t) == OK);
}

static void joined(struct post *p) { task_wake(AROUND(p, struct joiner, post)->task, OK); }

void thread_ended(struct thread *t)
{
    mem_free(t->root.note);
    t->root.note = NULL;
    sched_close(t);
    struct joiner *j = atomic_exchange(&t->joiner, JOINER_ENDED);
    if (j)
        thread_post(j->task->thread, &j->post);
}

static void *thread_main(void *arg)
{
    struct thread *t = arg;
    pthread_setname_np(pthread_self(), t->name);
    thread_begin(t);
    sched_run(t);
    sched_enter(NULL);
    thread_ended(t);
    return NULL;
}

struct thread *thread_start(const char *name, task_fn *fn, void *arg)
{
    struct thread *t = thread_new(name, fn, arg);

    if (machine->threads) {
        struct thread *outer = here;
        struct err_note *note = err_note;
        thread_begin(t);
        here = outer;
        err_note = note;
        machine->threads->thread_started(t);
    } else {
        must(pthread_create(&t->pthread, NULL, thread_main, t) == 0);
    }
    return t;
}

err thread_join(struct thread *t)
{
    if (task_running()) {
        struct joiner j = { .post.run = joined, .task = task_self() }, *none = NULL;
        if (atomic_compare_exchange_strong(&t->joiner, &none, &j))
            task_wait_steady(j.task);
    }
    if (machine->threads)
        must(t->ended);
    else
        must(pthread_join(t->pthread, NULL) == 0);
    err e = t->result;
    if (e != OK)
        fail(e, "%.*s", (int)t->result_note.n, t->result_note.text);
    thread_spare(t);
    return e;
}

err task_main(task_fn *fn, void *arg)
{
    must(!here && !machine->threads);
    struct thread *t = thread_new("main", fn, arg);
    thread_begin(t);
    sched_run(t);
    struct err_note note = t->result_note;
    err e = t->result;
    sched_enter(NULL);
    thread_ended(t);
    thread_spare(t);
    if (e != OK)
        fail(e, "%.*s", (int)note.n, note.text);
    return e;
}

void task_forked(void)
{
    struct thread *t = here;

    if (t) {
        close(t->epoll_fd);
        close(t->event_fd);
        if (t->signal_io.thread)
            close(t->signal_io.fd);
    }
    for (t = spares; t; t = t->next_spare) {
        close(t->event_fd);
        t->event_fd = -1;
    }
    sched_enter(NULL);
}

void thread_post(struct thread *to, struct post *p)
{
    struct post *newest = atomic_load_explicit(&to->posts, memory_order_relaxed);
    do
        p->next = newest;
    while (!atomic_compare_exchange_weak(&to->posts, &newest, p));
    /* From here on `p` may be gone, and even the thread may have ended; only its event_fd and flag are for ever. */
    if (atomic_load(&to->sleeping) && atomic_exchange(&to->sleeping, false)) {
        uint64_t one = 1;
        must(write(to->event_fd, &one, sizeof one) == sizeof one || errno == EAGAIN);
    }
}

struct group *thread_group(void)
{
    must(here);
    return &here->group;
}
