/* One client's dialogue, in the order it happens on the wire. Decisions are policy.c's, octets are smtp/'s, safety is accept.c's. */
#include "receive/inside.h"

#define IDLE_TRIM (2 * SECOND)  /* a session silent for so long gives its buffers and stack back */
#define REFUSAL_MOST 450        /* octets: a reply has 500 (server_reply()), and the reference shall be among them */
#define TURN (2 * MILLISECOND)  /* of commands that were here at once; then others have theirs */

/* ---- the transaction ---- */

void transaction_reset(struct session *s)
{
    body_reset(s);
    arena_free(s->a);
    s->a = NULL;
    s->m = NULL;
    s->rcpt_cap = s->copies = s->taken = 0;
    inlet_forget(s);
}

void say(struct session *s, int code, struct enhanced e, const char *text)
{
    server_reply(&s->v, code, e, "%s", text);
}

void say_reply(struct session *s, const struct reply *r)
{
    server_reply(&s->v, r->code, r->enhanced, "%.*s", STR(r->text));
}

/* What the log tells besides the client: whom it came through, and where XFORWARD says the message came from. */
str told_through(struct session *s)
{
    if (s->through.n == 0 && s->forward.n == 0)
        return S("");
    return str_printf(s->scratch, "%s%.*s%s%.*s", s->through.n ? "through " : "", STR(buf_str(&s->through)), s->through.n && s->forward.n ? "; " : "",
                      STR(buf_str(&s->forward)));
}

/* Refuse with a reference that `waypost trace` finds. */
void say_refusal(struct session *s, const struct reply *r, str rcpt)
{
    ulid ref = ulid_new();
    char text[ULID_TEXT];
    struct event e = { .kind = EVENT_REFUSED, .id = ref, .at = wall_now(), .from = s->m ? s->m->env.sender : S(""), .rcpt = rcpt,
                       .remote = str_z(s->client.ip), .reply = reply_print(s->scratch, r), .detail = told_through(s) };

    event_emit(&e);
    server_reply(&s->v, r->code, r->enhanced, "%.*s [ref %.*s]", STR(str_head(r->text, REFUSAL_MOST)), STR(ulid_print(ref, text)));
}

static bool newest_snapshot(struct session *s)
{
    struct snapshot *now = s->r->setup.newest(s->r->setup.ctx);

    if (now == s->snap) {
        snapshot_drop(now);
        return false;
    }
    snapshot_drop(s->snap);
    s->snap = now;
    client_place(&s->client, now);
    return true;
}

/* ---- commands ---- */

static void do_hello(struct session *s, const struct command *c)
{
    const struct limits *l = &s->snap->receive.limits;

    transaction_reset(s); /* RFC 5321 4.1.4: EHLO ends a transaction */
    s->greeted = true;
    if (!s->helo_said) {
        buf_clear(&s->helo);
        buf_add(&s->helo, str_head(str_printable(s->scratch, str_head(c->argument, 255)), 255));
    }
    s->esmtp = s->v.enhanced = c->verb == VERB_EHLO;
    if (!s->esmtp) {
        server_reply(&s->v, 250, (struct enhanced){ 0 }, "%.*s", STR(s->snap->receive.hostname));
        return;
    }
    str line[12] = {
        str_printf(s->scratch, "%.*s greets %s", STR(s->snap->receive.hostname), s->client.ip),
        S("PIPELINING"),
        str_printf(s->scratch, "SIZE %llu", (unsigned long long)l->message_size),
        S("8BITMIME"), S("SMTPUTF8"), S("CHUNKING"), S("BINARYMIME"), S("DSN"), S("ENHANCEDSTATUSCODES"),
        str_printf(s->scratch, "LIMITS RCPTMAX=%llu", (unsigned long long)l->recipients), /* RFC 9422 */
    };
    size_t n = 10;
    if (inlet_may(s, VERB_XCLIENT))
        line[n++] = S("XCLIENT NAME ADDR PORT PROTO HELO LOGIN DESTADDR DESTPORT");
    if (inlet_may(s, VERB_XFORWARD))
        line[n++] = S("XFORWARD NAME ADDR PORT PROTO HELO IDENT SOURCE");
    must(n <= COUNT(line));
    server_reply_lines(&s->v, 250, (struct enhanced){ 0 }, line, n);
}

static void do_mail(struct session *s, const struct command *c)
{
    struct reply no;

    if (!s->greeted) {
        say(s, 503, ENH(5, 5, 1), "say EHLO or HELO first");
        return;
    }
    if (s->a) {
        say(s, 503, ENH(5, 5, 1), "a transaction is under way already");
        return;
    }
    newest_snapshot(s);
    if (s->r->draining) {
        say(s, 421, ENH(4, 3, 2), "this relay is going down for a moment; try again");
        s->quit = true;
        return;
    }
    if (spool_room(s->r->setup.spool) != OK) {
        server_reply(&s->v, 452, ENH(4, 3, 1), "no room for mail just now: %.*s", STR(err_text()));
        return;
    }
    if (arriving_full(&s->snap->receive.limits)) {
        say(s, 452, ENH(4, 3, 1), "too much mail on its way in just now (body_memory)");
        return;
    }
    no = policy_mail(s->snap, &s->client, c);
    if (!no.code)
        no = policy_network(&s->client, s->scratch);
    if (no.code) {
        say_refusal(s, &no, S(""));
        return;
    }
    s->a = arena_new();
    s->m = NEW(s->a, struct message);
    s->expected = c->has_size ? c->size : 0;
    if (s->snap->routes.closes) /* rules are asked before the message is here */
        s->m->origin = (struct origin){ .listener = s->where, .client = str_dup(s->a, str_z(s->client.ip)), .login = str_dup(s->a, buf_str(&s->login)) };
    s->m->id = ulid_new();
    s->m->env = (struct envelope){ .sender = str_dup(s->a, c->path.text), .envid = str_dup(s->a, c->envid), .ret = c->ret, .body = c->body,
                                   .smtputf8 = c->smtputf8 };
    server_reply(&s->v, 250, ENH(2, 1, 0), "sender ok");
}

/* An unknown recipient: is the client collecting addresses? False: the session ends. */
static bool unknown_may(struct session *s)
{
    when delay;

    if (!s->counted)
        return true;
    if (!probing_note(s->snap->receive.limits.unknown_rcpts, &s->client.addr, clock_now(), &delay)) {
        stats_add(COUNT_probes_cut, 1);
        say(s, 421, ENH(4, 7, 1), "too many unknown recipients from your address (limits: unknown_recipients)");
        s->quit = true;
        return false;
    }
    if (delay) {
        stats_add(COUNT_probes_slowed, 1);
        task_sleep(clock_now() + delay); /* cut short by the end of the relay */
    }
    return true;
}

static bool is_unknown(const struct reply *r)
{
    return r->code == 550 && r->enhanced.class == 5 && r->enhanced.subject == 1 && r->enhanced.detail == 1;
}

static void do_rcpt(struct session *s, const struct command *c)
{
    const struct limits *l = &s->snap->receive.limits;
    struct reply no;
    struct strs to;

    if (!s->a || s->bdat) {
        say(s, 503, ENH(5, 5, 1), s->a ? "the message has begun" : "say MAIL first");
        return;
    }
    if (s->m->env.nrcpt - s->copies >= l->recipients) { /* RFC 5321 4.5.3.1.10 */
        say(s, 452, ENH(4, 5, 3), "too many recipients: send the message to the rest on its own");
        return;
    }
    if (s->taken >= l->recipients) { /* several may stand for one; each was asked about */
        say(s, 452, ENH(4, 5, 3), "too many RCPT commands: send the message to the rest on its own");
        return;
    }
    no = policy_rcpt(s->snap, &s->client, s->m, &c->path, s->scratch, &to);
    if (no.code) {
        if (is_unknown(&no) && !unknown_may(s))
            return;
        say_refusal(s, &no, c->path.text);
        if (++s->refused >= l->refused_rcpts) {
            say(s, 421, ENH(4, 7, 1), "too many refused recipients in one session");
            s->quit = true;
        }
        return;
    }
    s->taken++;
    s->copies += envelope_add(s->a, s->snap, &s->m->env, &s->rcpt_cap, c, &to);
    say(s, 250, ENH(2, 1, 5), "recipient ok");
}

/* ---- the dialogue ---- */

/* Those that one message may need many of, or that say no more than that all is over. */
static bool leads_to_mail(enum verb v) { return v == VERB_RCPT || v == VERB_DATA || v == VERB_BDAT || v == VERB_QUIT; }

static err session_do(struct session *s, const struct command *c)
{
    if ((c->verb == VERB_XCLIENT || c->verb == VERB_XFORWARD) && !inlet_may(s, c->verb)) { /* whatever stands behind it */
        say(s, 502, ENH(5, 5, 1), "not offered here");
        return OK;
    }
    if (c->refuse.code && c->verb != VERB_HTTP) {
        say_reply(s, &c->refuse);
        if (c->verb == VERB_BDAT) { /* where its octets end nobody knows, and what they say is no command (attack class 6) */
            say(s, 421, ENH(4, 7, 0), "the size of a chunk must be known");
            s->quit = true;
            return OK;
        }
        if (s->v.nonsense >= s->snap->receive.limits.nonsense) {
            say(s, 421, ENH(4, 7, 0), "too many lines that are no command");
            s->quit = true;
        }
        return OK;
    }
    if (!leads_to_mail(c->verb) && !s->client.network && !s->client.local && ++s->without_mail > s->snap->receive.limits.without_mail) {
        say(s, 421, ENH(4, 7, 0), "too many commands without a message");
        s->quit = true;
        return OK;
    }
    switch (c->verb) {
    case VERB_HELO:
    case VERB_EHLO:
        do_hello(s, c);
        break;
    case VERB_MAIL:
        do_mail(s, c);
        break;
    case VERB_RCPT:
        do_rcpt(s, c);
        break;
    case VERB_DATA:
        return body_data(s);
    case VERB_BDAT:
        return body_bdat(s, c);
    case VERB_RSET:
        transaction_reset(s);
        say(s, 250, ENH(2, 0, 0), "ok");
        break;
    case VERB_NOOP:
        say(s, 250, ENH(2, 0, 0), "ok");
        break;
    case VERB_VRFY: /* RFC 5321 3.5.3 */
        say(s, 252, ENH(2, 5, 0), "cannot tell; send mail and see");
        break;
    case VERB_HELP:
        say(s, 214, ENH(2, 0, 0), "commands: EHLO HELO MAIL RCPT DATA BDAT RSET NOOP VRFY HELP QUIT");
        break;
    case VERB_QUIT:
        say(s, 221, ENH(2, 0, 0), "goodbye");
        s->quit = s->said_bye = true;
        break;
    case VERB_HTTP: /* attack class 11 */
        say(s, 421, ENH(4, 7, 0), "this is SMTP");
        s->quit = true;
        break;
    case VERB_XCLIENT:
        inlet_xclient(s, c);
        break;
    case VERB_XFORWARD:
        inlet_xforward(s, c);
        break;
    case VERB_LHLO: /* RFC 2033 4.1: who takes it must answer as LMTP does */
        say(s, 500, ENH(5, 5, 1), "this is SMTP, not LMTP: say EHLO");
        break;
    case VERB_EXPN:
    case VERB_STARTTLS:
    case VERB_AUTH:
    case VERB_ETRN:
        say(s, 502, ENH(5, 5, 1), "not offered here");
        break;
    case VERB_UNKNOWN:
        must(c->refuse.code);
    }
    return OK;
}

/* Wait for the next command. A session that stays silent gives back what it does not need meanwhile. */
static err session_idle(struct session *s, when deadline)
{
    err e;

    if (server_has_more(&s->v)) { /* a buffer holds thousands of commands, and some take a while */
        when now = clock_now();
        if (now - s->turn < TURN)
            return OK;
        e = task_yield();
        s->turn = clock_now();
        return e;
    }
    stream_flush(s->s);
    s->at_boundary = true;
    e = stream_wait(s->s, MIN(deadline, clock_now() + IDLE_TRIM));
    if (e == E_TIMEOUT && clock_now() < deadline) {
        if (stream_pending(s->s).n == 0)
            stream_release(s->s);
        arena_free(s->scratch);
        s->scratch = NULL;
        task_trim();
        e = stream_wait(s->s, deadline);
        s->scratch = arena_new();
    }
    s->at_boundary = false;
    s->turn = clock_now();
    return e;
}

static bool session_leaves(const struct session *s) { return s->r->draining && !s->a; }

void say_greeting(struct session *s)
{
    server_reply(&s->v, 220, (struct enhanced){ 0 }, "%.*s ESMTP waypost", STR(s->snap->receive.hostname));
}

static err session_talk(struct session *s)
{
    const struct timeouts *t = &s->snap->receive.timeouts;
    when wait = t->greeting;

    say_greeting(s);
    while (!s->quit) {
        struct command c;
        when deadline = clock_now() + wait;
        err e = session_leaves(s) ? OK : session_idle(s, deadline);
        if (session_leaves(s)) {
            say(s, 421, ENH(4, 3, 2), "this relay is going down for a moment; try again");
            break;
        }
        arena_reset(s->scratch);
        if (e == OK)
            e = server_hear(&s->v, s->scratch, deadline, &c);
        if (e == OK)
            e = session_do(s, &c);
        if (e == E_TIMEOUT)
            say(s, 421, ENH(4, 4, 2), "you were silent for too long");
        else if (e == E_CANCELED)
            say(s, 421, ENH(4, 3, 2), "this relay is going down for a moment; try again");
        if (e != OK)
            return e;
        wait = s->snap->receive.timeouts.command;
    }
    return OK;
}

static void session_leave(struct session *s)
{
    admit_end(&s->client.addr, s->counted);
    s->admitted = false;
    if (s->of_network)
        atomic_fetch_sub(&s->of_network->used, 1);
    s->of_network = NULL;
}

/* As one of its network's. */
static bool network_admit(struct session *s)
{
    const struct network *n = s->client.network;

    if (!n || !n->limit.connections || !n->limit.state)
        return true;
    if (atomic_fetch_add(&n->limit.state->used, 1) < n->limit.connections) {
        s->of_network = n->limit.state;
        return true;
    }
    atomic_fetch_sub(&n->limit.state->used, 1);
    atomic_fetch_add_explicit(&n->limit.state->full, 1, memory_order_relaxed);
    server_reply(&s->v, 421, ENH(4, 7, 0), "too many sessions from network %.*s just now (its connections: %llu)", STR(n->name),
                 (unsigned long long)n->limit.connections);
    return false;
}

/* As one of how many: of all, and of this client's. What is said when it is too many stands here alone. */
static bool session_admit(struct session *s)
{
    s->counted = !s->client.network;
    switch (admit(&s->snap->receive.limits, &s->client.addr, s->counted)) {
    case ADMITTED:
        s->admitted = true;
        if (network_admit(s))
            return true;
        session_leave(s);
        break;
    case TOO_MANY:
        say(s, 421, ENH(4, 3, 2), "too many sessions just now (limits: sessions)");
        break;
    case TOO_MANY_OF_YOURS:
        say(s, 421, ENH(4, 7, 0), "too many sessions from your address just now (limits: sessions_per_client)");
        break;
    }
    stats_add(COUNT_sessions_refused, 1);
    return false;
}

bool session_readmit(struct session *s, const struct addr *client)
{
    session_leave(s);
    s->client.addr = *client;
    s->client.local = false;
    client_place(&s->client, s->snap);
    return session_admit(s);
}

/* Who connects, unless it is somebody known to stand for others, or named by itself as a network. */
static void note_gateway(const struct session *s)
{
    if (s->through.n == 0 && s->peer.n && s->peer.sa.sa_family != AF_UNIX && !inlet_may(s, VERB_XCLIENT)
        && !(s->client.network && network_names(s->client.network, &s->peer)))
        gateway_note(&s->peer, clock_now());
}

static void session_serve(struct session *s)
{
    stats_add(COUNT_sessions, 1);
    note_gateway(s);
    if (session_admit(s))
        session_talk(s);
    bool was_admitted = s->admitted;
    if (was_admitted)
        session_leave(s);
    s->s->write_wait = 5 * SECOND; /* last words do not wait for a reader that has gone */
    if (s->said_bye)
        stream_flush(s->s);
    else
        stream_end(s->s, clock_now() + 2 * SECOND);
    stats_label(FAMILY_SESSIONS, s->listener, !was_admitted ? SESSION_REFUSED : s->said_bye ? SESSION_ENDED : SESSION_LOST);
}

err session_run(void *session_start)
{
    struct session_start *start = session_start;
    struct reception *r = start->reception;
    struct session s = { .r = r, .listener = start->listener, .where = start->where.n ? start->where : start->listener, .at = start->at, .peer = start->peer, .client.addr = start->peer };

    s.s = stream_new(start->fd, &start->peer);
    s.client.local = start->has_uid && str_eq(start->listener, S(LISTENER_LOCAL));
    s.client.uid = start->uid;
    mem_free(start);
    s.v.s = s.s;
    s.scratch = arena_new();
    newest_snapshot(&s);
    list_add(&r->sessions, &s.place);
    r->nsessions++;
    if (inlet_proxy(&s))
        session_serve(&s);
    transaction_reset(&s);
    list_del(&s.place);
    r->nsessions--;
    stream_free(s.s);
    buf_free(&s.helo);
    buf_free(&s.through);
    buf_free(&s.client_name);
    buf_free(&s.login);
    arena_free(s.scratch);
    snapshot_drop(s.snap);
    return OK;
}

/* ---- reception ---- */

struct reception *reception_new(const struct reception_setup *setup)
{
    struct reception *r = mem_new(sizeof *r);

    r->setup = *setup;
    list_init(&r->sessions);
    return r;
}

void reception_free(struct reception *r)
{
    must(r->nsessions == 0);
    mem_free(r);
}

void reception_drain(struct reception *r)
{
    r->draining = true;
    for (struct link *l = r->sessions.next; l != &r->sessions; l = l->next) {
        struct session *s = AROUND(l, struct session, place);
        if (s->vigil)
            vigil_leave(s->vigil);
        if (s->at_boundary && !s->a)
            machine->sock_shutdown(s->s->io.fd, SHUT_RD); /* wakes its wait; what it says next still goes out */
    }
}

size_t reception_sessions(const struct reception *r)
{
    return r->nsessions;
}
