/* Which time counts against the lifetime of mail, and how a lane that was down opens again. */
#include "queue/inside.h"

#define PAUSE_JOIN MINUTE       /* a pause that begins so soon after the last one continues it: a frozen lane is looked at now and then */
#define RAMP_SECONDS 16

static when end_of(struct pause p) { return p.to ? p.to : NEVER; }

void pauses_add(struct pauses *p, struct pause one)
{
    uint32_t at = 0, behind;

    while (at < p->n && end_of(p->p[at]) <= one.from - PAUSE_JOIN)
        at++;
    for (behind = at; behind < p->n && p->p[behind].from - PAUSE_JOIN < end_of(one); behind++) {
        when end = MAX(end_of(one), end_of(p->p[behind]));
        one = (struct pause){ MIN(one.from, p->p[behind].from), end == NEVER ? 0 : end };
    }
    if (at == behind) {
        if ((p->n & (p->n - 1)) == 0) /* as many as there is room for */
            p->p = mem_grow(p->p, (p->n ? 2 * p->n : 1) * sizeof *p->p);
        memmove(&p->p[at + 1], &p->p[at], (p->n++ - at) * sizeof *p->p);
    } else {
        memmove(&p->p[at + 1], &p->p[behind], (p->n - behind) * sizeof *p->p);
        p->n -= behind - at - 1;
    }
    p->p[at] = one;
    if (p->n > PAUSES_MOST) {
        p->p[1].from = p->p[0].from; /* in doubt for the mail */
        memmove(&p->p[0], &p->p[1], --p->n * sizeof *p->p);
    }
}

/* How much of the time since then was one. */
static when pauses_since(const struct pauses *p, when from, when wall)
{
    when sum = 0;

    for (uint32_t i = 0; i < p->n; i++) {
        when end = p->p[i].to ? p->p[i].to : wall;
        sum += MAX(end - MAX(p->p[i].from, from), 0);
    }
    return sum;
}

void lane_pause(struct lane *lane) { pauses_add(&lane->pauses, (struct pause){ .from = wall_now() }); }

void lane_unpause(struct lane *lane)
{
    struct pauses *p = &lane->pauses;

    if (p->n && !p->p[p->n - 1].to)
        p->p[p->n - 1].to = MAX(wall_now(), p->p[p->n - 1].from);
}

/* Of its lane, and not yet in what is excused. */
static when paused(const struct ticket *t, when accepted, when wall)
{
    return pauses_since(&t->lane->pauses, accepted + t->counted * PAUSE_UNIT, wall);
}

bool ticket_too_old(const struct ticket *t, when accepted, when wall)
{
    when end = accepted + (when)t->lifetime * SECOND;

    if (end >= wall)
        return false;
    when excused = paused(t, accepted, wall) + t->excused * MINUTE;
    return end + MIN(excused, t->lane->queue->setup.retry->hold_max) < wall;
}

void ticket_excuse(struct ticket *t, when length)
{
    when minutes = (MAX(length, 0) + MINUTE - 1) / MINUTE;

    t->excused = (uint16_t)MIN(t->excused + minutes, UINT16_MAX);
}

void ticket_let_go(struct ticket *t)
{
    ticket_excuse(t, (when)(seconds_now() - t->since) * SECOND);
    t->held = false;
    t->since = seconds_now();
}

void ticket_counted(struct ticket *t, when wall)
{
    t->counted = (uint16_t)MIN(MAX(wall - t->accepted, 0) / PAUSE_UNIT, UINT16_MAX);
}

void ticket_remember(struct ticket *t, const struct rcpt_state *state, when wall)
{
    uint16_t excused = t->excused, counted = t->counted;
    bool others = ticket_count(t) > 1, held = str_starts(state->reply, S("held"));
    when until = held && state->last ? MIN(state->next, wall) : state->last;

    t->excused = state->excused;
    ticket_excuse(t, until - state->last);
    ticket_counted(t, until);
    if (others) { /* noted at different times: in doubt for the mail */
        t->excused = MAX(t->excused, excused);
        t->counted = MIN(t->counted, counted);
    }
    t->held |= held && state->next > wall;
}

void ticket_go(struct ticket *t, struct lane *to)
{
    if (t->lane != to && t->lane->pauses.n) {
        when wall = wall_now();
        ticket_excuse(t, paused(t, t->accepted, wall));
        ticket_counted(t, wall);
    }
    t->lane = to;
}

uint16_t ticket_excused(const struct ticket *t)
{
    when held = t->held ? (when)(seconds_now() - t->since) * SECOND : 0;
    when length = held + paused(t, t->accepted, wall_now());

    return (uint16_t)MIN(t->excused + (length + MINUTE - 1) / MINUTE, UINT16_MAX);
}

uint32_t lane_ramp(const struct lane *lane, when now)
{
    when since = now - lane->opened;

    return !lane->opened || since >= RAMP_SECONDS * SECOND ? UINT32_MAX : (uint32_t)1 << (since / SECOND);
}
