/* Whatever is taken as an address is whole, within its limits, and means the same when it is written and read again. */
#include "kit/kit.h"
#include "mail/mail.h"

static void check_path(arena *a, const struct path *p)
{
    must(p->text.n <= 254 && p->local.n <= 64 && p->domain.n <= 253);
    must(!str_has(p->text, S("\r")) && !str_has(p->text, S("\n")) && str_findc(p->text, 0) == STR_NONE);
    if (!p->domain.n)
        return;
    must(str_eq(p->text, str_printf(a, "%.*s@%.*s", STR(p->local), STR(p->domain))));
    must(p->literal == (p->domain.p[0] == '[') && p->quoted == (p->local.p[0] == '"'));
    must(p->literal || domain_valid(p->domain));

    /* Its key is an address too, and its own key. */
    struct path again;
    str key = path_key(a, p);
    must(address_parse(key, &again) == OK);
    must(str_eq(path_key(a, &again), key));
    path_tricky(p);
}

FUZZ(data, size)
{
    AUTO_ARENA a = arena_new();
    str s = str_of((const char *)data, size), rest, text;
    struct path p;

    if (path_parse(s, true, true, &p, &rest) == OK) {
        check_path(a, &p);
        must(rest.n < s.n);
        struct buf written = buf_in(a, size);
        buf_addc(&written, '<');
        buf_add(&written, p.text);
        buf_addc(&written, '>');
        buf_add(&written, rest);
        struct path again;
        str after;
        must(path_parse(buf_str(&written), true, true, &again, &after) == OK);
        must(str_eq(again.text, p.text) && str_eq(after, rest));
    }
    if (address_parse(s, &p) == OK)
        check_path(a, &p);
    if (xtext_decode(a, s, &text) == OK) {
        must(!str_has(text, S("\n")) && !str_has(text, S("\r")) && str_findc(text, 0) == STR_NONE);
        str back;
        must(xtext_decode(a, xtext_encode(a, text), &back) == OK && str_eq(back, text));
    }
    str ascii = address_ascii(a, s), unitext = address_unitext(a, s);
    for (size_t i = 0; i < ascii.n; i++)
        must(ascii.p[i] > ' ' && ascii.p[i] < 127);
    must(str_eq(address_ascii(a, unitext), ascii) || str_findc(ascii, '\\') != STR_NONE);
    if (address_decode(a, s, &text) == OK && !str_eq(text, s)) { /* what stood embedded is a character, and its own way back */
        str back;
        if (address_decode(a, address_unitext(a, text), &back) == OK)
            must(str_eq(address_ascii(a, back), address_ascii(a, text)));
    }
    must(!domain_matches(S("*.example.com"), s) || (size > 12 && str_iends(s, S(".example.com"))));
}
