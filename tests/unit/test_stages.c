/* test_stages.c - keeping stages, and the file that is made of them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/memory.h"
#include "pipeline/stages.h"
#include "support/files.h"
#include "tensor/safetensors.h"

static void test_labels(void **state) {
    (void)state;
    static const char *const expected[] = {"prompt_embeds", "negative_embeds", "noise", "sigmas", "latents", "image"};
    assert_int_equal(INK_N_STAGES, sizeof expected / sizeof *expected);
    for (int i = 0; i < INK_N_STAGES; i++) assert_string_equal(ink_stage_label((ink_stage_name)i), expected[i]);
}

static void test_take_and_copy(void **state) {
    (void)state;
    ink_stages stages = {0};
    assert_true(ink_stages_take(&stages, INK_STAGE_LATENTS, 3, (const int64_t[]){2, 3, 4}));
    const ink_stage *latents = &stages.stage[INK_STAGE_LATENTS];
    assert_int_equal(latents->n_dims, 3);
    assert_true(latents->shape[0] == 2 && latents->shape[1] == 3 && latents->shape[2] == 4);
    memset(latents->data, 0, 24 * sizeof(float));

    /* A view of the middle two columns. */
    float wide[8] = {0, 1, 2, 3, 4, 5, 6, 7};
    assert_true(ink_stages_copy(&stages, INK_STAGE_NOISE, ink_cols(ink_view(wide, 2, 4), 1, 2)));
    const ink_stage *noise = &stages.stage[INK_STAGE_NOISE];
    assert_true(noise->n_dims == 2 && noise->shape[0] == 2 && noise->shape[1] == 2);
    assert_memory_equal(noise->data, ((const float[]){1, 2, 5, 6}), 4 * sizeof(float));
    ink_stages_release(&stages);
    assert_null(stages.stage[INK_STAGE_NOISE].data);
    ink_stages_release(&stages);
}

static void test_no_room(void **state) {
    (void)state;
    ink_stages stages = {0};
    assert_false(ink_stages_take(&stages, INK_STAGE_IMAGE, 3, (const int64_t[]){INT64_MAX / 8, 3, 1}));
    ink_alloc_fail_after(0);
    float x = 1;
    assert_false(ink_stages_take(&stages, INK_STAGE_SIGMAS, 1, (const int64_t[]){5}));
    assert_false(ink_stages_copy(&stages, INK_STAGE_NOISE, ink_view(&x, 1, 1)));
    ink_alloc_fail_after(-1);
    ink_stages_release(&stages);
}

static ink_stages small_stages(void) {
    ink_stages stages = {0};
    float x[6] = {1, 2, 3, 4, 5, 6};
    assert_true(ink_stages_copy(&stages, INK_STAGE_PROMPT_EMBEDS, ink_view(x, 2, 3)));
    assert_true(ink_stages_take(&stages, INK_STAGE_SIGMAS, 1, (const int64_t[]){2}));
    stages.stage[INK_STAGE_SIGMAS].data[0] = 1;
    stages.stage[INK_STAGE_SIGMAS].data[1] = 0;
    return stages;
}

static const ink_request odd_request = {.prompt = "a \"quoted\" \xe7\x8c\xab\n",
                                        .negative_prompt = " ",
                                        .width = 16,
                                        .height = 32,
                                        .steps = 1,
                                        .guidance = 4.1,
                                        .seed = UINT64_MAX,
                                        .rng = INK_RNG_TORCH_CUDA,
                                        .cuda_sms = 128,
                                        .cuda_threads_per_sm = 1536,
                                        .noise_dtype = INK_NOISE_BF16};

static void assert_metadata(const ink_safetensors *file, const char *const *pairs) {
    for (; *pairs; pairs += 2) {
        const char *value = ink_safetensors_metadata(file, pairs[0]);
        if (!value || strcmp(value, pairs[1]) != 0)
            fail_msg("%s is \"%s\", expected \"%s\"", pairs[0], value ? value : "nothing", pairs[1]);
    }
}

static void test_file(void **state) {
    (void)state;
    static const char *const guided[] = {"prompt",
                                         "a \"quoted\" \xe7\x8c\xab\n",
                                         "negative_prompt",
                                         " ",
                                         "steps",
                                         "1",
                                         "cfg",
                                         "4.0999999999999996",
                                         "width",
                                         "16",
                                         "height",
                                         "32",
                                         "seed",
                                         "18446744073709551615",
                                         "rng",
                                         "torch-cuda:128x1536",
                                         "noise_dtype",
                                         "bf16",
                                         NULL};
    static const char *const plain[] = {"negative_prompt", "", "cfg", "1", "noise_dtype", "f32", "rng", "torch-cpu-2.13", NULL};
    char folder[TEST_PATH], path[TEST_PATH];
    test_path(path, test_folder_create(folder), "dump.safetensors");
    ink_stages stages = small_stages();
    for (int i = 0; i < 2; i++) {
        ink_error error;
        ink_safetensors file;
        ink_request request = odd_request;
        if (i == 1) {
            request.noise_dtype = INK_NOISE_F32;
            request.rng = INK_RNG_TORCH_CPU_2_13;
        }
        if (ink_stages_write(&stages, path, &request, i == 0, &error) != INK_OK) fail_msg("%s", error.message);
        if (ink_safetensors_open(&file, path, &error) != INK_OK) fail_msg("%s", error.message);
        assert_int_equal(file.n_tensors, 2);
        const ink_tensor_info *info = ink_safetensors_find(&file, "prompt_embeds");
        assert_true(info && info->n_dims == 2 && info->shape[0] == 2 && info->shape[1] == 3 && info->dtype == INK_F32);
        assert_memory_equal(info->data, stages.stage[INK_STAGE_PROMPT_EMBEDS].data, 6 * sizeof(float));
        info = ink_safetensors_find(&file, "sigmas");
        assert_true(info && info->n_dims == 1 && info->shape[0] == 2);
        assert_metadata(&file, i == 0 ? guided : plain);
        ink_safetensors_close(&file);
    }
    ink_stages_release(&stages);
    test_folder_remove(folder);
}

static void test_writing_fails(void **state) {
    (void)state;
    char folder[TEST_PATH], path[TEST_PATH];
    ink_error error;
    ink_stages stages = small_stages();
    test_path(path, test_folder_create(folder), "none/dump.safetensors");
    assert_int_equal(ink_stages_write(&stages, path, &odd_request, true, &error), INK_ERROR_IO);
    assert_non_null(strstr(error.message, path));
    assert_int_equal(ink_stages_write(&stages, path, &odd_request, true, NULL), INK_ERROR_IO);

    test_path(path, folder, "dump.safetensors");
    ink_status status = INK_ERROR_MEMORY;
    for (int64_t n = 0; status != INK_OK; n++) {
        ink_alloc_fail_after(n);
        status = ink_stages_write(&stages, path, &odd_request, true, &error);
        ink_alloc_fail_after(-1);
        assert_true(status == INK_OK || status == INK_ERROR_MEMORY);
        assert_int_equal(test_count_entries(folder), status == INK_OK);
    }
    remove(path);
    status = INK_ERROR_MEMORY;
    for (int64_t n = 0; status != INK_OK; n++) {
        test_json_fail_after(n);
        status = ink_stages_write(&stages, path, &odd_request, true, &error);
        test_json_fail_after(-1);
        assert_true(status == INK_OK || status == INK_ERROR_MEMORY);
        assert_int_equal(test_count_entries(folder), status == INK_OK);
    }
    ink_stages_release(&stages);
    test_folder_remove(folder);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_labels), cmocka_unit_test(test_take_and_copy), cmocka_unit_test(test_no_room),
        cmocka_unit_test(test_file),   cmocka_unit_test(test_writing_fails),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
