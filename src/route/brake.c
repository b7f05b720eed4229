/* The bounce brake of a backend or site: counts in a window of ten pieces, a switch, and who tries whether it is over. */
#include "route/route.h"

#include <pthread.h>
#include <stdio.h>

#define PIECES 10
#define A_FEW 3
#define STEP_MOST (10 * MINUTE) /* between two tries */
#define STEP_FIRST_MOST (30 * SECOND)
#define TRY_MOST (15 * MINUTE)  /* who tries and says nothing for so long is gone */

struct brake {
    char *name;                 /* heap */
    uint64_t whose;             /* a site's; brake_hold() */
    unsigned holders;           /* the same; under brakes_lock */
    bool for_ever;
    pthread_mutex_t lock;
    _Atomic bool on;
    bool sure;                  /* it has been confirmed, and told */
    bool by_message;            /* asking for a recipient says nothing: it is tried with a message */
    bool trying; when trying_since;
    uint8_t era;                /* one more each time it goes off; never 0 */
    struct { int64_t number; uint64_t took, by_rcpt, by_message; } piece[PIECES]; /* piece `number` of all time */
    uint64_t took_in_window;    /* when it came on */
    when took_at;               /* the last */
    unsigned refused_since;     /* then */
    when meant_until;           /* it was asked, and means what it refuses */
    when since, next, step, first_step;
    char example[BRAKE_EXAMPLE], words[BRAKE_WORDS];
};

static pthread_mutex_t brakes_lock = PTHREAD_MUTEX_INITIALIZER;
static struct map brakes;       /* by backend or site; under the lock */
_Atomic uint32_t brakes_made;

/* Under the lock. */
static struct brake *brake_new(str name)
{
    struct brake *b = mem_new(sizeof *b);

    b->name = mem_new(name.n + 1);
    memcpy(b->name, name.p, name.n);
    pthread_mutex_init(&b->lock, NULL);
    b->era = 1;
    map_put(&brakes, str_of(b->name, name.n), b);
    return b;
}

struct brake *brake_of(str backend)
{
    pthread_mutex_lock(&brakes_lock);
    struct brake *b = map_get(&brakes, backend);
    if (!b)
        b = brake_new(backend);
    b->for_ever = true;
    pthread_mutex_unlock(&brakes_lock);
    return b;
}

struct brake *brake_hold(str site, str whose)
{
    uint64_t whose_hash = str_hash(whose);
    size_t theirs = 0, i = 0;

    pthread_mutex_lock(&brakes_lock);
    struct brake *b = map_get(&brakes, site);
    if (!b) {
        for (const struct brake *other; (other = map_next(&brakes, &i));)
            theirs += !other->for_ever && other->whose == whose_hash;
        if (theirs < BRAKES_EACH) {
            b = brake_new(site);
            b->whose = whose_hash;
            /* One that was given back and is made again must not know whom its predecessor refused, nor another site's. */
            b->era = (uint8_t)(1 + atomic_fetch_add(&brakes_made, 1) % UINT8_MAX);
        }
    }
    if (b)
        b->holders++;
    pthread_mutex_unlock(&brakes_lock);
    return b;
}

struct brake *brake_find(str name)
{
    pthread_mutex_lock(&brakes_lock);
    struct brake *b = map_get(&brakes, name);
    if (b)
        b->holders++;
    pthread_mutex_unlock(&brakes_lock);
    return b;
}

void brake_drop(struct brake *b)
{
    if (!b)
        return;
    pthread_mutex_lock(&brakes_lock);
    bool last = !--b->holders && !b->for_ever;
    if (last)
        map_del(&brakes, str_z(b->name));
    pthread_mutex_unlock(&brakes_lock);
    if (!last)
        return;
    pthread_mutex_destroy(&b->lock);
    mem_free(b->name);
    mem_free(b);
}

bool brake_leave(struct brake *b)
{
    pthread_mutex_lock(&brakes_lock);
    bool last = b->holders == 1 && !b->for_ever;
    pthread_mutex_unlock(&brakes_lock);
    return last && brake_release(b);
}

bool brake_on(const struct brake *b) { return atomic_load_explicit(&b->on, memory_order_relaxed); }

static void piece_add(struct brake *b, const struct brake_settings *s, const struct brake_count *n, when now)
{
    int64_t number = now / MAX(s->window / PIECES, MILLISECOND);
    size_t at = (size_t)(number % PIECES);

    if (b->piece[at].number != number)
        memset(&b->piece[at], 0, sizeof b->piece[at]);
    b->piece[at].number = number;
    b->piece[at].took += n->took;
    b->piece[at].by_rcpt += n->by_rcpt;
    b->piece[at].by_message += n->by_message;
}

static bool over_half(struct brake *b, const struct brake_settings *s, const struct brake_count *n, when now)
{
    char span[TIME_TEXT];
    int64_t number = now / MAX(s->window / PIECES, MILLISECOND);
    uint64_t took = 0, by_rcpt = 0, by_message = 0;

    for (size_t i = 0; i < PIECES; i++)
        if (number - b->piece[i].number < PIECES) {
            took += b->piece[i].took;
            by_rcpt += b->piece[i].by_rcpt;
            by_message += b->piece[i].by_message;
        }
    uint64_t refused = by_rcpt + by_message;
    if (refused + took < s->least || 2 * refused <= refused + took || (by_message > by_rcpt && took))
        return false;
    b->took_in_window = took;
    b->by_message = by_message > by_rcpt;
    snprintf(b->words, sizeof b->words, "it refused %llu of %llu recipients that our own lists know within %.*s, the last with %.*s", (unsigned long long)refused,
             (unsigned long long)(refused + took), STR(time_span(span, s->window)), STR(str_head(n->reply, 120)));
    return true;
}

/* What was counted is of another time. */
static void forget(struct brake *b) { memset(b->piece, 0, sizeof b->piece); }

bool brake_count(struct brake *b, const struct brake_settings *s, const struct brake_count *n, when now)
{
    bool came_on = false;

    if (!s->least)
        return false;
    pthread_mutex_lock(&b->lock);
    piece_add(b, s, n, now);
    b->refused_since += n->by_rcpt + n->by_message;
    if (n->took) {
        b->took_at = now;
        b->refused_since = 0;
    }
    if ((n->by_rcpt || n->by_message) && !b->on && now >= b->meant_until && over_half(b, s, n, now)) {
        str example = str_head(n->example, BRAKE_EXAMPLE - 1);
        memcpy(b->example, example.p, example.n);
        b->example[example.n] = 0;
        b->sure = b->trying = false;
        b->since = b->next = now;
        b->step = b->first_step = MIN(MAX(s->window / PIECES, SECOND), STEP_FIRST_MOST);
        atomic_store(&b->on, true);
        came_on = true;
    }
    pthread_mutex_unlock(&b->lock);
    return came_on;
}

bool brake_believes(struct brake *b, const struct brake_settings *s, uint8_t *era, when since, when now, when *again)
{
    bool yes = true;

    *again = 0;
    if (!s->least)
        return true;
    pthread_mutex_lock(&b->lock);
    bool before = *era == b->era;
    if (b->on)
        yes = false;
    else if (now >= b->meant_until) {
        when end = (before ? since : now) + s->window;
        yes = before && (b->took_at > since || now >= end);
        *again = MIN(now + MIN(s->window / 5, MINUTE), end);
    }
    *era = b->era;
    pthread_mutex_unlock(&b->lock);
    return yes;
}

bool brake_well(struct brake *b, const struct brake_settings *s, when now)
{
    pthread_mutex_lock(&b->lock);
    bool well = !b->on && b->took_at && now - b->took_at < s->window && b->refused_since <= A_FEW;
    pthread_mutex_unlock(&b->lock);
    return well;
}

uint8_t brake_era(struct brake *b)
{
    pthread_mutex_lock(&b->lock);
    uint8_t era = b->era;
    pthread_mutex_unlock(&b->lock);
    return era;
}

when brake_next(struct brake *b, when *since, char words[BRAKE_WORDS])
{
    pthread_mutex_lock(&b->lock);
    when next = b->next;
    *since = b->since;
    memcpy(words, b->words, BRAKE_WORDS);
    pthread_mutex_unlock(&b->lock);
    return next;
}

bool brake_try(struct brake *b, when now, char example[BRAKE_EXAMPLE], bool *by_message)
{
    pthread_mutex_lock(&b->lock);
    bool mine = b->on && now >= b->next && (!b->trying || now - b->trying_since > TRY_MOST);
    if (mine) {
        b->trying = true;
        b->trying_since = now;
        memcpy(example, b->example, BRAKE_EXAMPLE);
        *by_message = b->by_message;
    }
    pthread_mutex_unlock(&b->lock);
    return mine;
}

static void off(struct brake *b)
{
    b->trying = false;
    b->took_at = 0;
    forget(b);
    atomic_store(&b->on, false);
}

/* Who was refused before gets the benefit of the doubt again. */
static void next_era(struct brake *b) { b->era = b->era == UINT8_MAX ? 1 : b->era + 1; }

enum brake_then brake_tried(struct brake *b, enum brake_said said, when now)
{
    enum brake_then then = BRAKE_STAYS;

    pthread_mutex_lock(&b->lock);
    if (!b->on) {
        /* An operator was faster. */
    } else if (said == BRAKE_NOTHING) {
        b->trying = false;
    } else if (said == BRAKE_TAKEN && (b->sure || b->by_message)) {
        off(b);
        next_era(b);
        then = BRAKE_IS_OFF;
    } else if (said == BRAKE_TAKEN && b->took_in_window) {
        b->meant_until = now + b->first_step * PIECES;
        off(b);
        then = BRAKE_MEANT;
    } else {
        /* Nothing was taken but the null sender's question: it may refuse all others. */
        b->by_message |= said == BRAKE_UNASKED || said == BRAKE_TAKEN;
        then = b->sure ? BRAKE_STAYS : BRAKE_STAYS_FIRST;
        b->sure = true;
        b->trying = false;
        b->next = now + b->step;
        b->step = MIN(2 * b->step, STEP_MOST);
    }
    pthread_mutex_unlock(&b->lock);
    return then;
}

bool brake_release(struct brake *b)
{
    pthread_mutex_lock(&b->lock);
    bool was = b->on;
    if (was) {
        off(b);
        next_era(b);
    }
    pthread_mutex_unlock(&b->lock);
    return was;
}

/* ---- a site's ---- */

/* What it took before anybody counted makes it no worse than a backend of which all was counted. */
static void credit(struct backend *b, when now)
{
    struct brake *k = b->brake;

    if (b->took.n && now - b->took.last < b->braking.window) {
        pthread_mutex_lock(&k->lock);
        piece_add(k, &b->braking, &(struct brake_count){ .took = b->took.n }, b->took.last);
        k->took_at = MAX(k->took_at, b->took.last);
        pthread_mutex_unlock(&k->lock);
    }
    b->took.n = 0;
}

struct brake *backend_brake_look(struct backend *b)
{
    b->brakes_seen = atomic_load(&brakes_made);
    b->brake = brake_find(site_subject(b->name));
    if (b->brake)
        credit(b, clock_now());
    return b->brake;
}

struct brake *backend_brake_make(struct backend *b, str whose, when now)
{
    if (b->brake || !b->relay)
        return b->brake;
    b->brake = brake_hold(site_subject(b->name), whose);
    if (b->brake)
        credit(b, now);
    return b->brake;
}

void backend_took(struct backend *b, unsigned n, when now)
{
    if (now - b->took.since > b->braking.window) {
        b->took.n = 0;
        b->took.since = now;
    }
    b->took.n += n;
    b->took.last = now;
}
