/* test_residency.c - blocks that come and go: the arithmetic of a budget, and a part that is bound, released and bound again. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

#include "base/memory.h"
#include "pipeline/budget.h"
#include "support/golden.h"
#include "support/words.h"
#include "tensor/binder.h"

/* ---- arithmetic ---------------------------------------------------------------------------------------------------- */

enum { N_PARTS = 6, MAPPED = 100 << 20, BUFFER = 1 << 20, ENDS = 10 << 20, BASE = 20 << 20, SCRATCH = 30 << 20 };

static void fill_needs(ink_need needs[INK_N_NEEDS]) {
    memset(needs, 0, INK_N_NEEDS * sizeof *needs);
    ink_need *denoise = &needs[INK_NEED_DENOISE];
    *denoise = (ink_need){.mapped_bytes = ENDS, .n_parts = N_PARTS, .parts = ink_alloc_array(N_PARTS, sizeof(ink_part))};
    assert_non_null(denoise->parts);
    for (int i = 0; i < N_PARTS; i++)
        denoise->parts[i] = (ink_part){
            .mapped_bytes = MAPPED, .stored_bytes = BUFFER, .buffer_bytes = BUFFER, .file_bytes = MAPPED + BUFFER};
}

static ink_memory_plan apply(int64_t available, int64_t asked, ink_status expected, const char *words) {
    ink_need needs[INK_N_NEEDS];
    ink_error error = {0};
    ink_memory_plan plan = {.scratch_bytes = SCRATCH, .available_bytes = available};
    fill_needs(needs);
    assert_int_equal(ink_budget_apply(&plan, needs, asked, BASE, &error), expected);
    if (words && test_missing_word(error.message, words)) fail_msg("%s", error.message);
    if (expected == INK_OK) assert_int_equal(needs[INK_NEED_DENOISE].n_stay, N_PARTS - plan.streamed_blocks);
    ink_needs_release(needs);
    return plan;
}

static void test_budget(void **state) {
    (void)state;
    const int64_t gib = (int64_t)1 << 30, mib = 1 << 20, one = MAPPED + BUFFER;
    const int64_t all = BASE + SCRATCH + ENDS + N_PARTS * one, least = BASE + SCRATCH + ENDS + 2 * MAPPED + BUFFER;
    ink_memory_plan plan = apply(8 * gib, 0, INK_OK, NULL);
    assert_int_equal(plan.budget_bytes, 0);
    assert_int_equal(plan.streamed_blocks, 0);
    assert_int_equal(plan.mapped_bytes, ENDS + N_PARTS * MAPPED);
    assert_int_equal(plan.weight_bytes, N_PARTS * BUFFER);
    assert_int_equal(plan.peak_bytes, SCRATCH + N_PARTS * BUFFER);
    assert_int_equal(plan.least_bytes, least);

    plan = apply(8 * gib, all, INK_OK, NULL);
    assert_int_equal(plan.streamed_blocks, 0);
    /* One byte less, and as many must go as two on their way take. */
    plan = apply(8 * gib, all - 1, INK_OK, NULL);
    assert_int_equal(plan.streamed_blocks, 2);
    assert_int_equal(plan.streamed_bytes, 2 * one);
    assert_int_equal(plan.weight_bytes, 5 * BUFFER);
    plan = apply(8 * gib, least, INK_OK, NULL);
    assert_int_equal(plan.streamed_blocks, N_PARTS);
    apply(8 * gib, least - 1, INK_ERROR_MEMORY, "budget|least possible is");

    /* Without a budget: nothing is known; too little is there for all; too little for the least. */
    assert_int_equal(apply(0, 0, INK_OK, NULL).streamed_blocks, 0);
    plan = apply(500 * mib, 0, INK_OK, NULL);
    assert_int_equal(plan.budget_bytes, 500 * mib / 10 * 9 + BASE);
    assert_true(plan.streamed_blocks > 0 && plan.streamed_blocks < N_PARTS);
    plan = apply(100 * mib, 0, INK_OK, NULL);
    assert_int_equal(plan.budget_bytes, least);
    assert_int_equal(plan.streamed_blocks, N_PARTS);
}

/* As many stay as shall, and of those that go no two neighbours are further apart than the average, rounded up. */
static void test_spread(void **state) {
    (void)state;
    for (int64_t n = 1; n <= 61; n++)
        for (int64_t n_stay = 0; n_stay <= n; n_stay++) {
            int64_t n_found = 0, n_gone = 0, since = 0;
            for (int64_t part = 0; part < n; part++) {
                bool stays = ink_part_stays(n, n_stay, part);
                assert_int_equal(ink_parts_gone(n, n_stay, part), n_gone);
                since = stays ? since + 1 : 0;
                n_found += stays;
                n_gone += !stays;
                if (n_stay < n) assert_true(since <= (n + n - n_stay - 1) / (n - n_stay));
            }
            assert_int_equal(n_found, n_stay);
        }
}

/* ---- a device ---------------------------------------------------------------------------------------------------------- */

enum { TEXT_ENDS = 5 << 20, VAE = 150 << 20, EXTRA = 7 << 20 };

static ink_memory_plan apply_device(int64_t limit, int64_t available, ink_status expected, const char *words) {
    ink_need needs[INK_N_NEEDS];
    ink_error error = {0};
    ink_memory_plan plan = {.scratch_bytes = SCRATCH, .available_bytes = available};
    fill_needs(needs);
    ink_need *denoise = &needs[INK_NEED_DENOISE], *text = &needs[INK_NEED_TEXT];
    denoise->mapped_bytes = 0;
    denoise->stored_bytes = ENDS;
    for (int i = 0; i < N_PARTS; i++) denoise->parts[i] = (ink_part){.stored_bytes = MAPPED, .buffer_bytes = MAPPED};
    *text = (ink_need){.stored_bytes = TEXT_ENDS, .n_parts = 3, .parts = ink_alloc_array(3, sizeof(ink_part))};
    assert_non_null(text->parts);
    for (int i = 0; i < 3; i++) text->parts[i] = denoise->parts[i];
    needs[INK_NEED_VAE].stored_bytes = VAE;
    assert_int_equal(ink_budget_apply_device(&plan, needs, limit, EXTRA, &error), expected);
    if (words && test_missing_word(error.message, words)) fail_msg("%s", error.message);
    assert_int_equal(denoise->n_stay, N_PARTS - plan.streamed_blocks);
    assert_int_equal(text->n_stay, 3 - plan.streamed_text_layers);
    assert_int_equal(plan.gpu_least_bytes, SCRATCH + EXTRA + ENDS + 2 * MAPPED);
    assert_true(expected != INK_OK || plan.gpu_peak_bytes <= limit);
    ink_needs_release(needs);
    return plan;
}

static void test_device_budget(void **state) {
    (void)state;
    const int64_t around = SCRATCH + EXTRA, text = TEXT_ENDS + 3 * MAPPED, denoise = ENDS + N_PARTS * MAPPED;
    ink_memory_plan plan = apply_device(around + text + denoise + VAE, 1, INK_OK, NULL);
    assert_true(plan.gpu_keeps_weights);
    assert_int_equal(plan.gpu_peak_bytes, around + text + denoise + VAE);
    plan = apply_device(around + text + denoise + VAE - 1, 1, INK_OK, NULL);
    assert_false(plan.gpu_keeps_weights);
    assert_int_equal(plan.gpu_weight_bytes, denoise);
    assert_int_equal(plan.streamed_blocks, 0);
    assert_int_equal(plan.gpu_host_bytes, 0);
    /* One byte less, and as many must go as two slots take, and one. */
    plan = apply_device(around + denoise - 1, 8 * (int64_t)MAPPED, INK_OK, NULL);
    assert_int_equal(plan.streamed_blocks, 3);
    assert_int_equal(plan.streamed_text_layers, 0);
    assert_int_equal(plan.streamed_bytes, 3 * MAPPED);
    assert_int_equal(plan.gpu_host_bytes, 3 * MAPPED);
    assert_int_equal(plan.gpu_weight_bytes, denoise - MAPPED);
    plan = apply_device(plan.gpu_least_bytes, 0, INK_OK, NULL);
    assert_int_equal(plan.streamed_blocks, N_PARTS);
    assert_int_equal(plan.streamed_text_layers, 3);
    assert_int_equal(plan.gpu_host_bytes, N_PARTS * MAPPED);
    apply_device(plan.gpu_least_bytes, N_PARTS * MAPPED - 1, INK_ERROR_MEMORY, "host|available");
    apply_device(plan.gpu_least_bytes - 1, 0, INK_ERROR_MEMORY, "247 MiB|at the least|smaller picture");
}

/* A need that may be held whole is, where all the others leave room for that. */
static void test_whole(void **state) {
    (void)state;
    enum { PASSING = 3 << 20, WHOLE = 90 << 20 };
    const int64_t all = SCRATCH + EXTRA + VAE + PASSING,
                  limits[] = {all + WHOLE - PASSING, all + WHOLE - PASSING - 1, all, all - 1};
    for (int i = 0; i < 4; i++) {
        ink_need needs[INK_N_NEEDS] = {{.n_parts = 0}};
        ink_error error;
        ink_memory_plan plan = {.scratch_bytes = SCRATCH};
        needs[INK_NEED_VAE].stored_bytes = VAE;
        needs[INK_NEED_MODULATION] = (ink_need){.stored_bytes = PASSING, .whole_bytes = WHOLE};
        assert_int_equal(ink_budget_apply_device(&plan, needs, limits[i], EXTRA, &error), INK_OK);
        assert_int_equal(needs[INK_NEED_MODULATION].whole, i == 0);
        assert_int_equal(plan.gpu_keeps_weights, i < 3);
        assert_int_equal(plan.gpu_peak_bytes, i == 0 ? limits[0] : i < 3 ? all : all - PASSING);
        assert_int_equal(plan.gpu_least_bytes, SCRATCH + EXTRA + VAE);
    }
}

/* ---- parts ----------------------------------------------------------------------------------------------------------- */

enum { BLOCKS = 2 };

typedef struct weights_of_block {
    ink_tensor bias;
    ink_weight q;
} weights_of_block;

static void bind_block(weights_of_block *block, ink_binder *b, int64_t dim, int i) {
    ink_bind_matrix(b, &block->q, dim, dim, "transformer_blocks.%d.attn.to_q.weight", i);
    ink_bind_vector(b, &block->bias, dim, "transformer_blocks.%d.attn.to_q.bias", i);
}

/* In place and converted: what a part has when it is acquired is what it has where it stays. */
static void check_parts(ink_precision precision) {
    ink_error error;
    ink_weights *weights;
    ink_residency *residency;
    ink_store store = {0}, all_store = {0};
    weights_of_block come[BLOCKS], stay[BLOCKS];
    assert_int_equal(ink_weights_open(&weights, TEST_GOLDEN "published/transformer", "diffusion_pytorch_model", &error), INK_OK);
    int64_t dim = ink_weights_find(weights, "transformer_blocks.0.attn.to_q.bias")->n_elements;
    assert_int_equal(ink_residency_create(&residency, weights, BLOCKS, 1, &error), INK_OK);
    ink_binder b = {.weights = weights,
                    .mode = INK_BIND_LOAD,
                    .precision = precision,
                    .residency = residency,
                    .store = &store,
                    .error = &error};
    ink_binder plain = b;
    plain.residency = NULL;
    plain.store = &all_store;
    for (int i = 0; i < BLOCKS; i++) {
        bind_block(&stay[i], &plain, dim, i);
        ink_bind_part(&b, i);
        bind_block(&come[i], &b, dim, i);
    }
    ink_bind_part(&b, -1);
    assert_int_equal(b.status, INK_OK);
    assert_int_equal(b.mode, INK_BIND_LOAD);
    assert_true(b.stored_bytes + b.mapped_bytes == plain.stored_bytes + plain.mapped_bytes);
    assert_non_null(come[0].q.data);
    assert_null(come[1].q.data);
    assert_int_equal(ink_residency_start(residency, &error), INK_OK);
    assert_false(ink_bind_acquire(&b, 0));
    for (int round = 0; round < 3; round++) {
        ink_residency_prefetch(residency, round); /* one that stays, one that does not, none */
        assert_true(ink_bind_acquire(&b, 1));
        bind_block(&come[1], &b, dim, 1);
        ink_bind_part(&b, -1);
        assert_int_equal(b.status, INK_OK);
        assert_int_equal(come[1].q.dtype, stay[1].q.dtype);
        assert_memory_equal(come[1].q.data, stay[1].q.data, (size_t)(ink_weight_bytes(&stay[1].q) / 2));
        assert_memory_equal(come[1].bias.data, stay[1].bias.data, (size_t)dim * sizeof(float));
        ink_residency_release(residency, 1);
        assert_int_equal(residency->buffer.used, 0);
    }
    ink_residency_release(residency, 0);
    ink_residency_destroy(&residency);
    ink_residency_destroy(&residency);
    ink_store_release(&store);
    ink_store_release(&all_store);
    ink_weights_close(&weights);
}

static void test_parts(void **state) {
    (void)state;
    const ink_precision precisions[] = {INK_PRECISION_AUTO, INK_PRECISION_F32, INK_PRECISION_BF16, INK_PRECISION_FP8,
                                        INK_PRECISION_INT8};
    for (int i = 0; i < 5; i++) check_parts(precisions[i]);
}

static void test_no_residency(void **state) {
    (void)state;
    ink_error error;
    ink_binder b = {.mode = INK_BIND_LOAD};
    ink_residency *none = NULL;
    ink_bind_part(&b, 3);
    assert_false(ink_bind_acquire(&b, 3));
    assert_true(ink_residency_stays(NULL, 7));
    assert_int_equal(ink_residency_start(NULL, &error), INK_OK);
    ink_residency_prefetch(NULL, 0);
    ink_residency_release(NULL, 0);
    ink_residency_destroy(&none);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_budget), cmocka_unit_test(test_spread), cmocka_unit_test(test_device_budget),
        cmocka_unit_test(test_whole),  cmocka_unit_test(test_parts),  cmocka_unit_test(test_no_residency),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
