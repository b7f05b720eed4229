/* What waypost.conf says about listeners, names, limits and timeouts. */
#include "receive/receive.h"

#include <pwd.h>

/* ---- listen ---- */

/* "from NETWORK ...": peers that are believed what they say of others. Who believes everybody may as well trust everybody. */
static void take_from(struct binder *b, const struct node *node, struct cidrs *into)
{
    if (node->narg < 2 || !str_eq(node->arg[0].text, S("from"))) {
        conf_error(b, &node->name.at, CONF_E_ARGUMENTS, "\"%.*s\" is followed by \"from\" and the networks it is believed from", STR(node->name.text));
        return;
    }
    into->p = NEW_ARRAY(b->a, struct cidr, node->narg);
    for (size_t i = 1; i < node->narg; i++) {
        struct cidr c;
        if (cidr_parse(node->arg[i].text, &c) != OK)
            conf_error(b, &node->arg[i].at, CONF_E_BAD_ADDRESS, "%.*s", STR(err_text()));
        else if (c.bits == 0 && c.base.sa.sa_family != AF_UNIX)
            conf_error(b, &node->arg[i].at, CONF_E_OPEN_RELAY, "\"%.*s from %.*s\" lets every stranger say that he is somebody else", STR(node->name.text),
                       STR(node->arg[i].text));
        else
            into->p[into->n++] = c;
    }
}

static void take_proxy(struct binder *b, const struct node *node, void *into)
{
    struct listener_setting *l = into;

    l->proxy = true;
    take_from(b, node, &l->proxy_from);
}

static void take_xclient(struct binder *b, const struct node *node, void *into) { take_from(b, node, &((struct listener_setting *)into)->xclient_from); }
static void take_xforward(struct binder *b, const struct node *node, void *into) { take_from(b, node, &((struct listener_setting *)into)->xforward_from); }

static const struct setting listen_settings[] = {
    { .name = "proxy", .type = CONF_OWN, .take = take_proxy, .form = "from NETWORK ...",
      .help = "Clients come through these proxies, which announce them by a PROXY header, version 1 or 2. The client is then whom it announces, for limits, "
              "networks, Received fields and the log, which also tells the proxy. Connections from elsewhere, and those without a good header within "
              "5 seconds, are closed and counted." },
    { .name = "xclient", .type = CONF_OWN, .take = take_xclient, .form = "from NETWORK ...",
      .help = "Peers that may say by XCLIENT for whom they speak: the session goes on as if that client had connected." },
    { .name = "xforward", .type = CONF_OWN, .take = take_xforward, .form = "from NETWORK ...",
      .help = "Peers that may say by XFORWARD where a message came from: told in the log and in the Received field, and believed for nothing else." },
    { .name = NULL },
};

const struct listener_setting *receive_listener(const struct receive_settings *s, const struct addr *at, str kind)
{
    const struct listener_setting *first = NULL;

    for (size_t i = 0; i < s->nlistener; i++) {
        for (size_t k = 0; k < s->listener[i].naddr; k++)
            if (addr_eq(&s->listener[i].addr[k], at))
                return &s->listener[i];
        if (!first && str_eq(s->listener[i].kind, kind))
            first = &s->listener[i];
    }
    return first;
}

static void listener_add(struct binder *b, struct receive_settings *s, const struct listener_setting *l)
{
    struct listener_setting *all = NEW_ARRAY(b->a, struct listener_setting, s->nlistener + 1);
    if (s->nlistener)
        memcpy(all, s->listener, s->nlistener * sizeof *all);
    all[s->nlistener++] = *l;
    s->listener = all;
}

static bool listens_already(const struct receive_settings *s, const struct listener_setting *own, const struct addr *at)
{
    for (size_t k = 0; k < own->naddr; k++)
        if (addr_port(at) && addr_eq(&own->addr[k], at))
            return true;
    for (size_t i = 0; i < s->nlistener; i++)
        for (size_t k = 0; k < s->listener[i].naddr; k++)
            if (addr_port(at) && addr_eq(&s->listener[i].addr[k], at))
                return true;
    return false;
}

static void take_listen(struct binder *b, const struct node *node, void *into)
{
    struct receive_settings *s = into;
    struct listener_setting l = { .at = node->name.at };

    if (!conf_args(b, node, 2, 64))
        return;
    l.kind = node->arg[0].text;
    bool http = str_eq(l.kind, S("http"));
    if (!http && !str_eq(l.kind, S("smtp")) && !str_eq(l.kind, S("mx"))) {
        conf_error(b, &node->arg[0].at, CONF_E_LISTENER, "unknown kind of listener \"%.*s\": this release knows smtp (also written mx) and http",
                   STR(l.kind));
        return;
    }
    l.addr = NEW_ARRAY(b->a, struct addr, node->narg);
    for (size_t i = 1; i < node->narg; i++)
        if (addr_parse(node->arg[i].text, http ? 0 : 25, &l.addr[l.naddr]) == OK && listens_already(s, &l, &l.addr[l.naddr]))
            conf_error(b, &node->arg[i].at, CONF_E_DUPLICATE, "\"%.*s\" is listened at already", STR(node->arg[i].text));
        else
        if (addr_parse(node->arg[i].text, http ? 0 : 25, &l.addr[l.naddr]) != OK)
            conf_error(b, &node->arg[i].at, CONF_E_LISTENER, "\"%.*s\" is no ADDRESS:PORT, [V6]:PORT or unix:PATH", STR(node->arg[i].text));
        else if (http && !addr_is_loopback(&l.addr[l.naddr]))
            conf_error(b, &node->arg[i].at, CONF_E_LISTENER,
                       "\"%.*s\": HTTP has neither TLS nor login yet, so it listens on loopback (127.0.0.1:8080, [::1]:8080) or unix:PATH only",
                       STR(node->arg[i].text));
        else
            l.naddr++;
    if (node->block)
        conf_bind(b, listen_settings, node, &l);
    listener_add(b, s, &l);
}

/* ---- local ---- */

static void take_users(struct binder *b, const struct node *node, void *into)
{
    struct local_settings *l = into;
    char room[2048], name[64];
    uint64_t number;

    if (!conf_args(b, node, 1, 1000))
        return;
    l->uid = NEW_ARRAY(b->a, uint32_t, node->narg);
    for (size_t i = 0; i < node->narg; i++) {
        str who = node->arg[i].text;
        struct passwd pw, *found = NULL;
        if (str_u64(who, UINT32_MAX - 1, &number)) {
            l->uid[l->nuid++] = (uint32_t)number;
            continue;
        }
        if (who.n < sizeof name) {
            memcpy(name, who.p, who.n);
            name[who.n] = 0;
            getpwnam_r(name, &pw, room, sizeof room, &found);
        }
        if (found)
            l->uid[l->nuid++] = pw.pw_uid;
        else
            conf_error(b, &node->arg[i].at, CONF_E_WORD, "there is no user \"%.*s\" on this machine", STR(who));
    }
}

static const struct setting local_settings[] = {
    { .name = "socket", .type = CONF_PATH, .offset = offsetof(struct local_settings, socket), .form = "PATH",
      .help = "Unix socket for sendmail(1) and others that speak SMTP; everybody may connect, and the kernel says who it is. waypost's sendmail looks "
              "at /run/waypost/local.sock when it cannot read the configuration." },
    { .name = "drop", .type = CONF_PATH, .offset = offsetof(struct local_settings, drop), .form = "PATH",
      .help = "Directory where sendmail leaves mail while the relay is down, made when it is not there; for sendmail without the configuration "
              "/var/spool/waypost-drop." },
    { .name = "users", .type = CONF_OWN, .take = take_users, .form = "NAME | UID ...",
      .help = "Users who may send to anybody, as somebody of relay_from. All others reach the relay domains only." },
    { .name = "relay_from", .type = CONF_STRS, .offset = offsetof(struct local_settings, net.relay_from), .form = "DOMAIN ...",
      .help = "Sender domains that these users may use to any recipient; *.example.com is everything below." },
    { .name = "system_mail", .type = CONF_STRS, .offset = offsetof(struct local_settings, system_mail), .form = "ADDRESS ...",
      .help = "Who gets mail to users of this host: what cron, or a script, sends to root, www-data or root@hostname. Default: the postmaster. An alias for such a "
              "name goes first." },
    { .name = "null_rate", .type = CONF_RATE, .offset = offsetof(struct local_settings, net.null_rate), .preset = "60/min",
      .help = "How many messages with the null sender these users may send to foreign recipients, together." },
    { .name = NULL },
};

static void *make_local(struct binder *b, const struct node *node, void *into)
{
    struct receive_settings *s = into;

    if (!conf_args(b, node, 0, 0))
        return NULL;
    s->local = NEW(b->a, struct local_settings);
    s->local->at = node->name.at;
    s->local->net = (struct network){ .name = S(LISTENER_LOCAL), .null_clock = NEW(b->a, _Atomic int64_t), .at = node->name.at };
    return s->local;
}

/* Its socket is a listener like any other. */
static void finish_local(struct binder *b, struct receive_settings *s, const struct routes *routes)
{
    struct local_settings *l = s->local;
    struct listener_setting at = { .kind = S(LISTENER_LOCAL), .naddr = 1 };

    if (!l)
        return;
    if (!l->nuid != !l->net.relay_from.n)
        conf_error(b, &l->at, CONF_E_MISSING, "\"local\": \"users\" and \"relay_from\" belong together: who may send, and as whom");
    for (size_t i = 0; i < l->net.relay_from.n; i++) {
        str d = l->net.relay_from.p[i];
        if (!domain_valid(str_starts(d, S("*.")) ? str_from(d, 2) : d))
            conf_error(b, &l->at, CONF_E_OPEN_RELAY, "\"local\": relay_from \"%.*s\" is no domain or *.domain", STR(d));
    }
    for (size_t i = 0; i < l->system_mail.n; i++) {
        struct path p;
        when expire;
        if (address_parse(l->system_mail.p[i], &p) != OK || p.domain.n == 0)
            conf_error(b, &l->at, CONF_E_BAD_ADDRESS, "\"local\": system_mail \"%.*s\" is no address", STR(l->system_mail.p[i]));
        else if ((str_ieq(p.domain, s->hostname) && !route_domain(routes, p.domain)) || !route_for(routes, p.domain, &expire))
            conf_error(b, &l->at, CONF_E_NO_ROUTE, "\"local\": mail to system_mail %.*s has no way to go: make its domain a relay_domain or add \"route default\"",
                       STR(l->system_mail.p[i]));
    }
    if (!l->socket.n)
        return;
    at.at = l->at;
    at.addr = NEW(b->a, struct addr);
    if (addr_parse(str_printf(b->a, "unix:%.*s", STR(l->socket)), 0, at.addr) == OK)
        listener_add(b, s, &at);
    else
        conf_error(b, &l->at, CONF_E_LISTENER, "\"local\": %.*s", STR(err_text()));
}

const struct network *local_network(const struct local_settings *l, uint32_t uid)
{
    for (size_t i = 0; l && i < l->nuid; i++)
        if (l->uid[i] == uid)
            return &l->net;
    return NULL;
}

#define LIMIT(field) .offset = offsetof(struct receive_settings, limits.field)
static const struct setting limit_settings[] = {
    { .name = "message_size", .type = CONF_BYTES, LIMIT(message_size), .preset = "50MiB", .least = 65536, .most = 4e9,
      .help = "Largest message; offered by SIZE." },
    { .name = "recipients", .type = CONF_INT, LIMIT(recipients), .preset = "1000", .least = 100, .most = 100000,
      .help = "Recipients of one message. RFC 5321 4.5.3.1.8 asks for at least 100." },
    { .name = "header_size", .type = CONF_BYTES, LIMIT(header_size), .preset = "200KiB", .least = 4096, .most = 262144,
      .help = "Largest header of a message." },
    { .name = "hops", .type = CONF_INT, LIMIT(hops), .preset = "50", .least = 10, .most = 100,
      .help = "Received fields a message may have: more is a loop." },
    { .name = "sessions", .type = CONF_INT, LIMIT(sessions), .preset = "20000", .least = 1, .most = 1e6,
      .help = "SMTP sessions at a time." },
    { .name = "sessions_per_client", .type = CONF_INT, LIMIT(sessions_per_client), .preset = "200", .least = 1, .most = 1e6,
      .help = "SMTP sessions at a time of one IPv4 address or IPv6 /64; clients of a \"network\" block are not counted." },
    { .name = "nonsense", .type = CONF_INT, LIMIT(nonsense), .preset = "10", .least = 1, .most = 1000,
      .help = "Lines that are no command before a session is closed." },
    { .name = "commands_without_mail", .type = CONF_INT, LIMIT(without_mail), .preset = "100", .least = 10, .most = 1000000,
      .help = "Commands like NOOP, RSET and EHLO that a client in no \"network\" may say in a row, with no message among them, before its session is closed." },
    { .name = "refused_recipients", .type = CONF_INT, LIMIT(refused_rcpts), .preset = "100", .least = 1, .most = 100000,
      .help = "Refused recipients before a session is closed." },
    { .name = "unknown_recipients", .type = CONF_RATE, LIMIT(unknown_rcpts), .preset = "200/h",
      .help = "How many unknown recipients one client (an IPv4 address or IPv6 /64, in no \"network\") may ask for, over all its sessions. In the second half "
              "of it answers take up to 10 s, beyond it 421 ends the session at each further one; 0/h: as many as it likes." },
    { .name = "body_memory", .type = CONF_BYTES, LIMIT(body_memory), .preset = "256MiB", .least = 16777216, .most = 1e12,
      .help = "Memory for bodies on their way in, and as much for bodies waiting for a connection; above it new mail is put off with "
              "452, at twice as much also what is on its way and grows, and waiting mail is read back from the spool." },
    { .name = NULL },
};

#define TIMEOUT(field) .offset = offsetof(struct receive_settings, timeouts.field)
static const struct setting timeout_settings[] = {
    { .name = "command", .type = CONF_TIME, TIMEOUT(command), .preset = "5m", .least = 1, .most = 3600,
      .help = "How long a client may take for its next command (RFC 5321 4.5.3.2.7)." },
    { .name = "data_block", .type = CONF_TIME, TIMEOUT(data_block), .preset = "3m", .least = 1, .most = 3600,
      .help = "How long a client may pause within a message." },
    { .name = "message", .type = CONF_TIME, TIMEOUT(message), .preset = "1h", .least = 10, .most = 86400,
      .help = "How long one message may take in all." },
    { .name = "greeting", .type = CONF_TIME, TIMEOUT(greeting), .preset = "1m", .least = 1, .most = 3600,
      .help = "How long a client may stay silent after our greeting." },
    { .name = NULL },
};

const struct setting receive_settings[] = {
    { .name = "hostname", .type = CONF_STR, .offset = offsetof(struct receive_settings, hostname), .required = true, .form = "NAME",
      .help = "The relay's own name, as its DNS says: in the greeting, in Received fields, in reports." },
    { .name = "postmaster", .type = CONF_STR, .offset = offsetof(struct receive_settings, postmaster), .required = true, .form = "ADDRESS",
      .help = "Who reads mail to postmaster (RFC 5321 4.5.1), bare or at a relay domain that has none of its own." },
    { .name = "listen", .type = CONF_OWN, .take = take_listen, .sub = listen_settings, .repeats = true, .form = "smtp | http ADDRESS:PORT ...",
      .help = "Where clients connect: addresses with ports, or unix:PATH. A block behind them says who is believed there. http answers /metrics, "
              "/livez, /readyz and /startupz, on loopback or a Unix socket only." },
    { .name = "local", .type = CONF_BLOCK, .make = make_local, .sub = local_settings, .form = "",
      .help = "Programs of this machine that send mail: sendmail(1), cron, web applications. Without this block there is no way in for them but \"listen\"." },
    { .name = "limits", .type = CONF_BLOCK, .sub = limit_settings, .form = "", .help = "What one client, message or moment may use." },
    { .name = "timeouts", .type = CONF_BLOCK, .sub = timeout_settings, .form = "", .help = "How long clients are waited for." },
    { .name = "tricky_local_parts", .type = CONF_BOOL, .offset = offsetof(struct receive_settings, tricky_local_parts), .preset = "off",
      .help = "Take recipients whose local part has %, ! or a quoted @, which old relays read as another address." },
    { .name = NULL },
};

void receive_settings_finish(struct binder *b, struct receive_settings *s, const struct routes *routes)
{
    struct path p;
    when expire;
    struct place none = { .file = S("configuration") };

    finish_local(b, s, routes);
    if (s->hostname.n && !domain_valid(s->hostname))
        conf_error(b, &none, CONF_E_HOSTNAME, "hostname \"%.*s\" is no domain name", STR(s->hostname));
    bool mail = false;
    for (size_t i = 0; i < s->nlistener; i++)
        mail |= listener_takes_mail(s->listener[i].kind);
    if (!mail)
        conf_error(b, &none, CONF_E_LISTENER, "there is no \"listen\": nobody could reach this relay");
    if (s->postmaster.n == 0)
        return;
    if (address_parse(s->postmaster, &p) != OK || p.domain.n == 0)
        conf_error(b, &none, CONF_E_POSTMASTER, "postmaster \"%.*s\" is no address", STR(s->postmaster));
    else if (!route_for(routes, p.domain, &expire))
        conf_error(b, &none, CONF_E_POSTMASTER, "mail to postmaster %.*s has no way to go: make its domain a relay_domain or add \"route default\"",
                   STR(s->postmaster));
}
