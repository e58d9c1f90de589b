/*
 * dtype.h - element types and their conversions.
 */
#ifndef INK_TENSOR_DTYPE_H
#define INK_TENSOR_DTYPE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/bf16.h"

typedef enum ink_dtype {
    INK_F32 = 0,
    INK_BF16,
    INK_F16,
    INK_F8_E4M3, /* 4 bits of exponent, 3 of mantissa, no infinity */
    /* Blocks of GGUF: a row is a sequence of them, each with scales of its own. See gguf_blocks.h. */
    INK_Q8_0,
    INK_Q4_0,
    INK_Q4_1,
    INK_Q5_0,
    INK_Q5_1,
    INK_Q2_K,
    INK_Q3_K,
    INK_Q4_K,
    INK_Q5_K,
    INK_Q6_K,
    INK_IQ4_NL,
    INK_IQ4_XS,
    /* Integers in groups whose scales and biases lie in arrays of their own; MLX's form, and ours. See ink_weight. */
    INK_AFFINE_4,
    INK_AFFINE_8,
    INK_I8, /* signed integers, with a scale for each row in an array of its own */
    INK_OTHER_DTYPE
} ink_dtype;

/* "F32", as safetensors and GGUF spell it. Static storage. */
const char *ink_dtype_name(ink_dtype dtype);

/* Bytes of one element of a type that has such: F32, BF16, F16, F8_E4M3; else 0. */
size_t ink_dtype_size(ink_dtype dtype);

/* How many elements share a block, and its bytes; 2 elements a byte of AFFINE_4, whose scales are not counted. */
int64_t ink_dtype_block_elements(ink_dtype dtype);
int64_t ink_dtype_block_bytes(ink_dtype dtype);

/* Whether elements stand alone and are floating point: what ink_convert reads. */
bool ink_dtype_is_float(ink_dtype dtype);

float ink_f32_from_f16(uint16_t bits);
float ink_f32_from_f8_e4m3(uint8_t bits);

/* dst[i] = src[i] for i in 0..n. src is a float type and may be unaligned; dst is F32 or BF16, which is rounded to nearest even. */
void ink_convert(void *dst, ink_dtype dst_dtype, const void *src, ink_dtype src_dtype, int64_t n);

#endif
