/* When to try again. */
#include "queue/inside.h"

void take_retry(struct binder *b, const struct node *node, void *into)
{
    struct retry *r = into;

    if (node->narg != 3 || !str_eq(node->arg[1].text, S("for"))) {
        conf_error(b, &node->name.at, CONF_E_BAD_RETRY, "\"retry\" is followed by [ TIME ... ] for TIME, as in: retry [ 1m 5m 15m 1h ] for 5d");
        return;
    }
    const struct token *list = &node->arg[0];
    const struct token *item = list->list ? list->item : list;
    size_t n = list->list ? list->nitem : 1;
    r->step.p = NEW_ARRAY(b->a, when, n + 1);
    r->step.n = 0;
    for (size_t i = 0; i < n; i++) {
        when t;
        if (!conf_time(b, &item[i], &t))
            continue;
        if (t < SECOND)
            conf_error(b, &item[i].at, CONF_E_BAD_RETRY, "a retry step is at least 1s");
        r->step.p[r->step.n++] = t;
    }
    if (r->step.n == 0)
        conf_error(b, &list->at, CONF_E_BAD_RETRY, "\"retry\" needs at least one step");
    conf_time(b, &node->arg[2], &r->lifetime);
}

const struct setting retry_settings[] = {
    { .name = "retry", .type = CONF_OWN, .take = take_retry, .preset = "[ 1m 5m 15m 30m 1h 2h 4h ] for 5d", .form = "[ TIME ... ] for TIME",
      .help = "Waits between attempts, the last one repeated, and how long mail is tried before it is returned. It is returned only after an attempt." },
    { .name = "hold_max", .type = CONF_TIME, .offset = offsetof(struct retry, hold_max), .preset = "30d", .least = 0, .most = 45 * 86400.0,
      .help = "How much time that does not count against the lifetime of mail: in which an operator held it or suspended its lane, or an incident had the lane "
              "frozen. What is held or suspended for longer is tried again." },
    { .name = NULL },
};

when retry_after(const struct retry *r, unsigned attempts)
{
    size_t i = attempts ? attempts - 1 : 0;
    when step = r->step.p[MIN(i, r->step.n - 1)];

    return step - step / 8 + (when)random_below((uint64_t)step / 4 + 1);
}
