/* Fields are cut without loss; one that we write is one field, whatever it was given; the scan agrees with a slower. */
#include "kit/kit.h"
#include "mail/mail.h"

/* Octet by octet, what scan.c does by 64. */
static struct scan scan_slowly(str s)
{
    struct scan r = { .size = s.n, .header_end = s.n, .header_open = true };
    str line = str_head(s, 0);

    for (size_t i = 0; i < s.n; i++) {
        char c = s.p[i], before = i ? s.p[i - 1] : 0, after = i + 1 < s.n ? s.p[i + 1] : 0;
        r.nul |= c == 0;
        r.bare_cr |= c == '\r' && after != '\n';
        r.bare_lf |= c == '\n' && before != '\r';
        r.dots |= c == '.' && line.n == 0;
        *(r.header_open ? &r.eight_bit_header : &r.eight_bit_body) |= (c & 0x80) != 0;
        line.n++;
        bool end = c == '\n' && before == '\r';
        if (!end && i + 1 < s.n)
            continue;
        line.n -= end ? 2 : 0;
        r.longest_line = MAX(r.longest_line, (uint32_t)line.n);
        if (r.header_open && line.n && line.p[0] != ' ' && line.p[0] != '\t') {
            r.fields++;
            r.received += str_istarts(line, S("received:")) || str_istarts(line, S("received ")) ||
                          str_istarts(line, S("received\t"));
        }
        if (r.header_open && line.n == 0) {
            r.header_open = false;
            r.header_end = i + 1;
        }
        line = str_head(str_from(s, i + 1), 0);
    }
    r.dots |= r.nul || r.bare_cr || r.bare_lf;
    return r;
}

static void check_scan(str s, size_t piece)
{
    struct scan got, want = scan_slowly(s);

    scan_init(&got);
    for (str rest = s; rest.n; rest = str_from(rest, piece))
        scan_feed(&got, str_head(rest, piece));
    scan_end(&got);
    must(got.size == want.size && got.header_end == want.header_end && got.longest_line == want.longest_line);
    must(got.received == want.received && got.fields == want.fields && got.dots == want.dots);
    must(got.eight_bit_header == want.eight_bit_header && got.eight_bit_body == want.eight_bit_body);
    must(got.nul == want.nul && got.bare_cr == want.bare_cr && got.bare_lf == want.bare_lf);
}

FUZZ(data, size)
{
    AUTO_ARENA a = arena_new();
    AUTO_BUF out = { 0 };
    str s = str_of((const char *)data, size), rest = s, got;
    struct field f;
    size_t cut = 0;

    while (header_next(&rest, &f)) {
        cut += f.whole.n;
        must(f.name.n && f.value.n < f.whole.n);
        str plain = header_unfold(a, f.value);
        must(!str_has(plain, S("\r\n")));
        must(header_get(a, s, f.name, &got));
    }
    must(cut + rest.n == s.n);

    header_add(&out, S("Name"), s);
    str written = buf_str(&out);
    must(header_next(&written, &f) && written.n == 0 && str_eq(f.name, S("Name")));
    must(str_findc(buf_str(&out), 0) == STR_NONE);
    str value = header_unfold(a, f.value);
    must(!str_has(value, S("\r")) && !str_has(value, S("\n")));

    check_scan(s, size ? 1 + data[0] % 100 : 1);
}
