/* kit: what tests are made of.
 *
 *   TEST(path_parse_reads_forward_paths) { CHECK(...); CHECK_INT(got, want); CHECK_STR(got, want); }
 *
 * A failed check is printed and the test goes on. Each check takes, as its last argument if you like, a str that says
 * which case it was. `waypost_test` runs all tests, `waypost_test PART` those whose name contains PART. */
#ifndef KIT_H
#define KIT_H

#include "base/base.h"

#define TEST(name) \
    static void test_##name(void); \
    __attribute__((constructor)) static void test_add_##name(void) \
    { \
        static struct kit_test t = { .file = __FILE__, .text = #name, .run = test_##name }; \
        kit_add(&t); \
    } \
    static void test_##name(void)

/* The same, as a task of a scheduler that ends with it: for what waits. Needs task/task.h. */
#define TASK_TEST(name) \
    static void task_test_##name(void); \
    static err task_run_##name(void *arg) { (void)arg; task_test_##name(); return OK; } \
    TEST(name) { CHECK_ERR(task_main(task_run_##name, NULL), OK); } \
    static void task_test_##name(void)

#define CHECK(x, ...) kit_true((x), __FILE__, __LINE__, #x, kit_case_(__VA_ARGS__))
#define CHECK_INT(got, want, ...) \
    kit_int((int64_t)(got), (int64_t)(want), __FILE__, __LINE__, #got, kit_case_(__VA_ARGS__))
#define CHECK_STR(got, want, ...) kit_str((got), (want), __FILE__, __LINE__, #got, kit_case_(__VA_ARGS__))
#define CHECK_ERR(x, want, ...) kit_err((x), (want), __FILE__, __LINE__, #x, kit_case_(__VA_ARGS__))

/* For each element of an array, by pointer. */
#define EACH(cases, c) for (__typeof__(&(cases)[0]) c = (cases); c < (cases) + COUNT(cases); c++)

/* The body of a fuzz target: FUZZ(data, size) { ... }. A target `x_fuzz.c` has its corpus in tests/corpus/x. */
#define FUZZ(data, size) \
    static void fuzz_one(const uint8_t *data, size_t size); \
    int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size); \
    int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) { fuzz_one(data, size); return 0; } \
    static void fuzz_one(const uint8_t *data, size_t size)

/* How much longer things take under a sanitizer: multiply what you measure against. */
#ifdef WAYPOST_SANITIZED
#define KIT_SLOW 20
#else
#define KIT_SLOW 1
#endif

/* A new empty directory under $TMPDIR, removed with all in it when the test ends. Lives as long as the test. */
const char *kit_dir(void);

struct kit_test { const char *file, *text; void (*run)(void); struct kit_test *next; };
#define kit_case_(...) (((str[]){ __VA_ARGS__ __VA_OPT__(,) { NULL, 0 } })[0])
void kit_add(struct kit_test *t);
bool kit_true(bool ok, const char *file, int line, const char *what, str which);
bool kit_int(int64_t got, int64_t want, const char *file, int line, const char *what, str which);
bool kit_str(str got, str want, const char *file, int line, const char *what, str which);
bool kit_err(err got, err want, const char *file, int line, const char *what, str which);

#endif
