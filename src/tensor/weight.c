/* weight.c - decoding rows of every stored form. */
#include "tensor/weight.h"

#include "tensor/gguf_blocks.h"

void ink_weight_scales(float *dst, const ink_weight *w, const void *scales, int64_t first, int64_t n) {
    const unsigned char *from = (const unsigned char *)scales + (size_t)first * ink_dtype_size(w->scale_dtype);
    ink_convert(dst, INK_F32, from, w->scale_dtype, n);
}

float ink_weight_scale(const ink_weight *w, const void *scales, int64_t i) {
    float value;
    ink_weight_scales(&value, w, scales, i, 1);
    return value;
}

float ink_weight_row_scale(const ink_weight *w, int64_t row) {
    return w->scales ? ink_weight_scale(w, w->scales, w->n_scales > 1 ? row : 0) : 1;
}

/* One group of integers. */
static void decode_group(float *dst, const unsigned char *q, bool nibbles, int64_t n, float scale, float bias) {
    if (!nibbles)
        for (int64_t i = 0; i < n; i++) dst[i] = (float)q[i] * scale + bias;
    else
        for (int64_t i = 0; i < n; i += 2) {
            dst[i] = (float)(q[i / 2] & 0xf) * scale + bias;
            dst[i + 1] = (float)(q[i / 2] >> 4) * scale + bias;
        }
}

static void decode_affine(float *dst, const ink_weight *w, int64_t row, int64_t col, int64_t n) {
    bool nibbles = w->dtype == INK_AFFINE_4;
    int64_t first = row * w->cols + col, groups_in_row = w->cols / w->group;
    const unsigned char *q = (const unsigned char *)w->data + (nibbles ? first / 2 : first);
    for (int64_t i = 0; i < n; i += w->group) {
        int64_t group = row * groups_in_row + (col + i) / w->group;
        decode_group(dst + i, q + (nibbles ? i / 2 : i), nibbles, w->group, ink_weight_scale(w, w->scales, group),
                     ink_weight_scale(w, w->biases, group));
    }
}

void ink_weight_decode(float *dst, const ink_weight *w, int64_t row, int64_t col, int64_t n) {
    if (w->dtype == INK_AFFINE_4 || w->dtype == INK_AFFINE_8) {
        decode_affine(dst, w, row, col, n);
        return;
    }
    int64_t elements = ink_dtype_block_elements(w->dtype);
    const unsigned char *data = (const unsigned char *)w->data + (row * w->cols + col) / elements * ink_dtype_block_bytes(w->dtype);
    if (w->dtype == INK_I8) {
        float scale = ink_weight_row_scale(w, row);
        for (int64_t i = 0; i < n; i++) dst[i] = (float)((const int8_t *)(const void *)data)[i] * scale;
        return;
    }
    if (!ink_dtype_is_float(w->dtype)) {
        ink_gguf_decode(dst, w->dtype, data, n / elements);
        return;
    }
    ink_convert(dst, INK_F32, data, w->dtype, n);
    if (w->scales) {
        float scale = ink_weight_row_scale(w, row);
        for (int64_t i = 0; i < n; i++) dst[i] *= scale;
    }
}

int64_t ink_weight_data_bytes(const ink_weight *w) {
    return w->rows * w->cols / ink_dtype_block_elements(w->dtype) * ink_dtype_block_bytes(w->dtype);
}

int64_t ink_weight_scale_bytes(const ink_weight *w) {
    int64_t n = w->group > 0 ? w->rows * w->cols / w->group : w->n_scales;
    return n * (int64_t)ink_dtype_size(w->scale_dtype);
}

int64_t ink_weight_bytes(const ink_weight *w) {
    int64_t n_vectors = w->group > 0 ? 2 : w->scales ? 1 : 0; /* scales, and biases of groups */
    return ink_weight_data_bytes(w) + n_vectors * ink_weight_scale_bytes(w);
}
