/* Which stream a message is of, and what is configured of each. */
#include "queue/inside.h"

#include <pthread.h>

_Static_assert(STREAMS_MOST < STATS_STREAMS && STREAMS_MOST < LABEL_WAYS, "each is counted apart");

/* ---- numbers: a name keeps its own over reloads, so that tickets need not be told ---- */

static struct { pthread_mutex_t lock; str name[STREAMS_MOST + 1]; } known = { .lock = PTHREAD_MUTEX_INITIALIZER };

str stream_name(unsigned number)
{
    str name = { 0 };

    if (number == 0 || number > STREAMS_MOST)
        return name;
    pthread_mutex_lock(&known.lock);
    name = known.name[number];
    pthread_mutex_unlock(&known.lock);
    return name; /* never freed: a reader may have it for ever */
}

/* Its own, a free one, or that of a name that is not configured any more: what still waits of that counts as this stream's. */
static uint8_t number_of(const struct streams *s, str name)
{
    unsigned n = 0, unused = 0;

    pthread_mutex_lock(&known.lock);
    for (unsigned i = STREAMS_MOST; i && !n; i--) {
        if (str_eq(known.name[i], name))
            n = i;
        if (known.name[i].n == 0 || !stream_named(s, known.name[i]))
            unused = !unused || known.name[i].n == 0 ? i : unused;
    }
    must(n || unused); /* no more are configured than there are numbers */
    if (!n) {
        char *copy = mem_new(name.n);
        memcpy(copy, name.p, name.n);
        known.name[n = unused] = str_of(copy, name.n);
    }
    pthread_mutex_unlock(&known.lock);
    return (uint8_t)n;
}

const struct mail_stream *stream_named(const struct streams *s, str name)
{
    for (size_t i = 0; s && i < s->n; i++)
        if (str_eq(s->p[i]->name, name))
            return s->p[i];
    return NULL;
}

const struct mail_stream *stream_numbered(const struct streams *s, unsigned number)
{
    for (size_t i = 0; s && number && i < s->n; i++)
        if (s->p[i]->number == number)
            return s->p[i];
    return NULL;
}

const struct retry *stream_retry(const struct streams *s, unsigned number, const struct retry *all)
{
    const struct mail_stream *st = stream_numbered(s, number);

    return st && st->retry.step.n ? &st->retry : all;
}

/* ---- which ---- */

static bool word_stands_in(const struct strs *words, str value)
{
    for (size_t i = 0; i < words->n; i++)
        if (str_ieq(words->p[i], value))
            return true;
    return words->n == 0;
}

static bool fields_fit(const struct mail_stream *st, str header)
{
    for (size_t i = 0; i < st->nfield; i++) {
        AUTO_ARENA a = arena_new();
        str value;
        if (!header_get(a, header, st->field[i].name, &value) || !word_stands_in(&st->field[i].word, str_trim(value)))
            return false;
    }
    return true;
}

const struct mail_stream *stream_find(const struct streams *s, const struct routes *r, const struct message *m, str header)
{
    if (!s || s->n == 0)
        return NULL;
    struct route_key k = origin_key(r, m);
    for (size_t i = 0; i < s->n; i++)
        if (rule_fits(&s->p[i]->mail, &k) && fields_fit(s->p[i], header))
            return s->p[i];
    return NULL;
}

/* ---- settings ---- */

static void take_field(struct binder *b, const struct node *node, void *into)
{
    struct mail_stream *st = into;
    struct field_rule f = { 0 };

    if (!conf_args(b, node, 1, 100))
        return;
    f.name = node->arg[0].text;
    f.word.p = NEW_ARRAY(b->a, str, node->narg);
    for (size_t i = 1; i < node->narg; i++)
        f.word.p[f.word.n++] = node->arg[i].text;
    for (size_t i = 0; i < f.name.n; i++)
        if (f.name.p[i] <= ' ' || f.name.p[i] == ':' || f.name.p[i] & 0x80) { /* RFC 5322 3.6.8 */
            conf_error(b, &node->arg[0].at, CONF_E_BAD_ADDRESS, "\"%.*s\" is no name of a header field", STR(f.name));
            return;
        }
    struct field_rule *more = NEW_ARRAY(b->a, struct field_rule, st->nfield + 1);
    if (st->nfield)
        memcpy(more, st->field, st->nfield * sizeof *more);
    more[st->nfield++] = f;
    st->field = more;
}

static const struct setting one_settings[] = {
    { .name = "weight", .type = CONF_INT, .offset = offsetof(struct mail_stream, weight), .preset = "10", .least = 1, .most = 1000,
      .help = "How many messages of it go in each round, of which mail of no stream has ten. The greatest weight goes first in the round." },
    RULE_ORIGIN_SETTINGS(offsetof(struct mail_stream, mail)),
    { .name = "field", .type = CONF_OWN, .take = take_field, .repeats = true, .form = "NAME [WORD ...]",
      .help = "Mail with that header field, and one of these words as its whole value (case ignored), as in: field Precedence bulk list." },
    { .name = "retry", .type = CONF_OWN, .take = take_retry, .base = offsetof(struct mail_stream, retry), .form = "[ TIME ... ] for TIME",
      .help = RETRY_HELP " Default: as \"retry\" says for all mail." },
    { .name = NULL },
};

static void *make_stream(struct binder *b, const struct node *node, void *into)
{
    struct streams *s = into;

    if (!conf_args(b, node, 1, 1))
        return NULL;
    str name = node->arg[0].text;
    if (stream_named(s, name)) {
        conf_error(b, &node->name.at, CONF_E_TWICE, "stream \"%.*s\" stands twice", STR(name));
        return NULL;
    }
    if (s->n == STREAMS_MOST) {
        conf_error(b, &node->name.at, CONF_E_RANGE, "there may be %d streams", STREAMS_MOST);
        return NULL;
    }
    struct mail_stream *st = NEW(b->a, struct mail_stream), **more = NEW_ARRAY(b->a, struct mail_stream *, s->n + 1);
    st->name = st->mail.name = name;
    st->mail.at = node->name.at;
    if (s->n)
        memcpy(more, s->p, s->n * sizeof *more);
    more[s->n++] = st;
    s->p = more;
    return st;
}

void streams_finish(struct binder *b, struct streams *s, const struct routes *r)
{
    for (size_t i = 0; i < s->n; i++) {
        const struct route_rule *u = &s->p[i]->mail;
        rule_check(b, u, "stream", r);
        if (!u->from.n && !u->network.n && !u->listener.n && !u->login.n && !u->tenant.n && !s->p[i]->nfield)
            conf_error(b, &u->at, CONF_E_MISSING, "stream \"%.*s\" fits all mail: say which it is for", STR(u->name));
        s->p[i]->number = number_of(s, s->p[i]->name);
    }
    for (size_t i = 0; i < r->nrule; i++)
        for (size_t k = 0; k < r->rule[i]->stream.n; k++)
            if (!stream_named(s, r->rule[i]->stream.p[k]))
                conf_error(b, &r->rule[i]->at, CONF_E_UNKNOWN, "route \"%.*s\": there is no stream \"%.*s\"", STR(r->rule[i]->name), STR(r->rule[i]->stream.p[k]));
}

const struct setting stream_settings[] = {
    { .name = "stream", .type = CONF_BLOCK, .make = make_stream, .sub = one_settings, .repeats = true, .form = "NAME",
      .help = "Mail of one kind, such as \"transactional\" or \"bulk\": all that its block names must fit, and the first stream that fits has it. Where mail of several streams waits "
              "for the same next hop they take turns by weight, so none waits behind all of another." },
    { .name = NULL },
};
