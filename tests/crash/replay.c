/* Cuts the power at chosen places of a recorded run (record.h) and lets the product's own recovery loose on what a disk may hold then.
 *
 *   replay LOG [--cuts N] [--subsets N] [--seed N] [--cut SLOT] [--jobs N] [--verbose]
 *
 * At a cut, all that was synced is there. Of each write after that any set of its 512-octet sectors may be there, and any set of the names
 * given since the directory was last synced. The disk lives in memory, under the product's machine (task/task.h); a
 * page of it points into the log where it can, so that a cut costs a fork and what recovery reads.
 *
 * Every id acknowledged before the cut must be loaded, whole, or have been taken by the next hop. Prints one line a violation,
 * with the cut that repeats it (--seed S --cut N), and a summary. Exits with 1 when there was a violation. */
#include "crash/record.h"
#include "spool/frame.h"
#include "spool/spool.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define SECTOR 512u
#define DIR_FD 1000000
#define FILE_FD 1000001
#define SUBSETS_MAX 16
#define THREADS 2                       /* of the recorded relay; each may be 256 outcomes late */
#define LATE_MOST (THREADS * 256 + 64)  /* and so many are under way */

static const struct record_log *rec;
static uint64_t nslots;
static uint64_t seed = 1;
static bool verbose;

static const uint8_t *data_of(const struct record *r) { return r->data ? (const uint8_t *)rec + r->data : NULL; }

/* ---- chance: the same for the same seed, cut and subset ---- */

struct dice { uint64_t s; };

static uint64_t roll(struct dice *d)
{
    uint64_t z = (d->s += UINT64_C(0x9e3779b97f4a7c15));
    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}
static bool chance(struct dice *d, unsigned of_256) { return (roll(d) & 255) < of_256; }

/* ---- what was said ---- */

struct mail {
    ulid id;
    char blast[24];                     /* X-Blast-Id */
    uint64_t acked, taken;              /* slots; UINT64_MAX: never */
    uint64_t octets;
    uint32_t crc;                       /* of the body as it was written */
    bool whole;                         /* its message record was seen: what comes later is a copy */
};
static struct mail *mail;
static size_t nmail, mail_cap;
static uint32_t *by_id;                 /* hash of index + 1 */
static size_t by_id_cap;

static struct mail *mail_find(ulid id, bool make)
{
    size_t mask = by_id_cap - 1, at = ulid_hash(id) & mask;

    for (; by_id[at]; at = (at + 1) & mask)
        if (ulid_eq(mail[by_id[at] - 1].id, id))
            return &mail[by_id[at] - 1];
    if (!make)
        return NULL;
    must(nmail < by_id_cap / 2);
    if (nmail == mail_cap)
        mail = mem_grow(mail, (mail_cap = MAX(mail_cap * 2, 1024)) * sizeof *mail);
    mail[nmail] = (struct mail){ .id = id, .acked = UINT64_MAX, .taken = UINT64_MAX };
    by_id[at] = (uint32_t)++nmail;
    return &mail[nmail - 1];
}

/* The frames of a batch, as the committer wrote them. */
static void learn_batch(const struct record *r)
{
    const uint8_t *p = data_of(r);
    struct frame f;

    for (uint32_t at = 0; p && at + FRAME_HEAD <= r->n; at += 8) {
        const uint8_t *q = p + at;
        if (frame_check(q, r->n - at, le32(q + 12), le32(q + 16), (uint32_t)r->at + at, &f) != OK)
            continue;
        if (f.type == FRAME_BODY || f.type == FRAME_CHUNK || f.type == FRAME_MESSAGE) {
            struct mail *m = mail_find(f.id, true);
            if (f.type == FRAME_MESSAGE)
                m->whole = true;
            else if (!m->whole) {
                m->crc = crc32c(m->crc, f.body, f.n);
                m->octets += f.n;
                static const char field[] = "X-Blast-Id: ";
                const char *x = m->blast[0] ? NULL : memmem(f.body, MIN(f.n, 2048), field, sizeof field - 1);
                if (x)
                    memcpy(m->blast, x + sizeof field - 1, 19);
            }
        }
        at += frame_size(f.n) - 8;
    }
}

static int by_blast(const void *a, const void *b)
{
    return strcmp(mail[*(const uint32_t *)a].blast, mail[*(const uint32_t *)b].blast);
}

static void learn_mails(void)
{
    for (by_id_cap = 1024; by_id_cap < nslots * 4; by_id_cap *= 2)
        ;
    by_id = mem_new(by_id_cap * sizeof *by_id);
    for (uint64_t i = 0; i < nslots; i++) {
        const struct record *r = &rec->slot[i];
        ulid id;
        if (r->type == RECORD_WRITE && r->at >= PAGE && r->at % PAGE == 0)
            learn_batch(r);
        if (r->type == RECORD_ACK && ulid_parse(str_of((const char *)data_of(r), r->n), &id))
            mail_find(id, true)->acked = i;
    }
    uint32_t *sorted = mem_new(nmail * sizeof *sorted);
    for (size_t i = 0; i < nmail; i++)
        sorted[i] = (uint32_t)i;
    qsort(sorted, nmail, sizeof *sorted, by_blast);
    for (uint64_t i = nslots; i-- > 0;) {
        const struct record *r = &rec->slot[i];
        if (r->type != RECORD_TAKEN)
            continue;
        size_t low = 0, high = nmail;
        while (low < high) {
            size_t mid = low + (high - low) / 2;
            if (strncmp(mail[sorted[mid]].blast, (const char *)data_of(r), 19) < 0)
                low = mid + 1;
            else
                high = mid;
        }
        if (low < nmail && strncmp(mail[sorted[low]].blast, (const char *)data_of(r), 19) == 0)
            mail[sorted[low]].taken = i; /* going backwards: the first time stays */
    }
    mem_free(sorted);
}

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

static void step(uint64_t i)
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
static void build(struct dice *d, unsigned of_256, unsigned grain)
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

/* ---- a trial ---- */

struct result { uint32_t status, lost, torn_mails, twice, damaged, loaded; uint64_t oldest_ns; char what[160]; };

struct trial { uint64_t cut; struct result *r; bool *loaded; struct spool_port *port; };

static void tell(struct trial *t, const char *form, struct mail *m)
{
    char id[ULID_TEXT];
    if (!t->r->what[0])
        snprintf(t->r->what, sizeof t->r->what, "%s %.*s (%s), acknowledged in slot %lld", form, STR(ulid_print(m->id, id)), m->blast,
                 (long long)m->acked);
}

static err each(void *ctx, const struct message *msg, const struct rcpt_state *state)
{
    struct trial *t = ctx;
    struct mail *m = mail_find(msg->id, false);
    AUTO_ARENA a = arena_new();
    uint64_t octets = 0;
    uint32_t crc = 0;

    (void)state;
    t->r->loaded++;
    if (!m)
        return OK; /* its record was torn in the log of a killed process, so it was not acknowledged */
    t->loaded[m - mail] = true;
    for (size_t i = 0; i < msg->npiece; i++) {
        str p = { 0 };
        if (spool_read_piece(t->port, msg->piece[i], a, &p) != OK) {
            t->r->torn_mails += m->acked < t->cut;
            tell(t, "cannot be read:", m);
            return OK;
        }
        crc = crc32c(crc, p.p, p.n);
        octets += p.n;
    }
    if (m->acked < t->cut && (crc != m->crc || octets != m->octets)) {
        t->r->torn_mails++;
        tell(t, "is not what it was:", m);
    }
    return OK;
}

static err trial_run(void *arg)
{
    struct trial *t = arg;
    struct spool *s;
    struct spool_loaded count;
    struct spool_setup setup = { .dir = S("disk"), .reserve = 1, .ahead = 1 };

    err e = spool_open(&setup, &s);
    if (e != OK) {
        t->r->status = 2;
        snprintf(t->r->what, sizeof t->r->what, "the spool does not open: %.*s", STR(err_text()));
        return OK;
    }
    t->port = spool_port_open(s);
    e = spool_load(s, each, t, &count);
    if (e != OK) {
        t->r->status = 3;
        snprintf(t->r->what, sizeof t->r->what, "the backlog does not load: %.*s", STR(err_text()));
    }
    t->r->damaged = (uint32_t)count.damaged;
    if (e == OK)
        t->r->status = 1;
    return OK; /* nothing is closed: the process ends here, as by a second power cut */
}

static void judge(struct trial *t)
{
    uint64_t now = t->cut ? rec->slot[t->cut - 1].ns : 0;

    for (size_t i = 0; i < nmail; i++) {
        struct mail *m = &mail[i];
        bool gone = m->taken < t->cut;
        if (m->acked < t->cut && !gone && !t->loaded[i]) {
            t->r->lost++;
            tell(t, "LOST", m);
        }
        if (gone && t->loaded[i]) {
            t->r->twice++;
            t->r->oldest_ns = MAX(t->r->oldest_ns, now - MIN(now, rec->slot[m->taken].ns));
        }
    }
}

static void trial(uint64_t cut, unsigned subset, struct result *r)
{
    static const struct { unsigned of_256, grain; } kinds[] = { { 128, SECTOR }, { 0, SECTOR }, { 256, SECTOR }, { 230, SECTOR }, { 40, PAGE } };
    struct dice d = { .s = seed * 1000003 + cut * 31 + subset };
    struct machine ours = machine_linux;
    struct trial t = { .cut = cut, .r = r, .loaded = mem_new(nmail + 1) };

    build(&d, kinds[subset % COUNT(kinds)].of_256, kinds[subset % COUNT(kinds)].grain);
    ours.file_open = d_open, ours.file_read = ours.file_read_cached = d_read, ours.file_write = d_write;
    ours.file_sync = ours.file_sync_all = d_sync, ours.file_size = d_size, ours.file_truncate = d_truncate;
    ours.file_rename = d_rename, ours.file_unlink = d_unlink, ours.file_list = d_list, ours.file_free = d_free;
    ours.file_lock = d_lock, ours.file_make_dir = d_make_dir, ours.close = d_close;
    machine = &ours;
    err e = task_main(trial_run, &t);
    (void)e;
    if (r->status == 1)
        judge(&t);
}

/* ---- all of them ---- */

static int by_number(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

/* Half of them anywhere, half where names, heads and processes change. */
static size_t choose(uint64_t *cut, size_t n)
{
    struct dice d = { .s = seed };
    uint64_t *special = mem_new(nslots * sizeof *special);
    size_t nspecial = 0, kept = 0;

    for (uint64_t i = 0; i < nslots; i++) {
        const struct record *r = &rec->slot[i];
        bool plain = r->type == RECORD_ACK || r->type == RECORD_TAKEN || r->type == RECORD_NONE || r->type == RECORD_SYNC
                     || (r->type == RECORD_WRITE && (r->at || !r->data) && r->at != PAGE);
        if (!plain)
            special[nspecial++] = i;
    }
    for (size_t i = 0; i < n; i++)
        cut[i] = i % 2 && nspecial ? MIN(special[roll(&d) % nspecial] + roll(&d) % 3, nslots) : 1 + roll(&d) % nslots;
    qsort(cut, n, sizeof *cut, by_number);
    for (size_t i = 0; i < n; i++)
        if (!kept || cut[kept - 1] != cut[i])
            cut[kept++] = cut[i];
    mem_free(special);
    return kept;
}

int main(int argc, char **argv)
{
    size_t ncut = 500, subsets = 4, jobs = 2;
    uint64_t only = UINT64_MAX;

    for (int i = 2; i + 1 < argc; i += 2) {
        uint64_t v = strtoull(argv[i + 1], NULL, 0);
        if (strcmp(argv[i], "--cuts") == 0) ncut = v;
        else if (strcmp(argv[i], "--subsets") == 0) subsets = MIN(v, SUBSETS_MAX);
        else if (strcmp(argv[i], "--seed") == 0) seed = v;
        else if (strcmp(argv[i], "--cut") == 0) only = v;
        else if (strcmp(argv[i], "--jobs") == 0) jobs = v;
        else if (strcmp(argv[i], "--verbose") == 0) verbose = v;
        else return fprintf(stderr, "replay: what is %s for?\n", argv[i]), 2;
    }
    int fd = argc > 1 ? open(argv[1], O_RDONLY | O_CLOEXEC) : -1;
    if (fd < 0)
        return fprintf(stderr, "replay LOG [--cuts N] [--subsets N] [--seed N] [--cut SLOT] [--jobs N] [--verbose 1]\n"), 2;
    rec = mmap(NULL, RECORD_BYTES, PROT_READ, MAP_SHARED, fd, 0);
    must(rec != MAP_FAILED);
    if (rec->full)
        return fprintf(stderr, "replay: the log was too small for all of it\n"), 2;
    nslots = rec->slots;
    learn_mails();

    uint64_t *cut = mem_new((ncut + 1) * sizeof *cut);
    if (only != UINT64_MAX)
        cut[0] = only, ncut = 1;
    else
        ncut = choose(cut, ncut);
    struct result *all = mmap(NULL, (ncut + 1) * SUBSETS_MAX * sizeof *all, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    must(all != MAP_FAILED);

    size_t running = 0;
    uint64_t at = 0;
    for (size_t i = 0; i < ncut; i++) {
        for (; at < cut[i]; at++)
            step(at);
        for (size_t k = 0; k < subsets; k++) {
            if (running >= jobs && wait(NULL) > 0)
                running--;
            pid_t pid = fork();
            must(pid >= 0);
            running += pid > 0;
            if (pid)
                continue;
            if (!verbose && !freopen("/dev/null", "w", stderr))
                _exit(9);
            alarm(60);
            trial(cut[i], (unsigned)k, &all[i * SUBSETS_MAX + k]);
            _exit(0);
        }
    }
    while (wait(NULL) > 0)
        ;

    uint64_t trials = 0, bad = 0, lost = 0, twice = 0, most_twice = 0, oldest = 0, loaded = 0, damaged = 0, acked = 0;
    for (size_t i = 0; i < nmail; i++)
        acked += mail[i].acked != UINT64_MAX;
    for (size_t i = 0; i < ncut; i++)
        for (size_t k = 0; k < subsets; k++) {
            struct result *r = &all[i * SUBSETS_MAX + k];
            trials++;
            lost += r->lost;
            twice += r->twice;
            loaded += r->loaded;
            damaged += r->damaged > 0;
            most_twice = MAX(most_twice, r->twice);
            oldest = MAX(oldest, r->oldest_ns);
            if (r->status == 0)
                snprintf(r->what, sizeof r->what, "recovery died or stood still");
            if (r->status == 1 && !r->lost && !r->torn_mails && !r->damaged && r->twice <= LATE_MOST)
                continue;
            if (r->damaged && !r->what[0])
                snprintf(r->what, sizeof r->what, "damage is reported where none was done");
            bad++;
            if (bad <= 20)
                printf("FAIL --seed %llu --cut %llu, subset %zu: %u lost, %u not whole, %u damaged, %u twice: %s\n", (unsigned long long)seed,
                       (unsigned long long)cut[i], k, r->lost, r->torn_mails, r->damaged, r->twice, r->what);
        }
    printf("power cuts: %zu places x %zu subsets of %llu records (%zu messages, %llu acknowledged): %llu recoveries, %llu loaded, %llu lost, %llu with "
           "false damage, at most %llu would come twice, the oldest %.1f ms after it was taken; seed %llu\n",
           ncut, subsets, (unsigned long long)nslots, nmail, (unsigned long long)acked, (unsigned long long)trials, (unsigned long long)loaded,
           (unsigned long long)lost, (unsigned long long)damaged, (unsigned long long)most_twice, (double)oldest / 1e6, (unsigned long long)seed);
    (void)twice;
    printf("%llu passed, %llu failed\n", (unsigned long long)(trials - bad), (unsigned long long)bad);
    return bad > 0;
}
