/* crowd: those outside the relay. Clients who send letters and remember each 250; next hops of every temper, who remember what they
 * took and what they refused. What the relay itself says in its log is noted beside it, in order. */
#ifndef CROWD_H
#define CROWD_H

#include "sim/sim.h"

#define LETTER_RCPTS 6

/* What happened to one recipient of one mail, in order. */
enum what { TOOK, SAID_DELIVERED, SAID_REPEATED /* delivered, perhaps not for the first time */, SAID_DEFERRED, SAID_FAILED, SAID_EXPIRED, SAID_UNKNOWN };
struct moment { enum what what; when at; bool unheard; /* TOOK: nobody was there any more to hear the answer */ };
struct story { char addr[64]; struct moment *p; size_t n, cap; struct story *next; };

/* One transaction that the relay may have accepted: known by its id once somebody saw it. */
struct mail_life {
    ulid id;
    struct submission *of;              /* NULL: not known yet, or a report of the relay's own */
    struct story *stories;
    struct mail_life *next;
};

enum fate { FATE_OK, FATE_NEVER /* 550 to RCPT */, FATE_LATER /* 450 a few times */, FATE_POISON /* 554 to the dot */ };

/* A client says each letter until it is taken; each time is a submission. */
struct submission {
    struct letter *letter;
    unsigned number;                    /* from 1 */
    unsigned rcpts;                     /* bits: whom the relay took */
    bool acked;
    when said, acked_at;                /* the final dot; its 250 */
    ulid id;                            /* as the 250 said */
    struct submission *next;
};
struct letter {
    unsigned number;
    char sender[64];                    /* "" the null sender */
    bool eight, bdat, large;
    struct addressee { char addr[64]; enum fate fate; unsigned later; bool refused /* by a hop, for good */, reported; } rcpt[LETTER_RCPTS];
    size_t nrcpt;
    bool sender_refused;                /* a hop would not take a report to the sender */
    str text;                           /* header and body but for X-Try; CRLF lines */
    uint32_t sum;                       /* CRC-32C of the body */
    struct submission *submissions;     /* the newest first */
    struct letter *next;
};

struct hop;
struct crowd {
    arena *a;
    struct addr relay;
    struct letter *letters; unsigned nletters;
    struct mail_life *lives;
    struct hop *hops; size_t nhops;    /* NULL at first: made by crowd_run() */
    unsigned clients, letters_each;
    when until;                         /* no new letter from then on */
    bool calm;                          /* all hops are as they should be, all clients polite */
    bool ending;                        /* go home */
    bool mail_refused;                  /* some hop refused a whole transaction for good: whose, nobody knows */
    unsigned acked, took, reports;
    unsigned busy;                      /* clients at work */
    void (*wrong)(const char *fmt, ...) PRINTF(1, 2);
    void (*heard_mail)(size_t hop, const struct addr *from);    /* each MAIL, by the number of the hop */
};
extern struct crowd *crowd;

/* The seven next hops 203.0.113.1 to .7, all clients; each a task of the calling thread's group. */
WAITS err crowd_run(void *unused);
void crowd_weather(void);               /* one hop changes its ways */
void crowd_calm(void);
struct addr hop_addr(size_t i);
/* A line of the relay's log, as text. */
void crowd_heard_log(str line);
struct mail_life *life_of(ulid id);

#endif
