/* Preloaded into the shipped relay: makes calls on its spool fail while it runs, as told by a file that the test maps too.
 *   FAULT_PLAN   that file: an array of `struct rule`
 *   FAULT_SPOOL  the spool's directory, as the configuration names it
 *
 * A sync that fails loses what it should have made durable, as Linux does: half of the 512-octet sectors written since the last good
 * sync of that file are overwritten with zeros, and the next sync of it succeeds. A write that fails has written half of what it was given. */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/statvfs.h>
#include <sys/uio.h>
#include <unistd.h>

/* In the order that faults.py has. */
enum what { DATA_WRITE, DATA_SHORT, DATA_SYNC, NEW_OPEN, NEW_WRITE, NEW_SYNC, RENAME, DIR_SYNC, READ, INDEX_OPEN, FREE, UNLINK, RULES };

struct rule {
    int32_t number;             /* errno */
    int32_t left;               /* so many times; -1: always; 0: not */
    uint32_t hits;
    uint32_t room;
};

#define FDS 65536
#define SECTOR 512u
#define RANGES 256

static struct rule *plan;
static const char *spool;
static struct { char name[24]; bool dir; struct { uint64_t at, n; } range[RANGES]; unsigned ranges; } *file; /* by descriptor */

#define NEXT(name) ({ \
    static __typeof__(&name) next_; \
    if (!next_) \
        next_ = (__typeof__(&name))dlsym(RTLD_NEXT, #name); \
    next_; })

__attribute__((constructor)) static void begin(void)
{
    const char *path = getenv("FAULT_PLAN");
    int fd = path ? open(path, O_RDWR | O_CLOEXEC) : -1;

    spool = getenv("FAULT_SPOOL");
    if (fd < 0 || !spool)
        return;
    plan = mmap(NULL, RULES * sizeof *plan, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    file = mmap(NULL, FDS * sizeof *file, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (plan == MAP_FAILED || file == MAP_FAILED)
        abort();
    close(fd);
}

/* Is it to fail now? Then errno is set. */
static bool fails(enum what w)
{
    if (!plan)
        return false;
    struct rule *r = &plan[w];
    int32_t left = __atomic_load_n(&r->left, __ATOMIC_SEQ_CST);
    do {
        if (left == 0)
            return false;
    } while (left > 0 && !__atomic_compare_exchange_n(&r->left, &left, left - 1, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST));
    __atomic_fetch_add(&r->hits, 1, __ATOMIC_SEQ_CST);
    errno = r->number;
    return true;
}

static bool ends(const char *name, const char *ending)
{
    size_t n = strlen(name), m = strlen(ending);
    return n > m && strcmp(name + n - m, ending) == 0;
}

static const char *name_of(int fd) { return file && fd >= 0 && fd < FDS ? file[fd].name : ""; }
static bool is_dir(int fd) { return file && fd >= 0 && fd < FDS && file[fd].dir; }
static bool is_data(int fd) { return ends(name_of(fd), ".seg"); }
static bool is_new(int fd) { return ends(name_of(fd), ".new") || ends(name_of(fd), ".old"); }

/* ---- names ---- */

int openat64(int dir, const char *name, int flags, ...)
{
    mode_t mode = 0;

    if (flags & O_CREAT) {
        va_list va;
        va_start(va, flags);
        mode = va_arg(va, mode_t);
        va_end(va);
    }
    bool member = is_dir(dir);
    if (member && ((ends(name, ".new") && fails(NEW_OPEN)) || (ends(name, ".idx") && fails(INDEX_OPEN))))
        return -1;
    int fd = NEXT(openat64)(dir, name, flags, mode);
    if (fd >= 0 && fd < FDS && file) {
        snprintf(file[fd].name, sizeof file[fd].name, "%s", member ? name : "");
        file[fd].ranges = 0;
        file[fd].dir = strcmp(name, spool) == 0;
    }
    return fd;
}

int close(int fd)
{
    if (file && fd >= 0 && fd < FDS && (file[fd].name[0] || file[fd].dir)) {
        file[fd].name[0] = 0;
        file[fd].dir = false;
    }
    return NEXT(close)(fd);
}

int renameat(int from_dir, const char *from, int to_dir, const char *to)
{
    bool member = is_dir(from_dir);

    if (member && fails(RENAME))
        return -1;
    int got = NEXT(renameat)(from_dir, from, to_dir, to);
    for (int fd = 0; got == 0 && member && fd < 1024; fd++)
        if (strcmp(file[fd].name, from) == 0)
            snprintf(file[fd].name, sizeof file[fd].name, "%s", to);
    return got;
}

int unlinkat(int dir, const char *name, int flags)
{
    return is_dir(dir) && fails(UNLINK) ? -1 : NEXT(unlinkat)(dir, name, flags);
}

int fstatvfs64(int fd, struct statvfs64 *v)
{
    int got = NEXT(fstatvfs64)(fd, v);
    if (got == 0 && is_dir(fd) && fails(FREE))
        v->f_bavail = v->f_bfree = 0;
    return got;
}

/* ---- contents ---- */

/* At most half of what is given, at least one octet. */
static int halve(const struct iovec *iov, int n, struct iovec *half)
{
    size_t all = 0, left;
    int k = 0;

    for (int i = 0; i < n; i++)
        all += iov[i].iov_len;
    for (left = all / 2 ? all / 2 : 1; left && k < n; k++) {
        half[k] = iov[k];
        if (half[k].iov_len > left)
            half[k].iov_len = left;
        left -= half[k].iov_len;
    }
    return k;
}

ssize_t pwritev64(int fd, const struct iovec *iov, int n, off64_t at)
{
    static __thread struct iovec half[1024]; /* tasks have small stacks */

    if (is_new(fd) && fails(NEW_WRITE))
        return -1;
    if (is_data(fd) && fails(DATA_WRITE)) {
        int number = errno;
        (void)!NEXT(pwritev64)(fd, half, halve(iov, n, half), at);
        errno = number;
        return -1;
    }
    ssize_t got = is_data(fd) && fails(DATA_SHORT) ? NEXT(pwritev64)(fd, half, halve(iov, n, half), at) : NEXT(pwritev64)(fd, iov, n, at);
    if (got > 0 && is_data(fd)) {
        unsigned *k = &file[fd].ranges;
        if (*k == RANGES) /* more than we remember: what is forgotten is not lost */
            (*k)--;
        file[fd].range[*k].at = (uint64_t)at;
        file[fd].range[(*k)++].n = (uint64_t)got;
    }
    return got;
}

static void lose(int fd)
{
    static const char zeros[SECTOR];

    for (unsigned i = 0; i < file[fd].ranges; i++)
        for (uint64_t at = file[fd].range[i].at, end = at + file[fd].range[i].n; at < end; at += SECTOR)
            if ((at / SECTOR * UINT64_C(0x9e3779b97f4a7c15)) >> 63)
                (void)!NEXT(pwritev64)(fd, &(struct iovec){ (void *)zeros, end - at < SECTOR ? end - at : SECTOR }, 1, (off64_t)at);
    file[fd].ranges = 0;
}

int fdatasync(int fd)
{
    if (is_new(fd) && fails(NEW_SYNC))
        return -1;
    if (is_data(fd) && fails(DATA_SYNC)) {
        int number = errno;
        lose(fd);
        errno = number;
        return -1;
    }
    int got = NEXT(fdatasync)(fd);
    if (got == 0 && is_data(fd))
        file[fd].ranges = 0;
    return got;
}

int fsync(int fd) { return is_dir(fd) && fails(DIR_SYNC) ? -1 : NEXT(fsync)(fd); }

ssize_t pread64(int fd, void *p, size_t n, off64_t at)
{
    return is_data(fd) && fails(READ) ? -1 : NEXT(pread64)(fd, p, n, at);
}

ssize_t preadv64v2(int fd, const struct iovec *iov, int n, off64_t at, int flags)
{
    return is_data(fd) && fails(READ) ? -1 : NEXT(preadv64v2)(fd, iov, n, at, flags);
}
