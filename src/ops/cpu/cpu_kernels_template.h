/*
 * cpu_kernels_template.h - the source of every tier's inner loops. A tier defines, and then includes this file:
 *   INK_KERNELS      the name of the table to define
 *   VECTOR_FLOATS    floats in a vector register
 *   TILE_VECTORS     vector registers in a row of the matrix tile
 *   MATMUL_BF16      a static ink_cpu_matmul_bf16 that is declared before, if the tier has one
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

typedef float vector __attribute__((vector_size(VECTOR_FLOATS * sizeof(float))));

static void matmul_tile(float *restrict c, const float *const *a, const float *restrict b, int64_t k) {
    vector sum[TILE_ROWS][TILE_VECTORS], *held = (vector *)(void *)c;
    for (int i = 0; i < TILE_ROWS * TILE_VECTORS; i++) sum[i / TILE_VECTORS][i % TILE_VECTORS] = held[i];
    const vector *packed = (const vector *)(const void *)b;
    for (int64_t i = 0; i < k; i++) {
        vector right[TILE_VECTORS];
        for (int v = 0; v < TILE_VECTORS; v++) right[v] = packed[i * TILE_VECTORS + v];
#pragma GCC unroll 8
        for (int row = 0; row < TILE_ROWS; row++)
#pragma GCC unroll 4
            for (int v = 0; v < TILE_VECTORS; v++) sum[row][v] += a[row][i] * right[v];
    }
    for (int i = 0; i < TILE_ROWS * TILE_VECTORS; i++) held[i] = sum[i / TILE_VECTORS][i % TILE_VECTORS];
}

static void pack_f32(float *restrict b, const float *restrict w, int64_t stride, int64_t n, int64_t k) {
    if (n < TILE_COLS) memset(b, 0, (size_t)k * TILE_COLS * sizeof *b);
    for (int64_t col = 0; col < n; col++)
        for (int64_t i = 0; i < k; i++) b[i * TILE_COLS + col] = w[col * stride + i];
}

static void pack_bf16(float *restrict b, const uint16_t *restrict w, int64_t stride, int64_t n, int64_t k) {
    if (n < TILE_COLS) memset(b, 0, (size_t)k * TILE_COLS * sizeof *b);
    uint32_t *bits = (uint32_t *)(void *)b;
    for (int64_t col = 0; col < n; col++)
        for (int64_t i = 0; i < k; i++) {
            uint32_t wide = (uint32_t)w[col * stride + i] << 16;
            memcpy(&bits[i * TILE_COLS + col], &wide, sizeof wide);
        }
}

static void pack_rows(float *restrict b, const float *restrict x, int64_t stride, int64_t n, int64_t k) {
    for (int64_t i = 0; i < k; i++) {
        memcpy(b + i * TILE_COLS, x + i * stride, (size_t)n * sizeof *b);
        memset(b + i * TILE_COLS + n, 0, (size_t)(TILE_COLS - n) * sizeof *b);
    }
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
    int32_t bits = ((int32_t)n + 127) << 23;
    float power;
    memcpy(&power, &bits, sizeof power);
    float y = p * power;
    y = x < -87.0f ? 0.0f : y;
    y = x > 88.0f ? INFINITY : y;
    return x != x ? x : y;
}

static inline float silu(float x) { return x / (1.0f + exp_f32(-x)); }

/* 0.5 x (1 + tanh u) with u = sqrt(2 / pi) (x + 0.044715 x^3), which is x / (1 + e^(-2u)). */
static inline float gelu_tanh(float x) {
    float u = 0.797884561f * (x + 0.044715f * x * x * x);
    return x / (1.0f + exp_f32(-2.0f * u));
}

static void activate(float *x, ink_cpu_activation act, int64_t n) {
    if (act == INK_CPU_ACT_GELU_TANH)
        for (int64_t i = 0; i < n; i++) x[i] = gelu_tanh(x[i]);
    else if (act == INK_CPU_ACT_SILU)
        for (int64_t i = 0; i < n; i++) x[i] = silu(x[i]);
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

static void gated_add(float *x, const float *gate, const float *y, int64_t n) {
    if (gate)
        for (int64_t i = 0; i < n; i++) x[i] += gate[i] * y[i];
    else
        for (int64_t i = 0; i < n; i++) x[i] += y[i];
}

static void rmsnorm(float *dst, const float *x, const float *w, int64_t n, float eps) {
    float r = (float)(1.0 / sqrt(sum_of_squares(x, 0, n) / (double)n + (double)eps));
    for (int64_t i = 0; i < n; i++) dst[i] = x[i] * r * w[i];
}

static void rmsnorm_channels(float *dst, const float *x, const float *gamma, int64_t n, bool with_silu) {
    double norm = sqrt(sum_of_squares(x, 0, n));
    float r = (float)(sqrt((double)n) / (norm > 1e-12 ? norm : 1e-12));
    for (int64_t i = 0; i < n; i++) dst[i] = x[i] * r * gamma[i];
    if (with_silu) activate(dst, INK_CPU_ACT_SILU, n);
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

static void silu_mul(float *dst, const float *a, const float *b, int64_t n) {
    for (int64_t i = 0; i < n; i++) dst[i] = silu(a[i]) * b[i];
}

static float softmax_block(float *x, int64_t n, float scale, float *max) {
    float largest = *max;
    for (int64_t i = 0; i < n; i++) {
        x[i] *= scale;
        largest = x[i] > largest ? x[i] : largest;
    }
    for (int64_t i = 0; i < n; i++) x[i] = exp_f32(x[i] - largest);
    *max = largest;
    return (float)sum_of(x, n);
}

static void scale_row(float *x, float factor, int64_t n) {
    for (int64_t i = 0; i < n; i++) x[i] *= factor;
}

const ink_cpu_kernels INK_KERNELS = {
    .tile_rows = TILE_ROWS,
    .tile_cols = TILE_COLS,
#ifdef MATMUL_BF16
    .bf16 = &MATMUL_BF16,
#endif
    .matmul_tile = matmul_tile,
    .pack_f32 = pack_f32,
    .pack_bf16 = pack_bf16,
    .pack_rows = pack_rows,
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
