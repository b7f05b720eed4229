/* route: where a recipient's mail goes, and which server of a backend takes it.
 *
 * `struct routes` is one configuration's answer: immutable, shared by all threads. What is learnt of a server (up or not, how
 * busy) lives in `struct server_state`, kept by name over reloads, and is read and written by all threads without locks. */
#ifndef ROUTE_H
#define ROUTE_H

#include "conf/conf.h"
#include "dns/dns.h"
#include "net/net.h"
#include "smtp/smtp.h"
#include "table/table.h"

#include <stdatomic.h>

/* ---- servers ------------------------------------------------------------------------------------------------------------- */

struct server_state {
    char *key;                          /* "backend/host:port"; heap */
    _Atomic uint32_t connections;       /* open or opening, all threads */
    _Atomic uint32_t busy;              /* of them with a transaction under way */
    _Atomic uint32_t latency_us;        /* smoothed: final dot to its answer */
    _Atomic uint32_t failures;          /* in a row, before any message could be offered */
    _Atomic int64_t out_until;          /* ejected until this moment of clock_now(); 0: in */
    _Atomic int64_t ramp_from;          /* came back then: slow start */
    _Atomic bool probing;               /* somebody is trying an ejected server */
    _Atomic bool drained;               /* an operator wants no mail to go there */
    _Atomic uint32_t probes_well, probes_ill; /* in a row, by deliver/health.c */
    _Atomic uint64_t delivered, failed; /* since start */
    _Atomic bool has_said;
    char *said;                         /* why it last failed; heap, under a lock of balance.c; NULL: it works, or did not fail yet */
    _Atomic uint32_t holders;           /* of those that are not for ever */
    bool for_ever;
};
/* The state of that name, made on first use. That of a configured server is never freed: they are few and come back. */
struct server_state *server_state(str backend, str host, uint16_t port);
/* The same for as long as somebody holds it, and a while longer: of hosts that MX records name there are many. */
struct server_state *server_state_hold(str backend, str host, uint16_t port);
void server_state_drop(struct server_state *s);

struct next_hop {
    str host;                           /* name or address as configured */
    uint16_t port;
    bool lmtp;                          /* it speaks LMTP (RFC 2033), not SMTP */
    struct addr addr;                   /* when host is an address or a Unix socket; n 0: look it up */
    unsigned priority;                  /* lower first */
    unsigned weight;                    /* among those of its priority; 0: takes no mail */
    struct server_state *state;
};

/* How the servers of one priority share the mail. */
enum balance {
    BALANCE_LEAST_BUSY,                 /* two random ones, of them the one less busy for its weight */
    BALANCE_ROUND_ROBIN,                /* in turn, whatever their weights */
    BALANCE_WEIGHTED,                   /* in turn, as often as their weights say */
    BALANCE_STICKY,                     /* the same key to the same server as long as it is in */
};
enum sticky_by { STICKY_DOMAIN, STICKY_SENDER, STICKY_TENANT };

/* ---- limits: what all threads share, by the limiter of queue/ --------------------------------------------------------------- */

/* The state of a limit, kept by name over reloads, never freed: "backend exchange", "source a1", "network office". */
struct limit_state {
    char *key;                          /* heap */
    _Atomic int64_t clock;              /* limiter.c's word */
    _Atomic int64_t every;              /* of its rate as the newest configuration has it: time for one; 0: no rate */
    _Atomic uint32_t changed;           /* how often `every` did: what was promised before is void */
    _Atomic uint32_t used;              /* connections */
    _Atomic int64_t wanted;             /* when somebody without a connection last found none left */
    _Atomic uint64_t waited, full;      /* how often a lane waited for its rate; found no connection left */
};
struct limit {
    struct limit_state *state;          /* NULL: there is no limit */
    struct rate rate;                   /* n 0: none */
    uint64_t connections;               /* all threads together; 0: as many as anybody wants */
    str slow, full;                     /* why something waits: "rate of backend exchange: 300/min", "all 10 connections of source a1 are in use" */
};
/* Its words in `a`. */
struct limit limit_of(arena *a, const char *kind, str name, struct rate rate, uint64_t connections);
str rate_words(arena *a, struct rate r);        /* "300/min" */
struct routes;
/* The newest configuration's rates hold from now on, for all threads. */
void limits_apply(const struct routes *r);

/* ---- sources: by which address mail leaves ------------------------------------------------------------------------------------- */

#define OUTLET_NAME 32
struct leave { const struct token *name; bool pool; };  /* "source NAME", "pool NAME"; name NULL: nothing is said */
/* A `source`: addresses of this machine, and the name said to EHLO there. */
struct outlet {
    str name;
    struct addr v4, v6;                 /* without ports; n 0: none of that family */
    str helo;                           /* "": the relay's hostname */
    struct limit limit;
    struct outlet_state *state;
    struct rate rate; uint64_t connections;     /* as configured */
    struct place at;
};
/* Kept by name over reloads, never freed. */
struct outlet_state { char *name; _Atomic int64_t out_until; /* it is no address of this machine: look again then; 0: it works */ };
/* From where to connect to that; NULL: a Unix socket has no such end, or (*cannot) the source has no address of that family. */
const struct addr *outlet_addr(const struct outlet *o, const struct addr *to, bool *cannot);
/* Is that an address of this machine? The system is asked, by binding to it. */
bool outlet_has(const struct addr *a);
/* It turned out not to be: others are taken for a while. */
void outlet_failed(const struct outlet *o, when now);

#define POOL_MOST 64
struct outlet_pool {
    str name;
    struct outlet_use { const struct token *name; struct outlet *outlet; unsigned weight; bool fallback; } *use; size_t n;
    struct place at;
};
/* A backend, and the sources that its mail leaves by: the backend once more for each of them, named "BACKEND@SOURCE", with server states of its own, since
 * what a server thinks of one address says nothing of another. */
struct outlets {
    struct backend *of;
    struct outlet_pool *pool;
    struct backend *by[POOL_MOST];      /* as pool->use */
    uint8_t *turn; unsigned nturn;      /* the order in which they come, by weight, as even as can be */
    _Atomic uint32_t at;                /* all threads */
};
#define OUTLETS_NONE SIZE_MAX
/* The next in turn, by weights, of those that work and are not in `avoid`; a fallback when no other is left; one that does not work rather than none. */
size_t outlets_pick(struct outlets *o, uint64_t avoid, when now);
size_t outlets_find(const struct outlets *o, const struct backend *b);  /* place of that one, OUTLETS_NONE */

struct backend {
    str name;
    bool discard;                       /* it has none: what goes here is taken and thrown away */
    struct closed { struct enhanced status; str text; bool is; } closed;  /* nor this one: mail is refused with that, or returned if it was taken */
    bool mx;                            /* it has no servers: each domain's mail goes where its MX records say */
    uint32_t holders;                   /* of one that was made for a site, all on one thread; 0: it is a configuration's */
    struct next_hop *server; size_t nserver;      /* sorted by priority */
    uint64_t max_connections;           /* to each server, all threads together */
    uint64_t messages_per_connection;   /* 0: no limit */
    bool mix_domains;                   /* recipients of several domains in one transaction */
    enum balance balance;
    enum sticky_by sticky_by;
    struct health {
        when every;                     /* between two probes (EHLO); 0: none */
        uint64_t down_after, up_after;  /* of them in a row */
    } health;
    when connect_timeout;
    when idle_timeout;                  /* how long a connection waits for the next message */
    struct limit limit[3]; unsigned nlimit;     /* its own, then its source's */
    /* sources */
    struct outlet *outlet;              /* mail leaves by it; NULL: as the system chooses */
    struct backend *base;               /* of one that was made for a source: the backend as configured, as long as that configuration lives */
    struct outlets *among;              /* the same: the only outlets it is in; NULL: it is in several */
    struct outlets *outlets;            /* by its own `source` or `pool`; NULL: none */
    struct leave leave;                 /* what it says of them */
    struct rate rate; bool rate_per_source;     /* as configured */
    uint64_t connections; bool connections_per_source;
    bool soft_bounce;                   /* every 5xx of its servers counts as a 4xx */
    struct brake_settings { uint64_t least; /* 0: no brake */ when window; } braking;
    struct brake *brake;                /* of a configured one with servers; else NULL */
};
/* Its name as configured, whatever its source. */
static inline str backend_base_name(const struct backend *b) { return b->outlet ? str_head(b->name, b->name.n - b->outlet->name.n - 1) : b->name; }
/* Has it, by any of these sources, fewer connections than there are threads? Then its mail gathers on one of them. `o` may be NULL. */
bool backend_is_narrow(const struct backend *b, const struct outlets *o, unsigned threads);
/* Is it only what others are made of, so that no mail goes by it itself? */
static inline bool backend_is_pattern(const struct backend *b) { return b->outlets != NULL; }

/* Does it take mail, as far as is known? Not ejected, not drained, of some weight. */
static inline bool server_in(const struct next_hop *s)
{
    return s->weight && atomic_load_explicit(&s->state->out_until, memory_order_relaxed) == 0
           && !atomic_load_explicit(&s->state->drained, memory_order_relaxed);
}
/* A server worth trying now, or NULL: all are out, *retry_at says when the first may be tried. Among the servers of the best priority that
 * is not wholly out: two random ones, of them the one less busy for its weight (transactions under way, then smoothed latency; a server
 * that came back counts as busier for its first 10 s). An ejected server of a better priority whose time has passed is tried by one caller
 * at a time. `avoid[i]` set: not server i again. */
struct next_hop *backend_pick(const struct backend *be, const bool *avoid, when now, when *retry_at);
/* The server for a key: the same one as long as it is in; when it is out, its keys are spread over the others, and come back with it
 * (rendezvous hashing). NULL: none of any priority is in. */
struct next_hop *backend_stick(const struct backend *be, uint32_t key);
/* What became of a connection that backend_pick() led to, before any message was offered. A failure ejects for 1 s, doubling to
 * 60 s with each further one in a row, spread by a quarter. */
void server_failed(struct server_state *s, when now);
void server_works(struct server_state *s, when now);
/* Its last words, for whoever asks why nothing goes there; at most 200 octets. Working again it has none. */
void server_said(struct server_state *s, str words);
str server_last_words(struct server_state *s, arena *a);
/* Why no server of it is to be had, with the words of one that failed. In `a`. */
str backend_no_server(const struct backend *be, arena *a);
/* A probe was answered with EHLO's 250, or not. So many in a row put the server in or out; who is put out so stays out until probes, or an
 * operator, bring it back. True: it changed. */
bool server_probed(struct server_state *s, const struct health *h, bool well, when now);
/* An operator knows better: all that are out may be tried now. */
void backend_try_now(const struct backend *be, when now);
void server_answered(struct server_state *s, when took);    /* smooths the latency */

/* ---- brake: a backend that refuses whom we know ------------------------------------------------------------------------------ */

/* In a cut-over that went wrong a backend refuses everybody, and each refusal would be a report to a sender. The brake counts what became of
 * recipients that our own lists know; when over half of at least `least` were refused within `window` it is on: mail for the backend is kept. One
 * caller at a time is told to try whether that is over, at growing intervals.
 *
 * A spammer must not be able to pull it, by mail that a backend refuses for its sender or its words. So where others were taken meanwhile the backend
 * is asked first whether it takes a refused recipient from the null sender: if it does, it means what it refused. And refusals of the message (to
 * DATA or the final dot) count only where nothing at all was taken.
 *
 * Shared by all threads, kept by name over reloads and never freed; what follows may be called from any thread and does not wait. */
struct brake *brake_of(str backend);
/* So many known recipients were taken, refused by MAIL or RCPT, or refused by DATA or the dot. `example`: one of those refused. True: the brake has
 * come on just now. */
struct brake_count { unsigned took, by_rcpt, by_message; str example, reply; };
bool brake_count(struct brake *b, const struct brake_settings *s, const struct brake_count *n, when now);
bool brake_on(const struct brake *b);
/* May the refusal of a known recipient be believed, that was first refused in `era` (0: it was not) at `since`? Yes when the backend took others
 * after that, or nothing was proved for the length of a window. No: *again is when to try it again, 0: when the brake is off. *era to be kept for the
 * next question. */
bool brake_believes(struct brake *b, const struct brake_settings *s, uint8_t *era, when since, when now, when *again);
/* Is it well, as far as can be seen at once: off, and it took somebody lately and refused at most a few since? For a refusal that cannot wait. */
bool brake_well(struct brake *b, const struct brake_settings *s, when now);
uint8_t brake_era(struct brake *b);             /* refused before is who has this number */
/* When it is to be tried next, since when it is on, and why, in words. */
#define BRAKE_WORDS 400
when brake_next(struct brake *b, when *since, char words[BRAKE_WORDS]);
/* To try it is now the caller's, who says soon what came of it. *by_message: with a real one; else by asking for the recipient `example`. */
#define BRAKE_EXAMPLE 330
bool brake_try(struct brake *b, when now, char example[BRAKE_EXAMPLE], bool *by_message);
enum brake_said {
    BRAKE_TAKEN, BRAKE_REFUSED, BRAKE_UNCLEAR,
    BRAKE_UNASKED,                      /* it does not hear the null sender, or cannot be asked this way: only a message will tell */
    BRAKE_NOTHING,                      /* there was no mail to try it with */
};
enum brake_then {
    BRAKE_STAYS,
    BRAKE_STAYS_FIRST,                  /* and now it is sure that it should be: to be told */
    BRAKE_MEANT,                        /* off: the backend means what it refused */
    BRAKE_IS_OFF,                       /* the backend is well again */
};
enum brake_then brake_tried(struct brake *b, enum brake_said said, when now);
bool brake_release(struct brake *b);    /* by an operator, or without a reason any more; false: it was off */

/* ---- sites: where MX records lead ------------------------------------------------------------------------------------------ */

/* What we are known as: nothing of this is ever a next hop. */
struct own { struct strs name; struct addrs addr; /* without ports */ };
bool own_address(const struct own *own, const struct addr *a);
void own_interfaces(struct own *own, arena *a);     /* add the addresses of this machine's interfaces */
/* Loopback, link-local, multicast, "this host": no MX is there. */
bool addr_is_nowhere(const struct addr *a);

#define SITE_HOSTS_MOST 32
struct site {
    enum {
        SITE_HOSTS,
        SITE_NULL_MX,                   /* it takes no mail (RFC 7505): 5.1.10 */
        SITE_NO_DOMAIN,                 /* there is no such domain, or no host in it: 5.1.2 */
        SITE_OURSELVES,                 /* the best host is ourselves, and it is none of our relay domains: 5.4.6 */
    } kind;
    struct site_host { str host; uint16_t preference; } *host; size_t n; /* the preferred first */
    uint32_t ttl;
    bool secure;                        /* the MX records are validated by DNSSEC */
};
/* Look a domain up. Errors as in dns/dns.h: none of them says that there is no such domain. */
WAITS err route_mx(struct resolver *r, arena *a, str domain, const struct own *own, when deadline, struct site *ret);
str site_name(const struct site *s, arena *a);      /* of its lane: "mx:mx1.example.org", "mx:mx1.example.org+2/1a2b3c4d" */
/* A backend with these servers, and all else as `like` has it. One holder. */
struct backend *site_backend(const struct site *s, const struct backend *like, str name);
struct backend *site_like(const struct backend *b, const struct backend *like); /* the servers of b */
bool site_is(const struct site *s, const struct backend *b);    /* the very same hosts and preferences */
bool site_meets(const struct site *s, const struct backend *b); /* a host in common */
/* For those that were made for a site; of a configuration's own these do nothing. On its thread only. */
struct backend *backend_hold(struct backend *b);
void backend_drop(struct backend *b);

/* ---- relay domains and networks -------------------------------------------------------------------------------------------- */

struct recipients {
    bool any;
    bool broken;                        /* a source could not be made of what was said, which is told already */
    struct table **table; size_t ntable;
    str *path;                          /* of each table that is a file, else "" */
    struct strs file;                   /* what else must be readable: secrets, CAs */
    /* `callout`: becomes a table when all backends are known */
    const struct node *callout;
    const struct token *callout_backend;
    struct keeping callout_keep;
};
/* Who gets mail that the way of its domain does not take. A rule's way has nobody of the kind. */
struct elsewhere {
    const struct token *unknown_name, *fallback_name;
    struct backend *unknown;            /* gets recipients whom the domain's backend does not know; NULL: nobody */
    struct backend *fallback;           /* gets what could not be delivered `after` it was accepted; NULL: nobody */
    when after;
};
enum bounce { BOUNCE_ALL, BOUNCE_OWN /* our own senders only */, BOUNCE_NONE };   /* who is told what became of mail */
struct relay_domain {
    struct strs name;                   /* "example.com", "*.example.com" */
    const struct token *backend_name;
    struct backend *backend;
    struct recipients recipients;
    struct elsewhere other;
    when expire;                        /* lifetime of its mail; 0: the schedule's */
    when cut_through;                   /* how long a client's answer may wait for the backend's; 0: not at all */
    struct strs copy_to;                /* addresses that get a copy of each message */
    int bounce;                         /* enum bounce */
    struct place at;
};
/* Who may relay without being a recipient: clients by address, for senders of named domains. */
struct network {
    str name;
    struct cidr *cidr; size_t ncidr;
    struct strs relay_from;             /* domain patterns; the null sender is always among them, at null_rate */
    struct rate null_rate;
    _Atomic int64_t *null_clock;        /* the limiter's state; heap */
    struct rate rate;                   /* of messages; n 0: no limit */
    uint64_t connections;               /* sessions at a time; 0: no limit */
    struct limit limit;
    struct place at;
};

struct routes;
/* A rule of one's own: which mail goes another way than its domain. All that it names must fit; of the names of one kind, one. */
struct route_rule {
    str name;
    struct strs to, from;               /* user@example.com, example.com, *.example.com; "<>": the null sender */
    struct strs network, listener, login, tenant, stream;
    const struct token *backend_name;
    struct backend *backend;
    struct leave leave;
    struct outlets *outlets;            /* by its own `source` or `pool`; NULL: by its backend's, if any */
    struct place at;
};
/* What a message and one of its recipients are known by. What is not known is empty, and fits no rule that asks for it. */
struct route_key { str rcpt, domain, sender; bool has_sender; str listener, network, login, tenant, stream; };
bool rule_fits(const struct route_rule *u, const struct route_key *k);
/* The first thing it asks for that this is not, such as "from"; NULL: it fits. */
const char *rule_misses(const struct route_rule *u, const struct route_key *k);
/* After binding: are its addresses some, are its networks there? `what`: of which block it is, for the words. */
void rule_check(struct binder *b, const struct route_rule *u, const char *what, const struct routes *r);
/* The settings of a rule that ask where mail comes from, for a table of settings whose struct holds the rule at `at`. */
#define RULE_ORIGIN_SETTINGS(at) \
    { .name = "from", .type = CONF_STRS, .offset = (at) + offsetof(struct route_rule, from), .form = "ADDRESS|DOMAIN ...", \
      .help = "Senders: user@example.com, example.com, or *.example.com for what is below; \"<>\" is the null sender." }, \
    { .name = "network", .type = CONF_STRS, .offset = (at) + offsetof(struct route_rule, network), .form = "NAME ...", .help = "Clients of these \"network\" blocks." }, \
    { .name = "listener", .type = CONF_STRS, .offset = (at) + offsetof(struct route_rule, listener), .form = "ADDRESS ...", \
      .help = "Mail that came in at these listening addresses, as \"listen\" has them; \"local\" is what programs of this machine sent." }, \
    { .name = "login", .type = CONF_STRS, .offset = (at) + offsetof(struct route_rule, login), .form = "NAME ...", .help = "Clients that logged in by these names." }, \
    { .name = "tenant", .type = CONF_STRS, .offset = (at) + offsetof(struct route_rule, tenant), .form = "NAME ...", .help = "Mail of these tenants." }

struct routes {
    struct backend **backend; size_t nbackend;
    struct relay_domain **domain; size_t ndomain;
    struct network **network; size_t nnetwork;
    struct route_rule **rule; size_t nrule;   /* the first that fits decides */
    const struct token *fallback_name;
    struct backend *fallback;           /* `route default { via BACKEND }`; NULL: nowhere else */
    struct elsewhere other;             /* than that */
    bool hands_on;                      /* some domain, or the default route, has another way for what its own does not take */
    int fallback_bounce;                /* enum bounce, of mail for no relay domain */
    struct leave fallback_leave;
    struct outlets *fallback_outlets;
    struct outlet **outlet; size_t noutlet;
    struct outlet_pool **pool; size_t npool;
    struct outlets **outlets; size_t noutlets;
    struct own own;
    struct aliases { struct table **table; str *path; size_t ntable; } aliases;
    uint64_t fewest;                    /* connections that any of the backends may have: with no more threads than that, none is narrow */
    bool closes;                        /* some backend is closed: recipients are asked for their way before they are taken */
    struct map exact, below;            /* domain -> relay_domain; "*." cut off in `below` */
};

/* ---- callout: a backend asked whether it knows an address ------------------------------------------------------------------- */

/* One dialogue: MAIL FROM:<> and RCPT, no mail. deliver/ puts it here, for the SMTP client is above us; NULL: nobody can ask. *refused: it said
 * 5xx to the recipient, for whatever reason. err_text() says why it is undecided. */
extern WAITS enum said (*callout_probe)(const struct backend *b, str ehlo, const struct inquiry *q, when deadline, bool *refused);
/* A table that asks the servers of `b`, of which it keeps a copy. What a backend says counts only as long as it refuses an address that nobody could
 * have guessed: one is tried once an hour and domain. */
struct table *callout_table(const struct backend *b, str ehlo, const struct keeping *keep);

/* "moved to ann@example.net", or with a status code before it: "5.1.6 moved ...". Without one it is 5.1.6, "no longer there" (RFC 3463 3.2). */
struct closed closed_of(arena *a, str text);

/* The settings of this folder: blocks backend, relay_domain, network, route; bound into a struct routes. */
extern const struct setting route_settings[];
/* After binding: cross checks (E044: no recipients, unknown backend, ...), tables opened, maps made. */
void routes_finish(struct binder *b, struct routes *r);
void routes_free(struct routes *r);     /* what is not in the arena */

struct relay_domain *route_domain(const struct routes *r, str domain);  /* exact first, then the longest *.x; NULL: not ours */
/* Where mail goes: by the first rule that fits, else by its relay domain, else by the default route; NULL: nowhere. `expire` gets the domain's
 * own lifetime or 0; *rule (may be NULL) the rule that decided, or NULL. */
struct backend *route_find(const struct routes *r, const struct route_key *k, when *expire, const struct route_rule **rule);
/* By which sources what goes to `b` leaves, by that rule or (NULL) without one; NULL: as the system chooses. */
struct outlets *route_outlets(const struct routes *r, const struct route_rule *rule, const struct backend *b, str domain);
/* The same for a domain of which nothing else is known. */
struct backend *route_for(const struct routes *r, str domain, when *expire);
/* Who gets mail of that domain which its own way does not take; NULL: nobody. Only where no rule decided. */
const struct elsewhere *route_elsewhere(const struct routes *r, str domain);
/* What an address stands for in the end, in `a`; n 0: for itself, nothing is said of it. Each address once, at most 1,000, over at most ten steps.
 * E_AGAIN: cannot be told just now; E_LIMIT, E_SYNTAX: the lists are wrong. */
/* *closed: what is to be said when its mail is refused ("bounce:TEXT"); then n is 0. NULL: it is not. */
WAITS err alias_expand(const struct aliases *al, arena *a, const struct path *who, struct strs *ret, str *closed);
extern const struct setting alias_settings[];   /* block alias; bound into a struct routes */
/* What is wrong with the lists themselves, for `waypost check`: aliases that lead round and round or too far, and those of domains that are none of ours,
 * which nobody will ask for. A warning for each of the first few. */
void aliases_check(const struct routes *r, str hostname, struct diags *d);
void aliases_free(struct aliases *al);
const struct network *route_network(const struct routes *r, const struct addr *client);
bool network_names(const struct network *n, const struct addr *client);     /* this one address, and not only those around it too */
bool network_may_send(const struct network *n, str sender_domain);
/* Is it a recipient there? */
WAITS enum found recipients_find(const struct recipients *r, const struct path *who);

#endif
