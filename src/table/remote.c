/* What sources said, kept for all threads. A question is a flight: on its way once, with the tasks that wait for it. Flights are carried
 * out by runners, tasks of whichever thread needed one; they belong to their thread, not to a session, so that a client who hangs up
 * takes no answer away from others. */
#include "table/inside.h"

#include "stats/stats.h"

#define FLIGHTS_MOST 1000               /* of one source, on their way or waiting for a runner */
#define STRIKES 2                       /* nobody there, in a row: down */
#define DOUBTS 3                        /* no answer though somebody was there, in a row: told as down, and asked all the same */
#define PAUSE_FIRST SECOND
#define PAUSE_MOST (15 * SECOND)
#define QUIET MINUTE                    /* between two lines that say that it is down */

struct entry {
    struct link lru;
    struct flight *flight;              /* NULL: nobody is asking */
    enum said said;                     /* SAID_FOUND, SAID_ABSENT, or nothing yet */
    when at;
    str key;
    char text[];
};

struct flight {
    struct link queued;
    struct entry *entry;
    struct link waiting;                /* struct asker */
    struct inquiry q;
    char text[];                        /* of q: local@domain */
};

/* On the stack of the task that waits. */
struct asker {
    struct post post;
    struct link link;
    struct thread *home;
    enum said said;
    bool posted, told;
    struct waiters done;
};

struct remote {
    struct remote *next;
    unsigned holders;                   /* under `all_lock`, as `next` */
    struct source *s;
    pthread_mutex_t lock;               /* of all below; nobody waits with it */
    struct map entries;
    struct link lru;                    /* of those that nobody is asking; the least lately used first */
    struct link queue;                  /* flights without a runner */
    size_t flights;
    unsigned runners;
    /* health */
    unsigned strikes, doubts;
    bool down, told;                    /* down: left alone until try_at. told: there is a line that says so */
    when try_at, pause, since, quiet_until;
    struct table_counts n;
};

static pthread_mutex_t all_lock = PTHREAD_MUTEX_INITIALIZER;
static struct remote *all;

/* ---- entries ---- */

static void entry_free(struct remote *r, struct entry *e)
{
    list_del(&e->lru);
    map_del(&r->entries, e->key);
    mem_free(e);
}

/* One that is asked for now stays until its answer has come. */
static void entry_idle(struct remote *r, struct entry *e)
{
    if (e->said == SAID_NOTHING) {
        entry_free(r, e);
        return;
    }
    list_add(&r->lru, &e->lru);
    while (r->entries.n > r->s->keep.entries && !list_empty(&r->lru))
        entry_free(r, AROUND(r->lru.next, struct entry, lru));
}

static struct entry *entry_new(struct remote *r, str key)
{
    struct entry *e = mem_new(sizeof *e + key.n);

    memcpy(e->text, key.p, key.n);
    e->key = str_of(e->text, key.n);
    map_put(&r->entries, e->key, e);
    return e;
}

static bool fresh(const struct remote *r, const struct entry *e, when now)
{
    return e->said != SAID_NOTHING && now - e->at < (e->said == SAID_FOUND ? r->s->keep.cache : r->s->keep.negative);
}

/* What may be said while the source says nothing. Only what was found: an old "no" would refuse people who came since. */
static enum said last_good(struct remote *r, str key, when now)
{
    const struct entry *e = map_get(&r->entries, key);

    if (!e || e->said != SAID_FOUND || now - e->at >= r->s->keep.cache + r->s->keep.stale)
        return SAID_UNSURE;
    r->n.stale++;
    stats_add(COUNT_lookups_stale, 1);
    return SAID_FOUND;
}

/* ---- health ---- */

static str incident_subject(const struct remote *r, arena *a) { return str_printf(a, "%s %.*s", r->s->kind, STR(r->s->name)); }

static void tell_works(const struct remote *r, str why)
{
    AUTO_ARENA a = arena_new();

    incident_close(INCIDENT_NO_SOURCE, incident_subject(r, a), why);
}

static void tell_down(struct remote *r, str why, when now)
{
    AUTO_ARENA a = arena_new();

    if (!r->told && now < r->quiet_until)
        return;
    incident_open(INCIDENT_NO_SOURCE, incident_subject(r, a), why, S("it is asked again; whom it once found is taken, about others clients are told to try later"));
    if (r->told)
        return;
    r->told = true;
    r->since = now;
    r->quiet_until = now + QUIET;
    log_warn("source_down", LOG_Z("kind", r->s->kind), LOG_STR("source", r->s->name), LOG_STR("reason", why));
}

static void works(struct remote *r, when now)
{
    r->strikes = r->doubts = 0;
    r->down = false;
    r->pause = 0;
    if (!r->told)
        return;
    r->told = false;
    tell_works(r, S("it answers"));
    log_info("source_up", LOG_Z("kind", r->s->kind), LOG_STR("source", r->s->name), LOG_INT("seconds", (now - r->since) / SECOND));
}

static void learn(struct remote *r, struct entry *e, enum said said, str why)
{
    when now = clock_now();

    switch (said) {
    case SAID_FOUND:
    case SAID_ABSENT:
        e->said = said;
        e->at = now;
        works(r, now);
        break;
    case SAID_MUTE:
        works(r, now);
        break;
    case SAID_DOWN:
        if (++r->strikes < STRIKES)
            break;
        r->pause = r->down ? MIN(r->pause * 2, PAUSE_MOST) : PAUSE_FIRST;
        r->down = true;
        r->try_at = now + r->pause;
        tell_down(r, why, now);
        break;
    case SAID_UNSURE:
    case SAID_NOTHING:
        /* Somebody is there: one address that it cannot judge must not close the door to the others. */
        r->strikes = 0;
        r->down = false;
        if (++r->doubts >= DOUBTS)
            tell_down(r, why, now);
        break;
    }
}

/* ---- flights ---- */

static struct flight *flight_new(struct remote *r, struct entry *e, const struct inquiry *q)
{
    struct flight *f = mem_new(sizeof *f + q->address.n);

    memcpy(f->text, q->address.p, q->address.n);
    f->q.address = str_of(f->text, q->address.n);
    f->q.local = str_head(f->q.address, q->local.n);
    f->q.domain = str_from(f->q.address, q->local.n + 1);
    f->entry = e;
    list_init(&f->waiting);
    list_del(&e->lru);
    e->flight = f;
    list_add(&r->queue, &f->queued);
    r->flights++;
    return f;
}

static void asker_told(struct post *p)
{
    struct asker *k = AROUND(p, struct asker, post);

    k->told = true;
    waiters_wake_all(&k->done);
}

/* Under the lock. Ends the flight. */
static void flight_end(struct remote *r, struct flight *f, enum said said)
{
    list_del(&f->queued);
    while (!list_empty(&f->waiting)) {
        struct asker *k = AROUND(f->waiting.next, struct asker, link);
        list_del(&k->link);
        k->said = said;
        k->posted = true;
        k->post.run = asker_told;
        thread_post(k->home, &k->post); /* it may be gone from here on */
    }
    f->entry->flight = NULL;
    entry_idle(r, f->entry);
    r->flights--;
    mem_free(f);
}

struct asking { struct remote *r; const struct inquiry *q; when deadline; enum said said; struct err_note why; };

static err ask(void *arg)
{
    struct asking *a = arg;

    a->said = a->r->s->ask(a->r->s, a->q, a->deadline);
    if (a->said == SAID_UNSURE || a->said == SAID_DOWN)
        a->why = *err_note;
    return OK;
}

/* In a group of its own, whose deadline covers every wait of it. */
static void ask_within(struct asking *a)
{
    AUTO_GROUP g = group_open(a->deadline);

    fail(E_LIMIT, "no task to ask it with");
    a->why = *err_note;
    a->said = SAID_UNSURE;
    group_spawn(&g, "look-up", ask, a);
    group_wait(&g);
}

/* Nobody is left who would carry them out. */
static void queue_end(struct remote *r)
{
    while (!r->runners && !list_empty(&r->queue))
        flight_end(r, AROUND(r->queue.next, struct flight, queued), SAID_UNSURE);
}

static err runner(void *remote)
{
    struct remote *r = remote;

    pthread_mutex_lock(&r->lock);
    while (!list_empty(&r->queue) && !task_canceled()) {
        struct flight *f = AROUND(r->queue.next, struct flight, queued);
        if (list_empty(&f->waiting)) { /* all gave up before it began */
            flight_end(r, f, SAID_UNSURE);
            continue;
        }
        list_del(&f->queued);
        r->n.asked++;
        pthread_mutex_unlock(&r->lock);
        struct asking a = { .r = r, .q = &f->q, .deadline = clock_now() + r->s->keep.timeout };
        ask_within(&a);
        stats_add(COUNT_lookups, 1);
        pthread_mutex_lock(&r->lock);
        if (!task_canceled())
            learn(r, f->entry, a.said, str_of(a.why.text, a.why.n));
        flight_end(r, f, a.said);
    }
    r->runners--;
    queue_end(r);
    pthread_mutex_unlock(&r->lock);
    remote_drop(r);
    return OK;
}

/* ---- asking ---- */

static void runner_start(struct remote *r)
{
    pthread_mutex_lock(&all_lock);
    r->holders++;
    pthread_mutex_unlock(&all_lock);
    if (group_spawn(thread_group(), "look-ups", runner, r) == OK)
        return;
    pthread_mutex_lock(&r->lock);
    r->runners--;
    queue_end(r);
    pthread_mutex_unlock(&r->lock);
    remote_drop(r);
}

static enum said asker_wait(struct remote *r, struct asker *k, str key)
{
    when deadline = clock_now() + r->s->keep.timeout;
    err e = OK;

    while (!k->told && e == OK)
        e = waiters_wait(&k->done, deadline);
    pthread_mutex_lock(&r->lock);
    if (!k->posted)
        list_del(&k->link);
    pthread_mutex_unlock(&r->lock);
    while (k->posted && !k->told) /* the post is on its way to us, and lies on our stack */
        waiters_wait_steady(&k->done);
    if (k->posted && (k->said == SAID_FOUND || k->said == SAID_ABSENT || k->said == SAID_MUTE))
        return k->said;
    pthread_mutex_lock(&r->lock);
    enum said said = last_good(r, key, clock_now());
    pthread_mutex_unlock(&r->lock);
    return said;
}

/* From memory, or by asking. */
static enum said find(struct remote *r, const struct inquiry *q)
{
    struct asker k = { .home = task_running() ? thread_self() : NULL };
    when now = clock_now();
    bool start = false;
    enum said said = SAID_NOTHING;

    pthread_mutex_lock(&r->lock);
    struct entry *e = map_get(&r->entries, q->address);
    if (e && fresh(r, e, now)) {
        said = e->said;
        r->n.kept++;
        if (!e->flight) {
            list_del(&e->lru);
            list_add(&r->lru, &e->lru);
        }
    } else if (e && e->flight) {
        r->n.joined++;
    } else if ((r->down && now < r->try_at) || r->flights >= FLIGHTS_MOST || !k.home) {
        said = last_good(r, q->address, now);
    } else {
        if (!e)
            e = entry_new(r, q->address);
        flight_new(r, e, q);
        if (r->down)
            r->try_at = now + r->s->keep.timeout; /* one goes ahead */
        start = r->runners < r->s->at_once;
        r->runners += start;
    }
    if (said == SAID_NOTHING)
        list_add(&e->flight->waiting, &k.link);
    pthread_mutex_unlock(&r->lock);
    if (said != SAID_NOTHING)
        return said;
    if (start)
        runner_start(r);
    return asker_wait(r, &k, q->address);
}

#define ADDRESS_MOST 1024

/* local@domain without quotes, in `text`. False: no source could hold it. */
static bool question_of(const struct source *s, const struct path *path, char text[ADDRESS_MOST], struct inquiry *q)
{
    str local = path->local;
    size_t n = 0;

    if (local.n + path->domain.n + 1 > ADDRESS_MOST || path->domain.n == 0)
        return false;
    if (path->quoted && local.n >= 2)
        local = str_of(local.p + 1, local.n - 2);
    for (size_t i = 0; i < local.n; i++) {
        if (path->quoted && local.p[i] == '\\' && i + 1 < local.n)
            i++;
        text[n++] = s->exact ? local.p[i] : ascii_lower(local.p[i]);
    }
    q->local = str_of(text, n);
    text[n++] = '@';
    for (size_t i = 0; i < path->domain.n; i++)
        text[n++] = ascii_lower(path->domain.p[i]);
    q->address = str_of(text, n);
    q->domain = str_from(q->address, q->local.n + 1);
    for (size_t i = 0; i < n; i++)
        if (ascii_control(text[i]))
            return false;
    return q->local.n > 0;
}

/* The same without what follows the detail character. */
static bool without_detail(const struct source *s, struct inquiry *q, char text[ADDRESS_MOST])
{
    size_t cut = s->detail ? str_findc(q->local, s->detail) : STR_NONE;

    if (cut == STR_NONE || cut == 0)
        return false;
    memmove(text + cut, text + q->local.n, q->address.n - q->local.n);
    q->address.n -= q->local.n - cut;
    q->local.n = cut;
    q->domain = str_from(q->address, cut + 1);
    return true;
}

enum found remote_find(struct remote *r, const struct path *who, bool *mute)
{
    char text[ADDRESS_MOST];
    struct inquiry q;

    *mute = false;
    if (!question_of(r->s, who, text, &q))
        return ABSENT;
    enum said said = find(r, &q);
    if (said == SAID_ABSENT && without_detail(r->s, &q, text))
        said = find(r, &q);
    if (said == SAID_FOUND || said == SAID_ABSENT)
        return said == SAID_FOUND ? FOUND : ABSENT;
    *mute = said == SAID_MUTE;
    stats_add(COUNT_lookups_undecided, 1);
    pthread_mutex_lock(&r->lock);
    r->n.undecided++;
    pthread_mutex_unlock(&r->lock);
    return UNDECIDED;
}

/* ---- start and end ---- */

struct remote *remote_hold(struct source *s)
{
    pthread_mutex_lock(&all_lock);
    struct remote *r = all;
    while (r && !str_eq(r->s->key, s->key))
        r = r->next;
    if (r) {
        r->holders++;
    } else {
        r = mem_new(sizeof *r);
        *r = (struct remote){ .s = s, .holders = 1, .lock = PTHREAD_MUTEX_INITIALIZER, .next = all };
        list_init(&r->lru);
        list_init(&r->queue);
        all = r;
        s = NULL;
    }
    pthread_mutex_unlock(&all_lock);
    if (s)
        s->free(s);
    return r;
}

void remote_drop(struct remote *r)
{
    pthread_mutex_lock(&all_lock);
    bool last = --r->holders == 0;
    for (struct remote **at = &all; last && *at; at = &(*at)->next)
        if (*at == r) {
            *at = r->next;
            break;
        }
    pthread_mutex_unlock(&all_lock);
    if (!last)
        return;
    must(r->flights == 0 && r->runners == 0);
    if (r->told)
        tell_works(r, S("the configuration names it no more"));
    while (!list_empty(&r->lru))
        entry_free(r, AROUND(r->lru.next, struct entry, lru));
    map_free(&r->entries);
    pthread_mutex_destroy(&r->lock);
    r->s->free(r->s);
    mem_free(r);
}

err remote_probe(struct remote *r, const struct inquiry *q, when deadline, str *name)
{
    struct asking a = { .r = r, .q = q, .deadline = deadline };

    *name = r->s->name;
    ask_within(&a);
    switch (a.said) {
    case SAID_FOUND: case SAID_ABSENT:
        return OK;
    case SAID_MUTE:
        return fail(E_AGAIN, "it takes any address: its answers mean nothing");
    case SAID_NOTHING: case SAID_UNSURE: case SAID_DOWN:
        break;
    }
    return fail(E_AGAIN, "%.*s", (int)a.why.n, a.why.text);
}

struct table_counts remote_counts(struct remote *r)
{
    pthread_mutex_lock(&r->lock);
    struct table_counts n = r->n;
    n.entries = r->entries.n;
    n.under_way = r->flights;
    n.down = r->down;
    pthread_mutex_unlock(&r->lock);
    return n;
}

const char *remote_name(const struct remote *r, str *name)
{
    *name = r->s->name;
    return r->s->kind;
}
