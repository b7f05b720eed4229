/* The network: TCP as programs see it. No packets, but what they do to a program: octets that come late, in pieces or not at
 * all, buffers that are full, refusals, resets, silence. */
#include "sim/inside.h"

#include <errno.h>
#include <stdio.h>

#define BUFFER (64u << 10)
#define SHARERS 64              /* who may wait at one listening socket */
#define SINGLES_MOST 4096
#define GIVE_UP (15 * MINUTE)   /* octets nobody acknowledged */
#define SYN_GIVE_UP (127 * SECOND)

/* One direction of a line. What was sent is in flight piece by piece, then has arrived, then is read. */
struct pipe {
    struct sim_event event;
    struct line *line;
    bool side;                  /* whose sending end: line->end[side] */
    struct buf flight, arrived;
    size_t arrived_at;
    struct piece { size_t n; when at; } *piece; size_t npiece, piece_cap;
    when last;                  /* the newest piece's moment: they do not overtake */
    bool fin, fin_arrived;      /* the sender says no more; its reader knows */
    bool reset, reset_arrived;
    unsigned singles;           /* octets that came one by one */
    bool wants_room;            /* a send was cut short */
    struct sim_event room;      /* tells the sender that there is some */
    when blocked;               /* since then nothing got through; 0: it does */
};

struct line {
    struct sock *end[2];        /* 0: who connected; NULL: closed */
    struct addr addr[2];
    struct pipe pipe[2];        /* 0: from end 0 to end 1 */
    enum sim_pieces pieces;
    size_t buffer;
    when latency;
    struct sim_event syn;
    unsigned syn_tries;
    when syn_began;
    bool established, accepted;
    struct line *next;          /* of all */
};

struct sock {
    int fd;
    enum sim_host host;
    struct addr local, peer;
    bool bound, listening, used;
    struct io *io[SHARERS]; size_t nio;
    struct line *line; bool side;
    int error;                  /* pending */
    bool deaf;                  /* shutdown(SHUT_RD) */
    struct sim_event tell;      /* what io_add() missed */
    struct sock **queue; size_t nqueue, queue_cap; /* of a listener: not yet accepted */
    int backlog;
    struct sock *next;          /* listeners */
};

struct net {
    struct sim_network how;
    struct line *lines;
    struct sock *listeners;
    struct addr silent[64]; size_t nsilent;
    struct addr refused[64]; size_t nrefused;
    uint16_t port;
};

static struct sock *sock_of(int fd)
{
    must(fd >= SIM_FD && (size_t)(fd - SIM_FD) < sim->nfd && sim->fd[fd - SIM_FD].sock);
    return sim->fd[fd - SIM_FD].sock;
}

struct sim_network *sim_network(void) { return &sim->net->how; }

static when latency(void) { return device_between(sim->net->how.latency_least, sim->net->how.latency_most); }

/* ---- telling whoever waits ---- */

static void tell(struct sock *s, bool readable, bool writable, bool hangup)
{
    for (size_t i = 0; s && i < s->nio; i++)
        sched_io_ready(s->io[i], readable, writable, hangup);
}

static bool sock_readable(const struct sock *s)
{
    const struct pipe *p = s->line ? &s->line->pipe[!s->side] : NULL;

    return s->deaf || s->error || (p && (p->arrived.n > p->arrived_at || p->fin_arrived || p->reset_arrived));
}

static void tell_late(struct sim_event *e)
{
    struct sock *s = AROUND(e, struct sock, tell);
    struct line *l = s->line;

    if (!l || !l->established)
        return;
    if (sock_readable(s))
        tell(s, true, false, l->pipe[!s->side].fin_arrived || l->pipe[!s->side].reset_arrived || s->deaf);
}

void net_io_added(struct io *io)
{
    if (io->fd < SIM_FD)
        return;
    struct sock *s = sock_of(io->fd);
    must(s->nio < SHARERS && (s->nio == 0 || io->shared));
    s->io[s->nio++] = io;
    if (!io->shared)
        sim_at(&s->tell, sim->now + 1);
}

void net_io_deleted(struct io *io)
{
    if (io->fd < SIM_FD)
        return;
    struct sock *s = sock_of(io->fd);
    for (size_t i = 0; i < s->nio; i++)
        if (s->io[i] == io) {
            s->io[i] = s->io[--s->nio];
            return;
        }
    must(!"an io of ours");
}

/* ---- lines ---- */

static bool is_among(const struct addr *list, size_t n, const struct addr *a, bool port)
{
    for (size_t i = 0; i < n; i++) {
        struct addr x = list[i], y = *a;
        if (!port)
            addr_set_port(&x, 0), addr_set_port(&y, 0);
        if (addr_eq(&x, &y))
            return true;
    }
    return false;
}

static void among(struct addr *list, size_t *n, size_t most, const struct addr *a, bool in)
{
    for (size_t i = 0; i < *n; i++)
        if (addr_eq(&list[i], a)) {
            list[i] = list[--*n];
            break;
        }
    if (in) {
        must(*n < most);
        list[(*n)++] = *a;
    }
}

void sim_silence(const struct addr *a, bool silent)
{
    struct addr any = *a;
    char text[ADDR_TEXT];

    addr_set_port(&any, 0);
    sim_tell("net: %.*s is %s", STR(addr_print_ip(a, text)), silent ? "silent" : "heard again");
    among(sim->net->silent, &sim->net->nsilent, COUNT(sim->net->silent), &any, silent);
}

void sim_refuse(const struct addr *a, bool refuse)
{
    among(sim->net->refused, &sim->net->nrefused, COUNT(sim->net->refused), a, refuse);
}

static bool is_silent(const struct line *l)
{
    struct net *n = sim->net;
    return n->nsilent && (is_among(n->silent, n->nsilent, &l->addr[0], false) || is_among(n->silent, n->nsilent, &l->addr[1], false));
}

static void line_free(struct line *l)
{
    struct line **at = &sim->net->lines;

    while (*at != l)
        at = &(*at)->next;
    *at = l->next;
    for (int i = 0; i < 2; i++) {
        sim_cancel(&l->pipe[i].event);
        sim_cancel(&l->pipe[i].room);
        buf_free(&l->pipe[i].flight);
        buf_free(&l->pipe[i].arrived);
        mem_free(l->pipe[i].piece);
    }
    sim_cancel(&l->syn);
    mem_free(l);
}

static void line_free_if_over(struct line *l)
{
    if (!l->end[0] && !l->end[1])
        line_free(l);
}

/* An error strikes one end: its waits end, its calls fail. */
static void strike(struct sock *s, int error)
{
    if (!s)
        return;
    s->error = error;
    tell(s, true, true, true);
}

/* The reader's side hears a reset. */
static void reset_arrives(struct pipe *p)
{
    struct sock *reader = p->line->end[!p->side];

    if (p->reset_arrived)
        return;
    p->reset_arrived = true;
    p->npiece = 0;
    buf_clear(&p->flight);
    if (sim->net->how.reset_loses) {
        buf_clear(&p->arrived);
        p->arrived_at = 0;
    }
    tell(reader, true, true, true);
}

/* end[side] answers what it gets with a reset: it is closed, or knows nothing of this line. */
static void reset_back(struct line *l, bool side)
{
    struct pipe *p = &l->pipe[side];

    if (p->reset)
        return;
    p->reset = true;
    p->npiece = 0;
    buf_clear(&p->flight);
    sim_at(&p->event, sim->now + l->latency);
}

static void pipe_schedule(struct pipe *p)
{
    if (p->npiece)
        sim_at(&p->event, p->piece[0].at);
    else if (p->fin && !p->fin_arrived)
        sim_at(&p->event, MAX(p->last, sim->now));
}

static bool pipe_blocked(struct pipe *p)
{
    struct line *l = p->line;

    if (!is_silent(l)) {
        p->blocked = 0;
        return false;
    }
    if (!p->blocked)
        p->blocked = sim->now;
    if (sim->now - p->blocked > GIVE_UP) {
        strike(l->end[p->side], ETIMEDOUT);
        p->npiece = 0;
        p->fin = false;
        buf_clear(&p->flight);
        return true;
    }
    sim_at(&p->event, sim->now + MIN(MAX((sim->now - p->blocked) / 2, 200 * MILLISECOND), MINUTE)); /* sent again */
    return true;
}

static void pipe_arrives(struct sim_event *e)
{
    struct pipe *p = AROUND(e, struct pipe, event);
    struct line *l = p->line;
    struct sock *reader = l->end[!p->side];

    if (pipe_blocked(p))
        return;
    if (p->reset) {
        reset_arrives(p);
        return;
    }
    if (!reader) {              /* octets for nobody */
        p->fin = false;
        if (p->npiece) {
            p->npiece = 0;
            buf_clear(&p->flight);
            if (l->end[p->side])
                reset_back(l, !p->side);
        }
        return;
    }
    if (p->npiece) {
        size_t n = p->piece[0].n;
        if (p->arrived_at == p->arrived.n) {
            buf_clear(&p->arrived);
            p->arrived_at = 0;
        }
        buf_add(&p->arrived, str_head(buf_str(&p->flight), n));
        buf_drop(&p->flight, n);
        memmove(p->piece, p->piece + 1, --p->npiece * sizeof *p->piece);
        mix((uint64_t)n);
        tell(reader, true, false, false);
    }
    if (!p->npiece && p->fin && !p->fin_arrived && p->last <= sim->now) {
        p->fin_arrived = true;
        tell(reader, true, false, true);
    }
    pipe_schedule(p);
}

static size_t pipe_room(const struct pipe *p)
{
    size_t used = p->flight.n + p->arrived.n - p->arrived_at;
    return used < p->line->buffer ? p->line->buffer - used : 0;
}

static void pipe_has_room(struct sim_event *e)
{
    struct pipe *p = AROUND(e, struct pipe, room);

    if (p->wants_room && pipe_room(p) >= p->line->buffer / 2) {
        p->wants_room = false;
        tell(p->line->end[p->side], false, true, false);
    }
}

static void piece_add(struct pipe *p, size_t n, when at)
{
    if (p->npiece == p->piece_cap) {
        p->piece_cap = p->piece_cap ? p->piece_cap * 2 : 8;
        p->piece = mem_grow(p->piece, p->piece_cap * sizeof *p->piece);
    }
    p->last = MAX(p->last, at);
    p->piece[p->npiece++] = (struct piece){ n, p->last };
}

/* Cut what is said into what arrives at a time. */
static void pipe_put(struct pipe *p, str bytes)
{
    when at = sim->now + p->line->latency;

    buf_add(&p->flight, bytes);
    for (size_t done = 0, n; done < bytes.n; done += n) {
        size_t left = bytes.n - done, some = pick(&sim->device, pick(&sim->device, 8) ? 1500 : 3) + 1;
        switch (p->line->pieces) {
        case SIM_OCTETS:
            n = p->singles++ < SINGLES_MOST ? 1 : left; /* of more nobody learns more */
            break;
        case SIM_RANDOM:
            n = pick(&sim->device, 2) ? left : MIN(left, some);
            break;
        default:
            n = left;
        }
        piece_add(p, n, at);
        at += (when)pick(&sim->device, 40);
    }
    pipe_schedule(p);
}

/* ---- connecting ---- */

static struct line *line_new(struct sock *s, const struct addr *to)
{
    struct line *l = mem_new(sizeof *l);

    l->addr[0] = s->local;
    l->addr[1] = *to;
    l->end[0] = s;
    l->pieces = sim->net->how.pieces;
    l->buffer = sim->net->how.buffer ? sim->net->how.buffer : BUFFER;
    l->latency = latency();
    for (int i = 0; i < 2; i++) {
        l->pipe[i].line = l;
        l->pipe[i].side = i;
        l->pipe[i].event.run = pipe_arrives;
        l->pipe[i].room.run = pipe_has_room;
    }
    l->next = sim->net->lines;
    sim->net->lines = l;
    s->line = l;
    s->side = 0;
    return l;
}

static struct sock *listener_at(const struct addr *a)
{
    for (struct sock *s = sim->net->listeners; s; s = s->next)
        if (addr_eq(&s->local, a))
            return s;
    return NULL;
}

static struct sock *sock_new(enum sim_host host)
{
    struct sock *s = mem_new(sizeof *s);
    s->host = host;
    s->fd = -1;
    s->tell.run = tell_late;
    return s;
}

static void connect_ends(struct line *l, int error)
{
    struct sock *s = l->end[0];

    if (error) {
        l->end[0] = NULL;
        s->line = NULL;
        strike(s, error);
        line_free(l);
        return;
    }
    l->established = true;
    tell(s, false, true, false);
}

/* First it goes there, then the answer comes back. */
static void syn_arrives(struct sim_event *e)
{
    struct line *l = AROUND(e, struct line, syn);
    struct net *net = sim->net;
    when again = SECOND << MIN(l->syn_tries, 5);

    if (l->syn_tries == UINT32_MAX)
        return connect_ends(l, ECONNREFUSED);
    if (l->end[1]) {
        connect_ends(l, 0);
        return;
    }
    struct sock *at = listener_at(&l->addr[1]);
    bool lost = is_silent(l), refused = !at || is_among(net->refused, net->nrefused, &l->addr[1], true);
    if (!lost && refused) {
        l->syn_tries = UINT32_MAX;
        sim_at(&l->syn, sim->now + l->latency);
        return;
    }
    if (lost || at->nqueue >= (size_t)at->backlog) {
        if (sim->now - l->syn_began > SYN_GIVE_UP)
            return connect_ends(l, ETIMEDOUT);
        l->syn_tries++;
        sim_at(&l->syn, sim->now + again);
        return;
    }
    struct sock *s = sock_new(at->host);
    s->local = l->addr[1];
    s->peer = l->addr[0];
    s->used = true;
    s->line = l;
    s->side = 1;
    l->end[1] = s;
    if (at->nqueue == at->queue_cap) {
        at->queue_cap = at->queue_cap ? at->queue_cap * 2 : 8;
        at->queue = mem_grow(at->queue, at->queue_cap * sizeof *at->queue);
    }
    at->queue[at->nqueue++] = s;
    sim_at(&l->syn, sim->now + l->latency);
}

/* Level-triggered: as long as a client waits and nobody of those who share was told. */
static struct sock *untold(void)
{
    for (struct sock *s = sim->net->listeners; s; s = s->next) {
        bool told = s->nqueue == 0 || s->nio == 0;
        for (size_t i = 0; i < s->nio && !told; i++)
            told = s->io[i]->readable;
        if (!told)
            return s;
    }
    return NULL;
}

bool net_can_tell(void) { return untold() != NULL; }

void net_tell(void)
{
    struct sock *s = untold();
    size_t i = pick(&sim->device, s->nio);

    sched_io_ready(s->io[i], true, false, false);
    if (pick(&sim->device, 4) == 0) /* several may be told, and all but one come too late */
        sched_io_ready(s->io[pick(&sim->device, s->nio)], true, false, false);
}

/* ---- the calls ---- */

static int sock_open(int family, int type)
{
    struct sock *s = sock_new(sim->host);

    (void)type;
    s->local.sa.sa_family = (sa_family_t)family;
    s->fd = fd_new(s, NULL);
    if (s->fd >= 0)
        return s->fd;
    int error = s->fd;
    mem_free(s);
    return error;
}

static struct addr addr_from(const struct sockaddr *sa, socklen_t n)
{
    struct sockaddr_storage room = { 0 };
    memcpy(&room, sa, n);
    return addr_of(&room, n);
}

static int sock_bind(int fd, const struct sockaddr *sa, socklen_t n)
{
    struct sock *s = sock_of(fd);
    s->local = addr_from(sa, n);
    struct addr ip = s->local, *missing = &sim_network()->missing;
    if (missing->n) {
        addr_set_port(&ip, addr_port(missing));
        if (addr_eq(&ip, missing))
            return -EADDRNOTAVAIL;
    }
    s->bound = true;
    return 0;
}

static int sock_listen(int fd, int backlog)
{
    struct sock *s = sock_of(fd);

    if (listener_at(&s->local))
        return -EADDRINUSE;
    s->listening = true;
    s->backlog = MIN(backlog, 128);
    s->next = sim->net->listeners;
    sim->net->listeners = s;
    return 0;
}

static int sock_accept(int fd, struct sockaddr_storage *sa, socklen_t *n)
{
    struct sock *s = sock_of(fd);

    if (!s->nqueue)
        return -EAGAIN;
    struct sock *c = s->queue[0];
    int got = fd_new(c, NULL);
    if (got < 0)
        return got;
    memmove(s->queue, s->queue + 1, --s->nqueue * sizeof *s->queue);
    c->fd = got;
    c->host = sim->host;
    c->line->accepted = true;
    memcpy(sa, &c->peer, c->peer.n);
    *n = c->peer.n;
    return got;
}

/* What the relay uses where it does not choose, and everyone else: any port of an address of documentation. */
static void name_local(struct sock *s)
{
    if (!s->bound) {
        bool v6 = s->local.sa.sa_family == AF_INET6;
        const char *at = sim->host == SIM_RELAY ? (v6 ? "[2001:db8::25]:1" : "198.51.100.25:1")
                                                : (v6 ? "[2001:db8:ffff::1]:1" : "192.0.2.1:1");
        must(addr_parse(str_z(at), 0, &s->local) == OK);
    }
    if (s->local.sa.sa_family != AF_UNIX && (!s->bound || addr_port(&s->local) == 0)) {
        if (sim->net->port < 32768 || sim->net->port > 60000)
            sim->net->port = 32768;
        addr_set_port(&s->local, sim->net->port++);
    }
}

static int sock_connect(int fd, const struct sockaddr *sa, socklen_t n)
{
    struct sock *s = sock_of(fd);
    struct addr to = addr_from(sa, n);

    must(!s->used);
    s->used = true;
    s->peer = to;
    name_local(s);
    struct line *l = line_new(s, &to);
    l->syn.run = syn_arrives;
    l->syn_began = sim->now;
    sim_at(&l->syn, sim->now + l->latency);
    for (size_t i = 0; i < s->nio; i++)
        s->io[i]->writable = false;
    return -EINPROGRESS;
}

static int sock_error(int fd)
{
    struct sock *s = sock_of(fd);
    int error = s->error;

    s->error = 0;
    return -error;
}

static int sock_name(int fd, bool peer, struct sockaddr_storage *sa, socklen_t *n)
{
    struct sock *s = sock_of(fd);
    const struct addr *a = peer ? &s->peer : &s->local;

    memset(sa, 0, sizeof *sa);
    memcpy(sa, a, a->n);
    *n = a->n;
    return 0;
}

static int sock_option(int fd, int level, int name, int value)
{
    (void)sock_of(fd), (void)level, (void)name, (void)value;
    return 0;
}

static ssize_t sock_recv(int fd, void *to, size_t n)
{
    struct sock *s = sock_of(fd);
    struct line *l = s->line;

    if (s->error) {
        int error = s->error;
        s->error = 0;
        return -error;
    }
    if (!l || !l->established)
        return l && l->accepted ? -EAGAIN : -ENOTCONN;
    struct pipe *p = &l->pipe[!s->side];
    size_t have = p->arrived.n - p->arrived_at;
    if (have) {
        n = MIN(n, have);
        memcpy(to, p->arrived.p + p->arrived_at, n);
        p->arrived_at += n;
        mix_bytes(to, n);
        if (p->wants_room)
            sim_at(&p->room, sim->now + l->latency);
        return (ssize_t)n;
    }
    if (p->reset_arrived)
        return -ECONNRESET;
    return p->fin_arrived || s->deaf ? 0 : -EAGAIN;
}

static ssize_t sock_send(int fd, const struct iovec *iov, int n)
{
    struct sock *s = sock_of(fd);
    struct line *l = s->line;
    size_t sent = 0, all = 0;

    if (s->error) {
        int error = s->error;
        s->error = 0;
        return -error;
    }
    if (!l)
        return -EPIPE;
    /* Who accepts may speak at once; who connects waits for the answer. */
    if (!l->established && s->side == 0)
        return -EAGAIN;
    struct pipe *p = &l->pipe[s->side];
    if (l->pipe[!s->side].reset_arrived)
        return -EPIPE;
    if (p->fin)
        return -EPIPE;
    for (int i = 0; i < n; i++)
        all += iov[i].iov_len;
    size_t room = pipe_room(p);
    if (room < all)
        p->wants_room = true;
    for (int i = 0; i < n && room; i++) {
        size_t part = MIN(iov[i].iov_len, room);
        pipe_put(p, str_of(iov[i].iov_base, part));
        mix_bytes(iov[i].iov_base, part);
        sent += part;
        room -= part;
    }
    return sent || !all ? (ssize_t)sent : -EAGAIN;
}

static int sock_shutdown(int fd, int how)
{
    struct sock *s = sock_of(fd);

    if (!s->line || !s->line->established)
        return -ENOTCONN;
    if (how == SHUT_RD || how == SHUT_RDWR) {
        s->deaf = true;
        sim_at(&s->tell, sim->now + 1);
    }
    if (how == SHUT_WR || how == SHUT_RDWR) {
        s->line->pipe[s->side].fin = true;
        pipe_schedule(&s->line->pipe[s->side]);
    }
    return 0;
}

/* What was sent still arrives, unless something that came was never read: then the other side hears of it. */
int net_close(struct sock *s)
{
    struct line *l = s->line;

    sim_cancel(&s->tell);
    if (s->listening) {
        struct sock **at = &sim->net->listeners;
        while (*at != s)
            at = &(*at)->next;
        *at = s->next;
        while (s->nqueue)
            net_close(s->queue[--s->nqueue]);
        mem_free(s->queue);
    }
    if (l) {
        struct pipe *in = &l->pipe[!s->side], *out = &l->pipe[s->side];
        l->end[s->side] = NULL;
        if (!l->established && s->side == 0) {
            if (l->end[1])
                reset_back(l, 0);
        } else if (in->arrived.n > in->arrived_at) {
            reset_back(l, s->side);
        } else if (!out->reset) {
            out->fin = true;
            pipe_schedule(out);
        }
        sim_cancel(&l->syn);
        if (!l->established && s->side == 1 && l->end[0])
            l->established = true, tell(l->end[0], false, true, false);
        line_free_if_over(l);
    }
    mem_free(s);
    return 0;
}

void sim_reset(int fd)
{
    struct sock *s = sock_of(fd);

    if (s->line && s->line->established)
        reset_back(s->line, s->side);
}

bool sim_peer_gone(int fd)
{
    struct sock *s = sock_of(fd);

    return !s->line || !s->line->end[!s->side];
}

size_t sim_unread(int fd)
{
    struct sock *s = sock_of(fd);
    const struct pipe *p = s->line ? &s->line->pipe[!s->side] : NULL;

    return p ? p->arrived.n - p->arrived_at : 0;
}

size_t sim_connections(const struct addr *to)
{
    size_t n = 0;

    for (struct line *l = sim->net->lines; l; l = l->next)
        n += l->established && l->end[0] && addr_eq(&l->addr[1], to);
    return n;
}

const struct machine net_machine = {
    .sock_open = sock_open, .sock_bind = sock_bind, .sock_listen = sock_listen, .sock_accept = sock_accept,
    .sock_connect = sock_connect, .sock_error = sock_error, .sock_name = sock_name, .sock_option = sock_option,
    .sock_recv = sock_recv, .sock_send = sock_send, .sock_shutdown = sock_shutdown,
};

/* ---- crash, begin, end ---- */

/* Killed: the system closes each as a program would. Power cut: the other side is told nothing, until it says something. */
void net_crash(enum sim_crash how)
{
    for (size_t i = 0; i < sim->nfd; i++) {
        struct sock *s = sim->fd[i].sock;
        if (!s || sim->fd[i].host != SIM_RELAY)
            continue;
        fd_free(SIM_FD + (int)i);
        s->nio = 0;
        if (how == SIM_POWER && s->line) {
            struct line *l = s->line;
            l->end[s->side] = NULL;
            s->line = NULL;
            sim_cancel(&l->pipe[s->side].event);
            l->pipe[s->side].npiece = 0;
            buf_clear(&l->pipe[s->side].flight);
            sim_cancel(&l->syn);
            line_free_if_over(l);
        }
        net_close(s);
    }
}

void net_begin(void)
{
    sim->net = mem_new(sizeof *sim->net);
    sim->net->how = (struct sim_network){ .latency_least = 50, .latency_most = 2 * MILLISECOND };
}

void net_end(void)
{
    for (size_t i = 0; i < sim->nfd; i++)
        if (sim->fd[i].sock) {
            struct sock *s = sim->fd[i].sock;
            fd_free(SIM_FD + (int)i);
            net_close(s);
        }
    while (sim->net->lines)
        line_free(sim->net->lines);
    mem_free(sim->net);
}
