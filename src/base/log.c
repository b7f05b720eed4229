/* The log. The caller formats its line in memory of its thread and appends it under one mutex, held for a memcpy; the
 * writer swaps the buffer for an empty one and writes without the mutex. What the fork of a process inherits is a log
 * that is not started. */
#include "base/base.h"
#include "base/utf8.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define LINE_MAX_BYTES 8192
#define VALUE_MAX 1024              /* printed bytes of one value; the rest is cut and "..." put there */
#define PATIENCE (50 * MILLISECOND) /* how long a line may lie in memory */
#define BATCH (64 * 1024)
#define TO_DISK (256 * 1024)        /* of a file, begun to be written to its disk at once */
#define WAITING_MAX (4 * 1024 * 1024)
#define FAREWELL 10 /* tenths of a second that log_stop() waits for a reader that stands still */

/* Read without the mutex by every log_write(); set only by log_start() and log_stop(). */
static struct log_setup setup = { .fd = STDERR_FILENO, .least = LOG_INFO };
static atomic_int least = LOG_INFO;
static atomic_bool running, stopping;
static atomic_int farewell; /* tenths of a second left once we are stopping */

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t wake;
static pthread_t writer;
static struct buf gathered;  /* under the mutex, as the next three */
static size_t in_hand;       /* bytes the writer is at */
static uint64_t dropped;
static bool urgent;

/* ---- one line ---- */

struct line { size_t n; char p[LINE_MAX_BYTES]; };
#define LINE_ROOM (LINE_MAX_BYTES - 8) /* what fields may fill: the end of the line always fits */

static void put(struct line *l, str s)
{
    s = str_head(s, LINE_ROOM - MIN(l->n, LINE_ROOM));
    if (s.n)
        memcpy(l->p + l->n, s.p, s.n);
    l->n += s.n;
}

static void put_int(struct line *l, int64_t value)
{
    char digits[24], *p = digits + sizeof digits;
    uint64_t left = value < 0 ? -(uint64_t)value : (uint64_t)value;
    do
        *--p = (char)('0' + left % 10);
    while (left /= 10);
    if (value < 0)
        *--p = '-';
    put(l, str_of(p, (size_t)(digits + sizeof digits - p)));
}

static void put_escape(struct line *l, uint32_t cp)
{
    static const char hex[] = "0123456789abcdef";
    char u[6] = { '\\', 'u', hex[cp >> 12 & 15], hex[cp >> 8 & 15], hex[cp >> 4 & 15], hex[cp & 15] };
    put(l, str_of(u, sizeof u));
}

static bool is_bare(unsigned char c) { return c > ' ' && c < 127 && c != '"' && c != '\\' && c != '='; }

/* Most values are printable ASCII: those are copied whole. `quoted` in text form means quotes only where needed. */
static void put_value(struct line *l, str s, bool quotes_always)
{
    size_t plain = 0, end = l->n + VALUE_MAX;
    uint32_t cp;

    while (plain < s.n && is_bare((unsigned char)s.p[plain]))
        plain++;
    bool bare = plain == s.n && s.n > 0 && !quotes_always;
    if (!bare)
        put(l, S("\""));
    str first = str_head(s, MIN(plain, VALUE_MAX));
    put(l, first);
    s = str_from(s, first.n);
    for (size_t n; s.n && l->n < MIN(end, LINE_ROOM - 32); s = str_from(s, n)) {
        n = utf8_head(s, &cp);
        if (n == 0) {
            n = 1;
            put_escape(l, (unsigned char)s.p[0]);
        } else if (cp == '"' || cp == '\\') {
            put(l, cp == '"' ? S("\\\"") : S("\\\\"));
        } else if (cp == '\n' || cp == '\r' || cp == '\t') {
            put(l, cp == '\n' ? S("\\n") : cp == '\r' ? S("\\r") : S("\\t"));
        } else if (utf8_control(cp)) {
            put_escape(l, cp);
        } else {
            put(l, str_head(s, n));
        }
    }
    if (s.n)
        put(l, S("..."));
    if (!bare)
        put(l, S("\""));
}

static str level_name(enum log_level level)
{
    switch (level) {
    case LOG_DEBUG: return S("debug");
    case LOG_INFO: return S("info");
    case LOG_WARN: return S("warn");
    case LOG_ERROR: return S("error");
    }
    return S("?");
}

static void put_field(struct line *l, const struct log_field *f, bool json)
{
    char id[ULID_TEXT];

    put(l, json ? S(",\"") : S(" "));
    put(l, str_z(f->key));
    put(l, json ? S("\":") : S("="));
    switch (f->kind) {
    case LOG_F_STR: put_value(l, f->s, json); break;
    case LOG_F_INT: put_int(l, f->i); break;
    case LOG_F_ID: put_value(l, ulid_print(f->id, id), json); break;
    case LOG_F_BOOL: put(l, f->i ? S("true") : S("false")); break;
    }
}

static void format(struct line *l, enum log_form form, enum log_level level, const char *event,
                   const struct log_field *fields)
{
    char time[TIME_TEXT];
    bool json = form == LOG_FORM_JSON;

    time_rfc3339(time, wall_now());
    l->n = 0;
    put(l, json ? S("{\"ts\":\"") : S(""));
    put(l, str_of(time, 23)); /* to the millisecond */
    put(l, json ? S("Z\",\"level\":\"") : S("Z "));
    put(l, level_name(level));
    put(l, json ? S("\",\"event\":\"") : S(" "));
    put(l, str_z(event));
    put(l, json ? S("\"") : S(""));
    /* A field that would not fit whole is left out with all behind it: half a field is no JSON. */
    for (const struct log_field *f = fields; f->key && l->n < LINE_ROOM - VALUE_MAX - 128; f++)
        put_field(l, f, json);
    if (json)
        l->p[l->n++] = '}';
    l->p[l->n++] = '\n';
}

/* ---- the writer ---- */

static bool ready(int fd)
{
    struct pollfd p = { .fd = fd, .events = POLLOUT };
    while (poll(&p, 1, 100) <= 0)
        if (atomic_load(&stopping) && atomic_fetch_sub(&farewell, 1) <= 0)
            return false;
    return true;
}

/* Left to itself the system writes what half a minute of a busy relay logged in one go, and for that long the spool's syncs stand behind it. */
static void spread_writeback(int fd, size_t written)
{
    static size_t since; /* the writer's only */

    since += written;
    if (since < TO_DISK)
        return;
    since = 0;
    sync_file_range(fd, 0, 0, SYNC_FILE_RANGE_WRITE); /* begins, and waits for nothing; where it cannot, all is as it was */
}

/* A pipe or socket is asked first, and takes no more than PIPE_BUF at once, in whole lines: so that a reader who stands
 * still can hold us only where log_stop() can still end it. */
static void write_out(int fd, str text)
{
    struct stat st;
    bool file = fstat(fd, &st) == 0 && S_ISREG(st.st_mode);

    while (text.n) {
        str part = text;
        if (!file) {
            if (!ready(fd))
                return;
            if (part.n > PIPE_BUF) {
                const char *lf = memrchr(part.p, '\n', PIPE_BUF);
                part.n = lf ? (size_t)(lf + 1 - part.p) : PIPE_BUF;
            }
        }
        ssize_t n = write(fd, part.p, part.n);
        if (n < 0 && errno != EINTR && errno != EAGAIN)
            return; /* nowhere to say so */
        text = str_from(text, n > 0 ? (size_t)n : 0);
    }
}

static void wait_for_lines(void)
{
    while (gathered.n == 0 && !atomic_load(&stopping))
        pthread_cond_wait(&wake, &mutex);

    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_nsec += PATIENCE * 1000;
    until.tv_sec += until.tv_nsec / 1000000000;
    until.tv_nsec %= 1000000000;
    while (gathered.n < BATCH && !urgent && !atomic_load(&stopping))
        if (pthread_cond_timedwait(&wake, &mutex, &until) == ETIMEDOUT)
            return;
}

static void *writer_main(void *unused)
{
    static struct line last; /* the writer's only */
    struct buf spare = { 0 };
    bool done = false;

    (void)unused;
    while (!done) {
        pthread_mutex_lock(&mutex);
        wait_for_lines();
        done = atomic_load(&stopping);
        struct buf batch = gathered;
        gathered = spare;
        uint64_t lost = dropped;
        in_hand = batch.n;
        dropped = 0;
        urgent = false;
        pthread_mutex_unlock(&mutex);

        write_out(setup.fd, buf_str(&batch));
        spread_writeback(setup.fd, batch.n);
        if (lost) {
            format(&last, setup.form, LOG_WARN, "log_dropped", log_fields_(LOG_INT("lines", lost)));
            write_out(setup.fd, str_of(last.p, last.n));
        }
        pthread_mutex_lock(&mutex);
        in_hand = 0;
        pthread_mutex_unlock(&mutex);
        buf_clear(&batch);
        if (batch.cap > 4 * BATCH) /* after a flood */
            buf_free(&batch);
        spare = batch;
    }
    buf_free(&spare);
    return NULL;
}

/* ---- the callers' side ---- */

static void append(enum log_level level, str line)
{
    pthread_mutex_lock(&mutex);
    size_t before = gathered.n;
    bool fits = before + in_hand + line.n <= WAITING_MAX;
    if (fits)
        buf_add(&gathered, line);
    else
        dropped++;
    bool call = fits && (before == 0 || (before < BATCH && gathered.n >= BATCH) || level >= LOG_ERROR);
    urgent |= level >= LOG_ERROR;
    pthread_mutex_unlock(&mutex);
    if (call)
        pthread_cond_signal(&wake);
}

void log_write(enum log_level level, const char *event, const struct log_field *fields)
{
    static _Thread_local struct line line;

    if ((int)level < atomic_load_explicit(&least, memory_order_relaxed))
        return;
    bool started = atomic_load_explicit(&running, memory_order_acquire);
    format(&line, started ? setup.form : LOG_FORM_TEXT, level, event, fields);
    str text = str_of(line.p, line.n);
    if (started && setup.tap)
        setup.tap(setup.ctx, level, text);
    else if (started)
        append(level, text);
    else
        write_out(STDERR_FILENO, text);
}

static void fork_prepare(void) { pthread_mutex_lock(&mutex); }
static void fork_parent(void) { pthread_mutex_unlock(&mutex); }
static void fork_child(void)
{
    atomic_store(&running, false); /* its writer stayed behind, and will write these lines */
    buf_clear(&gathered);
    pthread_mutex_unlock(&mutex);
}

void log_start(const struct log_setup *with)
{
    static bool prepared;

    must(!atomic_load(&running));
    if (!prepared)
        pthread_atfork(fork_prepare, fork_parent, fork_child);
    prepared = true;
    setup = *with;
    atomic_store(&stopping, false);
    atomic_store(&farewell, FAREWELL);
    if (!setup.tap) {
        pthread_condattr_t attr;
        pthread_condattr_init(&attr);
        pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
        pthread_cond_init(&wake, &attr);
        pthread_condattr_destroy(&attr);

        sigset_t all, before; /* signals are for the main thread */
        sigfillset(&all);
        pthread_sigmask(SIG_BLOCK, &all, &before);
        must(pthread_create(&writer, NULL, writer_main, NULL) == 0);
        pthread_sigmask(SIG_SETMASK, &before, NULL);
    }
    atomic_store(&least, (int)with->least);
    atomic_store_explicit(&running, true, memory_order_release);
}

void log_flush(void)
{
    if (!atomic_load(&running) || setup.tap)
        return;
    for (int turn = 0; turn < 100; turn++) {
        if (pthread_mutex_trylock(&mutex) == 0) { /* the dying one may be the one that holds it */
            bool done = gathered.n == 0 && in_hand == 0;
            urgent = !done;
            pthread_mutex_unlock(&mutex);
            if (done)
                return;
            pthread_cond_signal(&wake);
        }
        nanosleep(&(struct timespec){ .tv_nsec = 2000000 }, NULL);
    }
}

void log_stop(void)
{
    if (!atomic_load(&running))
        return;
    if (!setup.tap) {
        pthread_mutex_lock(&mutex);
        atomic_store(&stopping, true);
        pthread_mutex_unlock(&mutex);
        pthread_cond_signal(&wake);
        pthread_join(writer, NULL);
    }
    atomic_store(&running, false);
    atomic_store(&least, LOG_INFO);
    write_out(STDERR_FILENO, buf_str(&gathered)); /* of a thread that logged while we stopped */
    buf_free(&gathered);
}
