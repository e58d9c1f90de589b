/*
 * cpu_attention.c - softmax(scale q k^T) v without the matrix of scores (Dao et al., "FlashAttention", 2022, algorithm 1).
 *
 * A task is one head and a block of queries. It packs the keys and values of a span, which stay in the second-level cache; then
 * each tile of queries walks over the span's blocks of keys, keeps for each query the running maximum and sum of the softmax, and
 * rescales what it has gathered whenever the maximum grows. How queries are cut into tasks, and keys into spans, changes no number:
 * each query goes through the same blocks of keys in the same order.
 */
#include <math.h>
#include <string.h>

#include "ops/cpu/cpu_ops.h"

enum { BLOCK_KEYS = 256, LEAST_KEYS = 32, BLOCK_QUERIES = 2112, PIECE_INNER = 128, SPAN_BYTES = 1 << 20 };

_Static_assert(LEAST_KEYS % INK_MAX_TILE_COLS == 0, "blocks must hold whole tiles");

/* The parts of a worker's memory, in bytes from its beginning. */
typedef struct layout {
    int64_t gathered, max, total;     /* of a block of queries */
    int64_t keys, values;             /* of a span */
    int64_t queries, scores, weights; /* of a tile of queries, and a block of keys */
    int64_t end;
} layout;

typedef struct attention {
    const ink_cpu_kernels *kernels;
    const ink_cpu_product *tiles;
    ink_threads *threads;
    ink_tensor dst, q, k, v;
    ink_attention_shape shape;
    float scale;     /* e^(shape.scale x) is 2^(scale x) */
    int64_t inner;   /* head_dim in whole steps of a panel */
    int64_t columns; /* head_dim in whole tiles */
    int64_t block_queries, block_keys, span_keys, n_query_blocks;
    layout at;
} attention;

/* One task, with its memory. */
typedef struct gather {
    const attention *a;
    int64_t q0, n_queries, q_col, k_col;
    unsigned char *queries, *keys, *values, *weights; /* panels; those of a block of values one after the other */
    float *gathered;                                  /* [queries, columns]: of p v */
    float *scores;                                    /* [tile_rows, block_keys] */
    float *max, *total;
} gather;

/* ---- packing --------------------------------------------------------------------------------------------------------------- */

static void pack_queries(const gather *g, int64_t first) {
    const attention *a = g->a;
    const ink_cpu_product *t = a->tiles;
    const float *rows[INK_MAX_TILE_ROWS];
    for (int64_t r = 0; r < t->tile_rows; r++)
        rows[r] = first + r < g->n_queries ? ink_row_across(a->q, a->shape.q_gap, g->q0 + first + r) + g->q_col : NULL;
    t->pack_left(g->queries, rows, a->shape.head_dim);
}

/* A tile of n keys from k0 on, brought together first where they lie on both sides of a gap. */
static void pack_tile_of_keys(const gather *g, unsigned char *panel, int64_t k0, int64_t n) {
    const attention *a = g->a;
    const ink_cpu_product *t = a->tiles;
    int64_t split = a->shape.kv_gap.split;
    if (split <= k0 || split >= k0 + n) {
        t->pack_right_f32(panel, ink_row_across(a->k, a->shape.kv_gap, k0) + g->k_col, a->k.stride, n, a->shape.head_dim);
        return;
    }
    float rows[INK_MAX_TILE_COLS * PIECE_INNER];
    for (int64_t inner = 0; inner < a->shape.head_dim; inner += PIECE_INNER) {
        int64_t m = ink_cpu_min(PIECE_INNER, a->shape.head_dim - inner);
        for (int64_t i = 0; i < n; i++)
            memcpy(rows + i * m, ink_row_across(a->k, a->shape.kv_gap, k0 + i) + g->k_col + inner, (size_t)m * sizeof *rows);
        t->pack_right_f32(panel + inner * t->tile_cols * t->element_bytes, rows, m, n, m);
    }
}

/* Those of n_keys keys from k0 on, which are `at` of the span. */
static void pack_keys_and_values(const gather *g, int64_t at, int64_t k0, int64_t n_keys) {
    const attention *a = g->a;
    const ink_cpu_product *t = a->tiles;
    unsigned char *keys = g->keys + at * a->inner * t->element_bytes, *values = g->values + at * a->columns * t->element_bytes;
    for (int64_t key = 0; key < n_keys; key += t->tile_cols)
        pack_tile_of_keys(g, keys + key * a->inner * t->element_bytes, k0 + key, ink_cpu_min(t->tile_cols, n_keys - key));
    int64_t padded_keys = ink_cpu_round_up(n_keys, t->k_unit);
    const float *rows[BLOCK_KEYS];
    for (int64_t col = 0; col < a->shape.head_dim; col += t->tile_cols) {
        for (int64_t i = 0; i < n_keys; i++) rows[i] = ink_row_across(a->v, a->shape.kv_gap, k0 + i) + g->k_col + col;
        t->pack_right_columns(values + col * padded_keys * t->element_bytes, rows,
                              ink_cpu_min(t->tile_cols, a->shape.head_dim - col), n_keys);
    }
}

/* ---- a tile of queries and a block of keys ---------------------------------------------------------------------------------- */

/* Turns a row of scores into weights of the online softmax, packed if the product does that; rescales what was gathered for its
 * query. */
static void weigh_row(const gather *g, int64_t row, int64_t query, int64_t k0, int64_t n_keys) {
    const attention *a = g->a;
    float *scores = g->scores + row * a->block_keys, before = g->max[query], sum;
    int64_t seen = a->shape.causal ? g->q0 + query + 1 - k0 : n_keys;
    seen = seen < 0 ? 0 : ink_cpu_min(seen, n_keys);
    if (a->tiles->pack_weights) {
        sum = a->tiles->pack_weights(g->weights, row, scores, seen, n_keys, a->scale, &g->max[query]);
    } else {
        memset(scores + seen, 0, (size_t)(n_keys - seen) * sizeof *scores);
        sum = seen > 0 ? a->kernels->softmax_block(scores, seen, a->scale, &g->max[query]) : 0;
    }
    if (seen == 0) return;
    float factor = before == g->max[query] ? 1.0f : exp2f(before - g->max[query]);
    g->total[query] = g->total[query] * factor + sum;
    if (factor != 1.0f && k0 > 0) a->kernels->scale(g->gathered + query * a->columns, factor, a->columns);
}

/* Of all rows; those of queries that are not there may hold anything. */
static void weigh_tile(const gather *g, int64_t first, int64_t k0, int64_t n_keys) {
    const ink_cpu_product *t = g->a->tiles;
    const float *rows[INK_MAX_TILE_ROWS];
    for (int64_t r = 0; r < t->tile_rows; r++) {
        bool there = first + r < g->n_queries;
        rows[r] = there ? g->scores + r * g->a->block_keys : NULL;
        if (there) weigh_row(g, r, first + r, k0, n_keys);
    }
    if (!t->pack_weights) t->pack_left(g->weights, rows, n_keys);
}

/* The tile of packed queries from `first` on; keys as packed before. */
static void attend_tile(const gather *g, int64_t first, int64_t at, int64_t k0, int64_t n_keys) {
    const attention *a = g->a;
    const ink_cpu_product *t = a->tiles;
    const unsigned char *keys = g->keys + at * a->inner * t->element_bytes,
                        *values = g->values + at * a->columns * t->element_bytes;
    for (int64_t key = 0; key < n_keys; key += t->tile_cols)
        t->multiply(g->scores + key, a->block_keys, g->queries, keys + key * a->inner * t->element_bytes, a->inner, false, NULL);
    weigh_tile(g, first, k0, n_keys);
    int64_t padded_keys = ink_cpu_round_up(n_keys, t->k_unit);
    for (int64_t col = 0; col < a->columns; col += t->tile_cols)
        t->multiply(g->gathered + first * a->columns + col, a->columns, g->weights, values + col * padded_keys * t->element_bytes,
                    padded_keys, k0 > 0, NULL);
}

/* ---- the task ---------------------------------------------------------------------------------------------------------------- */

static void query_task(void *context, int64_t task, int64_t worker) {
    const attention *a = context;
    const ink_attention_shape *s = &a->shape;
    int64_t head = task / a->n_query_blocks, q0 = task % a->n_query_blocks * a->block_queries;
    unsigned char *memory = ink_threads_workspace(a->threads, worker);
    const gather g = {.a = a,
                      .q0 = q0,
                      .n_queries = ink_cpu_min(a->block_queries, a->q.rows - q0),
                      .q_col = head * s->head_dim,
                      .k_col = head / (s->n_heads / s->n_kv_heads) * s->head_dim,
                      .queries = memory + a->at.queries,
                      .keys = memory + a->at.keys,
                      .values = memory + a->at.values,
                      .weights = memory + a->at.weights,
                      .gathered = (float *)(void *)(memory + a->at.gathered),
                      .scores = (float *)(void *)(memory + a->at.scores),
                      .max = (float *)(void *)(memory + a->at.max),
                      .total = (float *)(void *)(memory + a->at.total)};
    int64_t n_seen = s->causal ? q0 + g.n_queries : a->k.rows;
    for (int64_t i = 0; i < g.n_queries; i++) {
        g.max[i] = -INFINITY;
        g.total[i] = 0;
    }
    if (a->tiles->begin) a->tiles->begin();
    for (int64_t span = 0; span < n_seen; span += a->span_keys) {
        int64_t end = ink_cpu_min(n_seen, span + a->span_keys);
        for (int64_t k0 = span; k0 < end; k0 += a->block_keys)
            pack_keys_and_values(&g, k0 - span, k0, ink_cpu_min(a->block_keys, end - k0));
        for (int64_t i = 0; i < g.n_queries; i += a->tiles->tile_rows) {
            pack_queries(&g, i);
            for (int64_t k0 = span; k0 < end; k0 += a->block_keys)
                attend_tile(&g, i, k0 - span, k0, ink_cpu_min(a->block_keys, end - k0));
        }
    }
    if (a->tiles->end) a->tiles->end();
    for (int64_t i = 0; i < g.n_queries; i++) {
        float *to = ink_row_across(a->dst, s->q_gap, q0 + i) + g.q_col;
        for (int64_t col = 0; col < s->head_dim; col++) to[col] = g.gathered[i * a->columns + col] / g.total[i];
    }
}

static layout layout_of(const attention *a, int64_t n_queries, int64_t n_keys) {
    const ink_cpu_product *t = a->tiles;
    const int64_t sizes[] = {n_queries * a->columns * (int64_t)sizeof(float),
                             n_queries * (int64_t)sizeof(float),
                             n_queries * (int64_t)sizeof(float),
                             n_keys * a->inner * t->element_bytes,
                             n_keys * a->columns * t->element_bytes,
                             t->tile_rows * a->inner * t->element_bytes,
                             t->tile_rows * a->block_keys * (int64_t)sizeof(float),
                             t->tile_rows * a->block_keys * t->element_bytes};
    int64_t at[sizeof sizes / sizeof *sizes + 1] = {0};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) at[i + 1] = at[i] + ink_cpu_round_up(sizes[i], 64);
    return (layout){at[0], at[1], at[2], at[3], at[4], at[5], at[6], at[7], at[8]};
}

static bool fits(const attention *a, int64_t n_queries, int64_t n_keys) {
    return layout_of(a, n_queries, n_keys).end <= INK_WORKSPACE_BYTES;
}

/* n in parts of at most `most`, all of about the same size: that size, in whole units. */
static int64_t even_parts(int64_t n, int64_t most, int64_t unit) {
    int64_t n_parts = (n + most - 1) / most;
    return ink_cpu_round_up((n + n_parts - 1) / n_parts, unit);
}

/* How many queries, keys of a span and keys of a block at a time. The widest head allowed fits with a tile of queries. */
static void choose_blocks(attention *a, int64_t n_threads) {
    const int64_t tile = a->tiles->tile_rows, n_queries = a->q.rows, n_keys = a->k.rows;
    a->block_keys = BLOCK_KEYS;
    while (a->block_keys > LEAST_KEYS && !fits(a, 4 * tile, a->block_keys)) a->block_keys /= 2;
    int64_t even = (n_queries * a->shape.n_heads + 2 * n_threads - 1) / (2 * n_threads);
    int64_t most = ink_cpu_round_up(ink_cpu_min(ink_cpu_min(n_queries, even), BLOCK_QUERIES), tile);
    while (most > tile && !fits(a, most, a->block_keys)) most -= tile;
    a->block_queries = even_parts(n_queries, most, tile);
    int64_t key_bytes = (a->inner + a->columns) * a->tiles->element_bytes, span = a->block_keys;
    while (span < n_keys && (span + a->block_keys) * key_bytes <= SPAN_BYTES && fits(a, a->block_queries, span + a->block_keys))
        span += a->block_keys;
    a->span_keys = span < n_keys ? ink_cpu_min(span, even_parts(n_keys, span, a->block_keys)) : span;
    a->at = layout_of(a, a->block_queries, a->span_keys);
    a->n_query_blocks = (n_queries + a->block_queries - 1) / a->block_queries;
}

void ink_cpu_attention(const ink_device *d, ink_tensor dst, ink_tensor q, ink_tensor k, ink_tensor v, ink_attention_shape shape) {
    attention a = {.kernels = ink_cpu_kernels_of(d), .threads = d->threads, .dst = dst, .q = q, .k = k, .v = v, .shape = shape};
    a.scale = (float)((double)shape.scale * 1.4426950408889634);
    a.tiles = shape.may_round && a.kernels->bf16 ? a.kernels->bf16 : a.kernels->f32;
    a.inner = ink_cpu_round_up(shape.head_dim, a.tiles->k_unit);
    a.columns = ink_cpu_round_up(shape.head_dim, a.tiles->tile_cols);
    choose_blocks(&a, ink_threads_count(d->threads));
    ink_threads_run(d->threads, shape.n_heads * a.n_query_blocks, query_task, &a);
}
