/* main.cf, a NUL, master.cf, a NUL, a table's text: read and translated whatever they hold, and what comes out is one configuration whose
 * networks are networks. No file is there. */
#include "cli/import.h"
#include "kit/kit.h"
#include "net/net.h"

static void check_line(str line)
{
    str word;

    for (size_t i = 0; i < line.n; i++)
        must(!ascii_control(line.p[i]));
    if (!str_starts(line, S("network ")))
        return;
    must(str_word(&line, &word) && str_word(&line, &word));
    while (str_word(&line, &word) && !str_eq(word, S("{"))) {
        struct cidr c;
        must(cidr_parse(word, &c) == OK && c.bits > 0);
    }
}

FUZZ(data, size)
{
    AUTO_ARENA a = arena_new();
    str rest = str_of((const char *)data, size), part[3] = { { 0 } }, line;
    struct postfix_conf c = { .a = a, .dir = S("/nonexistent/etc"), .root = S("/nonexistent") };
    struct pf_table t = { 0 };
    struct made m;

    for (size_t i = 0; i < COUNT(part) && str_cut(&rest, str_of("", 1), &part[i]); i++)
        ;
    pf_read_main(&c, S("main.cf"), part[0]);
    pf_read_master(&c, S("master.cf"), part[1]);
    for (unsigned form = PF_HASH; form <= PF_CIDR; form++)
        pf_read_table(&c, S("table"), part[2], form, &t);
    for (size_t i = 0; i < t.n; i++)
        must(pf_look(&t, t.entry[i].key) || t.entry[i].key.n > 512);
    for (size_t i = 0; i < c.nparam; i++)
        must(pf_value(&c, str_cz(a, c.param[i].name)).n <= 300000);
    pf_translate(&c, &m);
    rest = m.config;
    while (str_cut(&rest, S("\n"), &line))
        check_line(line);
    for (size_t i = 0; i < m.nfile; i++)
        must(m.file[i].name.n && str_findc(m.file[i].text, 0) == STR_NONE);
    pf_free(&c);
}
