/* bpe.c - a linked list of symbols and a heap of the pairs that can be merged. */
#include "model/bpe.h"

#include <string.h>

#include "base/memory.h"
#include "model/token_table.h"

#define NOWHERE UINT32_MAX

/* ---- merges ---- */

bool ink_merges_create(ink_merges *merges, size_t max_merges) {
    size_t n_slots = ink_slots_for(max_merges);
    *merges = (ink_merges){.max_merges = max_merges, .slot_mask = n_slots - 1};
    merges->merges = ink_alloc_array(max_merges, sizeof *merges->merges);
    merges->slots = ink_alloc_array(n_slots, sizeof *merges->slots);
    if (merges->merges && merges->slots) return true;
    ink_merges_destroy(merges);
    return false;
}

void ink_merges_destroy(ink_merges *merges) {
    ink_free(merges->merges);
    ink_free(merges->slots);
    *merges = (ink_merges){0};
}

/* The slot that holds a pair, or the empty one where it belongs, or NULL when the search gets too long. */
static uint32_t *find_slot(const ink_merges *merges, uint32_t left, uint32_t right) {
    size_t slot = ink_mix_bits((uint64_t)left << 32 | right) & merges->slot_mask;
    for (int probe = 0; probe < INK_MAX_PROBES; probe++) {
        uint32_t *found = &merges->slots[slot];
        if (!*found) return found;
        const ink_merge *merge = &merges->merges[*found - 1];
        if (merge->left == left && merge->right == right) return found;
        slot = (slot + 1) & merges->slot_mask;
    }
    return NULL;
}

ink_added ink_merges_add(ink_merges *merges, ink_merge merge) {
    uint32_t *slot = find_slot(merges, merge.left, merge.right);
    if (!slot || merges->n_merges == merges->max_merges) return INK_ADD_REFUSED;
    if (*slot) return INK_ADD_REPEATED;
    merges->merges[merges->n_merges++] = merge;
    *slot = (uint32_t)merges->n_merges;
    return INK_ADDED;
}

/* ---- the heap: the lowest rank first, and of equal ranks the leftmost ---- */

static void heap_push(ink_bpe *bpe, uint64_t entry) {
    size_t at = bpe->n_heap++;
    while (at > 0 && bpe->heap[(at - 1) / 2] > entry) {
        bpe->heap[at] = bpe->heap[(at - 1) / 2];
        at = (at - 1) / 2;
    }
    bpe->heap[at] = entry;
}

static uint64_t heap_pop(ink_bpe *bpe) {
    uint64_t top = bpe->heap[0], moved = bpe->heap[--bpe->n_heap];
    size_t at = 0;
    for (;;) {
        size_t child = 2 * at + 1;
        if (child >= bpe->n_heap) break;
        if (child + 1 < bpe->n_heap && bpe->heap[child + 1] < bpe->heap[child]) child++;
        if (bpe->heap[child] >= moved) break;
        bpe->heap[at] = bpe->heap[child];
        at = child;
    }
    bpe->heap[at] = moved;
    return top;
}

/* ---- a word ---- */

void ink_bpe_destroy(ink_bpe *bpe) {
    ink_free(bpe->symbols);
    ink_free(bpe->previous);
    ink_free(bpe->next);
    ink_free(bpe->batch);
    ink_free(bpe->heap);
    *bpe = (ink_bpe){0};
}

bool ink_bpe_reserve(ink_bpe *bpe, size_t n) {
    if (n <= bpe->capacity) return true;
    ink_bpe_destroy(bpe);
    size_t capacity = 64;
    while (capacity < n) capacity *= 2;
    bpe->symbols = ink_alloc_array(capacity, sizeof *bpe->symbols);
    bpe->previous = ink_alloc_array(capacity, sizeof *bpe->previous);
    bpe->next = ink_alloc_array(capacity, sizeof *bpe->next);
    bpe->batch = ink_alloc_array(capacity, sizeof *bpe->batch);
    /* A word of n symbols begins with n - 1 pairs; each of its at most n - 1 merges makes two new ones. */
    bpe->heap = ink_alloc_array(capacity, 3 * sizeof *bpe->heap);
    if (bpe->symbols && bpe->previous && bpe->next && bpe->batch && bpe->heap) {
        bpe->capacity = capacity;
        return true;
    }
    ink_bpe_destroy(bpe);
    return false;
}

/* Puts the pair that begins at a position on the heap, if it can be merged. */
static void push_pair(ink_bpe *bpe, uint32_t at, const ink_merges *merges) {
    if (at == NOWHERE || bpe->next[at] == NOWHERE) return;
    const uint32_t *slot = find_slot(merges, bpe->symbols[at], bpe->symbols[bpe->next[at]]);
    if (slot && *slot) heap_push(bpe, (uint64_t)(*slot - 1) << 32 | at);
}

/* Takes all pairs of the lowest rank off the heap; their positions go to bpe->batch, from left to right. */
static size_t pop_batch(ink_bpe *bpe, uint32_t *rank) {
    size_t n = 0;
    *rank = (uint32_t)(bpe->heap[0] >> 32);
    while (bpe->n_heap > 0 && (uint32_t)(bpe->heap[0] >> 32) == *rank) bpe->batch[n++] = (uint32_t)heap_pop(bpe);
    return n;
}

/* Merges the pair at a position, unless one of its symbols has become part of another since it was put on the heap. */
static void merge_pair(ink_bpe *bpe, uint32_t at, uint32_t rank, const ink_merges *merges) {
    const ink_merge *merge = &merges->merges[rank];
    uint32_t after = bpe->next[at];
    if (bpe->symbols[at] != merge->left || after == NOWHERE || bpe->symbols[after] != merge->right) return;
    uint32_t behind = bpe->next[after];
    bpe->symbols[at] = merge->result;
    bpe->symbols[after] = INK_NO_TOKEN;
    bpe->next[at] = behind;
    if (behind != NOWHERE) bpe->previous[behind] = at;
    push_pair(bpe, bpe->previous[at], merges);
    push_pair(bpe, at, merges);
}

size_t ink_bpe_apply(ink_bpe *bpe, size_t n, const ink_merges *merges) {
    bpe->n_heap = 0;
    for (size_t i = 0; i < n; i++) {
        bpe->previous[i] = i > 0 ? (uint32_t)(i - 1) : NOWHERE;
        bpe->next[i] = i + 1 < n ? (uint32_t)(i + 1) : NOWHERE;
    }
    for (size_t i = 0; i < n; i++) push_pair(bpe, (uint32_t)i, merges);
    while (bpe->n_heap > 0) {
        uint32_t rank;
        /* A merge may make a pair of a lower rank; it waits until all pairs of this rank are done. */
        size_t n_batch = pop_batch(bpe, &rank);
        for (size_t i = 0; i < n_batch; i++) merge_pair(bpe, bpe->batch[i], rank, merges);
    }
    size_t n_left = 0;
    for (uint32_t at = n > 0 ? 0 : NOWHERE; at != NOWHERE; at = bpe->next[at]) bpe->symbols[n_left++] = bpe->symbols[at];
    return n_left;
}
