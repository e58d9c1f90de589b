/*
 * dtype.h - element types and their conversions.
 */
#ifndef INK_TENSOR_DTYPE_H
#define INK_TENSOR_DTYPE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

typedef enum ink_dtype { INK_F32 = 0, INK_BF16, INK_F16, INK_OTHER_DTYPE } ink_dtype;

/* "F32", as safetensors spells it. Static storage. */
const char *ink_dtype_name(ink_dtype dtype);

/* Bytes of one element; 0 for INK_OTHER_DTYPE. */
size_t ink_dtype_size(ink_dtype dtype);

static inline float ink_f32_from_bf16(uint16_t bits) {
    uint32_t wide = (uint32_t)bits << 16;
    float value;
    memcpy(&value, &wide, sizeof value);
    return value;
}

/* Rounds to nearest, ties to even; NaN stays NaN. */
static inline uint16_t ink_bf16_from_f32(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return (uint16_t)((bits >> 16) | 0x40u);
    return (uint16_t)((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

static inline float ink_round_to_bf16(float value) { return ink_f32_from_bf16(ink_bf16_from_f32(value)); }

float ink_f32_from_f16(uint16_t bits);

/* dst[i] = src[i] for i in 0..n. src may be unaligned; dst is F32 or BF16. bf16 results are rounded to nearest even. */
void ink_convert(void *dst, ink_dtype dst_dtype, const void *src, ink_dtype src_dtype, int64_t n);

#endif
