/* Internal to table: list files in memory. A roster is immutable once read, so that many tables may share one. */
#ifndef TABLE_FILE_H
#define TABLE_FILE_H

#include "table/table.h"

struct roster;

/* As table_file_open() says of the file. E_AGAIN: it changed while it was read. */
err roster_read(str path, char detail, size_t max, struct roster **ret);
/* Make one of `text`, which it takes over, also on an error; on the heap. `name` is for messages. */
err roster_of_text(str name, struct buf *text, char detail, size_t max, struct roster **ret);
void roster_free(struct roster *t);
AUTO_DEFINE(roster)
enum found roster_find(struct roster *t, const struct path *who, str *value);
size_t roster_count(const struct roster *t);
/* Each entry's left side, patterns left out, in no order; until `fn` says false. */
void roster_each(const struct roster *t, bool (*fn)(void *ctx, str key), void *ctx);
bool roster_stale(const struct roster *t);

/* A table of such a text, known by no path. */
err table_of_text(str name, struct buf *text, char detail, size_t max, struct table **ret);

#endif
