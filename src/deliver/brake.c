/* The bounce brake: whose refusal is believed, what a frozen backend is tried with, and what that shows. The counting is route/'s. */
#include "deliver/inside.h"

#define ASK_MOST MINUTE         /* for asking whether a recipient is taken */
#define LOOK_MOST 256           /* tickets looked through for one that was not refused yet */

/* A backend of the configuration, or a site of relay domains, which has its brake only once it is needed. */
static struct backend *braking(const struct lane *lane)
{
    struct backend *b = lane->backend;

    return b && b->braking.least && (lane->kind == LANE_SITE ? b->relay : lane->kind == LANE_BACKEND && b->brake) ? b : NULL;
}

/* ---- believing ---- */

static const struct relay_domain *listed(const struct flight *f, str domain)
{
    const struct relay_domain *d = route_domain(&f->snap->routes, domain);

    return d && !d->recipients.any ? d : NULL;
}

/* By our own lists, as of now. Whom the backend itself vouched for, in a callout, is not asked for once more: it would deny everybody. */
static bool is_known(const struct flight *f, size_t i)
{
    struct path p;

    if (address_parse(f->env.rcpt[i].to, &p) != OK)
        return false;
    const struct relay_domain *d = listed(f, p.domain);
    return d && (d->recipients.callout || recipients_find(&d->recipients, &p) != ABSENT);
}

static void keep_nobody(const struct flight *f, bool *keep) { memset(keep, 0, f->env.nrcpt * sizeof *keep); }

/* By `b`, which is held. */
WAITS static void judge(struct dispatch *d, struct flight *f, struct backend *b, bool *keep, uint8_t *era, when *until, str *why)
{
    struct brake_count n = { 0 };
    struct lane *lane = f->t->lane;
    unsigned kept = 0;

    for (size_t i = 0; i < f->env.nrcpt; i++) {
        const struct answer *o = &f->out[i];
        if (b && o->settled && reply_ok(o->reply))
            n.took++;
        keep[i] = keep[i] && b && is_known(f, i);
        if (!keep[i])
            continue;
        kept++;
        *(o->stage == STAGE_MAIL || o->stage == STAGE_RCPT ? &n.by_rcpt : &n.by_message) += 1;
        n.example = f->env.rcpt[i].to;
        n.reply = reply_print(f->a, &o->reply);
    }
    const struct relay_domain *of = listed(f, ticket_domain(f->t));
    if (n.took && !of)
        n.took = 0;
    if (!b || !(n.took + kept))
        return;
    when now = clock_now();
    struct brake *brake = kept ? backend_brake_make(b, of && of->name.n ? of->name.p[0] : ticket_domain(f->t), now) : backend_brake(b);
    if (!brake) {
        keep_nobody(f, keep);
        if (kept)
            log_warn("brake_not_made", LOG_STR("lane", lane->name), LOG_Z("reason", "its relay domain's mail is doubted at too many sites already: it is believed what it refuses"));
        else
            backend_took(b, n.took, now);
        return;
    }
    bool came_on = brake_count(brake, &b->braking, &n, now);
    *era = f->t->doubt;
    /* A client waits for it (cut_through), and may be told now or never. */
    bool now_or_never = f->mail->vigil && brake_well(brake, &b->braking, now);
    if (kept && now_or_never)
        keep_nobody(f, keep);
    else if (kept && brake_believes(brake, &b->braking, era, ((when)f->t->since + 1) * SECOND, now, until))
        keep_nobody(f, keep);
    else if (kept) {
        *why = str_printf(f->a, "refused by %.*s although our own lists know it: kept until it is clear which of them is right", STR(lane_subject(lane)));
        incident_affects(INCIDENT_REFUSES, lane_subject(lane), kept);
    }
    if (came_on)
        brake_holds(d, lane);
    else
        lane_braked(lane); /* where its backend became another meanwhile, that has the brake from now on */
}

void brake_judge(struct dispatch *d, struct flight *f, bool *keep, uint8_t *era, when *until, str *why)
{
    struct backend *b = f->offered ? backend_hold(braking(f->t->lane)) : NULL;

    judge(d, f, b, keep, era, until, why);
    backend_drop(b);
}

/* ---- trying ---- */

struct trier { struct dispatch *d; struct lane *lane; struct snapshot *snap; struct backend *backend /* held */; char example[BRAKE_EXAMPLE]; bool by_message;
               enum brake_said said; when until; };

/* Does it take the null sender's RCPT for somebody whom it refused? No mail is sent. */
static err ask(void *arg)
{
    struct trier *t = arg;
    struct path p;
    bool refused = false;

    t->said = BRAKE_UNASKED;
    if (address_parse(str_z(t->example), &p) != OK)
        return OK;
    struct inquiry q = { .address = str_z(t->example), .local = p.local, .domain = p.domain };
    /* Attack class 51: MX records may name what is none of their owner's. */
    const struct own *own = t->backend->holders ? &t->snap->routes.own : NULL;
    enum said said = callout_probe(t->backend, own, hop_ehlo(t->backend->outlet, t->snap->receive.hostname), &q, t->until, &refused);
    t->said = said == SAID_FOUND ? BRAKE_TAKEN : refused || said == SAID_ABSENT ? BRAKE_REFUSED : said == SAID_DOWN ? BRAKE_UNCLEAR : BRAKE_UNASKED;
    return OK;
}

/* One that it has not refused yet: it may have something against just those. */
static struct ticket *untried(struct lane *lane, uint8_t era)
{
    struct ticket *first = lane_first(lane), *t = first;

    for (unsigned i = 0; t && i < LOOK_MOST; i++, t = lane_after(t))
        if (t->doubt != era)
            return t;
    return first;
}

static err try_run(void *arg)
{
    struct trier *t = arg;
    struct lane *lane = t->lane;

    t->snap = t->d->setup.newest(t->d->setup.ctx);
    if (lane->kind == LANE_SITE)
        t->backend = backend_hold(lane->backend);
    for (size_t i = 0; i < t->snap->routes.nbackend && lane->kind == LANE_BACKEND && !t->backend; i++)
        if (str_eq(t->snap->routes.backend[i]->name, lane_backend_name(lane)))
            t->backend = t->snap->routes.backend[i];
    t->said = BRAKE_NOTHING;
    struct ticket *with = NULL;
    if (t->backend && t->backend->brake && !t->by_message && callout_probe) {
        AUTO_GROUP g = group_open(t->until = clock_now() + ASK_MOST);
        t->said = BRAKE_UNCLEAR;
        if (group_spawn(&g, "brake-ask", ask, t) == OK)
            group_wait(&g);
    } else if (t->backend && t->backend->brake && lane->backend)
        with = untried(lane, brake_era(t->backend->brake));
    if (with)
        lane_try(t->d, lane, lane_take_this(with));
    else
        brake_said(t->d, lane, t->said);
    lane->sending->trials--;
    backend_drop(t->backend);
    snapshot_drop(t->snap);
    mem_free(t);
    return OK;
}

bool brake_holds(struct dispatch *d, struct lane *lane)
{
    AUTO_BUF reason = { 0 };
    char words[BRAKE_WORDS];
    when since, now = clock_now();

    if (!lane_braked(lane))
        return false;
    struct brake *b = backend_brake(lane->backend);
    when next = MAX(brake_next(b, &since, words), now + SECOND);
    struct snapshot *snap = d->setup.newest(d->setup.ctx);
    bool long_enough = now - since > snap->retry.hold_max;
    snapshot_drop(snap);
    if (lane->state == LANE_OPEN && !lane->frozen)
        log_warn("lane_frozen", LOG_STR("lane", lane->name), LOG_Z("reason", words), LOG_INT("waiting", lane->nready));
    buf_addf(&reason, "%.*s may be in error: %s", STR(lane_subject(lane)), words);
    if (long_enough) /* from here on lifetimes end */
        lane_down(lane, buf_str(&reason), next);
    else
        lane_freeze(lane, INCIDENT_REFUSES, buf_str(&reason), next);
    lane_wake_later(d, lane);
    if (lane->kind == LANE_SITE)
        lane_ask_again(lane);
    struct trier *t = mem_new(sizeof *t);
    *t = (struct trier){ .d = d, .lane = lane };
    bool mine = brake_try(b, now, t->example, &t->by_message);
    lane->sending->trials += mine; /* the lane stays until it has ended */
    if (mine && group_spawn(thread_group(), "brake-try", try_run, t) == OK)
        return true;
    if (mine) {
        lane->sending->trials--;
        brake_said(d, lane, BRAKE_UNCLEAR);
    }
    mem_free(t);
    return true;
}

enum brake_said brake_heard(const struct flight *f)
{
    enum brake_said said = BRAKE_UNCLEAR;

    for (size_t i = 0; i < f->env.nrcpt; i++) {
        if (f->out[i].settled && reply_ok(f->out[i].reply))
            return BRAKE_TAKEN;
        if (f->out[i].settled && reply_never(f->out[i].reply))
            said = BRAKE_REFUSED;
    }
    return said;
}

static void thaw(struct dispatch *d, struct lane *lane)
{
    if (d->setup.thaw)
        d->setup.thaw(d->setup.ctx, INCIDENT_REFUSES, lane_subject(lane));
    else
        lane_open(lane);
}

void brake_said(struct dispatch *d, struct lane *lane, enum brake_said said)
{
    str subject = lane_subject(lane);
    struct brake *b = brake_find(subject);
    char words[BRAKE_WORDS];
    when since;

    if (!b) /* nobody has any mail for it */
        return;
    switch (brake_tried(b, said, clock_now())) {
    case BRAKE_STAYS:
        break;
    case BRAKE_STAYS_FIRST:
        brake_next(b, &since, words);
        incident_open(INCIDENT_REFUSES, subject, str_z(words), S("it is tried at growing intervals; or by an operator: waypost incidents close"));
        incident_affects(INCIDENT_REFUSES, subject, lane->nready);
        break;
    case BRAKE_MEANT:
        log_info("brake_released", LOG_STR("backend", subject), LOG_Z("reason", "it takes such a recipient from the null sender, and others altogether: it means what it refused"));
        thaw(d, lane);
        break;
    case BRAKE_IS_OFF:
        incident_close(INCIDENT_REFUSES, subject, S("it takes what it refused"));
        thaw(d, lane);
        break;
    }
    brake_drop(b);
}
