#include "kit/shared.h"
#include "mail/mail.h"

TEST(path_parse_reads_paths)
{
    static const struct { str in; err want; str text, local, domain, rest; } cases[] = {
        { S("<ann@example.org>"), OK, S("ann@example.org"), S("ann"), S("example.org"), S("") },
        { S("<ann@example.org> SIZE=1"), OK, S("ann@example.org"), S("ann"), S("example.org"), S(" SIZE=1") },
        { S("<Ann.O'Neil+x@EXAMPLE.org>"), OK, S("Ann.O'Neil+x@EXAMPLE.org"), S("Ann.O'Neil+x"), S("EXAMPLE.org"), S("") },
        { S("<\"a b\\\"@>\"@example.org>x"), OK, S("\"a b\\\"@>\"@example.org"), S("\"a b\\\"@>\""), S("example.org"), S("x") },
        { S("<ann@[192.0.2.7]>"), OK, S("ann@[192.0.2.7]"), S("ann"), S("[192.0.2.7]"), S("") },
        { S("<ann@[IPv6:2001:db8::1]>"), OK, S("ann@[IPv6:2001:db8::1]"), S("ann"), S("[IPv6:2001:db8::1]"), S("") },
        { S("<j\u00f6rg@m\u00fcller.example>"), OK, S("j\u00f6rg@m\u00fcller.example"), S("j\u00f6rg"), S("m\u00fcller.example"), S("") },
        /* attack class 25: source routes go (RFC 5321 appendix C), % and ! are letters, quotes are whole */
        { S("<@hop.example:ann@example.org>"), OK, S("ann@example.org"), S("ann"), S("example.org"), S("") },
        { S("<@a.example,@b.example:ann@example.org>"), OK, S("ann@example.org"), S("ann"), S("example.org"), S("") },
        { S("<a%b@example.org>"), OK, S("a%b@example.org"), S("a%b"), S("example.org"), S("") },
        { S("<b!a@example.org>"), OK, S("b!a@example.org"), S("b!a"), S("example.org"), S("") },
        { S("<\"\"@example.org>"), OK, S("\"\"@example.org"), S("\"\""), S("example.org"), S("") },
        { S("<\"@example.org>"), E_SYNTAX },
        { S("<\"a\"b@example.org>"), E_SYNTAX },
        { S("<a\"b\"@example.org>"), E_SYNTAX },
        { S("<@a,@b:c@d"), E_SYNTAX },
        { S("<@a,b:c@d>"), E_SYNTAX },
        { S("<@a,:c@d>"), E_SYNTAX },
        { S("<@[1.2.3.4]:c@d>"), E_SYNTAX },
        { S("<@a:>"), E_SYNTAX },
        { S("<@a c@d>"), E_SYNTAX },
        /* attack class 22: what a shell would like */
        { S("<;id;>"), E_SYNTAX },
        { S("<;id;@>"), E_SYNTAX },
        { S("<${run{/bin/id}}@example.org>"), OK, S("${run{/bin/id}}@example.org"), S("${run{/bin/id}}"), S("example.org"), S("") },
        { S("<${run{a b}}@example.org>"), E_SYNTAX },
        /* attack class 26: nothing is decoded on the way to a decision */
        { S("<=?x?q?a=40b?=@example.org>"), OK, S("=?x?q?a=40b?=@example.org"), S("=?x?q?a=40b?="), S("example.org"), S("") },
        /* attack class 27 */
        { S("<ann@example\u3002org>"), E_SYNTAX },
        { S("<ann@example\uff0eorg>"), E_SYNTAX },
        { S("<ann@example\uff61org>"), E_SYNTAX },
        { S("<ann@exa\u202emple.org>"), E_SYNTAX },
        { S("<a\xc2\x85nn@example.org>"), E_SYNTAX },
        { S("<\xff@example.org>"), E_SYNTAX },
        { S("<\xc0\xaf@example.org>"), E_SYNTAX },
        { S("<ann@\xed\xa0\x80.org>"), E_SYNTAX },
        { S(""), E_SYNTAX },
        { S("<"), E_SYNTAX },
        { S("ann@example.org"), E_SYNTAX },
        { S("<ann@example.org"), E_SYNTAX },
        { S("<ann>"), E_SYNTAX },
        { S("<ann@>"), E_SYNTAX },
        { S("<@example.org>"), E_SYNTAX },
        { S("< ann@example.org>"), E_SYNTAX },
        { S("<ann@example.org >"), E_SYNTAX },
        { S("<ann @example.org>"), E_SYNTAX },
        { S("<<ann@example.org>>"), E_SYNTAX },
        { S("<ann@example.org.>"), E_SYNTAX },
        { S("<ann@exa_mple.org>"), E_SYNTAX },
        { S("<ann@[192.0.2.7>"), E_SYNTAX },
        { S("<ann@[IPv6:1:2:3:4:5:6:7:]>"), E_SYNTAX },
        { S("<ann@[IPv6:]>"), E_SYNTAX },
        { S("<ann@[]>"), E_SYNTAX },
        { S("<ann@[x:1]>"), E_SYNTAX },
        { S("<ann\0@example.org>"), E_SYNTAX },
        { S("<ann\r\nRCPT@example.org>"), E_SYNTAX },
        { S("<>"), E_SYNTAX },
        { S("<postmaster>"), E_SYNTAX },
    };
    EACH(cases, c) {
        struct path got = { 0 };
        str rest = { 0 };
        CHECK_ERR(path_parse(c->in, false, false, &got, &rest), c->want, c->in);
        CHECK_STR(got.text, c->text, c->in);
        CHECK_STR(got.local, c->local, c->in);
        CHECK_STR(got.domain, c->domain, c->in);
        CHECK_STR(rest, c->rest, c->in);
    }
}

TEST(path_parse_takes_null_and_postmaster_where_they_may_stand)
{
    struct path p;
    str rest;

    CHECK_ERR(path_parse(S("<> SIZE=3"), true, false, &p, &rest), OK);
    CHECK_STR(p.text, S(""));
    CHECK_STR(p.domain, S(""));
    CHECK_STR(rest, S(" SIZE=3"));
    CHECK_ERR(path_parse(S("<PostMaster>x"), false, true, &p, &rest), OK);
    CHECK_STR(p.text, S("PostMaster"));
    CHECK_STR(p.local, S("PostMaster"));
    CHECK_STR(p.domain, S(""));
    CHECK_STR(rest, S("x"));
    CHECK_ERR(path_parse(S("<postmasters>"), false, true, &p, &rest), E_SYNTAX);
    CHECK_ERR(path_parse(S("<postmaster@example.org>"), false, true, &p, &rest), OK);
    CHECK_STR(p.domain, S("example.org"));
}

TEST(path_parse_tells_what_it_saw)
{
    static const struct { str in; bool quoted, literal, utf8, tricky; } cases[] = {
        { S("ann@example.org"), false, false, false, false },
        { S("\"ann\"@example.org"), true, false, false, false },
        { S("\"a@b\"@example.org"), true, false, false, true },
        { S("a%b@example.org"), false, false, false, true },
        { S("b!a@example.org"), false, false, false, true },
        { S("=?utf-8?q?a=40b.example?=@example.org"), false, false, false, true },
        { S("ann@[192.0.2.7]"), false, true, false, false },
        { S("j\u00f6rg@example.org"), false, false, true, false },
        { S("ann@m\u00fcller.example"), false, false, true, false },
    };
    EACH(cases, c) {
        struct path p = { 0 };
        CHECK_ERR(address_parse(c->in, &p), OK, c->in);
        CHECK_INT(p.quoted, c->quoted, c->in);
        CHECK_INT(p.literal, c->literal, c->in);
        CHECK_INT(p.utf8, c->utf8, c->in);
        CHECK_INT(path_tricky(&p), c->tricky, c->in);
    }
}

static str repeat(arena *a, char c, size_t n)
{
    char *p = arena_alloc(a, n);
    memset(p, c, n);
    return str_of(p, n);
}

TEST(path_parse_holds_the_length_limits)
{
    AUTO_ARENA a = arena_new();
    struct path p;
    str label = repeat(a, 'd', 60);

    CHECK_ERR(address_parse(str_printf(a, "%.*s@x.org", STR(repeat(a, 'a', 64))), &p), OK);
    CHECK_ERR(address_parse(str_printf(a, "%.*s@x.org", STR(repeat(a, 'a', 65))), &p), E_SYNTAX);
    CHECK_ERR(address_parse(str_printf(a, "a@%.*s.org", STR(repeat(a, 'a', 63))), &p), OK);
    CHECK_ERR(address_parse(str_printf(a, "a@%.*s.org", STR(repeat(a, 'a', 64))), &p), E_SYNTAX);
    str domain = str_printf(a, "%.*s.%.*s.%.*s.%.*s", STR(label), STR(label), STR(label), STR(label)); /* 243 */
    CHECK(domain_valid(str_printf(a, "%.*s.%.*s", STR(domain), STR(repeat(a, 'e', 9)))));
    CHECK(!domain_valid(str_printf(a, "%.*s.%.*s", STR(domain), STR(repeat(a, 'e', 10)))));
    CHECK_ERR(address_parse(str_printf(a, "0123456789@%.*s", STR(domain)), &p), OK);
    CHECK_ERR(address_parse(str_printf(a, "0123456789a@%.*s", STR(domain)), &p), E_SYNTAX);
}

TEST(path_key_is_one_spelling)
{
    static const struct { str in, want; } cases[] = {
        { S("Ann@Example.ORG"), S("ann@example.org") },
        { S("\"Ann\"@example.org"), S("ann@example.org") },
        { S("\"a\\nn\"@example.org"), S("ann@example.org") },
        { S("\"a.n\"@example.org"), S("a.n@example.org") },
        { S("\"a..n\"@example.org"), S("\"a..n\"@example.org") },
        { S("\"a\\ \\n\"@example.org"), S("\"a n\"@example.org") },
        { S("\"\\\"\\\\\"@example.org"), S("\"\\\"\\\\\"@example.org") },
        { S("\"\"@example.org"), S("\"\"@example.org") },
        { S("J\u00d6rg@example.org"), S("j\u00d6rg@example.org") },
    };
    AUTO_ARENA a = arena_new();
    EACH(cases, c) {
        struct path p = { 0 };
        CHECK_ERR(address_parse(c->in, &p), OK, c->in);
        CHECK_STR(path_key(a, &p), c->want, c->in);
    }
    struct path bare;
    str rest;
    CHECK_ERR(path_parse(S("<Postmaster>"), false, true, &bare, &rest), OK);
    CHECK_STR(path_key(a, &bare), S("postmaster"));
}

TEST(domain_matches_itself_or_what_is_below)
{
    CHECK(domain_matches(S("example.com"), S("EXAMPLE.com")));
    CHECK(!domain_matches(S("example.com"), S("a.example.com")));
    CHECK(domain_matches(S("*.example.com"), S("a.Example.com")));
    CHECK(domain_matches(S("*.example.com"), S("a.b.example.com")));
    CHECK(!domain_matches(S("*.example.com"), S("example.com")));
    CHECK(!domain_matches(S("*.example.com"), S(".example.com")));
    CHECK(!domain_matches(S("*.example.com"), S("badexample.com")));
}

TEST(xtext_goes_both_ways)
{
    static const struct { str in; err want; str out; } cases[] = {
        { S(""), OK, S("") },
        { S("abc"), OK, S("abc") },
        { S("a+2Bb+3Dc"), OK, S("a+b=c") },
        { S("a+2bb"), OK, S("a+b") },
        { S("a+20b"), OK, S("a b") },
        { S("j\u00f6rg"), OK, S("j\u00f6rg") },
        { S("+C3+B6"), OK, S("\u00f6") },
        { S("+C3"), E_SYNTAX },
        { S("a+"), E_SYNTAX },
        { S("a+2"), E_SYNTAX },
        { S("a+2G"), E_SYNTAX },
        { S("a=b"), E_SYNTAX },
        { S("a b"), E_SYNTAX },
        { S("a+0D+0Ab"), E_SYNTAX }, /* attack class 17 */
        { S("a+00"), E_SYNTAX },
        { S("a+7F"), E_SYNTAX },
        { S("a\r\nb"), E_SYNTAX },
    };
    AUTO_ARENA a = arena_new();
    EACH(cases, c) {
        str got = { 0 };
        CHECK_ERR(xtext_decode(a, c->in, &got), c->want, c->in);
        CHECK_STR(got, c->out, c->in);
    }
    CHECK_STR(xtext_encode(a, S("a+b=c d\r\n~!")), S("a+2Bb+3Dc+20d+0D+0A~!"));
    CHECK_STR(xtext_encode(a, S("\u00f6")), S("+C3+B6"));
    CHECK_STR(address_ascii(a, S("j\u00f6rg+a=b\\ @\u65e5.example\xff\n")),
              S("j\\x{F6}rg\\x{2B}a\\x{3D}b\\x{5C}\\x{20}@\\x{65E5}.example?\\x{0A}"));
}

/* ---- the isemail suite ---- */

/* What stands between <name> and </name> in `xml`, or an empty str. */
static str element(str xml, str name)
{
    AUTO_ARENA a = arena_new();
    size_t at = str_find(xml, str_printf(a, "<%.*s>", STR(name)));
    if (at == STR_NONE)
        return S("");
    xml = str_from(xml, at + name.n + 2);
    size_t end = str_find(xml, str_printf(a, "</%.*s>", STR(name)));
    return end == STR_NONE ? S("") : str_head(xml, end);
}

/* The text behind XML's entities; U+2400+n is how the suite writes control character n. */
static str xml_text(arena *a, str s)
{
    static const struct { str name, is; } named[] = {
        { S("amp;"), S("&") }, { S("lt;"), S("<") }, { S("gt;"), S(">") }, { S("quot;"), S("\"") }, { S("apos;"), S("'") },
    };
    struct buf out = buf_in(a, s.n);

    while (s.n) {
        if (s.p[0] != '&') {
            buf_addc(&out, s.p[0]);
            s = str_from(s, 1);
            continue;
        }
        s = str_from(s, 1);
        EACH(named, n)
            if (str_starts(s, n->name))
                buf_add(&out, n->is);
        if (str_starts(s, S("#x"))) {
            unsigned long point = strtoul(str_cz(a, str_from(str_head(s, 8), 2)), NULL, 16);
            if (point >= 0x2400 && point < 0x2420)
                buf_addc(&out, (char)(point - 0x2400));
            else if (point < 0x80)
                buf_addc(&out, (char)point);
            else
                buf_addf(&out, "%c%c", (int)(0xc0 | point >> 6), (int)(0x80 | (point & 63)));
        }
        s = str_from(s, str_findc(s, ';') + 1);
    }
    return buf_str(&out);
}

TEST(address_embeds_what_is_not_ascii_and_back)
{
    static const struct { str plain, ascii, unitext; } both[] = {
        { S("ann@example.org"), S("ann@example.org"), S("ann@example.org") },
        { S("j\u00f6rg+x@\U0001F4EE.example"), S("j\\x{F6}rg\\x{2B}x@\\x{1F4EE}.example"), S("j\u00f6rg\\x{2B}x@\U0001F4EE.example") },
        { S("a\\b=c d"), S("a\\x{5C}b\\x{3D}c\\x{20}d"), S("a\\x{5C}b\\x{3D}c\\x{20}d") },
        { S("\u0416\u2603\u202e"), S("\\x{416}\\x{2603}\\x{202E}"), S("\u0416\u2603\\x{202E}") }, /* what turns a line round is never shown */
    };
    static const str bad[] = { S("\\x{0A}"), S("\\x{}"), S("\\x{F}"), S("\\x{D800}"), S("\\x{110000}"), S("\\x{41"), S("\\x{G1}"), S("\\x{0000041}"), S("\\x{7F}"),
                               S("\\x{202E}") };
    AUTO_ARENA a = arena_new();
    str got;

    EACH(both, b) {
        CHECK_STR(address_ascii(a, b->plain), b->ascii);
        CHECK_STR(address_unitext(a, b->plain), b->unitext);
        if (str_has(b->plain, S("\u202e")))
            continue;
        CHECK_ERR(address_decode(a, b->ascii, &got), OK);
        CHECK_STR(got, b->plain);
        CHECK_ERR(address_decode(a, b->unitext, &got), OK);
        CHECK_STR(got, b->plain);
    }
    EACH(bad, b)
        CHECK_ERR(address_decode(a, *b, &got), E_SYNTAX);
}

TEST(address_parse_agrees_with_isemail)
{
    AUTO_ARENA a = arena_new();
    str xml = kit_shared(a, "smtp/isemail/tests.xml"), test;
    size_t n = 0;

    while (str_cut(&xml, S("<test id="), &test)) {
        if (!str_has(test, S("</test>")))
            continue;
        str address = xml_text(a, element(test, S("address"))), category = element(test, S("category"));
        bool may = str_eq(category, S("ISEMAIL_VALID_CATEGORY")) || str_eq(category, S("ISEMAIL_DNSWARN")) ||
                   str_eq(category, S("ISEMAIL_RFC5321"));
        struct path p = { 0 };
        CHECK_ERR(address_parse(address, &p), may ? OK : E_SYNTAX, address);
        n++;
    }
    if (getenv("WAYPOST_SHARED"))
        CHECK_INT(n, 164);
}
