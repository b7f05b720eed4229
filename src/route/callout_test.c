#include "kit/kit.h"
#include "route/route.h"

#include <stdio.h>

/* A backend whose answers the test decides. */
static struct { enum said known, unknown; bool refused; size_t asked; char last[200]; } fake;

static enum said probe(const struct backend *b, const struct own *own, str ehlo, const struct inquiry *q, when deadline, bool *refused)
{
    (void)b, (void)own, (void)ehlo, (void)deadline;
    fake.asked++;
    snprintf(fake.last, sizeof fake.last, "%.*s", STR(q->address));
    bool known = str_eq(q->local, S("Ann")) || str_eq(q->local, S("bob"));
    *refused = !known && fake.refused;
    fail(E_AGAIN, "asked %s", fake.last);
    return known ? fake.known : fake.unknown;
}

static struct table *table_with(const char *host, when cache)
{
    struct keeping keep = KEEPING_PRESET;
    struct next_hop hop = { .host = str_z(host), .port = 25, .priority = 10, .weight = 10, .state = server_state(S("b"), str_z(host), 25) };
    struct backend b = { .name = S("b"), .server = &hop, .nserver = 1, .connect_timeout = SECOND };

    keep.cache = cache;
    callout_probe = probe;
    fake.asked = 0;
    return callout_table(&b, S("mx.example.net"), &keep);
}

static enum found look(struct table *t, str who, bool *mute)
{
    struct path p;
    must(address_parse(who, &p) == OK);
    return table_ask(t, &p, NULL, mute);
}

TASK_TEST(callout_doubts_a_yes_until_a_nonsense_address_was_refused)
{
    bool mute;
    fake.known = SAID_FOUND;
    fake.unknown = SAID_ABSENT;
    fake.refused = true;
    AUTO(table) t = table_with("one.example", HOUR);

    CHECK_INT(look(t, S("Ann@a.example"), &mute), FOUND);
    CHECK_INT(fake.asked, 2); /* she, and somebody who cannot be */
    CHECK(str_ends(str_z(fake.last), S("@a.example")));
    CHECK_INT(look(t, S("bob@a.example"), &mute), FOUND);
    CHECK_INT(fake.asked, 3);
    CHECK_INT(look(t, S("carl@a.example"), &mute), ABSENT);
    CHECK_INT(look(t, S("ann@a.example"), &mute), ABSENT); /* the case of a local part is the backend's matter */
    CHECK_INT(fake.asked, 5);
    CHECK_INT(look(t, S("bob@A.EXAMPLE"), &mute), FOUND); /* that of a domain is nobody's */
    CHECK_INT(fake.asked, 5);
    CHECK_INT(look(t, S("bob@b.example"), &mute), FOUND);
    CHECK_INT(fake.asked, 7); /* another domain is another question */
}

TASK_TEST(callout_of_a_backend_that_takes_all_is_mute)
{
    bool mute;
    fake.known = fake.unknown = SAID_FOUND;
    fake.refused = false;
    AUTO(table) t = table_with("two.example", HOUR);

    CHECK_INT(look(t, S("bob@a.example"), &mute), UNDECIDED);
    CHECK(mute);
    CHECK_INT(fake.asked, 2);
    CHECK_INT(look(t, S("carl@a.example"), &mute), UNDECIDED);
    CHECK(mute);
    CHECK_INT(fake.asked, 2); /* known for an hour */

    /* Beside another source it does not count; alone, or among its like, it leaves everything open. */
    char list[300];
    snprintf(list, sizeof list, "%s/list", kit_dir());
    FILE *f = fopen(list, "w");
    must(f && fputs("bob@a.example\n", f) >= 0 && fclose(f) == 0);
    AUTO(table) other = NULL;
    CHECK_ERR(table_file_open(str_z(list), '+', 100, &other), OK);
    struct table *both[3] = { t, t, other };
    struct path who;
    must(address_parse(S("carl@a.example"), &who) == OK);
    struct recipients r = { .table = both, .ntable = 1 };
    CHECK_INT(recipients_find(&r, &who), UNDECIDED);
    r.ntable = 2;
    CHECK_INT(recipients_find(&r, &who), UNDECIDED);
    r.ntable = 3;
    CHECK_INT(recipients_find(&r, &who), ABSENT);
}

TASK_TEST(callout_that_cannot_say_is_undecided)
{
    bool mute;
    fake.known = SAID_FOUND;
    fake.unknown = SAID_UNSURE;
    fake.refused = false;
    AUTO(table) t = table_with("three.example", HOUR);

    CHECK_INT(look(t, S("bob@a.example"), &mute), UNDECIDED); /* the nonsense address was put off: nothing is known */
    CHECK(!mute);
    fake.refused = true; /* 550 5.7.1 to nonsense: not "absent", but it does not take all */
    CHECK_INT(look(t, S("bob@a.example"), &mute), FOUND);
    CHECK_INT(look(t, S("carl@a.example"), &mute), UNDECIDED);
    CHECK(!mute);
}
