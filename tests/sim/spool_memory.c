/* A spool in memory, for sessions alone: it stands in until src/spool/ is there. */
#include "sim/sim.h"
#include "spool/spool.h"

#include <stdlib.h>

struct spool { struct stored { struct message *m; arena *a; } *stored; uint32_t n, cap; struct piece { char *p; uint32_t n; } *piece; uint32_t npiece; };
struct spool_port { struct spool *s; };

err spool_open(const struct spool_setup *setup, struct spool **ret)
{
    (void)setup;
    *ret = mem_new(sizeof **ret);
    return OK;
}

void spool_close(struct spool *s)
{
    for (uint32_t i = 0; i < s->n; i++)
        arena_free(s->stored[i].a);
    for (uint32_t i = 0; i < s->npiece; i++)
        mem_free(s->piece[i].p);
    mem_free(s->stored);
    mem_free(s->piece);
    mem_free(s);
}

struct spool_port *spool_port_open(struct spool *s)
{
    struct spool_port *p = mem_new(sizeof *p);
    p->s = s;
    return p;
}

void spool_port_close(struct spool_port *p) { mem_free(p); }

err spool_room(struct spool *s)
{
    (void)s;
    return sim_disk()->full ? fail(E_NOSPACE, "the disk is full") : OK;
}

struct spool_slab *spool_slab_new(size_t cap)
{
    struct spool_slab *b = mem_new(sizeof *b);
    b->base = mem_new(cap + 1);
    b->body = (struct buf){ .p = b->base, .cap = cap + 1 };
    b->cap = cap;
    b->shares = 1;
    return b;
}

void spool_slab_free(struct spool_slab *b)
{
    if (b && --b->shares == 0) {
        mem_free(b->base);
        mem_free(b);
    }
}

static struct spool_piece piece_put(struct spool *s, str octets)
{
    s->piece = mem_grow(s->piece, (s->npiece + 1) * sizeof *s->piece);
    struct piece *p = &s->piece[s->npiece++];
    *p = (struct piece){ mem_new(octets.n + 1), (uint32_t)octets.n };
    if (octets.n)
        memcpy(p->p, octets.p, octets.n);
    return (struct spool_piece){ { 2, s->npiece - 1 }, p->n };
}

err spool_accept(struct spool_port *p, arena *a, struct message *m, struct spool_slab *slab)
{
    struct spool *s = p->s;

    task_sleep(clock_now() + MILLISECOND);
    if (sim_disk()->full)
        return fail(E_NOSPACE, "full");
    if (sim_disk()->broken)
        return fail(E_IO, "broken");
    if (slab) {
        m->piece = NEW(a, struct spool_piece);
        *m->piece = piece_put(s, buf_str(&slab->body));
        m->npiece = 1;
    }
    m->at = (struct spool_ref){ 1, s->n };
    s->stored = mem_grow(s->stored, (s->n + 1) * sizeof *s->stored);
    struct stored *st = &s->stored[s->n++];
    st->a = arena_new();
    st->m = NEW(st->a, struct message);
    *st->m = *m;
    st->m->env.sender = str_dup(st->a, m->env.sender);
    st->m->env.envid = str_dup(st->a, m->env.envid);
    st->m->env.rcpt = NEW_ARRAY(st->a, struct rcpt, m->env.nrcpt);
    for (size_t i = 0; i < m->env.nrcpt; i++) {
        struct rcpt r = m->env.rcpt[i];
        st->m->env.rcpt[i] = (struct rcpt){ str_dup(st->a, r.to), str_dup(st->a, r.given), str_dup(st->a, r.orcpt), r.notify };
    }
    st->m->edit = NEW_ARRAY(st->a, struct edit, m->nedit);
    for (size_t i = 0; i < m->nedit; i++) {
        st->m->edit[i] = m->edit[i];
        st->m->edit[i].text = str_dup(st->a, m->edit[i].text);
    }
    st->m->piece = NEW_ARRAY(st->a, struct spool_piece, m->npiece);
    for (size_t i = 0; i < m->npiece; i++)
        st->m->piece[i] = m->piece[i];
    return OK;
}

err spool_chunk(struct spool_port *p, ulid id, str octets, struct spool_piece *ret)
{
    (void)id;
    task_sleep(clock_now() + MILLISECOND);
    if (sim_disk()->full)
        return fail(E_NOSPACE, "full");
    if (sim_disk()->broken)
        return fail(E_IO, "broken");
    *ret = piece_put(p->s, octets);
    return OK;
}

void spool_abort(struct spool_port *p, ulid id, const struct spool_piece *piece, size_t n) { (void)p, (void)id, (void)piece, (void)n; }

void spool_outcome(struct spool_port *p, ulid id, struct spool_ref home, const struct rcpt_state *state, size_t n, bool end)
{
    (void)p, (void)id, (void)home, (void)state, (void)n, (void)end;
}

err spool_read(struct spool_port *p, struct spool_ref at, arena *a, struct message **ret)
{
    (void)a;
    *ret = p->s->stored[at.offset].m;
    return OK;
}

err spool_read_piece(struct spool_port *p, struct spool_piece piece, arena *a, str *ret)
{
    struct piece *q = &p->s->piece[piece.at.offset];
    *ret = str_dup(a, str_of(q->p, q->n));
    return OK;
}
