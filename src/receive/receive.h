/* receive: a mail comes in. The session, the policy that answers it, and the acceptance that makes it ours. */
#ifndef RECEIVE_H
#define RECEIVE_H

#include "queue/queue.h"

/* ---- settings ---------------------------------------------------------------------------------------------------------------- */

struct cidrs { struct cidr *p; size_t n; };
struct listener_setting {
    str kind;
    struct addr *addr; size_t naddr;
    bool proxy;                         /* every connection begins with a PROXY header, from one of proxy_from; others are closed */
    struct cidrs proxy_from;
    struct cidrs xclient_from, xforward_from; /* peers that may say XCLIENT or XFORWARD */
    struct place at;
};

static inline bool listener_takes_mail(str kind) { return !str_eq(kind, S("http")); }

/* Programs of this machine: by a socket, where the kernel says whose they are, and by files in a directory, which have an owner. */
struct local_settings {
    str socket, drop;                   /* "": none */
    struct strs system_mail;            /* who reads mail to users of this host; empty: the postmaster */
    uint32_t *uid; size_t nuid;         /* users who may send anywhere, as somebody of net.relay_from; the others reach relay domains */
    struct network net;
    struct place at;
};
/* As which network does this user count? NULL: as a stranger. */
const struct network *local_network(const struct local_settings *l, uint32_t uid);
#define LISTENER_LOCAL "local"          /* kind of the listener at local_settings.socket */

struct receive_settings {
    str hostname;                       /* ours: greeting, Received, reports */
    str postmaster;                     /* an address */
    struct listener_setting *listener; size_t nlistener;
    struct local_settings *local;       /* NULL: none */
    struct limits {
        uint64_t message_size;          /* octets */
        uint64_t recipients;            /* of one message */
        uint64_t header_size;           /* octets */
        uint64_t hops;                  /* Received fields */
        uint64_t sessions;              /* of the whole relay */
        uint64_t sessions_per_client;   /* an IPv4 address or IPv6 /64 */
        uint64_t nonsense;              /* commands that are none, before the line is closed */
        uint64_t without_mail;          /* commands in a row that lead to none, of a client in no network */
        uint64_t refused_rcpts;         /* refused recipients of one session before it is closed */
        struct rate unknown_rcpts;      /* budget of a client that is in no network: probing.c */
        uint64_t body_memory;           /* octets of mail in memory: arriving, and waiting for delivery, each */
    } limits;
    struct timeouts {
        when command;                   /* RFC 5321 4.5.3.2.7: 5 minutes */
        when data_block;                /* RFC 5321 4.5.3.2.5: 3 minutes */
        when message;                   /* the whole of one body */
        when greeting;                  /* a client that says nothing at all */
    } timeouts;
    bool tricky_local_parts;            /* % and ! and quoted @ in local parts */
};
extern const struct setting receive_settings[]; /* bound into a struct receive_settings */
/* The listener at `at`, or else the first of that kind: a socket that a service manager bound elsewhere. NULL: there is none any more. */
const struct listener_setting *receive_listener(const struct receive_settings *s, const struct addr *at, str kind);
void receive_settings_finish(struct binder *b, struct receive_settings *s, const struct routes *routes);

/* What deliver/settings.c says about reports; here because the snapshot is. */
struct report_settings {
    when delay_warning;                 /* own senders are told of mail that waits for so long; 0: they are not */
    int double_bounce;                  /* enum: a report that fails goes to the postmaster, or is dropped */
    struct rate rate;                   /* of all reports; n 0: no limit */
    struct rate rate_per_address;       /* of those to one sender that is none of ours */
    bool soft_bounce;                   /* every 5xx of any next hop counts as a 4xx: nothing is reported before its lifetime ends */
};
enum { DOUBLE_BOUNCE_DROP, DOUBLE_BOUNCE_POSTMASTER };

/* ---- one configuration, as sessions hold it -------------------------------------------------------------------------------------- */

struct snapshot {
    struct receive_settings receive;
    struct routes routes;
    struct retry retry;
    struct streams streams;
    struct report_settings reports;
    uint64_t epoch;                     /* 1, and one more each reload */
    _Atomic uint32_t holders;
    void (*end)(struct snapshot *s);    /* frees it, called by the last holder */
};
static inline struct snapshot *snapshot_hold(struct snapshot *s) { atomic_fetch_add(&s->holders, 1); return s; }
static inline void snapshot_drop(struct snapshot *s)
{
    if (s && atomic_fetch_sub(&s->holders, 1) == 1)
        s->end(s);
}

/* Who reads mail to that address when it is one of this host's users (root@hostname, and the hostname is no relay domain); "" when it is not. */
str system_reader(const struct snapshot *snap, str address);

/* ---- reception: one a thread ------------------------------------------------------------------------------------------------------- */

struct reception;
struct reception_setup {
    struct snapshot *(*newest)(void *ctx);      /* held for the caller; any thread */
    void *ctx;
    struct queue *queue;
    struct spool *spool;
    struct spool_port *port;
    void (*working_on)(void *ctx, ulid id);     /* told before work on what a message holds; zero: done. May be NULL */
    uint64_t instance;                  /* of this installation, for loops: see accept.c */
    unsigned threads;                           /* that receive and deliver */
    /* A message that must live on one certain thread: hand it over. NULL: this is that thread. */
    void (*narrow)(void *ctx, struct mail *mail);
};
struct reception *reception_new(const struct reception_setup *setup);
void reception_free(struct reception *r);
/* Serve one connected client until it ends; for group_spawn. */
struct session_start {
    struct reception *reception;
    int fd;
    struct addr peer, at;               /* at: where we listen */
    str listener;                       /* its kind; literal or long-lived */
    str where;                          /* how rules know it: its address, or "local"; as long-lived. Empty: its kind */
    bool has_uid; uint32_t uid;         /* of a Unix socket's peer, where it is known */
};
WAITS err session_run(void *session_start);     /* takes over and frees the heap-allocated argument */
/* From now on every session is told 421 4.3.2 at its next command boundary. */
void reception_drain(struct reception *r);
size_t reception_sessions(const struct reception *r);

/* Nearly all sessions of late came from one private address: the clients' own are lost on the way. False: they do not. From any thread. */
struct gateway_seen { char ip[ADDR_TEXT]; uint64_t its, all; };
bool gateway_found(struct gateway_seen *ret);

/* ---- accept ------------------------------------------------------------------------------------------------------------------------- */

/* Make a message ours: adds Received (unless a report), commits, queues. Takes over `a` (holding m) and `slab` in every case. On OK the
 * mail is queued and its id in m->id was answered for. E_NOSPACE: 452 4.3.1; else 451 4.3.0. `with`: "ESMTP", "SMTP", "UTF8SMTP", "LOCAL". */
WAITS err accept_mail(struct reception *r, const struct snapshot *snap, arena *a, struct message *m, struct spool_slab *slab, str with);
/* The same, while the caller waits for what becomes of it: vigil_wait() is due whatever is returned. */
WAITS err accept_vigil(struct reception *r, const struct snapshot *snap, arena *a, struct message *m, struct spool_slab *slab, str with, struct vigil *w);
/* Before that: which stream it is of, by where it comes from and its header. Its number; 0: none. */
unsigned accept_stream(const struct snapshot *snap, arena *a, struct message *m, str header);
/* Does the header block hold our own instance id in too many Received fields, or more of them than `hops`? Then how that is refused, and it is counted; else
 * code 0. */
struct reply accept_loop(const struct reception *r, str header, const struct scan *scan, uint64_t hops);

/* ---- explain ------------------------------------------------------------------------------------------------------------------------ */

/* What a client at `from` would be answered to RCPT of that recipient, and why: each thing asked is told to `step`, in order; then the answer. Looks
 * things up as a session would. */
struct explain_to { void (*step)(void *ctx, const char *what, str text); void *ctx; };
struct explain_client { struct addr addr; bool local; uint32_t uid; str login, listener; };  /* local: a user of this host, by the listener "local" */
WAITS struct reply receive_explain(struct snapshot *snap, const struct explain_client *from, str sender, str rcpt, arena *a, const struct explain_to *to);

/* Would a stranger's mail to a stranger be taken? Asked of the very decisions of a session, before there is any: a second line behind the checks of
 * the configuration, for mistakes of our own. E_PERM: it would. */
WAITS err receive_open_relay_test(struct snapshot *snap, unsigned *asked);

/* ---- drop: what sendmail left in local_settings.drop while it could not reach us; doc/inlets.md ----------------------------------------- */

/* Take it in, as long as this thread lives: for group_spawn, on one thread of all. */
WAITS err reception_drop(void *reception);

/* A file: its own name, envelope as SMTP has it, length and CRC-32C of the message, the message.
 *   waypost drop 1 NAME CRLF  MAIL FROM:<...> CRLF  RCPT TO:<...> CRLF ...  DATA LENGTH CRC CRLF  octets */
struct drop { struct command mail; struct command *rcpt; size_t nrcpt; str octets; };
/* `name`: without what stands behind its dot. In `a`, and borrowed from `text`. E_SYNTAX. */
err drop_parse(arena *a, str text, str name, uint64_t rcpt_most, struct drop *ret);
/* Everything but the octets, for who writes one. */
void drop_head(struct buf *out, str name, str mail, const struct strs *rcpt, str octets);
#define DROP_READY ".ready"             /* behind the name, once the file is whole */
#define DROP_MADE ".new"                /* before */
#define DROP_BAD ".bad"                 /* what was set aside */
#define DROP_HEAD_MOST (64u << 20)      /* octets before the message's */

#endif
