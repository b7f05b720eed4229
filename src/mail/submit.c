/* What a program hands to sendmail, made into a message: line ends, the fields that must be there, the recipients that its header names. */
#include "mail/mail.h"

#include <stdio.h>

#define RECIPIENTS_MOST 100000
#define COMMENTS_DEEP 100
#define ADDRESS_LONG 2048       /* octets of one address with all around it that is none; longer it is no address */

/* ---- address lists: RFC 5322 3.4 ---- */

struct list {
    arena *a;
    str host;                   /* behind an address without a domain */
    struct strs *into;
    size_t cap;
};

static err address_add(struct list *l, str address)
{
    struct path p;

    if (address.n == 0)
        return OK;
    if (l->into->n >= RECIPIENTS_MOST)
        return fail(E_LIMIT, "more than %d recipients", RECIPIENTS_MOST);
    if (address.p[0] == '@') { /* a source route, RFC 5322 4.4: dropped */
        size_t colon = str_findc(address, ':');
        address = colon == STR_NONE ? address : str_from(address, colon + 1);
    }
    str whole = address_parse(address, &p) != OK && l->host.n ? str_printf(l->a, "%.*s@%.*s", STR(address), STR(l->host)) : address;
    TRY(address_parse(whole, &p));
    if (l->into->n == l->cap) {
        l->cap = l->cap ? 2 * l->cap : 8;
        str *more = NEW_ARRAY(l->a, str, l->cap);
        if (l->into->n)
            memcpy(more, l->into->p, l->into->n * sizeof *more);
        l->into->p = more;
    }
    l->into->p[l->into->n++] = str_dup(l->a, whole);
    return OK;
}

/* The length of the comment that `s` begins with, others inside it and all; 0: it does not end. */
static size_t comment_length(str s)
{
    size_t depth = 0;

    for (size_t i = 0; i < s.n; i++)
        if (s.p[i] == '\\')
            i++;
        else if (s.p[i] == '(' && ++depth > COMMENTS_DEEP)
            return 0;
        else if (s.p[i] == ')' && --depth == 0)
            return i + 1;
    return 0;
}

static size_t quoted_length(str s)
{
    for (size_t i = 1; i < s.n; i++)
        if (s.p[i] == '\\')
            i++;
        else if (s.p[i] == '"')
            return i + 1;
    return 0;
}

/* One entry of the list on its way: what stands outside of <>, and within. Blanks and comments are gone, but two words side by side are
 * no address. Nothing is decoded: what stands there is the address (attack class 26). */
struct entry { struct buf outside, inside; bool angle, was_angle, gap, words; };

static void entry_word(struct entry *e, str word)
{
    struct buf *b = e->angle ? &e->inside : &e->outside;
    bool joins = word.p[0] == '.' || word.p[0] == '@' || (b->n && (b->p[b->n - 1] == '.' || b->p[b->n - 1] == '@'));

    e->words |= e->gap && b->n && !joins;
    e->gap = false;
    buf_add(b, word);
}

static err entry_end(struct list *l, struct entry *e)
{
    err got = OK;

    if (e->angle)
        got = fail(E_SYNTAX, "a < that is not closed");
    else if (e->was_angle)
        got = address_add(l, buf_str(&e->inside));
    else if (e->words)
        got = fail(E_SYNTAX, "words that are no address: %.*s", STR(str_printable(l->a, str_head(buf_str(&e->outside), 100))));
    else
        got = address_add(l, buf_str(&e->outside));
    buf_clear(&e->outside);
    buf_clear(&e->inside);
    e->angle = e->was_angle = e->gap = e->words = false;
    return got;
}

static err list_read(struct list *l, str s, struct entry *e)
{
    bool group = false;

    while (s.n) {
        size_t n = 1;
        if (e->outside.n + e->inside.n > ADDRESS_LONG)
            return fail(E_SYNTAX, "an address of more than %d octets", ADDRESS_LONG);
        switch (s.p[0]) {
        case ' ': case '\t': case '\r': case '\n':
            e->gap = true;
            break;
        case '(':
            n = comment_length(s);
            if (!n)
                return fail(E_SYNTAX, "a comment that does not end");
            e->gap = true;
            break;
        case '"':
            n = quoted_length(s);
            if (!n || n > ADDRESS_LONG)
                return fail(E_SYNTAX, "a quoted string that does not end");
            entry_word(e, str_head(s, n));
            break;
        case '<':
            if (e->angle || e->was_angle)
                return fail(E_SYNTAX, "one < too many");
            e->angle = e->was_angle = true;
            e->gap = e->words = false;
            break;
        case '>':
            if (!e->angle)
                return fail(E_SYNTAX, "a > without its <");
            if (e->words)
                return fail(E_SYNTAX, "words in < > that are no address");
            e->angle = e->gap = false;
            break;
        case ',':
            if (e->angle) { /* within a source route */
                entry_word(e, str_head(s, 1));
                break;
            }
            TRY(entry_end(l, e));
            break;
        case ':':
            if (e->angle || (e->outside.n && e->outside.p[0] == '@')) {
                entry_word(e, str_head(s, 1));
                break;
            }
            if (group || e->was_angle)
                return fail(E_SYNTAX, "a : where none belongs");
            group = true; /* what stood before is its name */
            buf_clear(&e->outside);
            e->words = e->gap = false;
            break;
        case ';':
            if (!group || e->angle)
                return fail(E_SYNTAX, "a ; that ends no group");
            TRY(entry_end(l, e));
            group = false;
            break;
        case '[': /* an address literal, with its colons */
            n = str_findc(s, ']');
            if (n == STR_NONE || n > ADDRESS_LONG)
                return fail(E_SYNTAX, "a [ that is not closed");
            n++;
            entry_word(e, str_head(s, n));
            break;
        default: {
            static const char ends[] = " \t\r\n(\"<>,:;[";
            while (n < s.n && !memchr(ends, s.p[n], sizeof ends - 1) && n <= ADDRESS_LONG)
                n++;
            entry_word(e, str_head(s, n));
        }
        }
        s = str_from(s, n);
    }
    return group ? fail(E_SYNTAX, "a group that is not closed by ;") : entry_end(l, e);
}

err address_list(arena *a, str value, str host, struct strs *into)
{
    struct list l = { .a = a, .host = host, .into = into, .cap = into->n };
    struct entry e = { .outside = { .a = NULL } };

    err got = list_read(&l, value, &e);
    buf_free(&e.outside);
    buf_free(&e.inside);
    return got;
}

/* ---- lines ---- */

/* The next line without its end, which may be LF, CRLF or a CR alone. */
static bool line_next(str *rest, str *line)
{
    size_t n = 0;

    if (!rest->n)
        return false;
    while (n < rest->n && rest->p[n] != '\n' && rest->p[n] != '\r')
        n++;
    *line = str_head(*rest, n);
    bool crlf = n + 1 < rest->n && rest->p[n] == '\r' && rest->p[n + 1] == '\n';
    *rest = str_from(*rest, n + 1 + crlf);
    return true;
}

/* Up to a dot alone on a line, unless `dots`; without mbox's "From ". Lines end in CRLF after it, all of them. */
static void lines_normal(str in, bool dots, struct buf *out)
{
    str line;

    buf_reserve(out, in.n + in.n / 32 + 2);
    for (bool first = true; line_next(&in, &line); first = false) {
        if (!dots && str_eq(line, S(".")))
            return;
        if (first && str_starts(line, S("From ")))
            continue;
        buf_add(out, line);
        buf_add(out, S("\r\n"));
    }
}

/* ---- the header ---- */

static bool is_one_of(str name, const str *names, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (str_ieq(name, names[i]))
            return true;
    return false;
}

/* A display name: as it is, quoted, or as an encoded word (RFC 2047 2, of at most 75 characters: cut before). */
static void add_name(struct buf *out, str name)
{
    bool plain = true, ascii = true;

    name = str_head(name, 36);
    for (size_t i = 0; i < name.n; i++) {
        char c = name.p[i];
        if (ascii_control(c))
            return;
        ascii &= !(c & 0x80);
        plain &= ascii_alpha(c) || ascii_digit(c) || c == ' ' || c == '-' || c == '_';
    }
    if (plain) {
        buf_add(out, name);
    } else if (ascii) {
        buf_addc(out, '"');
        for (size_t i = 0; i < name.n; i++) {
            if (name.p[i] == '"' || name.p[i] == '\\')
                buf_addc(out, '\\');
            buf_addc(out, name.p[i]);
        }
        buf_addc(out, '"');
    } else {
        uint32_t point;
        size_t whole = 0, n;
        while (whole < name.n && (n = utf8_head(str_from(name, whole), &point)))
            whole += n;
        buf_add(out, S("=?utf-8?B?"));
        base64_add(out, str_head(name, whole));
        buf_add(out, S("?="));
    }
    buf_addc(out, ' ');
}

static void add_missing(const struct submit *s, bool resent, const bool *has, struct buf *out)
{
    AUTO_BUF from = { 0 };
    char date[TIME_TEXT], id[ULID_TEXT], message_id[300];

    if (!has[0])
        header_add(out, resent ? S("Resent-Date") : S("Date"), time_rfc5322(date, wall_now()));
    if (!has[1]) {
        str host = str_head(s->host, 253);
        int n = snprintf(message_id, sizeof message_id, "<%.*s@%.*s>", STR(ulid_print(ulid_new(), id)), STR(host));
        header_add(out, resent ? S("Resent-Message-ID") : S("Message-ID"), str_of(message_id, (size_t)n));
    }
    if (!has[2]) {
        add_name(&from, s->full_name);
        buf_addf(&from, "<%.*s>", STR(s->author));
        header_add(out, resent ? S("Resent-From") : S("From"), buf_str(&from));
    }
}

/* No mail may hold one (RFC 5322 2.2, 2.3); but what a program said when it broke shall reach who waits for it. */
static str without_nul(str in, struct buf *room)
{
    if (str_findc(in, 0) == STR_NONE)
        return in;
    for (str part; str_cut(&in, str_of("", 1), &part);)
        buf_add(room, part);
    return buf_str(room);
}

err submit_write(arena *a, const struct submit *s, str in, struct buf *out, struct strs *rcpt)
{
    static const str to[] = { S("To"), S("Cc"), S("Bcc") }, resent_to[] = { S("Resent-To"), S("Resent-Cc"), S("Resent-Bcc") },
                     bcc[] = { S("Bcc"), S("Resent-Bcc") }, must_be[] = { S("Date"), S("Message-ID"), S("From") },
                     resent_must_be[] = { S("Resent-Date"), S("Resent-Message-ID"), S("Resent-From") };
    AUTO_BUF text = { 0 }, clean = { 0 };
    struct field f;
    bool resent = false, has[3] = { false };

    lines_normal(without_nul(in, &clean), s->dots, &text);
    for (str rest = buf_str(&text); header_next(&rest, &f);)
        resent |= is_one_of(f.name, resent_to, COUNT(resent_to)); /* RFC 5322 3.6.6: then it is they who count */
    const str *needed = resent ? resent_must_be : must_be;
    for (str rest = buf_str(&text); header_next(&rest, &f);)
        for (size_t i = 0; i < COUNT(has); i++)
            has[i] |= str_ieq(f.name, needed[i]);

    add_missing(s, resent, has, out);
    str rest = buf_str(&text);
    while (header_next(&rest, &f)) {
        if (s->from_header && is_one_of(f.name, resent ? resent_to : to, COUNT(to)))
            TRY(during(address_list(a, header_unfold(a, f.value), s->host, rcpt), "%.*s", STR(f.name)));
        /* Who named the recipients himself wants no Bcc told either: so sendmail's other implementations have it, and programs count on it. */
        if (str_ieq(f.name, S("Return-Path")) || is_one_of(f.name, bcc, COUNT(bcc)))
            continue;
        buf_add(out, f.whole);
    }
    if (!str_starts(rest, S("\r\n")))
        buf_add(out, S("\r\n")); /* the body begins where a line is no field */
    buf_add(out, rest);
    return OK;
}
