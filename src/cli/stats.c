/* stats: how the relay does, at a glance or as it goes. */
#include "cli/cli.h"

#include <jansson.h>
#include <stdio.h>
#include <unistd.h>

#define WATCH_S 2

struct watch { arena *a; json_t *before; when then; bool json; };

#define COUNT_TEXT(a, o, key) tell_count((a), json_number((o), (key)))

/* A counter with how fast it goes, once there is a line to compare with. */
static void counter_line(struct watch *w, const json_t *now, const char *label, const char *key, when passed)
{
    const json_t *counters = json_object_get(now, "counters"), *was = json_object_get(w->before, "counters");
    int64_t n = json_number(counters, key);

    printf("  %-12s %14.*s", label, STR(tell_count(w->a, n)));
    if (was && passed > 0)
        printf("  %10.0f /s", (double)(n - json_number(was, key)) * (double)SECOND / (double)passed);
    putchar('\n');
}

static void times_line(struct watch *w, const json_t *now, const char *label, const char *key)
{
    const json_t *t = json_object_get(now, key);

    if (json_object_get(t, "n") && !json_number(t, "n"))
        return;
    printf("  %-12s %14.*s  p95 %.*s, p99 %.*s\n", label, STR(tell_us(w->a, json_number(t, "p50"))), STR(tell_us(w->a, json_number(t, "p95"))),
           STR(tell_us(w->a, json_number(t, "p99"))));
}

static void print_servers(struct watch *w, const json_t *lanes)
{
    struct columns c = columns_of(w->a, "LANE >READY >WAITING >FLYING STATE SERVER SERVER-STATE >CONNS >LATENCY >DELIVERED REASON");
    when now = wall_now();

    for (size_t i = 0; i < json_array_size(lanes); i++) {
        const json_t *l = json_array_get(lanes, i), *servers = json_object_get(l, "servers");
        str reason = json_text(l, "reason");
        when retry = json_when(l, "retry_at");
        if (retry > now)
            reason = str_printf(w->a, "%.*s (again in %.*s)", STR(reason), STR(tell_ago(w->a, now, retry)));
        for (size_t k = 0; k == 0 || k < json_array_size(servers); k++) {
            const json_t *s = json_array_get(servers, k);
            bool first = k == 0;
            columns_add(&c, first ? json_text(l, "name") : S(""), first ? COUNT_TEXT(w->a, l, "ready") : S(""),
                        first ? COUNT_TEXT(w->a, l, "waiting") : S(""), first ? COUNT_TEXT(w->a, l, "flying") : S(""),
                        first ? json_text(l, "state") : S(""), s ? json_text(s, "host") : S("-"), json_text(s, "state"),
                        s ? COUNT_TEXT(w->a, s, "connections") : S(""), s ? tell_us(w->a, json_number(s, "latency_us")) : S(""),
                        s ? COUNT_TEXT(w->a, s, "delivered") : S(""), first ? reason : S(""));
        }
    }
    if (json_array_size(lanes)) {
        putchar('\n');
        columns_print(&c);
    }
}

static void print_streams(struct watch *w, const json_t *streams)
{
    struct columns c = columns_of(w->a, "STREAM >WEIGHT >WAIT >DELIVERED >P50 >P95 >P99");

    for (size_t i = 0; i < json_array_size(streams); i++) {
        const json_t *s = json_array_get(streams, i), *t = json_object_get(s, "deliver_us");
        columns_add(&c, json_text(s, "name"), COUNT_TEXT(w->a, s, "weight"), COUNT_TEXT(w->a, s, "tickets"), COUNT_TEXT(w->a, t, "n"),
                    tell_us(w->a, json_number(t, "p50")), tell_us(w->a, json_number(t, "p95")), tell_us(w->a, json_number(t, "p99")));
    }
    if (json_array_size(streams)) {
        putchar('\n');
        columns_print(&c);
    }
}

static void print_incidents(struct watch *w, const json_t *all)
{
    for (size_t i = 0; i < json_array_size(all); i++) {
        const json_t *in = json_array_get(all, i);
        str said = json_text(in, "reason"), kind = json_text(in, "kind"), subject = json_text(in, "subject");
        printf("  INCIDENT %lld %.*s %.*s for %.*s: %.*s\n", (long long)json_number(in, "id"), STR(kind), STR(tell_text(w->a, subject)),
               STR(tell_ago(w->a, json_when(in, "since"), wall_now())), STR(tell_text(w->a, said)));
    }
}

static void print_suspended(struct watch *w, const json_t *all)
{
    for (size_t i = 0; i < json_array_size(all); i++) {
        const json_t *s = json_array_get(all, i);
        str lane = json_text(s, "lane"), reason = json_text(s, "reason");
        printf("  %.*s is %.*s; it ends in %.*s\n", STR(tell_text(w->a, lane)), STR(tell_text(w->a, reason)), STR(tell_ago(w->a, wall_now(), json_when(s, "until"))));
    }
}

static void print_stats(struct watch *w, const json_t *now)
{
    static const struct { const char *label, *key; } shown[] = {
        { "accepted", "accepted" }, { "delivered", "delivered" }, { "deferred", "deferred" }, { "failed", "failed" }, { "expired", "expired" },
        { "refused", "refused_rcpts" }, { "attempts", "attempts" }, { "unknown", "unknown" }, { "reports", "reports" },
    };
    const json_t *q = json_object_get(now, "queue"), *sp = json_object_get(now, "spool");
    when at = wall_now(), passed = w->then ? at - w->then : 0, oldest = json_when(q, "oldest");
    int64_t commits = json_number(sp, "commits"), syncs = json_number(sp, "syncs");

    printf("up %.*s, configuration %lld, %.*s sessions, %.*s connections out\n", STR(tell_ago(w->a, 1, 1 + json_number(now, "uptime_s") * SECOND)),
           (long long)json_number(now, "epoch"), STR(COUNT_TEXT(w->a, now, "sessions")), STR(COUNT_TEXT(w->a, now, "connections")));
    printf("%.*s messages wait", STR(COUNT_TEXT(w->a, q, "messages")));
    printf(" (deliveries: %.*s ready, %.*s put off, %.*s in flight)", STR(COUNT_TEXT(w->a, q, "ready")), STR(COUNT_TEXT(w->a, q, "waiting")),
           STR(COUNT_TEXT(w->a, q, "flying")));
    if (oldest)
        printf(", the oldest for %.*s", STR(tell_ago(w->a, oldest, at)));
    printf("%s\n\n", json_number(q, "loading") ? ", the backlog is being loaded" : "");
    for (size_t i = 0; i < COUNT(shown); i++)
        counter_line(w, now, shown[i].label, shown[i].key, passed);
    putchar('\n');
    times_line(w, now, "to accept", "accept_us");
    times_line(w, now, "to deliver", "deliver_us");
    printf("  %-12s %14.*s  in %.*s commits, a sync takes %.*s, the longest %.*s\n", "spool", STR(tell_size(w->a, json_number(sp, "bytes"))),
           STR(tell_count(w->a, commits)), STR(tell_us(w->a, syncs ? json_number(sp, "sync_us_total") / syncs : 0)),
           STR(tell_us(w->a, json_number(sp, "sync_us_max"))));
    if (json_number(sp, "intake_stopped"))
        printf("  THE SPOOL IS FULL: new mail is put off with 452\n");
    str gateway = json_text(now, "one_gateway");
    if (gateway.n)
        printf("  NEARLY ALL SESSIONS COME FROM %.*s: client addresses are lost on the way (see one_gateway in the log)\n", STR(tell_text(w->a, gateway)));
    print_incidents(w, json_object_get(now, "incidents"));
    print_suspended(w, json_object_get(now, "suspended"));
    print_streams(w, json_object_get(now, "streams"));
    print_servers(w, json_object_get(now, "lanes"));
}

static void stats_line(void *ctx, const json_t *line, str text)
{
    struct watch *w = ctx;

    (void)text;
    print_stats(w, line);
    json_decref(w->before);
    w->before = json_deep_copy(line);
    w->then = wall_now();
    arena_reset(w->a);
}

int cli_stats(int argc, char **argv)
{
    AUTO_ARENA a = arena_new();
    AUTO(caller) c = NULL;
    struct relay_at at = { 0 };
    struct watch w = { .a = a };
    bool watch = false, screen = isatty(STDOUT_FILENO);
    const struct flag flags[] = { RELAY_AT_FLAGS(at), { "json", .on = &w.json }, { "watch", .on = &watch }, { NULL } };

    int n = cli_flags(argc, argv, flags);
    if (n != 0)
        return n < 0 ? CLI_USAGE : cli_usage("stats", "what is \"%s\" for?", argv[1]);
    int code = caller_open(&at, &c);
    while (code == CLI_DONE) {
        if (watch && screen && !w.json)
            printf("\033[H\033[2J");
        code = caller_ask(c, json_pack("{s:s}", "do", "stats"), w.json ? caller_print : stats_line, &w);
        fflush(stdout);
        if (!watch || ferror(stdout))
            break;
        if (!w.json && !screen)
            putchar('\n');
        sleep(WATCH_S);
    }
    json_decref(w.before);
    return code;
}
