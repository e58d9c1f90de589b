/* prompt.c - template, tokens and length limit. */
#include "pipeline/prompt.h"

#include <string.h>

#include "base/memory.h"

/* The fixed text around a prompt. */
static const char before_prompt[] =
    "<|im_start|>system\nDescribe the image by detailing the color, shape, size, texture, quantity, text, spatial relationships of "
    "the objects and background:<|im_end|>\n<|im_start|>user\n";
static const char after_prompt[] = "<|im_end|>\n<|im_start|>assistant\n";

enum {
    PUBLISHED_BEGINNING = 34, /* tokens of before_prompt with the published vocabulary */
    MAX_ROWS = 512,           /* of text states, the reference's max_sequence_length */
    MAX_BYTES = 65536,        /* a text beyond this is no prompt but a mistake: next to nothing of it would be read */
};

ink_status ink_prompt_encode(ink_prompt *prompt, const ink_tokenizer *tokenizer, const char *text, const char *what,
                             ink_error *error) {
    *prompt = (ink_prompt){0};
    size_t n_ids, n_bytes = strlen(text);
    if (n_bytes > MAX_BYTES)
        return ink_fail(error, INK_ERROR_ARGUMENT,
                        "the %s has %zu bytes: at most %d are taken, and the model reads no more than %d tokens", what, n_bytes,
                        MAX_BYTES, MAX_ROWS);
    ink_status status = ink_tokenizer_encode(tokenizer, text, n_bytes, &prompt->ids, &n_ids, error);
    if (status == INK_ERROR_ARGUMENT && error) {
        ink_error inner = *error;
        return ink_fail(error, status, "the %s: %s", what, inner.message);
    }
    if (status != INK_OK) return status;
    ink_free(prompt->ids);
    prompt->ids = NULL;
    prompt->n_text = (int64_t)n_ids;

    /* The vocabulary decides how long the beginning is. */
    int32_t *beginning;
    size_t n_beginning;
    status = ink_tokenizer_encode(tokenizer, before_prompt, sizeof before_prompt - 1, &beginning, &n_beginning, error);
    if (status != INK_OK) return status;
    ink_free(beginning);

    char *whole = ink_format("%s%s%s", before_prompt, text, after_prompt);
    if (!whole) return ink_fail(error, INK_ERROR_MEMORY, "no memory for the %s", what);
    status = ink_tokenizer_encode(tokenizer, whole, strlen(whole), &prompt->ids, &n_ids, error);
    ink_free(whole);
    if (status != INK_OK) return status;
    prompt->drop = (int64_t)n_beginning;
    /* Attention is causal: rows past the limit change nothing before them, so they need not be computed. */
    prompt->n = (int64_t)n_ids < prompt->drop + MAX_ROWS ? (int64_t)n_ids : prompt->drop + MAX_ROWS;
    prompt->n_cut = (int64_t)n_ids - prompt->n;
    if (prompt->n <= prompt->drop) {
        ink_prompt_release(prompt);
        return ink_fail(error, INK_ERROR_FORMAT, "the tokenizer leaves no token of the %s behind the template", what);
    }
    return INK_OK;
}

ink_status ink_prompt_synthetic(ink_prompt *prompt, int64_t n_rows, int64_t vocab_size, ink_error *error) {
    *prompt = (ink_prompt){.n = PUBLISHED_BEGINNING + n_rows, .n_text = n_rows, .drop = PUBLISHED_BEGINNING};
    prompt->ids = ink_alloc_array((size_t)prompt->n, sizeof *prompt->ids);
    if (!prompt->ids) return ink_fail(error, INK_ERROR_MEMORY, "no memory for the prompt");
    /* Weyl's sequence: spread over the whole table, none twice in a row. */
    for (int64_t i = 0; i < prompt->n; i++)
        prompt->ids[i] = (int32_t)(((uint64_t)i * 0x9e3779b1 & 0xffffffff) * (uint64_t)vocab_size >> 32);
    return INK_OK;
}

void ink_prompt_release(ink_prompt *prompt) {
    ink_free(prompt->ids);
    *prompt = (ink_prompt){0};
}
