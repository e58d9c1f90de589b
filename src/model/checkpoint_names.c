/* checkpoint_names.c - one table of names for each network, and the few rules to read it. */
#include "model/checkpoint_names.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- tables ------------------------------------------------------------------------------------------------------ */

/*
 * Replaces `from` by `to` where it begins the name or follows a dot; "^" binds it to the beginning, a last "#" stands for a digit,
 * which stays. Rules are applied one after the other, each at most once; what follows `from`, such as "weight", "bias", "scales"
 * or "scale_weight", goes with it.
 */
typedef struct rule {
    const char *from, *to;
} rule;

/* mflux (filipstrand/mflux, qwen_weight_mapping.py). ComfyUI and its GGUF files use the names of diffusers. */
static const rule transformer_rules[] = {
    {"attn.attn_to_out.0.", "attn.to_out.0."}, {"img_mod_linear.", "img_mod.1."},
    {"txt_mod_linear.", "txt_mod.1."},         {"img_ff.mlp_in.", "img_mlp.net.0.proj."},
    {"img_ff.mlp_out.", "img_mlp.net.2."},     {"txt_ff.mlp_in.", "txt_mlp.net.0.proj."},
    {"txt_ff.mlp_out.", "txt_mlp.net.2."},     {NULL, NULL},
};

static const rule text_encoder_rules[] = {
    /* transformers from 4.52 on. */
    {"^model.language_model.", "model."},
    {"^language_model.model.", "model."},
    {"^model.visual.", "visual."},
    /* mflux, as above. */
    {"^encoder.visual.", "visual."},
    {"^encoder.", "model."},
    /* Files that hold nothing but the language tower. */
    {"^layers.", "model.layers."},
    {"^embed_tokens.", "model.embed_tokens."},
    {"^norm.", "model.norm."},
    /* llama.cpp (ggml-org/llama.cpp, gguf-py/gguf/constants.py, MODEL_ARCH.QWEN2VL). */
    {"^token_embd.", "model.embed_tokens."},
    {"^output_norm.", "model.norm."},
    {"^output.", "lm_head."},
    {"^blk.", "model.layers."},
    {"attn_norm.", "input_layernorm."},
    {"attn_q.", "self_attn.q_proj."},
    {"attn_k.", "self_attn.k_proj."},
    {"attn_v.", "self_attn.v_proj."},
    {"attn_output.", "self_attn.o_proj."},
    {"ffn_norm.", "post_attention_layernorm."},
    {"ffn_gate.", "mlp.gate_proj."},
    {"ffn_up.", "mlp.up_proj."},
    {"ffn_down.", "mlp.down_proj."},
    {NULL, NULL},
};

static const rule vae_rules[] = {
    /* Wan's code, which ComfyUI's files follow (Comfy-Org/ComfyUI, comfy/ldm/wan/vae.py); see also convert_layer. */
    {"^conv1.", "quant_conv."},
    {"^conv2.", "post_quant_conv."},
    {"^encoder.conv1.", "encoder.conv_in."},
    {"^encoder.downsamples.", "encoder.down_blocks."},
    {"^encoder.middle.0.", "encoder.mid_block.resnets.0."},
    {"^encoder.middle.1.", "encoder.mid_block.attentions.0."},
    {"^encoder.middle.2.", "encoder.mid_block.resnets.1."},
    {"^encoder.head.0.", "encoder.norm_out."},
    {"^encoder.head.2.", "encoder.conv_out."},
    {"^decoder.conv1.", "decoder.conv_in."},
    {"^decoder.middle.0.", "decoder.mid_block.resnets.0."},
    {"^decoder.middle.1.", "decoder.mid_block.attentions.0."},
    {"^decoder.middle.2.", "decoder.mid_block.resnets.1."},
    {"^decoder.head.0.", "decoder.norm_out."},
    {"^decoder.head.2.", "decoder.conv_out."},
    {"residual.0.", "norm1."},
    {"residual.2.", "conv1."},
    {"residual.3.", "norm2."},
    {"residual.6.", "conv2."},
    {"shortcut.", "conv_shortcut."},
    /* mflux, as above. */
    {"conv3d.", ""},
    {"^decoder.up_block#", "decoder.up_blocks."},
    {"skip_conv.", "conv_shortcut."},
    {"resample_conv.", "resample.1."},
    {"norm.weight", "norm.gamma"},
    {"norm1.weight", "norm1.gamma"},
    {"norm2.weight", "norm2.gamma"},
    {"norm_out.weight", "norm_out.gamma"},
    {NULL, NULL},
};

/*
 * Part of a name that tells the component. It is found at the beginning or behind a dot, and what stands before it is the file's
 * prefix; "^" binds it to the beginning.
 */
typedef struct marker {
    const char *part;
    ink_component component;
} marker;

static const char mflux_vae[] = "decoder.mid_block.resnets.0.conv1.conv3d.";

static const marker markers[] = {
    {"transformer_blocks.0.img_mod.1.", INK_TRANSFORMER},
    {"transformer_blocks.0.img_mod_linear.", INK_TRANSFORMER},
    {"model.language_model.layers.0.mlp.gate_proj.", INK_TEXT_ENCODER},
    {"language_model.model.layers.0.mlp.gate_proj.", INK_TEXT_ENCODER},
    {"model.layers.0.mlp.gate_proj.", INK_TEXT_ENCODER},
    {"encoder.layers.0.mlp.gate_proj.", INK_TEXT_ENCODER},
    {"layers.0.mlp.gate_proj.", INK_TEXT_ENCODER},
    {"^blk.0.ffn_gate.", INK_TEXT_ENCODER}, /* a vision tower has "v.blk.0." */
    {"decoder.mid_block.resnets.0.norm1.gamma", INK_VAE},
    {mflux_vae, INK_VAE},
    {"decoder.middle.0.residual.0.gamma", INK_VAE},
};

/* Ends of names that say nothing to us: how ComfyUI rounds the activations of 8-bit layers, and that there are such layers. */
static const char *const useless[] = {".scale_input", ".input_scale", ".comfy_quant", ".scaled_fp8"};

static const rule *const rules[INK_N_COMPONENTS] = {
    [INK_TEXT_ENCODER] = text_encoder_rules,
    [INK_TRANSFORMER] = transformer_rules,
    [INK_VAE] = vae_rules,
};

/* ---- the spelling of a file ----------------------------------------------------------------------------------------- */

/* Where `text` is in the name, at its beginning or behind a dot; NULL: nowhere. */
static const char *find_part(const char *name, const char *text, size_t n) {
    const char *at = name;
    while (strncmp(at, text, n) != 0) {
        at = strchr(at, '.');
        if (!at) return NULL;
        at++;
    }
    return at;
}

static const char layer_list[] = "decoder.upsamples.";

/* Each level of Wan's list but the last ends with what doubles the picture's sides: the first of these tells the length. */
static int64_t find_level_length(const ink_weights *weights, const char *prefix) {
    long least = 0;
    for (size_t i = 0; i < ink_weights_count(weights); i++) {
        const char *name = ink_weights_at(weights, i)->name;
        if (strncmp(name, prefix, strlen(prefix)) != 0) continue;
        name += strlen(prefix);
        if (strncmp(name, layer_list, sizeof layer_list - 1) != 0) continue;
        char *end;
        long layer = strtol(name + sizeof layer_list - 1, &end, 10);
        if (strcmp(end, ".resample.1.weight") == 0 && layer >= 0 && layer < 1000 && (least == 0 || layer + 1 < least))
            least = layer + 1;
    }
    return least;
}

/* Where a marker is in the name; NULL: nowhere. */
static const char *find_marker(const char *name, const char *part) {
    bool bound = part[0] == '^';
    size_t n = strlen(part) - bound;
    if (bound) return strncmp(name, part + 1, n) == 0 ? name : NULL;
    return find_part(name, part, n);
}

bool ink_spelling_find(ink_spelling *spelling, ink_component component, const ink_weights *weights) {
    *spelling = (ink_spelling){.component = component};
    for (size_t m = 0; m < sizeof markers / sizeof markers[0]; m++) {
        if (markers[m].component != component) continue;
        for (size_t i = 0; i < ink_weights_count(weights); i++) {
            const char *name = ink_weights_at(weights, i)->name, *at = find_marker(name, markers[m].part);
            if (!at || at - name >= (ptrdiff_t)sizeof spelling->prefix) continue;
            memcpy(spelling->prefix, name, (size_t)(at - name));
            spelling->channels_last = markers[m].part == mflux_vae;
            if (component == INK_VAE) spelling->level_length = find_level_length(weights, spelling->prefix);
            return true;
        }
    }
    return false;
}

/* ---- one name ---------------------------------------------------------------------------------------------------------- */

/* Replaces length bytes at `at` of the name by `to`. False: it became too long. */
static bool replace(char name[INK_MAX_TENSOR_NAME], char *at, size_t length, const char *to) {
    size_t n_to = strlen(to), n_rest = strlen(at + length);
    if ((size_t)(at - name) + n_to + n_rest >= INK_MAX_TENSOR_NAME) return false;
    memmove(at + n_to, at + length, n_rest + 1);
    memcpy(at, to, n_to);
    return true;
}

static bool apply(char name[INK_MAX_TENSOR_NAME], const rule *r) {
    bool bound = r->from[0] == '^';
    const char *from = r->from + bound;
    size_t n = strlen(from);
    bool digit = from[n - 1] == '#';
    if (digit) n--;
    char *at = bound ? (strncmp(name, from, n) == 0 ? name : NULL) : (char *)(uintptr_t)find_part(name, from, n);
    if (!at || (digit && !isdigit((unsigned char)at[n]))) return true;
    return replace(name, at, n, r->to);
}

/* Wan's decoder is one list of layers; ours has levels of residual blocks, each but the last with an upsampler. */
static bool convert_layer(char name[INK_MAX_TENSOR_NAME], int64_t level_length) {
    char *end, ours[64];
    if (level_length < 2 || strncmp(name, layer_list, sizeof layer_list - 1) != 0) return true;
    char *digits = name + sizeof layer_list - 1;
    long layer = isdigit((unsigned char)*digits) ? strtol(digits, &end, 10) : -1;
    if (layer < 0 || layer > 100000 || *end != '.') return true;
    int64_t level = layer / level_length, place = layer % level_length;
    if (place == level_length - 1)
        snprintf(ours, sizeof ours, "decoder.up_blocks.%lld.upsamplers.0", (long long)level);
    else
        snprintf(ours, sizeof ours, "decoder.up_blocks.%lld.resnets.%lld", (long long)level, (long long)place);
    return replace(name, name, (size_t)(end - name), ours);
}

static bool is_useless(const char *name) {
    size_t n = strlen(name);
    for (size_t i = 0; i < sizeof useless / sizeof useless[0]; i++) {
        size_t n_end = strlen(useless[i]);
        if (n >= n_end && strcmp(name + n - n_end, useless[i]) == 0) return true;
    }
    return strcmp(name, useless[3] + 1) == 0;
}

ink_renaming ink_spelling_rename(const void *user, char renamed[INK_MAX_TENSOR_NAME], const char *name) {
    const ink_spelling *spelling = user;
    size_t n_prefix = strlen(spelling->prefix);
    if (strncmp(name, spelling->prefix, n_prefix) != 0 || is_useless(name)) return INK_NAME_DROPPED;
    /* Longer than any of ours, before and after: a stranger, to be reported under its own name. */
    if (strlen(name + n_prefix) >= INK_MAX_TENSOR_NAME) return INK_NAME_KEPT;
    snprintf(renamed, INK_MAX_TENSOR_NAME, "%s", name + n_prefix);
    bool fits = spelling->component != INK_VAE || convert_layer(renamed, spelling->level_length);
    for (const rule *r = rules[spelling->component]; fits && r->from; r++) fits = apply(renamed, r);
    return fits && strcmp(renamed, name) != 0 ? INK_NAME_CHANGED : INK_NAME_KEPT;
}
