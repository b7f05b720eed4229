/* Why a recipient is taken or not, and where its mail would go: the very decisions of a session, and what they rest on, in words. */
#include "receive/inside.h"

#include <stdio.h>

struct teller { const struct explain_to *to; arena *a; };

static void tell(const struct teller *t, const char *what, const char *fmt, ...) PRINTF(3, 4);
static void tell(const struct teller *t, const char *what, const char *fmt, ...)
{
    char line[1024];
    va_list args;

    va_start(args, fmt);
    int n = vsnprintf(line, sizeof line, fmt, args);
    va_end(args);
    t->to->step(t->to->ctx, what, str_of(line, MIN((size_t)MAX(n, 0), sizeof line - 1)));
}

static str joined(arena *a, const struct strs *all)
{
    struct buf b = buf_in(a, 128);

    for (size_t i = 0; i < all->n; i++)
        buf_addf(&b, "%s%.*s", i ? ", " : "", STR(all->p[i]));
    return buf_str(&b);
}

static void tell_client(const struct teller *t, const struct client_info *client)
{
    if (client->network)
        tell(t, "client", "%s is in network %.*s, which may relay to anywhere from: %.*s", client->ip, STR(client->network->name),
             STR(joined(t->a, &client->network->relay_from)));
    if (client->network && client->network->rate.n)
        tell(t, "limit", "network %.*s may send %.*s", STR(client->network->name), STR(rate_words(t->a, client->network->rate)));
    if (!client->network && client->local)
        tell(t, "client", "user %u of this host, who may write to recipients here, and to users of this host", client->uid);
    else if (!client->network)
        tell(t, "client", "%s is in no network: a stranger, who may write to recipients here and to nobody else", client->ip);
}

/* One source of recipients; true: it has him, and no other is asked. */
static bool tell_source_of(const struct teller *t, struct table *table, const struct path *rcpt)
{
    str name = table_name(table, t->a);
    bool mute;

    switch (table_ask(table, rcpt, NULL, &mute)) {
    case FOUND:
        tell(t, "recipients", "%.*s is in it: %.*s", STR(rcpt->text), STR(name));
        return true;
    case ABSENT:
        tell(t, "recipients", "%.*s is not in it: %.*s", STR(rcpt->text), STR(name));
        return false;
    case UNDECIDED:
        break;
    }
    if (mute)
        tell(t, "recipients", "%.*s takes any address, so what it says does not count", STR(name));
    else
        tell(t, "recipients", "%.*s cannot tell just now%s", STR(name), table_counts(table).down ? ": it does not answer" : "");
    return false;
}

static void tell_recipient(const struct teller *t, const struct snapshot *snap, const struct path *rcpt)
{
    const struct relay_domain *d = rcpt->literal || !rcpt->domain.n ? NULL : route_domain(&snap->routes, rcpt->domain);
    struct strs all;
    str closed;

    if (!rcpt->domain.n) {
        tell(t, "recipient", "<postmaster> without a domain is %.*s", STR(snap->receive.postmaster));
        return;
    }
    if (!d && system_reader(snap, rcpt->text).n) {
        tell(t, "domain", "%.*s is this host: from its users, and from networks, that is system mail, which %.*s reads unless an alias says otherwise",
             STR(rcpt->domain), STR(system_reader(snap, rcpt->text)));
        return;
    }
    if (!d) {
        tell(t, "domain", "%.*s is no relay domain here", STR(rcpt->domain));
        return;
    }
    tell(t, "domain", "%.*s is a relay domain: %.*s (%.*s:%u)", STR(rcpt->domain), STR(joined(t->a, &d->name)), STR(d->at.file), d->at.line);
    if (snap->routes.aliases.ntable) {
        if (alias_expand(&snap->routes.aliases, t->a, rcpt, &all, &closed) != OK)
            tell(t, "alias", "%.*s", STR(err_text()));
        else if (closed.p)
            tell(t, "alias", "%.*s is closed: bounce:%.*s", STR(rcpt->text), STR(closed));
        else if (all.n)
            tell(t, "alias", "%.*s stands for %.*s", STR(rcpt->text), STR(joined(t->a, &all)));
        else
            tell(t, "alias", "%.*s stands for nobody else", STR(rcpt->text));
    }
    if (d->recipients.any)
        tell(t, "recipients", "any: nobody is asked");
    for (size_t i = 0; i < d->recipients.ntable && !d->recipients.any; i++)
        if (tell_source_of(t, d->recipients.table[i], rcpt))
            break;
}

static void tell_limits(const struct teller *t, const struct backend *b)
{
    when now = clock_now();

    for (unsigned i = 0; i < b->nlimit; i++) {
        const struct limit *l = &b->limit[i];
        char span[TIME_TEXT];
        when every = atomic_load(&l->state->every), at = atomic_load(&l->state->clock) - (every ? MAX(SECOND / every, 1) * every - every : 0);
        if (l->rate.n)
            tell(t, "limit", "%.*s, %s%.*s", STR(l->slow), at > now ? "used up: the next may go in " : "just now one may go at once",
                 STR(at > now ? time_span(span, at - now) : S("")));
        if (l->connections)
            tell(t, "limit", "connections of %s: %u of %llu in use", l->state->key, atomic_load(&l->state->used), (unsigned long long)l->connections);
    }
}

static void tell_source(const struct teller *t, const struct snapshot *snap, const struct outlet *o, const char *how)
{
    char v4[ADDR_TEXT], v6[ADDR_TEXT];
    str helo = o->helo.n ? o->helo : snap->receive.hostname;

    tell(t, "source", "%.*s%s: from %.*s%s%.*s as %.*s%s", STR(o->name), how, STR(o->v4.n ? addr_print_ip(&o->v4, v4) : S("")), o->v4.n && o->v6.n ? " or " : "",
         STR(o->v6.n ? addr_print_ip(&o->v6, v6) : S("")), STR(helo), atomic_load(&o->state->out_until) > clock_now() ? ": out, this machine has no such address" : "");
}

static void tell_servers(const struct teller *t, const struct backend *b)
{
    for (size_t i = 0; i < b->nserver; i++) {
        const struct next_hop *s = &b->server[i];
        char port[8] = "";
        if (s->port)
            snprintf(port, sizeof port, ":%u", s->port);
        str words = server_in(s) ? S("") : server_last_words(s->state, t->a);
        tell(t, "server", "%.*s%s by %s, priority %u, weight %u: %s%s%.*s", STR(s->host), port, s->lmtp ? "LMTP" : "SMTP", s->priority, s->weight,
             server_in(s) ? "takes mail" : !s->weight || atomic_load(&s->state->drained) ? "drained" : "out",
             words.n ? ": " : "", STR(words));
    }
    tell_limits(t, b);
}

/* By which sources, each with the servers as they are seen from there. */
static void tell_ways_out(const struct teller *t, const struct snapshot *snap, const struct backend *b, const struct outlets *o)
{
    for (size_t i = 0; o && i < o->pool->n; i++) {
        char how[64] = "";
        if (o->pool->use[i].fallback || o->pool->n > 1)
            snprintf(how, sizeof how, o->pool->use[i].fallback ? " (fallback)" : " (weight %u)", o->pool->use[i].weight);
        tell_source(t, snap, o->pool->use[i].outlet, how);
        tell_servers(t, o->by[i]);
    }
    if (!o)
        tell_servers(t, b);
}

/* What is wrong with it just now. */
static void tell_incidents(const struct teller *t, const struct backend *b)
{
    struct incident *in = mem_new(INCIDENTS_MOST * sizeof *in);

    for (size_t i = 0, n = incidents(in); i < n; i++)
        if (in[i].kind == INCIDENT_NO_NAMES || in[i].kind == INCIDENT_NO_FAMILY || str_eq(str_z(in[i].subject), b->name) || (b->mx && in[i].kind == INCIDENT_NO_WAY)
            || str_eq(str_z(in[i].subject), S("relay")))
            tell(t, "incident", "%s %s: %s", incident_name[in[i].kind], in[i].subject, in[i].reason);
    mem_free(in);
}

/* The rules that were asked before the one that fits, if one does: what each asks for that this mail is not. */
static void tell_rules(const struct teller *t, const struct snapshot *snap, const struct route_key *k)
{
    for (size_t i = 0; i < snap->routes.nrule; i++) {
        const struct route_rule *u = snap->routes.rule[i];
        const char *misses = rule_misses(u, k);
        if (!misses)
            return;
        tell(t, "rule", "\"%.*s\" (%.*s:%u) does not fit: its \"%s\"", STR(u->name), STR(u->at.file), u->at.line, misses);
    }
}

static void tell_way(const struct teller *t, const struct snapshot *snap, const struct message *m, str to)
{
    struct rcpt one = { .to = to, .given = to };
    struct message copy = *m;
    struct way w;
    const struct route_rule *rule = NULL;
    char span[TIME_TEXT];
    when expire;

    copy.env.rcpt = &one;
    copy.env.nrcpt = 1;
    const struct mail_stream *stream = stream_find(&snap->streams, &snap->routes, &copy, S(""));
    if (stream)
        copy.origin.stream = stream->name;
    way_begin(&w, &snap->routes, &copy);
    const struct backend *b = way_of(&w, 0);
    route_find(&snap->routes, &w.key, &expire, &rule);
    tell_rules(t, snap, &w.key);
    if (!b) {
        tell(t, "route", "%.*s: nowhere: no rule fits, it is no relay domain, and there is no default route", STR(to));
        return;
    }
    if (rule)
        tell(t, "route", "%.*s: by rule \"%.*s\" (%.*s:%u) via %.*s", STR(to), STR(rule->name), STR(rule->at.file), rule->at.line, STR(b->name));
    else
        tell(t, "route", "%.*s: %s via %.*s", STR(to), route_domain(&snap->routes, w.key.domain) ? "its relay domain goes" : "by the default route", STR(b->name));
    if (b->mx)
        tell(t, "servers", "as the MX records of %.*s say", STR(w.key.domain));
    else if (b->discard)
        tell(t, "servers", "none: it is thrown away");
    tell_ways_out(t, snap, b, w.outlets);
    tell_incidents(t, b);
    if (stream)
        tell(t, "stream", "%.*s (%.*s:%u), weight %llu", STR(stream->name), STR(stream->mail.at.file), stream->mail.at.line, (unsigned long long)stream->weight);
    else if (snap->streams.n)
        tell(t, "stream", "none, unless a field of its header says so");
    const struct retry *retry = stream_retry(&snap->streams, stream ? stream->number : 0, &snap->retry);
    if (w.other && w.other->unknown)
        tell(t, "unknown_to", "whom %.*s does not know goes to %.*s", STR(b->name), STR(w.other->unknown->name));
    if (w.other && w.other->fallback)
        tell(t, "fallback", "what is not delivered %.*s after it came goes to %.*s", STR(time_span(span, w.other->after)), STR(w.other->fallback->name));
    const struct relay_domain *d = route_domain(&snap->routes, w.key.domain);
    if (d && d->copy_to.n)
        tell(t, "copy_to", "%.*s gets it as well", STR(joined(t->a, &d->copy_to)));
    if (d && d->cut_through)
        tell(t, "cut_through", "the client's answer waits up to %.*s for the next hop's", STR(time_span(span, d->cut_through)));
    tell(t, "lifetime", "tried for %.*s, at most %llu connections a server", STR(time_span(span, w.expire ? w.expire : retry->lifetime)),
         (unsigned long long)b->max_connections);
}

struct reply receive_explain(struct snapshot *snap, const struct explain_client *from, str sender, str rcpt, arena *a, const struct explain_to *to)
{
    struct client_info client = { .addr = from->addr, .local = from->local, .uid = from->uid };
    struct teller t = { to, a };
    struct message *m = NEW(a, struct message);
    struct command mail, cmd;
    struct strs targets;

    if (client.local)
        addr_parse(S("unix:/" LISTENER_LOCAL), 0, &client.addr);
    client_place(&client, snap);
    m->origin.client = str_z(client.ip);
    m->origin.login = from->login;
    m->origin.listener = client.local && !from->listener.n ? S(LISTENER_LOCAL) : from->listener;
    m->env.sender = sender;
    tell_client(&t, &client);
    if (from->login.n)
        tell(&t, "login", "%.*s, as rules would see it: there are no logins yet that would let anybody do more", STR(from->login));
    command_parse(a, str_printf(a, "MAIL FROM:<%.*s> SMTPUTF8", STR(sender)), &mail);
    m->env.smtputf8 = true;
    struct reply no = mail.refuse.code ? mail.refuse : policy_mail(snap, &client, &mail);
    if (no.code)
        return no;
    command_parse(a, str_printf(a, "RCPT TO:<%.*s>", STR(rcpt)), &cmd);
    if (cmd.refuse.code)
        return cmd.refuse;
    tell_recipient(&t, snap, &cmd.path);
    no = policy_rcpt(snap, &client, m, &cmd.path, a, &targets);
    if (no.code)
        return no;
    for (size_t i = 0; i < targets.n; i++)
        tell_way(&t, snap, m, targets.p[i]);
    return (struct reply){ .code = 250, .enhanced = ENH(2, 1, 5), .text = S("recipient ok") };
}

/* ---- a stranger writes to a stranger ---- */

static void hear_nothing(void *ctx, const char *what, str text) { (void)ctx, (void)what, (void)text; }

/* Clients that nobody is likely to name. Those of a network of this configuration may relay, as it says. */
static size_t strangers(const struct snapshot *snap, struct addr *ret, size_t most)
{
    static const char *const all[] = { "192.0.2.77", "198.51.100.77", "203.0.113.77", "[2001:db8:77::77]", "100.200.100.200", "[2400:77::77]" };
    size_t n = 0;

    for (size_t i = 0; i < COUNT(all) && n < most; i++)
        if (addr_parse(str_z(all[i]), 25, &ret[n]) == OK && !route_network(&snap->routes, &ret[n]))
            n++;
    return n;
}

err receive_open_relay_test(struct snapshot *snap, unsigned *asked)
{
    static const char *const there[] = { "open-relay-test.invalid", "open-relay.test", "somewhere.example" };
    AUTO_ARENA a = arena_new();
    const struct routes *r = &snap->routes;
    struct explain_to to = { hear_nothing, NULL };
    struct addr client[2];
    size_t nclient = strangers(snap, client, COUNT(client)), known = 0;
    str domain, ours = snap->receive.hostname;

    *asked = 0;
    if (nclient == 0)
        return fail(E_PERM, "every address that was tried is in a \"network\"");
    while (known < COUNT(there) && route_domain(r, str_z(there[known])))
        known++;
    if (known == COUNT(there))
        return OK; /* all domains are ours */
    domain = str_z(there[known]);
    for (size_t i = 0; i < r->ndomain; i++)
        if (r->domain[i]->name.n && !str_starts(r->domain[i]->name.p[0], S("*.")))
            ours = r->domain[i]->name.p[0];
    const str sender[] = { S(""), str_printf(a, "a@%.*s", STR(domain)), snap->receive.postmaster, str_printf(a, "a@%.*s", STR(ours)) };
    const str rcpt[] = { str_printf(a, "b@%.*s", STR(domain)), str_printf(a, "@%.*s:b@%.*s", STR(ours), STR(domain)), S("b@[192.0.2.77]") };
    for (size_t i = 0; i < nclient * COUNT(sender) * COUNT(rcpt); i++) {
        const struct addr *from = &client[i % nclient];
        str s = sender[i / nclient % COUNT(sender)], t = rcpt[i / nclient / COUNT(sender)];
        char ip[ADDR_TEXT];
        struct reply answer = receive_explain(snap, &(struct explain_client){ .addr = *from }, s, t, a, &to);
        ++*asked;
        if (answer.code < 400)
            return fail(E_PERM, "a stranger at %.*s could write from <%.*s> to <%.*s>: %u", STR(addr_print_ip(from, ip)), STR(s), STR(t), answer.code);
    }
    return OK;
}
