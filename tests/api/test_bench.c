/* test_bench.c - ink_bench on a network that takes no time: what it tells, and what it refuses. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/memory.h"
#include "inkstone.h"

enum { MOST_CASES = 10 };

typedef struct notes {
    ink_bench_case cases[MOST_CASES];
    int n_cases;
    int64_t n_calls, cancel_after; /* 0: never */
    unsigned phases;               /* that progress told of, as bits */
} notes;

static void note_case(void *user, const ink_bench_case *c) {
    notes *n = user;
    assert_true(n->n_cases < MOST_CASES);
    n->cases[n->n_cases++] = *c;
}

static int note_progress(void *user, const ink_progress *progress) {
    notes *n = user;
    n->phases |= 1u << progress->phase;
    assert_true(progress->done >= 0 && progress->done <= progress->total);
    assert_true(progress->fraction >= 0 && progress->fraction <= 1);
    return ++n->n_calls == n->cancel_after;
}

static const ink_bench_size small[] = {{32, 48}, {64, 64}};

static ink_bench_options options_of(notes *n) {
    *n = (notes){.n_cases = 0};
    return (ink_bench_options){
        .synthetic = "tiny", .sizes = small, .n_sizes = 1, .repeat = 2, .threads = 2, .result = note_case, .user = n};
}

static void check_time(ink_bench_time t, int64_t runs) {
    assert_true(t.min > 0 && t.median >= t.min && t.flops > 0);
    assert_int_equal(t.runs, runs);
}

static void test_phases(void **state) {
    (void)state;
    static const ink_precision precisions[] = {INK_PRECISION_F32, INK_PRECISION_BF16, INK_PRECISION_Q4, INK_PRECISION_FP8,
                                               INK_PRECISION_INT8};
    notes n;
    ink_bench_options o = options_of(&n);
    o.n_sizes = 2;
    o.precisions = precisions;
    o.n_precisions = 5;
    o.text_tokens = 7;
    o.steps = 3;
    o.progress = note_progress;
    ink_error error;
    assert_int_equal(ink_bench(&o, &error), INK_OK);
    assert_int_equal(n.n_cases, 10);
    assert_true(n.n_calls > 0);
    for (int i = 0; i < 10; i++) {
        const ink_bench_case *c = &n.cases[i];
        assert_int_equal(c->precision, precisions[i / 2]);
        assert_int_equal(c->width, small[i % 2].width);
        assert_int_equal(c->height, small[i % 2].height);
        assert_int_equal(c->batch, 2);
        assert_int_equal(c->threads, 2);
        assert_int_equal(c->blocks, 2);
        assert_int_equal(c->whole_blocks, 2);
        assert_string_equal(c->backend, "cpu");
        check_time(c->text, 2);
        check_time(c->modulation, 1);
        check_time(c->step, 2);
        check_time(c->forward, 2);
        check_time(c->block, 2);
        check_time(c->decode, 2);
        assert_true(fabs(c->step.median - 2 * c->forward.median) < 1e-9);
        assert_true(c->block.median < c->forward.median);
        double tokens = 7 + (double)(c->width / 16 * (c->height / 16)), dim = 128;
        assert_true(fabs(c->block.flops - (24 * dim * dim * tokens + 4 * tokens * tokens * dim)) < 1);
        assert_true(c->peak_bytes <= c->weight_bytes + c->scratch_bytes && c->peak_bytes > c->weight_bytes);
        assert_true(c->process_peak_bytes == 0 || c->process_peak_bytes > c->peak_bytes);
        assert_true(c->roofline_flops > 0 && c->read_bytes_per_second > 0 && c->copy_bytes_per_second > 0);
    }
    /* The same work at every precision; fewer bits take less memory. */
    assert_true(n.cases[0].forward.flops == n.cases[4].forward.flops);
    assert_true(n.cases[1].forward.flops > n.cases[0].forward.flops);
    assert_true(n.cases[4].weight_bytes < n.cases[2].weight_bytes && n.cases[2].weight_bytes < n.cases[0].weight_bytes);
}

/* Only what was asked for; fewer blocks; the definition, which has no inner loop. */
static void test_choice(void **state) {
    (void)state;
    notes n;
    ink_bench_options o = options_of(&n);
    o.synthetic = "tiny:1";
    o.phases = INK_BENCH_DENOISE;
    o.batch = 1;
    o.repeat = 1;
    o.cpu = "ref";
    ink_error error;
    assert_int_equal(ink_bench(&o, &error), INK_OK);
    const ink_bench_case *c = &n.cases[0];
    assert_int_equal(n.n_cases, 1);
    assert_int_equal(c->blocks, 1);
    assert_int_equal(c->whole_blocks, 2);
    assert_int_equal(c->precision, INK_PRECISION_BF16);
    assert_string_equal(c->tier, "ref");
    assert_true(c->step.median > 0 && c->step.median == c->forward.median);
    assert_true(c->text.median == 0 && c->modulation.median == 0 && c->decode.median == 0 && c->total_seconds == 0);
    assert_true(c->roofline_flops == 0);
}

static void test_picture(void **state) {
    (void)state;
    notes n;
    ink_bench_options o = options_of(&n);
    const ink_precision q4 = INK_PRECISION_Q4;
    o.precisions = &q4;
    o.n_precisions = 1;
    o.picture = 1;
    o.steps = 3;
    o.progress = note_progress;
    ink_error error;
    assert_int_equal(ink_bench(&o, &error), INK_OK);
    const ink_bench_case *c = &n.cases[0];
    assert_int_equal(n.n_cases, 1);
    assert_true(c->picture);
    assert_int_equal(c->step.runs, 3);
    assert_true(c->text.median > 0 && c->step.median > 0 && c->decode.median > 0 && c->fill_seconds > 0);
    assert_true(c->modulation.median > 0 && c->modulation.median < c->total_seconds);
    assert_true(c->total_seconds >= 3 * c->step.min);
    assert_true(c->forward.median > 0 && c->forward.flops > 0);
    assert_true(c->peak_bytes > 0);
    assert_int_equal(n.phases, (1u << INK_N_PHASES) - 1);
}

static void refuse(ink_bench_options o, const char *part_of_sentence) {
    ink_error error;
    assert_int_equal(ink_bench(&o, &error), INK_ERROR_ARGUMENT);
    if (!strstr(error.message, part_of_sentence)) fail_msg("\"%s\" lacks \"%s\"", error.message, part_of_sentence);
}

static void test_mistakes(void **state) {
    (void)state;
    notes n;
    const ink_bench_options good = options_of(&n);
    const ink_bench_size odd = {50, 64}, none = {0, 64};
    const ink_precision unknown = (ink_precision)77;
    ink_bench_options o = good;
    refuse((o.synthetic = NULL, o), "no architecture");
    refuse((o.synthetic = "flux", o), "expected qwen-image");
    refuse((o.synthetic = "tiny:9", o), "from 1 to 2");
    o = good;
    refuse((o.sizes = &odd, o), "no multiple of 16");
    refuse((o.sizes = &none, o), "out of range");
    o = good;
    refuse((o.batch = 3, o), "batch 3");
    o = good;
    refuse((o.repeat = -1, o), "runs of each phase");
    o = good;
    refuse((o.steps = -1, o), "steps");
    o = good;
    refuse((o.text_tokens = 513, o), "text tokens");
    o = good;
    refuse((o.threads = -1, o), "threads");
    o = good;
    refuse((o.cpu = "none", o), "CPU tier");
    o = good;
    o.precisions = &unknown;
    refuse((o.n_precisions = 1, o), "precision 77");
    assert_int_equal(n.n_cases, 0);
}

static void test_cancel(void **state) {
    (void)state;
    for (int picture = 0; picture < 2; picture++)
        for (int64_t after = 1; after <= 6; after++) {
            notes n;
            ink_bench_options o = options_of(&n);
            o.picture = picture;
            o.progress = note_progress;
            n.cancel_after = after;
            ink_error error;
            ink_status status = ink_bench(&o, &error);
            if (n.n_calls < after) assert_int_equal(status, INK_OK);
            if (n.n_calls >= after) assert_int_equal(status, INK_ERROR_CANCELLED);
        }
}

/* The n-th allocation fails, for every n at first and then for some. */
static void test_no_memory(void **state) {
    (void)state;
    for (int picture = 0; picture < 2; picture++)
        for (int64_t allowed = 0;; allowed += allowed < 50 ? 1 : 7) {
            notes n;
            ink_bench_options o = options_of(&n);
            o.picture = picture;
            o.threads = 1;
            o.repeat = 1;
            o.steps = 1;
            o.phases = INK_BENCH_MODULATION | INK_BENCH_DENOISE;
            ink_error error;
            ink_alloc_fail_after(allowed);
            ink_status status = ink_bench(&o, &error);
            ink_alloc_fail_after(-1);
            /* The roofline does without, and then is not known. */
            if (status == INK_OK && n.cases[0].roofline_flops > 0 && n.cases[0].read_bytes_per_second > 0) break;
            assert_true(status == INK_OK || status == INK_ERROR_MEMORY);
            assert_true(allowed < 5000);
        }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_phases),   cmocka_unit_test(test_choice), cmocka_unit_test(test_picture),
        cmocka_unit_test(test_mistakes), cmocka_unit_test(test_cancel), cmocka_unit_test(test_no_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
