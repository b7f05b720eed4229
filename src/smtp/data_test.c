#include "kit/shared.h"
#include "smtp/smtp.h"

/* Feed `in` in pieces of one size with room for `max` at a time; the message in `out`, the octets left unread returned. */
static str feed(struct data *d, str in, size_t piece, size_t max, struct buf *out)
{
    while (in.n && !d->ended) {
        size_t before = out->n, n = data_feed(d, str_head(in, piece), out, max);
        must((n || out->n > before) && out->n - before <= max);
        in = str_from(in, n);
    }
    return in;
}

TEST(data_feed_ends_at_crlf_dot_crlf_only)
{
    static const struct { str in, out, rest; bool ended, bare_cr, bare_lf; } cases[] = {
        { S("a\r\n.\r\nQUIT\r\n"), S("a\r\n"), S("QUIT\r\n"), true, false, false },
        { S(".\r\nQUIT\r\n"), S(""), S("QUIT\r\n"), true, false, false },
        { S("..\r\n.a\r\n...\r\n.\r\n"), S(".\r\na\r\n..\r\n"), S(""), true, false, false },
        { S("a.\r\n.\r\n"), S("a.\r\n"), S(""), true, false, false },
        { S("a\r\n"), S("a\r\n"), S(""), false, false, false },
        { S("a\r\n.\r"), S("a\r\n"), S(""), false, false, false },
        /* attack class 1 */
        { S("a\n.\nb\r\n.\r\n"), S("a\n.\nb\r\n"), S(""), true, false, true },
        { S("a\n.\r\nb\r\n.\r\n"), S("a\n.\r\nb\r\n"), S(""), true, false, true },
        { S("a\r.\rb\r\n.\r\n"), S("a\r.\rb\r\n"), S(""), true, true, false },
        { S("a\r\n.\nb\r\n.\r\n"), S("a\r\n\nb\r\n"), S(""), true, false, true },
        { S("a\r\n.\rb\r\n.\r\n"), S("a\r\n\rb\r\n"), S(""), true, true, false },
        { S("a\r\n.\r\r\nb\r\n.\r\n"), S("a\r\n\r\r\nb\r\n"), S(""), true, true, false },
        { S("a\r\r\n.\r\n"), S("a\r\r\n"), S(""), true, true, false },
        { S("a\r\n\0.\r\nb\r\n.\r\n"), S("a\r\n\0.\r\nb\r\n"), S(""), true, false, false },
        { S("\n.\r\n.\r\n"), S("\n.\r\n"), S(""), true, false, true },
    };
    EACH(cases, c) {
        for (size_t piece = 1; piece < 20; piece++) {
            for (size_t max = 1; max < 20; max += 6) {
                struct data d = { 0 };
                AUTO_BUF out = { 0 };
                str rest = feed(&d, c->in, piece, max, &out);
                CHECK_STR(buf_str(&out), c->out, c->in);
                CHECK_STR(rest, c->rest, c->in);
                CHECK_INT(d.ended, c->ended, c->in);
                CHECK_INT(d.bare_cr, c->bare_cr, c->in);
                CHECK_INT(d.bare_lf, c->bare_lf, c->in);
                CHECK_INT(d.size, c->out.n, c->in);
            }
        }
    }
}

TEST(data_feed_keeps_to_max)
{
    struct data d = { 0 };
    AUTO_BUF out = { 0 };
    CHECK_INT(data_feed(&d, S("hello\r\n.\r\n"), &out, 3), 3);
    CHECK_STR(buf_str(&out), S("hel"));
    CHECK_INT(data_feed(&d, S("lo\r\n.\r\n"), &out, 100), 7);
    CHECK_STR(buf_str(&out), S("hello\r\n"));
    CHECK(d.ended);
}

static void check_stuffed(str in, str want)
{
    for (size_t piece = 1; piece < 20; piece++) {
        AUTO_BUF out = { 0 };
        uint8_t state = 0;
        for (str rest = in; rest.n; rest = str_from(rest, piece))
            data_stuff(&out, str_head(rest, piece), &state);
        CHECK_STR(buf_str(&out), want, in);
    }
}

TEST(data_stuff_doubles_dots)
{
    check_stuffed(S(".a\r\n.\r\nb.\r\n..\r\n"), S("..a\r\n..\r\nb.\r\n...\r\n"));
    check_stuffed(S("a\r\n"), S("a\r\n"));
    check_stuffed(S(""), S(""));
}

TEST(attack_02_data_stuff_leaves_no_bare_line_end)
{
    check_stuffed(S("a\n.\nb"), S("a\r\n..\r\nb"));
    check_stuffed(S("a\r.\rb"), S("a\r\n..\r\nb"));
    check_stuffed(S("a\r\r\nb\n\rc\r"), S("a\r\n\r\nb\r\n\r\nc\r\n"));
    check_stuffed(S("a\r\n\0.\r\n"), S("a\r\n\0..\r\n"));
    check_stuffed(S("\0\0.b\0.\r\n"), S("\0\0..b\0.\r\n"));
}

/* ---- the smuggling sequences ---- */

/* The strings of the array `name` in the JSON text; the escapes are \n, \r and \u00XX. */
static struct strs json_strings(arena *a, str json, const char *name)
{
    struct strs all = { NEW_ARRAY(a, str, 32), 0 };
    str line, list = str_from(json, str_find(json, str_z(name)));

    list = str_head(list, str_findc(list, ']'));
    str_cut(&list, S("["), &line);
    while (str_cut(&list, S("\n"), &line)) {
        line = str_trim(line);
        size_t open = str_findc(line, '"');
        if (open == STR_NONE)
            continue;
        struct buf text = buf_in(a, 16);
        for (size_t i = open + 1; i < line.n && line.p[i] != '"'; i++) {
            if (line.p[i] != '\\') {
                buf_addc(&text, line.p[i]);
            } else if (line.p[++i] == 'u') {
                buf_addc(&text, (char)strtoul(str_cz(a, str_head(str_from(line, i + 1), 4)), NULL, 16));
                i += 4;
            } else {
                buf_addc(&text, line.p[i] == 'n' ? '\n' : '\r');
            }
        }
        must(all.n < 32);
        all.p[all.n++] = buf_str(&text);
    }
    return all;
}

TEST(attack_01_data_withstands_the_smuggling_tools)
{
    AUTO_ARENA a = arena_new();
    str json = kit_shared(a, "smtp/smuggling-end-of-data.json");
    struct strs inbound = json_strings(a, json, "inbound_eod_sequences"), outbound = json_strings(a, json, "outbound_eod_sequences");

    if (!json.n)
        return;
    CHECK_INT(inbound.n, 7);
    CHECK_INT(outbound.n, 9);
    for (size_t i = 0; i < inbound.n; i++) {
        struct data d = { 0 };
        AUTO_BUF out = { 0 };
        struct buf in = buf_in(a, 100);
        buf_add(&in, S("first"));
        buf_add(&in, inbound.p[i]);
        buf_add(&in, S("MAIL FROM:<admin@example.org>\r\n.\r\n"));
        CHECK_STR(feed(&d, buf_str(&in), 1000, 1000, &out), S(""));
        CHECK(d.ended && str_has(buf_str(&out), S("MAIL FROM")), inbound.p[i]);
    }
    for (size_t i = 0; i < outbound.n; i++) {
        AUTO_BUF out = { 0 };
        struct buf in = buf_in(a, 100);
        uint8_t state = 0;
        struct scan scan;
        buf_add(&in, S("first"));
        buf_add(&in, outbound.p[i]);
        buf_add(&in, S("second\r\n"));
        data_stuff(&out, buf_str(&in), &state);
        CHECK(!str_has(buf_str(&out), outbound.p[i]), outbound.p[i]);
        /* and the scan says that this body must go through there */
        scan_init(&scan);
        scan_feed(&scan, buf_str(&in));
        scan_end(&scan);
        CHECK(scan.dots, outbound.p[i]);
    }
}

TEST(data_runs_at_memory_speed)
{
    enum { LINES = 20000, ROUNDS = 20 };
    AUTO_BUF body = { 0 }, out = { 0 };

    for (int i = 0; i < LINES; i++)
        buf_add(&body, S("The quick brown fox jumps over the lazy dog. 0123456789 0123456789\r\n"));
    buf_reserve(&out, body.n + 65536);
    for (int stuff = 0; stuff < 2; stuff++) {
        when began = clock_now();
        for (int i = 0; i < ROUNDS; i++) {
            struct data d = { 0 };
            uint8_t state = 0;
            buf_clear(&out);
            if (stuff)
                data_stuff(&out, buf_str(&body), &state);
            else
                CHECK_INT(data_feed(&d, buf_str(&body), &out, SIZE_MAX), body.n);
            CHECK_INT(out.n, body.n);
        }
        double rate = (double)body.n * ROUNDS / (double)MAX(clock_now() - began, 1) / 1000;
        if (getenv("KIT_VERBOSE"))
            printf("%s: %.1f GB/s\n", stuff ? "data_stuff" : "data_feed", rate);
        CHECK(rate > 0.5 / KIT_SLOW);
    }
}
