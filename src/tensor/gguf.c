/* gguf.c - one GGUF file, checked from the first byte to the last, and looking things up in it. */
#include "tensor/gguf.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "base/memory.h"

enum {
    MAX_NAME_BYTES = 65535, /* of a key, says the format; here of a tensor's name as well */
    MAX_NESTING = 4,        /* arrays in arrays; no file is known that has two */
    MIN_VALUE_BYTES = 8 + 1 + 4 + 1,
    MIN_TENSOR_BYTES = 8 + 1 + 4 + 4 + 8,
    DEFAULT_ALIGNMENT = 32,
    MAX_ALIGNMENT = 1 << 30,
    MAX_TYPE_NUMBER = 999999 /* what ink_tensor_info.dtype_name has room for */
};

static uint64_t load_uint(const unsigned char *bytes, int n_bytes) {
    uint64_t value = 0;
    for (int i = n_bytes - 1; i >= 0; i--) value = value << 8 | bytes[i];
    return value;
}

/* ---- walking over the bytes -------------------------------------------------------------------------------------- */

/* Sticky: after a failure the functions below return zeros and do nothing. */
typedef struct parser {
    const char *origin;
    const unsigned char *bytes;
    size_t size, at;
    const char *kind; /* of the thing that is being read, for sentences: "tensor" */
    ink_gguf_text name;
    ink_error *error;
    ink_status status;
} parser;

enum { MAX_NAME_SHOWN = 100 };

/* "ORIGIN: KIND NAME: SENTENCE" */
INK_PRINTF(3, 4) static void fail(parser *p, ink_status status, const char *format, ...) {
    if (p->status != INK_OK) return;
    char sentence[300];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(sentence, sizeof sentence, format, arguments);
    va_end(arguments);
    int shown = p->name.n_bytes < MAX_NAME_SHOWN ? (int)p->name.n_bytes : MAX_NAME_SHOWN;
    p->status = p->kind ? ink_fail(p->error, status, "%s: %s %.*s: %s", p->origin, p->kind, shown, p->name.data, sentence)
                        : ink_fail(p->error, status, "%s: %s", p->origin, sentence);
}

static ink_status fail_memory(parser *p) {
    p->status = ink_fail(p->error, INK_ERROR_MEMORY, "%s: no memory for the list of what it holds", p->origin);
    return p->status;
}

static size_t n_left(const parser *p) { return p->size - p->at; }

static const unsigned char *take(parser *p, uint64_t n_bytes) {
    if (p->status == INK_OK && n_bytes > n_left(p))
        fail(p, INK_ERROR_FORMAT, "the file is truncated: %" PRIu64 " bytes are needed at byte %zu, it has %zu", n_bytes, p->at,
             p->size);
    if (p->status != INK_OK) return NULL;
    const unsigned char *bytes = p->bytes + p->at;
    p->at += (size_t)n_bytes;
    return bytes;
}

static uint64_t take_uint(parser *p, int n_bytes) {
    const unsigned char *bytes = take(p, (uint64_t)n_bytes);
    return bytes ? load_uint(bytes, n_bytes) : 0;
}

static bool is_readable(const unsigned char *bytes, size_t n_bytes) {
    for (size_t at = 0; at < n_bytes;) {
        utf8proc_int32_t point;
        utf8proc_ssize_t used = utf8proc_iterate(bytes + at, (utf8proc_ssize_t)(n_bytes - at), &point);
        if (used < 1 || point < 0x20 || point == 0x7f) return false;
        at += (size_t)used;
    }
    return true;
}

/* A key or a name; sentences about what follows name it. */
static void take_name(parser *p, const char *kind) {
    p->kind = NULL;
    size_t place = p->at;
    uint64_t n_bytes = take_uint(p, 8);
    if (p->status == INK_OK && (n_bytes == 0 || n_bytes > MAX_NAME_BYTES))
        fail(p, INK_ERROR_FORMAT, "at byte %zu: the name of a %s has %" PRIu64 " bytes, must have 1 to %d", place, kind, n_bytes,
             MAX_NAME_BYTES);
    const unsigned char *bytes = take(p, n_bytes);
    if (bytes && !is_readable(bytes, (size_t)n_bytes))
        fail(p, INK_ERROR_FORMAT, "at byte %zu: the name of a %s is not UTF-8, or holds control characters", place, kind);
    if (p->status != INK_OK) return;
    p->kind = kind;
    p->name = (ink_gguf_text){(const char *)bytes, (size_t)n_bytes};
}

/* A count of things of at least so many bytes each, so that what is allocated for them is bounded by the size of the file. */
static uint64_t take_count(parser *p, uint64_t least_bytes, const char *things) {
    uint64_t n = take_uint(p, 8);
    if (p->status == INK_OK && n > n_left(p) / least_bytes)
        fail(p, INK_ERROR_FORMAT, "claims %" PRIu64 " %s, more than fit into the rest of the file, %zu bytes", n, things,
             n_left(p));
    return p->status == INK_OK ? n : 0;
}

/* ---- metadata ---------------------------------------------------------------------------------------------------- */

static const uint8_t type_bytes[INK_GGUF_N_TYPES] = {
    [INK_GGUF_U8] = 1,  [INK_GGUF_I8] = 1,  [INK_GGUF_U16] = 2,  [INK_GGUF_I16] = 2,    [INK_GGUF_U32] = 4,
    [INK_GGUF_I32] = 4, [INK_GGUF_F32] = 4, [INK_GGUF_BOOL] = 1, [INK_GGUF_STRING] = 0, [INK_GGUF_ARRAY] = 0,
    [INK_GGUF_U64] = 8, [INK_GGUF_I64] = 8, [INK_GGUF_F64] = 8,
};

static ink_gguf_type take_type(parser *p) {
    uint64_t type = take_uint(p, 4);
    if (p->status == INK_OK && type >= INK_GGUF_N_TYPES) fail(p, INK_ERROR_FORMAT, "has the unknown type %" PRIu64, type);
    return p->status == INK_OK ? (ink_gguf_type)type : INK_GGUF_U8;
}

static void skip_elements(parser *p, ink_gguf_type type, uint64_t n, int nesting);

static void take_array(parser *p, ink_gguf_type *element_type, uint64_t *n, const unsigned char **data, int nesting) {
    if (nesting > MAX_NESTING) fail(p, INK_ERROR_FORMAT, "has arrays in arrays, more than %d deep", MAX_NESTING);
    *element_type = take_type(p);
    /* Of a string its length, of an array its type and length. */
    uint64_t least = *element_type == INK_GGUF_STRING ? 8 : *element_type == INK_GGUF_ARRAY ? 12 : type_bytes[*element_type];
    *n = take_count(p, least, "elements");
    *data = p->bytes + p->at;
    skip_elements(p, *element_type, *n, nesting);
}

static void skip_elements(parser *p, ink_gguf_type type, uint64_t n, int nesting) {
    if (type == INK_GGUF_STRING) {
        for (uint64_t i = 0; i < n && p->status == INK_OK; i++) take(p, take_uint(p, 8));
    } else if (type == INK_GGUF_ARRAY) {
        for (uint64_t i = 0; i < n && p->status == INK_OK; i++) {
            ink_gguf_type inner_type;
            uint64_t inner_n;
            const unsigned char *inner;
            take_array(p, &inner_type, &inner_n, &inner, nesting + 1);
        }
    } else {
        const unsigned char *bytes = take(p, n * type_bytes[type]);
        for (uint64_t i = 0; bytes && type == INK_GGUF_BOOL && i < n; i++)
            if (bytes[i] > 1) {
                fail(p, INK_ERROR_FORMAT, "holds %d where a truth value must be 0 or 1", bytes[i]);
                return;
            }
    }
}

static void take_value(parser *p, ink_gguf_value *value) {
    take_name(p, "metadata key");
    value->key = p->name;
    value->type = value->element_type = take_type(p);
    value->n = 1;
    value->data = p->bytes + p->at;
    if (value->type == INK_GGUF_ARRAY)
        take_array(p, &value->element_type, &value->n, &value->data, 1);
    else
        skip_elements(p, value->type, 1, 0);
}

static int compare_texts(ink_gguf_text a, ink_gguf_text b) {
    int order = memcmp(a.data, b.data, a.n_bytes < b.n_bytes ? a.n_bytes : b.n_bytes);
    return order ? order : (a.n_bytes > b.n_bytes) - (a.n_bytes < b.n_bytes);
}

static int compare_keys(const void *a, const void *b) {
    return compare_texts(((const ink_gguf_value *)a)->key, ((const ink_gguf_value *)b)->key);
}

static ink_status read_values(parser *p, ink_gguf *file, uint64_t n) {
    file->values = ink_alloc_array((size_t)n, sizeof *file->values);
    if (!file->values) return fail_memory(p);
    while (file->n_values < n && p->status == INK_OK) take_value(p, &file->values[file->n_values++]);
    if (p->status != INK_OK) return p->status;
    qsort(file->values, file->n_values, sizeof *file->values, compare_keys);
    for (size_t i = 1; i < file->n_values; i++) {
        if (compare_keys(&file->values[i - 1], &file->values[i]) != 0) continue;
        p->name = file->values[i].key;
        fail(p, INK_ERROR_FORMAT, "is there twice");
    }
    p->kind = NULL;
    return p->status;
}

/* ---- tensors ----------------------------------------------------------------------------------------------------- */

/* What ggml numbers. Those that we cannot decode have a name and a size here; the others have them in dtype.h. */
static const struct tensor_type {
    uint8_t number;
    uint8_t dtype;
    int16_t block_elements, block_bytes;
    const char *name;
} tensor_types[] = {
    {0, INK_F32, 0, 0, NULL},
    {1, INK_F16, 0, 0, NULL},
    {2, INK_Q4_0, 0, 0, NULL},
    {3, INK_Q4_1, 0, 0, NULL},
    {6, INK_Q5_0, 0, 0, NULL},
    {7, INK_Q5_1, 0, 0, NULL},
    {8, INK_Q8_0, 0, 0, NULL},
    {10, INK_Q2_K, 0, 0, NULL},
    {11, INK_Q3_K, 0, 0, NULL},
    {12, INK_Q4_K, 0, 0, NULL},
    {13, INK_Q5_K, 0, 0, NULL},
    {14, INK_Q6_K, 0, 0, NULL},
    {15, INK_OTHER_DTYPE, 256, 292, "Q8_K"},
    {16, INK_OTHER_DTYPE, 256, 66, "IQ2_XXS"},
    {17, INK_OTHER_DTYPE, 256, 74, "IQ2_XS"},
    {18, INK_OTHER_DTYPE, 256, 98, "IQ3_XXS"},
    {19, INK_OTHER_DTYPE, 256, 50, "IQ1_S"},
    {20, INK_IQ4_NL, 0, 0, NULL},
    {21, INK_OTHER_DTYPE, 256, 110, "IQ3_S"},
    {22, INK_OTHER_DTYPE, 256, 82, "IQ2_S"},
    {23, INK_IQ4_XS, 0, 0, NULL},
    {24, INK_OTHER_DTYPE, 1, 1, "I8"},
    {25, INK_OTHER_DTYPE, 1, 2, "I16"},
    {26, INK_OTHER_DTYPE, 1, 4, "I32"},
    {27, INK_OTHER_DTYPE, 1, 8, "I64"},
    {28, INK_OTHER_DTYPE, 1, 8, "F64"},
    {29, INK_OTHER_DTYPE, 256, 56, "IQ1_M"},
    {30, INK_BF16, 0, 0, NULL},
    {34, INK_OTHER_DTYPE, 256, 54, "TQ1_0"},
    {35, INK_OTHER_DTYPE, 256, 66, "TQ2_0"},
    {39, INK_OTHER_DTYPE, 32, 17, "MXFP4"},
    {40, INK_OTHER_DTYPE, 64, 36, "NVFP4"},
    {41, INK_OTHER_DTYPE, 128, 18, "Q1_0"},
};

/* Fills in type and bytes. block_bytes 0 where nothing is known of a type. */
static void set_type(parser *p, ink_tensor_info *info, uint64_t number) {
    int64_t elements = 1, bytes = 0;
    info->dtype = INK_OTHER_DTYPE;
    if (number > MAX_TYPE_NUMBER) {
        fail(p, INK_ERROR_FORMAT, "has the unknown type %" PRIu64, number);
        return;
    }
    snprintf(info->dtype_name, sizeof info->dtype_name, "type %d", (int)number);
    for (size_t i = 0; i < sizeof tensor_types / sizeof *tensor_types; i++) {
        const struct tensor_type *type = &tensor_types[i];
        if (type->number != number) continue;
        info->dtype = (ink_dtype)type->dtype;
        elements = type->name ? type->block_elements : ink_dtype_block_elements(info->dtype);
        bytes = type->name ? type->block_bytes : ink_dtype_block_bytes(info->dtype);
        snprintf(info->dtype_name, sizeof info->dtype_name, "%s", type->name ? type->name : ink_dtype_name(info->dtype));
    }
    int64_t row = info->n_dims ? info->shape[info->n_dims - 1] : 1, n_bytes;
    if (row % elements != 0)
        fail(p, INK_ERROR_FORMAT, "its rows have %" PRId64 " elements, %s needs a multiple of %" PRId64, row, info->dtype_name,
             elements);
    else if (!ink_mul_fits(info->n_elements / elements, bytes, &n_bytes) || (uint64_t)n_bytes > p->size)
        fail(p, INK_ERROR_FORMAT, "its %" PRId64 " elements of type %s are more than the file holds", info->n_elements,
             info->dtype_name);
    else
        info->n_bytes = (size_t)n_bytes;
}

/* What is known of a tensor before it is known where the data begin. */
typedef struct tensor_record {
    ink_gguf_text name;
    uint64_t offset;
} tensor_record;

static void take_tensor(parser *p, ink_tensor_info *info, tensor_record *record) {
    take_name(p, "tensor");
    record->name = p->name;
    uint64_t n_dims = take_uint(p, 4);
    if (n_dims > INK_MAX_DIMS)
        fail(p, INK_ERROR_UNSUPPORTED, "has %" PRIu64 " dimensions, at most %d are supported", n_dims, INK_MAX_DIMS);
    if (p->status != INK_OK) return;
    info->n_dims = (int)n_dims;
    info->n_elements = 1;
    for (int i = info->n_dims - 1; i >= 0; i--) {
        uint64_t dim = take_uint(p, 8);
        info->shape[i] = dim <= INT64_MAX ? (int64_t)dim : -1;
        if (!ink_mul_fits(info->n_elements, info->shape[i], &info->n_elements)) {
            fail(p, INK_ERROR_FORMAT, "its shape has more elements than fit into 63 bits");
            return;
        }
    }
    uint64_t type = take_uint(p, 4);
    if (p->status == INK_OK) set_type(p, info, type);
    record->offset = take_uint(p, 8);
}

static ink_status read_alignment(parser *p, const ink_gguf *file, uint64_t *alignment) {
    static const char key[] = "general.alignment";
    *alignment = DEFAULT_ALIGNMENT;
    if (ink_gguf_metadata(file, key) && (!ink_gguf_u64(file, key, alignment) || *alignment == 0 || *alignment > MAX_ALIGNMENT ||
                                         (*alignment & (*alignment - 1)) != 0))
        fail(p, INK_ERROR_FORMAT, "%s must be a power of two up to %d", key, MAX_ALIGNMENT);
    return p->status;
}

/* Gives the tensors their names and data. The parser stands behind the last record. */
static void place_tensors(parser *p, ink_gguf *file, const tensor_record *records, uint64_t alignment) {
    uint64_t padding = (alignment - p->at % alignment) % alignment;
    p->kind = NULL;
    const unsigned char *data = take(p, padding);
    if (!data) return;
    data += padding;
    char *name = file->names;
    for (size_t i = 0; i < file->n_tensors; i++) {
        ink_tensor_info *info = &file->tensors[i];
        uint64_t offset = records[i].offset;
        p->kind = "tensor";
        p->name = records[i].name;
        if (offset % alignment != 0)
            fail(p, INK_ERROR_FORMAT, "its offset %" PRIu64 " is no multiple of the alignment, %" PRIu64, offset, alignment);
        else if (offset > n_left(p) || info->n_bytes > n_left(p) - offset)
            fail(p, INK_ERROR_FORMAT, "its %zu bytes at offset %" PRIu64 " do not lie in the file's %zu bytes of data",
                 info->n_bytes, offset, n_left(p));
        if (p->status != INK_OK) return;
        info->data = data + offset;
        info->name = memcpy(name, records[i].name.data, records[i].name.n_bytes);
        name += records[i].name.n_bytes + 1; /* the zero is there: ink_alloc clears */
    }
}

static int compare_places(const void *a, const void *b) {
    const ink_tensor_info *x = a, *y = b;
    if (x->data != y->data) return x->data < y->data ? -1 : 1;
    return (x->n_bytes > y->n_bytes) - (x->n_bytes < y->n_bytes);
}

static int compare_names(const void *a, const void *b) {
    return strcmp(((const ink_tensor_info *)a)->name, ((const ink_tensor_info *)b)->name);
}

/* Leaves the tensors sorted by name. */
static ink_status check_tensors(parser *p, ink_gguf *file) {
    const ink_tensor_info *tensors = file->tensors;
    const unsigned char *end = p->bytes;
    p->kind = NULL;
    if (file->n_tensors > 0) qsort(file->tensors, file->n_tensors, sizeof *tensors, compare_places);
    for (size_t i = 0; i < file->n_tensors; i++) {
        if (tensors[i].data < end)
            fail(p, INK_ERROR_FORMAT, "tensors %.*s and %.*s overlap", MAX_NAME_SHOWN, tensors[i - 1].name, MAX_NAME_SHOWN,
                 tensors[i].name);
        end = tensors[i].data + tensors[i].n_bytes;
    }
    if (file->n_tensors > 0) qsort(file->tensors, file->n_tensors, sizeof *tensors, compare_names);
    for (size_t i = 1; i < file->n_tensors; i++)
        if (compare_names(&tensors[i - 1], &tensors[i]) == 0)
            fail(p, INK_ERROR_FORMAT, "tensor %.*s is there twice", MAX_NAME_SHOWN, tensors[i].name);
    return p->status;
}

static ink_status read_tensors(parser *p, ink_gguf *file, uint64_t n) {
    uint64_t alignment;
    if (read_alignment(p, file, &alignment) != INK_OK || n == 0) return p->status;
    size_t begin = p->at;
    file->tensors = ink_alloc_array((size_t)n, sizeof *file->tensors);
    tensor_record *records = ink_alloc_array((size_t)n, sizeof *records);
    if (file->tensors && records) {
        while (file->n_tensors < n && p->status == INK_OK) {
            take_tensor(p, &file->tensors[file->n_tensors], &records[file->n_tensors]);
            file->n_tensors++;
        }
        /* Every name has its length beside it, so that the bytes of all records suffice for the names and their zeros. */
        if (p->status == INK_OK) file->names = ink_alloc(p->at - begin);
        if (file->names) place_tensors(p, file, records, alignment);
    }
    ink_free(records);
    if (p->status == INK_OK && !file->names) return fail_memory(p);
    return p->status == INK_OK ? check_tensors(p, file) : p->status;
}

/* ---- the file ---------------------------------------------------------------------------------------------------- */

static ink_status check_version(parser *p, ink_gguf *file) {
    if (p->size < 8 || memcmp(p->bytes, "GGUF", 4) != 0) {
        fail(p, INK_ERROR_FORMAT, "is no GGUF file: it does not begin with GGUF and a version");
        return p->status;
    }
    p->at = 4;
    file->version = (uint32_t)take_uint(p, 4);
    if (file->version != 0 && (file->version & 0xffff) == 0)
        fail(p, INK_ERROR_UNSUPPORTED, "is a big-endian GGUF file, only little-endian ones are supported");
    else if (file->version != 2 && file->version != 3)
        fail(p, INK_ERROR_UNSUPPORTED, "is a GGUF file of version %u, only 2 and 3 are supported", (unsigned)file->version);
    return p->status;
}

static ink_status check_whole(parser *p, const ink_gguf *file) {
    uint64_t n_parts;
    if (ink_gguf_u64(file, "split.count", &n_parts) && n_parts > 1)
        fail(p, INK_ERROR_UNSUPPORTED, "is one of %" PRIu64 " parts of a split GGUF file; merge them with llama-gguf-split",
             n_parts);
    return p->status;
}

static ink_status parse(parser *p, ink_gguf *file) {
    if (p->size > (size_t)PTRDIFF_MAX) fail(p, INK_ERROR_FORMAT, "is too large");
    if (p->status != INK_OK || check_version(p, file) != INK_OK) return p->status;
    uint64_t n_tensors = take_count(p, MIN_TENSOR_BYTES, "tensors");
    uint64_t n_values = take_count(p, MIN_VALUE_BYTES, "metadata values");
    if (p->status == INK_OK) read_values(p, file, n_values);
    if (p->status == INK_OK) check_whole(p, file);
    if (p->status == INK_OK) read_tensors(p, file, n_tensors);
    return p->status;
}

ink_status ink_gguf_parse(ink_gguf *file, const void *bytes, size_t size, const char *origin, ink_error *error) {
    *file = (ink_gguf){0};
    parser p = {.origin = origin, .bytes = bytes, .size = size, .error = error};
    ink_status status = parse(&p, file);
    if (status != INK_OK) ink_gguf_close(file);
    return status;
}

ink_status ink_gguf_open(ink_gguf *file, const char *path, ink_error *error) {
    *file = (ink_gguf){0};
    ink_status status = ink_mapfile_open(&file->file, path, error);
    if (status != INK_OK) return status;
    parser p = {.origin = path, .bytes = file->file.data, .size = file->file.size, .error = error};
    status = parse(&p, file);
    if (status != INK_OK) ink_gguf_close(file);
    return status;
}

void ink_gguf_close(ink_gguf *file) {
    ink_free(file->values);
    ink_free(file->tensors);
    ink_free(file->names);
    ink_mapfile_close(&file->file);
    *file = (ink_gguf){0};
}

/* ---- looking up -------------------------------------------------------------------------------------------------- */

const ink_tensor_info *ink_gguf_find(const ink_gguf *file, const char *name) {
    const ink_tensor_info key = {.name = name};
    return file->n_tensors ? bsearch(&key, file->tensors, file->n_tensors, sizeof key, compare_names) : NULL;
}

const ink_gguf_value *ink_gguf_metadata(const ink_gguf *file, const char *key) {
    const ink_gguf_value wanted = {.key = {key, strlen(key)}};
    return file->n_values ? bsearch(&wanted, file->values, file->n_values, sizeof wanted, compare_keys) : NULL;
}

static bool element_i64(ink_gguf_type type, const unsigned char *data, int64_t *element) {
    uint64_t bits = load_uint(data, type_bytes[type]);
    switch (type) {
    case INK_GGUF_U8:
    case INK_GGUF_U16:
    case INK_GGUF_U32: *element = (int64_t)bits; return true;
    case INK_GGUF_U64:
        if (bits > INT64_MAX) return false;
        *element = (int64_t)bits;
        return true;
    case INK_GGUF_I8: *element = (int8_t)bits; return true;
    case INK_GGUF_I16: *element = (int16_t)bits; return true;
    case INK_GGUF_I32: *element = (int32_t)bits; return true;
    case INK_GGUF_I64: *element = (int64_t)bits; return true;
    default: return false;
    }
}

static bool element_f64(ink_gguf_type type, const unsigned char *data, double *element) {
    int64_t integer;
    float narrow;
    if (type == INK_GGUF_F32) {
        memcpy(&narrow, data, sizeof narrow);
        *element = (double)narrow;
    } else if (type == INK_GGUF_F64) {
        memcpy(element, data, sizeof *element);
    } else if (type == INK_GGUF_U64) {
        *element = (double)load_uint(data, 8);
    } else if (element_i64(type, data, &integer)) {
        *element = (double)integer;
    } else {
        return false;
    }
    return true;
}

/* NULL when there is no such key or when it is an array. */
static const ink_gguf_value *find_single(const ink_gguf *file, const char *key) {
    const ink_gguf_value *value = ink_gguf_metadata(file, key);
    return value && value->type != INK_GGUF_ARRAY ? value : NULL;
}

static const unsigned char *load_text(const unsigned char *data, ink_gguf_text *text) {
    *text = (ink_gguf_text){(const char *)data + 8, (size_t)load_uint(data, 8)};
    return data + 8 + text->n_bytes;
}

bool ink_gguf_string(const ink_gguf *file, const char *key, ink_gguf_text *value) {
    const ink_gguf_value *found = find_single(file, key);
    if (!found || found->type != INK_GGUF_STRING) return false;
    load_text(found->data, value);
    return true;
}

bool ink_gguf_i64(const ink_gguf *file, const char *key, int64_t *value) {
    const ink_gguf_value *found = find_single(file, key);
    return found && element_i64(found->type, found->data, value);
}

bool ink_gguf_u64(const ink_gguf *file, const char *key, uint64_t *value) {
    const ink_gguf_value *found = find_single(file, key);
    int64_t signed_value;
    if (!found) return false;
    if (found->type == INK_GGUF_U64) {
        *value = load_uint(found->data, 8);
        return true;
    }
    if (!element_i64(found->type, found->data, &signed_value) || signed_value < 0) return false;
    *value = (uint64_t)signed_value;
    return true;
}

bool ink_gguf_f64(const ink_gguf *file, const char *key, double *value) {
    const ink_gguf_value *found = find_single(file, key);
    return found && element_f64(found->type, found->data, value);
}

bool ink_gguf_bool(const ink_gguf *file, const char *key, bool *value) {
    const ink_gguf_value *found = find_single(file, key);
    if (!found || found->type != INK_GGUF_BOOL) return false;
    *value = found->data[0] != 0;
    return true;
}

bool ink_gguf_text_is(ink_gguf_text text, const char *string) {
    return text.n_bytes == strlen(string) && memcmp(text.data, string, text.n_bytes) == 0;
}

bool ink_gguf_i64_at(const ink_gguf_value *value, uint64_t i, int64_t *element) {
    return i < value->n && element_i64(value->element_type, value->data + i * type_bytes[value->element_type], element);
}

bool ink_gguf_f64_at(const ink_gguf_value *value, uint64_t i, double *element) {
    return i < value->n && element_f64(value->element_type, value->data + i * type_bytes[value->element_type], element);
}

bool ink_gguf_strings_begin(ink_gguf_strings *strings, const ink_gguf_value *value) {
    if (!value || value->type != INK_GGUF_ARRAY || value->element_type != INK_GGUF_STRING) return false;
    *strings = (ink_gguf_strings){value->data, value->n};
    return true;
}

bool ink_gguf_strings_next(ink_gguf_strings *strings, ink_gguf_text *text) {
    if (strings->n_left == 0) return false;
    strings->next = load_text(strings->next, text);
    strings->n_left--;
    return true;
}
