/* dns: questions to the domain name system, and what may be believed of the answers.
 *
 * libunbound asks and validates; what it finds is kept here for all threads, each question under way once however many wait for
 * it. What comes from other servers is text of strangers: every name and number in an answer was checked before it is told.
 *
 *   struct resolver *r;
 *   TRY(resolver_open(&settings->dns, &r));
 *   TRY(dns_mx(r, a, S("example.org"), clock_now() + 30 * SECOND, &mx));
 *
 * Names are absolute: there is no search list. U-labels are converted (dns_name below), a dot at the end is dropped.
 *
 * All questions below, by tasks of any thread:
 *   deadline   a moment of clock_now(), not a length
 *   ret        on OK, in `a`; else untouched
 * OK          also when the name exists without such a record: then the answer is empty
 * E_NONAME    there is no such name (NXDOMAIN): the only one that may end in "for good"
 * E_AGAIN     nobody could say: SERVFAIL, REFUSED, nonsense, no server reached, no answer within the settings' `timeout`, too many
 *             questions under way
 * E_BOGUS     signed, and the signatures do not hold (RFC 4035 4.3): as good as no answer, and worth a word in the log
 * E_SYNTAX    `name` is no domain name            E_TIMEOUT  the deadline came first          E_CANCELED  our group was closed */
#ifndef DNS_H
#define DNS_H

#include "conf/conf.h"
#include "net/net.h"

/* ---- settings: the block `dns` ------------------------------------------------------------------------------------------- */

enum dnssec { DNSSEC_AUTO, DNSSEC_ON, DNSSEC_OFF };
struct dns_stub { str zone; struct addrs server; };
struct dns_settings {
    struct addrs server;                /* all questions go to these resolvers; n 0: resolv.conf's, and without those from the root down */
    struct dns_stub *stub; size_t nstub;
    struct strs insecure;               /* zones that are not signed, whatever their parents say */
    str hosts;                          /* a hosts(5) file whose names answer first; "" none */
    str resolv;                         /* a resolv.conf(5) for when `server` is empty; "" none */
    str anchor;                         /* DNSKEY and DS records to trust; "" Debian's root.key, when it is there */
    int dnssec;
    when timeout;                       /* most that one question may take */
    uint64_t cache;                     /* octets of memory for answers */
};
extern const struct setting dns_settings[];     /* one block, bound into a struct dns_settings */

/* ---- resolver: one a relay ------------------------------------------------------------------------------------------------ */

struct resolver;
/* Copies what it needs of `s`. Starts a thread, two with libunbound's own: after a sandbox was entered. E_NOTFOUND and the like: a file that
 * `s` names cannot be read; E_SYNTAX: it has no trust anchors. Ended by resolver_close() when no question is under way. */
WAITS err resolver_open(const struct dns_settings *s, struct resolver **ret);
WAITS void resolver_close(struct resolver *r);
/* New settings: what is under way is asked again, what is known is forgotten. On an error the old ones stay. */
WAITS err resolver_configure(struct resolver *r, const struct dns_settings *s);

struct resolver_counts {
    uint64_t questions;                 /* since the start */
    uint64_t known;                     /* of them answered from memory */
    uint64_t joined;                    /* that waited for an answer others were waiting for */
    uint64_t failed;                    /* answers that were none: E_AGAIN and E_BOGUS */
    size_t entries, octets;             /* in memory now */
    size_t under_way, waiting;          /* questions asked, tasks that wait */
};
struct resolver_counts resolver_counts(struct resolver *r);

/* ---- questions -------------------------------------------------------------------------------------------------------------- */

/* What every answer comes with. */
struct dns_about {
    bool secure;                        /* validated: DNSSEC holds from a trust anchor to each record, and to the absence of others */
    str name;                           /* where aliases (CNAME) led, in lower case; the name asked for when there was none */
    uint32_t ttl;                       /* seconds that the answer may be kept */
};

/* All addresses of a host, IPv6 first, at most 64 of each kind, with `port`. The hosts file answers first. A and AAAA are asked at once, and one
 * of them is enough: *.v4 and *.v6 say what became of each (OK also with no address; E_NONAME, E_AGAIN, E_BOGUS). about.secure: both
 * are. The error of both when neither gave an address and one failed. */
struct dns_addresses { struct dns_about about; struct addrs all; size_t n4, n6; err v4, v6; bool hosts; };
WAITS err dns_addresses(struct resolver *r, arena *a, str name, uint16_t port, when deadline, struct dns_addresses *ret);

/* Mail exchangers by preference; equals as they came: to shuffle is the router's (RFC 5321 5.1). At most 100, those of the best preference.
 *   records   how many there were, those with a host that is no host name included: only with 0 the domain's own address may take their place
 *   null      the one record is "0 .": no mail is taken there (RFC 7505) */
struct dns_mx { struct dns_about about; struct mx { uint16_t preference; str host; } *p; size_t n, records; bool null; };
WAITS err dns_mx(struct resolver *r, arena *a, str name, when deadline, struct dns_mx *ret);

/* TXT records, the strings of each joined (RFC 7208 3.3), in wire order. Octets of any kind. */
struct dns_txt { struct dns_about about; struct strs all; };
WAITS err dns_txt(struct resolver *r, arena *a, str name, when deadline, struct dns_txt *ret);

/* The names of an address; those that are no host names are left out. At most 16. E_SYNTAX: a Unix socket has none. */
struct dns_ptr { struct dns_about about; struct strs all; };
WAITS err dns_ptr(struct resolver *r, arena *a, const struct addr *of, when deadline, struct dns_ptr *ret);

/* Certificate associations (RFC 6698 2.1), at "_25._tcp.mx.example". Worth nothing unless about.secure. At most 100. */
struct dns_tlsa { struct dns_about about; struct tlsa { uint8_t usage, selector, matching; str data; } *p; size_t n; };
WAITS err dns_tlsa(struct resolver *r, arena *a, str name, when deadline, struct dns_tlsa *ret);

/* Servers of a service (RFC 2782), by priority; equals as they came. `none`: the one record is ".", there is no such service. At most 100. */
struct dns_srv { struct dns_about about; struct srv { uint16_t priority, weight, port; str host; } *p; size_t n; bool none; };
WAITS err dns_srv(struct resolver *r, arena *a, str name, when deadline, struct dns_srv *ret);

/* ---- names -------------------------------------------------------------------------------------------------------------------- */

#define DNS_NAME_MAX 253                /* octets in text, RFC 1035 2.3.4 */

/* A domain name as it is asked for: lower case, A-labels (UTS #46, non-transitional: RFC 5891 for those who type), no dot at the end. Labels
 * of letters, digits, hyphens and underscores, 1 to 63 octets, at most 253 in all, the last label not a number: that would be an address.
 * Two spellings of one name are the same octets afterwards. Returns `name` itself when nothing had to change. E_SYNTAX. */
err dns_name(arena *a, str name, str *ret);

#endif
