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
typedef struct ink_upload_item {
    unsigned char *dst;
    const unsigned char *src;
    size_t size;
} ink_upload_item;

typedef struct ink_upload_list {
    ink_upload_item *items; /* owned, until they are carried out or forgotten */
    size_t n, capacity, bytes;
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
void ink_upload_forget(ink_upload_list *list);

/*
 * Copies that are under way, in the order of the list, beside what the device is given to do, which sees of the bytes what has been
 * waited for. Starting takes what the list holds; NULL: there is nothing, or no memory or thread for it, and the list is as it was.
 * Others that use the same threads wait their turn; without threads nothing else may be sent meanwhile.
 */
typedef struct ink_uploading ink_uploading;
ink_uploading *ink_upload_start(const ink_upload *upload, ink_upload_list *list);

/* Waits, for some time at most. True when the first n items of the list have been sent, or all; *left: the bytes that have not. */
bool ink_uploading_wait(ink_uploading *uploading, size_t n, double seconds, int64_t *left);

/* Waits until all has been sent, or with `stop` until what has begun is, and releases it. NULL inside: nothing. */
void ink_uploading_end(ink_uploading **uploading, bool stop);

#endif
