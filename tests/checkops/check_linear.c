/* check_linear.c - linear with all of its epilogues. */
#include <float.h>
#include <math.h>

#include "checkops.h"
#include "ops/ref/ref_ops.h"

typedef struct linear_case {
    ink_tensor dst, x;
    ink_weight w;
    ink_tensor bias, gate;
    ink_tensor low; /* of a weight with a branch */
    ink_weight up;
    ink_linear_epilogue e;
    bool rounded; /* x and low are bf16 numbers */
} linear_case;

static void call(const ink_device *device, const void *arguments) {
    const linear_case *a = arguments;
    ink_linear_epilogue e = a->e;
    e.packed = room_for_packing(device, ink_packed_bytes(a->x.rows, 1, a->x.cols + (e.low ? a->low.cols : 0)));
    device->ops->linear(device, a->dst, a->x, &a->w, e);
}

static double activate(ink_activation activation, double x) {
    if (activation == INK_ACT_SILU) return x / (1 + exp(-x));
    if (activation == INK_ACT_GELU_TANH) return 0.5 * x * (1 + tanh(0.7978845608028654 * (x + 0.044715 * x * x * x)));
    return x;
}

/*
 * Of F8 weights and may_round, a device takes x in 8 bits too: a row divided by a scale that brings its largest number to 448, or
 * to more than half of that, and rounded to e4m3. One number is then wrong by at most 2^-4 of itself, half a step of its 3 bits,
 * or half a step of the subnormals, 2^-10, times the scale. The errors of a row have nothing to do with each other or with the
 * weights and are spread evenly over a step: their deviation is that bound over the root of 3, that of the sum the root of the sum
 * of squares, and six times that is not seen in the million sums of a run. Short sums are held to the sum of the bounds. Products
 * of 8 bits are summed with 13 bits for a while on some devices.
 */
static double f8_error(ink_tensor x, const ink_weight *w, int64_t i, int64_t j) {
    double largest = 0, sum = 0, squares = 0, magnitude = 0;
    for (int64_t k = 0; k < x.cols; k++) largest = fmax(largest, fabs(ink_row(x, i)[k]));
    for (int64_t k = 0; k < x.cols; k++) {
        double weight = fabs(weight_at(w, j, k)), left = fabs(ink_row(x, i)[k]);
        double error = weight * fmax(0x1p-4 * left, 0x1p-10 * largest / 224);
        sum += error;
        squares += error * error;
        magnitude += left * weight;
    }
    return fmin(sum, 6 * sqrt(squares / 3)) + 0x1p-11 * magnitude;
}

/*
 * Of I8 weights and may_round, the definition takes x in integers: a row divided by a 127th of its largest number and rounded. One
 * is then wrong by up to half of that scale, evenly, and otherwise as above.
 */
static double i8_error(ink_tensor x, const ink_weight *w, int64_t i, int64_t j) {
    double largest = 0, sum = 0, squares = 0;
    for (int64_t k = 0; k < x.cols; k++) largest = fmax(largest, fabs(ink_row(x, i)[k]));
    for (int64_t k = 0; k < x.cols; k++) {
        double error = fabs(weight_at(w, j, k)) * largest / 254 * (1 + 4 * ROUNDING) + SMALLEST;
        sum += error;
        squares += error * error;
    }
    /* Rows below 2^-100 are none. */
    return largest < 0x1p-99 ? 254 * sum : fmin(sum, 6 * sqrt(squares / 3));
}

/* In integers, as the definition says it, in other words. */
static double integer_product(ink_tensor x, const ink_weight *w, int64_t i, int64_t j) {
    float largest = 0, scale;
    for (int64_t k = 0; k < x.cols; k++) {
        if (!isfinite(ink_row(x, i)[k])) return (double)NAN;
        largest = fmaxf(largest, fabsf(ink_row(x, i)[k]));
    }
    if (largest < 0x1p-100f) return 0;
    int64_t sum = 0;
    for (int64_t k = 0; k < x.cols; k++)
        sum += (int64_t)nearbyintf(ink_row(x, i)[k] * (127 / largest)) * ((const int8_t *)w->data)[j * w->cols + k];
    scale = ink_weight_scale(w, w->scales, w->n_scales > 1 ? j : 0);
    return (float)sum * scale * (largest / 127);
}

/* Row i of x times row j of w, as part of a sum of `depth` products, and how far that may be off. */
static void add_products(operand_rounding rounding, ink_tensor x, const ink_weight *w, int64_t i, int64_t j, int64_t depth,
                         bool rounded, double *sum, double *error) {
    double magnitude = 0, operands = 0;
    for (int64_t k = 0; k < x.cols; k++) {
        double left = ink_row(x, i)[k], right = weight_at(w, j, k);
        *sum += left * right;
        magnitude += fabs(left * right);
        operands += fabs(left) + fabs(right);
    }
    /* Shapes that 8-bit products do not take are computed as any other weight's. */
    *error += product_error(rounding == TO_F8 ? TO_BF16 : rounding, w->dtype, depth, magnitude, operands, rounded);
    if (rounding == TO_F8) *error += f8_error(x, w, i, j);
}

/*
 * Sum: product_error, and a sum_factor of the bias. Activation: its slope is at most 1.13, and it may be wrong by some roundings
 * of its argument (1 + tanh cancels). Then a rounding each for gate and dst. Subnormal products have an absolute error. Where a
 * device stores the product in between, as bf16, it rounds that.
 */
static bool stores_between(const checker *c, const ink_linear_epilogue *e) { return c->device.memory && e->may_round && e->gate; }

/* Whether the device does as the definition does with weights in integers: one with memory of its own decodes them. */
static bool takes_integers(const checker *c, const linear_case *a) {
    return ink_weight_takes_integers(&a->w, a->e.may_round) && !c->device.memory;
}

static const double *linear_bound(checker *c, const linear_case *a) {
    double *bound = take_bounds(c, a->dst.rows * a->dst.cols);
    int64_t depth = a->x.cols + (a->e.low ? a->low.cols : 0);
    operand_rounding rounding = !rounds_rows(c, a->w.dtype) ? KEPT : a->e.may_round ? TO_BF16 : TO_TWO_BF16, of_low = rounding;
    if (a->w.dtype == INK_F8_E4M3 && rounding == TO_BF16 && c->device.memory) rounding = TO_F8;
    for (int64_t i = 0; i < a->dst.rows; i++) {
        for (int64_t j = 0; j < a->dst.cols; j++) {
            double sum = 0, error = 0;
            if (takes_integers(c, a)) {
                sum = integer_product(a->x, &a->w, i, j);
                error = ROUNDING * (a->e.low ? sum_factor(depth) : 2) * fabs(sum);
            } else {
                add_products(rounding, a->x, &a->w, i, j, depth, a->rounded, &sum, &error);
                if (ink_weight_takes_integers(&a->w, a->e.may_round)) error += i8_error(a->x, &a->w, i, j);
            }
            if (a->e.low) add_products(of_low, a->low, &a->up, i, j, depth, a->rounded, &sum, &error);
            double bias = a->e.bias ? a->e.bias->data[j] : 0, gate = a->e.gate ? a->e.gate->data[j] : 1;
            double before = a->e.add_to_dst ? ink_row(a->dst, i)[j] : 0;
            if (stores_between(c, &a->e)) error += ONE_TO_BF16 * (fabs(sum) + error) + LEAST_TO_BF16;
            error += ROUNDING * sum_factor(depth) * fabs(bias) + 4 * SMALLEST;
            if (a->e.activation != INK_ACT_NONE) error = 1.13 * error + 8 * ROUNDING * fabs(sum + bias);
            double activated = activate(a->e.activation, sum + bias), value = activated * gate;
            bound[i * a->dst.cols + j] = error * fabs(gate) + 2 * ROUNDING * (fabs(value) + fabs(before)) + SMALLEST;
        }
    }
    return bound;
}

typedef struct shape {
    int64_t rows, in, out;
} shape;

/* Epilogues by number: bit 0 bias, bit 1 gate, bit 2 add, the rest the activation. */
enum { N_EPILOGUES = 24 };

static bool is_packed(ink_dtype dtype) { return dtype != INK_F32 && dtype != INK_BF16; }

static void check_branch(checker *c, shape s, ink_dtype dtype, fill kind, int epilogue, int64_t rank) {
    static const char *const activations[] = {"none", "gelu_tanh", "silu"};
    ink_activation activation = (ink_activation)(epilogue >> 3);
    begin_case(c, "x [%lld, %lld], out %lld, w %s, branch of %lld, %s, activation %s%s%s%s", (long long)s.rows, (long long)s.in,
               (long long)s.out, ink_dtype_name(dtype), (long long)rank, fill_name(kind), activations[activation],
               epilogue & 1 ? ", bias" : "", epilogue & 2 ? ", gate" : "", epilogue & 4 ? ", add" : "");
    bool exact = kind == INTEGERS || kind == ZEROS || kind == SUBNORMALS;
    fill others = exact && kind != SUBNORMALS ? kind : kind == SUBNORMALS ? INTEGERS : NORMAL;
    linear_case a = {.x = take_for(c, NARROW_X, s.rows, s.in, kind, 1)};
    a.w = is_packed(dtype) ? take_packed_weight(c, dtype, s.out, s.in)
                           : take_weight(c, dtype, s.out, s.in, others, exact ? 1 : 0.05);
    fill result_kind = kind == SUBNORMALS ? SUBNORMALS : others;
    a.bias = take_for(c, NARROW_VECTORS, 1, s.out, result_kind, 1);
    a.gate = take_for(c, NARROW_VECTORS, 1, s.out, others, 1);
    /* Unless it is added to, the result may hold anything before. */
    a.dst = epilogue & 4 ? take(c, s.rows, s.out, result_kind, 1) : take_blank(c, s.rows, s.out);
    a.e = (ink_linear_epilogue){.bias = epilogue & 1 ? &a.bias : NULL,
                                .activation = activation,
                                .gate = epilogue & 2 ? &a.gate : NULL,
                                .add_to_dst = (epilogue & 4) != 0,
                                .may_round = c->narrow || random_below(c, 2)};
    if (rank > 0) {
        a.low = take(c, s.rows, rank, kind, 1);
        a.up = take_weight(c, random_below(c, 2) ? INK_BF16 : INK_F32, s.out, rank, others, exact ? 1 : 0.05);
        a.w.up = &a.up;
        a.e.low = &a.low;
    }
    bool rounding = rounds_rows(c, dtype);
    if (rounding && (c->narrow & NARROW_X || random_below(c, 2))) {
        a.rounded = true;
        round_rows(a.x);
        if (rank > 0) round_rows(a.low);
    }
    exact = exact && activation == INK_ACT_NONE && !(rounding && kind == SUBNORMALS) && !stores_between(c, &a.e);
    /* The integers are the same everywhere, and so is a number to which one thing is done. */
    if (is_packed(dtype)) exact = takes_integers(c, &a) && activation == INK_ACT_NONE && rank == 0 && !(epilogue & (epilogue - 1));
    result r = {a.dst, exact ? NULL : linear_bound(c, &a)};
    check_call(c, call, &a, &r, 1);
}

static void check_shape(checker *c, shape s, ink_dtype dtype, fill kind, int epilogue) {
    check_branch(c, s, dtype, kind, epilogue, 0);
}

/* Weights in blocks and groups, around the ends of what is decoded at once. */
static void check_packed(checker *c, ink_dtype dtype) {
    static const shape shapes[] = {{1, 256, 1}, {3, 256, 7}, {5, 512, 33}, {2, 1024, 17}, {13, 768, 9}, {1, 3072, 5}};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        check_shape(c, shapes[i], dtype, NORMAL, (int)random_below(c, N_EPILOGUES));
    if (ink_dtype_block_elements(dtype) <= 32)
        for (int64_t in = 32; in <= 352; in += 32) check_shape(c, (shape){3, in, 21}, dtype, NORMAL, 1);
    if (ink_dtype_is_float(dtype))
        for (int64_t in = 1; in <= 40; in++) check_shape(c, (shape){2, in, 19}, dtype, NORMAL, 0);
    check_branch(c, (shape){3, 256, 20}, dtype, NORMAL, 1, 16);
}

/* Rows that stretch the range of the integers; those with a number that is none become NaN as a whole. */
static void check_nasty_rows(checker *c) {
    enum { ROWS = 10, IN = 300, OUT = 21 };
    begin_case(c, "rows of zeros, outliers, numbers too small and none, in integers");
    linear_case a = {.dst = take_blank(c, ROWS, OUT), .x = take(c, ROWS, IN, NORMAL, 1)};
    a.w = take_packed_weight(c, INK_I8, OUT, IN);
    a.e.may_round = true;
    static const float sizes[ROWS] = {0, 0x1.fp-101f, 0x1.1p-100f, 0x1p-130f, 1, 1, 1, 1, 0x1p126f, 1};
    for (int64_t i = 0; i < ROWS; i++)
        for (int64_t j = 0; j < IN; j++) ink_row(a.x, i)[j] *= sizes[i] / 8;
    for (int64_t j = 0; j < IN; j++) ink_row(a.x, 9)[j] = (float)(random_below(c, 509) - 254); /* half of them are ties */
    int64_t at = random_below(c, IN);
    ink_row(a.x, 9)[at] = 254;
    ink_row(a.x, 1)[at] = sizes[1], ink_row(a.x, 2)[at] = -sizes[2];
    ink_row(a.x, 4)[at] = NAN, ink_row(a.x, 5)[at] = -INFINITY, ink_row(a.x, 6)[at] = FLT_MAX, ink_row(a.x, 7)[at] = -1e6f;
    result r = {a.dst, NULL};
    check_call(c, call, &a, &r, 1);
    for (int64_t j = 0; j < OUT; j++) {
        ink_tensor zero = ink_view((float[]){0}, 1, 1), none = ink_view((float[]){NAN}, 1, 1);
        for (int64_t i = 0; i < ROWS; i++)
            if (i != 2 && i < 6)
                check_equal(c, "rows without a number", (ink_tensor){&ink_row(a.dst, i)[j], 1, 1, 1, INK_F32}, i > 3 ? none : zero,
                            NULL);
    }
}

/* Sums that need all of their 32 bits: numbers and weights of one sign in a row. */
static void check_large_sums(checker *c, shape s) {
    begin_case(c, "x [%lld, %lld], out %lld, large sums of integers", (long long)s.rows, (long long)s.in, (long long)s.out);
    linear_case a = {.dst = take_blank(c, s.rows, s.out), .x = take(c, s.rows, s.in, OFFSET, 1)};
    a.w = take_packed_weight(c, INK_I8, s.out, s.in);
    a.e.may_round = true;
    int8_t *codes = (int8_t *)(uintptr_t)a.w.data;
    for (int64_t i = 0; i < s.rows; i++)
        for (int64_t j = 0; j < s.in; j++) ink_row(a.x, i)[j] *= i % 2 ? -1 : 1;
    for (int64_t i = 0; i < s.out * s.in; i++)
        codes[i] = (int8_t)(i / s.in % 2 ? -128 + random_below(c, 9) : 127 - random_below(c, 9));
    result r = {a.dst, NULL};
    check_call(c, call, &a, &r, 1);
}

/* The definition itself: as near to the product of numbers as rounding to integers allows; and each row is for itself. */
static void check_integer_rows(checker *c, shape s) {
    begin_case(c, "x [%lld, %lld], out %lld, in integers, against numbers, and halves against the whole", (long long)s.rows,
               (long long)s.in, (long long)s.out);
    linear_case a = {.dst = take_blank(c, s.rows, s.out), .x = take(c, s.rows, s.in, MASSIVE, 1)};
    ink_tensor numbers = take_blank(c, s.rows, s.out), parts = take_blank(c, s.rows, s.out);
    a.w = take_packed_weight(c, INK_I8, s.out, s.in);
    double *bound = take_bounds(c, s.rows * s.out);
    for (int64_t i = 0; i < s.rows; i++)
        for (int64_t j = 0; j < s.out; j++)
            bound[i * s.out + j] = i8_error(a.x, &a.w, i, j) + 1e-6 * fabs(integer_product(a.x, &a.w, i, j));
    ink_ref_linear(&c->definition, numbers, a.x, &a.w, a.e);
    a.e.may_round = true;
    call_device(c, call, &a);
    check_equal(c, "integers against numbers", a.dst, numbers, bound);
    for (int half = 0; half < 2; half++) {
        linear_case b = a;
        int64_t first = half ? s.rows / 2 : 0, n = half ? s.rows - s.rows / 2 : s.rows / 2;
        b.x = ink_rows(a.x, first, n);
        b.dst = ink_rows(parts, first, n);
        call_device(c, call, &b);
    }
    check_equal(c, "a half of the rows alone", parts, a.dst, NULL);
}

/* Weights in integers. Where they are multiplied as such, the result is the definition's, bit for bit. */
static void check_integers(checker *c) {
    const int64_t step = c->device.memory ? 7 : 1; /* a device decodes them, as it does others */
    for (int64_t n = 1; n <= 70; n += step) {
        int epilogue = (int)random_below(c, N_EPILOGUES);
        check_shape(c, (shape){n % 41 + 1, n, n % 37 + 1}, INK_I8, NORMAL, epilogue);
        check_shape(c, (shape){n % 7 + 1, 71 - n, n}, INK_I8, NORMAL, 0);
        check_branch(c, (shape){n % 13 + 1, 2 * n, n}, INK_I8, NORMAL, epilogue, 1 + n % 40);
    }
    for (int epilogue = 0; epilogue < N_EPILOGUES; epilogue += (int)step)
        check_shape(c, (shape){13, 67, 37}, INK_I8, (fill)(epilogue % N_FILLS), (epilogue * 5 + 1) % N_EPILOGUES);
    static const shape shapes[] = {{191, 64, 33},  {193, 40, 65},  {97, 257, 19}, {2, 12289, 24}, {1, 18944, 9},
                                   {33, 3072, 20}, {49, 1031, 17}, {1, 1, 1},     {1, 2048, 130}, {14, 6150, 33}};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i += (size_t)step) {
        check_shape(c, shapes[i], INK_I8, NORMAL, 1);
        check_branch(c, shapes[i], INK_I8, MASSIVE, (int)random_below(c, N_EPILOGUES), 17);
    }
    if (c->device.memory) return;
    check_nasty_rows(c);
    check_large_sums(c, (shape){5, 12288, 9});
    check_large_sums(c, (shape){2, 40000, 3});
    check_integer_rows(c, (shape){64, 512, 40});
    check_integer_rows(c, (shape){7, 3000, 130});
}

/* One non-zero weight per output: what comes out is what went in, to the ends of the range, and no order of summation matters. */
static void check_selection(checker *c) {
    enum { ROWS = 7, N = 37 };
    begin_case(c, "largest numbers, one weight per output");
    linear_case a = {.dst = take_blank(c, ROWS, N), .x = take(c, ROWS, N, NORMAL, 1)};
    for (int64_t i = 0; i < ROWS; i++)
        for (int64_t j = 0; j < N; j++) ink_row(a.x, i)[j] = random_below(c, 2) ? FLT_MAX : -FLT_MAX;
    a.w = take_weight(c, INK_F32, N, N, ZEROS, 1);
    float *w = (float *)(uintptr_t)a.w.data;
    for (int64_t j = 0; j < N; j++) w[j * N + random_below(c, N)] = random_below(c, 2) ? 1.0f : -1.0f;
    result r = {a.dst, NULL};
    check_call(c, call, &a, &r, 1);
}

void check_linear(checker *c) {
    /* Every small size in each place, so that every remainder of every tile occurs. */
    for (int64_t n = 1; n <= 40; n++) {
        const shape shapes[] = {{n, 19, 23}, {5, n, 11}, {13, 31, n}, {n, 40 - n + 1, n}};
        for (int i = 0; i < 4; i++) {
            int epilogue = (int)random_below(c, 8);
            check_shape(c, shapes[i], n % 2 ? INK_BF16 : INK_F32, INTEGERS, epilogue);
            check_shape(c, shapes[i], n % 2 ? INK_F32 : INK_BF16, NORMAL, epilogue + 8 * (int)random_below(c, 3));
        }
    }
    /* Around the ends of larger blocks, and the inner sizes of the published models. */
    static const shape shapes[] = {{191, 64, 33}, {193, 255, 65}, {97, 257, 129},  {200, 300, 70},  {400, 48, 130}, {1, 3072, 128},
                                   {3, 3584, 40}, {4, 12288, 24}, {2, 18944, 9},   {17, 3072, 67},  {6, 1176, 80},  {1, 1, 1},
                                   {64, 256, 64}, {192, 512, 64}, {257, 1031, 17}, {12, 1024, 256}, {1, 2048, 300}};
    size_t step = c->narrow && !c->real_shapes ? 3 : 1; /* the stand-in for a device takes its time */
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i += step)
        for (int dtype = 0; dtype < 2; dtype++) {
            check_shape(c, shapes[i], dtype ? INK_BF16 : INK_F32, INTEGERS, (int)random_below(c, 8));
            check_shape(c, shapes[i], dtype ? INK_BF16 : INK_F32, NORMAL, (int)random_below(c, N_EPILOGUES));
        }
    for (int epilogue = 0; epilogue < N_EPILOGUES; epilogue++)
        for (int kind = 0; kind < N_FILLS; kind++)
            check_shape(c, (shape){13, 67, 37}, random_below(c, 2) ? INK_BF16 : INK_F32, (fill)kind, epilogue);
    for (int64_t rank = 1; rank <= 40; rank++) {
        check_branch(c, (shape){1 + rank % 9, 41 - rank, rank}, rank % 2 ? INK_BF16 : INK_F32, INTEGERS, (int)random_below(c, 8),
                     rank);
        check_branch(c, (shape){7, 33, 29}, INK_BF16, NORMAL, (int)random_below(c, N_EPILOGUES), rank);
    }
    check_branch(c, (shape){200, 70, 130}, INK_F32, INTEGERS, 1, 300);
    for (ink_dtype dtype = INK_F32; dtype < INK_OTHER_DTYPE; dtype++)
        if (is_packed(dtype) && takes_weights(c, dtype)) check_packed(c, dtype);
    check_shape(c, (shape){9, 3072, 31}, INK_BF16, MASSIVE, 1);
    check_shape(c, (shape){9, 3072, 31}, INK_F32, OFFSET, 1);
    check_integers(c);
    /* The largest numbers are too large for bf16. */
    if (!c->narrow) check_selection(c);
    if (!c->real_shapes) return;
    static const shape real[] = {{130, 3072, 256}, {1100, 3072, 32}, {16, 12288, 128}, {1, 3072, 4096}, {1024, 64, 512}};
    for (size_t i = 0; i < sizeof real / sizeof *real; i++) {
        check_shape(c, real[i], INK_BF16, NORMAL, (int)random_below(c, N_EPILOGUES));
        if (i == 2 && !c->narrow) check_shape(c, real[i], INK_F8_E4M3, NORMAL, (int)random_below(c, N_EPILOGUES));
    }
}
