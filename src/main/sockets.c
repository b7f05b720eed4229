/* The listening sockets that outlive workers: while one is replaced, clients wait in the kernel's queue and are not refused. A service
 * manager with a store for descriptors is given them too, so that they outlive the parent: a restart, an upgrade. */
#include "main/inside.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#define FIRST_INHERITED 3       /* sd_listen_fds(3) */
#define INHERITED_MOST 256
#define KEPT "kept-"            /* begins the names of what we gave the manager ourselves; no kind of listener is called so */

static struct held *sockets_find(const struct sockets *s, const struct addr *at)
{
    for (size_t i = 0; i < s->n; i++)
        if (addr_eq(&s->p[i].at, at))
            return &s->p[i];
    return NULL;
}

static struct held *sockets_add(struct sockets *s, const struct addr *at, int fd)
{
    if (s->n == s->cap) {
        s->cap = s->cap ? 2 * s->cap : 8;
        s->p = mem_grow(s->p, s->cap * sizeof *s->p);
    }
    s->p[s->n] = (struct held){ .at = *at, .fd = fd };
    return &s->p[s->n++];
}

static void sockets_close(struct sockets *s, struct held *h)
{
    if (!h->inherited && h->at.sa.sa_family == AF_UNIX)
        unlink(h->at.un.sun_path);
    close(h->fd);
    *h = s->p[--s->n];
}

/* ---- the manager's store ---- */

static bool is_kept(const struct held *h) { return str_starts(str_z(h->name), S(KEPT)); }

/* A Unix socket is left out: its name goes when we go. sd_pid_notify_with_fds(3): no colon in a name. */
static void keep(struct held *h)
{
    char text[ADDR_TEXT];

    if (h->at.sa.sa_family == AF_UNIX)
        return;
    int n = snprintf(h->name, sizeof h->name, KEPT "%.*s", STR(addr_print(&h->at, text)));
    must(n > 0 && (size_t)n < sizeof h->name);
    for (char *c = h->name; *c; c++)
        if (*c == ':')
            *c = '_';
    notify_keep(h->name, h->fd);
}

/* For good: no configuration wants it any more. */
static void sockets_forget(struct sockets *s, struct held *h)
{
    if (is_kept(h))
        notify_forget(h->name);
    sockets_close(s, h);
}

void sockets_free(struct sockets *s)
{
    while (s->n)
        sockets_close(s, &s->p[s->n - 1]);
    mem_free(s->p);
    *s = (struct sockets){ 0 };
}

/* ---- socket activation ---- */

/* A listening stream socket; anything else that was handed to us is closed unseen. */
static bool is_listener(int fd, struct addr *ret)
{
    struct sockaddr_storage sa;
    socklen_t n = sizeof sa, size = sizeof(int);
    int type = 0, listens = 0;

    if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &size) < 0 || type != SOCK_STREAM ||
        getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &size) < 0 || !listens || getsockname(fd, (struct sockaddr *)&sa, &n) < 0)
        return false;
    *ret = addr_of(&sa, n);
    return true;
}

static err inherit_one(struct sockets *s, int fd, str name)
{
    struct addr at;
    bool kept = str_starts(name, S(KEPT));

    if (fcntl(fd, F_SETFD, FD_CLOEXEC) < 0)
        return fail_errno(errno, "LISTEN_FDS counts descriptor %d", fd);
    if (!is_listener(fd, &at) || fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK) < 0) {
        close(fd);
        return kept ? OK : fail(E_UNKNOWN, "what the service manager hands over as \"%.*s\" is no listening stream socket: its .socket unit "
                                           "needs ListenStream= and Accept=no", STR(name));
    }
    struct held *h = sockets_add(s, &at, fd);
    h->inherited = !kept;
    snprintf(h->name, sizeof h->name, "%.*s", STR(name));
    return OK;
}

err sockets_inherit(struct sockets *s)
{
    const char *pid = getenv("LISTEN_PID"), *fds = getenv("LISTEN_FDS"), *names = getenv("LISTEN_FDNAMES");
    uint64_t n, whose;
    err e = OK;

    /* For another process: what started us may have been started so. */
    if (pid && fds && str_u64(str_z(pid), INT32_MAX, &whose) && (pid_t)whose == getpid()) {
        str rest = str_z(names), name = { 0 };
        if (!str_u64(str_z(fds), INHERITED_MOST, &n))
            return fail(E_UNKNOWN, "LISTEN_FDS is \"%s\": at most %d sockets can be handed over", fds, INHERITED_MOST);
        for (uint64_t i = 0; i < n && e == OK; i++) {
            if (!str_cut(&rest, S(":"), &name))
                name = (str){ 0 };
            e = inherit_one(s, FIRST_INHERITED + (int)i, name);
        }
    }
    unsetenv("LISTEN_PID");
    unsetenv("LISTEN_FDS");
    unsetenv("LISTEN_FDNAMES");
    return e;
}

/* ---- one by one ---- */

err sockets_get(struct sockets *s, const struct addr *at, int *ret_fd)
{
    struct held *h = sockets_find(s, at);

    if (!h) {
        int fd;
        TRY(listen_open(at, &fd));
        h = sockets_add(s, at, fd);
        keep(h);
    }
    *ret_fd = h->fd;
    return OK;
}

/* Programs of every user may connect there: what they may do is decided by who they are. One that was inherited has the mode that its
 * unit says (SocketMode=). */
err sockets_for_all(const struct sockets *s, const struct addr *at)
{
    const struct held *h = sockets_find(s, at);

    if (h && h->inherited)
        return OK;
    int got = socket_mode(at->un.sun_path, 0666);
    return got < 0 ? fail_errno(-got, "letting everybody connect to %s", at->un.sun_path) : OK;
}

void sockets_drop(struct sockets *s, const struct addr *at)
{
    struct held *h = sockets_find(s, at);

    if (h)
        sockets_forget(s, h);
}

/* ---- a whole configuration ---- */

/* Does the name that it was inherited by say which listener it is for? Only a Unix socket can be the local one: of others the kernel does
 * not tell who has connected. */
static bool has_kind(const struct receive_settings *r, const struct held *h)
{
    str kind = str_z(h->name);

    if (!h->inherited || (str_eq(kind, S(LISTENER_LOCAL)) && h->at.sa.sa_family != AF_UNIX))
        return false;
    for (size_t i = 0; i < r->nlistener; i++)
        if (str_eq(r->listener[i].kind, kind))
            return true;
    return false;
}

static err tell_unused(const struct held *h)
{
    char text[ADDR_TEXT];
    str at = addr_print(&h->at, text);

    return fail(E_UNKNOWN, "the service manager hands over a socket at %.*s (\"%s\") that no listener wants: write \"listen smtp %.*s\", or call it by "
                           "a kind of listener that is there (FileDescriptorName=smtp), or take it out of its .socket unit", STR(at), h->name, STR(at));
}

/* What nobody will accept from is closed, so that clients are refused and do not wait for nobody. Before anything new is bound:
 * [::]:25 in place of 0.0.0.0:25 needs the old one gone. A socket that a service manager goes on holding after we closed it would let
 * clients wait for ever: at the start that is an error. */
static err close_unwanted(struct sockets *s, const struct receive_settings *r, bool strict)
{
    for (size_t i = 0; i < s->n; i++)
        s->p[i].wanted = has_kind(r, &s->p[i]);
    for (size_t i = 0; i < r->nlistener; i++)
        for (size_t j = 0; j < r->listener[i].naddr; j++) {
            struct held *h = sockets_find(s, &r->listener[i].addr[j]);
            if (h)
                h->wanted = true;
        }
    for (size_t i = s->n; i-- > 0; ) {
        if (s->p[i].wanted)
            continue;
        if (s->p[i].inherited) {
            tell_unused(&s->p[i]);
            if (strict)
                return E_UNKNOWN;
            log_warn("socket_unused", LOG_STR("why", err_text()));
        }
        sockets_forget(s, &s->p[i]);
    }
    return OK;
}

static bool listening_add(struct listening *l, size_t *n, str name, const struct addr *at, int fd)
{
    for (size_t i = 0; i < *n; i++)
        if (l[i].fd == fd)
            return false;
    l[(*n)++] = (struct listening){ .name = name, .addr = *at, .fd = fd };
    return true;
}

err sockets_configure(struct sockets *s, arena *a, const struct receive_settings *r, bool strict, struct listening **ret,
                      size_t *ret_n)
{
    size_t n = 0, most = s->n;

    for (size_t i = 0; i < r->nlistener; i++)
        most += r->listener[i].naddr;
    struct listening *l = NEW_ARRAY(a, struct listening, most + 1);

    TRY(close_unwanted(s, r, strict));
    for (size_t i = 0; i < r->nlistener; i++)
        for (size_t j = 0; j < r->listener[i].naddr; j++) {
            int fd;
            err e = sockets_get(s, &r->listener[i].addr[j], &fd);
            if (e == OK && str_eq(r->listener[i].kind, S(LISTENER_LOCAL)))
                e = sockets_for_all(s, &r->listener[i].addr[j]);
            if (e == OK)
                listening_add(l, &n, r->listener[i].kind, &r->listener[i].addr[j], fd);
            else if (strict)
                return e;
            else
                log_error("listen_failed", LOG_STR("why", err_text()));
        }
    for (size_t i = 0; i < s->n; i++)
        if (s->p[i].inherited)
            if (listening_add(l, &n, str_dup(a, str_z(s->p[i].name)), &s->p[i].at, s->p[i].fd))
                l[n - 1].inherited = true;
    *ret = l;
    *ret_n = n;
    return OK;
}
