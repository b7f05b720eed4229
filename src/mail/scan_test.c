#include "kit/kit.h"
#include "mail/mail.h"

#include <stdio.h>
#include <stdlib.h>

static struct scan scan_pieces(str s, size_t piece)
{
    struct scan scan;
    scan_init(&scan);
    for (; s.n; s = str_from(s, piece))
        scan_feed(&scan, str_head(s, piece));
    scan_end(&scan);
    return scan;
}

TEST(scan_tells_what_a_body_holds)
{
    static const struct {
        str in;
        uint64_t header_end;
        uint32_t longest, received, fields;
        bool dots, high_header, high_body, nul, bare_cr, bare_lf;
    } cases[] = {
        { S(""), 0 },
        { S("\r\n"), 2 },
        { S("A: b\r\n\r\n"), 8, 4, 0, 1 },
        { S("Received: a\r\n\tb\r\nRECEIVED : c\r\nReceivedX: d\r\nReceived\r\n\r\nReceived: body\r\n"), 57, 14, 2, 4 },
        { S("received:\r\n\r\n"), 13, 9, 1, 1 },
        { S("A: b\r\nC: d"), 10, 4, 0, 2 },
        { S("A: b\r\n\r\nlonger line\r\nx"), 8, 11, 0, 1 },
        { S("A: b\r\n\r\nx\r\nlonger line"), 8, 11, 0, 1 },
        { S("A: b\r\n\r\n.\r\n"), 8, 4, 0, 1, .dots = true },
        { S("."), 1, 1, 0, 1, .dots = true },
        { S("A: b\r\n\r\na.b\r\n"), 8, 4, 0, 1 },
        { S("A: \xc3\xb6\r\n\r\nb\r\n"), 9, 5, 0, 1, .high_header = true },
        { S("A: b\r\n\r\n\xc3\xb6\r\n"), 8, 4, 0, 1, .high_body = true },
        { S("A: b\r\n\r\n\0\r\n"), 8, 4, 0, 1, .nul = true, .dots = true },
        { S("A: b\r\n\r\nc\rd\r\n"), 8, 4, 0, 1, .bare_cr = true, .dots = true },
        { S("A: b\r\n\r\nc\nd\r\n"), 8, 4, 0, 1, .bare_lf = true, .dots = true },
        { S("A: b\r\n\r\nc\r"), 8, 4, 0, 1, .bare_cr = true, .dots = true },
        { S("A: b\r\n\r\nc\r\r\n"), 8, 4, 0, 1, .bare_cr = true, .dots = true },
        { S("A: b\n\nc\r\n"), 9, 7, 0, 1, .bare_lf = true, .dots = true },
        { S("\n"), 1, 1, 0, 1, .bare_lf = true, .dots = true },
    };
    EACH(cases, c) {
        for (size_t piece = 1; piece < 80; piece++) {
            struct scan s = scan_pieces(c->in, piece);
            CHECK_INT(s.size, c->in.n, c->in);
            CHECK_INT(s.header_end, c->header_end, c->in);
            CHECK_INT(s.longest_line, c->longest, c->in);
            CHECK_INT(s.received, c->received, c->in);
            CHECK_INT(s.fields, c->fields, c->in);
            CHECK_INT(s.dots, c->dots, c->in);
            CHECK_INT(s.eight_bit_header, c->high_header, c->in);
            CHECK_INT(s.eight_bit_body, c->high_body, c->in);
            CHECK_INT(s.nul, c->nul, c->in);
            CHECK_INT(s.bare_cr, c->bare_cr, c->in);
            CHECK_INT(s.bare_lf, c->bare_lf, c->in);
            CHECK(!s.header_open, c->in);
        }
    }
}

TEST(scan_runs_at_memory_speed)
{
    enum { LINES = 20000, ROUNDS = 20 };
    AUTO_BUF body = { 0 };
    buf_add(&body, S("Subject: speed\r\n\r\n"));
    for (int i = 0; i < LINES; i++)
        buf_add(&body, S("The quick brown fox jumps over the lazy dog. 0123456789 0123456789\r\n"));

    when began = clock_now();
    for (int i = 0; i < ROUNDS; i++)
        CHECK(!scan_pieces(buf_str(&body), 4096).dots);
    double rate = (double)body.n * ROUNDS / (double)MAX(clock_now() - began, 1) / 1000;
    if (getenv("KIT_VERBOSE"))
        printf("scan: %.1f GB/s\n", rate);
    CHECK(rate > 0.5 / KIT_SLOW);
}
