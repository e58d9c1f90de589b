/*
 * adapter_names.h - what the name of a tensor in a LoRA file says: which module it changes, and which part of the change it is.
 *
 * Files differ in how they write a module: prefixes come and go, and kohya turns dots into underscores. Every name is brought to
 * one key (known prefixes off, dots as underscores), and so is the name of a matrix of the model.
 */
#ifndef INK_TENSOR_ADAPTER_NAMES_H
#define INK_TENSOR_ADAPTER_NAMES_H

#include <stdbool.h>
#include <stddef.h>

#include "base/error.h"

enum { INK_ADAPTER_KEY = 256 };

typedef enum ink_adapter_part {
    INK_DOWN, /* low-rank pair: [rank, in] */
    INK_UP,   /* [out, rank] */
    INK_ALPHA,
    INK_LOKR_W1, /* Kronecker product: each factor whole, or a pair */
    INK_LOKR_W1_A,
    INK_LOKR_W1_B,
    INK_LOKR_W2,
    INK_LOKR_W2_A,
    INK_LOKR_W2_B,
    INK_HADA_W1_A, /* Hadamard product of two pairs */
    INK_HADA_W1_B,
    INK_HADA_W2_A,
    INK_HADA_W2_B,
    INK_N_ADAPTER_PARTS
} ink_adapter_part;

typedef struct ink_adapter_name {
    ink_adapter_part part;
    const char *module; /* inside the tensor's name, without prefixes: "transformer_blocks.0.attn.to_q" */
    size_t n_module;    /* its length */
    char key[INK_ADAPTER_KEY];
} ink_adapter_name;

/* Errors: UNSUPPORTED (another form of adapter, a text encoder), FORMAT (too long). origin names the file in sentences. */
ink_status ink_adapter_name_parse(ink_adapter_name *name, const char *tensor, const char *origin, ink_error *error);

/* The key of a matrix of the model, whose name ends with ".weight" or not. False when it is too long. */
bool ink_adapter_key(char key[INK_ADAPTER_KEY], const char *matrix);

/*
 * PEFT's patterns are regular expressions for the end of a module's name, from a dot on. Those that are plain names are
 * understood, with ^ in front or not. False from the first when one is more than that.
 */
bool ink_adapter_pattern_is_plain(const char *pattern);
bool ink_adapter_pattern_matches(const char *pattern, const char *module, size_t n_module);

#endif
