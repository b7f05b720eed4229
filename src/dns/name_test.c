#include "dns/inside.h"
#include "kit/kit.h"

#define L63 "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"

TEST(dns_name_is_strict_and_gives_one_spelling)
{
    static const struct { str in; err want; str name; } cases[] = {
        { S("example.org"), OK, S("example.org") },
        { S("EXAMPLE.Org."), OK, S("example.org") },
        { S("_25._tcp.mx.example"), OK, S("_25._tcp.mx.example") },
        { S("localhost"), OK, S("localhost") },
        { S("-a-.example"), OK, S("-a-.example") }, /* there are such names */
        { S("7.2.0.192.in-addr.arpa"), OK, S("7.2.0.192.in-addr.arpa") },
        { S(L63 ".example"), OK, S(L63 ".example") },
        { S(L63 "." L63 "." L63 "." L63), E_SYNTAX },
        { S(L63 "." L63 "." L63 ".aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"), OK,
          S(L63 "." L63 "." L63 ".aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa") }, /* 253 */
        { S(L63 "." L63 "." L63 ".aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"), E_SYNTAX },
        { S("a" L63 ".example"), E_SYNTAX },
        { S(""), E_SYNTAX },
        { S("."), E_SYNTAX },
        { S(".example"), E_SYNTAX },
        { S("a..example"), E_SYNTAX },
        { S("example.."), E_SYNTAX },
        { S("a b.example"), E_SYNTAX },
        { S("a\0.example"), E_SYNTAX },
        { S("a\\.example"), E_SYNTAX },
        { S("*.example"), E_SYNTAX },
        { S("a@example"), E_SYNTAX },
        { S("192.0.2.7"), E_SYNTAX },
        { S("example.7"), E_SYNTAX },
        { S("[::1]"), E_SYNTAX },
    };
    AUTO_ARENA a = arena_new();

    EACH(cases, c) {
        str got = { 0 };
        CHECK_ERR(dns_name(a, c->in, &got), c->want, c->in);
        CHECK_STR(got, c->name, c->in);
    }
}

TEST(attack_27_names_of_one_spelling)
{
    static const struct { str in; err want; str name; } cases[] = {
        { S("m\xc3\xbcnchen.example"), OK, S("xn--mnchen-3ya.example") },
        { S("M\xc3\x9cNCHEN.Example"), OK, S("xn--mnchen-3ya.example") },
        { S("mu\xcc\x88nchen.example"), OK, S("xn--mnchen-3ya.example") },         /* decomposed */
        { S("XN--Mnchen-3Ya.example"), OK, S("xn--mnchen-3ya.example") },
        { S("fa\xc3\x9f.example"), OK, S("xn--fa-hia.example") },                  /* non-transitional: not "fass" */
        { S("\xc4\xb1.example"), OK, S("xn--cfa.example") },                       /* dotless i is no i */
        { S("a\xe3\x80\x82" "b.example"), OK, S("a.b.example") },                  /* an ideographic full stop is a dot, before anything is compared */
        { S("\xef\xbd\x81.example"), OK, S("a.example") },                         /* full width */
        { S("a\xc2\xad" "b.example"), OK, S("ab.example") },                       /* a soft hyphen is nothing */
        { S("_dmarc.m\xc3\xbcnchen.example"), OK, S("_dmarc.xn--mnchen-3ya.example") },
        { S("xn--example-.example"), E_SYNTAX },                                   /* decodes to ASCII */
        { S("xn--a.example"), E_SYNTAX },                                          /* decodes to what would be spelt otherwise */
        { S("xn--.example"), E_SYNTAX },
        { S("xn--i-7iq.example"), OK, S("xn--i-7iq.example") },                    /* of IDNA 2003: such names exist */
        { S("i\xe2\x9d\xa4.example"), E_SYNTAX },                                  /* but are not made any more */
        { S("\xd7\x90" "a\xd7\x91.example"), E_SYNTAX },                           /* left and right in one label */
        { S("a\xff.example"), E_SYNTAX },
        { S("a\xe2\x80\xae.example"), E_SYNTAX },                                  /* turns the text around */
        { S("\xef\xbc\x91\xef\xbc\x92\xef\xbc\x97.\xef\xbc\x90.\xef\xbc\x90.\xef\xbc\x91"), E_SYNTAX }, /* full width 127.0.0.1 */
        { S("m\xc3\xbc\0nchen.example"), E_SYNTAX },
    };
    AUTO_ARENA a = arena_new();

    EACH(cases, c) {
        str got = { 0 };
        CHECK_ERR(dns_name(a, c->in, &got), c->want, c->in);
        CHECK_STR(got, c->name, c->in);
    }
    struct buf label = buf_in(a, 200);
    while (label.n < 120)
        buf_add(&label, S("\xc3\xbc\xc3\xb6"));
    str got;
    CHECK_ERR(dns_name(a, buf_str(&label), &got), E_SYNTAX); /* an A-label of more than 63 octets */
    while (label.n < 3000)
        buf_add(&label, S(".\xc3\xbc"));
    CHECK_ERR(dns_name(a, buf_str(&label), &got), E_SYNTAX);
}

TEST(name_reverse_turns_addresses_round)
{
    AUTO_ARENA a = arena_new();
    struct addr at;

    must(addr_parse(S("192.0.2.7"), 25, &at) == OK);
    CHECK_STR(name_reverse(a, &at), S("7.2.0.192.in-addr.arpa"));
    must(addr_parse(S("[2001:db8::12]"), 25, &at) == OK);
    CHECK_STR(name_reverse(a, &at), S("2.1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa"));
    must(addr_parse(S("unix:/run/x"), 0, &at) == OK);
    CHECK_STR(name_reverse(a, &at), S(""));
}

TEST(name_below_knows_where_labels_end)
{
    CHECK(name_below(S("a.example"), S("example")));
    CHECK(name_below(S("EXAMPLE"), S("example")));
    CHECK(name_below(S("example"), S(".")));
    CHECK(!name_below(S("anexample"), S("example")));
    CHECK(!name_below(S("example"), S("a.example")));
}
