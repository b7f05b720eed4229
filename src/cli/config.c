/* config: what is in force and where it was said, what would change, and the manual of all that could be. */
#include "cli/cli.h"

#include <jansson.h>
#include <stdio.h>

#define ORIGIN_COLUMN 48

/* ---- show ---- */

struct printer { arena *a; bool json; struct buf out; };

static void indent(struct buf *out, unsigned deep)
{
    for (unsigned i = 0; i < 4 * deep; i++)
        buf_addc(out, ' ');
}

static void add_member(struct buf *out, const char *key, str value)
{
    buf_addf(out, "\"%s\":", key);
    buf_add_json(out, value);
}

static void add_origin(struct buf *out, const char *before, const struct conf_line *line)
{
    buf_addf(out, ",\"%sorigin\":\"%s\"", before, !line->line ? "default" : line->env ? "env" : "file");
    if (!line->line)
        return;
    buf_addf(out, ",\"%sfile\":", before);
    buf_add_json(out, line->file);
    buf_addf(out, ",\"%sline\":%u", before, line->line);
}

static bool print_line(void *printer, const struct conf_line *line)
{
    struct printer *p = printer;
    size_t from = p->out.n;

    if (p->json && line->end)
        return true;
    if (p->json) {
        buf_addc(&p->out, '{');
        add_member(&p->out, "where", line->where);
        buf_addc(&p->out, ',');
        add_member(&p->out, "setting", line->text);
        add_origin(&p->out, "", line);
        buf_add(&p->out, S("}\n"));
        return true;
    }
    indent(&p->out, line->deep);
    buf_add(&p->out, line->text);
    if (!line->end) {
        do
            buf_addc(&p->out, ' ');
        while (p->out.n - from < ORIGIN_COLUMN);
        buf_addf(&p->out, "# %.*s", STR(conf_origin(p->a, line)));
    }
    buf_addc(&p->out, '\n');
    return true;
}

static struct settings *load(const char *path, struct diags *d)
{
    *d = (struct diags){ .a = arena_new() };
    struct settings *s = settings_load(str_z(path), NULL, d);

    if (d->n) {
        AUTO_BUF text = { 0 };
        diags_print(d, &text);
        fwrite(text.p, 1, text.n, stderr);
    }
    if (!s)
        arena_free(d->a);
    return s;
}

static int config_show_file(const char *path, bool effective, bool json)
{
    AUTO_ARENA a = arena_new();
    struct printer p = { .a = a, .json = json };
    struct diags d;
    struct settings *s = load(path, &d);

    if (!s)
        return CLI_USAGE;
    if (!json)
        buf_add(&p.out, S("waypost 1\n"));
    conf_show(settings_table(), &s->tree, &(struct conf_view){ .presets = effective, .paths = &s->paths, .each = print_line, .ctx = &p });
    fwrite(p.out.p, 1, p.out.n, stdout);
    buf_free(&p.out);
    snapshot_drop(&s->snapshot);
    return CLI_DONE;
}

/* ---- diff ---- */

static bool gather(void *gathered, const struct conf_line *line)
{
    conf_gather(gathered, line);
    return true;
}

/* A file by itself: what it names need not be there. */
static int gather_file(struct gathered *g, const char *path)
{
    struct diags d = { .a = g->a };
    struct node tree;
    AUTO_BUF text = { 0 };

    if (conf_parse(g->a, str_z(path), NULL, &tree, &d) != OK) {
        cli_say("%.*s", STR(err_text()));
        return CLI_USAGE;
    }
    diags_print(&d, &text);
    if (text.n)
        fwrite(text.p, 1, text.n, stderr);
    if (d.errors)
        return CLI_USAGE;
    conf_show(settings_table(), &tree, &(struct conf_view){ .presets = true, .each = gather, .ctx = g });
    return CLI_DONE;
}

/* The file as a reload would take it. */
static int gather_loaded(struct gathered *g, const char *path)
{
    struct diags d;
    struct settings *s = load(path, &d);

    if (!s) {
        cli_say("a reload would change nothing: the file has errors");
        return CLI_USAGE;
    }
    conf_show(settings_table(), &s->tree, &(struct conf_view){ .presets = true, .paths = &s->paths, .each = gather, .ctx = g });
    snapshot_drop(&s->snapshot);
    return CLI_DONE;
}

static void gather_line(void *gathered, const json_t *line, str text)
{
    struct conf_line shown = { .text = json_text(line, "text"), .file = json_text(line, "file"), .line = (uint32_t)json_number(line, "line"),
                           .env = json_number(line, "env") != 0 };

    (void)text;
    conf_gather(gathered, &shown);
}

static int gather_running(struct gathered *g, const struct relay_at *at)
{
    AUTO(caller) c = NULL;
    int code = caller_open(at, &c);

    return code == CLI_DONE ? caller_ask(c, json_pack("{s:s}", "do", "config.show"), gather_line, g) : code;
}

struct changes { arena *a; struct buf *out; };

static void add_side(struct changes *x, const char *side, const struct node *n)
{
    struct conf_line at = { .file = n->name.at.file, .line = n->name.at.line, .env = n->name.env };
    char before[16];

    buf_addf(x->out, ",\"%s\":", side);
    buf_add_json(x->out, conf_words(x->a, n));
    snprintf(before, sizeof before, "%s_", side);
    add_origin(x->out, before, &at);
}

static void change_json(void *changes, const struct conf_change *c)
{
    struct changes *x = changes;

    buf_addc(x->out, '{');
    add_member(x->out, "where", c->where);
    if (c->order) {
        buf_addc(x->out, ',');
        add_member(x->out, "order", c->is->name.text);
    } else {
        if (c->was)
            add_side(x, "was", c->was);
        if (c->is)
            add_side(x, "is", c->is);
    }
    buf_addf(x->out, ",\"at_start\":%s}\n", c->at_start ? "true" : "false");
}

static int differences(arena *a, struct gathered *was, struct gathered *is, bool json)
{
    struct node old, new;
    struct buf out = buf_in(a, 1024);

    if (conf_gathered(was, settings_table(), &old) != OK || conf_gathered(is, settings_table(), &new) != OK) {
        cli_say("the configurations cannot be compared: %.*s", STR(err_text()));
        return CLI_USAGE;
    }
    if (json)
        conf_changes(a, settings_table(), &old, &new, change_json, &(struct changes){ a, &out });
    else
        conf_diff(a, settings_table(), &old, &new, &out);
    fwrite(out.p, 1, out.n, stdout);
    return out.n ? CLI_NO : CLI_DONE;
}

static int config_diff(const struct relay_at *at, char **file, bool json)
{
    AUTO_ARENA a = arena_new();
    struct gathered was = { .a = a }, is = { .a = a };
    int code;

    if (file[0])
        code = gather_file(&was, file[0]);
    else
        code = gather_running(&was, at);
    if (code != CLI_DONE)
        return code;
    code = file[0] ? gather_file(&is, file[1]) : gather_loaded(&is, at->config ? at->config : CLI_CONFIG);
    return code == CLI_DONE ? differences(a, &was, &is, json) : code;
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
    struct relay_at at = { 0 };
    bool json = false, effective = false;
    const struct flag flags[] = { RELAY_AT_FLAGS(at), { "effective", .on = &effective }, { "json", .on = &json }, { NULL } };

    int n = cli_flags(argc, argv, flags);
    if (n < 0)
        return CLI_USAGE;
    str what = n ? str_z(argv[1]) : (str){ 0 };
    if (str_eq(what, S("show")) && n <= 2) {
        if (at.dev || at.socket)
            return cli_usage("config", "show reads a file; `config diff` asks the running relay");
        return config_show_file(n == 2 ? argv[2] : at.config ? at.config : CLI_CONFIG, effective, json);
    }
    if (str_eq(what, S("diff")) && (n == 1 || n == 3)) {
        if (n == 1 && at.dev)
            return cli_usage("config", "the relay of `serve --dev` has no file to differ from");
        return config_diff(&at, argv + 2, json);
    }
    if (n == 1 && str_eq(what, S("manual")))
        return config_manual();
    return cli_usage("config", "it is `config show`, `config diff` or `config manual`");
}
