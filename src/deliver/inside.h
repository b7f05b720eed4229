#ifndef DELIVER_INSIDE_H
#define DELIVER_INSIDE_H

#include "deliver/deliver.h"

struct dispatch {
    struct dispatch_setup setup;
    bool draining;
    size_t connections;
    struct link settle;         /* tickets in flight that no connection will settle: expired, unroutable */
    struct waiters settle_wait;
    struct lane *to_ask, **to_ask_end; /* domains whose MX nobody has begun to look up */
    unsigned asking;            /* look-ups under way */
    struct waiters impatient; bool patient; /* pool.c: who looks for mail that waits for connections; it rests */
    struct heap down; struct waiters down_wait; /* lanes that are down, by their retry_at: pool.c opens them */
    struct heap paced; struct waiters paced_wait;   /* lanes that wait for their turn in a rate: limits.c */
    struct group *probers;      /* of the newest configuration; NULL: none run */
    struct lane *withheld; struct waiters withheld_wait;    /* pool.c: mail of theirs is left to connections that are busy */
    unsigned offers;            /* steal.c: made in this second */
    struct pool *works;         /* long calculations, one after the other */
};

/* One ticket on its way: its message in memory, the envelope of just its recipients, and what they were answered. */
struct flight {
    struct ticket *t;
    struct mail *mail;          /* one holder */
    arena *a;                   /* answers and texts; NULL: no flight */
    struct snapshot *snap;
    struct envelope env;
    uint32_t *index;            /* of env.rcpt[i] in the message's envelope */
    struct answer *out;         /* of env.rcpt[i] */
    bool offered;               /* MAIL was said */
    size_t server_at;           /* place of the server in its backend */
    const char *status;         /* RFC 3463, of a failure without an answer; NULL: none in particular */
    bool cut_through;           /* all were refused, and the client is told: nobody else is */
    bool peer_dsn;              /* the peer offered DSN: it takes over the duty to report */
    when began;
    /* the body on its way out */
    struct spool_port *port;
    struct pool *works;
    str prepend, whole;         /* what stands before the body; the body re-encoded for this hop, if it had to be */
    arena *piece_arena;
    struct body body;
};

/* How the recipients of a flight ended that got no answer of their own. */
enum flight_end {
    FLIGHT_ANSWERED,            /* each has its answer; who has none is tried again as after a 4xx */
    FLIGHT_UNKNOWN,             /* the line died after our final dot: those offered may have it */
    FLIGHT_BROKEN,              /* the line died before: one attempt for who has no answer */
    FLIGHT_NOT_TRIED,           /* nothing was said about it, or it was the connection's last message: no attempt */
    FLIGHT_EXPIRED, FLIGHT_FAILED, FLIGHT_DELETED, FLIGHT_DELETED_QUIETLY,
};

/* Get the message into memory and make the flight; the ticket is in flight already. An error: the ticket was put off. */
WAITS err flight_load(struct dispatch *d, struct ticket *t, struct flight *f);
void flight_free(struct flight *f);
/* Can the message go to this peer as it is, or re-encoded? False: every recipient without a way has its 5xx answer in f->out. */
WAITS bool flight_fit(struct flight *f, const struct client *c);
/* Note what became of everyone, tell the log, report failures, and give the ticket back to the queue or end it. Ends the flight. `reason`
 * says why for recipients without an answer; `remote` names the server. */
WAITS void flight_settle(struct dispatch *d, struct flight *f, enum flight_end end, str reason, str remote);

/* The task that settles what lies in d->settle. */
WAITS err settle_run(void *dispatch);

void dispatch_discard(struct dispatch *d, struct lane *lane);

/* hold.c: the spool is to know that the ticket's recipients wait as it says now, until then and for that reason; no attempt was made. t->version is used by it. */
void note_waiting(struct dispatch *d, const struct ticket *t, when next, str reason);

/* ---- connect.c ---- */

struct remote { char z[ADDR_TEXT + 80]; };      /* who it is, for people: host[address]:port */
struct remote remote_of(const struct next_hop *srv);
str remote_failed(const struct remote *r, arena *a);   /* err_text() with its name in front, unless it begins with that */
/* By which source, NULL: as the system chooses. `failed`: it is the source's fault that it failed, not the server's. */
struct leaving { const struct outlet *outlet; bool failed; };
/* Connect, hear the greeting, say EHLO. *ret may be set on an error too: the caller frees it. */
/* `own` not NULL: the host comes from an MX record, and what is nowhere or ourselves is no next hop (attack class 51). */
WAITS err hop_connect(struct dispatch *d, const struct next_hop *srv, const struct own *own, str ehlo_name, when timeout, struct leaving *by, struct remote *remote, struct client **ret);
/* The same without a dispatch. */
WAITS err hop_reach(struct resolver *names, const struct next_hop *srv, const struct own *own, str ehlo_name, when timeout, struct leaving *by, struct remote *remote, struct client **ret);

/* The name to say to EHLO. */
static inline str hop_ehlo(const struct outlet *o, str hostname) { return o && o->helo.n ? o->helo : hostname; }

/* ---- limits.c: rates and connections that all threads share ---- */

/* May a message of the lane go now? Its turn in each of the rates was taken then, and is the caller's to use up (pacing.mine). False: it waits for one, and
 * dispatch_ready() will be called when that comes. Only where b->nlimit is not 0. */
bool lane_may_send(struct dispatch *d, struct lane *lane, const struct backend *b);
WAITS err pace_run(void *dispatch);     /* a task: lanes whose turn comes */
/* Configurations changed: what lanes wait for may have. */
void lanes_pace_anew(struct dispatch *d);
/* Would one more connection be within all limits of the backend? */
bool lane_may_connect(struct lane *lane, const struct backend *b);
struct slots { struct limit_state *of[3]; };
bool slots_take(struct slots *s, const struct backend *b);      /* after lane_may_connect(); false: another thread was faster */
void slots_give(struct slots *s);
bool slots_wanted(const struct slots *s);       /* somebody has no connection at all, because these are in use */

/* ---- callout.c ---- */

void callout_begin(struct resolver *resolver);  /* from now on backends can be asked; once for all threads is enough */
bool callout_says_absent(const struct reply *r);

/* ---- pool.c ---- */

/* It was down until a moment ago: what it was down for is still why. */
static inline bool lane_opened_lately(const struct lane *lane) { return lane->opened && clock_now() - lane->opened < MINUTE; }

void lane_wake_later(struct dispatch *d, struct lane *lane);    /* open it at its retry_at */

void lane_try(struct dispatch *d, struct lane *lane, struct ticket *t); /* this one alone, in flight, to a frozen backend; brake_said() will be told */

/* ---- steal.c: mail of a lane that another thread has time for ---- */
void steal_offer(struct dispatch *d, const struct lane *lane);  /* its mail has waited for a second */
void steal_more(struct dispatch *d, struct lane *lane);         /* another thread gives: ask before what came is used up */

/* ---- brake.c: the bounce brake of a lane's backend, or of the site that it is ---- */

/* Is mail for it kept? Cheap. */
static inline bool lane_braked(const struct lane *l)
{
    struct brake *b = l->backend && l->kind != LANE_DOMAIN ? backend_brake(l->backend) : NULL;
    return b && brake_on(b);
}
/* The same; then the lane is frozen, and where it is time somebody tries. */
bool brake_holds(struct dispatch *d, struct lane *lane);
/* keep[i]: the next hop refused him for good; it stays set for whom that is not to be believed. They are to be tried again at *until (0: when the lane
 * opens), for the reason *why, which is in f->a; their ticket's `doubt` is *era. What became of everybody is counted. */
WAITS void brake_judge(struct dispatch *d, struct flight *f, bool *keep, uint8_t *era, when *until, str *why);
enum brake_said brake_heard(const struct flight *f);    /* what a trial's answers say */
void brake_said(struct dispatch *d, struct lane *lane, enum brake_said said);   /* what a try has shown */

/* ---- fault.c: faults that are ours, not a next hop's ---- */

/* A server of the lane took a connection. */
void fault_reached(struct dispatch *d, struct lane *lane);
/* None of a lane's servers could be reached, the last by the error `why` (OK: it was reached). True: it is our own fault, and the lane is frozen. */
bool fault_unreached(struct dispatch *d, struct lane *lane, err why, str reason, when retry_at);
/* A name could not be looked up, as err_text() says. True: nobody can look names up just now. */
WAITS bool fault_names(struct dispatch *d, str name);
/* Addresses of that family: is there a way out for them, as far as is known? What became of one that was tried; E_NOWAY: none. */
bool family_works(int family);
void family_tried(struct dispatch *d, const struct addr *to, str host, err e);

/* ---- share.c: which server's turn it is ---- */

#define SHARE_PATIENCE SECOND           /* a server that took nothing for so long is not waited for */
/* What this lane knows of each server of its backend; grown as needed. */
struct lane_server *lane_servers(struct lane *lane, const struct backend *b);
/* The next ticket for a connection to that server, in flight. NULL: none; then *other may be one that belongs to a server this lane has no
 * connection to. `in_memory`: only when its message is. For the ways of balancing that have turns. */
struct ticket *share_next(struct lane *lane, const struct backend *b, size_t server, bool in_memory, struct ticket **other, size_t *other_server);

/* Tell the sender of `f` what became of recipients, as far as "bounce" and the null sender let us: one report. What is not told is logged. False:
 * the report could not be stored. Of a report of ours, whose one recipient failed: a double bounce. */
struct report_item { uint32_t i; enum report_action action; const char *status; str diagnostic, remote, reason; when last_attempt; /* wall clock; 0: none */ };
WAITS bool report_send(struct dispatch *d, const struct flight *f, const struct report_item *item, size_t n);
/* In a relay domain of ours, from a client of a network, or logged in? */
bool sender_is_own(const struct flight *f);

/* ---- pace.c ---- */

/* How long a report to `to` has to wait for its turn, which it takes; 0: not at all; NEVER: too many wait. `trusted`: the sender is no forgery. */
when pace_report(const struct report_settings *s, arena *a, str to, bool trusted);
bool pace_double(void);                         /* may the postmaster have one more double bounce just now? */

/* ---- warn.c ---- */

bool warn_due(const struct ticket *t, when accepted, when delay);       /* it waits for so long, and nobody has decided yet whether that is told */
bool warn_wanted(const struct flight *f, size_t rcpt);                  /* by an own sender who did not say otherwise */
WAITS err warn_sweep(struct dispatch *d, when delay);                   /* once through all that waits */
WAITS err warn_run(void *dispatch);                                     /* a task: again and again */

#endif
