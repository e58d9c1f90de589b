/*
 * token_table.h - the strings of a vocabulary and their ids: a compact hash table that is built once and then only read.
 */
#ifndef INK_MODEL_TOKEN_TABLE_H
#define INK_MODEL_TOKEN_TABLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

#define INK_NO_TOKEN UINT32_MAX

/*
 * The most slots that a search may look at. Tables are at most half full, where an honest table needs a few dozen; a file
 * made to collide is refused instead of taking quadratic time.
 */
enum { INK_MAX_PROBES = 128 };

typedef struct ink_token {
    uint32_t start, n_bytes; /* in ink_token_table.bytes */
    int32_t id;
} ink_token;

typedef struct ink_token_table {
    ink_token *tokens; /* [n_tokens], in the order of adding; the index of a token is its place here */
    size_t n_tokens, max_tokens;
    char *bytes; /* of all tokens, one after the other, without ends */
    size_t n_bytes, max_bytes;
    uint32_t *slots; /* [slot_mask + 1], a power of two: index + 1, or 0 */
    size_t slot_mask;
} ink_token_table;

/* Room for max_tokens (at most 2^25) of max_bytes (less than 2^32) together. False when there is no memory. */
bool ink_token_table_create(ink_token_table *table, size_t max_tokens, size_t max_bytes);
void ink_token_table_destroy(ink_token_table *table);

/* Index of the token that is left followed by right, or INK_NO_TOKEN. */
uint32_t ink_token_table_find(const ink_token_table *table, const char *left, size_t n_left, const char *right, size_t n_right);

/* What came of adding to a table. REPEATED: it is there already. REFUSED: the table is full, or too much collides. */
typedef enum ink_added { INK_ADDED, INK_ADD_REPEATED, INK_ADD_REFUSED } ink_added;

ink_added ink_token_table_add(ink_token_table *table, const char *bytes, size_t n_bytes, int32_t id);

/* What decides where the search for left followed by right begins; for tests that make tokens collide. */
uint64_t ink_token_hash(const char *left, size_t n_left, const char *right, size_t n_right);

/* Spreads the bits of a key over a whole word. */
static inline uint64_t ink_mix_bits(uint64_t key) {
    key ^= key >> 32;
    key *= 0xd6e8feb86659fd93u;
    key ^= key >> 32;
    key *= 0xd6e8feb86659fd93u;
    return key ^ key >> 32;
}

/* The least power of two that is at least twice n, for n up to 2^25. */
static inline size_t ink_slots_for(size_t n) {
    size_t slots = 16;
    while (slots < 2 * n) slots *= 2;
    return slots;
}

#endif
