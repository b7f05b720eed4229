/* The resolver as a whole: its settings, its source of answers, the system's files that may change. */
#include "dns/inside.h"

#define LOOK_EVERY (10 * SECOND)
#define HOSTS_MOST ((size_t)4 << 20)    /* octets of a hosts file */
#define RESOLV_MOST ((size_t)64 << 10)

const struct dns_source *dns_source = &dns_unbound;

const char *dns_type_name(uint16_t type)
{
    switch (type) {
    case DNS_A: return "A";
    case DNS_CNAME: return "CNAME";
    case DNS_SOA: return "SOA";
    case DNS_PTR: return "PTR";
    case DNS_MX: return "MX";
    case DNS_TXT: return "TXT";
    case DNS_AAAA: return "AAAA";
    case DNS_SRV: return "SRV";
    case DNS_TLSA: return "TLSA";
    default: return "TYPE";
    }
}

/* ---- settings ---- */

static struct addrs addrs_copy(arena *a, struct addrs s)
{
    struct addrs copy = { .p = NEW_ARRAY(a, struct addr, MAX(s.n, 1)), .n = s.n };

    if (s.n)
        memcpy(copy.p, s.p, s.n * sizeof *s.p);
    return copy;
}

/* A deep copy; the servers of resolv.conf, read now, in the place of none. */
static struct setup *setup_new(const struct dns_source *source, const struct dns_settings *s)
{
    arena *a = arena_new();
    struct setup *u = NEW(a, struct setup);

    *u = (struct setup){ .a = a, .s = *s, .holders = 1 };
    u->s.server = addrs_copy(a, s->server);
    u->s.stub = NEW_ARRAY(a, struct dns_stub, MAX(s->nstub, 1));
    for (size_t i = 0; i < s->nstub; i++)
        u->s.stub[i] = (struct dns_stub){ str_dup(a, s->stub[i].zone), addrs_copy(a, s->stub[i].server) };
    u->s.insecure.p = NEW_ARRAY(a, str, MAX(s->insecure.n, 1));
    for (size_t i = 0; i < s->insecure.n; i++)
        u->s.insecure.p[i] = str_dup(a, s->insecure.p[i]);
    u->s.hosts = str_dup(a, s->hosts);
    u->s.resolv = s->server.n ? S("") : str_dup(a, s->resolv);
    u->s.anchor = str_dup(a, s->anchor);
    if (u->s.resolv.n && source->read(a, u->s.resolv, RESOLV_MOST, &u->resolv_text) == OK)
        u->s.server = resolv_parse(a, u->resolv_text);
    return u;
}

static struct setup *setup_hold(struct resolver *r)
{
    pthread_mutex_lock(&r->lock);
    struct setup *u = r->setup;
    u->holders++;
    pthread_mutex_unlock(&r->lock);
    return u;
}

static void setup_drop(struct resolver *r, struct setup *u)
{
    pthread_mutex_lock(&r->lock);
    bool last = --u->holders == 0;
    pthread_mutex_unlock(&r->lock);
    if (last)
        arena_free(u->a);
}

/* Put `next`, which is open as `ctx`, in the place of `was`. False: somebody else put another there meanwhile. */
static bool setup_change(struct resolver *r, struct setup *was, struct setup *next, void *ctx)
{
    pthread_mutex_lock(&r->lock);
    bool ours = r->setup == was;
    void *old = r->ctx;
    if (ours) {
        r->setup = next;
        r->ctx = ctx;
        r->generation++;
        cache_clear(r);
    }
    pthread_mutex_unlock(&r->lock);
    if (!ours) {
        r->source->close(ctx);
        arena_free(next->a);
        return false;
    }
    r->source->close(old); /* what it was asked goes to the new one */
    setup_drop(r, was);    /* the resolver's */
    return true;
}

err resolver_configure(struct resolver *r, const struct dns_settings *s)
{
    struct setup *was, *next;
    void *ctx;
    bool done = false;

    while (!done) { /* again when resolver_look() came between: it makes a change once in LOOK_EVERY at most */
        was = setup_hold(r);
        next = setup_new(r->source, s);
        err e = r->source->open(&next->s, &ctx);
        if (e != OK) {
            arena_free(next->a);
            setup_drop(r, was);
            return e;
        }
        done = setup_change(r, was, next, ctx);
        setup_drop(r, was);
    }
    pthread_mutex_lock(&r->lock);
    r->looked = 0; /* there may be another hosts file */
    pthread_mutex_unlock(&r->lock);
    return OK;
}

/* ---- the system's files ---- */

static void look_hosts(struct resolver *r, const struct setup *u)
{
    AUTO_ARENA a = arena_new();
    str text = { 0 };

    if (u->s.hosts.n && r->source->read(a, u->s.hosts, HOSTS_MOST, &text) != OK)
        text.n = 0; /* not there: no names */
    if (str_eq(text, r->hosts_text)) /* one task at a time is here */
        return;
    struct hosts *fresh = hosts_parse(text), *old;
    char *kept = mem_new(text.n + 1);
    if (text.n)
        memcpy(kept, text.p, text.n);
    pthread_mutex_lock(&r->lock);
    old = r->hosts;
    r->hosts = fresh;
    pthread_mutex_unlock(&r->lock);
    mem_free((char *)(uintptr_t)r->hosts_text.p);
    r->hosts_text = str_of(kept, text.n);
    hosts_free(old);
}

static void look_resolv(struct resolver *r, struct setup *was)
{
    AUTO_ARENA a = arena_new();
    void *ctx;
    str text;

    if (!was->s.resolv.n || r->source->read(a, was->s.resolv, RESOLV_MOST, &text) != OK || str_eq(text, was->resolv_text))
        return;
    struct dns_settings s = was->s;
    s.server = (struct addrs){ 0 };
    struct setup *next = setup_new(r->source, &s);
    if (r->source->open(&next->s, &ctx) != OK) {
        log_warn("dns_not_changed", LOG_STR("reason", err_text()));
        arena_free(next->a);
    } else if (setup_change(r, was, next, ctx)) {
        log_info("dns_servers_changed", LOG_INT("servers", next->s.server.n), LOG_STR("file", next->s.resolv));
    }
}

void resolver_look(struct resolver *r)
{
    when now = clock_now();

    pthread_mutex_lock(&r->lock);
    bool look = !r->looking && (!r->looked || now - r->looked >= LOOK_EVERY);
    if (look) {
        r->looking = true;
        r->looked = now;
    }
    pthread_mutex_unlock(&r->lock);
    if (!look)
        return;
    struct setup *u = setup_hold(r);
    look_hosts(r, u);
    look_resolv(r, u);
    setup_drop(r, u);
    pthread_mutex_lock(&r->lock);
    r->looking = false;
    pthread_mutex_unlock(&r->lock);
}

/* ---- from beginning to end ---- */

err resolver_open(const struct dns_settings *s, struct resolver **ret)
{
    struct resolver *r = mem_new(sizeof *r);

    pthread_mutex_init(&r->lock, NULL);
    r->source = dns_source;
    list_init(&r->lru);
    list_init(&r->told);
    r->setup = setup_new(r->source, s);
    err e = r->source->open(&r->setup->s, &r->ctx);
    if (e != OK) {
        arena_free(r->setup->a);
        pthread_mutex_destroy(&r->lock);
        mem_free(r);
        return e;
    }
    resolver_look(r);
    *ret = r;
    return OK;
}

void resolver_close(struct resolver *r)
{
    if (!r)
        return;
    pthread_mutex_lock(&r->lock);
    r->closing = true;
    pthread_mutex_unlock(&r->lock);
    r->source->close(r->ctx);
    must(r->counts.under_way == 0);
    cache_end(r);
    hosts_free(r->hosts);
    mem_free((char *)(uintptr_t)r->hosts_text.p);
    arena_free(r->setup->a);
    pthread_mutex_destroy(&r->lock);
    mem_free(r);
}

struct resolver_counts resolver_counts(struct resolver *r)
{
    pthread_mutex_lock(&r->lock);
    struct resolver_counts c = r->counts;
    pthread_mutex_unlock(&r->lock);
    return c;
}
