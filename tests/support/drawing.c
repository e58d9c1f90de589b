/* drawing.c - opening, drawing, closing. */
#include "support/drawing.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void must(ink_status status, const ink_error *error) {
    if (status == INK_OK) return;
    fprintf(stderr, "%s\n", error->message);
    abort();
}

test_bench test_bench_open(const char *model_dir, ink_precision precision, const char *tier, int threads) {
    test_bench b = {0};
    ink_error error;
    const ink_model_options model_options = {.precision = precision};
    const ink_session_options session_options = {.threads = threads, .cpu = tier};
    must(ink_model_open(&b.model, model_dir, &model_options, &error), &error);
    must(ink_session_create(&b.session, b.model, &session_options, &error), &error);
    return b;
}

void test_bench_close(test_bench *b) {
    ink_session_destroy(&b->session);
    ink_model_close(&b->model);
}

void test_draw(const test_bench *b, const ink_request *request, float *pixels, size_t n) {
    ink_stages stages = {0};
    ink_error error;
    must(ink_generate_run(b->session, request, NULL, NULL, &stages, &error), &error);
    memcpy(pixels, stages.stage[INK_STAGE_IMAGE].data, n * sizeof *pixels);
    ink_stages_release(&stages);
}
