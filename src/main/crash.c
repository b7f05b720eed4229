/* What a thread was at when it died: a page that the parent reads when the worker is gone, and last words on stderr. */
#include "main/inside.h"

#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

#define ASIDE_MOST 256
#define COUNTED_MOST 1024
#define LAST_WORDS ((size_t)32 * 1024)

/* The halves of a note are stored one after the other; who reads them reads what a dead process left, or its own. */
struct slot { _Alignas(64) _Atomic uint64_t half[2]; };
struct page {
    struct slot slot[CRASH_THREADS];
    ulid aside[ASIDE_MOST];             /* written by the parent while there is no worker */
    uint32_t naside;
};
static struct page *page;
static struct { ulid id; unsigned crashes; } counted[COUNTED_MOST]; /* the parent's; the oldest is overwritten */
static size_t ncounted;
static _Thread_local unsigned my_number; /* thread number + 1; 0: none, -1 for people */

void crash_page_make(void)
{
    if (page)
        return;
    page = mmap(NULL, sizeof *page, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    must(page != MAP_FAILED);
}

void crash_note(unsigned thread, ulid id)
{
    uint64_t half[2];

    if (!page || thread >= CRASH_THREADS)
        return;
    memcpy(half, id.b, sizeof half);
    atomic_store_explicit(&page->slot[thread].half[0], half[0], memory_order_relaxed);
    atomic_store_explicit(&page->slot[thread].half[1], half[1], memory_order_relaxed);
}

static ulid noted(unsigned thread)
{
    uint64_t half[2] = { atomic_load_explicit(&page->slot[thread].half[0], memory_order_relaxed),
                         atomic_load_explicit(&page->slot[thread].half[1], memory_order_relaxed) };
    ulid id;
    memcpy(id.b, half, sizeof id.b);
    return id;
}

bool crash_set_aside(ulid id)
{
    if (!page)
        return false;
    for (uint32_t i = 0; i < page->naside; i++)
        if (ulid_eq(page->aside[i], id))
            return true;
    return false;
}

/* ---- the parent's side ---- */

static unsigned count_one(ulid id)
{
    size_t n = MIN(ncounted, (size_t)COUNTED_MOST);

    for (size_t i = 0; i < n; i++)
        if (ulid_eq(counted[i].id, id))
            return ++counted[i].crashes;
    size_t at = ncounted++ % COUNTED_MOST;
    counted[at].id = id;
    counted[at].crashes = 1;
    return 1;
}

void crash_count(void)
{
    for (unsigned t = 0; page && t < CRASH_THREADS; t++) {
        ulid id = noted(t);
        if (ulid_zero(id))
            continue;
        crash_note(t, (ulid){ 0 });
        unsigned crashes = count_one(id);
        bool aside = crashes >= 2 && !crash_set_aside(id) && page->naside < ASIDE_MOST;
        if (aside)
            page->aside[page->naside++] = id;
        log_warn("crashed_at", LOG_ID("id", id), LOG_INT("thread", t), LOG_INT("crashes", crashes), LOG_BOOL("held", aside));
    }
}

/* ---- last words ---- */

#ifndef WAYPOST_SANITIZED /* the sanitizers have better ones */
static const int fatal[] = { SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT, SIGSYS };

/* By write(2) alone: heap, log and stdio may be what is broken. */
static void last_words(int number, siginfo_t *info, void *context)
{
    char text[256], at[32] = "", who[ULID_TEXT + 16] = "", id[ULID_TEXT];

    (void)context;
    if (number != SIGABRT && number != SIGSYS)
        snprintf(at, sizeof at, " at %p", info->si_addr);
    if (my_number && page && !ulid_zero(noted(my_number - 1)))
        snprintf(who, sizeof who, ", message %.*s", STR(ulid_print(noted(my_number - 1), id)));
    int n = snprintf(text, sizeof text, "waypost: thread %d dies of SIG%s%s%s\n", (int)my_number - 1, sigabbrev_np(number), at, who);
    ssize_t ignored = write(STDERR_FILENO, text, MIN((size_t)MAX(n, 0), sizeof text - 1));
    (void)ignored;
    signal(number, SIG_DFL);
    raise(number); /* comes when this handler returns */
}

void crash_handlers(void)
{
    struct sigaction act = { .sa_sigaction = last_words, .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_RESETHAND };

    sigemptyset(&act.sa_mask);
    for (size_t i = 0; i < COUNT(fatal); i++)
        must(sigaction(fatal[i], &act, NULL) == 0);
}

/* A thread that overran its stack needs another one to say so. Not given back: such threads live as long as the process. */
void crash_thread(unsigned thread)
{
    stack_t s = { .ss_size = LAST_WORDS };

    my_number = thread + 1 <= CRASH_THREADS ? thread + 1 : 0;
    s.ss_sp = mmap(NULL, LAST_WORDS, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (s.ss_sp != MAP_FAILED)
        sigaltstack(&s, NULL);
}
#else
void crash_handlers(void) {}
void crash_thread(unsigned thread) { my_number = thread + 1 <= CRASH_THREADS ? thread + 1 : 0; }
#endif
