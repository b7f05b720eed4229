/* The sending end: one dialogue, in the order of the wire. Commands gather in the stream and leave with the first wait
 * for a reply; replies are counted, so that each meets the command it answers however they arrive. */
#include "smtp/inside.h"

#define REPLY_LINES_MAX 100
#define REPLY_MAX (64 * 1024)
#define REPLY_TEXT_MAX 4096
#define GROUP_MAX (32 * 1024)   /* of commands before their replies are heard: more might not fit both ends' buffers */
#define STUFF_AT_ONCE (32 * 1024)

/* RFC 5321 4.5.3.2 */
#define GREETING_WAIT (5 * MINUTE)
#define COMMAND_WAIT (5 * MINUTE)
#define DATA_WAIT (2 * MINUTE)
#define BLOCK_WAIT (3 * MINUTE)
#define DOT_WAIT (10 * MINUTE)

/* ---- failure ---- */

/* The dialogue ends here: whoever asks later hears the same. */
static err breaks(struct client *c, err e)
{
    if (c->broken == OK) {
        c->broken = e;
        c->why = str_dup(c->keep, err_text());
    }
    return e;
}

static err broken(struct client *c) { return fail(c->broken, "%.*s", STR(c->why)); }

static err out_of_place(struct client *c, const char *what)
{
    AUTO_ARENA a = arena_new();
    return breaks(c, fail(E_SYNTAX, "the answer to %s is out of place: %.*s", what, STR(reply_print(a, &c->last))));
}

static err refused(struct client *c, const char *what)
{
    AUTO_ARENA a = arena_new();
    return breaks(c, fail(E_REFUSED, "%s was answered with %.*s", what, STR(reply_print(a, &c->last))));
}

/* ---- replies ---- */

static err line_hear(struct client *c, when length, when *deadline, str *ret)
{
    for (size_t seen = 0;;) {
        str pending = stream_pending(c->s);
        size_t end = str_findc(str_from(pending, seen), '\n');
        if (end != STR_NONE) {
            *ret = str_head(pending, seen + end);
            stream_consume(c->s, ret->n + 1);
            if (str_ends(*ret, S("\r")))
                ret->n--;
            return OK;
        }
        if (pending.n > REPLY_MAX)
            return fail(E_SYNTAX, "a line of a reply without end");
        seen = pending.n;
        if (!*deadline)
            *deadline = clock_now() + length;
        TRY(stream_fill(c->s, 1, *deadline));
    }
}

/* One whole reply off the line, within `length`. Its text lies in c->text. */
static err reply_hear(struct client *c, when length, struct reply *ret)
{
    struct reply r = { 0 };
    when deadline = 0;
    size_t lines = 0, octets = 0;

    buf_clear(&c->text);
    for (bool more = true; more;) {
        str line;
        TRY(line_hear(c, length, &deadline, &line));
        octets += line.n;
        if (++lines > REPLY_LINES_MAX || octets > REPLY_MAX) /* attack class 53 */
            return fail(E_SYNTAX, "a reply without end");
        TRY(reply_parse_line(line, &r, &more));
        if (lines > 1)
            buf_addc(&c->text, '\n');
        buf_add(&c->text, str_head(r.text, REPLY_TEXT_MAX - MIN(c->text.n, REPLY_TEXT_MAX)));
    }
    r.text = str_head(buf_str(&c->text), REPLY_TEXT_MAX);
    c->owed -= c->owed > 0;
    *ret = r;
    return OK;
}

static err gone(struct client *c)
{
    return breaks(c, fail(E_CLOSED, "the peer leaves: 421 %.*s", STR(str_head(c->last.text, 200))));
}

/* The next reply in order, which may have been heard ahead. A 421 ends the dialogue whatever it was to answer. */
static err reply_next(struct client *c, when length, struct reply *ret)
{
    if (c->ahead.at < c->ahead.n) {
        *ret = c->ahead.p[c->ahead.at++];
    } else {
        if (c->broken != OK)
            return broken(c);
        err e = reply_hear(c, length, ret);
        if (e != OK)
            return breaks(c, e);
    }
    c->last = *ret;
    return ret->code == 421 ? gone(c) : OK;
}

/* Hear all that is owed, and keep it for reply_next(). */
static void hear_ahead(struct client *c)
{
    while (c->owed && c->broken == OK) {
        if (c->ahead.n == c->ahead.cap) {
            c->ahead.cap = MAX(c->ahead.cap * 2, 16);
            c->ahead.p = mem_grow(c->ahead.p, c->ahead.cap * sizeof *c->ahead.p);
        }
        struct reply *r = &c->ahead.p[c->ahead.n];
        err e = reply_hear(c, c->dots ? DOT_WAIT : COMMAND_WAIT, r);
        if (e != OK) {
            breaks(c, e);
            return;
        }
        if (!c->ahead.text)
            c->ahead.text = arena_new();
        r->text = str_dup(c->ahead.text, r->text);
        c->ahead.n++;
        if (r->code == 421) {
            c->last = *r;
            gone(c);
        }
    }
}

static void forget_ahead(struct client *c)
{
    if (c->ahead.at < c->ahead.n || !c->ahead.n)
        return;
    c->ahead.at = c->ahead.n = 0;
    arena_reset(c->ahead.text);
}

/* ---- opening and closing ---- */

static void limits_parse(struct client *c, str words)
{
    str word, name;

    c->caps |= CAP_LIMITS;
    while (str_word(&words, &word)) {
        uint64_t value;
        if (!str_cut(&word, S("="), &name) || !str_u64(word, UINT64_MAX, &value))
            continue;
        if (str_ieq(name, S("MAILMAX")))
            c->mail_max = value;
        else if (str_ieq(name, S("RCPTMAX")))
            c->rcpt_max = value;
        else if (str_ieq(name, S("RCPTDOMAINMAX")))
            c->rcptdomain_max = value;
    }
}

static void offer_parse(struct client *c, str line)
{
    static const struct { str word; unsigned cap; } words[] = {
        { S("PIPELINING"), CAP_PIPELINING }, { S("8BITMIME"), CAP_8BITMIME }, { S("SMTPUTF8"), CAP_SMTPUTF8 },
        { S("CHUNKING"), CAP_CHUNKING }, { S("BINARYMIME"), CAP_BINARYMIME }, { S("DSN"), CAP_DSN },
        { S("ENHANCEDSTATUSCODES"), CAP_ENHANCED }, { S("STARTTLS"), CAP_STARTTLS }, { S("AUTH"), CAP_AUTH },
    };
    str word, value;

    if (!str_word(&line, &word))
        return;
    for (size_t i = 0; i < COUNT(words); i++)
        if (str_ieq(word, words[i].word))
            c->caps |= words[i].cap;
    if (str_ieq(word, S("SIZE"))) {
        c->caps |= CAP_SIZE;
        if (str_word(&line, &value))
            str_u64(value, UINT64_MAX, &c->size_max);
    } else if (str_ieq(word, S("LIMITS"))) {
        limits_parse(c, line); /* RFC 9422 */
    }
}

err client_command(struct client *c, str command, when length, struct reply *ret)
{
    for (; c->skip; c->skip--)
        TRY(reply_next(c, DOT_WAIT, ret));
    must(c->owed == 0 || c->broken != OK);
    stream_say(c->s, command);
    stream_say(c->s, S("\r\n"));
    c->owed = 1;
    return reply_next(c, length, ret);
}

err client_hello(struct client *c, str ehlo_name)
{
    AUTO_ARENA a = arena_new();
    struct reply r;
    str rest, line;

    c->caps = 0;
    c->size_max = c->mail_max = c->rcpt_max = c->rcptdomain_max = 0;
    c->open = false;
    TRY(client_command(c, str_printf(a, "%s %.*s", c->lmtp ? "LHLO" : "EHLO", STR(ehlo_name)), COMMAND_WAIT, &r));
    if (reply_never(r) && !c->lmtp) {
        TRY(client_command(c, str_printf(a, "HELO %.*s", STR(ehlo_name)), COMMAND_WAIT, &r));
        return reply_ok(r) ? OK : refused(c, "HELO");
    }
    if (!reply_ok(r))
        return refused(c, c->lmtp ? "LHLO" : "EHLO");
    c->caps = CAP_EHLO;
    rest = r.text;
    str_cut(&rest, S("\n"), &line); /* the first is for people */
    while (str_cut(&rest, S("\n"), &line))
        offer_parse(c, line);
    return OK;
}

static err greeting_hear(struct client *c)
{
    struct reply r;
    str rest, name;

    c->owed = 1;
    TRY(reply_next(c, GREETING_WAIT, &r));
    if (r.code != 220)
        return refused(c, "the connection");
    rest = str_head(r.text, str_findc(r.text, '\n'));
    if (str_word(&rest, &name))
        c->greeting_name = str_dup(c->keep, name);
    return OK;
}

static err open_as(struct stream *s, bool lmtp, str ehlo_name, struct client **ret)
{
    struct client *c = mem_new(sizeof *c);

    *ret = c;
    c->s = s;
    c->lmtp = lmtp;
    c->keep = arena_new();
    s->write_wait = BLOCK_WAIT;
    err e = greeting_hear(c);
    if (e == OK)
        e = client_hello(c, ehlo_name);
    return e == E_CLOSED && c->last.code == 421 ? refused(c, "the connection") : e;
}

err client_open(struct stream *s, str ehlo_name, struct client **ret) { return open_as(s, false, ehlo_name, ret); }
err client_open_lmtp(struct stream *s, str ehlo_name, struct client **ret) { return open_as(s, true, ehlo_name, ret); }

void client_free(struct client *c)
{
    if (!c)
        return;
    stream_free(c->s);
    buf_free(&c->text);
    buf_free(&c->line);
    arena_free(c->ahead.text);
    mem_free(c->ahead.p);
    arena_free(c->keep);
    mem_free(c);
}

void client_last(struct client *c)
{
    if (c->broken != OK || !(c->caps & CAP_PIPELINING))
        return;
    stream_say(c->s, S("QUIT\r\n"));
    c->owed++;
    c->quit_said = true;
}

void client_quit(struct client *c)
{
    struct reply r;

    if (!c || c->broken != OK)
        return client_free(c);
    if (!c->quit_said) {
        stream_say(c->s, S("QUIT\r\n"));
        c->owed++;
    }
    for (when end = clock_now() + SECOND; c->owed;)
        if (reply_hear(c, end - clock_now(), &r) != OK)
            break;
    client_free(c);
}

err client_reset(struct client *c)
{
    struct reply r;

    TRY(client_command(c, S("RSET"), COMMAND_WAIT, &r));
    c->open = false;
    return reply_ok(r) ? OK : refused(c, "RSET");
}

/* ---- the envelope ---- */

/* What would be another command is never said (attack class 23). */
static void address_add(struct client *c, str address)
{
    for (size_t i = 0; i < address.n; i++)
        if (ascii_control(address.p[i]) && c->broken == OK)
            breaks(c, fail(E_SYNTAX, "an address holds a control character"));
    buf_addc(&c->line, '<');
    buf_add(&c->line, address);
    buf_addc(&c->line, '>');
}

static void mail_add(struct client *c, const struct envelope *env, uint64_t size)
{
    AUTO_ARENA a = NULL;
    struct buf *b = &c->line;

    buf_add(b, S("MAIL FROM:"));
    address_add(c, env->sender);
    if (size && (c->caps & CAP_SIZE)) {
        buf_add(b, S(" SIZE="));
        number_add(b, size);
    }
    if (c->bdat)
        buf_add(b, S(" BODY=BINARYMIME"));
    else if (env->body == BODY_8BIT && (c->caps & CAP_8BITMIME))
        buf_add(b, S(" BODY=8BITMIME"));
    if (env->smtputf8 && (c->caps & CAP_SMTPUTF8))
        buf_add(b, S(" SMTPUTF8"));
    if (env->ret != RET_NONE && (c->caps & CAP_DSN))
        buf_add(b, env->ret == RET_FULL ? S(" RET=FULL") : S(" RET=HDRS"));
    if (env->envid.n && (c->caps & CAP_DSN)) {
        a = arena_new();
        buf_add(b, S(" ENVID="));
        buf_add(b, xtext_encode(a, env->envid));
    }
    buf_add(b, S("\r\n"));
}

static void notify_add(struct buf *b, uint8_t notify)
{
    static const struct { uint8_t bit; str word; } words[] = {
        { NOTIFY_NEVER, S("NEVER") }, { NOTIFY_SUCCESS, S("SUCCESS") },
        { NOTIFY_FAILURE, S("FAILURE") }, { NOTIFY_DELAY, S("DELAY") },
    };
    char joint = '=';

    buf_add(b, S(" NOTIFY"));
    for (size_t i = 0; i < COUNT(words); i++) {
        if (!(notify & words[i].bit))
            continue;
        buf_addc(b, joint);
        buf_add(b, words[i].word);
        joint = ',';
    }
}

/* RFC 3461 4.2. An address of type utf-8 goes as ASCII, which a hop with or without SMTPUTF8 takes (RFC 6533 3). */
static void orcpt_add(struct buf *b, str orcpt)
{
    AUTO_ARENA a = arena_new();
    str type;

    if (!str_cut(&orcpt, S(";"), &type) || !orcpt.n)
        return;
    buf_add(b, S(" ORCPT="));
    buf_add(b, xtext_encode(a, type));
    buf_addc(b, ';');
    buf_add(b, str_ieq(type, S("utf-8")) ? address_ascii(a, orcpt) : xtext_encode(a, orcpt));
}

static void rcpt_add(struct client *c, const struct rcpt *rcpt)
{
    struct buf *b = &c->line;

    buf_add(b, S("RCPT TO:"));
    address_add(c, rcpt->to);
    if (c->caps & CAP_DSN) {
        if (rcpt->notify)
            notify_add(b, rcpt->notify);
        if (rcpt->orcpt.n)
            orcpt_add(b, rcpt->orcpt);
    }
    buf_add(b, S("\r\n"));
}

/* Say the commands gathered in c->line. */
static void group_say(struct client *c)
{
    if (c->broken == OK)
        stream_say(c->s, buf_str(&c->line));
    buf_clear(&c->line);
}

/* Say them and hear all replies; was the last one positive? */
static bool group_settle(struct client *c)
{
    group_say(c);
    hear_ahead(c);
    return c->broken == OK && c->ahead.n && reply_ok(c->ahead.p[c->ahead.n - 1]);
}

/* What the peer said without being asked can only be its farewell. */
static void unasked_check(struct client *c)
{
    if (c->owed || c->ahead.at < c->ahead.n || !stream_pending(c->s).n || c->broken != OK)
        return;
    struct reply r;
    err e = reply_hear(c, 0, &r);
    if (e == OK) {
        c->last = r;
        e = r.code == 421 ? gone(c) : out_of_place(c, "nothing");
    }
    breaks(c, e);
}

void client_offer(struct client *c, const struct envelope *env, uint64_t size)
{
    bool pipelining = c->caps & CAP_PIPELINING, any = false;

    must(pipelining || !c->dots);
    unasked_check(c);
    forget_ahead(c);
    c->mails++;
    c->rcpts_said = 0;
    c->data_said = false;
    c->bdat = env->body == BODY_BINARY && (c->caps & CAP_CHUNKING) && (c->caps & CAP_BINARYMIME);
    buf_clear(&c->line);
    if (c->open) {
        buf_add(&c->line, S("RSET\r\n"));
        c->owed++;
        c->skip++;
        if (!pipelining)
            group_settle(c);
    }
    c->open = true; /* as far as anybody knows until MAIL is answered */
    mail_add(c, env, size);
    c->owed++;
    if (!pipelining && !group_settle(c))
        return;
    for (size_t i = 0; i < env->nrcpt && c->broken == OK; i++) {
        rcpt_add(c, &env->rcpt[i]);
        c->owed++;
        c->rcpts_said++;
        if (!pipelining)
            any |= group_settle(c);
        else if (c->line.n > GROUP_MAX)
            group_settle(c);
    }
    if (!c->bdat && (pipelining || any)) {
        buf_add(&c->line, S("DATA\r\n"));
        c->owed++;
        c->data_said = true;
    }
    group_say(c);
}

/* ---- the answers ---- */

/* A reply to MAIL, RCPT or the dot: yes, later or never. Anything else, and we no longer know what answers what. */
static err answer_next(struct client *c, arena *a, const char *what, when length, struct reply *ret)
{
    TRY(reply_next(c, length, ret));
    if (!reply_ok(*ret) && !reply_later(*ret) && !reply_never(*ret))
        return out_of_place(c, what);
    ret->text = str_dup(a, ret->text);
    return OK;
}

static void settle(struct answer *o, struct reply r, enum answer_stage stage)
{
    o->reply = r;
    o->stage = stage;
    o->settled = true;
}

/* Recipients whose RCPT was accepted get a later word: the answer to DATA or to the dot. */
static void settle_accepted(struct answer *out, size_t n, struct reply r, enum answer_stage stage)
{
    for (size_t i = 0; i < n; i++)
        if (!out[i].settled && reply_ok(out[i].reply))
            settle(&out[i], r, stage);
}

static err go_hear(struct client *c, const struct envelope *env, arena *a, struct answer *out, bool *any)
{
    struct reply go;

    TRY(reply_next(c, DATA_WAIT, &go));
    go.text = str_dup(a, go.text);
    if (go.code == 354 && *any)
        return OK;
    if (go.code == 354 && c->lmtp) /* RFC 2033 4.2 forbids it; whether its dot will be answered, and how often, nobody can say */
        return out_of_place(c, "DATA for nobody");
    if (go.code == 354) { /* for nobody: a lone dot ends it, RFC 2920 3.1; the answer concerns nobody */
        stream_say(c->s, S(".\r\n"));
        c->owed++;
        c->skip++;
        c->open = false;
        return OK;
    }
    if (!reply_later(go) && !reply_never(go))
        return out_of_place(c, "DATA");
    *any = false;
    settle_accepted(out, env->nrcpt, go, STAGE_DATA);
    return OK;
}

err client_answers(struct client *c, const struct envelope *env, arena *a, struct answer *out, bool *any)
{
    struct reply mail, r;
    bool some = false;

    *any = false;
    for (; c->skip; c->skip--)
        TRY(reply_next(c, DOT_WAIT, &r));
    TRY(answer_next(c, a, "MAIL", COMMAND_WAIT, &mail));
    c->open = reply_ok(mail);
    for (size_t i = 0; i < env->nrcpt && !c->open; i++)
        settle(&out[i], mail, STAGE_MAIL);
    for (size_t i = 0; i < env->nrcpt; i++) {
        if (i >= c->rcpts_said && !c->open)
            break; /* they were not even said */
        TRY(answer_next(c, a, "RCPT", COMMAND_WAIT, &r));
        if (!c->open)
            continue;
        out[i] = (struct answer){ .reply = r, .stage = STAGE_RCPT, .settled = !reply_ok(r) };
        some |= reply_ok(r);
    }
    if (c->data_said)
        TRY(go_hear(c, env, a, out, &some));
    for (size_t i = 0; i < env->nrcpt && some; i++)
        out[i].offered = !out[i].settled;
    *any = some;
    return OK;
}

/* ---- the body ---- */

/* How many octets are out when all that was said is. */
static uint64_t octets_said(const struct client *c)
{
    return c->s->bytes_out + (c->s->out.n - c->s->out_at);
}

/* Nothing of the message will count: without its end the peer must drop it (RFC 5321 4.1.1.4). */
static err give_up(struct client *c, const struct envelope *env, struct answer *out, err e)
{
    for (size_t i = 0; i < env->nrcpt; i++)
        out[i].offered = false;
    return breaks(c, e);
}

static void stuffed_say(struct client *c, str piece, uint8_t *state, bool *ended)
{
    for (; piece.n; piece = str_from(piece, STUFF_AT_ONCE)) {
        buf_clear(&c->line);
        data_stuff(&c->line, str_head(piece, STUFF_AT_ONCE), state);
        if (c->line.n)
            *ended = str_ends(buf_str(&c->line), S("\n"));
        stream_write(c->s, buf_str(&c->line));
    }
    buf_clear(&c->line);
}

/* The end of the message is said: one answer, or by LMTP one for each who has it (RFC 2033 4.2). */
static void end_owed(struct client *c, size_t heirs)
{
    c->heirs = heirs;
    c->dots += MAX(heirs, 1);
    c->owed += MAX(heirs, 1);
}

static err body_by_data(struct client *c, const struct body *body, size_t heirs)
{
    bool ended = true; /* what went out last ends in CRLF, or nothing went out */
    uint8_t state = 0;
    str piece;

    for (size_t i = 0;; i++) {
        TRY(during(body->piece(body->ctx, i, &piece), "reading the message"));
        if (!piece.p)
            break;
        if (body->dots)
            stuffed_say(c, piece, &state, &ended);
        else {
            stream_write(c->s, piece);
            ended = piece.n ? str_ends(piece, S("\n")) : ended;
        }
        if (c->s->broken != OK)
            return stream_fill(c->s, 1, 0); /* tells how */
    }
    str end = ended ? S(".\r\n") : S("\r\n.\r\n");
    end_owed(c, heirs);
    c->open = false;
    c->dot_at = octets_said(c) + end.n;
    stream_say(c->s, end);
    return OK;
}

/* RFC 3030 2: every piece is a chunk, and every chunk is answered. By LMTP we keep step: how often a last chunk behind a refused one
 * would be answered no RFC says, so it is not sent. */
static err body_by_bdat(struct client *c, const struct body *body, size_t heirs)
{
    uint64_t left = body->size;
    str piece;

    c->heirs = 0;
    c->open = true; /* RFC 3030 does not say whether a refused chunk leaves a transaction: the next begins with RSET */
    for (size_t i = 0; i == 0 || left; i++) {
        TRY(during(body->piece(body->ctx, i, &piece), "reading the message"));
        if (piece.n > left || (!piece.p && left))
            return fail(E_IO, "the message is not as long as it was said to be");
        left -= piece.n;
        buf_clear(&c->line);
        buf_add(&c->line, S("BDAT "));
        number_add(&c->line, piece.n);
        buf_add(&c->line, left ? S("\r\n") : S(" LAST\r\n"));
        group_say(c);
        end_owed(c, left ? 0 : heirs);
        c->dot_at = octets_said(c) + piece.n;
        stream_write(c->s, piece);
        if (left && (c->lmtp || !(c->caps & CAP_PIPELINING)))
            hear_ahead(c);
        if (c->s->broken != OK || c->broken != OK)
            return c->broken != OK ? broken(c) : stream_fill(c->s, 1, 0);
        if (left && c->lmtp && !reply_ok(c->ahead.p[c->ahead.n - 1])) {
            c->dot_at = UINT64_MAX; /* the end is not out, and will not be */
            return OK;
        }
    }
    return OK;
}

err client_body(struct client *c, const struct envelope *env, const struct body *body, struct answer *out)
{
    if (c->broken != OK)
        return broken(c);
    size_t heirs = 0;
    for (size_t i = 0; c->lmtp && i < env->nrcpt; i++)
        heirs += out[i].offered;
    err e = c->bdat ? body_by_bdat(c, body, heirs) : body_by_data(c, body, heirs);
    return e == OK ? OK : give_up(c, env, out, e);
}

/* From the moment that the end of the message is out, its fate is unknown until it is told. */
static err maybe(struct client *c, err e)
{
    if (c->s->bytes_out < c->dot_at)
        return e;
    return fail(E_MAYBE, "the message is out, but its answer did not come: %.*s", STR(c->why));
}

/* LMTP: the answers for those who accepted, in their order. Where they end early, the others may have it; a 421 is the answer of the one it
 * comes for, and nobody else's. */
static err heirs_settle(struct client *c, const struct envelope *env, arena *a, struct answer *out)
{
    struct reply r;

    for (size_t i = 0; i < env->nrcpt && c->dots; i++) {
        if (!out[i].offered || out[i].settled)
            continue;
        r.code = 0;
        err e = answer_next(c, a, "the message", DOT_WAIT, &r);
        if (e != OK && r.code != 421)
            return maybe(c, e);
        if (e != OK)
            r.text = str_dup(a, r.text);
        settle(&out[i], r, STAGE_DOT);
        c->dots--;
        if (e != OK)
            return c->dots ? maybe(c, e) : e;
    }
    return OK;
}

err client_settle(struct client *c, const struct envelope *env, arena *a, struct answer *out)
{
    struct reply r, verdict = { 0 };
    err e = OK;

    must(c->dots || c->broken != OK);
    if (!c->dots)
        return broken(c);
    for (; c->dots > c->heirs && e == OK; c->dots--) {
        r.code = 0;
        e = answer_next(c, a, "the message", DOT_WAIT, &r);
        if (e != OK && r.code != 421)
            return maybe(c, e);
        if (e != OK)
            r.text = str_dup(a, r.text);
        if (!verdict.code || reply_ok(verdict)) /* of several chunks the first refusal counts */
            verdict = r;
    }
    if (c->heirs) /* then no chunk was refused: body_by_bdat() */
        return e != OK ? maybe(c, e) : heirs_settle(c, env, a, out);
    settle_accepted(out, env->nrcpt, verdict, STAGE_DOT);
    return e;
}
