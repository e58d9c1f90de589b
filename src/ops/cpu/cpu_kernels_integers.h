/*
 * cpu_kernels_integers.h - products of 8-bit integers, and rows of numbers turned into such: part of cpu_kernels_template.h, which
 * includes it. A tier defines before:
 *   I8_UNIT          neighbours of a row that one instruction multiplies and adds; they share a word of 32 bits in the panels.
 *                    1: the tier has no such instruction; a word is an f32, and products of integers are those of f32_multiply
 *   I8_DOT(sum, right, left)   sum + right . left for words of I8_UNIT numbers, in vectors of int32; left is one word
 *   I8_RIGHT_OFFSET  what is added to the numbers of right panels, for instructions that want them without sign
 *   BF16_DOT(sum, right, left)   the same for words of two bf16 numbers and sums in f32, if the tier multiplies such in this loop
 *   PRODUCT_I8       in place of all these, a static ink_cpu_product of its own that is declared before
 *   HAVE_I8_ROWS     if largest_bits and round_i8 are declared before
 *
 * All sums are exact, so every tier has the same.
 */
#ifndef INK_OPS_CPU_CPU_KERNELS_INTEGERS_H
#define INK_OPS_CPU_CPU_KERNELS_INTEGERS_H

/* ---- rows ---------------------------------------------------------------------------------------------------------------- */

#ifndef HAVE_I8_ROWS
/* To the nearest integer, ties to even. Without an instruction for it by the digits that 1.5 * 2^23 leaves; such tiers are compiled
   without contraction, which would round once where the definition rounds twice. */
static inline float nearest(float x) {
#if defined __SSE4_1__ || defined __aarch64__
    return __builtin_rintf(x);
#else
    return (x + 0x1.8p23f) - 0x1.8p23f;
#endif
}

static uint32_t largest_bits(const float *x, int64_t n) {
    int32_t largest = 0; /* without the sign, they are ordered as signed ones too */
    for (int64_t i = 0; i < n; i++) {
        int32_t bits;
        memcpy(&bits, &x[i], sizeof bits);
        bits &= 0x7fffffff;
        largest = bits > largest ? bits : largest;
    }
    return (uint32_t)largest;
}

static int32_t round_i8(int8_t *restrict dst, const float *restrict x, float factor, int64_t n) {
    int32_t sum = 0;
    for (int64_t i = 0; i < n; i++) {
        int32_t code = (int32_t)nearest(x[i] * factor);
        dst[i] = (int8_t)code;
        sum += code;
    }
    return sum;
}
#endif

/* Multiplications alone: nothing that a compiler could contract. */
static void scale_sums(void *sums, const float *restrict of_cols, float of_row, int32_t offset, int64_t n) {
    typedef float number __attribute__((may_alias));
    typedef int32_t integer __attribute__((may_alias));
    const integer *from = sums;
    number *to = sums;
    for (int64_t i = 0; i < n; i++) to[i] = (float)(int32_t)((uint32_t)from[i] - (uint32_t)offset) * of_cols[i] * of_row;
}

/* ---- products ------------------------------------------------------------------------------------------------------------ */

#ifndef PRODUCT_I8

#ifndef I8_UNIT
#define I8_UNIT 1
#endif
#ifndef I8_RIGHT_OFFSET
#define I8_RIGHT_OFFSET 0
#endif
#ifndef BF16_DOT
#define BF16_DOT(sum, right, left) (sum)
#endif

/* n rows of k numbers, `offset` added, as words that lie as the numbers of f32 panels do. */
static void i8_pack(void *panel, int64_t width, const int8_t *rows, int64_t stride, int64_t n, int64_t k, int offset) {
    enum { PIECE = 128, BYTES = 4 / I8_UNIT };
    float words[INK_MAX_TILE_COLS][PIECE];
    const float *word_rows[INK_MAX_TILE_COLS];
    for (int64_t i = 0; i < n; i++) word_rows[i] = words[i];
    for (int64_t at = 0; at < k; at += PIECE * I8_UNIT) {
        int64_t m = k - at < PIECE * I8_UNIT ? k - at : PIECE * I8_UNIT, n_words = (m + I8_UNIT - 1) / I8_UNIT;
        for (int64_t i = 0; i < n; i++) {
            const int8_t *row = rows + i * stride + at;
            if (m % I8_UNIT) words[i][n_words - 1] = 0;
#if I8_UNIT == 1
            for (int64_t j = 0; j < m; j++) words[i][j] = (float)(row[j] + offset);
#elif I8_UNIT == 2
            typedef int16_t half __attribute__((may_alias));
            half *to = (half *)words[i];
            for (int64_t j = 0; j < m; j++) to[j] = (int16_t)(row[j] + offset);
#else
            unsigned char *to = (unsigned char *)words[i];
            for (int64_t j = 0; j < m; j++) to[j] = (unsigned char)(row[j] + offset);
#endif
        }
        f32_transpose((float *)panel + at / I8_UNIT * width, width, word_rows, n, n_words);
    }
}

static void i8_pack_left(void *panel, const int8_t *rows, int64_t stride, int64_t k) {
    i8_pack(panel, TILE_ROWS, rows, stride, TILE_ROWS, k, 0);
}

static void i8_pack_right(void *panel, const int8_t *w, int64_t stride, int64_t n, int64_t k) {
    i8_pack(panel, TILE_COLS, w, stride, n, k, I8_RIGHT_OFFSET);
}

#if I8_UNIT == 1
/* f32 holds every integer up to 2^24, and so each sum of 1024 products of which none exceeds 127 * 128. */
enum { I8_EXACT = 1024 };

static void i8_multiply(void *sums, int64_t stride, const void *left, const void *right, int64_t k, bool add, const void *ahead) {
    _Alignas(64) float part[TILE_ROWS * TILE_COLS];
    for (int64_t at = 0; at < k; at += I8_EXACT) {
        int64_t n = k - at < I8_EXACT ? k - at : I8_EXACT;
        f32_multiply(part, TILE_COLS, (const float *)left + at * TILE_ROWS, (const float *)right + at * TILE_COLS, n, false, ahead);
        for (int64_t row = 0; row < TILE_ROWS; row++) {
            int32_t *to = (int32_t *)sums + row * stride;
            for (int64_t col = 0; col < TILE_COLS; col++)
                to[col] = (add || at > 0 ? to[col] : 0) + (int32_t)part[row * TILE_COLS + col];
        }
    }
}
#else
typedef int32_t int_vector __attribute__((vector_size(VECTOR_FLOATS * sizeof(int32_t)), may_alias));

/* Of integers or of bf16 numbers: n words of each row. */
static inline __attribute__((always_inline)) void multiply_words(bool integers, void *sums, int64_t stride, const void *left,
                                                                 const void *right, int64_t n, bool add, const void *ahead) {
    typedef int32_t word __attribute__((may_alias));
    word *c = sums;
    int_vector sum[TILE_ROWS][TILE_VECTORS];
#pragma GCC unroll 16
    for (int row = 0; row < TILE_ROWS; row++)
#pragma GCC unroll 4
        for (int v = 0; v < TILE_VECTORS; v++)
            sum[row][v] = add ? *(const int_vector *)(c + row * stride + v * VECTOR_FLOATS) : (int_vector){0};
    const word *a = left;
    const int_vector *b = right;
    for (int64_t i = 0; i < n;) {
        ahead = ask_ahead(ahead);
        for (int64_t end = n - i < AHEAD_STEPS ? n : i + AHEAD_STEPS; i < end; i++, a += TILE_ROWS, b += TILE_VECTORS) {
            int_vector now[TILE_VECTORS];
            for (int v = 0; v < TILE_VECTORS; v++) now[v] = b[v];
#pragma GCC unroll 16
            for (int row = 0; row < TILE_ROWS; row++) {
#pragma GCC unroll 4
                for (int v = 0; v < TILE_VECTORS; v++)
                    sum[row][v] = integers ? I8_DOT(sum[row][v], now[v], a[row]) : BF16_DOT(sum[row][v], now[v], a[row]);
                AFTER_ROW;
            }
        }
    }
#pragma GCC unroll 16
    for (int row = 0; row < TILE_ROWS; row++)
#pragma GCC unroll 4
        for (int v = 0; v < TILE_VECTORS; v++) *(int_vector *)(c + row * stride + v * VECTOR_FLOATS) = sum[row][v];
}

static void i8_multiply(void *sums, int64_t stride, const void *left, const void *right, int64_t k, bool add, const void *ahead) {
    multiply_words(true, sums, stride, left, right, (k + I8_UNIT - 1) / I8_UNIT, add, ahead);
}
#endif

static const ink_cpu_product i8_product = {
    .tile_rows = TILE_ROWS,
    .tile_cols = TILE_COLS,
    .k_unit = I8_UNIT,
    .element_bytes = 4 / I8_UNIT,
    .group_cols = 128,
    .k_chunk = 1536 * I8_UNIT,
    .k_near = 384 * I8_UNIT,
    .integers = true,
    .right_offset = I8_RIGHT_OFFSET,
    .pack_left_i8 = i8_pack_left,
    .pack_right_i8 = i8_pack_right,
    .multiply = i8_multiply,
};
#define PRODUCT_I8 i8_product
#endif

#endif
