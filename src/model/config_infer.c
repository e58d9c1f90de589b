/* config_infer.c - dimensions from shapes. Only a first look: that all tensors fit them is for the binding to say. */
#include "model/config_infer.h"

#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/json.h"

/* Sticky, as a json reader: after a failure the others return 1. */
typedef struct shapes {
    const ink_weights *weights;
    ink_error *error;
    ink_status status;
} shapes;

/* The first dimension of the tensor NAME, made as by printf: the outputs of a layer, or the length of a vector. */
INK_PRINTF(2, 3) static int64_t rows_of(shapes *s, const char *format, ...) {
    char name[INK_MAX_TENSOR_NAME];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(name, sizeof name, format, arguments);
    va_end(arguments);
    const ink_tensor_info *info = ink_weights_find(s->weights, name);
    if (s->status != INK_OK) return 1;
    if (info && info->n_dims >= 1 && info->shape[0] >= 1) return info->shape[0];
    s->status = info ? ink_fail(s->error, INK_ERROR_FORMAT, "%s: tensor %s has no shape to learn sizes from",
                                ink_weights_origin(s->weights), name)
                     : ink_fail(s->error, INK_ERROR_FORMAT, "%s: tensor %s is missing", ink_weights_origin(s->weights), name);
    return 1;
}

static bool has(const shapes *s, const char *name) { return ink_weights_find(s->weights, name) != NULL; }

/* How many of the names FORMAT % 0, 1, ... are there, one after the other. */
static int64_t count(const shapes *s, const char *before, const char *after) {
    enum { MOST = 4096 };
    char name[INK_MAX_TENSOR_NAME];
    for (int i = 0; i < MOST; i++) {
        snprintf(name, sizeof name, "%s%d%s", before, i, after);
        if (!has(s, name)) return i;
    }
    return MOST;
}

/* ---- a config in words ------------------------------------------------------------------------------------------------ */

/*
 * The numbers go through the reader of config.json, so that both ways have the same limits, defaults and checks. Takes object
 * over.
 */
static ink_status read_as_config(shapes *s, ink_config *config, ink_config_part part, json_t *object) {
    if (s->status == INK_OK && !object)
        s->status = ink_fail(s->error, INK_ERROR_MEMORY, "%s: no memory to open it", ink_weights_origin(s->weights));
    if (s->status == INK_OK) s->status = ink_config_parse(config, part, object, ink_weights_origin(s->weights), s->error);
    json_decref(object);
    return s->status;
}

/* ---- transformer ------------------------------------------------------------------------------------------------------ */

static ink_status infer_mmdit(shapes *s, ink_config *config) {
    enum { PUBLISHED_HEAD = 128, PATCH = 2 };
    int64_t dim = rows_of(s, "img_in.bias"), head = rows_of(s, "transformer_blocks.0.attn.norm_q.weight");
    int64_t channels = rows_of(s, "proj_out.bias"), joint = rows_of(s, "txt_norm.weight");
    int64_t n_layers = count(s, "transformer_blocks.", ".attn.norm_q.weight");
    if (s->status != INK_OK) return s->status;
    if (dim % head != 0)
        return ink_fail(s->error, INK_ERROR_FORMAT, "%s: %" PRId64 " channels do not divide into heads of %" PRId64,
                        ink_weights_origin(s->weights), dim, head);
    if (head != PUBLISHED_HEAD)
        return ink_fail(s->error, INK_ERROR_UNSUPPORTED,
                        "%s: how heads of %" PRId64
                        " channels divide into the axes of a position is in no tensor: name the folder of "
                        "the model whose transformer/config.json says so (-m DIR)",
                        ink_weights_origin(s->weights), head);
    return read_as_config(s, config, INK_CONFIG_MMDIT,
                          json_pack("{s:i, s:I, s:I, s:I, s:I, s:I, s:I}", "patch_size", PATCH, "in_channels", (json_int_t)channels,
                                    "out_channels", (json_int_t)(channels / (PATCH * PATCH)), "num_layers", (json_int_t)n_layers,
                                    "attention_head_dim", (json_int_t)head, "num_attention_heads", (json_int_t)(dim / head),
                                    "joint_attention_dim", (json_int_t)joint));
}

/* ---- text encoder ----------------------------------------------------------------------------------------------------- */

/* A value of the metadata of llama.cpp, ARCHITECTURE.KEY. */
static bool metadata(const shapes *s, const char *key, double *value) {
    const ink_gguf *gguf = ink_weights_gguf(s->weights);
    ink_gguf_text architecture;
    char name[INK_MAX_TENSOR_NAME];
    if (!gguf || !ink_gguf_string(gguf, "general.architecture", &architecture) || architecture.n_bytes > 40) return false;
    snprintf(name, sizeof name, "%.*s.%s", (int)architecture.n_bytes, architecture.data, key);
    double found;
    if (!ink_gguf_f64(gguf, name, &found) || !isfinite(found)) return false;
    *value = found;
    return true;
}

static ink_status infer_text_encoder(shapes *s, ink_config *config) {
    static const char layer[] = "model.layers.0.";
    double eps = 1e-6, theta = 1000000, n_heads = 0;
    int64_t hidden = rows_of(s, "model.norm.weight"), queries = rows_of(s, "%sself_attn.q_proj.weight", layer);
    int64_t keys = rows_of(s, "%sself_attn.k_proj.weight", layer), mlp = rows_of(s, "%smlp.gate_proj.weight", layer);
    int64_t vocab = rows_of(s, "model.embed_tokens.weight"), n_layers = count(s, "model.layers.", ".mlp.gate_proj.weight");
    if (s->status != INK_OK) return s->status;
    metadata(s, "attention.layer_norm_rms_epsilon", &eps);
    metadata(s, "rope.freq_base", &theta);
    int64_t head = 128;
    if (metadata(s, "attention.head_count", &n_heads) && n_heads >= 1 && n_heads <= (double)queries)
        head = queries / (int64_t)n_heads;
    if (queries % head != 0 || keys % head != 0)
        return ink_fail(s->error, INK_ERROR_UNSUPPORTED,
                        "%s: %" PRId64 " and %" PRId64 " channels of queries and keys do not divide into heads of %" PRId64
                        ", and nothing else says how large they are: name the folder of the model whose "
                        "text_encoder/config.json does (-m DIR)",
                        ink_weights_origin(s->weights), queries, keys, head);
    return read_as_config(s, config, INK_CONFIG_TEXT_ENCODER,
                          json_pack("{s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:f, s:f}", "model_type", "qwen2_5_vl", "vocab_size",
                                    (json_int_t)vocab, "hidden_size", (json_int_t)hidden, "intermediate_size", (json_int_t)mlp,
                                    "num_hidden_layers", (json_int_t)n_layers, "num_attention_heads", (json_int_t)(queries / head),
                                    "num_key_value_heads", (json_int_t)(keys / head), "head_dim", (json_int_t)head, "rms_norm_eps",
                                    eps, "rope_theta", theta));
}

/* ---- VAE -------------------------------------------------------------------------------------------------------------- */

/* Multiples of the last level's width, and which levels double frames too; both from the encoder's end, as in config.json. */
static void read_levels(shapes *s, int64_t n_levels, int64_t base, json_t *mult, json_t *temporal) {
    int failed = 0;
    for (int64_t i = n_levels - 1; i >= 0 && s->status == INK_OK; i--) {
        char name[INK_MAX_TENSOR_NAME];
        int64_t width = rows_of(s, "decoder.up_blocks.%" PRId64 ".resnets.0.conv1.bias", i);
        if (width % base != 0)
            s->status = ink_fail(s->error, INK_ERROR_UNSUPPORTED,
                                 "%s: levels of %" PRId64 " and %" PRId64
                                 " channels are no multiples of one number: name the folder of "
                                 "the model whose vae/config.json tells more (-m DIR)",
                                 ink_weights_origin(s->weights), width, base);
        failed |= json_array_append_new(mult, json_integer(width / base));
        snprintf(name, sizeof name, "decoder.up_blocks.%" PRId64 ".upsamplers.0.time_conv.weight", i);
        if (i < n_levels - 1) failed |= json_array_append_new(temporal, json_boolean(has(s, name)));
    }
    if (s->status == INK_OK && failed)
        s->status = ink_fail(s->error, INK_ERROR_MEMORY, "%s: no memory to open it", ink_weights_origin(s->weights));
}

static ink_status infer_vae(shapes *s, ink_config *config) {
    int64_t n_levels = count(s, "decoder.up_blocks.", ".resnets.0.conv1.weight");
    int64_t n_residuals = count(s, "decoder.up_blocks.0.resnets.", ".conv1.weight");
    int64_t z_dim = rows_of(s, "post_quant_conv.bias"), base = rows_of(s, "decoder.norm_out.gamma");
    int64_t colours = rows_of(s, "decoder.conv_out.bias");
    rows_of(s, "decoder.up_blocks.0.resnets.0.conv1.weight"); /* one level, one block at least */
    if (s->status != INK_OK) return s->status;
    json_t *mult = json_array(), *temporal = json_array();
    read_levels(s, n_levels, base, mult, temporal);
    /* 'o' steals both, also when packing fails. */
    return read_as_config(s, config, INK_CONFIG_VAE,
                          json_pack("{s:I, s:I, s:I, s:I, s:o, s:o}", "base_dim", (json_int_t)base, "z_dim", (json_int_t)z_dim,
                                    "num_res_blocks", (json_int_t)(n_residuals - 1), "input_channels", (json_int_t)colours,
                                    "dim_mult", mult, "temperal_downsample", temporal));
}

ink_status ink_config_infer(ink_config *config, ink_component component, const ink_weights *weights, ink_error *error) {
    shapes s = {.weights = weights, .error = error};
    switch (component) {
    case INK_TEXT_ENCODER: return infer_text_encoder(&s, config);
    case INK_TRANSFORMER: return infer_mmdit(&s, config);
    case INK_VAE: return infer_vae(&s, config);
    case INK_N_COMPONENTS: break;
    }
    return ink_fail(error, INK_ERROR_INTERNAL, "%s: no such component", ink_weights_origin(weights));
}
