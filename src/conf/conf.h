/* conf: the configuration form. Text -> nodes with file:line:column -> structs, by tables that other folders own.
 * Knows the grammar, the types, the diagnostics; knows no option.
 *
 *   name arg ... [{ block }]      newline or ; ends a directive, [ ... ] may span lines, # comments,
 *   include conf.d/ *.conf        "quotes" only for blanks, ${VAR:-default} of the environment, first line `waypost 1`
 *
 * One table drives the parser, `waypost check`, the reload diff, waypost.conf(5) and completion. */
#ifndef CONF_H
#define CONF_H

#include "base/base.h"

/* ---- diagnostics: all errors of a run, in the order of the text. ------------------------------------------------- */

/* Line and column count from 1; column and length count characters, a tab being one. length 0: the directive as a
 * whole, told without its line. `nth` is the file's place in the order of reading. */
struct place { str file; uint32_t line, column, length, nth; str source; /* the whole line */ };
enum severity { CONF_WARNING, CONF_ERROR };
struct diag {
    enum severity severity;
    uint16_t number;                    /* E021: stable, documented in waypost.conf(5) */
    struct place at;
    str text, hint;
};
/* Start one with { .a = arena }. The first DIAGS_KEPT are kept, all are counted. */
struct diags { arena *a; struct diag *p; size_t n, cap; size_t errors, dropped; };
#define DIAGS_KEPT 200
/* `hint` follows below the caret: "did you mean ..." or "". */
void diag_add(struct diags *d, enum severity s, uint16_t number, const struct place *at, str hint, const char *fmt, ...)
    PRINTF(6, 7);
/* file:line:column: error[E021]: text, the source line, a caret with tildes, the hint: as product.md 3.2 shows. */
void diags_print(const struct diags *d, struct buf *out);
void diags_print_json(const struct diags *d, struct buf *out); /* one array of objects */

/* Every number there is: a line each, here and nowhere else. A number once released keeps its meaning for ever; what is
 * no longer told stays as a line. 1 to 19 files and characters, 20 to 49 the form, 100 up the checks of other
 * folders. */
#define CONF_NUMBERS(N) \
    N(UNREADABLE,   1, "an included file cannot be read") \
    N(VERSION,      2, "the first line is not \"waypost 1\"") \
    N(NEWER,        3, "the file is written for a newer waypost") \
    N(CYCLE,        4, "a file includes itself, directly or through others") \
    N(DEPTH,        5, "more than 16 files include one another, or more than 32 blocks stand in one another") \
    N(SIZE,         6, "the files hold more than 64 MiB or 4 million words in all") \
    N(ENCODING,     7, "the text is not UTF-8") \
    N(INVISIBLE,    8, "a control character, an invisible character or a typographic quote") \
    N(QUOTE,        9, "a quote that is not closed on its line, or stands inside a word") \
    N(VARIABLE,    10, "${NAME} is not set in the environment and has no default, or is not written so") \
    N(OPEN,        11, "a { or [ that is never closed") \
    N(CLOSE,       12, "a } or ] without its { or [") \
    N(BLOCK,       13, "a { without a directive in front of it on its line") \
    N(BEHIND,      14, "text behind a } on its line") \
    N(NESTED,      15, "a list inside a list") \
    N(UNKNOWN,     21, "no directive of that name here") \
    N(TWICE,       22, "a directive given twice that may stand once") \
    N(MISSING,     23, "a required directive is not there") \
    N(NOBLOCK,     24, "a { block } behind a directive that takes none") \
    N(ARGUMENTS,   25, "too few or too many arguments") \
    N(KEYWORD,     26, "an argument that is none of the known keywords, stands twice or lacks its value") \
    N(LIST,        27, "a [ list ] where one value is expected") \
    N(SWITCH,      28, "neither on nor off") \
    N(NUMBER,      29, "not a number: 10, 10k, 2M") \
    N(TIME,        30, "not a time: 30s, 5m, 2h, 7d") \
    N(BYTES,       31, "not a size: 25MB, 64KiB") \
    N(RATE,        32, "not a rate: 200/min") \
    N(PERCENT,     33, "not a percentage: 0.3%") \
    N(DOMAIN,      34, "not a domain: example.com, *.example.com") \
    N(WORD,        35, "none of the words allowed here") \
    N(RANGE,       36, "outside of the range allowed") \
    N(EMPTY,       37, "an empty value") \
    N(RECIPIENTS,  44, "a relay_domain does not say which recipients exist: it would accept mail for unknown users") \
    N(NO_BACKEND,  100, "no backend of that name") \
    N(NO_SERVER,   101, "a backend without a server, or with more than 64") \
    N(DUPLICATE,   102, "a name or domain that stands twice") \
    N(OPEN_RELAY,  103, "this would relay for strangers") \
    N(NO_ROUTE,    104, "mail that has no way to go") \
    N(BAD_LIST,    105, "a list that cannot be read, or says what has no effect") \
    N(BAD_ADDRESS, 106, "no valid host, address, port or network") \
    N(BAD_RETRY,   107, "a retry schedule that cannot be followed") \
    N(LISTENER,    108, "a listener that is missing or not understood") \
    N(POSTMASTER,  109, "a postmaster who could not be reached (RFC 5321 4.5.1)") \
    N(HOSTNAME,    110, "a host name that is none") \
    N(BAD_ANCHOR,  111, "trust anchors that cannot be read") \
    N(SECRET,      120, "a secret that is not where it is said to be") \
    N(LITERAL,     121, "a secret in plain text") \
    N(BAD_SOURCE,  122, "a source of recipients that cannot be asked so") \
    N(CLEAR,       123, "a secret or addresses that would cross the network in plain text") \
    N(OUTLET,      124, "a source or pool that mail cannot leave by") \
    N(SOFT_BOUNCE, 125, "soft_bounce is on: what next hops refuse for good is kept and tried again") \
    N(NOT_READABLE, 130, "a file that the relay's own user may not read, or no such user")
enum {
#define N(name, number, meaning) CONF_E_##name = number,
    CONF_NUMBERS(N)
#undef N
};
const char *conf_number(uint16_t number); /* its meaning; NULL: there is no such number */

/* ---- parse ------------------------------------------------------------------------------------------------------- */

/* How text becomes words, beyond the form above:
 * - A # begins a comment only where a word could begin; a word ends at a blank, ; { } and at the ] of its list.
 * - A [ in front of a word is a list, but part of the word in an address: "[::1]:25", "[192.0.2.1]:25".
 * - In quotes \" is a quote, \\ a backslash and \$ a dollar; any other backslash stands for itself.
 * - ${NAME} and ${NAME:-default} stand in words and quotes; what comes out is never cut into words again. The default
 *   is used when NAME is not set or empty.
 * - `waypost 1` must begin the first file and may begin the others. */
struct token {
    str text;
    struct place at;
    bool quoted, list;
    bool env;                           /* some of it stood in the environment */
    struct token *item; size_t nitem;   /* of [ ... ] */
};
struct node {
    struct token name;
    struct token *arg; size_t narg;
    bool block;                         /* had { } */
    bool partial;                       /* part of the block was not understood: say not that anything is missing */
    struct node *child; size_t nchild;
};
/* Read `path` and what it includes (relative to the including file, sorted, cycles refused, depth 16, 64 MiB in all).
 * Problems go to `d`. When d->errors grew, the tree holds what was understood: bind it, so that all errors are told
 * in one run, and use nothing of it. E_NOTFOUND, E_PERM, E_IO only for the first file. `text`: use this instead of
 * reading the file. All in `a`. */
err conf_parse(arena *a, str path, const str *text, struct node *ret, struct diags *d);

/* ---- bind -------------------------------------------------------------------------------------------------------- */

enum conf_type {
    CONF_BOOL,          /* bool: on | off */
    CONF_INT,           /* uint64_t: 10, 10k, 2M */
    CONF_TIME,          /* when: 30s 5m 2h 7d */
    CONF_BYTES,         /* uint64_t: 25MB, 64KiB; MB is 10^6, MiB 2^20, M means MiB */
    CONF_RATE,          /* struct rate: 200/min */
    CONF_PERCENT,       /* double: 0.3% -> 0.003 */
    CONF_STR,           /* str */
    CONF_PATH,          /* str, absolute: relative to the file it stands in */
    CONF_DOMAIN,        /* str: domain or *.domain, lower case */
    CONF_ENUM,          /* int: place in `words` */
    CONF_TIMES,         /* struct times: [ 1m 5m 15m ] */
    CONF_STRS,          /* struct strs: one or more words, or [ ... ] */
    CONF_OWN,           /* `take` does it */
    CONF_BLOCK,         /* a block: `make` gives the struct that `sub` binds into; without `make` it lies at `offset` */
};
struct rate { uint64_t n; when per; };
struct times { when *p; size_t n; };

struct binder;
struct setting {
    const char *name;
    enum conf_type type;
    size_t offset;                      /* in the struct being bound */
    size_t base;                        /* of that struct in a larger one: set by who joins several tables */
    const char *preset;                 /* default, in the form's own words; NULL: none */
    double least, most;                 /* range of numbers, of times in seconds, of fractions; both 0: any */
    const char *const *words;           /* CONF_ENUM; ends in NULL */
    const char *form;                   /* arguments as the manual shows them: "ADDRESS:PORT ..." */
    const char *help;                   /* mdoc-free sentences */
    bool required;
    bool repeats;                       /* OWN, BLOCK, STRS; else twice is an error that cites both lines */
    bool at_start;                      /* a reload does not change it */
    /* CONF_OWN: bind node->arg into the struct at `into`; with a preset, called for that first. A block is refused
     * unless there is `sub`; then `take` binds it (conf_bind) or walks node->child itself. */
    void (*take)(struct binder *b, const struct node *node, void *into);
    /* CONF_BLOCK: make the struct from the arguments; NULL: an error was told, skip the block. */
    void *(*make)(struct binder *b, const struct node *node, void *into);
    const struct setting *sub;          /* ends in { .name = NULL } */
    /* Called after the block was bound; cross checks go here. Not called when part of the block was not understood. */
    void (*done)(struct binder *b, const struct node *node, void *block);
};
struct path_of { const struct token *t; str path; };
struct binder {
    arena *a;
    struct diags *diags;
    void *user;
    struct map *paths;                  /* what relative paths became: token -> struct path_of *; NULL: not wanted */
    const struct setting *root, *now;   /* conf's own: the outermost table, the directive being bound */
};

/* Presets first, then the nodes. Unknown names are errors with a suggestion (edit distance <= 2, or a name of another
 * section). Tells what is missing, and whether the block was understood: true lets a caller's cross checks speak. */
bool conf_bind(struct binder *b, const struct setting *table, const struct node *node, void *into);
/* Bind only presets (for the `--dev` defaults and tests). */
void conf_presets(struct binder *b, const struct setting *table, void *into);

/* For the places of diagnostics. */
struct place conf_whole(const struct node *n); /* the directive as a whole: told without its line */

/* For `take`: one token as a type; false after telling the error. */
bool conf_bool(struct binder *b, const struct token *t, bool *ret);
bool conf_int(struct binder *b, const struct token *t, uint64_t least, uint64_t most, uint64_t *ret);
bool conf_time(struct binder *b, const struct token *t, when *ret);
bool conf_bytes(struct binder *b, const struct token *t, uint64_t *ret);
bool conf_rate(struct binder *b, const struct token *t, struct rate *ret);
bool conf_percent(struct binder *b, const struct token *t, double *ret);
bool conf_str(struct binder *b, const struct token *t, str *ret);       /* any one word, not empty */
bool conf_strs(struct binder *b, const struct node *n, size_t from, struct strs *ret); /* arguments from `from` */
bool conf_word(struct binder *b, const struct token *t, const char *const *words, int *ret); /* its place in `words` */
bool conf_domain(struct binder *b, const struct token *t, str *ret);
bool conf_path(struct binder *b, const struct token *t, str *ret);
/* env:NAME, file:PATH, cred:NAME (a systemd credential), or the secret itself, which warns. At most 2 KiB; a line end behind it is none of it. */
struct secret { str text, file; /* where it was read; "" nowhere */ };
bool conf_secret(struct binder *b, const struct token *t, struct secret *ret);
/* An argument as it may be shown: a secret in plain text, or a password in a URL, is only its fingerprint. In `a`, or as it is. */
str conf_public(arena *a, const struct node *n, size_t arg);
/* Named arguments behind the first `from` ones: "priority 10 weight 2". Each keyword of `words` at most once; value
 * tokens go to value[i] (NULL when absent). An unknown keyword or a missing value is told. */
bool conf_keywords(struct binder *b, const struct node *n, size_t from, const char *const *words,
                   const struct token **value);
bool conf_args(struct binder *b, const struct node *n, size_t least, size_t most); /* tells when the count is wrong */
void conf_error(struct binder *b, const struct place *at, uint16_t number, const char *fmt, ...) PRINTF(4, 5);
void conf_warn(struct binder *b, const struct place *at, uint16_t number, const char *fmt, ...) PRINTF(4, 5);

/* Values for people: the inverse of the parsers, in `a`. */
str conf_print_time(arena *a, when t);
str conf_print_bytes(arena *a, uint64_t n);

/* ---- what else the tables drive ---------------------------------------------------------------------------------- */

/* The options of a table as mdoc(7) for waypost.conf(5): a list item each with form, default, range, help; blocks as
 * subsections. */
void conf_manual(const struct setting *table, struct buf *out);
void conf_manual_numbers(struct buf *out); /* and the diagnostics, a list item each */

/* A tree in the form's own words, a directive a line, in the order of the table: what conf_parse() reads as the same again. Secrets that stand
 * there in plain text become fingerprints of themselves, relative paths what they were bound to. */
struct conf_line {
    str where;                          /* the blocks around it, "backend exchange: ", "" outermost */
    str text;                           /* "max_connections 20 per server", "limits {", "}" */
    unsigned deep;
    bool end;                           /* the } of a block */
    str file; uint32_t line;            /* where it stands; line 0: nowhere, it is a default */
    bool env;                           /* some of it stood in the environment */
};
struct conf_view {
    bool presets;                       /* with what is not given */
    const struct map *paths;            /* of the binder, or NULL */
    /* Called for each; `text` and `where` are good until it returns. False: no more. It may wait. */
    bool (*each)(void *ctx, const struct conf_line *line);
    void *ctx;
};
WAITS void conf_show(const struct setting *table, const struct node *tree, const struct conf_view *v);
/* "file:3", "file:3 and the environment", "default" */
str conf_origin(arena *a, const struct conf_line *line);
/* The other way: lines that conf_show() told, gathered one by one, become a tree again, with the places they had. In the arena of `a`. */
struct gathered { arena *a; struct buf text, lines; };
void conf_gather(struct gathered *g, const struct conf_line *line);
err conf_gathered(struct gathered *g, const struct setting *table, struct node *ret);

/* What differs. Nodes without a line are defaults. */
struct conf_change {
    str where;                          /* as in struct conf_line */
    const struct node *was, *is;        /* NULL: not there */
    bool order;                         /* only the order among those of its name */
    bool at_start;                      /* a reload does not change it */
};
void conf_changes(arena *a, const struct setting *table, const struct node *old, const struct node *now,
                  void (*each)(void *ctx, const struct conf_change *c), void *ctx);
str conf_words(arena *a, const struct node *n);  /* a directive as one line: "server a:25 priority 10", "limits { ... }" */
/* Each as lines "- where: words  # origin" and "+ ...". */
void conf_diff(arena *a, const struct setting *table, const struct node *old, const struct node *now, struct buf *out);

#endif
