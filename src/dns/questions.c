/* The questions, from a name as it was typed to an answer that may be believed. */
#include "dns/inside.h"

#include <stdlib.h>

#define ADDRESSES_MOST 64
#define RECORDS_MOST 100
#define NAMES_MOST 16

/* ---- what they share ---- */

static void about_of(arena *a, const struct answer *answer, struct dns_about *ret)
{
    when left = MAX(answer->expires - clock_now(), 0);

    *ret = (struct dns_about){ .secure = answer->secure, .name = str_dup(a, answer->name), .ttl = (uint32_t)(left / SECOND) };
}

static err ask(struct resolver *r, arena *a, str name, uint16_t type, when deadline, const struct answer **ret)
{
    TRY(dns_name(a, name, &name));
    resolver_look(r);
    return asker_wait(resolver_ask(r, name, type), deadline, ret);
}

/* Of records that cannot be read nothing is told: the answer as a whole is not to be trusted, and another server may know better. */
static err garbled(struct resolver *r, const struct answer *answer, str name, uint16_t type)
{
    answer_drop(r, answer);
    return fail(E_AGAIN, "%s of %.*s: a record is not what its type says", dns_type_name(type), STR(name));
}

/* ---- addresses ---- */

static bool is_localhost(str name) { return name_below(name, S("localhost")); }

static void add_loopback(uint16_t port, struct dns_addresses *ret)
{
    addr_parse(S("[::1]"), 1, &ret->all.p[0]);
    addr_parse(S("127.0.0.1"), 1, &ret->all.p[1]);
    addr_set_port(&ret->all.p[0], port);
    addr_set_port(&ret->all.p[1], port);
    ret->all.n = 2;
    ret->n4 = ret->n6 = 1;
}

static void add_kind(const struct addrs *from, int family, uint16_t port, struct dns_addresses *ret, size_t *n)
{
    for (size_t i = 0; i < from->n && *n < ADDRESSES_MOST; i++)
        if (from->p[i].sa.sa_family == family) {
            struct addr *to = &ret->all.p[ret->all.n++];
            *to = from->p[i];
            addr_set_port(to, port);
            ++*n;
        }
}

/* Names of this machine's own need no server, and none is asked for localhost (RFC 6761 6.3). */
static bool from_hosts(struct resolver *r, str name, uint16_t port, struct dns_addresses *ret)
{
    pthread_mutex_lock(&r->lock);
    const struct addrs *found = hosts_find(r->hosts, name);
    if (found) {
        add_kind(found, AF_INET6, port, ret, &ret->n6);
        add_kind(found, AF_INET, port, ret, &ret->n4);
    }
    pthread_mutex_unlock(&r->lock);
    if (!found && is_localhost(name))
        add_loopback(port, ret);
    else if (!found)
        return false;
    ret->hosts = true;
    ret->about = (struct dns_about){ .name = name };
    return true;
}

static err add_answer(struct resolver *r, arena *a, struct asker *k, uint16_t type, uint16_t port, when deadline, struct dns_addresses *ret, size_t *n,
                      struct dns_about *about)
{
    const struct answer *answer;

    TRY(asker_wait(k, deadline, &answer));
    for (size_t i = 0; i < answer->n && *n < ADDRESSES_MOST; i++) {
        if (!rdata_address(answer->rdata[i], type, port, &ret->all.p[ret->all.n]))
            return garbled(r, answer, answer->name, type);
        ret->all.n++;
        ++*n;
    }
    about_of(a, answer, about);
    answer_drop(r, answer);
    return OK;
}

/* What both answers say together. */
static err both(const struct dns_addresses *got)
{
    if (got->all.n)
        return OK;
    if (got->v6 != OK && got->v6 != E_NONAME)
        return got->v6;
    if (got->v4 != OK && got->v4 != E_NONAME)
        return got->v4;
    return got->v4 == E_NONAME && got->v6 == E_NONAME ? E_NONAME : OK; /* one says there is no such name, the other that there is */
}

err dns_addresses(struct resolver *r, arena *a, str name, uint16_t port, when deadline, struct dns_addresses *ret)
{
    struct dns_addresses got = { .all.p = NEW_ARRAY(a, struct addr, 2 * ADDRESSES_MOST) };
    struct dns_about about4 = { 0 }, about6 = { 0 };

    TRY(dns_name(a, name, &name));
    resolver_look(r);
    if (from_hosts(r, name, port, &got)) {
        *ret = got;
        return OK;
    }
    struct asker *six = resolver_ask(r, name, DNS_AAAA), *four = resolver_ask(r, name, DNS_A);
    got.v6 = add_answer(r, a, six, DNS_AAAA, port, deadline, &got, &got.n6, &about6);
    struct err_note six_note = *err_note;
    got.v4 = add_answer(r, a, four, DNS_A, port, deadline, &got, &got.n4, &about4);
    if (got.v4 == E_CANCELED || got.v6 == E_CANCELED)
        return E_CANCELED;
    if (got.v4 == E_TIMEOUT && got.v6 == E_TIMEOUT)
        return E_TIMEOUT;
    err e = both(&got);
    if (e != OK) {
        if (e == got.v6)
            *err_note = six_note;
        return e;
    }
    if (got.v4 == OK && got.v6 == OK)
        got.about = (struct dns_about){ .secure = about4.secure && about6.secure, .name = about4.name, .ttl = MIN(about4.ttl, about6.ttl) };
    else
        got.about = got.v4 == OK ? about4 : about6;
    got.about.secure &= got.v4 == OK && got.v6 == OK;
    *ret = got;
    return OK;
}

/* ---- mail exchangers ---- */

/* Stable: equals stay as they came. At most some thousand, and nearly always a handful. */
#define SORT(p, n, type, before) \
    do { \
        for (size_t i_ = 1; i_ < (n); i_++) { \
            type it_ = (p)[i_]; \
            size_t j_ = i_; \
            for (; j_ && before(&it_, &(p)[j_ - 1]); j_--) \
                (p)[j_] = (p)[j_ - 1]; \
            (p)[j_] = it_; \
        } \
    } while (0)

static bool mx_before(const struct mx *a, const struct mx *b) { return a->preference < b->preference; }

/* Keep the best RECORDS_MOST of what comes: put where it belongs, the last one falls off. */
static void mx_keep(struct dns_mx *got, struct mx mx)
{
    if (got->n == RECORDS_MOST && !mx_before(&mx, &got->p[got->n - 1]))
        return;
    if (got->n == RECORDS_MOST)
        got->n--;
    got->p[got->n++] = mx;
    SORT(got->p, got->n, struct mx, mx_before);
}

err dns_mx(struct resolver *r, arena *a, str name, when deadline, struct dns_mx *ret)
{
    const struct answer *answer;
    struct dns_mx got = { .p = NEW_ARRAY(a, struct mx, RECORDS_MOST) };

    TRY(ask(r, a, name, DNS_MX, deadline, &answer));
    got.records = answer->n;
    for (size_t i = 0; i < answer->n; i++) {
        struct mx mx;
        bool host;
        if (!rdata_mx(a, answer->rdata[i], &mx, &host))
            return garbled(r, answer, name, DNS_MX);
        if (host)
            mx_keep(&got, mx);
        else if (answer->n == 1 && str_eq(mx.host, S(".")))
            got.null = true; /* RFC 7505 3; beside others it says nothing */
    }
    about_of(a, answer, &got.about);
    answer_drop(r, answer);
    *ret = got;
    return OK;
}

/* ---- the others ---- */

err dns_txt(struct resolver *r, arena *a, str name, when deadline, struct dns_txt *ret)
{
    const struct answer *answer;
    struct dns_txt got = { 0 };

    TRY(ask(r, a, name, DNS_TXT, deadline, &answer));
    got.all.p = NEW_ARRAY(a, str, MAX(answer->n, 1));
    for (size_t i = 0; i < answer->n; i++)
        if (!rdata_txt(a, answer->rdata[i], &got.all.p[got.all.n++]))
            return garbled(r, answer, name, DNS_TXT);
    about_of(a, answer, &got.about);
    answer_drop(r, answer);
    *ret = got;
    return OK;
}

err dns_ptr(struct resolver *r, arena *a, const struct addr *of, when deadline, struct dns_ptr *ret)
{
    const struct answer *answer;
    struct dns_ptr got = { .all.p = NEW_ARRAY(a, str, NAMES_MOST) };
    str name = name_reverse(a, of);

    TRY(ask(r, a, name, DNS_PTR, deadline, &answer));
    for (size_t i = 0; i < answer->n && got.all.n < NAMES_MOST; i++) {
        bool host;
        if (!rdata_ptr(a, answer->rdata[i], &got.all.p[got.all.n], &host))
            return garbled(r, answer, name, DNS_PTR);
        got.all.n += host;
    }
    about_of(a, answer, &got.about);
    answer_drop(r, answer);
    *ret = got;
    return OK;
}

err dns_tlsa(struct resolver *r, arena *a, str name, when deadline, struct dns_tlsa *ret)
{
    const struct answer *answer;
    struct dns_tlsa got = { .p = NEW_ARRAY(a, struct tlsa, RECORDS_MOST) };

    TRY(ask(r, a, name, DNS_TLSA, deadline, &answer));
    for (size_t i = 0; i < answer->n && got.n < RECORDS_MOST; i++)
        if (!rdata_tlsa(a, answer->rdata[i], &got.p[got.n++]))
            return garbled(r, answer, name, DNS_TLSA);
    about_of(a, answer, &got.about);
    answer_drop(r, answer);
    *ret = got;
    return OK;
}

static bool srv_before(const struct srv *a, const struct srv *b) { return a->priority < b->priority; }

err dns_srv(struct resolver *r, arena *a, str name, when deadline, struct dns_srv *ret)
{
    const struct answer *answer;
    struct dns_srv got = { .p = NEW_ARRAY(a, struct srv, RECORDS_MOST) };

    TRY(ask(r, a, name, DNS_SRV, deadline, &answer));
    for (size_t i = 0; i < answer->n && got.n < RECORDS_MOST; i++) {
        bool host;
        if (!rdata_srv(a, answer->rdata[i], &got.p[got.n], &host))
            return garbled(r, answer, name, DNS_SRV);
        got.none |= answer->n == 1 && str_eq(got.p[got.n].host, S("."));
        got.n += host;
    }
    SORT(got.p, got.n, struct srv, srv_before);
    about_of(a, answer, &got.about);
    answer_drop(r, answer);
    *ret = got;
    return OK;
}
