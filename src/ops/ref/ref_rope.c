/* ref_rope.c - definition of the two rotary embeddings: adjacent pairs (transformer), half-split pairs (text encoder). */
#include <math.h>

#include "ops/ref/ref_ops.h"

/* (a, b) turned by the angle of this cosine and sine. */
static void rotate(float *a, float *b, double x, double y, double cosine, double sine) {
    *a = (float)(x * cosine - y * sine);
    *b = (float)(x * sine + y * cosine);
}

void ink_ref_rmsnorm_rope(const ink_device *d, ink_tensor qk, ink_tensor wq, ink_tensor wk, ink_tensor cos, ink_tensor sin,
                          int64_t n_heads, float eps) {
    (void)d;
    int64_t head_dim = qk.cols / n_heads / 2;
    for (int64_t i = 0; i < qk.rows; i++) {
        for (int64_t h = 0; h < 2 * n_heads; h++) {
            float *head = ink_row(qk, i) + h * head_dim;
            const float *w = h < n_heads ? wq.data : wk.data;
            double squares = 0;
            for (int64_t j = 0; j < head_dim; j++) squares += (double)head[j] * head[j];
            double rms = sqrt(squares / (double)head_dim + eps);
            for (int64_t k = 0; k < head_dim / 2; k++) {
                float *even = &head[2 * k], *odd = &head[2 * k + 1];
                rotate(even, odd, *even / rms * w[2 * k], *odd / rms * w[2 * k + 1], ink_row(cos, i)[k], ink_row(sin, i)[k]);
            }
        }
    }
}

void ink_ref_rope_half(const ink_device *d, ink_tensor x, ink_tensor cos, ink_tensor sin, int64_t n_heads) {
    (void)d;
    int64_t head_dim = x.cols / n_heads;
    for (int64_t i = 0; i < x.rows; i++) {
        for (int64_t h = 0; h < n_heads; h++) {
            float *head = ink_row(x, i) + h * head_dim;
            for (int64_t k = 0; k < head_dim / 2; k++) {
                float *first = &head[k], *second = &head[k + head_dim / 2];
                rotate(first, second, *first, *second, ink_row(cos, i)[k], ink_row(sin, i)[k]);
            }
        }
    }
}
