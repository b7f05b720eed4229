/* The spool on a simulated disk: power cuts at any operation, and disks that fail. Two threads take mail, note outcomes and end messages;
 * the test knows what was acknowledged to them, and asks after each life whether it is so.
 *
 * A run is a process of its own, for its globals go back to their beginnings at each crash. */
#include "kit/kit.h"
#include "sim/sim.h"
#include "spool/spool_inside.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define MAILS 2000
#define RCPTS 40
#define WORKERS 2
#define NARROW_SEGMENTS 10

/* What the test knows of one message. */
struct mail {
    enum { UNUSED, OFFERED, ACKED, REFUSED, GONE } state;
    unsigned nrcpt, length, pieces;
    struct spool_ref at;
    uint32_t version[RCPTS], flushed[RCPTS];
    bool ended, end_flushed;
    unsigned worker, loaded;
};

enum fault { FAULT_NONE, FAULT_EIO, FAULT_EIO_LONG, FAULT_FULL_LONG, FAULT_SHORT, FAULT_SHORT_LONG, FAULT_SYNC, FAULT_SYNC_LONG, FAULT_NOW_AND_THEN_LONG, FAULT_DIR, FAULTS };

struct world {
    unsigned run;
    unsigned ops, crash_at;             /* of this life */
    bool crash;
    enum fault fault; unsigned fault_at; when fault_until;
    unsigned faults;
    struct machine under, over;
    bool failed_fd[4096];
    bool fail_once;                     /* the next write of a batch */
    struct spool *spool;
    struct mail mail[MAILS]; unsigned nmail;
    unsigned actions, errors, life;
    bool strict;                        /* the last life ended well: nothing may be in doubt */
    bool done;
    unsigned acked, loads;
    bool compacts, narrow;              /* narrow: there is room for few segments more than what waits needs */
    struct worker *workers;
};

static _Atomic unsigned *moves_seen;    /* by all runs, which are processes of their own */

static struct world *world;             /* put back to NULL by a crash, and set again */

static void wrong(const char *fmt, ...) PRINTF(1, 2);
static void wrong(const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    fprintf(stderr, "run %u, life %u, operation %u: ", world->run, world->life, world->ops);
    vfprintf(stderr, fmt, ap);
    fputc('\n', stderr);
    va_end(ap);
    _exit(1);
}

/* ---- the machine between the spool and the simulated disk ---- */

enum op { OP_OPEN, OP_WRITE, OP_SYNC, OP_SYNC_DIR, OP_NAME };

/* Counts; says whether this one is to fail, and how. */
static enum fault fails(enum op op)
{
    struct world *w = world;

    w->ops++;
    if (w->ops == w->crash_at)
        w->crash = true;
    if (!w->fault_at || w->ops < w->fault_at)
        return FAULT_NONE;
    bool last = w->fault == FAULT_EIO_LONG || w->fault == FAULT_FULL_LONG || w->fault == FAULT_SHORT_LONG || w->fault == FAULT_SYNC_LONG || w->fault == FAULT_NOW_AND_THEN_LONG;
    if (!w->fault_until)
        w->fault_until = clock_now() + (last ? (when)(1 + sim_random(w->fault == FAULT_NOW_AND_THEN_LONG ? 100 : 20)) * SECOND : 0);
    else if (!last || clock_now() >= w->fault_until) {
        if (!w->faults)                 /* it waits for its kind of operation */
            goto hit;
        sim_disk()->full = false;
        return FAULT_NONE;
    }
hit:
    switch (w->fault) {
    case FAULT_EIO: case FAULT_EIO_LONG:
        break;
    case FAULT_FULL_LONG:
        sim_disk()->full = true;
        w->faults++;
        return FAULT_NONE;
    case FAULT_SHORT: case FAULT_SHORT_LONG:
        if (op != OP_WRITE)
            return FAULT_NONE;
        break;
    case FAULT_NOW_AND_THEN_LONG:
        if (op != OP_WRITE || !sim_chance(3))
            return FAULT_NONE;
        break;
    case FAULT_SYNC: case FAULT_SYNC_LONG:
        if (op != OP_SYNC)
            return FAULT_NONE;
        break;
    default:
        if (op != OP_SYNC_DIR)
            return FAULT_NONE;
    }
    w->faults++;
    return w->fault;
}

static int over_open(int dir, const char *name, int flags, unsigned mode)
{
    if (flags & O_CREAT && fails(OP_OPEN))
        return -EIO;
    int fd = world->under.file_open(dir, name, flags, mode);
    if (fd >= 0)
        world->failed_fd[fd % 4096] = false;
    return fd;
}

static ssize_t over_write(int fd, const struct iovec *iov, int n, uint64_t at)
{
    if (world->failed_fd[fd % 4096])
        wrong("a file is written after a failure");
    if (world->fail_once && at >= PAGE) {
        world->fail_once = false;
        world->failed_fd[fd % 4096] = true;
        return -EIO;
    }
    switch (fails(OP_WRITE)) {
    case FAULT_NONE:
        return world->under.file_write(fd, iov, n, at);
    case FAULT_SHORT: case FAULT_SHORT_LONG: {
        struct iovec some = { iov[0].iov_base, MAX(iov[0].iov_len / 2, 1) };
        return world->under.file_write(fd, &some, 1, at);
    }
    default:
        world->failed_fd[fd % 4096] = true;
        if (sim_chance(2))
            world->under.file_write(fd, iov, n, at);
        return -EIO;
    }
}

static int over_sync(int fd)
{
    if (world->failed_fd[fd % 4096])
        wrong("a file is synced again after a failure");
    if (!fails(OP_SYNC))
        return world->under.file_sync(fd);
    world->failed_fd[fd % 4096] = true;
    if (sim_chance(2))                  /* it may have reached the disk all the same */
        world->under.file_sync(fd);
    return -EIO;
}

static int over_sync_dir(int fd) { return fails(OP_SYNC_DIR) ? -EIO : world->under.file_sync_all(fd); }
static int over_rename(int dir, const char *from, const char *to) { return fails(OP_NAME) ? -EIO : world->under.file_rename(dir, from, to); }
static int over_unlink(int dir, const char *name) { return fails(OP_NAME) ? -EIO : world->under.file_unlink(dir, name); }

static void machine_over(struct world *w)
{
    world = w;
    w->under = *machine;
    w->over = w->under;
    w->over.file_open = over_open;
    w->over.file_write = over_write;
    w->over.file_sync = over_sync;
    w->over.file_sync_all = over_sync_dir;
    w->over.file_rename = over_rename;
    w->over.file_unlink = over_unlink;
    machine = &w->over;
}

/* ---- what a message looks like ---- */

static ulid mail_id(unsigned i)
{
    ulid id = { { 0 } };
    put32(id.b, 0x5700);
    put32(id.b + 12, i + 1);
    return id;
}

static char octet(unsigned i, unsigned at) { return (char)('a' + (i * 31 + at * 7 + at / 256) % 26); }

static void octets(struct buf *b, unsigned i, unsigned from, unsigned n)
{
    for (unsigned k = 0; k < n; k++)
        buf_addc(b, octet(i, from + k));
}

static struct message *message(arena *a, unsigned i)
{
    struct message *m = NEW(a, struct message);
    const struct mail *l = &world->mail[i];

    m->id = mail_id(i);
    m->env.sender = str_printf(a, "from%u@example.org", i);
    m->env.nrcpt = l->nrcpt;
    m->env.rcpt = NEW_ARRAY(a, struct rcpt, l->nrcpt);
    for (unsigned k = 0; k < l->nrcpt; k++)
        m->env.rcpt[k] = (struct rcpt){ .to = str_printf(a, "r%u.%u@example.com", i, k), .given = str_printf(a, "r%u.%u@example.com", i, k) };
    m->scan.size = l->length;
    return m;
}

/* ---- the work ---- */

struct worker { struct world *w; unsigned nth; struct spool_port *port; struct thread *thread; };

static err offer(struct worker *k, unsigned i)
{
    AUTO_ARENA a = arena_new();
    struct mail *l = &k->w->mail[i];
    struct message *m = message(a, i);
    AUTO(spool_slab) slab = NULL;
    err e = OK;

    l->state = OFFERED;
    l->worker = k->nth;
    if (l->pieces) {
        m->piece = NEW_ARRAY(a, struct spool_piece, l->pieces);
        for (unsigned p = 0; p < l->pieces && e == OK; p++) {
            AUTO_BUF b = { 0 };
            octets(&b, i, l->length / l->pieces * p, l->length / l->pieces);
            e = spool_chunk(k->port, m->id, buf_str(&b), &m->piece[p]);
            m->npiece += e == OK;
        }
    } else {
        slab = spool_slab_new(l->length + 7);
        octets(&slab->body, i, 0, l->length);
    }
    if (e == OK)
        e = spool_accept(k->port, a, m, slab);
    if (e != OK) {
        if (l->pieces)
            spool_abort(k->port, m->id, m->piece, m->npiece);
        l->state = REFUSED;
        if (e != E_IO && e != E_NOSPACE)
            wrong("accept: %s: %.*s", err_name(e), STR(err_text()));
        return e;
    }
    l->at = m->at;
    l->state = ACKED;
    k->w->acked++;
    return OK;
}

static unsigned new_mail(struct world *w)
{
    must(w->nmail < MAILS);
    struct mail *l = &w->mail[w->nmail];
    l->nrcpt = sim_chance(10) ? 1 + (unsigned)sim_random(RCPTS) : 1;
    l->pieces = sim_chance(10) ? 1 + (unsigned)sim_random(3) : 0;
    l->length = l->pieces ? l->pieces * (1 + (unsigned)sim_random(6000)) : sim_chance(6) ? (unsigned)sim_random(20000) : (unsigned)sim_random(600);
    return w->nmail++;
}

static void note(struct worker *k, struct mail *l, bool end)
{
    struct rcpt_state state[RCPTS];
    unsigned n = 0, i = (unsigned)(l - k->w->mail);

    for (unsigned r = 0; r < l->nrcpt; r++) {
        if (!end && sim_chance(2))
            continue;
        uint32_t v = ++l->version[r];
        state[n++] = (struct rcpt_state){ .index = r, .version = v, .status = end ? RCPT_DELIVERED : RCPT_WAITING, .attempts = (uint16_t)v, .reply = S("451 later") };
    }
    if (!n && !end)
        return;
    l->ended |= end;
    spool_outcome(k->port, mail_id(i), l->at, state, n, end);
}

static void flushed(struct worker *k)
{
    struct world *w = k->w;

    for (unsigned i = 0; i < w->nmail; i++) {
        struct mail *l = &w->mail[i];
        if (l->worker != k->nth || l->state != ACKED)
            continue;
        memcpy(l->flushed, l->version, sizeof l->flushed);
        l->end_flushed = l->ended;
    }
}

/* One of this worker's that still waits; sticky ones are never ended, so that segments with few live messages exist. */
static struct mail *any_mail(struct worker *k, bool end)
{
    struct world *w = k->w;

    for (unsigned tries = 0; w->nmail && tries < 20; tries++) {
        unsigned i = (unsigned)sim_random(w->nmail);
        struct mail *l = &w->mail[i];
        if (l->worker == k->nth && l->state == ACKED && !l->ended && !(end && i % 37 == 5))
            return l;
    }
    return NULL;
}

/* ---- moves ---- */

struct look { struct post post; struct worker *k; size_t n; struct spool_move *move[]; };

static void look_done(struct look *look)
{
    for (size_t i = 0; i < look->n; i++)
        spool_move_done(look->move[i]);
}

static err look_task(void *arg)
{
    struct look *look = arg;
    struct worker *k = look->k;

    for (size_t i = 0; i < look->n; i++) {
        const struct spool_move *m = look->move[i];
        struct mail *l = &k->w->mail[le32(m->id.b + 12) - 1];
        if (l->worker == k->nth && l->at.segment == m->from.segment && l->at.offset == m->from.offset)
            l->at = m->to;
    }
    while (k->port && spool_flush(k->port) != OK)
        TRY(task_sleep(clock_now() + SECOND));
    look_done(look);
    return OK;
}

static void look_arrived(struct post *p)
{
    struct look *look = AROUND(p, struct look, post);

    if (!look->k->port)
        look_done(look);
    else
        group_spawn(thread_group(), "look", look_task, look);
}

static void moved(void *ctx, struct spool_move *const *moves, size_t n)
{
    struct world *w = ctx;

    if (moves_seen)
        *moves_seen += (unsigned)n;
    for (size_t i = 0; i < n; i++)
        atomic_fetch_add(&moves[i]->holders, WORKERS - 1);
    for (unsigned i = 0; i < WORKERS; i++) {
        struct look *look = mem_new(sizeof *look + n * sizeof look->move[0]);
        look->post.run = look_arrived;
        look->k = &w->workers[i];
        look->n = n;
        memcpy(look->move, moves, n * sizeof look->move[0]);
        if (look->k->port)
            thread_post(look->k->thread, &look->post);
        else /* its thread has ended: it reads no more */
            look_done(look);
    }
}

/* Read a message that waits; what moves meanwhile is read anew. */
static void read_back(struct worker *k, struct mail *l)
{
    AUTO_ARENA a = arena_new();
    struct spool_ref at;
    struct message *m;
    unsigned i = (unsigned)(l - k->w->mail), n;
    err e;

    do {
        at = l->at;
        n = 0;
        e = spool_read(k->port, at, a, &m);
        for (size_t p = 0; e == OK && p < m->npiece; p++) {
            str got;
            e = spool_read_piece(k->port, m->piece[p], a, &got);
            n += e == OK ? (unsigned)got.n : 0;
        }
    } while (e != OK && (at.segment != l->at.segment || at.offset != l->at.offset));
    if (e != OK)
        wrong("message %u cannot be read at %u:%u: %.*s", i, at.segment, at.offset, STR(err_text()));
    if (n != l->length)
        wrong("message %u has %u octets of %u", i, n, l->length);
}

static err work(void *arg)
{
    struct worker *k = arg;
    struct world *w = k->w;

    k->port = spool_port_open(w->spool);
    for (unsigned n = 0; n < w->actions; n++) {
        struct mail *l;
        switch (sim_random(8)) {
        case 0: case 1: case 2:
            if (offer(k, new_mail(w)) != OK) {
                w->errors++;
                task_sleep(clock_now() + (when)sim_random(2 * SECOND));
            }
            break;
        case 3: case 4:
            if ((l = any_mail(k, false)))
                note(k, l, false);
            break;
        case 5: case 6:
            if ((l = any_mail(k, true)))
                note(k, l, true);
            break;
        case 7:
            if (w->compacts && sim_chance(2) && (l = any_mail(k, false))) {
                read_back(k, l);
                break;
            }
            /* fall through */
        default:
            if (spool_flush(k->port) == OK)
                flushed(k);
            else
                w->errors++;
            if (sim_chance(3))
                task_sleep(clock_now() + (when)sim_random(100 * MILLISECOND));
        }
    }
    /* However bad it was, when the disk is well again, mail is taken and notes get through. */
    for (unsigned tries = 0; offer(k, new_mail(w)) != OK; tries++) {
        if (tries > 100)
            wrong("intake does not resume: %.*s", STR(err_text()));
        task_sleep(clock_now() + 2 * SECOND);
    }
    for (unsigned tries = 0; spool_flush(k->port) != OK; tries++) {
        if (tries > 100)
            wrong("notes do not get through: %.*s", STR(err_text()));
        task_sleep(clock_now() + 2 * SECOND);
    }
    flushed(k);
    spool_port_close(take(k->port));
    return OK;
}

/* ---- what is there ---- */

struct check { struct world *w; struct spool_port *port; };

static err check_one(void *ctx, const struct message *m, const struct rcpt_state *state)
{
    struct check *c = ctx;
    struct world *w = c->w;
    AUTO_ARENA a = arena_new();
    unsigned i = le32(m->id.b + 12) - 1, at = 0;

    if (i >= w->nmail || le32(m->id.b) != 0x5700)
        wrong("a message that never was");
    struct mail *l = &w->mail[i];
    if (l->loaded++)
        wrong("message %u is there twice", i);
    if (l->state == UNUSED || l->state == GONE)
        wrong("message %u is back from the dead", i);
    if (l->state == REFUSED && w->strict)
        wrong("message %u was refused and is there", i);
    if (l->end_flushed)
        wrong("message %u had ended", i);
    struct message *want = message(a, i);
    if (m->env.nrcpt != want->env.nrcpt || !str_eq(m->env.sender, want->env.sender))
        wrong("message %u has another envelope", i);
    for (unsigned r = 0; r < l->nrcpt; r++) {
        if (!str_eq(m->env.rcpt[r].to, want->env.rcpt[r].to) || state[r].index != r)
            wrong("message %u has other recipients", i);
        if (state[r].version < l->flushed[r] || state[r].version > l->version[r] || state[r].attempts != state[r].version)
            wrong("message %u, recipient %u: version %u, durable %u, last %u", i, r, state[r].version, l->flushed[r], l->version[r]);
    }
    for (unsigned p = 0; p < m->npiece; p++) {
        str got;
        err e = spool_read_piece(c->port, m->piece[p], a, &got);
        if (e != OK)
            wrong("message %u, body: %s: %.*s", i, err_name(e), STR(err_text()));
        for (size_t k = 0; k < got.n; k++)
            if (got.p[k] != octet(i, at++))
                wrong("message %u has another body", i);
    }
    if (at != l->length)
        wrong("message %u is half: %u of %u", i, at, l->length);
    l->state = ACKED;
    l->at = m->at;
    /* What a load has told counts from then on. */
    for (unsigned r = 0; r < l->nrcpt; r++)
        l->version[r] = l->flushed[r] = state[r].version;
    l->ended = false;
    if (sim_chance(10)) {
        struct rcpt_state *again;
        size_t n;
        err e = spool_read_states(c->port, m->id, m->at, a, &again, &n);
        if (e != OK || n != l->nrcpt)
            wrong("states of message %u: %s", i, err_name(e));
        for (unsigned r = 0; r < l->nrcpt; r++)
            if (again[r].version != l->version[r])
                wrong("states of message %u differ", i);
    }
    return OK;
}

static void check_all(struct world *w)
{
    struct check c = { w, spool_port_open(w->spool) };
    struct spool_loaded got;

    for (unsigned i = 0; i < w->nmail; i++)
        w->mail[i].loaded = 0;
    err e = spool_load(w->spool, check_one, &c, &got);
    if (e != OK)
        wrong("load: %s: %.*s", err_name(e), STR(err_text()));
    if (got.damaged)
        wrong("%u records are said to be damaged", (unsigned)got.damaged);
    for (unsigned i = 0; i < w->nmail; i++) {
        struct mail *l = &w->mail[i];
        if (l->loaded)
            continue;
        if (l->state == ACKED && !l->ended)
            wrong("message %u is lost (was at %u:%u)", i, l->at.segment, l->at.offset);
        l->state = GONE;
    }
    w->loads++;
    spool_port_close(c.port);
}

static err life(void *arg)
{
    struct world *w = arg;
    struct worker k[WORKERS];
    struct thread *t[WORKERS];
    struct spool_setup setup = { .dir = S("/spool"), .reserve = 2, .ahead = 1, .segment = 64 << 10 };

    if (w->narrow)
        setup.reserve = 4, setup.max_bytes = NARROW_SEGMENTS * (uint64_t)setup.segment;

    w->workers = k;
    if (w->compacts) {
        setup.moved = moved;
        setup.ctx = w;
        setup.compact_after = MILLISECOND;
        setup.compact_slack = 1;
    }

    for (unsigned tries = 0;; tries++) {
        err e = spool_open(&setup, &w->spool);
        if (e == OK)
            break;
        if (!w->faults || tries > 100)
            wrong("open: %s: %.*s", err_name(e), STR(err_text()));
        task_sleep(clock_now() + SECOND);
    }
    check_all(w);
    w->strict = false;
    for (unsigned i = 0; i < WORKERS; i++) {
        k[i] = (struct worker){ w, i, NULL, NULL };
        k[i].thread = t[i] = thread_start("worker", work, &k[i]);
    }
    spool_may_move(w->spool, true);
    for (unsigned i = 0; i < WORKERS; i++)
        thread_join(t[i]);
    spool_close(w->spool);
    w->done = true;
    return OK;
}

/* One life, until its end or the crash. */
static void live(struct world *w, enum sim_crash how)
{
    machine_over(w);
    w->life++;
    w->ops = 0;
    w->crash = w->done = false;
    w->fault_until = 0;
    w->faults = 0;
    sim_disk()->full = false;
    for (unsigned i = 0; i < w->nmail; i++) /* any worker may go on with it: nobody else is left */
        w->mail[i].worker = i % WORKERS;
    sim_thread(SIM_RELAY, "relay", life, w);
    while (!w->done && !w->crash) {
        if (!sim_step())
            wrong("it hangs");
        if (w->fault_until && clock_now() >= w->fault_until)
            sim_disk()->full = false;
    }
    w->strict = w->done;
    sim_crash(how);
    world = w;
}

static void logged(void *ctx, enum log_level level, str line)
{
    (void)ctx, (void)level;
    if (getenv("SPOOL_LOG"))
        fprintf(stderr, "%.*s", STR(line));
}

static void run_begin(struct world **ret, unsigned run)
{
    struct world *w = calloc(1, sizeof *w);

    w->run = run;
    log_start(&(struct log_setup){ .tap = logged });
    sim_begin(&(struct sim_setup){ .seed = run });
    sim_disk()->cold = 20;
    w->actions = 40;
    *ret = w;
}

static void crash_run(unsigned run)
{
    struct world *w;

    run_begin(&w, run);
    enum sim_crash how = run % 4 ? SIM_POWER : SIM_KILL;
    w->crash_at = 1 + run;
    live(w, how);
    w->crash_at = 1 + (unsigned)sim_random(120);
    live(w, sim_chance(4) ? SIM_KILL : SIM_POWER);
    w->crash_at = 0;
    live(w, SIM_POWER);
    w->actions = 0;
    live(w, SIM_POWER);
}

static void fault_run(unsigned run)
{
    struct world *w;

    run_begin(&w, run);
    w->actions = 30;
    w->narrow = w->compacts = run / (FAULTS - 1) % 2;
    w->fault = (enum fault)(1 + run % (FAULTS - 1));
    w->fault_at = 1 + run / (FAULTS - 1) * 3;
    live(w, SIM_POWER);
    w->fault_at = 1 + (unsigned)sim_random(100);
    w->crash_at = sim_chance(2) ? w->fault_at + (unsigned)sim_random(40) : 0;
    live(w, SIM_POWER);
    w->fault_at = w->crash_at = 0;
    live(w, SIM_POWER);
    w->actions = 0;
    live(w, SIM_POWER);
}

/* Many die young and few never, so that segments are given back around those that wait. */
static void compact_run(unsigned run)
{
    struct world *w;

    run_begin(&w, run);
    w->compacts = true;
    w->actions = 150;
    w->crash_at = run % 8 ? 1 + (unsigned)sim_random(900) : 0;
    live(w, run % 4 ? SIM_POWER : SIM_KILL);
    w->crash_at = 1 + (unsigned)sim_random(500);
    w->fault = sim_chance(3) ? (enum fault)(1 + sim_random(FAULTS - 1)) : FAULT_NONE;
    w->fault_at = w->fault ? 1 + (unsigned)sim_random(300) : 0;
    live(w, sim_chance(4) ? SIM_KILL : SIM_POWER);
    w->fault_at = 0;
    w->crash_at = 1 + (unsigned)sim_random(200);
    live(w, SIM_POWER);
    w->crash_at = 0;
    w->actions = 0;
    live(w, SIM_POWER);
    live(w, SIM_POWER);
}

/* Each segment holds one message that waits, and then a write to it fails. */
static err fail_each(void *arg)
{
    struct world *w = arg;
    struct worker k = { .w = w };
    struct spool_setup setup = { .dir = S("/spool"), .reserve = 4, .ahead = 1, .segment = 64 << 10, .max_bytes = NARROW_SEGMENTS * (64 << 10) };
    struct spool_loaded none;
    struct check c = { .w = w };

    if (spool_open(&setup, &w->spool) != OK || spool_load(w->spool, check_one, &c, &none) != OK)
        wrong("%.*s", STR(err_text()));
    k.port = spool_port_open(w->spool);
    for (unsigned i = 0; i < 3 * NARROW_SEGMENTS; i++) {
        struct mail *l = &w->mail[w->nmail++];
        l->nrcpt = 1;
        l->length = 100;
        if (offer(&k, w->nmail - 1) != OK)
            wrong("after %u segments that failed: %.*s", i, STR(err_text()));
        w->fail_once = true;
    }
    if (spool_stats(w->spool).condemned != 3 * NARROW_SEGMENTS - 1)
        wrong("too few failed");
    spool_port_close(k.port);
    spool_close(w->spool);
    w->done = true;
    return OK;
}

static void room_run(unsigned run)
{
    struct world *w;

    run_begin(&w, run);
    machine_over(w);
    sim_thread(SIM_RELAY, "relay", fail_each, w);
    while (!w->done)
        if (!sim_step())
            wrong("it hangs");
    sim_crash(SIM_POWER);
    w->strict = true;
    w->actions = 0;
    live(w, SIM_POWER);                 /* all of it is there */
}

/* Each of `n` runs in a process of its own. SPOOL_RUNS=FROM-TO chooses others. */
static void runs(void (*one)(unsigned run), unsigned n)
{
    unsigned from = 0, to = n, bad = 0;
    const char *chosen = getenv("SPOOL_RUNS");

    if (chosen)
        sscanf(chosen, "%u-%u", &from, &to);
    fflush(NULL);
    for (unsigned run = from; run < to && bad < 3; run++) {
        int status = 0;
        pid_t pid = fork();
        if (pid == 0) {
            one(run);
            _exit(0);
        }
        waitpid(pid, &status, 0);
        if (!CHECK_INT(status, 0)) {
            printf("  run   %u\n", run);
            bad++;
        }
    }
}

/* One real thread plays all of a run, so there is nothing in it for TSan, which does not get on with forks of its process. */
#if defined __has_feature
#if __has_feature(thread_sanitizer)
#define RUNS(n) 0
#endif
#endif
#ifndef RUNS
#define RUNS(n) (n)
#endif

TEST(spool_survives_a_crash_at_any_operation) { runs(crash_run, RUNS(100 / KIT_SLOW + 20)); }
TEST(spool_survives_a_failing_disk) { runs(fault_run, RUNS(100 / KIT_SLOW + 20)); }
TEST(spool_segments_that_failed_give_their_room_back) { runs(room_run, RUNS(3)); }
TEST(spool_survives_all_that_while_it_compacts)
{
    moves_seen = mmap(NULL, sizeof *moves_seen, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    must(moves_seen != MAP_FAILED);
    runs(compact_run, RUNS(100 / KIT_SLOW + 20));
    if (RUNS(1) && !getenv("SPOOL_RUNS"))
        CHECK(*moves_seen > 20 + 100 / KIT_SLOW);
    munmap(moves_seen, sizeof *moves_seen);
    moves_seen = NULL;
}
