/* What waypost.conf says about names. */
#include "dns/inside.h"

#define SERVERS_MOST 16
#define STUBS_MOST 1000

static bool take_server(struct binder *b, const struct token *t, struct addrs *all)
{
    struct addr at;

    if (addr_parse(t->text, 53, &at) != OK || at.sa.sa_family == AF_UNIX || addr_port(&at) == 0) {
        conf_error(b, &t->at, CONF_E_BAD_ADDRESS, "\"%.*s\" is no address of a name server: ADDRESS or ADDRESS:PORT, IPv6 in brackets", STR(t->text));
        return false;
    }
    all->p[all->n++] = at;
    return true;
}

static void take_servers(struct binder *b, const struct node *node, void *into)
{
    struct dns_settings *s = into;

    if (!conf_args(b, node, 1, SERVERS_MOST))
        return;
    s->server = (struct addrs){ .p = NEW_ARRAY(b->a, struct addr, node->narg) };
    for (size_t i = 0; i < node->narg; i++)
        take_server(b, &node->arg[i], &s->server);
}

static bool take_zone(struct binder *b, const struct token *t, str *ret)
{
    if (dns_name(b->a, t->text, ret) == OK)
        return true;
    conf_error(b, &t->at, CONF_E_DOMAIN, "\"%.*s\" is no zone: %.*s", STR(t->text), STR(err_text()));
    return false;
}

static void take_stub(struct binder *b, const struct node *node, void *into)
{
    struct dns_settings *s = into;
    struct dns_stub stub = { 0 };

    if (!conf_args(b, node, 2, SERVERS_MOST + 1) || !take_zone(b, &node->arg[0], &stub.zone))
        return;
    for (size_t i = 0; i < s->nstub; i++)
        if (str_eq(s->stub[i].zone, stub.zone)) {
            conf_error(b, &node->arg[0].at, CONF_E_DUPLICATE, "zone \"%.*s\" has a \"stub\" already: name all its servers there", STR(stub.zone));
            return;
        }
    if (s->nstub == STUBS_MOST) {
        conf_error(b, &node->name.at, CONF_E_RANGE, "more than %d zones with a \"stub\"", STUBS_MOST);
        return;
    }
    stub.server.p = NEW_ARRAY(b->a, struct addr, node->narg);
    for (size_t i = 1; i < node->narg; i++)
        take_server(b, &node->arg[i], &stub.server);
    struct dns_stub *all = NEW_ARRAY(b->a, struct dns_stub, s->nstub + 1);
    if (s->nstub)
        memcpy(all, s->stub, s->nstub * sizeof *all);
    all[s->nstub++] = stub;
    s->stub = all;
}

static void take_insecure(struct binder *b, const struct node *node, void *into)
{
    struct dns_settings *s = into;
    str *all;

    if (!conf_args(b, node, 1, STUBS_MOST))
        return;
    all = NEW_ARRAY(b->a, str, s->insecure.n + node->narg);
    if (s->insecure.n)
        memcpy(all, s->insecure.p, s->insecure.n * sizeof *all);
    s->insecure.p = all;
    for (size_t i = 0; i < node->narg; i++)
        s->insecure.n += take_zone(b, &node->arg[i], &all[s->insecure.n]);
}

/* on: the system's own; off: none; or a path. */
static void take_file(struct binder *b, const struct node *node, str system, str *ret)
{
    bool on;

    if (!conf_args(b, node, 1, 1))
        return;
    if (str_starts(node->arg[0].text, S("/")) || str_starts(node->arg[0].text, S(".")))
        conf_path(b, &node->arg[0], ret);
    else if (conf_bool(b, &node->arg[0], &on))
        *ret = on ? system : S("");
}

static void take_hosts(struct binder *b, const struct node *node, void *into)
{
    take_file(b, node, S("/etc/hosts"), &((struct dns_settings *)into)->hosts);
}

static void take_resolv(struct binder *b, const struct node *node, void *into)
{
    take_file(b, node, S("/etc/resolv.conf"), &((struct dns_settings *)into)->resolv);
}

static void take_anchor(struct binder *b, const struct node *node, void *into)
{
    struct dns_settings *s = into;
    struct strs lines;

    if (conf_args(b, node, 1, 1) && conf_path(b, &node->arg[0], &s->anchor) && anchors_read(b->a, s->anchor, &lines) != OK)
        conf_error(b, &node->arg[0].at, CONF_E_BAD_ANCHOR, "%.*s", STR(err_text()));
}

static const char *const dnssec_words[] = { "auto", "on", "off", NULL };

#define DNS(field) .offset = offsetof(struct dns_settings, field)
static const struct setting block[] = {
    { .name = "server", .type = CONF_OWN, .take = take_servers, .form = "ADDRESS[:PORT] ...",
      .help = "Resolvers that are asked all questions. Without them those of resolv_conf are, and without those every question is followed "
              "from the root of the name system down." },
    { .name = "stub", .type = CONF_OWN, .take = take_stub, .repeats = true, .form = "ZONE ADDRESS[:PORT] ...",
      .help = "Name servers that are asked about this zone and all below it: a zone that the world does not see, or sees otherwise. It counts as "
              "unsigned unless trust_anchor has a key for it, or for a zone above it that is not the root." },
    { .name = "insecure", .type = CONF_OWN, .take = take_insecure, .repeats = true, .form = "ZONE ...",
      .help = "Zones that your resolvers know and that are not signed, though the world's name system says they should be, or denies them. "
              "Names of one label, and those below local, internal, lan, home, corp, private, intranet, localdomain and home.arpa are taken "
              "so anyway when resolvers are asked." },
    { .name = "hosts", .type = CONF_OWN, .take = take_hosts, .preset = "on", .form = "on | off | PATH",
      .help = "A hosts(5) file whose names answer before anyone is asked; on: /etc/hosts. It is read again when it changes." },
    { .name = "resolv_conf", .type = CONF_OWN, .take = take_resolv, .preset = "on", .form = "on | off | PATH",
      .help = "Where resolvers are found when there is no server; on: /etc/resolv.conf. It is read again when it changes; of it only nameserver is "
              "used, there is no search list." },
    { .name = "dnssec", .type = CONF_ENUM, DNS(dnssec), .preset = "auto", .words = dnssec_words, .form = "auto | on | off",
      .help = "Validate answers. on: a signed name whose signatures do not hold, or do not come, has no answer. auto: the same, but when the "
              "resolvers hand on no signatures at all, answers go unvalidated for an hour and the log says so." },
    { .name = "trust_anchor", .type = CONF_OWN, .take = take_anchor, .form = "PATH",
      .help = "Keys to begin with: DNSKEY or DS records, one a line. Default: /usr/share/dns/root.key of Debian's dns-root-data." },
    { .name = "timeout", .type = CONF_TIME, DNS(timeout), .preset = "20s", .least = 1, .most = 120, .help = "How long one question may take." },
    { .name = "cache", .type = CONF_BYTES, DNS(cache), .preset = "16MiB", .least = 1048576, .most = 1e12, .help = "Memory for answers." },
    { .name = NULL },
};

const struct setting dns_settings[] = {
    { .name = "dns", .type = CONF_BLOCK, .sub = block, .form = "", .help = "How names are looked up." },
    { .name = NULL },
};
