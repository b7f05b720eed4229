/* Names, servers and keys out of files. */
#include "dns/inside.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#define ADDRESSES_MOST 64       /* of one name */
#define SERVERS_MOST 8

/* An address as these files have it: no port, and IPv6 without brackets. One with a scope ("fe80::1%eth0") is none. */
static bool read_ip(str s, uint16_t port, struct addr *ret)
{
    char text[80] = "[";

    if (s.n == 0 || s.n > 64 || str_findc(s, '[') != STR_NONE || str_istarts(s, S("unix:")))
        return false;
    if (str_findc(s, ':') == STR_NONE)
        return addr_parse(s, port, ret) == OK;
    memcpy(text + 1, s.p, s.n);
    text[s.n + 1] = ']';
    /* "192.0.2.1:53" came here too, and is no IPv6 address. */
    return addr_parse(str_of(text, s.n + 2), port, ret) == OK;
}

/* The next line without its comment. */
static bool cut_line(str *text, str *line)
{
    if (!str_cut(text, S("\n"), line))
        return false;
    *line = str_head(*line, MIN(str_findc(*line, '#'), line->n));
    *line = str_trim(*line);
    return true;
}

static void hosts_add(struct hosts *h, str name, const struct addr *at)
{
    str plain;

    if (dns_name(h->a, name, &plain) != OK)
        return;
    struct addrs *all = map_get(&h->by_name, plain);
    if (!all) {
        all = NEW(h->a, struct addrs);
        map_put(&h->by_name, str_dup(h->a, plain), all);
    }
    if (all->n == ADDRESSES_MOST)
        return;
    for (size_t i = 0; i < all->n; i++)
        if (addr_eq(&all->p[i], at))
            return;
    if ((all->n & (all->n - 1)) == 0) { /* a power of two is full */
        struct addr *more = NEW_ARRAY(h->a, struct addr, MAX(all->n * 2, 1));
        if (all->n)
            memcpy(more, all->p, all->n * sizeof *more);
        all->p = more;
    }
    all->p[all->n++] = *at;
}

struct hosts *hosts_parse(str text)
{
    struct hosts *h = mem_new(sizeof *h);
    struct addr at;
    str line, word;

    h->a = arena_new();
    while (cut_line(&text, &line)) {
        if (!str_word(&line, &word) || !read_ip(word, 1, &at))
            continue;
        while (str_word(&line, &word))
            hosts_add(h, word, &at);
    }
    return h;
}

void hosts_free(struct hosts *h)
{
    if (!h)
        return;
    map_free(&h->by_name);
    arena_free(h->a);
    mem_free(h);
}

const struct addrs *hosts_find(const struct hosts *h, str name)
{
    return h ? map_get(&h->by_name, name) : NULL;
}

struct addrs resolv_parse(arena *a, str text)
{
    struct addrs all = { .p = NEW_ARRAY(a, struct addr, SERVERS_MOST) };
    str line, word;

    while (cut_line(&text, &line) && all.n < SERVERS_MOST) {
        if (!str_word(&line, &word) || !str_eq(word, S("nameserver")) || !str_word(&line, &word))
            continue;
        struct addr at;
        if (!read_ip(word, 53, &at) || (at.sa.sa_family == AF_INET ? at.v4.sin_addr.s_addr == 0 : IN6_IS_ADDR_UNSPECIFIED(&at.v6.sin6_addr)))
            continue;
        bool twice = false;
        for (size_t i = 0; i < all.n; i++)
            twice |= addr_eq(&all.p[i], &at);
        if (!twice)
            all.p[all.n++] = at;
    }
    return all;
}

/* ---- trust anchors ---- */

#define ANCHORS_MOST 1000

bool anchor_owner(str line, str *ret)
{
    str word, owner;
    bool known = false;

    if (!str_word(&line, &owner))
        return false;
    while (!known && str_word(&line, &word))
        known = str_ieq(word, S("DNSKEY")) || str_ieq(word, S("DS"));
    if (owner.n > 1 && owner.p[owner.n - 1] == '.')
        owner.n--;
    *ret = owner;
    return known && owner.n <= DNS_NAME_MAX;
}

err anchors_read(arena *a, str path, struct strs *ret)
{
    struct strs got = { .p = NEW_ARRAY(a, str, ANCHORS_MOST) };
    str text, line, owner;

    TRY(during(text_read(a, path, 1 << 20, &text), "the trust anchors"));
    while (str_cut(&text, S("\n"), &line) && got.n < ANCHORS_MOST) {
        line = str_trim(str_head(line, MIN(str_findc(line, ';'), line.n)));
        if (anchor_owner(line, &owner))
            got.p[got.n++] = line;
    }
    if (got.n == 0)
        return fail(E_SYNTAX, "the trust anchors: %.*s has no DNSKEY or DS record", STR(path));
    *ret = got;
    return OK;
}

/* ---- reading ---- */

err text_read(arena *a, str path, size_t most, str *ret)
{
    struct buf out = buf_in(a, 4096);
    ssize_t n;
    int fd = open(str_cz(a, path), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY); /* resolv.conf is often a link; a pipe must not make us wait */

    if (fd < 0)
        return fail_errno(errno, "%.*s", STR(path));
    do {
        buf_reserve(&out, 4096);
        n = read(fd, out.p + out.n, 4096);
        if (n > 0)
            out.n += (size_t)n;
    } while ((n > 0 || (n < 0 && errno == EINTR)) && out.n <= most);
    int number = errno;
    close(fd);
    if (n < 0)
        return fail_errno(number, "%.*s", STR(path));
    if (out.n > most)
        return fail(E_LIMIT, "%.*s is larger than %zu octets", STR(path), most);
    *ret = buf_str(&out);
    return OK;
}
