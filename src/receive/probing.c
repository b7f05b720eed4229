/* Who asks for one unknown recipient after the other is collecting addresses. A budget of them per client and time, over all its sessions and
 * our threads: in its second half answers come ever later, and when it is spent the session ends at each further one. Known recipients are
 * taken all the same, so that a large sender among whose mails there is spam loses little. */
#include "receive/inside.h"

#include <pthread.h>

#define SLOW_MOST (10 * SECOND)
#define SETS 4096
#define WAYS 4                          /* clients of one set: a newcomer takes the place of who owes least */

/* `even`: when the debt is paid off, as of limiter_take(). */
static struct prober { uint64_t client; when even; bool told; } probers[SETS][WAYS];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static struct prober *prober_of(uint64_t client, when now)
{
    struct prober *set = probers[str_hash(str_of((const char *)&client, sizeof client)) % SETS], *least = set;

    for (size_t i = 0; i < WAYS; i++) {
        if (set[i].client == client)
            return &set[i];
        if (set[i].even < least->even)
            least = &set[i];
    }
    *least = (struct prober){ .client = client, .even = now };
    return least;
}

bool probing_note(struct rate budget, const struct addr *client, when now, when *delay)
{
    char ip[ADDR_TEXT];

    *delay = 0;
    if (budget.n == 0)
        return true;
    when one = MAX(budget.per / (when)budget.n, 1), most = one * (when)budget.n;
    pthread_mutex_lock(&lock);
    struct prober *p = prober_of(addr_client_key(client), now);
    when even = MAX(p->even, now);
    bool within = even + one <= now + most, tell = !within && !p->told;
    if (within) {
        p->even = even + one;
        when spent = p->even - now;
        if (spent > most / 2)
            *delay = MAX(SLOW_MOST * (spent - most / 2) / MAX(most - most / 2, 1), SECOND);
        if (spent <= most / 2)
            p->told = false;
    } else {
        p->told = true;
    }
    pthread_mutex_unlock(&lock);
    if (tell)
        log_warn("probing", LOG_STR("client", addr_print_ip(client, ip)), LOG_INT("unknown_recipients", budget.n));
    return within;
}

void probing_forget(void)
{
    pthread_mutex_lock(&lock);
    memset(probers, 0, sizeof probers);
    pthread_mutex_unlock(&lock);
}
