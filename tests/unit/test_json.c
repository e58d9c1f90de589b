/* test_json.c - mapped files, strict JSON, and the sentences about fields. */
#define _XOPEN_SOURCE 700
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
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

/* ---- entry by entry -------------------------------------------------------------------------------------------------- */

enum { N_ENTRIES = 5000, ENTRY_BYTES = 64 };

/* Of many pieces: names and values with all that could be taken for their ends. */
static char *many_entries(size_t *size) {
    char *text = malloc(N_ENTRIES * ENTRY_BYTES), *at = text + sprintf(text, " \n{");
    for (int i = 0; i < N_ENTRIES; i++)
        at += sprintf(at, "%s\"%d,}\\\\\\\"{[\" : [%d, {\"a]\": \"}\", \"b\": [[], {}]}]", i > 0 ? ", " : "", i, i);
    at += sprintf(at, "\t} ");
    *size = (size_t)(at - text);
    return text;
}

typedef struct seen_entries {
    int n, ends_at;
} seen_entries;

static ink_status see_entry(void *user, const char *key, const json_t *value) {
    seen_entries *seen = user;
    char expected[ENTRY_BYTES];
    snprintf(expected, sizeof expected, "%d,}\\\"{[", seen->n);
    assert_string_equal(key, expected);
    assert_int_equal(json_integer_value(json_array_get(value, 0)), seen->n);
    return ++seen->n == seen->ends_at ? INK_ERROR_CANCELLED : INK_OK;
}

static void test_entry_by_entry(void **state) {
    (void)state;
    size_t size;
    char *text = many_entries(&size);
    ink_error error;
    assert_true(size > 3 << 16);
    seen_entries seen = {0};
    assert_int_equal(ink_json_each_entry(text, size, "x.json", see_entry, &seen, &error), INK_OK);
    assert_int_equal(seen.n, N_ENTRIES);
    seen = (seen_entries){.ends_at = 4000};
    assert_int_equal(ink_json_each_entry(text, size, "x.json", see_entry, &seen, NULL), INK_ERROR_CANCELLED);
    assert_int_equal(seen.n, 4000);
    seen = (seen_entries){0};
    assert_int_equal(ink_json_each_entry("{ }", 3, "x.json", see_entry, &seen, NULL), INK_OK);
    assert_int_equal(seen.n, 0);
    /* Wherever it ends, and whatever is put in place of a byte of its ends, it is the error of the whole. */
    for (size_t n = 0; n < size - 2; n += n < 100 || n > size - 100 ? 1 : 997) {
        seen = (seen_entries){0};
        assert_int_equal(ink_json_each_entry(text, n, "x.json", see_entry, &seen, &error), INK_ERROR_FORMAT);
        assert_says(&error, INK_ERROR_FORMAT, "x.json: is not valid JSON: line ");
    }
    static const char others[] = "]{,\":x";
    for (const char *other = others; *other; other++) {
        seen = (seen_entries){0};
        text[size - 2] = *other;
        assert_int_equal(ink_json_each_entry(text, size, "x.json", see_entry, &seen, &error), INK_ERROR_FORMAT);
        assert_says(&error, INK_ERROR_FORMAT, "x.json: is not valid JSON: line 2, column ");
    }
    text[size - 2] = '}';
    text[size - 1] = ',';
    seen = (seen_entries){0};
    assert_int_equal(ink_json_each_entry(text, size, "x.json", see_entry, &seen, &error), INK_ERROR_FORMAT);
    assert_says(&error, INK_ERROR_FORMAT, "end of file expected");
    free(text);
}

static ink_status see_any(void *user, const char *key, const json_t *value) {
    (void)key;
    (void)value;
    ++*(int *)user;
    return INK_OK;
}

/* Where a text may be cut, behind its first 64 KiB, nothing may stand but one comma. */
static void test_between_pieces(void **state) {
    (void)state;
    enum { LONG = 70000 };
    static const struct {
        const char *end, *part;
    } cases[] = {{"\",\"b\":1}", NULL},
                 {"\",}", "is not valid JSON"},
                 {"\", , \"b\":1}", "is not valid JSON"},
                 {"\" \"b\":1}", "'}' expected"},
                 {"\",\"a\":1}", NULL},
                 {"\"},\"b\":1}", "end of file expected"},
                 {"\"]", "is not valid"},
                 {"\\\",\"b\":1}", "is not valid"}};
    char *text = malloc(LONG + 64);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        ink_error error = {0};
        int n = 0;
        memset(text, 'x', LONG);
        memcpy(text, "{\"a\":\"", 6);
        strcpy(text + LONG, cases[i].end);
        ink_status status = ink_json_each_entry(text, strlen(text), "x.json", see_any, &n, &error);
        if (cases[i].part)
            assert_says(&error, INK_ERROR_FORMAT, cases[i].part);
        else
            assert_int_equal(status, INK_OK);
    }
    free(text);
    int n = 0;
    ink_error error;
    assert_int_equal(ink_json_each_entry("{\"a\":1,\"a\":2}", 15, "x.json", see_any, &n, &error), INK_ERROR_FORMAT);
    assert_says(&error, INK_ERROR_FORMAT, "duplicate object key");
    assert_int_equal(ink_json_each_entry("[1]", 3, "x.json", see_any, &n, &error), INK_ERROR_FORMAT);
    assert_says(&error, INK_ERROR_FORMAT, "must hold a JSON object, found an array of 1");
    assert_int_equal(ink_json_each_entry(NULL, 0, "x.json", see_any, &n, &error), INK_ERROR_FORMAT);
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
    status = INK_ERROR_MEMORY;
    for (int64_t n = 0; status != INK_OK; n++) {
        ink_error error;
        int n_seen = 0;
        test_json_fail_after(n);
        status = ink_json_each_entry(sample, strlen(sample), "x.json", see_any, &n_seen, &error);
        assert_true(status == INK_OK || status == INK_ERROR_MEMORY || status == INK_ERROR_FORMAT);
        assert_int_equal(n_seen > 0, status == INK_OK);
    }
    test_json_fail_after(-1);
    ink_error error;
    int n_seen = 0;
    ink_alloc_fail_after(0);
    assert_int_equal(ink_json_each_entry(sample, strlen(sample), "x.json", see_any, &n_seen, &error), INK_ERROR_MEMORY);
    ink_alloc_fail_after(-1);
    assert_says(&error, INK_ERROR_MEMORY, "x.json: no memory");
    assert_int_equal(n_seen, 0);
    test_folder_remove(folder);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_texts_that_are_refused),
        cmocka_unit_test(test_entry_by_entry),
        cmocka_unit_test(test_between_pieces),
        cmocka_unit_test(test_fields),
        cmocka_unit_test(test_fields_that_are_refused),
        cmocka_unit_test(test_descriptions),
        cmocka_unit_test(test_files),
        cmocka_unit_test(test_mapping_keeps_what_was_dropped),
        cmocka_unit_test(test_no_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
