/* What the parts of the translation share: the relay as it will be written, before it is text. */
#ifndef IMPORT_INSIDE_H
#define IMPORT_INSIDE_H

#include "cli/import.h"

/* Postfix' address classes (ADDRESS_CLASS_README), the first that names a domain decides. */
enum domain_class { CLASS_LOCAL, CLASS_ALIAS, CLASS_MAILBOX, CLASS_RELAY };

enum hop_kind {
    HOP_NONE,           /* a transport that waypost has not: nobody is taken there */
    HOP_BACKEND,
    HOP_MX,
    HOP_DISCARD,
    HOP_ERROR,          /* refused at RCPT, with `what` */
};
struct hop { enum hop_kind kind; str backend; /* its name */ str what; /* for findings */ };

struct backend_out { str name, servers /* lines */, key; bool lmtp; uint64_t connections, per_hour; when connect; str source; };
/* Addresses that mail leaves by: smtp_bind_address of all, or of a transport's service. */
struct source_out { str name, addresses, helo; };
struct row {            /* a domain that is taken */
    str name;           /* "example.com", or "*.example.com" */
    enum domain_class class;
    str file; unsigned line;
    struct hop hop;
    bool explicit;      /* transport_maps names it: goes before sender-dependent ways */
    str recipients;     /* as written behind "recipients" */
    str copy;
    bool written;
};
struct rule { str pattern; bool sender; struct hop hop; size_t weight; /* the longer the pattern the earlier */ };
struct alias { str key, targets, file; unsigned line; };

struct relay {
    struct postfix_conf *c;
    arena *a;
    struct backend_out *backend; size_t nbackend, backend_cap;
    struct source_out *source; size_t nsource, source_cap;     /* the first is everybody's, unless it is empty */
    struct row *row; size_t nrow, row_cap;
    struct map row_by_name;     /* name -> 1 + index */
    struct rule *rule; size_t nrule, rule_cap;
    struct alias *alias; size_t nalias, alias_cap;
    struct map alias_by_key;    /* key -> 1 + index */
    struct pf_table transport, virtual, local_alias, sender_relay;
    struct pf_table people[4];  /* who exists, by class */
    bool parents_relay, parents_transport;      /* parent_domain_matches_subdomains */
    str myhostname, mydomain, myorigin;
    struct hop fallback;        /* where mail for all others goes; HOP_ERROR: nowhere */
    str last_resort;            /* smtp_fallback_relay's backend */
    bool callout;               /* reject_unverified_recipient */
    /* of clients.c */
    str listen, networks, relay_from, own;
    bool strangers;             /* they may send to the domains here */
    bool own_clients;           /* those of mynetworks may send elsewhere */
    struct pf_table refused, access;    /* recipients that transport_maps and check_recipient_access refuse; the value is the text */
    str nobody, relay_list, mailbox_list, local_list;   /* files; NULL: not needed */
    struct buf decisions;       /* lines for the head of the file */
};

/* import_hops.c */
void sources_read(struct relay *r);
struct hop hop_of(struct relay *r, const char *name, str file, unsigned line, str transport, str nexthop);
struct hop hop_of_class(struct relay *r, enum domain_class class);
struct hop hop_by_relayhost(struct relay *r, str service);
void hops_default(struct relay *r);
const struct pf_entry *transport_for(const struct relay *r, str name);
void split_transport(str value, str *transport, str *nexthop);
str service_kind(const struct relay *r, str transport);        /* "smtp", "lmtp", "error", ... or NULL */

/* import_domains.c */
void domains_read(struct relay *r);
void rule_add(struct relay *r, str pattern, bool sender, struct hop hop);
/* What is said to who writes there: one line of text, a status code in front if it has one. */
str refusal(struct relay *r, const struct hop *h);
struct row *row_add(struct relay *r, const struct row *row);
struct row *row_named(const struct relay *r, str name);
struct row *row_for(const struct relay *r, str domain);         /* the closest */
void recipients_read(struct relay *r);

/* import_aliases.c */
void aliases_read(struct relay *r);
bool postfix_address(arena *a, str unquoted, str *ret);

/* import_clients.c */
void restrictions_read(struct relay *r);
void clients_read(struct relay *r);

/* import_facts.c */
void facts_write(struct relay *r, struct buf *out);            /* limits, times, reports */
void facts_rest(struct relay *r);                               /* a finding for each parameter that nobody spoke of */

void decide(struct relay *r, const char *fmt, ...) PRINTF(2, 3);

#endif
