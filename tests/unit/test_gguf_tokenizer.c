/* test_gguf_tokenizer.c - the tokenizer of a GGUF file gives the ids of the folder that it was made of, and bad lists are refused.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <jansson.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "model/gguf_tokenizer.h"
#include "support/gguf_maker.h"

#define COUNT(array) (sizeof(array) / sizeof *(array))
#define GOLDEN INK_TEST_SOURCE_DIR "/tests/golden"

static void open_recorded(ink_gguf *file, ink_tokenizer **tokenizer) {
    ink_error error;
    if (ink_gguf_open(file, GOLDEN "/gguf/tokenizer.gguf", &error) != INK_OK) fail_msg("%s", error.message);
    assert_true(ink_gguf_has_tokenizer(file));
    if (ink_gguf_tokenizer_open(tokenizer, file, "tokenizer.gguf", &error) != INK_OK) fail_msg("%s", error.message);
}

static void encodes_as_the_folder(void **state) {
    (void)state;
    ink_gguf file;
    ink_tokenizer *tokenizer;
    open_recorded(&file, &tokenizer);
    ink_gguf_close(&file); /* the tokenizer holds copies */
    json_t *cases = json_load_file(GOLDEN "/tiny/tokenizer_cases.json", JSON_ALLOW_NUL, NULL), *entry;
    assert_true(json_array_size(cases) > 100);
    size_t n_cases;
    json_array_foreach(cases, n_cases, entry) {
        const json_t *text = json_object_get(entry, "text"), *expected = json_object_get(entry, "slow_ids");
        if (!expected) expected = json_object_get(entry, "ids"); /* as in test_tokenizer.c */
        int32_t *ids;
        size_t n;
        ink_error error;
        if (ink_tokenizer_encode(tokenizer, json_string_value(text), json_string_length(text), &ids, &n, &error) != INK_OK)
            fail_msg("%s", error.message);
        bool equal = n == json_array_size(expected);
        for (size_t i = 0; equal && i < n; i++) equal = ids[i] == json_integer_value(json_array_get(expected, i));
        if (!equal) fail_msg("case %zu, \"%s\", has other ids", n_cases, json_string_value(text));
        ink_free(ids);
    }
    json_decref(cases);

    ink_tokenizer *folder;
    assert_int_equal(ink_tokenizer_open(&folder, GOLDEN "/tiny/tokenizer", NULL), INK_OK);
    assert_int_equal(ink_tokenizer_size(tokenizer), ink_tokenizer_size(folder));
    assert_int_equal(ink_tokenizer_id(tokenizer, "<|im_start|>"), ink_tokenizer_id(folder, "<|im_start|>"));
    char padding[20];
    snprintf(padding, sizeof padding, "[PAD%d]", (int)ink_tokenizer_size(folder));
    assert_int_equal(ink_tokenizer_id(tokenizer, padding), -1);
    ink_tokenizer_close(&folder);
    ink_tokenizer_close(&tokenizer);
}

/* ---- made lists -------------------------------------------------------------------------------------------------- */

enum { N_BYTES = 256, MAX_TOKENS = N_BYTES + 8 };

/* What is put into a file; NULL leaves it out. The first 256 tokens are those of the bytes. */
typedef struct lists {
    const char *model, *pre;
    const char *tokens[8]; /* the others, ended by NULL */
    const char *merges[4];
    uint8_t types[8]; /* of the others, ended by 0; then plain */
    int n_types_too_many;
} lists;

static const lists good = {.model = "gpt2", .pre = "qwen2", .tokens = {"th", "<|x|>"}, .merges = {"t h"}, .types = {1, 3}};

static void put_lists(test_gguf *gguf, const lists *l, char bytes[N_BYTES][3]) {
    const char *tokens[MAX_TOKENS];
    size_t n_tokens = 0, n_merges = 0;
    int n_unprintable = 0;
    for (int b = 0; b < N_BYTES; b++) {
        bool printable = (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
        int point = printable ? b : N_BYTES + n_unprintable++;
        if (point < 0x80)
            snprintf(bytes[b], 3, "%c", point);
        else
            snprintf(bytes[b], 3, "%c%c", 0xC0 | point >> 6, 0x80 | (point & 0x3F));
        tokens[n_tokens++] = bytes[b];
    }
    for (size_t i = 0; i < COUNT(l->tokens) && l->tokens[i]; i++) tokens[n_tokens++] = l->tokens[i];
    while (n_merges < COUNT(l->merges) && l->merges[n_merges]) n_merges++;
    if (l->model) test_gguf_string(gguf, "tokenizer.ggml.model", l->model);
    if (l->pre) test_gguf_string(gguf, "tokenizer.ggml.pre", l->pre);
    test_gguf_strings(gguf, "tokenizer.ggml.tokens", tokens, n_tokens);
    test_gguf_strings(gguf, "tokenizer.ggml.merges", l->merges, n_merges);
    if (l->types[0]) {
        size_t n = n_tokens + (size_t)l->n_types_too_many;
        test_gguf_array(gguf, "tokenizer.ggml.token_type", INK_GGUF_I32, n);
        for (size_t i = 0; i < n; i++) {
            size_t j = i - N_BYTES;
            test_gguf_uint(gguf, i >= N_BYTES && j < COUNT(l->types) && l->types[j] ? l->types[j] : 1, 4);
        }
    }
}

static ink_status open_lists(ink_tokenizer **tokenizer, const lists *l, ink_error *error) {
    char bytes[N_BYTES][3];
    uint64_t n_values = 2u + (l->model != NULL) + (l->pre != NULL) + (l->types[0] != 0);
    test_gguf gguf = test_gguf_begin(3, 0, n_values);
    put_lists(&gguf, l, bytes);
    ink_gguf file;
    if (ink_gguf_parse(&file, gguf.bytes, gguf.size, "x", error) != INK_OK) fail_msg("%s", error->message);
    ink_status status = ink_gguf_tokenizer_open(tokenizer, &file, "x.gguf", error);
    ink_gguf_close(&file);
    test_gguf_free(&gguf);
    return status;
}

static void opens_lists(void **state) {
    (void)state;
    ink_tokenizer *tokenizer;
    ink_error error;
    int32_t *ids;
    size_t n;
    lists bare = good; /* without model, pre-tokenizer and types */
    bare.model = bare.pre = NULL;
    bare.types[0] = 0;
    for (int round = 0; round < 2; round++) {
        if (open_lists(&tokenizer, round ? &bare : &good, &error) != INK_OK) fail_msg("%s", error.message);
        assert_int_equal(ink_tokenizer_encode(tokenizer, "the<|x|>", 8, &ids, &n, &error), INK_OK);
        assert_int_equal(ids[0], 256);
        assert_int_equal(n, round ? 7 : 3); /* without types, <|x|> is a token that no merge makes */
        if (!round) assert_int_equal(ids[2], 257);
        ink_free(ids);
        ink_tokenizer_close(&tokenizer);
    }
}

static void refuses_lists(void **state) {
    (void)state;
    const struct {
        lists lists;
        ink_status status;
        const char *part;
    } cases[] = {
        {{.model = "llama"}, INK_ERROR_UNSUPPORTED, "tokenizer.ggml.model must be \"gpt2\", other tokenizers are not supported"},
        {{.model = "gpt2", .pre = "llama-bpe"}, INK_ERROR_UNSUPPORTED, "tokenizer.ggml.pre must be \"qwen2\""},
        {{.tokens = {"th", "th"}}, INK_ERROR_FORMAT, "x.gguf/tokenizer.ggml.tokens: \"th\" is there twice"},
        {{.tokens = {"th", "th"}, .types = {1, 3}}, INK_ERROR_FORMAT, "\"th\" has the id 257 here and 256 elsewhere"},
        {{.tokens = {"\xff"}}, INK_ERROR_FORMAT, "x.gguf: tokenizer.ggml.tokens: token 256 is not UTF-8"},
        {{.tokens = {""}, .types = {3}}, INK_ERROR_FORMAT, "the added token with the id 256 has 0 bytes"},
        {{.tokens = {"th"}, .types = {1}, .n_types_too_many = 1}, INK_ERROR_FORMAT, "must have as many elements as"},
        {{.tokens = {"th"}, .types = {1}, .n_types_too_many = -1}, INK_ERROR_FORMAT, "must have as many elements as"},
        {{.merges = {"t h"}},
         INK_ERROR_FORMAT,
         "x.gguf/tokenizer.ggml.merges: line 1: the two symbols together are not in tokenizer.ggml.tokens"},
        {{.tokens = {"th"}, .merges = {"t h", "t h"}}, INK_ERROR_FORMAT, "line 2: the same merge stands on an earlier line"},
        {{.tokens = {"th"}, .merges = {"t"}}, INK_ERROR_FORMAT, "line 1: must hold two symbols with one space between them"},
        {{.tokens = {"th"}, .merges = {"t \xff"}}, INK_ERROR_FORMAT, "line 1: the second symbol is not in"},
        {{.tokens = {"th"}, .merges = {"xx h"}}, INK_ERROR_FORMAT, "line 1: the first symbol is not in"},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        ink_tokenizer *tokenizer = NULL;
        ink_error error;
        ink_status status = open_lists(&tokenizer, &cases[i].lists, &error);
        if (status != cases[i].status || !strstr(error.message, cases[i].part))
            fail_msg("case %zu: expected ...%s..., got %s", i, cases[i].part, error.message);
        assert_null(tokenizer);
    }
}

/* Values of other types than they should have, or none. */
static void refuses_other_types(void **state) {
    (void)state;
    static const struct {
        const char *key; /* with a number for a value */
        const char *part;
    } cases[] = {
        {"tokenizer.ggml.tokens", "tokenizer.ggml.tokens must be an array of strings"},
        {"tokenizer.ggml.merges", "tokenizer.ggml.merges must be an array of strings"},
        {"tokenizer.ggml.model", "tokenizer.ggml.model must be a string"},
        {"tokenizer.ggml.token_type", "tokenizer.ggml.token_type must be an array of integers"},
        {"something.else", "tokenizer.ggml.tokens: has no token"},
    };
    static const char *const one[] = {"a"};
    for (size_t i = 0; i < COUNT(cases); i++) {
        bool is_types = strstr(cases[i].key, "token_type") != NULL;
        test_gguf gguf = test_gguf_begin(3, 0, i < 2 ? 2 : 3);
        if (is_types)
            test_gguf_strings(&gguf, cases[i].key, one, 1);
        else
            test_gguf_u32(&gguf, cases[i].key, 1);
        if (i != 0) test_gguf_strings(&gguf, "tokenizer.ggml.tokens", one, 1);
        if (i != 1) test_gguf_strings(&gguf, "tokenizer.ggml.merges", one, 0);
        ink_gguf file;
        ink_tokenizer *tokenizer;
        ink_error error;
        if (ink_gguf_parse(&file, gguf.bytes, gguf.size, "x", &error) != INK_OK) fail_msg("%s", error.message);
        assert_int_equal(ink_gguf_tokenizer_open(&tokenizer, &file, "x", &error), INK_ERROR_FORMAT);
        if (!strstr(error.message, cases[i].part)) fail_msg("expected ...%s..., got %s", cases[i].part, error.message);
        assert_null(tokenizer);
        ink_gguf_close(&file);
        test_gguf_free(&gguf);
    }
    test_gguf gguf = test_gguf_begin(3, 0, 0);
    ink_gguf file;
    ink_tokenizer *tokenizer;
    assert_int_equal(ink_gguf_parse(&file, gguf.bytes, gguf.size, "x", NULL), INK_OK);
    assert_false(ink_gguf_has_tokenizer(&file));
    assert_int_equal(ink_gguf_tokenizer_open(&tokenizer, &file, "x", NULL), INK_ERROR_FORMAT);
    ink_gguf_close(&file);
    test_gguf_free(&gguf);
}

static void survives_failing_allocations(void **state) {
    (void)state;
    ink_gguf file;
    ink_tokenizer *tokenizer;
    ink_error error;
    open_recorded(&file, &tokenizer);
    ink_tokenizer_close(&tokenizer);
    ink_status status = INK_ERROR_MEMORY;
    int64_t n = 0;
    for (; status != INK_OK; n++) {
        ink_alloc_fail_after(n);
        status = ink_gguf_tokenizer_open(&tokenizer, &file, "x", &error);
        ink_alloc_fail_after(-1);
        if (status != INK_OK && status != INK_ERROR_MEMORY) fail_msg("allocation %d: %s", (int)n, error.message);
        assert_true((tokenizer != NULL) == (status == INK_OK));
    }
    assert_true(n > 8);
    ink_tokenizer_close(&tokenizer);
    ink_gguf_close(&file);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(encodes_as_the_folder),
        cmocka_unit_test(opens_lists),
        cmocka_unit_test(refuses_lists),
        cmocka_unit_test(refuses_other_types),
        cmocka_unit_test(survives_failing_allocations),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
