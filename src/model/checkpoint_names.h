/*
 * checkpoint_names.h - the names under which other programs store the tensors of our networks, and the way from them to ours: those
 * of diffusers for transformer and VAE, those of the published text encoder.
 */
#ifndef INK_MODEL_CHECKPOINT_NAMES_H
#define INK_MODEL_CHECKPOINT_NAMES_H

#include "tensor/weights.h"

typedef enum ink_component { INK_TEXT_ENCODER, INK_TRANSFORMER, INK_VAE, INK_N_COMPONENTS } ink_component;

/* How one file spells the names of a component. */
typedef struct ink_spelling {
    ink_component component;
    char prefix[INK_MAX_TENSOR_NAME]; /* before every name: "model.diffusion_model." in a file that may hold other things too */
    int64_t level_length;             /* Wan's list of the decoder's layers: so many to a level; else 0 */
    bool channels_last;               /* convolutions as MLX stores them */
} ink_spelling;

/* Whether these tensors, under the names of their file, are (among others) the component's. *spelling is good for renaming in any
 * case: if they are not, as names that have no prefix. */
bool ink_spelling_find(ink_spelling *spelling, ink_component component, const ink_weights *weights);

/*
 * An ink_rename_fn; user is the ink_spelling. Drops what belongs to other components of the file, and what is known and of no
 * use: the scales of activations that some 8-bit files bring.
 */
ink_renaming ink_spelling_rename(const void *user, char renamed[INK_MAX_TENSOR_NAME], const char *name);

#endif
