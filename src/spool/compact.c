/* Compaction: what still waits in an old segment, and what its notes still have to say, is written again at the end of the log, so that
 * the segment can be given back. On the keeper's thread, a piece at a time; mail goes first.
 *
 * A copy names its original (`was`), which is dead from then on: whoever recovers finds the copy and passes the original over. But notes
 * may still be made about the original until everybody has heard that it moved. So a move is over only when all of them have let go of
 * it; what was noted meanwhile (SLOT_LATE) is then noted about the copy, and only when that is durable does the original count as gone.
 * Until then its segment is pinned. Recovery does the same for moves that a crash cut short, before anything is given back. */
#include "spool/spool_inside.h"

#include <stdlib.h>

#define STEP_MESSAGES 64        /* copied at a time, */
#define STEP_OCTETS (1u << 20)  /* or so much of them and one more */
#define MOVES_MOST 4096         /* not over yet */
#define NOTES_STEP 4096         /* written again between two syncs */
#define NOTE_GUESS 160u         /* octets of a note, for the choice */
#define AGAIN MINUTE            /* one that could not be emptied is tried again after */
#define PACE_MOST (50 * MILLISECOND)

struct compaction {
    struct spool_port *port;
    uint32_t victim;                    /* 0: none */
    struct spool_ref *todo; size_t ntodo, at; /* what waits in it, or needs a piece of it */
    struct index *notes; uint32_t notes_home; /* all about messages of that segment, gathered after they were marked as moving */
    uint64_t copied, octets, renoted;   /* out of this victim */
    bool stays;                         /* something in it cannot be copied */
    size_t moves;                       /* not over yet */
    struct spool_move *over;            /* all have let go; not settled yet */
    when again;                         /* what failed is not tried before */
};

void spool_may_move(struct spool *s, bool may)
{
    store_release(&s->may_move, may);
    keeper_poke(s);
}

void spool_move_done(struct spool_move *m)
{
    struct spool *s = m->spool;

    if (atomic_fetch_sub(&m->holders, 1) != 1)
        return;
    struct spool_move *head = __atomic_load_n(&s->moves_done, __ATOMIC_RELAXED);
    do
        m->next = head;
    while (!__atomic_compare_exchange_n(&s->moves_done, &head, m, true, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED));
    keeper_poke(s);
}

/* ---- which segment ---- */

/* Would it be free without what it holds for others? Then what that is, in octets; else UINT64_MAX. Under lock. */
static uint64_t cost_of(struct spool *s, const struct segment *g)
{
    uint64_t cost = g->live_bytes;
    bool holds = g->live || g->pins;

    for (uint32_t i = 0; i < g->ndepend; i++) {
        if (!segment_find(s, g->depend[i].segment))
            continue;
        if (g->depend[i].copies)        /* its copies keep their originals dead: those go first */
            return UINT64_MAX;
        cost += (uint64_t)g->depend[i].notes * NOTE_GUESS;
        holds = true;
    }
    return holds ? cost : UINT64_MAX;
}

/* The oldest that is at most half in use, when there is much more in use than waits. What is copied then is less than what is freed. */
static struct segment *choose(struct spool *s)
{
    uint64_t used = 0, live = 0;
    when now = clock_now(), age = s->setup.compact_after;
    bool full = load_acquire(&s->full);

    for (size_t i = 0; i < s->nsegment; i++)
        if (s->segment[i]->state == SEGMENT_SEALED) {
            used += s->segment[i]->size;
            live += s->segment[i]->live_bytes;
        }
    if (used <= 2 * live + (full ? 0 : s->setup.compact_slack * (uint64_t)s->size))
        return NULL;
    for (size_t i = 0; i + 1 < s->nsegment; i++) {
        struct segment *g = s->segment[i];
        if (g->state != SEGMENT_SEALED || !g->known || g->index || g->compact_again > now || (!full && g->sealed + age > now))
            continue;
        if (cost_of(s, g) <= g->size / 2)
            return g;
    }
    return NULL;
}

/* ---- what must be copied out of it ---- */

static void add_todo(struct compaction *c, size_t *cap, struct segment *g, uint32_t slot)
{
    if (g->flag[slot] & (SLOT_ENDED | SLOT_MOVED | SLOT_MOVING | SLOT_NEW))
        return;
    g->flag[slot] |= SLOT_MOVING;
    if (c->ntodo == *cap) {
        *cap = *cap ? *cap * 2 : 256;
        c->todo = mem_grow(c->todo, *cap * sizeof *c->todo);
    }
    c->todo[c->ntodo++] = (struct spool_ref){ g->number, g->offset[slot] };
}

static bool begin(struct spool *s, struct compaction *c)
{
    size_t cap = 0;

    c->ntodo = c->at = 0;
    c->copied = c->octets = c->renoted = 0;
    c->stays = false;
    pthread_mutex_lock(&s->lock);
    struct segment *v = choose(s);
    if (v) {
        c->victim = v->number;
        v->compact_again = clock_now() + AGAIN;
        for (uint32_t i = 0; i < v->n; i++)
            add_todo(c, &cap, v, i);
        for (size_t k = 0; k < s->nsegment; k++) {
            struct segment *g = s->segment[k];
            for (uint32_t i = 0; i < g->nforeign; i++)
                if (g->foreign[i].segment == v->number && g->state != SEGMENT_READY)
                    add_todo(c, &cap, g, segment_slot(g, g->foreign[i].message));
        }
    }
    pthread_mutex_unlock(&s->lock);
    return v != NULL;
}

/* It stays where it is, for now. */
static void leave(struct spool *s, struct spool_ref home)
{
    pthread_mutex_lock(&s->lock);
    struct segment *g = segment_find(s, home.segment);
    uint32_t slot = g ? segment_slot(g, home.offset) : NO_SLOT;
    if (slot != NO_SLOT)
        g->flag[slot] &= (uint8_t)~(SLOT_MOVING | SLOT_LATE);
    pthread_mutex_unlock(&s->lock);
}

/* ---- copying ---- */

static err notes_about(struct spool *s, struct compaction *c, uint32_t home)
{
    if (c->notes && c->notes_home == home)
        return OK;
    index_free(take(c->notes));
    AUTO(index) x = index_new();
    TRY(gather_notes(s, home, x));
    c->notes = take(x);
    c->notes_home = home;
    return OK;
}

/* All states that are more than "waits, not tried yet". */
static size_t known_states(struct rcpt_state *state, size_t n)
{
    size_t known = 0;

    for (size_t i = 0; i < n; i++)
        if (state[i].version)
            state[known++] = state[i];
    return known;
}

/* The body of a copy: with the message record when it is one piece, else as chunks, written at once. */
static err copy_body(struct spool *s, struct compaction *c, arena *a, struct message *m, struct spool_slab **ret)
{
    AUTO_ARENA octets = arena_new();
    struct spool_piece *piece = NEW_ARRAY(a, struct spool_piece, MAX(m->npiece, 1));
    size_t n = 0;
    err e = OK;

    for (; n < m->npiece && e == OK; n++) {
        struct place place;
        struct frame f;
        arena_reset(octets);
        e = place_find(s, m->piece[n].at.segment, &place);
        if (e == OK)
            e = place_read(s, &place, m->piece[n].at.offset, frame_size(m->piece[n].n), octets, false, &f);
        if (e == OK && (!frame_is_octets(f.type) || f.n != m->piece[n].n))
            e = fail(E_DAMAGED, "the body at %u:%u is not what its message says", m->piece[n].at.segment, m->piece[n].at.offset);
        if (e != OK)
            break;
        str text = str_of((const char *)f.body, f.n);
        if (m->npiece == 1 && f.n <= SPOOL_CHUNK) {
            *ret = spool_slab_new(f.n);
            buf_add(&(*ret)->body, text);
            piece[0] = (struct spool_piece){ { 0, frame_size(f.n) }, f.n };
            break;
        }
        piece[n].n = f.n;
        e = port_commit(c->port, entry_chunk(c->port, FRAME_CHUNK, m->id, text), &piece[n].at);
        if (e != OK)
            break;
    }
    if (e != OK) {
        spool_abort(c->port, m->id, piece, n);
        return e;
    }
    m->piece = piece;
    return OK;
}

struct copy {
    struct spool_ref from;
    ulid id;
    struct entry *entry;                /* NULL: it has ended meanwhile, so there is nothing to copy */
    struct spool_piece *piece; size_t npiece; /* chunks of its own; heap */
};

static void copy_abort(struct compaction *c, struct copy *copy)
{
    spool_abort(c->port, copy->id, copy->piece, copy->npiece);
    mem_free(copy->piece);
}

static bool still_waits(struct spool *s, struct spool_ref home)
{
    pthread_mutex_lock(&s->lock);
    struct segment *g = segment_find(s, home.segment);
    uint32_t slot = g ? segment_slot(g, home.offset) : NO_SLOT;
    bool waits = slot != NO_SLOT && !(g->flag[slot] & SLOT_ENDED);
    pthread_mutex_unlock(&s->lock);
    return waits;
}

static err copy_one(struct spool *s, struct compaction *c, struct spool_ref home, struct copy *ret)
{
    AUTO_ARENA a = arena_new();
    AUTO(spool_slab) slab = NULL;
    struct stored_read st;
    bool ended = false;

    *ret = (struct copy){ .from = home };
    if (!still_waits(s, home))
        return OK;
    TRY(message_read(s, home, a, false, &st));
    TRY(notes_about(s, c, home.segment));
    struct rcpt_state *state = states_begin(&st, a);
    TRY(merge_notes(c->notes, home, state, st.m->env.nrcpt, &ended));
    if (ended)
        return OK;
    TRY(copy_body(s, c, a, st.m, &slab));
    struct stored copy = { .m = st.m, .was = home, .state = state, .nstate = known_states(state, st.m->env.nrcpt) };
    err e = entry_message(c->port, &copy, slab, &ret->entry);
    ret->id = st.m->id;
    if (!slab && st.m->npiece) {
        ret->npiece = st.m->npiece;
        ret->piece = mem_new(ret->npiece * sizeof *ret->piece);
        memcpy(ret->piece, st.m->piece, ret->npiece * sizeof *ret->piece);
    }
    if (e != OK)
        copy_abort(c, ret);
    return e;
}

static struct spool_move *move_new(struct spool *s, const struct copy *copy, struct spool_ref to)
{
    struct spool_move *m = mem_new(sizeof *m);

    m->id = copy->id;
    m->from = copy->from;
    m->to = to;
    m->spool = s;
    atomic_init(&m->holders, 1);
    return m;
}

/* The next few of the victim's messages, in one commit or two. */
static err copy_some(struct spool *s, struct compaction *c)
{
    struct copy copy[STEP_MESSAGES];
    struct spool_move *move[STEP_MESSAGES];
    size_t n = 0, moves = 0;
    uint32_t octets = 0;
    err e = OK;

    while (c->at < c->ntodo && n < STEP_MESSAGES && octets < STEP_OCTETS && e == OK) {
        struct spool_ref home = c->todo[c->at++];
        e = copy_one(s, c, home, &copy[n]);
        if (e == E_DAMAGED || e == E_LIMIT) { /* it stays, and its segment with it */
            log_error(e == E_LIMIT ? "spool_compaction" : "spool_damage", LOG_INT("segment", home.segment), LOG_STR("reason", err_text()));
            e = OK;
            leave(s, home);
            c->stays = true;
        } else if (e != OK || !copy[n].entry) {
            leave(s, home);
        } else {
            octets += copy[n].entry->bytes;
            port_push(c->port, copy[n++].entry);
        }
    }
    for (size_t i = 0; i < n; i++) {
        struct spool_ref at;
        uint32_t behind = copy[i].entry->message_at, bytes = copy[i].entry->bytes;
        err got = port_wait(copy[i].entry, &at);
        if (got != OK) {
            leave(s, copy[i].from);
            copy_abort(c, &copy[i]);
            e = got;
            continue;
        }
        mem_free(copy[i].piece);
        move[moves++] = move_new(s, &copy[i], (struct spool_ref){ at.segment, at.offset + behind });
        c->octets += bytes;
    }
    pthread_mutex_lock(&s->lock);
    for (size_t i = 0; i < moves; i++)
        segment_find(s, move[i]->from.segment)->pins++;
    pthread_mutex_unlock(&s->lock);
    c->moves += moves;
    c->copied += moves;
    add_stat(s, compacted, moves);
    if (moves)
        s->setup.moved(s->setup.ctx, move, moves);
    return e;
}

/* ---- the end of a move ---- */

void fold_late(struct spool_port *p, const struct stored_read *copy, const struct rcpt_state *known, const struct rcpt_state *now, bool ended)
{
    size_t n = copy->m->env.nrcpt, changed = 0;
    struct rcpt_state *state = mem_new(MAX(n, 1) * sizeof *state);

    for (size_t i = 0; i < n; i++)
        if (now[i].version > known[i].version)
            state[changed++] = now[i];
    if (changed || ended)
        port_note(p, ended ? FRAME_END : FRAME_OUTCOME, copy->m->id, copy->m->at, state, changed);
    mem_free(state);
}

static err settle_late(struct spool *s, struct compaction *c, const struct spool_move *m, const struct index *x)
{
    AUTO_ARENA a = arena_new();
    struct stored_read st;
    bool ended = false;

    TRY(message_read(s, m->to, a, false, &st));
    struct rcpt_state *known = states_begin(&st, a), *now = states_begin(&st, a);
    TRY(merge_notes(x, m->from, now, st.m->env.nrcpt, &ended));
    fold_late(c->port, &st, known, now, ended);
    return OK;
}

/* Note again what was noted late, about those of c->over. */
static err settle_notes(struct spool *s, struct compaction *c)
{
    AUTO(index) x = NULL;
    uint32_t about = 0;
    bool any = false;

    for (struct spool_move *m = c->over; m; m = m->next) {
        pthread_mutex_lock(&s->lock);
        struct segment *g = segment_find(s, m->from.segment);
        bool late = g->flag[segment_slot(g, m->from.offset)] & SLOT_LATE;
        pthread_mutex_unlock(&s->lock);
        if (!late)
            continue;
        if (about != m->from.segment) {
            index_free(take(x));
            x = index_new();
            TRY(gather_notes(s, m->from.segment, x));
            about = m->from.segment;
        }
        TRY(settle_late(s, c, m, x));
        any = true;
    }
    return any ? spool_flush(c->port) : OK;
}

static bool settle_moves(struct spool *s, struct compaction *c)
{
    struct spool_move *list = __atomic_exchange_n(&s->moves_done, NULL, __ATOMIC_SEQ_CST);

    while (list) {
        struct spool_move *m = list;
        list = m->next;
        m->next = c->over;
        c->over = m;
    }
    if (!c->over || clock_now() < c->again)
        return false;
    if (settle_notes(s, c) != OK) {
        log_warn("spool_compaction", LOG_STR("reason", err_text()));
        c->again = clock_now() + SECOND;
        return false;
    }
    pthread_mutex_lock(&s->lock);
    while (c->over) {
        struct spool_move *m = c->over;
        struct segment *from = segment_find(s, m->from.segment), *to = segment_find(s, m->to.segment);
        uint32_t slot = segment_slot(from, m->from.offset);
        c->over = m->next;
        segment_gone(s, from, slot, SLOT_MOVED);
        from->flag[slot] &= (uint8_t)~(SLOT_MOVING | SLOT_LATE);
        must(from->pins > 0);
        from->pins--;
        to->flag[segment_slot(to, m->to.offset)] &= (uint8_t)~SLOT_NEW;
        c->moves--;
        mem_free(m);
    }
    pthread_mutex_unlock(&s->lock);
    return true;
}

/* ---- what the victim has to say about others ---- */

/* Is this note still needed? Not when the message is dead for other reasons than this note. Under lock. */
static bool says_something(struct spool *s, const struct index_note *n)
{
    struct segment *h = segment_find(s, n->segment);
    uint32_t slot = h ? segment_slot(h, n->offset) : NO_SLOT;

    if (slot == NO_SLOT || h->flag[slot] & SLOT_MOVED)
        return false;
    return n->type != FRAME_OUTCOME || !(h->flag[slot] & SLOT_ENDED);
}

static err records_of(struct spool *s, uint32_t number, struct index **ret)
{
    struct segment probe = { 0 };

    pthread_mutex_lock(&s->lock);
    struct segment *g = segment_find(s, number);
    probe = (struct segment){ .number = number, .life = g->life, .size = g->size, .fd = g->fd, .cut = g->cut, .torn_from = g->torn_from };
    pthread_mutex_unlock(&s->lock);
    if (index_read(s, &probe, ret) == OK)
        return OK;
    struct scanned sc = { 0 };
    TRY(segment_scan(&probe, &sc));
    index_sort(sc.index);
    *ret = sc.index;
    return OK;
}

static err renote(struct spool *s, struct compaction *c, struct segment *v)
{
    AUTO(index) x = NULL;
    bool any = false;

    for (uint32_t i = 0; i < v->ndepend; i++) /* only this thread takes any away, and only the committer's segment gets new ones */
        any |= v->depend[i].notes > 0;
    if (!any)
        return OK;
    TRY(records_of(s, v->number, &x));
    for (uint32_t i = 0, pushed = 0; i < x->nnote; i++) {
        if (x->note[i].segment == v->number)
            continue;
        pthread_mutex_lock(&s->lock);
        bool needed = says_something(s, &x->note[i]);
        pthread_mutex_unlock(&s->lock);
        if (!needed)
            continue;
        struct frame f = index_frame(x, x->note[i].at);
        port_note_again(c->port, &f);
        c->renoted++;
        if (++pushed % NOTES_STEP == 0)
            TRY(spool_flush(c->port));
    }
    TRY(spool_flush(c->port));
    pthread_mutex_lock(&s->lock);
    for (uint32_t i = v->ndepend; i-- > 0;) {
        v->depend[i].notes = 0;
        if (!v->depend[i].copies)
            segment_undepend(v, v->depend[i].segment);
    }
    pthread_mutex_unlock(&s->lock);
    return OK;
}

/* ---- the whole ---- */

static void end(struct compaction *c)
{
    index_free(take(c->notes));
    mem_free(c->todo);
    c->todo = NULL;
    c->ntodo = c->at = 0;
    c->victim = 0;
}

static err work(struct spool *s, struct compaction *c)
{
    if (c->at < c->ntodo)
        return copy_some(s, c);
    pthread_mutex_lock(&s->lock);
    struct segment *v = segment_find(s, c->victim); /* all of it may have ended meanwhile */
    pthread_mutex_unlock(&s->lock);
    if (v)
        TRY(renote(s, c, v));
    if (v && c->stays)
        v->compact_again = NEVER;
    log_info("spool_compacted", LOG_INT("segment", c->victim), LOG_INT("messages", c->copied), LOG_INT("octets", c->octets),
             LOG_INT("notes", c->renoted));
    end(c);
    return OK;
}

static void give_up(struct spool *s, struct compaction *c)
{
    while (c->at < c->ntodo)
        leave(s, c->todo[c->at++]);
    end(c);
}

bool compact_some(struct spool *s)
{
    struct compaction *c = s->compaction;

    if (!s->setup.moved)
        return false;
    if (!c) {
        c = s->compaction = mem_new(sizeof *c);
        c->port = port_open(s, RANK_KEEPER);
    }
    bool did = settle_moves(s, c);
    if (!load_acquire(&s->may_move)) {
        if (c->victim)
            give_up(s, c);
        return did;
    }
    if (clock_now() < c->again || c->moves > MOVES_MOST - STEP_MESSAGES || (!c->victim && !begin(s, c)))
        return did;
    when before = clock_now();
    if (work(s, c) != OK) {
        log_warn("spool_compaction", LOG_INT("segment", c->victim), LOG_STR("reason", err_text()));
        give_up(s, c);
        c->again = clock_now() + AGAIN;
        return did;
    }
    if (!load_acquire(&s->full) && !load_acquire(&s->keeper_ends))
        task_sleep(clock_now() + MIN(2 * (clock_now() - before), PACE_MOST));
    return true;
}

/* Moves that nobody has let go of by now are over with the process; the next start finds both, and does the rest. */
void compact_end(struct spool *s)
{
    struct compaction *c = s->compaction;

    if (!c)
        return;
    settle_moves(s, c);
    give_up(s, c);
    spool_port_close(c->port);
    while (c->over) {
        struct spool_move *m = c->over;
        c->over = m->next;
        mem_free(m);
    }
    mem_free(c);
    s->compaction = NULL;
}
