#include "kit/kit.h"
#include "main/inside.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#define SOMEBODY 65534

static struct stat look(const char *path)
{
    struct stat st = { 0 };
    CHECK_INT(lstat(path, &st), 0, str_z(path));
    return st;
}

static void put(const char *path)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    CHECK(fd >= 0, str_z(path));
    close(fd);
}

static const char *in(const char *base, const char *name)
{
    static char text[64][512];
    static unsigned n;
    char *t = text[n++ % 64];
    snprintf(t, sizeof text[0], "%s/%s", base, name);
    return t;
}

TEST(files_prepare_makes_what_is_missing)
{
    const char *dir = kit_dir();
    struct identity me = { .uid = geteuid(), .gid = getegid() };
    struct settings s = { .spool.dir = str_z(in(dir, "a/b/spool")), .control = str_z(in(dir, "run/control.sock")) };

    CHECK_ERR(files_prepare(&s, &me), OK);
    CHECK_INT(look(in(dir, "a/b/spool")).st_mode & 0777, 0700);
    CHECK(S_ISDIR(look(in(dir, "run")).st_mode));
    CHECK_ERR(files_prepare(&s, &me), OK);
    put(in(dir, "file"));
    s.spool.dir = str_z(in(dir, "file/spool"));
    CHECK(files_prepare(&s, &me) != OK);
}

TEST(attack_55_files_prepare_refuses_a_spool_of_everybody)
{
    const char *dir = kit_dir();
    struct identity me = { .uid = geteuid(), .gid = getegid() };
    struct settings s = { .spool.dir = str_z(in(dir, "spool")), .control = str_z(in(dir, "run/control.sock")) };

    CHECK_INT(mkdir(in(dir, "spool"), 0700), 0);
    CHECK_ERR(files_prepare(&s, &me), OK);
    CHECK_INT(chmod(in(dir, "spool"), 0777), 0);
    CHECK_ERR(files_prepare(&s, &me), E_PERM);
    CHECK_INT(chmod(in(dir, "spool"), 01777), 0);
    CHECK_ERR(files_prepare(&s, &me), E_PERM);
}

/* As root; what is given away, and what is not. */
TEST(files_prepare_gives_the_spool_away)
{
    const char *dir = kit_dir();
    struct identity who = { .change = true, .uid = SOMEBODY, .gid = SOMEBODY, .name = "somebody" };
    struct settings s = { .spool.dir = str_z(in(dir, "spool")), .control = str_z(in(dir, "run/control.sock")) };

    if (geteuid() != 0)
        return;
    CHECK_INT(mkdir(in(dir, "spool"), 0700), 0);
    put(in(dir, "spool/segment"));
    put(in(dir, "elsewhere"));
    CHECK_INT(link(in(dir, "elsewhere"), in(dir, "spool/hard")), 0);
    CHECK_INT(symlink(in(dir, "elsewhere"), in(dir, "spool/soft")), 0);
    CHECK_ERR(files_prepare(&s, &who), OK);
    CHECK_INT(look(in(dir, "spool")).st_uid, SOMEBODY);
    CHECK_INT(look(in(dir, "spool/segment")).st_uid, SOMEBODY);
    CHECK_INT(look(in(dir, "elsewhere")).st_uid, 0);
    CHECK_INT(look(in(dir, "run")).st_uid, 0);

    /* Once it is the user's, what is in there is not touched again. */
    put(in(dir, "spool/roots"));
    CHECK_ERR(files_prepare(&s, &who), OK);
    CHECK_INT(look(in(dir, "spool/roots")).st_uid, 0);

    /* A link may have been put there by the user. */
    CHECK_INT(mkdir(in(dir, "precious"), 0700), 0);
    CHECK_INT(symlink(in(dir, "precious"), in(dir, "link")), 0);
    s.spool.dir = str_z(in(dir, "link"));
    CHECK_ERR(files_prepare(&s, &who), OK);
    CHECK_INT(look(in(dir, "precious")).st_uid, 0);
}

TEST(log_file_is_opened_anew)
{
    const char *dir = kit_dir();
    bool root = geteuid() == 0;
    struct identity who = { .change = root, .uid = root ? SOMEBODY : geteuid(), .gid = root ? SOMEBODY : getegid(), .name = "somebody" };
    struct settings s = { .log = { .level = LOG_INFO, .form = LOG_FORM_TEXT, .file = str_z(in(dir, "log")) } };

    CHECK_ERR(log_open(&s, &who), OK);
    log_parent();
    log_info("first");
    CHECK_INT(rename(in(dir, "log"), in(dir, "log.1")), 0);
    log_info("second");
    log_reopen();
    log_info("third");
    CHECK_INT(look(in(dir, "log")).st_uid, who.uid);
    off_t one = look(in(dir, "log.1")).st_size, three = look(in(dir, "log")).st_size;
    CHECK(one > three && three > 20);

    /* Not through a link. */
    put(in(dir, "precious"));
    CHECK_INT(unlink(in(dir, "log")), 0);
    CHECK_INT(symlink(in(dir, "precious"), in(dir, "log")), 0);
    log_stop();
    log_start(&(struct log_setup){ .fd = open("/dev/null", O_WRONLY | O_CLOEXEC) });
    log_reopen();
    log_stop();
    CHECK_INT(look(in(dir, "precious")).st_size, 0);
    CHECK_INT(look(in(dir, "precious")).st_uid, geteuid());

    s.log.file = (str){ 0 };
    CHECK_ERR(log_open(&s, &who), OK);
}
