/*
 * upload.h - numbers from files to where a device reads them, by several threads: one alone copies far slower than the link
 * carries.
 */
#ifndef INK_TENSOR_UPLOAD_H
#define INK_TENSOR_UPLOAD_H

#include "base/threads.h"
#include "tensor/device_memory.h"
#include "tensor/weights.h"

/* Bytes of the host; where a file of the weights (NULL: none) holds them they are read from it, and its pages stay unmapped. */
typedef struct ink_upload {
    const ink_weights *weights;
    ink_threads *threads; /* NULL: the caller alone */
    const ink_device_memory *memory;
    const struct ink_device *device;
} ink_upload;

/* Copies that are still to be made: many at once are faster than one by one, between which threads wait for each other. */
enum { INK_MOST_PENDING = 64 };
typedef struct ink_upload_list {
    struct {
        unsigned char *dst;
        const unsigned char *src;
        size_t size;
    } items[INK_MOST_PENDING];
    int64_t n;
    size_t bytes;
} ink_upload_list;

/* Copies them to other memory of the host. */
void ink_upload_copy(const ink_upload *upload, void *dst, const void *src, size_t size);

/* Brings them to dst on the device; src is free when it returns. What goes wrong, the device keeps. */
void ink_upload_bytes(const ink_upload *upload, void *dst, const void *src, size_t size);

/*
 * The same sooner or later, at the latest in ink_upload_all, which leaves the list empty: src stays as it is until then. What the
 * device is given to do before that does not see the bytes.
 */
void ink_upload_later(const ink_upload *upload, ink_upload_list *list, void *dst, const void *src, size_t size);
void ink_upload_all(const ink_upload *upload, ink_upload_list *list);

#endif
