/* What waits, and what an operator does about it: the control socket's queue verbs. Each worker walks its own tickets, in pieces. */
#include "main/relay.h"
#include "main/words.h"

#include <stdio.h>
#include <stdlib.h>

#define WALK 128                /* tickets looked at between two turns of others */
#define AGE_MOST (36500 * DAY)
#define LOOK_MOST (5 * SECOND)  /* for a recipient: messages have to be read */
#define HOLD_MOST (30 * DAY)    /* unless hold_max says another; nobody's mail is forgotten in a hold */

/* ---- which ---- */

/* All that is given must fit. What a ticket knows by itself is looked at first; only for an address the message is read. */
struct match {
    ulid id; bool by_id, all, held;
    str lane, domain, sender, recipient, tenant, stream, why;
    when older;                 /* accepted at least so long ago */
    int64_t limit;
};

/* Within what can be reckoned with. */
static when seconds_arg(struct control *c, const char *key, when absent, when most)
{
    return MIN(MAX(control_int(c, key, absent / SECOND), 0), most / SECOND) * SECOND;
}

static bool match_of(struct control *c, struct match *m)
{
    *m = (struct match){
        .lane = control_arg(c, "lane"), .domain = control_arg(c, "domain"), .sender = control_arg(c, "sender"), .recipient = control_arg(c, "recipient"),
        .tenant = control_arg(c, "tenant"), .stream = control_arg(c, "stream"), .why = control_arg(c, "why"), .older = seconds_arg(c, "older_s", 0, AGE_MOST),
        .held = control_flag(c, "held"), .all = control_flag(c, "all"), .limit = control_int(c, "limit", INT64_MAX),
    };
    str id = control_arg(c, "id");
    m->by_id = id.n != 0;
    if (!m->by_id || ulid_parse(id, &m->id))
        return true;
    control_fail(c, "usage", "\"%.*s\" is no message id", STR(id));
    return false;
}

static bool match_says_which(const struct match *m)
{
    return m->by_id || m->all || m->held || m->lane.n || m->domain.n || m->sender.n || m->recipient.n || m->tenant.n || m->stream.n || m->why.n || m->older;
}

static str behind_at(str address)
{
    size_t at = address.n;

    while (at && address.p[at - 1] != '@')
        at--;
    return str_from(address, at);
}

static bool is_address(str s) { return str_findc(s, '@') != STR_NONE; }

/* A pattern is an address, a domain, or *.domain; "<>" is the null sender. */
static bool domain_fits(str pattern, str domain)
{
    if (str_eq(pattern, S("<>")))
        return domain.n == 0;
    return domain_matches(is_address(pattern) ? behind_at(pattern) : pattern, domain);
}

/* What the ticket alone says; *read: the message must be asked too. */
static bool fits(const struct match *m, const struct ticket *t, when wall, bool *read)
{
    *read = false;
    if (m->by_id && !ulid_eq(m->id, t->id))
        return false;
    if ((m->lane.n && !lane_is_called(t->lane, m->lane)) || (m->held && !t->held) || (m->older && wall - t->accepted < m->older))
        return false;
    if (m->domain.n && !domain_fits(m->domain, ticket_domain(t)))
        return false;
    if ((m->sender.n && !domain_fits(m->sender, ticket_sender_domain(t))) || (m->recipient.n && !domain_fits(m->recipient, ticket_domain(t))))
        return false;
    if (m->stream.n && !str_eq(m->stream, stream_name(t->stream)))
        return false;
    if (m->why.n && !str_has(ticket_reason(t), m->why))
        return false;
    *read = is_address(m->sender) || is_address(m->recipient) || m->tenant.n;
    return true;
}

static bool message_fits(const struct match *m, const struct ticket *t, const struct message *msg)
{
    bool any = !is_address(m->recipient);

    if ((is_address(m->sender) && !str_ieq(m->sender, msg->env.sender)) || (m->tenant.n && !str_eq(m->tenant, msg->origin.tenant)))
        return false;
    for (uint32_t i = 0; i < msg->env.nrcpt && !any; i++)
        any = ticket_has(t, i) && (str_ieq(m->recipient, msg->env.rcpt[i].to) || str_ieq(m->recipient, msg->env.rcpt[i].given));
    return any;
}

/* The tickets of one piece that fit; those that are still there after their messages were read. */
static size_t walk_fitting(struct worker *w, const struct match *m, size_t *at, struct ticket **out)
{
    struct ticket *t[WALK];
    ulid ask[WALK];
    size_t n, asked = 0, found = 0;
    when wall = wall_now();

    if (m->by_id) {
        struct ticket *first = *at == 0 ? queue_find(w->queue, m->id) : NULL;
        for (n = 0; first && n < WALK && (n == 0 || t[n - 1]->sibling != first); n++)
            t[n] = n ? t[n - 1]->sibling : first;
        *at = SIZE_MAX;
    } else {
        n = queue_walk(w->queue, at, t, WALK);
        if (n < WALK)
            *at = SIZE_MAX;
    }
    for (size_t i = 0; i < n; i++) {
        bool read;
        if (!fits(m, t[i], wall, &read))
            continue;
        if (!read)
            out[found++] = t[i];
        else
            ask[asked++] = t[i]->id;
    }
    if (!asked)
        return found;
    AUTO_ARENA a = arena_new();
    size_t sure = 0;
    for (size_t i = 0; i < asked; i++) {
        struct ticket *first = queue_find(w->queue, ask[i]);
        struct message *msg;
        bool any = false;
        arena_reset(a);
        if (!first || (sure && ulid_eq(ask[i], ask[sure - 1])) || spool_read(w->port, first->home, a, &msg) != OK)
            continue;
        first = queue_find(w->queue, ask[i]);
        for (struct ticket *k = first; k && !any; k = k->sibling == first ? NULL : k->sibling)
            any = message_fits(m, k, msg);
        if (any)
            ask[sure++] = ask[i];
    }
    /* From here on nothing waits. */
    for (size_t i = 0; i < sure; i++) {
        struct ticket *first = queue_find(w->queue, ask[i]);
        for (struct ticket *k = first; k && found < WALK; k = k->sibling == first ? NULL : k->sibling) {
            bool read;
            if (fits(m, k, wall, &read))
                out[found++] = k;
        }
    }
    return found;
}

/* ---- queue.list ---- */

/* What is told of a ticket. It is written out on the relay's own thread: a worker has mail to do. */
struct told { ulid id; str domain, sender_domain, lane, source, stream, reason; const char *state; uint32_t rcpts, attempts; when since, next, accepted; };

static void tell(struct told *x, const struct ticket *t, arena *a)
{
    static const char *const states[] = { "ready", "waiting", "flying" };
    struct why w = ticket_why(t);

    *x = (struct told){ .id = t->id, .domain = str_dup(a, ticket_domain(t)), .sender_domain = str_dup(a, ticket_sender_domain(t)),
                        .lane = str_dup(a, t->lane->name), .source = lane_outlet(t->lane) ? str_dup(a, lane_outlet(t->lane)->name) : S(""),
                        .stream = stream_name(t->stream), .reason = str_dup(a, w.reason),
                        .state = t->held && t->state == TICKET_WAITING ? "held" : states[t->state], .rcpts = ticket_count(t), .attempts = t->attempts,
                        .since = w.since, .next = w.next, .accepted = t->accepted };
}

static void told_line(const struct told *x, struct buf *b)
{
    buf_addc(b, '{');
    add_id(b, "id", x->id);
    add_str(b, "domain", x->domain);
    add_str(b, "sender_domain", x->sender_domain);
    add_int(b, "rcpts", x->rcpts);
    add_str(b, "state", str_z(x->state));
    add_str(b, "lane", x->lane);
    if (x->source.n)
        add_str(b, "source", x->source);
    add_str(b, "stream", x->stream);
    add_str(b, "reason", x->reason);
    add_time(b, "since", x->since);
    add_time(b, "next", x->next);
    add_time(b, "accepted", x->accepted);
    add_int(b, "attempts", x->attempts);
    buf_addc(b, '}');
}

struct walk { struct match match; size_t at; int64_t found; arena *a; struct told told[WALK]; size_t n; };

/* One piece of a worker's walk. */
static err walk_some(struct worker *w, void *arg)
{
    struct walk *k = arg;
    struct ticket *t[WALK];
    size_t n = walk_fitting(w, &k->match, &k->at, t);

    for (size_t i = 0; i < n && k->found < k->match.limit; i++, k->found++)
        tell(&k->told[k->n++], t[i], k->a);
    return OK;
}

/* False: who asked is gone. */
static bool tell_piece(struct control *c, const struct walk *k, struct buf *line)
{
    for (size_t i = 0; i < k->n; i++) {
        buf_clear(line);
        told_line(&k->told[i], line);
        if (!control_line(c, buf_str(line)))
            return false;
    }
    return true;
}

void queue_list(struct control *c, void *relay)
{
    struct relay *r = relay;
    AUTO_ARENA a = arena_new();
    AUTO_ARENA piece = arena_new();
    AUTO_BUF line = { 0 };
    struct walk *k = NEW(a, struct walk);

    k->a = piece;
    if (!match_of(c, &k->match))
        return;
    for (unsigned i = 0; i < r->nworker; i++)
        for (k->at = 0; k->at != SIZE_MAX && k->found < k->match.limit;) {
            arena_reset(piece);
            k->n = 0;
            if (worker_call(&r->worker[i], walk_some, k) != OK)
                break;
            if (!tell_piece(c, k, &line))
                return;
        }
}

size_t queue_waiting_for(struct relay *r, str address, ulid *ids, size_t most)
{
    AUTO_ARENA a = arena_new();
    AUTO_ARENA piece = arena_new();
    struct walk *k = NEW(a, struct walk);
    when until = clock_now() + LOOK_MOST;
    size_t n = 0;

    *k = (struct walk){ .match = { .recipient = address, .limit = INT64_MAX }, .a = piece };
    for (unsigned i = 0; i < r->nworker; i++)
        for (k->at = 0; k->at != SIZE_MAX && n < most && clock_now() < until;) {
            arena_reset(piece);
            k->n = 0;
            if (worker_call(&r->worker[i], walk_some, k) != OK)
                break;
            for (size_t j = 0; j < k->n && n < most; j++)
                if (n == 0 || !ulid_eq(ids[n - 1], k->told[j].id))
                    ids[n++] = k->told[j].id;
        }
    return n;
}

/* ---- queue.show ---- */

struct show { ulid id; struct buf line; bool found; };

static void rcpt_line(const struct ticket *t, const struct rcpt *rcpt, const struct rcpt_state *s, uint32_t i, struct buf *b)
{
    static const char *const status[] = { "waiting", "delivered", "failed", "expired", "deleted" };
    struct why w = { 0 };

    buf_add(b, b->p[b->n - 1] == '[' ? S("{") : S(",{"));
    add_str(b, "to", rcpt->to);
    add_str(b, "given", rcpt->given);
    add_str(b, "status", str_z(status[s->status]));
    add_int(b, "attempts", s->attempts);
    add_str(b, "reply", s->reply);
    add_str(b, "remote", s->remote);
    add_time(b, "last", s->last);
    for (const struct ticket *at = t; at; at = at->sibling == t ? NULL : at->sibling)
        if (ticket_has(at, i))
            w = ticket_why(at);
    add_str(b, "reason", w.reason);
    add_time(b, "since", w.since);
    add_time(b, "next", w.next);
    buf_addc(b, '}');
}

static err show_one(struct worker *w, void *arg)
{
    struct show *s = arg;
    struct ticket *t = queue_find(w->queue, s->id);
    AUTO_ARENA a = arena_new();
    struct message *m;
    struct rcpt_state *state;
    size_t n;

    if (!t)
        return OK;
    for (;;) { /* while we read it may move, or go */
        struct spool_ref home = t->home;
        err e = spool_read(w->port, home, a, &m);
        if (e == OK)
            e = spool_read_states(w->port, s->id, home, a, &state, &n);
        t = queue_find(w->queue, s->id);
        if (e == OK)
            break;
        if (!t)
            return OK;
        if (t->home.segment == home.segment && t->home.offset == home.offset)
            return e;
    }
    s->found = true;
    buf_addc(&s->line, '{');
    add_id(&s->line, "id", m->id);
    add_str(&s->line, "from", m->env.sender);
    add_int(&s->line, "size", (int64_t)m->scan.size);
    add_time(&s->line, "accepted", m->origin.accepted);
    add_str(&s->line, "client", m->origin.client);
    add_str(&s->line, "listener", m->origin.listener);
    add_str(&s->line, "stream", m->origin.stream);
    add_str(&s->line, "helo", m->origin.ehlo);
    add_key(&s->line, "rcpt");
    buf_addc(&s->line, '[');
    for (uint32_t i = 0; i < n && i < m->env.nrcpt; i++)
        rcpt_line(t, &m->env.rcpt[i], &state[i], i, &s->line);
    buf_add(&s->line, S("]}"));
    return OK;
}

bool queue_show_message(struct control *c, struct relay *r, ulid id)
{
    struct show s = { .id = id };

    for (unsigned i = 0; i < r->nworker && !s.found; i++)
        if (worker_call(&r->worker[i], show_one, &s) != OK)
            control_fail(c, "unreadable", "%.*s", STR(err_text()));
    if (s.found)
        control_line(c, buf_str(&s.line));
    buf_free(&s.line);
    return s.found;
}

static bool id_arg(struct control *c, ulid *id)
{
    str text = control_arg(c, "id");

    if (ulid_parse(text, id))
        return true;
    control_fail(c, "usage", "\"%.*s\" is no message id", STR(text));
    return false;
}

void queue_show(struct control *c, void *relay)
{
    ulid id;

    if (id_arg(c, &id) && !queue_show_message(c, relay, id))
        control_fail(c, "notfound", "no message of that id waits here; waypost trace may know what became of it");
}

/* ---- queue.change ---- */

enum action { RETRY, HOLD, RELEASE, BOUNCE, DELETE, REROUTE, ACTIONS };
static const char *const action_name[ACTIONS] = { "retry", "hold", "release", "bounce", "delete", "reroute" };

struct change {
    struct match match;
    enum action action;
    bool dry_run, report;
    str reason, via;
    when until;
    size_t at, count;
    arena *a; struct map failed;    /* messages that cannot be read, or must not be: once is enough */
};

static void tell_rerouted(const struct ticket *t, str via, str reason)
{
    AUTO_ARENA a = arena_new();

    event_keep(&(struct event){ .kind = EVENT_REROUTED, .id = t->id, .at = wall_now(), .rcpt = str_printf(a, "@%.*s", STR(ticket_domain(t))),
                                .reply = reason, .detail = str_printf(a, "via %.*s", STR(via)) });
}

/* Is it over with that ticket? Then it waited meanwhile, so what was found before is not to be believed any more. */
static bool end_ticket(struct worker *w, struct change *k, struct ticket *t)
{
    str id = str_of((const char *)t->id.b, sizeof t->id.b);

    if (t->state == TICKET_FLYING || map_get(&k->failed, id) || !ticket_remove(t))
        return false;
    id = str_dup(k->a, id);
    if ((k->action == BOUNCE ? dispatch_bounce(w->dispatch, t, k->reason) : dispatch_delete(w->dispatch, t, k->reason, k->report)) == OK)
        k->count++;
    else
        map_put(&k->failed, id, k); /* it waits again, and would be found for ever */
    return true;
}

/* True: it is done. */
static bool change_ticket(struct worker *w, struct change *k, struct ticket *t)
{
    struct backend *via = NULL;

    if (t->state == TICKET_FLYING)
        return false;
    switch (k->action) {
    case RETRY:
        return ticket_retry(t);
    case HOLD:
        if (t->held || !ticket_remove(t))
            return false;
        dispatch_hold(w->dispatch, t, k->until, k->reason);
        return true;
    case RELEASE:
        if (!t->held || !ticket_remove(t))
            return false;
        dispatch_release(w->dispatch, t);
        return true;
    case REROUTE:
        for (size_t i = 0; i < w->snap->routes.nbackend && !via; i++)
            if (str_eq(w->snap->routes.backend[i]->name, k->via))
                via = w->snap->routes.backend[i];
        if (!via || !ticket_reroute(t, via))
            return false;
        tell_rerouted(t, k->via, k->reason);
        return true;
    case BOUNCE: case DELETE: case ACTIONS:
        break;
    }
    return false;
}

static err change_some(struct worker *w, void *arg)
{
    struct change *k = arg;
    struct ticket *t[WALK];
    bool waits = k->action == BOUNCE || k->action == DELETE;
    size_t was = k->at, n = walk_fitting(w, &k->match, &k->at, t);

    for (size_t i = 0; i < n; i++) {
        if (k->dry_run) {
            k->count += t[i]->state != TICKET_FLYING;
            continue;
        }
        if (!waits) {
            k->count += change_ticket(w, k, t[i]);
        } else if (end_ticket(w, k, t[i])) { /* walk the same piece again, until nothing in it fits */
            k->at = was;
            break;
        }
    }
    return OK;
}

static when hold_most(struct relay *r)
{
    struct settings *s = relay_newest(r);
    when most = s->snapshot.retry.hold_max;

    snapshot_drop(&s->snapshot);
    return most ? most : HOLD_MOST;
}

void queue_change(struct control *c, void *relay)
{
    struct relay *r = relay;
    struct change k = { .dry_run = control_flag(c, "dry_run"), .report = control_flag(c, "report"), .reason = control_arg(c, "reason"),
                        .via = control_arg(c, "via"), .action = ACTIONS };
    str action = control_arg(c, "action");
    AUTO_BUF line = { 0 }, reason = { 0 };
    AUTO_ARENA a = k.a = arena_new();

    for (int i = 0; i < ACTIONS; i++)
        if (str_eq(action, str_z(action_name[i])))
            k.action = (enum action)i;
    if (k.action == ACTIONS) {
        control_fail(c, "usage", "there is no action \"%.*s\"", STR(action));
        return;
    }
    if (!match_of(c, &k.match))
        return;
    if (!match_says_which(&k.match)) {
        control_fail(c, "usage", "say which: an id, a lane, domain, sender, recipient, tenant, stream, reason or age, or all");
        return;
    }
    struct settings *s = relay_newest(r);
    bool known = k.action != REROUTE;
    for (size_t i = 0; i < s->snapshot.routes.nbackend && !known; i++)
        known = str_eq(s->snapshot.routes.backend[i]->name, k.via);
    snapshot_drop(&s->snapshot);
    if (!known) {
        control_fail(c, "usage", "there is no backend \"%.*s\"", STR(k.via));
        return;
    }
    static const char *const word[ACTIONS] = { "tried again", "held", "released", "returned", "deleted", "sent another way" };
    buf_addf(&reason, "%s by an operator%s%.*s", word[k.action], k.reason.n ? ": " : "", STR(k.reason));
    k.reason = buf_str(&reason);
    when most = hold_most(r), hold = seconds_arg(c, "for_s", most, most);
    k.until = clock_now() + MAX(hold, SECOND);
    for (unsigned i = 0; i < r->nworker; i++)
        for (k.at = 0; k.at != SIZE_MAX;)
            if (worker_call(&r->worker[i], change_some, &k) != OK)
                break;
    map_free(&k.failed);
    if (!k.dry_run)
        log_info("queue_changed", LOG_Z("action", action_name[k.action]), LOG_INT("count", k.count), LOG_STR("reason", k.reason));
    if (k.match.by_id && k.count == 0) {
        control_fail(c, "notfound", "no message of that id waits here so that this could be done, it is in delivery just now, or it cannot be read");
        return;
    }
    buf_addf(&line, "{\"count\":%zu", k.count);
    if (k.action == HOLD)
        add_time(&line, "until", wall_now() + (k.until - clock_now()));
    buf_addc(&line, '}');
    control_line(c, buf_str(&line));
}

/* ---- queue.suspend, queue.resume ---- */

struct suspension_of { str lane, reason; when until; bool was; };

static err suspend_one(struct worker *w, void *arg)
{
    struct suspension_of *s = arg;
    queue_suspend(w->queue, s->lane, s->until, s->reason);
    return OK;
}

static err resume_one(struct worker *w, void *arg)
{
    struct suspension_of *s = arg;
    s->was |= queue_resume(w->queue, s->lane);
    return OK;
}

/* Lanes of domains and sites come and go; those of backends are named by the configuration, and a typing error would go unnoticed. */
static bool is_lane(struct relay *r, str name)
{
    struct settings *s = relay_newest(r);
    bool is = str_starts(name, S("domain:")) || str_starts(name, S("mx:"));

    for (size_t i = 0; i < s->snapshot.routes.nbackend; i++)
        is |= !s->snapshot.routes.backend[i]->mx && str_eq(s->snapshot.routes.backend[i]->name, name);
    snapshot_drop(&s->snapshot);
    return is;
}

void queue_suspend_lane(struct control *c, void *relay)
{
    struct relay *r = relay;
    AUTO_BUF reason = { 0 };
    when most = hold_most(r), length = seconds_arg(c, "for_s", most, most);
    struct suspension_of s = { .lane = control_arg(c, "lane"), .until = clock_now() + MAX(length, SECOND) };
    str said = control_arg(c, "reason");

    if (!s.lane.n) {
        control_fail(c, "usage", "say which lane");
        return;
    }
    if (!is_lane(r, s.lane)) {
        control_fail(c, "notfound", "%.*s is no backend, and no lane domain:... or mx:...; `waypost stats` and `waypost backend list` name them", STR(s.lane));
        return;
    }
    buf_addf(&reason, "suspended by an operator%s%.*s", said.n ? ": " : "", STR(said));
    s.reason = buf_str(&reason);
    for (unsigned i = 0; i < r->nworker; i++)
        worker_call(&r->worker[i], suspend_one, &s);
    log_warn("lane_suspended", LOG_STR("lane", s.lane), LOG_STR("reason", said));
    standing_said(c, r);
}

void queue_resume_lane(struct control *c, void *relay)
{
    struct relay *r = relay;
    struct suspension_of s = { .lane = control_arg(c, "lane") };

    for (unsigned i = 0; i < r->nworker; i++)
        worker_call(&r->worker[i], resume_one, &s);
    s.was |= incidents_resume(r, s.lane);
    if (!s.was) {
        control_fail(c, "notfound", "no lane \"%.*s\" is suspended, and no incident has it frozen", STR(s.lane));
        return;
    }
    log_info("lane_resumed", LOG_STR("lane", s.lane));
    standing_said(c, r);
}
