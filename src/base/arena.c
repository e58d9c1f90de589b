/* arena.c - mark and release over one block. */
#include "base/arena.h"

#include <stdint.h>
#include <string.h>

#include "base/memory.h"
#include "inkstone.h"

enum { ALIGNMENT = 64 };

bool ink_arena_create(ink_arena *arena, size_t size) {
    *arena = (ink_arena){.memory = ink_alloc_unset(size), .size = size};
    return arena->memory != NULL;
}

void ink_arena_create_dry(ink_arena *arena) { *arena = (ink_arena){.size = SIZE_MAX}; }

void ink_arena_create_over(ink_arena *arena, void *memory, size_t size) {
    *arena = (ink_arena){.memory = memory, .size = size, .borrowed = true};
}

void ink_arena_destroy(ink_arena *arena) {
    if (!arena->borrowed) ink_free(arena->memory);
    *arena = (ink_arena){0};
}

void *ink_arena_take(ink_arena *arena, size_t size) {
    if (size > SIZE_MAX - ALIGNMENT || (size + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT > arena->size - arena->used) {
        arena->overflow = true;
        return NULL;
    }
    size_t start = arena->used;
    arena->used += (size + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    if (arena->used > arena->peak) arena->peak = arena->used;
    /* A dry address is never read or written: it only has to be aligned and not null. */
    if (!arena->memory) return (void *)(uintptr_t)ALIGNMENT;
    if (arena->poison) memset(arena->memory + start, 0xff, arena->used - start);
    return arena->memory + start;
}

size_t ink_arena_mark(const ink_arena *arena) { return arena->used; }

void ink_arena_release(ink_arena *arena, size_t mark) { arena->used = mark; }
