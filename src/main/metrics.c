/* What /metrics tells. Gathered anew at each question; the threads are asked for their part of it (ask.c). */
#include "main/relay.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/statvfs.h>
#include <sys/utsname.h>
#include <unistd.h>

#define GATHER_MOST (2 * SECOND)
#define LANES_MOST 100          /* told apart, all threads together */
#define SERVERS_MOST 500

/* ---- the process: opened before the sandbox closes /proc ---- */

static int memory_fd = -1, fds_fd = -1;

void metrics_prepare(void)
{
    memory_fd = open("/proc/self/statm", O_RDONLY | O_CLOEXEC);
    fds_fd = open("/proc/self/fd", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
}

static double resident_bytes(void)
{
    char text[128];
    ssize_t n = memory_fd >= 0 ? pread(memory_fd, text, sizeof text - 1, 0) : -1;
    unsigned long long all, resident;

    if (n <= 0)
        return -1;
    text[n] = 0;
    return sscanf(text, "%llu %llu", &all, &resident) == 2 ? (double)resident * (double)sysconf(_SC_PAGESIZE) : -1;
}

static double open_fds(void)
{
    int fd = fds_fd >= 0 ? fcntl(fds_fd, F_DUPFD_CLOEXEC, 0) : -1;
    DIR *d = fd >= 0 ? fdopendir(fd) : NULL;
    double n = 0;

    if (!d) {
        if (fd >= 0)
            close(fd);
        return -1;
    }
    rewinddir(d); /* the copy shares its place with the original */
    for (struct dirent *e; (e = readdir(d));)
        n += e->d_name[0] != '.';
    closedir(d);
    return n ? n - 1 : -1; /* the copy is none of the relay's */
}

static void family_one(struct metrics *m, enum metric_kind kind, const char *name, double value, const char *help)
{
    metrics_family(m, kind, name, help);
    metrics_value(m, value, NULL);
}

static void add_process(struct metrics *m, const struct relay *r)
{
    struct rusage u = { 0 };
    struct rlimit l = { 0 };
    double n;

    if (getrusage(RUSAGE_SELF, &u) == 0)
        family_one(m, METRIC_COUNTER, "process_cpu_seconds_total",
                   (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) + (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6,
                   "Processor time, user and system.");
    if ((n = resident_bytes()) >= 0)
        family_one(m, METRIC_GAUGE, "process_resident_memory_bytes", n, "Resident memory.");
    if ((n = open_fds()) >= 0)
        family_one(m, METRIC_GAUGE, "process_open_fds", n, "Open descriptors.");
    if (getrlimit(RLIMIT_NOFILE, &l) == 0)
        family_one(m, METRIC_GAUGE, "process_max_fds", (double)l.rlim_cur, "Descriptors that may be open.");
    family_one(m, METRIC_GAUGE, "process_start_time_seconds", (double)(wall_now() - (clock_now() - r->started)) / SECOND,
               "When this worker process began, in seconds since 1970.");
}

/* ---- counters ---- */

/* "" for mail of no stream. */
static void stream_label(unsigned number, char name[LABEL_TEXT])
{
    str s = stream_name(number);

    snprintf(name, LABEL_TEXT, "%.*s", STR(s));
}

static void add_labelled(struct metrics *m)
{
    static const char *const results[] = { "ended", "lost", "refused" };
    static const struct { const char *name; enum event_kind kind; } outcomes[] = {
        { "delivered", EVENT_DELIVERED }, { "deferred", EVENT_DEFERRED }, { "failed", EVENT_FAILED },
        { "expired", EVENT_EXPIRED }, { "deleted", EVENT_DELETED }, { "unknown", EVENT_UNKNOWN },
        { "handed_on", EVENT_HANDED_ON },
    };
    struct label_count *l = mem_new((LABELS_MOST + 1) * sizeof *l);

    metrics_family(m, METRIC_COUNTER, "waypost_smtp_sessions_total",
                   "SMTP sessions by how they ended: with QUIT, with the line lost or closed by us, or refused at a limit.");
    size_t n = stats_labels(FAMILY_SESSIONS, l, LABELS_MOST + 1);
    for (size_t i = 0; i < n; i++)
        for (size_t k = 0; k < COUNT(results); k++)
            metrics_value(m, (double)l[i].n[k], "listener", l[i].name, "result", results[k], NULL);
    metrics_family(m, METRIC_COUNTER, "waypost_messages_received_total", "Messages accepted (250).");
    n = stats_labels(FAMILY_RECEIVED, l, LABELS_MOST + 1);
    for (size_t i = 0; i < n; i++)
        for (unsigned k = 0; k <= STREAMS_MOST; k++) {
            char name[LABEL_TEXT];
            if (k && !l[i].n[k])
                continue;
            stream_label(k, name);
            metrics_value(m, (double)l[i].n[k], "listener", l[i].name, "stream", name, NULL);
        }
    metrics_family(m, METRIC_COUNTER, "waypost_deliveries_total", "Recipients after a delivery attempt, by backend and outcome.");
    n = stats_labels(FAMILY_DELIVERIES, l, LABELS_MOST + 1);
    for (size_t i = 0; i < n; i++)
        for (size_t k = 0; k < COUNT(outcomes); k++)
            metrics_value(m, (double)l[i].n[outcomes[k].kind], "backend", l[i].name, "outcome", outcomes[k].name, NULL);
    n = stats_labels(FAMILY_SOURCES, l, LABELS_MOST + 1);
    if (n)
        metrics_family(m, METRIC_COUNTER, "waypost_source_deliveries_total", "Recipients after a delivery attempt by a source, by outcome.");
    for (size_t i = 0; i < n; i++)
        for (size_t k = 0; k < COUNT(outcomes); k++)
            metrics_value(m, (double)l[i].n[outcomes[k].kind], "source", l[i].name, "outcome", outcomes[k].name, NULL);
    mem_free(l);
}

static void add_counters(struct metrics *m, const struct stats *s)
{
    for (size_t i = 0; i < COUNTERS; i++) {
        char name[80], help[160];
        snprintf(name, sizeof name, "waypost_%s_total", counter_name[i]);
        snprintf(help, sizeof help, "%c%s.", counter_help[i][0] >= 'a' && counter_help[i][0] <= 'z' ? counter_help[i][0] - 32 : counter_help[i][0],
                 counter_help[i] + 1);
        family_one(m, METRIC_COUNTER, name, (double)s->counter[i], help);
    }
    metrics_family(m, METRIC_HISTOGRAM, "waypost_accept_seconds", "From the end of a message's data to its 250.");
    metrics_histogram(m, &s->accept, NULL, NULL);
    metrics_family(m, METRIC_HISTOGRAM, "waypost_time_to_deliver_seconds", "From a message's 250 to the next hop's, a recipient.");
    metrics_histogram(m, &s->deliver, NULL, NULL);
    for (size_t i = 1, n = 0; i < STATS_STREAMS; i++) {
        char name[LABEL_TEXT];
        if (!s->stream[i].n)
            continue;
        if (n++ == 0)
            metrics_family(m, METRIC_HISTOGRAM, "waypost_stream_time_to_deliver_seconds", "The same of each stream.");
        stream_label((unsigned)i, name);
        metrics_histogram(m, &s->stream[i], "stream", name);
    }
}

/* ---- queue ---- */

struct lanes { struct lane_figures lane[LANES_MOST]; size_t n; uint64_t other[3]; };

static int fullest_first(const void *a, const void *b)
{
    const struct lane_figures *x = a, *y = b;
    uint64_t n = x->n[0] + x->n[1] + x->n[2], k = y->n[0] + y->n[1] + y->n[2];
    return n != k ? (n < k ? 1 : -1) : strcmp(x->name, y->name);
}

/* The lanes of all threads, by name, the fullest first. A lane that is among the fullest of one thread only is partly counted as "other". */
static size_t merge(const struct thread_figures *f, unsigned threads, struct lane_figures *ret)
{
    struct map seen = { 0 };
    size_t n = 0;

    for (unsigned t = 0; t < threads; t++)
        for (size_t i = 0; i < f[t].nlane; i++) {
            const struct lane_figures *l = &f[t].lane[i];
            struct lane_figures *same = map_get(&seen, str_z(l->name));
            if (!same) {
                ret[n] = *l;
                map_put(&seen, str_z(ret[n].name), &ret[n]);
                n++;
                continue;
            }
            for (size_t k = 0; k < COUNT(same->n); k++)
                same->n[k] += l->n[k];
            same->down |= l->down;
        }
    map_free(&seen);
    qsort(ret, n, sizeof *ret, fullest_first);
    return n;
}

static const char *lane_kind_name(enum lane_kind k) { return k == LANE_BACKEND ? "backend" : k == LANE_SITE ? "site" : "domain"; }

static void add_lane(struct metrics *m, const char *name, const char *kind, const uint64_t *n)
{
    static const char *const states[] = { "ready", "waiting", "flying" };

    for (size_t k = 0; k < COUNT(states); k++)
        metrics_value(m, (double)n[k], "lane", name, "kind", kind, "state", states[k], NULL);
}

static void add_queue(struct metrics *m, const struct relay *r, const struct thread_figures *f)
{
    unsigned n = r->nworker;
    struct lane_figures *lane = mem_new(MAX(n * LANES_TOLD, 1u) * sizeof *lane);
    uint64_t other[3] = { 0 }, down = 0, suspended = 0;
    double messages = 0, oldest = 0, memory = 0, sessions = 0, connections = 0;
    when now = wall_now();

    for (unsigned i = 0; i < n; i++) {
        messages += (double)f[i].queue.messages;
        memory += (double)f[i].queue.body_bytes;
        sessions += (double)f[i].sessions;
        connections += (double)f[i].connections;
        if (f[i].queue.oldest)
            oldest = MAX(oldest, (double)(now - f[i].queue.oldest) / SECOND);
        for (size_t k = 0; k < COUNT(other); k++)
            other[k] += f[i].other[k];
        down = MAX(down, f[i].lanes_down);
        suspended = MAX(suspended, f[i].suspended);
    }
    size_t nlane = merge(f, n, lane);
    for (size_t i = LANES_MOST; i < nlane; i++)
        for (size_t k = 0; k < COUNT(other); k++)
            other[k] += lane[i].n[k];
    metrics_family(m, METRIC_GAUGE, "waypost_queue_messages", "Deliveries that wait (a message's recipients that go the same way), by lane.");
    for (size_t i = 0; i < MIN(nlane, (size_t)LANES_MOST); i++)
        add_lane(m, lane[i].name, lane_kind_name(lane[i].kind), lane[i].n);
    if (other[0] || other[1] || other[2])
        add_lane(m, LABEL_OTHER, LABEL_OTHER, other);
    metrics_family(m, METRIC_GAUGE, "waypost_lane_up", "Is the lane open (1), or are all its servers out (0)?");
    for (size_t i = 0; i < MIN(nlane, (size_t)LANES_MOST); i++)
        metrics_value(m, !lane[i].down, "lane", lane[i].name, "kind", lane_kind_name(lane[i].kind), NULL);
    mem_free(lane);
    family_one(m, METRIC_GAUGE, "waypost_lanes_down", (double)down, "Lanes that are down, of the thread that has most of them.");
    family_one(m, METRIC_GAUGE, "waypost_lanes_suspended", (double)suspended, "Lanes that an operator suspended, whether mail waits for them or not.");
    metrics_family(m, METRIC_GAUGE, "waypost_queue_stream_messages", "Deliveries that wait, by stream; \"\": of none.");
    for (unsigned k = 0; k <= STREAMS_MOST; k++) {
        char name[LABEL_TEXT];
        size_t waiting = 0;
        for (unsigned i = 0; i < n; i++)
            waiting += f[i].queue.stream[k];
        stream_label(k, name);
        if (k == 0 || name[0])
            metrics_value(m, (double)waiting, "stream", name, NULL);
    }
    family_one(m, METRIC_GAUGE, "waypost_queue_total_messages", messages, "Messages that wait, all lanes together.");
    family_one(m, METRIC_GAUGE, "waypost_queue_oldest_seconds", oldest, "Age of the oldest message that waits; 0: none does.");
    family_one(m, METRIC_GAUGE, "waypost_queue_memory_bytes", memory, "Bodies that wait in memory.");
    family_one(m, METRIC_GAUGE, "waypost_queue_loading", r->loading, "Is the backlog still being loaded (1)?");
    family_one(m, METRIC_GAUGE, "waypost_open_sessions", sessions, "SMTP sessions now.");
    family_one(m, METRIC_GAUGE, "waypost_open_connections", connections, "Connections to next hops now.");
    metrics_family(m, METRIC_GAUGE, "waypost_thread_up", "Did the thread answer in time (1)?");
    for (unsigned i = 0; i < n; i++) {
        char number[16];
        snprintf(number, sizeof number, "%u", i);
        metrics_value(m, f[i].answered, "thread", number, NULL);
    }
}

/* ---- backends ---- */

/* The label's name, or NULL: it has no source, and so none of the label. */
static const char *source_label(const struct backend *b, char text[OUTLET_NAME + 1])
{
    snprintf(text, OUTLET_NAME + 1, "%.*s", STR(b->outlet ? b->outlet->name : S("")));
    return b->outlet ? "source" : NULL;
}

static void add_servers(struct metrics *m, const struct routes *routes)
{
    size_t left = SERVERS_MOST;

    metrics_family(m, METRIC_GAUGE, "waypost_backend_up", "Does the server of the backend take mail, as far as is known (1)? 0: it is out, or drained.");
    for (size_t i = 0; i < routes->nbackend; i++)
        for (size_t k = 0; !backend_is_pattern(routes->backend[i]) && k < routes->backend[i]->nserver && left; k++, left--) {
            const struct backend *b = routes->backend[i];
            char name[LABEL_TEXT], source[OUTLET_NAME + 1];
            snprintf(name, sizeof name, "%.*s", STR(backend_base_name(b)));
            metrics_value(m, server_in(&b->server[k]), "backend", name, "server", b->server[k].state->key + b->name.n + 1, source_label(b, source), source, NULL);
        }
    left = SERVERS_MOST;
    metrics_family(m, METRIC_GAUGE, "waypost_backend_connections", "Connections to the server of the backend.");
    for (size_t i = 0; i < routes->nbackend; i++)
        for (size_t k = 0; !backend_is_pattern(routes->backend[i]) && k < routes->backend[i]->nserver && left; k++, left--) {
            const struct backend *b = routes->backend[i];
            char name[LABEL_TEXT], source[OUTLET_NAME + 1];
            snprintf(name, sizeof name, "%.*s", STR(backend_base_name(b)));
            metrics_value(m, atomic_load(&b->server[k].state->connections), "backend", name, "server", b->server[k].state->key + b->name.n + 1, source_label(b, source), source, NULL);
        }
}

/* ---- limits ---- */

/* One of them, once; those of a backend for each of its sources have that as another label. */
struct told_limit { const char *label, *name, *source; const struct limit *l; };

static size_t limits_list(const struct routes *r, struct told_limit *ret, size_t most, const char *kind, arena *a)
{
    struct map seen = { 0 };
    size_t n = 0, all = str_eq(str_z(kind), S("network")) ? r->nnetwork : r->nbackend;

    for (size_t i = 0; i < all; i++) {
        const struct backend *b = all == r->nbackend && kind[0] != 'n' ? r->backend[i] : NULL;
        const struct limit *l = b ? b->limit : &r->network[i]->limit;
        for (unsigned k = 0; k < (b ? b->nlimit : 1u) && n < most && !(b && backend_is_pattern(b)); k++) {
            str key = l[k].state ? str_z(l[k].state->key) : S(""), name = key, head;
            if (!str_cut(&name, S(" "), &head) || !str_eq(head, str_z(kind)) || map_get(&seen, key))
                continue;
            map_put(&seen, key, r->backend);
            size_t at = str_findc(name, '@');
            bool apart = at != STR_NONE && kind[0] == 'b';
            ret[n++] = (struct told_limit){ kind, str_cz(a, apart ? str_head(name, at) : name), apart ? str_cz(a, str_from(name, at + 1)) : NULL, &l[k] };
        }
    }
    map_free(&seen);
    return n;
}

static double per_second(const struct limit *l) { return (double)l->rate.n * SECOND / (double)l->rate.per; }
static double in_use(const struct limit *l) { return atomic_load(&l->state->used); }
static double most(const struct limit *l) { return (double)l->connections; }
static double waits(const struct limit *l) { return (double)atomic_load(&l->state->waited); }
static double found_full(const struct limit *l) { return (double)atomic_load(&l->state->full); }

static void add_limits(struct metrics *m, const struct routes *r)
{
    static const char *const kinds[] = { "backend", "source", "network" };
    static const struct { const char *name, *help; bool rate; enum metric_kind kind; double (*value)(const struct limit *l); } families[] = {
        { "rate_limit", "Messages a second that it may get or send, as configured.", true, METRIC_GAUGE, per_second },
        { "rate_waits_total", "How often something waited, or was told to come again, because that was used up.", true, METRIC_COUNTER, waits },
        { "connection_limit", "Connections it may have at a time, as configured.", false, METRIC_GAUGE, most },
        { "connections_in_use", "Connections that count for that limit now.", false, METRIC_GAUGE, in_use },
        { "connection_waits_total", "How often somebody found all of them in use.", false, METRIC_COUNTER, found_full },
    };
    AUTO_ARENA a = arena_new();
    struct told_limit *l = NEW_ARRAY(a, struct told_limit, SERVERS_MOST);

    for (size_t k = 0; k < COUNT(kinds); k++) {
        size_t n = limits_list(r, l, SERVERS_MOST, kinds[k], a);
        for (size_t f = 0; f < COUNT(families) && n; f++) {
            bool any = false;
            char name[80];
            snprintf(name, sizeof name, "waypost_%s_%s", kinds[k], families[f].name);
            for (size_t i = 0; i < n; i++) {
                if (families[f].rate ? !l[i].l->rate.n : !l[i].l->connections)
                    continue;
                if (!any)
                    metrics_family(m, families[f].kind, name, families[f].help);
                any = true;
                metrics_value(m, families[f].value(l[i].l), kinds[k], l[i].name, l[i].source ? "source" : NULL, l[i].source, NULL);
            }
        }
    }
}

/* ---- spool, names, configuration ---- */

static void add_spool(struct metrics *m, const struct relay *r, const struct settings *s)
{
    struct spool_stats sp = spool_stats(r->spool);
    struct spool_syncs syncs = spool_syncs(r->spool);
    AUTO_ARENA a = arena_new();
    struct statvfs fs;

    metrics_family(m, METRIC_HISTOGRAM, "waypost_store_fsync_seconds", "How long the spool's syncs take.");
    metrics_buckets(m, syncs.n, syncs.end, SPOOL_SYNCS, sp.syncs, sp.sync_us_total);
    if (statvfs(str_cz(a, s->spool.dir), &fs) == 0)
        family_one(m, METRIC_GAUGE, "waypost_disk_free_bytes", (double)fs.f_bavail * (double)fs.f_frsize, "Room left on the spool's file system.");
    family_one(m, METRIC_GAUGE, "waypost_spool_writable", spool_room(r->spool) == OK && !sp.intake_stopped, "Is there room for new mail, and can it be written (1)?");
    family_one(m, METRIC_GAUGE, "waypost_spool_intake_stopped", sp.intake_stopped, "Is new mail put off because only the spool's reserve is left (1)?");
    family_one(m, METRIC_GAUGE, "waypost_spool_segments", (double)sp.segments, "Segments in use.");
    family_one(m, METRIC_GAUGE, "waypost_spool_segments_ready", (double)sp.ready, "Segments made ahead of need.");
    family_one(m, METRIC_GAUGE, "waypost_spool_notes_waiting", (double)sp.notes_waiting, "Outcomes not written yet.");
    family_one(m, METRIC_COUNTER, "waypost_spool_condemned_total", (double)sp.condemned, "Segments given up after a failed write or sync.");
    family_one(m, METRIC_COUNTER, "waypost_spool_commits_total", (double)sp.commits, "Commits.");
    family_one(m, METRIC_COUNTER, "waypost_spool_written_bytes_total", (double)sp.bytes, "Octets written.");
    family_one(m, METRIC_COUNTER, "waypost_spool_messages_total", (double)sp.messages, "Messages written.");
    family_one(m, METRIC_COUNTER, "waypost_spool_notes_total", (double)sp.notes, "Outcomes written.");
    family_one(m, METRIC_COUNTER, "waypost_spool_compacted_total", (double)sp.compacted, "Messages copied forward.");
}

static void add_trace(struct metrics *m, const struct relay *r)
{
    struct store_counts c = { 0 };

    if (r->store)
        c = store_counts(r->store);
    family_one(m, METRIC_GAUGE, "waypost_trace_broken", c.broken, "Can the trace store not be written just now (1)?");
    family_one(m, METRIC_COUNTER, "waypost_trace_events_total", (double)c.written, "Events written to the trace store.");
    family_one(m, METRIC_COUNTER, "waypost_trace_events_dropped_total", (double)c.dropped, "Events that the trace store left out.");
    family_one(m, METRIC_COUNTER, "waypost_trace_events_purged_total", (double)c.purged, "Events that the trace store has forgotten.");
    family_one(m, METRIC_GAUGE, "waypost_trace_bytes", (double)c.bytes, "Size of the trace store.");
}

static void add_names(struct metrics *m, const struct relay *r)
{
    struct resolver_counts c = resolver_counts(r->resolver);

    family_one(m, METRIC_COUNTER, "waypost_dns_questions_total", (double)c.questions, "Questions to the resolver.");
    family_one(m, METRIC_COUNTER, "waypost_dns_known_total", (double)c.known, "Questions answered from memory.");
    family_one(m, METRIC_COUNTER, "waypost_dns_joined_total", (double)c.joined, "Questions that waited for an answer asked for already.");
    family_one(m, METRIC_COUNTER, "waypost_dns_failed_total", (double)c.failed, "Questions that nobody could answer.");
    family_one(m, METRIC_GAUGE, "waypost_dns_under_way", (double)c.under_way, "Questions under way.");
    family_one(m, METRIC_GAUGE, "waypost_dns_cache_entries", (double)c.entries, "Answers in memory.");
    family_one(m, METRIC_GAUGE, "waypost_dns_cache_bytes", (double)c.octets, "Memory for answers.");
}

static void add_configuration(struct metrics *m, struct relay *r, const struct settings *s)
{
    struct utsname u = { 0 };
    char release[128];

    uname(&u);
    snprintf(release, sizeof release, "%s %s", u.sysname, u.release);
    metrics_family(m, METRIC_GAUGE, "waypost_build_info", "Always 1.");
    metrics_value(m, 1, "version", WAYPOST_VERSION, "system", release, NULL);
    family_one(m, METRIC_GAUGE, "waypost_config_epoch", (double)s->snapshot.epoch, "Number of the configuration in force; 1 more each reload.");
    family_one(m, METRIC_GAUGE, "waypost_config_reload_failed", __atomic_load_n(&r->reload_failed, __ATOMIC_RELAXED), "Did the last reload fail (1)?");
    family_one(m, METRIC_COUNTER, "waypost_config_reloads_failed_total", __atomic_load_n(&r->reloads_failed, __ATOMIC_RELAXED), "Reloads that failed.");
    struct gateway_seen gateway;
    family_one(m, METRIC_GAUGE, "waypost_one_gateway", gateway_found(&gateway), "Do nearly all sessions come from one private address (1)? Client addresses are lost then.");
    family_one(m, METRIC_GAUGE, "waypost_draining", r->draining, "Is the relay going down (1)?");
}

static void add_incidents(struct metrics *m)
{
    struct incident *in = mem_new(INCIDENTS_MOST * sizeof *in);

    metrics_family(m, METRIC_GAUGE, "waypost_incident", "Incidents that are open, each 1; waypost incidents tells what they are.");
    for (size_t i = 0, n = incidents(in); i < n; i++)
        metrics_value(m, 1, "kind", incident_name[in[i].kind], "subject", in[i].subject, NULL);
    metrics_family(m, METRIC_COUNTER, "waypost_incidents_total", "Incidents that have begun, by kind.");
    for (unsigned k = 0; k < INCIDENT_KINDS; k++)
        metrics_value(m, (double)incidents_begun((enum incident_kind)k), "kind", incident_name[k], NULL);
    mem_free(in);
}

void metrics_answer(struct relay *r, const struct http_question *q, struct http_answer *ret)
{
    struct metrics m = { .open = metrics_open(q->accept) };
    struct thread_figures *f = ask_threads(r, true, clock_now() + GATHER_MOST);
    struct settings *s = relay_newest(r);
    struct stats *sum = mem_new(sizeof *sum);

    stats_sum(sum);
    add_configuration(&m, r, s);
    add_labelled(&m);
    add_counters(&m, sum);
    if (f) /* else the threads are ending, and what they have no more is left out, rather than told as nothing */
        add_queue(&m, r, f);
    add_incidents(&m);
    add_servers(&m, &s->snapshot.routes);
    add_limits(&m, &s->snapshot.routes);
    add_spool(&m, r, s);
    add_trace(&m, r);
    add_names(&m, r);
    add_process(&m, r);
    metrics_end(&m);
    *ret = (struct http_answer){ .status = 200, .type = metrics_type(&m), .body = m.out };
    mem_free(sum);
    mem_free(f);
    snapshot_drop(&s->snapshot);
}
