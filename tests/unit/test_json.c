/* test_json.c - mapped files, strict JSON, and the sentences about fields. */
#define _XOPEN_SOURCE 700
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/json.h"
#include "base/mapfile.h"
#include "base/memory.h"
#include "support/files.h"

static void assert_says(const ink_error *error, ink_status status, const char *part) {
    if (error->status != status || !strstr(error->message, part))
        fail_msg("expected %s: ...%s..., got %s: %s", ink_status_name(status), part, ink_status_name(error->status),
                 error->message);
}

static void test_texts_that_are_refused(void **state) {
    static const struct {
        const char *text, *part;
    } cases[] = {
        {"", "x.json: is not valid JSON"},
        {"{", "line 1"},
        {"{\"a\": 1, \"a\": 2}", "duplicate object key"},
        {"{\"a\": 1} x", "end of file expected"},
        {"{\"a\": NaN}", "is not valid JSON"},
        {"{\"a\": 1e999}", "real number overflow"},
        {"{\"a\": 99999999999999999999}", "too big integer"},
        {"{\"a\": \"\\u0000\"}", "\\u0000 is not allowed"},
        {"{\"a\": \"\xff\"}", "unable to decode byte 0xff"},
        {"[1, 2]", "must hold a JSON object, found an array of 2"},
        {"7", "is not valid JSON"},
        {"{\n\n\"a\": }", "line 3, column 6"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        json_t *root = NULL;
        ink_error error;
        assert_int_equal(ink_json_parse(&root, cases[i].text, strlen(cases[i].text), "x.json", &error), INK_ERROR_FORMAT);
        assert_says(&error, INK_ERROR_FORMAT, cases[i].part);
        assert_null(root);
    }
    /* Nesting is jansson's to limit: no stack is lost to it. */
    char deep[100000];
    memset(deep, '[', sizeof deep);
    json_t *root = NULL;
    assert_int_equal(ink_json_parse(&root, deep, sizeof deep, "deep", NULL), INK_ERROR_FORMAT);
    assert_int_equal(ink_json_parse(&root, NULL, 0, "nothing", NULL), INK_ERROR_FORMAT);
}

static json_t *parse(const char *text) {
    json_t *root = NULL;
    ink_error error;
    if (ink_json_parse(&root, text, strlen(text), "x.json", &error) != INK_OK) fail_msg("%s", error.message);
    return root;
}

static const char sample[] = "{\"i\": 3, \"n\": -2.5, \"t\": true, \"s\": \"text\", \"null\": null, \"o\": {\"x\": 1},"
                             " \"ints\": [1, 2, 3], \"nums\": [1, 2.5], \"bools\": [true, false], \"mixed\": [1, \"x\"]}";

static void test_fields(void **state) {
    (void)state;
    json_t *root = parse(sample);
    ink_error error = {0};
    ink_json_reader r = {.object = root, .origin = "x.json", .error = &error};
    int64_t ints[3];
    double numbers[2];
    bool bools[2];
    assert_int_equal(ink_json_int(&r, "i", 0, 3), 3);
    assert_int_equal(ink_json_int_or(&r, "null", 7, 0, 1), 7);
    assert_int_equal(ink_json_int_or(&r, "absent", 8, 0, 1), 8);
    assert_true(ink_json_number(&r, "n") == -2.5 && ink_json_number(&r, "i") == 3.0);
    assert_true(ink_json_number_or(&r, "null", 1.5) == 1.5);
    assert_true(ink_json_bool_or(&r, "t", false));
    assert_true(ink_json_bool_or(&r, "absent", true));
    assert_string_equal(ink_json_string(&r, "s"), "text");
    assert_string_equal(ink_json_string_or(&r, "absent", "other"), "other");
    assert_int_equal(ink_json_ints(&r, "ints", ints, 3), 3);
    assert_int_equal(ints[2], 3);
    assert_int_equal(ink_json_numbers(&r, "nums", numbers, 2), 2);
    assert_true(numbers[0] == 1.0 && numbers[1] == 2.5);
    assert_int_equal(ink_json_bools(&r, "bools", bools, 2), 2);
    assert_true(bools[0] && !bools[1]);
    assert_non_null(ink_json_object_or_null(&r, "o"));
    assert_null(ink_json_object_or_null(&r, "null"));
    assert_true(ink_json_has(&r, "i") && !ink_json_has(&r, "null") && !ink_json_has(&r, "absent"));
    assert_int_equal(r.status, INK_OK);
    json_decref(root);
}

typedef void (*reader_call)(ink_json_reader *r);

static void int_absent(ink_json_reader *r) { ink_json_int(r, "absent", 0, 1); }
static void int_null(ink_json_reader *r) { ink_json_int(r, "null", 0, 1); }
static void int_low(ink_json_reader *r) { ink_json_int(r, "i", 4, 9); }
static void int_high(ink_json_reader *r) { ink_json_int_or(r, "i", 0, 0, 2); }
static void int_real(ink_json_reader *r) { ink_json_int(r, "n", 0, 9); }
static void int_string(ink_json_reader *r) { ink_json_int_or(r, "s", 0, 0, 9); }
static void number_null(ink_json_reader *r) { ink_json_number(r, "null"); }
static void number_bool(ink_json_reader *r) { ink_json_number_or(r, "t", 0); }
static void number_absent(ink_json_reader *r) { ink_json_number(r, "absent"); }
static void bool_int(ink_json_reader *r) { ink_json_bool_or(r, "i", false); }
static void string_int(ink_json_reader *r) { assert_null(ink_json_string(r, "i")); }
static void string_null(ink_json_reader *r) { assert_null(ink_json_string(r, "null")); }
static void object_int(ink_json_reader *r) { assert_null(ink_json_object_or_null(r, "i")); }

static void ints_long(ink_json_reader *r) {
    int64_t values[2] = {-1, -1};
    assert_int_equal(ink_json_ints(r, "ints", values, 2), 0);
    assert_int_equal(values[0], -1);
}

static void ints_mixed(ink_json_reader *r) {
    int64_t values[2];
    assert_int_equal(ink_json_ints(r, "mixed", values, 2), 0);
}

static void numbers_object(ink_json_reader *r) {
    double values[2];
    assert_int_equal(ink_json_numbers(r, "o", values, 2), 0);
}

static void numbers_mixed(ink_json_reader *r) {
    double values[2];
    assert_int_equal(ink_json_numbers(r, "mixed", values, 2), 0);
}

static void bools_mixed(ink_json_reader *r) {
    bool values[2];
    assert_int_equal(ink_json_bools(r, "mixed", values, 2), 0);
}

static void test_fields_that_are_refused(void **state) {
    static const struct {
        reader_call call;
        const char *sentence;
    } cases[] = {
        {int_absent, "x.json: \"absent\" is missing, it must be an integer"},
        {int_null, "x.json: \"null\" must be an integer from 0 to 1, found null"},
        {int_low, "x.json: \"i\" must be an integer from 4 to 9, found 3"},
        {int_high, "x.json: \"i\" must be an integer from 0 to 2, found 3"},
        {int_real, "x.json: \"n\" must be an integer from 0 to 9, found the real number -2.5"},
        {int_string, "x.json: \"s\" must be an integer from 0 to 9, found \"text\""},
        {number_null, "x.json: \"null\" must be a number, found null"},
        {number_bool, "x.json: \"t\" must be a number, found true"},
        {number_absent, "x.json: \"absent\" is missing, it must be a number"},
        {bool_int, "x.json: \"i\" must be true or false, found 3"},
        {string_int, "x.json: \"i\" must be a string, found 3"},
        {string_null, "x.json: \"null\" must be a string, found null"},
        {object_int, "x.json: \"i\" must be an object, found 3"},
        {ints_long, "x.json: \"ints\" must be an array of integers of at most 2, found 3"},
        {ints_mixed, "x.json: \"mixed\" must be an array of integers, item 1 is \"x\""},
        {numbers_object, "x.json: \"o\" must be an array of numbers, found an object"},
        {numbers_mixed, "x.json: \"mixed\" must be an array of numbers, item 1 is \"x\""},
        {bools_mixed, "x.json: \"mixed\" must be an array of true and false, item 0 is 1"},
    };
    (void)state;
    json_t *root = parse(sample);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        ink_error error = {0};
        ink_json_reader r = {.object = root, .origin = "x.json", .error = &error};
        cases[i].call(&r);
        assert_int_equal(r.status, INK_ERROR_FORMAT);
        assert_string_equal(error.message, cases[i].sentence);
        /* Sticky: nothing later changes the sentence, and everything falls back. */
        assert_int_equal(ink_json_int_or(&r, "i", 77, 0, 9), 77);
        assert_null(ink_json_string(&r, "s"));
        assert_int_equal(ink_json_fail(&r, INK_ERROR_IO, "later"), INK_ERROR_FORMAT);
        assert_string_equal(error.message, cases[i].sentence);
    }
    json_decref(root);
}

static void test_descriptions(void **state) {
    (void)state;
    char text[INK_JSON_DESCRIPTION];
    json_t *value = json_string("a\x1b[2Jb\x7f");
    assert_string_equal(ink_json_describe(text, value), "\"a?[2Jb?\"");
    json_decref(value);
    /* 59 letters and then a character of two bytes, which the limit of 60 would cut. */
    char umlauts[80];
    memset(umlauts, 'x', 59);
    snprintf(umlauts + 59, sizeof umlauts - 59, "\xc3\xbc tail");
    value = json_string(umlauts);
    memset(umlauts + 59, 0, sizeof umlauts - 59);
    char expected[80];
    snprintf(expected, sizeof expected, "\"%.59s\"...", umlauts);
    assert_string_equal(ink_json_describe(text, value), expected);
    json_decref(value);
    assert_string_equal(ink_json_describe(text, NULL), "nothing");
}

static void assert_load_fails(const char *folder, const char *name, ink_status status, const char *part) {
    char path[TEST_PATH];
    ink_error error;
    json_t *root = NULL;
    assert_int_equal(ink_json_load(&root, test_path(path, folder, name), &error), status);
    assert_says(&error, status, part);
    assert_null(root);
}

static void test_files(void **state) {
    (void)state;
    char folder[TEST_PATH], path[TEST_PATH];
    test_folder_create(folder);
    test_write_text(folder, "good.json", "{\"a\": 1}");
    json_t *root = NULL;
    assert_int_equal(ink_json_load(&root, test_path(path, folder, "good.json"), NULL), INK_OK);
    assert_int_equal(json_integer_value(json_object_get(root, "a")), 1);
    json_decref(root);

    assert_load_fails(folder, "absent.json", INK_ERROR_IO, "absent.json: cannot be opened: No such file");
    assert_load_fails(folder, "", INK_ERROR_IO, "is a folder, not a regular file");
    test_write_text(folder, "empty.json", "");
    assert_load_fails(folder, "empty.json", INK_ERROR_FORMAT, "is not valid JSON");
    test_write_text(folder, "huge.json", "{}");
    assert_int_equal(truncate(test_path(path, folder, "huge.json"), (64 << 20) + 1), 0);
    assert_load_fails(folder, "huge.json", INK_ERROR_FORMAT, "a JSON file may have 67108864");
    assert_int_equal(mkfifo(test_path(path, folder, "pipe.json"), 0600), 0);
    assert_load_fails(folder, "pipe.json", INK_ERROR_IO, "is a device or pipe, not a regular file");
    test_folder_remove(folder);
}

static void test_mapping_keeps_what_was_dropped(void **state) {
    (void)state;
    char folder[TEST_PATH], path[TEST_PATH];
    static char bytes[3 * 65536 + 17];
    for (size_t i = 0; i < sizeof bytes; i++) bytes[i] = (char)(i * 7 + i / 251);
    test_folder_create(folder);
    test_write(folder, "data", bytes, sizeof bytes);
    ink_mapfile file;
    assert_int_equal(ink_mapfile_open(&file, test_path(path, folder, "data"), NULL), INK_OK);
    assert_int_equal(file.size, sizeof bytes);
    assert_memory_equal(file.data, bytes, sizeof bytes);
    ink_mapfile_drop(file.data, file.size);
    ink_mapfile_drop(file.data + 5, 10);
    ink_mapfile_drop(file.data, 0);
    assert_memory_equal(file.data, bytes, sizeof bytes);
    ink_mapfile_close(&file);
    assert_null(file.data);
    ink_mapfile_close(&file);
    test_folder_remove(folder);
}

static void test_no_memory(void **state) {
    (void)state;
    char folder[TEST_PATH], path[TEST_PATH];
    test_folder_create(folder);
    test_write_text(folder, "x.json", sample);
    test_path(path, folder, "x.json");
    json_t *root = NULL;
    ink_status status = INK_ERROR_MEMORY;
    for (int64_t n = 0; status != INK_OK; n++) {
        ink_error error;
        ink_alloc_fail_after(n);
        status = ink_json_load(&root, path, &error);
        ink_alloc_fail_after(-1);
        if (status == INK_OK) break;
        assert_says(&error, INK_ERROR_MEMORY, "x.json: no memory");
        assert_null(root);
    }
    json_decref(root);
    status = INK_ERROR_MEMORY;
    for (int64_t n = 0; status != INK_OK; n++) {
        ink_error error;
        test_json_fail_after(n);
        status = ink_json_load(&root, path, &error);
        if (status == INK_OK) break;
        /* jansson takes a token that it had no memory for as a syntax error. */
        assert_true(status == INK_ERROR_MEMORY || status == INK_ERROR_FORMAT);
        assert_null(root);
    }
    test_json_fail_after(-1);
    json_decref(root);
    test_folder_remove(folder);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_texts_that_are_refused),
        cmocka_unit_test(test_fields),
        cmocka_unit_test(test_fields_that_are_refused),
        cmocka_unit_test(test_descriptions),
        cmocka_unit_test(test_files),
        cmocka_unit_test(test_mapping_keeps_what_was_dropped),
        cmocka_unit_test(test_no_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
