/* Faults that are ours: no names, no way out, a dead address family. When many destinations fail the same way within minutes it is none of theirs: their
 * lanes are frozen, each is tried as before by one connection at a time, and the first that can be reached opens them all. What works is never frozen:
 * only a lane that has just failed is. */
#include "deliver/inside.h"

#include <pthread.h>

#define WITHIN (5 * MINUTE)
#define DESTINATIONS 5          /* so many different ones */
#define NAMES 3                 /* and a question to which everybody has an answer */
#define HOSTS 3                 /* with addresses of a family without a way out */
#define SUSPECTS_MOST 16
#define ASK_FIRST SECOND        /* whether names can be looked up again; doubled each time */
#define ASK_LAST (15 * SECOND)
#define ASK_MOST (10 * SECOND)
#define FAMILY_AGAIN (10 * MINUTE)

/* Different destinations that failed lately. */
struct suspects {
    pthread_mutex_t lock;
    struct { uint32_t key; err why; when at; } p[SUSPECTS_MOST];
    _Atomic unsigned n;
    _Atomic bool open;          /* they are an incident */
};

/* One more. How many have failed that way. */
static unsigned suspects_add(struct suspects *s, str who, err why, when now)
{
    uint32_t key = (uint32_t)str_hash(who);
    unsigned n = 0, same = 0, at = SUSPECTS_MOST;

    pthread_mutex_lock(&s->lock);
    for (unsigned i = 0; i < s->n; i++) /* too old, or about to be told anew */
        if (now - s->p[i].at < WITHIN && s->p[i].key != key)
            s->p[n++] = s->p[i];
    at = n < SUSPECTS_MOST ? n++ : (unsigned)random_below(SUSPECTS_MOST);
    s->p[at].key = key;
    s->p[at].why = why;
    s->p[at].at = now;
    for (unsigned i = 0; i < n; i++)
        same += s->p[i].why == why;
    s->n = n;
    pthread_mutex_unlock(&s->lock);
    return same;
}

/* True: they were an incident. */
static bool suspects_clear(struct suspects *s)
{
    if (!s->n && !s->open)
        return false;
    pthread_mutex_lock(&s->lock);
    s->n = 0;
    pthread_mutex_unlock(&s->lock);
    return atomic_exchange(&s->open, false);
}

static void thaw(struct dispatch *d, enum incident_kind kind, str lane)
{
    if (d->setup.thaw)
        d->setup.thaw(d->setup.ctx, kind, lane);
}

/* ---- no way out ---- */

static struct suspects sites = { .lock = PTHREAD_MUTEX_INITIALIZER }, backends = { .lock = PTHREAD_MUTEX_INITIALIZER };
static struct suspects names = { .lock = PTHREAD_MUTEX_INITIALIZER };

static struct suspects *suspects_of(const struct lane *lane) { return lane->kind == LANE_SITE ? &sites : &backends; }
static str subject_of(const struct lane *lane) { return lane->kind == LANE_SITE ? S("mail hosts") : S("backends"); }

void fault_reached(struct dispatch *d, struct lane *lane)
{
    if (suspects_clear(suspects_of(lane))) {
        AUTO_BUF why = { 0 };
        buf_addf(&why, "%.*s can be reached", STR(lane->name));
        incident_close(INCIDENT_NO_WAY, subject_of(lane), buf_str(&why));
        thaw(d, INCIDENT_NO_WAY, S(""));
    }
    if (lane->kind != LANE_BACKEND)
        return;
    if (incident_close(INCIDENT_NO_WAY, lane_backend_name(lane), S("it can be reached")))
        thaw(d, INCIDENT_NO_WAY, lane_backend_name(lane));
    if (incident_close(INCIDENT_NO_NAMES, lane_backend_name(lane), S("it can be reached")))
        thaw(d, INCIDENT_NO_NAMES, lane_backend_name(lane));
}

static bool freeze(struct dispatch *d, struct lane *lane, enum incident_kind kind, str subject, str reason, when retry_at)
{
    if (lane->state == LANE_OPEN)
        log_info("lane_frozen", LOG_STR("lane", lane->name), LOG_STR("reason", reason), LOG_INT("waiting", lane->nready));
    incident_affects(kind, subject, 1);
    lane_freeze(lane, kind, reason, retry_at);
    lane_wake_later(d, lane);
    return true;
}

/* No server was to be tried: what held the lane up a moment ago does so still. */
static bool still_frozen(struct dispatch *d, struct lane *lane, str reason, when retry_at)
{
    const enum incident_kind kind = lane->frozen_by;
    const str subjects[] = { lane_backend_name(lane), subject_of(lane), S("resolver") };

    if (!lane_opened_lately(lane) || (kind != INCIDENT_NO_WAY && kind != INCIDENT_NO_NAMES))
        return false;
    for (size_t i = 0; i < COUNT(subjects); i++)
        if (incident_is_open(kind, subjects[i])) {
            lane_freeze(lane, kind, reason, retry_at);
            lane_wake_later(d, lane);
            return true;
        }
    return false;
}

bool fault_unreached(struct dispatch *d, struct lane *lane, err why, str reason, when retry_at)
{
    struct suspects *s = suspects_of(lane);
    when now = clock_now();
    bool local = why == E_NOWAY || why == E_PERM, unnamed = why == E_AGAIN || why == E_BOGUS;

    if (why == OK)
        return still_frozen(d, lane, reason, retry_at);
    if (why == E_CANCELED)
        return false;
    if (unnamed && (lane->kind == LANE_SITE || names.open))
        return names.open && freeze(d, lane, INCIDENT_NO_NAMES, S("resolver"), reason, MIN(retry_at, now + MINUTE));
    if (unnamed) {
        incident_open(INCIDENT_NO_NAMES, lane_backend_name(lane), reason, S("its servers are looked up again at growing intervals of up to a minute"));
        return freeze(d, lane, INCIDENT_NO_NAMES, lane_backend_name(lane), reason, retry_at);
    }
    if (why == E_NONAME)
        return false;
    if (suspects_add(s, lane->name, why, now) >= DESTINATIONS || s->open) {
        bool fresh = !atomic_exchange(&s->open, true);
        if (fresh || !local)
            incident_open(INCIDENT_NO_WAY, subject_of(lane), reason, S("each is tried by one connection at a time; the first that is reached opens all"));
        return freeze(d, lane, INCIDENT_NO_WAY, subject_of(lane), reason, retry_at);
    }
    if (!local)
        return false;
    /* The kernel itself says so: no other destination need be asked. */
    if (lane->kind == LANE_BACKEND)
        incident_open(INCIDENT_NO_WAY, lane_backend_name(lane), reason, S("it is tried again at growing intervals of up to a minute"));
    return freeze(d, lane, INCIDENT_NO_WAY, lane_backend_name(lane), reason, retry_at);
}

/* ---- no names ---- */

/* Is anybody there who answers? A name that nobody has asked for before: each resolver knows that it does not exist. */
static bool anybody_answers(struct dispatch *d)
{
    AUTO_ARENA a = arena_new();
    struct dns_mx mx;
    err e = dns_mx(d->setup.resolver, a, str_printf(a, "waypost-%016llx.arpa", (unsigned long long)random_u64()), clock_now() + ASK_MOST, &mx);

    return e == OK || e == E_NONAME || e == E_CANCELED;
}

static void names_are_back(struct dispatch *d)
{
    if (suspects_clear(&names)) {
        incident_close(INCIDENT_NO_NAMES, S("resolver"), S("questions are answered"));
        thaw(d, INCIDENT_NO_NAMES, S(""));
    }
}

/* Until somebody does. */
static err names_run(void *dispatch)
{
    struct dispatch *d = dispatch;

    for (when step = ASK_FIRST; names.open; step = MIN(2 * step, ASK_LAST)) {
        TRY(task_sleep(clock_now() + step));
        if (anybody_answers(d))
            names_are_back(d);
    }
    return OK;
}

bool fault_names(struct dispatch *d, str name)
{
    static _Atomic bool asking;
    bool no = false;
    AUTO_ARENA a = arena_new();
    str why = str_dup(a, err_text());

    if (suspects_add(&names, name, E_AGAIN, clock_now()) < NAMES || names.open || !atomic_compare_exchange_strong(&asking, &no, true))
        return names.open;
    if (!anybody_answers(d) && !atomic_exchange(&names.open, true)) {
        incident_open(INCIDENT_NO_NAMES, S("resolver"), why, S("it is asked again at growing intervals of up to 15 seconds"));
        if (group_spawn(thread_group(), "names", names_run, d) != OK)
            suspects_clear(&names); /* found out again by the next that fail */
    }
    asking = false;
    fail(E_AGAIN, "%.*s", STR(why));
    return names.open;
}

/* ---- a dead family ---- */

static struct suspects families[2] = { { .lock = PTHREAD_MUTEX_INITIALIZER }, { .lock = PTHREAD_MUTEX_INITIALIZER } };
static _Atomic int64_t family_again[2];
static const char *const family_name[2] = { "IPv4", "IPv6" };

bool family_works(int family)
{
    size_t i = family == AF_INET6;
    int64_t at = family_again[i];

    if ((family != AF_INET && family != AF_INET6) || !families[i].open)
        return true;
    return clock_now() >= at && atomic_compare_exchange_strong(&family_again[i], &at, clock_now() + FAMILY_AGAIN); /* one goes to see */
}

void family_tried(struct dispatch *d, const struct addr *to, str host, err e)
{
    size_t i = to->sa.sa_family == AF_INET6;
    str name = str_z(family_name[i]);

    if ((to->sa.sa_family != AF_INET && to->sa.sa_family != AF_INET6) || addr_is_nowhere(to))
        return;
    if (e == OK || e == E_REFUSED) { /* somebody answered */
        if (suspects_clear(&families[i])) {
            incident_close(INCIDENT_NO_FAMILY, name, S("there is a way out again"));
            thaw(d, INCIDENT_NO_WAY, S(""));
        }
    } else if (e == E_NOWAY && suspects_add(&families[i], host, e, clock_now()) >= HOSTS && !atomic_exchange(&families[i].open, true)) {
        AUTO_ARENA a = arena_new();
        str why = str_dup(a, err_text());
        family_again[i] = clock_now() + FAMILY_AGAIN;
        incident_open(INCIDENT_NO_FAMILY, name, str_printf(a, "%.*s; hosts are tried by their other addresses", STR(why)), S("one address of it is tried each 10 minutes"));
        fail(e, "%.*s", STR(why));
    }
}

/* ---- by an operator ---- */

bool incident_end(enum incident_kind kind, str subject, str why)
{
    switch (kind) {
    case INCIDENT_REFUSES:
        brake_release(brake_of(subject));
        break;
    case INCIDENT_NO_NAMES:
        if (str_eq(subject, S("resolver")))
            suspects_clear(&names);
        break;
    case INCIDENT_NO_WAY:
        if (str_eq(subject, S("mail hosts")))
            suspects_clear(&sites);
        if (str_eq(subject, S("backends")))
            suspects_clear(&backends);
        break;
    case INCIDENT_NO_FAMILY:
        suspects_clear(&families[str_eq(subject, S("IPv6"))]);
        break;
    case INCIDENT_NO_SOURCE: /* the next look-up finds out */
        break;
    case INCIDENT_SOFT_BOUNCE:
    case INCIDENT_KINDS:
        return false;
    }
    return incident_close(kind, subject, why);
}
