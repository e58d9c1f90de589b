/*
 * cpu_matmul.c - linear and conv2d: one blocked product.
 *
 * A convolution is a product whose left rows are not stored: output pixel m multiplies, for each tap (ky, kx) of the kernel, one
 * pixel of the source, whose channels are contiguous. A linear layer is the case of one tap. So both share packing, tiling,
 * threading and epilogue, and differ in where a left row begins.
 *
 * A task is a block of output rows by a group of output columns. For each slice of the inner dimension it packs the group's
 * weights (widening bf16 on the way) and runs the tile kernel over the rows; sums live in a local array until the epilogue.
 */
#include <string.h>

#include "ops/cpu/cpu_ops.h"

enum {
    BLOCK_ROWS = 192,  /* a multiple of every tier's tile_rows; amortises packing */
    BLOCK_COLS = 64,   /* a multiple of every tier's tile_cols */
    BLOCK_INNER = 256, /* a packed panel stays in the first-level cache */
};

_Static_assert(BLOCK_ROWS % 6 == 0 && BLOCK_ROWS % 8 == 0, "blocks must hold whole tiles");
_Static_assert(BLOCK_INNER % INK_MAX_GROUP == 0, "slices must hold whole groups and blocks");
_Static_assert(BLOCK_COLS % INK_MAX_TILE_COLS == 0, "blocks must hold whole panels");

/* Read where a tap falls on the padding. */
static const float zeros[BLOCK_INNER];

typedef struct product {
    const ink_cpu_kernels *kernels;
    ink_tensor dst, x;
    const ink_weight *w;
    const ink_tensor *low;    /* of a branch, or NULL */
    const float *bias, *gate; /* [out] or NULL */
    const ink_tensor *add;    /* added to the result, or NULL */
    ink_cpu_activation act;
    const ink_conv_shape *conv; /* NULL: linear */
    int64_t out_width;          /* of a convolution */
    int64_t n_taps;
    int64_t n_col_blocks;
} product;

/* The left row of output row m for a tap, or NULL on the padding. */
static const float *left_row(const product *p, int64_t m, int64_t tap) {
    if (!p->conv) return ink_row(p->x, m);
    const ink_conv_shape *s = p->conv;
    int64_t y = m / p->out_width * s->stride + tap / s->kernel - s->pad_before;
    int64_t x = m % p->out_width * s->stride + tap % s->kernel - s->pad_before;
    if (y < 0 || y >= s->height || x < 0 || x >= s->width) return NULL;
    return ink_row(p->x, y * s->width + x);
}

static void pack_panel(const product *p, float *panel, int64_t col, int64_t n_cols, int64_t inner, int64_t n_inner) {
    int64_t at = col * p->w->cols + inner;
    if (p->w->dtype == INK_BF16) {
        p->kernels->pack_bf16(panel, (const uint16_t *)p->w->data + at, p->w->cols, n_cols, n_inner);
    } else if (p->w->dtype == INK_F32) {
        p->kernels->pack_f32(panel, (const float *)p->w->data + at, p->w->cols, n_cols, n_inner);
    } else {
        float rows[INK_MAX_TILE_COLS * BLOCK_INNER];
        for (int64_t i = 0; i < n_cols; i++) ink_weight_decode(rows + i * n_inner, p->w, col + i, inner, n_inner);
        p->kernels->pack_f32(panel, rows, n_inner, n_cols, n_inner);
    }
}

/* What add_slice does with packed left rows and weights in bf16; `inner` counts in rows of the weight. */
static void add_slice_bf16(const product *p, float *sums, const float *const *left, int64_t n_rows, int64_t col0, int64_t n_cols,
                           int64_t inner, int64_t n_inner) {
    const int64_t tile_rows = p->kernels->tile_rows, tile_cols = p->kernels->tile_cols;
    const ink_cpu_matmul_bf16 *bf16 = p->kernels->bf16;
    const int64_t left_size = (n_inner + bf16->k_unit - 1) / bf16->k_unit * bf16->k_unit * tile_rows;
    _Alignas(64) uint16_t rows[BLOCK_ROWS * BLOCK_INNER], panel[BLOCK_INNER * INK_MAX_TILE_COLS];
    for (int64_t i = 0; i < n_rows; i += tile_rows) bf16->pack_left(rows + i / tile_rows * left_size, left + i, n_inner);
    for (int64_t col = 0; col < n_cols; col += tile_cols) {
        const uint16_t *w = (const uint16_t *)p->w->data + (col0 + col) * p->w->cols + inner;
        bf16->pack_right(panel, w, p->w->cols, ink_cpu_min(tile_cols, n_cols - col), n_inner);
        float *tile = sums + col * BLOCK_ROWS;
        for (int64_t i = 0; i < n_rows; i += tile_rows, tile += tile_rows * tile_cols)
            bf16->multiply(tile, rows + i / tile_rows * left_size, panel, n_inner);
    }
}

/* Adds the slice [inner, inner + n_inner) of one tap to the sums of a block. */
static void add_slice(const product *p, float *sums, int64_t row0, int64_t n_rows, int64_t col0, int64_t n_cols, int64_t tap,
                      int64_t inner, int64_t n_inner) {
    const int64_t tile_rows = p->kernels->tile_rows, tile_cols = p->kernels->tile_cols;
    const float *left[BLOCK_ROWS];
    int64_t padded_rows = (n_rows + tile_rows - 1) / tile_rows * tile_rows;
    for (int64_t i = 0; i < padded_rows; i++) {
        /* Rows past the end repeat the last one: computed, never stored. */
        const float *row = left_row(p, row0 + ink_cpu_min(i, n_rows - 1), tap);
        left[i] = row ? row + inner : zeros;
    }
    if (p->w->dtype == INK_BF16 && p->kernels->bf16) {
        add_slice_bf16(p, sums, left, padded_rows, col0, n_cols, tap * p->x.cols + inner, n_inner);
        return;
    }
    _Alignas(64) float panel[BLOCK_INNER * INK_MAX_TILE_COLS];
    for (int64_t col = 0; col < n_cols; col += tile_cols) {
        pack_panel(p, panel, col0 + col, ink_cpu_min(tile_cols, n_cols - col), tap * p->x.cols + inner, n_inner);
        float *tile = sums + col * BLOCK_ROWS;
        for (int64_t i = 0; i < padded_rows; i += tile_rows, tile += tile_rows * tile_cols)
            p->kernels->matmul_tile(tile, left + i, panel, n_inner);
    }
}

static void store_block(const product *p, const float *sums, int64_t row0, int64_t n_rows, int64_t col0, int64_t n_cols) {
    const int64_t tile_cols = p->kernels->tile_cols;
    for (int64_t col = 0; col < n_cols; col += tile_cols) {
        int64_t at = col0 + col;
        for (int64_t i = 0; i < n_rows; i++)
            p->kernels->epilogue(ink_row(p->dst, row0 + i) + at, sums + col * BLOCK_ROWS + i * tile_cols,
                                 p->bias ? p->bias + at : NULL, p->act, p->gate ? p->gate + at : NULL,
                                 p->add ? ink_row(*p->add, row0 + i) + at : NULL, ink_cpu_min(tile_cols, n_cols - col));
    }
}

static void block_task(void *context, int64_t task, int64_t worker) {
    (void)worker;
    const product *p = context;
    int64_t row0 = task / p->n_col_blocks * BLOCK_ROWS, col0 = task % p->n_col_blocks * BLOCK_COLS;
    int64_t n_rows = ink_cpu_min(BLOCK_ROWS, p->dst.rows - row0), n_cols = ink_cpu_min(BLOCK_COLS, p->dst.cols - col0);
    _Alignas(64) float sums[BLOCK_ROWS * BLOCK_COLS];
    memset(sums, 0, sizeof sums);
    for (int64_t tap = 0; tap < p->n_taps; tap++)
        for (int64_t inner = 0; inner < p->x.cols; inner += BLOCK_INNER)
            add_slice(p, sums, row0, n_rows, col0, n_cols, tap, inner, ink_cpu_min(BLOCK_INNER, p->x.cols - inner));
    if (p->low) {
        product branch = {.kernels = p->kernels, .x = *p->low, .w = p->w->up};
        for (int64_t inner = 0; inner < branch.x.cols; inner += BLOCK_INNER)
            add_slice(&branch, sums, row0, n_rows, col0, n_cols, 0, inner, ink_cpu_min(BLOCK_INNER, branch.x.cols - inner));
    }
    store_block(p, sums, row0, n_rows, col0, n_cols);
}

static void run(const ink_device *d, product *p) {
    p->kernels = ink_cpu_kernels_of(d);
    p->n_col_blocks = (p->dst.cols + BLOCK_COLS - 1) / BLOCK_COLS;
    int64_t n_row_blocks = (p->dst.rows + BLOCK_ROWS - 1) / BLOCK_ROWS;
    ink_threads_run(d->threads, n_row_blocks * p->n_col_blocks, block_task, p);
}

void ink_cpu_linear(const ink_device *d, ink_tensor dst, ink_tensor x, const ink_weight *w, ink_linear_epilogue e) {
    product p = {.dst = dst, .x = x, .w = w, .low = e.low, .n_taps = 1};
    p.bias = e.bias ? e.bias->data : NULL;
    p.gate = e.gate ? e.gate->data : NULL;
    p.add = e.add_to_dst ? &dst : NULL;
    p.act = e.activation == INK_ACT_GELU_TANH ? INK_CPU_ACT_GELU_TANH
            : e.activation == INK_ACT_SILU    ? INK_CPU_ACT_SILU
                                              : INK_CPU_ACT_NONE;
    run(d, &p);
}

void ink_cpu_conv2d(const ink_device *d, ink_tensor dst, ink_tensor x, const ink_weight *w, ink_tensor bias,
                    const ink_tensor *residual, ink_conv_shape shape) {
    product p = {.dst = dst, .x = x, .w = w, .bias = bias.data, .add = residual, .conv = &shape};
    p.out_width = ink_conv_out(shape.width, shape);
    p.n_taps = shape.kernel * shape.kernel;
    run(d, &p);
}
