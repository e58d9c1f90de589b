/* fuzz_adapters.c - bytes of a LoRA file. What is accepted can be counted, found, and made into a change of its matrix. */
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "tensor/adapter_names.h"
#include "tensor/adapters.h"
#include "tensor/safetensors.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { MOST = 64 }; /* rows and columns that are tried: more of them is slow and finds nothing new */

/* Fails loudly, in every kind of build. */
static void require(int holds) {
    if (!holds) abort();
}

static void use_change(ink_adapters *adapters, const char *name, int64_t rows, int64_t cols) {
    ink_adapter_form form;
    ink_change *change;
    ink_error error;
    if (ink_adapters_find(adapters, &form, name, rows, cols, &error) != INK_OK) return;
    require(form.dense || form.rank > 0);
    require(!form.dense || form.rank == 0);
    if (ink_change_open(&change, adapters, name, rows, cols, &error) != INK_OK) {
        require(error.message[0] && !change);
        return;
    }
    float row[MOST] = {0};
    ink_change_add_row(change, row, rows - 1);
    if (form.rank > 0 && form.rank < 4 * MOST) {
        float *down = ink_alloc_array((size_t)(form.rank * cols), sizeof *down);
        float *up = ink_alloc_array((size_t)(form.rank * rows), sizeof *up);
        require(down && up);
        ink_change_low_rank(change, down, up);
        ink_free(down);
        ink_free(up);
    }
    ink_change_close(&change);
}

/* The sizes that some matrix of the module would have are among these. */
static void try_sizes(ink_adapters *adapters, const ink_tensor_info *info) {
    ink_adapter_name name;
    char module[INK_ADAPTER_KEY];
    if (ink_adapter_name_parse(&name, info->name, "fuzz", NULL) != INK_OK) return;
    memcpy(module, name.module, name.n_module);
    module[name.n_module] = '\0';
    for (int64_t rows = 1; rows <= MOST; rows = rows < 8 ? rows + 1 : 2 * rows)
        for (int64_t cols = 1; cols <= MOST; cols = cols < 8 ? cols + 1 : 2 * cols) use_change(adapters, module, rows, cols);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    ink_adapters *adapters;
    ink_error error;
    ink_safetensors file;
    const ink_lora lora = {"fuzz", 0.5};
    ink_status status = ink_adapters_parse(&adapters, data, size, &lora, &error);
    if (status != INK_OK) {
        require(error.status == status && error.message[0] && !adapters);
        return 0;
    }
    int64_t applied, total;
    ink_adapters_count(adapters, &applied, &total);
    require(applied == 0 && total > 0 && ink_adapters_check_applied(adapters, NULL) == INK_ERROR_FORMAT);
    require(ink_safetensors_parse(&file, data, size, "fuzz", &error) == INK_OK && (int64_t)file.n_tensors == total);
    try_sizes(adapters, &file.tensors[0]);
    ink_adapters_count(adapters, &applied, &total);
    require(applied >= 0 && applied <= total);
    ink_safetensors_close(&file);
    ink_adapters_close(&adapters);
    return 0;
}
