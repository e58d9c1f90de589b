/*
 * config_infer.h - configs of files that come without any: every dimension from the shapes of the tensors, and from GGUF metadata
 * where a shape leaves it open.
 */
#ifndef INK_MODEL_CONFIG_INFER_H
#define INK_MODEL_CONFIG_INFER_H

#include "model/checkpoint_names.h"
#include "model/config.h"

/*
 * Fills the component's part of the config. The weights have the names that models ask for. What shapes do not tell is as
 * published: head_dim 128 of the text encoder, rope axes (16, 56, 56) for heads of 128 channels, the latents' statistics for
 * z_dim 16. Errors: FORMAT (a tensor that is missing or has an impossible shape), UNSUPPORTED (no way to know: needs a
 * config.json).
 */
ink_status ink_config_infer(ink_config *config, ink_component component, const ink_weights *weights, ink_error *error);

#endif
