/* Readiness: epoll tells each change once, and we remember it. */
#include "task/inside.h"

#include <errno.h>
#include <sys/epoll.h>
#include <time.h>
#include <unistd.h>

#define EVENTS 128              /* told by one call, */
#define ROUNDS 32               /* and so many calls in a row */

static err epoll_add(struct io *io, uint32_t events)
{
    struct epoll_event ev = { .events = events, .data.ptr = io };
    if (epoll_ctl(io->thread->epoll_fd, EPOLL_CTL_ADD, io->fd, &ev) < 0)
        return fail_errno(errno, "adding a descriptor to epoll");
    return OK;
}

err io_add(struct io *io, int fd)
{
    must(here);
    *io = (struct io){ .fd = fd, .readable = true, .writable = true, .thread = here };
    if (machine->threads) {
        machine->threads->io_added(io);
        return OK;
    }
    return epoll_add(io, EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET);
}

#define SHARED_EVENTS (EPOLLIN | EPOLLEXCLUSIVE)

err io_add_shared(struct io *io, int fd)
{
    must(here);
    *io = (struct io){ .fd = fd, .shared = true, .thread = here };
    if (machine->threads) {
        machine->threads->io_added(io);
        return OK;
    }
    return epoll_add(io, SHARED_EVENTS);
}

void io_del(struct io *io)
{
    if (!io->thread)
        return;
    must(io->thread == here);
    must(!io->reader && !io->writer);
    if (machine->threads)
        machine->threads->io_deleted(io);
    else if (!io->parked)
        epoll_ctl(io->thread->epoll_fd, EPOLL_CTL_DEL, io->fd, NULL); /* a duplicate elsewhere would keep it in */
    io->thread = NULL;
}

void sched_io_ready(struct io *io, bool readable, bool writable, bool hangup)
{
    struct thread *outer = here;

    here = io->thread;          /* a simulated network may stand in the step of another thread */
    io->readable |= readable;
    io->writable |= writable;
    io->hangup |= hangup;
    if (readable && io->reader)
        task_wake(io->reader, OK);
    if (writable && io->writer)
        task_wake(io->writer, OK);
    here = outer;
}

static void told(struct io *io, uint32_t events)
{
    bool broken = events & (EPOLLHUP | EPOLLERR);
    sched_io_ready(io, broken || (events & (EPOLLIN | EPOLLRDHUP)), broken || (events & EPOLLOUT),
                   broken || (events & EPOLLRDHUP));
    /* Level-triggered, and nobody here takes clients now: leave them to the other threads. */
    if (io->shared && !io->reader) {
        epoll_ctl(io->thread->epoll_fd, EPOLL_CTL_DEL, io->fd, NULL);
        io->parked = true;
    }
}

/* Kernels before 5.11 lack epoll_pwait2, and know milliseconds only. */
static int poll_once(int fd, struct epoll_event *ev, when timeout)
{
    static atomic_bool coarse;

    if (timeout <= 0)
        return epoll_wait(fd, ev, EVENTS, 0);
    if (timeout == NEVER)
        return epoll_wait(fd, ev, EVENTS, -1);
    if (!atomic_load_explicit(&coarse, memory_order_relaxed)) {
        struct timespec ts = { timeout / SECOND, timeout % SECOND * 1000 };
        int n = epoll_pwait2(fd, ev, EVENTS, &ts, NULL);
        if (n >= 0 || (errno != ENOSYS && errno != EPERM))
            return n;
        atomic_store_explicit(&coarse, true, memory_order_relaxed);
    }
    return epoll_wait(fd, ev, EVENTS, (int)MIN((timeout + MILLISECOND - 1) / MILLISECOND, HOUR / MILLISECOND));
}

/* The kernel tells of descriptors in the order in which they became ready: of the last only when all before it were asked for. */
int io_poll(struct thread *t, when timeout)
{
    struct epoll_event ev[EVENTS];
    int all = 0, n;

    do {
        n = poll_once(t->epoll_fd, ev, all ? 0 : timeout);
        must(n >= 0 || errno == EINTR);
        /* No task runs in between, so none of these can be deleted before its turn. */
        for (int i = 0; i < n; i++)
            if (ev[i].data.ptr) /* NULL: the eventfd; edge-triggered, so nobody needs to read it */
                told(ev[i].data.ptr, ev[i].events);
        all += n > 0 ? n : 0;
    } while (n == EVENTS && all < EVENTS * ROUNDS);
    return all;
}

static err io_wait(struct io *io, struct task **who, bool *flag, when deadline, const char *what)
{
    struct task *me = task_self();

    must(io->thread == me->thread);
    if (me->canceled)
        return task_told(E_CANCELED, what);
    if (*flag)
        return OK;
    must(!*who);                /* one reads, one writes */
    *who = me;
    err e = task_wait(me, deadline);
    *who = NULL;
    return task_told(e, what);
}

/* Level-triggered epoll tells of a shared io again and again, so one telling is one turn. */
static err shared_wait(struct io *io, when deadline)
{
    if (io->parked) {
        io->readable = false;
        TRY(epoll_add(io, SHARED_EVENTS));
        io->parked = false;
    }
    TRY(io_wait(io, &io->reader, &io->readable, deadline, "waiting for a client"));
    io->readable = false;
    return OK;
}

err io_wait_readable(struct io *io, when deadline)
{
    if (io->shared && !machine->threads)
        return shared_wait(io, deadline);
    return io_wait(io, &io->reader, &io->readable, deadline, "waiting to hear");
}

err io_wait_writable(struct io *io, when deadline)
{
    return io_wait(io, &io->writer, &io->writable, deadline, "waiting to send");
}
