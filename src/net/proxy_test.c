#include "kit/kit.h"
#include "net/net.h"

#define SIGNATURE "\r\n\r\n\0\r\nQUIT\n"
#define TCP4 "\x21\x11"
#define FOUR "\xc0\0\x02\x07\xc6\x33\x64\x19\x30\x39\0\x19" /* 192.0.2.7:12345 -> 198.51.100.25:25 */
#define SIX "\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x07" "\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x19" "\x30\x39\0\x19"

TEST(attack_18_proxy_headers_are_read_to_the_octet)
{
    static const struct { str in; err want; size_t rest; str client; } cases[] = {
        { S("PROXY TCP4 192.0.2.7 198.51.100.25 12345 25\r\nEHLO"), OK, 4, S("192.0.2.7:12345") },
        { S("PROXY TCP6 2001:db8::7 2001:db8::25 1 65535\r\n"), OK, 0, S("[2001:db8::7]:1") },
        { S("PROXY TCP6 ::ffff:192.0.2.7 ::ffff:198.51.100.25 1 25\r\n"), OK, 0, S("192.0.2.7:1") },
        { S("PROXY UNKNOWN\r\n"), OK, 0, S("") },
        { S("PROXY UNKNOWN ffff::1 whatever it says\r\nEHLO"), OK, 4, S("") },
        { S("PROXY TCP4 192.0.2.7 198.51.100.25 12345 25\n"), E_AGAIN },
        { S("PROXY TCP4 192.0.2.7 198.51.100.25 12345\r\n"), E_SYNTAX },
        { S("PROXY TCP4 192.0.2.7 198.51.100.25 12345 25 1\r\n"), E_SYNTAX },
        { S("PROXY TCP4  192.0.2.7 198.51.100.25 12345 25\r\n"), E_SYNTAX },
        { S("PROXY TCP4 192.0.2.07 198.51.100.25 12345 25\r\n"), E_SYNTAX },
        { S("PROXY TCP4 192.0.2.7 198.51.100.25 65536 25\r\n"), E_SYNTAX },
        { S("PROXY TCP4 192.0.2.7 198.51.100.25 0x19 25\r\n"), E_SYNTAX },
        { S("PROXY TCP4 2001:db8::7 2001:db8::25 1 25\r\n"), E_SYNTAX },
        { S("PROXY TCP6 192.0.2.7 198.51.100.25 1 25\r\n"), E_SYNTAX },
        { S("PROXY TCP4 unix unix /a /b\r\n"), E_SYNTAX },
        { S("PROXY UDP4 192.0.2.7 198.51.100.25 1 25\r\n"), E_SYNTAX },
        { S("proxy TCP4 192.0.2.7 198.51.100.25 12345 25\r\n"), E_SYNTAX },
        { S("EHLO there.example\r\n"), E_SYNTAX },
        { S("\r\n\r\nX"), E_SYNTAX },
        { S(SIGNATURE TCP4 "\0\x0c" FOUR "EHLO"), OK, 4, S("192.0.2.7:12345") },
        { S(SIGNATURE "\x21\x21\0\x24" SIX), OK, 0, S("[2001:db8::7]:12345") },
        { S(SIGNATURE TCP4 "\0\x11" FOUR "\x04\0\x02" "ab"), OK, 0, S("192.0.2.7:12345") },   /* a TLV that is skipped */
        { S(SIGNATURE TCP4 "\0\x11" FOUR "\x04\0\x03" "ab"), E_SYNTAX },                      /* one that says it is longer */
        { S(SIGNATURE TCP4 "\0\x11" FOUR "\x04\xff\xff" "ab"), E_SYNTAX },
        { S(SIGNATURE TCP4 "\0\x0e" FOUR "\x04\0"), E_SYNTAX },                            /* half of one */
        { S(SIGNATURE TCP4 "\0\x0b" FOUR), E_SYNTAX },                                     /* shorter than its addresses */
        { S(SIGNATURE TCP4 "\0\x0d" FOUR), E_AGAIN },                                      /* longer than what has come */
        { S(SIGNATURE "\x21\x21\0\x0c" FOUR), E_SYNTAX },
        { S(SIGNATURE TCP4 "\xff\xff" FOUR), E_SYNTAX },
        { S(SIGNATURE "\x20\0\0\0" "EHLO"), OK, 4, S("") },                                /* LOCAL */
        { S(SIGNATURE "\x20\x11\0\x0c" FOUR), OK, 0, S("") },
        { S(SIGNATURE "\x21\0\0\0"), OK, 0, S("") },                                       /* PROXY of nobody it knows */
        { S(SIGNATURE "\x21\x12\0\x0c" FOUR), E_SYNTAX },                                  /* UDP */
        { S(SIGNATURE "\x21\x31\0\x0c" FOUR), E_SYNTAX },                                  /* a Unix socket's need 216 octets */
        { S(SIGNATURE "\x22\x11\0\x0c" FOUR), E_SYNTAX },
        { S(SIGNATURE "\x11\x11\0\x0c" FOUR), E_SYNTAX },
    };
    EACH(cases, c) {
        struct proxied p;
        size_t used;
        char text[ADDR_TEXT];
        err e = proxy_parse(c->in, &p, &used);
        CHECK_INT(e, c->want, c->in);
        if (e != OK)
            continue;
        CHECK_INT(c->in.n - used, c->rest, c->in);
        CHECK_INT(p.known, c->client.n > 0, c->in);
        if (p.known)
            CHECK_STR(addr_print(&p.client, text), c->client);
        for (size_t i = 0; i < used; i++)
            CHECK_INT(proxy_parse(str_head(c->in, i), &p, &used), E_AGAIN, c->in), used = c->in.n - c->rest;
    }
}

TEST(attack_18_a_line_of_version_1_has_an_end)
{
    char line[200];
    struct proxied p;
    size_t used;

    memset(line, 'x', sizeof line);
    memcpy(line, "PROXY UNKNOWN ", 14);
    CHECK_INT(proxy_parse(str_of(line, 106), &p, &used), E_AGAIN);
    CHECK_INT(proxy_parse(str_of(line, 107), &p, &used), E_SYNTAX);
    memcpy(line + 105, "\r\n", 2);
    CHECK_INT(proxy_parse(str_of(line, 107), &p, &used), OK);
    CHECK_INT(used, 107);
    memcpy(line + 106, "\r\n", 2);
    line[105] = 'x';
    CHECK_INT(proxy_parse(str_of(line, 108), &p, &used), E_SYNTAX);
}
