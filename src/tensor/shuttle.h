/*
 * shuttle.h - parts of a network that come and go between the host and a device with memory of its own.
 *
 * Such a part is brought into its final form once, as cargo in page-locked memory of the host, from where it travels to the device
 * each time that it is used. Two slots of the device take turns: while the device computes with the part in one of them, the next
 * is on its way to the other. A part always comes to the same slot, so its addresses never change: weights are bound once, and a
 * pass may be recorded.
 */
#ifndef INK_TENSOR_SHUTTLE_H
#define INK_TENSOR_SHUTTLE_H

#include "tensor/device_memory.h"
#include "tensor/residency.h"

enum { INK_N_SLOTS = 2 };

/* Of one part. */
typedef struct ink_cargo {
    unsigned char *host, *device; /* page-locked, NULL until it is loaded; the slot */
    size_t size, used;
} ink_cargo;

typedef struct ink_shuttle {
    const ink_device_memory *memory;
    const struct ink_device *device;
    void *slots[INK_N_SLOTS];
    ink_cargo *cargoes; /* [n] in the order of the parts; the i-th comes to slot i % INK_N_SLOTS */
    int64_t n;
} ink_shuttle;

/* For the parts that do not stay, of which `counted` [n_parts] tells the buffer_bytes. Errors: MEMORY. */
ink_status ink_shuttle_create(ink_shuttle **shuttle, const ink_device_memory *memory, const struct ink_device *device,
                              const ink_residency *residency, const ink_part *counted, ink_error *error);
/* Waits for what is under way. */
void ink_shuttle_destroy(ink_shuttle **shuttle);

/* The cargo of a part, empty, now to be filled. NULL, and a sentence, without memory. */
ink_cargo *ink_shuttle_load(ink_shuttle *shuttle, int64_t index, ink_error *error);

/* Room for so many bytes: where they will be on the device. NULL when that is more than was counted. */
unsigned char *ink_cargo_take(ink_cargo *cargo, size_t bytes);
/* ... and where the bytes themselves are to be put. */
unsigned char *ink_cargo_host(const ink_cargo *cargo, const unsigned char *place);

/*
 * One pass over all parts, in order: begin; acquire each before its use, and release it when all that uses it is queued. What an
 * earlier pass has queued, though it ended early, is over before the slots are filled anew.
 */
void ink_shuttle_begin(const ink_shuttle *shuttle);
void ink_shuttle_acquire(const ink_shuttle *shuttle, int64_t index);
void ink_shuttle_release(const ink_shuttle *shuttle, int64_t index);

#endif
