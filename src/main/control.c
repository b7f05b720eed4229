/* The control socket: requests and answers as lines of JSON. Who may ask at all, the socket's mode says; who may change
 * things, the peer's uid. */
#include "main/inside.h"

#include <errno.h>
#include <jansson.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#define LINE_MOST ((size_t)64 * 1024)
#define DEPTH_MOST 8            /* jansson recurses, and a task's stack is small */
#define SESSIONS_MOST 32
#define IDLE (5 * MINUTE)       /* between requests */
#define LINE_PATIENCE (10 * SECOND)     /* from a request's first byte to its last */
#define REQUEST_MOST (10 * MINUTE)      /* for the whole of one answer */
#define READER_PATIENCE (30 * SECOND)   /* with a client that takes nothing */
#define TURN 64                 /* lines after which others have theirs */

struct control_server {
    const struct control_verb *verb;
    void *relay;
    gid_t group;                        /* of the socket */
    bool has_group;
    unsigned sessions;
};

struct control {
    struct control_server *server;
    struct stream *s;
    bool may_change;
    json_t *request;                    /* the one being answered */
    unsigned lines;
    bool failed;
    char code[32];
    struct buf why;
};

/* ---- the request ---- */

static bool shallow(str line)
{
    unsigned depth = 0;
    bool quoted = false;

    for (size_t i = 0; i < line.n; i++) {
        char c = line.p[i];
        if (quoted && c == '\\')
            i++;
        else if (c == '"')
            quoted = !quoted;
        else if (!quoted && (c == '{' || c == '[') && ++depth > DEPTH_MOST)
            return false;
        else if (!quoted && (c == '}' || c == ']') && depth)
            depth--;
    }
    return true;
}

err control_parse(str line, json_t **ret)
{
    json_error_t e;

    if (!shallow(line))
        return fail(E_SYNTAX, "the request is nested too deeply");
    json_t *got = json_loadb(line.p ? line.p : "", line.n, JSON_REJECT_DUPLICATES, &e);
    if (!got)
        return fail(E_SYNTAX, "the request is no JSON: %s", e.text);
    if (!json_is_string(json_object_get(got, "do"))) {
        json_decref(got);
        return fail(E_SYNTAX, "the request is no object with a string \"do\"");
    }
    *ret = got;
    return OK;
}

str control_arg(struct control *c, const char *key)
{
    json_t *value = json_object_get(c->request, key);
    return json_is_string(value) ? str_of(json_string_value(value), json_string_length(value)) : (str){ 0 };
}

bool control_flag(struct control *c, const char *key) { return json_is_true(json_object_get(c->request, key)); }

int64_t control_int(struct control *c, const char *key, int64_t absent)
{
    json_t *value = json_object_get(c->request, key);
    return json_is_integer(value) ? json_integer_value(value) : absent;
}

/* ---- the answer ---- */

bool control_line(struct control *c, str json)
{
    stream_say(c->s, json);
    stream_say(c->s, S("\n"));
    if (++c->lines % TURN == 0 && task_yield() != OK)
        return false;
    return c->s->broken == OK && !task_canceled();
}

void control_fail(struct control *c, const char *code, const char *fmt, ...)
{
    va_list ap;
    char text[1024];

    if (c->failed)
        return; /* the first is the cause */
    c->failed = true;
    va_start(ap, fmt);
    int n = vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    snprintf(c->code, sizeof c->code, "%s", code);
    buf_clear(&c->why);
    buf_add(&c->why, str_of(text, MIN((size_t)MAX(n, 0), sizeof text - 1)));
}

static void say_end(struct control *c)
{
    AUTO_BUF out = { 0 };

    if (c->failed) {
        buf_add(&out, S("{\"error\":"));
        buf_add_json(&out, buf_str(&c->why));
        buf_add(&out, S(",\"code\":"));
        buf_add_json(&out, str_z(c->code));
        buf_add(&out, S("}\n"));
    } else {
        buf_add(&out, S("{\"done\":true}\n"));
    }
    stream_say(c->s, buf_str(&out));
    stream_flush(c->s);
}

static const struct control_verb *verb_named(const struct control *c, str name)
{
    for (const struct control_verb *v = c->server->verb; v->name; v++)
        if (str_eq(str_z(v->name), name))
            return v;
    return NULL;
}

static err answer(void *control)
{
    struct control *c = control;
    str name = control_arg(c, "do");
    const struct control_verb *v = verb_named(c, name);

    if (!v)
        control_fail(c, "usage", "this relay knows no \"%.*s\"", (int)MIN(name.n, (size_t)64), name.p);
    else if (v->changes && !c->may_change)
        control_fail(c, "perm", "\"%s\" is for root and the relay's own user", v->name);
    else
        v->run(c, c->server->relay);
    return OK;
}

/* In a group of its own, so that one deadline covers every wait of the answer. */
static void answer_line(struct control *c, str line)
{
    c->failed = false;
    c->lines = 0;
    c->request = NULL;
    if (control_parse(line, &c->request) != OK) {
        control_fail(c, "syntax", "%.*s", STR(err_text()));
    } else {
        AUTO_GROUP g = group_open(clock_now() + REQUEST_MOST);
        if (group_spawn(&g, "request", answer, c) != OK)
            control_fail(c, "limit", "%.*s", STR(err_text()));
        group_wait(&g);
    }
    say_end(c);
    json_decref(c->request);
    c->request = NULL;
}

/* ---- a session ---- */

/* The next line, borrowed from the stream. */
static err hear_line(struct control *c, str *ret)
{
    when deadline = clock_now() + IDLE;
    size_t seen = 0;

    for (;;) {
        str got = stream_pending(c->s);
        size_t lf = str_findc(str_from(got, seen), '\n');
        if (lf != STR_NONE) {
            *ret = str_head(got, seen + lf);
            return OK;
        }
        if (got.n >= LINE_MOST)
            return fail(E_LIMIT, "a request has at most %zu bytes", LINE_MOST);
        if (got.n && !seen)
            deadline = clock_now() + LINE_PATIENCE;
        seen = got.n;
        TRY(stream_fill(c->s, 4096, deadline));
    }
}

static err session(void *control)
{
    struct control *c = control;
    str line;
    err e;

    while ((e = hear_line(c, &line)) == OK && c->s->broken == OK) {
        size_t n = line.n + 1;
        answer_line(c, str_trim(line));
        stream_consume(c->s, n);
    }
    if (e == E_LIMIT || e == E_TIMEOUT) {
        c->failed = false;
        control_fail(c, err_name(e), "%.*s", STR(err_text()));
        say_end(c);
    }
    c->server->sessions--;
    stream_free(c->s);
    buf_free(&c->why);
    mem_free(c);
    return OK;
}

/* ---- who asks ---- */

enum rights { RIGHTS_NONE, RIGHTS_READ, RIGHTS_CHANGE };

/* A peer of another user got past the socket's mode as a member of its group; where the socket was opened wider by somebody, the
 * group is what still counts. */
static bool in_group(int fd, gid_t main_group, gid_t wanted)
{
    gid_t groups[512];
    socklen_t n = sizeof groups;

    if (main_group == wanted)
        return true;
    if (getsockopt(fd, SOL_SOCKET, SO_PEERGROUPS, groups, &n) < 0)
        return false;
    for (size_t i = 0; i < n / sizeof *groups; i++)
        if (groups[i] == wanted)
            return true;
    return false;
}

static enum rights rights_of(const struct control_server *x, int fd, struct ucred *peer)
{
    socklen_t n = sizeof *peer;

    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, peer, &n) < 0)
        return RIGHTS_NONE;
    if (peer->uid == 0 || peer->uid == geteuid())
        return RIGHTS_CHANGE;
    return x->has_group && in_group(fd, peer->gid, x->group) ? RIGHTS_READ : RIGHTS_NONE;
}

static void find_group(struct control_server *x, int fd)
{
    struct sockaddr_un un = { 0 };
    socklen_t n = sizeof un;
    struct stat st;

    x->has_group = getsockname(fd, (struct sockaddr *)&un, &n) == 0 && un.sun_family == AF_UNIX && un.sun_path[0] &&
                   stat(un.sun_path, &st) == 0;
    if (x->has_group)
        x->group = st.st_gid;
}

/* ---- the socket ---- */

static void turn_away(int fd, const char *code, const char *why)
{
    char text[128];
    int n = snprintf(text, sizeof text, "{\"error\":\"%s\",\"code\":\"%s\"}\n", why, code);

    ssize_t ignored = send(fd, text, (size_t)n, MSG_NOSIGNAL | MSG_DONTWAIT);
    (void)ignored;
    close(fd);
}

static void begin(struct control_server *x, struct group *g, int fd, const struct addr *peer)
{
    struct ucred who = { 0 };
    enum rights rights = rights_of(x, fd, &who);

    if (rights == RIGHTS_NONE) {
        log_warn("control_refused", LOG_INT("uid", who.uid), LOG_INT("pid", who.pid));
        turn_away(fd, "perm", "only root, the relay's own user and the socket's group may ask");
        return;
    }
    if (x->sessions >= SESSIONS_MOST) {
        turn_away(fd, "limit", "too many ask at once");
        return;
    }
    struct control *c = mem_new(sizeof *c);
    *c = (struct control){ .server = x, .s = stream_new(fd, peer), .may_change = rights == RIGHTS_CHANGE };
    c->s->write_wait = READER_PATIENCE;
    x->sessions++;
    if (group_spawn(g, "control", session, c) == OK)
        return;
    x->sessions--;
    stream_free(c->s);
    mem_free(c);
}

err control_serve_verbs(int fd, const struct control_verb *verb, void *relay)
{
    struct control_server x = { .verb = verb, .relay = relay };
    struct io io = { 0 };
    err e;

    json_object_seed((size_t)random_u64() | 1);
    find_group(&x, fd);
    TRY(io_add_shared(&io, fd));
    {
        AUTO_GROUP g = group_open(NEVER);
        for (;;) {
            struct addr peer;
            int client;
            e = listen_accept(&io, NEVER, &client, &peer);
            if (e == OK)
                begin(&x, &g, client, &peer);
            else if (e != E_LIMIT)
                break;
        }
    }
    io_del(&io);
    return e;
}
