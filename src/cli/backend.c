/* backend: how the servers of backends are, and who of them shall have no mail. */
#include "cli/cli.h"

#include <jansson.h>
#include <stdio.h>
#include <string.h>

struct shown { arena *a; struct columns c; };

static void server_line(void *ctx, const json_t *line, str text)
{
    struct shown *s = ctx;

    (void)text;
    columns_add(&s->c, json_text(line, "backend"), json_text(line, "server"), json_text(line, "state"),
                tell_count(s->a, json_number(line, "priority")), tell_count(s->a, json_number(line, "weight")),
                tell_count(s->a, json_number(line, "connections")), tell_count(s->a, json_number(line, "busy")),
                tell_us(s->a, json_number(line, "latency_us")), tell_count(s->a, json_number(line, "delivered")),
                tell_count(s->a, json_number(line, "failed")), json_text(line, "reason"));
}

static int backend_list(int argc, char **argv)
{
    AUTO_ARENA a = arena_new();
    AUTO(caller) c = NULL;
    struct relay_at at = { 0 };
    bool json = false;
    const struct flag flags[] = { RELAY_AT_FLAGS(at), { "json", .on = &json }, { NULL } };
    struct shown s = { a, columns_of(a, "BACKEND SERVER STATE >PRIORITY >WEIGHT >CONNS >BUSY >LATENCY >DELIVERED >FAILED REASON") };

    int n = cli_flags(argc, argv, flags);
    if (n != 0)
        return n < 0 ? CLI_USAGE : cli_usage("backend list", "what is \"%s\" for?", argv[1]);
    int code = caller_open(&at, &c);
    if (code == CLI_DONE)
        code = caller_ask(c, json_pack("{s:s}", "do", "backend.list"), json ? caller_print : server_line, &s);
    if (code == CLI_DONE && !json)
        columns_print(&s.c);
    return code;
}

static int backend_change(int argc, char **argv)
{
    AUTO(caller) c = NULL;
    struct relay_at at = { 0 };
    bool json = false;
    const struct flag flags[] = { RELAY_AT_FLAGS(at), { "json", .on = &json }, { NULL } };
    bool drain = strcmp(argv[0], "drain") == 0;

    int n = cli_flags(argc, argv, flags);
    if (n != 2)
        return n < 0 ? CLI_USAGE : cli_usage("backend", "say which: waypost backend %s BACKEND SERVER", argv[0]);
    json_t *r = json_pack("{s:s, s:s, s:s}", "do", drain ? "backend.drain" : "backend.undrain", "backend", argv[1], "server", argv[2]);
    if (!r)
        return cli_usage("backend", "that is no name");
    int code = caller_open(&at, &c);
    if (code != CLI_DONE) {
        json_decref(r);
        return code;
    }
    code = caller_ask(c, r, caller_standing, NULL);
    if (code == CLI_DONE && json)
        printf("{\"action\":\"%s\",\"done\":true}\n", argv[0]);
    else if (code == CLI_DONE)
        printf(drain ? "%s of %s gets no further mail\n" : "%s of %s gets mail again\n", argv[2], argv[1]);
    return code;
}

int cli_backend(int argc, char **argv)
{
    static const struct { const char *name; int (*run)(int argc, char **argv); } what[] = {
        { "list", backend_list }, { "drain", backend_change }, { "undrain", backend_change },
    };

    cli_group = "backend";
    for (size_t i = 0; argc > 1 && i < COUNT(what); i++)
        if (strcmp(argv[1], what[i].name) == 0)
            return what[i].run(argc - 1, argv + 1);
    return cli_usage("backend", "it is `backend list`, `drain` or `undrain`");
}
