/*
 * test_gguf_blocks.c - blocks against what the Python package `gguf` decoded (tools/make_gguf_vectors.py), bit for bit.
 *
 * INK_TEST_GGUF_BLOCKS=FILE reads another recording, such as one with many more random blocks.
 */
#define _XOPEN_SOURCE 700
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tensor/gguf_blocks.h"
#include "tensor/safetensors.h"

#define COUNT(array) (sizeof(array) / sizeof *(array))
#define RECORDED INK_TEST_SOURCE_DIR "/tests/golden/gguf/blocks.safetensors"

static const ink_dtype block_types[] = {
    INK_Q8_0, INK_Q4_0, INK_Q4_1, INK_Q5_0, INK_Q5_1, INK_Q2_K, INK_Q3_K, INK_Q4_K, INK_Q5_K, INK_Q6_K, INK_IQ4_NL, INK_IQ4_XS,
};

static const ink_tensor_info *find(const ink_safetensors *st, ink_dtype dtype, const char *what) {
    char name[40];
    snprintf(name, sizeof name, "%s.%s", ink_dtype_name(dtype), what);
    const ink_tensor_info *info = ink_safetensors_find(st, name);
    if (!info) fail_msg("%s is not recorded", name);
    return info;
}

/* The bits of a NaN are the machine's affair. */
static bool same(float a, float b) { return memcmp(&a, &b, sizeof a) == 0 || (isnan(a) && isnan(b)); }

/* The blocks in an allocation of exactly their size, `offset` bytes off its beginning, so that a sanitizer sees a byte too far. */
static void check_blocks(ink_dtype dtype, const ink_tensor_info *blocks, const ink_tensor_info *values, size_t offset) {
    enum { GUARD = 4 };
    unsigned char *raw = malloc(offset + blocks->n_bytes);
    size_t n = (size_t)values->n_elements;
    float *decoded = malloc((n + GUARD) * sizeof *decoded);
    assert_true(raw && decoded);
    memcpy(raw + offset, blocks->data, blocks->n_bytes);
    for (size_t i = 0; i < n + GUARD; i++) decoded[i] = -12345;
    ink_gguf_decode(decoded, dtype, raw + offset, blocks->shape[0]);
    for (size_t i = 0; i < n; i++) {
        float expected;
        memcpy(&expected, values->data + sizeof expected * i, sizeof expected);
        if (!same(decoded[i], expected))
            fail_msg("%s: block %zu, element %zu: expected %a, found %a", ink_dtype_name(dtype), i / (size_t)values->shape[1],
                     i % (size_t)values->shape[1], (double)expected, (double)decoded[i]);
    }
    for (size_t i = n; i < n + GUARD; i++) assert_true(decoded[i] == -12345);
    free(decoded);
    free(raw);
}

static void decodes_as_the_reference(void **state) {
    (void)state;
    const char *path = getenv("INK_TEST_GGUF_BLOCKS");
    ink_safetensors st;
    ink_error error;
    if (ink_safetensors_open(&st, path ? path : RECORDED, &error) != INK_OK) fail_msg("%s", error.message);
    for (size_t i = 0; i < COUNT(block_types); i++) {
        ink_dtype dtype = block_types[i];
        const ink_tensor_info *blocks = find(&st, dtype, "blocks"), *values = find(&st, dtype, "values");
        assert_int_equal(blocks->shape[1], ink_dtype_block_bytes(dtype));
        assert_int_equal(values->shape[1], ink_dtype_block_elements(dtype));
        assert_int_equal(values->shape[0], blocks->shape[0]);
        assert_true(blocks->shape[0] > 20);
        for (size_t offset = 0; offset < 4; offset++) check_blocks(dtype, blocks, values, offset);
    }
    ink_safetensors_close(&st);
}

static bool has_minimum(ink_dtype dtype) {
    return dtype == INK_Q4_1 || dtype == INK_Q5_1 || dtype == INK_Q2_K || dtype == INK_Q4_K || dtype == INK_Q5_K;
}

/* A recording without numbers that are none, zeros of both signs and subnormals would test little. */
static void the_recording_holds_what_is_hard(void **state) {
    (void)state;
    ink_safetensors st;
    assert_int_equal(ink_safetensors_open(&st, RECORDED, NULL), INK_OK);
    for (size_t i = 0; i < COUNT(block_types); i++) {
        const ink_tensor_info *values = find(&st, block_types[i], "values");
        int64_t n_nan = 0, n_infinite = 0, n_negative_zero = 0, n_tiny = 0;
        for (int64_t j = 0; j < values->n_elements; j++) {
            float value;
            memcpy(&value, values->data + sizeof value * (size_t)j, sizeof value);
            n_nan += isnan(value);
            n_infinite += isinf(value) != 0;
            n_negative_zero += value == 0 && signbit(value);
            n_tiny += value != 0 && fabsf(value) < 1e-6f;
        }
        assert_true(n_nan > 0 && n_infinite > 0 && n_tiny > 0);
        /* With a minimum to subtract, zeros of both signs meet and give +0. */
        if (!has_minimum(block_types[i])) assert_true(n_negative_zero > 0);
    }
    ink_safetensors_close(&st);
}

static void knows_its_types(void **state) {
    (void)state;
    int n = 0;
    for (int dtype = 0; dtype <= INK_OTHER_DTYPE; dtype++) n += ink_gguf_is_block_type((ink_dtype)dtype);
    assert_int_equal(n, COUNT(block_types));
    for (size_t i = 0; i < COUNT(block_types); i++) {
        assert_true(ink_gguf_is_block_type(block_types[i]));
        ink_gguf_decode(NULL, block_types[i], NULL, 0);
    }
    assert_false(ink_gguf_is_block_type(INK_F32) || ink_gguf_is_block_type(INK_AFFINE_4));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(decodes_as_the_reference),
        cmocka_unit_test(the_recording_holds_what_is_hard),
        cmocka_unit_test(knows_its_types),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
