/* A stopped Postfix' queue, into a spool. */
#include "cli/cli.h"
#include "cli/postfix_queue.h"
#include "spool/spool.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#define DEEP_MOST 20            /* hash_queue_depth, and some */
#define AT_ONCE 64              /* files that share a sync, */
#define BYTES_AT_ONCE (64 << 20) /* and what they may hold */
#define HOLD_MOST (30 * DAY)    /* as `waypost queue hold` without --for */

static const char *const queues[] = { "incoming", "active", "deferred", "hold" };

struct import {
    struct postfix_queue_job *j;
    struct spool_port *port;
    arena *a;                   /* the run's */
    struct map known;           /* ids of what waits in the spool */
};
/* One file, by a task of its own. */
struct one { struct import *i; arena *a; int dir; const char *base; str name; bool held; };

/* ---- told ---- */

static void tell(struct import *i, arena *a, str name, const char *what, ulid id, size_t rcpts, str why)
{
    char text[ULID_TEXT];
    AUTO_BUF out = { 0 };

    if (i->j->json) {
        buf_add(&out, S("{\"file\":"));
        buf_add_json(&out, name);
        buf_addf(&out, ",\"result\":\"%s\"", what);
        if (!ulid_zero(id))
            buf_addf(&out, ",\"id\":\"%.*s\",\"recipients\":%zu", STR(ulid_print(id, text)), rcpts);
        if (why.n) {
            buf_add(&out, S(",\"reason\":"));
            buf_add_json(&out, why);
        }
        buf_add(&out, S("}\n"));
    } else {
        buf_addf(&out, "%.*s: %s", STR(str_printable(a, name)), what);
        if (!ulid_zero(id))
            buf_addf(&out, " as %.*s, %zu recipient%s", STR(ulid_print(id, text)), rcpts, rcpts == 1 ? "" : "s");
        buf_addf(&out, why.n ? ": %.*s\n" : "\n", STR(str_printable(a, why)));
    }
    fwrite(out.p, 1, out.n, stdout);
}

static void refuse(const struct one *f)
{
    f->i->j->refused++;
    tell(f->i, f->a, f->name, "refused", (ulid){ { 0 } }, 0, str_dup(f->a, err_text()));
}

/* ---- one file ---- */

/* The same file has the same id whenever it is imported: who was interrupted may begin anew. */
static ulid id_of(str name, const struct postfix_mail *m)
{
    uint64_t h[2] = { 0xcbf29ce484222325, 0x9ae16a3b2f90404f }, ms = (uint64_t)MAX(m->arrived, 0) / 1000;
    str parts[] = { str_from(name, name.n - MIN(name.n, 20)), m->env.sender, str_of((const char *)&m->arrived, sizeof m->arrived) };
    ulid id;

    for (size_t k = name.n; k-- > 0;)
        if (name.p[k] == '/') {
            parts[0] = str_from(name, k + 1);   /* it may have moved from active to deferred meanwhile */
            break;
        }
    for (size_t p = 0; p < COUNT(parts); p++)
        for (size_t k = 0; k < parts[p].n; k++)
            for (size_t n = 0; n < 2; n++)      /* FNV-1a, from two starts */
                h[n] = (h[n] ^ (unsigned char)parts[p].p[k] ^ p << 8) * 0x100000001b3;
    for (int k = 5; k >= 0; k--, ms >>= 8)
        id.b[k] = (uint8_t)ms;
    memcpy(id.b + 6, &h[0], 8);
    memcpy(id.b + 14, &h[1], 2);
    return id;
}

static void remember(struct import *i, ulid id)
{
    str key = str_dup(i->a, str_of((const char *)id.b, sizeof id.b));
    map_put(&i->known, key, i);
}

/* Bodies of some size go in chunks, as they do when they are received. */
static err store(const struct one *f, struct message *m, str body)
{
    struct import *i = f->i;
    struct spool_piece *piece = NEW_ARRAY(f->a, struct spool_piece, body.n / SPOOL_CHUNK + 1);
    size_t n = 0;

    if (body.n <= SPOOL_CHUNK) {
        AUTO(spool_slab) slab = spool_slab_new(MAX(body.n, 1));
        buf_add(&slab->body, body);
        return spool_accept(i->port, f->a, m, slab);
    }
    for (size_t at = 0; at < body.n; at += SPOOL_CHUNK, n++) {
        err e = spool_chunk(i->port, m->id, str_head(str_from(body, at), SPOOL_CHUNK), &piece[n]);
        if (e != OK) {
            spool_abort(i->port, m->id, piece, n);
            return e;
        }
    }
    m->piece = piece;
    m->npiece = n;
    err e = spool_accept(i->port, f->a, m, NULL);
    if (e != OK)
        spool_abort(i->port, m->id, piece, n);
    return e;
}

/* What a relay reads as "held by an operator" when it starts. */
static void hold(const struct one *f, const struct message *m)
{
    struct rcpt_state *state = NEW_ARRAY(f->a, struct rcpt_state, m->env.nrcpt);

    for (uint32_t k = 0; k < m->env.nrcpt; k++)
        state[k] = (struct rcpt_state){ .index = k, .status = RCPT_WAITING, .version = 1, .last = wall_now(), .next = wall_now() + HOLD_MOST,
                                        .reply = S("held: it lay in Postfix' hold queue") };
    spool_outcome(f->i->port, m->id, m->at, state, m->env.nrcpt, false);
}

static str remarks(arena *a, const struct postfix_mail *p)
{
    struct buf out = buf_in(a, 200);

    if (p->settled)
        buf_addf(&out, "; %zu recipient%s settled before", p->settled, p->settled == 1 ? " was" : "s were");
    if (p->filter.n)
        buf_addf(&out, "; it has not passed its content filter %.*s, and will not", STR(p->filter));
    if (p->verp)
        buf_add(&out, S("; its sender will not be made one for each recipient (VERP)"));
    if (p->double_bounce)
        buf_add(&out, S("; from <> instead of double-bounce"));
    return str_from(buf_str(&out), out.n ? 2 : 0);
}

/* An error is of the spool, and ends it all; what is wrong with the file is told. */
static err take_file(const struct one *f, str octets)
{
    struct import *i = f->i;
    struct postfix_queue_job *j = i->j;
    struct postfix_mail p;

    if (postfix_mail_parse(f->a, octets, &p) != OK) {
        refuse(f);
        return OK;
    }
    AUTO_BUF body = p.body;
    ulid id = id_of(f->name, &p);
    if (p.env.nrcpt == 0) {
        j->settled++;
        tell(i, f->a, f->name, "settled", (ulid){ { 0 } }, 0, S("no recipient of it waits"));
        return OK;
    }
    if (map_get(&i->known, str_of((const char *)id.b, sizeof id.b))) {
        j->known++;
        tell(i, f->a, f->name, "known", id, p.env.nrcpt, S("it is in the spool already"));
        return OK;
    }
    struct message m = { .id = id, .env = p.env, .origin = { .listener = S("postfix"), .client = p.client, .client_name = p.client_name,
                                                              .ehlo = p.helo, .login = p.login, .accepted = p.arrived } };
    scan_init(&m.scan);
    scan_feed(&m.scan, buf_str(&body));
    scan_end(&m.scan);
    if (m.scan.eight_bit_body || m.scan.eight_bit_header)
        m.env.body = BODY_8BIT;
    remember(i, id);             /* at once: others are under way */
    err e = store(f, &m, buf_str(&body));
    if (e == E_LIMIT) {         /* its envelope is larger than a segment */
        refuse(f);
        return OK;
    }
    TRY(e);
    if (f->held)
        hold(f, &m);
    j->taken++;
    j->rcpts += m.env.nrcpt;
    j->held += f->held;
    tell(i, f->a, f->name, f->held ? "held" : "taken", id, m.env.nrcpt, remarks(f->a, &p));
    return OK;
}

static err read_file(int fd, const struct stat *st, struct buf *ret)
{
    buf_reserve(ret, (size_t)st->st_size + 1);
    for (;;) {
        ssize_t n = read(fd, ret->p + ret->n, ret->cap - ret->n);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return fail_errno(errno, "reading");
        if (n == 0)
            return OK;
        ret->n += (size_t)n;
        if (ret->n == ret->cap)
            return fail(E_SYNTAX, "it grows while it is read: is Postfix running?");
    }
}

static err open_file(const struct one *f, struct buf *octets)
{
    struct stat st;
    int fd = openat(f->dir, f->base, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    err e = fd < 0 || fstat(fd, &st) < 0 ? fail_errno(errno, "opening") : OK;

    if (e == OK && !S_ISREG(st.st_mode))
        e = fail(E_SYNTAX, "this is no file");
    if (e == OK && !(st.st_mode & S_IXUSR)) /* Postfix sets this bit last, before it answers the client */
        e = fail(E_SYNTAX, "it was never finished, so nobody was told that it was taken");
    if (e == OK && st.st_size > POSTFIX_FILE_MOST)
        e = fail(E_LIMIT, "it is larger than 1 GiB");
    if (e == OK)
        e = read_file(fd, &st, octets);
    if (fd >= 0)
        close(fd);
    return e;
}

static err file_task(void *arg)
{
    struct one *f = arg;
    AUTO_ARENA a = arena_new();
    AUTO_BUF octets = { 0 };

    f->a = a;
    if (open_file(f, &octets) == OK)
        return take_file(f, buf_str(&octets));
    refuse(f);
    return OK;
}

/* ---- directories ---- */

struct batch { arena *a; struct one one[AT_ONCE]; size_t n; uint64_t bytes; };

/* Each has a task, so that one sync is for all of them. */
static err batch_run(struct batch *b)
{
    AUTO_GROUP g = group_open(NEVER);
    err e = OK;

    for (size_t k = 0; k < b->n && e == OK; k++)
        e = group_spawn(&g, "file", file_task, &b->one[k]);
    err done = group_wait(&g);
    b->n = 0;
    b->bytes = 0;
    arena_reset(b->a);
    return e != OK ? e : done;
}

static err walk(struct import *i, int fd, str name, unsigned deep, bool held);

static err walk_below(struct import *i, int dir, const char *base, str name, unsigned deep, bool held)
{
    int below = deep < DEEP_MOST ? openat(dir, base, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC) : -1;

    if (below >= 0)
        return walk(i, below, name, deep, held);
    AUTO_ARENA a = arena_new();
    fail(E_LIMIT, "a directory that cannot be entered, or too deep");
    refuse(&(struct one){ .i = i, .a = a, .name = name });
    return OK;
}

static err walk_dir(struct import *i, DIR *dir, str name, unsigned deep, bool held, struct batch *b)
{
    const struct dirent *e;
    struct stat st;

    while ((e = readdir(dir))) {
        if (e->d_name[0] == '.')
            continue;
        bool known = fstatat(dirfd(dir), e->d_name, &st, AT_SYMLINK_NOFOLLOW) == 0;
        if (known && S_ISDIR(st.st_mode)) {
            TRY(batch_run(b));
            TRY(walk_below(i, dirfd(dir), e->d_name, str_printf(b->a, "%.*s/%s", STR(name), e->d_name), deep + 1, held));
            continue;
        }
        b->one[b->n++] = (struct one){ .i = i, .dir = dirfd(dir), .base = str_cz(b->a, str_z(e->d_name)), .held = held,
                                       .name = str_printf(b->a, "%.*s/%s", STR(name), e->d_name) };
        b->bytes += known ? (uint64_t)st.st_size : 0;
        if (b->n == AT_ONCE || b->bytes > BYTES_AT_ONCE)
            TRY(batch_run(b));
    }
    return batch_run(b);
}

static err walk(struct import *i, int fd, str name, unsigned deep, bool held)
{
    DIR *dir = fdopendir(fd);
    AUTO_ARENA a = arena_new();
    struct batch *b = NEW(i->a, struct batch);

    b->a = a;
    if (!dir) {
        close(fd);
        return fail_errno(errno, "%.*s", STR(name));
    }
    err done = walk_dir(i, dir, name, deep, held, b);
    closedir(dir);
    return done;
}

bool postfix_queue_is(str dir)
{
    AUTO_ARENA a = arena_new();
    struct stat st;

    for (size_t k = 0; k < COUNT(queues); k++)
        if (stat(str_cz(a, str_printf(a, "%.*s/%s", STR(dir), queues[k])), &st) < 0 || !S_ISDIR(st.st_mode))
            return false;
    return true;
}

/* Its master holds a lock on its pid file for as long as it lives. */
static err stopped(arena *a, str queue)
{
    int fd = open(str_cz(a, str_printf(a, "%.*s/pid/master.pid", STR(queue))), O_RDONLY | O_CLOEXEC);
    struct flock record = { .l_type = F_RDLCK, .l_whence = SEEK_SET };
    bool running;

    if (fd < 0)
        return OK;
    running = (flock(fd, LOCK_SH | LOCK_NB) < 0 && errno == EWOULDBLOCK)
              || (fcntl(fd, F_GETLK, &record) == 0 && record.l_type != F_UNLCK); /* the other way it may lock */
    close(fd);
    return running ? fail(E_EXISTS, "Postfix runs on %.*s: stop it first (postfix stop)", STR(queue)) : OK;
}

static err note_known(void *ctx, const struct message *m, const struct rcpt_state *state)
{
    (void)state;
    remember(ctx, m->id);
    return OK;
}

/* Mail that has not reached the queue proper, and reports that were not sent: an operator must hear of them. */
static void tell_left(struct import *i)
{
    static const struct { const char *dir, *what; } left[] = {
        { "maildrop", "handed to sendmail and not picked up yet: start Postfix once more, or send it again" },
        { "bounce", "lists failures whose sender was not told yet" },
        { "corrupt", "was set aside as damaged by Postfix" },
    };
    for (size_t k = 0; k < COUNT(left); k++) {
        DIR *dir = opendir(str_cz(i->a, str_printf(i->a, "%.*s/%s", STR(i->j->queue), left[k].dir)));
        const struct dirent *e;
        while (dir && (e = readdir(dir)))
            if (e->d_name[0] != '.' && e->d_type != DT_DIR)
                tell(i, i->a, str_printf(i->a, "%s/%s", left[k].dir, e->d_name), "left", (ulid){ { 0 } }, 0, str_z(left[k].what));
        if (dir)
            closedir(dir);
    }
}

static err import_all(struct import *i)
{
    struct postfix_queue_job *j = i->j;

    for (size_t k = 0; k < COUNT(queues); k++) {
        int fd = open(str_cz(i->a, str_printf(i->a, "%.*s/%s", STR(j->queue), queues[k])), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (fd < 0)
            return fail_errno(errno, "%.*s/%s", STR(j->queue), queues[k]);
        TRY(walk(i, fd, str_z(queues[k]), 0, strcmp(queues[k], "hold") == 0));
    }
    tell_left(i);
    return OK;
}

err postfix_queue_import(struct postfix_queue_job *j)
{
    AUTO_ARENA a = arena_new();
    struct import i = { .j = j, .a = a };
    struct spool_loaded loaded;
    struct spool *s;

    if (!postfix_queue_is(j->queue))
        return fail(E_NOTFOUND, "%.*s is no queue of Postfix: it has no incoming, active, deferred and hold", STR(j->queue));
    TRY(stopped(a, j->queue));
    TRY(spool_open(&(struct spool_setup){ .dir = j->spool }, &s));
    i.port = spool_port_open(s);
    err e = spool_load(s, note_known, &i, &loaded);
    if (e == OK)
        e = import_all(&i);
    char why[320];
    size_t n = MIN(err_text().n, sizeof why);
    memcpy(why, err_text().p, n);
    err flushed = spool_flush(i.port);
    spool_port_close(i.port);
    spool_close(s);
    map_free(&i.known);
    if (e != OK)
        return fail(e, "%.*s", (int)n, why);
    return flushed;
}
