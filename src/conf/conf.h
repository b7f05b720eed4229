/* conf: the configuration form. Text -> nodes with file:line:column -> structs, by tables that other folders own.
 * Knows the grammar, the types, the diagnostics; knows no option.
 *
 *   name arg ... [{ block }]      newline or ; ends a directive, [ ... ] may span lines, # comments, "quotes" only for blanks,
 *   include conf.d/ *.conf        ${VAR:-default} from the environment, first line `waypost 1`
 *
 * One table drives the parser, `waypost check`, the reload diff, waypost.conf(5) and completion. */
#ifndef CONF_H
#define CONF_H

#include "base/base.h"

/* ---- diagnostics: all errors of a run, in the order of the text. ---------------------------------------------------- */

struct place { str file; uint32_t line, column, length; str source; /* the whole line */ };
enum severity { CONF_WARNING, CONF_ERROR };
struct diag { enum severity severity; uint16_t number; /* E021: stable, documented in waypost.conf(5) */ struct place at; str text, hint; };
struct diags { arena *a; struct diag *p; size_t n, cap; size_t errors; };
/* `hint` follows below the caret: "did you mean ..." or "". */
void diag_add(struct diags *d, enum severity s, uint16_t number, const struct place *at, str hint, const char *fmt, ...) PRINTF(6, 7);
/* file:line:column: error[E021]: text, the source line, a caret with tildes, the hint: as product.md 3.2 shows. */
void diags_print(const struct diags *d, struct buf *out);
void diags_print_json(const struct diags *d, struct buf *out);

/* ---- parse ------------------------------------------------------------------------------------------------------------ */

struct token { str text; struct place at; bool quoted; bool list; struct token *item; size_t nitem; /* of [ ... ] */ };
struct node {
    struct token name;
    struct token *arg; size_t narg;
    bool block;                         /* had { } */
    struct node *child; size_t nchild;
};
/* Read `path` and what it includes (relative to the including file, sorted, cycles refused, depth 16, 64 MiB in all). Problems go to
 * `d`; the tree is usable when d->errors did not grow. E_NOTFOUND, E_PERM, E_IO only for the first file. `text`: use this instead of
 * reading the file. All in `a`. */
err conf_parse(arena *a, str path, const str *text, struct node *ret, struct diags *d);

/* ---- bind ------------------------------------------------------------------------------------------------------------- */

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
    CONF_BLOCK,         /* a block: `make` gives the struct that `sub` binds into */
};
struct rate { uint64_t n; when per; };
struct times { when *p; size_t n; };

struct binder;
struct setting {
    const char *name;
    enum conf_type type;
    size_t offset;                      /* in the struct being bound */
    const char *preset;                 /* default, in the form's own words; NULL: none */
    double least, most;                 /* range of numbers, times in seconds; both 0: any */
    const char *const *words;           /* CONF_ENUM; ends in NULL */
    const char *form;                   /* arguments as the manual shows them: "ADDRESS:PORT ..." */
    const char *help;                   /* mdoc-free sentences */
    bool required, repeats;             /* twice without `repeats` is an error that cites both lines */
    /* CONF_OWN: bind node->arg (and children) into the struct at `into`. */
    void (*take)(struct binder *b, const struct node *node, void *into);
    /* CONF_BLOCK: make the struct from the arguments; NULL: an error was told, skip the block. */
    void *(*make)(struct binder *b, const struct node *node, void *into);
    const struct setting *sub;          /* ends in { .name = NULL } */
    /* Called after the block was bound; cross checks go here. */
    void (*done)(struct binder *b, const struct node *node, void *block);
};
struct binder { arena *a; struct diags *diags; void *user; };

/* Presets first, then the nodes. Unknown names are errors with a suggestion (edit distance <= 2, or a name of another section). */
void conf_bind(struct binder *b, const struct setting *table, const struct node *node, void *into);
/* Bind only presets (for the `--dev` defaults and tests). */
void conf_presets(struct binder *b, const struct setting *table, void *into);

/* For `take`: one token as a type; false after telling the error. */
bool conf_bool(struct binder *b, const struct token *t, bool *ret);
bool conf_int(struct binder *b, const struct token *t, uint64_t least, uint64_t most, uint64_t *ret);
bool conf_time(struct binder *b, const struct token *t, when *ret);
bool conf_bytes(struct binder *b, const struct token *t, uint64_t *ret);
bool conf_rate(struct binder *b, const struct token *t, struct rate *ret);
bool conf_domain(struct binder *b, const struct token *t, str *ret);
bool conf_path(struct binder *b, const struct token *t, str *ret);
/* Named arguments behind the first `from` ones: "priority 10 weight 2". Each keyword of `words` at most once; value tokens go to
 * value[i] (NULL when absent). An unknown keyword or a missing value is told. */
bool conf_keywords(struct binder *b, const struct node *n, size_t from, const char *const *words, const struct token **value);
bool conf_args(struct binder *b, const struct node *n, size_t least, size_t most); /* tells when the count is wrong */
void conf_error(struct binder *b, const struct place *at, uint16_t number, const char *fmt, ...) PRINTF(4, 5);
void conf_warn(struct binder *b, const struct place *at, uint16_t number, const char *fmt, ...) PRINTF(4, 5);

/* Values for people: the inverse of the parsers, in `a`. */
str conf_print_time(arena *a, when t);
str conf_print_bytes(arena *a, uint64_t n);

/* ---- what else the tables drive --------------------------------------------------------------------------------------- */

/* The options of a table as mdoc(7) for waypost.conf(5): a list item each with form, default, range, help; blocks as subsections. */
void conf_manual(const struct setting *table, struct buf *out);
/* `old` and `new` as bound text trees: a line "name: was -> is  (file:line)" for each difference. */
void conf_diff(arena *a, const struct node *old, const struct node *now, struct buf *out);

#endif
