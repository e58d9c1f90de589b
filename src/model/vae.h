/*
 * vae.h - the decoder of the variational auto-encoder: latents to pixels.
 * Source: diffusers, autoencoder_kl_qwenimage.py. At one frame its causal 3-D convolutions are 2-D ones (see ink_bind_conv).
 */
#ifndef INK_MODEL_VAE_H
#define INK_MODEL_VAE_H

#include "model/config.h"
#include "ops/ops.h"
#include "tensor/binder.h"

typedef struct ink_vae_conv {
    ink_weight w; /* [out, kernel * kernel * in] */
    ink_tensor bias;
    int64_t kernel;
} ink_vae_conv;

typedef struct ink_vae_residual {
    ink_tensor norm1, norm2; /* gamma */
    ink_vae_conv conv1, conv2, shortcut;
    bool has_shortcut; /* when the channels change */
} ink_vae_residual;

typedef struct ink_vae_level {
    int64_t n_residuals;
    ink_vae_residual residuals[INK_MAX_RES_BLOCKS];
    ink_vae_conv upsample; /* every level but the last */
} ink_vae_level;

typedef struct ink_vae_decoder {
    const ink_vae_config *config; /* borrowed */
    ink_vae_conv post_quant, conv_in, conv_out;
    ink_vae_residual mid[2];
    ink_tensor attention_norm;
    ink_vae_conv attention_qkv, attention_proj; /* 1 x 1 */
    ink_vae_level levels[INK_MAX_LEVELS];
    ink_tensor norm_out;
} ink_vae_decoder;

/* Names every tensor of the decoder to the binder, whose status tells how it went. Owns nothing. */
void ink_vae_decoder_bind(ink_vae_decoder *decoder, const ink_vae_config *config, ink_binder *binder);

/* pixels [h * scale * w * scale, 3] in about -1..1, not clamped, of latents [h * w, z_dim], de-normalised. */
void ink_vae_decode(ink_ctx *c, const ink_vae_decoder *decoder, ink_tensor pixels, ink_tensor latents, int64_t height,
                    int64_t width);

#endif
