/*
 * dtype.h - element types and their conversions.
 */
#ifndef INK_TENSOR_DTYPE_H
#define INK_TENSOR_DTYPE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/bf16.h"

typedef enum ink_dtype { INK_F32 = 0, INK_BF16, INK_F16, INK_OTHER_DTYPE } ink_dtype;

/* "F32", as safetensors spells it. Static storage. */
const char *ink_dtype_name(ink_dtype dtype);

/* Bytes of one element; 0 for INK_OTHER_DTYPE. */
size_t ink_dtype_size(ink_dtype dtype);

float ink_f32_from_f16(uint16_t bits);

/* dst[i] = src[i] for i in 0..n. src may be unaligned; dst is F32 or BF16. bf16 results are rounded to nearest even. */
void ink_convert(void *dst, ink_dtype dst_dtype, const void *src, ink_dtype src_dtype, int64_t n);

#endif
