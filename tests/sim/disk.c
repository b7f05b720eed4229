/* The disk: what a program reads back, and what is there after the power went. */
#include "sim/inside.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>

#define PAGE 4096
#define SECTOR 512

/* Both NULL: zeros, written or never. `dirty`: a bit a sector that the disk may lack. `going`: a sync is at it. */
struct page { uint8_t *cache, *durable; uint8_t dirty, going; };

struct entry { char name[64]; struct inode *inode; };
struct entries { struct entry *p; size_t n, cap; };
/* A change of names that no sync has made durable. */
struct change { enum { NAME_ADD, NAME_DEL, NAME_MOVE } kind; char name[64], to[64]; struct inode *inode; };

struct inode {
    struct inode *next;
    uint32_t number;
    bool dir;
    unsigned open;
    uint64_t size, durable_size;
    struct page *page; size_t npage;
    uint32_t *touched; size_t ntouched, touched_cap; /* pages with dirty or going sectors, some twice */
    struct entries now, durable;
    struct change *change; size_t nchange, change_cap;
    uint64_t settled;           /* changes made durable, ever */
    struct file *lock;
    bool marked;
};

struct file { struct inode *inode; };

struct disk {
    struct sim_disk how;
    struct inode *all, *root;
    uint32_t number;
};

static const uint8_t zeros[PAGE];

struct sim_disk *sim_disk(void) { return &sim->disk->how; }

static bool happens(unsigned one_in) { return one_in && pick(&sim->device, one_in) == 0; }

static struct inode *inode_of(int fd)
{
    must(fd >= SIM_FD && (size_t)(fd - SIM_FD) < sim->nfd && sim->fd[fd - SIM_FD].file);
    return sim->fd[fd - SIM_FD].file->inode;
}

/* ---- names ---- */

static struct inode *inode_new(bool dir)
{
    struct inode *i = mem_new(sizeof *i);

    i->dir = dir;
    i->number = ++sim->disk->number;
    i->next = sim->disk->all;
    sim->disk->all = i;
    return i;
}

static struct entry *entry_find(struct entries *e, const char *name)
{
    for (size_t i = 0; i < e->n; i++)
        if (strcmp(e->p[i].name, name) == 0)
            return &e->p[i];
    return NULL;
}

static void entry_put(struct entries *e, const char *name, struct inode *inode)
{
    struct entry *there = entry_find(e, name);

    if (!there) {
        if (e->n == e->cap) {
            e->cap = e->cap ? e->cap * 2 : 16;
            e->p = mem_grow(e->p, e->cap * sizeof *e->p);
        }
        there = &e->p[e->n++];
    }
    must(strlen(name) < sizeof there->name);
    strcpy(there->name, name);
    there->inode = inode;
}

static void entry_del(struct entries *e, const char *name)
{
    struct entry *there = entry_find(e, name);
    if (there)
        *there = e->p[--e->n];
}

static void apply(struct entries *e, const struct change *c)
{
    switch (c->kind) {
    case NAME_ADD:
        entry_put(e, c->name, c->inode);
        break;
    case NAME_DEL:
        entry_del(e, c->name);
        break;
    case NAME_MOVE:             /* at once, or not at all */
        entry_del(e, c->name);
        entry_put(e, c->to, c->inode);
        break;
    }
}

static void change(struct inode *dir, int kind, const char *name, const char *to, struct inode *inode)
{
    struct change c = { .kind = kind, .inode = inode };

    must(strlen(name) < sizeof c.name && (!to || strlen(to) < sizeof c.to));
    strcpy(c.name, name);
    if (to)
        strcpy(c.to, to);
    if (dir->nchange == dir->change_cap) {
        dir->change_cap = dir->change_cap ? dir->change_cap * 2 : 16;
        dir->change = mem_grow(dir->change, dir->change_cap * sizeof c);
    }
    dir->change[dir->nchange++] = c;
    apply(&dir->now, &c);
}

/* ---- inodes that nobody can reach any more ---- */

static void mark(struct inode *i)
{
    if (!i || i->marked)
        return;
    i->marked = true;
    for (size_t k = 0; k < i->now.n; k++)
        mark(i->now.p[k].inode);
    for (size_t k = 0; k < i->durable.n; k++)
        mark(i->durable.p[k].inode);
    for (size_t k = 0; k < i->nchange; k++)
        mark(i->change[k].inode);
}

static void inode_free(struct inode *i)
{
    for (size_t k = 0; k < i->npage; k++) {
        free(i->page[k].cache);
        free(i->page[k].durable);
    }
    mem_free(i->page);
    mem_free(i->touched);
    mem_free(i->now.p);
    mem_free(i->durable.p);
    mem_free(i->change);
    mem_free(i);
}

static void collect(void)
{
    for (struct inode *i = sim->disk->all; i; i = i->next)
        i->marked = false;
    mark(sim->disk->root);
    for (struct inode *i = sim->disk->all; i; i = i->next)
        if (i->open)
            mark(i);
    for (struct inode **at = &sim->disk->all; *at;) {
        struct inode *i = *at;
        if (i->marked) {
            at = &i->next;
            continue;
        }
        *at = i->next;
        inode_free(i);
    }
}

uint64_t sim_disk_used(void)
{
    uint64_t n = 0;
    for (struct inode *i = sim->disk->all; i; i = i->next)
        n += i->size;
    return n;
}

/* The directory in which `path` has its last part, which goes to *last. */
static struct inode *walk(int dir, const char *path, char last[64])
{
    struct inode *at = dir >= 0 ? inode_of(dir) : sim->disk->root;
    str rest = str_z(path), part;

    last[0] = 0;
    if (path[0] == '/')
        at = sim->disk->root;
    while (str_cut(&rest, S("/"), &part)) {
        if (!part.n || str_eq(part, S(".")))
            continue;
        if (last[0]) {
            struct entry *e = entry_find(&at->now, last);
            if (!e || !e->inode->dir)
                return NULL;
            at = e->inode;
        }
        must(part.n < 64);
        memcpy(last, part.p, part.n);
        last[part.n] = 0;
    }
    return at;
}

static struct inode *lookup(const char *path)
{
    char last[64];
    struct inode *dir = walk(-1, path, last);
    struct entry *e = dir && last[0] ? entry_find(&dir->now, last) : NULL;

    return e ? e->inode : last[0] ? NULL : dir;
}

/* ---- octets ---- */

static struct page *page_at(struct inode *i, size_t n)
{
    if (n >= i->npage) {
        size_t more = MAX(n + 1, i->npage * 2);
        i->page = mem_grow(i->page, more * sizeof *i->page);
        memset(i->page + i->npage, 0, (more - i->npage) * sizeof *i->page);
        i->npage = more;
    }
    return &i->page[n];
}

static uint8_t *octets(uint8_t **p)
{
    if (!*p)
        *p = mem_new(PAGE);
    return *p;
}

static void touch(struct inode *i, uint32_t page)
{
    if (i->ntouched == i->touched_cap) {
        i->touched_cap = i->touched_cap ? i->touched_cap * 2 : 64;
        i->touched = mem_grow(i->touched, i->touched_cap * sizeof *i->touched);
    }
    i->touched[i->ntouched++] = page;
}

static void write_octets(struct inode *i, uint64_t at, const uint8_t *p, size_t n)
{
    while (n) {
        size_t off = at % PAGE, part = MIN(n, PAGE - off);
        struct page *g = page_at(i, at / PAGE);
        if (g->cache || memcmp(p, zeros, part) != 0) {
            memcpy(octets(&g->cache) + off, p, part);
            if (!g->dirty)
                touch(i, (uint32_t)(at / PAGE));
            for (size_t s = off / SECTOR; s <= (off + part - 1) / SECTOR; s++)
                g->dirty |= (uint8_t)(1u << s);
        }
        at += part;
        p += part;
        n -= part;
    }
    i->size = MAX(i->size, at);
}

static void read_octets(struct inode *i, uint64_t at, uint8_t *p, size_t n)
{
    while (n) {
        size_t off = at % PAGE, part = MIN(n, PAGE - off);
        const uint8_t *from = at / PAGE < i->npage ? i->page[at / PAGE].cache : NULL;
        if (from)
            memcpy(p, from + off, part);
        else
            memset(p, 0, part);
        at += part;
        p += part;
        n -= part;
    }
}

static void sector_to_disk(struct page *g, unsigned s)
{
    if (g->cache)
        memcpy(octets(&g->durable) + s * SECTOR, g->cache + s * SECTOR, SECTOR);
}

static void sector_from_disk(struct page *g, unsigned s)
{
    memcpy(octets(&g->cache) + s * SECTOR, (g->durable ? g->durable : zeros) + s * SECTOR, SECTOR);
}

/* What a sync takes with it when it begins; what is written from here on is the next one's. */
static void sync_begin(struct inode *i)
{
    for (size_t k = 0; k < i->ntouched; k++) {
        struct page *g = &i->page[i->touched[k]];
        g->going |= g->dirty;
        g->dirty = 0;
    }
}

static void sync_end(struct inode *i, bool ok)
{
    size_t left = 0;

    for (size_t k = 0; k < i->ntouched; k++) {
        struct page *g = &i->page[i->touched[k]];
        for (unsigned s = 0; s < 8; s++)
            if (g->going & 1u << s) {
                /* After a failure nobody knows: on the disk or not, and the page may be forgotten though it is not. It is
                 * clean either way: no later sync will write it. */
                if (ok || pick(&sim->device, 2))
                    sector_to_disk(g, s);
                else if (pick(&sim->device, 2))
                    sector_from_disk(g, s);
            }
        g->going = 0;
        if (g->dirty)
            i->touched[left++] = i->touched[k];
    }
    i->ntouched = left;
    if (ok)
        i->durable_size = i->size;
}

/* ---- the calls ---- */

/* The disk takes its time; who is no task meanwhile only stands still. */
static void spend(when time)
{
    if (time > 0 && task_running())
        task_sleep(sim->now + time);
}

static int file_open(int dir, const char *name, int flags, unsigned mode)
{
    char last[64];
    struct inode *in = walk(dir, name, last), *i;

    (void)mode;
    if (!in || !in->dir)
        return -ENOENT;
    if (!last[0]) {
        i = in;
    } else {
        struct entry *e = entry_find(&in->now, last);
        if (e && (flags & O_CREAT) && (flags & O_EXCL))
            return -EEXIST;
        if (!e && !(flags & O_CREAT))
            return -ENOENT;
        if (!e && sim->disk->how.full)
            return -ENOSPC;
        if (!e) {
            change(in, NAME_ADD, last, NULL, inode_new(false));
            e = entry_find(&in->now, last);
        }
        i = e->inode;
    }
    if ((flags & O_DIRECTORY) && !i->dir)
        return -ENOTDIR;
    struct file *f = mem_new(sizeof *f);
    f->inode = i;
    int fd = fd_new(NULL, f);
    if (fd < 0) {
        mem_free(f);
        return fd;
    }
    i->open++;
    if (flags & O_TRUNC)
        i->size = 0;
    return fd;
}

int disk_close(struct file *f)
{
    f->inode->open--;
    if (f->inode->lock == f)
        f->inode->lock = NULL;
    mem_free(f);
    collect();
    return 0;
}

static ssize_t file_read_cached(int fd, void *p, size_t n, uint64_t at)
{
    struct inode *i = inode_of(fd);

    if (i->dir)
        return -EISDIR;
    if (pick(&sim->device, 100) < sim->disk->how.cold)
        return -EAGAIN;
    n = at < i->size ? (size_t)MIN(n, i->size - at) : 0;
    read_octets(i, at, p, n);
    return (ssize_t)n;
}

static ssize_t file_read(int fd, void *p, size_t n, uint64_t at)
{
    struct inode *i = inode_of(fd);

    if (i->dir)
        return -EISDIR;
    if (pick(&sim->device, 100) < sim->disk->how.cold)
        spend(device_between(0, sim->disk->how.read_most));
    n = at < i->size ? (size_t)MIN(n, i->size - at) : 0;
    read_octets(i, at, p, n);
    return (ssize_t)n;
}

static uint64_t grown(const struct inode *i, uint64_t to) { return to > i->size ? to - i->size : 0; }

static ssize_t file_write(int fd, const struct iovec *iov, int n, uint64_t at)
{
    struct inode *i = inode_of(fd);
    struct sim_disk *how = &sim->disk->how;
    uint64_t all = 0, done = 0;

    for (int k = 0; k < n; k++)
        all += iov[k].iov_len;
    mix(at ^ all << 40 ^ i->number);
    if (how->broken || happens(how->write_fails)) {
        sim_tell("disk: a write fails (file %u)", i->number);
        return -EIO;
    }
    if (grown(i, at + all) && (how->full || (how->size && sim_disk_used() + grown(i, at + all) > how->size))) {
        if (how->full || at >= i->size)
            return -ENOSPC;
        all = i->size - at;     /* as far as there is room */
    }
    if (all > 1 && happens(how->write_short))
        all = 1 + pick(&sim->device, all);
    for (int k = 0; k < n && done < all; k++) {
        size_t part = (size_t)MIN(iov[k].iov_len, all - done);
        write_octets(i, at + done, iov[k].iov_base, part);
        done += part;
    }
    return (ssize_t)all;
}

static int sync_file(int fd)
{
    struct inode *i = inode_of(fd);
    struct sim_disk *how = &sim->disk->how;

    i->open++;                  /* whoever closes it meanwhile */
    sync_begin(i);
    spend(device_between(how->sync_least, how->sync_most));
    bool ok = !how->broken && !happens(how->sync_fails);
    if (!ok)
        sim_tell("disk: a sync fails (file %u)", i->number);
    sync_end(i, ok);
    i->open--;
    mix(i->number);
    return ok ? 0 : -EIO;
}

static int sync_dir(struct inode *i)
{
    struct sim_disk *how = &sim->disk->how;
    uint64_t until = i->settled + i->nchange;

    i->open++;
    spend(device_between(how->sync_least, how->sync_most));
    i->open--;
    if (how->broken || happens(how->sync_fails)) {
        sim_tell("disk: a sync of names fails");
        return -EIO;
    }
    size_t changes = until > i->settled ? (size_t)(until - i->settled) : 0; /* another sync may have been faster */
    for (size_t k = 0; k < changes; k++)
        apply(&i->durable, &i->change[k]);
    i->settled += changes;
    i->nchange -= changes;
    memmove(i->change, i->change + changes, i->nchange * sizeof *i->change);
    return 0;
}

static int file_write_back(int fd, uint64_t at, size_t n) { (void)fd, (void)at, (void)n; return 0; }
static int file_sync(int fd) { return inode_of(fd)->dir ? sync_dir(inode_of(fd)) : sync_file(fd); }

static int64_t file_size(int fd) { return (int64_t)inode_of(fd)->size; }

static int file_truncate(int fd, uint64_t n)
{
    struct inode *i = inode_of(fd);
    static const uint8_t page[PAGE];

    if (sim->disk->how.broken)
        return -EIO;
    if (grown(i, n) && (sim->disk->how.full || (sim->disk->how.size && sim_disk_used() + grown(i, n) > sim->disk->how.size)))
        return -ENOSPC;
    for (uint64_t at = n; at < i->size; at += MIN(PAGE - at % PAGE, i->size - at))
        write_octets(i, at, page, (size_t)MIN(PAGE - at % PAGE, i->size - at));
    i->size = n;
    return 0;
}

static int file_rename(int dir, const char *from, const char *to)
{
    struct inode *d = inode_of(dir);
    struct entry *e = entry_find(&d->now, from);

    if (!e)
        return -ENOENT;
    if (sim->disk->how.broken)
        return -EIO;
    change(d, NAME_MOVE, from, to, e->inode);
    collect();
    return 0;
}

static int file_unlink(int dir, const char *name)
{
    struct inode *d = inode_of(dir);

    if (!entry_find(&d->now, name))
        return -ENOENT;
    if (sim->disk->how.broken)
        return -EIO;
    change(d, NAME_DEL, name, NULL, NULL);
    collect();
    return 0;
}

static int file_link(int dir, const char *from, const char *to)
{
    struct inode *d = inode_of(dir);
    struct entry *e = entry_find(&d->now, from);

    if (!e)
        return -ENOENT;
    if (entry_find(&d->now, to))
        return -EEXIST;
    change(d, NAME_ADD, to, NULL, e->inode);
    return 0;
}

static int file_make_dir(int dir, const char *name, unsigned mode)
{
    char last[64];
    struct inode *in = walk(dir, name, last);

    (void)mode;
    if (!in || !in->dir)
        return -ENOENT;
    if (!last[0] || entry_find(&in->now, last))
        return -EEXIST;
    change(in, NAME_ADD, last, NULL, inode_new(true));
    return 0;
}

static int file_list(int dir, int (*each)(void *ctx, const char *name), void *ctx)
{
    struct inode *d = inode_of(dir);
    struct entries copy = { mem_new(MAX(d->now.n, 1) * sizeof *copy.p), d->now.n, d->now.n };
    int got = 0;

    if (d->now.n)
        memcpy(copy.p, d->now.p, d->now.n * sizeof *copy.p);
    for (size_t n = copy.n; n && got == 0; n--) { /* in no order */
        size_t k = (size_t)pick(&sim->device, n);
        got = each(ctx, copy.p[k].name);
        copy.p[k] = copy.p[n - 1];
    }
    mem_free(copy.p);
    return got;
}

static int64_t file_free(int dir)
{
    const struct sim_disk *how = &sim->disk->how;
    uint64_t used = sim_disk_used();

    (void)inode_of(dir);
    if (how->full)
        return 0;
    if (!how->size)
        return INT64_C(1) << 40;
    return used < how->size ? (int64_t)(how->size - used) : 0;
}

static int file_lock(int fd)
{
    struct file *f = sim->fd[fd - SIM_FD].file;
    struct inode *i = inode_of(fd);

    if (i->lock && i->lock != f)
        return -EWOULDBLOCK;
    i->lock = f;
    return 0;
}

const struct machine disk_machine = {
    .file_open = file_open, .file_read = file_read, .file_read_cached = file_read_cached, .file_write = file_write,
    .file_sync = file_sync, .file_write_back = file_write_back, .file_sync_all = file_sync, .file_size = file_size, .file_truncate = file_truncate,
    .file_rename = file_rename, .file_unlink = file_unlink, .file_link = file_link, .file_make_dir = file_make_dir,
    .file_list = file_list, .file_free = file_free, .file_lock = file_lock,
};

bool sim_disk_damage(const char *path, uint64_t at)
{
    struct inode *i = lookup(path);

    if (!i || i->dir || at >= i->size)
        return false;
    struct page *g = page_at(i, at / PAGE);
    octets(&g->cache)[at % PAGE] ^= 0x20;
    octets(&g->durable)[at % PAGE] = g->cache[at % PAGE];
    return true;
}

/* ---- crash, begin, end ---- */

/* Of what the disk may lack it has each sector or not; after it the cache is what the disk has. */
static void inode_crash(struct inode *i)
{
    for (size_t k = 0; k < i->npage; k++) {
        struct page *g = &i->page[k];
        for (unsigned s = 0; s < 8; s++)
            if ((g->dirty | g->going) & 1u << s && pick(&sim->device, 2))
                sector_to_disk(g, s);
        g->dirty = g->going = 0;
        if (!g->cache)
            continue;
        if (g->durable)
            memcpy(g->cache, g->durable, PAGE);
        else
            memset(g->cache, 0, PAGE);
    }
    i->ntouched = 0;
    if (pick(&sim->device, 2))
        i->size = i->durable_size;
    i->durable_size = i->size;
}

/* A journal keeps names in order; other file systems keep any of them. */
static void dir_crash(struct inode *i)
{
    bool any = pick(&sim->device, 2);
    size_t kept = pick(&sim->device, i->nchange + 1);

    for (size_t k = 0; k < i->nchange; k++)
        if (any ? pick(&sim->device, 2) : k < kept)
            apply(&i->durable, &i->change[k]);
    i->nchange = 0;
    i->now.n = 0;
    for (size_t k = 0; k < i->durable.n; k++)
        entry_put(&i->now, i->durable.p[k].name, i->durable.p[k].inode);
}

void disk_crash(enum sim_crash how)
{
    for (size_t k = 0; k < sim->nfd; k++)
        if (sim->fd[k].file && sim->fd[k].host == SIM_RELAY) {
            struct file *f = sim->fd[k].file;
            fd_free(SIM_FD + (int)k);
            f->inode->open--;
            if (f->inode->lock == f)
                f->inode->lock = NULL;
            mem_free(f);
        }
    for (struct inode *i = sim->disk->all; i; i = i->next) {
        i->open = 0;            /* a sync under way held it */
        if (how == SIM_KILL) {  /* the system goes on with what the program left: nothing is lost */
            for (size_t k = 0; k < i->ntouched; k++) {
                i->page[i->touched[k]].dirty |= i->page[i->touched[k]].going;
                i->page[i->touched[k]].going = 0;
            }
        } else if (i->dir) {
            dir_crash(i);
        } else {
            inode_crash(i);
        }
    }
    collect();
}

void disk_begin(void)
{
    sim->disk = mem_new(sizeof *sim->disk);
    sim->disk->root = inode_new(true);
    sim->disk->how = (struct sim_disk){ .sync_least = 100, .sync_most = MILLISECOND, .read_most = 5 * MILLISECOND };
}

void disk_end(void)
{
    for (size_t k = 0; k < sim->nfd; k++)
        if (sim->fd[k].file) {
            mem_free(sim->fd[k].file);
            fd_free(SIM_FD + (int)k);
        }
    while (sim->disk->all) {
        struct inode *next = sim->disk->all->next;
        inode_free(sim->disk->all);
        sim->disk->all = next;
    }
    mem_free(sim->disk);
}
