/* Whatever text comes, reading and binding end, places lie inside of their lines, and what is printed is safe. */
#include "kit/kit.h"
#include "conf/conf.h"

struct inner { struct times times; struct rate rate; double fraction; int word; };
struct outer {
    bool yes;
    uint64_t n, bytes;
    when time;
    str word, path, domain;
    struct strs words;
    struct inner in, last;
};

static void take_any(struct binder *b, const struct node *n, void *into)
{
    static const char *const words[] = { "priority", "weight", NULL };
    const struct token *value[2];
    (void)into;
    if (conf_args(b, n, 1, 5))
        conf_keywords(b, n, 1, words, value);
}

static void *make_any(struct binder *b, const struct node *n, void *into)
{
    return conf_args(b, n, 0, 2) ? &((struct outer *)into)->last : NULL;
}

static const char *const colours[] = { "red", "green", NULL };
static const struct setting inner[] = {
    { .name = "times", .type = CONF_TIMES, .offset = offsetof(struct inner, times), .preset = "[ 1m 5m ]" },
    { .name = "rate", .type = CONF_RATE, .offset = offsetof(struct inner, rate), .preset = "200/min" },
    { .name = "percent", .type = CONF_PERCENT, .offset = offsetof(struct inner, fraction), .most = 1 },
    { .name = "word", .type = CONF_ENUM, .offset = offsetof(struct inner, word), .words = colours },
    { 0 },
};
static const struct setting outer[] = {
    { .name = "switch", .type = CONF_BOOL, .offset = offsetof(struct outer, yes), .required = true },
    { .name = "int", .type = CONF_INT, .offset = offsetof(struct outer, n), .least = 1, .most = 1000 },
    { .name = "bytes", .type = CONF_BYTES, .offset = offsetof(struct outer, bytes), .preset = "25MB" },
    { .name = "time", .type = CONF_TIME, .offset = offsetof(struct outer, time), .most = 86400 },
    { .name = "str", .type = CONF_STR, .offset = offsetof(struct outer, word) },
    { .name = "path", .type = CONF_PATH, .offset = offsetof(struct outer, path) },
    { .name = "domain", .type = CONF_DOMAIN, .offset = offsetof(struct outer, domain) },
    { .name = "strs", .type = CONF_STRS, .offset = offsetof(struct outer, words), .repeats = true },
    { .name = "server", .type = CONF_OWN, .repeats = true, .take = take_any },
    { .name = "spool", .type = CONF_BLOCK, .offset = offsetof(struct outer, in), .sub = inner },
    { .name = "backend", .type = CONF_BLOCK, .make = make_any, .sub = inner, .repeats = true },
    { 0 },
};

static void check_place(const struct place *at)
{
    must(at->line >= 1 && at->column >= 1 && at->column - 1 <= at->source.n && !str_has(at->source, S("\n")));
}

static size_t check_nodes(const struct node *n, unsigned deep)
{
    size_t count = 1;
    must(deep <= 33);
    for (size_t i = 0; i < n->narg; i++) {
        check_place(&n->arg[i].at);
        must(n->arg[i].list || n->arg[i].quoted || n->arg[i].at.length >= 1);
        for (size_t j = 0; j < n->arg[i].nitem; j++)
            must(!n->arg[i].item[j].list);
    }
    for (size_t i = 0; i < n->nchild; i++)
        count += check_nodes(&n->child[i], deep + 1);
    return count;
}

static void check_safe(str s)
{
    uint32_t cp;
    for (size_t n; s.n; s = str_from(s, n)) {
        n = utf8_head(s, &cp);
        must(n > 0 && (cp == '\n' || !utf8_control(cp)));
    }
}

static bool each(void *gathered, const struct conf_line *line)
{
    conf_gather(gathered, line);
    return true;
}

/* What is shown reads as the same again, secrets and all: a fingerprint is its own. */
static void check_shown(arena *a, const struct node *root)
{
    struct gathered first = { .a = a }, second = { .a = a };
    struct buf out = buf_in(a, 64);
    struct node once, twice;

    conf_show(outer, root, &(struct conf_view){ .presets = true, .each = each, .ctx = &first });
    must(conf_gathered(&first, outer, &once) == OK);
    conf_show(outer, &once, &(struct conf_view){ .presets = true, .each = each, .ctx = &second });
    must(conf_gathered(&second, outer, &twice) == OK);
    conf_diff(a, outer, &once, &twice, &out);
    must(out.n == 0);
}

FUZZ(data, size)
{
    AUTO_ARENA a = arena_new();
    AUTO_BUF out = { 0 };
    struct diags d = { .a = a };
    struct binder b = { .a = a, .diags = &d };
    str text = str_of((const char *)data, size);
    struct node root, again;
    struct outer o = { 0 };

    if (str_findc(text, '/') != STR_NONE || str_findc(text, '$') != STR_NONE) {
        /* Not the files of the machine it runs on. */
        char *p = str_cz(a, text);
        for (size_t at; (at = str_find(str_of(p, size), S("include"))) != STR_NONE; )
            p[at] = 'x';
        text.p = p;
    }
    must(conf_parse(a, S("no-such-folder/fuzz.conf"), &text, &root, &d) == OK);
    must(check_nodes(&root, 0) <= size + 1);
    if (d.errors == 0)
        check_shown(a, &root);
    conf_bind(&b, outer, &root, &o);
    diags_print(&d, &out);
    diags_print_json(&d, &out);
    check_safe(buf_str(&out));
    must(d.n <= DIAGS_KEPT && (d.errors == 0 || d.n > 0));
    buf_clear(&out);
    /* In that folder too: an include of "*" is not to find where the fuzzer was started. */
    must(conf_parse(a, S("no-such-folder/again.conf"), &text, &again, &d) == OK);
    conf_diff(a, outer, &root, &again, &out);
    must(out.n == 0);
}
