/* The seam of questions: who answers them. libunbound, unless a simulation or a test put another in its place. */
#ifndef DNS_SEAM_H
#define DNS_SEAM_H

#include "dns/dns.h"

enum { DNS_A = 1, DNS_CNAME = 5, DNS_SOA = 6, DNS_PTR = 12, DNS_MX = 15, DNS_TXT = 16, DNS_AAAA = 28, DNS_SRV = 33, DNS_TLSA = 52 };
enum { RCODE_OK = 0, RCODE_SERVFAIL = 2, RCODE_NXDOMAIN = 3 };

const char *dns_type_name(uint16_t type);       /* "MX"; "TYPE" for others */

/* One question under way. It belongs to whom it was asked from ask() until dns_answered(). */
struct dns_question {
    struct post post;                   /* for who hands it to a thread of his own, */
    struct link link;                   /* keeps a list, */
    void *source;                       /* and knows what it is about */
    const char *name;                   /* lower case, no dot at the end */
    uint16_t type;
    uint64_t generation;                /* the resolver's */
};

struct dns_reply {
    err e;                              /* OK: `rcode` and the rest say what the answer is. Else nobody could be asked, `why` says why */
    unsigned rcode;
    bool secure, bogus;
    uint32_t ttl;                       /* of the answer; of the SOA when there is none; 0: not known */
    str name;                           /* where aliases led, as text; "" nowhere else */
    str why;                            /* for people: what is bogus, or failed */
    const str *rdata; size_t n;         /* of the type asked for, without compression */
};
/* The answer; its parts are copied. Any thread, no task needed, does not wait; not from within ask(). */
void dns_answered(struct dns_question *q, const struct dns_reply *reply);

struct dns_source {
    WAITS err (*open)(const struct dns_settings *s, void **ret);
    /* The hosts file and resolv.conf: as text in `a`, E_LIMIT when it is more than `most` octets. */
    WAITS err (*read)(arena *a, str path, size_t most, str *ret);
    /* Any thread, under the resolver's lock: does not wait, and answers later. */
    void (*ask)(void *ctx, struct dns_question *q);
    /* What was not answered gets its dns_answered() with E_CLOSED before this returns. Nothing is asked any more. */
    WAITS void (*close)(void *ctx);
};
extern const struct dns_source *dns_source;     /* changed before resolver_open() */
extern const struct dns_source dns_unbound;

#endif
