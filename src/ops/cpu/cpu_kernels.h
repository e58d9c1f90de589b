/*
 * cpu_kernels.h - the inner loops of the CPU tiers: what is compiled once for each instruction set (cpu_kernels_c.c,
 * cpu_kernels_avx2.c, ...) from one template. Threading, packing and tiling are above them, in cpu_*.c, and shared.
 *
 * Rows are contiguous. n, k >= 1. Sources may be dst unless they are `restrict` in the template's matrix kernels.
 */
#ifndef INK_OPS_CPU_KERNELS_H
#define INK_OPS_CPU_KERNELS_H

#include <stdbool.h>
#include <stdint.h>

/* The largest tile, and the most group_cols, of any product: sizes of scratch arrays. */
enum { INK_MAX_TILE_ROWS = 32, INK_MAX_TILE_COLS = 32, INK_MAX_GROUP_COLS = 192 };

/* 2^r = 1 + EXP2_1 r + ... + EXP2_6 r^6 for |r| <= 1/2, to 2e-9 of it: a minimax fit of our own. */
#define EXP2_1 0.69314718f
#define EXP2_2 0.24022648f
#define EXP2_3 0.055503324f
#define EXP2_4 0.0096184369f
#define EXP2_5 0.0013398875f
#define EXP2_6 0.00015353362f

typedef enum ink_cpu_activation { INK_CPU_ACT_NONE, INK_CPU_ACT_GELU_TANH, INK_CPU_ACT_SILU } ink_cpu_activation;

/*
 * A product of matrices, tile by tile, of operands that were packed into panels before: of left rows [tile_rows, k], of right rows
 * [tile_cols, k]. Panels hold k in steps of k_unit, each step complete before the next, so a panel can be cut between steps; the
 * rest of the last step, and rows that are not there, are zeros. They are aligned to 64 bytes. Sums are f32, or, of integers, int32
 * and exact.
 */
typedef struct ink_cpu_product {
    int64_t tile_rows, tile_cols, k_unit;
    int64_t element_bytes; /* 4: f32; 6: f32 in three parts of bf16; 2: operands are rounded to bf16; of integers what they take in
                              the panels */
    int64_t group_cols;    /* right rows that are taken together, a multiple of tile_cols; alike where two products meet in an op */
    int64_t k_chunk;       /* how much of k, for that many, stays in the second-level cache; a multiple of 512 */
    int64_t k_near;        /* how much of a left panel stays in the first-level cache; a multiple of k_unit */
    bool integers;         /* of 8 bits: left rows -127 to 127, right ones -128 to 127 */
    int32_t right_offset;  /* of integers: added to each number of right rows, so sums exceed the products' by that much times the
                              sum of the left row */
    void (*begin)(void);   /* before and after the calls of multiply in a task; may be NULL */
    void (*end)(void);
    /* Of integers only: k of each of tile_rows rows, and of n <= tile_cols rows. */
    void (*pack_left_i8)(void *panel, const int8_t *rows, int64_t stride, int64_t k);
    void (*pack_right_i8)(void *panel, const int8_t *w, int64_t stride, int64_t n, int64_t k);
    /* Of others only. Packs k numbers of tile_rows rows; NULL: a row of zeros. */
    void (*pack_left)(void *panel, const float *const *rows, int64_t k);
    /* As softmax_block (below) of the first `seen` of n scores, but packs the weights as a row of a left panel, zeros for the
       others. NULL: they are packed by pack_left. */
    float (*pack_weights)(void *panel, int64_t row, const float *scores, int64_t seen, int64_t n, float scale, float *max);
    /* Packs k numbers of n <= tile_cols rows. pack_right_bf16 NULL: they are widened, and packed as f32. */
    void (*pack_right_f32)(void *panel, const float *w, int64_t stride, int64_t n, int64_t k);
    void (*pack_right_bf16)(void *panel, const uint16_t *w, int64_t stride, int64_t n, int64_t k);
    /* The same of a transposed matrix: k rows, of which n <= tile_cols columns. For attention alone. */
    void (*pack_right_columns)(void *panel, const float *const *rows, int64_t n, int64_t k);
    /* c [tile_rows, tile_cols], aligned to 64 bytes, = or += left right. ahead: k * tile_rows * element_bytes / 4 bytes that will
       be wanted soon, or NULL. */
    void (*multiply)(void *c, int64_t stride, const void *left, const void *right, int64_t k, bool add, const void *ahead);
} ink_cpu_product;

typedef struct ink_cpu_kernels {
    const ink_cpu_product *f32;
    /* Of f32 numbers in parts, as exact as sums in f32 are, but numbers and sums below 2^-126 count as zero, and infinite numbers
       as NaN. NULL: the tier has none. */
    const ink_cpu_product *f32_parts;
    const ink_cpu_product *bf16; /* NULL: the tier multiplies in f32 only */
    const ink_cpu_product *i8;   /* of integers; its tile is that of bf16, or else of f32 */

    /* The largest magnitude among n numbers, as the bits of an f32; that of a NaN is above those of numbers. */
    uint32_t (*largest_bits)(const float *x, int64_t n);
    /* dst = x * factor, to the nearest integer, ties to even; |x * factor| <= 127. Returns their sum. */
    int32_t (*round_i8)(int8_t *dst, const float *x, float factor, int64_t n);
    /* In place, int32 to f32: (sum - offset) * of_cols[i] * of_row, in this order. */
    void (*scale_sums)(void *sums, const float *of_cols, float of_row, int32_t offset, int64_t n);

    /* Decode n numbers to bf16, where weights have a form of their own for it. n is a multiple of 32. NULL: there is no fast way.
     */
    void (*decode_affine)(uint16_t *dst, const unsigned char *q, bool nibbles, float scale, float bias, int64_t n);
    void (*decode_f8_e4m3)(uint16_t *dst, const unsigned char *q, float scale, int64_t n);
    void (*decode_i8)(uint16_t *dst, const int8_t *q, float scale, int64_t n);

    /* dst = act(v + bias) * gate + add; bias, gate and add may be NULL */
    void (*epilogue)(float *dst, const float *v, const float *bias, ink_cpu_activation act, const float *gate, const float *add,
                     int64_t n);

    void (*layernorm_modulate)(float *dst, const float *x, const float *scale, const float *shift, int64_t n, float eps);
    /* dst = x + gate * y; gate may be NULL: 1 */
    void (*gated_add)(float *dst, const float *x, const float *gate, const float *y, int64_t n);
    void (*rmsnorm)(float *dst, const float *x, const float *w, int64_t n, float eps);
    void (*rmsnorm_channels)(float *dst, const float *x, const float *gamma, int64_t n, bool silu);
    void (*rope_pairs)(float *x, const float *cos, const float *sin, int64_t n_pairs);
    void (*rope_half)(float *x, const float *cos, const float *sin, int64_t n_pairs);
    void (*silu_mul)(float *dst, const float *a, const float *b, int64_t n);

    /* One block of an online softmax: x = 2^(x * scale - max'), max' = max(*max, max of x * scale); *max = max';
       returns the sum of the new x. scale > 0. */
    float (*softmax_block)(float *x, int64_t n, float scale, float *max);
    void (*scale)(float *x, float factor, int64_t n);
} ink_cpu_kernels;

extern const ink_cpu_kernels ink_cpu_kernels_c;
extern const ink_cpu_kernels ink_cpu_kernels_avx2;
extern const ink_cpu_kernels ink_cpu_kernels_avx512;
extern const ink_cpu_kernels ink_cpu_kernels_avx512_vnni;
extern const ink_cpu_kernels ink_cpu_kernels_avx512_bf16;
extern const ink_cpu_kernels ink_cpu_kernels_amx;
extern const ink_cpu_kernels ink_cpu_kernels_neon;
extern const ink_cpu_kernels ink_cpu_kernels_neon_bf16;

#endif
