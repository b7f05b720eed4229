/* The disk that a recorded run leaves behind when the power is cut. What was synced is there. Of each write after that any set of its
 * 512-octet sectors may be there, and any set of the names given since the directory was last synced. */
#ifndef CRASH_DISK_H
#define CRASH_DISK_H

#include "crash/record.h"
#include "task/task.h"

#define SECTOR 512u

/* Chance: the same for the same seed, cut and subset. */
struct dice { uint64_t s; };

static inline uint64_t roll(struct dice *d)
{
    uint64_t z = (d->s += UINT64_C(0x9e3779b97f4a7c15));
    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}
static inline bool chance(struct dice *d, unsigned of_256) { return (roll(d) & 255) < of_256; }

static inline const uint8_t *record_data(const struct record_log *log, const struct record *r)
{
    return r->data ? (const uint8_t *)log + r->data : NULL;
}

void disk_open(const struct record_log *log);
/* Let slot i of the log happen. All before it have. */
void disk_step(uint64_t i);
/* In the child that is to recover: cut. `of_256` of what was not synced reached the disk, in pieces of `grain` octets. */
void disk_build(struct dice *d, unsigned of_256, unsigned grain);
/* Put the disk as it is now under the product. */
void disk_machine(struct machine *m);

#endif
