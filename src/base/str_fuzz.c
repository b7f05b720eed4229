/* Whatever comes in, what we print of it is safe, and cutting loses nothing. */
#include "kit/kit.h"
#include "base/utf8.h"

static void check_printable(str s)
{
    uint32_t cp;
    for (size_t n; s.n; s = str_from(s, n)) {
        n = utf8_head(s, &cp);
        must(n > 0 && !utf8_control(cp));
    }
}

FUZZ(data, size)
{
    AUTO_ARENA a = arena_new();
    AUTO_BUF json = { 0 };
    str s = str_of((const char *)data, size), rest = s, part;
    ulid id;
    uint64_t number;
    size_t seen = 0, parts = 0;

    check_printable(str_printable(a, s));
    buf_add_json(&json, s);
    check_printable(buf_str(&json));
    for (; str_cut(&rest, S(","), &part); parts++)
        seen += part.n;
    must(seen + (parts ? parts - 1 : 0) == s.n);
    for (rest = s; str_word(&rest, &part); )
        must(part.n && !str_has(part, S(" ")) && !str_has(part, S("\t")));
    if (ulid_parse(s, &id)) {
        char text[ULID_TEXT];
        must(str_ieq(ulid_print(id, text), s));
    }
    if (str_u64(s, UINT64_MAX, &number))
        must(s.n > 0);
    must(str_ihash(s) == str_ihash(str_lower(a, s)));
    str_trim(s);
}
