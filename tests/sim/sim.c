/* Clock, randomness, and the chooser that steps all threads. */
#include "sim/inside.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

struct sim *sim;

/* ---- randomness: splitmix64, one state a purpose ---- */

uint64_t next_random(uint64_t *state)
{
    uint64_t z = *state += UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

static when between(uint64_t *state, when least, when most)
{
    return most > least ? least + (when)pick(state, (uint64_t)(most - least) + 1) : least;
}

uint64_t sim_random(uint64_t n) { return pick(&sim->scenario, n); }
when sim_between(when least, when most) { return between(&sim->scenario, least, most); }
bool sim_chance(unsigned n) { return pick(&sim->scenario, n) == 0; }
when device_between(when least, when most) { return between(&sim->device, least, most); }

static void seam_random(void *p, size_t n)
{
    for (char *at = p; n;) {
        uint64_t x = next_random(&sim->random);
        size_t part = MIN(n, sizeof x);
        memcpy(at, &x, part);
        at += part;
        n -= part;
    }
}

static when seam_now(void) { return sim->now; }
static when seam_wall(void) { return sim->now + sim->wall_ahead; }

/* ---- what happened ---- */

void mix(uint64_t x)
{
    sim->hash = (sim->hash ^ x) * UINT64_C(0x100000001b3);
    sim->hash ^= sim->hash >> 29;
}

void mix_bytes(const void *p, size_t n) { mix((uint64_t)n << 32 | crc32c(0, p, n)); }

uint64_t sim_hash(void) { return sim->hash; }
uint64_t sim_steps(void) { return sim->steps; }
bool sim_tracing(void) { return sim->setup.trace; }

void sim_tell(const char *fmt, ...)
{
    char text[1024];
    va_list ap;

    va_start(ap, fmt);
    int n = vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    n = MIN(MAX(n, 0), (int)sizeof text - 1);
    mix((uint64_t)sim->now);
    mix_bytes(text, (size_t)n);
    if (sim->setup.trace)
        fprintf(stderr, "%12.6f  %.*s\n", (double)sim->now / SECOND, n, text);
}

/* ---- events ---- */

void sim_at(struct sim_event *e, when moment) { heap_put(&sim->events, &e->at, MAX(moment, sim->now)); }
void sim_cancel(struct sim_event *e) { heap_del(&sim->events, &e->at); }

/* ---- descriptors ---- */

int fd_new(struct sock *s, struct file *f)
{
    size_t i = 0;

    if (sim->host == SIM_RELAY && sim->descriptors_most && sim->descriptors >= sim->descriptors_most)
        return -EMFILE;
    while (i < sim->nfd && (sim->fd[i].sock || sim->fd[i].file))
        i++;
    if (i == sim->nfd) {
        sim->nfd = sim->nfd ? sim->nfd * 2 : 64;
        sim->fd = mem_grow(sim->fd, sim->nfd * sizeof *sim->fd);
        memset(sim->fd + i, 0, (sim->nfd - i) * sizeof *sim->fd);
    }
    sim->fd[i] = (struct fd){ s, f, sim->host };
    sim->descriptors += sim->host == SIM_RELAY;
    return SIM_FD + (int)i;
}

void fd_free(int fd)
{
    struct fd *f = &sim->fd[fd - SIM_FD];

    sim->descriptors -= f->host == SIM_RELAY;
    *f = (struct fd){ 0 };
}

unsigned sim_descriptors_open(void) { return sim->descriptors; }

void sim_descriptors(unsigned most) { sim->descriptors_most = most; }

static int close_fd(int fd)
{
    must(fd >= SIM_FD && (size_t)(fd - SIM_FD) < sim->nfd);
    struct fd f = sim->fd[fd - SIM_FD];
    must(f.sock || f.file);     /* closed twice: on a real machine somebody else's by now */
    fd_free(fd);
    return f.sock ? net_close(f.sock) : disk_close(f.file);
}

/* ---- the seam of threads ---- */

static void thread_started(struct thread *t)
{
    must(sim->nthread < COUNT(sim->thread));
    sim->thread[sim->nthread++] = (struct sim_thread){ .t = t, .host = sim->host };
}

static void thread_freed(struct thread *t)
{
    for (size_t i = 0; i < sim->nthread; i++)
        if (sim->thread[i].t == t) {
            memmove(sim->thread + i, sim->thread + i + 1, (--sim->nthread - i) * sizeof sim->thread[0]);
            return;
        }
    must(!"a thread of ours");
}

static void pool_started(struct pool *p)
{
    must(sim->npool < COUNT(sim->pool));
    sim->pool[sim->npool++] = (struct sim_pool){ .p = p, .host = sim->host };
}

static void pool_stopped(struct pool *p)
{
    for (size_t i = 0; i < sim->npool; i++)
        if (sim->pool[i].p == p) {
            memmove(sim->pool + i, sim->pool + i + 1, (--sim->npool - i) * sizeof sim->pool[0]);
            return;
        }
    must(!"a pool of ours");
}

static const struct machine_threads sim_threads = {
    .thread_started = thread_started, .thread_freed = thread_freed, .pool_started = pool_started, .pool_stopped = pool_stopped,
    .io_added = net_io_added, .io_deleted = net_io_deleted,
};

enum sim_host sim_act_as(enum sim_host host)
{
    enum sim_host was = sim->host;
    sim->host = host;
    return was;
}

struct thread *sim_thread(enum sim_host host, const char *name, task_fn *fn, void *arg)
{
    enum sim_host was = sim_act_as(host);
    struct thread *t = thread_start(name, fn, arg);
    sim_act_as(was);
    return t;
}

struct thread *sim_thread_at(size_t i) { return i < sim->nthread ? sim->thread[i].t : NULL; }

/* ---- the chooser ---- */

struct option { enum { RUN_THREAD, RUN_JOB, RUN_EVENT, RUN_TELL } kind; uint16_t i; uint16_t what; };

static size_t options(struct option *o, size_t most, when *next)
{
    size_t n = 0;

    for (size_t i = 0; i < sim->nthread; i++) {
        struct sim_thread *t = &sim->thread[i];
        if (sched_ended(t->t))
            continue;
        if (t->paused > sim->now) {
            *next = MIN(*next, t->paused);
            continue;
        }
        unsigned can = sched_can(t->t);
        for (unsigned bit = SCHED_TASK; bit <= SCHED_TIMER; bit <<= 1)
            if (can & bit)
                o[n++] = (struct option){ RUN_THREAD, (uint16_t)i, (uint16_t)bit };
        *next = MIN(*next, sched_next_timer(t->t));
    }
    for (size_t i = 0; i < sim->npool; i++)
        for (size_t j = 0; j < MIN(pool_pending(sim->pool[i].p), 8) && n < most - 2; j++)
            o[n++] = (struct option){ RUN_JOB, (uint16_t)i, (uint16_t)j };
    struct heap_entry *e = heap_least(&sim->events);
    if (e && e->key <= sim->now)
        o[n++] = (struct option){ .kind = RUN_EVENT };
    else if (e)
        *next = MIN(*next, e->key);
    if (net_can_tell())
        o[n++] = (struct option){ .kind = RUN_TELL };
    return n;
}

static void run(struct option o)
{
    mix((uint64_t)o.kind << 32 | (uint64_t)o.i << 16 | o.what);
    switch (o.kind) {
    case RUN_THREAD:
        sim->host = sim->thread[o.i].host;
        sched_step(sim->thread[o.i].t, (enum sched_can)o.what);
        break;
    case RUN_JOB:
        sim->host = sim->pool[o.i].host;
        pool_step(sim->pool[o.i].p, o.what);
        break;
    case RUN_EVENT: {
        struct sim_event *e = AROUND(heap_least(&sim->events), struct sim_event, at);
        sim_cancel(e);
        e->run(e);
        break;
    }
    case RUN_TELL:
        net_tell();
        break;
    }
    sim->host = SIM_OUTSIDE;
}

/* Now and then a thread stands still, as when the kernel gives its processor to another. */
static void unrest(void)
{
    if (sim->setup.unrest && pick(&sim->chooser, 4096) == 0)
        sim->thread[pick(&sim->chooser, sim->nthread)].paused = sim->now + (when)pick(&sim->chooser, 20 * MILLISECOND);
}

bool sim_step(void)
{
    struct option o[COUNT(sim->thread) * 3 + COUNT(sim->pool) * 8 + 2];
    when next = NEVER;
    size_t n = options(o, COUNT(o), &next);

    if (!n) {
        if (next == NEVER)
            return false;
        must(next > sim->now);
        sim->now = next;
        mix((uint64_t)next);
        return true;
    }
    sim->steps++;
    sim->now += (when)pick(&sim->chooser, 3);
    unrest();
    run(o[pick(&sim->chooser, n)]);
    return true;
}

void sim_until(when moment)
{
    while (sim->now < moment && sim_step())
        ;
}

/* ---- the program's globals ----
 *
 * A crash is the end of a process, and the next one begins with the globals that the linker gave it. So they are copied at the
 * beginning and put back. What the simulator knows is on the heap and not touched; the C library's own lie elsewhere. */

extern char __data_start[], _end[];

struct image { size_t n; char bytes[]; };

/* Not memcpy(): between the variables lies what a sanitizer forbids to touch. */
__attribute__((no_sanitize("address", "undefined"), noinline)) static void copy(volatile char *to, const volatile char *from, size_t n)
{
    for (size_t i = 0; i + 8 <= n; i += 8)
        *(volatile uint64_t *)(volatile void *)(to + i) = *(const volatile uint64_t *)(const volatile void *)(from + i);
}

static size_t globals(void) { return (size_t)(_end - __data_start) & ~(size_t)7; }

static void image_take(void)
{
    sim->image = malloc(sizeof *sim->image + globals());
    must(sim->image);
    sim->image->n = globals();
    copy(sim->image->bytes, __data_start, globals());
}

void sim_crash(enum sim_crash how)
{
    sim_tell("crash: %s", how == SIM_KILL ? "killed" : "power cut");
    for (size_t i = sim->nthread; i-- > 0;)
        if (sim->thread[i].host == SIM_RELAY)
            sched_drop(sim->thread[i].t); /* leaves our list by thread_freed() */
    for (size_t i = sim->npool; i-- > 0;)
        if (sim->pool[i].host == SIM_RELAY)
            pool_stopped(sim->pool[i].p);
    names_crash();
    net_crash(how);
    disk_crash(how);
    copy(__data_start, sim->image->bytes, sim->image->n);
}

/* ---- begin and end ---- */

static struct machine sim_machine;

static void machine_make(void)
{
    const struct machine *n = &net_machine;

    sim_machine = disk_machine;
    sim_machine.sock_open = n->sock_open;
    sim_machine.sock_bind = n->sock_bind;
    sim_machine.sock_listen = n->sock_listen;
    sim_machine.sock_accept = n->sock_accept;
    sim_machine.sock_connect = n->sock_connect;
    sim_machine.sock_error = n->sock_error;
    sim_machine.sock_name = n->sock_name;
    sim_machine.sock_option = n->sock_option;
    sim_machine.sock_recv = n->sock_recv;
    sim_machine.sock_send = n->sock_send;
    sim_machine.sock_shutdown = n->sock_shutdown;
    sim_machine.close = close_fd;
    sim_machine.threads = &sim_threads;
}

void sim_begin(const struct sim_setup *setup)
{
    must(!sim);
    sim = mem_new(sizeof *sim);
    sim->setup = *setup;
    sim->now = 1000 * SECOND;
    sim->wall_ahead = (setup->wall ? setup->wall : (when)1795000000 * SECOND) - sim->now;
    uint64_t seed = setup->seed;
    sim->chooser = next_random(&seed);
    sim->scenario = next_random(&seed);
    sim->device = next_random(&seed);
    sim->random = next_random(&seed);
    sim->hash = setup->seed;
    base_seam.now = seam_now;
    base_seam.wall = seam_wall;
    base_seam.random = seam_random;
    str_hash_seed(next_random(&seed), next_random(&seed));
    machine_make();
    sim_install(&sim_machine);
    net_begin();
    names_begin();
    disk_begin();
    image_take();
}

void sim_end(void)
{
    must(sim->nthread == 0);
    net_end();
    names_end();
    disk_end();
    heap_free(&sim->events);
    mem_free(sim->fd);
    free(sim->image);
    mem_free(sim);
    sim = NULL;
    sim_install(NULL);
}

void sim_wall_jump(when by) { sim->wall_ahead += by; }
