/* test_prompt.c - template, drop index and length limit, with the vocabularies of two golden models. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/memory.h"
#include "pipeline/prompt.h"

#define GOLDEN INK_TEST_SOURCE_DIR "/tests/golden/"

enum { MAX_ROWS = 512, N_AFTER = 5 };

static const char template_begin[] =
    "<|im_start|>system\nDescribe the image by detailing the color, shape, size, texture, quantity, text, spatial relationships of "
    "the objects and background:<|im_end|>\n<|im_start|>user\n";
static const char template_end[] = "<|im_end|>\n<|im_start|>assistant\n";

static ink_tokenizer *open_tokenizer(const char *folder) {
    ink_error error;
    ink_tokenizer *tokenizer = NULL;
    if (ink_tokenizer_open(&tokenizer, folder, &error) != INK_OK) fail_msg("%s", error.message);
    return tokenizer;
}

static int setup(void **state) {
    *state = open_tokenizer(GOLDEN "tiny/tokenizer");
    return 0;
}

static int teardown(void **state) {
    ink_tokenizer *tokenizer = *state;
    ink_tokenizer_close(&tokenizer);
    return 0;
}

static ink_prompt encode(const ink_tokenizer *tokenizer, const char *text) {
    ink_error error;
    ink_prompt prompt;
    if (ink_prompt_encode(&prompt, tokenizer, text, "prompt", &error) != INK_OK) fail_msg("%s", error.message);
    return prompt;
}

/* The ids of the template with the text in it, made here by joining strings. */
static void assert_ids(const ink_tokenizer *tokenizer, const ink_prompt *prompt, const char *text, bool cut) {
    size_t size = sizeof template_begin + strlen(text) + sizeof template_end, n;
    char *whole = malloc(size);
    int32_t *ids;
    assert_non_null(whole);
    strcpy(whole, template_begin);
    strcat(whole, text);
    strcat(whole, template_end);
    assert_int_equal(ink_tokenizer_encode(tokenizer, whole, strlen(whole), &ids, &n, NULL), INK_OK);
    if (cut)
        assert_true(prompt->n < (int64_t)n);
    else
        assert_int_equal(prompt->n, n);
    assert_memory_equal(prompt->ids, ids, (size_t)prompt->n * sizeof *ids);
    ink_free(ids);
    free(whole);
}

static void test_texts(void **state) {
    static const char *const texts[] = {"",
                                        " ",
                                        "a red circle",
                                        "{} {0} %s %n %",
                                        "\n\n  cat's  12 \n",
                                        "<|im_end|>\n<|im_start|>user\n",
                                        "\xe4\xb8\x8d\xe7\x8c\xab \xf0\x9f\x90\xb1 e\xcc\x81"};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        ink_prompt prompt = encode(*state, texts[i]);
        assert_int_equal(prompt.drop, 34);
        assert_ids(*state, &prompt, texts[i], false);
        ink_prompt_release(&prompt);
        assert_null(prompt.ids);
        ink_prompt_release(&prompt);
    }
}

static void test_empty(void **state) {
    ink_prompt prompt = encode(*state, "");
    assert_int_equal(prompt.n - prompt.drop, N_AFTER);
    ink_prompt_release(&prompt);
}

/* With fewer merges the same template has more tokens. */
static void test_drop_follows_the_vocabulary(void **state) {
    (void)state;
    ink_tokenizer *tokenizer = open_tokenizer(GOLDEN "static-shift/tokenizer");
    ink_prompt prompt = encode(tokenizer, "a cat");
    assert_int_equal(prompt.drop, 106);
    assert_ids(tokenizer, &prompt, "a cat", false);
    ink_prompt_release(&prompt);
    ink_tokenizer_close(&tokenizer);
}

/* A digit is a token, so that the length is exact. */
static void test_length_limit(void **state) {
    static const int lengths[] = {1, MAX_ROWS - N_AFTER - 1, MAX_ROWS - N_AFTER, MAX_ROWS - N_AFTER + 1, MAX_ROWS, 5000};
    static char text[5001];
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        int n = lengths[i];
        for (int j = 0; j < n; j++) text[j] = (char)('0' + j % 10);
        text[n] = '\0';
        ink_prompt prompt = encode(*state, text);
        int64_t rows = n + N_AFTER < MAX_ROWS ? n + N_AFTER : MAX_ROWS;
        assert_int_equal(prompt.n - prompt.drop, rows);
        assert_ids(*state, &prompt, text, n + N_AFTER > MAX_ROWS);
        ink_prompt_release(&prompt);
    }
}

static void test_invalid_text(void **state) {
    ink_error error;
    ink_prompt prompt;
    assert_int_equal(ink_prompt_encode(&prompt, *state, "abc\xff", "negative prompt", &error), INK_ERROR_ARGUMENT);
    assert_int_equal(error.status, INK_ERROR_ARGUMENT);
    assert_non_null(strstr(error.message, "negative prompt"));
    assert_null(prompt.ids);
    assert_int_equal(ink_prompt_encode(&prompt, *state, "abc\xff", "prompt", NULL), INK_ERROR_ARGUMENT);
    assert_null(prompt.ids);
}

static void test_no_memory(void **state) {
    ink_prompt prompt;
    for (int64_t n = 0;; n++) {
        ink_error error;
        ink_alloc_fail_after(n);
        ink_status status = ink_prompt_encode(&prompt, *state, "a red circle", "prompt", &error);
        ink_alloc_fail_after(-1);
        if (status == INK_OK) break;
        assert_int_equal(status, INK_ERROR_MEMORY);
        assert_int_equal(error.status, INK_ERROR_MEMORY);
        assert_null(prompt.ids);
    }
    assert_ids(*state, &prompt, "a red circle", false);
    ink_prompt_release(&prompt);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_texts),
        cmocka_unit_test(test_empty),
        cmocka_unit_test(test_drop_follows_the_vocabulary),
        cmocka_unit_test(test_length_limit),
        cmocka_unit_test(test_invalid_text),
        cmocka_unit_test(test_no_memory),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
