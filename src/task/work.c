/* Pools of plain threads for what blocks or takes long. */
#include "task/inside.h"

#include <stdio.h>

struct job {
    struct post post;
    struct link queued;
    struct task *task;
    struct thread *home;        /* of the task */
    void (*fn)(void *arg);
    void *arg;
};

struct pool {
    pthread_mutex_t mutex;
    pthread_cond_t more;
    struct link jobs;           /* under the mutex, as what follows */
    size_t n;
    unsigned idle;
    bool stopping;
    char name[16];
    unsigned threads;
    pthread_t pthread[];
};

static void job_done(struct post *p)
{
    struct job *j = AROUND(p, struct job, post);
    task_wake(j->task, OK);
}

/* The task stands still meanwhile, so its note is free to take the text of what fails here. Once the post is on its way
 * the job may be gone. */
static void job_run(struct job *j)
{
    struct err_note *outer = err_note;
    err_note = &j->task->note;
    j->fn(j->arg);
    err_note = outer;
    thread_post(j->home, &j->post);
}

static void *worker(void *arg)
{
    struct pool *p = arg;
    pthread_setname_np(pthread_self(), p->name);
    pthread_mutex_lock(&p->mutex);
    for (;;) {
        while (!p->n && !p->stopping) {
            p->idle++;
            pthread_cond_wait(&p->more, &p->mutex);
            p->idle--;
        }
        if (!p->n)
            break;
        struct job *j = AROUND(p->jobs.next, struct job, queued);
        list_del(&j->queued);
        p->n--;
        pthread_mutex_unlock(&p->mutex);
        job_run(j);
        pthread_mutex_lock(&p->mutex);
    }
    pthread_mutex_unlock(&p->mutex);
    return NULL;
}

struct pool *pool_start(const char *name, unsigned threads)
{
    struct pool *p = mem_new(sizeof *p + threads * sizeof p->pthread[0]);
    must(threads > 0);
    snprintf(p->name, sizeof p->name, "%s", name);
    list_init(&p->jobs);
    pthread_mutex_init(&p->mutex, NULL);
    pthread_cond_init(&p->more, NULL);
    if (machine->threads) {
        machine->threads->pool_started(p);
        return p;
    }
    for (; p->threads < threads; p->threads++)
        must(pthread_create(&p->pthread[p->threads], NULL, worker, p) == 0);
    return p;
}

void pool_stop(struct pool *p)
{
    pthread_mutex_lock(&p->mutex);
    must(p->n == 0);
    p->stopping = true;
    pthread_cond_broadcast(&p->more);
    pthread_mutex_unlock(&p->mutex);
    for (unsigned i = 0; i < p->threads; i++)
        pthread_join(p->pthread[i], NULL);
    if (machine->threads)
        machine->threads->pool_stopped(p);
    pthread_cond_destroy(&p->more);
    pthread_mutex_destroy(&p->mutex);
    mem_free(p);
}

void work_run(struct pool *p, void (*fn)(void *arg), void *arg)
{
    if (!task_running()) {
        fn(arg);
        return;
    }
    struct task *me = task_self();
    struct job j = { .post.run = job_done, .task = me, .home = me->thread, .fn = fn, .arg = arg };

    pthread_mutex_lock(&p->mutex);
    must(!p->stopping);
    list_add(&p->jobs, &j.queued);
    p->n++;
    bool wake = p->idle > 0;
    pthread_mutex_unlock(&p->mutex);
    if (wake)
        pthread_cond_signal(&p->more);
    task_wait_steady(me);
}

size_t pool_pending(const struct pool *p) { return p->n; }
const char *pool_name(const struct pool *p) { return p->name; }

void pool_step(struct pool *p, size_t which)
{
    struct thread *outer = here;
    struct link *l = p->jobs.next;

    must(machine->threads && which < p->n && (!outer || !outer->current));
    while (which--)
        l = l->next;
    list_del(l);
    p->n--;
    here = NULL;                /* a pool's thread has no scheduler */
    job_run(AROUND(l, struct job, queued));
    here = outer;
}
