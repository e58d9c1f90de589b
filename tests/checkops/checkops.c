/* checkops.c - guarded memory, random numbers, and the comparison of a tier with the definition. */
#include "checkops.h"
#include "base/memory.h"
#include "inkstone.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MEMORY_BYTES = 48 << 20, REAL_BYTES = 192 << 20, N_BOUNDS = 1 << 22, GUARD_BYTES = 256, ALIGNED = 512, MOST_PRINTED = 8 };

static void *need(void *memory) {
    if (memory) return memory;
    fprintf(stderr, "checkops: no memory\n");
    exit(2);
}

void checker_create(checker *c, uint64_t seed) {
    const char *why = NULL;
    *c = (checker){.seed = seed};
    for (int i = 0; i < N_THREAD_COUNTS; i++) c->threads[i] = need(ink_threads_create(i + 1));
    if (!ink_device_open(&c->definition, "ref", NULL, &why)) {
        fprintf(stderr, "checkops: no tier ref: %s\n", why);
        exit(2);
    }
    c->bounds = need(malloc(N_BOUNDS * sizeof *c->bounds));
}

void checker_destroy(checker *c) {
    for (int i = 0; i < N_THREAD_COUNTS; i++) ink_threads_destroy(c->threads[i]);
    free(c->bounds);
}

static void *take_block(const ink_device *device, size_t bytes) {
    return need(device->memory ? device->memory->alloc_shared(device, bytes) : malloc(bytes));
}

static void release_block(const ink_device *device, void *block) {
    if (device->memory)
        device->memory->release_shared(device, block);
    else
        free(block);
}

void checker_open(checker *c, const ink_device *device) {
    c->device = c->narrowing = *device;
    c->narrowing.ops = &narrowing_ops;
    c->narrowing.kernels = c;
    c->memory_bytes = c->real_shapes ? REAL_BYTES : MEMORY_BYTES;
    c->memory_used = 0;
    c->aligned = false;
    c->memory = take_block(device, c->memory_bytes);
    c->snapshot = need(malloc(c->memory_bytes));
    if (!device->rounds_scratch) return;
    c->halves = take_block(device, c->memory_bytes / 2);
    c->halves_before = need(malloc(c->memory_bytes / 2));
}

void checker_close(checker *c) {
    release_block(&c->device, c->memory);
    if (c->halves) release_block(&c->device, c->halves);
    free(c->snapshot);
    free(c->halves_before);
    c->memory = c->snapshot = NULL;
    c->halves = c->halves_before = NULL;
}

void checker_begin(checker *c, const char *op, unsigned narrow) {
    c->op = op;
    c->narrow = narrow;
    c->n_narrowed = 0;
    c->n_cases = c->n_failures = c->n_printed = 0;
    c->worst = 0;
    c->random = c->seed;
    for (const char *letter = op; *letter; letter++) c->random = (c->random ^ (unsigned char)*letter) * UINT64_C(0x100000001b3);
}

/* ---- random numbers ----------------------------------------------------------------------------------------------- */

/* splitmix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", 2014) */
uint64_t random_bits(checker *c) {
    uint64_t z = c->random += UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

int64_t random_below(checker *c, int64_t n) { return (int64_t)(random_bits(c) >> 11) % n; }

double random_normal(checker *c) {
    double u = (double)((random_bits(c) >> 11) + 1) * 0x1p-53, v = (double)(random_bits(c) >> 11) * 0x1p-53;
    return sqrt(-2 * log(u)) * cos(6.283185307179586 * v);
}

/* ---- tensors ------------------------------------------------------------------------------------------------------ */

void begin_case(checker *c, const char *format, ...) {
    c->memory_used = 0;
    if (c->device.memory) c->aligned = random_below(c, 2);
    c->bounds_used = 0;
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(c->label, sizeof c->label, format, arguments);
    va_end(arguments);
}

/* Bytes with a guard on either side, at an address that is a multiple of their element's size and, but where that is asked for, of
   no more on purpose. Weights that are not of floats are uploaded to a device with memory of its own, so they are aligned there. */
static void *take_bytes(checker *c, size_t n_bytes, size_t element) {
    size_t start = c->memory_used + GUARD_BYTES + element * (size_t)random_below(c, 32);
    if (c->aligned || (element == 1 && c->device.memory)) element = ALIGNED;
    start = (start + element - 1) / element * element;
    if (start + n_bytes + GUARD_BYTES > c->memory_bytes) {
        fprintf(stderr, "checkops: the case %s is too large\n", c->label);
        exit(2);
    }
    size_t used = c->memory_used;
    c->memory_used = (start + n_bytes + GUARD_BYTES + sizeof(float) - 1) / sizeof(float) * sizeof(float);
    memset(c->memory + used, 0xff, c->memory_used - used);
    return c->memory + start;
}

const char *fill_name(fill kind) {
    static const char *const names[N_FILLS] = {"normal", "integers", "zeros", "massive", "offset", "subnormals"};
    return names[kind];
}

static double sample(checker *c, fill kind, bool massive_column) {
    switch (kind) {
    case INTEGERS: return (double)random_below(c, 9) - 4;
    case SUBNORMALS: return ((double)random_below(c, 9) - 4) * SMALLEST;
    case ZEROS: return random_below(c, 2) ? -0.0 : 0.0;
    case OFFSET: return 1000 + 0.01 * random_normal(c);
    case MASSIVE: return random_normal(c) * (massive_column ? 1e4 : 1);
    case NORMAL:
    case N_FILLS: break;
    }
    return random_normal(c);
}

ink_tensor take_blank(checker *c, int64_t rows, int64_t cols) {
    int64_t stride = cols + (random_below(c, 3) ? random_below(c, 20) : 0);
    if (c->aligned && stride > cols) stride = (stride + 15) / 16 * 16;
    return (ink_tensor){take_bytes(c, (size_t)(rows * stride) * sizeof(float), sizeof(float)), rows, cols, stride, INK_F32};
}

ink_tensor take(checker *c, int64_t rows, int64_t cols, fill kind, double size) {
    ink_tensor x = take_blank(c, rows, cols);
    int64_t massive = random_below(c, cols);
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < cols; j++) ink_row(x, i)[j] = (float)(size * sample(c, kind, j == massive));
    return x;
}

ink_tensor take_for(checker *c, narrow_role role, int64_t rows, int64_t cols, fill kind, double size) {
    ink_tensor x = take(c, rows, cols, kind, size);
    if (c->narrow & role) round_rows(x);
    return x;
}

ink_weight take_weight(checker *c, ink_dtype dtype, int64_t rows, int64_t cols, fill kind, double size) {
    void *data = take_bytes(c, (size_t)(rows * cols) * ink_dtype_size(dtype), ink_dtype_size(dtype));
    int64_t massive = random_below(c, cols);
    for (int64_t i = 0; i < rows * cols; i++) {
        float value = (float)(size * sample(c, kind, i % cols == massive));
        if (dtype == INK_BF16)
            ((uint16_t *)data)[i] = ink_bf16_from_f32(value);
        else
            ((float *)data)[i] = value;
    }
    return (ink_weight){.dtype = dtype, .data = data, .rows = rows, .cols = cols};
}

/* Numbers that a decoder may read, in the type that scales have. */
static void *take_scales(checker *c, ink_dtype dtype, int64_t n, double least, double most) {
    static const uint16_t halves[] = {0x2c00, 0x3000, 0x3400, 0x3800}; /* 1/16 to 1/2 in f16 */
    unsigned char *scales = take_bytes(c, (size_t)n * ink_dtype_size(dtype), 1);
    for (int64_t i = 0; i < n; i++) {
        float value = (float)(least + (most - least) * (double)random_below(c, 1000) / 1000);
        uint16_t bits = dtype == INK_F16 ? (uint16_t)(halves[random_below(c, 4)] | (value < 0 ? 0x8000 : 0))
                                         : ink_bf16_from_f32(value);
        if (dtype == INK_F32)
            memcpy(scales + 4 * i, &value, sizeof value);
        else
            memcpy(scales + 2 * i, &bits, sizeof bits);
    }
    return scales;
}

/* Random bytes, again until their numbers are small: a block's own scales may be anything. */
static void fill_block(checker *c, const ink_weight *w, unsigned char *bytes, int64_t row, int64_t col, int64_t elements) {
    float values[INK_MAX_GROUP];
    int64_t n = ink_dtype_block_bytes(w->dtype);
    for (bool small = false; !small;) {
        for (int64_t i = 0; i < n; i++) bytes[i] = (unsigned char)random_bits(c);
        ink_weight_decode(values, w, row, col, elements);
        small = true;
        for (int64_t i = 0; i < elements; i++) small = small && fabsf(values[i]) < 8;
    }
}

ink_weight take_packed_weight(checker *c, ink_dtype dtype, int64_t rows, int64_t cols) {
    static const ink_dtype scale_dtypes[] = {INK_F32, INK_BF16, INK_F16};
    int64_t elements = ink_dtype_block_elements(dtype), block_bytes = ink_dtype_block_bytes(dtype),
            n_blocks = rows * cols / elements;
    unsigned char *bytes = take_bytes(c, (size_t)(n_blocks * block_bytes), 1);
    ink_weight w = {.dtype = dtype, .data = bytes, .rows = rows, .cols = cols, .scale_dtype = scale_dtypes[random_below(c, 3)]};
    if (dtype == INK_AFFINE_4 || dtype == INK_AFFINE_8) {
        w.group = cols % 128 == 0 && random_below(c, 2) ? 128 : cols % 64 == 0 ? 64 : 32;
        w.scales = take_scales(c, w.scale_dtype, rows * cols / w.group, 0.001, 0.01);
        w.biases = take_scales(c, w.scale_dtype, rows * cols / w.group, -2, 1);
        for (int64_t i = 0; i < n_blocks * block_bytes; i++)
            bytes[i] = (unsigned char)random_bits(c) & (dtype == INK_AFFINE_8 ? 15 : 255);
        return w;
    }
    if (dtype == INK_I8) {
        for (int64_t i = 0; i < rows * cols; i++) bytes[i] = (unsigned char)random_bits(c);
        w.n_scales = random_below(c, 4) ? rows : 1;
        w.scales = take_scales(c, w.scale_dtype, w.n_scales, 0.001, 0.01);
        return w;
    }
    for (int64_t i = 0; i < n_blocks; i++)
        fill_block(c, &w, bytes + i * block_bytes, i * elements / cols, i * elements % cols, elements);
    if (dtype == INK_F8_E4M3 && random_below(c, 3)) {
        w.n_scales = random_below(c, 2) ? rows : 1;
        w.scales = take_scales(c, w.scale_dtype, w.n_scales, 0.1, 0.9);
    }
    return w;
}

double weight_at(const ink_weight *w, int64_t row, int64_t col) {
    int64_t i = row * w->cols + col;
    if (w->dtype == INK_F32) return ((const float *)w->data)[i];
    if (w->dtype == INK_BF16) return ink_f32_from_bf16(((const uint16_t *)w->data)[i]);
    float values[INK_MAX_GROUP];
    int64_t n = w->group ? w->group : ink_dtype_block_elements(w->dtype);
    ink_weight_decode(values, w, row, col / n * n, n);
    return values[col % n];
}

bool takes_weights(const checker *c, ink_dtype dtype) { return !c->device.memory || dtype < INK_Q8_0 || dtype >= INK_AFFINE_4; }

double *take_bounds(checker *c, int64_t n) {
    if (c->bounds_used + (size_t)n > N_BOUNDS) {
        fprintf(stderr, "checkops: the case %s is too large\n", c->label);
        exit(2);
    }
    c->bounds_used += (size_t)n;
    return c->bounds + c->bounds_used - n;
}

void *room_for_packing(const ink_device *device, int64_t bytes) {
    static void *room;
    static int64_t size;
    if (device->memory) return NULL;
    if (bytes > size) {
        ink_free(room);
        size = (bytes + 63) / 64 * 64;
        room = ink_alloc_unset((size_t)size);
        if (!room) exit(2);
    }
    return room;
}

double sum_factor(int64_t n) { return 8 + 4 * sqrt((double)n); }

bool rounds_rows(const checker *c, ink_dtype dtype) { return dtype != INK_F32 && c->device.rounds_rows; }

void round_rows(ink_tensor x) {
    for (int64_t i = 0; i < x.rows; i++)
        for (int64_t j = 0; j < x.cols; j++) ink_row(x, i)[j] = ink_f32_from_bf16(ink_bf16_from_f32(ink_row(x, i)[j]));
}

/* BFMMLA takes products exactly and rounds their sums to odd, which may be off by twice as much as to nearest; what is smaller
   than a normal number counts as zero, before and after, here and with AMX. */
double product_error(operand_rounding rounding, ink_dtype dtype, int64_t n, double magnitude, double operands, bool rounded) {
    if (rounding == KEPT) return ROUNDING * sum_factor(n) * magnitude + SMALLEST * (double)n;
    const double of_one = ONE_TO_BF16;
    double of_rows = (rounded ? 0 : rounding == TO_BF16 ? of_one : of_one * of_one) + (dtype == INK_BF16 ? 0 : 1.01 * of_one);
    return (of_rows + 2 * ROUNDING * sum_factor(n)) * magnitude + 0x1p-126 * (operands + (double)n);
}

/* ---- judgement ---------------------------------------------------------------------------------------------------- */

const char *narrow_name(unsigned narrow) {
    static char name[64];
    snprintf(name, sizeof name, "%s%s%s%s%s", narrow ? ", bf16" : "", narrow & NARROW_X ? " x" : "", narrow & NARROW_Y ? " y" : "",
             narrow & NARROW_DST ? " dst" : "", narrow & NARROW_VECTORS ? " vectors" : "");
    return name;
}

__attribute__((format(printf, 2, 3))) static void fail(checker *c, const char *format, ...) {
    c->n_failures++;
    if (c->quiet || c->n_printed > MOST_PRINTED) return;
    if (c->n_printed++ == MOST_PRINTED) {
        printf("  ... and more\n");
        return;
    }
    printf("FAIL %s %s%s (%s): ", c->device.tier, c->op, narrow_name(c->narrow), c->label);
    va_list arguments;
    va_start(arguments, format);
    vprintf(format, arguments);
    va_end(arguments);
    printf("\n     repeat: checkops --seed %llu --op %s --tier %s\n", (unsigned long long)c->seed, c->op, c->device.tier);
}

void settle(checker *c) {
    if (!c->device.memory) return;
    c->device.memory->wait(&c->device);
    const char *failure = c->device.memory->failure(&c->device);
    if (!failure) return;
    fail(c, "the device has failed: %s", failure);
    longjmp(c->stop, 1);
}

void call_device(checker *c, op_call call, const void *arguments) {
    call(c->narrow ? &c->narrowing : &c->device, arguments);
    settle(c);
}

/* The checker knows all copies: a failure of the device leaves check_call in the middle. */
static float *copy_of(checker *c, ink_tensor x) {
    float *copy = need(malloc((size_t)(x.rows * x.cols) * sizeof *copy));
    c->copies[c->n_copies++] = copy;
    for (int64_t i = 0; i < x.rows; i++) memcpy(copy + i * x.cols, ink_row(x, i), (size_t)x.cols * sizeof *copy);
    return copy;
}

static void free_copy(checker *c, float *copy) {
    for (int i = 0; i < c->n_copies; i++)
        if (c->copies[i] == copy) c->copies[i--] = c->copies[--c->n_copies];
    free(copy);
}

void free_copies(checker *c) {
    while (c->n_copies > 0) free_copy(c, c->copies[0]);
}

static void put_back(ink_tensor x, const float *copy) {
    for (int64_t i = 0; i < x.rows; i++) memcpy(ink_row(x, i), copy + i * x.cols, (size_t)x.cols * sizeof *copy);
}

/* Runs the call on the device under test, or the definition, and takes its results away, so that all memory is as it was before. */
static void run_once(checker *c, bool defines, op_call call, const void *arguments, const result *results, int n_results,
                     float *found[]) {
    memcpy(c->snapshot, c->memory, c->memory_used);
    if (defines)
        call(&c->definition, arguments);
    else
        call_device(c, call, arguments);
    for (int r = 0; r < n_results; r++) {
        ink_tensor view = results[r].view;
        found[r] = copy_of(c, view);
        ink_tensor old = view;
        old.data = (float *)(void *)(c->snapshot + ((unsigned char *)view.data - c->memory));
        for (int64_t i = 0; i < view.rows; i++) memcpy(ink_row(view, i), ink_row(old, i), (size_t)view.cols * sizeof(float));
    }
    if (memcmp(c->memory, c->snapshot, c->memory_used) == 0) return;
    size_t at = 0;
    while (c->memory[at] == c->snapshot[at]) at++;
    const char *place = "an operand or its surroundings";
    for (int r = 0; r < n_results; r++) {
        ink_tensor view = results[r].view;
        const unsigned char *first = (const unsigned char *)view.data;
        if (c->memory + at >= first - GUARD_BYTES / 2 &&
            c->memory + at < (const unsigned char *)ink_row(view, view.rows) + GUARD_BYTES / 2)
            place = "memory next to a row of the result";
    }
    fail(c, "%s changed %s", defines ? "ref" : c->device.tier, place);
    memcpy(c->memory, c->snapshot, c->memory_used);
}

/* n_roundings: how many roundings to bf16 lie between the two, none of which is counted in the bound. */
static void compare(checker *c, const char *what, int64_t rows, int64_t cols, const float *found, const float *exact,
                    const double *bound, int n_roundings) {
    for (int64_t i = 0; i < rows * cols; i++) {
        float expected = n_roundings && !bound ? ink_round_to_bf16(exact[i]) : exact[i];
        double difference = fabs((double)found[i] - expected), allowed = bound ? bound[i] : 0;
        if (bound && n_roundings) allowed += n_roundings * (ONE_TO_BF16 * (fabs((double)expected) + allowed) + LEAST_TO_BF16);
        if (found[i] == expected || (isnan(found[i]) && isnan(expected))) continue;
        if (allowed > 0 && difference / allowed > c->worst) c->worst = difference / allowed;
        if (difference <= allowed) continue;
        fail(c, "%s: row %lld of %lld, column %lld of %lld is %.9g, must be %.9g, off by %.3g, allowed %.3g", what,
             (long long)(i / cols), (long long)rows, (long long)(i % cols), (long long)cols, found[i], expected, difference,
             allowed);
        return;
    }
}

void check_call(checker *c, op_call call, const void *arguments, const result *results, int n_results) {
    static const int threads[] = {0, 1, 2, 0}, no_threads[] = {0, 0}; /* into c->threads */
    const int *runs = c->device.memory ? no_threads : threads, n_runs = c->device.memory ? 2 : 4;
    c->n_cases++;
    float *expected[2], *first[2];
    run_once(c, true, call, arguments, results, n_results, expected);
    for (int i = 0; i < n_runs; i++) {
        float *found[2];
        c->device.threads = c->threads[runs[i]];
        run_once(c, false, call, arguments, results, n_results, found);
        for (int r = 0; r < n_results; r++) {
            ink_tensor view = results[r].view;
            if (i == 0) {
                first[r] = found[r];
                compare(c, "against the definition", view.rows, view.cols, found[r], expected[r], results[r].bound,
                        was_narrowed(c, view.data));
                continue;
            }
            if (memcmp(found[r], first[r], (size_t)(view.rows * view.cols) * sizeof(float)) != 0)
                fail(c, "the bits change with %s", runs[i] ? "the number of threads" : "the run");
            free_copy(c, found[r]);
        }
    }
    for (int r = 0; r < n_results; r++) {
        put_back(results[r].view, first[r]);
        free_copy(c, first[r]);
        free_copy(c, expected[r]);
    }
    if (c->quiet && c->n_failures > 0) longjmp(c->stop, 1);
}

void check_equal(checker *c, const char *property, ink_tensor found, ink_tensor expected, const double *bound) {
    float *a = copy_of(c, found), *b = copy_of(c, expected);
    compare(c, property, found.rows, found.cols, a, b, bound, bound && was_narrowed(c, expected.data) ? 2 : 0);
    free_copy(c, b);
    free_copy(c, a);
    if (c->quiet && c->n_failures > 0) longjmp(c->stop, 1);
}
