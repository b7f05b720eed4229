/* Incidents: one of a kind and subject, in the order they began, and never more than fit. */
#include "stats/stats.h"
#include "kit/kit.h"

#include <stdio.h>

static struct incident all[INCIDENTS_MOST];

TEST(incident_is_one_of_a_kind_and_subject)
{
    uint64_t begun = incidents_begun(INCIDENT_REFUSES);

    CHECK(!incident_is_open(INCIDENT_REFUSES, S("one")));
    CHECK(!incident_close(INCIDENT_REFUSES, S("one"), S("it was none")));
    CHECK(incident_open(INCIDENT_REFUSES, S("one"), S("first words"), S("a probe")));
    CHECK(!incident_open(INCIDENT_REFUSES, S("one"), S("other words"), S("a probe")));
    CHECK(incident_open(INCIDENT_NO_NAMES, S("one"), S("of another kind"), S("a probe")));
    incident_affects(INCIDENT_REFUSES, S("one"), 3);
    incident_affects(INCIDENT_REFUSES, S("one"), 4);
    incident_affects(INCIDENT_REFUSES, S("two"), 5);
    CHECK(incident_is_open(INCIDENT_REFUSES, S("one")) && !incident_is_open(INCIDENT_REFUSES, S("two")));
    CHECK_INT((int64_t)incidents(all), 2);
    CHECK(all[0].kind == INCIDENT_REFUSES && all[1].kind == INCIDENT_NO_NAMES && all[0].id < all[1].id);
    CHECK_INT((int64_t)all[0].affected, 7);
    CHECK_STR(str_z(all[0].reason), S("other words"));
    CHECK(incident_close(INCIDENT_REFUSES, S("one"), S("it is over")));
    CHECK_INT((int64_t)incidents(all), 1);
    CHECK(all[0].kind == INCIDENT_NO_NAMES);
    CHECK(incident_open(INCIDENT_REFUSES, S("one"), S("once more"), S("a probe")));
    CHECK_INT((int64_t)(incidents_begun(INCIDENT_REFUSES) - begun), 2);
    CHECK(incident_close(INCIDENT_REFUSES, S("one"), S("")) && incident_close(INCIDENT_NO_NAMES, S("one"), S("")));
    CHECK_INT((int64_t)incidents(all), 0);
}

TEST(incidents_are_bounded)
{
    char name[2 * INCIDENT_SUBJECT];

    for (int i = 0; i < 2 * INCIDENTS_MOST; i++) {
        snprintf(name, sizeof name, "%d", i);
        CHECK(incident_open(INCIDENT_NO_WAY, str_z(name), S("so"), S("")));
    }
    CHECK_INT((int64_t)incidents(all), INCIDENTS_MOST);
    for (int i = 0; i < 2 * INCIDENTS_MOST; i++) {
        snprintf(name, sizeof name, "%d", i);
        CHECK_INT(incident_close(INCIDENT_NO_WAY, str_z(name), S("")), i < INCIDENTS_MOST);
    }
    /* A subject that is too long is cut, and found again. */
    memset(name, 'x', sizeof name);
    str subject = str_of(name, sizeof name);
    CHECK(incident_open(INCIDENT_NO_WAY, subject, S(""), S("")) && !incident_open(INCIDENT_NO_WAY, subject, S(""), S("")));
    CHECK(incident_is_open(INCIDENT_NO_WAY, subject) && incident_close(INCIDENT_NO_WAY, subject, S("")));
}
