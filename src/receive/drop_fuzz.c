/* A file of anybody's making: read within its bounds, and what is taken of it is an envelope. */
#include "kit/kit.h"
#include "receive/receive.h"

FUZZ(data, size)
{
    AUTO_ARENA a = arena_new();
    struct drop d;

    err e = drop_parse(a, str_of((const char *)data, size), S("01ARZ3NDEKTSV4RRFFQ69G5FAV"), 100, &d);
    must(e == OK || e == E_SYNTAX);
    if (e != OK)
        return;
    must(d.mail.verb == VERB_MAIL && !d.mail.refuse.code && d.nrcpt >= 1 && d.nrcpt <= 100);
    for (size_t i = 0; i < d.nrcpt; i++)
        must(d.rcpt[i].verb == VERB_RCPT && !d.rcpt[i].refuse.code && d.rcpt[i].path.text.n);
    must(d.octets.n <= size && (d.octets.n == 0 || d.octets.p + d.octets.n == (const char *)data + size));
}
