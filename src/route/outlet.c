/* Sources: by which address mail leaves, and under which name. In the code a source of mail is an *outlet*, since table/ has sources too. */
#include "route/inside.h"

#include <pthread.h>

/* ---- state ---- */

#define LOOK_AGAIN (30 * SECOND)        /* after an address that this machine has not */

static pthread_mutex_t states_lock = PTHREAD_MUTEX_INITIALIZER;
static struct map states;               /* by name; under the lock */

static struct outlet_state *state_of(str name)
{
    pthread_mutex_lock(&states_lock);
    struct outlet_state *s = map_get(&states, name);
    if (!s) {
        s = mem_new(sizeof *s);
        s->name = mem_new(name.n + 1);
        memcpy(s->name, name.p, name.n);
        map_put(&states, str_z(s->name), s);
    }
    pthread_mutex_unlock(&states_lock);
    return s;
}

const struct addr *outlet_addr(const struct outlet *o, const struct addr *to, bool *cannot)
{
    const struct addr *from = !o || to->sa.sa_family == AF_UNIX ? NULL : to->sa.sa_family == AF_INET6 ? &o->v6 : &o->v4;

    *cannot = from && from->n == 0;
    return *cannot ? NULL : from;
}

void outlet_failed(const struct outlet *o, when now)
{
    atomic_store_explicit(&o->state->out_until, now + LOOK_AGAIN, memory_order_relaxed);
}

/* ---- which ---- */

static bool works(const struct outlets *o, size_t i, when now)
{
    return atomic_load_explicit(&o->pool->use[i].outlet->state->out_until, memory_order_relaxed) <= now;
}

/* Of those that are left, by their weights: where the next in turn is none of them the others have its share as they would have all. */
static size_t by_lot(const struct outlets *o, const bool *left)
{
    uint64_t all = 0, at;

    for (size_t i = 0; i < o->pool->n; i++)
        all += left[i] ? o->pool->use[i].weight : 0;
    if (!all)
        return OUTLETS_NONE;
    at = random_below(all);
    for (size_t i = 0; i < o->pool->n; i++) {
        if (left[i] && at < o->pool->use[i].weight)
            return i;
        at -= left[i] ? o->pool->use[i].weight : 0;
    }
    return OUTLETS_NONE;
}

size_t outlets_pick(struct outlets *o, uint64_t avoid, when now)
{
    bool left[POOL_MOST];
    size_t i = OUTLETS_NONE;

    if (o->nturn) {
        i = o->turn[atomic_fetch_add_explicit(&o->at, 1, memory_order_relaxed) % o->nturn];
        if (!(avoid >> i & 1) && works(o, i, now))
            return i;
    }
    /* First those that work, then anyone: mail waits for it with its reason. */
    for (int any = 0; any < 2; any++)
        for (int fallback = 0; fallback < 2; fallback++) {
            for (size_t k = 0; k < o->pool->n; k++)
                left[k] = !(avoid >> k & 1) && o->pool->use[k].fallback == (bool)fallback && (any || works(o, k, now));
            if ((i = by_lot(o, left)) != OUTLETS_NONE)
                return i;
        }
    return OUTLETS_NONE;
}

size_t outlets_find(const struct outlets *o, const struct backend *b)
{
    for (size_t i = 0; b && b->outlet && i < o->pool->n; i++)
        if (o->by[i] == b)
            return i;
    return OUTLETS_NONE;
}

/* ---- source ---- */

static bool name_valid(str s)
{
    for (size_t i = 0; i < s.n; i++)
        if (!ascii_alpha(s.p[i]) && !ascii_digit(s.p[i]) && s.p[i] != '-' && s.p[i] != '_' && s.p[i] != '.')
            return false;
    return s.n && s.n <= OUTLET_NAME;
}

static bool take_address(struct binder *b, const struct token *t, struct outlet *o)
{
    const struct token *word = t->list && t->nitem == 1 ? &t->item[0] : t; /* [2001:db8::11] looks like a list of one */
    struct cidr c;
    bool brackets = !t->list && word->text.n > 2 && word->text.p[0] == '[' && word->text.p[word->text.n - 1] == ']';
    str text = brackets ? str_of(word->text.p + 1, word->text.n - 2) : word->text;

    if ((t->list && t->nitem != 1) || cidr_parse(text, &c) != OK || c.base.sa.sa_family == AF_UNIX || str_findc(text, '/') != STR_NONE) {
        conf_error(b, &t->at, CONF_E_BAD_ADDRESS, "\"%.*s\" is no IP address of this machine, as in: source a1 192.0.2.11 [2001:db8::11] helo a1.example.com", STR(text));
        return false;
    }
    struct addr *to = c.base.sa.sa_family == AF_INET6 ? &o->v6 : &o->v4;
    if (to->n) {
        conf_error(b, &t->at, CONF_E_TWICE, "a source has one IPv4 and one IPv6 address at most: make two of it, and a pool");
        return false;
    }
    *to = c.base;
    addr_set_port(to, 0);
    return true;
}

bool outlet_has(const struct addr *a)
{
    int fd = machine->sock_open(a->sa.sa_family, SOCK_STREAM);

    if (fd < 0)
        return false;
    bool has = machine->sock_bind(fd, &a->sa, a->n) == 0;
    machine->close(fd);
    return has;
}

static void check_address(struct binder *b, const struct outlet *o, const struct addr *a)
{
    char text[ADDR_TEXT];

    if (a->n && !outlet_has(a))
        conf_warn(b, &o->at, CONF_E_OUTLET, "source \"%.*s\": this machine has no address %.*s; mail that leaves by it waits until it has, or leaves by others of its pool",
                  STR(o->name), STR(addr_print_ip(a, text)));
}

void take_outlet(struct binder *b, const struct node *node, void *into)
{
    struct routes *r = into;
    struct outlet *o = NEW(b->a, struct outlet);
    size_t i = 1;

    if (!conf_args(b, node, 2, 5))
        return;
    o->name = node->arg[0].text;
    o->at = node->name.at;
    if (!name_valid(o->name)) {
        conf_error(b, &node->arg[0].at, CONF_E_OUTLET, "a source's name has letters, digits, - _ and . in it, %d at most", OUTLET_NAME);
        return;
    }
    for (size_t k = 0; k < r->noutlet; k++)
        if (str_eq(r->outlet[k]->name, o->name)) {
            conf_error(b, &node->arg[0].at, CONF_E_DUPLICATE, "source \"%.*s\" is defined twice", STR(o->name));
            return;
        }
    while (i < node->narg && !str_eq(node->arg[i].text, S("helo")))
        if (!take_address(b, &node->arg[i++], o))
            return;
    if (i < node->narg) {
        static const char *const words[] = { "helo", NULL };
        const struct token *value[1] = { NULL };
        if (!conf_keywords(b, node, i, words, value))
            return;
        if (value[0] && !domain_valid(value[0]->text)) {
            conf_error(b, &value[0]->at, CONF_E_HOSTNAME, "\"%.*s\" is no host name to say to EHLO", STR(value[0]->text));
            return;
        }
        o->helo = value[0] ? value[0]->text : S("");
    }
    if (!o->v4.n && !o->v6.n) {
        conf_error(b, &node->name.at, CONF_E_BAD_ADDRESS, "source \"%.*s\" has no address", STR(o->name));
        return;
    }
    if (node->block && !conf_bind(b, outlet_block, node, o))
        return;
    o->limit = limit_of(b->a, "source", o->name, o->rate, o->connections);
    o->state = state_of(o->name);
    check_address(b, o, &o->v4);
    check_address(b, o, &o->v6);
    APPEND(b->a, r->outlet, r->noutlet, o);
}

const struct setting outlet_block[] = {
    { .name = "rate", .type = CONF_RATE, .offset = offsetof(struct outlet, rate), .preset = "0/min",
      .help = "Messages (not recipients) that leave by this source, to wherever; evenly, at most a second's worth at once. What is more waits, without an attempt. 0/min: no limit." },
    { .name = "connections", .type = CONF_INT, .offset = offsetof(struct outlet, connections), .preset = "0", .most = 1e6,
      .help = "Connections by this source at a time, to wherever. 0: no limit." },
    { .name = NULL },
};

/* ---- pool ---- */

void *make_pool(struct binder *b, const struct node *node, void *into)
{
    struct routes *r = into;
    struct outlet_pool *p = NEW(b->a, struct outlet_pool);

    if (!conf_args(b, node, 1, 1))
        return NULL;
    p->name = node->arg[0].text;
    p->at = node->name.at;
    for (size_t i = 0; i < r->npool; i++)
        if (str_eq(r->pool[i]->name, p->name)) {
            conf_error(b, &node->arg[0].at, CONF_E_DUPLICATE, "pool \"%.*s\" is defined twice", STR(p->name));
            return NULL;
        }
    APPEND(b->a, r->pool, r->npool, p);
    return p;
}

/* use a1 weight 2; use a3 fallback */
static void take_use(struct binder *b, const struct node *node, void *into)
{
    static const char *const words[] = { "weight", NULL };
    struct outlet_pool *p = into;
    struct outlet_use u = { .weight = 1 };
    const struct token *value[1] = { NULL };
    struct node rest = *node;
    uint64_t weight = 1;

    if (!conf_args(b, node, 1, 4))
        return;
    if (node->narg > 1 && str_eq(node->arg[node->narg - 1].text, S("fallback"))) {
        u.fallback = true;
        rest.narg--;
    }
    if (!conf_keywords(b, &rest, 1, words, value) || (value[0] && !conf_int(b, value[0], 1, 100, &weight)))
        return;
    u.name = &node->arg[0];
    u.weight = (unsigned)weight;
    for (size_t i = 0; i < p->n; i++)
        if (str_eq(p->use[i].name->text, u.name->text)) {
            conf_error(b, &u.name->at, CONF_E_DUPLICATE, "pool \"%.*s\" has source \"%.*s\" twice", STR(p->name), STR(u.name->text));
            return;
        }
    APPEND(b->a, p->use, p->n, u);
}

void done_pool(struct binder *b, const struct node *node, void *pool)
{
    struct outlet_pool *p = pool;

    if (p->n == 0 || p->n > POOL_MOST)
        conf_error(b, &node->name.at, CONF_E_OUTLET, "pool \"%.*s\" has no \"use SOURCE\", or more than %d", STR(p->name), POOL_MOST);
}

const struct setting pool_block[] = {
    { .name = "use", .type = CONF_OWN, .take = take_use, .repeats = true, .form = "SOURCE [weight N] [fallback]",
      .help = "A source of this pool. Weights, 1 to 100 and 1 unless given, say how much of the mail each gets. A fallback gets some only while all others are out: "
              "they are no addresses of this machine, or nothing can be reached from them." },
    { .name = NULL },
};

/* ---- "source NAME", "pool NAME" ---- */

void take_leave(struct binder *b, const struct node *node, struct leave *into)
{
    if (!conf_args(b, node, 1, 1))
        return;
    if (into->name)
        conf_error(b, &node->name.at, CONF_E_TWICE, "either a source or a pool, and one of them");
    *into = (struct leave){ &node->arg[0], str_eq(node->name.text, S("pool")) };
}

static bool per_source(struct binder *b, const struct node *node, const char *what, bool *ret)
{
    *ret = node->narg == 3 && str_eq(node->arg[1].text, S("per")) && str_eq(node->arg[2].text, S("source"));
    if (node->narg == 1 || *ret)
        return true;
    conf_error(b, &node->name.at, CONF_E_KEYWORD, "\"%.*s\" is followed by %s and, if you like, \"per source\"", STR(node->name.text), what);
    return false;
}

void take_rate(struct binder *b, const struct node *node, void *backend)
{
    struct backend *be = backend;

    if (per_source(b, node, "a rate", &be->rate_per_source))
        conf_rate(b, &node->arg[0], &be->rate);
}

void take_connections(struct binder *b, const struct node *node, void *backend)
{
    struct backend *be = backend;

    if (per_source(b, node, "a number", &be->connections_per_source))
        conf_int(b, &node->arg[0], 1, 1000000, &be->connections);
}

static void unknown(struct binder *b, const struct token *name, const char *kind, str best)
{
    if (best.n)
        conf_error(b, &name->at, CONF_E_OUTLET, "there is no %s \"%.*s\"; did you mean \"%.*s\"?", kind, STR(name->text), STR(best));
    else
        conf_error(b, &name->at, CONF_E_OUTLET, "there is no %s \"%.*s\"", kind, STR(name->text));
}

static void nearer(str name, str wanted, size_t *distance, str *best)
{
    size_t d = str_distance(name, wanted);

    if (d < *distance) {
        *distance = d;
        *best = name;
    }
}

static struct outlet *find_outlet(struct binder *b, const struct routes *r, const struct token *name)
{
    size_t distance = 3;
    str best = { 0 };

    for (size_t i = 0; i < r->noutlet; i++) {
        if (str_eq(r->outlet[i]->name, name->text))
            return r->outlet[i];
        nearer(r->outlet[i]->name, name->text, &distance, &best);
    }
    unknown(b, name, "source", best);
    return NULL;
}

/* A source alone is a pool of one. */
static struct outlet_pool *find_pool(struct binder *b, struct routes *r, const struct leave *l)
{
    size_t distance = 3;
    str best = { 0 };

    if (!l->pool) {
        struct outlet *o = find_outlet(b, r, l->name);
        struct outlet_pool *p = o ? NEW(b->a, struct outlet_pool) : NULL;
        if (p) {
            *p = (struct outlet_pool){ .use = NEW(b->a, struct outlet_use), .n = 1, .at = l->name->at };
            p->use[0] = (struct outlet_use){ .name = l->name, .outlet = o, .weight = 1 };
        }
        return p;
    }
    for (size_t i = 0; i < r->npool; i++) {
        if (str_eq(r->pool[i]->name, l->name->text))
            return r->pool[i];
        nearer(r->pool[i]->name, l->name->text, &distance, &best);
    }
    unknown(b, l->name, "pool", best);
    return NULL;
}

/* ---- backends by sources ---- */

/* Could any of its servers be reached from there? What is known only by name is asked later. */
static bool reaches(const struct outlet *o, const struct backend *b)
{
    bool cannot;

    for (size_t i = 0; i < b->nserver; i++) {
        if (b->server[i].addr.n == 0)
            return true;
        outlet_addr(o, &b->server[i].addr, &cannot);
        if (!cannot)
            return true;
    }
    return b->nserver == 0;
}

static struct backend *by_source(struct binder *b, struct routes *r, struct backend *of, struct outlet *o)
{
    str name = str_printf(b->a, "%.*s@%.*s", STR(of->name), STR(o->name));

    for (size_t i = 0; i < r->nbackend; i++)
        if (str_eq(r->backend[i]->name, name)) {
            r->backend[i]->among = NULL; /* in more than one pool */
            return r->backend[i];
        }
    struct backend *v = NEW(b->a, struct backend);
    *v = *of;
    v->name = name;
    v->base = of;
    v->outlet = o;
    v->outlets = NULL;
    v->server = NEW_ARRAY(b->a, struct next_hop, of->nserver + 1);
    for (size_t i = 0; i < of->nserver; i++) {
        v->server[i] = of->server[i];
        v->server[i].state = server_state(name, of->server[i].host, of->server[i].port);
    }
    APPEND(b->a, r->backend, r->nbackend, v);
    return v;
}

/* Smooth weighted round robin, worked out beforehand: each in its turn gains its weight, the furthest goes and pays the sum. */
static void make_turns(struct binder *b, struct outlets *o)
{
    int64_t gained[POOL_MOST] = { 0 }, all = 0;

    for (size_t i = 0; i < o->pool->n; i++)
        all += o->pool->use[i].fallback ? 0 : o->pool->use[i].weight;
    o->turn = NEW_ARRAY(b->a, uint8_t, (size_t)all + 1);
    for (; o->nturn < all; o->nturn++) {
        size_t best = OUTLETS_NONE;
        for (size_t i = 0; i < o->pool->n; i++) {
            if (o->pool->use[i].fallback)
                continue;
            gained[i] += o->pool->use[i].weight;
            if (best == OUTLETS_NONE || gained[i] > gained[best])
                best = i;
        }
        gained[best] -= all;
        o->turn[o->nturn] = (uint8_t)best;
    }
}

static struct outlets *outlets_of(struct binder *b, struct routes *r, struct backend *of, const struct leave *l)
{
    struct outlet_pool *p = find_pool(b, r, l);

    if (!p || !of)
        return NULL;
    if (of->discard) {
        conf_error(b, &l->name->at, CONF_E_OUTLET, "what is thrown away leaves by no source");
        return NULL;
    }
    for (size_t i = 0; i < r->noutlets; i++)
        if (r->outlets[i]->of == of && (r->outlets[i]->pool == p || (!l->pool && !r->outlets[i]->pool->name.n && r->outlets[i]->pool->use[0].outlet == p->use[0].outlet)))
            return r->outlets[i];
    /* Those that can never reach it take no part. */
    struct outlet_pool *some = NEW(b->a, struct outlet_pool);
    *some = (struct outlet_pool){ .name = p->name, .use = NEW_ARRAY(b->a, struct outlet_use, p->n + 1), .at = p->at };
    for (size_t i = 0; i < p->n; i++)
        if (p->use[i].outlet && reaches(p->use[i].outlet, of))
            some->use[some->n++] = p->use[i];
        else if (p->use[i].outlet)
            conf_warn(b, &l->name->at, CONF_E_OUTLET, "source \"%.*s\" has no %s address, and all servers of backend \"%.*s\" are of that family: it is not used there",
                      STR(p->use[i].outlet->name), p->use[i].outlet->v4.n ? "IPv6" : "IPv4", STR(of->name));
    if (!some->n) {
        conf_error(b, &l->name->at, CONF_E_OUTLET, "no source of \"%.*s\" has an address from which backend \"%.*s\" can be reached", STR(l->name->text), STR(of->name));
        return NULL;
    }
    struct outlets *o = NEW(b->a, struct outlets);
    o->of = of;
    o->pool = some->n == p->n ? p : some;
    for (size_t i = 0; i < some->n; i++) {
        size_t had = r->nbackend;
        o->by[i] = by_source(b, r, of, o->pool->use[i].outlet);
        if (r->nbackend > had)
            o->by[i]->among = o;
    }
    make_turns(b, o);
    APPEND(b->a, r->outlets, r->noutlets, o);
    return o;
}

/* Its own, then its source's. In this order they are waited for: the one that fewer lanes share comes first. */
static void backend_limits(struct binder *b, struct backend *be)
{
    const struct outlet *o = be->outlet;
    str own = backend_base_name(be);
    bool both = !be->rate.n || !be->connections || be->rate_per_source == be->connections_per_source || !o;
    struct limit l = limit_of(b->a, "backend", o && (be->rate.n ? be->rate_per_source : be->connections_per_source) ? be->name : own, be->rate, both ? be->connections : 0);

    be->nlimit = 0;
    if (l.state)
        be->limit[be->nlimit++] = l;
    if (!both) {
        l = limit_of(b->a, "backend", be->connections_per_source ? be->name : own, (struct rate){ 0 }, be->connections);
        be->limit[be->nlimit++] = l;
    }
    if (o && o->limit.state)
        be->limit[be->nlimit++] = o->limit;
    must(be->nlimit <= COUNT(be->limit));
}

void outlets_finish(struct binder *b, struct routes *r)
{
    size_t configured = r->nbackend;

    for (size_t i = 0; i < r->npool; i++)
        for (size_t k = 0; k < r->pool[i]->n; k++)
            r->pool[i]->use[k].outlet = find_outlet(b, r, r->pool[i]->use[k].name);
    for (size_t i = 0; i < configured; i++)
        if (r->backend[i]->leave.name)
            r->backend[i]->outlets = outlets_of(b, r, r->backend[i], &r->backend[i]->leave);
    if (r->fallback_leave.name)
        r->fallback_outlets = outlets_of(b, r, r->fallback, &r->fallback_leave);
    for (size_t i = 0; i < r->nrule; i++)
        if (r->rule[i]->leave.name)
            r->rule[i]->outlets = outlets_of(b, r, r->rule[i]->backend, &r->rule[i]->leave);
    for (size_t i = 0; i < r->nbackend; i++)
        backend_limits(b, r->backend[i]);
    for (size_t i = 0; i < r->nnetwork; i++)
        r->network[i]->limit = limit_of(b->a, "network", r->network[i]->name, r->network[i]->rate, r->network[i]->connections);
}
