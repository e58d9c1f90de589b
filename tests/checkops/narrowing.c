/*
 * narrowing.c - ops that pass f32 cases on to the device under test with some operands in BF16. So every check of an op is one of
 * its BF16 forms too.
 *
 * Before a call all memory of the case is converted, element by element, to a block of half the size: what lay side by side, or
 * over each other, does so there, and NaN surrounds it as before. Afterwards what has changed there is widened back to where it
 * came from, so that what was written in the wrong place is found like anything else.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "checkops.h"

bool was_narrowed(const checker *c, const float *data) {
    for (int i = 0; i < c->n_narrowed; i++)
        if (data >= c->narrowed[i].first && data < c->narrowed[i].end) return true;
    return false;
}

static checker *begin(const ink_device *d) {
    checker *c = (checker *)(uintptr_t)d->kernels;
    const float *numbers = (const float *)(const void *)c->memory;
    size_t n = c->memory_used / sizeof *numbers;
    for (size_t i = 0; i < n; i++) c->halves[i] = ink_bf16_from_f32(numbers[i]);
    memcpy(c->halves_before, c->halves, n * sizeof *c->halves);
    c->n_narrowed = 0;
    return c;
}

static void end(checker *c) {
    settle(c);
    float *numbers = (float *)(void *)c->memory;
    for (size_t i = 0; i < c->memory_used / sizeof *numbers; i++)
        if (c->halves[i] != c->halves_before[i]) numbers[i] = ink_f32_from_bf16(c->halves[i]);
}

/* x in BF16 if that is asked of its role. n_apart: rows that lie in its gap. */
static ink_tensor narrow_apart(checker *c, ink_tensor x, unsigned role, int64_t n_apart) {
    if (!(c->narrow & role)) return x;
    const float *numbers = (const float *)(const void *)c->memory;
    for (int64_t i = 0; i < x.rows + n_apart; i++)
        for (int64_t j = 0; j < x.cols; j++) {
            float value = ink_row(x, i)[j];
            if (value == value && ink_round_to_bf16(value) != value) {
                fprintf(stderr, "checkops: %s (%s) is given numbers as BF16 that are none\n", c->op, c->label);
                exit(2);
            }
        }
    c->narrowed[c->n_narrowed].first = x.data;
    c->narrowed[c->n_narrowed++].end = ink_row(x, x.rows + n_apart);
    return (ink_tensor){(float *)(void *)(c->halves + (x.data - numbers)), x.rows, x.cols, x.stride, INK_BF16};
}

static ink_tensor narrow(checker *c, ink_tensor x, unsigned role) { return narrow_apart(c, x, role, 0); }

/* ---- the table --------------------------------------------------------------------------------------------------------- */

/* What is added to is f32, and so is what a weight's branch made of x. */
static void linear(const ink_device *d, ink_tensor dst, ink_tensor x, const ink_weight *w, ink_linear_epilogue e) {
    checker *c = begin(d);
    ink_tensor bias, gate;
    if (e.bias) {
        bias = narrow(c, *e.bias, NARROW_VECTORS);
        e.bias = &bias;
    }
    if (e.gate) {
        gate = narrow(c, *e.gate, NARROW_VECTORS);
        e.gate = &gate;
    }
    c->device.ops->linear(&c->device, e.add_to_dst ? dst : narrow(c, dst, NARROW_DST), narrow(c, x, NARROW_X), w, e);
    end(c);
}

static void layernorm_modulate(const ink_device *d, ink_tensor dst, ink_tensor x, ink_tensor scale, ink_tensor shift, float eps) {
    checker *c = begin(d);
    c->device.ops->layernorm_modulate(&c->device, narrow(c, dst, NARROW_DST), narrow(c, x, NARROW_X),
                                      narrow(c, scale, NARROW_VECTORS), narrow(c, shift, NARROW_VECTORS), eps);
    end(c);
}

static void gated_residual_layernorm_modulate(const ink_device *d, ink_tensor dst, ink_residual r, ink_tensor scale,
                                              ink_tensor shift, float eps) {
    checker *c = begin(d);
    for (int i = 0; i < r.n; i++) {
        r.gate[i] = narrow(c, r.gate[i], NARROW_VECTORS);
        r.y[i] = narrow(c, r.y[i], NARROW_Y);
    }
    c->device.ops->gated_residual_layernorm_modulate(&c->device, narrow(c, dst, NARROW_DST), r, narrow(c, scale, NARROW_VECTORS),
                                                     narrow(c, shift, NARROW_VECTORS), eps);
    end(c);
}

static void rmsnorm(const ink_device *d, ink_tensor dst, ink_tensor x, ink_tensor w, float eps) {
    checker *c = begin(d);
    c->device.ops->rmsnorm(&c->device, narrow(c, dst, NARROW_DST), narrow(c, x, NARROW_X), narrow(c, w, NARROW_VECTORS), eps);
    end(c);
}

static void residual_rmsnorm(const ink_device *d, ink_tensor dst, ink_tensor x, ink_tensor r, ink_tensor w, float eps) {
    checker *c = begin(d);
    c->device.ops->residual_rmsnorm(&c->device, narrow(c, dst, NARROW_DST), narrow(c, x, NARROW_X), narrow(c, r, NARROW_Y),
                                    narrow(c, w, NARROW_VECTORS), eps);
    end(c);
}

/* Cosines and sines have more bits. */
static void rmsnorm_rope(const ink_device *d, ink_tensor qk, ink_tensor wq, ink_tensor wk, ink_tensor cos, ink_tensor sin,
                         int64_t n_heads, float eps) {
    checker *c = begin(d);
    c->device.ops->rmsnorm_rope(&c->device, narrow(c, qk, NARROW_X), narrow(c, wq, NARROW_VECTORS), narrow(c, wk, NARROW_VECTORS),
                                cos, sin, n_heads, eps);
    end(c);
}

static void rope_half(const ink_device *d, ink_tensor x, ink_tensor cos, ink_tensor sin, int64_t n_heads) {
    checker *c = begin(d);
    c->device.ops->rope_half(&c->device, narrow(c, x, NARROW_X), cos, sin, n_heads);
    end(c);
}

static void attention(const ink_device *d, ink_tensor dst, ink_tensor q, ink_tensor k, ink_tensor v, ink_attention_shape s) {
    checker *c = begin(d);
    c->device.ops->attention(&c->device, narrow_apart(c, dst, NARROW_DST, s.q_gap.rows), narrow_apart(c, q, NARROW_X, s.q_gap.rows),
                             narrow_apart(c, k, NARROW_X, s.kv_gap.rows), narrow_apart(c, v, NARROW_X, s.kv_gap.rows), s);
    end(c);
}

static void silu_mul(const ink_device *d, ink_tensor dst, ink_tensor a, ink_tensor b) {
    checker *c = begin(d);
    c->device.ops->silu_mul(&c->device, narrow(c, dst, NARROW_DST), narrow(c, a, NARROW_X), narrow(c, b, NARROW_X));
    end(c);
}

static void conv2d(const ink_device *d, ink_tensor dst, ink_tensor x, const ink_weight *w, ink_tensor bias,
                   const ink_tensor *residual, ink_conv_shape shape) {
    checker *c = begin(d);
    ink_tensor added;
    if (residual) {
        added = narrow(c, *residual, NARROW_DST);
        residual = &added;
    }
    c->device.ops->conv2d(&c->device, narrow(c, dst, NARROW_DST), narrow(c, x, NARROW_X), w, narrow(c, bias, NARROW_VECTORS),
                          residual, shape);
    end(c);
}

static void rmsnorm_channels(const ink_device *d, ink_tensor dst, ink_tensor x, ink_tensor gamma, bool silu) {
    checker *c = begin(d);
    c->device.ops->rmsnorm_channels(&c->device, narrow(c, dst, NARROW_DST), narrow(c, x, NARROW_X),
                                    narrow(c, gamma, NARROW_VECTORS), silu);
    end(c);
}

static void upsample2x(const ink_device *d, ink_tensor dst, ink_tensor x, int64_t height, int64_t width) {
    checker *c = begin(d);
    c->device.ops->upsample2x(&c->device, narrow(c, dst, NARROW_DST), narrow(c, x, NARROW_X), height, width);
    end(c);
}

static void unpatchify(const ink_device *d, ink_tensor dst, ink_tensor latents, ink_tensor mean, ink_tensor std, int64_t height,
                       int64_t width, int64_t patch) {
    checker *c = begin(d);
    c->device.ops->unpatchify(&c->device, narrow(c, dst, NARROW_DST), narrow(c, latents, NARROW_X), narrow(c, mean, NARROW_VECTORS),
                              narrow(c, std, NARROW_VECTORS), height, width, patch);
    end(c);
}

static void copy(const ink_device *d, ink_tensor dst, ink_tensor x) {
    checker *c = begin(d);
    c->device.ops->copy(&c->device, narrow(c, dst, NARROW_DST), narrow(c, x, NARROW_X));
    end(c);
}

const ink_ops narrowing_ops = {.linear = linear,
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
                               .unpatchify = unpatchify,
                               .copy = copy};
