/*
 * arena.h - scratch memory of a run: taken upwards, given back by mark and release, never freed one by one.
 *
 * A dry arena has no memory: it counts, and hands out addresses that must not be touched. A forward that was run dry tells
 * how much a real arena needs, to the byte.
 */
#ifndef INK_BASE_ARENA_H
#define INK_BASE_ARENA_H

#include <stdbool.h>
#include <stddef.h>

typedef struct ink_arena {
    unsigned char *memory; /* NULL for a dry arena */
    size_t size;           /* of memory; SIZE_MAX for a dry arena */
    size_t used;
    size_t peak;   /* the most that was ever used */
    bool borrowed; /* the memory is another's, and perhaps not the host's */
    bool poison;   /* fill what is handed out with NaN bytes; of memory of the host */
    bool overflow; /* an allocation did not fit */
} ink_arena;

/* False when there is no memory. */
bool ink_arena_create(ink_arena *arena, size_t size);
void ink_arena_create_dry(ink_arena *arena);
/* Over memory that the caller keeps, aligned to 64 bytes. */
void ink_arena_create_over(ink_arena *arena, void *memory, size_t size);
void ink_arena_destroy(ink_arena *arena);

/* What ink_arena_take uses of the arena. */
static inline size_t ink_arena_rounded(size_t size) { return (size + 63) / 64 * 64; }

/* Aligned to 64 bytes, not zeroed. NULL, and overflow set, when it does not fit. */
void *ink_arena_take(ink_arena *arena, size_t size);

size_t ink_arena_mark(const ink_arena *arena);
void ink_arena_release(ink_arena *arena, size_t mark);

#endif
