/*
 * tensor.h - a view of numbers that somebody else owns: rows of equal length, a stride apart.
 *
 * Everything that ops compute on is such a matrix: tokens by channels; pixels (row-major) by channels for the VAE; a vector
 * is one row. A slice of columns or of rows is a view again, so text and image share one buffer and nothing is concatenated.
 */
#ifndef INK_TENSOR_TENSOR_H
#define INK_TENSOR_TENSOR_H

#include <stdint.h>

#include "tensor/dtype.h"

/* Activations: f32, but for devices that keep some of them in bf16 (ink_scratch_rounded). */
typedef struct ink_tensor {
    float *data; /* of BF16: to be cast */
    int64_t rows, cols;
    int64_t stride; /* elements from one row to the next, >= cols */
    ink_dtype type; /* F32 or BF16 */
} ink_tensor;

static inline ink_tensor ink_view(float *data, int64_t rows, int64_t cols) { return (ink_tensor){data, rows, cols, cols, INK_F32}; }

/* The address n elements further. */
static inline float *ink_element(ink_tensor x, int64_t n) {
    return x.type == INK_F32 ? x.data + n : (float *)(void *)((uint16_t *)(void *)x.data + n);
}

static inline ink_tensor ink_rows(ink_tensor x, int64_t first, int64_t n) {
    return (ink_tensor){ink_element(x, first * x.stride), n, x.cols, x.stride, x.type};
}

static inline ink_tensor ink_cols(ink_tensor x, int64_t first, int64_t n) {
    return (ink_tensor){ink_element(x, first), x.rows, n, x.stride, x.type};
}

/* Of an f32 tensor. */
static inline float *ink_row(ink_tensor x, int64_t row) { return x.data + row * x.stride; }

#endif
