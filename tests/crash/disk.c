/* The disk of a recorded run at a cut, and the product's machine on top of it (disk.h). It lives in memory; a page of it points into the
 * log where it can, so that a cut costs a fork and what recovery reads. */
#include "crash/disk.h"

#include "spool/frame.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>

#define DIR_FD 1000000
#define FILE_FD 1000001

static const struct record_log *rec;

void disk_open(const struct record_log *log) { rec = log; }

static const uint8_t *data_of(const struct record *r) { return record_data(rec, r); }

/* ---- what the disk has for certain, and what may come on top ---- */

struct inode {
    uint64_t ino, size;
    const uint8_t **page; size_t npage; /* NULL: zeros */
    uint64_t *pending; size_t npending, pending_cap; /* slots of writes and truncations */
};
struct name { char z[24]; struct inode *inode; };
struct names { struct name *p; size_t n, cap; };

static struct inode **inode;
static size_t ninode;
static struct names seen, durable;      /* by programs; by the disk */
static struct { uint64_t slot; struct inode *inode; } *moves; /* names given since */
static size_t nmoves, moves_cap;

static struct inode *inode_find(uint64_t ino)
{
    for (size_t i = ninode; i-- > 0;)
        if (inode[i]->ino == ino)
            return inode[i];
    return NULL;
}

static struct inode *inode_new(uint64_t ino)
{
    struct inode *x = mem_new(sizeof *x);
    x->ino = ino;
    inode = mem_grow(inode, (ninode + 1) * sizeof *inode);
    return inode[ninode++] = x;
}

static struct name *name_find(struct names *l, const char *z)
{
    for (size_t i = 0; i < l->n; i++)
        if (strcmp(l->p[i].z, z) == 0)
            return &l->p[i];
    return NULL;
}

static void name_drop(struct names *l, const char *z)
{
    struct name *x = name_find(l, z);
    if (x)
        *x = l->p[--l->n];
}

static void name_set(struct names *l, const char *z, struct inode *x)
{
    name_drop(l, z);
    if (l->n == l->cap)
        l->p = mem_grow(l->p, (l->cap = MAX(l->cap * 2, 32)) * sizeof *l->p);
    snprintf(l->p[l->n].z, sizeof l->p[l->n].z, "%s", z);
    l->p[l->n++].inode = x;
}

static void text_of(const struct record *r, char from[64], char to[64])
{
    char all[128] = { 0 };
    memcpy(all, data_of(r), MIN(r->n, sizeof all - 1));
    snprintf(from, 64, "%.60s", all);
    snprintf(to, 64, "%.60s", r->type == RECORD_RENAME ? all + strlen(all) + 1 : "");
}

/* A change of names, done to one list. `x` is the file it was about. */
static void name_change(struct names *l, const struct record *r, struct inode *x)
{
    char from[64], to[64];

    text_of(r, from, to);
    struct name *old = name_find(l, from);
    switch (r->type) {
    case RECORD_CREATE: name_set(l, from, x); break;
    case RECORD_UNLINK:
        if (old && old->inode == x)
            name_drop(l, from);
        break;
    default:
        if (old && old->inode == x)
            name_drop(l, from);
        name_set(l, to, x);
    }
}

static void pages_need(struct inode *x, uint64_t octets)
{
    size_t n = (octets + PAGE - 1) / PAGE;
    if (n <= x->npage)
        return;
    n = MAX(n, x->npage * 2);
    x->page = mem_grow(x->page, n * sizeof *x->page);
    memset(x->page + x->npage, 0, (n - x->npage) * sizeof *x->page);
    x->npage = n;
}

/* A write or truncation that is durable now. A page that is replaced is left where it lies: few are not in the log. */
static void settle(struct inode *x, const struct record *r)
{
    const uint8_t *p = data_of(r);

    if (r->type == RECORD_TRUNCATE) {
        must(r->at == 0);
        memset(x->page, 0, x->npage * sizeof *x->page);
        x->size = 0;
        return;
    }
    pages_need(x, r->at + r->n);
    x->size = MAX(x->size, r->at + r->n);
    for (uint64_t at = r->at, end = r->at + r->n; at < end;) {
        uint64_t page = at / PAGE, n = MIN(PAGE - at % PAGE, end - at);
        if (n == PAGE)
            x->page[page] = p ? p + (at - r->at) : NULL;
        else {
            uint8_t *copy = mem_new(PAGE);
            if (x->page[page])
                memcpy(copy, x->page[page], PAGE);
            if (p)
                memcpy(copy + at % PAGE, p + (at - r->at), n);
            else
                memset(copy + at % PAGE, 0, n);
            x->page[page] = copy;
        }
        at += n;
    }
}

static void sync_file(struct inode *x, uint64_t before)
{
    size_t kept = 0;
    for (size_t i = 0; i < x->npending; i++) {
        const struct record *r = &rec->slot[x->pending[i]];
        if (x->pending[i] < before && r->done && r->result >= 0)
            settle(x, r);
        else
            x->pending[kept++] = x->pending[i];
    }
    x->npending = kept;
}

void disk_step(uint64_t i)
{
    const struct record *r = &rec->slot[i];
    struct inode *x;
    char from[64], to[64];

    switch (r->type) {
    case RECORD_CREATE:
    case RECORD_RENAME:
    case RECORD_UNLINK:
        if (r->done && r->result < 0)
            return;
        text_of(r, from, to);
        x = r->type == RECORD_CREATE ? inode_new(r->ino) : name_find(&seen, from) ? name_find(&seen, from)->inode : NULL;
        if (!x)
            return;
        name_change(&seen, r, x);
        if (nmoves == moves_cap)
            moves = mem_grow(moves, (moves_cap = MAX(moves_cap * 2, 64)) * sizeof *moves);
        moves[nmoves].slot = i;
        moves[nmoves++].inode = x;
        return;
    case RECORD_SYNC_DIR: {
        size_t kept = 0;
        for (size_t k = 0; k < nmoves; k++)
            if (moves[k].slot < r->at)
                name_change(&durable, &rec->slot[moves[k].slot], moves[k].inode);
            else
                moves[kept++] = moves[k];
        nmoves = kept;
        return;
    }
    case RECORD_WRITE:
    case RECORD_TRUNCATE:
        x = inode_find(r->ino);
        if (!x || (r->done && r->result < 0))
            return;
        if (x->npending == x->pending_cap)
            x->pending = mem_grow(x->pending, (x->pending_cap = MAX(x->pending_cap * 2, 64)) * sizeof *x->pending);
        x->pending[x->npending++] = i;
        return;
    case RECORD_SYNC:
        x = inode_find(r->ino);
        if (x)
            sync_file(x, r->at);
        return;
    default: return;
    }
}

/* ---- the disk after the cut, as the product sees it ---- */

struct file { struct inode *under; uint8_t **over; size_t nover; uint64_t size; };
static struct file *file;               /* one an inode; a name's inode pointer leads there */
static struct names names;
static struct file *opened[4096];
static size_t nopened;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;

static struct file *file_of(struct inode *x)
{
    for (size_t i = 0; i < ninode; i++)
        if (inode[i] == x)
            return &file[i];
    return NULL;
}

static const uint8_t *page_at(const struct file *f, size_t i)
{
    if (i < f->nover && f->over[i])
        return f->over[i];
    return f->under && i < f->under->npage ? f->under->page[i] : NULL;
}

static uint8_t *page_own(struct file *f, size_t i)
{
    if (i >= f->nover) {
        size_t n = MAX(i + 1, MAX(f->nover * 2, 64));
        f->over = mem_grow(f->over, n * sizeof *f->over);
        memset(f->over + f->nover, 0, (n - f->nover) * sizeof *f->over);
        f->nover = n;
    }
    if (!f->over[i]) {
        const uint8_t *old = page_at(f, i);
        f->over[i] = mem_grow(NULL, PAGE);
        if (old)
            memcpy(f->over[i], old, PAGE);
        else
            memset(f->over[i], 0, PAGE);
    }
    return f->over[i];
}

static void put(struct file *f, uint64_t at, const uint8_t *p, size_t n)
{
    static const uint8_t zeros[PAGE];

    for (size_t done = 0; done < n;) {
        size_t part = MIN(PAGE - at % PAGE, n - done);
        const uint8_t *from = p ? p + done : zeros;
        if (page_at(f, at / PAGE) || memcmp(from, zeros, part) != 0)
            memcpy(page_own(f, at / PAGE) + at % PAGE, from, part);
        at += part;
        done += part;
    }
    f->size = MAX(f->size, at);
}

static void wipe(struct file *f)
{
    for (size_t i = 0; f->under && i < f->under->npage; i++)
        if (page_at(f, i))
            memset(page_own(f, i), 0, PAGE);
    for (size_t i = 0; i < f->nover; i++)
        if (f->over[i])
            memset(f->over[i], 0, PAGE);
    f->size = 0;
}

/* Part of what was pending reached the disk: `of_256` of the sectors, and of the names. */
void disk_build(struct dice *d, unsigned of_256, unsigned grain)
{
    file = mem_new(ninode * sizeof *file);
    for (size_t i = 0; i < ninode; i++) {
        struct inode *x = inode[i];
        struct file *f = &file[i];
        *f = (struct file){ .under = x, .size = x->size };
        for (size_t k = 0; k < x->npending; k++) {
            const struct record *r = &rec->slot[x->pending[k]];
            const uint8_t *p = data_of(r);
            if (r->type == RECORD_TRUNCATE) {
                if (chance(d, of_256))
                    wipe(f);
                continue;
            }
            for (uint64_t at = r->at, end = at + r->n; at < end;) {
                uint64_t part = MIN(grain - at % grain, end - at);
                if (!p)
                    part = end - at; /* zeros into what is zero: only the length counts */
                if (chance(d, of_256))
                    put(f, at, p ? p + (at - r->at) : NULL, part);
                at += part;
            }
        }
    }
    for (size_t i = 0; i < durable.n; i++)
        name_set(&names, durable.p[i].z, durable.p[i].inode);
    for (size_t i = 0; i < nmoves; i++)
        if (chance(d, of_256))
            name_change(&names, &rec->slot[moves[i].slot], moves[i].inode);
}

/* ---- the product's machine on top of it ---- */

static struct file *file_at(int fd)
{
    must(fd >= FILE_FD && (size_t)(fd - FILE_FD) < nopened && opened[fd - FILE_FD]);
    return opened[fd - FILE_FD];
}

static int d_open(int dir, const char *name, int flags, unsigned mode)
{
    int fd;

    (void)mode;
    if (dir != DIR_FD)
        return DIR_FD; /* the spool, or what is above it */
    pthread_mutex_lock(&mutex);
    struct name *x = name_find(&names, name);
    struct file *f = x ? file_of(x->inode) : NULL;
    if (!x && flags & O_CREAT) {
        struct inode *made = mem_new(sizeof *made);
        size_t n = ninode;
        inode = mem_grow(inode, (ninode + 1) * sizeof *inode);
        struct file *more = mem_new((n + 1) * sizeof *more);
        memcpy(more, file, n * sizeof *file);
        for (size_t i = 0; i < nopened; i++)
            if (opened[i])
                opened[i] = more + (opened[i] - file);
        file = more;
        inode[ninode++] = made;
        name_set(&names, name, made);
        f = &file[n];
        f->under = made;
    }
    if (!f)
        fd = -ENOENT;
    else if (nopened == COUNT(opened))
        fd = -EMFILE;
    else {
        if (flags & O_TRUNC)
            wipe(f);
        opened[nopened] = f;
        fd = FILE_FD + (int)nopened++;
    }
    pthread_mutex_unlock(&mutex);
    return fd;
}

static ssize_t d_read(int fd, void *to, size_t n, uint64_t at)
{
    pthread_mutex_lock(&mutex);
    struct file *f = file_at(fd);
    n = at >= f->size ? 0 : MIN(n, f->size - at);
    for (size_t done = 0; done < n;) {
        size_t part = MIN(PAGE - at % PAGE, n - done);
        const uint8_t *p = page_at(f, at / PAGE);
        if (p)
            memcpy((char *)to + done, p + at % PAGE, part);
        else
            memset((char *)to + done, 0, part);
        at += part;
        done += part;
    }
    pthread_mutex_unlock(&mutex);
    return (ssize_t)n;
}

static ssize_t d_write(int fd, const struct iovec *iov, int n, uint64_t at)
{
    size_t all = 0;

    pthread_mutex_lock(&mutex);
    for (int i = 0; i < n; i++) {
        put(file_at(fd), at + all, iov[i].iov_base, iov[i].iov_len);
        all += iov[i].iov_len;
    }
    pthread_mutex_unlock(&mutex);
    return (ssize_t)all;
}

static int d_write_back(int fd, uint64_t at, size_t n) { (void)fd, (void)at, (void)n; return 0; }
static int d_sync(int fd) { (void)fd; return 0; }
static int64_t d_size(int fd) { return (int64_t)file_at(fd)->size; }
static int d_truncate(int fd, uint64_t n)
{
    pthread_mutex_lock(&mutex);
    if (n == 0)
        wipe(file_at(fd));
    file_at(fd)->size = n;
    pthread_mutex_unlock(&mutex);
    return 0;
}

static int d_rename(int dir, const char *from, const char *to)
{
    (void)dir;
    pthread_mutex_lock(&mutex);
    struct name *x = name_find(&names, from);
    struct inode *was = x ? x->inode : NULL;
    if (was) {
        name_drop(&names, from);
        name_set(&names, to, was);
    }
    pthread_mutex_unlock(&mutex);
    return was ? 0 : -ENOENT;
}

static int d_unlink(int dir, const char *name)
{
    (void)dir;
    pthread_mutex_lock(&mutex);
    bool there = name_find(&names, name);
    name_drop(&names, name);
    pthread_mutex_unlock(&mutex);
    return there ? 0 : -ENOENT;
}

static int d_list(int dir, int (*each)(void *ctx, const char *name), void *ctx)
{
    struct names copy = { 0 };
    int got = 0;

    (void)dir;
    for (size_t i = 0; i < names.n; i++)
        name_set(&copy, names.p[i].z, names.p[i].inode);
    for (size_t i = 0; i < copy.n && got == 0; i++)
        got = each(ctx, copy.p[i].z);
    mem_free(copy.p);
    return got;
}

static int64_t d_free(int dir) { (void)dir; return INT64_C(1) << 40; }
static int d_lock(int fd) { (void)fd; return 0; }
static int d_make_dir(int dir, const char *name, unsigned mode) { (void)dir, (void)name, (void)mode; return -EEXIST; }
static int d_close(int fd) { return fd >= DIR_FD ? 0 : machine_linux.close(fd); }

void disk_machine(struct machine *m)
{
    m->file_open = d_open, m->file_read = m->file_read_cached = d_read, m->file_write = d_write;
    m->file_sync = m->file_sync_all = d_sync, m->file_write_back = d_write_back, m->file_size = d_size, m->file_truncate = d_truncate;
    m->file_rename = d_rename, m->file_unlink = d_unlink, m->file_list = d_list, m->file_free = d_free;
    m->file_lock = d_lock, m->file_make_dir = d_make_dir, m->close = d_close;
}
