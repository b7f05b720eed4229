/* Whatever is asked: one JSON object with a string "do", or a refusal; no deep recursion on the way. */
#include "kit/kit.h"
#include "main/inside.h"

#include <jansson.h>

FUZZ(data, size)
{
    json_t *got = NULL;

    if (control_parse(str_of((const char *)data, size), &got) != OK) {
        must(!got && err_text().n);
        return;
    }
    must(json_is_object(got) && json_is_string(json_object_get(got, "do")));
    json_decref(got);
}
