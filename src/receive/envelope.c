/* Recipients of an envelope: who was given, who stands for them, and the archive. */
#include "receive/inside.h"

static bool is_given(const struct envelope *env, str rcpt)
{
    for (size_t i = 0; i < env->nrcpt; i++)
        if (str_eq(env->rcpt[i].given, rcpt))
            return true;
    return false;
}

/* Several aliases may lead to one address; it gets the message once. */
static bool goes_there(const struct envelope *env, str to)
{
    for (size_t i = 0; i < env->nrcpt; i++)
        if (str_eq(env->rcpt[i].to, to))
            return true;
    return false;
}

static struct rcpt *rcpt_new(arena *a, struct envelope *env, size_t *cap)
{
    if (env->nrcpt == *cap) {
        size_t more = *cap ? *cap * 2 : 1;
        struct rcpt *all = NEW_ARRAY(a, struct rcpt, more);
        if (*cap)
            memcpy(all, env->rcpt, *cap * sizeof *all);
        env->rcpt = all;
        *cap = more;
    }
    return &env->rcpt[env->nrcpt++];
}

/* The archive of the recipient's domain. Nobody hears of what becomes of a copy (NOTIFY=NEVER). */
static size_t add_copies(arena *a, const struct snapshot *snap, struct envelope *env, size_t *cap, str domain)
{
    const struct relay_domain *d = route_domain(&snap->routes, domain);
    size_t n = 0;

    for (size_t i = 0; d && i < d->copy_to.n; i++) {
        if (goes_there(env, d->copy_to.p[i]))
            continue;
        struct rcpt *r = rcpt_new(a, env, cap);
        r->to = r->given = str_dup(a, d->copy_to.p[i]);
        r->notify = NOTIFY_NEVER;
        n++;
    }
    return n;
}

size_t envelope_add(arena *a, const struct snapshot *snap, struct envelope *env, size_t *cap, const struct command *c, const struct strs *to)
{
    if (is_given(env, c->path.text))
        return 0;
    str given = str_dup(a, c->path.text), orcpt = str_dup(a, c->orcpt);
    for (size_t i = 0; i < to->n; i++) {
        if (goes_there(env, to->p[i]))
            continue;
        struct rcpt *r = rcpt_new(a, env, cap);
        *r = (struct rcpt){ .given = given, .to = str_eq(to->p[i], given) ? given : str_dup(a, to->p[i]), .orcpt = orcpt, .notify = c->notify };
    }
    return add_copies(a, snap, env, cap, c->path.domain);
}
