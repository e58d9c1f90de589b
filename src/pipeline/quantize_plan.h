/* quantize_plan.h - what becomes of every tensor of a model that is written in another precision. */
#ifndef INK_PIPELINE_QUANTIZE_PLAN_H
#define INK_PIPELINE_QUANTIZE_PLAN_H

#include "pipeline/model.h"

/* Sums of squares whose ratio is an error. */
typedef struct ink_error_sums {
    double difference, norm;
} ink_error_sums;

typedef struct ink_quantize_item {
    const ink_tensor_info *info;
    ink_weight stored;     /* of a matrix or a convolution, as the file holds it */
    ink_dtype form;        /* what that becomes */
    bool converted;        /* written as form; else byte for byte, or not at all */
    bool dropped;          /* not written */
    size_t shard;          /* the file that it goes to */
    ink_error_sums weight; /* of what was written */
    ink_error_sums output; /* of the calibration run */
} ink_quantize_item;

/* One tensor in the file: an item has up to three. */
typedef struct ink_quantize_part {
    char name[INK_MAX_TENSOR_NAME + 16];
    const char *dtype;
    int64_t element_bytes;
    int n_dims;
    int64_t shape[INK_MAX_DIMS];
    int64_t n_bytes;
} ink_quantize_part;

enum { INK_MAX_PARTS = 3 }; /* numbers; scales; biases */

typedef struct ink_quantize_component {
    ink_component component;
    const ink_weights *weights;
    ink_quantize_item *items; /* owned; in the order of the weights */
    size_t n_items, n_shards;
} ink_quantize_component;

typedef struct ink_quantize_plan {
    ink_quantize_component components[INK_N_COMPONENTS];
    int64_t source_bytes, bytes; /* of what is written */
    int64_t model_bytes;         /* of the source, with what is left out */
    size_t n_written;            /* items */
} ink_quantize_plan;

/* Errors: ARGUMENT, UNSUPPORTED, MEMORY. Release in any case. */
ink_status ink_quantize_plan_make(ink_quantize_plan *plan, const ink_model *model, const ink_quantize_options *options,
                                  ink_error *error);
void ink_quantize_plan_release(ink_quantize_plan *plan);

/* The item of that tensor, which must be one of the model's; NULL when there is none. */
ink_quantize_item *ink_quantize_plan_find(const ink_quantize_plan *plan, const char *name);

/* Fills the item's tensors as they stand in the file, and returns their number. */
int ink_quantize_parts(ink_quantize_part parts[INK_MAX_PARTS], const ink_quantize_item *item);

/* "Q4": how the item is written. Borrowed from the item, or static. */
const char *ink_quantize_form_name(const ink_quantize_item *item);

/* Whether the item is written in fewer than 16 bits, and was not before. */
bool ink_quantize_is_smaller(const ink_quantize_item *item);

#endif
