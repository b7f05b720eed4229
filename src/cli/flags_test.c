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

/* A command line of words with blanks between them. */
static int split(arena *a, str line, char **argv)
{
    int argc = 0;
    for (str word; str_word(&line, &word); )
        argv[argc++] = str_cz(a, word);
    argv[argc] = NULL;
    return argc;
}

TEST(cli_flags_are_taken_out)
{
    AUTO_ARENA a = arena_new();
    bool json = false;
    const char *file = NULL;
    uint64_t limit = 0;
    const struct flag flags[] = {
        { "json", .on = &json }, { "config", 'c', .text = &file }, { "limit", .number = &limit }, { NULL },
    };
    char *argv[16];

    CHECK_INT(cli_flags(split(a, S("list a --json -c x.conf --limit=7 b -- --c"), argv), argv, flags), 3);
    CHECK(json);
    CHECK_STR(str_z(file), S("x.conf"));
    CHECK_INT(limit, 7);
    CHECK_STR(str_z(argv[1]), S("a"));
    CHECK_STR(str_z(argv[2]), S("b"));
    CHECK_STR(str_z(argv[3]), S("--c"));
    CHECK(argv[4] == NULL);

    struct flag_values many = { 0 };
    const struct flag again[] = { { "at", 'l', .many = &many }, { NULL } };
    CHECK_INT(cli_flags(split(a, S("list -l one --at two --at=three"), argv), argv, again), 0);
    CHECK_INT(many.n, 3);
    CHECK_STR(str_z(many.p[2]), S("three"));

    CHECK_INT(cli_flags(split(a, S("list -cy.conf"), argv), argv, flags), 0);
    CHECK_STR(str_z(file), S("y.conf"));
}

TEST(cli_flags_that_are_wrong)
{
    AUTO_ARENA a = arena_new();
    bool json = false;
    uint64_t limit = 0;
    const struct flag flags[] = { { "json", 'j', .on = &json }, { "limit", .number = &limit }, { NULL } };
    static const str cases[] = {
        S("list --jsno"), S("list -x"), S("list --json=1"), S("list -j1"), S("list --limit"), S("list --limit=many"), S("list --limit="),
    };
    char *argv[16];
    int was = quiet();
    EACH(cases, c)
        CHECK_INT(cli_flags(split(a, *c, argv), argv, flags), -1, *c);
    loud(was);
}

TEST(cli_flags_none)
{
    AUTO_ARENA a = arena_new();
    const struct flag flags[] = { { NULL } };
    char *argv[16];

    CHECK_INT(cli_flags(split(a, S("list"), argv), argv, flags), 0);
    CHECK_INT(cli_flags(split(a, S("list --"), argv), argv, flags), 0);
    CHECK(argv[1] == NULL);
    CHECK_INT(cli_flags(split(a, S("list -"), argv), argv, flags), 1); /* a file's name */
}
