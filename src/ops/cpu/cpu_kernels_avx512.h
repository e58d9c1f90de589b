/*
 * cpu_kernels_avx512.h - what tiers with 64-byte vectors do by hand: loops around the exponential, for which compilers make twice
 * as many instructions, the epilogue of products, rows in 8 bits, and turning tiles of panels. Included by their kernel files
 * before the template, which then leaves these functions out or calls them.
 */
#ifndef INK_OPS_CPU_CPU_KERNELS_AVX512_H
#define INK_OPS_CPU_CPU_KERNELS_AVX512_H

#include <immintrin.h>
#include <math.h>
#include <stdbool.h>
#include <stdint.h>

#include "ops/cpu/cpu_kernels.h"

#define HAVE_EXP_LOOPS
#define TRANSPOSE_TILE transpose_tile
#define HAVE_I8_ROWS

/* Row i of the tile, row_bytes after the one before, gets the i-th four bytes of each of 16 rows; one after the other. */
static inline void transpose_tile(unsigned char *tile, int64_t row_bytes, const unsigned char *rows, int64_t stride) {
    __m512i part[4][4]; /* [c][i]: of rows i, i + 4, i + 8, i + 12 the bytes from 16 c on */
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++)
#pragma GCC unroll 4
        for (int c = 0; c < 4; c++) {
            const unsigned char *from = rows + i * stride + c * 16;
            __m512i x = _mm512_castsi128_si512(_mm_loadu_si128((const void *)from));
            x = _mm512_mask_broadcast_i32x4(x, 0x00f0, _mm_loadu_si128((const void *)(from + 4 * stride)));
            x = _mm512_mask_broadcast_i32x4(x, 0x0f00, _mm_loadu_si128((const void *)(from + 8 * stride)));
            part[c][i] = _mm512_mask_broadcast_i32x4(x, 0xf000, _mm_loadu_si128((const void *)(from + 12 * stride)));
        }
#pragma GCC unroll 4
    for (int c = 0; c < 4; c++) {
        __m512i a = _mm512_unpacklo_epi32(part[c][0], part[c][1]), b = _mm512_unpackhi_epi32(part[c][0], part[c][1]);
        __m512i d = _mm512_unpacklo_epi32(part[c][2], part[c][3]), e = _mm512_unpackhi_epi32(part[c][2], part[c][3]);
        unsigned char *to = tile + 4 * c * row_bytes;
        _mm512_storeu_si512(to, _mm512_unpacklo_epi64(a, d));
        _mm512_storeu_si512(to + row_bytes, _mm512_unpackhi_epi64(a, d));
        _mm512_storeu_si512(to + 2 * row_bytes, _mm512_unpacklo_epi64(b, e));
        _mm512_storeu_si512(to + 3 * row_bytes, _mm512_unpackhi_epi64(b, e));
    }
}

/* Of the next 16 numbers of n, which are there. */
static inline __mmask16 lanes_of(int64_t n) { return n >= 16 ? 0xffff : (__mmask16)((1u << n) - 1); }

/* e^x to about 1 ulp: x = n ln 2 + r, e^r by its Taylor series, whose rest at degree 8 is below 6e-9. 0 below -87; NaN stays. */
static inline __m512 exp_lanes(__m512 x) {
    __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504f)), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693359375f), x);
    r = _mm512_fnmadd_ps(n, _mm512_set1_ps(-2.12194440e-4f), r);
    __m512 p = _mm512_fmadd_ps(r, _mm512_set1_ps(1.98412698e-4f), _mm512_set1_ps(1.38888889e-3f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(8.33333333e-3f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(4.16666667e-2f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.66666667e-1f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0.5f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f));
    __mmask16 kept = _mm512_cmp_ps_mask(x, _mm512_set1_ps(-87.0f), _CMP_NLT_UQ);
    return _mm512_maskz_scalef_ps(kept, p, n);
}

/* x / (1 + e^-y), by a reciprocal and a step of Newton's method; 0 where e^-y is no number to speak of. */
static inline __m512 times_sigmoid(__m512 x, __m512 y) {
    const __m512 one = _mm512_set1_ps(1.0f);
    __mmask16 kept = _mm512_cmp_ps_mask(y, _mm512_set1_ps(-87.0f), _CMP_NLT_UQ);
    __m512 divisor = _mm512_add_ps(one, exp_lanes(_mm512_sub_ps(_mm512_setzero_ps(), y)));
    __m512 inverse = _mm512_rcp14_ps(divisor);
    inverse = _mm512_fmadd_ps(inverse, _mm512_fnmadd_ps(divisor, inverse, one), inverse);
    return _mm512_maskz_mul_ps(kept, x, inverse);
}

static inline __m512 silu_lanes(__m512 x) { return times_sigmoid(x, x); }

/* 0.5 x (1 + tanh u) with u = sqrt(2 / pi) (x + 0.044715 x^3), which is x / (1 + e^(-2u)). */
static inline __m512 gelu_tanh_lanes(__m512 x) {
    __m512 cube = _mm512_mul_ps(_mm512_mul_ps(x, x), x);
    return times_sigmoid(x, _mm512_mul_ps(_mm512_set1_ps(1.595769122f), _mm512_fmadd_ps(cube, _mm512_set1_ps(0.044715f), x)));
}

static void epilogue(float *dst, const float *v, const float *bias, ink_cpu_activation act, const float *gate, const float *add,
                     int64_t n) {
    for (int64_t i = 0; i < n; i += 16) {
        __mmask16 there = lanes_of(n - i);
        __m512 x = _mm512_maskz_loadu_ps(there, v + i);
        if (bias) x = _mm512_add_ps(x, _mm512_maskz_loadu_ps(there, bias + i));
        if (act == INK_CPU_ACT_GELU_TANH) x = gelu_tanh_lanes(x);
        if (act == INK_CPU_ACT_SILU) x = silu_lanes(x);
        if (gate) x = _mm512_mul_ps(x, _mm512_maskz_loadu_ps(there, gate + i));
        if (add) x = _mm512_add_ps(x, _mm512_maskz_loadu_ps(there, add + i));
        _mm512_mask_storeu_ps(dst + i, there, x);
    }
}

static void silu_row(float *x, int64_t n) {
    for (int64_t i = 0; i < n; i += 16) {
        __mmask16 there = lanes_of(n - i);
        _mm512_mask_storeu_ps(x + i, there, silu_lanes(_mm512_maskz_loadu_ps(there, x + i)));
    }
}

static void silu_mul(float *dst, const float *a, const float *b, int64_t n) {
    for (int64_t i = 0; i < n; i += 16) {
        __mmask16 there = lanes_of(n - i);
        __m512 y = _mm512_mul_ps(silu_lanes(_mm512_maskz_loadu_ps(there, a + i)), _mm512_maskz_loadu_ps(there, b + i));
        _mm512_mask_storeu_ps(dst + i, there, y);
    }
}

static uint32_t largest_bits(const float *x, int64_t n) {
    const __m512i magnitude = _mm512_set1_epi32(0x7fffffff);
    __m512i largest = _mm512_setzero_si512(), other = largest;
    int64_t i = 0;
    for (; i + 32 <= n; i += 32) {
        largest = _mm512_max_epi32(largest, _mm512_and_si512(_mm512_loadu_si512(x + i), magnitude));
        other = _mm512_max_epi32(other, _mm512_and_si512(_mm512_loadu_si512(x + i + 16), magnitude));
    }
    for (; i < n; i += 16)
        largest = _mm512_max_epi32(largest, _mm512_and_si512(_mm512_maskz_loadu_epi32(lanes_of(n - i), x + i), magnitude));
    return (uint32_t)_mm512_reduce_max_epi32(_mm512_max_epi32(largest, other));
}

static int32_t round_i8(int8_t *restrict dst, const float *restrict x, float factor, int64_t n) {
    const __m512 by = _mm512_set1_ps(factor);
    __m512i sum = _mm512_setzero_si512();
    for (int64_t i = 0; i < n; i += 16) {
        __mmask16 there = lanes_of(n - i);
        __m512i codes = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_maskz_loadu_ps(there, x + i), by));
        _mm512_mask_cvtepi32_storeu_epi8(dst + i, there, codes);
        sum = _mm512_add_epi32(sum, codes);
    }
    return _mm512_reduce_add_epi32(sum);
}

/* 2^x to about 1 ulp, 0 far below: x = n + r, 2^r by the polynomial that is nearest to it for |r| <= 1/2. NaN stays. */
static inline __m512 exp2_lanes(__m512 x) {
    x = _mm512_max_ps(_mm512_set1_ps(-200.0f), x); /* so that r is a number; the second operand where one is none */
    __m512 n = _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC), r = _mm512_sub_ps(x, n);
    __m512 p = _mm512_fmadd_ps(r, _mm512_set1_ps(EXP2_6), _mm512_set1_ps(EXP2_5));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(EXP2_4));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(EXP2_3));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(EXP2_2));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(EXP2_1));
    return _mm512_scalef_ps(_mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f)), n);
}

/* The product is rounded as that of the largest score was, so that the weight of that is 1: said so that compilers do not fuse it.
 */
static inline __m512 below_largest(__m512 score, __m512 factor, __m512 largest) {
    return _mm512_sub_ps(_mm512_mul_round_ps(score, factor, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC), largest);
}

static inline __m512 weight_lanes(__m512 score, __m512 factor, __m512 largest) {
    return exp2_lanes(below_largest(score, factor, largest));
}

/* *max = max(*max, max of x * scale), for a scale that is not negative. */
static inline void raise_max(const float *x, int64_t n, float scale, float *max) {
    const __m512 least = _mm512_set1_ps(-INFINITY);
    __m512 most = least, also = least;
    int64_t i = 0;
    for (; i + 32 <= n; i += 32) {
        most = _mm512_max_ps(_mm512_loadu_ps(x + i), most);
        also = _mm512_max_ps(_mm512_loadu_ps(x + i + 16), also);
    }
    for (; i < n; i += 16) most = _mm512_max_ps(_mm512_mask_loadu_ps(least, lanes_of(n - i), x + i), most);
    float largest = _mm512_reduce_max_ps(_mm512_max_ps(most, also)) * scale;
    if (largest > *max) *max = largest;
}

static float softmax_block(float *x, int64_t n, float scale, float *max) {
    raise_max(x, n, scale, max);
    const __m512 factor = _mm512_set1_ps(scale), less = _mm512_set1_ps(*max);
    __m512 sum = _mm512_setzero_ps(), rest = sum;
    int64_t i = 0;
    for (; i + 32 <= n; i += 32) {
        __m512 a = weight_lanes(_mm512_loadu_ps(x + i), factor, less);
        __m512 b = weight_lanes(_mm512_loadu_ps(x + i + 16), factor, less);
        _mm512_storeu_ps(x + i, a);
        _mm512_storeu_ps(x + i + 16, b);
        sum = _mm512_add_ps(sum, a);
        rest = _mm512_add_ps(rest, b);
    }
    for (; i < n; i += 16) {
        __mmask16 there = lanes_of(n - i);
        __m512 a = weight_lanes(_mm512_maskz_loadu_ps(there, x + i), factor, less);
        _mm512_mask_storeu_ps(x + i, there, a);
        sum = _mm512_mask_add_ps(sum, there, sum, a);
    }
    return _mm512_reduce_add_ps(_mm512_add_ps(sum, rest));
}

#endif
