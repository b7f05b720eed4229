/* The listening sockets that outlive workers: while one is replaced, clients wait in the kernel's queue and are not refused. */
#include "main/inside.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#define FIRST_INHERITED 3       /* sd_listen_fds(3) */
#define INHERITED_MOST 256

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

static void inherit_one(struct sockets *s, int fd, str name)
{
    struct addr at;

    if (fcntl(fd, F_SETFD, FD_CLOEXEC) < 0)
        return;
    if (!is_listener(fd, &at) || fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK) < 0) {
        log_warn("socket_unusable", LOG_INT("fd", fd), LOG_STR("name", name));
        close(fd);
        return;
    }
    struct held *h = sockets_add(s, &at, fd);
    h->inherited = true;
    snprintf(h->name, sizeof h->name, "%.*s", STR(name));
}

void sockets_inherit(struct sockets *s)
{
    const char *pid = getenv("LISTEN_PID"), *fds = getenv("LISTEN_FDS"), *names = getenv("LISTEN_FDNAMES");
    uint64_t n, whose;

    if (pid && fds && str_u64(str_z(pid), INT32_MAX, &whose) && (pid_t)whose == getpid() && str_u64(str_z(fds), INHERITED_MOST, &n)) {
        str rest = str_z(names), name = { 0 };
        for (uint64_t i = 0; i < n; i++) {
            if (!str_cut(&rest, S(":"), &name))
                name = (str){ 0 };
            inherit_one(s, FIRST_INHERITED + (int)i, name);
        }
    }
    unsetenv("LISTEN_PID");
    unsetenv("LISTEN_FDS");
    unsetenv("LISTEN_FDNAMES");
}

/* ---- one by one ---- */

err sockets_get(struct sockets *s, const struct addr *at, int *ret_fd)
{
    struct held *h = sockets_find(s, at);

    if (!h) {
        int fd;
        TRY(listen_open(at, &fd));
        h = sockets_add(s, at, fd);
    }
    *ret_fd = h->fd;
    return OK;
}

/* Programs of every user may connect there: what they may do is decided by who they are. */
err sockets_for_all(const struct addr *at)
{
    return chmod(at->un.sun_path, 0666) < 0 ? fail_errno(errno, "letting everybody connect to %s", at->un.sun_path) : OK;
}

void sockets_drop(struct sockets *s, const struct addr *at)
{
    struct held *h = sockets_find(s, at);

    if (h)
        sockets_close(s, h);
}

/* ---- a whole configuration ---- */

static bool has_kind(const struct receive_settings *r, str kind)
{
    for (size_t i = 0; i < r->nlistener; i++)
        if (str_eq(r->listener[i].kind, kind))
            return true;
    return false;
}

/* What nobody will accept from is closed, so that clients are refused and do not wait for nobody. Before anything new is bound:
 * [::]:25 in place of 0.0.0.0:25 needs the old one gone. */
static void close_unwanted(struct sockets *s, const struct receive_settings *r)
{
    for (size_t i = 0; i < s->n; i++)
        s->p[i].wanted = s->p[i].inherited && has_kind(r, str_z(s->p[i].name));
    for (size_t i = 0; i < r->nlistener; i++)
        for (size_t j = 0; j < r->listener[i].naddr; j++) {
            struct held *h = sockets_find(s, &r->listener[i].addr[j]);
            if (h)
                h->wanted = true;
        }
    for (size_t i = s->n; i-- > 0; ) {
        char text[ADDR_TEXT];
        if (s->p[i].wanted)
            continue;
        if (s->p[i].inherited)
            log_warn("socket_unused", LOG_STR("at", addr_print(&s->p[i].at, text)), LOG_Z("name", s->p[i].name));
        sockets_close(s, &s->p[i]);
    }
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

    close_unwanted(s, r);
    for (size_t i = 0; i < r->nlistener; i++)
        for (size_t j = 0; j < r->listener[i].naddr; j++) {
            int fd;
            err e = sockets_get(s, &r->listener[i].addr[j], &fd);
            if (e == OK && str_eq(r->listener[i].kind, S(LISTENER_LOCAL)))
                e = sockets_for_all(&r->listener[i].addr[j]);
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
