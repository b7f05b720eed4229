/* net: addresses, listeners, streams with deadlines.
 *
 * A stream remembers its first failure: writing into a broken one does nothing, reading from it returns the error, so
 * callers test only where they read. TLS will be another set of stream_ops; nothing above this folder will notice. */
#ifndef NET_H
#define NET_H

#include "task/task.h"

#include <netinet/in.h>
#include <sys/un.h>

/* ---- addr: IPv4, IPv6 or a Unix socket's path. ------------------------------------------------------------------- */

struct addr {
    union {
        struct sockaddr sa;
        struct sockaddr_in v4;
        struct sockaddr_in6 v6;
        struct sockaddr_un un;
    };
    socklen_t n;                        /* 0: none */
};
#define ADDR_TEXT 128

/* "192.0.2.7:25", "[2001:db8::1]:25", "unix:/run/x.sock" (an absolute path); without ":port" when port is
 * `default_port` != 0. Port 0 lets the system choose. Numbers only; a name is E_NONAME, anything else E_SYNTAX. */
err addr_parse(str s, uint16_t default_port, struct addr *ret);
str addr_print(const struct addr *a, char out[ADDR_TEXT]);      /* with the port; the result lies in `out`, as below */
str addr_print_ip(const struct addr *a, char out[ADDR_TEXT]);   /* without; "unix" for a Unix socket */
/* The address literal of RFC 5321 4.1.3: "[192.0.2.7]", "[IPv6:2001:db8::1]"; "" for a Unix socket. */
str addr_print_literal(const struct addr *a, char out[ADDR_TEXT]);
struct addr addr_of(const struct sockaddr_storage *sa, socklen_t n); /* v4-mapped v6 becomes v4 */
uint16_t addr_port(const struct addr *a);
void addr_set_port(struct addr *a, uint16_t port);
bool addr_eq(const struct addr *a, const struct addr *b);       /* port included */
bool addr_is_loopback(const struct addr *a);                    /* 127/8, ::1, Unix sockets */
bool addr_is_private(const struct addr *a);                     /* RFC 1918, RFC 4193, loopback, link-local */
/* One client for limits: the IPv4 address, the /64 of an IPv6 address, all Unix peers as one. */
uint64_t addr_client_key(const struct addr *a);

struct cidr { struct addr base; unsigned bits; };
/* "10.1.0.0/24", "2001:db8::/32", "192.0.2.7" (one address), "unix" (all Unix peers). E_SYNTAX also when bits stand behind
 * the mask. A v4-mapped network (::ffff:0:0/96 and below) becomes the IPv4 one. */
err cidr_parse(str s, struct cidr *ret);
bool cidr_has(const struct cidr *c, const struct addr *a);

struct addrs { struct addr *p; size_t n; }; /* several */

/* ---- listener ----------------------------------------------------------------------------------------------------- */

/* Bind and listen; the caller owns the descriptor. v6 sockets take v6 only unless the address is [::], which takes both.
 * A stale Unix socket (nobody answers) is replaced; mode 0660. */
err listen_open(const struct addr *at, int *ret_fd);
/* Wait for the next client. Descriptor exhaustion (EMFILE, ENFILE, ENOMEM) is E_LIMIT after a short pause: the client stays
 * in the kernel's queue. The descriptor in *ret_fd belongs to the caller. */
WAITS err listen_accept(struct io *listener, when deadline, int *ret_fd, struct addr *ret_peer);

/* ---- stream ------------------------------------------------------------------------------------------------------- */

struct stream_ops {
    /* As machine->sock_recv and sock_send. -EAGAIN: they cleared the flag of `io` that must come back before they are
     * called again, `readable` or `writable`. They also clear it themselves when they know that more would fail. */
    ssize_t (*recv)(void *ctx, struct io *io, void *p, size_t n);
    ssize_t (*send)(void *ctx, struct io *io, const struct iovec *iov, int n);
    bool (*pending)(void *ctx);         /* bytes are there that no descriptor tells of; NULL: never */
    void (*close)(void *ctx, struct io *io); /* after io_del(): close the descriptor, free ctx */
};

struct stream {
    struct io io;
    const struct stream_ops *ops;
    void *ctx;
    struct addr peer, local;
    err broken;                         /* the first failure, OK before; the end of what the peer says is none */
    int broken_errno;                   /* the system's number for it, 0: none */
    struct buf in;                      /* bytes heard; in_at of them consumed */
    size_t in_at;
    size_t in_next;                     /* how large `in` will be when it is made or moved next */
    struct buf out;                     /* bytes said; out_at of them sent */
    size_t out_at;
    struct task *sender;                /* who is sending now */
    unsigned eager;                     /* octets that came at once, one read after the other */
    when write_wait;                    /* how long a send may make no progress; default 5 minutes */
    uint64_t write_least;               /* octets a second, over that, which a send makes at least, however it progresses; default 1024 */
    uint64_t bytes_in, bytes_out;       /* on the wire */
};

/* Take over a connected, non-blocking descriptor. The caller ends it with stream_free(). One task may read while another
 * writes; no two may do the same. */
struct stream *stream_new(int fd, const struct addr *peer);
/* `from`: local address to bind, or NULL. E_REFUSED, E_NOWAY, E_TIMEOUT, E_IO with the words of the system. */
WAITS err stream_connect(const struct addr *to, const struct addr *from, when deadline, struct stream **ret);
void stream_free(struct stream *s);     /* closes; what was not sent is lost. NULL is fine */
AUTO_DEFINE(stream)

/* Reading. What was heard and not yet consumed: */
static inline str stream_pending(const struct stream *s) { return str_from(buf_str(&s->in), s->in_at); }
static inline void stream_consume(struct stream *s, size_t n) { s->in_at += n; }
/* Hear more bytes behind the pending ones: at least one on OK. Says what is in `out` before it waits or tells that the
 * peer ended, not before it tries. Room for `room` bytes is made first (moving the pending bytes down); pending bytes + room never exceed 1 MiB.
 * A peer whose bytes never end is no reason for others to wait: now and then their turn comes in here.
 * E_CLOSED    the peer ended; after a mere half-close we can still send     E_TIMEOUT   nothing came; the stream is whole
 * E_LIMIT     1 MiB is pending                                              E_CANCELED
 * E_IO, and all the others when sending has failed before: the line is broken */
WAITS err stream_fill(struct stream *s, size_t room, when deadline);
/* Wait until more can be read, without reading: for an idle session that gave its buffers back. Says what is in `out`. */
WAITS err stream_wait(struct stream *s, when deadline);
/* Give back both buffers when they are empty. */
void stream_release(struct stream *s);

/* Writing. Appends to `out`; sends only when that passes 64 KiB. */
WAITS void stream_say(struct stream *s, str bytes);
/* The same, but 16 KiB or more are sent without a copy, with what is in `out` in one system call, before it returns. */
WAITS void stream_write(struct stream *s, str bytes);
WAITS void stream_flush(struct stream *s);
/* Say what is in `out`, then that no more will come, and hear (and forget) what the peer still says until it ends too, at most 64 KiB
 * and until `deadline`: closing over unread input would take our last words back (RST). For stream_free() to follow. */
WAITS void stream_end(struct stream *s, when deadline);

/* ---- proxy: the PROXY protocol, versions 1 and 2 --------------------------------------------------------------------- */

/* known false: the proxy speaks for itself, or does not know for whom. Then the real peer is the client. */
struct proxied { bool known; struct addr client, server; };
/* Read the header that `in` begins with; *used octets are it, and what follows is the client's. E_AGAIN: it has not all come yet;
 * E_SYNTAX: it is none, and the line can only be closed. */
err proxy_parse(str in, struct proxied *ret, size_t *used);
/* Hear it, before all else. Errors as above, and those of stream_fill(). */
WAITS err proxy_hear(struct stream *s, when deadline, struct proxied *ret);
#endif
