/* What the simulator's files share. */
#ifndef SIM_INSIDE_H
#define SIM_INSIDE_H

#include "sim/sim.h"

#define SIM_FD 1000             /* descriptors begin here */

struct sock;
struct file;
struct inode;

struct sim_thread { struct thread *t; enum sim_host host; when paused; };
struct sim_pool { struct pool *p; enum sim_host host; };

/* All of it lies on the heap: the program's globals can be put back, and this stays. */
struct sim {
    struct sim_setup setup;
    when now, wall_ahead;
    uint64_t chooser, scenario, device, random; /* states of generators */
    uint64_t hash, steps;
    enum sim_host host;
    struct sim_thread thread[64]; size_t nthread;
    struct sim_pool pool[16]; size_t npool;
    struct heap events;
    bool quiet;                 /* inside sim_tell() */

    struct fd { struct sock *sock; struct file *file; enum sim_host host; } *fd; size_t nfd;
    unsigned descriptors_most, descriptors;

    struct net *net;
    struct names *names;
    struct disk *disk;
    struct image *image;
};
extern struct sim *sim;

uint64_t next_random(uint64_t *state);
static inline uint64_t pick(uint64_t *state, uint64_t n) { return next_random(state) % n; }
when device_between(when least, when most);
void mix(uint64_t x);           /* into the hash */
void mix_bytes(const void *p, size_t n);

int fd_new(struct sock *s, struct file *f);     /* -EMFILE */
void fd_free(int fd);

/* net.c */
void net_begin(void);
void net_end(void);
void net_io_added(struct io *io);
void net_io_deleted(struct io *io);
bool net_can_tell(void);        /* a listener has a client nobody was told of */
void net_tell(void);
void net_crash(enum sim_crash how);
int net_close(struct sock *s);
extern const struct machine net_machine;

/* names.c */
void names_begin(void);
void names_end(void);
void names_crash(void);

/* disk.c */
void disk_begin(void);
void disk_end(void);
void disk_crash(enum sim_crash how);
int disk_close(struct file *f);
extern const struct machine disk_machine;

#endif
