/*
 * cuda_hopper.h - products of bf16 by bf16 to bf16 on GPUs of compute capability 9.0, by kernels of our own.
 */
#ifndef INK_OPS_CUDA_CUDA_HOPPER_H
#define INK_OPS_CUDA_CUDA_HOPPER_H

#include "ops/cuda/cuda_state.h"

/* Numbers of either type, or NULL. */
struct ink_cuda_vector {
    const void *data;
    bool rounded; /* bf16, else f32 */
};

/* What is done to a product and its bias before they are rounded and stored. */
enum ink_cuda_follow { INK_CUDA_BIAS, INK_CUDA_GELU, INK_CUDA_HEADS };

/*
 * The first `cols` columns are heads of 128 of queries, as many after them of keys, the rest is left alone: rmsnorm with q or k
 * [128], then turned by cos, sin [rows, 64], rows `stride` apart, in adjacent pairs.
 */
struct ink_cuda_heads {
    int cols;
    ink_cuda_vector q, k;
    const float *cos, *sin;
    int64_t stride;
    float eps;
};

struct ink_cuda_hopper_end {
    ink_cuda_vector bias; /* [dst.cols] */
    ink_cuda_heads heads; /* of INK_CUDA_HEADS */
};

/* Whether dst [n, out] = f(x [n, in] w [out, in]^T) can be done so; w is bf16, its rows next to each other. */
bool ink_cuda_hopper_suits(const ink_cuda *c, ink_tensor dst, ink_tensor x, const void *w, const ink_cuda_hopper_end &end);

void ink_cuda_hopper_linear(ink_cuda *c, ink_tensor dst, ink_tensor x, const void *w, ink_cuda_follow follow,
                            const ink_cuda_hopper_end &end);

#endif
