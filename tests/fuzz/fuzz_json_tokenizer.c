/* fuzz_json_tokenizer.c - bytes of a tokenizer.json. What opens encodes any text of the vocabulary's own bytes. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include "base/json.h"
#include "model/json_tokenizer.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Fails loudly, in every kind of build. */
static void require(int holds) {
    if (!holds) abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    ink_error error;
    json_t *root;
    if (ink_json_parse(&root, (const char *)data, size, "fuzz", &error) != INK_OK) return 0;
    ink_tokenizer *tokenizer;
    ink_status status = ink_json_tokenizer_parse(&tokenizer, root, "fuzz", &error);
    json_decref(root);
    require((status == INK_OK) == (tokenizer != NULL));
    if (status != INK_OK) {
        require(error.status == status && error.message[0]);
        return 0;
    }
    static const char text[] = "a red circle <|im_end|> 12\n";
    int32_t *ids;
    size_t n_ids;
    require(ink_tokenizer_encode(tokenizer, text, sizeof text - 1, &ids, &n_ids, &error) == INK_OK);
    for (size_t i = 0; i < n_ids; i++) require(ids[i] >= 0 && ids[i] < ink_tokenizer_size(tokenizer));
    ink_free(ids);
    ink_tokenizer_close(&tokenizer);
    return 0;
}
