#include "kit/kit.h"
#include "conf/conf.h"

/* The caret of `number` at characters `column` to `column + length` of `source`. */
static str printed(arena *a, struct place at, str hint, const char *text)
{
    struct diags d = { .a = a };
    struct buf out = buf_in(a, 256);
    diag_add(&d, CONF_ERROR, CONF_E_UNKNOWN, &at, hint, "%s", text);
    diags_print(&d, &out);
    return buf_str(&out);
}

TEST(diags_print_as_promised)
{
    AUTO_ARENA a = arena_new();
    struct diags d = { .a = a };
    struct buf out = buf_in(a, 1024);
    struct place unknown = { S("relay.conf"), 14, 5, 14, 0, S("    max_conections 20 per server") };
    struct place whole = { S("relay.conf"), 31, 1, 0, 0, S("") };

    diag_add(&d, CONF_ERROR, CONF_E_RECIPIENTS, &whole, S(""),
             "relay_domain example.org has no \"recipients\": it would accept mail for unknown users and bounce it "
             "later. Add ldap/file/http/callout, or \"recipients any\" if you mean it.");
    diag_add(&d, CONF_ERROR, CONF_E_UNKNOWN, &unknown,
             S("did you mean \"max_connections\"?  (waypost.conf(5), BACKEND)"),
             "unknown directive \"max_conections\" in backend");
    diags_print(&d, &out);
    CHECK_STR(buf_str(&out),
              S("relay.conf:14:5: error[E021]: unknown directive \"max_conections\" in backend\n"
                "   14 |     max_conections 20 per server\n"
                "      |     ^~~~~~~~~~~~~~ did you mean \"max_connections\"?  (waypost.conf(5), BACKEND)\n"
                "relay.conf:31:1: error[E044]: relay_domain example.org has no \"recipients\": "
                "it would accept mail for\n"
                "      unknown users and bounce it later. Add ldap/file/http/callout, "
                "or \"recipients any\" if you mean it.\n"));
}

TEST(diags_print_puts_the_caret_below)
{
    static const struct { uint32_t column, length; str source, want; } cases[] = {
        { 1, 1, S("x"), S("   14 | x\n      | ^\n") },
        { 3, 2, S("\ta bc"), S("   14 |         a bc\n      |          ^~\n") },     /* column 3 is the blank */
        { 4, 2, S("\ta bc"), S("   14 |         a bc\n      |           ^~\n") },
        { 3, 1, S("a\tb"), S("   14 | a       b\n      |         ^\n") },
        { 6, 3, S("caf\xc3\xa9 bar"), S("   14 | caf\xc3\xa9 bar\n      |      ^~~\n") },
        { 2, 1, S("\xe7\x8c\xab" "x"), S("   14 | \xe7\x8c\xab" "x\n      |   ^\n") }, /* wide */
        { 1, 1, S("\xe7\x8c\xab" "x"), S("   14 | \xe7\x8c\xab" "x\n      | ^~\n") },
        { 3, 1, S("e\xcc\x81x"), S("   14 | e\xcc\x81x\n      |  ^\n") },            /* joins the letter before */
        { 2, 1, S("\xffx"), S("   14 | \xef\xbf\xbdx\n      |  ^\n") },
        { 2, 1, S("\033[1m"), S("   14 | \xef\xbf\xbd[1m\n      |  ^\n") },
        { 5, 1, S("abc"), S("   14 | abc\n      |    ^\n") },                        /* behind the line's end */
    };
    AUTO_ARENA a = arena_new();
    EACH(cases, c) {
        struct place at = { S("r"), 14, c->column, c->length, 0, c->source };
        str want = str_printf(a, "r:14:%u: error[E021]: t\n%.*s", c->column, STR(c->want));
        CHECK_STR(printed(a, at, S(""), "t"), want, c->source);
    }
}

TEST(diags_print_cuts_long_lines)
{
    AUTO_ARENA a = arena_new();
    struct buf line = buf_in(a, 1000);
    for (int i = 0; i < 100; i++)
        buf_addf(&line, "%09d ", i);
    struct place at = { S("r"), 1, 501, 9, 0, buf_str(&line) };
    str got = printed(a, at, S(""), "t"), first, source, caret;
    str_cut(&got, S("\n"), &first);
    str_cut(&got, S("\n"), &source);
    str_cut(&got, S("\n"), &caret);
    CHECK(source.n < 130);
    CHECK(str_starts(source, S("    1 | ...000000046 ")));
    CHECK(str_ends(source, S("...")));
    CHECK_STR(str_trim(caret), S("|                                            ^~~~~~~~~"));
    CHECK_STR(str_head(str_from(source, str_findc(caret, '^')), 9), S("000000050"));
}

TEST(diags_are_told_in_the_order_of_the_text)
{
    static const struct { uint32_t nth, line, column; } cases[] = {
        { 1, 1, 1 }, { 0, 9, 9 }, { 0, 9, 2 }, { 0, 3, 4 },
    };
    AUTO_ARENA a = arena_new();
    struct diags d = { .a = a };
    struct buf out = buf_in(a, 256), json = buf_in(a, 256);

    EACH(cases, c) {
        struct place at = { c->nth ? S("b") : S("a"), c->line, c->column, 0, c->nth, S("") };
        diag_add(&d, c->nth ? CONF_WARNING : CONF_ERROR, CONF_E_WORD, &at, S("h"), "t\"");
    }
    diags_print(&d, &out);
    CHECK_STR(buf_str(&out), S("a:3:4: error[E035]: t\"\n      h\n" "a:9:2: error[E035]: t\"\n      h\n"
                               "a:9:9: error[E035]: t\"\n      h\n" "b:1:1: warning[W035]: t\"\n      h\n"));
    CHECK_INT(d.errors, 3);
    diags_print_json(&d, &json);
    CHECK(str_starts(buf_str(&json), S("[{\"severity\":\"error\",\"number\":\"E035\",\"file\":\"a\","
                                       "\"line\":3,\"column\":4,\"length\":0,\"text\":\"t\\\"\",\"hint\":\"h\"},")));
    CHECK(str_ends(buf_str(&json), S("}]\n")));
}

TEST(diags_are_counted_past_the_limit)
{
    AUTO_ARENA a = arena_new();
    struct diags d = { .a = a };
    struct buf out = buf_in(a, 256);
    struct place at = { S("a"), 1, 1, 0, 0, S("") };

    for (int i = 0; i < DIAGS_KEPT + 7; i++)
        diag_add(&d, CONF_ERROR, CONF_E_WORD, &at, S(""), "t");
    CHECK_INT(d.errors, DIAGS_KEPT + 7);
    diags_print(&d, &out);
    CHECK(str_ends(buf_str(&out), S("and 7 more\n")));
}

TEST(conf_numbers_have_meanings)
{
    CHECK(conf_number(CONF_E_UNKNOWN) != NULL);
    CHECK_INT(CONF_E_UNKNOWN, 21);
    CHECK_INT(CONF_E_RECIPIENTS, 44);
    CHECK(conf_number(0) == NULL);
}
