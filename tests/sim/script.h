/* The lines of a transcript, without comments, and with what repeats written out. */
#ifndef SIM_SCRIPT_H
#define SIM_SCRIPT_H

#include "base/base.h"

struct line { unsigned number; str text; };
/* In `a`. False after saying that there is no such file. */
bool script_read(arena *a, const char *path, struct line **ret, size_t *n);

#endif
