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
    ink_bind_finish(b);
    ink_bind_ignore(b, "encoder."); /* pictures are made, not read */
    ink_bind_ignore(b, "quant_conv.");
}

/* ---- bands ------------------------------------------------------------------------------------------------------- */

/*
 * The picture goes through the decoder in bands of rows, from top to bottom, so that memory grows with its width alone. At the size
 * of the latents it is whole, for the attention there is over all pixels; bands begin at the first upsampler.
 *
 * A convolution of 3 x 3 needs a row more than it makes, above and below. So it makes all rows but the last of what has come, and
 * keeps two rows for the next band, which it puts before what comes then. Nothing is computed twice, and each pixel is the same sum
 * as in a picture that is whole. Every convolution in turn falls behind by a row; the first band is larger, so that some rows come
 * out of the last one.
 */
enum { KEPT_ROWS = 2 };

/* Rows first..end of a picture on its way through the decoder. */
typedef struct band {
    ink_tensor x; /* [(end - first) * width, channels] */
    int64_t first, end, height, width;
    int64_t room; /* rows of memory before x */
} band;

/* Of the ends of a band what the next one needs. */
typedef struct kept_residual {
    ink_tensor x, normed1, normed2; /* [KEPT_ROWS * width, channels] */
} kept_residual;

typedef struct kept_level {
    ink_tensor wide;
    kept_residual residuals[INK_MAX_RES_BLOCKS];
} kept_level;

typedef struct kept_rows {
    kept_level levels[INK_MAX_LEVELS]; /* not the first */
    ink_tensor normed_out;
} kept_rows;

/* Of a picture that is whole. */
static const kept_residual nothing_kept = {0};

static void take_kept(ink_ctx *c, kept_rows *kept, const ink_vae_decoder *decoder, int64_t width) {
    for (int64_t i = 1; i < decoder->config->n_levels; i++) {
        const ink_vae_level *level = &decoder->levels[i];
        width *= 2;
        kept->levels[i].wide = ink_scratch_rounded(c, KEPT_ROWS * width, level[-1].residuals[0].norm2.cols);
        for (int64_t j = 0; j < level->n_residuals; j++) {
            const ink_vae_residual *r = &level->residuals[j];
            kept->levels[i].residuals[j] = (kept_residual){ink_scratch(c, KEPT_ROWS * width, r->norm2.cols),
                                                           ink_scratch_rounded(c, KEPT_ROWS * width, r->norm1.cols),
                                                           ink_scratch_rounded(c, KEPT_ROWS * width, r->norm2.cols)};
        }
    }
    kept->normed_out = ink_scratch(c, KEPT_ROWS * width, decoder->norm_out.cols);
}

/* The rows that a convolution can make once those of b have come. Without their memory. */
static band trailing(band b) {
    if (b.first > 0) b.first--;
    if (b.end < b.height) b.end--;
    return b;
}

/* Memory for the rows of b, and before them for `room` rows that were kept, if some were. */
static band in_scratch(ink_ctx *c, band b, int64_t channels, int64_t room, bool rounded) {
    b.room = b.first > 0 ? room : 0;
    int64_t n = (b.room + b.end - b.first) * b.width;
    b.x = rounded ? ink_scratch_rounded(c, n, channels) : ink_scratch(c, n, channels);
    b.x = ink_rows(b.x, b.room * b.width, n - b.room * b.width);
    return b;
}

/* The rows that were kept come before those of b, and its last ones are kept. */
static band joined(ink_ctx *c, band b, ink_tensor kept) {
    if (b.first > 0) {
        b.x = ink_rows(b.x, -kept.rows, b.x.rows + kept.rows);
        b.first -= KEPT_ROWS;
        b.room -= KEPT_ROWS;
        ink_copy(c, ink_rows(b.x, 0, kept.rows), kept);
    }
    if (b.end < b.height) ink_copy(c, kept, ink_rows(b.x, b.x.rows - kept.rows, kept.rows));
    return b;
}

/* ---- forward ----------------------------------------------------------------------------------------------------- */

static ink_linear_epilogue with_bias(const ink_vae_conv *conv) { return (ink_linear_epilogue){.bias = &conv->bias}; }

/* Padded where the picture ends, and not where the band does. */
static void convolve(ink_ctx *c, const ink_vae_conv *conv, ink_tensor dst, band b, const ink_tensor *residual) {
    ink_conv_shape shape = {.height = b.end - b.first, .width = b.width, .kernel = conv->kernel, .stride = 1};
    shape.pad_left = shape.pad_right = conv->kernel / 2;
    shape.pad_above = b.first == 0 ? conv->kernel / 2 : 0;
    shape.pad_below = b.end == b.height ? conv->kernel / 2 : 0;
    ink_conv2d(c, dst, b.x, &conv->w, conv->bias, residual, shape);
}

/* In place, unless the channels change. */
static band residual_block(ink_ctx *c, const ink_vae_residual *r, band p, const kept_residual *kept) {
    band out = p;
    if (r->has_shortcut) {
        out = in_scratch(c, p, r->conv2.w.rows, p.room, false);
        ink_linear(c, out.x, p.x, &r->shortcut.w, with_bias(&r->shortcut));
    }
    size_t mark = ink_arena_mark(c->arena);
    band normed = in_scratch(c, p, p.x.cols, KEPT_ROWS, true);
    band y = in_scratch(c, trailing(p), r->conv1.w.rows, KEPT_ROWS, true);
    ink_rmsnorm_channels(c, normed.x, p.x, r->norm1, true);
    convolve(c, &r->conv1, y.x, joined(c, normed, kept->normed1), NULL);
    ink_rmsnorm_channels(c, y.x, y.x, r->norm2, true);
    out = joined(c, out, kept->x);
    out.end = trailing(y).end;
    out.x.rows = (out.end - out.first) * out.width;
    convolve(c, &r->conv2, out.x, joined(c, y, kept->normed2), &out.x);
    ink_arena_release(c->arena, mark);
    return out;
}

/* In place: one head over all pixels. */
static void attention_block(ink_ctx *c, const ink_vae_decoder *decoder, ink_tensor x) {
    int64_t d = x.cols;
    size_t mark = ink_arena_mark(c->arena);
    ink_tensor y = ink_scratch_rounded(c, x.rows, d), qkv = ink_scratch_rounded(c, x.rows, 3 * d);
    ink_rmsnorm_channels(c, y, x, decoder->attention_norm, false);
    ink_linear(c, qkv, y, &decoder->attention_qkv.w, with_bias(&decoder->attention_qkv));
    ink_attention(c, y, ink_cols(qkv, 0, d), ink_cols(qkv, d, d), ink_cols(qkv, 2 * d, d),
                  (ink_attention_shape){.n_heads = 1, .n_kv_heads = 1, .head_dim = d, .scale = (float)(1.0 / sqrt((double)d))});
    ink_linear(c, x, y, &decoder->attention_proj.w,
               (ink_linear_epilogue){.bias = &decoder->attention_proj.bias, .add_to_dst = true});
    ink_arena_release(c->arena, mark);
}

static band upsample(ink_ctx *c, const ink_vae_conv *conv, band p, int64_t room, ink_tensor kept) {
    band wide = {.first = 2 * p.first, .end = 2 * p.end, .height = 2 * p.height, .width = 2 * p.width};
    band out = in_scratch(c, trailing(wide), conv->w.rows, room, false);
    size_t mark = ink_arena_mark(c->arena);
    wide = in_scratch(c, wide, p.x.cols, KEPT_ROWS, true);
    ink_upsample2x(c, wide.x, p.x, p.end - p.first, p.width);
    convolve(c, conv, out.x, joined(c, wide, kept), NULL);
    ink_arena_release(c->arena, mark);
    return out;
}

/* Fills the rows of pixels that can be made of the band p, which is at the size of the latents. */
static void decode_band(ink_ctx *c, const ink_vae_decoder *decoder, ink_tensor pixels, band p, const kept_rows *kept) {
    size_t mark = ink_arena_mark(c->arena);
    for (int64_t i = 1; i < decoder->config->n_levels; i++) {
        const ink_vae_level *level = &decoder->levels[i];
        /* Each block, and in the end the last convolution, puts rows before. */
        p = upsample(c, &level[-1].upsample, p, (level->n_residuals + 1) * KEPT_ROWS, kept->levels[i].wide);
        for (int64_t j = 0; j < level->n_residuals; j++)
            p = residual_block(c, &level->residuals[j], p, &kept->levels[i].residuals[j]);
    }
    ink_rmsnorm_channels(c, p.x, p.x, decoder->norm_out, true);
    band out = trailing(p);
    out.x = ink_rows(pixels, out.first * out.width, (out.end - out.first) * out.width);
    convolve(c, &decoder->conv_out, out.x, joined(c, p, kept->normed_out), NULL);
    ink_arena_release(c->arena, mark);
}

/* Rows that must come, beyond the first, until one of pixels can be made. */
static int64_t rows_ahead(const ink_vae_decoder *decoder) {
    int64_t rows = 2;
    for (int64_t i = decoder->config->n_levels - 1; i > 0; i--) rows = (rows + 2 * decoder->levels[i].n_residuals + 2) / 2;
    return rows - 1;
}

/* Rows of latents whose pixels are done at a time: of equal bands. */
static int64_t rows_of_band(int64_t most_pixels, int64_t scale, int64_t height, int64_t width) {
    int64_t most = most_pixels > 0 ? most_pixels / (width * scale * scale) : height;
    if (most < 1) most = 1;
    int64_t n_bands = (height + most - 1) / most;
    return (height + n_bands - 1) / n_bands;
}

void ink_vae_decode(ink_ctx *c, const ink_vae_decoder *decoder, ink_tensor pixels, ink_tensor latents, int64_t height,
                    int64_t width) {
    size_t mark = ink_arena_mark(c->arena);
    ink_tensor z = ink_scratch(c, latents.rows, latents.cols);
    band p = {.end = height, .height = height, .width = width};
    p = in_scratch(c, p, decoder->conv_in.w.rows, 0, false);
    ink_linear(c, z, latents, &decoder->post_quant.w, with_bias(&decoder->post_quant));
    convolve(c, &decoder->conv_in, p.x, (band){z, 0, height, height, width, 0}, NULL);
    p = residual_block(c, &decoder->mid[0], p, &nothing_kept);
    attention_block(c, decoder, p.x);
    p = residual_block(c, &decoder->mid[1], p, &nothing_kept);
    for (int64_t j = 0; j < decoder->levels[0].n_residuals; j++)
        p = residual_block(c, &decoder->levels[0].residuals[j], p, &nothing_kept);

    int64_t n = rows_of_band(c->device->decode_pixels, decoder->config->scale, height, width);
    kept_rows kept = {0};
    if (n + rows_ahead(decoder) < height) take_kept(c, &kept, decoder, width);
    for (int64_t first = 0, end; first < height; first = end) {
        end = first + n + (first == 0 ? rows_ahead(decoder) : 0);
        if (end > height) end = height;
        band rows = {ink_rows(p.x, first * width, (end - first) * width), first, end, height, width, first};
        decode_band(c, decoder, pixels, rows, &kept);
    }
    ink_arena_release(c->arena, mark);
}
