/* weights.c - the tensors of one component over all of its files, and binding them to the shapes that a model expects. */
#define _POSIX_C_SOURCE 200809L
#include "tensor/weights.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/json.h"
#include "base/mapfile.h"
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

/* ---- store ------------------------------------------------------------------------------------------------------- */

/* A pointer list that has room for one more; NULL, and the old one untouched, without memory. */
static void **grow(void **list, size_t n, size_t *capacity) {
    if (n < *capacity) return list;
    size_t larger = *capacity ? 2 * *capacity : 64;
    void **copy = ink_alloc_array(larger, sizeof *copy);
    if (!copy) return NULL;
    if (n) memcpy(copy, list, n * sizeof *copy);
    ink_free(list);
    *capacity = larger;
    return copy;
}

static void *store_take(ink_store *store, size_t size) {
    void **blocks = grow(store->blocks, store->n_blocks, &store->capacity);
    if (!blocks) return NULL;
    store->blocks = blocks;
    void *block = ink_alloc(size);
    if (!block) return NULL;
    store->blocks[store->n_blocks++] = block;
    store->bytes += (int64_t)size;
    return block;
}

void ink_store_release(ink_store *store) {
    for (size_t i = 0; i < store->n_blocks; i++) ink_free(store->blocks[i]);
    ink_free(store->blocks);
    *store = (ink_store){0};
}

/* ---- binding ----------------------------------------------------------------------------------------------------- */

enum { MAX_NAME = 256, MAX_SHAPE_TEXT = 22 * INK_MAX_DIMS + 3 };

static const char *shape_text(char text[MAX_SHAPE_TEXT], const ink_tensor_info *info) {
    size_t n = (size_t)snprintf(text, MAX_SHAPE_TEXT, "[");
    for (int i = 0; i < info->n_dims; i++)
        n += (size_t)snprintf(text + n, MAX_SHAPE_TEXT - n, "%s%lld", i ? ", " : "", (long long)info->shape[i]);
    snprintf(text + n, MAX_SHAPE_TEXT - n, "]");
    return text;
}

static void collect_missing(ink_binder *binder, const char *name) {
    char *copy = ink_strdup(name);
    void **missing = copy ? grow((void **)binder->missing, binder->n_missing, &binder->missing_capacity) : NULL;
    if (!missing) {
        ink_free(copy);
        binder->status = ink_fail(binder->error, INK_ERROR_MEMORY, "%s: no memory for the list of missing tensors",
                                  binder->weights->folder);
        return;
    }
    binder->missing = (char **)missing;
    binder->missing[binder->n_missing++] = copy;
}

static const ink_tensor_info *find(const ink_weights *weights, const char *name) {
    const ink_tensor_info key = {.name = name};
    return weights->n_tensors ? bsearch(&key, weights->tensors, weights->n_tensors, sizeof key, compare_names) : NULL;
}

/* The tensor of that name, known to have a type that can be read; NULL when the caller has nothing more to do. */
INK_PRINTF(2, 0)
static const ink_tensor_info *look_up(ink_binder *binder, const char *format, va_list arguments) {
    const ink_weights *weights = binder->weights;
    char name[MAX_NAME];
    if (binder->status != INK_OK) return NULL;
    if (vsnprintf(name, sizeof name, format, arguments) >= (int)sizeof name) {
        binder->status = ink_fail(binder->error, INK_ERROR_INTERNAL, "%s: the tensor name %s is too long", weights->folder, name);
        return NULL;
    }
    const ink_tensor_info *info = find(weights, name);
    if (!info && binder->mode == INK_BIND_REPORT) {
        collect_missing(binder, name);
    } else if (!info) {
        binder->status = ink_fail(binder->error, INK_ERROR_FORMAT, "%s: tensor %s is missing", weights->folder, name);
    } else if (info->dtype == INK_OTHER_DTYPE) {
        binder->status = ink_fail(binder->error, INK_ERROR_UNSUPPORTED,
                                  "%s: tensor %s is stored as %s, only F32, BF16 and F16 are supported", weights->folder, name,
                                  info->dtype_name);
        return NULL;
    }
    if (info && binder->used) binder->used[info - weights->tensors] = true;
    return info;
}

static void fail_shape(ink_binder *binder, const ink_tensor_info *info, const char *expected) {
    char found[MAX_SHAPE_TEXT];
    binder->status = ink_fail(binder->error, INK_ERROR_FORMAT, "%s: tensor %s has shape %s, expected %s", binder->weights->folder,
                              info->name, shape_text(found, info), expected);
}

/* True when the dimensions from `first` on are all 1. */
static bool only_ones(const ink_tensor_info *info, int first) {
    for (int i = first; i < info->n_dims; i++)
        if (info->shape[i] != 1) return false;
    return true;
}

/* Counts n elements of that type as held by the store and, when loading, takes them. NULL when there is nothing to fill. */
static void *take(ink_binder *binder, const ink_tensor_info *info, ink_dtype dtype, int64_t n) {
    int64_t size;
    void *block = NULL;
    bool fits = ink_mul_fits(n, (int64_t)ink_dtype_size(dtype), &size);
    if (fits) binder->stored_bytes += size;
    if (binder->stored_bytes > binder->peak_bytes) binder->peak_bytes = binder->stored_bytes;
    if (fits && binder->mode != INK_BIND_LOAD) return NULL;
    if (fits) block = store_take(binder->store, (size_t)size);
    if (!block)
        binder->status = ink_fail(binder->error, INK_ERROR_MEMORY, "%s: no memory for tensor %s, %lld elements",
                                  binder->weights->folder, info->name, (long long)n);
    return block;
}

/* All elements in the given type: in the mapping if they are there, else converted. NULL unless loading. */
static const void *bind_elements(ink_binder *binder, const ink_tensor_info *info, ink_dtype dtype) {
    /* The files align their data to nothing in particular, and ops read whole elements. */
    if (info->dtype == dtype && (uintptr_t)info->data % ink_dtype_size(dtype) == 0) {
        binder->mapped_bytes += (int64_t)info->n_bytes;
        return info->data;
    }
    void *block = take(binder, info, dtype, info->n_elements);
    if (!block) return NULL;
    ink_convert(block, dtype, info->data, info->dtype, info->n_elements);
    ink_mapfile_drop(info->data, info->n_bytes);
    return block;
}

static void report_loaded(ink_binder *binder) {
    if (binder->status == INK_OK && binder->mode == INK_BIND_LOAD && binder->loaded)
        binder->status = binder->loaded(binder->loaded_user, binder);
}

void ink_bind_vector(ink_binder *binder, ink_tensor *dst, int64_t n, const char *format, ...) {
    *dst = ink_view(NULL, 1, n);
    va_list arguments;
    va_start(arguments, format);
    const ink_tensor_info *info = look_up(binder, format, arguments);
    va_end(arguments);
    if (!info) return;
    if (info->n_dims < 1 || info->shape[0] != n || !only_ones(info, 1)) {
        char expected[32];
        snprintf(expected, sizeof expected, "[%lld]", (long long)n);
        fail_shape(binder, info, expected);
        return;
    }
    const void *data = bind_elements(binder, info, INK_F32);
    /* Tensors of activations can be written, hence the type; a bound one never is. */
    if (binder->mode == INK_BIND_LOAD) dst->data = (float *)(uintptr_t)data;
    report_loaded(binder);
}

static void bind_plain(ink_binder *binder, ink_weight *dst, const ink_tensor_info *info) {
    const void *data = bind_elements(binder, info, binder->matrix_dtype);
    if (binder->mode == INK_BIND_LOAD) dst->data = data;
    report_loaded(binder);
}

void ink_bind_matrix(ink_binder *binder, ink_weight *dst, int64_t rows, int64_t cols, const char *format, ...) {
    *dst = (ink_weight){binder->matrix_dtype, NULL, rows, cols};
    va_list arguments;
    va_start(arguments, format);
    const ink_tensor_info *info = look_up(binder, format, arguments);
    va_end(arguments);
    if (!info) return;
    if (info->n_dims < 2 || info->shape[0] != rows || info->shape[1] != cols || !only_ones(info, 2)) {
        char expected[64];
        snprintf(expected, sizeof expected, "[%lld, %lld]", (long long)rows, (long long)cols);
        fail_shape(binder, info, expected);
        return;
    }
    bind_plain(binder, dst, info);
}

/* dst [out][k * k][in] from src [out][in][kt][k * k], its last kt; `area` holds k * k elements of dst's type. */
static void repack(void *dst, ink_dtype dst_dtype, const ink_tensor_info *src, int64_t kt, int64_t kk, void *area) {
    size_t src_size = ink_dtype_size(src->dtype);
    int64_t out = src->shape[0], in = src->shape[1];
    for (int64_t o = 0; o < out; o++) {
        for (int64_t i = 0; i < in; i++) {
            int64_t last_slice = ((o * in + i) * kt + kt - 1) * kk;
            ink_convert(area, dst_dtype, src->data + (size_t)last_slice * src_size, src->dtype, kk);
            int64_t first = o * kk * in + i;
            if (dst_dtype == INK_F32)
                for (int64_t j = 0; j < kk; j++) ((float *)dst)[first + j * in] = ((float *)area)[j];
            else
                for (int64_t j = 0; j < kk; j++) ((uint16_t *)dst)[first + j * in] = ((uint16_t *)area)[j];
        }
    }
}

static bool is_conv(const ink_tensor_info *info, int64_t out, int64_t in, int64_t k) {
    int n = info->n_dims;
    return (n == 4 || (n == 5 && info->shape[2] >= 1)) && info->shape[0] == out && info->shape[1] == in &&
           info->shape[n - 2] == k && info->shape[n - 1] == k;
}

void ink_bind_conv(ink_binder *binder, ink_weight *dst, int64_t out, int64_t in, int64_t k, const char *format, ...) {
    *dst = (ink_weight){binder->matrix_dtype, NULL, out, k * k * in};
    va_list arguments;
    va_start(arguments, format);
    const ink_tensor_info *info = look_up(binder, format, arguments);
    va_end(arguments);
    if (!info) return;
    if (!is_conv(info, out, in, k)) {
        char expected[220];
        long long o = out, i = in, side = k;
        snprintf(expected, sizeof expected, "[%lld, %lld, %lld, %lld] or [%lld, %lld, n, %lld, %lld]", o, i, side, side, o, i, side,
                 side);
        fail_shape(binder, info, expected);
        return;
    }
    int64_t kt = info->n_dims == 5 ? info->shape[2] : 1, kk = k * k;
    if (kk == 1 && kt == 1) {
        bind_plain(binder, dst, info);
        return;
    }
    void *block = take(binder, info, binder->matrix_dtype, info->n_elements / kt);
    if (!block) return;
    void *area = ink_alloc_array((size_t)kk, sizeof(float));
    if (!area) {
        binder->status = ink_fail(binder->error, INK_ERROR_MEMORY, "%s: no memory to rearrange tensor %s", binder->weights->folder,
                                  info->name);
        return;
    }
    repack(block, binder->matrix_dtype, info, kt, kk, area);
    ink_free(area);
    ink_mapfile_drop(info->data, info->n_bytes);
    dst->data = block;
    report_loaded(binder);
}

void ink_bind_ignore(ink_binder *binder, const char *prefix) {
    if (!binder->used) return;
    for (size_t i = 0; i < binder->weights->n_tensors; i++)
        if (strncmp(binder->weights->tensors[i].name, prefix, strlen(prefix)) == 0) binder->used[i] = true;
}

void ink_bind_drop(const ink_binder *binder, const char *name) {
    const ink_tensor_info *info = find(binder->weights, name);
    if (info) ink_mapfile_drop(info->data, info->n_bytes);
}

void ink_binder_release(ink_binder *binder) {
    for (size_t i = 0; i < binder->n_missing; i++) ink_free(binder->missing[i]);
    ink_free(binder->missing);
    ink_free(binder->used);
    binder->missing = NULL;
    binder->n_missing = binder->missing_capacity = 0;
    binder->used = NULL;
}
