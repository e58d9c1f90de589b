/* ref_linear.c - definition of `linear`, and of the activations and weights that other ops share with it. */
#include <math.h>

#include "ops/ref/ref_ops.h"

double ink_ref_weight_at(const ink_weight *w, int64_t row, int64_t col) {
    int64_t i = row * w->cols + col;
    if (w->dtype == INK_F32) return ((const float *)w->data)[i];
    if (w->dtype == INK_BF16) return ink_f32_from_bf16(((const uint16_t *)w->data)[i]);
    /* Other forms are decoded a group at a time; slow, and plain to see. */
    float group[INK_MAX_GROUP];
    int64_t n = ink_dtype_is_float(w->dtype) ? 1 : w->group ? w->group : ink_dtype_block_elements(w->dtype);
    ink_weight_decode(group, w, row, col / n * n, n);
    return group[col % n];
}

double ink_ref_silu(double x) { return x / (1 + exp(-x)); }

double ink_ref_gelu_tanh(double x) {
    const double sqrt_2_over_pi = 0.79788456080286535588;
    return 0.5 * x * (1 + tanh(sqrt_2_over_pi * (x + 0.044715 * x * x * x)));
}

void ink_ref_linear(const ink_device *d, ink_tensor dst, ink_tensor x, const ink_weight *w, ink_linear_epilogue e) {
    (void)d;
    for (int64_t i = 0; i < dst.rows; i++) {
        for (int64_t j = 0; j < dst.cols; j++) {
            double v = 0;
            for (int64_t k = 0; k < x.cols; k++) v += ink_row(x, i)[k] * ink_ref_weight_at(w, j, k);
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
