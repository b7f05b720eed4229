/* The source that is a backend: whether its word counts, and what it is. The dialogue itself is deliver/'s. */
#include "route/inside.h"

#include <pthread.h>

#define AT_ONCE 4               /* connections for look-ups to one backend */
#define CHECK_EVERY HOUR
#define DOMAINS_MOST 256        /* whose check is remembered; *.example.com may be many */

enum said (*callout_probe)(const struct backend *b, const struct own *own, str ehlo, const struct inquiry *q, when deadline, bool *refused);

/* What an unguessable address of a domain was answered. */
struct checked { when at; bool useless; char domain[]; };

struct callout {
    struct source source;
    arena *a;
    struct backend backend;             /* a copy: what is learnt outlives the configuration */
    struct outlet outlet;               /* the same */
    str ehlo;
    pthread_mutex_t lock;
    struct map checked;                 /* domain -> struct checked, on the heap */
};

static void forget(struct callout *c)
{
    struct checked *k;

    for (size_t i = 0; (k = map_next(&c->checked, &i)); )
        mem_free(k);
    map_free(&c->checked);
    c->checked = (struct map){ 0 };
}

/* Is it known, and not too long ago? */
static bool known(struct callout *c, str domain, bool *useless)
{
    pthread_mutex_lock(&c->lock);
    const struct checked *k = map_get(&c->checked, domain);
    bool yes = k && clock_now() - k->at < CHECK_EVERY;
    *useless = k && k->useless;
    pthread_mutex_unlock(&c->lock);
    return yes;
}

static void note(struct callout *c, str domain, bool useless)
{
    pthread_mutex_lock(&c->lock);
    struct checked *k = map_get(&c->checked, domain);
    bool before = k && k->useless;
    if (!k) {
        if (c->checked.n >= DOMAINS_MOST)
            forget(c);
        k = mem_new(sizeof *k + domain.n + 1);
        memcpy(k->domain, domain.p, domain.n);
        map_put(&c->checked, str_of(k->domain, domain.n), k);
    }
    k->at = clock_now();
    k->useless = useless;
    pthread_mutex_unlock(&c->lock);
    if (useless && !before)
        log_warn("callout_useless", LOG_STR("backend", c->backend.name), LOG_STR("domain", domain),
                 LOG_Z("reason", "it takes any address: its word does not count, and with no other source all recipients are undecided"));
    else if (before && !useless)
        log_info("callout_useful", LOG_STR("backend", c->backend.name), LOG_STR("domain", domain));
}

/* An address that nobody could have, unless all have it. */
static enum said check(struct callout *c, str domain, when deadline)
{
    char text[600], id[ULID_TEXT];
    bool refused = false;
    size_t n = 0;

    if (domain.n > 500)
        return SAID_UNSURE;
    str unknown = ulid_print(ulid_new(), id);
    for (size_t i = 0; i < unknown.n; i++)
        text[n++] = ascii_lower(unknown.p[i]);
    for (size_t i = 0; i < 8; i++)
        text[n++] = (char)('a' + random_below(26));
    struct inquiry q = { .local = str_of(text, n) };
    text[n++] = '@';
    memcpy(text + n, domain.p, domain.n);
    q.domain = str_of(text + n, domain.n);
    q.address = str_of(text, n + domain.n);
    enum said said = callout_probe(&c->backend, NULL, c->ehlo, &q, deadline, &refused);
    if (said == SAID_FOUND || refused)
        note(c, domain, said == SAID_FOUND);
    return said == SAID_FOUND ? SAID_MUTE : refused ? SAID_FOUND : said;
}

static enum said callout_ask(struct source *source, const struct inquiry *q, when deadline)
{
    struct callout *c = (struct callout *)(void *)source;
    bool useless, refused, fresh = known(c, q->domain, &useless);

    if (!callout_probe) {
        fail(E_AGAIN, "nobody delivers here");
        return SAID_DOWN;
    }
    if (fresh && useless)
        return SAID_MUTE;
    enum said said = callout_probe(&c->backend, NULL, c->ehlo, q, deadline, &refused);
    /* Only a "yes" needs to be doubted. */
    return said == SAID_FOUND && !fresh ? check(c, q->domain, deadline) : said;
}

static void callout_end(struct source *source)
{
    struct callout *c = (struct callout *)(void *)source;

    forget(c);
    arena_free(c->a);
    mem_free(c);
}

struct table *callout_table(const struct backend *b, str ehlo, const struct keeping *keep)
{
    struct callout *c = mem_new(sizeof *c);
    arena *a = c->a = arena_new();
    struct buf key = buf_in(a, 256);

    c->backend = *b;
    c->backend.name = str_dup(a, b->name);
    c->backend.server = NEW_ARRAY(a, struct next_hop, b->nserver);
    buf_addf(&key, "callout %.*s %.*s %lld/%lld/%lld/%lld/%llu/%lld", STR(b->name), STR(ehlo), (long long)keep->cache, (long long)keep->negative,
             (long long)keep->stale, (long long)keep->timeout, (unsigned long long)keep->entries, (long long)b->connect_timeout);
    for (size_t i = 0; i < b->nserver; i++) {
        c->backend.server[i] = b->server[i]; /* `state` is for ever */
        c->backend.server[i].host = str_dup(a, b->server[i].host);
        buf_addf(&key, " %s%s=%u/%u", b->server[i].lmtp ? "lmtp:" : "", b->server[i].state->key, b->server[i].priority, b->server[i].weight);
    }
    if (b->outlet) {
        char v4[ADDR_TEXT], v6[ADDR_TEXT];
        c->outlet = *b->outlet;
        c->outlet.name = str_dup(a, b->outlet->name);
        c->outlet.helo = str_dup(a, b->outlet->helo);
        c->backend.outlet = &c->outlet;
        buf_addf(&key, " from %.*s %.*s as %.*s", STR(c->outlet.v4.n ? addr_print_ip(&c->outlet.v4, v4) : S("-")),
                 STR(c->outlet.v6.n ? addr_print_ip(&c->outlet.v6, v6) : S("-")), STR(c->outlet.helo));
    }
    c->ehlo = str_dup(a, c->outlet.helo.n ? c->outlet.helo : ehlo);
    c->lock = (pthread_mutex_t)PTHREAD_MUTEX_INITIALIZER;
    c->source = (struct source){ .kind = "callout", .name = c->backend.name, .key = buf_str(&key), .keep = *keep, .exact = true, .at_once = AT_ONCE,
                                 .ask = callout_ask, .free = callout_end };
    return table_of_source(&c->source);
}
