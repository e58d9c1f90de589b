/*
 * weights.h - the tensors of one component by name, over all of its files, whichever container they are in.
 *
 * Names are those of the files until ink_weights_rename brings them to the ones that models ask for.
 */
#ifndef INK_TENSOR_WEIGHTS_H
#define INK_TENSOR_WEIGHTS_H

#include "base/error.h"
#include "tensor/gguf.h"
#include "tensor/safetensors.h"

typedef struct ink_weights ink_weights;

/*
 * Opens folder/STEM.safetensors, or the shards that folder/STEM.safetensors.index.json names. With an index, each tensor must
 * be in the shard that weight_map names. A folder with neither: the only other index, else 0.safetensors and so on, else the only
 * safetensors or GGUF file. Errors: IO (nothing is there, or too much; a missing shard, named), FORMAT.
 */
ink_status ink_weights_open(ink_weights **weights, const char *folder, const char *stem, ink_error *error);

/* Opens one safetensors or GGUF file; its first bytes say which, not its name. */
ink_status ink_weights_open_file(ink_weights **weights, const char *path, ink_error *error);

void ink_weights_close(ink_weights **weights);

/* ---- names --------------------------------------------------------------------------------------------------------- */

enum { INK_MAX_TENSOR_NAME = 256 };

typedef enum ink_renaming { INK_NAME_KEPT, INK_NAME_CHANGED, INK_NAME_DROPPED } ink_renaming;

/* What becomes of a name; CHANGED: renamed holds the new one. Must say the same when asked again. */
typedef ink_renaming (*ink_rename_fn)(const void *user, char renamed[INK_MAX_TENSOR_NAME], const char *name);

/*
 * Gives the tensors their new names; dropped ones are no longer there. Pointers from ink_weights_at and ink_weights_find are void.
 * Errors: FORMAT when two become one; the weights are only good to be closed then. MEMORY.
 */
ink_status ink_weights_rename(ink_weights *weights, ink_rename_fn rename, const void *user, ink_error *error);

/* Says that convolutions have their channels behind the taps, as MLX stores them. No shape tells it for certain. */
void ink_weights_set_channels_last(ink_weights *weights, bool channels_last);
bool ink_weights_channels_last(const ink_weights *weights);

/* ---- what is there --------------------------------------------------------------------------------------------------- */

size_t ink_weights_count(const ink_weights *weights);
/* i in 0..count, sorted by name, in one array. */
const ink_tensor_info *ink_weights_at(const ink_weights *weights, size_t i);
size_t ink_weights_n_files(const ink_weights *weights);
/* The folder or the file, for sentences. */
const char *ink_weights_origin(const ink_weights *weights);
/* The (first) file with its metadata if it is GGUF, else NULL. */
const ink_gguf *ink_weights_gguf(const ink_weights *weights);

/* Tells the system that the pages of all files are not needed soon; they can still be read. */
void ink_weights_drop(const ink_weights *weights);

/* The file that holds these bytes of a tensor. */
const ink_mapfile *ink_weights_file_of(const ink_weights *weights, const void *data);

/* NULL when there is no such tensor. */
const ink_tensor_info *ink_weights_find(const ink_weights *weights, const char *name);

#endif
