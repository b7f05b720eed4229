/* Do all clients come from one private address? Behind the NAT of a container host, or a load balancer that rewrites addresses, every stranger looks like a
 * neighbour: limits meet all at once, and a "network" that names the gateway's address trusts the whole world. This is a warning only. */
#include "receive/inside.h"

#include <pthread.h>

#define SESSIONS_LEAST 300              /* of which a share can be told */
#define SHARE 95                        /* percent, at least */
#define PATIENCE 100                    /* sessions for which a few others do not end a candidate */
#define OVER 1000                       /* sessions without a finding, after which the last one is over */
#define AGAIN DAY                       /* between two log lines */

/* The candidate: of `all` sessions since it became one, `its` came from there. Whoever is more than SHARE of all becomes it soon, and stays it. */
static struct { struct addr who; uint64_t all, its; } seen;
static uint64_t since;                  /* sessions since something was found */
static struct gateway_seen found;       /* of the last candidate with enough sessions */
static when tell_from;                  /* the next line comes no earlier; 0: at once */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static void tell(const struct gateway_seen *g)
{
    log_warn("one_gateway", LOG_Z("client", g->ip), LOG_INT("sessions", g->its), LOG_INT("of", g->all),
             LOG_Z("means", "nearly all sessions come from one private address: client addresses are lost on the way here (NAT of a container host, a load "
                            "balancer), so limits meet everybody at once and a \"network\" with this address would trust strangers. Let the proxy in front speak "
                            "the PROXY protocol (listen ... { proxy from ADDRESS }), or give the container the host's network"));
}

void gateway_note(const struct addr *client, when now)
{
    struct gateway_seen told = { 0 };
    struct addr who = *client;

    addr_set_port(&who, 0);
    pthread_mutex_lock(&lock);
    seen.its += seen.all && addr_eq(&seen.who, &who);
    seen.all++;
    if (seen.all == 1 || (seen.all - seen.its) * 100 > (100 - SHARE) * MAX(seen.all, PATIENCE)) {
        seen.who = who;
        seen.all = seen.its = 1;
    }
    if (++since >= OVER)
        found = (struct gateway_seen){ 0 };
    if (seen.all >= SESSIONS_LEAST && seen.its * 100 > SHARE * seen.all) {
        found = (struct gateway_seen){ 0 };
        if (addr_is_private(&seen.who) && !addr_is_loopback(&seen.who)) {
            found = (struct gateway_seen){ .all = seen.all, .its = seen.its };
            addr_print_ip(&seen.who, found.ip);
            since = 0;
        }
        if (found.all && now >= tell_from) {
            told = found;
            tell_from = now + AGAIN;
        }
        seen.all = 0;
    }
    pthread_mutex_unlock(&lock);
    if (told.all)
        tell(&told);
}

bool gateway_found(struct gateway_seen *ret)
{
    pthread_mutex_lock(&lock);
    *ret = found;
    pthread_mutex_unlock(&lock);
    return ret->all > 0;
}

void gateway_forget(void)
{
    pthread_mutex_lock(&lock);
    memset(&seen, 0, sizeof seen);
    memset(&found, 0, sizeof found);
    since = 0;
    tell_from = 0;
    pthread_mutex_unlock(&lock);
}
