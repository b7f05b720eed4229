/* What the parent does with paths while it still may: directories made and given away, the log opened. And who it gives them to. */
#include "main/inside.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define DEFAULT_USER "waypost"

/* ---- who the worker becomes ---- */

err identity_find(const struct settings *s, struct identity *ret)
{
    struct passwd pw, *found = NULL;
    char room[2048];

    *ret = (struct identity){ .uid = geteuid(), .gid = getegid() };
    if (ret->uid != 0)
        return OK;
    str name = s->user.n ? s->user : S(DEFAULT_USER);
    if (name.n >= sizeof ret->name)
        return fail(E_NOTFOUND, "there is no user \"%.*s\"", STR(name));
    snprintf(ret->name, sizeof ret->name, "%.*s", STR(name));
    int number = getpwnam_r(ret->name, &pw, room, sizeof room, &found);
    if (number)
        return fail_errno(number, "looking up user \"%s\"", ret->name);
    if (!found && !s->user.n)
        return OK; /* then it stays root, and says so */
    if (!found)
        return fail(E_NOTFOUND, "there is no user \"%s\"; `adduser --system --group %s` makes one", ret->name, ret->name);
    ret->uid = pw.pw_uid;
    ret->gid = pw.pw_gid;
    ret->change = pw.pw_uid != 0;
    return OK;
}

/* ---- directories ---- */

/* A spool that root wrote in (a relay that ran without "user") becomes the user's, file by file. Only in a directory that
 * nobody but root could have put anything into. */
static err adopt(int dir, const struct identity *who)
{
    int fd = openat(dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *d = fd < 0 ? NULL : fdopendir(fd);
    struct dirent *e;
    struct stat st;
    int number = 0;

    if (!d)
        return fail_errno(errno, "reading the directory");
    while (!number && (e = readdir(d)))
        if (fstatat(dir, e->d_name, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISREG(st.st_mode) && st.st_nlink == 1 && st.st_uid == 0 &&
            fchownat(dir, e->d_name, who->uid, who->gid, AT_SYMLINK_NOFOLLOW) < 0)
            number = errno;
    closedir(d);
    return number ? fail_errno(number, "giving its files to %s", who->name) : OK;
}

static err give_away(int dir, const struct identity *who)
{
    struct stat st;

    if (fstat(dir, &st) < 0)
        return fail_errno(errno, "looking at it");
    if (st.st_uid != 0 || st.st_mode & (S_IWGRP | S_IWOTH))
        return OK; /* somebody's already, or everybody's */
    TRY(adopt(dir, who));
    return fchown(dir, who->uid, who->gid) < 0 ? fail_errno(errno, "giving it to %s", who->name) : OK;
}

/* Make `path` and what is missing above it. */
static err make_dir(arena *a, str path, mode_t mode)
{
    for (size_t i = 1; i <= path.n; i++) {
        const char *part = str_cz(a, str_head(path, i));
        if ((i == path.n || path.p[i] == '/') && mkdir(part, i == path.n ? mode : 0755) < 0 && errno != EEXIST)
            return fail_errno(errno, "making %s", part);
    }
    return OK;
}

/* Where the user may rename, a name that we follow as root may lead anywhere: what is a link is left as it is. */
static err give_dir(arena *a, str path, const struct identity *who)
{
    int fd = open(str_cz(a, path), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return errno == ELOOP || errno == ENOTDIR ? OK : fail_errno(errno, "opening it");
    err e = give_away(fd, who);
    close(fd);
    return e;
}

static str dir_of(str path)
{
    size_t n = path.n;

    while (n && path.p[n - 1] != '/')
        n--;
    return n > 1 ? str_head(path, n - 1) : n ? S("/") : S(".");
}

/* Mail that anybody could put there, or take away, is no mail of ours. */
static err own_dir(arena *a, str path)
{
    struct stat st;

    if (stat(str_cz(a, path), &st) < 0)
        return fail_errno(errno, "looking at %.*s", STR(path));
    return st.st_mode & S_IWOTH ? fail(E_PERM, "everybody may write in %.*s: chmod 700 it, and look at what is in there", STR(path)) : OK;
}

/* Where every user may put files and nobody but the relay can list, read by name, or take away what is another's. One that is there
 * already has to be ours: in somebody else's directory we change nothing. */
static err drop_dir(arena *a, str path, const struct identity *who)
{
    struct stat st;
    err e = OK;

    TRY(make_dir(a, path, 0700));
    int fd = open(str_cz(a, path), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return fail_errno(errno, "opening %.*s", STR(path));
    if (fstat(fd, &st) < 0 || (st.st_uid != who->uid && st.st_uid != geteuid()))
        e = fail(E_PERM, "%.*s is somebody else's", STR(path));
    else if ((st.st_uid != who->uid && fchown(fd, who->uid, who->gid) < 0) || fchmod(fd, 01733) < 0)
        e = fail_errno(errno, "giving %.*s its rights", STR(path));
    close(fd);
    return e;
}

/* The directory of the control socket stays ours: only who cannot rename in there may be chmod()ed and chown()ed after. */
err files_prepare(const struct settings *s, const struct identity *who)
{
    AUTO_ARENA a = arena_new();

    TRY(make_dir(a, s->spool.dir, 0700));
    TRY(own_dir(a, s->spool.dir));
    if (who->change)
        TRY(during(give_dir(a, s->spool.dir, who), "%.*s", STR(s->spool.dir)));
    if (s->trace.retention) {
        TRY(make_dir(a, s->trace.dir, 0700));
        TRY(own_dir(a, s->trace.dir));
        if (who->change)
            TRY(during(give_dir(a, s->trace.dir, who), "%.*s", STR(s->trace.dir)));
    }
    const struct local_settings *local = s->snapshot.receive.local;
    if (local && local->socket.n)
        TRY(make_dir(a, dir_of(local->socket), 0755));
    if (local && local->drop.n)
        TRY(drop_dir(a, local->drop, who));
    return s->control.n ? make_dir(a, dir_of(s->control), 0755) : OK;
}

/* ---- the log ---- */

static char log_path[4096]; /* "": stderr */
static int log_fd = STDERR_FILENO;
static struct log_setup log_how;

static struct identity log_owner;

/* Opened by the parent, as root it may be, in a directory that may be the user's: so neither through a link, nor given away when
 * it has another name too. The worker finds it there when it opens it in turn. */
static int log_file(void)
{
    struct stat st;

    int fd = open(log_path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NOCTTY | O_NOFOLLOW, 0640);
    if (fd >= 0 && log_owner.change && geteuid() == 0 && fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && st.st_uid == 0 && st.st_nlink == 1 &&
        fchown(fd, log_owner.uid, log_owner.gid) < 0) {
        int number = errno;
        close(fd);
        errno = number;
        return -1;
    }
    return fd;
}

err log_open(const struct settings *s, const struct identity *who)
{
    log_how = (struct log_setup){ .form = (enum log_form)s->log.form, .least = (enum log_level)s->log.level };
    log_owner = *who;
    if (str_eq(s->log.file, str_z(log_path)))
        return OK;
    if (s->log.file.n >= sizeof log_path)
        return fail(E_SYNTAX, "the log file's name is too long");
    snprintf(log_path, sizeof log_path, "%.*s", STR(s->log.file));
    int fd = log_path[0] ? log_file() : STDERR_FILENO;
    if (fd < 0)
        return fail_errno(errno, "opening %s", log_path);
    if (log_fd != STDERR_FILENO)
        close(log_fd);
    log_fd = fd;
    return OK;
}

void log_reopen(void)
{
    int fd = log_path[0] ? log_file() : -1;

    if (fd >= 0) {
        dup3(fd, log_fd, O_CLOEXEC); /* at once, for whoever is writing to it */
        close(fd);
    } else if (log_path[0]) {
        log_error("log_not_reopened", LOG_Z("file", log_path), LOG_Z("why", strerrordesc_np(errno)));
    }
}

/* The parent may have no thread, so its few lines are written by who says them. */
static void write_now(void *ctx, enum log_level level, str line)
{
    (void)ctx, (void)level;
    ssize_t ignored = write(log_fd, line.p, line.n);
    (void)ignored;
}

void log_parent(void)
{
    struct log_setup how = log_how;

    log_stop();
    how.tap = write_now;
    log_start(&how);
}

void log_worker(void)
{
    log_stop();
    log_how.fd = log_fd;
    log_start(&log_how);
}

/* ---- what the worker may read ---- */

struct readable { arena *a; struct strs all; };

static void add_file(struct readable *r, str path)
{
    if (!path.n)
        return;
    for (size_t i = 0; i < r->all.n; i++)
        if (str_eq(r->all.p[i], path))
            return;
    if ((r->all.n & (r->all.n - 1)) == 0) { /* a power of two is full */
        str *more = NEW_ARRAY(r->a, str, MAX(2 * r->all.n, 1));
        if (r->all.n)
            memcpy(more, r->all.p, r->all.n * sizeof *more);
        r->all.p = more;
    }
    r->all.p[r->all.n++] = path;
}

static void add_included(struct readable *r, const struct node *node, str last)
{
    for (size_t i = 0; i < node->nchild; i++) {
        str file = node->child[i].name.at.file;
        if (!str_eq(file, last))
            add_file(r, last = file);
        add_included(r, &node->child[i], file);
    }
}

static void add_all(struct readable *r, const struct settings *s)
{
    const struct routes *routes = &s->snapshot.routes;

    add_file(r, s->path);
    add_included(r, &s->tree, s->path);
    for (size_t i = 0; i < routes->ndomain; i++) {
        const struct recipients *who = &routes->domain[i]->recipients;
        for (size_t t = 0; t < who->ntable; t++)
            add_file(r, who->path[t]);
        for (size_t t = 0; t < who->file.n; t++)
            add_file(r, who->file.p[t]);
    }
    for (size_t i = 0; i < routes->aliases.ntable; i++)
        add_file(r, routes->aliases.path[i]);
    add_file(r, s->dns.anchor);
}

/* In a child that became that user: errno of each, as it opens them. */
static _Noreturn void try_files(const struct readable *r, const struct identity *who, int fd)
{
    err e = identity_become(who);

    for (size_t i = 0; i < r->all.n; i++) {
        int number = 0, file = e == OK ? open(str_cz(r->a, r->all.p[i]), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY) : -1;
        if (file < 0)
            number = e == OK ? errno : EPERM;
        else
            close(file);
        if (write(fd, &number, sizeof number) != sizeof number)
            break;
    }
    _exit(0);
}

void files_unreadable(const struct settings *s, struct diags *d)
{
    AUTO_ARENA a = arena_new();
    struct readable r = { .a = a };
    struct identity who;
    int ends[2], number;

    if (identity_find(s, &who) != OK) {
        diag_add(d, CONF_WARNING, CONF_E_NOT_READABLE, &(struct place){ .file = str_dup(d->a, s->path), .line = 1, .column = 1 }, S(""), "%.*s", STR(err_text()));
        return;
    }
    if (!who.change || pipe2(ends, O_CLOEXEC) < 0)
        return;
    add_all(&r, s);
    pid_t child = fork();
    if (child == 0)
        try_files(&r, &who, ends[1]);
    close(ends[1]);
    for (size_t i = 0; child > 0 && i < r.all.n && read(ends[0], &number, sizeof number) == sizeof number; i++)
        if (number && access(str_cz(a, r.all.p[i]), R_OK) == 0)
            diag_add(d, CONF_WARNING, CONF_E_NOT_READABLE, &(struct place){ .file = str_dup(d->a, r.all.p[i]) }, S(""),
                     "user %s may not read it (%s): a reload would not see that it changed", who.name, strerrordesc_np(number));
    close(ends[0]);
    if (child > 0)
        waitpid(child, NULL, 0);
}
