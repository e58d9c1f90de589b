/* config.c - one reader per file of a checkpoint folder, and what they must agree on. */
#define _POSIX_C_SOURCE 200809L
#include "model/config.h"

#include <string.h>
#include <unistd.h>

#include "base/json.h"
#include "base/memory.h"
#include "model/family.h"

/* Far above any published network, and low enough that products of three of them fit into 63 bits. */
enum { MAX_DIM = 1 << 20, MAX_LAYERS = 1024, MAX_HEADS = 4096, MAX_HEAD_DIM = 4096, MAX_VOCAB = 1 << 24 };

static const char text_encoder_class[] = "Qwen2_5_VLForConditionalGeneration";
static const char mmdit_class[] = "QwenImageTransformer2DModel";
static const char vae_class[] = "AutoencoderKLQwenImage";
static const char scheduler_class[] = "FlowMatchEulerDiscreteScheduler";

/* Refuses another class; a config of one component may leave its class out, as diffusers takes it from the index. */
static void check_class(ink_json_reader *r, const char *expected) {
    const char *name = ink_json_string_or(r, "_class_name", expected);
    if (r->status == INK_OK && strcmp(name, expected) != 0) r->status = ink_family_refuse(r->origin, name, r->error);
}

static void refuse_if_set(ink_json_reader *r, const char *key) {
    if (ink_json_bool_or(r, key, false)) ink_json_fail(r, INK_ERROR_UNSUPPORTED, "\"%s\" is true, which is not supported", key);
}

static void refuse_quantized(ink_json_reader *r) {
    const json_t *quantization = ink_json_object_or_null(r, "quantization_config");
    if (!quantization) return;
    const char *method = json_string_value(json_object_get(quantization, "quant_method"));
    ink_json_fail(r, INK_ERROR_UNSUPPORTED, "the weights are quantized (%.40s), which is not supported yet",
                  method ? method : "quantization_config");
}

static double positive(ink_json_reader *r, const char *key, double fallback) {
    double value = ink_json_number_or(r, key, fallback);
    if (!(value > 0)) ink_json_fail(r, INK_ERROR_FORMAT, "\"%s\" must be greater than 0, found %g", key, value);
    return value;
}

/* ---- model_index.json --------------------------------------------------------------------------------------------- */

/* A component's entry is [library, class]. */
static void check_component(ink_json_reader *r, const char *key, const char *expected, const char *or_expected) {
    if (r->status != INK_OK) return;
    const json_t *entry = json_object_get(r->object, key);
    const char *name = json_string_value(json_array_get(entry, 1));
    char found[INK_JSON_DESCRIPTION];
    if (!name)
        ink_json_fail(r, INK_ERROR_FORMAT, "\"%s\" must be an array of a library and a class such as \"%s\", found %s", key,
                      expected, ink_json_describe(found, entry));
    else if (strcmp(name, expected) != 0 && (!or_expected || strcmp(name, or_expected) != 0))
        r->status = ink_family_refuse(r->origin, name, r->error);
}

static void read_index(ink_config *config, ink_json_reader *r) {
    (void)config;
    const char *name = ink_json_string(r, "_class_name");
    if (name && strcmp(name, "QwenImagePipeline") != 0) r->status = ink_family_refuse(r->origin, name, r->error);
    check_component(r, "text_encoder", text_encoder_class, NULL);
    check_component(r, "tokenizer", "Qwen2Tokenizer", "Qwen2TokenizerFast");
    check_component(r, "transformer", mmdit_class, NULL);
    check_component(r, "vae", vae_class, NULL);
    check_component(r, "scheduler", scheduler_class, NULL);
}

/* ---- text_encoder/config.json --------------------------------------------------------------------------------------- */

static void check_text_encoder_type(ink_json_reader *r) {
    const char *type = ink_json_string(r, "model_type");
    if (!type || strcmp(type, "qwen2_5_vl") == 0) return;
    if (strncmp(type, "qwen3_vl", 8) == 0)
        r->status = ink_family_refuse(r->origin, "Qwen3VLForConditionalGeneration", r->error);
    else
        ink_json_fail(r, INK_ERROR_UNSUPPORTED, "the text encoder is of type %.60s, only qwen2_5_vl is supported", type);
}

static void check_layer_types(ink_json_reader *r) {
    const json_t *types = r->status == INK_OK ? json_object_get(r->object, "layer_types") : NULL;
    for (size_t i = 0; i < json_array_size(types); i++) {
        const char *type = json_string_value(json_array_get(types, i));
        if (!type || strcmp(type, "full_attention") != 0) {
            ink_json_fail(r, INK_ERROR_UNSUPPORTED, "\"layer_types\" holds %.60s, only full_attention is supported",
                          type ? type : "what is no string");
            return;
        }
    }
}

/*
 * Rotary positions: transformers 4 keeps "rope_theta" beside "rope_scaling", transformers 5 keeps both in "rope_parameters". The
 * sections say which axis of a picture's position each pair of a head follows. For text the three positions are one and the same,
 * so the sections are only checked.
 */
static void read_rope(ink_text_encoder_config *c, ink_json_reader *r) {
    const json_t *nested = ink_json_object_or_null(r, "rope_scaling");
    if (!nested) nested = ink_json_object_or_null(r, "rope_parameters");
    double theta = positive(r, "rope_theta", 1000000.0);
    ink_json_reader rope = {.object = nested, .origin = r->origin, .error = r->error, .status = r->status};
    c->rope_theta = nested ? positive(&rope, "rope_theta", theta) : theta;
    if (nested) {
        const char *type = ink_json_string_or(&rope, "rope_type", ink_json_string_or(&rope, "type", "default"));
        if (type && strcmp(type, "default") != 0 && strcmp(type, "mrope") != 0)
            ink_json_fail(&rope, INK_ERROR_UNSUPPORTED,
                          "the rotary embedding is of type %.60s, only default and mrope are supported", type);
    }
    if (nested && ink_json_has(&rope, "mrope_section")) {
        int64_t section[3], sum = 0;
        size_t n = ink_json_ints(&rope, "mrope_section", section, 3);
        for (size_t i = 0; i < n; i++) sum = section[i] < 0 || section[i] > MAX_HEAD_DIM ? INT64_MIN / 4 : sum + section[i];
        if (n != 3 || sum != c->head_dim / 2)
            ink_json_fail(&rope, INK_ERROR_FORMAT, "\"mrope_section\" must be three numbers with the sum %lld, half a head",
                          (long long)(c->head_dim / 2));
    }
    r->status = rope.status;
}

static void read_heads(ink_text_encoder_config *c, ink_json_reader *r) {
    c->n_heads = ink_json_int(r, "num_attention_heads", 1, MAX_HEADS);
    /* null means as many as query heads; an absent key means the default of the class. */
    int64_t n_kv_default = json_object_get(r->object, "num_key_value_heads") ? c->n_heads : 8;
    c->n_kv_heads = ink_json_int_or(r, "num_key_value_heads", n_kv_default, 1, MAX_HEADS);
    c->head_dim = ink_json_int_or(r, "head_dim", c->hidden_size / c->n_heads, 1, MAX_HEAD_DIM);
    if (c->n_heads % c->n_kv_heads != 0)
        ink_json_fail(r, INK_ERROR_FORMAT, "%lld attention heads cannot share %lld key-value heads evenly", (long long)c->n_heads,
                      (long long)c->n_kv_heads);
    /* The reference splits hidden_size into the heads, whatever head_dim says. */
    if (c->head_dim * c->n_heads != c->hidden_size)
        ink_json_fail(r, INK_ERROR_FORMAT, "%lld attention heads of %lld do not make the hidden size %lld", (long long)c->n_heads,
                      (long long)c->head_dim, (long long)c->hidden_size);
    if (c->head_dim % 2 != 0 || c->head_dim > MAX_HEAD_DIM)
        ink_json_fail(r, INK_ERROR_FORMAT, "the attention heads have %lld channels, an even number up to %d is expected",
                      (long long)c->head_dim, MAX_HEAD_DIM);
}

static void read_text_encoder(ink_config *config, ink_json_reader *r) {
    ink_text_encoder_config *c = &config->text_encoder;
    check_text_encoder_type(r);
    refuse_quantized(r);
    /*
     * transformers 5 nests the fields of the language tower; the published file holds them twice, nested and flat. When they are
     * nested, transformers 4 and 5 look at nothing else, so neither does this.
     */
    const json_t *nested = ink_json_object_or_null(r, "text_config");
    const json_t *whole = r->object;
    if (nested) r->object = nested;

    c->vocab_size = ink_json_int(r, "vocab_size", 1, MAX_VOCAB);
    c->hidden_size = ink_json_int(r, "hidden_size", 1, MAX_DIM);
    c->intermediate_size = ink_json_int(r, "intermediate_size", 1, MAX_DIM);
    c->n_layers = ink_json_int(r, "num_hidden_layers", 1, MAX_LAYERS);
    c->rms_norm_eps = positive(r, "rms_norm_eps", 1e-5);
    const char *activation = ink_json_string_or(r, "hidden_act", "silu");
    if (r->status == INK_OK && strcmp(activation, "silu") != 0)
        ink_json_fail(r, INK_ERROR_UNSUPPORTED, "the activation is %.60s, only silu is supported", activation);
    refuse_if_set(r, "use_sliding_window");
    check_layer_types(r);
    if (r->status == INK_OK) read_heads(c, r);
    if (r->status == INK_OK) read_rope(c, r);
    r->object = whole;
}

/* ---- transformer/config.json ---------------------------------------------------------------------------------------- */

static void read_rope_axes(ink_mmdit_config *c, ink_json_reader *r) {
    static const int64_t defaults[3] = {16, 56, 56};
    memcpy(c->rope_axes, defaults, sizeof defaults);
    size_t n = ink_json_has(r, "axes_dims_rope") ? ink_json_ints(r, "axes_dims_rope", c->rope_axes, 3) : 3;
    int64_t sum = 0;
    for (int i = 0; i < 3; i++) {
        if (c->rope_axes[i] < 2 || c->rope_axes[i] > MAX_HEAD_DIM || c->rope_axes[i] % 2 != 0) n = 0;
        sum += n ? c->rope_axes[i] : 0;
    }
    if (n != 3 || sum != c->head_dim)
        ink_json_fail(r, INK_ERROR_FORMAT,
                      "\"axes_dims_rope\" must be three even numbers with the sum %lld, \"attention_head_dim\"",
                      (long long)c->head_dim);
}

static void read_mmdit(ink_config *config, ink_json_reader *r) {
    ink_mmdit_config *c = &config->mmdit;
    check_class(r, mmdit_class);
    refuse_quantized(r);
    refuse_if_set(r, "guidance_embeds");
    refuse_if_set(r, "zero_cond_t");
    refuse_if_set(r, "use_additional_t_cond");
    refuse_if_set(r, "use_layer3d_rope");
    c->patch_size = ink_json_int_or(r, "patch_size", 2, 1, 64);
    c->in_channels = ink_json_int_or(r, "in_channels", 64, 1, MAX_DIM);
    c->out_channels = ink_json_int_or(r, "out_channels", json_object_get(r->object, "out_channels") ? c->in_channels : 16, 1,
                                      MAX_DIM);
    c->n_layers = ink_json_int_or(r, "num_layers", 60, 1, MAX_LAYERS);
    c->head_dim = ink_json_int_or(r, "attention_head_dim", 128, 2, MAX_HEAD_DIM);
    c->n_heads = ink_json_int_or(r, "num_attention_heads", 24, 1, MAX_HEADS);
    c->joint_dim = ink_json_int_or(r, "joint_attention_dim", 3584, 1, MAX_DIM);
    c->dim = c->n_heads * c->head_dim;
    if (r->status != INK_OK) return;
    if (c->dim > MAX_DIM)
        ink_json_fail(r, INK_ERROR_FORMAT, "%lld heads of %lld channels are more than %d channels", (long long)c->n_heads,
                      (long long)c->head_dim, MAX_DIM);
    /* The pipeline of the reference packs 2 x 2 pixels of the latents, whatever the transformer says. */
    if (c->patch_size != 2)
        ink_json_fail(r, INK_ERROR_UNSUPPORTED, "\"patch_size\" is %lld, only 2 is supported", (long long)c->patch_size);
    if (c->out_channels * c->patch_size * c->patch_size != c->in_channels)
        ink_json_fail(r, INK_ERROR_FORMAT, "\"out_channels\" %lld in patches of %lld x %lld do not make \"in_channels\" %lld",
                      (long long)c->out_channels, (long long)c->patch_size, (long long)c->patch_size, (long long)c->in_channels);
    if (r->status == INK_OK) read_rope_axes(c, r);
}

/* ---- vae/config.json ------------------------------------------------------------------------------------------------ */

static void read_levels(ink_vae_config *c, ink_json_reader *r) {
    static const int64_t mult_defaults[4] = {1, 2, 4, 4};
    static const bool temporal_defaults[3] = {false, true, true};
    size_t n_levels = 4, n_temporal = 3;
    memcpy(c->dim_mult, mult_defaults, sizeof mult_defaults);
    memcpy(c->temporal_downsample, temporal_defaults, sizeof temporal_defaults);
    if (ink_json_has(r, "dim_mult")) n_levels = ink_json_ints(r, "dim_mult", c->dim_mult, INK_MAX_LEVELS);
    if (ink_json_has(r, "temperal_downsample"))
        n_temporal = ink_json_bools(r, "temperal_downsample", c->temporal_downsample, INK_MAX_LEVELS);
    if (r->status != INK_OK) return;
    if (n_levels < 1 || n_temporal != n_levels - 1) {
        ink_json_fail(r, INK_ERROR_FORMAT,
                      "\"temperal_downsample\" has %zu items, one fewer than the %zu of \"dim_mult\" are expected", n_temporal,
                      n_levels);
        return;
    }
    for (size_t i = 0; i < n_levels; i++) /* Every level but the first ends in an upsampler that halves its channels. */
        if (c->dim_mult[i] < 1 || c->dim_mult[i] > MAX_DIM || c->base_dim * c->dim_mult[i] > MAX_DIM ||
            (i > 0 && c->base_dim * c->dim_mult[i] < 2)) {
            ink_json_fail(r, INK_ERROR_FORMAT, "\"dim_mult\" makes a level of %lld times %lld channels, 2 to %d are expected",
                          (long long)c->dim_mult[i], (long long)c->base_dim, MAX_DIM);
            return;
        }
    c->n_levels = (int64_t)n_levels;
    c->scale = (int64_t)1 << (n_levels - 1);
}

/* Mean or standard deviation of the latents' channels. */
static void read_statistics(ink_json_reader *r, const char *key, double *values, int64_t z_dim, const double defaults[16]) {
    size_t n = 16;
    memcpy(values, defaults, 16 * sizeof *defaults);
    if (ink_json_has(r, key)) n = ink_json_numbers(r, key, values, INK_MAX_LATENT_CHANNELS);
    if ((int64_t)n != z_dim)
        ink_json_fail(r, INK_ERROR_FORMAT, "\"%s\" has %zu numbers, %lld are expected, one for each latent channel", key, n,
                      (long long)z_dim);
    /* They are used as f32: what vanishes or overflows there must not pass. */
    for (size_t i = 0; r->status == INK_OK && i < n; i++)
        if (values[i] > 1e30 || values[i] < -1e30)
            ink_json_fail(r, INK_ERROR_FORMAT, "\"%s\" item %zu is %g, which is out of range", key, i, values[i]);
}

static void read_vae(ink_config *config, ink_json_reader *r) {
    static const double mean[16] = {-0.7571, -0.7089, -0.9113, 0.1075,  -0.1745, 0.9653,  -0.1517, 1.5508,
                                    0.4134,  -0.0715, 0.5517,  -0.3632, -0.1922, -0.9497, 0.2503,  -0.2921};
    static const double std[16] = {2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743,
                                   3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160};
    ink_vae_config *c = &config->vae;
    double ignored;
    check_class(r, vae_class);
    c->base_dim = ink_json_int_or(r, "base_dim", 96, 1, MAX_DIM);
    c->z_dim = ink_json_int_or(r, "z_dim", 16, 1, MAX_DIM);
    c->n_res_blocks = ink_json_int_or(r, "num_res_blocks", 2, 0, INK_MAX_RES_BLOCKS - 1);
    /* Up to 64 channels have room, but the published VAE with 64 is the next generation's. */
    if (r->status == INK_OK && c->z_dim >= INK_MAX_LATENT_CHANNELS)
        ink_json_fail(r, INK_ERROR_UNSUPPORTED,
                      "\"z_dim\" is %lld, as in Qwen-Image 2.x, which is not supported; Qwen-Image has 16", (long long)c->z_dim);
    int64_t channels = ink_json_int_or(r, "input_channels", 3, 1, MAX_DIM);
    if (channels != 3)
        ink_json_fail(r, INK_ERROR_UNSUPPORTED, "\"input_channels\" is %lld, only pictures of 3 channels are supported",
                      (long long)channels);
    if (ink_json_has(r, "attn_scales") && ink_json_numbers(r, "attn_scales", &ignored, 1) != 0)
        ink_json_fail(r, INK_ERROR_UNSUPPORTED, "\"attn_scales\" is not empty, which is not supported");
    if (r->status == INK_OK) read_levels(c, r);
    if (r->status == INK_OK) read_statistics(r, "latents_mean", c->latents_mean, c->z_dim, mean);
    if (r->status == INK_OK) read_statistics(r, "latents_std", c->latents_std, c->z_dim, std);
    for (int64_t i = 0; r->status == INK_OK && i < c->z_dim; i++)
        if (!(c->latents_std[i] >= 1e-30))
            ink_json_fail(r, INK_ERROR_FORMAT, "\"latents_std\" item %lld must be greater than 0, found %g", (long long)i,
                          c->latents_std[i]);
}

/* ---- scheduler/scheduler_config.json -------------------------------------------------------------------------------- */

static void read_scheduler(ink_config *config, ink_json_reader *r) {
    ink_scheduler_config *c = &config->scheduler;
    check_class(r, scheduler_class);
    refuse_if_set(r, "use_karras_sigmas");
    refuse_if_set(r, "use_exponential_sigmas");
    refuse_if_set(r, "use_beta_sigmas");
    refuse_if_set(r, "invert_sigmas");
    refuse_if_set(r, "stochastic_sampling");
    c->n_train_timesteps = ink_json_int_or(r, "num_train_timesteps", 1000, 1, MAX_DIM);
    c->base_image_seq_len = ink_json_int_or(r, "base_image_seq_len", 256, 0, INT32_MAX);
    c->max_image_seq_len = ink_json_int_or(r, "max_image_seq_len", 4096, 0, INT32_MAX);
    c->shift = positive(r, "shift", 1.0);
    c->base_shift = ink_json_number_or(r, "base_shift", 0.5);
    c->max_shift = ink_json_number_or(r, "max_shift", 1.15);
    c->shift_terminal = ink_json_number_or(r, "shift_terminal", 0.0);
    c->use_dynamic_shifting = ink_json_bool_or(r, "use_dynamic_shifting", false);
    const char *type = ink_json_string_or(r, "time_shift_type", "exponential");
    if (r->status != INK_OK) return;
    c->exponential_shift = strcmp(type, "exponential") == 0;
    if (!c->exponential_shift && strcmp(type, "linear") != 0)
        ink_json_fail(r, INK_ERROR_UNSUPPORTED, "\"time_shift_type\" is %.60s, only exponential and linear are supported", type);
    if (c->use_dynamic_shifting && c->base_image_seq_len == c->max_image_seq_len)
        ink_json_fail(r, INK_ERROR_FORMAT, "\"base_image_seq_len\" and \"max_image_seq_len\" are both %lld, they must differ",
                      (long long)c->base_image_seq_len);
    if (!(c->shift_terminal >= 0 && c->shift_terminal < 1))
        ink_json_fail(r, INK_ERROR_FORMAT, "\"shift_terminal\" must be from 0 to below 1, found %g", c->shift_terminal);
}

/* ---- inkstone.json -------------------------------------------------------------------------------------------------- */

/* What the reference does: pipeline_qwenimage.py, QwenImagePipeline.__call__. */
static const ink_default_config reference_defaults = {.width = 1024, .height = 1024, .steps = 50, .guidance = 4.0};

static void set_defaults(ink_default_config *c) {
    ink_free(c->negative_prompt);
    *c = reference_defaults;
}

static void read_defaults(ink_config *config, ink_json_reader *r) {
    static const char *const known[] = {"width", "height", "steps", "guidance", "negative_prompt"};
    ink_default_config *c = &config->defaults;
    const char *key;
    json_t *value;
    set_defaults(c);
    /* The file is ours alone, so an unknown key is a slip of the pen. */
    json_object_foreach((json_t *)(uintptr_t)r->object, key, value) {
        size_t i = 0;
        while (i < sizeof known / sizeof known[0] && strcmp(key, known[i]) != 0) i++;
        if (i == sizeof known / sizeof known[0])
            ink_json_fail(r, INK_ERROR_FORMAT, "\"%.60s\" is no setting; they are width, height, steps, guidance, negative_prompt",
                          key);
    }
    c->width = ink_json_int_or(r, "width", c->width, 1, 1 << 16);
    c->height = ink_json_int_or(r, "height", c->height, 1, 1 << 16);
    c->steps = ink_json_int_or(r, "steps", c->steps, 1, INK_MAX_STEPS);
    c->guidance = ink_json_number_or(r, "guidance", c->guidance);
    if (!(c->guidance >= 0 && c->guidance <= INK_MAX_GUIDANCE))
        ink_json_fail(r, INK_ERROR_FORMAT, "\"guidance\" must be from 0 to %d, found %g", INK_MAX_GUIDANCE, c->guidance);
    const char *negative = ink_json_string_or(r, "negative_prompt", NULL);
    if (!negative || r->status != INK_OK) return;
    c->negative_prompt = ink_strdup(negative);
    if (!c->negative_prompt) ink_json_fail(r, INK_ERROR_MEMORY, "no memory for \"negative_prompt\"");
}

/* What is published with Qwen-Image; not the defaults of the scheduler's class, which are those of FLUX. */
static const ink_scheduler_config published_scheduler = {
    .n_train_timesteps = 1000,
    .base_image_seq_len = 256,
    .max_image_seq_len = 8192,
    .shift = 1.0,
    .base_shift = 0.5,
    .max_shift = 0.9,
    .shift_terminal = 0.02,
    .use_dynamic_shifting = true,
    .exponential_shift = true,
};

void ink_config_set_published(ink_config *config) {
    config->scheduler = published_scheduler;
    set_defaults(&config->defaults);
}

/* ---- the folder ----------------------------------------------------------------------------------------------------- */

typedef struct part_file {
    const char *path;
    void (*read)(ink_config *config, ink_json_reader *reader);
} part_file;

static const part_file parts[INK_N_CONFIG_PARTS] = {
    [INK_CONFIG_INDEX] = {"model_index.json", read_index},
    [INK_CONFIG_TEXT_ENCODER] = {"text_encoder/config.json", read_text_encoder},
    [INK_CONFIG_MMDIT] = {"transformer/config.json", read_mmdit},
    [INK_CONFIG_VAE] = {"vae/config.json", read_vae},
    [INK_CONFIG_SCHEDULER] = {"scheduler/scheduler_config.json", read_scheduler},
    [INK_CONFIG_DEFAULTS] = {"inkstone.json", read_defaults},
};

ink_status ink_config_parse(ink_config *config, ink_config_part part, const json_t *root, const char *origin, ink_error *error) {
    ink_json_reader reader = {.object = root, .origin = origin, .error = error};
    parts[part].read(config, &reader);
    return reader.status;
}

const char *ink_config_path(ink_config_part part) { return parts[part].path; }

ink_status ink_config_read_file(ink_config *config, ink_config_part part, const char *path, ink_error *error) {
    json_t *root = NULL;
    ink_status status = ink_json_load(&root, path, error);
    if (status == INK_OK) status = ink_config_parse(config, part, root, path, error);
    json_decref(root);
    return status;
}

ink_status ink_config_read(ink_config *config, ink_config_part part, const char *dir, ink_error *error) {
    char *path = ink_format("%s/%s", dir, parts[part].path);
    if (!path) return ink_fail(error, INK_ERROR_MEMORY, "%s: no memory to read %s", dir, parts[part].path);
    ink_status status;
    bool absent = access(path, F_OK) != 0;
    if (absent && part == INK_CONFIG_DEFAULTS) {
        set_defaults(&config->defaults);
        status = INK_OK;
    } else if (absent && part == INK_CONFIG_INDEX) {
        status = ink_family_explain_folder(dir, error);
    } else {
        status = ink_config_read_file(config, part, path, error);
    }
    ink_free(path);
    return status;
}

ink_status ink_config_check(const ink_config *config, const char *dir, ink_error *error) {
    const ink_mmdit_config *mmdit = &config->mmdit;
    int64_t area = mmdit->patch_size * mmdit->patch_size, step = config->vae.scale * mmdit->patch_size;
    if (mmdit->joint_dim != config->text_encoder.hidden_size)
        return ink_fail(error, INK_ERROR_FORMAT,
                        "%s: the transformer expects text states of %lld channels, the text encoder makes %lld", dir,
                        (long long)mmdit->joint_dim, (long long)config->text_encoder.hidden_size);
    if (mmdit->in_channels != config->vae.z_dim * area)
        return ink_fail(error, INK_ERROR_FORMAT,
                        "%s: the transformer has %lld input channels, expected %lld: the VAE's %lld in patches of %lld x %lld", dir,
                        (long long)mmdit->in_channels, (long long)(config->vae.z_dim * area), (long long)config->vae.z_dim,
                        (long long)mmdit->patch_size, (long long)mmdit->patch_size);
    if (config->defaults.width % step != 0 || config->defaults.height % step != 0)
        return ink_fail(error, INK_ERROR_FORMAT,
                        "%s: the default size %lld x %lld must be in multiples of %lld (see inkstone.json)", dir,
                        (long long)config->defaults.width, (long long)config->defaults.height, (long long)step);
    return INK_OK;
}

void ink_config_close(ink_config *config) {
    ink_free(config->defaults.negative_prompt);
    ink_free(config->dir);
    *config = (ink_config){0};
}
