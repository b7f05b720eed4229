/* Relay domains, networks and the way of a recipient; and their settings. */
#include "route/route.h"

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

struct backend *route_for(const struct routes *r, str domain, when *expire)
{
    const struct relay_domain *d = route_domain(r, domain);

    *expire = d ? d->expire : 0;
    return d ? d->backend : r->fallback;
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

    if (r->any)
        return FOUND;
    for (size_t i = 0; i < r->ntable; i++)
        switch (table_find(r->table[i], who, NULL)) {
        case FOUND:
            return FOUND;
        case UNDECIDED:
            undecided = true;
            break;
        case ABSENT:
            break;
        }
    return undecided ? UNDECIDED : ABSENT;
}
