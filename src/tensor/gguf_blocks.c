/*
 * gguf_blocks.c - one function per type of block. Each unpacks small integers first and multiplies then, in loops of constant
 * length that compilers turn into vector code.
 *
 * The order of the f32 operations is that of the reference, so that the results agree to the last bit: the scale of a group is
 * rounded before an element is multiplied with it, and a product before an offset is added.
 */
#include "tensor/gguf_blocks.h"

#include <string.h>

enum {
    BLOCK = 32,
    SUPER = 256,               /* elements of a block of the K types and of IQ4_XS, which scale them in groups of 16 or 32 */
    N_PACKED_SCALES_BYTES = 12 /* 8 scales and 8 minima, or 16 scales, of 6 bits each */
};

static float half_at(const uint8_t *bytes) { return ink_f32_from_f16((uint16_t)(bytes[0] | bytes[1] << 8)); }

/* q[0..n) from the lower halves of n bytes, q[n..2n) from the upper ones. */
static inline void unpack_nibbles(int8_t *restrict q, const uint8_t *restrict bytes, int n) {
    for (int i = 0; i < n; i++) q[i] = (int8_t)(bytes[i] & 15);
    for (int i = 0; i < n; i++) q[n + i] = (int8_t)(bytes[i] >> 4);
}

/* q[32 k + i] from bits 2k and 2k + 1 of byte i. */
static inline void unpack_pairs(int8_t *restrict q, const uint8_t *restrict bytes) {
    for (int k = 0; k < 4; k++)
        for (int i = 0; i < 32; i++) q[32 * k + i] = (int8_t)(bytes[i] >> 2 * k & 3);
}

static inline void scale(float *restrict dst, const int8_t *restrict q, int n, float d, int zero) {
    for (int i = 0; i < n; i++) dst[i] = d * (float)(q[i] - zero);
}

static inline void scale_and_shift(float *restrict dst, const int8_t *restrict q, int n, float d, float shift) {
    for (int i = 0; i < n; i++) dst[i] = d * (float)q[i] + shift;
}

/* ---- blocks of 32 ------------------------------------------------------------------------------------------------ */

/* d, 32 signed bytes */
static void decode_q8_0(float *dst, const uint8_t *block) { scale(dst, (const int8_t *)block + 2, BLOCK, half_at(block), 0); }

/* d, 32 nibbles */
static void decode_q4_0(float *dst, const uint8_t *block) {
    int8_t q[BLOCK];
    unpack_nibbles(q, block + 2, BLOCK / 2);
    scale(dst, q, BLOCK, half_at(block), 8);
}

/* d, m, 32 nibbles */
static void decode_q4_1(float *dst, const uint8_t *block) {
    int8_t q[BLOCK];
    unpack_nibbles(q, block + 4, BLOCK / 2);
    scale_and_shift(dst, q, BLOCK, half_at(block), half_at(block + 2));
}

/* 32 fifth bits, then 32 nibbles */
static inline void unpack_5_bits(int8_t *q, const uint8_t *bytes) {
    unpack_nibbles(q, bytes + 4, BLOCK / 2);
    for (int i = 0; i < 4; i++) {
        /* Eight bits to the fifth bit of eight bytes: copy the byte to all, keep one bit of each, and carry it to the top. */
        uint64_t word, bits = bytes[i] * UINT64_C(0x0101010101010101) & UINT64_C(0x8040201008040201);
        bits = (bits + UINT64_C(0x7f7f7f7f7f7f7f7f)) >> 7 & UINT64_C(0x0101010101010101);
        memcpy(&word, q + 8 * i, sizeof word);
        word |= bits << 4;
        memcpy(q + 8 * i, &word, sizeof word);
    }
}

/* d, 32 integers of 5 bits */
static void decode_q5_0(float *dst, const uint8_t *block) {
    int8_t q[BLOCK];
    unpack_5_bits(q, block + 2);
    scale(dst, q, BLOCK, half_at(block), 16);
}

/* d, m, 32 integers of 5 bits */
static void decode_q5_1(float *dst, const uint8_t *block) {
    int8_t q[BLOCK];
    unpack_5_bits(q, block + 4);
    scale_and_shift(dst, q, BLOCK, half_at(block), half_at(block + 2));
}

/* What a nibble of the IQ4 types stands for. */
static const int8_t iq4_values[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};

static inline void unpack_iq4(int8_t *q, const uint8_t *bytes) {
    for (int i = 0; i < BLOCK / 2; i++) q[i] = iq4_values[bytes[i] & 15];
    for (int i = 0; i < BLOCK / 2; i++) q[BLOCK / 2 + i] = iq4_values[bytes[i] >> 4];
}

/* d, 32 nibbles */
static void decode_iq4_nl(float *dst, const uint8_t *block) {
    int8_t q[BLOCK];
    unpack_iq4(q, block + 2);
    scale(dst, q, BLOCK, half_at(block), 0);
}

/* ---- blocks of 256 ----------------------------------------------------------------------------------------------- */

/* 16 bytes of a scale (lower half) and a minimum (upper half), 256 pairs of bits, d, dmin */
static void decode_q2_k(float *dst, const uint8_t *block) {
    const uint8_t *scales = block, *pairs = block + 16;
    float d = half_at(block + 80), dmin = half_at(block + 82);
    int8_t q[SUPER];
    for (int half = 0; half < 2; half++) unpack_pairs(q + 128 * half, pairs + 32 * half);
    for (int g = 0; g < 16; g++)
        scale_and_shift(dst + 16 * g, q + 16 * g, 16, d * (float)(scales[g] & 15), -(dmin * (float)(scales[g] >> 4)));
}

/* 256 third bits, 256 pairs of bits, 16 scales, d. The third bit counts -4 where it is not set. */
static void decode_q3_k(float *dst, const uint8_t *block) {
    const uint8_t *high = block, *pairs = block + 32, *scales = block + 96;
    float d = half_at(block + 96 + N_PACKED_SCALES_BYTES);
    int8_t q[SUPER];
    for (int half = 0; half < 2; half++) unpack_pairs(q + 128 * half, pairs + 32 * half);
    for (int g = 0; g < 8; g++)
        for (int i = 0; i < 32; i++) q[32 * g + i] |= (int8_t)((high[i] >> g & 1) << 2);
    for (int g = 0; g < 16; g++) {
        /* The lower four bits lie in 8 bytes of two scales, the upper two in 4 bytes of four. */
        int low = scales[g % 8] >> g / 8 * 4 & 15, top = scales[8 + g % 4] >> g / 4 * 2 & 3;
        scale(dst + 16 * g, q + 16 * g, 16, d * (float)((low | top << 4) - 32), 4);
    }
}

/*
 * Scale and minimum of group g of 8: the first four are the lower 6 bits of a byte each; the others have their lower 4 bits
 * in bytes of their own and the upper 2 in those of the first.
 */
static void unpack_scale_and_min(int *factor, int *least, const uint8_t *packed, int g) {
    if (g < 4) {
        *factor = packed[g] & 63;
        *least = packed[4 + g] & 63;
    } else {
        *factor = (packed[4 + g] & 15) | packed[g - 4] >> 6 << 4;
        *least = packed[4 + g] >> 4 | packed[g] >> 6 << 4;
    }
}

/* Both of Q4_K and Q5_K begin with d, dmin, and the scales and minima of 8 groups. */
static void scale_k(float *dst, const int8_t *q, const uint8_t *block) {
    float d = half_at(block), dmin = half_at(block + 2);
    for (int g = 0; g < 8; g++) {
        int factor, least;
        unpack_scale_and_min(&factor, &least, block + 4, g);
        scale_and_shift(dst + 32 * g, q + 32 * g, 32, d * (float)factor, -(dmin * (float)least));
    }
}

/* d, dmin, scales and minima, 256 nibbles */
static void decode_q4_k(float *dst, const uint8_t *block) {
    int8_t q[SUPER];
    for (int part = 0; part < 4; part++) unpack_nibbles(q + 64 * part, block + 4 + N_PACKED_SCALES_BYTES + 32 * part, 32);
    scale_k(dst, q, block);
}

/* d, dmin, scales and minima, 256 fifth bits, 256 nibbles */
static void decode_q5_k(float *dst, const uint8_t *block) {
    const uint8_t *high = block + 4 + N_PACKED_SCALES_BYTES, *nibbles = high + 32;
    int8_t q[SUPER];
    for (int part = 0; part < 4; part++) unpack_nibbles(q + 64 * part, nibbles + 32 * part, 32);
    for (int g = 0; g < 8; g++)
        for (int i = 0; i < 32; i++) q[32 * g + i] |= (int8_t)((high[i] >> g & 1) << 4);
    scale_k(dst, q, block);
}

/* 256 nibbles, 256 upper pairs of bits, 16 signed scales, d */
static void decode_q6_k(float *dst, const uint8_t *block) {
    const uint8_t *nibbles = block, *pairs = block + 128;
    const int8_t *scales = (const int8_t *)block + 192;
    float d = half_at(block + 208);
    int8_t q[SUPER], high[SUPER];
    for (int half = 0; half < 2; half++) {
        unpack_nibbles(q + 128 * half, nibbles + 64 * half, 64);
        unpack_pairs(high + 128 * half, pairs + 32 * half);
    }
    for (int i = 0; i < SUPER; i++) q[i] |= (int8_t)(high[i] << 4);
    for (int g = 0; g < 16; g++) scale(dst + 16 * g, q + 16 * g, 16, d * (float)scales[g], 32);
}

/* d, 8 upper pairs and 8 lower nibbles of scales, 256 nibbles */
static void decode_iq4_xs(float *dst, const uint8_t *block) {
    const uint8_t *tops = block + 2, *lows = block + 4, *nibbles = block + 8;
    float d = half_at(block);
    for (int g = 0; g < 8; g++) {
        int8_t q[32];
        int low = lows[g / 2] >> g % 2 * 4 & 15, top = tops[g / 4] >> g % 4 * 2 & 3;
        unpack_iq4(q, nibbles + 16 * g);
        scale(dst + 32 * g, q, 32, d * (float)((low | top << 4) - 32), 0);
    }
}

/* ---- by type ----------------------------------------------------------------------------------------------------- */

typedef void (*decode_fn)(float *dst, const uint8_t *block);

static const decode_fn decoders[INK_OTHER_DTYPE + 1] = {
    [INK_Q8_0] = decode_q8_0, [INK_Q4_0] = decode_q4_0, [INK_Q4_1] = decode_q4_1,     [INK_Q5_0] = decode_q5_0,
    [INK_Q5_1] = decode_q5_1, [INK_Q2_K] = decode_q2_k, [INK_Q3_K] = decode_q3_k,     [INK_Q4_K] = decode_q4_k,
    [INK_Q5_K] = decode_q5_k, [INK_Q6_K] = decode_q6_k, [INK_IQ4_NL] = decode_iq4_nl, [INK_IQ4_XS] = decode_iq4_xs,
};

bool ink_gguf_is_block_type(ink_dtype dtype) { return decoders[dtype] != NULL; }

void ink_gguf_decode(float *dst, ink_dtype dtype, const void *blocks, int64_t n_blocks) {
    decode_fn decode = decoders[dtype];
    const uint8_t *block = blocks;
    int64_t n_elements = ink_dtype_block_elements(dtype), n_bytes = ink_dtype_block_bytes(dtype);
    for (int64_t i = 0; i < n_blocks; i++) decode(dst + i * n_elements, block + i * n_bytes);
}
