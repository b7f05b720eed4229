/* Whatever a program hands in: what comes out has only whole lines, its header is fields, and each recipient is an address. */
#include "kit/kit.h"
#include "mail/mail.h"

FUZZ(data, size)
{
    AUTO_ARENA a = arena_new();
    AUTO_BUF out = { 0 };
    str in = str_of((const char *)data, size);
    struct strs rcpt = { 0 };
    struct path p;
    struct scan scan;
    struct field f;

    if (size == 0)
        return;
    struct submit s = { .host = S("host.example"), .author = S("ann@host.example"), .full_name = str_head(str_from(in, 1), size % 60),
                            .dots = data[0] & 1, .from_header = data[0] & 2 };
    err e = data[0] & 4 ? address_list(a, str_from(in, 1), s.host, &rcpt) : submit_write(a, &s, str_from(in, 1), &out, &rcpt);
    must(e == OK || e == E_SYNTAX || e == E_LIMIT);
    for (size_t i = 0; i < rcpt.n; i++)
        must(address_parse(rcpt.p[i], &p) == OK && p.domain.n);
    if (e != OK || data[0] & 4)
        return;
    scan_init(&scan);
    scan_feed(&scan, buf_str(&out));
    scan_end(&scan);
    must(!scan.bare_cr && !scan.bare_lf && !scan.nul && str_ends(buf_str(&out), S("\r\n")));
    str rest = buf_str(&out);
    bool from = false;
    while (header_next(&rest, &f)) {
        from |= str_ieq(f.name, S("From")) || str_ieq(f.name, S("Resent-From"));
        must(!s.from_header || !str_ieq(f.name, S("Bcc")));
    }
    must(from && str_starts(rest, S("\r\n")));
}
