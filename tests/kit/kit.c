/* The runner of the unit tests. */
#include "kit/kit.h"

#include <ftw.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define PATIENCE 120 /* seconds a test may take before we say that it hangs */

static struct kit_test *tests;
static struct kit_test *volatile running;
static unsigned failures; /* of the running test; checks may come from several threads */
static char dir[4096];

/* By file and name: the order of constructors is the linker's whim. */
void kit_add(struct kit_test *t)
{
    struct kit_test **at = &tests;
    while (*at) {
        int order = strcmp((*at)->file, t->file);
        if (order > 0 || (order == 0 && strcmp((*at)->text, t->text) > 0))
            break;
        at = &(*at)->next;
    }
    t->next = *at;
    *at = t;
}

static void failed(const char *file, int line, const char *what, str which)
{
    __atomic_fetch_add(&failures, 1, __ATOMIC_RELAXED);
    printf("FAIL %s\n  %s:%d: %s\n", running->text, file, line, what);
    if (which.p) {
        AUTO_ARENA a = arena_new();
        printf("  case  %.*s\n", STR(str_printable(a, which)));
    }
}

bool kit_true(bool ok, const char *file, int line, const char *what, str which)
{
    if (!ok)
        failed(file, line, what, which);
    return ok;
}

bool kit_int(int64_t got, int64_t want, const char *file, int line, const char *what, str which)
{
    if (got == want)
        return true;
    failed(file, line, what, which);
    printf("  got   %lld\n  want  %lld\n", (long long)got, (long long)want);
    return false;
}

bool kit_str(str got, str want, const char *file, int line, const char *what, str which)
{
    if (str_eq(got, want))
        return true;
    failed(file, line, what, which);
    AUTO_ARENA a = arena_new();
    printf("  got   \"%.*s\" (%zu bytes)\n", STR(str_printable(a, got)), got.n);
    printf("  want  \"%.*s\" (%zu bytes)\n", STR(str_printable(a, want)), want.n);
    return false;
}

bool kit_err(err got, err want, const char *file, int line, const char *what, str which)
{
    if (got == want)
        return true;
    failed(file, line, what, which);
    if (got == OK)
        printf("  got   ok\n");
    else
        printf("  got   %s: %.*s\n", err_name(got), STR(err_text()));
    printf("  want  %s\n", err_name(want));
    return false;
}

const char *kit_dir(void)
{
    if (!dir[0]) {
        const char *under = getenv("TMPDIR");
        snprintf(dir, sizeof dir, "%s/waypost-test-XXXXXX", under && *under ? under : "/tmp");
        must(mkdtemp(dir));
    }
    return dir;
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *at)
{
    (void)st, (void)type, (void)at;
    return remove(path);
}

static void dir_remove(void)
{
    if (dir[0])
        nftw(dir, remove_one, 16, FTW_DEPTH | FTW_PHYS);
    dir[0] = 0;
}

static void died(int number)
{
    char text[256];
    int n = snprintf(text, sizeof text, "FAIL %s\n  %s: %s\n0 passed, 1 failed\n", running ? running->text : "?",
                     running ? running->file : "?", number == SIGALRM ? "it hangs" : strsignal(number));
    ssize_t ignored = write(STDOUT_FILENO, text, (size_t)n);
    (void)ignored;
    signal(number, SIG_DFL);
    raise(number == SIGALRM ? SIGABRT : number);
}

int main(int argc, char **argv)
{
    unsigned passed = 0, bad = 0;

    setvbuf(stdout, NULL, _IOLBF, 0);
    signal(SIGPIPE, SIG_IGN);
    signal(SIGALRM, died);
#ifndef WAYPOST_SANITIZED /* the sanitizers tell more */
    signal(SIGSEGV, died);
    signal(SIGBUS, died);
    signal(SIGABRT, died);
#endif
    for (struct kit_test *t = tests; t; t = t->next) {
        if (argc > 1 && !strstr(t->text, argv[1]))
            continue;
        failures = 0;
        running = t;
        alarm(PATIENCE);
        when began = clock_now();
        t->run();
        alarm(0);
        dir_remove();
        if (getenv("KIT_VERBOSE"))
            printf("%6.1f ms  %s\n", (double)(clock_now() - began) / 1000, t->text);
        if (failures)
            bad++;
        else
            passed++;
    }
    printf("%u passed, %u failed\n", passed, bad);
    return bad || !passed;
}
