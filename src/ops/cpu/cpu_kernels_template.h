/*
 * cpu_kernels_template.h - the source of every tier's inner loops. A tier defines, and then includes this file:
 *   INK_KERNELS      the name of the table to define
 *   VECTOR_FLOATS    floats in a vector register
 *   TILE_VECTORS     vector registers in a row of the matrix tile
 *   AFTER_ROW        statement after each row of a step of the matrix tile, if the compiler needs one to keep within the registers
 *   PRODUCT_BF16, PRODUCT_F32_PARTS   static ink_cpu_products that are declared before, if the tier has them
 *   TRANSPOSE_TILE   a static function that turns a tile of 16 by 16 words and is declared before, if the tier has one
 *   HAVE_EXP_LOOPS   if silu_row, silu_mul, softmax_block and epilogue are declared before
 *   DECODE_AFFINE, DECODE_F8_E4M3, DECODE_I8   static functions that are declared before, if the tier has them
 *   what cpu_kernels_integers.h asks for
 *   TILE_ROWS        rows of the tile; TILE_ROWS * TILE_VECTORS + TILE_VECTORS + 1 registers are in use at once
 *
 * Everything is static: an inline function that another object could pick up would carry this tier's instructions to machines
 * that lack them. Sums are taken in a fixed number of lanes, so that a result depends on the tier only.
 */
#include <float.h>
#include <math.h>
#include <string.h>

#include "ops/cpu/cpu_kernels.h"

enum { TILE_COLS = VECTOR_FLOATS * TILE_VECTORS, LANES = 16 };

_Static_assert((int)TILE_COLS <= (int)INK_MAX_TILE_COLS && TILE_ROWS <= INK_MAX_TILE_ROWS,
               "the tile is larger than the scratch arrays");

#ifndef AFTER_ROW
#define AFTER_ROW (void)0
#endif

typedef float vector __attribute__((vector_size(VECTOR_FLOATS * sizeof(float))));

/* ---- products in f32 ----------------------------------------------------------------------------------------------------- */

enum { AHEAD_STEPS = 16 };

/*
 * Asks for the part of what will be wanted soon that is due with the next AHEAD_STEPS steps of a product; returns the rest. Left
 * panels lie in the last cache and are too late without. Always inline: a call that only asks has no effect in gcc's eyes, and
 * goes.
 */
static inline __attribute__((always_inline)) const char *ask_ahead(const char *ahead) {
    if (!ahead) return NULL;
#pragma GCC unroll 16
    for (int i = 0; i < AHEAD_STEPS * TILE_ROWS; i += 64) __builtin_prefetch(ahead + i);
    return ahead + AHEAD_STEPS * TILE_ROWS;
}

static void f32_multiply(void *restrict sums, int64_t stride, const void *left, const void *right, int64_t k, bool add,
                         const void *ahead) {
    float *restrict c = sums;
    vector sum[TILE_ROWS][TILE_VECTORS];
#pragma GCC unroll 16
    for (int row = 0; row < TILE_ROWS; row++)
#pragma GCC unroll 4
        for (int v = 0; v < TILE_VECTORS; v++)
            sum[row][v] = add ? *(const vector *)(const void *)(c + row * stride + v * VECTOR_FLOATS) : (vector){0};
    const float *a = left;
    const vector *b = right;
    for (int64_t i = 0; i < k;) {
        ahead = ask_ahead(ahead);
        for (int64_t end = k - i < AHEAD_STEPS ? k : i + AHEAD_STEPS; i < end; i++, a += TILE_ROWS, b += TILE_VECTORS) {
            vector now[TILE_VECTORS];
            for (int v = 0; v < TILE_VECTORS; v++) now[v] = b[v];
#pragma GCC unroll 16
            for (int row = 0; row < TILE_ROWS; row++) {
                vector factor = a[row] - (vector){0};
#pragma GCC unroll 4
                for (int v = 0; v < TILE_VECTORS; v++) sum[row][v] += factor * now[v];
                AFTER_ROW;
            }
        }
    }
#pragma GCC unroll 16
    for (int row = 0; row < TILE_ROWS; row++)
#pragma GCC unroll 4
        for (int v = 0; v < TILE_VECTORS; v++) *(vector *)(void *)(c + row * stride + v * VECTOR_FLOATS) = sum[row][v];
}

typedef float four __attribute__((vector_size(16), aligned(4)));

/* panel[i][col] = rows[col][i] for n rows of k numbers, in blocks of 4 by 4; NULL: zeros. */
static inline void f32_transpose(float *restrict panel, int64_t width, const float *const *rows, int64_t n, int64_t k) {
    enum { LINE = 16 }; /* floats of a cache line */
    if (n < width) memset(panel, 0, (size_t)(k * width) * sizeof *panel);
    static const float no_row[4];
    for (int64_t col = 0; col < n; col += 4) {
        const float *row[4];
        int64_t step[4], m = n - col < 4 ? n - col : 4;
        for (int j = 0; j < 4; j++) {
            row[j] = j < m && rows[col + j] ? rows[col + j] : no_row;
            step[j] = row[j] != no_row;
        }
        int64_t i = 0;
        for (; m == 4 && i + 4 <= k; i += 4) {
            /* The next rows are asked for: their runs are too short for a processor to see them coming. */
            for (int64_t j = col + 4; i % LINE == 0 && j < col + 8 && j < n; j++)
                if (rows[j]) __builtin_prefetch(rows[j] + i);
            four a = *(const four *)(row[0] + i * step[0]), b = *(const four *)(row[1] + i * step[1]);
            four c = *(const four *)(row[2] + i * step[2]), d = *(const four *)(row[3] + i * step[3]);
            four ab = __builtin_shufflevector(a, b, 0, 4, 1, 5), ab2 = __builtin_shufflevector(a, b, 2, 6, 3, 7);
            four cd = __builtin_shufflevector(c, d, 0, 4, 1, 5), cd2 = __builtin_shufflevector(c, d, 2, 6, 3, 7);
            float *to = panel + i * width + col;
            *(four *)to = __builtin_shufflevector(ab, cd, 0, 1, 4, 5);
            *(four *)(to + width) = __builtin_shufflevector(ab, cd, 2, 3, 6, 7);
            *(four *)(to + 2 * width) = __builtin_shufflevector(ab2, cd2, 0, 1, 4, 5);
            *(four *)(to + 3 * width) = __builtin_shufflevector(ab2, cd2, 2, 3, 6, 7);
        }
        for (; i < k; i++)
            for (int64_t j = 0; j < m; j++) panel[i * width + col + j] = row[j][i * step[j]];
    }
}

static void f32_pack_left(void *panel, const float *const *rows, int64_t k) { f32_transpose(panel, TILE_ROWS, rows, TILE_ROWS, k); }

/* Returns how many numbers of each row it has packed: what makes whole tiles of 16 by 16, if the tier can turn those at once. */
static inline int64_t f32_pack_tiles(float *panel, const float *w, int64_t stride, int64_t n, int64_t k) {
#ifdef TRANSPOSE_TILE
    enum { SIDE = 16, AHEAD = 128 }; /* AHEAD: how far memory is asked for before it is needed */
    const int64_t size = sizeof *w;
    if (n < TILE_COLS) return 0;
    for (int64_t col = 0; col < TILE_COLS; col += SIDE, w += SIDE * stride)
        for (int64_t at = 0; at + SIDE <= k; at += SIDE) {
            for (int64_t i = 0; i < SIDE; i++) __builtin_prefetch(w + i * stride + at + AHEAD);
            TRANSPOSE_TILE((unsigned char *)(panel + at * TILE_COLS + col), TILE_COLS * size, (const unsigned char *)(w + at),
                           stride * size);
        }
    return k / SIDE * SIDE;
#else
    (void)panel, (void)w, (void)stride, (void)n, (void)k;
    return 0;
#endif
}

static void f32_pack_right_f32(void *panel, const float *w, int64_t stride, int64_t n, int64_t k) {
    int64_t done = f32_pack_tiles(panel, w, stride, n, k);
    const float *rows[TILE_COLS];
    for (int64_t i = 0; i < n; i++) rows[i] = w + i * stride + done;
    f32_transpose((float *)panel + done * TILE_COLS, TILE_COLS, rows, n, k - done);
}

static void f32_pack_right_bf16(void *panel, const uint16_t *w, int64_t stride, int64_t n, int64_t k) {
    enum { PIECE = 128 };
    uint32_t wide[TILE_COLS][PIECE];
    for (int64_t at = 0; at < k; at += PIECE) {
        int64_t m = k - at < PIECE ? k - at : PIECE;
        for (int64_t i = 0; i < n; i++)
            for (int64_t j = 0; j < m; j++) wide[i][j] = (uint32_t)w[i * stride + at + j] << 16;
        f32_pack_right_f32((float *)panel + at * TILE_COLS, (const float *)(const void *)wide, PIECE, n, m);
    }
}

static void f32_pack_right_columns(void *panel, const float *const *rows, int64_t n, int64_t k) {
    float *to = panel;
    for (int64_t i = 0; i < k; i++, to += TILE_COLS) {
        memcpy(to, rows[i], (size_t)n * sizeof *to);
        memset(to + n, 0, (size_t)(TILE_COLS - n) * sizeof *to);
    }
}

static const ink_cpu_product f32_product = {
    .tile_rows = TILE_ROWS,
    .tile_cols = TILE_COLS,
    .k_unit = 1,
    .element_bytes = 4,
    .group_cols = 128,
    .k_chunk = 1536,
    .k_near = 384,
    .pack_left = f32_pack_left,
    .pack_right_f32 = f32_pack_right_f32,
    .pack_right_bf16 = f32_pack_right_bf16,
    .pack_right_columns = f32_pack_right_columns,
    .multiply = f32_multiply,
};

#include "ops/cpu/cpu_kernels_integers.h"

/* Sums in double: a mean of many values far from zero would otherwise lose the digits that the variance needs. */
static double sum_lanes(const double *lane) {
    double sum = 0;
    for (int j = 0; j < LANES; j++) sum += lane[j];
    return sum;
}

static double sum_of(const float *x, int64_t n) {
    double lane[LANES] = {0};
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (int j = 0; j < LANES; j++) lane[j] += x[i + j];
    for (; i < n; i++) lane[0] += x[i];
    return sum_lanes(lane);
}

/* ---- around the exponential ------------------------------------------------------------------------------------------------ */

#ifndef HAVE_EXP_LOOPS
/* 2^n of an integer from -126 to 127; beyond, infinity for 128. */
static inline float power_of_2(float n) {
    int32_t bits = ((int32_t)n + 127) << 23;
    float power;
    memcpy(&power, &bits, sizeof power);
    return power;
}

/*
 * e^x to about 1 ulp, in a form that compilers turn into vector code: x = n ln 2 + r, |r| <= ln 2 / 2, e^r by its Taylor series,
 * whose rest at degree 8 is below 2e-10. Below -87 the result is 0 and above 88 infinite, a little before f32 itself ends; NaN
 * stays NaN.
 */
static inline float exp_f32(float x) {
    const float round = 12582912.0f; /* 1.5 * 2^23: adding it leaves the nearest integer in the low bits */
    float clamped = x >= -87.0f ? (x <= 88.0f ? x : 88.0f) : -87.0f; /* a NaN too: it must not become an integer */
    float shifted = clamped * 1.44269504f + round;
    float n = shifted - round;
    float r = clamped - n * 0.693359375f; /* ln 2 in two parts, the first exact in a product with n */
    r -= n * -2.12194440e-4f;
    float p = 2.48015873e-5f;
    p = p * r + 1.98412698e-4f;
    p = p * r + 1.38888889e-3f;
    p = p * r + 8.33333333e-3f;
    p = p * r + 4.16666667e-2f;
    p = p * r + 1.66666667e-1f;
    p = p * r + 0.5f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    float y = p * power_of_2(n);
    y = x < -87.0f ? 0.0f : y;
    y = x > 88.0f ? INFINITY : y;
    return x != x ? x : y;
}

/* The same of 2^x, x = n + r, for x <= 128; 0 below -126. */
static inline float exp2_f32(float x) {
    float clamped = x >= -126.0f ? x : -126.0f;
    float n = nearest(clamped), r = clamped - n;
    float p = EXP2_6;
    p = p * r + EXP2_5;
    p = p * r + EXP2_4;
    p = p * r + EXP2_3;
    p = p * r + EXP2_2;
    p = p * r + EXP2_1;
    p = p * r + 1.0f;
    float y = p * power_of_2(n);
    y = x < -126.0f ? 0.0f : y;
    return x != x ? x : y;
}

static inline float silu(float x) { return x / (1.0f + exp_f32(-x)); }

/* 0.5 x (1 + tanh u) with u = sqrt(2 / pi) (x + 0.044715 x^3), which is x / (1 + e^(-2u)). */
static inline float gelu_tanh(float x) {
    float u = 0.797884561f * (x + 0.044715f * x * x * x);
    return x / (1.0f + exp_f32(-2.0f * u));
}

static void silu_row(float *x, int64_t n) {
    for (int64_t i = 0; i < n; i++) x[i] = silu(x[i]);
}

static void gelu_tanh_row(float *x, int64_t n) {
    for (int64_t i = 0; i < n; i++) x[i] = gelu_tanh(x[i]);
}

static void silu_mul(float *dst, const float *a, const float *b, int64_t n) {
    for (int64_t i = 0; i < n; i++) dst[i] = silu(a[i]) * b[i];
}

static float softmax_block(float *x, int64_t n, float scale, float *max) {
    float lane[LANES], largest = *max;
    for (int j = 0; j < LANES; j++) lane[j] = largest;
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (int j = 0; j < LANES; j++) {
            x[i + j] *= scale;
            lane[j] = x[i + j] > lane[j] ? x[i + j] : lane[j];
        }
    for (; i < n; i++) {
        x[i] *= scale;
        lane[0] = x[i] > lane[0] ? x[i] : lane[0];
    }
    for (int j = 0; j < LANES; j++) largest = lane[j] > largest ? lane[j] : largest;
    for (i = 0; i < n; i++) x[i] = exp2_f32(x[i] - largest);
    *max = largest;
    return (float)sum_of(x, n);
}

static void activate(float *x, ink_cpu_activation act, int64_t n) {
    if (act == INK_CPU_ACT_GELU_TANH)
        gelu_tanh_row(x, n);
    else if (act == INK_CPU_ACT_SILU)
        silu_row(x, n);
}

static void epilogue(float *dst, const float *v, const float *bias, ink_cpu_activation act, const float *gate, const float *add,
                     int64_t n) {
    float y[INK_MAX_TILE_COLS];
    for (int64_t start = 0; start < n; start += INK_MAX_TILE_COLS) {
        int64_t m = n - start < INK_MAX_TILE_COLS ? n - start : INK_MAX_TILE_COLS;
        for (int64_t i = 0; i < m; i++) y[i] = v[start + i] + (bias ? bias[start + i] : 0.0f);
        activate(y, act, m);
        if (gate)
            for (int64_t i = 0; i < m; i++) y[i] *= gate[start + i];
        if (add)
            for (int64_t i = 0; i < m; i++) y[i] += add[start + i];
        memcpy(dst + start, y, (size_t)m * sizeof *y);
    }
}
#endif

static double sum_of_squares(const float *x, double mean, int64_t n) {
    double lane[LANES] = {0};
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (int j = 0; j < LANES; j++) lane[j] += (x[i + j] - mean) * (x[i + j] - mean);
    for (; i < n; i++) lane[0] += (x[i] - mean) * (x[i] - mean);
    return sum_lanes(lane);
}

static void layernorm_modulate(float *dst, const float *x, const float *scale, const float *shift, int64_t n, float eps) {
    double mean = sum_of(x, n) / (double)n;
    double r = 1.0 / sqrt(sum_of_squares(x, mean, n) / (double)n + (double)eps);
    for (int64_t i = 0; i < n; i++) dst[i] = (float)((x[i] - mean) * r) * (1.0f + scale[i]) + shift[i];
}

static void gated_add(float *dst, const float *x, const float *gate, const float *y, int64_t n) {
    if (gate)
        for (int64_t i = 0; i < n; i++) dst[i] = x[i] + gate[i] * y[i];
    else
        for (int64_t i = 0; i < n; i++) dst[i] = x[i] + y[i];
}

static void rmsnorm(float *dst, const float *x, const float *w, int64_t n, float eps) {
    float r = (float)(1.0 / sqrt(sum_of_squares(x, 0, n) / (double)n + (double)eps));
    for (int64_t i = 0; i < n; i++) dst[i] = x[i] * r * w[i];
}

static void rmsnorm_channels(float *dst, const float *x, const float *gamma, int64_t n, bool with_silu) {
    double norm = sqrt(sum_of_squares(x, 0, n));
    float r = (float)(sqrt((double)n) / (norm > 1e-12 ? norm : 1e-12));
    for (int64_t i = 0; i < n; i++) dst[i] = x[i] * r * gamma[i];
    if (with_silu) silu_row(dst, n);
}

static void rope_pairs(float *x, const float *cos, const float *sin, int64_t n_pairs) {
    for (int64_t i = 0; i < n_pairs; i++) {
        float a = x[2 * i], b = x[2 * i + 1];
        x[2 * i] = a * cos[i] - b * sin[i];
        x[2 * i + 1] = a * sin[i] + b * cos[i];
    }
}

static void rope_half(float *x, const float *cos, const float *sin, int64_t n_pairs) {
    for (int64_t i = 0; i < n_pairs; i++) {
        float a = x[i], b = x[n_pairs + i];
        x[i] = a * cos[i] - b * sin[i];
        x[n_pairs + i] = b * cos[i] + a * sin[i];
    }
}

static void scale_row(float *x, float factor, int64_t n) {
    for (int64_t i = 0; i < n; i++) x[i] *= factor;
}

const ink_cpu_kernels INK_KERNELS = {
    .f32 = &f32_product,
#ifdef PRODUCT_F32_PARTS
    .f32_parts = &PRODUCT_F32_PARTS,
#endif
#ifdef PRODUCT_BF16
    .bf16 = &PRODUCT_BF16,
#endif
#ifdef DECODE_AFFINE
    .decode_affine = DECODE_AFFINE,
    .decode_f8_e4m3 = DECODE_F8_E4M3,
    .decode_i8 = DECODE_I8,
#endif
    .i8 = &PRODUCT_I8,
    .largest_bits = largest_bits,
    .round_i8 = round_i8,
    .scale_sums = scale_sums,
    .epilogue = epilogue,
    .layernorm_modulate = layernorm_modulate,
    .gated_add = gated_add,
    .rmsnorm = rmsnorm,
    .rmsnorm_channels = rmsnorm_channels,
    .rope_pairs = rope_pairs,
    .rope_half = rope_half,
    .silu_mul = silu_mul,
    .softmax_block = softmax_block,
    .scale = scale_row,
};
