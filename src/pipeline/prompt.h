/* prompt.h - a prompt as the text encoder is given it. Source: diffusers, pipeline_qwenimage.py. */
#ifndef INK_PIPELINE_PROMPT_H
#define INK_PIPELINE_PROMPT_H

#include "model/tokenizer.h"

typedef struct ink_prompt {
    int32_t *ids; /* owned: [n] of template and text, cut to what the model reads */
    int64_t n;
    int64_t n_text, n_cut; /* tokens of the text alone; those that were cut off */
    int64_t drop;          /* the first rows of the encoder's states, those of the template's beginning, are not given on */
} ink_prompt;

/* Errors: ARGUMENT (no valid UTF-8, or far more text than is read; named by what: "prompt"), MEMORY. */
ink_status ink_prompt_encode(ink_prompt *prompt, const ink_tokenizer *tokenizer, const char *text, const char *what,
                             ink_error *error);
/* A prompt without words: random ids below vocab_size, n_rows of them behind a beginning as long as the published one. */
ink_status ink_prompt_synthetic(ink_prompt *prompt, int64_t n_rows, int64_t vocab_size, ink_error *error);
void ink_prompt_release(ink_prompt *prompt);

#endif
