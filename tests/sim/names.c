/* Names: who answers the relay's resolver. */
#include "dns/seam.h"
#include "sim/inside.h"

#include <stdio.h>

#define NAME_MOST 256
#define SILENCE MINUTE          /* until libunbound would give up, or twice that */

struct record { struct record *next; char name[NAME_MOST]; uint16_t type; uint32_t ttl; bool secure; size_t n; char data[]; };
struct pending { struct sim_event event; struct link link; struct dns_question *q; uint64_t source; bool fails, bogus; };

struct names {
    struct sim_names how;
    struct record *record;      /* the newest first */
    struct link pending;
    uint64_t sources;
    unsigned questions;
    struct buf hosts;
    bool has_hosts;
};

struct sim_names *sim_names(void) { return &sim->names->how; }
unsigned sim_questions(void) { return sim->names->questions; }

/* ---- the zone ---- */

void sim_record(const char *name, uint16_t type, str rdata, uint32_t ttl, bool secure)
{
    struct record *r = mem_new(sizeof *r + rdata.n);

    r->type = type;
    r->ttl = ttl;
    r->secure = secure;
    r->n = rdata.n;
    snprintf(r->name, sizeof r->name, "%s", name);
    if (rdata.n)
        memcpy(r->data, rdata.p, rdata.n);
    r->next = sim->names->record;
    sim->names->record = r;
}

void sim_address(const char *name, const struct addr *a)
{
    if (a->sa.sa_family == AF_INET)
        sim_record(name, DNS_A, str_of((const char *)&a->v4.sin_addr, 4), 60, false);
    else
        sim_record(name, DNS_AAAA, str_of((const char *)&a->v6.sin6_addr, 16), 60, false);
}

void sim_no_name(const char *name)
{
    for (struct record **at = &sim->names->record; *at;) {
        struct record *r = *at;
        if (strcmp(r->name, name) != 0) {
            at = &r->next;
            continue;
        }
        *at = r->next;
        mem_free(r);
    }
}

void sim_hosts(str text)
{
    buf_clear(&sim->names->hosts);
    buf_add(&sim->names->hosts, text);
    sim->names->has_hosts = text.p != NULL;
}

/* ---- answers ---- */

static void answer(struct pending *p)
{
    struct dns_question *q = p->q;
    struct dns_reply reply = { .rcode = RCODE_NXDOMAIN, .ttl = 60 };
    str rdata[64];

    for (const struct record *r = sim->names->record; r && reply.n < COUNT(rdata); r = r->next)
        if (strcmp(r->name, q->name) == 0) {
            reply.rcode = RCODE_OK;
            if (r->type != q->type)
                continue;
            if (reply.n == 0) {
                reply.ttl = r->ttl;
                reply.secure = r->secure;
            }
            rdata[reply.n++] = str_of(r->data, r->n);
        }
    reply.rdata = rdata;
    if (p->fails || sim->names->how.dead)
        reply = (struct dns_reply){ .rcode = RCODE_SERVFAIL, .why = S("the servers fail") };
    else if (p->bogus)
        reply = (struct dns_reply){ .bogus = true, .rcode = RCODE_SERVFAIL, .why = S("signed by nobody") };
    sim_tell("name %s type %u: code %u%s, %zu records", q->name, q->type, reply.rcode, reply.bogus ? " bogus" : "", reply.n);
    list_del(&p->link);
    mem_free(p);
    dns_answered(q, &reply);
}

static void answer_comes(struct sim_event *e) { answer(AROUND(e, struct pending, event)); }

/* ---- the source ---- */

static err names_open(const struct dns_settings *s, void **ret)
{
    (void)s;
    *ret = (void *)(uintptr_t)++sim->names->sources;
    return OK;
}

static err names_read(arena *a, str path, size_t most, str *ret)
{
    if (!sim->names->has_hosts || !str_eq(path, S("/etc/hosts")) || sim->names->hosts.n > most)
        return fail(E_NOTFOUND, "%.*s", STR(path));
    *ret = str_dup(a, buf_str(&sim->names->hosts));
    return OK;
}

static bool one_in(unsigned n) { return n && pick(&sim->device, n) == 0; }

static void names_ask(void *ctx, struct dns_question *q)
{
    const struct sim_names *how = &sim->names->how;
    struct pending *p = mem_new(sizeof *p);
    bool silent = one_in(how->silent);

    *p = (struct pending){ .event.run = answer_comes, .q = q, .source = (uintptr_t)ctx, .fails = silent || one_in(how->servfail), .bogus = one_in(how->bogus) };
    list_add(&sim->names->pending, &p->link);
    sim->names->questions++;
    sim_at(&p->event, sim->now + 1 + (silent ? device_between(SILENCE, 2 * SILENCE) : device_between(how->delay_least, how->delay_most)));
}

static void names_close(void *ctx)
{
    for (struct link *l = sim->names->pending.next, *next; l != &sim->names->pending; l = next) {
        struct pending *p = AROUND(l, struct pending, link);
        next = l->next;
        if (p->source != (uintptr_t)ctx)
            continue;
        struct dns_question *q = p->q;
        sim_cancel(&p->event);
        list_del(&p->link);
        mem_free(p);
        dns_answered(q, &(struct dns_reply){ .e = E_CLOSED, .why = S("the resolver is closed") });
    }
}

static const struct dns_source sim_source = { .open = names_open, .read = names_read, .ask = names_ask, .close = names_close };

/* Who asked is gone. */
void names_crash(void)
{
    while (!list_empty(&sim->names->pending)) {
        struct pending *p = AROUND(sim->names->pending.next, struct pending, link);
        sim_cancel(&p->event);
        list_del(&p->link);
        mem_free(p);
    }
}

void names_begin(void)
{
    sim->names = mem_new(sizeof *sim->names);
    list_init(&sim->names->pending);
    sim->names->how = (struct sim_names){ .delay_least = MILLISECOND, .delay_most = 50 * MILLISECOND };
    dns_source = &sim_source;
}

void names_end(void)
{
    names_crash();
    while (sim->names->record)
        sim_no_name(sim->names->record->name);
    buf_free(&sim->names->hosts);
    mem_free(sim->names);
    dns_source = &dns_unbound;
}
