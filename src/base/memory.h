/*
 * memory.h - the one place where the library allocates, so that tests can make any allocation fail; and checked sizes.
 */
#ifndef INK_BASE_MEMORY_H
#define INK_BASE_MEMORY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Zeroed memory, aligned to 64 bytes, or NULL. size 0 gives a valid block. Release with ink_free (inkstone.h). */
void *ink_alloc(size_t size);

/* The same, not zeroed: for what is filled at once, or is too large to be touched twice. */
void *ink_alloc_unset(size_t size);

/* ink_alloc(count * size), NULL when the product does not fit. */
void *ink_alloc_array(size_t count, size_t size);

/* A copy of a string, or NULL. Release with ink_free. */
char *ink_strdup(const char *text);

/* A string made as by printf, or NULL. Release with ink_free. */
char *ink_format(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* True when a * b or a + b fits; the result goes to *out. Operands must not be negative. */
static inline bool ink_mul_fits(int64_t a, int64_t b, int64_t *out) {
    return a >= 0 && b >= 0 && !__builtin_mul_overflow(a, b, out);
}
static inline bool ink_add_fits(int64_t a, int64_t b, int64_t *out) {
    return a >= 0 && b >= 0 && !__builtin_add_overflow(a, b, out);
}

/*
 * Test hook: after `allowed` more successful allocations of this thread, every ink_alloc of this thread fails; negative: never.
 * Thread-local, so it is no shared state. ink_alloc_count: allocations of this thread so far.
 */
void ink_alloc_fail_after(int64_t allowed);
int64_t ink_alloc_count(void);

/* A list of n items that has room for one more; NULL, and the old one untouched, without memory. */
void *ink_list_grow(void *list, size_t n, size_t item_bytes, size_t *capacity);

#endif
