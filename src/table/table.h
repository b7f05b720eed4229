/* table: one look-up for many sources: found | absent | undecided. This release reads files; LDAP, HTTP, SQLite and
 * callout will stand beside them behind the same call. */
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
 * 200,000 entries load within 300 ms, 10 million within 15 s and 1 GiB: an open hash of offsets into the text. */
err table_file_open(str path, char detail, size_t max, struct table **ret);
void table_free(struct table *t);
AUTO_DEFINE(table)

/* Look `who` up: the closest entry wins, that is the address, the address without its detail, a pattern, the local
 * part, the domain. *value (may be NULL) gets what followed the entry, borrowed from the table. */
WAITS enum found table_find(struct table *t, const struct path *who, str *value);
size_t table_count(const struct table *t);
/* The file changed since it was read (size, mtime or inode). */
bool table_stale(const struct table *t);

#endif
