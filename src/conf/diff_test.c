#include "kit/kit.h"
#include "conf/conf.h"

TEST(conf_diff_tells_what_changed)
{
    static const struct { str was, now, want; } cases[] = {
        { S("a 1"), S("\n# moved\na   1"), S("") },
        { S("a 1"), S("a 2"), S("- a 1  # was:2\n+ a 2  # now:2\n") },
        { S("a 1"), S("b 1"), S("+ b 1  # now:2\n- a 1  # was:2\n") },
        { S("a"), S("a { b }"), S("+ a { ... }  # now:2\n+ a: b  # now:2\n- a  # was:2\n") },
        { S("x b { c 1; d 2 }; x e { c 1 }"), S("x b { c 1; d 3 }; x e { c 1 }"), S("- x b: d 2  # was:2\n+ x b: d 3  # now:2\n") },
        { S("x b p 1 { c 1 }"), S("x b p 2 { c 2 }"),
          S("- x b p 1 { ... }  # was:2\n+ x b p 2 { ... }  # now:2\n- x b: c 1  # was:2\n+ x b: c 2  # now:2\n") },
        { S("s a; s b; s c"), S("s a; s c"), S("- s b  # was:2\n") },
        { S("s a; s b"), S("s a; s x; s b"), S("+ s x  # now:2\n") },
        { S("s a; s b"), S("s a; s c"), S("- s b  # was:2\n+ s c  # now:2\n") },
        { S("s a; t 1; s b"), S("s b; s a; t 1"), S("~ s: the order changed  # now:2\n") },
        { S("r [ 1m 5m ] for \"x y\""), S("r [ 1m 6m ] for \"x y\""),
          S("- r [ 1m 5m ] for \"x y\"  # was:2\n+ r [ 1m 6m ] for \"x y\"  # now:2\n") },
    };
    AUTO_ARENA a = arena_new();
    EACH(cases, c) {
        struct diags d = { .a = a };
        struct buf out = buf_in(a, 256);
        struct node was, now;
        str old_text = str_printf(a, "waypost 1\n%.*s", STR(c->was));
        str new_text = str_printf(a, "waypost 1\n%.*s", STR(c->now));
        CHECK_ERR(conf_parse(a, S("was"), &old_text, &was, &d), OK);
        CHECK_ERR(conf_parse(a, S("now"), &new_text, &now, &d), OK);
        CHECK_INT(d.n, 0, c->was);
        conf_diff(a, NULL, &was, &now, &out);
        CHECK_STR(buf_str(&out), c->want, c->now);
    }
}
