/* Runs a fuzz target over the files it is given, without libFuzzer: the corpus as a test. */
#include "kit/kit.h"

#include <stdio.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int main(int argc, char **argv)
{
    LLVMFuzzerTestOneInput((const uint8_t *)"", 0);
    for (int i = 1; i < argc; i++) {
        FILE *f = fopen(argv[i], "rb");
        if (!f) {
            perror(argv[i]);
            return 1;
        }
        AUTO_BUF data = { 0 };
        for (size_t n = 1; n; data.n += n) {
            buf_reserve(&data, 65536);
            n = fread(data.p + data.n, 1, 65536, f);
        }
        fclose(f);
        /* A block of exactly its size, so that a read behind the end is seen. */
        uint8_t *exact = malloc(data.n ? data.n : 1);
        must(exact);
        memcpy(exact, data.p, data.n);
        fprintf(stderr, "%s\n", argv[i]); /* the last one named is the one that broke it */
        LLVMFuzzerTestOneInput(exact, data.n);
        free(exact);
    }
    return 0;
}
