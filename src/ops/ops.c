/*
 * ops.c - the wrappers: what happens around every op, whatever tier runs it. Shape checks, the dry run, cancellation, the trace,
 * and the comparison with the definition that INK_CHECK asks for. Models see nothing of it.
 */
#include "ops/ops.h"

#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <string.h>

#include "base/memory.h"
#include "base/system.h"

/* ---- around an op ------------------------------------------------------------------------------------------------ */

/* One op on its way: what it writes, for the check, and when it began, for the trace. */
typedef struct op_call {
    const char *name;
    ink_tensor written[2];
    int n_written;
    double work; /* beyond touching what is written */
    double began;
    float *before[2]; /* copies for the check */
} op_call;

/* Sets the sticky status when ok is false. */
__attribute__((format(printf, 3, 4))) static void require(ink_ctx *c, bool ok, const char *format, ...) {
    if (ok || c->status != INK_OK) return;
    char what[256];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(what, sizeof what, format, arguments);
    va_end(arguments);
    c->status = ink_fail(c->error, INK_ERROR_INTERNAL, "%s", what);
}

static bool has_shape(ink_tensor x, int64_t rows, int64_t cols) {
    return x.rows == rows && x.cols == cols && x.stride >= cols && rows > 0 && cols > 0;
}

#define REQUIRE_SHAPE(c, op, x, n, m)                                                                                             \
    require(c, has_shape(x, n, m), "%s: %s is [%" PRId64 ", %" PRId64 "], expected [%" PRId64 ", %" PRId64 "]", op, #x, (x).rows, \
            (x).cols, (int64_t)(n), (int64_t)(m))

static float *copy_of(ink_tensor x) {
    float *copy = ink_alloc_array((size_t)x.rows, (size_t)x.cols * sizeof *copy);
    for (int64_t i = 0; copy && i < x.rows; i++) memcpy(copy + i * x.cols, ink_row(x, i), (size_t)x.cols * sizeof *copy);
    return copy;
}

static void restore(ink_tensor x, const float *copy) {
    for (int64_t i = 0; i < x.rows; i++) memcpy(ink_row(x, i), copy + i * x.cols, (size_t)x.cols * sizeof *copy);
}

/* False when nothing is to be computed. */
static bool begin(ink_ctx *c, op_call *call) {
    for (int i = 0; i < call->n_written; i++) c->work += 10.0 * (double)call->written[i].rows * (double)call->written[i].cols;
    c->work += call->work;
    c->products += call->work;
    if (c->status != INK_OK || ink_ctx_dry(c) || (c->only_products && call->work <= 0)) return false;
    if (c->cancel && atomic_load_explicit(c->cancel, memory_order_relaxed)) {
        c->status = ink_fail(c->error, INK_ERROR_CANCELLED, "cancelled");
        return false;
    }
    for (int i = 0; c->check && i < call->n_written; i++) {
        call->before[i] = copy_of(call->written[i]);
        if (!call->before[i]) c->status = ink_fail(c->error, INK_ERROR_MEMORY, "%s: no memory to check the op", call->name);
    }
    if (c->trace) call->began = ink_seconds();
    return c->status == INK_OK;
}

/* True when the definition must run too: what was written is then as it was before the op. */
static bool end(ink_ctx *c, op_call *call, float *results[2]) {
    const ink_device_memory *memory = c->device->memory;
    if (memory && c->trace) memory->wait(c->device);
    ink_check_device(c);
    if (c->worked) c->worked(c->worked_user);
    if (c->trace) {
        fprintf(c->trace, "%s %s", call->name, c->device->tier);
        for (int i = 0; i < call->n_written; i++)
            fprintf(c->trace, " [%" PRId64 ", %" PRId64 "]", call->written[i].rows, call->written[i].cols);
        fprintf(c->trace, " %.1f us\n", 1e6 * (ink_seconds() - call->began));
    }
    if (!c->check) return false;
    for (int i = 0; i < call->n_written; i++) {
        results[i] = copy_of(call->written[i]);
        if (!results[i]) c->status = ink_fail(c->error, INK_ERROR_MEMORY, "%s: no memory to check the op", call->name);
        restore(call->written[i], call->before[i]);
    }
    return c->status == INK_OK;
}

static void compare(ink_ctx *c, const op_call *call, float *const results[2]) {
    /* Relative L2: far above rounding, far below any wrong term that matters. */
    const double most = c->device->rounds_rows ? 2e-2 : 1e-4;
    for (int i = 0; i < call->n_written; i++) {
        ink_tensor x = call->written[i];
        double difference = 0, norm = 0;
        for (int64_t row = 0; row < x.rows; row++)
            for (int64_t col = 0; col < x.cols; col++) {
                double expected = ink_row(x, row)[col], found = results[i][row * x.cols + col];
                difference += (found - expected) * (found - expected);
                norm += expected * expected;
            }
        double error = sqrt(difference / (norm > 0 ? norm : 1));
        require(c, error <= most,
                "%s on tier %s differs from its definition: output %d [%" PRId64 ", %" PRId64 "], relative L2 %.3g", call->name,
                c->device->tier, i, x.rows, x.cols, error);
    }
}

/* Runs the op of that name in the table of the context's device, and in the one that checks it. */
#define RUN(c, call, op, ...)                                 \
    do {                                                      \
        float *results[2] = {NULL, NULL};                     \
        if (begin(c, call)) {                                 \
            (c)->device->ops->op((c)->device, __VA_ARGS__);   \
            if (end(c, call, results)) {                      \
                (c)->check->ops->op((c)->check, __VA_ARGS__); \
                compare(c, call, results);                    \
            }                                                 \
        }                                                     \
        for (int copy = 0; copy < 2; copy++) {                \
            ink_free((call)->before[copy]);                   \
            ink_free(results[copy]);                          \
        }                                                     \
    } while (0)

static ink_tensor take_scratch(ink_ctx *c, int64_t rows, int64_t cols, ink_dtype type) {
    int64_t n, bytes;
    float *data = NULL;
    if (c->status == INK_OK) {
        if (ink_mul_fits(rows, cols, &n) && ink_mul_fits(n, (int64_t)ink_dtype_size(type), &bytes))
            data = ink_arena_take(c->arena, (size_t)bytes);
        if (!data)
            c->status = ink_fail(c->error, INK_ERROR_MEMORY, "no scratch memory for [%" PRId64 ", %" PRId64 "] numbers", rows,
                                 cols);
    }
    return (ink_tensor){data, rows, cols, cols, type};
}

ink_tensor ink_scratch(ink_ctx *c, int64_t rows, int64_t cols) { return take_scratch(c, rows, cols, INK_F32); }

ink_tensor ink_scratch_rounded(ink_ctx *c, int64_t rows, int64_t cols) {
    return take_scratch(c, rows, cols, c->may_round && c->device && c->device->rounds_scratch ? INK_BF16 : INK_F32);
}

int64_t ink_packed_bytes(int64_t rows, int64_t n_parts, int64_t k) {
    int64_t numbers = n_parts * ((k + INK_PACKED_UNIT - 1) / INK_PACKED_UNIT + 1) * INK_PACKED_UNIT;
    return ink_packed_rows(rows, n_parts) * numbers * (int64_t)sizeof(float);
}

/* Memory for the left rows of a product, until the arena is released; devices with memory of their own see to that themselves. */
static void *take_packed(ink_ctx *c, int64_t rows, int64_t n_parts, int64_t k) {
    if (c->device && c->device->memory) return NULL;
    return ink_scratch(c, 1, ink_packed_bytes(rows, n_parts, k) / (int64_t)sizeof(float)).data;
}

/* ---- the ops ----------------------------------------------------------------------------------------------------- */

void ink_linear(ink_ctx *c, ink_tensor dst, ink_tensor x, const ink_weight *w, ink_linear_epilogue e) {
    REQUIRE_SHAPE(c, "linear", x, dst.rows, w->cols);
    REQUIRE_SHAPE(c, "linear", dst, x.rows, w->rows);
    if (e.bias) REQUIRE_SHAPE(c, "linear bias", *e.bias, 1, w->rows);
    if (e.gate) REQUIRE_SHAPE(c, "linear gate", *e.gate, 1, w->rows);
    size_t mark = ink_arena_mark(c->arena);
    e.may_round = c->may_round;
    e.packed = take_packed(c, x.rows, 1, w->cols + (w->up ? w->up->cols : 0));
    ink_tensor low = x;
    if (w->down) {
        low = ink_scratch(c, x.rows, w->down->rows);
        ink_linear(c, low, x, w->down, (ink_linear_epilogue){0});
    }
    e.low = w->up ? &low : NULL;
    if (c->only_products) {
        dst = take_scratch(c, dst.rows, dst.cols, dst.type);
        e = (ink_linear_epilogue){.bias = e.bias, .may_round = e.may_round, .low = e.low};
    }
    if (w->up) require(c, w->up->rows == w->rows && w->up->cols == low.cols, "linear: its branch has another shape");
    op_call call = {.name = "linear", .written = {dst}, .n_written = 1};
    call.work = (double)dst.rows * (double)w->rows * (double)(w->cols + (w->up ? w->up->cols : 0));
    if (c->observe && c->status == INK_OK && !ink_ctx_dry(c)) c->observe(c->observe_user, x, w);
    RUN(c, &call, linear, dst, x, w, e);
    ink_scratch_release(c, mark);
}

void ink_layernorm_modulate(ink_ctx *c, ink_tensor dst, ink_tensor x, ink_tensor scale, ink_tensor shift, float eps) {
    REQUIRE_SHAPE(c, "layernorm_modulate", dst, x.rows, x.cols);
    REQUIRE_SHAPE(c, "layernorm_modulate", scale, 1, x.cols);
    REQUIRE_SHAPE(c, "layernorm_modulate", shift, 1, x.cols);
    op_call call = {.name = "layernorm_modulate", .written = {dst}, .n_written = 1};
    RUN(c, &call, layernorm_modulate, dst, x, scale, shift, eps);
}

/* What layers are added to for as long as the network is deep is not rounded on the way. */
static void require_stream(ink_ctx *c, const char *op, ink_tensor x) {
    require(c, x.type == INK_F32, "%s: the stream is %s, expected F32", op, ink_dtype_name(x.type));
}

void ink_gated_residual_layernorm_modulate(ink_ctx *c, ink_tensor dst, ink_residual r, ink_tensor scale, ink_tensor shift,
                                           float eps) {
    const char *op = "gated_residual_layernorm_modulate";
    require(c, r.n > 0 && r.n <= INK_MOST_ADDED, "%s: %d layers to add, expected 1 to %d", op, r.n, INK_MOST_ADDED);
    if (c->status != INK_OK) return;
    REQUIRE_SHAPE(c, op, dst, r.x.rows, r.x.cols);
    REQUIRE_SHAPE(c, op, scale, 1, r.x.cols);
    REQUIRE_SHAPE(c, op, shift, 1, r.x.cols);
    require_stream(c, op, r.x);
    for (int i = 0; i < r.n; i++) {
        REQUIRE_SHAPE(c, op, r.gate[i], 1, r.x.cols);
        REQUIRE_SHAPE(c, op, r.y[i], r.x.rows, r.x.cols);
        require(c, r.y[i].type == r.y[0].type, "%s: layers to add are %s and %s, expected one type", op,
                ink_dtype_name(r.y[0].type), ink_dtype_name(r.y[i].type));
    }
    op_call call = {.name = op, .written = {dst, r.x}, .n_written = r.stays ? 1 : 2};
    RUN(c, &call, gated_residual_layernorm_modulate, dst, r, scale, shift, eps);
}

void ink_rmsnorm(ink_ctx *c, ink_tensor dst, ink_tensor x, ink_tensor w, float eps) {
    REQUIRE_SHAPE(c, "rmsnorm", dst, x.rows, x.cols);
    REQUIRE_SHAPE(c, "rmsnorm", w, 1, x.cols);
    op_call call = {.name = "rmsnorm", .written = {dst}, .n_written = 1};
    RUN(c, &call, rmsnorm, dst, x, w, eps);
}

void ink_residual_rmsnorm(ink_ctx *c, ink_tensor dst, ink_tensor x, ink_tensor r, ink_tensor w, float eps) {
    require_stream(c, "residual_rmsnorm", x);
    REQUIRE_SHAPE(c, "residual_rmsnorm", dst, x.rows, x.cols);
    REQUIRE_SHAPE(c, "residual_rmsnorm", r, x.rows, x.cols);
    REQUIRE_SHAPE(c, "residual_rmsnorm", w, 1, x.cols);
    op_call call = {.name = "residual_rmsnorm", .written = {x, dst}, .n_written = 2};
    RUN(c, &call, residual_rmsnorm, dst, x, r, w, eps);
}

/* [n, n_heads * head_dim] with tables [n, head_dim / 2]. */
static void require_rope(ink_ctx *c, const char *op, ink_tensor x, ink_tensor cos, ink_tensor sin, int64_t n_heads) {
    require(c, n_heads > 0 && x.cols % (2 * n_heads) == 0, "%s: %" PRId64 " columns do not make %" PRId64 " heads", op, x.cols,
            n_heads);
    if (c->status != INK_OK) return;
    REQUIRE_SHAPE(c, op, cos, x.rows, x.cols / n_heads / 2);
    REQUIRE_SHAPE(c, op, sin, x.rows, x.cols / n_heads / 2);
}

void ink_rmsnorm_rope(ink_ctx *c, ink_tensor qk, ink_tensor wq, ink_tensor wk, ink_tensor cos, ink_tensor sin, int64_t n_heads,
                      float eps) {
    require_rope(c, "rmsnorm_rope", qk, cos, sin, 2 * n_heads);
    REQUIRE_SHAPE(c, "rmsnorm_rope", wq, 1, 2 * cos.cols);
    REQUIRE_SHAPE(c, "rmsnorm_rope", wk, 1, 2 * cos.cols);
    op_call call = {.name = "rmsnorm_rope", .written = {qk}, .n_written = 1};
    RUN(c, &call, rmsnorm_rope, qk, wq, wk, cos, sin, n_heads, eps);
}

void ink_rope_half(ink_ctx *c, ink_tensor x, ink_tensor cos, ink_tensor sin, int64_t n_heads) {
    require_rope(c, "rope_half", x, cos, sin, n_heads);
    op_call call = {.name = "rope_half", .written = {x}, .n_written = 1};
    RUN(c, &call, rope_half, x, cos, sin, n_heads);
}

/* The rows of x that lie next to each other: one run, or two. */
static int runs_of(ink_tensor runs[2], ink_tensor x, ink_gap gap) {
    int64_t n_first = gap.split < x.rows ? gap.split : x.rows;
    int n = 0;
    if (n_first > 0) runs[n++] = ink_rows(x, 0, n_first);
    if (n_first < x.rows) runs[n++] = ink_rows(x, n_first + gap.rows, x.rows - n_first);
    return n;
}

static void require_gap(ink_ctx *c, const char *of, ink_gap gap) {
    require(c, gap.split >= 0 && gap.rows >= 0, "attention: rows of %s in two runs, the second %" PRId64 " further after %" PRId64,
            of, gap.rows, gap.split);
}

void ink_attention(ink_ctx *c, ink_tensor dst, ink_tensor q, ink_tensor k, ink_tensor v, ink_attention_shape shape) {
    require(c, shape.n_heads > 0 && shape.n_kv_heads > 0 && shape.n_heads % shape.n_kv_heads == 0,
            "attention: %" PRId64 " heads do not share %" PRId64 " key heads", shape.n_heads, shape.n_kv_heads);
    require(c, shape.head_dim > 0 && shape.head_dim <= INK_MAX_HEAD_DIM, "attention: head_dim %" PRId64 " is not in 1..%d",
            shape.head_dim, INK_MAX_HEAD_DIM);
    require(c, shape.scale > 0, "attention: scale %g is not positive", (double)shape.scale);
    require(c, !shape.causal || q.rows == k.rows, "attention: causal with %" PRId64 " queries and %" PRId64 " keys", q.rows,
            k.rows);
    REQUIRE_SHAPE(c, "attention", q, q.rows, shape.n_heads * shape.head_dim);
    REQUIRE_SHAPE(c, "attention", k, k.rows, shape.n_kv_heads * shape.head_dim);
    REQUIRE_SHAPE(c, "attention", v, k.rows, shape.n_kv_heads * shape.head_dim);
    REQUIRE_SHAPE(c, "attention", dst, q.rows, shape.n_heads * shape.head_dim);
    require_gap(c, "q", shape.q_gap);
    require_gap(c, "k", shape.kv_gap);
    op_call call = {.name = "attention"};
    call.n_written = runs_of(call.written, dst, shape.q_gap);
    call.work = 2.0 * (double)q.rows * (double)k.rows * (double)q.cols;
    shape.may_round = c->may_round;
    shape.by_library = c->only_products;
    size_t mark = ink_arena_mark(c->arena);
    if (c->only_products) dst = take_scratch(c, dst.rows + shape.q_gap.rows, dst.cols, dst.type);
    dst.rows = q.rows;
    RUN(c, &call, attention, dst, q, k, v, shape);
    ink_scratch_release(c, mark);
}

void ink_silu_mul(ink_ctx *c, ink_tensor dst, ink_tensor a, ink_tensor b) {
    REQUIRE_SHAPE(c, "silu_mul", dst, a.rows, a.cols);
    REQUIRE_SHAPE(c, "silu_mul", b, a.rows, a.cols);
    op_call call = {.name = "silu_mul", .written = {dst}, .n_written = 1};
    RUN(c, &call, silu_mul, dst, a, b);
}

void ink_conv2d(ink_ctx *c, ink_tensor dst, ink_tensor x, const ink_weight *w, ink_tensor bias, const ink_tensor *residual,
                ink_conv_shape shape) {
    require(c,
            shape.stride > 0 && shape.kernel > 0 && shape.height + shape.pad_above + shape.pad_below >= shape.kernel &&
                shape.width + shape.pad_left + shape.pad_right >= shape.kernel,
            "conv2d: %" PRId64 " x %" PRId64 " pixels are too few", shape.height, shape.width);
    if (c->status != INK_OK) return;
    REQUIRE_SHAPE(c, "conv2d", x, shape.height * shape.width, x.cols);
    REQUIRE_SHAPE(c, "conv2d", dst, ink_conv_out_height(shape) * ink_conv_out_width(shape), w->rows);
    REQUIRE_SHAPE(c, "conv2d", bias, 1, w->rows);
    if (residual) REQUIRE_SHAPE(c, "conv2d residual", *residual, dst.rows, dst.cols);
    require(c, w->cols == shape.kernel * shape.kernel * x.cols, "conv2d: weight has %" PRId64 " columns, expected %" PRId64,
            w->cols, shape.kernel * shape.kernel * x.cols);
    require(c, (w->dtype == INK_F32 || w->dtype == INK_BF16) && !w->up, "conv2d: its weights must be F32 or BF16 without a branch");
    size_t mark = ink_arena_mark(c->arena);
    shape.packed = take_packed(c, dst.rows, shape.kernel * shape.kernel, x.cols);
    op_call call = {.name = "conv2d", .written = {dst}, .n_written = 1};
    call.work = (double)dst.rows * (double)w->rows * (double)w->cols;
    RUN(c, &call, conv2d, dst, x, w, bias, residual, shape);
    ink_arena_release(c->arena, mark);
}

void ink_rmsnorm_channels(ink_ctx *c, ink_tensor dst, ink_tensor x, ink_tensor gamma, bool silu) {
    REQUIRE_SHAPE(c, "rmsnorm_channels", dst, x.rows, x.cols);
    REQUIRE_SHAPE(c, "rmsnorm_channels", gamma, 1, x.cols);
    op_call call = {.name = "rmsnorm_channels", .written = {dst}, .n_written = 1};
    RUN(c, &call, rmsnorm_channels, dst, x, gamma, silu);
}

void ink_upsample2x(ink_ctx *c, ink_tensor dst, ink_tensor x, int64_t height, int64_t width) {
    REQUIRE_SHAPE(c, "upsample2x", x, height * width, x.cols);
    REQUIRE_SHAPE(c, "upsample2x", dst, 4 * height * width, x.cols);
    op_call call = {.name = "upsample2x", .written = {dst}, .n_written = 1};
    RUN(c, &call, upsample2x, dst, x, height, width);
}

void ink_timestep_embed(ink_ctx *c, ink_tensor dst, ink_tensor t) {
    REQUIRE_SHAPE(c, "timestep_embed", t, 1, dst.rows);
    require(c, dst.cols % 2 == 0, "timestep_embed: %" PRId64 " columns are not even", dst.cols);
    op_call call = {.name = "timestep_embed", .written = {dst}, .n_written = 1};
    RUN(c, &call, timestep_embed, dst, t);
}

void ink_unpatchify(ink_ctx *c, ink_tensor dst, ink_tensor latents, ink_tensor mean, ink_tensor std, int64_t height, int64_t width,
                    int64_t patch) {
    require(c, patch > 0 && height % patch == 0 && width % patch == 0,
            "unpatchify: %" PRId64 " x %" PRId64 " is no grid of patches", height, width);
    if (c->status != INK_OK) return;
    REQUIRE_SHAPE(c, "unpatchify", dst, height * width, dst.cols);
    REQUIRE_SHAPE(c, "unpatchify", latents, height * width / (patch * patch), dst.cols * patch * patch);
    REQUIRE_SHAPE(c, "unpatchify", mean, 1, dst.cols);
    REQUIRE_SHAPE(c, "unpatchify", std, 1, dst.cols);
    op_call call = {.name = "unpatchify", .written = {dst}, .n_written = 1};
    RUN(c, &call, unpatchify, dst, latents, mean, std, height, width, patch);
}

void ink_cfg_combine(ink_ctx *c, ink_tensor dst, ink_tensor cond, ink_tensor uncond, float scale) {
    REQUIRE_SHAPE(c, "cfg_combine", dst, cond.rows, cond.cols);
    REQUIRE_SHAPE(c, "cfg_combine", uncond, cond.rows, cond.cols);
    op_call call = {.name = "cfg_combine", .written = {dst}, .n_written = 1};
    RUN(c, &call, cfg_combine, dst, cond, uncond, scale);
}

void ink_euler_step(ink_ctx *c, ink_tensor x, ink_tensor v, float dt) {
    REQUIRE_SHAPE(c, "euler_step", v, x.rows, x.cols);
    op_call call = {.name = "euler_step", .written = {x}, .n_written = 1};
    RUN(c, &call, euler_step, x, v, dt);
}

void ink_copy(ink_ctx *c, ink_tensor dst, ink_tensor x) {
    REQUIRE_SHAPE(c, "copy", dst, x.rows, x.cols);
    op_call call = {.name = "copy", .written = {dst}, .n_written = 1};
    RUN(c, &call, copy, dst, x);
}
