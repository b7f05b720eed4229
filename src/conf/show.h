/* Internal to conf. */
#ifndef CONF_SHOW_H
#define CONF_SHOW_H

#include "conf/conf.h"

void conf_add_word(struct buf *out, const struct token *t); /* as the parser would read it again */

#endif
