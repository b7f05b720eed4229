#include "kit/kit.h"
#include "queue/queue.h"

#define SOON (clock_now() + KIT_SLOW * 5 * SECOND) /* must not pass */

static const struct reply no_user = { .code = 550, .enhanced = ENH(5, 1, 1), .text = S("no such user") };
static bool gone;

struct deliverer { struct vigil *w; bool told, refuses; };

static err deliver(void *arg)
{
    struct deliverer *d = arg;

    if (d->refuses)
        d->told = vigil_refuse(d->w, &no_user);
    else
        vigil_end(d->w);
    return OK;
}

TASK_TEST(vigil_tells_the_refusal_to_who_waits)
{
    AUTO_ARENA a = arena_new();
    AUTO_GROUP g = group_open(SOON);
    struct reply r = { 0 };
    struct deliverer d = { .w = vigil_new(&gone), .refuses = true };

    group_spawn(&g, "deliver", deliver, &d);
    CHECK(vigil_wait(d.w, SOON, a, &r));
    CHECK(d.told);
    CHECK_INT(r.code, 550);
    CHECK_STR(r.text, S("no such user"));
    d = (struct deliverer){ .w = vigil_new(&gone) };
    group_spawn(&g, "deliver", deliver, &d);
    CHECK(!vigil_wait(d.w, SOON, a, &r));
    /* before anybody waits */
    struct vigil *w = vigil_new(&gone);
    CHECK(vigil_refuse(w, &no_user));
    CHECK(vigil_wait(w, SOON, a, &r));
}

TASK_TEST(vigil_refuses_nobody_who_does_not_wait_any_more)
{
    AUTO_ARENA a = arena_new();
    struct reply r = { 0 };
    struct vigil *w = vigil_new(&gone);

    CHECK(!vigil_wait(w, clock_now() - 1, a, &r));
    CHECK(!vigil_refuse(w, &no_user)); /* the time was over: a report is due */
    w = vigil_new(&gone);
    vigil_leave(w);
    CHECK(!vigil_wait(w, SOON, a, &r));
    CHECK(!vigil_refuse(w, &no_user));
    gone = true;
    w = vigil_new(&gone);
    CHECK(!vigil_refuse(w, &no_user));
    CHECK(!vigil_wait(w, SOON, a, &r));
    gone = false;
    vigil_end(NULL);
}

TASK_TEST(vigil_is_told_by_another_thread)
{
    AUTO_ARENA a = arena_new();

    for (int i = 0; i < 50; i++) {
        struct reply r = { 0 };
        struct deliverer d = { .w = vigil_new(&gone), .refuses = i & 1 };
        struct thread *t = thread_start("deliverer", deliver, &d);
        bool refused = vigil_wait(d.w, i % 5 ? SOON : clock_now(), a, &r);
        CHECK_ERR(thread_join(t), OK);
        CHECK_INT(refused, d.told); /* never one without the other */
        if (refused)
            CHECK_STR(r.text, S("no such user"));
        task_yield(); /* the post that gives the vigil up */
    }
}

TASK_TEST(vigil_ends_with_mail_that_is_put_off)
{
    AUTO_ARENA a = arena_new();
    arena *of_mail = arena_new();
    struct reply r = { 0 };
    struct mail *m = mail_new(of_mail, NEW(of_mail, struct message), NULL);
    struct vigil *w = m->vigil = vigil_new(&gone);

    mail_drop(m);
    CHECK(!vigil_wait(w, SOON, a, &r));
}
