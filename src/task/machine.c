/* The real machine: Linux. */
#include "task/task.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/un.h>
#include <unistd.h>

#define TELL(call) ({ \
    __typeof__(call) got_; \
    do \
        got_ = (call); \
    while (got_ < 0 && errno == EINTR); \
    got_ < 0 ? -errno : got_; })

static int sock_open(int family, int type)
{
    int on = 1, fd = socket(family, type | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -errno;
    /* What a listener has, its clients inherit. */
    if (type == SOCK_STREAM && (family == AF_INET || family == AF_INET6))
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    return fd;
}

/* A socket nobody listens behind: what a killed process leaves. connect() alone would take any file for one. */
static bool is_stale(const struct sockaddr_un *un, socklen_t n)
{
    struct stat st;
    if (lstat(un->sun_path, &st) < 0 || !S_ISSOCK(st.st_mode))
        return false;
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return false;
    bool refused = connect(fd, (const struct sockaddr *)un, n) < 0 && errno == ECONNREFUSED;
    close(fd);
    return refused;
}

/* By descriptor: who may write in its directory could have put a link there since it was bound. */
int socket_mode(const char *path, unsigned mode)
{
    char self[40];
    struct stat st;
    int fd = open(path, O_PATH | O_NOFOLLOW | O_CLOEXEC), got = -EPERM;

    if (fd < 0)
        return -errno;
    snprintf(self, sizeof self, "/proc/self/fd/%d", fd);
    if (fstat(fd, &st) == 0 && S_ISSOCK(st.st_mode))
        got = TELL(chmod(self, mode));
    if (got == -ENOENT) /* nobody mounted /proc */
        got = TELL(chmod(path, mode));
    close(fd);
    return got;
}

static int bind_unix(int fd, const struct sockaddr_un *un, socklen_t n)
{
    /* The path is made with the mode of the descriptor, less the umask: never open wider than 0660, then exactly. */
    if (fchmod(fd, 0660) < 0)
        return -errno;
    if (bind(fd, (const struct sockaddr *)un, n) < 0) {
        int number = errno;
        if (number != EADDRINUSE || !is_stale(un, n))
            return -number;
        if (unlink(un->sun_path) < 0 || bind(fd, (const struct sockaddr *)un, n) < 0)
            return -errno;
    }
    return socket_mode(un->sun_path, 0660);
}

static int sock_bind(int fd, const struct sockaddr *sa, socklen_t n)
{
    return sa->sa_family == AF_UNIX ? bind_unix(fd, (const void *)sa, n) : TELL(bind(fd, sa, n));
}

static int sock_listen(int fd, int backlog) { return TELL(listen(fd, backlog)); }

static int sock_accept(int fd, struct sockaddr_storage *sa, socklen_t *n)
{
    *n = sizeof *sa;
    return TELL(accept4(fd, (struct sockaddr *)sa, n, SOCK_NONBLOCK | SOCK_CLOEXEC));
}

static int sock_connect(int fd, const struct sockaddr *sa, socklen_t n) { return TELL(connect(fd, sa, n)); }

static int sock_error(int fd)
{
    int number = 0;
    socklen_t n = sizeof number;
    return getsockopt(fd, SOL_SOCKET, SO_ERROR, &number, &n) < 0 ? -errno : -number;
}

static int sock_name(int fd, bool peer, struct sockaddr_storage *sa, socklen_t *n)
{
    *n = sizeof *sa;
    return TELL((peer ? getpeername : getsockname)(fd, (struct sockaddr *)sa, n));
}

static int sock_peer_uid(int fd, uint32_t *ret)
{
    struct ucred who;
    socklen_t n = sizeof who;
    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &who, &n) < 0)
        return -errno;
    *ret = who.uid;
    return 0;
}

static int sock_option(int fd, int level, int name, int value)
{
    return TELL(setsockopt(fd, level, name, &value, sizeof value));
}

static ssize_t sock_recv(int fd, void *p, size_t n) { return TELL(recv(fd, p, n, 0)); }

static ssize_t sock_send(int fd, const struct iovec *iov, int n)
{
    struct msghdr m = { .msg_iov = (struct iovec *)iov, .msg_iovlen = (size_t)n };
    return TELL(sendmsg(fd, &m, MSG_NOSIGNAL));
}

static int sock_shutdown(int fd, int how) { return TELL(shutdown(fd, how)); }

static int file_open(int dir, const char *name, int flags, unsigned mode)
{
    return TELL(openat(dir, name, flags | O_NOFOLLOW | O_CLOEXEC, mode));
}

static ssize_t file_read(int fd, void *p, size_t n, uint64_t at) { return TELL(pread(fd, p, n, (off_t)at)); }

static ssize_t file_read_cached(int fd, void *p, size_t n, uint64_t at)
{
    struct iovec iov = { p, n };
    return TELL(preadv2(fd, &iov, 1, (off_t)at, RWF_NOWAIT));
}

static ssize_t file_write(int fd, const struct iovec *iov, int n, uint64_t at)
{
    return TELL(pwritev(fd, iov, n, (off_t)at));
}

static int file_sync(int fd) { return TELL(fdatasync(fd)); }
static int file_write_back(int fd, uint64_t at, size_t n)
{
    return TELL(sync_file_range(fd, (off_t)at, (off_t)n, SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER));
}
static int file_sync_all(int fd) { return TELL(fsync(fd)); }

static int64_t file_size(int fd)
{
    struct stat st;
    return fstat(fd, &st) < 0 ? -errno : st.st_size;
}

static int file_truncate(int fd, uint64_t n) { return TELL(ftruncate(fd, (off_t)n)); }
static int file_rename(int dir, const char *from, const char *to) { return TELL(renameat(dir, from, dir, to)); }
static int file_unlink(int dir, const char *name) { return TELL(unlinkat(dir, name, 0)); }
static int file_link(int dir, const char *from, const char *to) { return TELL(linkat(dir, from, dir, to, 0)); }
static int file_make_dir(int dir, const char *name, unsigned mode) { return TELL(mkdirat(dir, name, mode)); }

/* Through a descriptor of its own, so that two may list the same directory. */
static int file_list(int dir, int (*each)(void *ctx, const char *name), void *ctx)
{
    int fd = openat(dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC), got = 0;
    DIR *d = fd < 0 ? NULL : fdopendir(fd);

    if (!d) {
        int number = errno;
        if (fd >= 0)
            close(fd);
        return -number;
    }
    for (struct dirent *e; got == 0 && (errno = 0, e = readdir(d)); )
        if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0)
            got = each(ctx, e->d_name);
    if (got == 0 && errno)
        got = -errno;
    closedir(d);
    return got;
}

static int64_t file_free(int dir)
{
    struct statvfs v;
    return fstatvfs(dir, &v) < 0 ? -errno : (int64_t)(v.f_bavail * v.f_frsize);
}

static int file_lock(int fd) { return TELL(flock(fd, LOCK_EX | LOCK_NB)); }

static int close_fd(int fd) { return close(fd) < 0 ? -errno : 0; } /* never again after EINTR: it is closed */

const struct machine machine_linux = {
    .sock_open = sock_open, .sock_bind = sock_bind, .sock_listen = sock_listen, .sock_accept = sock_accept,
    .sock_connect = sock_connect, .sock_error = sock_error, .sock_name = sock_name, .sock_peer_uid = sock_peer_uid, .sock_option = sock_option,
    .sock_recv = sock_recv, .sock_send = sock_send, .sock_shutdown = sock_shutdown,
    .file_open = file_open, .file_read = file_read, .file_read_cached = file_read_cached, .file_write = file_write,
    .file_sync = file_sync, .file_write_back = file_write_back, .file_sync_all = file_sync_all, .file_size = file_size, .file_truncate = file_truncate,
    .file_rename = file_rename, .file_unlink = file_unlink, .file_link = file_link, .file_make_dir = file_make_dir,
    .file_list = file_list, .file_free = file_free, .file_lock = file_lock,
    .close = close_fd,
};

const struct machine *machine = &machine_linux;
