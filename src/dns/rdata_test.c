#include "dns/inside.h"
#include "kit/kit.h"

TEST(rdata_is_read)
{
    AUTO_ARENA a = arena_new();
    struct mx mx;
    struct srv srv;
    struct tlsa tlsa;
    struct addr at;
    bool host;
    str text;
    char ip[ADDR_TEXT];

    CHECK(rdata_mx(a, S("\0\x0a\2MX\7example\0"), &mx, &host) && host);
    CHECK_INT(mx.preference, 10);
    CHECK_STR(mx.host, S("mx.example"));
    CHECK(rdata_mx(a, S("\0\0\0"), &mx, &host) && !host);
    CHECK_STR(mx.host, S("."));
    CHECK(rdata_txt(a, S("\3abc\0\2de"), &text));
    CHECK_STR(text, S("abcde"));
    CHECK(rdata_txt(a, S("\0"), &text));
    CHECK_STR(text, S(""));
    CHECK(rdata_txt(a, S("\3\0\xff\n"), &text)); /* octets, whatever they are */
    CHECK_STR(text, S("\0\xff\n"));
    CHECK(rdata_srv(a, S("\0\1\0\2\x13\xc4\3sip\7example\0"), &srv, &host) && host);
    CHECK(srv.priority == 1 && srv.weight == 2 && srv.port == 5060);
    CHECK_STR(srv.host, S("sip.example"));
    CHECK(rdata_tlsa(a, S("\3\1\1\xab\0\xcd"), &tlsa));
    CHECK(tlsa.usage == 3 && tlsa.selector == 1 && tlsa.matching == 1);
    CHECK_STR(tlsa.data, S("\xab\0\xcd"));
    CHECK(rdata_address(S("\xc0\0\2\7"), DNS_A, 25, &at));
    CHECK_STR(addr_print(&at, ip), S("192.0.2.7:25"));
    CHECK(rdata_address(S("\x20\1\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\1"), DNS_AAAA, 25, &at));
    CHECK_STR(addr_print(&at, ip), S("[2001:db8::1]:25"));
}

TEST(attack_49_rdata_that_lies)
{
    AUTO_ARENA a = arena_new();
    struct mx mx;
    struct srv srv;
    struct tlsa tlsa;
    struct addr at;
    bool host;
    str text;
    static const str bad_mx[] = {
        S(""), S("\0"), S("\0\x0a"), S("\0\x0a\2mx"), S("\0\x0a\2m"), S("\0\x0a\2mx\7example"), S("\0\x0a\2mx\0more"), S("\0\x0a\xc0\0"), S("\0\x0a\x40" "a\0"),
    };
    static const str bad_txt[] = { S(""), S("\3ab"), S("\1a\xff" "b"), S("\xff") };
    static const str odd[] = { S("\3a.b\0"), S("\3a b\0"), S("\2a\0\0"), S("\1*\0"), S("\2\xc3\xbc\0"), S("\1\\\0"), S("\3" "127\1\x30\1\x30\1\x31\0"), S("\1\n\0") };

    EACH(bad_mx, c)
        CHECK(!rdata_mx(a, *c, &mx, &host), *c);
    EACH(bad_txt, c)
        CHECK(!rdata_txt(a, *c, &text), *c);
    EACH(odd, c) {
        CHECK(rdata_ptr(a, *c, &text, &host) && !host, *c);
        CHECK_STR(text, S(""), *c);
    }
    CHECK(!rdata_srv(a, S("\0\1\0\2\0"), &srv, &host));
    CHECK(!rdata_srv(a, S("\0\1\0\2\0\3"), &srv, &host));
    CHECK(!rdata_tlsa(a, S("\3\1\1"), &tlsa));
    CHECK(!rdata_address(S("\xc0\0\2"), DNS_A, 25, &at));
    CHECK(!rdata_address(S("\xc0\0\2\7\7"), DNS_A, 25, &at));
    CHECK(!rdata_address(S("\xc0\0\2\7"), DNS_AAAA, 25, &at));

    /* 255 octets on the wire are 253 in text; one more is none. */
    struct buf name = buf_in(a, 300);
    for (int i = 0; i < 3; i++) {
        buf_addc(&name, 63);
        for (int k = 0; k < 63; k++)
            buf_addc(&name, 'a');
    }
    buf_addc(&name, 61);
    for (int k = 0; k < 61; k++)
        buf_addc(&name, 'b');
    buf_addc(&name, 0);
    CHECK_INT(name.n, 255);
    CHECK(rdata_ptr(a, buf_str(&name), &text, &host) && host);
    CHECK_INT(text.n, 253);
    name.p[192] = 62;
    name.p[254] = 'b';
    buf_addc(&name, 0);
    CHECK(!rdata_ptr(a, buf_str(&name), &text, &host));
    buf_clear(&name);
    for (int k = 0; k < 1000; k++) /* a label of one octet, again and again */
        buf_add(&name, S("\1a"));
    CHECK(!rdata_ptr(a, buf_str(&name), &text, &host));
}

/* ---- the system's files ---- */

TEST(hosts_are_read_line_by_line)
{
    str text = S("127.0.0.1 localhost\n::1\tlocalhost ip6-localhost # and so on\n\n# 192.0.2.1 no\n192.0.2.2 Two.Example two\r\n192.0.2.3 two\n"
        "192.0.2.3 two\nnonsense here\n192.0.2.4:25 port\nfe80::1%eth0 scoped\n[::1] bracket\nunix:/x unix\n192.0.2.5\n192.0.2.6 a..b ok.example\n\377 \377");
    struct hosts *h = hosts_parse(text);
    char ip[ADDR_TEXT];

    CHECK(hosts_find(h, S("localhost")) && hosts_find(h, S("localhost"))->n == 2);
    CHECK(hosts_find(h, S("two")) && hosts_find(h, S("two"))->n == 2);
    CHECK(hosts_find(h, S("two.example")) && hosts_find(h, S("two.example"))->n == 1);
    CHECK(hosts_find(h, S("ok.example")) != NULL);
    if (hosts_find(h, S("two.example")))
        CHECK_STR(addr_print_ip(&hosts_find(h, S("two.example"))->p[0], ip), S("192.0.2.2"));
    CHECK(!hosts_find(h, S("no")) && !hosts_find(h, S("and")) && !hosts_find(h, S("port")) && !hosts_find(h, S("scoped")) && !hosts_find(h, S("bracket"))
          && !hosts_find(h, S("unix")));
    hosts_free(h);

    AUTO_ARENA a = arena_new();
    struct buf many = buf_in(a, 100000);
    for (int i = 0; i < 1000; i++)
        buf_addf(&many, "10.0.%d.%d one\n", i / 250, i % 250);
    h = hosts_parse(buf_str(&many));
    CHECK_INT(hosts_find(h, S("one"))->n, 64);
    hosts_free(h);
}

TEST(resolv_conf_names_servers)
{
    AUTO_ARENA a = arena_new();
    struct addrs got = resolv_parse(a, S("# made by hand\nsearch example.org\nnameserver 192.0.2.53\nnameserver ::1 # ours\nnameserver fe80::1%eth0\n"
                                         "nameserver 0.0.0.0\nnameserver 192.0.2.53\noptions ndots:5\nnameserver\nnameserver one.example\n"));
    char text[ADDR_TEXT];

    CHECK_INT(got.n, 2);
    CHECK_STR(addr_print(&got.p[0], text), S("192.0.2.53:53"));
    CHECK_STR(addr_print(&got.p[1], text), S("[::1]:53"));
    got = resolv_parse(a, S("nameserver 10.0.0.1\nnameserver 10.0.0.2\nnameserver 10.0.0.3\nnameserver 10.0.0.4\nnameserver 10.0.0.5\n"
                            "nameserver 10.0.0.6\nnameserver 10.0.0.7\nnameserver 10.0.0.8\nnameserver 10.0.0.9\n"));
    CHECK_INT(got.n, 8);
    CHECK_INT(resolv_parse(a, S("")).n, 0);
}
