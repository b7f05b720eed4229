/* What waypost.conf says about backends, relay domains, networks and the default route. */
#include "route/inside.h"

#include <math.h>
#include <stdlib.h>

/* ---- backend ---- */

static bool take_host_port(struct binder *b, const struct token *t, uint16_t default_port, struct next_hop *s)
{
    str host = t->text;
    uint64_t port = default_port;

    switch (addr_parse(host, default_port, &s->addr)) {
    case OK:
        s->host = host;
        if (s->addr.sa.sa_family != AF_UNIX) {
            char text[ADDR_TEXT];
            s->port = addr_port(&s->addr);
            if (s->port == 0) {
                conf_error(b, &t->at, CONF_E_BAD_ADDRESS, "\"%.*s\" has no valid port", STR(host));
                return false;
            }
            s->host = str_dup(b->a, addr_print_ip(&s->addr, text));
        }
        return true;
    case E_NONAME:
        break;
    default:
        conf_error(b, &t->at, CONF_E_BAD_ADDRESS, "\"%.*s\" is no HOST:PORT", STR(host));
        return false;
    }
    s->addr.n = 0;
    size_t colon = str_findc(host, ':');
    if (colon == STR_NONE && !default_port) {
        conf_error(b, &t->at, CONF_E_BAD_ADDRESS, "LMTP has no port of its own: say which, as in lmtp:%.*s:24", STR(host));
        return false;
    }
    if (colon != STR_NONE) {
        if (!str_u64(str_from(host, colon + 1), 65535, &port) || port == 0) {
            conf_error(b, &t->at, CONF_E_BAD_ADDRESS, "\"%.*s\" has no valid port", STR(host));
            return false;
        }
        host = str_head(host, colon);
    }
    if (!domain_valid(host)) {
        conf_error(b, &t->at, CONF_E_BAD_ADDRESS, "\"%.*s\" is no host name", STR(host));
        return false;
    }
    s->host = host;
    s->port = (uint16_t)port;
    return true;
}

static void take_server(struct binder *b, const struct node *node, void *into)
{
    static const char *const words[] = { "priority", "weight", NULL };
    struct backend *be = into;
    struct next_hop s = { .priority = 10, .weight = 10 };
    const struct token *value[2] = { NULL };
    uint64_t priority, weight;

    if (node->narg == 0) {
        conf_error(b, &node->name.at, CONF_E_BAD_ADDRESS, "\"server\" needs HOST:PORT");
        return;
    }
    struct token to = node->arg[0];
    s.lmtp = str_istarts(to.text, S("lmtp:"));
    if (s.lmtp)
        to.text = str_from(to.text, 5);
    if (!take_host_port(b, &to, s.lmtp ? 0 : 25, &s) || !conf_keywords(b, node, 1, words, value))
        return;
    if (s.lmtp && s.port == 25) /* RFC 2033 5 */
        conf_error(b, &to.at, CONF_E_BAD_ADDRESS, "LMTP is never spoken on port 25, which is SMTP's; 24 is customary");
    if (value[0]) {
        if (!conf_int(b, value[0], 0, 65535, &priority))
            return;
        s.priority = (unsigned)priority;
    }
    if (value[1]) {
        if (!conf_int(b, value[1], 0, 1000, &weight))
            return;
        s.weight = (unsigned)weight;
    }
    s.state = server_state(be->name, s.host, s.port);
    APPEND(b->a, be->server, be->nserver, s);
}

static void take_balance(struct binder *b, const struct node *node, void *into)
{
    static const char *const how[] = { "least_busy", "round_robin", "weighted", "sticky", NULL }, *const by[] = { "domain", "sender", "tenant", NULL };
    struct backend *be = into;
    int word;

    if (!conf_args(b, node, 1, 2) || !conf_word(b, &node->arg[0], how, &word))
        return;
    be->balance = (enum balance)word;
    if (node->narg == 1)
        return;
    if (be->balance != BALANCE_STICKY)
        conf_error(b, &node->arg[1].at, CONF_E_KEYWORD, "only \"balance sticky\" is followed by a key: domain, sender or tenant");
    else if (conf_word(b, &node->arg[1], by, &word))
        be->sticky_by = (enum sticky_by)word;
}

/* health ehlo every 10s down_after 3 up_after 2 */
static void take_health(struct binder *b, const struct node *node, void *into)
{
    static const char *const what[] = { "ehlo", NULL }, *const words[] = { "every", "down_after", "up_after", NULL };
    struct health h = { 10 * SECOND, 3, 2 };
    const struct token *value[3] = { NULL };
    int word;

    if (node->narg == 0)
        conf_error(b, &node->name.at, CONF_E_KEYWORD, "\"health\" is followed by \"ehlo\", as in: health ehlo every 10s down_after 3 up_after 2");
    else if (conf_word(b, &node->arg[0], what, &word) && conf_keywords(b, node, 1, words, value)
             && (!value[0] || conf_time(b, value[0], &h.every)) && (!value[1] || conf_int(b, value[1], 1, 100, &h.down_after))
             && (!value[2] || conf_int(b, value[2], 1, 100, &h.up_after))) {
        if (h.every < SECOND || h.every > HOUR)
            conf_error(b, &value[0]->at, CONF_E_RANGE, "servers are probed every 1s to 1h");
        ((struct backend *)into)->health = h;
    }
}

/* bounce_brake 20 within 5m */
static void take_brake(struct binder *b, const struct node *node, void *into)
{
    struct brake_settings s = { 0 };
    bool within = node->narg == 3 && str_eq(node->arg[1].text, S("within"));

    if (node->narg == 1 && str_eq(node->arg[0].text, S("off")))
        ((struct backend *)into)->braking = s;
    else if (!within)
        conf_error(b, &node->name.at, CONF_E_KEYWORD, "\"bounce_brake\" is followed by N within TIME, as in: bounce_brake 20 within 5m; or by \"off\"");
    else if (conf_int(b, &node->arg[0], 1, 100000, &s.least) && conf_time(b, &node->arg[2], &s.window)) {
        if (s.window < SECOND || s.window > DAY)
            conf_error(b, &node->arg[2].at, CONF_E_RANGE, "the time of a bounce_brake is 1s to 1d");
        ((struct backend *)into)->braking = s;
    }
}

static void take_max_connections(struct binder *b, const struct node *node, void *into)
{
    struct backend *be = into;
    bool per_server = node->narg == 3 && str_eq(node->arg[1].text, S("per")) && str_eq(node->arg[2].text, S("server"));

    if (node->narg != 1 && !per_server)
        conf_error(b, &node->name.at, CONF_E_BAD_ADDRESS, "\"max_connections\" is followed by a number and, if you like, \"per server\"");
    else
        conf_int(b, &node->arg[0], 1, 10000, &be->max_connections);
}

static int by_priority(const void *a, const void *b)
{
    const struct next_hop *x = a, *y = b;
    return (x->priority > y->priority) - (x->priority < y->priority);
}

static void *make_backend(struct binder *b, const struct node *node, void *into)
{
    struct routes *r = into;
    struct backend *be = NEW(b->a, struct backend);

    if (!conf_args(b, node, 1, 1))
        return NULL;
    for (size_t i = 0; i < r->nbackend; i++)
        if (str_eq(r->backend[i]->name, node->arg[0].text)) {
            conf_error(b, &node->arg[0].at, CONF_E_DUPLICATE, "backend \"%.*s\" is defined twice", STR(node->arg[0].text));
            return NULL;
        }
    if (str_findc(node->arg[0].text, '@') != STR_NONE) {
        conf_error(b, &node->arg[0].at, CONF_E_BAD_ADDRESS, "a backend's name has no @ in it: BACKEND@SOURCE means one by a source");
        return NULL;
    }
    be->name = node->arg[0].text;
    APPEND(b->a, r->backend, r->nbackend, be);
    return be;
}

/* Two of one name share their state, and one cannot be drained without the other. */
static void check_twice(struct binder *b, const struct node *node, const struct backend *be)
{
    for (size_t i = 0; i < be->nserver; i++)
        for (size_t k = 0; k < i; k++)
            if (be->server[i].port == be->server[k].port && str_ieq(be->server[i].host, be->server[k].host)) {
                conf_error(b, &node->name.at, CONF_E_DUPLICATE, "backend \"%.*s\" has server %.*s twice: a greater weight gives it more mail", STR(be->name), STR(be->server[i].host));
                return;
            }
}

static bool has_child(const struct node *node, str name)
{
    for (size_t i = 0; i < node->nchild; i++)
        if (str_eq(node->child[i].name.text, name))
            return true;
    return false;
}

static void done_backend(struct binder *b, const struct node *node, void *block)
{
    struct backend *be = block;

    be->mx = be->nserver == 0 && str_eq(be->name, S("mx"));
    if (be->nserver && str_eq(be->name, S("mx")))
        conf_error(b, &node->name.at, CONF_E_NO_SERVER, "backend \"mx\" has no servers of its own: MX records say where its mail goes");
    if (str_eq(be->name, S("discard")))
        conf_error(b, &node->name.at, CONF_E_DUPLICATE, "\"discard\" is no backend of yours: what goes there is thrown away");
    if (be->nserver == 0 && !be->mx && !has_child(node, S("server"))) /* one that is wrong was told of */
        conf_error(b, &node->name.at, CONF_E_NO_SERVER, "backend \"%.*s\" has no \"server\"", STR(be->name));
    if (be->nserver > 64)
        conf_error(b, &node->name.at, CONF_E_NO_SERVER, "backend \"%.*s\" has more than 64 servers", STR(be->name));
    else
        check_twice(b, node, be);
    if (be->nserver) {
        qsort(be->server, be->nserver, sizeof *be->server, by_priority);
        be->brake = brake_of(be->name);
    }
    if (be->soft_bounce)
        conf_warn(b, &node->name.at, CONF_E_SOFT_BOUNCE, "soft_bounce is on for backend \"%.*s\": nothing that it refuses is returned before its lifetime ends",
                  STR(be->name));
}

static void take_backend_leave(struct binder *b, const struct node *node, void *into) { take_leave(b, node, &((struct backend *)into)->leave); }

static const struct setting backend_settings[] = {
    { .name = "server", .type = CONF_OWN, .take = take_server, .repeats = true, .form = "[lmtp:]HOST:PORT | [lmtp:]unix:PATH [priority N] [weight N]",
      .help = "A server of this backend: a name or an address, port 25 unless given; or a Unix socket. With lmtp: in front it is spoken to by LMTP (RFC 2033), "
              "where each recipient is delivered or not on its own; then the port must be given. Servers of the lowest priority number (10 unless "
              "given) share the mail as \"balance\" says; those of the next are used only while all of the lower are out. A weight is 10 unless "
              "given; a server of weight 0 takes no mail." },
    { .name = "balance", .type = CONF_OWN, .take = take_balance, .preset = "least_busy", .form = "least_busy | round_robin | weighted | sticky [domain | sender | tenant]",
      .help = "How servers of one priority share the mail. least_busy: of two random ones the one with fewer transactions under way, the faster one among "
              "equals, for its weight. round_robin: in turn. weighted: in turn, as often as their weights say. sticky: mail of one recipient domain "
              "(or sender, or tenant) goes to one server as long as that is in." },
    { .name = "health", .type = CONF_OWN, .take = take_health, .form = "ehlo [every TIME] [down_after N] [up_after N]",
      .help = "Ask each server with EHLO, every 10s unless given. After down_after failures in a row (3) it gets no mail until up_after answers in a row "
              "(2). Without this, and beside it, a server that fails when mail is to go there is left alone for a while." },
    { .name = "max_connections", .type = CONF_OWN, .take = take_max_connections, .preset = "16 per server",
      .form = "N [per server]", .help = "Connections to each server at a time, by the whole relay." },
    { .name = "messages_per_connection", .type = CONF_INT, .offset = offsetof(struct backend, messages_per_connection), .preset = "0",
      .most = 1e9, .help = "Messages after which a connection is closed; 0: as many as the server takes." },
    { .name = "mix_domains", .type = CONF_BOOL, .offset = offsetof(struct backend, mix_domains), .preset = "off",
      .help = "Recipients of several domains may go in one transaction." },
    { .name = "connect_timeout", .type = CONF_TIME, .offset = offsetof(struct backend, connect_timeout), .preset = "30s",
      .least = 1, .most = 300, .help = "How long to wait for a server to take a connection." },
    { .name = "idle_timeout", .type = CONF_TIME, .offset = offsetof(struct backend, idle_timeout), .preset = "5s", .least = 0, .most = 300,
      .help = "How long an idle connection is kept for the next message." },
    { .name = "rate", .type = CONF_OWN, .take = take_rate, .form = "RATE [per source]",
      .help = "Messages (not recipients) that this backend gets, all its servers and the whole relay together; evenly, at most a second's worth at once. What is more "
              "waits, without an attempt. \"per source\": from each of its sources." },
    { .name = "connections", .type = CONF_OWN, .take = take_connections, .form = "N [per source]",
      .help = "Connections to this backend at a time, all its servers and the whole relay together, besides max_connections to each server. \"per source\": from "
              "each of its sources." },
    { .name = "source", .type = CONF_OWN, .take = take_backend_leave, .form = "NAME", .help = "The \"source\" by which mail for this backend leaves. Default: the system chooses an address." },
    { .name = "pool", .type = CONF_OWN, .take = take_backend_leave, .form = "NAME", .help = "The \"pool\" of sources by which mail for this backend leaves." },
    { .name = "soft_bounce", .type = CONF_BOOL, .offset = offsetof(struct backend, soft_bounce), .preset = "off",
      .help = "Every 5xx of these servers counts as a 4xx: its mail is kept and tried again, until its lifetime ends. For the days in which a server is "
              "set up or moved; it shows in check, stats and the log." },
    { .name = "bounce_brake", .type = CONF_OWN, .take = take_brake, .preset = "20 within 5m", .form = "N within TIME | off",
      .help = "When these servers refuse (5xx) over half of at least N recipients within TIME that our own \"recipients\" know, mail for them is kept as one "
              "incident instead of being returned, and tried again by one message, or by asking for one recipient, at growing intervals. Whoever is refused although "
              "known is tried again within TIME, until it is clear which of the two is right." },
    { .name = NULL },
};

/* ---- relay_domain ---- */

static void take_backend(struct binder *b, const struct node *node, void *into)
{
    struct relay_domain *d = into;

    if (conf_args(b, node, 1, 1) && d->backend_name)
        conf_error(b, &node->name.at, CONF_E_TWICE, "\"backend\" and \"via\" are two words for one thing: one of them has to go");
    else if (node->narg == 1)
        d->backend_name = &node->arg[0];
}

/* fallback NAME [after TIME] */
static void take_fallback(struct binder *b, const struct node *node, struct elsewhere *e)
{
    static const char *const words[] = { "after", NULL };
    const struct token *after[1] = { NULL };

    e->after = 10 * MINUTE;
    if (node->narg == 0 || !conf_keywords(b, node, 1, words, after)) {
        if (node->narg == 0)
            conf_error(b, &node->name.at, CONF_E_KEYWORD, "\"fallback\" is followed by a backend, as in: fallback smarthost after 10m");
        return;
    }
    e->fallback_name = &node->arg[0];
    if (after[0] && conf_time(b, after[0], &e->after) && e->after > 30 * DAY)
        conf_error(b, &after[0]->at, CONF_E_RANGE, "\"after\" is 0s to 30d");
}

static void take_domain_fallback(struct binder *b, const struct node *node, void *into) { take_fallback(b, node, &((struct relay_domain *)into)->other); }
static void take_default_fallback(struct binder *b, const struct node *node, void *into) { take_fallback(b, node, &((struct routes *)into)->other); }

static void take_unknown_to(struct binder *b, const struct node *node, void *into)
{
    if (conf_args(b, node, 1, 1))
        ((struct relay_domain *)into)->other.unknown_name = &node->arg[0];
}

#define FALLBACK_HELP "Another backend for mail that could not be delivered so long (10m unless given) after it was accepted: when it then fails once more for now, or finds " \
                      "no server, it goes there, and does not come back. What is refused for good is refused."

static void *make_relay_domain(struct binder *b, const struct node *node, void *into)
{
    struct routes *r = into;
    struct relay_domain *d = NEW(b->a, struct relay_domain);

    if (!conf_args(b, node, 1, 10000))
        return NULL;
    d->at = node->name.at;
    for (size_t i = 0; i < node->narg; i++) {
        str name;
        if (conf_domain(b, &node->arg[i], &name))
            APPEND(b->a, d->name.p, d->name.n, name);
    }
    APPEND(b->a, r->domain, r->ndomain, d);
    return d;
}

static void done_relay_domain(struct binder *b, const struct node *node, void *block)
{
    struct relay_domain *d = block;
    const struct token *name = &node->arg[0];

    for (size_t i = 0; i < d->copy_to.n; i++) {
        struct path p;
        if (address_parse(d->copy_to.p[i], &p) != OK || p.domain.n == 0)
            conf_error(b, &node->name.at, CONF_E_BAD_ADDRESS, "copy_to: \"%.*s\" is no address", STR(d->copy_to.p[i]));
    }
    if (!d->backend_name)
        conf_error(b, &node->name.at, CONF_E_MISSING, "relay_domain %.*s needs \"backend NAME\" or \"via mx\"", STR(name->text));

    if (!d->recipients.any && d->recipients.ntable == 0 && !d->recipients.callout && !d->recipients.broken)
        conf_error(b, &node->name.at, CONF_E_RECIPIENTS,
                   "relay_domain %.*s has no \"recipients\": it would accept mail for unknown users and bounce it later. "
                   "Add recipients { file PATH } (or ldap, http, sqlite, callout), or \"recipients any\" if you mean it", STR(name->text));
}

#define BOUNCE_HELP "Who is told what became of mail for these recipients, when it failed or when they asked: every sender; own senders only, which are " \
                    "those in a relay domain and clients of a \"network\" or with a login; or nobody. What is not told is logged as \"dropped\"."
static const char *const bounces[] = { "all", "own", "none", NULL };

static const struct setting relay_domain_settings[] = {
    { .name = "backend", .type = CONF_OWN, .take = take_backend, .form = "NAME",
      .help = "The backend that gets the mail of these domains. \"mx\": where their MX records say, of the hosts those preferred to ourselves "
              "(we are a backup MX)." },
    { .name = "via", .type = CONF_OWN, .take = take_backend, .form = "NAME", .help = "The same as \"backend\", as in: via mx." },
    { .name = "unknown_to", .type = CONF_OWN, .take = take_unknown_to, .form = "NAME",
      .help = "Another backend for recipients whom the first does not know (5.1.x to RCPT, or 550, 551 and 553 without such a code), as while mailboxes "
              "move from one server to another. What it says of them then holds." },
    { .name = "fallback", .type = CONF_OWN, .take = take_domain_fallback, .form = "NAME [after TIME]", .help = FALLBACK_HELP },
    { .name = "cut_through", .type = CONF_TIME, .offset = offsetof(struct relay_domain, cut_through), .preset = "0s", .most = 300, .form = "TIME",
      .help = "How long the answer to a client may wait for the backend's, which then is the client's: what every recipient is refused is refused to the client, and nobody "
              "gets a report. The message is safe before. Holds for messages that go out in one piece; all others are answered at once." },
    { .name = "recipients", .type = CONF_OWN, .take = take_recipients, .sub = recipients_settings, .form = "any, or a block",
      .help = "Who exists there. \"any\" accepts unknown users and must be written out." },
    { .name = "expire", .type = CONF_TIME, .offset = offsetof(struct relay_domain, expire), .preset = "0s", .most = 86400 * 60,
      .help = "How long mail of these domains is tried; 0: as \"retry\" says." },
    { .name = "copy_to", .type = CONF_STRS, .offset = offsetof(struct relay_domain, copy_to), .form = "ADDRESS ...",
      .help = "An archive: each message to these domains goes there as well. Its failures are reported to nobody." },
    { .name = "bounce", .type = CONF_ENUM, .offset = offsetof(struct relay_domain, bounce), .preset = "all", .words = bounces, .form = "all | own | none",
      .help = BOUNCE_HELP },
    { .name = NULL },
};

/* ---- network ---- */

static void *make_network(struct binder *b, const struct node *node, void *into)
{
    struct routes *r = into;
    struct network *n = NEW(b->a, struct network);

    if (!conf_args(b, node, 2, 1000))
        return NULL;
    n->name = node->arg[0].text;
    n->at = node->name.at;
    n->null_clock = mem_new(sizeof *n->null_clock);
    for (size_t i = 1; i < node->narg; i++) {
        struct cidr c;
        if (cidr_parse(node->arg[i].text, &c) != OK) {
            conf_error(b, &node->arg[i].at, CONF_E_BAD_ADDRESS, "%.*s", STR(err_text()));
            continue;
        }
        if (c.bits == 0 && c.base.sa.sa_family != AF_UNIX)
            conf_error(b, &node->arg[i].at, CONF_E_OPEN_RELAY, "network \"%.*s\" trusts every address: that is an open relay", STR(n->name));
        APPEND(b->a, n->cidr, n->ncidr, c);
    }
    APPEND(b->a, r->network, r->nnetwork, n);
    return n;
}

static void done_network(struct binder *b, const struct node *node, void *block)
{
    struct network *n = block;

    for (size_t i = 0; i < n->relay_from.n; i++) {
        str d = n->relay_from.p[i];
        if (str_eq(d, S("*")) || !domain_valid(str_starts(d, S("*.")) ? str_from(d, 2) : d))
            conf_error(b, &node->name.at, CONF_E_OPEN_RELAY, "network \"%.*s\": relay_from \"%.*s\" is no domain or *.domain; "
                       "name the sender domains it may use", STR(n->name), STR(d));
    }
}

static const struct setting network_settings[] = {
    { .name = "relay_from", .type = CONF_STRS, .offset = offsetof(struct network, relay_from), .required = true, .form = "DOMAIN ...",
      .help = "Sender domains these clients may use to any recipient; *.example.com is everything below." },
    { .name = "null_rate", .type = CONF_RATE, .offset = offsetof(struct network, null_rate), .preset = "60/min",
      .help = "How many messages with the null sender (bounces) these clients may relay to foreign recipients, together." },
    { .name = "rate", .type = CONF_RATE, .offset = offsetof(struct network, rate), .preset = "0/min",
      .help = "How many messages (not recipients) these clients may send, together; so many at once. MAIL for more is answered 450 and when to come back. 0/min: no limit." },
    { .name = "connections", .type = CONF_INT, .offset = offsetof(struct network, connections), .preset = "0", .most = 1e9,
      .help = "How many sessions these clients may have at a time, together; more are answered 421. 0: as many as \"limits { sessions }\" lets everybody have." },
    { .name = NULL },
};

/* ---- own ---- */

static void take_own_addresses(struct binder *b, const struct node *node, void *into)
{
    struct routes *r = into;

    for (size_t i = 0; i < node->narg; i++) {
        struct addr a;
        if (addr_parse(node->arg[i].text, 25, &a) != OK || a.sa.sa_family == AF_UNIX)
            conf_error(b, &node->arg[i].at, CONF_E_BAD_ADDRESS, "\"%.*s\" is no IP address", STR(node->arg[i].text));
        else {
            addr_set_port(&a, 0);
            APPEND(b->a, r->own.addr.p, r->own.addr.n, a);
        }
    }
}

static const struct setting own_block[] = {
    { .name = "names", .type = CONF_STRS, .offset = offsetof(struct routes, own.name), .form = "NAME ...",
      .help = "Host names by which MX records may mean this relay, besides its hostname." },
    { .name = "addresses", .type = CONF_OWN, .take = take_own_addresses, .form = "ADDRESS ...",
      .help = "Addresses by which this relay is reached, besides those of this machine: behind NAT, the public one." },
    { .name = NULL },
};

/* ---- route ---- */

static void take_via(struct binder *b, const struct node *node, void *into)
{
    if (conf_args(b, node, 1, 1))
        *(const struct token **)into = &node->arg[0];
}

struct closed closed_of(arena *a, str text)
{
    struct closed c = { .status = ENH(5, 1, 6), .text = text, .is = true };
    str rest = text, word, part;
    uint64_t n[3];
    size_t i = 0;

    if (str_word(&rest, &word)) {
        while (i < 3 && str_cut(&word, S("."), &part) && part.n && str_u64(part, 999, &n[i]))
            i++;
        if (i == 3 && !word.p && n[0] == 5) {
            c.status = ENH(5, (uint16_t)n[1], (uint16_t)n[2]);
            c.text = str_trim(rest);
        }
    }
    c.text = c.text.n ? str_printable(a, str_head(c.text, 400)) : S("mail is no longer taken for this address");
    return c;
}

/* via bounce [TEXT] */
static bool take_bounce(struct binder *b, const struct node *node, struct backend **ret)
{
    str text;

    if (node->narg == 0 || !str_eq(node->arg[0].text, S("bounce")))
        return false;
    if (conf_args(b, node, 1, 2) && (node->narg == 1 || conf_str(b, &node->arg[1], &text))) {
        *ret = NEW(b->a, struct backend);
        (*ret)->closed = closed_of(b->a, node->narg == 2 ? text : S(""));
    }
    return true;
}

static void take_default_via(struct binder *b, const struct node *node, void *into) { take_via(b, node, &((struct routes *)into)->fallback_name); }

static void take_default_leave(struct binder *b, const struct node *node, void *into) { take_leave(b, node, &((struct routes *)into)->fallback_leave); }

static const struct setting default_settings[] = {
    { .name = "via", .type = CONF_OWN, .take = take_default_via, .required = true, .form = "BACKEND",
      .help = "The backend that takes it: a smart host; or \"mx\", where its domain's MX records say." },
    { .name = "source", .type = CONF_OWN, .take = take_default_leave, .form = "NAME", .help = "The \"source\" by which it leaves, before one that the backend has." },
    { .name = "pool", .type = CONF_OWN, .take = take_default_leave, .form = "NAME", .help = "The \"pool\" of sources by which it leaves." },
    { .name = "fallback", .type = CONF_OWN, .take = take_default_fallback, .form = "NAME [after TIME]", .help = FALLBACK_HELP },
    { .name = "bounce", .type = CONF_ENUM, .offset = offsetof(struct routes, fallback_bounce), .preset = "all", .words = bounces, .form = "all | own | none",
      .help = BOUNCE_HELP },
    { .name = NULL },
};

#define RULE(field) .offset = offsetof(struct route_rule, field)
static void take_rule_via(struct binder *b, const struct node *node, void *into)
{
    struct route_rule *u = into;

    if (!take_bounce(b, node, &u->backend))
        take_via(b, node, &u->backend_name);
}

static void take_rule_leave(struct binder *b, const struct node *node, void *into) { take_leave(b, node, &((struct route_rule *)into)->leave); }

static const struct setting rule_settings[] = {
    { .name = "to", .type = CONF_STRS, RULE(to), .form = "ADDRESS|DOMAIN ...", .help = "Recipients: user@example.com, example.com, or *.example.com for what is below." },
    RULE_ORIGIN_SETTINGS(0),
    { .name = "stream", .type = CONF_STRS, RULE(stream), .form = "NAME ...", .help = "Mail of these streams." },
    { .name = "via", .type = CONF_OWN, .take = take_rule_via, .required = true, .form = "BACKEND | bounce TEXT",
      .help = "The backend that takes it; or \"mx\"; or \"discard\": it is taken and thrown away; or \"bounce\": it is refused, with this text, which may begin "
              "with a status code (5.1.6 unless given), and returned where it was taken before." },
    { .name = "source", .type = CONF_OWN, .take = take_rule_leave, .form = "NAME", .help = "The \"source\" by which it leaves, before one that the backend has." },
    { .name = "pool", .type = CONF_OWN, .take = take_rule_leave, .form = "NAME", .help = "The \"pool\" of sources by which it leaves." },
    { .name = NULL },
};

static void check_patterns(struct binder *b, const struct route_rule *u, const char *what, const struct strs *patterns)
{
    for (size_t i = 0; i < patterns->n; i++) {
        str p = patterns->p[i];
        struct path path;
        bool fine = str_findc(p, '@') != STR_NONE ? address_parse(p, &path) == OK
                    : domain_valid(str_starts(p, S("*.")) ? str_from(p, 2) : p) || (patterns == &u->from && str_eq(p, S("<>")));
        if (!fine)
            conf_error(b, &u->at, CONF_E_BAD_ADDRESS, "%s \"%.*s\": \"%.*s\" is no address, domain or *.domain", what, STR(u->name), STR(p));
    }
}

void rule_check(struct binder *b, const struct route_rule *u, const char *what, const struct routes *r)
{
    check_patterns(b, u, what, &u->to);
    check_patterns(b, u, what, &u->from);
    for (size_t k = 0; k < u->network.n; k++) {
        bool known = false;
        for (size_t n = 0; n < r->nnetwork; n++)
            known |= str_eq(r->network[n]->name, u->network.p[k]);
        if (!known)
            conf_error(b, &u->at, CONF_E_UNKNOWN, "%s \"%.*s\": there is no network \"%.*s\"", what, STR(u->name), STR(u->network.p[k]));
    }
}

static void take_route(struct binder *b, const struct node *node, void *into)
{
    struct routes *r = into;

    if (!conf_args(b, node, 1, 1))
        return;
    if (str_eq(node->arg[0].text, S("default"))) {
        if (r->fallback_name)
            conf_error(b, &node->name.at, CONF_E_TWICE, "\"route default\" stands twice");
        else
            conf_bind(b, default_settings, node, r);
        return;
    }
    struct route_rule *u = NEW(b->a, struct route_rule);
    u->name = node->arg[0].text;
    u->at = node->name.at;
    conf_bind(b, rule_settings, node, u);
    if (!u->to.n && !u->from.n && !u->network.n && !u->listener.n && !u->login.n && !u->tenant.n && !u->stream.n)
        conf_error(b, &u->at, CONF_E_MISSING, "route \"%.*s\" fits all mail: say which it is for, or use \"route default\"", STR(u->name));
    APPEND(b->a, r->rule, r->nrule, u);
}

const struct setting route_settings[] = {
    { .name = "backend", .type = CONF_BLOCK, .make = make_backend, .done = done_backend, .sub = backend_settings, .repeats = true,
      .form = "NAME", .help = "Servers that take mail: those of a relay domain, or a smart host." },
    { .name = "relay_domain", .type = CONF_BLOCK, .make = make_relay_domain, .done = done_relay_domain, .sub = relay_domain_settings,
      .repeats = true, .form = "DOMAIN ...", .help = "Domains whose mail comes in here; *.example.com is everything below." },
    { .name = "network", .type = CONF_BLOCK, .make = make_network, .done = done_network, .sub = network_settings, .repeats = true,
      .form = "NAME CIDR ...", .help = "Clients that may relay to any recipient, without a login, for their own sender domains. "
      "\"unix\" stands for clients of a Unix socket." },
    { .name = "source", .type = CONF_OWN, .take = take_outlet, .sub = outlet_block, .repeats = true, .form = "NAME ADDRESS [ADDRESS] [helo NAME]",
      .help = "An address of this machine by which mail leaves, IPv4, IPv6 or one of each, and the name said to EHLO there (the hostname unless given). To servers of "
              "a family that it has no address of it is not used. Named by \"source\" or, through a \"pool\", in a backend, a route or the default route. What is learnt "
              "of servers is learnt for each source apart." },
    { .name = "pool", .type = CONF_BLOCK, .make = make_pool, .done = done_pool, .sub = pool_block, .repeats = true, .form = "NAME",
      .help = "Sources that share mail by their weights. A message stays with its source; it changes to another when its own is out." },
    { .name = "alias", .type = CONF_BLOCK, .sub = alias_settings, .form = "", .help = "Addresses that stand for others, here or elsewhere." },
    { .name = "own", .type = CONF_BLOCK, .sub = own_block, .form = "",
      .help = "What else we are known as. Mail is never handed to ourselves, whatever MX records say." },
    { .name = "route", .type = CONF_OWN, .take = take_route, .sub = rule_settings, .repeats = true, .form = "NAME",
      .help = "A rule for mail that goes another way than its domain: by recipient, sender, login, network, listener or stream. Rules are asked in the order they "
              "stand in, before relay domains; the first that fits decides. They say where mail goes, never whether it is taken. \"route default { via "
              "BACKEND }\" is where mail goes that is for no relay domain." },
    { .name = NULL },
};

/* "mx" and "discard" are there without being defined: with all presets. */
static struct backend *preset_backend(struct binder *b, struct routes *r, str name)
{
    struct backend *be = NEW(b->a, struct backend);

    conf_presets(b, backend_settings, be);
    be->name = name;
    be->mx = str_eq(name, S("mx"));
    be->discard = !be->mx;
    APPEND(b->a, r->backend, r->nbackend, be);
    return be;
}

/* One of the rule's own, since its text is. */
static void closed_backend(struct binder *b, struct routes *r, struct route_rule *u)
{
    struct closed closed = u->backend->closed;

    u->backend = preset_backend(b, r, str_printf(b->a, "bounce:%.*s", STR(u->name)));
    u->backend->discard = false;
    u->backend->closed = closed;
    r->closes = true;
}

/* Names may stand above the block that defines them, so they are looked up when all is bound. */
struct backend *find_backend(struct binder *b, struct routes *r, const struct token *name)
{
    str best = { 0 };
    size_t distance = 3;

    for (size_t i = 0; i < r->nbackend; i++) {
        size_t d = str_distance(r->backend[i]->name, name->text);
        if (str_eq(r->backend[i]->name, name->text))
            return r->backend[i];
        if (d < distance) {
            distance = d;
            best = r->backend[i]->name;
        }
    }
    if (str_eq(name->text, S("mx")) || str_eq(name->text, S("discard")))
        return preset_backend(b, r, name->text);
    if (best.n)
        conf_error(b, &name->at, CONF_E_NO_BACKEND, "there is no backend \"%.*s\"; did you mean \"%.*s\"?", STR(name->text), STR(best));
    else
        conf_error(b, &name->at, CONF_E_NO_BACKEND, "there is no backend \"%.*s\"", STR(name->text));
    return NULL;
}

/* The same backend once more would be a loop of one. */
static struct backend *find_other(struct binder *b, struct routes *r, const struct token *name, const struct backend *first)
{
    struct backend *be = name ? find_backend(b, r, name) : NULL;

    if (!be || be != first)
        return be;
    conf_error(b, &name->at, CONF_E_NO_BACKEND, "\"%.*s\" is where this mail goes already: name another backend", STR(name->text));
    return NULL;
}

static void finish_elsewhere(struct binder *b, struct routes *r, struct elsewhere *e, const struct backend *first)
{
    e->unknown = find_other(b, r, e->unknown_name, first);
    e->fallback = find_other(b, r, e->fallback_name, first);
    r->hands_on |= e->unknown || e->fallback;
}

/* 0.0.0.0/0 is told at its place; but two halves are the whole as well. */
static void check_trust(struct binder *b, const struct routes *r)
{
    double v4 = 0, v6 = 0; /* shares of all addresses */

    for (size_t i = 0; i < r->nnetwork; i++) {
        for (size_t k = 0; k < r->network[i]->ncidr; k++) {
            const struct cidr *c = &r->network[i]->cidr[k];
            if (c->bits && c->base.sa.sa_family != AF_UNIX)
                *(c->base.sa.sa_family == AF_INET ? &v4 : &v6) += ldexp(1, -(int)c->bits);
        }
        if (v4 >= 0.5 || v6 >= 0.5) {
            conf_error(b, &r->network[i]->at, CONF_E_OPEN_RELAY, "with network \"%.*s\" half of all addresses are trusted, or more: that is an open relay", STR(r->network[i]->name));
            return;
        }
    }
}

void routes_finish(struct binder *b, struct routes *r)
{
    check_trust(b, r);
    for (size_t i = 0; i < r->ndomain; i++) {
        if (r->domain[i]->backend_name)
            r->domain[i]->backend = find_backend(b, r, r->domain[i]->backend_name);
        finish_elsewhere(b, r, &r->domain[i]->other, r->domain[i]->backend);
    }
    if (r->fallback_name)
        r->fallback = find_backend(b, r, r->fallback_name);
    finish_elsewhere(b, r, &r->other, r->fallback);
    for (size_t i = 0; i < r->nrule; i++) {
        if (r->rule[i]->backend_name)
            r->rule[i]->backend = find_backend(b, r, r->rule[i]->backend_name);
        else if (r->rule[i]->backend)
            closed_backend(b, r, r->rule[i]);
        rule_check(b, r->rule[i], "route", r);
    }
    outlets_finish(b, r);
    r->fewest = routes_fewest(r);
    for (size_t i = 0; i < r->ndomain; i++)
        recipients_finish(b, r, r->domain[i]);
    r->exact.fold = r->below.fold = true;
    for (size_t i = 0; i < r->ndomain; i++)
        for (size_t j = 0; j < r->domain[i]->name.n; j++) {
            struct relay_domain *d = r->domain[i];
            str name = d->name.p[j];
            bool below = str_starts(name, S("*."));
            if (map_put(below ? &r->below : &r->exact, below ? str_from(name, 2) : name, d))
                conf_error(b, &d->at, CONF_E_DUPLICATE, "relay domain \"%.*s\" stands twice", STR(name));
        }
    if (r->nnetwork && !r->fallback)
        conf_warn(b, &r->network[0]->at, CONF_E_NO_ROUTE,
                  "there is a \"network\" but no \"route default\": its clients reach the relay domains only");
}

void routes_free(struct routes *r)
{
    for (size_t i = 0; i < r->ndomain; i++)
        for (size_t t = 0; t < r->domain[i]->recipients.ntable; t++)
            table_free(r->domain[i]->recipients.table[t]);
    for (size_t i = 0; i < r->nnetwork; i++)
        mem_free(r->network[i]->null_clock);
    aliases_free(&r->aliases);
    map_free(&r->exact);
    map_free(&r->below);
}
