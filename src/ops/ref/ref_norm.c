/* ref_norm.c - definition of the normalisations. */
#include <math.h>

#include "ops/ref/ref_ops.h"

void ink_ref_layernorm_modulate(const ink_device *d, ink_tensor dst, ink_tensor x, ink_tensor scale, ink_tensor shift, float eps) {
    (void)d;
    int64_t n = x.cols;
    for (int64_t i = 0; i < x.rows; i++) {
        const float *row = ink_row(x, i);
        double mean = 0, variance = 0;
        for (int64_t j = 0; j < n; j++) mean += row[j];
        mean /= (double)n;
        for (int64_t j = 0; j < n; j++) variance += (row[j] - mean) * (row[j] - mean);
        variance /= (double)n;
        for (int64_t j = 0; j < n; j++) {
            double normal = (row[j] - mean) / sqrt(variance + eps);
            ink_row(dst, i)[j] = (float)(normal * (1.0 + scale.data[j]) + shift.data[j]);
        }
    }
}

void ink_ref_gated_residual_layernorm_modulate(const ink_device *d, ink_tensor dst, ink_residual r, ink_tensor scale,
                                               ink_tensor shift, float eps) {
    for (int64_t i = 0; i < r.x.rows; i++)
        for (int64_t j = 0; j < r.x.cols; j++) {
            double sum = ink_row(r.x, i)[j];
            for (int k = 0; k < r.n; k++) sum += (double)r.gate[k].data[j] * ink_row(r.y[k], i)[j];
            ink_row(dst, i)[j] = (float)sum;
            if (!r.stays) ink_row(r.x, i)[j] = (float)sum;
        }
    ink_ref_layernorm_modulate(d, dst, dst, scale, shift, eps);
}

void ink_ref_rmsnorm(const ink_device *d, ink_tensor dst, ink_tensor x, ink_tensor w, float eps) {
    (void)d;
    for (int64_t i = 0; i < x.rows; i++) {
        double squares = 0;
        for (int64_t j = 0; j < x.cols; j++) squares += (double)ink_row(x, i)[j] * ink_row(x, i)[j];
        double rms = sqrt(squares / (double)x.cols + eps);
        for (int64_t j = 0; j < x.cols; j++) ink_row(dst, i)[j] = (float)(ink_row(x, i)[j] / rms * w.data[j]);
    }
}

void ink_ref_residual_rmsnorm(const ink_device *d, ink_tensor dst, ink_tensor x, ink_tensor r, ink_tensor w, float eps) {
    for (int64_t i = 0; i < x.rows; i++)
        for (int64_t j = 0; j < x.cols; j++) ink_row(x, i)[j] += ink_row(r, i)[j];
    ink_ref_rmsnorm(d, dst, x, w, eps);
}

void ink_ref_rmsnorm_channels(const ink_device *d, ink_tensor dst, ink_tensor x, ink_tensor gamma, bool silu) {
    (void)d;
    for (int64_t i = 0; i < x.rows; i++) {
        double squares = 0;
        for (int64_t j = 0; j < x.cols; j++) squares += (double)ink_row(x, i)[j] * ink_row(x, i)[j];
        double length = fmax(sqrt(squares), 1e-12);
        for (int64_t j = 0; j < x.cols; j++) {
            double v = ink_row(x, i)[j] / length * sqrt((double)x.cols) * gamma.data[j];
            ink_row(dst, i)[j] = (float)(silu ? ink_ref_silu(v) : v);
        }
    }
}
