/* weights.c - the tensors of one component over all of its files. */
#define _POSIX_C_SOURCE 200809L
#include "tensor/weights.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/json.h"
#include "base/memory.h"

/* One of the two is open. */
typedef struct weight_file {
    ink_safetensors safetensors;
    ink_gguf gguf;
    bool is_gguf;
} weight_file;

struct ink_weights {
    char *origin;
    weight_file *files;
    size_t n_files; /* opened */
    ink_tensor_info *tensors;
    size_t n_tensors;
    char *names; /* the renamed ones, one behind the other */
    bool channels_last;
};

/* ---- files -------------------------------------------------------------------------------------------------------- */

static ink_status fail_memory(const ink_weights *weights, ink_error *error) {
    return ink_fail(error, INK_ERROR_MEMORY, "%s: no memory for the list of its tensors", weights->origin);
}

/* Opens a file as what its first bytes say it is, whatever its name. */
static ink_status open_path(ink_weights *weights, const char *path, ink_error *error) {
    weight_file *file = &weights->files[weights->n_files];
    char magic[4] = {0};
    FILE *stream = fopen(path, "rb");
    size_t n_read = stream ? fread(magic, 1, sizeof magic, stream) : 0;
    if (stream) fclose(stream);
    file->is_gguf = n_read == sizeof magic && memcmp(magic, "GGUF", sizeof magic) == 0;
    ink_status status = file->is_gguf ? ink_gguf_open(&file->gguf, path, error)
                                      : ink_safetensors_open(&file->safetensors, path, error);
    if (status == INK_OK) weights->n_files++;
    return status;
}

static void close_file(weight_file *file) {
    if (file->is_gguf)
        ink_gguf_close(&file->gguf);
    else
        ink_safetensors_close(&file->safetensors);
}

static ink_status open_file(ink_weights *weights, const char *name, const char *index_path, ink_error *error) {
    char *path = ink_format("%s/%s", weights->origin, name);
    if (!path) return fail_memory(weights, error);
    ink_status status;
    if (index_path && access(path, F_OK) != 0)
        status = ink_fail(error, INK_ERROR_IO, "%s: the file is missing, %s names it", path, index_path);
    else
        status = open_path(weights, path, error);
    ink_free(path);
    return status;
}

typedef struct tensor_list {
    const ink_tensor_info *tensors;
    size_t n;
} tensor_list;

static tensor_list tensors_of(const weight_file *file) {
    return file->is_gguf ? (tensor_list){file->gguf.tensors, file->gguf.n_tensors}
                         : (tensor_list){file->safetensors.tensors, file->safetensors.n_tensors};
}

static bool holds(const weight_file *file, const char *tensor) {
    return (file->is_gguf ? ink_gguf_find(&file->gguf, tensor) : ink_safetensors_find(&file->safetensors, tensor)) != NULL;
}

/* ---- shards ------------------------------------------------------------------------------------------------------- */

static int compare_strings(const void *a, const void *b) { return strcmp(*(const char *const *)a, *(const char *const *)b); }

/* An index must not lead out of its folder. */
static bool is_plain_name(const char *name) { return *name && !strchr(name, '/') && !strstr(name, ".."); }

/* Fills shards with the different file names of weight_map, sorted. */
static ink_status list_shards(const char **shards, size_t *n_shards, json_t *weight_map, const char *index_path, ink_error *error) {
    char found[INK_JSON_DESCRIPTION];
    const char *tensor;
    json_t *value;
    size_t n = 0, n_unique = 0;
    json_object_foreach(weight_map, tensor, value) {
        const char *shard = json_string_value(value);
        if (!shard || !is_plain_name(shard))
            return ink_fail(error, INK_ERROR_FORMAT, "%s: tensor %s must be in a file of this folder, found %s", index_path, tensor,
                            ink_json_describe(found, value));
        shards[n++] = shard;
    }
    qsort(shards, n, sizeof *shards, compare_strings);
    for (size_t i = 0; i < n; i++)
        if (n_unique == 0 || strcmp(shards[n_unique - 1], shards[i]) != 0) shards[n_unique++] = shards[i];
    *n_shards = n_unique;
    return INK_OK;
}

static ink_status check_index(const ink_weights *weights, const char **shards, json_t *weight_map, const char *index_path,
                              ink_error *error) {
    const char *tensor;
    json_t *value;
    json_object_foreach(weight_map, tensor, value) {
        const char *shard = json_string_value(value);
        const char **place = bsearch(&shard, shards, weights->n_files, sizeof *shards, compare_strings);
        if (!place || !holds(&weights->files[place - shards], tensor))
            return ink_fail(error, INK_ERROR_FORMAT, "%s: tensor %s should be in %s, which does not hold it", index_path, tensor,
                            shard);
    }
    return INK_OK;
}

static ink_status open_shards(ink_weights *weights, const char *index_path, ink_error *error) {
    json_t *root;
    ink_status status = ink_json_load(&root, index_path, error);
    if (status != INK_OK) return status;

    ink_json_reader reader = {.object = root, .origin = index_path, .error = error};
    json_t *weight_map = json_object_get(root, "weight_map");
    if (!ink_json_object_or_null(&reader, "weight_map"))
        ink_json_fail(&reader, INK_ERROR_FORMAT, "\"weight_map\" is missing, it must give the file of every tensor");
    status = reader.status;

    size_t n_shards = 0;
    const char **shards = NULL;
    if (status == INK_OK) {
        shards = ink_alloc_array(json_object_size(weight_map), sizeof *shards);
        status = shards ? list_shards(shards, &n_shards, weight_map, index_path, error) : fail_memory(weights, error);
    }
    if (status == INK_OK) {
        weights->files = ink_alloc_array(n_shards, sizeof *weights->files);
        if (!weights->files) status = fail_memory(weights, error);
    }
    for (size_t i = 0; status == INK_OK && i < n_shards; i++) status = open_file(weights, shards[i], index_path, error);
    if (status == INK_OK) status = check_index(weights, shards, weight_map, index_path, error);
    ink_free(shards);
    json_decref(root);
    return status;
}

/* ---- folders ------------------------------------------------------------------------------------------------------- */

static ink_status open_alone(ink_weights *weights, const char *name, ink_error *error) {
    weights->files = ink_alloc(sizeof *weights->files);
    return weights->files ? open_file(weights, name, NULL, error) : fail_memory(weights, error);
}

static bool ends_with(const char *text, const char *end) {
    size_t n = strlen(text), n_end = strlen(end);
    return n > n_end && strcmp(text + n - n_end, end) == 0;
}

/* The weight files of a folder that does not keep to the published names. */
typedef struct listing {
    char *index;    /* an index, the only one; "" for more than one */
    char *first;    /* of the weight files, by name */
    char *second;   /* another one */
    size_t n_files; /* weight files */
    bool failed;    /* no memory */
} listing;

static void release_listing(listing *found) {
    ink_free(found->index);
    ink_free(found->first);
    ink_free(found->second);
}

static void list_entry(listing *found, const char *name) {
    if (name[0] == '.') return; /* macOS leaves "._name" beside copied files */
    if (ends_with(name, ".safetensors.index.json")) {
        char *copy = ink_strdup(found->index ? "" : name);
        ink_free(found->index);
        found->index = copy;
        found->failed |= !copy;
    }
    if (!ends_with(name, ".safetensors") && !ends_with(name, ".gguf")) return;
    char *copy = ink_strdup(name);
    found->failed |= !copy;
    found->n_files++;
    if (!found->first || (copy && strcmp(copy, found->first) < 0)) {
        char *earlier = found->first;
        found->first = copy;
        copy = earlier;
    }
    ink_free(found->second);
    found->second = copy;
}

static ink_status list_folder(listing *found, const ink_weights *weights, ink_error *error) {
    DIR *folder = opendir(weights->origin);
    if (!folder) return ink_fail(error, INK_ERROR_IO, "%s: the folder cannot be read: %s", weights->origin, strerror(errno));
    for (const struct dirent *entry = readdir(folder); entry; entry = readdir(folder)) list_entry(found, entry->d_name);
    closedir(folder);
    return found->failed ? fail_memory(weights, error) : INK_OK;
}

/* 0.safetensors, 1.safetensors and so on, as mflux names them. */
static ink_status open_numbered(ink_weights *weights, size_t n, ink_error *error) {
    ink_status status = INK_OK;
    weights->files = ink_alloc_array(n, sizeof *weights->files);
    if (!weights->files) return fail_memory(weights, error);
    for (size_t i = 0; status == INK_OK && i < n; i++) {
        char name[40];
        snprintf(name, sizeof name, "%zu.safetensors", i);
        status = open_file(weights, name, NULL, error);
    }
    return status;
}

/* A folder without STEM.safetensors: what else it holds is taken when there is no choice. */
static ink_status open_listed(ink_weights *weights, const char *stem, ink_error *error) {
    listing found = {0};
    ink_status status = list_folder(&found, weights, error);
    if (status != INK_OK) {
        release_listing(&found);
        return status;
    }
    if (found.index && *found.index) {
        char *path = ink_format("%s/%s", weights->origin, found.index);
        status = path ? open_shards(weights, path, error) : fail_memory(weights, error);
        ink_free(path);
    } else if (found.n_files > 0 && strcmp(found.first, "0.safetensors") == 0) {
        status = open_numbered(weights, found.n_files, error);
    } else if (found.n_files == 1) {
        status = open_alone(weights, found.first, error);
    } else if (found.n_files > 1) {
        status = ink_fail(
            error, INK_ERROR_IO,
            "%s: holds neither %s.safetensors nor its index, but %zu other files, such as %s and %s: name the one that is "
            "meant",
            weights->origin, stem, found.n_files, found.first, found.second);
    } else {
        status = ink_fail(error, INK_ERROR_IO, "%s: holds neither %s.safetensors nor %s.safetensors.index.json", weights->origin,
                          stem, stem);
    }
    release_listing(&found);
    return status;
}

static ink_status open_folder(ink_weights *weights, const char *stem, ink_error *error) {
    char *name = ink_format("%s.safetensors", stem);
    char *path = ink_format("%s/%s.safetensors", weights->origin, stem);
    char *index_path = ink_format("%s/%s.safetensors.index.json", weights->origin, stem);
    struct stat folder;
    ink_status status;
    if (!name || !path || !index_path)
        status = fail_memory(weights, error);
    else if (access(index_path, F_OK) == 0)
        status = open_shards(weights, index_path, error);
    else if (access(path, F_OK) == 0)
        status = open_alone(weights, name, error);
    else if (stat(weights->origin, &folder) == 0 && S_ISDIR(folder.st_mode))
        status = open_listed(weights, stem, error);
    else
        status = ink_fail(error, INK_ERROR_IO, "%s: there is no such folder, it should hold %s or %s.index.json", weights->origin,
                          name, name);
    ink_free(name);
    ink_free(path);
    ink_free(index_path);
    return status;
}

/* ---- the list of tensors --------------------------------------------------------------------------------------------- */

static int compare_names(const void *a, const void *b) {
    return strcmp(((const ink_tensor_info *)a)->name, ((const ink_tensor_info *)b)->name);
}

static ink_status sort_tensors(ink_weights *weights, const char *reason, ink_error *error) {
    qsort(weights->tensors, weights->n_tensors, sizeof *weights->tensors, compare_names);
    for (size_t i = 1; i < weights->n_tensors; i++)
        if (strcmp(weights->tensors[i - 1].name, weights->tensors[i].name) == 0)
            return ink_fail(error, INK_ERROR_FORMAT, "%s: tensor %s is there twice%s", weights->origin, weights->tensors[i].name,
                            reason);
    return INK_OK;
}

static ink_status merge_files(ink_weights *weights, ink_error *error) {
    size_t n_tensors = 0;
    for (size_t f = 0; f < weights->n_files; f++) n_tensors += tensors_of(&weights->files[f]).n;
    weights->tensors = ink_alloc_array(n_tensors, sizeof *weights->tensors);
    if (!weights->tensors) return fail_memory(weights, error);
    for (size_t f = 0; f < weights->n_files; f++) {
        tensor_list list = tensors_of(&weights->files[f]);
        if (list.n) memcpy(weights->tensors + weights->n_tensors, list.tensors, list.n * sizeof *list.tensors);
        weights->n_tensors += list.n;
    }
    return sort_tensors(weights, "", error);
}

ink_status ink_weights_rename(ink_weights *weights, ink_rename_fn rename, const void *user, ink_error *error) {
    char name[INK_MAX_TENSOR_NAME];
    size_t names_size = 0, n_kept = 0;
    for (size_t i = 0; i < weights->n_tensors; i++)
        if (rename(user, name, weights->tensors[i].name) == INK_NAME_CHANGED) names_size += strlen(name) + 1;
    char *names = ink_alloc(names_size), *next = names;
    if (!names) return fail_memory(weights, error);
    for (size_t i = 0; i < weights->n_tensors; i++) {
        ink_tensor_info info = weights->tensors[i];
        ink_renaming renaming = rename(user, name, info.name);
        if (renaming == INK_NAME_DROPPED) continue;
        if (renaming == INK_NAME_CHANGED) {
            size_t size = strlen(name) + 1;
            info.name = memcpy(next, name, size);
            next += size;
        }
        weights->tensors[n_kept++] = info;
    }
    weights->n_tensors = n_kept;
    ink_free(weights->names);
    weights->names = names;
    return sort_tensors(weights, ", perhaps under an old and a new name", error);
}

/* ---- opening and closing ----------------------------------------------------------------------------------------------- */

static ink_status make(ink_weights **weights, const char *origin, ink_error *error) {
    *weights = ink_alloc(sizeof **weights);
    if (*weights) (*weights)->origin = ink_strdup(origin);
    if (*weights && (*weights)->origin) return INK_OK;
    ink_free(*weights);
    *weights = NULL;
    return ink_fail(error, INK_ERROR_MEMORY, "%s: no memory to open it", origin);
}

static ink_status finish(ink_weights **weights, ink_status status, ink_error *error) {
    if (status == INK_OK) status = merge_files(*weights, error);
    if (status != INK_OK) ink_weights_close(weights);
    return status;
}

ink_status ink_weights_open(ink_weights **weights, const char *folder, const char *stem, ink_error *error) {
    ink_status status = make(weights, folder, error);
    return status == INK_OK ? finish(weights, open_folder(*weights, stem, error), error) : status;
}

ink_status ink_weights_open_file(ink_weights **weights, const char *path, ink_error *error) {
    ink_status status = make(weights, path, error);
    if (status != INK_OK) return status;
    (*weights)->files = ink_alloc(sizeof *(*weights)->files);
    status = (*weights)->files ? open_path(*weights, path, error) : fail_memory(*weights, error);
    return finish(weights, status, error);
}

void ink_weights_close(ink_weights **weights) {
    ink_weights *closed = *weights;
    if (!closed) return;
    for (size_t i = 0; i < closed->n_files; i++) close_file(&closed->files[i]);
    ink_free(closed->files);
    ink_free(closed->tensors);
    ink_free(closed->names);
    ink_free(closed->origin);
    ink_free(closed);
    *weights = NULL;
}

void ink_weights_set_channels_last(ink_weights *weights, bool channels_last) { weights->channels_last = channels_last; }

bool ink_weights_channels_last(const ink_weights *weights) { return weights->channels_last; }

size_t ink_weights_count(const ink_weights *weights) { return weights->n_tensors; }

const ink_tensor_info *ink_weights_at(const ink_weights *weights, size_t i) { return &weights->tensors[i]; }

size_t ink_weights_n_files(const ink_weights *weights) { return weights->n_files; }

const ink_gguf *ink_weights_gguf(const ink_weights *weights) {
    return weights->n_files > 0 && weights->files[0].is_gguf ? &weights->files[0].gguf : NULL;
}

const char *ink_weights_origin(const ink_weights *weights) { return weights->origin; }

const ink_tensor_info *ink_weights_find(const ink_weights *weights, const char *name) {
    const ink_tensor_info key = {.name = name};
    return weights->n_tensors ? bsearch(&key, weights->tensors, weights->n_tensors, sizeof key, compare_names) : NULL;
}

static const ink_mapfile *mapping_of(const weight_file *file) { return file->is_gguf ? &file->gguf.file : &file->safetensors.file; }

void ink_weights_drop(const ink_weights *weights) {
    for (size_t i = 0; i < weights->n_files; i++) {
        const ink_mapfile *file = mapping_of(&weights->files[i]);
        ink_mapfile_drop(file->data, file->size);
    }
}

const ink_mapfile *ink_weights_file_of(const ink_weights *weights, const void *data) {
    uintptr_t address = (uintptr_t)data;
    for (size_t i = 0; i < weights->n_files; i++) {
        const ink_mapfile *file = mapping_of(&weights->files[i]);
        if (address >= (uintptr_t)file->data && address - (uintptr_t)file->data < file->size) return file;
    }
    return NULL;
}
