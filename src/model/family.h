/*
 * family.h - says in people's words what a path is that is not a checkpoint this library runs. It only makes sentences: what is
 * supported is decided in config.c.
 */
#ifndef INK_MODEL_FAMILY_H
#define INK_MODEL_FAMILY_H

#include "base/error.h"

/* Refuses a class of pipeline, network, tokenizer or scheduler: where is the file or folder that names it. Returns UNSUPPORTED. */
ink_status ink_family_refuse(const char *where, const char *class_name, ink_error *error);

/*
 * Called when DIR/model_index.json cannot be there or is not: says whether dir is missing, a file, one component of a checkpoint,
 * or a folder for other programs. Returns IO or UNSUPPORTED.
 */
ink_status ink_family_explain_folder(const char *dir, ink_error *error);

#endif
