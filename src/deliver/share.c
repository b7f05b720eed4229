/* How the servers of one priority share a lane's mail, beyond "who is less busy takes the next".
 *
 * In turn: each message a server takes puts it 1 / weight further; who is further than the one behind by more than a little lets that one go
 * first. Who took nothing for a second is not waited for (it hangs, or is slow) and when it comes again does not catch up.
 * Sticky: a server takes only messages whose key leads to it. */
#include "deliver/inside.h"

#define FAR 1000000u            /* one message at weight 1 */
#define AHEAD 4                 /* messages that a server may be ahead */
#define LOOK_MOST 256           /* tickets looked through for one that is ours */

struct lane_server *lane_servers(struct lane *lane, const struct backend *b)
{
    if (lane->sending->nserver < b->nserver) { /* a new configuration may have changed their number */
        lane->sending->server = mem_grow(lane->sending->server, b->nserver * sizeof *lane->sending->server);
        memset(lane->sending->server + lane->sending->nserver, 0, (b->nserver - lane->sending->nserver) * sizeof *lane->sending->server);
        lane->sending->nserver = b->nserver;
    }
    return lane->sending->server;
}

static uint64_t step_of(const struct backend *b, size_t at)
{
    return b->balance == BALANCE_WEIGHTED ? FAR / MAX(b->server[at].weight, 1u) : FAR;
}

/* The one furthest behind of those that take part; UINT64_MAX: nobody else does. */
static uint64_t turn_behind(const struct lane *lane, const struct backend *b, size_t me, when now)
{
    uint64_t least = UINT64_MAX;

    for (size_t i = 0; i < b->nserver; i++)
        if (i != me && b->server[i].priority == b->server[me].priority && lane->sending->server[i].connections && server_in(&b->server[i])
            && now - lane->sending->server[i].took < SHARE_PATIENCE)
            least = MIN(least, lane->sending->server[i].turn);
    return least;
}

static bool share_turn(struct lane *lane, const struct backend *b, size_t server, when now)
{
    if (b->balance != BALANCE_ROUND_ROBIN && b->balance != BALANCE_WEIGHTED)
        return true;
    struct lane_server *s = &lane_servers(lane, b)[server];
    uint64_t behind = turn_behind(lane, b, server, now);
    if (behind == UINT64_MAX)
        return true;
    if (now - s->took >= SHARE_PATIENCE) /* it was away: it begins where the others are */
        s->turn = MAX(s->turn, behind);
    return s->turn <= behind + AHEAD * step_of(b, server);
}

static void took(struct lane *lane, const struct backend *b, size_t server, when now)
{
    struct lane_server *s = &lane_servers(lane, b)[server];

    if (b->balance == BALANCE_ROUND_ROBIN || b->balance == BALANCE_WEIGHTED)
        s->turn += step_of(b, server);
    s->took = now;
}

/* The first that is ours; else *other is one that nobody here has a connection for, with its server. */
static struct ticket *stuck_to(struct lane *lane, const struct backend *b, size_t server, struct ticket **other, size_t *other_server)
{
    unsigned looked = 0;

    *other = NULL;
    for (struct ticket *t = lane_first(lane); t && looked < LOOK_MOST; t = lane_after(t), looked++) {
        const struct next_hop *s = backend_stick(b, t->sticky);
        if (!s || s == &b->server[server])
            return t;
        if (!*other && !lane->sending->server[s - b->server].connections) {
            *other = t;
            *other_server = (size_t)(s - b->server);
        }
    }
    return NULL;
}

struct ticket *share_next(struct lane *lane, const struct backend *b, size_t server, bool in_memory, struct ticket **other, size_t *other_server)
{
    struct ticket *t = lane_first(lane);
    when now = clock_now();

    *other = NULL;
    if (!t || !share_turn(lane, b, server, now))
        return NULL;
    if (b->balance == BALANCE_STICKY)
        t = stuck_to(lane, b, server, other, other_server);
    if (!t || (in_memory && !t->mail))
        return NULL;
    took(lane, b, server, now);
    return lane_take_this(t);
}
