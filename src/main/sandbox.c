/* What a worker gives up before its first thread: another user's rights, new rights for ever, most of the file system
 * (Landlock), most system calls (seccomp). Each for itself: what a kernel lacks leaves the others in force. */
#include "main/inside.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/landlock.h>
#include <linux/sched.h>
#include <seccomp.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

/* ---- user and capabilities ---- */

int initgroups(const char *user, gid_t group); /* <grp.h> has a struct group of its own */

err identity_become(const struct identity *who)
{
    if (initgroups(who->name, who->gid) < 0 || setresgid(who->gid, who->gid, who->gid) < 0 || setresuid(who->uid, who->uid, who->uid) < 0)
        return fail_errno(errno, "becoming user %s", who->name);
    must(setuid(0) < 0 && geteuid() == who->uid); /* no way back */
    return OK;
}

/* A service manager may have given the parent CAP_NET_BIND_SERVICE; the worker binds nothing. */
static err drop_capabilities(void)
{
    struct __user_cap_header_struct head = { .version = _LINUX_CAPABILITY_VERSION_3 };
    struct __user_cap_data_struct none[_LINUX_CAPABILITY_U32S_3] = { 0 };

    prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
    return syscall(SYS_capset, &head, none) < 0 ? fail_errno(errno, "dropping capabilities") : OK;
}

/* ---- Landlock ---- */

/* Newer than Debian 12's header. */
#define FS_TRUNCATE (UINT64_C(1) << 14)  /* ABI 3 */
#define FS_IOCTL_DEV (UINT64_C(1) << 15) /* ABI 5 */

#define OF_FILES (LANDLOCK_ACCESS_FS_EXECUTE | LANDLOCK_ACCESS_FS_WRITE_FILE | LANDLOCK_ACCESS_FS_READ_FILE | FS_TRUNCATE | FS_IOCTL_DEV)
#define TO_READ (LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_READ_DIR)
#define TO_WRITE (TO_READ | LANDLOCK_ACCESS_FS_WRITE_FILE | LANDLOCK_ACCESS_FS_MAKE_REG | LANDLOCK_ACCESS_FS_REMOVE_FILE | \
                  LANDLOCK_ACCESS_FS_MAKE_DIR | LANDLOCK_ACCESS_FS_REMOVE_DIR | LANDLOCK_ACCESS_FS_REFER | FS_TRUNCATE)

struct fence { int fd; uint64_t handled; };

/* A path that is not there needs no rule. */
static void allow(const struct fence *f, const char *path, uint64_t rights)
{
    struct landlock_path_beneath_attr rule = { .parent_fd = open(path, O_PATH | O_CLOEXEC) };
    struct stat st;

    if (rule.parent_fd < 0)
        return;
    rule.allowed_access = rights & f->handled;
    if (fstat(rule.parent_fd, &st) == 0 && !S_ISDIR(st.st_mode))
        rule.allowed_access &= OF_FILES;
    if (syscall(SYS_landlock_add_rule, f->fd, LANDLOCK_RULE_PATH_BENEATH, &rule, 0) < 0)
        log_warn("sandbox_rule", LOG_Z("path", path), LOG_Z("why", strerrordesc_np(errno)));
    close(rule.parent_fd);
}

/* A file is replaced by renaming another over it, so it is the directory that must stay readable. */
static void allow_dir_of(const struct fence *f, arena *a, str path, uint64_t rights)
{
    size_t n = path.n;

    while (n && path.p[n - 1] != '/')
        n--;
    allow(f, n ? str_cz(a, str_head(path, n)) : ".", rights);
}

static void allow_tree(const struct fence *f, arena *a, const struct node *node, str *last)
{
    for (size_t i = 0; i < node->nchild; i++) {
        str file = node->child[i].name.at.file;
        if (file.n && !str_eq(file, *last))
            allow_dir_of(f, a, file, TO_READ);
        *last = file;
        allow_tree(f, a, &node->child[i], last);
    }
}

static void allow_settings(const struct fence *f, const struct settings *s)
{
    AUTO_ARENA a = arena_new();
    const struct routes *r = &s->snapshot.routes;
    str last = s->path;

    if (s->path.n)
        allow_dir_of(f, a, s->path, TO_READ);
    allow_tree(f, a, &s->tree, &last);
    for (size_t i = 0; i < r->ndomain; i++) {
        const struct recipients *who = &r->domain[i]->recipients;
        for (size_t t = 0; t < who->ntable; t++)
            if (who->path[t].n)
                allow_dir_of(f, a, who->path[t], TO_READ);
        for (size_t t = 0; t < who->file.n; t++)
            allow_dir_of(f, a, who->file.p[t], TO_READ);
    }
    for (size_t i = 0; i < r->aliases.ntable; i++)
        allow_dir_of(f, a, r->aliases.path[i], TO_READ);
    const str names[] = { s->dns.hosts, s->dns.resolv, s->dns.anchor };
    for (size_t i = 0; i < COUNT(names); i++)
        if (names[i].n)
            allow_dir_of(f, a, names[i], TO_READ);
    allow(f, str_cz(a, s->spool.dir), TO_WRITE);
    if (s->trace.retention)
        allow(f, str_cz(a, s->trace.dir), TO_WRITE);
    if (s->snapshot.receive.local && s->snapshot.receive.local->drop.n)
        allow(f, str_cz(a, s->snapshot.receive.local->drop), TO_WRITE);
    if (s->log.file.n)
        allow_dir_of(f, a, s->log.file, LANDLOCK_ACCESS_FS_WRITE_FILE | LANDLOCK_ACCESS_FS_MAKE_REG);
}

static void allow_system(const struct fence *f)
{
    /* /etc as a whole: resolv.conf and hosts are replaced by renaming, and are read anew. The user's own rights keep it from
     * the secrets in there. The libraries are for what libc loads late. /usr/share/dns: the root's keys. */
    static const char *const read[] = {
        "/etc", "/lib", "/lib64", "/usr/lib", "/usr/lib64", "/run/systemd/resolve", "/run/resolvconf", "/run/NetworkManager", "/usr/share/dns",
        "/dev/urandom", "/dev/random", "/proc/sys/vm", "/sys/devices/system/cpu",
#ifdef WAYPOST_SANITIZED
        "/proc", "/usr/bin", /* their reports */
#endif
    };

    for (size_t i = 0; i < COUNT(read); i++)
        allow(f, read[i], TO_READ);
    allow(f, "/dev/null", LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_WRITE_FILE);
    char *target = realpath("/etc/resolv.conf", NULL);
    if (target) {
        AUTO_ARENA a = arena_new();
        allow_dir_of(f, a, str_z(target), TO_READ);
        free(target);
    }
}

static err enter_landlock(const struct settings *s)
{
    long abi = syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION);
    if (abi < 1)
        return fail_errno(errno, "Landlock");
    struct landlock_ruleset_attr attr = { .handled_access_fs = (LANDLOCK_ACCESS_FS_MAKE_SYM << 1) - 1 };
    if (abi >= 2)
        attr.handled_access_fs |= LANDLOCK_ACCESS_FS_REFER;
    if (abi >= 3)
        attr.handled_access_fs |= FS_TRUNCATE;
    if (abi >= 5)
        attr.handled_access_fs |= FS_IOCTL_DEV;
    struct fence f = { .fd = (int)syscall(SYS_landlock_create_ruleset, &attr, sizeof attr, 0), .handled = attr.handled_access_fs };
    if (f.fd < 0)
        return fail_errno(errno, "Landlock");
    allow_system(&f);
    allow_settings(&f, s);
    long got = syscall(SYS_landlock_restrict_self, f.fd, 0);
    int number = errno;
    close(f.fd);
    return got < 0 ? fail_errno(number, "Landlock") : OK;
}

/* ---- seccomp ---- */

/* What is in neither list is answered ENOSYS, "this kernel has no such call", for which libraries know another way; EPERM they
 * take for a failure. The hot ones have no conditions, so that the kernel decides them by a bitmap. */
static const char *const allowed[] = {
    /* memory, threads, time */
    "brk", "madvise", "mincore", "mlock", "munlock", "mremap", "munmap", "membarrier", "msync", "futex", "get_robust_list",
    "set_robust_list", "rseq", "sched_yield", "sched_getaffinity", "sched_setaffinity", "sched_getparam", "sched_getscheduler",
    "setpriority", "getcpu", "gettid", "getpid", "getppid", "exit", "exit_group", "restart_syscall", "clock_gettime", "clock_getres",
    "clock_nanosleep", "nanosleep", "gettimeofday", "time", "times", "getrusage", "getrlimit", "sysinfo", "uname", "getrandom",
    /* signals */
    "rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "rt_sigpending", "rt_sigtimedwait", "rt_sigsuspend", "sigaltstack",
    "signalfd4",
    /* who we are */
    "getuid", "geteuid", "getgid", "getegid", "getresuid", "getresgid", "getgroups", "capget",
    /* waiting */
    "epoll_create1", "epoll_ctl", "epoll_wait", "epoll_pwait", "epoll_pwait2", "poll", "ppoll", "select", "pselect6",
    "eventfd2", "timerfd_create", "timerfd_settime", "timerfd_gettime", "pipe2", "inotify_init1", "inotify_add_watch",
    "inotify_rm_watch",
    /* descriptors */
    "close", "close_range", "dup", "dup2", "dup3", "fcntl", "read", "readv", "write", "writev", "lseek",
    /* sockets */
    "accept4", "bind", "connect", "getpeername", "getsockname", "getsockopt", "setsockopt", "listen", "recvfrom", "recvmsg",
    "recvmmsg", "sendto", "sendmsg", "sendmmsg", "shutdown", "socketpair",
    /* files: where, is Landlock's matter */
    "open", "openat", "access", "faccessat", "faccessat2", "stat", "lstat", "fstat", "newfstatat", "statx", "statfs", "fstatfs",
    "getdents64", "getcwd", "readlink", "readlinkat", "pread64", "preadv", "preadv2", "pwrite64", "pwritev", "pwritev2", "fsync",
    "fdatasync", "sync_file_range", "fallocate", "ftruncate", "fadvise64", "flock", "rename", "renameat", "renameat2", "unlink",
    "unlinkat", "link", "linkat", "mkdir", "mkdirat", "rmdir", "fchmod", "utimensat", "umask", "copy_file_range",
};
/* Nothing of ours starts a program: whoever tries is told so, and the kernel logs it. */
static const char *const refused[] = { "execve", "execveat" };

#define RULE(action, name, ...) \
    do { \
        struct scmp_arg_cmp cmp_[] = { __VA_ARGS__ }; \
        add_rule(ctx, (action), (name), COUNT(cmp_), cmp_); \
    } while (0)

static void add_rule(scmp_filter_ctx ctx, uint32_t action, const char *name, unsigned n, const struct scmp_arg_cmp *cmp)
{
    int number = seccomp_syscall_resolve_name(name);

    if (number == __NR_SCMP_ERROR)
        return; /* this machine has no such call */
    int got = seccomp_rule_add_array(ctx, action, number, n, cmp);
    if (got < 0 && got != -EDOM) /* EDOM: not on this architecture */
        log_warn("sandbox_rule", LOG_Z("call", name), LOG_Z("why", strerrordesc_np(-got)));
}

/* Calls that are allowed for some arguments only. */
static void add_conditions(scmp_filter_ctx ctx)
{
    static const int families[] = { AF_UNIX, AF_INET, AF_INET6, AF_NETLINK /* which addresses this machine has */ };
    static const unsigned long ioctls[] = { FIONREAD, FIONBIO, FIOCLEX, TCGETS, TIOCGWINSZ };
    static const int prctls[] = { PR_SET_NAME, PR_GET_NAME, PR_GET_DUMPABLE, PR_SET_PDEATHSIG };
    const uint64_t spaces = CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNET;
    uint64_t me = (uint64_t)getpid();

    for (size_t i = 0; i < COUNT(families); i++)
        RULE(SCMP_ACT_ALLOW, "socket", SCMP_A0(SCMP_CMP_EQ, (scmp_datum_t)families[i]));
    for (size_t i = 0; i < COUNT(ioctls); i++)
        RULE(SCMP_ACT_ALLOW, "ioctl", SCMP_A1(SCMP_CMP_EQ, ioctls[i]));
    for (size_t i = 0; i < COUNT(prctls); i++)
        RULE(SCMP_ACT_ALLOW, "prctl", SCMP_A0(SCMP_CMP_EQ, (scmp_datum_t)prctls[i]));
    /* Memory is written or run, never both; libraries are mapped to be run, nothing is made so later. */
    RULE(SCMP_ACT_ALLOW, "mmap", SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_WRITE | PROT_EXEC, 0));
    RULE(SCMP_ACT_ALLOW, "mmap", SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_WRITE | PROT_EXEC, PROT_WRITE));
    RULE(SCMP_ACT_ALLOW, "mmap", SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_WRITE | PROT_EXEC, PROT_EXEC));
    RULE(SCMP_ACT_ALLOW, "mprotect", SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0));
    /* Threads, no processes. clone3() hides its flags from us; without it glibc takes clone(). */
    RULE(SCMP_ACT_ALLOW, "clone", SCMP_A0(SCMP_CMP_MASKED_EQ, spaces | CLONE_THREAD, CLONE_THREAD));
    /* Signals to ourselves only. */
    RULE(SCMP_ACT_ALLOW, "kill", SCMP_A0(SCMP_CMP_EQ, me));
    RULE(SCMP_ACT_ALLOW, "tgkill", SCMP_A0(SCMP_CMP_EQ, me));
    RULE(SCMP_ACT_ALLOW, "prlimit64", SCMP_A0(SCMP_CMP_EQ, 0), SCMP_A2(SCMP_CMP_EQ, 0));
    RULE(SCMP_ACT_ALLOW, "prlimit64", SCMP_A0(SCMP_CMP_EQ, me), SCMP_A2(SCMP_CMP_EQ, 0));
}

#ifdef WAYPOST_SANITIZED
/* The leak check stops our threads from a process of its own and reads them. */
static void add_sanitizers(scmp_filter_ctx ctx)
{
    static const char *const calls[] = { "clone", "getdents", "ptrace", "wait4", "prctl", "personality", "pipe", "process_vm_readv", "mprotect",
                                         "fork", "vfork", "sched_setscheduler", "setrlimit", "prlimit64", "tgkill", "kill" };
    for (size_t i = 0; i < COUNT(calls); i++)
        add_rule(ctx, SCMP_ACT_ALLOW, calls[i], 0, NULL);
}
#endif

static err enter_seccomp(void)
{
    scmp_filter_ctx ctx = seccomp_init(SCMP_ACT_ERRNO(ENOSYS));

    if (!ctx)
        return fail(E_NOSPACE, "seccomp");
    seccomp_attr_set(ctx, SCMP_FLTATR_CTL_LOG, 1); /* what is refused; kernels before 4.14 cannot */
    for (size_t i = 0; i < COUNT(allowed); i++)
        add_rule(ctx, SCMP_ACT_ALLOW, allowed[i], 0, NULL);
    for (size_t i = 0; i < COUNT(refused); i++)
        add_rule(ctx, SCMP_ACT_ERRNO(EPERM), refused[i], 0, NULL);
    add_conditions(ctx);
#ifdef WAYPOST_SANITIZED
    add_sanitizers(ctx);
#endif
    int got = seccomp_load(ctx);
    seccomp_release(ctx);
    return got < 0 ? fail_errno(-got, "seccomp") : OK;
}

/* ---- all ---- */

static void tell(err e)
{
    if (e != OK)
        log_warn("sandbox_incomplete", LOG_STR("why", err_text()));
}

err sandbox_enter(const struct settings *s)
{
    struct identity who;

    TRY(identity_find(s, &who));
    if (who.change)
        TRY(identity_become(&who));
    else if (who.uid != 0)
        TRY(drop_capabilities());
    else
        log_warn("runs_as_root", LOG_Z("why", s->user.n ? "the configuration says so: \"user root\"" : "the configuration names no \"user\", and there is none called waypost"));
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
        return fail_errno(errno, "no_new_privs");
#ifdef WAYPOST_SANITIZED
    prctl(PR_SET_DUMPABLE, 1, 0, 0, 0); /* the leak check attaches to us */
#else
    prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
#endif
    TRY(parent_bond());
    tell(enter_landlock(s));
    tell(enter_seccomp());
    return OK;
}
