/* What a limit is known by over reloads, and what it says of itself. */
#include "route/inside.h"

#include <pthread.h>

static pthread_mutex_t states_lock = PTHREAD_MUTEX_INITIALIZER;
static struct map states;       /* by key; under the lock */

static struct limit_state *state_of(const char *kind, str name)
{
    AUTO_BUF key = { 0 };

    buf_addf(&key, "%s %.*s", kind, STR(name));
    pthread_mutex_lock(&states_lock);
    struct limit_state *s = map_get(&states, buf_str(&key));
    if (!s) {
        s = mem_new(sizeof *s);
        buf_addc(&key, '\0');
        s->key = mem_new(key.n);
        memcpy(s->key, key.p, key.n);
        map_put(&states, str_z(s->key), s);
    }
    pthread_mutex_unlock(&states_lock);
    return s;
}

str rate_words(arena *a, struct rate r)
{
    static const struct { when per; const char *name; } pers[] = { { SECOND, "s" }, { MINUTE, "min" }, { HOUR, "hour" }, { DAY, "day" } };

    for (size_t i = 0; i < COUNT(pers); i++)
        if (r.per == pers[i].per)
            return str_printf(a, "%llu/%s", (unsigned long long)r.n, pers[i].name);
    return str_printf(a, "%llu in %llds", (unsigned long long)r.n, (long long)(r.per / SECOND));
}

struct limit limit_of(arena *a, const char *kind, str name, struct rate rate, uint64_t connections)
{
    struct limit l = { .rate = rate, .connections = connections };

    if (!rate.n && !connections)
        return l;
    l.state = state_of(kind, name);
    if (rate.n)
        l.slow = str_printf(a, "rate of %s: %.*s", l.state->key, STR(rate_words(a, rate)));
    if (connections)
        l.full = str_printf(a, "all %llu connections of %s are in use", (unsigned long long)connections, l.state->key);
    return l;
}

/* A rate that changed begins anew: what was promised by the old one would stand in its way. */
static void apply(const struct limit *l)
{
    if (!l->state)
        return;
    when every = l->rate.n ? MAX(l->rate.per / (when)l->rate.n, 1) : 0;
    if (atomic_exchange(&l->state->every, every) == every)
        return;
    atomic_store(&l->state->clock, 0);
    atomic_fetch_add(&l->state->changed, 1);
}

void limits_apply(const struct routes *r)
{
    for (size_t i = 0; i < r->nbackend; i++)
        for (unsigned k = 0; k < r->backend[i]->nlimit; k++)
            apply(&r->backend[i]->limit[k]);
    for (size_t i = 0; i < r->nnetwork; i++)
        apply(&r->network[i]->limit);
}
