/* Transcripts as files: sim/script.h. */
#include "sim/script.h"

#include <stdio.h>
#include <stdlib.h>

struct script { arena *a; struct line *line; size_t n; };

static void add_line(struct script *s, unsigned number, str text)
{
    if ((s->n & (s->n - 1)) == 0) { /* a power of two is full */
        struct line *more = NEW_ARRAY(s->a, struct line, MAX(s->n * 2, 1));
        if (s->n)
            memcpy(more, s->line, s->n * sizeof *more);
        s->line = more;
    }
    s->line[s->n++] = (struct line){ number, text };
}

static str with_number(arena *a, str text, uint64_t n)
{
    struct buf out = buf_in(a, text.n + 8);
    str part;

    for (bool first = true; str_cut(&text, S("@@"), &part); first = false) {
        if (!first)
            buf_addf(&out, "%llu", (unsigned long long)n);
        buf_add(&out, part);
    }
    return buf_str(&out);
}

/* What stands behind "repeat", from line `from` on, comes `times` times in all. */
static void repeat_lines(struct script *s, size_t from, uint64_t times)
{
    size_t n = s->n - from;
    struct line *once = NEW_ARRAY(s->a, struct line, n + 1);

    if (n)
        memcpy(once, s->line + from, n * sizeof *once);
    s->n = from;
    for (uint64_t k = 1; k <= times; k++)
        for (size_t i = 0; i < n; i++)
            add_line(s, once[i].number, with_number(s->a, once[i].text, k));
}

bool script_read(arena *a, const char *path, struct line **ret, size_t *count)
{
    FILE *f = fopen(path, "r");
    struct script s = { .a = a };
    char *text = NULL;
    size_t cap = 0, from = 0;
    uint64_t times = 0;
    ssize_t n;

    if (!f) {
        printf("FAIL %s: cannot be read\n", path);
        return false;
    }
    for (unsigned number = 1; (n = getline(&text, &cap, f)) >= 0; number++) {
        str line = str_of(text, (size_t)n);
        if (str_ends(line, S("\n")))
            line.n--;
        if (!str_trim(line).n || line.p[0] == '#')
            continue;
        if (str_starts(line, S("repeat ")) && str_u64(str_trim(str_from(line, 7)), 10000, &times))
            from = s.n;
        else if (times && str_eq(line, S("end")))
            repeat_lines(&s, from, times), times = 0;
        else
            add_line(&s, number, str_dup(a, line));
    }
    free(text);
    fclose(f);
    *ret = s.line;
    *count = s.n;
    return true;
}
