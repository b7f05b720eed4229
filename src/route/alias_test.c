#include "kit/kit.h"
#include "route/route.h"

#include <stdio.h>

static struct table *list_of(const char *text)
{
    AUTO_ARENA a = arena_new();
    struct table *t = NULL;
    str path = str_printf(a, "%s/aliases", kit_dir());
    FILE *f = fopen(path.p, "w");

    fputs(text, f);
    fclose(f);
    CHECK_ERR(table_file_open(path, '+', 1000, &t), OK);
    return t;
}

/* What `who` stands for, as one text. */
static str expand(const struct aliases *al, arena *a, str who)
{
    struct path p;
    struct strs to;
    struct buf all = buf_in(a, 100);

    must(address_parse(who, &p) == OK);
    str closed;
    err e = alias_expand(al, a, &p, &to, &closed);
    if (e != OK)
        return str_z(err_name(e));
    if (closed.p)
        buf_addf(&all, "[%.*s]", STR(closed));
    for (size_t i = 0; i < to.n; i++)
        buf_addf(&all, "%s%.*s", i ? " " : "", STR(to.p[i]));
    return buf_str(&all);
}

TASK_TEST(alias_expand_ends_and_names_each_once)
{
    static const struct { str who, want; } cases[] = {
        { S("nobody@a.example"), S("") },
        { S("one@a.example"), S("ann@a.example") },
        { S("ONE@A.example"), S("ann@a.example") },
        { S("one+list@a.example"), S("ann@a.example") },
        { S("many@a.example"), S("ann@a.example bob@b.example carl@a.example") },
        { S("chain@a.example"), S("ann@a.example bob@b.example carl@a.example") },
        { S("twice@a.example"), S("ann@a.example") },
        { S("loop@a.example"), S("limit") },                /* round and round */
        { S("self@a.example"), S("self@a.example ann@a.example") },
        { S("any@old.example"), S("any@a.example") },
        { S("one@old.example"), S("ann@a.example") },       /* what it leads to is looked up in turn */
        { S("all@caught.example"), S("ann@a.example") },
        { S("root@x.example"), S("admin@x.example") },
        { S("broken@a.example"), S("syntax") },
        { S("deep@a.example"), S("limit") },
        { S("moved@a.example"), S("[5.1.6 moved to new@b.example, ask there]") },
        { S("closed@a.example"), S("[]") },
        { S("movers@a.example"), S("ann@a.example") },      /* who is left gets it */
        { S("ghosts@a.example"), S("[5.1.6 moved to new@b.example, ask there]") },
    };
    AUTO_ARENA a = arena_new();
    struct table *t = list_of(
        "one@a.example ann@a.example\nmany@a.example ann@a.example, bob@b.example , carl\nchain@a.example many@a.example\n"
        "twice@a.example one@a.example,ann@a.example\nloop@a.example pool@a.example\npool@a.example loop@a.example\n"
        "self@a.example self@a.example, ann@a.example\n@old.example @a.example\n@caught.example ann@a.example\nroot admin\nbroken@a.example a@@b\n"
        "deep@a.example d1\nd1 d2\nd2 d3\nd3 d4\nd4 d5\nd5 d6\nd6 d7\nd7 d8\nd8 d9\nd9 d10\nd10 d11\nd11 ann\n"
        "moved@a.example bounce:5.1.6 moved to new@b.example, ask there\nclosed@a.example Bounce:\nmovers@a.example moved, ann\n"
        "ghosts@a.example moved, closed\n");
    struct aliases al = { .table = &t, .ntable = 1 };

    EACH(cases, c)
        CHECK_STR(expand(&al, a, c->who), c->want, c->who);
    CHECK_STR(expand(&(struct aliases){ 0 }, a, S("one@a.example")), S(""));
    table_free(t);
}

/* What other mail systems would run, include or write to is no address, and nothing else either. */
TASK_TEST(attack_22_aliases_run_nothing)
{
    static const str odd[] = { S("|touch@a.example"), S("\"|/bin/sh\""), S(":include:/etc/passwd"), S("/etc/passwd"), S("$(id)"), S("`id`"), S("a;id@a.example") };
    AUTO_ARENA a = arena_new();

    EACH(odd, o) {
        AUTO_BUF text = { 0 };
        buf_addf(&text, "x@a.example %.*s\n", STR(*o));
        buf_addc(&text, 0);
        struct table *t = list_of(text.p);
        str got = expand(&(struct aliases){ .table = &t, .ntable = 1 }, a, S("x@a.example"));
        struct path p;
        CHECK(str_eq(got, S("syntax")) || (address_parse(got, &p) == OK && str_ends(got, S("@a.example"))), *o);
        table_free(t);
    }
}

TASK_TEST(alias_expand_has_a_limit)
{
    AUTO_ARENA a = arena_new();
    AUTO_BUF text = { 0 };

    buf_add(&text, S("wide@a.example "));
    for (int i = 0; i < 120; i++)
        buf_addf(&text, "%sw%d", i ? "," : "", i);
    for (int i = 0; i < 120; i++) {
        buf_addf(&text, "\nw%d@a.example ", i);
        for (int k = 0; k < 10; k++)
            buf_addf(&text, "%sx%d", k ? "," : "", i * 10 + k);
    }
    buf_addc(&text, '\n');
    buf_addc(&text, 0);
    struct table *t = list_of(text.p);
    struct aliases al = { .table = &t, .ntable = 1 };
    CHECK_STR(expand(&al, a, S("wide@a.example")), S("limit")); /* 1,200 */
    CHECK_STR(expand(&al, a, S("w7@a.example")), S("x70@a.example x71@a.example x72@a.example x73@a.example x74@a.example x75@a.example x76@a.example x77@a.example "
                                                  "x78@a.example x79@a.example"));
    table_free(t);
}

TEST(aliases_that_lead_nowhere_are_told)
{
    AUTO_ARENA a = arena_new();
    struct relay_domain d = { 0 };
    struct table *t = list_of("team@in.example ann@in.example\none@in.example two@in.example\ntwo@in.example one@in.example\n@gone.example @in.example\n"
                              "root@mx.example ann@in.example\nabuse ann@in.example\nsales*@else.example ann@in.example\nshut@in.example bounce:closed\n");
    str path = S("aliases");
    struct routes r = { .aliases = { .table = &t, .path = &path, .ntable = 1 } };
    struct diags ds = { .a = a };

    map_put(&r.exact, S("in.example"), &d);
    aliases_check(&r, S("mx.example"), &ds);
    CHECK_INT(ds.n, 3);
    CHECK_INT(ds.errors, 0);
    bool round = false, foreign = false;
    for (size_t i = 0; i < ds.n; i++) {
        round |= str_starts(ds.p[i].text, S("\"one@in.example\": aliases lead round and round"));
        foreign |= str_starts(ds.p[i].text, S("\"@gone.example\": its domain is no relay_domain"));
    }
    CHECK(round && foreign);
    map_free(&r.exact);
    table_free(t);
}
