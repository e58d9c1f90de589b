/*
 * safetensors_writer.h - writing a safetensors file of any size and type piece by piece, in any order.
 *
 * The header comes last: until a writer is finished its file begins with zeros and is read by nobody. Names and places are
 * known from the start, so no piece is ever moved or held.
 */
#ifndef INK_TENSOR_SAFETENSORS_WRITER_H
#define INK_TENSOR_SAFETENSORS_WRITER_H

#include "tensor/safetensors.h"

typedef struct ink_writer_tensor {
    const char *name;  /* borrowed */
    const char *dtype; /* as the format spells it: "U32" */
    int64_t element_bytes;
    int n_dims;
    int64_t shape[INK_MAX_DIMS];
    /* Filled by the writer: */
    int64_t n_bytes, begin; /* in the data; tensors of larger elements come first, so that all are aligned */
    int64_t n_written;
} ink_writer_tensor;

typedef struct ink_safetensors_writer {
    char *path; /* owned */
    int descriptor;
    ink_writer_tensor *tensors; /* borrowed */
    size_t n_tensors;
    char *header; /* owned */
    size_t n_header;
} ink_safetensors_writer;

/*
 * Creates the file, which must not exist. metadata: pairs key, value, ended by NULL; may be NULL. tensors stay the caller's and
 * must outlive the writer. Errors: ARGUMENT (a name twice, an impossible shape), IO, MEMORY. On failure nothing is left.
 */
ink_status ink_safetensors_writer_open(ink_safetensors_writer *writer, const char *path, ink_writer_tensor *tensors,
                                       size_t n_tensors, const char *const *metadata, ink_error *error);

/* Bytes of tensors[i] from offset on; each byte is to be put once. Errors: IO. */
ink_status ink_safetensors_writer_put(ink_safetensors_writer *writer, size_t i, int64_t offset, const void *bytes, int64_t size,
                                      ink_error *error);

/* Writes the header, waits for the disk and closes. Errors: INTERNAL (a tensor is not complete), IO: the file is removed then. */
ink_status ink_safetensors_writer_finish(ink_safetensors_writer *writer, ink_error *error);

/* Closes and removes an unfinished file. Accepts a zeroed or finished writer. */
void ink_safetensors_writer_discard(ink_safetensors_writer *writer);

#endif
