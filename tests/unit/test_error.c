/* test_error.c - sentences stay printable and whole. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

#include "base/error.h"

static void test_status_and_sentence(void **state) {
    (void)state;
    ink_error error;
    assert_int_equal(ink_fail(&error, INK_ERROR_FORMAT, "%s has %d", "a", 3), INK_ERROR_FORMAT);
    assert_int_equal(error.status, INK_ERROR_FORMAT);
    assert_string_equal(error.message, "a has 3");
    ink_error_clear(&error);
    assert_int_equal(error.status, INK_OK);
    assert_string_equal(error.message, "");
    assert_int_equal(ink_fail(NULL, INK_ERROR_IO, "nobody listens"), INK_ERROR_IO);
}

static void test_control_characters(void **state) {
    (void)state;
    ink_error error;
    ink_fail(&error, INK_ERROR_FORMAT, "tensor %s", "a\033[31m\nb\x7f\xc3\xa9");
    assert_string_equal(error.message, "tensor a?[31m?b?\xc3\xa9");
}

/* Whatever the length at which a sentence is cut, it ends with a whole character. */
static void test_cut_at_a_character(void **state) {
    (void)state;
    static const char *const characters[] = {"x", "\xc3\xa9", "\xe4\xb8\x80", "\xf0\x9f\x90\xb1"};
    for (size_t i = 0; i < 4; i++)
        for (size_t shift = 0; shift < 4; shift++) {
            char text[2000] = "";
            ink_error error;
            size_t n = strlen(characters[i]);
            memset(text, '-', shift);
            for (size_t at = shift; at + n < sizeof text; at += n) memcpy(text + at, characters[i], n + 1);
            ink_fail(&error, INK_ERROR_FORMAT, "%s", text);
            size_t length = strlen(error.message);
            assert_true(length >= sizeof error.message - 4);
            assert_int_equal((length - shift) % n, 0);
        }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_status_and_sentence),
        cmocka_unit_test(test_control_characters),
        cmocka_unit_test(test_cut_at_a_character),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
