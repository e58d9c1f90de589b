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

#include <float.h>
#include <math.h>
#include <stdatomic.h>
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

/* Numbers below the normal range count as zero. */
static float flushed(float x) { return x > -FLT_MIN && x < FLT_MIN ? 0 : x; }

static float number_at(const unsigned char *row, int i) {
    uint16_t bits;
    memcpy(&bits, row + 2 * i, sizeof bits);
    return flushed(ink_f32_from_bf16(bits));
}

/* TDPBF16PS */
static void add_numbers(tile *c, const tile *a, const tile *b) {
    enum { N = ROW_BYTES / 4 };
    float right[2 * N][N];
    for (int k = 0; k < 2 * N; k++)
        for (int n = 0; n < N; n++) right[k][n] = number_at(b->row[k / 2], 2 * n + k % 2);
    for (int m = 0; m < ROWS; m++) {
        float sum[N];
        memcpy(sum, c->row[m], sizeof sum);
        for (int k = 0; k < 2 * N; k++) {
            float left = number_at(a->row[m], k);
            for (int n = 0; n < N; n++) sum[n] = flushed(sum[n] + left * right[k][n]);
        }
        memcpy(c->row[m], sum, sizeof sum);
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

static atomic_llong n_parts_multiplied; /* calls */

/* Panels have three parts of 2048 bytes for 32 numbers. */
static void multiply_parts(void *sums, int64_t stride, const void *left, const void *right, int64_t k, bool add,
                           const void *ahead) {
    enum { H, M, L, N_PARTS, PART_BYTES = 2048 };
    static const int products[][2] = {{H, L}, {H, M}, {M, M}, {M, H}, {L, H}, {H, H}};
    (void)ahead;
    n_parts_multiplied++;
    for (int i = 0; i < 4; i++) {
        tile c = {0};
        int row = i / 2, col = i % 2;
        for (int at_once = 5, first = 0; first < 6; first += at_once, at_once = 1)
            for (int64_t step = 0; step < (k + 31) / 32; step++)
                for (int j = first; j < first + at_once; j++) {
                    const int64_t at = step * N_PARTS * PART_BYTES;
                    tile a = load((const unsigned char *)left + at + products[j][0] * PART_BYTES + 1024 * row, ROW_BYTES);
                    tile b = load((const unsigned char *)right + at + products[j][1] * PART_BYTES + 1024 * col, ROW_BYTES);
                    add_numbers(&c, &a, &b);
                }
        for (int m = 0; m < ROWS; m++)
            for (int n = 0; n < ROW_BYTES / 4; n++) {
                float *to = (float *)sums + (16 * row + m) * stride + 16 * col + n, sum;
                memcpy(&sum, c.row[m] + 4 * n, sizeof sum);
                *to = add ? *to + sum : sum;
            }
    }
}

/* ---- the tier with them -------------------------------------------------------------------------------------------------- */

typedef struct bench {
    ink_cpu_product i8, bf16, parts;
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
    b->parts = *b->kernels.f32_parts;
    b->i8.begin = b->i8.end = b->bf16.begin = b->bf16.end = b->parts.begin = b->parts.end = NULL;
    b->i8.multiply = multiply_i8;
    b->bf16.multiply = multiply_bf16;
    b->parts.multiply = multiply_parts;
    b->kernels.i8 = &b->i8;
    b->kernels.bf16 = &b->bf16;
    b->kernels.f32_parts = &b->parts;
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

/* ---- f32 in parts -------------------------------------------------------------------------------------------------------- */

static void take_linear(const bench *b, ink_tensor dst, ink_tensor x, const ink_weight *w, const ink_tensor *low) {
    enum { GUARD_BYTES = 1 << 20 };
    static unsigned char guard[GUARD_BYTES];
    size_t bytes = (size_t)ink_packed_bytes(x.rows, 1, w->cols + (low ? low->cols : 0));
    unsigned char *packed = aligned_alloc(64, (bytes + GUARD_BYTES + 63) / 64 * 64);
    assert_non_null(packed);
    memset(packed, 0xff, bytes);
    memset(packed + bytes, 0, GUARD_BYTES);
    b->device.ops->linear(&b->device, dst, x, w, (ink_linear_epilogue){.packed = packed, .low = low});
    assert_memory_equal(packed + bytes, guard, GUARD_BYTES);
    free(packed);
}

static ink_weight weight_of(ink_tensor w) { return (ink_weight){.dtype = INK_F32, .data = w.data, .rows = w.rows, .cols = w.cols}; }

/* Nearly normal, of many sizes; or small integers. */
static void refill(ink_tensor x, bool whole) {
    for (int64_t i = 0; i < x.rows * x.cols; i++)
        x.data[i] = whole ? (float)(int)(5 * number()) : (float)(number() + number() + number());
}

/* Adds row i of x times row j of w. */
static void add_row(ink_tensor x, const ink_weight *w, int64_t i, int64_t j, double *sum, double *magnitude) {
    for (int64_t k = 0; k < x.cols; k++) {
        double right = w->dtype == INK_BF16 ? ink_f32_from_bf16(((const uint16_t *)w->data)[j * x.cols + k])
                                            : ((const float *)w->data)[j * x.cols + k];
        *sum += ink_row(x, i)[k] * right;
        *magnitude += fabs(ink_row(x, i)[k] * right);
    }
}

/*
 * Integers are exact. Of others the roundings of sums are seen: six times their deviation is allowed. A product of parts that is
 * left out, of 2^-16 of what they are parts of, is more.
 */
static void check_f32(const bench *b, int64_t rows, int64_t in, int64_t out, int64_t rank, ink_dtype of_up, bool whole) {
    ink_tensor x = numbers(rows, in), w = numbers(out, in), found = numbers(rows, out);
    ink_tensor low = numbers(rows, rank + 1), up = numbers(out, rank + 1);
    uint16_t *rounded = calloc((size_t)(out * (rank + 1)), sizeof *rounded);
    assert_non_null(rounded);
    low.cols = low.stride = up.cols = up.stride = rank;
    refill(x, whole), refill(w, whole), refill(low, whole), refill(up, whole);
    ink_convert(rounded, INK_BF16, up.data, INK_F32, out * rank);
    ink_weight weight = weight_of(w), branch = weight_of(up);
    if (of_up == INK_BF16) branch.dtype = INK_BF16, branch.data = rounded;
    if (rank > 0) weight.up = &branch;
    n_parts_multiplied = 0;
    take_linear(b, found, x, &weight, rank > 0 ? &low : NULL);
    assert_int_equal(n_parts_multiplied > 0, in >= 16);
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < out; j++) {
            double sum = 0, magnitude = 0;
            add_row(x, &weight, i, j, &sum, &magnitude);
            if (rank > 0) add_row(low, &branch, i, j, &sum, &magnitude);
            double allowed = whole ? 0 : (1 + 12 / sqrt((double)(in + rank))) * 0x1p-24 * magnitude;
            if (!(fabs(ink_row(found, i)[j] - sum) <= allowed))
                fail_msg("[%lld, %lld] to %lld, branch of %lld: [%lld, %lld] is %.9g, must be %.9g, off by %.3g of 2^-24 of all",
                         (long long)rows, (long long)in, (long long)out, (long long)rank, (long long)i, (long long)j,
                         (double)ink_row(found, i)[j], sum, fabs(ink_row(found, i)[j] - sum) / magnitude * 0x1p24);
        }
    free(x.data), free(w.data), free(found.data), free(low.data), free(up.data), free(rounded);
}

/* Both sides of tiles, of steps, of what is multiplied at once, of chunks and of blocks of rows. */
static void test_f32(void **unused) {
    (void)unused;
    bench *b = bench_create(2);
    static const int64_t shapes[][3] = {{1, 1, 1},     {33, 15, 31},   {1, 16, 31},    {33, 31, 129}, {1, 33, 129},
                                        {33, 300, 31}, {31, 1500, 1},  {65, 513, 40},  {2, 1025, 7},  {33, 3072, 8},
                                        {97, 193, 5},  {1100, 67, 33}, {2130, 128, 3}, {384, 1024, 2}};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        for (int whole = 0; whole < 2; whole++) {
            check_f32(b, shapes[i][0], shapes[i][1], shapes[i][2], 0, INK_F32, whole);
            check_f32(b, (shapes[i][0] + 1) % 64, shapes[i][1], shapes[i][2], 1 + shapes[i][0] % 37, i % 2 ? INK_BF16 : INK_F32,
                      whole);
        }
    bench_destroy(b);
}

/* The ends of the range, beside each other: each row is what it is alone, bit for bit, and those that select are exact. */
static void test_range(void **unused) {
    (void)unused;
    enum { N_ROWS = 40, N = 70 };
    bench *b = bench_create(1);
    ink_tensor x = numbers(N_ROWS, N), w = numbers(N, N), found = numbers(N_ROWS, N), alone = numbers(1, N);
    static const float sizes[] = {1, 0x1p-149f, FLT_MAX, 0x1p-61f, 0x1p61f, 0x1p-126f, 0x1p127f, 0};
    enum { N_SIZES = sizeof sizes / sizeof *sizes };
    for (int64_t i = 0; i < N_ROWS; i++)
        for (int64_t j = 0; j < N; j++) {
            bool whole = i < N_SIZES;
            double factor = !whole || sizes[i] == FLT_MAX ? (number() > 0 ? 1 : -1) : sizes[i] < 1 ? (int)(5 * number()) : number();
            ink_row(x, i)[j] = (float)(sizes[i % N_SIZES] * factor * (whole ? 1 : fabs(number())));
        }
    memset(w.data, 0, sizeof(float) * N * N);
    for (int64_t i = 0; i < N; i++) ink_row(w, i)[(7 * i + 3) % N] = i % 2 ? 1 : -1;
    ink_weight weight = weight_of(w);
    take_linear(b, found, x, &weight, NULL);
    for (int64_t i = 0; i < N_ROWS; i++)
        for (int64_t j = 0; j < N; j++)
            if (ink_row(found, i)[j] != (j % 2 ? 1 : -1) * ink_row(x, i)[(7 * j + 3) % N])
                fail_msg("row %lld, column %lld is %.9g", (long long)i, (long long)j, (double)ink_row(found, i)[j]);
    refill(w, false);
    ink_row(x, 9)[5] = INFINITY, ink_row(x, 10)[6] = NAN;
    take_linear(b, found, x, &weight, NULL);
    for (int64_t i = 0; i < N_ROWS; i++) {
        take_linear(b, alone, ink_rows(x, i, 1), &weight, NULL);
        if (i == 9 || i == 10)
            for (int64_t j = 0; j < N; j++) assert_true(isnan(ink_row(found, i)[j]));
        else
            assert_memory_equal(alone.data, ink_row(found, i), N * sizeof(float));
    }
    free(x.data), free(w.data), free(found.data), free(alone.data);
    bench_destroy(b);
}

/* Weights that bf16 would round to infinity, and some that are no numbers: those spoil their own column alone. */
static void test_large_weights(void **unused) {
    (void)unused;
    enum { N_ROWS = 3, N = 40 };
    bench *b = bench_create(1);
    ink_tensor x = numbers(N_ROWS, N), w = numbers(N, N), found = numbers(N_ROWS, N);
    for (int64_t i = 0; i < N_ROWS * N; i++) x.data[i] = i % N ? 0 : 0x1p-3f;
    for (int64_t i = 0; i < N * N; i++) w.data[i] = i % 3 ? FLT_MAX : -0x1.ffp127f;
    ink_row(w, 5)[9] = NAN, ink_row(w, 35)[0] = -INFINITY;
    ink_weight weight = weight_of(w);
    take_linear(b, found, x, &weight, NULL);
    for (int64_t i = 0; i < N_ROWS; i++)
        for (int64_t j = 0; j < N; j++) {
            bool number = j != 5 && j != 35;
            assert_int_equal(isnan(ink_row(found, i)[j]), !number);
            if (number) assert_true(ink_row(found, i)[j] == ink_row(w, j)[0] * 0x1p-3f);
        }
    free(x.data), free(w.data), free(found.data);
    bench_destroy(b);
}

/* A convolution of several blocks of rows, with taps beside the picture: above are subnormal numbers, then zeros, then others. */
static void test_pixels(void **unused) {
    (void)unused;
    enum { WIDTH = 31, HEIGHT = 29, IN = 19, OUT = 35, KERNEL = 3, TAPS = KERNEL * KERNEL };
    bench *b = bench_create(2);
    ink_tensor x = numbers(WIDTH * HEIGHT, IN), w = numbers(OUT, TAPS * IN), bias = numbers(1, OUT);
    ink_tensor found = numbers(WIDTH * HEIGHT, OUT), expected = numbers(WIDTH * HEIGHT, OUT);
    refill(x, true), refill(w, true);
    for (int64_t i = 0; i < WIDTH * 16 * IN; i++) x.data[i] *= i < WIDTH * 14 * IN ? 0x1p-149f : 0;
    memset(bias.data, 0, OUT * sizeof(float));
    ink_conv_shape shape = {HEIGHT, WIDTH, KERNEL, 1, 1, 1, 1, 1, NULL};
    shape.packed = aligned_alloc(64, (size_t)(ink_packed_bytes(x.rows, TAPS, IN) + 63) / 64 * 64);
    assert_non_null(shape.packed);
    ink_weight weight = weight_of(w);
    b->device.ops->conv2d(&b->device, found, x, &weight, bias, NULL, shape);
    b->ref.ops->conv2d(&b->ref, expected, x, &weight, bias, NULL, shape);
    for (int64_t i = 0; i < found.rows * found.cols; i++)
        if (found.data[i] != expected.data[i])
            fail_msg("number %lld is %.9g, must be %.9g", (long long)i, (double)found.data[i], (double)expected.data[i]);
    free(x.data), free(w.data), free(bias.data), free(found.data), free(expected.data), free(shape.packed);
    bench_destroy(b);
}

#else

static void test_integers(void **unused) { (void)unused; }
static void test_branches(void **unused) { (void)unused; }
static void test_decoding(void **unused) { (void)unused; }
static void test_f32(void **unused) { (void)unused; }
static void test_range(void **unused) { (void)unused; }
static void test_large_weights(void **unused) { (void)unused; }
static void test_pixels(void **unused) { (void)unused; }

#endif

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_integers), cmocka_unit_test(test_branches),
                                       cmocka_unit_test(test_decoding), cmocka_unit_test(test_f32),
                                       cmocka_unit_test(test_range),    cmocka_unit_test(test_large_weights),
                                       cmocka_unit_test(test_pixels)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
