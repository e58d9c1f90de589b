/* cpu_roofline.c - the machine's limits, by the kernels of a tier: see roofline.h. */
#include "ops/roofline.h"

#include <string.h>

#include "base/memory.h"
#include "base/system.h"
#include "inkstone.h"
#include "ops/cpu/cpu_ops.h"

enum { COLS = 192, MOST_INNER = 1024 /* numbers of 4 bytes */, TRIALS = 5, CHUNK_BYTES = 1 << 20 };

typedef struct trial {
    const ink_cpu_product *tiles;
    ink_threads *threads;
    int64_t passes;
} trial;

/*
 * A worker multiplies one left panel, as long as the first-level cache holds, with right ones that fill a good part of the second
 * level's, as a product of matrices does. Right ones come first in its workspace, then the left one, then the sums.
 */
static unsigned char *left_panel(const trial *t, unsigned char *workspace) {
    return workspace + COLS * t->tiles->k_near * t->tiles->element_bytes;
}

static float *sums_tile(const trial *t, unsigned char *workspace) {
    return (float *)(void *)(left_panel(t, workspace) + t->tiles->tile_rows * t->tiles->k_near * t->tiles->element_bytes);
}

_Static_assert((COLS + INK_MAX_TILE_ROWS) * MOST_INNER * 4 + INK_MAX_TILE_ROWS * INK_MAX_TILE_COLS * 4 <= INK_WORKSPACE_BYTES,
               "the panels have no room");

/* Random numbers: what is multiplied can set the pace of a processor. */
static void fill(void *context, int64_t task, int64_t worker) {
    (void)task;
    const trial *t = context;
    unsigned char *workspace = ink_threads_workspace(t->threads, worker);
    uint32_t state = 1;
    float numbers[64];
    for (float *at = (float *)(void *)workspace, *end = sums_tile(t, workspace); at < end; at += 64) {
        for (int i = 0; i < 64; i++) {
            state = state * 1664525 + 1013904223;
            numbers[i] = (float)(int32_t)state * 0x1p-31f;
        }
        if (t->tiles->element_bytes == 4)
            memcpy(at, numbers, sizeof numbers);
        else if (t->tiles->integers)
            for (int i = 0; i < 64; i++) state = state * 1664525 + 1013904223, memcpy(at + i, &state, sizeof state);
        else
            for (int half = 0; half < 2; half++) ink_convert((uint16_t *)(void *)at + 64 * half, INK_BF16, numbers, INK_F32, 64);
    }
}

static void multiply(void *context, int64_t task, int64_t worker) {
    (void)task;
    const trial *t = context;
    const ink_cpu_product *tiles = t->tiles;
    unsigned char *workspace = ink_threads_workspace(t->threads, worker);
    if (tiles->begin) tiles->begin();
    for (int64_t pass = 0; pass < t->passes; pass++)
        for (int64_t col = 0; col < COLS; col += tiles->tile_cols)
            tiles->multiply(sums_tile(t, workspace), tiles->tile_cols, left_panel(t, workspace),
                            workspace + col * tiles->k_near * tiles->element_bytes, tiles->k_near, false, NULL);
    if (tiles->end) tiles->end();
}

static double best_rate(const trial *t, const ink_device *device, double seconds) {
    int64_t n = ink_threads_count(device->threads);
    double best = 0, flops = 2.0 * COLS * (double)(t->tiles->k_near * t->tiles->tile_rows * n);
    trial once = *t;
    once.passes = 1;
    /* How many passes fill the time of a trial is found by doubling. */
    for (double took = 0; took < seconds / TRIALS / 2; once.passes *= 2) {
        double began = ink_seconds();
        ink_threads_run(device->threads, n, multiply, &once);
        took = ink_seconds() - began;
    }
    for (int i = 0; i < TRIALS; i++) {
        double began = ink_seconds();
        ink_threads_run(device->threads, n, multiply, &once);
        double rate = flops * (double)once.passes / (ink_seconds() - began);
        if (rate > best) best = rate;
    }
    return best;
}

double ink_cpu_peak_flops(const ink_device *device, ink_dtype weights, double seconds) {
    const ink_cpu_kernels *kernels = ink_cpu_kernels_of(device);
    if (!kernels) return 0;
    trial t = {
        .tiles = weights == INK_I8 ? kernels->i8 : ink_cpu_numbers(kernels, weights), .threads = device->threads, .passes = 1};
    for (int64_t i = 0; i < 4; i++) ink_threads_run(device->threads, ink_threads_count(device->threads), fill, &t);
    return best_rate(&t, device, seconds);
}

/* ---- memory ------------------------------------------------------------------------------------------------------------ */

typedef struct stretch {
    unsigned char *memory;
    uint64_t *sums; /* one for each task, so that reading is not left out */
} stretch;

static void touch_chunk(void *context, int64_t task, int64_t worker) {
    (void)worker;
    const stretch *s = context;
    memset(s->memory + task * CHUNK_BYTES, (int)task, CHUNK_BYTES);
}

static void read_chunk(void *context, int64_t task, int64_t worker) {
    (void)worker;
    const stretch *s = context;
    const uint64_t *words = (const uint64_t *)(const void *)(s->memory + task * CHUNK_BYTES);
    uint64_t sum[8] = {0};
    for (int64_t i = 0; i < CHUNK_BYTES / (int64_t)sizeof *words; i += 8)
        for (int j = 0; j < 8; j++) sum[j] += words[i + j];
    for (int j = 0; j < 8; j++) s->sums[task] += sum[j];
}

/* From chunk 2 i to chunk 2 i + 1: both are visited by one pass. */
static void copy_chunk(void *context, int64_t task, int64_t worker) {
    (void)worker;
    const stretch *s = context;
    memcpy(s->memory + (2 * task + 1) * CHUNK_BYTES, s->memory + 2 * task * CHUNK_BYTES, CHUNK_BYTES);
}

static double best_pass(const ink_device *device, stretch *s, ink_task_fn task, int64_t n_tasks, double bytes, double seconds) {
    double best = 0, began = ink_seconds();
    for (int i = 0; i < 2 || ink_seconds() - began < seconds; i++) {
        double start = ink_seconds();
        ink_threads_run(device->threads, n_tasks, task, s);
        double rate = bytes / (ink_seconds() - start);
        if (rate > best) best = rate;
    }
    return best;
}

ink_bandwidth ink_cpu_bandwidth(const ink_device *device, int64_t bytes, double seconds) {
    ink_bandwidth found = {0, 0};
    int64_t n = bytes / CHUNK_BYTES / 2 * 2;
    stretch s = {.memory = ink_alloc_unset((size_t)n * CHUNK_BYTES), .sums = ink_alloc_array((size_t)n, sizeof *s.sums)};
    if (s.memory && s.sums && n > 0) {
        ink_threads_run(device->threads, n, touch_chunk, &s);
        found.read = best_pass(device, &s, read_chunk, n, (double)n * CHUNK_BYTES, seconds / 2);
        found.copy = best_pass(device, &s, copy_chunk, n / 2, (double)n * CHUNK_BYTES, seconds / 2);
    }
    ink_free(s.memory);
    ink_free(s.sums);
    return found;
}
