/*
 * cpu_attention.c - softmax(scale q k^T) v without the matrix of scores (Dao et al., "FlashAttention", 2022, algorithm 1).
 *
 * A task is one head and a block of queries. It walks over blocks of keys, packs their keys and values once for all its queries,
 * keeps for each query the running maximum and sum of the softmax, and rescales what it has gathered whenever the maximum grows.
 * How queries are cut into tasks changes no number: each goes through the same blocks of keys in the same order.
 */
#include <math.h>
#include <string.h>

#include "ops/cpu/cpu_ops.h"

enum { BLOCK_KEYS = 256, LEAST_KEYS = 32, BLOCK_QUERIES = 2048, PIECE_INNER = 128 };

_Static_assert(LEAST_KEYS % INK_MAX_TILE_COLS == 0, "blocks must hold whole tiles");

/* The parts of a worker's memory, in bytes from its beginning. */
typedef struct layout {
    int64_t queries, gathered, max, total; /* of a block of queries */
    int64_t keys, values;                  /* of a block of keys */
    int64_t scores, weights;               /* of a tile of queries and a block of keys */
    int64_t end;
} layout;

typedef struct attention {
    const ink_cpu_kernels *kernels;
    const ink_cpu_product *tiles;
    ink_threads *threads;
    ink_tensor dst, q, k, v;
    ink_attention_shape shape;
    int64_t inner;   /* head_dim in whole steps of a panel */
    int64_t columns; /* head_dim in whole tiles */
    int64_t block_queries, block_keys, n_query_blocks;
    layout at;
} attention;

/* One task, with its memory. */
typedef struct gather {
    const attention *a;
    int64_t q0, n_queries, q_col, k_col;
    unsigned char *queries, *keys, *values, *weights; /* panels */
    float *gathered;                                  /* [queries, columns]: of p v */
    float *scores;                                    /* [tile_rows, block_keys] */
    float *max, *total;
} gather;

/* ---- packing --------------------------------------------------------------------------------------------------------------- */

static void pack_queries(const gather *g) {
    const attention *a = g->a;
    const ink_cpu_product *t = a->tiles;
    for (int64_t i = 0; i < g->n_queries; i += t->tile_rows) {
        const float *rows[INK_MAX_TILE_ROWS];
        for (int64_t r = 0; r < t->tile_rows; r++)
            rows[r] = i + r < g->n_queries ? ink_row_across(a->q, a->shape.q_gap, g->q0 + i + r) + g->q_col : NULL;
        t->pack_left(g->queries + i * a->inner * t->element_bytes, rows, a->shape.head_dim);
    }
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

static void pack_keys_and_values(const gather *g, int64_t k0, int64_t n_keys) {
    const attention *a = g->a;
    const ink_cpu_product *t = a->tiles;
    for (int64_t key = 0; key < n_keys; key += t->tile_cols)
        pack_tile_of_keys(g, g->keys + key * a->inner * t->element_bytes, k0 + key, ink_cpu_min(t->tile_cols, n_keys - key));
    int64_t padded_keys = ink_cpu_round_up(n_keys, t->k_unit);
    const float *rows[BLOCK_KEYS];
    for (int64_t col = 0; col < a->shape.head_dim; col += t->tile_cols) {
        for (int64_t i = 0; i < n_keys; i++) rows[i] = ink_row_across(a->v, a->shape.kv_gap, k0 + i) + g->k_col + col;
        t->pack_right_columns(g->values + col * padded_keys * t->element_bytes, rows,
                              ink_cpu_min(t->tile_cols, a->shape.head_dim - col), n_keys);
    }
}

/* ---- a tile of queries and a block of keys ---------------------------------------------------------------------------------- */

/* Turns a row of scores into weights of the online softmax; rescales what was gathered for its query. */
static void weigh_row(const gather *g, float *row, int64_t query, int64_t k0, int64_t n_keys) {
    const attention *a = g->a;
    int64_t seen = a->shape.causal ? ink_cpu_min(n_keys, g->q0 + query + 1 - k0) : n_keys;
    if (seen < n_keys) memset(row + (seen > 0 ? seen : 0), 0, (size_t)(n_keys - (seen > 0 ? seen : 0)) * sizeof *row);
    if (seen <= 0) return;
    float before = g->max[query];
    float sum = a->kernels->softmax_block(row, seen, a->shape.scale, &g->max[query]);
    float factor = before == g->max[query] ? 1.0f : expf(before - g->max[query]);
    g->total[query] = g->total[query] * factor + sum;
    if (factor != 1.0f && k0 > 0) a->kernels->scale(g->gathered + query * a->columns, factor, a->columns);
}

static void attend_tile(const gather *g, int64_t first, int64_t k0, int64_t n_keys) {
    const attention *a = g->a;
    const ink_cpu_product *t = a->tiles;
    const unsigned char *queries = g->queries + first * a->inner * t->element_bytes;
    for (int64_t key = 0; key < n_keys; key += t->tile_cols)
        t->multiply(g->scores + key, a->block_keys, queries, g->keys + key * a->inner * t->element_bytes, a->inner, false, NULL);
    const float *rows[INK_MAX_TILE_ROWS];
    for (int64_t r = 0; r < t->tile_rows; r++) {
        float *row = g->scores + r * a->block_keys;
        rows[r] = first + r < g->n_queries ? row : NULL;
        if (rows[r]) weigh_row(g, row, first + r, k0, n_keys);
    }
    t->pack_left(g->weights, rows, n_keys);
    int64_t padded_keys = ink_cpu_round_up(n_keys, t->k_unit);
    for (int64_t col = 0; col < a->columns; col += t->tile_cols)
        t->multiply(g->gathered + first * a->columns + col, a->columns, g->weights,
                    g->values + col * padded_keys * t->element_bytes, padded_keys, k0 > 0, NULL);
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
    pack_queries(&g);
    for (int64_t k0 = 0; k0 < n_seen; k0 += a->block_keys) {
        int64_t n_keys = ink_cpu_min(a->block_keys, n_seen - k0);
        pack_keys_and_values(&g, k0, n_keys);
        for (int64_t i = 0; i < g.n_queries; i += a->tiles->tile_rows) attend_tile(&g, i, k0, n_keys);
    }
    if (a->tiles->end) a->tiles->end();
    for (int64_t i = 0; i < g.n_queries; i++) {
        float *to = ink_row_across(a->dst, s->q_gap, q0 + i) + g.q_col;
        for (int64_t col = 0; col < s->head_dim; col++) to[col] = g.gathered[i * a->columns + col] / g.total[i];
    }
}

static layout layout_of(const attention *a, int64_t n_queries, int64_t n_keys) {
    const ink_cpu_product *t = a->tiles;
    const int64_t sizes[] = {n_queries * a->inner * t->element_bytes,
                             n_queries * a->columns * (int64_t)sizeof(float),
                             n_queries * (int64_t)sizeof(float),
                             n_queries * (int64_t)sizeof(float),
                             n_keys * a->inner * t->element_bytes,
                             n_keys * a->columns * t->element_bytes,
                             t->tile_rows * n_keys * (int64_t)sizeof(float),
                             t->tile_rows * n_keys * t->element_bytes};
    int64_t at[sizeof sizes / sizeof *sizes + 1] = {0};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) at[i + 1] = at[i] + ink_cpu_round_up(sizes[i], 64);
    return (layout){at[0], at[1], at[2], at[3], at[4], at[5], at[6], at[7], at[8]};
}

void ink_cpu_attention(const ink_device *d, ink_tensor dst, ink_tensor q, ink_tensor k, ink_tensor v, ink_attention_shape shape) {
    attention a = {.kernels = ink_cpu_kernels_of(d), .threads = d->threads, .dst = dst, .q = q, .k = k, .v = v, .shape = shape};
    a.tiles = shape.may_round && a.kernels->bf16 ? a.kernels->bf16 : a.kernels->f32;
    a.inner = ink_cpu_round_up(shape.head_dim, a.tiles->k_unit);
    a.columns = ink_cpu_round_up(shape.head_dim, a.tiles->tile_cols);
    const int64_t tile = a.tiles->tile_rows;
    /* The wider a head, the fewer keys and queries at a time; the widest one allowed fits with a tile of queries. */
    a.block_keys = BLOCK_KEYS;
    while (a.block_keys > LEAST_KEYS && layout_of(&a, 4 * tile, a.block_keys).end > INK_WORKSPACE_BYTES) a.block_keys /= 2;
    int64_t n_threads = ink_threads_count(d->threads), even = (q.rows * shape.n_heads + 2 * n_threads - 1) / (2 * n_threads);
    a.block_queries = ink_cpu_round_up(ink_cpu_min(ink_cpu_min(q.rows, even), BLOCK_QUERIES), tile);
    while (a.block_queries > tile && layout_of(&a, a.block_queries, a.block_keys).end > INK_WORKSPACE_BYTES)
        a.block_queries -= tile;
    int64_t n_blocks = (q.rows + a.block_queries - 1) / a.block_queries;
    a.block_queries = ink_cpu_round_up((q.rows + n_blocks - 1) / n_blocks, tile);
    a.at = layout_of(&a, a.block_queries, a.block_keys);
    a.n_query_blocks = (q.rows + a.block_queries - 1) / a.block_queries;
    ink_threads_run(d->threads, shape.n_heads * a.n_query_blocks, query_task, &a);
}
