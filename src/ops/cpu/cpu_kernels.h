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

/* The largest tile of any tier: sizes of scratch arrays. */
enum { INK_MAX_TILE_ROWS = 8, INK_MAX_TILE_COLS = 32 };

typedef enum ink_cpu_activation { INK_CPU_ACT_NONE, INK_CPU_ACT_GELU_TANH, INK_CPU_ACT_SILU } ink_cpu_activation;

/* A product in bf16: both sides are packed, tiles are those of the f32 product. Panels are aligned to 64 bytes. */
typedef struct ink_cpu_matmul_bf16 {
    int64_t k_unit; /* panels are padded to a multiple of it, with zeros */
    /* Packs k numbers of tile_rows rows, rounded to bf16. */
    void (*pack_left)(void *panel, const float *const *rows, int64_t k);
    /* Packs k numbers of n <= tile_cols rows of W, missing rows as zeros. */
    void (*pack_right)(void *panel, const uint16_t *w, int64_t stride, int64_t n, int64_t k);
    /* c [tile_rows, tile_cols] += left right */
    void (*multiply)(float *c, const void *left, const void *right, int64_t k);
} ink_cpu_matmul_bf16;

typedef struct ink_cpu_kernels {
    int64_t tile_rows, tile_cols;
    const ink_cpu_matmul_bf16 *bf16; /* how to multiply with weights in bf16; NULL: as in f32 */

    /* c [tile_rows, tile_cols] += A B;  row i of A is a[i] [k], B is packed [k, tile_cols]; c and B aligned to 32 bytes or
       the tier's vectors if they are longer */
    void (*matmul_tile)(float *c, const float *const *a, const float *b, int64_t k);

    /* Packs k columns of n <= tile_cols rows of W (transposed) to [k, tile_cols], missing rows as zeros. */
    void (*pack_f32)(float *b, const float *w, int64_t stride, int64_t n, int64_t k);
    void (*pack_bf16)(float *b, const uint16_t *w, int64_t stride, int64_t n, int64_t k);
    /* Packs k rows of n <= tile_cols columns (as they are) to [k, tile_cols], missing columns as zeros. */
    void (*pack_rows)(float *b, const float *x, int64_t stride, int64_t n, int64_t k);

    /* dst = act(v + bias) * gate + add; bias, gate and add may be NULL */
    void (*epilogue)(float *dst, const float *v, const float *bias, ink_cpu_activation act, const float *gate, const float *add,
                     int64_t n);

    void (*layernorm_modulate)(float *dst, const float *x, const float *scale, const float *shift, int64_t n, float eps);
    void (*gated_add)(float *x, const float *gate, const float *y, int64_t n); /* x += gate * y; gate may be NULL: 1 */
    void (*rmsnorm)(float *dst, const float *x, const float *w, int64_t n, float eps);
    void (*rmsnorm_channels)(float *dst, const float *x, const float *gamma, int64_t n, bool silu);
    void (*rope_pairs)(float *x, const float *cos, const float *sin, int64_t n_pairs);
    void (*rope_half)(float *x, const float *cos, const float *sin, int64_t n_pairs);
    void (*silu_mul)(float *dst, const float *a, const float *b, int64_t n);

    /* One block of an online softmax: x = exp(x * scale - max'), max' = max(*max, max of x * scale); *max = max';
       returns the sum of the new x. */
    float (*softmax_block)(float *x, int64_t n, float scale, float *max);
    void (*scale)(float *x, float factor, int64_t n);
} ink_cpu_kernels;

extern const ink_cpu_kernels ink_cpu_kernels_c;
extern const ink_cpu_kernels ink_cpu_kernels_avx2;
extern const ink_cpu_kernels ink_cpu_kernels_neon;
extern const ink_cpu_kernels ink_cpu_kernels_neon_bf16;

#endif
