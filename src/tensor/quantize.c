/* quantize.c - rounding rows to few bits. */
#include "tensor/quantize.h"

#include <float.h>
#include <math.h>
#include <string.h>

static const float F8_MAX = 448.0f; /* 0x43e00000 */

/* ---- groups of integers ------------------------------------------------------------------------------------------- */

/* Sums are kept in lanes, which a compiler may put into vectors without changing the order of anything. */
enum { GROUP = INK_AFFINE_GROUP, LANES = 8 };

/* What a code stands for: code * scale + bias. Both have been through bf16. */
typedef struct levels {
    float scale, bias;
} levels;

static float rounded(float value) { return ink_f32_from_bf16(ink_bf16_from_f32(value)); }

static float sum_lanes(const float lanes[LANES]) {
    float sum = 0;
    for (int i = 0; i < LANES; i++) sum += lanes[i];
    return sum;
}

/* The code of x, 0..top, ties to even; 0 for a NaN. Adding 2^23 rounds a small number without a call of the maths library. */
static inline float code_of(float x, float bias, float inverse, float top) {
    float code = (x - bias) * inverse;
    code = code > 0 ? code : 0;
    code = code < top ? code : top;
    return (code + 0x1p23f) - 0x1p23f;
}

static float squared_error(const float *x, levels l, float top) {
    float lanes[LANES] = {0}, inverse = 1 / l.scale;
    for (int i = 0; i < GROUP; i += LANES)
        for (int j = 0; j < LANES; j++) {
            float difference = code_of(x[i + j], l.bias, inverse, top) * l.scale + l.bias - x[i + j];
            lanes[j] += difference * difference;
        }
    return sum_lanes(lanes);
}

/* Levels from the least to the largest value, moved so that zero is a level when the group has both signs. */
static levels spanning(float least, float most, float top) {
    levels l = {.scale = rounded((most - least) / top), .bias = least};
    if (least < 0 && most > 0 && l.scale > 0) l.bias = -l.scale * rintf(-least / l.scale);
    l.bias = rounded(l.bias);
    return l;
}

/* The levels that fit best, by least squares, when every value keeps the code that it has under l. */
static levels refitted(const float *x, levels l, float top) {
    float codes[LANES] = {0}, squares[LANES] = {0}, products[LANES] = {0}, values[LANES] = {0}, inverse = 1 / l.scale;
    for (int i = 0; i < GROUP; i += LANES)
        for (int j = 0; j < LANES; j++) {
            float code = code_of(x[i + j], l.bias, inverse, top);
            codes[j] += code;
            squares[j] += code * code;
            products[j] += code * x[i + j];
            values[j] += x[i + j];
        }
    float sum_codes = sum_lanes(codes), sum_values = sum_lanes(values);
    float variance = GROUP * sum_lanes(squares) - sum_codes * sum_codes;
    float scale = rounded((GROUP * sum_lanes(products) - sum_codes * sum_values) / variance);
    if (!(variance > 0 && scale > 0)) return l;
    return (levels){scale, rounded((sum_values - scale * sum_codes) / GROUP)};
}

/*
 * With 16 levels it pays to cut off the largest values of a group, so that the others get finer steps: a narrower range is tried
 * beside the whole one, each refitted once, and what has the least squared error is taken. Two ranges give nearly all that eight
 * give (docs/numerics.md). With 256 levels there is nothing to gain.
 */
static levels choose_levels(const float *x, float top) {
    static const float shares[] = {1.0f, 0.92f};
    float least = x[0], most = x[0];
    for (int i = 1; i < GROUP; i++) {
        least = x[i] < least ? x[i] : least;
        most = x[i] > most ? x[i] : most;
    }
    levels best = spanning(least, most, top);
    /* No steps, or such as have no inverse: all values are equal, or not numbers. */
    if (top > 15 || !(best.scale > FLT_MIN && best.scale < FLT_MAX)) return best;
    float best_error = squared_error(x, best, top);
    for (size_t i = 0; i < sizeof shares / sizeof *shares; i++) {
        float scale = shares[i] * (most - least) / top;
        levels tried = refitted(x, (levels){scale, (least + most) / 2 - scale * top / 2}, top);
        float error = squared_error(x, tried, top);
        if (error < best_error) {
            best = tried;
            best_error = error;
        }
    }
    return best;
}

static void quantize_group(const float *x, levels l, float top, unsigned char codes[GROUP]) {
    float inverse = l.scale > 0 ? 1 / l.scale : 0;
    if (!(inverse < FLT_MAX)) inverse = 0;
    for (int i = 0; i < GROUP; i++) codes[i] = (unsigned char)code_of(x[i], l.bias, inverse, top);
}

void ink_quantize_affine(ink_dtype dtype, const float *x, int64_t n, unsigned char *q, uint16_t *scales, uint16_t *biases) {
    bool nibbles = dtype == INK_AFFINE_4;
    const float top = nibbles ? 15 : 255;
    for (int64_t group = 0; group < n / GROUP; group++) {
        unsigned char codes[GROUP];
        levels l = choose_levels(x + group * GROUP, top);
        quantize_group(x + group * GROUP, l, top, codes);
        scales[group] = ink_bf16_from_f32(l.scale);
        biases[group] = ink_bf16_from_f32(l.bias);
        if (!nibbles)
            memcpy(q + group * GROUP, codes, GROUP);
        else
            for (int i = 0; i < GROUP; i += 2) q[(group * GROUP + i) / 2] = (unsigned char)(codes[i] | codes[i + 1] << 4);
    }
}

/* ---- 8-bit floats --------------------------------------------------------------------------------------------------- */

/* Without a branch, so that a compiler may put several into a vector. */
static inline uint8_t f8_of(float value) {
    uint32_t bits, steps;
    memcpy(&bits, &value, sizeof bits);
    uint32_t sign = bits >> 24 & 0x80, size = bits & 0x7fffffff;
    float magnitude;
    memcpy(&magnitude, &size, sizeof magnitude);
    /* Below 2^-6 multiples of 2^-9, which is what numbers from 2^14 on can be. */
    float shifted = magnitude + 0x1p14f;
    memcpy(&steps, &shifted, sizeof steps);
    const uint32_t two_to_14 = 0x46800000, two_to_minus_6 = 0x3c800000, largest = 0x43e00000, infinity = 0x7f800000;
    uint32_t code = size < two_to_minus_6 ? steps - two_to_14
                                          : ((size + 0x7ffff + (size >> 20 & 1)) >> 20) - (120 << 3); /* 4 + 3 bits, to even */
    code = size >= largest ? 0x7e : code;
    code = size > infinity ? 0x7f : code;
    return (uint8_t)(sign | code);
}

uint8_t ink_f8_e4m3_from_f32(float value) { return f8_of(value); }

void ink_quantize_f8(const float *x, int64_t n, unsigned char *q, float *scale) {
    float most = 0;
    for (int64_t i = 0; i < n; i++) most = fmaxf(most, fabsf(x[i]));
    *scale = most > 0 ? most / F8_MAX : 1.0f;
    for (int64_t i = 0; i < n; i++) q[i] = f8_of(x[i] / *scale);
}

/* ---- signed integers -------------------------------------------------------------------------------------------------- */

uint32_t ink_i8_largest_bits(const float *x, int64_t n) {
    uint32_t largest = 0;
    for (int64_t i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, &x[i], sizeof bits);
        bits &= 0x7fffffff;
        largest = bits > largest ? bits : largest;
    }
    return largest;
}

void ink_quantize_i8(const float *x, int64_t n, int8_t *q, float *scale) {
    float inverse;
    *scale = ink_i8_scale(ink_i8_largest_bits(x, n), &inverse);
    for (int64_t i = 0; i < n; i++) q[i] = ink_i8_code(x[i], inverse);
}

/* ---- whole matrices --------------------------------------------------------------------------------------------------- */

void ink_quantize_describe(ink_weight *w, ink_dtype dtype, int64_t rows, int64_t cols) {
    *w = (ink_weight){.dtype = dtype, .rows = rows, .cols = cols};
    w->group = dtype == INK_AFFINE_8 || dtype == INK_AFFINE_4 ? INK_AFFINE_GROUP : 0;
    w->n_scales = dtype == INK_F8_E4M3 || dtype == INK_I8 ? rows : 0;
    w->scale_dtype = w->group ? INK_BF16 : INK_F32;
}

void ink_quantize_encode_row(const ink_weight *dst, int64_t row, const float *x) {
    int64_t first = row * dst->cols, group = dst->group ? first / dst->group : 0;
    unsigned char *data = (unsigned char *)(uintptr_t)dst->data;
    if (dst->group)
        ink_quantize_affine(dst->dtype, x, dst->cols, data + (dst->dtype == INK_AFFINE_8 ? first : first / 2),
                            (uint16_t *)(uintptr_t)dst->scales + group, (uint16_t *)(uintptr_t)dst->biases + group);
    else if (dst->dtype == INK_I8)
        ink_quantize_i8(x, dst->cols, (int8_t *)data + first, (float *)(uintptr_t)dst->scales + row);
    else if (dst->n_scales)
        ink_quantize_f8(x, dst->cols, data + first, (float *)(uintptr_t)dst->scales + row);
    else
        ink_convert(data + (size_t)first * ink_dtype_size(dst->dtype), dst->dtype, x, INK_F32, dst->cols);
}
