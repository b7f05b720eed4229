/* The whole translation in order, and what comes of it as text. */
#include "cli/import_inside.h"

#include "mail/mail.h"

#include <stdio.h>
#include <stdlib.h>

#define NAMES_MOST 5000         /* of one relay_domain */

void decide(struct relay *r, const char *fmt, ...)
{
    char text[512];
    va_list args;

    va_start(args, fmt);
    int n = vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    n = MIN(MAX(n, 0), (int)sizeof text - 1);
    for (int i = 0; i < n; i++)         /* a comment of one line, in UTF-8 */
        if (ascii_control(text[i]) || (unsigned char)text[i] > 127)
            text[i] = '?';
    str line = str_printf(r->a, "# DECIDE: %.*s\n", n, text);
    if (!str_has(buf_str(&r->decisions), line))
        buf_add(&r->decisions, line);
}

/* ---- names ---- */

/* myorigin may name a file (Debian: /etc/mailname). */
static str origin_of(struct relay *r)
{
    str value = pf_value(r->c, "myorigin");
    char line[256];

    if (value.n == 0 || value.p[0] != '/')
        return str_lower(r->a, value);
    FILE *f = fopen(str_cz(r->a, pf_path(r->c, value)), "re");
    str got = f && fgets(line, sizeof line, f) ? str_trim(str_z(line)) : S("");
    if (f)
        fclose(f);
    return str_lower(r->a, domain_valid(got) ? got : r->myhostname);
}

static void names_read(struct relay *r)
{
    r->myhostname = str_lower(r->a, pf_value(r->c, "myhostname"));
    r->mydomain = str_lower(r->a, pf_value(r->c, "mydomain"));
    r->myorigin = origin_of(r);
    if (!domain_valid(r->myhostname)) {
        pf_find(r->c, "myhostname", DECIDE, "\"%.*s\" is no host name", STR(r->myhostname));
        decide(r, "hostname: what does DNS call this machine?");
        r->myhostname = S("localhost.localdomain");
    } else if (!pf_is_set(r->c, S("myhostname")))
        pf_find(r->c, "myhostname", DECIDE, "not set: the name of the machine on which this import runs, %.*s", STR(r->myhostname));
    if (!domain_valid(r->mydomain))
        r->mydomain = r->myhostname;
    if (!domain_valid(r->myorigin)) {
        pf_find(r->c, "myorigin", NOT_TRANSLATED, "\"%.*s\" is no domain", STR(r->myorigin));
        r->myorigin = r->myhostname;
    }
}

static str domain_of(str address)
{
    size_t at = address.n;

    while (at && address.p[at - 1] != '@')
        at--;
    return str_from(address, at);
}

/* Whoever reads postmaster's mail now; unless it is said, postmaster at a domain that is taken here. */
static str postmaster_of(struct relay *r)
{
    static const char *const names[] = { "postmaster", "root" };
    str domain = { 0 };

    for (size_t k = 0; k < COUNT(names); k++)
        for (size_t i = 0; i < r->nalias; i++) {
            const struct alias *al = &r->alias[i];
            const struct row *row;
            str first = str_trim(str_head(al->targets, MIN(str_findc(al->targets, ','), al->targets.n)));
            if (!str_starts(al->key, str_printf(r->a, "%s@", names[k])) || first.n == 0 || first.p[0] == '@')
                continue;
            row = row_for(r, domain_of(first));
            if (row ? !str_has(row->recipients, S("nobody.txt")) : r->fallback.kind == HOP_BACKEND || r->fallback.kind == HOP_MX) {
                pf_find_at(r->c, al->file, al->line, al->key, TRANSLATED, "postmaster %.*s", STR(first));
                return first;
            }
        }
    for (size_t i = 0; i < r->nrow && !domain.n; i++)
        if (r->row[i].name.p[0] != '*' && !str_has(r->row[i].recipients, S("nobody.txt")))
            domain = r->row[i].name;
    if (!domain.n)
        domain = r->mydomain;
    decide(r, "postmaster: who reads what is sent to <postmaster>? postmaster@%.*s is a guess", STR(domain));
    pf_find_at(r->c, S(""), 0, S("postmaster"), DECIDE, "no alias says who it is: postmaster@%.*s is a guess", STR(domain));
    return str_printf(r->a, "postmaster@%.*s", STR(domain));
}

/* ---- blocks ---- */

static str via(struct relay *r, const struct hop *h)
{
    if (h->kind == HOP_ERROR || h->kind == HOP_NONE)
        return str_printf(r->a, "bounce \"%.*s\"", STR(refusal(r, h)));
    return h->kind == HOP_BACKEND ? h->backend : h->kind == HOP_DISCARD ? S("discard") : S("mx");
}

static void write_backends(struct relay *r, struct buf *out)
{
    for (size_t i = 0; i < r->nsource; i++)
        if (r->source[i].addresses.n)
            buf_addf(out, "source %.*s%.*s%s%.*s\n", STR(r->source[i].name), STR(r->source[i].addresses), r->source[i].helo.n ? " helo " : "", STR(r->source[i].helo));
    bool soft = pf_yes(r->c, "soft_bounce"), source = r->nsource && r->source[0].addresses.n;
    if (soft)
        pf_find(r->c, "soft_bounce", PARTLY, "soft_bounce in each backend: what next hops refuse is kept; what is refused here is still a 5xx");
    if (soft || source)         /* what goes by MX */
        buf_addf(out, "backend mx {%s%.*s%s }\n", source ? " source " : "", STR(source ? r->source[0].name : S("")), soft ? source ? "; soft_bounce on" : " soft_bounce on" : "");
    for (size_t i = 0; i < r->nbackend; i++) {
        const struct backend_out *b = &r->backend[i];
        buf_addf(out, "backend %.*s {\n%.*s", STR(b->name), STR(b->servers));
        if (b->connections)
            buf_addf(out, "    max_connections %llu per server\n", (unsigned long long)b->connections);
        if (soft)
            buf_add(out, S("    soft_bounce on\n"));
        if (b->per_hour)
            buf_addf(out, "    rate %llu/h\n", (unsigned long long)b->per_hour);
        if (b->connect)
            buf_addf(out, "    connect_timeout %llus\n", (unsigned long long)(b->connect / SECOND));
        if (b->source.n)
            buf_addf(out, "    source %.*s\n", STR(b->source));
        buf_add(out, S("}\n"));
    }
    if (r->nbackend)
        buf_addc(out, '\n');
}

/* Where nobody is, nothing goes. */
static str row_via(const struct row *row)
{
    return row->hop.kind == HOP_BACKEND ? row->hop.backend : row->hop.kind == HOP_DISCARD ? S("discard") : S("mx");
}

static bool same_block(const struct row *a, const struct row *b)
{
    return str_eq(row_via(a), row_via(b)) && str_eq(a->recipients, b->recipients) && str_eq(a->copy, b->copy);
}

/* Postfix' smtp(8) knows a last resort, its lmtp(8) does not; and nothing falls back on itself. */
static bool falls_back(const struct relay *r, const struct hop *h)
{
    for (size_t i = 0; h->kind == HOP_BACKEND && i < r->nbackend; i++)
        if (str_eq(r->backend[i].name, h->backend))
            return !r->backend[i].lmtp && !str_eq(h->backend, r->last_resort);
    return h->kind == HOP_MX;
}

static void write_rows(struct relay *r, struct buf *out)
{
    for (size_t i = 0; i < r->nrow; i++) {
        struct row *row = &r->row[i];
        if (row->written)
            continue;
        size_t n = 0;
        buf_add(out, S("relay_domain"));
        for (size_t k = i; k < r->nrow && n < NAMES_MOST; k++)
            if (!r->row[k].written && same_block(row, &r->row[k])) {
                buf_addf(out, " %.*s", STR(r->row[k].name));
                r->row[k].written = true;
                n++;
            }
        buf_addf(out, " {\n    backend    %.*s\n    recipients %.*s\n", STR(row_via(row)), STR(row->recipients));
        if (r->last_resort.n && falls_back(r, &row->hop))
            buf_addf(out, "    fallback   %.*s after 0s\n", STR(r->last_resort));
        if (row->copy.n)
            buf_addf(out, "    copy_to    %.*s\n", STR(row->copy));
        buf_add(out, S("}\n"));
    }
}

static int by_weight(const void *a, const void *b)
{
    const struct rule *x = a, *y = b;
    int order = (x->weight < y->weight) - (x->weight > y->weight);
    return order ? order : str_cmp(x->pattern, y->pattern);
}

/* As one word of our form. */
static str word_of(struct relay *r, str s)
{
    struct buf out = buf_in(r->a, s.n + 8);
    bool bare = s.n > 0;

    for (size_t i = 0; i < s.n; i++)
        bare &= s.p[i] > ' ' && s.p[i] != 127 && !strchr("\"{};[]#$<>", s.p[i]);
    if (bare)
        return s;
    buf_addc(&out, '"');
    for (size_t i = 0; i < s.n; i++) {
        if (strchr("\"\\$", s.p[i]))
            buf_addc(&out, '\\');
        buf_addc(&out, s.p[i]);
    }
    buf_addc(&out, '"');
    return buf_str(&out);
}

static void write_rules(struct relay *r, struct buf *out)
{
    if (r->nrule)
        qsort(r->rule, r->nrule, sizeof *r->rule, by_weight);
    for (size_t i = 0; i < r->nrule; i++) {
        const struct rule *u = &r->rule[i];
        buf_addf(out, "route %s%zu { %s %.*s; via %.*s }\n", u->sender ? "sender" : "transport", i + 1, u->sender ? "from" : "to",
                 STR(word_of(r, u->pattern)), STR(via(r, &u->hop)));
    }
    if (r->fallback.kind == HOP_BACKEND || r->fallback.kind == HOP_MX || r->fallback.kind == HOP_DISCARD)
        buf_addf(out, r->last_resort.n && falls_back(r, &r->fallback) ? "route default { via %.*s; fallback %.*s after 0s }\n" : "route default { via %.*s }\n",
                 STR(via(r, &r->fallback)), STR(r->last_resort));
}

/* Strangers cannot send here, and a relay_domain is for everybody: as ways only, its mail is for clients of a network. */
static void rows_as_rules(struct relay *r)
{
    if (r->strangers || r->nrow == 0)
        return;
    decide(r, "strangers could send nothing to this Postfix, so its domains became routes for clients of the networks; aliases and lists of recipients do not count for them");
    for (size_t i = 0; i < r->nrow; i++) {
        struct hop hop = r->row[i].hop;
        if (r->row[i].class == CLASS_ALIAS)
            hop = (struct hop){ .kind = HOP_NONE };     /* its aliases are lost */
        rule_add(r, r->row[i].name, false, hop);
    }
    r->nrow = r->nalias = 0;
    r->nobody = r->relay_list = r->mailbox_list = r->local_list = (str){ 0 };
}

static void add_file(struct made *m, const char *name, str text)
{
    if (text.p)
        m->file[m->nfile++] = (struct made_file){ str_z(name), text };
}

static str alias_list(struct relay *r)
{
    struct buf out = { .a = r->a };

    for (size_t i = 0; i < r->nalias; i++)
        if (r->alias[i].targets.n)
            buf_addf(&out, "%.*s  %.*s\n", STR(r->alias[i].key), STR(r->alias[i].targets));
    return out.n ? buf_str(&out) : (str){ 0 };
}

/* ---- all ---- */

static void read_all(struct relay *r)
{
    names_read(r);
    sources_read(r);
    restrictions_read(r);
    domains_read(r);
    recipients_read(r);
    aliases_read(r);
    clients_read(r);
    if (pf_value(r->c, "recipient_delimiter").n == 0)
        pf_find(r->c, "recipient_delimiter", PARTLY, "empty: waypost finds user+anything as user all the same");
    else
        pf_find(r->c, "recipient_delimiter", str_eq(pf_value(r->c, "recipient_delimiter"), S("+")) ? TRANSLATED : PARTLY,
                "user+anything is found as user, always and by + only; an alias does not hand the part behind + on");
    if (pf_value(r->c, "content_filter").n)
        decide(r, "mail was passed to the content filter %.*s and is not now: put waypost behind the filter, or the filter before it",
               STR(pf_value(r->c, "content_filter")));
}

void pf_translate(struct postfix_conf *c, struct made *ret)
{
    struct relay r = { .c = c, .a = c->a, .decisions = { .a = c->a }, .alias_by_key = { .fold = true }, .row_by_name = { .fold = true } };
    struct buf out = { .a = c->a }, facts = { .a = c->a };

    *ret = (struct made){ 0 };
    read_all(&r);
    str postmaster = postmaster_of(&r);
    rows_as_rules(&r);
    facts_write(&r, &facts);
    str aliases = alias_list(&r);

    buf_add(&out, S("# Made from a Postfix configuration by `waypost import postfix`, whose report tells what became of each line.\n"));
    buf_add(&out, buf_str(&r.decisions));
    buf_addf(&out, "waypost 1\n\nhostname   %.*s\npostmaster %.*s\nlisten smtp%.*s\n\n", STR(r.myhostname), STR(word_of(&r, postmaster)), STR(r.listen));
    if (r.own.n)
        buf_addf(&out, "own { addresses%.*s }\n", STR(r.own));
    buf_add(&out, S("spool { dir /var/lib/waypost/spool"));
    uint64_t free_bytes;
    if (pf_is_set(c, S("queue_minfree")) && str_u64(pf_value(c, "queue_minfree"), INT64_MAX / 2, &free_bytes) && free_bytes) {
        buf_addf(&out, "; min_free %llu", (unsigned long long)free_bytes);
        pf_find(c, "queue_minfree", TRANSLATED, "spool { min_free %llu }", (unsigned long long)free_bytes);
    }
    buf_add(&out, S(" }\ncontrol /run/waypost/control.sock\n\n"));
    buf_add(&out, buf_str(&facts));
    buf_addc(&out, '\n');
    write_backends(&r, &out);
    if (aliases.p)
        buf_add(&out, S("alias { file aliases.txt }\n"));
    write_rows(&r, &out);
    if (r.networks.n && (r.fallback.kind == HOP_BACKEND || r.fallback.kind == HOP_MX || r.fallback.kind == HOP_DISCARD || r.nrule))
        buf_addf(&out, "network mynetworks %.*s {\n    relay_from %.*s\n}\n", STR(r.networks), STR(r.relay_from));
    write_rules(&r, &out);
    facts_rest(&r);
    ret->config = buf_str(&out);
    str rest = buf_str(&r.decisions), line;
    while (str_cut(&rest, S("\n"), &line))
        ret->decisions += line.n > 0;
    add_file(ret, "aliases.txt", aliases);
    add_file(ret, "relay_recipients.txt", r.relay_list);
    add_file(ret, "mailboxes.txt", r.mailbox_list);
    add_file(ret, "local_users.txt", r.local_list);
    add_file(ret, "nobody.txt", r.nobody);
    map_free(&r.alias_by_key);
    map_free(&r.row_by_name);
}
