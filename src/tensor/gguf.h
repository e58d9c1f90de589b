/*
 * gguf.h - reading one GGUF file (mapped): metadata and tensors. Files are hostile: every length, count and offset is checked.
 *
 * Format (ggml, docs/gguf.md), all little-endian: "GGUF", version, number of tensors, number of metadata values; the values, each
 * a key, a type and the value; the tensors, each a name, its dimensions from the innermost on, a type and an offset; and the data,
 * to whose first byte, at the next multiple of the alignment, the offsets count. Names only, no meaning: which tensor is which is
 * the models' matter.
 */
#ifndef INK_TENSOR_GGUF_H
#define INK_TENSOR_GGUF_H

#include <stdbool.h>

#include "base/error.h"
#include "base/mapfile.h"
#include "tensor/safetensors.h"

/* As the files number them. */
typedef enum ink_gguf_type {
    INK_GGUF_U8 = 0,
    INK_GGUF_I8,
    INK_GGUF_U16,
    INK_GGUF_I16,
    INK_GGUF_U32,
    INK_GGUF_I32,
    INK_GGUF_F32,
    INK_GGUF_BOOL,
    INK_GGUF_STRING,
    INK_GGUF_ARRAY,
    INK_GGUF_U64,
    INK_GGUF_I64,
    INK_GGUF_F64,
    INK_GGUF_N_TYPES
} ink_gguf_type;

/* Bytes in the mapping, with no zero at the end. Keys are UTF-8 without control characters; values may hold anything. */
typedef struct ink_gguf_text {
    const char *data;
    size_t n_bytes;
} ink_gguf_text;

typedef struct ink_gguf_value {
    ink_gguf_text key;
    ink_gguf_type type;
    ink_gguf_type element_type; /* of an array, else the same as type */
    uint64_t n;                 /* elements of an array, else 1 */
    const unsigned char *data;  /* the first element, checked to the end of the last */
} ink_gguf_value;

typedef struct ink_gguf {
    ink_mapfile file;
    uint32_t version;
    size_t n_values;
    ink_gguf_value *values; /* sorted by key */
    size_t n_tensors;
    ink_tensor_info *tensors; /* sorted by name */
    char *names;              /* of the tensors, each ended by a zero */
} ink_gguf;

/*
 * Shapes are row-major: what a file calls ne[0], the length of a row, is the last dimension. A type that cannot be decoded is
 * INK_OTHER_DTYPE and named as ggml names it ("IQ2_XXS"), or "type 42" where that is not known either; of these n_bytes is 0.
 * Errors: IO; MEMORY; UNSUPPORTED for version 1, big-endian files, parts of a split file, more than INK_MAX_DIMS dimensions; FORMAT
 * for anything that is not as it must be: no GGUF, a truncated file, counts, lengths and offsets that do not lie in it, nested
 * arrays without end, keys or names that are empty, no UTF-8 or repeated, rows that are not whole blocks, tensors that overlap.
 * On failure *file is all zero.
 */
ink_status ink_gguf_open(ink_gguf *file, const char *path, ink_error *error);
void ink_gguf_close(ink_gguf *file);

/* The same for bytes in memory, which stay the caller's and must outlive *file (any alignment). origin names them in sentences. */
ink_status ink_gguf_parse(ink_gguf *file, const void *bytes, size_t size, const char *origin, ink_error *error);

/* NULL when there is no such tensor. */
const ink_tensor_info *ink_gguf_find(const ink_gguf *file, const char *name);

/* ---- metadata ---------------------------------------------------------------------------------------------------- */

/* NULL when there is no such key. */
const ink_gguf_value *ink_gguf_metadata(const ink_gguf *file, const char *key);

/*
 * One value. False, and *value untouched, when the key is not there, is an array or has a type that does not fit: integers are
 * taken from any integer type that holds a number in range, f64 from any number.
 */
bool ink_gguf_string(const ink_gguf *file, const char *key, ink_gguf_text *value);
bool ink_gguf_i64(const ink_gguf *file, const char *key, int64_t *value);
bool ink_gguf_u64(const ink_gguf *file, const char *key, uint64_t *value);
bool ink_gguf_f64(const ink_gguf *file, const char *key, double *value);
bool ink_gguf_bool(const ink_gguf *file, const char *key, bool *value);

/* Whether a text is exactly this string. */
bool ink_gguf_text_is(ink_gguf_text text, const char *string);

/* Element i of an array, or of a single value as if it were an array of one. False as above, or when there is no such element. */
bool ink_gguf_i64_at(const ink_gguf_value *value, uint64_t i, int64_t *element);
bool ink_gguf_f64_at(const ink_gguf_value *value, uint64_t i, double *element);

/* The strings of an array one after the other: begin is false where value is NULL or no array of strings, next after the last. */
typedef struct ink_gguf_strings {
    const unsigned char *next;
    uint64_t n_left;
} ink_gguf_strings;

bool ink_gguf_strings_begin(ink_gguf_strings *strings, const ink_gguf_value *value);
bool ink_gguf_strings_next(ink_gguf_strings *strings, ink_gguf_text *text);

#endif
