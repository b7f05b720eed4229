/* Paths and mailboxes: RFC 5321 4.1.2 to the letter, with the UTF-8 of RFC 6531 3.3. Octets of an address are data:
 * nothing is decoded, expanded or run (attack classes 22, 25, 26). */
#include "mail/mail.h"

#define LOCAL_MAX 64    /* RFC 5321 4.5.3.1.1 */
#define DOMAIN_MAX 253  /* 4.5.3.1.2 allows 255 octets, which is the DNS's own form: 253 as text */
#define LITERAL_MAX 64  /* "[IPv6:" and the longest address */
#define PATH_MAX_N 254  /* 4.5.3.1.3 allows 256 with the brackets */
#define LABEL_MAX 63

enum { ATEXT = 1, LETDIG = 2, QTEXT = 4 };

/* What an ASCII octet may be part of. */
static const uint8_t kinds[128] = {
    [' '] = QTEXT, ['!'] = QTEXT | ATEXT, ['#' ... '\''] = QTEXT | ATEXT, ['('] = QTEXT, [')'] = QTEXT,
    ['*'] = QTEXT | ATEXT, ['+'] = QTEXT | ATEXT, [','] = QTEXT, ['-'] = QTEXT | ATEXT, ['.'] = QTEXT,
    ['/'] = QTEXT | ATEXT, ['0' ... '9'] = QTEXT | ATEXT | LETDIG, [':' ... '<'] = QTEXT, ['='] = QTEXT | ATEXT,
    ['>'] = QTEXT, ['?'] = QTEXT | ATEXT, ['@'] = QTEXT, ['A' ... 'Z'] = QTEXT | ATEXT | LETDIG, ['['] = QTEXT,
    [']'] = QTEXT, ['^' ... '`'] = QTEXT | ATEXT, ['a' ... 'z'] = QTEXT | ATEXT | LETDIG, ['{' ... '~'] = QTEXT | ATEXT,
};

/* The length of the character that `s` begins with if it is of that kind, or UTF-8 beyond ASCII; else 0. Controls are
 * refused beyond ASCII too: RFC 6531 would take U+0085 or a turn of the writing direction, but no mailbox has it. */
static size_t char_length(str s, uint8_t kind)
{
    uint32_t point;

    if (s.n == 0)
        return 0;
    if ((unsigned char)s.p[0] < 128)
        return (kinds[(unsigned char)s.p[0]] & kind) != 0;
    size_t n = utf8_head(s, &point);
    return n && !utf8_control(point) ? n : 0;
}

static size_t run_length(str s, uint8_t kind)
{
    size_t at = 0;
    for (size_t n; (n = char_length(str_from(s, at), kind)); )
        at += n;
    return at;
}

/* The length of the Dot-string that `s` begins with; 0 when there is none. */
static size_t dot_string_length(str s)
{
    for (size_t at = 0;;) {
        size_t n = run_length(str_from(s, at), ATEXT);
        if (n == 0)
            return 0;
        at += n;
        if (at == s.n || s.p[at] != '.')
            return at;
        at++;
    }
}

/* The length, quotes included, of the Quoted-string that `s` begins with; 0 when it is none or stays open. */
static size_t quoted_length(str s)
{
    for (size_t at = 1; at < s.n;) {
        if (s.p[at] == '"')
            return at + 1;
        if (s.p[at] == '\\') { /* quoted-pairSMTP: a printable ASCII character or a blank, also by RFC 6531 */
            if (at + 1 == s.n || s.p[at + 1] < 32 || s.p[at + 1] > 126)
                return 0;
            at += 2;
            continue;
        }
        size_t n = char_length(str_from(s, at), QTEXT);
        if (n == 0)
            return 0;
        at += n;
    }
    return 0;
}

static bool label_valid(str s)
{
    if (s.n == 0 || s.n > LABEL_MAX || s.p[0] == '-' || s.p[s.n - 1] == '-')
        return false;
    for (size_t n; s.n; s = str_from(s, n)) {
        n = s.p[0] == '-' ? 1 : char_length(s, LETDIG);
        if (n == 0)
            return false;
        /* The dots of other scripts, which IDNA maps to "." (attack class 27): one name must have one spelling here. */
        if (n == 3 && (str_starts(s, S("\u3002")) || str_starts(s, S("\uff0e")) || str_starts(s, S("\uff61"))))
            return false;
    }
    return true;
}

bool domain_valid(str s)
{
    str label;

    if (s.n == 0 || s.n > DOMAIN_MAX)
        return false;
    while (str_cut(&s, S("."), &label))
        if (!label_valid(label))
            return false;
    return true;
}

bool domain_matches(str pattern, str domain)
{
    if (!str_starts(pattern, S("*.")))
        return str_ieq(pattern, domain);
    return domain.n > pattern.n - 1 && str_iends(domain, str_from(pattern, 1));
}

/* RFC 5321 4.1.3: IPv4-address-literal */
static bool ipv4_valid(str s)
{
    str part;
    uint64_t value;
    size_t n = 0;

    for (; str_cut(&s, S("."), &part); n++)
        if (part.n > 3 || !str_u64(part, 255, &value))
            return false;
    return n == 4;
}

static bool is_hex(char c) { return ascii_digit(c) || ((c | 32) >= 'a' && (c | 32) <= 'f'); }

static bool group_valid(str s)
{
    if (s.n == 0 || s.n > 4)
        return false;
    for (size_t i = 0; i < s.n; i++)
        if (!is_hex(s.p[i]))
            return false;
    return true;
}

/* RFC 5321 4.1.3: IPv6-addr. Stricter than inet_pton: "::" stands for two groups at least. */
static bool ipv6_valid(str s)
{
    size_t groups = 0, whole = 8;
    bool gap = str_starts(s, S("::"));

    for (s = str_from(s, gap ? 2 : 0); s.n;) {
        size_t n = str_findc(s, ':');
        str group = str_head(s, n);
        s = str_from(s, group.n);
        if (str_has(group, S("."))) {
            if (s.n || !ipv4_valid(group))
                return false;
            whole = 6;
            break;
        }
        if (!group_valid(group))
            return false;
        groups++;
        if (str_starts(s, S("::"))) {
            if (gap)
                return false;
            gap = true;
            s = str_from(s, 2);
        } else if (s.n == 1) {
            return false; /* a colon with nothing behind it */
        } else {
            s = str_from(s, 1);
        }
    }
    return gap ? groups <= whole - 2 : groups == whole;
}

/* An address literal in its brackets. IPv6 is the only registered tag (RFC 5321 4.1.3), so others are refused. */
static bool literal_valid(str s)
{
    if (s.n < 2 || s.n > LITERAL_MAX || s.p[0] != '[' || s.p[s.n - 1] != ']')
        return false;
    s = str_head(str_from(s, 1), s.n - 2);
    return str_istarts(s, S("IPv6:")) ? ipv6_valid(str_from(s, 5)) : ipv4_valid(s);
}

static bool beyond_ascii(str s)
{
    for (size_t i = 0; i < s.n; i++)
        if ((unsigned char)s.p[i] > 127)
            return true;
    return false;
}

/* The local part at the start of `s`, into `p`. */
static err local_parse(str s, struct path *p)
{
    p->quoted = str_starts(s, S("\""));
    size_t n = p->quoted ? quoted_length(s) : dot_string_length(s);
    if (n == 0)
        return fail(E_SYNTAX, p->quoted ? "the quoted local part is malformed" : "the local part is malformed");
    if (n > LOCAL_MAX)
        return fail(E_SYNTAX, "the local part is longer than %d octets", LOCAL_MAX);
    p->local = str_head(s, n);
    return OK;
}

static err domain_parse(str s, struct path *p)
{
    p->domain = s;
    p->literal = str_starts(s, S("["));
    if (s.n == 0)
        return fail(E_SYNTAX, "the domain is missing");
    if (p->literal && !literal_valid(s))
        return fail(E_SYNTAX, "the address literal is malformed");
    if (!p->literal && !domain_valid(s))
        return fail(E_SYNTAX, s.n > DOMAIN_MAX ? "the domain is too long" : "the domain is malformed");
    return OK;
}

/* Local-part "@" domain, at the start of `s`: to its end, or to the ">" when `bracket`. */
static err mailbox_parse(str s, bool bracket, struct path *p)
{
    TRY(local_parse(s, p));
    str rest = str_from(s, p->local.n);
    if (!str_starts(rest, S("@")))
        return fail(E_SYNTAX,
                    rest.n == 0 || rest.p[0] == '>' ? "the domain is missing" : "the local part is malformed");
    rest = str_from(rest, 1);
    if (bracket) {
        size_t end = str_findc(rest, '>');
        if (end == STR_NONE)
            return fail(E_SYNTAX, "the closing > is missing");
        rest = str_head(rest, end);
    }
    TRY(domain_parse(rest, p));
    p->text = str_head(s, p->local.n + 1 + rest.n);
    if (p->text.n > PATH_MAX_N)
        return fail(E_SYNTAX, "the address is longer than %d octets", PATH_MAX_N);
    p->utf8 = beyond_ascii(p->text);
    return OK;
}

/* Step over "@one,@two:". RFC 5321 appendix C: accepted, and ignored. */
static err route_skip(str *s)
{
    if (!str_starts(*s, S("@")))
        return OK;
    size_t end = str_findc(*s, ':');
    if (end == STR_NONE || end > PATH_MAX_N)
        return fail(E_SYNTAX, "the source route is malformed");
    str route = str_head(*s, end), hop;
    while (str_cut(&route, S(","), &hop))
        if (!str_starts(hop, S("@")) || !domain_valid(str_from(hop, 1)))
            return fail(E_SYNTAX, "the source route is malformed");
    *s = str_from(*s, end + 1);
    return OK;
}

err path_parse(str s, bool null_ok, bool bare_ok, struct path *ret, str *rest)
{
    struct path p = { 0 };

    if (!str_starts(s, S("<")))
        return fail(E_SYNTAX, "the address must stand in <>");
    s = str_from(s, 1);
    if (str_starts(s, S(">"))) {
        if (!null_ok)
            return fail(E_SYNTAX, "the address is empty");
        p.text = p.local = p.domain = str_head(s, 0);
    } else if (bare_ok && str_istarts(s, S("postmaster>"))) {
        p.text = p.local = str_head(s, strlen("postmaster"));
        p.domain = str_head(str_from(s, p.text.n), 0);
    } else {
        TRY(route_skip(&s));
        TRY(mailbox_parse(s, true, &p));
    }
    *ret = p;
    *rest = str_from(s, p.text.n + 1);
    return OK;
}

err address_parse(str s, struct path *ret)
{
    struct path p = { 0 };

    TRY(mailbox_parse(s, false, &p));
    *ret = p;
    return OK;
}

/* Beside what class 25 names: an encoded word, which some decode before they look for the @ (class 26). */
bool path_tricky(const struct path *p)
{
    return str_has(p->local, S("%")) || str_has(p->local, S("!")) || (p->quoted && str_has(p->local, S("@"))) ||
           str_has(p->local, S("=?"));
}

str path_key(arena *a, const struct path *p)
{
    struct buf out = buf_in(a, p->text.n + 8);

    if (p->quoted) {
        /* Its plain content, and if that is no Dot-string, quoted again in the one shortest way. */
        struct buf plain = buf_in(a, p->local.n);
        for (size_t i = 1; i + 1 < p->local.n; i++) {
            i += p->local.p[i] == '\\';
            buf_addc(&plain, ascii_lower(p->local.p[i]));
        }
        bool quotes = plain.n == 0 || dot_string_length(buf_str(&plain)) != plain.n;
        if (quotes)
            buf_addc(&out, '"');
        for (size_t i = 0; i < plain.n; i++) {
            if (plain.p[i] == '"' || plain.p[i] == '\\')
                buf_addc(&out, '\\');
            buf_addc(&out, plain.p[i]);
        }
        if (quotes)
            buf_addc(&out, '"');
    } else {
        for (size_t i = 0; i < p->local.n; i++)
            buf_addc(&out, ascii_lower(p->local.p[i]));
    }
    if (p->domain.n)
        buf_addc(&out, '@');
    for (size_t i = 0; i < p->domain.n; i++)
        buf_addc(&out, ascii_lower(p->domain.p[i]));
    return buf_str(&out);
}

static int hex_value(char c)
{
    return ascii_digit(c) ? c - '0' : is_hex(c) ? (c | 32) - 'a' + 10 : -1;
}

/* RFC 3461 4 writes hexadecimal in upper case; lower case means nothing else, so it is taken too. UTF-8 may stand there
 * as it is (RFC 6533 3). */
err xtext_decode(arena *a, str s, str *ret)
{
    struct buf out = buf_in(a, s.n);

    for (size_t i = 0; i < s.n; i++) {
        int c = (unsigned char)s.p[i];
        if (c == '+') {
            int high = i + 2 < s.n ? hex_value(s.p[i + 1]) : -1, low = i + 2 < s.n ? hex_value(s.p[i + 2]) : -1;
            if (high < 0 || low < 0)
                return fail(E_SYNTAX, "a + without two hexadecimal digits behind it");
            c = high << 4 | low;
            if (c < 32 || c == 127)
                return fail(E_SYNTAX, "a control character in disguise"); /* attack class 17 */
            i += 2;
        } else if (c <= 32 || c == 127 || c == '=') {
            return fail(E_SYNTAX, "a character that must be written as + and two digits");
        }
        buf_addc(&out, (char)c);
    }
    uint32_t point;
    for (str rest = buf_str(&out); rest.n;) {
        size_t n = utf8_head(rest, &point);
        if (n == 0 || utf8_control(point))
            return fail(E_SYNTAX, "neither ASCII nor UTF-8");
        rest = str_from(rest, n);
    }
    *ret = buf_str(&out);
    return OK;
}

str xtext_encode(arena *a, str s)
{
    struct buf out = buf_in(a, s.n);

    for (size_t i = 0; i < s.n; i++) {
        unsigned char c = (unsigned char)s.p[i];
        if (c <= 32 || c >= 127 || c == '+' || c == '=')
            buf_addf(&out, "+%02X", c);
        else
            buf_addc(&out, (char)c);
    }
    return buf_str(&out);
}

static str address_embed(arena *a, str s, bool utf8_ok)
{
    struct buf out = buf_in(a, s.n + 16);
    uint32_t point;

    for (size_t n; s.n; s = str_from(s, n)) {
        n = utf8_head(s, &point);
        if (n == 0) { /* no character at all: it cannot be said */
            n = 1;
            point = '?';
        }
        if (point > 32 && point < 127 && point != '+' && point != '=' && point != '\\')
            buf_addc(&out, (char)point);
        else if (utf8_ok && point > 127 && !utf8_control(point))
            buf_add(&out, str_head(s, n));
        else
            buf_addf(&out, "\\x{%02X}", point);
    }
    return buf_str(&out);
}

str address_ascii(arena *a, str s) { return address_embed(a, s, false); }
str address_unitext(arena *a, str s) { return address_embed(a, s, true); }

static void utf8_add(struct buf *out, uint32_t point)
{
    if (point < 0x80) {
        buf_addc(out, (char)point);
        return;
    }
    unsigned more = point < 0x800 ? 1 : point < 0x10000 ? 2 : 3;
    buf_addc(out, (char)(0xf00 >> (more + 1) | point >> 6 * more));
    while (more--)
        buf_addc(out, (char)(0x80 | (point >> 6 * more & 0x3f)));
}

/* The hexadecimal digits behind "\x{", up to the brace: RFC 6533 3, EmbeddedUnicodeChar. 0: none that may stand there. */
static uint32_t embedded_point(str s, size_t *n)
{
    uint32_t point = 0;
    size_t i = 0;

    for (; i < s.n && i < 6 && s.p[i] != '}'; i++) {
        char c = ascii_lower(s.p[i]);
        if (!ascii_digit(c) && !(c >= 'a' && c <= 'f'))
            return 0;
        point = point << 4 | (uint32_t)(ascii_digit(c) ? c - '0' : c - 'a' + 10);
    }
    *n = i + 1;
    if (i < 2 || i >= s.n || s.p[i] != '}' || point > 0x10ffff || (point >= 0xd800 && point < 0xe000) || utf8_control(point))
        return 0;
    return point;
}

err address_decode(arena *a, str s, str *ret)
{
    struct buf out = buf_in(a, s.n);

    while (s.n) {
        size_t plain = str_find(s, S("\\x{")), n;
        buf_add(&out, str_head(s, plain));
        if (plain == STR_NONE)
            break;
        s = str_from(s, plain + 3);
        uint32_t point = embedded_point(s, &n);
        if (!point)
            return fail(E_SYNTAX, "no character stands between the braces of \\x{...}");
        utf8_add(&out, point);
        s = str_from(s, n);
    }
    *ret = buf_str(&out);
    return OK;
}
