/* Words for the service manager, as sd_notify(3) sends them. */
#include "main/inside.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/un.h>
#include <unistd.h>

static struct sockaddr_un manager;
static socklen_t manager_n; /* 0: nobody listens */
static when watchdog;
static int parent = -1;

/* The address is a path, or a name that begins with @ and stands for an abstract one. WATCHDOG_PID says whom it is meant for:
 * the process that was started, which asks here before it forks. */
void notify_begin(void)
{
    const char *at = getenv("NOTIFY_SOCKET"), *usec = getenv("WATCHDOG_USEC"), *pid = getenv("WATCHDOG_PID");
    uint64_t n;

    manager_n = 0;
    watchdog = 0;
    size_t length = at ? strlen(at) : 0;
    if (length >= 2 && length < sizeof manager.sun_path && (at[0] == '/' || at[0] == '@')) {
        manager.sun_family = AF_UNIX;
        memcpy(manager.sun_path, at, length);
        if (at[0] == '@')
            manager.sun_path[0] = 0;
        manager_n = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + length);
    }
    if (pid && (!str_u64(str_z(pid), INT32_MAX, &n) || (pid_t)n != getpid()))
        return;
    if (usec && str_u64(str_z(usec), DAY, &n))
        watchdog = (when)n / 2;
}

void notify_through(int parent_fd) { parent = parent_fd; }

when notify_watchdog(void) { return watchdog; }

/* A worker may say how it is, not who the service is. */
bool notify_is_known(str line)
{
    static const str known[] = { S("READY=1"), S("STOPPING=1"), S("RELOADING=1"), S("WATCHDOG=1"), S("STATUS="), S("MONOTONIC_USEC=") };

    for (size_t i = 0; i < COUNT(known); i++)
        if (str_ends(known[i], S("=")) ? str_starts(line, known[i]) : str_eq(line, known[i]))
            return true;
    return false;
}

/* `pass`: a descriptor that goes along, or -1. */
static void tell_manager(const char *state, int pass)
{
    union { struct cmsghdr head; char room[CMSG_SPACE(sizeof(int))]; } c = { 0 };
    struct iovec iov = { (void *)(uintptr_t)state, strlen(state) };
    struct msghdr m = { .msg_name = &manager, .msg_namelen = manager_n, .msg_iov = &iov, .msg_iovlen = 1 };

    if (!manager_n)
        return;
    if (pass >= 0) {
        m.msg_control = &c;
        m.msg_controllen = sizeof c.room;
        c.head = (struct cmsghdr){ .cmsg_len = CMSG_LEN(sizeof(int)), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS };
        memcpy(CMSG_DATA(&c.head), &pass, sizeof pass);
    }
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return;
    /* Nobody there, or a full queue: it will notice by itself that it hears nothing. */
    ssize_t ignored = sendmsg(fd, &m, MSG_NOSIGNAL | MSG_DONTWAIT);
    (void)ignored;
    close(fd);
}

void notify_service(const char *state)
{
    if (parent >= 0)
        parent_tell(parent, state);
    else
        tell_manager(state, -1);
}

void notify_keep(const char *name, int fd)
{
    char state[256];

    if (parent < 0 && snprintf(state, sizeof state, "FDSTORE=1\nFDNAME=%s", name) < (int)sizeof state)
        tell_manager(state, fd);
}

void notify_forget(const char *name)
{
    char state[256];

    if (parent < 0 && snprintf(state, sizeof state, "FDSTOREREMOVE=1\nFDNAME=%s", name) < (int)sizeof state)
        tell_manager(state, -1);
}
