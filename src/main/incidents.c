/* Incidents, as the control socket, the metrics and a new configuration meet them. */
#include "main/relay.h"
#include "main/words.h"

#include <stdlib.h>

struct waiting { const struct incident *of; size_t nof, *n; };

/* Which of them froze that lane? */
static bool froze(const struct incident *in, const struct lane *lane)
{
    if (!lane->frozen || lane->frozen_by != in->kind)
        return false;
    return in->kind != INCIDENT_REFUSES || str_eq(str_z(in->subject), lane_subject(lane));
}

static err count_waiting(struct worker *w, void *arg)
{
    struct waiting *c = arg;
    struct lane *lane;

    for (size_t i = 0; (lane = queue_lane(w->queue, i)); i++)
        for (size_t k = 0; k < c->nof; k++)
            if (froze(&c->of[k], lane)) {
                c->n[k] += lane->nready;
                break;
            }
    return OK;
}

static void incident_into(struct buf *b, const struct incident *in, size_t waiting)
{
    add_key(b, "");
    buf_addc(b, '{');
    add_int(b, "id", (int64_t)in->id);
    add_str(b, "kind", str_z(incident_name[in->kind]));
    add_str(b, "subject", str_z(in->subject));
    add_time(b, "since", in->since);
    add_str(b, "reason", str_z(in->reason));
    add_str(b, "recovery", str_z(in->recovery));
    add_int(b, "affected", (int64_t)in->affected);
    add_int(b, "waiting", (int64_t)waiting);
    buf_addc(b, '}');
}

/* All that are open, and how many deliveries wait for each, in `a`. */
static size_t incidents_now(struct relay *r, arena *a, struct incident **ret, size_t **waiting)
{
    *ret = NEW_ARRAY(a, struct incident, INCIDENTS_MOST);
    *waiting = NEW_ARRAY(a, size_t, INCIDENTS_MOST);
    struct waiting c = { *ret, incidents(*ret), *waiting };

    for (unsigned i = 0; c.nof && i < r->nworker; i++)
        worker_call(&r->worker[i], count_waiting, &c);
    return c.nof;
}

void incidents_into(struct buf *b, struct relay *r)
{
    AUTO_ARENA a = arena_new();
    struct incident *in;
    size_t *waiting, n = incidents_now(r, a, &in, &waiting);

    add_key(b, "incidents");
    buf_addc(b, '[');
    for (size_t i = 0; i < n; i++)
        incident_into(b, &in[i], waiting[i]);
    buf_addc(b, ']');
}

void incident_list(struct control *c, void *relay)
{
    AUTO_ARENA a = arena_new();
    AUTO_BUF line = { 0 };
    struct incident *in;
    size_t *waiting, n = incidents_now(relay, a, &in, &waiting);

    for (size_t i = 0; i < n; i++) {
        buf_clear(&line);
        incident_into(&line, &in[i], waiting[i]);
        control_line(c, buf_str(&line));
    }
}

bool incidents_resume(struct relay *r, str lane)
{
    AUTO_ARENA a = arena_new();
    struct incident *in = NEW_ARRAY(a, struct incident, INCIDENTS_MOST);
    bool any = false;

    lane = site_subject(lane); /* whatever source it is by */
    for (size_t i = 0, n = incidents(in); i < n; i++)
        if (str_eq(str_z(in[i].subject), lane) && incident_end(in[i].kind, lane, S("by an operator"))) {
            relay_thaw(r, in[i].kind, lane);
            any = true;
        }
    return any;
}

void incident_close_one(struct control *c, void *relay)
{
    AUTO_ARENA a = arena_new();
    struct incident *in = NEW_ARRAY(a, struct incident, INCIDENTS_MOST);
    int64_t id = control_int(c, "id", 0);

    for (size_t i = 0, n = incidents(in); i < n; i++) {
        if (in[i].id != (uint64_t)id)
            continue;
        if (!incident_end(in[i].kind, str_z(in[i].subject), S("by an operator"))) {
            control_fail(c, "notfound", "only the configuration ends that: %s", in[i].recovery);
            return;
        }
        relay_thaw(relay, in[i].kind, in[i].kind == INCIDENT_REFUSES ? str_z(in[i].subject) : S(""));
        control_line(c, S("{\"count\":1}"));
        return;
    }
    control_fail(c, "notfound", "no incident %lld is open", (long long)id);
}

/* ---- a new configuration ---- */

/* Of an incident: a site goes by the settings of "mx". */
static const struct backend *backend_of(const struct routes *r, str name)
{
    name = str_starts(name, S("mx:")) ? S("mx") : name;
    for (size_t i = 0; i < r->nbackend; i++)
        if (str_eq(r->backend[i]->name, name))
            return r->backend[i];
    return NULL;
}

void incidents_configure(struct relay *r, const struct settings *s)
{
    AUTO_ARENA a = arena_new();
    struct incident *in = NEW_ARRAY(a, struct incident, INCIDENTS_MOST);
    const struct routes *routes = &s->snapshot.routes;
    static const char soft[] = "every 5xx counts as a 4xx: what is refused is kept and tried again, and nobody is told before its lifetime ends";

    for (size_t i = 0, n = incidents(in); i < n; i++) {
        str subject = str_z(in[i].subject);
        const struct backend *b = backend_of(routes, subject);
        bool over = in[i].kind == INCIDENT_REFUSES ? !b || !b->braking.least : in[i].kind == INCIDENT_SOFT_BOUNCE && !(b && b->soft_bounce) && !(str_eq(subject, S("relay")) && s->snapshot.reports.soft_bounce);
        if (!over)
            continue;
        if (in[i].kind == INCIDENT_REFUSES)
            incident_end(in[i].kind, subject, S("the configuration wants no brake there"));
        else
            incident_close(in[i].kind, subject, S("the configuration says so"));
        relay_thaw(r, in[i].kind, subject);
    }
    if (s->snapshot.reports.soft_bounce)
        incident_open(INCIDENT_SOFT_BOUNCE, S("relay"), str_z(soft), S("soft_bounce off in the configuration"));
    for (size_t i = 0; i < routes->nbackend; i++)
        if (routes->backend[i]->soft_bounce && !routes->backend[i]->outlet) /* once, whatever its sources */
            incident_open(INCIDENT_SOFT_BOUNCE, routes->backend[i]->name, str_z(soft), S("soft_bounce off in its block of the configuration"));
}
