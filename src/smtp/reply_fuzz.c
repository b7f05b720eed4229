/* Lines of a reply: what is taken prints as one safe line, and means the same when it is read again. */
#include "kit/kit.h"
#include "smtp/smtp.h"

FUZZ(data, size)
{
    AUTO_ARENA a = arena_new();
    str rest = str_of((const char *)data, size), line;
    struct reply r = { 0 };
    bool more = true;

    while (more && str_cut(&rest, S("\n"), &line)) {
        struct reply before = r;
        if (reply_parse_line(line, &r, &more) != OK) {
            must(memcmp(&before, &r, sizeof r) == 0);
            return;
        }
        must(r.code >= 200 && r.code < 600 && r.text.n <= line.n && (!before.code || before.code == r.code));
        must(!r.enhanced.class || r.enhanced.class == r.code / 100);
        must(r.enhanced.subject < 1000 && r.enhanced.detail < 1000);

        str printed = reply_print(a, &r);
        for (size_t i = 0; i < printed.n; i++)
            must(!ascii_control(printed.p[i]));
        struct reply again = { 0 };
        bool further;
        must(reply_parse_line(printed, &again, &further) == OK && again.code == r.code && !further);
        must(!r.enhanced.class || again.enhanced.detail == r.enhanced.detail);
    }
}
