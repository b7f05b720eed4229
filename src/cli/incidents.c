/* incidents: what is wrong with more than one message, since when, and what ends it. */
#include "cli/cli.h"

#include <jansson.h>
#include <stdio.h>
#include <string.h>

struct shown { arena *a; size_t n; };

static void incident_line(void *ctx, const json_t *in, str text)
{
    struct shown *s = ctx;
    str kind = json_text(in, "kind"), subject = tell_text(s->a, json_text(in, "subject"));
    str reason = tell_text(s->a, json_text(in, "reason")), recovery = tell_text(s->a, json_text(in, "recovery"));

    (void)text;
    printf("%s%lld  %.*s  %.*s, for %.*s\n", s->n++ ? "\n" : "", (long long)json_number(in, "id"), STR(kind), STR(subject), STR(tell_ago(s->a, json_when(in, "since"), wall_now())));
    printf("    why     %.*s\n", STR(reason));
    printf("    ends    %.*s\n", STR(recovery));
    printf("    keeps   %.*s deliveries wait, %.*s were affected so far\n", STR(tell_count(s->a, json_number(in, "waiting"))), STR(tell_count(s->a, json_number(in, "affected"))));
}

static void ignore_line(void *ctx, const json_t *line, str text) { (void)ctx, (void)line, (void)text; }

static int incidents_close(int argc, char **argv)
{
    AUTO(caller) c = NULL;
    struct relay_at at = { 0 };
    const struct flag flags[] = { RELAY_AT_FLAGS(at), { NULL } };
    uint64_t id;

    int n = cli_flags(argc, argv, flags);
    if (n != 1 || !str_u64(str_z(argv[1]), INT64_MAX, &id))
        return n < 0 ? CLI_USAGE : cli_usage("incidents", "incidents close ID: one of the numbers that `waypost incidents` tells");
    int code = caller_open(&at, &c);
    if (code == CLI_DONE)
        code = caller_ask(c, json_pack("{s:s, s:I}", "do", "incident.close", "id", (json_int_t)id), ignore_line, NULL);
    if (code == CLI_DONE)
        printf("closed; what it kept is tried now\n");
    return code;
}

int cli_incidents(int argc, char **argv)
{
    AUTO_ARENA a = arena_new();
    AUTO(caller) c = NULL;
    struct relay_at at = { 0 };
    bool json = false;
    const struct flag flags[] = { RELAY_AT_FLAGS(at), { "json", .on = &json }, { NULL } };
    struct shown s = { .a = a };

    if (argc > 1 && strcmp(argv[1], "close") == 0)
        return incidents_close(argc - 1, argv + 1);
    int n = cli_flags(argc, argv, flags);
    if (n != 0)
        return n < 0 ? CLI_USAGE : cli_usage("incidents", "it is `incidents` or `incidents close ID`");
    int code = caller_open(&at, &c);
    if (code == CLI_DONE)
        code = caller_ask(c, json_pack("{s:s}", "do", "incident.list"), json ? caller_print : incident_line, &s);
    if (code == CLI_DONE && !json && !s.n)
        printf("no incident is open\n");
    return code;
}
