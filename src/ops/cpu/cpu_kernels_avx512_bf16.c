/*
 * cpu_kernels_avx512_bf16.c - tier `avx512_bf16`: tier `avx512_vnni`, and products of bf16 numbers by VDPBF16PS, which multiplies
 * them in pairs and adds one product of a pair after the other to a sum in f32, each with one rounding. Numbers below the normal
 * range count as zero, before and after. The tile and its loop are those of integers.
 */
#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#include "ops/cpu/cpu_kernels.h"
#include "ops/cpu/cpu_kernels_avx512_vnni.h"

#define RIGHT_ROW_BYTES 128
#define RIGHT_HALF_BYTES 64
#include "ops/cpu/cpu_kernels_avx512_bf16.h"

#define INK_KERNELS ink_cpu_kernels_avx512_bf16
#define VECTOR_FLOATS 16
#define TILE_VECTORS 2
#define TILE_ROWS 12
#define BF16_DOT(sum, right, left) \
    (int_vector) _mm512_dpbf16_ps((__m512)(sum), (__m512bh)(right), (__m512bh)_mm512_set1_epi32(left))
#define PRODUCT_BF16 bf16_product
static const ink_cpu_product bf16_product;
#include "ops/cpu/cpu_kernels_template.h"

static void bf16_pack_left(void *panel, const float *const *rows, int64_t k) {
    enum { ROW_BYTES = TILE_ROWS * 4, LEFT_STEP_BYTES = 16 * ROW_BYTES };
    _Alignas(64) uint16_t rounded[16][BF16_STEP] = {{0}};
    unsigned char *to = panel;
    for (int64_t at = 0; at < k; at += BF16_STEP, to += LEFT_STEP_BYTES) {
        for (int64_t row = 0; row < TILE_ROWS; row++)
            if (rows[row]) _mm512_store_si512(rounded[row], round_step(rows[row] + at, k - at));
        /* A row of 16 words, of which 12 are wanted, runs into the next, which is yet to come; but not behind the panel. */
        if (at + BF16_STEP < k) {
            transpose_tile(to, ROW_BYTES, (const unsigned char *)rounded, sizeof *rounded);
        } else {
            unsigned char last[LEFT_STEP_BYTES + STEP_BYTES];
            transpose_tile(last, ROW_BYTES, (const unsigned char *)rounded, sizeof *rounded);
            memcpy(to, last, LEFT_STEP_BYTES);
        }
    }
}

static void bf16_multiply(void *c, int64_t stride, const void *left, const void *right, int64_t k, bool add, const void *ahead) {
    multiply_words(false, c, stride, left, right, k / 2, add, ahead);
}

static const ink_cpu_product bf16_product = {
    .tile_rows = TILE_ROWS,
    .tile_cols = TILE_COLS,
    .k_unit = BF16_STEP,
    .element_bytes = 2,
    .group_cols = 128,
    .k_chunk = 3072,
    .k_near = 768,
    .pack_left = bf16_pack_left,
    .pack_right_f32 = bf16_pack_right_f32,
    .pack_right_bf16 = bf16_pack_right_bf16,
    .pack_right_columns = bf16_pack_right_columns,
    .multiply = bf16_multiply,
};
