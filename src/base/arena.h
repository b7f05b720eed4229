/* Internal to base: what only buf needs of an arena. */
#ifndef BASE_ARENA_H
#define BASE_ARENA_H

#include "base/base.h"

/* `p`, which has room for `old` bytes (NULL: none), with room for `n`: in place where it is the arena's latest, else
 * copied. The new part is not zeroed. */
void *arena_grow(arena *a, void *p, size_t old, size_t n);

#endif
