/* dtype.c - conversions between element types. */
#include "tensor/dtype.h"

#include <math.h>

static const struct {
    const char *name;
    int8_t size;
    int16_t block_elements, block_bytes;
} types[] = {
    [INK_F32] = {"F32", 4, 1, 4},         [INK_BF16] = {"BF16", 2, 1, 2},
    [INK_F16] = {"F16", 2, 1, 2},         [INK_F8_E4M3] = {"F8_E4M3", 1, 1, 1},
    [INK_Q8_0] = {"Q8_0", 0, 32, 34},     [INK_Q4_0] = {"Q4_0", 0, 32, 18},
    [INK_Q4_1] = {"Q4_1", 0, 32, 20},     [INK_Q5_0] = {"Q5_0", 0, 32, 22},
    [INK_Q5_1] = {"Q5_1", 0, 32, 24},     [INK_Q2_K] = {"Q2_K", 0, 256, 84},
    [INK_Q3_K] = {"Q3_K", 0, 256, 110},   [INK_Q4_K] = {"Q4_K", 0, 256, 144},
    [INK_Q5_K] = {"Q5_K", 0, 256, 176},   [INK_Q6_K] = {"Q6_K", 0, 256, 210},
    [INK_IQ4_NL] = {"IQ4_NL", 0, 32, 18}, [INK_IQ4_XS] = {"IQ4_XS", 0, 256, 136},
    [INK_AFFINE_4] = {"Q4", 0, 2, 1},     [INK_AFFINE_8] = {"Q8", 0, 1, 1},
    [INK_I8] = {"I8", 0, 1, 1},           [INK_OTHER_DTYPE] = {"other", 0, 1, 0},
};

const char *ink_dtype_name(ink_dtype dtype) { return types[dtype].name; }

size_t ink_dtype_size(ink_dtype dtype) { return (size_t)types[dtype].size; }

int64_t ink_dtype_block_elements(ink_dtype dtype) { return types[dtype].block_elements; }

int64_t ink_dtype_block_bytes(ink_dtype dtype) { return types[dtype].block_bytes; }

bool ink_dtype_is_float(ink_dtype dtype) { return types[dtype].size > 0; }

float ink_f32_from_f16(uint16_t bits) {
    /* The fields of f32 lie 13 bits higher; the product mends the bias of the exponent, exactly and for subnormals too. */
    uint32_t wide = (uint32_t)(bits & 0x7fff) << 13;
    float magnitude;
    memcpy(&magnitude, &wide, sizeof magnitude);
    magnitude *= 0x1p112f;
    if ((bits & 0x7c00) == 0x7c00) magnitude = bits & 0x3ff ? NAN : INFINITY;
    return bits & 0x8000 ? -magnitude : magnitude;
}

float ink_f32_from_f8_e4m3(uint8_t bits) {
    int exponent = (bits >> 3) & 0xf, mantissa = bits & 7;
    float magnitude = exponent == 0 ? ldexpf((float)mantissa, -9) : ldexpf((float)(mantissa | 8), exponent - 10);
    if ((bits & 0x7f) == 0x7f) magnitude = NAN;
    return bits & 0x80 ? -magnitude : magnitude;
}

static float load(const unsigned char *src, ink_dtype dtype, int64_t i) {
    if (dtype == INK_F32) {
        float value;
        memcpy(&value, src + 4 * i, sizeof value);
        return value;
    }
    if (dtype == INK_F8_E4M3) return ink_f32_from_f8_e4m3(src[i]);
    uint16_t bits;
    memcpy(&bits, src + 2 * i, sizeof bits);
    return dtype == INK_BF16 ? ink_f32_from_bf16(bits) : ink_f32_from_f16(bits);
}

void ink_convert(void *dst, ink_dtype dst_dtype, const void *src, ink_dtype src_dtype, int64_t n) {
    if (dst_dtype == src_dtype) {
        memcpy(dst, src, (size_t)n * ink_dtype_size(dst_dtype));
    } else if (dst_dtype == INK_F32) {
        for (int64_t i = 0; i < n; i++) ((float *)dst)[i] = load(src, src_dtype, i);
    } else {
        for (int64_t i = 0; i < n; i++) ((uint16_t *)dst)[i] = ink_bf16_from_f32(load(src, src_dtype, i));
    }
}
