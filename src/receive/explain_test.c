#include "kit/kit.h"
#include "receive/inside.h"


/* A configuration that its checks would never let through: the last line holds. */
TEST(open_relay_test_finds_one)
{
    static _Atomic int64_t clock;
    struct cidr world[2];
    struct network all = { .name = S("all"), .cidr = world, .ncidr = 1, .null_rate = { 100, SECOND }, .null_clock = &clock };
    struct network *networks[] = { &all };
    struct backend out = { .name = S("out") };
    struct snapshot snap = { .receive = { .hostname = S("mx.example.net"), .postmaster = S("p@example.com"), .limits.message_size = 1000 },
                             .routes = { .network = networks, .nnetwork = 1, .fallback = &out } };
    unsigned asked;

    must(cidr_parse(S("0.0.0.0/0"), &world[0]) == OK && cidr_parse(S("::/0"), &world[1]) == OK);
    CHECK_ERR(receive_open_relay_test(&snap, &asked), OK); /* IPv6 strangers are refused */
    CHECK(asked > 10);
    all.ncidr = 2;
    CHECK_ERR(receive_open_relay_test(&snap, &asked), E_PERM);
    all.ncidr = 0;
    CHECK_ERR(receive_open_relay_test(&snap, &asked), OK);
}
