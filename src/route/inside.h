/* Internal to route. */
#ifndef ROUTE_INSIDE_H
#define ROUTE_INSIDE_H

#include "route/route.h"

/* Everything grows in the arena by doubling; settings are read once. */
static inline void *append(arena *a, void *old, size_t n, size_t size)
{
    if (n & (n - 1))
        return old;
    void *p = arena_alloc(a, (n ? 2 * n : 1) * size);
    if (n)
        memcpy(p, old, n * size);
    return p;
}
#define APPEND(a, p, n, item) ((p) = append((a), (p), (n), sizeof *(p)), (p)[(n)++] = (item))

uint64_t routes_fewest(const struct routes *r);         /* struct routes.fewest */
struct backend *find_backend(struct binder *b, struct routes *r, const struct token *name);

/* ---- outlet.c ---- */

/* "source NAME" or "pool NAME", in a backend, a rule or the default route. */
void take_leave(struct binder *b, const struct node *node, struct leave *into);
void take_outlet(struct binder *b, const struct node *node, void *routes);
void *make_pool(struct binder *b, const struct node *node, void *routes);
void done_pool(struct binder *b, const struct node *node, void *pool);
extern const struct setting outlet_block[], pool_block[];
void take_rate(struct binder *b, const struct node *node, void *backend);
void take_connections(struct binder *b, const struct node *node, void *backend);
/* When all names are known: backends once more for each of their sources, and all limits. */
void outlets_finish(struct binder *b, struct routes *r);

/* ---- recipients.c ---- */

extern const struct setting recipients_settings[];
/* Tell when a list could not be read anew and is served as it was. */
void list_kept_warn(struct binder *b, const struct node *node, const struct table *t);
void take_recipients(struct binder *b, const struct node *node, void *relay_domain);
void recipients_finish(struct binder *b, struct routes *r, struct relay_domain *d);

#endif
