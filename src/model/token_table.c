/* token_table.c - open addressing with linear probing. */
#include "model/token_table.h"

#include <string.h>

#include "base/memory.h"

bool ink_token_table_create(ink_token_table *table, size_t max_tokens, size_t max_bytes) {
    size_t n_slots = ink_slots_for(max_tokens);
    *table = (ink_token_table){.max_tokens = max_tokens, .max_bytes = max_bytes, .slot_mask = n_slots - 1};
    table->tokens = ink_alloc_array(max_tokens, sizeof *table->tokens);
    table->bytes = ink_alloc(max_bytes);
    table->slots = ink_alloc_array(n_slots, sizeof *table->slots);
    if (table->tokens && table->bytes && table->slots) return true;
    ink_token_table_destroy(table);
    return false;
}

void ink_token_table_destroy(ink_token_table *table) {
    ink_free(table->tokens);
    ink_free(table->bytes);
    ink_free(table->slots);
    *table = (ink_token_table){0};
}

uint64_t ink_token_hash(const char *left, size_t n_left, const char *right, size_t n_right) {
    /* FNV-1a, which goes on from left to right as if they were one string. */
    uint64_t hash = 0xcbf29ce484222325u;
    for (size_t i = 0; i < n_left; i++) hash = (hash ^ (unsigned char)left[i]) * 0x100000001b3u;
    for (size_t i = 0; i < n_right; i++) hash = (hash ^ (unsigned char)right[i]) * 0x100000001b3u;
    return ink_mix_bits(hash);
}

static bool token_is(const ink_token_table *table, uint32_t index, const char *left, size_t n_left, const char *right,
                     size_t n_right) {
    const ink_token *token = &table->tokens[index];
    const char *bytes = table->bytes + token->start;
    return token->n_bytes == n_left + n_right && memcmp(bytes, left, n_left) == 0 &&
           (n_right == 0 || memcmp(bytes + n_left, right, n_right) == 0);
}

uint32_t ink_token_table_find(const ink_token_table *table, const char *left, size_t n_left, const char *right, size_t n_right) {
    size_t slot = ink_token_hash(left, n_left, right, n_right) & table->slot_mask;
    for (int probe = 0; probe < INK_MAX_PROBES && table->slots[slot]; probe++) {
        uint32_t index = table->slots[slot] - 1;
        if (token_is(table, index, left, n_left, right, n_right)) return index;
        slot = (slot + 1) & table->slot_mask;
    }
    return INK_NO_TOKEN;
}

ink_added ink_token_table_add(ink_token_table *table, const char *bytes, size_t n_bytes, int32_t id) {
    size_t slot = ink_token_hash(bytes, n_bytes, NULL, 0) & table->slot_mask;
    for (int probe = 0; table->slots[slot]; slot = (slot + 1) & table->slot_mask) {
        if (token_is(table, table->slots[slot] - 1, bytes, n_bytes, NULL, 0)) return INK_ADD_REPEATED;
        if (++probe == INK_MAX_PROBES) return INK_ADD_REFUSED;
    }
    if (table->n_tokens == table->max_tokens || n_bytes > table->max_bytes - table->n_bytes) return INK_ADD_REFUSED;
    memcpy(table->bytes + table->n_bytes, bytes, n_bytes);
    table->tokens[table->n_tokens] = (ink_token){(uint32_t)table->n_bytes, (uint32_t)n_bytes, id};
    table->n_tokens++;
    table->n_bytes += n_bytes;
    table->slots[slot] = (uint32_t)table->n_tokens;
    return INK_ADDED;
}
