/* check_rope.c - the rotary embeddings, in place on views of many heads. */
#include <math.h>

#include "checkops.h"

typedef struct rope_case {
    ink_tensor x, wq, wk, cos, sin;
    int64_t n_heads; /* of queries, as of keys; of rope_half: of x */
    float eps;
} rope_case;

static void call_pairs(const ink_device *device, const void *arguments) {
    const rope_case *a = arguments;
    device->ops->rmsnorm_rope(device, a->x, a->wq, a->wk, a->cos, a->sin, a->n_heads, a->eps);
}

static void call_half(const ink_device *device, const void *arguments) {
    const rope_case *a = arguments;
    device->ops->rope_half(device, a->x, a->cos, a->sin, a->n_heads);
}

static rope_case take_rope(checker *c, int64_t rows, int64_t n_heads, int64_t head_dim, fill kind, double size, bool normed) {
    /* As in the networks: the heads of one of three projections that share a buffer, or of the first two. */
    ink_tensor all = take_for(c, NARROW_X, rows, 3 * n_heads * head_dim, kind, size);
    int64_t d = n_heads * head_dim;
    rope_case a = {.x = normed ? ink_cols(all, 0, 2 * d) : ink_cols(all, d, d),
                   .wq = take_for(c, NARROW_VECTORS, 1, head_dim, NORMAL, 1),
                   .wk = take_for(c, NARROW_VECTORS, 1, head_dim, NORMAL, 1),
                   .cos = take_blank(c, rows, head_dim / 2),
                   .sin = take_blank(c, rows, head_dim / 2),
                   .n_heads = n_heads,
                   .eps = 1e-6f};
    for (int64_t i = 0; i < rows; i++)
        for (int64_t k = 0; k < head_dim / 2; k++) {
            double angle = 100 * random_normal(c);
            ink_row(a.cos, i)[k] = (float)cos(angle);
            ink_row(a.sin, i)[k] = (float)sin(angle);
        }
    return a;
}

/* Two products and their sum, of numbers that are themselves wrong by `factor` roundings. */
static double turned(double x, double y, double cosine, double sine, double factor) {
    return ROUNDING * (factor + 4) * (fabs(x * cosine) + fabs(y * sine)) + 4 * SMALLEST;
}

static void check_rope(checker *c, int64_t rows, int64_t n_heads, int64_t head_dim, fill kind, double size, bool normed) {
    begin_case(c, "%lld rows, %lld heads of %lld, %s times %g", (long long)rows, (long long)n_heads, (long long)head_dim,
               fill_name(kind), size);
    rope_case a = take_rope(c, rows, n_heads, head_dim, kind, size, normed);
    double *bound = take_bounds(c, rows * a.x.cols);
    for (int64_t i = 0; i < rows; i++) {
        for (int64_t h = 0; h * head_dim < a.x.cols; h++) {
            const float *x = ink_row(a.x, i) + h * head_dim, *weight = h < n_heads ? a.wq.data : a.wk.data;
            double *b = bound + i * a.x.cols + h * head_dim, squares = 0;
            for (int64_t j = 0; j < head_dim; j++) squares += (double)x[j] * x[j];
            double r = normed ? 1 / sqrt(squares / (double)head_dim + a.eps) : 1;
            for (int64_t k = 0; k < head_dim / 2; k++) {
                int64_t first = normed ? 2 * k : k, second = normed ? 2 * k + 1 : k + head_dim / 2;
                double v = x[first] * r * (normed ? weight[first] : 1), w = x[second] * r * (normed ? weight[second] : 1);
                double cosine = ink_row(a.cos, i)[k], sine = ink_row(a.sin, i)[k], factor = normed ? sum_factor(head_dim) : 0;
                b[first] = turned(v, w, cosine, sine, factor);
                b[second] = turned(w, v, cosine, sine, factor);
            }
        }
    }
    result result_x = {a.x, bound};
    check_call(c, normed ? call_pairs : call_half, &a, &result_x, 1);
}

static void sweep(checker *c, bool normed) {
    for (int64_t head_dim = 2; head_dim <= 40; head_dim += 2)
        for (int64_t n_heads = 1; n_heads <= 3; n_heads++) check_rope(c, 1 + head_dim % 5, n_heads, head_dim, NORMAL, 1, normed);
    static const int64_t head_dims[] = {16, 64, 80, 128};
    for (int i = 0; i < 4; i++)
        for (int kind = 0; kind < N_FILLS; kind++) check_rope(c, 7, 4, head_dims[i], (fill)kind, 1, normed);
    check_rope(c, 40, 24, 128, NORMAL, 1, normed);
    check_rope(c, 1, 28, 128, NORMAL, 1, normed);
    if (c->real_shapes) check_rope(c, 544, 24, 128, NORMAL, 1, normed);
    check_rope(c, 5, 2, 64, NORMAL, 1e-3, normed);
    check_rope(c, 5, 2, 64, NORMAL, 1e10, normed);
}

/* A quarter turn moves numbers, exactly. */
static void check_quarter_turn(checker *c) {
    begin_case(c, "quarter turns");
    rope_case a = take_rope(c, 9, 3, 26, INTEGERS, 1, false);
    for (int64_t i = 0; i < a.cos.rows; i++)
        for (int64_t k = 0; k < a.cos.cols; k++) {
            ink_row(a.cos, i)[k] = 0;
            ink_row(a.sin, i)[k] = random_below(c, 2) ? 1 : -1;
        }
    result r = {a.x, NULL};
    check_call(c, call_half, &a, &r, 1);
}

void check_rmsnorm_rope(checker *c) { sweep(c, true); }

void check_rope_half(checker *c) {
    sweep(c, false);
    check_quarter_turn(c);
}
