#include "kit/kit.h"
#include "conf/conf.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static void put(const char *path, str text)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    must(fd >= 0 && write(fd, text.p, text.n) == (ssize_t)text.n && close(fd) == 0);
}

/* What a secret written so is; {NULL,0}: an error. */
static str secret_of(arena *a, str text, size_t *warnings)
{
    struct diags d = { .a = a };
    struct binder b = { .a = a, .diags = &d };
    struct token t = { .text = text, .at = { .file = S("/etc/x.conf"), .line = 1 } };
    struct secret s;
    bool ok = conf_secret(&b, &t, &s);

    CHECK_INT(ok, d.errors == 0, text);
    *warnings = d.n - d.errors;
    return ok ? s.text : (str){ 0 };
}

TEST(secret_is_read_from_where_it_is_kept)
{
    AUTO_ARENA a = arena_new();
    const char *dir = kit_dir();
    char path[256];
    size_t warnings;

    snprintf(path, sizeof path, "%s/word", dir);
    put(path, S("hush\n"));
    CHECK_STR(secret_of(a, str_printf(a, "file:%s", path), &warnings), S("hush"));
    CHECK_INT(warnings, 0);
    CHECK(!secret_of(a, str_printf(a, "file:%s/none", dir), &warnings).p);

    unsetenv("CREDENTIALS_DIRECTORY");
    CHECK(!secret_of(a, S("cred:word"), &warnings).p);
    setenv("CREDENTIALS_DIRECTORY", dir, 1);
    CHECK_STR(secret_of(a, S("cred:word"), &warnings), S("hush"));
    CHECK(!secret_of(a, S("cred:../word"), &warnings).p);
    CHECK(!secret_of(a, S("cred:"), &warnings).p);
    unsetenv("CREDENTIALS_DIRECTORY");

    setenv("WAYPOST_TEST_SECRET", "from outside", 1);
    CHECK_STR(secret_of(a, S("env:WAYPOST_TEST_SECRET"), &warnings), S("from outside"));
    unsetenv("WAYPOST_TEST_SECRET");
    CHECK(!secret_of(a, S("env:WAYPOST_TEST_SECRET"), &warnings).p);

    CHECK_STR(secret_of(a, S("plain"), &warnings), S("plain"));
    CHECK_INT(warnings, 1);

    put(path, S("\n"));
    CHECK(!secret_of(a, str_printf(a, "file:%s", path), &warnings).p);
    AUTO_BUF long_one = { 0 };
    for (size_t i = 0; i < 5000; i++)
        buf_addc(&long_one, 'x');
    put(path, buf_str(&long_one));
    CHECK(!secret_of(a, str_printf(a, "file:%s", path), &warnings).p);
    put(path, S("a\0b"));
    CHECK(!secret_of(a, str_printf(a, "file:%s", path), &warnings).p);
}

/* The worker has given up the rights by which the secret was read first. */
TEST(secret_outlives_a_change_of_user)
{
    AUTO_ARENA a = arena_new();
    char path[256];
    size_t warnings;

    if (geteuid() != 0)
        return; /* nobody else can change */
    snprintf(path, sizeof path, "%s/word", kit_dir());
    put(path, S("hush"));
    CHECK_STR(secret_of(a, str_printf(a, "file:%s", path), &warnings), S("hush"));
    must(seteuid(65534) == 0);
    CHECK_STR(secret_of(a, str_printf(a, "file:%s", path), &warnings), S("hush"));
    CHECK_INT(warnings, 1);
    CHECK(!secret_of(a, str_printf(a, "file:%s.other", path), &warnings).p);
    must(seteuid(0) == 0);
    put(path, S("new"));
    CHECK_STR(secret_of(a, str_printf(a, "file:%s", path), &warnings), S("new"));
    CHECK_INT(warnings, 0);
}
