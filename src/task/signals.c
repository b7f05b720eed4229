/* Signals, heard by a task through a signalfd. */
#include "task/inside.h"

#include <errno.h>
#include <sys/signalfd.h>
#include <unistd.h>

void signals_block(const int *signals, size_t n)
{
    sigset_t set;
    sigemptyset(&set);
    for (size_t i = 0; i < n; i++)
        sigaddset(&set, signals[i]);
    must(pthread_sigmask(SIG_BLOCK, &set, NULL) == 0);
}

void sched_signal(struct thread *t, int number)
{
    struct thread *outer = here;
    here = t;
    t->signals_pending |= UINT64_C(1) << number;
    waiters_wake_all(&t->signal_waiters);
    here = outer;
}

static err wait_simulated(const int *signals, size_t n, when deadline, int *ret)
{
    struct thread *t = here;

    for (;;) {
        for (size_t i = 0; i < n; i++) {
            uint64_t bit = UINT64_C(1) << signals[i];
            if (t->signals_pending & bit) {
                t->signals_pending &= ~bit;
                *ret = signals[i];
                return OK;
            }
        }
        TRY(waiters_wait(&t->signal_waiters, deadline));
    }
}

/* One signalfd a thread, made to hear what is asked for now. */
static err open_for(struct thread *t, const int *signals, size_t n)
{
    sigset_t set;
    bool new = !t->signal_io.thread;

    sigemptyset(&set);
    for (size_t i = 0; i < n; i++)
        sigaddset(&set, signals[i]);
    int fd = signalfd(new ? -1 : t->signal_io.fd, &set, SFD_NONBLOCK | SFD_CLOEXEC);
    if (fd < 0)
        return fail_errno(errno, "signalfd");
    if (new)
        return io_add(&t->signal_io, fd);
    t->signal_io.readable = true; /* what another set left unheard */
    return OK;
}

err signals_wait(const int *signals, size_t n, when deadline, int *ret)
{
    struct thread *t = task_self()->thread;
    struct signalfd_siginfo info;

    if (machine->threads)
        return wait_simulated(signals, n, deadline, ret);
    TRY(open_for(t, signals, n));
    for (;;) {
        TRY(io_wait_readable(&t->signal_io, deadline));
        if (read(t->signal_io.fd, &info, sizeof info) == sizeof info) {
            *ret = (int)info.ssi_signo;
            return OK;
        }
        if (errno != EAGAIN && errno != EINTR)
            return fail_errno(errno, "reading a signal");
        if (errno == EAGAIN)
            t->signal_io.readable = false;
    }
}
