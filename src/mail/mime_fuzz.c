/* What is re-encoded passes, stays as it is when it is re-encoded again, and what passed before is left alone. */
#include "kit/kit.h"
#include "mail/mail.h"

static struct scan scan_of(str s)
{
    struct scan scan;
    scan_init(&scan);
    scan_feed(&scan, s);
    scan_end(&scan);
    return scan;
}

static void check(str s, bool eight_bit_ok)
{
    AUTO_BUF once = { 0 }, twice = { 0 };

    if (mime_reencode(s, eight_bit_ok, &once) != OK)
        return;
    struct scan before = scan_of(s), after = scan_of(buf_str(&once));
    must(!after.nul && !after.bare_cr && !after.bare_lf && after.longest_line <= 998);
    must(eight_bit_ok || !after.eight_bit_body);
    must(after.eight_bit_header == before.eight_bit_header);
    must(mime_reencode(buf_str(&once), eight_bit_ok, &twice) == OK && str_eq(buf_str(&once), buf_str(&twice)));
}

FUZZ(data, size)
{
    AUTO_BUF base64 = { 0 }, quoted = { 0 };
    str s = str_of((const char *)data, size);

    check(s, false);
    check(s, true);
    base64_add(&base64, s);
    quoted_printable_add(&quoted, s);
    struct scan b = scan_of(buf_str(&base64)), q = scan_of(buf_str(&quoted));
    must(b.longest_line <= 76 && q.longest_line <= 76 && !b.bare_lf && !q.bare_lf && !b.bare_cr && !q.bare_cr);
}
