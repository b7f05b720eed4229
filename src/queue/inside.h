#ifndef QUEUE_INSIDE_H
#define QUEUE_INSIDE_H

#include "queue/queue.h"

/* ---- retry.c ---- */

void take_retry(struct binder *b, const struct node *node, void *retry);
#define RETRY_HELP "Waits between attempts, the last one repeated, and how long mail is tried before it is returned."

/* ---- intern: strings that many tickets share, counted. Number 0 is the empty string. ---- */

struct intern {
    struct interned { char *p; uint32_t n, refs, hash, next; /* in its bucket, or of those that are free */ } *item;
    uint32_t n, cap, free, used;
    uint32_t *bucket, nbucket;          /* a power of two, or 0 */
};
uint32_t intern_get(struct intern *in, str s);  /* one reference more */
void intern_put(struct intern *in, uint32_t number); /* one less */
str intern_str(const struct intern *in, uint32_t number);
void intern_free(struct intern *in);

/* ---- calendar: what is due when, to the second, in buckets. ---- */

#define CALENDAR_BUCKETS 16384  /* 4.5 hours; what is due later goes round */

struct calendar { struct link bucket[CALENDAR_BUCKETS]; uint32_t at; /* seconds: all before are done */ size_t n; };

/* ---- ticket blocks ---- */

#define BLOCK_TICKETS 512

struct queue {
    struct queue_setup setup;
    struct ticket **block; size_t nblock, block_cap;
    struct ticket *free;                /* by hash_next */
    size_t ntickets, nmessages, body_bytes, by_stream[STREAMS_MOST + 1];
    struct ticket **hash; size_t hash_size;
    struct intern words;
    struct calendar calendar;
    size_t nasking;                     /* domains about which somebody is, or is to be, asked */
    struct lane **lane; size_t nlane, lane_cap;
    struct lane **lane_bucket; size_t nlane_bucket;     /* by name, along same_bucket */
    struct standing standing;           /* as of now, but for pauses, which lanes keep themselves */
    bool leaving;                       /* queue_leave() is at it */
    when swept;                         /* lanes that nobody needs were looked for then */
    struct waiters calendar_wait;
};

uint32_t seconds_now(void);             /* of clock_now() */
struct ticket *ticket_new(struct queue *q, ulid id);
void ticket_free(struct queue *q, struct ticket *t);
void ticket_link(struct queue *q, struct ticket *t);    /* by id, and to its siblings */
bool ticket_unlink(struct queue *q, struct ticket *t);  /* true: it was the last of its message */
void ticket_forget_mail(struct ticket *t);
void mail_count(struct mail *mail, struct queue *q);    /* its memory is that queue's now; NULL: nobody's */
void calendar_put(struct queue *q, struct ticket *t);
void calendar_del(struct queue *q, struct ticket *t);
void lane_put(struct lane *lane, struct ticket *t, bool front);
void lane_cut(struct ticket *t);                        /* out of its line */
void lane_weigh(struct lane *lane);                     /* its lines, by the newest configuration */
uint32_t lifetime_of(const struct queue *q, unsigned stream, when expire);     /* seconds; expire 0: the schedule's */
str domain_of(str address);             /* behind the last @; "" without one */
struct route_key origin_key(const struct routes *r, const struct message *m);   /* all but the recipient */
struct backend *backend_named(const struct routes *r, str name);
/* The lane of a backend, or of a domain where the backend goes by MX. b NULL: of mail without a way. */
struct lane *lane_for(struct queue *q, const struct backend *b, str domain);
/* The same by one of these sources (NULL: lane_for()): that of `was` or of another ticket of the message, whose ring begins at `first`, when it is among them
 * and its lane is open; else the next in turn of which that can be said. Both may be NULL. */
struct lane *lane_leaving(struct queue *q, const struct backend *b, struct outlets *o, str domain, struct lane *was, struct ticket *first);
static inline bool lane_leads(const struct lane *lane) { return lane->backend || lane->kind == LANE_DOMAIN; } /* else there is no way */
struct lane *lane_again(struct ticket *t);              /* where its mail goes as of now */
struct lane *lane_named(struct queue *q, enum lane_kind kind, str name);    /* made on first use */
void lane_mx(struct lane *lane, const struct backend *b);      /* by whose settings it goes from now on */
void lane_set_reason(struct lane *lane, str reason);
void lanes_sweep(struct queue *q);
/* site.c */
void lane_ask(struct lane *domain);                     /* somebody is to look up where it leads */
void site_leave(struct lane *domain);                   /* it is not known any more */
void lane_relay_again(struct lane *domain);
void ticket_let_go(struct ticket *t);                   /* it is held no more: its lifetime goes on */
void ticket_excuse(struct ticket *t, when length);      /* for so long it did not */
void ticket_counted(struct ticket *t, when wall);       /* pauses of its lane up to then are among what is excused */
void ticket_remember(struct ticket *t, const struct rcpt_state *state, when wall);      /* what was noted of all this, of one of its recipients */
void ticket_go(struct ticket *t, struct lane *to);      /* that is its lane now; what it owes to pauses of the old one stays its own */
bool name_is(str lane, str name);                       /* that, or with a source behind it, or what a site is called (site_subject()) */
const struct suspension *suspension_of(const struct standing *s, str lane);     /* that holds now; NULL: none */
/* The lane is frozen or suspended from now on; it is not any more. Twice is once. */
void lane_pause(struct lane *lane);
void lane_unpause(struct lane *lane);

#endif
