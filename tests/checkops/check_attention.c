/* check_attention.c - attention: heads that share keys, causal and not, wide and narrow heads. */
#include <float.h>
#include <math.h>

#include "checkops.h"

typedef struct attention_case {
    ink_tensor dst, q, k, v;
    ink_attention_shape shape;
} attention_case;

static void call(const ink_device *device, const void *arguments) {
    const attention_case *a = arguments;
    device->ops->attention(device, a->dst, a->q, a->k, a->v, a->shape);
}

typedef struct shape {
    int64_t rows, keys, n_heads, n_kv_heads, head_dim;
    bool causal;
} shape;

/* q, k and v: three tensors, or three slices of one buffer as in the networks where their rows are the same tokens. */
static attention_case take_attention(checker *c, shape s, fill kind, double size, fill v_kind, float scale) {
    attention_case a = {.shape = {s.n_heads, s.n_kv_heads, s.head_dim, scale, s.causal}};
    int64_t q_cols = s.n_heads * s.head_dim, kv_cols = s.n_kv_heads * s.head_dim;
    a.q = take(c, s.rows, q_cols, kind, size);
    a.k = take(c, s.keys, kv_cols, kind, size);
    a.v = take(c, s.keys, kv_cols, v_kind, 1);
    if (s.rows == s.keys && random_below(c, 2)) {
        ink_tensor all = take_blank(c, s.rows, q_cols + 2 * kv_cols);
        const ink_tensor from[] = {a.q, a.k, a.v};
        const ink_tensor to[] = {ink_cols(all, 0, q_cols), ink_cols(all, q_cols, kv_cols),
                                 ink_cols(all, q_cols + kv_cols, kv_cols)};
        for (int t = 0; t < 3; t++)
            for (int64_t i = 0; i < s.rows; i++)
                for (int64_t j = 0; j < to[t].cols; j++) ink_row(to[t], i)[j] = ink_row(from[t], i)[j];
        a.q = to[0];
        a.k = to[1];
        a.v = to[2];
    }
    a.dst = take_blank(c, s.rows, q_cols);
    return a;
}

static void describe(checker *c, shape s, const char *numbers) {
    begin_case(c, "q %lld, k %lld, heads %lld, key heads %lld, head_dim %lld%s, %s", (long long)s.rows, (long long)s.keys,
               (long long)s.n_heads, (long long)s.n_kv_heads, (long long)s.head_dim, s.causal ? ", causal" : "", numbers);
}

enum { MOST_KEYS = 1100 };

/* The scores of one query, the largest of them, and the most that any may be wrong by. */
typedef struct scores {
    int64_t n;
    double s[MOST_KEYS], largest, error;
    int64_t n_largest;
} scores;

static void score(scores *out, const attention_case *a, int64_t i, int64_t head) {
    const ink_attention_shape *s = &a->shape;
    const float *q = ink_row(a->q, i) + head * s->head_dim;
    out->n = s->causal ? i + 1 : a->k.rows;
    out->largest = -INFINITY;
    out->error = out->n_largest = 0;
    for (int64_t j = 0; j < out->n; j++) {
        const float *k = ink_row(a->k, j) + head / (s->n_heads / s->n_kv_heads) * s->head_dim;
        double dot = 0, magnitude = 0;
        for (int64_t x = 0; x < s->head_dim; x++) {
            dot += (double)q[x] * k[x];
            magnitude += fabs((double)q[x] * k[x]);
        }
        out->s[j] = dot * s->scale;
        out->error = fmax(out->error, ROUNDING * sum_factor(s->head_dim) * magnitude * s->scale);
        out->n_largest = out->s[j] > out->largest ? 1 : out->n_largest + (out->s[j] == out->largest);
        out->largest = fmax(out->largest, out->s[j]);
    }
}

/*
 * A score that is wrong by e makes its weight, and at most the sum of weights, wrong by a factor 1 + e; further roundings are those
 * of exp and of a sum over the keys. Weights below e^-80 may be lost.
 */
static const double *attention_bound(checker *c, const attention_case *a) {
    const ink_attention_shape *s = &a->shape;
    double *bound = take_bounds(c, a->dst.rows * a->dst.cols);
    static scores row;
    for (int64_t head = 0; head < s->n_heads; head++) {
        for (int64_t i = 0; i < a->q.rows; i++) {
            score(&row, a, i, head);
            double total = 0;
            for (int64_t j = 0; j < row.n; j++) total += exp(row.s[j] - row.largest);
            double relative = 2 * row.error + ROUNDING * (sum_factor(row.n) + 16);
            for (int64_t x = 0; x < s->head_dim; x++) {
                double magnitude = 0, all = 0;
                for (int64_t j = 0; j < row.n; j++) {
                    double v = fabs(ink_row(a->v, j)[head / (s->n_heads / s->n_kv_heads) * s->head_dim + x]);
                    magnitude += exp(row.s[j] - row.largest) / total * v;
                    all += v;
                }
                bound[i * a->dst.cols + head * s->head_dim + x] = relative * magnitude + exp(-80) * all + SMALLEST;
            }
        }
    }
    return bound;
}

static void check_shape(checker *c, shape s, fill kind, double size) {
    describe(c, s, fill_name(kind));
    attention_case a = take_attention(c, s, kind, size, NORMAL, (float)(1 / sqrt((double)s.head_dim)));
    result r = {a.dst, attention_bound(c, &a)};
    check_call(c, call, &a, &r, 1);
}

/*
 * Integers with a scale that makes any two scores differ by 200 or not at all: the softmax picks the keys with the largest score,
 * and returns their value, exactly where there is one. So q.k has to be right to the last bit.
 */
static void check_selection(checker *c, shape s, double size, float scale) {
    describe(c, s, "integers");
    attention_case a = take_attention(c, s, INTEGERS, size, INTEGERS, scale);
    double *bound = take_bounds(c, a.dst.rows * a.dst.cols);
    static scores row;
    for (int64_t head = 0; head < s.n_heads; head++)
        for (int64_t i = 0; i < s.rows; i++) {
            score(&row, &a, i, head);
            for (int64_t x = 0; x < s.head_dim; x++)
                bound[i * a.dst.cols + head * s.head_dim + x] = row.n_largest == 1 ? 0 : 16 * ROUNDING;
        }
    result r = {a.dst, bound};
    check_call(c, call, &a, &r, 1);
}

/* What comes after a query changes nothing, however large it is. */
static void check_future(checker *c, int64_t n) {
    shape s = {n, n, 2, 1, 24, true};
    describe(c, s, "future keys replaced");
    attention_case a = take_attention(c, s, NORMAL, 1, NORMAL, 0.2f);
    int64_t n_same = n / 2;
    call(&c->device, &a);
    attention_case b = a;
    b.dst = take_blank(c, n, a.dst.cols);
    for (int64_t i = n_same; i < n; i++)
        for (int64_t j = 0; j < a.k.cols; j++) {
            ink_row(a.k, i)[j] = (float)(1e6 * random_normal(c));
            ink_row(a.v, i)[j] = (float)(1e30 * random_normal(c));
        }
    call(&c->device, &b);
    if (n_same > 0) check_equal(c, "rows before the change", ink_rows(b.dst, 0, n_same), ink_rows(a.dst, 0, n_same), NULL);
}

void check_attention(checker *c) {
    for (int64_t n = 1; n <= 40; n++) {
        check_shape(c, (shape){n, 41 - n, 2, 1, 16, false}, NORMAL, 1);
        check_shape(c, (shape){n, n, 2, 2, 8 + n, true}, NORMAL, 1);
        check_selection(c, (shape){3, n, 4, 2, 16, false}, 1, 200);
        check_selection(c, (shape){n, n, 3, 1, 20, true}, 1, 200);
        check_shape(c, (shape){5, 7, 1, 1, n, false}, NORMAL, 1);
        check_future(c, n);
    }
    static const shape shapes[] = {
        /* the ends of blocks of queries and keys */
        {63, 65, 1, 1, 24, false},
        {64, 64, 1, 1, 24, true},
        {65, 65, 1, 1, 24, true},
        {95, 97, 1, 1, 16, false},
        {97, 97, 2, 1, 16, true},
        {129, 129, 1, 1, 8, true},
        {193, 193, 1, 1, 16, true},
        {2, 1031, 1, 1, 16, false},
        /* heads of the networks: transformer, text encoder, vision tower, VAE */
        {40, 71, 3, 3, 128, false},
        {37, 37, 28, 4, 128, true},
        {33, 33, 4, 4, 80, false},
        {50, 50, 1, 1, 384, false},
        {20, 90, 2, 2, 64, false},
        {1, 1, 24, 24, 128, false},
        {1, 200, 6, 3, 64, false},
        {3, 5, 6, 2, 12, false},
        {3, 3, 12, 4, 7, true},
        {4, 9, 1, 1, 1000, false},
    };
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        check_shape(c, shapes[i], NORMAL, 1);
        check_shape(c, shapes[i], NORMAL, 4);
        if (i % 3 == 0) check_shape(c, shapes[i], MASSIVE, 1);
        check_selection(c, shapes[i], 1, 200);
    }
    for (int kind = 0; kind < N_FILLS; kind++) {
        check_shape(c, (shape){17, 23, 4, 2, 32, false}, (fill)kind, 1);
        check_shape(c, (shape){23, 23, 4, 2, 32, true}, (fill)kind, 1);
    }
    /* Scores of 1e30 and more, and of next to nothing. */
    check_selection(c, (shape){19, 70, 2, 1, 32, false}, 0x1p50, 1);
    check_shape(c, (shape){19, 70, 2, 1, 32, false}, NORMAL, 1e-15);
}
