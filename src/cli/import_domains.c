/* Which domains are taken, where their mail goes, and who exists there. */
#include "cli/import_inside.h"

#include "mail/mail.h"

struct row *row_named(const struct relay *r, str name)
{
    size_t at = (size_t)(uintptr_t)map_get(&r->row_by_name, name);
    return at ? &r->row[at - 1] : NULL;
}

/* Those given out before may move. */
struct row *row_add(struct relay *r, const struct row *row)
{
    GROW(r->a, r->row, r->nrow, r->row_cap);
    r->row[r->nrow++] = *row;
    map_put(&r->row_by_name, row->name, (void *)(uintptr_t)r->nrow);
    return &r->row[r->nrow - 1];
}

struct row *row_for(const struct relay *r, str domain)
{
    struct row *row = row_named(r, domain);

    for (str rest = domain; !row;) {
        size_t dot = str_findc(rest, '.');
        if (dot == STR_NONE)
            return NULL;
        rest = str_from(rest, dot + 1);
        row = row_named(r, str_printf(r->a, "*.%.*s", STR(rest)));
    }
    return row;
}

/* ---- rows ---- */

static bool is_localhost(str name)
{
    return str_ieq(name, S("localhost")) || str_istarts(name, S("localhost."));
}

static str way_text(struct relay *r, const struct hop *h)
{
    switch (h->kind) {
    case HOP_BACKEND: return str_printf(r->a, "backend %.*s", STR(h->backend));
    case HOP_MX: return S("by MX, of hosts preferred to this one");
    case HOP_DISCARD: return S("thrown away");
    case HOP_ERROR: return S("refused at RCPT");
    default: return str_printf(r->a, "refused: %.*s", STR(h->what));
    }
}

static struct row *add_row(struct relay *r, str name, enum domain_class class, str file, unsigned line)
{
    struct row *row = row_add(r, &(struct row){ .name = name, .class = class, .file = file, .line = line });
    const struct pf_entry *e = transport_for(r, name);
    str transport = S(""), nexthop = S("");
    if (e)
        split_transport(e->value, &transport, &nexthop);
    row->explicit = transport.n || nexthop.n;
    if (transport.n)
        row->hop = hop_of(r, "transport_maps", e->file, e->line, transport, nexthop);
    else if (nexthop.n)
        row->hop = hop_of(r, "transport_maps", e->file, e->line, S("smtp"), nexthop);
    else
        row->hop = hop_of_class(r, class);
    return row;
}

static void take_domain(struct relay *r, const char *name, enum domain_class class, const struct pf_entry *e)
{
    static const char *const classes[] = { "mydestination", "virtual_alias_domains", "virtual_mailbox_domains", "relay_domains" };
    str domain = e->key;
    bool below = domain.n && domain.p[0] == '.';
    struct row *before;

    if (is_localhost(domain)) {
        pf_find_at(r->c, e->file, e->line, str_z(name), NEEDLESS, "%.*s: no mail for it comes from outside", STR(domain));
        return;
    }
    if (domain.n > 1 && domain.p[0] == '!') { /* what stands behind it may be a parent, which would take its mail now */
        pf_find_at(r->c, e->file, e->line, str_z(name), DECIDE, "%.*s: waypost leaves no part of a domain out", STR(domain));
        decide(r, "%s left %.*s out: if one of the domains below holds it, add a route that refuses it, as in \"via bounce\"", name, STR(str_from(domain, 1)));
        return;
    }
    if (!domain_valid(below ? str_from(domain, 1) : domain)) {
        pf_find_at(r->c, e->file, e->line, str_z(name), NOT_TRANSLATED, "\"%.*s\" is no domain%s", STR(domain),
                   domain.n && domain.p[0] == '#' ? ": Postfix has no comments behind a value" : "");
        return;
    }
    str row_name = below ? str_printf(r->a, "*%.*s", STR(domain)) : domain;
    if ((before = row_named(r, row_name))) {
        pf_find_at(r->c, e->file, e->line, str_z(name), before->class == class ? NEEDLESS : PARTLY, "%.*s stands in %s already, which comes first", STR(domain),
                   classes[before->class]);
        return;
    }
    struct row *row = add_row(r, row_name, class, e->file, e->line);
    bool alone = class == CLASS_ALIAS || (class == CLASS_LOCAL && row->hop.kind == HOP_NONE);
    pf_find_at(r->c, e->file, e->line, str_z(name), row->hop.kind == HOP_NONE && !alone ? DECIDE : row->hop.kind == HOP_NONE ? PARTLY : TRANSLATED,
               "relay_domain %.*s: %.*s", STR(row_name),
               STR(alone ? S("its addresses stand for others (aliases.txt); nobody has a mailbox here") : way_text(r, &row->hop)));
    if (row->hop.kind == HOP_NONE && !alone)
        decide(r, "%.*s: no mail is taken for it; with Postfix it went by %.*s", STR(row_name), STR(row->hop.what));
    if (class == CLASS_RELAY && r->parents_relay && !below) {
        str sub = str_printf(r->a, "*.%.*s", STR(domain));
        if (!row_named(r, sub)) {
            row = add_row(r, sub, class, e->file, e->line);
            pf_find_at(r->c, e->file, e->line, str_z(name), row->hop.kind == HOP_NONE ? DECIDE : TRANSLATED, "relay_domain %.*s: %.*s (parent_domain_matches_subdomains)",
                       STR(sub), STR(way_text(r, &row->hop)));
        }
    }
}

/* Keys of an alias or mailbox table that are no addresses name domains, when the domains' own list says "as that table". */
static void domains_of(struct relay *r, const char *name, enum domain_class class)
{
    struct pf_table t;
    bool preset = !pf_is_set(r->c, str_z(name));

    pf_names(r->c, name, &t);
    if (t.partial)
        decide(r, "%s: part of it could not be read; mail for the domains there is refused", name);
    for (size_t i = 0; i < t.n; i++) {
        bool from_table = preset && (class == CLASS_ALIAS || class == CLASS_MAILBOX);
        if (from_table && (str_findc(t.entry[i].key, '@') != STR_NONE || str_findc(t.entry[i].key, '.') == STR_NONE))
            continue;
        take_domain(r, name, class, &t.entry[i]);
    }
    struct pf_param *p = map_get(&r->c->by_name, str_z(name));
    if (p)
        pf_find(r->c, name, t.n ? t.partial ? PARTLY : TRANSLATED : NEEDLESS, t.n ? "each name is told of; %zu in all" : "it names no domain", t.n);
}

/* ---- transports of their own ---- */

str refusal(struct relay *r, const struct hop *h)
{
    str text = h->kind == HOP_NONE ? S("5.3.2 mail for it is not taken here") : str_head(h->what, 200);
    char *copy = str_cz(r->a, text);

    for (size_t i = 0; i < text.n; i++)
        if (ascii_control(copy[i]) || (unsigned char)copy[i] > 127 || strchr("\"\\$", copy[i]))
            copy[i] = '?';
    return text.n ? str_of(copy, text.n) : S("5.7.1 not taken here");
}

void rule_add(struct relay *r, str pattern, bool sender, struct hop hop)
{
    size_t dots = 0;

    for (size_t i = 0; i < pattern.n; i++)
        dots += pattern.p[i] == '.';
    bool address = str_findc(pattern, '@') != STR_NONE, below = str_starts(pattern, S("*."));
    GROW(r->a, r->rule, r->nrule, r->rule_cap);
    r->rule[r->nrule++] = (struct rule){ pattern, sender, hop, (sender ? 0 : 1000000) + (address ? 200000 : below ? 0 : 100000) + MIN(dots, 1000) };
}

/* An entry for one address. */
static void transport_address(struct relay *r, const struct pf_entry *e, struct hop hop)
{
    str address;

    if (!postfix_address(r->a, e->key, &address)) {
        pf_find_at(r->c, e->file, e->line, e->key, NOT_TRANSLATED, "this is no address");
        return;
    }
    if (hop.kind == HOP_ERROR || hop.kind == HOP_NONE) {
        GROW(r->a, r->refused.entry, r->refused.n, r->refused.cap);
        r->refused.entry[r->refused.n++] = (struct pf_entry){ address, refusal(r, &hop), e->file, e->line };
        if (hop.kind == HOP_NONE)
            decide(r, "%.*s: no mail is taken for it; with Postfix it went by %.*s", STR(address), STR(hop.what));
        pf_find_at(r->c, e->file, e->line, e->key, hop.kind == HOP_NONE ? DECIDE : TRANSLATED, "%.*s", STR(way_text(r, &hop)));
        return;
    }
    rule_add(r, address, false, hop);
    pf_find_at(r->c, e->file, e->line, e->key, TRANSLATED, "a route to %.*s", STR(way_text(r, &hop)));
}

static void transport_entry(struct relay *r, const struct pf_entry *e)
{
    str transport, nexthop, key = e->key;
    bool below = key.n > 1 && key.p[0] == '.';
    struct row *row;

    split_transport(e->value, &transport, &nexthop);
    if (str_eq(key, S("*")) || (transport.n == 0 && nexthop.n == 0)) {
        pf_find_at(r->c, e->file, e->line, key, transport.n || nexthop.n ? TRANSLATED : NEEDLESS, "%s", transport.n || nexthop.n ? "where mail goes that has no other way" : "as without it");
        return;
    }
    struct hop hop = hop_of(r, "transport_maps", e->file, e->line, transport.n ? transport : S("smtp"), nexthop);
    if (str_findc(key, '@') != STR_NONE) {
        transport_address(r, e, hop);
        return;
    }
    str pattern = below ? str_printf(r->a, "*%.*s", STR(key)) : key;
    if (!domain_valid(below ? str_from(key, 1) : key)) {
        pf_find_at(r->c, e->file, e->line, key, NOT_TRANSLATED, "this is no domain");
        return;
    }
    if ((row = row_named(r, pattern))) {
        pf_find_at(r->c, e->file, e->line, key, row->hop.kind == HOP_NONE ? DECIDE : TRANSLATED, "relay_domain %.*s: %.*s", STR(pattern), STR(way_text(r, &hop)));
        return;
    }
    if (hop.kind == HOP_ERROR || hop.kind == HOP_NONE) { /* what cannot be sent is refused */
        rule_add(r, pattern, false, hop);
        pf_find_at(r->c, e->file, e->line, key, hop.kind == HOP_NONE ? DECIDE : TRANSLATED, "%.*s", STR(way_text(r, &hop)));
        if (hop.kind == HOP_NONE)
            decide(r, "%.*s: no mail is taken for it; with Postfix it went by %.*s", STR(pattern), STR(hop.what));
        return;
    }
    rule_add(r, pattern, false, hop);
    pf_find_at(r->c, e->file, e->line, key, TRANSLATED, "a route: %.*s", STR(way_text(r, &hop)));
}

static void sender_entry(struct relay *r, const struct pf_entry *e)
{
    str key = e->key, pattern = key;
    struct hop hop = hop_of(r, "sender_dependent_relayhost_maps", e->file, e->line, S("smtp"), str_ieq(e->value, S("DUNNO")) ? S("") : e->value);

    if (str_eq(key, pf_value(r->c, "empty_address_relayhost_maps_lookup_key")))
        pattern = S("<>");
    else if (key.n > 1 && key.p[0] == '@' && domain_valid(str_from(key, 1)))
        pattern = str_from(key, 1);
    else if (str_findc(key, '@') == STR_NONE || !postfix_address(r->a, key, &pattern)) {
        pf_find_at(r->c, e->file, e->line, key, NOT_TRANSLATED, "this is no sender");
        return;
    }
    if (hop.kind == HOP_NONE) {
        pf_find_at(r->c, e->file, e->line, key, NOT_TRANSLATED, "%.*s", STR(hop.what));
        return;
    }
    rule_add(r, pattern, true, hop);
    pf_find_at(r->c, e->file, e->line, key, TRANSLATED, "a route for this sender: %.*s", STR(way_text(r, &hop)));
}

/* Ways of senders come before those of relay domains, so what transport_maps says of a domain becomes a route before them. */
static void rules_before_senders(struct relay *r)
{
    for (size_t i = 0; i < r->nrow; i++)
        if (r->row[i].explicit && (r->row[i].hop.kind == HOP_BACKEND || r->row[i].hop.kind == HOP_MX || r->row[i].hop.kind == HOP_DISCARD))
            rule_add(r, r->row[i].name, false, r->row[i].hop);
}

static bool list_has(str list, str word)
{
    str one;

    while (pf_word(&list, &one))
        if (str_eq(one, word))
            return true;
    return false;
}

void domains_read(struct relay *r)
{
    struct postfix_conf *c = r->c;
    str parents = pf_value(c, "parent_domain_matches_subdomains");

    r->parents_relay = list_has(parents, S("relay_domains"));
    r->parents_transport = list_has(parents, S("transport_maps"));
    if (pf_is_set(c, S("parent_domain_matches_subdomains")))
        pf_find(c, "parent_domain_matches_subdomains", TRANSLATED, "relay_domains %s subdomains, transport_maps %s", r->parents_relay ? "name their" : "do not name",
                r->parents_transport ? "do too" : "do not");
    pf_tables(c, "transport_maps", pf_value(c, "transport_maps"), &r->transport);
    pf_tables(c, "sender_dependent_relayhost_maps", pf_value(c, "sender_dependent_relayhost_maps"), &r->sender_relay);
    if (r->transport.partial)
        decide(r, "transport_maps: part of it could not be read; mail that it sent elsewhere goes the way of its domain");
    domains_of(r, "mydestination", CLASS_LOCAL);
    domains_of(r, "virtual_alias_domains", CLASS_ALIAS);
    domains_of(r, "virtual_mailbox_domains", CLASS_MAILBOX);
    domains_of(r, "relay_domains", CLASS_RELAY);
    for (size_t i = 0; i < r->transport.n; i++)
        transport_entry(r, &r->transport.entry[i]);
    for (size_t i = 0; i < r->sender_relay.n; i++)
        sender_entry(r, &r->sender_relay.entry[i]);
    if (r->sender_relay.n)
        rules_before_senders(r);
    hops_default(r);
    if (pf_is_set(c, S("transport_maps")))
        pf_find(c, "transport_maps", r->transport.partial ? PARTLY : TRANSLATED, "each entry is told of; %zu in all", r->transport.n);
    if (pf_is_set(c, S("sender_dependent_relayhost_maps")))
        pf_find(c, "sender_dependent_relayhost_maps", r->sender_relay.partial ? PARTLY : TRANSLATED, "each entry is told of; %zu in all", r->sender_relay.n);
}

/* ---- recipients ---- */

/* A list of who exists, from a table's keys. How many were left out is told one by one. */
static str list_of(struct relay *r, const struct pf_table *t, bool bare, size_t *taken)
{
    struct buf out = { .a = r->a };
    struct path p;

    *taken = 0;
    for (size_t i = 0; i < t->n; i++) {
        str key = t->entry[i].key, address = key;
        bool domain = key.p[0] == '@' && domain_valid(str_from(key, 1));
        bool fine = domain || (str_findc(key, '@') != STR_NONE ? postfix_address(r->a, key, &address) : bare && address_parse(str_printf(r->a, "%.*s@a.example", STR(key)), &p) == OK);
        if (!fine || str_findc(address, '*') != STR_NONE || address.n > 500) {
            pf_find_at(r->c, t->entry[i].file, t->entry[i].line, key, NOT_TRANSLATED, "%s", fine ? "* is a pattern in waypost's lists" : bare ? "this is no recipient" : "no address with a domain: it names nobody there");
            continue;
        }
        buf_addf(&out, "%.*s\n", STR(address));
        ++*taken;
    }
    return buf_str(&out);
}

/* "recipients ..." for a class: from its table, or whoever the servers know. */
static str recipients_of(struct relay *r, const char *name, enum domain_class class, const char *file, str *list)
{
    str value = pf_value(r->c, name);
    struct pf_table t;
    bool bare = class == CLASS_LOCAL;
    size_t n;

    if (value.n == 0) {
        if (r->callout)
            return S("{ callout }");
        pf_find(r->c, name, DECIDE, "not set: Postfix takes any recipient there, and so does \"recipients any\"; better name those who exist");
        return S("any");
    }
    pf_tables(r->c, name, value, &t);
    if (t.anything.p) {
        pf_find(r->c, name, DECIDE, "static: any recipient is taken, \"recipients any\"; better name those who exist");
        return S("any");
    }
    r->people[class] = t;
    *list = list_of(r, &t, bare, &n);
    if (t.partial || r->callout)
        *list = list->n ? *list : S("# see \"callout\"\n");
    pf_find(r->c, name, t.partial ? DECIDE : TRANSLATED, "%zu of %zu entries are in %s%s", n, t.n, file,
            t.partial ? "; whom it does not name the servers are asked (callout)" : "");
    return str_printf(r->a, "{ file %s%s }", file, t.partial || r->callout ? "; callout" : "");
}

void recipients_read(struct relay *r)
{
    static const char *const names[] = { "local_recipient_maps", NULL, "virtual_mailbox_maps", "relay_recipient_maps" };
    static const char *const files[] = { "local_users.txt", NULL, "mailboxes.txt", "relay_recipients.txt" };
    str *const lists[] = { &r->local_list, NULL, &r->mailbox_list, &r->relay_list };
    str text[4] = { { 0 } };

    for (size_t i = 0; i < r->nrow; i++) {
        struct row *row = &r->row[i];
        unsigned k = row->class;
        if (k == CLASS_LOCAL && row->hop.kind == HOP_NONE && !str_eq(pf_value(r->c, "local_recipient_maps"), pf_value(r->c, "alias_maps")))
            decide(r, "%.*s: users of this machine had their mailboxes here; waypost has none: which server takes their mail?", STR(row->name));
        if (row->hop.kind == HOP_ERROR || row->hop.kind == HOP_NONE || !names[k]) {
            row->recipients = S("{ file nobody.txt }");
            r->nobody = S("# Nobody: addresses of these domains are taken when they stand for others, in aliases.txt.\n");
            continue;
        }
        if (row->hop.kind == HOP_DISCARD && k == CLASS_RELAY && !pf_is_set(r->c, S("relay_recipient_maps"))) {
            row->recipients = S("any");
            continue;
        }
        if (!text[k].p)
            text[k] = recipients_of(r, names[k], row->class, files[k], lists[k]);
        row->recipients = text[k];
        size_t callout = str_find(text[k], S("callout"));
        bool relayhost = !row->explicit && str_eq(row->hop.backend, r->fallback.backend);
        if (callout != STR_NONE && (row->hop.kind != HOP_BACKEND || relayhost)) { /* only a domain's own servers may be asked */
            bool only = lists[k]->p == NULL;
            row->recipients = only ? S("{ file nobody.txt }") : str_printf(r->a, "{ file %s }", files[k]);
            if (only)
                r->nobody = S("# Nobody.\n");
            decide(r, "%.*s: who exists there is not known and cannot be asked by callout: mail for others is refused", STR(row->name));
        }
    }
    for (size_t k = 0; k < COUNT(names); k++)
        if (names[k] && pf_is_set(r->c, str_z(names[k])) && !text[k].p)
            pf_find(r->c, names[k], NEEDLESS, "no domain here asks for it");
}
