/* task: stackful tasks, one scheduler a thread, and the seam to the machine.
 *
 * A task is a function that may wait. It runs on one thread for its whole life; between two waits nothing else of its
 * thread runs, so data of one thread needs no lock. Every wait ends: by what it waits for, by its deadline, or because
 * the task's group was closed (E_CANCELED). Deadlines are moments of clock_now(), never lengths.
 *
 * Library callbacks run between task_forbid_wait() and task_allow_wait(): a wait in there is a must() failure. */
#ifndef TASK_H
#define TASK_H

#include "base/base.h"

#include <sys/socket.h>
#include <sys/uio.h>

typedef err task_fn(void *arg);

/* ---- group: owns tasks; ends before the function that opened it does. --------------------------------------------- */

struct task;
struct group {
    struct link tasks;          /* the children still running */
    size_t n;                   /* how many */
    when deadline;              /* covers every wait of every child: the least along the chain of openers */
    err first;                  /* the first child's error that was not OK */
    struct err_note *note;      /* its text */
    bool closed;                /* cancelled */
    bool forget;                /* nobody asks for `first`: thread_group() */
    struct task *owner;         /* who opened it: its cancellation is ours */
    struct link among;          /* the owner's groups, while we have children */
    struct task *waiter;        /* who is in group_wait() */
};

/* AUTO_GROUP g = group_open(clock_now() + 30 * SECOND); a child inherits the smaller of this deadline and its
 * opener's own. Leaving the block closes the group: children are cancelled and waited for. A group without children
 * may be copied; one with children stays where it is. */
struct group group_open(when deadline);
/* Start fn(arg) as a child; it runs when its turn comes, at the earliest at the caller's next wait. In a cancelled group it
 * runs too (so it can free `arg`), and its every wait is refused. `name`: a literal, for dumps.
 * E_LIMIT  no stack is left: fn will never run, and group_wait() returns E_LIMIT as if fn had */
err group_spawn(struct group *g, const char *name, task_fn *fn, void *arg);
/* Until no child is left, whatever happens: the children's waits end by deadline or cancellation. The first error among
 * them; E_CANCELED when there was none and the caller's own group was cancelled. */
WAITS err group_wait(struct group *g);
void group_cancel(struct group *g);     /* every wait of every child, and of their groups', returns E_CANCELED from now on */
WAITS void group_close(struct group *g); /* cancel and wait; not cut short by anything */
#define AUTO_GROUP __attribute__((cleanup(group_close))) struct group

/* ---- waits -------------------------------------------------------------------------------------------------------- */

/* In all of them E_TIMEOUT means that the deadline given here or that of the task's group has passed, and E_CANCELED
 * that the task's group, or one above it, was cancelled: at once when that was so before. */

/* OK at `until`; E_CANCELED; E_TIMEOUT when the group's deadline comes first. A moment already past gives the others a
 * turn. */
WAITS err task_sleep(when until);
/* Let the others that are ready run first. */
WAITS err task_yield(void);

/* A queue of tasks of one thread that wait for the same thing. Zeroed is empty. */
struct waiters { struct link tasks; };
WAITS err waiters_wait(struct waiters *w, when deadline); /* OK when woken; E_TIMEOUT; E_CANCELED */
WAITS void waiters_wait_steady(struct waiters *w);        /* the same, but neither cancellation nor a deadline cuts it short: for what surely comes */
bool waiters_wake_one(struct waiters *w);       /* first come, first woken; false when nobody waited */
void waiters_wake_all(struct waiters *w);

const char *task_name(void);            /* of the running task; "" outside */
bool task_running(void);                /* false outside any task */
struct task *task_current(void);        /* NULL outside; to tell one from another */
bool task_canceled(void);
void task_forbid_wait(void);            /* these two nest */
void task_allow_wait(void);
/* From its next wait on the running task has its turn among the favoured ones of its thread: while there are any, three quarters of the time
 * are theirs, however many others are ready. For the few that undo what the many do. */
void task_favour(void);
/* Give back the pages of the running task's stack below the current frame. One system call: for a task about to
 * wait long. */
void task_trim(void);
/* How many more tasks the process may start before group_spawn() returns E_LIMIT: a listener stops before that. SIZE_MAX
 * where the kernel sets no limit. */
size_t task_room(void);
/* Bytes of stack the running task may still use: for measuring, and must()s before deep calls. */
size_t task_stack_left(void);

/* ---- threads ------------------------------------------------------------------------------------------------------ */

struct thread;

/* Start a thread whose scheduler runs fn(arg) as its first task; it ends when no task is left. `name` at most 15 bytes. */
struct thread *thread_start(const char *name, task_fn *fn, void *arg);
WAITS err thread_join(struct thread *t); /* fn's result and text; frees t; not cut short. Outside tasks it blocks */
struct thread *thread_self(void);
/* Run a scheduler on the calling thread until fn's task and all others end: what main() does. Not in a simulation. */
err task_main(task_fn *fn, void *arg);

/* In the child of a fork(): forget the parent's threads, whose epoll and eventfd the child shares. After it there is no
 * task, and a task_main() of the child's own may follow; the function that forked must not return. */
void task_forked(void);

/* A message to another thread: its scheduler calls run(post) outside any task (run must not wait; it may wake and
 * spawn). The post belongs to the receiver from thread_post() until run is called. Any thread may post, also one
 * without a scheduler. Wakes the target only when it sleeps. Posts of one sender arrive in order. */
struct post { struct post *next; void (*run)(struct post *p); };
void thread_post(struct thread *to, struct post *p);

/* A group that lives as long as its thread: for what nobody waits for (a session, a lane's keeper). fn's own task is not
 * in it, so fn may end by group_close(thread_group()). */
struct group *thread_group(void);

struct thread_stats { uint64_t posts, sleeps, switches, tasks, tasks_peak; }; /* tasks: alive now */
struct thread_stats thread_stats(void); /* of the calling thread */

/* ---- work: blocking or long calls, on a pool of plain threads. ---------------------------------------------------- */

struct pool;
struct pool *pool_start(const char *name, unsigned threads);
void pool_stop(struct pool *p);         /* after the last work_run() has returned */
/* Run fn(arg) on the pool and wait for it. Not cut short by cancellation or deadline: arg may live on the stack. The text
 * of an error that fn made is the caller's afterwards. Outside tasks fn simply runs. */
WAITS void work_run(struct pool *p, void (*fn)(void *arg), void *arg);

/* ---- io: readiness of a descriptor, edge-triggered, registered once. ---------------------------------------------- */

struct io {
    int fd;
    bool readable, writable;            /* as far as we know; cleared by who saw EAGAIN or a short count */
    bool hangup;                        /* peer closed its side or the line broke */
    bool shared, parked;                /* io_add_shared(); taken out of epoll while nobody waits */
    struct task *reader, *writer;
    struct thread *thread;
    void *sim;                          /* a simulator's */
};
/* To the calling thread's scheduler; io stays where it is until io_del(). Both flags begin true, and the machine tells
 * once more what is ready already: who knows that nothing was heard yet may clear `readable` and spare a call. */
err io_add(struct io *io, int fd);
void io_del(struct io *io);             /* before close(fd); nobody waits for it any more */
WAITS err io_wait_readable(struct io *io, when deadline);
WAITS err io_wait_writable(struct io *io, when deadline);
/* Level-triggered and exclusive among the threads that add it: for listening sockets. `readable` begins false; each
 * wait ends with one turn, and who meets EAGAIN clears the flag and waits again. */
err io_add_shared(struct io *io, int fd);

/* Signals by signalfd, in the thread that calls; they must be blocked in all threads before the first starts. */
void signals_block(const int *signals, size_t n);
WAITS err signals_wait(const int *signals, size_t n, when deadline, int *ret);

struct machine_threads;

/* ---- the machine: all that a simulation must own besides base_seam. ----------------------------------------------- */

/* Every call returns >= 0, or -errno. Disk calls may WAIT in a simulation (the simulated disk takes time), so call them
 * from a task of a thread that may stand still, or through work_run(). */
struct machine {
    int (*sock_open)(int family, int type);     /* non-blocking, close-on-exec, TCP_NODELAY for TCP */
    int (*sock_bind)(int fd, const struct sockaddr *sa, socklen_t n); /* a Unix path: mode 0660; a stale socket is replaced */
    int (*sock_listen)(int fd, int backlog);
    int (*sock_accept)(int fd, struct sockaddr_storage *sa, socklen_t *n);
    int (*sock_connect)(int fd, const struct sockaddr *sa, socklen_t n);    /* -EINPROGRESS: wait writable, ask sock_error */
    int (*sock_error)(int fd);                  /* 0 or -errno pending */
    int (*sock_name)(int fd, bool peer, struct sockaddr_storage *sa, socklen_t *n);
    int (*sock_peer_uid)(int fd, uint32_t *ret); /* whose process a Unix socket's peer was when it connected; NULL: nobody knows */
    int (*sock_option)(int fd, int level, int name, int value);
    ssize_t (*sock_recv)(int fd, void *p, size_t n);
    ssize_t (*sock_send)(int fd, const struct iovec *iov, int n);
    int (*sock_shutdown)(int fd, int how);

    int (*file_open)(int dir, const char *name, int flags, unsigned mode);  /* openat; O_NOFOLLOW and O_CLOEXEC added */
    ssize_t (*file_read)(int fd, void *p, size_t n, uint64_t at);           /* pread */
    ssize_t (*file_read_cached)(int fd, void *p, size_t n, uint64_t at);    /* RWF_NOWAIT: -EAGAIN when not in memory */
    ssize_t (*file_write)(int fd, const struct iovec *iov, int n, uint64_t at); /* pwritev */
    int (*file_sync)(int fd);                   /* fdatasync */
    int (*file_sync_all)(int fd);               /* fsync: for directories */
    int (*file_write_back)(int fd, uint64_t at, size_t n);      /* sync_file_range: onto the disk now rather than in a heap later; promises nothing */
    int64_t (*file_size)(int fd);
    int (*file_truncate)(int fd, uint64_t n);
    int (*file_rename)(int dir, const char *from, const char *to);
    int (*file_unlink)(int dir, const char *name);
    int (*file_link)(int dir, const char *from, const char *to);
    int (*file_make_dir)(int dir, const char *name, unsigned mode);
    /* Calls each(ctx, name) for every entry but . and ..; stops at the first non-zero, which it returns. */
    int (*file_list)(int dir, int (*each)(void *ctx, const char *name), void *ctx);
    int64_t (*file_free)(int dir);              /* bytes left for us on the file system */
    int (*file_lock)(int fd);                   /* exclusive flock, -EWOULDBLOCK when another process has it */

    int (*close)(int fd);

    /* Threads (task/seam.h). The simulator steps every scheduler, pool and post by one seeded chooser. NULL: the real ones. */
    const struct machine_threads *threads;
};
/* The mode of a Unix socket by its path; 0, or -errno. -EPERM: what stands there is none. Not in a simulation. */
int socket_mode(const char *path, unsigned mode);

extern const struct machine *machine;   /* the real one unless a simulator took its place before the first thread */
extern const struct machine machine_linux;

#endif
