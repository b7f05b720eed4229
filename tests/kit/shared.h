/* Test data that others published lies beside the repository, in ../shared/testdata (or $WAYPOST_SHARED/testdata). It is
 * read in place. Where it is missing, what needs it is skipped with a word; where $CI is set, that is a failure. */
#ifndef KIT_SHARED_H
#define KIT_SHARED_H

#include "kit/kit.h"

#include <stdio.h>
#include <stdlib.h>

/* The file `name` below testdata/, in `a`; n == 0 when it is not there. */
static inline str kit_shared(arena *a, const char *name)
{
    const char *dirs[] = { getenv("WAYPOST_SHARED"), "../shared", "../../shared" };
    struct buf all = buf_in(a, 4096);

    EACH(dirs, dir) {
        FILE *f = *dir ? fopen(str_cz(a, str_printf(a, "%s/testdata/%s", *dir, name)), "rb") : NULL;
        if (!f)
            continue;
        for (size_t n = 1; n; all.n += n) {
            buf_reserve(&all, 65536);
            n = fread(all.p + all.n, 1, 65536, f);
        }
        fclose(f);
        return buf_str(&all);
    }
    printf("skipped: no testdata/%s in $WAYPOST_SHARED or ../shared\n", name);
    CHECK(!getenv("CI"));
    return (str){ 0 };
}

#endif
