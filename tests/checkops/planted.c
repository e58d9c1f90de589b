/*
 * planted.c - the test of the test: implementations with one known bug each. A check that lets one of them pass has lost its teeth.
 * Apart from the bug they compute in f32, in ways that a real tier might.
 */
#include <float.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "checkops.h"
#include "ops/ref/ref_ops.h"
#include "tensor/quantize.h"

/* ---- linear -------------------------------------------------------------------------------------------------------------- */

typedef enum linear_bug {
    LAST_PRODUCT_DROPPED,
    TAIL_DROPPED, /* of a loop that goes by eights */
    TAIL_READ_PAST_END,
    BF16_SUM,
    BF16_INPUT,
    LAST_COLUMN_MISSED,
    WRITES_PAST_ROW,
    WRITES_PAST_LAST_ROW,
    GATE_IGNORED,
    GATE_BEFORE_ACTIVATION,
    BIAS_AFTER_ACTIVATION,
    DST_NOT_ADDED,
    ADDED_TO_OLD_DST,
    GELU_ERF,
    SUM_BY_THREADS,
    SUM_BY_TURNS,
    SUBNORMALS_FLUSHED,
    BRANCH_IGNORED,
    OPERAND_CHANGED,
    I8_SUM_IN_F32,
    I8_SATURATES,
    I8_ONE_SCALE,
    I8_ROUNDS_AWAY,
    I8_TIMES_ONCE,
} linear_bug;

static float activate(ink_activation activation, float x, linear_bug bug) {
    if (activation == INK_ACT_GELU_TANH && bug == GELU_ERF) return 0.5f * x * (1 + erff(x * 0.70710678f));
    if (activation == INK_ACT_GELU_TANH) return (float)ink_ref_gelu_tanh(x);
    return activation == INK_ACT_SILU ? (float)ink_ref_silu(x) : x;
}

/* Sums the products k with k % n_parts == 0, then those with 1, and so on. */
static float product(ink_tensor x, const ink_weight *w, int64_t i, int64_t j, int64_t n_parts, linear_bug bug) {
    int64_t n = x.cols;
    if (bug == LAST_PRODUCT_DROPPED && n > 1) n--;
    if (bug == TAIL_DROPPED) n -= n % 8;
    float sum = 0;
    for (int64_t part = 0; part < n_parts; part++) {
        for (int64_t k = part; k < n; k += n_parts) {
            float left = ink_row(x, i)[k], right = (float)weight_at(w, j, k);
            if (bug == BF16_INPUT) left = ink_round_to_bf16(left);
            if (bug == SUBNORMALS_FLUSHED && fabsf(left) < FLT_MIN) left = 0;
            sum += left * right;
            if (bug == BF16_SUM) sum = ink_round_to_bf16(sum);
        }
    }
    if (bug == TAIL_READ_PAST_END)
        for (int64_t k = n; k % 4 != 0; k++) sum += ink_row(x, i)[k] * 0.0f;
    return sum;
}

/* Weights in integers; as some instructions do, a pair of products may saturate. */
static float product_of_integers(ink_tensor x, const ink_weight *w, int64_t i, int64_t j, linear_bug bug) {
    float inverse, scale = ink_i8_scale(ink_i8_largest_bits(ink_row(x, bug == I8_ONE_SCALE ? 0 : i), x.cols), &inverse), in_f32 = 0;
    int32_t sum = 0, pair = 0;
    for (int64_t k = 0; k < x.cols; k++) {
        float value = ink_row(x, i)[k];
        int32_t code = ink_i8_code(value, inverse);
        if (bug == I8_ROUNDS_AWAY && inverse > 0) code = (int32_t)roundf(value * inverse);
        if (bug == I8_ONE_SCALE) code = code > 127 ? 127 : code < -128 ? -128 : code;
        int32_t next = code * ((const int8_t *)w->data)[j * w->cols + k];
        in_f32 += (float)next;
        pair = k % 2 ? pair + next : next;
        if (bug == I8_SATURATES && k % 2) pair = pair > 28000 ? 28000 : pair < -28000 ? -28000 : pair;
        if (k % 2 || k + 1 == x.cols) sum += pair;
    }
    if (bug == I8_TIMES_ONCE) return (float)sum * (ink_weight_row_scale(w, j) * scale);
    return (bug == I8_SUM_IN_F32 ? in_f32 : (float)sum) * ink_weight_row_scale(w, j) * scale;
}

static void linear_with(linear_bug bug, const ink_device *d, ink_tensor dst, ink_tensor x, const ink_weight *w,
                        ink_linear_epilogue e) {
    static int64_t turn;
    turn++;
    int64_t n_parts = bug == SUM_BY_THREADS ? ink_threads_count(d->threads) : bug == SUM_BY_TURNS ? 1 + turn % 2 : 1;
    int64_t n_cols = bug == LAST_COLUMN_MISSED && dst.cols % 4 == 1 && dst.cols > 1 ? dst.cols - 1 : dst.cols;
    for (int64_t i = 0; i < dst.rows; i++) {
        for (int64_t j = 0; j < n_cols; j++) {
            bool integers = ink_weight_takes_integers(w, e.may_round);
            float v = integers ? product_of_integers(x, w, i, j, bug) : product(x, w, i, j, n_parts, bug);
            if (e.low && bug != BRANCH_IGNORED) v += product(*e.low, w->up, i, j, n_parts, bug);
            float gate = e.gate ? e.gate->data[j] : 1;
            float bias = e.bias ? e.bias->data[j] : 0, *place = &ink_row(dst, i)[j];
            if (bug == GATE_BEFORE_ACTIVATION)
                v = activate(e.activation, (v + bias) * gate, bug);
            else if (bug == BIAS_AFTER_ACTIVATION)
                v = (activate(e.activation, v, bug) + bias) * gate;
            else
                v = activate(e.activation, v + bias, bug) * (bug == GATE_IGNORED ? 1 : gate);
            bool add = bug == ADDED_TO_OLD_DST || (e.add_to_dst && bug != DST_NOT_ADDED);
            *place = add ? *place + v : v;
        }
        if (bug == WRITES_PAST_ROW || (bug == WRITES_PAST_LAST_ROW && i + 1 == dst.rows)) ink_row(dst, i)[dst.cols] = 0;
        if (bug == OPERAND_CHANGED) ink_row(x, i)[0] += 0.0f * ink_row(x, i)[0] + 1;
    }
}

#define PLANT_LINEAR(name, bug)                                                                                       \
    static void name(const ink_device *d, ink_tensor dst, ink_tensor x, const ink_weight *w, ink_linear_epilogue e) { \
        linear_with(bug, d, dst, x, w, e);                                                                            \
    }
PLANT_LINEAR(linear_last_product, LAST_PRODUCT_DROPPED)
PLANT_LINEAR(linear_tail, TAIL_DROPPED)
PLANT_LINEAR(linear_read_past_end, TAIL_READ_PAST_END)
PLANT_LINEAR(linear_bf16_sum, BF16_SUM)
PLANT_LINEAR(linear_bf16_input, BF16_INPUT)
PLANT_LINEAR(linear_last_column, LAST_COLUMN_MISSED)
PLANT_LINEAR(linear_past_row, WRITES_PAST_ROW)
PLANT_LINEAR(linear_past_last_row, WRITES_PAST_LAST_ROW)
PLANT_LINEAR(linear_no_gate, GATE_IGNORED)
PLANT_LINEAR(linear_early_gate, GATE_BEFORE_ACTIVATION)
PLANT_LINEAR(linear_late_bias, BIAS_AFTER_ACTIVATION)
PLANT_LINEAR(linear_no_add, DST_NOT_ADDED)
PLANT_LINEAR(linear_old_dst, ADDED_TO_OLD_DST)
PLANT_LINEAR(linear_gelu_erf, GELU_ERF)
PLANT_LINEAR(linear_by_threads, SUM_BY_THREADS)
PLANT_LINEAR(linear_by_turns, SUM_BY_TURNS)
PLANT_LINEAR(linear_no_subnormals, SUBNORMALS_FLUSHED)
PLANT_LINEAR(linear_no_branch, BRANCH_IGNORED)
PLANT_LINEAR(linear_i8_f32, I8_SUM_IN_F32)
PLANT_LINEAR(linear_i8_saturates, I8_SATURATES)
PLANT_LINEAR(linear_i8_one_scale, I8_ONE_SCALE)
PLANT_LINEAR(linear_i8_away, I8_ROUNDS_AWAY)
PLANT_LINEAR(linear_i8_once, I8_TIMES_ONCE)
PLANT_LINEAR(linear_operand, OPERAND_CHANGED)

/* ---- norms --------------------------------------------------------------------------------------------------------------- */

typedef enum norm_bug {
    EPS_FORGOTTEN,
    EPS_AFTER_ROOT,
    ONE_PASS_VARIANCE,
    UNBIASED_VARIANCE,
    SCALE_WITHOUT_ONE,
    LAST_VALUE_MISSED
} norm_bug;

static void layernorm_with(norm_bug bug, ink_tensor dst, ink_tensor x, ink_tensor scale, ink_tensor shift, float eps) {
    int64_t n = x.cols;
    for (int64_t i = 0; i < x.rows; i++) {
        const float *row = ink_row(x, i);
        double mean = 0, variance = 0;
        float sum = 0, squares = 0;
        for (int64_t j = 0; j < n; j++) {
            mean += row[j] / (double)n;
            sum += row[j];
            squares += row[j] * row[j];
        }
        for (int64_t j = 0; j < n; j++)
            variance += (row[j] - mean) * (row[j] - mean) / (double)(bug == UNBIASED_VARIANCE && n > 1 ? n - 1 : n);
        if (bug == ONE_PASS_VARIANCE) {
            mean = sum / (float)n;
            variance = squares / (float)n - (float)mean * (float)mean;
        }
        double deviation = bug == EPS_FORGOTTEN    ? sqrt(variance)
                           : bug == EPS_AFTER_ROOT ? sqrt(variance) + eps
                                                   : sqrt(variance + eps);
        for (int64_t j = 0; j < n; j++) {
            double factor = (bug == SCALE_WITHOUT_ONE ? 0.0 : 1.0) + scale.data[j];
            ink_row(dst, i)[j] = (float)((row[j] - mean) / deviation * factor + shift.data[j]);
        }
    }
}

#define PLANT_LAYERNORM(name, bug)                                                                                       \
    static void name(const ink_device *d, ink_tensor dst, ink_tensor x, ink_tensor scale, ink_tensor shift, float eps) { \
        (void)d;                                                                                                         \
        layernorm_with(bug, dst, x, scale, shift, eps);                                                                  \
    }
PLANT_LAYERNORM(layernorm_no_eps, EPS_FORGOTTEN)
PLANT_LAYERNORM(layernorm_late_eps, EPS_AFTER_ROOT)
PLANT_LAYERNORM(layernorm_one_pass, ONE_PASS_VARIANCE)
PLANT_LAYERNORM(layernorm_unbiased, UNBIASED_VARIANCE)
PLANT_LAYERNORM(layernorm_no_one, SCALE_WITHOUT_ONE)

/* x is left as it was. */
static void gated_keeps_x(const ink_device *d, ink_tensor dst, ink_residual r, ink_tensor scale, ink_tensor shift, float eps) {
    r.stays = true;
    ink_ref_gated_residual_layernorm_modulate(d, dst, r, scale, shift, eps);
}

static void gated_takes_x(const ink_device *d, ink_tensor dst, ink_residual r, ink_tensor scale, ink_tensor shift, float eps) {
    r.stays = false;
    ink_ref_gated_residual_layernorm_modulate(d, dst, r, scale, shift, eps);
}

/* The second layer is added with the gate of the first. */
static void gated_by_one(const ink_device *d, ink_tensor dst, ink_residual r, ink_tensor scale, ink_tensor shift, float eps) {
    r.gate[1] = r.gate[0];
    ink_ref_gated_residual_layernorm_modulate(d, dst, r, scale, shift, eps);
}

/* Right only while dst is no y. */
static void gated_writes_early(const ink_device *d, ink_tensor dst, ink_residual r, ink_tensor scale, ink_tensor shift, float eps) {
    for (int64_t i = 0; i < r.x.rows; i++) memset(ink_row(dst, i), 0, (size_t)r.x.cols * sizeof(float));
    ink_ref_gated_residual_layernorm_modulate(d, dst, r, scale, shift, eps);
}

static void rmsnorm_with(norm_bug bug, ink_tensor dst, ink_tensor x, ink_tensor w, float eps) {
    for (int64_t i = 0; i < x.rows; i++) {
        double squares = 0;
        int64_t n = bug == LAST_VALUE_MISSED && x.cols > 1 ? x.cols - 1 : x.cols;
        for (int64_t j = 0; j < n; j++) squares += (double)ink_row(x, i)[j] * ink_row(x, i)[j];
        squares /= (double)x.cols;
        double rms = bug == EPS_FORGOTTEN ? sqrt(squares) : bug == EPS_AFTER_ROOT ? sqrt(squares) + eps : sqrt(squares + eps);
        for (int64_t j = 0; j < x.cols; j++) ink_row(dst, i)[j] = (float)(ink_row(x, i)[j] / rms * w.data[j]);
    }
}

static void rmsnorm_no_eps(const ink_device *d, ink_tensor dst, ink_tensor x, ink_tensor w, float eps) {
    (void)d;
    rmsnorm_with(EPS_FORGOTTEN, dst, x, w, eps);
}

static void rmsnorm_late_eps(const ink_device *d, ink_tensor dst, ink_tensor x, ink_tensor w, float eps) {
    (void)d;
    rmsnorm_with(EPS_AFTER_ROOT, dst, x, w, eps);
}

static void rmsnorm_last_value(const ink_device *d, ink_tensor dst, ink_tensor x, ink_tensor w, float eps) {
    (void)d;
    rmsnorm_with(LAST_VALUE_MISSED, dst, x, w, eps);
}

/* Right only while dst is not r. */
static void residual_writes_early(const ink_device *d, ink_tensor dst, ink_tensor x, ink_tensor r, ink_tensor w, float eps) {
    for (int64_t i = 0; i < x.rows; i++)
        for (int64_t j = 0; j < x.cols; j++) {
            ink_row(dst, i)[j] = 0;
            ink_row(x, i)[j] += ink_row(r, i)[j];
        }
    ink_ref_rmsnorm(d, dst, x, w, eps);
}

/* Adds 1e-12 to the length, which must only not be less. */
static void channels_adds_least(const ink_device *d, ink_tensor dst, ink_tensor x, ink_tensor gamma, bool silu) {
    (void)d;
    for (int64_t i = 0; i < x.rows; i++) {
        double squares = 0;
        for (int64_t j = 0; j < x.cols; j++) squares += (double)ink_row(x, i)[j] * ink_row(x, i)[j];
        for (int64_t j = 0; j < x.cols; j++) {
            double v = ink_row(x, i)[j] / (sqrt(squares) + 1e-12) * sqrt((double)x.cols) * gamma.data[j];
            ink_row(dst, i)[j] = (float)(silu ? ink_ref_silu(v) : v);
        }
    }
}

static void channels_no_silu(const ink_device *d, ink_tensor dst, ink_tensor x, ink_tensor gamma, bool silu) {
    (void)silu;
    ink_ref_rmsnorm_channels(d, dst, x, gamma, false);
}

/* ---- rotations ----------------------------------------------------------------------------------------------------------- */

static void rope_wrong_pairs(const ink_device *d, ink_tensor x, ink_tensor cos, ink_tensor sin, int64_t n_heads) {
    (void)d;
    int64_t head_dim = x.cols / n_heads;
    for (int64_t i = 0; i < x.rows; i++)
        for (int64_t k = 0; k < x.cols / 2; k++) {
            float *pair = ink_row(x, i) + 2 * k, cosine = ink_row(cos, i)[k % (head_dim / 2)],
                  sine = ink_row(sin, i)[k % (head_dim / 2)];
            float a = pair[0] * cosine - pair[1] * sine, b = pair[0] * sine + pair[1] * cosine;
            pair[0] = a;
            pair[1] = b;
        }
}

/* Reads its first result where it needs its first operand. */
static void rope_reads_result(const ink_device *d, ink_tensor x, ink_tensor cos, ink_tensor sin, int64_t n_heads) {
    (void)d;
    int64_t head_dim = x.cols / n_heads;
    for (int64_t i = 0; i < x.rows; i++)
        for (int64_t h = 0; h < n_heads; h++)
            for (int64_t k = 0; k < head_dim / 2; k++) {
                float *a = ink_row(x, i) + h * head_dim + k, *b = a + head_dim / 2;
                *a = *a * ink_row(cos, i)[k] - *b * ink_row(sin, i)[k];
                *b = *a * ink_row(sin, i)[k] + *b * ink_row(cos, i)[k];
            }
}

/* The mean square of all heads together. */
static void rmsnorm_rope_over_row(const ink_device *d, ink_tensor qk, ink_tensor wq, ink_tensor wk, ink_tensor cos, ink_tensor sin,
                                  int64_t n_heads, float eps) {
    int64_t half = qk.cols / 2, head_dim = half / n_heads;
    for (int64_t i = 0; i < qk.rows; i++)
        for (int64_t first = 0; first < qk.cols; first += half) {
            float *x = ink_row(qk, i) + first, *w = first ? wk.data : wq.data;
            double squares = 0;
            for (int64_t j = 0; j < half; j++) squares += (double)x[j] * x[j];
            float r = (float)(1 / sqrt(squares / (double)half + eps));
            for (int64_t j = 0; j < half; j++) x[j] *= r * w[j % head_dim];
        }
    rope_wrong_pairs(d, qk, cos, sin, 2 * n_heads);
}

static void rmsnorm_rope_turns_back(const ink_device *d, ink_tensor qk, ink_tensor wq, ink_tensor wk, ink_tensor cos,
                                    ink_tensor sin, int64_t n_heads, float eps) {
    for (int64_t i = 0; i < qk.rows; i++) {
        float minus[2048];
        for (int64_t k = 0; k < sin.cols; k++) minus[k] = -ink_row(sin, i)[k];
        ink_ref_rmsnorm_rope(d, ink_rows(qk, i, 1), wq, wk, ink_rows(cos, i, 1), ink_view(minus, 1, sin.cols), n_heads, eps);
    }
}

static void rmsnorm_rope_one_weight(const ink_device *d, ink_tensor qk, ink_tensor wq, ink_tensor wk, ink_tensor cos,
                                    ink_tensor sin, int64_t n_heads, float eps) {
    (void)wk;
    ink_ref_rmsnorm_rope(d, qk, wq, wq, cos, sin, n_heads, eps);
}

/* ---- attention ----------------------------------------------------------------------------------------------------------- */

typedef enum attention_bug {
    HEADS_IN_TURN,
    SEES_NEXT_KEY,
    MISSES_OWN_KEY,
    LAST_KEY_MISSED,
    NO_MAXIMUM,
    NO_SCALE,
    BF16_WEIGHTS,
    LAST_DIM_MISSED,
    QUERY_GAP_IGNORED,
    KEY_GAP_IGNORED,
    GAP_ONE_LATE
} attention_bug;

static void attention_with(attention_bug bug, ink_tensor dst, ink_tensor q, ink_tensor k, ink_tensor v, ink_attention_shape s) {
    for (int64_t head = 0; head < s.n_heads; head++) {
        if (bug == QUERY_GAP_IGNORED) s.q_gap.rows = 0;
        if (bug == KEY_GAP_IGNORED) s.kv_gap.rows = 0;
        ink_gap v_gap = s.kv_gap;
        if (bug == GAP_ONE_LATE && v_gap.split > 0) v_gap.split++;
        int64_t kv_head = bug == HEADS_IN_TURN ? head % s.n_kv_heads : head / (s.n_heads / s.n_kv_heads);
        for (int64_t i = 0; i < q.rows; i++) {
            int64_t n = s.causal ? i + 1 : k.rows, n_dims = s.head_dim;
            if (s.causal && bug == SEES_NEXT_KEY && n < k.rows) n++;
            if (s.causal && bug == MISSES_OWN_KEY && n > 1) n--;
            if (bug == LAST_KEY_MISSED && n > 1 && n % 4 == 1) n--;
            if (bug == LAST_DIM_MISSED && n_dims % 4 == 1 && n_dims > 1) n_dims--;
            static double scores[2048];
            double largest = -INFINITY, total = 0;
            for (int64_t j = 0; j < n; j++) {
                double dot = 0;
                for (int64_t x = 0; x < n_dims; x++)
                    dot += (double)ink_row_across(q, s.q_gap, i)[head * s.head_dim + x] *
                           ink_row_across(k, s.kv_gap, j)[kv_head * s.head_dim + x];
                scores[j] = bug == NO_SCALE ? dot : dot * s.scale;
                largest = fmax(largest, scores[j]);
            }
            for (int64_t j = 0; j < n; j++) {
                scores[j] = bug == NO_MAXIMUM ? expf((float)scores[j]) : exp(scores[j] - largest);
                total += scores[j];
                if (bug == BF16_WEIGHTS) scores[j] = ink_round_to_bf16((float)scores[j]);
            }
            for (int64_t x = 0; x < s.head_dim; x++) {
                double sum = 0;
                for (int64_t j = 0; j < n; j++) sum += scores[j] * ink_row_across(v, v_gap, j)[kv_head * s.head_dim + x];
                ink_row_across(dst, s.q_gap, i)[head * s.head_dim + x] = (float)(sum / total);
            }
        }
    }
}

#define PLANT_ATTENTION(name, bug)                                                                                           \
    static void name(const ink_device *d, ink_tensor dst, ink_tensor q, ink_tensor k, ink_tensor v, ink_attention_shape s) { \
        (void)d;                                                                                                             \
        attention_with(bug, dst, q, k, v, s);                                                                                \
    }
PLANT_ATTENTION(attention_heads, HEADS_IN_TURN)
PLANT_ATTENTION(attention_next_key, SEES_NEXT_KEY)
PLANT_ATTENTION(attention_own_key, MISSES_OWN_KEY)
PLANT_ATTENTION(attention_last_key, LAST_KEY_MISSED)
PLANT_ATTENTION(attention_no_maximum, NO_MAXIMUM)
PLANT_ATTENTION(attention_no_scale, NO_SCALE)
PLANT_ATTENTION(attention_bf16, BF16_WEIGHTS)
PLANT_ATTENTION(attention_last_dim, LAST_DIM_MISSED)
PLANT_ATTENTION(attention_query_gap, QUERY_GAP_IGNORED)
PLANT_ATTENTION(attention_key_gap, KEY_GAP_IGNORED)
PLANT_ATTENTION(attention_late_gap, GAP_ONE_LATE)

/* ---- pixels -------------------------------------------------------------------------------------------------------------- */

typedef enum conv_bug {
    PADDING_SWAPPED,
    PADDING_TRANSPOSED,
    KERNEL_TRANSPOSED,
    ROWS_WRAP,
    CHANNEL_MISSED,
    RESIDUAL_IGNORED
} conv_bug;

static void conv_with(conv_bug bug, ink_tensor dst, ink_tensor x, const ink_weight *w, ink_tensor bias, const ink_tensor *residual,
                      ink_conv_shape s) {
    int64_t width = ink_conv_out_width(s);
    int64_t pad_above = bug == PADDING_SWAPPED ? s.pad_below : bug == PADDING_TRANSPOSED ? s.pad_left : s.pad_above;
    int64_t pad_left = bug == PADDING_SWAPPED ? s.pad_right : bug == PADDING_TRANSPOSED ? s.pad_above : s.pad_left;
    int64_t n_in = bug == CHANNEL_MISSED && x.cols > 16 ? x.cols - x.cols % 16 : x.cols;
    for (int64_t pixel = 0; pixel < dst.rows; pixel++)
        for (int64_t o = 0; o < dst.cols; o++) {
            float sum = bias.data[o];
            for (int64_t ky = 0; ky < s.kernel; ky++)
                for (int64_t kx = 0; kx < s.kernel; kx++) {
                    int64_t sy = pixel / width * s.stride + ky - pad_above, sx = pixel % width * s.stride + kx - pad_left;
                    int64_t at = sy * s.width + sx, tap = bug == KERNEL_TRANSPOSED ? kx * s.kernel + ky : ky * s.kernel + kx;
                    bool inside = sy >= 0 && sy < s.height && sx >= 0 && sx < s.width;
                    if (bug == ROWS_WRAP) inside = at >= 0 && at < s.height * s.width;
                    for (int64_t i = 0; inside && i < n_in; i++)
                        sum += ink_row(x, at)[i] * (float)weight_at(w, o, tap * x.cols + i);
                }
            if (residual && bug != RESIDUAL_IGNORED) sum += ink_row(*residual, pixel)[o];
            ink_row(dst, pixel)[o] = sum;
        }
}

#define PLANT_CONV(name, bug)                                                                                 \
    static void name(const ink_device *d, ink_tensor dst, ink_tensor x, const ink_weight *w, ink_tensor bias, \
                     const ink_tensor *residual, ink_conv_shape s) {                                          \
        (void)d;                                                                                              \
        conv_with(bug, dst, x, w, bias, residual, s);                                                         \
    }
PLANT_CONV(conv_padding, PADDING_SWAPPED)
PLANT_CONV(conv_padding_of_rows, PADDING_TRANSPOSED)
PLANT_CONV(conv_transposed, KERNEL_TRANSPOSED)
PLANT_CONV(conv_wraps, ROWS_WRAP)
PLANT_CONV(conv_channel, CHANNEL_MISSED)
PLANT_CONV(conv_no_residual, RESIDUAL_IGNORED)

static void upsample_transposed(const ink_device *d, ink_tensor dst, ink_tensor x, int64_t height, int64_t width) {
    ink_ref_upsample2x(d, dst, x, width, height);
}

/* ---- the small ones ------------------------------------------------------------------------------------------------------ */

static void silu_of_other(const ink_device *d, ink_tensor dst, ink_tensor a, ink_tensor b) { ink_ref_silu_mul(d, dst, b, a); }

/* The angle in double: nearer to the formula, but not what the networks were trained with. */
static void timestep_in_double(const ink_device *d, ink_tensor dst, ink_tensor t) {
    (void)d;
    int64_t half = dst.cols / 2;
    for (int64_t i = 0; i < dst.rows; i++)
        for (int64_t j = 0; j < half; j++) {
            double angle = 1000.0 * t.data[i] * exp(-log(10000) * (double)j / (double)half);
            ink_row(dst, i)[j] = (float)cos(angle);
            ink_row(dst, i)[half + j] = (float)sin(angle);
        }
}

static void timestep_sine_first(const ink_device *d, ink_tensor dst, ink_tensor t) {
    ink_ref_timestep_embed(d, dst, t);
    for (int64_t i = 0; i < dst.rows; i++)
        for (int64_t j = 0; j < dst.cols / 2; j++) {
            float *a = &ink_row(dst, i)[j], *b = a + dst.cols / 2, cosine = *a;
            *a = *b;
            *b = cosine;
        }
}

static void unpatchify_channels_last(const ink_device *d, ink_tensor dst, ink_tensor latents, ink_tensor mean, ink_tensor std,
                                     int64_t height, int64_t width, int64_t patch) {
    (void)d;
    for (int64_t y = 0; y < height; y++)
        for (int64_t x = 0; x < width; x++)
            for (int64_t c = 0; c < dst.cols; c++) {
                const float *token = ink_row(latents, y / patch * (width / patch) + x / patch);
                ink_row(dst, y * width + x)[c] = token[(y % patch * patch + x % patch) * dst.cols + c] * std.data[c] + mean.data[c];
            }
}

static void cfg_not_rescaled(const ink_device *d, ink_tensor dst, ink_tensor cond, ink_tensor uncond, float scale) {
    (void)d;
    for (int64_t i = 0; i < dst.rows; i++)
        for (int64_t j = 0; j < dst.cols; j++) {
            float u = ink_row(uncond, i)[j];
            ink_row(dst, i)[j] = u + scale * (ink_row(cond, i)[j] - u);
        }
}

/* One length for all rows. */
static void cfg_global(const ink_device *d, ink_tensor dst, ink_tensor cond, ink_tensor uncond, float scale) {
    double before = 0, after = 0;
    for (int64_t i = 0; i < dst.rows; i++)
        for (int64_t j = 0; j < dst.cols; j++) before += (double)ink_row(cond, i)[j] * ink_row(cond, i)[j];
    cfg_not_rescaled(d, dst, cond, uncond, scale);
    for (int64_t i = 0; i < dst.rows; i++)
        for (int64_t j = 0; j < dst.cols; j++) after += (double)ink_row(dst, i)[j] * ink_row(dst, i)[j];
    for (int64_t i = 0; i < dst.rows; i++)
        for (int64_t j = 0; j < dst.cols; j++) ink_row(dst, i)[j] *= (float)sqrt(before / after);
}

static void euler_bf16_step(const ink_device *d, ink_tensor x, ink_tensor v, float dt) {
    ink_ref_euler_step(d, x, v, ink_round_to_bf16(dt));
}

/* Rows as if they lay next to each other. */
static void copy_packed(const ink_device *d, ink_tensor dst, ink_tensor x) {
    x.stride = x.cols;
    ink_ref_copy(d, dst, x);
}

/* -------------------------------------------------------------------------------------------------------------------------- */

/* The ops that a check of `op` runs: the wrong one, and those that a fused one is compared with. */
static const struct planted {
    const char *op, *bug;
    ink_ops ops;
} planted[] = {
    {"linear", "the last product of each sum is dropped", {.linear = linear_last_product}},
    {"linear", "the tail of K beyond a multiple of 8 is dropped", {.linear = linear_tail}},
    {"linear", "the tail of K reads past the end of a row", {.linear = linear_read_past_end}},
    {"linear", "bf16 accumulator", {.linear = linear_bf16_sum}},
    {"linear", "x rounded to bf16", {.linear = linear_bf16_input}},
    {"linear", "a last column that fills no vector is missed", {.linear = linear_last_column}},
    {"linear", "writes past the end of each row", {.linear = linear_past_row}},
    {"linear", "writes past the end of the last row", {.linear = linear_past_last_row}},
    {"linear", "gate ignored", {.linear = linear_no_gate}},
    {"linear", "gate before the activation", {.linear = linear_early_gate}},
    {"linear", "bias after the activation", {.linear = linear_late_bias}},
    {"linear", "add_to_dst ignored", {.linear = linear_no_add}},
    {"linear", "adds to what dst held when not asked to", {.linear = linear_old_dst}},
    {"linear", "gelu by erf", {.linear = linear_gelu_erf}},
    {"linear", "the order of a sum depends on the number of threads", {.linear = linear_by_threads}},
    {"linear", "the order of a sum depends on the run", {.linear = linear_by_turns}},
    {"linear", "subnormal numbers flushed to zero", {.linear = linear_no_subnormals}},
    {"linear", "the low-rank branch is ignored", {.linear = linear_no_branch}},
    {"linear", "an operand is changed", {.linear = linear_operand}},
    {"linear", "integers summed in f32", {.linear = linear_i8_f32}},
    {"linear", "pairs of products of integers saturate", {.linear = linear_i8_saturates}},
    {"linear", "one scale of integers for all rows", {.linear = linear_i8_one_scale}},
    {"linear", "ties round away from zero to integers", {.linear = linear_i8_away}},
    {"linear", "scales of integers multiplied by each other first", {.linear = linear_i8_once}},
    {"layernorm_modulate", "eps forgotten", {.layernorm_modulate = layernorm_no_eps}},
    {"layernorm_modulate", "eps added after the root", {.layernorm_modulate = layernorm_late_eps}},
    {"layernorm_modulate", "variance in one pass of f32", {.layernorm_modulate = layernorm_one_pass}},
    {"layernorm_modulate", "unbiased variance", {.layernorm_modulate = layernorm_unbiased}},
    {"layernorm_modulate", "scale without the 1", {.layernorm_modulate = layernorm_no_one}},
    {"gated_residual_layernorm_modulate",
     "x is not stored",
     {.gated_residual_layernorm_modulate = gated_keeps_x, .layernorm_modulate = ink_ref_layernorm_modulate}},
    {"gated_residual_layernorm_modulate",
     "x is stored where it should stay",
     {.gated_residual_layernorm_modulate = gated_takes_x, .layernorm_modulate = ink_ref_layernorm_modulate}},
    {"gated_residual_layernorm_modulate",
     "one gate for both layers",
     {.gated_residual_layernorm_modulate = gated_by_one, .layernorm_modulate = ink_ref_layernorm_modulate}},
    {"gated_residual_layernorm_modulate",
     "dst written before y is read",
     {.gated_residual_layernorm_modulate = gated_writes_early, .layernorm_modulate = ink_ref_layernorm_modulate}},
    {"rmsnorm", "eps forgotten", {.rmsnorm = rmsnorm_no_eps}},
    {"rmsnorm", "eps added after the root", {.rmsnorm = rmsnorm_late_eps}},
    {"rmsnorm", "the last value is left out of the mean", {.rmsnorm = rmsnorm_last_value}},
    {"residual_rmsnorm", "dst written before r is read", {.residual_rmsnorm = residual_writes_early, .rmsnorm = ink_ref_rmsnorm}},
    {"rmsnorm_channels", "1e-12 added to the length", {.rmsnorm_channels = channels_adds_least}},
    {"rmsnorm_channels", "silu ignored", {.rmsnorm_channels = channels_no_silu}},
    {"rmsnorm_rope", "normed over the row, not the head", {.rmsnorm_rope = rmsnorm_rope_over_row}},
    {"rmsnorm_rope", "turns the other way", {.rmsnorm_rope = rmsnorm_rope_turns_back}},
    {"rmsnorm_rope", "keys by the weight of queries", {.rmsnorm_rope = rmsnorm_rope_one_weight}},
    {"rope_half", "turns adjacent pairs", {.rope_half = rope_wrong_pairs}},
    {"rope_half", "reads its own result", {.rope_half = rope_reads_result}},
    {"attention", "key heads taken in turn", {.attention = attention_heads}},
    {"attention", "causal: sees one key too many", {.attention = attention_next_key}},
    {"attention", "causal: does not see its own key", {.attention = attention_own_key}},
    {"attention", "a last key that fills no vector is missed", {.attention = attention_last_key}},
    {"attention", "exp without the maximum", {.attention = attention_no_maximum}},
    {"attention", "scale ignored", {.attention = attention_no_scale}},
    {"attention", "bf16 weights", {.attention = attention_bf16}},
    {"attention", "a last dimension that fills no vector is missed", {.attention = attention_last_dim}},
    {"attention", "queries in one run that come in two", {.attention = attention_query_gap}},
    {"attention", "keys in one run that come in two", {.attention = attention_key_gap}},
    {"attention", "the second run of values begins one row late", {.attention = attention_late_gap}},
    {"conv2d", "paddings swapped", {.conv2d = conv_padding}},
    {"conv2d", "padding of rows for that of columns", {.conv2d = conv_padding_of_rows}},
    {"conv2d", "kernel transposed", {.conv2d = conv_transposed}},
    {"conv2d", "the border wraps to the next row of pixels", {.conv2d = conv_wraps}},
    {"conv2d", "channels beyond a multiple of 16 are dropped", {.conv2d = conv_channel}},
    {"conv2d", "residual ignored", {.conv2d = conv_no_residual}},
    {"upsample2x", "height and width swapped", {.upsample2x = upsample_transposed}},
    {"silu_mul", "silu of the other operand", {.silu_mul = silu_of_other}},
    {"timestep_embed", "angles in double", {.timestep_embed = timestep_in_double}},
    {"timestep_embed", "sine first", {.timestep_embed = timestep_sine_first}},
    {"unpatchify", "channel is the fastest index of a token", {.unpatchify = unpatchify_channels_last}},
    {"cfg_combine", "not rescaled", {.cfg_combine = cfg_not_rescaled}},
    {"cfg_combine", "one length for all rows", {.cfg_combine = cfg_global}},
    {"euler_step", "dt rounded to bf16", {.euler_step = euler_bf16_step}},
    {"copy", "the stride of the source ignored", {.copy = copy_packed}},
};

/* Runs the check until the bug is found, or to its end. */
static void look_for(checker *c, const struct planted *p) {
    ink_device device = {.tier = "planted", .ops = &p->ops, .threads = c->threads[0]};
    checker_open(c, &device);
    checker_begin(c, p->op, 0);
    run_check(c, p->op);
    checker_close(c);
}

int run_planted(checker *c) {
    int n = sizeof planted / sizeof *planted, n_missed = 0;
    c->quiet = true;
    for (int i = 0; i < n; i++) {
        look_for(c, &planted[i]);
        if (c->n_failures == 0) n_missed++;
        printf("%-6s %s: %s (case %lld)\n", c->n_failures ? "caught" : "MISSED", planted[i].op, planted[i].bug,
               (long long)c->n_cases);
    }
    printf("%d of %d planted bugs caught\n", n - n_missed, n);
    return n_missed;
}
