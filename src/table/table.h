/* table: one look-up for many sources: found | absent | undecided.
 *
 * A list file is in memory and answers at once. The others are asked: a directory (LDAP), a web service (HTTP), a database (SQLite),
 * a mail server (callout, of deliver/). What they said is kept for all threads, each question is under way once however many wait for it,
 * and while a source is down its last good answers still count for a while. A source that cannot say leaves the question undecided,
 * which is "try later" to whoever asked: it turns neither into "no such user" nor into accepting everybody. */
#ifndef TABLE_H
#define TABLE_H

#include "mail/mail.h"
#include "task/task.h"

enum found { FOUND, ABSENT, UNDECIDED };

struct table;

/* A list file: one entry a line, # comments, blank lines fine:
 *   ann@example.com        exactly this address
 *   @example.com           every address of the domain
 *   sales-*@example.com    a pattern: * is any run of characters but @
 *   @*.example.com         every address of the domains below it
 *   ann                    this local part at any domain asked about
 * Case is ignored. A local part may be quoted. "ann+anything@example.com" is found by "ann@example.com" when `detail`
 * is '+' (0: off). A value may follow after blanks; of equal entries the first counts. At most `max` entries, 10,000
 * patterns, lines of 1,024 octets without control characters. The file is read at once; errors name file:line.
 * 200,000 entries load within 300 ms, 10 million within 15 s and 1 GiB: an open hash of offsets into the text.
 *
 * A path that is open already and did not change is not read again. One that cannot be read any more, is being written, has an error or has
 * become empty is served as it was last read, with a log line, as long as some table of it is open. */
err table_file_open(str path, char detail, size_t max, struct table **ret);
/* Whether it was served as it had been read before when it was opened, and why, for whoever asked for the reload. Empty: it was not. Lives as long as `t`. */
str table_kept(const struct table *t);
void table_free(struct table *t);
AUTO_DEFINE(table)

/* Look `who` up: the closest entry wins, that is the address, the address without its detail, a pattern, the local
 * part, the domain. *value (may be NULL) gets what followed the entry, borrowed from the table; sources that are asked give none.
 * Waits for those at most their `timeout`; E_CANCELED of the caller's group is UNDECIDED. */
WAITS enum found table_find(struct table *t, const struct path *who, str *value);
/* The same; *mute: the source has found that it can never tell (a server that takes any address), so it should not count. */
WAITS enum found table_ask(struct table *t, const struct path *who, str *value, bool *mute);
size_t table_count(const struct table *t);      /* entries; of a source that is asked: answers kept */
/* What it is called, for people: "file /etc/waypost/users", "ldap ldaps://dc1.example.com". In `a`. */
str table_name(const struct table *t, arena *a);
/* Each left side of a list, in lower case, its patterns left out; until `fn` says false. Of a source that is asked: none. */
void table_each(const struct table *t, bool (*fn)(void *ctx, str key), void *ctx);
/* The file changed since it was read (size, mtime or inode). */
bool table_stale(const struct table *t);

/* ---- sources that are asked --------------------------------------------------------------------------------------------------- */

/* Who is asked about, without quotes, control characters or NUL; lower case unless the source is `exact`. */
struct inquiry { str address, local, domain; };

enum said {
    SAID_NOTHING,
    SAID_FOUND, SAID_ABSENT,
    SAID_UNSURE,                /* it was reached, and did not say; err_text() says why */
    SAID_DOWN,                  /* nobody there; err_text() says why. Twice in a row, and it is left alone for 1 s, doubling to 15 s */
    SAID_MUTE,                  /* its answers mean nothing */
};

struct keeping {
    when cache, negative;       /* how long what was found, and what was not, is believed */
    when stale;                 /* how much longer what was found is believed while the source cannot say */
    when timeout;               /* of one look-up */
    uint64_t entries;           /* most answers kept */
};
#define KEEPING_PRESET { .cache = 10 * MINUTE, .negative = MINUTE, .stale = DAY, .timeout = 10 * SECOND, .entries = 100000 }

/* First in a source's own struct, on the heap. */
struct source {
    const char *kind;           /* "ldap" */
    str name;                   /* for people, without secrets */
    str key;                    /* all there is to know of it: two with the same key are one */
    struct keeping keep;
    bool exact;                 /* the case of local parts matters */
    char detail;                /* '+': ann+x is also looked for as ann; 0: off */
    unsigned at_once;           /* most questions under way */
    /* Called in a task of a group whose deadline is `deadline`, at most `at_once` times side by side, from any thread. */
    WAITS enum said (*ask)(struct source *s, const struct inquiry *q, when deadline);
    void (*free)(struct source *s);     /* nothing is under way; everything, name and key too */
};
/* A table of such a source, which it takes over. Where one of the same key is open they become one: what it knows outlives a reload. */
struct table *table_of_source(struct source *s);

/* Ask it about that address now, whatever is kept: does it answer? For `waypost check`. *name: what it is called, borrowed. E_AGAIN: it does not, or
 * says nothing; err_text() says why. OK at once for a list, with an empty name. */
WAITS err table_probe(struct table *t, str address, when deadline, str *name);

struct table_counts { uint64_t asked, kept, joined, stale, undecided; size_t entries, waiting, under_way; bool down; };
struct table_counts table_counts(struct table *t);

/* The openers below check what they are given, and connect to nothing. E_SYNTAX says what is wrong; all is copied. */

/* SQLite: a query with the parameters :address :local :domain; any row is "found". Opened to be read, a query that would write is refused. */
struct sqlite_setup { str path, query; struct keeping keep; };
err table_sqlite_open(const struct sqlite_setup *s, struct table **ret);

/* HTTP: GET of a URL with {address}, {local}, {domain} in it, percent-encoded. 200 is found, unless its body is JSON with "found": false, or JSON that
 * does not say; 404 is absent; anything else, a redirect too, undecided. Addresses inside (attack class 58) are not connected to unless `allow_private`. */
struct http_table { str url, ca, bearer; bool allow_private; struct keeping keep; };
err table_http_open(const struct http_table *s, struct table **ret);

/* LDAP: the first server that answers is asked for entries that fit `filter`, in which %s is the address, %u its local part, %d its domain,
 * escaped (RFC 4515 3), %% a %. */
struct ldap_setup {
    struct strs uri;            /* ldap://host[:port], ldaps://..., ldapi://... */
    str base, filter, bind, password, ca;
    int scope;                  /* 0 base, 1 one, 2 sub */
    bool starttls;
    struct keeping keep;
};
err table_ldap_open(const struct ldap_setup *s, struct table **ret);

#endif
