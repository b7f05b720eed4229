/* cut_through: the client's answer waits for the first delivery, a while. The message is on stable storage before, so whatever else happens
 * meanwhile it is ours, as with any other; only "every recipient was refused" takes it back. */
#include "receive/inside.h"

static _Atomic uint64_t waiting;        /* sessions, of all threads */

when cut_length(const struct routes *r, const struct envelope *env)
{
    when least = 0;

    for (size_t i = 0; i < env->nrcpt; i++) {
        str to = env->rcpt[i].to;
        size_t at = to.n;
        while (at && to.p[at - 1] != '@')
            at--;
        const struct relay_domain *d = route_domain(r, str_from(to, at));
        if (!d || !d->cut_through) /* its way may be slow, and is not ours to answer for */
            return 0;
        least = least ? MIN(least, d->cut_through) : d->cut_through;
    }
    return least;
}

struct vigil *cut_begin(const struct session *s, const struct limits *l)
{
    if (atomic_fetch_add(&waiting, 1) < MAX(l->sessions / 4, 1))
        return vigil_new(&s->s->io.hangup);
    atomic_fetch_sub(&waiting, 1);
    stats_add(COUNT_cut_through_full, 1);
    return NULL;
}

/* What a next hop said is for its peer, which is us; the client gets it in one line, with a status that fits its code. */
static void one_line(struct reply *r, arena *a)
{
    struct buf text = buf_in(a, r->text.n);

    for (size_t i = 0; i < r->text.n; i++)
        buf_addc(&text, r->text.p[i] == '\n' ? ' ' : r->text.p[i]);
    r->text = str_printable(a, buf_str(&text));
    if (r->enhanced.class != 5)
        r->enhanced = (struct enhanced){ .class = 5 }; /* RFC 3463 3.1: it says no more */
}

bool cut_end(struct session *s, struct vigil *w, when length, struct reply *ret)
{
    when end = clock_now() + length;

    stream_flush(s->s); /* what was answered before must not wait too */
    s->vigil = w;
    if (s->r->draining)
        vigil_leave(w);
    bool refused = vigil_wait(w, end, s->scratch, ret);
    s->vigil = NULL;
    atomic_fetch_sub(&waiting, 1);
    if (refused) {
        stats_add(COUNT_cut_through_refused, 1);
        one_line(ret, s->scratch);
    } else if (clock_now() >= end)
        stats_add(COUNT_cut_through_late, 1);
    return refused;
}
