/* queue: what waits, why, since when, until when. One queue a thread; nothing here is shared.
 *
 * What waits is a *ticket*: the recipients of one message that go the same way at the same time. It lies in a lane (ready, in order),
 * in the calendar (put off until a moment), or is in flight (a connection has it). Envelope and body are read back from the
 * spool when it is due, unless the message is still in memory.
 *
 * A message belongs to one thread: all its tickets lie in that thread's queue, and when the last is gone its end is noted. */
#ifndef QUEUE_H
#define QUEUE_H

#include "route/route.h"
#include "spool/spool.h"
#include "stats/stats.h"

/* ---- retry: when to try again ----------------------------------------------------------------------------------------------- */

struct retry {
    struct times step;                  /* the last one repeats */
    when lifetime;
    when hold_max;                      /* most time frozen, suspended or held that is not counted against a lifetime */
};
extern const struct setting retry_settings[];   /* "retry [ 1m 5m ... ] for 5d", "hold_max 30d"; bound into a struct retry */
/* How long to wait after the n-th attempt (from 1), spread by an eighth either way. */
when retry_after(const struct retry *r, unsigned attempts);

/* ---- streams: mail of one kind, so that a password reset does not wait behind a newsletter ---------------------------------------
 *
 * A message's stream is decided once, when it is accepted, and stored with it. Inside a lane streams take turns by weight (lane_take). */

#define STREAMS_MOST 15
struct mail_stream {
    str name;
    uint8_t number;                     /* of this name as long as the process lives, 1 to STREAMS_MOST; 0 is mail of no stream */
    uint64_t weight;
    struct retry retry;                 /* step.n 0: as all mail */
    struct route_rule mail;             /* which: where it comes from, and */
    struct field_rule { str name; struct strs word; } *field; size_t nfield;   /* a field of its header with one of these words; none: with any */
};
#define STREAM_WEIGHT 10                /* of mail of no stream, or of one that is not configured any more */
struct streams { struct mail_stream **p; size_t n; };
extern const struct setting stream_settings[];  /* blocks "stream", bound into a struct streams */
void streams_finish(struct binder *b, struct streams *s, const struct routes *r);
/* The first that fits a message, or NULL. `header` may be empty: then no stream that asks for fields fits. */
const struct mail_stream *stream_find(const struct streams *s, const struct routes *r, const struct message *m, str header);
const struct mail_stream *stream_named(const struct streams *s, str name);      /* NULL: none */
const struct mail_stream *stream_numbered(const struct streams *s, unsigned number);
/* Its schedule of attempts, or else `all`. */
const struct retry *stream_retry(const struct streams *s, unsigned number, const struct retry *all);
/* What that number stands for, configured or not; "" for 0. From any thread. */
str stream_name(unsigned number);

/* ---- limiter: a rate shared by all threads, in one atomic word (the moment at which it is even again). --------------------------- */

/* Take one; false when the rate is used up. A whole `rate.n` may come at once. */
bool limiter_take(_Atomic int64_t *clock, struct rate rate, when now);
/* When there will be one to take: now or before, or a moment to come. */
when limiter_when(const _Atomic int64_t *clock, struct rate rate, when now);
/* Take the next one, whenever that is: it is the caller's from the moment that is returned on. Who asks first comes first, and nobody need ask twice. One each
 * `every`, and of those that nobody took as many as come in a second, at least one. */
when limiter_next(_Atomic int64_t *clock, when every, when now);

/* ---- mail: a message in memory ----------------------------------------------------------------------------------------------- */

struct mail {
    arena *a;                           /* everything of it but the slab lives here */
    struct message *m;
    struct spool_slab *slab;            /* its body, when it has one piece and is in memory; else NULL */
    uint32_t holders;                   /* tickets and flights */
    size_t bytes, *counted;             /* its share of a queue's body_bytes; NULL: of none */
    struct spool_move *move;            /* its pieces are read where they were before; held */
    struct vigil *vigil;                /* somebody waits for what becomes of it; NULL: nobody */
    struct post post;                   /* to hand it to another thread */
    void *to;                           /* the poster's own: whose it is. It has changed threads when this is set */
};
/* Takes over the arena, which holds m, and the slab. One holder. */
struct mail *mail_new(arena *a, struct message *m, struct spool_slab *slab);
void mail_drop(struct mail *m);         /* one holder less */

/* ---- vigil: a session waits for what the first delivery of its message meets (cut_through) --------------------------------------- */

/* Held by the session and by the mail, which may be on different threads; the first of them to speak decides. */
struct vigil {
    _Atomic int state;                  /* enum vigil_state */
    _Atomic int holders;
    struct reply reply;                 /* why it is refused; text in `text` */
    char text[400];                     /* a line of a reply has 512 octets, and our own words stand in it too */
    struct thread *home;                /* the session's */
    const bool *gone;                   /* its client has closed its side; read on its own thread, while it waits */
    struct waiters session;
    struct post post;
};
enum vigil_state { VIGIL_WAITS, VIGIL_SETTLED /* delivered, or ours to deliver */, VIGIL_REFUSED };
/* Two holders: the caller, and the mail it is put into. */
struct vigil *vigil_new(const bool *gone);
/* By the session: wait until `deadline`, or until vigil_end(); its holder is gone. True: refused, and *ret says how, its text in `a`. Else the mail is ours. */
WAITS bool vigil_wait(struct vigil *w, when deadline, arena *a, struct reply *ret);
/* By who delivers: its holder is gone, too. True: the client will be told the refusal, so that nobody else is to be. One that has left is none to tell. */
bool vigil_refuse(struct vigil *w, const struct reply *r);
void vigil_end(struct vigil *w);        /* it is ours, whatever comes. NULL is fine */
void vigil_leave(struct vigil *w);      /* by the session's own thread: it waits no longer, and goes on as with vigil_end() */

/* ---- ticket -------------------------------------------------------------------------------------------------------------------- */

enum ticket_state { TICKET_READY, TICKET_WAITING, TICKET_FLYING };

struct ticket {
    ulid id;
    struct spool_ref home;
    struct lane *lane;
    struct mail *mail;                  /* NULL: to be read back */
    struct ticket *sibling;             /* ring of the tickets of one message */
    struct ticket *hash_next;
    struct link place;                  /* in the lane, or in a day of the calendar */
    uint64_t rcpts;                     /* a bit a recipient, or with `many` a pointer to a struct rcpt_set */
    when accepted;                      /* wall clock */
    uint32_t due;                       /* seconds of clock_now(): next attempt, while waiting */
    uint32_t since;                     /* seconds of clock_now(): waits for this reason since */
    uint32_t lifetime;                  /* seconds */
    uint32_t domain, reason, from;      /* interned; `from`: the sender's domain */
    uint32_t version;                   /* of the next note about its recipients */
    uint16_t attempts;
    uint16_t sticky;                    /* backend_stick()'s key, where the backend sticks */
    uint16_t excused;                   /* minutes that do not count against its lifetime: it was held, or its lane paused */
    uint16_t counted;                   /* of its lane's pauses those are in `excused` that were before accepted + counted * PAUSE_UNIT */
    uint8_t state : 2;                  /* enum ticket_state */
    uint8_t stream : 4;                 /* its number; 0: none */
    uint8_t server;                     /* unknown: 1 + place in its backend of the server that may have it already; 0: any */
    uint8_t doubt;                      /* its backend's brake_era() when that refused it although our lists know it; 0: it did not */
    bool many : 1, unknown : 1, report : 1, expired : 1;
    bool hand_on : 1;                   /* its way is its domain's own, and route_elsewhere() says who gets what that does not take */
    bool held : 1;                      /* waits until an operator says otherwise, or until `due` */
    bool warned : 1;                    /* of its delay, or it is known that nobody is to be */
    bool fresh : 1;                     /* its message has no other, this process noted nothing about it, and it was always on this thread */
};
_Static_assert(sizeof(struct ticket) <= 128, "ten million of them are a normal state");

#define PAUSE_UNIT (4 * MINUTE)

struct rcpt_set { uint32_t n; uint64_t bits[]; };
bool ticket_has(const struct ticket *t, uint32_t rcpt);
uint32_t ticket_count(const struct ticket *t);          /* recipients */

/* ---- pauses: when something was at rest, by the wall clock ------------------------------------------------------------------------- */

#define PAUSES_MOST 16                  /* a power of two; of more, the two oldest become one */
struct pauses {
    struct pause { when from, to; } *p; /* heap; in order; `to` 0: it still is */
    uint32_t n;
};
void pauses_add(struct pauses *p, struct pause one);    /* joined with those it touches */

/* ---- standing: what holds beyond the end of the process ----------------------------------------------------------------------------- */

/* Which lanes an operator suspended, and when lanes paused; of all threads together. */
struct standing {
    arena *a;                           /* of the lanes and their names; NULL: there are none */
    struct map lane;                    /* name -> struct standing_lane */
    struct suspension { str lane, reason; when until; /* of clock_now() */ } *suspended; size_t nsuspended; /* heap */
};
struct standing_lane { str name; struct pauses pauses; };
void standing_pause(struct standing *s, str lane, struct pause one);
void standing_suspend(struct standing *s, str lane, when until, str reason);    /* in place of what was said of it before */
bool standing_resume(struct standing *s, str lane);     /* false: it was not suspended */
bool standing_suspended(const struct standing *s, str lane);    /* as of now; by its own name or, whatever its source, its backend's */
void standing_clear(struct standing *s);
struct queue;
/* What this thread knows of it is added. Yields now and then; who meanwhile comes may be left out. */
WAITS err queue_standing(const struct queue *q, struct standing *into);

/* ---- lane: a destination, as this thread sees it --------------------------------------------------------------------------------- */

enum lane_kind {
    LANE_BACKEND,                       /* a backend of the configuration, by its name; "" when there is no way. All names: with "@a1" behind them when
                                         * mail leaves by source a1 */
    LANE_DOMAIN,                        /* "domain:example.org": mail of a domain until it is known where that goes; then it is passed on */
    LANE_SITE,                          /* "mx:mx1.example.org": the hosts that MX records of one or more domains name. "mx:mx1.example.org:relay" where those
                                         * are relay domains with a list of recipients, and the bounce brake is wanted: it must not hold up others' mail */
};
enum lane_state { LANE_OPEN, LANE_DOWN /* every server is out, or nobody could say where it goes, or it is frozen or suspended */ };

struct lane {
    struct queue *queue;
    str name;                           /* its own memory */
    struct lane *same_bucket;           /* of the names */
    struct backend *backend;            /* of the newest configuration, or a site's own; NULL: it is gone, or this is a domain's */
    const struct backend *mx;           /* LANE_DOMAIN, LANE_SITE: the backend by whose settings they go, NULL: none any more */
    struct lane *site;                  /* LANE_DOMAIN: where its mail goes, as last known; NULL: not known yet */
    when fresh_until;                   /* LANE_DOMAIN: ask again after */
    struct lane *next_asking;           /* LANE_DOMAIN; deliver/'s own */
    struct sending *sending;            /* deliver/'s own; a domain's lane has an empty one, which must not be written to */
    struct lane_line {                       /* tickets that are ready, of one stream: the next first */
        struct link ready;
        uint32_t n;
        uint32_t weight, credit;        /* how many more of it go before the turn of all others has come */
        uint8_t stream;
        struct lane_line *next;
    } line;                             /* of mail of no stream; then those that there were */
    when since, retry_at;               /* moments of clock_now() */
    when swept;                         /* its expired tickets were looked for then */
    when opened;                        /* the last time it was down before; 0: it never was */
    struct heap_entry wake;             /* for retry_at */
    struct pauses pauses;               /* it was frozen or suspended */
    uint32_t nready, nwaiting, nflying; /* nready: of all lines */
    uint32_t domains;                   /* LANE_SITE: that lead here */
    uint32_t mx_name;                   /* interned: of `mx`, which ends with its configuration */
    uint32_t reason;                    /* interned: why it is down; lane_reason() */
    struct enhanced refusal;            /* LANE_DOMAIN: mail for it fails, with this code and the reason; class 0: it does not */
    uint16_t unanswered;                /* LANE_DOMAIN: in a row */
    uint8_t kind, state;                /* enum lane_kind, enum lane_state */
    uint8_t frozen_by;                  /* enum incident_kind */
    bool asking : 1;                    /* LANE_DOMAIN */
    bool unfit : 1;                     /* while it is down: its source cannot be used, and others of the pool may */
    bool suspended : 1;                 /* down by an operator's word, until retry_at */
    bool frozen : 1;                    /* down by an incident of this kind; not while it is suspended */
};
_Static_assert(sizeof(struct lane) <= 256, "a hundred thousand of them are a normal state");

/* What a lane's connections are at. */
struct sending {
    uint32_t connections, talking, idle;    /* talking: they have heard the answer to EHLO */
    bool crowded;                       /* it has no connection because other lanes have all there may be */
    when answered;                      /* a server of it last; 0: none ever */
    struct waiters takers;              /* idle connections */
    struct lane_server {                /* of its backend, in that order */
        uint32_t connections;           /* of this thread */
        uint64_t turn;                  /* grows with each message by 1 / weight; who is behind comes next (share.c) */
        when took;                      /* the last */
    } *server;
    size_t nserver;
    struct pacing {                     /* deliver/limits.c: it waits for its turn in a rate */
        bool mine;                      /* its turn is here, and nothing took it yet */
        uint8_t had;                    /* of its backend's limits: those whose turn it has */
        uint32_t changed;               /* `of` when it began to wait */
        struct limit_state *of;
        when until;                     /* the next turn comes then; 0: it waits for none */
        struct heap_entry turn;         /* for that */
        struct lane *lane;
    } pacing;
    const struct limit_state *full;     /* it has no connection, because this has all it may have; NULL: nothing has */
    when yields_until;                  /* it gave a connection up for others, and takes none before */
    unsigned trials;                    /* deliver/brake.c: somebody tries whether its brake is to go off */
    uint32_t giver;                     /* deliver/steal.c: 1 + the thread that gives of its own tickets; 0: none does */
    bool asked;                         /* it was asked for more */
    when passed;                        /* a connection last went on to its next ticket without a pause */
    bool withheld; struct lane *next_withheld;  /* deliver/pool.c: idle connections were left alone */
};

/* ---- queue ------------------------------------------------------------------------------------------------------------------------ */

struct queue_setup {
    struct spool_port *port;
    const struct retry *retry;          /* of the newest configuration, as are these two */
    const struct streams *streams;
    struct routes *routes;
    const struct standing *standing;    /* of the process before; outlives the queue. NULL: nothing */
    size_t body_budget;                 /* octets of mail kept in memory for delivery; above, it is read back */
    void (*ready)(void *ctx, struct lane *lane);        /* a ticket came into an open lane */
    void (*resolve)(void *ctx, struct lane *lane);      /* nobody knows (any more) where this domain's mail goes: queue_site() */
    void (*suspended)(void *ctx, struct lane *lane);    /* open it at its retry_at. May be NULL */
    /* The lifetime of this ticket has ended after an attempt: report and settle it. It is in flight. */
    void (*expired)(void *ctx, struct ticket *t);
    /* Mail without any way to go: in flight; fail it. */
    void (*unroutable)(void *ctx, struct ticket *t);
    void *ctx;
};
struct queue *queue_new(const struct queue_setup *setup);
void queue_free(struct queue *q);       /* tickets and lanes; the spool has the mail */
/* The calendar's task: run it in the thread's group. */
WAITS err queue_run(void *queue);
/* A new configuration: lanes find their backends again, ready and waiting tickets their lanes. True: rules decide, so their messages must be read
 * for that; run queue_reroute() in the thread's group. */
bool queue_configure(struct queue *q, const struct retry *retry, const struct streams *streams, struct routes *routes);
WAITS err queue_reroute(void *queue);

/* Where the recipients of a message go: way_begin(), then way_of() for each. */
struct way {
    const struct routes *routes; const struct message *m; struct route_key key;
    when expire;                        /* of the last recipient asked for; 0: the schedule's */
    struct outlets *outlets;            /* of the same: by which sources it leaves; NULL: as the system chooses */
    const struct elsewhere *other;      /* of the same: who gets what its way does not take; NULL: nobody */
};
void way_begin(struct way *w, const struct routes *r, const struct message *m);
struct backend *way_of(struct way *w, size_t rcpt);     /* NULL: nowhere; w->key.domain is the recipient's domain */
/* Does any of its recipients go, or might it be handed on, to a backend with fewer connections than there are threads? Such a lane lives on one thread. */
bool way_is_narrow(const struct routes *r, const struct message *m, unsigned threads);

/* Take a message in: tickets for all its recipients. Takes over one holder of `mail`. */
void queue_add(struct queue *q, struct mail *mail);
/* The same for a message found in the spool, which is not kept in memory: only recipients that wait, each as its state says. */
void queue_load(struct queue *q, const struct message *m, const struct rcpt_state *state);

/* The next ticket of the lane goes into flight, with its message in memory or not; NULL when none is ready. Streams take turns: in each round as many of a
 * stream as its weight says, of the greatest weight first. So that goes first unless it has more than its share, and none waits for ever. */
struct ticket *lane_take(struct lane *lane);
/* The same for one of them; the first of those that are ready, and the one behind. NULL: none. */
struct ticket *lane_take_this(struct ticket *t);
struct ticket *lane_first(struct lane *lane);
struct ticket *lane_after(const struct ticket *t);
/* A ticket in flight goes back to the front of its lane: no attempt was made. */
void ticket_return(struct ticket *t);
/* Some of a flying ticket's recipients (those with bit set in `part`, at least one, not all) become a ticket of their own, in flight too. */
struct ticket *ticket_split(struct ticket *t, const struct rcpt_set *part);
/* A ticket that ticket_remove() took out goes back to where it was, ready or waiting: it was only looked at. */
void ticket_settle_as(struct ticket *t, enum ticket_state state);
/* Put off until `due` for `reason`; one more attempt was made. Its message is dropped from memory. */
void ticket_defer(struct ticket *t, when due, str reason);
/* The same without an attempt: by an operator, who holds it or gives it free again (`due` now: to the end of its lane), or because an incident keeps it.
 * Its states are to be noted by the caller, with t->version. */
void ticket_put_off(struct ticket *t, when due, str reason, bool held);
/* Who gets recipients at `domain` that this ticket's way does not take; NULL: nobody. Of the newest configuration. */
const struct elsewhere *ticket_elsewhere(const struct ticket *t, str domain);
/* A ticket in flight goes to another backend at once, and to no third one after that; `domain` is that of its recipients. */
void ticket_hand_on(struct ticket *t, struct backend *b, str domain);
/* All its recipients are settled. True: it was the message's last ticket, so the caller notes the end. */
bool ticket_done(struct ticket *t);
/* Is the flying ticket the last of its message? Then ticket_done() will return true. */
bool ticket_last(const struct ticket *t);

/* Every server of the lane's backend is out: its mail waits until `retry_at`, no attempt burnt. Memory is given back. */
void lane_down(struct lane *lane, str reason, when retry_at);
void lane_open(struct lane *lane);      /* not one that is suspended */
/* A lane that is down: what is ready there goes by another source of its pool, where there is one that is open and (`proven`) was answered since. True: to
 * know the pools messages must be read; run queue_leave() in the thread's group. */
bool lane_leave(struct lane *lane, bool proven);
WAITS err queue_leave(void *queue);     /* from all lanes that are unfit */
str lane_reason(const struct lane *lane);               /* why it is, or last was, down */
/* By which source does its mail leave? NULL: as the system chooses. */
const struct outlet *lane_outlet(const struct lane *lane);
/* The lane's backend under its configured name: sites are many, and strangers name them. "none": it is gone. */
str lane_backend_name(const struct lane *lane);
str lane_subject(const struct lane *lane);      /* what its bounce brake is called: its backend as configured, or site_subject() */
/* An incident: no attempt burnt, no lifetime ends, until lane_open(); at `retry_at` it is to be looked at again. Not one that is suspended. */
void lane_freeze(struct lane *lane, enum incident_kind by, str reason, when retry_at);
/* How many connections a lane may have that was down: twice as many each second, until nobody can want more. */
uint32_t lane_ramp(const struct lane *lane, when now);
/* Has its lifetime ended, accepted as it was then (wall clock)? Time that its lane was frozen or suspended and that it was held itself does not count, up to
 * the settings' hold_max, as far as this process knows. To be asked only when an attempt has failed, with the lane open. */
bool ticket_too_old(const struct ticket *t, when accepted, when wall);
/* How many minutes of its life do not count, as of now; for a note about its recipients, whose `last` is now. */
uint16_t ticket_excused(const struct ticket *t);
/* By an operator: nothing goes out by this lane until then, also when it is made only later; its mail waits and burns no attempt. */
bool lane_is_called(const struct lane *lane, str name);      /* its name, or that without its source, or without ":relay" too */
void queue_suspend(struct queue *q, str lane, when until, str reason);
bool queue_resume(struct queue *q, str lane);           /* false: it was not suspended */
const struct suspension *queue_suspension(const struct queue *q, size_t i);     /* of those that hold now; NULL behind the last */

/* What became of resolve(): where the domain's mail goes; that it goes nowhere, for good; or that nobody can say
 * just now: then what was known before holds, or the lane is down until it is asked again (`retry_at`). */
void queue_site(struct lane *domain, const struct site *site);
void queue_no_site(struct lane *domain, struct enhanced status, str reason, uint32_t ttl);
/* A site's lane is frozen: the domains whose mail is ready there are asked about again where what is known of them is old. It follows when they lead elsewhere. */
void lane_ask_again(struct lane *site);
/* `local`: the fault is our resolver's, and the lane is frozen rather than down. */
void queue_site_later(struct lane *domain, str reason, bool local);

/* ---- from thread to thread: what one has too much of, another takes ---------------------------------------------------------------- */

/* Tickets of one lane on their way to another thread's queue, each with all that waits of its message. A message changes hands once at most: so queue_moved(),
 * told to each thread twice, finds it; and only while nothing is noted about it, for two threads' notes have no order. */
struct parcel {
    arena *a;                           /* all of it */
    str by;                             /* name of the backend by whose settings they go */
    struct packed { struct ticket t; str domain, from, reason; struct packed *next; } *first;
    size_t n;
};
/* Up to so many of those that are ready, in their turn. NULL: none of them may go. */
struct parcel *lane_pack(struct lane *lane, size_t most);
void queue_unpack(struct queue *q, struct parcel *p);   /* frees it */
void parcel_free(struct parcel *p);                     /* what is in it is in the spool, and comes back at the next start. NULL is fine */
struct lane *queue_lane_called(const struct queue *q, str name);        /* NULL: none is */
/* The backend by whose settings it goes; NULL: it is gone. */
const struct backend *lane_by(const struct lane *lane);

/* ---- for people ---------------------------------------------------------------------------------------------------------------------- */

struct queue_totals {
    size_t messages, tickets, ready, waiting, flying, body_bytes;
    size_t stream[STREAMS_MOST + 1];    /* tickets, by the number of their stream */
    when oldest;                        /* wall clock; 0: empty */
};
struct queue_totals queue_totals(const struct queue *q);
/* O(1): the first ticket of that message, or NULL; the others by ->sibling, a ring. */
struct ticket *queue_find(const struct queue *q, ulid id);
/* Walk through all tickets in pieces: fills up to `n`, from *at on (0 at first; updated; SIZE_MAX after the last). A ticket may come
 * or go between two calls. */
size_t queue_walk(const struct queue *q, size_t *at, struct ticket **out, size_t n);
struct lane *queue_lane(struct queue *q, size_t i);     /* NULL behind the last */
when lane_oldest(const struct lane *lane);              /* of those that are ready: wall clock of acceptance; 0: none is */
str ticket_domain(const struct ticket *t);
str ticket_sender_domain(const struct ticket *t);       /* "" for the null sender */
/* Why it waits, since and until when (wall clock; next 0: in flight or at its turn). */
struct why { str reason; when since, next; };
struct why ticket_why(const struct ticket *t);
str ticket_reason(const struct ticket *t);              /* the first of these alone */
/* Does an open lane wait for a limit? Why, and until when (of clock_now(); 0: until somebody gives a connection up). */
bool lane_delay(const struct lane *lane, str *reason, when *until);
/* Make it due now: also opens a lane that is down, for one try at each of its servers. False while in flight. */
bool ticket_retry(struct ticket *t);
/* To the lane of that backend, for as long as it waits or until the configuration changes. False while in flight. */
bool ticket_reroute(struct ticket *t, struct backend *b);
/* Take it out for good, into flight; the caller settles its recipients. False while in flight. */
bool ticket_remove(struct ticket *t);
/* The message moved in the spool. Mail in memory that reads its body from there holds the move until it is dropped. */
void queue_moved(struct queue *q, struct spool_move *move);

#endif
