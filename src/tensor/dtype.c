/* dtype.c - conversions between element types. */
#include "tensor/dtype.h"

#include <math.h>

const char *ink_dtype_name(ink_dtype dtype) {
    switch (dtype) {
    case INK_F32: return "F32";
    case INK_BF16: return "BF16";
    case INK_F16: return "F16";
    case INK_OTHER_DTYPE: break;
    }
    return "other";
}

size_t ink_dtype_size(ink_dtype dtype) { return dtype == INK_F32 ? 4 : dtype == INK_BF16 || dtype == INK_F16 ? 2 : 0; }

float ink_f32_from_f16(uint16_t bits) {
    int exponent = (bits >> 10) & 0x1f;
    int mantissa = bits & 0x3ff;
    float magnitude;
    if (exponent == 31)
        magnitude = mantissa ? NAN : INFINITY;
    else if (exponent == 0)
        magnitude = ldexpf((float)mantissa, -24);
    else
        magnitude = ldexpf((float)(mantissa | 0x400), exponent - 25);
    return bits & 0x8000 ? -magnitude : magnitude;
}

static float load(const unsigned char *src, ink_dtype dtype, int64_t i) {
    if (dtype == INK_F32) {
        float value;
        memcpy(&value, src + 4 * i, sizeof value);
        return value;
    }
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
