/* The store's file. Only store.c includes this. Each handle is used by one thread at a time. */
#ifndef STORE_DB_H
#define STORE_DB_H

#include "stats/inside.h"

#include <sqlite3.h>

struct store_db;
/* E_DAMAGED: it is no good file of ours; E_NOTFOUND (read only): there is none. */
err store_db_open(const char *path, bool read_only, struct store_db **ret);
void store_db_close(struct store_db *db);
/* Between begin and commit; an error leaves nothing of it. E_NOSPACE, E_IO, E_DAMAGED. */
err store_db_begin(struct store_db *db);
err store_db_add(struct store_db *db, const struct stored *s);
err store_db_commit(struct store_db *db);
void store_db_rollback(struct store_db *db);
/* Octets that are used, without the free pages of the file. */
uint64_t store_db_bytes(struct store_db *db);
/* In a transaction: forget up to `most` of the oldest events, those of messages made before `before` (wall clock) or with NEVER any. *n: how many. */
err store_db_purge(struct store_db *db, when before, unsigned most, uint64_t *n);
err store_db_search(struct store_db *db, arena *a, str text, size_t most, ulid **ret, size_t *n);
err store_db_find(struct store_db *db, arena *a, ulid id, void (*each)(void *ctx, const struct event *e), void *ctx);

#endif
