/* The control socket's other end: one request, its lines, its last line. Blocking, with a patience of its own. */
#include "cli/cli.h"

#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <unistd.h>

#define PATIENCE_S 300          /* a reload may read long lists */
#define LINE_MOST ((size_t)64 << 20)

struct caller { int fd; char path[108]; struct buf in; size_t at; };

/* ---- where the relay is ---- */

static const struct node *child(const struct node *n, str name)
{
    for (size_t i = 0; n && i < n->nchild; i++)
        if (str_eq(n->child[i].name.text, name))
            return &n->child[i];
    return NULL;
}

/* As settings_load() does it, without the rest of the settings: they may name lists that only the relay can read. */
int relay_socket(arena *a, const struct relay_at *at, str *ret)
{
    struct diags d = { .a = a };
    struct binder b = { .a = a, .diags = &d };
    struct node root = { 0 };
    str dev = str_z(settings_dev), path, dir;

    if (at->socket) {
        *ret = str_z(at->socket);
        return CLI_DONE;
    }
    path = at->dev ? S("--dev") : str_z(at->config ? at->config : CLI_CONFIG);
    if (conf_parse(a, path, at->dev ? &dev : NULL, &root, &d) != OK) {
        cli_say("%.*s; name the configuration with -c FILE or the control socket with --socket PATH", STR(err_text()));
        return CLI_USAGE;
    }
    const struct node *control = child(&root, S("control")), *spool = child(child(&root, S("spool")), S("dir"));
    if (control && control->narg == 1 && conf_path(&b, &control->arg[0], ret))
        return CLI_DONE;
    if (!control && spool && spool->narg == 1 && conf_path(&b, &spool->arg[0], &dir)) {
        *ret = str_printf(a, "%.*s.sock", STR(dir));
        return CLI_DONE;
    }
    cli_say("%.*s does not say where the control socket is; `waypost check` tells more", STR(path));
    return CLI_USAGE;
}

/* ---- the connection ---- */

static int unreachable(int number, const char *path)
{
    switch (number) {
    case ENOENT:
        cli_say("no relay listens at %s: is it running? (`systemctl status waypost`; -c FILE or --socket PATH name another one)", path);
        break;
    case ECONNREFUSED:
        cli_say("the relay that listened at %s has ended (`systemctl status waypost`)", path);
        break;
    case EACCES: case EPERM:
        cli_say("%s is for root, the relay's user and the group of the socket, and you are none of them", path);
        break;
    case EAGAIN:
        cli_say("the relay at %s does not answer", path);
        break;
    default:
        cli_say("%s: %s", path, strerror(number));
    }
    return CLI_UNREACHABLE;
}

int caller_open(const struct relay_at *at, struct caller **ret)
{
    AUTO_ARENA a = arena_new();
    struct sockaddr_un un = { .sun_family = AF_UNIX };
    struct timeval patience = { .tv_sec = PATIENCE_S };
    str path;

    int code = relay_socket(a, at, &path);
    if (code != CLI_DONE)
        return code;
    if (path.n >= sizeof un.sun_path) {
        cli_say("%.*s: too long for a socket", STR(path));
        return CLI_USAGE;
    }
    memcpy(un.sun_path, path.p, path.n);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience) < 0 ||
        setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience) < 0 ||
        connect(fd, (struct sockaddr *)&un, sizeof un) < 0) {
        int number = errno;
        if (fd >= 0)
            close(fd);
        return unreachable(number, un.sun_path);
    }
    struct caller *c = mem_new(sizeof *c);
    c->fd = fd;
    memcpy(c->path, un.sun_path, sizeof c->path);
    *ret = c;
    return CLI_DONE;
}

void caller_free(struct caller *c)
{
    close(c->fd);
    buf_free(&c->in);
    mem_free(c);
}

/* ---- asking ---- */

/* What cannot be sent the relay did not want: its answer says why. */
static void send_line(struct caller *c, json_t *request)
{
    char *text = json_dumps(request, JSON_COMPACT);
    struct buf out = { 0 };

    must(text);
    buf_add(&out, str_z(text));
    buf_addc(&out, '\n');
    for (size_t at = 0; at < out.n; ) {
        ssize_t n = send(c->fd, out.p + at, out.n - at, MSG_NOSIGNAL);
        if (n <= 0)
            break;
        at += (size_t)n;
    }
    buf_free(&out);
    free(text);
    json_decref(request);
}

/* The next line, good until the next call. */
static int hear_line(struct caller *c, str *ret)
{
    for (size_t seen = 0;;) {
        str got = str_of(c->in.p + c->at, c->in.n - c->at);
        size_t lf = str_findc(str_from(got, seen), '\n');
        if (lf != STR_NONE) {
            *ret = str_head(got, seen + lf);
            c->at += seen + lf + 1;
            return CLI_DONE;
        }
        seen = got.n;
        if (got.n > LINE_MOST) {
            cli_say("the relay at %s answers without end", c->path);
            return CLI_NO;
        }
        buf_drop(&c->in, c->at);
        c->at = 0;
        buf_reserve(&c->in, 65536);
        ssize_t n = recv(c->fd, c->in.p + c->in.n, 65536, 0);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return unreachable(errno, c->path);
        if (n == 0) {
            cli_say("the relay at %s closed the connection in the middle of its answer", c->path);
            return CLI_UNREACHABLE;
        }
        c->in.n += (size_t)n;
    }
}

static int told_error(const json_t *line)
{
    AUTO_ARENA a = arena_new();
    str code = json_text(line, "code");

    cli_say("%.*s", STR(tell_text(a, json_text(line, "error"))));
    return str_eq(code, S("usage")) || str_eq(code, S("syntax")) || str_eq(code, S("configuration")) ? CLI_USAGE : CLI_NO;
}

int caller_ask(struct caller *c, json_t *request, void (*each)(void *ctx, const json_t *line, str text), void *ctx)
{
    str text;

    send_line(c, request);
    for (;;) {
        int code = hear_line(c, &text);
        if (code != CLI_DONE)
            return code;
        json_t *line = json_loadb(text.p, text.n, 0, NULL);
        bool done = json_is_true(json_object_get(line, "done")), error = json_is_string(json_object_get(line, "error"));
        if (!json_is_object(line)) {
            cli_say("what answers at %s is no relay", c->path);
            code = CLI_NO;
        } else if (error) {
            code = told_error(line);
        } else if (!done) {
            each(ctx, line, text);
        }
        json_decref(line);
        if (done || error || code != CLI_DONE)
            return code;
    }
}

void caller_print(void *ctx, const json_t *line, str text)
{
    (void)ctx, (void)line;
    fwrite(text.p, 1, text.n, stdout);
    putchar('\n');
}

void caller_standing(void *ctx, const json_t *line, str text)
{
    str why = json_text(line, "until_restart");

    (void)ctx, (void)text;
    if (why.n)
        cli_say("it is done, but a restart will undo it, for it could not be written down: %.*s", STR(why));
}

/* ---- members ---- */

str json_text(const json_t *object, const char *key)
{
    const json_t *v = json_object_get(object, key);
    return json_is_string(v) ? str_of(json_string_value(v), json_string_length(v)) : (str){ 0 };
}

int64_t json_number(const json_t *object, const char *key) { return json_integer_value(json_object_get(object, key)); }

when json_when(const json_t *object, const char *key)
{
    when t;
    return time_read(json_text(object, key), &t) ? t : 0;
}
