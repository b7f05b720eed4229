/* Relay domains, networks and the way of a recipient; and their settings. */
#include "route/inside.h"

struct relay_domain *route_domain(const struct routes *r, str domain)
{
    struct relay_domain *d = map_get(&r->exact, domain);

    for (str rest = domain; !d;) {
        size_t dot = str_findc(rest, '.');
        if (dot == STR_NONE)
            return NULL;
        rest = str_from(rest, dot + 1);
        d = map_get(&r->below, rest);
    }
    return d;
}

static bool address_fits(const struct strs *patterns, str address, str domain)
{
    for (size_t i = 0; i < patterns->n; i++) {
        str p = patterns->p[i];
        if (str_findc(p, '@') != STR_NONE ? str_ieq(p, address) : domain_matches(p, domain))
            return true;
    }
    return patterns->n == 0;
}

static bool sender_fits(const struct strs *patterns, const struct route_key *k)
{
    if (patterns->n == 0)
        return true;
    if (!k->has_sender)
        return false;
    for (size_t i = 0; i < patterns->n && k->sender.n == 0; i++)
        if (str_eq(patterns->p[i], S("<>")))
            return true;
    size_t at = k->sender.n;
    while (at && k->sender.p[at - 1] != '@')
        at--;
    return k->sender.n && address_fits(patterns, k->sender, str_from(k->sender, at));
}

static bool word_fits(const struct strs *words, str word)
{
    for (size_t i = 0; i < words->n; i++)
        if (str_ieq(words->p[i], word))
            return true;
    return words->n == 0;
}

const char *rule_misses(const struct route_rule *u, const struct route_key *k)
{
    const struct { const char *what; const struct strs *words; str is; } rest[] = {
        { "network", &u->network, k->network }, { "listener", &u->listener, k->listener }, { "login", &u->login, k->login }, { "tenant", &u->tenant, k->tenant },
        { "stream", &u->stream, k->stream },
    };

    if (!address_fits(&u->to, k->rcpt, k->domain))
        return "to";
    if (!sender_fits(&u->from, k))
        return "from";
    for (size_t i = 0; i < COUNT(rest); i++)
        if (!word_fits(rest[i].words, rest[i].is))
            return rest[i].what;
    return NULL;
}

bool rule_fits(const struct route_rule *u, const struct route_key *k) { return !rule_misses(u, k); }

struct backend *route_find(const struct routes *r, const struct route_key *k, when *expire, const struct route_rule **rule)
{
    const struct relay_domain *d = route_domain(r, k->domain);

    *expire = d ? d->expire : 0;
    for (size_t i = 0; i < r->nrule; i++) {
        if (rule_fits(r->rule[i], k)) {
            if (rule)
                *rule = r->rule[i];
            return r->rule[i]->backend;
        }
    }
    if (rule)
        *rule = NULL;
    return d ? d->backend : r->fallback;
}

static uint64_t fewest(const struct backend *b)
{
    uint64_t n = b->max_connections;

    for (unsigned i = 0; i < b->nlimit; i++)
        if (b->limit[i].connections)
            n = MIN(n, b->limit[i].connections);
    return n;
}

static bool is_narrow(const struct backend *b, unsigned threads) { return fewest(b) < threads; }

uint64_t routes_fewest(const struct routes *r)
{
    uint64_t n = UINT64_MAX;

    for (size_t i = 0; i < r->nbackend; i++)
        n = MIN(n, fewest(r->backend[i]));
    for (size_t i = 0; i < r->noutlets; i++)
        for (size_t k = 0; k < r->outlets[i]->pool->n; k++)
            n = MIN(n, fewest(r->outlets[i]->by[k]));
    return n;
}

bool backend_is_narrow(const struct backend *b, const struct outlets *o, unsigned threads)
{
    if (!o)
        return is_narrow(b, threads);
    for (size_t i = 0; i < o->pool->n; i++)
        if (is_narrow(o->by[i], threads))
            return true;
    return false;
}

struct outlets *route_outlets(const struct routes *r, const struct route_rule *rule, const struct backend *b, str domain)
{
    if (!r->noutlets || !b)
        return NULL;
    if (rule && rule->outlets)
        return rule->outlets;
    if (!rule && r->fallback_outlets && !route_domain(r, domain))
        return r->fallback_outlets;
    return b->outlets;
}

struct backend *route_for(const struct routes *r, str domain, when *expire)
{
    return route_find(r, &(struct route_key){ .domain = domain }, expire, NULL);
}

const struct elsewhere *route_elsewhere(const struct routes *r, str domain)
{
    if (!r->hands_on)
        return NULL;
    const struct relay_domain *d = route_domain(r, domain);
    const struct elsewhere *e = d ? &d->other : &r->other;
    return e->unknown || e->fallback ? e : NULL;
}

const struct network *route_network(const struct routes *r, const struct addr *client)
{
    const struct network *best = NULL;
    unsigned bits = 0;

    for (size_t i = 0; i < r->nnetwork; i++)
        for (size_t k = 0; k < r->network[i]->ncidr; k++) {
            const struct cidr *c = &r->network[i]->cidr[k];
            if (cidr_has(c, client) && (!best || c->bits > bits)) {
                best = r->network[i];
                bits = c->bits;
            }
        }
    return best;
}

bool network_names(const struct network *n, const struct addr *client)
{
    for (size_t i = 0; i < n->ncidr; i++)
        if (n->cidr[i].bits == (n->cidr[i].base.sa.sa_family == AF_INET ? 32 : 128) && cidr_has(&n->cidr[i], client))
            return true;
    return false;
}

bool network_may_send(const struct network *n, str sender_domain)
{
    for (size_t i = 0; i < n->relay_from.n; i++)
        if (domain_matches(n->relay_from.p[i], sender_domain))
            return true;
    return false;
}

enum found recipients_find(const struct recipients *r, const struct path *who)
{
    bool undecided = false;
    size_t dumb = 0;

    if (r->any)
        return FOUND;
    for (size_t i = 0; i < r->ntable; i++) {
        bool mute;
        switch (table_ask(r->table[i], who, NULL, &mute)) {
        case FOUND:
            return FOUND;
        case UNDECIDED:
            undecided |= !mute;
            dumb += mute; /* one that never can tell does not count, unless there is no other */
            break;
        case ABSENT:
            break;
        }
    }
    return undecided || (dumb && dumb == r->ntable) ? UNDECIDED : ABSENT;
}
