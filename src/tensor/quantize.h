/* quantize.h - making 8-bit and 4-bit forms, row by row. */
#ifndef INK_TENSOR_QUANTIZE_H
#define INK_TENSOR_QUANTIZE_H

#include <math.h>

#include "tensor/weight.h"

enum { INK_AFFINE_GROUP = 64 };

/*
 * x [n], n a multiple of INK_AFFINE_GROUP, to AFFINE_8 or AFFINE_4: q (n or n / 2 bytes), scales and biases [n / group], bf16.
 * With 4 bits scale and bias are searched for the least squared error of a group, so single values may be off by more than half a
 * step. The same input gives the same bits on every call.
 */
void ink_quantize_affine(ink_dtype dtype, const float *x, int64_t n, unsigned char *q, uint16_t *scales, uint16_t *biases);

/* x [n] to F8_E4M3 with one scale, so that the largest magnitude becomes 448, the largest of the type. */
void ink_quantize_f8(const float *x, int64_t n, unsigned char *q, float *scale);

/* Rounds to nearest, ties to even; values beyond 448 become 448. */
uint8_t ink_f8_e4m3_from_f32(float value);

/*
 * Rows as signed integers, -127 to 127, with one scale: what the largest magnitude of a row says of it. The bits are those of an
 * f32 without its sign, which are ordered as the numbers are, with infinity and NaN above all others. Returns the scale, and in
 * *inverse by what to multiply: 0 where all codes are 0, which are rows of numbers below 2^-100, with the scale 0, and such as
 * hold a number that is none, with the scale NaN.
 */
static inline float ink_i8_scale(uint32_t largest_bits, float *inverse) {
    float largest;
    memcpy(&largest, &largest_bits, sizeof largest);
    bool finite = largest_bits < 0x7f800000, some = finite && largest >= 0x1p-100f;
    *inverse = some ? 127.0f / largest : 0;
    return some ? largest / 127.0f : finite ? 0 : NAN;
}

uint32_t ink_i8_largest_bits(const float *x, int64_t n);

/* To nearest, ties to even. */
static inline int8_t ink_i8_code(float x, float inverse) { return inverse > 0 ? (int8_t)lrintf(x * inverse) : 0; }

/* x [n] to I8 with one scale. */
void ink_quantize_i8(const float *x, int64_t n, int8_t *q, float *scale);

/* Sets all of *w but what it points to: how a matrix of this type is made here. dtype: F32, BF16, F8_E4M3, I8, AFFINE_8
   or AFFINE_4. */
void ink_quantize_describe(ink_weight *w, ink_dtype dtype, int64_t rows, int64_t cols);

/* Fills one row of dst, whose memory is the caller's and can be written to, from x [cols]. Rows may be filled by several threads.
 */
void ink_quantize_encode_row(const ink_weight *dst, int64_t row, const float *x);

#endif
