/* Delay warnings: an own sender is told once that a message waits. When an attempt ends in waiting, outcome.c asks here; what waits without
 * attempts, because its lane is down or its next attempt is far, is found by a sweep. */
#include "deliver/inside.h"

#define BETWEEN (10 * MILLISECOND)  /* two messages read by a sweep: a dead lane with a million is no reason to do nothing else */
#define YIELD_AFTER 512             /* tickets looked at */

bool warn_due(const struct ticket *t, when accepted, when delay)
{
    when age = wall_now() - accepted;

    return delay && !t->warned && !t->report && age >= delay && age < (when)t->lifetime * SECOND;
}

/* RFC 3461 4.1: NOTIFY not given means failure and delay. */
bool warn_wanted(const struct flight *f, size_t rcpt)
{
    uint8_t notify = f->env.rcpt[rcpt].notify;

    return f->env.sender.n && (!notify || (notify & NOTIFY_DELAY)) && sender_is_own(f);
}

/* The code among the words of a reason, as one of a delay; 4.4.1, "no answer from host", where there is none. */
static const char *status_in(arena *a, str reason)
{
    str word;

    while (str_word(&reason, &word))
        if (word.n >= 5 && word.n <= 9 && (word.p[0] == '4' || word.p[0] == '5') && word.p[1] == '.' && ascii_digit(word.p[2])
            && str_findc(str_from(word, 2), '.') != STR_NONE)
            return str_cz(a, str_printf(a, "4%.*s", STR(str_from(word, 1))));
    return "4.4.1";
}

static void warn(struct dispatch *d, struct ticket *t)
{
    AUTO_ARENA a = arena_new();
    enum ticket_state was = (enum ticket_state)t->state;
    struct why why = ticket_why(t);
    bool had_mail = t->mail;
    struct flight f;
    size_t n = 0;

    why.reason = str_dup(a, why.reason);
    must(ticket_remove(t)); /* ours while we wait; nobody else may take it meanwhile */
    if (flight_load(d, t, &f) != OK)
        return;
    struct report_item *item = NEW_ARRAY(f.a, struct report_item, f.env.nrcpt);
    for (size_t i = 0; i < f.env.nrcpt; i++)
        if (warn_wanted(&f, i))
            item[n++] = (struct report_item){ .i = (uint32_t)i, .action = REPORT_DELAYED, .status = status_in(f.a, why.reason), .reason = why.reason };
    t->warned = n == 0 || report_send(d, &f, item, n);
    if (n && t->warned) { /* a restart tells nobody again */
        note_waiting(d, t, was == TICKET_WAITING ? why.next : 0, why.reason);
        t->version++;
        t->fresh = false;
    }
    if (d->setup.working_on)
        d->setup.working_on(d->setup.ctx, (ulid){ { 0 } });
    flight_free(&f);
    if (!had_mail)
        mail_drop(take(t->mail));
    ticket_settle_as(t, was);
}

/* Not one that is tried soon: if it goes on waiting, the warning has the server's words. Nor one an operator holds: nothing is late there. */
static bool is_due(const struct ticket *t, when delay)
{
    if (t->held || t->state == TICKET_FLYING || (t->state == TICKET_WAITING && (when)t->due * SECOND < clock_now() + delay / 4))
        return false;
    return warn_due(t, t->accepted, delay);
}

err warn_sweep(struct dispatch *d, when delay)
{
    struct ticket *t;
    size_t at = 0;

    for (size_t seen = 1; queue_walk(d->setup.queue, &at, &t, 1); seen++) {
        if (is_due(t, delay)) {
            warn(d, t);
            TRY(task_sleep(clock_now() + BETWEEN));
        } else if (seen % YIELD_AFTER == 0)
            TRY(task_yield());
    }
    return OK;
}

err warn_run(void *dispatch)
{
    struct dispatch *d = dispatch;

    for (;;) {
        struct snapshot *snap = d->setup.newest(d->setup.ctx);
        when delay = snap->reports.delay_warning;
        snapshot_drop(snap);
        TRY(task_sleep(clock_now() + (delay ? MIN(MAX(delay / 16, SECOND), 5 * MINUTE) : MINUTE)));
        if (delay && !d->draining)
            TRY(warn_sweep(d, delay));
    }
}
