/*
 * test_lora.c - LoRA files against what diffusers and PEFT drew with them, in all forms of names; merged and beside; on quantised
 * weights; with presets; and what is refused.
 */
#include <glob.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/memory.h"
#include "pipeline/generate.h"
#include "support/doctor.h"
#include "support/drawing.h"
#include "support/golden.h"
#include "support/words.h"
#include "tensor/safetensors.h"

#define LORA TEST_GOLDEN "lora/"

static const char tiny[] = TEST_GOLDEN "tiny", published[] = TEST_GOLDEN "published";
static const double MOST_LATENTS = 2e-5, LEAST_PSNR = 90;

enum { WIDTH = 48, HEIGHT = 32, STEPS = 2, N_BYTES = WIDTH * HEIGHT * 3, N_VALUES = N_BYTES };

/* ---- a model and a session ------------------------------------------------------------------------------------------------ */

static test_bench bench_open(const char *dir, ink_precision precision, const char *tier) {
    return test_bench_open(dir, precision, tier, 2);
}

static ink_request request_of(const test_bench *b, const ink_lora *loras, size_t n) {
    ink_request request;
    ink_request_init(&request, b->model);
    request.prompt = "a red circle";
    request.negative_prompt = NULL;
    request.width = WIDTH;
    request.height = HEIGHT;
    request.steps = STEPS;
    request.seed = 5;
    request.noise_dtype = INK_NOISE_F32;
    request.loras = loras;
    request.n_loras = n;
    return request;
}

static void draw_with(const test_bench *b, float *pixels, const char *path, double scale) {
    const ink_lora lora = {path, scale};
    const ink_request request = request_of(b, &lora, 1);
    test_draw(b, &request, pixels, N_VALUES);
}

static double psnr(const float *a, const float *b) {
    double sum = 0;
    for (int i = 0; i < N_VALUES; i++) sum += ((double)a[i] - b[i]) * ((double)a[i] - b[i]);
    return -10 * log10(sum / N_VALUES);
}

static bool same(const float *a, const float *b) { return memcmp(a, b, N_VALUES * sizeof *a) == 0; }

/* ---- against the reference -------------------------------------------------------------------------------------------------- */

static void test_references(void **state) {
    (void)state;
    glob_t found;
    assert_int_equal(glob(LORA "run_*.safetensors", 0, NULL, &found), 0);
    assert_true(found.gl_pathc >= 8);
    for (int tier = 0; ink_device_tier(tier); tier++) {
        test_bench b = bench_open(tiny, INK_PRECISION_F32, ink_device_tier(tier));
        for (size_t i = 0; i < found.gl_pathc; i++) {
            ink_verification *v;
            ink_error error;
            if (ink_verify(b.session, found.gl_pathv[i], NULL, NULL, &v, &error) != INK_OK) fail_msg("%s", error.message);
            for (size_t row = 0; row < v->n_rows; row++) {
                const ink_verify_row *r = &v->rows[row];
                bool latents = strcmp(r->stage, "latents") == 0, image = strcmp(r->stage, "image") == 0;
                if (!r->passed || (latents && !(r->relative_l2 <= MOST_LATENTS)) || (image && !(r->psnr >= LEAST_PSNR)))
                    fail_msg("%s, tier %s: %s, relative L2 %g, %g dB %s", found.gl_pathv[i], ink_device_tier(tier), r->stage,
                             r->relative_l2, r->psnr, r->note);
            }
            ink_verification_destroy(&v);
        }
        test_bench_close(&b);
    }
    globfree(&found);
}

/* ---- one adapter under many names --------------------------------------------------------------------------------------- */

static void test_forms_are_one(void **state) {
    (void)state;
    static const char *const forms[][6] = {
        {LORA "rank4.safetensors", LORA "rank4-peft", LORA "rank4-kohya.safetensors", LORA "rank4-comfy.safetensors",
         LORA "rank4-lora_A.safetensors"},
        {LORA "lokr", LORA "lokr-lycoris.safetensors"},
        {LORA "loha", LORA "loha-lycoris.safetensors"},
    };
    static float first[N_VALUES], other[N_VALUES], none[N_VALUES];
    test_bench b = bench_open(tiny, INK_PRECISION_F32, NULL);
    const ink_request plain = request_of(&b, NULL, 0);
    test_draw(&b, &plain, none, N_VALUES);
    for (size_t i = 0; i < sizeof forms / sizeof *forms; i++) {
        draw_with(&b, first, forms[i][0], 1);
        assert_false(same(first, none));
        for (int j = 1; forms[i][j]; j++) {
            draw_with(&b, other, forms[i][j], 1);
            if (!same(first, other)) fail_msg("%s and %s draw two pictures", forms[i][0], forms[i][j]);
        }
    }
    test_bench_close(&b);
}

static void test_scale(void **state) {
    (void)state;
    static const char *const paths[] = {LORA "rank4.safetensors", LORA "lokr", LORA "lokr-full", LORA "loha"};
    static float none[N_VALUES], zero[N_VALUES], both[N_VALUES];
    test_bench b = bench_open(tiny, INK_PRECISION_F32, NULL);
    const ink_request plain = request_of(&b, NULL, 0);
    test_draw(&b, &plain, none, N_VALUES);
    for (size_t i = 0; i < sizeof paths / sizeof *paths; i++) {
        draw_with(&b, zero, paths[i], 0);
        if (!same(none, zero)) fail_msg("%s at scale 0 changes the picture", paths[i]);
        /* An adapter and its opposite cancel out, but for rounding. */
        const ink_lora opposite[] = {{paths[i], 1}, {paths[i], -1}};
        const ink_request request = request_of(&b, opposite, 2);
        test_draw(&b, &request, both, N_VALUES);
        if (psnr(none, both) < 90) fail_msg("%s and its opposite: %g dB", paths[i], psnr(none, both));
    }
    test_bench_close(&b);
}

/* ---- merged, and beside smaller weights ------------------------------------------------------------------------------------- */

static void test_merged(void **state) {
    (void)state;
    static const struct {
        ink_precision precision;
        double least;
    } cases[] = {{INK_PRECISION_F32, 90}, {INK_PRECISION_BF16, 25}};
    static const char *const paths[] = {LORA "rank4.safetensors", LORA "rank16.safetensors", LORA "lokr", LORA "lokr-full",
                                        LORA "loha"};
    static float beside[N_VALUES], merged[N_VALUES];
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        test_bench b = bench_open(tiny, cases[i].precision, NULL);
        for (size_t j = 0; j < sizeof paths / sizeof *paths; j++) {
            const ink_lora lora = {paths[j], 0.5};
            ink_request request = request_of(&b, &lora, 1);
            test_draw(&b, &request, beside, N_VALUES);
            request.merge_loras = 1;
            test_draw(&b, &request, merged, N_VALUES);
            double close = psnr(beside, merged);
            if (close < cases[i].least) fail_msg("%s merged into %s: %g dB", paths[j], ink_model_precision(b.model), close);
            assert_false(same(beside, merged));
        }
        test_bench_close(&b);
    }
}

/* A branch changes quantised weights by as much as it changes the weights that they stand for. */
static void test_beside_small_weights(void **state) {
    (void)state;
    static const ink_precision precisions[] = {INK_PRECISION_FP8, INK_PRECISION_Q8, INK_PRECISION_Q4, INK_PRECISION_INT8};
    static float drawn[N_VALUES], fallback[N_VALUES], none[N_VALUES];
    for (size_t i = 0; i < sizeof precisions / sizeof *precisions; i++) {
        test_bench b = bench_open(tiny, precisions[i], "ref");
        test_bench fast = bench_open(tiny, precisions[i], "c"); /* the best one may round activations */
        const ink_request plain = request_of(&b, NULL, 0);
        test_draw(&b, &plain, none, N_VALUES);
        draw_with(&b, drawn, LORA "rank16.safetensors", 1);
        draw_with(&fast, fallback, LORA "rank16.safetensors", 1);
        assert_false(same(none, drawn));
        /* Activations that differ in last bits may become other integers. */
        assert_true(psnr(drawn, fallback) > (precisions[i] == INK_PRECISION_INT8 ? 45 : 80));
        draw_with(&b, drawn, LORA "rank16.safetensors", 0);
        assert_true(same(none, drawn));
        ink_error error;
        ink_memory_plan plan;
        const ink_lora lora = {LORA "rank16.safetensors", 1};
        ink_request request = request_of(&b, &lora, 1);
        assert_int_equal(ink_plan(&plan, b.model, &request, &error), INK_OK);
        assert_int_equal(plan.lora_tensors, 48);
        request.merge_loras = 1;
        assert_int_equal(ink_plan(&plan, b.model, &request, &error), INK_ERROR_ARGUMENT);
        assert_null(test_missing_word(error.message, "merged|transformer_blocks.0|beside"));
        test_bench_close(&b);
        test_bench_close(&fast);
    }
}

/* ---- presets ------------------------------------------------------------------------------------------------------------------
 */

static void test_presets(void **state) {
    (void)state;
    test_bench b = bench_open(TEST_GOLDEN "static-shift", INK_PRECISION_AUTO, NULL);
    ink_error error;
    ink_request request = request_of(&b, NULL, 0);
    request.negative_prompt = "x";
    assert_int_equal(ink_request_set_preset(&request, "lightning-16", &error), INK_ERROR_ARGUMENT);
    assert_null(test_missing_word(error.message, "lightning-16|lightning-4|lightning-8"));
    for (int64_t steps = 4; steps <= 8; steps += 4) {
        assert_int_equal(ink_request_set_preset(&request, steps == 4 ? "lightning-4" : "lightning-8", &error), INK_OK);
        assert_true(request.steps == steps && request.guidance == 1);
        ink_stages stages = {0};
        assert_int_equal(ink_generate_run(b.session, &request, NULL, NULL, &stages, &error), INK_OK);
        assert_null(stages.stage[INK_STAGE_NEGATIVE_EMBEDS].data);
        const float *sigmas = stages.stage[INK_STAGE_SIGMAS].data;
        /* A shift of 3, from 1 on, and no stretch; the schedule of this model is fixed and stretched. */
        for (int64_t i = 0; i < steps; i++) {
            double even = 1.0 - (double)i / (double)steps;
            assert_true(fabs(sigmas[i] - 3 * even / (1 + 2 * even)) < 1e-6);
        }
        assert_true(sigmas[steps] == 0);
        ink_stages_release(&stages);
    }
    test_bench_close(&b);
}

/* A dump holds what it takes to repeat the run from another folder. */
static void test_dump_is_repeated(void **state) {
    (void)state;
    char folder[TEST_PATH], path[TEST_PATH];
    test_path(path, test_folder_create(folder), "dump.safetensors");
    test_bench b = bench_open(tiny, INK_PRECISION_F32, NULL);
    const ink_lora loras[] = {{LORA "../lora/rank4.safetensors", 0.1}, {LORA "loha", -0.7}};
    ink_request request = request_of(&b, loras, 2);
    ink_image *image;
    ink_error error;
    assert_int_equal(ink_request_set_preset(&request, "lightning-4", &error), INK_OK);
    request.merge_loras = 1;
    request.dump_path = path;
    if (ink_generate(b.session, &request, &image, &error) != INK_OK) fail_msg("%s", error.message);
    ink_image_destroy(&image);
    ink_verification *v;
    if (ink_verify(b.session, path, NULL, NULL, &v, &error) != INK_OK) fail_msg("%s", error.message);
    assert_true(v->passed && v->rows[v->n_rows - 1].max_error == 0);
    ink_verification_destroy(&v);
    test_bench_close(&b);
    test_folder_remove(folder);
}

/* ---- what is refused ----------------------------------------------------------------------------------------------------------
 */

static void refuse(const test_bench *b, const ink_lora *lora, ink_status expected, const char *words) {
    ink_error error;
    ink_memory_plan plan;
    ink_image *image = (ink_image *)(uintptr_t)1;
    const ink_request request = request_of(b, lora, 1);
    if (ink_plan(&plan, b->model, &request, &error) != expected) fail_msg("%s: %s", lora->path, error.message);
    const char *missing = test_missing_word(error.message, words);
    if (missing) fail_msg("\"%s\" is not in: %s", missing, error.message);
    assert_int_equal(ink_generate(b->session, &request, &image, NULL), expected);
    assert_null(image);
}

static void test_refused(void **state) {
    (void)state;
    static const char rank4[] = LORA "rank4.safetensors", rank4_kohya[] = LORA "rank4-kohya.safetensors",
                      of_other[] = LORA "run_rank4.safetensors";
    test_bench b = bench_open(tiny, INK_PRECISION_F32, NULL), other = bench_open(published, INK_PRECISION_AUTO, NULL);
    refuse(&b, &(ink_lora){rank4, NAN}, INK_ERROR_ARGUMENT, "rank4.safetensors|scale|nan");
    refuse(&b, &(ink_lora){rank4, INFINITY}, INK_ERROR_ARGUMENT, "scale|inf");
    refuse(&b, &(ink_lora){NULL, 1}, INK_ERROR_ARGUMENT, "path");
    refuse(&b, &(ink_lora){LORA "none.safetensors", 1}, INK_ERROR_IO, "none.safetensors");
    refuse(&b, &(ink_lora){tiny, 1}, INK_ERROR_IO, "adapter_model.safetensors");
    refuse(&other, &(ink_lora){rank4, 1}, INK_ERROR_FORMAT, "rank4.safetensors|does not fit|another model");
    refuse(&other, &(ink_lora){rank4_kohya, 1}, INK_ERROR_FORMAT, "lora_unet_|does not fit|[72, 256]");
    refuse(&b, &(ink_lora){of_other, 1}, INK_ERROR_UNSUPPORTED, "image|no LoRA");
    ink_request request = request_of(&b, NULL, 1);
    assert_int_equal(ink_request_check(&request, b.model, NULL), INK_ERROR_ARGUMENT);
    request.n_loras = 0;
    request.base_shift = 11;
    assert_int_equal(ink_request_check(&request, b.model, NULL), INK_ERROR_ARGUMENT);
    request.base_shift = NAN;
    request.shift_terminal = 1;
    assert_int_equal(ink_request_check(&request, b.model, NULL), INK_ERROR_ARGUMENT);
    test_bench_close(&b);
    test_bench_close(&other);
}

/* One tensor too many, or one that is broken: named, whatever else fits. */
static void test_doctored(void **state) {
    (void)state;
    static const char up[] = "transformer.transformer_blocks.1.attn.to_k.lora_B.weight";
    char folder[TEST_PATH], path[TEST_PATH];
    test_path(path, test_folder_create(folder), "lora.safetensors");
    test_bench b = bench_open(tiny, INK_PRECISION_F32, NULL);
    const ink_lora lora = {path, 1};
    test_doctor *doctor = test_doctor_open(LORA "rank4.safetensors");
    test_doctor_drop(doctor, up);
    test_doctor_write(doctor, path);
    refuse(&b, &lora, INK_ERROR_FORMAT, "lora.safetensors|transformer_blocks.1.attn.to_k.lora_A|other half");
    test_doctor_close(doctor);

    doctor = test_doctor_open(LORA "rank4.safetensors");
    test_doctor_reshape(doctor, up, 2, (const int64_t[]){16, 8});
    test_doctor_write(doctor, path);
    refuse(&b, &lora, INK_ERROR_FORMAT, "to_k|ranks differ");
    test_doctor_close(doctor);

    doctor = test_doctor_open(LORA "rank4.safetensors");
    test_doctor_set(doctor, "lora_adapter_metadata", "{\"transformer.r\": 4, \"transformer.init_lora_weights\": \"pissa\"}");
    test_doctor_write(doctor, path);
    refuse(&b, &lora, INK_ERROR_UNSUPPORTED, "init_lora_weights|pissa");
    test_doctor_set(doctor, "lora_adapter_metadata",
                    "{\"transformer.r\": 4, \"transformer.lora_alpha\": 8, \"transformer.alpha_pattern\": {\"to_[qk]\": 2}}");
    test_doctor_write(doctor, path);
    refuse(&b, &lora, INK_ERROR_UNSUPPORTED, "alpha_pattern|plain names");
    test_doctor_set(doctor, "lora_adapter_metadata", "{");
    test_doctor_write(doctor, path);
    refuse(&b, &lora, INK_ERROR_FORMAT, "lora.safetensors");
    test_doctor_close(doctor);

    /* Values are looked at when they are needed. */
    doctor = test_doctor_open(LORA "rank4.safetensors");
    test_doctor_tensor(doctor, up, NULL)[5] = NAN;
    test_doctor_write(doctor, path);
    ink_error error;
    ink_image *image;
    ink_request request = request_of(&b, &lora, 1);
    assert_int_equal(ink_generate(b.session, &request, &image, &error), INK_ERROR_FORMAT);
    assert_null(test_missing_word(error.message, "lora.safetensors|to_k.lora_B|NaN"));
    test_doctor_close(doctor);
    test_bench_close(&b);
    test_folder_remove(folder);
}

/* The n-th allocation fails, for every n. */
static void test_denied_memory(void **state) {
    (void)state;
    static const char *const paths[] = {LORA "rank4-kohya.safetensors", LORA "lokr-full", LORA "loha"};
    test_bench b = bench_open(tiny, INK_PRECISION_F32, NULL);
    for (size_t i = 0; i < sizeof paths / sizeof *paths; i++) {
        const ink_lora lora = {paths[i], 1};
        ink_request request = request_of(&b, &lora, 1);
        request.steps = 1;
        request.width = request.height = 16;
        request.merge_loras = i == 0;
        ink_status status = INK_ERROR_MEMORY;
        int64_t n = 0;
        for (; status != INK_OK; n++) {
            ink_image *image;
            ink_error error;
            ink_alloc_fail_after(n);
            status = ink_generate(b.session, &request, &image, &error);
            ink_alloc_fail_after(-1);
            if (status != INK_OK && status != INK_ERROR_MEMORY) fail_msg("allocation %lld: %s", (long long)n, error.message);
            assert_true((image != NULL) == (status == INK_OK));
            ink_image_destroy(&image);
        }
        assert_true(n > 100);
    }
    test_bench_close(&b);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_references),
        cmocka_unit_test(test_forms_are_one),
        cmocka_unit_test(test_scale),
        cmocka_unit_test(test_merged),
        cmocka_unit_test(test_beside_small_weights),
        cmocka_unit_test(test_presets),
        cmocka_unit_test(test_dump_is_repeated),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_doctored),
        cmocka_unit_test(test_denied_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
