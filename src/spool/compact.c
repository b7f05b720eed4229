/* Compaction is not there yet (doc/spool.md, What is missing): nothing moves, so nobody is told. */
#include "spool/spool_inside.h"

void spool_moved_done(struct spool_moved *batch) { must(!batch); }
