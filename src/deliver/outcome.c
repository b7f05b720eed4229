/* What becomes of the recipients: noted in the spool, told to the log, reported to the sender, given back to the queue. */
#include "deliver/inside.h"

#define UNKNOWN_WAIT (15 * MINUTE)      /* the answer never came: it may be there, so not soon */

enum verdict { DELIVERED, FAILED, LATER, AT_ONCE, UNKNOWN, EXPIRED, DELETED, HANDED_ON, GONE /* handed on already */,
               KEPT /* refused, but that is not believed: brake.c */ };

/* RFC 3463 from what we have: the peer's own code, else one for the basic code. */
static str status_of(arena *a, const struct reply *r, const char *fallback)
{
    if (r->enhanced.class)
        return str_printf(a, "%u.%u.%u", r->enhanced.class, r->enhanced.subject, r->enhanced.detail);
    return str_z(fallback);
}

/* The part of a reply that repeats from message to message: what waits is many, what they wait for is few. */
static str short_reason(arena *a, const struct answer *o, str remote)
{
    static const char *const stage[] = { "MAIL", "RCPT", "DATA", "the message" };
    const struct reply *r = &o->reply;

    if (r->enhanced.class)
        return str_printf(a, "%.*s answered %u %u.%u.%u to %s", STR(remote), r->code, r->enhanced.class, r->enhanced.subject,
                          r->enhanced.detail, stage[o->stage]);
    return str_printf(a, "%.*s answered %u to %s", STR(remote), r->code, stage[o->stage]);
}

/* The answer that decided: the 250 to RCPT of a message whose end was never answered did not. */
static const struct reply *decided_by(const struct answer *o)
{
    return o->settled && o->reply.code ? &o->reply : NULL;
}

static enum verdict verdict_of(const struct flight *f, size_t i, enum flight_end end, bool some_taken)
{
    const struct answer *o = &f->out[i];

    switch (end) {
    case FLIGHT_EXPIRED:
        return EXPIRED;
    case FLIGHT_FAILED:
        return FAILED;
    case FLIGHT_DELETED:
    case FLIGHT_DELETED_QUIETLY:
        return DELETED;
    case FLIGHT_NOT_TRIED:
        if (!o->settled)
            return AT_ONCE;
        break;
    case FLIGHT_UNKNOWN:
        if (o->offered && !o->settled)
            return UNKNOWN;
        break;
    case FLIGHT_ANSWERED:
    case FLIGHT_BROKEN:
        break;
    }
    if (!o->settled)
        return LATER;
    if (reply_ok(o->reply))
        return DELIVERED;
    /* RFC 5321 4.5.3.1.10: too many recipients for one transaction concerns the rest, not these. */
    if (some_taken && o->stage == STAGE_RCPT && (o->reply.code == 452 || o->reply.code == 552))
        return AT_ONCE;
    return reply_never(o->reply) ? FAILED : LATER;
}

struct settling {
    enum verdict *verdict;
    struct rcpt_state *state;
    size_t nstate;
    struct report_item *item;
    size_t nitem;
    struct backend **to;        /* of who is handed on */
    size_t n[KEPT + 1];
    uint8_t era; when kept_until; str kept_why; /* of those kept; kept_until 0: when their lane opens */
};

static void tell(const struct flight *f, size_t i, enum verdict v, const struct backend *to, str remote, str reason, when due)
{
    static const enum event_kind kind[] = { EVENT_DELIVERED, EVENT_FAILED, EVENT_DEFERRED, EVENT_DEFERRED, EVENT_UNKNOWN, EVENT_EXPIRED,
                                            EVENT_DELETED, EVENT_HANDED_ON, [KEPT] = EVENT_DEFERRED };
    const struct reply *r = decided_by(&f->out[i]);
    struct event e = { .kind = kind[v], .id = f->t->id, .at = wall_now(), .from = f->env.sender, .rcpt = f->env.rcpt[i].to, .remote = remote,
                       .attempt = f->t->attempts + 1u };

    const struct outlet *by = lane_outlet(f->t->lane);
    if (by) {
        e.source = by->name;
        stats_label(FAMILY_SOURCES, by->name, kind[v]);
    }
    e.reply = r ? reply_print(f->a, r) : reason;
    e.took = e.at - f->mail->m->origin.accepted;
    if (v == LATER || v == UNKNOWN || (v == KEPT && due)) {
        char span[TIME_TEXT];
        e.detail = str_printf(f->a, "%sagain in %.*s", v == KEPT ? "our own lists know it: " : "", STR(time_span(span, due - clock_now())));
    } else if (v == KEPT) {
        e.detail = S("our own lists know it: kept while the backend may be in error");
    } else if (v == FAILED && f->cut_through) {
        e.detail = S("cut_through: its client was told, and nobody else is");
    } else if (v == HANDED_ON) {
        e.detail = str_printf(f->a, "on to %.*s", STR(to->name));
    } else if (v == DELIVERED) {
        histogram_add(&stats_mine()->deliver, e.took);
        if (f->t->stream)
            histogram_add(&stats_mine()->stream[f->t->stream], e.took);
        if (f->t->unknown) {
            stats_add(COUNT_repeated, 1);
            e.detail = S("an earlier attempt had no answer: perhaps a second copy");
        }
    }
    event_emit(&e);
    stats_label(FAMILY_DELIVERIES, lane_backend_name(f->t->lane), kind[v]);
    if (v != DELIVERED)
        stats_said(lane_backend_name(f->t->lane), e.reply);
}

/* How many recipients stand for the one the sender wrote, an alias of several; 0: another of them, who comes first, speaks for all. */
static size_t spoken_for(const struct flight *f, size_t i)
{
    const struct envelope *all = &f->mail->m->env;
    str given = f->env.rcpt[i].given;
    size_t n = 0;

    for (size_t k = 0; k < all->nrcpt; k++) {
        if (!str_eq(all->rcpt[k].given, given) || (all->rcpt[k].notify & NOTIFY_NEVER))
            continue;
        if (n++ == 0 && k < f->index[i])
            return 0;
    }
    return n;
}

static void settling_report(struct settling *s, const struct flight *f, size_t i, enum verdict v, str remote, str reason)
{
    const struct reply *r = decided_by(&f->out[i]);
    uint8_t notify = f->env.rcpt[i].notify;
    struct report_item *item = &s->item[s->nitem];

    *item = (struct report_item){ .i = (uint32_t)i, .remote = r ? remote : S(""), .reason = reason, .last_attempt = v == DELETED ? 0 : wall_now() };
    if (r)
        item->diagnostic = reply_print(f->a, r);
    if (v == DELETED)
        item->reason = str_printf(f->a, "an administrator of this mail system removed it: %.*s", STR(reason));
    if (v == DELIVERED) {
        /* RFC 3461 5.2.2: a peer with DSN takes the duty over; to one without, "relayed" is the last we can say. */
        size_t n = (notify & NOTIFY_SUCCESS) && !f->peer_dsn ? spoken_for(f, i) : 0;
        if (n == 0)
            return;
        item->action = n > 1 ? REPORT_EXPANDED : REPORT_RELAYED; /* RFC 3461 5.2.7.3 */
        item->status = "2.0.0";
    } else if (v == LATER || v == UNKNOWN || v == KEPT) {
        if (!warn_wanted(f, i))
            return;
        item->action = REPORT_DELAYED;
        /* RFC 3463 4.4.2: "bad connection"; 4.4.1: "no answer from host" */
        item->status = v == UNKNOWN ? "4.4.2" : v == KEPT ? "4.3.5" /* "system incorrectly configured" */ : str_cz(f->a, r ? status_of(f->a, r, "4.0.0") : S("4.4.1"));
    } else {
        if (notify && !(notify & NOTIFY_FAILURE) && !f->mail->m->report) /* RFC 3461 4.1; not given means failure and delay */
            return;
        item->action = REPORT_FAILED;
        /* RFC 3463 4.4.7: "delivery time expired"; the last reply stands in the diagnostic. */
        item->status = str_cz(f->a, v == EXPIRED ? S("4.4.7") : r ? status_of(f->a, r, "5.0.0") : f->status ? str_z(f->status) : S("5.0.0"));
    }
    s->nitem++;
}

static struct rcpt_set *set_with(const struct flight *f, const struct settling *s, bool (*want)(enum verdict v))
{
    size_t n = f->mail->m->env.nrcpt;
    struct rcpt_set *set = arena_alloc(f->a, sizeof *set + (n + 63) / 64 * sizeof set->bits[0]);

    set->n = (uint32_t)n;
    for (size_t i = 0; i < f->env.nrcpt; i++)
        if (want(s->verdict[i]))
            set->bits[f->index[i] / 64] |= (uint64_t)1 << f->index[i] % 64;
    return set;
}

static bool is_over(enum verdict v) { return v == DELIVERED || v == FAILED || v == EXPIRED || v == DELETED; }
static bool is_at_once(enum verdict v) { return v == AT_ONCE; }
static bool is_unknown(enum verdict v) { return v == UNKNOWN; }
static bool is_kept(enum verdict v) { return v == KEPT; }

static str domain_of_rcpt(const struct flight *f, size_t i)
{
    str to = f->env.rcpt[i].to;
    size_t at = to.n;

    while (at && to.p[at - 1] != '@')
        at--;
    return at ? str_from(to, at) : S("");
}

/* Who else gets this recipient, its own way having failed for it; NULL: nobody. An outcome that is unknown stays where it may be known. */
static struct backend *other_way(const struct flight *f, size_t i, enum verdict v)
{
    const struct answer *o = &f->out[i];
    const struct elsewhere *e = v == FAILED || v == LATER ? ticket_elsewhere(f->t, domain_of_rcpt(f, i)) : NULL;

    if (!e)
        return NULL;
    if (v == FAILED)
        return o->settled && o->stage == STAGE_RCPT && callout_says_absent(&o->reply) ? e->unknown : NULL;
    return f->mail->m->origin.accepted + e->after <= wall_now() ? e->fallback : NULL;
}

/* Who ends how, and what of it the sender is to be told. `warn`: a delay, too. */
static void settling_judge(struct dispatch *d, struct settling *s, struct flight *f, enum flight_end end, str reason, str remote, bool warn)
{
    const struct backend *b = f->t->lane->backend;
    bool soft = f->offered && (f->snap->reports.soft_bounce || (b && b->soft_bounce));
    bool some_taken = false, *refused = NEW_ARRAY(f->a, bool, f->env.nrcpt);

    for (size_t i = 0; i < f->env.nrcpt; i++) {
        if (!f->out[i].settled) /* a 250 to RCPT is no answer to the message: neither log nor report shall show it as one */
            f->out[i].reply = (struct reply){ 0 };
        some_taken |= f->out[i].settled && reply_ok(f->out[i].reply);
    }
    for (size_t i = 0; i < f->env.nrcpt; i++) {
        s->verdict[i] = verdict_of(f, i, end, some_taken);
        if (s->verdict[i] == FAILED && (s->to[i] = other_way(f, i, FAILED))) /* to be refused here is the way of things there */
            s->verdict[i] = HANDED_ON;
        else if (s->verdict[i] == FAILED && f->out[i].settled && soft)
            s->verdict[i] = LATER;
        refused[i] = s->verdict[i] == FAILED && f->out[i].settled;
    }
    brake_judge(d, f, refused, &s->era, &s->kept_until, &s->kept_why);
    bool too_old = ticket_too_old(f->t, f->mail->m->origin.accepted, wall_now());
    for (size_t i = 0; i < f->env.nrcpt; i++) {
        enum verdict v = s->verdict[i];
        if (refused[i])
            v = KEPT;
        if (too_old && (v == LATER || v == UNKNOWN))
            v = EXPIRED;
        if (v == LATER && (s->to[i] = other_way(f, i, LATER)))
            v = HANDED_ON;
        s->verdict[i] = v;
        if ((v == DELETED && end == FLIGHT_DELETED && !f->mail->m->report) || ((v == LATER || v == UNKNOWN || v == KEPT) && warn) || v == DELIVERED || v == FAILED || v == EXPIRED)
            settling_report(s, f, i, v, remote, reason);
    }
}

/* While the report was stored another configuration may have come, and with it another backend, or none: then it is tried again. */
static void settling_route_again(struct settling *s, const struct flight *f)
{
    for (size_t i = 0; i < f->env.nrcpt; i++) {
        if (s->verdict[i] != HANDED_ON)
            continue;
        s->to[i] = other_way(f, i, f->out[i].settled && reply_never(f->out[i].reply) ? FAILED : LATER);
        if (!s->to[i])
            s->verdict[i] = LATER;
    }
}

/* A failure nobody could be told of is none yet: it is tried again, until it succeeds or its report is safe. */
static void settling_postpone(struct settling *s, struct flight *f)
{
    for (size_t i = 0; i < f->env.nrcpt; i++)
        if (s->verdict[i] == FAILED || s->verdict[i] == EXPIRED) {
            s->verdict[i] = LATER;
            f->out[i].reply = (struct reply){ 0 };
        }
}

/* The note for the spool and the line for the log of each; *why is the reason that those who wait share. */
static void settling_note(struct settling *s, const struct flight *f, str reason, str remote, when due, when late, str *why)
{
    static const enum rcpt_status status[] = { RCPT_DELIVERED, RCPT_FAILED, RCPT_WAITING, RCPT_WAITING, RCPT_WAITING, RCPT_EXPIRED,
                                               RCPT_DELETED, [KEPT] = RCPT_WAITING };
    when now = clock_now(), wall = wall_now();

    *why = reason;
    for (size_t i = 0; i < f->env.nrcpt; i++) {
        enum verdict v = s->verdict[i];
        const struct reply *r = &f->out[i].reply;
        s->n[v]++;
        if (v == HANDED_ON) /* no note: who starts anew asks the first again */
            tell(f, i, v, s->to[i], remote, reason, 0);
        if (v == AT_ONCE || v == HANDED_ON)
            continue;
        struct rcpt_state *st = &s->state[s->nstate++];
        *st = (struct rcpt_state){ .index = f->index[i], .status = status[v], .version = f->t->version, .last = wall, .remote = remote,
                                   .attempts = (uint16_t)(f->t->attempts + (v != KEPT)), .unknown = v == UNKNOWN || f->t->unknown, .warned = f->t->warned };
        if (st->status == RCPT_WAITING) {
            st->excused = ticket_excused(f->t);
            st->next = v == KEPT && !s->kept_until ? 0 : wall + ((v == UNKNOWN ? late : v == KEPT ? s->kept_until : due) - now);
        }
        if (v != DELIVERED)
            st->reply = r->code ? reply_print(f->a, r) : reason;
        if (v == LATER && r->code)
            *why = short_reason(f->a, &f->out[i], remote);
        tell(f, i, v, NULL, remote, reason, v == UNKNOWN ? late : v == KEPT ? s->kept_until : due);
    }
}

/* A client's answer waits for this: when everybody was refused it is told so, in place of the sender. What is tried again at once, it goes on
 * waiting for. True: it will be told. */
static bool cut_through(const struct settling *s, const struct flight *f)
{
    struct vigil *w = f->mail->vigil;
    size_t n = f->env.nrcpt, refused = 0, at_once = 0;
    bool whole = n == f->mail->m->env.nrcpt;

    if (!w)
        return false;
    for (size_t i = 0; i < n; i++) {
        refused += s->verdict[i] == FAILED && f->out[i].settled && reply_never(f->out[i].reply);
        at_once += s->verdict[i] == AT_ONCE || s->verdict[i] == HANDED_ON;
    }
    if (whole && at_once == n)
        return false;
    f->mail->vigil = NULL;
    if (whole && refused == n)
        return vigil_refuse(w, &f->out[0].reply);
    vigil_end(w);
    return false;
}

/* Those who are handed on to the same backend, and of one domain where that is asked for. Returns what is left of the ticket. */
static struct ticket *hand_on(struct settling *s, const struct flight *f, struct ticket *rest, bool warned)
{
    size_t n = f->mail->m->env.nrcpt, first = 0;
    struct rcpt_set *set = arena_alloc(f->a, sizeof *set + (n + 63) / 64 * sizeof set->bits[0]);
    struct ticket *part = rest;

    while (s->verdict[first] != HANDED_ON)
        first++;
    str domain = domain_of_rcpt(f, first);
    set->n = (uint32_t)n;
    for (size_t i = first; i < f->env.nrcpt; i++)
        if (s->verdict[i] == HANDED_ON && s->to[i] == s->to[first] && (s->to[i]->mix_domains || str_ieq(domain_of_rcpt(f, i), domain))) {
            set->bits[f->index[i] / 64] |= (uint64_t)1 << f->index[i] % 64;
            s->verdict[i] = GONE;
            s->n[HANDED_ON]--;
        }
    if (s->n[HANDED_ON] + s->n[LATER] + s->n[UNKNOWN] + s->n[KEPT])
        part = ticket_split(rest, set);
    else
        rest = NULL;
    part->warned &= !warned;
    ticket_hand_on(part, s->to[first], domain);
    return rest;
}

void flight_settle(struct dispatch *d, struct flight *f, enum flight_end end, str reason, str remote)
{
    struct ticket *t = f->t;
    size_t n = f->env.nrcpt;
    struct settling s = { .verdict = NEW_ARRAY(f->a, enum verdict, n), .state = NEW_ARRAY(f->a, struct rcpt_state, n),
                          .item = NEW_ARRAY(f->a, struct report_item, n), .to = NEW_ARRAY(f->a, struct backend *, n) };
    str why;
    bool warn = warn_due(t, f->mail->m->origin.accepted, f->snap->reports.delay_warning);

    settling_judge(d, &s, f, end, reason, remote, warn);
    if ((f->cut_through = cut_through(&s, f)))
        s.nitem = 0;
    /* The report is ours before the failure is noted: a crash between the two tells the sender twice, never not at all. */
    if (s.nitem && !report_send(d, f, s.item, s.nitem)) {
        settling_postpone(&s, f);
        reason = S("it failed, but the report to its sender could not be stored");
        warn = false;
    }
    settling_route_again(&s, f);
    t->warned |= warn;
    when now = clock_now(), due = now + retry_after(stream_retry(&f->snap->streams, t->stream, &f->snap->retry), t->attempts + 1u), late = MAX(due, now + UNKNOWN_WAIT);
    settling_note(&s, f, reason, remote, due, late, &why);

    /* From the ticket are cut: who is to be tried at once, who waits for long; what is over goes last, with the note. */
    size_t over = s.n[DELIVERED] + s.n[FAILED] + s.n[EXPIRED] + s.n[DELETED];
    struct ticket *rest = t;
    bool last = over == n && ticket_last(t);
    if (s.nstate)
        spool_outcome(d->setup.port, t->id, t->home, s.state, s.nstate, last);
    if (over == n) {
        ticket_done(t);
        rest = NULL;
    } else if (over)
        ticket_done(ticket_split(t, set_with(f, &s, is_over)));
    if (rest && s.n[AT_ONCE]) {
        struct ticket *soon = rest;
        if (s.n[LATER] + s.n[UNKNOWN] + s.n[HANDED_ON] + s.n[KEPT])
            soon = ticket_split(rest, set_with(f, &s, is_at_once));
        else
            rest = NULL;
        soon->warned &= !warn; /* it is not they who were told */
        ticket_return(soon);
    }
    while (s.n[HANDED_ON])
        rest = hand_on(&s, f, rest, warn);
    if (rest && s.n[UNKNOWN]) {
        struct ticket *unknown = rest;
        if (s.n[LATER] + s.n[KEPT])
            unknown = ticket_split(rest, set_with(f, &s, is_unknown));
        else
            rest = NULL;
        unknown->unknown = true;
        unknown->server = (uint8_t)(f->server_at + 1); /* at most 64 */
        ticket_defer(unknown, late, S("the answer to the message never came: it may have been delivered"));
    }
    if (rest && s.n[KEPT]) {
        struct ticket *kept = rest;
        if (s.n[LATER])
            kept = ticket_split(rest, set_with(f, &s, is_kept));
        else
            rest = NULL;
        kept->doubt = s.era;
        stats_add(COUNT_kept, s.n[KEPT]);
        ticket_put_off(kept, s.kept_until, s.kept_why, false);
    }
    if (rest)
        ticket_defer(rest, due, why);
    if (d->setup.working_on)
        d->setup.working_on(d->setup.ctx, (ulid){ { 0 } });
    flight_free(f);
}

/* ---- what no connection settles ---- */

static void settle_later(struct dispatch *d, struct ticket *t, enum flight_end end)
{
    t->expired = end == FLIGHT_EXPIRED; /* remembers which of the two, while it lies in the list */
    list_add(&d->settle, &t->place);
    waiters_wake_one(&d->settle_wait);
}

void dispatch_expired(void *ctx, struct ticket *t)
{
    settle_later(ctx, t, FLIGHT_EXPIRED);
}

/* To where nothing is kept. */
void dispatch_discard(struct dispatch *d, struct lane *lane)
{
    for (struct ticket *t; (t = lane_take(lane));)
        settle_later(d, t, FLIGHT_ANSWERED);
}

static void settle_discarded(struct dispatch *d, struct flight *f)
{
    for (size_t i = 0; i < f->env.nrcpt; i++)
        f->out[i] = (struct answer){ .reply = { .code = 250, .enhanced = ENH(2, 0, 0), .text = S("thrown away, as the route says") }, .stage = STAGE_DOT, .settled = true };
    flight_settle(d, f, FLIGHT_ANSWERED, S(""), S("discard"));
}

/* No server refused them, we do. */
static void settle_refused(struct dispatch *d, struct flight *f, struct enhanced e, str reason)
{
    f->status = str_cz(f->a, str_printf(f->a, "%u.%u.%u", e.class, e.subject, e.detail));
    flight_settle(d, f, FLIGHT_FAILED, reason, S(""));
}

void dispatch_unroutable(void *ctx, struct ticket *t)
{
    settle_later(ctx, t, FLIGHT_FAILED);
}

/* One after the other: their reports are mail like any other and must not flood. */
err settle_run(void *dispatch)
{
    struct dispatch *d = dispatch;

    for (;;) {
        while (list_empty(&d->settle))
            TRY(waiters_wait(&d->settle_wait, NEVER));
        struct ticket *t = AROUND(d->settle.next, struct ticket, place);
        struct flight f;
        bool expired = t->expired;
        list_del(&t->place);
        t->expired = false;
        if (flight_load(d, t, &f) != OK)
            continue;
        if (expired)
            flight_settle(d, &f, FLIGHT_EXPIRED, str_printf(f.a, "its lifetime is over; the last trouble was: %.*s", STR(lane_reason(t->lane))), S(""));
        else if (t->lane->backend && t->lane->backend->discard)
            settle_discarded(d, &f);
        else if (t->lane->backend && t->lane->backend->closed.is)
            settle_refused(d, &f, t->lane->backend->closed.status, str_dup(f.a, t->lane->backend->closed.text));
        else if (t->lane->refusal.class)
            settle_refused(d, &f, t->lane->refusal, str_dup(f.a, lane_reason(t->lane)));
        else {
            f.status = "5.4.4"; /* RFC 3463 3.5: unable to route */
            flight_settle(d, &f, FLIGHT_FAILED, S("there is no way to this domain from here"), S(""));
        }
    }
}

err dispatch_delete(struct dispatch *d, struct ticket *t, str reason, bool report)
{
    struct flight f;

    TRY(flight_load(d, t, &f));
    flight_settle(d, &f, report ? FLIGHT_DELETED : FLIGHT_DELETED_QUIETLY, str_dup(f.a, reason), S(""));
    return OK;
}

err dispatch_bounce(struct dispatch *d, struct ticket *t, str reason)
{
    struct flight f;

    TRY(flight_load(d, t, &f));
    flight_settle(d, &f, FLIGHT_FAILED, str_dup(f.a, reason), S(""));
    return OK;
}
