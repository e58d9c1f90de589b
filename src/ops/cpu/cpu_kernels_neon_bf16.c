/*
 * cpu_kernels_neon_bf16.c - tier `neon_bf16`: tier `neon`, and products with bf16 weights by BFMMLA, which multiplies 2 x 4 by
 * 4 x 2 numbers. Left rows are rounded to bf16 for them, to nearest even; sums are f32.
 *
 * BFMMLA has an arithmetic of its own: products are exact, but the sum of a pair of them and its addition to the accumulator
 * round to odd (an error below one unit in the last place instead of half of one), and subnormal numbers count as zero.
 *
 * 8-bit integers are multiplied by SMMLA in the same way, 2 x 8 by 8 x 2. All processors that have one of the two have both.
 */
#include <arm_neon.h>

#include "ops/cpu/cpu_kernels.h"

#define INK_KERNELS ink_cpu_kernels_neon_bf16
#define VECTOR_FLOATS 4
#define TILE_VECTORS 4
#define TILE_ROWS 6
#define AFTER_ROW __asm__ volatile("" ::: "memory") /* no loads ahead: there is no register for them, and sums would be spilt */
#define PRODUCT_BF16 bf16_product
#define PRODUCT_I8 i8_product
static const ink_cpu_product bf16_product, i8_product;
#include "ops/cpu/cpu_kernels_template.h"

/* The same tile as in f32: 24 of 32 registers hold the sums, 3 + 1 the operands of one step. */
enum { BF16_UNIT = 4 };

/* Panels of either side: [k / 4] steps of [n_rows] rows of 4 numbers, zeros after the last of k. */

static void bf16_pack_row(uint16_t *panel, int64_t n_rows, const uint16_t *row, int64_t k) {
    int64_t i = 0;
    for (; i + BF16_UNIT <= k; i += BF16_UNIT) vst1_u16(panel + i * n_rows, vld1_u16(row + i));
    if (i == k) return;
    uint16_t rest[BF16_UNIT] = {0};
    memcpy(rest, row + i, (size_t)(k - i) * sizeof *rest);
    vst1_u16(panel + i * n_rows, vld1_u16(rest));
}

static void bf16_round_row(uint16_t *panel, int64_t n_rows, const float *row, int64_t k) {
    int64_t i = 0;
    for (; i + BF16_UNIT <= k; i += BF16_UNIT)
        vst1_u16(panel + i * n_rows, vreinterpret_u16_bf16(vcvt_bf16_f32(vld1q_f32(row + i))));
    if (i == k) return;
    float rest[BF16_UNIT] = {0};
    memcpy(rest, row + i, (size_t)(k - i) * sizeof *rest);
    vst1_u16(panel + i * n_rows, vreinterpret_u16_bf16(vcvt_bf16_f32(vld1q_f32(rest))));
}

static void bf16_zero_row(uint16_t *panel, int64_t n_rows, int64_t k) {
    for (int64_t i = 0; i < k; i += BF16_UNIT) vst1_u16(panel + i * n_rows, vdup_n_u16(0));
}

static void bf16_pack_left(void *panel, const float *const *rows, int64_t k) {
    for (int64_t row = 0; row < TILE_ROWS; row++) {
        uint16_t *to = (uint16_t *)panel + row * BF16_UNIT;
        if (rows[row])
            bf16_round_row(to, TILE_ROWS, rows[row], k);
        else
            bf16_zero_row(to, TILE_ROWS, k);
    }
}

static void bf16_pack_right_bf16(void *panel, const uint16_t *w, int64_t stride, int64_t n, int64_t k) {
    uint16_t *to = panel;
    for (int64_t row = 0; row < n; row++) bf16_pack_row(to + row * BF16_UNIT, TILE_COLS, w + row * stride, k);
    for (int64_t row = n; row < TILE_COLS; row++) bf16_zero_row(to + row * BF16_UNIT, TILE_COLS, k);
}

static void bf16_pack_right_f32(void *panel, const float *w, int64_t stride, int64_t n, int64_t k) {
    uint16_t *to = panel;
    for (int64_t row = 0; row < n; row++) bf16_round_row(to + row * BF16_UNIT, TILE_COLS, w + row * stride, k);
    for (int64_t row = n; row < TILE_COLS; row++) bf16_zero_row(to + row * BF16_UNIT, TILE_COLS, k);
}

static void bf16_pack_right_columns(void *panel, const float *const *rows, int64_t n, int64_t k) {
    uint16_t *to = panel;
    for (int64_t at = 0; at < k; at += BF16_UNIT, to += BF16_UNIT * TILE_COLS)
        for (int64_t col = 0; col < TILE_COLS; col++) {
            float numbers[BF16_UNIT] = {0};
            for (int64_t i = 0; col < n && i < BF16_UNIT && at + i < k; i++) numbers[i] = rows[at + i][col];
            vst1_u16(to + col * BF16_UNIT, vreinterpret_u16_bf16(vcvt_bf16_f32(vld1q_f32(numbers))));
        }
}

/*
 * Of panels in which a step is 8 bytes of each row. The bytes of two rows by those of two columns are one instruction, for integers
 * and for bf16, and sums are words of 32 bits.
 */
static inline __attribute__((always_inline)) void multiply_steps(bool integers, void *restrict sums, int64_t stride,
                                                                 const void *left, const void *right, int64_t row_bytes, bool add) {
    enum { STEP_BYTES = 8, WORD_BYTES = 4 };
    uint8_t *c = sums;
    const int64_t row = stride * WORD_BYTES;
    /* sum[i][j]: rows 2 i, 2 i + 1 by columns 2 j, 2 j + 1 */
    int32x4_t sum[TILE_ROWS / 2][TILE_COLS / 2];
    /* Unrolled, all of them: an array that is indexed in a loop is kept in memory. */
#pragma GCC unroll 4
    for (int i = 0; i < TILE_ROWS / 2; i++)
#pragma GCC unroll 8
        for (int j = 0; j < TILE_COLS / 2; j++) {
            const uint8_t *at = c + 2 * i * row + 2 * j * WORD_BYTES;
            sum[i][j] = add ? vreinterpretq_s32_u8(vcombine_u8(vld1_u8(at), vld1_u8(at + row))) : vdupq_n_s32(0);
        }
    const uint8_t *a = left, *b = right;
    for (int64_t at = 0; at < row_bytes; at += STEP_BYTES, a += STEP_BYTES * TILE_ROWS, b += STEP_BYTES * TILE_COLS) {
        uint8x16_t rows[TILE_ROWS / 2];
        for (int i = 0; i < TILE_ROWS / 2; i++) rows[i] = vld1q_u8(a + 2 * STEP_BYTES * i);
#pragma GCC unroll 8
        for (int j = 0; j < TILE_COLS / 2; j++) {
            uint8x16_t cols = vld1q_u8(b + 2 * STEP_BYTES * j);
#pragma GCC unroll 4
            for (int i = 0; i < TILE_ROWS / 2; i++)
                sum[i][j] = integers
                                ? vmmlaq_s32(sum[i][j], vreinterpretq_s8_u8(rows[i]), vreinterpretq_s8_u8(cols))
                                : vreinterpretq_s32_f32(vbfmmlaq_f32(vreinterpretq_f32_s32(sum[i][j]),
                                                                     vreinterpretq_bf16_u8(rows[i]), vreinterpretq_bf16_u8(cols)));
            AFTER_ROW;
        }
    }
#pragma GCC unroll 4
    for (int i = 0; i < TILE_ROWS / 2; i++)
#pragma GCC unroll 8
        for (int j = 0; j < TILE_COLS / 2; j++) {
            uint8_t *at = c + 2 * i * row + 2 * j * WORD_BYTES;
            vst1_u8(at, vreinterpret_u8_s32(vget_low_s32(sum[i][j])));
            vst1_u8(at + row, vreinterpret_u8_s32(vget_high_s32(sum[i][j])));
        }
}

static void bf16_multiply(void *sums, int64_t stride, const void *left, const void *right, int64_t k, bool add, const void *ahead) {
    (void)ahead;
    multiply_steps(false, sums, stride, left, right, k * (int64_t)sizeof(uint16_t), add);
}

static const ink_cpu_product bf16_product = {
    .tile_rows = TILE_ROWS,
    .tile_cols = TILE_COLS,
    .k_unit = BF16_UNIT,
    .element_bytes = 2,
    .group_cols = 128,
    .k_chunk = 1024,
    .k_near = 1024,
    .pack_left = bf16_pack_left,
    .pack_right_f32 = bf16_pack_right_f32,
    .pack_right_bf16 = bf16_pack_right_bf16,
    .pack_right_columns = bf16_pack_right_columns,
    .multiply = bf16_multiply,
};

/* ---- integers -------------------------------------------------------------------------------------------------------------- */

/* Panels as above, with 8 numbers a step. */
enum { I8_STEP = 8 };

static void i8_pack_row(int8_t *panel, int64_t n_rows, const int8_t *row, int64_t k) {
    int64_t i = 0;
    for (; i + I8_STEP <= k; i += I8_STEP) vst1_s8(panel + i * n_rows, vld1_s8(row + i));
    if (i == k) return;
    int8_t rest[I8_STEP] = {0};
    memcpy(rest, row + i, (size_t)(k - i));
    vst1_s8(panel + i * n_rows, vld1_s8(rest));
}

static void i8_pack_left(void *panel, const int8_t *rows, int64_t stride, int64_t k) {
    for (int64_t row = 0; row < TILE_ROWS; row++) i8_pack_row((int8_t *)panel + row * I8_STEP, TILE_ROWS, rows + row * stride, k);
}

static void i8_pack_right(void *panel, const int8_t *w, int64_t stride, int64_t n, int64_t k) {
    int8_t *to = panel;
    for (int64_t row = 0; row < n; row++) i8_pack_row(to + row * I8_STEP, TILE_COLS, w + row * stride, k);
    for (int64_t row = n; row < TILE_COLS; row++)
        for (int64_t i = 0; i < k; i += I8_STEP) vst1_s8(to + row * I8_STEP + i * TILE_COLS, vdup_n_s8(0));
}

static void i8_multiply(void *sums, int64_t stride, const void *left, const void *right, int64_t k, bool add, const void *ahead) {
    (void)ahead;
    multiply_steps(true, sums, stride, left, right, k, add);
}

static const ink_cpu_product i8_product = {
    .tile_rows = TILE_ROWS,
    .tile_cols = TILE_COLS,
    .k_unit = I8_STEP,
    .element_bytes = 1,
    .group_cols = 128,
    .k_chunk = 2048,
    .k_near = 2048,
    .integers = true,
    .pack_left_i8 = i8_pack_left,
    .pack_right_i8 = i8_pack_right,
    .multiply = i8_multiply,
};
