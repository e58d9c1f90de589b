/*
 * bench.c - how fast the ops are on the shapes of the published model at 512 x 512 and 1024 x 1024, for every tier: against the
 * first tier that is not the definition, against the definition itself, and against what the machine can do.
 *
 * Warm: operands as the last run left them in the caches. Cold: the weights of each run were not read for a while, as in a
 * network, whose blocks take turns. The definition would take minutes on some shapes: it is timed on some rows, and the time of
 * all is worked out from those.
 */
#define _GNU_SOURCE /* sizes of caches */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/memory.h"
#include "base/system.h"
#include "checkops.h"
#include "ops/roofline.h"
#include "tensor/quantize.h"
#include "tensor/synthetic.h"

enum {
    MOST_COPIES = 256,
    REF_PRODUCTS = 40000000, /* about as many are timed of the definition: a moment */
};

typedef enum limit { BY_PRODUCTS, BY_MEMORY } limit;

/* One row of the table: an op on a shape. */
typedef struct subject {
    char name[80];
    op_call call;
    double work; /* FLOP, or bytes that are read and written */
    limit limit;
    int64_t n_rows;                         /* of dst, by which the definition is cut */
    ink_tensor dst, x, y, vector, cos, sin; /* vector: [1, cols] for all that ops take of that shape */
    ink_weight w[MOST_COPIES];
    int n_copies, turn;
    ink_activation activation;
    ink_attention_shape attention;
    ink_conv_shape conv;
} subject;

typedef struct session {
    const bench_options *options;
    ink_threads *threads;
    const char *tier; /* NULL: all */
    ink_synthetic *synthetic;
    ink_bandwidth bandwidth;
    int64_t cold_bytes; /* of all copies of a weight: beyond the caches */
} session;

/* ---- calls ------------------------------------------------------------------------------------------------------------- */

static void linear(const ink_device *d, const void *arguments) {
    const subject *s = arguments;
    d->ops->linear(d, s->dst, s->x, &s->w[s->turn],
                   (ink_linear_epilogue){.bias = &s->vector,
                                         .activation = s->activation,
                                         .may_round = true,
                                         .packed = room_for_packing(d, ink_packed_bytes(s->x.rows, 1, s->x.cols))});
}

static void attention(const ink_device *d, const void *arguments) {
    const subject *s = arguments;
    int64_t dim = s->attention.n_heads * s->attention.head_dim;
    ink_tensor q = ink_rows(ink_cols(s->x, 0, dim), 0, s->dst.rows);
    d->ops->attention(d, s->dst, q, ink_cols(s->x, dim, dim), ink_cols(s->x, 2 * dim, dim), s->attention);
}

static void conv2d(const ink_device *d, const void *arguments) {
    const subject *s = arguments;
    ink_conv_shape shape = s->conv;
    shape.packed = room_for_packing(d, ink_packed_bytes(s->dst.rows, shape.kernel * shape.kernel, s->x.cols));
    d->ops->conv2d(d, s->dst, s->x, &s->w[s->turn], s->vector, NULL, shape);
}

static void layernorm_modulate(const ink_device *d, const void *arguments) {
    const subject *s = arguments;
    d->ops->layernorm_modulate(d, s->dst, s->x, s->vector, s->vector, 1e-6f);
}

static void gated_residual_layernorm_modulate(const ink_device *d, const void *arguments) {
    const subject *s = arguments;
    ink_residual r = {.x = s->x, .n = 1, .gate = {s->vector}, .y = {s->y}};
    d->ops->gated_residual_layernorm_modulate(d, s->dst, r, s->vector, s->vector, 1e-6f);
}

static void residual_rmsnorm(const ink_device *d, const void *arguments) {
    const subject *s = arguments;
    d->ops->residual_rmsnorm(d, s->dst, s->x, s->y, s->vector, 1e-6f);
}

static void rmsnorm_rope(const ink_device *d, const void *arguments) {
    const subject *s = arguments;
    d->ops->rmsnorm_rope(d, s->dst, s->vector, s->vector, s->cos, s->sin, s->attention.n_heads, 1e-6f);
}

static void silu_mul(const ink_device *d, const void *arguments) {
    const subject *s = arguments;
    d->ops->silu_mul(d, s->dst, s->x, s->y);
}

static void rmsnorm_channels(const ink_device *d, const void *arguments) {
    const subject *s = arguments;
    d->ops->rmsnorm_channels(d, s->dst, s->x, s->vector, true);
}

/* ---- operands ---------------------------------------------------------------------------------------------------------- */

static void *must(void *memory) {
    if (memory) return memory;
    fprintf(stderr, "checkops: no memory for the operands of a benchmark\n");
    exit(2);
}

static ink_tensor numbers(int64_t rows, int64_t cols) {
    ink_tensor x = ink_view(must(ink_alloc_unset((size_t)(rows * cols) * sizeof(float))), rows, cols);
    for (int64_t i = 0; i < rows * cols; i++) x.data[i] = (float)(i * 7919 % 2003 - 1001) / 1001;
    return x;
}

/* As many copies as are needed to be cold, each in memory of its own. */
static void take_weights(session *b, subject *s, ink_dtype dtype, int64_t rows, int64_t cols) {
    ink_quantize_describe(&s->w[0], dtype, rows, cols);
    int64_t n_groups = s->w[0].group ? rows * cols / s->w[0].group : 0;
    int64_t bytes = rows * cols / ink_dtype_block_elements(dtype) * ink_dtype_block_bytes(dtype);
    int64_t copies = b->options->with_cold ? b->cold_bytes / bytes + 1 : 1;
    s->n_copies = copies < MOST_COPIES ? (int)copies : MOST_COPIES;
    for (int i = 0; i < s->n_copies; i++) {
        ink_weight *w = &s->w[i];
        char name[32];
        snprintf(name, sizeof name, "copy.%d", i);
        ink_quantize_describe(w, dtype, rows, cols);
        w->data = must(ink_alloc_unset((size_t)bytes));
        if (w->group) {
            w->scales = must(ink_alloc_unset((size_t)n_groups * sizeof(uint16_t)));
            w->biases = must(ink_alloc_unset((size_t)n_groups * sizeof(uint16_t)));
        } else if (w->n_scales) {
            w->scales = must(ink_alloc_unset((size_t)w->n_scales * sizeof(float)));
        }
        if (!ink_synthetic_matrix(b->synthetic, w, name)) must(NULL);
    }
}

static void release(subject *s) {
    ink_tensor *const tensors[] = {&s->dst, &s->x, &s->y, &s->vector, &s->cos, &s->sin};
    for (size_t i = 0; i < sizeof tensors / sizeof *tensors; i++) ink_free(tensors[i]->data);
    for (int i = 0; i < s->n_copies; i++) {
        ink_free((void *)(uintptr_t)s->w[i].data);
        ink_free((void *)(uintptr_t)s->w[i].scales);
        ink_free((void *)(uintptr_t)s->w[i].biases);
    }
}

/* ---- timing ------------------------------------------------------------------------------------------------------------ */

/* The best of several runs, for about a third of a second: the machine's other work only ever makes a run longer. */
static double seconds(subject *s, const ink_device *device, bool cold) {
    double best = 1e9, began = ink_seconds();
    for (int runs = 0; runs < 2 || (runs < 1000 && ink_seconds() - began < 0.3); runs++) {
        s->turn = cold ? (s->turn + 1) % s->n_copies : 0;
        double start = ink_seconds();
        s->call(device, s);
        double took = ink_seconds() - start;
        if (took < best) best = took;
    }
    s->turn = 0;
    return best;
}

/* The definition, on as many rows of the result as it does in a moment; *part receives their share. */
static double seconds_of_definition(const session *b, const subject *s, double *part) {
    ink_device ref;
    const char *why;
    if (!ink_device_open(&ref, "ref", b->threads, &why)) return 0;
    subject some = *s;
    double products = s->limit == BY_PRODUCTS ? s->work / 2 : s->work;
    int64_t rows = (int64_t)((double)s->n_rows * REF_PRODUCTS / products);
    rows = rows < 1 ? 1 : rows < s->n_rows ? rows : s->n_rows;
    if (s->conv.height) {
        /* Whole lines of the picture. */
        some.conv.height = (rows + s->conv.width - 1) / s->conv.width;
        if (some.conv.height > s->conv.height) some.conv.height = s->conv.height;
        rows = some.conv.height * s->conv.width;
    }
    some.dst.rows = rows;
    if (!s->attention.n_heads || s->cos.data) some.x.rows = some.y.rows = some.cos.rows = some.sin.rows = rows;
    *part = (double)rows / (double)s->n_rows;
    double start = ink_seconds();
    some.call(&ref, &some);
    return (ink_seconds() - start) / *part;
}

static void print_row(const session *b, const subject *s, const char *tier, bool cold, double took, double first, double ref,
                      double peak) {
    double rate = s->work / took, most = s->limit == BY_PRODUCTS ? peak : b->bandwidth.copy;
    printf("%-46s %-11s %-4s %10.3f ms %9.1f %s", s->name, tier, cold ? "cold" : "warm", 1e3 * took, 1e-9 * rate,
           s->limit == BY_PRODUCTS ? "GFLOP/s" : "GB/s   ");
    if (most > 0) printf(" %4.0f %%", 100 * rate / most);
    printf(" %7.2f x", first / took);
    if (ref > 0) printf(" %9.1f x", ref / took);
    printf("\n");
    fflush(stdout);
}

/* Times a subject on all tiers, and releases it. */
static void time_subject(session *b, subject *s) {
    const bench_options *o = b->options;
    double first = 0, part = 1, ref = o->with_ref ? seconds_of_definition(b, s, &part) : 0;
    for (int i = 1; ink_device_tier(i); i++) {
        ink_device device;
        const char *why = NULL;
        if (b->tier && strcmp(b->tier, ink_device_tier(i)) != 0) continue;
        if (!ink_device_open(&device, ink_device_tier(i), b->threads, &why)) continue;
        if (device.memory) {
            if (device.close) device.close(&device);
            continue;
        }
        double peak = s->limit == BY_PRODUCTS ? ink_cpu_peak_flops(&device, s->n_copies ? s->w[0].dtype : INK_F32, 0.1) : 0;
        for (int cold = 0; cold < (s->n_copies > 1 ? 2 : 1); cold++) {
            double took = seconds(s, &device, cold);
            if (first == 0) first = took;
            print_row(b, s, device.tier, cold, took, first, ref, peak);
        }
    }
    if (ref > 0 && part < 1) printf("    (ref: %.4f of the rows, multiplied)\n", part);
    release(s);
}

/* Whether the options ask for this subject; an op's name is matched whole, the rest by any part of the row's name. */
static bool wanted(const session *b, const char *op, const char *name) {
    const bench_options *o = b->options;
    return (!o->op || strcmp(o->op, op) == 0) && (!o->filter || strstr(name, o->filter));
}

/* ---- the table --------------------------------------------------------------------------------------------------------- */

static void bench_linear(session *b) {
    static const ink_dtype types[] = {INK_F32, INK_BF16, INK_F8_E4M3, INK_AFFINE_8, INK_AFFINE_4, INK_I8};
    static const char *const type_names[] = {"f32", "bf16", "fp8", "q8", "q4", "int8"};
    static const int64_t rows[] = {34, 1056, 4160}, layers[][2] = {{3072, 3072}, {12288, 3072}, {3072, 12288}}; /* out, in */
    for (int t = 0; t < 6; t++)
        for (int r = 0; r < 3; r++)
            for (int l = 0; l < 3; l++) {
                int64_t m = rows[r], out = layers[l][0], in = layers[l][1];
                subject s = {.call = linear, .n_rows = m, .activation = out > in ? INK_ACT_GELU_TANH : INK_ACT_NONE};
                snprintf(s.name, sizeof s.name, "linear %s [%lld, %lld] to %lld", type_names[t], (long long)m, (long long)in,
                         (long long)out);
                if (!wanted(b, "linear", s.name)) continue;
                s.dst = numbers(m, out);
                s.x = numbers(m, in);
                s.vector = numbers(1, out);
                take_weights(b, &s, types[t], out, in);
                s.work = 2.0 * (double)m * (double)in * (double)out;
                time_subject(b, &s);
            }
}

static void bench_attention(session *b) {
    /* The joint attention of a block at 512 x 512 and 1024 x 1024, and the VAE's at 512 x 512. */
    static const int64_t shapes[][3] = {{1058, 24, 128}, {4130, 24, 128}, {4096, 1, 384}};
    for (int i = 0; i < 3; i++) {
        int64_t n = shapes[i][0], dim = shapes[i][1] * shapes[i][2];
        subject s = {.call = attention, .n_rows = n};
        snprintf(s.name, sizeof s.name, "attention %lld tokens, %lld heads of %lld", (long long)n, (long long)shapes[i][1],
                 (long long)shapes[i][2]);
        if (!wanted(b, "attention", s.name)) continue;
        s.attention = (ink_attention_shape){
            .n_heads = shapes[i][1], .n_kv_heads = shapes[i][1], .head_dim = shapes[i][2], .scale = 0.0884f, .may_round = true};
        s.dst = numbers(n, dim);
        s.x = numbers(n, 3 * dim);
        s.work = 4.0 * (double)n * (double)n * (double)dim;
        time_subject(b, &s);
    }
}

static void bench_conv2d(session *b) {
    /* Of the decoder at 512 x 512: side, channels in and out. */
    static const int64_t shapes[][3] = {{64, 384, 384}, {128, 384, 384}, {256, 192, 192},
                                        {512, 192, 96}, {512, 96, 96},   {512, 96, 3}};
    for (int i = 0; i < 6; i++)
        for (int t = 0; t < 2; t++) {
            int64_t side = shapes[i][0], in = shapes[i][1], out = shapes[i][2];
            subject s = {.call = conv2d, .n_rows = side * side, .conv = {side, side, 3, 1, 1, 1, 1, 1, NULL}};
            snprintf(s.name, sizeof s.name, "conv2d %s %lld x %lld, %lld to %lld, kernel 3", t ? "bf16" : "f32", (long long)side,
                     (long long)side, (long long)in, (long long)out);
            if (!wanted(b, "conv2d", s.name)) continue;
            s.dst = numbers(side * side, out);
            s.x = numbers(side * side, in);
            s.vector = numbers(1, out);
            take_weights(b, &s, t ? INK_BF16 : INK_F32, out, 9 * in);
            s.work = 2.0 * (double)(side * side) * 9 * (double)in * (double)out;
            time_subject(b, &s);
        }
}

/* Ops that go once over their rows. Bytes: floats read and written for each element. */
static void bench_rows(session *b) {
    static const struct {
        const char *op;
        op_call call;
        int64_t cols;
        int floats;
    } ops[] = {{"layernorm_modulate", layernorm_modulate, 3072, 2},
               {"gated_residual_layernorm_modulate", gated_residual_layernorm_modulate, 3072, 4},
               {"residual_rmsnorm", residual_rmsnorm, 3584, 4},
               {"rmsnorm_rope", rmsnorm_rope, 6144, 2},
               {"silu_mul", silu_mul, 18944, 3}};
    static const int64_t rows[] = {1058, 4130};
    for (size_t i = 0; i < sizeof ops / sizeof *ops; i++)
        for (int r = 0; r < 2; r++) {
            int64_t n = rows[r], cols = ops[i].cols;
            subject s = {.call = ops[i].call, .n_rows = n, .limit = BY_MEMORY};
            snprintf(s.name, sizeof s.name, "%s [%lld, %lld]", ops[i].op, (long long)n, (long long)cols);
            if (!wanted(b, ops[i].op, s.name)) continue;
            bool rope = ops[i].call == rmsnorm_rope;
            s.dst = numbers(n, cols);
            s.x = numbers(n, cols);
            s.y = numbers(n, cols);
            s.vector = numbers(1, rope ? 128 : cols);
            if (rope) {
                s.attention.n_heads = cols / 128 / 2;
                s.cos = numbers(n, 64);
                s.sin = numbers(n, 64);
            }
            s.work = (double)ops[i].floats * sizeof(float) * (double)(n * cols);
            time_subject(b, &s);
        }
    subject s = {.call = rmsnorm_channels, .n_rows = 512 * 512, .limit = BY_MEMORY, .name = "rmsnorm_channels [262144, 96], silu"};
    if (!wanted(b, "rmsnorm_channels", s.name)) return;
    s.dst = numbers(512 * 512, 96);
    s.x = numbers(512 * 512, 96);
    s.vector = numbers(1, 96);
    s.work = 2.0 * sizeof(float) * 512 * 512 * 96;
    time_subject(b, &s);
}

/* Half as much again as the last cache, as far as memory allows. */
static int64_t choose_cold_bytes(void) {
    int64_t bytes = 256 << 20, available = ink_available_memory();
#ifdef _SC_LEVEL3_CACHE_SIZE
    int64_t cache = sysconf(_SC_LEVEL3_CACHE_SIZE);
    if (cache / 2 * 3 > bytes) bytes = cache / 2 * 3;
#endif
    return available > 0 && bytes > available / 4 ? available / 4 : bytes;
}

void run_bench(const bench_options *options) {
    session b = {.options = options, .threads = ink_threads_create(options->threads ? options->threads : ink_threads_available())};
    if (b.threads) b.synthetic = ink_synthetic_create(b.threads);
    must(b.synthetic);
    ink_device device;
    const char *why = NULL;
    const char *tier = options->tier;
    if (!tier || strcmp(tier, "auto") == 0) /* the best of the processor */
        for (int i = 0; ink_device_tier(i); i++)
            if (strcmp(ink_device_tier(i), "cuda") != 0) tier = ink_device_tier(i);
    if (!ink_device_open(&device, tier, b.threads, &why)) {
        fprintf(stderr, "checkops: tier %s: %s\n", tier, why);
        exit(2);
    }
    if (device.memory) {
        fprintf(stderr, "checkops: --bench times the tiers of the processor; `inkstone bench --backend` times a device\n");
        exit(2);
    }
    if (options->tier) b.tier = device.tier;
    b.cold_bytes = choose_cold_bytes();
    b.bandwidth = ink_cpu_bandwidth(&device, 512 << 20, 1);
    printf("%lld threads; memory %.1f GB/s read, %.1f GB/s copied. Columns: the best time, the rate, its part of what the machine "
           "can\n"
           "do (the tier's inner loop fed from the cache; for ops on rows, copying), the ratio to the first line of the shape%s.\n",
           (long long)ink_threads_count(b.threads), 1e-9 * b.bandwidth.read, 1e-9 * b.bandwidth.copy,
           options->with_ref ? ", and to ref" : "");
    bench_linear(&b);
    bench_attention(&b);
    bench_conv2d(&b);
    bench_rows(&b);
    ink_synthetic_destroy(&b.synthetic);
    ink_threads_destroy(b.threads);
}
