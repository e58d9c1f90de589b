/* cpu_table.c - the table of the CPU implementations; tiers differ in their kernels only. */
#include "ops/cpu/cpu_ops.h"
#include "ops/ops_tiers.h"

const ink_ops ink_ops_cpu = {
    .linear = ink_cpu_linear,
    .layernorm_modulate = ink_cpu_layernorm_modulate,
    .gated_residual_layernorm_modulate = ink_cpu_gated_residual_layernorm_modulate,
    .rmsnorm = ink_cpu_rmsnorm,
    .residual_rmsnorm = ink_cpu_residual_rmsnorm,
    .rmsnorm_rope = ink_cpu_rmsnorm_rope,
    .rope_half = ink_cpu_rope_half,
    .attention = ink_cpu_attention,
    .silu_mul = ink_cpu_silu_mul,
    .conv2d = ink_cpu_conv2d,
    .rmsnorm_channels = ink_cpu_rmsnorm_channels,
    .upsample2x = ink_cpu_upsample2x,
    .timestep_embed = ink_cpu_timestep_embed,
    .unpatchify = ink_cpu_unpatchify,
    .cfg_combine = ink_cpu_cfg_combine,
    .euler_step = ink_cpu_euler_step,
    .copy = ink_cpu_copy,
};
