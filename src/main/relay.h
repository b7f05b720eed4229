/* Inside main/: the running relay and its workers. */
#ifndef RELAY_H
#define RELAY_H

#include "main/main.h"

#include <pthread.h>

struct relay;

struct acceptor {                   /* one listener on one worker */
    struct worker *w;
    struct addr addr;
    str name, where;
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
    _Atomic bool loading, draining;
    _Atomic bool serving;                 /* clients are taken: every thread has begun, every socket is accepted from */
    struct http *http;
    struct store *store;            /* NULL: none */
    struct thread *thread;          /* the relay's own */
    pthread_mutex_t asking;         /* held by who asks the threads from outside of them; `unasked`: they may be asked no more */
    bool unasked;
    unsigned reloads_failed;        /* atomics */
    bool reload_failed;             /* the last one */
    struct spool_loaded loaded;
    struct waiters quit;            /* drain was asked for by the control socket */
    bool quit_asked;
    char **name; size_t nname;      /* of listeners: sessions hold them to the end */
    struct standing before;         /* of the process before this one */
    struct { uint64_t hash; /* of what was written last; 0: nothing was */ struct pool *pool; bool busy, failed; struct waiters idle; } standing;
    struct relay_listener { struct addr addr; str name, where; int fd; bool inherited; } *listener; size_t nlistener;
};

/* Run fn(worker, arg) as a task on the worker's thread, and wait for it. */
WAITS err worker_call(struct worker *w, err (*fn)(struct worker *w, void *arg), void *arg);
err worker_main(void *worker);
WAITS err worker_configure(struct worker *w, void *snapshot);   /* takes over one holder */
void worker_listen(struct worker *w, const struct relay_listener *l);
WAITS void worker_unlisten(struct worker *w, const struct addr *addr);

/* Servers of that backend changed: on every thread its lanes open, and idle connections look whether they are still wanted. */
void relay_lanes_look(struct relay *r, str backend);

/* An incident is over: on every thread the lanes that it froze open. `subject`: of one backend, or of one site (lane_subject()); "": all of them. */
void relay_thaw(struct relay *r, enum incident_kind kind, str subject);

/* standing.c: what operators said and what lanes went through is kept for the next process */
WAITS void standing_load(struct relay *r);      /* into r->before and the servers' states: before anybody delivers. What is wrong is logged */
WAITS err standing_save(struct relay *r);       /* where anything changed */
WAITS void standing_said(struct control *c, struct relay *r);   /* an operator said something of it: it is kept, and he is answered */
err standing_keep(void *relay);                 /* a task: again and again */

/* servers.c */
str server_name(const struct backend *b, const struct next_hop *s);
size_t server_drain(const struct routes *r, str backend, str server, bool drained);    /* by all sources unless its name has one; 0: there is none */

/* incidents.c */
void incident_list(struct control *c, void *relay);
void incident_close_one(struct control *c, void *relay);
void incidents_into(struct buf *b, struct relay *r);            /* "incidents":[...] */
bool incidents_resume(struct relay *r, str lane);               /* end those of that backend or site; false: there are none */
void incidents_configure(struct relay *r, const struct settings *s);    /* those that a configuration makes, or ends */

/* metrics.c and health.c: what is answered over HTTP, on its thread */
void metrics_answer(struct relay *r, const struct http_question *q, struct http_answer *ret);
void health_answer(struct relay *r, const struct http_question *q, struct http_answer *ret);

/* ask.c: questions to the threads from a thread that has no scheduler */
struct lane_figures { char name[LABEL_TEXT]; enum lane_kind kind; uint64_t n[3]; /* by ticket_state */ bool down; };
#define LANES_TOLD 50               /* of each thread the fullest; the rest is told as one */
struct thread_figures {
    bool answered;
    struct queue_totals queue;
    size_t sessions, connections;
    struct thread_stats stats;
    struct lane_figures lane[LANES_TOLD]; size_t nlane;
    uint64_t other[3]; size_t lanes_down, suspended;
};
/* Ask all workers, and the relay's own thread as the last; who has not answered at `deadline` is left out. ret[0..nworker]: 1 + nworker of
 * them, heap. `figures` false: only whether they answer. NULL: the relay is going down, nobody may be asked any more. */
struct thread_figures *ask_threads(struct relay *r, bool figures, when deadline);
/* From now on nobody is asked, and nobody's question is under way that was not told its end. */
WAITS void ask_end(struct relay *r);

/* queue_verbs.c: verbs of the control socket */
void queue_list(struct control *c, void *relay);
void queue_show(struct control *c, void *relay);
/* Messages that wait for that recipient, as far as they are found within some seconds. */
WAITS size_t queue_waiting_for(struct relay *r, str address, ulid *ids, size_t most);
void queue_change(struct control *c, void *relay);
void queue_suspend_lane(struct control *c, void *relay);
void queue_resume_lane(struct control *c, void *relay);
bool queue_show_message(struct control *c, struct relay *r, ulid id);    /* as a line; false: none of that id waits */

void explain_rcpt(struct control *c, void *relay);      /* explain.c */
void config_show(struct control *c, void *relay);       /* config.c */
/* What differs, as `config diff` would have said it: to the log, and to `told` (may be NULL). */
void config_changes(const struct settings *old, const struct settings *now, struct buf *told);

/* servers.c: the same */
void backend_list(struct control *c, void *relay);
void backend_drain(struct control *c, void *relay);
void backend_undrain(struct control *c, void *relay);
str server_words(const struct next_hop *s, when now);           /* "in", "out", "drained", ... */

struct settings *relay_newest(struct relay *r);                  /* held */
/* Read the configuration again and put it in force everywhere. Diagnostics go to `text`, what differs from before to `changes` (may be NULL). */
WAITS err relay_reload(struct relay *r, struct buf *text, struct buf *changes);

#endif
