/* Whatever comes first: a header is read the same in one piece and octet by octet, never beyond its end, and its addresses are addresses. */
#include "kit/kit.h"
#include "net/net.h"

FUZZ(data, size)
{
    str in = str_of((const char *)data, size);
    struct proxied p, again;
    size_t used, n;
    char text[ADDR_TEXT];

    err e = proxy_parse(in, &p, &used);
    must(e == OK || e == E_AGAIN || e == E_SYNTAX);
    must(used <= size && (e != OK || used >= 8));
    must(e == OK || e == E_SYNTAX || size < 16 + 4096);
    if (e == OK && p.known) {
        struct addr a;
        must(addr_parse(addr_print(&p.client, text), 0, &a) == OK && addr_eq(&a, &p.client));
        must(addr_parse(addr_print(&p.server, text), 0, &a) == OK && addr_eq(&a, &p.server));
    }
    /* Any shorter piece of a good header asks for more, and what follows a header changes nothing. */
    for (size_t i = 0; e == OK && i < used; i++)
        must(proxy_parse(str_head(in, i), &again, &n) == E_AGAIN);
    if (e == OK)
        must(proxy_parse(str_head(in, used), &again, &n) == OK && n == used && again.known == p.known);
}
