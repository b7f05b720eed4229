/* data_feed against a machine of one octet at a time, in any pieces; and what data_stuff writes comes back from
 * data_feed as it was, but for bare CRs and LFs. The first octet says how large the pieces are. */
#include "kit/kit.h"
#include "smtp/smtp.h"

/* RFC 5321 4.5.2 as it reads: lines end in CRLF; a line of one dot ends all, else a leading dot goes. */
static size_t feed_slowly(str in, struct buf *out, struct data *d)
{
    for (size_t at = 0; at < in.n;) {
        str rest = str_from(in, at);
        size_t end = str_find(rest, S("\r\n"));
        str line = str_head(rest, end == STR_NONE ? end : end + 2);
        at += line.n;
        if (str_eq(line, S(".\r\n"))) {
            d->ended = true;
            return at;
        }
        if (str_starts(line, S(".")))
            line = str_from(line, 1);
        if (end == STR_NONE && str_eq(rest, S(".\r")))
            line.n--; /* withheld: it may be the end */
        buf_add(out, line);
        size_t body = line.n - (end == STR_NONE ? 0 : MIN(line.n, 2));
        bool dangling = end == STR_NONE && body && line.p[body - 1] == '\r';
        d->bare_cr |= str_findc(str_head(line, body - dangling), '\r') != STR_NONE;
        d->bare_lf |= str_findc(str_head(line, body), '\n') != STR_NONE;
    }
    return in.n;
}

static void check_feed(str in, size_t piece, size_t max)
{
    AUTO_BUF got = { 0 }, want = { 0 };
    struct data d = { 0 }, slow = { 0 };
    size_t at = 0, end = feed_slowly(in, &want, &slow);

    while (at < in.n && !d.ended) {
        size_t before = got.n, n = data_feed(&d, str_head(str_from(in, at), piece), &got, max);
        must((n || got.n > before) && got.n - before <= max);
        at += n;
    }
    must(str_eq(buf_str(&got), buf_str(&want)) && at == end && d.ended == slow.ended && d.size == got.n);
    must(d.bare_cr == slow.bare_cr && d.bare_lf == slow.bare_lf);
}

static void check_stuff(str in, size_t piece)
{
    AUTO_BUF normal = { 0 }, stuffed = { 0 }, back = { 0 };
    uint8_t state = 0;
    struct data d = { 0 };
    struct scan scan;

    for (str rest = in; rest.n; rest = str_from(rest, piece))
        data_stuff(&stuffed, str_head(rest, piece), &state);
    scan_init(&scan);
    scan_feed(&scan, buf_str(&stuffed));
    scan_end(&scan);
    must(!scan.bare_cr && !scan.bare_lf && !str_has(buf_str(&stuffed), S("\r\n.\r\n")));

    for (size_t i = 0; i < in.n; i++) {
        if (in.p[i] == '\r' || (in.p[i] == '\n' && (!i || in.p[i - 1] != '\r')))
            buf_add(&normal, S("\r\n"));
        else if (in.p[i] != '\n')
            buf_addc(&normal, in.p[i]);
    }
    if (str_findc(in, 0) != STR_NONE)
        return; /* a dot behind a NUL gets a companion that nobody takes away */
    must(data_feed(&d, buf_str(&stuffed), &back, SIZE_MAX) == stuffed.n && !d.ended);
    must(str_eq(buf_str(&back), buf_str(&normal)));
}

FUZZ(data, size)
{
    if (!size)
        return;
    str in = str_of((const char *)data + 1, size - 1);
    size_t piece = 1 + (data[0] & 0x7f);

    check_feed(in, piece, data[0] & 0x80 ? 1 + piece / 2 : SIZE_MAX);
    check_stuff(in, piece);
}
