#include "kit/kit.h"
#include "receive/inside.h"

#define CLIENTS 3000u

static struct addr client_of(unsigned i)
{
    struct addr a;
    AUTO_ARENA text = arena_new();

    must(addr_parse(str_printf(text, "[2001:db8:0:%x::1]", i), 25, &a) == OK);
    return a;
}

/* The count of each client survives whatever others come and go, in whatever order: who leaves makes place in a table that others probed past. */
TEST(admit_counts_each_client_through_comings_and_goings)
{
    struct limits l = { .sessions = 2 * CLIENTS, .sessions_per_client = 1 };
    bool in[CLIENTS] = { false };

    for (unsigned round = 0; round < 20; round++) {
        for (unsigned i = 0; i < CLIENTS; i++) {
            struct addr a = client_of(i);
            if (random_below(2)) {
                CHECK_INT(admit(&l, &a, true), in[i] ? TOO_MANY_OF_YOURS : ADMITTED);
                in[i] = true;
            } else if (in[i]) {
                admit_end(&a, true);
                in[i] = false;
            }
        }
    }
    for (unsigned i = 0; i < CLIENTS; i++) {
        struct addr a = client_of(i);
        CHECK_INT(admit(&l, &a, true), in[i] ? TOO_MANY_OF_YOURS : ADMITTED);
        admit_end(&a, true);
    }
}

/* Sessions end in time that does not depend on how many others there are, whichever keys somebody chose. With a hash that he knows all of these lie in one
 * run of the table, and each end walks the whole of it, again for each that it moves: minutes. */
TEST(attack_12_admit_has_no_keys_that_collide_by_choice)
{
    static const uint64_t golden = 0x9e3779b97f4a7c15u;
    struct limits l = { .sessions = 1 << 20, .sessions_per_client = 1 };
    struct addr a = client_of(0);
    uint32_t *chosen = mem_new(16384 * sizeof *chosen), n = 0;

    for (uint32_t low = 0; n < 16384; low++) { /* a /32 has 2^32 of these */
        uint64_t key = UINT64_C(0x20010db800000000) | low;
        if (((key * golden) >> 20 & 0xffff) < 64)
            chosen[n++] = low;
    }
    for (size_t i = 0; i < n; i++) {
        memcpy(a.v6.sin6_addr.s6_addr + 4, &(uint32_t){ htonl(chosen[i]) }, 4);
        CHECK_INT(admit(&l, &a, true), ADMITTED);
    }
    for (size_t i = 0; i < n; i++) {
        memcpy(a.v6.sin6_addr.s6_addr + 4, &(uint32_t){ htonl(chosen[i]) }, 4);
        admit_end(&a, true);
    }
    mem_free(chosen);
}
