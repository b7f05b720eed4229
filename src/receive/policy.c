/* What a client is answered: the decisions of a session, without the dialogue. Each refusal names the condition that was missing. */
#include "receive/inside.h"

#include <stdio.h>

static struct reply refuse(arena *a, int code, struct enhanced e, const char *fmt, ...) PRINTF(4, 5);
static struct reply refuse(arena *a, int code, struct enhanced e, const char *fmt, ...)
{
    char line[512];
    va_list args;

    va_start(args, fmt);
    int n = vsnprintf(line, sizeof line, fmt, args);
    va_end(args);
    return (struct reply){ .code = (uint16_t)code, .enhanced = e, .text = str_dup(a, str_of(line, MIN((size_t)MAX(n, 0), sizeof line - 1))) };
}

void client_place(struct client_info *client, const struct snapshot *snap)
{
    client->network = client->local ? local_network(snap->receive.local, client->uid) : NULL;
    if (!client->network)
        client->network = route_network(&snap->routes, &client->addr);
    if (client->local)
        snprintf(client->ip, sizeof client->ip, LOCAL_CLIENT "%u", client->uid);
    else
        addr_print_ip(&client->addr, client->ip);
}

struct reply policy_network(const struct client_info *client, arena *a)
{
    const struct network *n = client->network;
    char span[TIME_TEXT];
    when now = clock_now();

    if (!n || !n->rate.n || !n->limit.state || limiter_take(&n->limit.state->clock, n->rate, now))
        return (struct reply){ 0 };
    atomic_fetch_add_explicit(&n->limit.state->waited, 1, memory_order_relaxed);
    when wait = MAX(limiter_when(&n->limit.state->clock, n->rate, now) - now, 1);
    return refuse(a, 450, ENH(4, 7, 1), "network %.*s may send %.*s and has: come again in %.*s", STR(n->name), STR(rate_words(a, n->rate)),
                  STR(time_span(span, (wait + SECOND - 1) / SECOND * SECOND)));
}

struct reply policy_mail(const struct snapshot *snap, const struct client_info *client, const struct command *cmd)
{
    const struct limits *l = &snap->receive.limits;
    (void)client;

    if (cmd->has_size && cmd->size > l->message_size) /* RFC 1870 6.1 */
        return (struct reply){ .code = 552, .enhanced = ENH(5, 3, 4), .text = S("message too large for this relay") };
    if (cmd->path.utf8 && !cmd->smtputf8) /* RFC 6531 3.5 */
        return (struct reply){ .code = 553, .enhanced = ENH(5, 6, 7), .text = S("a sender beyond ASCII needs the SMTPUTF8 parameter") };
    return (struct reply){ 0 };
}

/* A recipient of no relay domain: only for clients of a network, and only for its own sender domains. */
static struct reply relay_elsewhere(const struct snapshot *snap, const struct client_info *client, const struct message *m,
                                    const struct path *rcpt, arena *a)
{
    const struct network *net = client->network;
    struct path sender;

    if (!net)
        return refuse(a, 550, ENH(5, 7, 1), "relaying denied: %.*s is no relay domain here; %s is in no network that may relay; not logged in",
                      STR(rcpt->domain), client->ip);
    if (m->env.sender.n == 0) {
        if (!limiter_take(net->null_clock, net->null_rate, clock_now()))
            return refuse(a, 450, ENH(4, 7, 1), "too many messages with the null sender from network %.*s just now", STR(net->name));
    } else if (address_parse(m->env.sender, &sender) != OK || !network_may_send(net, sender.domain))
        return refuse(a, 550, ENH(5, 7, 1), "relaying denied: network %.*s may not send from %.*s; %.*s is no relay domain here", STR(net->name),
                      STR(m->env.sender), STR(rcpt->domain));
    if (!snap->routes.fallback)
        return refuse(a, 550, ENH(5, 4, 4), "%.*s is no relay domain here and there is no default route", STR(rcpt->domain));
    return (struct reply){ 0 };
}

static struct reply is_closed(arena *a, str rcpt, struct closed c)
{
    return refuse(a, 550, c.status, "<%.*s>: %.*s", STR(rcpt), STR(c.text));
}

/* Is it a recipient of ours, or may mail for it go on elsewhere? For what an alias leads to: an operator wrote that. */
static enum found target_exists(const struct snapshot *snap, str address)
{
    const struct relay_domain *d;
    struct path p;
    when expire;

    if (address_parse(address, &p) != OK)
        return ABSENT;
    d = p.literal ? NULL : route_domain(&snap->routes, p.domain);
    if (d)
        return str_ieq(p.local, S("postmaster")) ? FOUND : recipients_find(&d->recipients, &p);
    return route_find(&snap->routes, &(struct route_key){ .rcpt = address, .domain = p.domain }, &expire, NULL) ? FOUND : ABSENT;
}

/* ---- system mail: root@hostname, www-data@hostname ---- */

static bool at_this_host(const struct snapshot *snap, str domain)
{
    return str_ieq(domain, snap->receive.hostname) && !route_domain(&snap->routes, domain);
}

static struct strs system_readers(const struct snapshot *snap)
{
    const struct local_settings *l = snap->receive.local;

    if (l && l->system_mail.n)
        return l->system_mail;
    return (struct strs){ (str *)(uintptr_t)&snap->receive.postmaster, 1 };
}

str system_reader(const struct snapshot *snap, str address)
{
    struct path p;

    return address_parse(address, &p) == OK && at_this_host(snap, p.domain) ? system_readers(snap).p[0] : S("");
}

static struct strs add_strs(arena *a, struct strs all, const struct strs *more)
{
    struct strs both = { NEW_ARRAY(a, str, all.n + more->n), all.n + more->n };

    if (all.n)
        memcpy(both.p, all.p, all.n * sizeof *all.p);
    memcpy(both.p + all.n, more->p, more->n * sizeof *more->p);
    return both;
}

/* What leads to a user of this host leads to who reads the system's mail. */
static struct strs without_users(const struct snapshot *snap, arena *a, struct strs all)
{
    struct strs readers = system_readers(snap);
    bool any = false;
    size_t n = 0;

    for (size_t i = 0; i < all.n; i++)
        if (system_reader(snap, all.p[i]).n)
            any = true;
        else
            all.p[n++] = all.p[i];
    all.n = n;
    return any ? add_strs(a, all, &readers) : all;
}

/* ---- aliases ---- */

/* For a fault of ours that any stranger's RCPT meets: once a minute tells as much. */
static bool seldom(void)
{
    static _Atomic int64_t until;
    int64_t at = until, now = clock_now();

    return now >= at && atomic_compare_exchange_strong(&until, &at, now + MINUTE);
}

/* An address of ours that may stand for others. `to` stays empty when it does not. */
static struct reply stands_for(const struct snapshot *snap, const struct path *rcpt, arena *a, struct strs *to)
{
    struct strs all;
    str said;

    if (alias_expand(&snap->routes.aliases, a, rcpt, &all, &said) != OK) {
        if (seldom())
            log_error("alias", LOG_STR("rcpt", rcpt->text), LOG_STR("reason", err_text()));
        return refuse(a, 451, ENH(4, 3, 0), "where mail for <%.*s> goes cannot be told just now", STR(rcpt->text));
    }
    if (said.p)
        return is_closed(a, rcpt->text, closed_of(a, said));
    all = without_users(snap, a, all);
    to->p = all.p;
    for (size_t i = 0; i < all.n; i++)
        switch (target_exists(snap, all.p[i])) {
        case FOUND:
            to->p[to->n++] = all.p[i];
            break;
        case UNDECIDED:
            return refuse(a, 451, ENH(4, 3, 0), "whether <%.*s> exists cannot be told just now", STR(all.p[i]));
        case ABSENT:
            if (seldom())
                log_warn("alias_to_nobody", LOG_STR("rcpt", rcpt->text), LOG_STR("to", all.p[i]));
            break;
        }
    if (all.n && !to->n)
        return refuse(a, 550, ENH(5, 1, 1), "<%.*s> stands for others, and none of them is a recipient", STR(rcpt->text));
    return (struct reply){ 0 };
}

static struct reply only(arena *a, str address, struct strs *to)
{
    to->p = NEW(a, str);
    to->p[0] = address;
    to->n = 1;
    return (struct reply){ 0 };
}

/* A user of this host, written to by one of ours: what is not said otherwise goes to who reads the system's mail. */
static struct reply system_mail(const struct snapshot *snap, const struct path *rcpt, arena *a, struct strs *to)
{
    struct reply no = stands_for(snap, rcpt, a, to);

    if (!no.code && !to->n)
        *to = system_readers(snap);
    return no;
}

static struct reply taken(const struct snapshot *snap, const struct client_info *client, const struct message *m, const struct path *rcpt,
                          arena *a, struct strs *to)
{
    const struct relay_domain *d;
    struct reply no;

    if (rcpt->utf8 && !m->env.smtputf8) /* RFC 6531 3.5 */
        return refuse(a, 553, ENH(5, 6, 7), "a recipient beyond ASCII needs the SMTPUTF8 parameter");
    if (rcpt->domain.n == 0) /* <postmaster>, RFC 5321 4.5.1 */
        return only(a, snap->receive.postmaster, to);
    if (!snap->receive.tricky_local_parts && path_tricky(rcpt))
        return refuse(a, 550, ENH(5, 1, 3), "%%, !, =? and a quoted @ are not taken in a local part here");
    d = rcpt->literal ? NULL : route_domain(&snap->routes, rcpt->domain);
    if (!d && (client->local || client->network) && at_this_host(snap, rcpt->domain))
        return system_mail(snap, rcpt, a, to);
    if (!d) {
        no = relay_elsewhere(snap, client, m, rcpt, a);
        return no.code ? no : only(a, rcpt->text, to);
    }
    no = stands_for(snap, rcpt, a, to);
    if (no.code || to->n)
        return no;
    switch (recipients_find(&d->recipients, rcpt)) {
    case FOUND:
        return only(a, rcpt->text, to);
    case UNDECIDED:
        return refuse(a, 451, ENH(4, 3, 0), "whether <%.*s> exists cannot be told just now", STR(rcpt->text));
    case ABSENT:
        break;
    }
    if (str_ieq(rcpt->local, S("postmaster"))) /* always there, RFC 5321 4.5.1 */
        return only(a, snap->receive.postmaster, to);
    return refuse(a, 550, ENH(5, 1, 1), "<%.*s> is no recipient here: no source of recipients of %.*s has it", STR(rcpt->text), STR(rcpt->domain));
}

/* Rules may close the way that a recipient has: "via bounce". Who is left gets the message. */
static struct reply closed_ways(const struct snapshot *snap, const struct message *m, const struct path *rcpt, arena *a, struct strs *to)
{
    const struct backend *closed = NULL;
    struct strs open = { .p = NEW_ARRAY(a, str, to->n) };
    struct message copy = *m;
    struct rcpt one = { 0 };
    struct way w;

    copy.env.rcpt = &one;
    copy.env.nrcpt = 1;
    way_begin(&w, &snap->routes, &copy);
    for (size_t i = 0; i < to->n; i++) {
        one.to = one.given = to->p[i];
        const struct backend *b = way_of(&w, 0);
        if (b && b->closed.is)
            closed = b;
        else
            open.p[open.n++] = to->p[i];
    }
    *to = open;
    return closed && !open.n ? is_closed(a, rcpt->text, closed->closed) : (struct reply){ 0 };
}

struct reply policy_rcpt(const struct snapshot *snap, const struct client_info *client, const struct message *m, const struct path *rcpt,
                         arena *a, struct strs *to)
{
    *to = (struct strs){ 0 };
    struct reply no = taken(snap, client, m, rcpt, a, to);

    return no.code || !snap->routes.closes ? no : closed_ways(snap, m, rcpt, a, to);
}
