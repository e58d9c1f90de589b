/*
 * json_tokenizer.h - the tokenizer in one tokenizer.json, as the tokenizers library writes it: transformers from version 5 on, and
 * mflux with it, save no vocab.json and merges.txt.
 */
#ifndef INK_MODEL_JSON_TOKENIZER_H
#define INK_MODEL_JSON_TOKENIZER_H

#include <jansson.h>

#include "model/tokenizer.h"

/*
 * Reads model.vocab, model.merges and added_tokens. Errors: IO, FORMAT, MEMORY as of ink_tokenizer_build; UNSUPPORTED for another
 * model than BPE, another normaliser or way to split texts than Qwen2's, and added tokens that take the white space around them.
 */
ink_status ink_json_tokenizer_open(ink_tokenizer **tokenizer, const char *path, ink_error *error);

/* The same for JSON in memory; origin names it in sentences. */
ink_status ink_json_tokenizer_parse(ink_tokenizer **tokenizer, const json_t *root, const char *origin, ink_error *error);

#endif
