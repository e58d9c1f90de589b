/*
 * drawing.h - a model and a session on it, and what they draw, for tests. What goes wrong here ends the program.
 */
#ifndef INK_TEST_DRAWING_H
#define INK_TEST_DRAWING_H

#include <stddef.h>

#include "pipeline/generate.h"

typedef struct test_bench {
    ink_model *model;
    ink_session *session;
} test_bench;

/* threads: 0: as many as there are cores; tier: "ref", "auto" ... */
test_bench test_bench_open(const char *model_dir, ink_precision precision, const char *tier, int threads);
void test_bench_close(test_bench *bench);

/* pixels [n] in 0..1, before they become bytes. */
void test_draw(const test_bench *bench, const ink_request *request, float *pixels, size_t n);

#endif
