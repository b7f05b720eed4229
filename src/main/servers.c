/* What the control socket says and does about the servers of backends. */
#include "main/relay.h"

static str server_name(const struct backend *b, const struct next_hop *s) { return str_z(s->state->key + b->name.n + 1); }

str server_words(const struct next_hop *s, when now)
{
    when out = atomic_load(&s->state->out_until);

    if (!s->weight || atomic_load(&s->state->drained))
        return S("drained");
    return !out ? S("in") : out == NEVER ? S("down") : out > now ? S("out") : S("to be tried");
}

void backend_list(struct control *c, void *relay)
{
    struct settings *s = relay_newest(relay);
    AUTO_BUF line = { 0 };
    when now = clock_now();

    for (size_t i = 0; i < s->snapshot.routes.nbackend; i++) {
        const struct backend *b = s->snapshot.routes.backend[i];
        for (size_t k = 0; !backend_is_pattern(b) && k < b->nserver; k++) {
            const struct next_hop *hop = &b->server[k];
            const struct server_state *st = hop->state;
            buf_clear(&line);
            buf_add(&line, S("{\"backend\":"));
            buf_add_json(&line, b->name);
            buf_add(&line, S(",\"server\":"));
            buf_add_json(&line, server_name(b, hop));
            buf_add(&line, S(",\"state\":"));
            buf_add_json(&line, server_words(hop, now));
            buf_addf(&line, ",\"protocol\":\"%s\"", hop->lmtp ? "lmtp" : "smtp");
            buf_addf(&line, ",\"priority\":%u,\"weight\":%u,\"connections\":%u,\"busy\":%u,\"latency_us\":%u,\"delivered\":%llu,\"failed\":%llu}",
                     hop->priority, hop->weight, atomic_load(&st->connections), atomic_load(&st->busy), atomic_load(&st->latency_us),
                     (unsigned long long)atomic_load(&st->delivered), (unsigned long long)atomic_load(&st->failed));
            control_line(c, buf_str(&line));
        }
    }
    snapshot_drop(&s->snapshot);
}

/* That server of the backend, by all sources unless its name has one: how many. */
static size_t find(const struct routes *r, str backend, str server, struct server_state **ret, size_t most)
{
    size_t n = 0;

    for (size_t i = 0; i < r->nbackend; i++) {
        const struct backend *b = r->backend[i];
        for (size_t k = 0; (str_eq(b->name, backend) || str_eq(backend_base_name(b), backend)) && k < b->nserver && n < most; k++)
            if (str_eq(server_name(b, &b->server[k]), server))
                ret[n++] = b->server[k].state;
    }
    return n;
}

static void change(struct control *c, struct relay *r, bool drained)
{
    struct settings *s = relay_newest(r);
    str backend = control_arg(c, "backend"), server = control_arg(c, "server");
    struct server_state *st[POOL_MOST + 1];
    size_t n = find(&s->snapshot.routes, backend, server, st, COUNT(st));
    bool changed = false;

    for (size_t i = 0; i < n; i++)
        changed |= atomic_exchange(&st[i]->drained, drained) != drained;
    if (n == 0)
        control_fail(c, "not_found", "there is no server %.*s in a backend %.*s", STR(server), STR(backend));
    if (changed)
        log_info(drained ? "server_drained" : "server_undrained", LOG_STR("backend", backend), LOG_STR("server", server));
    for (size_t i = 0; n && i < s->snapshot.routes.nbackend; i++) {
        const struct backend *b = s->snapshot.routes.backend[i];
        if (str_eq(b->name, backend) || str_eq(backend_base_name(b), backend))
            relay_lanes_look(r, b->name);
    }
    snapshot_drop(&s->snapshot);
}

void backend_drain(struct control *c, void *relay) { change(c, relay, true); }
void backend_undrain(struct control *c, void *relay) { change(c, relay, false); }
