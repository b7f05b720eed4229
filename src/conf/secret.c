/* Secrets: where they are kept, and what stands there. */
#include "conf/conf.h"
#include "conf/bind.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>

#define SECRET_MOST 2048

/* The content of a file, without the line end that editors leave. */
static err read_secret(arena *a, str path, str *ret)
{
    char text[SECRET_MOST + 1];
    size_t n = 0;
    ssize_t got = 1;
    int fd = open(str_cz(a, path), O_RDONLY | O_CLOEXEC | O_NOCTTY);

    if (fd < 0)
        return fail_errno(errno, "%.*s", STR(path));
    while (n < sizeof text && (got = read(fd, text + n, sizeof text - n)) > 0)
        n += (size_t)got;
    int number = errno;
    close(fd);
    if (got < 0)
        return fail_errno(number, "%.*s", STR(path));
    if (n > SECRET_MOST)
        return fail(E_LIMIT, "%.*s: longer than %d octets", STR(path), SECRET_MOST);
    str s = str_of(text, n);
    if (str_ends(s, S("\n")))
        s.n--;
    if (str_ends(s, S("\r")))
        s.n--;
    if (str_findc(s, 0) != STR_NONE)
        return fail(E_SYNTAX, "%.*s: holds a NUL", STR(path));
    *ret = str_dup(a, s);
    return s.n ? OK : fail(E_SYNTAX, "%.*s: is empty", STR(path));
}

/* What was read before. The worker of a relay started as root reads the configuration again as another user, who may not open what root could;
 * what it knows from before the change stays good until the next start. */
static struct kept { struct kept *next; char *path, *text; } *kept;
static pthread_mutex_t kept_lock = PTHREAD_MUTEX_INITIALIZER;

static char *copy(str s)
{
    char *p = mem_new(s.n + 1);
    memcpy(p, s.p, s.n);
    return p;
}

static void keep(str path, str text)
{
    pthread_mutex_lock(&kept_lock);
    struct kept *k = kept;
    while (k && !str_eq(str_z(k->path), path))
        k = k->next;
    if (!k) {
        k = mem_new(sizeof *k);
        *k = (struct kept){ .next = kept, .path = copy(path) };
        kept = k;
    }
    mem_free(k->text);
    k->text = copy(text);
    pthread_mutex_unlock(&kept_lock);
}

static bool recall(arena *a, str path, str *ret)
{
    pthread_mutex_lock(&kept_lock);
    struct kept *k = kept;
    while (k && !str_eq(str_z(k->path), path))
        k = k->next;
    if (k)
        *ret = str_dup(a, str_z(k->text));
    pthread_mutex_unlock(&kept_lock);
    return k != NULL;
}

static err read_or_recall(struct binder *b, const struct token *t, str path, str *ret)
{
    err e = read_secret(b->a, path, ret);

    if (e == OK) {
        keep(path, *ret);
    } else if (e == E_PERM && recall(b->a, path, ret)) {
        conf_warn(b, &t->at, CONF_E_SECRET, "the secret stays as it was read at the start: %.*s", STR(err_text()));
        return OK;
    }
    return e;
}

static err find_secret(struct binder *b, const struct token *t, struct secret *ret)
{
    if (str_starts(t->text, S("env:"))) {
        str name = str_from(t->text, 4);
        const char *value = getenv(str_cz(b->a, name));
        if (!value || !*value)
            return fail(E_NOTFOUND, "%.*s is not set in the environment", STR(name));
        ret->text = str_dup(b->a, str_z(value));
        return OK;
    }
    if (str_starts(t->text, S("cred:"))) {
        str name = str_from(t->text, 5);
        const char *dir = getenv("CREDENTIALS_DIRECTORY");
        if (!dir)
            return fail(E_NOTFOUND, "there are no credentials: the service manager gave none (systemd: LoadCredential=%.*s:PATH)", STR(name));
        if (name.n == 0 || str_findc(name, '/') != STR_NONE)
            return fail(E_SYNTAX, "\"%.*s\" is no name of a credential", STR(name));
        ret->file = str_printf(b->a, "%s/%.*s", dir, STR(name));
        return read_or_recall(b, t, ret->file, &ret->text);
    }
    struct token path = *t;
    path.text = str_from(t->text, 5);
    if (!conf_path(b, &path, &ret->file))
        return fail(E_SYNTAX, "it names no file");
    if (!str_eq(ret->file, path.text))
        conf_path_note(b, t, str_printf(b->a, "file:%.*s", STR(ret->file)));
    return read_or_recall(b, t, ret->file, &ret->text);
}

static bool is_kept(str text)
{
    return str_starts(text, S("env:")) || str_starts(text, S("cred:")) || str_starts(text, S("file:"));
}

/* The same secret has the same fingerprint everywhere; of 32 bits, many others have it too. A fingerprint's is itself. */
static str fingerprint(arena *a, str secret)
{
    return str_starts(secret, S("fingerprint:")) ? secret : str_printf(a, "fingerprint:%08x", (unsigned)(str_hash_keyed(0x776179706f7374, 1, secret) & 0xffffffff));
}

/* Directives and keywords that a secret follows. */
static bool is_secret(const struct node *n, size_t arg)
{
    str before = arg ? n->arg[arg - 1].text : n->name.text;

    return str_eq(before, S("password")) || str_eq(before, S("bearer")) || str_eq(before, S("secret"));
}

str conf_public(arena *a, const struct node *n, size_t arg)
{
    str text = n->arg[arg].text;

    if (n->arg[arg].list)
        return text;
    if (is_secret(n, arg))
        return is_kept(text) ? text : fingerprint(a, text);
    /* scheme://user:password@host/ */
    size_t scheme = str_find(text, S("://"));
    str authority = scheme == STR_NONE ? S("") : str_from(text, scheme + 3);
    size_t slash = str_findc(authority, '/'), at = str_findc(str_head(authority, slash), '@'), colon = str_findc(str_head(authority, at), ':');
    if (at == STR_NONE || colon == STR_NONE)
        return text;
    str password = str_head(str_from(authority, colon + 1), at - colon - 1);
    return str_printf(a, "%.*s%.*s%.*s", STR(str_head(text, scheme + 3 + colon + 1)), STR(fingerprint(a, password)), STR(str_from(authority, at)));
}

bool conf_secret(struct binder *b, const struct token *t, struct secret *ret)
{
    *ret = (struct secret){ 0 };
    if (!is_kept(t->text)) {
        conf_warn(b, &t->at, CONF_E_LITERAL, "a secret in plain text: write env:NAME, file:PATH or cred:NAME");
        return conf_str(b, t, &ret->text);
    }
    if (find_secret(b, t, ret) == OK)
        return true;
    conf_error(b, &t->at, CONF_E_SECRET, "the secret: %.*s", STR(err_text()));
    return false;
}
