/* Test data that others published lies beside the repository, in ../shared/testdata (or $WAYPOST_SHARED/testdata). It is
 * read in place. Where it is missing, what needs it is skipped with a word; where $CI is set, that is a failure. */
#ifndef KIT_SHARED_H
#define KIT_SHARED_H

#include "kit/kit.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

/* The folder, or NULL when it is not there. */
static inline const char *kit_shared_dir(arena *a)
{
    const char *dirs[] = { getenv("WAYPOST_SHARED"), "../shared", "../../shared" };
    EACH(dirs, dir) {
        const char *path = *dir ? str_cz(a, str_printf(a, "%s/testdata", *dir)) : NULL;
        if (path && access(path, R_OK) == 0)
            return path;
    }
    printf("skipped: no testdata in $WAYPOST_SHARED or ../shared\n");
    CHECK(!getenv("CI"));
    return NULL;
}

/* A file, whole, in `a`; n == 0 when it is not there. */
static inline str kit_file(arena *a, const char *path)
{
    struct buf all = buf_in(a, 4096);
    FILE *f = path ? fopen(path, "rb") : NULL;

    if (!f)
        return (str){ 0 };
    for (size_t n = 1; n; all.n += n) {
        buf_reserve(&all, 65536);
        n = fread(all.p + all.n, 1, 65536, f);
    }
    fclose(f);
    return buf_str(&all);
}

static inline str kit_shared(arena *a, const char *name)
{
    const char *dir = kit_shared_dir(a);
    return kit_file(a, dir ? str_cz(a, str_printf(a, "%s/%s", dir, name)) : NULL);
}

#endif
