/* The dialogue of a callout: does the backend know this address? No mail is sent. */
#include "deliver/inside.h"

static struct resolver *_Atomic names;  /* of the relay */

/* The local part as RFC 5321 4.1.2 wants it. */
static void add_local(struct buf *out, str local)
{
    bool atom = local.n && local.p[0] != '.' && local.p[local.n - 1] != '.' && !str_has(local, S(".."));

    for (size_t i = 0; i < local.n; i++)
        atom &= ascii_alpha(local.p[i]) || ascii_digit(local.p[i]) || (unsigned char)local.p[i] > 127 || strchr("!#$%&'*+-/=?^_`{|}~.", local.p[i]);
    if (atom) {
        buf_add(out, local);
        return;
    }
    buf_addc(out, '"');
    for (size_t i = 0; i < local.n; i++) {
        if (local.p[i] == '"' || local.p[i] == '\\')
            buf_addc(out, '\\');
        buf_addc(out, local.p[i]);
    }
    buf_addc(out, '"');
}

/* "No such recipient", and nothing else that a server may have against us, the sender or the moment. */
bool callout_says_absent(const struct reply *r)
{
    struct enhanced e = r->enhanced;

    if (!reply_never(*r))
        return false;
    if (e.class && (e.class != 5 || e.subject || e.detail)) /* 5.0.0 says nothing: RFC 3463 3.1 */
        return e.class == 5 && e.subject == 1 && e.detail != 7 && e.detail != 8; /* those speak of the sender: RFC 3463 3.2 */
    return r->code == 550 || r->code == 551 || r->code == 553;
}

static enum said undecided(str what, const struct remote *who, const struct reply *r)
{
    AUTO_ARENA a = arena_new();

    fail(E_AGAIN, "%s: %.*s: %.*s", who->z, STR(what), STR(reply_print(a, r)));
    return SAID_UNSURE;
}

static enum said talk(struct client *c, const struct remote *who, const struct inquiry *q, bool *refused)
{
    AUTO_BUF line = { 0 };
    struct reply r;
    bool utf8 = false;

    for (size_t i = 0; i < q->address.n; i++)
        utf8 |= (unsigned char)q->address.p[i] > 127;
    if (utf8 && !(c->caps & CAP_SMTPUTF8)) {
        fail(E_AGAIN, "%s: offers no SMTPUTF8 to ask about such an address", who->z);
        return SAID_UNSURE;
    }
    if (client_command(c, utf8 ? S("MAIL FROM:<> SMTPUTF8") : S("MAIL FROM:<>"), MINUTE, &r) != OK)
        return SAID_DOWN;
    if (!reply_ok(r))
        return undecided(S("to MAIL FROM:<>"), who, &r);
    buf_add(&line, S("RCPT TO:<"));
    add_local(&line, q->local);
    buf_addf(&line, "@%.*s>", STR(q->domain));
    if (client_command(c, buf_str(&line), MINUTE, &r) != OK)
        return SAID_DOWN;
    *refused = reply_never(r);
    if (reply_ok(r))
        return SAID_FOUND;
    return callout_says_absent(&r) ? SAID_ABSENT : undecided(S("to RCPT"), who, &r);
}

static enum said ask_server(const struct backend *b, const struct next_hop *srv, str ehlo, const struct inquiry *q, when deadline, bool *refused)
{
    struct client *c = NULL;
    struct remote who;
    struct leaving by = { .outlet = b->outlet };
    when length = MIN(b->connect_timeout, deadline - clock_now());
    err e = hop_reach(atomic_load(&names), srv, NULL, ehlo, MAX(length, MILLISECOND), &by, &who, &c);

    if (e != OK) {
        AUTO_ARENA a = arena_new();
        str words = remote_failed(&who, a);
        fail(e, "%.*s", STR(words));
        client_free(c);
        return SAID_DOWN;
    }
    enum said said = talk(c, &who, q, refused);
    if (said == SAID_DOWN)
        client_free(c);
    else
        client_quit(c);
    return said;
}

/* May it be asked? backend_pick() would give us the one try that is mail's; and a server that nobody tries, because no mail is let in while we
 * cannot ask it, would stay out for ever. */
static bool may_ask(const struct next_hop *srv)
{
    return srv->weight && !atomic_load(&srv->state->drained) && atomic_load(&srv->state->out_until) <= clock_now();
}

/* The servers in the order of their priorities, from any of them on, until one is there. */
static enum said probe(const struct backend *b, str ehlo, const struct inquiry *q, when deadline, bool *refused)
{
    enum said said = SAID_DOWN;
    size_t end;

    *refused = false;
    fail(E_REFUSED, "all servers are out");
    for (size_t i = 0; i < b->nserver; i = end) {
        for (end = i + 1; end < b->nserver && b->server[end].priority == b->server[i].priority; end++)
            ;
        size_t from = random_below(end - i);
        for (size_t k = 0; k < end - i; k++) {
            const struct next_hop *srv = &b->server[i + (from + k) % (end - i)];
            if (!may_ask(srv) || task_canceled() || clock_now() >= deadline)
                continue;
            said = ask_server(b, srv, ehlo, q, deadline, refused);
            if (said != SAID_DOWN)
                return said;
        }
    }
    return said;
}

void callout_begin(struct resolver *resolver)
{
    atomic_store(&names, resolver);
    callout_probe = probe;
}
