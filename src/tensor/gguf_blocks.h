/*
 * gguf_blocks.h - the quantised blocks of GGUF, decoded to f32 bit for bit as the Python package `gguf` does it (gguf/quants.py).
 *
 * Decoding only: nothing here quantises, and nothing multiplies in the quantised form.
 */
#ifndef INK_TENSOR_GGUF_BLOCKS_H
#define INK_TENSOR_GGUF_BLOCKS_H

#include <stdbool.h>
#include <stdint.h>

#include "tensor/dtype.h"

/* Whether ink_gguf_decode knows the type: Q4_0 to Q8_0, Q2_K to Q6_K, IQ4_NL, IQ4_XS. Plain floats are ink_convert's. */
bool ink_gguf_is_block_type(ink_dtype dtype);

/*
 * dst: [n_blocks * ink_dtype_block_elements(dtype)] f32. blocks: as in the file, little-endian, any alignment and any content;
 * a scale that is no number gives elements that are none. dtype must be a block type.
 */
void ink_gguf_decode(float *dst, ink_dtype dtype, const void *blocks, int64_t n_blocks);

#endif
