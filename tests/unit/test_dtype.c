/* test_dtype.c - conversions of element types, bit by bit. */
#include <float.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "tensor/dtype.h"

static uint32_t bits_of(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static float from_bits(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* binary16 by moving fields: f32 has 8 bits of exponent (bias 127) where f16 has 5 (bias 15), and 13 more bits of mantissa. */
static uint32_t f32_bits_from_f16(uint32_t h) {
    uint32_t sign = (h & 0x8000u) << 16, exponent = (h >> 10) & 0x1fu, mantissa = h & 0x3ffu;
    if (exponent == 31) return sign | 0x7f800000u | mantissa << 13;
    if (exponent > 0) return sign | (exponent + 112) << 23 | mantissa << 13;
    if (mantissa == 0) return sign;
    /* A subnormal of f16 is a normal of f32: shift until the leading one is the hidden one. */
    exponent = 113;
    while (!(mantissa & 0x400u)) {
        mantissa <<= 1;
        exponent--;
    }
    return sign | exponent << 23 | (mantissa & 0x3ffu) << 13;
}

static void test_f16_all(void **state) {
    (void)state;
    for (uint32_t h = 0; h < 65536; h++) {
        float value = ink_f32_from_f16((uint16_t)h);
        uint32_t expected = f32_bits_from_f16(h);
        if (isnan(from_bits(expected)))
            assert_true(isnan(value));
        else
            assert_int_equal(bits_of(value), expected);
    }
}

static void test_bf16_all_widen_and_come_back(void **state) {
    (void)state;
    for (uint32_t b = 0; b < 65536; b++) {
        float value = ink_f32_from_bf16((uint16_t)b);
        assert_int_equal(bits_of(value), b << 16);
        if (isnan(value))
            assert_true(isnan(ink_round_to_bf16(value)));
        else
            assert_int_equal(ink_bf16_from_f32(value), b);
    }
}

static void test_bf16_rounding(void **state) {
    (void)state;
    static const struct {
        uint32_t from;
        uint16_t to;
    } cases[] = {
        {0x3f800000, 0x3f80}, /* 1 */
        {0x3f807fff, 0x3f80}, /* below half */
        {0x3f808000, 0x3f80}, /* a tie, to even: down */
        {0x3f808001, 0x3f81}, /* above half */
        {0x3f818000, 0x3f82}, /* a tie, to even: up */
        {0xbf818000, 0xbf82}, /* sign apart from magnitude */
        {0x3fffffff, 0x4000}, /* carries into the exponent */
        {0x00000001, 0x0000}, /* the smallest subnormal */
        {0x00008001, 0x0001}, /* rounds up to a subnormal of bf16 */
        {0x007fffff, 0x0080}, /* the largest subnormal becomes normal */
        {0x80000000, 0x8000}, /* -0 */
        {0x7f7f7fff, 0x7f7f}, /* the last that stays finite */
        {0x7f7f8000, 0x7f80}, /* FLT_MAX and its neighbours overflow */
        {0x7f7fffff, 0x7f80}, {0x7f800000, 0x7f80}, {0xff800000, 0xff80},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        assert_int_equal(ink_bf16_from_f32(from_bits(cases[i].from)), cases[i].to);
}

/* A NaN whose payload is all in the lower half must not become an infinity. */
static void test_bf16_nan(void **state) {
    (void)state;
    static const uint32_t nans[] = {0x7f800001, 0x7f80ffff, 0x7fc00000, 0x7fffffff, 0xff800001, 0xffffffff};
    for (size_t i = 0; i < sizeof nans / sizeof *nans; i++) {
        uint16_t b = ink_bf16_from_f32(from_bits(nans[i]));
        assert_true(isnan(ink_f32_from_bf16(b)));
        assert_int_equal(b >> 15, nans[i] >> 31);
    }
}

/* Nearest of the two neighbours, checked by distance rather than by bits. */
static void test_bf16_is_nearest(void **state) {
    (void)state;
    uint32_t random = 1;
    for (int i = 0; i < 100000; i++) {
        random = random * 1664525u + 1013904223u;
        float value = from_bits(random);
        if (!isfinite(value) || fabsf(value) > 1e38f || fabsf(value) < 1e-36f) continue;
        double down = from_bits(random & 0xffff0000u), up = from_bits((random & 0xffff0000u) + 0x10000u);
        double distance = fabs(value - (double)ink_round_to_bf16(value));
        assert_true(distance == fmin(fabs(value - down), fabs(value - up)));
    }
}

static void test_convert(void **state) {
    (void)state;
    enum { N = 9 };
    static const float values[N] = {0, -0.0f, 1, -2.5f, 65504, 0x1p-24f, 0.333251953125f, -1e-3f, 3};
    static const uint16_t halves[N] = {0, 0x8000, 0x3c00, 0xc100, 0x7bff, 0x0001, 0x3555, 0x9419, 0x4200};
    unsigned char raw[4 * N + 1];
    float wide[N];
    uint16_t narrow[N];

    for (int offset = 0; offset < 2; offset++) {
        memcpy(raw + offset, values, sizeof values);
        ink_convert(wide, INK_F32, raw + offset, INK_F32, N);
        assert_memory_equal(wide, values, sizeof values);
        ink_convert(narrow, INK_BF16, raw + offset, INK_F32, N);
        for (int i = 0; i < N; i++) assert_int_equal(narrow[i], ink_bf16_from_f32(values[i]));

        memcpy(raw + offset, halves, sizeof halves);
        ink_convert(wide, INK_F32, raw + offset, INK_F16, N);
        for (int i = 0; i < N; i++) assert_int_equal(bits_of(wide[i]), f32_bits_from_f16(halves[i]));
        ink_convert(narrow, INK_BF16, raw + offset, INK_F16, N);
        for (int i = 0; i < N; i++) assert_int_equal(narrow[i], ink_bf16_from_f32(ink_f32_from_f16(halves[i])));
        ink_convert(wide, INK_F32, raw + offset, INK_BF16, N);
        for (int i = 0; i < N; i++) assert_int_equal(bits_of(wide[i]), (uint32_t)halves[i] << 16);
        ink_convert(narrow, INK_BF16, raw + offset, INK_BF16, N);
        assert_memory_equal(narrow, halves, sizeof halves);
    }
    ink_convert(wide, INK_F32, raw, INK_F16, 0);
}

/* 1 sign, 4 exponent (bias 7), 3 mantissa; no infinities, and NaN only where all bits of both fields are set. */
static void test_f8_all(void **state) {
    (void)state;
    for (int b = 0; b < 256; b++) {
        int exponent = (b >> 3) & 15, mantissa = b & 7;
        double magnitude = exponent ? ldexp(1 + mantissa / 8.0, exponent - 7) : ldexp(mantissa / 8.0, -6);
        float value = ink_f32_from_f8_e4m3((uint8_t)b), converted;
        const uint8_t byte = (uint8_t)b;
        ink_convert(&converted, INK_F32, &byte, INK_F8_E4M3, 1);
        if ((b & 0x7f) == 0x7f) {
            assert_true(isnan(value) && isnan(converted));
            continue;
        }
        assert_true(value == (float)(b & 0x80 ? -magnitude : magnitude));
        assert_int_equal(signbit(value) != 0, b >> 7);
        assert_int_equal(bits_of(converted), bits_of(value));
    }
}

static void test_names_and_sizes(void **state) {
    (void)state;
    assert_string_equal(ink_dtype_name(INK_F32), "F32");
    assert_string_equal(ink_dtype_name(INK_BF16), "BF16");
    assert_string_equal(ink_dtype_name(INK_F16), "F16");
    assert_int_equal(ink_dtype_size(INK_F32), 4);
    assert_int_equal(ink_dtype_size(INK_BF16), 2);
    assert_int_equal(ink_dtype_size(INK_F16), 2);
    assert_int_equal(ink_dtype_size(INK_F8_E4M3), 1);
    assert_int_equal(ink_dtype_size(INK_Q4_K), 0);
    assert_int_equal(ink_dtype_size(INK_OTHER_DTYPE), 0);
    for (ink_dtype dtype = INK_F32; dtype < INK_OTHER_DTYPE; dtype++) {
        assert_true(ink_dtype_block_elements(dtype) > 0);
        assert_true(ink_dtype_block_bytes(dtype) > 0);
        assert_int_equal(ink_dtype_is_float(dtype), ink_dtype_size(dtype) != 0);
        if (ink_dtype_is_float(dtype)) {
            assert_int_equal(ink_dtype_block_elements(dtype), 1);
            assert_int_equal(ink_dtype_block_bytes(dtype), ink_dtype_size(dtype));
        }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_f16_all),         cmocka_unit_test(test_bf16_all_widen_and_come_back),
        cmocka_unit_test(test_bf16_rounding),   cmocka_unit_test(test_bf16_nan),
        cmocka_unit_test(test_bf16_is_nearest), cmocka_unit_test(test_convert),
        cmocka_unit_test(test_f8_all),          cmocka_unit_test(test_names_and_sizes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
