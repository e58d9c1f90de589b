/* gguf_maker.c - GGUF files in memory. */
#include "support/gguf_maker.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void test_gguf_put(test_gguf *gguf, const void *bytes, size_t size) {
    if (size == 0) return;
    gguf->bytes = realloc(gguf->bytes, gguf->size + size);
    if (!gguf->bytes) {
        fprintf(stderr, "test: no memory for a GGUF file\n");
        abort();
    }
    if (bytes)
        memcpy(gguf->bytes + gguf->size, bytes, size);
    else
        memset(gguf->bytes + gguf->size, 0, size);
    gguf->size += size;
}

void test_gguf_zeros(test_gguf *gguf, size_t size) { test_gguf_put(gguf, NULL, size); }

void test_gguf_uint(test_gguf *gguf, uint64_t value, int n_bytes) {
    unsigned char bytes[8];
    for (int i = 0; i < n_bytes; i++) bytes[i] = (unsigned char)(value >> 8 * i);
    test_gguf_put(gguf, bytes, (size_t)n_bytes);
}

void test_gguf_text(test_gguf *gguf, const char *text) {
    test_gguf_uint(gguf, strlen(text), 8);
    test_gguf_put(gguf, text, strlen(text));
}

test_gguf test_gguf_begin(uint32_t version, uint64_t n_tensors, uint64_t n_values) {
    test_gguf gguf = {0};
    test_gguf_put(&gguf, "GGUF", 4);
    test_gguf_uint(&gguf, version, 4);
    test_gguf_uint(&gguf, n_tensors, 8);
    test_gguf_uint(&gguf, n_values, 8);
    return gguf;
}

void test_gguf_free(test_gguf *gguf) {
    free(gguf->bytes);
    *gguf = (test_gguf){0};
}

void test_gguf_key(test_gguf *gguf, const char *key, unsigned type) {
    test_gguf_text(gguf, key);
    test_gguf_uint(gguf, type, 4);
}

void test_gguf_string(test_gguf *gguf, const char *key, const char *value) {
    test_gguf_key(gguf, key, INK_GGUF_STRING);
    test_gguf_text(gguf, value);
}

void test_gguf_u32(test_gguf *gguf, const char *key, uint32_t value) {
    test_gguf_key(gguf, key, INK_GGUF_U32);
    test_gguf_uint(gguf, value, 4);
}

void test_gguf_array(test_gguf *gguf, const char *key, unsigned element_type, uint64_t n) {
    test_gguf_key(gguf, key, INK_GGUF_ARRAY);
    test_gguf_uint(gguf, element_type, 4);
    test_gguf_uint(gguf, n, 8);
}

void test_gguf_strings(test_gguf *gguf, const char *key, const char *const *strings, size_t n) {
    test_gguf_array(gguf, key, INK_GGUF_STRING, n);
    for (size_t i = 0; i < n; i++) test_gguf_text(gguf, strings[i]);
}

void test_gguf_tensor(test_gguf *gguf, const char *name, unsigned n_dims, const uint64_t *dims, unsigned type, uint64_t offset) {
    test_gguf_text(gguf, name);
    test_gguf_uint(gguf, n_dims, 4);
    for (unsigned i = 0; i < n_dims; i++) test_gguf_uint(gguf, dims[i], 8);
    test_gguf_uint(gguf, type, 4);
    test_gguf_uint(gguf, offset, 8);
}

void test_gguf_pad(test_gguf *gguf, size_t alignment) { test_gguf_zeros(gguf, (alignment - gguf->size % alignment) % alignment); }
