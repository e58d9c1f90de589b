/* check_attention.c - attention: heads that share keys, causal and not, wide and narrow heads, rows in two runs. */
#include <float.h>
#include <math.h>
#include <stdio.h>

#include "checkops.h"

typedef struct attention_case {
    ink_tensor dst, q, k, v;
    ink_attention_shape shape;
    bool rounded; /* q, k and v are bf16 numbers */
} attention_case;

static void call(const ink_device *device, const void *arguments) {
    const attention_case *a = arguments;
    device->ops->attention(device, a->dst, a->q, a->k, a->v, a->shape);
}

typedef struct shape {
    int64_t rows, keys, n_heads, n_kv_heads, head_dim;
    bool causal;
    ink_gap q_gap, kv_gap;
} shape;

/* The same numbers with NaN in the gap. */
static ink_tensor spread(checker *c, ink_tensor x, ink_gap gap) {
    if (gap.rows == 0) return x;
    ink_tensor spread = take_blank(c, x.rows + gap.rows, x.cols);
    spread.rows = x.rows;
    for (int64_t i = 0; i < x.rows; i++)
        for (int64_t j = 0; j < x.cols; j++) ink_row_across(spread, gap, i)[j] = ink_row(x, i)[j];
    return spread;
}

/* q, k and v: three tensors, or three slices of one buffer as in the networks where their rows are the same tokens. */
static attention_case take_attention(checker *c, shape s, fill kind, double size, fill v_kind, float scale) {
    attention_case a = {.shape = {s.n_heads, s.n_kv_heads, s.head_dim, scale, s.causal, s.q_gap, s.kv_gap, false, false}};
    a.rounded = (c->narrow & NARROW_X) != 0;
    a.shape.may_round = c->device.rounds_rows && (a.rounded || random_below(c, 2));
    a.shape.by_library = a.shape.may_round && random_below(c, 2);
    int64_t q_cols = s.n_heads * s.head_dim, kv_cols = s.n_kv_heads * s.head_dim;
    a.q = take_for(c, NARROW_X, s.rows, q_cols, kind, size);
    a.k = take_for(c, NARROW_X, s.keys, kv_cols, kind, size);
    a.v = take_for(c, NARROW_X, s.keys, kv_cols, v_kind, 1);
    if (s.rows == s.keys && s.q_gap.rows == 0 && s.kv_gap.rows == 0 && random_below(c, 2)) {
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
    a.q = spread(c, a.q, s.q_gap);
    a.k = spread(c, a.k, s.kv_gap);
    a.v = spread(c, a.v, s.kv_gap);
    a.dst = take_blank(c, s.rows + s.q_gap.rows, q_cols);
    a.dst.rows = s.rows;
    return a;
}

/* What is in the gap of dst belongs to no result, so it must not change. */
static void check_runs(checker *c, const attention_case *a, const double *bound) {
    ink_gap gap = a->shape.q_gap;
    int64_t n_first = gap.split < a->dst.rows ? gap.split : a->dst.rows, n_second = a->dst.rows - n_first;
    result r[2];
    int n = 0;
    if (n_first > 0) r[n++] = (result){ink_rows(a->dst, 0, n_first), bound};
    if (n_second > 0) r[n++] = (result){ink_rows(a->dst, n_first + gap.rows, n_second), bound + n_first * a->dst.cols};
    check_call(c, call, a, r, n);
}

static void describe(checker *c, shape s, const char *numbers) {
    char gaps[100] = "";
    if (s.q_gap.rows || s.kv_gap.rows)
        snprintf(gaps, sizeof gaps, ", q parted by %lld after %lld, k by %lld after %lld", (long long)s.q_gap.rows,
                 (long long)s.q_gap.split, (long long)s.kv_gap.rows, (long long)s.kv_gap.split);
    begin_case(c, "q %lld, k %lld, heads %lld, key heads %lld, head_dim %lld%s%s, %s", (long long)s.rows, (long long)s.keys,
               (long long)s.n_heads, (long long)s.n_kv_heads, (long long)s.head_dim, s.causal ? ", causal" : "", gaps, numbers);
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
    const float *q = ink_row_across(a->q, s->q_gap, i) + head * s->head_dim;
    out->n = s->causal ? i + 1 : a->k.rows;
    out->largest = -INFINITY;
    out->error = out->n_largest = 0;
    for (int64_t j = 0; j < out->n; j++) {
        const float *k = ink_row_across(a->k, s->kv_gap, j) + head / (s->n_heads / s->n_kv_heads) * s->head_dim;
        double dot = 0, magnitude = 0;
        for (int64_t x = 0; x < s->head_dim; x++) {
            dot += (double)q[x] * k[x];
            magnitude += fabs((double)q[x] * k[x]);
        }
        out->s[j] = dot * s->scale;
        double relative = ROUNDING * sum_factor(s->head_dim) + (s->may_round && !a->rounded ? 2.01 * ONE_TO_BF16 : 0);
        out->error = fmax(out->error, relative * magnitude * s->scale);
        out->n_largest = out->s[j] > out->largest ? 1 : out->n_largest + (out->s[j] == out->largest);
        out->largest = fmax(out->largest, out->s[j]);
    }
}

/*
 * A score that is wrong by e makes its weight, and at most the sum of weights, wrong by a factor exp(e); further roundings are
 * those of exp and of a sum over the keys, and where the tier rounds to bf16, of weights and values, whose smallest numbers then
 * are zero. Weights below e^-80 may be lost. A device that multiplies in bf16 may store the result so, even if f32 is asked for.
 */
static bool stores_bf16(const checker *c, const attention_case *a) {
    return c->device.memory && a->shape.may_round && !(c->narrow & NARROW_DST);
}

static const double *attention_bound(checker *c, const attention_case *a) {
    const ink_attention_shape *s = &a->shape;
    double *bound = take_bounds(c, a->dst.rows * a->dst.cols);
    static scores row;
    for (int64_t head = 0; head < s->n_heads; head++) {
        for (int64_t i = 0; i < a->q.rows; i++) {
            score(&row, a, i, head);
            double total = 0;
            for (int64_t j = 0; j < row.n; j++) {
                row.s[j] = exp(row.s[j] - row.largest);
                total += row.s[j];
            }
            double relative = expm1(2 * row.error) + ROUNDING * (sum_factor(row.n) + 16);
            if (s->may_round) relative += (1 + expm1(2 * row.error)) * (a->rounded ? 1.01 : 2.01) * ONE_TO_BF16;
            if (stores_bf16(c, a)) relative += 1.01 * ONE_TO_BF16 * (1 + relative);
            for (int64_t x = 0; x < s->head_dim; x++) {
                double magnitude = 0, all = 0;
                for (int64_t j = 0; j < row.n; j++) {
                    double v = fabs(ink_row_across(a->v, s->kv_gap, j)[head / (s->n_heads / s->n_kv_heads) * s->head_dim + x]);
                    magnitude += row.s[j] / total * v;
                    all += v;
                }
                bound[i * a->dst.cols + head * s->head_dim + x] = relative * magnitude + exp(-80) * all +
                                                                  (s->may_round ? 0x1p-126 * (double)row.n : SMALLEST);
            }
        }
    }
    return bound;
}

static void check_shape(checker *c, shape s, fill kind, double size) {
    describe(c, s, fill_name(kind));
    attention_case a = take_attention(c, s, kind, size, NORMAL, (float)(1 / sqrt((double)s.head_dim)));
    check_runs(c, &a, attention_bound(c, &a));
}

/*
 * Integers with a scale that makes any two scores differ by 200 or not at all: the softmax picks the keys with the largest score,
 * and returns their value, exactly where there is one. So q.k has to be right to the last bit.
 */
static void check_selection(checker *c, shape s, double size, float scale) {
    /* Fused kernels multiply the largest score by log2(e) before they subtract it, to a rounding of their product: a fraction of a
       power of two if scores are far beyond those of any network, and beyond all bounds if they are 1e30. */
    bool fused = c->device.memory && c->narrow, far = size > 1;
    if (fused && far) return;
    describe(c, s, "integers");
    attention_case a = take_attention(c, s, INTEGERS, size, INTEGERS, scale);
    if (c->device.memory && far) a.shape.may_round = false;
    fused = c->device.memory && a.shape.may_round;
    double *bound = take_bounds(c, a.dst.rows * a.dst.cols);
    static scores row;
    for (int64_t head = 0; head < s.n_heads; head++)
        for (int64_t i = 0; i < s.rows; i++) {
            score(&row, &a, i, head);
            double of_fused = 4 * (expm1(4 * ROUNDING * fabs(row.largest)) + 2 * ONE_TO_BF16);
            for (int64_t x = 0; x < s.head_dim; x++)
                bound[i * a.dst.cols + head * s.head_dim + x] = fused ? of_fused : row.n_largest == 1 ? 0 : 16 * ROUNDING;
        }
    check_runs(c, &a, bound);
}

/* Rows in two runs give what they give in one, to the last bit: blocks do not end at a gap. */
static void check_gap(checker *c, shape s) {
    shape whole = s;
    whole.q_gap = whole.kv_gap = (ink_gap){0, 0};
    describe(c, s, "two runs against one");
    attention_case a = take_attention(c, whole, NORMAL, 1, NORMAL, 0.3f), b = a;
    b.shape.q_gap = s.q_gap;
    b.shape.kv_gap = s.kv_gap;
    b.q = spread(c, a.q, s.q_gap);
    b.k = spread(c, a.k, s.kv_gap);
    b.v = spread(c, a.v, s.kv_gap);
    b.dst = spread(c, a.dst, s.q_gap);
    call_device(c, call, &a);
    call_device(c, call, &b);
    for (int64_t i = 0; i < s.rows; i++) {
        ink_tensor row = ink_view(ink_row_across(b.dst, s.q_gap, i), 1, b.dst.cols);
        double *bound = NULL;
        if (c->device.memory && c->narrow) {
            /* A device may take another way for two runs, which rounds at other places. A row of the wrong run is far off. */
            bound = take_bounds(c, row.cols);
            for (int64_t j = 0; j < row.cols; j++) bound[j] = 2 * ONE_TO_BF16 * (1 + fabs((double)row.data[j]));
        }
        check_equal(c, "a row of two runs", row, ink_rows(a.dst, i, 1), bound);
    }
}

static void check_gaps(checker *c, shape s) {
    check_shape(c, s, NORMAL, 1);
    check_selection(c, s, 1, 200);
    check_gap(c, s);
}

/* What comes after a query changes nothing, however large it is. */
static void check_future(checker *c, int64_t n) {
    shape s = {n, n, 2, 1, 24, true, {0, 0}, {0, 0}};
    describe(c, s, "future keys replaced");
    attention_case a = take_attention(c, s, NORMAL, 1, NORMAL, 0.2f);
    int64_t n_same = n / 2;
    call_device(c, call, &a);
    attention_case b = a;
    b.dst = take_blank(c, n, a.dst.cols);
    for (int64_t i = n_same; i < n; i++)
        for (int64_t j = 0; j < a.k.cols; j++) {
            ink_row(a.k, i)[j] = (float)(1e6 * random_normal(c));
            ink_row(a.v, i)[j] = (float)(1e30 * random_normal(c));
        }
    if (c->narrow) {
        round_rows(a.k);
        round_rows(a.v);
    }
    call_device(c, call, &b);
    if (n_same > 0) check_equal(c, "rows before the change", ink_rows(b.dst, 0, n_same), ink_rows(a.dst, 0, n_same), NULL);
}

static void check_two_runs(checker *c) {
    for (int64_t split = 0; split <= 9; split++) {
        check_gaps(c, (shape){9, 11, 2, 1, 12, false, {split, 3}, {0, 0}});
        check_gaps(c, (shape){11, 9, 2, 1, 12, false, {0, 0}, {split, 1}});
        check_gaps(c, (shape){9, 9, 2, 2, 12, true, {split, 2}, {9 - split, 5}});
    }
    static const shape shapes[] = {
        {70, 70, 2, 2, 16, false, {6, 9}, {6, 9}},      /* the prompt's tokens, then the picture's */
        {64, 70, 2, 2, 16, false, {0, 15}, {6, 9}},     /* the last block: the picture asks alone */
        {100, 140, 2, 1, 136, false, {95, 4}, {63, 2}}, /* a gap before the end of a block, and of a slice of the head */
        {97, 150, 1, 1, 24, false, {96, 1}, {64, 7}},   /* at the end of a block */
        {97, 150, 1, 1, 24, false, {200, 1}, {150, 7}}, /* behind the last row */
        {10, 600, 1, 1, 384, false, {5, 700}, {333, 40}},
    };
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) check_gaps(c, shapes[i]);
}

void check_attention(checker *c) {
    check_two_runs(c);
    for (int64_t n = 1; n <= 40; n++) {
        check_shape(c, (shape){n, 41 - n, 2, 1, 16, false, {0, 0}, {0, 0}}, NORMAL, 1);
        check_shape(c, (shape){n, n, 2, 2, 8 + n, true, {0, 0}, {0, 0}}, NORMAL, 1);
        check_selection(c, (shape){3, n, 4, 2, 16, false, {0, 0}, {0, 0}}, 1, 200);
        check_selection(c, (shape){n, n, 3, 1, 20, true, {0, 0}, {0, 0}}, 1, 200);
        check_shape(c, (shape){5, 7, 1, 1, n, false, {0, 0}, {0, 0}}, NORMAL, 1);
        check_future(c, n);
    }
    static const shape shapes[] = {
        /* the ends of blocks of queries and keys */
        {63, 65, 1, 1, 24, false, {0, 0}, {0, 0}},
        {64, 64, 1, 1, 24, true, {0, 0}, {0, 0}},
        {65, 65, 1, 1, 24, true, {0, 0}, {0, 0}},
        {95, 97, 1, 1, 16, false, {0, 0}, {0, 0}},
        {97, 97, 2, 1, 16, true, {0, 0}, {0, 0}},
        {129, 129, 1, 1, 8, true, {0, 0}, {0, 0}},
        {193, 193, 1, 1, 16, true, {0, 0}, {0, 0}},
        {2, 1031, 1, 1, 16, false, {0, 0}, {0, 0}},
        /* heads of the networks: transformer, text encoder, vision tower, VAE */
        {40, 71, 3, 3, 128, false, {0, 0}, {0, 0}},
        {37, 37, 28, 4, 128, true, {0, 0}, {0, 0}},
        {33, 33, 4, 4, 80, false, {0, 0}, {0, 0}},
        {50, 50, 1, 1, 384, false, {0, 0}, {0, 0}},
        {20, 90, 2, 2, 64, false, {0, 0}, {0, 0}},
        {1, 1, 24, 24, 128, false, {0, 0}, {0, 0}},
        {1, 200, 6, 3, 64, false, {0, 0}, {0, 0}},
        /* ... in blocks of 128 queries and 160 keys, the last of them whole, all but whole, and of one key alone */
        {127, 160, 2, 2, 128, false, {0, 0}, {0, 0}},
        {128, 319, 3, 1, 128, false, {0, 0}, {0, 0}},
        {129, 161, 4, 2, 128, false, {0, 0}, {0, 0}},
        {65, 641, 2, 2, 128, false, {0, 0}, {0, 0}},
        {193, 193, 2, 1, 128, true, {0, 0}, {0, 0}},
        {321, 321, 2, 2, 128, true, {0, 0}, {0, 0}},
        {3, 5, 6, 2, 12, false, {0, 0}, {0, 0}},
        {3, 3, 12, 4, 7, true, {0, 0}, {0, 0}},
        {4, 9, 1, 1, 1000, false, {0, 0}, {0, 0}},
    };
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        check_shape(c, shapes[i], NORMAL, 1);
        check_shape(c, shapes[i], NORMAL, 4);
        if (i % 3 == 0) check_shape(c, shapes[i], MASSIVE, 1);
        check_selection(c, shapes[i], 1, 200);
    }
    for (int kind = 0; kind < N_FILLS; kind++) {
        check_shape(c, (shape){17, 23, 4, 2, 32, false, {0, 0}, {0, 0}}, (fill)kind, 1);
        check_shape(c, (shape){23, 23, 4, 2, 32, true, {0, 0}, {0, 0}}, (fill)kind, 1);
    }
    if (c->real_shapes) {
        check_shape(c, (shape){1088, 1088, 2, 2, 128, false, {0, 0}, {0, 0}}, NORMAL, 1);
        check_shape(c, (shape){300, 300, 7, 1, 128, true, {0, 0}, {0, 0}}, NORMAL, 1);
        check_gap(c, (shape){600, 600, 2, 2, 128, false, {64, 40}, {64, 40}});
    }
    /* Scores of 1e30 and more, and of next to nothing. */
    check_selection(c, (shape){19, 70, 2, 1, 32, false, {0, 0}, {0, 0}}, 0x1p50, 1);
    check_shape(c, (shape){19, 70, 2, 1, 32, false, {0, 0}, {0, 0}}, NORMAL, 1e-15);
}
