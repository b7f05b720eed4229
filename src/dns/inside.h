/* What the files of this folder share. */
#ifndef DNS_INSIDE_H
#define DNS_INSIDE_H

#include "dns/seam.h"

#include <pthread.h>

/* ---- the resolver ------------------------------------------------------------------------------------------------------ */

/* One configuration: immutable, with a count of who holds it. */
struct setup {
    arena *a;
    struct dns_settings s;              /* `server` filled from resolv.conf where that is used */
    str resolv_text;                    /* what it said */
    unsigned holders;                   /* under the lock */
};

struct resolver {
    pthread_mutex_t lock;               /* of all below; nobody waits while he has it */
    struct setup *setup;
    const struct dns_source *source;
    void *ctx;                          /* the source's */
    uint64_t generation;                /* counts those */
    bool closing;

    /* cache.c */
    struct map entries;
    struct link lru;                    /* those with an answer, the longest unused first */
    struct link told;                   /* askers on their way to be told */
    struct resolver_counts counts;

    /* The hosts file. */
    struct hosts *hosts;
    str hosts_text;                     /* heap; for comparing */
    when looked;                        /* at it and at resolv.conf */
    bool looking;
};

/* The hosts file and resolv.conf are looked at again when they were not for a while. */
WAITS void resolver_look(struct resolver *r);

/* ---- cache.c: answers, and who waits for them -------------------------------------------------------------------------- */

/* Held by the cache and by who reads it; never changed. One block on the heap. */
struct answer {
    unsigned holders;                   /* under the resolver's lock */
    err e;                              /* OK, E_NONAME, E_AGAIN, E_BOGUS */
    bool secure;
    when expires;
    str name, why;
    str *rdata; size_t n;
    size_t size;
};

#define OUR_SHARE 4                     /* a quarter of the settings' `cache` is ours, the rest libunbound's */

struct asker;
/* Ask; when it is known already there is nothing to wait for. `name` as dns_name() made it. */
struct asker *resolver_ask(struct resolver *r, str name, uint16_t type);
/* Wait for it, and end the asker. The error is the answer's own, and its text says what was asked; or E_TIMEOUT, E_CANCELED, or E_AGAIN when the
 * settings' `timeout` passed. On OK *ret is held: answer_drop() it. */
WAITS err asker_wait(struct asker *k, when deadline, const struct answer **ret);
void answer_drop(struct resolver *r, const struct answer *answer);
/* Under the lock, */
void cache_clear(struct resolver *r);   /* forget all that is known */
/* and at the end. */
void cache_end(struct resolver *r);

/* ---- rdata.c: what is in a record. Nothing here is trusted: the length may lie, names may hold anything. ------------------------ */

/* A name at the start of *rdata, cut off it: as text in lower case, "." for the root. `host` false when it is no name that dns_name() would
 * take. False: it is not a whole name, and *rdata is spent. */
bool rdata_name(arena *a, str *rdata, str *ret, bool *host);
bool rdata_address(str rdata, uint16_t type, uint16_t port, struct addr *ret);
bool rdata_mx(arena *a, str rdata, struct mx *ret, bool *host);        /* host false: not a host name; "." is none either */
bool rdata_txt(arena *a, str rdata, str *ret);
bool rdata_ptr(arena *a, str rdata, str *ret, bool *host);
bool rdata_tlsa(arena *a, str rdata, struct tlsa *ret);
bool rdata_srv(arena *a, str rdata, struct srv *ret, bool *host);

/* ---- name.c ------------------------------------------------------------------------------------------------------------------------- */

bool name_plain(str s);                 /* as dns_name() leaves it: nothing to be done */
str name_reverse(arena *a, const struct addr *of);      /* "7.2.0.192.in-addr.arpa"; "" for a Unix socket */
bool name_below(str name, str zone);    /* the zone itself, or below it; "" and "." are the root */

/* ---- files.c ------------------------------------------------------------------------------------------------------------------------ */

/* hosts(5) as a map from names to addresses, in an arena of its own. */
struct hosts { arena *a; struct map by_name; };
struct hosts *hosts_parse(str text);
void hosts_free(struct hosts *h);       /* NULL is fine */
const struct addrs *hosts_find(const struct hosts *h, str name);        /* NULL: not there */
/* The servers of resolv.conf(5), at most 8; those that cannot be asked are left out. */
struct addrs resolv_parse(arena *a, str text);
/* A file as text in `a`, at most `most` octets: dns_unbound's read(). */
WAITS err text_read(arena *a, str path, size_t most, str *ret);
#define ANCHOR_DEBIAN "/usr/share/dns/root.key"
/* The lines of a file that are DNSKEY or DS records; E_SYNTAX: none is. */
err anchors_read(arena *a, str path, struct strs *ret);
bool anchor_owner(str line, str *ret);  /* "." for the root; false: it is no such record */

#endif
