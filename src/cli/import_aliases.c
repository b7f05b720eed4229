/* Addresses that stand for others: virtual_alias_maps, alias_maps, and copies. */
#include "cli/import_inside.h"

#include "mail/mail.h"

#define LINE_MOST 1000          /* of one of our lists */

/* Tables have addresses unquoted, or with quotes when blanks are in them: as SMTP has them. */
bool postfix_address(arena *a, str s, str *ret)
{
    struct path p;
    size_t at = s.n;

    while (at && s.p[at - 1] != '@')
        at--;
    if (at < 2 || at == s.n || s.n > 500)
        return false;
    *ret = s;
    if (address_parse(s, &p) == OK)
        return true;
    struct buf out = buf_in(a, s.n + 8);
    buf_addc(&out, '"');
    for (size_t i = 0; i < at - 1; i++) {
        if (s.p[i] == '"' || s.p[i] == '\\')
            buf_addc(&out, '\\');
        buf_addc(&out, s.p[i]);
    }
    buf_addf(&out, "\"%.*s", STR(str_from(s, at - 1)));
    *ret = buf_str(&out);
    return address_parse(*ret, &p) == OK;
}

/* ---- targets ---- */

/* The next of a list with commas or blanks between; a quoted part is one. */
static bool next_target(str *rest, str *ret)
{
    size_t i = 0;
    bool quoted = false;

    while (rest->n && strchr(" \t,", rest->p[0]))
        *rest = str_from(*rest, 1);
    if (rest->n == 0)
        return false;
    for (; i < rest->n && (quoted || !strchr(" \t,", rest->p[i])); i++) {
        if (rest->p[i] == '\\' && i + 1 < rest->n)
            i++;
        else if (rest->p[i] == '"')
            quoted = !quoted;
    }
    *ret = str_head(*rest, i);
    *rest = str_from(*rest, i);
    if (ret->n > 2 && ret->p[0] == '<' && ret->p[ret->n - 1] == '>')
        *ret = str_of(ret->p + 1, ret->n - 2);
    return true;
}

static void join(struct buf *out, str target)
{
    buf_addf(out, out->n ? ", %.*s" : "%.*s", STR(target));
}

/* What an entry leads to, each with a domain. `home`: that of names without one. */
static str targets_of(struct relay *r, const struct pf_entry *e, str home)
{
    struct buf out = buf_in(r->a, e->value.n + 40);
    str rest = e->value, word, address;

    while (next_target(&rest, &word)) {
        if (word.n && word.p[0] == '\\')
            word = str_from(word, 1);
        if (word.n == 0 || strchr("|/:", word.p[0]) || str_starts(word, S("\"|")) || str_starts(word, S("\"/")))
            pf_find_at(r->c, e->file, e->line, e->key, NOT_TRANSLATED, "%.*s: waypost runs no program, writes no file and reads no list of addresses here", STR(word));
        else if (word.p[0] == '@' && domain_valid(str_from(word, 1)))
            join(&out, word);
        else if (str_findc(word, '@') == STR_NONE && postfix_address(r->a, str_printf(r->a, "%.*s@%.*s", STR(word), STR(home)), &address))
            join(&out, address);
        else if (postfix_address(r->a, word, &address))
            join(&out, address);
        else
            pf_find_at(r->c, e->file, e->line, e->key, NOT_TRANSLATED, "\"%.*s\" is no address", STR(word));
    }
    return buf_str(&out);
}

/* ---- the list ---- */

static struct alias *find_alias(const struct relay *r, str key)
{
    size_t at = (size_t)(uintptr_t)map_get(&r->alias_by_key, key);
    return at ? &r->alias[at - 1] : NULL;
}

static void put_alias(struct relay *r, str key, str targets, str file, unsigned line, bool over)
{
    struct alias *before = find_alias(r, key);

    if (before) {               /* the first of equals counts, as with Postfix */
        if (over)
            before->targets = targets;
        return;
    }
    GROW(r->a, r->alias, r->nalias, r->alias_cap);
    r->alias[r->nalias++] = (struct alias){ str_lower(r->a, key), targets, file, line };
    map_put(&r->alias_by_key, r->alias[r->nalias - 1].key, (void *)(uintptr_t)r->nalias);
}

static str domain_of(str address)
{
    size_t at = address.n;

    while (at && address.p[at - 1] != '@')
        at--;
    return str_from(address, at);
}

/* A key without a domain: a user of myorigin and of each local domain (virtual(5)). */
static void put_bare(struct relay *r, const struct pf_entry *e, str targets)
{
    size_t n = 0;

    for (size_t i = 0; i < r->nrow; i++) {
        str address;
        if (r->row[i].name.p[0] == '*' || (r->row[i].class != CLASS_LOCAL && !str_ieq(r->row[i].name, r->myorigin)))
            continue;
        if (postfix_address(r->a, str_printf(r->a, "%.*s@%.*s", STR(e->key), STR(r->row[i].name)), &address)) {
            put_alias(r, address, targets, e->file, e->line, false);
            n++;
        }
    }
    if (n == 0)
        pf_find_at(r->c, e->file, e->line, e->key, NOT_TRANSLATED, "a name of this machine, which takes no mail of its own now");
}

static void take_virtual(struct relay *r, const struct pf_entry *e)
{
    str key = e->key, address;

    if (str_findc(key, '@') == STR_NONE && row_named(r, key) && row_named(r, key)->class == CLASS_ALIAS)
        return;                 /* names a virtual alias domain */
    str targets = targets_of(r, e, r->myorigin);
    if (targets.n == 0)
        return;
    if (str_findc(key, '@') == STR_NONE) {
        put_bare(r, e, targets);
        return;
    }
    bool all = key.p[0] == '@' && domain_valid(str_from(key, 1));
    if (all)
        address = key;
    else if (!postfix_address(r->a, key, &address) || str_findc(key, '*') != STR_NONE) {
        pf_find_at(r->c, e->file, e->line, key, NOT_TRANSLATED, "no address that a list of waypost can have");
        return;
    }
    if (!row_for(r, domain_of(address)))
        pf_find_at(r->c, e->file, e->line, key, NOT_TRANSLATED, "waypost puts others in place of recipients at its own domains only, and %.*s is none", STR(domain_of(address)));
    else
        put_alias(r, address, targets, e->file, e->line, false);
}

static void take_local(struct relay *r, const struct pf_entry *e)
{
    for (size_t i = 0; i < r->nrow; i++) {
        const struct row *row = &r->row[i];
        str address;
        if (row->class != CLASS_LOCAL || row->name.p[0] == '*')
            continue;
        const struct row *home = row_named(r, r->myorigin);
        str targets = targets_of(r, e, home && home->class == CLASS_LOCAL ? row->name : r->myorigin);
        if (targets.n && postfix_address(r->a, str_printf(r->a, "%.*s@%.*s", STR(e->key), STR(row->name)), &address))
            put_alias(r, address, targets, e->file, e->line, false);
    }
}

static bool is_bounce(str targets) { return str_starts(targets, S("bounce:")); }

/* Who stands in no list of a domain here is left out of what an alias stands for; Postfix does not ask. */
static bool is_listed(const struct relay *r, const struct row *row, str target)
{
    const struct pf_table *t = &r->people[row->class];
    str domain = domain_of(target), local = str_head(target, target.n - domain.n - 1);
    size_t plus = str_findc(local, '+');

    if (!str_starts(row->recipients, S("{ file")) || str_has(row->recipients, S("callout")))
        return true;
    if (plus != STR_NONE && plus > 0)
        local = str_head(local, plus);
    return pf_look(t, target) || pf_look(t, str_printf(r->a, "%.*s@%.*s", STR(local), STR(domain))) || pf_look(t, str_printf(r->a, "@%.*s", STR(domain)))
           || (row->class == CLASS_LOCAL && pf_look(t, local));
}

static bool has_alias(const struct relay *r, str target)
{
    return find_alias(r, str_lower(r->a, target)) || find_alias(r, str_lower(r->a, str_printf(r->a, "@%.*s", STR(domain_of(target)))));
}

static void tell_unlisted(struct relay *r)
{
    for (size_t i = 0; i < r->nalias; i++) {
        str rest = r->alias[i].targets, word;
        while (!is_bounce(rest) && next_target(&rest, &word)) {
            const struct row *row = row_for(r, domain_of(word));
            if (row && word.p[0] != '@' && !str_has(row->recipients, S("nobody.txt")) && !is_listed(r, row, word) && !has_alias(r, word))
                pf_find_at(r->c, r->alias[i].file, r->alias[i].line, r->alias[i].key, DECIDE,
                           "%.*s stands in no list of its domain: Postfix does not ask, waypost leaves it out; add it to the list", STR(word));
        }
    }
}

/* Does anything take this in the end? */
static bool leads_on(const struct relay *r, str target, str key)
{
    const struct row *row = row_for(r, domain_of(target));

    if (target.p[0] == '@' || !row || !str_has(row->recipients, S("nobody.txt")))
        return true;
    if (str_ieq(target, key))
        return false;
    return has_alias(r, target);
}

/* Mailboxes of this machine are no more: what leads there leads nowhere. */
static void prune(struct relay *r)
{
    bool again = true;

    for (unsigned pass = 0; again && pass < 20; pass++) {
        again = false;
        for (size_t i = 0; i < r->nalias; i++) {
            struct alias *al = &r->alias[i];
            struct buf out = buf_in(r->a, al->targets.n);
            str rest = al->targets, word;
            if (is_bounce(rest))
                continue;
            while (next_target(&rest, &word)) {
                if (leads_on(r, word, al->key)) {
                    join(&out, word);
                    continue;
                }
                const struct row *row = row_for(r, domain_of(word));
                pf_find_at(r->c, al->file, al->line, al->key, row->class == CLASS_LOCAL ? DECIDE : NOT_TRANSLATED,
                           row->class == CLASS_LOCAL ? "%.*s is a mailbox of this machine: waypost delivers to none, say where that mail should go"
                                                     : "%.*s: nobody of that name is there", STR(word));
                again = true;
            }
            if (out.n == al->targets.n)
                continue;
            al->targets = buf_str(&out);
            if (out.n == 0)
                map_del(&r->alias_by_key, al->key);
        }
    }
}

/* ---- copies ---- */

static void take_bcc(struct relay *r)
{
    struct pf_table t;
    str all = pf_value(r->c, "always_bcc"), address;

    if (all.n) {
        bool fine = postfix_address(r->a, str_findc(all, '@') == STR_NONE ? str_printf(r->a, "%.*s@%.*s", STR(all), STR(r->myorigin)) : all, &address);
        for (size_t i = 0; fine && i < r->nrow; i++)
            r->row[i].copy = address;
        pf_find(r->c, "always_bcc", fine ? PARTLY : NOT_TRANSLATED, "%s", fine ? "copy_to in each relay_domain; mail that goes out to others is not copied" : "this is no address");
    }
    if (!pf_is_set(r->c, S("recipient_bcc_maps")))
        return;
    pf_tables(r->c, "recipient_bcc_maps", pf_value(r->c, "recipient_bcc_maps"), &t);
    for (size_t i = 0; i < t.n; i++) {
        const struct pf_entry *e = &t.entry[i];
        str key;
        struct row *row = e->key.p[0] == '@' ? row_named(r, str_from(e->key, 1)) : NULL;
        str to = targets_of(r, e, r->myorigin);
        if (row && to.n) {
            row->copy = row->copy.n ? str_printf(r->a, "%.*s %.*s", STR(row->copy), STR(to)) : to;
            pf_find_at(r->c, e->file, e->line, e->key, TRANSLATED, "copy_to %.*s", STR(to));
        } else if (to.n && e->key.p[0] != '@' && postfix_address(r->a, e->key, &key) && row_for(r, domain_of(key))) {
            struct alias *al = find_alias(r, key);
            put_alias(r, key, str_printf(r->a, "%.*s, %.*s", STR(al ? al->targets : key), STR(to)), e->file, e->line, true);
            pf_find_at(r->c, e->file, e->line, e->key, TRANSLATED, "an alias for itself and %.*s", STR(to));
        } else
            pf_find_at(r->c, e->file, e->line, e->key, NOT_TRANSLATED, "copies are made of mail to domains here only");
    }
    pf_find(r->c, "recipient_bcc_maps", t.partial ? PARTLY : TRANSLATED, "each entry is told of; %zu in all", t.n);
}

/* ---- who is refused ---- */

static void refuse_entry(struct relay *r, const struct pf_entry *e, bool over)
{
    const struct row *row = row_for(r, domain_of(e->key));

    if (row)
        put_alias(r, e->key, str_printf(r->a, "bounce:%.*s", STR(e->value)), e->file, e->line, over);
    else
        rule_add(r, e->key, false, (struct hop){ .kind = HOP_ERROR, .what = e->value });
}

/* relocated(5): who is gone, and where to. */
static void take_relocated(struct relay *r)
{
    struct pf_table t;
    size_t n = 0;

    if (!pf_is_set(r->c, S("relocated_maps")))
        return;
    pf_tables(r->c, "relocated_maps", pf_value(r->c, "relocated_maps"), &t);
    for (size_t i = 0; i < t.n; i++) {
        const struct pf_entry *e = &t.entry[i];
        struct hop moved = { .kind = HOP_ERROR, .what = str_printf(r->a, "5.1.6 moved to %.*s", STR(e->value)) };
        str address = e->key;
        bool all = e->key.p[0] == '@' && domain_valid(str_from(e->key, 1));
        if ((all || postfix_address(r->a, e->key, &address)) && str_findc(address, '*') == STR_NONE && row_for(r, domain_of(address))) {
            put_alias(r, address, str_printf(r->a, "bounce:%.*s", STR(refusal(r, &moved))), e->file, e->line, true);
            n++;
        } else
            pf_find_at(r->c, e->file, e->line, e->key, NOT_TRANSLATED, "no address at a domain here");
    }
    pf_find(r->c, "relocated_maps", t.partial || n < t.n ? PARTLY : TRANSLATED, "%zu of %zu entries are refusals in aliases.txt", n, t.n);
}

static void take_refused(struct relay *r)
{
    for (size_t i = 0; i < r->refused.n; i++)
        refuse_entry(r, &r->refused.entry[i], false);
    for (size_t i = 0; i < r->nrow; i++) {      /* what error: says of a whole domain */
        const struct row *row = &r->row[i];
        str key = str_printf(r->a, "@%.*s", STR(row->name));
        if (row->hop.kind == HOP_ERROR && row->explicit && row->hop.what.n)
            put_alias(r, key, str_printf(r->a, "bounce:%.*s", STR(refusal(r, &row->hop))), row->file, row->line, false);
    }
    take_relocated(r);
    for (size_t i = 0; i < r->access.n; i++)
        refuse_entry(r, &r->access.entry[i], true);
}

void aliases_read(struct relay *r)
{
    struct postfix_conf *c = r->c;
    str transport, nexthop;
    size_t taken = 0;

    pf_tables(c, "virtual_alias_maps", pf_value(c, "virtual_alias_maps"), &r->virtual);
    for (size_t i = 0; i < r->virtual.n; i++)
        take_virtual(r, &r->virtual.entry[i]);
    if (r->virtual.anything.p)
        pf_find(c, "virtual_alias_maps", NOT_TRANSLATED, "static: all recipients in one place");
    split_transport(pf_value(c, "local_transport"), &transport, &nexthop);
    bool local = false;
    for (size_t i = 0; i < r->nrow; i++)
        local |= r->row[i].class == CLASS_LOCAL;
    if (local && str_eq(service_kind(r, transport), S("local"))) {
        pf_tables(c, "alias_maps", pf_value(c, "alias_maps"), &r->local_alias);
        for (size_t i = 0; i < r->local_alias.n; i++)
            take_local(r, &r->local_alias.entry[i]);
        pf_find(c, "alias_maps", r->local_alias.partial ? PARTLY : TRANSLATED, "%zu entries, for the domains of mydestination", r->local_alias.n);
    } else if (pf_is_set(c, S("alias_maps")))
        pf_find(c, "alias_maps", NEEDLESS, "no domain here asks for it");
    take_bcc(r);
    take_refused(r);
    prune(r);
    tell_unlisted(r);
    for (size_t i = 0; i < r->nalias; i++) {
        struct alias *al = &r->alias[i];
        if (al->key.n + al->targets.n > LINE_MOST) {
            pf_find_at(c, al->file, al->line, al->key, DECIDE, "it stands for more than a line of %d octets can hold: not translated", LINE_MOST);
            al->targets = S("");
        }
        taken += al->targets.n > 0;
    }
    if (pf_is_set(c, S("virtual_alias_maps")))
        pf_find(c, "virtual_alias_maps", r->virtual.partial ? PARTLY : TRANSLATED, "aliases.txt has %zu entries in all", taken);
    if (r->virtual.partial)
        decide(r, "virtual_alias_maps: part of it could not be read; who stands only there is refused, or gets the mail itself");
}
