/* Tickets: their memory, how they are found by message, and the sets of recipients they stand for. */
#include "queue/inside.h"

struct mail *mail_new(arena *a, struct message *m, struct spool_slab *slab)
{
    struct mail *mail = NEW(a, struct mail);

    *mail = (struct mail){ .a = a, .m = m, .slab = slab, .holders = 1 };
    return mail;
}

void mail_drop(struct mail *m)
{
    if (!m || --m->holders)
        return;
    if (m->counted)
        *m->counted -= m->bytes;
    vigil_end(take(m->vigil)); /* it waits for long: no answer to a client does */
    if (m->move)
        spool_move_done(m->move);
    spool_slab_free(m->slab);
    arena_free(m->a);
}

uint32_t seconds_now(void)
{
    return (uint32_t)(clock_now() / SECOND);
}

/* ---- recipients ---- */

static struct rcpt_set *set_of(const struct ticket *t)
{
    return (struct rcpt_set *)(uintptr_t)t->rcpts;
}

bool ticket_has(const struct ticket *t, uint32_t rcpt)
{
    if (!t->many)
        return rcpt < 64 && (t->rcpts >> rcpt & 1);
    return rcpt < set_of(t)->n && (set_of(t)->bits[rcpt / 64] >> rcpt % 64 & 1);
}

uint32_t ticket_count(const struct ticket *t)
{
    if (!t->many)
        return (uint32_t)__builtin_popcountll(t->rcpts);
    uint32_t n = 0;
    for (uint32_t i = 0; i < (set_of(t)->n + 63) / 64; i++)
        n += (uint32_t)__builtin_popcountll(set_of(t)->bits[i]);
    return n;
}

static void ticket_add_rcpt(struct ticket *t, uint32_t rcpt, uint32_t of)
{
    if (of > 64 && !t->many) {
        struct rcpt_set *s = mem_new(sizeof *s + (of + 63) / 64 * sizeof s->bits[0]);
        s->n = of;
        t->many = true;
        t->rcpts = (uint64_t)(uintptr_t)s;
    }
    if (t->many)
        set_of(t)->bits[rcpt / 64] |= (uint64_t)1 << rcpt % 64;
    else
        t->rcpts |= (uint64_t)1 << rcpt;
}

/* ---- memory ---- */

struct ticket *ticket_new(struct queue *q, ulid id)
{
    if (!q->free) {
        struct ticket *block = mem_new(BLOCK_TICKETS * sizeof *block);
        if (q->nblock == q->block_cap) {
            q->block_cap = q->block_cap ? q->block_cap * 2 : 64;
            q->block = mem_grow(q->block, q->block_cap * sizeof *q->block);
        }
        q->block[q->nblock++] = block;
        for (size_t i = BLOCK_TICKETS; i-- > 0;) {
            block[i].hash_next = q->free;
            q->free = &block[i];
        }
    }
    struct ticket *t = q->free;
    q->free = t->hash_next;
    *t = (struct ticket){ .id = id, .state = TICKET_FLYING };
    q->ntickets++;
    return t;
}

uint32_t lifetime_of(const struct queue *q, unsigned stream, when expire)
{
    return (uint32_t)((expire ? expire : stream_retry(q->setup.streams, stream, q->setup.retry)->lifetime) / SECOND);
}

void ticket_forget_mail(struct ticket *t)
{
    mail_drop(take(t->mail));
}

void ticket_free(struct queue *q, struct ticket *t)
{
    ticket_forget_mail(t);
    intern_put(&q->words, t->domain);
    intern_put(&q->words, t->reason);
    intern_put(&q->words, t->from);
    if (t->many)
        mem_free(set_of(t));
    q->by_stream[t->stream]--;
    *t = (struct ticket){ .hash_next = q->free };
    q->free = t;
    q->ntickets--;
}

/* ---- by message ---- */

static void hash_grow(struct queue *q)
{
    size_t size = q->hash_size ? q->hash_size * 2 : 1024;
    struct ticket **hash = mem_new(size * sizeof *hash);

    for (size_t i = 0; i < q->hash_size; i++)
        for (struct ticket *t = q->hash[i], *next; t; t = next) {
            size_t to = ulid_hash(t->id) & (size - 1);
            next = t->hash_next;
            t->hash_next = hash[to];
            hash[to] = t;
        }
    mem_free(q->hash);
    q->hash = hash;
    q->hash_size = size;
}

struct ticket *queue_find(const struct queue *q, ulid id)
{
    if (!q->hash_size)
        return NULL;
    for (struct ticket *t = q->hash[ulid_hash(id) & (q->hash_size - 1)]; t; t = t->hash_next)
        if (ulid_eq(t->id, id))
            return t;
    return NULL;
}

/* The first ticket of a message stands in the hash; its siblings are a ring through it. */
void ticket_link(struct queue *q, struct ticket *t)
{
    struct ticket *first = queue_find(q, t->id);

    if (first) {
        t->sibling = first->sibling;
        first->sibling = t;
        return;
    }
    if (q->nmessages >= q->hash_size)
        hash_grow(q);
    size_t at = ulid_hash(t->id) & (q->hash_size - 1);
    t->sibling = t;
    t->hash_next = q->hash[at];
    q->hash[at] = t;
    q->nmessages++;
}

bool ticket_unlink(struct queue *q, struct ticket *t)
{
    struct ticket **at = &q->hash[ulid_hash(t->id) & (q->hash_size - 1)], *other = t->sibling;

    while (*at && *at != t)
        at = &(*at)->hash_next;
    if (other == t) {
        must(*at == t);
        *at = t->hash_next;
        q->nmessages--;
        return true;
    }
    if (*at) { /* another stands in for it */
        other->hash_next = t->hash_next;
        *at = other;
    }
    while (other->sibling != t)
        other = other->sibling;
    other->sibling = t->sibling;
    return false;
}

bool ticket_last(const struct ticket *t)
{
    return t->sibling == t;
}

/* ---- from a message ---- */

static uint16_t key_of(str by)
{
    uint32_t crc = 0;

    for (size_t i = 0; i < by.n; i++)
        crc = crc32c(crc, &(char){ ascii_lower(by.p[i]) }, 1);
    return (uint16_t)(crc ^ crc >> 16);
}

/* Which mail goes the same way at a backend that sticks: the same in each run, case ignored. */
static uint16_t sticky_key(const struct backend *b, const struct message *m, str domain)
{
    return key_of(b->sticky_by == STICKY_SENDER ? m->env.sender : b->sticky_by == STICKY_TENANT ? m->origin.tenant : domain);
}

/* The ticket for recipients of `m` that wait, go to `lane` and (unless the backend mixes domains) to `domain`, as of `due`. */
static struct ticket *ticket_for(struct queue *q, const struct message *m, struct lane *lane, str domain, uint32_t due, bool warned, bool hand_on)
{
    struct ticket *first = queue_find(q, m->id), *t = first;
    bool mixes = lane->backend && lane->backend->mix_domains && !hand_on; /* whom the rest is handed on to, the domain says */

    for (; t; t = t->sibling == first ? NULL : t->sibling)
        if (t->lane == lane && t->due == due && t->warned == warned && t->hand_on == hand_on && (mixes || str_ieq(ticket_domain(t), domain)))
            return t;
    t = ticket_new(q, m->id);
    t->lane = lane;
    t->due = due;
    t->domain = intern_get(&q->words, domain);
    t->from = intern_get(&q->words, domain_of(m->env.sender));
    t->home = m->at;
    if (lane->backend && lane->backend->balance == BALANCE_STICKY)
        t->sticky = sticky_key(lane->backend, m, domain);
    t->accepted = m->origin.accepted;
    t->report = m->report;
    if (m->origin.stream.n) {
        const struct mail_stream *s = stream_named(q->setup.streams, m->origin.stream);
        t->stream = s ? s->number : 0;
    }
    q->by_stream[t->stream]++;
    t->warned = warned;
    t->hand_on = hand_on;
    if (m->not_before)
        t->reason = intern_get(&q->words, S("reports are paced: its turn comes"));
    t->version = 1;
    t->since = seconds_now();
    ticket_link(q, t);
    return t;
}

#define ASKING_MANY 256

static bool goes_soon(const struct queue *q, const struct lane *lane)
{
    return lane->state == LANE_OPEN && (lane->kind != LANE_DOMAIN || lane->site || q->nasking < ASKING_MANY);
}

/* To its lane or into the calendar; with its message in memory only where that helps. */
static void ticket_start(struct queue *q, struct ticket *t, struct mail *mail)
{
    if (!lane_leads(t->lane)) {
        t->state = TICKET_FLYING;
        t->lane->nflying++;
        q->setup.unroutable(q->setup.ctx, t);
        return;
    }
    if (t->due > seconds_now()) {
        calendar_put(q, t);
        return;
    }
    if (mail && goes_soon(q, t->lane) && q->body_bytes <= q->setup.body_budget) {
        t->mail = mail;
        mail->holders++;
    }
    lane_put(t->lane, t, false);
}

/* The words of a stored reply that repeat from message to message: its codes. */
static str reply_codes(str reply)
{
    str rest = reply, code, enhanced;

    if (!str_word(&rest, &code) || code.n != 3 || !ascii_digit(code.p[0]))
        return str_head(reply, 80);
    if (!str_word(&rest, &enhanced) || !ascii_digit(enhanced.p[0]))
        return code;
    return str_of(code.p, (size_t)(enhanced.p + enhanced.n - code.p));
}

/* What a recipient's state says of the ticket it is on. */
static void ticket_resume(struct queue *q, struct ticket *t, const struct rcpt_state *state, when wall)
{
    t->attempts = MAX(t->attempts, state->attempts);
    t->version = MAX(t->version, state->version + 1);
    t->unknown |= state->unknown;
    if (!t->reason)
        t->reason = intern_get(&q->words, reply_codes(state->reply));
    ticket_remember(t, state, wall);
}

static void queue_take(struct queue *q, const struct message *m, const struct rcpt_state *state, struct mail *mail)
{
    const struct envelope *env = &m->env;
    when now = wall_now();
    struct ticket *some[16], **fresh = some;
    size_t n = 0, cap = COUNT(some);
    struct way way;

    way_begin(&way, q->setup.routes, m);
    for (uint32_t i = 0; i < env->nrcpt; i++) {
        if (state && state[i].status != RCPT_WAITING)
            continue;
        when next = state ? state[i].next : m->not_before, wait = next > now ? next - now : 0;
        const struct backend *b = way_of(&way, i);
        struct lane *lane = lane_leaving(q, b, way.outlets, way.key.domain, NULL, way.outlets ? queue_find(q, m->id) : NULL);
        struct ticket *t = ticket_for(q, m, lane, way.key.domain,
                                      wait ? seconds_now() + (uint32_t)(wait / SECOND) : 0, state && state[i].warned, way.other != NULL);
        if (ticket_count(t) == 0) {
            if (n == cap) {
                struct ticket **more = mem_new(4 * cap * sizeof(struct ticket *));
                memcpy(more, fresh, n * sizeof *fresh);
                if (fresh != some)
                    mem_free(fresh);
                fresh = more;
                cap *= 4;
            }
            fresh[n++] = t;
        }
        ticket_add_rcpt(t, i, (uint32_t)env->nrcpt);
        t->lifetime = lifetime_of(q, t->stream, way.expire);
        if (state)
            ticket_resume(q, t, &state[i], now);
    }
    if (n == 1)
        fresh[0]->fresh = !(mail && mail->to);
    for (size_t i = 0; i < n; i++)
        ticket_start(q, fresh[i], mail);
    if (fresh != some)
        mem_free(fresh);
}

void mail_count(struct mail *mail, struct queue *q)
{
    if (mail->counted)
        *mail->counted -= mail->bytes;
    mail->counted = q ? &q->body_bytes : NULL;
    if (q)
        q->body_bytes += mail->bytes;
}

void queue_add(struct queue *q, struct mail *mail)
{
    mail->bytes = arena_size(mail->a) + (mail->slab ? mail->slab->cap : 0);
    mail_count(mail, q);
    queue_take(q, mail->m, NULL, mail);
    mail_drop(mail);
}

void queue_load(struct queue *q, const struct message *m, const struct rcpt_state *state)
{
    queue_take(q, m, state, NULL);
}

struct ticket *ticket_split(struct ticket *t, const struct rcpt_set *part)
{
    struct queue *q = t->lane->queue;
    struct ticket *other = ticket_new(q, t->id);

    t->fresh = false;
    *other = *t;
    other->hash_next = NULL;
    other->sibling = NULL;
    other->place = (struct link){ 0 };
    other->rcpts = 0;
    other->many = false;
    intern_get(&q->words, intern_str(&q->words, t->domain));
    intern_get(&q->words, intern_str(&q->words, t->reason));
    intern_get(&q->words, intern_str(&q->words, t->from));
    q->by_stream[other->stream]++;
    if (other->mail)
        other->mail->holders++;
    for (uint32_t i = 0; i < part->n; i++)
        if ((part->bits[i / 64] >> i % 64 & 1) && ticket_has(t, i)) {
            ticket_add_rcpt(other, i, part->n);
            if (t->many)
                set_of(t)->bits[i / 64] &= ~((uint64_t)1 << i % 64);
            else
                t->rcpts &= ~((uint64_t)1 << i);
        }
    must(ticket_count(t) && ticket_count(other));
    ticket_link(q, other);
    t->lane->nflying++;
    return other;
}

/* Where there is no way any more it is settled at the calendar's next turn, not in the middle of what gives the ticket back. */
static void ticket_land(struct ticket *t, bool front)
{
    t->lane->nflying--;
    if (!lane_leads(t->lane))
        ticket_go(t, lane_again(t));
    if (lane_leads(t->lane)) {
        lane_put(t->lane, t, front);
    } else {
        t->due = seconds_now();
        calendar_put(t->lane->queue, t);
    }
}

void ticket_return(struct ticket *t)
{
    must(t->state == TICKET_FLYING);
    ticket_land(t, true);
}

void ticket_settle_as(struct ticket *t, enum ticket_state state)
{
    must(t->state == TICKET_FLYING && state != TICKET_FLYING);
    if (state == TICKET_READY) {
        ticket_land(t, false);
    } else {
        t->lane->nflying--;
        calendar_put(t->lane->queue, t);
    }
}

void ticket_defer(struct ticket *t, when due, str reason)
{
    struct queue *q = t->lane->queue;

    must(t->state == TICKET_FLYING);
    t->lane->nflying--;
    t->attempts++;
    t->version++;
    t->fresh = false;
    uint32_t was = t->reason;
    t->reason = intern_get(&q->words, reason);
    if (t->reason != was)
        t->since = seconds_now();
    intern_put(&q->words, was);
    t->due = (uint32_t)((due + SECOND - 1) / SECOND);
    ticket_forget_mail(t);
    calendar_put(q, t);
}

void ticket_put_off(struct ticket *t, when due, str reason, bool held)
{
    struct queue *q = t->lane->queue;
    uint32_t was = t->reason;

    must(t->state == TICKET_FLYING);
    t->lane->nflying--;
    t->version++;
    t->fresh = false;
    t->reason = intern_get(&q->words, reason);
    if ((held && !t->held) || (!t->held && t->reason != was))
        t->since = seconds_now();
    intern_put(&q->words, was);
    if (!held && t->held)
        ticket_let_go(t);
    t->held = held;
    t->due = (uint32_t)((due + SECOND - 1) / SECOND);
    ticket_forget_mail(t);
    if (t->due > seconds_now()) {
        calendar_put(q, t);
    } else {
        t->lane->nflying++;
        ticket_land(t, false);
    }
}

const struct elsewhere *ticket_elsewhere(const struct ticket *t, str domain)
{
    return t->hand_on ? route_elsewhere(t->lane->queue->setup.routes, domain) : NULL;
}

void ticket_hand_on(struct ticket *t, struct backend *b, str domain)
{
    struct queue *q = t->lane->queue;
    uint32_t was = t->domain;

    must(t->state == TICKET_FLYING && t->hand_on);
    t->lane->nflying--;
    t->domain = intern_get(&q->words, domain);
    intern_put(&q->words, was);
    ticket_go(t, lane_leaving(q, b, route_outlets(q->setup.routes, NULL, b, domain), domain, NULL, NULL));
    t->hand_on = t->fresh = false;
    t->server = 0;
    if (b->balance == BALANCE_STICKY) /* whatever it sticks by: the message may not be in memory */
        t->sticky = key_of(domain);
    lane_put(t->lane, t, false);
}

bool ticket_done(struct ticket *t)
{
    struct queue *q = t->lane->queue;

    must(t->state == TICKET_FLYING);
    t->lane->nflying--;
    bool last = ticket_unlink(q, t);
    ticket_free(q, t);
    return last;
}

static void mail_moved(struct mail *mail, struct spool_move *move)
{
    mail->m->at = move->to;
    if (mail->slab || mail->move == move)
        return;
    must(!mail->move); /* one move is over before the next begins */
    mail->move = move;
    atomic_fetch_add(&move->holders, 1);
}

void queue_moved(struct queue *q, struct spool_move *move)
{
    struct ticket *first = queue_find(q, move->id);

    for (struct ticket *t = first; t; t = t->sibling == first ? NULL : t->sibling)
        if (t->home.segment == move->from.segment && t->home.offset == move->from.offset) {
            t->home = move->to;
            if (t->mail)
                mail_moved(t->mail, move);
        }
}

/* ---- for people ---- */

str ticket_sender_domain(const struct ticket *t)
{
    return intern_str(&t->lane->queue->words, t->from);
}

str ticket_domain(const struct ticket *t)
{
    return intern_str(&t->lane->queue->words, t->domain);
}

bool lane_delay(const struct lane *lane, str *reason, when *until)
{
    const struct limit_state *of = lane->sending->pacing.until ? lane->sending->pacing.of : lane->sending->connections ? NULL : lane->sending->full;

    *reason = lane->sending->pacing.until ? S("its rate is used up") : S("all connections there may be are in use");
    for (unsigned i = 0; of && lane->backend && i < lane->backend->nlimit; i++)
        if (lane->backend->limit[i].state == of)
            *reason = lane->sending->pacing.until ? lane->backend->limit[i].slow : lane->backend->limit[i].full;
    *until = lane->sending->pacing.until;
    return of != NULL;
}

str ticket_reason(const struct ticket *t)
{
    str reason;
    when until;

    switch ((enum ticket_state)t->state) {
    case TICKET_FLYING:
        return S("in delivery");
    case TICKET_WAITING:
        break;
    case TICKET_READY:
        if (t->lane->state == LANE_DOWN)
            return lane_reason(t->lane);
        if (lane_delay(t->lane, &reason, &until))
            return reason;
        return t->lane->sending->crowded ? S("all connections to next hops are in use") : S("its turn comes next");
    }
    return intern_str(&t->lane->queue->words, t->reason);
}

struct why ticket_why(const struct ticket *t)
{
    when wall = wall_now(), now = clock_now(), until;
    struct why w = { .reason = ticket_reason(t), .since = wall - (now - (when)t->since * SECOND) };
    str delay;

    if (t->state == TICKET_WAITING) {
        w.next = wall + ((when)t->due * SECOND - now);
    } else if (t->state == TICKET_READY && t->lane->state == LANE_DOWN) {
        w.since = wall - (now - t->lane->since);
        w.next = wall + (t->lane->retry_at - now);
    } else if (t->state == TICKET_READY && lane_delay(t->lane, &delay, &until)) {
        w.next = until ? wall + (until - now) : 0;
    }
    return w;
}
