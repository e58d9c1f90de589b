/*
 * typed.c - a stand-in on the host for devices with BF16 activations and memory of their own: every op widens what it is given,
 * runs `ref`, and rounds what comes out. It rounds factors where such a device would, so that the bounds are tried as well.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "checkops.h"
#include "ops/ref/ref_ops.h"
#include "tensor/quantize.h"

typedef struct state {
    typed_bug bug;
    bool failed;
} state;

static typed_bug bug_of(const ink_device *d) { return ((const state *)d->kernels)->bug; }

/* ---- its memory -------------------------------------------------------------------------------------------------------- */

static void *take_shared(const ink_device *d, size_t bytes) {
    (void)d;
    return malloc(bytes);
}

static void release_shared(const ink_device *d, void *memory) {
    (void)d;
    free(memory);
}

static void wait_all(const ink_device *d) { (void)d; }

static const char *failure(const ink_device *d) { return ((const state *)d->kernels)->failed ? "it fell off the bus" : NULL; }

static const ink_device_memory memory = {
    .alloc_shared = take_shared, .release_shared = release_shared, .wait = wait_all, .failure = failure};

/* ---- tensors ----------------------------------------------------------------------------------------------------------- */

/* An f32 copy of rows that lie side by side, with those of a gap. */
static ink_tensor copy_apart(const ink_device *d, ink_tensor x, int64_t n_apart) {
    ink_tensor wide = ink_view(malloc((size_t)((x.rows + n_apart) * x.cols) * sizeof(float)), x.rows, x.cols);
    if (!wide.data) exit(2);
    bool misread = bug_of(d) == VECTORS_AS_F32 && x.rows == 1;
    for (int64_t i = 0; i < x.rows + n_apart; i++)
        for (int64_t j = 0; j < x.cols; j++) {
            const void *at = ink_element(x, i * x.stride + j);
            if (x.type == INK_F32)
                ink_row(wide, i)[j] = *(const float *)at;
            else if (misread)
                memcpy(&ink_row(wide, i)[j], (const float *)(const void *)x.data + j, sizeof(float));
            else
                ink_row(wide, i)[j] = ink_f32_from_bf16(*(const uint16_t *)at);
        }
    return wide;
}

static ink_tensor widen(const ink_device *d, ink_tensor x) { return copy_apart(d, x, 0); }

static uint16_t rounded(float value, typed_bug bug) {
    uint32_t bits;
    if (bug != TRUNCATES) return ink_bf16_from_f32(value);
    memcpy(&bits, &value, sizeof bits);
    return (uint16_t)(bits >> 16);
}

/* Stores the copy and releases it. */
static void give_apart(const ink_device *d, ink_tensor x, ink_tensor wide, ink_gap gap) {
    for (int64_t i = 0; i < x.rows; i++) {
        int64_t row = i < gap.split ? i : i + gap.rows;
        for (int64_t j = 0; j < x.cols; j++) {
            void *at = ink_element(x, row * x.stride + j);
            if (x.type == INK_F32)
                *(float *)at = ink_row(wide, row)[j];
            else
                *(uint16_t *)at = rounded(ink_row(wide, row)[j], bug_of(d));
        }
        if (x.type == INK_BF16 && bug_of(d) == WRITES_PAST_BF16) *(uint16_t *)(void *)ink_element(x, row * x.stride + x.cols) = 0;
    }
    free(wide.data);
}

static void give(const ink_device *d, ink_tensor x, ink_tensor wide) { give_apart(d, x, wide, (ink_gap){0, 0}); }

/* ---- the ops that round their factors ---------------------------------------------------------------------------------- */

static void quantise_rows(ink_tensor x) {
    for (int64_t i = 0; i < x.rows; i++) {
        float largest = 0;
        for (int64_t j = 0; j < x.cols; j++) largest = fmaxf(largest, fabsf(ink_row(x, i)[j]));
        float scale = largest > 0 ? largest / 448 : 1;
        for (int64_t j = 0; j < x.cols; j++)
            ink_row(x, i)[j] = scale * ink_f32_from_f8_e4m3(ink_f8_e4m3_from_f32(ink_row(x, i)[j] / scale));
    }
}

static void linear(const ink_device *d, ink_tensor dst, ink_tensor x, const ink_weight *w, ink_linear_epilogue e) {
    typed_bug bug = bug_of(d);
    bool rounds = w->dtype != INK_F32 && e.may_round, f8 = rounds && w->dtype == INK_F8_E4M3;
    ink_tensor wide = widen(d, x), made = widen(d, dst), low = {0}, bias = {0}, gate = {0};
    if (f8)
        quantise_rows(wide);
    else if (rounds)
        round_rows(wide);
    if (f8 && bug == F8_PRODUCT_LOST)
        for (int64_t i = 0; i < x.rows; i++) ink_row(wide, i)[x.cols - 1] = 0;
    if (e.low) {
        low = widen(d, *e.low);
        if (rounds) round_rows(low);
        e.low = &low;
    }
    if (e.bias) {
        bias = widen(d, *e.bias);
        e.bias = &bias;
    }
    if (e.gate) {
        gate = widen(d, *e.gate);
        e.gate = &gate;
    }
    bool sum_first = bug == ROUNDS_SUM && dst.type == INK_BF16 && e.bias && !e.gate && !e.activation && !e.add_to_dst;
    if (sum_first) e.bias = NULL;
    e.may_round = false; /* integers are decoded */
    ink_ref_linear(d, made, wide, w, e);
    for (int64_t i = 0; sum_first && i < dst.rows; i++)
        for (int64_t j = 0; j < dst.cols; j++) ink_row(made, i)[j] = ink_round_to_bf16(ink_row(made, i)[j]) + bias.data[j];
    give(d, dst, made);
    free(wide.data);
    free(low.data);
    free(bias.data);
    free(gate.data);
    if (bug == FAILS) ((state *)(uintptr_t)d->kernels)->failed = true;
}

/* By one query and head at a time: weights of the softmax to bf16, but their sum. */
static void attend(const ink_device *d, float *out, ink_tensor q, ink_tensor k, ink_tensor v, ink_attention_shape s, int64_t i,
                   int64_t head) {
    static double p[4096];
    int64_t n = s.causal ? i + 1 : k.rows, from = head / (s.n_heads / s.n_kv_heads) * s.head_dim;
    double largest = -INFINITY, total = 0;
    for (int64_t j = 0; j < n; j++) {
        p[j] = 0;
        for (int64_t x = 0; x < s.head_dim; x++)
            p[j] += (double)ink_row_across(q, s.q_gap, i)[head * s.head_dim + x] * ink_row_across(k, s.kv_gap, j)[from + x];
        p[j] *= s.scale;
        if (bug_of(d) == BF16_SCORES) p[j] = ink_round_to_bf16((float)p[j]);
        largest = fmax(largest, p[j]);
    }
    for (int64_t j = 0; j < n; j++) {
        p[j] = exp(p[j] - largest);
        total += p[j];
        if (s.may_round) p[j] = ink_round_to_bf16((float)p[j]);
    }
    for (int64_t x = 0; x < s.head_dim; x++) {
        double sum = 0;
        for (int64_t j = 0; j < n; j++) sum += p[j] * ink_row_across(v, s.kv_gap, j)[from + x];
        out[x] = (float)(sum / total);
    }
}

static void attention(const ink_device *d, ink_tensor dst, ink_tensor q, ink_tensor k, ink_tensor v, ink_attention_shape s) {
    ink_tensor wide[] = {copy_apart(d, q, s.q_gap.rows), copy_apart(d, k, s.kv_gap.rows), copy_apart(d, v, s.kv_gap.rows)},
               made = copy_apart(d, dst, s.q_gap.rows);
    for (int t = 0; t < 3; t++) {
        wide[t].rows += t ? s.kv_gap.rows : s.q_gap.rows;
        if (s.may_round) round_rows(wide[t]);
        wide[t].rows -= t ? s.kv_gap.rows : s.q_gap.rows;
    }
    for (int64_t head = 0; head < s.n_heads; head++)
        for (int64_t i = 0; i < q.rows; i++) {
            float *out = ink_row_across(made, s.q_gap, i) + head * s.head_dim;
            attend(d, out, wide[0], wide[1], wide[2], s, i, head);
        }
    if (s.may_round && dst.type == INK_F32) {
        made.rows += s.q_gap.rows;
        round_rows(made);
        made.rows -= s.q_gap.rows;
    }
    give_apart(d, dst, made, s.q_gap);
    for (int t = 0; t < 3; t++) free(wide[t].data);
}

static void conv2d(const ink_device *d, ink_tensor dst, ink_tensor x, const ink_weight *w, ink_tensor bias,
                   const ink_tensor *residual, ink_conv_shape shape) {
    ink_tensor made = widen(d, dst), wide = widen(d, x), vector = widen(d, bias), added = {0};
    if (residual) added = widen(d, *residual);
    if (bug_of(d) == F32_PIXELS_ROUNDED) round_rows(wide);
    ink_ref_conv2d(d, made, wide, w, vector, residual ? &added : NULL, shape);
    give(d, dst, made);
    free(wide.data);
    free(vector.data);
    free(added.data);
}

/* ---- the rest ---------------------------------------------------------------------------------------------------------- */

static void layernorm_modulate(const ink_device *d, ink_tensor dst, ink_tensor x, ink_tensor scale, ink_tensor shift, float eps) {
    ink_tensor made = widen(d, dst), a = widen(d, x), b = widen(d, scale), c = widen(d, shift);
    ink_ref_layernorm_modulate(d, made, a, b, c, eps);
    give(d, dst, made);
    free(a.data);
    free(b.data);
    free(c.data);
}

static void gated_residual_layernorm_modulate(const ink_device *d, ink_tensor dst, ink_residual r, ink_tensor scale,
                                              ink_tensor shift, float eps) {
    ink_tensor made = widen(d, dst), s = widen(d, scale), t = widen(d, shift);
    ink_residual wide = r;
    wide.x = widen(d, r.x);
    for (int i = 0; i < r.n; i++) {
        wide.gate[i] = widen(d, r.gate[i]);
        wide.y[i] = widen(d, r.y[i]);
    }
    ink_ref_gated_residual_layernorm_modulate(d, made, wide, s, t, eps);
    if (bug_of(d) == ROUNDS_RESIDUAL) round_rows(wide.x);
    if (!r.stays) give(d, r.x, wide.x);
    give(d, dst, made);
    if (r.stays) free(wide.x.data);
    for (int i = 0; i < r.n; i++) {
        free(wide.gate[i].data);
        free(wide.y[i].data);
    }
    free(s.data);
    free(t.data);
}

static void rmsnorm(const ink_device *d, ink_tensor dst, ink_tensor x, ink_tensor w, float eps) {
    ink_tensor made = widen(d, dst), a = widen(d, x), b = widen(d, w);
    ink_ref_rmsnorm(d, made, a, b, eps);
    give(d, dst, made);
    free(a.data);
    free(b.data);
}

static void residual_rmsnorm(const ink_device *d, ink_tensor dst, ink_tensor x, ink_tensor r, ink_tensor w, float eps) {
    ink_tensor made = widen(d, dst), sum = widen(d, x), a = widen(d, r), b = widen(d, w);
    ink_ref_residual_rmsnorm(d, made, sum, a, b, eps);
    give(d, x, sum);
    give(d, dst, made);
    free(a.data);
    free(b.data);
}

static void rmsnorm_rope(const ink_device *d, ink_tensor qk, ink_tensor wq, ink_tensor wk, ink_tensor cos, ink_tensor sin,
                         int64_t n_heads, float eps) {
    ink_tensor made = widen(d, qk), a = widen(d, wq), b = widen(d, wk);
    ink_ref_rmsnorm_rope(d, made, a, b, cos, sin, n_heads, eps);
    give(d, qk, made);
    free(a.data);
    free(b.data);
}

static void rope_half(const ink_device *d, ink_tensor x, ink_tensor cos, ink_tensor sin, int64_t n_heads) {
    ink_tensor made = widen(d, x);
    ink_ref_rope_half(d, made, cos, sin, n_heads);
    give(d, x, made);
}

static void silu_mul(const ink_device *d, ink_tensor dst, ink_tensor a, ink_tensor b) {
    ink_tensor made = widen(d, dst), left = widen(d, a), right = widen(d, b);
    ink_ref_silu_mul(d, made, left, right);
    give(d, dst, made);
    free(left.data);
    free(right.data);
}

static void rmsnorm_channels(const ink_device *d, ink_tensor dst, ink_tensor x, ink_tensor gamma, bool silu) {
    ink_tensor made = widen(d, dst), a = widen(d, x), b = widen(d, gamma);
    ink_ref_rmsnorm_channels(d, made, a, b, silu);
    give(d, dst, made);
    free(a.data);
    free(b.data);
}

static void upsample2x(const ink_device *d, ink_tensor dst, ink_tensor x, int64_t height, int64_t width) {
    ink_tensor made = widen(d, dst), a = widen(d, x);
    ink_ref_upsample2x(d, made, a, height, width);
    give(d, dst, made);
    free(a.data);
}

static void unpatchify(const ink_device *d, ink_tensor dst, ink_tensor latents, ink_tensor mean, ink_tensor std, int64_t height,
                       int64_t width, int64_t patch) {
    ink_tensor made = widen(d, dst), a = widen(d, latents), b = widen(d, mean), c = widen(d, std);
    ink_ref_unpatchify(d, made, a, b, c, height, width, patch);
    give(d, dst, made);
    free(a.data);
    free(b.data);
    free(c.data);
}

static void copy(const ink_device *d, ink_tensor dst, ink_tensor x) {
    ink_tensor made = widen(d, dst), a = widen(d, x);
    ink_ref_copy(d, made, a);
    give(d, dst, made);
    free(a.data);
}

ink_device typed_device(typed_bug bug) {
    static const ink_ops ops = {.linear = linear,
                                .layernorm_modulate = layernorm_modulate,
                                .gated_residual_layernorm_modulate = gated_residual_layernorm_modulate,
                                .rmsnorm = rmsnorm,
                                .residual_rmsnorm = residual_rmsnorm,
                                .rmsnorm_rope = rmsnorm_rope,
                                .rope_half = rope_half,
                                .attention = attention,
                                .silu_mul = silu_mul,
                                .conv2d = conv2d,
                                .rmsnorm_channels = rmsnorm_channels,
                                .upsample2x = upsample2x,
                                .timestep_embed = ink_ref_timestep_embed,
                                .unpatchify = unpatchify,
                                .cfg_combine = ink_ref_cfg_combine,
                                .euler_step = ink_ref_euler_step,
                                .copy = copy};
    static state states[FAILS + 1];
    states[bug] = (state){.bug = bug};
    return (ink_device){
        .tier = "typed", .ops = &ops, .kernels = &states[bug], .rounds_rows = true, .memory = &memory, .rounds_scratch = true};
}
