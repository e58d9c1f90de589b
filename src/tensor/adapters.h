/*
 * adapters.h - LoRA files: small changes of a transformer's matrices that are kept beside them.
 *
 * Read: low-rank pairs (diffusers, PEFT, kohya, ComfyUI names, with alpha), LoKr and LoHa (LyCORIS and PEFT names). Every tensor of
 * a file must fit a matrix of the model: nothing is skipped in silence.
 */
#ifndef INK_TENSOR_ADAPTERS_H
#define INK_TENSOR_ADAPTERS_H

#include "base/error.h"
#include "tensor/weight.h"

typedef struct ink_adapters ink_adapters;

/*
 * Opens n files, each times its scale. A folder is one that PEFT saved: adapter_model.safetensors with adapter_config.json.
 * Errors: IO, FORMAT (a pair without its half, ranks that differ, an alpha that is no number), UNSUPPORTED (DoRA, Tucker
 * decompositions, a name of no known form), ARGUMENT (a scale that is no number), MEMORY.
 */
ink_status ink_adapters_open(ink_adapters **adapters, const ink_lora *loras, size_t n, ink_error *error);
void ink_adapters_close(ink_adapters **adapters);

/* What is to be added to the matrix of that name ("transformer_blocks.0.attn.to_q.weight"). */
typedef struct ink_adapter_branch {
    int64_t rank; /* of all low-rank pairs together; 0: none, or dense */
    bool dense;   /* the change is of full rank, LoKr or LoHa: no narrow middle */
} ink_adapter_branch;

/*
 * Looks the matrix [rows, cols] up and marks what fits it as applied. rank 0 and not dense when nothing does.
 * Errors: FORMAT when shapes do not fit.
 */
ink_status ink_adapters_find(ink_adapters *adapters, ink_adapter_branch *branch, const char *name, int64_t rows, int64_t cols,
                             ink_error *error);

/* Fills down [rank, cols] and up [rows, rank], scales multiplied into up. */
void ink_adapters_fill_low_rank(const ink_adapters *adapters, float *down, float *up, const char *name, int64_t rows, int64_t cols);

/* Adds a row of the whole change, low-rank pairs included, to delta [cols]. */
void ink_adapters_add_row(const ink_adapters *adapters, float *delta, const char *name, int64_t row, int64_t cols);

/* Tensors of all files, and those of modules that were found. */
void ink_adapters_count(const ink_adapters *adapters, int64_t *applied, int64_t *total);

/* Errors: FORMAT, naming the first tensor that fits no matrix of the model. */
ink_status ink_adapters_check_applied(const ink_adapters *adapters, ink_error *error);

#endif
