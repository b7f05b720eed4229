/* How many sessions at a time, and how much arriving mail in memory: shared by all threads. */
#include "receive/inside.h"

#include <pthread.h>

static _Atomic uint64_t sessions;
static _Atomic int64_t arriving;

/* Clients with a session now. Touched twice a session, so one lock will do. */
static pthread_mutex_t clients_lock = PTHREAD_MUTEX_INITIALIZER;
static struct client_count { uint64_t key; uint32_t n; } *clients;
static size_t nclients, clients_size;

/* By a hash with a secret: who has a /48 chooses among 65,536 keys. */
static size_t client_home(uint64_t key, size_t size) { return str_hash(str_of((const char *)&key, sizeof key)) & (size - 1); }

static struct client_count *client_slot(struct client_count *table, size_t size, uint64_t key)
{
    size_t i = client_home(key, size);

    while (table[i].n && table[i].key != key)
        i = (i + 1) & (size - 1);
    return &table[i];
}

/* Free slot `gap`: what probed past it moves up, each once. */
static void slot_close(struct client_count *table, size_t size, size_t gap)
{
    table[gap].n = 0;
    for (size_t k = (gap + 1) & (size - 1); table[k].n; k = (k + 1) & (size - 1)) {
        size_t home = client_home(table[k].key, size);
        if (((k - home) & (size - 1)) < ((k - gap) & (size - 1)))
            continue; /* its home lies behind the gap */
        table[gap] = table[k];
        table[k].n = 0;
        gap = k;
    }
}

static void clients_grow(void)
{
    size_t size = clients_size ? clients_size * 2 : 256;
    struct client_count *bigger = mem_new(size * sizeof *bigger);

    for (size_t i = 0; i < clients_size; i++)
        if (clients[i].n)
            *client_slot(bigger, size, clients[i].key) = clients[i];
    mem_free(clients);
    clients = bigger;
    clients_size = size;
}

static bool client_admit(uint64_t key, uint64_t most)
{
    pthread_mutex_lock(&clients_lock);
    if (nclients * 2 >= clients_size)
        clients_grow();
    struct client_count *c = client_slot(clients, clients_size, key);
    bool ok = c->n < most;
    if (ok) {
        nclients += c->n == 0;
        c->key = key;
        c->n++;
    }
    pthread_mutex_unlock(&clients_lock);
    return ok;
}

static void client_leave(uint64_t key)
{
    pthread_mutex_lock(&clients_lock);
    struct client_count *c = client_slot(clients, clients_size, key);
    must(c->n > 0);
    if (--c->n == 0) {
        nclients--;
        slot_close(clients, clients_size, (size_t)(c - clients));
    }
    pthread_mutex_unlock(&clients_lock);
}

enum admission admit(const struct limits *l, const struct addr *client, bool counted)
{
    if (atomic_fetch_add(&sessions, 1) >= l->sessions) {
        atomic_fetch_sub(&sessions, 1);
        return TOO_MANY;
    }
    if (counted && !client_admit(addr_client_key(client), l->sessions_per_client)) {
        atomic_fetch_sub(&sessions, 1);
        return TOO_MANY_OF_YOURS;
    }
    return ADMITTED;
}

void admit_end(const struct addr *client, bool counted)
{
    atomic_fetch_sub(&sessions, 1);
    if (counted)
        client_leave(addr_client_key(client));
}

void arriving_add(int64_t octets)
{
    atomic_fetch_add_explicit(&arriving, octets, memory_order_relaxed);
}

static bool arriving_beyond(uint64_t most) { return atomic_load_explicit(&arriving, memory_order_relaxed) > (int64_t)most; }

bool arriving_full(const struct limits *l) { return arriving_beyond(l->body_memory); }
bool arriving_over(const struct limits *l) { return arriving_beyond(2 * l->body_memory); }
