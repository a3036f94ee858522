/* A program, a height, a width, threads -> how many times its third run, at another level, asks for memory. */
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

#include "nmk.h"

static size_t asked;

/* Found before the C library's own, so that libnmk and the C++ library call these. */
void* __libc_malloc(size_t size);
void* __libc_memalign(size_t alignment, size_t size);

void* malloc(size_t size) {
    __atomic_add_fetch(&asked, 1, __ATOMIC_RELAXED);
    return __libc_malloc(size);
}

void* aligned_alloc(size_t alignment, size_t size) {
    __atomic_add_fetch(&asked, 1, __ATOMIC_RELAXED);
    return __libc_memalign(alignment, size);
}

int main(int count, char** words) {
    if (count != 5) return 2;
    static char bytes[1 << 22], text[512];
    FILE* file = fopen(words[1], "rb");
    if (file == NULL) return 2;
    const size_t size = fread(bytes, 1, sizeof bytes, file);
    fclose(file);
    nmk_program* program = nmk_program_load(bytes, size, text, sizeof text);
    if (program == NULL) return 3;
    const long height = atol(words[2]), width = atol(words[3]);
    uint32_t inputs, outputs, operations;
    nmk_program_counts(program, &inputs, &outputs, &operations);
    const float* in[8];
    int64_t sizes[16];
    float* out[8];
    for (uint32_t i = 0; i < inputs; ++i) {
        uint32_t channels;
        sizes[2 * i] = height, sizes[2 * i + 1] = width;
        nmk_program_input(program, i, &channels);
        in[i] = calloc(channels * (size_t)(height * width), sizeof(float));
    }
    for (uint32_t i = 0; i < outputs; ++i) {
        int64_t shape[3];
        if (nmk_program_output(program, i, sizes, shape, text, sizeof text)) return 3;
        out[i] = calloc((size_t)(shape[0] * shape[1] * shape[2]), sizeof(float));
    }
    size_t counts[3];
    for (int run = 0; run < 3; ++run) {
        const size_t before = asked;
        const int level = run % (int)nmk_program_levels(program);
        if (nmk_program_run(program, in, 1, sizes, out, atoi(words[4]), level, text, sizeof text)) return 3;
        counts[run] = asked - before;
    }
    printf("%zu %zu\n", counts[0], counts[2]);
    return 0;
}
