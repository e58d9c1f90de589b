/* architecture.h - sizes of networks that can be measured without a checkpoint: those of the published one, stated once. */
#ifndef INK_MODEL_ARCHITECTURE_H
#define INK_MODEL_ARCHITECTURE_H

#include "model/config.h"

/*
 * Fills config with the architecture of that name: "qwen-image" is the published one, "tiny" has a size that takes no time. Either
 * may be followed by ":N", N blocks of the transformer in place of all. *whole_blocks receives the number without N. Release with
 * ink_config_close in any case. Errors: ARGUMENT.
 */
ink_status ink_architecture_find(ink_config *config, int64_t *whole_blocks, const char *name, ink_error *error);

#endif
