/* cpu_rows.c - ops that treat each row on its own: norms, rotations, gated products. */
#include "ops/cpu/cpu_ops.h"

typedef struct row_tasks {
    void (*row_task)(void *context, int64_t first, int64_t last);
    void *context;
    int64_t n, chunk;
} row_tasks;

static void run_chunk(void *context, int64_t i, int64_t worker) {
    (void)worker;
    const row_tasks *tasks = context;
    tasks->row_task(tasks->context, i * tasks->chunk, ink_cpu_min(tasks->n, (i + 1) * tasks->chunk));
}

void ink_cpu_for_rows(const ink_device *d, int64_t n, int64_t cols, void (*row_task)(void *context, int64_t first, int64_t last),
                      void *context) {
    enum { CHUNK_ELEMENTS = 16384 };
    int64_t chunk = cols >= CHUNK_ELEMENTS ? 1 : CHUNK_ELEMENTS / cols;
    row_tasks tasks = {row_task, context, n, chunk};
    ink_threads_run(d->threads, (n + chunk - 1) / chunk, run_chunk, &tasks);
}

/* The arguments of any op of this file. */
typedef struct row_op {
    const ink_cpu_kernels *kernels;
    ink_tensor dst, x, y, w, wk, scale, shift, cos, sin;
    const ink_residual *residual;
    int64_t n_heads;
    float eps;
    bool silu;
} row_op;

static void layernorm_rows(void *context, int64_t first, int64_t last) {
    const row_op *op = context;
    for (int64_t i = first; i < last; i++)
        op->kernels->layernorm_modulate(ink_row(op->dst, i), ink_row(op->x, i), op->scale.data, op->shift.data, op->x.cols,
                                        op->eps);
}

void ink_cpu_layernorm_modulate(const ink_device *d, ink_tensor dst, ink_tensor x, ink_tensor scale, ink_tensor shift, float eps) {
    row_op op = {.kernels = ink_cpu_kernels_of(d), .dst = dst, .x = x, .scale = scale, .shift = shift, .eps = eps};
    ink_cpu_for_rows(d, x.rows, x.cols, layernorm_rows, &op);
}

static void gated_layernorm_rows(void *context, int64_t first, int64_t last) {
    const row_op *op = context;
    const ink_residual *r = op->residual;
    for (int64_t i = first; i < last; i++) {
        float *x = ink_row(r->x, i), *dst = ink_row(op->dst, i), *sum = r->stays ? dst : x;
        for (int k = 0; k < r->n; k++)
            op->kernels->gated_add(sum, k == 0 ? x : sum, r->gate[k].data, ink_row(r->y[k], i), r->x.cols);
        op->kernels->layernorm_modulate(dst, sum, op->scale.data, op->shift.data, r->x.cols, op->eps);
    }
}

void ink_cpu_gated_residual_layernorm_modulate(const ink_device *d, ink_tensor dst, ink_residual r, ink_tensor scale,
                                               ink_tensor shift, float eps) {
    row_op op = {.kernels = ink_cpu_kernels_of(d), .dst = dst, .residual = &r, .scale = scale, .shift = shift, .eps = eps};
    ink_cpu_for_rows(d, r.x.rows, r.x.cols, gated_layernorm_rows, &op);
}

static void rmsnorm_rows(void *context, int64_t first, int64_t last) {
    const row_op *op = context;
    for (int64_t i = first; i < last; i++)
        op->kernels->rmsnorm(ink_row(op->dst, i), ink_row(op->x, i), op->w.data, op->x.cols, op->eps);
}

void ink_cpu_rmsnorm(const ink_device *d, ink_tensor dst, ink_tensor x, ink_tensor w, float eps) {
    row_op op = {.kernels = ink_cpu_kernels_of(d), .dst = dst, .x = x, .w = w, .eps = eps};
    ink_cpu_for_rows(d, x.rows, x.cols, rmsnorm_rows, &op);
}

static void residual_rmsnorm_rows(void *context, int64_t first, int64_t last) {
    const row_op *op = context;
    for (int64_t i = first; i < last; i++) {
        float *x = ink_row(op->x, i);
        op->kernels->gated_add(x, x, NULL, ink_row(op->y, i), op->x.cols);
        op->kernels->rmsnorm(ink_row(op->dst, i), x, op->w.data, op->x.cols, op->eps);
    }
}

void ink_cpu_residual_rmsnorm(const ink_device *d, ink_tensor dst, ink_tensor x, ink_tensor r, ink_tensor w, float eps) {
    row_op op = {.kernels = ink_cpu_kernels_of(d), .dst = dst, .x = x, .y = r, .w = w, .eps = eps};
    ink_cpu_for_rows(d, x.rows, x.cols, residual_rmsnorm_rows, &op);
}

static void rmsnorm_rope_rows(void *context, int64_t first, int64_t last) {
    const row_op *op = context;
    int64_t head_dim = op->x.cols / op->n_heads / 2;
    for (int64_t i = first; i < last; i++)
        for (int64_t head = 0; head < 2 * op->n_heads; head++) {
            float *x = ink_row(op->x, i) + head * head_dim;
            op->kernels->rmsnorm(x, x, head < op->n_heads ? op->w.data : op->wk.data, head_dim, op->eps);
            op->kernels->rope_pairs(x, ink_row(op->cos, i), ink_row(op->sin, i), head_dim / 2);
        }
}

void ink_cpu_rmsnorm_rope(const ink_device *d, ink_tensor qk, ink_tensor wq, ink_tensor wk, ink_tensor cos, ink_tensor sin,
                          int64_t n_heads, float eps) {
    row_op op = {
        .kernels = ink_cpu_kernels_of(d), .x = qk, .w = wq, .wk = wk, .cos = cos, .sin = sin, .n_heads = n_heads, .eps = eps};
    ink_cpu_for_rows(d, qk.rows, qk.cols, rmsnorm_rope_rows, &op);
}

static void rope_half_rows(void *context, int64_t first, int64_t last) {
    const row_op *op = context;
    int64_t head_dim = op->x.cols / op->n_heads;
    for (int64_t i = first; i < last; i++)
        for (int64_t head = 0; head < op->n_heads; head++)
            op->kernels->rope_half(ink_row(op->x, i) + head * head_dim, ink_row(op->cos, i), ink_row(op->sin, i), head_dim / 2);
}

void ink_cpu_rope_half(const ink_device *d, ink_tensor x, ink_tensor cos, ink_tensor sin, int64_t n_heads) {
    row_op op = {.kernels = ink_cpu_kernels_of(d), .x = x, .cos = cos, .sin = sin, .n_heads = n_heads};
    ink_cpu_for_rows(d, x.rows, x.cols, rope_half_rows, &op);
}

static void rmsnorm_channels_rows(void *context, int64_t first, int64_t last) {
    const row_op *op = context;
    for (int64_t i = first; i < last; i++)
        op->kernels->rmsnorm_channels(ink_row(op->dst, i), ink_row(op->x, i), op->w.data, op->x.cols, op->silu);
}

void ink_cpu_rmsnorm_channels(const ink_device *d, ink_tensor dst, ink_tensor x, ink_tensor gamma, bool silu) {
    row_op op = {.kernels = ink_cpu_kernels_of(d), .dst = dst, .x = x, .w = gamma, .silu = silu};
    ink_cpu_for_rows(d, x.rows, x.cols, rmsnorm_channels_rows, &op);
}

static void silu_mul_rows(void *context, int64_t first, int64_t last) {
    const row_op *op = context;
    for (int64_t i = first; i < last; i++)
        op->kernels->silu_mul(ink_row(op->dst, i), ink_row(op->x, i), ink_row(op->y, i), op->x.cols);
}

void ink_cpu_silu_mul(const ink_device *d, ink_tensor dst, ink_tensor a, ink_tensor b) {
    row_op op = {.kernels = ink_cpu_kernels_of(d), .dst = dst, .x = a, .y = b};
    ink_cpu_for_rows(d, a.rows, a.cols, silu_mul_rows, &op);
}
