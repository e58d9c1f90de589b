/*
 * cpu_attention.c - softmax(scale q k^T) v without the matrix of scores (Dao et al., "FlashAttention", 2022, algorithm 1).
 *
 * A task is one head and one block of queries. It walks over blocks of keys, keeps for each query the running maximum and sum of
 * the softmax, and rescales what it has gathered whenever the maximum grows.
 */
#include <math.h>
#include <string.h>

#include "ops/cpu/cpu_ops.h"

enum {
    BLOCK_KEYS = 64,       /* a multiple of every tier's tile_cols */
    BLOCK_INNER = 128,     /* slice of head_dim in one packed panel */
    BLOCK_QUERIES = 96,    /* at most; a multiple of every tier's tile_rows */
    GATHER_FLOATS = 49152, /* of BLOCK_QUERIES by head_dim, padded */
};

_Static_assert(BLOCK_QUERIES % 6 == 0 && BLOCK_QUERIES % 8 == 0, "blocks must hold whole tiles");
_Static_assert(BLOCK_KEYS % INK_MAX_TILE_COLS == 0 && BLOCK_KEYS <= BLOCK_INNER, "blocks must hold whole panels");

typedef struct attention {
    const ink_cpu_kernels *kernels;
    ink_tensor dst, q, k, v;
    ink_attention_shape shape;
    int64_t block_queries, n_query_blocks;
} attention;

/* What one task gathers. Tiles of a panel follow each other: element (query, column) of a panel is at query * tile_cols + column.
 */
typedef struct gather {
    _Alignas(64) float sums[GATHER_FLOATS]; /* of p v: panel after panel of value columns */
    _Alignas(64) float scores[BLOCK_QUERIES * BLOCK_KEYS];
    _Alignas(64) float panel[BLOCK_INNER * INK_MAX_TILE_COLS];
    float max[BLOCK_QUERIES], total[BLOCK_QUERIES];
} gather;

/* How many of n keys from the first on lie next to each other. */
static int64_t keys_in_run(const attention *a, int64_t first, int64_t n) {
    int64_t before_gap = a->shape.kv_gap.split - first;
    return before_gap <= 0 ? n : ink_cpu_min(n, before_gap);
}

/* Packs n_inner columns, from col on, of n keys: transposed, so that keys on both sides of a gap have to be brought together. */
static void pack_keys(const attention *a, float *panel, int64_t first, int64_t n, int64_t col, int64_t n_inner) {
    if (keys_in_run(a, first, n) == n) {
        a->kernels->pack_f32(panel, ink_row_across(a->k, a->shape.kv_gap, first) + col, a->k.stride, n, n_inner);
        return;
    }
    float rows[INK_MAX_TILE_COLS * BLOCK_INNER];
    for (int64_t i = 0; i < n; i++)
        memcpy(rows + i * n_inner, ink_row_across(a->k, a->shape.kv_gap, first + i) + col, (size_t)n_inner * sizeof *rows);
    a->kernels->pack_f32(panel, rows, n_inner, n, n_inner);
}

/* Packs n_cols columns, from col on, of n values. */
static void pack_values(const attention *a, float *panel, int64_t first, int64_t n, int64_t col, int64_t n_cols) {
    for (int64_t done = 0, n_run; done < n; done += n_run) {
        n_run = keys_in_run(a, first + done, n - done);
        a->kernels->pack_rows(panel + done * a->kernels->tile_cols, ink_row_across(a->v, a->shape.kv_gap, first + done) + col,
                              a->v.stride, n_cols, n_run);
    }
}

/* scores [queries, keys], row-major, = q k^T for a block; rows past n_queries repeat the last query. */
static void block_scores(const attention *a, gather *g, int64_t q0, int64_t n_queries, int64_t k0, int64_t n_keys, int64_t q_col,
                         int64_t k_col) {
    const int64_t tile_rows = a->kernels->tile_rows, tile_cols = a->kernels->tile_cols, head_dim = a->shape.head_dim;
    for (int64_t key = 0; key < n_keys; key += tile_cols) {
        int64_t cols = ink_cpu_min(tile_cols, n_keys - key);
        _Alignas(64) float tiles[BLOCK_QUERIES * INK_MAX_TILE_COLS] = {0};
        for (int64_t inner = 0; inner < head_dim; inner += BLOCK_INNER) {
            int64_t n_inner = ink_cpu_min(BLOCK_INNER, head_dim - inner);
            pack_keys(a, g->panel, k0 + key, cols, k_col + inner, n_inner);
            for (int64_t i = 0; i < n_queries; i += tile_rows) {
                const float *left[INK_MAX_TILE_ROWS];
                for (int64_t r = 0; r < tile_rows; r++)
                    left[r] = ink_row_across(a->q, a->shape.q_gap, q0 + ink_cpu_min(i + r, n_queries - 1)) + q_col + inner;
                a->kernels->matmul_tile(tiles + i * tile_cols, left, g->panel, n_inner);
            }
        }
        for (int64_t i = 0; i < n_queries; i++)
            memcpy(g->scores + i * BLOCK_KEYS + key, tiles + i * tile_cols, (size_t)cols * sizeof *tiles);
    }
}

/* Turns scores into weights of the online softmax; rescales sums and totals. */
static void block_softmax(const attention *a, gather *g, int64_t q0, int64_t n_queries, int64_t k0, int64_t n_keys,
                          int64_t n_panels) {
    const int64_t tile_cols = a->kernels->tile_cols;
    for (int64_t i = 0; i < n_queries; i++) {
        float *row = g->scores + i * BLOCK_KEYS;
        int64_t seen = a->shape.causal ? ink_cpu_min(n_keys, q0 + i + 1 - k0) : n_keys;
        if (seen <= 0) {
            memset(row, 0, (size_t)n_keys * sizeof *row);
            continue;
        }
        memset(row + seen, 0, (size_t)(n_keys - seen) * sizeof *row);
        float before = g->max[i];
        float sum = a->kernels->softmax_block(row, seen, a->shape.scale, &g->max[i]);
        float factor = before == g->max[i] ? 1.0f : expf(before - g->max[i]);
        g->total[i] = g->total[i] * factor + sum;
        if (factor != 1.0f)
            for (int64_t p = 0; p < n_panels; p++)
                a->kernels->scale(g->sums + (p * a->block_queries + i) * tile_cols, factor, tile_cols);
    }
}

static void block_values(const attention *a, gather *g, int64_t n_queries, int64_t k0, int64_t n_keys, int64_t k_col) {
    const int64_t tile_rows = a->kernels->tile_rows, tile_cols = a->kernels->tile_cols, head_dim = a->shape.head_dim;
    for (int64_t col = 0; col < head_dim; col += tile_cols) {
        pack_values(a, g->panel, k0, n_keys, k_col + col, ink_cpu_min(tile_cols, head_dim - col));
        float *sums = g->sums + col * a->block_queries;
        for (int64_t i = 0; i < n_queries; i += tile_rows) {
            const float *left[INK_MAX_TILE_ROWS];
            for (int64_t r = 0; r < tile_rows; r++) left[r] = g->scores + ink_cpu_min(i + r, n_queries - 1) * BLOCK_KEYS;
            a->kernels->matmul_tile(sums + i * tile_cols, left, g->panel, n_keys);
        }
    }
}

static void query_task(void *context, int64_t task, int64_t worker) {
    (void)worker;
    const attention *a = context;
    const int64_t tile_cols = a->kernels->tile_cols, head_dim = a->shape.head_dim;
    int64_t head = task / a->n_query_blocks, q0 = task % a->n_query_blocks * a->block_queries;
    int64_t n_queries = ink_cpu_min(a->block_queries, a->q.rows - q0), n_panels = (head_dim + tile_cols - 1) / tile_cols;
    int64_t q_col = head * head_dim, k_col = head / (a->shape.n_heads / a->shape.n_kv_heads) * head_dim;
    int64_t n_seen = a->shape.causal ? q0 + n_queries : a->k.rows;

    gather g;
    memset(g.sums, 0, (size_t)(n_panels * tile_cols * a->block_queries) * sizeof *g.sums);
    for (int64_t i = 0; i < n_queries; i++) {
        g.max[i] = -INFINITY;
        g.total[i] = 0;
    }
    for (int64_t k0 = 0; k0 < n_seen; k0 += BLOCK_KEYS) {
        int64_t n_keys = ink_cpu_min(BLOCK_KEYS, n_seen - k0);
        block_scores(a, &g, q0, n_queries, k0, n_keys, q_col, k_col);
        block_softmax(a, &g, q0, n_queries, k0, n_keys, n_panels);
        block_values(a, &g, n_queries, k0, n_keys, k_col);
    }
    for (int64_t i = 0; i < n_queries; i++)
        for (int64_t col = 0; col < head_dim; col++)
            ink_row_across(a->dst, a->shape.q_gap, q0 + i)[q_col + col] =
                g.sums[col / tile_cols * tile_cols * a->block_queries + i * tile_cols + col % tile_cols] / g.total[i];
}

void ink_cpu_attention(const ink_device *d, ink_tensor dst, ink_tensor q, ink_tensor k, ink_tensor v, ink_attention_shape shape) {
    attention a = {.kernels = ink_cpu_kernels_of(d), .dst = dst, .q = q, .k = k, .v = v, .shape = shape};
    /* Wide heads (the VAE's single one) take fewer queries at a time, whole tiles of them. */
    int64_t padded_dim = (shape.head_dim + a.kernels->tile_cols - 1) / a.kernels->tile_cols * a.kernels->tile_cols;
    int64_t fitting = GATHER_FLOATS / padded_dim / a.kernels->tile_rows * a.kernels->tile_rows;
    a.block_queries = ink_cpu_min(BLOCK_QUERIES, fitting);
    a.n_query_blocks = (q.rows + a.block_queries - 1) / a.block_queries;
    ink_threads_run(d->threads, shape.n_heads * a.n_query_blocks, query_task, &a);
}
