/* test_synthetic.c - random weights: their forms, sizes and statistics, and the architectures that they fill. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/memory.h"
#include "model/architecture.h"
#include "model/mmdit.h"
#include "pipeline/model.h"
#include "support/golden.h"

enum { ROWS = 300, COLS = 192 };

static ink_synthetic *create(ink_threads *threads) {
    ink_synthetic *synthetic = ink_synthetic_create(threads);
    assert_non_null(synthetic);
    return synthetic;
}

static ink_binder binder_of(ink_synthetic *synthetic, ink_precision precision, ink_store *store) {
    return (ink_binder){.synthetic = synthetic, .mode = INK_BIND_LOAD, .precision = precision, .store = store};
}

static void decode(float *dst, const ink_weight *w) {
    for (int64_t row = 0; row < w->rows; row++) ink_weight_decode(dst + row * w->cols, w, row, 0, w->cols);
}

static void check_statistics(const float *x, int64_t n, double deviation, double margin) {
    double sum = 0, squares = 0;
    for (int64_t i = 0; i < n; i++) {
        sum += (double)x[i];
        squares += (double)x[i] * (double)x[i];
    }
    double found = sqrt(squares / (double)n);
    assert_true(fabs(sum / (double)n) < margin * deviation);
    assert_true(fabs(found - deviation) < margin * deviation);
}

/* Every form decodes to normal numbers of the right size, in memory of its own, and is what the precision says. */
static void test_forms(void **state) {
    (void)state;
    static const struct {
        ink_precision precision;
        ink_dtype plain, sensitive;
    } cases[] = {{INK_PRECISION_F32, INK_F32, INK_F32},      {INK_PRECISION_BF16, INK_BF16, INK_BF16},
                 {INK_PRECISION_AUTO, INK_BF16, INK_BF16},   {INK_PRECISION_FP8, INK_F8_E4M3, INK_BF16},
                 {INK_PRECISION_Q8, INK_AFFINE_8, INK_BF16}, {INK_PRECISION_Q4, INK_AFFINE_4, INK_BF16},
                 {INK_PRECISION_INT8, INK_I8, INK_BF16}};
    ink_threads *threads = ink_threads_create(2);
    ink_synthetic *synthetic = create(threads);
    float *x = ink_alloc_array(ROWS * COLS, sizeof *x);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        ink_store store = {0};
        ink_binder b = binder_of(synthetic, cases[i].precision, &store);
        ink_weight plain, sensitive, conv;
        ink_bind_matrix(&b, &plain, ROWS, COLS, "layer.%d.weight", 1);
        ink_bind_sensitive_matrix(&b, &sensitive, ROWS, COLS, "layer.2.weight");
        ink_bind_conv(&b, &conv, 8, 16, 3, "conv.weight");
        assert_int_equal(b.status, INK_OK);
        assert_int_equal(plain.dtype, cases[i].plain);
        assert_int_equal(sensitive.dtype, cases[i].sensitive);
        assert_int_equal(conv.cols, 144);
        assert_true(plain.data != sensitive.data);
        assert_int_equal(b.stored_bytes, ink_weight_bytes(&plain) + ink_weight_bytes(&sensitive) + ink_weight_bytes(&conv));
        assert_int_equal(b.stored_bytes, store.bytes);
        decode(x, &plain);
        check_statistics(x, ROWS * COLS, 1 / sqrt(COLS), 0.05);
        ink_store_release(&store);
    }
    ink_free(x);
    ink_synthetic_destroy(&synthetic);
    ink_threads_destroy(threads);
}

/* A name means the same numbers, whatever was bound before and by however many threads; another name means others. */
static void test_reproducible(void **state) {
    (void)state;
    ink_threads *one = ink_threads_create(1), *three = ink_threads_create(3);
    ink_synthetic *first = create(one), *second = create(three);
    ink_store store = {0};
    ink_binder a = binder_of(first, INK_PRECISION_Q4, &store), b = binder_of(second, INK_PRECISION_Q4, &store);
    ink_weight wa, wb, other;
    ink_bind_matrix(&a, &wa, ROWS, COLS, "w.weight");
    ink_bind_matrix(&b, &other, ROWS, COLS, "other.weight");
    ink_bind_matrix(&b, &wb, ROWS, COLS, "w.weight");
    size_t codes = ROWS * COLS / 2, scales = ROWS * COLS / 64 * sizeof(uint16_t);
    assert_memory_equal(wa.data, wb.data, codes);
    assert_memory_equal(wa.scales, wb.scales, scales);
    assert_memory_equal(wa.biases, wb.biases, scales);
    assert_true(memcmp(other.data, wb.data, codes) != 0);
    ink_tensor norm, bias;
    ink_bind_vector(&a, &norm, 4000, "block.norm_q.weight");
    ink_bind_vector(&a, &bias, 4000, "norm_out.linear.bias");
    check_statistics(bias.data, 4000, 0.02, 0.1);
    for (int i = 0; i < 4000; i++) norm.data[i] -= 1;
    check_statistics(norm.data, 4000, 0.1, 0.1);
    ink_store_release(&store);
    ink_synthetic_destroy(&first);
    ink_synthetic_destroy(&second);
    ink_threads_destroy(one);
    ink_threads_destroy(three);
}

/* The published sizes have the published numbers of parameters, and agree with the configs as published. */
static void test_published(void **state) {
    (void)state;
    ink_config config, read = {0};
    int64_t blocks;
    ink_error error;
    ink_threads *threads = ink_threads_create(1);
    ink_synthetic *synthetic = create(threads);
    assert_int_equal(ink_architecture_find(&config, &blocks, "qwen-image", &error), INK_OK);
    assert_int_equal(blocks, 60);
    assert_int_equal(ink_config_check(&config, "qwen-image", &error), INK_OK);
    static const int64_t parameters[] = {[INK_TEXT_ENCODER] = 7070619136, [INK_TRANSFORMER] = 13604306496};
    for (int i = 0; i < INK_N_COMPONENTS; i++) {
        ink_binder b = {.synthetic = synthetic, .mode = INK_BIND_CHECK, .precision = INK_PRECISION_F32};
        if (i == INK_TRANSFORMER) {
            ink_mmdit mmdit;
            ink_mmdit_bind(&mmdit, &config.mmdit, &b);
            ink_mmdit_release(&mmdit);
        } else {
            ink_model_bind_all(&b, &config, (ink_component)i);
        }
        assert_int_equal(b.status, INK_OK);
        /* The table of tokens has 16 bits, as the published one. */
        int64_t in_table = i == INK_TEXT_ENCODER ? config.text_encoder.vocab_size * config.text_encoder.hidden_size : 0;
        if (i != INK_VAE) assert_int_equal(b.stored_bytes, 4 * parameters[i] - 2 * in_table);
    }
    assert_int_equal(ink_config_read(&read, INK_CONFIG_SCHEDULER, TEST_GOLDEN "published", &error), INK_OK);
    assert_memory_equal(&read.scheduler, &config.scheduler, sizeof read.scheduler);
    assert_int_equal(ink_config_read(&read, INK_CONFIG_VAE, TEST_GOLDEN "published", &error), INK_OK);
    assert_memory_equal(read.vae.latents_mean, config.vae.latents_mean, sizeof read.vae.latents_mean);
    assert_memory_equal(read.vae.latents_std, config.vae.latents_std, sizeof read.vae.latents_std);
    ink_config_close(&read);
    ink_config_close(&config);
    ink_synthetic_destroy(&synthetic);
    ink_threads_destroy(threads);
}

static void test_architectures(void **state) {
    (void)state;
    ink_config config;
    int64_t blocks;
    ink_error error;
    assert_int_equal(ink_architecture_find(&config, &blocks, "qwen-image:3", &error), INK_OK);
    assert_int_equal(config.mmdit.n_layers, 3);
    assert_int_equal(blocks, 60);
    assert_int_equal(ink_architecture_find(&config, &blocks, "tiny", &error), INK_OK);
    assert_int_equal(ink_config_check(&config, "tiny", &error), INK_OK);
    static const char *const wrong[] = {
        "",  "qwen",   "qwen-image:", "qwen-image:0", "qwen-image:61",     "qwen-image:-1", "qwen-image:+1",
        ":", "tiny:x", "tiny:1x",     "tiny: 1",      "qwen-image:9999999"};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        assert_int_equal(ink_architecture_find(&config, &blocks, wrong[i], &error), INK_ERROR_ARGUMENT);
        assert_true(error.message[0] != 0);
    }
}

/* Without memory for a pool or a matrix there is a sentence and no leak. */
static void test_no_memory(void **state) {
    (void)state;
    ink_threads *threads = ink_threads_create(1);
    for (int64_t allowed = 0;; allowed++) {
        ink_alloc_fail_after(allowed);
        ink_synthetic *synthetic = ink_synthetic_create(threads);
        ink_store store = {0};
        ink_error error = {0};
        ink_weight w;
        ink_status status = INK_ERROR_MEMORY;
        if (synthetic) {
            ink_binder b = binder_of(synthetic, INK_PRECISION_Q8, &store);
            b.error = &error;
            ink_bind_matrix(&b, &w, ROWS, COLS, "w.weight");
            status = b.status;
        }
        ink_alloc_fail_after(-1);
        ink_store_release(&store);
        ink_synthetic_destroy(&synthetic);
        if (status == INK_OK) break;
        assert_int_equal(status, INK_ERROR_MEMORY);
    }
    ink_threads_destroy(threads);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_forms),         cmocka_unit_test(test_reproducible), cmocka_unit_test(test_published),
        cmocka_unit_test(test_architectures), cmocka_unit_test(test_no_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
