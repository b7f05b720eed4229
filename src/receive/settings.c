/* What waypost.conf says about listeners, names, limits and timeouts. */
#include "receive/receive.h"

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
    struct listener_setting *all = NEW_ARRAY(b->a, struct listener_setting, s->nlistener + 1);
    if (s->nlistener)
        memcpy(all, s->listener, s->nlistener * sizeof *all);
    all[s->nlistener++] = l;
    s->listener = all;
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
    { .name = "refused_recipients", .type = CONF_INT, LIMIT(refused_rcpts), .preset = "100", .least = 1, .most = 100000,
      .help = "Refused recipients before a session is closed." },
    { .name = "unknown_recipients", .type = CONF_RATE, LIMIT(unknown_rcpts), .preset = "200/h",
      .help = "How many unknown recipients one client (an IPv4 address or IPv6 /64, in no \"network\") may ask for, over all its sessions. In the second half "
              "of it answers take up to 10 s, beyond it 421 ends the session at each further one; 0/h: as many as it likes." },
    { .name = "body_memory", .type = CONF_BYTES, LIMIT(body_memory), .preset = "256MiB", .least = 16777216, .most = 1e12,
      .help = "Memory for bodies on their way in, and as much for bodies waiting for a connection; above it new mail is put off with "
              "452, and waiting mail is read back from the spool." },
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
