/* Answers, kept for all threads; and questions, each under way once however many wait for it. */
#include "dns/inside.h"

#define KEEP_LEAST (5 * SECOND)         /* also for what says 0: one message asks several times */
#define KEEP_MOST DAY
#define KEEP_NONE_MOST (15 * MINUTE)    /* that there is nothing: who makes a record wants it seen (RFC 2308 5 would allow hours) */
#define KEEP_NONE (30 * SECOND)         /* the same without an SOA */
#define KEEP_FAILED (5 * SECOND)        /* RFC 9520 3.2 */
#define QUESTIONS_MOST 1000             /* under way */
#define LOST_AFTER (3 * MINUTE)         /* under way for so long: nobody waits for that answer any more */
#define ANSWER_MOST ((size_t)256 * 1024) /* octets: a packet has 64 KiB, names in it may be compressed */
#define ENTRY_LEAST 256                 /* what an entry costs besides its octets */

struct entry {
    struct resolver *r;
    struct dns_question q;
    bool under_way, lost;               /* lost: another has taken its place in the map */
    when since;                         /* it is under way */
    struct link lru, waiting;           /* of askers */
    struct answer *answer;              /* NULL: none yet */
    str key;                            /* name, NUL, type */
    char text[];
};

/* Lives on the heap: its task may give up while the answer is on its way to the task's thread. */
struct asker {
    struct post post;
    struct resolver *r;                 /* NULL: that is closed */
    struct link link;                   /* in entry->waiting, then in r->told */
    struct thread *home;
    when asked, limit;
    char name[DNS_NAME_MAX + 1];
    uint16_t type;
    const struct answer *answer;
    struct waiters done;
    bool refused, told, abandoned;
};

/* ---- answers ---- */

static void drop(const struct answer *answer)
{
    struct answer *mine = (struct answer *)(uintptr_t)answer;

    if (mine && --mine->holders == 0)
        mem_free(mine);
}

void answer_drop(struct resolver *r, const struct answer *answer)
{
    pthread_mutex_lock(&r->lock);
    drop(answer);
    pthread_mutex_unlock(&r->lock);
}

static err meaning(const struct dns_reply *reply)
{
    if (reply->e != OK)
        return E_AGAIN;
    if (reply->bogus)
        return E_BOGUS;
    if (reply->rcode == RCODE_NXDOMAIN)
        return E_NONAME;
    return reply->rcode == RCODE_OK ? OK : E_AGAIN;
}

static when keep_for(const struct dns_reply *reply, err e)
{
    when ttl = (when)reply->ttl * SECOND;

    if (e == E_AGAIN || e == E_BOGUS)
        return KEEP_FAILED;
    if (e == E_NONAME || reply->n == 0)
        return ttl ? MIN(MAX(ttl, KEEP_LEAST), KEEP_NONE_MOST) : KEEP_NONE;
    return MIN(MAX(ttl, KEEP_LEAST), KEEP_MOST);
}

static str copy(char **at, str s)
{
    char *p = *at;

    if (s.n)
        memcpy(p, s.p, s.n);
    *at += s.n;
    return str_of(p, s.n);
}

static struct answer *answer_new(const struct dns_reply *reply, str asked)
{
    struct dns_reply cut = { .e = E_LIMIT, .why = S("the answer is too large") };
    str name = reply->name.n && name_plain(reply->name) ? reply->name : asked;
    size_t octets = 0;

    for (size_t i = 0; i < reply->n; i++)
        octets += reply->rdata[i].n + sizeof(str);
    if (octets > ANSWER_MOST)
        reply = &cut;
    err e = meaning(reply);
    size_t n = e == OK ? reply->n : 0;
    str why = str_head(reply->why, 200);
    if (e != OK)
        octets = 0;
    struct answer *answer = mem_new(sizeof *answer + octets + name.n + why.n);
    char *at = (char *)(answer + 1) + n * sizeof(str);
    *answer = (struct answer){ .holders = 1, .e = e, .secure = reply->secure && (e == OK || e == E_NONAME),
                               .expires = clock_now() + keep_for(reply, e), .rdata = (str *)(answer + 1), .n = n,
                               .size = sizeof *answer + octets + name.n + why.n };
    for (size_t i = 0; i < n; i++)
        answer->rdata[i] = copy(&at, reply->rdata[i]);
    answer->name = copy(&at, name);
    answer->why = copy(&at, why);
    return answer;
}

/* ---- entries ---- */

static size_t entry_size(const struct entry *e) { return ENTRY_LEAST + e->key.n + (e->answer ? e->answer->size : 0); }

static void entry_free(struct resolver *r, struct entry *e)
{
    r->counts.octets -= entry_size(e);
    r->counts.entries--;
    list_del(&e->lru);
    if (!e->lost)
        map_del(&r->entries, e->key);
    drop(e->answer);
    mem_free(e);
}

static void evict(struct resolver *r, size_t most)
{
    while (r->counts.octets > most && !list_empty(&r->lru))
        entry_free(r, AROUND(r->lru.next, struct entry, lru));
}

static struct entry *entry_new(struct resolver *r, str key)
{
    struct entry *e = mem_new(sizeof *e + key.n);

    e->r = r;
    memcpy(e->text, key.p, key.n);
    e->key = str_of(e->text, key.n);
    e->q.name = e->text;
    e->q.type = (uint16_t)((uint8_t)key.p[key.n - 2] << 8 | (uint8_t)key.p[key.n - 1]);
    list_init(&e->waiting);
    map_put(&r->entries, e->key, e);
    r->counts.entries++;
    r->counts.octets += entry_size(e);
    return e;
}

static void entry_ask(struct resolver *r, struct entry *e)
{
    list_del(&e->lru); /* what is under way is not evicted */
    e->under_way = true;
    e->since = clock_now();
    r->counts.under_way++;
    e->q.generation = r->generation;
    r->source->ask(r->ctx, &e->q);
}

void cache_clear(struct resolver *r) { evict(r, 0); }

/* ---- asking ---- */

struct asker *resolver_ask(struct resolver *r, str name, uint16_t type)
{
    struct asker *k = mem_new(sizeof *k);
    char text[DNS_NAME_MAX + 3];

    must(name.n <= DNS_NAME_MAX && task_running());
    memcpy(text, name.p, name.n);
    text[name.n] = 0;
    text[name.n + 1] = (char)(type >> 8);
    text[name.n + 2] = (char)type;
    *k = (struct asker){ .r = r, .home = thread_self(), .asked = clock_now(), .type = type };
    memcpy(k->name, name.p, name.n);
    str key = str_of(text, name.n + 3);

    pthread_mutex_lock(&r->lock);
    struct entry *e = map_get(&r->entries, key);
    if (e && e->under_way && k->asked - e->since > LOST_AFTER) {
        map_del(&r->entries, e->key);
        e->lost = true;
        e = NULL;
    }
    bool known = e && !e->under_way && e->answer && e->answer->expires > k->asked;
    k->limit = k->asked + r->setup->s.timeout;
    r->counts.questions++;
    if (known) {
        r->counts.known++;
        list_del(&e->lru);
        list_add(&r->lru, &e->lru);
        e->answer->holders++;
        k->answer = e->answer;
        k->told = true;
    } else if (!(e && e->under_way) && r->counts.under_way >= QUESTIONS_MOST) {
        k->refused = true;
    } else {
        if (!e)
            e = entry_new(r, key);
        if (e->under_way)
            r->counts.joined++;
        else
            entry_ask(r, e);
        list_add(&e->waiting, &k->link);
        r->counts.waiting++;
    }
    pthread_mutex_unlock(&r->lock);
    return k;
}

/* On the asker's own thread. */
static void asker_told(struct post *p)
{
    struct asker *k = AROUND(p, struct asker, post);

    if (k->r) {
        pthread_mutex_lock(&k->r->lock);
        list_del(&k->link);
        if (k->abandoned)
            drop(k->answer);
        pthread_mutex_unlock(&k->r->lock);
    }
    k->told = true;
    if (k->abandoned)
        mem_free(k);
    else
        waiters_wake_all(&k->done);
}

void dns_answered(struct dns_question *q, const struct dns_reply *reply)
{
    struct entry *e = AROUND(q, struct entry, q);
    struct resolver *r = e->r;

    pthread_mutex_lock(&r->lock);
    must(e->under_way);
    if (q->generation != r->generation && !r->closing) { /* the settings changed meanwhile: it is asked anew, by those */
        q->generation = r->generation;
        r->source->ask(r->ctx, q);
        pthread_mutex_unlock(&r->lock);
        return;
    }
    r->counts.octets -= entry_size(e);
    drop(e->answer);
    e->answer = answer_new(reply, str_z(q->name));
    r->counts.octets += entry_size(e);
    r->counts.failed += e->answer->e == E_AGAIN || e->answer->e == E_BOGUS;
    r->counts.under_way--;
    e->under_way = false;
    list_add(&r->lru, &e->lru);
    while (!list_empty(&e->waiting)) {
        struct asker *k = AROUND(e->waiting.next, struct asker, link);
        list_del(&k->link);
        list_add(&r->told, &k->link);
        r->counts.waiting--;
        e->answer->holders++;
        k->answer = e->answer;
        k->post.run = asker_told;
        thread_post(k->home, &k->post);
    }
    if (e->lost)
        entry_free(r, e);
    evict(r, r->setup->s.cache / OUR_SHARE);
    pthread_mutex_unlock(&r->lock);
}

/* ---- waiting ---- */

/* Its task goes on without the answer. */
static void abandon(struct asker *k)
{
    struct resolver *r = k->r;

    pthread_mutex_lock(&r->lock);
    bool on_its_way = k->answer != NULL;
    k->abandoned = on_its_way;
    if (!on_its_way) {
        list_del(&k->link);
        r->counts.waiting--;
    }
    pthread_mutex_unlock(&r->lock);
    if (!on_its_way)
        mem_free(k);
}

static err asker_end(struct asker *k, const struct answer **ret)
{
    const struct answer *answer = k->answer;
    err e = answer->e;

    if (e == OK)
        *ret = answer;
    else if (e == E_NONAME)
        fail(e, "there is no name %s", k->name);
    else
        fail(e, "%s of %s: %.*s", dns_type_name(k->type), k->name, STR(answer->why));
    if (e != OK)
        answer_drop(k->r, answer);
    mem_free(k);
    return e;
}

err asker_wait(struct asker *k, when deadline, const struct answer **ret)
{
    err e = OK;

    if (k->refused) {
        fail(E_AGAIN, "%s of %s: more than %d questions are under way", dns_type_name(k->type), k->name, QUESTIONS_MOST);
        mem_free(k);
        return E_AGAIN;
    }
    while (!k->told && e == OK)
        e = waiters_wait(&k->done, MIN(deadline, k->limit));
    if (k->told)
        return asker_end(k, ret);
    if (e == E_TIMEOUT && deadline > k->limit && clock_now() >= k->limit)
        e = fail(E_AGAIN, "%s of %s: no answer within %lld s", dns_type_name(k->type), k->name, (long long)((k->limit - k->asked) / SECOND));
    else
        e = during(e, "%s of %s", dns_type_name(k->type), k->name);
    abandon(k);
    return e;
}

/* ---- the end ---- */

void cache_end(struct resolver *r)
{
    cache_clear(r);
    must(r->counts.entries == 0 && r->counts.waiting == 0);
    /* Given up while the answer was on its way. Threads that ended never heard it; to ours it still comes. */
    while (!list_empty(&r->told)) {
        struct asker *k = AROUND(r->told.next, struct asker, link);
        list_del(&k->link);
        must(k->abandoned);
        drop(k->answer);
        k->answer = NULL;
        k->r = NULL;
        if (k->home != thread_self())
            mem_free(k);
    }
    map_free(&r->entries);
}
