/* placing.h - bringing what a binder has bound to a device with memory of its own. What is declared here is the binder's own. */
#ifndef INK_TENSOR_PLACING_H
#define INK_TENSOR_PLACING_H

#include "tensor/binder.h"

/* Counts size bytes as held from here on. */
static inline void ink_binder_count_held(ink_binder *binder, int64_t size) {
    binder->stored_bytes += size;
    if (binder->stored_bytes > binder->peak_bytes) binder->peak_bytes = binder->stored_bytes;
}

/* Where the binder's tensors come from, for sentences. */
const char *ink_binder_origin(const ink_binder *binder);

/*
 * Without effect in the host's memory. Else the matrix and its branch, or the vector, go to the device, where they point from then
 * on; what they were made of on the host goes, from its block number `mark` on. In a dry run they are counted.
 */
void ink_place_weight(ink_binder *binder, ink_weight *w, size_t mark, const char *name);
void ink_place_vector(ink_binder *binder, ink_tensor *x, size_t mark, const char *name);

/* The next block of the host. */
size_t ink_place_mark(const ink_binder *binder);

#endif
