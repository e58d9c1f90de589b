/*
 * device_memory.h - the memory of a device that does not compute in the host's, as those see it who bring numbers there.
 */
#ifndef INK_TENSOR_DEVICE_MEMORY_H
#define INK_TENSOR_DEVICE_MEMORY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct ink_device;

enum { INK_N_STAGINGS = 20 };

/*
 * The memory of a device that does not compute in the host's. Its addresses mean nothing to the host, but for shared ones. Work is
 * queued, in order; a failure is kept until `failure` is asked.
 */
typedef struct ink_device_memory {
    void *(*alloc)(const struct ink_device *, size_t bytes); /* NULL when there is none; released in any order */
    void (*release)(const struct ink_device *, void *memory);
    void *(*alloc_shared)(const struct ink_device *, size_t bytes); /* of the host, and read and written by the device: slow */
    void (*release_shared)(const struct ink_device *, void *memory);
    void (*upload)(const struct ink_device *, void *dst, const void *src, size_t bytes);   /* src is free when it returns */
    void (*download)(const struct ink_device *, void *dst, const void *src, size_t bytes); /* dst is there when it returns */
    /* The same for much, in two halves: number i of INK_N_STAGINGS pieces of page-locked memory of the host (NULL after a failure),
       which the caller fills, and the first bytes of it on their way, between begin_sending and end_sending. What the piece has
       sent before is there when `staging` returns. Several threads may be at it, each with pieces of its own. */
    size_t staging_bytes; /* of a piece */
    void *(*staging)(const struct ink_device *, int64_t i);
    void (*send)(const struct ink_device *, int64_t i, void *dst, size_t bytes);
    /* What is sent in between comes after all that was queued before the first, and beside what is queued after it; what is queued
       after the second sees it. see_sent, in between: so does, in both queues, what is queued from here on of what has been sent up
       to here. Several may have begun, and each needs an end; nothing is recorded at any of the three. `wait` does not wait for
       what is being sent. */
    void (*begin_sending)(const struct ink_device *);
    void (*see_sent)(const struct ink_device *);
    void (*end_sending)(const struct ink_device *);
    void (*wait)(const struct ink_device *); /* until all that was queued is done */
    void (*info)(const struct ink_device *, int64_t *free_bytes, int64_t *total_bytes);
    const char *(*failure)(const struct ink_device *); /* what went wrong first, or NULL; until the device is closed */
    /*
     * Two queues. begin_aside: what is queued from here on, up to end_aside, may be done beside what comes after that, up to
     * join_aside. It begins when all that was queued before is done, aside or not; goes_on: when all that was queued aside is,
     * whatever the other queue has got to since the last time that it was waited for. spares: small products leave part of the
     * device to the other queue; else each is done as if it were alone.
     */
    void (*begin_aside)(const struct ink_device *, bool goes_on, bool spares);
    void (*end_aside)(const struct ink_device *);
    void (*join_aside)(const struct ink_device *);
    /*
     * Recorded work. record_begin: what is queued from here on is kept instead of done; record_end gives it, or NULL where that is
     * not possible; replay queues it, any number of times, on the addresses that were used.
     */
    bool (*record_begin)(const struct ink_device *);
    void *(*record_end)(const struct ink_device *);
    void (*replay)(const struct ink_device *, void *record);
    void (*record_release)(const struct ink_device *, void *record);
    /*
     * Memory of the device that is filled again and again, slot 0 or 1, beside the work. fetch: src, which is of alloc_shared and
     * stays as it is until the bytes are there, comes to dst some time after all that was queued when the slot was last left, in
     * both queues. await: what is queued from here on, and aside from here on, begins when the last fetch of the slot is done.
     * leave: no more work that uses the slot will be queued before it is awaited again. Within recorded work each is of that work
     * alone: a slot is left before it is first fetched, and every fetch is awaited.
     */
    void (*fetch)(const struct ink_device *, int slot, void *dst, const void *src, size_t bytes);
    void (*await)(const struct ink_device *, int slot);
    void (*leave)(const struct ink_device *, int slot);
} ink_device_memory;

#endif
