/* test_text_format.c - strict numbers, sizes and durations, and foreign text. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/text_format.h"

static void test_numbers(void **state) {
    (void)state;
    int64_t i = 7;
    uint64_t u = 7;
    double r = 7;
    assert_true(app_parse_int("-12", &i) && i == -12);
    assert_true(app_parse_int("9223372036854775807", &i) && i == INT64_MAX);
    static const char *const no_ints[] = {"", " 1", "1 ", "1e3", "0x10", "12px", "9223372036854775808", "one", "\n1"};
    for (size_t n = 0; n < sizeof no_ints / sizeof *no_ints; n++) assert_false(app_parse_int(no_ints[n], &i));
    assert_int_equal(i, INT64_MAX); /* left alone */
    assert_true(app_parse_uint("18446744073709551615", &u) && u == UINT64_MAX);
    assert_false(app_parse_uint("18446744073709551616", &u) || app_parse_uint("-1", &u) || app_parse_uint("+1", &u) ||
                 app_parse_uint("", &u));
    assert_true(app_parse_bytes("500", &i) && i == 500);
    assert_true(app_parse_bytes("1.5k", &i) && i == 1536);
    assert_true(app_parse_bytes("8G", &i) && i == INT64_C(8) << 30);
    assert_true(app_parse_bytes("2MiB", &i) && i == 2 << 20);
    assert_true(app_parse_bytes("2TB", &i) && i == INT64_C(2) << 40);
    static const char *const no_sizes[] = {"", "G", "-1G", "1e3", "1 G", "1GG", "1iB", "1Q", "9999999999G", "1.2.3M", "."};
    for (size_t n = 0; n < sizeof no_sizes / sizeof *no_sizes; n++) assert_false(app_parse_bytes(no_sizes[n], &i));
    assert_true(app_parse_real("2.5", &r) && r == 2.5);
    assert_true(app_parse_real("nan", &r) && isnan(r)); /* whether it makes sense is for others to say */
    assert_false(app_parse_real("", &r) || app_parse_real("2,5", &r) || app_parse_real(" 1", &r) || app_parse_real("1x", &r));
}

static void test_shown(void **state) {
    (void)state;
    char text[APP_SHOWN_SIZE];
    assert_string_equal(app_show_bytes(text, 0), "0 B");
    assert_string_equal(app_show_bytes(text, 1023), "1023 B");
    assert_string_equal(app_show_bytes(text, 17 * 1024), "17 KiB");
    assert_string_equal(app_show_bytes(text, 40860802176), "38.1 GiB");
    assert_string_equal(app_show_bytes(text, (1 << 30) - 1), "1.0 GiB");
    assert_string_equal(app_show_bytes(text, INT64_MAX), "8192.0 PiB");
    assert_string_equal(app_show_duration(text, 7.2), "0:07");
    assert_string_equal(app_show_duration(text, 59.7), "1:00");
    assert_string_equal(app_show_duration(text, 3723), "1:02:03");
    assert_string_equal(app_show_duration(text, -1), "0:00");
    assert_string_equal(app_show_duration(text, (double)NAN), "0:00");
    assert_string_equal(app_show_seconds(text, 0.01234), "0.012");
    assert_string_equal(app_show_seconds(text, 0.99951), "1.00");
    assert_string_equal(app_show_seconds(text, 12.345), "12.3");
    assert_string_equal(app_show_seconds(text, 99.96), "100");
}

static void check_valid(const char *text, const char *expected) {
    char *copy = app_valid_utf8(text);
    assert_non_null(copy);
    assert_string_equal(copy, expected);
    free(copy);
}

static void test_utf8(void **state) {
    (void)state;
#define BAD "\xef\xbf\xbd"
    check_valid("plain \xc3\xa4 \xe2\x82\xac \xf0\x9f\xa6\x8a", "plain \xc3\xa4 \xe2\x82\xac \xf0\x9f\xa6\x8a");
    check_valid("\xff-\x80", BAD "-" BAD);
    check_valid("\xc0\xaf", BAD BAD);                 /* overlong */
    check_valid("\xed\xa0\x80", BAD BAD BAD);         /* surrogate */
    check_valid("\xf4\x90\x80\x80", BAD BAD BAD BAD); /* above U+10FFFF */
    check_valid("cut \xe2\x82", "cut " BAD BAD);
    check_valid("\xe2"
                "a",
                BAD "a");
#undef BAD
}

static void check_printed(const char *text, const char *expected) {
    char buffer[64] = "";
    FILE *out = tmpfile();
    assert_non_null(out);
    app_print_clean(out, text);
    rewind(out);
    size_t n = fread(buffer, 1, sizeof buffer - 1, out);
    fclose(out);
    assert_int_equal(n, strlen(expected));
    assert_string_equal(buffer, expected);
}

static void test_print_clean(void **state) {
    (void)state;
    check_printed("a\033[31mb\x7f\tc\nd", "a?[31mb??c?d");
    check_printed("\xe2\x80\xaex\xe2\x80\xa9y\xe2\x81\xa6z\xe2\x81\xaa", "?x\xe2\x80\xa9y?z\xe2\x81\xaa");
    check_printed("\xc2\x9b"
                  "31m \xc3\xa4 \xff",
                  "?31m \xc3\xa4 ?");
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_numbers), cmocka_unit_test(test_shown), cmocka_unit_test(test_utf8),
                                       cmocka_unit_test(test_print_clean)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
