/* Who speaks for whom: PROXY headers before a session, XCLIENT and XFORWARD within. All of it is believed from named peers only; who could
 * say that he is somebody else would have whatever is allowed to somebody else (attack class 18). */
#include "receive/inside.h"

#define PROXY_WAIT (5 * SECOND)

static bool has(const struct cidrs *c, const struct addr *a)
{
    for (size_t i = 0; i < c->n; i++)
        if (cidr_has(&c->p[i], a))
            return true;
    return false;
}

static void through_add(struct session *s)
{
    if (s->through.n)
        buf_add(&s->through, S(", "));
    buf_add(&s->through, str_z(s->client.ip));
}

/* ---- PROXY ---- */

static bool proxy_refused(struct session *s, str why)
{
    stats_add(COUNT_proxy_refused, 1);
    log_warn("proxy_refused", LOG_Z("peer", s->client.ip), LOG_STR("listener", s->listener), LOG_STR("reason", why));
    return false;
}

/* Before the session counts as one: whom it would be counted for is not known yet. Named peers, a few seconds and 4 KiB bound it. */
bool inlet_proxy(struct session *s)
{
    const struct listener_setting *l = receive_listener(&s->snap->receive, &s->at, s->listener);
    struct proxied p;

    if (!l || !l->proxy)
        return true;
    if (!has(&l->proxy_from, &s->peer))
        return proxy_refused(s, S("it is none of those named by \"proxy from\""));
    if (proxy_hear(s->s, clock_now() + PROXY_WAIT, &p) != OK)
        return proxy_refused(s, err_text());
    if (!p.known)
        return true;
    through_add(s);
    s->peer = s->client.addr = p.client;
    client_place(&s->client, s->snap);
    return true;
}

/* ---- XCLIENT and XFORWARD ---- */

bool inlet_may(const struct session *s, enum verb verb)
{
    const struct listener_setting *l = receive_listener(&s->snap->receive, &s->at, s->listener);

    return l && has(verb == VERB_XCLIENT ? &l->xclient_from : &l->xforward_from, &s->peer);
}

static bool too_late(struct session *s)
{
    if (s->a)
        say(s, 503, ENH(5, 5, 1), "a transaction is under way");
    return s->a;
}

static void set(struct buf *b, const struct command *c, enum attr which)
{
    if (!(c->attrs & 1u << which))
        return;
    buf_clear(b);
    buf_add(b, c->attr[which]);
}

void inlet_xclient(struct session *s, const struct command *c)
{
    if (too_late(s))
        return;
    transaction_reset(s);
    s->esmtp = s->v.enhanced = s->greeted = false;
    set(&s->client_name, c, ATTR_NAME);
    set(&s->login, c, ATTR_LOGIN);
    if (!(c->attrs & 1u << ATTR_HELO)) {
        if (!s->helo_said)
            buf_clear(&s->helo);
    } else {
        set(&s->helo, c, ATTR_HELO);
        s->helo_said = s->helo.n > 0;
    }
    if (c->attrs & 1u << ATTR_ADDR) {
        if (addr_eq(&s->client.addr, &s->peer))
            through_add(s);
        if (!session_readmit(s, &c->attr_addr)) {
            s->quit = true;
            return;
        }
    }
    say_greeting(s); /* and all is as it was behind the first one */
}

/* "name=mail.example addr=192.0.2.7 ...": what was said, more of it with each command. */
void inlet_xforward(struct session *s, const struct command *c)
{
    static const struct { enum attr attr; const char *name; } told[] = {
        { ATTR_NAME, "name" }, { ATTR_ADDR, "addr" }, { ATTR_PORT, "port" }, { ATTR_PROTO, "proto" },
        { ATTR_HELO, "helo" }, { ATTR_IDENT, "ident" }, { ATTR_SOURCE, "source" },
    };

    if (too_late(s))
        return;
    if (!s->forward.n)
        buf_add(&s->forward, S("forwarded"));
    for (size_t i = 0; i < COUNT(told); i++)
        if (c->attr[told[i].attr].n && s->forward.n < 2048) /* said again and again it is no longer told */
            buf_addf(&s->forward, " %s=%.*s", told[i].name, STR(str_printable(s->scratch, c->attr[told[i].attr])));
    say(s, 250, ENH(2, 0, 0), "ok");
}

void inlet_forget(struct session *s)
{
    buf_free(&s->forward);
}
