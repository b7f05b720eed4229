/* What the answers of the control socket are put together from. */
#include "main/words.h"

void add_key(struct buf *b, const char *key)
{
    if (b->n && b->p[b->n - 1] != '{' && b->p[b->n - 1] != '[')
        buf_addc(b, ',');
    if (*key)
        buf_addf(b, "\"%s\":", key);
}

void add_str(struct buf *b, const char *key, str s)
{
    add_key(b, key);
    buf_add_json(b, s);
}

void add_int(struct buf *b, const char *key, int64_t n)
{
    add_key(b, key);
    buf_addf(b, "%lld", (long long)n);
}

void add_time(struct buf *b, const char *key, when wall)
{
    char text[TIME_TEXT];

    add_key(b, key);
    if (wall)
        buf_addf(b, "\"%.*s\"", STR(time_rfc3339(text, wall)));
    else
        buf_add(b, S("null"));
}

void add_id(struct buf *b, const char *key, ulid id)
{
    char text[ULID_TEXT];

    add_str(b, key, ulid_print(id, text));
}
