/* What the control socket says and does about the servers of backends. */
#include "main/relay.h"

str server_name(const struct backend *b, const struct next_hop *s) { return str_z(s->state->key + b->name.n + 1); }

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
    AUTO_ARENA a = arena_new();
    when now = clock_now();

    for (size_t i = 0; i < s->snapshot.routes.nbackend; i++) {
        const struct backend *b = s->snapshot.routes.backend[i];
        for (size_t k = 0; !backend_is_pattern(b) && k < b->nserver; k++) {
            const struct next_hop *hop = &b->server[k];
            struct server_state *st = hop->state;
            buf_clear(&line);
            buf_add(&line, S("{\"backend\":"));
            buf_add_json(&line, b->name);
            buf_add(&line, S(",\"server\":"));
            buf_add_json(&line, server_name(b, hop));
            buf_add(&line, S(",\"state\":"));
            buf_add_json(&line, server_words(hop, now));
            buf_addf(&line, ",\"protocol\":\"%s\"", hop->lmtp ? "lmtp" : "smtp");
            buf_addf(&line, ",\"priority\":%u,\"weight\":%u,\"connections\":%u,\"busy\":%u,\"latency_us\":%u,\"delivered\":%llu,\"failed\":%llu,\"reason\":",
                     hop->priority, hop->weight, atomic_load(&st->connections), atomic_load(&st->busy), atomic_load(&st->latency_us),
                     (unsigned long long)atomic_load(&st->delivered), (unsigned long long)atomic_load(&st->failed));
            arena_reset(a);
            buf_add_json(&line, server_last_words(hop->state, a));
            buf_addc(&line, '}');
            control_line(c, buf_str(&line));
        }
    }
    snapshot_drop(&s->snapshot);
}

static bool is_called(const struct backend *b, str name) { return str_eq(b->name, name) || str_eq(backend_base_name(b), name); }

size_t server_drain(const struct routes *r, str backend, str server, bool drained)
{
    size_t n = 0;

    for (size_t i = 0; i < r->nbackend; i++) {
        const struct backend *b = r->backend[i];
        for (size_t k = 0; is_called(b, backend) && k < b->nserver; k++)
            if (str_eq(server_name(b, &b->server[k]), server)) {
                atomic_store(&b->server[k].state->drained, drained);
                n++;
            }
    }
    return n;
}

static void change(struct control *c, struct relay *r, bool drained)
{
    struct settings *s = relay_newest(r);
    str backend = control_arg(c, "backend"), server = control_arg(c, "server");
    size_t n = server_drain(&s->snapshot.routes, backend, server, drained);

    for (size_t i = 0; n && i < s->snapshot.routes.nbackend; i++)
        if (is_called(s->snapshot.routes.backend[i], backend))
            relay_lanes_look(r, s->snapshot.routes.backend[i]->name);
    snapshot_drop(&s->snapshot);
    if (n == 0) {
        control_fail(c, "not_found", "there is no server %.*s in a backend %.*s", STR(server), STR(backend));
        return;
    }
    log_info(drained ? "server_drained" : "server_undrained", LOG_STR("backend", backend), LOG_STR("server", server));
    standing_said(c, r);
}

void backend_drain(struct control *c, void *relay) { change(c, relay, true); }
void backend_undrain(struct control *c, void *relay) { change(c, relay, false); }
