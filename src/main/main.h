/* main: the process. Settings as a whole, the parent that holds what a worker must not, the worker's threads, the control socket. */
#ifndef MAIN_H
#define MAIN_H

#include "api/api.h"
#include "deliver/deliver.h"

/* ---- settings: all sections together ---------------------------------------------------------------------------------------------- */

struct settings {
    struct snapshot snapshot;           /* what sessions hold; first, so that the one is the other */
    arena *a;                           /* all of it lives here */
    struct node tree;                   /* as parsed, for the diff */
    struct map paths;                   /* what relative paths in it became: struct binder */
    str path;
    str user;                           /* to become when started as root; "" stay */
    uint64_t threads;                   /* workers; 0: one a core */
    str control;                        /* path of the control socket */
    struct spool_setup spool;
    struct dns_settings dns;
    struct trace_settings trace;
    struct { int level, form; str file; } log;
};
extern const struct setting *settings_table(void);      /* all sections in one, for binding and the manual */
extern const char settings_dev[];                       /* what `serve --dev` runs on, as text */
/* Read, bind and cross-check. NULL when there were errors: they are in `d`, whose arena stays the caller's. Else the result lives in that
 * arena and owns it from here on (warnings in `d` are good until it ends); it has one holder. */
struct settings *settings_load(str path, const str *text, struct diags *d);

/* Files that the settings name and the relay's user may not read, though we may: a warning each, for a reload would not see their changes. Only
 * root can tell. */
void files_unreadable(const struct settings *s, struct diags *d);

/* ---- the relay: the worker process's whole life ---------------------------------------------------------------------------------------- */

struct listening { str name; struct addr addr; int fd; bool inherited; };   /* bound and listening already; inherited: by a service manager */
struct relay_setup {
    struct settings *settings;
    struct listening *listening; size_t nlistening;
    int control_fd;                     /* listening Unix socket; -1: none */
    int parent_fd;                      /* SOCK_SEQPACKET to the parent; -1: there is no parent */
    bool reread;                        /* a reload reads settings->path again; false for --dev */
};
/* Runs until SIGTERM or SIGINT were obeyed. Signals are blocked by the caller already (signals_block). For task_main(). */
WAITS err relay_run(void *relay_setup);

/* Ask the parent for a listening socket at an address that a reload brought; without a parent it is bound here. E_PERM: no "listen" of
 * the file names it. */
WAITS err parent_listen(int parent_fd, const struct addr *at, int *ret_fd);
/* A reload took this address away: the parent closes its copy of the socket too (the caller its own), so that clients are refused and
 * do not wait for nobody. */
void parent_unlisten(int parent_fd, const struct addr *at);

/* ---- parent ------------------------------------------------------------------------------------------------------------------------------ */

struct serve_options { str config; bool dev; bool foreground_as_is; /* no parent, no change of user, no sandbox */ };
/* `waypost serve`: bind, fork the worker, hold the sockets, restart it when it crashes, pass signals on. Exit code. */
int serve(const struct serve_options *o);
/* In the worker, before its first thread: groups and user dropped, no_new_privs, seccomp, Landlock (read: `read` paths, write: `write`). What the
 * kernel lacks is logged, not fatal. */
err sandbox_enter(const struct settings *s);
/* In the worker, before the sandbox: what /metrics tells of the process is in /proc. */
void metrics_prepare(void);
/* sd_notify(3) without the library: nothing when NOTIFY_SOCKET is not set. A worker's words go through its parent, who also learns
 * from READY=1 that this worker is worth restarting. Does not wait; from any thread. */
void notify_service(const char *state);
/* How often the service manager wants to hear WATCHDOG=1 (half of its patience); 0: not at all. */
when notify_watchdog(void);
/* SIGUSR1: the log file was moved away; open it anew. */
void log_reopen(void);

/* ---- crash: what a thread was at when it died -------------------------------------------------------------------------------------------- */

#define CRASH_THREADS 128               /* threads beyond are not noted */
/* The calling thread is number `thread` of those that handle mail, and gets a stack for the last words. */
void crash_thread(unsigned thread);
/* From here to the next note, this thread works on message `id` (zero: on none). Two stores: note it anew before each stretch of work
 * on what a message holds, and after each wait. A message noted at two crashes is set aside in the next worker. */
void crash_note(unsigned thread, ulid id);
/* Was that message noted at two crashes? Then it is held with the reason "crashed", and not touched. */
bool crash_set_aside(ulid id);

/* ---- control socket: JSON lines ------------------------------------------------------------------------------------------------------------ */

/* A request is one line {"do":"queue.list", ...}; the answer is any number of lines and a last one with "done":true, or
 * "error":"..." and "code". */
struct control;                         /* one connection */
struct control_verb { const char *name; WAITS void (*run)(struct control *c, void *relay); bool changes; /* only for root and our own uid */ };
extern const struct control_verb control_verbs[];       /* in commands.c; ends in NULL */
str control_arg(struct control *c, const char *key);    /* a string member of the request, or {NULL,0} */
bool control_flag(struct control *c, const char *key);
int64_t control_int(struct control *c, const char *key, int64_t absent);
/* Send one line: a whole JSON object, printed by the caller. Gives turns to others; false once the client is gone. */
WAITS bool control_line(struct control *c, str json);
void control_fail(struct control *c, const char *code, const char *fmt, ...) PRINTF(3, 4); /* the last line will say so */
/* Accept and answer until cancelled; for group_spawn through a wrapper. A table of its own is for tests. */
WAITS err control_serve_verbs(int fd, const struct control_verb *verb, void *relay);
static inline err control_serve(int fd, void *relay) { return control_serve_verbs(fd, control_verbs, relay); }

#endif
