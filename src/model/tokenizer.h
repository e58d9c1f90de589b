/*
 * tokenizer.h - Qwen2 byte-level BPE. Source: transformers, Qwen2Tokenizer (slow) with its vocab.json and merges.txt.
 */
#ifndef INK_MODEL_TOKENIZER_H
#define INK_MODEL_TOKENIZER_H

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

typedef struct ink_tokenizer ink_tokenizer;

/*
 * Reads folder/{vocab.json, merges.txt} and the added tokens of folder/tokenizer_config.json (added_tokens_decoder) and
 * folder/added_tokens.json, whichever are there. Errors: IO (a file is missing), FORMAT (damaged, ids repeated or out of
 * range, a merge whose parts or result are not in the vocabulary, a byte without a token), UNSUPPORTED (an added token that
 * takes the white space around it, or matches whole words only), MEMORY.
 */
ink_status ink_tokenizer_open(ink_tokenizer **tokenizer, const char *folder, ink_error *error);
void ink_tokenizer_close(ink_tokenizer **tokenizer);

/* The same tokenizer with an owner more, who closes it too. */
ink_tokenizer *ink_tokenizer_share(ink_tokenizer *tokenizer);

/* The content of one file, or a part of one, borrowed. data NULL: there is no such file. */
typedef struct ink_tokenizer_file {
    const char *data;
    size_t n_bytes;
} ink_tokenizer_file;

typedef struct ink_tokenizer_files {
    const char *folder; /* names the place in sentences */
    ink_tokenizer_file vocab, merges, config, added_tokens;
} ink_tokenizer_files;

/* What ink_tokenizer_open does with the files it has read; config and added_tokens may be absent. */
ink_status ink_tokenizer_parse(ink_tokenizer **tokenizer, const ink_tokenizer_files *files, ink_error *error);

/* A tokenizer as lists, as GGUF holds it; all borrowed. Texts need no zero at the end. */
typedef enum ink_token_kind {
    INK_TOKEN_UNUSED = 0, /* an id without a token */
    INK_TOKEN_PLAIN,      /* of the vocabulary: merges make it */
    INK_TOKEN_ADDED       /* found in a text before anything is merged */
} ink_token_kind;

typedef struct ink_token_entry {
    const char *bytes; /* UTF-8 */
    size_t n_bytes;
    ink_token_kind kind;
} ink_token_entry;

typedef struct ink_tokenizer_lists {
    const char *origin, *tokens_name, *merges_name; /* name the places in sentences */
    const ink_token_entry *tokens;                  /* [n_tokens], by id */
    size_t n_tokens;
    const ink_tokenizer_file *merges; /* [n_merges], by rank: two symbols with a space between them */
    size_t n_merges;
} ink_tokenizer_lists;

/* Errors as above, but no IO. */
ink_status ink_tokenizer_build(ink_tokenizer **tokenizer, const ink_tokenizer_lists *lists, ink_error *error);

/*
 * Encodes text[0..n_bytes): NFC, added tokens (longest match first), pre-tokens, merges. *ids is allocated; release with
 * ink_free. Errors: ARGUMENT (invalid UTF-8: the byte offset is named; more than 512 MiB), MEMORY. Time grows about linearly
 * with the text.
 */
ink_status ink_tokenizer_encode(const ink_tokenizer *tokenizer, const char *text, size_t n_bytes, int32_t **ids, size_t *n_ids,
                                ink_error *error);

/* The id of an added or vocabulary token such as "<|image_pad|>", or -1. */
int32_t ink_tokenizer_id(const ink_tokenizer *tokenizer, const char *token);

/* One more than the largest id. */
int32_t ink_tokenizer_size(const ink_tokenizer *tokenizer);

#endif
