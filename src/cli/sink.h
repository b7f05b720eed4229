/* Within sink: what was asked of it, what it counts, and one visit of a client. */
#ifndef CLI_SINK_H
#define CLI_SINK_H

#include "cli/cli.h"
#include "smtp/smtp.h"

#include <pthread.h>
#include <stdatomic.h>

#define THREADS_MAX 64
#define RULES_MAX 32

enum stage { AT_GREETING, AT_EHLO, AT_MAIL, AT_RCPT, AT_DATA, AT_DOT, STAGES };

struct rule {
    enum stage at;
    const char *pattern;        /* of a recipient; NULL: any */
    int code;
    str text;
    uint64_t percent;
};

/* The X-Blast-Ids of accepted messages, by their hashes; under the mutex. */
struct ids { uint64_t *slot; size_t n, cap; uint64_t doubled, without; };

struct counts { _Atomic uint64_t connections, messages, recipients, octets, refused, unanswered, bare; };

struct worker {
    struct sink *sink;
    struct thread *thread;
    struct group *group;
    struct post stop;
    struct counts counts;       /* written by this thread alone */
    uint64_t dice;
};

struct sink {
    /* what was asked for */
    when delay[STAGES];
    bool closes[STAGES];
    uint64_t close_after[STAGES];
    struct rule rule[RULES_MAX];
    size_t nrule;
    str offers[16];
    size_t noffers;
    uint64_t max_size, max_mails, octets_a_second, seed, threads;
    bool json, unique, no_ehlo;
    bool lmtp;                  /* RFC 2033: LHLO, and behind the final dot an answer for each recipient */
    const char *count_file, *capture;
    int hash_fd, capture_fd;
    /* what it is doing */
    int *listener;
    size_t nlistener;
    struct worker *worker;
    pthread_mutex_t mutex;
    struct ids ids;
};

struct visit {
    struct worker *w;
    struct server v;
    arena *a;                   /* of the message */
    struct buf body;            /* the message, or the piece of it that is being heard */
    struct buf to;              /* recipients, one a line, for those who want them; by LMTP always */
    str from, id;
    size_t nrcpt;
    bool mail, ehlo;
    struct buf helo;            /* what it called itself, for those who want it */
    uint64_t mails, octets, seen[STAGES];
};

static inline void count(_Atomic uint64_t *n, uint64_t by)
{
    atomic_store_explicit(n, atomic_load_explicit(n, memory_order_relaxed) + by, memory_order_relaxed);
}

struct visit *visit_new(struct worker *w, struct stream *s);
err visit_run(void *visit);             /* a task; frees it */
void visit_free(struct visit *s);
void sink_write(int fd, str s);         /* whole, or the process ends */

#endif
