/* Mail by MX: the lane of a domain, and where it leads. */
#include "queue/inside.h"

void lane_ask(struct lane *lane)
{
    lane->asking = true;
    lane->queue->nasking++;
    lane->queue->setup.resolve(lane->queue->setup.ctx, lane);
}

static void asked(struct lane *lane)
{
    lane->queue->nasking -= lane->asking;
    lane->asking = false;
}

/* All that is ready in a domain's lane, once more: it goes where the lane now leads. */
static void lane_flush(struct lane *lane)
{
    for (struct lane_line *line = &lane->line; line; line = line->next) {
        struct link all = line->ready;
        if (list_empty(&line->ready))
            continue;
        all.next->prev = all.prev->next = &all;
        list_init(&line->ready);
        lane->nready -= line->n;
        line->n = 0;
        while (!list_empty(&all)) {
            struct ticket *t = AROUND(all.next, struct ticket, place);
            list_del(&t->place);
            t->lane = lane;
            lane_put(lane, t, false);
        }
    }
}

void site_leave(struct lane *lane)
{
    if (lane->site)
        lane->site->domains--;
    lane->site = NULL;
}

static str domain_of_lane(const struct lane *domain)
{
    str name = str_from(domain->name, str_findc(domain->name, ':') + 1);

    return str_head(name, MIN(str_findc(name, '@'), name.n));
}

/* Is it a domain whose mail has a lane of its own at a site, since that may be frozen by a brake? */
static bool is_relay(const struct lane *domain)
{
    const struct relay_domain *d = route_domain(domain->queue->setup.routes, domain_of_lane(domain));

    return d && !d->recipients.any && domain->mx && domain->mx->braking.least;
}

/* Its site by a new configuration: one whose mail was to be kept apart there need not any more, or the other way round. */
void lane_relay_again(struct lane *domain)
{
    if (!domain->site || site_is_relay(domain->site->name) == is_relay(domain))
        return;
    site_leave(domain);
    domain->fresh_until = 0;
}

/* The same servers as far as anybody can tell: answers that rotate do not split a site. */
static struct lane *site_of(struct lane *domain, const struct site *site)
{
    AUTO_ARENA a = arena_new();
    struct queue *q = domain->queue;
    struct lane *to = domain->site;

    if (to && to->domains == 1 && to->backend && site_meets(site, to->backend))
        return to; /* its own, and it changed: it stays the same lane */
    if (to && to->backend && site_is(site, to->backend))
        return to;
    str name = str_printf(a, "%.*s%s", STR(site_name(site, a)), is_relay(domain) ? SITE_RELAY : "");
    const struct outlet *o = lane_outlet(domain);
    return lane_named(q, LANE_SITE, o ? str_printf(a, "%.*s@%.*s", STR(name), STR(o->name)) : name);
}

/* What lies ready where the domain's mail went before, and cannot go: it follows, for somebody may have mended just that. */
static void site_follow(struct lane *domain, struct lane *from)
{
    if (from->state != LANE_DOWN || from->suspended)
        return;
    for (struct lane_line *line = &from->line; line; line = line->next)
        for (struct link *l = line->ready.next, *next; l != &line->ready; l = next) {
            struct ticket *t = AROUND(l, struct ticket, place);
            next = l->next;
            if (!str_ieq(ticket_domain(t), domain_of_lane(domain)))
                continue;
            lane_cut(t);
            t->doubt = 0;
            ticket_go(t, domain);
            lane_put(domain, t, false);
        }
}

#define ASK_FOR_MOST 256

void lane_ask_again(struct lane *site)
{
    struct ticket *t = lane_first(site);

    for (unsigned i = 0; site->mx && t && i < ASK_FOR_MOST; i++, t = lane_after(t)) {
        struct lane *domain = lane_for(site->queue, site->mx, ticket_domain(t));
        if (!domain->site && !domain->refusal.class) { /* nobody had asked for long: as far as is known it leads here */
            domain->site = site;
            site->domains++;
        }
        if (!domain->asking && domain->state == LANE_OPEN && clock_now() >= domain->fresh_until)
            lane_ask(domain);
    }
}

static void domain_known(struct lane *domain)
{
    if (domain->frozen)
        lane_unpause(domain);
    domain->frozen = false;
    domain->state = LANE_OPEN;
}

void queue_site(struct lane *domain, const struct site *site)
{
    struct lane *to = site_of(domain, site), *was = domain->site;

    must(domain->kind == LANE_DOMAIN && site->kind == SITE_HOSTS);
    asked(domain);
    domain->unanswered = 0;
    domain->refusal = (struct enhanced){ 0 };
    domain_known(domain);
    domain->fresh_until = clock_now() + MIN(MAX((when)site->ttl * SECOND, MINUTE), HOUR);
    if (to != domain->site) {
        site_leave(domain);
        domain->site = to;
        to->domains++;
    }
    if (!domain->mx) /* the configuration has no such way any more: what was here has been taken elsewhere */
        return;
    lane_mx(to, domain->mx);
    if (!to->backend || !site_is(site, to->backend)) {
        struct backend *old = to->backend;
        to->backend = site_backend(site, domain->mx, to->name); /* first, so that its brake is held all the time */
        backend_drop(old);
    }
    lane_flush(domain);
    if (was && was != to)
        site_follow(domain, was);
}

void queue_no_site(struct lane *domain, struct enhanced status, str reason, uint32_t ttl)
{
    asked(domain);
    domain->unanswered = 0;
    domain_known(domain);
    domain->refusal = status;
    domain->fresh_until = clock_now() + MIN(MAX((when)ttl * SECOND, MINUTE), HOUR);
    site_leave(domain);
    lane_set_reason(domain, reason);
    lane_flush(domain);
}

void queue_site_later(struct lane *domain, str reason, bool local)
{
    when again = clock_now() + MIN(MINUTE << MIN(domain->unanswered, 5u), 30 * MINUTE);

    asked(domain);
    domain->unanswered++;
    if (domain->site) { /* what was known goes on being true */
        domain->fresh_until = again;
        lane_flush(domain);
    } else if (local)
        lane_freeze(domain, INCIDENT_NO_NAMES, reason, MIN(again, clock_now() + MINUTE));
    else
        lane_down(domain, reason, again);
}
