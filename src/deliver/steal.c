/* An idle sub-lane takes mail from a busy one: a lane has one sub-lane a thread, each with its share of the connections, and a client with a long session fills
 * but one of them.
 *
 * Who has had mail waiting for a second offers it to the other threads, once a second. Who has little to do there asks for it; a parcel comes, and
 * before that is used up the next is asked for, until the giver has nothing to spare. So threads say nothing to each other while each keeps up. */
#include "deliver/inside.h"

#define PARCEL_MOST 128         /* tickets */
#define SPARE 32                /* who has no more than that keeps it */
#define ASK_BELOW 32            /* who has fewer asks */
#define OFFERS_MOST 64          /* lanes of one thread a second */

void lane_word_free(struct lane_word *w)
{
    parcel_free(w->parcel);
    mem_free(w);
}

static void say(struct dispatch *d, unsigned to, enum word_kind kind, str lane, str by, struct parcel *parcel)
{
    struct lane_word *w = mem_new(sizeof *w + lane.n + by.n);

    *w = (struct lane_word){ .from = d->setup.thread, .kind = kind, .parcel = parcel, .lane = { w->text, lane.n }, .by = { w->text + lane.n, by.n } };
    memcpy(w->text, lane.p, lane.n);
    memcpy(w->text + lane.n, by.p, by.n);
    d->setup.say(d->setup.ctx, to, w);
}

/* Where one thread has all connections, it is to have all mail. */
static bool may_be_shared(const struct dispatch *d, const struct lane *lane)
{
    const struct backend *by = lane_by(lane);

    return d->setup.say && by && lane->state == LANE_OPEN && !d->draining && !backend_is_narrow(by, NULL, d->setup.threads) && !lane_braked(lane);
}

static bool has_to_spare(const struct dispatch *d, const struct lane *lane) { return lane->nready > SPARE && may_be_shared(d, lane); }

static bool has_time(const struct dispatch *d, const struct lane *lane)
{
    return lane->nready < ASK_BELOW && !lane->sending->giver && !lane->sending->pacing.until && may_be_shared(d, lane);
}

void steal_offer(struct dispatch *d, const struct lane *lane)
{
    if (d->offers == OFFERS_MOST || !has_to_spare(d, lane))
        return;
    d->offers++;
    for (unsigned i = 0; i < d->setup.threads; i++)
        if (i != d->setup.thread)
            say(d, i, WORD_OFFER, lane->name, lane_by(lane)->name, NULL);
}

void steal_more(struct dispatch *d, struct lane *lane)
{
    struct sending *s = lane->sending;
    const struct backend *by = lane_by(lane);

    if (s->asked || lane->nready >= ASK_BELOW || !by) /* a new configuration may have no such way */
        return;
    s->asked = true;
    say(d, s->giver - 1, WORD_WANT, lane->name, by->name, NULL);
}

/* ---- heard ---- */

static void hear_offer(struct dispatch *d, const struct lane_word *w)
{
    const struct lane *lane = queue_lane_called(d->setup.queue, w->lane);

    if (lane ? has_time(d, lane) : !d->draining) /* where there is none yet, the first parcel makes it */
        say(d, w->from, WORD_WANT, w->lane, w->by, NULL);
}

static void hear_want(struct dispatch *d, const struct lane_word *w)
{
    struct lane *lane = queue_lane_called(d->setup.queue, w->lane);

    say(d, w->from, WORD_PARCEL, w->lane, w->by, lane && has_to_spare(d, lane) ? lane_pack(lane, MIN(lane->nready / 2, PARCEL_MOST)) : NULL);
}

static void hear_parcel(struct dispatch *d, struct lane_word *w)
{
    bool any = w->parcel;

    if (any) {
        stats_add(COUNT_taken_over, w->parcel->n);
        queue_unpack(d->setup.queue, take(w->parcel));
    }
    struct lane *lane = queue_lane_called(d->setup.queue, w->lane); /* a site's may come only when its domains have been looked up */
    if (!lane || lane->kind == LANE_DOMAIN)
        return;
    lane->sending->asked = false;
    lane->sending->giver = any ? w->from + 1 : 0;
}

void dispatch_hear(struct dispatch *d, struct lane_word *w)
{
    switch (w->kind) {
    case WORD_OFFER:
        hear_offer(d, w);
        break;
    case WORD_WANT:
        hear_want(d, w);
        break;
    case WORD_PARCEL:
        hear_parcel(d, w);
        break;
    }
    lane_word_free(w);
}
