/* test_ops.c - what happens around an op: shape checks, sticky status, dry runs, cancellation, trace, check, branches. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <string.h>

#include "base/bf16.h"
#include "ops/ops.h"
#include "ops/roofline.h"
#include "support/lagging_device.h"

enum { ROWS = 3, IN = 8, OUT = 5, RANK = 2 };

typedef struct bench {
    ink_device device;
    ink_arena arena;
    ink_error error;
    ink_ctx c;
    float x[ROWS * IN], w[OUT * IN], y[ROWS * OUT];
} bench;

static const ink_weight *weight_of(bench *b, ink_weight *w) {
    *w = (ink_weight){.dtype = INK_F32, .data = b->w, .rows = OUT, .cols = IN};
    return w;
}

static void set_up(bench *b) {
    const char *why = NULL;
    memset(b, 0, sizeof *b);
    assert_true(ink_device_open(&b->device, "ref", NULL, &why));
    assert_true(ink_arena_create(&b->arena, 1 << 18));
    b->c = (ink_ctx){.device = &b->device, .arena = &b->arena, .error = &b->error};
    for (int i = 0; i < ROWS * IN; i++) b->x[i] = (float)(i % 7 - 3);
    for (int i = 0; i < OUT * IN; i++) b->w[i] = (float)(i % 5 - 2);
}

static void run_linear(bench *b) {
    ink_weight w;
    ink_linear(&b->c, ink_view(b->y, ROWS, OUT), ink_view(b->x, ROWS, IN), weight_of(b, &w), (ink_linear_epilogue){0});
}

static void test_wrong_shapes_stick(void **state) {
    (void)state;
    bench b;
    ink_weight w;
    set_up(&b);
    ink_linear(&b.c, ink_view(b.y, ROWS, OUT - 1), ink_view(b.x, ROWS, IN), weight_of(&b, &w), (ink_linear_epilogue){0});
    assert_int_equal(b.c.status, INK_ERROR_INTERNAL);
    assert_non_null(strstr(b.error.message, "linear: dst is [3, 4], expected [3, 5]"));
    run_linear(&b); /* right, but too late */
    for (int i = 0; i < ROWS * OUT; i++) assert_true(b.y[i] == 0);
    ink_tensor none = ink_scratch(&b.c, 1, 1);
    assert_null(none.data);
    ink_arena_destroy(&b.arena);
}

static void test_wrong_residuals(void **state) {
    (void)state;
    float memory[5][ROWS * IN] = {{0}};
    ink_tensor x = ink_view(memory[0], ROWS, IN), y = ink_view(memory[1], ROWS, IN), dst = ink_view(memory[2], ROWS, IN);
    ink_tensor vector = ink_view(memory[3], 1, IN), half = y, half_x = x, wide = ink_view(memory[4], 1, IN + 1);
    half.type = half_x.type = INK_BF16;
    const struct {
        ink_residual r;
        const char *message;
    } wrong[] = {
        {{.x = x}, "0 layers to add, expected 1 to 2"},
        {{.x = x, .n = 3, .gate = {vector, vector}, .y = {y, y}}, "3 layers to add, expected 1 to 2"},
        {{.x = half_x, .n = 1, .gate = {vector}, .y = {y}}, "the stream is BF16, expected F32"},
        {{.x = x, .n = 2, .gate = {vector, vector}, .y = {y, half}}, "layers to add are F32 and BF16, expected one type"},
        {{.x = x, .n = 2, .gate = {vector, wide}, .y = {y, y}}, "r.gate[i] is [1, 9], expected [1, 8]"},
    };
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        bench b;
        set_up(&b);
        ink_gated_residual_layernorm_modulate(&b.c, dst, wrong[i].r, vector, vector, 1e-6f);
        assert_int_equal(b.c.status, INK_ERROR_INTERNAL);
        assert_non_null(strstr(b.error.message, wrong[i].message));
        ink_arena_destroy(&b.arena);
    }
    bench b;
    set_up(&b);
    ink_residual_rmsnorm(&b.c, dst, half_x, y, vector, 1e-6f);
    assert_non_null(strstr(b.error.message, "residual_rmsnorm: the stream is BF16, expected F32"));
    ink_arena_destroy(&b.arena);
}

static void test_dry_run_counts_and_touches_nothing(void **state) {
    (void)state;
    bench b;
    ink_weight w;
    set_up(&b);
    ink_arena_destroy(&b.arena);
    ink_arena_create_dry(&b.arena);
    ink_tensor scratch = ink_scratch(&b.c, ROWS, OUT);
    weight_of(&b, &w);
    w.data = NULL;
    ink_linear(&b.c, scratch, ink_view(NULL, ROWS, IN), &w, (ink_linear_epilogue){0});
    assert_int_equal(b.c.status, INK_OK);
    assert_true(b.c.work >= ROWS * OUT * IN);
    assert_true(b.arena.peak >= ROWS * OUT * sizeof(float));
}

static void test_cancelled(void **state) {
    (void)state;
    bench b;
    atomic_int cancel = 1;
    set_up(&b);
    b.c.cancel = &cancel;
    run_linear(&b);
    assert_int_equal(b.c.status, INK_ERROR_CANCELLED);
    for (int i = 0; i < ROWS * OUT; i++) assert_true(b.y[i] == 0);
    ink_arena_destroy(&b.arena);
}

static void count_op(void *user) { ++*(int *)user; }

static void test_trace_and_worked(void **state) {
    (void)state;
    bench b;
    char line[200] = "";
    int calls = 0;
    set_up(&b);
    b.c.trace = tmpfile();
    assert_non_null(b.c.trace);
    b.c.worked = count_op;
    b.c.worked_user = &calls;
    run_linear(&b);
    rewind(b.c.trace);
    assert_non_null(fgets(line, sizeof line, b.c.trace));
    assert_int_equal(strncmp(line, "linear ref [3, 5] ", 18), 0);
    assert_int_equal(calls, 1);
    fclose(b.c.trace);
    ink_arena_destroy(&b.arena);
}

/* An implementation with a bug: one product too few. */
static const ink_ops *right;

static void wrong_linear(const ink_device *d, ink_tensor dst, ink_tensor x, const ink_weight *w, ink_linear_epilogue e) {
    right->linear(d, dst, x, w, e);
    dst.data[1] += 1;
}

static void test_check_finds_a_wrong_op(void **state) {
    (void)state;
    bench b;
    set_up(&b);
    ink_device definition = b.device;
    b.c.check = &definition;
    run_linear(&b);
    assert_int_equal(b.c.status, INK_OK);
    right = b.device.ops;
    ink_ops wrong = *right;
    wrong.linear = wrong_linear;
    b.device.ops = &wrong;
    run_linear(&b);
    assert_int_equal(b.c.status, INK_ERROR_INTERNAL);
    assert_non_null(strstr(b.error.message, "linear on tier ref differs from its definition"));
    ink_arena_destroy(&b.arena);
}

static void wrong_attention(const ink_device *d, ink_tensor dst, ink_tensor q, ink_tensor k, ink_tensor v, ink_attention_shape s) {
    right->attention(d, dst, q, k, v, s);
    ink_row_across(dst, s.q_gap, dst.rows - 1)[0] += 1;
}

/* Two runs of rows: the check looks at both, and puts nothing back between them. */
static void test_rows_in_two_runs(void **state) {
    (void)state;
    bench b;
    float y[6];
    const ink_attention_shape shape = {1, 1, 1, 1.0f, false, {2, 2}, {1, 1}, false, false};
    set_up(&b);
    ink_device definition = b.device;
    b.c.check = &definition;
    for (int i = 0; i < 6; i++) y[i] = 7;
    ink_tensor x = ink_view(b.x, 4, 1), dst = ink_view(y, 4, 1);
    double before = b.c.work;
    ink_attention(&b.c, dst, x, x, x, shape);
    assert_int_equal(b.c.status, INK_OK);
    assert_true(b.c.work - before == 10.0 * 4 + 2.0 * 4 * 4);
    assert_true(y[2] == 7 && y[3] == 7);
    assert_true(y[0] != 7 && y[1] != 7 && y[4] != 7 && y[5] != 7);
    right = b.device.ops;
    ink_ops wrong = *right;
    wrong.attention = wrong_attention;
    b.device.ops = &wrong;
    ink_attention(&b.c, dst, x, x, x, shape);
    assert_int_equal(b.c.status, INK_ERROR_INTERNAL);
    assert_non_null(strstr(b.error.message, "output 1 [2, 1]"));
    b.c.status = INK_OK;
    b.device.ops = right;
    ink_attention(&b.c, dst, x, x, x, (ink_attention_shape){1, 1, 1, 1.0f, false, {2, -1}, {0, 0}, false, false});
    assert_int_equal(b.c.status, INK_ERROR_INTERNAL);
    ink_arena_destroy(&b.arena);
}

static void test_branch(void **state) {
    (void)state;
    bench b;
    ink_weight w;
    float down_data[RANK * IN], up_data[OUT * RANK], plain[ROWS * OUT];
    set_up(&b);
    run_linear(&b);
    memcpy(plain, b.y, sizeof plain);
    for (int i = 0; i < RANK * IN; i++) down_data[i] = (float)(i % 3 - 1);
    for (int i = 0; i < OUT * RANK; i++) up_data[i] = (float)(i % 4 - 1);
    ink_weight down = {.dtype = INK_F32, .data = down_data, .rows = RANK, .cols = IN};
    ink_weight up = {.dtype = INK_F32, .data = up_data, .rows = OUT, .cols = RANK};
    weight_of(&b, &w);
    w.down = &down;
    w.up = &up;
    ink_linear(&b.c, ink_view(b.y, ROWS, OUT), ink_view(b.x, ROWS, IN), &w, (ink_linear_epilogue){0});
    assert_int_equal(b.c.status, INK_OK);
    assert_int_equal(b.arena.used, 0);
    for (int i = 0; i < ROWS; i++)
        for (int j = 0; j < OUT; j++) {
            float change = 0;
            for (int r = 0; r < RANK; r++)
                for (int k = 0; k < IN; k++) change += b.x[i * IN + k] * down_data[r * IN + k] * up_data[j * RANK + r];
            assert_true(b.y[i * OUT + j] == plain[i * OUT + j] + change);
        }
    up.cols = RANK + 1;
    ink_linear(&b.c, ink_view(b.y, ROWS, OUT), ink_view(b.x, ROWS, IN), &w, (ink_linear_epilogue){0});
    assert_int_equal(b.c.status, INK_ERROR_INTERNAL);
    ink_arena_destroy(&b.arena);
}

/* Rows of a table come to a device as they are stored, or rounded; an id that it does not have is an error. */
static void test_embed_rows(void **state) {
    (void)state;
    enum { N = 4 };
    static const int32_t ids[N] = {4, 0, 4, 2};
    for (int i = 0; i < 4; i++) {
        bool rounds = i % 2, lags = i / 2;
        bench b;
        float found[N * IN];
        ink_table table = {.rounds = rounds};
        set_up(&b);
        for (int j = 0; j < OUT * IN; j++) b.w[j] = 1.0f + (float)j * 0x1p-10f;
        weight_of(&b, &table.stored);
        ink_device device = lags ? lagging_device(1 << 20) : b.device;
        b.c.device = &device;
        ink_tensor dst = ink_view(lags ? device.memory->alloc(&device, sizeof found) : found, N, IN);
        ink_embed_rows(&b.c, dst, &table, ids);
        assert_int_equal(b.c.status, INK_OK);
        if (lags) device.memory->download(&device, found, dst.data, sizeof found);
        for (int j = 0; j < N * IN; j++) {
            float stored = b.w[ids[j / IN] * IN + j % IN];
            assert_true(found[j] == (rounds ? ink_round_to_bf16(stored) : stored));
        }
        for (int k = 0; k < 2; k++) {
            b.c.status = INK_OK;
            ink_embed_rows(&b.c, ink_rows(dst, 0, 1), &table, &(int32_t){k ? OUT : -1});
            assert_int_equal(b.c.status, INK_ERROR_INTERNAL);
            assert_string_equal(b.error.message, k ? "embed_rows: id 5 is not in 0..4" : "embed_rows: id -1 is not in 0..4");
        }
        if (lags) {
            device.memory->release(&device, dst.data);
            device.close(&device);
        }
        ink_arena_destroy(&b.arena);
    }
}

static void test_tiers(void **state) {
    (void)state;
    ink_device device;
    const char *why = NULL;
    assert_string_equal(ink_device_tier(0), "ref");
    for (int i = 0; ink_device_tier(i); i++) assert_true(ink_device_open(&device, ink_device_tier(i), NULL, &why));
    assert_false(ink_device_open(&device, "no such tier", NULL, &why));
    assert_non_null(why);
    assert_true(ink_device_open(&device, "auto", NULL, &why));
    assert_true(strcmp(device.tier, "ref") != 0);
#ifdef __x86_64__
    if (strcmp(device.tier, "avx512_bf16") == 0) assert_true(__builtin_cpu_is("amd"));
#endif
}

/* Every tier but the definition has an inner loop to be measured; memory is memory. */
static void test_roofline(void **state) {
    (void)state;
    ink_threads *threads = ink_threads_create(2);
    for (int i = 0; ink_device_tier(i); i++) {
        ink_device device;
        const char *why;
        assert_true(ink_device_open(&device, ink_device_tier(i), threads, &why));
        double flops = ink_cpu_peak_flops(&device, INK_BF16, 0.002);
        assert_true(device.kernels ? flops > 0 : flops == 0);
        ink_bandwidth bandwidth = ink_cpu_bandwidth(&device, 2 << 20, 0.002);
        assert_true(bandwidth.read > 0 && bandwidth.copy > 0);
        bandwidth = ink_cpu_bandwidth(&device, 100, 0.002);
        assert_true(bandwidth.read == 0 && bandwidth.copy == 0);
    }
    ink_threads_destroy(threads);
}

/* Products are counted in a dry run too, and apart from other work. */
static void test_products(void **state) {
    (void)state;
    ink_arena arena;
    ink_arena_create_dry(&arena);
    ink_ctx c = {.arena = &arena};
    ink_tensor x = ink_scratch(&c, 5, 8), y = ink_scratch(&c, 5, 4), row = ink_scratch(&c, 1, 8);
    ink_weight w = {.dtype = INK_F32, .rows = 4, .cols = 8};
    ink_rmsnorm(&c, x, x, row, 1e-6f);
    assert_true(c.products == 0 && c.work > 0);
    ink_linear(&c, y, x, &w, (ink_linear_epilogue){0});
    assert_true(c.products == 5 * 4 * 8);
    ink_attention(&c, y, y, y, y, (ink_attention_shape){.n_heads = 1, .n_kv_heads = 1, .head_dim = 4, .scale = 1});
    assert_true(c.products == 5 * 4 * 8 + 2 * 5 * 5 * 4);
    assert_int_equal(c.status, INK_OK);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_roofline),
        cmocka_unit_test(test_products),
        cmocka_unit_test(test_wrong_shapes_stick),
        cmocka_unit_test(test_wrong_residuals),
        cmocka_unit_test(test_dry_run_counts_and_touches_nothing),
        cmocka_unit_test(test_cancelled),
        cmocka_unit_test(test_trace_and_worked),
        cmocka_unit_test(test_check_finds_a_wrong_op),
        cmocka_unit_test(test_rows_in_two_runs),
        cmocka_unit_test(test_branch),
        cmocka_unit_test(test_embed_rows),
        cmocka_unit_test(test_tiers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
