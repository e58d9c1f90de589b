/*
 * tokenizer.c - reading a tokenizer's files, and the way from a text to ids. The steps have files of their own: nfc.c,
 * pretokenize.c, bpe.c; token_table.c holds the vocabulary.
 */
#define _POSIX_C_SOURCE 200809L
#include "model/tokenizer.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/json.h"
#include "base/mapfile.h"
#include "base/memory.h"
#include "model/bpe.h"
#include "model/nfc.h"
#include "model/pretokenize.h"
#include "model/token_table.h"

enum {
    N_BYTES = 256,
    MAX_FILE_BYTES = 64 << 20,
    N_IDS_ALLOWED = 1 << 24,
    MAX_ADDED_BYTES = 1024, /* of one added token: bounds what matching costs at every place of a text */
    MIN_MERGE_LINE = 4,     /* bytes: two symbols, a space and a line end */
    MAX_SHOWN = 60          /* bytes of a token in a sentence */
};

static const char VOCAB_NAME[] = "vocab.json", MERGES_NAME[] = "merges.txt", CONFIG_NAME[] = "tokenizer_config.json",
                  ADDED_NAME[] = "added_tokens.json";

typedef struct added_token {
    const char *bytes; /* in ink_token_table.bytes */
    size_t n_bytes;
    int32_t id;
} added_token;

struct ink_tokenizer {
    ink_token_table tokens;
    uint32_t byte_tokens[N_BYTES]; /* indices in tokens */
    ink_merges merges;             /* symbols are indices in tokens */
    added_token *added;            /* [n_added], sorted by bytes */
    size_t n_added;
    bool begins_added[N_BYTES]; /* bytes with which an added token begins */
    int32_t size;
    _Atomic int64_t n_more; /* owners beside the first */
};

/* ---- reading the files ------------------------------------------------------------------------------------------ */

typedef struct builder {
    ink_tokenizer *tokenizer;
    const char *folder, *vocab_name, *merges_name; /* the places that sentences name */
    const ink_tokenizer_files *files;              /* this and the JSON: NULL when built of lists */
    json_t *config, *added_tokens;                 /* may be NULL */
    json_t *decoder;                               /* "added_tokens_decoder" of config, or NULL; borrowed */
    uint8_t *taken;                                /* [N_IDS_ALLOWED / 8] a bit for every id in use */
    ink_error *error;
} builder;

static ink_status fail_memory(const builder *b) {
    return ink_fail(b->error, INK_ERROR_MEMORY, "%s: too little memory to read the tokenizer", b->folder);
}

static ink_status load_json(const builder *b, json_t **root, const ink_tokenizer_file *file, const char *name) {
    char *path = ink_format("%s/%s", b->folder, name);
    if (!path) return fail_memory(b);
    ink_status status = ink_json_parse(root, file->data, file->n_bytes, path, b->error);
    ink_free(path);
    return status;
}

static ink_status check_file(const builder *b, const ink_tokenizer_file *file, const char *name, bool required) {
    if (!file->data && required) return ink_fail(b->error, INK_ERROR_IO, "%s/%s: is missing", b->folder, name);
    if (file->data && file->n_bytes > MAX_FILE_BYTES)
        return ink_fail(b->error, INK_ERROR_FORMAT, "%s/%s: has %zu bytes, at most %d are read", b->folder, name, file->n_bytes,
                        MAX_FILE_BYTES);
    return INK_OK;
}

static ink_status load_files(builder *b) {
    const ink_tokenizer_files *files = b->files;
    ink_status status = check_file(b, &files->vocab, VOCAB_NAME, true);
    if (status == INK_OK) status = check_file(b, &files->merges, MERGES_NAME, true);
    if (status == INK_OK) status = check_file(b, &files->config, CONFIG_NAME, false);
    if (status == INK_OK) status = check_file(b, &files->added_tokens, ADDED_NAME, false);
    if (status == INK_OK && files->config.data) status = load_json(b, &b->config, &files->config, CONFIG_NAME);
    if (status == INK_OK && files->added_tokens.data) status = load_json(b, &b->added_tokens, &files->added_tokens, ADDED_NAME);
    if (status != INK_OK) return status;

    b->decoder = json_object_get(b->config, "added_tokens_decoder");
    if (json_is_null(b->decoder)) b->decoder = NULL;
    if (b->decoder && !json_is_object(b->decoder))
        return ink_fail(b->error, INK_ERROR_FORMAT, "%s/%s: \"added_tokens_decoder\" must be an object", b->folder, CONFIG_NAME);
    return INK_OK;
}

static size_t keys_bytes(json_t *object) {
    size_t total = 0;
    for (void *at = json_object_iter(object); at; at = json_object_iter_next(object, at)) total += strlen(json_object_iter_key(at));
    return total;
}

/* Room for so many tokens, of which n_added are added ones, of n_bytes together. */
static ink_status create_tables(builder *b, size_t n_tokens, size_t n_added, size_t n_bytes) {
    ink_tokenizer *t = b->tokenizer;
    b->taken = ink_alloc(N_IDS_ALLOWED / 8);
    t->added = ink_alloc_array(n_added, sizeof *t->added);
    if (!b->taken || !t->added || !ink_token_table_create(&t->tokens, n_tokens, n_bytes)) return fail_memory(b);
    return INK_OK;
}

/*
 * Tokens are no more than commas and no longer than the text, in which a byte may take six. That, and contents of the decoder that
 * are no strings or repeat others, only make the room a little too large.
 */
static ink_status create_tables_of_files(builder *b) {
    const ink_tokenizer_file *vocab = &b->files->vocab;
    size_t n_added = json_object_size(b->decoder) + json_object_size(b->added_tokens);
    size_t n_bytes = vocab->n_bytes + keys_bytes(b->added_tokens), n_plain = 1;
    for (size_t i = 0; i < vocab->n_bytes; i++) n_plain += vocab->data[i] == ',';
    if (n_plain > N_IDS_ALLOWED) n_plain = N_IDS_ALLOWED;
    for (void *at = json_object_iter(b->decoder); at; at = json_object_iter_next(b->decoder, at))
        n_bytes += json_string_length(json_object_get(json_object_iter_value(at), "content"));
    return create_tables(b, n_plain + n_added, n_added, n_bytes);
}

static int shown(size_t n_bytes) { return n_bytes < MAX_SHOWN ? (int)n_bytes : MAX_SHOWN; }

static ink_status add_token(builder *b, const char *name, const char *bytes, size_t n, int64_t id) {
    ink_tokenizer *t = b->tokenizer;
    if (id < 0 || id >= N_IDS_ALLOWED)
        return ink_fail(b->error, INK_ERROR_FORMAT, "%s/%s: \"%.*s\" has the id %lld, ids are 0 to %d", b->folder, name, shown(n),
                        bytes, (long long)id, N_IDS_ALLOWED - 1);
    uint8_t bit = (uint8_t)(1u << (id % 8));
    if (b->taken[id / 8] & bit)
        return ink_fail(b->error, INK_ERROR_FORMAT, "%s/%s: \"%.*s\" has the id %lld, which another token has already", b->folder,
                        name, shown(n), bytes, (long long)id);
    ink_added added = ink_token_table_add(&t->tokens, bytes, n, (int32_t)id);
    if (added == INK_ADD_REPEATED)
        return ink_fail(b->error, INK_ERROR_FORMAT, "%s/%s: \"%.*s\" is there twice", b->folder, name, shown(n), bytes);
    if (added == INK_ADD_REFUSED)
        return ink_fail(b->error, INK_ERROR_FORMAT, "%s/%s: too many tokens collide with \"%.*s\" in the hash table", b->folder,
                        name, shown(n), bytes);
    b->taken[id / 8] |= bit;
    if (id >= t->size) t->size = (int32_t)id + 1;
    return INK_OK;
}

static ink_status add_entry(void *user, const char *token, const json_t *id) {
    builder *b = user;
    if (!json_is_integer(id))
        return ink_fail(b->error, INK_ERROR_FORMAT, "%s/%s: the id of \"%.60s\" is not an integer", b->folder, VOCAB_NAME, token);
    return add_token(b, VOCAB_NAME, token, strlen(token), json_integer_value(id));
}

static ink_status add_vocabulary(builder *b) {
    const ink_tokenizer_file *file = &b->files->vocab;
    char *path = ink_format("%s/%s", b->folder, VOCAB_NAME);
    if (!path) return fail_memory(b);
    ink_status status = ink_json_each_entry(file->data, file->n_bytes, path, add_entry, b, b->error);
    ink_free(path);
    return status;
}

/*
 * The character that stands for a byte in the vocabulary, in UTF-8: the byte's own code point if that is printable, else the
 * next one from U+0100 on.
 */
static size_t byte_symbol(char symbol[2], int byte, int *n_unprintable) {
    bool printable = (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
    int point = printable ? byte : N_BYTES + (*n_unprintable)++;
    if (point < 0x80) {
        symbol[0] = (char)point;
        return 1;
    }
    symbol[0] = (char)(0xC0 | point >> 6);
    symbol[1] = (char)(0x80 | (point & 0x3F));
    return 2;
}

static ink_status find_byte_tokens(builder *b) {
    ink_tokenizer *t = b->tokenizer;
    int n_unprintable = 0;
    for (int byte = 0; byte < N_BYTES; byte++) {
        char symbol[2];
        size_t n = byte_symbol(symbol, byte, &n_unprintable);
        t->byte_tokens[byte] = ink_token_table_find(&t->tokens, symbol, n, NULL, 0);
        if (t->byte_tokens[byte] == INK_NO_TOKEN)
            return ink_fail(b->error, INK_ERROR_FORMAT, "%s/%s: has no token \"%.*s\", which stands for the byte 0x%02X", b->folder,
                            b->vocab_name, (int)n, symbol, (unsigned)byte);
    }
    return INK_OK;
}

static ink_status fail_merge(const builder *b, size_t line, const char *what) {
    return ink_fail(b->error, INK_ERROR_FORMAT, "%s/%s: line %zu: %s", b->folder, b->merges_name, line, what);
}

static ink_status fail_merge_symbol(const builder *b, size_t line, const char *what) {
    return ink_fail(b->error, INK_ERROR_FORMAT, "%s/%s: line %zu: %s not in %s", b->folder, b->merges_name, line, what,
                    b->vocab_name);
}

static ink_status add_merge(builder *b, const char *text, size_t n, size_t line) {
    ink_tokenizer *t = b->tokenizer;
    const char *space = memchr(text, ' ', n);
    size_t n_left = space ? (size_t)(space - text) : n;
    const char *right = space ? space + 1 : text + n;
    size_t n_right = (size_t)(text + n - right);
    if (n_left == 0 || n_right == 0 || memchr(right, ' ', n_right))
        return fail_merge(b, line, "must hold two symbols with one space between them");

    ink_merge merge = {.left = ink_token_table_find(&t->tokens, text, n_left, NULL, 0),
                       .right = ink_token_table_find(&t->tokens, right, n_right, NULL, 0),
                       .result = ink_token_table_find(&t->tokens, text, n_left, right, n_right)};
    if (merge.left == INK_NO_TOKEN) return fail_merge_symbol(b, line, "the first symbol is");
    if (merge.right == INK_NO_TOKEN) return fail_merge_symbol(b, line, "the second symbol is");
    if (merge.result == INK_NO_TOKEN) return fail_merge_symbol(b, line, "the two symbols together are");
    switch (ink_merges_add(&t->merges, merge)) {
    case INK_ADDED: return INK_OK;
    case INK_ADD_REPEATED: return fail_merge(b, line, "the same merge stands on an earlier line");
    case INK_ADD_REFUSED: break;
    }
    return fail_merge(b, line, "too many merges collide in the hash table");
}

static ink_status add_merges(builder *b) {
    const ink_tokenizer_file *file = &b->files->merges;
    static const char header[] = "#version:";
    size_t n_lines = 1;
    for (size_t i = 0; i < file->n_bytes; i++) n_lines += file->data[i] == '\n';
    size_t most = file->n_bytes / MIN_MERGE_LINE + 1;
    if (!ink_merges_create(&b->tokenizer->merges, n_lines < most ? n_lines : most)) return fail_memory(b);

    const char *at = file->data, *end = file->data + file->n_bytes;
    for (size_t line = 1; at < end; line++) {
        const char *line_end = memchr(at, '\n', (size_t)(end - at));
        const char *next = line_end ? line_end + 1 : end;
        size_t n = (size_t)((line_end ? line_end : end) - at);
        if (n > 0 && at[n - 1] == '\r') n--;
        bool is_header = line == 1 && n >= sizeof header - 1 && memcmp(at, header, sizeof header - 1) == 0;
        ink_status status = n == 0 || is_header ? INK_OK : add_merge(b, at, n, line);
        if (status != INK_OK) return status;
        at = next;
    }
    return INK_OK;
}

/* An added token may be in the vocabulary, or in both of the files that list added tokens, but always with the same id. */
static ink_status add_added_token(builder *b, const char *name, const char *content, size_t n, int64_t id) {
    ink_tokenizer *t = b->tokenizer;
    if (n == 0 || n > MAX_ADDED_BYTES)
        return ink_fail(b->error, INK_ERROR_FORMAT, "%s/%s: the added token with the id %lld has %zu bytes, must have 1 to %d",
                        b->folder, name, (long long)id, n, MAX_ADDED_BYTES);
    uint32_t index = ink_token_table_find(&t->tokens, content, n, NULL, 0);
    if (index == INK_NO_TOKEN) {
        ink_status status = add_token(b, name, content, n, id);
        if (status != INK_OK) return status;
        index = (uint32_t)t->tokens.n_tokens - 1;
    }
    const ink_token *token = &t->tokens.tokens[index];
    if (token->id != id)
        return ink_fail(b->error, INK_ERROR_FORMAT, "%s/%s: \"%.*s\" has the id %lld here and %d elsewhere", b->folder, name,
                        shown(n), content, (long long)id, (int)token->id);
    t->added[t->n_added++] = (added_token){t->tokens.bytes + token->start, n, token->id};
    t->begins_added[(unsigned char)content[0]] = true;
    return INK_OK;
}

/* The id that is a key of added_tokens_decoder, or -1. */
static int64_t parse_id(const char *key) {
    int64_t id = 0;
    if (!*key) return -1;
    for (; *key; key++) {
        if (*key < '0' || *key > '9' || id >= N_IDS_ALLOWED) return -1;
        id = 10 * id + (*key - '0');
    }
    return id;
}

static ink_status add_from_decoder(builder *b, const char *key, const json_t *fields) {
    const char *folder = b->folder;
    const json_t *content = json_object_get(fields, "content");
    int64_t id = parse_id(key);
    if (id < 0)
        return ink_fail(b->error, INK_ERROR_FORMAT, "%s/%s: added_tokens_decoder: \"%.60s\" is not an id", folder, CONFIG_NAME,
                        key);
    if (!json_is_string(content))
        return ink_fail(b->error, INK_ERROR_FORMAT, "%s/%s: added_tokens_decoder: the token %lld has no string \"content\"", folder,
                        CONFIG_NAME, (long long)id);
    static const char *const flags[] = {"lstrip", "rstrip", "single_word"};
    for (size_t i = 0; i < sizeof flags / sizeof *flags; i++) {
        const json_t *flag = json_object_get(fields, flags[i]);
        if (flag && !json_is_false(flag))
            return ink_fail(b->error, INK_ERROR_UNSUPPORTED, "%s/%s: added_tokens_decoder: \"%s\" of the token %lld is not false",
                            folder, CONFIG_NAME, flags[i], (long long)id);
    }
    return add_added_token(b, CONFIG_NAME, json_string_value(content), json_string_length(content), id);
}

static int compare_added(const void *left, const void *right) {
    const added_token *a = left, *b = right;
    int order = memcmp(a->bytes, b->bytes, a->n_bytes < b->n_bytes ? a->n_bytes : b->n_bytes);
    if (order != 0) return order;
    return (a->n_bytes > b->n_bytes) - (a->n_bytes < b->n_bytes);
}

static void sort_added(ink_tokenizer *t) {
    size_t n = 0;
    if (t->n_added > 0) qsort(t->added, t->n_added, sizeof *t->added, compare_added);
    for (size_t i = 0; i < t->n_added; i++)
        if (n == 0 || t->added[n - 1].id != t->added[i].id) t->added[n++] = t->added[i];
    t->n_added = n;
}

static ink_status add_added_tokens(builder *b) {
    const char *key;
    json_t *value;
    json_object_foreach(b->decoder, key, value) {
        ink_status status = add_from_decoder(b, key, value);
        if (status != INK_OK) return status;
    }
    json_object_foreach(b->added_tokens, key, value) {
        if (!json_is_integer(value))
            return ink_fail(b->error, INK_ERROR_FORMAT, "%s/%s: the id of \"%.60s\" is not an integer", b->folder, ADDED_NAME, key);
        ink_status status = add_added_token(b, ADDED_NAME, key, strlen(key), json_integer_value(value));
        if (status != INK_OK) return status;
    }
    sort_added(b->tokenizer);
    return INK_OK;
}

/* Releases what is needed for building, and all of the tokenizer unless it became one. */
static ink_status finish(builder *b, ink_status status, ink_tokenizer **tokenizer) {
    json_decref(b->config);
    json_decref(b->added_tokens);
    ink_free(b->taken);
    if (status == INK_OK)
        *tokenizer = b->tokenizer;
    else
        ink_tokenizer_close(&b->tokenizer);
    return status;
}

ink_status ink_tokenizer_parse(ink_tokenizer **tokenizer, const ink_tokenizer_files *files, ink_error *error) {
    builder b = {.folder = files->folder, .vocab_name = VOCAB_NAME, .merges_name = MERGES_NAME, .files = files, .error = error};
    ink_error_clear(error);
    *tokenizer = NULL;
    b.tokenizer = ink_alloc(sizeof *b.tokenizer);
    ink_status status = b.tokenizer ? load_files(&b) : fail_memory(&b);
    if (status == INK_OK) status = create_tables_of_files(&b);
    if (status == INK_OK) status = add_vocabulary(&b);
    /* Bytes and merges before the added tokens: they are made of the vocabulary alone. */
    if (status == INK_OK) status = find_byte_tokens(&b);
    if (status == INK_OK) status = add_merges(&b);
    if (status == INK_OK) status = add_added_tokens(&b);
    return finish(&b, status, tokenizer);
}

/* ---- building of lists ------------------------------------------------------------------------------------------ */

static ink_status create_tables_of_lists(builder *b, const ink_tokenizer_lists *lists) {
    size_t n_tokens = 0, n_added = 0, n_bytes = 0;
    if (lists->n_tokens > N_IDS_ALLOWED || lists->n_merges > N_IDS_ALLOWED)
        return ink_fail(b->error, INK_ERROR_FORMAT, "%s: has %zu tokens and %zu merges, at most %d of each are read", b->folder,
                        lists->n_tokens, lists->n_merges, N_IDS_ALLOWED);
    for (size_t i = 0; i < lists->n_tokens; i++) {
        const ink_token_entry *entry = &lists->tokens[i];
        if (entry->kind == INK_TOKEN_UNUSED) continue;
        n_tokens++;
        n_added += entry->kind == INK_TOKEN_ADDED;
        if (entry->n_bytes > MAX_FILE_BYTES || (n_bytes += entry->n_bytes) > MAX_FILE_BYTES)
            return ink_fail(b->error, INK_ERROR_FORMAT, "%s/%s: its tokens have more than %d bytes", b->folder, b->vocab_name,
                            MAX_FILE_BYTES);
    }
    return create_tables(b, n_tokens, n_added, n_bytes);
}

static ink_status add_list(builder *b, const ink_tokenizer_lists *lists, ink_token_kind kind) {
    for (size_t i = 0; i < lists->n_tokens; i++) {
        const ink_token_entry *entry = &lists->tokens[i];
        if (entry->kind != kind) continue;
        ink_status status = INK_OK;
        if (kind == INK_TOKEN_ADDED)
            status = add_added_token(b, b->vocab_name, entry->bytes, entry->n_bytes, (int64_t)i);
        else
            status = add_token(b, b->vocab_name, entry->bytes, entry->n_bytes, (int64_t)i);
        if (status != INK_OK) return status;
    }
    return INK_OK;
}

static ink_status add_merge_list(builder *b, const ink_tokenizer_lists *lists) {
    if (!ink_merges_create(&b->tokenizer->merges, lists->n_merges)) return fail_memory(b);
    for (size_t i = 0; i < lists->n_merges; i++) {
        ink_status status = add_merge(b, lists->merges[i].data, lists->merges[i].n_bytes, i + 1);
        if (status != INK_OK) return status;
    }
    return INK_OK;
}

ink_status ink_tokenizer_build(ink_tokenizer **tokenizer, const ink_tokenizer_lists *lists, ink_error *error) {
    builder b = {.folder = lists->origin, .vocab_name = lists->tokens_name, .merges_name = lists->merges_name, .error = error};
    ink_error_clear(error);
    *tokenizer = NULL;
    b.tokenizer = ink_alloc(sizeof *b.tokenizer);
    ink_status status = b.tokenizer ? create_tables_of_lists(&b, lists) : fail_memory(&b);
    if (status == INK_OK) status = add_list(&b, lists, INK_TOKEN_PLAIN);
    if (status == INK_OK) status = find_byte_tokens(&b);
    if (status == INK_OK) status = add_merge_list(&b, lists);
    if (status == INK_OK) status = add_list(&b, lists, INK_TOKEN_ADDED);
    if (status == INK_OK) sort_added(b.tokenizer);
    return finish(&b, status, tokenizer);
}

/* ---- opening a folder ------------------------------------------------------------------------------------------- */

/* Leaves *map all zero when the file may be absent and is. */
static ink_status map_file(ink_mapfile *map, ink_tokenizer_file *file, const char *folder, const char *name, bool required,
                           ink_error *error) {
    char *path = ink_format("%s/%s", folder, name);
    if (!path) return ink_fail(error, INK_ERROR_MEMORY, "%s: too little memory to read the tokenizer", folder);
    ink_status status = INK_OK;
    if (required || access(path, F_OK) == 0 || errno != ENOENT) {
        status = ink_mapfile_open(map, path, error);
        *file = (ink_tokenizer_file){map->data ? (const char *)map->data : "", map->size};
    }
    ink_free(path);
    return status;
}

ink_status ink_tokenizer_open(ink_tokenizer **tokenizer, const char *folder, ink_error *error) {
    ink_tokenizer_files files = {.folder = folder};
    ink_mapfile vocab = {0}, merges = {0}, config = {0}, added = {0};
    ink_error_clear(error);
    *tokenizer = NULL;
    ink_status status = map_file(&vocab, &files.vocab, folder, VOCAB_NAME, true, error);
    if (status == INK_OK) status = map_file(&merges, &files.merges, folder, MERGES_NAME, true, error);
    if (status == INK_OK) status = map_file(&config, &files.config, folder, CONFIG_NAME, false, error);
    if (status == INK_OK) status = map_file(&added, &files.added_tokens, folder, ADDED_NAME, false, error);
    if (status == INK_OK) status = ink_tokenizer_parse(tokenizer, &files, error);
    ink_mapfile_close(&vocab);
    ink_mapfile_close(&merges);
    ink_mapfile_close(&config);
    ink_mapfile_close(&added);
    return status;
}

ink_tokenizer *ink_tokenizer_share(ink_tokenizer *tokenizer) {
    atomic_fetch_add(&tokenizer->n_more, 1);
    return tokenizer;
}

void ink_tokenizer_close(ink_tokenizer **tokenizer) {
    ink_tokenizer *t = *tokenizer;
    *tokenizer = NULL;
    if (!t || atomic_fetch_sub(&t->n_more, 1) > 0) return;
    ink_token_table_destroy(&t->tokens);
    ink_merges_destroy(&t->merges);
    ink_free(t->added);
    ink_free(t);
}

/* ---- encoding --------------------------------------------------------------------------------------------------- */

typedef struct encoder {
    const ink_tokenizer *tokenizer;
    const char *text; /* in NFC */
    int32_t *ids;     /* as many as text has bytes, which is enough */
    size_t n_ids;
    ink_bpe bpe;
} encoder;

/* First of added[low..high), which agree in `depth` bytes and have more, whose next byte is at least `byte`. */
static size_t lower_bound(const added_token *added, size_t low, size_t high, size_t depth, unsigned byte) {
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if ((unsigned char)added[middle].bytes[depth] < byte)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* The longest added token with which text[0..n) begins, or NULL. */
static const added_token *match_added(const ink_tokenizer *t, const char *text, size_t n) {
    const added_token *longest = NULL;
    size_t low = 0, high = t->n_added;
    if (n == 0 || !t->begins_added[(unsigned char)text[0]]) return NULL;
    for (size_t depth = 0; low < high; depth++) {
        if (t->added[low].n_bytes == depth) longest = &t->added[low++];
        if (depth == n) break;
        unsigned byte = (unsigned char)text[depth];
        low = lower_bound(t->added, low, high, depth, byte);
        high = lower_bound(t->added, low, high, depth, byte + 1);
    }
    return longest;
}

/* One pre-token. False when there is no memory. */
static bool encode_word(encoder *e, size_t start, size_t end) {
    const ink_tokenizer *t = e->tokenizer;
    size_t n = end - start;
    if (!ink_bpe_reserve(&e->bpe, n)) return false;
    for (size_t i = 0; i < n; i++) e->bpe.symbols[i] = t->byte_tokens[(unsigned char)e->text[start + i]];
    n = ink_bpe_apply(&e->bpe, n, &t->merges);
    for (size_t i = 0; i < n; i++) e->ids[e->n_ids++] = t->tokens.tokens[e->bpe.symbols[i]].id;
    return true;
}

/* A stretch of text between added tokens. */
static bool encode_piece(encoder *e, size_t start, size_t end) {
    while (start < end) {
        size_t word_end = ink_pretoken_end(e->text, start, end);
        if (!encode_word(e, start, word_end)) return false;
        start = word_end;
    }
    return true;
}

static bool encode_text(encoder *e, size_t n) {
    size_t start = 0, at = 0;
    while (at < n) {
        const added_token *added = match_added(e->tokenizer, e->text + at, n - at);
        if (!added) {
            at++;
            continue;
        }
        if (!encode_piece(e, start, at)) return false;
        e->ids[e->n_ids++] = added->id;
        start = at += added->n_bytes;
    }
    return encode_piece(e, start, n);
}

ink_status ink_tokenizer_encode(const ink_tokenizer *tokenizer, const char *text, size_t n_bytes, int32_t **ids, size_t *n_ids,
                                ink_error *error) {
    char *normal;
    size_t n_normal;
    ink_error_clear(error);
    *ids = NULL;
    *n_ids = 0;
    ink_status status = ink_nfc(&normal, &n_normal, text, n_bytes, error);
    if (status != INK_OK) return status;

    encoder e = {.tokenizer = tokenizer, .text = normal, .ids = ink_alloc_array(n_normal, sizeof *e.ids)};
    if (e.ids && encode_text(&e, n_normal)) {
        *ids = e.ids;
        *n_ids = e.n_ids;
    } else {
        status = ink_fail(error, INK_ERROR_MEMORY, "too little memory to encode a text of %zu bytes", n_bytes);
        ink_free(e.ids);
    }
    ink_bpe_destroy(&e.bpe);
    ink_free(normal);
    return status;
}

int32_t ink_tokenizer_id(const ink_tokenizer *tokenizer, const char *token) {
    uint32_t index = ink_token_table_find(&tokenizer->tokens, token, strlen(token), NULL, 0);
    return index == INK_NO_TOKEN ? -1 : tokenizer->tokens.tokens[index].id;
}

int32_t ink_tokenizer_size(const ink_tokenizer *tokenizer) { return tokenizer->size; }
