#include "kit/kit.h"
#include "main/inside.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

/* The parent runs in a process of its own; its workers do what a test says, and leave notes in a shared page. */

struct notes {
    _Atomic int workers, prepared, reopened, told;
    _Atomic pid_t pid[32];              /* of the workers, in order */
    _Atomic int aside;                  /* messages that a worker found set aside */
    char text[16][256];                 /* what worker n has to say */
};
static struct notes *notes;
static struct sockets sockets;          /* the parent's */
static struct addr allowed;

static void say(int n, const char *text) { snprintf(notes->text[n], sizeof notes->text[n], "%s", text); }

static err listen_one(void *ctx, const struct addr *at, int *ret_fd)
{
    (void)ctx;
    if (!addr_eq(at, &allowed))
        return fail(E_PERM, "not that one");
    return sockets_get(&sockets, at, ret_fd);
}

static void unlisten_one(void *ctx, const struct addr *at)
{
    (void)ctx;
    sockets_drop(&sockets, at);
}

static void count_prepared(void *ctx)
{
    (void)ctx;
    notes->prepared++;
}

static void count_reopened(void *ctx)
{
    (void)ctx;
    notes->reopened++;
}

static void quiet(void *ctx, enum log_level level, str line) { (void)ctx, (void)level, (void)line; }

static pid_t parent_fork(int (*worker)(void *ctx, int parent_fd), when stop_patience)
{
    notes = mmap(NULL, sizeof *notes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    must(notes != MAP_FAILED);
    fflush(NULL);
    pid_t pid = fork();
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL); /* no test outlives its runner */
        log_start(&(struct log_setup){ .tap = quiet });
        _exit(parent_run(&(struct parent_setup){
            .worker = worker, .prepare = count_prepared, .listen = listen_one, .unlisten = unlisten_one, .reopen = count_reopened,
            .pause = MILLISECOND, .pause_most = 20 * MILLISECOND, .stop_patience = stop_patience }));
    }
    return pid;
}

static int parent_end(pid_t pid)
{
    int status = 0;

    must(waitpid(pid, &status, 0) == pid);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
}

/* Wait until a counter has reached `n`. */
static void until(_Atomic int *counter, int n)
{
    for (when end = clock_now() + 20 * SECOND; *counter < n && clock_now() < end; )
        usleep(500);
    CHECK_INT(*counter, n);
}

static int wait_signal(void)
{
    sigset_t set;
    int number = 0;

    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGHUP);
    sigaddset(&set, SIGUSR1);
    sigwait(&set, &number);
    return number;
}

static int begun(void)
{
    int n = notes->workers;
    notes->pid[n] = getpid();
    notes->workers++;
    return n;
}

/* ---- restarts ---- */

static _Noreturn void die(int number)
{
    signal(number, SIG_DFL); /* the sanitizers' and the kit's are not what this is about */
    raise(number);
    abort();
}

static int crash_twice(void *ctx, int fd)
{
    int n = begun();

    (void)ctx, (void)fd;
    if (n < 2)
        die(n ? SIGABRT : SIGSEGV);
    return wait_signal() == SIGTERM ? 0 : 3;
}

TEST(parent_replaces_a_worker_that_crashed)
{
    pid_t pid = parent_fork(crash_twice, 0);

    until(&notes->workers, 3);
    CHECK_INT(notes->prepared, 2);
    CHECK(notes->pid[0] != notes->pid[1] && notes->pid[1] != notes->pid[2]);
    kill(pid, SIGTERM);
    CHECK_INT(parent_end(pid), 0);
}

static int fail_at_once(void *ctx, int fd)
{
    (void)ctx, (void)fd;
    begun();
    return 7;
}

TEST(parent_gives_up_on_a_worker_that_never_was_ready)
{
    pid_t pid = parent_fork(fail_at_once, 0);

    CHECK_INT(parent_end(pid), 7);
    CHECK_INT(notes->workers, 1);
}

static int fail_when_ready(void *ctx, int fd)
{
    int n = begun();

    (void)ctx, (void)fd;
    if (n == 0) {
        notify_service("READY=1\nSTATUS=here\nMAINPID=1");
        return 7;
    }
    return 0;
}

TEST(parent_replaces_a_worker_that_failed_after_it_was_ready)
{
    pid_t pid = parent_fork(fail_when_ready, 0);

    until(&notes->workers, 2);
    CHECK_INT(parent_end(pid), 0);
}

static int die_while_stopping(void *ctx, int fd)
{
    (void)ctx, (void)fd;
    begun();
    notify_service("READY=1");
    notify_service("STOPPING=1\nSTATUS=an operator said so");
    die(SIGSEGV);
}

TEST(parent_replaces_no_worker_that_was_to_end)
{
    pid_t pid = parent_fork(die_while_stopping, 0);
    CHECK_INT(parent_end(pid), 1);
    CHECK_INT(notes->workers, 1);
}

/* ---- signals ---- */

static int hear_all(void *ctx, int fd)
{
    (void)ctx, (void)fd;
    begun();
    if (wait_signal() != SIGHUP)
        return 10;
    notes->told++;
    if (wait_signal() != SIGUSR1)
        return 11;
    notes->told++;
    return wait_signal() == SIGTERM ? 0 : 12;
}

TEST(parent_passes_signals_on)
{
    pid_t pid = parent_fork(hear_all, 0);

    until(&notes->workers, 1);
    kill(pid, SIGHUP);
    until(&notes->told, 1);
    kill(pid, SIGUSR1);
    until(&notes->told, 2);
    CHECK_INT(notes->reopened, 1);
    kill(pid, SIGTERM);
    CHECK_INT(parent_end(pid), 0);
}

/* Signals are read from a descriptor, between two things: however many come, nothing is interrupted in the middle of anything. */
static err hear_storm(void *arg)
{
    static const int heard[] = { SIGHUP, SIGUSR1, SIGTERM };
    AUTO_ARENA a = arena_new();
    int number = 0;

    (void)arg;
    while (number != SIGTERM) {
        TRY(signals_wait(heard, COUNT(heard), clock_now() + 20 * SECOND, &number));
        str s = str_printf(a, "%d", number); /* what a handler could not do */
        notes->told = notes->told + (s.n > 0);
    }
    return OK;
}

static int live_through_it(void *ctx, int fd)
{
    (void)ctx, (void)fd;
    begun();
    return task_main(hear_storm, NULL) == OK ? 0 : 1;
}

TEST(attack_56_signals_interrupt_nothing)
{
    pid_t pid = parent_fork(live_through_it, 0);

    until(&notes->workers, 1);
    for (int i = 0; i < 3000; i++)
        kill(i % 3 ? pid : notes->pid[0], i % 2 ? SIGHUP : SIGUSR1);
    for (int i = 0; i < 100 && notes->told < 2; i++)
        usleep(10000);
    kill(pid, SIGTERM);
    CHECK_INT(parent_end(pid), 0);
    CHECK_INT(notes->workers, 1);
    CHECK(notes->told >= 3 && notes->reopened > 0);
}

static int hear_nothing(void *ctx, int fd)
{
    (void)ctx, (void)fd;
    begun();
    while (pause() < 0)
        ;
    return 0;
}

TEST(parent_kills_a_worker_that_does_not_end)
{
    pid_t pid = parent_fork(hear_nothing, 100 * MILLISECOND);

    until(&notes->workers, 1);
    kill(pid, SIGTERM);
    CHECK_INT(parent_end(pid), 1);
}

/* A worker whose parent was killed ends too: else it would hold spool and ports against the next relay. */
static int outlive(void *ctx, int fd)
{
    (void)ctx, (void)fd;
    begun();
    notes->told = wait_signal() == SIGTERM;
    return 0;
}

TEST(parent_that_is_killed_takes_its_worker_along)
{
    pid_t pid = parent_fork(outlive, 0);

    until(&notes->workers, 1);
    usleep(20000);
    kill(pid, SIGKILL);
    int status;
    CHECK_INT(waitpid(pid, &status, 0), pid);
    until(&notes->told, 1);
}

/* ---- listening sockets ---- */

static struct addr loopback(uint16_t port)
{
    struct addr a;
    must(addr_parse(S("127.0.0.1:0"), 1, &a) == OK);
    addr_set_port(&a, port);
    return a;
}

static uint16_t port_of(int fd)
{
    struct sockaddr_in sin;
    socklen_t n = sizeof sin;
    must(getsockname(fd, (struct sockaddr *)&sin, &n) == 0);
    return ntohs(sin.sin_port);
}

static uint16_t port;
static int held_fd;

/* Each worker serves one client and dies. */
static int serve_one(void *ctx, int fd)
{
    struct pollfd p = { .fd = held_fd, .events = POLLIN };

    (void)ctx, (void)fd;
    int n = begun();
    if (n == 20)
        return 0;
    if (poll(&p, 1, 20000) == 1) {
        int client = accept(held_fd, NULL, NULL);
        ssize_t ignored = write(client, "hello", 5);
        (void)ignored;
        close(client);
    }
    die(SIGSEGV);
}

TEST(parent_holds_its_sockets_so_that_no_client_is_refused)
{
    struct addr at = loopback(0);

    CHECK_ERR(listen_open(&at, &held_fd), OK);
    port = port_of(held_fd);
    at = loopback(port);
    pid_t pid = parent_fork(serve_one, 0);
    close(held_fd); /* what keeps it open is the parent */
    for (int i = 0; i < 20; i++) {
        char text[8] = { 0 };
        int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        struct timeval patience = { .tv_sec = 20 };
        setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
        CHECK_INT(connect(fd, &at.sa, at.n), 0);
        CHECK_INT(read(fd, text, sizeof text), 5);
        close(fd);
    }
    CHECK_INT(parent_end(pid), 0);
}

static err ask_parent(void *channel)
{
    int fd = -1, parent_fd = *(int *)channel;
    struct addr other = loopback(1);

    if (parent_listen(parent_fd, &other, &fd) != E_PERM || !str_has(err_text(), S("not that one")))
        return fail(E_IO, "the other one: %.*s", STR(err_text()));
    TRY(parent_listen(parent_fd, &allowed, &fd));
    if (!(fcntl(fd, F_GETFD) & FD_CLOEXEC) || !(fcntl(fd, F_GETFL) & O_NONBLOCK) || port_of(fd) != addr_port(&allowed))
        return fail(E_IO, "not the socket we wanted");
    close(fd);
    /* It is still open in the parent, and the same. */
    TRY(parent_listen(parent_fd, &allowed, &fd));
    close(fd);
    parent_unlisten(parent_fd, &allowed);
    if (parent_listen(parent_fd, &other, &fd) != E_PERM) /* comes after it */
        return fail(E_IO, "still the other one");
    fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    int got = connect(fd, &allowed.sa, allowed.n);
    close(fd);
    return got == 0 ? fail(E_IO, "it still listens") : OK;
}

static int ask_it(void *ctx, int fd)
{
    (void)ctx;
    begun();
    err e = task_main(ask_parent, &fd);
    if (e != OK)
        say(0, err_text().p);
    return e == OK ? 0 : 5;
}

TEST(parent_opens_what_a_reload_brought)
{
    int fd;
    struct addr any = loopback(0);

    CHECK_ERR(listen_open(&any, &fd), OK); /* a port that is free for a while */
    allowed = loopback(port_of(fd));
    close(fd);
    pid_t pid = parent_fork(ask_it, 0);
    CHECK_INT(parent_end(pid), 0);
    CHECK_STR(str_z(notes->text[0]), S(""));
}

/* What no worker of ours would say. */
static int talk_nonsense(void *ctx, int fd)
{
    static const char packets[][8] = { "", "x", "\1\0\0\0\7", "\0\0\0\0\377\377\377", "\2\0\0\0\377", "\7\0\0\0\0\0\0" };

    (void)ctx;
    begun();
    for (size_t i = 0; i < COUNT(packets); i++)
        send(fd, packets[i], sizeof packets[i], MSG_NOSIGNAL);
    for (int i = 0; i < 50; i++) {
        char noise[600];
        random_bytes(noise, sizeof noise);
        noise[0] = (char)(i % 4);
        memset(noise + 1, 0, 3);
        send(fd, noise, 8 + random_below(sizeof noise - 8), MSG_NOSIGNAL);
    }
    return 0;
}

TEST(parent_believes_no_worker)
{
    pid_t pid = parent_fork(talk_nonsense, 0);
    CHECK_INT(parent_end(pid), 0);
}

/* ---- messages present at crashes ---- */

static const ulid bad = { { 1, 2, 3 } }, good = { { 4, 5, 6 } };

static int crash_on_bad(void *ctx, int fd)
{
    int n = begun();

    (void)ctx, (void)fd;
    crash_thread(0);
    crash_thread(5);
    if (crash_set_aside(bad)) {
        notes->aside = crash_set_aside(good) ? 2 : 1;
        return n == 2 ? 0 : 9;
    }
    if (n == 0)
        crash_note(0, good); /* was there once, which is chance */
    else
        crash_note(0, (ulid){ 0 });
    crash_note(5, bad);
    crash_note(CRASH_THREADS, good);
    die(SIGBUS);
}

TEST(parent_sets_a_message_aside_that_was_present_at_two_crashes)
{
    pid_t pid = parent_fork(crash_on_bad, 0);

    CHECK_INT(parent_end(pid), 0);
    CHECK_INT(notes->workers, 3);
    CHECK_INT(notes->aside, 1);
}

/* ---- the service manager ---- */

TEST(notify_tells_the_service_manager)
{
    char path[100], text[64] = { 0 };
    struct sockaddr_un un = { .sun_family = AF_UNIX };
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

    snprintf(path, sizeof path, "%s/notify", kit_dir());
    snprintf(un.sun_path, sizeof un.sun_path, "%s", path);
    CHECK_INT(bind(fd, (struct sockaddr *)&un, sizeof un), 0);
    setenv("NOTIFY_SOCKET", path, 1);
    setenv("WATCHDOG_USEC", "3000000", 1);
    notify_begin();
    notify_service("READY=1");
    CHECK_INT(read(fd, text, sizeof text), 7);
    CHECK_STR(str_z(text), S("READY=1"));
    CHECK_INT(notify_watchdog(), 1500 * MILLISECOND);
    setenv("WATCHDOG_PID", "1", 1); /* somebody else's */
    notify_begin();
    CHECK_INT(notify_watchdog(), 0);

    unsetenv("NOTIFY_SOCKET");
    unsetenv("WATCHDOG_USEC");
    unsetenv("WATCHDOG_PID");
    notify_begin();
    notify_service("READY=1");
    CHECK_INT(read(fd, text, sizeof text), -1);
    close(fd);
}

TEST(notify_lines_of_workers_are_chosen)
{
    CHECK(notify_is_known(S("READY=1")));
    CHECK(notify_is_known(S("STATUS=all is well")));
    CHECK(!notify_is_known(S("READY=11")));
    CHECK(!notify_is_known(S("MAINPID=1")));
    CHECK(!notify_is_known(S("FDSTORE=1")));
    CHECK(!notify_is_known(S("")));
}
