/* store.h - lists of blocks of memory that are released at once. */
#ifndef INK_TENSOR_STORE_H
#define INK_TENSOR_STORE_H

#include "tensor/device_memory.h"

typedef struct ink_blocks {
    void **list;
    size_t n, capacity;
} ink_blocks;

/* Memory that holds converted weights, or all of them where they lie on a device. */
typedef struct ink_store {
    ink_blocks host, placed;         /* placed: on the device */
    int64_t bytes;                   /* of host */
    const ink_device_memory *memory; /* of placed */
    const struct ink_device *device;
} ink_store;

/* Room for one more in the list. False without memory. */
bool ink_blocks_make_room(ink_blocks *blocks);

/* size bytes of the host; NULL without memory. */
void *ink_store_take(ink_store *store, size_t size);

void ink_store_release(ink_store *store);

#endif
