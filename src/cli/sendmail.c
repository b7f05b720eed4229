/* sendmail, mailq, newaliases: the names that programs know a mail system by. A message goes to the relay over its local socket, so that a
 * refusal is told at once; when the relay cannot be reached it is left in the drop directory, and is safe there. */
#include "cli/cli.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sysexits.h>
#include <unistd.h>

#define DEFAULT_SOCKET "/run/waypost/local.sock"
#define DEFAULT_DROP "/var/spool/waypost-drop"
#define DROP_RCPTS ((size_t)1000)    /* of one file in it; receive/drop.c takes as many whatever the configuration says */
#define INPUT_MOST ((size_t)1 << 30)

enum mode { MODE_SEND, MODE_SMTP, MODE_VERIFY, MODE_QUEUE, MODE_ALIASES, MODE_FLUSH };

struct sendmail {
    arena *a;
    enum mode mode;
    const char *config;
    bool verbose, header, dots, null_sender;
    const char *from, *full_name, *notify, *ret, *envid, *body;
    const char *flush;          /* what stood behind -q */
    struct strs operand;
    str host, socket, drop;     /* as the configuration says, or what is usual */
    struct submit submit;
    struct envelope env;
    struct buf out; str message;
};

/* ---- options ---- */

static int usage(const char *fmt, ...) PRINTF(1, 2);
static int usage(const char *fmt, ...)
{
    va_list ap;

    fprintf(stderr, "sendmail: ");
    va_start(ap, fmt);
    vfprintf(stderr, fmt, ap);
    va_end(ap);
    fprintf(stderr, "\n");
    return EX_USAGE;
}

/* -oX, -o X: what matters of them, and nothing of the rest. */
static void option(struct sendmail *s, const char *text)
{
    if (text[0] == 'i' || strcasecmp(text, "IgnoreDots") == 0 || strncasecmp(text, "IgnoreDots=True", 15) == 0)
        s->dots = true;
}

static int set_mode(struct sendmail *s, const char *text)
{
    static const struct { char letter; enum mode mode; } modes[] = {
        { 'm', MODE_SEND }, { 's', MODE_SMTP }, { 'v', MODE_VERIFY }, { 'p', MODE_QUEUE }, { 'i', MODE_ALIASES }, { 'a', MODE_SMTP },
    };

    for (size_t i = 0; i < COUNT(modes); i++)
        if (text[0] == modes[i].letter && !text[1]) {
            s->mode = modes[i].mode;
            return EX_OK;
        }
    return usage("-b%s: the relay itself is run by `waypost serve`", text);
}

/* One option that takes a value. */
static int valued(struct sendmail *s, char letter, const char *value)
{
    switch (letter) {
    case 'b': return set_mode(s, value);
    case 'B': s->body = value; break;
    case 'C': s->config = value; break;
    case 'F': s->full_name = value; break;
    case 'f': case 'r': s->from = value; break;
    case 'N': s->notify = value; break;
    case 'o': case 'O': option(s, value); break;
    case 'R': s->ret = value; break;
    case 'V': s->envid = value; break;
    default: break;             /* -A -D -d -h -L -M -p -X -e: of another program's making, and harmless to leave out */
    }
    return EX_OK;
}

/* Options may stand together, and among the recipients; the value of one follows it, at once or as the next word. */
static int options(struct sendmail *s, int argc, char **argv)
{
    bool over = false;

    s->operand.p = NEW_ARRAY(s->a, str, argc + 1);
    for (int i = 1; i < argc; i++) {
        const char *word = argv[i];
        if (over || word[0] != '-' || !word[1]) {
            s->operand.p[s->operand.n++] = str_z(word);
            continue;
        }
        if (strcmp(word, "--") == 0) {
            over = true;
            continue;
        }
        for (const char *p = word + 1; *p; p++) {
            if (strchr("bBCFfrNoORVADdhLMpXe", *p)) {
                const char *value = p[1] ? p + 1 : *p == 'd' || *p == 'e' ? "" : i + 1 < argc ? argv[++i] : NULL;
                if (!value)
                    return usage("-%c wants a value", *p);
                int code = valued(s, *p, value);
                if (code != EX_OK)
                    return code;
                break;
            }
            if (*p == 'q') { /* -q30m is how often a daemon of another make looks: it says nothing of this call, except that it may be all of it */
                s->flush = p + 1;
                break;
            }
            switch (*p) {
            case 't': s->header = true; break;
            case 'i': s->dots = true; break;
            case 'v': s->verbose = true; break;
            case 'I': s->mode = MODE_ALIASES; break;
            case 'Q': case 'm': case 'n': case 's': case 'E': case 'G': case 'U': case 'x': case 'T': case 'c': break;
            default: return usage("unknown option -%c", *p);
            }
        }
    }
    return EX_OK;
}

/* ---- where and who ---- */

static const struct node *child(const struct node *n, str name)
{
    for (size_t i = 0; n && i < n->nchild; i++)
        if (str_eq(n->child[i].name.text, name))
            return &n->child[i];
    return NULL;
}

static void path_of(arena *a, const struct node *n, str *ret)
{
    struct diags d = { .a = a };
    struct binder b = { .a = a, .diags = &d };
    str path;

    if (n && n->narg == 1 && conf_path(&b, &n->arg[0], &path))
        *ret = path;
}

/* The configuration may be secret: then the usual places are tried. */
static int places(struct sendmail *s)
{
    struct diags d = { .a = s->a };
    struct node root = { 0 };
    char host[256] = "localhost";

    gethostname(host, sizeof host - 1);
    s->host = str_dup(s->a, str_z(host));
    s->socket = S(DEFAULT_SOCKET);
    s->drop = S(DEFAULT_DROP);
    err e = conf_parse(s->a, str_z(s->config ? s->config : CLI_CONFIG), NULL, &root, &d);
    if (e != OK && s->config) {
        cli_say("%.*s", STR(err_text()));
        return EX_CONFIG;
    }
    if (e == OK) {
        const struct node *local = child(&root, S("local")), *name = child(&root, S("hostname"));
        if (name && name->narg == 1)
            s->host = name->arg[0].text;
        if (local) {
            s->socket = s->drop = S("");
            path_of(s->a, child(local, S("socket")), &s->socket);
            path_of(s->a, child(local, S("drop")), &s->drop);
        }
    }
    if (!domain_valid(s->host))
        s->host = S("localhost.localdomain");
    return EX_OK;
}

static int who(struct sendmail *s)
{
    struct passwd *pw = getpwuid(getuid());
    str name = pw ? str_z(pw->pw_name) : str_printf(s->a, "uid%u", (unsigned)getuid());
    struct strs from = { 0 };

    s->submit = (struct submit){ .host = s->host, .author = str_printf(s->a, "%.*s@%.*s", STR(name), STR(s->host)), .dots = s->dots,
                                 .from_header = s->header };
    s->env.sender = s->submit.author;
    if (s->full_name)
        s->submit.full_name = str_z(s->full_name);
    else if (pw && pw->pw_gecos)
        s->submit.full_name = str_head(str_z(pw->pw_gecos), str_findc(str_z(pw->pw_gecos), ','));
    if (!s->from)
        return EX_OK;
    if (!s->from[0] || strcmp(s->from, "<>") == 0) {
        s->env.sender = S("");
        return EX_OK;
    }
    if (address_list(s->a, str_z(s->from), s->host, &from) != OK || from.n != 1)
        return usage("-f %s is no address", s->from);
    s->env.sender = s->submit.author = from.p[0];
    return EX_OK;
}

/* ---- the message ---- */

static int dsn_options(struct sendmail *s)
{
    struct command c;
    str line = S("RCPT TO:<a@b.example>");

    if (s->notify)
        line = str_printf(s->a, "%.*s NOTIFY=%s", STR(line), s->notify);
    command_parse(s->a, line, &c);
    if (c.refuse.code)
        return usage("-N %s: %.*s", s->notify, STR(c.refuse.text));
    for (size_t i = 0; i < s->env.nrcpt; i++)
        s->env.rcpt[i].notify = c.notify;
    line = S("MAIL FROM:<>");
    if (s->ret)
        line = str_printf(s->a, "%.*s RET=%s", STR(line), s->ret);
    if (s->envid)
        line = str_printf(s->a, "%.*s ENVID=%.*s", STR(line), STR(xtext_encode(s->a, str_z(s->envid))));
    command_parse(s->a, line, &c);
    if (c.refuse.code)
        return usage("%.*s", STR(c.refuse.text));
    s->env.ret = c.ret;
    s->env.envid = c.envid;
    return EX_OK;
}

static int read_all(struct buf *in)
{
    for (;;) {
        buf_reserve(in, 65536);
        ssize_t n = read(STDIN_FILENO, in->p + in->n, 65536);
        if (n == 0)
            return EX_OK;
        if (n < 0 && errno != EINTR) {
            cli_say("reading the message: %s", strerror(errno));
            return EX_IOERR;
        }
        in->n += n > 0 ? (size_t)n : 0;
        if (in->n > INPUT_MOST) {
            cli_say("the message is larger than 1 GiB");
            return EX_DATAERR;
        }
    }
}

static bool has_utf8(str s)
{
    for (size_t i = 0; i < s.n; i++)
        if (s.p[i] & 0x80)
            return true;
    return false;
}

static int recipients(struct sendmail *s, struct strs *rcpt)
{
    for (size_t i = 0; i < s->operand.n; i++)
        if (address_list(s->a, s->operand.p[i], s->host, rcpt) != OK) {
            cli_say("recipient \"%.*s\": %.*s", STR(str_printable(s->a, s->operand.p[i])), STR(err_text()));
            return EX_USAGE;
        }
    return EX_OK;
}

static void envelope(struct sendmail *s, const struct strs *rcpt)
{
    s->env.rcpt = NEW_ARRAY(s->a, struct rcpt, rcpt->n + 1);
    s->env.smtputf8 = has_utf8(s->env.sender);
    for (size_t i = 0; i < rcpt->n; i++) {
        s->env.rcpt[s->env.nrcpt++] = (struct rcpt){ .to = rcpt->p[i], .given = rcpt->p[i] };
        s->env.smtputf8 |= has_utf8(rcpt->p[i]);
    }
}

static int compose(struct sendmail *s)
{
    AUTO_BUF in = { 0 };
    struct strs rcpt = { 0 };
    struct scan scan;

    int code = recipients(s, &rcpt);
    if (code == EX_OK)
        code = read_all(&in);
    if (code != EX_OK)
        return code;
    if (submit_write(s->a, &s->submit, buf_str(&in), &s->out, &rcpt) != OK) {
        cli_say("%.*s", STR(err_text()));
        return EX_DATAERR;
    }
    s->message = buf_str(&s->out);
    if (!rcpt.n) {
        cli_say("no recipient: name them, or with -t in the header");
        return EX_USAGE;
    }
    envelope(s, &rcpt);
    scan_init(&scan);
    scan_feed(&scan, s->message);
    scan_end(&scan);
    s->env.body = scan.eight_bit_body || scan.eight_bit_header ? BODY_8BIT : BODY_7BIT;
    return dsn_options(s);
}

/* ---- by the socket ---- */

/* What programs make of it: nobody there, may not, not now, no. */
static int exit_of(const struct reply *r)
{
    if (reply_later(*r))
        return EX_TEMPFAIL;
    if (r->enhanced.subject == 1)
        return r->enhanced.detail == 2 ? EX_NOHOST : EX_NOUSER;
    if (r->enhanced.subject == 7)
        return EX_NOPERM;
    return r->enhanced.subject == 6 ? EX_DATAERR : EX_UNAVAILABLE;
}

static err whole(void *ctx, size_t i, str *ret)
{
    *ret = i ? (str){ 0 } : ((struct sendmail *)ctx)->message;
    return OK;
}

/* Settled recipients are told of when they were refused; the worst exit code counts. *left: those that are to be tried later. */
static int settle(struct sendmail *s, const struct answer *out, struct strs *left)
{
    int code = EX_OK;

    *left = (struct strs){ .p = NEW_ARRAY(s->a, str, s->env.nrcpt) };
    for (size_t i = 0; i < s->env.nrcpt; i++) {
        const struct reply *r = &out[i].reply;
        if (out[i].settled && reply_ok(*r)) {
            if (s->verbose)
                printf("%.*s... %.*s\n", STR(s->env.rcpt[i].to), STR(reply_print(s->a, r)));
        } else if (out[i].settled && reply_never(*r)) {
            cli_say("<%.*s>: %.*s", STR(s->env.rcpt[i].to), STR(reply_print(s->a, r)));
            code = exit_of(r);
        } else
            left->p[left->n++] = s->env.rcpt[i].to;
    }
    return code;
}

struct submission { struct sendmail *s; struct strs left; int code; };

/* The recipients become those that are left. */
static void narrow(struct sendmail *s, const struct strs *left)
{
    size_t n = 0;

    for (size_t i = 0; i < s->env.nrcpt && n < left->n; i++)
        if (s->env.rcpt[i].to.p == left->p[n].p) {
            s->env.rcpt[n] = s->env.rcpt[i];
            n++;
        }
    s->env.nrcpt = (uint32_t)n;
}

/* One transaction. Whoever has no answer at the end, or one for now, is left. */
static err send_once(struct client *c, struct submission *g)
{
    struct sendmail *s = g->s;
    struct answer *out = NEW_ARRAY(s->a, struct answer, s->env.nrcpt);
    struct body body = { .size = s->message.n, .dots = true, .piece = whole, .ctx = s };
    bool any = false;

    client_offer(c, &s->env, s->message.n);
    err e = client_answers(c, &s->env, s->a, out, &any);
    if (e == OK && any) {
        e = client_body(c, &s->env, &body, out);
        if (e == OK)
            e = client_settle(c, &s->env, s->a, out);
    }
    int code = settle(s, out, &g->left);
    g->code = code ? code : g->code;
    return e;
}

/* More recipients than the relay takes of one message go in several, as RFC 5321 4.5.3.1.10 has it: as long as each settles some. */
static err send_run(void *arg)
{
    struct submission *g = arg;
    struct sendmail *s = g->s;
    struct stream *line;
    struct client *c = NULL;
    struct addr at;

    err e = addr_parse(str_printf(s->a, "unix:%.*s", STR(s->socket)), 0, &at);
    if (e == OK)
        e = stream_connect(&at, NULL, clock_now() + 10 * SECOND, &line);
    if (e == OK)
        e = client_open(line, s->host, &c);
    if (e != OK)
        settle(s, NEW_ARRAY(s->a, struct answer, s->env.nrcpt), &g->left); /* nobody has an answer */
    while (e == OK) {
        size_t before = s->env.nrcpt;
        e = send_once(c, g);
        if (g->left.n == 0 || g->left.n == before)
            break;
        narrow(s, &g->left);
    }
    if (e != OK && s->verbose)
        cli_say("the relay: %.*s", STR(err_text()));
    if (c && e == OK)
        client_quit(c);
    else
        client_free(c);
    return OK;
}

/* ---- by the drop directory ---- */

static err write_all(int fd, str text)
{
    while (text.n) {
        ssize_t n = write(fd, text.p, text.n);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return fail_errno(n < 0 ? errno : EIO, "writing");
        text = str_from(text, (size_t)n);
    }
    return OK;
}

static str path_text(struct sendmail *s, str sender)
{
    static const char *const body[] = { "", " BODY=8BITMIME", "" };
    struct buf b = buf_in(s->a, 300);

    buf_addf(&b, "<%.*s>%s%s", STR(sender), body[s->env.body], s->env.smtputf8 ? " SMTPUTF8" : "");
    if (s->env.ret)
        buf_addf(&b, " RET=%s", s->env.ret == RET_FULL ? "FULL" : "HDRS");
    if (s->env.envid.n)
        buf_addf(&b, " ENVID=%.*s", STR(xtext_encode(s->a, s->env.envid)));
    return buf_str(&b);
}

/* One file, under a name that nobody can guess, since nobody may list the directory: it has to be readable for the relay. */
static err leave_file(struct sendmail *s, int dir, const str *to, size_t n, char stem[ULID_TEXT])
{
    AUTO_BUF head = { 0 };
    char made[64];
    struct strs rcpt = { .p = NEW_ARRAY(s->a, str, n), .n = n };
    str name = ulid_print(ulid_new(), stem);

    for (size_t i = 0; i < n; i++)
        rcpt.p[i] = str_printf(s->a, "<%.*s>%s%s", STR(to[i]), s->notify ? " NOTIFY=" : "", s->notify ? s->notify : "");
    drop_head(&head, name, path_text(s, s->env.sender), &rcpt, s->message);
    snprintf(made, sizeof made, "%.*s" DROP_MADE, STR(name));
    int fd = openat(dir, made, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0644);
    if (fd < 0) {
        err e = fail_errno(errno, "making a file in %.*s", STR(s->drop));
        stem[0] = '\0';
        return e;
    }
    err e = OK;
    if (fchmod(fd, 0644) < 0) /* whatever the umask */
        e = fail_errno(errno, "its rights");
    if (e == OK)
        e = write_all(fd, buf_str(&head));
    if (e == OK)
        e = write_all(fd, s->message);
    if (e == OK && fsync(fd) < 0)
        e = fail_errno(errno, "bringing it to the disk");
    close(fd);
    return e;
}

static void drop_path(char *ret, size_t n, const char *stem, const char *ends) { snprintf(ret, n, "%.*s%s", ULID_TEXT, stem, ends); }

/* All files are whole and on the disk before the first gets the name that the relay looks for, and so are those names before we say that all is well. */
static err leave_files(struct sendmail *s, int dir, const struct strs *left, char (*stem)[ULID_TEXT], size_t n)
{
    char made[64], ready[64];
    int fd = -1;

    for (size_t i = 0; i < n; i++)
        TRY(leave_file(s, dir, left->p + i * DROP_RCPTS, MIN(left->n - i * DROP_RCPTS, DROP_RCPTS), stem[i]));
    for (size_t i = 0; i < n; i++) {
        drop_path(made, sizeof made, stem[i], DROP_MADE);
        drop_path(ready, sizeof ready, stem[i], DROP_READY);
        if (i == 0)
            fd = openat(dir, made, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
        if (fd < 0 || renameat(dir, made, dir, ready) < 0) {
            err e = fail_errno(errno, "giving it its name");
            close(fd);
            return e;
        }
    }
    /* The directory is not ours to open, and so not to sync; its file system is. */
    err e = syncfs(fd) < 0 ? fail_errno(errno, "bringing its name to the disk") : OK;
    close(fd);
    return e;
}

static err leave(struct sendmail *s, const struct strs *left)
{
    size_t n = (left->n + DROP_RCPTS - 1) / DROP_RCPTS;
    char (*stem)[ULID_TEXT] = mem_new(n * sizeof *stem);
    char name[64];
    int dir = open(str_cz(s->a, s->drop), O_PATH | O_DIRECTORY | O_CLOEXEC);
    err e = dir < 0 ? fail_errno(errno, "%.*s", STR(s->drop)) : leave_files(s, dir, left, stem, n);

    for (size_t i = 0; i < n && dir >= 0 && e != OK; i++) { /* what was made of it; what the relay has taken already stays taken */
        if (!stem[i][0])
            continue;
        drop_path(name, sizeof name, stem[i], DROP_MADE);
        unlinkat(dir, name, 0);
        drop_path(name, sizeof name, stem[i], DROP_READY);
        unlinkat(dir, name, 0);
    }
    if (dir >= 0)
        close(dir);
    mem_free(stem);
    return e;
}

/* ---- modes ---- */

static int send_message(struct sendmail *s)
{
    struct submission g = { .s = s };

    int code = compose(s);
    if (code != EX_OK)
        return code;
    umask(022);
    if (s->socket.n)
        task_main(send_run, &g);
    else
        settle(s, NEW_ARRAY(s->a, struct answer, s->env.nrcpt), &g.left);
    if (!g.left.n)
        return g.code;
    if (!s->drop.n) {
        cli_say("the relay cannot take mail just now, and there is no drop directory");
        return EX_TEMPFAIL;
    }
    if (leave(s, &g.left) != OK) {
        cli_say("the relay cannot take mail just now, and neither can the drop directory: %.*s", STR(err_text()));
        return EX_TEMPFAIL;
    }
    if (s->verbose)
        printf("left in %.*s for the relay\n", STR(s->drop));
    return g.code;
}

static err verify_run(void *arg)
{
    struct submission *g = arg;
    struct sendmail *s = g->s;
    struct stream *line;
    struct client *c;
    struct addr at;
    struct reply r = { 0 };

    g->code = EX_TEMPFAIL;
    TRY(addr_parse(str_printf(s->a, "unix:%.*s", STR(s->socket)), 0, &at));
    TRY(stream_connect(&at, NULL, clock_now() + 10 * SECOND, &line));
    TRY(client_open(line, s->host, &c));
    err e = client_command(c, str_printf(s->a, "MAIL FROM:<%.*s>%s", STR(s->env.sender), s->env.smtputf8 ? " SMTPUTF8" : ""), MINUTE, &r);
    g->code = e != OK ? EX_TEMPFAIL : reply_ok(r) ? EX_OK : exit_of(&r);
    for (size_t i = 0; e == OK && g->code != EX_TEMPFAIL && i < s->env.nrcpt; i++) {
        e = client_command(c, str_printf(s->a, "RCPT TO:<%.*s>", STR(s->env.rcpt[i].to)), MINUTE, &r);
        if (e != OK)
            break;
        printf("%.*s... %.*s\n", STR(tell_text(s->a, s->env.rcpt[i].to)), STR(reply_print(s->a, &r)));
        if (!reply_ok(r))
            g->code = exit_of(&r);
    }
    client_quit(c);
    return e;
}

static int verify(struct sendmail *s)
{
    struct submission g = { .s = s };
    struct strs rcpt = { 0 };

    int code = recipients(s, &rcpt);
    if (code != EX_OK)
        return code;
    if (!rcpt.n)
        return usage("-bv: which addresses?");
    envelope(s, &rcpt);
    if (task_main(verify_run, &g) != OK) {
        cli_say("asking the relay at %.*s: %.*s", STR(s->socket), STR(err_text()));
        return EX_TEMPFAIL;
    }
    return g.code;
}

/* One way of a conversation: what `from` says goes to `to`. False when it is over. */
static bool pass(int from, int to)
{
    char room[2048];
    ssize_t n = read(from, room, sizeof room);

    return n > 0 ? write_all(to, str_of(room, (size_t)n)) == OK : n < 0 && (errno == EINTR || errno == EAGAIN);
}

/* SMTP on our input and output is SMTP with the relay, which sees by the kernel whose process this is. */
static int smtp(struct sendmail *s)
{
    static const char down[] = "421 4.3.2 the relay is not running\r\n";
    struct sockaddr_un un = { .sun_family = AF_UNIX };
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    snprintf(un.sun_path, sizeof un.sun_path, "%.*s", STR(s->socket));
    if (fd < 0 || s->socket.n == 0 || connect(fd, (struct sockaddr *)&un, sizeof un) < 0) {
        write_all(STDOUT_FILENO, str_z(down));
        return EX_TEMPFAIL;
    }
    struct pollfd p[2] = { { .fd = STDIN_FILENO, .events = POLLIN }, { .fd = fd, .events = POLLIN } };
    for (;;) {
        if (poll(p, 2, -1) < 0 && errno != EINTR)
            return EX_OSERR;
        if (p[1].revents && !pass(fd, STDOUT_FILENO))
            return EX_OK;
        if (p[0].revents && !pass(STDIN_FILENO, fd)) {
            shutdown(fd, SHUT_WR);
            p[0].fd = -1;
        }
        p[0].revents = p[1].revents = 0;
    }
}

static int ask(struct sendmail *s, int (*verb)(int argc, char **argv), const char *name, const char *how, const char *all)
{
    static const int codes[] = { [CLI_DONE] = EX_OK, [CLI_NO] = EX_UNAVAILABLE, [CLI_USAGE] = EX_CONFIG, [CLI_UNREACHABLE] = EX_TEMPFAIL };
    char *argv[6];
    int n = 0;

    argv[n++] = str_cz(s->a, str_z(name));
    if (how)
        argv[n++] = str_cz(s->a, str_z(how));
    if (all)
        argv[n++] = str_cz(s->a, str_z(all));
    if (s->config) {
        argv[n++] = str_cz(s->a, S("-c"));
        argv[n++] = str_cz(s->a, str_z(s->config));
    }
    argv[n] = NULL;
    int code = verb(n, argv);
    return code >= 0 && (size_t)code < COUNT(codes) ? codes[code] : EX_SOFTWARE;
}

/* Whoever changes a list calls it, package scripts among them, also while no relay runs: then the next start reads everything. */
static int newaliases(struct sendmail *s)
{
    int code = ask(s, cli_reload, "reload", NULL, NULL);
    str path;

    if (code != EX_TEMPFAIL)
        return code;
    bool closed = relay_socket(s->a, &(struct relay_at){ .config = s->config ? s->config : CLI_CONFIG }, &path) == CLI_DONE
                  && access(str_cz(s->a, path), W_OK) < 0 && errno == EACCES;
    return closed ? EX_NOPERM : EX_OK;
}

static int run(struct sendmail *s, int argc, char **argv)
{
    int code = options(s, argc, argv);

    if (code != EX_OK)
        return code;
    if (s->flush && s->operand.n && !s->flush[0])
        return usage("-q tries again what waits, and takes no recipients");
    if (s->flush && s->mode == MODE_SEND && !s->operand.n && !s->header)
        s->mode = MODE_FLUSH;
    switch (s->mode) {
    case MODE_QUEUE: return ask(s, cli_queue, "queue", "list", NULL);
    case MODE_FLUSH: return ask(s, cli_queue, "queue", "retry", "--all");
    case MODE_ALIASES: return newaliases(s);
    default: break;
    }
    code = places(s);
    if (code == EX_OK)
        code = who(s);
    if (code != EX_OK)
        return code;
    return s->mode == MODE_SMTP ? smtp(s) : s->mode == MODE_VERIFY ? verify(s) : send_message(s);
}

static int as(enum mode mode, int argc, char **argv)
{
    AUTO_ARENA a = arena_new();
    struct sendmail s = { .a = a, .mode = mode };

    int code = run(&s, argc, argv);
    buf_free(&s.out);
    return code;
}

int cli_sendmail(int argc, char **argv) { return as(MODE_SEND, argc, argv); }
int cli_mailq(int argc, char **argv) { return as(MODE_QUEUE, argc, argv); }
int cli_newaliases(int argc, char **argv) { return as(MODE_ALIASES, argc, argv); }
