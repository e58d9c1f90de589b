/*
 * safetensors.h - reading (mapped) and writing one safetensors file. Files are hostile: every offset is checked.
 * Format: 8 bytes little-endian header length n, n bytes of JSON, then the data; offsets count from byte 8 + n.
 */
#ifndef INK_TENSOR_SAFETENSORS_H
#define INK_TENSOR_SAFETENSORS_H

#include <jansson.h>

#include "base/error.h"
#include "base/mapfile.h"
#include "tensor/dtype.h"

enum { INK_MAX_DIMS = 8 };

typedef struct ink_tensor_info {
    const char *name; /* owned by the ink_safetensors */
    ink_dtype dtype;
    char dtype_name[12]; /* as spelt in the file, for sentences: "I64" */
    int n_dims;
    int64_t shape[INK_MAX_DIMS];
    int64_t n_elements;
    const unsigned char *data; /* into the mapping, any alignment */
    size_t n_bytes;
} ink_tensor_info;

typedef struct ink_safetensors {
    ink_mapfile file;
    size_t n_tensors;
    ink_tensor_info *tensors; /* sorted by name */
    json_t *header;           /* owns names and metadata */
} ink_safetensors;

/*
 * Errors: IO; FORMAT for a truncated or oversized header, no JSON, unknown dtype spelling, a shape that does not match its bytes,
 * offsets outside the data, tensors that overlap, or bytes that belong to no tensor. On failure *st is all zero.
 */
ink_status ink_safetensors_open(ink_safetensors *st, const char *path, ink_error *error);
void ink_safetensors_close(ink_safetensors *st);

/*
 * The same for bytes in memory, which stay the caller's and must outlive *st (any alignment). origin names them in sentences.
 * st->file is all zero.
 */
ink_status ink_safetensors_parse(ink_safetensors *st, const void *bytes, size_t size, const char *origin, ink_error *error);

/* NULL when there is no such tensor. */
const ink_tensor_info *ink_safetensors_find(const ink_safetensors *st, const char *name);

/* A value of __metadata__, borrowed, or NULL. */
const char *ink_safetensors_metadata(const ink_safetensors *st, const char *key);

/* One tensor to write, f32. */
typedef struct ink_named_f32 {
    const char *name;
    const float *data;
    int n_dims;
    int64_t shape[INK_MAX_DIMS];
} ink_named_f32;

/*
 * Writes to PATH.partial-... in the same folder, then renames: PATH is whole or untouched, and no partial file stays behind.
 * metadata: pairs key, value (UTF-8), ended by NULL; may be NULL. Errors: ARGUMENT (a name twice, an impossible shape), IO, MEMORY.
 */
ink_status ink_safetensors_write(const char *path, const ink_named_f32 *tensors, size_t n_tensors, const char *const *metadata,
                                 ink_error *error);

/* Whether ink_safetensors_write could make this file, to know before hours of work rather than after. Errors: IO, MEMORY. */
ink_status ink_safetensors_check_writable(const char *path, ink_error *error);

#endif
