#include "kit/kit.h"
#include "smtp/smtp.h"

TEST(reply_parse_line_reads_replies)
{
    static const struct { str line; err want; int code; struct enhanced e; str text; bool more; } cases[] = {
        { S("250 2.1.5 ok"), OK, 250, ENH(2, 1, 5), S("ok"), false },
        { S("250-mx.example.org"), OK, 250, ENH(0, 0, 0), S("mx.example.org"), true },
        { S("250"), OK, 250, ENH(0, 0, 0), S(""), false },
        { S("250 "), OK, 250, ENH(0, 0, 0), S(""), false },
        { S("250 2.0.0"), OK, 250, ENH(2, 0, 0), S(""), false },
        { S("550 5.7.515 no"), OK, 550, ENH(5, 7, 515), S("no"), false },
        { S("550 5.7.5151 no"), OK, 550, ENH(0, 0, 0), S("5.7.5151 no"), false },
        { S("550 5.7 no"), OK, 550, ENH(0, 0, 0), S("5.7 no"), false },
        { S("550 5.7.1: no"), OK, 550, ENH(0, 0, 0), S("5.7.1: no"), false },
        { S("550 5..1 no"), OK, 550, ENH(0, 0, 0), S("5..1 no"), false },
        { S("550 4.7.1 class differs"), OK, 550, ENH(0, 0, 0), S("4.7.1 class differs"), false },
        { S("354 go"), OK, 354, ENH(0, 0, 0), S("go"), false },
        { S("354 3.0.0 go"), OK, 354, ENH(0, 0, 0), S("3.0.0 go"), false },
        { S(""), E_SYNTAX },
        { S("25"), E_SYNTAX },
        { S("2500 x"), E_SYNTAX },
        { S("25x y"), E_SYNTAX },
        { S("150 y"), E_SYNTAX },
        { S("650 y"), E_SYNTAX },
        { S("hello"), E_SYNTAX },
        { S("HTTP/1.1 400 Bad Request"), E_SYNTAX },
    };
    EACH(cases, c) {
        struct reply r = { 0 };
        bool more = false;
        CHECK_ERR(reply_parse_line(c->line, &r, &more), c->want, c->line);
        CHECK_INT(r.code, c->code, c->line);
        CHECK_INT(r.enhanced.class, c->e.class, c->line);
        CHECK_INT(r.enhanced.subject, c->e.subject, c->line);
        CHECK_INT(r.enhanced.detail, c->e.detail, c->line);
        CHECK_STR(r.text, c->text, c->line);
        CHECK_INT(more, c->more, c->line);
    }
}

TEST(reply_parse_line_wants_one_code_in_a_reply)
{
    struct reply r = { 0 };
    bool more;
    CHECK_ERR(reply_parse_line(S("250-first"), &r, &more), OK);
    CHECK_ERR(reply_parse_line(S("250-2.1.0 second"), &r, &more), OK);
    CHECK_ERR(reply_parse_line(S("250 third"), &r, &more), OK);
    CHECK(r.enhanced.class == 2 && r.enhanced.subject == 1);
    CHECK_ERR(reply_parse_line(S("251 fourth"), &r, &more), E_SYNTAX);
}

TEST(reply_print_is_one_safe_line)
{
    AUTO_ARENA a = arena_new();
    struct reply r = { .code = 550, .enhanced = ENH(5, 1, 1), .text = S("no\n\nsuch\x1b[0m\r user") };
    CHECK_STR(reply_print(a, &r), S("550 5.1.1 no such\\u001b[0m\\r user"));
    r = (struct reply){ .code = 250 };
    CHECK_STR(reply_print(a, &r), S("250"));
}
