#include "kit/kit.h"
#include "table/table.h"
#include "table/file.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>
#include <utime.h>

/* An address as path_parse() would leave it. */
static struct path path_of(str text)
{
    struct path p = { .text = text, .local = text, .quoted = str_starts(text, S("\"")) };
    for (size_t i = text.n; i > 0; i--) {
        if (text.p[i - 1] == '@') {
            p.local = str_head(text, i - 1);
            p.domain = str_from(text, i);
            break;
        }
    }
    return p;
}

static struct table *table_with(str text, char detail)
{
    struct buf b = { 0 };
    struct table *t = NULL;
    buf_add(&b, text);
    CHECK_ERR(table_of_text(S("list"), &b, detail, 1000, &t), OK, text);
    buf_free(&b);
    return t;
}

TEST(table_file_finds)
{
    static const str text = S(
        "\xef\xbb\xbf# who is here\n"
        "\n"
        "Ann@Example.COM\r\n"
        "  bob@example.com   one two \t\n"
        "@all.example\tall\n"
        "sales-*@example.com sales\n"
        "*-bounces@*.lists.example\n"
        "@*.wild.example wild\n"
        "postmaster\n"
        "team-* teams\n"
        "\"odd one\"@example.com odd\n"
        "\"x\\\"y\"@example.com\n"
        "\"q*\"@example.com star\n"
        "carl+fixed@example.com fixed\n"
        "carl@example.com plain\n"
        "bob@example.com second\n"
        "last@example.com end");
    static const struct { str who; enum found plus; str value; } cases[] = {
        { S("ann@example.com"), FOUND, S("") },
        { S("ANN@EXAMPLE.com"), FOUND, S("") },
        { S("\"ann\"@example.com"), FOUND, S("") },
        { S("an@example.com"), ABSENT, S("") },
        { S("annn@example.com"), ABSENT, S("") },
        { S("ann@example.co"), ABSENT, S("") },
        { S("ann@sub.example.com"), ABSENT, S("") },
        { S("bob@example.com"), FOUND, S("one two") },
        { S("bob+x@example.com"), FOUND, S("one two") },
        { S("bob+x+y@example.com"), FOUND, S("one two") },
        { S("+bob@example.com"), ABSENT, S("") },
        { S("carl+fixed@example.com"), FOUND, S("fixed") },
        { S("carl+other@example.com"), FOUND, S("plain") },
        { S("any.body@all.example"), FOUND, S("all") },
        { S("any@not.all.example"), ABSENT, S("") },
        { S("sales-emea@example.com"), FOUND, S("sales") },
        { S("sales-@example.com"), FOUND, S("sales") },
        { S("sales@example.com"), ABSENT, S("") },
        { S("sales-x@example.org"), ABSENT, S("") },
        { S("\"sales-a@b\"@example.com"), ABSENT, S("") },     /* * is no @ */
        { S("gnu-bounces@a.b.lists.example"), FOUND, S("") },
        { S("gnu-bounces@lists.example"), ABSENT, S("") },
        { S("who@a.wild.example"), FOUND, S("wild") },
        { S("who@wild.example"), ABSENT, S("") },
        { S("Postmaster@anywhere.example"), FOUND, S("") },
        { S("postmaster"), FOUND, S("") },
        { S("team-7@anywhere.example"), FOUND, S("teams") },
        { S("\"odd one\"@example.com"), FOUND, S("odd") },
        { S("\"odd\\ one\"@example.com"), FOUND, S("odd") },
        { S("\"x\\\"y\"@example.com"), FOUND, S("") },
        { S("\"q*\"@example.com"), FOUND, S("star") },
        { S("qx@example.com"), ABSENT, S("") },
        { S("\"ann@example.com\"@elsewhere.example"), ABSENT, S("") },  /* an address in quotes is a local part */
        { S("\"@all.example\"@elsewhere.example"), ABSENT, S("") },
        { S("\"ann@example.com+x\"@elsewhere.example"), ABSENT, S("") },
        { S("last@example.com"), FOUND, S("end") },
        { S("one@example.com"), ABSENT, S("") },
        { S(""), ABSENT, S("") },
    };
    AUTO(table) plus = table_with(text, '+');
    AUTO(table) none = table_with(text, 0);
    if (!CHECK(plus && none))
        return;
    CHECK_INT(table_count(plus), 14);
    CHECK(!table_stale(plus));
    EACH(cases, c) {
        struct path who = path_of(c->who);
        bool detail = str_findc(c->who, '+') != STR_NONE && !str_eq(c->who, S("carl+fixed@example.com"));
        str value = S("?");
        CHECK_INT(table_find(plus, &who, &value), c->plus, c->who);
        CHECK_STR(value, c->value, c->who);
        CHECK_INT(table_find(none, &who, NULL), detail ? ABSENT : c->plus, c->who);
    }
}

TEST(table_file_refuses)
{
    static const struct { str text; err want; str told; } cases[] = {
        { S("ann@example.com\nann@bob@example.com\n"), E_SYNTAX, S("list:2: a second @") },
        { S("\nann@"), E_SYNTAX, S("list:2: no domain behind the @") },
        { S("@"), E_SYNTAX, S("list:1: no domain behind the @") },
        { S("\"ann@example.com"), E_SYNTAX, S("list:1: a quote that is not closed") },
        { S("\"ann\\"), E_SYNTAX, S("list:1: a quote that is not closed") },
        { S("\"ann\"x@example.com"), E_SYNTAX, S("list:1: text between the quote and the @") },
        { S("\"\"@example.com"), E_SYNTAX, S("list:1: an empty name") },
        { S("\"a@b\""), E_SYNTAX, S("list:1: a quoted * or @ in a pattern or without a domain") },
        { S("\"a*\"@*.b"), E_SYNTAX, S("list:1: a quoted * or @ in a pattern or without a domain") },
        { S("a\0b@c"), E_SYNTAX, S("list:1: a control character") },
        { S("\"a\tb\"@c"), E_SYNTAX, S("list:1: a control character") },
        { S("a@c \033[1m"), E_SYNTAX, S("list:1: a control character") },
        { S("*.example.com"), E_SYNTAX,
          S("list:1: a pattern for the local part; for all below a domain write @*.example.com") },
        { S("a\nb\nc\nd\n"), E_LIMIT, S("list:4: more than 3 entries") },
        { S("# a\nb\nc\nd\n"), OK, S("") },
    };
    EACH(cases, c) {
        struct buf b = { 0 };
        struct table *t = NULL;
        buf_add(&b, c->text);
        CHECK_ERR(table_of_text(S("list"), &b, 0, 3, &t), c->want, c->text);
        if (c->want != OK)
            CHECK_STR(err_text(), c->told, c->text);
        CHECK((t != NULL) == (c->want == OK), c->text);
        table_free(t);
        buf_free(&b);
    }
    struct buf b = { 0 };
    struct table *t = NULL;
    for (int i = 0; i < 1025; i++)
        buf_addc(&b, 'a');
    CHECK_ERR(table_of_text(S("list"), &b, 0, 3, &t), E_SYNTAX);
    CHECK_STR(err_text(), S("list:1: the line is longer than 1024 octets"));
    struct buf many = { 0 };
    for (int i = 0; i < 10001; i++)
        buf_addf(&many, "p%d*@example.com\n", i);
    CHECK_ERR(table_of_text(S("list"), &many, 0, 20000, &t), E_LIMIT);
}

TEST(table_file_knows_when_it_changed)
{
    char path[512];
    AUTO(table) t = NULL;
    struct path ann = path_of(S("ann@example.com"));
    struct stat st;

    snprintf(path, sizeof path, "%s/list", kit_dir());
    CHECK_ERR(table_file_open(str_z(path), 0, 10, &t), E_NOTFOUND);
    CHECK_ERR(table_file_open(str_z(kit_dir()), 0, 10, &t), E_IO);
    FILE *f = fopen(path, "w");
    must(f);
    fputs("ann@example.com", f);
    fclose(f);
    if (!CHECK_ERR(table_file_open(str_z(path), 0, 10, &t), OK))
        return;
    CHECK_INT(table_find(t, &ann, NULL), FOUND);
    CHECK(!table_stale(t));
    must(stat(path, &st) == 0);
    must(utime(path, &(struct utimbuf){ 1, 1 }) == 0);
    CHECK(table_stale(t));
    must(remove(path) == 0);
    CHECK(table_stale(t));
    CHECK_INT(table_find(t, &ann, NULL), FOUND); /* it stays what it was */
}

static long peak_kib(void)
{
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    return u.ru_maxrss;
}

static void write_list(const char *path, size_t n)
{
    FILE *f = fopen(path, "w");
    must(f);
    for (size_t i = 0; i < n; i++)
        fprintf(f, "user.%zu@example.com\n", i * 7919);
    must(fclose(f) == 0);
}

static void load_and_find(const char *path, size_t n)
{
    AUTO(table) t = NULL;
    char text[64];
    when begin = clock_now();

    if (!CHECK_ERR(table_file_open(str_z(path), '+', n, &t), OK))
        return;
    when loaded = clock_now() - begin;
    CHECK_INT(table_count(t), n);
    for (size_t i = 0; i < n; i += n / 1000) {
        int len = snprintf(text, sizeof text, "User.%zu@example.com", i * 7919);
        struct path who = path_of(str_of(text, (size_t)len));
        CHECK_INT(table_find(t, &who, NULL), FOUND);
        who.local.n--;
        who = path_of(S("nobody@example.com"));
        CHECK_INT(table_find(t, &who, NULL), ABSENT);
    }
    printf("  %zu entries: %lld ms, peak %ld MiB\n", n, (long long)(loaded / MILLISECOND), peak_kib() / 1024);
}

TEST(table_file_loads_200000_and_tells_how_long_it_took)
{
    char path[512];
    snprintf(path, sizeof path, "%s/list", kit_dir());
    write_list(path, 200000);
    load_and_find(path, 200000);
}

/* Takes seconds and 260 MB of disk: only when asked for. */
TEST(table_file_loads_10_million)
{
    char path[512];
    if (!getenv("WAYPOST_TEST_LARGE"))
        return;
    snprintf(path, sizeof path, "%s/list", kit_dir());
    write_list(path, 10000000);
    load_and_find(path, 10000000);
    CHECK(peak_kib() <= 1024 * 1024 * KIT_SLOW);
}

static void put_list(const char *path, str text)
{
    char fresh[300];
    snprintf(fresh, sizeof fresh, "%s.new", path);
    FILE *f = fopen(fresh, "we");
    must(f && fwrite(text.p, 1, text.n, f) == text.n && fclose(f) == 0 && rename(fresh, path) == 0);
}

static size_t kept;
static void count_kept(void *ctx, enum log_level level, str line)
{
    (void)ctx, (void)level;
    kept += str_has(line, S("list_kept"));
}

/* A reload while somebody is at the list. */
TEST(table_file_outlives_a_bad_moment)
{
    char path[256];
    struct table *first = NULL, *next = NULL;
    struct path ann = path_of(S("ann@example.com")), bob = path_of(S("bob@example.com"));

    log_start(&(struct log_setup){ .tap = count_kept });
    kept = 0;
    snprintf(path, sizeof path, "%s/list", kit_dir());
    put_list(path, S("ann@example.com\n"));
    CHECK_ERR(table_file_open(str_z(path), '+', 100, &first), OK);
    static const str bad[] = { S(""), S("# nobody\n"), S("ann@example.com\n\"bob"), S("ann@example.com\nbob@exam\x01ple.com\n") };
    EACH(bad, b) {
        put_list(path, *b);
        CHECK_ERR(table_file_open(str_z(path), '+', 100, &next), OK, *b);
        CHECK_INT(table_find(next, &ann, NULL), FOUND, *b);
        CHECK(table_stale(next)); /* looked at again at the next reload */
        table_free(first); /* the old configuration goes, the list stays */
        first = take(next);
    }
    CHECK(unlink(path) == 0);
    CHECK_ERR(table_file_open(str_z(path), '+', 100, &next), OK);
    CHECK_INT(table_find(next, &ann, NULL), FOUND);
    CHECK_INT(kept, COUNT(bad) + 1);
    table_free(next);
    put_list(path, S("bob@example.com\n"));
    CHECK_ERR(table_file_open(str_z(path), '+', 100, &next), OK);
    CHECK_INT(table_find(next, &ann, NULL), ABSENT);
    CHECK_INT(table_find(next, &bob, NULL), FOUND);
    CHECK_INT(table_find(first, &ann, NULL), FOUND); /* who holds the old one is not surprised */
    table_free(first);
    table_free(next);
    /* Nobody holds it any more: what is wrong is an error again. */
    put_list(path, S("\"bob"));
    CHECK_ERR(table_file_open(str_z(path), '+', 100, &next), E_SYNTAX);
    log_stop();
}
