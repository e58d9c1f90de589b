/* family.c - names of other model families, and guesses at folders without a model_index.json. */
#define _POSIX_C_SOURCE 200809L
#include "model/family.h"

#include <stdbool.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/json.h"
#include "base/memory.h"

typedef struct family {
    const char *prefix; /* of the class name */
    const char *name;
    const char *reason; /* NULL: another family altogether */
} family;

/* The first prefix that fits counts, so longer ones stand first. */
static const family families[] = {
    {"QwenImageEditPlus", "Qwen-Image-Edit-Plus", "editing is not supported yet"},
    {"QwenImageEdit", "Qwen-Image-Edit", "editing is not supported yet"},
    {"QwenImageLayered", "Qwen-Image-Layered", "layered pictures are not supported yet"},
    {"QwenImageControlNet", "Qwen-Image ControlNet", "ControlNets are not supported yet"},
    {"QwenImageImg2Img", "Qwen-Image image-to-image", "only text-to-image is supported yet"},
    {"QwenImageInpaint", "Qwen-Image inpainting", "only text-to-image is supported yet"},
    {"QwenImage2", "Qwen-Image 2.x", NULL},
    {"AutoencoderKLQwenImage2", "Qwen-Image 2.x", NULL},
    {"Qwen3VL", "Qwen-Image 2.x", NULL},
    {"Flux2", "FLUX.2", NULL},
    {"Flux", "FLUX.1", NULL},
    {"ZImage", "Z-Image", NULL},
    {"StableDiffusionXL", "Stable Diffusion XL", NULL},
    {"StableDiffusion3", "Stable Diffusion 3", NULL},
    {"StableDiffusion", "Stable Diffusion", NULL},
    {"HunyuanImage", "HunyuanImage", NULL},
    {"HunyuanVideo", "HunyuanVideo", NULL},
    {"HunyuanDiT", "Hunyuan-DiT", NULL},
    {"PixArt", "PixArt", NULL},
    {"Sana", "Sana", NULL},
    {"Wan", "Wan video", NULL},
    {"Lumina", "Lumina", NULL},
    {"Chroma", "Chroma", NULL},
    {"HiDream", "HiDream", NULL},
    {"AuraFlow", "AuraFlow", NULL},
    {"Kandinsky", "Kandinsky", NULL},
    {"CogView", "CogView", NULL},
    {"OmniGen", "OmniGen", NULL},
};

static const char only[] = "only Qwen-Image text-to-image checkpoints are supported";

ink_status ink_family_refuse(const char *where, const char *class_name, ink_error *error) {
    for (size_t i = 0; i < sizeof families / sizeof families[0]; i++) {
        const family *f = &families[i];
        if (strncmp(class_name, f->prefix, strlen(f->prefix)) == 0)
            return ink_fail(error, INK_ERROR_UNSUPPORTED, "%s: is of a %s checkpoint (%.80s): %s", where, f->name, class_name,
                            f->reason ? f->reason : only);
    }
    return ink_fail(error, INK_ERROR_UNSUPPORTED, "%s: names the class %.80s, which is not supported: %s", where, class_name, only);
}

/* ---- tensors --------------------------------------------------------------------------------------------------------- */

/*
 * Parts of tensor names, and whose they are, after ComfyUI's model_detection.py and the state dicts of diffusers. The first row
 * of which some tensor has the part counts, so what is shared by two families stands behind what tells them apart.
 */
static const struct {
    const char *part, *name, *reason; /* NULL: another family altogether */
} tensor_families[] = {
    {".lora_", "a LoRA", "it goes beside a model, not in the place of one"},
    {"lora_unet_", "a LoRA", "it goes beside a model, not in the place of one"},
    {"controlnet_blocks.", "a ControlNet", "ControlNets are not supported yet"},
    {"__index_timestep_zero__", "Qwen-Image-Edit-2511", "editing is not supported yet"},
    {"addition_t_embedding.", "Qwen-Image-Layered", "layered pictures are not supported yet"},
    {"transformer_blocks.0.attn.img_qkv.", "Lens", NULL},
    {"double_stream_modulation_img.", "FLUX.2", NULL},
    {"txt_in.individual_token_refiner.", "HunyuanVideo", NULL},
    {"distilled_guidance_layer.", "Chroma", NULL},
    {"double_blocks.0.img_attn", "FLUX.1", NULL},
    {"single_transformer_blocks.0.", "FLUX.1", NULL},
    {"joint_blocks.0.", "Stable Diffusion 3", NULL},
    {"transformer_blocks.0.ff_context.", "Stable Diffusion 3", NULL},
    {"cap_pad_token", "Z-Image", NULL},
    {"cap_embedder.0.", "Lumina", NULL},
    {"double_stream_blocks.0.", "HiDream", NULL},
    {"double_layers.0.", "AuraFlow", NULL},
    {"conditioner.embedders.1.", "Stable Diffusion XL", NULL},
    {"label_emb.0.0.", "Stable Diffusion XL", NULL},
    {"add_embedding.linear_1.", "Stable Diffusion XL", NULL},
    {"input_blocks.0.0.", "Stable Diffusion", NULL},
    {"down_blocks.0.resnets.0.time_emb_proj.", "Stable Diffusion", NULL},
    {"blocks.0.cross_attn.norm_k.", "Wan video", NULL},
    {"layers.0.self_attn.q_norm.", "Qwen3, a text encoder of other models", NULL},
    {"v.blk.0.", "the vision tower of a text encoder (mmproj)", "only pictures from text are drawn yet"},
    {"blk.0.attn_q_norm.", "Qwen3, a text encoder of other models", NULL},
    {"block.0.layer.0.SelfAttention.", "T5, a text encoder of other models", NULL},
    {"enc.blk.0.attn_q.", "T5, a text encoder of other models", NULL},
    {"text_model.encoder.layers.0.", "CLIP, a text encoder of other models", NULL},
    {"decoder.mid.block_1.", "the VAE of FLUX or Stable Diffusion", NULL},
    {"decoder.mid_block.resnets.0.norm1.weight", "the VAE of FLUX or Stable Diffusion", NULL},
};

static bool any_holds(const ink_weights *weights, const char *part) {
    for (size_t i = 0; i < ink_weights_count(weights); i++)
        if (strstr(ink_weights_at(weights, i)->name, part)) return true;
    return false;
}

ink_status ink_family_check_tensors(const ink_weights *weights, ink_error *error) {
    ink_spelling vae;
    for (size_t i = 0; i < sizeof tensor_families / sizeof tensor_families[0]; i++) {
        if (!any_holds(weights, tensor_families[i].part)) continue;
        /* mflux's names for our VAE resemble those of another: its own marker decides. */
        if (strstr(tensor_families[i].name, "VAE") && ink_spelling_find(&vae, INK_VAE, weights)) continue;
        return ink_fail(error, INK_ERROR_UNSUPPORTED, "%s: holds %s: %s", ink_weights_origin(weights), tensor_families[i].name,
                        tensor_families[i].reason ? tensor_families[i].reason : only);
    }
    return INK_OK;
}

ink_status ink_family_refuse_tensors(const ink_weights *weights, ink_component expected, ink_error *error) {
    static const char *const nouns[INK_N_COMPONENTS] = {"Qwen2.5-VL text encoder", "Qwen-Image transformer", "Qwen-Image VAE"};
    ink_status status = ink_family_check_tensors(weights, error);
    if (status != INK_OK) return status;
    ink_spelling spelling;
    for (int i = 0; i < INK_N_COMPONENTS; i++)
        if (ink_spelling_find(&spelling, (ink_component)i, weights))
            return ink_fail(error, INK_ERROR_UNSUPPORTED, "%s: holds a %s, a %s is expected here", ink_weights_origin(weights),
                            nouns[i], nouns[expected]);
    return ink_fail(error, INK_ERROR_UNSUPPORTED, "%s: holds no %s: none of its tensors has a name that is known of one",
                    ink_weights_origin(weights), nouns[expected]);
}

/* ---- folders --------------------------------------------------------------------------------------------------------- */

static bool ends_with(const char *text, const char *end) {
    size_t n = strlen(text), n_end = strlen(end);
    return n >= n_end && strcmp(text + n - n_end, end) == 0;
}

static ink_status explain_file(const char *path, ink_error *error) {
    if (ends_with(path, ".safetensors") || ends_with(path, ".gguf"))
        return ink_fail(error, INK_ERROR_IO,
                        "%s: is a single file, not a folder: name it with --diffusion-model (transformer_file), --text-encoder "
                        "(text_encoder_file) or --vae (vae_file)",
                        path);
    bool pickled = ends_with(path, ".ckpt");
    return ink_fail(error, pickled ? INK_ERROR_UNSUPPORTED : INK_ERROR_IO,
                    "%s: is %s; a checkpoint folder with a model_index.json is expected", path,
                    pickled                    ? "a pickled checkpoint"
                    : ends_with(path, ".json") ? "a JSON file"
                                               : "a file");
}

/* The class that dir/config.json names, copied; NULL when there is none. Says nothing about what is wrong with the file. */
static char *component_class(const char *dir) {
    char *path = ink_format("%s/config.json", dir);
    json_t *root = NULL;
    char *name = NULL;
    if (path && ink_json_load(&root, path, NULL) == INK_OK) {
        const json_t *value = json_object_get(root, "_class_name");
        if (!value) value = json_array_get(json_object_get(root, "architectures"), 0);
        if (!value) value = json_object_get(root, "model_type");
        if (json_is_string(value)) name = ink_strdup(json_string_value(value));
    }
    json_decref(root);
    ink_free(path);
    return name;
}

ink_status ink_family_explain_folder(const char *dir, ink_error *error) {
    struct stat status;
    if (stat(dir, &status) != 0) return ink_fail(error, INK_ERROR_IO, "%s: there is no such folder", *dir ? dir : "\"\"");
    if (!S_ISDIR(status.st_mode)) return explain_file(dir, error);

    static const char lacks[] = "has no model_index.json";
    char *class_name = component_class(dir);
    if (class_name) {
        ink_fail(error, INK_ERROR_IO, "%s: %s; its config.json names %.80s, so it is one component: name the folder that holds it",
                 dir, lacks, class_name);
        ink_free(class_name);
        return INK_ERROR_IO;
    }
    char *modular = ink_format("%s/modular_model_index.json", dir);
    bool is_modular = modular && access(modular, F_OK) == 0;
    ink_free(modular);
    if (is_modular)
        return ink_fail(error, INK_ERROR_UNSUPPORTED,
                        "%s: holds a modular pipeline (modular_model_index.json), which is not supported", dir);
    return ink_fail(error, INK_ERROR_IO, "%s: %s, so it is no checkpoint folder", dir, lacks);
}
