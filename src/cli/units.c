/* Values of options: times, sizes, addresses. */
#include "cli/cli.h"

#include <netdb.h>

struct unit { str name; uint64_t is; };

static bool with_unit(str s, const struct unit *units, size_t n, uint64_t *ret)
{
    size_t digits = 0;
    uint64_t value;

    while (digits < s.n && ascii_digit(s.p[digits]))
        digits++;
    if (!str_u64(str_head(s, digits), INT64_MAX, &value))
        return false;
    for (size_t i = 0; i < n; i++)
        if (str_ieq(str_from(s, digits), units[i].name))
            return !__builtin_mul_overflow(value, units[i].is, ret) && *ret <= INT64_MAX;
    return false;
}

bool cli_span(const char *text, when *ret)
{
    static const struct unit units[] = {
        { S("us"), MICROSECOND }, { S("ms"), MILLISECOND }, { S("s"), SECOND }, { S("m"), MINUTE }, { S("h"), HOUR },
        { S("d"), DAY },
    };
    uint64_t value;

    if (!with_unit(str_z(text), units, COUNT(units), &value))
        return false;
    *ret = (when)value;
    return true;
}

bool cli_size(const char *text, uint64_t *ret)
{
    static const struct unit units[] = { { S(""), 1 }, { S("k"), 1 << 10 }, { S("m"), 1 << 20 }, { S("g"), 1 << 30 } };
    return with_unit(str_z(text), units, COUNT(units), ret);
}

/* A host by name: the first address that the system's resolver gives. */
static bool look_up(str text, struct addr *ret)
{
    AUTO_ARENA a = arena_new();
    struct addrinfo hints = { .ai_socktype = SOCK_STREAM }, *found;
    size_t colon = text.n;

    while (colon && text.p[colon - 1] != ':')
        colon--;
    if (colon < 2 ||
        getaddrinfo(str_cz(a, str_head(text, colon - 1)), str_cz(a, str_from(text, colon)), &hints, &found) != 0)
        return false;
    struct sockaddr_storage sa = { 0 };
    memcpy(&sa, found->ai_addr, found->ai_addrlen);
    *ret = addr_of(&sa, found->ai_addrlen);
    freeaddrinfo(found);
    return true;
}

bool cli_addr(const char *verb, const char *text, struct addr *ret)
{
    err e = addr_parse(str_z(text), 0, ret);

    if (e == OK || (e == E_NONAME && look_up(str_z(text), ret)))
        return true;
    cli_usage(verb, e == E_NONAME ? "\"%s\": no such host" : "\"%s\" is no address: HOST:PORT or unix:/path", text);
    return false;
}
