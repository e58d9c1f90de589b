/* test_output_file.c - files that appear whole or not at all. */
#define _XOPEN_SOURCE 700 /* mkdtemp */
#include <dirent.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/output_file.h"
#include "common/text_format.h"

static char folder[] = "/tmp/inkstone-test-XXXXXX";

static int make_folder(void **state) {
    (void)state;
    return mkdtemp(folder) ? 0 : -1;
}

static int remove_folder(void **state) {
    (void)state;
    return rmdir(folder);
}

/* The path of a file in the folder, for the moment. */
static const char *at(const char *name) {
    static char path[2][256];
    static int turn;
    turn = !turn;
    snprintf(path[turn], sizeof path[turn], "%s/%s", folder, name);
    return path[turn];
}

static int count_files(void) {
    int n = 0;
    DIR *entries = opendir(folder);
    assert_non_null(entries);
    for (struct dirent *entry; (entry = readdir(entries));)
        n += strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0;
    closedir(entries);
    return n;
}

static void write_file(const char *path, const char *text, bool keep_others, char final_path[256]) {
    app_output_file file;
    ink_error error = {0};
    assert_int_equal(app_output_open(&file, path, keep_others, &error), INK_OK);
    fputs(text, file.stream);
    assert_int_equal(app_output_publish(&file, &error), INK_OK);
    snprintf(final_path, 256, "%s", file.path);
    app_output_discard(&file);
}

static void check_content(const char *path, const char *expected) {
    char text[64] = "";
    FILE *file = fopen(path, "rb");
    assert_non_null(file);
    assert_int_equal(fread(text, 1, sizeof text - 1, file), strlen(expected));
    assert_string_equal(text, expected);
    fclose(file);
}

static void test_replace_and_keep(void **state) {
    (void)state;
    char path[256];
    write_file(at("a.png"), "one", false, path);
    assert_string_equal(path, at("a.png"));
    write_file(at("a.png"), "two", false, path);
    check_content(at("a.png"), "two");
    write_file(at("a.png"), "three", true, path);
    assert_string_equal(path, at("a-2.png"));
    write_file(at("a.png"), "four", true, path);
    assert_string_equal(path, at("a-3.png"));
    check_content(at("a.png"), "two");
    check_content(at("a-2.png"), "three");
    assert_int_equal(count_files(), 3);
    unlink(at("a.png"));
    unlink(at("a-2.png"));
    unlink(at("a-3.png"));
}

static void test_mode(void **state) {
    (void)state;
    char path[256];
    struct stat info;
    mode_t before = umask(027);
    write_file(at("m.png"), "x", false, path);
    umask(before);
    assert_int_equal(stat(path, &info), 0);
    assert_int_equal(info.st_mode & 0777, 0640);
    unlink(path);
}

static void test_discard(void **state) {
    (void)state;
    app_output_file file = {0}, untouched = {0};
    ink_error error = {0};
    assert_int_equal(app_output_open(&file, at("b.png"), false, &error), INK_OK);
    assert_int_equal(count_files(), 1); /* the place has been tried */
    app_output_discard(&file);
    app_output_discard(&file);
    app_output_discard(&untouched);
    assert_int_equal(count_files(), 0);
}

static void refuse(const char *path, const char *part_of_sentence) {
    app_output_file file;
    ink_error error = {0};
    assert_int_equal(app_output_open(&file, path, false, &error), INK_ERROR_IO);
    if (!strstr(error.message, part_of_sentence)) fail_msg("\"%s\" lacks \"%s\"", error.message, part_of_sentence);
    app_output_discard(&file);
}

static void test_bad_places(void **state) {
    (void)state;
    char path[256], long_name[300];
    refuse(at("no/such/x.png"), "there is no folder");
    refuse(folder, "it is a folder");
    refuse(at(""), "file name is missing");
    refuse("", "file name is missing");
    refuse("/dev/null", "no ordinary file");
    memset(long_name, 'x', sizeof long_name);
    long_name[sizeof long_name - 1] = 0;
    refuse(long_name, "too long");
    write_file(at("plain"), "x", false, path);
    refuse(at("plain/x.png"), "cannot write");
    unlink(at("plain"));
    assert_int_equal(count_files(), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_replace_and_keep), cmocka_unit_test(test_mode),
                                       cmocka_unit_test(test_discard), cmocka_unit_test(test_bad_places)};
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
