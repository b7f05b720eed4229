/* What holds beyond the end of the process, in the spool's directory: suspended lanes, drained servers, and when lanes paused. */
#include "main/relay.h"
#include "main/words.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>

#define NAME "standing"
#define VERSION 1
#define OCTETS_MOST (256u << 20)        /* a million lanes, and more */
#define EVERY MINUTE                    /* after a crash that much of an open pause is forgotten at most */

/* ---- read ---- */

struct reading { struct relay *r; when as_of; size_t paused, suspended, drained, bad; };

static bool word_in(const json_t *o, const char *key, str *ret)
{
    const json_t *v = json_object_get(o, key);

    *ret = json_is_string(v) ? str_of(json_string_value(v), json_string_length(v)) : (str){ 0 };
    return ret->n;
}

/* Seconds of the wall clock. */
static bool moment(const json_t *v, when *ret)
{
    json_int_t s = json_integer_value(v);

    if (!json_is_integer(v) || s <= 0 || s >= NEVER / SECOND)
        return false;
    *ret = s * SECOND;
    return true;
}

/* What was open ended with the process, but for lanes whose suspension goes on: nobody wanted their mail to leave meanwhile. */
static bool take_paused(struct reading *rd, str lane, const json_t *spans)
{
    const json_t *span;
    size_t i;
    bool good = json_is_array(spans);

    json_array_foreach(spans, i, span) {
        struct pause p;
        bool open = json_is_null(json_array_get(span, 1));
        if (!moment(json_array_get(span, 0), &p.from) || (!open && !moment(json_array_get(span, 1), &p.to)))
            return false;
        if (open)
            p.to = standing_suspended(&rd->r->before, lane) ? 0 : rd->as_of;
        if (!p.to || p.to >= p.from)
            standing_pause(&rd->r->before, lane, p);
    }
    rd->paused++;
    return good;
}

static bool take_line(struct reading *rd, const json_t *o)
{
    str name, other;
    when until;

    if (word_in(o, "lane", &name))
        return take_paused(rd, name, json_object_get(o, "paused"));
    if (word_in(o, "suspended", &name)) {
        if (!moment(json_object_get(o, "until"), &until))
            return false;
        word_in(o, "reason", &other);
        if (until <= wall_now())
            return true;
        standing_suspend(&rd->r->before, name, clock_now() + (until - wall_now()), other);
        log_warn("lane_suspended", LOG_STR("lane", name), LOG_STR("reason", other), LOG_Z("since", "before this start"));
        rd->suspended++;
        return true;
    }
    if (word_in(o, "drained", &name) && word_in(o, "server", &other)) {
        if (server_drain(&rd->r->newest->snapshot.routes, name, other, true)) { /* else it is no server any more */
            log_warn("server_drained", LOG_STR("backend", name), LOG_STR("server", other), LOG_Z("since", "before this start"));
            rd->drained++;
        }
        return true;
    }
    return false;
}

static bool take_head(struct reading *rd, const json_t *o)
{
    str kind;

    return word_in(o, "waypost", &kind) && str_eq(kind, S(NAME)) && json_integer_value(json_object_get(o, "version")) == VERSION
           && moment(json_object_get(o, "as_of"), &rd->as_of);
}

static err read_whole(str dir, struct buf *into)
{
    AUTO_ARENA a = arena_new();
    int d = machine->file_open(AT_FDCWD, str_cz(a, dir), O_RDONLY | O_DIRECTORY, 0), fd;

    if (d < 0)
        return fail_errno(-d, "%.*s", STR(dir));
    fd = machine->file_open(d, NAME, O_RDONLY, 0);
    machine->close(d);
    if (fd == -ENOENT)
        return OK;
    if (fd < 0)
        return fail_errno(-fd, "%.*s/" NAME, STR(dir));
    int64_t size = machine->file_size(fd);
    ssize_t got = size < 0 || size > OCTETS_MOST ? -EFBIG : 0;
    while (got >= 0 && into->n < (size_t)size) {
        buf_reserve(into, (size_t)size - into->n);
        if ((got = machine->file_read(fd, into->p + into->n, (size_t)size - into->n, into->n)) <= 0)
            break;
        into->n += (size_t)got;
    }
    machine->close(fd);
    return got < 0 ? fail_errno((int)-got, "%.*s/" NAME, STR(dir)) : OK;
}

void standing_load(struct relay *r)
{
    AUTO_BUF text = { 0 };
    struct reading rd = { .r = r };
    bool headed = false;

    if (read_whole(r->newest->spool.dir, &text) != OK)
        log_error("standing_not_read", LOG_STR("reason", err_text()));
    str rest = buf_str(&text), line;
    while (str_cut(&rest, S("\n"), &line) && line.n && (headed || !rd.bad)) {
        json_error_t e;
        json_t *o = json_loadb(line.p, line.n, JSON_REJECT_DUPLICATES, &e);
        bool good = headed ? o && take_line(&rd, o) : (headed = o && take_head(&rd, o));
        rd.bad += !good;
        json_decref(o);
    }
    if (rd.bad)
        log_error("standing_damaged", LOG_Z("what", headed ? "some of its lines say nothing" : "it is not of this version, and left aside"), LOG_INT("lines", rd.bad));
    if (rd.paused || rd.suspended || rd.drained)
        log_info("standing", LOG_INT("paused", rd.paused), LOG_INT("suspended", rd.suspended), LOG_INT("drained", rd.drained));
}

/* ---- write ---- */

static err tell(struct worker *w, void *into) { return queue_standing(w->queue, into); }

/* Lanes that are at rest just now go on being so: what is written of them is not true for long. */
static bool lines_of(struct buf *b, const struct standing *s)
{
    const struct standing_lane *l;
    bool open = false;

    for (size_t i = 0; i < s->nsuspended; i++) {
        buf_addc(b, '{');
        add_str(b, "suspended", s->suspended[i].lane);
        add_int(b, "until", (wall_now() + (s->suspended[i].until - clock_now())) / SECOND);
        add_str(b, "reason", s->suspended[i].reason);
        buf_add(b, S("}\n"));
    }
    for (size_t i = 0; (l = map_next(&s->lane, &i));) {
        buf_addc(b, '{');
        add_str(b, "lane", l->name);
        buf_add(b, S(",\"paused\":["));
        for (uint32_t k = 0; k < l->pauses.n; k++) {
            struct pause p = l->pauses.p[k];
            buf_addf(b, "%s[%lld,", k ? "," : "", (long long)(p.from / SECOND));
            if (p.to)
                buf_addf(b, "%lld]", (long long)(p.to / SECOND));
            else
                buf_add(b, S("null]"));
            open |= !p.to;
        }
        buf_add(b, S("]}\n"));
    }
    return open;
}

static void drained_lines(struct buf *b, const struct routes *routes)
{
    for (size_t i = 0; i < routes->nbackend; i++)
        for (size_t k = 0; k < routes->backend[i]->nserver; k++) {
            const struct backend *be = routes->backend[i];
            if (!atomic_load(&be->server[k].state->drained))
                continue;
            buf_addc(b, '{');
            add_str(b, "drained", be->name);
            add_str(b, "server", server_name(be, &be->server[k]));
            buf_add(b, S("}\n"));
        }
}

struct writing { str dir, text; err e; };

static err write_whole(int d, str text)
{
    int fd = machine->file_open(d, NAME ".new", O_WRONLY | O_CREAT | O_TRUNC, 0600), got = fd;
    size_t at = 0;

    while (got >= 0 && at < text.n) {
        ssize_t n = machine->file_write(fd, &(struct iovec){ (void *)(uintptr_t)(text.p + at), text.n - at }, 1, at);
        got = n > 0 ? 0 : n < 0 ? (int)n : -EIO;
        at += n > 0 ? (size_t)n : 0;
    }
    got = got < 0 ? got : machine->file_sync(fd);
    if (fd >= 0)
        machine->close(fd);
    got = got < 0 ? got : machine->file_rename(d, NAME ".new", NAME);
    got = got < 0 ? got : machine->file_sync_all(d);
    return got < 0 ? fail_errno(-got, "writing " NAME) : OK;
}

static void write_it(void *arg)
{
    struct writing *w = arg;
    AUTO_ARENA a = arena_new();
    int d = machine->file_open(AT_FDCWD, str_cz(a, w->dir), O_RDONLY | O_DIRECTORY, 0);

    w->e = d < 0 ? fail_errno(-d, "%.*s", STR(w->dir)) : write_whole(d, w->text);
    if (d >= 0)
        machine->close(d);
}

static err save(struct relay *r)
{
    AUTO_BUF text = { 0 };
    struct standing now = { 0 };
    struct settings *s = relay_newest(r);
    struct standing_lane *l;
    err e = OK;

    for (size_t i = 0; r->loading && (l = map_next(&r->before.lane, &i));) /* its mail may not be here yet */
        for (uint32_t k = 0; k < l->pauses.n; k++)
            standing_pause(&now, l->name, l->pauses.p[k]);
    for (unsigned i = 0; i < r->nworker && e == OK; i++)
        e = worker_call(&r->worker[i], tell, &now);
    buf_addf(&text, "{\"waypost\":\"" NAME "\",\"version\":%d,\"as_of\":%lld}\n", VERSION, (long long)(wall_now() / SECOND));
    size_t head = text.n;
    bool open = lines_of(&text, &now);
    standing_clear(&now);
    drained_lines(&text, &s->snapshot.routes);
    uint64_t hash = str_hash(str_from(buf_str(&text), head)) | 1;
    if (e == OK && (open || hash != r->standing.hash)) {
        struct writing w = { .dir = s->spool.dir, .text = buf_str(&text) };
        work_run(r->standing.pool, write_it, &w);
        if ((e = w.e) == OK)
            r->standing.hash = hash;
    }
    snapshot_drop(&s->snapshot);
    return e;
}

err standing_save(struct relay *r)
{
    while (r->standing.busy)
        waiters_wait_steady(&r->standing.idle);
    r->standing.busy = true;
    err e = save(r);
    r->standing.busy = false;
    waiters_wake_one(&r->standing.idle);
    if (e != OK && e != E_CANCELED && !r->standing.failed)
        log_error("standing_not_written", LOG_STR("reason", err_text()), LOG_Z("what", "suspended lanes, drained servers and pauses do not outlive this process"));
    r->standing.failed = e != OK && e != E_CANCELED;
    return e;
}

void standing_said(struct control *c, struct relay *r)
{
    AUTO_BUF line = { 0 };

    buf_add(&line, S("{\"count\":1"));
    if (standing_save(r) != OK)
        add_str(&line, "until_restart", err_text());
    buf_addc(&line, '}');
    control_line(c, buf_str(&line));
}

err standing_keep(void *relay)
{
    for (;;) {
        TRY(task_sleep(clock_now() + EVERY));
        standing_save(relay);
    }
}
