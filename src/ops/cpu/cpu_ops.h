/*
 * cpu_ops.h - the CPU implementations of the ops, shared by all CPU tiers; cpu_table.c makes them one table. Arguments as in
 * ink_ops. Work is cut into tasks by shape alone, so that the number of threads changes no bit of a result.
 */
#ifndef INK_OPS_CPU_OPS_H
#define INK_OPS_CPU_OPS_H

#include "ops/cpu/cpu_kernels.h"
#include "ops/ops.h"

void ink_cpu_linear(const ink_device *d, ink_tensor dst, ink_tensor x, const ink_weight *w, ink_linear_epilogue e);
void ink_cpu_conv2d(const ink_device *d, ink_tensor dst, ink_tensor x, const ink_weight *w, ink_tensor bias,
                    const ink_tensor *residual, ink_conv_shape shape);
void ink_cpu_attention(const ink_device *d, ink_tensor dst, ink_tensor q, ink_tensor k, ink_tensor v, ink_attention_shape shape);

void ink_cpu_layernorm_modulate(const ink_device *d, ink_tensor dst, ink_tensor x, ink_tensor scale, ink_tensor shift, float eps);
void ink_cpu_gated_residual_layernorm_modulate(const ink_device *d, ink_tensor dst, ink_residual r, ink_tensor scale,
                                               ink_tensor shift, float eps);
void ink_cpu_rmsnorm(const ink_device *d, ink_tensor dst, ink_tensor x, ink_tensor w, float eps);
void ink_cpu_residual_rmsnorm(const ink_device *d, ink_tensor dst, ink_tensor x, ink_tensor r, ink_tensor w, float eps);
void ink_cpu_rmsnorm_rope(const ink_device *d, ink_tensor qk, ink_tensor wq, ink_tensor wk, ink_tensor cos, ink_tensor sin,
                          int64_t n_heads, float eps);
void ink_cpu_rope_half(const ink_device *d, ink_tensor x, ink_tensor cos, ink_tensor sin, int64_t n_heads);
void ink_cpu_rmsnorm_channels(const ink_device *d, ink_tensor dst, ink_tensor x, ink_tensor gamma, bool silu);
void ink_cpu_silu_mul(const ink_device *d, ink_tensor dst, ink_tensor a, ink_tensor b);

void ink_cpu_upsample2x(const ink_device *d, ink_tensor dst, ink_tensor x, int64_t height, int64_t width);
void ink_cpu_timestep_embed(const ink_device *d, ink_tensor dst, ink_tensor t);
void ink_cpu_unpatchify(const ink_device *d, ink_tensor dst, ink_tensor latents, ink_tensor mean, ink_tensor std, int64_t height,
                        int64_t width, int64_t patch);
void ink_cpu_cfg_combine(const ink_device *d, ink_tensor dst, ink_tensor cond, ink_tensor uncond, float scale);
void ink_cpu_euler_step(const ink_device *d, ink_tensor x, ink_tensor v, float dt);
void ink_cpu_copy(const ink_device *d, ink_tensor dst, ink_tensor x);

static inline const ink_cpu_kernels *ink_cpu_kernels_of(const ink_device *d) { return d->kernels; }

/* What multiplies numbers with weights of that type, if neither is in integers. */
static inline const ink_cpu_product *ink_cpu_numbers(const ink_cpu_kernels *kernels, ink_dtype weights) {
    const ink_cpu_product *better = weights == INK_F32 ? kernels->f32_parts : kernels->bf16;
    return better ? better : kernels->f32;
}

static inline int64_t ink_cpu_min(int64_t a, int64_t b) { return a < b ? a : b; }

static inline int64_t ink_cpu_round_up(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }

/* Calls row_task(context, first, last) over the rows 0..n in chunks of about `work` elements, in parallel. */
void ink_cpu_for_rows(const ink_device *d, int64_t n, int64_t cols, void (*row_task)(void *context, int64_t first, int64_t last),
                      void *context);

#endif
