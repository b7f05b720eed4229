/* Stacks: carved out of large mappings that reserve nothing, a guard below each.
 *
 * Where the kernel knows MADV_GUARD_INSTALL (Linux 6.13) a guard is a mark in the page table. Elsewhere it is mprotect()ed,
 * which splits the mapping in two per stack, and the kernel refuses more than vm.max_map_count of those: then
 * there is a budget, and a refusal instead of a crash. */
#include "task/inside.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#ifdef TASK_ASAN
#include <sanitizer/asan_interface.h>
#else
#define ASAN_UNPOISON_MEMORY_REGION(p, n) ((void)(p), (void)(n))
#endif

#define GUARD_INSTALL 102       /* MADV_GUARD_INSTALL; Debian 12's headers are older */
#define CHUNK 64                /* stacks in a mapping */
#define PAGE ((size_t)4096)
#define DEEP (32 * 1024)        /* a stack used deeper than this is trimmed when its task ends... */
#define KEPT (16 * 1024)        /* ...to this */
#define MAPS_FOR_OTHERS 4096    /* what malloc, libraries and files may map */

static atomic_bool only_mprotect;
static atomic_size_t budget, splits; /* of the process; mprotect()ed guards there may be, there are */
static pthread_once_t once = PTHREAD_ONCE_INIT;

static size_t budget_of_kernel(void)
{
    char text[32] = { 0 };
    uint64_t maps = 65530; /* the kernel's default */
    int fd = open("/proc/sys/vm/max_map_count", O_RDONLY | O_CLOEXEC);

    if (fd >= 0) {
        ssize_t n = read(fd, text, sizeof text - 1);
        str_u64(str_trim(str_of(text, n > 0 ? (size_t)n : 0)), SIZE_MAX / 2, &maps);
        close(fd);
    }
    return maps > 2 * MAPS_FOR_OTHERS ? (size_t)(maps - MAPS_FOR_OTHERS) / 2 : MAPS_FOR_OTHERS / 2;
}

static void setup(void)
{
    const char *how = getenv("WAYPOST_STACK_GUARD");
    bool refused = how && strcmp(how, "mprotect") == 0;

    if (!refused) {
        void *p = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        refused = p == MAP_FAILED || madvise(p, PAGE, GUARD_INSTALL) < 0;
        if (p != MAP_FAILED)
            munmap(p, PAGE);
    }
    atomic_store(&only_mprotect, refused);
    atomic_store(&budget, budget_of_kernel());
}

void stack_guard_use(enum stack_guard how)
{
    pthread_once(&once, setup);
    if (how == STACK_GUARD_MPROTECT)
        atomic_store(&only_mprotect, true);
    else
        setup();
}

size_t stack_budget_use(size_t n)
{
    pthread_once(&once, setup);
    return atomic_exchange(&budget, n);
}

size_t stack_room(void)
{
    pthread_once(&once, setup);
    if (!atomic_load(&only_mprotect))
        return SIZE_MAX;
    size_t had = atomic_load(&splits), may = atomic_load(&budget);
    return may > had ? may - had : 0;
}

static bool guard_by_mprotect(struct stacks *s, char *stack)
{
    if (atomic_fetch_add(&splits, 1) >= atomic_load(&budget) || mprotect(stack, STACK_GUARD, PROT_NONE) < 0) {
        atomic_fetch_sub(&splits, 1);
        return false;
    }
    s->split++;
    return true;
}

static bool guard(struct stacks *s, char *stack)
{
    /* A locked mapping refuses the mark (before 6.15), so one stack may need the other way. */
    if (!atomic_load_explicit(&only_mprotect, memory_order_relaxed) && madvise(stack, STACK_GUARD, GUARD_INSTALL) == 0)
        return true;
    return guard_by_mprotect(s, stack);
}

static bool chunk_new(struct stacks *s)
{
    void *p = mmap(NULL, CHUNK * STACK_SIZE, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_STACK, -1, 0);
    if (p == MAP_FAILED)
        return false;
    madvise(p, CHUNK * STACK_SIZE, MADV_NOHUGEPAGE); /* a huge page would be 8 stacks that nobody uses */
    s->chunk = mem_grow(s->chunk, (s->nchunk + 1) * sizeof *s->chunk);
    s->chunk[s->nchunk++] = p;
    s->carved = 0;
    return true;
}

char *stack_new(struct stacks *s)
{
    pthread_once(&once, setup);
    if (s->nwarm)
        return s->warm[--s->nwarm];
    if (s->ncold)
        return s->cold[--s->ncold];
    if ((!s->nchunk || s->carved == CHUNK) && !chunk_new(s))
        return NULL;
    char *stack = s->chunk[s->nchunk - 1] + s->carved * STACK_SIZE;
    if (!guard(s, stack))
        return NULL;
    s->carved++;
    return stack;
}

void stack_trim(char *stack, char *below)
{
    char *from = stack + STACK_GUARD, *to = (char *)((uintptr_t)below & ~(PAGE - 1));
    if (to > from)
        madvise(from, (size_t)(to - from), MADV_DONTNEED);
}

/* The elder half of the warm ones gives its pages back. What is freed and taken again at once, as in a busy hour, never
 * gets here. */
static void cool(struct stacks *s)
{
    size_t n = COUNT(s->warm) / 2;

    if (s->ncold + n > s->cold_cap) {
        s->cold_cap = MAX(s->cold_cap * 2, 256);
        s->cold = mem_grow(s->cold, s->cold_cap * sizeof *s->cold);
    }
    for (size_t i = 0; i < n; i++) {
        stack_trim(s->warm[i], s->warm[i] + STACK_SIZE);
        s->cold[s->ncold++] = s->warm[i];
    }
    s->nwarm -= n;
    memmove(s->warm, s->warm + n, s->nwarm * sizeof *s->warm);
}

void stack_free(struct stacks *s, char *stack, size_t depth)
{
    /* The frames that were left by switching away for good are still poisoned. */
    ASAN_UNPOISON_MEMORY_REGION(stack + STACK_GUARD, STACK_SIZE - STACK_GUARD);
    if (depth > DEEP)
        stack_trim(stack, stack + STACK_SIZE - KEPT);
    if (s->nwarm == COUNT(s->warm))
        cool(s);
    s->warm[s->nwarm++] = stack;
}

void stacks_end(struct stacks *s)
{
    for (size_t i = 0; i < s->nchunk; i++) {
        ASAN_UNPOISON_MEMORY_REGION(s->chunk[i], CHUNK * STACK_SIZE);
        munmap(s->chunk[i], CHUNK * STACK_SIZE);
    }
    atomic_fetch_sub(&splits, s->split);
    mem_free(s->chunk);
    mem_free(s->cold);
    *s = (struct stacks){ 0 };
}
