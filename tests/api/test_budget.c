/* test_budget.c - a limit on memory changes nothing that is drawn, with and without guidance. Smaller precisions, in which the
 * demo model's VAE weighs most, are tried in test_cli_budget.sh. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "inkstone.h"
#include "support/golden.h"
#include "support/words.h"

enum { SIDE = 64, N_BYTES = SIDE * SIDE * 3 };

static const char demo[] = INK_TEST_SOURCE_DIR "/models/demo";

static void draw(unsigned char bytes[N_BYTES], ink_session *session, const ink_request *request) {
    ink_error error;
    ink_image *image;
    if (ink_generate(session, request, &image, &error) != INK_OK) fail_msg("%s", error.message);
    memcpy(bytes, ink_image_pixels(image), N_BYTES);
    ink_image_destroy(&image);
}

/* As little as possible and a little more, since what the process has beside a model is not the same at any two times. */
static void draw_within_least(unsigned char bytes[N_BYTES], ink_session *session, const ink_model *model, ink_request request) {
    ink_error error;
    ink_memory_plan plan;
    ink_image *image = NULL;
    ink_status status = INK_ERROR_MEMORY;
    for (int more = 1; more <= 6 && status == INK_ERROR_MEMORY; more++) {
        request.ram_budget = 0;
        assert_int_equal(ink_plan(&plan, model, &request, &error), INK_OK);
        request.ram_budget = plan.least_bytes + ((int64_t)more << 19);
        status = ink_plan(&plan, model, &request, &error);
        if (status == INK_OK) status = ink_generate(session, &request, &image, &error);
    }
    if (status != INK_OK) fail_msg("%s", error.message);
    if (plan.streamed_blocks == 0 || plan.streamed_bytes == 0 || plan.streamed_blocks > plan.blocks)
        fail_msg("%d of %d blocks come and go", (int)plan.streamed_blocks, (int)plan.blocks);
    memcpy(bytes, ink_image_pixels(image), N_BYTES);
    ink_image_destroy(&image);
}

static void check(ink_precision precision, double guidance) {
    ink_error error;
    ink_model *model;
    ink_session *session;
    ink_request request;
    unsigned char expected[N_BYTES], found[N_BYTES];
    const ink_model_options options = {.precision = precision};
    const ink_session_options two = {.threads = 2};
    if (ink_model_open(&model, demo, &options, &error) != INK_OK) fail_msg("%s", error.message);
    assert_int_equal(ink_session_create(&session, model, &two, &error), INK_OK);
    ink_request_init(&request, model);
    request.prompt = "a red circle on a blue background";
    request.negative_prompt = "green";
    request.width = request.height = SIDE;
    request.steps = 2;
    request.guidance = guidance;
    draw(expected, session, &request);
    for (int again = 0; again < 2; again++) {
        draw_within_least(found, session, model, request);
        assert_memory_equal(found, expected, N_BYTES);
    }
    ink_session_destroy(&session);
    ink_model_close(&model);
}

static void test_same_picture(void **state) {
    (void)state;
    check(INK_PRECISION_AUTO, 4);
    check(INK_PRECISION_F32, 1);
    check(INK_PRECISION_BF16, 1);
}

static void test_too_small(void **state) {
    (void)state;
    ink_error error;
    ink_model *model;
    ink_memory_plan plan;
    ink_request request;
    assert_int_equal(ink_model_open(&model, demo, NULL, &error), INK_OK);
    ink_request_init(&request, model);
    request.prompt = "a red circle";
    request.ram_budget = 1;
    assert_int_equal(ink_plan(&plan, model, &request, &error), INK_ERROR_MEMORY);
    assert_null(test_missing_word(error.message, "budget|too small|least possible"));
    request.ram_budget = -1;
    assert_int_equal(ink_request_check(&request, model, &error), INK_ERROR_ARGUMENT);
    ink_model_close(&model);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_same_picture),
        cmocka_unit_test(test_too_small),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
