/*
 * config.h - what a checkpoint folder says of itself: model_index.json and the config.json of each component.
 *
 * Every dimension of the networks comes from here; nothing is assumed from the published model.
 */
#ifndef INK_MODEL_CONFIG_H
#define INK_MODEL_CONFIG_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

enum { INK_MAX_LEVELS = 8, INK_MAX_LATENT_CHANNELS = 64, INK_MAX_RES_BLOCKS = 16 };

/* What a request may ask for, and a folder's defaults as well. */
enum { INK_MAX_SIDE = 16384, INK_MAX_STEPS = 10000, INK_MAX_GUIDANCE = 1000 };

/* Qwen2.5-VL language tower. Source: transformers, Qwen2_5_VLTextConfig. */
typedef struct ink_text_encoder_config {
    int64_t vocab_size, hidden_size, intermediate_size, n_layers, n_heads, n_kv_heads, head_dim;
    double rms_norm_eps, rope_theta;
} ink_text_encoder_config;

/* Source: diffusers, QwenImageTransformer2DModel. */
typedef struct ink_mmdit_config {
    int64_t patch_size, in_channels, out_channels, n_layers, head_dim, n_heads, joint_dim;
    int64_t dim;          /* n_heads * head_dim */
    int64_t rope_axes[3]; /* sum is head_dim */
} ink_mmdit_config;

/* Source: diffusers, AutoencoderKLQwenImage. */
typedef struct ink_vae_config {
    int64_t base_dim, z_dim, n_levels, dim_mult[INK_MAX_LEVELS], n_res_blocks;
    bool temporal_downsample[INK_MAX_LEVELS]; /* [n_levels - 1] */
    double latents_mean[INK_MAX_LATENT_CHANNELS], latents_std[INK_MAX_LATENT_CHANNELS];
    int64_t scale; /* pixels per latent pixel, a power of two: 2 ^ (n_levels - 1) */
} ink_vae_config;

/* Source: diffusers, FlowMatchEulerDiscreteScheduler. */
typedef struct ink_scheduler_config {
    int64_t n_train_timesteps, base_image_seq_len, max_image_seq_len;
    double shift, base_shift, max_shift;
    double shift_terminal;                        /* 0 when null */
    bool use_dynamic_shifting, exponential_shift; /* exponential or linear time shift */
} ink_scheduler_config;

/* What a request gets when it says nothing: DIR/inkstone.json if there, else what the reference does. */
typedef struct ink_default_config {
    int64_t width, height, steps;
    double guidance;
    char *negative_prompt; /* owned; NULL: none */
} ink_default_config;

typedef struct ink_config {
    char *dir; /* owned */
    ink_text_encoder_config text_encoder;
    ink_mmdit_config mmdit;
    ink_vae_config vae;
    ink_scheduler_config scheduler;
    ink_default_config defaults;
} ink_config;

void ink_config_close(ink_config *config);

/* The files of a checkpoint folder, in the order in which they are to be read. */
typedef enum ink_config_part {
    INK_CONFIG_INDEX = 0,    /* model_index.json: checked, nothing is kept of it */
    INK_CONFIG_TEXT_ENCODER, /* text_encoder/config.json */
    INK_CONFIG_MMDIT,        /* transformer/config.json */
    INK_CONFIG_VAE,          /* vae/config.json */
    INK_CONFIG_SCHEDULER,    /* scheduler/scheduler_config.json */
    INK_CONFIG_DEFAULTS,     /* inkstone.json, which may be absent */
    INK_N_CONFIG_PARTS
} ink_config_part;

/*
 * Reads one file of the folder into a config that is zero or was filled by other parts, without the cross-checks. Release with
 * ink_config_close.
 * Errors: IO (no such folder, no model_index.json), FORMAT (a field missing, of the wrong type or out of range),
 * UNSUPPORTED (another family or another pipeline of this one, named; options this library does not run).
 */
ink_status ink_config_read(ink_config *config, ink_config_part part, const char *dir, ink_error *error);

/* The same for a file that lies elsewhere. */
ink_status ink_config_read_file(ink_config *config, ink_config_part part, const char *path, ink_error *error);

/* "vae/config.json": where a folder has the part. Static storage. */
const char *ink_config_path(ink_config_part part);

/* Scheduler and defaults as published, for files that come without. */
void ink_config_set_published(ink_config *config);

/* ink_config_read_file for JSON in memory; origin names it in sentences. */
ink_status ink_config_parse(ink_config *config, ink_config_part part, const json_t *root, const char *origin, ink_error *error);

/*
 * The sizes that must agree between parts (joint_dim and hidden_size, in_channels and z_dim * patch_size^2), and request defaults
 * with the pixel scale. dir names the folder in sentences. Errors: FORMAT.
 */
ink_status ink_config_check(const ink_config *config, const char *dir, ink_error *error);

#endif
