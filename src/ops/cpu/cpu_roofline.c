/* cpu_roofline.c - the machine's limits, by the kernels of a tier: see roofline.h. */
#include "ops/roofline.h"

#include <string.h>

#include "base/memory.h"
#include "base/system.h"
#include "inkstone.h"
#include "ops/cpu/cpu_ops.h"

enum { ROWS = 192, INNER = 256, TRIALS = 5, CHUNK_BYTES = 1 << 20 };

/* One thread's left rows, panel and sums. */
typedef struct plate {
    float *left, *panel, *sums; /* [ROWS, INNER], [INNER, tile_cols], [ROWS, tile_cols] */
} plate;

/* Ones and alternating ones: sums return to zero, however often they are added up. */
static void fill_plate(plate *p, float *memory, int64_t tile_cols) {
    *p = (plate){.panel = memory, .sums = memory + INNER * tile_cols, .left = memory + (INNER + ROWS) * tile_cols};
    for (int64_t i = 0; i < ROWS * INNER; i++) p->left[i] = 1;
    for (int64_t i = 0; i < INNER * tile_cols; i++) p->panel[i] = i / tile_cols % 2 ? -1.0f : 1.0f;
}

typedef struct trial {
    const ink_cpu_kernels *kernels;
    const plate *plates; /* one for each task */
    int64_t passes;
} trial;

static void multiply(void *context, int64_t task, int64_t worker) {
    (void)worker;
    const trial *t = context;
    const plate *p = &t->plates[task];
    const float *left[ROWS];
    for (int64_t i = 0; i < ROWS; i++) left[i] = p->left + i * INNER;
    for (int64_t pass = 0; pass < t->passes; pass++)
        for (int64_t i = 0; i < ROWS; i += t->kernels->tile_rows)
            t->kernels->matmul_tile(p->sums + i * t->kernels->tile_cols, left + i, p->panel, INNER);
}

static double best_rate(const trial *t, const ink_device *device, double seconds) {
    int64_t n = ink_threads_count(device->threads);
    double best = 0, flops = 2.0 * ROWS * INNER * (double)t->kernels->tile_cols * (double)n;
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
    (void)weights; /* all of them are widened to f32 when a panel is packed */
    const ink_cpu_kernels *kernels = ink_cpu_kernels_of(device);
    if (!kernels) return 0;
    int64_t n = ink_threads_count(device->threads), floats = ROWS * INNER + (ROWS + INNER) * kernels->tile_cols;
    plate *plates = ink_alloc_array((size_t)n, sizeof *plates);
    float *memory = ink_alloc_array((size_t)(n * floats), sizeof *memory);
    double best = 0;
    if (plates && memory) {
        for (int64_t i = 0; i < n; i++) fill_plate(&plates[i], memory + i * floats, kernels->tile_cols);
        best = best_rate(&(trial){.kernels = kernels, .plates = plates, .passes = 1}, device, seconds);
    }
    ink_free(memory);
    ink_free(plates);
    return best;
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
