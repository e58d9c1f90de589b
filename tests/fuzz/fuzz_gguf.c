/*
 * fuzz_gguf.c - bytes of a GGUF file. What is accepted must lie inside the bytes, every value can be read, every tensor
 * decoded, and if there is a tokenizer it opens or says why not.
 */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "inkstone.h"
#include "model/gguf_tokenizer.h"
#include "tensor/gguf.h"
#include "tensor/gguf_blocks.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Fails loudly, in every kind of build. */
static void require(int holds) {
    if (!holds) abort();
}

static void require_inside(const void *place, size_t n_bytes, const uint8_t *data, size_t size) {
    const uint8_t *at = place;
    require(at >= data && at <= data + size && n_bytes <= (size_t)(data + size - at));
}

static void check_value(const ink_gguf *file, const ink_gguf_value *value, const uint8_t *data, size_t size) {
    char *key = ink_alloc(value->key.n_bytes + 1);
    require(key != NULL);
    memcpy(key, value->key.data, value->key.n_bytes);
    require(strlen(key) == value->key.n_bytes && ink_gguf_metadata(file, key) == value);
    ink_gguf_text text;
    ink_gguf_strings strings;
    int64_t i64;
    uint64_t u64;
    double f64;
    bool flag;
    if (ink_gguf_string(file, key, &text)) require_inside(text.data, text.n_bytes, data, size);
    if (ink_gguf_i64(file, key, &i64)) require(ink_gguf_f64(file, key, &f64));
    if (ink_gguf_u64(file, key, &u64)) require(ink_gguf_f64(file, key, &f64));
    ink_gguf_bool(file, key, &flag);
    if (ink_gguf_strings_begin(&strings, value))
        while (ink_gguf_strings_next(&strings, &text)) require_inside(text.data, text.n_bytes, data, size);
    for (uint64_t i = 0; i < value->n && ink_gguf_f64_at(value, i, &f64); i++) ink_gguf_i64_at(value, i, &i64);
    require(!ink_gguf_f64_at(value, value->n, &f64));
    ink_free(key);
}

static void check_tensor(const ink_gguf *file, const ink_tensor_info *info, const uint8_t *data, size_t size) {
    require_inside(info->data, info->n_bytes, data, size);
    require(ink_gguf_find(file, info->name) == info);
    require(info->n_dims >= 0 && info->n_dims <= INK_MAX_DIMS);
    int64_t n = 1;
    for (int i = info->n_dims - 1; i >= 0; i--) require(ink_mul_fits(n, info->shape[i], &n));
    require(n == info->n_elements);
    if (info->dtype == INK_OTHER_DTYPE) return;
    int64_t n_blocks = n / ink_dtype_block_elements(info->dtype);
    require((uint64_t)n_blocks * (uint64_t)ink_dtype_block_bytes(info->dtype) == info->n_bytes);
    float *values = ink_alloc_array((size_t)n, sizeof *values);
    require(values != NULL);
    if (ink_gguf_is_block_type(info->dtype))
        ink_gguf_decode(values, info->dtype, info->data, n_blocks);
    else
        ink_convert(values, INK_F32, info->data, info->dtype, n);
    ink_free(values);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    ink_gguf file;
    ink_error error;
    ink_status status = ink_gguf_parse(&file, data, size, "fuzz", &error);
    if (status != INK_OK) {
        require(error.status == status && error.message[0] && !file.tensors && !file.values && !file.names);
        return 0;
    }
    size_t n_bytes = 0;
    for (size_t i = 0; i < file.n_values; i++) check_value(&file, &file.values[i], data, size);
    for (size_t i = 0; i < file.n_tensors; i++) {
        check_tensor(&file, &file.tensors[i], data, size);
        n_bytes += file.tensors[i].n_bytes;
    }
    require(n_bytes <= size); /* no byte twice */
    if (ink_gguf_has_tokenizer(&file)) {
        ink_tokenizer *tokenizer;
        status = ink_gguf_tokenizer_open(&tokenizer, &file, "fuzz", &error);
        require((status == INK_OK) == (tokenizer != NULL));
        require(status == INK_OK || (error.status == status && error.message[0]));
        ink_tokenizer_close(&tokenizer);
    }
    ink_gguf_close(&file);
    return 0;
}
