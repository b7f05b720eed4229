#include "kit/kit.h"
#include "cli/cli.h"

#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

/* What is said on stderr is not what these tests are about. */
static int quiet(void)
{
    fflush(stderr);
    int was = dup(STDERR_FILENO), null = open("/dev/null", O_WRONLY | O_CLOEXEC);
    dup2(null, STDERR_FILENO);
    close(null);
    return was;
}

static void loud(int was)
{
    fflush(stderr);
    dup2(was, STDERR_FILENO);
    close(was);
}

TEST(cli_flags_are_taken_out)
{
    bool json = false;
    const char *file = NULL;
    uint64_t limit = 0;
    const struct flag flags[] = {
        { "json", .on = &json }, { "config", 'c', .text = &file }, { "limit", .number = &limit }, { NULL },
    };
    char *argv[] = { "list", "a", "--json", "-c", "x.conf", "--limit=7", "b", "--", "--c", NULL };

    CHECK_INT(cli_flags(9, argv, flags), 3);
    CHECK(json);
    CHECK_STR(str_z(file), S("x.conf"));
    CHECK_INT(limit, 7);
    CHECK_STR(str_z(argv[1]), S("a"));
    CHECK_STR(str_z(argv[2]), S("b"));
    CHECK_STR(str_z(argv[3]), S("--c"));
    CHECK(argv[4] == NULL);

    char *glued[] = { "list", "-cy.conf", NULL };
    CHECK_INT(cli_flags(2, glued, flags), 0);
    CHECK_STR(str_z(file), S("y.conf"));
}

TEST(cli_flags_that_are_wrong)
{
    bool json = false;
    uint64_t limit = 0;
    const struct flag flags[] = { { "json", 'j', .on = &json }, { "limit", .number = &limit }, { NULL } };
    static const struct { char *words[3]; } cases[] = {
        { { "list", "--jsno" } }, { { "list", "-x" } }, { { "list", "--json=1" } }, { { "list", "-j1" } },
        { { "list", "--limit" } }, { { "list", "--limit=many" } }, { { "list", "--limit=" } },
    };
    int was = quiet();
    EACH(cases, c) {
        char *argv[] = { c->words[0], c->words[1], NULL };
        CHECK_INT(cli_flags(2, argv, flags), -1, str_z(c->words[1]));
    }
    loud(was);
}

TEST(cli_flags_none)
{
    const struct flag flags[] = { { NULL } };
    char *argv[] = { "list", NULL }, *dashes[] = { "list", "--", NULL }, *one[] = { "list", "-", NULL };

    CHECK_INT(cli_flags(1, argv, flags), 0);
    CHECK_INT(cli_flags(2, dashes, flags), 0);
    CHECK(dashes[1] == NULL);
    CHECK_INT(cli_flags(2, one, flags), 1); /* a file's name */
}
