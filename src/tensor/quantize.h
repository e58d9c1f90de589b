/* quantize.h - making 8-bit and 4-bit forms, row by row. */
#ifndef INK_TENSOR_QUANTIZE_H
#define INK_TENSOR_QUANTIZE_H

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

/* Sets all of *w but what it points to: how a matrix of this type is made here. dtype: F32, BF16, F8_E4M3, AFFINE_8 or AFFINE_4. */
void ink_quantize_describe(ink_weight *w, ink_dtype dtype, int64_t rows, int64_t cols);

/* Fills one row of dst, whose memory is the caller's and can be written to, from x [cols]. Rows may be filled by several threads.
 */
void ink_quantize_encode_row(const ink_weight *dst, int64_t row, const float *x);

#endif
