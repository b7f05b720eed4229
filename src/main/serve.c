/* `waypost serve`: from a configuration's path to a parent with its worker. */
#include "main/inside.h"

#include <errno.h>
#include <malloc.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

enum { EXIT_DONE = 0, EXIT_NO = 1, EXIT_CONFIG = 2 };

struct service {
    const struct serve_options *o;
    struct settings *settings;          /* the newest that were good */
    struct identity who;
    struct sockets sockets, control;    /* of listeners; the one of the control socket */
    arena *a;                           /* of `listening` */
    struct listening *listening;
    size_t nlistening;
    int control_fd;
};

/* Without descriptors a relay turns clients away, so it takes all it may have. */
static void raise_limits(void)
{
    struct rlimit l;

    if (getrlimit(RLIMIT_NOFILE, &l) < 0)
        return;
    struct rlimit more = { .rlim_cur = MAX(l.rlim_max, (rlim_t)1 << 20), .rlim_max = MAX(l.rlim_max, (rlim_t)1 << 20) };
    if (setrlimit(RLIMIT_NOFILE, &more) < 0) {
        l.rlim_cur = l.rlim_max;
        setrlimit(RLIMIT_NOFILE, &l);
    }
}

/* Tables that grow by doubling, such as a segment's, are mappings of their own and go back whole: by itself glibc would take ever larger ones from the heap
 * and leave holes there that are as large as the backlog's tickets. Bodies and their slabs are smaller, and stay in the heap. */
static void tame_malloc(void)
{
    mallopt(M_MMAP_THRESHOLD, 1024 * 1024);
    mallopt(M_TRIM_THRESHOLD, 16 * 1024 * 1024);
}

/* ---- settings ---- */

static bool load(struct service *s)
{
    AUTO_BUF text = { 0 };
    struct diags d = { .a = arena_new() }; /* the settings' own, if there will be any */
    str dev = str_z(settings_dev);

    struct settings *now = settings_load(s->o->dev ? S("--dev") : s->o->config, s->o->dev ? &dev : NULL, &d);
    if (d.n) {
        diags_print(&d, &text);
        fprintf(stderr, "%.*s", STR(buf_str(&text)));
    }
    if (!now) {
        arena_free(d.a);
        return false;
    }
    if (s->settings)
        snapshot_drop(&s->settings->snapshot);
    s->settings = now;
    return true;
}

static err open_control(struct service *s)
{
    AUTO_ARENA a = arena_new();
    struct addr at = { 0 };
    str path = s->settings->control;

    if (path.n)
        TRY(during(addr_parse(str_printf(a, "unix:%.*s", STR(path)), 0, &at), "control"));
    if (s->control.n && !addr_eq(&s->control.p[0].at, &at))
        sockets_free(&s->control);
    s->control_fd = -1;
    if (!path.n)
        return OK;
    TRY(during(sockets_get(&s->control, &at, &s->control_fd), "the control socket"));
    if (s->who.change && lchown(at.un.sun_path, (uid_t)-1, s->who.gid) < 0)
        return fail_errno(errno, "giving the control socket to the group of %s", s->who.name);
    return OK;
}

/* All that the settings name, made ready for a worker. Only the first time is everything in it worth giving up for. */
static err make_ready(struct service *s, bool first)
{
    TRY(identity_find(s->settings, &s->who));
    TRY(files_prepare(s->settings, &s->who));
    TRY(log_open(s->settings, &s->who));
    if (!s->o->foreground_as_is)
        log_parent();
    arena_reset(s->a);
    TRY(sockets_configure(&s->sockets, s->a, &s->settings->snapshot.receive, first, &s->listening, &s->nlistening));
    return open_control(s);
}

/* ---- what the parent asks ---- */

/* The file may have changed since the last worker read it: the next one gets what it says now, or if that is wrong what was good. */
static void prepare(void *service)
{
    struct service *s = service;

    if (!s->o->dev && !load(s))
        log_error("config_bad", LOG_STR("file", s->o->config), LOG_Z("what", "the worker starts with the last one that was good"));
    if (make_ready(s, false) != OK)
        log_error("not_ready", LOG_STR("why", err_text()));
}

static bool names_local(const struct node *local, const struct addr *at)
{
    AUTO_ARENA a = arena_new();
    struct diags d = { .a = a };
    struct binder b = { .a = a, .diags = &d };
    str path;

    for (size_t i = 0; i < local->nchild; i++) {
        const struct node *n = &local->child[i];
        struct addr named;
        if (str_eq(n->name.text, S("socket")) && n->narg == 1 && conf_path(&b, &n->arg[0], &path) &&
            addr_parse(str_printf(a, "unix:%.*s", STR(path)), 0, &named) == OK && addr_eq(&named, at))
            return true;
    }
    return false;
}

/* *local: it is the socket of the "local" block. */
static bool names_addr(const struct node *root, const struct addr *at, bool *local)
{
    for (size_t i = 0; i < root->nchild; i++) {
        const struct node *n = &root->child[i];
        struct addr named;
        if (str_eq(n->name.text, S("local")) && names_local(n, at))
            return *local = true;
        if (!str_eq(n->name.text, S("listen")))
            continue;
        for (size_t j = 1; j < n->narg; j++)
            if (addr_parse(n->arg[j].text, 25, &named) == OK && addr_eq(&named, at))
                return true;
    }
    return false;
}

/* The worker is the one that strangers talk to: it gets what the file names, not what it likes. */
static err listen_for(void *service, const struct addr *at, int *ret_fd)
{
    struct service *s = service;
    AUTO_ARENA a = arena_new();
    struct diags d = { .a = a };
    struct node root = { 0 };
    char text[ADDR_TEXT];

    if (s->o->dev)
        return fail(E_PERM, "there is no file that names it");
    TRY(conf_parse(a, s->o->config, NULL, &root, &d));
    bool local = false;
    if (!names_addr(&root, at, &local))
        return fail(E_PERM, "no \"listen\" names %.*s", STR(addr_print(at, text)));
    TRY(sockets_get(&s->sockets, at, ret_fd));
    return local ? sockets_for_all(&s->sockets, at) : OK;
}

static void unlisten_for(void *service, const struct addr *at)
{
    struct service *s = service;

    sockets_drop(&s->sockets, at);
}

static void reopen(void *service)
{
    (void)service;
    log_reopen();
}

/* ---- the worker ---- */

static int work(struct service *s, int parent_fd)
{
    struct relay_setup setup = {
        .settings = s->settings,
        .listening = s->listening,
        .nlistening = s->nlistening,
        .control_fd = s->control_fd,
        .parent_fd = parent_fd,
        .reread = !s->o->dev,
    };

    crash_handlers();
    log_worker();
    bool to_file = s->settings->log.file.n != 0;
    err e = task_main(relay_run, &setup);
    s->settings = NULL; /* the relay dropped them */
    if (e != OK)
        log_error("relay_failed", LOG_STR("why", err_text()));
    if (e != OK && to_file) /* whoever started it looks here first */
        fprintf(stderr, "waypost serve: %.*s\n", STR(err_text()));
    log_stop();
    return e == OK ? EXIT_DONE : EXIT_NO;
}

static int worker(void *service, int parent_fd)
{
    struct service *s = service;

    metrics_prepare();
    log_parent(); /* no thread yet: what is given up here would not reach it */
    if (sandbox_enter(s->settings) != OK) {
        log_error("sandbox_failed", LOG_STR("why", err_text()));
        return EXIT_NO;
    }
    int code = work(s, parent_fd);
#ifdef WAYPOST_SANITIZED
    exit(code); /* for the leak check */
#endif
    return code;
}

static int work_as_is(struct service *s)
{
    static const int heard[] = { SIGHUP, SIGTERM, SIGINT, SIGUSR1 };

    signals_block(heard, COUNT(heard));
    crash_page_make();
    metrics_prepare();
    return work(s, -1);
}

/* ---- all ---- */

static int run(struct service *s)
{
    if (!load(s))
        return EXIT_CONFIG;
    if (make_ready(s, true) != OK) {
        fprintf(stderr, "waypost serve: %.*s\n", STR(err_text()));
        return EXIT_NO;
    }
    if (s->o->foreground_as_is)
        return work_as_is(s);
    return parent_run(&(struct parent_setup){ .worker = worker, .prepare = prepare, .listen = listen_for, .unlisten = unlisten_for,
                                              .reopen = reopen, .ctx = s });
}

int serve(const struct serve_options *o)
{
    struct service s = { .o = o, .a = arena_new(), .control_fd = -1 };

    signal(SIGPIPE, SIG_IGN);
    umask(027);
    raise_limits();
    tame_malloc();
    notify_begin();
    err e = sockets_inherit(&s.sockets);
    if (e != OK)
        fprintf(stderr, "waypost serve: %.*s\n", STR(err_text()));
    int code = e == OK ? run(&s) : EXIT_NO;
    sockets_free(&s.sockets);
    sockets_free(&s.control);
    if (s.settings)
        snapshot_drop(&s.settings->snapshot);
    arena_free(s.a);
    log_stop();
    return code;
}
