/* Internal to table. */
#ifndef TABLE_FILE_H
#define TABLE_FILE_H

#include "table/table.h"

/* Make a table of `text`, which it takes over, also on an error; on the heap. `name` is for messages. */
err table_of_text(str name, struct buf *text, char detail, size_t max, struct table **ret);

#endif
