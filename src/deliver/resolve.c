/* Where the mail of a domain goes by its MX records: looked up when mail for it comes, and again when what is known grows old. */
#include "deliver/inside.h"

#define LOOKUPS_MOST 64         /* of one thread at a time */
#define LOOKUP_TIME MINUTE

static const struct { struct enhanced status; const char *reason; } no_site[] = {
    [SITE_NULL_MX] = { ENH(5, 1, 10), "%.*s takes no mail (null MX, RFC 7505)" },
    [SITE_NO_DOMAIN] = { ENH(5, 1, 2), "there is no mail host for %.*s: no such domain, or it has neither MX nor address" },
    [SITE_OURSELVES] = { ENH(5, 4, 6), "the best mail host of %.*s is this relay, which is not told to take its mail anywhere else" },
};

/* Why a look-up failed, without the domain: its lane says that, and so a hundred thousand of them share one reason. */
static str why_unknown(arena *a, str domain)
{
    str why = err_text(), of = str_printf(a, " of %.*s", STR(domain));
    size_t at = str_find(why, of);

    return at == STR_NONE ? str_printf(a, "looking up its mail hosts: %.*s", STR(why))
                          : str_printf(a, "looking up its mail hosts: %.*s%.*s", STR(str_head(why, at)), STR(str_from(why, at + of.n)));
}

static void resolve(struct dispatch *d, struct lane *lane)
{
    AUTO_ARENA a = arena_new();
    str domain = str_from(lane->name, str_findc(lane->name, ':') + 1);
    domain = str_dup(a, str_head(domain, MIN(str_findc(domain, '@'), domain.n))); /* behind it stands the source */
    struct snapshot *snap = d->setup.newest(d->setup.ctx);
    struct site s;
    err e = route_mx(d->setup.resolver, a, domain, &snap->routes.own, clock_now() + LOOKUP_TIME, &s);

    if (e == OK && s.kind == SITE_HOSTS) {
        queue_site(lane, &s);
    } else if (e == OK) {
        queue_no_site(lane, no_site[s.kind].status, str_printf(a, no_site[s.kind].reason, STR(domain)), s.ttl);
    } else {
        str reason = why_unknown(a, domain);
        bool local = e != E_CANCELED && fault_names(d, domain);
        if (!lane->site && lane->state == LANE_OPEN && e != E_CANCELED && !local)
            log_warn("mx_unknown", LOG_STR("domain", domain), LOG_STR("reason", reason));
        queue_site_later(lane, reason, local);
        if (lane->frozen)
            incident_affects(INCIDENT_NO_NAMES, S("resolver"), 1);
        if (lane->state == LANE_DOWN)
            lane_wake_later(d, lane);
    }
    snapshot_drop(snap);
}

static err resolver_run(void *dispatch)
{
    struct dispatch *d = dispatch;

    while (d->to_ask && !task_canceled()) {
        struct lane *lane = d->to_ask;
        d->to_ask = lane->next_asking;
        if (!d->to_ask)
            d->to_ask_end = &d->to_ask;
        lane->next_asking = NULL;
        resolve(d, lane);
    }
    d->asking--;
    return OK;
}

void dispatch_resolve(void *ctx, struct lane *lane)
{
    struct dispatch *d = ctx;

    *d->to_ask_end = lane;
    d->to_ask_end = &lane->next_asking;
    if (d->asking >= LOOKUPS_MOST)
        return;
    if (group_spawn(thread_group(), "mx", resolver_run, d) == OK)
        d->asking++;
    else
        log_error("no_lookup", LOG_STR("lane", lane->name), LOG_STR("reason", err_text())); /* the next that is spawned takes it along */
}
