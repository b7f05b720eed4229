#include "kit/kit.h"
#include "main/inside.h"

#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

/* ---- a relay that is asked ---- */

static void echo(struct control *c, void *relay)
{
    AUTO_BUF out = { 0 };

    CHECK(relay == (void *)&machine);
    buf_add(&out, S("{\"said\":"));
    buf_add_json(&out, control_arg(c, "say"));
    buf_addf(&out, ",\"times\":%lld,\"loud\":%s}", (long long)control_int(c, "times", -1), control_flag(c, "loud") ? "true" : "false");
    for (int64_t i = 0; i < control_int(c, "times", 1); i++)
        if (!control_line(c, buf_str(&out)))
            return;
}

static void refuse(struct control *c, void *relay)
{
    (void)relay;
    control_fail(c, "notfound", "there is no \"%s\"", "x\ny");
    control_fail(c, "other", "this is not the cause");
}

static void change(struct control *c, void *relay)
{
    (void)relay;
    control_line(c, S("{\"changed\":true}"));
}

static unsigned lines_of_flood;
static void flood(struct control *c, void *relay)
{
    (void)relay;
    while (control_line(c, S("{\"x\":\"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\"}")))
        lines_of_flood++;
}

static const struct control_verb test_verbs[] = {
    { "echo", echo }, { "refuse", refuse }, { "change", change, .changes = true }, { "flood", flood }, { NULL },
};

struct scene { struct addr at; int fd; err (*play)(struct scene *s); };

static err serve_it(void *scene) { return control_serve_verbs(((struct scene *)scene)->fd, test_verbs, (void *)&machine); }

static err play(void *scene)
{
    struct scene *s = scene;
    AUTO_GROUP g = group_open(clock_now() + 60 * SECOND);

    TRY(group_spawn(&g, "server", serve_it, s));
    err e = s->play(s);
    group_cancel(&g);
    CHECK_ERR(group_wait(&g), E_CANCELED);
    return e;
}

static void with_server(err (*fn)(struct scene *s))
{
    char path[108];
    struct scene s = { .play = fn };

    snprintf(path, sizeof path, "unix:%s/c", kit_dir());
    CHECK_ERR(addr_parse(str_z(path), 0, &s.at), OK);
    if (!CHECK_ERR(listen_open(&s.at, &s.fd), OK))
        return;
    CHECK_ERR(task_main(play, &s), OK);
    close(s.fd);
}

/* Send, and hear until `lines` lines have come, or the end; what was heard, in `a`. */
static str ask(struct scene *s, arena *a, str say, unsigned lines)
{
    AUTO(stream) c = NULL;
    struct buf got = buf_in(a, 256);

    if (!CHECK_ERR(stream_connect(&s->at, NULL, clock_now() + SECOND, &c), OK))
        return (str){ 0 };
    stream_say(c, say);
    while (lines && stream_fill(c, 4096, clock_now() + 20 * SECOND) == OK) {
        str part = stream_pending(c);
        for (size_t i = 0; i < part.n && lines; i++) {
            buf_addc(&got, part.p[i]);
            lines -= part.p[i] == '\n';
        }
        stream_consume(c, part.n);
    }
    return buf_str(&got);
}

static err dialogue(struct scene *s)
{
    static const struct { str say, want; unsigned lines; } cases[] = {
        { S("{\"do\":\"echo\",\"say\":\"a\\\"\\u00fc\",\"times\":2,\"loud\":true}\n"),
          S("{\"said\":\"a\\\"\xc3\xbc\",\"times\":2,\"loud\":true}\n{\"said\":\"a\\\"\xc3\xbc\",\"times\":2,\"loud\":true}\n{\"done\":true}\n"), 3 },
        { S("{\"do\":\"echo\",\"say\":7,\"times\":\"7\",\"loud\":1}\r\n"), S("{\"said\":\"\",\"times\":-1,\"loud\":false}\n{\"done\":true}\n"), 2 },
        { S("{\"do\":\"refuse\"}\n"), S("{\"error\":\"there is no \\\"x\\ny\\\"\",\"code\":\"notfound\"}\n"), 1 },
        { S("{\"do\":\"change\"}\n{\"do\":\"change\"}\n"), S("{\"changed\":true}\n{\"done\":true}\n{\"changed\":true}\n{\"done\":true}\n"), 4 },
        { S("{\"do\":\"nothing\"}\n"), S("{\"error\":\"this relay knows no \\\"nothing\\\"\",\"code\":\"usage\"}\n"), 1 },
        { S("\n"), S("{\"error\":\"the request is no JSON: '[' or '{' expected near end of file\",\"code\":\"syntax\"}\n"), 1 },
        { S("[]\n"), S("{\"error\":\"the request is no object with a string \\\"do\\\"\",\"code\":\"syntax\"}\n"), 1 },
        { S("{\"do\":1}\n"), S("{\"error\":\"the request is no object with a string \\\"do\\\"\",\"code\":\"syntax\"}\n"), 1 },
        { S("{\"do\":[[[[[[[[[[]]]]]]]]]]}\n"), S("{\"error\":\"the request is nested too deeply\",\"code\":\"syntax\"}\n"), 1 },
    };
    AUTO_ARENA a = arena_new();

    EACH(cases, c)
        CHECK_STR(ask(s, a, c->say, c->lines), c->want, c->say);
    return OK;
}
TEST(control_answers_line_by_line) { with_server(dialogue); }

static err long_line(struct scene *s)
{
    AUTO_ARENA a = arena_new();
    struct buf b = buf_in(a, 70000);

    for (size_t i = 0; i < 66000; i++)
        buf_addc(&b, 'a');
    CHECK_STR(ask(s, a, buf_str(&b), 2), S("{\"error\":\"a request has at most 65536 bytes\",\"code\":\"limit\"}\n"));
    return OK;
}
TEST(control_lines_are_bounded) { with_server(long_line); }

/* Who takes nothing more holds up nobody, and is left when the line closes. */
static err reader_that_left(struct scene *s)
{
    AUTO_ARENA a = arena_new();

    lines_of_flood = 0;
    CHECK(ask(s, a, S("{\"do\":\"flood\"}\n"), 10).n > 0);
    for (int i = 0; i < 200; i++) {
        unsigned before = lines_of_flood;
        TRY(task_sleep(clock_now() + 10 * MILLISECOND));
        if (lines_of_flood == before && i > 2)
            break;
    }
    unsigned seen = lines_of_flood;
    TRY(task_sleep(clock_now() + 20 * MILLISECOND));
    CHECK_INT(lines_of_flood, seen);
    return OK;
}
TEST(control_line_tells_that_the_client_is_gone) { with_server(reader_that_left); }

static err crowd(struct scene *s)
{
    AUTO_ARENA a = arena_new();
    struct stream *c[33] = { 0 };

    for (size_t i = 0; i < COUNT(c); i++)
        CHECK_ERR(stream_connect(&s->at, NULL, clock_now() + SECOND, &c[i]), OK);
    CHECK_ERR(stream_fill(c[32], 4096, clock_now() + 10 * SECOND), OK);
    CHECK_STR(str_trim(stream_pending(c[32])), S("{\"error\":\"too many ask at once\",\"code\":\"limit\"}"));
    for (size_t i = 0; i < COUNT(c); i++)
        stream_free(c[i]);
    TRY(task_sleep(clock_now() + 50 * MILLISECOND));
    CHECK_STR(ask(s, a, S("{\"do\":\"change\"}\n"), 2), S("{\"changed\":true}\n{\"done\":true}\n"));
    return OK;
}
TEST(control_sessions_are_bounded) { with_server(crowd); }

/* ---- other users; only root can become one ---- */

int setgroups(size_t n, const gid_t *list); /* <grp.h> has a struct group of its own */

static int ask_as(struct scene *s, gid_t group, const char *say, char *heard, size_t n)
{
    int got[2], status = 0;

    if (pipe2(got, O_CLOEXEC) < 0)
        return -1;
    pid_t pid = fork();
    if (pid == 0) {
        ssize_t m = -1;
        int fd = socket(AF_UNIX, SOCK_STREAM, 0);
        if (setgroups(0, NULL) == 0 && setgid(group) == 0 && setuid(65534) == 0 && connect(fd, &s->at.sa, s->at.n) == 0) {
            m = write(fd, say, strlen(say)); /* who is turned away may be too late with this */
            m = read(fd, heard, n);
        }
        m = write(got[1], heard, (size_t)MAX(m, 0));
        _exit(m < 0);
    }
    close(got[1]);
    /* Meanwhile the server has to run, so this waits as a task. */
    struct io io = { 0 };
    fcntl(got[0], F_SETFL, O_NONBLOCK);
    CHECK_ERR(io_add(&io, got[0]), OK);
    io.readable = false;
    CHECK_ERR(io_wait_readable(&io, clock_now() + 20 * SECOND), OK);
    ssize_t m = read(got[0], heard, n - 1);
    io_del(&io);
    close(got[0]);
    heard[MAX(m, 0)] = 0;
    waitpid(pid, &status, 0);
    return status;
}

static void quiet(void *ctx, enum log_level level, str line) { (void)ctx, (void)level, (void)line; }

static void open_wider(struct scene *s)
{
    CHECK_INT(chown(s->at.un.sun_path, 0, 4242), 0);
    CHECK_INT(chmod(s->at.un.sun_path, 0666), 0);
    CHECK_INT(chmod(kit_dir(), 0755), 0);
}

static err readers(struct scene *s)
{
    char heard[512];

    log_start(&(struct log_setup){ .tap = quiet });
    CHECK_INT(ask_as(s, 4242, "{\"do\":\"echo\",\"say\":\"x\"}\n", heard, sizeof heard), 0);
    CHECK(str_starts(str_z(heard), S("{\"said\":\"x\"")), str_z(heard));
    CHECK_INT(ask_as(s, 4242, "{\"do\":\"change\"}\n", heard, sizeof heard), 0);
    CHECK(str_has(str_z(heard), S("is for root and the relay's own user")), str_z(heard));
    ask_as(s, 65534, "{\"do\":\"echo\",\"say\":\"x\"}\n", heard, sizeof heard);
    CHECK(str_has(str_z(heard), S("only root, the relay's own user")), str_z(heard));
    log_stop();
    return OK;
}

TEST(control_knows_who_asks)
{
    char path[108];
    struct scene s = { .play = readers };

    if (geteuid() != 0)
        return;
    snprintf(path, sizeof path, "unix:%s/c", kit_dir());
    CHECK_ERR(addr_parse(str_z(path), 0, &s.at), OK);
    CHECK_ERR(listen_open(&s.at, &s.fd), OK);
    open_wider(&s);
    CHECK_ERR(task_main(play, &s), OK);
    close(s.fd);
}

/* ---- the parser alone ---- */

TEST(control_parse_refuses_what_is_no_request)
{
    static const struct { str line; err want; } cases[] = {
        { S("{\"do\":\"x\"}"), OK },
        { S("{\"do\":\"x\",\"s\":\"[[[[[[[[[[[[[[\\\"{{{{{{{{{\"}"), OK },
        { S(""), E_SYNTAX },
        { S("{}"), E_SYNTAX },
        { S("{\"do\":\"x\",\"do\":\"y\"}"), E_SYNTAX },
        { S("{\"do\":\"x\"} more"), E_SYNTAX },
        { S("{\"do\":\"a\\u0000b\"}"), E_SYNTAX },
        { S("{\"do\":\"\xff\"}"), E_SYNTAX },
    };
    EACH(cases, c) {
        json_t *got = NULL;
        CHECK_ERR(control_parse(c->line, &got), c->want, c->line);
        json_decref(got);
    }
}
