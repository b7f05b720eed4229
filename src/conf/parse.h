/* Internal to conf. */
#ifndef CONF_PARSE_H
#define CONF_PARSE_H

#include "conf/conf.h"

/* One directive of our own making: a preset. It must be well formed. */
void conf_parse_line(arena *a, str text, struct node *ret);
/* Only this text: "include" is a name like another, and ${NAME} nothing but letters. */
err conf_parse_sealed(arena *a, str name, str text, struct node *ret, struct diags *d);

#endif
