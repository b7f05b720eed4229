/* config: what is in force and where it was said, and the manual of all that could be. */
#include "cli/cli.h"

#include <stdio.h>

#define ORIGIN_COLUMN 48

/* ---- show ---- */

static bool bare(str s)
{
    for (size_t i = 0; i < s.n; i++)
        if (s.p[i] <= ' ' || s.p[i] == 127 || strchr("\"{};[]#$", s.p[i]))
            return false;
    return s.n > 0;
}

static void add_token(struct buf *out, const struct token *t)
{
    buf_addc(out, ' ');
    if (t->list) {
        buf_addc(out, '[');
        for (size_t i = 0; i < t->nitem; i++)
            add_token(out, &t->item[i]);
        buf_add(out, S(" ]"));
        return;
    }
    /* An address in brackets is a word, not a list. */
    if (bare(t->text) || (!t->quoted && t->text.n)) {
        buf_add(out, t->text);
        return;
    }
    buf_addc(out, '"');
    for (size_t i = 0; i < t->text.n; i++) {
        if (strchr("\"\\$", t->text.p[i]))
            buf_addc(out, '\\');
        buf_addc(out, t->text.p[i]);
    }
    buf_addc(out, '"');
}

static void indent(struct buf *out, unsigned deep)
{
    for (unsigned i = 0; i < 4 * deep; i++)
        buf_addc(out, ' ');
}

/* "  # FILE:LINE" behind a line that began at `from`. */
static void add_origin(struct buf *out, size_t from, const struct place *at)
{
    do
        buf_addc(out, ' ');
    while (out->n - from < ORIGIN_COLUMN);
    if (at)
        buf_addf(out, "# %.*s:%u\n", STR(at->file), at->line);
    else
        buf_add(out, S("# default\n"));
}

static void show_table(struct buf *out, const struct setting *table, const struct node *block, unsigned deep);

/* What a file should not say in plain text, this does not say at all: `password WORD`, `bearer WORD`. */
static bool is_secret(const struct node *n, size_t arg)
{
    str before = arg ? n->arg[arg - 1].text : n->name.text;

    return str_eq(before, S("password")) || str_eq(before, S("bearer"));
}

static void show_node(struct buf *out, const struct setting *s, const struct node *n, unsigned deep)
{
    size_t from = out->n;

    indent(out, deep);
    buf_add(out, n->name.text);
    for (size_t i = 0; i < n->narg; i++)
        if (is_secret(n, i) && !conf_secret_kept(n->arg[i].text))
            buf_add(out, S(" (secret)"));
        else
            add_token(out, &n->arg[i]);
    if (n->block)
        buf_add(out, S(" {"));
    add_origin(out, from, &n->name.at);
    if (!n->block)
        return;
    if (s && s->sub)
        show_table(out, s->sub, n, deep + 1);
    else
        for (size_t i = 0; i < n->nchild; i++)
            show_node(out, NULL, &n->child[i], deep + 1);
    indent(out, deep);
    buf_add(out, S("}\n"));
}

/* A block that was not given is shown when it is the one of its kind: what stands in it has values all the same. */
static void show_preset(struct buf *out, const struct setting *s, unsigned deep)
{
    size_t from = out->n;
    bool presets = false;

    indent(out, deep);
    buf_addf(out, "%s", s->name);
    if (s->preset) {
        buf_addf(out, *s->preset ? " %s" : "%s", s->preset);
        add_origin(out, from, NULL);
        return;
    }
    for (const struct setting *sub = s->sub; sub && sub->name; sub++)
        presets |= sub->preset != NULL;
    if (s->type != CONF_BLOCK || s->repeats || !presets) {
        out->n = from;
        return;
    }
    buf_add(out, S(" {"));
    add_origin(out, from, NULL);
    show_table(out, s->sub, NULL, deep + 1);
    indent(out, deep);
    buf_add(out, S("}\n"));
}

/* In the order of the table, so that two relays can be compared. */
static void show_table(struct buf *out, const struct setting *table, const struct node *block, unsigned deep)
{
    for (const struct setting *s = table; s->name; s++) {
        bool given = false;
        for (size_t i = 0; block && i < block->nchild; i++)
            if (str_eq(block->child[i].name.text, str_z(s->name))) {
                show_node(out, s, &block->child[i], deep);
                given = true;
            }
        if (!given)
            show_preset(out, s, deep);
    }
}

static int config_show(const char *path)
{
    struct diags d = { .a = arena_new() };
    struct settings *s = settings_load(str_z(path), NULL, &d);
    AUTO_BUF out = { 0 };

    if (d.n) {
        AUTO_BUF text = { 0 };
        diags_print(&d, &text);
        fwrite(text.p, 1, text.n, stderr);
    }
    if (!s) {
        arena_free(d.a);
        return CLI_USAGE;
    }
    buf_add(&out, S("waypost 1\n"));
    show_table(&out, settings_table(), &s->tree, 0);
    fwrite(out.p, 1, out.n, stdout);
    snapshot_drop(&s->snapshot);
    return CLI_DONE;
}

/* ---- manual ---- */

static const char manual_head[] =
    ".Dd November 23, 2026\n"
    ".Dt WAYPOST.CONF 5\n"
    ".Os\n"
    ".Sh NAME\n"
    ".Nm waypost.conf\n"
    ".Nd configuration of the mail relay waypost\n"
    ".Sh DESCRIPTION\n"
    ".Xr waypost 8\n"
    "reads\n"
    ".Pa " CLI_CONFIG "\n"
    "unless told another file.\n"
    "Nothing is trusted and nothing is open by default, and no setting stands twice: an unknown directive, a second\n"
    ".Ic hostname\n"
    "or a value out of its range is an error, and with errors the relay does not start, or keeps the configuration it has.\n"
    ".Ic waypost check\n"
    "tells all of them in one run.\n"
    ".Ss Form\n"
    "A directive is a name with arguments, ended by a new line or a semicolon, and for some a block in braces:\n"
    ".Bd -literal -offset indent\n"
    "waypost 1                      # the first line: version of the form\n"
    "hostname mx1.example.com\n"
    "backend exchange {\n"
    "    server ex01.corp.example.com:25 priority 10\n"
    "    max_connections 20\n"
    "}\n"
    "include conf.d/*.conf          # sorted by name\n"
    ".Ed\n"
    ".Pp\n"
    "A comment begins with\n"
    ".Ql #\n"
    "where a word could begin.\n"
    "Quotes are for values with blanks.\n"
    "A list in brackets may span lines.\n"
    ".Ql ${NAME}\n"
    "and\n"
    ".Ql ${NAME:-default}\n"
    "stand for variables of the environment.\n"
    "Paths are relative to the file they stand in.\n"
    ".Pp\n"
    "Times are written\n"
    ".Ql 30s , 5m , 2h , 7d ;\n"
    "sizes\n"
    ".Ql 25MB\n"
    "(10^6) or\n"
    ".Ql 64KiB\n"
    "(2^10); numbers\n"
    ".Ql 10 , 10k , 2M ;\n"
    "rates\n"
    ".Ql 200/min .\n"
    ".Ss Reload\n"
    "SIGHUP or\n"
    ".Ic waypost reload\n"
    "reads the file anew.\n"
    "Sessions go on and are judged by the new configuration from their next message on.\n"
    "These take effect at the next start only:\n"
    ".Ic user , threads , spool , control\n"
    "and lists in directories that the running relay had no leave to read before.\n"
    ".Sh DIRECTIVES\n";

static const char manual_files[] =
    ".Sh FILES\n"
    ".Bl -tag -width Ds\n"
    ".It Pa " CLI_CONFIG "\n"
    "The configuration.\n"
    ".El\n";
static const char manual_tail[] =
    ".Sh SEE ALSO\n"
    ".Xr waypost 8\n";

static int config_manual(void)
{
    AUTO_BUF out = { 0 };

    buf_add(&out, str_z(manual_head));
    conf_manual(settings_table(), &out);
    buf_add(&out, str_z(manual_files));
    buf_add(&out, S(".Sh DIAGNOSTICS\n"));
    conf_manual_numbers(&out);
    buf_add(&out, str_z(manual_tail));
    fwrite(out.p, 1, out.n, stdout);
    return CLI_DONE;
}

int cli_config(int argc, char **argv)
{
    const char *config = CLI_CONFIG;
    const struct flag flags[] = { { "config", 'c', .text = &config }, { NULL } };

    int n = cli_flags(argc, argv, flags);
    if (n < 0)
        return CLI_USAGE;
    str what = n ? str_z(argv[1]) : (str){ 0 };
    if (n == 1 && str_eq(what, S("show")))
        return config_show(config);
    if (n == 1 && str_eq(what, S("manual")))
        return config_manual();
    return cli_usage("config", "it is `config show` or `config manual`");
}
