/* weights.c - the tensors of one component over all of its files. */
#define _POSIX_C_SOURCE 200809L
#include "tensor/weights.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/json.h"
#include "base/memory.h"

struct ink_weights {
    char *folder;
    ink_safetensors *files;
    size_t n_files; /* opened */
    ink_tensor_info *tensors;
    size_t n_tensors;
    char *names; /* the renamed ones, one behind the other */
};

/* ---- opening ----------------------------------------------------------------------------------------------------- */

static ink_status fail_memory(const ink_weights *weights, ink_error *error) {
    return ink_fail(error, INK_ERROR_MEMORY, "%s: no memory for the list of its tensors", weights->folder);
}

static ink_status open_file(ink_weights *weights, const char *name, const char *index_path, ink_error *error) {
    char *path = ink_format("%s/%s", weights->folder, name);
    if (!path) return fail_memory(weights, error);
    ink_status status;
    if (index_path && access(path, F_OK) != 0)
        status = ink_fail(error, INK_ERROR_IO, "%s: the file is missing, %s names it", path, index_path);
    else
        status = ink_safetensors_open(&weights->files[weights->n_files], path, error);
    if (status == INK_OK) weights->n_files++;
    ink_free(path);
    return status;
}

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
        if (!place || !ink_safetensors_find(&weights->files[place - shards], tensor))
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

static ink_status open_files(ink_weights *weights, const char *stem, ink_error *error) {
    char *name = ink_format("%s.safetensors", stem);
    char *path = ink_format("%s/%s.safetensors", weights->folder, stem);
    char *index_path = ink_format("%s/%s.safetensors.index.json", weights->folder, stem);
    ink_status status;
    if (!name || !path || !index_path) {
        status = fail_memory(weights, error);
    } else if (access(index_path, F_OK) == 0) {
        status = open_shards(weights, index_path, error);
    } else if (access(path, F_OK) == 0) {
        weights->files = ink_alloc(sizeof *weights->files);
        status = weights->files ? open_file(weights, name, NULL, error) : fail_memory(weights, error);
    } else {
        struct stat folder;
        if (stat(weights->folder, &folder) != 0 || !S_ISDIR(folder.st_mode))
            status = ink_fail(error, INK_ERROR_IO, "%s: there is no such folder, it should hold %s or %s.index.json",
                              weights->folder, name, name);
        else
            status = ink_fail(error, INK_ERROR_IO, "%s: holds neither %s nor %s.index.json", weights->folder, name, name);
    }
    ink_free(name);
    ink_free(path);
    ink_free(index_path);
    return status;
}

/* The pair old, new of the first prefix that fits, or NULL. */
static const char *const *find_rename(const char *const *rename, const char *name) {
    for (; rename && rename[0]; rename += 2)
        if (strncmp(name, rename[0], strlen(rename[0])) == 0) return rename;
    return NULL;
}

static int compare_names(const void *a, const void *b) {
    return strcmp(((const ink_tensor_info *)a)->name, ((const ink_tensor_info *)b)->name);
}

static size_t renamed_size(const char *name, const char *const *pair) {
    return strlen(name) - strlen(pair[0]) + strlen(pair[1]) + 1;
}

/* Gathers the tensors of all files under their new names. */
static ink_status merge_files(ink_weights *weights, const char *const *rename, ink_error *error) {
    size_t n_tensors = 0, names_size = 0;
    for (size_t f = 0; f < weights->n_files; f++) {
        const ink_safetensors *file = &weights->files[f];
        n_tensors += file->n_tensors;
        for (size_t i = 0; i < file->n_tensors; i++) {
            const char *const *pair = find_rename(rename, file->tensors[i].name);
            if (pair) names_size += renamed_size(file->tensors[i].name, pair);
        }
    }
    weights->tensors = ink_alloc_array(n_tensors, sizeof *weights->tensors);
    weights->names = ink_alloc(names_size);
    if (!weights->tensors || !weights->names) return fail_memory(weights, error);

    char *next_name = weights->names;
    for (size_t f = 0; f < weights->n_files; f++) {
        const ink_safetensors *file = &weights->files[f];
        for (size_t i = 0; i < file->n_tensors; i++) {
            ink_tensor_info *info = &weights->tensors[weights->n_tensors++];
            *info = file->tensors[i];
            const char *const *pair = find_rename(rename, info->name);
            if (!pair) continue;
            size_t size = renamed_size(info->name, pair);
            snprintf(next_name, size, "%s%s", pair[1], info->name + strlen(pair[0]));
            info->name = next_name;
            next_name += size;
        }
    }
    qsort(weights->tensors, weights->n_tensors, sizeof *weights->tensors, compare_names);
    for (size_t i = 1; i < weights->n_tensors; i++)
        if (strcmp(weights->tensors[i - 1].name, weights->tensors[i].name) == 0)
            return ink_fail(error, INK_ERROR_FORMAT, "%s: tensor %s is there twice%s", weights->folder, weights->tensors[i].name,
                            rename ? ", perhaps under an old and a new name" : "");
    return INK_OK;
}

ink_status ink_weights_open(ink_weights **weights, const char *folder, const char *stem, const char *const *rename,
                            ink_error *error) {
    *weights = NULL;
    ink_weights *opened = ink_alloc(sizeof *opened);
    if (opened) opened->folder = ink_strdup(folder);
    if (!opened || !opened->folder) {
        ink_free(opened);
        return ink_fail(error, INK_ERROR_MEMORY, "%s: no memory to open it", folder);
    }
    ink_status status = open_files(opened, stem, error);
    if (status == INK_OK) status = merge_files(opened, rename, error);
    if (status == INK_OK)
        *weights = opened;
    else
        ink_weights_close(&opened);
    return status;
}

void ink_weights_close(ink_weights **weights) {
    ink_weights *closed = *weights;
    if (!closed) return;
    for (size_t i = 0; i < closed->n_files; i++) ink_safetensors_close(&closed->files[i]);
    ink_free(closed->files);
    ink_free(closed->tensors);
    ink_free(closed->names);
    ink_free(closed->folder);
    ink_free(closed);
    *weights = NULL;
}

size_t ink_weights_count(const ink_weights *weights) { return weights->n_tensors; }

const ink_tensor_info *ink_weights_at(const ink_weights *weights, size_t i) { return &weights->tensors[i]; }

size_t ink_weights_n_files(const ink_weights *weights) { return weights->n_files; }

const char *ink_weights_origin(const ink_weights *weights) { return weights->folder; }

const ink_tensor_info *ink_weights_find(const ink_weights *weights, const char *name) {
    const ink_tensor_info key = {.name = name};
    return weights->n_tensors ? bsearch(&key, weights->tensors, weights->n_tensors, sizeof key, compare_names) : NULL;
}
