/* The log of what a relay did to its spool's directory and said to its clients: one file, mapped by every process that adds to
 * it and later by the replayer. Slots are taken in the order of events; what they carry lies behind them.
 *
 * An operation that changes the disk takes its slot before it is begun, one that makes changes durable after it is done, and a
 * 250 before it is sent: so at every cut the disk is never credited with more than it has, and the relay never with less than it said. */
#ifndef CRASH_RECORD_H
#define CRASH_RECORD_H

#include <stdint.h>

enum record_type {
    RECORD_NONE,        /* taken by a process that was killed before it filled it */
    RECORD_CREATE,      /* name -> ino */
    RECORD_RENAME,      /* "from\0to" */
    RECORD_UNLINK,
    RECORD_TRUNCATE,    /* ino, to `at` octets */
    RECORD_WRITE,       /* ino, n octets at `at`; data 0: zeros */
    RECORD_SYNC,        /* ino, of all that was written before slot `at` */
    RECORD_SYNC_DIR,    /* of all names given before slot `at` */
    RECORD_ACK,         /* 250 for the message whose id is the data */
    RECORD_TAKEN,       /* the next hop has the message whose X-Blast-Id is the data, and has not said so yet */
    RECORD_START,       /* a process */
};

struct record {
    uint32_t type;
    uint32_t n;         /* octets */
    uint64_t ns;        /* CLOCK_MONOTONIC */
    uint64_t ino;
    uint64_t at;
    uint64_t data;      /* from the log's beginning */
    int32_t result;
    uint32_t done;      /* the call has returned */
    uint64_t room[2];
};

#define RECORD_SLOTS (UINT64_C(1) << 22)
#define RECORD_BYTES (UINT64_C(6) << 30)

struct record_log {
    uint64_t slots, bytes;              /* taken so far; atomic. The bytes are counted from the log's beginning */
    uint64_t full;
    uint64_t room[61];
    struct record slot[RECORD_SLOTS];
};

#endif
