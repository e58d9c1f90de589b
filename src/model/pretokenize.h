/*
 * pretokenize.h - cuts a text into the pre-tokens of the Qwen2 tokenizer: words, single digits, punctuation, white space.
 * Source: transformers, Qwen2Tokenizer, PRETOKENIZE_REGEX, written out by hand; letters and numbers are the Unicode general
 * categories L and N as utf8proc knows them (marks are neither).
 */
#ifndef INK_MODEL_PRETOKENIZE_H
#define INK_MODEL_PRETOKENIZE_H

#include <stddef.h>

/*
 * The end of the pre-token that begins at start, in a text of valid UTF-8 that ends at end; start < result <= end.
 * Calling it again and again from its own results covers the text in linear time.
 */
size_t ink_pretoken_end(const char *text, size_t start, size_t end);

#endif
