/* import: another server's configuration as ours. */
#include "cli/cli.h"
#include "cli/import.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

static const char *const words[BECAME_COUNT] = { "translated", "partly", "decide", "not translated", "refused", "needless" };

/* ---- the report ---- */

/* As one reads the files: main.cf, master.cf, the tables, and what stands in none. */
static int file_rank(str file)
{
    return str_eq(file, S("main.cf")) ? 0 : str_eq(file, S("master.cf")) ? 1 : file.n ? 2 : 3;
}

static int by_place(const void *a, const void *b)
{
    const struct finding *x = a, *y = b;
    int order = file_rank(x->file) - file_rank(y->file);

    if (!order)
        order = str_cmp(x->file, y->file);
    if (!order)
        order = (x->line > y->line) - (x->line < y->line);
    return order ? order : (x->order > y->order) - (x->order < y->order);
}

/* What is said of a parameter for each of many domains is said once. */
static bool is_told(const struct findings *all, size_t i)
{
    const struct finding *f = &all->p[i], *g;

    for (size_t k = i; k-- > 0 && i - k < 64;) {
        g = &all->p[k];
        if (g->line != f->line || !str_eq(g->file, f->file))
            return false;
        if (g->became == f->became && str_eq(g->name, f->name) && str_eq(g->text, f->text))
            return true;
    }
    return false;
}

static void report(struct postfix_conf *c, const struct made *m, bool json, FILE *to)
{
    size_t count[BECAME_COUNT] = { 0 };
    AUTO_BUF out = { 0 };

    if (c->findings.n)
        qsort(c->findings.p, c->findings.n, sizeof *c->findings.p, by_place);
    for (size_t i = 0; i < c->findings.n; i++) {
        const struct finding *f = &c->findings.p[i];
        if (is_told(&c->findings, i))
            continue;
        count[f->became]++;
        if (json) {
            buf_add(&out, S("{\"file\":"));
            buf_add_json(&out, f->file);
            buf_addf(&out, ",\"line\":%u,\"name\":", f->line);
            buf_add_json(&out, f->name);
            buf_addf(&out, ",\"result\":\"%s\",\"text\":", words[f->became]);
            buf_add_json(&out, f->text);
            buf_add(&out, S("}\n"));
            continue;
        }
        buf_addf(&out, f->line ? "%.*s:%u: " : "%.*s: ", STR(f->file.n ? tell_text(c->a, f->file) : S("(default)")), f->line);
        if (f->name.n)
            buf_addf(&out, "%.*s: ", STR(tell_text(c->a, f->name)));
        buf_addf(&out, "%s%s%.*s\n", words[f->became], f->text.n ? ": " : "", STR(tell_text(c->a, f->text)));
    }
    if (json)
        buf_addf(&out, "{\"decisions\":%zu", m->decisions);
    else
        buf_addc(&out, '\n');
    for (size_t i = 0; i < BECAME_COUNT; i++)
        buf_addf(&out, json ? ",\"%s\":%zu" : "%2$zu %1$s, ", words[i], count[i]);
    if (json)
        buf_add(&out, S("}\n"));
    else
        buf_addf(&out, "and %zu line%s that wait%s for your decision at the head of the configuration\n", m->decisions, m->decisions == 1 ? "" : "s", m->decisions == 1 ? "s" : "");
    fwrite(out.p, 1, out.n, to);
}

/* ---- files ---- */

static err write_file(arena *a, str dir, str name, str text, bool force)
{
    char *path = str_cz(a, str_printf(a, "%.*s%s%.*s", STR(dir), dir.n ? "/" : "", STR(name)));
    int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW | (force ? O_TRUNC : O_EXCL), 0644);

    if (fd < 0)
        return errno == EEXIST ? fail(E_EXISTS, "%s is there already; --force writes over it", path) : fail_errno(errno, "%s", path);
    err e = OK;
    for (size_t at = 0; e == OK && at < text.n;) {
        ssize_t n = write(fd, text.p + at, text.n - at);
        if (n < 0 && errno != EINTR)
            e = fail_errno(errno, "%s", path);
        at += n > 0 ? (size_t)n : 0;
    }
    if (close(fd) < 0 && e == OK)
        e = fail_errno(errno, "%s", path);
    return e;
}

static err write_all(arena *a, str dir, str name, const struct made *m, bool force)
{
    if (dir.n && mkdir(str_cz(a, dir), 0755) < 0 && errno != EEXIST)
        return fail_errno(errno, "%.*s", STR(dir));
    TRY(write_file(a, dir, name, m->config, force));
    for (size_t i = 0; i < m->nfile; i++)
        TRY(write_file(a, dir, m->file[i].name, m->file[i].text, force));
    return OK;
}

/* What `waypost check` would say of it. */
static int check(arena *a, str dir, str name)
{
    struct diags d = { .a = arena_new() };
    struct settings *s = settings_load(str_printf(a, "%.*s%s%.*s", STR(dir), dir.n ? "/" : "", STR(name)), NULL, &d);
    AUTO_BUF text = { 0 };

    if (d.n) {
        diags_print(&d, &text);
        fwrite(text.p, 1, text.n, stderr);
    }
    if (s)
        snapshot_drop(&s->snapshot);
    else
        arena_free(d.a);
    return s ? CLI_DONE : CLI_NO;
}

/* ---- the verb ---- */

/* Without slashes at its end: other names are put behind it. */
static str trimmed(str dir)
{
    while (dir.n > 1 && dir.p[dir.n - 1] == '/')
        dir.n--;
    return dir;
}

int cli_import(int argc, char **argv)
{
    const char *file = NULL, *out = NULL, *root = NULL;
    bool json = false, force = false;
    const struct flag flags[] = {
        { "output", 'o', .text = &file }, { "out", .text = &out }, { "root", .text = &root }, { "json", .on = &json }, { "force", .on = &force }, { NULL },
    };
    int left = cli_flags(argc, argv, flags);

    if (left < 0)
        return CLI_USAGE;
    if (left != 2 || strcmp(argv[1], "postfix") != 0)
        return cli_usage("import", "it is `import postfix DIR`, where DIR holds main.cf and master.cf");
    if (file && out)
        return cli_usage("import", "-o FILE or --out DIR, not both");
    AUTO_ARENA a = arena_new();
    struct postfix_conf c = { .a = a, .dir = trimmed(str_z(argv[2])), .root = trimmed(root ? str_z(root) : S("")) };
    struct made m;
    if (str_eq(c.root, S("/")))
        c.root = S("");
    if (pf_read(&c) != OK) {
        cli_say("%.*s", STR(err_text()));
        pf_free(&c);
        return CLI_USAGE;
    }
    pf_translate(&c, &m);
    pf_free(&c);
    if (!file && !out) {
        fwrite(m.config.p, 1, m.config.n, stdout);
        for (size_t i = 0; i < m.nfile; i++)
            cli_say("%.*s is needed beside it: -o FILE and --out DIR write both", STR(m.file[i].name));
        report(&c, &m, json, stderr);
        return CLI_DONE;
    }
    str path = str_z(file ? file : "waypost.conf"), dir = str_z(out ? out : "");
    size_t slash = path.n;
    while (file && slash && path.p[slash - 1] != '/')
        slash--;
    if (file && slash) {
        dir = slash > 1 ? str_head(path, slash - 1) : S("/");
        path = str_from(path, slash);
    }
    if (write_all(a, dir, path, &m, force) != OK) {
        cli_say("%.*s", STR(err_text()));
        return CLI_NO;
    }
    report(&c, &m, json, stdout);
    return check(a, dir, path);
}
