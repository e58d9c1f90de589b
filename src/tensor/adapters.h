/*
 * adapters.h - LoRA files: small changes of a transformer's matrices.
 *
 * Read: low-rank pairs (diffusers, PEFT, kohya, ComfyUI names, with alpha), LoKr and LoHa (LyCORIS and PEFT names). Every tensor of
 * a file must fit a matrix of the model: nothing is skipped in silence. What the names say is the matter of adapter_names.h.
 */
#ifndef INK_TENSOR_ADAPTERS_H
#define INK_TENSOR_ADAPTERS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

typedef struct ink_adapters ink_adapters;

/*
 * Opens n files, each times its scale. A folder is one that PEFT saved: adapter_model.safetensors with adapter_config.json.
 * Errors: IO, FORMAT (a pair without its half, ranks that differ, an alpha that is no number), UNSUPPORTED (DoRA, Tucker
 * decompositions, a name of no known form), ARGUMENT (a scale that is no number), MEMORY.
 */
ink_status ink_adapters_open(ink_adapters **adapters, const ink_lora *loras, size_t n, ink_error *error);
void ink_adapters_close(ink_adapters **adapters);

/* The same for one file in memory, which stays the caller's and must outlive *adapters. lora->path names it in sentences. */
ink_status ink_adapters_parse(ink_adapters **adapters, const void *bytes, size_t size, const ink_lora *lora, ink_error *error);

/* The form of what is to be added to a matrix. Both zero: nothing is. */
typedef struct ink_adapter_form {
    int64_t rank; /* of all files together, when written as up [rows, rank] times down [rank, cols] */
    bool dense;   /* written so it would be no smaller than the matrix itself; rank is 0 */
} ink_adapter_form;

/*
 * Looks the matrix of that name up ("transformer_blocks.0.attn.to_q.weight") and marks what fits it as applied.
 * Errors: FORMAT when shapes do not fit.
 */
ink_status ink_adapters_find(ink_adapters *adapters, ink_adapter_form *form, const char *name, int64_t rows, int64_t cols,
                             ink_error *error);

/* What is to be added to one matrix, read from the files. Errors: FORMAT (values that are no numbers), MEMORY. */
typedef struct ink_change ink_change;

ink_status ink_change_open(ink_change **change, const ink_adapters *adapters, const char *name, int64_t rows, int64_t cols,
                           ink_error *error);
void ink_change_close(ink_change **change);

/* Fills down [rank, cols] and up [rows, rank], scales multiplied into up, and ranks as ink_adapters_find said. */
void ink_change_low_rank(const ink_change *change, float *down, float *up);

/* dst [cols] += a row of the change. */
void ink_change_add_row(ink_change *change, float *dst, int64_t row);

/* Tensors of all files, and those of modules that were found. */
void ink_adapters_count(const ink_adapters *adapters, int64_t *applied, int64_t *total);

/* Errors: FORMAT, naming the first tensor that fits no matrix of the model. */
ink_status ink_adapters_check_applied(const ink_adapters *adapters, ink_error *error);

#endif
