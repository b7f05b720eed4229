/* The system's resolver, on a pool's thread: it blocks. */
#include "net/net.h"

#include <errno.h>
#include <netdb.h>

struct question { const char *host; struct addrinfo *found; int result, number; };

static void ask(void *arg)
{
    struct question *q = arg;
    struct addrinfo hints = { .ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM };
    q->result = getaddrinfo(q->host, NULL, &hints, &q->found);
    q->number = errno;
}

static err failure(const struct question *q)
{
    switch (q->result) {
    case EAI_NONAME: case EAI_NODATA: case EAI_ADDRFAMILY:
        return fail(E_NONAME, "%s: no such host", q->host);
    case EAI_SYSTEM:
        fail_errno(q->number, "looking up %s", q->host);
        return E_AGAIN;
    default:
        return fail(E_AGAIN, "looking up %s: %s", q->host, gai_strerror(q->result));
    }
}

err addr_lookup(struct pool *p, arena *a, str host, uint16_t port, struct addrs *ret)
{
    struct question q = { 0 };
    struct addrs got = { 0 };

    if (!host.n || host.n > 255 || str_findc(host, 0) != STR_NONE)
        return fail(E_NONAME, "this is no host name");
    q.host = str_cz(a, host);
    work_run(p, ask, &q);
    if (q.result != 0)
        return failure(&q);
    for (struct addrinfo *i = q.found; i; i = i->ai_next)
        got.n++;
    got.p = NEW_ARRAY(a, struct addr, got.n);
    got.n = 0;
    for (struct addrinfo *i = q.found; i; i = i->ai_next) {
        struct sockaddr_storage sa = { 0 };
        memcpy(&sa, i->ai_addr, MIN(i->ai_addrlen, sizeof sa));
        struct addr one = addr_of(&sa, i->ai_addrlen);
        addr_set_port(&one, port);
        if (one.n)
            got.p[got.n++] = one;
    }
    freeaddrinfo(q.found);
    *ret = got;
    return OK;
}
