/* Sockets that a service manager bound, or kept for us while we were away. */
#include "kit/kit.h"
#include "main/inside.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

static void quiet(void *ctx, enum log_level level, str line) { (void)ctx, (void)level, (void)line; }

static struct addr loopback(uint16_t port)
{
    struct addr a;
    must(addr_parse(S("127.0.0.1:0"), 1, &a) == OK);
    addr_set_port(&a, port);
    return a;
}

static uint16_t port_of(int fd)
{
    struct sockaddr_in sin;
    socklen_t n = sizeof sin;
    must(getsockname(fd, (struct sockaddr *)&sin, &n) == 0);
    return ntohs(sin.sin_port);
}

TEST(sockets_configure_takes_what_was_inherited)
{
    struct sockets s = { 0 };
    struct listening *l;
    size_t n;
    int fds[3];
    AUTO_ARENA a = arena_new();

    for (size_t i = 0; i < COUNT(fds); i++)
        CHECK_ERR(listen_open(&(struct addr[]){ loopback(0) }[0], &fds[i]), OK);
    /* 3 and on belong to others here, so the environment's way in is taken by hand. */
    struct held in[2] = { { .at = loopback(port_of(fds[0])), .fd = fds[0], .inherited = true },
                          { .at = loopback(port_of(fds[1])), .fd = fds[1], .inherited = true, .name = "smtp" } };
    s.p = mem_new(8 * sizeof *s.p);
    s.cap = 8;
    memcpy(s.p, in, sizeof in);
    s.n = 2;
    s.p[s.n++] = (struct held){ .at = loopback(port_of(fds[2])), .fd = fds[2] };

    struct addr first = in[0].at;
    struct listener_setting setting = { .kind = S("smtp"), .addr = &first, .naddr = 1 };
    struct receive_settings r = { .listener = &setting, .nlistener = 1 };
    CHECK_ERR(sockets_configure(&s, a, &r, true, &l, &n), OK);
    CHECK_INT(n, 2);
    CHECK_INT(l[0].fd, fds[0]); /* by its address */
    CHECK_INT(l[1].fd, fds[1]); /* by its name */
    CHECK_STR(l[1].name, S("smtp"));
    CHECK_INT(s.n, 2);          /* the third is in no configuration: closed */
    CHECK_INT(fcntl(fds[2], F_GETFD), -1);
    sockets_free(&s);
}

TEST(sockets_configure_tells_what_cannot_be_bound)
{
    struct sockets s = { 0 };
    struct listening *l;
    size_t n;
    int fd;
    AUTO_ARENA a = arena_new();
    struct addr any = loopback(0);

    CHECK_ERR(listen_open(&any, &fd), OK);
    struct addr taken = loopback(port_of(fd));
    struct listener_setting setting = { .kind = S("smtp"), .addr = &taken, .naddr = 1 };
    struct receive_settings r = { .listener = &setting, .nlistener = 1 };
    CHECK_ERR(sockets_configure(&s, a, &r, true, &l, &n), E_EXISTS);
    log_start(&(struct log_setup){ .tap = quiet });
    CHECK_ERR(sockets_configure(&s, a, &r, false, &l, &n), OK);
    log_stop();
    CHECK_INT(n, 0);
    sockets_free(&s);
    close(fd);
}

static struct held inherit(const char *name)
{
    struct addr at = loopback(0);
    int fd;

    must(listen_open(&at, &fd) == OK);
    struct held h = { .at = loopback(port_of(fd)), .fd = fd, .inherited = !str_starts(str_z(name), S("kept-")) };
    snprintf(h.name, sizeof h.name, "%s", name);
    return h;
}

static void hold(struct sockets *s, struct held h)
{
    s->p = mem_grow(s->p, (s->n + 1) * sizeof *s->p);
    s->cap = s->n + 1;
    s->p[s->n++] = h;
}

TEST(sockets_configure_refuses_what_no_listener_wants)
{
    static const char *const names[] = { "", "submission", "local" }; /* the last: no TCP socket is the local one, whatever it is called */
    struct listening *l;
    size_t n;
    AUTO_ARENA a = arena_new();
    struct listener_setting setting = { .kind = S("smtp") };
    struct receive_settings r = { .listener = &setting, .nlistener = 1 };

    EACH(names, name) {
        struct sockets s = { 0 };
        struct listener_setting with_local[] = { setting, { .kind = S(LISTENER_LOCAL) } };
        struct receive_settings both = { .listener = with_local, .nlistener = 2 };
        hold(&s, inherit(*name));
        CHECK_ERR(sockets_configure(&s, a, &both, true, &l, &n), E_UNKNOWN, str_z(*name));
        CHECK(str_find(err_text(), S("FileDescriptorName=")) != STR_NONE, str_z(*name));
        CHECK_INT(s.n, 1, str_z(*name));
        log_start(&(struct log_setup){ .tap = quiet });
        CHECK_ERR(sockets_configure(&s, a, &r, false, &l, &n), OK, str_z(*name)); /* later: closed */
        log_stop();
        CHECK_INT(n, 0, str_z(*name));
        CHECK_INT(s.n, 0, str_z(*name));
        sockets_free(&s);
    }
}

/* What the manager hears; NULL when nothing. *ret: the descriptor that came along, or -1. */
static str hear(int manager, char room[300], int *ret)
{
    union { struct cmsghdr head; char room[CMSG_SPACE(sizeof(int))]; } c = { 0 };
    struct iovec iov = { room, 299 };
    struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &c, .msg_controllen = sizeof c.room };
    ssize_t got = recvmsg(manager, &m, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);

    *ret = -1;
    if (got > 0 && m.msg_controllen >= CMSG_LEN(sizeof(int)))
        memcpy(ret, CMSG_DATA(&c.head), sizeof *ret);
    return got > 0 ? str_of(room, (size_t)got) : (str){ 0 };
}

TEST(sockets_are_kept_by_the_manager_from_one_life_to_the_next)
{
    struct sockaddr_un un = { .sun_family = AF_UNIX };
    struct sockets s = { 0 }, next = { 0 };
    struct listening *l;
    char room[300];
    int kept, none;
    size_t n;
    AUTO_ARENA a = arena_new();
    int manager = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);

    snprintf(un.sun_path, sizeof un.sun_path, "%s/keeper", kit_dir());
    CHECK_INT(bind(manager, (struct sockaddr *)&un, sizeof un), 0);
    setenv("NOTIFY_SOCKET", un.sun_path, 1);
    notify_begin();

    struct held free_one = inherit("");
    struct addr at = free_one.at; /* a port that nobody has */
    close(free_one.fd);
    struct listener_setting setting = { .kind = S("smtp"), .addr = &at, .naddr = 1 };
    struct receive_settings r = { .listener = &setting, .nlistener = 1 }, nothing = { 0 };
    CHECK_ERR(sockets_configure(&s, a, &r, true, &l, &n), OK);
    str heard = hear(manager, room, &kept);
    str want = str_printf(a, "FDSTORE=1\nFDNAME=kept-127.0.0.1_%u", port_of(s.p[0].fd));
    CHECK_STR(heard, want);
    CHECK(kept >= 0);
    sockets_free(&s); /* the end of a life: the manager is not told to forget it */
    CHECK_STR(hear(manager, room, &none), S(""));

    /* Descriptors from 3 on belong to others here, so the environment's way in is taken by hand. */
    struct held again = { .at = at, .fd = kept };
    snprintf(again.name, sizeof again.name, "%.*s", STR(str_from(want, sizeof "FDSTORE=1\nFDNAME=" - 1)));
    hold(&next, again);
    CHECK_ERR(sockets_configure(&next, a, &r, true, &l, &n), OK);
    CHECK_INT(n, 1);
    CHECK_INT(l[0].fd, kept);
    CHECK_STR(hear(manager, room, &none), S("")); /* it has it still */
    CHECK_ERR(sockets_configure(&next, a, &nothing, true, &l, &n), OK); /* that nobody wants it is no error */
    CHECK_STR(hear(manager, room, &none), str_printf(a, "FDSTOREREMOVE=1\n%.*s", STR(str_from(want, sizeof "FDSTORE=1\n" - 1))));
    CHECK_INT(next.n, 0);
    sockets_free(&next);

    unsetenv("NOTIFY_SOCKET");
    notify_begin();
    close(manager);
}

/* Attack class 55: at each reload the mode is set again, by name; what has taken the place of the socket there keeps its own. */
TEST(attack_55_sockets_for_all_follow_no_link)
{
    AUTO_ARENA a = arena_new();
    struct sockets s = { 0 };
    struct addr at;
    struct stat st;
    int fd;
    str path = str_printf(a, "%s/local.sock", kit_dir()), secret = str_printf(a, "%s/secret", kit_dir());

    CHECK_ERR(addr_parse(str_printf(a, "unix:%.*s", STR(path)), 0, &at), OK);
    CHECK_ERR(sockets_get(&s, &at, &fd), OK);
    CHECK_ERR(sockets_for_all(&s, &at), OK);
    CHECK(stat(str_cz(a, path), &st) == 0);
    CHECK_INT(st.st_mode & 0777, 0666);

    int file = open(str_cz(a, secret), O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    CHECK(file >= 0 && close(file) == 0);
    CHECK(unlink(str_cz(a, path)) == 0 && symlink(str_cz(a, secret), str_cz(a, path)) == 0);
    CHECK_ERR(sockets_for_all(&s, &at), E_PERM);
    CHECK(unlink(str_cz(a, path)) == 0 && link(str_cz(a, secret), str_cz(a, path)) == 0);
    CHECK_ERR(sockets_for_all(&s, &at), E_PERM);
    CHECK(stat(str_cz(a, secret), &st) == 0);
    CHECK_INT(st.st_mode & 0777, 0600);
    sockets_free(&s);
}

TEST(sockets_inherit_minds_whose_they_are)
{
    struct sockets s = { 0 };
    AUTO_ARENA a = arena_new();

    setenv("LISTEN_PID", "1", 1); /* not us */
    setenv("LISTEN_FDS", "2", 1);
    setenv("LISTEN_FDNAMES", "smtp:http", 1);
    CHECK_ERR(sockets_inherit(&s), OK);
    CHECK_INT(s.n, 0);
    CHECK(!getenv("LISTEN_PID") && !getenv("LISTEN_FDS") && !getenv("LISTEN_FDNAMES"));

    setenv("LISTEN_PID", str_cz(a, str_printf(a, "%d", (int)getpid())), 1);
    setenv("LISTEN_FDS", "257", 1);
    CHECK_ERR(sockets_inherit(&s), E_UNKNOWN);
    CHECK_INT(s.n, 0);
    setenv("LISTEN_FDS", "0", 1);
    CHECK_ERR(sockets_inherit(&s), OK);
    CHECK(!getenv("LISTEN_PID"));
}
