#include "kit/kit.h"
#include "conf/conf.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

static void add_token(struct buf *out, const struct token *t)
{
    if (t->list) {
        buf_addc(out, '(');
        for (size_t i = 0; i < t->nitem; i++) {
            buf_add(out, i ? S(" ") : S(""));
            add_token(out, &t->item[i]);
        }
        buf_addc(out, ')');
        return;
    }
    buf_addc(out, '<');
    buf_add(out, t->text);
    buf_addc(out, '>');
}

/* The tree on one line: name<arg>(list){ child; }. */
static void add_tree(struct buf *out, const struct node *n)
{
    for (size_t i = 0; i < n->nchild; i++) {
        const struct node *c = &n->child[i];
        buf_add(out, c->name.text);
        for (size_t j = 0; j < c->narg; j++)
            add_token(out, &c->arg[j]);
        if (c->block) {
            buf_addc(out, '{');
            add_tree(out, c);
            buf_addc(out, '}');
        }
        buf_addc(out, ';');
    }
}

static str tree(arena *a, str text, struct diags *d)
{
    struct buf out = buf_in(a, 64);
    struct node root;
    CHECK_ERR(conf_parse(a, S("relay.conf"), &text, &root, d), OK);
    add_tree(&out, &root);
    return buf_str(&out);
}

TEST(conf_parse_reads_the_form)
{
    static const struct { str in, want; } cases[] = {
        { S("a"), S("a;") },
        { S("a b c\nd\n"), S("a<b><c>;d;") },
        { S("a b; c;; d\r\n\r\n;"), S("a<b>;c;d;") },
        { S("a { b c; d }\ne"), S("a{b<c>;d;};e;") },
        { S("a x {\n  b\n  c { d }\n}"), S("a<x>{b;c{d;};};") },
        { S("a {}; b {}"), S("a{};b{};") },
        { S("a # b\n# c\nd#e"), S("a;d#e;") },
        { S("a \"b c\" \"\""), S("a<b c><>;") },
        { S("a \"q\\\"b\\\\s\\$d\\d\""), S("a<q\"b\\s$d\\d>;") },
        { S("retry [ 1m 5m\n # more\n 15m ] for 1h"), S("retry(<1m> <5m> <15m>)<for><1h>;") },
        { S("retry [1m 5m] []"), S("retry(<1m> <5m>)();") },
        { S("listen smtp [::]:25 [::1] [fe80::1%eth0]:25 [192.0.2.1]:25"),
          S("listen<smtp><[::]:25><[::1]><[fe80::1%eth0]:25><[192.0.2.1]:25>;") },
        { S("a [ [::1]:25 b@[192.0.2.1] ]"), S("a(<[::1]:25> <b@[192.0.2.1]>);") },
        { S("filter \"(proxyAddresses=smtp:%s)\""), S("filter<(proxyAddresses=smtp:%s)>;") },
        { S("a x{b}"), S("a<x>{b;};") },
        { S("a $ $x b$"), S("a<$><$x><b$>;") },
        { S("caf\xc3\xa9 \xe2\x82\xac"), S("caf\xc3\xa9<\xe2\x82\xac>;") },
    };
    AUTO_ARENA a = arena_new();
    EACH(cases, c) {
        struct diags d = { .a = a };
        str text = str_printf(a, "waypost 1\n%.*s", STR(c->in));
        CHECK_STR(tree(a, text, &d), c->want, c->in);
        CHECK_INT(d.n, 0, c->in);
    }
}

TEST(conf_parse_fills_in_variables)
{
    static const struct { str in, want; } cases[] = {
        { S("a ${CONF_TEST_SET}"), S("a<one two>;") },          /* never cut into words */
        { S("a x${CONF_TEST_SET}y \"${CONF_TEST_SET}\""), S("a<xone twoy><one two>;") },
        { S("a ${CONF_TEST_UNSET:-b}"), S("a<b>;") },
        { S("a ${CONF_TEST_UNSET:-}"), S("a<>;") },
        { S("a ${CONF_TEST_EMPTY:-b} ${CONF_TEST_EMPTY}"), S("a<b><>;") },
        { S("a ${CONF_TEST_UNSET:-b c}d"), S("a<b cd>;") },
        { S("a [ ${CONF_TEST_UNSET:-1}]"), S("a(<1>);") },
    };
    AUTO_ARENA a = arena_new();
    setenv("CONF_TEST_SET", "one two", 1);
    setenv("CONF_TEST_EMPTY", "", 1);
    unsetenv("CONF_TEST_UNSET");
    EACH(cases, c) {
        struct diags d = { .a = a };
        str text = str_printf(a, "waypost 1\n%.*s", STR(c->in));
        CHECK_STR(tree(a, text, &d), c->want, c->in);
        CHECK_INT(d.n, 0, c->in);
    }
}

TEST(conf_parse_tells_every_error)
{
    static const struct { str in; uint16_t number[4]; uint32_t line, column, length; str want; } cases[] = {
        { S("a"), { CONF_E_VERSION }, 1, 1, 1, S("a;") },
        { S(""), { CONF_E_VERSION }, 1, 1, 0, S("") },
        { S("waypost"), { CONF_E_VERSION }, 1, 1, 7, S("") },
        { S("waypost one"), { CONF_E_VERSION }, 1, 1, 7, S("") },
        { S("waypost 2\n{{{"), { CONF_E_NEWER }, 1, 9, 1, S("") },
        { S("waypost 1\na { b"), { CONF_E_OPEN }, 2, 3, 1, S("a{};") },
        { S("waypost 1\na { b { c }\nd"), { CONF_E_OPEN }, 2, 3, 1, S("a{};") },
        { S("waypost 1\na }\nb"), { CONF_E_CLOSE }, 2, 3, 1, S("a;b;") },
        { S("waypost 1\na\n{ b }\nc"), { CONF_E_BLOCK }, 3, 1, 1, S("a;c;") },
        { S("waypost 1\na { b } c\nd"), { CONF_E_BEHIND }, 2, 9, 1, S("a{b;};c;d;") },
        { S("waypost 1\na [ b ; c"), { CONF_E_OPEN }, 2, 3, 1, S("c;") },
        { S("waypost 1\na [ b [ c ]"), { CONF_E_NESTED }, 2, 7, 1, S("a(<b> <c>);") },
        { S("waypost 1\na b ] c"), { CONF_E_CLOSE }, 2, 5, 1, S("a<b><c>;") },
        { S("waypost 1\n  ]a"), { CONF_E_CLOSE }, 2, 3, 1, S("a;") },
        { S("waypost 1\na \"b\nc"), { CONF_E_QUOTE }, 2, 3, 1, S("a<b>;c;") },
        { S("waypost 1\na b\"c\""), { CONF_E_QUOTE, CONF_E_QUOTE }, 2, 4, 1, S("a<b\"c\">;") },
        { S("waypost 1\na \"b\"c"), { CONF_E_QUOTE }, 2, 6, 1, S("a<b><c>;") },
        { S("waypost 1\na ${CONF_TEST_UNSET}"), { CONF_E_VARIABLE }, 2, 3, 18, S("a<>;") },
        { S("waypost 1\na x${1}"), { CONF_E_VARIABLE }, 2, 4, 2, S("a<x1>;") },
        { S("waypost 1\na x\xff"), { CONF_E_ENCODING }, 2, 4, 1, S("a<x\xff>;") },
        { S("waypost 1\na\xc2\xa0" "b"), { CONF_E_INVISIBLE }, 2, 2, 1, S("a\xc2\xa0" "b;") },
        { S("waypost 1\na \xe2\x80\x9c" "b\xe2\x80\x9d"), { CONF_E_INVISIBLE }, 2, 3, 1,
          S("a<\xe2\x80\x9c" "b\xe2\x80\x9d>;") },
        { S("waypost 1\na \001"), { CONF_E_INVISIBLE }, 2, 3, 1, S("a<\001>;") },
        { S("waypost 1\na \0"), { CONF_E_INVISIBLE }, 2, 3, 1, S("a<\0>;") },
        { S("waypost 1\ninclude"), { CONF_E_ARGUMENTS }, 2, 1, 7, S("") },
        { S("waypost 1\ninclude nothing.conf"), { CONF_E_UNREADABLE }, 2, 9, 12, S("") },
        { S("waypost 1\ninclude nothing*.conf"), { 0 }, 0, 0, 0, S("") },
        /* all in one run */
        { S("a }\nb \"c\nd ${CONF_TEST_UNSET}\ne {"), { CONF_E_VERSION, CONF_E_CLOSE, CONF_E_QUOTE, CONF_E_VARIABLE },
          1, 1, 1, S("a;b<c>;d<>;e{};") },
    };
    AUTO_ARENA a = arena_new();
    unsetenv("CONF_TEST_UNSET");
    EACH(cases, c) {
        struct diags d = { .a = a };
        CHECK_STR(tree(a, c->in, &d), c->want, c->in);
        for (size_t i = 0; i < COUNT(c->number) && c->number[i]; i++)
            if (CHECK(i < d.n, c->in))
                CHECK_INT(d.p[i].number, c->number[i], c->in);
        CHECK(d.n == COUNT(c->number) + 1 || !c->number[0] || d.n >= 1, c->in);
        if (d.n == 0 || !CHECK(c->number[0], c->in))
            continue;
        CHECK_INT(d.p[0].at.line, c->line, c->in);
        CHECK_INT(d.p[0].at.column, c->column, c->in);
        CHECK_INT(d.p[0].at.length, c->length, c->in);
    }
}

TEST(conf_parse_counts_characters)
{
    AUTO_ARENA a = arena_new();
    struct diags d = { .a = a };
    str text = S("\xef\xbb\xbfwaypost 1\n\tcaf\xc3\xa9 \"\xe2\x82\xac \xe2\x82\xac\" \xf0\x9f\x93\xae x\n");
    struct node root;

    CHECK_ERR(conf_parse(a, S("relay.conf"), &text, &root, &d), OK);
    CHECK_INT(d.n, 0);
    if (!CHECK(root.nchild == 1 && root.child[0].narg == 3))
        return;
    const struct node *n = &root.child[0];
    CHECK_INT(n->name.at.line, 2);
    CHECK_INT(n->name.at.column, 2);
    CHECK_INT(n->name.at.length, 4);
    CHECK_INT(n->arg[0].at.column, 7);
    CHECK_INT(n->arg[0].at.length, 5);
    CHECK_INT(n->arg[1].at.column, 13);
    CHECK_INT(n->arg[1].at.length, 1);
    CHECK_INT(n->arg[2].at.column, 15);
    CHECK_STR(n->arg[2].at.source, S("\tcaf\xc3\xa9 \"\xe2\x82\xac \xe2\x82\xac\" \xf0\x9f\x93\xae x"));
}

static void put(const char *dir, const char *name, const char *text)
{
    char path[512];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *f = fopen(path, "w");
    must(f);
    fputs(text, f);
    fclose(f);
}

TEST(conf_parse_includes)
{
    AUTO_ARENA a = arena_new();
    struct diags d = { .a = a };
    struct buf out = buf_in(a, 64);
    struct node root;
    const char *dir = kit_dir();
    str main_conf = str_printf(a, "%s/main.conf", dir);

    mkdir(str_cz(a, str_printf(a, "%s/conf.d", dir)), 0700);
    mkdir(str_cz(a, str_printf(a, "%s/conf.d/z.conf", dir)), 0700);
    put(dir, "main.conf", "waypost 1\na\ninclude conf.d/*.conf\nb {\n  include sub.conf nothing/*.conf\n}\n"
                          "include conf.d/2.conf");
    put(dir, "sub.conf", "c d\n");
    put(dir, "conf.d/2.conf", "waypost 1\ntwo { x }\n");
    put(dir, "conf.d/1.conf", "one; include ../sub.conf");
    put(dir, "conf.d/3.txt", "three\n");
    CHECK_ERR(conf_parse(a, main_conf, NULL, &root, &d), OK);
    add_tree(&out, &root);
    CHECK_STR(buf_str(&out), S("a;one;c<d>;two{x;};b{c<d>;};two{x;};"));
    CHECK_INT(d.n, 1); /* z.conf is a folder */
    CHECK_INT(d.p[0].number, CONF_E_UNREADABLE);
    CHECK(str_ends(root.child[1].name.at.file, S("/conf.d/1.conf")));
    CHECK_INT(root.child[1].name.at.line, 1);
}

TEST(conf_parse_refuses_circles_and_depths)
{
    AUTO_ARENA a = arena_new();
    const char *dir = kit_dir();
    struct node root;

    struct diags circle = { .a = a };
    put(dir, "a.conf", "waypost 1\ninclude b.conf\n");
    put(dir, "b.conf", "include ./a.conf\nx\n");
    CHECK_ERR(conf_parse(a, str_printf(a, "%s/a.conf", dir), NULL, &root, &circle), OK);
    CHECK_INT(circle.n, 1);
    CHECK_INT(circle.p[0].number, CONF_E_CYCLE);
    CHECK(str_ends(circle.p[0].at.file, S("/b.conf")));
    CHECK_INT(root.nchild, 1);

    struct diags deep = { .a = a };
    for (int i = 0; i < 20; i++) {
        char name[32], text[64];
        snprintf(name, sizeof name, "d%d.conf", i);
        snprintf(text, sizeof text, "waypost 1\nx\ninclude d%d.conf\n", i + 1);
        put(dir, name, text);
    }
    CHECK_ERR(conf_parse(a, str_printf(a, "%s/d0.conf", dir), NULL, &root, &deep), OK);
    CHECK_INT(deep.n, 1);
    CHECK_INT(deep.p[0].number, CONF_E_DEPTH);
    CHECK_INT(root.nchild, 17);

    struct diags blocks = { .a = a };
    struct buf text = buf_in(a, 1024);
    buf_add(&text, S("waypost 1\n"));
    for (int i = 0; i < 1000; i++)
        buf_add(&text, S("a { "));
    str s = buf_str(&text);
    CHECK_ERR(conf_parse(a, S("relay.conf"), &s, &root, &blocks), OK);
    CHECK_INT(blocks.n, 1);
    CHECK_INT(blocks.p[0].number, CONF_E_DEPTH);
}

TEST(conf_parse_fails_only_for_the_first_file)
{
    AUTO_ARENA a = arena_new();
    struct diags d = { .a = a };
    struct node root;
    str dir = str_z(kit_dir());

    CHECK_ERR(conf_parse(a, str_printf(a, "%.*s/none.conf", STR(dir)), NULL, &root, &d), E_NOTFOUND);
    CHECK_ERR(conf_parse(a, dir, NULL, &root, &d), E_IO);
    CHECK_INT(d.n, 0);
}

TEST(conf_parse_has_limits)
{
    AUTO_ARENA a = arena_new();
    struct diags d = { .a = a };
    struct node root;
    size_t n = (64u << 20) + 1;
    char *big = mem_new(n);

    memset(big, ' ', n);
    memcpy(big, "waypost 1\n", 10);
    str text = str_of(big, n);
    CHECK_ERR(conf_parse(a, S("relay.conf"), &text, &root, &d), OK);
    CHECK_INT(d.n, 1);
    CHECK_INT(d.p[0].number, CONF_E_SIZE);
    mem_free(big);
}

TEST(conf_parse_reads_the_examples)
{
    static const char *const names[] = { "dev.conf", "relay-domain.conf", "esp.conf", "cluster.conf" };
    static const size_t children[] = { 3, 13, 22, 4 };
    static const size_t missing[] = { 0, 0, 0, 1 }; /* common.conf */

    setenv("WAYPOST_NODE", "a", 1);
    for (size_t i = 0; i < COUNT(names); i++) {
        AUTO_ARENA a = arena_new();
        struct diags d = { .a = a };
        struct node root;
        str path = str_printf(a, "tests/corpus/conf/%s", names[i]);
        if (!CHECK_ERR(conf_parse(a, path, NULL, &root, &d), OK, path))
            continue; /* run from the top folder */
        CHECK_INT(d.n, missing[i], path);
        CHECK_INT(root.nchild, children[i], path);
    }
    unsetenv("WAYPOST_NODE");
}
