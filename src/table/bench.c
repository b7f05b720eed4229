/* Where libraries that block, or want a large stack, have room to: plain threads, a few to a source, so that one that stands still
 * holds up no other. */
#include "table/inside.h"

void bench_run(struct bench *b, const char *name, unsigned threads, void (*fn)(void *arg), void *arg)
{
    pthread_mutex_lock(&b->lock);
    if (!b->pool)
        b->pool = pool_start(name, threads);
    struct pool *pool = b->pool;
    pthread_mutex_unlock(&b->lock);
    work_run(pool, fn, arg);
}

void bench_end(struct bench *b)
{
    if (b->pool)
        pool_stop(b->pool);
    b->pool = NULL;
}

void bench_once(void (*fn)(void *arg), void *arg)
{
    if (!task_running()) {
        fn(arg);
        return;
    }
    struct pool *pool = pool_start("settings", 1);
    work_run(pool, fn, arg);
    pool_stop(pool);
}
