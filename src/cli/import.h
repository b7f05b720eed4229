/* import: another mail server's configuration, read and said again as ours.
 *
 * postfix_conf is what its files say, without judgement: parameters, services, tables. Every file is read as text; nothing is run, and nothing
 * is asked of the network. What became of each line is a *finding*. */
#ifndef IMPORT_H
#define IMPORT_H

#include "base/base.h"

/* ---- findings: what became of a line ------------------------------------------------------------------------------------ */

enum became {
    TRANSLATED,
    PARTLY,             /* and the text says what is missing */
    DECIDE,             /* nobody but the admin can say it */
    NOT_TRANSLATED,
    REFUSED,            /* it would let strangers relay, or take mail nobody asked for */
    NEEDLESS,           /* of Postfix' own build-up; or the way waypost is anyhow */
    BECAME_COUNT
};
struct finding { str file; unsigned line; str name; enum became became; str text; size_t order; };
struct findings { struct finding *p; size_t n, cap; };

/* ---- what Postfix' files say ------------------------------------------------------------------------------------------------ */

struct pf_param { str name, value, file; unsigned line; bool told; };
struct pf_override { str name, value; };
struct pf_service {
    str name, type, command, file;
    unsigned line;
    struct pf_override *override; size_t noverride;
};
struct pf_entry { str key, value, file; unsigned line; };
struct pf_table {
    struct pf_entry *entry; size_t n, cap;
    const struct pf_entry **sorted;     /* by key, the first of equals first */
    str anything;               /* the value of a static: table; else NULL */
    bool partial;               /* some of it could not be read: what is absent here may exist */
};

struct postfix_conf {
    arena *a;
    str dir, root;              /* config_directory; "" or below what absolute paths are looked for */
    struct pf_param *param; size_t nparam, param_cap;
    struct map by_name;         /* the last of each name */
    struct pf_service *service; size_t nservice, service_cap;
    struct findings findings;
};

/* main.cf's text: `name = value`, continued by lines that begin with a blank. In c->a. */
void pf_read_main(struct postfix_conf *c, str file, str text);
/* master.cf's text. */
void pf_read_master(struct postfix_conf *c, str file, str text);
void pf_free(struct postfix_conf *c);      /* what is not in its arena */
/* Both, from the directory; master.cf may be absent. E_NOTFOUND, E_IO. */
err pf_read(struct postfix_conf *c);

bool pf_is_set(const struct postfix_conf *c, str name);
/* The value with its $names put in, or Postfix' own default; _of: a service's -o options come first. In c->a. */
str pf_value(const struct postfix_conf *c, const char *name);
str pf_value_of(const struct postfix_conf *c, const struct pf_service *s, const char *name);
bool pf_yes(const struct postfix_conf *c, const char *name);
/* "5d", "4000s", "300"; `unit`: what a bare number counts. False when it is none. */
bool pf_time(str value, char unit, when *ret);
/* Expand $name, ${name}, $(name), ${name?text}, ${name:text}, ${name?{text}:{text}} and ${{a} == {b} ? {c} : {d}}. */
str pf_expand(const struct postfix_conf *c, str value);

/* The next word of a list: words are parted by blanks and commas, { } and what is in them is one. Without the outer braces. */
bool pf_word(str *rest, str *word);
str pf_path(const struct postfix_conf *c, str path);
err pf_text(struct postfix_conf *c, str path, str *ret);        /* a regular file's text, in c->a */

/* Where it is said, for findings; of a default the file is "" and the line 0. */
void pf_find(struct postfix_conf *c, const char *name, enum became became, const char *fmt, ...) PRINTF(4, 5);
void pf_find_at(struct postfix_conf *c, str file, unsigned line, str name, enum became became, const char *fmt, ...) PRINTF(6, 7);

/* ---- tables ------------------------------------------------------------------------------------------------------------------ */

/* All tables that a value names, one after the other: "hash:/etc/postfix/virtual, inline:{a@b=c}". What cannot be read is told as a finding
 * of `name`, and makes it partial. */
void pf_tables(struct postfix_conf *c, const char *name, str value, struct pf_table *ret);
/* One table's text. Alias files (aliases(5)) have a colon behind the key. cidr: as patterns in order. */
enum pf_form { PF_HASH, PF_ALIASES, PF_CIDR };
void pf_read_table(struct postfix_conf *c, str file, str text, enum pf_form form, struct pf_table *into);
const struct pf_entry *pf_look(const struct pf_table *t, str key);     /* NULL: absent */
/* Names: domains or networks, in the value itself, in "/a/file" or as the keys of a table. */
void pf_names(struct postfix_conf *c, const char *name, struct pf_table *ret);

/* ---- and said as ours --------------------------------------------------------------------------------------------------------- */

struct made_file { str name, text; };
struct made { str config; struct made_file file[8]; size_t nfile, decisions; };
/* A configuration, and the lists it wants beside it. All in c->a. */
void pf_translate(struct postfix_conf *c, struct made *ret);

/* For who grows arrays in an arena: room for one more. */
#define GROW(a, p, n, cap) \
    do { \
        if ((n) == (cap)) { \
            __typeof__(p) more_ = NEW_ARRAY((a), __typeof__(*(p)), MAX(2 * (cap), 8)); \
            if (n) \
                memcpy(more_, (p), (n) * sizeof *(p)); \
            (p) = more_; \
            (cap) = MAX(2 * (cap), 8); \
        } \
    } while (0)

#endif
