/*
 * residency.h - which parts of a network, block by block, stay in memory while it runs, and which come and go.
 *
 * Those that stay lie evenly among the others, so that there is work to be done while one comes. Of the others one is there at a
 * time, and the next is on its way from the disk: a forward acquires a part (ink_bind_acquire in binder.h), asks for the next one,
 * computes, and releases it. What is used in place is read from the mapped file and dropped from it; what is converted is made anew
 * each time, in one buffer for all of them. On a device with memory of its own all parts are loaded once, and travel between the
 * host and the device: see shuttle.h.
 *
 * A null residency is one of which all parts stay.
 */
#ifndef INK_TENSOR_RESIDENCY_H
#define INK_TENSOR_RESIDENCY_H

#include <stdbool.h>

#include "base/arena.h"
#include "tensor/device_memory.h"
#include "tensor/weights.h"

/* What binding has found a part to be. */
typedef struct ink_part {
    int64_t mapped_bytes; /* used in place */
    int64_t stored_bytes; /* converted, or on a device, while the part stays */
    int64_t buffer_bytes; /* ... while it comes and goes: the same, and what alignment takes */
    int64_t file_bytes;   /* to read, for either */
    size_t n_uploads;     /* of those that follow the binding (ink_binder): up to the end of the part */
    struct ink_part_range *ranges;
    size_t n_ranges, capacity;
} ink_part;

/* Of n parts some stay: how many of the first `part` ones do not. */
static inline int64_t ink_parts_gone(int64_t n, int64_t n_stay, int64_t part) { return part * (n - n_stay) / n; }

static inline bool ink_part_stays(int64_t n, int64_t n_stay, int64_t part) {
    return ink_parts_gone(n, n_stay, part + 1) == ink_parts_gone(n, n_stay, part);
}

typedef struct ink_residency {
    const ink_weights *weights; /* borrowed; NULL: the parts are of no file */
    int64_t n_parts, n_stay;
    ink_part *parts;  /* [n_parts] */
    ink_arena buffer; /* of the part that is there */
    struct ink_reader *reader;
    struct ink_shuttle *shuttle; /* on a device, of the parts that do not stay; NULL: all do */
} ink_residency;

/* Of n_parts n_stay shall stay. Errors: MEMORY. */
ink_status ink_residency_create(ink_residency **residency, const ink_weights *weights, int64_t n_parts, int64_t n_stay,
                                ink_error *error);
void ink_residency_destroy(ink_residency **residency);

bool ink_residency_stays(const ink_residency *residency, int64_t part);

/* The number of a part among those that do not stay. */
int64_t ink_residency_index(const ink_residency *residency, int64_t part);

/*
 * The parts are those of a device with memory of its own, before any is bound. counted: what a dry run has found them to be.
 * Errors: MEMORY.
 */
ink_status ink_residency_to_device(ink_residency *residency, const ink_device_memory *memory, const struct ink_device *device,
                                   const ink_part *counted, ink_error *error);

/* Adds a tensor in the file to a part. False without memory. */
bool ink_residency_note(ink_part *part, const void *data, size_t size);

/* Gets ready when all parts are known. Errors: MEMORY. */
ink_status ink_residency_start(ink_residency *residency, ink_error *error);

/* A pass over all parts, in order, begins. */
void ink_residency_begin(const ink_residency *residency);

/* Begins to read the first part from `part` on that does not stay; nothing at n_parts. Returns at once. */
void ink_residency_prefetch(ink_residency *residency, int64_t part);

/* The part is not needed until it is acquired again. */
void ink_residency_release(ink_residency *residency, int64_t part);

#endif
