/* test_safetensors.c - headers that lie, and a writer that leaves nothing half done. */
#define _XOPEN_SOURCE 700
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/memory.h"
#include "support/files.h"
#include "tensor/safetensors.h"

/* Length, header and n_data bytes of data, in an allocation of exactly that size so that a sanitizer sees every byte too far. */
static unsigned char *make(const char *header, size_t n_data, size_t *size) {
    size_t n = strlen(header);
    *size = 8 + n + n_data;
    unsigned char *bytes = malloc(*size);
    assert_non_null(bytes);
    for (int i = 0; i < 8; i++) bytes[i] = (unsigned char)((uint64_t)n >> (8 * i));
    memcpy(bytes + 8, header, n);
    for (size_t i = 0; i < n_data; i++) bytes[8 + n + i] = (unsigned char)i;
    return bytes;
}

static void assert_all_zero(const ink_safetensors *st) {
    static const ink_safetensors zero;
    assert_memory_equal(st, &zero, sizeof zero);
}

static void assert_refused(const char *header, size_t n_data, ink_status status, const char *part) {
    size_t size;
    unsigned char *bytes = make(header, n_data, &size);
    ink_safetensors st;
    ink_error error;
    assert_int_equal(ink_safetensors_parse(&st, bytes, size, "x", &error), status);
    if (error.status != status || !strstr(error.message, part))
        fail_msg("%s\nexpected ...%s..., got %s", header, part, error.message);
    assert_all_zero(&st);
    free(bytes);
}

#define T(dtype, shape, offsets) "{\"dtype\":" dtype ",\"shape\":" shape ",\"data_offsets\":" offsets "}"

static void test_headers_that_are_refused(void **state) {
    static const struct {
        const char *header;
        size_t n_data;
        const char *part;
    } cases[] = {
        {"", 0, "not valid JSON"},
        {"[]", 0, "must hold a JSON object"},
        {"{\"a\":", 0, "not valid JSON"},
        {"{\"a\":1}", 0, "tensor a: its entry must be an object, found 1"},
        {"{\"a\":" T("\"F32\"", "[1]", "[0,4]") ",\"a\":" T("\"F32\"", "[1]", "[4,8]") "}", 8, "duplicate object key"},
        /* types */
        {"{\"a\":{\"shape\":[1],\"data_offsets\":[0,4]}}", 4, "dtype must be the name of a type such as \"BF16\", found nothing"},
        {"{\"a\":" T("\"F33\"", "[1]", "[0,4]") "}", 4, "found \"F33\""},
        {"{\"a\":" T("32", "[1]", "[0,4]") "}", 4, "found 32"},
        {"{\"a\":" T("\"f32\"", "[1]", "[0,4]") "}", 4, "found \"f32\""},
        /* shapes */
        {"{\"a\":{\"dtype\":\"F32\",\"data_offsets\":[0,4]}}", 4, "shape must be an array, found nothing"},
        {"{\"a\":" T("\"F32\"", "1", "[0,4]") "}", 4, "shape must be an array, found 1"},
        {"{\"a\":" T("\"F32\"", "[-1]", "[0,4]") "}", 4, "dimension 0 must be an integer of 0 or more, found -1"},
        {"{\"a\":" T("\"F32\"", "[1,1.0]", "[0,4]") "}", 4, "dimension 1 must be an integer of 0 or more, found the real number 1"},
        {"{\"a\":" T("\"F32\"", "[\"1\"]", "[0,4]") "}", 4, "found \"1\""},
        {"{\"a\":" T("\"F32\"", "[9223372036854775807,2]", "[0,4]") "}", 4, "more elements than fit into 63 bits"},
        {"{\"a\":" T("\"F32\"", "[4294967296,4294967296]", "[0,0]") "}", 0, "more elements than fit into 63 bits"},
        {"{\"a\":" T("\"F32\"", "[9223372036854775808]", "[0,4]") "}", 4, "too big integer"},
        {"{\"a\":" T("\"F32\"", "[4611686018427387904]", "[0,0]") "}", 0, "span 0 bytes"},
        /* offsets */
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1]}}", 4, "data_offsets must be two integers, found nothing"},
        {"{\"a\":" T("\"F32\"", "[1]", "[0]") "}", 4, "data_offsets must be two integers"},
        {"{\"a\":" T("\"F32\"", "[1]", "[0,4,8]") "}", 4, "data_offsets must be two integers"},
        {"{\"a\":" T("\"F32\"", "[1]", "[0,4.0]") "}", 4, "found the real number 4"},
        {"{\"a\":" T("\"F32\"", "[1]", "[0.5,4]") "}", 4, "found the real number 0.5"},
        {"{\"a\":" T("\"F32\"", "[1]", "{\"0\":0}") "}", 4, "found an object"},
        {"{\"a\":" T("\"F32\"", "[1]", "[-4,0]") "}", 4, "[-4, 0] do not lie in the file's 4 bytes"},
        {"{\"a\":" T("\"F32\"", "[1]", "[4,0]") "}", 4, "do not lie in"},
        {"{\"a\":" T("\"F32\"", "[1]", "[4,8]") "}", 4, "do not lie in"},
        {"{\"a\":" T("\"F32\"", "[1]", "[0,9223372036854775807]") "}", 4, "do not lie in"},
        {"{\"a\":" T("\"F32\"", "[1]", "[-9223372036854775807,9223372036854775807]") "}", 4, "do not lie in"},
        {"{\"a\":" T("\"I8\"", "[5]", "[0,5]") "}", 4, "[0, 5] do not lie in the file's 4 bytes"},
        {"{\"a\":" T("\"F32\"", "[2]", "[0,4]") "}", 4, "span 4 bytes, its shape and type F32 need 2 elements of 4"},
        {"{\"a\":" T("\"I64\"", "[1]", "[0,4]") "}", 4, "type I64 need 1 elements of 8"},
        {"{\"a\":" T("\"F8_E4M3\"", "[1]", "[0,4]") "}", 4, "type F8_E4M3 need 1 elements of 1"},
        /* cover */
        {"{}", 1, "the last 1 bytes belong to no tensor"},
        {"{\"a\":" T("\"F32\"", "[1]", "[0,4]") "}", 5, "the last 1 bytes belong to no tensor"},
        {"{\"a\":" T("\"F32\"", "[1]", "[4,8]") "}", 8, "the data bytes 0 to 4, before tensor a, belong to no tensor"},
        {"{\"b\":" T("\"F32\"", "[1]", "[8,12]") ",\"a\":" T("\"F32\"", "[1]", "[0,4]") "}", 12, "bytes 4 to 8, before tensor b"},
        {"{\"a\":" T("\"I8\"", "[2]", "[0,2]") ",\"b\":" T("\"I8\"", "[2]", "[1,3]") "}", 3, "tensors a and b overlap"},
        {"{\"a\":" T("\"F32\"", "[2]", "[0,8]") ",\"b\":" T("\"F32\"", "[1]", "[4,8]") "}", 8, "tensors a and b overlap"},
        {"{\"a\":" T("\"F32\"", "[1]", "[0,4]") ",\"b\":" T("\"F32\"", "[1]", "[0,4]") "}", 4, "overlap"},
        {"{\"a\":" T("\"F32\"", "[2]", "[0,8]") ",\"b\":" T("\"F32\"", "[0]", "[4,4]") "}", 8, "tensors a and b overlap"},
        /* metadata */
        {"{\"__metadata__\":[]}", 0, "__metadata__ must be an object, found an array of 0"},
        {"{\"__metadata__\":{\"k\":1}}", 0, "__metadata__: \"k\" must be a string, found 1"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        assert_refused(cases[i].header, cases[i].n_data, INK_ERROR_FORMAT, cases[i].part);
    assert_refused("{\"a\":" T("\"F32\"", "[1,1,1,1,1,1,1,1,1]", "[0,4]") "}", 4, INK_ERROR_UNSUPPORTED,
                   "9 dimensions, at most 8 are supported");
}

static const char good_header[] =
    "{\"__metadata__\":{\"prompt\":\"a cat\"},\"zero\":" T("\"F32\"", "[3,0]", "[0,0]") ",\"matrix\":" T(
        "\"F32\"", "[2,3]",
        "[0,24]") ",\"scalar\":" T("\"F16\"", "[]",
                                   "[24,26]") ",\"odd\":" T("\"I8\"", "[1,1,1,1,1,1,1,1]",
                                                            "[26,27]") ",\"end\":" T("\"BF16\"", "[0]",
                                                                                     "[28,28]") ",\"extra\":{\"dtype\":\"BOOL\","
                                                                                                "\"shape\":[1],\"data_offsets\":["
                                                                                                "27,28],\"x\":1}}   ";

static void test_a_good_header(void **state) {
    (void)state;
    size_t size;
    unsigned char *bytes = make(good_header, 28, &size);
    ink_safetensors st;
    ink_error error;
    if (ink_safetensors_parse(&st, bytes, size, "x", &error) != INK_OK) fail_msg("%s", error.message);
    const unsigned char *data = bytes + size - 28;
    assert_int_equal(st.n_tensors, 6);
    for (size_t i = 1; i < st.n_tensors; i++) assert_true(strcmp(st.tensors[i - 1].name, st.tensors[i].name) < 0);
    const ink_tensor_info *matrix = ink_safetensors_find(&st, "matrix");
    assert_true(matrix->dtype == INK_F32 && matrix->n_dims == 2 && matrix->shape[0] == 2 && matrix->shape[1] == 3);
    assert_true(matrix->n_elements == 6 && matrix->n_bytes == 24 && matrix->data == data);
    const ink_tensor_info *scalar = ink_safetensors_find(&st, "scalar");
    assert_true(scalar->dtype == INK_F16 && scalar->n_dims == 0 && scalar->n_elements == 1 && scalar->data == data + 24);
    const ink_tensor_info *odd = ink_safetensors_find(&st, "odd");
    assert_true(odd->dtype == INK_I8 && odd->n_dims == 8);
    assert_string_equal(odd->dtype_name, "I8");
    assert_int_equal(ink_safetensors_find(&st, "zero")->n_elements, 0);
    assert_null(ink_safetensors_find(&st, "matri"));
    assert_null(ink_safetensors_find(&st, "__metadata__"));
    assert_string_equal(ink_safetensors_metadata(&st, "prompt"), "a cat");
    assert_null(ink_safetensors_metadata(&st, "seed"));
    ink_safetensors_close(&st);
    assert_all_zero(&st);
    ink_safetensors_close(&st);
    free(bytes);

    bytes = make("{}", 0, &size);
    assert_int_equal(ink_safetensors_parse(&st, bytes, size, "x", NULL), INK_OK);
    assert_int_equal(st.n_tensors, 0);
    assert_null(ink_safetensors_find(&st, "a"));
    assert_null(ink_safetensors_metadata(&st, "a"));
    ink_safetensors_close(&st);
    free(bytes);
}

static void test_types(void **state) {
    static const struct {
        const char *name;
        int bytes;
        ink_dtype dtype;
    } types[] = {{"F64", 8, INK_OTHER_DTYPE},  {"F32", 4, INK_F32},         {"F16", 2, INK_F16},
                 {"BF16", 2, INK_BF16},        {"I64", 8, INK_OTHER_DTYPE}, {"I32", 4, INK_OTHER_DTYPE},
                 {"I16", 2, INK_OTHER_DTYPE},  {"I8", 1, INK_I8},           {"U64", 8, INK_OTHER_DTYPE},
                 {"U32", 4, INK_OTHER_DTYPE},  {"U16", 2, INK_OTHER_DTYPE}, {"U8", 1, INK_OTHER_DTYPE},
                 {"BOOL", 1, INK_OTHER_DTYPE}, {"F8_E4M3", 1, INK_F8_E4M3}, {"F8_E5M2", 1, INK_OTHER_DTYPE}};
    (void)state;
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++) {
        char header[200];
        size_t size;
        snprintf(header, sizeof header, "{\"a\":{\"dtype\":\"%s\",\"shape\":[3],\"data_offsets\":[0,%d]}}", types[i].name,
                 3 * types[i].bytes);
        unsigned char *bytes = make(header, (size_t)(3 * types[i].bytes), &size);
        ink_safetensors st;
        assert_int_equal(ink_safetensors_parse(&st, bytes, size, "x", NULL), INK_OK);
        assert_int_equal(st.tensors[0].dtype, types[i].dtype);
        assert_string_equal(st.tensors[0].dtype_name, types[i].name);
        ink_safetensors_close(&st);
        free(bytes);
    }
}

static void test_header_lengths_that_lie(void **state) {
    static const uint64_t lengths[] = {3, 100000000, 100000001, INT64_MAX, UINT64_MAX, UINT64_MAX - 7};
    (void)state;
    for (size_t i = 0; i < sizeof lengths / sizeof lengths[0]; i++) {
        unsigned char bytes[10] = {0};
        ink_safetensors st;
        ink_error error;
        for (int j = 0; j < 8; j++) bytes[j] = (unsigned char)(lengths[i] >> (8 * j));
        assert_int_equal(ink_safetensors_parse(&st, bytes, sizeof bytes, "x", &error), INK_ERROR_FORMAT);
        assert_non_null(strstr(error.message, lengths[i] > 100000000 ? "at most 100000000 are allowed" : "is truncated"));
        assert_all_zero(&st);
    }
}

/* What a repository holds where its large files were not fetched. */
static void test_pointer_of_git_lfs(void **state) {
    static const char pointer[] = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n";
    ink_safetensors st;
    ink_error error;
    (void)state;
    assert_int_equal(ink_safetensors_parse(&st, (const unsigned char *)pointer, sizeof pointer - 1, "x", &error), INK_ERROR_FORMAT);
    assert_non_null(strstr(error.message, "x: is what git-lfs keeps in the place of the file"));
    assert_all_zero(&st);
}

/* A file cut anywhere is refused; a file with any byte changed is read or refused, and never read out of bounds. */
static void test_damage(void **state) {
    (void)state;
    size_t size;
    unsigned char *bytes = make(good_header, 28, &size);
    for (size_t n = 0; n < size; n++) {
        unsigned char *part = malloc(n ? n : 1);
        assert_non_null(part);
        memcpy(part, bytes, n);
        ink_safetensors st;
        assert_int_equal(ink_safetensors_parse(&st, part, n, "x", NULL), INK_ERROR_FORMAT);
        free(part);
    }
    static const unsigned char flips[] = {0x01, 0x02, 0x04, 0x10, 0x20, 0x80, 0xff};
    for (size_t i = 0; i < size; i++)
        for (size_t j = 0; j < sizeof flips; j++) {
            ink_safetensors st;
            bytes[i] ^= flips[j];
            if (ink_safetensors_parse(&st, bytes, size, "x", NULL) == INK_OK) ink_safetensors_close(&st);
            bytes[i] ^= flips[j];
        }
    free(bytes);
}

/* In the worst order for a quadratic check. */
static void test_many_tensors(void **state) {
    enum { N = 50000, ENTRY = 100 };
    (void)state;
    char *header = malloc((size_t)N * ENTRY);
    assert_non_null(header);
    size_t n = (size_t)sprintf(header, "{");
    for (int i = 0; i < N; i++) {
        int place = N - 1 - i;
        n += (size_t)sprintf(header + n, "%s\"t%d\":" T("\"U16\"", "[1]", "[%d,%d]"), i ? "," : "", i, 2 * place, 2 * place + 2);
    }
    sprintf(header + n, "}");
    size_t size;
    unsigned char *bytes = make(header, 2 * (size_t)N, &size);
    ink_safetensors st;
    assert_int_equal(ink_safetensors_parse(&st, bytes, size, "x", NULL), INK_OK);
    assert_int_equal(st.n_tensors, N);
    assert_ptr_equal(ink_safetensors_find(&st, "t0")->data, bytes + size - 2);
    ink_safetensors_close(&st);
    free(bytes);
    free(header);
}

static const float numbers[6] = {1, -2, 3.5f, 0, 1e-30f, 6};

static void test_writing(void **state) {
    (void)state;
    const ink_named_f32 tensors[] = {{"latents", numbers, 2, {2, 3}}, {"a \"name\"\n", numbers, 0, {0}}, {"none", NULL, 1, {0}}};
    const char *const metadata[] = {"prompt", "\xe4\xb8\x80 \"x\"\n", "seed", "0", NULL};
    char folder[TEST_PATH], path[TEST_PATH];
    test_folder_create(folder);
    test_path(path, folder, "out.safetensors");
    for (int round = 0; round < 2; round++) { /* the second replaces the first */
        ink_error error;
        ink_error_clear(&error);
        if (ink_safetensors_write(path, tensors, 3, metadata, &error) != INK_OK) fail_msg("%s", error.message);
        ink_safetensors st;
        if (ink_safetensors_open(&st, path, &error) != INK_OK) fail_msg("%s", error.message);
        assert_int_equal(st.n_tensors, 3);
        const ink_tensor_info *latents = ink_safetensors_find(&st, "latents");
        assert_true(latents->n_dims == 2 && latents->shape[0] == 2 && latents->shape[1] == 3 && latents->dtype == INK_F32);
        assert_memory_equal(latents->data, numbers, sizeof numbers);
        assert_int_equal((uintptr_t)latents->data % 8, 0);
        assert_memory_equal(ink_safetensors_find(&st, "a \"name\"\n")->data, numbers, sizeof numbers[0]);
        assert_string_equal(ink_safetensors_metadata(&st, "prompt"), metadata[1]);
        assert_string_equal(ink_safetensors_metadata(&st, "seed"), "0");
        ink_safetensors_close(&st);
        assert_int_equal(test_count_entries(folder), 1);
    }
    assert_int_equal(ink_safetensors_write(path, NULL, 0, NULL, NULL), INK_OK);
    /* The mode is what the user's umask makes it, as of any file. */
    mode_t mask = umask(0);
    umask(mask);
    struct stat status;
    assert_int_equal(stat(path, &status), 0);
    assert_int_equal(status.st_mode & 0777, 0666 & ~mask);
    test_folder_remove(folder);
}

static void assert_write_fails(const char *path, const ink_named_f32 *tensors, size_t n, ink_status status, const char *part) {
    ink_error error;
    assert_int_equal(ink_safetensors_write(path, tensors, n, NULL, &error), status);
    if (!strstr(error.message, part)) fail_msg("expected ...%s..., got %s", part, error.message);
}

static void test_writing_that_fails(void **state) {
    (void)state;
    const ink_named_f32 good = {"a", numbers, 1, {6}};
    const ink_named_f32 twice[] = {good, good};
    const ink_named_f32 huge = {"a", numbers, 2, {INT64_MAX, 2}}, negative = {"a", numbers, 1, {-1}}, deep = {"a", numbers, 9, {1}};
    char folder[TEST_PATH], path[TEST_PATH];
    test_folder_create(folder);
    test_path(path, folder, "out.safetensors");
    assert_write_fails(path, twice, 2, INK_ERROR_ARGUMENT, "tensor a is given twice");
    assert_write_fails(path, &huge, 1, INK_ERROR_ARGUMENT, "tensor a has an impossible shape");
    assert_write_fails(path, &negative, 1, INK_ERROR_ARGUMENT, "tensor a has an impossible shape");
    assert_write_fails(path, &deep, 1, INK_ERROR_ARGUMENT, "tensor a has an impossible shape");
    assert_write_fails(folder, &good, 1, INK_ERROR_IO, "is a folder, it cannot be overwritten");
    assert_write_fails("", &good, 1, INK_ERROR_IO, "there is no folder");
    assert_write_fails("/dev/null", &good, 1, INK_ERROR_IO, "not a regular file");
    assert_int_equal(test_count_entries(folder), 0);
    char other[TEST_PATH];
    assert_write_fails(test_path(other, folder, "no/out"), &good, 1, INK_ERROR_IO, "there is no folder");
    assert_int_equal(ink_safetensors_check_writable(path, NULL), INK_OK);
    assert_int_equal(ink_safetensors_check_writable("out.safetensors", NULL), INK_OK);
    assert_int_equal(ink_safetensors_check_writable(other, NULL), INK_ERROR_IO);

    /* A disk that is full: the old file stays, the new one leaves no trace. */
    assert_int_equal(ink_safetensors_write(path, &good, 1, NULL, NULL), INK_OK);
    static float many[20000];
    const ink_named_f32 large = {"large", many, 1, {20000}};
    struct rlimit before, limit;
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    limit = before;
    limit.rlim_cur = 4096;
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
    ink_error error;
    ink_status status = ink_safetensors_write(path, &large, 1, NULL, &error);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
    assert_int_equal(status, INK_ERROR_IO);
    assert_non_null(strstr(error.message, "cannot be written: File too large"));
    assert_int_equal(test_count_entries(folder), 1);
    ink_safetensors st;
    assert_int_equal(ink_safetensors_open(&st, path, NULL), INK_OK);
    assert_non_null(ink_safetensors_find(&st, "a"));
    ink_safetensors_close(&st);
    test_folder_remove(folder);
}

static void test_no_memory(void **state) {
    (void)state;
    const ink_named_f32 tensors[] = {{"a", numbers, 2, {2, 3}}, {"b", numbers, 1, {6}}};
    const char *const metadata[] = {"prompt", "x", NULL};
    char folder[TEST_PATH], path[TEST_PATH];
    test_folder_create(folder);
    test_path(path, folder, "out.safetensors");
    for (int jansson = 0; jansson < 2; jansson++) {
        void (*fail_after)(int64_t) = jansson ? test_json_fail_after : ink_alloc_fail_after;
        ink_status status = INK_ERROR_MEMORY;
        ink_error error;
        for (int64_t n = 0; status != INK_OK; n++) {
            fail_after(n);
            status = ink_safetensors_write(path, tensors, 2, metadata, &error);
            fail_after(-1);
            assert_true(status == INK_OK || status == INK_ERROR_MEMORY);
            assert_int_equal(test_count_entries(folder), status == INK_OK || jansson);
        }
        status = INK_ERROR_MEMORY;
        for (int64_t n = 0; status != INK_OK; n++) {
            ink_safetensors st;
            fail_after(n);
            status = ink_safetensors_open(&st, path, &error);
            if (status == INK_OK) ink_safetensors_close(&st);
            fail_after(-1);
            assert_all_zero(&st);
            assert_true(status == INK_OK || status == INK_ERROR_MEMORY || (jansson && status == INK_ERROR_FORMAT));
        }
    }
    test_folder_remove(folder);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_headers_that_are_refused),
        cmocka_unit_test(test_a_good_header),
        cmocka_unit_test(test_types),
        cmocka_unit_test(test_header_lengths_that_lie),
        cmocka_unit_test(test_pointer_of_git_lfs),
        cmocka_unit_test(test_damage),
        cmocka_unit_test(test_many_tensors),
        cmocka_unit_test(test_writing),
        cmocka_unit_test(test_writing_that_fails),
        cmocka_unit_test(test_no_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
