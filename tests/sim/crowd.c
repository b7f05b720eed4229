/* Clients and next hops. They speak SMTP by themselves, not by smtp/: what both sides got wrong alike nobody would see. */
#include "sim/crowd.h"
#include "mail/mail.h"

#include <stdio.h>
#include <stdlib.h>

struct crowd *crowd;

/* ---- lives ---- */

struct mail_life *life_of(ulid id)
{
    for (struct mail_life *l = crowd->lives; l; l = l->next)
        if (ulid_eq(l->id, id))
            return l;
    struct mail_life *l = NEW(crowd->a, struct mail_life);
    l->id = id;
    l->next = crowd->lives;
    return crowd->lives = l;
}

static struct moment *story_add(struct mail_life *l, str addr, enum what what)
{
    struct story *s = l->stories;

    while (s && !str_eq(str_z(s->addr), addr))
        s = s->next;
    if (!s) {
        s = NEW(crowd->a, struct story);
        snprintf(s->addr, sizeof s->addr, "%.*s", STR(addr));
        s->next = l->stories;
        l->stories = s;
    }
    if (s->n == s->cap) {
        s->cap = s->cap ? s->cap * 2 : 8;
        s->p = mem_grow(s->p, s->cap * sizeof *s->p);
    }
    s->p[s->n] = (struct moment){ .what = what, .at = clock_now() };
    return &s->p[s->n++];
}

/* "ok-12-0@near.example" and "s12@clients.example". */
static struct letter *letter_of(str addr, struct addressee **ret)
{
    unsigned number, i = 0;
    char text[64], word[16];

    *ret = NULL;
    snprintf(text, sizeof text, "%.*s", STR(addr));
    if (sscanf(text, "s%u@", &number) != 1 && sscanf(text, "%15[a-z]-%u-%u@", word, &number, &i) != 3)
        return NULL;
    for (struct letter *l = crowd->letters; l; l = l->next)
        if (l->number == number) {
            if (text[0] != 's' || text[1] == '-')
                *ret = i < l->nrcpt ? &l->rcpt[i] : NULL;
            return l;
        }
    return NULL;
}

static void refused_for_good(str addr)
{
    struct addressee *r;
    struct letter *l = letter_of(addr, &r);

    if (r)
        r->refused = true;
    else if (l)
        l->sender_refused = true;
}

/* ---- the relay's log ---- */

static bool log_value(str line, str key, str *ret)
{
    AUTO_BUF want = { 0 };

    buf_addf(&want, " %.*s=", STR(key));
    size_t at = str_find(line, buf_str(&want));
    if (at == STR_NONE)
        return false;
    str rest = str_from(line, at + want.n);
    *ret = str_head(rest, str_findc(rest, ' '));
    return true;
}

void crowd_heard_log(str line)
{
    static const struct { str event; enum what what; } events[] = {
        { S("delivered"), SAID_DELIVERED }, { S("deferred"), SAID_DEFERRED }, { S("failed"), SAID_FAILED },
        { S("expired"), SAID_EXPIRED }, { S("unknown"), SAID_UNKNOWN },
    };
    str rest = line, time, level, event, id, rcpt;
    struct addressee *r;
    ulid number;

    if (!str_word(&rest, &time) || !str_word(&rest, &level) || !str_word(&rest, &event))
        return;
    if (str_eq(level, S("error")) && !str_eq(event, S("not_stored")))
        sim_tell("relay complains: %.*s", STR(line));
    if (!log_value(rest, S("id"), &id) && !(str_starts(rest, S(" id=")) || str_starts(rest, S("id="))))
        return;
    for (size_t i = 0; i < COUNT(events); i++)
        if (str_eq(event, events[i].event) && log_value(line, S("rcpt"), &rcpt) && ulid_parse(id, &number)) {
            bool repeated = events[i].what == SAID_DELIVERED && str_has(line, S("perhaps a second copy"));
            story_add(life_of(number), rcpt, repeated ? SAID_REPEATED : events[i].what);
            if (events[i].what == SAID_EXPIRED && letter_of(rcpt, &r) && !r)
                letter_of(rcpt, &r)->sender_refused = true; /* the report itself became too old */
        }
}

/* ---- a line of talk ---- */

struct talk { struct stream *s; str line; };

static void say(struct talk *t, const char *fmt, ...) PRINTF(2, 3);
static void say(struct talk *t, const char *fmt, ...)
{
    char text[600];
    va_list ap;

    va_start(ap, fmt);
    int n = vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    must(n >= 0 && (size_t)n < sizeof text);
    stream_say(t->s, str_of(text, (size_t)n));
}

/* One line without its CRLF; good until the next. */
static err hear(struct talk *t, when patience)
{
    when until = clock_now() + patience;

    stream_flush(t->s);
    for (;;) {
        str pending = stream_pending(t->s);
        size_t end = str_findc(pending, '\n');
        if (end != STR_NONE) {
            t->line = str_head(pending, end);
            stream_consume(t->s, end + 1);
            if (!str_ends(t->line, S("\r")))
                return crowd->wrong("the relay ends a line in a bare LF: %.*s", STR(t->line)), E_SYNTAX;
            t->line.n--;
            return OK;
        }
        TRY(stream_fill(t->s, 1, until));
    }
}

/* ---- hops ---- */

enum stage { AT_GREETING, AT_HELLO, AT_MAIL, AT_RCPT, AT_DATA, AT_BODY, AT_DOT, STAGES };
enum act { ACT_WELL, ACT_LATER, ACT_NEVER, ACT_CLOSE, ACT_RESET, ACT_SLOW, ACT_DEAF, ACT_NONSENSE, ACT_BYE, ACT_ENDLESS, ACTS };

struct hop {
    struct addr addr;
    int fd;
    bool down;
    /* temper */
    unsigned stages;                    /* bits: where it misbehaves */
    enum act act;
    unsigned one_in;
    /* what it can */
    bool ehlo, pipelining, eight, dsn;
    unsigned rcpt_limit, rcpt_limit_said; /* 0: none */
    unsigned mail_limit;                /* of one connection, then 421; 0: none */
    bool trickle;
};

struct visit { struct talk t; struct hop *h; char rcpt[64][64]; size_t nrcpt; char sender[64]; bool mail, mail_bad, eight /* we offered 8BITMIME */; unsigned mails; struct buf body; arena *a; };

struct addr hop_addr(size_t i)
{
    struct addr a;
    char text[32];

    snprintf(text, sizeof text, "203.0.113.%zu:25", i + 1);
    must(addr_parse(str_z(text), 25, &a) == OK);
    return a;
}

/* How it takes what comes now. */
static enum act hop_act(const struct hop *h, enum stage at)
{
    if (h->down)
        return ACT_RESET;
    return !crowd->calm && (h->stages & 1u << at) && sim_chance(h->one_in) ? h->act : ACT_WELL;
}

static bool say_slowly(struct visit *v, const char *reply)
{
    for (const char *p = reply; *p; p++) {
        stream_say(v->t.s, str_of(p, 1));
        stream_flush(v->t.s);
        if (task_sleep(clock_now() + sim_between(0, 300 * MILLISECOND)) != OK)
            return false;
    }
    return true;
}

/* Say `reply`, or what is said and done instead. False: the visit is over. */
static bool answer(struct visit *v, enum act act, const char *reply)
{
    switch (act) {
    case ACT_LATER:
        say(&v->t, "451 4.3.2 not now\r\n");
        return true;
    case ACT_NEVER:
        say(&v->t, "554-5.7.1 not here\r\n554 5.7.1 not ever\r\n");
        return true;
    case ACT_CLOSE:
        return false;
    case ACT_RESET:
        sim_reset(v->t.s->io.fd);
        return false;
    case ACT_SLOW:
        stream_flush(v->t.s);
        if (task_sleep(clock_now() + sim_between(SECOND, 100 * SECOND)) != OK)
            return false;
        break;
    case ACT_DEAF:
        stream_flush(v->t.s);
        task_sleep(clock_now() + 25 * MINUTE);
        return false;
    case ACT_NONSENSE:
        say(&v->t, "hello?\r\n");
        return true;
    case ACT_BYE:
        say(&v->t, "421 4.3.2 going down\r\n");
        return false;
    case ACT_ENDLESS:
        for (int i = 0; i < 300; i++)
            say(&v->t, "%.3s-and so on\r\n", reply);
        break;
    default:
        break;
    }
    if (v->h->trickle && !crowd->calm)
        return say_slowly(v, reply);
    say(&v->t, "%s", reply);
    return true;
}

/* RCPT: its fate is in the address, and hops have moods. */
static bool hop_rcpt(struct visit *v)
{
    struct hop *h = v->h;
    enum act act = hop_act(h, AT_RCPT);
    struct addressee *r;
    str addr = str_from(v->t.line, 9);

    addr = str_head(addr, str_findc(addr, '>'));
    if (!v->mail) {
        if (v->mail_bad)
            refused_for_good(addr);
        say(&v->t, "503 5.5.1 MAIL first\r\n");
        return true;
    }
    letter_of(addr, &r);
    if (act == ACT_NEVER || (r && r->fate == FATE_NEVER)) {
        refused_for_good(addr);
        return answer(v, ACT_WELL, "550 5.1.1 no such user\r\n");
    }
    if (r && r->fate == FATE_LATER && r->later) {
        r->later--;
        return answer(v, act, "450 4.2.0 greylisted, come back\r\n");
    }
    if ((h->rcpt_limit && v->nrcpt >= h->rcpt_limit) || v->nrcpt == COUNT(v->rcpt))
        return answer(v, act, "452 4.5.3 too many recipients\r\n");
    if (act != ACT_LATER && act != ACT_NONSENSE)
        snprintf(v->rcpt[v->nrcpt++], sizeof v->rcpt[0], "%.*s", STR(addr));
    return answer(v, act, "250 2.1.5 ok\r\n");
}

/* Up to CRLF.CRLF, into v->body without the stuffing. */
static err hop_hear_body(struct visit *v)
{
    buf_clear(&v->body);
    for (;;) {
        TRY(hear(&v->t, 10 * MINUTE));
        str line = v->t.line;
        if (str_eq(line, S(".")))
            return OK;
        if (str_findc(line, '\r') != STR_NONE)
            crowd->wrong("the relay sends a bare CR");
        if (line.n > 998)
            crowd->wrong("the relay sends a line of %zu octets", line.n);
        if (str_starts(line, S(".")))
            line = str_from(line, 1);
        buf_add(&v->body, line);
        buf_add(&v->body, S("\r\n"));
        if (hop_act(v->h, AT_BODY) != ACT_WELL && sim_chance(10))
            return fail(E_CANCELED, "no patience");
    }
}

/* A report of the relay's own: whom does it speak of? */
static void hop_took_report(struct visit *v)
{
    str rest = buf_str(&v->body), line;

    struct addressee *r = NULL;

    crowd->reports++;
    while (str_cut(&rest, S("\r\n"), &line)) {
        if (str_eq(line, S("Action: failed")) && r)
            r->reported = true;
        if (!str_istarts(line, S("Final-Recipient: rfc822;")))
            continue;
        struct letter *l = letter_of(str_trim(str_from(line, 24)), &r);
        if (!r && !(l && str_starts(str_z(v->rcpt[0]), S("postmaster@")))) /* who learns of reports that failed */
            crowd->wrong("a report speaks of somebody unknown: %.*s", STR(line));
    }
}

static struct submission *submission_of(struct letter *l, uint64_t number)
{
    struct submission *s = l->submissions;

    while (s && s->number != number)
        s = s->next;
    return s;
}

static void hop_took_letter(struct visit *v, str header, str body)
{
    struct letter *l = NULL;
    str number = { 0 }, try = { 0 }, received = { 0 };
    uint64_t n, k;
    ulid id;

    if (!header_get(v->a, header, S("X-Letter"), &number) || !header_get(v->a, header, S("X-Try"), &try) ||
        !header_get(v->a, header, S("Received"), &received) || !str_u64(number, UINT32_MAX, &n) || !str_u64(try, UINT32_MAX, &k)) {
        crowd->wrong("a hop got what nobody sent:\n%.*s", STR(header));
        return;
    }
    for (l = crowd->letters; l && l->number != n;)
        l = l->next;
    struct submission *s = l ? submission_of(l, k) : NULL;
    size_t at = str_find(received, S(" id "));
    if (!s || at == STR_NONE || !ulid_parse(str_head(str_from(received, at + 4), ULID_TEXT), &id)) {
        crowd->wrong("a hop got what nobody sent:\n%.*s", STR(header));
        return;
    }
    if (crc32c(0, body.p, body.n) != l->sum && !(l->eight && !v->eight))
        crowd->wrong("letter %u arrived damaged (%zu octets)", l->number, body.n);
    if (!v->eight)
        for (size_t i = 0; i < v->body.n; i++)
            if ((unsigned char)v->body.p[i] > 127) {
                crowd->wrong("letter %u: an octet %u to a hop without 8BITMIME", l->number, (unsigned char)v->body.p[i]);
                break;
            }
    struct mail_life *life = life_of(id);
    if (life->of && life->of != s)
        crowd->wrong("one id for two submissions");
    if (s->acked && !ulid_eq(s->id, id))
        crowd->wrong("letter %u try %u came with another id than its 250 said", l->number, s->number);
    if (!s->said)
        crowd->wrong("letter %u try %u was delivered before its final dot", l->number, s->number);
    life->of = s;
    crowd->took++;
    for (size_t i = 0; i < v->nrcpt; i++) {
        struct addressee *r;
        if (letter_of(str_z(v->rcpt[i]), &r) != l || !r || !(s->rcpts & 1u << (r - l->rcpt)))
            crowd->wrong("letter %u was delivered to %s, who is not among its recipients", l->number, v->rcpt[i]);
        else
            story_add(life, str_z(v->rcpt[i]), TOOK)->unheard = sim_peer_gone(v->t.s->io.fd);
    }
    if (!str_eq(str_z(v->sender), str_z(l->sender)))
        crowd->wrong("letter %u came from <%s>, not <%s>", l->number, v->sender, l->sender);
}

static void hop_took(struct visit *v)
{
    str text = buf_str(&v->body);
    size_t empty = str_find(text, S("\r\n\r\n"));

    arena_reset(v->a);
    sim_tell("hop %s: took %zu octets for %zu, the first %s", str_z(v->sender).n ? v->sender : "<>", text.n, v->nrcpt, v->nrcpt ? v->rcpt[0] : "?");
    if (!v->sender[0] && str_has(text, S("multipart/report")))
        hop_took_report(v);
    else
        hop_took_letter(v, str_head(text, empty == STR_NONE ? text.n : empty + 2), str_from(text, empty == STR_NONE ? text.n : empty + 4));
}

/* The dot was said, and an answer is due. */
static bool hop_dot(struct visit *v)
{
    enum act act = hop_act(v->h, AT_DOT);
    bool poison = false;

    for (size_t i = 0; i < v->nrcpt; i++) {
        struct addressee *r;
        letter_of(str_z(v->rcpt[i]), &r);
        poison |= r && r->fate == FATE_POISON;
    }
    if (poison || act == ACT_NEVER) {
        for (size_t i = 0; i < v->nrcpt; i++)
            refused_for_good(str_z(v->rcpt[i]));
        say(&v->t, "554 5.6.0 I will not have this\r\n");
        return true;
    }
    if (act == ACT_LATER) {
        say(&v->t, "452 4.3.1 no room\r\n");
        return true;
    }
    if (act == ACT_WELL) {
        hop_took(v);
        return answer(v, act, "250 2.0.0 taken\r\n");
    }
    if (sim_chance(2))          /* the worst: taken, and nobody is told */
        hop_took(v);
    else
        sim_tell("hop: not taken");
    if (act == ACT_SLOW) {
        stream_flush(v->t.s);
        if (task_sleep(clock_now() + sim_between(SECOND, 15 * MINUTE)) != OK)
            return false;
        say(&v->t, "450 4.0.0 that took too long\r\n"); /* even where it was taken: such hops exist */
        return true;
    }
    answer(v, act, "250-2.0.0 taken\r\n");
    return false;
}

static bool hop_data(struct visit *v)
{
    enum act act = hop_act(v->h, AT_DATA);

    if (!v->mail || !v->nrcpt) {
        say(&v->t, "554 5.5.1 no valid recipients\r\n");
        v->mail = false;
        return true;
    }
    v->mail = false;
    if (act == ACT_NEVER)
        for (size_t i = 0; i < v->nrcpt; i++)
            refused_for_good(str_z(v->rcpt[i]));
    if (!answer(v, act, "354 go on\r\n") || act == ACT_NEVER || act == ACT_LATER || act == ACT_NONSENSE)
        return act == ACT_NEVER || act == ACT_LATER;
    return hop_hear_body(v) == OK && hop_dot(v);
}

static bool hop_hello(struct visit *v, bool ehlo)
{
    struct hop *h = v->h;
    char text[512];

    v->mail = false;
    if (ehlo && !h->ehlo) {
        say(&v->t, "502 5.5.1 what?\r\n");
        return true;
    }
    v->eight = ehlo && h->eight;
    if (!ehlo)
        return answer(v, hop_act(h, AT_HELLO), "250 hop\r\n");
    snprintf(text, sizeof text, "250-hop\r\n%s%s%s%s250 HELP\r\n", h->pipelining ? "250-PIPELINING\r\n" : "",
             h->eight ? "250-8BITMIME\r\n" : "", h->dsn ? "250-DSN\r\n" : "", h->rcpt_limit_said ? "250-LIMITS RCPTMAX=2\r\n" : "");
    return answer(v, hop_act(h, AT_HELLO), text);
}

static bool hop_mail(struct visit *v)
{
    enum act act = hop_act(v->h, AT_MAIL);
    str addr = str_from(v->t.line, 11);

    addr = str_head(addr, str_findc(addr, '>'));
    v->nrcpt = 0;
    crowd->heard_mail((size_t)(v->h - crowd->hops), &v->t.s->peer);
    if (v->h->mail_limit && v->mails++ >= v->h->mail_limit) {
        say(&v->t, "421 4.7.0 that is enough\r\n");
        return false;
    }
    v->mail = act != ACT_LATER && act != ACT_NEVER && act != ACT_NONSENSE;
    v->mail_bad = act == ACT_NEVER;
    crowd->mail_refused |= v->mail_bad;
    snprintf(v->sender, sizeof v->sender, "%.*s", STR(addr));
    return answer(v, act, "250 2.1.0 ok\r\n");
}

static void hop_talk(struct visit *v)
{
    enum act act = hop_act(v->h, AT_GREETING);

    if (!answer(v, act, "220 hop ESMTP\r\n") || act == ACT_LATER || act == ACT_NEVER)
        return;
    for (;;) {
        if (hear(&v->t, 10 * MINUTE) != OK)
            return;
        str line = v->t.line;
        bool on = true;
        if (line.n > 510 + 500)
            crowd->wrong("the relay sends a command of %zu octets", line.n);
        if (str_istarts(line, S("EHLO ")))
            on = hop_hello(v, true);
        else if (str_istarts(line, S("HELO ")))
            on = hop_hello(v, false);
        else if (str_istarts(line, S("MAIL FROM:<")))
            on = hop_mail(v);
        else if (str_istarts(line, S("RCPT TO:<")))
            on = hop_rcpt(v);
        else if (str_ieq(line, S("DATA")))
            on = hop_data(v);
        else if (str_ieq(line, S("RSET"))) {
            v->mail = false;
            say(&v->t, "250 2.0.0 ok\r\n");
        } else if (str_ieq(line, S("QUIT"))) {
            say(&v->t, "221 2.0.0 bye\r\n");
            return;
        } else {
            crowd->wrong("the relay says what a hop does not know: %.*s", STR(line));
            say(&v->t, "500 5.5.2 what?\r\n");
        }
        if (!on)
            return;
    }
}

struct arrival { struct hop *h; int fd; struct addr peer; };

static err hop_visit(void *arg)
{
    struct arrival at = *(struct arrival *)arg;
    struct visit *v = mem_new(sizeof *v);

    mem_free(arg);
    v->h = at.h;
    v->a = arena_new();
    v->t.s = stream_new(at.fd, &at.peer);
    hop_talk(v);
    v->t.s->write_wait = SECOND;
    stream_flush(v->t.s);
    stream_free(v->t.s);
    buf_free(&v->body);
    arena_free(v->a);
    mem_free(v);
    return OK;
}

static err hop_run(void *arg)
{
    struct hop *h = arg;
    struct io io;

    TRY(listen_open(&h->addr, &h->fd));
    TRY(io_add_shared(&io, h->fd));
    for (;;) {
        struct arrival *a = mem_new(sizeof *a);
        a->h = h;
        if (listen_accept(&io, NEVER, &a->fd, &a->peer) != OK) {
            mem_free(a);
            break;
        }
        group_spawn(thread_group(), "visit", hop_visit, a);
    }
    io_del(&io);
    machine->close(h->fd);
    return OK;
}

static void hop_learns(struct hop *h)
{
    h->ehlo = !sim_chance(6);
    h->pipelining = !sim_chance(3);
    h->eight = !sim_chance(4);
    h->dsn = sim_chance(2);
    h->rcpt_limit = sim_chance(4) ? (unsigned)sim_random(3) + 1 : 0;
    h->rcpt_limit_said = sim_chance(6);
    h->mail_limit = sim_chance(5) ? (unsigned)sim_random(3) + 1 : 0;
    h->trickle = sim_chance(10);
}

void crowd_weather(void)
{
    static const char *const acts[] = { "well", "later", "never", "close", "reset", "slow", "deaf", "nonsense", "bye", "endless" };
    size_t i = (size_t)sim_random(crowd->nhops);
    struct hop *h = &crowd->hops[i];
    struct addr a = hop_addr(i);

    h->down = false;
    h->stages = 0;
    sim_refuse(&a, false);
    sim_silence(&a, false);
    switch (sim_random(8)) {
    case 0:
        sim_tell("weather: hop %zu is down", i + 1);
        h->down = true;
        sim_refuse(&a, true);
        break;
    case 1:
        sim_tell("weather: hop %zu is silent", i + 1);
        sim_silence(&a, true);
        break;
    case 2:
        sim_tell("weather: hop %zu does well", i + 1);
        break;
    default:
        h->act = (enum act)(1 + sim_random(ACTS - 1));
        h->stages = (unsigned)sim_random(1u << STAGES);
        if (sim_chance(3))
            h->stages |= 1u << AT_DOT;
        if (h->act == ACT_NEVER && !sim_chance(4))
            h->stages &= ~(1u << AT_MAIL);
        h->one_in = sim_chance(3) ? 1 : (unsigned)sim_random(8) + 1;
        sim_tell("weather: hop %zu: %s at %x, one in %u", i + 1, acts[h->act], h->stages, h->one_in);
    }
}

void crowd_calm(void)
{
    crowd->calm = true;
    for (size_t i = 0; i < crowd->nhops; i++) {
        struct addr a = hop_addr(i);
        crowd->hops[i].down = false;
        crowd->hops[i].stages = 0;
        sim_refuse(&a, false);
        sim_silence(&a, false);
    }
}

/* ---- clients ---- */

static void letter_address(struct letter *l, bool office)
{
    static const char *const word[] = { "ok", "never", "later", "poison" };

    l->nrcpt = sim_chance(2) ? 1 : 1 + (size_t)sim_random(LETTER_RCPTS);
    for (size_t i = 0; i < l->nrcpt; i++) {
        struct addressee *r = &l->rcpt[i];
        static const char *const domains[] = { "near.example", "x.near.example", "other.example", "far.example" };
        r->fate = sim_chance(8) ? FATE_NEVER : sim_chance(6) ? FATE_LATER : sim_chance(20) ? FATE_POISON : FATE_OK;
        r->later = r->fate == FATE_LATER ? 1 + (unsigned)sim_random(3) : 0;
        snprintf(r->addr, sizeof r->addr, "%s-%u-%zu@%s", word[r->fate], l->number, i, domains[sim_random(office ? 4 : 3)]);
    }
    if (!sim_chance(12))
        snprintf(l->sender, sizeof l->sender, "s%u@%s", l->number, office ? "office.example" : "clients.example");
}

static void letter_write(struct letter *l)
{
    struct buf text = buf_in(crowd->a, 1024);
    size_t size = l->large ? 200000 + (size_t)sim_random(400000) : (size_t)sim_random(3000);

    l->eight = sim_chance(6);
    buf_addf(&text, "From: <%s>\r\nSubject: letter %u\r\nX-Letter: %u\r\n", l->sender, l->number, l->number);
    if (l->eight)
        buf_add(&text, S("MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n"));
    size_t header = text.n;
    buf_add(&text, S("\r\n"));
    while (text.n < header + size) {
        if (sim_chance(10))
            buf_add(&text, sim_chance(2) ? S(".") : S(".."));
        for (size_t n = (size_t)sim_random(70); n; n--)
            buf_addc(&text, (char)('a' + sim_random(26)));
        if (l->eight)
            buf_add(&text, S("\xc3\xbc"));
        buf_add(&text, S("\r\n"));
    }
    l->text = buf_str(&text);
    str body = str_from(l->text, header + 2);
    l->sum = crc32c(0, body.p, body.n);
}

static struct letter *letter_new(bool office)
{
    struct letter *l = NEW(crowd->a, struct letter);

    l->number = ++crowd->nletters;
    l->large = sim_chance(15);
    l->bdat = sim_chance(3);
    letter_address(l, office);
    letter_write(l);
    l->next = crowd->letters;
    return crowd->letters = l;
}

struct writer { struct addr from; bool office; unsigned number; };

/* A whole reply; its last line stays in t->line. */
static err hear_reply(struct talk *t, uint64_t *code)
{
    do {
        TRY(hear(t, 10 * MINUTE));
        if (t->line.n < 4 || !str_u64(str_head(t->line, 3), 599, code))
            return crowd->wrong("the relay says what is no reply: %.*s", STR(t->line)), E_SYNTAX;
    } while (t->line.p[3] == '-');
    if (*code == 421)
        return fail(E_CLOSED, "421");
    return OK;
}

static err command(struct talk *t, uint64_t *code, const char *text)
{
    say(t, "%s\r\n", text);
    return hear_reply(t, code);
}

static void say_text(struct talk *t, struct submission *s, bool stuffed)
{
    str rest = s->letter->text, line;

    say(t, "X-Try: %u\r\n", s->number);
    if (!stuffed) {
        stream_write(t->s, rest);
        return;
    }
    while (rest.n && str_cut(&rest, S("\r\n"), &line)) {
        if (str_starts(line, S(".")))
            stream_say(t->s, S("."));
        stream_say(t->s, line);
        stream_say(t->s, S("\r\n"));
    }
}

static err client_envelope(struct talk *t, struct submission *s)
{
    struct letter *l = s->letter;
    char text[200];
    uint64_t code;
    bool pipelined = sim_chance(2);

    snprintf(text, sizeof text, "MAIL FROM:<%s>%s", l->sender, l->eight ? " BODY=8BITMIME" : "");
    if (pipelined) {
        say(t, "%s\r\n", text);
        for (size_t i = 0; i < l->nrcpt; i++)
            say(t, "RCPT TO:<%s>\r\n", l->rcpt[i].addr);
        TRY(hear_reply(t, &code));
    } else
        TRY(command(t, &code, text));
    bool mail = code == 250;
    for (size_t i = 0; i < l->nrcpt && (mail || pipelined); i++) {
        snprintf(text, sizeof text, "RCPT TO:<%s>", l->rcpt[i].addr);
        TRY(pipelined ? hear_reply(t, &code) : command(t, &code, text));
        if (code == 250)
            s->rcpts |= 1u << i;
        else if (code / 100 == 5 && mail)
            crowd->wrong("the relay refuses %s: %.*s", l->rcpt[i].addr, STR(t->line));
    }
    return mail && s->rcpts ? OK : fail(E_AGAIN, "not now");
}

static err client_body(struct talk *t, struct submission *s)
{
    struct letter *l = s->letter;
    uint64_t code;

    if (!crowd->calm && sim_chance(40))
        return fail(E_CANCELED, "changed my mind");
    if (!l->bdat) {
        TRY(command(t, &code, "DATA"));
        if (code != 354)
            return fail(E_AGAIN, "not now");
        say_text(t, s, true);
        if (!crowd->calm && sim_chance(40))
            return stream_flush(t->s), fail(E_CANCELED, "changed my mind");
        s->said = clock_now();
        say(t, ".\r\n");
    } else {
        char head[64];
        snprintf(head, sizeof head, "X-Try: %u\r\n", s->number);
        s->said = clock_now();
        say(t, "BDAT %zu LAST\r\n", strlen(head) + l->text.n);
        say_text(t, s, false);
    }
    TRY(hear_reply(t, &code));
    if (code == 250) {
        size_t at = str_find(t->line, S("queued as "));
        if (at == STR_NONE || !ulid_parse(str_head(str_from(t->line, at + 10), ULID_TEXT), &s->id)) {
            crowd->wrong("a 250 without an id: %.*s", STR(t->line));
            return E_SYNTAX;
        }
        s->acked = true;
        s->acked_at = clock_now();
        crowd->acked++;
        life_of(s->id)->of = s;
        sim_tell("client: letter %u try %u is taken", l->number, s->number);
        return OK;
    }
    if (code / 100 == 5)
        crowd->wrong("the relay refuses letter %u: %.*s", l->number, STR(t->line));
    return fail(E_AGAIN, "not now");
}

static struct submission *submission_new(struct letter *l)
{
    struct submission *s = NEW(crowd->a, struct submission);

    s->letter = l;
    s->number = l->submissions ? l->submissions->number + 1 : 1;
    s->next = l->submissions;
    return l->submissions = s;
}

/* One connection; *l is the letter in hand, and a new one may be taken up when it was taken. */
static err client_session(struct writer *w, struct letter **l, unsigned *left)
{
    AUTO(stream) line = NULL;
    struct talk t = { 0 };
    uint64_t code;

    TRY(stream_connect(&crowd->relay, &w->from, clock_now() + MINUTE, &line));
    t.s = line;
    TRY(hear_reply(&t, &code));
    TRY(command(&t, &code, "EHLO client"));
    for (;;) {
        struct submission *s = submission_new(*l);
        TRY(client_envelope(&t, s));
        TRY(client_body(&t, s));
        *l = NULL;
        if (!*left || clock_now() >= crowd->until || sim_chance(2))
            break;
        --*left;
        *l = letter_new(w->office);
    }
    return command(&t, &code, "QUIT");
}

static err client_run(void *arg)
{
    struct writer w = *(struct writer *)arg;
    unsigned left = crowd->letters_each;
    struct letter *l = NULL;
    when every = (crowd->until - clock_now()) / (crowd->letters_each + 1);

    mem_free(arg);
    crowd->busy++;
    while (!crowd->ending && (l || (left && clock_now() < crowd->until))) {
        if (!l) {
            if (task_sleep(clock_now() + sim_between(0, 2 * every)) != OK)
                break;
            if (clock_now() >= crowd->until)
                break;
            left--;
            l = letter_new(w.office);
        }
        if (client_session(&w, &l, &left) != OK && task_sleep(clock_now() + sim_between(SECOND, MINUTE)) != OK)
            break;
    }
    crowd->busy--;
    return OK;
}

err crowd_run(void *unused)
{
    (void)unused;
    crowd->nhops = 7;
    crowd->hops = NEW_ARRAY(crowd->a, struct hop, crowd->nhops);
    for (size_t i = 0; i < crowd->nhops; i++) {
        crowd->hops[i].addr = hop_addr(i);
        hop_learns(&crowd->hops[i]);
        TRY(group_spawn(thread_group(), "hop", hop_run, &crowd->hops[i]));
    }
    TRY(task_sleep(clock_now() + SECOND));
    for (unsigned i = 0; i < crowd->clients; i++) {
        struct writer *w = mem_new(sizeof *w);
        char text[32];
        w->number = i;
        w->office = i % 3 == 0;
        snprintf(text, sizeof text, w->office ? "10.1.0.%u:1" : "192.0.2.%u:1", i + 1);
        must(addr_parse(str_z(text), 0, &w->from) == OK);
        addr_set_port(&w->from, 0);
        TRY(group_spawn(thread_group(), "client", client_run, w));
    }
    while (!crowd->ending)
        if (task_sleep(clock_now() + SECOND) != OK)
            break;
    group_close(thread_group());
    return OK;
}
