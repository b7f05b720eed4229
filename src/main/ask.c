/* Questions to the threads from outside of them: a post each, and an answer that is waited for, but not longer than told. A thread is never
 * held up for long: its lanes are looked at in pieces. */
#include "main/relay.h"

#include <stdio.h>
#include <time.h>

#define PIECE 512   /* lanes at a time */

struct asking;
struct question {
    struct post post;
    struct asking *of;
    struct worker *w;               /* NULL: the relay's own thread */
    size_t lane;                    /* the next */
    struct thread_figures f;
};
struct asking {
    pthread_mutex_t lock;
    pthread_cond_t told;
    unsigned left, holders;         /* threads that have not answered; those and who asks */
    bool figures;
    unsigned n;
    struct question question[];
};

static void asking_drop(struct asking *a)
{
    pthread_mutex_lock(&a->lock);
    bool last = --a->holders == 0;
    pthread_mutex_unlock(&a->lock);
    if (!last)
        return;
    pthread_cond_destroy(&a->told);
    pthread_mutex_destroy(&a->lock);
    mem_free(a);
}

static void question_end(struct question *q)
{
    struct asking *a = q->of;

    pthread_mutex_lock(&a->lock);
    q->f.answered = true;
    a->left--;
    pthread_cond_signal(&a->told);
    pthread_mutex_unlock(&a->lock);
    asking_drop(a);
}

static uint64_t fullness(const struct lane_figures *l) { return l->n[0] + l->n[1] + l->n[2]; }

/* Keep the fullest, and a backend before a site of the same. */
static void figures_add(struct thread_figures *f, const struct lane *lane)
{
    struct lane_figures l = { .kind = lane->kind, .n = { lane->nready, lane->nwaiting, lane->nflying }, .down = lane->state == LANE_DOWN };
    struct lane_figures *least = NULL;

    f->lanes_down += l.down;
    if (f->nlane < LANES_TOLD) {
        least = &f->lane[f->nlane++];
    } else {
        for (size_t i = 0; i < f->nlane; i++)
            if (!least || fullness(&f->lane[i]) < fullness(least))
                least = &f->lane[i];
        bool better = fullness(&l) > fullness(least) || (fullness(&l) == fullness(least) && l.kind == LANE_BACKEND && least->kind != LANE_BACKEND);
        const struct lane_figures *out = better ? least : &l;
        for (size_t i = 0; i < COUNT(l.n); i++)
            f->other[i] += out->n[i];
        if (!better)
            return;
    }
    snprintf(l.name, sizeof l.name, "%.*s", STR(str_head(lane->name, sizeof l.name - 1)));
    *least = l;
}

static void question_arrived(struct post *p)
{
    struct question *q = AROUND(p, struct question, post);
    struct worker *w = q->w;

    if (!w || !q->of->figures || w->ending || !w->dispatch) {
        question_end(q);
        return;
    }
    struct lane *lane = NULL;
    for (size_t i = 0; i < PIECE && (lane = queue_lane(w->queue, q->lane)); i++, q->lane++)
        figures_add(&q->f, lane);
    if (lane) {
        thread_post(w->thread, &q->post);
        return;
    }
    while (queue_suspension(w->queue, q->f.suspended))
        q->f.suspended++;
    q->f.queue = queue_totals(w->queue);
    q->f.sessions = reception_sessions(w->reception);
    q->f.connections = dispatch_connections(w->dispatch);
    q->f.stats = thread_stats();
    question_end(q);
}

static void wait_for_answers(struct asking *a, when deadline)
{
    struct timespec until = { .tv_sec = deadline / SECOND, .tv_nsec = deadline % SECOND * 1000 };

    pthread_mutex_lock(&a->lock);
    while (a->left && pthread_cond_timedwait(&a->told, &a->lock, &until) == 0)
        ;
    pthread_mutex_unlock(&a->lock);
}

struct thread_figures *ask_threads(struct relay *r, bool figures, when deadline)
{
    unsigned n = r->nworker + 1;
    pthread_condattr_t attr;

    pthread_mutex_lock(&r->asking);
    if (r->unasked) {
        pthread_mutex_unlock(&r->asking);
        return NULL;
    }
    struct asking *a = mem_new(sizeof *a + n * sizeof a->question[0]);
    pthread_mutex_init(&a->lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&a->told, &attr);
    pthread_condattr_destroy(&attr);
    a->left = n;
    a->holders = n + 1;
    a->n = n;
    a->figures = figures;
    for (unsigned i = 0; i < n; i++) {
        struct question *q = &a->question[i];
        q->of = a;
        q->post.run = question_arrived;
        q->w = i < r->nworker ? &r->worker[i] : NULL;
        thread_post(q->w ? q->w->thread : r->thread, &q->post);
    }
    wait_for_answers(a, deadline);
    pthread_mutex_unlock(&r->asking);

    struct thread_figures *ret = mem_new(n * sizeof *ret);
    pthread_mutex_lock(&a->lock);
    for (unsigned i = 0; i < n; i++)
        if (a->question[i].f.answered) /* else it is being written just now */
            ret[i] = a->question[i].f;
    pthread_mutex_unlock(&a->lock);
    asking_drop(a);
    return ret;
}

/* Who waits in there waits for this thread too. */
void ask_end(struct relay *r)
{
    while (pthread_mutex_trylock(&r->asking) != 0)
        if (task_sleep(clock_now() + MILLISECOND) != OK)
            task_yield();
    r->unasked = true;
    pthread_mutex_unlock(&r->asking);
}
