/* bench.c - how fast the heavy ops are on shapes of the published networks; a comparison of tiers, not a benchmark of the program.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/system.h"
#include "checkops.h"

/* Operands of any of the ops below. */
typedef struct operands {
    ink_tensor dst, x, row;
    ink_weight w;
    ink_attention_shape attention;
    ink_conv_shape conv;
} operands;

static void linear(const ink_device *d, const void *arguments) {
    const operands *a = arguments;
    d->ops->linear(d, a->dst, a->x, &a->w, (ink_linear_epilogue){.bias = &a->row});
}

static void attention(const ink_device *d, const void *arguments) {
    const operands *a = arguments;
    int64_t dim = a->attention.n_heads * a->attention.head_dim;
    d->ops->attention(d, a->dst, ink_cols(a->x, 0, dim), ink_cols(a->x, dim, dim), ink_cols(a->x, 2 * dim, dim), a->attention);
}

static void conv2d(const ink_device *d, const void *arguments) {
    const operands *a = arguments;
    d->ops->conv2d(d, a->dst, a->x, &a->w, a->row, NULL, a->conv);
}

static void layernorm_modulate(const ink_device *d, const void *arguments) {
    const operands *a = arguments;
    d->ops->layernorm_modulate(d, a->dst, a->x, a->row, a->row, 1e-6f);
}

static void silu_mul(const ink_device *d, const void *arguments) {
    const operands *a = arguments;
    d->ops->silu_mul(d, a->dst, a->x, a->x);
}

static ink_tensor numbers(int64_t rows, int64_t cols) {
    float *data = malloc((size_t)(rows * cols) * sizeof *data);
    if (!data) exit(2);
    for (int64_t i = 0; i < rows * cols; i++) data[i] = (float)(i * 7919 % 2003 - 1001) / 1001;
    return ink_view(data, rows, cols);
}

static ink_weight weight(ink_dtype dtype, int64_t rows, int64_t cols) {
    ink_tensor x = numbers(rows, cols);
    uint16_t *halves = (uint16_t *)(void *)x.data;
    for (int64_t i = 0; dtype == INK_BF16 && i < rows * cols; i++) halves[i] = ink_bf16_from_f32(x.data[i]);
    return (ink_weight){.dtype = dtype, .data = x.data, .rows = rows, .cols = cols};
}

/* The best of several runs, for about half a second: the machine's other work only ever makes a run longer. */
static double seconds(op_call call, const ink_device *device, const operands *a) {
    double best = 1e9, began = ink_seconds();
    for (int runs = 0; runs < 2 || (runs < 1000 && ink_seconds() - began < 0.5); runs++) {
        double start = ink_seconds();
        call(device, a);
        double took = ink_seconds() - start;
        if (took < best) best = took;
    }
    return best;
}

static void time_op(const char *name, op_call call, const operands *a, double work, const char *unit, const char *tier,
                    ink_threads *threads) {
    double first = 0;
    for (int i = 1; ink_device_tier(i); i++) {
        ink_device device;
        const char *why = NULL;
        if (tier && strcmp(tier, ink_device_tier(i)) != 0) continue;
        if (!ink_device_open(&device, ink_device_tier(i), threads, &why)) continue;
        double s = seconds(call, &device, a);
        if (first == 0) first = s;
        printf("%-44s %-6s %9.3f ms %8.1f %s", name, device.tier, 1e3 * s, 1e-9 * work / s, unit);
        if (!tier) printf(" %6.2f x", first / s);
        printf("\n");
    }
    free(a->dst.data);
    free(a->x.data);
    free(a->row.data);
    free((void *)(uintptr_t)a->w.data);
}

void run_bench(const char *tier) {
    ink_threads *threads = ink_threads_create(ink_threads_available());
    if (!threads) exit(2);
    printf("%lld threads; the ratio is to tier %s\n", (long long)ink_threads_count(threads), ink_device_tier(1));
    for (int dtype = 0; dtype < 2; dtype++) {
        const int64_t shapes[][3] = {{512, 1024, 3072}, {512, 3072, 1024}, {16, 3072, 3072}};
        for (int i = 0; i < 3; i++) {
            int64_t n = shapes[i][0], in = shapes[i][1], out = shapes[i][2];
            ink_dtype type = dtype ? INK_BF16 : INK_F32;
            char name[64];
            snprintf(name, sizeof name, "linear [%lld, %lld] to %lld, %s", (long long)n, (long long)in, (long long)out,
                     ink_dtype_name(type));
            operands a = {.dst = numbers(n, out), .x = numbers(n, in), .row = numbers(1, out), .w = weight(type, out, in)};
            time_op(name, linear, &a, 2.0 * (double)(n * in * out), "GFLOP/s", tier, threads);
        }
    }
    operands heads = {
        .dst = numbers(512, 8 * 128), .x = numbers(512, 3 * 8 * 128), .attention = {8, 8, 128, 0.0884f, false, {0, 0}, {0, 0}}};
    time_op("attention 512 tokens, 8 heads of 128", attention, &heads, 4.0 * 512 * 512 * 8 * 128, "GFLOP/s", tier, threads);
    operands wide = {
        .dst = numbers(1024, 384), .x = numbers(1024, 3 * 384), .attention = {1, 1, 384, 0.051f, false, {0, 0}, {0, 0}}};
    time_op("attention 1024 pixels, 1 head of 384", attention, &wide, 4.0 * 1024 * 1024 * 384, "GFLOP/s", tier, threads);
    operands deep = {.dst = numbers(1024, 384),
                     .x = numbers(1024, 384),
                     .row = numbers(1, 384),
                     .w = weight(INK_F32, 384, 9 * 384),
                     .conv = {32, 32, 3, 1, 1, 1}};
    time_op("conv2d 32 x 32, 384 to 384, kernel 3", conv2d, &deep, 2.0 * 1024 * 384 * 384 * 9, "GFLOP/s", tier, threads);
    operands large = {.dst = numbers(16384, 96),
                      .x = numbers(16384, 96),
                      .row = numbers(1, 96),
                      .w = weight(INK_F32, 96, 9 * 96),
                      .conv = {128, 128, 3, 1, 1, 1}};
    time_op("conv2d 128 x 128, 96 to 96, kernel 3", conv2d, &large, 2.0 * 16384 * 96 * 96 * 9, "GFLOP/s", tier, threads);
    operands norm = {.dst = numbers(512, 3072), .x = numbers(512, 3072), .row = numbers(1, 3072)};
    time_op("layernorm_modulate [512, 3072]", layernorm_modulate, &norm, 8.0 * 512 * 3072, "GB/s", tier, threads);
    operands gate = {.dst = numbers(512, 12288), .x = numbers(512, 12288)};
    time_op("silu_mul [512, 12288]", silu_mul, &gate, 12.0 * 512 * 12288, "GB/s", tier, threads);
    ink_threads_destroy(threads);
}
