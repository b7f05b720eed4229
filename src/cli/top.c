/* top: a live view of the relay, a picture a second, on any terminal from 80x24 up. */
#include "cli/cli.h"

#include <errno.h>
#include <jansson.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <termios.h>
#include <unistd.h>

#define LANES_ASKED 500

enum sort { SORT_QUEUED, SORT_RATE, SORT_OLDEST, SORT_NAME, SORTS };
static const char *const sort_name[SORTS] = { "queued", "rate", "oldest", "name" };

struct row { str name, state, words; int64_t queued, connections; double rate; when oldest; bool has_rate; };
struct top {
    arena *a;
    enum sort sort;
    size_t wide, high;
    bool colours;
    json_t *now, *before;
    when at, then;
    struct buf out;
    size_t lines;
};

/* ---- one picture ---- */

/* A line, cut to the screen; what comes from elsewhere is printable already. */
static void line(struct top *t, const char *colour, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
static void line(struct top *t, const char *colour, const char *fmt, ...)
{
    char text[1024];
    va_list ap;
    uint32_t cp;
    size_t at = 0;

    if (t->lines == t->high)
        return;
    va_start(ap, fmt);
    int n = vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    str s = str_of(text, MIN((size_t)MAX(n, 0), sizeof text - 1));
    for (size_t column = 0; at < s.n && column < t->wide; column++)
        at += MAX(utf8_head(str_from(s, at), &cp), 1);
    if (t->lines++)
        buf_addc(&t->out, '\n');
    if (t->colours && *colour)
        buf_addf(&t->out, "\033[%sm", colour);
    buf_add(&t->out, str_head(s, at));
    if (t->colours)
        buf_add(&t->out, *colour ? S("\033[0m\033[K") : S("\033[K"));
}

static double rate(const struct top *t, int64_t now, int64_t before)
{
    when passed = t->at - t->then;
    return t->before && passed > 0 ? MAX((double)(now - before) * (double)SECOND / (double)passed, 0) : 0;
}

static double counter_rate(const struct top *t, const char *key)
{
    return rate(t, json_number(json_object_get(t->now, "counters"), key), json_number(json_object_get(t->before, "counters"), key));
}

static int64_t lane_delivered(const json_t *lane, bool *any)
{
    const json_t *servers = json_object_get(lane, "servers");
    int64_t n = 0;

    for (size_t i = 0; i < json_array_size(servers); i++) {
        n += json_number(json_array_get(servers, i), "delivered");
        *any = true;
    }
    return n;
}

static const json_t *lane_before(const struct top *t, str name)
{
    const json_t *lanes = json_object_get(t->before, "lanes");

    for (size_t i = 0; i < json_array_size(lanes); i++)
        if (str_eq(json_text(json_array_get(lanes, i), "name"), name))
            return json_array_get(lanes, i);
    return NULL;
}

static struct row row_of(struct top *t, const json_t *lane)
{
    struct row r = { .name = json_text(lane, "name"), .state = json_text(lane, "state"), .words = json_text(lane, "reason"),
                     .oldest = json_when(lane, "oldest_ready"), .connections = json_number(lane, "connections") };
    bool ignored = false;

    r.queued = json_number(lane, "ready") + json_number(lane, "waiting") + json_number(lane, "flying");
    int64_t now = lane_delivered(lane, &r.has_rate);
    const json_t *was = lane_before(t, r.name);
    if (was)
        r.rate = rate(t, now, lane_delivered(was, &ignored));
    if (r.words.n == 0 && r.queued)
        r.words = json_text(lane, "last_reply");
    r.words = tell_text(t->a, r.words);
    r.name = r.name.n ? tell_text(t->a, r.name) : S("(no way)");
    return r;
}

static enum sort sorting;
static int by_sort(const void *a, const void *b)
{
    const struct row *x = a, *y = b;
    double d = 0;

    if (sorting == SORT_QUEUED)
        d = (double)(y->queued - x->queued);
    else if (sorting == SORT_RATE)
        d = y->rate - x->rate;
    else if (sorting == SORT_OLDEST)
        d = (double)((x->oldest ? x->oldest : INT64_MAX / 2) - (y->oldest ? y->oldest : INT64_MAX / 2));
    return d < 0 ? -1 : d > 0 ? 1 : str_cmp(x->name, y->name);
}

static void draw_lanes(struct top *t)
{
    const json_t *lanes = json_object_get(t->now, "lanes");
    size_t n = json_array_size(lanes);
    struct row *row = NEW_ARRAY(t->a, struct row, n + 1);
    int wide = (int)MIN(MAX(t->wide, 80) / 4, 40);

    for (size_t i = 0; i < n; i++)
        row[i] = row_of(t, json_array_get(lanes, i));
    sorting = t->sort;
    qsort(row, n, sizeof *row, by_sort);
    line(t, "7", "%-*s %-6s %9s %5s %8s %7s  %-*s", wide, "LANE", "STATE", "QUEUED", "CONNS", "RATE/s", "OLDEST", (int)MAX(t->wide, 80) - wide - 42, "LAST WORDS");
    for (size_t i = 0; i < n; i++) {
        const struct row *r = &row[i];
        char speed[16] = "-";
        str age = tell_ago(t->a, r->oldest, t->at), first = age;
        size_t blank = str_findc(age, ' ');
        if (blank != STR_NONE)
            first = str_head(age, blank);
        if (r->has_rate)
            snprintf(speed, sizeof speed, "%.1f", r->rate);
        line(t, !str_eq(r->state, S("open")) ? "31" : "", "%-*.*s %-6.*s %9.*s %5lld %8s %7.*s  %.*s", wide, MIN(wide, (int)r->name.n), r->name.p,
             STR(r->state), STR(tell_count(t->a, r->queued)), (long long)r->connections, speed, STR(first), STR(r->words));
    }
    int64_t all = json_number(t->now, "lanes_all");
    if (all > (int64_t)n)
        line(t, "", "and %lld lanes with less", (long long)(all - (int64_t)n));
    if (n == 0)
        line(t, "", "no mail has come yet");
}

#define INCIDENTS_DRAWN 4
static void draw_incidents(struct top *t)
{
    const json_t *all = json_object_get(t->now, "incidents");
    size_t n = json_array_size(all);

    for (size_t i = 0; i < MIN(n, (size_t)INCIDENTS_DRAWN); i++) {
        const json_t *in = json_array_get(all, i);
        line(t, "31", "INCIDENT %.*s %.*s for %.*s, %lld wait: %.*s", STR(json_text(in, "kind")), STR(tell_text(t->a, json_text(in, "subject"))),
             STR(tell_ago(t->a, json_when(in, "since"), t->at)), (long long)json_number(in, "waiting"), STR(tell_text(t->a, json_text(in, "reason"))));
    }
    if (n > INCIDENTS_DRAWN)
        line(t, "31", "and %zu more: waypost incidents", n - INCIDENTS_DRAWN);
}

static void draw(struct top *t)
{
    const json_t *q = json_object_get(t->now, "queue"), *sp = json_object_get(t->now, "spool"), *lanes = json_object_get(t->now, "lanes");
    when oldest = json_when(q, "oldest");
    int64_t syncs = json_number(sp, "syncs"), down = 0;

    for (size_t i = 0; i < json_array_size(lanes); i++)
        down += !str_eq(json_text(json_array_get(lanes, i), "state"), S("open"));
    line(t, "1", "waypost  up %.*s, configuration %lld, %.*s sessions, %.*s connections out", STR(tell_ago(t->a, 1, 1 + json_number(t->now, "uptime_s") * SECOND)),
         (long long)json_number(t->now, "epoch"), STR(tell_count(t->a, json_number(t->now, "sessions"))), STR(tell_count(t->a, json_number(t->now, "connections"))));
    line(t, "", "queue    %.*s messages: %.*s ready, %.*s put off, %.*s in flight; the oldest %.*s%s", STR(tell_count(t->a, json_number(q, "messages"))),
         STR(tell_count(t->a, json_number(q, "ready"))), STR(tell_count(t->a, json_number(q, "waiting"))), STR(tell_count(t->a, json_number(q, "flying"))),
         STR(tell_ago(t->a, oldest, t->at)), json_number(q, "loading") ? "; loading" : "");
    line(t, "", "a second accepted %.1f, delivered %.1f, put off %.1f, failed %.1f, refused %.1f", counter_rate(t, "accepted"), counter_rate(t, "delivered"),
         counter_rate(t, "deferred"), counter_rate(t, "failed") + counter_rate(t, "expired"), counter_rate(t, "refused_rcpts"));
    line(t, "", "times    to accept %.*s (p99 %.*s), to deliver %.*s (p99 %.*s)", STR(tell_us(t->a, json_number(json_object_get(t->now, "accept_us"), "p50"))),
         STR(tell_us(t->a, json_number(json_object_get(t->now, "accept_us"), "p99"))), STR(tell_us(t->a, json_number(json_object_get(t->now, "deliver_us"), "p50"))),
         STR(tell_us(t->a, json_number(json_object_get(t->now, "deliver_us"), "p99"))));
    line(t, json_number(sp, "intake_stopped") ? "31" : "", "spool    %s%lld segments, %lld ready, a sync takes %.*s, the longest %.*s",
         json_number(sp, "intake_stopped") ? "FULL, new mail is put off: " : "", (long long)json_number(sp, "segments"), (long long)json_number(sp, "ready"),
         STR(tell_us(t->a, syncs ? json_number(sp, "sync_us_total") / syncs : 0)), STR(tell_us(t->a, json_number(sp, "sync_us_max"))));
    line(t, down ? "31" : "", "lanes    %lld, %lld of them down", (long long)json_number(t->now, "lanes_all"), (long long)down);
    draw_incidents(t);
    line(t, "", "%s", "");
    draw_lanes(t);
}

/* ---- the terminal ---- */

static struct termios before_us;
static bool changed;

static void terminal_restore(void)
{
    static const char words[] = "\033[?25h\033[?1049l"; /* the cursor, and the screen that was there */

    if (!changed)
        return;
    changed = false;
    tcsetattr(STDIN_FILENO, TCSAFLUSH, &before_us);
    ssize_t ignored = write(STDOUT_FILENO, words, sizeof words - 1);
    (void)ignored;
}

static bool terminal_take(void)
{
    struct termios raw;

    if (!isatty(STDIN_FILENO) || !isatty(STDOUT_FILENO) || tcgetattr(STDIN_FILENO, &before_us) < 0)
        return false;
    raw = before_us;
    raw.c_lflag &= ~(tcflag_t)(ICANON | ECHO);
    raw.c_cc[VMIN] = 0;
    raw.c_cc[VTIME] = 0;
    if (tcsetattr(STDIN_FILENO, TCSAFLUSH, &raw) < 0)
        return false;
    changed = true;
    atexit(terminal_restore);
    printf("\033[?1049h\033[?25l");
    return true;
}

static void measure(struct top *t)
{
    struct winsize w = { 0 };

    t->wide = 80;
    t->high = 24;
    if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &w) == 0 && w.ws_col >= 20 && w.ws_row >= 4) {
        t->wide = MIN(w.ws_col, 400u);
        t->high = MIN(w.ws_row, 400u);
    }
}

/* ---- the loop ---- */

static void keep(void *ctx, const json_t *now, str text)
{
    struct top *t = ctx;

    (void)text;
    json_decref(t->before);
    t->before = t->now;
    t->now = json_deep_copy(now);
    t->then = t->at;
    t->at = wall_now();
}

static int ask(struct top *t, struct caller *c) { return caller_ask(c, json_pack("{s:s, s:i}", "do", "stats", "limit", LANES_ASKED), keep, t); }

static void show(struct top *t)
{
    buf_clear(&t->out);
    t->lines = 0;
    if (t->colours)
        buf_add(&t->out, S("\033[H"));
    draw(t);
    buf_add(&t->out, t->colours ? S("\033[J") : S("\n"));
    fwrite(t->out.p, 1, t->out.n, stdout);
    fflush(stdout);
    arena_reset(t->a);
}

/* False: end. */
static bool key(struct top *t, char c)
{
    static const char keys[SORTS] = { 's', 'r', 'o', 'n' };

    for (unsigned i = 0; i < SORTS; i++)
        if (c == keys[i])
            t->sort = (enum sort)i;
    return c != 'q' && c != 'Q' && c != 3;
}

/* Until the next picture is due, a key was pressed (then at once), or it is over. */
static bool wait_for_keys(struct top *t, int signals, when until)
{
    for (;;) {
        struct pollfd on[2] = { { .fd = STDIN_FILENO, .events = POLLIN }, { .fd = signals, .events = POLLIN } };
        when left = until - clock_now();
        char c[16];
        if (left <= 0)
            return true;
        if (poll(on, 2, (int)(left / MILLISECOND) + 1) < 0 && errno != EINTR)
            return false;
        if (on[1].revents) {
            struct signalfd_siginfo s;
            if (read(signals, &s, sizeof s) != sizeof s || s.ssi_signo != SIGWINCH)
                return false;
            measure(t);
            show(t);
        }
        if (!on[0].revents)
            continue;
        ssize_t n = read(STDIN_FILENO, c, sizeof c);
        if (n <= 0)
            return false; /* the terminal is gone */
        for (ssize_t i = 0; i < n; i++)
            if (!key(t, c[i]))
                return false;
        show(t);
    }
}

static int live(struct top *t, struct caller *c)
{
    static const int heard[] = { SIGINT, SIGTERM, SIGHUP, SIGWINCH, SIGQUIT };
    sigset_t set;
    int code;

    sigemptyset(&set);
    for (size_t i = 0; i < COUNT(heard); i++)
        sigaddset(&set, heard[i]);
    sigprocmask(SIG_BLOCK, &set, NULL);
    int signals = signalfd(-1, &set, SFD_CLOEXEC);
    if (signals < 0 || !terminal_take()) {
        cli_say("this is no terminal; --once prints one picture");
        return CLI_USAGE;
    }
    t->colours = true;
    measure(t);
    do {
        code = ask(t, c);
        if (code == CLI_DONE)
            show(t);
    } while (code == CLI_DONE && wait_for_keys(t, signals, clock_now() + SECOND));
    terminal_restore();
    close(signals);
    return code;
}

/* Rates need two looks. */
static int once(struct top *t, struct caller *c)
{
    int code = ask(t, c);

    if (code != CLI_DONE)
        return code;
    usleep(500 * 1000);
    code = ask(t, c);
    measure(t);
    t->high = SIZE_MAX;
    if (!isatty(STDOUT_FILENO))
        t->wide = 400;
    if (code == CLI_DONE)
        show(t);
    return code;
}

int cli_top(int argc, char **argv)
{
    AUTO_ARENA a = arena_new();
    AUTO(caller) c = NULL;
    struct relay_at at = { 0 };
    struct top t = { .a = a };
    bool one = false;
    const char *sort = NULL;
    const struct flag flags[] = { RELAY_AT_FLAGS(at), { "once", .on = &one }, { "sort", .text = &sort }, { NULL } };

    int n = cli_flags(argc, argv, flags);
    if (n != 0)
        return n < 0 ? CLI_USAGE : cli_usage("top", "what is \"%s\" for?", argv[1]);
    while (sort && t.sort < SORTS && strcmp(sort, sort_name[t.sort]) != 0)
        t.sort++;
    if (t.sort == SORTS)
        return cli_usage("top", "sort by queued, rate, oldest or name, not by \"%s\"", sort);
    int code = caller_open(&at, &c);
    if (code == CLI_DONE)
        code = one ? once(&t, c) : live(&t, c);
    json_decref(t.now);
    json_decref(t.before);
    buf_free(&t.out);
    return code;
}
