/* test_gguf.c - GGUF files that the reference package wrote (tools/make_gguf_vectors.py), and files that lie. */
#define _XOPEN_SOURCE 700
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "support/files.h"
#include "support/gguf_maker.h"
#include "tensor/gguf.h"
#include "tensor/gguf_blocks.h"

#define COUNT(array) (sizeof(array) / sizeof *(array))
#define RECORDED INK_TEST_SOURCE_DIR "/tests/golden/gguf/tensors.gguf"

static const uint64_t huge[] = {1000, UINT64_C(1) << 32, UINT64_C(1) << 63, UINT64_MAX, UINT64_MAX - 7, UINT64_MAX / 8};

static void assert_all_zero(const ink_gguf *file) {
    static const ink_gguf zero;
    assert_memory_equal(file, &zero, sizeof zero);
}

/* Frees the file. */
static void refuse(test_gguf *gguf, ink_status status, const char *part) {
    ink_gguf file;
    ink_error error;
    assert_int_equal(ink_gguf_parse(&file, gguf->bytes, gguf->size, "x", &error), status);
    if (error.status != status || strncmp(error.message, "x: ", 3) != 0 || !strstr(error.message, part))
        fail_msg("expected ...%s..., got %s", part, error.message);
    assert_all_zero(&file);
    test_gguf_free(gguf);
}

static void refuse_format(test_gguf *gguf, const char *part) { refuse(gguf, INK_ERROR_FORMAT, part); }

static void parse_good(ink_gguf *file, const test_gguf *gguf) {
    ink_error error;
    if (ink_gguf_parse(file, gguf->bytes, gguf->size, "x", &error) != INK_OK) fail_msg("%s", error.message);
}

/* ---- what is refused --------------------------------------------------------------------------------------------- */

static void refuses_other_files(void **state) {
    (void)state;
    test_gguf gguf = {0};
    refuse_format(&gguf, "is no GGUF file");
    test_gguf_put(&gguf, "GGUF\3\0\0", 7);
    refuse_format(&gguf, "is no GGUF file");
    test_gguf_put(&gguf, "GGML\3\0\0\0", 8);
    refuse_format(&gguf, "is no GGUF file");
    test_gguf_put(&gguf, "GGUF\3\0\0\0\0\0\0\0\0\0\0", 15);
    refuse_format(&gguf, "the file is truncated: 8 bytes are needed at byte 8, it has 15");
    static const uint32_t versions[] = {0, 1, 4, 255, 0x7fff};
    for (size_t i = 0; i < COUNT(versions); i++) {
        gguf = test_gguf_begin(versions[i], 0, 0);
        refuse(&gguf, INK_ERROR_UNSUPPORTED, "only 2 and 3 are supported");
    }
    gguf = test_gguf_begin(0x03000000, 0, 0);
    refuse(&gguf, INK_ERROR_UNSUPPORTED, "is a big-endian GGUF file");
    gguf = test_gguf_begin(3, 0, 1);
    test_gguf_key(&gguf, "split.count", INK_GGUF_U16);
    test_gguf_uint(&gguf, 3, 2);
    refuse(&gguf, INK_ERROR_UNSUPPORTED, "one of 3 parts of a split GGUF file");
}

static void refuses_counts(void **state) {
    (void)state;
    for (size_t i = 0; i < COUNT(huge); i++) {
        test_gguf gguf = test_gguf_begin(3, huge[i], 0);
        test_gguf_zeros(&gguf, 100);
        refuse_format(&gguf, "tensors, more than fit into the rest of the file, 108 bytes");
        gguf = test_gguf_begin(3, 0, huge[i]);
        test_gguf_zeros(&gguf, 100);
        refuse_format(&gguf, "metadata values, more than fit into the rest of the file, 100 bytes");
    }
    /* Counts that are possible but too high. */
    test_gguf gguf = test_gguf_begin(3, 0, 2);
    test_gguf_u32(&gguf, "a", 1);
    refuse_format(&gguf, "more than fit");
    gguf = test_gguf_begin(3, 0, 2);
    test_gguf_string(&gguf, "a", "some text that leaves room for a second");
    refuse_format(&gguf, "the file is truncated");
    gguf = test_gguf_begin(3, 2, 0);
    test_gguf_tensor(&gguf, "a tensor with quite a name, for there is to be room", 0, NULL, 0, 0);
    refuse_format(&gguf, "the file is truncated");
}

static void refuses_keys(void **state) {
    (void)state;
    static const char *const bad[] = {"a\n", "\x7f", "\xff", "caf\xe9", "\xc0\x80", "\xed\xa0\x80"};
    for (size_t i = 0; i < COUNT(bad); i++) {
        test_gguf gguf = test_gguf_begin(3, 0, 1);
        test_gguf_u32(&gguf, bad[i], 1);
        test_gguf_zeros(&gguf, 20);
        refuse_format(&gguf, "at byte 24: the name of a metadata key is not UTF-8, or holds control characters");
    }
    test_gguf gguf = test_gguf_begin(3, 0, 1);
    test_gguf_uint(&gguf, 3, 8);
    test_gguf_put(&gguf, "a\0b", 3);
    test_gguf_zeros(&gguf, 20);
    refuse_format(&gguf, "is not UTF-8");
    gguf = test_gguf_begin(3, 0, 1);
    test_gguf_u32(&gguf, "", 1);
    test_gguf_zeros(&gguf, 20);
    refuse_format(&gguf, "at byte 24: the name of a metadata key has 0 bytes, must have 1 to 65535");
    for (size_t i = 1; i < COUNT(huge); i++) {
        gguf = test_gguf_begin(3, 0, 1);
        test_gguf_uint(&gguf, huge[i], 8);
        test_gguf_zeros(&gguf, 100);
        refuse_format(&gguf, "must have 1 to 65535");
    }
    gguf = test_gguf_begin(3, 0, 3);
    test_gguf_u32(&gguf, "b", 1);
    test_gguf_u32(&gguf, "a", 1);
    test_gguf_string(&gguf, "b", "again");
    refuse_format(&gguf, "metadata key b: is there twice");
}

static void refuses_values(void **state) {
    (void)state;
    static const unsigned unknown[] = {13, 255, 0x7fffffff, 0xffffffff};
    for (size_t i = 0; i < COUNT(unknown); i++) {
        test_gguf gguf = test_gguf_begin(3, 0, 1);
        test_gguf_key(&gguf, "some.key", unknown[i]);
        test_gguf_zeros(&gguf, 20);
        refuse_format(&gguf, "metadata key some.key: has the unknown type");
        gguf = test_gguf_begin(3, 0, 1);
        test_gguf_array(&gguf, "some.key", unknown[i], 1);
        test_gguf_zeros(&gguf, 20);
        refuse_format(&gguf, "metadata key some.key: has the unknown type");
    }
    for (size_t i = 0; i < COUNT(huge); i++) {
        test_gguf gguf = test_gguf_begin(3, 0, 1);
        test_gguf_key(&gguf, "text", INK_GGUF_STRING);
        test_gguf_uint(&gguf, huge[i], 8);
        test_gguf_zeros(&gguf, 20);
        refuse_format(&gguf, "metadata key text: the file is truncated");
        for (unsigned type = 0; type < INK_GGUF_N_TYPES; type++) {
            gguf = test_gguf_begin(3, 0, 1);
            test_gguf_array(&gguf, "list", type, huge[i]);
            test_gguf_zeros(&gguf, 90);
            refuse_format(&gguf, "elements, more than fit into the rest of the file, 90 bytes");
        }
        gguf = test_gguf_begin(3, 0, 1); /* the second of two strings */
        test_gguf_array(&gguf, "list", INK_GGUF_STRING, 2);
        test_gguf_text(&gguf, "x");
        test_gguf_uint(&gguf, huge[i], 8);
        test_gguf_zeros(&gguf, 20);
        refuse_format(&gguf, "metadata key list: the file is truncated");
    }
    test_gguf gguf = test_gguf_begin(3, 0, 1);
    test_gguf_key(&gguf, "flag", INK_GGUF_BOOL);
    test_gguf_uint(&gguf, 2, 1);
    refuse_format(&gguf, "metadata key flag: holds 2 where a truth value must be 0 or 1");
    gguf = test_gguf_begin(3, 0, 1);
    test_gguf_array(&gguf, "flags", INK_GGUF_BOOL, 3);
    test_gguf_put(&gguf, "\0\1\xff", 3);
    refuse_format(&gguf, "metadata key flags: holds 255");
}

/* An array of arrays ... of one byte; depth 1 is a plain array. */
static test_gguf nested(int depth) {
    test_gguf gguf = test_gguf_begin(3, 0, 1);
    test_gguf_array(&gguf, "nest", depth > 1 ? INK_GGUF_ARRAY : INK_GGUF_U8, 1);
    for (int i = 2; i <= depth; i++) {
        test_gguf_uint(&gguf, i < depth ? INK_GGUF_ARRAY : INK_GGUF_U8, 4);
        test_gguf_uint(&gguf, 1, 8);
    }
    test_gguf_uint(&gguf, 7, 1);
    return gguf;
}

static void refuses_deep_nesting(void **state) {
    (void)state;
    static const int too_deep[] = {5, 6, 100, 5000};
    for (int depth = 1; depth <= 4; depth++) {
        test_gguf gguf = nested(depth);
        ink_gguf file;
        int64_t element;
        parse_good(&file, &gguf);
        assert_int_equal(ink_gguf_i64_at(ink_gguf_metadata(&file, "nest"), 0, &element), depth == 1);
        ink_gguf_close(&file);
        test_gguf_free(&gguf);
    }
    for (size_t i = 0; i < COUNT(too_deep); i++) {
        test_gguf gguf = nested(too_deep[i]);
        refuse_format(&gguf, "metadata key nest: has arrays in arrays, more than 4 deep");
    }
    test_gguf gguf = test_gguf_begin(3, 0, 1); /* the inner one lies */
    test_gguf_array(&gguf, "nest", INK_GGUF_ARRAY, 2);
    test_gguf_uint(&gguf, INK_GGUF_U64, 4);
    test_gguf_uint(&gguf, UINT64_C(1) << 61, 8);
    test_gguf_zeros(&gguf, 50);
    refuse_format(&gguf, "claims 2305843009213693952 elements");
}

static void refuses_alignments(void **state) {
    (void)state;
    static const uint32_t bad[] = {0, 3, 33, 48, UINT32_C(1) << 31, UINT32_MAX};
    for (size_t i = 0; i < COUNT(bad); i++) {
        test_gguf gguf = test_gguf_begin(3, 0, 1);
        test_gguf_u32(&gguf, "general.alignment", bad[i]);
        refuse_format(&gguf, "general.alignment must be a power of two");
    }
    test_gguf gguf = test_gguf_begin(3, 0, 1);
    test_gguf_string(&gguf, "general.alignment", "32");
    refuse_format(&gguf, "general.alignment must be a power of two");
    gguf = test_gguf_begin(3, 1, 1); /* one that leads behind the file */
    test_gguf_u32(&gguf, "general.alignment", 1 << 30);
    test_gguf_tensor(&gguf, "a", 0, NULL, 0, 0);
    test_gguf_zeros(&gguf, 100);
    refuse_format(&gguf, "the file is truncated");
}

enum { F32 = 0, F16 = 1, Q4_0 = 2, Q8_0 = 8, Q4_K = 12, IQ2_XXS = 16, I64 = 27 };

/* One tensor and n_data bytes of data. */
static test_gguf one_tensor(const char *name, unsigned n_dims, const uint64_t *dims, unsigned type, uint64_t offset,
                            size_t n_data) {
    test_gguf gguf = test_gguf_begin(3, 1, 0);
    test_gguf_tensor(&gguf, name, n_dims, dims, type, offset);
    test_gguf_pad(&gguf, 32);
    test_gguf_zeros(&gguf, n_data);
    return gguf;
}

static void refuses_tensors(void **state) {
    (void)state;
    static const struct {
        uint64_t dims[4];
        unsigned n_dims, type;
        uint64_t offset;
        size_t n_data;
        const char *part;
    } cases[] = {
        /* shapes */
        {{UINT64_C(1) << 63}, 1, F32, 0, 64, "its shape has more elements than fit into 63 bits"},
        {{UINT64_MAX}, 1, F32, 0, 64, "more elements than fit into 63 bits"},
        {{UINT64_C(1) << 32, UINT64_C(1) << 31}, 2, F32, 0, 64, "more elements than fit into 63 bits"},
        {{UINT64_C(1) << 62}, 1, F32, 0, 64, "its 4611686018427387904 elements of type F32 are more than the file holds"},
        {{UINT64_C(1) << 62, 1}, 2, Q8_0, 0, 64, "of type Q8_0 are more than the file holds"},
        {{17, 1}, 2, F32, 0, 64, "its 68 bytes at offset 0 do not lie in the file's 64 bytes of data"},
        {{31, 32}, 2, Q4_0, 0, 9999, "its rows have 31 elements, Q4_0 needs a multiple of 32"},
        {{128, 2}, 2, Q4_K, 0, 9999, "its rows have 128 elements, Q4_K needs a multiple of 256"},
        {{32, 8}, 2, IQ2_XXS, 0, 9999, "its rows have 32 elements, IQ2_XXS needs a multiple of 256"},
        {{0}, 0, Q8_0, 0, 9999, "its rows have 1 elements, Q8_0 needs a multiple of 32"},
        {{32, 2}, 2, Q8_0, 0, 67, "its 68 bytes at offset 0 do not lie"},
        {{256}, 1, IQ2_XXS, 0, 65, "its 66 bytes at offset 0 do not lie"},
        /* types */
        {{4}, 1, 1000000, 0, 64, "has the unknown type 1000000"},
        {{4}, 1, UINT32_MAX, 0, 64, "has the unknown type 4294967295"},
        /* offsets */
        {{4}, 1, F32, 16, 64, "its offset 16 is no multiple of the alignment, 32"},
        {{4}, 1, F32, 1, 64, "its offset 1 is no multiple"},
        {{4}, 1, F32, 64, 79, "its 16 bytes at offset 64 do not lie in the file's 79 bytes"},
        {{4}, 1, F32, 96, 64, "at offset 96 do not lie"},
        {{4}, 1, F32, UINT64_C(1) << 63, 64, "at offset 9223372036854775808 do not lie"},
        {{4}, 1, F32, UINT64_MAX - 31, 64, "at offset 18446744073709551584 do not lie"},
        {{4}, 1, 42, 96, 64, "its 0 bytes at offset 96 do not lie"},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        test_gguf gguf = one_tensor("a.weight", cases[i].n_dims, cases[i].dims, cases[i].type, cases[i].offset, cases[i].n_data);
        refuse_format(&gguf, "tensor a.weight: ");
        gguf = one_tensor("a.weight", cases[i].n_dims, cases[i].dims, cases[i].type, cases[i].offset, cases[i].n_data);
        refuse_format(&gguf, cases[i].part);
    }
    static const uint64_t ones[9] = {1, 1, 1, 1, 1, 1, 1, 1, 1};
    test_gguf gguf = one_tensor("a", 9, ones, F32, 0, 64);
    refuse(&gguf, INK_ERROR_UNSUPPORTED, "tensor a: has 9 dimensions, at most 8 are supported");
    gguf = one_tensor("a\n", 1, ones, F32, 0, 64);
    refuse_format(&gguf, "the name of a tensor is not UTF-8, or holds control characters");
    gguf = one_tensor("", 1, ones, F32, 0, 64);
    refuse_format(&gguf, "the name of a tensor has 0 bytes");
}

/* Two tensors of 4 bytes times n. */
static test_gguf two_tensors(const char *first, uint64_t n, uint64_t offset, const char *second, uint64_t n_second,
                             uint64_t offset_second) {
    test_gguf gguf = test_gguf_begin(2, 2, 0);
    test_gguf_tensor(&gguf, first, 1, &n, F32, offset);
    test_gguf_tensor(&gguf, second, 1, &n_second, F32, offset_second);
    test_gguf_pad(&gguf, 32);
    test_gguf_zeros(&gguf, 200);
    return gguf;
}

static void refuses_tensors_that_share(void **state) {
    (void)state;
    test_gguf gguf = two_tensors("a", 9, 0, "b", 1, 32);
    refuse_format(&gguf, "tensors a and b overlap");
    gguf = two_tensors("b", 1, 32, "a", 9, 0);
    refuse_format(&gguf, "tensors a and b overlap");
    gguf = two_tensors("a", 1, 32, "b", 1, 32);
    refuse_format(&gguf, "overlap");
    gguf = two_tensors("a", 24, 0, "b", 0, 32);
    refuse_format(&gguf, "tensors a and b overlap");
    gguf = two_tensors("same", 1, 0, "same", 1, 32);
    refuse_format(&gguf, "tensor same is there twice");

    gguf = two_tensors("b", 8, 64, "a", 0, 64); /* one of no bytes before the other */
    ink_gguf file;
    parse_good(&file, &gguf);
    assert_int_equal(file.version, 2);
    assert_string_equal(file.tensors[0].name, "a");
    assert_ptr_equal(file.tensors[0].data, file.tensors[1].data);
    ink_gguf_close(&file);
    test_gguf_free(&gguf);
}

/* ---- what is read ------------------------------------------------------------------------------------------------ */

static void open_recorded(ink_gguf *file) {
    ink_error error;
    if (ink_gguf_open(file, RECORDED, &error) != INK_OK) fail_msg("%s", error.message);
}

static void reads_metadata(void **state) {
    (void)state;
    static const struct {
        const char *key;
        int64_t i64;
    } integers[] = {
        {"test.u8", UINT8_MAX},   {"test.i8", INT8_MIN},   {"test.u16", UINT16_MAX}, {"test.i16", INT16_MIN},
        {"test.u32", UINT32_MAX}, {"test.i32", INT32_MIN}, {"test.i64", INT64_MIN},
    };
    ink_gguf file;
    open_recorded(&file);
    int64_t i = 5;
    uint64_t u = 5;
    double f = 5;
    bool b = false;
    ink_gguf_text text = {0};
    assert_int_equal(file.version, 3);
    for (size_t j = 0; j < COUNT(integers); j++) {
        assert_true(ink_gguf_i64(&file, integers[j].key, &i) && i == integers[j].i64);
        assert_true(ink_gguf_f64(&file, integers[j].key, &f) && f == (double)integers[j].i64);
        u = 5;
        assert_int_equal(ink_gguf_u64(&file, integers[j].key, &u), i >= 0);
        assert_true(u == (i >= 0 ? (uint64_t)i : 5));
        assert_false(ink_gguf_bool(&file, integers[j].key, &b) || ink_gguf_string(&file, integers[j].key, &text));
    }
    i = 5;
    assert_true(ink_gguf_u64(&file, "test.u64", &u) && u == UINT64_MAX && !ink_gguf_i64(&file, "test.u64", &i) && i == 5);
    assert_true(ink_gguf_f64(&file, "test.u64", &f) && f == 0x1p64);
    assert_true(ink_gguf_f64(&file, "test.f32", &f) && f == (double)0.1f);
    assert_true(ink_gguf_f64(&file, "test.f64", &f) && f == 0.1);
    assert_false(ink_gguf_i64(&file, "test.f32", &i) || ink_gguf_u64(&file, "test.f64", &u));
    assert_true(ink_gguf_bool(&file, "test.true", &b) && b && ink_gguf_bool(&file, "test.false", &b) && !b);
    assert_false(ink_gguf_i64(&file, "test.true", &i) || ink_gguf_f64(&file, "test.true", &f));
    assert_true(ink_gguf_string(&file, "test.text", &text) && ink_gguf_text_is(text, "ink \u58a8"));
    assert_false(ink_gguf_text_is(text, "ink") || ink_gguf_text_is(text, "ink \u58a9"));
    assert_true(ink_gguf_string(&file, "test.empty", &text) && text.n_bytes == 0 && ink_gguf_text_is(text, ""));
    assert_true(ink_gguf_string(&file, "general.architecture", &text) && ink_gguf_text_is(text, "qwen_image"));
    assert_false(ink_gguf_i64(&file, "test.text", &i) || ink_gguf_f64(&file, "test.text", &f));
    assert_false(ink_gguf_i64(&file, "test", &i) || ink_gguf_string(&file, "", &text) || ink_gguf_u64(&file, "zzz", &u));
    assert_null(ink_gguf_metadata(&file, "test.u"));
    ink_gguf_close(&file);
    assert_all_zero(&file);
    ink_gguf_close(&file);
}

static void reads_arrays(void **state) {
    (void)state;
    static const int64_t sections[] = {16, 24, 24};
    static const char *const texts[] = {"a", "", "\u58a8"};
    ink_gguf file;
    open_recorded(&file);
    int64_t i = 5;
    double f;
    const ink_gguf_value *ints = ink_gguf_metadata(&file, "test.ints"), *floats = ink_gguf_metadata(&file, "test.floats");
    assert_true(ints->type == INK_GGUF_ARRAY && ints->n == 3);
    for (size_t j = 0; j < 3; j++) {
        assert_true(ink_gguf_i64_at(ints, j, &i) && i == sections[j]);
        assert_true(ink_gguf_f64_at(ints, j, &f) && f == (double)sections[j]);
    }
    assert_false(ink_gguf_i64_at(ints, 3, &i) || ink_gguf_i64_at(ints, UINT64_MAX, &i) || ink_gguf_f64_at(ints, 3, &f));
    assert_true(floats->n == 2 && ink_gguf_f64_at(floats, 1, &f) && f == -2 && !ink_gguf_i64_at(floats, 1, &i));
    assert_true(ink_gguf_i64_at(ink_gguf_metadata(&file, "test.u8"), 0, &i) && i == 255);
    assert_false(ink_gguf_i64(&file, "test.ints", &i) || ink_gguf_f64(&file, "test.floats", &f));
    assert_false(ink_gguf_i64_at(ink_gguf_metadata(&file, "test.nested"), 0, &i));
    assert_false(ink_gguf_i64_at(ink_gguf_metadata(&file, "test.texts"), 0, &i));

    ink_gguf_strings strings;
    ink_gguf_text text;
    assert_true(ink_gguf_strings_begin(&strings, ink_gguf_metadata(&file, "test.texts")) && strings.n_left == 3);
    for (size_t j = 0; j < 3; j++) assert_true(ink_gguf_strings_next(&strings, &text) && ink_gguf_text_is(text, texts[j]));
    assert_false(ink_gguf_strings_next(&strings, &text));
    assert_false(ink_gguf_strings_begin(&strings, ints) || ink_gguf_strings_begin(&strings, NULL));
    assert_false(ink_gguf_strings_begin(&strings, ink_gguf_metadata(&file, "test.text")));
    ink_gguf_close(&file);
}

static const ink_tensor_info *expect_tensor(const ink_gguf *file, const char *name, ink_dtype dtype, int n_dims, int64_t n_bytes) {
    const ink_tensor_info *info = ink_gguf_find(file, name);
    if (!info) fail_msg("there is no tensor %s", name);
    assert_string_equal(info->name, name);
    assert_int_equal(info->dtype, dtype);
    assert_int_equal(info->n_dims, n_dims);
    assert_int_equal(info->n_bytes, n_bytes);
    assert_true(info->data >= file->file.data && info->data + info->n_bytes <= file->file.data + file->file.size);
    return info;
}

static void reads_tensors(void **state) {
    (void)state;
    ink_gguf file;
    open_recorded(&file);
    assert_int_equal(file.n_tensors, 18);
    for (size_t i = 1; i < file.n_tensors; i++) assert_true(strcmp(file.tensors[i - 1].name, file.tensors[i].name) < 0);
    const ink_tensor_info *info = expect_tensor(&file, "scalar_row", INK_F32, 1, 4);
    float value;
    memcpy(&value, info->data, sizeof value);
    assert_true(value == 1.5f && info->shape[0] == 1);
    info = expect_tensor(&file, "F32", INK_F32, 3, 96);
    assert_true(info->shape[0] == 2 && info->shape[1] == 3 && info->shape[2] == 4 && info->n_elements == 24);
    info = expect_tensor(&file, "F16", INK_F16, 2, 30);
    assert_true(info->shape[0] == 3 && info->shape[1] == 5);
    info = expect_tensor(&file, "BF16", INK_BF16, 2, 30);
    assert_true(info->shape[0] == 3 && info->shape[1] == 5);
    assert_string_equal(info->dtype_name, "BF16");
    info = expect_tensor(&file, "I32", INK_OTHER_DTYPE, 1, 28);
    assert_string_equal(info->dtype_name, "I32");
    info = expect_tensor(&file, "IQ2_XXS", INK_OTHER_DTYPE, 2, 132);
    assert_string_equal(info->dtype_name, "IQ2_XXS");
    int n_block_types = 0;
    for (int dtype = 0; dtype < INK_OTHER_DTYPE; dtype++) {
        if (!ink_gguf_is_block_type((ink_dtype)dtype)) continue;
        const char *name = ink_dtype_name((ink_dtype)dtype);
        info = expect_tensor(&file, name, (ink_dtype)dtype, 2, 2 * ink_dtype_block_bytes((ink_dtype)dtype));
        assert_string_equal(info->dtype_name, name);
        assert_true(info->shape[0] == 2 && info->shape[1] == ink_dtype_block_elements((ink_dtype)dtype));
        n_block_types++;
    }
    assert_int_equal(n_block_types, 12);
    assert_null(ink_gguf_find(&file, "F3"));
    assert_null(ink_gguf_find(&file, ""));
    ink_gguf_close(&file);
}

static void reads_what_is_rare(void **state) {
    (void)state;
    ink_gguf file;
    test_gguf gguf = test_gguf_begin(3, 0, 0);
    parse_good(&file, &gguf);
    assert_int_equal(file.n_tensors + file.n_values, 0);
    assert_null(ink_gguf_find(&file, "a"));
    assert_null(ink_gguf_metadata(&file, "a"));
    ink_gguf_close(&file);
    test_gguf_free(&gguf);

    /* Another alignment, bytes that belong to nothing, types of the future, a tensor without dimensions. */
    static const uint64_t eight[] = {8}, empty[] = {32, 0};
    gguf = test_gguf_begin(3, 4, 1);
    test_gguf_u32(&gguf, "general.alignment", 64);
    test_gguf_tensor(&gguf, "new", 1, eight, 42, 128);
    test_gguf_tensor(&gguf, "scalar", 0, NULL, I64, 0);
    test_gguf_tensor(&gguf, "newer", 1, eight, 999999, 192);
    test_gguf_tensor(&gguf, "empty", 2, empty, Q8_0, 192);
    test_gguf_pad(&gguf, 64);
    test_gguf_zeros(&gguf, 192);
    parse_good(&file, &gguf);
    const ink_tensor_info *info = ink_gguf_find(&file, "new");
    assert_true(info->dtype == INK_OTHER_DTYPE && info->n_bytes == 0 && info->n_elements == 8);
    assert_string_equal(info->dtype_name, "type 42");
    assert_string_equal(ink_gguf_find(&file, "newer")->dtype_name, "type 999999");
    info = ink_gguf_find(&file, "scalar");
    assert_true(info->n_dims == 0 && info->n_elements == 1 && info->n_bytes == 8 && info->data == gguf.bytes + gguf.size - 192);
    info = ink_gguf_find(&file, "empty");
    assert_true(info->n_elements == 0 && info->n_bytes == 0 && info->shape[0] == 0 && info->shape[1] == 32);
    ink_gguf_close(&file);
    test_gguf_free(&gguf);
}

/* ---- damage ------------------------------------------------------------------------------------------------------ */

/* A file cut anywhere is refused; a file with any byte changed is read or refused, and never read out of bounds. */
static void survives_damage(void **state) {
    (void)state;
    ink_gguf file;
    open_recorded(&file);
    size_t size = file.file.size;
    unsigned char *whole = malloc(size);
    assert_non_null(whole);
    memcpy(whole, file.file.data, size);
    const unsigned char *end = file.file.data; /* padding follows */
    for (size_t i = 0; i < file.n_tensors; i++)
        if (file.tensors[i].data + file.tensors[i].n_bytes > end) end = file.tensors[i].data + file.tensors[i].n_bytes;
    size_t n_needed = (size_t)(end - file.file.data);
    ink_gguf_close(&file);
    for (size_t n = 0; n < n_needed; n++) {
        unsigned char *part = malloc(n ? n : 1);
        assert_non_null(part);
        memcpy(part, whole, n);
        assert_int_equal(ink_gguf_parse(&file, part, n, "x", NULL), INK_ERROR_FORMAT);
        free(part);
    }
    static const unsigned char flips[] = {0x01, 0x02, 0x10, 0x80, 0xff};
    for (size_t i = 0; i < size; i++)
        for (size_t j = 0; j < COUNT(flips); j++) {
            whole[i] ^= flips[j];
            if (ink_gguf_parse(&file, whole, size, "x", NULL) == INK_OK) ink_gguf_close(&file);
            whole[i] ^= flips[j];
        }
    free(whole);
}

/* In the worst order for a quadratic check. */
static void reads_many_things(void **state) {
    enum { N = 50000 };
    (void)state;
    char *lines = NULL;
    size_t size = 0;
    FILE *stream = open_memstream(&lines, &size);
    assert_non_null(stream);
    test_gguf head = test_gguf_begin(3, N, N);
    assert_int_equal(fwrite(head.bytes, 1, head.size, stream), head.size);
    for (int i = 0; i < 2 * N; i++) {
        char name[16];
        snprintf(name, sizeof name, "%07d", 2 * N - i);
        test_gguf entry = {0};
        static const uint64_t dims[] = {8};
        if (i < N)
            test_gguf_u32(&entry, name, (uint32_t)i);
        else
            test_gguf_tensor(&entry, name, 1, dims, F32, (uint64_t)(2 * N - 1 - i) * 32);
        assert_int_equal(fwrite(entry.bytes, 1, entry.size, stream), entry.size);
        test_gguf_free(&entry);
    }
    fclose(stream);
    test_gguf whole = {0};
    test_gguf_put(&whole, lines, size);
    test_gguf_pad(&whole, 32);
    test_gguf_zeros(&whole, (size_t)N * 32);
    ink_gguf file;
    parse_good(&file, &whole);
    uint64_t value;
    assert_true(ink_gguf_u64(&file, "0050001", &value) && value == N - 1);
    assert_ptr_equal(ink_gguf_find(&file, "0050000")->data, whole.bytes + whole.size - 32);
    ink_gguf_close(&file);
    test_gguf_free(&whole);
    test_gguf_free(&head);
    free(lines);
}

static void survives_failing_allocations(void **state) {
    (void)state;
    ink_gguf file;
    ink_error error;
    ink_status status = INK_ERROR_MEMORY;
    int64_t n = 0;
    for (; status != INK_OK; n++) {
        ink_alloc_fail_after(n);
        status = ink_gguf_open(&file, RECORDED, &error);
        ink_alloc_fail_after(-1);
        if (status == INK_OK) ink_gguf_close(&file);
        if (status != INK_OK && status != INK_ERROR_MEMORY) fail_msg("allocation %d: %s", (int)n, error.message);
        assert_all_zero(&file);
    }
    assert_int_equal(n, 6);
}

static void says_which_file(void **state) {
    (void)state;
    char folder[TEST_PATH], path[TEST_PATH];
    ink_gguf file;
    ink_error error;
    test_folder_create(folder);
    test_path(path, folder, "model.gguf");
    assert_int_equal(ink_gguf_open(&file, path, &error), INK_ERROR_IO);
    assert_all_zero(&file);
    test_write_text(folder, "model.gguf", "");
    assert_int_equal(ink_gguf_open(&file, path, &error), INK_ERROR_FORMAT);
    assert_non_null(strstr(error.message, "model.gguf: is no GGUF file"));
    assert_int_equal(ink_gguf_open(&file, folder, NULL), INK_ERROR_IO);
    assert_all_zero(&file);
    test_folder_remove(folder);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(refuses_other_files),
        cmocka_unit_test(refuses_counts),
        cmocka_unit_test(refuses_keys),
        cmocka_unit_test(refuses_values),
        cmocka_unit_test(refuses_deep_nesting),
        cmocka_unit_test(refuses_alignments),
        cmocka_unit_test(refuses_tensors),
        cmocka_unit_test(refuses_tensors_that_share),
        cmocka_unit_test(reads_metadata),
        cmocka_unit_test(reads_arrays),
        cmocka_unit_test(reads_tensors),
        cmocka_unit_test(reads_what_is_rare),
        cmocka_unit_test(survives_damage),
        cmocka_unit_test(reads_many_things),
        cmocka_unit_test(survives_failing_allocations),
        cmocka_unit_test(says_which_file),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
