/* What the files of this folder share. */
#ifndef MAIN_INSIDE_H
#define MAIN_INSIDE_H

#include "main/main.h"

#include <sys/types.h>

/* ---- sockets.c: the listening sockets that outlive workers ---- */

struct held { struct addr at; int fd; bool inherited, wanted; char name[128]; };
struct sockets { struct held *p; size_t n, cap; };      /* heap */

/* Take over what a service manager bound for us, or kept for us since our last life (LISTEN_FDS), with the names it has.
 * E_UNKNOWN: something else was handed over. */
err sockets_inherit(struct sockets *s);
/* The socket at `at`: one that is held, or else bound now. It stays ours. */
err sockets_get(struct sockets *s, const struct addr *at, int *ret_fd);
err sockets_for_all(const struct sockets *s, const struct addr *at);    /* a Unix socket: every user may connect */
void sockets_drop(struct sockets *s, const struct addr *at);
/* What a configuration wants: what was held and it does not name is closed, what it names and is not held is bound. What was
 * inherited under the name of a listener's kind but at no address of the configuration belongs to that kind. All in `a`. What
 * cannot be bound, or was inherited for no listener, is an error when `strict`, else it is logged and left out. */
err sockets_configure(struct sockets *s, arena *a, const struct receive_settings *r, bool strict, struct listening **ret, size_t *n);
void sockets_free(struct sockets *s);   /* in the parent only: the names of Unix sockets go too */

/* ---- parent.c: the process that outlives workers ---- */

struct parent_setup {
    /* The whole life of a worker, in its own process; the result is its exit code. Signals are blocked. */
    int (*worker)(void *ctx, int parent_fd);
    void (*prepare)(void *ctx);         /* before a worker takes the place of one that died */
    err (*listen)(void *ctx, const struct addr *at, int *ret_fd);       /* the descriptor stays the parent's */
    void (*unlisten)(void *ctx, const struct addr *at);
    void (*reopen)(void *ctx);          /* SIGUSR1: our own log too */
    void *ctx;
    when pause, pause_most;             /* before a restart: doubled from one to the other; 0: 100 ms, 10 s */
    when stop_patience;                 /* a worker told to end is killed after it; 0: 2 minutes */
};
/* Runs workers until one ends well or must end; the caller has no threads. Exit code: 0 when the last worker's was. A worker that fails before it
 * said READY=1 is not replaced, one that dies by a signal always is. */
int parent_run(const struct parent_setup *setup);
void parent_tell(int parent_fd, const char *state);     /* notify_service() of a worker */
err parent_bond(void);                  /* in the worker: when the parent dies, SIGTERM. A change of user undoes it */

/* ---- notify.c ---- */

void notify_through(int parent_fd);     /* -1: straight to the service manager */
void notify_begin(void);                /* reads what the service manager said in the environment */
bool notify_is_known(str line);         /* a line that a worker may say */
/* sd_notify(3)'s FDSTORE=1: the manager holds a copy of `fd`, and hands it to our next life by that name. And FDSTOREREMOVE=1. */
void notify_keep(const char *name, int fd);
void notify_forget(const char *name);

/* ---- crash.c ---- */

void crash_page_make(void);             /* before the first fork */
void crash_handlers(void);              /* in the worker */
/* In the parent, after a worker died: count and log the messages that were noted. */
void crash_count(void);

/* ---- sandbox.c ---- */

struct identity { bool change; uid_t uid; gid_t gid; char name[64]; };
/* Who a relay started as root becomes: settings->user, or without that "waypost" where there is such a user. `change` false: it stays who
 * it is. E_NOTFOUND: no user of that name. */
err identity_find(const struct settings *s, struct identity *ret);

/* Without a way back. */
err identity_become(const struct identity *who);

/* ---- files.c: directories and the log ---- */

/* Make the directories of spool and control socket; the spool is given to whom the worker becomes. */
err files_prepare(const struct settings *s, const struct identity *who);
/* Open where the log goes: s->log.file, or stderr. The parent's lines are written at once, a worker's by a thread. */
err log_open(const struct settings *s, const struct identity *who);
void log_parent(void);
void log_worker(void);

/* ---- control.c ---- */

typedef struct json_t json_t;
/* One request line as an object with a string "do"; E_SYNTAX. json_decref() it. */
err control_parse(str line, json_t **ret);

#endif
