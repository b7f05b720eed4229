/* Preloaded into the shipped relay (and into the sink behind it): writes down in one log what happens to the spool's directory, each
 * 250 for a message, and each message that the sink has.
 *   CRASH_LOG    the log, a file of RECORD_BYTES
 *   CRASH_SPOOL  the spool's directory, as the configuration names it; absent in the sink */
#include "crash/record.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define FDS 65536

static struct record_log *shared;
static const char *spool;
static enum { OTHER, DIRECTORY, MEMBER } kind[FDS];
static uint64_t inode[FDS];

#define NEXT(name) ({ \
    static __typeof__(&name) next_; \
    if (!next_) \
        next_ = (__typeof__(&name))dlsym(RTLD_NEXT, #name); \
    next_; })

/* ---- slots ---- */

static uint64_t slots(void) { return __atomic_load_n(&shared->slots, __ATOMIC_SEQ_CST); }

static struct record *slot_take(void)
{
    uint64_t i = __atomic_fetch_add(&shared->slots, 1, __ATOMIC_SEQ_CST);
    if (i < RECORD_SLOTS)
        return &shared->slot[i];
    shared->full = 1;
    return NULL;
}

static uint64_t data_take(uint64_t n)
{
    uint64_t at = __atomic_fetch_add(&shared->bytes, (n + 63) & ~UINT64_C(63), __ATOMIC_SEQ_CST);
    if (at + n <= RECORD_BYTES)
        return at;
    shared->full = 1;
    return 0;
}

static bool all_zero(const struct iovec *iov, int niov)
{
    static const char zeros[4096];
    for (int i = 0; i < niov; i++)
        for (size_t at = 0; at < iov[i].iov_len; at += sizeof zeros) {
            size_t n = iov[i].iov_len - at < sizeof zeros ? iov[i].iov_len - at : sizeof zeros;
            if (memcmp((const char *)iov[i].iov_base + at, zeros, n) != 0)
                return false;
        }
    return true;
}

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* The data first and the slot after it, so that a slot is filled in no time; its type comes last. */
static struct record *note(enum record_type type, uint64_t ino, uint64_t at, const struct iovec *iov, int niov)
{
    size_t n = 0, put = 0;
    uint64_t data = 0;

    if (!shared || shared->full)
        return NULL;
    for (int i = 0; i < niov; i++)
        n += iov[i].iov_len;
    if (n && (type != RECORD_WRITE || !all_zero(iov, niov))) {
        data = data_take(n);
        if (!data)
            return NULL;
        for (int i = 0; i < niov; put += iov[i++].iov_len)
            memcpy((char *)shared + data + put, iov[i].iov_base, iov[i].iov_len);
    }
    struct record *r = slot_take();
    if (!r)
        return NULL;
    r->ns = now_ns();
    r->n = (uint32_t)n;
    r->ino = ino;
    r->at = at;
    r->data = data;
    __atomic_store_n(&r->type, type, __ATOMIC_RELEASE);
    return r;
}

static void done(struct record *r, long result)
{
    if (!r)
        return;
    r->result = (int32_t)(result < 0 ? -errno : result);
    __atomic_store_n(&r->done, 1, __ATOMIC_RELEASE);
}

static struct record *note_text(enum record_type type, uint64_t ino, const char *text, size_t n)
{
    struct iovec iov = { (void *)text, n };
    return note(type, ino, 0, &iov, 1);
}

__attribute__((constructor)) static void begin(void)
{
    const char *log = getenv("CRASH_LOG");
    int fd = log ? open(log, O_RDWR | O_CLOEXEC) : -1;

    spool = getenv("CRASH_SPOOL");
    if (fd < 0)
        return;
    void *p = mmap(NULL, RECORD_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (p == MAP_FAILED)
        abort();
    shared = p;
    uint64_t none = 0;
    __atomic_compare_exchange_n(&shared->bytes, &none, sizeof *shared, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
    if (spool)
        done(note(RECORD_START, (uint64_t)getpid(), 0, NULL, 0), 0);
}

/* ---- names ---- */

static bool is_member(int dir, const char *name)
{
    return dir >= 0 && dir < FDS && kind[dir] == DIRECTORY && !strchr(name, '/') && strcmp(name, ".") != 0 && strcmp(name, "lock") != 0;
}

int openat64(int dir, const char *name, int flags, ...)
{
    struct stat st;
    struct record *r = NULL;
    mode_t mode = 0;
    bool member = is_member(dir, name), there = false;

    if (flags & O_CREAT) {
        va_list va;
        va_start(va, flags);
        mode = va_arg(va, mode_t);
        va_end(va);
    }
    if (member && flags & O_CREAT) {
        there = fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) == 0;
        if (!there)
            r = note_text(RECORD_CREATE, 0, name, strlen(name));
        else if (flags & O_TRUNC)
            r = note(RECORD_TRUNCATE, st.st_ino, 0, NULL, 0);
    }
    int fd = NEXT(openat64)(dir, name, flags, mode);
    if (fd >= 0 && fd < FDS) {
        kind[fd] = OTHER;
        if (member && fstat(fd, &st) == 0) {
            kind[fd] = MEMBER;
            inode[fd] = st.st_ino;
            if (r)
                r->ino = st.st_ino;
        } else if (spool && strcmp(name, spool) == 0)
            kind[fd] = DIRECTORY;
    }
    done(r, fd);
    return fd;
}

int openat(int dir, const char *name, int flags, ...)
{
    mode_t mode = 0;
    if (flags & O_CREAT) {
        va_list va;
        va_start(va, flags);
        mode = va_arg(va, mode_t);
        va_end(va);
    }
    return openat64(dir, name, flags, mode);
}

int close(int fd)
{
    if (fd >= 0 && fd < FDS)
        kind[fd] = OTHER;
    return NEXT(close)(fd);
}

int renameat(int from_dir, const char *from, int to_dir, const char *to)
{
    struct iovec iov[2] = { { (void *)from, strlen(from) + 1 }, { (void *)to, strlen(to) } };
    struct record *r = is_member(from_dir, from) ? note(RECORD_RENAME, 0, 0, iov, 2) : NULL;
    int got = NEXT(renameat)(from_dir, from, to_dir, to);
    done(r, got);
    return got;
}

int unlinkat(int dir, const char *name, int flags)
{
    struct record *r = is_member(dir, name) ? note_text(RECORD_UNLINK, 0, name, strlen(name)) : NULL;
    int got = NEXT(unlinkat)(dir, name, flags);
    done(r, got);
    return got;
}

/* ---- contents ---- */

static bool is_kind(int fd, int k) { return fd >= 0 && fd < FDS && (int)kind[fd] == k; }

ssize_t pwritev64(int fd, const struct iovec *iov, int n, off64_t at)
{
    struct record *r = is_kind(fd, MEMBER) ? note(RECORD_WRITE, inode[fd], (uint64_t)at, iov, n) : NULL;
    ssize_t got = NEXT(pwritev64)(fd, iov, n, at);
    done(r, got);
    return got;
}

int ftruncate64(int fd, off64_t n)
{
    struct record *r = is_kind(fd, MEMBER) ? note(RECORD_TRUNCATE, inode[fd], (uint64_t)n, NULL, 0) : NULL;
    int got = NEXT(ftruncate64)(fd, n);
    done(r, got);
    return got;
}

static void note_sync(int fd, uint64_t before, int got)
{
    if (got == 0 && is_kind(fd, MEMBER))
        done(note(RECORD_SYNC, inode[fd], before, NULL, 0), 0);
    else if (got == 0 && is_kind(fd, DIRECTORY))
        done(note(RECORD_SYNC_DIR, 0, before, NULL, 0), 0);
}

int fdatasync(int fd)
{
    uint64_t before = shared ? slots() : 0;
    int got = NEXT(fdatasync)(fd);
    note_sync(fd, before, got);
    return got;
}

int fsync(int fd)
{
    uint64_t before = shared ? slots() : 0;
    int got = NEXT(fsync)(fd);
    note_sync(fd, before, got);
    return got;
}

/* ---- what is said ---- */

#define ACK "250 2.0.0 queued as "
#define ULID 26

static void note_acks(const char *p, size_t n)
{
    while (n >= sizeof ACK - 1 + ULID) {
        const char *at = memmem(p, n, ACK, sizeof ACK - 1);
        if (!at || n - (size_t)(at - p) < sizeof ACK - 1 + ULID)
            return;
        at += sizeof ACK - 1;
        done(note_text(RECORD_ACK, 0, at, ULID), 0);
        n -= (size_t)(at - p);
        p = at;
    }
}

ssize_t sendmsg(int fd, const struct msghdr *m, int flags)
{
    for (size_t i = 0; spool && i < m->msg_iovlen; i++)
        if (m->msg_iov[i].iov_len < 4096) /* replies; longer ones are mails on their way out */
            note_acks(m->msg_iov[i].iov_base, m->msg_iov[i].iov_len);
    return NEXT(sendmsg)(fd, m, flags);
}

#define TAKEN "{\"id\":\""

ssize_t write(int fd, const void *p, size_t n)
{
    if (!spool && n > sizeof TAKEN && memcmp(p, TAKEN, sizeof TAKEN - 1) == 0) {
        const char *id = (const char *)p + sizeof TAKEN - 1, *end = memchr(id, '"', n - sizeof TAKEN + 1);
        if (end)
            done(note_text(RECORD_TAKEN, 0, id, (size_t)(end - id)), 0);
    }
    return NEXT(write)(fd, p, n);
}
