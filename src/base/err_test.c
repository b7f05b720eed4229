#include "kit/kit.h"

#include <errno.h>

static err inner(void) { return fail(E_DAMAGED, "segment %d", 7); }

static err outer(void)
{
    TRY(during(OK, "not said"));
    TRY(during(inner(), "opening"));
    return OK;
}

TEST(err_texts_gather_where_we_were)
{
    CHECK_ERR(during(outer(), "at start"), E_DAMAGED);
    CHECK_STR(err_text(), S("at start: opening: segment 7"));
    CHECK_ERR(fail(E_AGAIN, "again: %.*s", STR(err_text())), E_AGAIN); /* of its own text */
    CHECK_STR(err_text(), S("again: at start: opening: segment 7"));
}

TEST(err_long_texts_are_cut)
{
    static char many[1000];
    memset(many, 'x', sizeof many - 1);
    fail(E_IO, "%s", many);
    CHECK_INT(err_text().n, sizeof err_note->text - 1);
    during(E_IO, "%s", many);
    CHECK_INT(err_text().n, sizeof err_note->text - 1);
    fail_errno(ENOENT, "%s", many);
    CHECK_INT(err_text().n, sizeof err_note->text - 1);
}

TEST(err_of_errno_and_its_words)
{
    static const struct { int number; err want; } cases[] = {
        { ENOENT, E_NOTFOUND }, { EEXIST, E_EXISTS }, { ENOSPC, E_NOSPACE }, { EMFILE, E_NOSPACE },
        { ECONNREFUSED, E_REFUSED }, { ENETUNREACH, E_NOWAY }, { ECONNRESET, E_CLOSED }, { ETIMEDOUT, E_TIMEOUT }, { EACCES, E_PERM },
        { EIO, E_IO }, { 99999, E_IO },
    };
    EACH(cases, c)
        CHECK_ERR(fail_errno(c->number, "x"), c->want);
    fail_errno(ENOENT, "opening %s", "a");
    CHECK_STR(err_text(), S("opening a: No such file or directory"));
}

TEST(err_every_error_has_a_name)
{
    for (int e = 0; e < E_COUNT; e++)
        CHECK(err_name((err)e) && strlen(err_name((err)e)) > 1);
    CHECK_STR(str_z(err_name(E_TIMEOUT)), S("timeout"));
    CHECK_STR(str_z(err_name((err)999)), S("?"));
}

TEST(err_note_of_a_task_is_its_own)
{
    struct err_note mine = { 0 };
    fail(E_IO, "the thread's");
    err_note = &mine;
    fail(E_IO, "the task's");
    err_note = NULL;
    CHECK_STR(err_text(), S("the thread's"));
    CHECK_STR(str_of(mine.text, mine.n), S("the task's"));
}

static int closed;
struct thing { int n; };
static void thing_free(struct thing *t) { closed += t->n; }
AUTO_DEFINE(thing)

static struct thing *open_thing(struct thing *from, bool ok)
{
    AUTO(thing) t = from;
    if (!ok)
        return NULL;
    return take(t);
}

TEST(err_auto_closes_unless_taken)
{
    struct thing t = { 1 };
    CHECK(open_thing(&t, false) == NULL);
    CHECK_INT(closed, 1);
    CHECK(open_thing(&t, true) == &t);
    CHECK_INT(closed, 1);
}
