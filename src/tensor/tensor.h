/*
 * tensor.h - a view of numbers that somebody else owns: rows of equal length, a stride apart.
 *
 * Everything that ops compute on is such a matrix: tokens by channels; pixels (row-major) by channels for the VAE; a vector
 * is one row. A slice of columns or of rows is a view again, so text and image share one buffer and nothing is concatenated.
 */
#ifndef INK_TENSOR_TENSOR_H
#define INK_TENSOR_TENSOR_H

#include <stdint.h>

/* Activations: always f32. */
typedef struct ink_tensor {
    float *data;
    int64_t rows, cols;
    int64_t stride; /* elements from one row to the next, >= cols */
} ink_tensor;

static inline ink_tensor ink_view(float *data, int64_t rows, int64_t cols) { return (ink_tensor){data, rows, cols, cols}; }

static inline ink_tensor ink_rows(ink_tensor x, int64_t first, int64_t n) {
    return (ink_tensor){x.data + first * x.stride, n, x.cols, x.stride};
}

static inline ink_tensor ink_cols(ink_tensor x, int64_t first, int64_t n) {
    return (ink_tensor){x.data + first, x.rows, n, x.stride};
}

static inline float *ink_row(ink_tensor x, int64_t row) { return x.data + row * x.stride; }

#endif
