/* Whole relays in a whole world: an hour of bad weather a seed, then calm until all mail has gone its way, and the books are opened.
 *
 *   sim [--seeds N] [--first N]      so many seeds (200), from this one on
 *   sim --seed N [--trace]           just that one; what happened goes to stderr
 *
 * What must hold:
 *   nothing that was answered with 250 is lost: each of its recipients has it, or was refused for good and reported to the sender
 *   a second copy comes only where the answer to the final dot never came, or a crash fell right behind it
 *   what is said to be delivered was taken by a hop; what is said to have failed was refused by one
 *   whoever waits has a reason and a next attempt, and in calm weather the queue empties
 *   limits hold: sessions, connections of a server and of a backend, messages of a backend in a time, memory of bodies
 *   mail leaves by the sources that it is told to, and by none else */
#include "main/relay.h"
#include "sim/crowd.h"
#include "task/inside.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define CHAOS HOUR
#define CALM (6 * HOUR)         /* at most, until the queue is empty */
#define MARGIN (400 * MILLISECOND) /* for a note to be durable: 50 ms, a batch or two, threads that stood still */

/* On the heap, and made before sim_begin(): a crash puts the program's globals back. */
static struct world {
    uint64_t seed;
    bool failed;
    struct thread *relay;
    bool relay_up;
    err relay_result;
    struct crash { when at, since; } crash[16]; size_t ncrash; /* since: notes from then on may be missing */
    when disk_bad_since;        /* 0: it is good */
    struct sim_event weather, fault, end_at, end_in_a_moment, check, lanes, restart;
    enum ending { SIGNAL, KILLED, POWER_CUT } ending;
    unsigned endings;           /* still to come */
    bool armed, end_now, start_now, stopping;
    unsigned seen;              /* what clients and hops had taken when it was armed */
    when began;
    struct { const struct lane *lane; when since, left_since, flying_since; } idle[32];
    uint64_t sessions_limit, per_server_limit, body_memory;
    uint32_t segment;           /* of the spool: small, so that there are many */
    uint64_t spool_bytes;
    bool hosts_file;
    uint64_t rate, connections; /* of the smart hosts: messages a minute, connections; 0: no such limit */
    bool sources;               /* mail for them leaves by two */
    double sent; when sent_at;  /* what they got, less what may go meanwhile: the rate's meter; and of when that is */
    str config;
} *world;

static void wrong(const char *fmt, ...) PRINTF(1, 2);
static void wrong(const char *fmt, ...)
{
    char text[1500];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    world->failed = true;
    printf("FAIL seed %llu at %.3f s: %s\n", (unsigned long long)world->seed, (double)(clock_now() - world->began) / SECOND, text);
    sim_tell("WRONG: %s", text);
}

/* ---- the relay ---- */

/* Hop `i` as the configuration has it: by address, or by a name that its zone or its hosts file knows. */
static str hop_name(arena *a, size_t i)
{
    struct addr at = hop_addr(i);
    char text[ADDR_TEXT];

    if (sim_chance(2))
        return str_dup(a, addr_print(&at, text));
    str name = str_printf(a, "hop%zu.%s.example", i + 1, world->hosts_file && sim_chance(4) ? "near" : "far");
    if (str_has(name, S("far")))
        sim_address(str_cz(a, name), &at);
    return str_printf(a, "%.*s:25", STR(name));
}

#define SOURCE_1 "198.51.100.31"
#define SOURCE_2 "198.51.100.32"
#define FIRST_SMART 4           /* of the hops */

/* A hop hears MAIL. Turns are taken before, and some may be late: one a connection, and one that each lane has in hand. */
static void heard_mail(size_t hop, const struct addr *from)
{
    when now = clock_now();
    char ip[ADDR_TEXT];
    str text = addr_print_ip(from, ip);
    bool ours = str_eq(text, S(SOURCE_1)) || str_eq(text, S(SOURCE_2));

    if (ours != (world->sources && hop >= FIRST_SMART))
        wrong("hop %zu: mail from %.*s", hop + 1, STR(text));
    if (!world->rate || hop < FIRST_SMART)
        return;
    world->sent -= (double)(now - world->sent_at) * (double)world->rate / MINUTE;
    world->sent = MAX(world->sent, 0) + 1;
    world->sent_at = now;
    double late = (world->connections ? (double)world->connections : 3.0 * (double)world->per_server_limit * (1 + world->sources)) + 3 * (1 + world->sources);
    if (world->sent > 1 + late + 2)
        wrong("%.1f messages more than %llu/min", world->sent - 1, (unsigned long long)world->rate);
}

static void names_good(void)
{
    *sim_names() = (struct sim_names){ .delay_least = MILLISECOND, .delay_most = 50 * MILLISECOND };
}

static str config_text(arena *a)
{
    struct buf out = buf_in(a, 2048);
    str hop[7];

    world->hosts_file = sim_chance(2);
    if (world->hosts_file)
        for (size_t i = 0; i < COUNT(hop); i++)
            hop[i] = str_printf(a, "203.0.113.%zu hop%zu.near.example\n", i + 1, i + 1);
    if (world->hosts_file)
        sim_hosts(str_printf(a, "%.*s%.*s%.*s%.*s%.*s%.*s%.*s", STR(hop[0]), STR(hop[1]), STR(hop[2]), STR(hop[3]), STR(hop[4]), STR(hop[5]), STR(hop[6])));
    for (size_t i = 0; i < COUNT(hop); i++)
        hop[i] = hop_name(a, i);

    buf_add(&out, S("waypost 1\nhostname mx.example.net\npostmaster postmaster@near.example\n"
                    "listen smtp 198.51.100.25:25\nspool { dir /spool; min_free 0 }\n"));
    buf_addf(&out, "threads %llu\n", 1 + (unsigned long long)sim_random(3));
    world->sessions_limit = 3 + sim_random(20);
    world->per_server_limit = sim_chance(3) ? 1 : 2 + sim_random(6);
    buf_addf(&out, "limits { sessions %llu; sessions_per_client 3 }\n", (unsigned long long)world->sessions_limit);
    buf_addf(&out, "backend near {\n server %.*s\n server %.*s\n server %.*s priority 20\n"
                   " max_connections %llu\n messages_per_connection %llu\n mix_domains %s\n}\n", STR(hop[0]), STR(hop[1]), STR(hop[2]),
             (unsigned long long)world->per_server_limit, sim_chance(3) ? 2ull : 0ull, sim_chance(2) ? "on" : "off");
    buf_addf(&out, "backend other { server %.*s; max_connections %llu; connect_timeout %llus }\n", STR(hop[3]),
             (unsigned long long)world->per_server_limit, 5 + (unsigned long long)sim_random(100));
    world->sources = sim_chance(2);
    world->rate = sim_chance(2) ? 4 + sim_random(12) : 0;
    world->connections = sim_chance(2) ? 1 + sim_random(3) : 0;
    if (world->sources)
        buf_addf(&out, "source s1 %s helo s1.example.net\nsource s2 %s\npool out { use s1 weight %llu; use s2 }\n", SOURCE_1, SOURCE_2, 1 + (unsigned long long)sim_random(3));
    buf_addf(&out, "backend smart { server %.*s; server %.*s; server %.*s; max_connections %llu", STR(hop[4]), STR(hop[5]), STR(hop[6]),
             (unsigned long long)world->per_server_limit);
    if (world->rate)
        buf_addf(&out, "; rate %llu/min", (unsigned long long)world->rate);
    if (world->connections)
        buf_addf(&out, "; connections %llu", (unsigned long long)world->connections);
    buf_add(&out, world->sources ? S("; pool out }\n") : S(" }\n"));
    buf_add(&out, S("relay_domain near.example *.near.example { backend near; recipients any }\n"
                    "relay_domain other.example { backend other; recipients any }\n"
                    "network office 10.1.0.0/16 { relay_from office.example }\nroute default { via smart }\n"));
    buf_addf(&out, "retry [ 20s 1m 3m 10m ] for %s\n", sim_chance(5) ? "20m" : "1d");
    return buf_str(&out);
}

static err relay_main(void *unused)
{
    struct diags d = { .a = arena_new() };
    struct settings *s = settings_load(S("world"), &world->config, &d);
    struct listening l = { .name = S("smtp"), .addr = crowd->relay };

    (void)unused;
    if (!s) {
        AUTO_BUF told = { 0 };
        diags_print(&d, &told);
        wrong("the configuration does not load: %.*s", STR(buf_str(&told)));
        return E_SYNTAX;
    }
    s->spool.segment = world->segment;
    s->spool.max_bytes = world->spool_bytes;
    if (world->segment) { /* as busy as a large one */
        s->spool.compact_after = 5 * SECOND;
        s->spool.compact_slack = 1;
    }
    TRY(listen_open(&l.addr, &l.fd));
    struct relay_setup setup = { .settings = s, .listening = &l, .nlistening = 1, .control_fd = -1, .parent_fd = -1 };
    world->relay_result = relay_run(&setup);
    if (world->relay_result != OK)
        sim_tell("relay: %.*s", STR(err_text()));
    machine->close(l.fd);
    return world->relay_result;
}

static void relay_start(void)
{
    sim_tell("relay starts");
    world->relay = sim_thread(SIM_RELAY, "relay", relay_main, NULL);
    world->relay_up = true;
}

/* The workers, found by their threads. */
static size_t workers(struct worker **ret, size_t most)
{
    size_t n = 0;
    struct thread *t;

    for (size_t i = 0; (t = sim_thread_at(i)) && n < most; i++)
        if (strncmp(sched_name(t), "worker-", 7) == 0 && !sched_ended(t)) {
            struct worker *w = t->arg;
            if (w->queue && w->reception && w->dispatch && !w->stopping)
                ret[n++] = w;
        }
    return n;
}

/* ---- what must hold at any time ---- */

static void check_ticket(const struct ticket *t)
{
    struct why w = ticket_why(t);
    char id[ULID_TEXT];
    when now = wall_now();

    if (!w.reason.n)
        wrong("%.*s waits without a reason", STR(ulid_print(t->id, id)));
    if (t->state == TICKET_WAITING && (w.next < now - 5 * SECOND || w.next > now + DAY))
        wrong("%.*s waits for a moment %lld s from now", STR(ulid_print(t->id, id)), (long long)((w.next - now) / SECOND));
    if (t->state == TICKET_READY && t->lane->state == LANE_DOWN && (w.next < now - 5 * SECOND || w.next > now + 10 * MINUTE))
        wrong("%.*s waits in a lane down for a moment %lld s from now", STR(ulid_print(t->id, id)), (long long)((w.next - now) / SECOND));
    if (w.since > now + SECOND)
        wrong("%.*s waits since the future", STR(ulid_print(t->id, id)));
}

static bool lasts(bool is, when *since, when patience)
{
    if (!is)
        *since = 0;
    else if (!*since)
        *since = clock_now();
    return *since && clock_now() - *since > patience;
}

/* Mail that is ready in an open lane, and nobody comes for it; or that nobody brings anywhere. */
static void check_lane(const struct lane *lane)
{
    size_t at = 0;

    while (at < COUNT(world->idle) && world->idle[at].lane && world->idle[at].lane != lane)
        at++;
    if (at == COUNT(world->idle))
        return;
    world->idle[at].lane = lane;
    const struct sending *s = lane->sending;
    if (s->pacing.until > clock_now() + 5 * MINUTE)
        wrong("lane %.*s has its turn in %lld s", STR(lane->name), (long long)((s->pacing.until - clock_now()) / SECOND));
    if (lasts(lane->nready && lane->state == LANE_OPEN && !s->connections && !s->pacing.until && !(s->full && atomic_load(&s->full->used)),
              &world->idle[at].since, 10 * SECOND)) /* a connection that others have may hang for long */
        wrong("lane %.*s is open, %u wait, and there is no connection", STR(lane->name), lane->nready);
    if (lasts(lane->nready && lane->state == LANE_OPEN && s->idle && !s->pacing.until, &world->idle[at].left_since, 5 * SECOND))
        wrong("lane %.*s: %u wait, and %u connections are idle", STR(lane->name), lane->nready, s->idle);
    if (lasts(lane->nflying && !s->connections, &world->idle[at].flying_since, 5 * MINUTE))
        wrong("lane %.*s: %u are in flight on no connection", STR(lane->name), lane->nflying);
}

static void check_worker(const struct worker *w)
{
    struct ticket *t[64];
    size_t at = 0, n;
    struct queue_totals totals = queue_totals(w->queue);

    while ((n = queue_walk(w->queue, &at, t, COUNT(t))))
        for (size_t i = 0; i < n; i++)
            check_ticket(t[i]);
    if (totals.ready + totals.waiting + totals.flying != totals.tickets)
        wrong("%zu tickets, but %zu ready, %zu waiting, %zu flying", totals.tickets, totals.ready, totals.waiting, totals.flying);
    if (totals.body_bytes > world->body_memory + (64u << 20))
        wrong("%zu octets of bodies in memory", totals.body_bytes);
}

static void check(struct sim_event *e)
{
    struct worker *w[8];
    size_t n = workers(w, COUNT(w)), smart = 0;

    for (size_t i = 0; i < n; i++)
        check_worker(w[i]);
    if (n && sim_connections(&crowd->relay) > world->sessions_limit + 64)
        wrong("%zu connections to the relay", sim_connections(&crowd->relay));
    for (size_t i = 0; i < 7; i++) {
        struct addr a = hop_addr(i);
        size_t open = sim_connections(&a);
        /* Each thread may have at least one, and what a crash left half open the hop still counts. */
        size_t by = world->sources && i >= FIRST_SMART ? 2 : 1; /* sources, each with its own */
        if (!world->ncrash && open > by * MAX(world->per_server_limit, (uint64_t)MAX(n, 1)))
            wrong("%zu connections to hop %zu", open, i + 1);
        smart += i >= FIRST_SMART ? open : 0;
    }
    if (!world->ncrash && world->connections && smart > world->connections)
        wrong("%zu connections to the smart hosts", smart);
    sim_at(e, clock_now() + 7 * SECOND);
}

/* At no round moment, for there mail comes out of the calendar, and is rightly ready. */
static void check_lanes(struct sim_event *e)
{
    struct worker *w[8];
    struct lane *lane;

    for (size_t i = 0, n = workers(w, COUNT(w)); i < n; i++)
        for (size_t k = 0; (lane = queue_lane(w[i]->queue, k)); k++)
            check_lane(lane);
    sim_at(e, clock_now() + 611 * MILLISECOND);
}

/* ---- weather, faults, crashes ---- */

static void weather(struct sim_event *e)
{
    if (crowd->calm)
        return;
    crowd_weather();
    sim_network()->pieces = (enum sim_pieces)sim_random(3);
    sim_network()->buffer = sim_chance(4) ? 4096 : 0;
    sim_network()->reset_loses = sim_chance(2);
    if (world->sources && sim_chance(3)) /* the address is taken away, or is there again */
        must(addr_parse(sim_chance(2) ? S(SOURCE_1) : S(SOURCE_2), 25, &sim_network()->missing) == OK);
    else
        sim_network()->missing.n = 0;
    sim_network()->latency_most = sim_chance(4) ? 200 * MILLISECOND : 5 * MILLISECOND;
    names_good();
    switch (sim_random(8)) {
    case 0: sim_names()->dead = true; break;
    case 1: sim_names()->servfail = 1 + (unsigned)sim_random(4); break;
    case 2: sim_names()->silent = 1 + (unsigned)sim_random(4); break;
    case 3: sim_names()->bogus = 1 + (unsigned)sim_random(4); break;
    case 4: sim_names()->delay_most = 30 * SECOND; break;
    }
    sim_at(e, clock_now() + sim_between(10 * SECOND, 3 * MINUTE));
}

static void disk_good(void)
{
    *sim_disk() = (struct sim_disk){ .sync_least = 100, .sync_most = MILLISECOND, .read_most = 5 * MILLISECOND, .cold = 20 };
    world->disk_bad_since = 0;
}

static void fault(struct sim_event *e)
{
    struct sim_disk *d = sim_disk();

    if (crowd->calm)
        return;
    if (world->disk_bad_since) {
        sim_tell("disk: good again");
        disk_good();
        sim_at(e, clock_now() + sim_between(2 * MINUTE, 30 * MINUTE));
        return;
    }
    world->disk_bad_since = clock_now();
    switch (sim_random(5)) {
    case 0: d->full = true; break;
    case 1: d->broken = true; break;
    case 2: d->sync_fails = 1 + (unsigned)sim_random(10); break;
    case 3: d->write_fails = 1 + (unsigned)sim_random(10), d->write_short = 3; break;
    case 4: d->sync_least = 20 * MILLISECOND, d->sync_most = 3 * SECOND; break;
    }
    sim_tell("disk:%s%s sync fails 1/%u, write 1/%u, sync takes %lld ms", d->full ? " full" : "", d->broken ? " broken" : "", d->sync_fails,
             d->write_fails, (long long)(d->sync_most / MILLISECOND));
    sim_at(e, clock_now() + sim_between(SECOND, 2 * MINUTE));
}

/* How the relay ends before its time: told to, killed, or the power goes. At any moment, but often just when somebody took a mail,
 * which is when it matters who knows of it. */
static void end_comes(struct sim_event *e)
{
    bool soon = e == &world->end_in_a_moment;

    if (crowd->calm || !world->relay_up || world->stopping)
        return;
    if (!soon && sim_chance(2)) {
        world->armed = true;
        world->seen = crowd->acked + crowd->took;
        return;
    }
    world->end_now = true;
}

static void end_plan(void)
{
    if (world->endings && !crowd->calm) {
        world->endings--;
        sim_at(&world->end_at, clock_now() + sim_between(30 * SECOND, CHAOS / 3));
    }
}

static void armed_look(void)
{
    if (!world->armed || crowd->acked + crowd->took == world->seen)
        return;
    world->armed = false;
    sim_at(&world->end_in_a_moment, clock_now() + sim_between(0, sim_chance(2) ? 5 * MILLISECOND : 80 * MILLISECOND));
}

static void relay_gone(when pause)
{
    memset(world->idle, 0, sizeof world->idle);
    world->relay = NULL;
    world->relay_up = world->stopping = false;
    sim_at(&world->restart, clock_now() + pause);
}

static void relay_end(void)
{
    when now = clock_now(), behind = MARGIN + 3 * sim_disk()->sync_most;

    world->end_now = false;
    world->ending = (enum ending)sim_random(3);
    end_plan();
    if (world->ending == SIGNAL) {
        sim_tell("the relay is told to end");
        world->stopping = true;
        sched_signal(world->relay, 15);
        return;
    }
    must(world->ncrash < COUNT(world->crash));
    world->crash[world->ncrash++] = (struct crash){ now, (world->disk_bad_since ? world->disk_bad_since : now) - behind };
    world->sent = 0;            /* a rate is not remembered over a crash */
    sim_crash(world->ending == KILLED ? SIM_KILL : SIM_POWER);
    if (world->ending == POWER_CUT)
        sim_silence(&crowd->relay, true);
    relay_gone(sim_between(MILLISECOND, 30 * SECOND));
}

static void restart_comes(struct sim_event *e)
{
    (void)e;
    world->start_now = true;
}

/* ---- the books ---- */

static bool crash_between(when from, when to)
{
    for (size_t i = 0; i < world->ncrash; i++)
        if (world->crash[i].at >= from && world->crash[i].at <= to)
            return true;
    return false;
}

/* Was a note made at `said` perhaps lost by a crash before `to`? */
static bool note_lost(when said, when to)
{
    for (size_t i = 0; i < world->ncrash; i++)
        if (world->crash[i].at >= said && world->crash[i].at <= to && said >= world->crash[i].since)
            return true;
    return false;
}

/* Copies of one recipient of one mail: each but the first must have its excuse. */
static void book_copies(const struct mail_life *life, const struct story *s, const struct letter *l)
{
    when took = 0, said = 0, unknown_said = 0;
    bool unknown = false, unheard = false;
    char id[ULID_TEXT];

    for (size_t i = 0; i < s->n; i++) {
        const struct moment *m = &s->p[i];
        switch (m->what) {
        case TOOK:
            if (took && said && !note_lost(said, m->at))
                wrong("letter %u: %s got a second copy of %.*s, though the first was noted %.3f s before", l->number, s->addr,
                      STR(ulid_print(life->id, id)), (double)(m->at - said) / SECOND);
            if (took && !said && !unknown && !crash_between(unheard ? took - 15 * MINUTE : took, m->at))
                wrong("letter %u: %s got a second copy of %.*s, and nobody said that this might be", l->number, s->addr,
                      STR(ulid_print(life->id, id)));
            took = m->at;
            unheard = m->unheard;
            said = 0;
            unknown = false;
            break;
        case SAID_REPEATED:
        case SAID_DELIVERED:
            if (unknown_said && m->what != SAID_REPEATED && !note_lost(unknown_said, m->at))
                wrong("letter %u: %s was delivered after an attempt without an answer, and it is not said that this may be a second copy",
                      l->number, s->addr);
            unknown_said = 0;
            if (!took)
                wrong("letter %u: %s is said to have %.*s, but no hop took it", l->number, s->addr, STR(ulid_print(life->id, id)));
            said = m->at;
            break;
        case SAID_UNKNOWN:
            unknown = true;
            unknown_said = m->at;
            break;
        case SAID_DEFERRED:     /* a hop that takes and then says 4xx has itself to blame */
            unknown |= took && !said;
            break;
        default:
            break;
        }
    }
}

static bool story_has(const struct story *s, enum what what)
{
    for (size_t i = 0; s && i < s->n; i++)
        if (s->p[i].what == what)
            return true;
    return false;
}

static const struct story *story_of(const struct mail_life *l, const char *addr)
{
    for (const struct story *s = l->stories; s; s = s->next)
        if (strcmp(s->addr, addr) == 0)
            return s;
    return NULL;
}

/* One recipient of what was answered with 250. */
static void book_rcpt(const struct letter *l, const struct submission *s, const struct addressee *r)
{
    const struct story *story = story_of(life_of(s->id), r->addr);
    char id[ULID_TEXT];

    if (story_has(story, TOOK))
        return;
    if (!story_has(story, SAID_FAILED) && !story_has(story, SAID_EXPIRED)) {
        wrong("LOST: letter %u, taken as %.*s at %.3f s: %s never got it", l->number, STR(ulid_print(s->id, id)),
              (double)(s->acked_at - world->began) / SECOND, r->addr);
        return;
    }
    if (story_has(story, SAID_FAILED) && !story_has(story, SAID_EXPIRED) && !r->refused && !crowd->mail_refused)
        wrong("letter %u, %.*s: %s failed, but no hop refused it", l->number, STR(ulid_print(s->id, id)), r->addr);
    if (!r->reported && l->sender[0] && !l->sender_refused && !crowd->mail_refused)
        wrong("letter %u, %.*s: %s failed, and the sender was never told", l->number, STR(ulid_print(s->id, id)), r->addr);
}

static void books(void)
{
    for (struct letter *l = crowd->letters; l; l = l->next)
        for (struct submission *s = l->submissions; s; s = s->next)
            for (size_t i = 0; s->acked && i < l->nrcpt; i++)
                if (s->rcpts & 1u << i)
                    book_rcpt(l, s, &l->rcpt[i]);
    for (struct mail_life *life = crowd->lives; life; life = life->next)
        for (struct story *s = life->stories; life->of && s; s = s->next)
            book_copies(life, s, life->of->letter);
}

/* ---- an hour ---- */

/* As good as a crash: what was noted since the disk went bad is gone. */
static void notes_lost(void)
{
    when now = clock_now();

    must(world->ncrash < COUNT(world->crash));
    world->crash[world->ncrash++] = (struct crash){ now, (world->disk_bad_since ? world->disk_bad_since : now) - MARGIN };
    if (!world->disk_bad_since)
        wrong("notes are lost though the disk is good");
}

static void heard_log(void *ctx, enum log_level level, str line)
{
    (void)ctx;
    line = str_trim(line);
    sim_tell("log: %.*s", STR(line));
    if (level >= LOG_ERROR && crowd->calm)
        sim_tell("an error in calm weather");
    if (str_has(line, S(" spool_notes_lost ")))
        notes_lost();
    crowd_heard_log(line);
}

/* A relay that ended as it should left no descriptor open. */
static void relay_held_nothing(void)
{
    if (sim_descriptors_open())
        wrong("%u descriptors are left open", sim_descriptors_open());
}

static void step(void)
{
    if (!sim_step())
        wrong("nothing moves any more");
    armed_look();
    if (world->end_now)
        relay_end();
    if (world->start_now) {
        world->start_now = false;
        sim_silence(&crowd->relay, false);
        relay_start();
    }
    if (world->relay_up && sched_ended(world->relay)) {
        /* It ended as it was told to, or could not begin: whoever watches over it tries again. */
        thread_join(world->relay);
        if (crowd->calm && world->relay_result != OK)
            wrong("the relay does not start in calm weather");
        if (!world->stopping && world->relay_result == OK)
            wrong("the relay ends unasked");
        relay_held_nothing();
        relay_gone(sim_between(MILLISECOND, 10 * SECOND));
    }
}

static bool queue_empty(void)
{
    struct worker *w[8];
    size_t n = workers(w, COUNT(w)), messages = 0;

    for (size_t i = 0; i < n; i++)
        messages += queue_totals(w[i]->queue).messages;
    return n && !messages && !w[0]->relay->loading && !crowd->busy;
}

static void tell_rest(void)
{
    struct worker *w[8];
    size_t n = workers(w, COUNT(w));
    char id[ULID_TEXT];

    for (size_t i = 0; i < n; i++) {
        struct ticket *t[64];
        size_t at = 0, k;
        while ((k = queue_walk(w[i]->queue, &at, t, COUNT(t))))
            for (size_t j = 0; j < k; j++) {
                struct why why = ticket_why(t[j]);
                wrong("still waiting: %.*s to %.*s: %.*s, state %u, lane %u with %u connections, next in %lld s", STR(ulid_print(t[j]->id, id)),
                      STR(ticket_domain(t[j])), STR(why.reason), t[j]->state, t[j]->lane->state, t[j]->lane->sending->connections,
                      (long long)((why.next - wall_now()) / SECOND));
            }
    }
    if (crowd->busy)
        wrong("%u clients could not get rid of their letters", crowd->busy);
}

static void calm(void)
{
    when until = clock_now() + CALM, next = 0;

    sim_tell("calm");
    crowd_calm();
    names_good();
    disk_good();
    sim_network()->pieces = SIM_WHOLE;
    sim_network()->missing.n = 0;
    sim_cancel(&world->end_at);
    sim_cancel(&world->end_in_a_moment);
    world->armed = false;
    while (!world->failed && clock_now() < until) {
        step();
        if (clock_now() >= next) {
            next = clock_now() + SECOND;
            if (queue_empty())
                return;
        }
    }
    if (!world->failed) {
        wrong("six calm hours, and the queue is not empty");
        tell_rest();
    }
}

/* What it left on the disk is in order. */
static err verify_run(void *out)
{
    return spool_verify(S("/spool"), out);
}

static void verify(void)
{
    AUTO_BUF out = { 0 };
    struct thread *t = sim_thread(SIM_RELAY, "verify", verify_run, &out);

    while (!sched_ended(t))
        must(sim_step());
    if (thread_join(t) != OK)
        wrong("the spool is not in order: %.*s", STR(buf_str(&out)));
    relay_held_nothing();
}

static void go_home(struct thread *clients)
{
    when until = clock_now() + 10 * MINUTE;

    sched_signal(world->relay, 15);
    while (!world->failed && !sched_ended(world->relay)) {
        if (!sim_step() || clock_now() > until) {
            wrong("the relay does not end");
            return;
        }
    }
    if (thread_join(world->relay) != OK)
        wrong("the relay ends with an error");
    relay_held_nothing();
    verify();
    crowd->ending = true;
    while (!sched_ended(clients))
        if (!sim_step()) {
            wrong("the crowd does not go home");
            return;
        }
    thread_join(clients);
}

static bool hour(uint64_t seed, bool trace)
{
    arena *a = arena_new();

    world = mem_new(sizeof *world);
    world->seed = seed;
    crowd = mem_new(sizeof *crowd);
    crowd->a = arena_new();
    crowd->wrong = wrong;
    crowd->heard_mail = heard_mail;
    must(addr_parse(S("198.51.100.25:25"), 25, &crowd->relay) == OK);
    stats_mine();               /* the counters of all lives, in one place */
    log_start(&(struct log_setup){ .tap = heard_log, .form = LOG_FORM_TEXT });
    sim_begin(&(struct sim_setup){ .seed = seed, .trace = trace, .unrest = true });
    world->began = clock_now();
    world->body_memory = 256u << 20;
    crowd->until = world->began + CHAOS;
    crowd->clients = 3 + (unsigned)sim_random(6);
    crowd->letters_each = 5 + (unsigned)sim_random(10);
    disk_good();
    world->weather.run = weather;
    world->fault.run = fault;
    world->end_at.run = world->end_in_a_moment.run = end_comes;
    world->restart.run = restart_comes;
    world->check.run = check;
    world->lanes.run = check_lanes;
    sim_at(&world->weather, world->began + 30 * SECOND);
    sim_at(&world->check, world->began + 5 * SECOND);
    sim_at(&world->lanes, world->began + 5 * SECOND);
    if (sim_chance(2))
        sim_at(&world->fault, world->began + sim_between(MINUTE, 30 * MINUTE));
    world->endings = (unsigned)sim_random(5);
    end_plan();
    world->segment = sim_chance(3) ? 0 : sim_chance(2) ? 1u << 20 : 600u << 10;
    world->spool_bytes = world->segment && sim_chance(3) ? (10 + sim_random(20)) * world->segment : 0;
    world->config = config_text(a);
    struct thread *clients = sim_thread(SIM_OUTSIDE, "crowd", crowd_run, NULL);
    relay_start();
    while (!world->failed && clock_now() < world->began + CHAOS)
        step();
    if (!world->failed)
        calm();
    if (!world->failed)
        books();
    if (!world->failed)
        go_home(clients);
    if (trace || getenv("SIM_VERBOSE"))
        printf("seed %llu: %llu steps, %u letters, %u taken by the relay, %u by hops, %u reports, %zu crashes, hash %016llx\n",
               (unsigned long long)seed, (unsigned long long)sim_steps(), crowd->nletters, crowd->acked, crowd->took, crowd->reports,
               world->ncrash, (unsigned long long)sim_hash());
    return !world->failed;
}

/* ---- many ---- */

#define AT_ONCE 2               /* hours run side by side */

/* One hour in a process of its own. The result comes through its exit code: 0 well, 1 not; what a seed has to say it says itself. */
struct hours { uint64_t seed; pid_t pid; uint64_t *hash; /* shared; 0: not yet known */ };

static void hour_begin(struct hours *h, uint64_t seed)
{
    h->seed = seed;
    fflush(stdout);
    h->pid = fork();
    must(h->pid >= 0);
    if (h->pid)
        return;
    alarm(300);
    bool ok = hour(seed, false);
    if (*h->hash && *h->hash != sim_hash())
        ok = printf("FAIL seed %llu runs otherwise the second time\n", (unsigned long long)seed) < 0;
    *h->hash = sim_hash();
    fflush(stdout);
    _exit(ok ? 0 : 1);
}

static bool hour_end(struct hours *h, int status)
{
    h->pid = 0;
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
        return true;
    if (WIFSIGNALED(status) || WEXITSTATUS(status) != 1)
        printf("FAIL seed %llu: died by %s %d\n", (unsigned long long)h->seed, WIFSIGNALED(status) ? "signal" : "exit",
               WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
    printf("  again: sim --seed %llu --trace\n", (unsigned long long)h->seed);
    return false;
}

/* Every 25th is run twice: the same seed must be the same hour. */
static bool wants_again(struct hours *h, bool *again)
{
    *again = !*again && h->seed % 25 == 1 && *h->hash;
    if (*again)
        hour_begin(h, h->seed);
    else
        *h->hash = 0;
    return *again;
}

static bool many(uint64_t first, uint64_t n)
{
    struct hours h[AT_ONCE] = { 0 };
    bool again[AT_ONCE] = { 0 };
    unsigned passed = 0, failed = 0;
    uint64_t begun = 0;
    uint64_t *hash = mmap(NULL, sizeof *hash * AT_ONCE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

    must(hash != MAP_FAILED);
    while (passed + failed < n) {
        int status;
        for (size_t i = 0; i < COUNT(h) && begun < n; i++)
            if (!h[i].pid) {
                h[i].hash = &hash[i];
                hour_begin(&h[i], first + begun++);
            }
        pid_t ended = wait(&status);
        for (size_t i = 0; i < COUNT(h); i++)
            if (h[i].pid == ended) {
                bool ok = hour_end(&h[i], status);
                if (ok && wants_again(&h[i], &again[i]))
                    continue;
                hash[i] = 0;
                again[i] = false;
                ok ? passed++ : failed++;
            }
    }
    printf("%u passed, %u failed\n", passed, failed);
    return !failed && passed;
}

int main(int argc, char **argv)
{
    uint64_t first = 1, seeds = 200, one = 0;
    bool trace = false;

    for (int i = 1; i < argc; i++)
        if (strcmp(argv[i], "--trace") == 0)
            trace = true;
        else if (strcmp(argv[i], "--seed") == 0 && i + 1 < argc)
            one = strtoull(argv[++i], NULL, 10);
        else if (strcmp(argv[i], "--seeds") == 0 && i + 1 < argc)
            seeds = strtoull(argv[++i], NULL, 10);
        else if (strcmp(argv[i], "--first") == 0 && i + 1 < argc)
            first = strtoull(argv[++i], NULL, 10);
        else
            return fprintf(stderr, "sim [--seed N [--trace]] [--seeds N] [--first N]\n"), 2;
    return one ? !hour(one, trace) : !many(first, seeds);
}
