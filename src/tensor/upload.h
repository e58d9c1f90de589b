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

/* Copies them to other memory of the host. */
void ink_upload_copy(const ink_upload *upload, void *dst, const void *src, size_t size);

/* Brings them to dst on the device; src is free when it returns. What goes wrong, the device keeps. */
void ink_upload_bytes(const ink_upload *upload, void *dst, const void *src, size_t size);

#endif
