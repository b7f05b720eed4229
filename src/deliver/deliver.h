/* deliver: a mail goes out. Connections to the servers of a lane, one transaction after the other on each, and what comes of them. */
#ifndef DELIVER_H
#define DELIVER_H

#include "dns/dns.h"
#include "receive/receive.h"

extern const struct setting deliver_settings[]; /* bound into a struct report_settings */

struct dispatch;

/* What the threads that deliver say to each other about a lane of which each has its part (steal.c). Posted as it is; on the heap. */
struct lane_word {
    struct post post;
    void *to;                           /* the poster's own: whose it is */
    unsigned from;                      /* thread */
    enum word_kind { WORD_OFFER, WORD_WANT, WORD_PARCEL } kind;
    struct parcel *parcel;              /* of WORD_PARCEL; NULL: there is nothing to spare */
    str lane, by;                       /* its name, and that of its backend; in `text` */
    char text[];
};
void lane_word_free(struct lane_word *w);       /* unheard: that thread ends */

struct dispatch_setup {
    struct snapshot *(*newest)(void *ctx);
    void *ctx;
    struct queue *queue;
    struct spool_port *port;
    struct reception *reception;        /* reports are accepted there */
    void (*working_on)(void *ctx, ulid id);     /* told before work on what a message holds; zero: done. May be NULL */
    bool (*set_aside)(void *ctx, ulid id);      /* a message that must not be touched: it was there at two crashes. May be NULL */
    struct resolver *resolver;          /* of host names */
    unsigned threads, thread;           /* how many deliver, which one is this (from 0) */
    size_t most_connections;            /* of this thread, to all next hops together */
    /* Probes brought a server of that backend back: lanes that are down may open, on all threads. May be NULL. */
    void (*server_up)(void *ctx, str backend);
    /* An incident is over: lanes of all threads that it froze may open; `subject`: those of a backend or (lane_subject()) site, "": all. May be NULL. */
    void (*thaw)(void *ctx, enum incident_kind kind, str subject);
    /* Post this to another thread, which hands it to dispatch_hear(). NULL: there is no other that mail may go to. */
    void (*say)(void *ctx, unsigned thread, struct lane_word *w);
};
/* One a thread. */
struct dispatch *dispatch_new(const struct dispatch_setup *setup);
void dispatch_free(struct dispatch *d);
/* At the start and after each change of the configuration: thread 0 probes the servers that want it. */
void dispatch_configure(struct dispatch *d);
/* The queue's callbacks; ctx is the dispatch. */
void dispatch_ready(void *ctx, struct lane *lane);
void dispatch_resolve(void *ctx, struct lane *lane);
void dispatch_suspended(void *ctx, struct lane *lane);
void dispatch_expired(void *ctx, struct ticket *t);
void dispatch_unroutable(void *ctx, struct ticket *t);
/* What is known of the lane's servers changed: its idle connections look whether they are still wanted. */
void dispatch_look(struct lane *lane);
void dispatch_hear(struct dispatch *d, struct lane_word *w);    /* frees it */
/* Start no further transaction; connections end when theirs does. */
void dispatch_drain(struct dispatch *d);
size_t dispatch_connections(const struct dispatch *d);
/* An operator ends an incident. What it froze is to be thawed by the caller; it is frozen anew if the trouble is still there. False: only the
 * configuration ends it, or it is over. From any thread. */
bool incident_end(enum incident_kind kind, str subject, str why);
/* An operator removed a ticket (queue_remove): settle its recipients as deleted, with a report to the sender or without. On an
 * error, its message cannot be read or must not be, it is put off. */
WAITS err dispatch_delete(struct dispatch *d, struct ticket *t, str reason, bool report);
/* The same, but as failed: by `bounce`. */
WAITS err dispatch_bounce(struct dispatch *d, struct ticket *t, str reason);
/* Hold a ticket taken out of the queue (ticket_remove) until then, or let it go now; noted in the spool, so that a restart knows. */
void dispatch_hold(struct dispatch *d, struct ticket *t, when until, str reason);
void dispatch_release(struct dispatch *d, struct ticket *t);

/* For `waypost check`, which has no dispatch: connect, hear the greeting, say EHLO and QUIT. *who: which host and address it was, in `a`, on an error
 * too; *offers what EHLO offered, for people. */
WAITS err deliver_probe(struct resolver *names, arena *a, const struct next_hop *srv, const struct outlet *by, str ehlo_name, when timeout, str *who, str *offers);
/* Callouts can be made from now on; dispatch_new() sees to it itself. */
void deliver_callouts(struct resolver *names);

#endif
