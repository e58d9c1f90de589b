/*
 * family.h - says in people's words what a path is that is not a checkpoint this library runs. It only makes sentences: what is
 * supported is decided in config.c.
 */
#ifndef INK_MODEL_FAMILY_H
#define INK_MODEL_FAMILY_H

#include "model/checkpoint_names.h"

/* Refuses a class of pipeline, network, tokenizer or scheduler: where is the file or folder that names it. Returns UNSUPPORTED. */
ink_status ink_family_refuse(const char *where, const char *class_name, ink_error *error);

/*
 * Called when DIR/model_index.json cannot be there or is not, and nothing else of use either: says whether dir is missing, a file,
 * one component of a checkpoint, or something else. Returns IO or UNSUPPORTED.
 */
ink_status ink_family_explain_folder(const char *dir, ink_error *error);

/*
 * Refuses tensors, under the names of their file, that are known to be of something else: another family, a LoRA, another variant
 * of this family. INK_OK when they are not known. Errors: UNSUPPORTED.
 */
ink_status ink_family_check_tensors(const ink_weights *weights, ink_error *error);

/* Says that the tensors are not the component's, and what they are as far as that is known. Returns UNSUPPORTED. */
ink_status ink_family_refuse_tensors(const ink_weights *weights, ink_component expected, ink_error *error);

#endif
