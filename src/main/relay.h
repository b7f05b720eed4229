/* Inside main/: the running relay and its workers. */
#ifndef RELAY_H
#define RELAY_H

#include "main/main.h"

#include <pthread.h>

struct relay;

struct acceptor {                   /* one listener on one worker */
    struct worker *w;
    struct addr addr;
    str name;
    int fd;
    struct io io;
    struct group *group;            /* NULL: not begun, or ended */
    struct waiters end;
    struct acceptor *next;
};

struct worker {
    struct relay *relay;
    unsigned number;
    struct thread *thread;
    struct snapshot *snap;          /* what this thread works by; changed by worker_configure() */
    struct spool_port *port;
    struct queue *queue;
    struct reception *reception;
    struct dispatch *dispatch;
    struct acceptor *acceptor;
    struct waiters stop;
    bool stopping, ending;          /* told to; its tasks are being ended */
    _Atomic uint32_t load;          /* sessions here or on their way here */
};

struct relay {
    struct relay_setup setup;
    struct spool *spool;
    struct resolver *resolver;
    struct worker *worker;
    unsigned nworker;
    uint64_t instance;
    pthread_mutex_t lock;           /* of `newest` and `moving` */
    struct moving *moving;          /* what the workers have not all heard of yet */
    struct settings *newest;
    when started;
    bool loading, draining;
    struct spool_loaded loaded;
    struct waiters quit;            /* drain was asked for by the control socket */
    bool quit_asked;
    char **name; size_t nname;      /* of listeners: sessions hold them to the end */
    struct relay_listener { struct addr addr; str name; int fd; bool inherited; } *listener; size_t nlistener;
};

/* Run fn(worker, arg) as a task on the worker's thread, and wait for it. */
WAITS err worker_call(struct worker *w, err (*fn)(struct worker *w, void *arg), void *arg);
err worker_main(void *worker);
WAITS err worker_configure(struct worker *w, void *snapshot);   /* takes over one holder */
void worker_listen(struct worker *w, const struct relay_listener *l);
WAITS void worker_unlisten(struct worker *w, const struct addr *addr);

/* Servers of that backend changed: on every thread its lanes open, and idle connections look whether they are still wanted. */
void relay_lanes_look(struct relay *r, str backend);

/* servers.c: verbs of the control socket */
void backend_list(struct control *c, void *relay);
void backend_drain(struct control *c, void *relay);
void backend_undrain(struct control *c, void *relay);
str server_words(const struct next_hop *s, when now);           /* "in", "out", "drained", ... */

struct settings *relay_newest(struct relay *r);                  /* held */
/* Read the configuration again and put it in force everywhere. Diagnostics go to `text`. */
WAITS err relay_reload(struct relay *r, struct buf *text);

#endif
