/* test_png_metadata.c - pictures as files, the record that a PNG carries, and what is made of damaged ones. */
#define _POSIX_C_SOURCE 200809L
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/image_write.h"
#include "common/png_metadata.h"
#include "common/request_json.h"

enum { WIDTH = 33, HEIGHT = 17, MOST_BYTES = 1 << 16 };

static const ink_request sample = {.prompt = "a \"red\" circle\n\xe5\x9c\x86 \xf0\x9f\xa6\x8a\x01",
                                   .negative_prompt = NULL,
                                   .width = 64,
                                   .height = 48,
                                   .steps = 20,
                                   .guidance = 2.1,
                                   .seed = UINT64_MAX,
                                   .rng = INK_RNG_TORCH_CUDA,
                                   .cuda_sms = 82,
                                   .cuda_threads_per_sm = 1536,
                                   .noise_dtype = INK_NOISE_BF16};

static app_record sample_record(void) {
    return (app_record){.version = "0.1.0", .model = "/models/d\xc3\xa9mo", .precision = "bf16", .cpu = "avx2", .request = sample};
}

/* Encodes a small picture; returns the number of bytes. */
static size_t encode(unsigned char bytes[MOST_BYTES], app_image_format format, const char *parameters, const char *record) {
    uint8_t pixels[WIDTH * HEIGHT * 3];
    ink_error error;
    FILE *file = tmpfile();
    assert_non_null(file);
    for (size_t i = 0; i < sizeof pixels; i++) pixels[i] = (uint8_t)(i * 37 % 251);
    const app_picture picture = {.pixels = pixels, .width = WIDTH, .height = HEIGHT, .text = {parameters, record}};
    assert_int_equal(app_image_write(file, format, &picture, &error), INK_OK);
    rewind(file);
    size_t n = fread(bytes, 1, MOST_BYTES, file);
    assert_true(n > 0 && n < MOST_BYTES);
    fclose(file);
    return n;
}

static ink_status read_back(app_png_metadata *metadata, const unsigned char *bytes, size_t n, ink_error *error) {
    FILE *file = tmpfile();
    assert_non_null(file);
    assert_int_equal(fwrite(bytes, 1, n, file), n);
    rewind(file);
    ink_status status = app_png_metadata_read(metadata, file, "test.png", error);
    fclose(file);
    return status;
}

static void test_formats(void **state) {
    (void)state;
    static unsigned char bytes[MOST_BYTES];
    assert_true(encode(bytes, APP_IMAGE_PNG, NULL, NULL) > 8 && memcmp(bytes, "\x89PNG\r\n\x1a\n", 8) == 0);
    size_t n = encode(bytes, APP_IMAGE_JPEG, "some comment", NULL);
    assert_true(memcmp(bytes, "\xff\xd8\xff", 3) == 0 && memcmp(bytes + n - 2, "\xff\xd9", 2) == 0);
    n = encode(bytes, APP_IMAGE_WEBP, "not kept", NULL);
    assert_true(memcmp(bytes, "RIFF", 4) == 0 && memcmp(bytes + 8, "WEBPVP8L", 8) == 0);
    assert_int_equal(bytes[4] | bytes[5] << 8 | bytes[6] << 16, n - 8);
}

static int stop_at_once(void *user, int64_t done, int64_t total) {
    (void)done;
    (void)total;
    ++*(int *)user;
    return 1;
}

static void test_stopped(void **state) {
    (void)state;
    const uint8_t pixels[WIDTH * HEIGHT * 3] = {0};
    for (int format = APP_IMAGE_PNG; format <= APP_IMAGE_WEBP; format++) {
        int n_calls = 0;
        ink_error error = {0};
        FILE *file = tmpfile();
        assert_non_null(file);
        const app_picture picture = {
            .pixels = pixels, .width = WIDTH, .height = HEIGHT, .progress = stop_at_once, .progress_user = &n_calls};
        assert_int_equal(app_image_write(file, (app_image_format)format, &picture, &error), INK_ERROR_CANCELLED);
        assert_int_equal(n_calls, 1);
        fclose(file);
    }
}

/* A full disk must be told apart from a picture. */
static void test_full_disk(void **state) {
    (void)state;
    static uint8_t pixels[512 * 512 * 3];
    uint32_t noise = 1;
    for (size_t i = 0; i < sizeof pixels; i++) pixels[i] = (uint8_t)((noise = noise * 1664525 + 1013904223) >> 24);
    for (int format = APP_IMAGE_PNG; format <= APP_IMAGE_WEBP; format++) {
        ink_error error = {0};
        FILE *file = fopen("/dev/full", "wb");
        if (!file) skip();
        const app_picture picture = {.pixels = pixels, .width = 512, .height = 512};
        assert_int_equal(app_image_write(file, (app_image_format)format, &picture, &error), INK_ERROR_IO);
        assert_non_null(strstr(error.message, "No space left"));
        fclose(file);
    }
}

static void test_suffixes(void **state) {
    (void)state;
    app_image_format format;
    ink_error error;
    assert_true(app_image_format_of(&format, "a/b.c/d.JPeG", &error) == INK_OK && format == APP_IMAGE_JPEG);
    assert_true(app_image_format_of(&format, "x.webp", &error) == INK_OK && format == APP_IMAGE_WEBP);
    static const char *const bad[] = {"", "png", "a.png/b", "a.gif", "a.png ", "."};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_int_equal(app_image_format_of(&format, bad[i], &error), INK_ERROR_ARGUMENT);
    assert_int_equal(app_image_check_size(APP_IMAGE_WEBP, 16384, 16, &error), INK_ERROR_ARGUMENT);
    assert_int_equal(app_image_check_size(APP_IMAGE_PNG, 16384, 16, &error), INK_OK);
}

static void check_same(const app_record *a, const app_record *b) {
    const ink_request *x = &a->request, *y = &b->request;
    assert_string_equal(a->version, b->version);
    assert_string_equal(a->model, b->model);
    assert_string_equal(a->precision, b->precision);
    assert_string_equal(a->cpu, b->cpu);
    assert_string_equal(x->prompt, y->prompt);
    assert_true((x->negative_prompt == NULL) == (y->negative_prompt == NULL));
    assert_true(x->width == y->width && x->height == y->height && x->steps == y->steps && x->guidance == y->guidance);
    assert_true(x->seed == y->seed && x->rng == y->rng && x->noise_dtype == y->noise_dtype);
    assert_true(x->cuda_sms == y->cuda_sms && x->cuda_threads_per_sm == y->cuda_threads_per_sm);
}

static void test_round_trip(void **state) {
    (void)state;
    static unsigned char bytes[MOST_BYTES];
    app_record record = sample_record(), found;
    app_png_metadata metadata;
    ink_error error = {0};
    char *json = app_record_to_json(&record), *parameters = app_record_to_parameters(&record);
    assert_true(json && parameters);
    for (const char *c = json; *c; c++) assert_true(*c >= ' ' && *c < 0x7f);
    size_t n = encode(bytes, APP_IMAGE_PNG, parameters, json);
    assert_int_equal(read_back(&metadata, bytes, n, &error), INK_OK);
    assert_string_equal(metadata.record, json);
    assert_string_equal(metadata.parameters, parameters);
    assert_int_equal(app_record_parse(&found, metadata.record, strlen(metadata.record), "test.png", &error), INK_OK);
    check_same(&record, &found);
    app_record_clear(&found);
    app_png_metadata_clear(&metadata);
    n = encode(bytes, APP_IMAGE_PNG, NULL, NULL);
    assert_int_equal(read_back(&metadata, bytes, n, &error), INK_OK);
    assert_true(!metadata.record && !metadata.parameters);
    free(json);
    free(parameters);
}

static void test_parameters(void **state) {
    (void)state;
    app_record record = sample_record();
    record.request.prompt = "a circle";
    record.request.negative_prompt = "blur";
    record.request.seed = 5;
    char *text = app_record_to_parameters(&record);
    assert_string_equal(text, "a circle\nNegative prompt: blur\nSteps: 20, Sampler: Euler, CFG scale: 2.1, Seed: 5, Size: 64x48, "
                              "Model: d\xc3\xa9mo, RNG: torch-cuda:82x1536, Version: inkstone 0.1.0");
    free(text);
}

/* Every prefix of a file, and every file with one byte changed in its head, is refused or read: never more. */
static void test_damage(void **state) {
    (void)state;
    static unsigned char bytes[MOST_BYTES];
    app_record record = sample_record();
    char *json = app_record_to_json(&record);
    size_t n = encode(bytes, APP_IMAGE_PNG, "parameters", json);
    free(json);
    app_png_metadata metadata;
    for (size_t cut = 0; cut < 200; cut++) {
        ink_error error = {0};
        assert_int_equal(read_back(&metadata, bytes, cut, &error), INK_ERROR_FORMAT);
        assert_true(error.message[0] != 0);
        app_png_metadata_clear(&metadata);
    }
    for (size_t at = 0; at < 300 && at < n; at++) {
        ink_error error = {0};
        bytes[at] ^= 0x20;
        read_back(&metadata, bytes, n, &error);
        app_png_metadata_clear(&metadata);
        bytes[at] ^= 0x20;
    }
}

static void refuse_record(const char *text, const char *part_of_sentence) {
    app_record record;
    ink_error error = {0};
    assert_int_not_equal(app_record_parse(&record, text, strlen(text), "x.png", &error), INK_OK);
    if (!strstr(error.message, part_of_sentence)) fail_msg("\"%s\" lacks \"%s\"", error.message, part_of_sentence);
    assert_null(record.owner);
}

static void test_bad_records(void **state) {
    (void)state;
#define HEAD "{\"format\":1,\"version\":\"0\",\"model\":\"m\",\"precision\":\"f32\",\"prompt\":\"p\","
#define SIZE "\"width\":16,\"height\":16,\"steps\":2,"
    refuse_record("", "damaged");
    refuse_record("[]", "\"format\" is no whole number");
    refuse_record("{\"format\":1", "damaged");
    refuse_record("{\"format\":2}", "format 2");
    refuse_record("{\"format\":1,\"format\":1}", "damaged");
    refuse_record("{\"format\":1}", "\"version\" is no text");
    refuse_record(HEAD "\"width\":1e99}", "\"width\"");
    refuse_record(HEAD "\"width\":16.5}", "\"width\"");
    refuse_record(HEAD SIZE "\"seed\":-1}", "\"seed\"");
    refuse_record(HEAD SIZE "\"seed\":\"x\"}", "\"seed\"");
    refuse_record(HEAD SIZE "\"seed\":1,\"guidance\":\"4\"}", "\"guidance\"");
    refuse_record(HEAD SIZE "\"seed\":1,\"guidance\":4,\"rng\":\"dice\"}", "\"rng\"");
    refuse_record(HEAD SIZE "\"seed\":1,\"guidance\":4,\"rng\":\"torch-cpu\",\"noise_dtype\":\"f64\"}", "\"noise_dtype\"");
    refuse_record("{\"format\":1,\"version\":\"0\",\"model\":\"m\",\"precision\":\"f32\",\"prompt\":\"a\\u0000b\"}", "damaged");
#undef HEAD
#undef SIZE
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_formats),    cmocka_unit_test(test_suffixes),
                                       cmocka_unit_test(test_stopped),    cmocka_unit_test(test_full_disk),
                                       cmocka_unit_test(test_round_trip), cmocka_unit_test(test_parameters),
                                       cmocka_unit_test(test_damage),     cmocka_unit_test(test_bad_records)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
