/* explain: why a recipient is taken or refused, and where its mail would go. */
#include "cli/cli.h"

#include <jansson.h>
#include <stdio.h>
#include <string.h>

struct shown { arena *a; bool taken; };

static void step_line(void *ctx, const json_t *line, str text)
{
    struct shown *s = ctx;
    str what = json_text(line, "what"), said = json_text(line, "text");

    (void)text;
    printf("%-11.*s %.*s\n", STR(what), STR(tell_text(s->a, said)));
    if (str_eq(what, S("answer")))
        s->taken = str_starts(said, S("2"));
}

static void json_line(void *ctx, const json_t *line, str text)
{
    struct shown *s = ctx;

    caller_print(NULL, line, text);
    if (str_eq(json_text(line, "what"), S("answer")))
        s->taken = str_starts(json_text(line, "text"), S("2"));
}

int cli_explain(int argc, char **argv)
{
    AUTO_ARENA a = arena_new();
    AUTO(caller) c = NULL;
    struct relay_at at = { 0 };
    struct shown s = { a, false };
    const char *from = "", *client = "192.0.2.1", *user = "", *listener = "";
    bool json = false;
    const struct flag flags[] = { RELAY_AT_FLAGS(at), { "from", .text = &from }, { "client", .text = &client }, { "user", .text = &user },
                                  { "listener", .text = &listener }, { "json", .on = &json }, { NULL } };

    int n = cli_flags(argc, argv, flags);
    if (n < 0)
        return CLI_USAGE;
    if (n != 2 || strcmp(argv[1], "rcpt") != 0)
        return cli_usage("explain", "it is: waypost explain rcpt ADDRESS");
    json_t *r = json_pack("{s:s, s:s, s:s, s:s, s:s, s:s}", "do", "explain.rcpt", "rcpt", argv[2], "from", from, "client", client, "login", user, "listener", listener);
    if (!r)
        return cli_usage("explain", "that is no address");
    int code = caller_open(&at, &c);
    if (code != CLI_DONE) {
        json_decref(r);
        return code;
    }
    code = caller_ask(c, r, json ? json_line : step_line, &s);
    return code != CLI_DONE ? code : s.taken ? CLI_DONE : CLI_NO;
}
