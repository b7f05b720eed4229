#include "cli/cli.h"
#include "kit/kit.h"

#include <stdio.h>

/* A relay is found by its configuration as it finds itself: also where that does not name the control socket. */
TEST(relay_socket_is_where_the_settings_put_it)
{
    static const char *const controls[] = { "", "control run/other.sock\n" };

    EACH(controls, control) {
        struct diags d = { .a = arena_new() };
        char path[200];
        str found;

        snprintf(path, sizeof path, "%s/relay.conf", kit_dir());
        FILE *f = fopen(path, "w");
        fprintf(f, "waypost 1\nhostname mx.example.com\npostmaster p@example.com\nlisten smtp 127.0.0.1:2525\nspool { dir here/spool }\n%s"
                   "backend b { server 127.0.0.1:1 }\nrelay_domain example.com { backend b; recipients any }\n", *control);
        fclose(f);
        struct settings *s = settings_load(str_z(path), NULL, &d);
        if (!CHECK(s != NULL, str_z(*control)))
            continue;
        CHECK_INT(relay_socket(d.a, &(struct relay_at){ .config = path }, &found), CLI_DONE);
        CHECK_STR(found, s->control, str_z(*control));
        snapshot_drop(&s->snapshot);
    }
}
