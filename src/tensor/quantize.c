/* quantize.c - rounding rows to few bits. */
#include "tensor/quantize.h"

#include <math.h>

static const float F8_MAX = 448.0f;

/*
 * Scale and bias of a group, already rounded as they will be stored: levels from the least to the largest value, moved so that
 * zero is a level when the group has both signs.
 */
static void choose_levels(const float *x, int levels, uint16_t *scale, uint16_t *bias) {
    float least = x[0], most = x[0];
    for (int i = 1; i < INK_AFFINE_GROUP; i++) {
        least = fminf(least, x[i]);
        most = fmaxf(most, x[i]);
    }
    *scale = ink_bf16_from_f32((most - least) / (float)levels);
    float step = ink_f32_from_bf16(*scale);
    if (least < 0 && most > 0 && step > 0) least = -step * rintf(-least / step);
    *bias = ink_bf16_from_f32(least);
}

void ink_quantize_affine(ink_dtype dtype, const float *x, int64_t n, unsigned char *q, uint16_t *scales, uint16_t *biases) {
    bool nibbles = dtype == INK_AFFINE_4;
    const int levels = nibbles ? 15 : 255;
    for (int64_t group = 0; group < n / INK_AFFINE_GROUP; group++) {
        const float *values = x + group * INK_AFFINE_GROUP;
        choose_levels(values, levels, &scales[group], &biases[group]);
        float step = ink_f32_from_bf16(scales[group]), bias = ink_f32_from_bf16(biases[group]);
        for (int i = 0; i < INK_AFFINE_GROUP; i++) {
            float level = step > 0 ? rintf((values[i] - bias) / step) : 0.0f;
            int bounded = level > 0 ? (level < (float)levels ? (int)level : levels) : 0; /* 0 for a NaN as well */
            int64_t at = group * INK_AFFINE_GROUP + i;
            if (!nibbles)
                q[at] = (unsigned char)bounded;
            else
                q[at / 2] = (unsigned char)(at % 2 ? q[at / 2] | bounded << 4 : bounded);
        }
    }
}

uint8_t ink_f8_e4m3_from_f32(float value) {
    uint8_t sign = signbit(value) ? 0x80 : 0;
    float magnitude = fabsf(value);
    if (isnan(value)) return sign | 0x7f;
    if (magnitude >= F8_MAX) return sign | 0x7e;
    if (magnitude < 0x1p-6f) return sign | (uint8_t)lrintf(magnitude * 0x1p9f); /* subnormal: multiples of 2^-9 */
    int exponent;
    float fraction = frexpf(magnitude, &exponent); /* 0.5 <= fraction < 1 */
    int mantissa = (int)lrintf(fraction * 16.0f);  /* 8..16; 16 carries into the exponent by itself */
    return sign | (uint8_t)(((exponent + 6) << 3) + mantissa - 8);
}

void ink_quantize_f8(const float *x, int64_t n, unsigned char *q, float *scale) {
    float most = 0;
    for (int64_t i = 0; i < n; i++) most = fmaxf(most, fabsf(x[i]));
    *scale = most > 0 ? most / F8_MAX : 1.0f;
    for (int64_t i = 0; i < n; i++) q[i] = ink_f8_e4m3_from_f32(x[i] / *scale);
}
