/* safetensors.c - one safetensors file: checked headers, and a writer that leaves nothing half done. */
#define _POSIX_C_SOURCE 200809L
#include "tensor/safetensors.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/json.h"
#include "base/memory.h"

enum { PREFIX_BYTES = 8, MAX_HEADER_BYTES = 100000000 }; /* the limit of the reference implementation */

static const char metadata_key[] = "__metadata__";

typedef struct spelling {
    const char *name;
    ink_dtype dtype;
    int64_t bytes;
} spelling;

static const spelling spellings[] = {
    {"F32", INK_F32, 4},          {"BF16", INK_BF16, 2},       {"F16", INK_F16, 2},
    {"F64", INK_OTHER_DTYPE, 8},  {"I64", INK_OTHER_DTYPE, 8}, {"I32", INK_OTHER_DTYPE, 4},
    {"I16", INK_OTHER_DTYPE, 2},  {"I8", INK_I8, 1},           {"U64", INK_OTHER_DTYPE, 8},
    {"U32", INK_OTHER_DTYPE, 4},  {"U16", INK_OTHER_DTYPE, 2}, {"U8", INK_OTHER_DTYPE, 1},
    {"BOOL", INK_OTHER_DTYPE, 1}, {"F8_E4M3", INK_F8_E4M3, 1}, {"F8_E5M2", INK_OTHER_DTYPE, 1},
};

static const spelling *find_spelling(const char *name) {
    for (size_t i = 0; i < sizeof spellings / sizeof spellings[0]; i++)
        if (strcmp(spellings[i].name, name) == 0) return &spellings[i];
    return NULL;
}

/* ---- reading ----------------------------------------------------------------------------------------------------- */

/* What is needed to judge one entry of the header. */
typedef struct parser {
    const char *origin;
    const unsigned char *data; /* behind the header */
    int64_t n_bytes;           /* of data */
    ink_error *error;
} parser;

static ink_status read_shape(const parser *p, ink_tensor_info *info, const json_t *shape) {
    char found[INK_JSON_DESCRIPTION];
    if (!json_is_array(shape))
        return ink_fail(p->error, INK_ERROR_FORMAT, "%s: tensor %s: shape must be an array, found %s", p->origin, info->name,
                        ink_json_describe(found, shape));
    if (json_array_size(shape) > INK_MAX_DIMS)
        return ink_fail(p->error, INK_ERROR_UNSUPPORTED, "%s: tensor %s has %zu dimensions, at most %d are supported", p->origin,
                        info->name, json_array_size(shape), INK_MAX_DIMS);
    info->n_dims = (int)json_array_size(shape);
    info->n_elements = 1;
    for (int i = 0; i < info->n_dims; i++) {
        const json_t *dim = json_array_get(shape, (size_t)i);
        if (!json_is_integer(dim) || json_integer_value(dim) < 0)
            return ink_fail(p->error, INK_ERROR_FORMAT, "%s: tensor %s: dimension %d must be an integer of 0 or more, found %s",
                            p->origin, info->name, i, ink_json_describe(found, dim));
        info->shape[i] = json_integer_value(dim);
        if (!ink_mul_fits(info->n_elements, info->shape[i], &info->n_elements))
            return ink_fail(p->error, INK_ERROR_FORMAT, "%s: tensor %s: its shape has more elements than fit into 63 bits",
                            p->origin, info->name);
    }
    return INK_OK;
}

static ink_status read_offsets(const parser *p, ink_tensor_info *info, int64_t element_bytes, const json_t *offsets) {
    char found[INK_JSON_DESCRIPTION];
    const json_t *first = json_array_get(offsets, 0), *last = json_array_get(offsets, 1);
    if (json_array_size(offsets) != 2 || !json_is_integer(first) || !json_is_integer(last))
        return ink_fail(p->error, INK_ERROR_FORMAT, "%s: tensor %s: data_offsets must be two integers, found %s", p->origin,
                        info->name,
                        ink_json_describe(found, json_is_integer(first) ? last
                                                 : first                ? first
                                                                        : offsets));
    int64_t begin = json_integer_value(first), end = json_integer_value(last), expected;
    if (begin < 0 || end < begin || end > p->n_bytes)
        return ink_fail(p->error, INK_ERROR_FORMAT,
                        "%s: tensor %s: data_offsets [%lld, %lld] do not lie in the file's %lld bytes of data", p->origin,
                        info->name, (long long)begin, (long long)end, (long long)p->n_bytes);
    if (!ink_mul_fits(info->n_elements, element_bytes, &expected) || expected != end - begin)
        return ink_fail(p->error, INK_ERROR_FORMAT,
                        "%s: tensor %s: data_offsets span %lld bytes, its shape and type %s need %lld elements of %lld", p->origin,
                        info->name, (long long)(end - begin), info->dtype_name, (long long)info->n_elements,
                        (long long)element_bytes);
    info->data = p->data + begin;
    info->n_bytes = (size_t)(end - begin);
    return INK_OK;
}

static ink_status read_tensor(const parser *p, ink_tensor_info *info, const char *name, const json_t *entry) {
    char found[INK_JSON_DESCRIPTION];
    info->name = name;
    if (!json_is_object(entry))
        return ink_fail(p->error, INK_ERROR_FORMAT, "%s: tensor %s: its entry must be an object, found %s", p->origin, name,
                        ink_json_describe(found, entry));
    const json_t *dtype = json_object_get(entry, "dtype");
    const spelling *spelt = json_is_string(dtype) ? find_spelling(json_string_value(dtype)) : NULL;
    if (!spelt)
        return ink_fail(p->error, INK_ERROR_FORMAT, "%s: tensor %s: dtype must be the name of a type such as \"BF16\", found %s",
                        p->origin, name, ink_json_describe(found, dtype));
    info->dtype = spelt->dtype;
    snprintf(info->dtype_name, sizeof info->dtype_name, "%s", spelt->name);
    ink_status status = read_shape(p, info, json_object_get(entry, "shape"));
    if (status != INK_OK) return status;
    return read_offsets(p, info, spelt->bytes, json_object_get(entry, "data_offsets"));
}

static ink_status read_metadata(const parser *p, json_t *metadata) {
    char found[INK_JSON_DESCRIPTION];
    const char *key;
    json_t *value;
    if (!json_is_object(metadata))
        return ink_fail(p->error, INK_ERROR_FORMAT, "%s: %s must be an object, found %s", p->origin, metadata_key,
                        ink_json_describe(found, metadata));
    json_object_foreach(metadata, key, value) {
        if (!json_is_string(value))
            return ink_fail(p->error, INK_ERROR_FORMAT, "%s: %s: \"%s\" must be a string, found %s", p->origin, metadata_key, key,
                            ink_json_describe(found, value));
    }
    return INK_OK;
}

static ink_status read_entries(const parser *p, ink_safetensors *st) {
    const char *key;
    json_t *entry;
    st->tensors = ink_alloc_array(json_object_size(st->header), sizeof *st->tensors);
    if (!st->tensors) return ink_fail(p->error, INK_ERROR_MEMORY, "%s: no memory for the list of its tensors", p->origin);
    json_object_foreach(st->header, key, entry) {
        ink_status status = strcmp(key, metadata_key) == 0 ? read_metadata(p, entry)
                                                           : read_tensor(p, &st->tensors[st->n_tensors++], key, entry);
        if (status != INK_OK) return status;
    }
    return INK_OK;
}

static int compare_places(const void *a, const void *b) {
    const ink_tensor_info *x = a, *y = b;
    if (x->data != y->data) return x->data < y->data ? -1 : 1;
    return (x->n_bytes > y->n_bytes) - (x->n_bytes < y->n_bytes);
}

static int compare_names(const void *a, const void *b) {
    return strcmp(((const ink_tensor_info *)a)->name, ((const ink_tensor_info *)b)->name);
}

/* Every byte of the data must belong to exactly one tensor. Leaves the tensors in the order of their places. */
static ink_status check_cover(const parser *p, ink_safetensors *st) {
    int64_t covered = 0;
    qsort(st->tensors, st->n_tensors, sizeof *st->tensors, compare_places);
    for (size_t i = 0; i < st->n_tensors; i++) {
        const ink_tensor_info *info = &st->tensors[i];
        int64_t begin = info->data - p->data;
        if (begin < covered)
            return ink_fail(p->error, INK_ERROR_FORMAT, "%s: tensors %s and %s overlap", p->origin, info[-1].name, info->name);
        if (begin > covered)
            return ink_fail(p->error, INK_ERROR_FORMAT, "%s: the data bytes %lld to %lld, before tensor %s, belong to no tensor",
                            p->origin, (long long)covered, (long long)begin, info->name);
        covered = begin + (int64_t)info->n_bytes;
    }
    if (covered != p->n_bytes)
        return ink_fail(p->error, INK_ERROR_FORMAT, "%s: the last %lld bytes belong to no tensor", p->origin,
                        (long long)(p->n_bytes - covered));
    return INK_OK;
}

static ink_status parse(ink_safetensors *st, const unsigned char *bytes, size_t size, const char *origin, ink_error *error) {
    if (size < PREFIX_BYTES)
        return ink_fail(error, INK_ERROR_FORMAT, "%s: has %zu bytes, which is too few for a safetensors file", origin, size);
    uint64_t n_header = 0;
    for (int i = PREFIX_BYTES - 1; i >= 0; i--) n_header = n_header << 8 | bytes[i];
    static const char pointer[] = "version https://git-lfs.";
    if (size >= sizeof pointer - 1 && memcmp(bytes, pointer, sizeof pointer - 1) == 0)
        return ink_fail(error, INK_ERROR_FORMAT, "%s: is what git-lfs keeps in the place of the file: git lfs pull brings the file",
                        origin);
    if (n_header > MAX_HEADER_BYTES)
        return ink_fail(error, INK_ERROR_FORMAT,
                        "%s: claims a header of %llu bytes, at most %d are allowed: not a safetensors file?", origin,
                        (unsigned long long)n_header, MAX_HEADER_BYTES);
    if (n_header > size - PREFIX_BYTES)
        return ink_fail(error, INK_ERROR_FORMAT, "%s: is truncated: it has %zu bytes, its header alone needs %llu", origin, size,
                        (unsigned long long)n_header + PREFIX_BYTES);
    if (size > (size_t)PTRDIFF_MAX) return ink_fail(error, INK_ERROR_FORMAT, "%s: is too large", origin);

    const unsigned char *data = bytes + PREFIX_BYTES + n_header;
    const parser p = {origin, data, (int64_t)(size - PREFIX_BYTES - n_header), error};
    ink_status status = ink_json_parse(&st->header, (const char *)bytes + PREFIX_BYTES, n_header, origin, error);
    if (status == INK_OK) status = read_entries(&p, st);
    if (status == INK_OK) status = check_cover(&p, st);
    if (status == INK_OK) qsort(st->tensors, st->n_tensors, sizeof *st->tensors, compare_names);
    return status;
}

ink_status ink_safetensors_parse(ink_safetensors *st, const void *bytes, size_t size, const char *origin, ink_error *error) {
    *st = (ink_safetensors){0};
    ink_status status = parse(st, bytes, size, origin, error);
    if (status != INK_OK) ink_safetensors_close(st);
    return status;
}

ink_status ink_safetensors_open(ink_safetensors *st, const char *path, ink_error *error) {
    *st = (ink_safetensors){0};
    ink_status status = ink_mapfile_open(&st->file, path, error);
    if (status == INK_OK) status = parse(st, st->file.data, st->file.size, path, error);
    if (status != INK_OK) ink_safetensors_close(st);
    return status;
}

void ink_safetensors_close(ink_safetensors *st) {
    ink_free(st->tensors);
    json_decref(st->header);
    ink_mapfile_close(&st->file);
    *st = (ink_safetensors){0};
}

const ink_tensor_info *ink_safetensors_find(const ink_safetensors *st, const char *name) {
    const ink_tensor_info key = {.name = name};
    return st->n_tensors ? bsearch(&key, st->tensors, st->n_tensors, sizeof key, compare_names) : NULL;
}

const char *ink_safetensors_metadata(const ink_safetensors *st, const char *key) {
    return json_string_value(json_object_get(json_object_get(st->header, metadata_key), key));
}

/* ---- writing ----------------------------------------------------------------------------------------------------- */

static ink_status fail_memory(const char *path, ink_error *error) {
    return ink_fail(error, INK_ERROR_MEMORY, "%s: no memory to write it", path);
}

static bool named_bytes(const ink_named_f32 *tensor, int64_t *n_bytes) {
    int64_t n = (int64_t)sizeof(float);
    if (tensor->n_dims < 0 || tensor->n_dims > INK_MAX_DIMS) return false;
    for (int i = 0; i < tensor->n_dims; i++)
        if (!ink_mul_fits(n, tensor->shape[i], &n)) return false;
    *n_bytes = n;
    return true;
}

/* {"dtype": "F32", "shape": [...], "data_offsets": [begin, end]}; NULL without memory. */
static json_t *make_entry(const ink_named_f32 *tensor, int64_t begin, int64_t end) {
    json_t *shape = json_array();
    int failed = !shape;
    for (int i = 0; i < tensor->n_dims; i++) failed |= json_array_append_new(shape, json_integer(tensor->shape[i]));
    /* 'o' steals shape, also when packing fails. */
    json_t *entry = json_pack("{s:s, s:o, s:[I, I]}", "dtype", "F32", "shape", shape, "data_offsets", (json_int_t)begin,
                              (json_int_t)end);
    if (!failed) return entry;
    json_decref(entry);
    return NULL;
}

static ink_status fill_header(json_t *header, const char *path, const ink_named_f32 *tensors, size_t n_tensors,
                              const char *const *metadata, ink_error *error) {
    int64_t offset = 0, n_bytes = 0, end = 0;
    if (metadata && *metadata) {
        json_t *pairs = json_object();
        int failed = json_object_set_new(header, metadata_key, pairs);
        for (; !failed && metadata[0]; metadata += 2) failed = json_object_set_new(pairs, metadata[0], json_string(metadata[1]));
        if (failed) return fail_memory(path, error);
    }
    for (size_t i = 0; i < n_tensors; i++) {
        const char *name = tensors[i].name;
        if (!named_bytes(&tensors[i], &n_bytes) || !ink_add_fits(offset, n_bytes, &end))
            return ink_fail(error, INK_ERROR_ARGUMENT, "%s: tensor %s has an impossible shape", path, name);
        if (json_object_get(header, name)) return ink_fail(error, INK_ERROR_ARGUMENT, "%s: tensor %s is given twice", path, name);
        if (json_object_set_new(header, name, make_entry(&tensors[i], offset, end)) != 0) return fail_memory(path, error);
        offset = end;
    }
    return INK_OK;
}

/* The header as text, padded so that the data starts at a multiple of 8. *text is an ink_alloc block. */
static ink_status make_header(char **text, size_t *size, const char *path, const ink_named_f32 *tensors, size_t n_tensors,
                              const char *const *metadata, ink_error *error) {
    json_t *header = json_object();
    ink_status status = header ? fill_header(header, path, tensors, n_tensors, metadata, error) : fail_memory(path, error);
    size_t length = status == INK_OK ? json_dumpb(header, NULL, 0, JSON_COMPACT) : 0;
    *size = (length + 7) / 8 * 8;
    *text = status == INK_OK && length ? ink_alloc(*size) : NULL;
    if (*text) {
        memset(*text, ' ', *size);
        if (json_dumpb(header, *text, *size, JSON_COMPACT) != length) {
            ink_free(*text);
            *text = NULL;
        }
    }
    json_decref(header);
    if (status == INK_OK && !*text) status = fail_memory(path, error);
    return status;
}

static bool write_all(int descriptor, const void *bytes, size_t size) {
    const unsigned char *next = bytes;
    while (size > 0) {
        /* The kernel takes at most about 2 GiB at once. */
        ssize_t n = write(descriptor, next, size < (1u << 30) ? size : (1u << 30));
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) return false;
        next += n;
        size -= (size_t)n;
    }
    return true;
}

static bool write_file(int descriptor, const char *header, size_t n_header, const ink_named_f32 *tensors, size_t n_tensors) {
    unsigned char prefix[PREFIX_BYTES];
    for (int i = 0; i < PREFIX_BYTES; i++) prefix[i] = (unsigned char)((uint64_t)n_header >> (8 * i));
    bool ok = write_all(descriptor, prefix, sizeof prefix) && write_all(descriptor, header, n_header);
    for (size_t i = 0; ok && i < n_tensors; i++) {
        int64_t n_bytes = 0;
        ok = named_bytes(&tensors[i], &n_bytes) && write_all(descriptor, tensors[i].data, (size_t)n_bytes);
    }
    return ok && fsync(descriptor) == 0;
}

/* Creates a file that nobody else has: the process id tells processes apart, O_EXCL the threads of one. Returns its descriptor. */
static int create_partial(char **partial, const char *path, ink_error *error) {
    for (int i = 0; i < 1000; i++) {
        *partial = ink_format("%s.partial-%ld-%d", path, (long)getpid(), i);
        if (!*partial) {
            fail_memory(path, error);
            return -1;
        }
        int descriptor = open(*partial, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
        if (descriptor >= 0) return descriptor;
        if (errno != EEXIST) break;
        ink_free(*partial);
        *partial = NULL;
    }
    ink_fail(error, INK_ERROR_IO, "%s: cannot be created: %s", path, strerror(errno));
    ink_free(*partial);
    *partial = NULL;
    return -1;
}

ink_status ink_safetensors_write(const char *path, const ink_named_f32 *tensors, size_t n_tensors, const char *const *metadata,
                                 ink_error *error) {
    char *header = NULL, *partial = NULL;
    size_t n_header = 0;
    ink_error local;
    if (!error) error = &local; /* so that create_partial can pass its status through it */
    ink_status status = ink_safetensors_check_writable(path, error);
    if (status == INK_OK) status = make_header(&header, &n_header, path, tensors, n_tensors, metadata, error);
    if (status != INK_OK) return status;

    int descriptor = create_partial(&partial, path, error);
    if (descriptor < 0) {
        ink_free(header);
        return error->status;
    }
    bool ok = write_file(descriptor, header, n_header, tensors, n_tensors);
    int code = ok ? 0 : errno;
    if (close(descriptor) != 0 && ok) {
        ok = false;
        code = errno;
    }
    if (ok && rename(partial, path) != 0) {
        ok = false;
        code = errno;
    }
    if (!ok) {
        unlink(partial);
        status = ink_fail(error, INK_ERROR_IO, "%s: cannot be written: %s", path, strerror(code));
    }
    ink_free(partial);
    ink_free(header);
    return status;
}

ink_status ink_safetensors_check_writable(const char *path, ink_error *error) {
    struct stat status;
    /* Renaming would put a plain file in the place of /dev/null. */
    if (stat(path, &status) == 0 && !S_ISREG(status.st_mode))
        return ink_fail(error, INK_ERROR_IO, "%s: is %s, it cannot be overwritten", path,
                        S_ISDIR(status.st_mode) ? "a folder" : "not a regular file");
    char *folder = ink_strdup(path);
    if (!folder) return fail_memory(path, error);
    char *slash = strrchr(folder, '/');
    if (!slash)
        snprintf(folder, strlen(folder) + 1, ".");
    else
        slash[slash == folder] = '\0';
    /* An empty path has no room for "." above, but is no folder either. */
    ink_status result = INK_OK;
    if (stat(folder, &status) != 0 || !S_ISDIR(status.st_mode))
        result = ink_fail(error, INK_ERROR_IO, "%s: there is no folder %s to write it to", path, folder);
    else if (access(folder, W_OK | X_OK) != 0)
        result = ink_fail(error, INK_ERROR_IO, "%s: the folder %s cannot be written to: %s", path, folder, strerror(errno));
    ink_free(folder);
    return result;
}
