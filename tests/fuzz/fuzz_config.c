/*
 * fuzz_config.c - JSON of a config file; the first byte says of which. What is accepted must hold what the models rely on.
 */
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include "base/json.h"
#include "model/config.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Fails loudly, in every kind of build. */
static void require(int holds) {
    if (!holds) abort();
}

static void check_text_encoder(const ink_text_encoder_config *c) {
    require(c->vocab_size > 0 && c->intermediate_size > 0 && c->n_layers > 0 && c->n_kv_heads > 0);
    require(c->n_heads % c->n_kv_heads == 0 && c->n_heads * c->head_dim == c->hidden_size && c->head_dim % 2 == 0);
    require(c->hidden_size > 0 && c->hidden_size <= 1 << 20 && c->vocab_size <= 1 << 24 && c->intermediate_size <= 1 << 20);
    require(c->rms_norm_eps > 0 && c->rope_theta > 0 && isfinite(c->rms_norm_eps) && isfinite(c->rope_theta));
}

static void check_mmdit(const ink_mmdit_config *c) {
    require(c->n_layers > 0 && c->joint_dim > 0 && c->dim == c->n_heads * c->head_dim && c->dim > 0 && c->dim <= 1 << 20);
    require(c->rope_axes[0] + c->rope_axes[1] + c->rope_axes[2] == c->head_dim);
    for (int i = 0; i < 3; i++) require(c->rope_axes[i] > 0 && c->rope_axes[i] % 2 == 0);
    require(c->patch_size == 2 && c->in_channels == 4 * c->out_channels && c->in_channels > 0);
}

static void check_vae(const ink_vae_config *c) {
    require(c->z_dim > 0 && c->z_dim <= INK_MAX_LATENT_CHANNELS && c->n_levels > 0 && c->n_levels <= INK_MAX_LEVELS);
    require(c->scale == (int64_t)1 << (c->n_levels - 1) && c->n_res_blocks >= 0);
    for (int i = 0; i < c->n_levels; i++) require(c->base_dim * c->dim_mult[i] >= (i ? 2 : 1));
    for (int i = 0; i < c->z_dim; i++)
        require(isfinite((float)c->latents_mean[i]) && isfinite((float)c->latents_std[i]) && (float)c->latents_std[i] > 0);
}

static void check_scheduler(const ink_scheduler_config *c) {
    require(c->n_train_timesteps > 0 && c->shift > 0 && c->shift_terminal >= 0 && c->shift_terminal < 1);
    require(!c->use_dynamic_shifting || c->base_image_seq_len != c->max_image_seq_len);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    json_t *root;
    ink_error error;
    if (size == 0) return 0;
    ink_config_part part = (ink_config_part)(data[0] % INK_N_CONFIG_PARTS);
    ink_status status = ink_json_parse(&root, (const char *)data + 1, size - 1, "fuzz", &error);
    if (status != INK_OK) {
        require(error.status == status && error.message[0] && !root);
        return 0;
    }
    ink_config config = {0};
    status = ink_config_parse(&config, part, root, "fuzz", &error);
    json_decref(root);
    if (status != INK_OK)
        require(error.status == status && error.message[0]);
    else if (part == INK_CONFIG_TEXT_ENCODER)
        check_text_encoder(&config.text_encoder);
    else if (part == INK_CONFIG_MMDIT)
        check_mmdit(&config.mmdit);
    else if (part == INK_CONFIG_VAE)
        check_vae(&config.vae);
    else if (part == INK_CONFIG_SCHEDULER)
        check_scheduler(&config.scheduler);
    else if (part == INK_CONFIG_DEFAULTS)
        require(config.defaults.width > 0 && config.defaults.height > 0 && config.defaults.steps > 0);
    /* Of parts that were not read this looks at zeros, which must do no harm either; but not at a VAE without a scale. */
    if (config.vae.scale && config.mmdit.patch_size) ink_config_check(&config, "fuzz", &error);
    ink_config_close(&config);
    return 0;
}
