/* quantize.h - making 8-bit and 4-bit forms of a row. */
#ifndef INK_TENSOR_QUANTIZE_H
#define INK_TENSOR_QUANTIZE_H

#include "tensor/dtype.h"

enum { INK_AFFINE_GROUP = 64 };

/*
 * x [n], n a multiple of INK_AFFINE_GROUP, to AFFINE_8 or AFFINE_4: q (n or n / 2 bytes), scales and biases [n / group], bf16.
 */
void ink_quantize_affine(ink_dtype dtype, const float *x, int64_t n, unsigned char *q, uint16_t *scales, uint16_t *biases);

/* x [n] to F8_E4M3 with one scale, so that the largest magnitude becomes 448, the largest of the type. */
void ink_quantize_f8(const float *x, int64_t n, unsigned char *q, float *scale);

/* Rounds to nearest, ties to even; values beyond 448 become 448. */
uint8_t ink_f8_e4m3_from_f32(float value);

#endif
