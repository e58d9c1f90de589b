/* bf16.h - the bfloat16 format: the upper half of an f32. */
#ifndef INK_BASE_BF16_H
#define INK_BASE_BF16_H

#include <stdint.h>
#include <string.h>

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

#endif
