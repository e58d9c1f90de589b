/*
 * weight.h - one matrix of a model in the form in which it is stored: floating point, blocks of GGUF, or groups with scales
 * beside them. Ops read it through ink_weight_decode, or in place where they know the type.
 */
#ifndef INK_TENSOR_WEIGHT_H
#define INK_TENSOR_WEIGHT_H

#include <stdbool.h>

#include "tensor/dtype.h"

/* [rows, cols], row-major: row n holds the inputs of output n. Owns nothing. */
typedef struct ink_weight {
    ink_dtype dtype;
    const void *data; /* F32 and BF16: aligned to their elements; else to nothing */
    int64_t rows, cols;
    /*
     * AFFINE_8, AFFINE_4: element = q * scale + bias, q unsigned, the first of a byte in its low bits; scales and biases
     * [rows, cols / group]. F8_E4M3: element = f8 * scale, scales [n_scales], one per row or one for all; NULL: 1. I8: the same
     * with q signed, and never NULL.
     */
    const void *scales, *biases;
    ink_dtype scale_dtype; /* F32, BF16 or F16; unaligned */
    int64_t group, n_scales;
    /*
     * A low-rank branch beside the matrix (LoRA): x W^T + (x down^T) up^T; down [rank, cols], up [rows, rank], borrowed. Without
     * down, up is [rows, cols] and is multiplied by x itself. Both NULL: no branch.
     */
    const struct ink_weight *down, *up;
    const char *name; /* of its tensor, borrowed, for those who look on; NULL: none */
} ink_weight;

/* A matrix in the host's memory of which rows are looked up, and whether what they decode to is rounded to bf16. */
typedef struct ink_table {
    ink_weight stored;
    bool rounds;
} ink_table;

enum { INK_MAX_GROUP = 256 }; /* of AFFINE types; every group divides it */

/* dst[0..n) = elements col .. col + n of a row. col and n are multiples of the type's block or group. */
void ink_weight_decode(float *dst, const ink_weight *w, int64_t row, int64_t col, int64_t n);

/* The scale of a row, of F8_E4M3 and I8. */
float ink_weight_row_scale(const ink_weight *w, int64_t row);

/* dst[0..n) = its scales or biases, an array of scale_dtype, from `first` on; and one of them. */
void ink_weight_scales(float *dst, const ink_weight *w, const void *scales, int64_t first, int64_t n);
float ink_weight_scale(const ink_weight *w, const void *scales, int64_t i);

/*
 * Whether `linear` multiplies integers: the rows of x are rounded to 8 bits as quantize.h has it, each by itself, products are
 * summed exactly, and a sum becomes (f32) sum * scale of the column * scale of the row. It does where its caller lets it round, and
 * with sums that 32 bits hold. Else an I8 weight is multiplied as any other.
 */
enum { INK_MAX_I8_COLS = 1 << 17 };
static inline bool ink_weight_takes_integers(const ink_weight *w, bool may_round) {
    return w->dtype == INK_I8 && may_round && w->cols <= INK_MAX_I8_COLS;
}

/* Bytes of data alone, of scales (biases take as many), and of all three. */
int64_t ink_weight_data_bytes(const ink_weight *w);
int64_t ink_weight_scale_bytes(const ink_weight *w);
int64_t ink_weight_bytes(const ink_weight *w);

#endif
