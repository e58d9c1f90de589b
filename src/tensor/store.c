/* store.c - taking blocks, and releasing them. */
#include "tensor/store.h"

#include "base/memory.h"
#include "inkstone.h"

bool ink_blocks_make_room(ink_blocks *blocks) {
    void **list = ink_list_grow(blocks->list, blocks->n, sizeof *blocks->list, &blocks->capacity);
    if (list) blocks->list = list;
    return list != NULL;
}

void *ink_store_take(ink_store *store, size_t size) {
    void *block = ink_blocks_make_room(&store->host) ? ink_alloc_unset(size) : NULL;
    if (!block) return NULL;
    store->host.list[store->host.n++] = block;
    store->bytes += (int64_t)size;
    return block;
}

void ink_store_release(ink_store *store) {
    for (size_t i = 0; i < store->host.n; i++) ink_free(store->host.list[i]);
    for (size_t i = 0; i < store->placed.n; i++) store->memory->release(store->device, store->placed.list[i]);
    ink_free(store->host.list);
    ink_free(store->placed.list);
    *store = (ink_store){0};
}
