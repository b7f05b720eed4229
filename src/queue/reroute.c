/* Where a message's recipients go, and what becomes of what waits when the configuration says otherwise than before. */
#include "queue/inside.h"

str domain_of(str address)
{
    size_t at = address.n;

    while (at > 0 && address.p[at - 1] != '@')
        at--;
    return at ? str_from(address, at) : S("");
}

/* The network that a message's client is in, by name. */
static str network_of(const struct routes *r, const struct message *m)
{
    struct addr a;
    const struct network *n = addr_parse(m->origin.client, 25, &a) == OK ? route_network(r, &a) : NULL;

    return n ? n->name : S("");
}

struct route_key origin_key(const struct routes *r, const struct message *m)
{
    return (struct route_key){ .sender = m->env.sender, .has_sender = true, .listener = m->origin.listener, .network = network_of(r, m),
                               .login = m->origin.login, .tenant = m->origin.tenant, .stream = m->origin.stream };
}

void way_begin(struct way *w, const struct routes *r, const struct message *m)
{
    *w = (struct way){ .routes = r, .m = m };
    if (r->nrule) /* else only the domain counts */
        w->key = origin_key(r, m);
}

struct backend *way_of(struct way *w, size_t rcpt)
{
    w->key.rcpt = w->m->env.rcpt[rcpt].to;
    w->key.domain = domain_of(w->key.rcpt);
    const struct route_rule *rule;
    struct backend *b = route_find(w->routes, &w->key, &w->expire, &rule);
    w->outlets = route_outlets(w->routes, rule, b, w->key.domain);
    w->other = rule ? NULL : route_elsewhere(w->routes, w->key.domain);
    return b;
}

/* `b` is one that mail of the domain is handed on to. */
static bool other_is_narrow(const struct routes *r, const struct backend *b, str domain, unsigned threads)
{
    return b && backend_is_narrow(b, route_outlets(r, NULL, b, domain), threads);
}

bool way_is_narrow(const struct routes *r, const struct message *m, unsigned threads)
{
    struct way w;

    if (r->fewest >= threads)
        return false;
    way_begin(&w, r, m);
    for (size_t i = 0; i < m->env.nrcpt; i++) {
        const struct backend *b = way_of(&w, i);
        if (b && backend_is_narrow(b, w.outlets, threads))
            return true;
        if (w.other && (other_is_narrow(r, w.other->unknown, w.key.domain, threads) || other_is_narrow(r, w.other->fallback, w.key.domain, threads)))
            return true;
    }
    return false;
}

/* ---- a new configuration ---- */

static void set_lifetime(struct ticket *t, when expire)
{
    t->lifetime = lifetime_of(t->lane->queue, t->stream, expire);
}

static bool leads_to(const struct lane *to, const struct lane *lane)
{
    return to == lane || (to->kind == LANE_DOMAIN && lane == to->site);
}

/* Ready or waiting: to another lane, keeping its state. */
static void ticket_move(struct ticket *t, struct lane *to)
{
    t->doubt = 0; /* it was another backend's */
    if (t->state == TICKET_READY) {
        lane_cut(t);
        ticket_go(t, to);
        lane_put(to, t, false);
    } else {
        t->lane->nwaiting--;
        ticket_go(t, to);
        to->nwaiting++;
    }
}

/* By its domain alone: where there are no rules, and until rules have been asked. */
static void reroute_by_domain(struct queue *q, struct ticket *t)
{
    when expire;
    struct backend *b = route_for(q->setup.routes, ticket_domain(t), &expire);
    struct lane *to = lane_leaving(q, b, route_outlets(q->setup.routes, NULL, b, ticket_domain(t)), ticket_domain(t), t->lane, NULL);

    set_lifetime(t, expire);
    t->hand_on = route_elsewhere(q->setup.routes, ticket_domain(t)) != NULL;
    if (!leads_to(to, t->lane))
        ticket_move(t, to);
}

/* By rules, its message being known: its recipients may go different ways from now on. */
static void reroute_by_message(struct queue *q, struct ticket *t, const struct message *m, arena *a)
{
    struct way w;
    size_t n = m->env.nrcpt;

    way_begin(&w, q->setup.routes, m);
    while (t) {
        struct rcpt_set *others = arena_alloc(a, sizeof *others + (n + 63) / 64 * sizeof others->bits[0]);
        struct lane *to = NULL;
        when expire = 0;
        bool any = false, hand_on = false;
        others->n = (uint32_t)n;
        for (uint32_t i = 0; i < n; i++) {
            if (!ticket_has(t, i))
                continue;
            struct backend *b = way_of(&w, i);
            struct lane *lane = lane_leaving(q, b, w.outlets, w.key.domain, to ? to : t->lane, NULL);
            if (!to) {
                to = lane;
                expire = w.expire;
                hand_on = w.other != NULL;
            } else if (lane != to || hand_on != (w.other != NULL)) {
                others->bits[i / 64] |= (uint64_t)1 << i % 64;
                any = true;
            }
        }
        must(to);
        struct ticket *rest = NULL;
        if (any) {
            enum ticket_state was = (enum ticket_state)t->state;
            must(ticket_remove(t)); /* what is cut is in flight */
            rest = ticket_split(t, others);
            ticket_settle_as(t, was);
            ticket_settle_as(rest, was);
        }
        set_lifetime(t, expire);
        t->hand_on = hand_on;
        if (!leads_to(to, t->lane))
            ticket_move(t, to);
        t = rest;
    }
}

bool ticket_reroute(struct ticket *t, struct backend *b)
{
    struct lane *to = lane_leaving(t->lane->queue, b, b->outlets, ticket_domain(t), t->lane, NULL);

    if (t->state == TICKET_FLYING)
        return false;
    t->hand_on = false; /* an operator chose its way */
    if (!leads_to(to, t->lane))
        ticket_move(t, to);
    return true;
}

#define PIECE 64

static void lanes_without_a_way(struct queue *q)
{
    for (size_t i = 0; i < q->nlane; i++)
        if (!lane_leads(q->lane[i]))
            for (struct ticket *gone; (gone = lane_take(q->lane[i]));)
                q->setup.unroutable(q->setup.ctx, gone);
}

/* Is any ticket of its message where its source cannot be used? */
static bool any_unfit(const struct ticket *first)
{
    const struct ticket *t = first;

    do
        if (t->lane->unfit)
            return true;
    while ((t = t->sibling) != first);
    return false;
}

/* Messages are read one after the other; what comes or goes meanwhile was or will be routed anew by itself. */
static err reroute_all(struct queue *q, bool unfit_only)
{
    AUTO_ARENA a = arena_new();
    const struct routes *routes = q->setup.routes;
    struct ticket *t[PIECE];
    ulid id[PIECE];
    size_t at = 0, n;

    while ((n = queue_walk(q, &at, t, PIECE))) {
        for (size_t i = 0; i < n; i++)
            id[i] = t[i]->id;
        for (size_t i = 0; i < n; i++) {
            struct ticket *one = queue_find(q, id[i]);
            struct message *m;
            struct spool_ref home;
            if (!one || (unfit_only && !any_unfit(one)))
                continue;
            home = one->home;
            arena_reset(a);
            err e = spool_read(q->setup.port, home, a, &m);
            if (e == E_CANCELED || q->setup.routes != routes) /* a newer configuration has a sweep of its own */
                return OK;
            struct ticket *first = one = queue_find(q, id[i]);
            if (e != OK || !one || one->home.segment != home.segment || one->home.offset != home.offset)
                continue;
            size_t siblings = 0;
            struct ticket *all[PIECE];
            do { /* the ring grows where a ticket is split */
                if (one->state != TICKET_FLYING)
                    all[siblings++] = one;
                one = one->sibling;
            } while (one != first && siblings < PIECE);
            for (size_t k = 0; k < siblings; k++)
                reroute_by_message(q, all[k], m, a);
        }
        TRY(task_yield());
    }
    if (!unfit_only)
        lanes_without_a_way(q);
    return OK;
}

err queue_reroute(void *queue) { return reroute_all(queue, false); }

/* ---- another source ---- */

err queue_leave(void *queue)
{
    struct queue *q = queue;

    if (q->leaving)
        return OK;
    q->leaving = true;
    err e = reroute_all(q, true);
    q->leaving = false;
    return e;
}

static bool proven_since(const struct lane *lane, when since)
{
    if (lane->kind == LANE_DOMAIN)
        lane = lane->site;
    return lane && lane->sending->answered > since;
}

/* Is there any lane to go to? Looked at once for all that leave, except where each domain has its own. */
bool lane_leave(struct lane *lane, bool proven)
{
    struct queue *q = lane->queue;
    const struct backend *by = lane->kind == LANE_BACKEND ? lane->backend : lane->mx;

    if (!by || !by->outlet)
        return false;
    if (!by->among) { /* in several pools: only its message knows which is its own */
        return !proven && !q->leaving && lane->nready;
    }
    if (by->among->pool->n < 2)
        return false;
    for (bool moved = true; moved;) { /* who goes changes whose turn it is: not all are met in one pass */
        moved = false;
        for (struct ticket *t = lane_first(lane), *next; t; t = next) {
            next = lane_after(t);
            struct lane *to = lane_leaving(q, by->base, by->among, ticket_domain(t), lane, NULL);
            if (!leads_to(to, lane) && (to->kind == LANE_DOMAIN || to->state == LANE_OPEN) && (!proven || proven_since(to, lane->since))) {
                ticket_move(t, to);
                moved = true;
            } else if (lane->kind == LANE_BACKEND)
                return false; /* it is the same for all of them */
        }
    }
    return false;
}

/* Lanes find their backends again; a site's becomes another with the new settings, for connections hold the old one. */
static void lane_configure(struct lane *lane, const struct routes *routes)
{
    if (lane->kind == LANE_BACKEND) {
        lane->backend = backend_named(routes, lane->name);
        return;
    }
    lane->mx = lane->mx_name ? backend_named(routes, intern_str(&lane->queue->words, lane->mx_name)) : NULL;
    if (lane->kind == LANE_SITE && lane->backend && !lane->mx && (lane->backend->outlet || lane->backend->nlimit)) { /* they ended with their configuration */
        backend_drop(lane->backend);
        lane->backend = NULL;
    }
    if (lane->kind == LANE_SITE && lane->backend && lane->mx) {
        struct backend *b = site_like(lane->backend, lane->mx);
        backend_drop(lane->backend);
        lane->backend = b;
    }
}

bool queue_configure(struct queue *q, const struct retry *retry, const struct streams *streams, struct routes *routes)
{
    bool rules = routes->nrule || q->setup.routes->nrule;
    struct ticket *t[PIECE];
    size_t at = 0, n;

    q->setup.retry = retry;
    q->setup.streams = streams;
    q->setup.routes = routes;
    for (size_t i = 0; i < q->nlane; i++) {
        lane_configure(q->lane[i], routes);
        lane_weigh(q->lane[i]);
        if (q->lane[i]->kind == LANE_DOMAIN)
            lane_relay_again(q->lane[i]);
    }
    while (!rules && (n = queue_walk(q, &at, t, PIECE)))
        for (size_t i = 0; i < n; i++)
            if (t[i]->state != TICKET_FLYING)
                reroute_by_domain(q, t[i]);
    for (size_t i = 0; i < q->nlane; i++)
        if (lane_leads(q->lane[i]))
            lane_open(q->lane[i]); /* servers may have been added: one try now */
    if (!rules)
        lanes_without_a_way(q);
    return rules;
}
