/*
 * test_torture.c - a library that is denied its memory: the n-th allocation fails, for every n, and the scratch arena is smaller
 * than planned, by steps. Each time there must be a clean status, no leak (under the address sanitizer) and no file left behind.
 *
 * The pipeline's source is part of this program, so that the arena of a run can be made smaller and looked at; the rest is
 * the library's.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/arena.h"
#include "base/memory.h"

static bool create_arena(ink_arena *arena, size_t size);
static void destroy_arena(ink_arena *arena);

#define ink_arena_create create_arena
#define ink_arena_destroy destroy_arena
#include "pipeline/generate.c"
#undef ink_arena_create
#undef ink_arena_destroy

#include "support/golden.h"

/* ---- the arena of a run ------------------------------------------------------------------------------------------------ */

static struct {
    size_t missing;        /* bytes that the next arena gets less than it asks for */
    size_t asked, reached; /* of the last real arena */
    int n_runs;
} observed;

static bool create_arena(ink_arena *arena, size_t size) {
    observed.asked = size;
    observed.n_runs++;
    return ink_arena_create(arena, size - observed.missing);
}

static void destroy_arena(ink_arena *arena) {
    if (arena->memory) observed.reached = arena->peak;
    ink_arena_destroy(arena);
}

/* ---- the parts of a use of the library ----------------------------------------------------------------------------------- */

static const char small_model[] = TEST_GOLDEN "head128";

typedef struct workshop {
    ink_model_options options;
    ink_model *model;
    ink_session *session;
    char folder[TEST_PATH], dump_path[TEST_PATH];
} workshop;

static ink_request small_request(const ink_model *model, const char *dump_path) {
    ink_request request;
    ink_request_init(&request, model);
    request.prompt = "a cat";
    request.negative_prompt = "";
    request.width = 16;
    request.height = 32;
    request.steps = 2;
    request.dump_path = dump_path;
    return request;
}

static void open_workshop(workshop *w, ink_precision precision) {
    ink_error error;
    *w = (workshop){.options = {.precision = precision}};
    test_path(w->dump_path, test_folder_create(w->folder), "dump.safetensors");
    if (ink_model_open(&w->model, small_model, &w->options, &error) != INK_OK ||
        ink_session_create(&w->session, w->model, NULL, &error) != INK_OK)
        fail_msg("%s", error.message);
}

static void close_workshop(workshop *w) {
    ink_session_destroy(&w->session);
    ink_model_close(&w->model);
    test_folder_remove(w->folder);
}

static ink_status use_open(workshop *w, ink_error *error) {
    const ink_session_options session_options = {.threads = 2};
    ink_model *model;
    ink_session *session = NULL;
    ink_status status = ink_model_open(&model, small_model, &w->options, error);
    assert_true((model != NULL) == (status == INK_OK));
    if (status == INK_OK) status = ink_session_create(&session, model, &session_options, error);
    assert_true((session != NULL) == (status == INK_OK));
    ink_session_destroy(&session);
    ink_model_close(&model);
    return status;
}

static ink_status use_plan(workshop *w, ink_error *error) {
    ink_memory_plan plan;
    ink_request request = small_request(w->model, NULL);
    return ink_plan(&plan, w->model, &request, error);
}

/* The dump is there after a success, and nothing but it ever. */
static ink_status use_generate(workshop *w, ink_error *error) {
    ink_image *image;
    ink_request request = small_request(w->model, w->dump_path);
    ink_status status = ink_generate(w->session, &request, &image, error);
    assert_true((image != NULL) == (status == INK_OK));
    ink_image_destroy(&image);
    assert_int_equal(test_count_entries(w->folder), status == INK_OK);
    return status;
}

static ink_status use_verify(workshop *w, ink_error *error) {
    ink_verification *verification;
    ink_status status = ink_verify(w->session, w->dump_path, NULL, NULL, &verification, error);
    assert_true((verification != NULL) == (status == INK_OK));
    if (verification) assert_true(verification->passed);
    ink_verification_destroy(&verification);
    return status;
}

static ink_status use_inspect(workshop *w, ink_error *error) {
    (void)w;
    ink_report *report;
    ink_status status = ink_inspect(&report, small_model, NULL, error);
    assert_true((report != NULL) == (status == INK_OK));
    ink_report_destroy(&report);
    return status;
}

static ink_status use_tokenize(workshop *w, ink_error *error) {
    (void)w;
    int32_t *ids;
    size_t n_ids;
    ink_status status = ink_tokenize(small_model, "a cat", &ids, &n_ids, error);
    assert_true((ids != NULL) == (status == INK_OK));
    ink_free(ids);
    return status;
}

/* In this order: verify reads what generate has dumped. */
static const struct {
    const char *name;
    ink_status (*run)(workshop *w, ink_error *error);
} parts[] = {{"open", use_open},     {"plan", use_plan},       {"generate", use_generate},
             {"verify", use_verify}, {"inspect", use_inspect}, {"tokenize", use_tokenize}};

enum { N_PARTS = sizeof parts / sizeof *parts };

/* ---- allocations that fail ------------------------------------------------------------------------------------------------ */

static void assert_memory_status(ink_status status, const ink_error *error, const char *what, int64_t n) {
    if (status != INK_ERROR_MEMORY || error->status != INK_ERROR_MEMORY || error->message[0] == '\0')
        fail_msg("%s %lld: %s: %s", what, (long long)n, ink_status_name(status), error->message);
}

static void test_every_allocation_fails(void **state) {
    (void)state;
    for (int precision = INK_PRECISION_F32; precision <= INK_PRECISION_BF16; precision++) {
        workshop w;
        open_workshop(&w, (ink_precision)precision);
        for (int i = 0; i < N_PARTS; i++) {
            ink_status status = INK_ERROR_MEMORY;
            int64_t n = 0;
            for (; status != INK_OK; n++) {
                ink_error error;
                ink_alloc_fail_after(n);
                status = parts[i].run(&w, &error);
                ink_alloc_fail_after(-1);
                if (status != INK_OK) assert_memory_status(status, &error, parts[i].name, n);
            }
            assert_true(n > 4);
        }
        close_workshop(&w);
    }
}

/* A session that has failed for want of memory draws again, and the same. */
static void test_session_survives(void **state) {
    (void)state;
    enum { N_BYTES = 16 * 32 * 3 };
    ink_model *model;
    ink_session *session;
    ink_image *image, *first;
    ink_error error;
    assert_int_equal(ink_model_open(&model, small_model, NULL, &error), INK_OK);
    assert_int_equal(ink_session_create(&session, model, NULL, &error), INK_OK);
    ink_request request = small_request(model, NULL);
    assert_int_equal(ink_generate(session, &request, &first, &error), INK_OK);
    ink_status status = INK_ERROR_MEMORY;
    for (int64_t n = 0; status != INK_OK; n++) {
        ink_alloc_fail_after(n);
        status = ink_generate(session, &request, &image, &error);
        ink_alloc_fail_after(-1);
        if (status == INK_OK) break;
        assert_memory_status(status, &error, "allocation", n);
        assert_null(image);
        if (n % 16 != 0) continue;
        assert_int_equal(ink_generate(session, &request, &image, NULL), INK_OK);
        assert_memory_equal(ink_image_pixels(image), ink_image_pixels(first), N_BYTES);
        ink_image_destroy(&image);
    }
    assert_memory_equal(ink_image_pixels(image), ink_image_pixels(first), N_BYTES);
    ink_image_destroy(&image);
    ink_image_destroy(&first);
    ink_session_destroy(&session);
    ink_model_close(&model);
}

/* The same for the allocations of the JSON library, which now and then takes want of memory for a mistake in the text. */
static void test_json_allocations_fail(void **state) {
    (void)state;
    workshop w;
    open_workshop(&w, INK_PRECISION_BF16);
    for (int i = 0; i < N_PARTS; i++) {
        ink_status status = INK_ERROR_MEMORY;
        /* There are thousands, most of them in vocabularies: all of the first, then ever fewer. */
        for (int64_t n = 0; status != INK_OK; n += 1 + n / 50) {
            ink_error error;
            test_json_fail_after(n);
            status = parts[i].run(&w, &error);
            test_json_fail_after(-1);
            assert_int_equal(error.status, status);
            if (status != INK_OK && status != INK_ERROR_FORMAT) assert_memory_status(status, &error, parts[i].name, n);
        }
    }
    close_workshop(&w);
}

/* ---- the scratch arena --------------------------------------------------------------------------------------------------- */

static const char *const models[] = {TEST_GOLDEN "tiny", TEST_GOLDEN "published", TEST_GOLDEN "head128", TEST_GOLDEN "small-values",
                                     TEST_GOLDEN "static-shift"};

enum { N_MODELS = sizeof models / sizeof *models };

/* The dry run counts to the byte what the real one takes: with and without guidance, few and many tokens, flat and high. */
static void test_dry_peak_is_the_real_one(void **state) {
    (void)state;
    static char long_prompt[600];
    memset(long_prompt, '7', sizeof long_prompt - 1);
    static const struct {
        int64_t width, height, steps;
        const char *prompt, *negative;
    } cases[] = {{16, 16, 1, "", NULL},
                 {16, 64, 3, "a cat", " "},
                 {96, 32, 2, "a cat on a house", "不"},
                 {16, 16, 1, long_prompt, NULL},
                 {16, 16, 1, "a", long_prompt}};
    for (int m = 0; m < N_MODELS; m++)
        for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
            ink_model *model;
            ink_session *session;
            ink_image *image;
            ink_error error;
            ink_memory_plan plan;
            assert_int_equal(ink_model_open(&model, models[m], NULL, &error), INK_OK);
            assert_int_equal(ink_session_create(&session, model, NULL, &error), INK_OK);
            ink_request request = small_request(model, NULL);
            request.width = cases[i].width;
            request.height = cases[i].height;
            request.steps = cases[i].steps;
            request.prompt = cases[i].prompt;
            request.negative_prompt = cases[i].negative;
            assert_int_equal(ink_plan(&plan, model, &request, &error), INK_OK);
            assert_int_equal(ink_generate(session, &request, &image, &error), INK_OK);
            assert_int_equal(observed.asked, plan.scratch_bytes);
            assert_int_equal(observed.reached, plan.scratch_bytes);
            ink_image_destroy(&image);
            ink_session_destroy(&session);
            ink_model_close(&model);
        }
}

/* An arena that is too small by one unit, by a little, by half, by all but one unit. */
static void test_smaller_arenas(void **state) {
    (void)state;
    enum { UNIT = 64, N_SIZES = 64 };
    for (int m = 0; m < N_MODELS; m++) {
        ink_model *model;
        ink_session *session;
        ink_image *image;
        ink_error error;
        assert_int_equal(ink_model_open(&model, models[m], NULL, &error), INK_OK);
        assert_int_equal(ink_session_create(&session, model, NULL, &error), INK_OK);
        ink_request request = small_request(model, NULL);
        assert_int_equal(ink_generate(session, &request, &image, &error), INK_OK);
        ink_image_destroy(&image);
        size_t whole = observed.asked;
        for (size_t i = 0; i < N_SIZES; i++) {
            int before = observed.n_runs;
            size_t step = (whole - 2 * UNIT) / (N_SIZES - 1) / UNIT * UNIT;
            observed.missing = UNIT + i * step;
            ink_status status = ink_generate(session, &request, &image, &error);
            observed.missing = 0;
            assert_memory_status(status, &error, "size", (int64_t)i);
            assert_null(image);
            assert_int_equal(observed.n_runs, before + 1);
        }
        assert_int_equal(ink_generate(session, &request, &image, &error), INK_OK);
        ink_image_destroy(&image);
        ink_session_destroy(&session);
        ink_model_close(&model);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_allocation_fails), cmocka_unit_test(test_session_survives),
        cmocka_unit_test(test_json_allocations_fail),  cmocka_unit_test(test_dry_peak_is_the_real_one),
        cmocka_unit_test(test_smaller_arenas),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
