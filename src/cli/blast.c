/* blast: many sessions that send mail as fast as a server takes it, and measure what it did. */
#include "cli/cli.h"
#include "smtp/smtp.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <unistd.h>

#define CONNECT_WAIT (30 * SECOND)
#define RETRY_PAUSE (100 * MILLISECOND)
#define THREADS_MAX 64
#define RCPTS_MAX 10000
#define ADDRESS_MAX 254
#define ERRORS_MAX 8            /* different texts kept */
#define SLOW_PIECE 512          /* octets that --rate-limit says at once, at least */
#define NONE UINT64_MAX

/* ---- how long answers took ---- */

/* Counts of lengths in microseconds: exact below 64, then 32 steps to each doubling (off by 3 % at most). */
struct lengths { uint64_t at[64 + 58 * 32]; uint64_t n; when most; };

static size_t length_slot(uint64_t us)
{
    if (us < 64)
        return us;
    unsigned top = 63 - (unsigned)__builtin_clzll(us);
    return 64 + (top - 6) * 32 + ((us >> (top - 5)) & 31);
}

static uint64_t slot_length(size_t slot)
{
    if (slot < 64)
        return slot;
    unsigned top = 6 + (unsigned)(slot - 64) / 32;
    return (UINT64_C(32) + (slot - 64) % 32) << (top - 5);
}

static void length_add(struct lengths *l, when length)
{
    l->at[length_slot((uint64_t)MAX(length, 0))]++;
    l->n++;
    l->most = MAX(l->most, length);
}

static void lengths_merge(struct lengths *to, const struct lengths *from)
{
    for (size_t i = 0; i < COUNT(to->at); i++)
        to->at[i] += from->at[i];
    to->n += from->n;
    to->most = MAX(to->most, from->most);
}

static uint64_t lengths_part(const struct lengths *l, double part)
{
    uint64_t before = 0, want = (uint64_t)((double)l->n * part);

    for (size_t i = 0; i < COUNT(l->at) && l->n; i++) {
        before += l->at[i];
        if (before > want || before == l->n)
            return slot_length(i);
    }
    return 0;
}

/* ---- the run ---- */

struct worker {
    struct blast *b;
    struct thread *thread;
    size_t sessions, under_way;
    uint64_t connections, taken, messages, recipients, octets;
    uint64_t classes[6];        /* answers to recipients, by their first digit */
    uint64_t turned_away[6];    /* connections that the server ended with a reply, by its first digit */
    uint64_t lost;              /* connections that broke, or never came about */
    uint64_t missed;            /* messages of sessions that could not begin: too many were under way */
    struct lengths lengths;
};

struct blast {
    struct addr to;
    uint64_t sessions, mails, per_session, rcpts, rate, threads;
    uint64_t size, octets_a_second;
    struct cidr from;           /* where connections come from; bound: it was given */
    when lasts;
    str sender, ehlo, rcpt_head, rcpt_tail; /* the pattern, before and behind its %d */
    bool rcpt_numbered, pipelining, bdat, json, keep_going, open, bound;
    int log_fd;
    uint32_t run;               /* what makes ids differ from those of other runs */
    str header, text;           /* of every message; the digits of the id are set in a copy */
    size_t id_at[2];            /* where in the header */
    when began, ends, took;
    struct worker *worker;
    _Atomic uint64_t next;      /* message */
    _Atomic uint64_t froms;     /* addresses of `from` used */
    _Atomic uint64_t connected;
    pthread_mutex_t mutex;      /* over what follows */
    struct { char text[160]; uint64_t n; } error[ERRORS_MAX];
};

#define ID_DIGITS 10
#define ID_LENGTH (8 + 1 + ID_DIGITS)   /* "1a2b3c4d-0000000042" */

static void error_note(struct blast *b, str text)
{
    pthread_mutex_lock(&b->mutex);
    for (size_t i = 0; i < ERRORS_MAX; i++) {
        str known = str_z(b->error[i].text);
        if (known.n && !str_eq(known, str_head(text, sizeof b->error[i].text - 1)) && i + 1 < ERRORS_MAX)
            continue;
        if (!known.n)
            snprintf(b->error[i].text, sizeof b->error[i].text, "%.*s", STR(i + 1 < ERRORS_MAX ? text : S("others")));
        b->error[i].n++;
        break;
    }
    pthread_mutex_unlock(&b->mutex);
}

static when slot_time(const struct blast *b, uint64_t number)
{
    return b->rate && !b->open ? b->began + (when)(number * SECOND / b->rate) : 0;
}

/* Is there a message whose time has come, or will come? */
static bool work_left(struct blast *b)
{
    return atomic_load(&b->next) < b->mails && clock_now() < b->ends;
}

/* The number of the next message: waits for its time, or is NONE at once unless `wait`. */
static uint64_t mail_take(struct blast *b, bool wait)
{
    if (!work_left(b) || (!wait && b->rate && slot_time(b, atomic_load(&b->next)) > clock_now()))
        return NONE;
    uint64_t number = atomic_fetch_add(&b->next, 1);
    if (number >= b->mails)
        return NONE;
    when at = slot_time(b, number);
    if (at >= b->ends || (at > clock_now() && task_sleep(at) != OK))
        return NONE;
    return number;
}

/* ---- a message ---- */

struct letter {
    uint64_t number;
    struct envelope env;
    struct answer *out;
    char *room;                 /* of the recipients' addresses */
    arena *a;                   /* of the answers */
};

struct sender {
    struct worker *w;
    struct letter letter[2];
    char *header;               /* this session's copy */
    str piece[2];
    struct stream *line;        /* this connection's */
    size_t said;                /* octets of the message under way */
};

static void digits_put(char *p, uint64_t n)
{
    for (int i = ID_DIGITS - 1; i >= 0; i--, n /= 10)
        p[i] = (char)('0' + n % 10);
}

static void letter_address(const struct blast *b, struct letter *l, uint64_t number)
{
    l->number = number;
    arena_reset(l->a);
    memset(l->out, 0, b->rcpts * sizeof *l->out);
    for (size_t i = 0; i < b->rcpts && b->rcpt_numbered; i++) {
        char digits[20];
        size_t at = sizeof digits;
        for (uint64_t n = number * b->rcpts + i; n || at == sizeof digits; n /= 10)
            digits[--at] = (char)('0' + n % 10);
        struct buf to = { .p = l->room + i * (ADDRESS_MAX + 24), .cap = ADDRESS_MAX + 24 };
        buf_add(&to, b->rcpt_head);
        buf_add(&to, str_of(digits + at, sizeof digits - at));
        buf_add(&to, b->rcpt_tail);
        l->env.rcpt[i].to = l->env.rcpt[i].given = buf_str(&to);
    }
}

static err piece_of(void *ctx, size_t i, str *ret)
{
    struct sender *s = ctx;
    *ret = i < COUNT(s->piece) ? s->piece[i] : (str){ 0 };
    return OK;
}

/* The same for a slow client: a little, and then a pause. The first pause is cut short by chance, or ten thousand sessions that
 * began together would speak together for ever. */
static err piece_of_slow(void *ctx, size_t i, str *ret)
{
    struct sender *s = ctx;
    uint64_t rate = s->w->b->octets_a_second;
    size_t step = MAX((size_t)rate / 10, (size_t)SLOW_PIECE);
    when pause = (when)(step * SECOND / rate);

    if (i == 0)
        s->said = 0;
    stream_flush(s->line);
    TRY(task_sleep(clock_now() + (i ? pause : (when)random_below((uint64_t)pause + 1))));
    size_t behind = s->said < s->piece[0].n ? 0 : s->piece[0].n; /* of the header */
    str rest = str_from(s->piece[behind ? 1 : 0], s->said - behind);
    *ret = rest.n ? str_head(rest, step) : (str){ 0 };
    s->said += ret->n;
    return OK;
}

static err body_say(struct sender *s, struct client *c, struct letter *l)
{
    const struct blast *b = s->w->b;
    struct body body = { .size = b->header.n + b->text.n, .piece = b->octets_a_second ? piece_of_slow : piece_of, .ctx = s };

    for (size_t i = 0; i < COUNT(b->id_at); i++)
        digits_put(s->header + b->id_at[i] + 9, l->number);
    return client_body(c, &l->env, &body, l->out);
}

/* Before anything else happens: whoever reads the log may rely on it. */
static void ack_log(const struct blast *b, uint64_t number)
{
    char line[ID_LENGTH + TIME_TEXT + 8], now[TIME_TEXT];
    int n =
        snprintf(line, sizeof line, "%08x-%010" PRIu64 " %.*s\n", b->run, number, STR(time_rfc3339(now, wall_now())));

    if (write(b->log_fd, line, (size_t)n) != n) {
        cli_say("the log of acknowledgements: %s", strerror(errno));
        _exit(CLI_NO);
    }
}

/* A reference of its own would make every refusal a text of its own. */
static str without_ref(str reply) { return str_head(reply, str_find(reply, S(" [ref "))); }

static void letter_done(struct sender *s, struct letter *l)
{
    struct worker *w = s->w;
    size_t accepted = 0;

    for (size_t i = 0; i < l->env.nrcpt; i++) {
        w->classes[MIN(l->out[i].reply.code / 100, 5)]++;
        accepted += l->out[i].settled && reply_ok(l->out[i].reply);
        if (l->out[i].settled && !reply_ok(l->out[i].reply))
            error_note(w->b, without_ref(reply_print(l->a, &l->out[i].reply)));
    }
    if (!accepted)
        return;
    w->messages++;
    w->recipients += accepted;
    w->octets += w->b->header.n + w->b->text.n;
    if (w->b->log_fd >= 0)
        ack_log(w->b, l->number);
}

/* ---- a session ---- */

/* Take the next message and say its envelope; false when there is none (none yet, unless `wait`). */
static bool letter_offer(struct sender *s, struct client *c, struct letter *l, bool wait)
{
    struct blast *b = s->w->b;
    uint64_t number = mail_take(b, wait);

    if (number == NONE)
        return false;
    s->w->taken++;
    letter_address(b, l, number);
    client_offer(c, &l->env, b->header.n + b->text.n);
    return true;
}

/* One connection's worth of messages. An error ends it; what was under way is not tried again. */
static err talk(struct sender *s, struct client *c)
{
    struct letter *cur = &s->letter[0], *next = &s->letter[1];
    bool offered = false, any;

    for (uint64_t left = s->w->b->per_session; left; left--) {
        if (!offered && !letter_offer(s, c, cur, true))
            break;
        offered = false;
        TRY(client_answers(c, &cur->env, cur->a, cur->out, &any));
        if (any) {
            TRY(body_say(s, c, cur));
            if (left == 1)
                client_last(c);
            else
                offered = (c->caps & CAP_PIPELINING) && letter_offer(s, c, next, false);
            when said = clock_now();
            TRY(client_settle(c, &cur->env, cur->a, cur->out));
            length_add(&s->w->lengths, clock_now() - said);
        }
        letter_done(s, cur);
        struct letter *done = cur;
        cur = next;
        next = done;
    }
    return OK;
}

/* The addresses of --bind in turn. */
static struct addr from_next(struct blast *b)
{
    struct addr a = b->from.base;
    bool v4 = a.sa.sa_family == AF_INET;
    uint8_t *last = v4 ? (uint8_t *)&a.v4.sin_addr + 3 : &a.v6.sin6_addr.s6_addr[15];
    unsigned bits = MIN((v4 ? 32u : 128u) - b->from.bits, 16u);
    uint64_t n = atomic_fetch_add_explicit(&b->froms, 1, memory_order_relaxed) & ((1u << bits) - 1);

    last[0] |= (uint8_t)n;
    last[-1] |= (uint8_t)(n >> 8);
    return a;
}

/* A server may end a connection, with a reply that says why. */
static void end_note(struct worker *w, const struct client *c, err e)
{
    int code = c && (e == E_REFUSED || e == E_CLOSED) ? c->last.code : 0;

    if (code >= 400 && code < 600 && (e == E_REFUSED || code == 421))
        w->turned_away[code / 100]++;
    else
        w->lost += e != E_CANCELED;
}

static err connect_and_talk(struct sender *s)
{
    struct blast *b = s->w->b;
    struct addr from = b->bound ? from_next(b) : (struct addr){ 0 };
    AUTO(client) c = NULL;

    err e = stream_connect(&b->to, b->bound ? &from : NULL, clock_now() + CONNECT_WAIT, &s->line);
    if (e == OK) {
        s->w->connections++;
        e = during(client_open(s->line, b->ehlo, &c), "opening");
    }
    if (e == OK) {
        atomic_store_explicit(&b->connected, 1, memory_order_relaxed);
        if (!b->pipelining)
            c->caps &= ~(unsigned)CAP_PIPELINING;
        e = talk(s, c);
    }
    if (e != OK)
        end_note(s->w, c, e);
    else
        client_quit(take(c));
    return e;
}

static void letter_new(const struct blast *b, struct letter *l, arena *a)
{
    l->env = (struct envelope){ .sender = b->sender, .rcpt = NEW_ARRAY(a, struct rcpt, b->rcpts), .nrcpt = b->rcpts };
    l->env.body = b->bdat ? BODY_BINARY : BODY_7BIT;
    l->out = NEW_ARRAY(a, struct answer, b->rcpts);
    l->room = arena_alloc(a, b->rcpt_numbered ? b->rcpts * (ADDRESS_MAX + 24) : 1);
    l->a = arena_new();
    for (size_t i = 0; i < b->rcpts; i++)
        l->env.rcpt[i].to = l->env.rcpt[i].given = b->rcpt_head;
}

static err sender_run(void *arg)
{
    struct worker *w = arg;
    struct blast *b = w->b;
    AUTO_ARENA a = arena_new();
    struct sender s = { .w = w, .header = arena_alloc(a, b->header.n) };

    memcpy(s.header, b->header.p, b->header.n);
    s.piece[0] = str_of(s.header, b->header.n);
    s.piece[1] = b->text;
    for (int i = 0; i < 2; i++)
        letter_new(b, &s.letter[i], a);
    while (work_left(b)) {
        err e = connect_and_talk(&s);
        if (e != OK)
            error_note(b, str_printf(a, "%s: %.*s", err_name(e), STR(err_text())));
        if (b->open)
            break;
        if (e != OK && (e == E_CANCELED || !b->keep_going || task_sleep(clock_now() + RETRY_PAUSE) != OK))
            break;
    }
    for (int i = 0; i < 2; i++)
        arena_free(s.letter[i].a);
    return OK;
}

static err visitor_run(void *arg)
{
    struct worker *w = arg;
    err e = sender_run(w);

    w->under_way--;
    return e;
}

/* --open: sessions begin when their time has come, as clients of the world do, however the server is. */
static err arrivals_run(struct worker *w)
{
    struct blast *b = w->b;
    AUTO_GROUP g = group_open(NEVER);

    for (uint64_t i = (uint64_t)(w - b->worker); i < b->mails / b->per_session; i += b->threads) {
        when at = b->began + (when)((double)(i * b->per_session) * SECOND / (double)b->rate);
        if (at >= b->ends)
            break;
        if (at > clock_now())
            TRY(task_sleep(at));
        if (w->under_way >= w->sessions || task_room() < 16) {
            w->missed += b->per_session;
            continue;
        }
        w->under_way++;
        TRY(group_spawn(&g, "session", visitor_run, w));
    }
    return group_wait(&g);
}

static err worker_run(void *arg)
{
    struct worker *w = arg;
    AUTO_GROUP g = group_open(NEVER);

    if (w->b->open)
        return arrivals_run(w);
    for (size_t i = 0; i < w->sessions; i++)
        TRY(group_spawn(&g, "session", sender_run, w));
    return group_wait(&g);
}

static err blast_run(void *arg)
{
    struct blast *b = arg;
    AUTO_GROUP own = group_open(NEVER);
    err e = OK;

    b->began = clock_now();
    b->ends = b->lasts ? b->began + b->lasts : NEVER;
    for (size_t i = 1; i < b->threads; i++)
        b->worker[i].thread = thread_start("blast", worker_run, &b->worker[i]);
    group_spawn(&own, "worker", worker_run, &b->worker[0]);
    e = group_wait(&own);
    for (size_t i = 1; i < b->threads; i++) {
        err other = thread_join(b->worker[i].thread);
        e = e ? e : other;
    }
    b->took = clock_now() - b->began;
    return e;
}

/* ---- figures ---- */

static void figures_print(const struct blast *b, const struct worker *all)
{
    const struct lengths *l = &all->lengths;
    double seconds = (double)MAX(b->took, 1) / SECOND, rate = (double)all->messages / seconds,
           mb = (double)all->octets / seconds / 1e6;
    uint64_t p50 = lengths_part(l, 0.5), p95 = lengths_part(l, 0.95), p99 = lengths_part(l, 0.99);
    AUTO_BUF out = { 0 };
    const char *joint = "";

    if (b->json) {
        buf_addf(&out,
                 "{\"messages\":%" PRIu64 ",\"failed\":%" PRIu64 ",\"recipients\":%" PRIu64 ",\"connections\":%" PRIu64
                 ",\"seconds\":%.6f,\"rate\":%.1f,\"mb_per_second\":%.2f",
                 all->messages, all->taken - all->messages, all->recipients, all->connections, seconds, rate, mb);
        buf_addf(&out,
                 ",\"turned_away\":{\"4xx\":%" PRIu64 ",\"5xx\":%" PRIu64 "},\"lost\":%" PRIu64 ",\"missed\":%" PRIu64,
                 all->turned_away[4], all->turned_away[5], all->lost, all->missed);
        buf_addf(&out,
                 ",\"latency_us\":{\"p50\":%" PRIu64 ",\"p95\":%" PRIu64 ",\"p99\":%" PRIu64 ",\"max\":%" PRIi64
                 "},\"replies\":{",
                 p50, p95, p99, l->most);
    } else {
        buf_addf(&out, "%" PRIu64 " messages in %.2f s over %" PRIu64 " connections: %.0f/s, %.1f MB/s\n",
                 all->messages, seconds, all->connections, rate, mb);
        buf_addf(&out,
                 "the answer to the final dot: p50 %" PRIu64 " us, p95 %" PRIu64 " us, p99 %" PRIu64
                 " us, longest %" PRIi64 " us\n",
                 p50, p95, p99, l->most);
        if (all->turned_away[4] + all->turned_away[5] + all->lost + all->missed)
            buf_addf(&out,
                     "connections: %" PRIu64 " ended with a 4xx, %" PRIu64 " with a 5xx, %" PRIu64 " lost; %" PRIu64
                     " messages had no session to go by\n",
                     all->turned_away[4], all->turned_away[5], all->lost, all->missed);
        buf_add(&out, S("recipients:"));
    }
    for (int class = 2; class < 6; class++) {
        if (!all->classes[class])
            continue;
        buf_addf(&out, b->json ? "%s\"%dxx\":%" PRIu64 : "%s %dxx %" PRIu64, joint, class, all->classes[class]);
        joint = ",";
    }
    buf_add(&out, b->json ? S("},\"errors\":{") : S("\n"));
    for (size_t i = 0; i < ERRORS_MAX && b->error[i].n; i++) {
        if (b->json) {
            buf_add(&out, i ? S(",") : S(""));
            buf_add_json(&out, str_z(b->error[i].text));
            buf_addf(&out, ":%" PRIu64, b->error[i].n);
        } else {
            buf_addf(&out, "%" PRIu64 " times: %s\n", b->error[i].n, b->error[i].text);
        }
    }
    buf_add(&out, b->json ? S("}}\n") : S(""));
    fwrite(out.p, 1, out.n, stdout);
}

/* ---- the command line ---- */

/* The header, and text to make it `size` octets in all where that is possible. The id stands there twice. */
static void message_build(struct blast *b, arena *a)
{
    struct buf header = buf_in(a, 1024), text = buf_in(a, b->size + 128);
    char now[TIME_TEXT];
    static const char line[] = "The quick brown fox jumps over the lazy dog, 0123456789 times a day.\r\n";

    buf_addf(&header, "From: <%.*s>\r\nTo: blast:;\r\nSubject: one of many\r\nDate: %.*s\r\n", STR(b->sender),
             STR(time_rfc5322(now, wall_now())));
    buf_add(&header, S("Message-ID: <"));
    b->id_at[0] = header.n;
    buf_addf(&header, "%08x-%010d@blast.example>\r\nX-Blast-Id: ", b->run, 0);
    b->id_at[1] = header.n;
    buf_addf(&header, "%08x-%010d\r\n\r\n", b->run, 0);
    for (size_t left = b->size > header.n ? b->size - header.n : 0; left;) {
        size_t n = MIN(left, sizeof line - 1);
        if (left - n == 1)
            n--; /* no lone octet for the last line: it could not end in CRLF */
        if (n >= 2)
            buf_add(&text, str_of(line, n - 2));
        buf_add(&text, str_from(S("\r\n"), n >= 2 ? 0 : 1));
        left -= n;
    }
    b->header = buf_str(&header);
    b->text = buf_str(&text);
}

static bool rcpt_parse(struct blast *b, str pattern)
{
    AUTO_ARENA a = arena_new();
    struct path p;
    size_t at = str_find(pattern, S("%d"));

    b->rcpt_numbered = at != STR_NONE;
    b->rcpt_head = str_head(pattern, at);
    b->rcpt_tail = str_from(pattern, at == STR_NONE ? pattern.n : at + 2);
    str sample = b->rcpt_numbered ? str_printf(a, "%.*s18446744073709551615%.*s", STR(b->rcpt_head), STR(b->rcpt_tail))
                                  : pattern;
    if (address_parse(sample, &p) == OK)
        return true;
    cli_usage("blast", "--to %.*s: %.*s", STR(pattern), STR(err_text()));
    return false;
}

static bool sender_parse(struct blast *b, str sender)
{
    struct path p;

    b->sender = sender;
    if (!sender.n || address_parse(sender, &p) == OK)
        return true;
    cli_usage("blast", "--from %.*s: %.*s", STR(sender), STR(err_text()));
    return false;
}

static bool rate_parse(struct blast *b, const char *rate)
{
    str s = str_z(rate);

    if (str_ends(s, S("/s")))
        s.n -= 2;
    if (str_u64(s, 100 * 1000 * 1000, &b->rate) && b->rate)
        return true;
    cli_usage("blast", "--rate %s: messages a second, such as 500/s", rate);
    return false;
}

static bool bind_parse(struct blast *b, const char *text)
{
    b->bound = cidr_parse(str_z(text), &b->from) == OK && b->from.base.sa.sa_family == b->to.sa.sa_family &&
               b->to.sa.sa_family != AF_UNIX;
    if (!b->bound)
        cli_usage("blast", "--bind %s: an address such as 127.0.0.2, or a network such as 127.0.1.0/24, of the server's kind", text);
    return b->bound;
}

static bool counts_good(const struct blast *b)
{
    if (b->sessions && b->per_session && b->rcpts && b->threads && b->threads <= THREADS_MAX && b->rcpts <= RCPTS_MAX)
        return true;
    cli_usage("blast", "--sessions, --per-session, --rcpt (to %d) and --threads (to %d) are 1 or more", RCPTS_MAX,
              THREADS_MAX);
    return false;
}

static int run(struct blast *b, arena *a)
{
    struct worker *all = NEW(a, struct worker);

    b->worker = NEW_ARRAY(a, struct worker, b->threads);
    for (size_t i = 0; i < b->threads; i++) {
        b->worker[i].b = b;
        b->worker[i].sessions = b->sessions / b->threads + (i < b->sessions % b->threads);
    }
    err e = task_main(blast_run, b);
    if (e != OK)
        cli_say("%.*s", STR(err_text()));
    for (size_t i = 0; i < b->threads; i++) {
        const struct worker *w = &b->worker[i];
        all->connections += w->connections;
        all->taken += w->taken;
        all->messages += w->messages;
        all->recipients += w->recipients;
        all->octets += w->octets;
        for (size_t class = 0; class < COUNT(all->classes); class++) {
            all->classes[class] += w->classes[class];
            all->turned_away[class] += w->turned_away[class];
        }
        all->lost += w->lost;
        all->missed += w->missed;
        lengths_merge(&all->lengths, &w->lengths);
    }
    figures_print(b, all);
    if (!atomic_load(&b->connected))
        return CLI_UNREACHABLE;
    return e == OK && all->messages == all->taken && !all->missed && !b->error[0].n ? CLI_DONE : CLI_NO;
}

int cli_blast(int argc, char **argv)
{
    AUTO_ARENA a = arena_new();
    struct blast *b = NEW(a, struct blast);
    const char *size = "4k", *lasts = NULL, *to = "user%d@example.com", *from = "blast@blast.example", *rate = NULL,
               *pipelining = "on", *bind = NULL, *slow = NULL;
    const char *log = NULL, *ehlo = "blast.example";
    const struct flag flags[] = {
        { "sessions", .number = &b->sessions },
        { "mails", .number = &b->mails },
        { "time", .text = &lasts },
        { "per-session", .number = &b->per_session },
        { "size", .text = &size },
        { "rcpt", .number = &b->rcpts },
        { "to", .text = &to },
        { "from", .text = &from },
        { "ehlo", .text = &ehlo },
        { "rate", .text = &rate },
        { "open", .on = &b->open },
        { "rate-limit", .text = &slow },
        { "bind", .text = &bind },
        { "pipelining", .text = &pipelining },
        { "bdat", .on = &b->bdat },
        { "verify-log", .text = &log },
        { "keep-going", .on = &b->keep_going },
        { "threads", .number = &b->threads },
        { "json", .on = &b->json },
        { NULL },
    };

    b->mails = NONE;
    b->sessions = 50;
    b->per_session = 20;
    b->rcpts = b->threads = 1;
    b->log_fd = -1;
    pthread_mutex_init(&b->mutex, NULL);
    int left = cli_flags(argc, argv, flags);
    if (left < 0)
        return CLI_USAGE;
    if (left != 1)
        return cli_usage("blast", left ? "one server at a time" : "to which server?");
    if (b->mails == NONE && !lasts)
        b->mails = 1000;
    if (lasts && !cli_span(lasts, &b->lasts))
        return cli_usage("blast", "--time %s: such as 10s", lasts);
    if (!cli_size(size, &b->size) || b->size > UINT64_C(1) << 30)
        return cli_usage("blast", "--size %s: such as 4k, at most 1g", size);
    if (strcmp(pipelining, "on") != 0 && strcmp(pipelining, "off") != 0)
        return cli_usage("blast", "--pipelining is on or off");
    if (slow && (!cli_size(slow, &b->octets_a_second) || !b->octets_a_second))
        return cli_usage("blast", "--rate-limit %s: octets a second, such as 10k", slow);
    if (b->open && !rate)
        return cli_usage("blast", "--open needs a --rate");
    b->pipelining = strcmp(pipelining, "on") == 0;
    b->ehlo = str_z(ehlo);
    if (!counts_good(b) || (rate && !rate_parse(b, rate)) || !rcpt_parse(b, str_z(to)) ||
        !sender_parse(b, str_z(from)) || !cli_addr("blast", argv[1], &b->to) || (bind && !bind_parse(b, bind)))
        return CLI_USAGE;
    if (log) {
        b->log_fd = open(log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
        if (b->log_fd < 0) {
            cli_say("%s: %s", log, strerror(errno));
            return CLI_NO;
        }
    }
    b->sessions = MIN(b->sessions, b->mails);
    b->run = (uint32_t)random_u64();
    message_build(b, a);
    int code = run(b, a);
    if (b->log_fd >= 0)
        close(b->log_fd);
    return code;
}
