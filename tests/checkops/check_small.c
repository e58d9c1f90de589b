/* check_small.c - the ops that go over their operands once. */
#include <float.h>
#include <math.h>

#include "checkops.h"

static const int64_t shapes[][2] = {{1, 1}, {1, 2}, {3, 7}, {7, 16}, {5, 17}, {2, 64}, {31, 33}, {40, 1}, {9, 3072}, {3, 18944}};
enum { N_SHAPES = sizeof shapes / sizeof *shapes };

/* ---- silu_mul -------------------------------------------------------------------------------------------------------- */

typedef struct pair_case {
    ink_tensor dst, a, b;
    float factor;
} pair_case;

static void call_silu_mul(const ink_device *device, const void *arguments) {
    const pair_case *p = arguments;
    device->ops->silu_mul(device, p->dst, p->a, p->b);
}

/* Below a = -80 silu is next to nothing, and may be nothing. */
static const double *silu_bound(checker *c, const pair_case *p) {
    double *bound = take_bounds(c, p->a.rows * p->a.cols);
    for (int64_t i = 0; i < p->a.rows; i++)
        for (int64_t j = 0; j < p->a.cols; j++) {
            double a = ink_row(p->a, i)[j], b = ink_row(p->b, i)[j], value = a / (1 + exp(-a)) * b;
            bound[i * p->a.cols + j] = 12 * ROUNDING * fabs(value) + 200 * exp(-80) * fabs(b) + SMALLEST * (1 + fabs(b));
        }
    return bound;
}

void check_silu_mul(checker *c) {
    static const double sizes[] = {1, 30, 1e-10};
    for (int i = 0; i < N_SHAPES; i++)
        for (int kind = 0; kind < N_FILLS; kind++)
            for (int place = 0; place < 3; place++) {
                static const char *const places[] = {"", ", dst is a", ", dst is b"};
                double size = sizes[random_below(c, 3)];
                begin_case(c, "[%lld, %lld], %s times %g%s", (long long)shapes[i][0], (long long)shapes[i][1],
                           fill_name((fill)kind), size, places[place]);
                pair_case p = {.a = take_for(c, NARROW_X, shapes[i][0], shapes[i][1], (fill)kind, size)};
                p.b = take_for(c, NARROW_X, p.a.rows, p.a.cols, NORMAL, 1);
                p.dst = place == 0 ? take_blank(c, p.a.rows, p.a.cols) : place == 1 ? p.a : p.b;
                result r = {p.dst, silu_bound(c, &p)};
                check_call(c, call_silu_mul, &p, &r, 1);
            }
    if (c->narrow) return; /* they are too large for bf16 */
    static const float ends[] = {FLT_MAX, -FLT_MAX, 87, -87,   88.5f,   -88.5f,   90,    -90,
                                 104,     -104,     0,  -0.0f, FLT_MIN, -FLT_MIN, 1e-45f};
    enum { N_ENDS = sizeof ends / sizeof *ends };
    begin_case(c, "ends of the range");
    pair_case p = {.dst = take_blank(c, 1, N_ENDS), .a = take_blank(c, 1, N_ENDS), .b = take(c, 1, N_ENDS, ZEROS, 1)};
    for (int j = 0; j < N_ENDS; j++) {
        p.a.data[j] = ends[j];
        p.b.data[j] = 1;
    }
    result r = {p.dst, silu_bound(c, &p)};
    check_call(c, call_silu_mul, &p, &r, 1);
}

/* ---- timestep_embed -------------------------------------------------------------------------------------------------- */

static void call_timestep(const ink_device *device, const void *arguments) {
    const pair_case *p = arguments;
    device->ops->timestep_embed(device, p->dst, p->a);
}

void check_timestep_embed(checker *c) {
    static const int64_t halves[] = {1, 2, 7, 16, 33, 128};
    for (int i = 0; i < 6; i++)
        for (int64_t rows = 1; rows <= 51; rows += 25) {
            begin_case(c, "%lld timesteps, %lld columns", (long long)rows, (long long)(2 * halves[i]));
            pair_case p = {.dst = take_blank(c, rows, 2 * halves[i]), .a = take(c, 1, rows, NORMAL, 1)};
            for (int64_t t = 0; t < rows; t++) p.a.data[t] = (float)fmin(fabs(p.a.data[t]), 1);
            p.a.data[0] = 1;
            p.a.data[rows - 1] = rows > 1 ? 0 : 0.984375f;
            /* The angle is defined to the bit, so only the cosine itself may be off. */
            double *bound = take_bounds(c, rows * p.dst.cols);
            for (int64_t j = 0; j < rows * p.dst.cols; j++) bound[j] = 2 * ROUNDING;
            result r = {p.dst, bound};
            check_call(c, call_timestep, &p, &r, 1);
        }
}

/* ---- unpatchify ------------------------------------------------------------------------------------------------------ */

typedef struct unpatchify_case {
    ink_tensor dst, latents, mean, std;
    int64_t height, width, patch;
} unpatchify_case;

static void call_unpatchify(const ink_device *device, const void *arguments) {
    const unpatchify_case *a = arguments;
    device->ops->unpatchify(device, a->dst, a->latents, a->mean, a->std, a->height, a->width, a->patch);
}

void check_unpatchify(checker *c) {
    for (int64_t patch = 1; patch <= 3; patch++)
        for (int64_t n = 1; n <= 8; n++) {
            int64_t height = n * patch, width = (9 - n) * patch, channels = 1 + random_below(c, 20);
            begin_case(c, "%lld x %lld pixels of %lld, patch %lld", (long long)height, (long long)width, (long long)channels,
                       (long long)patch);
            unpatchify_case a = {take_blank(c, height * width, channels),
                                 take(c, n * (9 - n), channels * patch * patch, NORMAL, 1),
                                 take(c, 1, channels, NORMAL, 1),
                                 take(c, 1, channels, NORMAL, 2),
                                 height,
                                 width,
                                 patch};
            double *bound = take_bounds(c, height * width * channels);
            for (int64_t i = 0; i < height * width * channels; i++)
                bound[i] = 4 * ROUNDING * (8 * fabs(a.std.data[i % channels]) + fabs(a.mean.data[i % channels]));
            result r = {a.dst, bound};
            check_call(c, call_unpatchify, &a, &r, 1);
        }
}

/* ---- cfg_combine ----------------------------------------------------------------------------------------------------- */

static void call_cfg(const ink_device *device, const void *arguments) {
    const pair_case *p = arguments;
    device->ops->cfg_combine(device, p->dst, p->a, p->b, p->factor);
}

/* Each element of the mixture has a few roundings of its terms; their length relative to the mixture's moves the whole row. */
static const double *cfg_bound(checker *c, const pair_case *p) {
    int64_t n = p->a.cols;
    double *bound = take_bounds(c, p->a.rows * n);
    for (int64_t i = 0; i < p->a.rows; i++) {
        double cond = 0, mixed = 0, error = 0;
        for (int64_t pass = 0; pass < 2; pass++) {
            double ratio = sqrt(cond / mixed), relative = sqrt(error / mixed) + ROUNDING * sum_factor(n);
            for (int64_t j = 0; j < n; j++) {
                double a = ink_row(p->a, i)[j], b = ink_row(p->b, i)[j], m = b + p->factor * (a - b);
                double e = 4 * ROUNDING * (fabs(b) + fabs(p->factor) * (fabs(a) + fabs(b)));
                if (pass == 0) {
                    cond += a * a;
                    mixed += m * m;
                    error += e * e;
                } else {
                    bound[i * n + j] = ratio * (e + fabs(m) * relative) + SMALLEST;
                }
            }
        }
    }
    return bound;
}

void check_cfg_combine(checker *c) {
    static const float factors[] = {4, 1, 1.5f, 10};
    static const double sizes[] = {1, 1e-6, 1e12};
    for (int i = 0; i < N_SHAPES; i++)
        for (int place = 0; place < 3; place++) {
            static const char *const places[] = {"", ", dst is cond", ", dst is uncond"};
            double size = sizes[random_below(c, 3)];
            pair_case p = {.factor = factors[random_below(c, 4)]};
            begin_case(c, "[%lld, %lld], normal times %g, scale %g%s", (long long)shapes[i][0], (long long)shapes[i][1], size,
                       p.factor, places[place]);
            p.a = take(c, shapes[i][0], shapes[i][1], NORMAL, size);
            p.b = take(c, p.a.rows, p.a.cols, NORMAL, size);
            p.dst = place == 0 ? take_blank(c, p.a.rows, p.a.cols) : place == 1 ? p.a : p.b;
            result r = {p.dst, cfg_bound(c, &p)};
            check_call(c, call_cfg, &p, &r, 1);
        }
}

/* ---- euler_step ------------------------------------------------------------------------------------------------------ */

static void call_euler(const ink_device *device, const void *arguments) {
    const pair_case *p = arguments;
    device->ops->euler_step(device, p->a, p->b, p->factor);
}

void check_euler_step(checker *c) {
    for (int i = 0; i < N_SHAPES; i++)
        for (int kind = 0; kind < N_FILLS; kind++) {
            begin_case(c, "[%lld, %lld], %s", (long long)shapes[i][0], (long long)shapes[i][1], fill_name((fill)kind));
            pair_case p = {.a = take(c, shapes[i][0], shapes[i][1], (fill)kind, 1), .factor = kind == INTEGERS ? -0.5f : -0.0317f};
            p.b = take(c, p.a.rows, p.a.cols, kind == INTEGERS ? INTEGERS : NORMAL, 1);
            double *bound = take_bounds(c, p.a.rows * p.a.cols);
            for (int64_t row = 0; row < p.a.rows; row++)
                for (int64_t j = 0; j < p.a.cols; j++) {
                    double x = ink_row(p.a, row)[j], step = (double)p.factor * ink_row(p.b, row)[j];
                    bound[row * p.a.cols + j] = 2 * ROUNDING * (fabs(x + step) + fabs(step)) + SMALLEST;
                }
            result r = {p.a, kind == INTEGERS ? NULL : bound};
            check_call(c, call_euler, &p, &r, 1);
        }
}

/* ---- copy ------------------------------------------------------------------------------------------------------------ */

static void call_copy(const ink_device *device, const void *arguments) {
    const pair_case *p = arguments;
    device->ops->copy(device, p->dst, p->a);
}

void check_copy(checker *c) {
    for (int i = 0; i < N_SHAPES; i++)
        for (int kind = 0; kind < N_FILLS; kind++) {
            begin_case(c, "[%lld, %lld], %s", (long long)shapes[i][0], (long long)shapes[i][1], fill_name((fill)kind));
            pair_case p = {.a = take_for(c, NARROW_X, shapes[i][0], shapes[i][1], (fill)kind, 1)};
            p.dst = take_blank(c, p.a.rows, p.a.cols);
            result r = {p.dst, NULL};
            check_call(c, call_copy, &p, &r, 1);
        }
}
