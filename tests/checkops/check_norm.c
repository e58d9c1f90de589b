/* check_norm.c - the normalisations, alone and fused with what comes before and after. */
#include <float.h>
#include <math.h>

#include "checkops.h"

typedef struct norm_case {
    ink_tensor dst, x, y, w, scale, shift;
    ink_residual residual; /* of x */
    float eps;
    bool silu;
} norm_case;

static const int64_t small_widths[] = {1, 2, 3, 5, 7, 8, 13, 15, 16, 17, 31, 32, 33, 37, 40, 64, 101, 128, 255};
enum { N_SMALL_WIDTHS = sizeof small_widths / sizeof *small_widths };

/* Calls check(rows, cols, kind, size, eps) over the shapes and numbers that every normalisation must stand. */
static void sweep(checker *c, void (*check)(checker *c, int64_t rows, int64_t cols, fill kind, double size, float eps)) {
    for (int i = 0; i < N_SMALL_WIDTHS; i++)
        for (int64_t rows = 1; rows <= 9; rows += 4) check(c, rows, small_widths[i], NORMAL, 1, 1e-6f);
    for (int kind = 0; kind < N_FILLS; kind++) {
        check(c, 3, 67, (fill)kind, 1, 1e-6f);
        check(c, 2, 3072, (fill)kind, 1, 1e-6f);
    }
    check(c, 40, 3072, NORMAL, 1, 1e-6f);
    check(c, 1, 3584, NORMAL, 30, 1e-6f);
    if (c->real_shapes) check(c, 400, 3072, NORMAL, 1, 1e-6f);
    /* eps is as large as what it is added to, or far larger. */
    check(c, 5, 128, NORMAL, 1e-3, 1e-6f);
    check(c, 5, 100, NORMAL, 1e-6, 1e-6f);
    check(c, 5, 100, NORMAL, 1, 0.5f);
    check(c, 5, 100, NORMAL, 1e12, 1e-6f);
    check(c, 2, 16, NORMAL, 1e18, 1e-6f);
}

/* ---- layernorm_modulate --------------------------------------------------------------------------------------------- */

static void call_layernorm(const ink_device *device, const void *arguments) {
    const norm_case *a = arguments;
    device->ops->layernorm_modulate(device, a->dst, a->x, a->scale, a->shift, a->eps);
}

/*
 * Some roundings of the normalised and modulated number, and of the mean, measured in deviations: x - mean cannot be better than
 * the mean is known. An operand that is wrong by x_error[j] (NULL: not at all) moves the number, the mean and the deviation.
 */
static void layernorm_bound(double *bound, const float *x, const norm_case *a, const double *x_error) {
    int64_t n = a->x.cols;
    double mean = 0, variance = 0, error = 0;
    for (int64_t j = 0; j < n; j++) mean += x[j] / (double)n;
    for (int64_t j = 0; j < n; j++) variance += (x[j] - mean) * (x[j] - mean) / (double)n;
    for (int64_t j = 0; x_error && j < n; j++) error = fmax(error, x_error[j]);
    double deviation = sqrt(variance + a->eps);
    for (int64_t j = 0; j < n; j++) {
        double normal = (x[j] - mean) / deviation, factor = fabs(1.0 + a->scale.data[j]);
        double relative = ROUNDING * sum_factor(n) + 2 * error / deviation;
        bound[j] = factor * (relative * fabs(normal) + (4 * ROUNDING * fabs(mean) + 2 * error) / deviation) +
                   4 * ROUNDING * (factor * fabs(normal) + fabs(a->shift.data[j])) + SMALLEST;
    }
}

static const double *layernorm_bounds(checker *c, const norm_case *a) {
    double *bound = take_bounds(c, a->x.rows * a->x.cols);
    for (int64_t i = 0; i < a->x.rows; i++) layernorm_bound(bound + i * a->x.cols, ink_row(a->x, i), a, NULL);
    return bound;
}

static norm_case take_norm(checker *c, int64_t rows, int64_t cols, fill kind, double size, float eps) {
    return (norm_case){.dst = take_blank(c, rows, cols),
                       .x = take_for(c, NARROW_X, rows, cols, kind, size),
                       .w = take_for(c, NARROW_VECTORS, 1, cols, NORMAL, 1),
                       .scale = take_for(c, NARROW_VECTORS, 1, cols, NORMAL, 0.5),
                       .shift = take_for(c, NARROW_VECTORS, 1, cols, NORMAL, 0.5),
                       .eps = eps};
}

static void check_layernorm(checker *c, int64_t rows, int64_t cols, fill kind, double size, float eps) {
    begin_case(c, "[%lld, %lld], %s times %g, eps %g", (long long)rows, (long long)cols, fill_name(kind), size, eps);
    norm_case a = take_norm(c, rows, cols, kind, size, eps);
    result r = {a.dst, layernorm_bounds(c, &a)};
    check_call(c, call_layernorm, &a, &r, 1);
}

void check_layernorm_modulate(checker *c) { sweep(c, check_layernorm); }

/* ---- gated_residual_layernorm_modulate ------------------------------------------------------------------------------ */

static void call_gated(const ink_device *device, const void *arguments) {
    const norm_case *a = arguments;
    device->ops->gated_residual_layernorm_modulate(device, a->dst, a->residual, a->scale, a->shift, a->eps);
}

static void check_added(checker *c, int64_t rows, int64_t cols, fill kind, double size, float eps, int n, bool stays,
                        bool in_place) {
    begin_case(c, "[%lld, %lld], %s times %g, eps %g, %d added%s%s", (long long)rows, (long long)cols, fill_name(kind), size, eps,
               n, stays ? ", x stays" : "", in_place ? ", dst is y" : "");
    norm_case a = take_norm(c, rows, cols, kind, size, eps);
    a.residual = (ink_residual){.x = a.x, .n = n, .stays = stays};
    for (int i = 0; i < n; i++) {
        a.residual.gate[i] = take_for(c, NARROW_VECTORS, 1, cols, NORMAL, 1);
        a.residual.y[i] = take_for(c, NARROW_Y, rows, cols, NORMAL, size);
    }
    if (in_place) a.dst = a.residual.y[0];
    /* x: roundings of the products and of the sums. dst: that of x, and then its own. */
    double *x_bound = take_bounds(c, rows * cols), *dst_bound = take_bounds(c, rows * cols);
    ink_tensor sum = take_blank(c, rows, cols);
    for (int64_t i = 0; i < rows; i++) {
        for (int64_t j = 0; j < cols; j++) {
            double exact = ink_row(a.x, i)[j], rounded = 0;
            for (int k = 0; k < n; k++) {
                double product = (double)a.residual.gate[k].data[j] * ink_row(a.residual.y[k], i)[j];
                exact += product;
                rounded += fabs(product) + fabs(exact);
            }
            ink_row(sum, i)[j] = (float)exact;
            x_bound[i * cols + j] = 2 * ROUNDING * rounded + SMALLEST;
        }
        layernorm_bound(dst_bound + i * cols, ink_row(sum, i), &a, x_bound + i * cols);
    }
    const result r[] = {{a.dst, dst_bound}, {a.x, x_bound}};
    check_call(c, call_gated, &a, r, stays ? 1 : 2);
    if (stays) return;

    norm_case parts = a;
    parts.dst = take_blank(c, rows, cols);
    call_device(c, call_layernorm, &parts);
    check_equal(c, "against layernorm_modulate of the stored x", a.dst, parts.dst, layernorm_bounds(c, &parts));
}

static void check_gated(checker *c, int64_t rows, int64_t cols, fill kind, double size, float eps) {
    for (int n = 1; n <= INK_MOST_ADDED; n++)
        for (int stays = 0; stays < 2; stays++)
            for (int in_place = 0; in_place < 2; in_place++) check_added(c, rows, cols, kind, size, eps, n, stays, in_place);
}

void check_gated_residual_layernorm_modulate(checker *c) { sweep(c, check_gated); }

/* ---- rmsnorm, residual_rmsnorm, rmsnorm_channels -------------------------------------------------------------------- */

static void call_rmsnorm(const ink_device *device, const void *arguments) {
    const norm_case *a = arguments;
    device->ops->rmsnorm(device, a->dst, a->x, a->w, a->eps);
}

static void call_residual(const ink_device *device, const void *arguments) {
    const norm_case *a = arguments;
    device->ops->residual_rmsnorm(device, a->dst, a->x, a->y, a->w, a->eps);
}

static void call_channels(const ink_device *device, const void *arguments) {
    const norm_case *a = arguments;
    device->ops->rmsnorm_channels(device, a->dst, a->x, a->w, a->silu);
}

static double sum_of_squares(const float *x, int64_t n) {
    double squares = 0;
    for (int64_t j = 0; j < n; j++) squares += (double)x[j] * x[j];
    return squares;
}

/* All terms of the sum are positive, so the error stays relative to the result. The reciprocal may be subnormal. */
static const double *rmsnorm_bound(checker *c, const norm_case *a) {
    double *bound = take_bounds(c, a->x.rows * a->x.cols);
    int64_t n = a->x.cols;
    for (int64_t i = 0; i < a->x.rows; i++) {
        double rms = sqrt(sum_of_squares(ink_row(a->x, i), n) / (double)n + a->eps);
        for (int64_t j = 0; j < n; j++) {
            double value = ink_row(a->x, i)[j] / rms * a->w.data[j];
            bound[i * n + j] = ROUNDING * sum_factor(n) * fabs(value) +
                               SMALLEST * (1 + fabs(a->w.data[j])) * (1 + fabs(ink_row(a->x, i)[j]));
        }
    }
    return bound;
}

static void check_plain(checker *c, int64_t rows, int64_t cols, fill kind, double size, float eps) {
    bool alike = !(c->narrow & NARROW_X) == !(c->narrow & NARROW_DST);
    for (int in_place = 0; in_place < (alike ? 2 : 1); in_place++) {
        begin_case(c, "[%lld, %lld], %s times %g, eps %g%s", (long long)rows, (long long)cols, fill_name(kind), size, eps,
                   in_place ? ", in place" : "");
        norm_case a = take_norm(c, rows, cols, kind, size, eps);
        if (in_place) a.dst = a.x;
        result r = {a.dst, rmsnorm_bound(c, &a)};
        check_call(c, call_rmsnorm, &a, &r, 1);
    }
}

static void check_largest_rms(checker *c) {
    begin_case(c, "largest numbers");
    norm_case a = take_norm(c, 4, 24, NORMAL, 1, 1e-6f);
    for (int64_t i = 0; i < a.x.rows; i++)
        for (int64_t j = 0; j < a.x.cols; j++) ink_row(a.x, i)[j] = random_below(c, 2) ? FLT_MAX : -FLT_MAX;
    result r = {a.dst, rmsnorm_bound(c, &a)};
    check_call(c, call_rmsnorm, &a, &r, 1);
}

void check_rmsnorm(checker *c) {
    sweep(c, check_plain);
    if (!c->narrow) check_largest_rms(c); /* too large for bf16 */
}

static void check_residual(checker *c, int64_t rows, int64_t cols, fill kind, double size, float eps) {
    for (int in_place = 0; in_place < 2; in_place++) {
        begin_case(c, "[%lld, %lld], %s times %g, eps %g%s", (long long)rows, (long long)cols, fill_name(kind), size, eps,
                   in_place ? ", dst is r" : "");
        norm_case a = take_norm(c, rows, cols, kind, size, eps), sum = a;
        a.y = take_for(c, NARROW_Y, rows, cols, NORMAL, size);
        if (in_place) a.dst = a.y;
        sum.x = take_blank(c, rows, cols);
        for (int64_t i = 0; i < rows; i++)
            for (int64_t j = 0; j < cols; j++) ink_row(sum.x, i)[j] = ink_row(a.x, i)[j] + ink_row(a.y, i)[j];
        /* One addition has one right result. */
        const result r[] = {{a.x, NULL}, {a.dst, rmsnorm_bound(c, &sum)}};
        check_call(c, call_residual, &a, r, 2);

        norm_case parts = a;
        parts.dst = take_blank(c, rows, cols);
        call_device(c, call_rmsnorm, &parts);
        check_equal(c, "against rmsnorm of the stored x", a.dst, parts.dst, rmsnorm_bound(c, &parts));
    }
}

void check_residual_rmsnorm(checker *c) { sweep(c, check_residual); }

static void check_channels(checker *c, int64_t rows, int64_t cols, fill kind, double size, float eps) {
    (void)eps;
    for (int silu = 0; silu < 2; silu++) {
        bool in_place = random_below(c, 2);
        begin_case(c, "[%lld, %lld], %s times %g%s%s", (long long)rows, (long long)cols, fill_name(kind), size,
                   silu ? ", silu" : "", in_place ? ", in place" : "");
        norm_case a = take_norm(c, rows, cols, kind, size, 0);
        a.silu = silu;
        if (in_place) a.dst = a.x;
        double *bound = take_bounds(c, rows * cols);
        for (int64_t i = 0; i < rows; i++) {
            double length = fmax(sqrt(sum_of_squares(ink_row(a.x, i), cols)), 1e-12);
            for (int64_t j = 0; j < cols; j++) {
                double value = ink_row(a.x, i)[j] / length * sqrt((double)cols) * a.w.data[j];
                /* The slope of silu is at most 1.1. */
                bound[i * cols + j] = 1.1 * ROUNDING * (sum_factor(cols) + 8) * fabs(value) +
                                      SMALLEST * (1 + fabs(a.w.data[j])) * (1 + fabs(ink_row(a.x, i)[j]));
            }
        }
        result r = {a.dst, bound};
        check_call(c, call_channels, &a, &r, 1);
    }
}

void check_rmsnorm_channels(checker *c) {
    sweep(c, check_channels);
    /* Lengths about the least one, 1e-12. */
    check_channels(c, 3, 16, NORMAL, 1e-13, 0);
    check_channels(c, 3, 16, NORMAL, 2.5e-13, 0);
    check_channels(c, 3, 16, NORMAL, 1e-30, 0);
    check_channels(c, 200, 96, NORMAL, 1, 0);
    check_channels(c, 100, 384, NORMAL, 1, 0);
}
