/* spool: what can be done with a spool directory while no relay runs on it. */
#include "cli/cli.h"
#include "cli/postfix_queue.h"
#include "spool/spool.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

struct bench { str dir; uint64_t size, tasks, keep; when time, until; struct spool_port *port; when *took; size_t n, cap; err failed; bool json; };
struct job { enum { VERIFY, EXPORT, IMPORT, BENCH } what; str dir; struct postfix_queue_job postfix; struct bench bench; struct buf out; uint64_t n; };

/* ---- streams of octets ---- */

static err out_octets(void *ctx, str octets)
{
    (void)ctx;
    return fwrite(octets.p, 1, octets.n, stdout) == octets.n ? OK : fail_errno(errno, "writing");
}

static err in_octets(void *ctx, void *p, size_t n, bool *end)
{
    (void)ctx;
    size_t got = fread(p, 1, n, stdin);
    *end = got == 0;
    if (got != 0 && got != n)
        return fail(E_DAMAGED, "the stream ends in the middle of a message");
    return ferror(stdin) ? fail(E_IO, "reading") : OK;
}

/* ---- bench ---- */

static int by_time(const void *a, const void *b)
{
    when x = *(const when *)a, y = *(const when *)b;
    return x < y ? -1 : x > y;
}

/* One client: a message, its end, and again. */
static err bench_task(void *arg)
{
    struct bench *b = arg;
    AUTO_ARENA a = arena_new();
    struct rcpt rcpt = { .to = S("user@example.com"), .given = S("user@example.com") };

    while (clock_now() < b->until || b->keep) {
        AUTO(spool_slab) slab = spool_slab_new(b->size);
        struct message m = { .id = ulid_new(), .env = { .sender = S("bench@example.org"), .rcpt = &rcpt, .nrcpt = 1 } };
        memset(slab->body.p, 'x', b->size);
        slab->body.n = b->size;
        when before = clock_now();
        err e = spool_accept(b->port, a, &m, slab);
        if (e != OK) {
            b->failed = e;
            return e;
        }
        if (b->n == b->cap) {
            b->cap = MAX(b->cap * 2, 4096);
            b->took = mem_grow(b->took, b->cap * sizeof *b->took);
        }
        b->took[b->n++] = clock_now() - before;
        if (b->keep) {
            b->keep--;
            continue;
        }
        spool_outcome(b->port, m.id, m.at, &(struct rcpt_state){ .status = RCPT_DELIVERED, .version = 1, .reply = S("250 ok") }, 1, true);
        arena_reset(a);
    }
    return OK;
}

static err bench_run(struct bench *b)
{
    struct spool *s;
    struct spool_loaded loaded;
    AUTO_ARENA a = arena_new();

    TRY(spool_open(&(struct spool_setup){ .dir = b->dir }, &s));
    b->port = spool_port_open(s);
    err e = spool_load(s, NULL, NULL, &loaded);
    when begin = clock_now();
    b->until = begin + b->time;
    if (e == OK) {
        AUTO_GROUP g = group_open(NEVER);
        for (uint64_t i = 0; i < b->tasks; i++)
            group_spawn(&g, "bench", bench_task, b);
        e = group_wait(&g);
    }
    when took = MAX(clock_now() - begin, 1);
    if (e == OK)
        e = spool_flush(b->port);
    spool_port_close(b->port);
    struct spool_stats st = spool_stats(s);
    spool_close(s);
    if (e == OK && b->n) {
        qsort(b->took, b->n, sizeof *b->took, by_time);
        int64_t p50 = b->took[b->n / 2], p99 = b->took[b->n * 99 / 100], p999 = b->took[b->n * 999 / 1000], most = b->took[b->n - 1];
        if (b->json)
            printf("{\"messages\":%zu,\"per_second\":%lld,\"p50_us\":%lld,\"p99_us\":%lld,\"p999_us\":%lld,\"max_us\":%lld,\"syncs\":%llu,"
                   "\"sync_mean_us\":%llu,\"sync_max_us\":%llu,\"bytes\":%llu}\n",
                   b->n, (long long)((double)b->n * SECOND / (double)took), (long long)p50, (long long)p99, (long long)p999, (long long)most,
                   (unsigned long long)st.syncs, (unsigned long long)(st.sync_us_total / MAX(st.syncs, 1)), (unsigned long long)st.sync_us_max,
                   (unsigned long long)st.bytes);
        else {
            printf("messages    %zu, %lld a second\n", b->n, (long long)((double)b->n * SECOND / (double)took));
            printf("accept      half within %.*s, 99%% within %.*s,", STR(tell_us(a, p50)), STR(tell_us(a, p99)));
            printf(" 99.9%% within %.*s, longest %.*s\n", STR(tell_us(a, p999)), STR(tell_us(a, most)));
            printf("syncs       %llu, mean %.*s,", (unsigned long long)st.syncs, STR(tell_us(a, (int64_t)(st.sync_us_total / MAX(st.syncs, 1)))));
            printf(" longest %.*s; %.1f messages each\n", STR(tell_us(a, (int64_t)st.sync_us_max)), (double)b->n / (double)MAX(st.syncs, 1));
            printf("written     %.*s\n", STR(tell_size(a, (int64_t)st.bytes)));
        }
    }
    mem_free(b->took);
    return e;
}

/* ---- the verb ---- */

static err job_run(void *arg)
{
    struct job *j = arg;

    switch (j->what) {
    case VERIFY: return spool_verify(j->dir, &j->out);
    case EXPORT: return spool_export(j->dir, out_octets, NULL, &j->n);
    case IMPORT: return j->postfix.queue.n ? postfix_queue_import(&j->postfix) : spool_import(j->dir, in_octets, NULL, &j->n);
    default: return bench_run(&j->bench);
    }
}

/* Root wrote into the spool of another user, whose relay is to read it. By descriptor: that user may put links there meanwhile. */
static err give_back(const char *path)
{
    struct stat of, st;
    DIR *dir = geteuid() == 0 && stat(path, &of) == 0 && of.st_uid != 0 ? opendir(path) : NULL;
    const struct dirent *e;
    int number = 0;

    while (dir && !number && (e = readdir(dir))) {
        int fd = openat(dirfd(dir), e->d_name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
        if (fd < 0)
            continue;
        if (fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && st.st_nlink == 1 && st.st_uid == 0 && fchown(fd, of.st_uid, of.st_gid) < 0)
            number = errno;
        close(fd);
    }
    if (dir)
        closedir(dir);
    return number ? fail_errno(number, "giving the spool's files to the user whose directory it is") : OK;
}

/* Where the mail comes from: the standard input, or the queue that the third operand names. */
static bool import_from(struct job *j, const char *from, const char *queue)
{
    if (from && strcmp(from, "postfix") != 0)
        return cli_usage("spool", "--from %s: it is --from postfix QUEUE_DIRECTORY", from), false;
    if (from && !queue)
        return cli_usage("spool", "--from postfix is followed by Postfix' queue directory, such as /var/spool/postfix"), false;
    if (queue && !from && !postfix_queue_is(str_z(queue)))
        return cli_usage("spool", "%s is no queue of Postfix; what `spool export` wrote comes by the standard input", queue), false;
    j->postfix = (struct postfix_queue_job){ .spool = str_z(j->dir.p), .queue = str_z(queue), .json = j->bench.json };
    return true;
}

static void tell_postfix(const struct postfix_queue_job *p)
{
    if (p->json)
        printf("{\"taken\":%llu,\"recipients\":%llu,\"held\":%llu,\"settled\":%llu,\"known\":%llu,\"refused\":%llu}\n", (unsigned long long)p->taken,
               (unsigned long long)p->rcpts, (unsigned long long)p->held, (unsigned long long)p->settled, (unsigned long long)p->known,
               (unsigned long long)p->refused);
    else
        printf("%llu messages taken with %llu recipients, %llu of them held; %llu were settled, %llu in the spool already, %llu refused\n",
               (unsigned long long)p->taken, (unsigned long long)p->rcpts, (unsigned long long)p->held, (unsigned long long)p->settled,
               (unsigned long long)p->known, (unsigned long long)p->refused);
}

int cli_spool(int argc, char **argv)
{
    const char *size = NULL, *span = NULL, *from = NULL;
    struct job j = { .bench = { .size = 4096, .tasks = 50, .time = 5 * SECOND } };
    const struct flag flags[] = {
        { "size", .text = &size }, { "time", .text = &span }, { "tasks", .number = &j.bench.tasks },
        { "keep", .number = &j.bench.keep }, { "json", .on = &j.bench.json }, { "from", .text = &from }, { NULL },
    };
    static const char *const names[] = { "verify", "export", "import", "bench" };
    int left = cli_flags(argc, argv, flags);
    struct stat st;

    if (left < 0)
        return CLI_USAGE;
    bool import = left >= 2 && strcmp(argv[1], "import") == 0;
    if (left != 2 && !(left == 3 && import))
        return cli_usage("spool", "what is wanted is one of verify, bench, export, import, and a directory");
    for (j.what = VERIFY; strcmp(argv[1], names[j.what]) != 0; j.what++)
        if (j.what == BENCH)
            return cli_usage("spool", "\"%s\" is none of verify, bench, export, import", argv[1]);
    if (size && (!cli_size(size, &j.bench.size) || j.bench.size < 1 || j.bench.size > 16 << 20))
        return cli_usage("spool", "--size %s: 1 to 16m", size);
    if (span && (!cli_span(span, &j.bench.time) || j.bench.time <= 0))
        return cli_usage("spool", "--time %s: a time such as 5s", span);
    if (j.bench.tasks < 1 || j.bench.tasks > 10000)
        return cli_usage("spool", "--tasks: 1 to 10000");
    if ((j.what == VERIFY || j.what == EXPORT) && (stat(argv[2], &st) < 0 || !S_ISDIR(st.st_mode))) {
        cli_say("there is no spool in %s", argv[2]);
        return CLI_NO;
    }
    if (j.what == EXPORT && isatty(1))
        return cli_usage("spool", "export writes octets that are not for a terminal: send them to a file");
    j.dir = j.bench.dir = str_z(argv[2]);
    if ((from || left == 3) && (j.what != IMPORT || !import_from(&j, from, left == 3 ? argv[3] : NULL)))
        return j.what == IMPORT ? CLI_USAGE : cli_usage("spool", "--from is for import");
    err e = task_main(job_run, &j);
    if (j.what == IMPORT) {     /* what came in before an error, too */
        AUTO_ARENA a = arena_new();
        str why = str_dup(a, err_text());
        err given = give_back(argv[2]);
        e = e == OK ? given : fail(e, "%.*s", STR(why));
    }
    if (j.out.n)
        fwrite(j.out.p, 1, j.out.n, stdout);
    buf_free(&j.out);
    if (j.postfix.queue.n)
        tell_postfix(&j.postfix);
    else if (j.what == EXPORT || j.what == IMPORT)
        fprintf(stderr, "%llu messages\n", (unsigned long long)j.n);
    if (e != OK)
        cli_say("%.*s", STR(err_text()));
    return e == OK && !j.postfix.refused ? CLI_DONE : CLI_NO;
}
