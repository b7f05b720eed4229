/* cli: the command line, `waypost VERB ...`. One file a verb or a group of them; one table names them all.
 *
 * Verbs that ask the running relay do so through its control socket: plain blocking calls, no tasks. */
#ifndef CLI_H
#define CLI_H

#include "main/main.h"

/* What every verb exits with. */
enum { CLI_DONE = 0, CLI_NO = 1 /* no, or failed */, CLI_USAGE = 2 /* usage or configuration */, CLI_UNREACHABLE = 3 };

struct cli_verb {
    const char *name;
    const char *help;                   /* one line, for the list */
    const char *form;                   /* its usage: lines that each begin with "waypost" */
    const char *more;                   /* sentences and options for --help, or NULL */
    int (*run)(int argc, char **argv);  /* argv[0] is the verb's name */
};
extern const struct cli_verb cli_verbs[];       /* ends in { .name = NULL } */

/* The whole of main(): find the verb, run it, write stdout out. */
int cli_main(int argc, char **argv);

#define CLI_CONFIG "/etc/waypost/waypost.conf"

/* ---- options ------------------------------------------------------------------------------------------------------------ */

struct flag_values { const char *p[16]; size_t n; };
struct flag {
    const char *name;                   /* "limit" is --limit N or --limit=N; ends the table when NULL */
    char letter;                        /* 'c' is -c FILE; 0: none */
    bool *on;                           /* a switch, or */
    const char **text;                  /* one that takes a value, or */
    uint64_t *number;                   /* one that takes a number, or */
    struct flag_values *many;           /* one that takes a value, and may be given again */
};
/* Take the options out of argv, wherever they stand before "--": what is left are the operands argv[1] to argv[result], NULL
 * behind them. -1 after saying what is wrong. */
int cli_flags(int argc, char **argv, const struct flag *flags);
/* "waypost: ..." on stderr. */
void cli_say(const char *fmt, ...) PRINTF(1, 2);
extern const char *cli_group;           /* of which verb ours is one: "queue"; NULL: of none */
/* The same with a pointer to --help; returns CLI_USAGE. */
int cli_usage(const char *verb, const char *fmt, ...) PRINTF(2, 3);

/* "500us", "200ms", "10s", "5m", "2h"; "4096", "4k", "1m". False when it is none. */
bool cli_span(const char *text, when *ret);
bool cli_size(const char *text, uint64_t *ret);
/* "192.0.2.7:25", "[2001:db8::1]:25", "mx.example:25", "unix:/path"; false after saying what is wrong. */
bool cli_addr(const char *verb, const char *text, struct addr *ret);

/* ---- the running relay, asked through its control socket --------------------------------------------------------------- */

typedef struct json_t json_t;

/* Which relay: the one of a configuration (or of `serve --dev`), or the one behind a socket. */
struct relay_at { const char *config, *socket; bool dev; };
#define RELAY_AT_FLAGS(at) \
    { "config", 'c', .text = &(at).config }, { "socket", .text = &(at).socket }, { "dev", .on = &(at).dev }
#define RELAY_AT_HELP \
    "  -c, --config FILE  the relay that runs on this configuration; " CLI_CONFIG " unless given\n" \
    "  --socket PATH      the relay behind this control socket\n" \
    "  --dev              the one that `waypost serve --dev` runs\n"

/* Where its socket is, in `a`. CLI_USAGE after saying why nobody can tell. */
int relay_socket(arena *a, const struct relay_at *at, str *ret);
struct caller;                          /* one connection */
/* CLI_UNREACHABLE after saying why. */
int caller_open(const struct relay_at *at, struct caller **ret);
void caller_free(struct caller *c);
AUTO_DEFINE(caller)
/* Ask, and hear every line but the last; `text` is the line itself. Takes over `request`. An exit code; what went wrong has been said. */
int caller_ask(struct caller *c, json_t *request, void (*each)(void *ctx, const json_t *line, str text), void *ctx);
/* `each` for what the relay is to know in its next life, too: tells when it will not. */
void caller_standing(void *ctx, const json_t *line, str text);
/* One waiting message as `queue show` prints it. */
void show_message(arena *a, const json_t *line);
/* For --json: the lines as they came. */
void caller_print(void *ctx, const json_t *line, str text);

str json_text(const json_t *object, const char *key);   /* a string member, or {NULL,0} */
int64_t json_number(const json_t *object, const char *key);
when json_when(const json_t *object, const char *key);  /* an RFC 3339 member, wall clock; 0: none */

/* ---- for people -------------------------------------------------------------------------------------------------------- */

/* A table whose columns are as wide as what stands in them. The last one is never padded. */
#define COLUMNS_MOST 12
struct columns { arena *a; size_t n, nrow, cap; bool right[COLUMNS_MOST]; str *cell; };
/* `titles`: "ID DOMAIN >SIZE": a > stands before those that are numbers. */
struct columns columns_of(arena *a, const char *titles);
void columns_add(struct columns *c, ...);               /* one str a column; made printable */
void columns_print(struct columns *c);

str tell_text(arena *a, str s);         /* safe in a terminal: with control bytes, as str_printable() has it; else as it is */
bool time_read(str rfc3339, when *ret); /* in UTC, as time_rfc3339() prints it */
str tell_time(arena *a, when wall);     /* "2026-11-23 18:05:40" */
str tell_ago(arena *a, when wall, when now);    /* "3m 5s"; "-" for 0 */
str tell_size(arena *a, int64_t n);     /* "4.2 KiB" */
str tell_us(arena *a, int64_t us);      /* "1.3 ms" */
str tell_count(arena *a, int64_t n);    /* "12 345" */

/* ---- the verbs ---------------------------------------------------------------------------------------------------------- */

int cli_serve(int argc, char **argv);
int cli_check(int argc, char **argv);
int cli_config(int argc, char **argv);
int cli_completion(int argc, char **argv);
int cli_sink(int argc, char **argv);
int cli_blast(int argc, char **argv);

int cli_reload(int argc, char **argv);
int cli_drain(int argc, char **argv);
int cli_backend(int argc, char **argv);
int cli_explain(int argc, char **argv);
int cli_queue(int argc, char **argv);
int cli_incidents(int argc, char **argv);
int cli_trace(int argc, char **argv);
int cli_stats(int argc, char **argv);
int cli_top(int argc, char **argv);
int cli_spool(int argc, char **argv);
int cli_import(int argc, char **argv);
int cli_dns(int argc, char **argv);

int cli_sendmail(int argc, char **argv);        /* these exit as sysexits.h says, for the programs that call them */
int cli_mailq(int argc, char **argv);
int cli_newaliases(int argc, char **argv);

#endif
