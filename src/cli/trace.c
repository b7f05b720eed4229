/* trace: the story of a message. */
#include "cli/cli.h"

#include <jansson.h>
#include <stdio.h>

struct story { arena *a; char last[ULID_TEXT]; bool any; };

static void add_who(struct story *s, const json_t *e)
{
    str from = json_text(e, "from"), rcpt = json_text(e, "rcpt"), remote = json_text(e, "remote"), source = json_text(e, "source");
    str event = json_text(e, "event");

    if (str_eq(event, S("accepted")) || str_eq(event, S("refused")) || str_eq(event, S("report")))
        printf(" from <%.*s>", STR(tell_text(s->a, from)));
    if (rcpt.n)
        printf(" %s<%.*s>", str_eq(event, S("accepted")) ? "to " : "", STR(tell_text(s->a, rcpt)));
    if (remote.n)
        printf(" by %.*s", STR(tell_text(s->a, remote)));
    if (source.n)
        printf(" from source %.*s", STR(tell_text(s->a, source)));
}

static void add_what(struct story *s, const json_t *e)
{
    str message_id = json_text(e, "message_id"), reply = json_text(e, "reply"), detail = json_text(e, "detail");
    int64_t attempt = json_number(e, "attempt"), size = json_number(e, "size"), took = json_number(e, "took_us");

    if (attempt > 1)
        printf(", attempt %lld", (long long)attempt);
    if (size)
        printf(", %.*s", STR(tell_size(s->a, size)));
    if (took)
        printf(", %.*s", STR(tell_us(s->a, took)));
    if (message_id.n)
        printf(", Message-ID %.*s", STR(tell_text(s->a, message_id)));
    if (detail.n)
        printf(": %.*s", STR(tell_text(s->a, detail)));
    if (reply.n && !str_eq(reply, detail))
        printf(": %.*s", STR(tell_text(s->a, reply)));
    putchar('\n');
}

/* An id of its own line wherever another message begins: a search by address finds many. */
static void add_id(struct story *s, str id)
{
    if (id.n != ULID_TEXT || memcmp(s->last, id.p, ULID_TEXT) == 0)
        return;
    memcpy(s->last, id.p, ULID_TEXT);
    printf("%s%.*s\n", s->any ? "\n" : "", STR(tell_text(s->a, id)));
}

static void story_line(void *ctx, const json_t *e, str text)
{
    struct story *s = ctx;

    (void)text;
    if (json_object_get(e, "rcpt") && json_is_array(json_object_get(e, "rcpt"))) {
        if (s->any)
            printf("\nand what waits of it:\n");
        show_message(s->a, e);
        return;
    }
    add_id(s, json_text(e, "id"));
    when at = json_when(e, "at");
    str event = tell_text(s->a, json_text(e, "event"));
    printf("%.*s.%03d  %-9.*s", STR(tell_time(s->a, at)), (int)(at / MILLISECOND % 1000), STR(event));
    add_who(s, e);
    add_what(s, e);
    s->any = true;
    arena_reset(s->a);
}

int cli_trace(int argc, char **argv)
{
    AUTO_ARENA a = arena_new();
    AUTO(caller) c = NULL;
    struct relay_at at = { 0 };
    struct story s = { .a = a };
    bool json = false;
    const struct flag flags[] = { RELAY_AT_FLAGS(at), { "json", .on = &json }, { NULL } };

    int n = cli_flags(argc, argv, flags);
    if (n != 1)
        return n < 0 ? CLI_USAGE : cli_usage("trace", "one message id, Message-ID or address");
    json_t *r = json_pack("{s:s, s:s}", "do", "trace", "id", argv[1]);
    if (!r)
        return cli_usage("trace", "that is neither an id nor an address");
    int code = caller_open(&at, &c);
    if (code != CLI_DONE) {
        json_decref(r);
        return code;
    }
    return caller_ask(c, r, json ? caller_print : story_line, &s);
}
