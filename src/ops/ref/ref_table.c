/* ref_table.c - the table of tier `ref`. */
#include "ops/ops_tiers.h"
#include "ops/ref/ref_ops.h"

const ink_ops ink_ops_ref = {
    .linear = ink_ref_linear,
    .layernorm_modulate = ink_ref_layernorm_modulate,
    .gated_residual_layernorm_modulate = ink_ref_gated_residual_layernorm_modulate,
    .rmsnorm = ink_ref_rmsnorm,
    .residual_rmsnorm = ink_ref_residual_rmsnorm,
    .rmsnorm_rope = ink_ref_rmsnorm_rope,
    .rope_half = ink_ref_rope_half,
    .attention = ink_ref_attention,
    .silu_mul = ink_ref_silu_mul,
    .conv2d = ink_ref_conv2d,
    .rmsnorm_channels = ink_ref_rmsnorm_channels,
    .upsample2x = ink_ref_upsample2x,
    .timestep_embed = ink_ref_timestep_embed,
    .unpatchify = ink_ref_unpatchify,
    .cfg_combine = ink_ref_cfg_combine,
    .euler_step = ink_ref_euler_step,
    .copy = ink_ref_copy,
};
