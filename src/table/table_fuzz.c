/* Whatever the list, reading it ends, and each plain entry of it is found. The first byte is the detail character. */
#include "kit/kit.h"
#include "table/table.h"
#include "table/file.h"

static struct path path_of(str text)
{
    struct path p = { .text = text, .local = text };
    size_t at = str_findc(text, '@');
    if (at != STR_NONE) {
        p.local = str_head(text, at);
        p.domain = str_from(text, at + 1);
    }
    return p;
}

FUZZ(data, size)
{
    struct buf b = { 0 };
    struct table *t = NULL;
    str text = str_of((const char *)data, size), line, value;

    if (size == 0)
        return;
    char detail = text.p[0] & 1 ? '+' : 0;
    text = str_from(text, 1);
    buf_add(&b, text);
    err e = table_of_text(S("list"), &b, detail, 100, &t);
    must(!b.p && (e == OK) == (t != NULL));
    if (!t)
        return;
    must(table_count(t) <= 100);
    if (str_starts(text, S("\xef\xbb\xbf")))
        text = str_from(text, 3);
    for (size_t i = 0; i < 200 && str_cut(&text, S("\n"), &line); i++) {
        str rest = str_trim(line), word;
        if (!str_word(&rest, &word) || word.p[0] == '#')
            continue;
        struct path who = path_of(word);
        enum found f = table_find(t, &who, &value);
        must(f == FOUND || str_findc(word, '"') != STR_NONE || word.p[0] == '@');
        must(!str_has(value, S("\n")));
        /* Quoted or not, and as a local part that only looks like an address. */
        who.quoted = true;
        who.local = word;
        table_find(t, &who, &value);
    }
    table_free(t);
}
