/* The parent: forks workers, passes signals on, opens sockets for them, and puts a new one in the place of one that died.
 * It has one thread and no tasks; what it hears from a worker it does not trust. */
#include "main/inside.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAUSE (100 * MILLISECOND)
#define PAUSE_MOST (10 * SECOND)
#define GOOD_WHILE MINUTE               /* a worker that lived so long owes nothing to earlier crashes */
#define STOP_PATIENCE (2 * MINUTE)
#define ANSWER_PATIENCE (10 * SECOND)

/* ---- what goes between the two: one packet a request, one an answer ---- */

enum ask { ASK_LISTEN, ASK_UNLISTEN, ASK_NOTIFY };
struct asked { uint32_t ask, n; union { struct addr at; char text[512]; }; };
struct told { uint32_t e, n; char text[sizeof(((struct err_note *)0)->text)]; };

static size_t request_size(const struct asked *r) { return offsetof(struct asked, text) + r->n; }

static bool request_whole(const struct asked *r, size_t n)
{
    if (n < offsetof(struct asked, text) || r->n > sizeof r->text || n != request_size(r))
        return false;
    if (r->ask == ASK_NOTIFY)
        return r->n < sizeof r->text;
    if (r->n != sizeof r->at)
        return false;
    switch (r->at.sa.sa_family) {
    case AF_INET: return r->at.n == sizeof r->at.v4;
    case AF_INET6: return r->at.n == sizeof r->at.v6;
    case AF_UNIX: return r->at.n > offsetof(struct sockaddr_un, sun_path) && r->at.n <= sizeof r->at.un && !((const char *)&r->at)[r->at.n - 1];
    default: return false;
    }
}

static ssize_t send_with(int fd, const void *p, size_t n, int pass)
{
    union { struct cmsghdr head; char room[CMSG_SPACE(sizeof(int))]; } c = { 0 };
    struct iovec iov = { (void *)p, n };
    struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1 };

    if (pass >= 0) {
        m.msg_control = &c;
        m.msg_controllen = sizeof c.room;
        c.head = (struct cmsghdr){ .cmsg_len = CMSG_LEN(sizeof(int)), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS };
        memcpy(CMSG_DATA(&c.head), &pass, sizeof pass);
    }
    return sendmsg(fd, &m, MSG_NOSIGNAL | MSG_DONTWAIT);
}

/* *pass: the descriptor that came along, or -1. */
static ssize_t recv_with(int fd, void *p, size_t n, int *pass)
{
    union { struct cmsghdr head; char room[CMSG_SPACE(sizeof(int))]; } c = { 0 };
    struct iovec iov = { p, n };
    struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &c, .msg_controllen = sizeof c.room };

    *pass = -1;
    ssize_t got = recvmsg(fd, &m, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    if (got > 0 && m.msg_controllen >= CMSG_LEN(sizeof(int)) && c.head.cmsg_level == SOL_SOCKET && c.head.cmsg_type == SCM_RIGHTS)
        memcpy(pass, CMSG_DATA(&c.head), sizeof *pass);
    return got;
}

/* ---- the worker's side ---- */

/* Lines longer than a packet are cut: a status is for people. */
void parent_tell(int parent_fd, const char *state)
{
    struct asked r = { .ask = ASK_NOTIFY };

    r.n = (uint32_t)MIN(strlen(state), sizeof r.text - 1);
    memcpy(r.text, state, r.n);
    send_with(parent_fd, &r, request_size(&r), -1);
}

static struct asked about(enum ask ask, const struct addr *at)
{
    return (struct asked){ .ask = ask, .n = sizeof *at, .at = *at };
}

void parent_unlisten(int parent_fd, const struct addr *at)
{
    struct asked r = about(ASK_UNLISTEN, at);

    if (parent_fd >= 0)
        send_with(parent_fd, &r, request_size(&r), -1);
}

static err hear_answer(struct io *io, int *ret_fd)
{
    struct told a;
    int fd;

    for (;;) {
        TRY(during(io_wait_readable(io, clock_now() + ANSWER_PATIENCE), "the parent's answer"));
        ssize_t got = recv_with(io->fd, &a, sizeof a, &fd);
        if (got < 0 && errno == EAGAIN) {
            io->readable = false;
            continue;
        }
        if (got != sizeof a)
            return got < 0 ? fail_errno(errno, "the parent's answer") : fail(E_CLOSED, "the parent is gone");
        break;
    }
    if (fd >= 0) {
        *ret_fd = fd;
        return OK;
    }
    return fail(a.e && a.e < E_COUNT ? (err)a.e : E_IO, "%.*s", (int)MIN(a.n, sizeof a.text), a.text);
}

/* One at a time: only a reload asks, and reloads come one after the other. */
err parent_listen(int parent_fd, const struct addr *at, int *ret_fd)
{
    static atomic_bool busy;
    struct asked r = about(ASK_LISTEN, at);
    struct io io = { 0 };

    if (parent_fd < 0)
        return listen_open(at, ret_fd);
    must(!atomic_exchange(&busy, true));
    err e = io_add(&io, parent_fd);
    if (e == OK) {
        io.readable = false; /* epoll tells at once what is there */
        e = send_with(parent_fd, &r, request_size(&r), -1) < 0 ? fail_errno(errno, "asking the parent") : hear_answer(&io, ret_fd);
        io_del(&io);
    }
    atomic_store(&busy, false);
    return e;
}

/* ---- the parent's side ---- */

struct parent {
    const struct parent_setup *setup;
    int signal_fd, channel;
    pid_t pid;                          /* of the worker; 0: none */
    when born;
    unsigned workers;                   /* so far */
    bool ready;                         /* one of them was */
    when kill_at;                       /* told to end, and how long we wait for that; NEVER: not told */
    when pause;
};

static void answer_listen(struct parent *p, const struct addr *at)
{
    struct told a = { 0 };
    char text[ADDR_TEXT];
    int fd = -1;

    err e = p->setup->listen(p->setup->ctx, at, &fd);
    if (e != OK) {
        str why = err_text();
        a.e = (uint32_t)e;
        a.n = (uint32_t)why.n;
        memcpy(a.text, why.p, why.n);
        log_warn("listen_refused", LOG_STR("at", addr_print(at, text)), LOG_STR("why", why));
    }
    send_with(p->channel, &a, sizeof a, e == OK ? fd : -1);
}

static void end_soon(struct parent *p)
{
    if (p->kill_at == NEVER)
        p->kill_at = clock_now() + (p->setup->stop_patience ? p->setup->stop_patience : STOP_PATIENCE);
}

static void pass_on_notice(struct parent *p, const struct asked *r)
{
    char text[sizeof r->text];
    str rest = str_of(r->text, r->n), line;
    size_t n = 0;

    while (str_cut(&rest, S("\n"), &line)) {
        if (!notify_is_known(line))
            continue;
        p->ready |= str_eq(line, S("READY=1"));
        if (str_eq(line, S("STOPPING=1")))
            end_soon(p); /* an operator asked it to */
        n += (size_t)snprintf(text + n, sizeof text - n, "%s%.*s", n ? "\n" : "", STR(line));
    }
    if (n)
        notify_service(text);
}

/* Hear what the worker asks, all of it. False: the channel has ended. */
static bool hear_worker(struct parent *p)
{
    struct asked r;
    int sent;

    for (;;) {
        ssize_t got = recv_with(p->channel, &r, sizeof r, &sent);
        if (sent >= 0)
            close(sent); /* nobody asked for it */
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return got < 0 && errno == EAGAIN;
        if (!request_whole(&r, (size_t)got))
            continue;
        switch ((enum ask)r.ask) {
        case ASK_LISTEN: answer_listen(p, &r.at); break;
        case ASK_UNLISTEN: p->setup->unlisten(p->setup->ctx, &r.at); break;
        case ASK_NOTIFY: pass_on_notice(p, &r); break;
        }
    }
}

/* A terminal sends its signals to the worker too, which must not hear them twice: the second would mean haste. */
static void hear_signal(struct parent *p)
{
    struct signalfd_siginfo info;

    if (read(p->signal_fd, &info, sizeof info) != sizeof info)
        return;
    int number = (int)info.ssi_signo;
    if (number == SIGCHLD)
        return;
    if (number == SIGUSR1 && p->setup->reopen)
        p->setup->reopen(p->setup->ctx);
    if (number == SIGTERM || number == SIGINT)
        end_soon(p);
    if (p->pid && info.ssi_code != SI_KERNEL)
        kill(p->pid, number);
}

static int until_ms(when deadline)
{
    if (deadline == NEVER)
        return -1;
    return (int)MIN(MAX((deadline - clock_now() + MILLISECOND - 1) / MILLISECOND, 0), (when)3600000);
}

/* Serve the worker until it has ended; how it did, as waitpid() says. */
static int watch(struct parent *p)
{
    struct pollfd on[2] = { { .fd = p->signal_fd, .events = POLLIN }, { .fd = p->channel, .events = POLLIN } };
    int status;

    for (;;) {
        pid_t got = waitpid(p->pid, &status, WNOHANG);
        if (got == p->pid)
            break;
        must(got == 0 || errno == EINTR);
        if (p->kill_at != NEVER && clock_now() >= p->kill_at) {
            log_error("worker_killed", LOG_INT("pid", p->pid), LOG_Z("why", "it was told to end and did not"));
            kill(p->pid, SIGKILL);
            p->kill_at = clock_now() + STOP_PATIENCE;
        }
        poll(on, 2, until_ms(p->kill_at));
        if (on[0].revents)
            hear_signal(p);
        if (on[1].revents && !hear_worker(p))
            on[1].fd = -1;
    }
    hear_worker(p); /* what it said last */
    p->pid = 0;
    close(p->channel);
    p->channel = -1;
    return status;
}

/* Wait before the next start, or until told to end. */
static void rest(struct parent *p, when length)
{
    struct pollfd on = { .fd = p->signal_fd, .events = POLLIN };
    when until = clock_now() + length;

    while (clock_now() < until && p->kill_at == NEVER)
        if (poll(&on, 1, until_ms(until)) > 0)
            hear_signal(p);
}

/* ---- a worker's life ---- */

static pid_t my_parent; /* of a worker */

err parent_bond(void)
{
    if (!my_parent)
        return OK;
    if (prctl(PR_SET_PDEATHSIG, SIGTERM) < 0)
        return fail_errno(errno, "PR_SET_PDEATHSIG");
    return getppid() == my_parent ? OK : fail(E_CLOSED, "the parent is gone");
}

static int worker_main(struct parent *p, int channel, pid_t parent)
{
    close(p->signal_fd);
    my_parent = parent;
    if (parent_bond() != OK)
        return 1;
    sigset_t child;
    sigemptyset(&child);
    sigaddset(&child, SIGCHLD);
    sigprocmask(SIG_UNBLOCK, &child, NULL);
    notify_through(channel);
    return p->setup->worker(p->setup->ctx, channel);
}

static err start(struct parent *p)
{
    int pair[2];
    pid_t me = getpid();

    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair) < 0)
        return fail_errno(errno, "a socket pair");
    fflush(NULL);
    pid_t pid = fork();
    if (pid < 0) {
        close(pair[0]);
        close(pair[1]);
        return fail_errno(errno, "forking a worker");
    }
    if (pid == 0) {
        close(pair[0]);
        int code = worker_main(p, pair[1], me);
        fflush(NULL);
        _exit(code);
    }
    close(pair[1]);
    p->pid = pid;
    p->channel = pair[0];
    p->born = clock_now();
    p->workers++;
    log_info("worker_started", LOG_INT("pid", pid), LOG_INT("workers", p->workers));
    return OK;
}

/* What follows a worker's end: an exit code, or -1 for another one after p->pause. */
static int judge(struct parent *p, pid_t pid, int status)
{
    bool told = p->kill_at != NEVER;
    when most = p->setup->pause_most ? p->setup->pause_most : PAUSE_MOST;

    if (WIFEXITED(status) && WEXITSTATUS(status) == 0) {
        log_info("worker_ended", LOG_INT("pid", pid));
        return 0;
    }
    bool first = clock_now() - p->born >= GOOD_WHILE || !p->pause;
    p->pause = first ? (p->setup->pause ? p->setup->pause : PAUSE) : MIN(p->pause * 2, most);
    if (WIFSIGNALED(status)) {
        const char *name = sigabbrev_np(WTERMSIG(status));
        log_error("worker_crashed", LOG_INT("pid", pid), LOG_Z("signal", name ? name : "?"), LOG_INT("pause_ms", told ? 0 : p->pause / MILLISECOND));
        /* Who was killed from outside, or for want of memory, may not have been at fault. */
        if (WTERMSIG(status) != SIGKILL && WTERMSIG(status) != SIGTERM)
            crash_count();
        return told ? 1 : -1;
    }
    bool enough = told || !p->ready;
    log_error("worker_failed", LOG_INT("pid", pid), LOG_INT("code", WEXITSTATUS(status)), LOG_INT("pause_ms", enough ? 0 : p->pause / MILLISECOND));
    return enough ? WEXITSTATUS(status) : -1;
}

static int run(struct parent *p)
{
    for (;;) {
        err e = start(p);
        if (e == OK) {
            pid_t pid = p->pid;
            int code = judge(p, pid, watch(p));
            if (code >= 0)
                return code;
        } else {
            log_error("worker_not_started", LOG_STR("why", err_text()));
            p->pause = PAUSE_MOST;
            if (!p->workers)
                return 1;
        }
        notify_service("STATUS=the worker died, another one starts");
        rest(p, p->pause);
        if (p->kill_at != NEVER)
            return 1;
        if (p->setup->prepare)
            p->setup->prepare(p->setup->ctx);
    }
}

int parent_run(const struct parent_setup *setup)
{
    static const int heard[] = { SIGHUP, SIGTERM, SIGINT, SIGUSR1, SIGCHLD };
    struct parent p = { .setup = setup, .channel = -1, .kill_at = NEVER };
    sigset_t set;

    sigemptyset(&set);
    for (size_t i = 0; i < COUNT(heard); i++)
        sigaddset(&set, heard[i]);
    signal(SIGCHLD, SIG_DFL); /* ignored, it would leave us no status */
    signals_block(heard, COUNT(heard));
    p.signal_fd = signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC);
    must(p.signal_fd >= 0);
    crash_page_make();
    int code = run(&p);
    close(p.signal_fd);
    return code;
}
