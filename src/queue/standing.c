/* What holds beyond the end of the process: suspended lanes, and pauses. */
#include "queue/inside.h"

#define LANES_AT_ONCE 1024

static str heap_str(str s)
{
    char *copy = mem_new(s.n + 1);

    memcpy(copy, s.p, s.n);
    return str_of(copy, s.n);
}

static void heap_free_str(str s) { mem_free((void *)(uintptr_t)s.p); }

static struct standing_lane *lane_in(struct standing *s, str name)
{
    struct standing_lane *l = map_get(&s->lane, name);

    if (!s->a)
        s->a = arena_new();
    if (!l) {
        l = NEW(s->a, struct standing_lane);
        l->name = str_dup(s->a, name);
        map_put(&s->lane, l->name, l);
    }
    return l;
}

void standing_pause(struct standing *s, str lane, struct pause one) { pauses_add(&lane_in(s, lane)->pauses, one); }

static struct suspension *named(const struct standing *s, str lane)
{
    for (size_t i = 0; i < s->nsuspended; i++)
        if (str_eq(s->suspended[i].lane, lane))
            return &s->suspended[i];
    return NULL;
}

const struct suspension *suspension_of(const struct standing *s, str lane)
{
    for (size_t i = 0; i < s->nsuspended; i++)
        if (name_is(lane, s->suspended[i].lane) && s->suspended[i].until > clock_now())
            return &s->suspended[i];
    return NULL;
}

bool standing_suspended(const struct standing *s, str lane) { return suspension_of(s, lane) != NULL; }

void standing_suspend(struct standing *s, str lane, when until, str reason)
{
    str mine = heap_str(lane), why = heap_str(reason); /* they may be the old one's */

    standing_resume(s, mine);
    for (size_t i = s->nsuspended; i-- > 0;)
        if (s->suspended[i].until <= clock_now())
            standing_resume(s, s->suspended[i].lane);
    s->suspended = mem_grow(s->suspended, (s->nsuspended + 1) * sizeof *s->suspended);
    s->suspended[s->nsuspended++] = (struct suspension){ mine, why, until };
}

bool standing_resume(struct standing *s, str lane)
{
    struct suspension *was = named(s, lane);

    if (!was)
        return false;
    bool held = was->until > clock_now();
    heap_free_str(was->lane);
    heap_free_str(was->reason);
    *was = s->suspended[--s->nsuspended];
    return held;
}

void standing_clear(struct standing *s)
{
    struct standing_lane *l;

    for (size_t i = 0; (l = map_next(&s->lane, &i));)
        mem_free(l->pauses.p);
    map_free(&s->lane);
    arena_free(s->a);
    while (s->nsuspended)
        standing_resume(s, s->suspended[0].lane);
    mem_free(s->suspended);
    *s = (struct standing){ 0 };
}

const struct suspension *queue_suspension(const struct queue *q, size_t i)
{
    for (size_t k = 0; k < q->standing.nsuspended; k++)
        if (q->standing.suspended[k].until > clock_now() && i-- == 0)
            return &q->standing.suspended[k];
    return NULL;
}

static void tell_lane(const struct lane *lane, struct standing *into)
{
    bool empty = lane->nready + lane->nwaiting + lane->nflying == 0; /* then there is nothing that it matters to */

    for (uint32_t i = 0; !empty && i < lane->pauses.n; i++)
        standing_pause(into, lane->name, lane->pauses.p[i]);
}

err queue_standing(const struct queue *q, struct standing *into)
{
    const struct suspension *s;

    for (size_t i = 0; (s = queue_suspension(q, i)); i++)
        standing_suspend(into, s->lane, s->until, s->reason);
    for (size_t i = q->nlane; i-- > 0; i = MIN(i, q->nlane)) { /* downwards: in the place of one that is swept comes the last */
        tell_lane(q->lane[i], into);
        if (i % LANES_AT_ONCE == 0)
            TRY(task_yield());
    }
    return OK;
}
