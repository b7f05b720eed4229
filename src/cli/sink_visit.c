/* One client at the sink: its commands, its messages, and what was asked to go wrong. */
#include "cli/sink.h"

#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define COMMAND_WAIT (5 * MINUTE)
#define PIECE (64 * 1024)       /* of a body, in memory at once when nobody wants it whole */

/* ---- what befalls a command ---- */

enum fate { GO, REFUSED, LEAVE };

static uint64_t dice_roll(struct worker *w, uint64_t sides)
{
    w->dice ^= w->dice << 13;
    w->dice ^= w->dice >> 7;
    w->dice ^= w->dice << 17;
    return w->dice % sides;
}

/* Delay, break off or refuse, as asked for this stage. What was refused has its answer. */
static enum fate stage_enter(struct visit *s, enum stage at, const char *rcpt)
{
    struct sink *k = s->w->sink;

    if (k->delay[at]) {
        stream_flush(s->v.s);
        if (task_sleep(clock_now() + k->delay[at]) != OK)
            return LEAVE;
    }
    if (s->seen[at]++ >= k->close_after[at] && k->closes[at])
        return LEAVE;
    for (size_t i = 0; i < k->nrule; i++) {
        const struct rule *r = &k->rule[i];
        if (r->at != at || (r->pattern && fnmatch(r->pattern, rcpt, 0) != 0) ||
            (r->percent < 100 && dice_roll(s->w, 100) >= r->percent))
            continue;
        count(&s->w->counts.refused, 1);
        server_reply(&s->v, r->code, ENH((uint8_t)(r->code / 100), 0, 0), "%.*s", STR(r->text));
        return r->code == 421 ? LEAVE : REFUSED;
    }
    return GO;
}

/* ---- messages ---- */

static bool id_add(struct ids *ids, uint64_t hash)
{
    if (ids->n * 2 >= ids->cap) {
        struct ids more = { .cap = MAX(ids->cap * 2, 4096) };
        more.slot = mem_new(more.cap * sizeof *more.slot);
        for (size_t i = 0; i < ids->cap; i++)
            if (ids->slot[i])
                id_add(&more, ids->slot[i]);
        mem_free(ids->slot);
        ids->slot = more.slot;
        ids->cap = more.cap;
    }
    for (size_t at = hash & (ids->cap - 1);; at = (at + 1) & (ids->cap - 1)) {
        if (ids->slot[at] == hash)
            return false;
        if (!ids->slot[at]) {
            ids->slot[at] = hash;
            ids->n++;
            return true;
        }
    }
}

/* Relays put fields above it, so that it is not at a fixed place. */
static void id_find(struct visit *s)
{
    str header = str_head(buf_str(&s->body), PIECE);
    size_t at = s->id.n ? STR_NONE : str_find(header, S("X-Blast-Id: "));
    if (at == STR_NONE)
        return;
    str id = str_from(header, at + strlen("X-Blast-Id: "));
    s->id = str_dup(s->a, str_head(id, str_findc(id, '\r')));
}

void sink_write(int fd, str s)
{
    while (s.n) {
        ssize_t n = write(fd, s.p, s.n);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0) {
            cli_say("writing: %s", strerror(errno));
            exit(CLI_NO);
        }
        s = str_from(s, (size_t)n);
    }
}

/* {"id":...,"client":...,"ehlo":...,"at_us":...,"from":...,"to":[...],"size":...,"crc32c":...}: when it had come, and from where; the checksum is that of what stands behind the header,
 * which a relay does not touch. */
static void hash_write(struct visit *s)
{
    AUTO_BUF line = { 0 };
    str body = buf_str(&s->body), to = buf_str(&s->to), rcpt;
    char client[ADDR_TEXT];
    size_t blank = str_find(body, S("\r\n\r\n"));

    str content = blank == STR_NONE ? S("") : str_from(body, blank + 4);
    buf_add(&line, S("{\"id\":"));
    buf_add_json(&line, s->id);
    buf_add(&line, S(",\"client\":"));
    buf_add_json(&line, addr_print_ip(&s->v.s->peer, client));
    buf_add(&line, S(",\"ehlo\":"));
    buf_add_json(&line, buf_str(&s->helo));
    buf_addf(&line, ",\"at_us\":%lld", (long long)wall_now());
    buf_add(&line, S(",\"from\":"));
    buf_add_json(&line, s->from);
    for (size_t i = 0; str_cut(&to, S("\n"), &rcpt) && to.p; i++) {
        buf_add(&line, i ? S(",") : S(",\"to\":["));
        buf_add_json(&line, rcpt);
    }
    buf_addf(&line, "],\"size\":%zu,\"crc32c\":\"%08x\"}\n", body.n, crc32c(0, content.p, content.n));
    sink_write(s->w->sink->hash_fd, buf_str(&line)); /* O_APPEND: whole lines, from all threads */
}

static void capture_write(struct visit *s)
{
    char id[ULID_TEXT], name[ULID_TEXT + 8];
    AUTO_BUF head = { 0 };
    str to = buf_str(&s->to), rcpt;

    snprintf(name, sizeof name, "%.*s.eml", STR(ulid_print(ulid_new(), id)));
    int fd = openat(s->w->sink->capture_fd, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
    if (fd < 0) {
        cli_say("%s/%s: %s", s->w->sink->capture, name, strerror(errno));
        exit(CLI_NO);
    }
    header_add(&head, S("X-Sink-From"), s->from);
    while (str_cut(&to, S("\n"), &rcpt) && to.p)
        header_add(&head, S("X-Sink-To"), rcpt);
    sink_write(fd, buf_str(&head));
    sink_write(fd, buf_str(&s->body));
    close(fd);
}

/* It is taken, for s->nrcpt recipients. */
static void message_take(struct visit *s, uint64_t size, bool bare)
{
    struct sink *k = s->w->sink;
    struct counts *n = &s->w->counts;

    if (k->unique) {
        id_find(s);
        uint64_t hash = str_hash(s->id);
        pthread_mutex_lock(&k->mutex);
        if (!s->id.n)
            k->ids.without++;
        else if (!id_add(&k->ids, hash ? hash : 1))
            k->ids.doubled++;
        pthread_mutex_unlock(&k->mutex);
    }
    if (k->hash_fd >= 0) {
        id_find(s);
        hash_write(s);
    }
    if (k->capture)
        capture_write(s);
    count(&n->messages, 1);
    count(&n->recipients, s->nrcpt);
    count(&n->octets, size);
    count(&n->bare, bare);
}

static bool too_large(struct visit *s, uint64_t size)
{
    if (!s->w->sink->max_size || size <= s->w->sink->max_size)
        return false;
    count(&s->w->counts.refused, 1);
    server_reply(&s->v, 552, ENH(5, 3, 4), "too large");
    return true;
}

/* RFC 2033 4.2: an answer for each recipient, in their order. Who is not taken stands in no capture. */
static bool message_end_lmtp(struct visit *s, uint64_t size, bool bare)
{
    struct buf all = s->to;
    str to = buf_str(&all), rcpt;
    bool stay = true;

    s->to = (struct buf){ 0 };
    s->nrcpt = 0;
    while (stay && str_cut(&to, S("\n"), &rcpt) && to.p) {
        enum fate fate = stage_enter(s, AT_DOT, str_cz(s->a, rcpt));
        if (fate == LEAVE)
            count(&s->w->counts.unanswered, 1);
        stay = fate != LEAVE;
        if (fate != GO || too_large(s, size))
            continue;
        s->nrcpt++;
        buf_add(&s->to, rcpt);
        buf_addc(&s->to, '\n');
        server_reply(&s->v, 250, ENH(2, 0, 0), "taken for %.*s", STR(rcpt));
    }
    if (s->nrcpt)
        message_take(s, size, bare);
    buf_free(&all);
    return stay;
}

/* The message is here: take it, or do what was asked for instead. */
static bool message_end(struct visit *s, uint64_t size, bool bare)
{
    if (s->w->sink->lmtp)
        return message_end_lmtp(s, size, bare);
    enum fate fate = stage_enter(s, AT_DOT, NULL);

    if (fate == LEAVE)
        count(&s->w->counts.unanswered, 1);
    if (fate != GO)
        return fate == REFUSED;
    if (too_large(s, size))
        return true;
    message_take(s, size, bare);
    server_reply(&s->v, 250, ENH(2, 0, 0), "taken");
    return true;
}

/* A piece was heard: drop it unless somebody wants the whole, and read slowly when that was asked for. */
static err piece_end(struct visit *s, size_t heard)
{
    const struct sink *k = s->w->sink;

    if (k->hash_fd < 0 && !k->capture && s->body.n > PIECE) {
        if (k->unique)
            id_find(s);
        buf_clear(&s->body);
    }
    return k->octets_a_second ? task_sleep(clock_now() + (when)(heard * SECOND / k->octets_a_second)) : OK;
}

static void envelope_forget(struct visit *s)
{
    s->mail = false;
    s->nrcpt = 0;
    s->octets = 0;
    s->from = s->id = (str){ 0 };
    buf_clear(&s->to);
    buf_clear(&s->body);
    arena_reset(s->a);
}

static size_t piece_max(const struct visit *s)
{
    uint64_t rate = s->w->sink->octets_a_second;
    return rate ? MAX((size_t)rate / 10, 1) : SIZE_MAX;
}

static bool data_take(struct visit *s)
{
    struct data d = { 0 };

    while (!d.ended) {
        size_t before = s->body.n;
        if (data_hear(&d, s->v.s, &s->body, piece_max(s), clock_now() + COMMAND_WAIT) != OK)
            return false;
        if (!d.ended && piece_end(s, s->body.n - before) != OK)
            return false;
    }
    bool stay = message_end(s, d.size, d.bare_cr || d.bare_lf);
    envelope_forget(s);
    return stay;
}

/* RFC 3030. A chunk that is not wanted is heard all the same. */
static bool chunk_take(struct visit *s, const struct command *c)
{
    bool wanted = s->nrcpt > 0, last = c->last;

    for (uint64_t left = c->chunk; left;) {
        str pending = str_head(stream_pending(s->v.s), MIN(left, piece_max(s)));
        if (!pending.n) {
            if (stream_fill(s->v.s, 1, clock_now() + COMMAND_WAIT) != OK)
                return false;
            continue;
        }
        if (wanted)
            buf_add(&s->body, pending);
        stream_consume(s->v.s, pending.n);
        left -= pending.n;
        s->octets += pending.n;
        if (left && piece_end(s, pending.n) != OK)
            return false;
    }
    if (!wanted) {
        server_reply(&s->v, 503, ENH(5, 5, 1), "no recipients");
        return true;
    }
    if (!last) {
        server_reply(&s->v, 250, ENH(2, 0, 0), "go on");
        return true;
    }
    bool stay = message_end(s, s->octets, false);
    envelope_forget(s);
    return stay;
}

/* ---- commands ---- */

static bool hello_take(struct visit *s, const struct command *c)
{
    const struct sink *k = s->w->sink;
    bool extended = c->verb != VERB_HELO;
    enum fate fate = stage_enter(s, AT_EHLO, NULL);

    if (fate != GO)
        return fate == REFUSED;
    if (extended && k->no_ehlo) {
        server_reply(&s->v, 502, ENH(0, 0, 0), "no such command");
        return true;
    }
    envelope_forget(s);
    s->ehlo = s->v.enhanced = extended;
    if (k->hash_fd >= 0) {
        buf_clear(&s->helo);
        buf_add(&s->helo, str_head(c->argument, 255));
    }
    server_reply_lines(&s->v, 250, ENH(0, 0, 0), k->offers, extended ? k->noffers : 1);
    return true;
}

static bool mail_take(struct visit *s, const struct command *c)
{
    const struct sink *k = s->w->sink;

    if (k->max_mails && s->mails >= k->max_mails) {
        server_reply(&s->v, 421, ENH(4, 7, 0), "enough for this connection");
        return false;
    }
    enum fate fate = stage_enter(s, AT_MAIL, NULL);
    if (fate != GO)
        return fate == REFUSED;
    if (s->mail) {
        server_reply(&s->v, 503, ENH(5, 5, 1), "one after the other");
        return true;
    }
    if (k->max_size && c->size > k->max_size) {
        server_reply(&s->v, 552, ENH(5, 3, 4), "too large");
        return true;
    }
    s->mail = true;
    s->mails++;
    s->from = str_dup(s->a, c->path.text);
    server_reply(&s->v, 250, ENH(2, 1, 0), "ok");
    return true;
}

static bool rcpt_take(struct visit *s, const struct command *c)
{
    const struct sink *k = s->w->sink;

    if (!s->mail) {
        server_reply(&s->v, 503, ENH(5, 5, 1), "MAIL first");
        return true;
    }
    enum fate fate = stage_enter(s, AT_RCPT, k->nrule ? str_cz(s->a, c->path.text) : "");
    if (fate != GO)
        return fate == REFUSED;
    s->nrcpt++;
    if (k->capture || k->hash_fd >= 0 || k->lmtp) {
        buf_add(&s->to, c->path.text);
        buf_addc(&s->to, '\n');
    }
    server_reply(&s->v, 250, ENH(2, 1, 5), "ok");
    return true;
}

static bool data_begin(struct visit *s)
{
    enum fate fate = stage_enter(s, AT_DATA, NULL);

    if (fate != GO)
        return fate == REFUSED;
    if (!s->nrcpt) {
        server_reply(&s->v, s->mail ? 554 : 503, ENH(5, 5, 1), "no recipients");
        return true;
    }
    server_reply(&s->v, 354, ENH(0, 0, 0), "go");
    return data_take(s);
}

static bool command_take(struct visit *s, const struct command *c)
{
    if (c->refuse.code) {
        server_reply(&s->v, c->refuse.code, c->refuse.enhanced, "%.*s", STR(c->refuse.text));
        return c->verb != VERB_BDAT && c->verb != VERB_HTTP;
    }
    switch (c->verb) {
    case VERB_HELO:
    case VERB_EHLO:
    case VERB_LHLO:
        if ((c->verb == VERB_LHLO) != s->w->sink->lmtp) { /* RFC 2033 4.1 */
            server_reply(&s->v, 500, ENH(5, 5, 1), s->w->sink->lmtp ? "this is LMTP: say LHLO" : "this is SMTP: say EHLO");
            return true;
        }
        return hello_take(s, c);
    case VERB_MAIL:
        return mail_take(s, c);
    case VERB_RCPT:
        return rcpt_take(s, c);
    case VERB_DATA:
        return data_begin(s);
    case VERB_BDAT:
        return chunk_take(s, c);
    case VERB_RSET:
        envelope_forget(s);
        server_reply(&s->v, 250, ENH(2, 0, 0), "ok");
        return true;
    case VERB_NOOP:
        server_reply(&s->v, 250, ENH(2, 0, 0), "ok");
        return true;
    case VERB_VRFY:
        server_reply(&s->v, 252, ENH(2, 5, 0), "try it");
        return true;
    case VERB_QUIT:
        server_reply(&s->v, 221, ENH(2, 0, 0), "bye");
        return false;
    default:
        server_reply(&s->v, 502, ENH(5, 5, 1), "not here");
        return true;
    }
}

struct visit *visit_new(struct worker *w, struct stream *s)
{
    struct visit *v = mem_new(sizeof *v);
    *v = (struct visit){ .w = w, .v = { .s = s }, .a = arena_new() };
    return v;
}

void visit_free(struct visit *s)
{
    stream_free(s->v.s);
    buf_free(&s->body);
    buf_free(&s->to);
    buf_free(&s->helo);
    arena_free(s->a);
    mem_free(s);
}

err visit_run(void *arg)
{
    struct visit *s = arg;
    struct command c;
    enum fate fate = stage_enter(s, AT_GREETING, NULL);

    if (fate == GO)
        server_reply(&s->v, 220, ENH(0, 0, 0), "sink.example %s waypost sink", s->w->sink->lmtp ? "LMTP" : "ESMTP");
    if (fate != LEAVE)
        while (server_hear(&s->v, s->a, clock_now() + COMMAND_WAIT, &c) == OK && command_take(s, &c))
            ;
    stream_flush(s->v.s);
    visit_free(s);
    return OK;
}
