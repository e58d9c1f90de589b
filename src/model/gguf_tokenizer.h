/* gguf_tokenizer.h - the tokenizer that a GGUF file holds in its metadata, tokenizer.ggml.*, as llama.cpp's converter writes it. */
#ifndef INK_MODEL_GGUF_TOKENIZER_H
#define INK_MODEL_GGUF_TOKENIZER_H

#include "model/tokenizer.h"
#include "tensor/gguf.h"

/* Whether there is one at all. */
bool ink_gguf_has_tokenizer(const ink_gguf *file);

/*
 * Reads tokenizer.ggml.tokens, token_type and merges. origin (the file's path) names the place in sentences. Control and
 * user-defined tokens are added tokens, unused ones (of a padded vocabulary) are left out.
 * Errors: FORMAT, MEMORY as of ink_tokenizer_build; UNSUPPORTED for another model than "gpt2" (byte-level BPE) or another
 * pre-tokenizer than "qwen2".
 */
ink_status ink_gguf_tokenizer_open(ink_tokenizer **tokenizer, const ink_gguf *file, const char *origin, ink_error *error);

#endif
