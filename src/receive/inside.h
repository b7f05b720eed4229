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

struct client_info {
    struct addr addr;
    char ip[ADDR_TEXT];
    const struct network *network;      /* of the session's snapshot; NULL: a stranger */
};
/* May this client send from `sender`? code 0: yes. */
struct reply policy_mail(const struct snapshot *snap, const struct client_info *client, const struct command *cmd);
/* May this recipient be added? code 0: yes, and *to is where its mail goes (rewritten for postmaster). */
WAITS struct reply policy_rcpt(const struct snapshot *snap, const struct client_info *client, const struct message *m,
                               const struct path *rcpt, arena *a, str *to);

/* ---- sessions at a time, of everyone and of one client, over all threads ---- */

enum admission { ADMITTED, TOO_MANY, TOO_MANY_OF_YOURS };
enum admission admit(const struct limits *l, const struct addr *client, bool counted);
void admit_end(const struct addr *client, bool counted);

/* ---- probing.c ---- */

/* This client asked for one more unknown recipient. False: its budget is spent, and the session ends. Else *delay is how long the answer should
 * take. A budget of 0 is none. From any thread. */
bool probing_note(struct rate budget, const struct addr *client, when now, when *delay);
void probing_forget(void);              /* for tests */

/* Octets of bodies on their way in, over all threads. */
void arriving_add(int64_t octets);
bool arriving_full(const struct limits *l);

#endif
