/* serve: the verb that is the relay. */
#include "cli/cli.h"

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
