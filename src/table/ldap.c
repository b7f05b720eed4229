/* A directory, by OpenLDAP's library, which blocks: on threads of the source's own, each with a connection it keeps. */
#include "table/inside.h"

#include <ldap.h>
#include <stdlib.h>
#include <sys/time.h>

#define THREADS 4
#define SERVERS_MOST 8
#define CONNECT_MOST (3 * SECOND)       /* to one server: there may be another */
#define OUT (30 * SECOND)               /* a server that failed is asked last for so long */

struct line { struct line *next; LDAP *ld; size_t server; };

struct directory {
    struct source source;
    char *uri[SERVERS_MOST];
    size_t nuri;
    char *base, *bind, *ca;
    str filter, password;
    int scope;
    bool starttls;
    struct bench bench;
    pthread_mutex_t lock;
    struct line *idle;
    when out_until[SERVERS_MOST];
};

/* Neither ldap.conf nor .ldaprc nor LDAPTLS_... say how mail is judged: what counts stands in our configuration. The library reads this
 * when it is first used; here there is no other thread yet. */
__attribute__((constructor)) static void no_init(void) { setenv("LDAPNOINIT", "1", 1); }

static err told(int code, const char *uri, const char *what)
{
    return code == LDAP_SUCCESS ? OK : fail(E_AGAIN, "%s: %s: %s", uri, what, ldap_err2string(code));
}

static struct timeval span(when length)
{
    length = MAX(length, 10 * MILLISECOND);
    return (struct timeval){ .tv_sec = length / SECOND, .tv_usec = length % SECOND };
}

static void line_free(struct line *l)
{
    if (!l)
        return;
    ldap_unbind_ext(l->ld, NULL, NULL);
    mem_free(l);
}

/* Every call waits at most so long. */
static void set_patience(LDAP *ld, when length)
{
    struct timeval t = span(length);

    ldap_set_option(ld, LDAP_OPT_NETWORK_TIMEOUT, &t);
    ldap_set_option(ld, LDAP_OPT_TIMEOUT, &t);
}

static err set_options(const struct directory *s, LDAP *ld, const char *uri)
{
    int version = LDAP_VERSION3, demand = LDAP_OPT_X_TLS_DEMAND, fresh = 0;

    TRY(told(ldap_set_option(ld, LDAP_OPT_PROTOCOL_VERSION, &version), uri, "version 3"));
    TRY(told(ldap_set_option(ld, LDAP_OPT_REFERRALS, LDAP_OPT_OFF), uri, "no referrals"));
    TRY(told(ldap_set_option(ld, LDAP_OPT_RESTART, LDAP_OPT_ON), uri, "restart"));
    TRY(told(ldap_set_option(ld, LDAP_OPT_X_TLS_REQUIRE_CERT, &demand), uri, "TLS verified"));
    if (s->ca)
        TRY(told(ldap_set_option(ld, LDAP_OPT_X_TLS_CACERTFILE, s->ca), uri, "the CA file"));
    return told(ldap_set_option(ld, LDAP_OPT_X_TLS_NEWCTX, &fresh), uri, "TLS");
}

static err log_in(const struct directory *s, LDAP *ld, const char *uri)
{
    struct berval secret = { .bv_len = s->password.n, .bv_val = (char *)(uintptr_t)s->password.p };

    if (s->starttls)
        TRY(told(ldap_start_tls_s(ld, NULL, NULL), uri, "STARTTLS"));
    return s->bind ? told(ldap_sasl_bind_s(ld, s->bind, LDAP_SASL_SIMPLE, &secret, NULL, NULL, NULL), uri, "bind") : OK;
}

static err line_open(struct directory *s, size_t server, when deadline, struct line **ret)
{
    struct line *l = mem_new(sizeof *l);
    const char *uri = s->uri[server];

    l->server = server;
    err e = told(ldap_initialize(&l->ld, uri), uri, "opening");
    if (e != OK) {
        mem_free(l);
        return e;
    }
    set_patience(l->ld, MIN(deadline - clock_now(), CONNECT_MOST));
    e = set_options(s, l->ld, uri);
    if (e == OK)
        e = log_in(s, l->ld, uri);
    if (e != OK)
        line_free(l);
    else
        *ret = l;
    return e;
}

/* ---- asking ---- */

struct job { struct directory *s; const struct inquiry *q; when deadline; enum said said; };

/* What the search says; SAID_DOWN also says that the line is of no use any more. */
static enum said search(struct directory *s, struct line *l, const char *filter, when deadline)
{
    static const char *const none[] = { LDAP_NO_ATTRS, NULL };
    LDAPMessage *found = NULL;
    struct timeval most = span(deadline - clock_now());

    set_patience(l->ld, deadline - clock_now());
    int code = ldap_search_ext_s(l->ld, s->base, s->scope, filter, (char **)(uintptr_t)none, 1, NULL, NULL, &most, 2, &found);
    int n = found ? ldap_count_entries(l->ld, found) : 0;
    ldap_msgfree(found);
    /* More than we asked for is found too. */
    if (n > 0 && (code == LDAP_SUCCESS || code == LDAP_SIZELIMIT_EXCEEDED))
        return SAID_FOUND;
    if (code == LDAP_SUCCESS)
        return SAID_ABSENT;
    told(code, s->uri[l->server], "search"); /* no such base too: that is a mistake, not a directory without people */
    bool line = code < 0 || code == LDAP_BUSY || code == LDAP_UNAVAILABLE || code == LDAP_UNWILLING_TO_PERFORM;
    return line ? SAID_DOWN : SAID_UNSURE;
}

static void give_back(struct directory *s, struct line *l)
{
    pthread_mutex_lock(&s->lock);
    l->next = s->idle;
    s->idle = l;
    pthread_mutex_unlock(&s->lock);
}

static struct line *take_idle(struct directory *s)
{
    pthread_mutex_lock(&s->lock);
    struct line *l = s->idle;
    if (l)
        s->idle = l->next;
    pthread_mutex_unlock(&s->lock);
    return l;
}

static bool is_out(struct directory *s, size_t server)
{
    pthread_mutex_lock(&s->lock);
    bool out = s->out_until[server] > clock_now();
    pthread_mutex_unlock(&s->lock);
    return out;
}

static void put_out(struct directory *s, size_t server, when until)
{
    pthread_mutex_lock(&s->lock);
    s->out_until[server] = until;
    pthread_mutex_unlock(&s->lock);
}

/* Servers in the order they stand in; those that failed just now behind the others. */
static enum said ask_servers(struct directory *s, const char *filter, when deadline)
{
    enum said said = SAID_DOWN;

    for (int pass = 0; pass < 2; pass++)
        for (size_t i = 0; i < s->nuri; i++) {
            struct line *l = NULL;
            if (is_out(s, i) != (pass == 1))
                continue;
            if (clock_now() >= deadline) {
                fail(E_TIMEOUT, "%s: no answer in time", s->uri[i]);
                return said;
            }
            if (line_open(s, i, deadline, &l) == OK) {
                said = search(s, l, filter, deadline);
                if (said != SAID_DOWN) {
                    put_out(s, i, 0);
                    give_back(s, l);
                    return said;
                }
                line_free(l);
            }
            put_out(s, i, clock_now() + OUT);
        }
    return said;
}

static void look(void *arg)
{
    struct job *j = arg;
    struct line *l;
    AUTO_BUF filter = { 0 };

    filter_add(&filter, j->s->filter, j->q);
    buf_addc(&filter, 0);
    j->said = SAID_DOWN;
    if (clock_now() >= j->deadline) {
        fail(E_TIMEOUT, "no thread was free in time");
        return;
    }
    /* A server closes lines that were idle: that says nothing about the server. */
    while ((l = take_idle(j->s)) && clock_now() < j->deadline) {
        j->said = search(j->s, l, filter.p, j->deadline);
        if (j->said != SAID_DOWN) {
            give_back(j->s, l);
            return;
        }
        line_free(l);
    }
    line_free(l);
    j->said = ask_servers(j->s, filter.p, j->deadline);
}

static enum said ldap_ask(struct source *source, const struct inquiry *q, when deadline)
{
    struct directory *s = (struct directory *)(void *)source;
    struct job j = { s, q, deadline, SAID_DOWN };

    bench_run(&s->bench, "ldap", THREADS, look, &j);
    return j.said;
}

static void ldap_end(struct source *source)
{
    struct directory *s = (struct directory *)(void *)source;

    bench_end(&s->bench);
    for (struct line *l; (l = take_idle(s)); )
        line_free(l);
    for (size_t i = 0; i < s->nuri; i++)
        mem_free(s->uri[i]);
    mem_free((char *)(uintptr_t)source->name.p);
    mem_free((char *)(uintptr_t)source->key.p);
    mem_free((char *)(uintptr_t)s->filter.p);
    mem_free((char *)(uintptr_t)s->password.p);
    mem_free(s->base);
    mem_free(s->bind);
    mem_free(s->ca);
    mem_free(s);
}

/* ---- opening ---- */

static err uri_wrong(str uri, bool starttls)
{
    LDAPURLDesc *d = NULL;
    char *z = copy_z(uri);
    const char *wrong = NULL;

    if (ldap_url_parse(z, &d) != LDAP_URL_SUCCESS)
        wrong = "is no ldap://HOST, ldaps://HOST or ldapi://PATH";
    else if ((d->lud_dn && *d->lud_dn) || d->lud_attrs || d->lud_filter)
        wrong = "names more than a server: base, scope and filter have directives of their own";
    else if (starttls && strcmp(d->lud_scheme, "ldap") != 0)
        wrong = "has no use for starttls";
    ldap_free_urldesc(d);
    mem_free(z);
    return wrong ? fail(E_SYNTAX, "\"%.*s\" %s", STR(uri), wrong) : OK;
}

struct check { const struct ldap_setup *setup; err e; };

static void check(void *arg)
{
    struct check *c = arg;

    for (size_t i = 0; i < c->setup->uri.n && c->e == OK; i++)
        c->e = uri_wrong(c->setup->uri.p[i], c->setup->starttls);
}

err table_ldap_open(const struct ldap_setup *setup, struct table **ret)
{
    AUTO_BUF key = { 0 };
    struct check c = { setup, OK };
    const char *wrong = filter_wrong(setup->filter);

    if (wrong)
        return fail(E_SYNTAX, "the filter: %s", wrong);
    if (setup->uri.n == 0 || setup->uri.n > SERVERS_MOST)
        return fail(E_SYNTAX, "1 to %d servers", SERVERS_MOST);
    bench_once(check, &c);
    TRY(c.e);
    const str parts[] = { S("ldap"), setup->base, setup->filter, setup->bind, setup->password, setup->ca };
    for (size_t i = 0; i < COUNT(parts); i++)
        key_add(&key, parts[i]);
    for (size_t i = 0; i < setup->uri.n; i++)
        key_add(&key, setup->uri.p[i]);
    key_add_keeping(&key, &setup->keep);
    buf_addf(&key, "/%d/%d", setup->scope, setup->starttls);
    struct directory *s = mem_new(sizeof *s);
    *s = (struct directory){
        .source = { .kind = "ldap", .name = copy_str(setup->uri.p[0]), .key = copy_str(buf_str(&key)), .keep = setup->keep, .detail = '+',
                    .at_once = THREADS, .ask = ldap_ask, .free = ldap_end },
        .base = copy_z(setup->base), .bind = setup->bind.n ? copy_z(setup->bind) : NULL, .ca = setup->ca.n ? copy_z(setup->ca) : NULL,
        .filter = copy_str(setup->filter), .password = copy_str(setup->password),
        .scope = setup->scope == 0 ? LDAP_SCOPE_BASE : setup->scope == 1 ? LDAP_SCOPE_ONELEVEL : LDAP_SCOPE_SUBTREE,
        .starttls = setup->starttls, .bench = BENCH_INIT, .lock = PTHREAD_MUTEX_INITIALIZER,
    };
    for (; s->nuri < setup->uri.n; s->nuri++)
        s->uri[s->nuri] = copy_z(setup->uri.p[s->nuri]);
    *ret = table_of_source(&s->source);
    return OK;
}
