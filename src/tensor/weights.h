/* weights.h - the tensors of one component by name, over all of its files. */
#ifndef INK_TENSOR_WEIGHTS_H
#define INK_TENSOR_WEIGHTS_H

#include "base/error.h"
#include "tensor/safetensors.h"

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

/* NULL when there is no such tensor. */
const ink_tensor_info *ink_weights_find(const ink_weights *weights, const char *name);

#endif
