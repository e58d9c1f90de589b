/*
 * cpu_matmul.c - linear and conv2d: one blocked product.
 *
 * A convolution is a product whose left rows are not stored: output pixel m multiplies, for each tap (ky, kx) of the kernel, one
 * pixel of the source, whose channels are contiguous. A linear layer is the case of one tap, and the branch of a weight is one tap
 * more, with rows and weights of its own. So all share packing, tiling, threading and epilogue.
 *
 * Rows are taken in blocks. The left rows of a block are packed once, by all threads, into memory that the caller gives. A task is
 * then a group of output columns: it packs the group's weights for a chunk of the inner dimension, decoding or rounding them on
 * the way, so that they stay in the second-level cache while all left panels pass by. Weights are so read once for each block of
 * rows, in the form in which they are stored. Every sum runs along the inner dimension from first to last, whatever the blocks.
 *
 * Weights in 8-bit integers are multiplied by left rows in such, whose scales are found when they are packed. Their sums become
 * numbers when the inner dimension is through; a branch is then added to them, as numbers, by tiles of the same shape.
 */
#include <string.h>

#include "ops/cpu/cpu_ops.h"
#include "tensor/quantize.h"

enum {
    PIECE_INNER = 512, /* decoded at once */
    DECODE_UNIT = 32,  /* multiples of it tiers decode by themselves */
    SUMS_BYTES = INK_PACKED_ROWS * INK_MAX_GROUP_COLS * (int)sizeof(float),
    CHUNK_BYTES = 3 << 18, /* of a group's weights: group_cols * k_chunk * element_bytes at most */
};

_Static_assert(PIECE_INNER % INK_MAX_GROUP == 0, "pieces must hold whole groups and blocks");
_Static_assert(INK_WORKSPACE_BYTES >= SUMS_BYTES + CHUNK_BYTES, "sums and weights have no room");

/* A run of the inner dimension that one kind of tiles multiplies: all of it, or integers and then the branch beside them. */
typedef struct section {
    const ink_cpu_product *tiles;
    int64_t first, end; /* stretches, see below */
    int64_t n_parts;    /* 2: left numbers are what bf16 makes of them, and then what bf16 makes of the rest */
    int64_t inner;      /* of the panels: all stretches, each padded to whole steps; left ones have it for each part */
    int64_t at_bytes;   /* where it begins in a left panel */
} section;

/* What turns the integers of a left row back into numbers, and what its sums are too large by. Of numbers in parts: what brings
   the row's sums back to its size, and 0. */
typedef struct row_scale {
    float scale;
    int32_t offset;
} row_scale;

typedef struct product {
    const ink_cpu_kernels *kernels;
    section sections[2];
    int n_sections;
    int64_t tile_rows, group_cols; /* of all sections, whose tiles have one shape */
    ink_threads *threads;
    ink_tensor dst, x;
    const ink_weight *w;
    const ink_tensor *low;    /* of a branch, or NULL */
    const float *bias, *gate; /* [out] or NULL */
    const ink_tensor *add;    /* added to the result, or NULL */
    ink_cpu_activation act;
    const ink_conv_shape *conv; /* NULL: linear */
    int64_t out_width;          /* of a convolution */
    bool may_round;
    int64_t n_taps;
    unsigned char *packed;
    int64_t panel_bytes;
    row_scale *row_scales; /* of integers and of numbers in parts: behind the panels, one for each row */
    int64_t row0, n_rows;  /* of the block */
    int64_t n_groups, n_splits;
} product;

/* ---- the inner dimension ------------------------------------------------------------------------------------------------- */

/* A stretch of it: k columns of w from `col` on, at `at` of the panels. */
typedef struct stretch {
    const ink_weight *w;
    int64_t col, k, at;
} stretch;

static stretch stretch_at(const product *p, const section *s, int64_t part, int64_t tap) {
    int64_t at = part * s->inner + (tap - s->first) * ink_cpu_round_up(p->x.cols, s->tiles->k_unit);
    if (tap < p->n_taps) return (stretch){p->w, tap * p->x.cols, p->x.cols, at};
    return (stretch){p->w->up, 0, p->low->cols, at};
}

/* The left row of output row m for a tap, or NULL on the padding of a convolution. */
static const float *left_row(const product *p, int64_t m, int64_t tap) {
    if (tap >= p->n_taps) return ink_row(*p->low, m);
    if (!p->conv) return ink_row(p->x, m);
    const ink_conv_shape *s = p->conv;
    int64_t y = m / p->out_width * s->stride + tap / s->kernel - s->pad_above;
    int64_t x = m % p->out_width * s->stride + tap % s->kernel - s->pad_left;
    if (y < 0 || y >= s->height || x < 0 || x >= s->width) return NULL;
    return ink_row(p->x, y * s->width + x);
}

static unsigned char *left_panel(const product *p, const section *s, int64_t panel) {
    return p->packed + panel * p->panel_bytes + s->at_bytes;
}

/* Packs k numbers of each row times the row's factor; or, without factors, what rounding to bf16 leaves of them. */
static void pack_changed(const ink_cpu_product *t, unsigned char *panel, const float *const *rows, const float *factors,
                         int64_t k) {
    float changed[INK_MAX_TILE_ROWS][PIECE_INNER];
    const float *changed_rows[INK_MAX_TILE_ROWS];
    for (int64_t at = 0; at < k; at += PIECE_INNER) {
        int64_t n = ink_cpu_min(PIECE_INNER, k - at);
        for (int64_t i = 0; i < t->tile_rows; i++) {
            changed_rows[i] = rows[i] ? changed[i] : NULL;
            for (int64_t j = 0; rows[i] && j < n; j++) {
                float x = rows[i][at + j];
                changed[i][j] = factors ? x * factors[i] : x - ink_f32_from_bf16(ink_bf16_from_f32(x));
            }
        }
        t->pack_left(panel + at * t->tile_rows * t->element_bytes, changed_rows, n);
    }
}

static bool in_parts(const product *p, const section *s) { return s->tiles == p->kernels->f32_parts; }

/*
 * Tiles of numbers in parts have less than the range of f32. A row whose largest number, of those bits, is far from 1 is multiplied
 * by a power of two before, and its sums by the inverse afterwards; both are normal numbers.
 */
static float factor_of_row(uint32_t largest, float *inverse) {
    enum { BIAS = 127, FAR = 60, MOST = 2 * BIAS - 1, SHIFT = 23 };
    int32_t exponent = (int32_t)(largest >> SHIFT);
    bool usual = largest == 0 || (exponent >= BIAS - FAR && exponent <= BIAS + FAR);
    int32_t field = usual ? BIAS : 2 * BIAS - exponent;
    field = field < 1 ? 1 : field > MOST ? MOST : field;
    int32_t bits = field << SHIFT, inverse_bits = (2 * BIAS - field) << SHIFT;
    float factor;
    memcpy(&factor, &bits, sizeof factor);
    memcpy(inverse, &inverse_bits, sizeof *inverse);
    return factor;
}

/* Finds them for a panel of rows. False: all are 1. */
static bool scale_panel(const product *p, const section *s, int64_t panel, float *factors) {
    int64_t row0 = panel * p->tile_rows, n = ink_cpu_min(p->tile_rows, p->n_rows - row0);
    bool any = false;
    for (int64_t i = 0; i < n; i++) {
        uint32_t largest = 0;
        for (int64_t tap = s->first; tap < s->end; tap++) {
            const float *row = left_row(p, p->row0 + row0 + i, tap);
            uint32_t bits = row ? p->kernels->largest_bits(row, stretch_at(p, s, 0, tap).k) : 0;
            if (bits > largest) largest = bits;
        }
        row_scale *scale = &p->row_scales[row0 + i];
        scale->offset = 0;
        factors[i] = factor_of_row(largest, &scale->scale);
        any = any || factors[i] != 1;
    }
    return any;
}

/* Packs rows of n_rows that are there as integers, each by its own scale. */
static void pack_integers(const product *p, const section *s, int64_t panel) {
    const ink_cpu_product *t = s->tiles;
    int8_t codes[INK_MAX_TILE_ROWS * PIECE_INNER];
    row_scale *scales = p->row_scales + panel * t->tile_rows;
    float inverse[INK_MAX_TILE_ROWS];
    int32_t sums[INK_MAX_TILE_ROWS] = {0};
    int64_t row0 = panel * t->tile_rows, n = ink_cpu_min(t->tile_rows, p->n_rows - row0);
    for (int64_t i = 0; i < n; i++)
        scales[i].scale = ink_i8_scale(p->kernels->largest_bits(ink_row(p->x, p->row0 + row0 + i), p->x.cols), &inverse[i]);
    memset(codes, 0, sizeof codes);
    for (int64_t at = 0; at < p->x.cols; at += PIECE_INNER) {
        int64_t k = ink_cpu_min(PIECE_INNER, p->x.cols - at);
        for (int64_t i = 0; i < n; i++)
            if (inverse[i] > 0)
                sums[i] += p->kernels->round_i8(codes + i * PIECE_INNER, ink_row(p->x, p->row0 + row0 + i) + at, inverse[i], k);
        t->pack_left_i8(left_panel(p, s, panel) + at * t->tile_rows * t->element_bytes, codes, PIECE_INNER, k);
    }
    for (int64_t i = 0; i < n; i++) scales[i].offset = sums[i] * t->right_offset;
}

static void pack_numbers(const product *p, const section *s, int64_t panel) {
    const ink_cpu_product *t = s->tiles;
    float factors[INK_MAX_TILE_ROWS];
    bool scaled = in_parts(p, s) && scale_panel(p, s, panel, factors);
    for (int64_t tap = s->first; tap < s->end; tap++) {
        const float *rows[INK_MAX_TILE_ROWS];
        for (int64_t i = 0; i < t->tile_rows; i++) {
            int64_t m = panel * t->tile_rows + i;
            rows[i] = m < p->n_rows ? left_row(p, p->row0 + m, tap) : NULL;
        }
        for (int64_t part = 0; part < s->n_parts; part++) {
            stretch at = stretch_at(p, s, part, tap);
            unsigned char *to = left_panel(p, s, panel) + at.at * t->tile_rows * t->element_bytes;
            if (part == 0 && !scaled)
                t->pack_left(to, rows, at.k);
            else
                pack_changed(t, to, rows, scaled ? factors : NULL, at.k);
        }
    }
}

static void pack_left_task(void *context, int64_t panel, int64_t worker) {
    (void)worker;
    const product *p = context;
    for (const section *s = p->sections; s < p->sections + p->n_sections; s++)
        if (s->tiles->integers)
            pack_integers(p, s, panel);
        else
            pack_numbers(p, s, panel);
}

/* ---- weights --------------------------------------------------------------------------------------------------------------- */

/* Elements col .. col + n of a row, rounded to bf16. */
static void decode_bf16(const ink_cpu_kernels *kernels, uint16_t *dst, const ink_weight *w, int64_t row, int64_t col, int64_t n) {
    int64_t first = row * w->cols + col;
    bool nibbles = w->dtype == INK_AFFINE_4;
    if (w->group > 0 && w->group % DECODE_UNIT == 0 && kernels->decode_affine) {
        float scales[PIECE_INNER / DECODE_UNIT], biases[PIECE_INNER / DECODE_UNIT];
        int64_t group = row * (w->cols / w->group) + col / w->group, n_groups = n / w->group;
        ink_weight_scales(scales, w, w->scales, group, n_groups);
        ink_weight_scales(biases, w, w->biases, group, n_groups);
        for (int64_t i = 0; i < n_groups; i++, dst += w->group, first += w->group)
            kernels->decode_affine(dst, (const unsigned char *)w->data + (nibbles ? first / 2 : first), nibbles, scales[i],
                                   biases[i], w->group);
    } else if (w->dtype == INK_F8_E4M3 && n % DECODE_UNIT == 0 && kernels->decode_f8_e4m3) {
        kernels->decode_f8_e4m3(dst, (const unsigned char *)w->data + first, ink_weight_row_scale(w, row), n);
    } else if (w->dtype == INK_I8 && n % DECODE_UNIT == 0 && kernels->decode_i8) {
        kernels->decode_i8(dst, (const int8_t *)w->data + first, ink_weight_row_scale(w, row), n);
    } else {
        float wide[PIECE_INNER];
        ink_weight_decode(wide, w, row, col, n);
        ink_convert(dst, INK_BF16, wide, INK_F32, n);
    }
}

/* Asks for what is stored of n columns from col on of a row, which may lie behind the last. */
static void expect_weights(const ink_weight *w, int64_t row, int64_t col, int64_t n) {
    enum { LINE_BYTES = 64 };
    if (row >= w->rows) return;
    int64_t elements = ink_dtype_block_elements(w->dtype), bytes = ink_dtype_block_bytes(w->dtype);
    const char *data = (const char *)w->data + (row * w->cols + col) / elements * bytes;
    for (int64_t at = 0; at < n / elements * bytes; at += LINE_BYTES) __builtin_prefetch(data + at);
    if (w->group == 0) return;
    int64_t scale = (row * w->cols + col) / w->group * (int64_t)ink_dtype_size(w->scale_dtype);
    __builtin_prefetch((const char *)w->scales + scale);
    __builtin_prefetch((const char *)w->biases + scale);
}

/* Packs k <= PIECE_INNER columns from col on of n rows from row on. */
static void pack_right(const product *p, const ink_cpu_product *t, void *panel, const ink_weight *w, int64_t row, int64_t n,
                       int64_t col, int64_t k) {
    int64_t at = row * w->cols + col;
    if (t->integers) {
        t->pack_right_i8(panel, (const int8_t *)w->data + at, w->cols, n, k);
    } else if (w->dtype == INK_BF16 && t->pack_right_bf16) {
        t->pack_right_bf16(panel, (const uint16_t *)w->data + at, w->cols, n, k);
    } else if (w->dtype == INK_F32) {
        t->pack_right_f32(panel, (const float *)w->data + at, w->cols, n, k);
    } else if (t->element_bytes == 2) {
        uint16_t rows[INK_MAX_TILE_COLS * PIECE_INNER];
        for (int64_t i = 0; i < n; i++) {
            expect_weights(w, row + t->tile_cols + i, col, k);
            decode_bf16(p->kernels, rows + i * k, w, row + i, col, k);
        }
        t->pack_right_bf16(panel, rows, k, n, k);
    } else {
        float rows[INK_MAX_TILE_COLS * PIECE_INNER];
        for (int64_t i = 0; i < n; i++) ink_weight_decode(rows + i * k, w, row + i, col, k);
        t->pack_right_f32(panel, rows, k, n, k);
    }
}

/* Packs the chunk [k0, k1) of the panels for n_cols outputs from col0 on: panel after panel of tile_cols. */
static void pack_group(const product *p, const section *s, unsigned char *right, int64_t col0, int64_t n_cols, int64_t k0,
                       int64_t k1) {
    const ink_cpu_product *t = s->tiles;
    for (int64_t tap = s->first; tap < s->end; tap++) {
        stretch at = stretch_at(p, s, 0, tap);
        int64_t first = k0 > at.at ? k0 : at.at, end = ink_cpu_min(k1, at.at + at.k);
        for (int64_t k = first; k < end; k += PIECE_INNER)
            for (int64_t col = 0; col < n_cols; col += t->tile_cols)
                pack_right(p, t, right + (col * (k1 - k0) + (k - k0) * t->tile_cols) * t->element_bytes, at.w, col0 + col,
                           ink_cpu_min(t->tile_cols, n_cols - col), at.col + k - at.at, ink_cpu_min(PIECE_INNER, end - k));
    }
}

/* ---- the product ----------------------------------------------------------------------------------------------------------- */

static void store_rows(const product *p, const float *sums, int64_t row, int64_t n, int64_t col, int64_t n_cols) {
    for (int64_t i = 0; i < n; i++)
        p->kernels->epilogue(ink_row(p->dst, row + i) + col, sums + i * p->group_cols, p->bias ? p->bias + col : NULL, p->act,
                             p->gate ? p->gate + col : NULL, p->add ? ink_row(*p->add, row + i) + col : NULL, n_cols);
}

/* Asks for the memory of n rows of the result, columns col to col + n_cols, before it is written. */
static void expect_rows(const product *p, int64_t row, int64_t n, int64_t col, int64_t n_cols) {
    enum { LINE_FLOATS = 16 };
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < n_cols; j += LINE_FLOATS) __builtin_prefetch(ink_row(p->dst, row + i) + col + j, 1);
}

/*
 * sums [tile_rows, n_cols], = or +=, a left panel times the chunk of k that `right` holds. In pieces of k that leave the left
 * panel's in the first-level cache for all columns.
 */
static void multiply_panel(const ink_cpu_product *t, float *sums, const unsigned char *left, const unsigned char *ahead,
                           const unsigned char *right, int64_t n_cols, int64_t k, bool add) {
    const int64_t step = t->tile_rows * t->element_bytes;
    for (int64_t at = 0; at < k; at += t->k_near) {
        int64_t n = ink_cpu_min(t->k_near, k - at);
        for (int64_t col = 0, quarter = 0; col < n_cols; col += t->tile_cols, quarter++)
            t->multiply(sums + col, t->group_cols, left + at * step, right + (col * k + at * t->tile_cols) * t->element_bytes, n,
                        add || at > 0, ahead && quarter < 4 ? ahead + at * step + quarter * (n * step / 4) : NULL);
    }
}

/* What is left to do when all of a panel of rows is summed. */
static void scale_rows(const product *p, const section *s, float *sums, int64_t panel, int64_t n, const float *of_cols,
                       int64_t n_cols) {
    const row_scale *scales = p->row_scales + panel * p->tile_rows;
    for (int64_t i = 0; i < n; i++) {
        float *row = sums + i * p->group_cols;
        if (s->tiles->integers)
            p->kernels->scale_sums(row, of_cols, scales[i].scale, scales[i].offset, n_cols);
        else if (scales[i].scale != 1)
            p->kernels->scale(row, scales[i].scale, n_cols);
    }
}

/* How much of a section's inner dimension is taken at once. */
static int64_t chunk_of(const section *s) {
    int64_t n_chunks = (s->inner + s->tiles->k_chunk - 1) / s->tiles->k_chunk;
    return ink_cpu_round_up((s->inner + n_chunks - 1) / n_chunks, PIECE_INNER);
}

/* The chunk [k0, k1) of a section for a group of columns and the panels first .. end. Sums of one panel lie over those of the
   one before where nothing is added to them later. */
static void multiply_chunk(const product *p, const section *s, int64_t k0, int64_t k1, int64_t col0, int64_t first, int64_t end,
                           unsigned char *workspace, const float *of_cols) {
    const ink_cpu_product *t = s->tiles;
    unsigned char *right = workspace + SUMS_BYTES;
    int64_t n_cols = ink_cpu_min(t->group_cols, p->dst.cols - col0), tile_step = t->tile_rows * t->element_bytes;
    bool starts = s == p->sections && k0 == 0, complete = k1 == s->inner;
    bool stores = complete && s == p->sections + p->n_sections - 1;
    pack_group(p, s, right, col0, n_cols, k0, k1);
    for (int64_t i = first; i < end; i++) {
        const unsigned char *left = left_panel(p, s, i) + k0 * tile_step;
        const unsigned char *ahead = i + 1 < end ? left_panel(p, s, i + 1) + k0 * tile_step : NULL;
        float *sums = (float *)(void *)workspace + (starts && stores ? 0 : (i - first) * t->tile_rows * t->group_cols);
        int64_t row = p->row0 + i * t->tile_rows, n = ink_cpu_min(t->tile_rows, p->n_rows - i * t->tile_rows);
        if (stores) expect_rows(p, row, n, col0, n_cols);
        for (int64_t part = 0; part < s->n_parts; part++)
            multiply_panel(t, sums, left + part * s->inner * tile_step, ahead, right, n_cols, k1 - k0, !starts || part > 0);
        if (complete && (t->integers || in_parts(p, s))) scale_rows(p, s, sums, i, n, of_cols, n_cols);
        if (stores) store_rows(p, sums, row, n, col0, n_cols);
    }
}

/* A group of columns, for a part of the block's rows. */
static void group_task(void *context, int64_t task, int64_t worker) {
    const product *p = context;
    int64_t n_panels = (p->n_rows + p->tile_rows - 1) / p->tile_rows, split = task / p->n_groups;
    int64_t first = n_panels * split / p->n_splits, end = n_panels * (split + 1) / p->n_splits;
    int64_t col0 = task % p->n_groups * p->group_cols;
    float of_cols[INK_MAX_GROUP_COLS];
    for (int64_t i = 0; p->sections->tiles->integers && i < p->group_cols && col0 + i < p->dst.cols; i++)
        of_cols[i] = ink_weight_row_scale(p->w, col0 + i);
    for (const section *s = p->sections; s < p->sections + p->n_sections; s++) {
        if (s->tiles->begin) s->tiles->begin();
        for (int64_t k0 = 0, chunk = chunk_of(s); k0 < s->inner; k0 += chunk)
            multiply_chunk(p, s, k0, ink_cpu_min(s->inner, k0 + chunk), col0, first, end, ink_threads_workspace(p->threads, worker),
                           of_cols);
        if (s->tiles->end) s->tiles->end();
    }
}

static void add_section(product *p, const ink_cpu_product *tiles, int64_t n_parts, int64_t first, int64_t end) {
    section *s = &p->sections[p->n_sections++];
    *s = (section){.tiles = tiles, .first = first, .end = end, .n_parts = n_parts, .at_bytes = p->panel_bytes};
    for (int64_t tap = first; tap < end; tap++)
        s->inner += ink_cpu_round_up(tap < p->n_taps ? p->x.cols : p->low->cols, tiles->k_unit);
    p->panel_bytes += ink_cpu_round_up(tiles->tile_rows * n_parts * s->inner * tiles->element_bytes, 64);
    p->tile_rows = tiles->tile_rows;
    p->group_cols = tiles->group_cols;
}

/* Few columns of a tap, padded to whole steps, would cost more in parts than is gained. */
static const ink_cpu_product *numbers_of(const product *p) {
    const ink_cpu_product *numbers = ink_cpu_numbers(p->kernels, p->w->dtype);
    return numbers == p->kernels->f32_parts && 2 * p->x.cols < numbers->k_unit ? p->kernels->f32 : numbers;
}

/* How many rows, in whole tiles, there is room for: fewer where a number takes more than its 4 bytes. The row scales fit in what is
   there for padding. */
static int64_t packed_rows(const product *p, const ink_cpu_product *numbers) {
    const int64_t size = sizeof(float);
    int64_t rows = ink_packed_rows(p->dst.rows, p->n_taps);
    if (numbers->element_bytes > size) rows = rows * size / numbers->element_bytes / numbers->tile_rows * numbers->tile_rows;
    return rows;
}

static void run(const ink_device *d, product *p) {
    p->kernels = ink_cpu_kernels_of(d);
    p->threads = d->threads;
    const ink_cpu_product *numbers = numbers_of(p);
    bool integers = ink_weight_takes_integers(p->w, p->may_round);
    int64_t n_parts = numbers->element_bytes == 2 && !p->may_round ? 2 : 1, n_stretches = p->n_taps + (p->low != NULL);
    if (integers) add_section(p, p->kernels->i8, 1, 0, p->n_taps);
    if (!integers || p->low) add_section(p, numbers, n_parts, integers ? p->n_taps : 0, n_stretches);
    p->n_groups = (p->dst.cols + p->group_cols - 1) / p->group_cols;
    /* Few columns are not enough tasks: then each is one for a part of the rows, and packs its weights again. */
    int64_t most = packed_rows(p, numbers), n_blocks = (p->dst.rows + most - 1) / most;
    int64_t n_threads = ink_threads_count(d->threads);
    int64_t block = ink_cpu_round_up((p->dst.rows + n_blocks - 1) / n_blocks, p->tile_rows);
    if (integers || in_parts(p, p->sections))
        p->row_scales = (row_scale *)(void *)(p->packed + block / p->tile_rows * p->panel_bytes);
    for (p->row0 = 0; p->row0 < p->dst.rows; p->row0 += block) {
        p->n_rows = ink_cpu_min(block, p->dst.rows - p->row0);
        int64_t n_panels = (p->n_rows + p->tile_rows - 1) / p->tile_rows;
        p->n_splits = 1;
        while (p->n_splits < n_panels && p->n_groups * p->n_splits % n_threads != 0 && p->n_groups * p->n_splits < 4 * n_threads)
            p->n_splits++;
        ink_threads_run(d->threads, n_panels, pack_left_task, p);
        ink_threads_run(d->threads, p->n_groups * p->n_splits, group_task, p);
    }
}

void ink_cpu_linear(const ink_device *d, ink_tensor dst, ink_tensor x, const ink_weight *w, ink_linear_epilogue e) {
    product p = {.dst = dst, .x = x, .w = w, .low = e.low, .n_taps = 1, .may_round = e.may_round, .packed = e.packed};
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
    product p = {.dst = dst, .x = x, .w = w, .bias = bias.data, .add = residual, .conv = &shape, .may_round = true};
    p.packed = shape.packed;
    p.out_width = ink_conv_out_width(shape);
    p.n_taps = shape.kernel * shape.kernel;
    run(d, &p);
}
