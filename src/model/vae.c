/* vae.c - the decoder, level by level. Pictures are [pixels, channels], so a 1 x 1 convolution is a linear layer. */
#include "model/vae.h"

#include <math.h>

/* ---- weights ----------------------------------------------------------------------------------------------------- */

static void bind_conv(ink_vae_conv *conv, ink_binder *b, int64_t out, int64_t in, int64_t kernel, const char *prefix,
                      const char *name) {
    conv->kernel = kernel;
    ink_bind_conv(b, &conv->w, out, in, kernel, "%s%s.weight", prefix, name);
    ink_bind_vector(b, &conv->bias, out, "%s%s.bias", prefix, name);
}

static void bind_residual(ink_vae_residual *r, ink_binder *b, int64_t in, int64_t out, const char *prefix) {
    ink_bind_vector(b, &r->norm1, in, "%snorm1.gamma", prefix);
    bind_conv(&r->conv1, b, out, in, 3, prefix, "conv1");
    ink_bind_vector(b, &r->norm2, out, "%snorm2.gamma", prefix);
    bind_conv(&r->conv2, b, out, out, 3, prefix, "conv2");
    r->has_shortcut = in != out;
    if (r->has_shortcut) bind_conv(&r->shortcut, b, out, in, 1, prefix, "conv_shortcut");
}

static void bind_level(ink_vae_level *level, ink_binder *b, const ink_vae_config *config, int i, int64_t in, int64_t out) {
    char prefix[64];
    level->n_residuals = config->n_res_blocks + 1;
    for (int j = 0; j < level->n_residuals; j++) {
        snprintf(prefix, sizeof prefix, "decoder.up_blocks.%d.resnets.%d.", i, j);
        bind_residual(&level->residuals[j], b, j == 0 ? in : out, out, prefix);
    }
    if (i == config->n_levels - 1) return;
    snprintf(prefix, sizeof prefix, "decoder.up_blocks.%d.upsamplers.0.", i);
    bind_conv(&level->upsample, b, out / 2, out, 3, prefix, "resample.1");
    snprintf(prefix, sizeof prefix, "decoder.up_blocks.%d.upsamplers.0.time_conv.", i);
    ink_bind_ignore(b, prefix); /* doubles frames; a single one skips it */
}

void ink_vae_decoder_bind(ink_vae_decoder *decoder, const ink_vae_config *config, ink_binder *b) {
    *decoder = (ink_vae_decoder){.config = config};
    int64_t top = config->base_dim * config->dim_mult[config->n_levels - 1];
    bind_conv(&decoder->post_quant, b, config->z_dim, config->z_dim, 1, "", "post_quant_conv");
    bind_conv(&decoder->conv_in, b, top, config->z_dim, 3, "decoder.", "conv_in");
    bind_residual(&decoder->mid[0], b, top, top, "decoder.mid_block.resnets.0.");
    ink_bind_vector(b, &decoder->attention_norm, top, "decoder.mid_block.attentions.0.norm.gamma");
    bind_conv(&decoder->attention_qkv, b, 3 * top, top, 1, "decoder.mid_block.attentions.0.", "to_qkv");
    bind_conv(&decoder->attention_proj, b, top, top, 1, "decoder.mid_block.attentions.0.", "proj");
    bind_residual(&decoder->mid[1], b, top, top, "decoder.mid_block.resnets.1.");
    int64_t in = top;
    for (int i = 0; i < config->n_levels; i++) {
        int64_t out = config->base_dim * config->dim_mult[config->n_levels - 1 - i];
        bind_level(&decoder->levels[i], b, config, i, in, out);
        in = out / 2; /* the upsampler halves the channels */
    }
    ink_bind_vector(b, &decoder->norm_out, config->base_dim * config->dim_mult[0], "decoder.norm_out.gamma");
    bind_conv(&decoder->conv_out, b, 3, config->base_dim * config->dim_mult[0], 3, "decoder.", "conv_out");
    ink_bind_ignore(b, "encoder."); /* pictures are made, not read */
    ink_bind_ignore(b, "quant_conv.");
}

/* ---- forward ----------------------------------------------------------------------------------------------------- */

/* A picture on its way through the decoder. */
typedef struct picture {
    ink_tensor x; /* [height * width, channels] */
    int64_t height, width;
} picture;

static ink_linear_epilogue with_bias(const ink_vae_conv *conv) { return (ink_linear_epilogue){.bias = &conv->bias}; }

static void convolve(ink_ctx *c, const ink_vae_conv *conv, ink_tensor dst, ink_tensor x, const ink_tensor *residual, int64_t height,
                     int64_t width) {
    ink_conv_shape shape = {.height = height, .width = width, .kernel = conv->kernel, .stride = 1};
    shape.pad_above = shape.pad_below = shape.pad_left = shape.pad_right = conv->kernel / 2;
    ink_conv2d(c, dst, x, &conv->w, conv->bias, residual, shape);
}

/* In place, unless the channels change. */
static picture residual_block(ink_ctx *c, const ink_vae_residual *r, picture p) {
    picture out = p;
    if (r->has_shortcut) {
        out.x = ink_scratch(c, p.x.rows, r->conv2.w.rows);
        ink_linear(c, out.x, p.x, &r->shortcut.w, with_bias(&r->shortcut));
    }
    size_t mark = ink_arena_mark(c->arena);
    ink_tensor normed = ink_scratch_rounded(c, p.x.rows, p.x.cols), y = ink_scratch_rounded(c, p.x.rows, r->conv1.w.rows);
    ink_rmsnorm_channels(c, normed, p.x, r->norm1, true);
    convolve(c, &r->conv1, y, normed, NULL, p.height, p.width);
    ink_rmsnorm_channels(c, y, y, r->norm2, true);
    convolve(c, &r->conv2, out.x, y, &out.x, p.height, p.width);
    ink_arena_release(c->arena, mark);
    return out;
}

/* In place: one head over all pixels. */
static void attention_block(ink_ctx *c, const ink_vae_decoder *decoder, picture p) {
    int64_t d = p.x.cols;
    size_t mark = ink_arena_mark(c->arena);
    ink_tensor y = ink_scratch_rounded(c, p.x.rows, d), qkv = ink_scratch_rounded(c, p.x.rows, 3 * d);
    ink_rmsnorm_channels(c, y, p.x, decoder->attention_norm, false);
    ink_linear(c, qkv, y, &decoder->attention_qkv.w, with_bias(&decoder->attention_qkv));
    ink_attention(c, y, ink_cols(qkv, 0, d), ink_cols(qkv, d, d), ink_cols(qkv, 2 * d, d),
                  (ink_attention_shape){.n_heads = 1, .n_kv_heads = 1, .head_dim = d, .scale = (float)(1.0 / sqrt((double)d))});
    ink_linear(c, p.x, y, &decoder->attention_proj.w,
               (ink_linear_epilogue){.bias = &decoder->attention_proj.bias, .add_to_dst = true});
    ink_arena_release(c->arena, mark);
}

static picture upsample(ink_ctx *c, const ink_vae_conv *conv, picture p) {
    picture out = {ink_scratch(c, 4 * p.x.rows, conv->w.rows), 2 * p.height, 2 * p.width};
    size_t mark = ink_arena_mark(c->arena);
    ink_tensor wide = ink_scratch_rounded(c, 4 * p.x.rows, p.x.cols);
    ink_upsample2x(c, wide, p.x, p.height, p.width);
    convolve(c, conv, out.x, wide, NULL, out.height, out.width);
    ink_arena_release(c->arena, mark);
    return out;
}

void ink_vae_decode(ink_ctx *c, const ink_vae_decoder *decoder, ink_tensor pixels, ink_tensor latents, int64_t height,
                    int64_t width) {
    size_t mark = ink_arena_mark(c->arena);
    ink_tensor z = ink_scratch(c, latents.rows, latents.cols);
    picture p = {ink_scratch(c, latents.rows, decoder->conv_in.w.rows), height, width};
    ink_linear(c, z, latents, &decoder->post_quant.w, with_bias(&decoder->post_quant));
    convolve(c, &decoder->conv_in, p.x, z, NULL, height, width);
    p = residual_block(c, &decoder->mid[0], p);
    attention_block(c, decoder, p);
    p = residual_block(c, &decoder->mid[1], p);
    for (int64_t i = 0; i < decoder->config->n_levels; i++) {
        const ink_vae_level *level = &decoder->levels[i];
        for (int64_t j = 0; j < level->n_residuals; j++) p = residual_block(c, &level->residuals[j], p);
        if (i < decoder->config->n_levels - 1) p = upsample(c, &level->upsample, p);
    }
    ink_rmsnorm_channels(c, p.x, p.x, decoder->norm_out, true);
    convolve(c, &decoder->conv_out, pixels, p.x, NULL, p.height, p.width);
    ink_arena_release(c->arena, mark);
}
