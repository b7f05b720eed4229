/* Words of JSON, one after the other into a buffer: a comma comes by itself where one belongs. "" as the key: an element of an array. */
#ifndef MAIN_WORDS_H
#define MAIN_WORDS_H

#include "base/base.h"

void add_key(struct buf *b, const char *key);
void add_str(struct buf *b, const char *key, str s);
void add_int(struct buf *b, const char *key, int64_t n);
void add_time(struct buf *b, const char *key, when wall);  /* RFC 3339; 0: null */
void add_id(struct buf *b, const char *key, ulid id);

#endif
