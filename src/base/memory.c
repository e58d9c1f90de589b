/* memory.c - allocation with a test hook. */
#define _GNU_SOURCE
#include "base/memory.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "inkstone.h"

/* Large blocks are aligned to large pages, and the system is asked for them: matrices are walked through in strides. */
enum { ALIGNMENT = 64, LARGE_PAGE = 2 << 20, LARGE_BLOCK = 2 * LARGE_PAGE };

static _Thread_local int64_t allowed_allocations = -1;
static _Thread_local int64_t made_allocations;

void ink_alloc_fail_after(int64_t allowed) { allowed_allocations = allowed; }

int64_t ink_alloc_count(void) { return made_allocations; }

void *ink_alloc_unset(size_t size) {
    if (allowed_allocations == 0) return NULL;
    if (allowed_allocations > 0) allowed_allocations--;
    const size_t alignment = size >= LARGE_BLOCK ? LARGE_PAGE : ALIGNMENT;
    if (size > SIZE_MAX - alignment) return NULL;
    size_t rounded = size < alignment ? alignment : (size + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    void *memory = NULL;
    if (posix_memalign(&memory, alignment, rounded) != 0) return NULL;
    made_allocations++;
#ifdef MADV_HUGEPAGE
    if (alignment == LARGE_PAGE) madvise(memory, rounded / LARGE_PAGE * LARGE_PAGE, MADV_HUGEPAGE);
#endif
    return memory;
}

void *ink_alloc(size_t size) {
    void *memory = ink_alloc_unset(size);
    return memory ? memset(memory, 0, size) : NULL;
}

void *ink_alloc_array(size_t count, size_t size) {
    size_t total;
    if (__builtin_mul_overflow(count, size, &total)) return NULL;
    return ink_alloc(total);
}

char *ink_strdup(const char *text) {
    size_t size = strlen(text) + 1;
    char *copy = ink_alloc(size);
    return copy ? memcpy(copy, text, size) : NULL;
}

char *ink_format(const char *format, ...) {
    va_list arguments, again;
    va_start(arguments, format);
    va_copy(again, arguments);
    int length = vsnprintf(NULL, 0, format, arguments);
    va_end(arguments);
    char *text = length < 0 ? NULL : ink_alloc((size_t)length + 1);
    if (text) vsnprintf(text, (size_t)length + 1, format, again);
    va_end(again);
    return text;
}

void ink_free(void *memory) { free(memory); }

void *ink_list_grow(void *list, size_t n, size_t item_bytes, size_t *capacity) {
    if (n < *capacity) return list;
    size_t larger = *capacity ? 2 * *capacity : 64;
    void *copy = ink_alloc_array(larger, item_bytes);
    if (!copy) return NULL;
    if (n) memcpy(copy, list, n * item_bytes);
    ink_free(list);
    *capacity = larger;
    return copy;
}
