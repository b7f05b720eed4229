/* sink: a server that takes mail and throws it away, counts it, and fails in whatever way a test asks for. It does as
 * little as it can for a message: in measurements it shares the machine with what is measured. */
#include "cli/sink.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

static const char *const stage_names[STAGES] = { "greeting", "ehlo", "mail", "rcpt", "data", "dot" };

/* ---- threads ---- */

struct acceptor { struct worker *w; int fd; };

static err accept_run(void *arg)
{
    struct acceptor *at = arg;
    struct io io = { 0 };
    struct addr peer;
    int fd;
    err e = io_add_shared(&io, at->fd);

    while (e == OK || e == E_LIMIT) {
        e = listen_accept(&io, NEVER, &fd, &peer);
        if (e != OK)
            continue;
        struct visit *s = visit_new(at->w, stream_new(fd, &peer));
        count(&at->w->counts.connections, 1);
        if (group_spawn(at->w->group, "session", visit_run, s) != OK)
            visit_free(s);
    }
    io_del(&io);
    return e == E_CANCELED ? OK : e;
}

static err worker_run(void *arg)
{
    struct worker *w = arg;
    AUTO_ARENA a = arena_new();
    struct acceptor *at = NEW_ARRAY(a, struct acceptor, w->sink->nlistener);
    AUTO_GROUP g = group_open(NEVER);

    w->group = &g;
    for (size_t i = 0; i < w->sink->nlistener; i++) {
        at[i] = (struct acceptor){ w, w->sink->listener[i] };
        group_spawn(&g, "accept", accept_run, &at[i]);
    }
    return group_wait(&g);
}

static void worker_stop(struct post *p)
{
    group_cancel(AROUND(p, struct worker, stop)->group);
}

/* ---- figures ---- */

static uint64_t total(const struct sink *k, size_t at)
{
    uint64_t sum = 0;
    for (size_t i = 0; i < k->threads; i++)
        sum += atomic_load_explicit((const _Atomic uint64_t *)(const void *)((const char *)&k->worker[i].counts + at),
                                    memory_order_relaxed);
    return sum;
}

static void counts_print(struct sink *k)
{
    static const struct { const char *json, *text; size_t at; } all[] = {
        { "messages", "messages", offsetof(struct counts, messages) },
        { "recipients", "recipients", offsetof(struct counts, recipients) },
        { "octets", "octets", offsetof(struct counts, octets) },
        { "connections", "connections", offsetof(struct counts, connections) },
        { "refused", "refusals", offsetof(struct counts, refused) },
        { "unanswered", "taken without an answer", offsetof(struct counts, unanswered) },
        { "bare_line_ends", "with bare line ends", offsetof(struct counts, bare) },
    };
    AUTO_BUF out = { 0 };

    for (size_t i = 0; i < COUNT(all); i++) {
        uint64_t n = total(k, all[i].at);
        if (k->json)
            buf_addf(&out, "%s\"%s\":%" PRIu64, i ? "," : "{", all[i].json, n);
        else if (n || i < 3)
            buf_addf(&out, "%s%" PRIu64 " %s", i ? ", " : "", n, all[i].text);
    }
    if (k->unique) {
        pthread_mutex_lock(&k->mutex);
        buf_addf(&out,
                 k->json ? ",\"unique\":%zu,\"duplicates\":%" PRIu64 ",\"without_id\":%" PRIu64
                         : ", %zu different, %" PRIu64 " doubled, %" PRIu64 " without id",
                 k->ids.n, k->ids.doubled, k->ids.without);
        pthread_mutex_unlock(&k->mutex);
    }
    buf_add(&out, k->json ? S("}\n") : S("\n"));
    if (k->count_file) {
        int fd = open(k->count_file, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
        if (fd >= 0)
            sink_write(fd, buf_str(&out));
        if (fd < 0 || close(fd) != 0)
            cli_say("%s: %s", k->count_file, strerror(errno));
    }
    fwrite(out.p, 1, out.n, stdout); /* last: who reads this may look into the file */
    fflush(stdout);
}

static const int signals[] = { SIGINT, SIGTERM, SIGUSR1 };

static err sink_run(void *arg)
{
    struct sink *k = arg;
    int number = 0;
    AUTO_GROUP own = group_open(NEVER);

    for (size_t i = 1; i < k->threads; i++)
        k->worker[i].thread = thread_start("sink", worker_run, &k->worker[i]);
    group_spawn(&own, "worker", worker_run, &k->worker[0]);
    while (signals_wait(signals, COUNT(signals), NEVER, &number) == OK && number == SIGUSR1)
        counts_print(k);
    group_cancel(&own);
    for (size_t i = 1; i < k->threads; i++) {
        k->worker[i].stop.run = worker_stop;
        thread_post(k->worker[i].thread, &k->worker[i].stop);
        thread_join(k->worker[i].thread);
    }
    err e = group_wait(&own);
    return e == E_CANCELED ? OK : e;
}

/* ---- the command line ---- */

static bool stage_parse(str s, enum stage *ret)
{
    for (int i = 0; i < STAGES; i++) {
        if (str_eq(s, str_z(stage_names[i]))) {
            *ret = (enum stage)i;
            return true;
        }
    }
    return false;
}

static bool stage_bad(const char *option, const char *value)
{
    cli_usage("sink", "--%s %s: the stages are greeting, ehlo, mail, rcpt, data and dot", option, value);
    return false;
}

static bool delay_parse(struct sink *k, const char *value)
{
    str rest = str_z(value), stage;
    enum stage at;

    str_cut(&rest, S(":"), &stage);
    if (!stage_parse(stage, &at))
        return stage_bad("delay", value);
    if (!rest.p || !cli_span(rest.p, &k->delay[at])) {
        cli_usage("sink", "--delay %s: STAGE:TIME, such as dot:200ms", value);
        return false;
    }
    return true;
}

static bool close_parse(struct sink *k, const char *value)
{
    str rest = str_z(value), stage;
    enum stage at;

    str_cut(&rest, S(":"), &stage);
    if (!stage_parse(stage, &at))
        return stage_bad("close", value);
    if (rest.p && !str_u64(rest, INT64_MAX, &k->close_after[at])) {
        cli_usage("sink", "--close %s: STAGE or STAGE:N, such as dot:3", value);
        return false;
    }
    return k->closes[at] = true;
}

/* CODE[:TEXT][:PERCENT%] */
static bool refusal_parse(struct rule *r, str s)
{
    str code, text = s;
    uint64_t number;
    size_t colon = s.n;

    r->percent = 100;
    if (str_ends(s, S("%"))) {
        while (colon && s.p[colon - 1] != ':')
            colon--;
        if (!colon || !str_u64(str_head(str_from(s, colon), s.n - colon - 1), 100, &r->percent))
            return false;
        text = str_head(s, colon - 1);
    }
    if (!str_cut(&text, S(":"), &code) || !str_u64(code, 599, &number) || number < 400)
        return false;
    r->code = (int)number;
    r->text = text.n ? text : S("as asked");
    return true;
}

static bool rule_add(struct sink *k, struct rule r)
{
    if (k->nrule == RULES_MAX) {
        cli_usage("sink", "more than %d refusals are asked for", RULES_MAX);
        return false;
    }
    k->rule[k->nrule++] = r;
    return true;
}

static bool reject_parse(struct sink *k, const char *value)
{
    str rest = str_z(value), stage;
    struct rule r = { 0 };

    str_cut(&rest, S(":"), &stage);
    if (!stage_parse(stage, &r.at))
        return stage_bad("reject", value);
    if (!refusal_parse(&r, rest)) {
        cli_usage("sink", "--reject %s: STAGE:CODE[:TEXT][:PERCENT%%], such as rcpt:452:too many:30%%", value);
        return false;
    }
    return rule_add(k, r);
}

static bool fail_parse(struct sink *k, arena *a, enum stage at, const char *value)
{
    str rest = str_z(value), pattern;
    struct rule r = { .at = at };

    str_cut(&rest, S(":"), &pattern);
    r.pattern = str_cz(a, pattern);
    if (!refusal_parse(&r, rest)) {
        cli_usage("sink", "--fail-%s %s: PATTERN:CODE[:TEXT][:PERCENT%%], such as *@slow.example:451", stage_names[at], value);
        return false;
    }
    return rule_add(k, r);
}

/* What --listen asks for: one address, or one with a range of ports. */
struct ports { struct addr first; uint16_t last; };

static bool ports_parse(arena *a, const char *value, struct ports *ret)
{
    str text = str_z(value);
    uint64_t last = 0;
    size_t dash = text.n;

    while (dash && ascii_digit(text.p[dash - 1]))
        dash--;
    bool range = dash > 1 && dash < text.n && text.p[dash - 1] == '-' && ascii_digit(text.p[dash - 2]) && !str_starts(text, S("unix:"));
    if (!cli_addr("sink", range ? str_cz(a, str_head(text, dash - 1)) : value, &ret->first))
        return false;
    ret->last = addr_port(&ret->first);
    if (!range)
        return true;
    if (!str_u64(str_from(text, dash), 65535, &last) || !ret->last || last < ret->last) {
        cli_usage("sink", "--listen %s: ADDR:FIRST-LAST, such as 127.0.0.1:2600-2699", value);
        return false;
    }
    ret->last = (uint16_t)last;
    return true;
}

static bool listen_at(struct sink *k, const struct ports *p)
{
    char text[ADDR_TEXT];
    struct sockaddr_storage sa;
    socklen_t n;
    struct addr at = p->first;
    size_t ports = p->last - addr_port(&at) + 1u;

    k->listener = mem_grow(k->listener, (k->nlistener + ports) * sizeof *k->listener);
    for (size_t i = 0; i < ports; i++) {
        if (ports > 1)
            addr_set_port(&at, (uint16_t)(addr_port(&p->first) + i));
        if (listen_open(&at, &k->listener[k->nlistener]) != OK) {
            cli_say("%.*s", STR(err_text()));
            return false;
        }
        k->nlistener++;
    }
    if (ports > 1)
        at = p->first;
    else if (machine->sock_name(k->listener[k->nlistener - 1], false, &sa, &n) == 0)
        at = addr_of(&sa, n); /* which port it became, if it was 0 */
    if (ports > 1)
        cli_say("sink: listening on %.*s to %u", STR(addr_print(&at, text)), p->last);
    else
        cli_say("sink: listening on %.*s", STR(addr_print(&at, text)));
    return true;
}

static bool file_open(const char *path, int flags, int *ret)
{
    *ret = path ? open(path, flags | O_CLOEXEC, 0644) : -1;
    if (path && *ret < 0)
        cli_say("%s: %s", path, strerror(errno));
    return !path || *ret >= 0;
}

static void sink_free(struct sink *k)
{
    for (size_t i = 0; i < k->nlistener; i++)
        close(k->listener[i]);
    mem_free(k->listener);
    mem_free(k->worker);
    mem_free(k->ids.slot);
}

int cli_sink(int argc, char **argv)
{
    AUTO_ARENA a = arena_new();
    struct sink *k = NEW(a, struct sink);
    struct flag_values at = { 0 }, delays = { 0 }, rejects = { 0 }, fails = { 0 }, fails_dot = { 0 }, closes = { 0 };
    const char *hash = NULL, *max_size = NULL, *rate = NULL;
    bool no_pipelining = false, no_8bit = false, no_chunking = false, no_dsn = false, no_utf8 = false,
         no_enhanced = false;
    const struct flag flags[] = {
        { "listen", 'l', .many = &at },
        { "threads", .number = &k->threads },
        { "json", .on = &k->json },
        { "count-file", .text = &k->count_file },
        { "capture", .text = &k->capture },
        { "hash", .text = &hash },
        { "unique", .on = &k->unique },
        { "delay", .many = &delays },
        { "reject", .many = &rejects },
        { "lmtp", .on = &k->lmtp },
        { "fail-rcpt", .many = &fails },
        { "fail-dot", .many = &fails_dot },
        { "close", .many = &closes },
        { "max-size", .text = &max_size },
        { "max-mails-per-session", .number = &k->max_mails },
        { "rate-limit", .text = &rate },
        { "seed", .number = &k->seed },
        { "no-ehlo", .on = &k->no_ehlo },
        { "no-pipelining", .on = &no_pipelining },
        { "no-8bitmime", .on = &no_8bit },
        { "no-chunking", .on = &no_chunking },
        { "no-dsn", .on = &no_dsn },
        { "no-smtputf8", .on = &no_utf8 },
        { "no-enhanced", .on = &no_enhanced },
        { NULL },
    };

    k->seed = k->threads = 1;
    pthread_mutex_init(&k->mutex, NULL);
    int left = cli_flags(argc, argv, flags);
    if (left < 0)
        return CLI_USAGE;
    if (left > 0)
        return cli_usage("sink", "what is \"%s\" for?", argv[1]);
    if (k->threads < 1 || k->threads > THREADS_MAX)
        return cli_usage("sink", "--threads: 1 to %d", THREADS_MAX);
    if ((max_size && !cli_size(max_size, &k->max_size)) || (rate && !cli_size(rate, &k->octets_a_second)))
        return cli_usage("sink", "--max-size and --rate-limit take a size, such as 64k");
    for (size_t i = 0; i < delays.n; i++)
        if (!delay_parse(k, delays.p[i]))
            return CLI_USAGE;
    for (size_t i = 0; i < rejects.n; i++)
        if (!reject_parse(k, rejects.p[i]))
            return CLI_USAGE;
    for (size_t i = 0; i < fails.n; i++)
        if (!fail_parse(k, a, AT_RCPT, fails.p[i]))
            return CLI_USAGE;
    if (fails_dot.n && !k->lmtp)
        return cli_usage("sink", "--fail-dot needs --lmtp: by SMTP the final dot is answered once for all recipients");
    for (size_t i = 0; i < fails_dot.n; i++)
        if (!fail_parse(k, a, AT_DOT, fails_dot.p[i]))
            return CLI_USAGE;
    for (size_t i = 0; i < closes.n; i++)
        if (!close_parse(k, closes.p[i]))
            return CLI_USAGE;

    if (!at.n)
        at.p[at.n++] = "127.0.0.1:2525";
    struct ports *places = NEW_ARRAY(a, struct ports, at.n);
    for (size_t i = 0; i < at.n; i++)
        if (!ports_parse(a, at.p[i], &places[i]))
            return CLI_USAGE;

    const struct { bool off; str word; } offers[] = {
        { false, S("sink.example") },
        { no_pipelining, S("PIPELINING") },
        { no_8bit, S("8BITMIME") },
        { no_utf8, S("SMTPUTF8") },
        { no_dsn, S("DSN") },
        { no_enhanced, S("ENHANCEDSTATUSCODES") },
        { no_chunking, S("CHUNKING") },
        { no_chunking, S("BINARYMIME") },
        { false, k->max_size ? str_printf(a, "SIZE %" PRIu64, k->max_size) : S("SIZE") },
    };
    for (size_t i = 0; i < COUNT(offers); i++)
        if (!offers[i].off)
            k->offers[k->noffers++] = offers[i].word;

    signals_block(signals, COUNT(signals));
    if (k->capture && mkdir(k->capture, 0755) < 0 && errno != EEXIST) {
        cli_say("%s: %s", k->capture, strerror(errno));
        return CLI_NO;
    }
    if (!file_open(hash, O_WRONLY | O_CREAT | O_APPEND, &k->hash_fd) ||
        !file_open(k->capture, O_RDONLY | O_DIRECTORY, &k->capture_fd))
        return CLI_NO;
    for (size_t i = 0; i < at.n; i++) {
        if (!listen_at(k, &places[i])) {
            sink_free(k);
            return CLI_NO;
        }
    }
    k->worker = mem_new(k->threads * sizeof *k->worker);
    for (size_t i = 0; i < k->threads; i++) {
        k->worker[i].sink = k;
        k->worker[i].dice = (k->seed + i + 1) * UINT64_C(0x9e3779b97f4a7c15);
    }
    err e = task_main(sink_run, k);
    if (e != OK)
        cli_say("%.*s", STR(err_text()));
    counts_print(k);
    sink_free(k);
    return e == OK ? CLI_DONE : CLI_NO;
}
