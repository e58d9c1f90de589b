/* test_api.c - the public interface alone: what it gives, what it refuses and how it says so, threads and cancellation. */
#include <jansson.h>
#include <math.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <threads.h>
#include <time.h>

#include <cmocka.h>

#include "inkstone.h"
#include "support/doctor.h"
#include "support/golden.h"
#include "support/words.h"

enum { WIDTH = 48, HEIGHT = 32, STEPS = 3, N_BYTES = WIDTH * HEIGHT * 3 };

static const char tiny[] = TEST_GOLDEN "tiny";
static const char *const models[] = {TEST_GOLDEN "tiny", TEST_GOLDEN "published", TEST_GOLDEN "head128", TEST_GOLDEN "small-values",
                                     TEST_GOLDEN "static-shift"};

enum { N_MODELS = sizeof models / sizeof *models };

/* ---- helpers ------------------------------------------------------------------------------------------------------- */

static void assert_ok(ink_status status, const ink_error *error) {
    if (status != INK_OK) fail_msg("%s: %s", ink_status_name(status), error->message);
    assert_int_equal(error->status, INK_OK);
    assert_string_equal(error->message, "");
}

static void assert_failed(ink_status status, const ink_error *error, ink_status expected, const char *words) {
    if (status != expected) fail_msg("%s, expected %s: %s", ink_status_name(status), ink_status_name(expected), error->message);
    assert_int_equal(error->status, status);
    const char *missing = test_missing_word(error->message, words);
    if (missing) fail_msg("\"%s\" is not in: %s", missing, error->message);
    size_t n = strlen(error->message);
    assert_true(n > 0 && n < sizeof error->message - 1 && error->message[n - 1] != '\n');
}

static ink_model *open_model(const char *dir) {
    ink_error error;
    ink_model *model;
    assert_ok(ink_model_open(&model, dir, NULL, &error), &error);
    return model;
}

static ink_session *create_session(ink_model *model, int64_t threads) {
    ink_error error;
    ink_session *session;
    const ink_session_options options = {.threads = threads};
    assert_ok(ink_session_create(&session, model, &options, &error), &error);
    return session;
}

static ink_request small_request(const ink_model *model) {
    ink_request request;
    ink_request_init(&request, model);
    request.prompt = "a red circle";
    request.negative_prompt = " ";
    request.width = WIDTH;
    request.height = HEIGHT;
    request.steps = STEPS;
    request.seed = 7;
    return request;
}

/* The picture's bytes, N_BYTES of them. */
static void draw(unsigned char bytes[N_BYTES], ink_session *session, const ink_request *request) {
    ink_error error;
    ink_image *image;
    assert_ok(ink_generate(session, request, &image, &error), &error);
    assert_int_equal(ink_image_width(image), WIDTH);
    assert_int_equal(ink_image_height(image), HEIGHT);
    memcpy(bytes, ink_image_pixels(image), N_BYTES);
    ink_image_destroy(&image);
    assert_null(image);
}

static void draw_alone(unsigned char bytes[N_BYTES], const char *dir, int64_t threads) {
    ink_model *model = open_model(dir);
    ink_session *session = create_session(model, threads);
    ink_request request = small_request(model);
    draw(bytes, session, &request);
    ink_session_destroy(&session);
    ink_model_close(&model);
}

static double seconds(void) {
    struct timespec now;
    timespec_get(&now, TIME_UTC);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

/* One model and one session for the tests that need no other. */
typedef struct studio {
    ink_model *model;
    ink_session *session;
} studio;

static int open_studio(void **state) {
    static studio s;
    s.model = open_model(tiny);
    s.session = create_session(s.model, 2);
    *state = &s;
    return 0;
}

static int close_studio(void **state) {
    studio *s = *state;
    ink_session_destroy(&s->session);
    ink_model_close(&s->model);
    return 0;
}

/* ---- small things -------------------------------------------------------------------------------------------------- */

static void test_names(void **state) {
    (void)state;
    char version[32];
    snprintf(version, sizeof version, "%d.%d.%d", INK_VERSION_MAJOR, INK_VERSION_MINOR, INK_VERSION_PATCH);
    assert_string_equal(ink_version(), version);
    for (int i = INK_OK; i <= INK_ERROR_INTERNAL; i++)
        for (int j = INK_OK; j < i; j++) assert_string_not_equal(ink_status_name((ink_status)i), ink_status_name((ink_status)j));
    assert_string_equal(ink_status_name((ink_status)99), "unknown");
    int n = 0;
    for (const ink_env_var *v = ink_env_vars(); v->name; v++, n++) {
        assert_int_equal(strncmp(v->name, "INK_", 4), 0);
        assert_true(strlen(v->values) > 0 && strlen(v->help) > 0);
    }
    assert_true(n > 0);
}

static void test_null_handles(void **state) {
    (void)state;
    ink_model *model = NULL;
    ink_session *session = NULL;
    ink_image *image = NULL;
    ink_report *report = NULL;
    ink_verification *verification = NULL;
    ink_model_close(&model);
    ink_session_destroy(&session);
    ink_image_destroy(&image);
    ink_report_destroy(&report);
    ink_verification_destroy(&verification);
    ink_free(NULL);
}

static void test_defaults(void **state) {
    const studio *s = *state;
    ink_request request;
    memset(&request, 0xff, sizeof request);
    ink_request_init(&request, s->model);
    assert_null(request.prompt);
    assert_null(request.negative_prompt);
    assert_true(request.width == 1024 && request.height == 1024 && request.steps == 50 && request.guidance == 4);
    assert_true(request.seed == 0 && request.rng == INK_RNG_TORCH_CPU && request.noise_dtype == INK_NOISE_AUTO);
    assert_true(!request.dump_path && !request.progress);
    request.prompt = "";
    ink_error error;
    assert_ok(ink_request_check(&request, s->model, &error), &error);
}

static void test_precisions(void **state) {
    (void)state;
    static const struct {
        int model;
        ink_precision asked;
        const char *got;
    } cases[] = {{0, INK_PRECISION_AUTO, "f32"}, {1, INK_PRECISION_AUTO, "bf16"}, {0, INK_PRECISION_BF16, "bf16"},
                 {0, INK_PRECISION_F32, "f32"},  {1, INK_PRECISION_F32, "f32"},   {1, INK_PRECISION_BF16, "bf16"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        ink_error error;
        ink_model *model;
        const ink_model_options options = {.precision = cases[i].asked};
        assert_ok(ink_model_open(&model, models[cases[i].model], &options, &error), &error);
        assert_string_equal(ink_model_precision(model), cases[i].got);
        ink_model_close(&model);
        assert_null(model);
    }
}

/* A tokenizer that is shared is not read, and stays until the last of its models is closed. */
static void test_same_tokenizer(void **state) {
    (void)state;
    ink_error error;
    ink_model *first, *second, *third;
    assert_ok(ink_model_open(&first, models[0], NULL, &error), &error);
    ink_model_options options = {.precision = INK_PRECISION_BF16, .tokenizer_dir = "/nowhere"};
    assert_int_equal(ink_model_open(&second, models[0], &options, &error), INK_ERROR_IO);
    options.same_tokenizer = first;
    assert_ok(ink_model_open(&second, models[0], &options, &error), &error);
    options.same_tokenizer = second;
    assert_ok(ink_model_open(&third, models[0], &options, &error), &error);
    ink_request request;
    ink_memory_plan expected, found;
    ink_request_init(&request, first);
    request.prompt = "a red circle";
    assert_ok(ink_plan(&expected, first, &request, &error), &error);
    ink_model_close(&first);
    ink_model_close(&third);
    assert_ok(ink_plan(&found, second, &request, &error), &error);
    assert_string_equal(ink_model_precision(second), "bf16");
    assert_true(expected.prompt_tokens > 0);
    assert_int_equal(found.prompt_tokens, expected.prompt_tokens);
    ink_model_close(&second);
}

/* What is to get ready while files are read need not be there, nor be anything. */
static void test_backend_ahead(void **state) {
    (void)state;
    static const char *const backends[] = {"auto", "cpu", "cuda", "cuda:9", "cuda:x", "", "steam"};
    for (size_t i = 0; i < sizeof backends / sizeof *backends; i++) {
        ink_error error;
        ink_model *model;
        const ink_model_options options = {.backend = backends[i]};
        assert_ok(ink_model_open(&model, models[0], &options, &error), &error);
        ink_model_close(&model);
        assert_int_equal(ink_model_open(&model, "/nowhere", &options, &error), INK_ERROR_IO);
        assert_null(model);
    }
}

/* ---- misuse --------------------------------------------------------------------------------------------------------- */

static void assert_no_model(const char *dir, const ink_model_options *options, ink_status expected, const char *words) {
    ink_error error;
    ink_model *model = (ink_model *)(uintptr_t)8;
    assert_failed(ink_model_open(&model, dir, options, &error), &error, expected, words);
    assert_null(model);
    assert_int_equal(ink_model_open(&model, dir, options, NULL), expected);
    assert_null(model);
}

static void test_folders_that_are_no_models(void **state) {
    (void)state;
    char folder[TEST_PATH], path[TEST_PATH];
    test_folder_create(folder);
    assert_no_model(NULL, NULL, INK_ERROR_ARGUMENT, "no model folder");
    assert_no_model(test_path(path, folder, "none"), NULL, INK_ERROR_IO, "none|no such");
    assert_no_model(folder, NULL, INK_ERROR_IO, "model_index.json");
    assert_no_model(TEST_GOLDEN "tiny/model_index.json", NULL, INK_ERROR_IO, "tiny/model_index.json");
    assert_no_model("", NULL, INK_ERROR_IO, "no such folder");
    test_write_text(folder, "model_index.json", "{\"_class_name\": \"FluxPipeline\"}");
    assert_no_model(folder, NULL, INK_ERROR_UNSUPPORTED, "FluxPipeline");
    test_write_text(folder, "model_index.json", "{\"_class_name\": ");
    assert_no_model(folder, NULL, INK_ERROR_FORMAT, "model_index.json|JSON");
    static const int bad_precisions[] = {-1, 99};
    for (int i = 0; i < 2; i++) {
        const ink_model_options options = {.precision = (ink_precision)bad_precisions[i]};
        assert_no_model(tiny, &options, INK_ERROR_ARGUMENT, "precision|inkstone.h");
    }
    test_folder_remove(folder);
}

static void test_sessions_that_cannot_be(void **state) {
    const studio *s = *state;
    static const struct {
        ink_session_options options;
        const char *words;
    } cases[] = {{{.threads = -1}, "-1 threads|1 to 1024"},
                 {{.threads = 5000}, "5000 threads|1 to 1024"},
                 {{.threads = INT64_MAX}, "threads"},
                 {{.threads = INT64_MIN}, "threads"},
                 {{.threads = 1, .cpu = "sse9"}, "sse9|no such tier|auto, ref, c"},
                 {{.threads = 1, .cpu = ""}, "no such tier|auto, ref, c"},
                 {{.threads = 1, .cpu = "REF"}, "REF|auto, ref, c"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        ink_error error;
        ink_session *session = (ink_session *)(uintptr_t)8;
        assert_failed(ink_session_create(&session, s->model, &cases[i].options, &error), &error, INK_ERROR_ARGUMENT,
                      cases[i].words);
        assert_null(session);
        assert_int_equal(ink_session_create(&session, s->model, &cases[i].options, NULL), INK_ERROR_ARGUMENT);
        assert_null(session);
    }
}

static void test_sessions(void **state) {
    const studio *s = *state;
    static const char *const names[] = {NULL, "auto", "ref", "c"};
    for (int i = 0; i < 4; i++) {
        ink_error error;
        ink_session *session;
        ink_stats stats;
        const ink_session_options options = {.threads = i, .cpu = names[i]};
        assert_ok(ink_session_create(&session, s->model, &options, &error), &error);
        ink_session_stats(&stats, session);
        assert_true(i == 0 ? stats.threads >= 1 : stats.threads == i);
        if (i >= 2)
            assert_string_equal(stats.cpu, names[i]);
        else
            assert_non_null(stats.cpu);
        assert_true(stats.total_seconds == 0 && stats.peak_bytes == 0);
        ink_session_destroy(&session);
    }
}

static void test_requests_that_make_no_sense(void **state) {
    const studio *s = *state;
    static const struct {
        const char *words;
        int64_t width, height, steps;
        double guidance;
        int rng, noise_dtype;
        int64_t sms;
    } cases[] = {{"width 0|16 to 16384", 0, 32, 1, 1, 0, 0, 132},
                 {"height 500|496|512", 32, 500, 1, 1, 0, 0, 132},
                 {"width -16|out of range", -16, 32, 1, 1, 0, 0, 132},
                 {"height 1099511627776|out of range", 32, INT64_C(1) << 40, 1, 1, 0, 0, 132},
                 {"0 steps|1 to 10000", 32, 32, 0, 1, 0, 0, 132},
                 {"-5 steps|1 to 10000", 32, 32, -5, 1, 0, 0, 132},
                 {"guidance|nan|1000", 32, 32, 1, NAN, 0, 0, 132},
                 {"guidance|inf|1000", 32, 32, 1, INFINITY, 0, 0, 132},
                 {"generator 3", 32, 32, 1, 1, 3, 0, 132},
                 {"generator -1", 32, 32, 1, 1, -1, 0, 132},
                 {"noise type 3", 32, 32, 1, 1, 0, 3, 132},
                 {"0 multiprocessors|1 to 4096", 32, 32, 1, 1, 2, 0, 0}};
    for (size_t i = 0; i <= sizeof cases / sizeof *cases; i++) {
        ink_error error;
        ink_memory_plan plan;
        ink_image *image = (ink_image *)(uintptr_t)8;
        ink_request request = small_request(s->model);
        const char *words = "no prompt";
        if (i < sizeof cases / sizeof *cases) {
            words = cases[i].words;
            request.width = cases[i].width;
            request.height = cases[i].height;
            request.steps = cases[i].steps;
            request.guidance = cases[i].guidance;
            request.rng = (ink_rng)cases[i].rng;
            request.noise_dtype = (ink_noise_dtype)cases[i].noise_dtype;
            request.cuda_sms = cases[i].sms;
        } else {
            request.prompt = NULL;
        }
        assert_failed(ink_request_check(&request, s->model, &error), &error, INK_ERROR_ARGUMENT, words);
        assert_failed(ink_plan(&plan, s->model, &request, &error), &error, INK_ERROR_ARGUMENT, words);
        assert_failed(ink_generate(s->session, &request, &image, &error), &error, INK_ERROR_ARGUMENT, words);
        assert_null(image);
        assert_int_equal(ink_generate(s->session, &request, &image, NULL), INK_ERROR_ARGUMENT);
        assert_int_equal(ink_plan(&plan, s->model, &request, NULL), INK_ERROR_ARGUMENT);
    }
}

static void test_prompts_that_are_no_text(void **state) {
    const studio *s = *state;
    ink_error error;
    ink_image *image;
    ink_request request = small_request(s->model);
    request.prompt = "caf\xe9";
    assert_failed(ink_generate(s->session, &request, &image, &error), &error, INK_ERROR_ARGUMENT, "the prompt|UTF-8|3");
    request = small_request(s->model);
    request.negative_prompt = "\xff";
    assert_failed(ink_generate(s->session, &request, &image, &error), &error, INK_ERROR_ARGUMENT, "the negative prompt|UTF-8");
    assert_null(image);
}

/* More than the machine has: refused before anything is loaded. */
static void test_more_than_there_is(void **state) {
    const studio *s = *state;
    ink_error error;
    ink_image *image;
    ink_memory_plan plan;
    ink_request request = small_request(s->model);
    request.width = request.height = 16384;
    request.steps = 10000;
    assert_ok(ink_plan(&plan, s->model, &request, &error), &error);
    assert_true(plan.peak_bytes > INT64_C(1) << 30);
    if (plan.available_bytes == 0 || plan.available_bytes >= plan.peak_bytes) skip();
    assert_failed(ink_generate(s->session, &request, &image, &error), &error, INK_ERROR_MEMORY, "GiB|smaller picture");
    assert_null(image);
}

/* ---- pictures ------------------------------------------------------------------------------------------------------- */

static void test_threads_change_nothing(void **state) {
    (void)state;
    static const int64_t threads[] = {2, 3, 5};
    static unsigned char first[N_BYTES], other[N_BYTES];
    for (int m = 0; m < N_MODELS; m++) {
        draw_alone(first, models[m], 1);
        for (int t = 0; t < 3; t++) {
            draw_alone(other, models[m], threads[t]);
            assert_memory_equal(other, first, N_BYTES);
        }
    }
}

static void test_seeds(void **state) {
    const studio *s = *state;
    static unsigned char first[N_BYTES], again[N_BYTES], other[N_BYTES];
    ink_request request = small_request(s->model);
    draw(first, s->session, &request);
    draw(again, s->session, &request);
    assert_memory_equal(again, first, N_BYTES);
    request.seed = 8;
    draw(other, s->session, &request);
    assert_memory_not_equal(other, first, N_BYTES);
    /* torch keeps 32 bits of a CPU generator's seed. */
    request.seed = (UINT64_C(1) << 32) + 7;
    draw(again, s->session, &request);
    assert_memory_equal(again, first, N_BYTES);
    request.rng = INK_RNG_TORCH_CUDA;
    draw(other, s->session, &request);
    assert_memory_not_equal(other, first, N_BYTES);
}

static void test_strings_are_borrowed_for_the_call(void **state) {
    const studio *s = *state;
    static unsigned char first[N_BYTES], other[N_BYTES];
    ink_request request = small_request(s->model);
    draw(first, s->session, &request);
    char prompt[] = "a red circle", negative[] = " ";
    request.prompt = prompt;
    request.negative_prompt = negative;
    draw(other, s->session, &request);
    assert_memory_equal(other, first, N_BYTES);
    memset(prompt, 'x', sizeof prompt - 1);
    draw(other, s->session, &request);
    assert_memory_not_equal(other, first, N_BYTES);
}

static void test_plan_is_what_runs(void **state) {
    (void)state;
    static const int64_t sides[][2] = {{16, 16}, {48, 32}, {64, 96}};
    for (int m = 0; m < N_MODELS; m++)
        for (int precision = INK_PRECISION_F32; precision <= INK_PRECISION_BF16; precision++) {
            ink_error error;
            ink_model *model;
            const ink_model_options options = {.precision = (ink_precision)precision};
            assert_ok(ink_model_open(&model, models[m], &options, &error), &error);
            ink_session *session = create_session(model, 2);
            int64_t before = 0;
            for (int i = 0; i < 3; i++) {
                ink_memory_plan plan;
                ink_stats stats;
                ink_image *image;
                ink_request request = small_request(model);
                request.width = sides[i][0];
                request.height = sides[i][1];
                request.steps = 1;
                assert_ok(ink_plan(&plan, model, &request, &error), &error);
                assert_ok(ink_generate(session, &request, &image, &error), &error);
                ink_session_stats(&stats, session);
                assert_int_equal(plan.peak_bytes, stats.peak_bytes);
                assert_int_equal(plan.peak_bytes, plan.weight_bytes + plan.scratch_bytes);
                assert_true(plan.scratch_bytes > before && plan.mapped_bytes >= 0 && plan.weight_bytes >= 0);
                before = plan.scratch_bytes;
                assert_int_equal(stats.threads, 2);
                double sum = 0;
                for (int p = 0; p < INK_N_PHASES; p++) {
                    assert_true(stats.phase_seconds[p] >= 0);
                    sum += stats.phase_seconds[p];
                }
                assert_true(sum > 0 && stats.total_seconds >= sum);
                ink_image_destroy(&image);
            }
            ink_session_destroy(&session);
            ink_model_close(&model);
        }
}

/* One step, where the schedule of the reference is not defined. */
static void test_one_step(void **state) {
    const studio *s = *state;
    char folder[TEST_PATH], path[TEST_PATH];
    static unsigned char bytes[N_BYTES];
    ink_error error;
    ink_verification *v;
    ink_request request = small_request(s->model);
    request.steps = 1;
    request.dump_path = test_path(path, test_folder_create(folder), "one.safetensors");
    draw(bytes, s->session, &request);
    /* NaN is equal to nothing: a dump that verifies has none. */
    assert_ok(ink_verify(s->session, path, NULL, NULL, &v, &error), &error);
    assert_true(v->passed);
    ink_verification_destroy(&v);
    test_folder_remove(folder);
}

/* ---- guidance ------------------------------------------------------------------------------------------------------- */

static bool has_row(const ink_verification *v, const char *name) {
    for (size_t i = 0; i < v->n_rows; i++)
        if (strcmp(v->rows[i].stage, name) == 0) return true;
    return false;
}

/* Guidance needs a scale above 1 and a negative prompt; an empty one counts. */
static void test_guidance(void **state) {
    const studio *s = *state;
    static const struct {
        double guidance;
        const char *negative;
        bool guided;
    } cases[] = {{1, NULL, false}, {4, NULL, false}, {1, " ", false}, {0.5, " ", false},
                 {-3, " ", false}, {4, "", true},    {4, " ", true},  {1.5, " ", true}};
    static unsigned char plain[N_BYTES], bytes[N_BYTES];
    char folder[TEST_PATH], path[TEST_PATH];
    test_path(path, test_folder_create(folder), "dump.safetensors");
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        ink_error error;
        ink_verification *v;
        ink_request request = small_request(s->model);
        request.guidance = cases[i].guidance;
        request.negative_prompt = cases[i].negative;
        request.dump_path = path;
        draw(bytes, s->session, &request);
        if (i == 0) memcpy(plain, bytes, N_BYTES);
        if ((memcmp(bytes, plain, N_BYTES) != 0) != cases[i].guided) fail_msg("case %d", (int)i);
        assert_ok(ink_verify(s->session, path, NULL, NULL, &v, &error), &error);
        assert_true(v->passed && has_row(v, "negative_embeds") == cases[i].guided);
        ink_verification_destroy(&v);
    }
    test_folder_remove(folder);
}

/* ---- dumps ---------------------------------------------------------------------------------------------------------- */

static void test_dump_verifies(void **state) {
    (void)state;
    char folder[TEST_PATH], path[TEST_PATH];
    test_path(path, test_folder_create(folder), "dump.safetensors");
    for (int m = 0; m < N_MODELS; m++) {
        ink_error error;
        ink_verification *v;
        static unsigned char bytes[N_BYTES];
        ink_model *model = open_model(models[m]);
        ink_session *session = create_session(model, 2), *single;
        ink_request request = small_request(model);
        request.prompt = "\"quotes\", {braces} and \xe7\x8c\xab\n";
        request.seed = UINT64_MAX;
        request.guidance = 1.0000001;
        request.rng = m % 2 ? INK_RNG_TORCH_CPU_2_13 : INK_RNG_TORCH_CUDA;
        request.cuda_sms = 1;
        request.cuda_threads_per_sm = 256;
        request.dump_path = path;
        draw(bytes, session, &request);
        assert_int_equal(test_count_entries(folder), 1);
        assert_ok(ink_verify(session, path, NULL, NULL, &v, &error), &error);
        assert_int_equal(v->n_rows, 6);
        for (size_t i = 0; i < v->n_rows; i++) {
            assert_true(v->rows[i].passed && v->rows[i].max_error == 0);
            assert_true(v->rows[i].shape[0] > 0 && strlen(v->rows[i].limit) > 0 && v->rows[i].note[0] == '\0');
        }
        assert_true(v->passed && v->rows[5].psnr == INFINITY);
        ink_verification_destroy(&v);
        /* Another tier sums in another order. */
        const ink_session_options options = {.threads = 1, .cpu = "c"};
        assert_ok(ink_session_create(&single, model, &options, &error), &error);
        assert_ok(ink_verify(single, path, NULL, NULL, &v, NULL), &error);
        assert_true(v->passed);
        ink_verification_destroy(&v);
        ink_session_destroy(&single);
        ink_session_destroy(&session);
        ink_model_close(&model);
    }
    test_folder_remove(folder);
}

static int count_calls(void *user, const ink_progress *progress) {
    (void)progress;
    ++*(int *)user;
    return 0;
}

/* A dump that cannot be written is found before the work, not after it. */
static void test_dump_that_cannot_be_written(void **state) {
    const studio *s = *state;
    char folder[TEST_PATH], missing[TEST_PATH];
    test_path(missing, test_folder_create(folder), "none/dump.safetensors");
    const char *const paths[] = {missing, folder, "", "/dev/null"};
    for (int i = 0; i < 4; i++) {
        ink_error error;
        ink_image *image = (ink_image *)(uintptr_t)8;
        int n_calls = 0;
        ink_request request = small_request(s->model);
        request.dump_path = paths[i];
        request.progress = count_calls;
        request.progress_user = &n_calls;
        assert_failed(ink_generate(s->session, &request, &image, &error), &error, INK_ERROR_IO, paths[i]);
        assert_null(image);
        assert_int_equal(n_calls, 0);
    }
    assert_int_equal(test_count_entries(folder), 0);
    test_folder_remove(folder);
}

/* ---- progress and cancellation --------------------------------------------------------------------------------------- */

typedef struct watch {
    ink_progress last[INK_N_PHASES];
    int n_calls;
    int cancel_at; /* the call that cancels, counted from 1; 0: never */
    int phase;     /* the furthest, but for LOAD, which comes back */
} watch;

static int follow(void *user, const ink_progress *progress) {
    watch *w = user;
    assert_true(progress->phase >= 0 && progress->phase < INK_N_PHASES);
    assert_true(progress->done >= 0 && progress->done <= progress->total && progress->total > 0);
    assert_true(progress->phase_seconds >= 0);
    if (progress->phase != INK_PHASE_LOAD) {
        assert_true((int)progress->phase >= w->phase);
        w->phase = (int)progress->phase;
        assert_true(progress->done >= w->last[progress->phase].done);
    }
    w->last[progress->phase] = *progress;
    return ++w->n_calls == w->cancel_at;
}

static void test_progress(void **state) {
    const studio *s = *state;
    static const int64_t totals[INK_N_PHASES] = {0, 1, 1, STEPS, 1};
    static unsigned char bytes[N_BYTES];
    watch w = {0};
    ink_request request = small_request(s->model);
    request.progress = follow;
    request.progress_user = &w;
    draw(bytes, s->session, &request);
    for (int p = INK_PHASE_TEXT; p < INK_N_PHASES; p++) {
        assert_int_equal(w.last[p].done, totals[p]);
        assert_int_equal(w.last[p].total, totals[p]);
    }
}

/* At each of its calls in turn; afterwards the session draws as before. */
static void test_cancel_from_the_callback(void **state) {
    const studio *s = *state;
    static unsigned char first[N_BYTES], again[N_BYTES];
    char folder[TEST_PATH], path[TEST_PATH];
    test_path(path, test_folder_create(folder), "dump.safetensors");
    ink_request plain = small_request(s->model);
    draw(first, s->session, &plain);
    for (int n = 1;; n += n < 5 ? 1 : 13) {
        ink_error error;
        ink_image *image = (ink_image *)(uintptr_t)8;
        watch w = {.cancel_at = n};
        ink_request request = plain;
        request.dump_path = path;
        request.progress = follow;
        request.progress_user = &w;
        ink_status status = ink_generate(s->session, &request, &image, &error);
        if (status == INK_OK) {
            assert_true(w.n_calls < n);
            ink_image_destroy(&image);
            break;
        }
        assert_failed(status, &error, INK_ERROR_CANCELLED, "cancelled");
        assert_null(image);
        assert_int_equal(w.n_calls, n);
        assert_int_equal(test_count_entries(folder), 0);
    }
    draw(again, s->session, &plain);
    assert_memory_equal(again, first, N_BYTES);
    test_folder_remove(folder);
}

/* A signal may come before ink_generate has begun: it is not lost, and ends one run alone. */
static void test_cancel_before_the_run(void **state) {
    const studio *s = *state;
    static unsigned char bytes[N_BYTES];
    ink_error error;
    ink_image *image;
    ink_request request = small_request(s->model);
    ink_session_cancel(s->session);
    assert_failed(ink_generate(s->session, &request, &image, &error), &error, INK_ERROR_CANCELLED, "cancelled");
    assert_null(image);
    draw(bytes, s->session, &request);
}

static void test_cancel_verify(void **state) {
    const studio *s = *state;
    ink_error error;
    watch w = {.cancel_at = 3};
    ink_verification *v = (ink_verification *)(uintptr_t)8;
    const char path[] = TEST_GOLDEN "tiny/ref_plain.safetensors";
    assert_failed(ink_verify(s->session, path, follow, &w, &v, &error), &error, INK_ERROR_CANCELLED, "cancelled");
    assert_null(v);
    assert_ok(ink_verify(s->session, path, NULL, NULL, &v, &error), &error);
    assert_true(v->passed);
    ink_verification_destroy(&v);
    assert_failed(ink_verify(s->session, NULL, NULL, NULL, &v, &error), &error, INK_ERROR_ARGUMENT, "no reference");
    assert_null(v);
}

enum { MANY_STEPS = 10000 };

typedef struct long_run {
    ink_session *session;
    ink_request request;
    atomic_int step;
    ink_status status;
    ink_error error;
    ink_image *image;
} long_run;

static int publish_step(void *user, const ink_progress *progress) {
    long_run *run = user;
    if (progress->phase == INK_PHASE_DENOISE) atomic_store(&run->step, (int)progress->done);
    return 0;
}

static void *run_long(void *argument) {
    long_run *run = argument;
    run->status = ink_generate(run->session, &run->request, &run->image, &run->error);
    return NULL;
}

static void test_cancel_from_another_thread(void **state) {
    const studio *s = *state;
    static unsigned char first[N_BYTES], again[N_BYTES];
    ink_request plain = small_request(s->model);
    draw(first, s->session, &plain);
    static long_run run;
    run = (long_run){.session = s->session, .request = plain};
    run.request.steps = MANY_STEPS;
    run.request.progress = publish_step;
    run.request.progress_user = &run;
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, run_long, &run), 0);
    while (atomic_load(&run.step) == 0) {
        const struct timespec pause = {.tv_nsec = 1000000};
        thrd_sleep(&pause, NULL);
    }
    double began = seconds();
    ink_session_cancel(s->session);
    assert_int_equal(pthread_join(thread, NULL), 0);
    assert_true(seconds() - began < 5);
    assert_failed(run.status, &run.error, INK_ERROR_CANCELLED, "cancelled");
    assert_null(run.image);
    assert_true(atomic_load(&run.step) < MANY_STEPS);
    draw(again, s->session, &plain);
    assert_memory_equal(again, first, N_BYTES);
}

/* ---- two at once ---------------------------------------------------------------------------------------------------- */

typedef struct painter {
    ink_model *model;
    uint64_t seed;
    unsigned char bytes[N_BYTES];
} painter;

/* No cmocka in here: it is of one thread. */
static void *paint(void *argument) {
    painter *p = argument;
    ink_session *session = NULL;
    const ink_session_options options = {.threads = 2};
    if (ink_session_create(&session, p->model, &options, NULL) != INK_OK) return NULL;
    ink_request request = small_request(p->model);
    request.seed = p->seed;
    for (int i = 0; i < 3; i++) {
        ink_image *image = NULL;
        if (ink_generate(session, &request, &image, NULL) == INK_OK) memcpy(p->bytes, ink_image_pixels(image), N_BYTES);
        ink_image_destroy(&image);
    }
    ink_session_destroy(&session);
    return p;
}

static void test_two_sessions_at_once(void **state) {
    (void)state;
    for (int m = 0; m < 2; m++) {
        ink_model *model = open_model(models[m]);
        static painter alone[2], together[2];
        pthread_t threads[2];
        for (int i = 0; i < 2; i++) {
            alone[i] = (painter){.model = model, .seed = (uint64_t)i};
            together[i] = alone[i];
            assert_ptr_equal(paint(&alone[i]), &alone[i]);
        }
        for (int i = 0; i < 2; i++) assert_int_equal(pthread_create(&threads[i], NULL, paint, &together[i]), 0);
        for (int i = 0; i < 2; i++) {
            void *result;
            assert_int_equal(pthread_join(threads[i], &result), 0);
            assert_ptr_equal(result, &together[i]);
            assert_memory_equal(together[i].bytes, alone[i].bytes, N_BYTES);
        }
        assert_memory_not_equal(alone[0].bytes, alone[1].bytes, N_BYTES);
        ink_model_close(&model);
    }
}

/* ---- looking into a checkpoint ---------------------------------------------------------------------------------------- */

static void test_inspect(void **state) {
    (void)state;
    static const char *const names[] = {"tokenizer", "text_encoder", "transformer", "vae", "scheduler"};
    for (int m = 0; m < N_MODELS; m++) {
        ink_error error;
        ink_report *report;
        assert_ok(ink_inspect(&report, models[m], NULL, &error), &error);
        assert_string_equal(report->class_name, "QwenImagePipeline");
        assert_int_equal(report->n_components, 5);
        for (int i = 0; i < 5; i++) {
            const ink_component_report *c = &report->components[i];
            bool has_weights = i >= 1 && i <= 3;
            assert_string_equal(c->name, names[i]);
            assert_true(strlen(c->class_name) > 0);
            if (c->problem || c->n_missing > 0 || c->n_unexpected > 0)
                fail_msg("%s: %s: %s", models[m], c->name,
                         c->problem     ? c->problem
                         : c->n_missing ? c->missing[0]
                                        : c->unexpected[0]);
            assert_true(has_weights == (c->n_files > 0 && c->n_tensors > 0 && c->n_parameters > c->n_tensors));
            if (has_weights) {
                bool f32 = strcmp(c->dtypes, "F32") == 0;
                assert_true(f32 || strcmp(c->dtypes, "BF16") == 0);
                assert_int_equal(c->n_bytes, c->n_parameters * (f32 ? 4 : 2));
            } else {
                assert_string_equal(c->dtypes, "");
            }
        }
        ink_report_destroy(&report);
        assert_null(report);
    }
}

static void test_inspect_what_is_no_model(void **state) {
    (void)state;
    ink_error error;
    ink_report *report = (ink_report *)(uintptr_t)8;
    assert_failed(ink_inspect(&report, TEST_GOLDEN "none", NULL, &error), &error, INK_ERROR_IO, "none");
    assert_null(report);
    assert_int_equal(ink_inspect(&report, TEST_GOLDEN "tiny/model_index.json", NULL, NULL), INK_ERROR_IO);
    assert_null(report);
    assert_failed(ink_inspect(&report, NULL, NULL, &error), &error, INK_ERROR_ARGUMENT, "no model folder");
    assert_null(report);
}

static void assert_findings(const char *dir, const char *part, const char *missing, const char *unexpected) {
    ink_error error;
    ink_report *report;
    assert_ok(ink_inspect(&report, dir, NULL, &error), &error);
    for (size_t i = 0; i < report->n_components; i++) {
        const ink_component_report *c = &report->components[i];
        bool changed = strcmp(c->name, part) == 0;
        assert_int_equal(c->n_missing, changed && missing);
        assert_int_equal(c->n_unexpected, changed && unexpected);
        if (c->n_missing) assert_string_equal(c->missing[0], missing);
        if (c->n_unexpected) assert_string_equal(c->unexpected[0], unexpected);
    }
    ink_report_destroy(&report);
}

/* One tensor less, one more. With one more the model runs; with one less it does not open. */
static void test_tensors_missing_and_unexpected(void **state) {
    (void)state;
    static const struct {
        const char *part, *file, *on_disk, *name;
    } cases[] = {
        {"transformer", "transformer/diffusion_pytorch_model.safetensors", "transformer_blocks.1.attn.norm_added_k.weight",
         "transformer_blocks.1.attn.norm_added_k.weight"},
        {"transformer", "transformer/diffusion_pytorch_model.safetensors", "time_text_embed.timestep_embedder.linear_1.bias",
         "time_text_embed.timestep_embedder.linear_1.bias"},
        {"text_encoder", "text_encoder/model.safetensors", "model.language_model.layers.0.mlp.up_proj.weight",
         "model.layers.0.mlp.up_proj.weight"},
        {"vae", "vae/diffusion_pytorch_model.safetensors", "decoder.conv_in.bias", "decoder.conv_in.bias"},
    };
    char folder[TEST_PATH], copy[TEST_PATH], from[TEST_PATH], to[TEST_PATH];
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        test_folder_create(folder);
        test_checkpoint_link(folder, "model", tiny, cases[i].part);
        test_path(copy, folder, "model");
        test_path(to, copy, cases[i].file);
        assert_int_equal(remove(to), 0);
        test_doctor *doctor = test_doctor_open(test_path(from, tiny, cases[i].file));
        test_doctor_drop(doctor, cases[i].on_disk);
        test_doctor_write(doctor, to);
        assert_findings(copy, cases[i].part, cases[i].name, NULL);
        assert_no_model(copy, NULL, INK_ERROR_FORMAT, cases[i].name);

        test_doctor_add(doctor, "something.else", 3);
        test_doctor_write(doctor, to);
        assert_findings(copy, cases[i].part, cases[i].name, "something.else");
        test_doctor_close(doctor);

        doctor = test_doctor_open(from);
        test_doctor_add(doctor, "something.else", 3);
        test_doctor_write(doctor, to);
        assert_findings(copy, cases[i].part, NULL, "something.else");
        ink_model *model = open_model(copy);
        ink_model_close(&model);
        test_doctor_close(doctor);
        test_folder_remove(folder);
    }
}

/* ---- tokenizer -------------------------------------------------------------------------------------------------------- */

static void test_tokenize(void **state) {
    (void)state;
    json_t *cases = json_load_file(TEST_GOLDEN "tiny/tokenizer_cases.json", 0, NULL);
    assert_true(json_array_size(cases) > 100);
    size_t i;
    json_t *one;
    json_array_foreach(cases, i, one) {
        const json_t *text = json_object_get(one, "text"), *expected = json_object_get(one, "ids");
        ink_error error;
        int32_t *ids;
        size_t n;
        if (i % 20 != 0) continue; /* the tokenizer has tests of its own, and here each text opens it anew */
        assert_ok(ink_tokenize(tiny, json_string_value(text), &ids, &n, &error), &error);
        assert_int_equal(n, json_array_size(expected));
        for (size_t j = 0; j < n; j++) assert_int_equal(ids[j], json_integer_value(json_array_get(expected, j)));
        ink_free(ids);
    }
    json_decref(cases);
}

static void test_tokenize_misuse(void **state) {
    (void)state;
    static const struct {
        const char *dir, *text;
        ink_status status;
        const char *words;
    } cases[] = {{TEST_GOLDEN "none", "a", INK_ERROR_IO, "none: there is no such folder"},
                 {NULL, "a", INK_ERROR_ARGUMENT, "no model folder"},
                 {TEST_GOLDEN "tiny", NULL, INK_ERROR_ARGUMENT, "no text"},
                 {TEST_GOLDEN "tiny", "ab\xc0", INK_ERROR_ARGUMENT, "UTF-8|2"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        ink_error error;
        int32_t *ids = (int32_t *)(uintptr_t)8;
        size_t n = 8;
        assert_failed(ink_tokenize(cases[i].dir, cases[i].text, &ids, &n, &error), &error, cases[i].status, cases[i].words);
        assert_null(ids);
        assert_int_equal(n, 0);
        assert_int_equal(ink_tokenize(cases[i].dir, cases[i].text, &ids, &n, NULL), cases[i].status);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_names),
        cmocka_unit_test(test_null_handles),
        cmocka_unit_test(test_defaults),
        cmocka_unit_test(test_precisions),
        cmocka_unit_test(test_same_tokenizer),
        cmocka_unit_test(test_backend_ahead),
        cmocka_unit_test(test_folders_that_are_no_models),
        cmocka_unit_test(test_sessions_that_cannot_be),
        cmocka_unit_test(test_sessions),
        cmocka_unit_test(test_requests_that_make_no_sense),
        cmocka_unit_test(test_prompts_that_are_no_text),
        cmocka_unit_test(test_more_than_there_is),
        cmocka_unit_test(test_threads_change_nothing),
        cmocka_unit_test(test_seeds),
        cmocka_unit_test(test_strings_are_borrowed_for_the_call),
        cmocka_unit_test(test_plan_is_what_runs),
        cmocka_unit_test(test_one_step),
        cmocka_unit_test(test_guidance),
        cmocka_unit_test(test_dump_verifies),
        cmocka_unit_test(test_dump_that_cannot_be_written),
        cmocka_unit_test(test_progress),
        cmocka_unit_test(test_cancel_from_the_callback),
        cmocka_unit_test(test_cancel_before_the_run),
        cmocka_unit_test(test_cancel_verify),
        cmocka_unit_test(test_cancel_from_another_thread),
        cmocka_unit_test(test_two_sessions_at_once),
        cmocka_unit_test(test_inspect),
        cmocka_unit_test(test_inspect_what_is_no_model),
        cmocka_unit_test(test_tensors_missing_and_unexpected),
        cmocka_unit_test(test_tokenize),
        cmocka_unit_test(test_tokenize_misuse),
    };
    return cmocka_run_group_tests(tests, open_studio, close_studio);
}
