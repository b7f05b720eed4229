/* Streams: buffers between a dialogue and its line. */
#include "net/net.h"

#include <errno.h>

#define IN_FIRST (4 * 1024)
#define IN_MOST (64 * 1024)     /* what `in` grows to by itself, when the line fills it */
#define PENDING_MOST (1024 * 1024)
#define OUT_MOST (64 * 1024)    /* said without being sent */
#define COPY_MOST (16 * 1024)
#define WRITE_LEAST 1024        /* octets a second: who takes one now and then would hold us for years (attack class 12) */
#define EAGER_MOST 65536u       /* octets read in a row without a wait, before the others have a turn; */
#define EAGER_EACH 2048u        /* a read counts as at least so many */

/* ---- the plain line ---- */

/* A short count says that no more was there, and epoll will tell when there is: no call just to hear EAGAIN. But the end of
 * the line may have been told already, and will not be again. */
static ssize_t plain_recv(void *ctx, struct io *io, void *p, size_t n)
{
    (void)ctx;
    ssize_t got = machine->sock_recv(io->fd, p, n);
    if (got == -EAGAIN || (got > 0 && (size_t)got < n && !io->hangup))
        io->readable = false;
    return got;
}

static ssize_t plain_send(void *ctx, struct io *io, const struct iovec *iov, int n)
{
    size_t all = 0;

    (void)ctx;
    for (int i = 0; i < n; i++)
        all += iov[i].iov_len;
    ssize_t sent = machine->sock_send(io->fd, iov, n);
    if (sent == -EAGAIN || (sent >= 0 && (size_t)sent < all))
        io->writable = false;
    return sent;
}

static void plain_close(void *ctx, struct io *io)
{
    (void)ctx;
    machine->close(io->fd);
}

static const struct stream_ops plain_ops = { .recv = plain_recv, .send = plain_send, .close = plain_close };

/* ---- failure ---- */

static err broken(struct stream *s)
{
    if (s->broken_errno)
        return fail_errno(s->broken_errno, "the line broke"), s->broken;
    return fail(s->broken, s->broken == E_TIMEOUT ? "the peer took nothing in time" : "the line broke");
}

static err breaks(struct stream *s, err e, int number)
{
    s->broken = e;
    s->broken_errno = number;
    buf_free(&s->out);
    s->out_at = 0;
    return e;
}

static err breaks_by(struct stream *s, int number)
{
    return breaks(s, fail_errno(number, "the line broke"), number);
}

/* ---- life ---- */

static struct addr local_of(int fd)
{
    struct sockaddr_storage sa;
    socklen_t n;
    return machine->sock_name(fd, false, &sa, &n) < 0 ? (struct addr){ 0 } : addr_of(&sa, n);
}

struct stream *stream_new(int fd, const struct addr *peer)
{
    struct stream *s = mem_new(sizeof *s);

    s->ops = &plain_ops;
    s->peer = *peer;
    s->local = local_of(fd);
    s->in_next = IN_FIRST;
    s->write_wait = 5 * MINUTE;
    s->write_least = WRITE_LEAST;
    if (io_add(&s->io, fd) != OK)
        breaks_by(s, errno);
    s->io.fd = fd;
    s->io.readable = false;     /* what is there already, epoll will tell */
    return s;
}

void stream_free(struct stream *s)
{
    if (!s)
        return;
    io_del(&s->io);
    s->ops->close(s->ctx, &s->io);
    buf_free(&s->in);
    buf_free(&s->out);
    mem_free(s);
}

static err connected(struct stream *s, when deadline)
{
    s->io.writable = false;
    TRY(io_wait_writable(&s->io, deadline));
    int got = machine->sock_error(s->io.fd);
    return got < 0 ? fail_errno(-got, "connecting") : OK;
}

static err bind_to(int fd, const struct addr *from)
{
    char text[ADDR_TEXT];

    /* Without it the port is chosen now, and one is gone for all next hops. */
    if (from->sa.sa_family != AF_UNIX && !addr_port(from))
        machine->sock_option(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1);
    int got = machine->sock_bind(fd, &from->sa, from->n);
    return got < 0 ? fail_errno(-got, "binding to %.*s", STR(addr_print(from, text))) : OK;
}

err stream_connect(const struct addr *to, const struct addr *from, when deadline, struct stream **ret)
{
    char text[ADDR_TEXT];
    str where = addr_print(to, text);

    int fd = machine->sock_open(to->sa.sa_family, SOCK_STREAM);
    if (fd < 0)
        return fail_errno(-fd, "a socket for %.*s", STR(where));
    err e = from ? bind_to(fd, from) : OK;
    if (e != OK) {
        machine->close(fd);
        return e;
    }
    int got = machine->sock_connect(fd, &to->sa, to->n);
    if (got < 0 && got != -EINPROGRESS) {
        machine->close(fd);
        return fail_errno(-got, "connecting to %.*s", STR(where));
    }
    AUTO(stream) s = stream_new(fd, to);
    TRY(s->broken);
    if (got == -EINPROGRESS) {
        TRY(during(connected(s, deadline), "%.*s", STR(where)));
        s->local = local_of(fd);
    }
    *ret = take(s);
    return OK;
}

void stream_release(struct stream *s)
{
    if (s->in_at == s->in.n) {
        buf_free(&s->in);
        s->in_at = 0;
        s->in_next = IN_FIRST;
    }
    if (!s->out.n && !s->sender)
        buf_free(&s->out);
}

/* ---- sending ---- */

/* Send `out`, then `more`; both whole. */
static void send_all(struct stream *s, str more)
{
    when end = clock_now() + s->write_wait + (when)((s->out.n - s->out_at + more.n) * SECOND / s->write_least);

    must(!s->sender);           /* one task writes */
    s->sender = task_current();
    while (s->broken == OK && (s->out_at < s->out.n || more.n)) {
        struct iovec iov[2];
        int n = 0;

        if (!s->io.writable) {
            err e = io_wait_writable(&s->io, MIN(end, clock_now() + s->write_wait));
            if (e != OK) {
                breaks(s, e, 0);
                break;
            }
        }
        if (s->out_at < s->out.n)
            iov[n++] = (struct iovec){ s->out.p + s->out_at, s->out.n - s->out_at };
        if (more.n)
            iov[n++] = (struct iovec){ (void *)more.p, more.n };
        ssize_t sent = s->ops->send(s->ctx, &s->io, iov, n);
        if (sent == -EAGAIN)
            continue;
        if (sent < 0) {
            breaks_by(s, (int)-sent);
            break;
        }
        s->bytes_out += (uint64_t)sent;
        size_t of_out = MIN((size_t)sent, s->out.n - s->out_at);
        s->out_at += of_out;
        more = str_from(more, (size_t)sent - of_out);
        if (s->out_at == s->out.n)
            s->out.n = s->out_at = 0;
    }
    s->sender = NULL;
}

void stream_flush(struct stream *s)
{
    if (s->out.n && s->broken == OK)
        send_all(s, (str){ 0 });
}

void stream_say(struct stream *s, str bytes)
{
    if (s->broken != OK)
        return;
    must(!s->sender);
    buf_add(&s->out, bytes);
    if (s->out.n - s->out_at > OUT_MOST)
        send_all(s, (str){ 0 });
}

void stream_write(struct stream *s, str bytes)
{
    if (bytes.n < COPY_MOST)
        stream_say(s, bytes);
    else if (s->broken == OK)
        send_all(s, bytes);
}

/* ---- reading ---- */

/* Room for `room` bytes behind the pending ones. They are moved down when that is needed, or when it costs less than what
 * was consumed meanwhile. */
static void make_room(struct stream *s, size_t room)
{
    struct buf *in = &s->in;
    size_t pending = in->n - s->in_at;

    if (s->in_at && (pending <= s->in_at || in->cap - in->n < room)) {
        memmove(in->p, in->p + s->in_at, pending);
        in->n = pending;
        s->in_at = 0;
    }
    if (in->cap < s->in_next)
        buf_reserve(in, s->in_next - in->n);
    buf_reserve(in, room);
}

/* Wait for what the line needs before it can tell us more. */
static err wait_for_line(struct stream *s, when deadline)
{
    s->eager = 0;
    if (s->out.n && !s->sender)
        stream_flush(s);
    if (s->broken != OK)
        return broken(s);
    /* While we were sending it may have become readable. */
    if (!s->io.readable)
        return io_wait_readable(&s->io, deadline);
    if (!s->io.writable)
        return io_wait_writable(&s->io, deadline);
    return OK;
}

static bool may_hear(struct stream *s) { return s->io.readable || (s->ops->pending && s->ops->pending(s->ctx)); }

err stream_fill(struct stream *s, size_t room, when deadline)
{
    if (s->broken != OK)
        return broken(s);
    if (task_canceled())
        return fail(E_CANCELED, "hearing: canceled");
    room = MAX(room, 1);
    if (room > PENDING_MOST || stream_pending(s).n > PENDING_MOST - room)
        return fail(E_LIMIT, "%zu bytes are pending", stream_pending(s).n);
    /* The buffer is made after the wait: who waits for a peer's first word needs none. */
    if (!may_hear(s)) {
        TRY(wait_for_line(s, deadline));
    } else if (s->eager >= EAGER_MOST) {
        s->eager = 0;
        TRY(task_yield());
        if (clock_now() > deadline)
            return fail(E_TIMEOUT, "hearing: the deadline passed");
    }
    for (;;) {
        make_room(s, room);
        size_t want = s->in.cap - s->in.n;
        ssize_t got = s->ops->recv(s->ctx, &s->io, s->in.p + s->in.n, want);
        if (got > 0) {
            s->in.n += (size_t)got;
            s->bytes_in += (uint64_t)got;
            s->eager += (unsigned)MAX((size_t)got, (size_t)EAGER_EACH);
            if ((size_t)got == want && s->in_next < IN_MOST)
                s->in_next = MIN(MAX(s->in_next, s->in.cap) * 4, (size_t)IN_MOST);
            return OK;
        }
        if (got == 0) {
            if (s->out.n && !s->sender) /* a half-closed peer still waits for its answers */
                stream_flush(s);
            return fail(E_CLOSED, "the peer ended the connection");
        }
        if (got != -EAGAIN)
            return breaks_by(s, (int)-got);
        TRY(wait_for_line(s, deadline));
    }
}

err stream_wait(struct stream *s, when deadline)
{
    if (s->broken != OK)
        return broken(s);
    return may_hear(s) ? OK : wait_for_line(s, deadline);
}

void stream_end(struct stream *s, when deadline)
{
    stream_flush(s);
    if (s->broken != OK || machine->sock_shutdown(s->io.fd, SHUT_WR) < 0)
        return;
    for (size_t heard = stream_pending(s).n; heard < 65536; heard += stream_pending(s).n) {
        stream_consume(s, stream_pending(s).n);
        if (stream_fill(s, 4096, deadline) != OK)
            return;
    }
}
