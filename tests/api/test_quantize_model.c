/*
 * test_quantize_model.c - a model written in another precision: it draws what the source draws at that precision, bit for bit; what
 * it holds; and that nothing is left of a run that failed, was cancelled, or was denied its memory.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/memory.h"
#include "inkstone.h"
#include "support/golden.h"
#include "tensor/weights.h"

enum { SIDE = 32, N_BYTES = SIDE * SIDE * 3 };

/* Stored in bf16 and in f32; of the second model's matrices few are wide enough for groups. */
static const char *const models[] = {INK_TEST_SOURCE_DIR "/models/demo", TEST_GOLDEN "tiny", TEST_GOLDEN "published"};

enum { N_MODELS = sizeof models / sizeof *models };

static ink_quantize_options options_of(ink_precision precision) {
    return (ink_quantize_options){.precision = precision, .calibration = INK_CALIBRATE_OFF, .threads = 2};
}

static void draw(uint8_t pixels[N_BYTES], const char *dir, ink_precision precision) {
    const ink_model_options options = {.precision = precision};
    ink_model *model;
    ink_session *session;
    ink_image *image;
    ink_request request;
    ink_error error;
    if (ink_model_open(&model, dir, &options, &error) != INK_OK) fail_msg("%s", error.message);
    assert_int_equal(ink_session_create(&session, model, NULL, &error), INK_OK);
    ink_request_init(&request, model);
    request.prompt = "a red circle";
    request.width = request.height = SIDE;
    request.steps = 2;
    request.noise_dtype = INK_NOISE_F32; /* not of the precision */
    if (ink_generate(session, &request, &image, &error) != INK_OK) fail_msg("%s", error.message);
    memcpy(pixels, ink_image_pixels(image), N_BYTES);
    ink_image_destroy(&image);
    ink_session_destroy(&session);
    ink_model_close(&model);
}

static void write_model(ink_quantize_report **report, const char *dir, const char *out, const ink_quantize_options *options) {
    ink_error error;
    if (ink_quantize_model(report, dir, out, options, &error) != INK_OK) fail_msg("%s: %s", dir, error.message);
}

static void test_draws_the_same(void **state) {
    (void)state;
    for (int m = 0; m < N_MODELS; m++)
        for (int precision = INK_PRECISION_BF16; precision <= INK_PRECISION_INT8; precision++) {
            char folder[TEST_PATH], out[TEST_PATH];
            uint8_t written[N_BYTES], loaded[N_BYTES];
            ink_quantize_options options = options_of((ink_precision)precision);
            write_model(NULL, models[m], test_path(out, test_folder_create(folder), "out"), &options);
            assert_int_equal(test_count_entries(folder), 1);
            draw(loaded, models[m], (ink_precision)precision);
            draw(written, out, INK_PRECISION_AUTO);
            if (memcmp(written, loaded, N_BYTES) != 0) fail_msg("%s in precision %d", models[m], precision);
            draw(written, out, (ink_precision)precision);
            assert_memory_equal(written, loaded, N_BYTES);
            test_folder_remove(folder);
        }
}

/* Many files, found by their index, are the same model as one. */
static void test_shards(void **state) {
    (void)state;
    char folder[TEST_PATH], one[TEST_PATH], many[TEST_PATH], path[TEST_PATH];
    uint8_t first[N_BYTES], second[N_BYTES];
    ink_weights *weights;
    ink_quantize_options options = options_of(INK_PRECISION_Q4);
    test_folder_create(folder);
    write_model(NULL, models[0], test_path(one, folder, "one"), &options);
    options.shard_bytes = 2000000;
    write_model(NULL, models[0], test_path(many, folder, "many"), &options);
    assert_int_equal(ink_weights_open(&weights, test_path(path, many, "transformer"), "diffusion_pytorch_model", NULL), INK_OK);
    assert_true(ink_weights_n_files(weights) > 2);
    ink_weights_close(&weights);
    draw(first, one, INK_PRECISION_AUTO);
    draw(second, many, INK_PRECISION_AUTO);
    assert_memory_equal(first, second, N_BYTES);
    test_folder_remove(folder);
}

static int64_t count_parameters(const char *dir, int64_t *n_bytes) {
    ink_report *report;
    ink_error error;
    int64_t n = 0;
    if (ink_inspect(&report, dir, NULL, &error) != INK_OK) fail_msg("%s", error.message);
    *n_bytes = 0;
    for (size_t i = 0; i < report->n_components; i++) {
        n += report->components[i].n_parameters;
        *n_bytes += report->components[i].n_bytes;
        assert_true(report->components[i].n_missing == 0 && report->components[i].n_unexpected == 0);
    }
    ink_report_destroy(&report);
    return n;
}

/* A model has as many parameters as it had, whatever they are stored in. */
static void test_parameters_stay(void **state) {
    (void)state;
    for (int precision = INK_PRECISION_BF16; precision <= INK_PRECISION_INT8; precision++) {
        char folder[TEST_PATH], out[TEST_PATH];
        int64_t before, after;
        ink_quantize_options options = options_of((ink_precision)precision);
        write_model(NULL, models[0], test_path(out, test_folder_create(folder), "out"), &options);
        assert_int_equal(count_parameters(out, &after), count_parameters(models[0], &before));
        assert_true(precision == INK_PRECISION_BF16 ? after == before : after < before);
        test_folder_remove(folder);
    }
}

static const ink_quantize_row *find_row(const ink_quantize_report *report, const char *name) {
    for (size_t i = 0; i < report->n_rows; i++)
        if (strcmp(report->rows[i].name, name) == 0) return &report->rows[i];
    fail_msg("no row of %s", name);
    return NULL;
}

static void check_forms(const char *out) {
    static const struct {
        const char *name, *dtype;
        int64_t rows, cols;
    } expected[] = {
        {"transformer_blocks.0.attn.to_q.weight", "U32", 192, 24},    {"transformer_blocks.0.attn.to_q.scales", "BF16", 192, 3},
        {"transformer_blocks.0.attn.to_q.biases", "BF16", 192, 3},    {"transformer_blocks.0.attn.to_v.weight", "BF16", 192, 192},
        {"transformer_blocks.0.img_mod.1.weight", "BF16", 1152, 192}, {"img_in.weight", "BF16", 192, 64},
    };
    char path[TEST_PATH];
    ink_weights *weights;
    assert_int_equal(ink_weights_open(&weights, test_path(path, out, "transformer"), "diffusion_pytorch_model", NULL), INK_OK);
    for (size_t i = 0; i < sizeof expected / sizeof *expected; i++) {
        const ink_tensor_info *info = ink_weights_find(weights, expected[i].name);
        assert_non_null(info);
        assert_string_equal(info->dtype_name, expected[i].dtype);
        assert_int_equal(info->n_dims, 2);
        assert_int_equal(info->shape[0], expected[i].rows);
        assert_int_equal(info->shape[1], expected[i].cols);
    }
    ink_weights_close(&weights);
}

static void test_report_and_keep(void **state) {
    (void)state;
    static const char *const keep[] = {"*.to_v", "*.mlp.down_proj.weight"};
    char folder[TEST_PATH], out[TEST_PATH];
    ink_quantize_report *report, *counted;
    ink_quantize_options options = options_of(INK_PRECISION_Q4);
    options.keep = keep;
    options.n_keep = 2;
    options.calibration = INK_CALIBRATE_ON;
    write_model(&report, models[0], test_path(out, test_folder_create(folder), "out"), &options);
    check_forms(out);
    const ink_quantize_row *row = find_row(report, "transformer_blocks.0.attn.to_q.weight");
    assert_string_equal(row->stored, "Q4");
    assert_string_equal(row->component, "transformer");
    assert_true(row->quantised);
    assert_int_equal(row->bytes, 192 * (96 + 3 * 4));
    assert_true(row->weight_error > 0.05 && row->weight_error < 0.12);
    assert_true(row->output_error > 0.005 && row->output_error < 0.2);
    row = find_row(report, "transformer_blocks.0.attn.to_v.weight");
    assert_string_equal(row->stored, "BF16");
    assert_false(row->quantised);
    assert_true(row->weight_error == 0 && isnan(row->output_error));
    assert_false(find_row(report, "model.layers.0.mlp.down_proj.weight")->quantised);
    assert_true(report->bytes < report->source_bytes);

    options.dry_run = 1;
    write_model(&counted, models[0], NULL, &options);
    assert_int_equal(counted->bytes, report->bytes);
    assert_int_equal(counted->n_rows, report->n_rows);
    assert_true(isnan(counted->rows[0].weight_error));
    ink_quantize_report_destroy(&counted);
    ink_quantize_report_destroy(&report);
    assert_null(report);
    ink_quantize_report_destroy(&report);
    test_folder_remove(folder);
}

/* ---- what fails leaves nothing ------------------------------------------------------------------------------------------- */

static void test_refusals(void **state) {
    (void)state;
    static const char *const wrong[] = {"*.nothing"};
    char folder[TEST_PATH], out[TEST_PATH];
    ink_error error;
    ink_quantize_options options = options_of(INK_PRECISION_Q8);
    test_path(out, test_folder_create(folder), "out");
    test_write_text(folder, "full/file", "");
    test_write_text(folder, "file", "");
    assert_int_equal(ink_quantize_model(NULL, models[1], out, NULL, &error), INK_ERROR_ARGUMENT);
    assert_int_equal(ink_quantize_model(NULL, models[1], "", &options, &error), INK_ERROR_ARGUMENT);
    assert_int_equal(ink_quantize_model(NULL, models[1], NULL, &options, NULL), INK_ERROR_ARGUMENT);
    assert_int_equal(ink_quantize_model(NULL, "/nowhere", out, &options, &error), INK_ERROR_IO);
    static const char *const taken[] = {"full", "file", "file/out", "none/out"};
    for (size_t i = 0; i < sizeof taken / sizeof *taken; i++) {
        char path[TEST_PATH];
        assert_int_equal(ink_quantize_model(NULL, models[1], test_path(path, folder, taken[i]), &options, &error), INK_ERROR_IO);
        assert_true(strstr(error.message, taken[i]) != NULL);
    }
    options.precision = INK_PRECISION_F32;
    assert_int_equal(ink_quantize_model(NULL, models[1], out, &options, &error), INK_ERROR_ARGUMENT);
    options = options_of(INK_PRECISION_Q8);
    options.threads = -1;
    assert_int_equal(ink_quantize_model(NULL, models[1], out, &options, &error), INK_ERROR_ARGUMENT);
    options = options_of(INK_PRECISION_Q8);
    options.keep = wrong;
    options.n_keep = 1;
    assert_int_equal(ink_quantize_model(NULL, models[1], out, &options, &error), INK_ERROR_ARGUMENT);
    assert_int_equal(test_count_entries(folder), 2);
    test_folder_remove(folder);
}

static int cancel_after(void *user, const ink_quantize_progress *progress) {
    int *left = user;
    assert_true(progress->done_bytes >= 0 && progress->done_bytes <= progress->total_bytes);
    return (*left)-- == 0;
}

/* After every so many calls of the callback, in the calibration run and in every file. */
static void test_cancelled(void **state) {
    (void)state;
    char folder[TEST_PATH], out[TEST_PATH];
    test_path(out, test_folder_create(folder), "out");
    for (int calls = 0, status = INK_ERROR_CANCELLED; status != INK_OK; calls = calls * 2 + 1) {
        ink_error error;
        ink_quantize_report *report;
        int left = calls;
        ink_quantize_options options = options_of(INK_PRECISION_Q4);
        options.calibration = INK_CALIBRATE_ON;
        options.progress = cancel_after;
        options.progress_user = &left;
        status = ink_quantize_model(&report, models[0], out, &options, &error);
        assert_true((report != NULL) == (status == INK_OK));
        if (status != INK_OK) assert_int_equal(status, INK_ERROR_CANCELLED);
        assert_int_equal(test_count_entries(folder), status == INK_OK);
        ink_quantize_report_destroy(&report);
    }
    test_folder_remove(folder);
}

/* The allocations of this thread fail one after the other; in AUTO a calibration without memory is left out. */
static void test_allocations_fail(void **state) {
    (void)state;
    static const char *const keep[] = {"*.to_v"};
    char folder[TEST_PATH], out[TEST_PATH];
    test_path(out, test_folder_create(folder), "out");
    ink_status status = INK_ERROR_MEMORY;
    for (int64_t n = 0; status != INK_OK; n++) {
        ink_error error;
        ink_quantize_report *report;
        ink_quantize_options options = options_of(INK_PRECISION_FP8);
        options.calibration = INK_CALIBRATE_ON;
        options.shard_bytes = 100000;
        options.keep = keep;
        options.n_keep = 1;
        ink_alloc_fail_after(n);
        status = ink_quantize_model(&report, TEST_GOLDEN "head128", out, &options, &error);
        ink_alloc_fail_after(-1);
        if (status != INK_OK && (status != INK_ERROR_MEMORY || !*error.message))
            fail_msg("allocation %lld: %s: %s", (long long)n, ink_status_name(status), error.message);
        assert_true((report != NULL) == (status == INK_OK));
        assert_int_equal(test_count_entries(folder), status == INK_OK);
        ink_quantize_report_destroy(&report);
    }
    test_folder_remove(folder);
}

/* The same for the JSON library, which makes the headers: now and then it takes want of memory for a mistake in the text. */
static void test_json_allocations_fail(void **state) {
    (void)state;
    char folder[TEST_PATH], out[TEST_PATH];
    test_path(out, test_folder_create(folder), "out");
    ink_status status = INK_ERROR_MEMORY;
    for (int64_t n = 0; status != INK_OK; n += 1 + n / 50) {
        ink_error error;
        ink_quantize_options options = options_of(INK_PRECISION_Q8);
        options.shard_bytes = 100000;
        test_json_fail_after(n);
        status = ink_quantize_model(NULL, TEST_GOLDEN "head128", out, &options, &error);
        test_json_fail_after(-1);
        if (status != INK_OK && status != INK_ERROR_MEMORY && status != INK_ERROR_FORMAT)
            fail_msg("allocation %lld: %s: %s", (long long)n, ink_status_name(status), error.message);
        assert_int_equal(test_count_entries(folder), status == INK_OK);
    }
    test_folder_remove(folder);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_draws_the_same),   cmocka_unit_test(test_shards),
        cmocka_unit_test(test_parameters_stay),  cmocka_unit_test(test_report_and_keep),
        cmocka_unit_test(test_refusals),         cmocka_unit_test(test_cancelled),
        cmocka_unit_test(test_allocations_fail), cmocka_unit_test(test_json_allocations_fail),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
