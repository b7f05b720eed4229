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
/* The same with a pointer to --help; returns CLI_USAGE. */
int cli_usage(const char *verb, const char *fmt, ...) PRINTF(2, 3);

/* "500us", "200ms", "10s", "5m", "2h"; "4096", "4k", "1m". False when it is none. */
bool cli_span(const char *text, when *ret);
bool cli_size(const char *text, uint64_t *ret);
/* "192.0.2.7:25", "[2001:db8::1]:25", "mx.example:25", "unix:/path"; false after saying what is wrong. */
bool cli_addr(const char *verb, const char *text, struct addr *ret);

/* ---- the verbs ---------------------------------------------------------------------------------------------------------- */

int cli_serve(int argc, char **argv);
int cli_check(int argc, char **argv);
int cli_config(int argc, char **argv);
int cli_sink(int argc, char **argv);
int cli_blast(int argc, char **argv);

#endif
