/* ref_attention.c - definition of `attention`. */
#include <math.h>

#include "ops/ref/ref_ops.h"

/* Columns of the result that are summed at once: what fits a small array, so that nothing is allocated. */
enum { COLUMNS = 128 };

static double score(const float *q, const float *k, ink_attention_shape s) {
    double dot = 0;
    for (int64_t c = 0; c < s.head_dim; c++) dot += (double)q[c] * k[c];
    return s.scale * dot;
}

/* dst[0..n) = sum over keys of softmax(score) * v[0..n), n <= COLUMNS. Scores are computed again in each of the two passes. */
static void attend(float *dst, const float *q, ink_tensor k, ink_tensor v, int64_t n, ink_attention_shape s) {
    double largest = -INFINITY;
    for (int64_t j = 0; j < k.rows; j++) largest = fmax(largest, score(q, ink_row_across(k, s.kv_gap, j), s));
    double total = 0, sums[COLUMNS] = {0};
    for (int64_t j = 0; j < k.rows; j++) {
        double p = exp(score(q, ink_row_across(k, s.kv_gap, j), s) - largest);
        total += p;
        for (int64_t c = 0; c < n; c++) sums[c] += p * ink_row_across(v, s.kv_gap, j)[c];
    }
    for (int64_t c = 0; c < n; c++) dst[c] = (float)(sums[c] / total);
}

void ink_ref_attention(const ink_device *d, ink_tensor dst, ink_tensor q, ink_tensor k, ink_tensor v, ink_attention_shape s) {
    (void)d;
    for (int64_t h = 0; h < s.n_heads; h++) {
        int64_t kv_head = h / (s.n_heads / s.n_kv_heads);
        ink_tensor head_k = ink_cols(k, kv_head * s.head_dim, s.head_dim);
        ink_tensor head_v = ink_cols(v, kv_head * s.head_dim, s.head_dim);
        for (int64_t i = 0; i < q.rows; i++) {
            int64_t visible = s.causal ? i + 1 : k.rows;
            for (int64_t first = 0; first < s.head_dim; first += COLUMNS) {
                int64_t n = s.head_dim - first < COLUMNS ? s.head_dim - first : COLUMNS;
                attend(ink_row_across(dst, s.q_gap, i) + h * s.head_dim + first, ink_row_across(q, s.q_gap, i) + h * s.head_dim,
                       ink_rows(head_k, 0, visible), ink_cols(head_v, first, n), n, s);
            }
        }
    }
}
