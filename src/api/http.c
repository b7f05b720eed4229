/* HTTP by libmicrohttpd: one daemon a listening socket, each with a thread of its own. One request a connection. */
#include "api/api.h"

#include <errno.h>
#include <fcntl.h>
#include <microhttpd.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

struct caller { int fd; when since; };

struct door {
    struct http *http;
    struct door *next;
    struct addr at;
    struct MHD_Daemon *daemon;
    pthread_mutex_t lock;               /* of the clients: a descriptor in there is not closed meanwhile */
    struct caller client[HTTP_CONNECTIONS];
    size_t nclient;
};
struct http { struct http_setup setup; struct door *door; };

/* ---- answers ---- */

static enum MHD_Result send_answer(struct MHD_Connection *c, struct http_answer *a, const char *allow)
{
    struct MHD_Response *r = MHD_create_response_from_buffer(a->body.n, a->body.p, MHD_RESPMEM_MUST_COPY);

    buf_free(&a->body);
    if (!r)
        return MHD_NO;
    MHD_add_response_header(r, MHD_HTTP_HEADER_CONTENT_TYPE, a->type);
    MHD_add_response_header(r, MHD_HTTP_HEADER_CACHE_CONTROL, "no-store");
    MHD_add_response_header(r, "X-Content-Type-Options", "nosniff");
    MHD_add_response_header(r, MHD_HTTP_HEADER_CONNECTION, "close");
    if (allow)
        MHD_add_response_header(r, MHD_HTTP_HEADER_ALLOW, allow);
    enum MHD_Result got = MHD_queue_response(c, a->status, r);
    MHD_destroy_response(r);
    return got;
}

static enum MHD_Result refuse(struct MHD_Connection *c, unsigned status, const char *words, const char *allow)
{
    struct http_answer a = { .status = status, .type = "text/plain; charset=utf-8" };

    buf_addf(&a.body, "%s\n", words);
    return send_answer(c, &a, allow);
}

/* A page of the web whose name was made to mean our address asks with that name (DNS rebinding, attack class 58): who means us says an
 * address, or localhost. */
static bool host_is_ours(const char *host)
{
    str h = str_z(host);
    struct addr ignored;

    if (!host || h.n == 0)
        return true;
    if (str_ieq(h, S("localhost")) || str_istarts(h, S("localhost:")))
        return true;
    return addr_parse(h, 80, &ignored) == OK;
}

static enum MHD_Result ask(void *door, struct MHD_Connection *c, const char *url, const char *method, const char *version, const char *upload,
                           size_t *upload_n, void **state)
{
    struct door *d = door;
    const char *accept = MHD_lookup_connection_value(c, MHD_HEADER_KIND, MHD_HTTP_HEADER_ACCEPT);

    (void)version, (void)upload, (void)upload_n, (void)state;
    if (strcmp(method, "GET") != 0 && strcmp(method, "HEAD") != 0)
        return refuse(c, MHD_HTTP_METHOD_NOT_ALLOWED, "GET or HEAD", "GET, HEAD");
    if (!host_is_ours(MHD_lookup_connection_value(c, MHD_HEADER_KIND, MHD_HTTP_HEADER_HOST)))
        return refuse(c, MHD_HTTP_MISDIRECTED_REQUEST, "ask by address, or as localhost", NULL);
    struct http_question q = { .path = str_z(url), .accept = str_z(accept) };
    struct http_answer a = { 0 };
    d->http->setup.answer(d->http->setup.ctx, &q, &a);
    if (!a.status) {
        buf_free(&a.body);
        return refuse(c, MHD_HTTP_NOT_FOUND, "there is nothing here", NULL);
    }
    return send_answer(c, &a, NULL);
}

/* ---- who is connected, and for how long ---- */

static void client_change(void *door, struct MHD_Connection *c, void **context, enum MHD_ConnectionNotificationCode code)
{
    struct door *d = door;
    const union MHD_ConnectionInfo *info = MHD_get_connection_info(c, MHD_CONNECTION_INFO_CONNECTION_FD);

    (void)context;
    if (!info)
        return;
    int fd = info->connect_fd;
    pthread_mutex_lock(&d->lock);
    if (code == MHD_CONNECTION_NOTIFY_STARTED) {
        if (d->nclient < HTTP_CONNECTIONS)
            d->client[d->nclient++] = (struct caller){ fd, clock_now() };
    } else {
        for (size_t i = 0; i < d->nclient; i++)
            if (d->client[i].fd == fd) {
                memmove(&d->client[i], &d->client[i + 1], (--d->nclient - i) * sizeof d->client[0]); /* the oldest stay first */
                break;
            }
    }
    pthread_mutex_unlock(&d->lock);
}

/* The library's own timeout begins anew with each octet (attack class 12), so this one is ours. */
void http_tidy(struct http *h)
{
    when now = clock_now();

    for (struct door *d = h->door; d; d = d->next) {
        pthread_mutex_lock(&d->lock);
        when patience = d->nclient > HTTP_CONNECTIONS / 2 ? SECOND : HTTP_PATIENCE;
        for (size_t i = 0; i < d->nclient && now - d->client[i].since > patience; i++)
            shutdown(d->client[i].fd, SHUT_RDWR);
        pthread_mutex_unlock(&d->lock);
    }
}

/* ---- listening ---- */

static void quiet(void *ctx, const char *fmt, va_list ap)
{
    char text[256];

    (void)ctx;
    vsnprintf(text, sizeof text, fmt, ap);
    log_debug("http", LOG_STR("text", str_trim(str_z(text))));
}

bool http_listens(const struct http *h, const struct addr *at)
{
    for (const struct door *d = h->door; d; d = d->next)
        if (addr_eq(&d->at, at))
            return true;
    return false;
}

err http_listen(struct http *h, const struct addr *at, int fd)
{
    char text[ADDR_TEXT];

    if (!addr_is_loopback(at))
        return fail(E_PERM, "%.*s: HTTP without TLS and login is for loopback and Unix sockets only", STR(addr_print(at, text)));
    if (http_listens(h, at))
        return OK;
    int own = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    if (own < 0)
        return fail_errno(errno, "HTTP at %.*s", STR(addr_print(at, text)));
    struct door *d = mem_new(sizeof *d);
    d->http = h;
    d->at = *at;
    pthread_mutex_init(&d->lock, NULL);
    d->daemon = MHD_start_daemon(MHD_USE_INTERNAL_POLLING_THREAD | MHD_USE_EPOLL | MHD_USE_ITC | MHD_USE_ERROR_LOG, 0, NULL, NULL, ask, d,
                                 MHD_OPTION_EXTERNAL_LOGGER, quiet, NULL, MHD_OPTION_LISTEN_SOCKET, own,
                                 MHD_OPTION_CONNECTION_LIMIT, (unsigned)HTTP_CONNECTIONS, MHD_OPTION_CONNECTION_TIMEOUT, (unsigned)(HTTP_PATIENCE / SECOND),
                                 MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)HTTP_HEAD_MOST, MHD_OPTION_STRICT_FOR_CLIENT, 1,
                                 MHD_OPTION_NOTIFY_CONNECTION, client_change, d, MHD_OPTION_THREAD_STACK_SIZE, (size_t)256 << 10, MHD_OPTION_END);
    if (!d->daemon) {
        close(own);
        mem_free(d);
        return fail(E_IO, "HTTP at %.*s could not be started", STR(addr_print(at, text)));
    }
    d->next = h->door;
    h->door = d;
    log_info("http_listens", LOG_STR("at", addr_print(at, text)));
    return OK;
}

static void door_close(struct door *d)
{
    MHD_stop_daemon(d->daemon); /* our copy of the descriptor too */
    pthread_mutex_destroy(&d->lock);
    mem_free(d);
}

void http_unlisten(struct http *h, const struct addr *at)
{
    for (struct door **p = &h->door; *p; p = &(*p)->next)
        if (addr_eq(&(*p)->at, at)) {
            struct door *d = *p;
            *p = d->next;
            door_close(d);
            return;
        }
}

struct http *http_new(const struct http_setup *setup)
{
    struct http *h = mem_new(sizeof *h);

    h->setup = *setup;
    return h;
}

void http_free(struct http *h)
{
    while (h->door) {
        struct door *d = h->door;
        h->door = d->next;
        door_close(d);
    }
    mem_free(h);
}
