#include "kit/kit.h"
#include "deliver/inside.h"

TEST(callout_takes_for_absent_only_what_says_so)
{
    static const struct { struct reply r; bool absent; } cases[] = {
        { { .code = 550, .enhanced = ENH(5, 1, 1) }, true },
        { { .code = 550, .enhanced = ENH(5, 1, 10) }, true },
        { { .code = 554, .enhanced = ENH(5, 1, 0) }, true },
        { { .code = 550 }, true },
        { { .code = 550, .enhanced = ENH(5, 0, 0) }, true },    /* nothing said */
        { { .code = 554, .enhanced = ENH(5, 0, 0) }, false },
        { { .code = 551 }, true },
        { { .code = 553 }, true },
        { { .code = 554 }, false },
        { { .code = 552 }, false },
        { { .code = 550, .enhanced = ENH(5, 7, 1) }, false },   /* we are not liked */
        { { .code = 550, .enhanced = ENH(5, 2, 1) }, false },   /* there, and closed for now */
        { { .code = 550, .enhanced = ENH(5, 1, 8) }, false },   /* of the sender */
        { { .code = 550, .enhanced = ENH(5, 1, 7) }, false },
        { { .code = 550, .enhanced = ENH(4, 1, 1) }, false },   /* the two do not agree */
        { { .code = 450, .enhanced = ENH(4, 1, 1) }, false },
        { { .code = 450, .enhanced = ENH(5, 1, 1) }, false },
        { { .code = 250, .enhanced = ENH(5, 1, 1) }, false },
        { { .code = 0 }, false },
    };
    EACH(cases, c)
        CHECK_INT(callout_says_absent(&c->r), c->absent);
}
