/* serve, check: the verbs that read a configuration for good. */
#include "cli/cli.h"

#include <stdio.h>

int cli_serve(int argc, char **argv)
{
    struct serve_options o = { 0 };
    const char *config = NULL;
    const struct flag flags[] = {
        { "config", 'c', .text = &config }, { "dev", .on = &o.dev }, { "as-is", .on = &o.foreground_as_is }, { NULL },
    };

    int n = cli_flags(argc, argv, flags);
    if (n < 0)
        return CLI_USAGE;
    if (n > 0)
        return cli_usage("serve", "what is \"%s\" for?", argv[1]);
    if (config && o.dev)
        return cli_usage("serve", "--dev needs no configuration");
    o.config = str_z(config ? config : CLI_CONFIG);
    return serve(&o);
}

/* The arena of `d` is the settings' when there are any. */
static struct settings *read_settings(const char *path, struct diags *d)
{
    *d = (struct diags){ .a = arena_new() };
    return settings_load(str_z(path), NULL, d);
}

static void forget_settings(struct settings *s, struct diags *d)
{
    if (s)
        snapshot_drop(&s->snapshot);
    else
        arena_free(d->a);
}

int cli_check(int argc, char **argv)
{
    const char *config = CLI_CONFIG;
    bool json = false;
    const struct flag flags[] = { { "config", 'c', .text = &config }, { "json", .on = &json }, { NULL } };
    AUTO_BUF out = { 0 };
    struct diags d;

    int n = cli_flags(argc, argv, flags);
    if (n < 0)
        return CLI_USAGE;
    if (n > 1)
        return cli_usage("check", "one file at a time");
    if (n == 1)
        config = argv[1];
    struct settings *s = read_settings(config, &d);
    size_t errors = d.errors, warnings = d.n + d.dropped - errors;
    if (json) {
        diags_print_json(&d, &out);
        buf_addc(&out, '\n');
    } else {
        diags_print(&d, &out);
        if (s)
            buf_addf(&out, "%s: good%s\n", config, warnings ? ", with warnings" : "");
        else
            buf_addf(&out, "%s: %zu error%s; the relay would not run on it\n", config, errors, errors == 1 ? "" : "s");
    }
    fwrite(out.p, 1, out.n, stdout);
    forget_settings(s, &d);
    return s ? CLI_DONE : CLI_USAGE;
}
