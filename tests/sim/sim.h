/* sim: a machine of our own making. Clock, network, disk and threads are stepped by one chooser with a seed, on one pthread:
 * the same seed is the same run, to the last octet, which sim_hash() proves.
 *
 *   sim_begin(&(struct sim_setup){ .seed = 7 });
 *   sim_thread(SIM_RELAY, "relay", relay_main, &r);
 *   sim_thread(SIM_OUTSIDE, "clients", clients_main, &c);
 *   while (sim_step())
 *       ...;
 *   sim_end();
 *
 * There are hosts. All that a thread opens or starts belongs to its host; SIM_RELAY is the one that can be crashed. Between
 * two steps the simulator may look at everything and change anything: it all happens on one pthread. */
#ifndef SIM_H
#define SIM_H

#include "net/net.h"
#include "task/seam.h"

enum sim_host { SIM_OUTSIDE, SIM_RELAY };

/* ---- the whole ------------------------------------------------------------------------------------------------------ */

struct sim_setup {
    uint64_t seed;
    bool trace;                 /* tell each event on stderr */
    bool unrest;                /* threads stand still now and then, as on a busy machine */
    when wall;                  /* wall clock at the start; 0: some day in November 2026 */
};
void sim_begin(const struct sim_setup *setup);  /* once a process: what tasks and maps learn stays */
void sim_end(void);             /* every thread was joined or dropped */
struct thread *sim_thread(enum sim_host host, const char *name, task_fn *fn, void *arg);
struct thread *sim_thread_at(size_t i); /* all of them, in order of their start; NULL behind the last */
/* One step of whatever can move; when nothing can, the clock moves. False when nothing ever will. */
bool sim_step(void);
/* Step until then, or until nothing moves. */
void sim_until(when moment);
uint64_t sim_hash(void);        /* of all that happened so far */
uint64_t sim_steps(void);
void sim_wall_jump(when by);

/* The choices of a scenario, apart from those of the chooser: a step more there changes nothing here. */
uint64_t sim_random(uint64_t n);        /* 0 <= result < n */
when sim_between(when least, when most);
bool sim_chance(unsigned n);    /* one in n */

/* A line of the run's story: hashed, and shown in a trace. */
void sim_tell(const char *fmt, ...) PRINTF(1, 2);
bool sim_tracing(void);

/* Whose calls of the machine are made now, by who is no thread. Returns who it was. */
enum sim_host sim_act_as(enum sim_host host);

/* ---- events: what happens at a moment, outside all threads. ----------------------------------------------------------- */

struct sim_event { struct heap_entry at; void (*run)(struct sim_event *e); };
void sim_at(struct sim_event *e, when moment);  /* or moves it */
void sim_cancel(struct sim_event *e);

/* ---- network --------------------------------------------------------------------------------------------------------- */

/* How octets travel. What is under way when this changes goes on as it began. */
enum sim_pieces { SIM_WHOLE, SIM_OCTETS /* one by one */, SIM_RANDOM };
struct sim_network {
    when latency_least, latency_most;   /* one way */
    enum sim_pieces pieces;
    size_t buffer;              /* octets a direction takes before send() is told to wait; 0: 64 KiB */
    struct addr missing;        /* no machine has this address: binding to it fails; n 0: none */
    bool reset_loses;           /* a reset takes what was not read yet with it, as on some systems */
};
struct sim_network *sim_network(void);  /* in force; change it at will */
/* No packet comes to or from this address (the port is ignored) until it is heard again; who speaks to it waits, and
 * gives up after a quarter of an hour. */
void sim_silence(const struct addr *a, bool silent);
/* Answer every connection attempt to this address and port with a reset, listening or not. */
void sim_refuse(const struct addr *a, bool refuse);
void sim_reset(int fd);         /* the other side sees a reset; fd is to be closed all the same */
bool sim_peer_gone(int fd);     /* the other end was closed, or its machine crashed */
size_t sim_unread(int fd);      /* octets that arrived at fd and were not read yet */
size_t sim_connections(const struct addr *to);  /* established, to this listening address */
unsigned sim_descriptors_open(void);    /* of the relay */
void sim_descriptors(unsigned most);    /* sockets and files the relay may have open; 0: no limit */

/* ---- names ----------------------------------------------------------------------------------------------------------- */

/* What the relay's resolver hears, in the place of libunbound: a zone of the scenario's own. A name without any record is not there. */
struct sim_names {
    when delay_least, delay_most;       /* of an answer */
    unsigned servfail, bogus, silent;   /* one answer in so many; 0: never. silent: SERVFAIL, after one to two minutes */
    bool dead;                          /* SERVFAIL, always */
};
struct sim_names *sim_names(void);      /* in force; change it at will */
/* One record more, of a type as dns/seam.h numbers them; `ttl` of the last one counts. */
void sim_record(const char *name, uint16_t type, str rdata, uint32_t ttl, bool secure);
void sim_address(const char *name, const struct addr *a);
void sim_no_name(const char *name);     /* away with its records */
void sim_hosts(str text);               /* its hosts file; {NULL,0}: there is none */
unsigned sim_questions(void);           /* asked so far */

/* ---- disk ------------------------------------------------------------------------------------------------------------- */

/* The relay's one file system. What was written and not synced is kept sector by sector (512 octets) by a crash, or not; so
 * are names not synced by their directory. A sync that failed leaves sectors that read as written until they are
 * forgotten, and that no later sync writes. */
struct sim_disk {
    when sync_least, sync_most; /* how long a sync takes */
    when read_most;             /* how long a read takes that is not in memory */
    unsigned cold;              /* percent of reads that are not */
    uint64_t size;              /* octets in all; 0: no end */
    unsigned write_fails, sync_fails, write_short; /* one in so many; 0: never */
    bool full;                  /* no octet more, whatever `size` says */
    bool broken;                /* every write and sync fails */
};
struct sim_disk *sim_disk(void);
uint64_t sim_disk_used(void);
/* Change one octet of a file behind everyone's back. False: it has no such octet. */
bool sim_disk_damage(const char *path, uint64_t at);

/* ---- crashes ----------------------------------------------------------------------------------------------------------- */

enum sim_crash { SIM_KILL /* the process: the system lives on */, SIM_POWER /* all of it */ };
/* End all threads of the relay's host where they stand. Its connections end: by kernel's word (SIM_KILL), or not at all until it
 * is back and somebody speaks to it (SIM_POWER). SIM_POWER also takes of the disk what was not synced. Not from a task. The globals of
 * the program are as they were at sim_begin(), as in a new process. */
void sim_crash(enum sim_crash how);

#endif
