/* test_integer_weights.c - matrices in signed 8-bit integers: how rows are rounded, how files hold them, and what is refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "inkstone.h"
#include "ops/ops.h"
#include "support/files.h"
#include "tensor/binder.h"
#include "tensor/quantize.h"

/* ---- rows -------------------------------------------------------------------------------------------------------------- */

static void test_row(void **state) {
    (void)state;
    float x[300], scale;
    int8_t q[300];
    for (int turn = 0; turn < 20; turn++) {
        ink_randn_torch_cpu_f32(x, 300, (uint64_t)turn);
        float most = 0, sign = turn % 2 ? -1 : 1;
        for (int i = 0; i < 300; i++) most = fmaxf(most, fabsf(x[i]));
        x[turn] = sign * (most + 1);
        ink_quantize_i8(x, 300, q, &scale);
        assert_true(scale == (most + 1) / 127);
        assert_true(q[turn] == sign * 127);
        for (int i = 0; i < 300; i++) assert_true(fabs((double)q[i] * scale - x[i]) <= 0.5001 * scale);
    }
}

/* Halves go to the even neighbour. */
static void test_ties(void **state) {
    (void)state;
    const float x[] = {254, 1, 3, 5, -1, -3, -5, 0.5f};
    const int8_t expected[] = {127, 0, 2, 2, 0, -2, -2, 0};
    float scale;
    int8_t q[8];
    ink_quantize_i8(x, 8, q, &scale);
    assert_true(scale == 2);
    assert_memory_equal(q, expected, sizeof q);
}

static void test_rows_without_range(void **state) {
    (void)state;
    const float rows[][3] = {{0, -0.0f, 0}, {0x1.fp-101f, 0, -0x1p-149f}, {1, NAN, 2}, {INFINITY, 1, 0}, {-INFINITY, NAN, 0}};
    float scale;
    int8_t q[3];
    for (int i = 0; i < 5; i++) {
        memset(q, 1, sizeof q);
        ink_quantize_i8(rows[i], 3, q, &scale);
        assert_true(q[0] == 0 && q[1] == 0 && q[2] == 0);
        assert_true(i < 2 ? scale == 0 : isnan(scale));
    }
    const float largest[] = {FLT_MAX, -FLT_MAX, FLT_MAX / 127}, least[] = {0x1p-100f, -0x1p-100f, 0};
    ink_quantize_i8(largest, 3, q, &scale);
    assert_true(q[0] == 127 && q[1] == -127 && q[2] == 1 && isfinite(scale));
    ink_quantize_i8(least, 3, q, &scale);
    assert_true(q[0] == 127 && q[1] == -127 && q[2] == 0 && scale > 0);
}

/* ---- files -------------------------------------------------------------------------------------------------------------- */

#define T(dtype, shape, from, to) "{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":[" #from "," #to "]}"
#define MATRIX "{\"x.weight\":" T("I8", "[2,3]", 0, 6)

/* X.weight [2, 3] and what lies beside it, as the binder reads it in that precision. */
static ink_status bind(ink_weight *w, float decoded[6], ink_precision precision, const char *header, size_t n_bytes,
                       ink_error *error) {
    static const int8_t codes[6] = {127, -128, 0, 1, -1, 100};
    static const float scales[2] = {0.5f, -2};
    unsigned char data[24] = {0};
    char folder[TEST_PATH];
    ink_weights *weights;
    memcpy(data, codes, sizeof codes);
    memcpy(data + 6, scales, sizeof scales); /* aligned to nothing */
    test_folder_create(folder);
    test_write_safetensors(folder, "w.safetensors", header, data, n_bytes);
    assert_int_equal(ink_weights_open(&weights, folder, "w", error), INK_OK);
    ink_store store = {0};
    ink_binder binder = {.weights = weights, .mode = INK_BIND_LOAD, .precision = precision, .store = &store, .error = error};
    ink_bind_matrix(&binder, w, 2, 3, "x.weight");
    for (int i = 0; i < 2 && binder.status == INK_OK; i++) ink_weight_decode(decoded + 3 * i, w, i, 0, 3);
    ink_store_release(&store);
    ink_weights_close(&weights);
    test_folder_remove(folder);
    return binder.status;
}

static void test_forms(void **state) {
    (void)state;
    static const struct {
        const char *header;
        size_t n_bytes;
        float second; /* scale */
    } cases[] = {{MATRIX ",\"x.weight_scale\":" T("F32", "[2]", 6, 14) "}", 14, -2},
                 {MATRIX ",\"x.weight_scale\":" T("F32", "[2,1]", 6, 14) "}", 14, -2},
                 {MATRIX ",\"x.scale_weight\":" T("F32", "[1]", 6, 10) "}", 10, 0.5f}};
    static const ink_precision precisions[] = {INK_PRECISION_AUTO, INK_PRECISION_INT8, INK_PRECISION_Q4, INK_PRECISION_F32};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        for (size_t j = 0; j < sizeof precisions / sizeof *precisions; j++) {
            ink_weight w;
            ink_error error = {0};
            float decoded[6];
            if (bind(&w, decoded, precisions[j], cases[i].header, cases[i].n_bytes, &error) != INK_OK)
                fail_msg("%s", error.message);
            const float second = cases[i].second, expected[6] = {63.5f, -64, 0, second, -second, 100 * second};
            assert_memory_equal(decoded, expected, sizeof decoded);
            assert_int_equal(w.dtype, precisions[j] == INK_PRECISION_F32 ? INK_F32 : INK_I8);
        }
}

static void test_what_is_refused(void **state) {
    (void)state;
    static const struct {
        const char *header;
        size_t n_bytes;
        const char *sentence;
    } cases[] = {
        {MATRIX "}", 6, "tensor x.weight is stored as I8, only integers with a scale for each row are supported"},
        {MATRIX ",\"x.weight_scale\":" T("F32", "[2,2]", 6, 22) "}", 22, "x.weight_scale has shape [2, 2], expected [1] or [2]"},
        {MATRIX ",\"x.weight_scale\":" T("F32", "[0]", 6, 6) "}", 6, "x.weight_scale has shape [0], expected [1] or [2]"},
        {MATRIX ",\"x.weight_scale\":" T("I8", "[2]", 6, 8) "}", 8, "expected [1] or [2] of F32, BF16 or F16"},
        {"{\"x.weight\":" T("I8", "[3,2]", 0, 6) ",\"x.weight_scale\":" T("F32", "[2]", 6, 14) "}", 14, "expected [2, 3]"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        ink_weight w;
        ink_error error = {0};
        float decoded[6];
        assert_int_not_equal(bind(&w, decoded, INK_PRECISION_INT8, cases[i].header, cases[i].n_bytes, &error), INK_OK);
        if (!strstr(error.message, cases[i].sentence)) fail_msg("expected ...%s..., got %s", cases[i].sentence, error.message);
    }
}

/* ---- what it costs ------------------------------------------------------------------------------------------------------ */

/* Relative L2 of x w^T in integers, or with weights alone in such: docs/numerics.md shows these figures. */
static double error_of_product(int64_t n_large, float times, bool may_round) {
    enum { ROWS = 64, IN = 3072, OUT = 256 };
    float *w = malloc(OUT * IN * sizeof *w), *scales = malloc(OUT * sizeof *scales);
    int8_t *codes = malloc(OUT * IN);
    ink_tensor x = ink_view(malloc(ROWS * IN * sizeof(float)), ROWS, IN),
               exact = ink_view(malloc(ROWS * OUT * sizeof(float)), ROWS, OUT),
               found = ink_view(malloc(ROWS * OUT * sizeof(float)), ROWS, OUT);
    ink_linear_epilogue e = {.may_round = may_round, .packed = aligned_alloc(64, (size_t)ink_packed_bytes(ROWS, 1, IN))};
    assert_true(w && scales && codes && x.data && exact.data && found.data && e.packed);
    ink_randn_torch_cpu_f32(w, (int64_t)OUT * IN, 1);
    ink_randn_torch_cpu_f32(x.data, (int64_t)ROWS * IN, 2);
    for (int64_t i = 0; i < ROWS; i++)
        for (int64_t j = 0; j < n_large; j++) ink_row(x, i)[5 + 307 * j] *= times;
    ink_weight f32 = {.dtype = INK_F32, .data = w, .rows = OUT, .cols = IN}, i8;
    ink_quantize_describe(&i8, INK_I8, OUT, IN);
    i8.data = codes;
    i8.scales = scales;
    for (int64_t i = 0; i < OUT; i++) ink_quantize_encode_row(&i8, i, w + i * IN);
    ink_threads *threads = ink_threads_create(2);
    ink_device device;
    const char *why;
    assert_true(ink_device_open(&device, "c", threads, &why));
    device.ops->linear(&device, exact, x, &f32, e);
    device.ops->linear(&device, found, x, &i8, e);
    double difference = 0, norm = 0;
    for (int64_t i = 0; i < ROWS * OUT; i++) {
        difference += ((double)found.data[i] - exact.data[i]) * ((double)found.data[i] - exact.data[i]);
        norm += (double)exact.data[i] * exact.data[i];
    }
    ink_threads_destroy(threads);
    free(w), free(scales), free(codes), free(x.data), free(exact.data), free(found.data), free(e.packed);
    return sqrt(difference / norm);
}

static void test_error_of_products(void **state) {
    (void)state;
    static const struct {
        int64_t n_large;
        float times;
        double of_weights, of_both;
    } cases[] = {{0, 1, 8.7e-3, 1.2e-2}, {1, 10, 8.7e-3, 2.5e-2}, {1, 100, 8.8e-3, 1.1e-1}, {10, 30, 8.8e-3, 7.2e-2}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        for (int both = 0; both < 2; both++) {
            double expected = both ? cases[i].of_both : cases[i].of_weights;
            double found = error_of_product(cases[i].n_large, cases[i].times, both != 0);
            if (fabs(found - expected) > 0.15 * expected) fail_msg("case %zu, %d: %.3g, not %.3g", i, both, found, expected);
        }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_row),
                                       cmocka_unit_test(test_ties),
                                       cmocka_unit_test(test_rows_without_range),
                                       cmocka_unit_test(test_forms),
                                       cmocka_unit_test(test_what_is_refused),
                                       cmocka_unit_test(test_error_of_products)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
