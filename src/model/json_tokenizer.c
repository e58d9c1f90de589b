/* json_tokenizer.c - lists of tokens and merges in a tokenizer.json. */
#include "model/json_tokenizer.h"

#include <string.h>

#include "base/json.h"
#include "base/memory.h"

enum { MAX_TOKENS = 1 << 24 };

/* How Qwen2 cuts a text into the words that merges stay inside; pretokenize.c does the same. */
static const char qwen2_words[] = "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| "
                                  "?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";

typedef struct parser {
    const char *origin;
    ink_error *error;
    ink_token_entry *tokens; /* by id */
    size_t n_tokens;
    ink_tokenizer_file *merges;
    char *joined; /* merges that are stored as pairs, with a space between */
} parser;

static ink_status fail_memory(const parser *p) {
    return ink_fail(p->error, INK_ERROR_MEMORY, "%s: too little memory to read the tokenizer", p->origin);
}

static ink_status refuse(const parser *p, const char *what) {
    return ink_fail(p->error, INK_ERROR_UNSUPPORTED, "%s: %s, other tokenizers are not supported", p->origin, what);
}

/* ---- what kind of tokenizer it is ------------------------------------------------------------------------------------ */

/* Absent fields are as in Qwen2; only what says something else is refused. */
static ink_status check_kind(const parser *p, const json_t *root) {
    const char *type = json_string_value(json_object_get(json_object_get(root, "model"), "type"));
    if (type && strcmp(type, "BPE") != 0) return refuse(p, "\"model\" must be of type BPE");
    type = json_string_value(json_object_get(json_object_get(root, "normalizer"), "type"));
    if (type && strcmp(type, "NFC") != 0) return refuse(p, "\"normalizer\" must be of type NFC");
    const json_t *steps = json_object_get(json_object_get(root, "pre_tokenizer"), "pretokenizers");
    for (size_t i = 0; i < json_array_size(steps); i++) {
        const json_t *pattern = json_object_get(json_array_get(steps, i), "pattern");
        const char *regex = json_string_value(json_object_get(pattern, "Regex"));
        if (pattern && (!regex || strcmp(regex, qwen2_words) != 0)) return refuse(p, "\"pre_tokenizer\" must split as Qwen2 does");
    }
    return INK_OK;
}

/* ---- tokens ------------------------------------------------------------------------------------------------------------ */

static ink_status read_id(const parser *p, const json_t *value, const char *key, int64_t *id) {
    char found[INK_JSON_DESCRIPTION];
    *id = json_is_integer(value) ? json_integer_value(value) : -1;
    if (*id >= 0 && *id < MAX_TOKENS) return INK_OK;
    return ink_fail(p->error, INK_ERROR_FORMAT, "%s: %s: an id must be a whole number from 0 to below %d, found %s", p->origin, key,
                    MAX_TOKENS, ink_json_describe(found, value));
}

/* The vocabulary and the added tokens have one range of ids; the largest tells how long the list is. */
static ink_status count_tokens(parser *p, const json_t *vocab, const json_t *added) {
    const char *token;
    json_t *value;
    size_t i;
    int64_t id;
    json_object_foreach((json_t *)(uintptr_t)vocab, token, value) {
        ink_status status = read_id(p, value, "\"vocab\"", &id);
        if (status != INK_OK) return status;
        if ((size_t)id >= p->n_tokens) p->n_tokens = (size_t)id + 1;
    }
    json_array_foreach((json_t *)(uintptr_t)added, i, value) {
        ink_status status = read_id(p, json_object_get(value, "id"), "\"added_tokens\"", &id);
        if (status != INK_OK) return status;
        if ((size_t)id >= p->n_tokens) p->n_tokens = (size_t)id + 1;
    }
    return INK_OK;
}

static ink_status place(const parser *p, int64_t id, const char *bytes, size_t n_bytes, ink_token_kind kind) {
    ink_token_entry *entry = &p->tokens[id];
    /* Some files list an added token in the vocabulary too. */
    bool again = entry->kind == INK_TOKEN_PLAIN && kind == INK_TOKEN_ADDED && entry->n_bytes == n_bytes &&
                 memcmp(entry->bytes, bytes, n_bytes) == 0;
    if (entry->kind != INK_TOKEN_UNUSED && !again)
        return ink_fail(p->error, INK_ERROR_FORMAT, "%s: the id %lld is given twice, to %.60s and %.60s", p->origin, (long long)id,
                        entry->bytes, bytes);
    *entry = (ink_token_entry){bytes, n_bytes, kind};
    return INK_OK;
}

static ink_status read_added(const parser *p, const json_t *value) {
    static const char *const flags[] = {"lstrip", "rstrip", "single_word"};
    const json_t *content = json_object_get(value, "content");
    char found[INK_JSON_DESCRIPTION];
    if (!json_is_string(content))
        return ink_fail(p->error, INK_ERROR_FORMAT, "%s: \"added_tokens\": \"content\" must be a string, found %s", p->origin,
                        ink_json_describe(found, content));
    for (size_t i = 0; i < sizeof flags / sizeof flags[0]; i++)
        if (json_is_true(json_object_get(value, flags[i])))
            return ink_fail(p->error, INK_ERROR_UNSUPPORTED, "%s: the added token %.60s has \"%s\", which is not supported",
                            p->origin, json_string_value(content), flags[i]);
    return place(p, json_integer_value(json_object_get(value, "id")), json_string_value(content), json_string_length(content),
                 INK_TOKEN_ADDED);
}

static ink_status read_tokens(parser *p, const json_t *vocab, const json_t *added) {
    const char *token;
    json_t *value;
    size_t i;
    ink_status status = count_tokens(p, vocab, added);
    if (status != INK_OK) return status;
    p->tokens = ink_alloc_array(p->n_tokens, sizeof *p->tokens);
    if (!p->tokens) return fail_memory(p);
    for (i = 0; i < p->n_tokens; i++) p->tokens[i].bytes = "";
    json_object_foreach((json_t *)(uintptr_t)vocab, token, value) {
        status = place(p, json_integer_value(value), token, strlen(token), INK_TOKEN_PLAIN);
        if (status != INK_OK) return status;
    }
    json_array_foreach((json_t *)(uintptr_t)added, i, value) {
        status = read_added(p, value);
        if (status != INK_OK) return status;
    }
    return INK_OK;
}

/* ---- merges ------------------------------------------------------------------------------------------------------------ */

static bool is_pair(const json_t *value) {
    return json_array_size(value) == 2 && json_is_string(json_array_get(value, 0)) && json_is_string(json_array_get(value, 1));
}

/* "a b", or ["a", "b"] in files of newer versions. */
static ink_status read_merges(parser *p, const json_t *merges) {
    size_t n_joined = 0, i;
    json_t *value;
    char found[INK_JSON_DESCRIPTION];
    json_array_foreach((json_t *)(uintptr_t)merges, i, value) {
        if (is_pair(value))
            n_joined += json_string_length(json_array_get(value, 0)) + json_string_length(json_array_get(value, 1)) + 1;
        else if (!json_is_string(value))
            return ink_fail(p->error, INK_ERROR_FORMAT, "%s: merge %zu must be a string or two, found %s", p->origin, i,
                            ink_json_describe(found, value));
    }
    p->merges = ink_alloc_array(json_array_size(merges), sizeof *p->merges);
    p->joined = ink_alloc(n_joined);
    if (!p->merges || !p->joined) return fail_memory(p);
    char *next = p->joined;
    json_array_foreach((json_t *)(uintptr_t)merges, i, value) {
        if (json_is_string(value)) {
            p->merges[i] = (ink_tokenizer_file){json_string_value(value), json_string_length(value)};
            continue;
        }
        const json_t *left = json_array_get(value, 0), *right = json_array_get(value, 1);
        size_t n_left = json_string_length(left), n_right = json_string_length(right);
        p->merges[i] = (ink_tokenizer_file){next, n_left + 1 + n_right};
        memcpy(next, json_string_value(left), n_left);
        next[n_left] = ' ';
        memcpy(next + n_left + 1, json_string_value(right), n_right);
        next += n_left + 1 + n_right;
    }
    return INK_OK;
}

/* ---- the file ------------------------------------------------------------------------------------------------------------ */

static ink_status read_lists(parser *p, ink_tokenizer **tokenizer, const json_t *root) {
    const json_t *model = json_object_get(root, "model"), *vocab = json_object_get(model, "vocab");
    const json_t *merges = json_object_get(model, "merges"), *added = json_object_get(root, "added_tokens");
    if (!json_is_object(vocab) || !json_is_array(merges) || (added && !json_is_array(added)))
        return ink_fail(p->error, INK_ERROR_FORMAT,
                        "%s: \"model\" must hold \"vocab\", an object, and \"merges\", an array, and \"added_tokens\" be an array",
                        p->origin);
    ink_status status = check_kind(p, root);
    if (status == INK_OK) status = read_tokens(p, vocab, added);
    if (status == INK_OK) status = read_merges(p, merges);
    if (status != INK_OK) return status;
    const ink_tokenizer_lists lists = {
        .origin = p->origin,
        .tokens_name = "\"vocab\"",
        .merges_name = "\"merges\"",
        .tokens = p->tokens,
        .n_tokens = p->n_tokens,
        .merges = p->merges,
        .n_merges = json_array_size(merges),
    };
    return ink_tokenizer_build(tokenizer, &lists, p->error);
}

ink_status ink_json_tokenizer_parse(ink_tokenizer **tokenizer, const json_t *root, const char *origin, ink_error *error) {
    parser p = {.origin = origin, .error = error};
    *tokenizer = NULL;
    ink_status status = read_lists(&p, tokenizer, root);
    ink_free(p.tokens);
    ink_free(p.merges);
    ink_free(p.joined);
    return status;
}

ink_status ink_json_tokenizer_open(ink_tokenizer **tokenizer, const char *path, ink_error *error) {
    json_t *root;
    *tokenizer = NULL;
    ink_status status = ink_json_load(&root, path, error);
    if (status != INK_OK) return status;
    status = ink_json_tokenizer_parse(tokenizer, root, path, error);
    json_decref(root);
    return status;
}
