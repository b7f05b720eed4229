/* Plays the transcripts of tests/dialogue/ against the real session: our clock, our network, our disk.
 *
 *   dialogue [--trace] [--seed N] [--heard FILE] FILE ...      heard: all that was heard is added there
 *
 * A line begins with its directive. What comes in is played three times: octet by octet, whole, and in random pieces.
 *
 *   config KEY VALUE, ...       hostname, postmaster, relay-domains, recipients, aliases WHO=TO ..., network NAME CIDR DOMAIN ..., no-route;
 *                               indented lines below are configuration as waypost.conf(5) has it. A later one is a reload.
 *   client IP [NAME]            connect; what follows is said and heard here
 *   use NAME                    back to another client
 *   C: LINE                     say it, with CRLF. Lines that follow one another leave in one packet.
 *   c: OCTETS                   the same without CRLF
 *   S: LINE                     hear it. * at the end: any rest; ... at the end: and what further lines this reply has
 *   C*N: LINE  S*N: LINE        N times; # is the number, from 1
 *   silent TIME                 nothing comes for so long
 *   closed                      the relay ends the connection, saying nothing more; so do we
 *   hangup, halfclose, reset    we end it; only our side of it; without manners
 *   clock +TIME                 time passes
 *   log EVENT KEY=VALUE ...     such a line was logged since the last `log`; * at the end of a value
 *   nolog EVENT KEY=VALUE ...   no such line was logged, ever
 *   spool empty, spool N        so many messages are stored
 *   message N                   of the N-th one, the next lines say:
 *     sender ADDRESS            recipients ADDRESS ...
 *     header NAME: VALUE        this field stands in it; * at the end
 *     body OCTETS               exactly this came after the header's empty line
 *     has TEXT, lacks TEXT      anywhere
 *     envelope TEXT             ret, envid, body, notify, orcpt as this runner prints them
 *   repeat N ... end            the lines between them N times; @@ is the number, from 1
 *   drain                       the relay is going down
 *   disk full, broken, ok       also size OCTETS in all; slow TIME: a sync takes so long
 *   sessions N                  of the relay, now
 *   pieces whole|octets|random  always, in this transcript
 *
 * In C:, c:, body, has and lacks, \r \n \t \0 \\ \xNN are octets, and \{A*600} is 600 times A. */
#include "main/main.h"
#include "sim/script.h"
#include "sim/sim.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#define PATIENCE (20 * SECOND)  /* of our clock, for an answer */

struct talker { str name; struct stream *s; struct addr addr; struct buf say; unsigned code; /* of the reply we are in */ struct talker *next; };

struct play {
    const char *path;
    arena *a;
    struct line *line; size_t n, at;
    unsigned number;            /* of the line we are at */
    bool done, failed;
    char dir[64];               /* for lists */
    unsigned lists;
    struct buf logged; size_t log_at;
    /* the relay */
    struct settings *settings;
    struct thread *relay;
    struct spool *spool;
    struct spool_port *port;
    struct queue *queue;
    struct reception *reception;
    struct waiters stop;
    bool up, stopping;
    struct thread *clients;
    struct talker *client, *all;
    struct shown { arena *a; struct message *m; str text, header, body; } shown;
};

static struct play *play;
static enum sim_pieces pieces_first; /* of the command line's round */

/* ---- failing ---- */

static err wrong(const char *fmt, ...) PRINTF(1, 2);
static err wrong(const char *fmt, ...)
{
    va_list ap;

    play->failed = true;
    printf("FAIL %s:%u: ", play->path, play->number);
    va_start(ap, fmt);
    vprintf(fmt, ap);
    va_end(ap);
    printf("\n");
    return fail(E_DAMAGED, "the transcript does not hold");
}

/* ---- text ---- */

static int hex(char c) { return ascii_digit(c) ? c - '0' : (c | 32) >= 'a' && (c | 32) <= 'f' ? (c | 32) - 'a' + 10 : -1; }

static str unescape(arena *a, str s)
{
    struct buf out = buf_in(a, s.n + 1);

    for (size_t i = 0; i < s.n; i++) {
        if (s.p[i] != '\\' || i + 1 == s.n) {
            buf_addc(&out, s.p[i]);
            continue;
        }
        char c = s.p[++i];
        size_t n = 0;
        switch (c) {
        case 'r': buf_addc(&out, '\r'); break;
        case 'n': buf_addc(&out, '\n'); break;
        case 't': buf_addc(&out, '\t'); break;
        case '0': buf_addc(&out, 0); break;
        case 'x':
            must(i + 2 < s.n && hex(s.p[i + 1]) >= 0 && hex(s.p[i + 2]) >= 0);
            buf_addc(&out, (char)(hex(s.p[i + 1]) * 16 + hex(s.p[i + 2])));
            i += 2;
            break;
        case '{': {
            str inside = str_head(str_from(s, i + 1), str_findc(str_from(s, i + 1), '}'));
            size_t star = inside.n;
            while (star && inside.p[star - 1] != '*')
                star--;
            uint64_t times;
            must(star && str_u64(str_from(inside, star), 100000000, &times));
            str what = unescape(a, str_head(inside, star - 1));
            for (n = 0; n < times; n++)
                buf_add(&out, what);
            i += inside.n + 1;
            break;
        }
        default: buf_addc(&out, c);
        }
    }
    return buf_str(&out);
}

static str numbered(arena *a, str s, uint64_t n)
{
    struct buf out = buf_in(a, s.n + 8);

    for (size_t i = 0; i < s.n; i++)
        if (s.p[i] == '#')
            buf_addf(&out, "%llu", (unsigned long long)n);
        else
            buf_addc(&out, s.p[i]);
    return buf_str(&out);
}

static bool matches(str want, str got)
{
    if (str_ends(want, S("*")))
        return str_starts(got, str_head(want, want.n - 1));
    return str_eq(want, got);
}

static when time_of(str s)
{
    static const struct { str name; when unit; } units[] = {
        { S("ms"), MILLISECOND }, { S("s"), SECOND }, { S("m"), MINUTE }, { S("h"), HOUR }, { S("d"), DAY },
    };
    uint64_t n = 0;
    size_t i = 0;

    if (str_starts(s, S("+")))
        s = str_from(s, 1);
    while (i < s.n && ascii_digit(s.p[i]))
        n = n * 10 + (uint64_t)(s.p[i++] - '0');
    for (size_t u = 0; u < COUNT(units); u++)
        if (str_eq(str_from(s, i), units[u].name))
            return (when)n * units[u].unit;
    must(!"a time like 5m, 30s, 200ms");
    return 0;
}

/* ---- configuration ---- */

static str list_file(str addresses)
{
    char name[128];
    str word;

    snprintf(name, sizeof name, "%s/list%u", play->dir, play->lists++);
    FILE *f = fopen(name, "w");
    must(f);
    while (str_word(&addresses, &word))
        fprintf(f, "%.*s\n", STR(word));
    fclose(f);
    return str_dup(play->a, str_z(name));
}

/* "who@example.com=to@example.com" */
static str alias_file(str words)
{
    char *p = str_cz(play->a, words);

    for (size_t i = 0; i < words.n; i++)
        if (p[i] == '=')
            p[i] = '\t';
    char name[128];
    str rest = str_of(p, words.n), line;
    snprintf(name, sizeof name, "%s/list%u", play->dir, play->lists++);
    FILE *f = fopen(name, "w");
    must(f);
    while (str_cut(&rest, S(" "), &line))
        fprintf(f, "%.*s\n", STR(line));
    fclose(f);
    return str_dup(play->a, str_z(name));
}

/* The short form, and what it leaves out. */
static err config_text(str rest, str raw, struct buf *out)
{
    str hostname = S("mx.example.net"), postmaster = { 0 }, domains = { 0 }, recipients = { 0 }, aliases = { 0 }, one, key;
    bool route = true;
    struct buf networks = buf_in(play->a, 256);

    while (str_cut(&rest, S(","), &one)) {
        one = str_trim(one);
        if (!str_word(&one, &key))
            continue;
        one = str_trim(one);
        if (str_eq(key, S("hostname")))
            hostname = one;
        else if (str_eq(key, S("postmaster")))
            postmaster = one;
        else if (str_eq(key, S("relay-domains")))
            domains = one;
        else if (str_eq(key, S("recipients")))
            recipients = one;
        else if (str_eq(key, S("aliases")))
            aliases = alias_file(one);
        else if (str_eq(key, S("no-route")))
            route = false;
        else if (str_eq(key, S("network"))) {
            str name = { 0 }, cidr = { 0 };
            str_word(&one, &name);
            str_word(&one, &cidr);
            buf_addf(&networks, "network %.*s %.*s { relay_from %.*s }\n", STR(name), STR(cidr), STR(str_trim(one)));
        } else
            return wrong("config knows no \"%.*s\"", STR(key));
    }
    if (!domains.n)
        domains = S("example.com");
    str first = domains;
    str_word(&first, &key);
    if (!postmaster.p)
        postmaster = str_printf(play->a, "postmaster@%.*s", STR(str_starts(key, S("*.")) ? str_from(key, 2) : key));
    buf_addf(out, "waypost 1\nhostname %.*s\npostmaster %.*s\n", STR(hostname), STR(postmaster));
    if (!str_has(raw, S("listen")))
        buf_add(out, S("listen smtp 198.51.100.25:25 [2001:db8::25]:25\n"));
    buf_add(out, S("spool { dir /spool }\nthreads 1\n"));
    buf_add(out, S("backend inside { server 203.0.113.1:25 }\n"));
    if (!str_has(raw, S("relay_domain"))) {
        buf_addf(out, "relay_domain %.*s { backend inside; recipients ", STR(domains));
        if (recipients.n)
            buf_addf(out, "{ file %.*s } }\n", STR(list_file(recipients)));
        else
            buf_add(out, S("any }\n"));
    }
    buf_add(out, buf_str(&networks));
    if (aliases.n)
        buf_addf(out, "alias { file %.*s }\n", STR(aliases));
    if (route && !str_has(raw, S("route default")))
        buf_add(out, S("route default { via inside }\n"));
    buf_add(out, raw);
    return OK;
}

static err do_config(str rest)
{
    struct buf raw = buf_in(play->a, 256), text = buf_in(play->a, 1024);

    while (play->at < play->n && (play->line[play->at].text.p[0] == ' ' || play->line[play->at].text.p[0] == '\t')) {
        buf_add(&raw, play->line[play->at++].text);
        buf_addc(&raw, '\n');
    }
    TRY(config_text(rest, buf_str(&raw), &text));
    str as_str = buf_str(&text);
    struct diags d = { .a = arena_new() };
    struct settings *s = settings_load(S("transcript"), &as_str, &d);
    if (!s) {
        AUTO_BUF told = { 0 };
        diags_print(&d, &told);
        arena_free(d.a);
        return wrong("this configuration does not load:\n%.*s%.*s", STR(as_str), STR(buf_str(&told)));
    }
    if (play->settings)
        snapshot_drop(&play->settings->snapshot);
    play->settings = s;
    return OK;
}

/* ---- the relay: one thread that receives, and delivers nothing ---- */

static struct snapshot *newest(void *ctx)
{
    (void)ctx;
    return snapshot_hold(&play->settings->snapshot);
}

static void lane_ready(void *ctx, struct lane *lane) { (void)ctx, (void)lane; }
static void ticket_over(void *ctx, struct ticket *t) { (void)ctx, (void)t; }

static err serve_at(const char *address)
{
    struct addr at, peer;
    struct io io;
    int fd, client;

    must(addr_parse(str_z(address), 0, &at) == OK);
    TRY(listen_open(&at, &fd));
    TRY(io_add_shared(&io, fd));
    for (;;) {
        if (listen_accept(&io, NEVER, &client, &peer) != OK)
            break;
        struct session_start *start = mem_new(sizeof *start);
        *start = (struct session_start){ .reception = play->reception, .fd = client, .peer = peer, .at = at, .listener = S("test") };
        group_spawn(thread_group(), "session", session_run, start);
    }
    io_del(&io);
    machine->close(fd);
    return OK;
}

static err listener_run(void *address) { return serve_at(address); }

static err relay_main(void *arg)
{
    const struct snapshot *snap = &play->settings->snapshot;

    (void)arg;
    TRY(spool_open(&play->settings->spool, &play->spool));
    play->port = spool_port_open(play->spool);
    play->queue = queue_new(&(struct queue_setup){ .port = play->port, .retry = &snap->retry, .routes = (struct routes *)(uintptr_t)&snap->routes,
                                                   .body_budget = 1 << 30, .ready = lane_ready, .expired = ticket_over,
                                                   .unroutable = ticket_over });
    play->reception = reception_new(&(struct reception_setup){ .newest = newest, .queue = play->queue, .spool = play->spool, .port = play->port,
                                                               .instance = 0x1122334455667788, .threads = 1 });
    {
        AUTO_GROUP g = group_open(NEVER);
        group_spawn(&g, "v4", listener_run, (void *)(uintptr_t)"198.51.100.25:25");
        group_spawn(&g, "v6", listener_run, (void *)(uintptr_t)"[2001:db8::25]:25");
        play->up = true;
        while (!play->stopping)
            if (waiters_wait(&play->stop, NEVER) != OK)
                break;
    }
    group_close(thread_group());
    if (reception_sessions(play->reception))
        wrong("a session is left");
    reception_free(play->reception);
    queue_free(play->queue);
    spool_port_close(play->port);
    spool_close(play->spool);
    return OK;
}

static err relay_start(void)
{
    if (!play->settings)
        return wrong("there was no config");
    play->relay = sim_thread(SIM_RELAY, "relay", relay_main, NULL);
    while (!play->up)
        TRY(task_sleep(clock_now() + MILLISECOND));
    return task_sleep(clock_now() + MILLISECOND);
}

/* ---- on the relay's thread ---- */

struct call { struct post post; err (*fn)(void); bool done; };

static err call_run(void *arg)
{
    struct call *c = arg;
    err e = c->fn();
    c->done = true;
    return e;
}

static void call_arrived(struct post *p) { must(group_spawn(thread_group(), "call", call_run, AROUND(p, struct call, post)) == OK); }

static void on_relay(err (*fn)(void))
{
    struct call c = { .post.run = call_arrived, .fn = fn };

    thread_post(play->relay, &c.post);
    while (!c.done)
        task_sleep(clock_now() + 100);
}

static err stop_relay(void)
{
    play->stopping = true;
    waiters_wake_all(&play->stop);
    return OK;
}

static err drain_relay(void)
{
    reception_drain(play->reception);
    return OK;
}

/* ---- saying and hearing ---- */

static err need_client(void) { return play->client ? OK : wrong("there is no client"); }

static void say_now(struct talker *c)
{
    if (!c || !c->say.n)
        return;
    stream_say(c->s, buf_str(&c->say));
    stream_flush(c->s);
    buf_clear(&c->say);
}

static int heard = -1; /* where every line goes that was heard */

static err hear_line(struct talker *c, str *ret)
{
    when until = clock_now() + PATIENCE;

    say_now(c);
    for (;;) {
        str pending = stream_pending(c->s);
        size_t end = str_findc(pending, '\n');
        if (end != STR_NONE) {
            *ret = str_dup(play->a, str_head(pending, end));
            stream_consume(c->s, end + 1);
            break;
        }
        err e = stream_fill(c->s, 1, until);
        if (e != OK) {
            str rest = stream_pending(c->s);
            return wrong("nothing more is heard: %.*s%s%.*s", STR(err_text()), rest.n ? "; unfinished: " : "", STR(rest));
        }
    }
    /* What every line of ours obeys. */
    str line = *ret;
    if (!str_ends(line, S("\r")))
        return wrong("heard a line that does not end in CR LF: %.*s", STR(line));
    *ret = line = str_head(line, line.n - 1);
    if (line.n > 510)
        return wrong("heard a line of %zu octets (RFC 5321 4.5.3.1.5)", line.n + 2);
    for (size_t i = 0; i < line.n; i++)
        if (line.p[i] < 32 || line.p[i] > 126)
            return wrong("heard an octet %u in a line", (unsigned char)line.p[i]);
    uint64_t code;
    if (line.n < 4 || !str_u64(str_head(line, 3), 599, &code) || code < 200 || (line.p[3] != ' ' && line.p[3] != '-'))
        return wrong("heard what is no reply: %.*s", STR(line));
    if (c->code && c->code != code)
        return wrong("the code changed within a reply: %.*s", STR(line));
    c->code = line.p[3] == '-' ? (unsigned)code : 0;
    if (heard >= 0)
        must(dprintf(heard, "%.*s\n", STR(line)) > 0);
    return OK;
}

static err expect(str want)
{
    struct talker *c = play->client;
    bool more = str_ends(want, S("..."));
    str line;

    TRY(hear_line(c, &line));
    if (more) {
        want = str_head(want, want.n - 3);
        if (str_ends(want, S(" ")))
            want.n--;
    }
    if (more ? !str_starts(line, want) : !matches(want, line))
        return wrong("\n  want  %.*s\n  got   %.*s", STR(want), STR(line));
    while (more && c->code)
        TRY(hear_line(c, &line));
    return OK;
}

static err do_silent(str time)
{
    struct talker *c = play->client;

    TRY(need_client());
    say_now(c);
    if (!stream_pending(c->s).n) {
        err e = stream_fill(c->s, 1, clock_now() + time_of(time));
        if (e == E_TIMEOUT)
            return OK;
        if (e != OK)
            return wrong("the relay should be silent, but: %.*s", STR(err_text()));
    }
    return wrong("the relay should be silent, but says: %.*s", STR(stream_pending(c->s)));
}

static void client_end(struct talker *c)
{
    stream_free(c->s);
    c->s = NULL;
}

static err do_closed(void)
{
    struct talker *c = play->client;

    TRY(need_client());
    say_now(c);
    if (stream_pending(c->s).n)
        return wrong("the relay should have closed, but says: %.*s", STR(stream_pending(c->s)));
    err e = stream_fill(c->s, 1, clock_now() + PATIENCE);
    if (e == OK)
        return wrong("the relay should close, but says: %.*s", STR(stream_pending(c->s)));
    if (e == E_TIMEOUT)
        return wrong("the relay should close, but does not");
    client_end(c);
    play->client = NULL;
    return OK;
}

static err do_client(str rest)
{
    struct talker *c = NEW(play->a, struct talker);
    str ip = { 0 };
    struct addr to;
    bool v6;

    if (!play->relay)
        TRY(relay_start());
    say_now(play->client);
    str_word(&rest, &ip);
    str_word(&rest, &c->name);
    v6 = str_findc(ip, ':') != STR_NONE;
    if (addr_parse(v6 ? str_printf(play->a, "[%.*s]:1", STR(ip)) : str_printf(play->a, "%.*s:1", STR(ip)), 0, &c->addr) != OK)
        return wrong("%.*s is no address", STR(ip));
    addr_set_port(&c->addr, 0);
    must(addr_parse(v6 ? S("[2001:db8::25]:25") : S("198.51.100.25:25"), 0, &to) == OK);
    if (stream_connect(&to, &c->addr, clock_now() + PATIENCE, &c->s) != OK)
        return wrong("cannot connect: %.*s", STR(err_text()));
    c->next = play->all;
    play->all = play->client = c;
    return OK;
}

static err do_use(str name)
{
    say_now(play->client);
    for (struct talker *c = play->all; c; c = c->next)
        if (str_eq(c->name, name)) {
            play->client = c;
            return OK;
        }
    return wrong("no client is called %.*s", STR(name));
}

/* ---- what was logged ---- */

static bool logged_so(str line, str event, str fields)
{
    str word, field;

    for (int i = 0; i < 3; i++)     /* time, level, event */
        if (!str_word(&line, &word))
            return false;
    if (!str_eq(word, event))
        return false;
    while (str_word(&fields, &field)) {
        bool any = str_ends(field, S("*"));
        str want = str_printf(play->a, " %.*s%s", STR(any ? str_head(field, field.n - 1) : field), any ? "" : " ");
        str padded = str_printf(play->a, " %.*s ", STR(line));
        size_t equals = str_findc(want, '=');
        str quoted = str_printf(play->a, "%.*s\"%.*s%s", STR(str_head(want, equals + 1)),
                                STR(str_head(str_from(want, equals + 1), want.n - equals - 1 - !any)), any ? "" : "\" ");
        if (!str_has(padded, want) && !str_has(padded, quoted))
            return false;
    }
    return true;
}

static err do_log(str rest, bool wanted)
{
    str event = { 0 }, all = buf_str(&play->logged), line;

    TRY(task_sleep(clock_now() + 50 * MILLISECOND));
    all = str_from(buf_str(&play->logged), wanted ? play->log_at : 0);
    str_word(&rest, &event);
    while (str_cut(&all, S("\n"), &line))
        if (logged_so(line, event, rest)) {
            if (!wanted)
                return wrong("this was logged: %.*s", STR(line));
            play->log_at = play->logged.n - all.n;
            return OK;
        }
    return wanted ? wrong("no such line was logged; there are:\n%.*s", STR(str_from(buf_str(&play->logged), play->log_at))) : OK;
}

/* ---- what is stored ---- */

static err do_spool(str rest)
{
    uint64_t want = 0;

    if (!play->queue)
        return wrong("there is no relay yet");
    TRY(task_sleep(clock_now() + 50 * MILLISECOND));
    if (!str_eq(rest, S("empty")) && !str_u64(rest, 1000000, &want))
        return wrong("spool empty, or spool N");
    size_t got = queue_totals(play->queue).messages;
    return got == want ? OK : wrong("%zu messages are stored, not %llu", got, (unsigned long long)want);
}

static int by_id(const void *a, const void *b) { return memcmp(&(*(struct ticket *const *)a)->id, &(*(struct ticket *const *)b)->id, 16); }

#define SHOW_MOST 4096
static uint64_t show_which;

static err show(void)
{
    struct shown *s = &play->shown;
    struct ticket **t = NEW_ARRAY(s->a, struct ticket *, SHOW_MOST);
    size_t at = 0, n = queue_walk(play->queue, &at, t, SHOW_MOST), first = 0;
    struct buf text;

    qsort(t, n, sizeof *t, by_id);
    for (size_t i = 0; i < n; i++) { /* a message may have several tickets */
        if (i && ulid_eq(t[i]->id, t[i - 1]->id))
            continue;
        if (++first != show_which)
            continue;
        TRY(spool_read(play->port, t[i]->home, s->a, &s->m));
        text = buf_in(s->a, 4096);
        for (size_t k = 0; k < s->m->nedit; k++)
            buf_add(&text, s->m->edit[k].text);
        for (size_t k = 0; k < s->m->npiece; k++) {
            str piece;
            TRY(spool_read_piece(play->port, s->m->piece[k], s->a, &piece));
            buf_add(&text, piece);
        }
        s->text = buf_str(&text);
        size_t empty = str_find(s->text, S("\r\n\r\n"));
        s->header = str_head(s->text, empty == STR_NONE ? s->text.n : empty + 2);
        s->body = str_from(s->text, empty == STR_NONE ? s->text.n : empty + 4);
        return OK;
    }
    return E_NOTFOUND;
}

static err do_message(str rest)
{
    TRY(task_sleep(clock_now() + 50 * MILLISECOND));
    if (!str_u64(rest, SHOW_MOST, &show_which))
        return wrong("message N");
    arena_free(play->shown.a);
    play->shown = (struct shown){ .a = arena_new() };
    on_relay(show);
    return play->shown.m ? OK : wrong("there is no message %.*s", STR(rest));
}

static str envelope_text(void)
{
    static const char *const rets[] = { "", " ret=FULL", " ret=HDRS" }, *const bodies[] = { "7bit", "8bit", "binary" };
    const struct envelope *env = &play->shown.m->env;
    struct buf out = buf_in(play->a, 256);

    buf_addf(&out, "body=%s%s%s", bodies[env->body], rets[env->ret], env->smtputf8 ? " smtputf8" : "");
    if (env->envid.n)
        buf_addf(&out, " envid=%.*s", STR(env->envid));
    for (size_t i = 0; i < env->nrcpt; i++) {
        const struct rcpt *r = &env->rcpt[i];
        buf_addf(&out, " <%.*s>", STR(r->to));
        for (int k = 0; k < 4; k++)
            if (r->notify & 1 << k)
                buf_addf(&out, " %s", ((const char *const[]){ "NEVER", "SUCCESS", "FAILURE", "DELAY" })[k]);
        if (r->orcpt.n)
            buf_addf(&out, " orcpt=%.*s", STR(r->orcpt));
        if (!str_eq(r->given, r->to))
            buf_addf(&out, " given=%.*s", STR(r->given));
    }
    return buf_str(&out);
}

static err differs(const char *what, str want, str got)
{
    return wrong("%s\n  want  %.*s\n  got   %.*s", what, STR(str_printable(play->a, want)), STR(str_printable(play->a, got)));
}

static err do_shown(str what, str rest)
{
    struct shown *s = &play->shown;

    if (!s->m)
        return wrong("say message N first");
    if (str_eq(what, S("sender")))
        return str_eq(s->m->env.sender, rest) ? OK : differs("sender", rest, s->m->env.sender);
    if (str_eq(what, S("recipients"))) {
        struct buf all = buf_in(play->a, 256);
        for (size_t i = 0; i < s->m->env.nrcpt; i++)
            buf_addf(&all, "%s%.*s", i ? " " : "", STR(s->m->env.rcpt[i].to));
        return matches(rest, buf_str(&all)) ? OK : differs("recipients", rest, buf_str(&all));
    }
    if (str_eq(what, S("header"))) {
        size_t colon = str_findc(rest, ':');
        str got = { 0 };
        if (!header_get(s->a, s->header, str_head(rest, colon), &got) || !matches(str_trim(str_from(rest, colon + 1)), got))
            return differs("header", rest, got.p ? got : s->header);
        return OK;
    }
    if (str_eq(what, S("envelope")))
        return matches(rest, envelope_text()) ? OK : differs("envelope", rest, envelope_text());
    str text = unescape(play->a, rest);
    if (str_eq(what, S("body")))
        return str_eq(text, s->body) ? OK : differs("body", text, s->body);
    if (str_eq(what, S("has")))
        return str_has(s->text, text) ? OK : differs("has", text, s->text);
    return str_has(s->text, text) ? differs("lacks", text, s->text) : OK;
}

/* ---- directives ---- */

static err do_disk(str rest)
{
    str word = { 0 };
    uint64_t size;

    str_word(&rest, &word);
    if (str_eq(word, S("full")))
        sim_disk()->full = true;
    else if (str_eq(word, S("broken")))
        sim_disk()->broken = true;
    else if (str_eq(word, S("slow")))
        sim_disk()->sync_least = sim_disk()->sync_most = time_of(str_trim(rest));
    else if (str_eq(word, S("size")) && str_u64(str_trim(rest), UINT64_MAX, &size))
        sim_disk()->size = size;
    else if (str_eq(word, S("ok")))
        *sim_disk() = (struct sim_disk){ .sync_least = 100, .sync_most = MILLISECOND };
    else
        return wrong("disk full, broken, slow TIME, size OCTETS or ok");
    return OK;
}

static err do_pieces(str rest)
{
    sim_network()->pieces = str_eq(rest, S("whole")) ? SIM_WHOLE : str_eq(rest, S("octets")) ? SIM_OCTETS : SIM_RANDOM;
    return OK;
}

static err speak(char who, uint64_t times, bool counted, str text)
{
    TRY(need_client());
    for (uint64_t i = 1; i <= times; i++) {
        str one = counted ? numbered(play->a, text, i) : text;
        if (who == 'S') {
            TRY(expect(one));
            continue;
        }
        buf_add(&play->client->say, unescape(play->a, one));
        if (who == 'C')
            buf_add(&play->client->say, S("\r\n"));
    }
    return OK;
}

static err directive(str text)
{
    str rest = text, word = { 0 };
    uint64_t times = 1;

    if (text.n > 1 && (text.p[0] == 'C' || text.p[0] == 'S' || text.p[0] == 'c') && (text.p[1] == ':' || text.p[1] == '*')) {
        size_t colon = str_findc(text, ':');
        bool counted = text.p[1] == '*';
        if (colon == STR_NONE || (counted && !str_u64(str_of(text.p + 2, colon - 2), 1000000, &times)))
            return wrong("not understood: %.*s", STR(text));
        rest = str_from(text, colon + 1);
        if (str_starts(rest, S(" ")))
            rest = str_from(rest, 1);
        return speak(text.p[0], times, counted, rest);
    }
    str_word(&rest, &word);
    rest = str_trim(rest);
    if (str_eq(word, S("config")))
        return do_config(rest);
    if (str_eq(word, S("client")))
        return do_client(rest);
    if (str_eq(word, S("use")))
        return do_use(rest);
    if (str_eq(word, S("silent")))
        return do_silent(rest);
    if (str_eq(word, S("closed")))
        return do_closed();
    if (str_eq(word, S("disk")))
        return do_disk(rest);
    if (str_eq(word, S("pieces")))
        return do_pieces(rest);
    say_now(play->client);
    if (str_eq(word, S("clock")))
        return task_sleep(clock_now() + time_of(rest));
    if (str_eq(word, S("hangup")) || str_eq(word, S("reset")) || str_eq(word, S("halfclose"))) {
        TRY(need_client());
        if (str_eq(word, S("halfclose"))) {
            machine->sock_shutdown(play->client->s->io.fd, SHUT_WR);
            return OK;
        }
        if (str_eq(word, S("reset")))
            sim_reset(play->client->s->io.fd);
        client_end(play->client);
        play->client = NULL;
        return task_sleep(clock_now() + 50 * MILLISECOND);
    }
    if (str_eq(word, S("log")) || str_eq(word, S("nolog")))
        return do_log(rest, str_eq(word, S("log")));
    if (str_eq(word, S("spool")))
        return do_spool(rest);
    if (str_eq(word, S("message")))
        return do_message(rest);
    if (str_eq(word, S("drain"))) {
        on_relay(drain_relay);
        return OK;
    }
    if (str_eq(word, S("sessions"))) {
        uint64_t want;
        TRY(task_sleep(clock_now() + 50 * MILLISECOND));
        size_t got = play->reception ? reception_sessions(play->reception) : 0;
        return str_u64(rest, 1000000, &want) && want == got ? OK : wrong("%zu sessions", got);
    }
    static const str shown[] = { S("sender"), S("recipients"), S("header"), S("body"), S("has"), S("lacks"), S("envelope") };
    for (size_t i = 0; i < COUNT(shown); i++)
        if (str_eq(word, shown[i]))
            return do_shown(word, rest);
    return wrong("not understood: %.*s", STR(text));
}

static err script_main(void *arg)
{
    (void)arg;
    while (play->at < play->n && !play->failed) {
        struct line *l = &play->line[play->at++];
        play->number = l->number;
        if (directive(l->text) != OK && !play->failed)
            wrong("%.*s", STR(err_text()));
    }
    say_now(play->client);
    for (struct talker *c = play->all; c; c = c->next) {
        if (c->s && !play->failed && c == play->client && stream_pending(c->s).n)
            wrong("at the end, unheard: %.*s", STR(stream_pending(c->s)));
        if (c->s)
            client_end(c);
        buf_free(&c->say);
    }
    if (play->relay) {
        on_relay(stop_relay);
        thread_join(play->relay);
    }
    arena_free(play->shown.a);
    if (play->settings)
        snapshot_drop(&play->settings->snapshot);
    play->done = true;
    return OK;
}

/* ---- a transcript ---- */

static void heard_log(void *ctx, enum log_level level, str line)
{
    (void)ctx, (void)level;
    buf_add(&play->logged, line);
    sim_tell("log: %.*s", STR(str_trim(line)));
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *at)
{
    (void)st, (void)type, (void)at;
    return remove(path);
}

static bool play_one(const char *path, uint64_t seed, bool trace)
{
    bool ok;

    play = mem_new(sizeof *play);
    play->path = path;
    play->a = arena_new();
    if (!script_read(play->a, path, &play->line, &play->n))
        return false;
    snprintf(play->dir, sizeof play->dir, "/tmp/waypost-dialogue-XXXXXX");
    must(mkdtemp(play->dir));
    log_start(&(struct log_setup){ .tap = heard_log, .form = LOG_FORM_TEXT });
    sim_begin(&(struct sim_setup){ .seed = seed, .trace = trace, .unrest = true });
    sim_network()->pieces = pieces_first;
    play->clients = sim_thread(SIM_OUTSIDE, "clients", script_main, NULL);
    while (!play->done && sim_step())
        ;
    if (!play->done) {
        wrong("nothing moves any more");
        ok = false;
    } else {
        while (sim_step())
            ;
        must(thread_join(play->clients) == OK);
        sim_end();
        ok = !play->failed;
    }
    nftw(play->dir, remove_one, 4, FTW_DEPTH | FTW_PHYS);
    if (play->failed)
        printf("  (dialogue --seed %llu %s)\n", (unsigned long long)seed, path);
    log_stop();
    buf_free(&play->logged);
    arena_free(play->a);
    mem_free(play);
    return ok;
}

/* Each in a process of its own: one that dies takes no other with it, and all begin the same. */
static bool play_apart(const char *path, uint64_t seed, bool trace)
{
    int status;

    fflush(stdout);
    pid_t child = fork();
    must(child >= 0);
    if (child == 0) {
        alarm(120);
        exit(play_one(path, seed, trace) ? 0 : 1);
    }
    must(waitpid(child, &status, 0) == child);
    if (WIFSIGNALED(status) || (WIFEXITED(status) && WEXITSTATUS(status) > 1))
        printf("FAIL %s: died (%s %d)\n", path, WIFSIGNALED(status) ? "signal" : "exit", WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
    return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

int main(int argc, char **argv)
{
    static const enum sim_pieces round[] = { SIM_OCTETS, SIM_WHOLE, SIM_RANDOM };
    unsigned passed = 0, failed = 0;
    uint64_t seed = 0;
    bool trace = false;
    int i = 1;

    for (; i < argc && argv[i][0] == '-'; i++)
        if (strcmp(argv[i], "--trace") == 0)
            trace = true;
        else if (strcmp(argv[i], "--seed") == 0 && i + 1 < argc)
            seed = strtoull(argv[++i], NULL, 10);
        else if (strcmp(argv[i], "--heard") == 0 && i + 1 < argc)
            must((heard = open(argv[++i], O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600)) >= 0);
    for (; i < argc; i++) {
        bool ok = true;
        for (uint64_t k = 1; k <= COUNT(round) && ok; k++) {
            uint64_t one = seed ? seed : k;
            pieces_first = round[(one - 1) % COUNT(round)];
            ok = play_apart(argv[i], one, trace);
            if (seed)
                break;
        }
        ok ? passed++ : failed++;
    }
    printf("%u passed, %u failed\n", passed, failed);
    return failed || !passed;
}
