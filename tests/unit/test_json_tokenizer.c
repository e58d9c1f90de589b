/* test_json_tokenizer.c - tokenizer.json against the files that it stands for, and what is refused. */
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
#include "inkstone.h"
#include "model/json_tokenizer.h"
#include "support/files.h"

#define FORMS INK_TEST_SOURCE_DIR "/tests/golden/forms"

static void assert_same(const ink_tokenizer *a, const ink_tokenizer *b) {
    static const char *const texts[] = {"",
                                        "a red circle on a blue background",
                                        "一只猫 🐱",
                                        "x<|im_end|>\n<|im_start|>y",
                                        "  12 cat's\n\n",
                                        "e\xcc\x81",
                                        "<tool_call> photo"};
    ink_error error;
    assert_int_equal(ink_tokenizer_size(a), ink_tokenizer_size(b));
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        int32_t *ids_a, *ids_b;
        size_t n_a, n_b;
        assert_int_equal(ink_tokenizer_encode(a, texts[i], strlen(texts[i]), &ids_a, &n_a, &error), INK_OK);
        assert_int_equal(ink_tokenizer_encode(b, texts[i], strlen(texts[i]), &ids_b, &n_b, &error), INK_OK);
        assert_int_equal(n_a, n_b);
        assert_memory_equal(ids_a, ids_b, n_a * sizeof *ids_a);
        ink_free(ids_a);
        ink_free(ids_b);
    }
}

static void test_as_the_folder(void **state) {
    (void)state;
    ink_error error;
    ink_tokenizer *folder, *file;
    assert_int_equal(ink_tokenizer_open(&folder, FORMS "/tokenizer", &error), INK_OK);
    if (ink_json_tokenizer_open(&file, FORMS "/mlx8/tokenizer/tokenizer.json", &error) != INK_OK) fail_msg("%s", error.message);
    assert_same(file, folder);
    ink_tokenizer_close(&file);

    /* Older versions write a merge as one string, and added tokens may be in the vocabulary too. */
    json_t *root = json_load_file(FORMS "/mlx8/tokenizer/tokenizer.json", 0, NULL), *value;
    json_t *model = json_object_get(root, "model"), *merges = json_object_get(model, "merges"), *joined = json_array();
    size_t i;
    json_array_foreach(merges, i, value) {
        char text[200];
        snprintf(text, sizeof text, "%s %s", json_string_value(json_array_get(value, 0)),
                 json_string_value(json_array_get(value, 1)));
        json_array_append_new(joined, json_string(text));
    }
    json_object_set_new(model, "merges", joined);
    json_array_foreach(json_object_get(root, "added_tokens"), i, value) json_object_set(
        json_object_get(model, "vocab"), json_string_value(json_object_get(value, "content")), json_object_get(value, "id"));
    if (ink_json_tokenizer_parse(&file, root, "J", &error) != INK_OK) fail_msg("%s", error.message);
    assert_same(file, folder);
    ink_tokenizer_close(&file);
    ink_tokenizer_close(&folder);
    json_decref(root);
}

static void test_refused(void **state) {
    static const struct {
        const char *json;
        ink_status status;
        const char *part;
    } cases[] = {
        {"{}", INK_ERROR_FORMAT, "J: \"model\" must hold \"vocab\""},
        {"{\"model\":{\"vocab\":[],\"merges\":[]}}", INK_ERROR_FORMAT, "must hold \"vocab\", an object"},
        {"{\"model\":{\"vocab\":{},\"merges\":[]},\"added_tokens\":{}}", INK_ERROR_FORMAT, "\"added_tokens\" be an array"},
        {"{\"model\":{\"type\":\"WordPiece\",\"vocab\":{},\"merges\":[]}}", INK_ERROR_UNSUPPORTED, "must be of type BPE"},
        {"{\"model\":{\"vocab\":{},\"merges\":[]},\"normalizer\":{\"type\":\"NFKC\"}}", INK_ERROR_UNSUPPORTED,
         "must be of type NFC"},
        {"{\"model\":{\"vocab\":{},\"merges\":[]},\"pre_tokenizer\":{\"pretokenizers\":[{\"pattern\":{\"Regex\":\"x\"}}]}}",
         INK_ERROR_UNSUPPORTED, "must split as Qwen2 does"},
        {"{\"model\":{\"vocab\":{},\"merges\":[]},\"pre_tokenizer\":{\"pretokenizers\":[{\"pattern\":{\"String\":\" \"}}]}}",
         INK_ERROR_UNSUPPORTED, "must split as Qwen2 does"},
        {"{\"model\":{\"vocab\":{\"a\":-1},\"merges\":[]}}", INK_ERROR_FORMAT, "\"vocab\": an id must be a whole number"},
        {"{\"model\":{\"vocab\":{\"a\":16777216},\"merges\":[]}}", INK_ERROR_FORMAT, "found 16777216"},
        {"{\"model\":{\"vocab\":{\"a\":\"b\"},\"merges\":[]}}", INK_ERROR_FORMAT, "found \"b\""},
        {"{\"model\":{\"vocab\":{\"a\":3,\"b\":3},\"merges\":[]}}", INK_ERROR_FORMAT, "the id 3 is given twice, to a and b"},
        {"{\"model\":{\"vocab\":{\"a\":0},\"merges\":[]},\"added_tokens\":[{\"id\":0,\"content\":\"b\"}]}", INK_ERROR_FORMAT,
         "the id 0 is given twice"},
        {"{\"model\":{\"vocab\":{},\"merges\":[]},\"added_tokens\":[1]}", INK_ERROR_FORMAT, "\"added_tokens\": an id must be"},
        {"{\"model\":{\"vocab\":{},\"merges\":[]},\"added_tokens\":[{\"id\":0}]}", INK_ERROR_FORMAT,
         "\"content\" must be a string"},
        {"{\"model\":{\"vocab\":{},\"merges\":[]},\"added_tokens\":[{\"id\":0,\"content\":\"b\",\"lstrip\":true}]}",
         INK_ERROR_UNSUPPORTED, "the added token b has \"lstrip\""},
        {"{\"model\":{\"vocab\":{},\"merges\":[1]}}", INK_ERROR_FORMAT, "merge 0 must be a string or two, found 1"},
        {"{\"model\":{\"vocab\":{},\"merges\":[[\"a\"]]}}", INK_ERROR_FORMAT, "merge 0 must be a string or two"},
        {"{\"model\":{\"vocab\":{\"a\":0},\"merges\":[]}}", INK_ERROR_FORMAT, "has no token"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        ink_error error = {INK_OK, ""};
        ink_tokenizer *tokenizer;
        json_t *root = json_loads(cases[i].json, 0, NULL);
        assert_non_null(root);
        ink_status status = ink_json_tokenizer_parse(&tokenizer, root, "J", &error);
        if (status != cases[i].status || !strstr(error.message, cases[i].part))
            fail_msg("%s: expected ...%s..., got %s", cases[i].json, cases[i].part, error.message);
        assert_null(tokenizer);
        json_decref(root);
    }
}

static void test_no_memory(void **state) {
    (void)state;
    ink_status status = INK_ERROR_MEMORY;
    for (int64_t n = 0; status != INK_OK; n++) {
        ink_error error;
        ink_tokenizer *tokenizer;
        ink_alloc_fail_after(n);
        status = ink_json_tokenizer_open(&tokenizer, FORMS "/mlx8/tokenizer/tokenizer.json", &error);
        ink_alloc_fail_after(-1);
        assert_true(status == INK_OK || status == INK_ERROR_MEMORY);
        ink_tokenizer_close(&tokenizer);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_as_the_folder),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_no_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
