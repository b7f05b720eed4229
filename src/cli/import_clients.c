/* Who may do what: services that listen, networks, and the lists of restrictions. */
#include "cli/import_inside.h"

#include "net/net.h"

#include <netdb.h>

/* ---- restrictions ---- */

/* Three clients stand for all: one of mynetworks with mail for elsewhere, a stranger with mail for us, and one with mail for elsewhere. */
enum subject { OWN_CLIENT, STRANGER_HERE, STRANGER_ELSEWHERE, SUBJECTS };
struct verdicts { bool passes[SUBJECTS]; };

static const char *const lists[] = { "smtpd_client_restrictions", "smtpd_helo_restrictions", "smtpd_sender_restrictions", "smtpd_relay_restrictions",
                                     "smtpd_recipient_restrictions" };

static str list_value(const struct relay *r, const char *list)
{
    uint64_t level = 0;

    str_u64(str_head(pf_value(r->c, "compatibility_level"), 1), 9, &level);
    if (!pf_is_set(r->c, str_z(list)) && strcmp(list, "smtpd_relay_restrictions") == 0)
        return level < 1 && pf_is_set(r->c, S("smtpd_recipient_restrictions")) ? S("") : S("permit_mynetworks, permit_sasl_authenticated, defer_unauth_destination");
    return pf_value(r->c, list);
}

/* What a word does at once with each of the three: 1 takes, -1 refuses, 0 goes on. */
static int effect(str word, enum subject who)
{
    static const struct { const char *word; signed char does[SUBJECTS]; } words[] = {
        { "permit", { 1, 1, 1 } }, { "reject", { -1, -1, -1 } }, { "defer", { -1, -1, -1 } },
        { "permit_mynetworks", { 1, 0, 0 } }, { "permit_auth_destination", { 0, 1, 0 } },
        { "reject_unauth_destination", { -1, 0, -1 } }, { "defer_unauth_destination", { -1, 0, -1 } },
    };
    for (size_t i = 0; i < COUNT(words); i++)
        if (str_ieq(word, str_z(words[i].word)))
            return words[i].does[who];
    return 0;
}

static void judge(const struct relay *r, struct verdicts *v)
{
    for (unsigned who = 0; who < SUBJECTS; who++) {
        v->passes[who] = true;
        for (size_t i = 0; i < COUNT(lists); i++) {
            str rest = list_value(r, lists[i]), word;
            int does = 0;
            while (does == 0 && pf_word(&rest, &word)) {
                if (str_ieq(word, S("warn_if_reject")))
                    pf_word(&rest, &word);
                else
                    does = effect(word, who);
            }
            v->passes[who] &= does >= 0;
        }
    }
}

/* "check_recipient_access hash:/etc/postfix/refused": addresses and domains that get no mail. */
static void take_recipient_access(struct relay *r, const char *list, str table)
{
    struct pf_table t;
    size_t n = 0;

    pf_tables(r->c, list, table, &t);
    for (size_t i = 0; i < t.n; i++) {
        const struct pf_entry *e = &t.entry[i];
        str address;
        bool word = str_istarts(e->value, S("REJECT")), refuses = word || (e->value.n > 2 && e->value.p[0] == '5' && ascii_digit(e->value.p[1]));
        struct hop why = { .kind = HOP_ERROR, .what = str_trim(str_from(e->value, word ? 6 : 3)) };
        if (refuses && str_findc(e->key, '@') != STR_NONE && postfix_address(r->a, e->key, &address)) {
            GROW(r->a, r->access.entry, r->access.n, r->access.cap);
            r->access.entry[r->access.n++] = (struct pf_entry){ address, refusal(r, &why), e->file, e->line };
            pf_find_at(r->c, e->file, e->line, e->key, TRANSLATED, "refused, whoever sends");
            n++;
        } else
            pf_find_at(r->c, e->file, e->line, e->key, NOT_TRANSLATED, "%.*s: only REJECT of a whole address is", STR(str_head(e->value, 40)));
    }
    pf_find(r->c, list, t.partial || n < t.n ? PARTLY : TRANSLATED, "check_recipient_access %.*s: %zu of %zu entries", STR(table), n, t.n);
}

static bool takes_table(str word)
{
    return (str_istarts(word, S("check_")) && str_iends(word, S("_access"))) || str_ieq(word, S("check_policy_service")) || str_istarts(word, S("reject_rbl_"))
           || str_istarts(word, S("reject_rhsbl_")) || str_istarts(word, S("permit_dnswl")) || str_istarts(word, S("permit_rhswl")) || str_ieq(word, S("sleep"));
}

/* Word by word, what of a list is kept. */
static void tell_list(struct relay *r, const char *list)
{
    static const struct { const char *word; enum became became; const char *what; } words[] = {
        { "permit_mynetworks", TRANSLATED, "network blocks" },
        { "permit_sasl_authenticated", NOT_TRANSLATED, "waypost has no logins yet: who relays by login cannot" },
        { "reject_unauth_destination", NEEDLESS, "always so" },
        { "defer_unauth_destination", NEEDLESS, "always so; waypost says 550 where this says 454" },
        { "permit_auth_destination", NEEDLESS, "always so" },
        { "reject_unlisted_recipient", NEEDLESS, "always so" },
        { "reject_non_fqdn_sender", NEEDLESS, "a sender needs a domain" },
        { "reject_non_fqdn_recipient", NEEDLESS, "a recipient needs a domain" },
        { "reject_invalid_helo_hostname", NOT_TRANSLATED, "names said by EHLO are not judged" },
        { "reject_unauth_pipelining", NEEDLESS, "always so" },
        { "reject_unverified_recipient", TRANSLATED, "recipients { callout } where relay_recipient_maps does not say who exists" },
        { "permit", NEEDLESS, "the end of the list" },
        { "reject", TRANSLATED, "nobody else may send" },
        { "defer", TRANSLATED, "nobody else may send" },
    };
    str rest = list_value(r, list), word, table;

    while (pf_word(&rest, &word)) {
        size_t i = 0;
        if (str_ieq(word, S("warn_if_reject")))
            continue;
        if (takes_table(word) && !pf_word(&rest, &table))
            table = S("");
        if (str_ieq(word, S("check_recipient_access"))) {
            take_recipient_access(r, list, table);
            continue;
        }
        while (i < COUNT(words) && !str_ieq(word, str_z(words[i].word)))
            i++;
        if (str_ieq(word, S("check_client_access")) || str_ieq(word, S("check_sender_access")) || str_ieq(word, S("check_helo_access")))
            pf_find(r->c, list, NOT_TRANSLATED, "%.*s %.*s: waypost has no such lists; whom it let relay is for a \"network\" with relay_from, by your decision", STR(word), STR(table));
        else if (i < COUNT(words))
            pf_find(r->c, list, words[i].became, "%.*s: %s", STR(word), words[i].what);
        else
            pf_find(r->c, list, NOT_TRANSLATED, "%.*s%s%.*s", STR(word), takes_table(word) ? " " : "", STR(takes_table(word) ? table : S("")));
    }
}

void restrictions_read(struct relay *r)
{
    struct verdicts v;

    judge(r, &v);
    r->strangers = v.passes[STRANGER_HERE];
    r->own_clients = v.passes[OWN_CLIENT];
    for (size_t i = 0; i < COUNT(lists); i++) {
        str rest = list_value(r, lists[i]), word;
        while (pf_word(&rest, &word))
            r->callout |= str_ieq(word, S("reject_unverified_recipient"));
        if (pf_is_set(r->c, str_z(lists[i])))
            tell_list(r, lists[i]);
    }
    if (v.passes[STRANGER_ELSEWHERE]) {
        pf_find(r->c, pf_is_set(r->c, S("smtpd_recipient_restrictions")) ? "smtpd_recipient_restrictions" : "smtpd_relay_restrictions", REFUSED,
                "these lists let strangers relay: waypost does not");
        decide(r, "strangers could relay through this Postfix (no reject_unauth_destination); that is not translated");
    }
}

/* ---- networks ---- */

/* Each domain that is taken here, and our own name: what clients of ours are known to send as. */
static str sender_domains(struct relay *r)
{
    struct buf out = buf_in(r->a, 200);
    bool origin = false;

    for (size_t i = 0; i < r->nrow; i++) {
        const struct row *row = &r->row[i];
        if (row->class == CLASS_RELAY && (row->hop.kind == HOP_ERROR || row->hop.kind == HOP_NONE))
            continue;           /* nobody is there who could send */
        buf_addf(&out, out.n ? " %.*s" : "%.*s", STR(r->row[i].name));
        origin |= str_ieq(r->row[i].name, r->myorigin);
    }
    if (!origin && str_findc(r->myorigin, '.') != STR_NONE)
        buf_addf(&out, out.n ? " %.*s" : "%.*s", STR(r->myorigin));
    return buf_str(&out);
}

/* "10.1" of a hash: table is 10.1.0.0/16; "[::1]/128" loses its brackets. */
static bool network_of(struct relay *r, str key, struct cidr *ret, str *text)
{
    struct buf out = buf_in(r->a, key.n + 8);
    size_t dots = 0;

    for (size_t i = 0; i < key.n; i++)
        if (key.p[i] != '[' && key.p[i] != ']')
            buf_addc(&out, key.p[i]);
    for (size_t i = 0; i < out.n; i++)
        dots += out.p[i] == '.';
    if (dots < 3 && str_findc(buf_str(&out), ':') == STR_NONE && str_findc(buf_str(&out), '/') == STR_NONE && out.n && ascii_digit(out.p[0])) {
        for (size_t i = dots; i < 3; i++)
            buf_add(&out, S(".0"));
        buf_addf(&out, "/%zu", 8 * (dots + 1));
    }
    *text = buf_str(&out);
    return !str_eq(*text, S("unix")) && cidr_parse(*text, ret) == OK;
}

/* 10.0.0.0/8 and fc00::/7 are the widest that belong to one owner; two halves of the world are the world. */
static bool too_wide(const struct cidr *c)
{
    return c->bits < (c->base.sa.sa_family == AF_INET ? 8 : 7);
}

static void networks(struct relay *r)
{
    struct pf_table t;
    struct buf out = buf_in(r->a, 200);
    struct cidr c, *but = NULL;
    size_t nbut = 0, but_cap = 0;
    bool loopback_only = true;

    if (!pf_is_set(r->c, S("mynetworks"))) {
        pf_find(r->c, "mynetworks", DECIDE, "not set: Postfix trusts this machine%s; only 127.0.0.0/8 and [::1] are written",
                str_eq(pf_value(r->c, "mynetworks_style"), S("class")) || str_eq(pf_value(r->c, "mynetworks_style"), S("subnet")) ? " and its networks (mynetworks_style)" : "'s own addresses");
        t = (struct pf_table){ 0 };
        pf_tables(r->c, "mynetworks", S("inline:{127.0.0.0/8=x,{[::1]/128=x}}"), &t);
    } else
        pf_names(r->c, "mynetworks", &t);
    if (t.anything.p) {
        pf_find(r->c, "mynetworks", REFUSED, "static: trusts every address, which is an open relay: not translated");
        decide(r, "mynetworks trusted every address: no network is written");
        return;
    }
    for (size_t i = 0; i < t.n; i++) {
        const struct pf_entry *e = &t.entry[i];
        str text;
        bool not = e->key.n && e->key.p[0] == '!';
        if (!network_of(r, not ? str_from(e->key, 1) : e->key, &c, &text)) {
            pf_find_at(r->c, e->file, e->line, S("mynetworks"), NOT_TRANSLATED, "\"%.*s\" is no network", STR(e->key));
            continue;
        }
        if (not) {
            GROW(r->a, but, nbut, but_cap);
            but[nbut++] = c;
            pf_find_at(r->c, e->file, e->line, S("mynetworks"), PARTLY, "%.*s: waypost cannot leave a part out, so what holds it is left out as a whole", STR(e->key));
            continue;
        }
        bool holds = false;
        for (size_t k = 0; k < nbut; k++)       /* what follows an exclusion and holds it would take it in again */
            holds |= cidr_has(&c, &but[k].base) || cidr_has(&but[k], &c.base);
        if (too_wide(&c)) {
            pf_find_at(r->c, e->file, e->line, S("mynetworks"), REFUSED, "%.*s trusts more than anybody's own network, which is an open relay: not translated", STR(e->key));
            decide(r, "mynetworks had %.*s, an open relay: not written", STR(e->key));
        } else if (holds)
            pf_find_at(r->c, e->file, e->line, S("mynetworks"), DECIDE, "%.*s is not written, for the part that is left out of it", STR(e->key));
        else {
            buf_addf(&out, out.n ? " %.*s" : "%.*s", STR(text));
            loopback_only &= addr_is_loopback(&c.base);
        }
    }
    if (!r->own_clients) {
        pf_find(r->c, "mynetworks", NEEDLESS, "no list of restrictions lets its clients relay");
        return;
    }
    r->networks = buf_str(&out);
    r->relay_from = sender_domains(r);
    if (r->networks.n && r->relay_from.n) {
        pf_find(r->c, "mynetworks", loopback_only ? TRANSLATED : PARTLY, "network mynetworks, for the sender domains known here: %.*s", STR(r->relay_from));
        if (!loopback_only)
            decide(r, "clients of mynetworks could send as anybody; waypost wants their sender domains: complete relay_from of \"network mynetworks\"");
    } else if (r->networks.n) {
        pf_find(r->c, "mynetworks", DECIDE, "no sender domain is known: no network is written");
        decide(r, "no \"network\" is written, since no sender domain is known: add network mynetworks %.*s { relay_from YOUR.DOMAINS }", STR(r->networks));
        r->networks = S("");
    }
}

/* ---- listeners ---- */

static bool sensitive(const struct pf_override *o)
{
    static const char *const names[] = { "mynetworks", "content_filter", "smtpd_proxy_filter", "receive_override_options", "smtpd_sasl_auth_enable", "smtpd_tls_wrappermode",
                                         "smtpd_upstream_proxy_protocol", "smtpd_tls_security_level", "relay_domains", "mydestination", "local_recipient_maps",
                                         "relay_recipient_maps", "virtual_alias_maps", "cleanup_service_name" };
    if (str_ends(o->name, S("_restrictions")))
        return true;
    for (size_t i = 0; i < COUNT(names); i++)
        if (str_eq(o->name, str_z(names[i])))
            return !(i == 7 && str_eq(o->value, S("none"))) && !(i == 4 && str_ieq(o->value, S("no"))) && !(i == 5 && str_ieq(o->value, S("no")));
    return false;
}

/* An address without port or brackets. */
static bool is_ip(const struct relay *r, str s)
{
    struct addr a;
    str whole = str_findc(s, ':') != STR_NONE ? str_printf(r->a, "[%.*s]:25", STR(s)) : s;

    return addr_parse(whole, 25, &a) == OK && a.sa.sa_family != AF_UNIX;
}

/* Where inet_interfaces and inet_protocols say, on a port. */
static void listen_interfaces(struct relay *r, struct buf *out, unsigned port)
{
    str rest = pf_value(r->c, "inet_interfaces"), word, protocols = pf_value(r->c, "inet_protocols");
    bool v4 = !str_eq(protocols, S("ipv6")), v6 = !str_eq(protocols, S("ipv4"));

    while (pf_word(&rest, &word)) {
        if (str_ieq(word, S("all")) && v4)
            buf_addf(out, " 0.0.0.0:%u", port);
        if (str_ieq(word, S("all")) && v6)
            buf_addf(out, " [::]:%u", port);
        if ((str_ieq(word, S("loopback-only")) || str_ieq(word, S("localhost"))) && v4)
            buf_addf(out, " 127.0.0.1:%u", port);
        if ((str_ieq(word, S("loopback-only")) || str_ieq(word, S("localhost"))) && v6)
            buf_addf(out, " [::1]:%u", port);
        if (str_ieq(word, S("all")) || str_ieq(word, S("loopback-only")) || str_ieq(word, S("localhost")))
            continue;
        str bare = word.n && word.p[0] == '[' ? str_of(word.p + 1, MIN(str_findc(word, ']'), word.n) - 1) : word;
        if (is_ip(r, bare))
            buf_addf(out, str_findc(bare, ':') != STR_NONE ? " [%.*s]:%u" : " %.*s:%u", STR(bare), port);
        else {
            pf_find(r->c, "inet_interfaces", DECIDE, "\"%.*s\": waypost listens at addresses, not at names", STR(word));
            decide(r, "inet_interfaces: %.*s is missing in \"listen\": which address is that?", STR(word));
        }
    }
}

static unsigned service_port(str name)
{
    char text[32];
    uint64_t n;

    if (str_u64(name, 65535, &n))
        return (unsigned)n;
    if (name.n == 0 || name.n >= sizeof text)
        return 0;
    memcpy(text, name.p, name.n);
    text[name.n] = 0;
    const struct servent *s = getservbyname(text, "tcp");
    return s ? be16toh((uint16_t)s->s_port) : 0;
}

static void take_service(struct relay *r, const struct pf_service *s, struct buf *out)
{
    struct buf options = buf_in(r->a, 80);
    size_t colon = s->name.n;

    while (colon && s->name.p[colon - 1] != ':')
        colon--;
    unsigned port = service_port(str_from(s->name, colon));
    if (!str_eq(s->command, S("smtpd")) && !str_eq(s->command, S("postscreen"))) {
        pf_find_at(r->c, s->file, s->line, s->name, NOT_TRANSLATED, "%.*s listens there: waypost has none", STR(s->command));
        return;
    }
    for (size_t i = 0; i < s->noverride; i++)
        if (sensitive(&s->override[i])) {
            pf_find_at(r->c, s->file, s->line, s->name, DECIDE, "not written: it is judged by rules of its own (-o %.*s), which waypost has for none of its listeners", STR(s->override[i].name));
            decide(r, "the service %.*s of master.cf is not there (-o %.*s)", STR(s->name), STR(s->override[i].name));
            return;
        }
    for (size_t i = 0; i < s->noverride; i++)
        if (!str_eq(s->override[i].name, S("syslog_name")))
            buf_addf(&options, "; not translated: -o %.*s", STR(s->override[i].name));
    size_t from = out->n;
    if (port == 0)
        pf_find_at(r->c, s->file, s->line, s->name, NOT_TRANSLATED, "this is no port");
    else if (colon > 1) {
        str host = str_head(s->name, colon - 1);
        str bare = host.n > 2 && host.p[0] == '[' ? str_of(host.p + 1, host.n - 2) : str_ieq(host, S("localhost")) ? S("127.0.0.1") : host;
        if (is_ip(r, bare))
            buf_addf(out, str_findc(bare, ':') != STR_NONE ? " [%.*s]:%u" : " %.*s:%u", STR(bare), port);
        else
            pf_find_at(r->c, s->file, s->line, s->name, NOT_TRANSLATED, "waypost listens at addresses, not at names");
    } else
        listen_interfaces(r, out, port);
    if (out->n > from)
        pf_find_at(r->c, s->file, s->line, s->name, str_eq(s->command, S("postscreen")) || options.n ? PARTLY : TRANSLATED, "listen smtp%.*s%s%.*s",
                   STR(str_from(buf_str(out), from)), str_eq(s->command, S("postscreen")) ? "; without postscreen's tests" : "", STR(buf_str(&options)));
}

/* Peers that may say for whom they speak: networks only, as names are looked up by nobody here. */
static void take_believed(struct relay *r, const char *name, const char *verb, struct buf *out)
{
    struct pf_table t;
    struct buf nets = buf_in(r->a, 80);
    struct cidr c;
    str text;

    if (!pf_is_set(r->c, str_z(name)))
        return;
    pf_names(r->c, name, &t);
    for (size_t i = 0; i < t.n; i++)
        if (network_of(r, t.entry[i].key, &c, &text) && c.bits)
            buf_addf(&nets, " %.*s", STR(text));
        else
            pf_find_at(r->c, t.entry[i].file, t.entry[i].line, str_z(name), NOT_TRANSLATED, "\"%.*s\" is no network", STR(t.entry[i].key));
    if (nets.n)
        buf_addf(out, "    %s from%.*s\n", verb, STR(buf_str(&nets)));
    pf_find(r->c, name, t.partial ? PARTLY : TRANSLATED, "listen smtp ... { %s from%.*s }", verb, STR(buf_str(&nets)));
}

/* What master.cf has besides listeners. */
static void tell_service(struct relay *r, const struct pf_service *s)
{
    static const char *const transports[] = { "local", "virtual", "pipe", "spawn" };
    struct buf options = buf_in(r->a, 100);

    for (size_t i = 0; i < s->noverride; i++)
        if (!str_eq(s->override[i].name, S("syslog_name")) && !str_starts(s->override[i].name, S("smtp_bind_address")) && !str_eq(s->override[i].name, S("smtp_helo_name")))
            buf_addf(&options, options.n ? ", %.*s" : "%.*s", STR(s->override[i].name));
    for (size_t i = 0; i < COUNT(transports); i++)
        if (str_eq(s->command, str_z(transports[i]))) {
            pf_find_at(r->c, s->file, s->line, s->name, NOT_TRANSLATED, "%.*s: waypost runs no programs and has no mailboxes; what went this way is told at its own line", STR(s->command));
            return;
        }
    bool own_rules = false;
    for (size_t i = 0; i < s->noverride; i++)
        own_rules |= str_eq(s->command, S("smtpd")) && sensitive(&s->override[i]);
    if (own_rules)              /* behind postscreen */
        pf_find_at(r->c, s->file, s->line, s->name, DECIDE, "sessions that postscreen hands on had rules of their own, which are not translated: -o %.*s", STR(buf_str(&options)));
    else if ((str_eq(s->command, S("smtp")) || str_eq(s->command, S("lmtp"))) && options.n)
        pf_find_at(r->c, s->file, s->line, s->name, PARTLY, "its next hops are backends; not translated: -o %.*s", STR(buf_str(&options)));
    else if (str_eq(s->command, S("smtp")) || str_eq(s->command, S("lmtp")))
        pf_find_at(r->c, s->file, s->line, s->name, NEEDLESS, "its next hops are backends");
    else
        pf_find_at(r->c, s->file, s->line, s->name, NEEDLESS, "of Postfix' own build-up");
}

static void own_addresses(struct relay *r)
{
    str rest = pf_value(r->c, "proxy_interfaces"), word;
    struct buf out = buf_in(r->a, 80);

    while (pf_word(&rest, &word))
        if (is_ip(r, word))
            buf_addf(&out, " %.*s", STR(word));
        else
            pf_find(r->c, "proxy_interfaces", NOT_TRANSLATED, "\"%.*s\" is no address", STR(word));
    r->own = buf_str(&out);
    if (out.n)
        pf_find(r->c, "proxy_interfaces", TRANSLATED, "own { addresses%.*s }", STR(r->own));
}

/* "localhost, 127.0.0.1" are one address, and so are the services smtp and 25. */
static str each_once(arena *a, str words)
{
    struct buf out = buf_in(a, words.n + 1);
    str rest = words, word;

    while (pf_word(&rest, &word)) {
        str seen = buf_str(&out), one;
        bool known = false;
        while (!known && pf_word(&seen, &one))
            known = str_eq(one, word);
        if (!known)
            buf_addf(&out, " %.*s", STR(word));
    }
    return buf_str(&out);
}

static void listeners(struct relay *r)
{
    struct buf believed = { .a = r->a };

    struct buf out = buf_in(r->a, 100);

    for (size_t i = 0; i < r->c->nservice; i++)
        if (str_eq(r->c->service[i].type, S("inet")))
            take_service(r, &r->c->service[i], &out);
        else
            tell_service(r, &r->c->service[i]);
    if (r->c->nservice == 0)
        listen_interfaces(r, &out, 25);
    if (out.n == 0) {
        buf_add(&out, S(" 127.0.0.1:25"));
        decide(r, "no smtpd of master.cf could be translated: one on loopback is written, since a relay needs a listener");
    }
    take_believed(r, "smtpd_authorized_xclient_hosts", "xclient", &believed);
    take_believed(r, "smtpd_authorized_xforward_hosts", "xforward", &believed);
    str at = each_once(r->a, buf_str(&out));
    r->listen = believed.n ? str_printf(r->a, "%.*s {\n%.*s}", STR(at), STR(buf_str(&believed))) : at;
    own_addresses(r);
    if (pf_is_set(r->c, S("inet_interfaces")))
        pf_find(r->c, "inet_interfaces", TRANSLATED, "listen");
    if (pf_is_set(r->c, S("inet_protocols")))
        pf_find(r->c, "inet_protocols", TRANSLATED, "listen");
}

void clients_read(struct relay *r)
{
    networks(r);
    listeners(r);
}
