/* Listening sockets. */
#include "net/net.h"

#include <errno.h>

#define BACKLOG 4096            /* the kernel cuts it at net.core.somaxconn */
#define EXHAUSTED_PAUSE (100 * MILLISECOND)

static int socket_for(const struct addr *at)
{
    int fd = machine->sock_open(at->sa.sa_family, SOCK_STREAM);
    if (fd < 0)
        return fd;
    if (at->sa.sa_family != AF_UNIX)
        machine->sock_option(fd, SOL_SOCKET, SO_REUSEADDR, 1);
    if (at->sa.sa_family == AF_INET6)
        machine->sock_option(fd, IPPROTO_IPV6, IPV6_V6ONLY, !IN6_IS_ADDR_UNSPECIFIED(&at->v6.sin6_addr));
    return fd;
}

err listen_open(const struct addr *at, int *ret_fd)
{
    char text[ADDR_TEXT];
    int fd = socket_for(at), got = fd;

    if (fd >= 0)
        got = machine->sock_bind(fd, &at->sa, at->n);
    if (got >= 0)
        got = machine->sock_listen(fd, BACKLOG);
    if (got < 0) {
        if (fd >= 0)
            machine->close(fd);
        return fail_errno(-got, "listening on %.*s", STR(addr_print(at, text)));
    }
    *ret_fd = fd;
    return OK;
}

/* accept(2) hands on what befell the connection while it was in the queue: no fault of the listener. */
static bool is_clients_own(int number)
{
    switch (number) {
    case ECONNABORTED: case EPROTO: case ENOPROTOOPT: case EHOSTDOWN: case ENONET: case EHOSTUNREACH: case EOPNOTSUPP:
    case ENETUNREACH: case ENETDOWN: case EPERM: case EINTR:
        return true;
    default:
        return false;
    }
}

err listen_accept(struct io *listener, when deadline, int *ret_fd, struct addr *ret_peer)
{
    struct sockaddr_storage sa;
    socklen_t n;

    for (;;) {
        TRY(io_wait_readable(listener, deadline));
        int fd = machine->sock_accept(listener->fd, &sa, &n);
        if (fd >= 0) {
            *ret_fd = fd;
            *ret_peer = addr_of(&sa, n);
            return OK;
        }
        switch (-fd) {
        case EAGAIN:            /* another thread was faster */
            listener->readable = false;
            break;
        case EMFILE: case ENFILE: case ENOMEM: case ENOBUFS:
            TRY(task_sleep(clock_now() + EXHAUSTED_PAUSE));
            fail_errno(-fd, "taking a client");
            return E_LIMIT;
        default:
            if (!is_clients_own(-fd))
                return fail_errno(-fd, "taking a client");
        }
    }
}
