/*
 * ref_ops.h - tier `ref`, the definition of every op: ops.h says what each computes, these functions say it again in loops that
 * can be checked by eye. Every other tier is tested against them (tests/checkops).
 *
 * Sums and functions are taken in double and rounded to f32 once, when they are stored; where an op also updates an operand in
 * place, what follows reads the stored value. Nothing is fast here, and nothing is allocated.
 */
#ifndef INK_OPS_REF_OPS_H
#define INK_OPS_REF_OPS_H

#include "ops/ops.h"

void ink_ref_linear(const ink_device *d, ink_tensor dst, ink_tensor x, const ink_weight *w, ink_linear_epilogue e);

void ink_ref_layernorm_modulate(const ink_device *d, ink_tensor dst, ink_tensor x, ink_tensor scale, ink_tensor shift, float eps);
void ink_ref_gated_residual_layernorm_modulate(const ink_device *d, ink_tensor dst, ink_residual r, ink_tensor scale,
                                               ink_tensor shift, float eps);
void ink_ref_rmsnorm(const ink_device *d, ink_tensor dst, ink_tensor x, ink_tensor w, float eps);
void ink_ref_residual_rmsnorm(const ink_device *d, ink_tensor dst, ink_tensor x, ink_tensor r, ink_tensor w, float eps);
void ink_ref_rmsnorm_channels(const ink_device *d, ink_tensor dst, ink_tensor x, ink_tensor gamma, bool silu);

void ink_ref_rmsnorm_rope(const ink_device *d, ink_tensor qk, ink_tensor wq, ink_tensor wk, ink_tensor cos, ink_tensor sin,
                          int64_t n_heads, float eps);
void ink_ref_rope_half(const ink_device *d, ink_tensor x, ink_tensor cos, ink_tensor sin, int64_t n_heads);

void ink_ref_attention(const ink_device *d, ink_tensor dst, ink_tensor q, ink_tensor k, ink_tensor v, ink_attention_shape shape);

void ink_ref_conv2d(const ink_device *d, ink_tensor dst, ink_tensor x, const ink_weight *w, ink_tensor bias,
                    const ink_tensor *residual, ink_conv_shape shape);
void ink_ref_upsample2x(const ink_device *d, ink_tensor dst, ink_tensor x, int64_t height, int64_t width);

void ink_ref_silu_mul(const ink_device *d, ink_tensor dst, ink_tensor a, ink_tensor b);
void ink_ref_timestep_embed(const ink_device *d, ink_tensor dst, ink_tensor t);
void ink_ref_unpatchify(const ink_device *d, ink_tensor dst, ink_tensor latents, ink_tensor mean, ink_tensor std, int64_t height,
                        int64_t width, int64_t patch);
void ink_ref_cfg_combine(const ink_device *d, ink_tensor dst, ink_tensor cond, ink_tensor uncond, float scale);
void ink_ref_euler_step(const ink_device *d, ink_tensor x, ink_tensor v, float dt);
void ink_ref_copy(const ink_device *d, ink_tensor dst, ink_tensor x);

/* Element [row, col] of a weight of either type. */
double ink_ref_weight_at(const ink_weight *w, int64_t row, int64_t col);

double ink_ref_silu(double x);
double ink_ref_gelu_tanh(double x);

#endif
