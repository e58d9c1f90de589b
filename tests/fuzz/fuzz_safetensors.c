/* fuzz_safetensors.c - bytes of a safetensors file. What is accepted must lie inside the bytes and can be converted. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "inkstone.h"
#include "tensor/safetensors.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Fails loudly, in every kind of build. */
static void require(int holds) {
    if (!holds) abort();
}

static void check_tensor(const ink_safetensors *st, const ink_tensor_info *info, const uint8_t *data, size_t size) {
    require(info->data >= data && info->data <= data + size && info->n_bytes <= (size_t)(data + size - info->data));
    require(strcmp(ink_safetensors_find(st, info->name)->name, info->name) == 0);
    require(info->n_dims >= 0 && info->n_dims <= INK_MAX_DIMS);
    int64_t n = 1;
    for (int i = 0; i < info->n_dims; i++) require(ink_mul_fits(n, info->shape[i], &n));
    require(n == info->n_elements);
    if (!ink_dtype_is_float(info->dtype)) return;
    require((uint64_t)n * ink_dtype_size(info->dtype) == info->n_bytes);
    float *values = ink_alloc_array((size_t)n, sizeof *values);
    require(values != NULL);
    ink_convert(values, INK_F32, info->data, info->dtype, n);
    ink_free(values);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    ink_safetensors st;
    ink_error error;
    ink_status status = ink_safetensors_parse(&st, data, size, "fuzz", &error);
    if (status != INK_OK) {
        require(error.status == status && error.message[0] && !st.tensors && !st.header);
        return 0;
    }
    size_t n_bytes = 0;
    for (size_t i = 0; i < st.n_tensors; i++) {
        check_tensor(&st, &st.tensors[i], data, size);
        n_bytes += st.tensors[i].n_bytes;
    }
    require(n_bytes <= size); /* no byte twice */
    ink_safetensors_metadata(&st, "prompt");
    ink_safetensors_close(&st);
    return 0;
}
