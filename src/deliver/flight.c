/* A ticket on its way: loading its message, fitting it to the peer. */
#include "deliver/inside.h"

#define RCPT_MOST 1000  /* of one transaction, unless the peer said another number */
#define RECODE_HERE (256u << 10)        /* octets; more would keep others waiting */

static bool envelope_of(struct flight *f)
{
    const struct envelope *env = &f->mail->m->env;
    size_t n = 0, want = ticket_count(f->t);

    f->env = *env;
    f->index = NEW_ARRAY(f->a, uint32_t, want);
    if (want == env->nrcpt) {
        for (uint32_t i = 0; i < want; i++)
            f->index[i] = i;
    } else {
        f->env.rcpt = NEW_ARRAY(f->a, struct rcpt, want);
        for (uint32_t i = 0; i < env->nrcpt && n < want; i++)
            if (ticket_has(f->t, i)) {
                f->env.rcpt[n] = env->rcpt[i];
                f->index[n++] = i;
            }
        if (n != want)
            return false;
    }
    f->env.nrcpt = want;
    f->out = NEW_ARRAY(f->a, struct answer, want);
    return true;
}

static err load_mail(struct dispatch *d, struct ticket *t)
{
    if (t->mail)
        return OK;
    arena *a = arena_new();
    struct message *m;
    struct spool_ref at;
    err e;
    do { /* while we read it, it may move, and what we hold is the old place's */
        at = t->home;
        arena_reset(a);
        e = spool_read(d->setup.port, at, a, &m);
    } while (at.segment != t->home.segment || at.offset != t->home.offset);
    if (e != OK) {
        arena_free(a);
        return e;
    }
    stats_add(COUNT_reread, 1);
    t->mail = mail_new(a, m, NULL);
    return OK;
}

/* Piece 0 is what we put before the body; the others are the body's own. RFC 5321 4.4: trace fields go first. */
static err body_piece(void *ctx, size_t i, str *ret)
{
    struct flight *f = ctx;
    const struct message *m = f->mail->m;

    *ret = (str){ 0 };
    if (f->prepend.n) {
        if (i == 0) {
            *ret = f->prepend;
            return OK;
        }
        i--;
    }
    if (f->whole.p) {
        if (i == 0)
            *ret = f->whole;
        return OK;
    }
    if (f->mail->slab) {
        if (i == 0 && f->mail->slab->body.n)
            *ret = buf_str(&f->mail->slab->body);
        return OK;
    }
    while (i < m->npiece && m->piece[i].n == 0)
        i++;
    if (i >= m->npiece)
        return OK;
    if (!f->piece_arena)
        f->piece_arena = arena_new();
    arena_reset(f->piece_arena);
    return spool_read_piece(f->port, m->piece[i], f->piece_arena, ret);
}

/* The whole body in one buffer, for re-encoding. */
static err body_whole(struct flight *f, struct buf *out)
{
    for (size_t i = f->prepend.n ? 1 : 0;; i++) {
        str piece;
        TRY(body_piece(f, i, &piece));
        if (!piece.p)
            return OK;
        buf_add(out, piece);
    }
}

/* Edits other than what is put before the whole are not made by this release. */
static str prepended(const struct flight *f)
{
    const struct message *m = f->mail->m;

    if (m->nedit == 1 && m->edit[0].kind == EDIT_PREPEND)
        return m->edit[0].text;
    struct buf all = buf_in(f->a, 256);
    for (size_t i = m->nedit; i-- > 0;)
        if (m->edit[i].kind == EDIT_PREPEND)
            buf_add(&all, m->edit[i].text);
    return buf_str(&all);
}

#define HELD_FOR (7 * DAY)  /* until an operator looks; its lifetime ends meanwhile like any other's */

static void working_on(struct dispatch *d, ulid id)
{
    if (d->setup.working_on)
        d->setup.working_on(d->setup.ctx, id);
}

err flight_load(struct dispatch *d, struct ticket *t, struct flight *f)
{
    if (d->setup.set_aside && d->setup.set_aside(d->setup.ctx, t->id)) {
        log_error("held", LOG_ID("id", t->id), LOG_STR("reason", S("crashed")));
        ticket_defer(t, clock_now() + HELD_FOR, S("held: crashed (it was being worked on at two crashes)"));
        return E_PERM;
    }
    err e = load_mail(d, t);

    if (e != OK) {
        log_error("unreadable", LOG_ID("id", t->id), LOG_STR("reason", err_text()));
        ticket_defer(t, clock_now() + HOUR, S("its record in the spool cannot be read"));
        return e;
    }
    *f = (struct flight){ .t = t, .mail = t->mail, .port = d->setup.port, .works = d->works, .began = clock_now() };
    f->a = arena_new();
    f->snap = d->setup.newest(d->setup.ctx);
    f->mail->holders++;
    must(envelope_of(f));
    working_on(d, t->id);
    f->prepend = prepended(f);
    f->body = (struct body){ .size = f->mail->m->scan.size + f->prepend.n, .dots = f->mail->m->scan.dots, .piece = body_piece,
                             .ctx = f };
    return OK;
}

void flight_free(struct flight *f)
{
    if (!f->a)
        return;
    mail_drop(f->mail);
    arena_free(f->piece_arena);
    arena_free(f->a);
    snapshot_drop(f->snap);
    *f = (struct flight){ 0 };
}

static bool unfit(struct flight *f, struct enhanced e, str text)
{
    for (size_t i = 0; i < f->env.nrcpt; i++)
        f->out[i] = (struct answer){ .reply = { .code = e.class == 4 ? 451 : 554, .enhanced = e, .text = text }, .settled = true };
    return false;
}

static bool has_utf8(str s)
{
    for (size_t i = 0; i < s.n; i++)
        if ((unsigned char)s.p[i] > 127)
            return true;
    return false;
}

/* Recipients from that one on follow at once, as a transaction of their own. */
static void split_off(struct flight *f, size_t from)
{
    size_t n = f->mail->m->env.nrcpt;
    struct rcpt_set *rest = arena_alloc(f->a, sizeof *rest + (n + 63) / 64 * sizeof rest->bits[0]);

    rest->n = (uint32_t)n;
    for (size_t i = from; i < f->env.nrcpt; i++)
        rest->bits[f->index[i] / 64] |= (uint64_t)1 << f->index[i] % 64;
    ticket_return(ticket_split(f->t, rest));
    f->env.nrcpt = from;
}

/* Those who can be named in ASCII come first from now on. */
static void ascii_first(struct flight *f)
{
    struct rcpt *rcpt = NEW_ARRAY(f->a, struct rcpt, f->env.nrcpt); /* what there is may be the message's own */
    uint32_t *index = NEW_ARRAY(f->a, uint32_t, f->env.nrcpt);
    size_t n = 0;

    for (int beyond = 0; beyond < 2; beyond++)
        for (size_t i = 0; i < f->env.nrcpt; i++)
            if (has_utf8(f->env.rcpt[i].to) == beyond) {
                rcpt[n] = f->env.rcpt[i];
                index[n++] = f->index[i];
            }
    f->env.rcpt = rcpt;
    f->index = index;
}

/* Addresses beyond ASCII, or a header that came as such: without SMTPUTF8 it cannot go. Merely flagged: it can (RFC 6531 3.2). An address that an
 * alias led to needs the flag though its sender knew nothing of it. False: nobody can have it; else those who can, and the others follow, to fail. */
static bool fit_utf8(struct flight *f, bool offered)
{
    bool whole = has_utf8(f->env.sender) || (f->env.smtputf8 && f->mail->m->scan.eight_bit_header);
    size_t ascii = 0, all = f->env.nrcpt;

    for (size_t i = 0; i < all; i++)
        ascii += !has_utf8(f->env.rcpt[i].to);
    if (offered) {
        f->env.smtputf8 |= whole || ascii < all;
        return true;
    }
    f->env.smtputf8 = false;
    if (whole || !ascii)
        return false;
    if (ascii < all) {
        ascii_first(f);
        split_off(f, ascii);
    }
    return true;
}

/* The whole body as the peer can have it, and what is found in that. */
struct recoding { str body; bool eight_ok; struct buf out; struct scan found; err e; };

static void recode(void *arg)
{
    struct recoding *r = arg;

    if ((r->e = mime_reencode(r->body, r->eight_ok, &r->out)) != OK)
        return;
    scan_init(&r->found);
    scan_feed(&r->found, buf_str(&r->out));
    scan_end(&r->found);
}

bool flight_fit(struct flight *f, const struct client *c)
{
    const struct scan *scan = &f->mail->m->scan;
    uint64_t most = c->rcpt_max ? MIN(c->rcpt_max, RCPT_MOST) : RCPT_MOST;

    if (c->size_max && f->body.size > c->size_max)
        return unfit(f, ENH(5, 3, 4), S("the message is larger than the next server takes"));
    if (!fit_utf8(f, c->caps & CAP_SMTPUTF8))
        return unfit(f, ENH(5, 6, 7), S("the next server does not take addresses or headers beyond ASCII (SMTPUTF8)"));
    /* What the message really holds decides, not what its sender declared. */
    bool binary = f->env.body == BODY_BINARY && (scan->nul || scan->bare_cr || scan->bare_lf || scan->longest_line > 998);
    bool eight = scan->eight_bit_body || scan->eight_bit_header;
    if ((binary && !((c->caps & CAP_BINARYMIME) && (c->caps & CAP_CHUNKING))) || (eight && !(c->caps & CAP_8BITMIME))) {
        struct buf body = buf_in(f->a, scan->size);
        if (body_whole(f, &body) != OK)
            return unfit(f, ENH(4, 3, 0), S("its record in the spool cannot be read")); /* our disk, not their mail: it is put off */
        struct recoding r = { .body = buf_str(&body), .eight_ok = c->caps & CAP_8BITMIME, .out = buf_in(f->a, scan->size + scan->size / 3 + 1024) };
        if (scan->size > RECODE_HERE)
            work_run(f->works, recode, &r);
        else
            recode(&r);
        if (r.e != OK)
            return unfit(f, ENH(5, 6, 3), S("the next server does not take 8-bit or binary content, and this message cannot be re-encoded"));
        f->whole = buf_str(&r.out);
        f->body.size = f->whole.n + f->prepend.n;
        f->body.dots = r.found.dots;
        binary = false;
        eight = r.found.eight_bit_body || r.found.eight_bit_header;
    }
    f->env.body = binary ? BODY_BINARY : eight ? BODY_8BIT : BODY_7BIT;
    if (f->env.nrcpt > most) /* RFC 5321 4.5.3.1.10 */
        split_off(f, most);
    return true;
}
