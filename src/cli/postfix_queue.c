/* One file of Postfix' queue, read. */
#include "cli/postfix_queue.h"

#define JUMPS_MOST 100000       /* pointer records: what was edited lies at the end of the file */

struct reader {
    arena *a;
    str file;
    size_t at, read, jumps;
    struct postfix_mail *m;
    size_t cap;
    bool sender, time, extracted;
    str orcpt;                  /* of the recipient to come */
    unsigned notify;
    str redirect;
};

struct record { char type; str data; size_t at; };

/* The next record, pointers followed. Each octet of a sound file is read once: more is a loop. */
static err next_record(struct reader *r, struct record *ret)
{
    for (;;) {
        uint64_t n = 0;
        unsigned shift = 0;
        uint8_t c;

        ret->at = r->at;
        if (r->at >= r->file.n)
            return fail(E_SYNTAX, "it ends at octet %zu without an end record: torn", r->file.n);
        ret->type = r->file.p[r->at++];
        do {
            if (r->at >= r->file.n)
                return fail(E_SYNTAX, "it ends in the middle of a record at octet %zu: torn", ret->at);
            if (shift > 28)
                return fail(E_SYNTAX, "the record at octet %zu has no sound length", ret->at);
            c = (uint8_t)r->file.p[r->at++];
            n |= (uint64_t)(c & 0x7f) << shift;
            shift += 7;
        } while (c & 0x80);
        if (n > r->file.n - r->at)
            return fail(E_SYNTAX, "the record at octet %zu is longer than the file: torn", ret->at);
        ret->data = str_of(r->file.p + r->at, n);
        r->at += n;
        r->read += r->at - ret->at;
        if (r->read > 2 * r->file.n)
            return fail(E_SYNTAX, "its pointers lead round and round");
        if (ret->type != 'p')
            return OK;
        uint64_t to;
        if (!str_u64(str_trim(ret->data), r->file.n, &to) || ++r->jumps > JUMPS_MOST)
            return fail(E_SYNTAX, "the pointer at octet %zu leads nowhere", ret->at);
        if (to)                 /* 0: room for a pointer that was never needed */
            r->at = to;
    }
}

/* ---- addresses ---- */

static bool atom_text(str s)
{
    bool dot = true;

    for (size_t i = 0; i < s.n; i++) {
        unsigned char c = (unsigned char)s.p[i];
        if (c == '.' ? dot : c <= ' ' || c == 127 || (c < 128 && strchr("()<>[]:;@\\,\"", c)))
            return false;
        dot = c == '.';
    }
    return !dot;
}

/* As it stands in SMTP: a local part that is no dot-atom needs its quotes back (RFC 5321 4.1.2). */
static err address_of(struct reader *r, const struct record *rec, str *ret)
{
    str s = rec->data;
    size_t at = s.n;
    struct path p;

    while (at && s.p[at - 1] != '@')
        at--;
    if (at < 2 || at == s.n)
        return fail(E_SYNTAX, "the address at octet %zu has no domain", rec->at);
    struct buf out = buf_in(r->a, s.n + 2);
    str local = str_head(s, at - 1);
    if (atom_text(local))
        buf_add(&out, local);
    else {
        buf_addc(&out, '"');
        for (size_t i = 0; i < local.n; i++) {
            if (local.p[i] == '"' || local.p[i] == '\\')
                buf_addc(&out, '\\');
            buf_addc(&out, local.p[i]);
        }
        buf_addc(&out, '"');
    }
    buf_add(&out, str_from(s, at - 1));
    *ret = buf_str(&out);
    if (address_parse(*ret, &p) != OK)
        return fail(E_SYNTAX, "the address at octet %zu is none", rec->at);
    return OK;
}

static err take_sender(struct reader *r, const struct record *rec)
{
    if (r->sender)
        return fail(E_SYNTAX, "a second sender at octet %zu", rec->at);
    r->sender = true;
    if (rec->data.n == 0)
        return OK;
    if (str_istarts(rec->data, S("double-bounce@"))) { /* what fails of it is to end there, as with Postfix */
        r->m->double_bounce = true;
        return OK;
    }
    return address_of(r, rec, &r->m->env.sender);
}

static err take_rcpt(struct reader *r, const struct record *rec)
{
    struct envelope *env = &r->m->env;
    struct rcpt rcpt = { .orcpt = r->orcpt, .notify = (uint8_t)r->notify };

    r->orcpt = (str){ 0 };
    r->notify = 0;
    if (rec->type != 'R') {
        r->m->settled++;
        return OK;
    }
    if (rec->data.n == 0)
        return fail(E_SYNTAX, "an empty recipient at octet %zu", rec->at);
    TRY(address_of(r, rec, &rcpt.to));
    rcpt.given = rcpt.to;
    if (env->nrcpt == POSTFIX_RCPTS_MOST)
        return fail(E_LIMIT, "more than %d recipients", POSTFIX_RCPTS_MOST);
    if (env->nrcpt == r->cap) {
        struct rcpt *more = NEW_ARRAY(r->a, struct rcpt, MAX(4 * r->cap, 8));
        if (env->nrcpt)
            memcpy(more, env->rcpt, env->nrcpt * sizeof *more);
        env->rcpt = more;
        r->cap = MAX(4 * r->cap, 8);
    }
    env->rcpt[env->nrcpt++] = rcpt;
    return OK;
}

/* ---- the other records of an envelope ---- */

static bool clean(str s)
{
    for (size_t i = 0; i < s.n; i++)
        if (ascii_control(s.p[i]))
            return false;
    return true;
}

static void take_attribute(struct reader *r, str data)
{
    struct postfix_mail *m = r->m;
    const struct { str name; str *into; } texts[] = {
        { S("envelope_id"), &m->env.envid }, { S("dsn_orig_rcpt"), &r->orcpt }, { S("log_client_address"), &m->client },
        { S("log_client_name"), &m->client_name }, { S("log_helo_name"), &m->helo }, { S("sasl_username"), &m->login },
    };
    str name = data, value = { 0 };
    uint64_t n;

    size_t eq = str_findc(data, '=');
    if (eq == STR_NONE || !clean(data) || data.n > 4096)
        return;
    name = str_head(data, eq);
    value = str_from(data, eq + 1);
    for (size_t i = 0; i < COUNT(texts); i++)
        if (str_eq(name, texts[i].name))
            *texts[i].into = value;
    if (str_eq(name, S("encoding")) && str_eq(value, S("8bit")))
        m->env.body = BODY_8BIT;
    if (str_eq(name, S("ret_flags")) && str_u64(value, 2, &n))
        m->env.ret = (enum ret)n;                       /* 1 full, 2 header */
    if (str_eq(name, S("notify_flags")) && str_u64(value, 15, &n))
        r->notify = (unsigned)n;                        /* the bits of NOTIFY_NEVER and so on */
}

/* "seconds microseconds" */
static err take_time(struct reader *r, const struct record *rec)
{
    str rest = rec->data, word;
    uint64_t seconds, us = 0;

    if (!str_word(&rest, &word) || !str_u64(word, UINT32_MAX, &seconds) || (str_word(&rest, &word) && !str_u64(word, 999999, &us)))
        return fail(E_SYNTAX, "the time at octet %zu is none", rec->at);
    r->m->arrived = MIN((when)seconds * SECOND + (when)us, wall_now());
    r->time = true;
    return OK;
}

/* Sizes and flags in fixed columns; the first record of each file. */
static err take_size(struct reader *r, const struct record *rec)
{
    str rest = rec->data, word;
    uint64_t n[6] = { 0 };
    size_t count = 0;

    if (rec->type != 'C')
        return fail(E_SYNTAX, "this is no file of Postfix' queue");
    while (count < COUNT(n) && str_word(&rest, &word))
        if (!str_u64(word, INT64_MAX, &n[count++]))
            return fail(E_SYNTAX, "this is no file of Postfix' queue: its first record holds no numbers");
    if (count == 0)
        return fail(E_SYNTAX, "its first record is empty: it was never finished");
    r->m->env.smtputf8 = n[5] & 1;
    return OK;
}

/* Types that say nothing we need: names, times of warnings, milters' and the cleaner's notes, places of what was taken out. */
static bool is_needless(char type)
{
    return type && strchr("cFIWfdKmPrew", type);
}

static err take_envelope(struct reader *r, const struct record *rec)
{
    switch (rec->type) {
    case 'T': return r->time ? OK : take_time(r, rec);
    case 'S': return take_sender(r, rec);
    case 'R': case 'D': case '/': return take_rcpt(r, rec);
    case 'A': take_attribute(r, rec->data); return OK;
    case 'O': return OK;        /* what the client wrote, before aliases: ORCPT tells the sender, our log has no use for it */
    case 'L': r->m->filter = clean(rec->data) ? rec->data : S("?"); return OK;
    case 'V': r->m->verp = true; return OK;
    case '>': return address_of(r, rec, &r->redirect);
    default:
        if (is_needless(rec->type))
            return OK;
        return fail(E_SYNTAX, "a record of unknown type %d at octet %zu", rec->type, rec->at);
    }
}

/* ---- the content ---- */

static err read_content(struct reader *r)
{
    struct buf *body = &r->m->body;
    struct record rec;
    bool open = false;          /* in the middle of a line */

    for (;;) {
        TRY(next_record(r, &rec));
        if (rec.type == 'X')
            break;
        if (rec.type == 'w' || rec.type == 'm')
            continue;
        if (rec.type != 'N' && rec.type != 'L')
            return fail(E_SYNTAX, "a record of type %d at octet %zu, in the middle of the text", rec.type, rec.at);
        if (str_findc(rec.data, '\n') != STR_NONE)
            return fail(E_SYNTAX, "a line end within the line at octet %zu", rec.at);
        buf_add(body, rec.data);
        open = rec.type == 'L';
        if (!open)
            buf_add(body, S("\r\n"));
    }
    if (open)
        buf_add(body, S("\r\n"));
    return OK;
}

static err read_all(struct reader *r)
{
    struct record rec;

    TRY(next_record(r, &rec));
    TRY(take_size(r, &rec));
    for (;;) {
        TRY(next_record(r, &rec));
        if (rec.type == 'M')
            break;
        TRY(take_envelope(r, &rec));
    }
    TRY(read_content(r));
    for (;;) {
        TRY(next_record(r, &rec));
        if (rec.type == 'E')
            break;
        TRY(take_envelope(r, &rec));
    }
    if (!r->time || !r->sender)
        return fail(E_SYNTAX, r->time ? "it has no sender" : "it has no time of arrival");
    if (r->redirect.n && r->m->env.nrcpt) { /* all of it goes there, once */
        r->m->env.rcpt[0] = (struct rcpt){ .to = r->redirect, .given = r->redirect };
        r->m->env.nrcpt = 1;
    }
    return OK;
}

err postfix_mail_parse(arena *a, str file, struct postfix_mail *ret)
{
    struct reader r = { .a = a, .file = file, .m = ret };

    *ret = (struct postfix_mail){ 0 };
    err e = read_all(&r);
    if (e != OK)
        buf_free(&ret->body);
    return e;
}
