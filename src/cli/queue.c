/* queue, reload, drain: what waits, and what an operator does about it. */
#include "cli/cli.h"

#include <jansson.h>
#include <stdio.h>

#define LIST_MOST 100

struct print { arena *a; struct columns table; when now; size_t n; int64_t count; };

static void set_text(json_t *request, const char *key, const char *value)
{
    if (value)
        json_object_set_new(request, key, json_stringn_nocheck(value, strlen(value)));
}

/* The arguments of a shell need not be UTF-8, and JSON must be. */
static bool are_utf8(int n, char **argv)
{
    uint32_t cp;

    for (int i = 1; i <= n; i++)
        for (str s = str_z(argv[i]); s.n; ) {
            size_t at = utf8_head(s, &cp);
            if (!at)
                return false;
            s = str_from(s, at);
        }
    return true;
}

/* ---- list ---- */

static str tell_next(arena *a, const json_t *line, when now)
{
    str state = json_text(line, "state");
    when next = json_when(line, "next");

    if (str_eq(state, S("flying")))
        return S("in delivery");
    if (!next)
        return S("at its turn");
    return next <= now ? S("now") : str_printf(a, "in %.*s", STR(tell_ago(a, now, next)));
}

static void list_line(void *ctx, const json_t *line, str text)
{
    struct print *p = ctx;

    (void)text;
    columns_add(&p->table, json_text(line, "id"), json_text(line, "domain"), str_printf(p->a, "%lld", (long long)json_number(line, "rcpts")),
                json_text(line, "state"), str_printf(p->a, "%lld", (long long)json_number(line, "attempts")),
                tell_ago(p->a, json_when(line, "accepted"), p->now), tell_next(p->a, line, p->now), json_text(line, "lane"),
                json_text(line, "reason"));
    p->n++;
}

static int queue_list(int argc, char **argv)
{
    AUTO_ARENA a = arena_new();
    AUTO(caller) c = NULL;
    struct relay_at at = { 0 };
    const char *lane = NULL, *domain = NULL;
    uint64_t limit = LIST_MOST;
    bool json = false;
    const struct flag flags[] = { RELAY_AT_FLAGS(at), { "lane", .text = &lane }, { "domain", .text = &domain },
                                  { "limit", .number = &limit }, { "json", .on = &json }, { NULL } };
    struct print p = { .a = a, .now = wall_now(), .table = columns_of(a, "ID DOMAIN >RCPTS STATE >TRIES >AGE NEXT LANE REASON") };

    int n = cli_flags(argc, argv, flags);
    if (n != 0)
        return n < 0 ? CLI_USAGE : cli_usage("queue list", "what is \"%s\" for?", argv[1]);
    int code = caller_open(&at, &c);
    if (code != CLI_DONE)
        return code;
    json_t *r = json_pack("{s:s, s:I}", "do", "queue.list", "limit", (json_int_t)limit);
    set_text(r, "lane", lane);
    set_text(r, "domain", domain);
    code = caller_ask(c, r, json ? caller_print : list_line, &p);
    if (json || code != CLI_DONE)
        return code;
    if (p.n)
        columns_print(&p.table);
    else
        printf("nothing waits\n");
    if (p.n == limit)
        printf("(the first %llu; --limit N shows more)\n", (unsigned long long)limit);
    return CLI_DONE;
}

/* ---- show ---- */

static void show_rcpt(struct print *p, const json_t *r)
{
    str to = json_text(r, "to"), given = json_text(r, "given"), reply = json_text(r, "reply"), remote = json_text(r, "remote");
    str reason = json_text(r, "reason");
    int64_t attempts = json_number(r, "attempts");
    when next = json_when(r, "next"), last = json_when(r, "last");

    printf("  <%.*s>", STR(tell_text(p->a, to)));
    if (given.n && !str_ieq(given, to))
        printf(" (given as <%.*s>)", STR(tell_text(p->a, given)));
    printf("  %.*s", STR(tell_text(p->a, json_text(r, "status"))));
    if (attempts)
        printf(", %lld attempt%s, the last %.*s ago", (long long)attempts, attempts == 1 ? "" : "s", STR(tell_ago(p->a, last, p->now)));
    if (next)
        printf(", next %s%.*s", next > p->now ? "in " : "", STR(next > p->now ? tell_ago(p->a, p->now, next) : S("now")));
    putchar('\n');
    if (reason.n)
        printf("      why    %.*s, since %.*s\n", STR(tell_text(p->a, reason)), STR(tell_ago(p->a, json_when(r, "since"), p->now)));
    if (reply.n && !str_eq(reply, reason))
        printf("      reply  %.*s%s%.*s\n", STR(tell_text(p->a, reply)), remote.n ? "  by " : "", STR(tell_text(p->a, remote)));
}

/* One message: also the last line of a trace. */
void show_message(arena *a, const json_t *line)
{
    struct print p = { .a = a, .now = wall_now() };
    const json_t *rcpt = json_object_get(line, "rcpt");
    str client = json_text(line, "client"), helo = json_text(line, "helo"), listener = json_text(line, "listener");
    when accepted = json_when(line, "accepted");

    printf("%.*s  from <%.*s>, %.*s\n", STR(tell_text(a, json_text(line, "id"))), STR(tell_text(a, json_text(line, "from"))),
           STR(tell_size(a, json_number(line, "size"))));
    printf("accepted %.*s (%.*s ago)", STR(tell_time(a, accepted)), STR(tell_ago(a, accepted, p.now)));
    if (client.n)
        printf(" from %.*s", STR(tell_text(a, client)));
    if (helo.n)
        printf(" (%.*s)", STR(tell_text(a, helo)));
    if (listener.n)
        printf(" at %.*s", STR(tell_text(a, listener)));
    putchar('\n');
    for (size_t i = 0; i < json_array_size(rcpt); i++)
        show_rcpt(&p, json_array_get(rcpt, i));
}

static void show_line(void *ctx, const json_t *line, str text)
{
    (void)text;
    show_message(ctx, line);
}

static int queue_show(int argc, char **argv)
{
    AUTO_ARENA a = arena_new();
    AUTO(caller) c = NULL;
    struct relay_at at = { 0 };
    bool json = false;
    const struct flag flags[] = { RELAY_AT_FLAGS(at), { "json", .on = &json }, { NULL } };

    int n = cli_flags(argc, argv, flags);
    if (n != 1)
        return n < 0 ? CLI_USAGE : cli_usage("queue show", "one message id");
    if (!are_utf8(n, argv))
        return cli_usage("queue show", "that is no message id");
    int code = caller_open(&at, &c);
    return code != CLI_DONE ? code : caller_ask(c, json_pack("{s:s, s:s}", "do", "queue.show", "id", argv[1]), json ? caller_print : show_line, a);
}

/* ---- retry, delete ---- */

static void add_count(void *ctx, const json_t *line, str text)
{
    (void)text;
    *(int64_t *)ctx += json_number(line, "count");
}

static int tell_changed(int64_t n, const char *what)
{
    printf("%lld deliver%s %s\n", (long long)n, n == 1 ? "y" : "ies", what);
    return CLI_DONE;
}

/* Each id by itself: what is unknown of them is said, the others are done. */
static int by_ids(struct caller *c, int n, char **ids, json_t *model, int64_t *count)
{
    int worst = CLI_DONE;

    for (int i = 1; i <= n; i++) {
        json_t *r = json_copy(model);
        set_text(r, "id", ids[i]);
        int code = caller_ask(c, r, add_count, count);
        if (code == CLI_UNREACHABLE)
            return code;
        if (code != CLI_DONE)
            fprintf(stderr, "    (%s)\n", ids[i]);
        worst = MAX(worst, code);
    }
    return worst;
}

static int queue_retry(int argc, char **argv)
{
    AUTO(caller) c = NULL;
    struct relay_at at = { 0 };
    const char *lane = NULL, *domain = NULL;
    bool all = false;
    const struct flag flags[] = { RELAY_AT_FLAGS(at), { "lane", .text = &lane }, { "domain", .text = &domain }, { "all", .on = &all }, { NULL } };
    int64_t count = 0;

    int n = cli_flags(argc, argv, flags);
    if (n < 0)
        return CLI_USAGE;
    if ((n > 0) + (lane || domain) + all != 1)
        return cli_usage("queue retry", "say which: message ids, --lane or --domain, or --all");
    if (!are_utf8(n, argv))
        return cli_usage("queue retry", "that is no message id");
    int code = caller_open(&at, &c);
    if (code != CLI_DONE)
        return code;
    json_t *r = json_pack("{s:s}", "do", "queue.retry");
    if (n > 0) {
        code = by_ids(c, n, argv, r, &count);
        json_decref(r);
    } else {
        set_text(r, "lane", lane);
        set_text(r, "domain", domain);
        json_object_set_new(r, "all", json_boolean(all));
        code = caller_ask(c, r, add_count, &count);
    }
    return code == CLI_DONE || count ? (tell_changed(count, "will be tried now"), code) : code;
}

static int queue_delete(int argc, char **argv)
{
    AUTO(caller) c = NULL;
    struct relay_at at = { 0 };
    const char *reason = NULL;
    bool report = false;
    const struct flag flags[] = { RELAY_AT_FLAGS(at), { "report", .on = &report }, { "reason", .text = &reason }, { NULL } };
    int64_t count = 0;

    int n = cli_flags(argc, argv, flags);
    if (n < 1)
        return n < 0 ? CLI_USAGE : cli_usage("queue delete", "say which: message ids");
    if (!are_utf8(n, argv))
        return cli_usage("queue delete", "that is no message id");
    int code = caller_open(&at, &c);
    if (code != CLI_DONE)
        return code;
    json_t *r = json_pack("{s:s, s:b}", "do", "queue.delete", "report", report);
    set_text(r, "reason", reason);
    code = by_ids(c, n, argv, r, &count);
    json_decref(r);
    return code == CLI_DONE || count ? (tell_changed(count, report ? "deleted, their senders will hear of it" : "deleted"), code) : code;
}

int cli_queue(int argc, char **argv)
{
    static const struct { const char *name; int (*run)(int argc, char **argv); } what[] = {
        { "list", queue_list }, { "show", queue_show }, { "retry", queue_retry }, { "delete", queue_delete },
    };

    for (size_t i = 0; argc > 1 && i < COUNT(what); i++)
        if (strcmp(argv[1], what[i].name) == 0)
            return what[i].run(argc - 1, argv + 1);
    return cli_usage("queue", "it is `queue list`, `show`, `retry` or `delete`");
}

/* ---- reload, drain ---- */

static void reload_line(void *ctx, const json_t *line, str text)
{
    str said = json_text(line, "text");

    (void)text;
    fprintf(stderr, "%.*s", STR(said));
    *(int64_t *)ctx = json_number(line, "epoch");
}

static void ignore_line(void *ctx, const json_t *line, str text) { (void)ctx, (void)line, (void)text; }

static int simple(int argc, char **argv, struct caller **c)
{
    struct relay_at at = { 0 };
    const struct flag flags[] = { RELAY_AT_FLAGS(at), { NULL } };

    int n = cli_flags(argc, argv, flags);
    if (n != 0)
        return n < 0 ? CLI_USAGE : cli_usage(argv[0], "what is \"%s\" for?", argv[1]);
    return caller_open(&at, c);
}

int cli_reload(int argc, char **argv)
{
    AUTO(caller) c = NULL;
    int64_t epoch = 0;

    int code = simple(argc, argv, &c);
    if (code == CLI_DONE)
        code = caller_ask(c, json_pack("{s:s}", "do", "reload"), reload_line, &epoch);
    if (code == CLI_DONE)
        printf("the new configuration is in force (epoch %lld)\n", (long long)epoch);
    return code;
}

int cli_drain(int argc, char **argv)
{
    AUTO(caller) c = NULL;

    int code = simple(argc, argv, &c);
    if (code == CLI_DONE)
        code = caller_ask(c, json_pack("{s:s}", "do", "drain"), ignore_line, NULL);
    if (code == CLI_DONE)
        printf("the relay takes no more mail, and ends when what is under way is done\n");
    return code;
}
