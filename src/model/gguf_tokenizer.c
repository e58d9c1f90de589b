/* gguf_tokenizer.c - lists of tokens and merges in the metadata of a GGUF file. */
#include "model/gguf_tokenizer.h"

#include <utf8proc.h>

#include "base/memory.h"

static const char TOKENS_KEY[] = "tokenizer.ggml.tokens", TYPES_KEY[] = "tokenizer.ggml.token_type",
                  MERGES_KEY[] = "tokenizer.ggml.merges", MODEL_KEY[] = "tokenizer.ggml.model", PRE_KEY[] = "tokenizer.ggml.pre";

/* Of tokenizer.ggml.token_type; others (unknown, byte) do not occur in byte-level vocabularies and count as plain. */
enum { TYPE_CONTROL = 3, TYPE_USER_DEFINED = 4, TYPE_UNUSED = 5 };

bool ink_gguf_has_tokenizer(const ink_gguf *file) { return ink_gguf_metadata(file, TOKENS_KEY) != NULL; }

/* The value of `key` must be this string, or may be absent. */
static ink_status check_name(const ink_gguf *file, const char *key, const char *expected, const char *origin, ink_error *error) {
    ink_gguf_text found;
    if (!ink_gguf_metadata(file, key)) return INK_OK;
    if (!ink_gguf_string(file, key, &found)) return ink_fail(error, INK_ERROR_FORMAT, "%s: %s must be a string", origin, key);
    if (!ink_gguf_text_is(found, expected))
        return ink_fail(error, INK_ERROR_UNSUPPORTED, "%s: %s must be \"%s\", other tokenizers are not supported", origin, key,
                        expected);
    return INK_OK;
}

static bool is_text(ink_gguf_text text) {
    const uint8_t *bytes = (const uint8_t *)text.data;
    for (size_t at = 0; at < text.n_bytes;) {
        utf8proc_int32_t point;
        utf8proc_ssize_t used = utf8proc_iterate(bytes + at, (utf8proc_ssize_t)(text.n_bytes - at), &point);
        if (used < 1 || point == 0) return false;
        at += (size_t)used;
    }
    return true;
}

static ink_token_kind kind_of(int64_t type) {
    if (type == TYPE_UNUSED) return INK_TOKEN_UNUSED;
    return type == TYPE_CONTROL || type == TYPE_USER_DEFINED ? INK_TOKEN_ADDED : INK_TOKEN_PLAIN;
}

static ink_status read_tokens(ink_token_entry *tokens, const ink_gguf *file, ink_gguf_strings strings, const char *origin,
                              ink_error *error) {
    const ink_gguf_value *types = ink_gguf_metadata(file, TYPES_KEY);
    if (types && types->n != strings.n_left)
        return ink_fail(error, INK_ERROR_FORMAT, "%s: %s must have as many elements as %s", origin, TYPES_KEY, TOKENS_KEY);
    ink_gguf_text text;
    for (size_t i = 0; ink_gguf_strings_next(&strings, &text); i++) {
        int64_t type = 1;
        if (types && !ink_gguf_i64_at(types, i, &type))
            return ink_fail(error, INK_ERROR_FORMAT, "%s: %s must be an array of integers", origin, TYPES_KEY);
        if (!is_text(text)) return ink_fail(error, INK_ERROR_FORMAT, "%s: %s: token %zu is not UTF-8", origin, TOKENS_KEY, i);
        tokens[i] = (ink_token_entry){text.data, text.n_bytes, kind_of(type)};
    }
    return INK_OK;
}

static void read_merges(ink_tokenizer_file *merges, ink_gguf_strings strings) {
    ink_gguf_text text;
    for (size_t i = 0; ink_gguf_strings_next(&strings, &text); i++) merges[i] = (ink_tokenizer_file){text.data, text.n_bytes};
}

ink_status ink_gguf_tokenizer_open(ink_tokenizer **tokenizer, const ink_gguf *file, const char *origin, ink_error *error) {
    ink_gguf_strings token_strings, merge_strings;
    *tokenizer = NULL;
    ink_status status = check_name(file, MODEL_KEY, "gpt2", origin, error);
    if (status == INK_OK) status = check_name(file, PRE_KEY, "qwen2", origin, error);
    if (status != INK_OK) return status;
    if (!ink_gguf_strings_begin(&token_strings, ink_gguf_metadata(file, TOKENS_KEY)))
        return ink_fail(error, INK_ERROR_FORMAT, "%s: %s must be an array of strings", origin, TOKENS_KEY);
    if (!ink_gguf_strings_begin(&merge_strings, ink_gguf_metadata(file, MERGES_KEY)))
        return ink_fail(error, INK_ERROR_FORMAT, "%s: %s must be an array of strings", origin, MERGES_KEY);

    /* Each has 8 bytes in the file, so that these lists are at most three times as large. */
    ink_token_entry *tokens = ink_alloc_array((size_t)token_strings.n_left, sizeof *tokens);
    ink_tokenizer_file *merges = ink_alloc_array((size_t)merge_strings.n_left, sizeof *merges);
    if (!tokens || !merges) status = ink_fail(error, INK_ERROR_MEMORY, "%s: too little memory to read the tokenizer", origin);
    if (status == INK_OK) status = read_tokens(tokens, file, token_strings, origin, error);
    if (status == INK_OK) {
        read_merges(merges, merge_strings);
        const ink_tokenizer_lists lists = {
            .origin = origin,
            .tokens_name = TOKENS_KEY,
            .merges_name = MERGES_KEY,
            .tokens = tokens,
            .n_tokens = (size_t)token_strings.n_left,
            .merges = merges,
            .n_merges = (size_t)merge_strings.n_left,
        };
        status = ink_tokenizer_build(tokenizer, &lists, error);
    }
    ink_free(tokens);
    ink_free(merges);
    return status;
}
