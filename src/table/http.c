/* A web service, by libcurl on threads of the source's own. It is asked for one address at a time, follows nobody elsewhere, and may neither
 * take long nor talk much. */
#include "table/inside.h"

#include "net/net.h"

#include <curl/curl.h>
#include <stdio.h>
#include <stdlib.h>

#define THREADS 8
#define BODY_MOST ((size_t)64 << 10)
#define HEAD_MOST ((size_t)64 << 10)

/* A handle keeps its connection; idle ones wait in a list. */
struct handle { struct handle *next; CURL *curl; };

struct http {
    struct source source;
    str url;
    char *ca;                           /* NULL: the system's */
    char *bearer;                       /* the whole header line; NULL: none */
    bool allow_private;
    struct bench bench;
    pthread_mutex_t lock;
    struct handle *idle;
};

struct job {
    struct http *s;
    const struct inquiry *q;
    when deadline;
    enum said said;
    struct buf body;
    size_t head;
    bool inside, too_much;
};

/* ---- attack class 58 ---- */

static const char *const inside_nets[] = { "0.0.0.0/8", "100.64.0.0/10", "192.0.0.0/24", "198.18.0.0/15", "224.0.0.0/3", "::/96", "64:ff9b::/96", "64:ff9b:1::/48",
                                           "2001::/32", "2002::/16" /* with an IPv4 address inside */, "fec0::/10", "ff00::/8" };

static bool is_inside(const struct addr *a)
{
    struct cidr net;

    if (addr_is_private(a))
        return true;
    for (size_t i = 0; i < COUNT(inside_nets); i++)
        if (cidr_parse(str_z(inside_nets[i]), &net) == OK && cidr_has(&net, a))
            return true;
    return false;
}

/* The address that libcurl is about to connect to, after all looking up of names: there is no second look-up that could say otherwise. */
static curl_socket_t open_socket(void *job, curlsocktype purpose, struct curl_sockaddr *to)
{
    struct job *j = job;
    struct sockaddr_storage sa = { 0 };

    (void)purpose;
    memcpy(&sa, &to->addr, MIN(sizeof sa, to->addrlen));
    struct addr a = addr_of(&sa, (socklen_t)to->addrlen);
    if (!j->s->allow_private && is_inside(&a)) {
        j->inside = true;
        return CURL_SOCKET_BAD;
    }
    return socket(to->family, to->socktype | SOCK_CLOEXEC, to->protocol);
}

/* ---- what comes back ---- */

static size_t take_body(char *p, size_t size, size_t n, void *job)
{
    struct job *j = job;

    if (j->body.n + size * n > BODY_MOST) {
        j->too_much = true;
        return 0;
    }
    buf_add(&j->body, str_of(p, size * n));
    return size * n;
}

static size_t take_head(char *p, size_t size, size_t n, void *job)
{
    struct job *j = job;

    (void)p;
    j->head += size * n;
    j->too_much |= j->head > HEAD_MOST;
    return j->too_much ? 0 : size * n;
}

/* ---- asking ---- */

static struct handle *handle_take(struct http *s)
{
    pthread_mutex_lock(&s->lock);
    struct handle *h = s->idle;
    if (h)
        s->idle = h->next;
    pthread_mutex_unlock(&s->lock);
    if (h)
        return h;
    h = mem_new(sizeof *h);
    h->curl = curl_easy_init();
    must(h->curl); /* only for want of memory */
    return h;
}

static void handle_free(struct handle *h)
{
    curl_easy_cleanup(h->curl);
    mem_free(h);
}

static void handle_give(struct http *s, struct handle *h)
{
    pthread_mutex_lock(&s->lock);
    h->next = s->idle;
    s->idle = h;
    pthread_mutex_unlock(&s->lock);
}

static void set_options(struct job *j, CURL *c, const char *url, const struct curl_slist *heads, char *why)
{
    long left = MAX((long)((j->deadline - clock_now()) / MILLISECOND), 1);

    curl_easy_setopt(c, CURLOPT_URL, url);
    curl_easy_setopt(c, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(c, CURLOPT_FOLLOWLOCATION, 0L);
    curl_easy_setopt(c, CURLOPT_PATH_AS_IS, 1L);
    curl_easy_setopt(c, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(c, CURLOPT_NOPROXY, "*"); /* the environment is no part of our configuration */
    curl_easy_setopt(c, CURLOPT_PROXY, "");
    curl_easy_setopt(c, CURLOPT_SSL_VERIFYPEER, 1L);
    curl_easy_setopt(c, CURLOPT_SSL_VERIFYHOST, 2L);
    if (j->s->ca) {
        curl_easy_setopt(c, CURLOPT_CAINFO, j->s->ca);
        curl_easy_setopt(c, CURLOPT_CAPATH, NULL);
    }
    curl_easy_setopt(c, CURLOPT_TIMEOUT_MS, left);
    curl_easy_setopt(c, CURLOPT_CONNECTTIMEOUT_MS, MIN(left, 5000L));
    curl_easy_setopt(c, CURLOPT_USERAGENT, "waypost");
    curl_easy_setopt(c, CURLOPT_HTTPHEADER, heads);
    curl_easy_setopt(c, CURLOPT_ERRORBUFFER, why);
    curl_easy_setopt(c, CURLOPT_OPENSOCKETFUNCTION, open_socket);
    curl_easy_setopt(c, CURLOPT_OPENSOCKETDATA, j);
    curl_easy_setopt(c, CURLOPT_WRITEFUNCTION, take_body);
    curl_easy_setopt(c, CURLOPT_WRITEDATA, j);
    curl_easy_setopt(c, CURLOPT_HEADERFUNCTION, take_head);
    curl_easy_setopt(c, CURLOPT_HEADERDATA, j);
}

static enum said judge(struct job *j, CURL *c, CURLcode got, const char *why)
{
    long code = 0;

    if (got == CURLE_OK) {
        curl_easy_getinfo(c, CURLINFO_RESPONSE_CODE, &code);
        return http_answer(code, buf_str(&j->body));
    }
    if (j->inside)
        fail(E_PERM, "%.*s is a private address: allow_private on, if you mean it", STR(j->s->source.name));
    else if (j->too_much)
        fail(E_LIMIT, "its answer is longer than 64 KiB");
    else
        fail(E_AGAIN, "%s", *why ? why : curl_easy_strerror(got));
    return j->too_much ? SAID_UNSURE : SAID_DOWN;
}

static void look(void *arg)
{
    struct job *j = arg;
    AUTO_BUF url = { 0 };
    char why[CURL_ERROR_SIZE] = "";

    j->said = SAID_UNSURE;
    if (!url_add(&url, j->s->url, j->q)) {
        fail(E_SYNTAX, "a local part of dots has no place in a URL");
        return;
    }
    buf_addc(&url, 0);
    struct curl_slist *heads = curl_slist_append(NULL, "Accept: application/json");
    if (j->s->bearer)
        heads = curl_slist_append(heads, j->s->bearer);
    struct handle *h = handle_take(j->s);
    set_options(j, h->curl, url.p, heads, why);
    CURLcode got = curl_easy_perform(h->curl);
    j->said = judge(j, h->curl, got, why);
    curl_easy_reset(h->curl); /* keeps its connection; nothing points at us any more */
    curl_slist_free_all(heads);
    if (got == CURLE_OK)
        handle_give(j->s, h);
    else
        handle_free(h);
}

static enum said http_ask(struct source *source, const struct inquiry *q, when deadline)
{
    struct http *s = (struct http *)(void *)source;
    struct job j = { .s = s, .q = q, .deadline = deadline };

    bench_run(&s->bench, "http", THREADS, look, &j);
    buf_free(&j.body);
    return j.said;
}

static void http_end(struct source *source)
{
    struct http *s = (struct http *)(void *)source;

    bench_end(&s->bench);
    while (s->idle) {
        struct handle *h = s->idle;
        s->idle = h->next;
        handle_free(h);
    }
    mem_free((char *)(uintptr_t)source->name.p);
    mem_free((char *)(uintptr_t)source->key.p);
    mem_free((char *)(uintptr_t)s->url.p);
    mem_free(s->ca);
    mem_free(s->bearer);
    mem_free(s);
}

/* ---- opening ---- */

static void global_init(void) { curl_global_init(CURL_GLOBAL_DEFAULT); }

err table_http_open(const struct http_table *setup, struct table **ret)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    AUTO_BUF key = { 0 };
    const char *wrong = url_wrong(setup->url);

    if (wrong)
        return fail(E_SYNTAX, "the URL: %s", wrong);
    for (size_t i = 0; i < setup->bearer.n; i++)
        if (ascii_control(setup->bearer.p[i]))
            return fail(E_SYNTAX, "the bearer token holds a control character");
    pthread_once(&once, global_init);
    key_add(&key, S("http"));
    key_add(&key, setup->url);
    key_add(&key, setup->ca);
    key_add(&key, setup->bearer);
    key_add_keeping(&key, &setup->keep);
    buf_addc(&key, setup->allow_private ? 'p' : '-');
    struct http *s = mem_new(sizeof *s);
    *s = (struct http){
        .source = { .kind = "http", .name = copy_str(str_head(setup->url, MIN(str_findc(setup->url, '{'), setup->url.n))), .key = copy_str(buf_str(&key)),
                    .keep = setup->keep, .detail = '+', .at_once = THREADS, .ask = http_ask, .free = http_end },
        .url = copy_str(setup->url), .ca = setup->ca.n ? copy_z(setup->ca) : NULL, .allow_private = setup->allow_private,
        .bench = BENCH_INIT, .lock = PTHREAD_MUTEX_INITIALIZER,
    };
    if (setup->bearer.n) {
        AUTO_BUF line = { 0 };
        buf_addf(&line, "Authorization: Bearer %.*s", STR(setup->bearer));
        s->bearer = copy_z(buf_str(&line));
    }
    *ret = table_of_source(&s->source);
    return OK;
}
