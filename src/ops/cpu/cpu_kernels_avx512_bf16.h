/*
 * cpu_kernels_avx512_bf16.h - what tiers with bf16 in 64-byte vectors do by hand: right panels of pairs, for tiles of AMX and for
 * VDPBF16PS, and weights decoded to bf16. Included by their kernel files before the template, and after the definition of
 *   RIGHT_ROW_BYTES    from words of 16 right rows to the next ones of the same rows
 *   RIGHT_HALF_BYTES   from words of the first 16 right rows to those of the others
 * A word is two neighbours of a row, or four of 8 bits; a step of a panel has 16 of each row.
 */
#ifndef INK_OPS_CPU_CPU_KERNELS_AVX512_BF16_H
#define INK_OPS_CPU_CPU_KERNELS_AVX512_BF16_H

#include <immintrin.h>
#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "ops/cpu/cpu_kernels_avx512.h"

#define DECODE_AFFINE decode_affine
#define DECODE_F8_E4M3 decode_f8_e4m3
#define DECODE_I8 decode_i8

enum { BF16_STEP = 32, STEP_BYTES = 64, RIGHT_STEP_BYTES = 32 * STEP_BYTES };

/* ---- packing --------------------------------------------------------------------------------------------------------------- */

/* 32 numbers of a row, rounded; of which n are there. */
static inline __m512i round_step(const float *row, int64_t n) {
    uint32_t there = n >= BF16_STEP ? UINT32_MAX : ((uint32_t)1 << n) - 1;
    __m512 low = _mm512_maskz_loadu_ps((__mmask16)there, row), high = _mm512_maskz_loadu_ps((__mmask16)(there >> 16), row + 16);
    return (__m512i)_mm512_cvtne2ps_pbh(high, low);
}

/* n rows of `bytes` bytes, of which four make a word of a right tile. */
static void pack_right_bytes(void *panel, const unsigned char *w, int64_t stride, int64_t n, int64_t bytes) {
    enum { AHEAD = 8 * STEP_BYTES }; /* how far memory is asked for before it is needed */
    for (int64_t half = 0; half < 2; half++) {
        unsigned char *to = (unsigned char *)panel + half * RIGHT_HALF_BYTES;
        int64_t n_rows = n - 16 * half < 16 ? n - 16 * half : 16;
        const unsigned char *rows = w + 16 * half * stride;
        for (int64_t at = 0; at < bytes; at += STEP_BYTES, to += RIGHT_STEP_BYTES) {
            if (n_rows == 16 && at + STEP_BYTES <= bytes) {
                for (int64_t i = 0; i < 16; i++) _mm_prefetch((const char *)(rows + i * stride + at + AHEAD), _MM_HINT_T0);
                transpose_tile(to, RIGHT_ROW_BYTES, rows + at, stride);
                continue;
            }
            _Alignas(64) unsigned char rest[16][STEP_BYTES] = {{0}};
            size_t there = (size_t)(bytes - at < STEP_BYTES ? bytes - at : STEP_BYTES);
            for (int64_t i = 0; i < n_rows; i++) memcpy(rest[i], rows + i * stride + at, there);
            transpose_tile(to, RIGHT_ROW_BYTES, rest[0], sizeof *rest);
        }
    }
}

static void bf16_pack_right_bf16(void *panel, const uint16_t *w, int64_t stride, int64_t n, int64_t k) {
    const int64_t size = sizeof *w;
    pack_right_bytes(panel, (const unsigned char *)w, stride * size, n, k * size);
}

static void bf16_pack_right_f32(void *panel, const float *w, int64_t stride, int64_t n, int64_t k) {
    _Alignas(64) uint16_t rounded[16][BF16_STEP];
    for (int64_t half = 0; half < 2; half++) {
        unsigned char *to = (unsigned char *)panel + half * RIGHT_HALF_BYTES;
        int64_t n_rows = n - 16 * half < 16 ? n - 16 * half : 16;
        for (int64_t at = 0; at < k; at += BF16_STEP, to += RIGHT_STEP_BYTES) {
            for (int64_t i = 0; i < 16; i++)
                _mm512_store_si512(rounded[i],
                                   i < n_rows ? round_step(w + (16 * half + i) * stride + at, k - at) : _mm512_setzero_si512());
            transpose_tile(to, RIGHT_ROW_BYTES, (const unsigned char *)rounded, sizeof *rounded);
        }
    }
}

/* Pairs of rows, column by column: what a right tile holds. */
static void bf16_pack_right_columns(void *panel, const float *const *rows, int64_t n, int64_t k) {
    const __m512i pairs = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21, 5, 20, 4,
                                           19, 3, 18, 2, 17, 1, 16, 0);
    static const float no_row[32];
    for (int64_t half = 0; half < 2; half++) {
        int64_t n_cols = n - 16 * half < 16 ? n - 16 * half : 16;
        __mmask16 there = (__mmask16)(n_cols <= 0 ? 0 : (1u << n_cols) - 1);
        for (int64_t at = 0; at < k; at += BF16_STEP) {
            unsigned char *tile = (unsigned char *)panel + at / BF16_STEP * RIGHT_STEP_BYTES + half * RIGHT_HALF_BYTES;
            for (int64_t i = 0; i < 16; i++) {
                const float *a = at + 2 * i < k ? rows[at + 2 * i] : no_row,
                            *b = at + 2 * i + 1 < k ? rows[at + 2 * i + 1] : no_row;
                __m512 first = _mm512_maskz_loadu_ps(there, a + 16 * half), second = _mm512_maskz_loadu_ps(there, b + 16 * half);
                __m512i both = (__m512i)_mm512_cvtne2ps_pbh(second, first);
                _mm512_store_si512(tile + i * RIGHT_ROW_BYTES, _mm512_permutexvar_epi16(pairs, both));
            }
        }
    }
}

/* ---- decoding --------------------------------------------------------------------------------------------------------------- */

/* Four bits choose among 16 numbers, which are computed once. */
static inline void decode_nibbles(uint16_t *dst, const unsigned char *q, __m512i levels, int64_t n) {
    const __m128i low_bits = _mm_set1_epi8(15);
    for (int64_t i = 0; i < n; i += 32) {
        __m128i bytes = _mm_loadu_si128((const void *)(q + i / 2));
        __m128i low = _mm_and_si128(bytes, low_bits), high = _mm_and_si128(_mm_srli_epi16(bytes, 4), low_bits);
        __m256i codes = _mm256_set_m128i(_mm_unpackhi_epi8(low, high), _mm_unpacklo_epi8(low, high));
        _mm512_storeu_si512(dst + i, _mm512_permutexvar_epi16(_mm512_cvtepu8_epi16(codes), levels));
    }
}

static void decode_affine(uint16_t *dst, const unsigned char *q, bool nibbles, float scale, float bias, int64_t n) {
    const __m512 s = _mm512_set1_ps(scale), b = _mm512_set1_ps(bias);
    if (nibbles) {
        const __m512 codes = _mm512_set_ps(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
        __m512 numbers = _mm512_add_ps(_mm512_mul_ps(codes, s), b);
        decode_nibbles(dst, q, _mm512_castsi256_si512((__m256i)_mm512_cvtneps_pbh(numbers)), n);
        return;
    }
    for (int64_t i = 0; i < n; i += 32) {
        __m512 low = _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128((const void *)(q + i))));
        __m512 high = _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128((const void *)(q + i + 16))));
        low = _mm512_add_ps(_mm512_mul_ps(low, s), b);
        high = _mm512_add_ps(_mm512_mul_ps(high, s), b);
        _mm512_storeu_si512(dst + i, (__m512i)_mm512_cvtne2ps_pbh(high, low));
    }
}

/* Exponent and mantissa moved to their place in f32 are 2^120 too small, in numbers below the normal range too. */
static inline __m512 f8_e4m3(__m128i bytes, __m512 scale) {
    const __m512i magnitude_bits = _mm512_set1_epi32(127);
    __m512i wide = _mm512_cvtepu8_epi32(bytes), magnitude = _mm512_and_si512(wide, magnitude_bits);
    __m512 number = _mm512_mul_ps(_mm512_castsi512_ps(_mm512_slli_epi32(magnitude, 20)), _mm512_set1_ps(0x1p120f));
    number = _mm512_mask_mov_ps(number, _mm512_cmpeq_epi32_mask(magnitude, magnitude_bits), _mm512_set1_ps(NAN));
    __m512i sign = _mm512_slli_epi32(_mm512_andnot_si512(magnitude_bits, wide), 24);
    return _mm512_mul_ps(_mm512_castsi512_ps(_mm512_or_si512(_mm512_castps_si512(number), sign)), scale);
}

static void decode_f8_e4m3(uint16_t *dst, const unsigned char *q, float scale, int64_t n) {
    const __m512 s = _mm512_set1_ps(scale);
    for (int64_t i = 0; i < n; i += 32) {
        __m512 low = f8_e4m3(_mm_loadu_si128((const void *)(q + i)), s);
        __m512 high = f8_e4m3(_mm_loadu_si128((const void *)(q + i + 16)), s);
        _mm512_storeu_si512(dst + i, (__m512i)_mm512_cvtne2ps_pbh(high, low));
    }
}

static void decode_i8(uint16_t *dst, const int8_t *q, float scale, int64_t n) {
    const __m512 s = _mm512_set1_ps(scale);
    for (int64_t i = 0; i < n; i += 32) {
        __m512 low = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const void *)(q + i))));
        __m512 high = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const void *)(q + i + 16))));
        _mm512_storeu_si512(dst + i, (__m512i)_mm512_cvtne2ps_pbh(_mm512_mul_ps(high, s), _mm512_mul_ps(low, s)));
    }
}

#endif
