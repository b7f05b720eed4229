#ifndef RECEIVE_INSIDE_H
#define RECEIVE_INSIDE_H

#include "receive/receive.h"

struct reception {
    struct reception_setup setup;
    struct link sessions;
    size_t nsessions;
    bool draining;
};

/* ---- policy: what is answered. Text in the reply lives in `a`. ---- */

#define LOCAL_CLIENT "uid:"             /* before the number of a local user, where others have an address */
struct client_info {
    struct addr addr;
    char ip[ADDR_TEXT];
    bool local; uint32_t uid;           /* a user of this machine, by the listener "local" or the drop directory */
    const struct network *network;      /* of the session's snapshot; NULL: a stranger */
};
/* Look up what follows from who it is. */
void client_place(struct client_info *client, const struct snapshot *snap);
/* One more message from its network, which may have a rate: that is taken from. code 0: it may come. */
struct reply policy_network(const struct client_info *client, arena *a);
/* May a message begin so? code 0: yes. */
struct reply policy_mail(const struct snapshot *snap, const struct client_info *client, const struct command *cmd);
/* May this recipient be added? code 0: yes, and *to are the addresses that get its mail: its own, or what it stands for; in `a`, or borrowed. */
WAITS struct reply policy_rcpt(const struct snapshot *snap, const struct client_info *client, const struct message *m,
                               const struct path *rcpt, arena *a, struct strs *to);

/* The recipient of this RCPT joins the envelope, as the addresses `to` that get its mail, each once, and with the copies for its domain's archive.
 * In `a`, the message's; *cap is the room env->rcpt has, 0 at first. How many such copies joined. */
size_t envelope_add(arena *a, const struct snapshot *snap, struct envelope *env, size_t *cap, const struct command *c, const struct strs *to);

/* ---- sessions at a time, of everyone and of one client, over all threads ---- */

enum admission { ADMITTED, TOO_MANY, TOO_MANY_OF_YOURS };
enum admission admit(const struct limits *l, const struct addr *client, bool counted);
void admit_end(const struct addr *client, bool counted);

/* ---- probing.c ---- */

/* This client asked for one more unknown recipient. False: its budget is spent, and the session ends. Else *delay is how long the answer should
 * take. A budget of 0 is none. From any thread. */
bool probing_note(struct rate budget, const struct addr *client, when now, when *delay);
void probing_forget(void);              /* for tests */

/* ---- gateway.c ---- */

/* A session of that client began, of which nobody said that it stands for others. From any thread. */
void gateway_note(const struct addr *client, when now);
void gateway_forget(void);              /* for tests */

/* Why a body is refused, as far as its scan has seen; code 0: it is not. */
struct reply body_bad(const struct limits *l, const struct message *m);

/* Octets of bodies on their way in, over all threads. */
void arriving_add(int64_t octets);
bool arriving_full(const struct limits *l);      /* nothing more may begin */
bool arriving_over(const struct limits *l);      /* what has begun may take no more */

/* ---- session: one client's dialogue ---- */

struct session {
    struct reception *r;
    struct link place;
    struct snapshot *snap;
    struct stream *s;
    struct server v;
    struct client_info client;
    str listener;                       /* its kind */
    str where;                          /* how rules know it */
    struct addr at;                     /* and where it is */
    struct addr peer;                   /* whom XCLIENT and XFORWARD are allowed by: the client, before any XCLIENT */
    struct buf through;                 /* who stands between us and the client, for the log; heap, empty: nobody */
    struct buf client_name, login;      /* as XCLIENT said; heap, mostly empty */
    bool helo_said;                     /* by XCLIENT: the next EHLO is its peer's, not the client's */
    struct buf forward;                 /* what XFORWARD said, until the transaction ends; heap: for the log and the trace field */
    bool admitted, counted;
    struct limit_state *of_network;     /* it is one of this one's sessions; NULL: none are counted */
    bool esmtp, greeted, at_boundary, quit, said_bye;
    struct buf helo;                    /* what it called itself; heap, for most sessions have nothing else to keep */
    arena *scratch;                     /* one command's */
    unsigned refused;
    uint64_t without_mail;              /* commands since the last message that was taken */
    when turn;                          /* commands are taken one after the other, without a wait, since then */
    /* the transaction: from MAIL until its end */
    arena *a;                           /* NULL: none */
    struct message *m;
    size_t rcpt_cap, copies;            /* copies: recipients that are archives, whom no client named */
    uint64_t taken;                     /* RCPT commands */
    uint64_t expected;                  /* octets, as SIZE said; 0: not said */
    /* the body on its way in */
    struct spool_slab *slab;
    size_t slab_cap;
    struct spool_piece *piece;
    size_t npiece, piece_cap;
    size_t scanned;                     /* octets of the slab that the scan has seen */
    when body_until;                    /* all of it has to be here */
    bool bdat;                          /* BDAT has begun: only BDAT, RSET, NOOP, QUIT from here */
    bool bdat_failed;
    struct vigil *vigil;                /* the answer to the message waits for what a backend says of it; NULL: it does not */
    struct reply bad;                   /* why the body will be refused at its end; code 0: it will not */
};

void say(struct session *s, int code, struct enhanced e, const char *text);
void say_reply(struct session *s, const struct reply *r);
void say_refusal(struct session *s, const struct reply *r, str rcpt);
str told_through(struct session *s);
/* The one way back to "no transaction", from every state (attack class 9). */
void transaction_reset(struct session *s);
/* The client is another: count it as one of that address's. False: that was said to be one too many. */
WAITS bool session_readmit(struct session *s, const struct addr *client);
WAITS void say_greeting(struct session *s);

/* ---- body.c: the octets of a message ---- */

void body_reset(struct session *s);
WAITS err body_data(struct session *s);
WAITS err body_bdat(struct session *s, const struct command *c);

/* ---- cut.c: a backend's refusal becomes the client's answer ---- */

/* How long the answer to this message may wait; 0: not at all. */
when cut_length(const struct routes *r, const struct envelope *env);
/* Join those whose answer waits: at most a quarter of all sessions there may be. NULL: too many do already. */
struct vigil *cut_begin(const struct session *s, const struct limits *l);
/* Wait for it. True: refused, as *ret says; text of one line, in s->scratch. */
WAITS bool cut_end(struct session *s, struct vigil *w, when length, struct reply *ret);

/* ---- inlet.c: who speaks for whom ---- */

/* On a listener with "proxy": hear the header, and take the client it announces. False: close, without a word. */
WAITS bool inlet_proxy(struct session *s);
bool inlet_may(const struct session *s, enum verb verb); /* XCLIENT, XFORWARD: from this peer? */
WAITS void inlet_xclient(struct session *s, const struct command *c);
void inlet_xforward(struct session *s, const struct command *c);
void inlet_forget(struct session *s);                    /* what XFORWARD said */

#endif
