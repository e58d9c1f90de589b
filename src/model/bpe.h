/*
 * bpe.h - byte-pair encoding: ranked merges of two symbols into one, and applying them to a word.
 * A symbol is any number below 2^32 - 1; here, the index of a token in the token table.
 */
#ifndef INK_MODEL_BPE_H
#define INK_MODEL_BPE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "model/token_table.h"

typedef struct ink_merge {
    uint32_t left, right, result;
} ink_merge;

typedef struct ink_merges {
    ink_merge *merges; /* [n_merges], by rank */
    size_t n_merges, max_merges;
    uint32_t *slots; /* [slot_mask + 1], a power of two: rank + 1, or 0 */
    size_t slot_mask;
} ink_merges;

/* Room for max_merges (at most 2^25). False when there is no memory. */
bool ink_merges_create(ink_merges *merges, size_t max_merges);
void ink_merges_destroy(ink_merges *merges);

/* Adds the merge of the next rank. */
ink_added ink_merges_add(ink_merges *merges, ink_merge merge);

/* What one word needs; grows as longer words come. Begin with all zero. */
typedef struct ink_bpe {
    size_t capacity; /* symbols */
    uint32_t *symbols;
    uint32_t *previous, *next;
    uint32_t *batch;
    uint64_t *heap; /* [3 * capacity] rank << 32 | position */
    size_t n_heap;
} ink_bpe;

/* Makes room for a word of n symbols (at most 2^30). False when there is no memory; the workspace stays valid. */
bool ink_bpe_reserve(ink_bpe *bpe, size_t n);
void ink_bpe_destroy(ink_bpe *bpe);

/*
 * Merges bpe->symbols[0..n) in place and returns how many are left, in about n log n time: again and again, all occurrences
 * of the adjacent pair of lowest rank, from left to right.
 */
size_t ink_bpe_apply(ink_bpe *bpe, size_t n, const ink_merges *merges);

#endif
