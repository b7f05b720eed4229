/* Re-encoding of a MIME message, part by part, for a hop that takes less than the message needs. One walk from the
 * first octet to the last with a stack of open multiparts, never recursive (attack class 32). What is ambiguous is not
 * repaired: the message is refused. */
#include "mail/mail.h"

#define DEPTH_MAX 100
#define PARTS_MAX 10000
#define LINE_LIMIT 998  /* RFC 5322 2.1.1 */

enum kind { LEAF, MULTIPART, MESSAGE };
enum encoding { PLAIN, ENCODED, STRANGE };  /* 7bit, 8bit, binary; base64, quoted-printable; anything else */

/* What the header of a part says. */
struct part {
    str header;                 /* fields only, without the empty line */
    bool blank;                 /* the empty line was there */
    enum kind kind;
    enum encoding encoding;
    bool eight_bit_label;       /* Content-Transfer-Encoding: 8bit or binary */
    bool encoding_said, mime_version;
    bool text, digest, sealed;
    bool clear;                 /* understood; else it must pass as it is */
    str boundary;
};

/* A multipart, or a message within a message, that we are inside of. */
struct level {
    str boundary;               /* p NULL: a message has none */
    bool sealed;                /* multipart/signed, or inside one: not an octet may change */
    bool digest;
    bool begun;                 /* its first part was seen */
};

struct walk {
    arena *a;
    struct buf *out;
    str rest;                   /* still to go, at the start of a line */
    bool eight_bit_ok;
    struct level level[DEPTH_MAX];
    size_t depth, parts;
    bool ambiguous;             /* a line was seen that some readers take for a delimiter, and others do not */
};

/* ---- what a header says ---- */

/* Step over blanks and comments, RFC 5322 3.2.2; false when a comment stays open. */
static bool cfws_skip(str *s)
{
    size_t open = 0, i;

    for (i = 0; i < s->n; i++) {
        char c = s->p[i];
        if (c == '(')
            open++;
        else if (c == ')' && open)
            open--;
        else if (c == '\\' && open)
            i++;
        else if (!open && c != ' ' && c != '\t')
            break;
    }
    *s = str_from(*s, i);
    return open == 0;
}

/* RFC 2045 5.1: token; empty when there is none. */
static str token_cut(str *s)
{
    size_t n = 0;
    while (n < s->n && s->p[n] > 32 && s->p[n] < 127 && !memchr("()<>@,;:\\\"/[]?=", s->p[n], 15))
        n++;
    str token = str_head(*s, n);
    *s = str_from(*s, n);
    return token;
}

/* token / quoted-string; false when it is neither. */
static bool value_cut(arena *a, str *s, str *ret)
{
    if (!str_starts(*s, S("\""))) {
        *ret = token_cut(s);
        return ret->n > 0;
    }
    struct buf out = buf_in(a, s->n);
    for (size_t i = 1; i < s->n; i++) {
        if (s->p[i] == '"') {
            *s = str_from(*s, i + 1);
            *ret = buf_str(&out);
            return true;
        }
        i += s->p[i] == '\\' && i + 1 < s->n;
        buf_addc(&out, s->p[i]);
    }
    return false;
}

/* The boundary out of the parameters behind a type. False when they are no parameters, or tell it twice or in pieces
 * (RFC 2231; attack class 34). */
static bool boundary_parse(arena *a, str s, str *ret)
{
    *ret = S("");
    while (cfws_skip(&s)) {
        if (s.n == 0)
            return true;
        if (s.p[0] != ';')
            return false;
        s = str_from(s, 1);
        if (!cfws_skip(&s))
            return false;
        if (s.n == 0 || s.p[0] == ';')
            continue; /* a semicolon too many is common, and harmless */
        str name = token_cut(&s), value;
        if (name.n == 0 || !cfws_skip(&s) || !str_starts(s, S("=")))
            return false;
        s = str_from(s, 1);
        if (!cfws_skip(&s) || !value_cut(a, &s, &value))
            return false;
        if (str_istarts(name, S("boundary*")) || (str_ieq(name, S("boundary")) && ret->n))
            return false;
        if (str_ieq(name, S("boundary")))
            *ret = value;
    }
    return false;
}

/* RFC 2046 5.1.1, but for the characters: any printable ones are seen. */
static bool boundary_valid(str s)
{
    for (size_t i = 0; i < s.n; i++)
        if (s.p[i] < 32 || s.p[i] > 126)
            return false;
    return s.n > 0 && s.n <= 70 && s.p[s.n - 1] != ' ';
}

static void type_parse(arena *a, str s, struct part *p)
{
    p->clear = p->clear && cfws_skip(&s);
    str type = token_cut(&s);
    p->clear = p->clear && cfws_skip(&s) && str_starts(s, S("/"));
    s = str_from(s, 1);
    p->clear = p->clear && cfws_skip(&s);
    str subtype = token_cut(&s);
    bool params = boundary_parse(a, s, &p->boundary);

    p->text = str_ieq(type, S("text"));
    if (str_ieq(type, S("multipart"))) {
        p->kind = MULTIPART;
        p->digest = str_ieq(subtype, S("digest"));
        p->sealed = str_ieq(subtype, S("signed"));
        if (!params || !boundary_valid(p->boundary))
            p->clear = false;
    } else if (str_ieq(type, S("message"))) {
        p->kind = str_ieq(subtype, S("rfc822")) ? MESSAGE : LEAF;
        /* RFC 2046 5.2 lets no other encoding than 7bit stand on these; only message/global is free (RFC 6532 3.7). */
        if (p->kind == LEAF && !str_istarts(subtype, S("global")))
            p->clear = false;
    } else {
        p->kind = LEAF;
    }
}

static void encoding_parse(str s, struct part *p)
{
    if (!cfws_skip(&s))
        p->clear = false;
    str token = token_cut(&s);
    if (!cfws_skip(&s) || s.n)
        p->clear = false;
    p->encoding_said = true;
    p->eight_bit_label = str_ieq(token, S("8bit")) || str_ieq(token, S("binary"));
    if (p->eight_bit_label || str_ieq(token, S("7bit")))
        p->encoding = PLAIN;
    else
        p->encoding = str_ieq(token, S("base64")) || str_ieq(token, S("quoted-printable")) ? ENCODED : STRANGE;
}

static bool is_type(str name) { return str_ieq(name, S("Content-Type")); }
static bool is_encoding(str name) { return str_ieq(name, S("Content-Transfer-Encoding")); }

/* ---- delimiters ---- */

/* Is the line that `s` begins with a delimiter of an open multipart? The innermost counts. Its length, or 0. RFC
 * 2046 5.1.1 also lets a reader take a line that only begins like one; since not all do, what needs a change around it
 * is refused. */
static size_t delimiter_at(struct walk *w, str s, size_t *level, bool *closes)
{
    bool begins = false;

    if (!str_starts(s, S("--")))
        return 0;
    for (size_t i = w->depth; i-- > 0;) {
        str b = w->level[i].boundary, tail = str_from(s, 2);
        if (!b.p || !str_starts(tail, b))
            continue;
        tail = str_from(tail, b.n);
        *closes = str_starts(tail, S("--"));
        tail = str_from(tail, *closes ? 2 : 0);
        while (tail.n && (tail.p[0] == ' ' || tail.p[0] == '\t')) /* RFC 2046 5.1.1: transport-padding */
            tail = str_from(tail, 1);
        size_t line = s.n - tail.n;
        if ((tail.n && !str_starts(tail, S("\r\n"))) || line > LINE_LIMIT) {
            begins = true;
            continue;
        }
        *level = i;
        return line + (tail.n ? 2 : 0);
    }
    w->ambiguous |= begins;
    return 0;
}

/* Cut all up to the next delimiter line off w->rest. *line: its length, 0 at the end of the message. */
static str until_delimiter(struct walk *w, size_t *level, bool *closes, size_t *line)
{
    str all = w->rest;

    for (size_t at = 0;;) {
        *line = delimiter_at(w, str_from(all, at), level, closes);
        if (*line) {
            w->rest = str_from(all, at);
            return str_head(all, at);
        }
        size_t next = str_find(str_from(all, at), S("\r\n--"));
        if (next == STR_NONE) {
            w->rest = str_from(all, all.n);
            return all;
        }
        at += next + 2;
    }
}

/* ---- writing ---- */

static struct scan scan_of(str s)
{
    struct scan scan;
    scan_init(&scan);
    scan.header_open = false;
    scan_feed(&scan, s);
    scan_end(&scan);
    return scan;
}

static bool passes_whole(const struct scan *s)
{
    return !s->nul && !s->bare_cr && !s->bare_lf && s->longest_line <= LINE_LIMIT;
}

/* The header, with `encoding` in place of what it said about that (p NULL: as it was). */
static void header_write(struct walk *w, const struct part *p, str encoding)
{
    if (!encoding.p) {
        buf_add(w->out, p->header);
        if (p->blank)
            buf_add(w->out, S("\r\n"));
        return;
    }
    str rest = p->header;
    struct field f;
    while (header_next(&rest, &f)) {
        if (is_encoding(f.name))
            header_add(w->out, f.name, encoding);
        else
            buf_add(w->out, f.whole);
    }
    if (w->out->n && !str_ends(buf_str(w->out), S("\r\n")))
        buf_add(w->out, S("\r\n"));
    if (w->depth == 0 && w->parts == 1 && !p->mime_version)
        header_add(w->out, S("MIME-Version"), S("1.0")); /* else nobody would look at the encoding */
    if (!p->encoding_said)
        header_add(w->out, S("Content-Transfer-Encoding"), encoding);
    buf_add(w->out, S("\r\n"));
}

/* Text that is mostly ASCII stays readable. */
static bool prefers_quoted(str s)
{
    size_t odd = 0;
    for (size_t i = 0; i < s.n; i++)
        odd += (unsigned char)s.p[i] > 126 || s.p[i] == '=' || (ascii_control(s.p[i]) && !memchr("\t\r\n", s.p[i], 3));
    return odd < s.n / 4 + 1;
}

static err leaf_write(struct walk *w, const struct part *p, str body, bool sealed)
{
    struct scan s = scan_of(body);

    if (passes_whole(&s) && (w->eight_bit_ok || !s.eight_bit_body)) {
        header_write(w, p, (str){ 0 });
        buf_add(w->out, body);
        return OK;
    }
    if (sealed)
        return fail(E_PERM, "a signed part would have to change");
    if (w->ambiguous)
        return fail(E_PERM, "where a part ends is ambiguous");
    if (!p->clear || p->encoding != PLAIN)
        return fail(E_PERM, "a part is neither encoded nor plainly unencoded");
    if (p->text && prefers_quoted(body)) {
        header_write(w, p, S("quoted-printable"));
        quoted_printable_add(w->out, body);
    } else {
        header_write(w, p, S("base64"));
        base64_add(w->out, body);
        if (str_ends(body, S("\r\n")))
            buf_add(w->out, S("\r\n"));
    }
    return OK;
}

/* What stands before the first part or behind the last: readers skip it (RFC 2046 5.1.1), and odd octets become "?". */
static err gap_write(struct walk *w, str gap, bool fixed)
{
    struct scan s = scan_of(gap);

    if (passes_whole(&s) && (w->eight_bit_ok || !s.eight_bit_body)) {
        buf_add(w->out, gap);
        return OK;
    }
    if (fixed || w->ambiguous || s.longest_line > LINE_LIMIT)
        return fail(E_PERM, "the text around the parts would have to change");
    for (size_t i = 0; i < gap.n; i++) {
        char c = gap.p[i];
        bool end = (c == '\r' && i + 1 < gap.n && gap.p[i + 1] == '\n') || (c == '\n' && i && gap.p[i - 1] == '\r');
        buf_addc(w->out, end || ((c & 0x80) == 0 && c && c != '\r' && c != '\n') ? c : '?');
    }
    return OK;
}

/* ---- the walk ---- */

/* Read the header at w->rest; w->rest is then at the body. */
static struct part part_open(struct walk *w)
{
    bool digest = w->depth && w->level[w->depth - 1].digest, typed = false;
    struct part p = { .clear = true, .text = true, .kind = digest ? MESSAGE : LEAF }; /* RFC 2045 5.2, RFC 2046 5.1.5 */
    str rest = w->rest;
    struct field f;

    while (header_next(&rest, &f)) {
        if ((is_type(f.name) && typed) || (is_encoding(f.name) && p.encoding_said))
            p.clear = false; /* twice: readers differ on which counts (attack class 34) */
        else if (is_type(f.name))
            type_parse(w->a, header_unfold(w->a, f.value), &p);
        else if (is_encoding(f.name))
            encoding_parse(header_unfold(w->a, f.value), &p);
        typed |= is_type(f.name);
        p.mime_version |= str_ieq(f.name, S("MIME-Version"));
    }
    p.header = str_head(w->rest, w->rest.n - rest.n);
    p.blank = str_starts(rest, S("\r\n"));
    w->rest = str_from(rest, p.blank ? 2 : 0);
    size_t level;
    bool closes;
    if (!p.blank && rest.n && !delimiter_at(w, rest, &level, &closes))
        p.clear = false; /* no field: to some readers the body begins there, others skip the line */
    if (p.kind != LEAF && p.encoding != PLAIN)
        p.clear = false; /* RFC 2045 6.4: a composite is never encoded */
    if (!p.clear)
        p.kind = LEAF;
    return p;
}

static bool is_sealed(const struct walk *w) { return w->depth && w->level[w->depth - 1].sealed; }

/* Write the header of a multipart or message, and step inside. Its label must allow what it will hold. */
static err composite_open(struct walk *w, const struct part *p)
{
    if (w->depth == DEPTH_MAX)
        return fail(E_PERM, "more than %d parts within each other", DEPTH_MAX);
    bool relabel = p->eight_bit_label && !is_sealed(w);
    header_write(w, p, relabel ? w->eight_bit_ok ? S("8bit") : S("7bit") : (str){ 0 });
    w->level[w->depth] = (struct level){
        .boundary = p->kind == MULTIPART ? p->boundary : (str){ 0 },
        .sealed = is_sealed(w) || p->sealed,
        .digest = p->digest,
    };
    w->depth++;
    return OK;
}

static err header_check(const struct walk *w, const struct part *p)
{
    struct scan s = scan_of(p->header);

    if (!passes_whole(&s))
        return fail(E_PERM, "a header that cannot be sent as it is");
    if (s.eight_bit_body && !w->eight_bit_ok && w->parts > 1) /* of the message's own header the caller knows */
        return fail(E_PERM, "a part whose header is not ASCII");
    return OK;
}

/* Write what comes up to and with the next delimiter line that opens a part; *more says whether there is one. */
static err gaps_write(struct walk *w, bool *more)
{
    for (;;) {
        size_t level = 0, line;
        bool closes = false;
        str gap = until_delimiter(w, &level, &closes, &line);
        const struct level *inner = w->depth ? &w->level[w->depth - 1] : NULL;
        bool opens = line && !closes && level + 1 == w->depth;
        /* A multipart that never has a part is none to some readers: they show its text. */
        TRY(gap_write(w, gap, inner && (inner->sealed || (!inner->begun && !opens))));
        *more = line && !closes;
        if (!line)
            return OK;
        buf_add(w->out, str_head(w->rest, line));
        w->rest = str_from(w->rest, line);
        w->depth = closes ? level : level + 1; /* inner ones that nobody closed end here as well */
        if (!closes) {
            w->level[level].begun = true;
            return OK;
        }
    }
}

static err walk_all(struct walk *w)
{
    for (bool more = true; more;) {
        if (++w->parts > PARTS_MAX)
            return fail(E_PERM, "more than %d parts", PARTS_MAX);
        struct part p = part_open(w);
        TRY(header_check(w, &p));
        if (p.kind == MESSAGE) {
            TRY(composite_open(w, &p));
            continue;
        }
        if (p.kind == MULTIPART) {
            TRY(composite_open(w, &p));
        } else {
            size_t level, line;
            bool closes;
            str body = until_delimiter(w, &level, &closes, &line);
            bool end = line && str_ends(body, S("\r\n")); /* this one belongs to the delimiter, RFC 2046 5.1.1 */
            TRY(leaf_write(w, &p, str_head(body, body.n - (end ? 2 : 0)), is_sealed(w)));
            if (end)
                buf_add(w->out, S("\r\n"));
        }
        TRY(gaps_write(w, &more));
    }
    return OK;
}

err mime_reencode(str body, bool eight_bit_ok, struct buf *out)
{
    AUTO_ARENA a = arena_new();
    struct walk *w = NEW(a, struct walk);

    w->a = a;
    w->out = out;
    w->rest = body;
    w->eight_bit_ok = eight_bit_ok;
    return walk_all(w);
}
