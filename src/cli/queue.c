/* queue, reload, drain: what waits, and what an operator does about it. */
#include "cli/cli.h"

#include <jansson.h>
#include <stdio.h>
#include <sys/resource.h>

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

/* ---- which ---- */

struct which { const char *lane, *domain, *sender, *recipient, *tenant, *stream, *why, *older, *id; bool held, all; struct flag_values match; };
#define WHICH_FLAGS(w) \
    { "lane", .text = &(w).lane }, { "domain", .text = &(w).domain }, { "sender", .text = &(w).sender }, { "recipient", .text = &(w).recipient }, \
    { "tenant", .text = &(w).tenant }, { "stream", .text = &(w).stream }, { "why", .text = &(w).why }, { "older", .text = &(w).older }, { "held", .on = &(w).held }, \
    { "match", .many = &(w).match }

/* --match KEY=VALUE is --KEY VALUE. */
static bool which_match(struct which *w)
{
    const struct { const char *key; const char **value; } keys[] = {
        { "lane", &w->lane }, { "domain", &w->domain }, { "sender", &w->sender }, { "recipient", &w->recipient }, { "tenant", &w->tenant }, { "stream", &w->stream },
        { "reason", &w->why }, { "why", &w->why }, { "age", &w->older }, { "older", &w->older }, { "id", &w->id },
    };

    for (size_t i = 0; i < w->match.n; i++) {
        const char *is = strchr(w->match.p[i], '=');
        bool known = false;
        for (size_t k = 0; is && k < COUNT(keys) && !known; k++)
            if (strlen(keys[k].key) == (size_t)(is - w->match.p[i]) && strncmp(keys[k].key, w->match.p[i], (size_t)(is - w->match.p[i])) == 0) {
                *keys[k].value = is + 1;
                known = true;
            }
        if (!known)
            return cli_usage("queue", "--match %s: it is KEY=VALUE with lane, domain, sender, recipient, tenant, stream, reason, age or id", w->match.p[i]), false;
    }
    /* Out of a shell's unset variable comes an empty word, and that must not mean all mail. */
    for (size_t k = 0; k < COUNT(keys); k++)
        if (*keys[k].value && !**keys[k].value)
            return cli_usage("queue", "an empty %s fits nothing%s", keys[k].key, w->sender && !*w->sender ? "; the null sender is \"<>\"" : ""), false;
    return true;
}

static bool which_any(const struct which *w)
{
    return w->lane || w->domain || w->sender || w->recipient || w->tenant || w->stream || w->why || w->older || w->held || w->id;
}

static bool which_into(struct which *w, json_t *r)
{
    when older;

    set_text(r, "lane", w->lane);
    set_text(r, "domain", w->domain);
    set_text(r, "sender", w->sender);
    set_text(r, "recipient", w->recipient);
    set_text(r, "tenant", w->tenant);
    set_text(r, "stream", w->stream);
    set_text(r, "why", w->why);
    set_text(r, "id", w->id);
    if (w->held)
        json_object_set_new(r, "held", json_true());
    if (w->all)
        json_object_set_new(r, "all", json_true());
    if (!w->older)
        return true;
    if (!cli_span(w->older, &older))
        return cli_usage("queue", "\"%s\" is no time: 30m, 4h, 2d", w->older), false;
    json_object_set_new(r, "older_s", json_integer((json_int_t)(older / SECOND)));
    return true;
}

static int queue_list(int argc, char **argv)
{
    AUTO_ARENA a = arena_new();
    AUTO(caller) c = NULL;
    struct relay_at at = { 0 };
    struct which w = { 0 };
    uint64_t limit = LIST_MOST;
    bool json = false;
    const struct flag flags[] = { RELAY_AT_FLAGS(at), WHICH_FLAGS(w), { "limit", .number = &limit }, { "json", .on = &json }, { NULL } };
    struct print p = { .a = a, .now = wall_now(), .table = columns_of(a, "ID DOMAIN >RCPTS STATE >TRIES >AGE NEXT LANE REASON") };

    setpriority(PRIO_PROCESS, 0, 10); /* a million lines are no reason for mail to wait */
    int n = cli_flags(argc, argv, flags);
    if (n != 0)
        return n < 0 ? CLI_USAGE : cli_usage("queue list", "what is \"%s\" for?", argv[1]);
    if (limit == 0)
        return cli_usage("queue list", "--limit 0 shows nothing");
    json_t *r = json_pack("{s:s, s:I}", "do", "queue.list", "limit", (json_int_t)limit);
    int code = which_match(&w) && which_into(&w, r) ? caller_open(&at, &c) : CLI_USAGE;
    if (code != CLI_DONE) {
        json_decref(r);
        return code;
    }
    code = caller_ask(c, r, json ? caller_print : list_line, &p);
    if (json || code != CLI_DONE)
        return code;
    if (p.n)
        columns_print(&p.table);
    else
        printf("nothing waits%s\n", which_any(&w) ? " of that kind" : "");
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

/* ---- retry, hold, release, bounce, delete, reroute ---- */

struct counted { int64_t count; when until; };

static void add_counted(void *ctx, const json_t *line, str text)
{
    struct counted *n = ctx;

    (void)text;
    n->count += json_number(line, "count");
    if (json_when(line, "until"))
        n->until = json_when(line, "until");
}

/* Each id by itself: what is unknown of them is said, the others are done. */
static int by_ids(struct caller *c, int n, char **ids, json_t *model, struct counted *count)
{
    int worst = CLI_DONE;

    for (int i = 1; i <= n; i++) {
        json_t *r = json_copy(model);
        set_text(r, "id", ids[i]);
        int code = caller_ask(c, r, add_counted, count);
        if (code == CLI_UNREACHABLE)
            return code;
        if (code != CLI_DONE)
            fprintf(stderr, "    (%s)\n", ids[i]);
        worst = MAX(worst, code);
    }
    return worst;
}

static const struct { const char *name, *done, *would; } action[] = {
    { "retry", "will be tried now", "would be tried now" }, { "hold", "held", "would be held" }, { "release", "released", "would be released" },
    { "bounce", "returned to their senders", "would be returned to their senders" }, { "delete", "deleted", "would be deleted" },
    { "reroute", "will go the other way", "would go the other way" },
};

/* What was done, or with --dry-run would have been. */
static void tell_counted(arena *a, const struct counted *n, const char *name, const char *done, bool dry_run, bool json)
{
    if (json) {
        printf("{\"action\":\"%s\",\"dry_run\":%s,\"count\":%lld}\n", name, dry_run ? "true" : "false", (long long)n->count);
        return;
    }
    printf("%lld deliver%s %s", (long long)n->count, n->count == 1 ? "y" : "ies", done);
    if (n->until && !dry_run && n->count)
        printf(" until %.*s", STR(tell_time(a, n->until)));
    putchar('\n');
}

static int queue_change(int argc, char **argv)
{
    AUTO_ARENA a = arena_new();
    AUTO(caller) c = NULL;
    struct relay_at at = { 0 };
    struct which w = { 0 };
    const char *reason = NULL, *via = NULL, *length = NULL;
    bool report = false, dry_run = false, json = false;
    const struct flag flags[] = { RELAY_AT_FLAGS(at), WHICH_FLAGS(w), { "all", .on = &w.all }, { "report", .on = &report }, { "reason", .text = &reason },
                                  { "via", .text = &via }, { "for", .text = &length }, { "dry-run", .on = &dry_run }, { "json", .on = &json }, { NULL } };
    struct counted count = { 0 };
    when hold = 0;
    size_t which = 0;

    while (which < COUNT(action) - 1 && strcmp(action[which].name, argv[0]) != 0)
        which++;
    int n = cli_flags(argc, argv, flags);
    if (n < 0 || !which_match(&w))
        return CLI_USAGE;
    if ((n > 0) + which_any(&w) + w.all != 1)
        return cli_usage("queue", "queue %s: say which: message ids, or --match and the like, or --all", argv[0]);
    if (!are_utf8(n, argv))
        return cli_usage("queue", "that is no message id");
    if (strcmp(argv[0], "reroute") == 0 && !via)
        return cli_usage("queue", "queue reroute: --via BACKEND says where to");
    if (length && (!cli_span(length, &hold) || hold < SECOND))
        return cli_usage("queue", "\"%s\" is no time: 30m, 4h, 2d", length);
    json_t *r = json_pack("{s:s, s:s, s:b, s:b}", "do", "queue.change", "action", argv[0], "report", report, "dry_run", dry_run);
    set_text(r, "reason", reason);
    set_text(r, "via", via);
    if (hold)
        json_object_set_new(r, "for_s", json_integer((json_int_t)(hold / SECOND)));
    int code = which_into(&w, r) ? caller_open(&at, &c) : CLI_USAGE;
    if (code != CLI_DONE) {
        json_decref(r);
        return code;
    }
    if (n > 0) {
        code = by_ids(c, n, argv, r, &count);
        json_decref(r);
    } else {
        code = caller_ask(c, r, add_counted, &count);
    }
    if (code == CLI_DONE || count.count)
        tell_counted(a, &count, argv[0], dry_run ? action[which].would : action[which].done, dry_run, json);
    return code;
}

static int lane_change(int argc, char **argv)
{
    AUTO(caller) c = NULL;
    struct relay_at at = { 0 };
    AUTO_ARENA a = arena_new();
    struct which w = { 0 };
    const char *reason = NULL, *length = NULL;
    bool suspend = strcmp(argv[0], "suspend") == 0, dry_run = false, json = false;
    const struct flag flags[] = { RELAY_AT_FLAGS(at), { "lane", .text = &w.lane }, { "match", .many = &w.match }, { "reason", .text = &reason },
                                  { "for", .text = &length }, { "dry-run", .on = &dry_run }, { "json", .on = &json }, { NULL } };
    struct counted count = { 0 };
    when span = 0;

    int n = cli_flags(argc, argv, flags);
    if (n < 0 || !which_match(&w))
        return CLI_USAGE;
    const char *lane = w.lane;
    w.lane = NULL;
    if (n != 0 || !lane || which_any(&w))
        return cli_usage("queue", "queue %s --lane LANE, as `waypost stats` names it: whole lanes are closed; for some of their mail there are hold and release", argv[0]);
    if (length && (!cli_span(length, &span) || span < SECOND))
        return cli_usage("queue", "\"%s\" is no time: 30m, 4h, 2d", length);
    int code = caller_open(&at, &c);
    if (code != CLI_DONE)
        return code;
    if (dry_run) { /* what waits there now */
        code = caller_ask(c, json_pack("{s:s, s:s, s:s, s:b}", "do", "queue.change", "action", "retry", "lane", lane, "dry_run", 1), add_counted, &count);
        if (code == CLI_DONE)
            tell_counted(a, &count, argv[0], suspend ? "would wait" : "would go out, if the lane is suspended", dry_run, json);
        return code;
    }
    json_t *r = json_pack("{s:s}", "do", suspend ? "queue.suspend" : "queue.resume");
    set_text(r, "lane", lane);
    set_text(r, "reason", reason);
    if (span)
        json_object_set_new(r, "for_s", json_integer((json_int_t)(span / SECOND)));
    code = caller_ask(c, r, caller_standing, NULL);
    if (code == CLI_DONE && json)
        printf("{\"action\":\"%s\",\"done\":true}\n", argv[0]);
    else if (code == CLI_DONE)
        printf(suspend ? "nothing goes out by %s until `waypost queue resume --lane %s`%s%s\n" : "mail goes out by %s again\n", lane, lane, length ? ", or for " : "",
               length ? length : "");
    return code;
}

int cli_queue(int argc, char **argv)
{
    static const struct { const char *name; int (*run)(int argc, char **argv); } what[] = {
        { "list", queue_list }, { "show", queue_show }, { "retry", queue_change }, { "hold", queue_change }, { "release", queue_change },
        { "bounce", queue_change }, { "delete", queue_change }, { "reroute", queue_change }, { "suspend", lane_change }, { "resume", lane_change },
    };

    cli_group = "queue";
    for (size_t i = 0; argc > 1 && i < COUNT(what); i++)
        if (strcmp(argv[1], what[i].name) == 0)
            return what[i].run(argc - 1, argv + 1);
    return cli_usage("queue", "it is `queue list`, `show`, `retry`, `hold`, `release`, `bounce`, `delete`, `reroute`, `suspend` or `resume`");
}

/* ---- reload, drain ---- */

static void reload_line(void *ctx, const json_t *line, str text)
{
    str said = json_text(line, "text");

    (void)text;
    fprintf(stderr, "%.*s", STR(said));
    said = json_text(line, "changes");
    printf("%.*s", STR(said));
    *(int64_t *)ctx = json_number(line, "epoch");
}

static void ignore_line(void *ctx, const json_t *line, str text) { (void)ctx, (void)line, (void)text; }

static int simple(int argc, char **argv, struct caller **c, bool *json)
{
    struct relay_at at = { 0 };
    const struct flag flags[] = { RELAY_AT_FLAGS(at), { "json", .on = json }, { NULL } };

    int n = cli_flags(argc, argv, flags);
    if (n != 0)
        return n < 0 ? CLI_USAGE : cli_usage(argv[0], "what is \"%s\" for?", argv[1]);
    return caller_open(&at, c);
}

int cli_reload(int argc, char **argv)
{
    AUTO(caller) c = NULL;
    int64_t epoch = 0;
    bool json = false;

    int code = simple(argc, argv, &c, &json);
    if (code == CLI_DONE)
        code = caller_ask(c, json_pack("{s:s}", "do", "reload"), json ? caller_print : reload_line, &epoch);
    if (code == CLI_DONE && !json)
        printf("the new configuration is in force (epoch %lld)\n", (long long)epoch);
    return code;
}

int cli_drain(int argc, char **argv)
{
    AUTO(caller) c = NULL;

    bool json = false;

    int code = simple(argc, argv, &c, &json);
    if (code == CLI_DONE)
        code = caller_ask(c, json_pack("{s:s}", "do", "drain"), json ? caller_print : ignore_line, NULL);
    if (code == CLI_DONE && !json)
        printf("the relay takes no more mail, and ends when what is under way is done\n");
    return code;
}
