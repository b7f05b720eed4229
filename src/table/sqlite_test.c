#include "kit/kit.h"
#include "table/table.h"

#include <sqlite3.h>
#include <stdio.h>
#include <unistd.h>

static void sql(const char *path, const char *text)
{
    sqlite3 *db;
    must(sqlite3_open(path, &db) == SQLITE_OK && sqlite3_exec(db, text, NULL, NULL, NULL) == SQLITE_OK);
    sqlite3_close(db);
}

static enum found look(struct table *t, str who)
{
    struct path p;
    must(address_parse(who, &p) == OK);
    return table_find(t, &p, NULL);
}

static struct sqlite_setup setup(const char *path, str query)
{
    return (struct sqlite_setup){ .path = str_z(path), .query = query, .keep = { .cache = 1, .negative = 1, .stale = 0, .timeout = 5 * SECOND, .entries = 100 } };
}

TASK_TEST(sqlite_finds_by_bound_parameters)
{
    char path[256], other[256];
    snprintf(path, sizeof path, "%s/users.db", kit_dir());
    snprintf(other, sizeof other, "%s.new", path);
    sql(path, "create table users(address text primary key, local text, domain text);"
              "insert into users values('ann@example.com','ann','example.com'),('o''hara@example.com','o''hara','example.com')");
    struct sqlite_setup s = setup(path, S("select 1 from users where address = :address"));
    struct table *t = NULL;
    CHECK_ERR(table_sqlite_open(&s, &t), OK);
    CHECK_INT(look(t, S("Ann@Example.com")), FOUND);
    CHECK_INT(look(t, S("ann+news@example.com")), FOUND);
    CHECK_INT(look(t, S("bob@example.com")), ABSENT);
    CHECK_INT(look(t, S("o'hara@example.com")), FOUND);
    /* Attack class 20: it is a value, whatever it looks like. */
    CHECK_INT(look(t, S("\"x' or '1'='1\"@example.com")), ABSENT);
    CHECK_INT(look(t, S("\"';drop table users;--\"@example.com")), ABSENT);
    CHECK_INT(look(t, S("ann@example.com")), FOUND);

    /* Replaced by another under the same name; taken away; brought back. */
    sql(other, "create table users(address text); insert into users values('bob@example.com')");
    CHECK(rename(other, path) == 0);
    CHECK_INT(look(t, S("bob@example.com")), FOUND);
    CHECK_INT(look(t, S("ann@example.com")), ABSENT);
    CHECK(rename(path, other) == 0);
    CHECK_INT(look(t, S("ann@example.com")), UNDECIDED);
    CHECK(rename(other, path) == 0);
    CHECK_INT(look(t, S("bob@example.com")), FOUND);
    table_free(t);
}

TEST(sqlite_takes_queries_that_read)
{
    char path[256];
    snprintf(path, sizeof path, "%s/users.db", kit_dir());
    sql(path, "create table users(address text, local text, domain text)");
    static const struct { str query; err want; } cases[] = {
        { S("select 1 from users where local = :local and domain = :domain"), OK },
        { S("select 1 from users where lower(address) = :address;  "), OK },
        { S("select 1 from users"), E_SYNTAX },
        { S("select 1 from users where domain = :domain"), E_SYNTAX },
        { S("select 1 from users where address = :who"), E_SYNTAX },
        { S("select 1 from users where address = ?"), E_SYNTAX },
        { S("select 1 from nobody where address = :address"), E_SYNTAX },
        { S("delete from users where address = :address"), E_SYNTAX },
        { S("select 1 from users where address = :address; delete from users"), E_SYNTAX },
        { S("attach 'x' as y"), E_SYNTAX },
        { S("select load_extension(:address)"), E_SYNTAX },
        { S("pragma user_version"), E_SYNTAX },
        { S(""), E_SYNTAX },
    };
    EACH(cases, c) {
        struct sqlite_setup s = setup(path, c->query);
        struct table *t = NULL;
        CHECK_ERR(table_sqlite_open(&s, &t), c->want, c->query);
        table_free(t);
    }
    struct sqlite_setup s = setup("/does/not/exist", S("select 1 where :address"));
    struct table *t = NULL;
    CHECK_ERR(table_sqlite_open(&s, &t), E_NOTFOUND);
}

/* A query without an end ends. */
TASK_TEST(sqlite_query_has_a_deadline)
{
    char path[256];
    snprintf(path, sizeof path, "%s/users.db", kit_dir());
    sql(path, "create table users(address text)");
    struct sqlite_setup s = setup(path, S("with recursive n(i) as (select 1 union all select i + 1 from n) select 1 from n where :address = i"));
    s.keep.timeout = 100 * MILLISECOND;
    struct table *t = NULL;
    CHECK_ERR(table_sqlite_open(&s, &t), OK);
    CHECK_INT(look(t, S("ann@example.com")), UNDECIDED);
    while (table_counts(t).under_way)
        task_yield();
    table_free(t);
}
