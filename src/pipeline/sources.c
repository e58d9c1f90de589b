/* sources.c - finding the parts of a model. Files of other programs are known by what they hold, never by their names. */
#define _POSIX_C_SOURCE 200809L
#include "pipeline/sources.h"

#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/memory.h"
#include "model/config_infer.h"
#include "model/family.h"
#include "model/gguf_tokenizer.h"
#include "model/json_tokenizer.h"

static const struct {
    const char *name, *stem, *noun, *option;
} components[INK_N_COMPONENTS] = {
    [INK_TEXT_ENCODER] = {"text_encoder", "model", "text encoder", "--text-encoder (text_encoder_file)"},
    [INK_TRANSFORMER] = {"transformer", "diffusion_pytorch_model", "transformer", "--diffusion-model (transformer_file)"},
    [INK_VAE] = {"vae", "diffusion_pytorch_model", "VAE", "--vae (vae_file)"},
};

static const ink_config_part config_parts[INK_N_COMPONENTS] = {
    [INK_TEXT_ENCODER] = INK_CONFIG_TEXT_ENCODER,
    [INK_TRANSFORMER] = INK_CONFIG_MMDIT,
    [INK_VAE] = INK_CONFIG_VAE,
};

const char *ink_component_name(ink_component component) { return components[component].name; }

const char *ink_component_stem(ink_component component) { return components[component].stem; }

static ink_status fail_memory(const ink_sources *sources, ink_error *error) {
    return ink_fail(error, INK_ERROR_MEMORY, "%s: no memory to open it", sources->dir ? sources->dir : "the model");
}

static bool is_folder(const char *path) {
    struct stat status;
    return path && stat(path, &status) == 0 && S_ISDIR(status.st_mode);
}

/* A kept sentence; takes text over, which may be NULL for want of memory. */
static ink_status add_note(ink_sources *sources, char *text, ink_error *error) {
    char **longer = text ? ink_alloc_array(sources->n_notes + 1, sizeof *longer) : NULL;
    if (!longer) {
        ink_free(text);
        return fail_memory(sources, error);
    }
    if (sources->n_notes) memcpy(longer, sources->notes, sources->n_notes * sizeof *longer);
    longer[sources->n_notes++] = text;
    ink_free(sources->notes);
    sources->notes = longer;
    return INK_OK;
}

/* dir/NAME if such a thing is there; NULL in *path if not. */
static ink_status find_in_dir(const ink_sources *sources, const char *name, char **path, ink_error *error) {
    *path = NULL;
    if (!sources->dir) return INK_OK;
    *path = ink_format("%s/%s", sources->dir, name);
    if (!*path) return fail_memory(sources, error);
    if (access(*path, F_OK) == 0) return INK_OK;
    ink_free(*path);
    *path = NULL;
    return INK_OK;
}

static ink_status exists_in_dir(const ink_sources *sources, const char *name, bool *found, ink_error *error) {
    char *path;
    ink_status status = find_in_dir(sources, name, &path, error);
    *found = path != NULL;
    ink_free(path);
    return status;
}

/* ---- looking into files ---------------------------------------------------------------------------------------------- */

/* A search through a folder for the components that are still wanted. */
typedef struct search {
    ink_sources *sources;
    ink_error *error;
    bool wanted[INK_N_COMPONENTS];
    size_t n_found[INK_N_COMPONENTS];
    int64_t bytes[INK_N_COMPONENTS]; /* of the file that is taken */
    char *other[INK_N_COMPONENTS];   /* the best one that is not */
    size_t n_files;                  /* looked into */
    ink_error refusal;               /* of the first file that was of no use */
} search;

enum { MAX_DEPTH = 3, MAX_FILES = 10000 };

static bool ends_with(const char *text, const char *end) {
    size_t n = strlen(text), n_end = strlen(end);
    return n > n_end && strcmp(text + n - n_end, end) == 0;
}

static ink_status add_candidate(search *look, ink_component component, const char *path, int64_t n_bytes) {
    char **taken = &look->sources->paths[component], **other = &look->other[component];
    char *copy = ink_strdup(path);
    if (!copy) return fail_memory(look->sources, look->error);
    look->n_found[component]++;
    /* The largest is the nearest to the original. Of equals the first by name, as they come. */
    char **place = !*taken || n_bytes > look->bytes[component] ? taken : other;
    if (place == taken) {
        look->bytes[component] = n_bytes;
        ink_free(*other);
        *other = *taken;
    } else {
        ink_free(*other);
    }
    *place = copy;
    return INK_OK;
}

static ink_status look_into(search *look, const char *path) {
    ink_weights *weights;
    ink_error problem;
    ink_status status = ink_weights_open_file(&weights, path, &problem);
    look->n_files++;
    if (status == INK_ERROR_MEMORY) return ink_fail(look->error, status, "%s", problem.message);
    if (status != INK_OK) {
        char *note = ink_format("left out: %s", problem.message);
        return add_note(look->sources, note, look->error);
    }
    int64_t n_bytes = 0;
    for (size_t i = 0; i < ink_weights_count(weights); i++) n_bytes += (int64_t)ink_weights_at(weights, i)->n_bytes;
    bool known = ink_family_check_tensors(weights, &problem) != INK_OK;
    if (known && look->refusal.status == INK_OK) look->refusal = problem;
    for (int i = 0; !known && status == INK_OK && i < INK_N_COMPONENTS; i++) {
        ink_spelling spelling;
        if (look->wanted[i] && ink_spelling_find(&spelling, (ink_component)i, weights))
            status = add_candidate(look, (ink_component)i, path, n_bytes);
    }
    ink_weights_close(&weights);
    return status;
}

static int compare_strings(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

/* The entries of a folder by name, so that a search finds the same everywhere. Released by release_names. */
static ink_status list_names(search *look, const char *folder, char ***names, size_t *n_names) {
    DIR *opened = opendir(folder);
    size_t capacity = 0;
    *names = NULL;
    *n_names = 0;
    if (!opened) return INK_OK; /* nothing that can be taken */
    ink_status status = INK_OK;
    for (const struct dirent *entry = readdir(opened); entry && status == INK_OK && *n_names < MAX_FILES; entry = readdir(opened)) {
        if (entry->d_name[0] == '.') continue;
        char **longer = ink_list_grow(*names, *n_names, sizeof *longer, &capacity);
        if (!longer) status = fail_memory(look->sources, look->error);
        if (!longer) break;
        *names = longer;
        (*names)[*n_names] = ink_strdup(entry->d_name);
        if (!(*names)[*n_names]) status = fail_memory(look->sources, look->error);
        *n_names += status == INK_OK;
    }
    closedir(opened);
    if (*n_names) qsort(*names, *n_names, sizeof **names, compare_strings);
    return status;
}

static void release_names(char **names, size_t n) {
    for (size_t i = 0; i < n; i++) ink_free(names[i]);
    ink_free(names);
}

static ink_status search_folder(search *look, const char *folder, int depth) {
    char **names;
    size_t n_names;
    ink_status status = list_names(look, folder, &names, &n_names);
    for (size_t i = 0; status == INK_OK && i < n_names && look->n_files < MAX_FILES; i++) {
        char *path = ink_format("%s/%s", folder, names[i]);
        if (!path)
            status = fail_memory(look->sources, look->error);
        else if (is_folder(path))
            status = depth < MAX_DEPTH ? search_folder(look, path, depth + 1) : INK_OK;
        else if (ends_with(path, ".safetensors") || ends_with(path, ".gguf"))
            status = look_into(look, path);
        ink_free(path);
    }
    release_names(names, n_names);
    return status;
}

/* What the search found, as notes; or what it did not. */
static ink_status conclude(search *look, ink_component i) {
    ink_sources *sources = look->sources;
    if (look->n_found[i] == 0) {
        if (look->refusal.status != INK_OK) return ink_fail(look->error, look->refusal.status, "%s", look->refusal.message);
        bool component = false, modular = false;
        ink_status status = exists_in_dir(sources, "config.json", &component, look->error);
        if (status == INK_OK) status = exists_in_dir(sources, "modular_model_index.json", &modular, look->error);
        if (status != INK_OK) return status;
        if (look->n_files == 0 || component || modular) return ink_family_explain_folder(sources->dir, look->error);
        return ink_fail(look->error, INK_ERROR_IO, "%s: none of its %zu files holds the %s: name one with %s", sources->dir,
                        look->n_files, components[i].noun, components[i].option);
    }
    sources->is_file[i] = true;
    if (look->n_found[i] == 1) return INK_OK;
    return add_note(sources,
                    ink_format("%zu files hold a %s: %s is taken, the largest; another, such as %s, is chosen with %s",
                               look->n_found[i], components[i].noun, sources->paths[i], look->other[i], components[i].option),
                    look->error);
}

static ink_status search_dir(ink_sources *sources, ink_error *error) {
    search look = {.sources = sources, .error = error};
    bool any = false;
    for (int i = 0; i < INK_N_COMPONENTS; i++) any |= look.wanted[i] = sources->paths[i] == NULL;
    ink_status status = any ? search_folder(&look, sources->dir, 0) : INK_OK;
    for (int i = 0; i < INK_N_COMPONENTS; i++)
        if (status == INK_OK && look.wanted[i]) status = conclude(&look, (ink_component)i);
    for (int i = 0; i < INK_N_COMPONENTS; i++) ink_free(look.other[i]);
    return status;
}

/* ---- finding ------------------------------------------------------------------------------------------------------------ */

/* "models/demo/" and "models/demo" make the same sentences. */
static char *copy_path(const char *path) {
    char *copy = ink_strdup(path);
    for (size_t n = copy ? strlen(copy) : 0; n > 1 && copy[n - 1] == '/'; n--) copy[n - 1] = '\0';
    return copy;
}

static ink_status take_named(ink_sources *sources, ink_component component, const char *path, ink_error *error) {
    struct stat status;
    if (!path) return INK_OK;
    if (stat(path, &status) != 0) return ink_fail(error, INK_ERROR_IO, "%s: cannot be opened: %s", path, strerror(errno));
    sources->is_file[component] = !S_ISDIR(status.st_mode);
    sources->paths[component] = copy_path(path);
    return sources->paths[component] ? INK_OK : fail_memory(sources, error);
}

static ink_status find_in_layout(ink_sources *sources, ink_error *error) {
    for (int i = 0; i < INK_N_COMPONENTS; i++) {
        if (sources->paths[i]) continue;
        sources->paths[i] = ink_format("%s/%s", sources->dir, components[i].name);
        if (!sources->paths[i]) return fail_memory(sources, error);
    }
    return INK_OK;
}

static ink_status find_weights(ink_sources *sources, ink_error *error) {
    bool transformer = false, any = false;
    for (int i = 0; i < INK_N_COMPONENTS; i++) any |= sources->paths[i] != NULL;
    if (!sources->dir && !any) return ink_fail(error, INK_ERROR_ARGUMENT, "no model folder is given");
    if (!sources->dir) {
        for (int i = 0; i < INK_N_COMPONENTS; i++)
            if (!sources->paths[i])
                return ink_fail(error, INK_ERROR_ARGUMENT, "no %s: name one with %s, or a folder that holds it with -m DIR",
                                components[i].noun, components[i].option);
        return INK_OK;
    }
    if (!is_folder(sources->dir)) return ink_family_explain_folder(sources->dir, error);
    ink_status status = exists_in_dir(sources, "model_index.json", &sources->published, error);
    /* mflux writes the published folders without the index; ComfyUI has a folder "vae", but none of this name. */
    if (status == INK_OK) status = exists_in_dir(sources, components[INK_TRANSFORMER].name, &transformer, error);
    if (status != INK_OK) return status;
    return sources->published || transformer ? find_in_layout(sources, error) : search_dir(sources, error);
}

static ink_status find_tokenizer(ink_sources *sources, const char *named, ink_error *error) {
    sources->tokenizer_named = named != NULL;
    if (named) {
        sources->tokenizer = copy_path(named);
        return sources->tokenizer ? INK_OK : fail_memory(sources, error);
    }
    ink_status status = find_in_dir(sources, "tokenizer", &sources->tokenizer, error);
    if (status != INK_OK || sources->tokenizer || !sources->dir) return status;
    bool beside = false;
    status = exists_in_dir(sources, "vocab.json", &beside, error);
    if (status == INK_OK && !beside) status = exists_in_dir(sources, "tokenizer.json", &beside, error);
    if (status == INK_OK && (beside || sources->published)) {
        sources->tokenizer = beside ? ink_strdup(sources->dir) : ink_format("%s/tokenizer", sources->dir);
        if (!sources->tokenizer) return fail_memory(sources, error);
    }
    return status;
}

ink_status ink_sources_find(ink_sources *sources, const char *dir, const ink_model_options *options, ink_error *error) {
    static const ink_model_options none;
    if (!options) options = &none;
    *sources = (ink_sources){0};
    sources->dir = dir ? copy_path(dir) : NULL;
    if (dir && !sources->dir) return fail_memory(sources, error);
    ink_status status = take_named(sources, INK_TEXT_ENCODER, options->text_encoder_file, error);
    if (status == INK_OK) status = take_named(sources, INK_TRANSFORMER, options->transformer_file, error);
    if (status == INK_OK) status = take_named(sources, INK_VAE, options->vae_file, error);
    if (status == INK_OK) status = find_weights(sources, error);
    if (status == INK_OK) status = find_tokenizer(sources, options->tokenizer_dir, error);
    return status;
}

void ink_sources_release(ink_sources *sources) {
    for (int i = 0; i < INK_N_COMPONENTS; i++) ink_free(sources->paths[i]);
    for (size_t i = 0; i < sources->n_notes; i++) ink_free(sources->notes[i]);
    ink_free(sources->notes);
    ink_free(sources->tokenizer);
    ink_free(sources->dir);
    *sources = (ink_sources){0};
}

/* ---- opening ------------------------------------------------------------------------------------------------------------ */

ink_status ink_component_open(ink_weights **weights, const ink_sources *sources, ink_component component, ink_error *error) {
    const char *path = sources->paths[component];
    bool file = sources->is_file[component];
    ink_status status = file ? ink_weights_open_file(weights, path, error)
                             : ink_weights_open(weights, path, components[component].stem, error);
    if (status != INK_OK) return status;
    ink_spelling spelling;
    /* A folder says by its place what it is: there a tensor that is missing shall be named when it is asked for. */
    bool known = ink_spelling_find(&spelling, component, *weights);
    status = known || !file ? ink_family_check_tensors(*weights, error) : ink_family_refuse_tensors(*weights, component, error);
    if (status == INK_OK) status = ink_weights_rename(*weights, ink_spelling_rename, &spelling, error);
    ink_weights_set_channels_last(*weights, spelling.channels_last);
    if (status != INK_OK) ink_weights_close(weights);
    return status;
}

ink_status ink_component_config(const ink_sources *sources, ink_component i, char **path, ink_error *error) {
    *path = NULL;
    if (!sources->is_file[i]) {
        *path = ink_format("%s/config.json", sources->paths[i]);
        if (!*path) return fail_memory(sources, error);
        if (access(*path, F_OK) == 0) return INK_OK;
        ink_free(*path);
    }
    return find_in_dir(sources, ink_config_path(config_parts[i]), path, error);
}

/* Whether nothing but the file itself will do: the published layout has it, and the weights are of that layout. */
static bool must_have(const ink_sources *sources, ink_component i) { return sources->published && !sources->is_file[i]; }

ink_status ink_sources_begin_configs(ink_config *config, const ink_sources *sources, ink_error *error) {
    *config = (ink_config){0};
    config->dir = ink_strdup(sources->dir ? sources->dir : sources->paths[INK_TRANSFORMER]);
    if (!config->dir) return fail_memory(sources, error);
    return sources->published ? ink_config_read(config, INK_CONFIG_INDEX, sources->dir, error) : INK_OK;
}

ink_status ink_sources_read_config(ink_config *config, const ink_sources *sources, ink_component component, bool *known,
                                   ink_error *error) {
    char *path;
    ink_status status = ink_component_config(sources, component, &path, error);
    *known = path != NULL || must_have(sources, component);
    if (status == INK_OK && path)
        status = ink_config_read_file(config, config_parts[component], path, error);
    else if (status == INK_OK && *known)
        status = ink_config_read(config, config_parts[component], sources->dir, error);
    ink_free(path);
    return status;
}

ink_status ink_sources_read_scheduler(ink_config *config, const ink_sources *sources, ink_error *error) {
    bool is_there = sources->published;
    ink_config_set_published(config);
    ink_status status = is_there ? INK_OK : exists_in_dir(sources, ink_config_path(INK_CONFIG_SCHEDULER), &is_there, error);
    return status == INK_OK && is_there ? ink_config_read(config, INK_CONFIG_SCHEDULER, sources->dir, error) : status;
}

ink_status ink_sources_read_defaults(ink_config *config, const ink_sources *sources, ink_error *error) {
    return sources->dir ? ink_config_read(config, INK_CONFIG_DEFAULTS, sources->dir, error) : INK_OK;
}

ink_status ink_sources_read_configs(ink_config *config, const ink_sources *sources, bool known[INK_N_COMPONENTS],
                                    ink_error *error) {
    ink_status status = ink_sources_begin_configs(config, sources, error);
    bool all = true;
    for (int i = 0; status == INK_OK && i < INK_N_COMPONENTS; i++) {
        status = ink_sources_read_config(config, sources, (ink_component)i, &known[i], error);
        all = all && known[i];
    }
    if (status == INK_OK) status = ink_sources_read_scheduler(config, sources, error);
    if (status == INK_OK) status = ink_sources_read_defaults(config, sources, error);
    return status == INK_OK && all ? ink_config_check(config, config->dir, error) : status;
}

ink_status ink_tokenizer_open_folder(ink_tokenizer **tokenizer, const char *folder, ink_error *error) {
    char *vocab = ink_format("%s/vocab.json", folder), *json = ink_format("%s/tokenizer.json", folder);
    ink_status status;
    if (!vocab || !json)
        status = ink_fail(error, INK_ERROR_MEMORY, "%s: no memory to open it", folder);
    else if (access(vocab, F_OK) != 0 && access(json, F_OK) == 0)
        status = ink_json_tokenizer_open(tokenizer, json, error);
    else
        status = ink_tokenizer_open(tokenizer, folder, error);
    ink_free(vocab);
    ink_free(json);
    return status;
}

ink_status ink_sources_open_tokenizer(ink_tokenizer **tokenizer, const ink_sources *sources, const ink_weights *text_encoder,
                                      ink_error *error) {
    const ink_gguf *gguf = text_encoder ? ink_weights_gguf(text_encoder) : NULL;
    /* A file's own tokenizer is the one that its embeddings were made for. */
    if (gguf && ink_gguf_has_tokenizer(gguf) && !sources->tokenizer_named)
        return ink_gguf_tokenizer_open(tokenizer, gguf, ink_weights_origin(text_encoder), error);
    if (sources->tokenizer) return ink_tokenizer_open_folder(tokenizer, sources->tokenizer, error);
    return ink_fail(
        error, INK_ERROR_ARGUMENT,
        "no tokenizer: %s brings none; name a folder with vocab.json and merges.txt, or tokenizer.json, with --tokenizer "
        "(tokenizer_dir)",
        sources->paths[INK_TEXT_ENCODER]);
}
