/* Which time counts against the lifetime of mail, and how a lane that was down opens again. */
#include "queue/inside.h"

#define PAUSES_MOST 16          /* of a lane, a power of two; beyond, the two oldest become one */
#define PAUSE_JOIN MINUTE       /* a pause that begins so soon after the last one continues it: a frozen lane is looked at now and then */
#define RAMP_SECONDS 16

void lane_pause(struct lane *lane)
{
    when wall = wall_now();
    struct pause *last = lane->npause ? &lane->pause[lane->npause - 1] : NULL;

    if (last && (!last->to || wall - last->to < PAUSE_JOIN)) {
        last->to = 0;
        return;
    }
    if (lane->npause == PAUSES_MOST) {
        lane->pause[1].from = lane->pause[0].from; /* in doubt for the mail */
        memmove(&lane->pause[0], &lane->pause[1], --lane->npause * sizeof *lane->pause);
    }
    if ((lane->npause & (lane->npause - 1)) == 0) /* as many as there is room for */
        lane->pause = mem_grow(lane->pause, (lane->npause ? 2 * lane->npause : 1) * sizeof *lane->pause);
    lane->pause[lane->npause++] = (struct pause){ .from = wall };
}

void lane_unpause(struct lane *lane)
{
    if (lane->npause && !lane->pause[lane->npause - 1].to)
        lane->pause[lane->npause - 1].to = wall_now();
}

/* How much of the time since then the lane was paused. */
static when paused_since(const struct lane *lane, when from, when wall)
{
    when sum = 0;

    for (size_t i = 0; i < lane->npause; i++) {
        when end = lane->pause[i].to ? lane->pause[i].to : wall;
        sum += MAX(end - MAX(lane->pause[i].from, from), 0);
    }
    return sum;
}

bool ticket_too_old(const struct ticket *t, when accepted, when wall)
{
    when end = accepted + (when)t->lifetime * SECOND;

    if (end >= wall)
        return false;
    when excused = paused_since(t->lane, accepted, wall) + t->excused * MINUTE;
    return end + MIN(excused, t->lane->queue->setup.retry->hold_max) < wall;
}

void ticket_let_go(struct ticket *t)
{
    uint32_t minutes = (seconds_now() - t->since + 59) / 60;

    t->held = false;
    t->excused = (uint16_t)MIN(t->excused + minutes, (uint32_t)UINT16_MAX);
    t->since = seconds_now();
}

uint32_t lane_ramp(const struct lane *lane, when now)
{
    when since = now - lane->opened;

    return !lane->opened || since >= RAMP_SECONDS * SECOND ? UINT32_MAX : (uint32_t)1 << (since / SECOND);
}
