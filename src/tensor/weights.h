/*
 * weights.h - the tensors of one component by name, over all of its files, and the form in which ops use them.
 *
 * Vectors (norms, biases) are always f32. Matrices are f32 or bf16, as the precision says: used in place from the mapping
 * when the file stores that type, else converted into memory of a store.
 */
#ifndef INK_TENSOR_WEIGHTS_H
#define INK_TENSOR_WEIGHTS_H

#include <stdbool.h>

#include "base/error.h"
#include "tensor/dtype.h"
#include "tensor/safetensors.h"
#include "tensor/tensor.h"

/* A matrix [rows, cols], row-major: row n holds the inputs of output n. */
typedef struct ink_weight {
    ink_dtype dtype; /* INK_F32 or INK_BF16 */
    const void *data;
    int64_t rows, cols;
} ink_weight;

/* Memory that holds converted weights, released at once. */
typedef struct ink_store {
    void **blocks;
    size_t n_blocks, capacity;
    int64_t bytes;
} ink_store;

void ink_store_release(ink_store *store);

typedef struct ink_weights ink_weights;

/*
 * Opens folder/STEM.safetensors, or the shards that folder/STEM.safetensors.index.json names. With an index, each tensor must
 * be in the shard that weight_map names. Errors: IO (neither is there; a missing shard, named), FORMAT.
 * `rename`, if not NULL, gives pairs old prefix, new prefix, ended by NULL: names are looked up after the first that fits.
 */
ink_status ink_weights_open(ink_weights **weights, const char *folder, const char *stem, const char *const *rename,
                            ink_error *error);
void ink_weights_close(ink_weights **weights);

size_t ink_weights_count(const ink_weights *weights);
/* i in 0..count, sorted by (renamed) name. */
const ink_tensor_info *ink_weights_at(const ink_weights *weights, size_t i);
size_t ink_weights_n_files(const ink_weights *weights);
/* The folder, for sentences. */
const char *ink_weights_origin(const ink_weights *weights);

/*
 * Binding: a model names each tensor that it needs, with its shape, once, in one function that serves three ends.
 *   INK_BIND_CHECK   looks names, shapes and dtypes up in the headers and counts bytes; what it fills has no data: for a dry run
 *   INK_BIND_LOAD    fills with data
 *   INK_BIND_REPORT  as CHECK, but goes on after a missing tensor and collects its name
 * Sticky: after a failure further calls do nothing; look at `status` once at the end.
 */
typedef enum ink_bind_mode { INK_BIND_CHECK, INK_BIND_LOAD, INK_BIND_REPORT } ink_bind_mode;

typedef struct ink_binder {
    const ink_weights *weights;
    ink_bind_mode mode;
    ink_dtype matrix_dtype; /* INK_F32 or INK_BF16 */
    ink_store *store;       /* INK_BIND_LOAD: receives converted weights */
    ink_error *error;
    ink_status status;
    int64_t mapped_bytes; /* used in place */
    int64_t stored_bytes; /* converted, or to be converted */
    int64_t peak_bytes;   /* the most that stored_bytes ever was */
    /* INK_BIND_LOAD, may be NULL: called after each tensor; a status other than INK_OK ends the binding. */
    ink_status (*loaded)(void *user, const struct ink_binder *binder);
    void *loaded_user;
    bool *used;     /* [count] or NULL: marks tensors that were asked for */
    char **missing; /* INK_BIND_REPORT: owned names */
    size_t n_missing, missing_capacity;
} ink_binder;

/* The tensor NAME (made as by printf) as a vector of n f32, or as a matrix. Shapes in the file may have further dimensions of 1. */
void ink_bind_vector(ink_binder *binder, ink_tensor *dst, int64_t n, const char *format, ...) __attribute__((format(printf, 4, 5)));
void ink_bind_matrix(ink_binder *binder, ink_weight *dst, int64_t rows, int64_t cols, const char *format, ...)
    __attribute__((format(printf, 5, 6)));

/*
 * A convolution [out, in, kt, k, k] or [out, in, k, k], as a matrix [out, k * k * in] in the order (ky, kx, channel).
 * Of a causal 3-D kernel only the last time slice is kept: at T = 1 the others see zeros.
 */
void ink_bind_conv(ink_binder *binder, ink_weight *dst, int64_t out, int64_t in, int64_t k, const char *format, ...)
    __attribute__((format(printf, 6, 7)));

/* Marks every tensor whose name starts with prefix as known though not needed. */
void ink_bind_ignore(ink_binder *binder, const char *prefix);

/* Tells the system that the file's bytes of a tensor are not needed soon. Other ink_weights may still use them: they are read
 * again. */
void ink_bind_drop(const ink_binder *binder, const char *name);

/* Releases what the binder itself owns (used, missing), not the store. */
void ink_binder_release(ink_binder *binder);

#endif
