/* test_request.c - defaults, limits, the spelling of generators, and the noise that a request stands for. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/memory.h"
#include "pipeline/latents.h"
#include "pipeline/model.h"
#include "pipeline/request.h"
#include "support/words.h"
#include "tensor/safetensors.h"

static int setup(void **state) {
    static ink_model model;
    static char negative[] = " ";
    model.config.vae.scale = 8;
    model.config.mmdit.patch_size = 2;
    model.config.defaults = (ink_default_config){.width = 64, .height = 32, .steps = 3, .guidance = 4, .negative_prompt = negative};
    model.precision = INK_PRECISION_F32;
    *state = &model;
    return 0;
}

static ink_request valid(const ink_model *model) {
    ink_request request;
    ink_request_init(&request, model);
    request.prompt = "";
    return request;
}

static void test_defaults(void **state) {
    ink_request request;
    memset(&request, 0xff, sizeof request);
    ink_request_init(&request, *state);
    assert_null(request.prompt);
    assert_string_equal(request.negative_prompt, " ");
    assert_true(request.width == 64 && request.height == 32 && request.steps == 3 && request.guidance == 4);
    assert_true(request.seed == 0 && request.rng == INK_RNG_TORCH_CPU && request.noise_dtype == INK_NOISE_AUTO);
    assert_true(request.cuda_sms == 132 && request.cuda_threads_per_sm == 2048);
    assert_true(!request.dump_path && !request.progress && !request.progress_user);
}

/* ---- limits ------------------------------------------------------------------------------------------------------ */

static void assert_valid(const ink_request *request, const ink_model *model) {
    ink_error error;
    if (ink_request_check(request, model, &error) != INK_OK) fail_msg("%s", error.message);
    assert_int_equal(error.status, INK_OK);
    assert_string_equal(error.message, "");
    assert_int_equal(ink_request_check(request, model, NULL), INK_OK);
}

static void assert_invalid(const ink_request *request, const ink_model *model, const char *words) {
    ink_error error;
    assert_int_equal(ink_request_check(request, model, &error), INK_ERROR_ARGUMENT);
    assert_int_equal(error.status, INK_ERROR_ARGUMENT);
    const char *missing = test_missing_word(error.message, words);
    if (missing) fail_msg("\"%s\" is not in: %s", missing, error.message);
    assert_int_equal(ink_request_check(request, model, NULL), INK_ERROR_ARGUMENT);
}

static void test_sides(void **state) {
    static const struct {
        int64_t side;
        const char *words; /* NULL: valid */
    } cases[] = {{16, NULL},
                 {512, NULL},
                 {16384, NULL},
                 {0, "0|out of range|16 to 16384"},
                 {-16, "-16|out of range"},
                 {16400, "16400|out of range"},
                 {INT64_C(1) << 40, "1099511627776|out of range"},
                 {INT64_MAX, "out of range"},
                 {INT64_MIN, "out of range"},
                 {1, "multiple of 16|nearest is 16"},
                 {500, "multiple of 16|496|512"},
                 {16383, "multiple of 16|16368|16384"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        for (int which = 0; which < 2; which++) {
            ink_request request = valid(*state);
            *(which ? &request.height : &request.width) = cases[i].side;
            char words[120];
            snprintf(words, sizeof words, "%s|%s", which ? "height" : "width", cases[i].words ? cases[i].words : "");
            if (cases[i].words)
                assert_invalid(&request, *state, words);
            else
                assert_valid(&request, *state);
        }
}

static void test_numbers(void **state) {
    ink_request request = valid(*state);
    const int64_t good_steps[] = {1, 10000}, bad_steps[] = {0, -1, 10001, INT64_MAX};
    for (int i = 0; i < 2; i++) {
        request.steps = good_steps[i];
        assert_valid(&request, *state);
    }
    for (int i = 0; i < 4; i++) {
        request.steps = bad_steps[i];
        assert_invalid(&request, *state, "steps|1 to 10000");
    }
    request = valid(*state);
    const double good_guidance[] = {-1000, -1, 0, 1, 1.01, 1000}, bad_guidance[] = {NAN, INFINITY, -INFINITY, 1001, 1e300};
    for (int i = 0; i < 6; i++) {
        request.guidance = good_guidance[i];
        assert_valid(&request, *state);
    }
    for (int i = 0; i < 5; i++) {
        request.guidance = bad_guidance[i];
        assert_invalid(&request, *state, "guidance|1000");
    }
    request = valid(*state);
    request.seed = UINT64_MAX;
    assert_valid(&request, *state);
}

static void test_choices(void **state) {
    ink_request request = valid(*state);
    request.prompt = NULL;
    assert_invalid(&request, *state, "no prompt");
    for (int i = -1; i <= INK_RNG_TORCH_CUDA + 1; i++) {
        request = valid(*state);
        request.rng = (ink_rng)i;
        if (i < 0 || i > INK_RNG_TORCH_CUDA)
            assert_invalid(&request, *state, "generator|inkstone.h");
        else
            assert_valid(&request, *state);
    }
    for (int i = -1; i <= INK_NOISE_BF16 + 1; i++) {
        request = valid(*state);
        request.noise_dtype = (ink_noise_dtype)i;
        if (i < 0 || i > INK_NOISE_BF16)
            assert_invalid(&request, *state, "noise type|inkstone.h");
        else
            assert_valid(&request, *state);
    }
    static const int64_t sms[] = {0, -1, 4097}, threads[] = {0, 255, 65537};
    for (int i = 0; i < 3; i++) {
        request = valid(*state);
        request.cuda_sms = sms[i];
        assert_invalid(&request, *state, "multiprocessors|1 to 4096");
        request = valid(*state);
        request.cuda_threads_per_sm = threads[i];
        assert_invalid(&request, *state, "threads|256 to 65536");
    }
}

static void test_guided(void **state) {
    ink_request request = valid(*state);
    assert_true(ink_request_guided(&request));
    request.guidance = 1;
    assert_false(ink_request_guided(&request));
    request.guidance = 1.0000001;
    assert_true(ink_request_guided(&request));
    request.negative_prompt = "";
    assert_true(ink_request_guided(&request));
    request.negative_prompt = NULL;
    assert_false(ink_request_guided(&request));
}

static void test_resolved(void **state) {
    ink_model model = *(ink_model *)*state;
    ink_request request = valid(&model);
    assert_int_equal(ink_request_resolved(&request, &model).noise_dtype, INK_NOISE_F32);
    model.precision = INK_PRECISION_BF16;
    assert_int_equal(ink_request_resolved(&request, &model).noise_dtype, INK_NOISE_BF16);
    request.noise_dtype = INK_NOISE_F32;
    assert_int_equal(ink_request_resolved(&request, &model).noise_dtype, INK_NOISE_F32);
}

/* ---- generators -------------------------------------------------------------------------------------------------- */

static void test_generator_spelling(void **state) {
    static const struct {
        const char *text, *back;
        ink_rng rng;
        int64_t sms, threads;
    } cases[] = {{"torch-cpu", "torch-cpu", INK_RNG_TORCH_CPU, 132, 2048},
                 {"torch-cpu-2.13", "torch-cpu-2.13", INK_RNG_TORCH_CPU_2_13, 132, 2048},
                 {"torch-cuda", "torch-cuda:132", INK_RNG_TORCH_CUDA, 132, 2048},
                 {"torch-cuda:128", "torch-cuda:128", INK_RNG_TORCH_CUDA, 128, 2048},
                 {"torch-cuda:1", "torch-cuda:1", INK_RNG_TORCH_CUDA, 1, 2048},
                 {"torch-cuda:128x1536", "torch-cuda:128x1536", INK_RNG_TORCH_CUDA, 128, 1536},
                 {"torch-cuda:4096x65536", "torch-cuda:4096x65536", INK_RNG_TORCH_CUDA, 4096, 65536},
                 {"torch-cuda:108x2048", "torch-cuda:108", INK_RNG_TORCH_CUDA, 108, 2048}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        ink_error error;
        char text[40];
        ink_request request = valid(*state);
        if (ink_request_set_rng(&request, cases[i].text, &error) != INK_OK) fail_msg("%s", error.message);
        assert_int_equal(request.rng, cases[i].rng);
        assert_int_equal(request.cuda_sms, cases[i].sms);
        assert_int_equal(request.cuda_threads_per_sm, cases[i].threads);
        assert_valid(&request, *state);
        ink_request_get_rng(&request, text, sizeof text);
        assert_string_equal(text, cases[i].back);
        assert_int_equal(ink_request_set_rng(&request, text, NULL), INK_OK);
        assert_int_equal(request.cuda_sms, cases[i].sms);
    }
    char little[6];
    ink_request request = valid(*state);
    ink_request_get_rng(&request, little, sizeof little);
    assert_string_equal(little, "torch");
}

static void test_unknown_generators(void **state) {
    static const char *const texts[] = {"",
                                        "torch",
                                        "cuda",
                                        "torch-cpu ",
                                        "TORCH-CPU",
                                        "torch-cpu-2.11",
                                        "torch-cuda:",
                                        "torch-cuda:0",
                                        "torch-cuda:-1",
                                        "torch-cuda:+1",
                                        "torch-cuda: 1",
                                        "torch-cuda:12345",
                                        "torch-cuda:128x",
                                        "torch-cuda:128x255",
                                        "torch-cuda:128x-2048",
                                        "torch-cuda:128x2048x",
                                        "torch-cuda:128 x2048",
                                        "torch-cuda:128x999999",
                                        "torch-cuda:99999999999999999999"};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        ink_error error;
        ink_request request = valid(*state), before = request;
        if (ink_request_set_rng(&request, texts[i], &error) != INK_ERROR_ARGUMENT) fail_msg("\"%s\" was taken", texts[i]);
        assert_non_null(strstr(error.message, "torch-cpu-2.13"));
        assert_int_equal(ink_request_set_rng(&request, texts[i], NULL), INK_ERROR_ARGUMENT);
        assert_true(request.rng == before.rng && request.cuda_sms == before.cuda_sms);
    }
}

/* ---- noise ------------------------------------------------------------------------------------------------------- */

enum { CHANNELS = 3, HEIGHT = 4, WIDTH = 8, PATCH = 2, N = CHANNELS * HEIGHT * WIDTH };

/* Value i of the sample, i in the order channel, row, column, found at its place in the tokens. */
static float unpacked(ink_tensor latents, int i) {
    int channel = i / (HEIGHT * WIDTH), y = i / WIDTH % HEIGHT, x = i % WIDTH;
    return ink_row(latents, y / PATCH * (WIDTH / PATCH) + x / PATCH)[channel * 4 + 2 * (y % 2) + x % 2];
}

static ink_tensor draw(float *latents, const ink_request *request) {
    float sample[N];
    ink_tensor packed = ink_view(latents, HEIGHT / PATCH * (WIDTH / PATCH), CHANNELS * PATCH * PATCH);
    ink_latents_noise(packed, sample, request, CHANNELS, HEIGHT, WIDTH, PATCH);
    return packed;
}

static void test_noise_of_every_generator(void **state) {
    static const struct {
        ink_rng rng;
        ink_noise_dtype dtype;
        float first[4];
    } cases[] = {{INK_RNG_TORCH_CPU, INK_NOISE_F32, {1.926915f, 1.487284f, 0.900717f, -2.105521f}},
                 {INK_RNG_TORCH_CPU_2_13, INK_NOISE_F32, {1.926915f, 1.487284f, 0.900717f, -2.105521f}},
                 {INK_RNG_TORCH_CPU, INK_NOISE_BF16, {-0.808594f, -1.53125f, 0.40625f, 0.171875f}}, /* torch 2.11 */
                 {INK_RNG_TORCH_CPU_2_13, INK_NOISE_BF16, {1.929688f, 1.484375f, 0.902344f, -2.109375f}},
                 {INK_RNG_TORCH_CUDA, INK_NOISE_F32, {0.1940f, 2.1614f, -0.1721f, 0.8491f}},
                 {INK_RNG_TORCH_CUDA, INK_NOISE_BF16, {0.1940f, 2.1614f, -0.1721f, 0.8491f}}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        float memory[N];
        ink_request request = valid(*state);
        request.seed = 42;
        request.rng = cases[i].rng;
        request.noise_dtype = cases[i].dtype;
        ink_tensor latents = draw(memory, &request);
        bool rounded_here = cases[i].rng == INK_RNG_TORCH_CUDA && cases[i].dtype == INK_NOISE_BF16;
        for (int j = 0; j < 4; j++) {
            float tolerance = rounded_here ? 0x1p-8f * fabsf(cases[i].first[j]) + 5e-5f : 6e-5f;
            if (!(fabsf(unpacked(latents, j) - cases[i].first[j]) <= tolerance))
                fail_msg("generator %d, type %d: value %d is %.9g, expected %.9g", (int)cases[i].rng, (int)cases[i].dtype, j,
                         (double)unpacked(latents, j), (double)cases[i].first[j]);
        }
        for (int j = 0; cases[i].dtype == INK_NOISE_BF16 && j < N; j++)
            assert_true(unpacked(latents, j) == ink_round_to_bf16(unpacked(latents, j)));
    }
}

/* What torch 2.13 drew, in both types; latents have a multiple of 16 values, as these have. */
static void test_recorded_noise(void **state) {
    static const char *const names[] = {"cpu.f32.seed42.n4096", "cpu.bf16.seed42.n4096"};
    ink_error error;
    ink_safetensors file;
    if (ink_safetensors_open(&file, INK_TEST_SOURCE_DIR "/tests/golden/rng.safetensors", &error) != INK_OK)
        fail_msg("%s", error.message);
    for (int i = 0; i < 2; i++) {
        const ink_tensor_info *info = ink_safetensors_find(&file, names[i]);
        assert_non_null(info);
        static float latents[4096], sample[4096];
        ink_request request = valid(*state);
        request.seed = 42;
        request.rng = INK_RNG_TORCH_CPU_2_13;
        request.noise_dtype = i ? INK_NOISE_BF16 : INK_NOISE_F32;
        /* One channel and patches of one pixel: nothing moves. */
        ink_latents_noise(ink_view(latents, 4096, 1), sample, &request, 1, 64, 64, 1);
        int n_off = 0;
        for (int j = 0; j < 4096; j++) {
            float expected;
            ink_convert(&expected, INK_F32, info->data + (size_t)j * sizeof expected, INK_F32, 1);
            float difference = fabsf(latents[j] - expected);
            assert_true(difference <= (i ? 0x1p-7f * fabsf(expected) : 2e-6f));
            n_off += i && difference > 0;
        }
        assert_true(n_off <= 1); /* on the other side of a rounding boundary */
    }
    ink_safetensors_close(&file);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_defaults),
        cmocka_unit_test(test_sides),
        cmocka_unit_test(test_numbers),
        cmocka_unit_test(test_choices),
        cmocka_unit_test(test_guided),
        cmocka_unit_test(test_resolved),
        cmocka_unit_test(test_generator_spelling),
        cmocka_unit_test(test_unknown_generators),
        cmocka_unit_test(test_noise_of_every_generator),
        cmocka_unit_test(test_recorded_noise),
    };
    return cmocka_run_group_tests(tests, setup, NULL);
}
