/* Incidents: a small table that all threads share. */
#include "stats/stats.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>

const char *const incident_name[INCIDENT_KINDS] = {
    [INCIDENT_REFUSES] = "backend_refuses", [INCIDENT_NO_NAMES] = "no_names", [INCIDENT_NO_WAY] = "no_way_out", [INCIDENT_NO_FAMILY] = "family_dead",
    [INCIDENT_SOFT_BOUNCE] = "soft_bounce", [INCIDENT_NO_SOURCE] = "no_source",
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct incident table[INCIDENTS_MOST];   /* under the lock, as the next two; in the order they began */
static size_t n;
static uint64_t next_id = 1;
static _Atomic unsigned open_of[INCIDENT_KINDS];
static _Atomic uint64_t begun[INCIDENT_KINDS];

static void set_text(char *to, size_t size, str text)
{
    text = str_head(text, size - 1);
    memcpy(to, text.p, text.n);
    to[text.n] = 0;
}

static struct incident *find(enum incident_kind k, str subject)
{
    subject = str_head(subject, INCIDENT_SUBJECT - 1);
    for (size_t i = 0; i < n; i++)
        if (table[i].kind == k && str_eq(str_z(table[i].subject), subject))
            return &table[i];
    return NULL;
}

bool incident_open(enum incident_kind k, str subject, str reason, str recovery)
{
    bool told = true;

    subject = str_head(subject, INCIDENT_SUBJECT - 1);
    pthread_mutex_lock(&lock);
    struct incident *in = find(k, subject);
    bool fresh = !in;
    if (fresh && n < INCIDENTS_MOST) {
        in = &table[n++];
        *in = (struct incident){ .id = next_id++, .kind = k, .since = wall_now() };
        set_text(in->subject, sizeof in->subject, subject);
        atomic_fetch_add(&open_of[k], 1);
    } else if (fresh)
        told = false;
    if (in) {
        set_text(in->reason, sizeof in->reason, reason);
        set_text(in->recovery, sizeof in->recovery, recovery);
    }
    pthread_mutex_unlock(&lock);
    if (!fresh)
        return false;
    atomic_fetch_add(&begun[k], 1);
    log_warn("incident_opened", LOG_Z("kind", incident_name[k]), LOG_STR("subject", subject), LOG_STR("reason", reason), LOG_STR("recovery", recovery),
             LOG_INT("listed", told));
    return true;
}

bool incident_close(enum incident_kind k, str subject, str why)
{
    if (!atomic_load_explicit(&open_of[k], memory_order_relaxed))
        return false;
    pthread_mutex_lock(&lock);
    struct incident *in = find(k, subject), was = { 0 };
    if (in) {
        was = *in;
        memmove(in, in + 1, (size_t)(table + n - (in + 1)) * sizeof *in);
        n--;
        atomic_fetch_sub(&open_of[k], 1);
    }
    pthread_mutex_unlock(&lock);
    if (!was.id)
        return false;
    log_info("incident_closed", LOG_Z("kind", incident_name[k]), LOG_STR("subject", subject), LOG_STR("why", why),
             LOG_INT("lasted_s", (wall_now() - was.since) / SECOND), LOG_INT("affected", was.affected));
    return true;
}

void incident_affects(enum incident_kind k, str subject, uint64_t more)
{
    if (!atomic_load_explicit(&open_of[k], memory_order_relaxed))
        return;
    pthread_mutex_lock(&lock);
    struct incident *in = find(k, subject);
    if (in)
        in->affected += more;
    pthread_mutex_unlock(&lock);
}

bool incident_is_open(enum incident_kind k, str subject)
{
    if (!atomic_load_explicit(&open_of[k], memory_order_relaxed))
        return false;
    pthread_mutex_lock(&lock);
    bool is = find(k, subject);
    pthread_mutex_unlock(&lock);
    return is;
}

size_t incidents(struct incident ret[INCIDENTS_MOST])
{
    pthread_mutex_lock(&lock);
    size_t found = n;
    memcpy(ret, table, n * sizeof *ret);
    pthread_mutex_unlock(&lock);
    return found;
}

uint64_t incidents_begun(enum incident_kind k) { return atomic_load(&begun[k]); }
