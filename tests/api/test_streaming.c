/*
 * test_streaming.c - blocks that come and go between the host and a device: the picture is the same, bit for bit, memory is what
 * the plan says, and whatever fails on the way leaves nothing behind. The device is lagging_device.h.
 */
#define _GNU_SOURCE /* mkstemp */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "model/rope.h"
#include "pipeline/generate.h"
#include "support/drawing.h"
#include "support/files.h"
#include "support/golden.h"
#include "support/lagging_device.h"
#include "support/words.h"
#include "tensor/safetensors_writer.h"

enum { WIDTH = 32, HEIGHT = 32, STEPS = 3, N_VALUES = WIDTH * HEIGHT * 3, N_BLOCKS = 5, N_LAYERS = 3 };

/* What a plan adds for the libraries of a real device, which this one has not. */
static const int64_t EXTRA = (int64_t)1536 << 20, PLENTY = (int64_t)4 << 30;

/* Five blocks and three layers of text. */
static const char model_dir[] = TEST_GOLDEN "static-shift";

static test_bench bench_open(ink_precision precision) {
    test_bench b = test_bench_open(model_dir, precision, "ref", 1);
    b.session->device = lagging_device(PLENTY);
    return b;
}

static void bench_close(test_bench *b) {
    test_bench_close(b);
    assert_int_equal(lagging_device_counts().bytes, 0);
    assert_int_equal(lagging_device_counts().shared, 0);
}

static ink_request request_of(const test_bench *b) {
    ink_request request;
    ink_request_init(&request, b->model);
    request.prompt = "a red circle";
    request.negative_prompt = "green squares everywhere";
    request.guidance = 3;
    request.width = WIDTH;
    request.height = HEIGHT;
    request.steps = STEPS;
    request.seed = 5;
    return request;
}

static ink_memory_plan plan_of(const test_bench *b, const ink_request *request) {
    ink_error error;
    ink_memory_plan plan;
    if (ink_session_plan(&plan, b->session, request, &error) != INK_OK) fail_msg("%s", error.message);
    return plan;
}

static void draw(const test_bench *b, const ink_request *request, float *pixels) {
    test_draw(b, request, pixels, N_VALUES);
    for (int i = 0; i < N_VALUES; i++) assert_false(pixels[i] != pixels[i]);
}

/* The budget with which n blocks stay, or as many more as also fit then. */
static int64_t budget_for(const test_bench *b, ink_request request, int64_t n) {
    request.vram_budget = 0;
    int64_t low = plan_of(b, &request).gpu_least_bytes, high = plan_of(b, &request).gpu_peak_bytes;
    while (low < high) {
        request.vram_budget = low + (high - low) / 2;
        ink_memory_plan plan = plan_of(b, &request);
        if (plan.blocks - plan.streamed_blocks >= n)
            high = request.vram_budget;
        else
            low = request.vram_budget + 1;
    }
    return low;
}

/* Draws within the budget; what was used is what the plan says. */
static ink_memory_plan draw_within(const test_bench *b, ink_request request, int64_t budget, float *pixels) {
    request.vram_budget = budget;
    ink_memory_plan plan = plan_of(b, &request);
    draw(b, &request, pixels); /* lets go of what an earlier picture has left */
    lagging_device_reset_counts();
    draw(b, &request, pixels);
    lagging_counts counts = lagging_device_counts();
    if (counts.peak_bytes > plan.gpu_peak_bytes - EXTRA || plan.gpu_peak_bytes > budget)
        fail_msg("%lld bytes of the device used, %lld planned, budget %lld", (long long)counts.peak_bytes,
                 (long long)(plan.gpu_peak_bytes - EXTRA), (long long)(budget - EXTRA));
    assert_int_equal(counts.peak_shared, plan.gpu_host_bytes);
    assert_int_equal(counts.shared, 0);
    int64_t per_pass = plan.streamed_blocks, per_prompt = plan.streamed_text_layers;
    assert_int_equal(counts.n_fetched, STEPS * per_pass + 2 * per_prompt);
    assert_int_equal(counts.n_replayed, STEPS - 1);
    assert_int_equal(counts.n_beside, 0);
    return plan;
}

/* ---- the same picture -------------------------------------------------------------------------------------------------- */

static void check_same(ink_precision precision, const ink_lora *lora, int merge) {
    static float expected[N_VALUES], found[N_VALUES];
    test_bench b = bench_open(precision);
    ink_request request = request_of(&b);
    request.loras = lora;
    request.n_loras = lora ? 1 : 0;
    request.merge_loras = merge;
    lagging_device_reset_counts();
    draw(&b, &request, expected);
    assert_int_equal(lagging_device_counts().n_fetched, 0);
    /* As they are stored, weights come while the forward is rehearsed; not if they are added to. */
    if (precision == INK_PRECISION_AUTO || lora) assert_true((lagging_device_counts().n_beside > 0) == !lora);
    int64_t least = plan_of(&b, &request).gpu_least_bytes;
    ink_memory_plan plan = draw_within(&b, request, least, found);
    assert_memory_equal(found, expected, sizeof found);
    assert_int_equal(plan.streamed_blocks, N_BLOCKS);
    assert_int_equal(plan.blocks, N_BLOCKS);
    assert_int_equal(plan.text_layers, N_LAYERS);
    assert_true(plan.gpu_host_bytes >= plan.streamed_bytes && plan.streamed_bytes > 0);
    assert_false(plan.gpu_keeps_weights);
    for (int n = 1; n < 3; n++) {
        plan = draw_within(&b, request, budget_for(&b, request, n), found);
        assert_memory_equal(found, expected, sizeof found);
        assert_int_equal(plan.blocks - plan.streamed_blocks, n);
    }
    /* And all of it again. */
    draw(&b, &request, found);
    assert_memory_equal(found, expected, sizeof found);
    bench_close(&b);
}

static void test_precisions(void **state) {
    (void)state;
    check_same(INK_PRECISION_F32, NULL, 0);
    check_same(INK_PRECISION_BF16, NULL, 0);
    check_same(INK_PRECISION_FP8, NULL, 0);
    check_same(INK_PRECISION_AUTO, NULL, 0);
}

/* Of this model the text encoder is smaller than what the rest needs at the least: here it is alone. */
enum { N_TOKENS = 9, HIDDEN = 48 };

static ink_residency *parts_of(const test_bench *b, const ink_device *device, ink_binder *binder, int64_t n_stay) {
    ink_error error;
    ink_text_encoder encoder;
    ink_residency *residency;
    const ink_text_encoder_config *config = &b->model->config.text_encoder;
    const ink_weights *weights = b->model->weights[INK_TEXT_ENCODER];
    *binder = (ink_binder){.weights = weights, .precision = INK_PRECISION_BF16, .memory = device->memory, .device = device};
    binder->error = &error;
    assert_int_equal(ink_residency_create(&residency, weights, N_LAYERS, N_LAYERS, &error), INK_OK);
    binder->residency = residency;
    ink_text_encoder_bind(&encoder, config, binder);
    ink_text_encoder_release(&encoder);
    assert_int_equal(binder->status, INK_OK);
    if (n_stay == N_LAYERS) return residency;
    assert_int_equal(ink_residency_create(&binder->residency, weights, N_LAYERS, n_stay, &error), INK_OK);
    assert_int_equal(ink_residency_to_device(binder->residency, device->memory, device, residency->parts, &error), INK_OK);
    ink_residency_destroy(&residency);
    return binder->residency;
}

static void encode(const test_bench *b, float states[N_TOKENS * HIDDEN], int64_t n_stay) {
    const ink_device *device = &b->session->device;
    const ink_text_encoder_config *config = &b->model->config.text_encoder;
    const int32_t ids[N_TOKENS] = {1, 5, 9, 100, 200, 300, 17, 18, 2};
    ink_binder binder;
    ink_store store = {0};
    ink_error error;
    ink_text_encoder encoder;
    ink_arena arena;
    ink_residency *residency = parts_of(b, device, &binder, n_stay);
    int64_t planned = binder.stored_bytes;
    binder.stored_bytes = 0;
    binder.mode = INK_BIND_LOAD;
    binder.store = &store;
    binder.error = &error;
    ink_text_encoder_bind(&encoder, config, &binder);
    if (binder.status != INK_OK) fail_msg("%s", error.message);
    assert_int_equal(binder.stored_bytes, planned);
    assert_true(ink_arena_create(&arena, 1 << 20));
    ink_ctx c = {.device = device, .arena = &arena, .error = &error};
    for (int again = 0; again < 2; again++) {
        ink_arena_release(&arena, 0);
        ink_tensor x = ink_scratch(&c, N_TOKENS, HIDDEN), cos = ink_scratch(&c, N_TOKENS, config->head_dim / 2),
                   sin = ink_scratch(&c, N_TOKENS, config->head_dim / 2);
        ink_rope_text(cos, sin, config->rope_theta);
        ink_text_encoder_forward(&c, &encoder, x, &(ink_text_input){&(ink_text_tokens){ids, N_TOKENS}, 1, cos, sin});
        assert_int_equal(c.status, INK_OK);
        device->memory->wait(device);
        memcpy(states, x.data, N_TOKENS * HIDDEN * sizeof *states);
    }
    ink_arena_destroy(&arena);
    ink_text_encoder_release(&encoder);
    ink_residency_destroy(&residency);
    ink_store_release(&store);
}

static void test_text_encoder(void **state) {
    (void)state;
    static float expected[N_TOKENS * HIDDEN], found[N_TOKENS * HIDDEN];
    test_bench b = bench_open(INK_PRECISION_BF16);
    assert_int_equal(b.model->config.text_encoder.hidden_size, HIDDEN);
    encode(&b, expected, N_LAYERS);
    for (int64_t n_stay = 0; n_stay < N_LAYERS; n_stay++) {
        lagging_device_reset_counts();
        encode(&b, found, n_stay);
        assert_memory_equal(found, expected, sizeof found);
        assert_int_equal(lagging_device_counts().n_fetched, 2 * (N_LAYERS - n_stay));
    }
    bench_close(&b);
}

/* The steps that were told of, each once and in order. */
static int follow(void *user, const ink_progress *progress) {
    int64_t *n_steps = user;
    assert_true(progress->fraction >= 0 && progress->fraction <= 1 && progress->phase_seconds >= 0);
    assert_in_range(progress->done, 0, progress->total);
    if (progress->phase != INK_PHASE_DENOISE || progress->done == *n_steps) return 0;
    assert_int_equal(progress->done, ++*n_steps);
    assert_true(progress->done < progress->total || progress->fraction == 1);
    return 0;
}

/* Weights that are slower than what is done with them: the first step takes each block as it comes. */
static void test_following(void **state) {
    (void)state;
    static float expected[N_VALUES], found[N_VALUES];
    test_bench b = bench_open(INK_PRECISION_AUTO);
    ink_request request = request_of(&b);
    draw(&b, &request, expected);
    lagging_device_reset_counts();
    draw(&b, &request, found);
    assert_int_equal(lagging_device_counts().n_beside, 0);
    assert_memory_equal(found, expected, sizeof found);
    lagging_device_let_senders_lag(true);
    ink_networks_release(&b.session->networks, &b.session->device);
    int64_t n_steps = 0;
    request.progress = follow;
    request.progress_user = &n_steps;
    draw(&b, &request, found);
    assert_memory_equal(found, expected, sizeof found);
    assert_int_equal(n_steps, STEPS);
    assert_true(lagging_device_counts().n_beside > 0);
    lagging_device_let_senders_lag(false);
    bench_close(&b);
}

/* Pictures of one session, with and without a budget, of two sizes. */
static void test_in_turn(void **state) {
    (void)state;
    static float expected[2][N_VALUES], found[N_VALUES];
    test_bench b = bench_open(INK_PRECISION_F32);
    ink_request request = request_of(&b), other = request;
    other.negative_prompt = NULL;
    draw(&b, &request, expected[0]);
    draw(&b, &other, expected[1]);
    int64_t budget = budget_for(&b, request, 1);
    for (int i = 0; i < 8; i++) {
        ink_request now = i & 1 ? other : request;
        now.vram_budget = i & 2 ? 0 : budget;
        now.steps = STEPS;
        draw(&b, &now, found);
        assert_memory_equal(found, expected[i & 1], sizeof found);
    }
    bench_close(&b);
}

static void test_small_device(void **state) {
    (void)state;
    static float expected[N_VALUES], found[N_VALUES];
    test_bench b = bench_open(INK_PRECISION_F32);
    ink_request request = request_of(&b);
    draw(&b, &request, expected);
    int64_t least = plan_of(&b, &request).gpu_least_bytes;
    bench_close(&b);
    b = bench_open(INK_PRECISION_F32);
    ink_device_close(&b.session->device);
    b.session->device = lagging_device(least);
    assert_int_equal(plan_of(&b, &request).streamed_blocks, N_BLOCKS);
    draw(&b, &request, found);
    assert_memory_equal(found, expected, sizeof found);
    ink_memory_plan plan;
    ink_error error;
    ink_image *image;
    ink_networks_release(&b.session->networks, &b.session->device);
    assert_int_equal(lagging_device_counts().bytes, 0);
    ink_device_close(&b.session->device);
    b.session->device = lagging_device(least - 1);
    assert_int_equal(ink_session_plan(&plan, b.session, &request, &error), INK_ERROR_MEMORY);
    assert_int_equal(plan.gpu_least_bytes, least);
    assert_null(test_missing_word(error.message, "at the least|MiB|smaller picture"));
    assert_int_equal(ink_generate(b.session, &request, &image, &error), INK_ERROR_MEMORY);
    bench_close(&b);
}

/* ---- with a LoRA ------------------------------------------------------------------------------------------------------- */

enum { DIM = 40, RANK = 2, N_LORA = 4 * N_BLOCKS };

static void write_lora(const char *path) {
    ink_writer_tensor tensors[N_LORA];
    static char names[N_LORA][100];
    float values[6 * DIM * RANK];
    ink_safetensors_writer writer;
    ink_error error;
    for (int i = 0; i < N_LORA; i++) {
        const char *layer = i & 1 ? "attn.to_q" : i < 4 ? "img_mod.1" : "img_mlp.net.0.proj";
        int64_t out = i & 1 ? DIM : i < 4 ? 6 * DIM : 4 * DIM;
        bool up = i & 2;
        snprintf(names[i], sizeof names[i], "transformer.transformer_blocks.%d.%s.lora_%c.weight", i / 4, layer, up ? 'B' : 'A');
        tensors[i] = (ink_writer_tensor){
            .name = names[i], .dtype = "F32", .element_bytes = 4, .n_dims = 2, .shape = {up ? out : RANK, up ? RANK : DIM}};
    }
    assert_int_equal(ink_safetensors_writer_open(&writer, path, tensors, N_LORA, NULL, &error), INK_OK);
    for (int i = 0; i < N_LORA; i++) {
        int64_t n = tensors[i].shape[0] * tensors[i].shape[1];
        for (int64_t j = 0; j < n; j++) values[j] = 0.1f * (float)((i * 31 + j * 17) % 23 - 11);
        assert_int_equal(ink_safetensors_writer_put(&writer, (size_t)i, 0, values, n * 4, &error), INK_OK);
    }
    assert_int_equal(ink_safetensors_writer_finish(&writer, &error), INK_OK);
}

static void test_lora(void **state) {
    (void)state;
    char path[] = "/tmp/ink-streaming-XXXXXX";
    int descriptor = mkstemp(path);
    assert_true(descriptor >= 0);
    close(descriptor);
    unlink(path);
    write_lora(path);
    const ink_lora lora = {path, 0.7};
    check_same(INK_PRECISION_F32, &lora, 0);
    check_same(INK_PRECISION_BF16, &lora, 0);
    check_same(INK_PRECISION_F32, &lora, 1);
    unlink(path);
}

/* ---- what the reference framework drew ------------------------------------------------------------------------------------ */

static void check_reference(const char *model, const char *file, ink_precision precision) {
    char folder[200], path[300];
    snprintf(folder, sizeof folder, "%s%s", TEST_GOLDEN, model);
    snprintf(path, sizeof path, "%s%s.safetensors", TEST_GOLDEN, file);
    test_bench b = test_bench_open(folder, precision, "ref", 1);
    b.session->device = lagging_device(PLENTY);
    ink_verification *found;
    ink_error error;
    if (ink_verify(b.session, path, NULL, NULL, &found, &error) != INK_OK) fail_msg("%s: %s", file, error.message);
    for (size_t i = 0; i < found->n_rows; i++)
        if (!found->rows[i].passed) fail_msg("%s: %s: relative L2 %g", file, found->rows[i].stage, found->rows[i].relative_l2);
    ink_verification_destroy(&found);
    bench_close(&b);
}

static void test_references(void **state) {
    (void)state;
    static const char *const loras[] = {"run_rank4", "run_rank16", "run_two", "run_loha", "run_lokr", "run_lokr-full"};
    check_reference("tiny", "tiny/ref_cfg", INK_PRECISION_F32);
    check_reference("static-shift", "static-shift/ref_bf16", INK_PRECISION_F32);
    check_reference("static-shift", "static-shift/ref_bf16", INK_PRECISION_BF16);
    check_reference("published", "published/ref_bf16", INK_PRECISION_BF16);
    for (size_t i = 0; i < sizeof loras / sizeof *loras; i++) {
        char file[60];
        snprintf(file, sizeof file, "lora/%s", loras[i]);
        check_reference("tiny", file, INK_PRECISION_F32);
        check_reference("tiny", file, INK_PRECISION_BF16);
    }
}

/* ---- what goes wrong --------------------------------------------------------------------------------------------------- */

/* Either blocks come and go, or all weights come while the host goes on. */
static test_bench bench_for_mistakes(bool ahead, ink_request *request, float *expected) {
    test_bench b = bench_open(ahead ? INK_PRECISION_AUTO : INK_PRECISION_F32);
    *request = request_of(&b);
    draw(&b, request, expected);
    if (ahead)
        ink_networks_release(&b.session->networks, &b.session->device);
    else
        request->vram_budget = budget_for(&b, *request, 1);
    return b;
}

static void check_denied_memory(bool ahead) {
    static float expected[N_VALUES], found[N_VALUES];
    ink_request request;
    test_bench b = bench_for_mistakes(ahead, &request, expected);
    int64_t n = 1;
    for (;; n += n < 8 ? 1 : 7) {
        ink_error error;
        ink_image *image;
        lagging_device_fail_at(n);
        ink_status status = ink_generate(b.session, &request, &image, &error);
        lagging_device_fail_at(0);
        ink_image_destroy(&image);
        if (status == INK_OK) break;
        if (status != INK_ERROR_MEMORY || !strstr(error.message, "memory")) fail_msg("taking %d: %s", (int)n, error.message);
        assert_int_equal(lagging_device_counts().shared, 0);
    }
    assert_true(n > 20);
    draw(&b, &request, found);
    assert_memory_equal(found, expected, sizeof found);
    bench_close(&b);
}

static void test_denied_memory(void **state) {
    (void)state;
    check_denied_memory(false);
    check_denied_memory(true);
}

static void cancel(void *user) { ink_session_cancel(user); }

/* In loading, in a rehearsal, in the text encoder, in a forward, in one that is recorded. */
static void check_cancelled(bool ahead) {
    static float expected[N_VALUES], found[N_VALUES];
    ink_request request;
    test_bench b = bench_for_mistakes(ahead, &request, expected);
    if (!ahead) request.vram_budget = plan_of(&b, &request).gpu_least_bytes;
    int64_t n = 1;
    for (;; n += 29) {
        ink_error error;
        ink_image *image;
        lagging_device_call_at(n, cancel, b.session);
        ink_status status = ink_generate(b.session, &request, &image, &error);
        lagging_device_call_at(0, NULL, NULL);
        ink_image_destroy(&image);
        assert_int_equal(lagging_device_counts().shared, 0);
        if (status == INK_OK) break;
        if (status != INK_ERROR_CANCELLED) fail_msg("op %d: %s", (int)n, error.message);
    }
    assert_true(n > 200);
    draw(&b, &request, found);
    assert_memory_equal(found, expected, sizeof found);
    bench_close(&b);
}

static void test_cancelled(void **state) {
    (void)state;
    check_cancelled(false);
    check_cancelled(true);
}

static int let_main_lag(void **state) {
    (void)state;
    lagging_device_let_main_lag(true);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_precisions),   cmocka_unit_test(test_text_encoder), cmocka_unit_test(test_in_turn),
        cmocka_unit_test(test_small_device), cmocka_unit_test(test_lora),         cmocka_unit_test(test_denied_memory),
        cmocka_unit_test(test_cancelled),    cmocka_unit_test(test_following),    cmocka_unit_test(test_references),
    };
    int failed = cmocka_run_group_tests_name("what is aside lags", tests, NULL, NULL);
    return failed + cmocka_run_group_tests_name("the rest lags", tests, let_main_lag, NULL);
}
