/* The drop directory: mail that programs of this machine left while the relay was down. Everybody may put files there, so nothing about one
 * is believed but what its descriptor says: a plain file, of one name, of that owner (attack class 55). It is removed when the spool has it.
 * What remains: a crash between the two has it taken in again (doc/inlets.md). */
#include "receive/inside.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <unistd.h>

#define LOOK_EVERY MINUTE       /* besides when something comes */
#define LOOK_AGAIN SECOND       /* for what was put off; twice as long each time, up to LOOK_EVERY */
#define NO_DROP_EVERY (10 * SECOND)
#define NAMES_MOST 100000       /* of one look */
#define WAITS_MOST (5 * DAY)    /* put off again and again for so long: set aside */
#define TURN 64                 /* recipients after which others have theirs */
#define RCPT_MOST 10000         /* whatever a session may name: what is left here was promised to its sender, and cannot be asked for again */
#define UNMADE_MOST DAY         /* a file that was begun and never became ready */

/* ---- the form of a file ---- */

void drop_head(struct buf *out, str name, str mail, const struct strs *rcpt, str octets)
{
    buf_addf(out, "waypost drop 1 %.*s\r\nMAIL FROM:%.*s\r\n", STR(name), STR(mail));
    for (size_t i = 0; i < rcpt->n; i++)
        buf_addf(out, "RCPT TO:%.*s\r\n", STR(rcpt->p[i]));
    buf_addf(out, "DATA %zu %08x\r\n", octets.n, crc32c(0, octets.p, octets.n));
}

static err bad(const char *why) { return fail(E_SYNTAX, "%s", why); }

/* A line up to its CRLF; *rest goes behind it. A last line without one is none. */
static bool line_next(str *rest, str *line)
{
    size_t end = str_find(*rest, S("\r\n"));

    if (end == STR_NONE)
        return false;
    *line = str_head(*rest, end);
    *rest = str_from(*rest, end + 2);
    return true;
}

static err data_line(str line, str octets)
{
    char crc[9];
    uint64_t n;

    line = str_from(line, 5);
    size_t blank = str_findc(line, ' ');
    if (blank == STR_NONE || !str_u64(str_head(line, blank), UINT64_MAX, &n) || n != octets.n)
        return bad("it is longer or shorter than it says");
    snprintf(crc, sizeof crc, "%08x", crc32c(0, octets.p, octets.n));
    return str_eq(str_from(line, blank + 1), str_of(crc, 8)) ? OK : bad("its checksum does not hold");
}

err drop_parse(arena *a, str text, str name, uint64_t rcpt_most, struct drop *ret)
{
    size_t cap = 0;
    str line;

    *ret = (struct drop){ 0 };
    if (!line_next(&text, &line) || !str_starts(line, S("waypost drop 1 ")) || !str_eq(str_from(line, 15), name))
        return bad("it does not begin with \"waypost drop 1\" and its name");
    if (!line_next(&text, &line))
        return bad("it has no sender");
    command_parse(a, line, &ret->mail);
    if (ret->mail.verb != VERB_MAIL || ret->mail.refuse.code)
        return fail(E_SYNTAX, "its sender is none: %.*s", STR(ret->mail.refuse.text));
    while (line_next(&text, &line)) {
        if (str_starts(line, S("DATA "))) {
            ret->octets = text;
            return ret->nrcpt ? data_line(line, text) : bad("it has no recipients");
        }
        if (ret->nrcpt == rcpt_most)
            return bad("it has too many recipients");
        if (ret->nrcpt == cap) {
            cap = cap ? 2 * cap : 4;
            struct command *more = NEW_ARRAY(a, struct command, cap);
            if (ret->nrcpt)
                memcpy(more, ret->rcpt, ret->nrcpt * sizeof *more);
            ret->rcpt = more;
        }
        struct command *c = &ret->rcpt[ret->nrcpt++];
        command_parse(a, line, c);
        if (c->verb != VERB_RCPT || c->refuse.code)
            return fail(E_SYNTAX, "a recipient is none: %.*s", STR(c->refuse.text));
    }
    return bad("it ends within its head");
}

/* ---- files: on a thread of their own ---- */

struct job {
    int dir;
    const char *name, *to;      /* to: its new name, or NULL to remove it */
    uint64_t most;              /* octets */
    struct buf text;            /* heap */
    bool cut;                   /* it is larger than that */
    uid_t uid;
    when since;                 /* wall clock: when it was last written */
    bool removed;               /* instead of getting its new name */
    err result;
    struct err_note note;
    arena *a; char **names; size_t n; /* of a look */
};

static err read_file(struct job *j)
{
    struct stat st;

    /* Neither through a link nor waiting for the other end of a pipe. */
    int fd = machine->file_open(j->dir, j->name, O_RDONLY | O_NONBLOCK | O_NOCTTY, 0);
    if (fd == -ENOENT)
        return fail(E_NOTFOUND, "it is gone");
    if (fd == -EMFILE || fd == -ENFILE || fd == -ENOMEM)
        return fail(E_AGAIN, "no descriptor is left");
    if (fd < 0 && fstatat(j->dir, j->name, &st, AT_SYMLINK_NOFOLLOW) == 0)
        j->uid = st.st_uid; /* to tell whose it is, for nothing else */
    if (fd < 0)
        return fail(E_PERM, "it cannot be opened, or is a link: %s", strerrordesc_np(-fd));
    err e = OK;
    if (fstat(fd, &st) == 0)
        j->uid = st.st_uid;
    else
        st.st_mode = 0;
    if (!S_ISREG(st.st_mode))
        e = fail(E_PERM, "it is no plain file");
    else if (st.st_nlink != 1)
        e = fail(E_PERM, "it has another name somewhere");
    else {
        size_t n = (size_t)MIN((uint64_t)st.st_size, j->most);
        j->cut = (uint64_t)st.st_size > j->most;
        j->since = (when)st.st_mtim.tv_sec * SECOND;
        buf_reserve(&j->text, n + 1);
        for (ssize_t got = 1; e == OK && got > 0 && j->text.n < n; j->text.n += (size_t)MAX(got, 0)) {
            got = machine->file_read(fd, j->text.p + j->text.n, n - j->text.n, j->text.n);
            if (got < 0)
                e = fail(E_AGAIN, "it cannot be read: %s", strerrordesc_np((int)-got));
        }
    }
    machine->close(fd);
    return e;
}

static void job_read(void *job)
{
    struct job *j = job;

    j->result = read_file(j);
    j->note = *err_note;
}

static bool may_be_mail(struct job *j)
{
    struct stat st;
    return fstatat(j->dir, j->name, &st, AT_SYMLINK_NOFOLLOW) < 0 || S_ISREG(st.st_mode);
}

static void job_end(void *job)
{
    struct job *j = job;
    int got = j->to ? machine->file_rename(j->dir, j->name, j->to) : machine->file_unlink(j->dir, j->name);

    if (got < 0 && j->to && !may_be_mail(j)) /* our sandbox makes no links, pipes and sockets, and to give one a name is that: it goes */
        j->removed = (got = machine->file_unlink(j->dir, j->name)) == 0;
    j->result = got < 0 && got != -ENOENT ? E_IO : OK;
    machine->file_sync_all(j->dir);
}

static bool is_left_over(struct job *j, const char *name)
{
    struct stat st;
    return str_ends(str_z(name), S(DROP_MADE)) && fstatat(j->dir, name, &st, AT_SYMLINK_NOFOLLOW) == 0 &&
           wall_now() - (when)st.st_mtim.tv_sec * SECOND > UNMADE_MOST;
}

static int look_each(void *job, const char *name)
{
    struct job *j = job;

    if (is_left_over(j, name)) /* what wrote it never came to its end */
        machine->file_unlink(j->dir, name);
    if (!str_ends(str_z(name), S(DROP_READY)))
        return 0;
    j->names[j->n++] = str_cz(j->a, str_z(name));
    return j->n == NAMES_MOST;
}

static int by_name(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

static void job_look(void *job)
{
    struct job *j = job;

    j->names = NEW_ARRAY(j->a, char *, NAMES_MOST);
    machine->file_list(j->dir, look_each, j);
    qsort(j->names, j->n, sizeof *j->names, by_name); /* their names begin with the time */
}

/* ---- one message ---- */

struct taking {
    struct reception *r;
    struct snapshot *snap;
    struct pool *pool;
    struct client_info client;
    arena *a;                   /* of one file */
    struct report_rcpt *refused; size_t nrefused;
    bool cut;                   /* its octets are the first of too many */
    struct reply later;         /* why it cannot be now; code 0: it can */
    bool put_off;
};

/* Body of `m` into a slab or the spool; `a` is the message's. body_forget() is due when it is not accepted then, or this failed. */
static err put_body(struct reception *r, arena *a, struct message *m, str octets, struct spool_slab **slab)
{
    *slab = NULL;
    if (octets.n <= SPOOL_CHUNK) {
        *slab = spool_slab_new(MAX(octets.n, 1));
        buf_add(&(*slab)->body, octets);
        return OK;
    }
    m->piece = NEW_ARRAY(a, struct spool_piece, octets.n / SPOOL_CHUNK + 1);
    while (octets.n) {
        TRY(spool_chunk(r->setup.port, m->id, str_head(octets, SPOOL_CHUNK), &m->piece[m->npiece]));
        m->npiece++;
        octets = str_from(octets, SPOOL_CHUNK);
    }
    return OK;
}

static void body_forget(struct reception *r, arena *a, struct message *m, struct spool_slab *slab)
{
    if (m->npiece)
        spool_abort(r->setup.port, m->id, m->piece, m->npiece);
    spool_slab_free(slab);
    arena_free(a);
}

static void scan_all(struct message *m, str octets)
{
    scan_init(&m->scan);
    scan_feed(&m->scan, octets);
    scan_end(&m->scan);
}

/* May a report go to that sender? To ours, and to whom this user may speak as: else everybody on this machine could have us write to anybody
 * in the world, with a header of his own choice (attack class 30). */
static bool may_hear(const struct taking *t, str sender)
{
    const struct routes *r = &t->snap->routes;
    const struct network *net = t->client.network;
    struct path p;
    when expire;

    return address_parse(sender, &p) == OK && (route_domain(r, p.domain) || (net && network_may_send(net, p.domain))) && route_for(r, p.domain, &expire);
}

/* The program that left it has gone: what it would have been told at once goes to the sender, or when he may not hear of it to the postmaster. */
static err report(struct taking *t, const struct message *m, str octets)
{
    arena *a = arena_new();
    struct message *own = NEW(a, struct message);
    AUTO_BUF text = { 0 };
    struct spool_slab *slab;
    str reader = system_reader(t->snap, m->env.sender), to = reader.n ? reader : may_hear(t, m->env.sender) ? m->env.sender : t->snap->receive.postmaster, why = S("");

    if (!str_eq(to, m->env.sender))
        why = str_printf(t->a, "User %u of this host left a message whose sender is <%.*s>, and you read the mail of this system.", t->client.uid,
                         STR(m->env.sender));
    own->id = ulid_new();
    own->report = true;
    own->env.rcpt = NEW(a, struct rcpt);
    own->env.nrcpt = 1;
    own->env.rcpt->to = own->env.rcpt->given = str_dup(a, to);
    own->env.rcpt->notify = NOTIFY_NEVER;
    own->env.smtputf8 = m->env.smtputf8;
    own->origin = (struct origin){ .listener = S("report"), .accepted = wall_now() };
    report_write(&(struct report){ .hostname = t->snap->receive.hostname, .postmaster = t->snap->receive.postmaster, .id = own->id, .about = m->id,
                                   .env = &m->env, .to = to, .preface = why, .arrived = own->origin.accepted, .now = own->origin.accepted,
                                   .rcpt = t->refused, .nrcpt = t->nrefused, .original = str_head(octets, MIN(m->scan.header_end, 65536)) }, &text);
    scan_all(own, buf_str(&text));
    own->env.body = own->scan.eight_bit_body ? BODY_8BIT : BODY_7BIT;
    err e = put_body(t->r, a, own, buf_str(&text), &slab);
    if (e == OK)
        return accept_mail(t->r, t->snap, a, own, slab, S(""));
    body_forget(t->r, a, own, slab);
    return e;
}

static void refuse(struct taking *t, const struct rcpt *rcpt, const struct reply *no)
{
    struct event e = { .kind = EVENT_REFUSED, .id = ulid_new(), .at = wall_now(), .rcpt = rcpt->given, .remote = str_z(t->client.ip),
                       .reply = reply_print(t->a, no) };

    event_emit(&e);
    t->refused[t->nrefused++] = (struct report_rcpt){ .rcpt = rcpt, .action = REPORT_FAILED, .reason = no->text, .diagnostic = e.reply,
        .status = str_printf(t->a, "%u.%u.%u", no->enhanced.class, no->enhanced.subject, no->enhanced.detail) };
}

/* All that a session asks of a message, in the same order. */
static void judge(struct taking *t, const struct drop *d, arena *a, struct message *m)
{
    const struct limits *l = &t->snap->receive.limits;
    size_t cap = 0;
    struct reply no = policy_mail(t->snap, &t->client, &d->mail);

    scan_all(m, d->octets);
    if (t->cut)
        m->scan.size = MAX(m->scan.size, l->message_size + 1);
    if (!no.code)
        no = body_bad(l, m);
    if (!no.code)
        no = accept_loop(t->r, str_head(d->octets, m->scan.header_end), &m->scan, l->hops);
    for (size_t i = 0; i < d->nrcpt; i++) {
        const struct command *c = &d->rcpt[i];
        if (i % TURN == TURN - 1)
            task_yield(); /* each may stand for many, and is compared with all before it */
        struct reply not_him = no;
        struct strs to = { 0 };
        if (!not_him.code)
            not_him = policy_rcpt(t->snap, &t->client, m, &c->path, t->a, &to);
        if (not_him.code / 100 == 4) {
            t->later = not_him;
        } else if (not_him.code) {
            struct rcpt *r = NEW(t->a, struct rcpt);
            r->given = c->path.text;
            refuse(t, r, &not_him);
        } else {
            envelope_add(a, t->snap, &m->env, &cap, c, &to);
        }
    }
}

/* E_AGAIN: not now. On OK the spool has what there was to have. */
static err take_in(struct taking *t, const struct drop *d)
{
    arena *a = arena_new();
    struct message *m = NEW(a, struct message);
    const struct command *c = &d->mail;

    if (spool_room(t->r->setup.spool) != OK || arriving_full(&t->snap->receive.limits)) {
        arena_free(a);
        return fail(E_AGAIN, "no room for mail just now");
    }
    t->refused = NEW_ARRAY(t->a, struct report_rcpt, d->nrcpt);
    m->id = ulid_new();
    m->env = (struct envelope){ .sender = str_dup(a, c->path.text), .envid = str_dup(a, c->envid), .ret = c->ret, .body = c->body,
                                .smtputf8 = c->smtputf8 };
    m->origin = (struct origin){ .listener = S(LISTENER_LOCAL), .client = str_dup(a, str_z(t->client.ip)), .ehlo = S("localhost"), .accepted = wall_now() };
    judge(t, d, a, m);
    if (t->later.code) {
        arena_free(a);
        return fail(E_AGAIN, "%.*s", STR(t->later.text));
    }
    struct spool_slab *slab = NULL;
    err e = m->env.nrcpt ? put_body(t->r, a, m, d->octets, &slab) : OK;
    /* Behind what there may be no room for, so that it is not told at each try; before the message is ours: a crash after it tells it twice, none before
     * loses it. */
    if (e == OK && t->nrefused && m->env.sender.n)
        e = report(t, m, d->octets);
    if (e != OK || !m->env.nrcpt) {
        body_forget(t->r, a, m, slab);
        return e == OK ? OK : fail(E_AGAIN, "the spool did not take it");
    }
    accept_stream(t->snap, a, m, str_head(d->octets, m->scan.header_end));
    ulid id = m->id;
    struct event told = { .kind = EVENT_ACCEPTED, .id = id, .at = m->origin.accepted, .from = str_dup(t->a, m->env.sender),
                          .rcpt = str_dup(t->a, m->env.rcpt[0].given), .remote = str_z(t->client.ip), .size = m->scan.size, .detail = S("from the drop directory") };
    uint64_t nrcpt = m->env.nrcpt;
    if (accept_mail(t->r, t->snap, a, m, slab, S("LOCAL")) != OK)
        return fail(E_AGAIN, "the spool did not take it");
    stats_add(COUNT_accepted_bytes, told.size);
    stats_add(COUNT_accepted_rcpts, nrcpt);
    event_emit(&told);
    return OK;
}

static void set_aside(struct taking *t, struct job *j, str why)
{
    char id[ULID_TEXT], to[ULID_TEXT + sizeof DROP_BAD];

    snprintf(to, sizeof to, "%.*s" DROP_BAD, STR(ulid_print(ulid_new(), id)));
    j->to = to;
    work_run(t->pool, job_end, j);
    j->to = NULL;
    log_warn("drop_set_aside", LOG_Z("file", j->name), LOG_Z("as", j->removed ? "nothing: it was no file, and is removed" : to), LOG_INT("uid", j->uid),
             LOG_STR("reason", why));
    if (j->result != OK)
        log_error("drop_stuck", LOG_Z("file", j->name));
}

static void take_file(struct taking *t, int dir, const char *name)
{
    const struct limits *l = &t->snap->receive.limits;
    struct job j = { .dir = dir, .name = name, .most = l->message_size + DROP_HEAD_MOST };
    str stem = str_head(str_z(name), strlen(name) - (sizeof DROP_READY - 1));
    struct drop d;
    ulid id;

    work_run(t->pool, job_read, &j);
    *err_note = j.note;
    err e = j.result;
    t->client = (struct client_info){ .local = true, .uid = j.uid };
    client_place(&t->client, t->snap);
    if (e == OK)
        e = ulid_parse(stem, &id) ? drop_parse(t->a, buf_str(&j.text), stem, RCPT_MOST, &d) : bad("its name is none of sendmail's");
    t->cut = j.cut;
    if (j.cut && e == E_SYNTAX && ulid_parse(stem, &id) && d.octets.p) /* its head is whole: its sender hears of it */
        e = OK;
    if (e == OK)
        e = take_in(t, &d);
    if (e == OK) {
        work_run(t->pool, job_end, &j);
        if (j.result != OK) /* it would come again and again */
            set_aside(t, &j, S("taken in, and could not be removed"));
    } else if (e == E_AGAIN && wall_now() - j.since < WAITS_MOST) {
        log_info("drop_waits", LOG_Z("file", name), LOG_INT("uid", j.uid), LOG_STR("reason", err_text()));
        t->put_off = true;
    } else if (e != E_NOTFOUND)
        set_aside(t, &j, str_dup(t->a, err_text()));
    buf_free(&j.text);
}

/* ---- the directory ---- */

/* *put_off: there was something that could not be taken just now. */
static err look(struct reception *r, struct pool *pool, int dir, bool *put_off)
{
    AUTO_ARENA names = arena_new();
    struct job j = { .dir = dir, .a = names };

    *put_off = false;
    work_run(pool, job_look, &j);
    for (size_t i = 0; i < j.n && !r->draining; i++) {
        struct taking t = { .r = r, .snap = r->setup.newest(r->setup.ctx), .pool = pool, .a = arena_new() };
        take_file(&t, dir, j.names[i]);
        *put_off |= t.put_off;
        arena_free(t.a);
        snapshot_drop(t.snap);
        TRY(task_yield());
    }
    return OK;
}

/* Somebody else's directory, or one where all may rename what is others', is none for mail. */
static err open_dir(str path, int *ret)
{
    AUTO_ARENA a = arena_new();
    struct stat st;

    int dir = machine->file_open(AT_FDCWD, str_cz(a, path), O_RDONLY | O_DIRECTORY, 0);
    if (dir < 0)
        return fail_errno(-dir, "%.*s", STR(path));
    if (fstat(dir, &st) < 0 || (st.st_uid != geteuid() && st.st_uid != 0) || (st.st_mode & S_IWOTH && !(st.st_mode & S_ISVTX))) {
        machine->close(dir);
        return fail(E_PERM, "%.*s is not ours, or lacks the sticky bit", STR(path));
    }
    *ret = dir;
    return OK;
}

static str drop_now(struct reception *r, arena *a)
{
    struct snapshot *snap = r->setup.newest(r->setup.ctx);
    str path = str_dup(a, snap->receive.local ? snap->receive.local->drop : S(""));

    snapshot_drop(snap);
    return path;
}

static bool is_drop_now(struct reception *r, str path)
{
    AUTO_ARENA a = arena_new();
    return str_eq(drop_now(r, a), path);
}

/* Look whenever a file becomes ready, and now and then, as long as the configuration names this directory. */
static err watch(struct reception *r, struct pool *pool, str path)
{
    AUTO_ARENA a = arena_new();
    struct io io = { 0 };
    char ignored[1024]; /* an event: at least one fits, with a name of 255 octets */
    int dir = -1;
    when again = LOOK_AGAIN;
    bool put_off;

    TRY(open_dir(path, &dir));
    int fd = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
    err e = fd < 0 || inotify_add_watch(fd, str_cz(a, path), IN_MOVED_TO | IN_ONLYDIR | IN_DONT_FOLLOW) < 0 ? fail_errno(errno, "watching it") : io_add(&io, fd);
    while (e == OK && is_drop_now(r, path)) {
        while (read(fd, ignored, sizeof ignored) > 0)
            ;
        io.readable = false;
        e = look(r, pool, dir, &put_off);
        again = put_off ? MIN(2 * again, LOOK_EVERY) : LOOK_AGAIN;
        if (e == OK)
            e = io_wait_readable(&io, clock_now() + (put_off ? again : LOOK_EVERY));
        if (e == E_TIMEOUT)
            e = OK;
    }
    if (io.fd)
        io_del(&io);
    if (fd >= 0)
        close(fd);
    machine->close(dir);
    return e;
}

err reception_drop(void *reception)
{
    struct reception *r = reception;
    struct pool *pool = NULL;
    err e = OK;

    while (e != E_CANCELED) {
        AUTO_ARENA a = arena_new();
        str path = drop_now(r, a);
        when pause = NO_DROP_EVERY;
        if (path.n) {
            if (!pool)
                pool = pool_start("drop", 1);
            e = watch(r, pool, path);
            if (e != OK && e != E_CANCELED) {
                log_error("drop_unusable", LOG_STR("dir", path), LOG_STR("reason", err_text()));
                pause = MINUTE;
            }
        }
        if (e != E_CANCELED)
            e = task_sleep(clock_now() + pause);
    }
    if (pool)
        pool_stop(pool);
    return OK;
}
