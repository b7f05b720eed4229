/* Whatever comes in: what parses prints as something that parses to the same. */
#include "kit/kit.h"
#include "net/net.h"

FUZZ(data, size)
{
    str s = str_of((const char *)data, size);
    struct addr a, again;
    struct cidr c;
    char text[ADDR_TEXT];

    if (addr_parse(s, 25, &a) == OK) {
        must(addr_parse(addr_print(&a, text), 0, &again) == OK);
        must(addr_eq(&a, &again));
        must(addr_client_key(&a) == addr_client_key(&again));
        addr_print_literal(&a, text);
        addr_is_private(&a);
        if (a.sa.sa_family != AF_UNIX) {
            must(cidr_parse(addr_print_ip(&a, text), &c) == OK);
            must(cidr_has(&c, &a));
        }
    }
    if (cidr_parse(s, &c) == OK)
        must(cidr_has(&c, &c.base));
}
