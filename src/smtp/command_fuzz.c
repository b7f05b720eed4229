/* Every line is either taken or refused with a reply that can be said; nothing decoded holds a control. */
#include "kit/kit.h"
#include "smtp/smtp.h"

static void check_clean(str s)
{
    for (size_t i = 0; i < s.n; i++)
        must(!ascii_control(s.p[i]));
}

FUZZ(data, size)
{
    AUTO_ARENA a = arena_new();
    str line = str_of((const char *)data, size);
    struct command c;

    command_parse(a, line, &c);
    must(str_eq(c.line, line) && c.argument.n <= line.n);
    must(c.refuse.code == 0 ||
         (c.refuse.code >= 500 && c.refuse.code < 600 && c.refuse.enhanced.class == 5 && c.refuse.text.n));
    must(c.verb != VERB_UNKNOWN || c.refuse.code == 500);
    must(c.verb != VERB_HTTP || c.refuse.code == 500);
    if (c.refuse.code)
        return;
    check_clean(c.envid);
    check_clean(c.auth);
    check_clean(c.orcpt);
    check_clean(c.path.text);
    for (size_t i = 0; i < ATTRS; i++) {
        must(!c.attr[i].n || c.attrs & 1u << i);
        check_clean(c.attr[i]);
        must(i == ATTR_NAME || str_findc(c.attr[i], ' ') == STR_NONE);
    }
    must((c.attrs != 0) == (c.verb == VERB_XCLIENT || c.verb == VERB_XFORWARD));
    must((c.attr_addr.n != 0) == (c.attr[ATTR_ADDR].n != 0));
    must(c.verb == VERB_MAIL || c.verb == VERB_RCPT || (!c.path.text.n && !c.has_size && !c.notify && !c.orcpt.n));
    must(c.verb != VERB_RCPT || c.path.text.n);
    must(!(c.notify & NOTIFY_NEVER) || c.notify == NOTIFY_NEVER);
}
