#include "kit/kit.h"
#include "net/net.h"

TEST(addr_parse_is_strict)
{
    static const struct { str in; uint16_t port; err want; str printed; } cases[] = {
        { S("192.0.2.7:25"), 0, OK, S("192.0.2.7:25") },
        { S("192.0.2.7"), 25, OK, S("192.0.2.7:25") },
        { S("192.0.2.7:587"), 25, OK, S("192.0.2.7:587") },
        { S("127.0.0.1:0"), 0, OK, S("127.0.0.1:0") },
        { S("192.0.2.7"), 0, E_SYNTAX },
        { S("192.0.2.7:"), 25, E_SYNTAX },
        { S("192.0.2.7:025"), 0, E_SYNTAX },
        { S("192.0.2.7:+25"), 0, E_SYNTAX },
        { S("192.0.2.7:65535"), 0, OK, S("192.0.2.7:65535") },
        { S("192.0.2.7:65536"), 0, E_SYNTAX },
        { S("192.0.2.7:25 "), 0, E_SYNTAX },
        { S(" 192.0.2.7:25"), 0, E_SYNTAX },
        { S("192.0.2.07:25"), 0, E_SYNTAX },
        { S("192.0.2:25"), 0, E_SYNTAX },
        { S("192.0.2.256:25"), 0, E_SYNTAX },
        { S("3221225991"), 25, E_SYNTAX },
        { S("192.0.2.7\0:25"), 0, E_SYNTAX },
        { S("192.0.2.7\0"), 25, E_SYNTAX },
        { S("[2001:db8::1]:25"), 0, OK, S("[2001:db8::1]:25") },
        { S("[2001:DB8:0:0:0:0:0:1]"), 25, OK, S("[2001:db8::1]:25") },
        { S("[2001:db8::1]"), 0, E_SYNTAX },
        { S("[2001:db8::1]25"), 0, E_SYNTAX },
        { S("[2001:db8::1"), 25, E_SYNTAX },
        { S("2001:db8::1"), 25, E_SYNTAX },
        { S("[192.0.2.7]:25"), 0, E_SYNTAX },
        { S("[fe80::1%eth0]:25"), 0, E_SYNTAX },
        { S("[::ffff:192.0.2.7]:25"), 0, OK, S("192.0.2.7:25") },
        { S("[]:25"), 0, E_SYNTAX },
        { S("["), 25, E_SYNTAX },
        { S(":25"), 0, E_SYNTAX },
        { S(""), 25, E_SYNTAX },
        { S("mx.example.org:25"), 0, E_NONAME },
        { S("localhost"), 25, E_NONAME },
        { S("mx.example.org."), 25, E_NONAME },
        { S("mx.example.org:smtp"), 0, E_SYNTAX },
        { S("mx example:25"), 0, E_SYNTAX },
        { S("unix:/run/x.sock"), 0, OK, S("unix:/run/x.sock") },
        { S("unix:run/x.sock"), 0, E_SYNTAX },
        { S("unix:"), 0, E_SYNTAX },
        { S("unix:/a\0b"), 0, E_SYNTAX },
        { S("unix:/aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
            "aaaaaaaaaaaaaaaaa"), 0, E_SYNTAX },
    };
    EACH(cases, c) {
        struct addr a = { 0 };
        char text[ADDR_TEXT];
        CHECK_ERR(addr_parse(c->in, c->port, &a), c->want, c->in);
        if (c->want == OK)
            CHECK_STR(addr_print(&a, text), c->printed, c->in);
        else
            CHECK_INT(a.n, 0, c->in);
    }
}

static struct addr parsed(str s)
{
    struct addr a = { 0 };
    CHECK_ERR(addr_parse(s, 25, &a), OK, s);
    return a;
}

TEST(addr_prints_for_people_and_for_smtp)
{
    struct addr v4 = parsed(S("192.0.2.7")), v6 = parsed(S("[2001:db8::1]:587")), un = parsed(S("unix:/x")), none = { 0 };
    char text[ADDR_TEXT];

    CHECK_STR(addr_print_ip(&v4, text), S("192.0.2.7"));
    CHECK_STR(addr_print_ip(&v6, text), S("2001:db8::1"));
    CHECK_STR(addr_print_ip(&un, text), S("unix"));
    CHECK_STR(addr_print_literal(&v4, text), S("[192.0.2.7]")); /* RFC 5321 4.1.3 */
    CHECK_STR(addr_print_literal(&v6, text), S("[IPv6:2001:db8::1]"));
    CHECK_STR(addr_print_literal(&un, text), S(""));
    CHECK_STR(addr_print(&none, text), S("none"));
    CHECK_INT(addr_port(&v6), 587);
    addr_set_port(&v6, 25);
    CHECK_STR(addr_print(&v6, text), S("[2001:db8::1]:25"));
    addr_set_port(&un, 25);
    CHECK_STR(addr_print(&un, text), S("unix:/x"));
}

TEST(addr_knows_its_kin)
{
    static const struct { str in; bool loopback, private; } cases[] = {
        { S("127.0.0.1"), true, true },        { S("127.255.0.9"), true, true },    { S("[::1]"), true, true },
        { S("unix:/x"), true, true },          { S("10.9.8.7"), false, true },      { S("172.16.0.1"), false, true },
        { S("172.31.255.255"), false, true },  { S("172.32.0.1"), false, false },   { S("192.168.1.1"), false, true },
        { S("169.254.1.1"), false, true },     { S("[fd00::1]"), false, true },     { S("[fe80::1]"), false, true },
        { S("[2001:db8::1]"), false, false },  { S("192.0.2.7"), false, false },    { S("[::]"), false, false },
        { S("[::ffff:10.0.0.1]"), false, true }, { S("0.0.0.0"), false, false },
    };
    EACH(cases, c) {
        struct addr a = parsed(c->in);
        CHECK(addr_is_loopback(&a) == c->loopback, c->in);
        CHECK(addr_is_private(&a) == c->private, c->in);
    }
}

TEST(addr_client_key_is_one_per_client)
{
    static const struct { str a, b; bool same; } cases[] = {
        { S("192.0.2.7:25"), S("192.0.2.7:99"), true },
        { S("192.0.2.7"), S("192.0.2.8"), false },
        { S("[2001:db8::1]"), S("[2001:db8::ffff:0:0:1]"), true },
        { S("[2001:db8::1]"), S("[2001:db8:0:1::1]"), false },
        { S("unix:/a"), S("unix:/b"), true },
        { S("unix:/a"), S("[::1]"), false },
        { S("0.0.0.1"), S("unix:/a"), false },
    };
    EACH(cases, c) {
        struct addr a = parsed(c->a), b = parsed(c->b);
        CHECK((addr_client_key(&a) == addr_client_key(&b)) == c->same, c->a);
    }
}

TEST(addr_eq_counts_the_port)
{
    struct addr a = parsed(S("192.0.2.7:25")), b = parsed(S("192.0.2.7:26")), u = parsed(S("unix:/a")), v = parsed(S("unix:/b"));
    struct addr none = { 0 };
    CHECK(addr_eq(&a, &a));
    CHECK(!addr_eq(&a, &b));
    CHECK(addr_eq(&u, &u));
    CHECK(!addr_eq(&u, &v));
    CHECK(!addr_eq(&a, &u));
    CHECK(!addr_eq(&a, &none));
    CHECK(addr_eq(&none, &none));
}

TEST(cidr_parse_and_has)
{
    static const struct { str net; err want; str in, out; } cases[] = {
        { S("10.1.0.0/24"), OK, S("10.1.0.255"), S("10.1.1.0") },
        { S("10.1.0.0/23"), OK, S("10.1.1.255"), S("10.1.2.0") },
        { S("192.0.2.7"), OK, S("192.0.2.7:99"), S("192.0.2.8") },
        { S("192.0.2.7/32"), OK, S("192.0.2.7"), S("192.0.2.6") },
        { S("0.0.0.0/0"), OK, S("255.1.2.3"), S("[2001:db8::1]") },
        { S("2001:db8::/32"), OK, S("[2001:db8:ffff::1]"), S("[2001:db9::1]") },
        { S("2001:db8::1"), OK, S("[2001:db8::1]"), S("[2001:db8::2]") },
        { S("::/0"), OK, S("[2001:db8::1]"), S("192.0.2.7") },
        { S("::ffff:10.0.0.0/104"), OK, S("10.255.0.1"), S("11.0.0.1") },
        { S("::ffff:192.0.2.7"), OK, S("192.0.2.7"), S("192.0.2.8") },
        { S("unix"), OK, S("unix:/anything"), S("127.0.0.1") },
        { S("10.1.0.1/24"), E_SYNTAX },
        { S("2001:db8::1/32"), E_SYNTAX },
        { S("::ffff:10.0.0.1/104"), E_SYNTAX },
        { S("::ffff:0.0.0.0/90"), E_SYNTAX },
        { S("10.1.0.0/33"), E_SYNTAX },
        { S("10.1.0.0/"), E_SYNTAX },
        { S("10.1.0.0/024"), E_SYNTAX },
        { S("10.1.0.0/24/"), E_SYNTAX },
        { S("10.1.0/24"), E_SYNTAX },
        { S("[::1]"), E_SYNTAX },
        { S("example.org"), E_SYNTAX },
        { S(""), E_SYNTAX },
        { S("unix:/x"), E_SYNTAX },
    };
    EACH(cases, c) {
        struct cidr net = { 0 };
        if (!CHECK_ERR(cidr_parse(c->net, &net), c->want, c->net) || c->want != OK)
            continue;
        struct addr in = parsed(c->in), out = parsed(c->out);
        CHECK(cidr_has(&net, &in), c->net);
        CHECK(!cidr_has(&net, &out), c->net);
    }
}
