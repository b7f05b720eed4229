#include "kit/kit.h"
#include "conf/conf.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static const char *const words[] = { "low", "high", NULL };
static const struct setting sub[] = {
    { .name = "server", .type = CONF_OWN, .form = "ADDRESS:PORT [priority N]", .repeats = true,
      .help = "A server. The least is tried first." },
    { .name = "max_connections", .type = CONF_INT, .preset = "20", .least = 1, .most = 1000,
      .help = "Connections at once." },
    { 0 },
};
static const struct setting table[] = {
    { .name = "hostname", .type = CONF_DOMAIN, .form = "NAME", .required = true,
      .help = ".our \"own\" back\\slash name." },
    { .name = "level", .type = CONF_ENUM, .words = words, .preset = "low" },
    { .name = "idle", .type = CONF_TIME, .least = 1, .most = 3600 },
    { .name = "backend", .type = CONF_BLOCK, .form = "NAME", .sub = sub, .repeats = true, .help = "Where mail goes." },
    { 0 },
};

TEST(conf_manual_is_mdoc)
{
    AUTO_BUF out = { 0 };
    conf_manual(table, &out);
    CHECK_STR(buf_str(&out),
        S(".Bl -tag -width Ds\n"
          ".It Ic \\&hostname Ar \\&NAME\n"
          "\\&.our \\(dqown\\(dq back\\eslash name.\n"
          "Required.\n"
          ".It Ic \\&level Cm \\&low | Cm \\&high\n"
          "Default:\n.Ql low .\n"
          ".It Ic \\&idle Ar \\&TIME\n"
          "From 1s to 1h.\n"
          ".It Ic \\&backend Ar \\&NAME No { ... }\n"
          "Where mail goes.\n"
          "May be repeated.\n"
          ".El\n"
          ".Ss BACKEND\n"
          "Inside of\n.Ic \\&backend No { ... } :\n"
          ".Bl -tag -width Ds\n"
          ".It Ic \\&server Ar \\&ADDRESS:PORT Cm \\&[priority Ar \\&N]\n"
          "A server.\nThe least is tried first.\n"
          "May be repeated.\n"
          ".It Ic \\&max_connections Ar \\&NUMBER\n"
          "Connections at once.\n"
          "From 1 to 1000.\n"
          "Default:\n.Ql 20 .\n"
          ".El\n"));
}

TEST(conf_manual_passes_the_formatter)
{
    AUTO_BUF out = { 0 };
    char path[512], command[600];

    if (access("/usr/bin/mandoc", X_OK) != 0)
        return; /* not installed: the text above was compared */
    buf_add(&out, S(".Dd $Mdocdate$\n.Dt WAYPOST.CONF 5\n.Os\n.Sh NAME\n.Nm waypost.conf\n.Nd the configuration\n"
                    ".Sh DIRECTIVES\n"));
    conf_manual(table, &out);
    buf_add(&out, S(".Sh DIAGNOSTICS\n"));
    conf_manual_numbers(&out);
    snprintf(path, sizeof path, "%s/waypost.conf.5", kit_dir());
    FILE *f = fopen(path, "w");
    must(f);
    CHECK_INT(fwrite(out.p, 1, out.n, f), out.n);
    fclose(f);
    snprintf(command, sizeof command, "mandoc -T lint -W warning %s >&2", path);
    CHECK_INT(system(command), 0);
}
