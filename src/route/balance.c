/* Which server of a backend: state shared by all threads, no locks, no exactness asked. */
#include "route/route.h"

#include <math.h>
#include <pthread.h>
#include <stdio.h>

#define EJECT_FIRST SECOND
#define EJECT_MOST MINUTE
#define RAMP (10 * SECOND)

#define STATES_SPARE 10000      /* that nobody holds, kept for when they come back */

static pthread_mutex_t states_lock = PTHREAD_MUTEX_INITIALIZER;
static struct map states;       /* by key; under the lock */
static size_t spares;

static struct server_state *state_of(str backend, str host, uint16_t port, bool for_ever)
{
    AUTO_BUF key = { 0 };

    buf_addf(&key, "%.*s/%.*s", STR(backend), STR(host));
    if (port)
        buf_addf(&key, ":%u", port); /* a Unix socket has none */
    pthread_mutex_lock(&states_lock);
    struct server_state *s = map_get(&states, buf_str(&key));
    if (!s) {
        s = mem_new(sizeof *s);
        buf_addc(&key, '\0');
        s->key = mem_new(key.n);
        memcpy(s->key, key.p, key.n);
        map_put(&states, str_z(s->key), s);
    } else if (!s->for_ever && s->holders == 0)
        spares--;
    s->for_ever |= for_ever;
    s->holders += !s->for_ever;
    pthread_mutex_unlock(&states_lock);
    return s;
}

struct server_state *server_state(str backend, str host, uint16_t port) { return state_of(backend, host, port, true); }
struct server_state *server_state_hold(str backend, str host, uint16_t port) { return state_of(backend, host, port, false); }

void server_state_drop(struct server_state *s)
{
    pthread_mutex_lock(&states_lock);
    if (!s->for_ever && --s->holders == 0 && ++spares > STATES_SPARE) {
        map_del(&states, str_z(s->key));
        spares--;
        mem_free(s->key);
        mem_free(s->said);
        mem_free(s);
    }
    pthread_mutex_unlock(&states_lock);
}

/* How busy a server is for its weight, for comparing two. A returning server's share grows from a tenth to the whole over its ramp. */
static uint64_t server_load(const struct next_hop *hop, when now)
{
    const struct server_state *s = hop->state;
    uint64_t busy = 1 + atomic_load_explicit(&s->busy, memory_order_relaxed);
    uint64_t latency = 100 + atomic_load_explicit(&s->latency_us, memory_order_relaxed);
    when since = now - atomic_load_explicit(&s->ramp_from, memory_order_relaxed);
    uint64_t load = busy * latency * 100 / hop->weight;

    if (since < RAMP)
        load = load * 10 / (1 + 9 * (uint64_t)MAX(since, 0) / RAMP);
    return load;
}

enum usable { IN, OUT, TRY_IT };

static enum usable server_usable(const struct next_hop *hop, when now)
{
    struct server_state *s = hop->state;

    if (!hop->weight || atomic_load_explicit(&s->drained, memory_order_relaxed))
        return OUT;
    when until = atomic_load_explicit(&s->out_until, memory_order_relaxed);

    if (until == 0)
        return IN;
    if (until > now)
        return OUT;
    bool no = false;
    return atomic_compare_exchange_strong(&s->probing, &no, true) ? TRY_IT : OUT;
}

struct next_hop *backend_pick(const struct backend *be, const bool *avoid, when now, when *retry_at)
{
    *retry_at = now + EJECT_FIRST;
    when first = NEVER;

    for (size_t i = 0; i < be->nserver;) {
        size_t end = i, n = 0;
        struct next_hop *one = NULL, *two = NULL;
        for (; end < be->nserver && be->server[end].priority == be->server[i].priority; end++) {
            struct next_hop *s = &be->server[end];
            if (avoid[end])
                continue;
            switch (server_usable(s, now)) {
            case TRY_IT:
                return s;
            case OUT:
                if (s->weight && !atomic_load(&s->state->drained))
                    first = MIN(first, MAX(now + EJECT_FIRST / 4, MIN(atomic_load(&s->state->out_until), now + EJECT_MOST)));
                break;
            case IN:
                /* Two even choices out of n without counting first: each newcomer takes a place by chance. */
                n++;
                if (n == 1)
                    one = s;
                else if (n == 2)
                    two = s;
                else if (random_below(n) < 2)
                    *(random_below(2) ? &one : &two) = s;
                break;
            }
        }
        if (one && two) {
            uint64_t a = server_load(one, now), b = server_load(two, now);
            return a == b ? (random_below(2) ? one : two) : a < b ? one : two;
        }
        if (one)
            return one;
        i = end;
    }
    if (first != NEVER)
        *retry_at = first;
    return NULL;
}

/* A number for a key at a server, even over (0, 1): FNV-1a over the server's name, and splitmix64's last steps. */
static double stick_number(uint32_t key, const struct server_state *s)
{
    uint64_t h = UINT64_C(0xcbf29ce484222325) ^ key;

    for (const char *p = s->key; *p; p++)
        h = (h ^ (unsigned char)*p) * UINT64_C(0x100000001b3);
    h = (h ^ h >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    h = (h ^ h >> 27) * UINT64_C(0x94d049bb133111eb);
    return ((double)((h ^ h >> 31) >> 12) + 0.5) / (double)(UINT64_C(1) << 52);
}

struct next_hop *backend_stick(const struct backend *be, uint32_t key)
{
    struct next_hop *best = NULL;
    double most = 0;

    for (size_t i = 0; i < be->nserver; i++) {
        struct next_hop *s = &be->server[i];
        if (best && s->priority != best->priority)
            break;
        if (!server_in(s))
            continue;
        double score = s->weight / -log(stick_number(key, s->state)); /* each has the highest as often as its weight says */
        if (score > most) {
            best = s;
            most = score;
        }
    }
    return best;
}

void server_failed(struct server_state *s, when now)
{
    unsigned n = atomic_fetch_add(&s->failures, 1);
    when out = MIN(EJECT_FIRST << MIN(n, 10u), EJECT_MOST);

    out += (when)random_below((uint64_t)out / 4); /* so that many senders do not come back at once */
    int64_t was = atomic_load(&s->out_until);
    if (was != NEVER) /* what probes put out, probes bring back */
        atomic_compare_exchange_strong(&s->out_until, &was, now + out);
    atomic_fetch_add(&s->failed, 1);
    atomic_store(&s->probing, false);
}

void server_said(struct server_state *s, str words)
{
    words = str_head(words, 200);
    pthread_mutex_lock(&states_lock);
    mem_free(s->said);
    s->said = words.n ? mem_new(words.n + 1) : NULL;
    if (words.n)
        memcpy(s->said, words.p, words.n);
    atomic_store(&s->has_said, words.n != 0);
    pthread_mutex_unlock(&states_lock);
}

str server_last_words(struct server_state *s, arena *a)
{
    str words = S("");

    if (!atomic_load_explicit(&s->has_said, memory_order_relaxed))
        return words;
    pthread_mutex_lock(&states_lock);
    if (s->said)
        words = str_dup(a, str_z(s->said));
    pthread_mutex_unlock(&states_lock);
    return words;
}

str backend_no_server(const struct backend *be, arena *a)
{
    size_t drained = 0;
    str words = S("");

    for (size_t i = 0; i < be->nserver; i++) {
        const struct next_hop *h = &be->server[i];
        if (!h->weight || atomic_load(&h->state->drained))
            drained++;
        else if (!words.n)
            words = server_last_words(h->state, a);
    }
    if (drained == be->nserver)
        return S("all its servers are drained");
    return words.n ? str_printf(a, "all its servers failed lately: %.*s", STR(words)) : S("all its servers failed lately");
}

void server_works(struct server_state *s, when now)
{
    if (atomic_load_explicit(&s->out_until, memory_order_relaxed)) {
        atomic_store(&s->ramp_from, now);
        atomic_store(&s->out_until, 0);
    }
    if (atomic_load_explicit(&s->failures, memory_order_relaxed))
        atomic_store(&s->failures, 0);
    if (atomic_load_explicit(&s->has_said, memory_order_relaxed))
        server_said(s, S(""));
    if (atomic_load_explicit(&s->probing, memory_order_relaxed))
        atomic_store(&s->probing, false);
}

void backend_try_now(const struct backend *be, when now)
{
    for (size_t i = 0; i < be->nserver; i++) {
        int64_t out = atomic_load(&be->server[i].state->out_until);
        if (out > now) /* unless it came back just now */
            atomic_compare_exchange_strong(&be->server[i].state->out_until, &out, now);
    }
}

bool server_probed(struct server_state *s, const struct health *h, bool well, when now)
{
    bool in = atomic_load(&s->out_until) == 0;

    if (well) {
        atomic_store(&s->probes_ill, 0);
        if (atomic_fetch_add(&s->probes_well, 1) + 1 < h->up_after || in)
            return false;
        server_works(s, now);
        return true;
    }
    atomic_store(&s->probes_well, 0);
    if (atomic_fetch_add(&s->probes_ill, 1) + 1 < h->down_after)
        return false;
    return atomic_exchange(&s->out_until, NEVER) == 0;
}

void server_answered(struct server_state *s, when took)
{
    uint32_t old = atomic_load_explicit(&s->latency_us, memory_order_relaxed);
    uint32_t now = (uint32_t)MIN(took, HOUR);

    atomic_store_explicit(&s->latency_us, old ? old - old / 8 + now / 8 : now, memory_order_relaxed);
}
