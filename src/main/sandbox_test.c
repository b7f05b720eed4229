#include "kit/kit.h"
#include "main/inside.h"

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

/* A process that enters the sandbox cannot leave it, so each of these runs in a child; what it found wrong comes back as text. */

struct world { char dir[128], spool[160], conf[160], list[160], alias[160]; struct settings s; struct relay_domain d, *dp; struct table *t; str path, alias_path; };
static int out;

static void wrong(const char *what)
{
    char text[256];
    int n = snprintf(text, sizeof text, "%s (errno %d)\n", what, errno);
    ssize_t ignored = write(out, text, (size_t)n);
    (void)ignored;
}
#define WANT(x) ((x) ? (void)0 : wrong(#x))

static void put(const char *path)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
    must(fd >= 0 && write(fd, "x", 1) == 1 && close(fd) == 0);
}

static void world_make(struct world *w)
{
    snprintf(w->dir, sizeof w->dir, "%s", kit_dir());
    snprintf(w->spool, sizeof w->spool, "%s/spool", w->dir);
    snprintf(w->conf, sizeof w->conf, "%s/etc/w.conf", w->dir);
    snprintf(w->list, sizeof w->list, "%s/lists/users", w->dir);
    char path[200];
    snprintf(w->alias, sizeof w->alias, "%s/aliases/all", w->dir);
    static const char *const dirs[] = { "etc", "lists", "aliases", "other" };
    for (size_t i = 0; i < COUNT(dirs); i++) {
        snprintf(path, sizeof path, "%s/%s", w->dir, dirs[i]);
        must(mkdir(path, 0755) == 0);
    }
    put(w->conf);
    put(w->list);
    put(w->alias);
    snprintf(path, sizeof path, "%s/other/secret", w->dir);
    put(path);
    must(chmod(w->dir, 0755) == 0);

    w->path = str_z(w->list);
    w->alias_path = str_z(w->alias);
    w->s.snapshot.routes.aliases = (struct aliases){ .ntable = 1, .path = &w->alias_path };
    w->dp = &w->d;
    w->d.recipients = (struct recipients){ .table = &w->t, .ntable = 1, .path = &w->path };
    w->s.snapshot.routes.domain = &w->dp;
    w->s.snapshot.routes.ndomain = 1;
    w->s.path = str_z(w->conf);
    w->s.spool.dir = str_z(w->spool);
    w->s.user = geteuid() == 0 ? S("nobody") : S("");
}

static void quiet(void *ctx, enum log_level level, str line) { (void)ctx, (void)level, (void)line; }

static void in_sandbox(void (*fn)(struct world *w))
{
    static struct world w;
    int pipes[2], status = 0;
    char text[2048];
    size_t n = 0;
    ssize_t got;

    memset(&w, 0, sizeof w);
    world_make(&w);
    must(pipe2(pipes, O_CLOEXEC) == 0);
    fflush(NULL);
    pid_t pid = fork();
    if (pid == 0) {
        struct identity who;
        close(pipes[0]);
        out = pipes[1];
        alarm(30);
        log_start(&(struct log_setup){ .tap = quiet });
        WANT(identity_find(&w.s, &who) == OK);
        WANT(files_prepare(&w.s, &who) == OK);
        if (sandbox_enter(&w.s) == OK)
            fn(&w);
        else
            wrong(err_text().p);
        _exit(0);
    }
    close(pipes[1]);
    while ((got = read(pipes[0], text + n, sizeof text - n)) > 0)
        n += (size_t)got;
    close(pipes[0]);
    waitpid(pid, &status, 0);
    CHECK_STR(str_of(text, n), S(""));
    CHECK_INT(status, 0);
}

/* ---- what is gone ---- */

static bool can_read(struct world *w, const char *name)
{
    char path[256];
    snprintf(path, sizeof path, "%s/%s", w->dir, name);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    close(fd);
    return fd >= 0;
}

static bool can_write(struct world *w, const char *name)
{
    char path[256];
    snprintf(path, sizeof path, "%s/%s", w->dir, name);
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    bool ok = fd >= 0 && write(fd, "y", 1) == 1;
    close(fd);
    return ok;
}

static void files_gone(struct world *w)
{
    WANT(!can_read(w, "other/secret"));
    WANT(!can_read(w, "nothing"));
    WANT(!can_write(w, "etc/w.conf"));
    WANT(!can_write(w, "other/new"));
    WANT(can_read(w, "etc/w.conf"));
    WANT(can_read(w, "lists/users"));
    WANT(can_read(w, "aliases/all"));
    WANT(can_write(w, "spool/a"));
    WANT(can_read(w, "spool/a"));
    int dir = open(w->spool, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    WANT(dir >= 0);
    WANT(renameat(dir, "a", dir, "b") == 0);
    WANT(linkat(dir, "b", dir, "c", 0) == 0);
    WANT(unlinkat(dir, "c", 0) == 0);
    WANT(fsync(dir) == 0);
    WANT(open("/etc/passwd", O_RDONLY | O_CLOEXEC) >= 0);
    WANT(open("/etc/shadow", O_RDONLY | O_CLOEXEC) < 0 || geteuid() == 0);
}
TEST(sandbox_leaves_few_files) { in_sandbox(files_gone); }

static void calls_gone(struct world *w)
{
    char name[] = "true", *argv[] = { name, NULL }, *env[] = { NULL };

    (void)w;
    WANT(execve("/bin/true", argv, env) < 0 && errno == EPERM);
    WANT(syscall(SYS_mount, "x", "/", "tmpfs", 0, NULL) < 0 && errno == ENOSYS);
    WANT(syscall(SYS_bpf, 0, NULL, 0) < 0 && errno == ENOSYS);
    WANT(syscall(SYS_io_uring_setup, 1, NULL) < 0 && errno == ENOSYS);
    WANT(socket(AF_PACKET, SOCK_RAW, 0) < 0 && errno == ENOSYS);
    WANT(mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == MAP_FAILED);
    WANT(prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) < 0 || prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1);
    WANT(syscall(SYS_setuid, 0) < 0);
#ifndef WAYPOST_SANITIZED
    WANT(kill(getppid(), 0) < 0 && errno == ENOSYS);
    WANT(fork() < 0);
    WANT(mprotect((void *)((uintptr_t)&calls_gone & ~(uintptr_t)4095), 4096, PROT_READ | PROT_EXEC) < 0);
    WANT(prctl(PR_SET_SECCOMP, 2, NULL) < 0 && errno == ENOSYS);
#endif
}
TEST(sandbox_leaves_few_calls) { in_sandbox(calls_gone); }

/* ---- what must work ---- */

static void *say_done(void *ret)
{
    *(bool *)ret = true;
    return NULL;
}

static err sleep_some(void *arg)
{
    (void)arg;
    return task_sleep(clock_now() + MILLISECOND);
}

static err tasks_and_threads(void *arg)
{
    (void)arg;
    struct thread *t = thread_start("other", sleep_some, NULL);
    struct pool *p = pool_start("pool", 2);
    AUTO_ARENA a = arena_new();
    struct resolver *r;
    struct dns_addresses at;
    struct dns_mx mx;
    struct addr nobody;
    struct dns_settings s = { .timeout = 5 * SECOND, .cache = 1 << 20, .hosts = S("/etc/hosts"), .dnssec = DNSSEC_OFF };

    TRY(thread_join(t));
    pool_stop(p);
    must(addr_parse(S("127.0.0.1:1"), 1, &nobody) == OK);
    s.server = (struct addrs){ &nobody, 1 };
    TRY(resolver_open(&s, &r));
    err e = dns_addresses(r, a, S("localhost"), 25, NEVER, &at);
    /* With sockets, threads and all: nobody is there, and that is what it says. */
    err other = dns_mx(r, a, S("waypost.example"), NEVER, &mx);
    resolver_close(r);
    TRY(e);
    if (other != E_AGAIN)
        return fail(E_UNKNOWN, "%s from a resolver that is not there", err_name(other));
    return at.all.n ? OK : fail(E_NONAME, "localhost has no address");
}

static void system_left(struct world *w)
{
    pthread_t thread;
    bool done = false;
    void *big[64];
    int fd;

    (void)w;
    WANT(pthread_create(&thread, NULL, say_done, &done) == 0);
    WANT(pthread_join(thread, NULL) == 0 && done);
    if (task_main(tasks_and_threads, NULL) != OK)
        wrong(err_text().p);
    for (size_t i = 0; i < COUNT(big); i++)
        big[i] = mem_new(300000);
    for (size_t i = 0; i < COUNT(big); i++)
        mem_free(big[i]);
    struct addr at;
    WANT(addr_parse(S("127.0.0.1:0"), 1, &at) == OK);
    addr_set_port(&at, 0);
    WANT(listen_open(&at, &fd) == OK);
    WANT(sysconf(_SC_NPROCESSORS_ONLN) > 0);
    log_stop();
    log_start(&(struct log_setup){ .fd = open("/dev/null", O_WRONLY | O_CLOEXEC) }); /* with its thread */
    log_info("written");
    log_flush();
    log_stop();
    random_u64();
}
TEST(sandbox_leaves_what_a_relay_needs) { in_sandbox(system_left); }

static void crashes(struct world *w)
{
    (void)w;
    signal(SIGABRT, SIG_DFL);
    int null = open("/dev/null", O_WRONLY | O_CLOEXEC);
    dup2(null, STDERR_FILENO);
    crash_page_make();
    crash_handlers();
    crash_thread(0);
    abort();
}

TEST(sandbox_lets_a_crash_be_seen)
{
    static struct world w;
    int status = 0;

    memset(&w, 0, sizeof w);
    world_make(&w);
    fflush(NULL);
    pid_t pid = fork();
    if (pid == 0) {
        log_start(&(struct log_setup){ .tap = quiet });
        if (sandbox_enter(&w.s) == OK)
            crashes(&w);
        _exit(1);
    }
    waitpid(pid, &status, 0);
    CHECK(WIFSIGNALED(status));
    CHECK_INT(WIFSIGNALED(status) ? WTERMSIG(status) : 0, SIGABRT);
}

/* ---- last words ---- */

#ifndef WAYPOST_SANITIZED
static int recurse(int n)
{
    volatile char page[1000];
    page[0] = (char)n;
    return n < 0 ? page[0] : recurse(n + 1) + page[0];
}

static err overrun(void *arg)
{
    (void)arg;
    crash_thread(3);
    crash_note(3, (ulid){ { 0xff } });
    return recurse(0) ? OK : E_IO;
}

TEST(crash_of_an_overrun_stack_says_who_and_where)
{
    int pipes[2], status = 0;
    char text[512] = { 0 };

    must(pipe2(pipes, O_CLOEXEC) == 0);
    fflush(NULL);
    pid_t pid = fork();
    if (pid == 0) {
        dup2(pipes[1], STDERR_FILENO);
        crash_page_make();
        crash_handlers();
        task_main(overrun, NULL);
        _exit(0);
    }
    close(pipes[1]);
    CHECK(read(pipes[0], text, sizeof text - 1) > 0);
    close(pipes[0]);
    waitpid(pid, &status, 0);
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV);
    CHECK(str_starts(str_z(text), S("waypost: thread 3 dies of SIGSEGV at 0x")), str_z(text));
    CHECK(str_has(str_z(text), S("message 7Z00000000000000000000000")), str_z(text));
}
#endif
