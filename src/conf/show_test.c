#include "kit/kit.h"
#include "conf/conf.h"

#include <stdlib.h>

static const struct setting inner[] = {
    { .name = "size", .type = CONF_BYTES, .preset = "1MiB" }, { .name = "password", .type = CONF_STR }, { .name = "file", .type = CONF_PATH },
    { .name = NULL },
};
static void *make_thing(struct binder *b, const struct node *n, void *into) { (void)n, (void)into; return arena_alloc(b->a, 64); }
static void take_any(struct binder *b, const struct node *n, void *into) { (void)b, (void)n, (void)into; }
static const struct setting table[] = {
    { .name = "late", .type = CONF_TIME, .preset = "5m", .at_start = true },
    { .name = "limits", .type = CONF_BLOCK, .sub = inner },
    { .name = "thing", .type = CONF_BLOCK, .make = make_thing, .sub = inner, .repeats = true },
    { .name = "one", .type = CONF_BLOCK, .make = make_thing, .sub = inner },
    { .name = "any", .type = CONF_OWN, .take = take_any, .sub = inner, .repeats = true },
    { .name = NULL },
};

struct out { arena *a; struct buf text; struct gathered g; size_t most; };

static bool each(void *ctx, const struct conf_line *line)
{
    struct out *o = ctx;

    buf_addf(&o->text, "%*s%.*s|%.*s|%.*s\n", (int)(2 * line->deep), "", STR(line->text), STR(line->where), STR(conf_origin(o->a, line)));
    conf_gather(&o->g, line);
    return --o->most > 0;
}

static struct out show(arena *a, const char *name, str text, bool presets, struct map *paths, struct node *tree)
{
    struct out o = { .a = a, .text = buf_in(a, 256), .g.a = a, .most = 1000 };
    struct diags d = { .a = a };
    struct binder b = { .a = a, .diags = &d, .paths = paths };
    char room[1024] = { 0 };

    text = str_printf(a, "waypost 1\n%.*s", STR(text));
    CHECK_ERR(conf_parse(a, str_z(name), &text, tree, &d), OK);
    conf_bind(&b, table, tree, room);
    CHECK_INT(d.errors, 0, text);
    conf_show(table, tree, &(struct conf_view){ .presets = presets, .paths = paths, .each = each, .ctx = &o });
    return o;
}

TEST(conf_show_tells_each_setting_and_where_it_stands)
{
    AUTO_ARENA a = arena_new();
    struct map paths = { 0 };
    struct node tree;

    setenv("WAYPOST_TEST_WORD", "[ x", 1);
    struct out o = show(a, "/etc/x.conf",
                        S("thing b {\n password sesame; file near.txt }\nany \"${WAYPOST_TEST_WORD}\" [::1]:25 [ 1 \"2 3\" ] { other 7 }\n"
                          "any http://ann:sesame@host/x { size 2M }"), true, &paths, &tree);
    unsetenv("WAYPOST_TEST_WORD");
    str shown = buf_str(&o.text);
    CHECK(!str_has(shown, S("sesame")), shown);
    size_t at = str_find(shown, S("fingerprint:"));
    CHECK(at != STR_NONE, shown);
    str print = str_head(str_from(shown, at), 20);
    CHECK_STR(shown, str_printf(a,
        "late 5m||default\n"
        "limits {||default\n"
        "  size 1MiB|limits: |default\n"
        "}||default\n"
        "thing b {||/etc/x.conf:2\n"
        "  size 1MiB|thing b: |default\n"
        "  password %.*s|thing b: |/etc/x.conf:3\n"
        "  file /etc/near.txt|thing b: |/etc/x.conf:3\n"
        "}||/etc/x.conf:2\n"
        "any \"[ x\" [::1]:25 [ 1 \"2 3\" ] {||/etc/x.conf:4 and the environment\n"
        "  size 1MiB|any [ x: |default\n"
        "  other 7|any [ x: |/etc/x.conf:4\n"
        "}||/etc/x.conf:4\n"
        "any http://ann:%.*s@host/x {||/etc/x.conf:5\n"
        "  size 2M|any http://ann:%.*s@host/x: |/etc/x.conf:5\n"
        "}||/etc/x.conf:5\n", STR(print), STR(print), STR(print)), shown);

    /* And back: the same tree, with the places it had. */
    struct node again;
    struct buf diff = buf_in(a, 64);
    struct out twice = { .a = a, .text = buf_in(a, 256), .g.a = a, .most = 1000 };
    CHECK_ERR(conf_gathered(&o.g, table, &again), OK);
    conf_show(table, &again, &(struct conf_view){ .presets = true, .each = each, .ctx = &twice });
    struct node third;
    CHECK_ERR(conf_gathered(&twice.g, table, &third), OK);
    conf_diff(a, table, &again, &third, &diff);
    CHECK_STR(buf_str(&diff), S(""), buf_str(&twice.text));
    CHECK_INT(again.child[2].name.at.line, 2, S(""));
    map_free(&paths);
}

TEST(conf_show_ends_when_told)
{
    AUTO_ARENA a = arena_new();
    struct out o = { .a = a, .text = buf_in(a, 64), .g.a = a, .most = 2 };

    conf_show(table, NULL, &(struct conf_view){ .presets = true, .each = each, .ctx = &o });
    CHECK_STR(buf_str(&o.text), S("late 5m||default\nlimits {||default\n"));
}

TEST(conf_diff_knows_defaults_units_and_what_waits_for_a_start)
{
    static const struct { str was, now, want; } cases[] = {
        { S("late 300s; limits { size 1024KiB }"), S(""), S("") },
        { S("late 300s"), S("late 6m"), S("- late 5m  # was:2; at the next start\n+ late 6m  # now:2; at the next start\n") },
        { S(""), S("limits { size 2MiB }"), S("- limits: size 1MiB  # default\n+ limits: size 2MiB  # now:2\n") },
        { S("limits { size 2MiB }"), S("limits { }"), S("- limits: size 2MiB  # was:2\n+ limits: size 1MiB  # default\n") },
        { S(""), S("one { size 2MiB }"), S("+ one { ... }  # now:2\n+ one: size 2MiB  # now:2\n") },
        { S("thing a { password x }"), S("thing a { password x }"), S("") },
    };
    AUTO_ARENA a = arena_new();
    EACH(cases, c) {
        struct node was, now;
        struct buf out = buf_in(a, 256);
        struct out x = show(a, "was", c->was, true, NULL, &was), y = show(a, "now", c->now, true, NULL, &now);
        CHECK_ERR(conf_gathered(&x.g, table, &was), OK);
        CHECK_ERR(conf_gathered(&y.g, table, &now), OK);
        conf_diff(a, table, &was, &now, &out);
        CHECK_STR(buf_str(&out), c->want, c->now);
    }
}

TEST(conf_gathered_reads_no_files_and_no_environment)
{
    AUTO_ARENA a = arena_new();
    struct gathered g = { .a = a };
    struct node tree;

    conf_gather(&g, &(struct conf_line){ .text = S("include /etc/passwd") });
    conf_gather(&g, &(struct conf_line){ .text = S("any \"${HOME}\"") });
    CHECK_ERR(conf_gathered(&g, table, &tree), OK);
    CHECK_STR(tree.child[0].name.text, S("include"));
    conf_gather(&g, &(struct conf_line){ .text = S("any x\nany y") });
    CHECK_ERR(conf_gathered(&g, table, &tree), E_SYNTAX);
}
