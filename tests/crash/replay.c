/* Cuts the power at chosen places of a recorded run (record.h) and lets the product's own recovery loose on what a disk (disk.h) may
 * hold then.
 *
 *   replay LOG [--cuts N] [--subsets N] [--seed N] [--cut SLOT] [--jobs N] [--verbose]
 *
 * Every id acknowledged before the cut must be loaded, whole, unless it was noted as ended and the next hop had it. What was durably noted
 * before the cut must be known: no ended message is back, no recipient's state is older. Messages that the next hop had and
 * that are loaded are those whose note was not durable yet, no more than promised. Prints one line a violation, with the cut that
 * repeats it (--seed S --cut N), and a summary. Exits with 1 when there was a violation. */
#include "crash/disk.h"
#include "spool/frame.h"
#include "spool/spool.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define SUBSETS_MAX 16
#define RCPT_MOST 128                   /* of a message that we look at closely */
#define THREADS 2                       /* of the recorded relay; each may be 256 outcomes late */
#define LATE_MOST (THREADS * 256 + 64)  /* and so many are under way */

static const struct record_log *rec;
static uint64_t nslots;
static uint64_t seed = 1;
static bool verbose;

static const uint8_t *data_of(const struct record *r) { return record_data(rec, r); }

/* ---- what was said ---- */

struct mail {
    ulid id;
    char blast[24];                     /* X-Blast-Id */
    uint64_t acked, taken;              /* slots; UINT64_MAX: never */
    uint64_t ended;                     /* where its end was first written */
    uint64_t octets;
    uint32_t crc;                       /* of the body as it was written */
    bool whole;                         /* its message record was seen: what comes later is a copy */
    bool many;                          /* recipients, so that the next hop's having it does not end it */
    uint32_t notes;                     /* index + 1 of its last note in `note`; 0: none */
};
/* One recipient's part of a note, or the end of a message. */
struct known { uint32_t before, index, version; bool end; uint64_t slot, durable; /* where it was written, and synced */ };
static struct known *note;
static size_t nnote, note_cap;
static uint64_t ncopy;                  /* messages copied forward by compaction */
static struct mail *mail;
static size_t nmail, mail_cap;
static uint32_t *by_id;                 /* hash of index + 1 */
static size_t by_id_cap;

static struct mail *mail_find(ulid id, bool make)
{
    size_t mask = by_id_cap - 1, at = ulid_hash(id) & mask;

    for (; by_id[at]; at = (at + 1) & mask)
        if (ulid_eq(mail[by_id[at] - 1].id, id))
            return &mail[by_id[at] - 1];
    if (!make)
        return NULL;
    must(nmail < by_id_cap / 2);
    if (nmail == mail_cap)
        mail = mem_grow(mail, (mail_cap = MAX(mail_cap * 2, 1024)) * sizeof *mail);
    mail[nmail] = (struct mail){ .id = id, .acked = UINT64_MAX, .taken = UINT64_MAX, .ended = UINT64_MAX };
    by_id[at] = (uint32_t)++nmail;
    return &mail[nmail - 1];
}

static void note_add(struct mail *m, struct known k)
{
    if (nnote == note_cap)
        note = mem_grow(note, (note_cap = MAX(note_cap * 2, 1024)) * sizeof *note);
    k.before = m->notes;
    k.durable = UINT64_MAX;
    note[nnote++] = k;
    m->notes = (uint32_t)nnote;
}

static void learn_note(const struct frame *f, uint64_t slot)
{
    static struct rcpt_state state[RCPT_MOST];
    struct mail *m = mail_find(f->id, true);

    memset(state, 0, sizeof state);
    must(note_merge(f, state, RCPT_MOST) == OK);
    for (uint32_t i = 0; i < RCPT_MOST; i++)
        if (state[i].version)
            note_add(m, (struct known){ .index = i, .version = state[i].version, .slot = slot });
    if (f->type != FRAME_OUTCOME) {
        note_add(m, (struct known){ .end = true, .slot = slot });
        m->ended = MIN(m->ended, slot);
    }
}

/* The frames of a batch, as the committer wrote them. */
static void learn_batch(const struct record *r)
{
    const uint8_t *p = data_of(r);
    struct frame f;

    for (uint32_t at = 0; p && at + FRAME_HEAD <= r->n; at += 8) {
        const uint8_t *q = p + at;
        if (frame_check(q, r->n - at, le32(q + 12), le32(q + 16), (uint32_t)r->at + at, &f) != OK)
            continue;
        if (f.type == FRAME_BODY || f.type == FRAME_CHUNK || f.type == FRAME_MESSAGE) {
            struct mail *m = mail_find(f.id, true);
            if (f.type == FRAME_MESSAGE) {
                m->whole = true;
                ncopy += le32(f.body) != 0;
                m->many = le32(f.body + 12) > 1;
            }
            else if (!m->whole) {
                m->crc = crc32c(m->crc, f.body, f.n);
                m->octets += f.n;
                static const char field[] = "X-Blast-Id: ";
                const char *x = m->blast[0] ? NULL : memmem(f.body, MIN(f.n, 2048), field, sizeof field - 1);
                if (x)
                    memcpy(m->blast, x + sizeof field - 1, 19);
            }
        } else if (frame_is_note(f.type)) {
            learn_note(&f, (uint64_t)(r - rec->slot));
        }
        at += frame_size(f.n) - 8;
    }
}

/* Whose write a sync covered is durable from the sync on. Notes are in the order of their writes; few are open at a time. */
static void learn_durable(void)
{
    size_t first = 0;

    for (uint64_t i = 0; i < nslots; i++) {
        const struct record *r = &rec->slot[i];
        if (r->type != RECORD_SYNC)
            continue;
        while (first < nnote && note[first].durable != UINT64_MAX)
            first++;
        for (size_t k = first; k < nnote && note[k].slot < r->at; k++) {
            const struct record *w = &rec->slot[note[k].slot];
            if (note[k].durable == UINT64_MAX && w->ino == r->ino && w->done && w->result >= 0)
                note[k].durable = i;
        }
    }
}

static int by_blast(const void *a, const void *b)
{
    return strcmp(mail[*(const uint32_t *)a].blast, mail[*(const uint32_t *)b].blast);
}

static void learn_mails(void)
{
    for (by_id_cap = 1024; by_id_cap < nslots * 4; by_id_cap *= 2)
        ;
    by_id = mem_new(by_id_cap * sizeof *by_id);
    for (uint64_t i = 0; i < nslots; i++) {
        const struct record *r = &rec->slot[i];
        ulid id;
        if (r->type == RECORD_WRITE && r->at >= PAGE && r->at % PAGE == 0)
            learn_batch(r);
        if (r->type == RECORD_ACK && ulid_parse(str_of((const char *)data_of(r), r->n), &id))
            mail_find(id, true)->acked = i;
    }
    learn_durable();
    uint32_t *sorted = mem_new(nmail * sizeof *sorted);
    for (size_t i = 0; i < nmail; i++)
        sorted[i] = (uint32_t)i;
    qsort(sorted, nmail, sizeof *sorted, by_blast);
    for (uint64_t i = nslots; i-- > 0;) {
        const struct record *r = &rec->slot[i];
        if (r->type != RECORD_TAKEN)
            continue;
        size_t low = 0, high = nmail;
        while (low < high) {
            size_t mid = low + (high - low) / 2;
            if (strncmp(mail[sorted[mid]].blast, (const char *)data_of(r), 19) < 0)
                low = mid + 1;
            else
                high = mid;
        }
        if (low < nmail && strncmp(mail[sorted[low]].blast, (const char *)data_of(r), 19) == 0)
            mail[sorted[low]].taken = i; /* going backwards: the first time stays */
    }
    mem_free(sorted);
}

/* ---- a trial ---- */

struct result { uint32_t status, lost, torn_mails, back, twice, damaged, loaded; char what[160]; };

struct trial { uint64_t cut; struct result *r; bool *loaded; struct spool_port *port; };

static void tell(struct trial *t, const char *form, struct mail *m)
{
    char id[ULID_TEXT];
    if (!t->r->what[0])
        snprintf(t->r->what, sizeof t->r->what, "%s %.*s (%s), acknowledged in slot %lld", form, STR(ulid_print(m->id, id)), m->blast,
                 (long long)m->acked);
}

/* What was durably noted about it before the cut must be known. */
static void check_notes(struct trial *t, struct mail *m, const struct rcpt_state *state, size_t n)
{
    for (uint32_t at = m->notes; at; at = note[at - 1].before) {
        const struct known *k = &note[at - 1];
        if (k->durable >= t->cut)
            continue;
        if (k->end || (k->index < n && state[k->index].version < k->version)) {
            t->r->back++;
            tell(t, k->end ? "BACK though its end was durable:" : "knows less than was durable:", m);
            return;
        }
    }
}

static err each(void *ctx, const struct message *msg, const struct rcpt_state *state)
{
    struct trial *t = ctx;
    struct mail *m = mail_find(msg->id, false);
    AUTO_ARENA a = arena_new();
    uint64_t octets = 0;
    uint32_t crc = 0;

    t->r->loaded++;
    if (!m)
        return OK; /* its record was torn in the log of a killed process, so it was not acknowledged */
    t->loaded[m - mail] = true;
    check_notes(t, m, state, msg->env.nrcpt);
    for (size_t i = 0; i < msg->npiece; i++) {
        str p = { 0 };
        if (spool_read_piece(t->port, msg->piece[i], a, &p) != OK) {
            t->r->torn_mails += m->acked < t->cut;
            tell(t, "cannot be read:", m);
            return OK;
        }
        crc = crc32c(crc, p.p, p.n);
        octets += p.n;
    }
    if (m->acked < t->cut && (crc != m->crc || octets != m->octets)) {
        t->r->torn_mails++;
        tell(t, "is not what it was:", m);
    }
    return OK;
}

static void judge(struct trial *t)
{
    for (size_t i = 0; i < nmail; i++) {
        struct mail *m = &mail[i];
        bool taken = m->taken < t->cut;
        if (m->acked < t->cut && !t->loaded[i] && !(taken && m->ended < t->cut)) {
            t->r->lost++;
            tell(t, "LOST", m);
        }
        t->r->twice += taken && t->loaded[i] && !m->many;
    }
}

static err trial_run(void *arg)
{
    struct trial *t = arg;
    struct spool *s;
    struct spool_loaded count;
    struct spool_setup setup = { .dir = S("disk"), .reserve = 1, .ahead = 1 };

    err e = spool_open(&setup, &s);
    if (e != OK) {
        t->r->status = 2;
        snprintf(t->r->what, sizeof t->r->what, "the spool does not open: %.*s", STR(err_text()));
        return OK;
    }
    t->port = spool_port_open(s);
    e = spool_load(s, each, t, &count);
    if (e != OK) {
        t->r->status = 3;
        snprintf(t->r->what, sizeof t->r->what, "the backlog does not load: %.*s", STR(err_text()));
    }
    t->r->damaged = (uint32_t)count.damaged;
    if (e == OK) {
        t->r->status = 1;
        judge(t);
    }
    _exit(0); /* nothing is closed: as by a second power cut */
}

static void trial(uint64_t cut, unsigned subset, struct result *r)
{
    static const struct { unsigned of_256, grain; } kinds[] = { { 128, SECTOR }, { 0, SECTOR }, { 256, SECTOR }, { 230, SECTOR }, { 40, PAGE } };
    struct dice d = { .s = seed * 1000003 + cut * 31 + subset };
    struct machine ours = machine_linux;
    struct trial t = { .cut = cut, .r = r, .loaded = mem_new(nmail + 1) };

    disk_build(&d, kinds[subset % COUNT(kinds)].of_256, kinds[subset % COUNT(kinds)].grain);
    disk_machine(&ours);
    machine = &ours;
    (void)!task_main(trial_run, &t); /* does not come back */
}

/* ---- all of them ---- */

static int by_number(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

/* Half of them anywhere, half where names, heads and processes change. */
static size_t choose(uint64_t *cut, size_t n)
{
    struct dice d = { .s = seed };
    uint64_t *special = mem_new(nslots * sizeof *special);
    size_t nspecial = 0, kept = 0;

    for (uint64_t i = 0; i < nslots; i++) {
        const struct record *r = &rec->slot[i];
        bool plain = r->type == RECORD_ACK || r->type == RECORD_TAKEN || r->type == RECORD_NONE || r->type == RECORD_SYNC
                     || (r->type == RECORD_WRITE && (r->at || !r->data) && r->at != PAGE);
        if (!plain)
            special[nspecial++] = i;
    }
    while (kept < n && kept < nslots / 2) {     /* no place twice */
        for (size_t i = kept; i < n; i++)
            cut[i] = i % 2 && nspecial ? MIN(special[roll(&d) % nspecial] + roll(&d) % 3, nslots) : 1 + roll(&d) % nslots;
        qsort(cut, n, sizeof *cut, by_number);
        kept = 0;
        for (size_t i = 0; i < n; i++)
            if (!kept || cut[kept - 1] != cut[i])
                cut[kept++] = cut[i];
    }
    mem_free(special);
    return kept;
}

static uint64_t sum_up(struct result *all, const uint64_t *cut, size_t ncut, size_t subsets)
{
    uint64_t trials = 0, bad = 0, lost = 0, torn = 0, back = 0, most_twice = 0, loaded = 0, damaged = 0, acked = 0, ended = 0;

    for (size_t i = 0; i < nmail; i++)
        acked += mail[i].acked != UINT64_MAX;
    for (size_t i = 0; i < nnote; i++)
        ended += note[i].end && note[i].durable != UINT64_MAX;
    for (size_t i = 0; i < ncut; i++)
        for (size_t k = 0; k < subsets; k++) {
            struct result *r = &all[i * SUBSETS_MAX + k];
            trials++;
            lost += r->lost;
            torn += r->torn_mails;
            back += r->back;
            loaded += r->loaded;
            damaged += r->damaged > 0;
            most_twice = MAX(most_twice, r->twice);
            if (r->status == 0)
                snprintf(r->what, sizeof r->what, "recovery died or stood still");
            if (r->status == 1 && !r->lost && !r->torn_mails && !r->back && !r->damaged && r->twice <= LATE_MOST)
                continue;
            if (!r->what[0])
                snprintf(r->what, sizeof r->what, "%s", r->damaged ? "damage is reported where none was done" : "more come twice than promised");
            bad++;
            if (bad <= 20)
                printf("FAIL --seed %llu --cut %llu, subset %zu: %u lost, %u not whole, %u back, %u damaged, %u twice: %s\n",
                       (unsigned long long)seed, (unsigned long long)cut[i], k, r->lost, r->torn_mails, r->back, r->damaged, r->twice, r->what);
        }
    printf("power cuts: %zu places x %zu subsets in %llu records of %zu messages (%llu acknowledged, %llu ended, %llu copied forward): %llu recoveries, "
           "%llu loaded, %llu lost, %llu not whole, %llu back, %llu with false damage, at most %llu would come twice; seed %llu\n",
           ncut, subsets, (unsigned long long)nslots, nmail, (unsigned long long)acked, (unsigned long long)ended, (unsigned long long)ncopy,
           (unsigned long long)trials, (unsigned long long)loaded, (unsigned long long)lost, (unsigned long long)torn, (unsigned long long)back,
           (unsigned long long)damaged, (unsigned long long)most_twice, (unsigned long long)seed);
    printf("%llu passed, %llu failed\n", (unsigned long long)(trials - bad), (unsigned long long)bad);
    return bad;
}

int main(int argc, char **argv)
{
    size_t ncut = 500, subsets = 4, jobs = 2;
    uint64_t only = UINT64_MAX;

    for (int i = 2; i + 1 < argc; i += 2) {
        uint64_t v = strtoull(argv[i + 1], NULL, 0);
        if (strcmp(argv[i], "--cuts") == 0) ncut = v;
        else if (strcmp(argv[i], "--subsets") == 0) subsets = MIN(v, SUBSETS_MAX);
        else if (strcmp(argv[i], "--seed") == 0) seed = v;
        else if (strcmp(argv[i], "--cut") == 0) only = v;
        else if (strcmp(argv[i], "--jobs") == 0) jobs = v;
        else if (strcmp(argv[i], "--verbose") == 0) verbose = v;
        else return fprintf(stderr, "replay: what is %s for?\n", argv[i]), 2;
    }
    int fd = argc > 1 ? open(argv[1], O_RDONLY | O_CLOEXEC) : -1;
    if (fd < 0)
        return fprintf(stderr, "replay LOG [--cuts N] [--subsets N] [--seed N] [--cut SLOT] [--jobs N] [--verbose 1]\n"), 2;
    rec = mmap(NULL, RECORD_BYTES, PROT_READ, MAP_SHARED, fd, 0);
    must(rec != MAP_FAILED);
    if (rec->full)
        return fprintf(stderr, "replay: the log was too small for all of it\n"), 2;
    nslots = rec->slots;
    disk_open(rec);
    learn_mails();

    uint64_t *cut = mem_new((ncut + 1) * sizeof *cut);
    if (only != UINT64_MAX)
        cut[0] = only, ncut = 1;
    else
        ncut = choose(cut, ncut);
    struct result *all = mmap(NULL, (ncut + 1) * SUBSETS_MAX * sizeof *all, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    must(all != MAP_FAILED);

    size_t running = 0;
    uint64_t at = 0;
    for (size_t i = 0; i < ncut; i++) {
        for (; at < cut[i]; at++)
            disk_step(at);
        for (size_t k = 0; k < subsets; k++) {
            if (running >= jobs && wait(NULL) > 0)
                running--;
            pid_t pid = fork();
            must(pid >= 0);
            running += pid > 0;
            if (pid)
                continue;
            if (!verbose && !freopen("/dev/null", "w", stderr))
                _exit(9);
            alarm(60);
            trial(cut[i], (unsigned)k, &all[i * SUBSETS_MAX + k]);
            _exit(0);
        }
    }
    while (wait(NULL) > 0)
        ;

    return sum_up(all, cut, ncut, subsets) > 0;
}
