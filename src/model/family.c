/* family.c - names of other model families, and guesses at folders without a model_index.json. */
#define _POSIX_C_SOURCE 200809L
#include "model/family.h"

#include <dirent.h>
#include <stdbool.h>
#include <string.h>
#include <sys/stat.h>

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

static bool ends_with(const char *text, const char *end) {
    size_t n = strlen(text), n_end = strlen(end);
    return n >= n_end && strcmp(text + n - n_end, end) == 0;
}

static ink_status explain_file(const char *path, ink_error *error) {
    const char *kind = ends_with(path, ".gguf")          ? "a GGUF file"
                       : ends_with(path, ".safetensors") ? "a single safetensors file"
                       : ends_with(path, ".ckpt")        ? "a pickled checkpoint"
                       : ends_with(path, ".json")        ? "a JSON file"
                                                         : "a file";
    return ink_fail(error, ends_with(path, ".gguf") || ends_with(path, ".ckpt") ? INK_ERROR_UNSUPPORTED : INK_ERROR_IO,
                    "%s: is %s; a checkpoint folder with a model_index.json is expected", path, kind);
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

typedef struct contents {
    bool gguf, safetensors, modular, diffusion_models;
} contents;

static contents look_into(DIR *folder) {
    contents found = {0};
    for (const struct dirent *entry = readdir(folder); entry; entry = readdir(folder)) {
        found.gguf |= ends_with(entry->d_name, ".gguf");
        found.safetensors |= ends_with(entry->d_name, ".safetensors");
        found.modular |= strcmp(entry->d_name, "modular_model_index.json") == 0;
        found.diffusion_models |= strcmp(entry->d_name, "diffusion_models") == 0 || strcmp(entry->d_name, "split_files") == 0;
    }
    return found;
}

ink_status ink_family_explain_folder(const char *dir, ink_error *error) {
    struct stat status;
    if (stat(dir, &status) != 0) return ink_fail(error, INK_ERROR_IO, "%s: there is no such folder", dir);
    if (!S_ISDIR(status.st_mode)) return explain_file(dir, error);

    static const char lacks[] = "has no model_index.json";
    char *class_name = component_class(dir);
    if (class_name) {
        ink_fail(error, INK_ERROR_IO, "%s: %s; its config.json names %.80s, so it is one component: name the folder that holds it",
                 dir, lacks, class_name);
        ink_free(class_name);
        return INK_ERROR_IO;
    }
    DIR *folder = opendir(dir);
    if (!folder) return ink_fail(error, INK_ERROR_IO, "%s: the folder cannot be read", dir);
    contents found = look_into(folder);
    closedir(folder);
    if (found.modular)
        return ink_fail(error, INK_ERROR_UNSUPPORTED,
                        "%s: holds a modular pipeline (modular_model_index.json), which is not supported", dir);
    if (found.gguf) return ink_fail(error, INK_ERROR_UNSUPPORTED, "%s: %s but GGUF files, which are not supported", dir, lacks);
    if (found.safetensors || found.diffusion_models)
        return ink_fail(error, INK_ERROR_UNSUPPORTED,
                        "%s: %s but safetensors files as other programs (ComfyUI) keep them; the published layout with one "
                        "folder for each component is expected",
                        dir, lacks);
    return ink_fail(error, INK_ERROR_IO, "%s: %s, so it is no checkpoint folder", dir, lacks);
}
