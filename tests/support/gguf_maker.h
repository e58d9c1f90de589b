/*
 * gguf_maker.h - GGUF files in memory, good ones and lying ones.
 *
 * As in files.h, what goes wrong here ends the program.
 */
#ifndef INK_TEST_GGUF_MAKER_H
#define INK_TEST_GGUF_MAKER_H

#include <stddef.h>
#include <stdint.h>

#include "tensor/gguf.h"

typedef struct test_gguf {
    unsigned char *bytes; /* in an allocation of exactly that size, so that a sanitizer sees every byte too far */
    size_t size;
} test_gguf;

/* "GGUF", the version and the two counts; the counts need not be true. */
test_gguf test_gguf_begin(uint32_t version, uint64_t n_tensors, uint64_t n_values);
void test_gguf_free(test_gguf *gguf);

void test_gguf_put(test_gguf *gguf, const void *bytes, size_t size);
void test_gguf_zeros(test_gguf *gguf, size_t size);
void test_gguf_uint(test_gguf *gguf, uint64_t value, int n_bytes);
/* Its length in 8 bytes, then the string. */
void test_gguf_text(test_gguf *gguf, const char *text);

/* A key and the type of its value, which is to follow. */
void test_gguf_key(test_gguf *gguf, const char *key, unsigned type);
void test_gguf_string(test_gguf *gguf, const char *key, const char *value);
void test_gguf_u32(test_gguf *gguf, const char *key, uint32_t value);
/* An array whose elements are to follow. */
void test_gguf_array(test_gguf *gguf, const char *key, unsigned element_type, uint64_t n);
void test_gguf_strings(test_gguf *gguf, const char *key, const char *const *strings, size_t n);

/* One entry; dims from the innermost on. */
void test_gguf_tensor(test_gguf *gguf, const char *name, unsigned n_dims, const uint64_t *dims, unsigned type, uint64_t offset);
void test_gguf_pad(test_gguf *gguf, size_t alignment);

#endif
