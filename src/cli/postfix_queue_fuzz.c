/* A queue file of anybody's making: read within its bounds, and what is taken of it is an envelope and lines. */
#include "cli/postfix_queue.h"
#include "kit/kit.h"

FUZZ(data, size)
{
    AUTO_ARENA a = arena_new();
    struct postfix_mail m;
    struct path p;

    err e = postfix_mail_parse(a, str_of((const char *)data, size), &m);
    must(e == OK || e == E_SYNTAX || e == E_LIMIT);
    must(e == OK || m.body.n == 0);
    if (e != OK)
        return;
    must(m.env.sender.n == 0 || address_parse(m.env.sender, &p) == OK);
    must(m.env.nrcpt <= POSTFIX_RCPTS_MOST && m.arrived <= wall_now());
    for (size_t i = 0; i < m.env.nrcpt; i++)
        must(address_parse(m.env.rcpt[i].to, &p) == OK && m.env.rcpt[i].notify < 16);
    must(m.body.n <= 4 * size && (m.body.n == 0 || str_ends(buf_str(&m.body), S("\r\n"))));
    buf_free(&m.body);
}
