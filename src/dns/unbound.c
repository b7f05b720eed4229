/* libunbound as the source of answers: one thread of ours that hands it questions and hears its callbacks, one of its own that asks and
 * validates.
 *
 * There are two contexts, `sure` that validates and `plain` that does not: for names that no public zone could sign, and for when the
 * resolvers we were given hand on no signatures (dnssec auto). */
#include "dns/inside.h"

#include <stdlib.h>
#include <unbound.h>

#define PLAIN_TIME HOUR         /* without signatures, until we try again */
#define CLASS_IN 1

struct context { struct ub_ctx *ub; struct unbound *of; struct io io; };

struct unbound {
    const struct dns_settings *s;       /* outlives us */
    struct context sure, plain;         /* ub NULL: not used */
    struct strs anchor;                 /* lines */
    char probe[DNS_NAME_MAX + 2];       /* the zone of an anchor: signed for certain */
    arena *a;
    struct thread *thread;
    struct post stop;
    bool stopping;
    struct waiters wait_stop;
    err opened;
    struct err_note opened_note;
    /* dnssec auto */
    bool proved, probing;
    when plain_until;
    struct link calls, doubtful;
};

/* A question that libunbound has. */
struct call { struct link link; struct context *c; struct dns_question *q; char why[200]; };

/* ---- trust anchors ---- */

static err read_anchors(struct unbound *u)
{
    str owner;

    TRY(anchors_read(u->a, u->s->anchor.n ? u->s->anchor : S(ANCHOR_DEBIAN), &u->anchor));
    anchor_owner(u->anchor.p[0], &owner);
    memcpy(u->probe, owner.p, owner.n);
    return OK;
}

/* Does an anchor stand at the zone, or above it and below the root? */
static bool anchored(const struct unbound *u, str zone)
{
    for (size_t i = 0; i < u->anchor.n; i++) {
        str owner;
        if (anchor_owner(u->anchor.p[i], &owner) && !str_eq(owner, S(".")) && name_below(zone, owner))
            return true;
    }
    return false;
}

/* ---- contexts ---- */

static err told(int code, const char *what)
{
    return code == UB_NOERROR ? OK : fail(E_IO, "libunbound: %s: %s", what, ub_strerror(code));
}

static err option(struct ub_ctx *ub, const char *name, const char *value) { return told(ub_ctx_set_option(ub, name, value), name); }

/* libunbound writes a port behind an @. */
static const char *server_text(arena *a, const struct addr *at)
{
    char ip[ADDR_TEXT];
    str text = addr_print_ip(at, ip);

    return str_cz(a, str_printf(a, "%.*s@%u", STR(text), addr_port(at)));
}

static const char *const private_zones[] = { "local", "internal", "lan", "home", "corp", "private", "intranet", "localdomain", "home.arpa" };

static bool asks_loopback(const struct dns_settings *s)
{
    bool any = false;

    for (size_t i = 0; i < s->server.n; i++)
        any |= addr_is_loopback(&s->server.p[i]);
    for (size_t i = 0; i < s->nstub; i++)
        for (size_t k = 0; k < s->stub[i].server.n; k++)
            any |= addr_is_loopback(&s->stub[i].server.p[k]);
    return any;
}

static err set_options(struct unbound *u, struct ub_ctx *ub)
{
    const struct dns_settings *s = u->s;
    const char *half = str_cz(u->a, str_printf(u->a, "%llu", (unsigned long long)s->cache / 2));
    const char *quarter = str_cz(u->a, str_printf(u->a, "%llu", (unsigned long long)s->cache / 4));
    const struct { const char *name, *value; } options[] = {
        { "rrset-cache-size:", half },
        { "msg-cache-size:", quarter },
        { "cache-max-ttl:", "86400" },
        { "cache-max-negative-ttl:", "900" },
        { "val-bogus-ttl:", "30" },
        { "outgoing-range:", "256" },
        { "num-queries-per-thread:", "1024" },
        { "outgoing-num-tcp:", "32" },
        /* A server that was away is known to be back within a minute, not a quarter of an hour. */
        { "infra-host-ttl:", "60" },
        { "infra-keep-probing:", "yes" },
        /* What a public zone proves about names does not hold where ours are served beside them. */
        { "aggressive-nsec:", "no" },
        { "harden-below-nxdomain:", s->server.n ? "no" : "yes" },
        { "unblock-lan-zones:", s->server.n ? "yes" : "no" },
        { "insecure-lan-zones:", s->server.n ? "yes" : "no" },
        /* A stranger's NS record must not make us ask what listens on this machine. */
        { "do-not-query-localhost:", asks_loopback(s) ? "no" : "yes" },
    };

    for (size_t i = 0; i < COUNT(options); i++)
        TRY(option(ub, options[i].name, options[i].value));
    return OK;
}

static err set_servers(struct unbound *u, struct ub_ctx *ub)
{
    const struct dns_settings *s = u->s;

    for (size_t i = 0; i < s->server.n; i++)
        TRY(told(ub_ctx_set_fwd(ub, server_text(u->a, &s->server.p[i])), "server"));
    for (size_t i = 0; i < s->nstub; i++)
        for (size_t k = 0; k < s->stub[i].server.n; k++)
            TRY(told(ub_ctx_set_stub(ub, str_cz(u->a, s->stub[i].zone), server_text(u->a, &s->stub[i].server.p[k]), 0), "stub"));
    return OK;
}

static err set_validation(struct unbound *u, struct ub_ctx *ub)
{
    const struct dns_settings *s = u->s;

    for (size_t i = 0; i < u->anchor.n; i++)
        TRY(told(ub_ctx_add_ta(ub, str_cz(u->a, u->anchor.p[i])), "trust_anchor"));
    for (size_t i = 0; i < s->insecure.n; i++)
        TRY(option(ub, "domain-insecure:", str_cz(u->a, s->insecure.p[i])));
    for (size_t i = 0; i < s->nstub; i++)
        if (!anchored(u, s->stub[i].zone))
            TRY(option(ub, "domain-insecure:", str_cz(u->a, s->stub[i].zone)));
    for (size_t i = 0; s->server.n && i < COUNT(private_zones); i++)
        TRY(option(ub, "domain-insecure:", private_zones[i]));
    return OK;
}

/* libunbound answers for test., home.arpa. and the like itself, unless we have someone to ask. The first of these calls makes the settings final:
 * what is wrong with an anchor is told here. */
static err unblock(struct unbound *u, struct ub_ctx *ub)
{
    const struct dns_settings *s = u->s;

    TRY(told(ub_ctx_zone_remove(ub, "waypost.invalid."), "the settings, or a record of trust_anchor"));
    for (size_t i = 0; i < s->nstub; i++) {
        str zone = s->stub[i].zone, label;
        for (str rest = zone; rest.n; str_cut(&rest, S("."), &label))
            TRY(told(ub_ctx_zone_remove(ub, str_cz(u->a, str_printf(u->a, "%.*s.", STR(rest)))), "stub"));
    }
    if (s->server.n) {
        TRY(told(ub_ctx_zone_remove(ub, "test."), "server"));
        TRY(told(ub_ctx_zone_remove(ub, "home.arpa."), "server"));
    }
    return OK;
}

static err context_open(struct unbound *u, struct context *c, bool validate)
{
    struct ub_ctx *ub = c->ub = ub_ctx_create();

    c->of = u;
    if (!ub)
        return fail(E_NOSPACE, "libunbound has no context");
    ub_ctx_debugout(ub, NULL); /* its lines are not ours */
    TRY(told(ub_ctx_async(ub, 1), "threads"));
    TRY(set_options(u, ub));
    TRY(set_servers(u, ub));
    if (validate)
        TRY(set_validation(u, ub));
    else
        TRY(option(ub, "module-config:", "iterator"));
    return unblock(u, ub);
}

/* On a pool's thread: reading its settings libunbound takes more of the stack than a task has. */
static void open_contexts(void *arg)
{
    struct unbound *u = arg;

    u->opened = OK;
    if (u->s->dnssec != DNSSEC_OFF) {
        u->opened = read_anchors(u);
        if (u->opened != OK && u->s->dnssec == DNSSEC_AUTO && !u->s->anchor.n) {
            log_warn("dnssec_off", LOG_STR("reason", err_text()));
            u->opened = OK;
        } else if (u->opened == OK) {
            u->opened = context_open(u, &u->sure, true);
        }
    }
    if (u->opened == OK)
        u->opened = context_open(u, &u->plain, false);
}

/* ---- questions ---- */

static void answer(struct call *call, const struct dns_reply *reply)
{
    list_del(&call->link);
    dns_answered(call->q, reply); /* `reply` may speak of what is in `call` */
    mem_free(call);
}

static void heard(void *arg, int code, struct ub_result *result);

static void start(struct unbound *u, struct call *call, struct context *c)
{
    call->c = c;
    list_add(&u->calls, &call->link);
    int code = ub_resolve_async(c->ub, call->q->name, call->q->type, CLASS_IN, call, heard, NULL);
    if (code != UB_NOERROR)
        answer(call, &(struct dns_reply){ .e = E_IO, .why = str_z(ub_strerror(code)) });
}

/* A name of one label is nobody's in the world, and the root denies it; the resolvers we were given may know it. */
static struct context *context_for(struct unbound *u, const struct dns_question *q)
{
    bool own = u->s->server.n && !strchr(q->name, '.');

    return !u->sure.ub || own || clock_now() < u->plain_until ? &u->plain : &u->sure;
}

static void ask_arrived(struct post *p)
{
    struct dns_question *q = AROUND(p, struct dns_question, post);
    struct unbound *u = q->source;
    struct call *call = mem_new(sizeof *call);

    call->q = q;
    start(u, call, context_for(u, q));
}

/* ---- do they hand on signatures? ---- */

static void probed(void *arg, int code, struct ub_result *result)
{
    struct unbound *u = arg;
    bool none = code == UB_NOERROR && result && (result->bogus || (result->rcode == 0 && !result->secure));

    u->probing = false;
    u->proved = code == UB_NOERROR && result && result->secure;
    if (none) {
        u->plain_until = clock_now() + PLAIN_TIME;
        log_warn("dnssec_off", LOG_Z("reason", "the resolvers hand on no signatures: answers go unvalidated for an hour"), LOG_Z("zone", u->probe));
    }
    while (!list_empty(&u->doubtful)) {
        struct call *call = AROUND(u->doubtful.next, struct call, link);
        list_del(&call->link);
        if (none)
            start(u, call, &u->plain);
        else
            answer(call, &(struct dns_reply){ .bogus = u->proved, .rcode = RCODE_SERVFAIL, .why = str_z(call->why) });
    }
    ub_resolve_free(result);
}

/* Bogus: is it the name, or is nothing ever signed here? A zone that we have the key of tells. */
static void doubt(struct unbound *u, struct call *call, const struct ub_result *result)
{
    str why = str_head(str_z(result->why_bogus), sizeof call->why - 1);

    if (why.n)
        memcpy(call->why, why.p, why.n);
    list_del(&call->link);
    list_add(&u->doubtful, &call->link);
    if (u->probing)
        return;
    u->probing = true;
    int code = ub_resolve_async(u->sure.ub, u->probe, DNS_SOA, CLASS_IN, u, probed, NULL);
    if (code != UB_NOERROR)
        probed(u, code, NULL);
}

/* ---- answers ---- */

static str result_name(arena *a, const struct ub_result *result)
{
    str s = str_z(result->canonname);

    if (s.n && s.p[s.n - 1] == '.')
        s.n--;
    return str_lower(a, s);
}

static void heard(void *arg, int code, struct ub_result *result)
{
    struct call *call = arg;
    struct unbound *u = call->c->of;
    struct dns_reply reply = { 0 };
    AUTO_ARENA a = arena_new();

    if (code != UB_NOERROR || !result) {
        answer(call, &(struct dns_reply){ .e = E_IO, .why = str_z(ub_strerror(code)) });
        ub_resolve_free(result);
        return;
    }
    if (result->bogus && u->s->dnssec == DNSSEC_AUTO && !u->proved) {
        doubt(u, call, result);
        ub_resolve_free(result);
        return;
    }
    size_t n = 0;
    while (result->data && result->data[n])
        n++;
    str *rdata = NEW_ARRAY(a, str, MAX(n, 1));
    for (size_t i = 0; i < n; i++)
        rdata[i] = str_of(result->data[i], (size_t)MAX(result->len[i], 0));
    reply = (struct dns_reply){ .rcode = result->nxdomain ? RCODE_NXDOMAIN : (unsigned)result->rcode, .secure = result->secure, .bogus = result->bogus,
                                .ttl = (uint32_t)MAX(result->ttl, 0), .name = result_name(a, result), .rdata = rdata, .n = n };
    reply.why = result->bogus ? str_z(result->why_bogus) : str_printf(a, "the servers' answer is none (code %d)", result->rcode);
    answer(call, &reply);
    ub_resolve_free(result);
}

/* ---- the thread ---- */

static err hear(void *arg)
{
    struct context *c = arg;

    TRY(io_add(&c->io, ub_fd(c->ub)));
    while (io_wait_readable(&c->io, NEVER) == OK) {
        c->io.readable = false; /* it reads all there is */
        task_forbid_wait();
        ub_process(c->ub);
        task_allow_wait();
    }
    io_del(&c->io);
    return OK;
}

static err run(void *arg)
{
    struct unbound *u = arg;
    AUTO_GROUP g = group_open(NEVER);

    if (u->sure.ub)
        group_spawn(&g, "dns-sure", hear, &u->sure);
    group_spawn(&g, "dns-plain", hear, &u->plain);
    while (!u->stopping)
        waiters_wait(&u->wait_stop, NEVER);
    return OK;
}

static void stop_arrived(struct post *p)
{
    struct unbound *u = AROUND(p, struct unbound, stop);

    u->stopping = true;
    waiters_wake_all(&u->wait_stop);
}

/* Callbacks that did not come by now do not come. */
static void unbound_free(struct unbound *u)
{
    if (u->sure.ub)
        ub_ctx_delete(u->sure.ub);
    if (u->plain.ub)
        ub_ctx_delete(u->plain.ub);
    struct link *lists[] = { &u->calls, &u->doubtful };
    for (size_t i = 0; i < COUNT(lists); i++)
        while (!list_empty(lists[i]))
            answer(AROUND(lists[i]->next, struct call, link), &(struct dns_reply){ .e = E_CLOSED, .why = S("the resolver is closed") });
    arena_free(u->a);
    mem_free(u);
}

static err unbound_open(const struct dns_settings *s, void **ret)
{
    struct unbound *u = mem_new(sizeof *u);

    u->s = s;
    u->a = arena_new();
    list_init(&u->calls);
    list_init(&u->doubtful);
    struct pool *p = pool_start("dns-open", 1);
    work_run(p, open_contexts, u);
    pool_stop(p);
    if (u->opened != OK) {
        err e = u->opened;
        unbound_free(u);
        return e;
    }
    u->thread = thread_start("dns", run, u);
    *ret = u;
    return OK;
}

static void unbound_ask(void *ctx, struct dns_question *q)
{
    struct unbound *u = ctx;

    q->source = u;
    q->post.run = ask_arrived;
    thread_post(u->thread, &q->post);
}

static void unbound_close(void *ctx)
{
    struct unbound *u = ctx;

    u->stop.run = stop_arrived;
    thread_post(u->thread, &u->stop);
    thread_join(u->thread);
    unbound_free(u);
}

const struct dns_source dns_unbound = { .open = unbound_open, .read = text_read, .ask = unbound_ask, .close = unbound_close };
