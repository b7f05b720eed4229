/* What waypost.conf says about who exists in a relay domain. */
#include "route/inside.h"

#include <errno.h>
#include <unistd.h>

#define LIST_MOST 20000000      /* entries of a file */

static void add_table(struct binder *b, struct recipients *r, struct table *t, str path)
{
    r->path = append(b->a, r->path, r->ntable, sizeof *r->path);
    r->path[r->ntable] = path;
    APPEND(b->a, r->table, r->ntable, t);
}

static void needs_file(struct binder *b, struct recipients *r, const struct node *node, str file)
{
    if (file.n == 0)
        return;
    APPEND(b->a, r->file.p, r->file.n, file);
    if (access(str_cz(b->a, file), R_OK) != 0)
        conf_error(b, &node->name.at, CONF_E_BAD_SOURCE, "%.*s: %s", STR(file), strerrordesc_np(errno));
}

/* ---- what is common to all that is asked ---- */

/* cache TIME [negative TIME], from argument `from` on */
static void take_cache_at(struct binder *b, const struct node *node, size_t from, struct keeping *k)
{
    static const char *const words[] = { "negative", NULL };
    const struct token *negative[1] = { NULL };

    if (node->narg <= from)
        conf_error(b, &node->name.at, CONF_E_KEYWORD, "\"cache\" is followed by a time, as in: cache 24h negative 1h");
    else if (conf_time(b, &node->arg[from], &k->cache) && conf_keywords(b, node, from + 1, words, negative) && negative[0])
        conf_time(b, negative[0], &k->negative);
    if (k->cache > 30 * DAY || k->negative > DAY)
        conf_error(b, &node->name.at, CONF_E_RANGE, "what is found is kept at most 30d, what is not at most 1d");
}

static void take_cache(struct binder *b, const struct node *node, void *into) { take_cache_at(b, node, 0, into); }

#define KEEP(of, member, field) .offset = offsetof(of, member) + offsetof(struct keeping, field)
#define KEEPING_SETTINGS(of, member) \
    { .name = "stale", .type = CONF_TIME, KEEP(of, member, stale), .preset = "1d", .least = 0, .most = 86400 * 30, \
      .help = "How much longer an address that was found counts as found while the source cannot be asked." }, \
    { .name = "timeout", .type = CONF_TIME, KEEP(of, member, timeout), .preset = "10s", .least = 1, .most = 60, \
      .help = "Most that one look-up may take; after it the client is asked to try later." }, \
    { .name = "entries", .type = CONF_INT, KEEP(of, member, entries), .preset = "100k", .least = 100, .most = 10e6, \
      .help = "Most answers kept in memory, some 200 octets each." }

/* CONF_OWN gets the outermost struct: where its keeping lies. */
#define TAKE_CACHE(name_, type, member) \
    static void name_(struct binder *b, const struct node *node, void *into) { take_cache(b, node, &((type *)into)->member); }

#define CACHE_SETTING(take_, default_) \
    { .name = "cache", .type = CONF_OWN, .take = (take_), .form = "TIME [negative TIME]", \
      .help = "How long it is believed that an address is there, and that it is not; unless given, " default_ "." }

/* ---- file ---- */

void list_kept_warn(struct binder *b, const struct node *node, const struct table *t)
{
    if (table_kept(t).n)
        conf_warn(b, &node->arg[0].at, CONF_E_BAD_LIST, "%.*s: the list stays as it was read before, with %zu entries", STR(table_kept(t)), table_count(t));
}

static void take_list(struct binder *b, const struct node *node, void *into)
{
    str path;
    struct table *t;

    if (!conf_args(b, node, 1, 1) || !conf_path(b, &node->arg[0], &path))
        return;
    if (table_file_open(path, '+', LIST_MOST, &t) != OK)
        conf_error(b, &node->arg[0].at, CONF_E_BAD_LIST, "%.*s", STR(err_text()));
    else {
        list_kept_warn(b, node, t);
        add_table(b, into, t, path);
    }
}

/* ---- sqlite ---- */

TAKE_CACHE(sqlite_cache, struct sqlite_setup, keep)
static const struct setting sqlite_settings[] = {
    CACHE_SETTING(sqlite_cache, "10m negative 1m"),
    KEEPING_SETTINGS(struct sqlite_setup, keep),
    { .name = NULL },
};

static void take_sqlite(struct binder *b, const struct node *node, void *into)
{
    struct sqlite_setup s = { .keep = KEEPING_PRESET };
    struct table *t;

    if (!conf_args(b, node, 2, 2) || !conf_path(b, &node->arg[0], &s.path) || !conf_str(b, &node->arg[1], &s.query)
        || !conf_bind(b, sqlite_settings, node, &s))
        return;
    if (table_sqlite_open(&s, &t) != OK)
        conf_error(b, &node->arg[0].at, CONF_E_BAD_SOURCE, "%.*s", STR(err_text()));
    else
        add_table(b, into, t, s.path);
}

/* ---- http ---- */

struct http_block { struct http_table s; struct secret bearer; };

static void take_bearer(struct binder *b, const struct node *node, void *into)
{
    if (conf_args(b, node, 1, 1))
        conf_secret(b, &node->arg[0], &((struct http_block *)into)->bearer);
}

TAKE_CACHE(http_cache, struct http_block, s.keep)
static const struct setting http_settings[] = {
    { .name = "ca", .type = CONF_PATH, .offset = offsetof(struct http_block, s.ca), .form = "PATH",
      .help = "Who may have signed its certificate, PEM; unless given, whom the system trusts. Certificates are always verified." },
    { .name = "bearer", .type = CONF_OWN, .take = take_bearer, .form = "cred:NAME | file:PATH | env:NAME",
      .help = "A token to show, in an Authorization field." },
    { .name = "allow_private", .type = CONF_BOOL, .offset = offsetof(struct http_block, s.allow_private), .preset = "off",
      .help = "Connect also to private, loopback and other addresses that are not public, wherever the name may lead." },
    CACHE_SETTING(http_cache, "10m negative 1m"),
    KEEPING_SETTINGS(struct http_block, s.keep),
    { .name = NULL },
};

static void take_http(struct binder *b, const struct node *node, void *into)
{
    struct http_block h = { .s = { .keep = KEEPING_PRESET } };
    struct table *t;

    if (!conf_args(b, node, 1, 1) || !conf_str(b, &node->arg[0], &h.s.url) || !conf_bind(b, http_settings, node, &h))
        return;
    h.s.bearer = h.bearer.text;
    if (table_http_open(&h.s, &t) != OK) {
        conf_error(b, &node->arg[0].at, CONF_E_BAD_SOURCE, "%.*s", STR(err_text()));
        return;
    }
    if (!str_istarts(h.s.url, S("https:")) && !h.s.allow_private)
        conf_warn(b, &node->arg[0].at, CONF_E_CLEAR, "addresses and answers cross the network in plain text: use https://");
    needs_file(b, into, node, h.s.ca);
    needs_file(b, into, node, h.bearer.file);
    add_table(b, into, t, S(""));
}

/* ---- ldap ---- */

struct ldap_block { struct ldap_setup s; struct secret password; };

/* bind DN password SECRET */
static void take_bind(struct binder *b, const struct node *node, void *into)
{
    static const char *const words[] = { "password", NULL };
    struct ldap_block *l = into;
    const struct token *password[1] = { NULL };

    if (node->narg == 0 || !conf_str(b, &node->arg[0], &l->s.bind) || !conf_keywords(b, node, 1, words, password) || !password[0])
        conf_error(b, &node->name.at, CONF_E_KEYWORD, "write: bind DN password cred:NAME; without \"bind\" it is asked anonymously");
    else
        conf_secret(b, password[0], &l->password);
}

static const char *const scopes[] = { "base", "one", "sub", NULL };
TAKE_CACHE(ldap_cache, struct ldap_block, s.keep)
static const struct setting ldap_settings[] = {
    { .name = "base", .type = CONF_STR, .offset = offsetof(struct ldap_block, s.base), .required = true, .form = "DN", .help = "Where the search begins." },
    { .name = "scope", .type = CONF_ENUM, .offset = offsetof(struct ldap_block, s.scope), .preset = "sub", .words = scopes, .form = "base | one | sub",
      .help = "How deep it goes." },
    { .name = "bind", .type = CONF_OWN, .take = take_bind, .form = "DN password cred:NAME | file:PATH | env:NAME",
      .help = "As whom it is asked; unless given, as nobody in particular." },
    { .name = "filter", .type = CONF_STR, .offset = offsetof(struct ldap_block, s.filter), .preset = "(|(mail=%s)(proxyAddresses=smtp:%s))", .form = "FILTER",
      .help = "Any entry that fits is \"found\". %s is the address, %u its local part, %d its domain, each escaped." },
    { .name = "starttls", .type = CONF_BOOL, .offset = offsetof(struct ldap_block, s.starttls), .preset = "off",
      .help = "TLS on ldap:// servers, before anything else is said. Certificates are always verified." },
    { .name = "ca", .type = CONF_PATH, .offset = offsetof(struct ldap_block, s.ca), .form = "PATH",
      .help = "Who may have signed the servers' certificates, PEM; unless given, whom the system trusts. /etc/ldap/ldap.conf is not read." },
    CACHE_SETTING(ldap_cache, "10m negative 1m"),
    KEEPING_SETTINGS(struct ldap_block, s.keep),
    { .name = NULL },
};

/* Does it cross a network unprotected? */
static bool in_clear(const struct ldap_setup *s)
{
    bool clear = false;

    for (size_t i = 0; i < s->uri.n; i++)
        clear |= str_istarts(s->uri.p[i], S("ldap://")) && !str_istarts(s->uri.p[i], S("ldap://127.")) && !str_istarts(s->uri.p[i], S("ldap://[::1]"));
    return clear && !s->starttls;
}

static void take_ldap(struct binder *b, const struct node *node, void *into)
{
    struct ldap_block l = { .s = { .keep = KEEPING_PRESET } };
    struct table *t;

    if (!conf_args(b, node, 1, 8) || !conf_strs(b, node, 0, &l.s.uri) || !conf_bind(b, ldap_settings, node, &l))
        return;
    l.s.password = l.password.text;
    if (table_ldap_open(&l.s, &t) != OK) {
        conf_error(b, &node->arg[0].at, CONF_E_BAD_SOURCE, "%.*s", STR(err_text()));
        return;
    }
    if (in_clear(&l.s))
        conf_warn(b, &node->arg[0].at, CONF_E_CLEAR, "%s the network in plain text: use ldaps://, or \"starttls on\"",
                  l.s.bind.n ? "the password crosses" : "addresses and answers cross");
    needs_file(b, into, node, l.s.ca);
    needs_file(b, into, node, l.password.file);
    add_table(b, into, t, S(""));
}

/* ---- callout ---- */

TAKE_CACHE(callout_cache, struct recipients, callout_keep)
static const struct setting callout_settings[] = {
    CACHE_SETTING(callout_cache, "24h negative 1h"),
    KEEPING_SETTINGS(struct recipients, callout_keep),
    { .name = NULL },
};

/* callout [BACKEND] [cache TIME [negative TIME]] */
static void take_callout(struct binder *b, const struct node *node, void *into)
{
    struct recipients *r = into;
    size_t next = 0;

    r->callout = node;
    r->callout_keep = (struct keeping)KEEPING_PRESET;
    r->callout_keep.cache = DAY;
    r->callout_keep.negative = HOUR;
    if (node->narg && !str_eq(node->arg[0].text, S("cache")))
        r->callout_backend = &node->arg[next++];
    if (!conf_bind(b, callout_settings, node, r))
        return;
    if (node->narg > next && str_eq(node->arg[next].text, S("cache")))
        take_cache_at(b, node, next + 1, &r->callout_keep);
    else if (node->narg > next)
        conf_error(b, &node->arg[next].at, CONF_E_KEYWORD, "write: callout BACKEND cache 24h negative 1h");
}

/* By the first of its sources, where it has some. */
static const struct backend *asked_by(const struct backend *be) { return be->outlets ? be->outlets->by[0] : be; }

static void finish_callout(struct binder *b, struct routes *r, struct relay_domain *d)
{
    struct recipients *who = &d->recipients;
    const struct backend *be = who->callout_backend ? find_backend(b, r, who->callout_backend) : d->backend;

    if (!be)
        return; /* told already */
    if (be->mx || be->nserver == 0) {
        conf_error(b, &who->callout->name.at, CONF_E_BAD_SOURCE, "\"callout\" asks the servers of a backend of the domain's own, and \"%.*s\" has none", STR(be->name));
        return;
    }
    /* Foreign servers are not asked about their users: that is what spammers do. */
    if (be != d->backend && be != d->other.unknown) {
        conf_error(b, &who->callout->name.at, CONF_E_BAD_SOURCE, "\"callout\" asks the domain's own backend, which is \"%.*s\"", STR(d->backend ? d->backend->name : S("?")));
        return;
    }
    str ehlo = r->own.name.n ? r->own.name.p[r->own.name.n - 1] : S("localhost");
    add_table(b, who, callout_table(asked_by(be), ehlo, &who->callout_keep), S(""));
    /* Whom the first does not know, the other may: both are asked, and absent is whom both deny. */
    const struct backend *other = d->other.unknown;
    if (!who->callout_backend && other && other->nserver)
        add_table(b, who, callout_table(asked_by(other), ehlo, &who->callout_keep), S(""));
}

void recipients_finish(struct binder *b, struct routes *r, struct relay_domain *d)
{
    if (d->recipients.callout)
        finish_callout(b, r, d);
}

/* ---- all ---- */

const struct setting recipients_settings[] = {
    { .name = "file", .type = CONF_OWN, .take = take_list, .repeats = true, .form = "PATH",
      .help = "A list: an address, @domain, a pattern with * or a bare local part a line; # begins a comment. Case is ignored, and "
              "user+anything is found as user. A list that cannot be read at a reload, or has become empty, stays as it was." },
    { .name = "ldap", .type = CONF_OWN, .take = take_ldap, .sub = ldap_settings, .repeats = true, .form = "URI ...",
      .help = "A directory: the first of these servers that answers is asked." },
    { .name = "http", .type = CONF_OWN, .take = take_http, .sub = http_settings, .repeats = true, .form = "\"URL\"",
      .help = "A web service: GET of a URL with {address}, {local} or {domain} in it (in quotes, because of the braces). 200 is found, 404 is not, {\"found\": true or false} in the body of "
              "a 200 decides; other JSON, and all else, is undecided. Redirects are not followed." },
    { .name = "sqlite", .type = CONF_OWN, .take = take_sqlite, .sub = sqlite_settings, .repeats = true, .form = "PATH QUERY",
      .help = "A database: any row is \"found\". :address, :local and :domain are parameters of the query, in lower case." },
    { .name = "callout", .type = CONF_OWN, .take = take_callout, .sub = callout_settings, .form = "[BACKEND] [cache TIME [negative TIME]]",
      .help = "The domain's own backend is asked (and, unless one is named, where it sends whom that does not know, \"unknown_to\"), by RCPT from the null sender and no mail. Only 5.1.x, or 550, 551 and 553 without such a code, is \"not "
              "found\". One that takes any address is found out by an unguessable one, and does not count." },
    { .name = NULL },
};

void take_recipients(struct binder *b, const struct node *node, void *relay_domain)
{
    struct recipients *r = &((struct relay_domain *)relay_domain)->recipients;

    if (node->narg == 1 && str_eq(node->arg[0].text, S("any")) && !node->block)
        r->any = true;
    else if (node->narg || !node->block || node->nchild == 0)
        conf_error(b, &node->name.at, CONF_E_RECIPIENTS, "\"recipients\" is followed by \"any\" or by { file PATH }");
    else {
        size_t errors = b->diags->errors;
        conf_bind(b, recipients_settings, node, r);
        r->broken = b->diags->errors != errors;
    }
}
