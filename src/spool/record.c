/* What is inside message and outcome records. All numbers little-endian; a text is its length (one octet, or 255 and then
 * four) and its octets. A reader takes nothing on trust: a checksum says that we wrote it, not that we wrote it well. */
#include "spool/frame.h"

#define STORED_FIXED 72u
#define PIECE_SIZE 12u
#define STATE_FIXED 28u

enum { F_REPORT = 1, F_SMTPUTF8 = 2, F_RET = 4, F_BODY = 8 };   /* the last two: where two bits each begin, at 4 and 8 */
enum { S_DOTS = 1, S_HEADER8 = 2, S_BODY8 = 4, S_NUL = 8, S_BARE_CR = 16, S_BARE_LF = 32 };

/* ---- writing ---- */

static void add32(struct buf *out, uint32_t v)
{
    buf_reserve(out, 4);
    put32((uint8_t *)out->p + out->n, v);
    out->n += 4;
}

static void add64(struct buf *out, uint64_t v)
{
    buf_reserve(out, 8);
    put64((uint8_t *)out->p + out->n, v);
    out->n += 8;
}

static void add_text(struct buf *out, str s)
{
    must(s.n <= FRAME_MAX);
    if (s.n < 255) {
        buf_addc(out, (char)s.n);
    } else {
        buf_addc(out, (char)255);
        add32(out, (uint32_t)s.n);
    }
    buf_add(out, s);
}

/* Minutes in the six bits that there are: a number with two bits of fraction and four of exponent, rounded up. */
static uint32_t excused_of(unsigned code) { return code < 4 ? code : (4u + code % 4) << (code / 4 - 1); }

static unsigned excused_code(uint32_t minutes)
{
    unsigned code = 0;

    while (excused_of(code) < minutes)
        code++;
    return code;
}

static void add_state(struct buf *out, const struct rcpt_state *s)
{
    add32(out, s->index);
    add32(out, s->version);
    add32(out, (uint32_t)(s->status & 255) | (s->unknown ? 1u << 8 : 0) | (s->warned ? 1u << 9 : 0) |
                   excused_code(s->excused) << 10 | (uint32_t)s->attempts << 16);
    add64(out, (uint64_t)s->last);
    add64(out, (uint64_t)s->next);
    add_text(out, s->reply);
    add_text(out, s->remote);
}

void stored_write(struct buf *out, const struct stored *s)
{
    const struct message *m = s->m;
    const struct origin *o = &m->origin;

    add32(out, s->was.segment);
    add32(out, s->was.offset);
    add32(out, (m->report ? F_REPORT : 0) | (m->env.smtputf8 ? F_SMTPUTF8 : 0) | (uint32_t)(m->env.ret & 3) << 4 |
                   (uint32_t)(m->env.body & 3) << 8);
    add32(out, (uint32_t)m->env.nrcpt);
    add32(out, (uint32_t)m->npiece);
    add32(out, (uint32_t)m->nedit);
    add32(out, (uint32_t)s->nstate);
    add32(out, (m->scan.dots ? S_DOTS : 0) | (m->scan.eight_bit_header ? S_HEADER8 : 0) |
                   (m->scan.eight_bit_body ? S_BODY8 : 0) | (m->scan.nul ? S_NUL : 0) |
                   (m->scan.bare_cr ? S_BARE_CR : 0) | (m->scan.bare_lf ? S_BARE_LF : 0));
    add64(out, m->scan.size);
    add64(out, m->scan.header_end);
    add32(out, m->scan.longest_line);
    add32(out, m->scan.received);
    add32(out, m->scan.fields);
    add32(out, 0);
    add64(out, (uint64_t)o->accepted);
    for (size_t i = 0; i < m->npiece; i++) {
        add32(out, m->piece[i].at.segment);
        add32(out, m->piece[i].at.offset);
        add32(out, m->piece[i].n);
    }
    add_text(out, m->env.sender);
    add_text(out, m->env.envid);
    const str origin[] = { o->listener, o->client, o->client_name, o->ehlo, o->tls, o->login, o->tenant, o->stream };
    for (size_t i = 0; i < COUNT(origin); i++)
        add_text(out, origin[i]);
    for (size_t i = 0; i < m->env.nrcpt; i++) {
        const struct rcpt *r = &m->env.rcpt[i];
        bool same = str_eq(r->to, r->given);
        buf_addc(out, (char)r->notify);
        buf_addc(out, same);
        add_text(out, r->to);
        if (!same)
            add_text(out, r->given);
        add_text(out, r->orcpt);
    }
    for (size_t i = 0; i < m->nedit; i++) {
        buf_addc(out, (char)m->edit[i].kind);
        add32(out, m->edit[i].at);
        add32(out, m->edit[i].n);
        add_text(out, m->edit[i].text);
    }
    for (size_t i = 0; i < s->nstate; i++)
        add_state(out, &s->state[i]);
}

uint32_t stored_guess(const struct stored *s)
{
    const struct message *m = s->m;
    const struct origin *o = &m->origin;
    size_t n = STORED_FIXED + PIECE_SIZE * m->npiece + 5 * 10 + m->env.sender.n + m->env.envid.n + o->listener.n +
               o->client.n + o->client_name.n + o->ehlo.n + o->tls.n + o->login.n + o->tenant.n + o->stream.n;

    for (size_t i = 0; i < m->env.nrcpt; i++)
        n += 2 + 15 + m->env.rcpt[i].to.n + m->env.rcpt[i].given.n + m->env.rcpt[i].orcpt.n;
    for (size_t i = 0; i < m->nedit; i++)
        n += 14 + m->edit[i].text.n;
    for (size_t i = 0; i < s->nstate; i++)
        n += STATE_FIXED + 10 + s->state[i].reply.n + s->state[i].remote.n;
    return n <= FRAME_MAX ? (uint32_t)n : UINT32_MAX;
}

void note_write(struct buf *out, struct spool_ref home, const struct rcpt_state *state, size_t n)
{
    add32(out, home.segment);
    add32(out, home.offset);
    add32(out, (uint32_t)n);
    add32(out, 0);
    for (size_t i = 0; i < n; i++)
        add_state(out, &state[i]);
}

/* ---- reading ---- */

/* What is left to read; once something was missing, everything reads as zero and `bad` stays set. */
struct cut { const uint8_t *p; size_t n; bool bad; };

static const uint8_t *cut(struct cut *c, size_t n)
{
    static const uint8_t zero[8];

    if (c->bad || n > c->n) {
        c->bad = true;
        return n <= sizeof zero ? zero : NULL;
    }
    const uint8_t *p = c->p;
    c->p += n;
    c->n -= n;
    return p;
}

static uint8_t cut8(struct cut *c) { return *cut(c, 1); }
static uint32_t cut32(struct cut *c) { return le32(cut(c, 4)); }
static uint64_t cut64(struct cut *c) { return le64(cut(c, 8)); }

static str cut_text(struct cut *c)
{
    size_t n = cut8(c);
    if (n == 255)
        n = cut32(c);
    const uint8_t *p = cut(c, n);
    return c->bad ? (str){ NULL, 0 } : str_of((const char *)p, n);
}

static void cut_state(struct cut *c, struct rcpt_state *s)
{
    *s = (struct rcpt_state){ .index = cut32(c), .version = cut32(c) };
    uint32_t bits = cut32(c);
    s->status = (enum rcpt_status)(bits & 255);
    s->unknown = bits >> 8 & 1;
    s->warned = bits >> 9 & 1;
    s->excused = (uint16_t)MIN(excused_of(bits >> 10 & 63), (uint32_t)UINT16_MAX);
    s->attempts = (uint16_t)(bits >> 16);
    s->last = (when)cut64(c);
    s->next = (when)cut64(c);
    s->reply = cut_text(c);
    s->remote = cut_text(c);
    if (s->status > RCPT_DELETED)
        c->bad = true;
}

/* Are there `n` things of at least `each` octets? Before an array of them is made. */
static bool plausible(struct cut *c, size_t n, size_t each)
{
    if (n > c->n / each)
        c->bad = true;
    return !c->bad;
}

err stored_was(const struct frame *f, struct spool_ref *was, uint32_t *npiece)
{
    if (f->type != FRAME_MESSAGE || f->n < STORED_FIXED || le32(f->body + 16) > (f->n - STORED_FIXED) / PIECE_SIZE)
        return fail(E_DAMAGED, "message record at %u:%u makes no sense", f->segment, f->offset);
    *was = (struct spool_ref){ le32(f->body), le32(f->body + 4) };
    *npiece = le32(f->body + 16);
    return OK;
}

struct stored_piece stored_piece(const struct frame *f, uint32_t i)
{
    const uint8_t *p = f->body + STORED_FIXED + PIECE_SIZE * (size_t)i;
    struct stored_piece piece = { { le32(p), le32(p + 4) }, le32(p + 8) };

    if (piece.at.segment == 0) /* written together: so many octets before us */
        piece.at = (struct spool_ref){ f->segment, f->offset - piece.at.offset };
    return piece;
}

static void read_envelope(struct cut *c, arena *a, struct message *m)
{
    m->env.sender = cut_text(c);
    m->env.envid = cut_text(c);
    str *const origin[] = { &m->origin.listener, &m->origin.client, &m->origin.client_name, &m->origin.ehlo,
                            &m->origin.tls, &m->origin.login, &m->origin.tenant, &m->origin.stream };
    for (size_t i = 0; i < COUNT(origin); i++)
        *origin[i] = cut_text(c);
    if (!plausible(c, m->env.nrcpt, 4) || !plausible(c, m->nedit, 10))
        return;
    m->env.rcpt = NEW_ARRAY(a, struct rcpt, m->env.nrcpt);
    for (size_t i = 0; i < m->env.nrcpt; i++) {
        struct rcpt *r = &m->env.rcpt[i];
        r->notify = cut8(c);
        bool same = cut8(c) & 1;
        r->to = cut_text(c);
        r->given = same ? r->to : cut_text(c);
        r->orcpt = cut_text(c);
    }
    m->edit = m->nedit ? NEW_ARRAY(a, struct edit, m->nedit) : NULL;
    for (size_t i = 0; i < m->nedit; i++) {
        uint8_t kind = cut8(c);
        m->edit[i].kind = kind == EDIT_DELETE_FIELD ? EDIT_DELETE_FIELD : kind == EDIT_REPLACE ? EDIT_REPLACE : EDIT_PREPEND;
        m->edit[i].at = cut32(c);
        m->edit[i].n = cut32(c);
        m->edit[i].text = cut_text(c);
        if (kind > EDIT_REPLACE)
            c->bad = true;
    }
}

err stored_read(const struct frame *f, arena *a, struct stored_read *ret)
{
    uint32_t npiece;
    struct cut c = { f->body, f->n, false };
    struct message *m = NEW(a, struct message);

    TRY(stored_was(f, &ret->was, &npiece));
    cut(&c, 8);
    m->id = f->id;
    m->at = (struct spool_ref){ f->segment, f->offset };
    uint32_t flags = cut32(&c);
    m->report = flags & F_REPORT;
    m->env.smtputf8 = flags & F_SMTPUTF8;
    m->env.ret = (enum ret)MIN(flags >> 4 & 3, RET_HDRS);
    m->env.body = (enum body_kind)MIN(flags >> 8 & 3, BODY_BINARY);
    m->env.nrcpt = cut32(&c);
    m->npiece = cut32(&c);
    m->nedit = cut32(&c);
    ret->nstate = cut32(&c);
    uint32_t bits = cut32(&c);
    m->scan = (struct scan){
        .dots = bits & S_DOTS, .eight_bit_header = bits & S_HEADER8, .eight_bit_body = bits & S_BODY8,
        .nul = bits & S_NUL, .bare_cr = bits & S_BARE_CR, .bare_lf = bits & S_BARE_LF,
    };
    m->scan.size = cut64(&c);
    m->scan.header_end = cut64(&c);
    m->scan.longest_line = cut32(&c);
    m->scan.received = cut32(&c);
    m->scan.fields = cut32(&c);
    cut32(&c);
    m->origin.accepted = (when)cut64(&c);
    if (plausible(&c, npiece, PIECE_SIZE)) {
        m->piece = npiece ? NEW_ARRAY(a, struct spool_piece, npiece) : NULL;
        for (uint32_t i = 0; i < npiece; i++) {
            struct stored_piece piece = stored_piece(f, i);
            m->piece[i] = (struct spool_piece){ piece.at, piece.n };
        }
        cut(&c, PIECE_SIZE * (size_t)npiece);
    }
    read_envelope(&c, a, m);
    if (plausible(&c, ret->nstate, STATE_FIXED)) {
        ret->state = ret->nstate ? NEW_ARRAY(a, struct rcpt_state, ret->nstate) : NULL;
        for (size_t i = 0; i < ret->nstate; i++) {
            cut_state(&c, &ret->state[i]);
            if (ret->state[i].index >= m->env.nrcpt)
                c.bad = true;
        }
    }
    if (c.bad)
        return fail(E_DAMAGED, "message record at %u:%u makes no sense", f->segment, f->offset);
    ret->m = m;
    return OK;
}

err note_home(const struct frame *f, struct spool_ref *ret, uint32_t *n)
{
    if (f->n < NOTE_BODY)
        return fail(E_DAMAGED, "note at %u:%u makes no sense", f->segment, f->offset);
    *ret = (struct spool_ref){ le32(f->body), le32(f->body + 4) };
    *n = le32(f->body + 8);
    return OK;
}

err note_merge(const struct frame *f, struct rcpt_state *state, size_t nrcpt)
{
    struct cut c = { f->body, f->n, false };

    cut(&c, 8);
    uint32_t n = cut32(&c);
    cut32(&c);
    for (uint32_t i = 0; i < n && !c.bad; i++) {
        struct rcpt_state s;
        cut_state(&c, &s);
        if (!c.bad && s.index < nrcpt && s.version >= state[s.index].version)
            state[s.index] = s;
    }
    return c.bad ? fail(E_DAMAGED, "note at %u:%u makes no sense", f->segment, f->offset) : OK;
}
