/* Internal to conf. */
#ifndef CONF_BIND_H
#define CONF_BIND_H

#include "conf/conf.h"

/* "write: server ADDRESS:PORT ...", for the directive being bound, as a hint; empty outside. */
str conf_form(struct binder *b);
/* What a token with a relative path in it means. */
void conf_path_note(struct binder *b, const struct token *t, str path);

#endif
