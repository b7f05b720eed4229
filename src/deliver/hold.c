/* What an operator does to mail that waits, beyond trying or deleting it. */
#include "deliver/inside.h"

void note_waiting(struct dispatch *d, const struct ticket *t, when next, str reason)
{
    uint32_t most = t->many ? ((const struct rcpt_set *)(uintptr_t)t->rcpts)->n : 64;
    struct rcpt_state *state = mem_new(ticket_count(t) * sizeof *state);
    uint16_t excused = ticket_excused(t);
    when wall = wall_now();
    size_t n = 0;

    for (uint32_t i = 0; i < most; i++)
        if (ticket_has(t, i))
            state[n++] = (struct rcpt_state){ .index = i, .status = RCPT_WAITING, .version = t->version, .attempts = t->attempts, .unknown = t->unknown,
                                              .warned = t->warned, .excused = excused, .last = wall, .next = next, .reply = reason };
    spool_outcome(d->setup.port, t->id, t->home, state, n, false);
    mem_free(state);
}

/* A step of its story. */
static void tell(const struct ticket *t, enum event_kind kind, str reason)
{
    AUTO_ARENA a = arena_new();

    event_keep(&(struct event){ .kind = kind, .id = t->id, .at = wall_now(), .rcpt = str_printf(a, "@%.*s", STR(ticket_domain(t))), .reply = reason });
}

void dispatch_hold(struct dispatch *d, struct ticket *t, when until, str reason)
{
    AUTO_BUF why = { 0 };

    buf_addf(&why, "held: %.*s", STR(str_head(reason, 200))); /* queue/ knows it by that word after a restart */
    note_waiting(d, t, wall_now() + (until - clock_now()), buf_str(&why));
    tell(t, EVENT_HELD, reason);
    log_info("held", LOG_ID("id", t->id), LOG_STR("domain", ticket_domain(t)), LOG_STR("reason", reason));
    ticket_put_off(t, until, buf_str(&why), true);
}

void dispatch_release(struct dispatch *d, struct ticket *t)
{
    note_waiting(d, t, wall_now(), S("released by an operator"));
    tell(t, EVENT_RELEASED, S(""));
    log_info("released", LOG_ID("id", t->id), LOG_STR("domain", ticket_domain(t)));
    ticket_put_off(t, clock_now(), S("released by an operator"), false);
}
