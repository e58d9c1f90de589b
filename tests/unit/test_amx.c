/*
 * test_amx.c - the products of tier `amx` on processors without AMX: everything but its instructions, which are done here as
 * Intel's manual describes them, on the panels that the tier packs. It needs 64-byte vectors with bf16; without them nothing is
 * tested.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/threads.h"
#include "ops/cpu/cpu_kernels.h"
#include "ops/ops.h"
#include "ops/ops_tiers.h"
#include "tensor/quantize.h"

#if defined __x86_64__ && defined __linux__

/* ---- the instructions -------------------------------------------------------------------------------------------------- */

enum { ROWS = 16, ROW_BYTES = 64 };

typedef struct tile {
    unsigned char row[ROWS][ROW_BYTES];
} tile;

static tile load(const void *from, int64_t stride) {
    tile t;
    for (int i = 0; i < ROWS; i++) memcpy(t.row[i], (const unsigned char *)from + i * stride, ROW_BYTES);
    return t;
}

static void store(void *to, int64_t stride, const tile *t) {
    for (int i = 0; i < ROWS; i++) memcpy((unsigned char *)to + i * stride, t->row[i], ROW_BYTES);
}

/* TDPBSSD */
static void add_integers(tile *c, const tile *a, const tile *b) {
    for (int m = 0; m < ROWS; m++)
        for (int k = 0; k < ROW_BYTES / 4; k++)
            for (int n = 0; n < ROW_BYTES / 4; n++) {
                int32_t sum;
                memcpy(&sum, c->row[m] + 4 * n, sizeof sum);
                for (int j = 0; j < 4; j++) sum += (int8_t)a->row[m][4 * k + j] * (int8_t)b->row[k][4 * n + j];
                memcpy(c->row[m] + 4 * n, &sum, sizeof sum);
            }
}

/* TDPBF16PS, but for numbers below the normal range */
static void add_numbers(tile *c, const tile *a, const tile *b) {
    for (int m = 0; m < ROWS; m++)
        for (int k = 0; k < ROW_BYTES / 4; k++)
            for (int n = 0; n < ROW_BYTES / 4; n++) {
                uint16_t left[2], right[2];
                float sum;
                memcpy(&sum, c->row[m] + 4 * n, sizeof sum);
                memcpy(left, a->row[m] + 4 * k, sizeof left);
                memcpy(right, b->row[k] + 4 * n, sizeof right);
                for (int j = 0; j < 2; j++) sum += ink_f32_from_bf16(left[j]) * ink_f32_from_bf16(right[j]);
                memcpy(c->row[m] + 4 * n, &sum, sizeof sum);
            }
}

/* As the tier's own loop, which is in the same order. */
static void multiply(void (*dot)(tile *, const tile *, const tile *), void *sums, int64_t stride, const void *left,
                     const void *right, int64_t bytes, bool add) {
    for (int i = 0; i < 2; i++)
        for (int j = 0; j < 2; j++) {
            unsigned char *at = (unsigned char *)sums + (16 * i * stride + 16 * j) * 4;
            tile c = add ? load(at, 4 * stride) : (tile){0};
            for (int64_t k = 0; k < bytes; k += ROW_BYTES) {
                tile a = load((const unsigned char *)left + 32 * k + 1024 * i, ROW_BYTES);
                tile b = load((const unsigned char *)right + 32 * k + 1024 * j, ROW_BYTES);
                dot(&c, &a, &b);
            }
            store(at, 4 * stride, &c);
        }
}

static void multiply_i8(void *c, int64_t stride, const void *left, const void *right, int64_t k, bool add, const void *ahead) {
    (void)ahead;
    multiply(add_integers, c, stride, left, right, k, add);
}

static void multiply_bf16(void *c, int64_t stride, const void *left, const void *right, int64_t k, bool add, const void *ahead) {
    (void)ahead;
    multiply(add_numbers, c, stride, left, right, 2 * k, add);
}

/* ---- the tier with them -------------------------------------------------------------------------------------------------- */

typedef struct bench {
    ink_cpu_product i8, bf16;
    ink_cpu_kernels kernels;
    ink_device device, ref;
} bench;

static bench *bench_create(int64_t n_threads) {
    bool runs = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
                __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bf16");
    if (!runs) skip();
    bench *b = calloc(1, sizeof *b);
    assert_non_null(b);
    b->kernels = ink_cpu_kernels_amx;
    b->i8 = *b->kernels.i8;
    b->bf16 = *b->kernels.bf16;
    b->i8.begin = b->i8.end = b->bf16.begin = b->bf16.end = NULL;
    b->i8.multiply = multiply_i8;
    b->bf16.multiply = multiply_bf16;
    b->kernels.i8 = &b->i8;
    b->kernels.bf16 = &b->bf16;
    b->device = (ink_device){.tier = "amx", .ops = &ink_ops_cpu, .kernels = &b->kernels, .rounds_rows = true};
    b->device.threads = ink_threads_create(n_threads);
    assert_non_null(b->device.threads);
    b->ref = (ink_device){.tier = "ref", .ops = &ink_ops_ref};
    return b;
}

static void bench_destroy(bench *b) {
    ink_threads_destroy(b->device.threads);
    free(b);
}

static uint64_t state;

static double number(void) {
    state = state * 6364136223846793005 + 1442695040888963407;
    return (double)(int32_t)(state >> 32) * 0x1p-31;
}

static ink_tensor numbers(int64_t rows, int64_t cols) {
    ink_tensor x = ink_view(malloc((size_t)(rows * cols) * sizeof(float)), rows, cols);
    assert_non_null(x.data);
    for (int64_t i = 0; i < rows * cols; i++) x.data[i] = (float)number();
    return x;
}

static ink_weight integers(int64_t rows, int64_t cols) {
    ink_weight w;
    ink_quantize_describe(&w, INK_I8, rows, cols);
    int8_t *codes = malloc((size_t)(rows * cols));
    float *scales = malloc((size_t)rows * sizeof *scales);
    assert_true(codes && scales);
    for (int64_t i = 0; i < rows * cols; i++) codes[i] = (int8_t)(128 * number());
    for (int64_t i = 0; i < rows; i++) scales[i] = (float)(0.01 * number());
    w.data = codes;
    w.scales = scales;
    return w;
}

/* Both sides of the tier's tiles, of its steps, of what is decoded and of what is multiplied at once; with a branch if rank > 0. */
static void check(const bench *b, int64_t rows, int64_t in, int64_t out, int64_t rank) {
    ink_tensor x = numbers(rows, in), found = numbers(rows, out), expected = numbers(rows, out), low = {0}, up = {0};
    ink_weight w = integers(out, in), up_weight = {0};
    void *packed = aligned_alloc(64, (size_t)(ink_packed_bytes(rows, 1, in + rank) + 63) / 64 * 64);
    assert_non_null(packed);
    ink_linear_epilogue e = {.may_round = true, .packed = packed};
    if (rank > 0) {
        low = numbers(rows, rank);
        up = numbers(out, rank);
        up_weight = (ink_weight){.dtype = INK_F32, .data = up.data, .rows = out, .cols = rank};
        w.up = &up_weight;
        e.low = &low;
    }
    b->device.ops->linear(&b->device, found, x, &w, e);
    b->ref.ops->linear(&b->ref, expected, x, &w, e);
    for (int64_t i = 0; i < rows * out; i++) {
        double allowed = rank > 0 ? 0x1p-6 * (double)rank : 0;
        if (!(found.data[i] >= expected.data[i] - allowed && found.data[i] <= expected.data[i] + allowed))
            fail_msg("[%lld, %lld] to %lld, branch of %lld: number %lld is %.9g, must be %.9g", (long long)rows, (long long)in,
                     (long long)out, (long long)rank, (long long)i, found.data[i], expected.data[i]);
    }
    free(packed);
    free(x.data);
    free(found.data);
    free(expected.data);
    free(low.data);
    free(up.data);
    free((void *)(uintptr_t)w.data);
    free((void *)(uintptr_t)w.scales);
}

static void test_integers(void **unused) {
    (void)unused;
    bench *b = bench_create(2);
    for (int64_t n = 1; n <= 70; n++) check(b, n % 35 + 1, n, 71 - n, 0);
    static const int64_t shapes[][3] = {{33, 3072, 40}, {65, 700, 130}, {2, 12288, 33}, {97, 511, 257}, {1, 1, 1}, {31, 6400, 129}};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) check(b, shapes[i][0], shapes[i][1], shapes[i][2], 0);
    bench_destroy(b);
}

static void test_branches(void **unused) {
    (void)unused;
    bench *b = bench_create(1);
    for (int64_t rank = 1; rank <= 40; rank += 3) check(b, 34, 100 + rank, 45, rank);
    check(b, 40, 7000, 130, 16);
    check(b, 70, 300, 33, 300);
    bench_destroy(b);
}

/* Weights that are decoded to bf16: each number is the nearest one to code times scale. */
static void test_decoding(void **unused) {
    (void)unused;
    bench *b = bench_create(1);
    int8_t codes[256];
    uint16_t decoded[256];
    for (int i = 0; i < 256; i++) codes[i] = (int8_t)(i - 128);
    for (int turn = 0; turn < 50; turn++) {
        float scale = (float)number();
        b->kernels.decode_i8(decoded, codes, scale, 256);
        for (int i = 0; i < 256; i++) assert_int_equal(decoded[i], ink_bf16_from_f32((float)codes[i] * scale));
    }
    bench_destroy(b);
}

#else

static void test_integers(void **unused) { (void)unused; }
static void test_branches(void **unused) { (void)unused; }
static void test_decoding(void **unused) { (void)unused; }

#endif

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_integers), cmocka_unit_test(test_branches),
                                       cmocka_unit_test(test_decoding)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
