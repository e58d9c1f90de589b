/* ref_linear.c - definition of `linear`, and of the activations and weights that other ops share with it. */
#include <math.h>

#include "ops/ref/ref_ops.h"
#include "tensor/quantize.h"

double ink_ref_weight_at(const ink_weight *w, int64_t row, int64_t col) {
    int64_t i = row * w->cols + col;
    if (w->dtype == INK_F32) return ((const float *)w->data)[i];
    if (w->dtype == INK_BF16) return ink_f32_from_bf16(((const uint16_t *)w->data)[i]);
    /* Other forms are decoded a group at a time; slow, and plain to see. */
    float group[INK_MAX_GROUP];
    int64_t n = ink_dtype_is_float(w->dtype) || w->dtype == INK_I8 ? 1 : w->group ? w->group : ink_dtype_block_elements(w->dtype);
    ink_weight_decode(group, w, row, col / n * n, n);
    return group[col % n];
}

double ink_ref_silu(double x) { return x / (1 + exp(-x)); }

double ink_ref_gelu_tanh(double x) {
    const double sqrt_2_over_pi = 0.79788456080286535588;
    return 0.5 * x * (1 + tanh(sqrt_2_over_pi * (x + 0.044715 * x * x * x)));
}

/* A row of x, rounded to 8 bits as scale and inverse say, times row j of w. */
static float integer_product(const float *row, float scale, float inverse, const ink_weight *w, int64_t j) {
    const int8_t *codes = (const int8_t *)w->data + j * w->cols;
    int32_t sum = 0;
    for (int64_t k = 0; k < w->cols; k++) sum += ink_i8_code(row[k], inverse) * codes[k];
    return (float)sum * ink_weight_row_scale(w, j) * scale;
}

void ink_ref_linear(const ink_device *d, ink_tensor dst, ink_tensor x, const ink_weight *w, ink_linear_epilogue e) {
    (void)d;
    const bool integers = ink_weight_takes_integers(w, e.may_round);
    for (int64_t i = 0; i < dst.rows; i++) {
        float inverse = 0, scale = integers ? ink_i8_scale(ink_i8_largest_bits(ink_row(x, i), x.cols), &inverse) : 0;
        for (int64_t j = 0; j < dst.cols; j++) {
            double v = integers ? integer_product(ink_row(x, i), scale, inverse, w, j) : 0;
            for (int64_t k = 0; k < x.cols && !integers; k++) v += ink_row(x, i)[k] * ink_ref_weight_at(w, j, k);
            for (int64_t r = 0; e.low && r < e.low->cols; r++) v += ink_row(*e.low, i)[r] * ink_ref_weight_at(w->up, j, r);
            if (e.bias) v += e.bias->data[j];
            if (e.activation == INK_ACT_GELU_TANH) v = ink_ref_gelu_tanh(v);
            if (e.activation == INK_ACT_SILU) v = ink_ref_silu(v);
            if (e.gate) v *= e.gate->data[j];
            if (e.add_to_dst) v += ink_row(dst, i)[j];
            ink_row(dst, i)[j] = (float)v;
        }
    }
}
